//! The life of a broker's keys: `next → active → retiring → gone`. Pure.

use std::collections::BTreeSet;

use crate::api;
use crate::auth::key::{self, KeyError, KeyRecord, KeyState, KeyStates, PrivateKeys};

/// The keys of a broker and where each is in its life.
#[derive(Clone, Debug)]
pub struct Keys {
    pub private: PrivateKeys,
    pub states: KeyStates,
}

impl Keys {
    /// Reads `keys.json` and `state.json`.
    pub fn read(keys: &[u8], states: &[u8]) -> Result<Self, String> {
        let private = PrivateKeys::parse(keys).map_err(|error| format!("keys.json: {error}"))?;
        let states: KeyStates = serde_json::from_slice(states).map_err(|error| format!("state.json: {error}"))?;
        if private.active(&states).is_none() {
            return Err("state.json: no key of keys.json is active".into());
        }
        Ok(Self { private, states })
    }

    /// The first key of a broker, which signs at once: no broker knows another.
    pub fn first(algorithm: api::Algorithm, now: u64, random: impl FnMut() -> [u8; 48]) -> Result<Self, KeyError> {
        let key = generate(algorithm, random)?;
        let states = KeyStates::first(&key, now);
        Ok(Self { private: PrivateKeys { keys: vec![key] }, states })
    }

    /// The key ids that every broker must know before anything moves on.
    pub fn ids(&self) -> BTreeSet<String> {
        self.private.keys.iter().map(|key| key.kid().to_owned()).collect()
    }

    /// Takes the steps that are due: a key of the algorithm asked for is published as `next`; `next` becomes `active`
    /// once every broker has loaded it; a `retiring` key goes when the last token that it can have signed has expired.
    ///
    /// `loaded` is what all brokers have in common, absent when that is not known.
    pub fn advance(
        mut self,
        algorithm: api::Algorithm,
        loaded: Option<&BTreeSet<String>>,
        now: u64,
        max_token_ttl: u64,
        random: impl FnMut() -> [u8; 48],
    ) -> Result<Self, KeyError> {
        let gone: BTreeSet<String> = self
            .states
            .keys
            .iter()
            .filter(|record| record.state == KeyState::Retiring && now >= record.since.saturating_add(max_token_ttl))
            .map(|record| record.kid.clone())
            .collect();
        self.states.keys.retain(|record| !gone.contains(&record.kid));
        self.private.keys.retain(|key| !gone.contains(key.kid()));

        if let Some(next) = self.states.keys.iter().position(|record| record.state == KeyState::Next)
            && loaded.is_some_and(|loaded| loaded.contains(&self.states.keys[next].kid))
        {
            for record in self.states.keys.iter_mut().filter(|record| record.state == KeyState::Active) {
                (record.state, record.since) = (KeyState::Retiring, now);
            }
            (self.states.keys[next].state, self.states.keys[next].since) = (KeyState::Active, now);
        }

        let wanted = key_algorithm(algorithm);
        let successor = self.states.keys.iter().any(|record| record.state == KeyState::Next);
        if !successor && self.private.active(&self.states).is_some_and(|active| active.algorithm() != wanted) {
            let key = generate(algorithm, random)?;
            let record = KeyRecord { kid: key.kid().to_owned(), state: KeyState::Next, since: now };
            self.states.keys.push(record);
            self.private.keys.push(key);
        }
        Ok(self)
    }
}

/// About one choice in 2^32 is no key of ES256; then another is.
fn generate(algorithm: api::Algorithm, mut random: impl FnMut() -> [u8; 48]) -> Result<key::PrivateKey, KeyError> {
    let algorithm = key_algorithm(algorithm);
    key::generate(algorithm, &random()).or_else(|_| key::generate(algorithm, &random()))
}

fn key_algorithm(algorithm: api::Algorithm) -> key::Algorithm {
    match algorithm {
        api::Algorithm::EdDSA => key::Algorithm::EdDsa,
        api::Algorithm::ES256 => key::Algorithm::Es256,
        api::Algorithm::HS256 => key::Algorithm::Hs256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    fn counting() -> impl FnMut() -> [u8; 48] {
        let mut count = 0;
        move || {
            count += 1;
            [count; 48]
        }
    }

    fn states(keys: &Keys) -> Vec<KeyState> {
        keys.states.keys.iter().map(|record| record.state).collect()
    }

    #[test]
    fn keys_survive_their_documents() {
        let keys = Keys::first(api::Algorithm::EdDSA, 7, counting()).unwrap();
        let states = serde_json::to_vec(&keys.states).unwrap();
        let read = Keys::read(keys.private.to_json().as_bytes(), &states).unwrap();
        assert_eq!(read.private.to_json(), keys.private.to_json());
        assert_eq!(read.states, keys.states);
        assert!(Keys::read(b"{}", &states).unwrap_err().starts_with("keys.json: "));
    }

    #[test]
    fn another_algorithm_replaces_the_key_only_when_every_broker_knows_the_new_one() {
        let mut random = counting();
        let keys = Keys::first(api::Algorithm::EdDSA, 0, &mut random).unwrap();
        let old = keys.ids();
        let keys = keys.advance(api::Algorithm::ES256, Some(&old), 10, DAY, &mut random).unwrap();
        assert_eq!(states(&keys), [KeyState::Active, KeyState::Next]);
        let keys = keys.advance(api::Algorithm::ES256, None, 20, DAY, &mut random).unwrap();
        assert_eq!(
            states(&keys),
            [KeyState::Active, KeyState::Next],
            "brokers that cannot be asked do not count as yes"
        );
        let both = keys.ids();
        let keys = keys.advance(api::Algorithm::ES256, Some(&both), 30, DAY, &mut random).unwrap();
        assert_eq!(states(&keys), [KeyState::Retiring, KeyState::Active]);
        assert_eq!(keys.private.active(&keys.states).unwrap().algorithm(), key::Algorithm::Es256);
        let keys = keys.advance(api::Algorithm::ES256, Some(&both), 29 + DAY, DAY, &mut random).unwrap();
        assert_eq!(keys.ids(), both, "a token of the old key may still be valid");
        let keys = keys.advance(api::Algorithm::ES256, Some(&both), 30 + DAY, DAY, &mut random).unwrap();
        assert_eq!(states(&keys), [KeyState::Active]);
    }

    #[test]
    fn nothing_moves_when_nothing_is_due() {
        let keys = Keys::first(api::Algorithm::EdDSA, 0, counting()).unwrap();
        let before = keys.states.clone();
        let after = keys.advance(api::Algorithm::EdDSA, None, u64::MAX, DAY, || unreachable!()).unwrap();
        assert_eq!(after.states, before);
    }
}
