//! The signing keys, as the operator keeps them in `<name>-jwt`: `keys.json` and `state.json`.

use std::time::SystemTime;

use super::credentials::random;
use super::state::{self, Home};
use super::{Error, api_algorithm};
use crate::api;
use crate::auth::key::{self, KeyState, KeyStates, PrivateKeys};

/// Makes sure that there is a signing key of this algorithm; the public keys.
///
/// A key of another algorithm, from before the object changed, no longer signs; tokens that it signed stay valid.
pub fn keep(home: &Home, algorithm: api::Algorithm) -> Result<Vec<u8>, Error> {
    let algorithm = api_algorithm(algorithm);
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let wrong = |source| Error::Keys { path: home.keys(), source };
    let mut keys = match state::read(&home.keys())? {
        Some(text) => PrivateKeys::parse(text.as_bytes()).map_err(wrong)?,
        None => PrivateKeys::default(),
    };
    let states: Option<KeyStates> = state::read_json(&home.key_states())?;
    if let Some(states) = &states
        && keys.active(states).is_some_and(|key| key.algorithm() == algorithm)
    {
        return Ok(keys.public().into_bytes());
    }
    let new = generate(algorithm, home)?;
    let mut fresh = KeyStates::first(&new, now);
    for mut record in states.into_iter().flat_map(|states| states.keys) {
        if record.state == KeyState::Active {
            record.state = KeyState::Retiring;
            record.since = now;
        }
        fresh.keys.push(record);
    }
    keys.keys.push(new);
    state::write(&home.keys(), keys.to_json().as_bytes())?;
    state::write_json(&home.key_states(), &fresh)?;
    Ok(keys.public().into_bytes())
}

fn generate(algorithm: key::Algorithm, home: &Home) -> Result<key::PrivateKey, Error> {
    // Some bytes are no key on the curve, about once in four thousand million times: two tries are enough for ever.
    let first = key::generate(algorithm, &random()?);
    let made = if first.is_ok() { first } else { key::generate(algorithm, &random()?) };
    made.map_err(|source| Error::Keys { path: home.keys(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_outlive_a_change_of_algorithm() {
        let state = tempfile::tempdir().unwrap();
        let home = Home::new(state.path(), "shop", "home");
        let first = keep(&home, api::Algorithm::EdDSA).unwrap();
        assert_eq!(keep(&home, api::Algorithm::EdDSA).unwrap(), first);

        keep(&home, api::Algorithm::ES256).unwrap();
        let keys = PrivateKeys::parse(state::read(&home.keys()).unwrap().unwrap().as_bytes()).unwrap();
        let states: KeyStates = state::read_json(&home.key_states()).unwrap().unwrap();
        assert_eq!(keys.keys.len(), 2);
        assert_eq!(keys.active(&states).unwrap().algorithm(), key::Algorithm::Es256);
        assert!(states.keys.iter().any(|record| record.state == KeyState::Retiring));
    }
}
