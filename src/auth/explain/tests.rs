use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::auth::identity::{Credential, Principal, TokenCredential};
use crate::auth::policy::{self, Sources};
use crate::auth::settings::Settings;
use crate::auth::template::ClaimValues;

const NOW: u64 = 1_763_800_000;

fn policy(mut auth: Value) -> Policy {
    auth["jwt"] = json!({"issuer": "i", "audience": "a", "maxTokenTtl": 3600, "aclClaim": "acl"});
    let settings: Settings = serde_json::from_value(auth).unwrap();
    Policy::new(&settings, Sources::default()).unwrap()
}

fn token(rules: Value, groups: &[&str]) -> Identity {
    let credential = TokenCredential {
        issuer: None,
        kid: "9f3a4d1c77".to_owned(),
        subject: "dev1".to_owned(),
        jti: None,
        issued_at: NOW - 60,
        username: None,
        client_ids: Vec::new(),
        groups: groups.iter().map(ToString::to_string).collect(),
        rules: policy::compile("acl", &serde_json::from_value::<Vec<_>>(rules).unwrap(), crate::auth::Layer::Token)
            .unwrap(),
        claims: ClaimValues::default(),
    };
    Identity {
        principal: Principal::User("dev1".to_owned()),
        expires_at: Some(NOW + 41 * 60 + 5),
        credential: Credential::Token(Arc::new(credential)),
    }
}

fn allow(action: &str, topic: &str) -> Value {
    json!({"permission": "allow", "action": action, "topic": topic})
}

fn deny(action: &str, topic: &str) -> Value {
    json!({"permission": "deny", "action": action, "topic": topic})
}

fn subscribe(topic: &str) -> Request<'_> {
    Request { verb: Verb::Subscribe, topic, qos: QoS::AtMostOnce, retain: false }
}

fn publish(topic: &str) -> Request<'_> {
    Request { verb: Verb::Publish, ..subscribe(topic) }
}

/// The policy, its client, the request, and what is told.
fn told(policy: &Policy, identity: &Identity, request: Request<'_>) -> (String, String) {
    let explanation = explain(policy, identity, "dev1", request, NOW);
    let short = reason(policy, identity, "dev1", request);
    assert_eq!(short, explanation.short());
    assert!(short.len() <= MAX_REASON && !short.contains('\n'), "{short}");
    (explanation.to_string(), short)
}

