//! Random policies and random clients, decided by the broker's code and by an oracle that knows nothing but sets of
//! topics.
//!
//! The oracle substitutes placeholders itself, lists the topics of a rule out of a small universe by the definition of
//! the specification, and goes through the rules in their order. Whatever is decided has to be explained alike.
//!
//! `MQTT_MODEL_SEED` repeats a run, `MQTT_MODEL_DECISIONS` makes it longer.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use mqtt_operator::auth::explain::{MAX_REASON, Request, Verb, explain, reason};
use mqtt_operator::auth::key::{Algorithm, PrivateKey, PrivateKeys, generate};
use mqtt_operator::auth::settings::Settings;
use mqtt_operator::auth::token::{Claims, issue};
use mqtt_operator::auth::{Grants, Identity, KeySet, Policy, Presented, Sources, Verdict};
use mqtt_operator::mqtt::QoS;
use serde_json::{Map, Value, json};

const NOW: u64 = 1_763_800_000;

/// Decisions of a run, unless it is asked for more.
const DECISIONS: u64 = 200_000;

/// Levels that topics are made of: whatever a rule can name for some client, and `x`, which none names, so that a wildcard
/// is more than all that is named.
const LEVELS: [&str; 10] = ["a", "b", "c1", "7", "aa", "a7", "x", "$SYS", "%u", "%c"];

/// The next number of a sequence that its seed determines (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// True in one of `of` cases.
    fn rarely(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

/// A rule as JSON, which is what the code under test reads, and as the oracle takes it.
#[derive(Clone, Debug)]
struct Rule {
    allow: bool,
    publish: bool,
    subscribe: bool,
    topic: String,
    qos: Option<Vec<u8>>,
    retain: Option<bool>,
    /// All, none, or those of groups.
    share: Option<Result<bool, Vec<String>>>,
}

impl Rule {
    fn random(random: &mut Random) -> Self {
        let allow = random.below(3) > 0;
        let (publish, subscribe) = [(true, false), (false, true), (true, true)][random.below(3)];
        let qos = random.rarely(4).then(|| (0..=random.below(2)).map(|_| random.below(3) as u8).collect());
        let retain = (publish && random.rarely(5)).then(|| random.rarely(2));
        let share = (subscribe && random.rarely(4)).then(|| match random.below(3) {
            0 => Ok(true),
            1 => Ok(false),
            _ => Err(vec!["g".to_owned()]),
        });
        Self { allow, publish, subscribe, topic: rule_topic(random), qos, retain, share }
    }

    fn json(&self) -> Value {
        let action = match (self.publish, self.subscribe) {
            (true, false) => "publish",
            (false, _) => "subscribe",
            (true, true) => "all",
        };
        let permission = if self.allow { "allow" } else { "deny" };
        let mut rule = json!({"permission": permission, "action": action, "topic": self.topic});
        match self.qos.as_deref() {
            Some([one]) => rule["qos"] = json!(one),
            Some(several) => rule["qos"] = json!(several),
            None => {}
        }
        self.retain.into_iter().for_each(|retain| rule["retain"] = json!(retain));
        match &self.share {
            Some(Ok(any)) => rule["share"] = json!(any),
            Some(Err(groups)) => rule["share"] = json!(groups),
            None => {}
        }
        rule
    }
}

/// At most two levels and a tail: one less than topics have, so that sets of topics tell filters apart.
fn rule_topic(random: &mut Random) -> String {
    let plain = ["a", "b", "+", "c1", "7"];
    let placeholders =
        ["${clientid}", "%c", "${username}", "%u", "${sub}", "${claims.site}", "a${claims.site}", "${claims.none}"];
    let literally = random.rarely(10);
    let level = |random: &mut Random| {
        if literally || random.below(3) > 0 { random.one(&plain) } else { random.one(&placeholders) }
    };
    let text = match random.below(8) {
        0 => "#".to_owned(),
        1 => level(random).to_owned(),
        2 => format!("{}/#", level(random)),
        3 | 4 => format!("{}/{}", level(random), level(random)),
        5 => format!("$SYS/{}", random.one(&["#", "+", "a"])),
        _ => format!("{}/{}/#", level(random), level(random)),
    };
    if literally { format!("eq {text}") } else { text }
}

/// What the client's placeholders stand for.
#[derive(Clone, Debug, Default)]
struct Values {
    client_id: String,
    username: Option<String>,
    subject: Option<String>,
    claims: Map<String, Value>,
}

impl Values {
    fn of(&self, placeholder: &str) -> Option<String> {
        match placeholder {
            "${clientid}" | "%c" => Some(self.client_id.clone()),
            "${username}" | "%u" => self.username.clone(),
            "${sub}" => self.subject.clone(),
            _ => match self.claims.get(placeholder.strip_prefix("${claims.")?.strip_suffix('}')?)? {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) if !number.is_f64() => Some(number.to_string()),
                _ => None,
            },
        }
    }
}

