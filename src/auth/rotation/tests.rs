use proptest::prelude::*;

use super::*;

const DAY: u64 = 24 * 3600;

fn counting() -> impl FnMut() -> [u8; 48] {
    let mut count = 0_u64;
    move || {
        count += 1;
        let mut bytes = [0; 48];
        bytes[24..32].copy_from_slice(&count.to_be_bytes());
        bytes[40..].copy_from_slice(&count.to_be_bytes());
        bytes
    }
}

fn states(keys: &Keys) -> Vec<KeyState> {
    keys.states.keys.iter().map(|record| record.state).collect()
}

fn wanted() -> Wanted {
    Wanted { max_token_ttl: DAY, ..Wanted::default() }
}

fn first(wanted: &Wanted, random: impl FnMut() -> [u8; 48]) -> Keys {
    Keys::first(wanted, 0, random).unwrap()
}

fn pem(algorithm: &str) -> &'static str {
    match algorithm {
        // openssl genpkey -algorithm ed25519
        "ed25519" => {
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n"
        }
        // openssl ecparam -name prime256v1 -genkey
        _ => {
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----\nMDECAQEEII6bEJ5xkJi/mASH3x9dd+nLKWBuvtImO19XwhPfhPSyoAoGCCqGSM49\nAwEH\n-----END EC PRIVATE KEY-----\n"
        }
    }
}

fn given(parts: &[(&str, &str)]) -> Result<Given, String> {
    Given::read(|name| parts.iter().find(|(part, _)| *part == name).map(|(_, text)| text.as_bytes().to_vec()), false)
}

#[test]
fn keys_survive_their_documents() {
    let keys = first(&wanted(), counting());
    let states = serde_json::to_vec(&keys.states).unwrap();
    let read = Keys::read(keys.private.to_json().as_bytes(), &states).unwrap();
    assert_eq!(read.private.to_json(), keys.private.to_json());
    assert_eq!(read.states, keys.states);
    assert!(Keys::read(b"{}", &states).unwrap_err().starts_with("keys.json: "));
}