#[test]
fn a_refused_subscription_is_explained_with_a_witness_and_a_way_out() {
    let groups =
        json!([{"name": "raspberry", "acl": [allow("publish", "dev/#"), deny("subscribe", "dev/+/secret/#")]}]);
    let policy = policy(json!({"groups": groups}));
    let identity = token(json!([allow("subscribe", "dev/${clientid}/#")]), &["raspberry"]);
    let (long, short) = told(&policy, &identity, subscribe("dev/+/temp"));
    assert_eq!(
        long,
        r#"DENY subscribe "dev/+/temp"  client=dev1 user=dev1 cred=jwt kid=9f3a4d1c… exp=in 41m
  token rule 1  allow subscribe "dev/dev1/#"  (from dev/${clientid}/#)   does not cover the filter: "dev/a/temp" is outside
  group raspberry rule 2  deny subscribe "dev/+/secret/#"   no overlap
  no rule allows it
  sent: SUBACK 0x87 (v5) | 0x80 (3.1.1)     fix: issue the token with --subscribe 'dev/+/temp', or subscribe to dev/dev1/temp"#
    );
    assert_eq!(short, r#"no rule allows it: token rule 1 allows "dev/dev1/#", "dev/a/temp" is outside"#);
    let explanation = explain(&policy, &identity, "dev1", subscribe("dev/+/temp"), NOW);
    assert_eq!((explanation.is_allowed(), explanation.witness()), (false, Some("dev/a/temp")));
    assert_eq!(explanation.deciding_rule(), None);
}

#[test]
fn a_deny_names_a_topic_that_is_in_both() {
    let policy = policy(json!({"deny": [deny("publish", "x"), deny("all", "secret/#")]}));
    let identity = token(json!([allow("all", "#")]), &[]);
    let (long, short) = told(&policy, &identity, subscribe("+/a"));
    assert_eq!(
        long,
        r#"DENY subscribe "+/a"  client=dev1 user=dev1 cred=jwt kid=9f3a4d1c… exp=in 41m
  deny[1]  deny publish and subscribe "secret/#"   decides: "secret/a" is in both
  deny[1] forbids it
  sent: SUBACK 0x87 (v5) | 0x80 (3.1.1)     fix: nothing stands before spec.auth.deny"#
    );
    assert_eq!(short, r#"deny[1] forbids "secret/#": "secret/a" is in both"#);
    let (_, short) = told(&policy, &identity, publish("secret/a"));
    assert_eq!(short, r#"deny[1] forbids "secret/#""#);
}

#[test]
fn what_is_allowed_names_the_rule_that_allows_it() {
    let policy = policy(json!({"deny": [deny("all", "${claims.site}/private")]}));
    let acl = json!([allow("publish", "a/${claims.none}"), allow("publish", "dev/%c/#")]);
    let identity = token(acl, &[]);
    let (long, _) = told(&policy, &identity, publish("dev/dev1/temp"));
    assert_eq!(
        long,
        r#"ALLOW publish "dev/dev1/temp"  client=dev1 user=dev1 cred=jwt kid=9f3a4d1c… exp=in 41m
  deny[0]  deny publish and subscribe "+/private"  (from ${claims.site}/private: no usable value, so any)   does not match the topic
  token rule 1  allow publish nothing  (from a/${claims.none}: no usable value)   allows nothing
  token rule 2  allow publish "dev/dev1/#"  (from dev/%c/#)   decides: matches the topic
  token rule 2 allows it"#
    );
}

#[test]
fn qos_retain_and_share_are_told_where_they_are_the_reason() {
    let acl = json!([
        {"permission": "allow", "action": "publish", "topic": "a", "qos": [0, 1], "retain": false},
        {"permission": "allow", "action": "subscribe", "topic": "s/#", "share": ["g"]},
        {"permission": "allow", "action": "subscribe", "topic": "t", "share": false},
        {"permission": "allow", "action": "subscribe", "topic": "eq x/#"},
    ]);
    let (policy, identity) = (policy(json!({})), token(acl, &[]));
    let of = |request| told(&policy, &identity, request);
    let (long, short) = of(Request { qos: QoS::ExactlyOnce, ..publish("a") });
    assert_eq!(short, r#"no rule allows it: token rule 1, "a", is about QoS 0 and 1 only"#);
    assert!(
        long.contains("PUBREC 0x87")
            && long.ends_with("fix: issue the token with --publish 'a', or publish with QoS 0"),
        "{long}"
    );
    let (long, short) = of(Request { retain: true, ..publish("a") });
    assert_eq!(short, r#"no rule allows it: token rule 1, "a", is not about retained messages"#);
    assert!(long.starts_with("DENY publish \"a\" retain  client=dev1"), "{long}");
    assert!(long.ends_with("fix: issue the token with --publish 'a', or publish without RETAIN"), "{long}");
    let (long, _) = of(Request { qos: QoS::ExactlyOnce, retain: true, ..publish("a") });
    assert!(long.ends_with("or publish with QoS 0 and without RETAIN"), "{long}");
    assert_eq!(of(subscribe("s/a")).1, r#"no rule allows it: token rule 2, "s/#", is about share g only"#);
    assert_eq!(
        of(subscribe("$share/h/t")).1,
        r#"no rule allows it: token rule 3, "t", is not about shared subscriptions"#
    );
    let (long, _) = of(subscribe("$share/g/+/1"));
    assert!(long.ends_with("fix: issue the token with --subscribe '+/1', or subscribe to $share/g/s/1"), "{long}");
    assert!(of(subscribe("x/1")).0.contains(r#""eq x/#"   is about this very filter and no other"#));
    assert!(of(subscribe("x/#")).0.starts_with("ALLOW"));
}

#[test]
fn what_no_rule_can_decide_is_told_without_one() {
    let (policy, identity) = (policy(json!({})), token(json!([allow("all", "#")]), &[]));
    let closed = "clients never publish to $SYS/…: these topics are the broker's own";
    assert_eq!(told(&policy, &identity, publish("$SYS/a")).1, closed);
    let (long, _) = told(&policy, &identity, Request { verb: Verb::Will, ..publish("$SYS/a") });
    assert!(long.ends_with(&format!("  {closed}\n  sent: CONNACK 0x90 (v5) | 5 (3.1.1)")), "{long}");
    assert_eq!(
        told(&policy, &identity, subscribe("a/#/b")).1,
        "`#` at byte 2 of a topic filter is not its whole last level [MQTT-4.7.1-1]"
    );
    assert!(told(&policy, &identity, publish("a/+")).0.starts_with("DENY"));
    let none = token(json!([allow("publish", "#")]), &[]);
    assert_eq!(told(&policy, &none, subscribe("a")).1, "no rule allows it: none is about subscribing");
}

#[test]
fn users_and_anonymous_clients_are_told_where_a_rule_belongs() {
    let users = json!([{"name": "bob", "acl": [allow("subscribe", "b/${username}/+")]}]);
    let policy = policy(json!({"users": users, "anonymous": {"acl": []}}));
    let bob = Identity::new(Principal::User("bob".to_owned()), Credential::Password("".into()));
    let (long, short) = told(&policy, &bob, subscribe("b/#"));
    assert!(
        long.starts_with("DENY subscribe \"b/#\"  client=dev1 user=bob cred=password\n  user rule 1  allow"),
        "{long}"
    );
    assert!(
        long.ends_with(
            "fix: an allow of subscribe \"b/#\" in the acl of user bob or of a group, or subscribe to b/bob/+"
        ),
        "{long}"
    );
    assert_eq!(short, r#"no rule allows it: user rule 1 allows "b/bob/+", "b" is outside"#);
    let nobody = Identity::new(Principal::Anonymous, Credential::Nothing);
    assert!(told(&policy, &nobody, publish("a")).0.ends_with("an allow of publish \"a\" in spec.auth.anonymous.acl"));
    let carol = Identity::new(Principal::User("carol".to_owned()), Credential::Password("".into()));
    assert_eq!(told(&policy, &carol, publish("a")).1, r#"there is no user "carol" here"#);
}

#[test]
fn a_reason_is_cut_between_characters() {
    let topic = "ü/".repeat(400);
    let (policy, identity) = (policy(json!({})), token(json!([allow("publish", &format!("{topic}+"))]), &[]));
    let (_, short) = told(&policy, &identity, publish("a"));
    assert!(short.ends_with('…') && short.len() > MAX_REASON - 4, "{short}");
}