/// A level of a rule's topic for one client: its text, or nothing if a value cannot be used.
fn substitute(level: &str, first: bool, values: &Values) -> Option<String> {
    let (mut text, mut rest, mut substituted) = (String::new(), level, false);
    while !rest.is_empty() {
        let length = match rest {
            _ if rest.starts_with("${") => rest.find('}').unwrap() + 1,
            _ if rest.starts_with("%c") || rest.starts_with("%u") => 2,
            _ => 0,
        };
        if length == 0 {
            text.push_str(&rest[..1]);
            rest = &rest[1..];
            continue;
        }
        let value = values.of(&rest[..length])?;
        if value.is_empty() || value.chars().any(|it| "/+#".contains(it) || it.is_control()) {
            return None;
        }
        text.push_str(&value);
        rest = &rest[length..];
        substituted = true;
    }
    (!(first && substituted && text.starts_with('$'))).then_some(text)
}

/// Whether a topic is one of a filter, by the definition. The level `\0` is any level whatever.
fn is_in(filter: &[&str], topic: &[&str]) -> bool {
    if topic[0].starts_with('$') && matches!(filter[0], "+" | "#") {
        return false;
    }
    below(filter, topic)
}

fn below(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+" | "\0", filter @ ..], [_, topic @ ..]) => below(filter, topic),
        ([a, filter @ ..], [b, topic @ ..]) => a == b && below(filter, topic),
        _ => false,
    }
}

/// All topics of up to three levels, and the sets of them that were asked for.
struct Universe {
    topics: Vec<String>,
    sets: HashMap<String, Rc<Set>>,
}

/// Topics by their places in the universe, a bit for each.
#[derive(PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn has(&self, index: usize) -> bool {
        self.0[index / 64] & 1 << (index % 64) != 0
    }

    fn has_all_of(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(mine, theirs)| theirs & !mine == 0)
    }

    fn has_some_of(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(mine, theirs)| mine & theirs != 0)
    }
}

impl Universe {
    fn new() -> Self {
        let one: Vec<String> = LEVELS.iter().map(ToString::to_string).collect();
        let longer = |heads: &[String]| -> Vec<String> {
            heads.iter().flat_map(|head| LEVELS.iter().map(move |level| format!("{head}/{level}"))).collect()
        };
        let two = longer(&one);
        let three = longer(&two);
        Self { topics: [one, two, three].concat(), sets: HashMap::new() }
    }

    fn set(&mut self, filter: &str) -> Rc<Set> {
        let topics = &self.topics;
        let list = || {
            let levels: Vec<&str> = filter.split('/').collect();
            let mut bits = vec![0; topics.len().div_ceil(64)];
            for (index, topic) in topics.iter().enumerate() {
                if is_in(&levels, &topic.split('/').collect::<Vec<_>>()) {
                    bits[index / 64] |= 1 << (index % 64);
                }
            }
            Set(bits)
        };
        self.sets.entry(filter.to_owned()).or_insert_with(|| Rc::new(list())).clone()
    }
}

/// The topics of a rule for one client.
enum Topics {
    Set(Rc<Set>),
    /// This filter and no other.
    Exactly(Rc<Set>),
    Nothing,
}

fn topics_of(rule: &Rule, values: &Values, universe: &mut Universe) -> Topics {
    if let Some(text) = rule.topic.strip_prefix("eq ") {
        let set = universe.set(text);
        return if text.contains(['+', '#']) { Topics::Exactly(set) } else { Topics::Set(set) };
    }
    let mut levels = Vec::new();
    for (index, level) in rule.topic.split('/').enumerate() {
        match (substitute(level, index == 0, values), rule.allow) {
            (Some(text), _) => levels.push(text),
            (None, true) => return Topics::Nothing,
            (None, false) => levels.push("\0".to_owned()),
        }
    }
    Topics::Set(universe.set(&levels.join("/")))
}

