//! The passwords of users: where each comes from, and the hashes that brokers get of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use tokio::sync::Semaphore;

use super::build;
use super::error::Error;
use super::observe::Observed;
use crate::auth::password;
use crate::config::FORMAT;
use crate::config::broker::{HashSource, UserHash, Users};
use crate::plan::{ListenerSecrets, Password, Plan, UserPlan};

/// The password of one user.
#[derive(Debug)]
pub struct UserPassword<'a> {
    pub user: &'a UserPlan,
    pub password: Vec<u8>,
}

/// A value of a Secret that the object refers to, and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The field that refers to it, as `spec.auth.users[1].passwordSecretRef`.
    pub field: String,
    pub message: String,
}

/// Finds the password of each user: in the user's Secret, in the one that was published before, or new.
pub fn find<'a>(
    plan: &'a Plan,
    observed: &Observed,
    mut random: impl FnMut() -> String,
) -> (Vec<UserPassword<'a>>, Vec<Missing>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (index, user) in plan.users.iter().enumerate() {
        let looked_up = match &user.password {
            Password::Generate => {
                let published = observed.secret(&user.secret_name).and_then(|secret| value(secret, build::PASSWORD));
                Ok(published.filter(|password| !password.is_empty()).unwrap_or_else(|| random().into_bytes()))
            }
            Password::FromSecret { name, key } => referenced(observed, name, key),
        };
        match looked_up {
            Ok(password) => found.push(UserPassword { user, password }),
            Err(message) => {
                missing.push(Missing { field: format!("spec.auth.users[{index}].passwordSecretRef"), message });
            }
        }
    }
    (found, missing)
}

/// What listeners with TLS would read and is not there.
pub fn missing_certificates(plan: &Plan, observed: &Observed) -> Vec<Missing> {
    let keys = plan.listener_secrets.iter().flat_map(ListenerSecrets::keys);
    keys.filter_map(|(field, name, key)| {
        let message = referenced(observed, name, key).err()?;
        Some(Missing { field, message })
    })
    .collect()
}

fn referenced(observed: &Observed, name: &str, key: &str) -> Result<Vec<u8>, String> {
    let secret = observed.referenced.get(name).ok_or_else(|| format!("there is no Secret {name}"))?;
    let password = value(secret, key).ok_or_else(|| format!("Secret {name} has no key {key}"))?;
    if password.is_empty() { Err(format!("the key {key} of Secret {name} is empty")) } else { Ok(password) }
}

/// The value of a key of a Secret.
pub fn value(secret: &Secret, key: &str) -> Option<Vec<u8>> {
    secret.data.as_ref()?.get(key).map(|bytes| bytes.0.clone())
}

/// The hashes of all passwords, taken from the document that brokers have now where the source is the same.
///
/// Hashing costs 19 MiB and tens of milliseconds by design, so that it happens on a thread of its own, and no more often
/// than `permits` allows at a time.
pub async fn hash(
    passwords: Vec<UserPassword<'_>>,
    observed: &Observed,
    published: &[Secret],
    plan: &Plan,
    permits: &Semaphore,
    mut salt: impl FnMut() -> [u8; 16],
) -> Result<Users, Error> {
    let before = hashes_before(observed, &plan.names.users);
    let mut users = Vec::with_capacity(passwords.len());
    for UserPassword { user, password } in passwords {
        let source = match &user.password {
            Password::FromSecret { name, .. } => observed.referenced.get(name).and_then(source),
            Password::Generate => {
                let published = published.iter().find(|it| it.metadata.name.as_ref() == Some(&user.secret_name));
                published.and_then(source)
            }
        };
        let known = before.get(&user.name).filter(|hash| hash.source.is_some() && hash.source == source);
        if let Some(known) = known {
            users.push(known.clone());
            continue;
        }
        let salt = salt();
        // Never closed.
        let permit = permits.acquire().await;
        let hashing = tokio::task::spawn_blocking(move || password::hash(&password, salt));
        let hash = hashing.await.map_err(|_| Error::ShuttingDown)?;
        drop(permit);
        let hash = hash.map_err(|source| Error::Hash { user: user.name.clone(), source })?;
        users.push(UserHash { name: user.name.clone(), hash, source });
    }
    Ok(Users { format: FORMAT, users })
}

fn hashes_before(observed: &Observed, name: &str) -> BTreeMap<String, UserHash> {
    let document = observed.secret(name).and_then(|secret| value(secret, build::USERS));
    let users: Option<Users> = document.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    users.into_iter().flat_map(|users| users.users).map(|hash| (hash.name.clone(), hash)).collect()
}

fn source(secret: &Secret) -> Option<HashSource> {
    Some(HashSource { uid: secret.metadata.uid.clone()?, resource_version: secret.metadata.resource_version.clone()? })
}
