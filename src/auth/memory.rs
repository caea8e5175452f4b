//! Tokens that were verified, so that the same clients, when all of them come back at once, cost no signatures again.
//!
//! It belongs to one policy and is gone with it: whatever changes keys, issuers or rules begins with an empty one. What
//! stands in it is found by a MAC of the token under a secret of the process, so that nobody can aim at a place in it, and
//! no token is kept. Only tokens whose signature was right get in.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::hmac;

use super::token::Verified;

/// Tokens, and bytes of them, of each of two generations.
const TOKENS: usize = 5_000;
const BYTES: usize = 4 * 1024 * 1024;

/// What a token is found by.
pub(super) type Tag = [u8; 32];

/// The tokens that were verified last.
pub(super) struct Memory {
    key: hmac::Key,
    generations: Mutex<Generations>,
}

/// When the younger is full it becomes the older, and the older is forgotten: what is used stays, at the price of one
/// move now and then.
#[derive(Default)]
struct Generations {
    young: HashMap<Tag, (Verified, usize)>,
    old: HashMap<Tag, (Verified, usize)>,
    /// Bytes of the tokens in `young`.
    bytes: usize,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Memory {
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), generations: Mutex::default() }
    }

    pub fn tag(&self, token: &[u8]) -> Tag {
        hmac::sign(&self.key, token).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// The token that was verified. Its times are still to be checked.
    pub fn find(&self, tag: &Tag) -> Option<Verified> {
        let mut generations = self.lock();
        if let Some((verified, _)) = generations.young.get(tag) {
            return Some(verified.clone());
        }
        let (verified, bytes) = generations.old.remove(tag)?;
        generations.put(*tag, verified.clone(), bytes);
        Some(verified)
    }

    /// Remembers a token of so many bytes.
    pub fn put(&self, tag: Tag, verified: &Verified, bytes: usize) {
        self.lock().put(tag, verified.clone(), bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn put(&mut self, tag: Tag, verified: Verified, bytes: usize) {
        if self.young.len() >= TOKENS || self.bytes + bytes > BYTES {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        if self.young.insert(tag, (verified, bytes)).is_none() {
            self.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::token::{Expected, verify};
    use crate::auth::{KeySet, key, token};

    fn verified() -> Verified {
        let key = key::generate(key::Algorithm::EdDsa, &[1; 48]).unwrap();
        let claims = token::Claims {
            iss: "i".into(),
            aud: "a".into(),
            sub: "s".into(),
            iat: 1,
            exp: 9,
            ..token::Claims::default()
        };
        let keys = KeySet::parse(key::PrivateKeys { keys: vec![key.clone()] }.public().as_bytes()).unwrap();
        let expected = Expected { issuer: "i", audience: "a", max_ttl: 60, acl_claim: "acl" };
        verify(token::issue(&key, &claims).as_bytes(), &keys, &expected, 5).unwrap()
    }

    fn count(memory: &Memory) -> usize {
        let generations = memory.lock();
        generations.young.len() + generations.old.len()
    }

    #[test]
    fn ten_thousand_tokens_are_remembered_and_no_more() {
        let (memory, verified) = (Memory::new(&[1; 32]), verified());
        let used = memory.tag(b"used");
        memory.put(used, &verified, 100);
        for n in 0..30_000_u32 {
            memory.put(memory.tag(&n.to_be_bytes()), &verified, 100);
            assert!(n % 1_000 != 0 || memory.find(&used).is_some(), "what is used stays");
        }
        assert!((TOKENS..=2 * TOKENS).contains(&count(&memory)), "{}", count(&memory));
        assert!(memory.find(&memory.tag(&0_u32.to_be_bytes())).is_none());
        assert!(memory.find(&memory.tag(&29_999_u32.to_be_bytes())).is_some());
    }

    #[test]
    fn long_tokens_are_fewer() {
        let (memory, verified) = (Memory::new(&[1; 32]), verified());
        for n in 0..10_000_u32 {
            memory.put(memory.tag(&n.to_be_bytes()), &verified, 8 * 1024);
        }
        assert!(count(&memory) <= 2 * BYTES / (8 * 1024), "{}", count(&memory));
    }

    #[test]
    fn another_process_finds_a_token_elsewhere() {
        assert_ne!(Memory::new(&[1; 32]).tag(b"token"), Memory::new(&[2; 32]).tag(b"token"));
    }
}