/// One thing that a client asks.
#[derive(Debug)]
struct Ask {
    subscribe: bool,
    /// Of a topic its place in the universe.
    index: usize,
    text: String,
    share: Option<String>,
    qos: u8,
    retain: bool,
}

impl Ask {
    fn random(random: &mut Random, universe: &Universe) -> Self {
        let subscribe = random.rarely(2);
        let index = random.below(universe.topics.len());
        let named = ["a", "b", "c1", "7", "a7", "+"];
        let text = match random.below(7) {
            _ if !subscribe => universe.topics[index].clone(),
            0 => "#".to_owned(),
            1 => random.one(&named).to_owned(),
            2 => format!("{}/#", random.one(&named)),
            3 | 4 => format!("{}/{}", random.one(&named), random.one(&named)),
            5 => format!("$SYS/{}", random.one(&["#", "+", "a"])),
            _ => format!("{}/{}/#", random.one(&named), random.one(&named)),
        };
        let share = (subscribe && random.rarely(3)).then(|| random.one(&["g", "h"]).to_owned());
        Self { subscribe, index, text, share, qos: random.below(3) as u8, retain: random.rarely(2) }
    }
}

/// What the rules say, in the plainest way.
fn oracle(rules: &[(Rule, Topics)], ask: &Ask, universe: &mut Universe) -> bool {
    let asked = universe.set(&ask.text);
    for (rule, topics) in rules {
        let concerns = if ask.subscribe {
            rule.subscribe
                && match (&rule.share, &ask.share) {
                    (None, _) => true,
                    (Some(Ok(any)), share) => *any == share.is_some(),
                    (Some(Err(groups)), Some(share)) => groups.contains(share),
                    (Some(Err(_)), None) => false,
                }
        } else {
            rule.publish && rule.retain.is_none_or(|only| only == ask.retain)
        };
        if !concerns || rule.qos.as_ref().is_some_and(|levels| !levels.contains(&ask.qos)) {
            continue;
        }
        let decides = match (topics, ask.subscribe) {
            (Topics::Nothing, _) | (Topics::Exactly(_), false) => false,
            (Topics::Exactly(set), true) => *set == asked,
            (Topics::Set(set), false) => set.has(ask.index),
            (Topics::Set(set), true) if rule.allow => set.has_all_of(&asked),
            (Topics::Set(set), true) => set.has_some_of(&asked),
        };
        if decides {
            return rule.allow && (ask.subscribe || !(ask.text == "$SYS" || ask.text.starts_with("$SYS/")));
        }
    }
    false
}

/// A policy as settings, and its lists of rules for the oracle.
struct World {
    settings: Value,
    deny: Vec<Rule>,
    users: Vec<(&'static str, Vec<&'static str>, Vec<Rule>)>,
    groups: HashMap<&'static str, Vec<Rule>>,
    anonymous: Option<Vec<Rule>>,
}

/// Names of users and subjects; most are hostile.
const NAMES: [&str; 7] = ["c1", "a", "+", "#", "a/b", "$SYS", "%c"];
const CLIENT_IDS: [&str; 11] = ["c1", "a", "b", "7", "+", "#", "a/b", "", "$SYS", "c1\u{1}", "%u"];
const GROUPS: [&str; 3] = ["one", "two", "absent"];

impl World {
    fn random(random: &mut Random) -> Self {
        fn some(random: &mut Random, most: usize) -> Vec<Rule> {
            (0..random.below(most + 1)).map(|_| Rule::random(random)).collect()
        }
        let list = |rules: &[Rule]| -> Value { rules.iter().map(Rule::json).collect() };
        let deny: Vec<Rule> = some(random, 2).into_iter().filter(|rule| !rule.allow || random.rarely(4)).collect();
        let groups: HashMap<_, _> = [("one", some(random, 3)), ("two", some(random, 3))].into();
        let mut users = Vec::new();
        for name in NAMES.iter().filter(|name| name.len() % 2 == 1) {
            let member = ["one", "two"].into_iter().filter(|_| random.rarely(2)).collect();
            users.push((*name, member, some(random, 4)));
        }
        let anonymous = random.rarely(2).then(|| some(random, 4));
        let settings = json!({
            "jwt": {"issuer": "issuer", "audience": "audience", "maxTokenTtl": 3600, "aclClaim": "acl"},
            "deny": list(&deny),
            "groups": groups.iter().map(|(name, rules)| json!({"name": name, "acl": list(rules)})).collect::<Vec<_>>(),
            "users": users.iter().map(|(name, groups, rules): &(&str, Vec<&str>, Vec<Rule>)| {
                json!({"name": name, "groups": groups, "acl": list(rules)})
            }).collect::<Vec<_>>(),
            "anonymous": anonymous.as_ref().map(|rules| json!({"acl": list(rules)})),
        });
        Self { settings, deny, users, groups, anonymous }
    }

