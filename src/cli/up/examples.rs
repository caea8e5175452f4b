//! Topics and credentials for the commands that `up` prints: only what the broker's own rules permit.

use crate::auth::rule::{Action, Permission, Rule};
use crate::auth::settings::{Anonymous, Settings};
use crate::auth::{Grants, Policy, Presented, Sources, Verdict};
use crate::local::Running;
use crate::mqtt::QoS;

/// The client ids in the examples. They differ, because the second client of one id ends the connection of the first.
pub const DEVICE: &str = "dev1";
pub const SCREEN: &str = "screen";

/// What the printed commands do.
#[derive(Debug, Default)]
pub struct Examples {
    pub publish: Option<Example>,
    pub subscribe: Option<Example>,
    pub token: Option<TokenExample>,
    pub payload: &'static str,
}

#[derive(Debug)]
pub struct Example {
    pub topic: String,
    /// Absent for an anonymous client.
    pub login: Option<Login>,
}

#[derive(Clone, Debug)]
pub struct Login {
    pub name: String,
    pub password: String,
}

/// A filter that no deny rule touches, and a topic in it.
#[derive(Debug)]
pub struct TokenExample {
    pub filter: String,
    pub topic: String,
}

/// Chooses by asking the broker's own policy, as a client would.
pub fn choose(running: &Running) -> Examples {
    let telemetry: Vec<String> = running.bridge.iter().flat_map(|bridge| bridge.topics.clone()).collect();
    let payload = if telemetry.is_empty() { "hello" } else { r#"{"celsius": 21.5}"# };
    let mut examples = Examples { payload, token: token(&running.auth, &telemetry), ..Examples::default() };
    let hashes = running.hashes.iter().map(|it| (it.name.clone(), it.hash.clone())).collect();
    let Some(policy) = policy(&running.auth, hashes) else { return examples };
    // Anonymous first: the shortest command that works is the best one to read.
    let users =
        running.passwords.iter().map(|(name, password)| Login { name: name.clone(), password: password.clone() });
    for login in std::iter::once(None).chain(users.map(Some)) {
        if examples.publish.is_some() && examples.subscribe.is_some() {
            break;
        }
        let rules = rules_of(&running.auth, login.as_ref());
        let Some(verdict) = log_in(&policy, login.as_ref()) else { continue };
        if examples.subscribe.is_none() {
            let grants = verdict.grants(SCREEN);
            let mut filters = candidates(&telemetry, &rules, Action::Subscribe, SCREEN, login.as_ref());
            let found = filters.find(|filter| grants.may_subscribe(filter, None, QoS::AtMostOnce));
            examples.subscribe = found.map(|topic| Example { topic, login: login.clone() });
        }
        if examples.publish.is_none() {
            let grants = verdict.grants(DEVICE);
            let filters = candidates(&telemetry, &rules, Action::Publish, DEVICE, login.as_ref());
            let mut topics = filters.map(|filter| a_topic_in(&filter));
            let found = topics.find(|topic| grants.may_publish(topic, QoS::AtLeastOnce, false));
            examples.publish = found.map(|topic| Example { topic, login: login.clone() });
        }
    }
    examples
}

fn policy(settings: &Settings, hashes: Vec<(String, String)>) -> Option<Policy> {
    Policy::new(settings, Sources { hashes, ..Sources::default() }).ok()
}

/// Somebody whom the policy accepts.
struct Accepted<'a> {
    policy: &'a Policy,
    identity: crate::auth::Identity,
}

impl Accepted<'_> {
    fn grants(&self, client_id: &str) -> Grants {
        self.policy.grants(&self.identity, client_id)
    }
}

