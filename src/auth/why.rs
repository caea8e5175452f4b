//! Why a client is not let in, as one of a closed set: a label of metrics, and a field of the log.

macro_rules! whys {
    ($($(#[$doc:meta])* $why:ident $name:literal,)*) => {
        /// Why a client is not let in. The whole reason is in [`super::Refusal::log`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum Why { $($(#[$doc])* $why,)* }

        impl Why {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$why,)*];

            /// As a label.
            pub fn name(self) -> &'static str {
                match self { $(Self::$why => $name,)* }
            }
        }
    };
}

whys! {
    /// What is presented is incomplete, contradicts itself, or may not be presented here.
    #[default]
    Credentials "credentials",
    /// Nothing was presented, and anonymous clients are not allowed.
    NoCredentials "no_credentials",
    /// The authentication method of MQTT 5 is unknown.
    Method "method",
    /// The name begins with `system:`.
    ReservedName "reserved_name",
    UnknownUser "unknown_user",
    WrongPassword "wrong_password",
    /// The token cannot be read, or its signature cannot be verified.
    TokenInvalid "token_invalid",
    /// The key that the token names is not loaded.
    TokenKey "token_key",
    TokenSignature "token_signature",
    /// The signature is right, and a claim is not what it must be.
    TokenClaims "token_claims",
    TokenExpired "token_expired",
    TokenNotYetValid "token_not_yet_valid",
    TokenRevoked "token_revoked",
    /// The token's issuer cannot be verified now.
    TokenIssuer "token_issuer",
    /// The user name or client id is not one that the token is for.
    TokenBinding "token_binding",
    /// Re-authentication as somebody else.
    Identity "identity",
    /// The client id belongs to another principal.
    ClientIdTaken "client_id_taken",
    /// No rule allows the will.
    Will "will",
    /// Too many attempts failed.
    Banned "banned",
    /// A limit is reached.
    Limit "limit",
    /// Too many passwords wait to be checked, or the broker stops.
    Busy "busy",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Why;

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Why::ALL.iter().map(|why| why.name()).collect();
        assert_eq!(names.len(), Why::ALL.len());
    }
}
