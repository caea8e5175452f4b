//! Passwords: new hashes are argon2id in PHC form; others are verified, too.

mod hash;

use std::collections::BTreeMap;
use std::sync::Arc;

use argon2::password_hash::{PasswordHasher, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::hmac;

use super::identity::{Identity, Refusal};
use super::why::Why;
use hash::Hash;
pub use hash::HashError;

/// KiB of memory, passes and lanes of a new hash.
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The hash of no password with the cost of a new hash.
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

/// Checks that a text is a hash that a password can be verified with: argon2id as a PHC string, bcrypt, or one of
/// Mosquitto's, none of them with a cost that would stop the broker.
pub fn check_hash(text: &str) -> Result<(), HashError> {
    Hash::parse(text).map(drop)
}

/// Whether a hash is of the kind and cost that [`hash`] makes.
pub fn is_our_own(hash: &str) -> bool {
    hash.strip_prefix("$argon2id$v=19$m=19456,t=2,p=1$").is_some()
}

/// Whether it would be taken for a token where a password is asked for: such a one would never be looked at.
pub fn is_a_token(password: &[u8]) -> bool {
    super::token::looks_like_token(password)
}

/// A short digest of a hash, to tell whether two who do not show it to each other have the same one.
pub fn digest(hash: &str) -> String {
    use std::fmt::Write as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, hash.as_bytes());
    digest.as_ref().iter().take(8).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether the password is the one that was hashed. Takes as long as the hash was meant to take: tens of milliseconds.
pub fn verify(password: &[u8], hash: &str) -> bool {
    Hash::parse(hash).is_ok_and(|hash| hash.is_of(password))
}

/// What is verified for users that do not exist, so that the time does not tell them apart.
///
/// Hashes that were brought along cost what they cost, some much less than ours and some more. So a name that nobody has
/// gets the cost of one of the users, chosen by the name, always the same and in the proportion in which the users have it:
/// whatever a time says about a name, it says of so many names that nobody has, too.
#[derive(Debug, Default)]
pub(super) struct Nobody {
    /// Hashes of no password, each with the number of users that have its cost or that of one before it.
    kinds: Vec<(String, u64)>,
}

impl Nobody {
    /// Like the users with these hashes.
    pub fn like<'a>(hashes: impl Iterator<Item = &'a str>) -> Self {
        let mut numbers = BTreeMap::new();
        for hash in hashes.filter_map(|text| Hash::parse(text).ok()) {
            *numbers.entry(hash.of_nobody()).or_insert(0) += 1;
        }
        let mut users = 0;
        let mut up_to = |number: u64| {
            users += number;
            users
        };
        Self { kinds: numbers.into_iter().map(|(kind, number)| (kind, up_to(number))).collect() }
    }

    fn hash(&self, seed: u64) -> &str {
        let Some((_, users)) = self.kinds.last() else { return NOBODY };
        let chosen = seed % users;
        self.kinds.iter().find(|(_, up_to)| chosen < *up_to).map_or(NOBODY, |(kind, _)| kind)
    }
}

/// A password that is still to be verified.
pub struct PasswordCheck {
    name: Box<str>,
    password: Box<[u8]>,
    /// The user's hash and who the user is; absent for a user that does not exist or has no password.
    user: Option<(Arc<str>, Identity)>,
    nobody: Arc<Nobody>,
    log: String,
}

impl std::fmt::Debug for PasswordCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordCheck").field("known", &self.user.is_some()).finish_non_exhaustive()
    }
}

impl PasswordCheck {
    pub(super) fn new(
        name: &str,
        password: &[u8],
        user: Option<(Arc<str>, Identity)>,
        nobody: &Arc<Nobody>,
        log: String,
    ) -> Self {
        Self { name: name.into(), password: password.into(), user, nobody: nobody.clone(), log }
    }

    /// The user name that was presented.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same for the same user name, password and hash, and for nothing else, so that the outcome may be shared and
    /// remembered for a while; a changed hash makes it another. `secret` is random and of this process alone.
    pub fn cache_key(&self, secret: &[u8; 32]) -> [u8; 32] {
        let hash = self.user.as_ref().map_or("", |(hash, _)| hash);
        sign(secret, &[b"check", self.name.as_bytes(), &self.password, hash.as_bytes()])
    }