    /// The rules of a user and of its groups, then those of further groups.
    fn of_user(&self, name: &str, further: &[&str]) -> Vec<Rule> {
        let user = self.users.iter().find(|(user, ..)| *user == name);
        let own = user.iter().flat_map(|(_, _, rules)| rules.clone());
        let groups = user.iter().flat_map(|(_, groups, _)| groups.clone()).chain(further.iter().copied());
        own.chain(groups.flat_map(|name| self.groups.get(name).cloned().unwrap_or_default())).collect()
    }
}

/// A client of a policy: who it is, the values of its placeholders, and its rules in order.
struct Client {
    identity: Identity,
    values: Values,
    rules: Vec<Rule>,
}

fn client(random: &mut Random, world: &World, policy: &Policy, key: &PrivateKey) -> Client {
    let client_id = random.one(&CLIENT_IDS).to_owned();
    let name = random.one(&NAMES).to_owned();
    match random.below(4) {
        0 => {
            let rules = world.anonymous.iter().flat_map(|rules| [world.deny.clone(), rules.clone()].concat()).collect();
            Client { identity: Identity::anonymous(), values: Values { client_id, ..Values::default() }, rules }
        }
        1 => {
            let known = world.users.iter().any(|(user, ..)| *user == name);
            let rules = if known { [world.deny.clone(), world.of_user(&name, &[])].concat() } else { Vec::new() };
            let values =
                Values { client_id, username: Some(name.clone()), subject: Some(name.clone()), ..Values::default() };
            Client { identity: Identity::of_user(&name), values, rules }
        }
        _ => {
            let own: Vec<Rule> = (0..random.below(5)).map(|_| Rule::random(random)).collect();
            let groups: Vec<&str> = GROUPS.into_iter().filter(|_| random.rarely(3)).collect();
            let username = random.rarely(2).then(|| random.one(&NAMES).to_owned());
            let sites = [json!("a"), json!(7), json!("+"), json!("a/b"), json!(1.5), json!(["a"]), json!("")];
            let mut claims = Map::new();
            if random.below(4) > 0 {
                claims.insert("site".to_owned(), sites[random.below(sites.len())].clone());
            }
            let identity = bearer(policy, key, &client_id, &name, username.as_deref(), &groups, &own, &claims);
            let rules = [world.deny.clone(), own, world.of_user(&name, &groups)].concat();
            let username = username.or_else(|| Some(name.clone()));
            Client { identity, values: Values { client_id, username, subject: Some(name), claims }, rules }
        }
    }
}

/// Signs a token and presents it.
#[expect(clippy::too_many_arguments, reason = "one for each claim")]
fn bearer(
    policy: &Policy,
    key: &PrivateKey,
    client_id: &str,
    subject: &str,
    username: Option<&str>,
    groups: &[&str],
    rules: &[Rule],
    further: &Map<String, Value>,
) -> Identity {
    let claims = Claims {
        iss: "issuer".to_owned(),
        aud: "audience".to_owned(),
        sub: subject.to_owned(),
        iat: NOW,
        exp: NOW + 60,
        username: username.map(str::to_owned),
        groups: groups.iter().map(ToString::to_string).collect(),
        acl: serde_json::from_value(rules.iter().map(Rule::json).collect()).unwrap(),
        ..Claims::default()
    };
    let token = if further.is_empty() { issue(key, &claims) } else { sign(key, &claims, further) };
    let presented = Presented {
        username: None,
        password: Some(token.as_bytes()),
        method: None,
        data: None,
        bearer: None,
        client_id,
        internal: false,
        certificate: false,
    };
    match policy.authenticate(&presented, NOW) {
        Verdict::Accepted(identity) => identity,
        other => panic!("{other:?}"),
    }
}

/// What [`generate`] makes the key from.
const SECRET: [u8; 48] = [7; 48];

