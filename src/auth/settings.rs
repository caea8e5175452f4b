//! What the policy of a broker is made from, as it stands in the broker's configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::key::Algorithm;
use super::rule::Rule;

/// Who may connect and what they may do. Keys and password hashes are in documents of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    pub jwt: Jwt,
    /// Other issuers whose tokens are accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<Issuer>,
    /// Where key sets that were fetched are kept over a restart; absent means nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuers_cache: Option<PathBuf>,
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
    /// What is done about wrong passwords.
    #[serde(default)]
    pub guard: Guard,
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

/// An issuer of tokens beside this broker's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Issuer {
    /// What `iss` must be, to the letter. Empty with [`IssuerKeys::Cluster`]: then the document with the keys says it.
    pub issuer: String,
    /// One of these must be in `aud`; an empty list asks nothing of it.
    #[serde(default)]
    pub audiences: Vec<String>,
    pub keys: IssuerKeys,
    /// Keys of other algorithms are passed over.
    pub algorithms: Vec<Algorithm>,
    /// The claim that carries the rules; empty means that a token has none.
    #[serde(default)]
    pub acl_claim: String,
    /// Seconds; a token that lives longer is refused.
    pub max_token_ttl: u64,
    #[serde(default)]
    pub mapping: Mapping,
    /// Groups that all tokens of this issuer are in, after those that a token names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// Where the keys of an issuer come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IssuerKeys {
    /// A JWK Set that the broker fetches.
    #[serde(rename_all = "camelCase")]
    Url {
        url: String,
        /// Whether addresses that are not public may be asked, and then without TLS too.
        #[serde(default)]
        allow_private: bool,
        /// Whether the server is verified with authorities among the broker's documents, and not with the system's.
        #[serde(default)]
        own_authorities: bool,
    },
    /// A JWK Set among the broker's documents.
    Document,
    /// That of the cluster's own tokens, with its issuer, among the broker's documents.
    Cluster,
}

/// Which claims say who a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mapping {
    /// A claim by its name, or, with a `/` in front, by its JSON Pointer; empty means none.
    #[serde(rename_all = "camelCase")]
    Claims { subject: String, username: String, client_id: String, groups: String },
    /// Devices of a system whose groups have a shared secret each, see `docs/issuers.md`.
    Authx,
    /// ServiceAccounts of Kubernetes.
    ServiceAccount,
}

impl Default for Mapping {
    /// The claims of this broker's own tokens.
    fn default() -> Self {
        Self::Claims {
            subject: "sub".to_owned(),
            username: "username".to_owned(),
            client_id: "client_id".to_owned(),
            groups: "groups".to_owned(),
        }
    }
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

/// What is done about wrong passwords.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Guard {
    /// Wrong passwords for one user from one network, within so many seconds, that bring no ban yet; 0 is no guard.
    pub failures: u32,
    pub within: u32,
    /// Seconds of a ban.
    pub ban: u32,
    /// Whether clients come with an address that is not their own, because a load balancer puts its own in its place.
    /// Then nobody is banned for what others do behind the same address.
    pub addresses_hidden: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Self { failures: 10, within: 60, ban: 300, addresses_hidden: false }
    }
}

impl Guard {
    /// Whether nothing is counted.
    pub fn is_off(&self) -> bool {
        self.failures == 0
    }

    /// Milliseconds of a ban.
    pub fn ban_millis(&self) -> u64 {
        u64::from(self.ban) * 1000
    }
}
