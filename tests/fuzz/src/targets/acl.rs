//! The rules in a token: understood whole or refused whole, and never more than they say.

use mqtt_operator::auth::rule::{Action, Permission, Rule};
use mqtt_operator::auth::{Presented, Verdict};
use mqtt_operator::mqtt::{QoS, topic};
use serde_json::{Value, json};

use super::token::{NOW, policy, sign};

pub fn run(input: &[u8]) {
    let Ok(acl) = serde_json::from_slice::<Value>(input) else { return };
    let claims = json!({"iss": "own", "aud": "mqtt", "sub": "s", "iat": NOW, "exp": NOW + 60}).to_string();
    // As it was written: a name that appears twice would be gone from the value.
    let claims = [&claims.as_bytes()[..claims.len() - 1], br#","acl":"#, input, b"}"].concat();
    let token = sign(br#"{"alg":"HS256","kid":"k"}"#, &claims);
    let presented = Presented { password: Some(token.as_bytes()), client_id: "c", ..Presented::default() };
    let Verdict::Accepted(identity) = policy().authenticate(&presented, NOW) else { return };
    let grants = policy().grants(&identity, "c");
    let rules: Option<Vec<Rule>> = match &acl {
        Value::Array(_) => Some(serde_json::from_value(acl.clone()).expect("a list that is accepted is one of rules")),
        Value::Object(lists) => {
            assert!(lists.keys().all(|name| ["pub", "sub", "all"].contains(&name.as_str())), "{acl}");
            None
        }
        _ => panic!("accepted: {acl}"),
    };
    let is_allow = |rule: &Rule, action: Action| {
        rule.permission == Permission::Allow && (rule.action == action || rule.action == Action::All)
    };
    let allows = |action: Action| {
        if let Some(rules) = &rules {
            return rules.iter().any(|rule| is_allow(rule, action));
        }
        let list = if action == Action::Publish { "pub" } else { "sub" };
        [list, "all"].iter().any(|list| acl[*list].as_array().is_some_and(|filters| !filters.is_empty()))
    };
    for name in ["a", "a/b", "a/b/c", "s/c", "/", "$SYS/x", "$x"] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let may = grants.may_publish(name, qos, false);
            assert!(!may || allows(Action::Publish) && !name.starts_with("$SYS"), "publish {name}: {acl}");
            let reads = grants.may_subscribe(name, None, qos);
            assert!(!reads || allows(Action::Subscribe), "subscribe {name}: {acl}");
        }
    }
    if acl.to_string().contains("\"eq ") {
        // Such a rule is about one filter to the letter.
        return;
    }
    // Who may have all of it may have each part.
    for (wide, narrow) in [("#", "a/b"), ("a/#", "a/b"), ("a/+", "a/b"), ("+/b", "a/b"), ("+", "a")] {
        assert!(topic::Filter::parse(wide).is_ok());
        if grants.may_subscribe(wide, None, QoS::AtMostOnce) {
            assert!(grants.may_subscribe(narrow, None, QoS::AtMostOnce), "{wide} and not {narrow}: {acl}");
        }
    }
}
