//! The life of a broker's keys: `next → active → retiring → gone`.
//!
//! Whoever keeps the keys (the operator in a Secret, `up` in files) reads them, calls [`Keys::advance`], and stores the
//! result before anything else learns of it. What holds after each step, whatever is asked for and whenever it stops:
//!
//! * Exactly one key signs.
//! * A key signs only after every broker has said that it verifies with it. Only a revocation breaks this, because there
//!   the old key must not be waited for.
//! * A key stays until the last token that it can have signed has expired, unless it is revoked.
//! * A revoked key never comes back.

use std::collections::BTreeSet;

use super::key::{self, Algorithm, KeyError, KeyRecord, KeyState, KeyStates, PrivateKey, PrivateKeys, RevokedKey};

/// Seconds that a key stays beyond the last expiry: whoever signs may have read the key just before it retired, and its
/// clock may be ahead.
pub const GRACE: u64 = 60;

/// Keys of one broker, at most. Each stands in a Secret twice, and in the memory of each broker.
pub const MOST: usize = 64;

/// The keys of a broker and where each is in its life.
#[derive(Clone, Debug)]
pub struct Keys {
    pub private: PrivateKeys,
    pub states: KeyStates,
}

/// What is asked of the keys.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of keys that are made here.
    pub algorithm: Algorithm,
    /// Seconds that a token may live.
    pub max_token_ttl: u64,
    /// Seconds after which another key is to sign.
    pub interval: Option<u64>,
    /// When another key was asked for; one that signs since then will do. A time to come counts when it has come.
    pub rotate: Option<u64>,
    /// Keys to take back.
    pub revoke: BTreeSet<String>,
    /// Who makes the keys.
    pub source: Source,
}

/// Who makes the keys.
#[derive(Clone, Debug, Default)]
pub enum Source {
    /// They are made here.
    #[default]
    Made,
    /// Their owner does. `None`: they cannot be read at present, and what there is goes on.
    Given(Option<Given>),
}

/// Keys that their owner has made.
#[derive(Clone, Debug)]
pub struct Given {
    /// The first that is not revoked is to sign; the others verify as long as they are here.
    keys: Vec<PrivateKey>,
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key is published, and waits until every broker has loaded it.
    Published(String),
    /// It was dropped before it signed anything: another one is wanted.
    Withdrawn(String),
    /// A key signs; the one before only verifies.
    Promoted { kid: String, before: String },
    /// A key is removed: whatever it signed has expired.
    Gone(String),
    /// A key is removed although tokens of it may be in use. `successor` signs in its place, where it did.
    Revoked { kid: String, successor: Option<String> },
}

impl Step {
    /// The key, and what became of it, for the audit log.
    pub fn told(&self) -> (&str, &'static str) {
        match self {
            Self::Published(kid) => (kid, "published"),
            Self::Withdrawn(kid) => (kid, "withdrawn"),
            Self::Promoted { kid, .. } => (kid, "signs"),
            Self::Gone(kid) => (kid, "removed"),
            Self::Revoked { kid, .. } => (kid, "revoked"),
        }
    }
}

/// Why the key that is wanted does not sign yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Not every broker has said that it verifies with this key, which is published since then.
    ForBrokers { kid: String, since: u64 },
    /// There are as many keys as there may be; the first of them goes at that time.
    TooMany { until: u64 },
    /// The keys that their owner gives are revoked, among them this one.
    Revoked { kid: String },
}

impl Given {
    /// Reads the parts of a Secret: a JWK Set `keys.json`, in which the first key signs or the one that `state.json` calls
    /// active; or PEM in `tls.key`, in which the first key signs.
    pub fn read(part: impl Fn(&str) -> Option<Vec<u8>>, shared_secrets: bool) -> Result<Self, String> {
        let mut keys = if let Some(json) = part("keys.json") {
            PrivateKeys::parse(&json).map_err(|error| format!("keys.json: {error}"))?.keys
        } else if let Some(pem) = part("tls.key") {
            let text = String::from_utf8(pem).map_err(|_| "tls.key: it is not PEM".to_owned())?;
            key::from_pem(&text).map_err(|error| format!("tls.key: {error}"))?
        } else {
            return Err("it has neither keys.json nor tls.key".to_owned());
        };
        if let Some(state) = part("state.json") {
            let states: KeyStates = serde_json::from_slice(&state).map_err(|error| format!("state.json: {error}"))?;
            let active = states.keys.iter().find(|record| record.state == KeyState::Active);
            let at = active.and_then(|record| keys.iter().position(|key| key.kid() == record.kid));
            let at = at.ok_or_else(|| "state.json: no key of keys.json is active".to_owned())?;
            keys[..=at].rotate_right(1);
        }
        if let Some(twice) = (1..keys.len()).find(|at| keys[..*at].iter().any(|key| key.kid() == keys[*at].kid())) {
            return Err(format!("the key {} is there twice", keys[twice].kid()));
        }
        if keys.iter().any(|key| key.algorithm() == Algorithm::Hs256) && !shared_secrets {
            return Err("it has a key of HS256, which needs algorithm: HS256 and acknowledgeSharedSecret: true".into());
        }
        Ok(Self { keys })
    }

