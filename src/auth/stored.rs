//! Who a session belongs to, in the form in which it outlives the broker's process.
//!
//! No secret is in it: of a password there is the digest of its hash, of a token what was in it besides the signature.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::grants::{RuleError, Statement};
use super::identity::{Credential, Identity, Principal, TokenCredential};
use super::layer::Layer;
use super::rule::Rule;

/// An [`Identity`], to be written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredIdentity {
    principal: StoredPrincipal,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    credential: StoredCredential,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StoredPrincipal {
    User(String),
    Foreign { issuer: String, subject: String },
    Anonymous,
    Bridge,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StoredCredential {
    Nothing,
    Password(String),
    Bridge,
    Token(Box<StoredToken>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredToken {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    kid: String,
    subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    issued_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    client_ids: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<Rule>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    claims: Map<String, Value>,
}

impl From<&Identity> for StoredIdentity {
    fn from(identity: &Identity) -> Self {
        let principal = match &identity.principal {
            Principal::User(name) => StoredPrincipal::User(name.clone()),
            Principal::Foreign { issuer, subject } => {
                StoredPrincipal::Foreign { issuer: issuer.clone(), subject: subject.clone() }
            }
            Principal::Anonymous => StoredPrincipal::Anonymous,
            Principal::Bridge => StoredPrincipal::Bridge,
        };
        let credential = match &identity.credential {
            Credential::Nothing => StoredCredential::Nothing,
            Credential::Password(digest) => StoredCredential::Password(digest.to_string()),
            Credential::Bridge => StoredCredential::Bridge,
            Credential::Token(token) => StoredCredential::Token(Box::new(StoredToken {
                issuer: token.issuer.as_deref().map(str::to_owned),
                kid: token.kid.clone(),
                subject: token.subject.clone(),
                jti: token.jti.clone(),
                issued_at: token.issued_at,
                username: token.username.clone(),
                client_ids: token.client_ids.clone(),
                groups: token.groups.clone(),
                rules: token.rules.iter().map(Statement::rule).collect(),
                claims: token.claims.to_object(),
            })),
        };
        Self { principal, expires_at: identity.expires_at, credential }
    }
}

impl TryFrom<StoredIdentity> for Identity {
    type Error = RuleError;

    fn try_from(stored: StoredIdentity) -> Result<Self, RuleError> {
        let principal = match stored.principal {
            StoredPrincipal::User(name) => Principal::User(name),
            StoredPrincipal::Foreign { issuer, subject } => Principal::Foreign { issuer, subject },
            StoredPrincipal::Anonymous => Principal::Anonymous,
            StoredPrincipal::Bridge => Principal::Bridge,
        };
        let credential = match stored.credential {
            StoredCredential::Nothing => Credential::Nothing,
            StoredCredential::Password(digest) => Credential::Password(digest.into()),
            StoredCredential::Bridge => Credential::Bridge,
            StoredCredential::Token(token) => Credential::Token(Arc::new(TokenCredential {
                issuer: token.issuer.map(Into::into),
                kid: token.kid,
                subject: token.subject,
                jti: token.jti,
                issued_at: token.issued_at,
                username: token.username,
                client_ids: token.client_ids,
                groups: token.groups,
                rules: token
                    .rules
                    .iter()
                    .map(|rule| Statement::compile_in(rule, Layer::Token))
                    .collect::<Result<_, _>>()?,
                claims: (&token.claims).into(),
            })),
        };
        Ok(Self { principal, expires_at: stored.expires_at, credential })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(identity: &Identity) -> Identity {
        let text = serde_json::to_string(&StoredIdentity::from(identity)).unwrap();
        serde_json::from_str::<StoredIdentity>(&text).unwrap().try_into().unwrap()
    }

    #[test]
    fn an_identity_comes_back_as_it_was() {
        let rules: Vec<Rule> = serde_json::from_value(serde_json::json!([
            {"permission": "allow", "action": "publish", "topic": "a/${clientid}/#", "qos": [0, 2], "retain": false},
            {"permission": "deny", "action": "subscribe", "topic": "eq a/+/${sub}", "share": ["g"]},
            {"permission": "deny", "action": "all", "topic": "x/${claims.site}/%c", "qos": 1},
        ]))
        .unwrap();
        let mut claims = Map::new();
        claims.insert("site".into(), "berlin".into());
        claims.insert("floor".into(), 3.into());
        claims.insert("list".into(), serde_json::json!([{"topic": "a/#"}, 1.5]));
        let token = TokenCredential {
            issuer: Some("https://issuer.example".into()),
            kid: "k".into(),
            subject: "s".into(),
            jti: Some("j".into()),
            issued_at: 17,
            username: None,
            client_ids: vec!["c".into()],
            groups: vec!["g".into()],
            rules: rules.iter().filter_map(|rule| Statement::compile_in(rule, Layer::Token).ok()).collect(),
            claims: (&claims).into(),
        };
        assert_eq!(token.rules.len(), 2, "the one with a literal placeholder is none");
        let principal = Principal::Foreign { issuer: "https://issuer.example".into(), subject: "s".into() };
        let identity =
            Identity { expires_at: Some(99), ..Identity::new(principal, Credential::Token(Arc::new(token))) };
        let again = back(&identity);
        let stored = serde_json::to_value(StoredIdentity::from(&identity)).unwrap();
        let values = serde_json::json!({"site": "berlin", "floor": "3"});
        assert_eq!(stored["credential"]["token"]["claims"], values, "what a placeholder may take, and no more");
        assert_eq!(StoredIdentity::from(&again), StoredIdentity::from(&identity));
        let (Credential::Token(before), Credential::Token(after)) = (&identity.credential, &again.credential) else {
            unreachable!("both are tokens")
        };
        assert_eq!(format!("{:?}", before.rules), format!("{:?}", after.rules), "compiled they are the same");
        for identity in
            [Identity::anonymous(), Identity::of_user("u"), Identity::new(Principal::Bridge, Credential::Bridge)]
        {
            assert_eq!(StoredIdentity::from(&back(&identity)), StoredIdentity::from(&identity));
        }
    }
}