/// A token with claims that [`Claims`] has no fields for.
fn sign(key: &PrivateKey, claims: &Claims, further: &Map<String, Value>) -> String {
    let mut all = claims.to_object();
    all.extend(further.clone());
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
    header.kid = Some(key.kid().to_owned());
    // PKCS #8 around the 32 bytes of an Ed25519 key.
    let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    der.extend(&SECRET[..32]);
    jsonwebtoken::encode(&header, &all, &jsonwebtoken::EncodingKey::from_ed_der(&der)).unwrap()
}

const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Asks the code under test, which must explain what it decides.
fn decide(policy: &Policy, grants: &Grants, client: &Client, ask: &Ask, in_words: bool) -> Result<bool, String> {
    let (qos, client_id) = (QOS[usize::from(ask.qos)], client.values.client_id.as_str());
    let allowed = if ask.subscribe {
        grants.may_subscribe(&ask.text, ask.share.as_deref(), qos)
    } else {
        grants.may_publish(&ask.text, qos, ask.retain)
    };
    let filter = ask.share.as_ref().map_or_else(|| ask.text.clone(), |share| format!("$share/{share}/{}", ask.text));
    let verb = match ask.subscribe {
        true => Verb::Subscribe,
        false if in_words => Verb::Will,
        false => Verb::Publish,
    };
    let request = Request { verb, topic: &filter, qos, retain: ask.retain };
    let explanation = explain(policy, &client.identity, client_id, request, NOW);
    let mut problem = String::new();
    if explanation.is_allowed() != allowed {
        let _ = write!(problem, "decided {allowed}, explained otherwise: {explanation}");
    }
    if let Some(witness) = explanation.witness() {
        let levels: Vec<&str> = ask.text.split('/').collect();
        if !is_in(&levels, &witness.split('/').collect::<Vec<_>>()) {
            let _ = write!(problem, "the witness {witness:?} was not asked for: {explanation}");
        }
    }
    if in_words {
        let short = reason(policy, &client.identity, client_id, request);
        let told = explanation.to_string();
        let starts = if allowed { "ALLOW " } else { "DENY " };
        if short.is_empty()
            || short.len() > MAX_REASON
            || short.chars().any(char::is_control)
            || !told.starts_with(starts)
        {
            let _ = write!(problem, "{short:?}, {told}");
        }
    }
    if problem.is_empty() { Ok(allowed) } else { Err(problem) }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn random_clients_of_random_policies_may_do_what_sets_of_topics_say() {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = from_environment("MQTT_MODEL_SEED").unwrap_or_else(clock);
    let wanted = from_environment("MQTT_MODEL_DECISIONS").unwrap_or(DECISIONS);
    println!("MQTT_MODEL_SEED={seed}");
    let (mut random, mut universe) = (Random(seed), Universe::new());
    let key = generate(Algorithm::EdDsa, &SECRET).unwrap();
    let public = PrivateKeys { keys: vec![key.clone()] }.public();
    let (mut decisions, mut allowed, mut policies) = (0, 0, 0);
    while decisions < wanted {
        let world = World::random(&mut random);
        let settings: Settings = serde_json::from_value(world.settings.clone()).unwrap();
        let jwks = KeySet::parse(public.as_bytes()).unwrap();
        let policy = Policy::new(&settings, Sources { jwks, ..Sources::default() })
            .unwrap_or_else(|error| panic!("seed {seed}: {error}: {}", world.settings));
        policies += 1;
        for _ in 0..8 {
            let client = client(&mut random, &world, &policy, &key);
            let grants = policy.grants(&client.identity, &client.values.client_id);
            let rules = client.rules.iter().map(|it| (it.clone(), topics_of(it, &client.values, &mut universe)));
            let rules: Vec<(Rule, Topics)> = rules.collect();
            for _ in 0..100 {
                let ask = Ask::random(&mut random, &universe);
                let expected = oracle(&rules, &ask, &mut universe);
                let decided = decide(&policy, &grants, &client, &ask, decisions % 16 == 0);
                assert_eq!(
                    decided,
                    Ok(expected),
                    "seed {seed}, decision {decisions}: {ask:?} of {:?} with {:#?}",
                    client.values,
                    client.rules
                );
                (decisions, allowed) = (decisions + 1, allowed + u64::from(expected));
            }
        }
    }
    println!("{decisions} decisions of {policies} policies, {allowed} of them allowed");
    // Otherwise the policies would say too little.
    assert!(allowed > decisions / 20 && allowed < decisions / 2, "{allowed} of {decisions} were allowed");
}
