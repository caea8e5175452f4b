//! Passwords: argon2id hashes in PHC form.

use std::sync::Arc;

use argon2::password_hash::{Output, PasswordHash, PasswordHasher, Salt, SaltString};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::hmac;

use super::identity::{Identity, Refusal};

/// KiB of memory, passes and lanes of a new hash.
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// A hash in a document may ask for at most this much, so that a wrong file cannot take the broker's memory or time.
const MOST_MEMORY: u32 = 256 * 1024;
const MOST_PASSES: u32 = 16;

/// Bytes from which on an allocation is one that goes back to the system when it is freed. Smaller ones the C library keeps
/// for each thread that made one: wrong passwords would cost hundreds of megabytes that never come back. Only the part
/// that is used becomes memory.
const RETURNED: usize = 40 * 1024 * 1024;

/// The hash of no password, verified for users that do not exist, so that the time does not tell them apart.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IG5vYm9keSBubw$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Why a password was not hashed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("an empty password is no password")]
    Empty,
    #[error("hash the password: {0}")]
    Hash(String),
}

/// Why a text is not the hash of a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    #[error("not a PHC string: {0}")]
    Malformed(String),
    #[error("hashed with `{0}`; only argon2id is known")]
    Algorithm(String),
    #[error("asks for {memory} KiB and {passes} passes; at most {MOST_MEMORY} KiB and {MOST_PASSES} are taken")]
    Expensive { memory: u32, passes: u32 },
}

/// Hashes a password with argon2id (19 MiB, 2 passes, 1 lane) into a PHC string.
pub fn hash(password: &[u8], salt: [u8; 16]) -> Result<String, PasswordError> {
    if password.is_empty() {
        return Err(PasswordError::Empty);
    }
    let failed = |error: &dyn std::fmt::Display| PasswordError::Hash(error.to_string());
    let params = Params::new(MEMORY, PASSES, LANES, None).map_err(|error| failed(&error))?;
    let salt = SaltString::encode_b64(&salt).map_err(|error| failed(&error))?;
    let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password, &salt)
        .map_err(|error| failed(&error))?;
    Ok(hash.to_string())
}

/// Checks that a text is a hash that [`verify`] can work with.
pub(super) fn check_hash(phc: &str) -> Result<(), HashError> {
    let malformed = |error: argon2::password_hash::Error| HashError::Malformed(error.to_string());
    let hash = PasswordHash::new(phc).map_err(malformed)?;
    if hash.algorithm != Algorithm::Argon2id.ident() {
        return Err(HashError::Algorithm(hash.algorithm.to_string()));
    }
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err(HashError::Malformed("the salt or the hash is missing".to_owned()));
    }
    let params = Params::try_from(&hash).map_err(malformed)?;
    if params.m_cost() > MOST_MEMORY || params.t_cost() > MOST_PASSES {
        return Err(HashError::Expensive { memory: params.m_cost(), passes: params.t_cost() });
    }
    Ok(())
}

/// Whether the password is the one that was hashed. Takes tens of milliseconds and tens of megabytes.
pub fn verify(password: &[u8], phc: &str) -> bool {
    check_hash(phc).is_ok() && PasswordHash::new(phc).is_ok_and(|hash| is_of(password, &hash).unwrap_or(false))
}

fn is_of(password: &[u8], hash: &PasswordHash<'_>) -> Option<bool> {
    let params = Params::try_from(hash).ok()?;
    let version = hash.version.map_or(Ok(Version::V0x13), Version::try_from).ok()?;
    let expected = hash.hash?;
    let (mut salt, mut found) = ([0; Salt::MAX_LENGTH], [0; Output::MAX_LENGTH]);
    let salt = hash.salt?.decode_b64(&mut salt).ok()?;
    let found = &mut found[..expected.len()];
    let mut memory = Vec::with_capacity(params.block_count().max(RETURNED / size_of::<Block>()));
    memory.resize(params.block_count(), Block::default());
    let argon2 = Argon2::new(Algorithm::Argon2id, version, params);
    argon2.hash_password_into_with_memory(password, salt, found, &mut memory).ok()?;
    // The comparison takes the same time wherever they differ.
    Some(Output::new(found).ok()? == expected)
}

