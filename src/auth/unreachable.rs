//! Rules that do less than whoever wrote them thinks: one that never decides, or that allows what cannot be asked for.
//!
//! They are no mistakes to the broker, which does what they say. Each rule is compared with every one before it, alone;
//! what several rules do together is not found.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::grants::{Decider, Kind, Statement, first_level, is_open};
use super::rule::{Permission, Rule};
use super::settings::Settings;
use super::template::{ClaimValues, Values};

/// A rule, and where it stands in the object.
struct Placed<'a> {
    at: String,
    topic: &'a str,
    rule: Statement,
    decider: Option<Arc<Decider>>,
}

/// What is strange about the rules of an object, one line each.
pub fn warnings(settings: &Settings) -> Vec<String> {
    let mut found = Vec::new();
    let placed = |at: String, rules, named| place(&at, rules, named);
    let deny = || placed("deny".to_owned(), &settings.deny, true);
    let group = |name: &str| {
        let group = settings.groups.iter().find(|group| group.name == name)?;
        Some(placed(format!("group {name} acl"), &group.acl, true))
    };
    for user in &settings.users {
        let mut rules = deny();
        rules.extend(placed(format!("user {} acl", user.name), &user.acl, true));
        rules.extend(user.groups.iter().filter_map(|name| group(name)).flatten());
        judge(&rules, &mut found);
    }
    for name in settings.groups.iter().map(|group| &group.name) {
        judge(&deny().into_iter().chain(group(name).into_iter().flatten()).collect::<Vec<_>>(), &mut found);
    }
    if let Some(anonymous) = &settings.anonymous {
        let mut rules = deny();
        rules.extend(placed("anonymous acl".to_owned(), &anonymous.acl, false));
        judge(&rules, &mut found);
    }
    found
}

/// The rules with values that no client has, so that two placeholders are equal only if they are the same one.
fn place<'a>(at: &str, rules: &'a [Rule], named: bool) -> Vec<Placed<'a>> {
    let rule = |(index, rule): (usize, &'a Rule)| {
        let claims = if named { (&claims(&rule.topic)).into() } else { ClaimValues::default() };
        let values = Values {
            client_id: "<clientid>",
            username: named.then_some("<username>"),
            subject: named.then_some("<sub>"),
            claims: &claims,
        };
        let statement = Statement::compile(rule).ok()?;
        let decider = statement.resolve(&values);
        Some(Placed { at: format!("{at}[{index}]"), topic: &rule.topic, rule: statement, decider })
    };
    rules.iter().enumerate().filter_map(rule).collect()
}

/// A value for each claim that a topic names.
fn claims(topic: &str) -> Map<String, Value> {
    let names = topic.split("${claims.").skip(1).filter_map(|rest| rest.split('}').next());
    names.map(|name| (name.to_owned(), Value::from(format!("<{name}>")))).collect()
}

