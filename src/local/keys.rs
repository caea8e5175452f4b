//! The signing keys, as the operator keeps them in `<name>-jwt`: `keys.json` and `state.json`.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::state::{self, Home};
use super::{Error, revocations};
use crate::api::manifest::Manifest;
use crate::auth::key::{KeyState, PrivateKeys};
use crate::auth::rotation::{Given, Keys, Source, Step};
use crate::plan::{KeysPlan, Plan, key_ids};
use crate::process::Shutdown;

/// How often requests are looked for, and whether time alone makes a step due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks between two at the revocations.
const PRUNE_TURNS: u64 = 60;

/// What the keys of one object are kept by.
#[derive(Clone, Debug)]
pub struct Keeping {
    home: Home,
    plan: KeysPlan,
    source: Source,
    /// Seconds that a token of another issuer may live.
    longest_foreign: u64,
}

impl Keeping {
    /// For the object, with the owner's own key where the object refers to one.
    pub fn of(plan: &Plan, manifest: &Manifest, home: &Home) -> Result<Self, Error> {
        let source = match &plan.keys.secret {
            None => Source::Made,
            Some(secret) => {
                let part = |key: &str| manifest.secret_value(&plan.namespace, secret, key).map(<[u8]>::to_vec);
                let given = Given::read(part, plan.keys.shared_secrets);
                let problem = |problem| Error::KeySecret { secret: secret.clone(), problem };
                Source::Given(Some(given.map_err(problem)?))
            }
        };
        let longest_foreign = plan.broker.auth.issuers.iter().map(|issuer| issuer.max_token_ttl).max().unwrap_or(0);
        Ok(Self { home: home.clone(), plan: plan.keys.clone(), source, longest_foreign })
    }

    /// Takes the steps that are due while no broker runs: it will read what is written here.
    pub fn settle(&self) -> Result<(), Error> {
        // For whoever asks for another key.
        put(&self.home.key_secret(), self.plan.secret.as_deref().unwrap_or_default())?;
        // One step publishes a key and the next makes it sign; the keys of an owner may take one more.
        for _ in 0..4 {
            let known = self.stored()?.map(|keys| keys.ids());
            if self.step(known.as_ref())?.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Takes the steps that are due; `loaded` is what the broker verifies with.
    pub fn step(&self, loaded: Option<&BTreeSet<String>>) -> Result<Vec<Step>, Error> {
        let now = now();
        let failed = |source| Error::Keys { path: self.home.keys(), source };
        let mut wanted = self.plan.wanted(self.source.clone());
        wanted.rotate = wanted.rotate.max(rotate_request(&self.home)?);
        wanted.revoke.extend(revoke_request(&self.home)?);
        let before = self.stored()?;
        let keys = match before.clone() {
            Some(keys) => keys,
            None => Keys::first(&wanted, now, random).map_err(failed)?,
        };
        let (keys, steps) = keys.advance(&wanted, loaded, now, random).map_err(failed)?;
        self.store(before.as_ref(), &keys)?;
        Ok(steps)
    }

    /// Removes the revocations that refuse nothing any more.
    fn prune_revocations(&self) -> Result<(), Error> {
        let keys = self.stored()?;
        let records = keys.iter().flat_map(|keys| &keys.states.keys);
        let longest = records.map(|record| record.longest).chain([self.plan.max_token_ttl, self.longest_foreign]);
        let longest = longest.max().unwrap_or(u64::MAX);
        revocations::prune(&self.home.etc().revocations(), longest, now())
    }

    fn stored(&self) -> Result<Option<Keys>, Error> {
        let (path, states) = (self.home.keys(), self.home.key_states());
        let (Some(keys), Some(states)) = (state::read(&path)?, state::read(&states)?) else { return Ok(None) };
        let wrong = |problem| Error::KeyDocuments { path, problem };
        Keys::read(keys.as_bytes(), states.as_bytes()).map(Some).map_err(wrong)
    }

    /// Writes the private keys and then the public ones. There is never a state without its key: a key is written before
    /// the state that names it, and removed after.
    fn store(&self, before: Option<&Keys>, after: &Keys) -> Result<(), Error> {
        let document = after.private.to_json();
        if before.is_none_or(|before| before.states != after.states) {
            let mut all = PrivateKeys { keys: before.map(|it| it.private.keys.clone()).unwrap_or_default() };
            all.keys.retain(|key| !after.private.keys.iter().any(|it| it.kid() == key.kid()));
            all.keys.extend(after.private.keys.iter().cloned());
            state::write(&self.home.keys(), all.to_json().as_bytes())?;
            state::write_json(&self.home.key_states(), &after.states)?;
        }
        put(&self.home.keys(), &document)?;
        put(&self.home.etc().jwks(), &after.private.public())
    }
}

/// Writes a file unless it says so already.
fn put(path: &std::path::Path, content: &str) -> Result<(), Error> {
    if state::read(path)?.as_deref() == Some(content) { Ok(()) } else { state::write(path, content.as_bytes()) }
}

/// Asks for another key to sign; an `up` that runs takes it up at once, and one that does not when it starts.
pub fn request_rotation(home: &Home, at: Timestamp) -> Result<(), Error> {
    if let Some(secret) = state::read(&home.key_secret())?.filter(|secret| !secret.is_empty()) {
        return Err(Error::GivenKey { secret });
    }
    state::write(&home.rotate_request(), format!("{at}\n").as_bytes())
}

/// Asks for keys to be taken back, beside those that are already.
pub fn request_revocation(home: &Home, kids: &BTreeSet<String>) -> Result<(), Error> {
    let mut all = revoke_request(home)?;
    all.extend(kids.iter().cloned());
    let lines: Vec<String> = all.into_iter().map(|kid| format!("{kid}\n")).collect();
    state::write(&home.revoke_request(), lines.concat().as_bytes())
}

fn rotate_request(home: &Home) -> Result<Option<u64>, Error> {
    let path = home.rotate_request();
    let Some(text) = state::read(&path)? else { return Ok(None) };
    let time = text.trim().parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_second()).ok());
    let problem = "expected a time such as 2026-01-31T12:00:00Z; remove the file".to_owned();
    time.map(Some).ok_or(Error::KeyDocuments { path, problem })
}