    /// Verifies the password. Slow by design, for a user that does not exist as for one of those that do; `secret` as for
    /// [`Self::cache_key`].
    pub fn verify(&self, secret: &[u8; 32]) -> bool {
        if let Some((hash, _)) = &self.user {
            return verify(&self.password, hash);
        }
        let signed = sign(secret, &[b"nobody", self.name.as_bytes()]);
        let number = signed.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
        verify(&self.password, self.nobody.hash(number));
        false
    }

    /// Who it is, if the password was verified.
    pub fn conclude(&self, verified: bool) -> Result<Identity, Refusal> {
        match &self.user {
            Some((_, identity)) if verified => Ok(identity.clone()),
            Some(_) => Err(Refusal::bad(self.log.clone()).because(Why::WrongPassword)),
            None => Err(Refusal::bad(self.log.clone()).because(Why::UnknownUser)),
        }
    }
}

/// An HMAC of parts that cannot be taken for other parts.
fn sign(secret: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.sign().as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::identity::{Credential, Principal};

    fn check(user: &str, password: &str, hash: Option<&str>, nobody: &Arc<Nobody>) -> PasswordCheck {
        let identity = Identity::new(Principal::User(user.to_owned()), Credential::Password("".into()));
        let known = hash.map(|hash| (hash.into(), identity));
        PasswordCheck::new(user, password.as_bytes(), known, nobody, "no".to_owned())
    }

    #[test]
    fn a_hash_is_argon2id_with_the_documented_cost_and_verifies_only_its_password() {
        let phc = hash(b"mqtt_password", [7; 16]).unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && is_our_own(&phc), "{phc}");
        assert!(verify(b"mqtt_password", &phc));
        assert!(!verify(b"mqtt_passwore", &phc));
        assert!(!verify(b"", &phc));
        assert_eq!(Hash::parse(&phc).unwrap().of_nobody(), NOBODY, "an unknown user costs what a new hash costs");
    }

    #[test]
    fn only_the_same_user_password_and_hash_share_a_cache_key() {
        let nobody = Arc::default();
        let key = |user: &str, password: &str, hash: Option<&str>, secret: u8| {
            check(user, password, hash, &nobody).cache_key(&[secret; 32])
        };
        let same = key("u", "p", Some("h"), 1);
        assert_eq!(same, key("u", "p", Some("h"), 1));
        for other in [
            key("v", "p", Some("h"), 1),
            key("u", "q", Some("h"), 1),
            key("u", "p", Some("i"), 1),
            key("u", "p", None, 1),
            key("u", "p", Some("h"), 2),
        ] {
            assert_ne!(same, other);
        }
        assert_ne!(key("u", "pp", Some("h"), 1), key("up", "p", Some("h"), 1));
    }

    #[test]
    fn a_user_that_does_not_exist_is_refused_whatever_was_concluded() {
        let nobody = Arc::default();
        assert!(!check("u", "p", None, &nobody).verify(&[1; 32]));
        assert_eq!(check("u", "p", None, &nobody).conclude(true).unwrap_err().log, "no");
        assert!(check("u", "p", Some("not a hash"), &nobody).conclude(false).is_err());
        assert!(!check("u", "p", Some("not a hash"), &nobody).verify(&[1; 32]));
    }

    #[test]
    fn an_empty_password_is_not_hashed() {
        assert_eq!(hash(b"", [7; 16]), Err(PasswordError::Empty));
    }

    #[test]
    fn names_that_nobody_has_cost_what_users_cost_in_their_proportion_and_always_the_same() {
        let cheap = format!("$6$AAAA${}==", "A".repeat(86));
        let dear = "$2b$10$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        let nobody = Nobody::like([cheap.as_str(), dear, dear, dear].into_iter());
        assert_eq!(nobody.kinds.len(), 2);
        let chosen = |seed| nobody.hash(seed).starts_with("$2b$10$");
        assert_eq!((0..1000).filter(|seed| chosen(*seed)).count(), 750);
        assert_eq!(Nobody::default().hash(7), NOBODY);
    }
}