#[test]
fn states_of_before_this_version_are_read() {
    let key = key::generate(Algorithm::EdDsa, &[1; 48]).unwrap();
    let state = format!(r#"{{"format":1,"keys":[{{"kid":"{}","state":"active","since":5}}]}}"#, key.kid());
    let keys = Keys::read(PrivateKeys { keys: vec![key] }.to_json().as_bytes(), state.as_bytes()).unwrap();
    assert_eq!(serde_json::to_string(&keys.states).unwrap(), state, "and nothing is written that they do not need");
    let (keys, steps) = keys.advance(&wanted(), None, 9, counting()).unwrap();
    assert_eq!((keys.active().longest, steps), (DAY, vec![]));
}

#[test]
fn another_algorithm_replaces_the_key_only_when_every_broker_knows_the_new_one() {
    let mut random = counting();
    let keys = first(&wanted(), &mut random);
    let wanted = Wanted { algorithm: Algorithm::Es256, ..wanted() };
    let old = keys.ids();
    let (keys, _) = keys.advance(&wanted, Some(&old), 10, &mut random).unwrap();
    assert_eq!(states(&keys), [KeyState::Active, KeyState::Next]);
    assert_eq!(keys.ids_in_use(), old);
    let (keys, _) = keys.advance(&wanted, None, 20, &mut random).unwrap();
    assert_eq!(states(&keys), [KeyState::Active, KeyState::Next], "brokers that cannot be asked do not count as yes");
    let both = keys.ids();
    let (keys, steps) = keys.advance(&wanted, Some(&both), 30, &mut random).unwrap();
    assert_eq!(states(&keys), [KeyState::Retiring, KeyState::Active]);
    let before = old.into_iter().next().unwrap();
    assert_eq!(steps, [Step::Promoted { kid: keys.active().kid.clone(), before: before.clone() }]);
    assert_eq!(keys.algorithm(&keys.active().kid), Some(Algorithm::Es256));
    let end = 30 + DAY + GRACE;
    let (keys, _) = keys.advance(&wanted, Some(&both), end - 1, &mut random).unwrap();
    assert_eq!(keys.ids(), both, "a token of the old key may still be valid");
    assert_eq!(keys.due_at(&wanted, end - 1), Some(end));
    let (keys, steps) = keys.advance(&wanted, Some(&both), end, &mut random).unwrap();
    assert_eq!((states(&keys), steps), (vec![KeyState::Active], vec![Step::Gone(before)]));
}

#[test]
fn a_key_that_is_not_wanted_any_more_is_dropped_before_it_signs() {
    let mut random = counting();
    let keys = first(&wanted(), &mut random);
    let es256 = Wanted { algorithm: Algorithm::Es256, ..wanted() };
    let (keys, _) = keys.advance(&es256, None, 10, &mut random).unwrap();
    let all = keys.ids();
    let (keys, steps) = keys.advance(&wanted(), Some(&all), 20, &mut random).unwrap();
    assert_eq!(states(&keys), [KeyState::Active]);
    assert!(matches!(steps.as_slice(), [Step::Withdrawn(_)]), "{steps:?}");
}

#[test]
fn nothing_moves_when_nothing_is_due() {
    let keys = first(&wanted(), counting());
    let before = keys.states.clone();
    let (after, steps) = keys.advance(&wanted(), None, u64::MAX, || unreachable!()).unwrap();
    assert_eq!((after.states, steps), (before, vec![]));
}

#[test]
fn an_interval_asks_for_another_key_when_it_is_over() {
    let mut random = counting();
    let keys = first(&wanted(), &mut random);
    let wanted = Wanted { interval: Some(DAY), ..wanted() };
    assert_eq!(keys.due_at(&wanted, 5), Some(DAY));
    let (keys, steps) = keys.advance(&wanted, None, DAY - 1, &mut random).unwrap();
    assert_eq!(steps, []);
    let (keys, _) = keys.advance(&wanted, None, DAY, &mut random).unwrap();
    let all = keys.ids();
    let (keys, _) = keys.advance(&wanted, Some(&all), DAY + 5, &mut random).unwrap();
    assert_eq!(states(&keys), [KeyState::Retiring, KeyState::Active]);
    let (keys, steps) = keys.advance(&wanted, Some(&all), 2 * DAY + 4, &mut random).unwrap();
    assert_eq!((keys.states.keys.len(), steps), (2, vec![]), "counted from when it began to sign");
}

#[test]
fn a_request_is_fulfilled_once_however_long_it_stands() {
    let mut random = counting();
    let mut keys = first(&wanted(), &mut random);
    for at in [1, 500] {
        let wanted = Wanted { rotate: Some(at), ..wanted() };
        let before = keys.active().kid.clone();
        for now in at..at + 20 {
            let loaded = keys.ids();
            keys = keys.advance(&wanted, Some(&loaded), now, &mut random).unwrap().0;
        }
        assert_ne!(keys.active().kid, before);
        assert!(!keys.states.keys.iter().any(|record| record.state == KeyState::Next), "{:?}", keys.states);
    }
    assert_eq!(keys.states.keys.len(), 3);
    let (keys, steps) = keys.advance(&Wanted { rotate: Some(999), ..wanted() }, None, 998, &mut random).unwrap();
    assert_eq!((steps, keys.due_at(&Wanted { rotate: Some(999), ..wanted() }, 998)), (vec![], Some(999)));
    let (_, steps) = keys.advance(&Wanted { rotate: Some(400), ..wanted() }, None, 998, &mut random).unwrap();
    assert_eq!(steps, [], "the key has signed for a shorter time than that");
}

#[test]
fn a_revoked_key_is_gone_at_once_and_never_comes_back() {
    let mut random = counting();
    let keys = first(&wanted(), &mut random);
    let old = keys.active().kid.clone();
    let copy = keys.clone();
    let revoking = Wanted { revoke: [old.clone()].into(), ..wanted() };
    let (keys, steps) = keys.advance(&revoking, None, 10, &mut random).unwrap();
    assert_eq!(states(&keys), [KeyState::Active]);
    let successor = Some(keys.active().kid.clone());
    assert_eq!(steps, [Step::Revoked { kid: old.clone(), successor }]);
    assert!(!keys.private.to_json().contains(&old) && keys.is_revoked(&old));
    let (keys, steps) = keys.advance(&revoking, None, 11, || unreachable!()).unwrap();
    assert_eq!(steps, [], "the request may stand for ever");

    // Somebody puts the Secret's keys back from before.
    let mut restored = keys.clone();
    restored.states.keys = copy.states.keys;
    restored.private = copy.private;
    let (restored, _) = restored.advance(&wanted(), None, 12, &mut random).unwrap();
    assert_ne!(restored.active().kid, old);
}

#[test]
fn a_key_that_brokers_have_is_the_successor_of_a_revoked_one() {
    let mut random = counting();
    let keys = first(&wanted(), &mut random);
    let (keys, _) = keys.advance(&Wanted { rotate: Some(5), ..wanted() }, None, 5, &mut random).unwrap();
    let next = keys.states.keys[1].kid.clone();
    let revoke = [keys.active().kid.clone()].into();
    let (keys, _) = keys.advance(&Wanted { revoke, ..wanted() }, None, 6, || unreachable!()).unwrap();
    assert_eq!(keys.active().kid, next);
}

#[test]
fn a_longest_token_outlives_a_shorter_limit() {
    let mut random = counting();
    let keys = first(&Wanted { max_token_ttl: 10 * DAY, ..wanted() }, &mut random);
    let short = Wanted { max_token_ttl: 60, rotate: Some(5), ..wanted() };
    let (keys, _) = keys.advance(&short, None, 5, &mut random).unwrap();
    let all = keys.ids();
    let (keys, _) = keys.advance(&short, Some(&all), 6, &mut random).unwrap();
    assert_eq!(Keys::gone_at(&keys.states.keys[0]), Some(6 + 10 * DAY + GRACE));
    let (keys, _) = keys.advance(&Wanted { max_token_ttl: 20 * DAY, ..wanted() }, None, 9, &mut random).unwrap();
    assert_eq!(Keys::gone_at(&keys.states.keys[0]), Some(6 + 20 * DAY + GRACE), "and a longer one counts at once");
}

#[test]
fn there_are_not_more_keys_than_there_may_be() {
    let mut random = counting();
    let mut keys = first(&wanted(), &mut random);
    for now in 1..200 {
        let loaded = keys.ids();
        keys = keys.advance(&Wanted { rotate: Some(now), ..wanted() }, Some(&loaded), now, &mut random).unwrap().0;
    }
    assert_eq!(keys.states.keys.len(), MOST);
    let until = keys.states.keys.iter().filter_map(Keys::gone_at).min().unwrap();
    assert_eq!(keys.waiting(&Wanted { rotate: Some(300), ..wanted() }, 300), Some(Waiting::TooMany { until }));
}

#[test]
fn keys_of_openssl_are_read() {
    for (pem_of, algorithm) in [("ed25519", Algorithm::EdDsa), ("p256", Algorithm::Es256)] {
        let given = given(&[("tls.key", pem(pem_of))]).unwrap();
        assert_eq!(given.keys[0].algorithm(), algorithm);
    }
    // The key of RFC 8037, appendix A.
    let kid = given(&[("tls.key", pem("ed25519"))]).unwrap().keys[0].kid().to_owned();
    assert_eq!(kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    for (parts, expected) in [
        (&[][..], "it has neither keys.json nor tls.key"),
        (&[("tls.key", "hello")], "tls.key: there is no PEM block with a private key"),
        (&[("tls.key", "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----")], "it is not base64"),
        (&[("tls.key", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END")], "neither Ed25519 nor P-256"),
        (&[("tls.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END")], "it is encrypted"),
        (&[("keys.json", "{}")], "keys.json: the key set has no `keys`"),
    ] {
        let error = given_error(parts);
        assert!(error.contains(expected), "{error}");
    }
}

fn given_error(parts: &[(&str, &str)]) -> String {
    given(parts).unwrap_err()
}

#[test]
fn a_shared_secret_of_an_owner_must_be_asked_for_twice() {
    let key = key::generate(Algorithm::Hs256, &[3; 48]).unwrap();
    let json = PrivateKeys { keys: vec![key] }.to_json();
    assert!(given_error(&[("keys.json", &json)]).contains("acknowledgeSharedSecret"));
    assert!(Given::read(|name| (name == "keys.json").then(|| json.clone().into_bytes()), true).is_ok());
}

#[test]
fn a_new_key_of_its_owner_takes_over_when_every_broker_knows_it() {
    let mut random = || -> [u8; 48] { unreachable!("keys of an owner are not made here") };
    let from = |pem: &str| Wanted { source: Source::Given(Some(given(&[("tls.key", pem)]).unwrap())), ..wanted() };
    let keys = Keys::first(&from(pem("ed25519")), 0, &mut random).unwrap();
    let old = keys.active().kid.clone();
    // An interval and a request are not for keys that somebody else makes.
    let asked = Wanted { interval: Some(1), rotate: Some(3), ..from(pem("ed25519")) };
    let (keys, steps) = keys.advance(&asked, None, 10, &mut random).unwrap();
    assert_eq!(steps, []);
    let other = from(pem("p256"));
    let (keys, _) = keys.advance(&other, None, 20, &mut random).unwrap();
    assert_eq!(states(&keys), [KeyState::Active, KeyState::Next]);
    let all = keys.ids();
    let (keys, _) =
        keys.advance(&Wanted { source: Source::Given(None), ..wanted() }, Some(&all), 21, &mut random).unwrap();
    let (keys, _) = keys.advance(&other, Some(&all), 22, &mut random).unwrap();
    assert_eq!(states(&keys), [KeyState::Retiring, KeyState::Active]);
    // Back again: it is known to all brokers, so that it signs with the next step.
    let (keys, _) = keys.advance(&from(pem("ed25519")), Some(&all), 23, &mut random).unwrap();
    let (keys, _) = keys.advance(&from(pem("ed25519")), Some(&all), 24, &mut random).unwrap();
    assert_eq!(keys.active().kid, old);
    // Revoked where there is no other: the broker signs with one of its own, and says that it waits for the owner.
    let revoking = Wanted { revoke: [old.clone()].into(), ..from(pem("ed25519")) };
    let (keys, _) = keys.advance(&revoking, None, 25, counting()).unwrap();
    assert_ne!(keys.active().kid, old);
    assert_eq!(keys.waiting(&revoking, 25), Some(Waiting::Revoked { kid: old }));
}

/// What can happen, in any order.
#[derive(Clone, Debug)]
enum Event {
    Time(u64),
    /// The keeper looks. `stores_all` is false where it stops between its two writes.
    Look {
        stores_all: bool,
    },
    BrokerStarts,
    BrokerEnds(usize),
    BrokerLoads(usize),
    BrokerAnswers(usize, bool),
    Signs {
        ttl: u64,
        late: bool,
    },
    MaxTtl(u64),
    Interval(Option<u64>),
    Rotate(i64),
    Revoke(usize),
    Algorithm(Algorithm),
    Give(Option<Vec<u8>>),
    Unreadable,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1_u64..200).prop_map(Event::Time),
        1 => (200_u64..4000).prop_map(Event::Time),
        10 => prop::bool::weighted(0.8).prop_map(|stores_all| Event::Look { stores_all }),
        2 => Just(Event::BrokerStarts),
        1 => (0_usize..4).prop_map(Event::BrokerEnds),
        8 => (0_usize..4).prop_map(Event::BrokerLoads),
        3 => (0_usize..4, any::<bool>()).prop_map(|(at, answers)| Event::BrokerAnswers(at, answers)),
        6 => (1_u64..1000, any::<bool>()).prop_map(|(ttl, late)| Event::Signs { ttl, late }),
        1 => (1_u64..1000).prop_map(Event::MaxTtl),
        1 => prop::option::of(60_u64..500).prop_map(Event::Interval),
        3 => (-50_i64..50).prop_map(Event::Rotate),
        1 => (0_usize..4).prop_map(Event::Revoke),
        1 => prop_oneof![Just(Algorithm::EdDsa), Just(Algorithm::Es256)].prop_map(Event::Algorithm),
        1 => prop::option::of(prop::collection::vec(1_u8..5, 1..4)).prop_map(Event::Give),
        1 => Just(Event::Unreadable),
    ]
}

struct Broker {
    loaded: BTreeSet<String>,
    answers: bool,
}

struct Token {
    kid: String,
    expires: u64,
}

/// The world around the keys.
struct World {
    now: u64,
    wanted: Wanted,
    keys: Keys,
    /// What brokers find when they look.
    published: BTreeSet<String>,
    brokers: Vec<Broker>,
    tokens: Vec<Token>,
    /// The key that signed until a moment ago, and when that was.
    signed_before: Option<(String, u64)>,
    /// The longest token that brokers accept.
    accepted: u64,
    /// Brokers may not know the key that signs, because the one before was revoked.
    emergency: bool,
}

impl World {
    fn new(random: impl FnMut() -> [u8; 48]) -> Self {
        let wanted = Wanted { max_token_ttl: 500, ..Wanted::default() };
        let keys = Keys::first(&wanted, 1000, random).unwrap();
        Self {
            now: 1000,
            accepted: wanted.max_token_ttl,
            published: keys.ids(),
            brokers: Vec::new(),
            tokens: Vec::new(),
            signed_before: None,
            emergency: false,
            wanted,
            keys,
        }
    }

    fn look(&mut self, stores_all: bool, random: impl FnMut() -> [u8; 48]) {
        let mut loaded = Some(self.published.clone());
        for broker in &self.brokers {
            loaded = loaded.filter(|_| broker.answers).map(|known| &known & &broker.loaded);
        }
        // Through the documents, as whoever keeps them does.
        let states = serde_json::to_vec(&self.keys.states).unwrap();
        let keys = Keys::read(self.keys.private.to_json().as_bytes(), &states).unwrap();
        let before = keys.active().kid.clone();
        let (keys, steps) = keys.advance(&self.wanted, loaded.as_ref(), self.now, random).unwrap();
        self.keys = keys;
        self.accepted = self.wanted.max_token_ttl;
        if self.keys.active().kid != before {
            self.signed_before = Some((before, self.now));
        }
        for step in steps {
            match step {
                Step::Promoted { .. } => self.emergency = false,
                Step::Revoked { kid, successor } => {
                    self.emergency |= successor.is_some();
                    self.tokens.retain(|token| token.kid != kid);
                }
                _ => {}
            }
        }
        if stores_all {
            self.published = self.keys.ids();
        }
    }

    fn sign(&mut self, ttl: u64, late: bool) {
        let ttl = ttl.min(self.accepted);
        let kid = match &self.signed_before {
            Some((kid, at)) if late && self.now < at + GRACE && !self.keys.is_revoked(kid) => kid.clone(),
            _ => self.keys.active().kid.clone(),
        };
        self.tokens.push(Token { kid, expires: self.now + ttl });
    }

    fn happens(&mut self, event: Event, random: impl FnMut() -> [u8; 48]) {
        match event {
            Event::Time(seconds) => self.now += seconds,
            Event::Look { stores_all } => self.look(stores_all, random),
            Event::BrokerStarts if self.brokers.len() < 4 => {
                self.brokers.push(Broker { loaded: self.published.clone(), answers: true });
            }
            Event::BrokerStarts => {}
            Event::BrokerEnds(at) => drop((at < self.brokers.len()).then(|| self.brokers.remove(at))),
            Event::BrokerLoads(at) => {
                if let Some(broker) = self.brokers.get_mut(at) {
                    broker.loaded.clone_from(&self.published);
                }
            }
            Event::BrokerAnswers(at, answers) => {
                if let Some(broker) = self.brokers.get_mut(at) {
                    broker.answers = answers;
                }
            }
            Event::Signs { ttl, late } => self.sign(ttl, late),
            Event::MaxTtl(seconds) => self.wanted.max_token_ttl = seconds,
            Event::Interval(seconds) => self.wanted.interval = seconds,
            Event::Rotate(after) => self.wanted.rotate = self.now.checked_add_signed(after),
            Event::Revoke(at) => {
                if let Some(record) = self.keys.states.keys.get(at) {
                    self.wanted.revoke.insert(record.kid.clone());
                }
            }
            Event::Algorithm(algorithm) => self.wanted.algorithm = algorithm,
            Event::Give(None) => self.wanted.source = Source::Made,
            Event::Give(Some(seeds)) => {
                let mut keys: Vec<PrivateKey> = Vec::new();
                for seed in seeds {
                    let key = key::generate(Algorithm::EdDsa, &[seed; 48]).unwrap();
                    if !keys.iter().any(|it| it.kid() == key.kid()) {
                        keys.push(key);
                    }
                }
                self.wanted.source = Source::Given(Some(Given { keys }));
            }
            Event::Unreadable => self.wanted.source = Source::Given(None),
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let states = &self.keys.states;
        let count = |state| states.keys.iter().filter(|record| record.state == state).count();
        prop_assert_eq!(count(KeyState::Active), 1, "exactly one key signs: {:?}", states);
        prop_assert!(count(KeyState::Next) <= 1, "{:?}", states);
        let ids = self.keys.ids();
        prop_assert_eq!(ids.len(), states.keys.len(), "no key is there twice: {:?}", states);
        let private: BTreeSet<String> = self.keys.private.keys.iter().map(|key| key.kid().to_owned()).collect();
        prop_assert_eq!(&private, &ids, "each key has a state, and each state a key");
        for revoked in &states.revoked {
            prop_assert!(!ids.contains(&revoked.kid), "{} came back: {:?}", revoked.kid, states);
        }
        let active = &self.keys.active().kid;
        for broker in self.brokers.iter().filter(|_| !self.emergency) {
            prop_assert!(broker.loaded.contains(active), "a broker refuses what {} signs: {:?}", active, states);
        }
        for token in self.tokens.iter().filter(|token| self.now < token.expires) {
            prop_assert!(ids.contains(&token.kid), "{} went before its last token: {:?}", token.kid, states);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_in_whatever_order(events in prop::collection::vec(event(), 1..150)) {
        let mut random = counting();
        let mut world = World::new(&mut random);
        for event in events {
            world.happens(event, &mut random);
            world.check()?;
        }
    }
}