    fn contains(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid() == kid)
    }
}

impl Keys {
    /// Reads `keys.json` and `state.json`.
    pub fn read(keys: &[u8], states: &[u8]) -> Result<Self, String> {
        let mut private = PrivateKeys::parse(keys).map_err(|error| format!("keys.json: {error}"))?;
        let states: KeyStates = serde_json::from_slice(states).map_err(|error| format!("state.json: {error}"))?;
        if private.active(&states).is_none() {
            return Err("state.json: no key of keys.json is active".into());
        }
        if states.keys.iter().filter(|record| record.state == KeyState::Active).count() > 1 {
            return Err("state.json: more than one key is active".into());
        }
        // Where the two are files, a key may have been written whose state was not, or be left over from one that went.
        private.keys.retain(|key| states.keys.iter().any(|record| record.kid == key.kid()));
        if let Some(lost) = states.keys.iter().find(|it| !private.keys.iter().any(|key| key.kid() == it.kid)) {
            return Err(format!("keys.json: the key {} of state.json is missing", lost.kid));
        }
        Ok(Self { private, states })
    }

    /// The first keys of a broker. One signs at once: no broker knows another.
    pub fn first(wanted: &Wanted, now: u64, random: impl FnMut() -> [u8; 48]) -> Result<Self, KeyError> {
        let given = match &wanted.source {
            Source::Given(Some(given)) => given.keys.iter().find(|key| !wanted.revoke.contains(key.kid())).cloned(),
            _ => None,
        };
        let key = given.map_or_else(|| generate(wanted.algorithm, random), Ok)?;
        let mut states = KeyStates::first(&key, now);
        states.keys[0].longest = wanted.max_token_ttl;
        Ok(Self { private: PrivateKeys { keys: vec![key] }, states })
    }

    /// The key that signs.
    pub fn active(&self) -> &KeyRecord {
        let active = self.states.keys.iter().find(|record| record.state == KeyState::Active);
        active.expect("one key is active: that is checked when keys are read, and each step keeps it so")
    }

    /// All key ids.
    pub fn ids(&self) -> BTreeSet<String> {
        self.states.keys.iter().map(|record| record.kid.clone()).collect()
    }

    /// The key ids that tokens in use may have.
    pub fn ids_in_use(&self) -> BTreeSet<String> {
        let in_use = self.states.keys.iter().filter(|record| record.state != KeyState::Next);
        in_use.map(|record| record.kid.clone()).collect()
    }

    /// Whether a key was taken back.
    pub fn is_revoked(&self, kid: &str) -> bool {
        self.states.revoked.iter().any(|revoked| revoked.kid == kid)
    }

    /// How the key of this id signs.
    pub fn algorithm(&self, kid: &str) -> Option<Algorithm> {
        self.private.keys.iter().find(|key| key.kid() == kid).map(PrivateKey::algorithm)
    }

    /// Takes the steps that are due at `now` (Unix time in seconds).
    ///
    /// `loaded` is what every broker verifies with, absent when one of them does not say.
    pub fn advance(
        mut self,
        wanted: &Wanted,
        loaded: Option<&BTreeSet<String>>,
        now: u64,
        mut random: impl FnMut() -> [u8; 48],
    ) -> Result<(Self, Vec<Step>), KeyError> {
        for record in self.states.keys.iter_mut().filter(|record| record.state != KeyState::Next) {
            // Never less: a token that was refused for its length while that was shorter is accepted when it is longer
            // again.
            record.longest = record.longest.max(wanted.max_token_ttl);
        }
        let mut steps = self.revoke(wanted, now, &mut random)?;
        steps.extend(self.withdraw(wanted));
        steps.extend(self.promote(loaded, wanted, now));
        steps.extend(self.publish(wanted, now, &mut random)?);
        steps.extend(self.remove_expired(wanted, now));
        Ok((self, steps))
    }