fn judge(rules: &[Placed<'_>], found: &mut Vec<String>) {
    for (index, placed) in rules.iter().enumerate() {
        let alone = by_itself(placed);
        let text = alone.or_else(|| rules[..index].iter().find_map(|earlier| after(placed, earlier)));
        if let Some(text) = text {
            let line = format!("{}: {text}", placed.at);
            // The rules of a group are met once for each of its users.
            if !found.contains(&line) {
                found.push(line);
            }
        }
    }
}

/// What is strange about one rule.
fn by_itself(placed: &Placed<'_>) -> Option<String> {
    let allows = placed.rule.permission() == Permission::Allow;
    let Some(decider) = &placed.decider else {
        return Some(format!("allows nothing: anonymous clients have no value for {}", placed.topic));
    };
    let publishes_alone = placed.rule.is_about_publishing() && !placed.rule.is_about_subscribing();
    let beginning = decider.filter.to_string();
    if publishes_alone && decider.exact {
        return Some("never decides: after `eq ` a wildcard stands for itself, and no topic has one".to_owned());
    }
    if publishes_alone && allows && !is_open(&beginning) {
        return Some(format!("allows nothing: clients never publish to {}/…", first_level(&beginning)));
    }
    None
}

/// What is strange about a rule that comes after another.
fn after(placed: &Placed<'_>, earlier: &Placed<'_>) -> Option<String> {
    let (decider, first) = (placed.decider.as_ref()?, earlier.decider.as_ref()?);
    if placed.rule.permission() == earlier.rule.permission() || decider.exact || first.exact {
        return None;
    }
    let publishing = placed.rule.is_about_publishing();
    let subscribing = placed.rule.is_about_subscribing();
    let publishing_too = publishing && earlier.rule.is_about_publishing() && publishes_within(decider, first);
    let subscribing_too = subscribing && earlier.rule.is_about_subscribing() && subscribes_within(decider, first);
    let covered = first.filter.covers(&decider.filter);
    let (at, topic) = (&earlier.at, earlier.topic);
    match placed.rule.permission() {
        Permission::Allow if covered && (publishing_too || !publishing) && (subscribing_too || !subscribing) => {
            Some(format!("never decides: {at} comes first and forbids all of it, {topic:?}"))
        }
        Permission::Deny if covered && (publishing_too || !publishing) && (subscribing_too || !subscribing) => {
            Some(format!("never decides alone: {at} comes first and allows all of it, {topic:?}"))
        }
        Permission::Allow if subscribing_too => {
            let both = first.filter.witness_of_overlap(&decider.filter)?;
            Some(format!(
                "{:?} cannot be subscribed as it stands, only parts of it: {at} forbids {topic:?}, and {both:?} is in both",
                placed.topic
            ))
        }
        _ => None,
    }
}

/// Whether the earlier rule is about every publication that the other one is about, but for the topic.
fn publishes_within(rule: &Decider, earlier: &Decider) -> bool {
    has_qos_of(&earlier.kind, &rule.kind) && (earlier.kind.retain.is_none() || earlier.kind.retain == rule.kind.retain)
}

/// The same of subscriptions.
fn subscribes_within(rule: &Decider, earlier: &Decider) -> bool {
    has_qos_of(&earlier.kind, &rule.kind) && (earlier.kind.share.is_none() || earlier.kind.share == rule.kind.share)
}

fn has_qos_of(wide: &Kind, narrow: &Kind) -> bool {
    narrow.qos & !wide.qos == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(auth: Value) -> Vec<String> {
        let mut settings = auth;
        settings["jwt"] = json!({"issuer": "i", "audience": "a", "maxTokenTtl": 60, "aclClaim": "acl"});
        warnings(&serde_json::from_value(settings).unwrap())
    }

    fn rule(permission: &str, action: &str, topic: &str) -> Value {
        json!({"permission": permission, "action": action, "topic": topic})
    }

    #[test]
    fn an_allow_behind_a_deny_is_told() {
        let auth = json!({
            "deny": [rule("deny", "all", "secret/#")],
            "users": [{"name": "u", "acl": [
                rule("allow", "publish", "secret/${clientid}"),
                rule("allow", "subscribe", "#"),
                rule("allow", "subscribe", "open/#"),
                rule("allow", "publish", "#"),
            ]}],
        });
        assert_eq!(
            found(auth),
            [
                r#"user u acl[0]: never decides: deny[0] comes first and forbids all of it, "secret/#""#,
                r##"user u acl[1]: "#" cannot be subscribed as it stands, only parts of it: deny[0] forbids "secret/#", and "secret" is in both"##,
            ]
        );
    }

    #[test]
    fn an_order_of_user_and_groups_in_which_a_rule_never_decides_is_told_once() {
        let group = json!([rule("allow", "publish", "dev/${clientid}/#"), rule("deny", "publish", "open/a")]);
        let own = json!([rule("deny", "publish", "dev/#"), rule("allow", "publish", "open/+")]);
        let auth = json!({
            "users": [{"name": "u", "groups": ["g"], "acl": own}, {"name": "v", "groups": ["g"], "acl": own}],
            "groups": [{"name": "g", "acl": group}],
        });
        assert_eq!(
            found(auth),
            [
                r#"group g acl[0]: never decides: user u acl[0] comes first and forbids all of it, "dev/#""#,
                r#"group g acl[1]: never decides alone: user u acl[1] comes first and allows all of it, "open/+""#,
                r#"group g acl[0]: never decides: user v acl[0] comes first and forbids all of it, "dev/#""#,
                r#"group g acl[1]: never decides alone: user v acl[1] comes first and allows all of it, "open/+""#,
            ]
        );
    }

    #[test]
    fn what_matches_nothing_is_told() {
        let acl = json!([
            rule("allow", "publish", "$SYS/#"),
            rule("allow", "publish", "eq a/#"),
            rule("allow", "subscribe", "eq a/#"),
            rule("allow", "subscribe", "$SYS/#"),
            rule("allow", "publish", "b/${username}"),
            rule("allow", "publish", "b/${clientid}"),
        ]);
        assert_eq!(
            found(json!({"anonymous": {"acl": acl}})),
            [
                "anonymous acl[0]: allows nothing: clients never publish to $SYS/…",
                "anonymous acl[1]: never decides: after `eq ` a wildcard stands for itself, and no topic has one",
                "anonymous acl[4]: allows nothing: anonymous clients have no value for b/${username}",
            ]
        );
    }

    #[test]
    fn rules_that_are_about_something_else_are_left_alone() {
        let auth = json!({
            "deny": [
                {"permission": "deny", "action": "publish", "topic": "a/#", "retain": true},
                {"permission": "deny", "action": "all", "topic": "b/#", "qos": 2},
                {"permission": "deny", "action": "subscribe", "topic": "c/#", "share": true},
                rule("deny", "all", "${claims.x}/private"),
            ],
            "groups": [{"name": "g", "acl": [
                rule("allow", "all", "a/b"),
                rule("allow", "all", "b/c"),
                rule("allow", "subscribe", "c/d"),
                rule("allow", "publish", "${claims.y}/private"),
            ]}],
        });
        assert_eq!(found(auth), Vec::<String>::new());
    }
}