fn log_in<'a>(policy: &'a Policy, login: Option<&Login>) -> Option<Accepted<'a>> {
    let presented = Presented {
        username: login.map(|login| login.name.as_str()),
        password: login.map(|login| login.password.as_bytes()),
        client_id: DEVICE,
        ..Presented::default()
    };
    // No token is presented, so the time plays no part.
    let identity = match policy.authenticate(&presented, 0) {
        Verdict::Accepted(identity) => identity,
        Verdict::CheckPassword(check) => check.conclude(check.verify(&[0; 32])).ok()?,
        Verdict::Refused(_) | Verdict::UnknownKey { .. } => return None,
    };
    Some(Accepted { policy, identity })
}

/// The user's own rules and those of the groups.
fn rules_of(settings: &Settings, login: Option<&Login>) -> Vec<Rule> {
    let Some(login) = login else { return settings.anonymous.clone().map(|it| it.acl).unwrap_or_default() };
    let Some(user) = settings.users.iter().find(|user| user.name == login.name) else { return Vec::new() };
    let groups = settings.groups.iter().filter(|group| user.groups.contains(&group.name));
    user.acl.iter().chain(groups.flat_map(|group| &group.acl)).cloned().collect()
}

/// Filters that may be open to the client: those of telemetry, then those of the allow rules about this action.
fn candidates<'a>(
    telemetry: &'a [String],
    rules: &'a [Rule],
    action: Action,
    client_id: &'a str,
    login: Option<&'a Login>,
) -> impl Iterator<Item = String> + 'a {
    let about = move |rule: &&Rule| rule.action == action || rule.action == Action::All;
    let allowing = rules.iter().filter(|rule| rule.permission == Permission::Allow).filter(about);
    telemetry.iter().cloned().chain(allowing.map(move |rule| resolve(&rule.topic, client_id, login)))
}

fn resolve(topic: &str, client_id: &str, login: Option<&Login>) -> String {
    let user = login.map_or("", |login| login.name.as_str());
    let topic = topic.strip_prefix("eq ").unwrap_or(topic);
    let values = [("${clientid}", client_id), ("%c", client_id), ("${username}", user), ("%u", user), ("${sub}", user)];
    values.iter().fold(topic.to_owned(), |topic, (placeholder, value)| topic.replace(placeholder, value))
}

fn a_topic_in(filter: &str) -> String {
    let level = |level| if level == "+" || level == "#" { "kitchen" } else { level };
    filter.split('/').map(level).collect::<Vec<_>>().join("/")
}

/// The first filter of telemetry, or `test/#`, that no deny rule touches.
fn token(settings: &Settings, telemetry: &[String]) -> Option<TokenExample> {
    let mut candidates = telemetry.iter().cloned().chain(["test/#".to_owned()]);
    candidates.find_map(|filter| {
        // What a token with this rule may do is what an anonymous client would be allowed by it: the same deny rules come
        // first, the same engine decides.
        let (permission, action) = (Permission::Allow, Action::All);
        let rule = Rule { permission, action, topic: filter.clone(), qos: None, retain: None, share: None };
        let anonymous = Some(Anonymous { acl: vec![rule] });
        let settings = Settings { users: Vec::new(), anonymous, ..settings.clone() };
        let policy = policy(&settings, Vec::new())?;
        let grants = log_in(&policy, None)?.grants(DEVICE);
        let topic = a_topic_in(&filter);
        let open =
            grants.may_subscribe(&filter, None, QoS::AtMostOnce) && grants.may_publish(&topic, QoS::AtLeastOnce, false);
        open.then_some(TokenExample { filter, topic })
    })
}

#[cfg(test)]
mod tests {
    use super::{DEVICE, Login, a_topic_in, resolve};

    #[test]
    fn a_rule_becomes_a_topic() {
        let login = Login { name: "ann".into(), password: String::new() };
        let filter = resolve("sensor/${clientid}/${username}/+/#", DEVICE, Some(&login));
        assert_eq!(filter, "sensor/dev1/ann/+/#");
        assert_eq!(a_topic_in(&filter), "sensor/dev1/ann/kitchen/kitchen");
    }
}
