//! The passwords of users: where each comes from, and the hashes that brokers get of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use tokio::sync::Semaphore;

use super::audit;
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
    pub known: Known,
}

/// What is known of a password.
#[derive(Debug)]
pub enum Known {
    Password(Vec<u8>),
    Hash(String),
    /// Where it should be there is nothing, or nothing of use: what the brokers have stays in force.
    Nothing,
}

impl Known {
    /// The password itself.
    pub fn password(&self) -> Option<&[u8]> {
        match self {
            Self::Password(password) => Some(password),
            Self::Hash(_) | Self::Nothing => None,
        }
    }
}

/// A value of a Secret that the object refers to, and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The field that refers to it, as `spec.auth.users[1].passwordSecretRef`; empty where it is not about a field.
    pub field: String,
    pub message: String,
    /// The `MqttUser` whose field it is, if it is not the broker's.
    pub object: Option<String>,
}

/// Finds the password of each user: in the user's Secret, in the one that was published before, or new.
pub fn find<'a>(
    plan: &'a Plan,
    observed: &Observed,
    mut random: impl FnMut() -> String,
) -> (Vec<UserPassword<'a>>, Vec<Missing>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for user in &plan.users {
        let object = user.object.as_ref().map(|object| object.name.clone());
        if object.as_ref().is_some_and(|object| observed.user_secrets.taken.contains(object)) {
            let message =
                format!("Secret {} exists and does not belong to this object; it is left alone", user.secret_name);
            missing.push(Missing { field: String::new(), message, object });
            found.push(UserPassword { user, known: Known::Nothing });
            continue;
        }
        let looked_up = match &user.password {
            Password::Generate => {
                let published = observed.secret(&user.secret_name).and_then(|secret| value(secret, build::PASSWORD));
                let password = published.filter(|password| !password.is_empty());
                Ok(Known::Password(password.unwrap_or_else(|| {
                    audit::password(plan, &user.name);
                    random().into_bytes()
                })))
            }
            Password::FromSecret { name, key } => referenced(observed, name, key).map(Known::Password),
            Password::Hash { name, key } => referenced_hash(observed, name, key),
        };
        let known = looked_up.unwrap_or_else(|message| {
            let field = user.password.reference().map(|(field, ..)| field).unwrap_or_default();
            missing.push(Missing { field: format!("{}.{field}", user.field), message, object });
            Known::Nothing
        });
        found.push(UserPassword { user, known });
    }
    (found, missing)
}

fn referenced_hash(observed: &Observed, name: &str, key: &str) -> Result<Known, String> {
    let value = referenced(observed, name, key)?;
    // A file that a person wrote ends with a line feed.
    let hash = std::str::from_utf8(value.trim_ascii_end()).unwrap_or_default();
    match password::check_hash(hash) {
        Ok(()) => Ok(Known::Hash(hash.to_owned())),
        Err(error) => Err(format!("the key {key} of Secret {name} is {error}")),
    }
}

/// What listeners with TLS would read and is not there.
pub fn missing_certificates(plan: &Plan, observed: &Observed) -> Vec<Missing> {
    let keys = plan.listener_secrets.iter().flat_map(ListenerSecrets::keys);
    keys.filter_map(|(field, name, key)| {
        let message = referenced(observed, name, key).err()?;
        Some(Missing { field, message, object: None })
    })
    .collect()
}

/// The value of a key of a Secret that the object refers to, or why there is none.
pub fn referenced(observed: &Observed, name: &str, key: &str) -> Result<Vec<u8>, String> {
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
    let before = self::published(plan, observed);
    let mut before: BTreeMap<String, UserHash> = before.users.into_iter().map(|it| (it.name.clone(), it)).collect();
    let mut users = Vec::with_capacity(passwords.len());
    for UserPassword { user, known } in passwords {
        let source = source_of(user, observed, published);
        let old = before.remove(&user.name);
        let hash = match known {
            // One that is not what it was is worked out anew, one that is missing stays: who was let in is let in.
            Known::Nothing => match old {
                Some(old) => {
                    users.push(old);
                    continue;
                }
                None => continue,
            },
            Known::Hash(hash) => hash,
            Known::Password(password) => match old.filter(|old| password::is_our_own(&old.hash)) {
                Some(old) if old.source.is_some() && old.source == source => old.hash,
                old => {
                    // Never closed.
                    let _permit = permits.acquire().await;
                    hash_one(user, password, old.map(|old| old.hash), salt()).await?
                }
            },
        };
        users.push(UserHash { name: user.name.clone(), hash, source });
    }
    Ok(Users { format: FORMAT, users })
}

/// The hash of a password; the one that there is, if it is of the same password: another one would end the connections of
/// its user.
async fn hash_one(user: &UserPlan, password: Vec<u8>, old: Option<String>, salt: [u8; 16]) -> Result<String, Error> {
    let hashing = tokio::task::spawn_blocking(move || match old {
        Some(old) if password::verify(&password, &old) => Ok(old),
        _ => password::hash(&password, salt),
    });
    let hash = hashing.await.map_err(|_| Error::ShuttingDown)?;
    hash.map_err(|source| Error::Hash { user: user.name.clone(), source })
}

/// The document that brokers have now; an empty one if there is none.
pub fn published(plan: &Plan, observed: &Observed) -> Users {
    let document = observed.secret(&plan.names.users).and_then(|secret| value(secret, build::USERS));
    let users = document.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    users.unwrap_or(Users { format: FORMAT, users: Vec::new() })
}

fn source_of(user: &UserPlan, observed: &Observed, published: &[Secret]) -> Option<HashSource> {
    let (secret, key) = match &user.password {
        Password::FromSecret { name, key } | Password::Hash { name, key } => {
            (observed.referenced.get(name)?, key.as_str())
        }
        Password::Generate => {
            let published = published.iter().find(|it| it.metadata.name.as_ref() == Some(&user.secret_name));
            (published?, build::PASSWORD)
        }
    };
    Some(HashSource {
        uid: secret.metadata.uid.clone()?,
        resource_version: secret.metadata.resource_version.clone()?,
        key: Some(key.to_owned()),
    })
}
