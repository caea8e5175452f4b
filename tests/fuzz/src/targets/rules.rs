//! Filters, placeholders and rules: a set of topics is what its definition says, and no client id is worth more than
//! another.

use mqtt_operator::auth::explain::{MAX_REASON, Request, Verb, explain, reason};
use mqtt_operator::auth::filter::Filter;
use mqtt_operator::auth::settings::Settings;
use mqtt_operator::auth::{Identity, Policy, Sources};
use mqtt_operator::mqtt::{QoS, topic};
use serde_json::{Value, json};

/// Four lines: the topic of a rule, a filter, a topic name, a client id.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.splitn(4, '\n');
    let [rule, asked, name, client_id] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    filters(rule, asked, name);
    for permission in ["allow", "deny"] {
        decisions(permission, rule, asked, name, client_id);
    }
    stays_below(client_id, name);
}

fn is_name(text: &str) -> bool {
    topic::check_name(text).is_ok()
}

/// Two filters and a name: what is told about them agrees.
fn filters(a_text: &str, b_text: &str, name: &str) {
    let (Ok(a), Ok(b)) = (Filter::parse(a_text), Filter::parse(b_text)) else { return };
    assert_eq!(Filter::parse(&a.to_string()).as_ref(), Ok(&a), "{a_text:?} is not read back");
    if is_name(name) {
        assert_eq!(a.matches(name), topic::matches(a_text, name), "{a_text:?} matches {name:?}");
        assert!(
            !(a.covers(&b) && b.matches(name)) || a.matches(name),
            "{name:?} is in {b_text:?}, in {a_text:?} it is not"
        );
        assert!(!(a.matches(name) && b.matches(name)) || a.overlaps(&b), "{name:?} is in {a_text:?} and {b_text:?}");
    }
    assert_eq!(a.overlaps(&b), b.overlaps(&a));
    assert_eq!(a == b, a.covers(&b) && b.covers(&a), "{a_text:?}, {b_text:?}");
    match a.witness_outside(&b) {
        Some(outside) => assert!(is_name(&outside) && b.matches(&outside) && !a.matches(&outside), "{outside:?}"),
        None => assert!(a.covers(&b) && a.overlaps(&b)),
    }
    match (a.witness_of_overlap(&b), a.intersection(&b)) {
        (Some(both), Some(filter)) => {
            assert!(is_name(&both) && a.matches(&both) && b.matches(&both), "{both:?}");
            assert!(a.covers(&filter) && b.covers(&filter) && filter.matches(&both), "{filter}");
        }
        (None, None) => assert!(!a.overlaps(&b)),
        other => panic!("{other:?}"),
    }
}

fn policy(acl: &Value) -> Option<Policy> {
    let jwt = json!({"issuer": "i", "audience": "a", "maxTokenTtl": 60, "aclClaim": "acl"});
    let settings: Settings = serde_json::from_value(json!({"jwt": jwt, "users": [{"name": "u", "acl": acl}]})).ok()?;
    Policy::new(&settings, Sources::default()).ok()
}

/// A rule decides as it is explained, and a wider subscription never gets more than a narrower one.
fn decisions(permission: &str, rule: &str, asked: &str, name: &str, client_id: &str) {
    let everything = json!({"permission": "allow", "action": "all", "topic": "#"});
    let rule = json!({"permission": permission, "action": "all", "topic": rule});
    let Some(policy) = policy(&json!([rule, everything])) else { return };
    let identity = Identity::of_user("u");
    let grants = policy.grants(&identity, client_id);
    let told = |verb, topic: &str| {
        let request = Request { verb, topic, qos: QoS::AtMostOnce, retain: false };
        let explanation = explain(&policy, &identity, client_id, request, 0);
        let short = reason(&policy, &identity, client_id, request);
        assert!(short.len() <= MAX_REASON && !short.chars().any(char::is_control), "{short:?}");
        assert!(!explanation.to_string().is_empty());
        explanation.is_allowed()
    };
    if is_name(name) {
        assert_eq!(told(Verb::Publish, name), grants.may_publish(name, QoS::AtMostOnce, false));
    }
    let Ok(filter) = topic::Filter::parse(asked) else { return };
    let allowed = grants.may_subscribe(filter.filter, filter.share, QoS::AtMostOnce);
    assert_eq!(told(Verb::Subscribe, asked), allowed, "{asked:?}");
    if allowed && is_name(name) && topic::matches(filter.filter, name) {
        assert!(grants.may_subscribe(name, filter.share, QoS::AtMostOnce), "{asked:?} is allowed, and {name:?} is not");
    }
}

/// Whatever its client id is, a client stays below it.
fn stays_below(client_id: &str, name: &str) {
    let acl = json!([{"permission": "allow", "action": "all", "topic": "dev/${clientid}/#"}]);
    let policy = policy(&acl).expect("the rule is right");
    let grants = policy.grants(&Identity::of_user("u"), client_id);
    let own = format!("dev/{client_id}");
    let below = |topic: &str| topic == own || topic.strip_prefix(&*own).is_some_and(|rest| rest.starts_with('/'));
    for topic in [name.to_owned(), format!("dev/{name}")] {
        let may = grants.may_publish(&topic, QoS::AtMostOnce, false);
        assert!(!may || (below(&topic) && !client_id.contains(['/', '+', '#'])), "{client_id:?} publishes {topic:?}");
    }
    for filter in ["#", "+/#", "dev/#", "dev/+", "dev/+/#", "+/+"] {
        assert!(!grants.may_subscribe(filter, None, QoS::AtMostOnce), "{client_id:?} subscribes {filter:?}");
    }
}
