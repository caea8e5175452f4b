//! Keys, passwords and hashes: made once, kept, and made again only where the object changed.

use std::collections::BTreeMap;
use std::path::Path;

use super::Error;
use super::state::{self, Home};
use crate::api::manifest::Manifest;
use crate::auth::password;
use crate::config::FORMAT;
use crate::config::broker::{UserHash, Users};
use crate::plan::{Password, Plan, UserPlan};

/// Letters and digits of a generated password, without those that are easily taken for each other: 32, so that a random
/// byte chooses one without bias, and none that a shell or a YAML file reads otherwise.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 130 bits.
const PASSWORD_LENGTH: usize = 26;

/// What users log in with.
#[derive(Debug)]
pub struct Credentials {
    /// Name and password, in the order of the object; of who brought a hash along the password is not known.
    pub passwords: Vec<(String, String)>,
    pub hashes: Vec<UserHash>,
}

/// Writes the password hashes and the bridge's password where the broker reads them.
pub fn keep(plan: &Plan, manifest: &Manifest, home: &Home, file: &Path) -> Result<Credentials, Error> {
    let etc = home.etc();
    let credentials = users(plan, manifest, home, file)?;
    state::write_json(&etc.users(), &Users { format: FORMAT, users: credentials.hashes.clone() })?;
    if plan.bridge.is_some() && state::read(&etc.bridge_password())?.is_none_or(|password| password.is_empty()) {
        state::write(&etc.bridge_password(), random_password()?.as_bytes())?;
    }
    Ok(credentials)
}

fn users(plan: &Plan, manifest: &Manifest, home: &Home, file: &Path) -> Result<Credentials, Error> {
    let known: BTreeMap<String, String> = state::read_json(&home.passwords())?.unwrap_or_default();
    let hashed: Option<Users> = state::read_json(&home.etc().users())?;
    let hashed = hashed.map(|users| users.users).unwrap_or_default();
    let mut credentials = Credentials { passwords: Vec::new(), hashes: Vec::new() };
    for user in &plan.users {
        let kept = known.get(&user.name);
        let password = match &user.password {
            Password::Generate => kept.cloned().map_or_else(random_password, Ok)?,
            Password::FromSecret { .. } => text(plan, user, manifest, file)?,
            Password::Hash { name, key } => {
                let hash = text(plan, user, manifest, file)?.trim_end().to_owned();
                let wrong =
                    |source| Error::PasswordHash { path: file.into(), secret: name.clone(), key: key.clone(), source };
                password::check_hash(&hash).map_err(wrong)?;
                credentials.hashes.push(UserHash { name: user.name.clone(), hash, source: None });
                continue;
            }
        };
        let old = hashed.iter().find(|hash| hash.name == user.name && kept == Some(&password));
        let hash = match old {
            Some(hash) => hash.hash.clone(),
            None => password::hash(password.as_bytes(), random()?)
                .map_err(|source| Error::Hash { user: user.name.clone(), source })?,
        };
        credentials.hashes.push(UserHash { name: user.name.clone(), hash, source: None });
        credentials.passwords.push((user.name.clone(), password));
    }
    // Before the hashes: a hash without its password would be of no use at the next start, the reverse is.
    let passwords: BTreeMap<&String, &String> = credentials.passwords.iter().map(|(name, it)| (name, it)).collect();
    state::write_json(&home.passwords(), &passwords)?;
    Ok(credentials)
}

/// The value of a key of a Secret of the file, which the user refers to.
fn text(plan: &Plan, user: &UserPlan, manifest: &Manifest, file: &Path) -> Result<String, Error> {
    let Some((field, name, key)) = user.password.reference() else { return random_password() };
    let value = manifest.secret_value(&plan.namespace, name, key);
    let object = user.object.as_ref().map(|object| format!("MqttUser {}: ", object.name)).unwrap_or_default();
    value.and_then(|value| String::from_utf8(value.to_vec()).ok()).ok_or_else(|| Error::Secret {
        path: file.into(),
        field: format!("{object}{}.{field}", user.field),
        secret: name.to_owned(),
        key: key.to_owned(),
    })
}

/// Random bytes of the system.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

fn random_password() -> Result<String, Error> {
    let bytes: [u8; PASSWORD_LENGTH] = random()?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_passwords_differ_and_need_no_quotes() {
        let (one, other) = (random_password().unwrap(), random_password().unwrap());
        assert_ne!(one, other);
        assert!(one.len() == PASSWORD_LENGTH && one.chars().all(|c| c.is_ascii_alphanumeric()), "{one}");
    }
}