    fn revoke(
        &mut self,
        wanted: &Wanted,
        now: u64,
        random: &mut impl FnMut() -> [u8; 48],
    ) -> Result<Vec<Step>, KeyError> {
        let mut steps = Vec::new();
        for kid in &wanted.revoke {
            if !self.is_revoked(kid) {
                self.states.revoked.push(RevokedKey { kid: kid.clone(), since: now });
            }
        }
        // Those that stand in the list since long too: a copy of the keys from before may have been put back.
        let revoked: BTreeSet<String> = self.states.revoked.iter().map(|it| it.kid.clone()).collect();
        for record in self.states.keys.iter().filter(|record| revoked.contains(&record.kid)) {
            steps.push(Step::Revoked { kid: record.kid.clone(), successor: None });
        }
        self.states.keys.retain(|record| !revoked.contains(&record.kid));
        self.private.keys.retain(|key| !revoked.contains(key.kid()));
        if steps.is_empty() || self.states.keys.iter().any(|record| record.state == KeyState::Active) {
            return Ok(steps);
        }
        // One that brokers may have loaded already is better than one that they cannot know.
        let next = self.states.keys.iter().position(|record| record.state == KeyState::Next);
        let next = next.filter(|at| self.is_wanted(&self.states.keys[*at].kid, wanted));
        let at = match (next, self.given(wanted)) {
            (Some(at), _) => at,
            (None, Some(key)) => self.add(key.clone(), now),
            (None, None) => {
                let key = generate(wanted.algorithm, random)?;
                self.add(key, now)
            }
        };
        let successor = self.activate(at, wanted, now);
        if let Some(Step::Revoked { successor: of, .. }) = steps.last_mut() {
            *of = Some(successor);
        }
        Ok(steps)
    }

    /// Whether a key is of the kind that is to sign, or the very one that its owner gives.
    fn is_wanted(&self, kid: &str, wanted: &Wanted) -> bool {
        match &wanted.source {
            Source::Made => self.algorithm(kid) == Some(wanted.algorithm),
            Source::Given(None) => true,
            Source::Given(Some(_)) => self.given(wanted).is_some_and(|key| key.kid() == kid),
        }
    }

