//! What one decision costs: `cargo bench --bench authz`.
//!
//! Rules of a device with 1, 10 and 100 of them, and the places where a decision may be found: by the first rule, by the
//! last one, by none. Of several runs the fastest counts, because everything that disturbs makes it slower.

use std::hint::black_box;
use std::time::Instant;

use mqtt_operator::auth::explain::{Request, Verb, reason};
use mqtt_operator::auth::settings::Settings;
use mqtt_operator::auth::{Grants, Identity, Policy, Sources};
use mqtt_operator::mqtt::QoS;
use serde_json::{Value, json};

const DECISIONS: u32 = 200_000;
const RUNS: u32 = 15;

/// Rules that differ early, as `room7/…`, or only behind a common beginning, as `sensors/floor/room7/…`.
fn rules(count: usize, beginning: &str) -> Vec<Value> {
    let topic = |index: usize| match index % 4 {
        0 => format!("{beginning}room{index}/${{clientid}}/#"),
        1 => format!("{beginning}room{index}/+/state"),
        2 => format!("{beginning}room{index}/#"),
        _ => format!("{beginning}room{index}/lamp/on"),
    };
    (0..count).map(|index| json!({"permission": "allow", "action": "all", "topic": topic(index)})).collect()
}

fn policy(acl: &[Value]) -> Policy {
    let jwt = json!({"issuer": "i", "audience": "a", "maxTokenTtl": 60, "aclClaim": "acl"});
    let settings: Settings = serde_json::from_value(json!({"jwt": jwt, "users": [{"name": "u", "acl": acl}]}))
        .expect("the settings are written above");
    Policy::new(&settings, Sources::default()).expect("the rules are written above")
}

/// Nanoseconds of one call.
fn measure(mut call: impl FnMut() -> bool) -> f64 {
    let run = |call: &mut dyn FnMut() -> bool| {
        let begun = Instant::now();
        for _ in 0..DECISIONS {
            black_box(call());
        }
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(DECISIONS)
    };
    (0..RUNS).map(|_| run(&mut call)).fold(f64::INFINITY, f64::min)
}

fn line(what: &str, rules: usize, beginning: &str, grants: &Grants, topic: &str, subscribes: bool) {
    let nanoseconds = if subscribes {
        measure(|| grants.may_subscribe(black_box(topic), None, QoS::AtMostOnce))
    } else {
        measure(|| grants.may_publish(black_box(topic), QoS::AtMostOnce, false))
    };
    println!("{rules:>5}  {beginning:<15}  {what:<22}  {nanoseconds:>9.1} ns");
}

fn main() {
    println!("rules  common beginning  decision                     time");
    for beginning in ["", "sensors/floor/"] {
        for count in [1, 10, 100] {
            let policy = policy(&rules(count, beginning));
            let identity = Identity::of_user("u");
            let grants = policy.grants(&identity, "dev1");
            let last = format!("{beginning}room{}/dev1/state", count - 1);
            // Rules of the fourth kind are one topic; the one before them is a whole room.
            let last = if (count - 1) % 4 == 3 { format!("{beginning}room{}/lamp/on", count - 1) } else { last };
            line("publish, first rule", count, beginning, &grants, &format!("{beginning}room0/dev1/state"), false);
            line("publish, last rule", count, beginning, &grants, &last, false);
            line("publish, no rule", count, beginning, &grants, &format!("{beginning}cellar/dev1/state"), false);
            line("subscribe, last rule", count, beginning, &grants, &last, true);
            let request = Request { verb: Verb::Publish, topic: "elsewhere", qos: QoS::AtMostOnce, retain: false };
            let told = measure(|| reason(&policy, &identity, "dev1", black_box(request)).is_empty());
            println!("{count:>5}  {beginning:<15}  {:<22}  {told:>9.1} ns", "reason of a refusal");
        }
    }
}