/// A password that is still to be verified.
pub struct PasswordCheck {
    password: Box<[u8]>,
    /// The user's hash and who the user is; absent for a user that does not exist or has no password.
    user: Option<(Arc<str>, Identity)>,
    log: String,
}

impl std::fmt::Debug for PasswordCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordCheck").field("known", &self.user.is_some()).finish_non_exhaustive()
    }
}

impl PasswordCheck {
    pub(super) fn new(password: &[u8], user: Option<(Arc<str>, Identity)>, log: String) -> Self {
        Self { password: password.into(), user, log }
    }

    /// A key under which the caller may remember for a while that [`Self::verify`] accepted this user, password and
    /// hash, so that a storm of reconnects costs one hash per user; `secret` is random and of this process alone.
    /// Nothing for a user that does not exist.
    pub fn cache_key(&self, secret: &[u8; 32]) -> Option<[u8; 32]> {
        let (hash, identity) = self.user.as_ref()?;
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
        for part in [identity.principal.to_string().as_bytes(), &self.password, hash.as_bytes()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().ok()
    }

    /// The identity without a verification, for a [`Self::cache_key`] under which one succeeded.
    pub fn verified_before(self) -> Result<Identity, Refusal> {
        self.user.map(|(_, identity)| identity).ok_or_else(|| Refusal::bad(self.log))
    }

    /// Verifies the password. Slow by design; the same for a user that does not exist.
    pub fn verify(self) -> Result<Identity, Refusal> {
        let Some((hash, identity)) = self.user else {
            verify(&self.password, NOBODY);
            return Err(Refusal::bad(self.log));
        };
        if verify(&self.password, &hash) { Ok(identity) } else { Err(Refusal::bad(self.log)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_argon2id_with_the_documented_cost_and_verifies_only_its_password() {
        let phc = hash(b"mqtt_password", [7; 16]).unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(verify(b"mqtt_password", &phc));
        assert!(!verify(b"mqtt_passwore", &phc));
        assert!(!verify(b"", &phc));
    }

    #[test]
    fn only_the_same_user_password_and_hash_share_a_cache_key() {
        use crate::auth::identity::{Credential, Principal};
        let key = |user: &str, password: &str, hash: &str, secret: u8| {
            let identity = Identity::new(Principal::User(user.to_owned()), Credential::Password("".into()));
            PasswordCheck::new(password.as_bytes(), Some((hash.into(), identity)), String::new())
                .cache_key(&[secret; 32])
        };
        let same = key("u", "p", "h", 1);
        assert!(same.is_some() && same == key("u", "p", "h", 1));
        for other in [key("v", "p", "h", 1), key("u", "q", "h", 1), key("u", "p", "i", 1), key("u", "p", "h", 2)] {
            assert_ne!(same, other);
        }
        assert_ne!(key("u", "pp", "h", 1), key("up", "p", "h", 1));
        let unknown = PasswordCheck::new(b"p", None, "unknown".to_owned());
        assert_eq!(unknown.cache_key(&[1; 32]), None);
        assert_eq!(unknown.verified_before().unwrap_err().log, "unknown");
    }

    #[test]
    fn an_empty_password_is_not_hashed() {
        assert_eq!(hash(b"", [7; 16]), Err(PasswordError::Empty));
    }

    #[test]
    fn the_hash_of_nobody_costs_what_a_real_one_costs() {
        assert_eq!(check_hash(NOBODY), Ok(()));
        let nobody = PasswordHash::new(NOBODY).unwrap();
        let real = hash(b"x", [1; 16]).unwrap();
        let real = PasswordHash::new(&real).unwrap();
        assert_eq!(nobody.params.to_string(), real.params.to_string());
        assert_eq!(nobody.hash.unwrap().len(), real.hash.unwrap().len());
    }

    #[test]
    fn hashes_that_cannot_be_verified_are_refused_when_they_are_read() {
        for phc in
            ["", "plain", "$argon2id$v=19$m=19456,t=2,p=1", "$argon2i$v=19$m=64,t=1,p=1$bm9ib2R5$AAAAAAAAAAAAAAAA"]
        {
            assert!(check_hash(phc).is_err(), "{phc:?}");
            assert!(!verify(b"", phc), "{phc:?}");
        }
        let huge = NOBODY.replace("m=19456", "m=4000000");
        assert!(matches!(check_hash(&huge), Err(HashError::Expensive { memory: 4_000_000, .. })));
    }
}