    /// The key that is to sign, where their owner gives them.
    fn given<'a>(&self, wanted: &'a Wanted) -> Option<&'a PrivateKey> {
        let Source::Given(Some(given)) = &wanted.source else { return None };
        given.keys.iter().find(|key| !self.is_revoked(key.kid()))
    }

    /// Drops a key that nothing is signed with yet and that is not wanted any more.
    fn withdraw(&mut self, wanted: &Wanted) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(at) = self.states.keys.iter().position(|record| record.state == KeyState::Next) {
            let kid = self.states.keys[at].kid.clone();
            if self.is_wanted(&kid, wanted) {
                break;
            }
            // One that has signed before, and was to sign again, has tokens to verify.
            if self.states.keys[at].longest > 0 {
                self.states.keys[at].state = KeyState::Retiring;
            } else {
                self.states.keys.remove(at);
                self.private.keys.retain(|key| key.kid() != kid);
            }
            steps.push(Step::Withdrawn(kid));
        }
        steps
    }

    fn promote(&mut self, loaded: Option<&BTreeSet<String>>, wanted: &Wanted, now: u64) -> Option<Step> {
        let at = self.states.keys.iter().position(|record| record.state == KeyState::Next)?;
        if !loaded?.contains(&self.states.keys[at].kid) {
            return None;
        }
        let before = self.active().kid.clone();
        for record in self.states.keys.iter_mut().filter(|record| record.state == KeyState::Active) {
            (record.state, record.since) = (KeyState::Retiring, now);
        }
        let kid = self.activate(at, wanted, now);
        Some(Step::Promoted { kid, before })
    }

    fn activate(&mut self, at: usize, wanted: &Wanted, now: u64) -> String {
        let record = &mut self.states.keys[at];
        (record.state, record.since) = (KeyState::Active, now);
        record.longest = record.longest.max(wanted.max_token_ttl);
        // It fulfils what was asked for until now.
        if let Some(asked) = wanted.rotate.filter(|asked| *asked <= now) {
            self.states.rotated = self.states.rotated.max(asked);
        }
        record.kid.clone()
    }

    /// Adds a key that does not sign yet, or finds it where it is there.
    fn add(&mut self, key: PrivateKey, now: u64) -> usize {
        if let Some(at) = self.states.keys.iter().position(|record| record.kid == key.kid()) {
            return at;
        }
        let record = KeyRecord { kid: key.kid().to_owned(), state: KeyState::Next, since: now, longest: 0 };
        self.states.keys.push(record);
        self.private.keys.push(key);
        self.states.keys.len() - 1
    }

    /// Publishes the key that is to sign next, and what else its owner gives.
    fn publish(
        &mut self,
        wanted: &Wanted,
        now: u64,
        random: &mut impl FnMut() -> [u8; 48],
    ) -> Result<Vec<Step>, KeyError> {
        let mut steps = Vec::new();
        if let Source::Given(Some(given)) = &wanted.source {
            let signing = self.given(wanted).map(PrivateKey::kid);
            for key in given.keys.iter().filter(|key| Some(key.kid()) != signing) {
                if self.algorithm(key.kid()).is_none() && !self.is_revoked(key.kid()) && self.states.keys.len() < MOST {
                    let at = self.add(key.clone(), now);
                    let record = &mut self.states.keys[at];
                    (record.state, record.longest) = (KeyState::Retiring, wanted.max_token_ttl);
                    steps.push(Step::Published(key.kid().to_owned()));
                }
            }
        }
        if self.waiting_for_room(wanted, now) || !self.is_due(wanted, now) {
            return Ok(steps);
        }
        let key = match self.given(wanted) {
            Some(key) => key.clone(),
            None => generate(wanted.algorithm, random)?,
        };
        let at = self.add(key, now);
        let record = &mut self.states.keys[at];
        // It may be there already: an owner can go back to a key of before.
        (record.state, record.since) = (KeyState::Next, now);
        steps.push(Step::Published(record.kid.clone()));
        Ok(steps)
    }

    /// Whether another key than the active one is to sign, and none is on the way.
    fn is_due(&self, wanted: &Wanted, now: u64) -> bool {
        let active = self.active();
        if self.states.keys.iter().any(|record| record.state == KeyState::Next) {
            return false;
        }
        match &wanted.source {
            Source::Given(None) => false,
            Source::Given(Some(_)) => self.given(wanted).is_some_and(|key| key.kid() != active.kid),
            Source::Made => {
                let asked = wanted.rotate.filter(|asked| *asked <= now && *asked > self.states.rotated);
                self.algorithm(&active.kid) != Some(wanted.algorithm)
                    || asked.is_some_and(|asked| asked >= active.since)
                    || wanted.interval.is_some_and(|interval| now >= active.since.saturating_add(interval))
            }
        }
    }

    fn waiting_for_room(&self, wanted: &Wanted, now: u64) -> bool {
        // One that was there before and is to sign again needs none.
        let known = self.given(wanted).is_some_and(|key| self.algorithm(key.kid()).is_some());
        self.states.keys.len() >= MOST && !known && self.is_due(wanted, now)
    }

    /// When the last token that a retiring key can have signed has expired.
    pub fn gone_at(record: &KeyRecord) -> Option<u64> {
        let retiring = record.state == KeyState::Retiring;
        retiring.then(|| record.since.saturating_add(record.longest).saturating_add(GRACE))
    }

    fn remove_expired(&mut self, wanted: &Wanted, now: u64) -> Vec<Step> {
        let kept = |kid: &str| matches!(&wanted.source, Source::Given(Some(given)) if given.contains(kid));
        let over = |record: &&KeyRecord| Self::gone_at(record).is_some_and(|at| now >= at) && !kept(&record.kid);
        let gone: Vec<String> = self.states.keys.iter().filter(over).map(|record| record.kid.clone()).collect();
        self.states.keys.retain(|record| !gone.contains(&record.kid));
        self.private.keys.retain(|key| !gone.iter().any(|kid| kid == key.kid()));
        gone.into_iter().map(Step::Gone).collect()
    }

    /// Why the key that is wanted does not sign; nothing when it does.
    pub fn waiting(&self, wanted: &Wanted, now: u64) -> Option<Waiting> {
        if let Some(next) = self.states.keys.iter().find(|record| record.state == KeyState::Next) {
            return Some(Waiting::ForBrokers { kid: next.kid.clone(), since: next.since });
        }
        if let Source::Given(Some(given)) = &wanted.source
            && self.given(wanted).is_none()
            && let Some(revoked) = given.keys.first()
        {
            return Some(Waiting::Revoked { kid: revoked.kid().to_owned() });
        }
        let until = self.states.keys.iter().filter_map(Self::gone_at).min();
        self.waiting_for_room(wanted, now).then(|| Waiting::TooMany { until: until.unwrap_or(u64::MAX) })
    }

    /// When time alone makes a step due, at the earliest; in the future of `now`.
    pub fn due_at(&self, wanted: &Wanted, now: u64) -> Option<u64> {
        let made = matches!(wanted.source, Source::Made);
        let interval = wanted.interval.filter(|_| made).map(|it| self.active().since.saturating_add(it));
        let asked = wanted.rotate.filter(|_| made);
        let gone = self.states.keys.iter().filter_map(Self::gone_at);
        gone.chain(interval).chain(asked).filter(|at| *at > now).min()
    }
}

/// About one choice in 2^32 is no key of ES256; then another is.
fn generate(algorithm: Algorithm, mut random: impl FnMut() -> [u8; 48]) -> Result<PrivateKey, KeyError> {
    key::generate(algorithm, &random()).or_else(|_| key::generate(algorithm, &random()))
}

#[cfg(test)]
mod tests;
