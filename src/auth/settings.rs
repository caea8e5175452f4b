//! What the policy of a broker is made from, as it stands in the broker's configuration.

use serde::{Deserialize, Serialize};

use super::rule::Rule;

/// Who may connect and what they may do. Keys and password hashes are in documents of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    pub jwt: Jwt,
    #[serde(default)]
    pub users: Vec<User>,
    #[serde(default)]
    pub groups: Vec<Group>,
    /// Before everything else, for everybody but `system:bridge`.
    #[serde(default)]
    pub deny: Vec<Rule>,
    /// Absent means nobody without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<Anonymous>,
}

/// What is asked of a token of this broker's own issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Jwt {
    pub issuer: String,
    pub audience: String,
    /// Seconds; a token that lives longer is refused.
    pub max_token_ttl: u64,
    /// A token without a `client_id` claim may connect only with its subject as client id.
    #[serde(default)]
    pub bind_client_id: bool,
    /// The claim that carries the rules.
    pub acl_claim: String,
}

/// A user; the hash of the password is in a document of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub name: String,
    #[serde(default)]
    pub groups: Vec<String>,
    #[serde(default)]
    pub acl: Vec<Rule>,
}

/// A named list of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    pub name: String,
    pub acl: Vec<Rule>,
}

/// What a client without credentials may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Anonymous {
    pub acl: Vec<Rule>,
}
