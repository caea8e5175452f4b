//! Issuers whose tokens are accepted beside the broker's own.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mqtt_broker::{Duration, SecretName};

/// An issuer of tokens that is not this broker.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.jwksUrl) != has(self.jwksSecretRef)")
        .message("exactly one of jwksUrl and jwksSecretRef is needed"),
    validation = Rule::new(
        "!has(self.jwksUrl) || self.jwksUrl.startsWith('https://') || (has(self.allowPrivate) && self.allowPrivate)"
    ).message("jwksUrl must begin with https://; http:// needs allowPrivate: true, and an address that is private"),
    validation = Rule::new("has(self.jwksUrl) || (!has(self.allowPrivate) && !has(self.caSecretRef))")
        .message("allowPrivate and caSecretRef need jwksUrl"),
    validation = Rule::new("!has(self.jwksUrl) || !has(self.algorithms) || !('HS256' in self.algorithms)")
        .message("HS256 needs jwksSecretRef: a secret that is fetched is none"),
    validation = Rule::new("has(self.audiences) || (has(self.mapping) && has(self.mapping.profile))")
        .message("audiences is needed, or tokens that this issuer has made for others would be accepted"),
)]
pub struct Issuer {
    /// What `iss` must be in its tokens, to the letter.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^#\x00-\x1f\x7f]+$"))]
    pub issuer: String,
    /// One of these must be in `aud`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 512)))]
    pub audiences: Option<Vec<String>>,
    /// Where its public keys are, as a JWK Set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = "^https?://[^/?#@ ]+(/[^# ]*)?$"))]
    pub jwks_url: Option<String>,
    /// A Secret in the namespace of this object with its keys, as a JWK Set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_secret_ref: Option<JwksSecret>,
    /// A Secret with the certificate authorities that `jwksUrl` is verified with, in the key `ca.crt`; absent means those
    /// that the system knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretName>,
    /// How its tokens may be signed; default RS256, ES256 and EdDSA. Keys of other kinds are passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4))]
    pub algorithms: Option<Vec<IssuerAlgorithm>>,
    /// The claim that carries rules; default `acl`. Empty means that its tokens bring no rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub acl_claim: Option<String>,
    /// A token that lives longer is refused; default `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_token_ttl: Option<Duration>,
    /// Which claims say who a token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Mapping>,
    /// Groups that all its tokens are in, after those that a token names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 128)))]
    pub groups: Option<Vec<String>>,
    /// Whether `jwksUrl` may be at an address that is not public; default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_private: Option<bool>,
}

/// A JWK Set in a Secret in the namespace of this object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JwksSecret {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Default `jwks.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// How another issuer signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum IssuerAlgorithm {
    EdDSA,
    ES256,
    RS256,
    HS256,
}

/// Which claims say who a token is for. A text is the name of a claim or, with a `/` in front, its JSON Pointer, as
/// `/realm_access/roles`; empty means none.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.profile) || !(has(self.subject) || has(self.username) || has(self.clientId) || has(self.groups))"
).message("a profile says which claims are meant: leave out subject, username, clientId and groups"))]
pub struct Mapping {
    /// `authx`: devices of groups that share a secret each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Default `sub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub subject: Option<String>,
    /// A user name that the bearer may present, beside the subject; default `username`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub username: Option<String>,
    /// The client ids that the bearer may use; default `client_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub client_id: Option<String>,
    /// Names of `spec.auth.groups`; default `groups`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub groups: Option<String>,
}

/// A named set of claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum Profile {
    Authx,
}

/// Tokens of the ServiceAccounts of this cluster.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccounts {
    /// One of these must be in `aud`: the audience that the token was asked for, not that of the API server.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 512)))]
    pub audiences: Vec<String>,
    /// A token that lives longer is refused; default `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_token_ttl: Option<Duration>,
}
