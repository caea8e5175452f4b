//! What a client presents, and who it turns out to be.

use std::sync::Arc;

use super::grants::Statement;
use super::password::PasswordCheck;
use super::template::ClaimValues;
use super::token;
use super::why::Why;
use crate::mqtt::ReasonCode;

/// The user name of the bridge, on its own listener. Names that begin with `system:` are refused everywhere else.
pub const BRIDGE_USER: &str = "system:bridge";

/// Whether a name is kept for parts of the broker itself.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with("system:")
}

/// What a CONNECT presents.
#[derive(Clone, Copy, Default)]
pub struct Presented<'a> {
    pub username: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    /// The Authentication Method of MQTT 5.
    pub method: Option<&'a str>,
    /// The Authentication Data of MQTT 5.
    pub data: Option<&'a [u8]>,
    /// The token of the HTTP request that a WebSocket began with.
    pub bearer: Option<&'a [u8]>,
    pub client_id: &'a str,
    /// The connection came through the bridge's listener.
    pub internal: bool,
    /// The client has shown a certificate, which was verified.
    pub certificate: bool,
}

impl Presented<'_> {
    /// What is tried, for logs and metrics, as [`Identity::method`] says of what was accepted.
    pub fn kind(&self) -> &'static str {
        match (self.internal, self.method, self.password) {
            (true, _, _) => "bridge",
            (false, Some(_), _) => "jwt",
            (false, None, Some(password)) if token::looks_like_token(password) => "jwt",
            (false, None, Some(_)) => "password",
            (false, None, None) if self.bearer.is_some() => "jwt",
            (false, None, None) if self.username.is_some() => "password",
            (false, None, None) => "none",
        }
    }
}

impl std::fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presented")
            .field("username", &self.username)
            .field("client_id", &self.client_id)
            .field("internal", &self.internal)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// What [`super::Policy::authenticate`] finds.
#[derive(Debug)]
pub enum Verdict {
    Accepted(Identity),
    Refused(Refusal),
    /// The password must be hashed, which takes long: on a thread that may block, not on one that serves connections.
    CheckPassword(PasswordCheck),
    /// The token names a key of this issuer that is not loaded. Its keys may have changed: who can, fetches them and asks
    /// again; for everybody else this is a refusal.
    UnknownKey {
        issuer: String,
        refusal: Refusal,
    },
}

/// Who a session belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A user, or the subject of a token of this broker's own issuer: one name space, so that a device may move from a
    /// password to a token and keep its session.
    User(String),
    /// The subject of a token of another issuer.
    Foreign { issuer: String, subject: String },
    /// A client that presented nothing.
    Anonymous,
    /// The bridge.
    Bridge,
}

impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Foreign { issuer, subject } => write!(f, "{issuer}#{subject}"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::Bridge => f.write_str(BRIDGE_USER),
        }
    }
}

/// An authenticated client.
#[derive(Clone, Debug)]
pub struct Identity {
    pub principal: Principal,
    /// Unix time in seconds after which the connection ends.
    pub expires_at: Option<u64>,
    pub(super) credential: Credential,
}

/// What the client was accepted with.
#[derive(Clone, Debug)]
pub(super) enum Credential {
    Nothing,
    /// The digest of the hash that the password was compared with: another one means another password.
    Password(Arc<str>),
    Bridge,
    Token(Arc<TokenCredential>),
}

impl Credential {
    pub fn is_bridge(&self) -> bool {
        matches!(self, Self::Bridge)
    }
}

/// What of a token still matters once it is verified.
#[derive(Debug)]
pub(super) struct TokenCredential {
    /// Of another issuer; absent means this broker's own.
    pub issuer: Option<Arc<str>>,
    /// Empty if the only key of another issuer has none.
    pub kid: String,
    pub subject: String,
    pub jti: Option<String>,
    /// Unix time in seconds.
    pub issued_at: u64,
    pub username: Option<String>,
    /// Empty means any.
    pub client_ids: Vec<String>,
    pub groups: Vec<String>,
    pub rules: Vec<Statement>,
    pub claims: ClaimValues,
}

impl Identity {
    pub(super) fn new(principal: Principal, credential: Credential) -> Self {
        Self { principal, expires_at: None, credential }
    }

    /// A client that has presented nothing.
    pub fn anonymous() -> Self {
        Self::new(Principal::Anonymous, Credential::Nothing)
    }

    /// The bridge, before it has come.
    pub fn bridge() -> Self {
        Self::new(Principal::Bridge, Credential::Bridge)
    }

    /// A user, whose password was not asked: for telling what it may do, not for letting it in.
    pub fn of_user(name: &str) -> Self {
        Self::new(Principal::User(name.to_owned()), Credential::Password("".into()))
    }

    /// Whether the client id is this client's by name: its user name, its subject, or in its token's `client_id`. When
    /// two principals want one client id, the one that it belongs to wins.
    pub fn owns_client_id(&self, client_id: &str) -> bool {
        match (&self.principal, &self.credential) {
            (_, Credential::Token(token)) => {
                token.subject == client_id
                    || token.username.as_deref() == Some(client_id)
                    || token.client_ids.iter().any(|id| id == client_id)
            }
            (Principal::User(name), _) => name == client_id,
            (Principal::Bridge, _) => client_id == BRIDGE_USER,
            _ => false,
        }
    }

    /// The key that the client's token was verified with.
    pub fn key_id(&self) -> Option<&str> {
        match &self.credential {
            Credential::Token(token) => Some(&token.kid),
            _ => None,
        }
    }

    /// How the client was authenticated, for logs and metrics: `jwt`, `password`, `bridge` or `none`.
    pub fn method(&self) -> &'static str {
        match self.credential {
            Credential::Token(_) => "jwt",
            Credential::Password(_) => "password",
            Credential::Bridge => "bridge",
            Credential::Nothing => "none",
        }
    }
}

/// Why a client may not connect, and what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason code of an MQTT 5 CONNACK.
    pub code: ReasonCode,
    /// The return code of a 3.x CONNACK.
    pub return_code: u8,
    /// The reason as one of a closed set.
    pub why: Why,
    /// The whole reason, for the log; never a secret.
    pub log: String,
    /// The Reason String; only about a token whose signature is right.
    pub public: Option<String>,
}

impl Refusal {
    /// A wrong or missing credential: the client does not learn which.
    pub(super) fn bad(log: impl Into<String>) -> Self {
        Self::new(ReasonCode::BAD_USER_NAME_OR_PASSWORD, 4, log)
    }

    /// Any refusal; the client is not told why.
    pub fn new(code: ReasonCode, return_code: u8, log: impl Into<String>) -> Self {
        Self { code, return_code, why: Why::default(), log: log.into(), public: None }
    }

    /// For a reason of the closed set.
    #[must_use]
    pub fn because(self, why: Why) -> Self {
        Self { why, ..self }
    }
}
