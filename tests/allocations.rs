//! What decides on every publication takes no memory. A binary of its own: everything in it goes through an allocator that
//! counts, thread by thread.

// What is written above a use of it cannot fail to be read.
#![allow(clippy::unwrap_used)]

use allocation_counter::measure;
use mqtt_operator::auth::settings::Settings;
use mqtt_operator::auth::{Grants, Identity, Policy, Sources};
use mqtt_operator::mqtt::QoS;
use serde_json::{Value, json};

/// Denies and allows of every shape, with the client's id in place of a placeholder.
fn rules(count: usize) -> Vec<Value> {
    let rule = |index: usize| {
        let permission = if index.is_multiple_of(5) { "deny" } else { "allow" };
        let topic = match index % 4 {
            0 => format!("home/room{index}/${{clientid}}/#"),
            1 => format!("home/room{index}/+/state"),
            2 => format!("home/room{index}/#"),
            _ => format!("eq home/room{index}/+"),
        };
        json!({"permission": permission, "action": "all", "topic": topic, "qos": [0, 1]})
    };
    (0..count).map(rule).collect()
}

fn grants(count: usize) -> Grants {
    let jwt = json!({"issuer": "i", "audience": "a", "maxTokenTtl": 60, "aclClaim": "acl"});
    let settings: Settings =
        serde_json::from_value(json!({"jwt": jwt, "users": [{"name": "u", "acl": rules(count)}]})).unwrap();
    Policy::new(&settings, Sources::default()).unwrap().grants(&Identity::of_user("u"), "dev1")
}

/// Allocations, and the answer.
fn counted(ask: impl FnOnce() -> bool) -> (u64, bool) {
    let mut answer = false;
    let counted = measure(|| answer = ask());
    (counted.count_total, answer)
}

#[test]
fn the_allocator_counts() {
    assert_eq!(counted(|| Vec::<u8>::with_capacity(10).is_empty()), (1, true));
    assert_eq!(counted(|| "home/room1/x/state".len() > 3), (0, true));
}

#[test]
fn a_decision_about_a_publication_allocates_nothing_whatever_the_rules_say() {
    for count in [10, 100] {
        let grants = grants(count);
        for (topic, allowed) in [
            ("home/room1/x/state", true),
            ("home/room6/a/b/c", true),
            ("home/room0/dev1/t", false),
            ("home/cellar/dev1/t", false),
            ("$SYS/broker/load", false),
            ("", false),
        ] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                assert_eq!(counted(|| grants.may_publish(topic, qos, false)), (0, allowed), "{count}: {topic:?}");
            }
            assert_eq!(counted(|| grants.may_publish(topic, QoS::ExactlyOnce, true)), (0, false), "{count}: {topic:?}");
        }
    }
}

#[test]
fn a_decision_about_a_subscription_allocates_nothing_whatever_the_rules_say() {
    for count in [10, 100] {
        let grants = grants(count);
        for (filter, share, allowed) in [
            ("home/room1/+/state", None, true),
            ("home/room6/#", None, true),
            ("home/room6/+/a/#", Some("workers"), true),
            ("home/room7/+", None, true),
            ("home/room7/a", None, false),
            ("home/room0/+/t", None, false),
            ("home/+/dev1/#", None, false),
            ("+/#", None, false),
            ("/#", None, false),
            ("#", Some("workers"), false),
            ("a/#/b", None, false),
            ("$share/g/a", None, false),
            ("", None, false),
        ] {
            let asked = counted(|| grants.may_subscribe(filter, share, QoS::AtLeastOnce));
            assert_eq!(asked, (0, allowed), "{count}: {filter:?}");
        }
    }
}
