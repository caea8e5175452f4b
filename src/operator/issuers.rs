//! What the broker reads of other issuers: keys and authorities out of the user's Secrets, and those of the cluster's own
//! tokens out of the API server. They travel in the Secret with the broker's public keys.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use super::observe::Observed;
use super::passwords::{self, Missing};
use crate::auth::issuer;
use crate::auth::settings::IssuerKeys;
use crate::config::files::SERVICE_ACCOUNTS;
use crate::plan::Plan;

/// How long what the API server said of its tokens is not asked for again.
const FRESH: Duration = Duration::from_mins(1);
const FIELD: &str = "spec.auth.jwt.serviceAccounts";

/// Documents for the broker, by name.
pub type Documents = BTreeMap<String, Vec<u8>>;

/// What the API server said of its tokens last.
#[derive(Debug, Default)]
pub struct Discovery(Mutex<Option<(Instant, Vec<u8>)>>);

/// Finds the documents. A Secret that is not there takes its keys with it: nothing is accepted that nobody vouches for
/// any more. Keys that cannot be used leave those that brokers have.
pub async fn find(
    client: &Client,
    discovery: &Discovery,
    plan: &Plan,
    observed: &Observed,
) -> (Documents, Vec<Missing>) {
    let (mut documents, mut missing) = from_secrets(plan, observed);
    if plan.broker.auth.issuers.iter().any(|issuer| issuer.keys == IssuerKeys::Cluster) {
        let kept = stored(plan, observed, SERVICE_ACCOUNTS);
        let document = match discovery.read(client).await {
            Ok(document) => Some(document),
            Err(error) => {
                let message = format!("the keys of this cluster's tokens cannot be read: {error}");
                missing.extend(kept.is_none().then(|| Missing { field: FIELD.into(), message, object: None }));
                kept
            }
        };
        documents.extend(document.map(|document| (SERVICE_ACCOUNTS.to_owned(), document)));
    }
    (documents, missing)
}

fn from_secrets(plan: &Plan, observed: &Observed) -> (Documents, Vec<Missing>) {
    let (mut documents, mut missing) = (Documents::new(), Vec::new());
    for secrets in &plan.issuer_secrets {
        let settings = plan.broker.auth.issuers.iter().find(|it| issuer::file_stem(&it.issuer) == secrets.stem);
        for (field, name, key, document) in secrets.documents() {
            let found = match passwords::referenced(observed, name, key) {
                Ok(found) => found,
                Err(message) => {
                    missing.push(Missing { field, message, object: None });
                    continue;
                }
            };
            let usable = match settings {
                Some(settings) if field.ends_with("jwksSecretRef") => issuer::read_keys(settings, &found).map(drop),
                _ => Ok(()),
            };
            match usable {
                Ok(()) => _ = documents.insert(document, found),
                Err(error) => {
                    let message = format!("the key {key} of Secret {name} cannot be used: {error}");
                    missing.push(Missing { field, message, object: None });
                    documents.extend(stored(plan, observed, &document).map(|kept| (document, kept)));
                }
            }
        }
    }
    (documents, missing)
}

/// The document that brokers have now.
fn stored(plan: &Plan, observed: &Observed, document: &str) -> Option<Vec<u8>> {
    observed.secret(&plan.names.jwks).and_then(|secret| passwords::value(secret, document))
}

/// What is needed of the API server's discovery document.
#[derive(Deserialize)]
struct Configuration {
    issuer: String,
}

impl Discovery {
    /// The issuer and the keys of the cluster's tokens, as one document.
    async fn read(&self, client: &Client) -> Result<Vec<u8>, String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, document)) = known
            && at.elapsed() < FRESH
        {
            return Ok(document);
        }
        let Configuration { issuer } = serde_json::from_str(&get(client, "/.well-known/openid-configuration").await?)
            .map_err(|error| format!("/.well-known/openid-configuration: {error}"))?;
        // Not the address that the issuer says: that is for others, and may be of another name.
        let mut keys: Value = serde_json::from_str(&get(client, "/openid/v1/jwks").await?)
            .map_err(|error| format!("/openid/v1/jwks: {error}"))?;
        let keys = keys.get_mut("keys").map(Value::take).ok_or("/openid/v1/jwks: there are no keys")?;
        let document = json!({"issuer": issuer, "keys": keys}).to_string().into_bytes();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), document.clone()));
        Ok(document)
    }
}

async fn get(client: &Client, path: &str) -> Result<String, String> {
    let request = http_request(path);
    client.request_text(request).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("{path}: not permitted; bind the operator to system:service-account-issuer-discovery")
        }
        error => format!("{path}: {error}"),
    })
}

fn http_request(path: &str) -> hyper::Request<Vec<u8>> {
    hyper::Request::get(path).body(Vec::new()).expect("the paths are constant")
}
