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

impl Why {
    /// The one of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|why| why.name() == name)
    }

    /// What whoever looks after the broker does next.
    pub fn next_step(self) -> &'static str {
        match self {
            Self::Credentials => {
                "the client presents one thing: a user name and its password, or a token, as the password or in AUTH"
            }
            Self::NoCredentials => {
                "give the client a password or a token, or say in spec.auth.anonymous what may be done without"
            }
            Self::Method => "the client names the method JWT, or sends its token as the password",
            Self::ReservedName => "give the client another name: those that begin with `system:` are the broker's own",
            Self::UnknownUser => "`mqttctl user list` says who there is",
            Self::WrongPassword => "`mqttctl user passwd NAME` sets another password",
            Self::TokenInvalid => "`mqttctl token inspect TOKEN` takes the token apart",
            Self::TokenKey => {
                "`mqttctl keys list` says which keys there are; a key that is gone takes its tokens with it, so issue a new \
                 one"
            }
            Self::TokenSignature => "it was changed, or signed by somebody else: issue a new one",
            Self::TokenClaims => {
                "`mqttctl token inspect TOKEN` shows what it says; whoever issues it writes it otherwise"
            }
            Self::TokenExpired => "give the client a new token: `mqttctl token issue --sub NAME`",
            Self::TokenNotYetValid => "compare the clocks of whoever issued it and of this broker",
            Self::TokenRevoked => "give the client a new token: those that are issued from now on are accepted",
            Self::TokenIssuer => "the broker's log says why the keys of its issuer cannot be fetched",
            Self::TokenBinding => {
                "the client connects with the client id and user name that `mqttctl token inspect TOKEN` shows"
            }
            Self::Identity => "the client authenticates again as who it is, or connects anew",
            Self::ClientIdTaken => "`mqttctl session show ID` says whose it is; give the client another client id",
            Self::Will => "`mqttctl authz explain` with `will TOPIC` says what it takes",
            Self::Banned => "correct the client's password; a ban ends by itself, see spec.auth.guard",
            Self::Limit => "the reason is a field of spec.limits; docs/limits.md says what it counts",
            Self::Busy => "nothing: clients try again by themselves",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Why;

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Why::ALL.iter().map(|why| why.name()).collect();
        assert_eq!(names.len(), Why::ALL.len());
        assert!(Why::ALL.iter().all(|why| Why::of(why.name()) == Some(*why) && why.next_step().len() > 10));
    }
}