fn revoke_request(home: &Home) -> Result<BTreeSet<String>, Error> {
    Ok(state::read(&home.revoke_request())?.map(|text| key_ids(&text)).unwrap_or_default())
}

/// Keeps the keys of a broker that runs, until shutdown. `loaded` says what it verifies with.
pub async fn keep(keeping: Keeping, loaded: impl Fn() -> Vec<String>, shutdown: Shutdown) {
    let broker = format!("{}/{}", keeping.home.namespace, keeping.home.name);
    let mut said = String::new();
    let mut turns = 0_u64;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.wait() => return,
        }
        let (loaded, keeping) = (loaded().into_iter().collect(), keeping.clone());
        if turns.is_multiple_of(PRUNE_TURNS)
            && let Err(error) = keeping.prune_revocations()
        {
            tracing::warn!(%error, "revocations that are over stay");
        }
        turns += 1;
        // Files are synced, which may take a while.
        let taken = tokio::task::spawn_blocking(move || keeping.step(Some(&loaded))).await;
        match taken {
            Ok(Ok(steps)) => {
                said.clear();
                for step in steps {
                    let (kid, state) = step.told();
                    let event = if matches!(step, Step::Revoked { .. }) { "revoke" } else { "key" };
                    tracing::info!(target: "audit", event, what = "key", broker, key_id = kid, state, "signing keys");
                }
            }
            Ok(Err(error)) if error.to_string() != said => {
                tracing::error!(%error, "signing keys stay as they are");
                said = error.to_string();
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

fn random() -> [u8; 48] {
    let mut bytes = [0; 48];
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("the library's generator is seeded when it is first used, and then gives bytes");
    bytes
}

/// The key that signs now, as it stands on disk.
pub fn signs(home: &Home) -> Result<Option<String>, Error> {
    let states: Option<crate::auth::key::KeyStates> = state::read_json(&home.key_states())?;
    let states = states.into_iter().flat_map(|states| states.keys);
    Ok(states.into_iter().find(|record| record.state == KeyState::Active).map(|record| record.kid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MqttBroker;
    use crate::auth::KeySet;
    use crate::auth::key::Algorithm;

    fn keeping(home: &Home, jwt: &str) -> Keeping {
        let spec = serde_saphyr::from_str(&format!("auth: {{jwt: {jwt}}}")).unwrap();
        let plan = crate::plan::plan(&MqttBroker::new("home", spec)).unwrap();
        home.create(home.path()).unwrap();
        Keeping::of(&plan, &Manifest::default(), home).unwrap()
    }

    fn published(home: &Home) -> BTreeSet<String> {
        let jwks = state::read(&home.etc().jwks()).unwrap().unwrap();
        KeySet::parse(jwks.as_bytes()).unwrap().ids().into_iter().collect()
    }

    #[test]
    fn keys_are_made_once_and_outlive_a_change_of_algorithm() {
        let state = tempfile::tempdir().unwrap();
        let home = Home::new(state.path(), "shop", "home");
        keeping(&home, "{}").settle().unwrap();
        let first = published(&home);
        keeping(&home, "{}").settle().unwrap();
        assert_eq!(published(&home), first);

        keeping(&home, "{algorithm: ES256}").settle().unwrap();
        let keys = keeping(&home, "{}").stored().unwrap().unwrap();
        assert_eq!(keys.algorithm(&keys.active().kid), Some(Algorithm::Es256));
        assert!(published(&home).len() == 2 && published(&home).is_superset(&first));
    }

    #[test]
    fn a_request_is_fulfilled_when_the_broker_knows_the_key() {
        let state = tempfile::tempdir().unwrap();
        let home = Home::new(state.path(), "shop", "home");
        let keeping = keeping(&home, "{}");
        keeping.settle().unwrap();
        let (old, loaded) = (signs(&home).unwrap().unwrap(), published(&home));
        request_rotation(&home, Timestamp::now()).unwrap();
        for _ in 0..3 {
            keeping.step(Some(&loaded)).unwrap();
        }
        assert_eq!(signs(&home).unwrap().as_deref(), Some(old.as_str()), "the broker has not loaded the other");
        assert_eq!(published(&home).len(), 2);
        keeping.step(Some(&published(&home))).unwrap();
        let new = signs(&home).unwrap().unwrap();
        assert_ne!(new, old);
        assert_eq!(keeping.step(Some(&published(&home))).unwrap(), [], "once");

        request_revocation(&home, &[new.clone()].into()).unwrap();
        keeping.step(None).unwrap();
        assert!(!published(&home).contains(&new) && published(&home).contains(&old));
        assert!(!state::read(&home.keys()).unwrap().unwrap().contains(&new));
    }

    #[test]
    fn a_request_is_refused_while_the_key_is_the_owners() {
        let state = tempfile::tempdir().unwrap();
        let home = Home::new(state.path(), "shop", "home");
        keeping(&home, "{}").settle().unwrap();
        request_rotation(&home, Timestamp::now()).unwrap();
        let secret = br#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine", "namespace": "default"}, "stringData": {"keys.json": KEYS}}"#;
        let keys = state::read(&home.keys()).unwrap().unwrap();
        let secret = String::from_utf8_lossy(secret).replace("KEYS", &serde_json::to_string(&keys).unwrap());
        let manifest = crate::api::manifest::read(&secret).unwrap();
        let spec = serde_saphyr::from_str("auth: {jwt: {keySecretRef: {name: mine}}}").unwrap();
        let plan = crate::plan::plan(&MqttBroker::new("home", spec)).unwrap();
        Keeping::of(&plan, &manifest, &home).unwrap().settle().unwrap();
        let error = request_rotation(&home, Timestamp::now()).unwrap_err().to_string();
        assert!(error.contains("Secret mine") && error.contains("mqttctl up"), "{error}");
        keeping(&home, "{}").settle().unwrap();
        request_rotation(&home, Timestamp::now()).unwrap();
    }

    #[test]
    fn a_request_that_is_not_understood_is_said_and_changes_nothing() {
        let state = tempfile::tempdir().unwrap();
        let home = Home::new(state.path(), "shop", "home");
        let keeping = keeping(&home, "{}");
        keeping.settle().unwrap();
        let before = published(&home);
        state::write(&home.rotate_request(), b"soon").unwrap();
        let error = keeping.step(Some(&before)).unwrap_err().to_string();
        assert!(error.contains("2026-01-31T12:00:00Z"), "{error}");
        assert_eq!(published(&home), before);
    }
}
