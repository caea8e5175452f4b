//! Random rules and random requests, decided by sets of topics and by the code under test.

use std::collections::HashSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::auth::filter::tests::{set, texts};

static TOPICS: LazyLock<Vec<String>> = LazyLock::new(|| texts(&["a", "b", "x", "$d"], 4));

static FILTERS: LazyLock<Vec<String>> = LazyLock::new(|| {
    texts(&["a", "b", "+", "#", "$d"], 3).into_iter().filter(|text| Filter::parse(text).is_ok()).collect()
});

fn filter() -> impl Strategy<Value = String> {
    select(FILTERS.as_slice())
}

fn rule() -> impl Strategy<Value = Rule> {
    let share = prop_oneof![
        4 => Just(None),
        1 => any::<bool>().prop_map(|any| Some(Share::Any(any))),
        1 => Just(Some(Share::Groups(vec!["g".to_owned()]))),
    ];
    (
        select(vec![Permission::Allow, Permission::Deny]),
        select(vec![Action::Publish, Action::Subscribe, Action::All]),
        filter(),
        proptest::option::of(proptest::collection::vec(0u8..3, 1..3).prop_map(QosSet::Many)),
        proptest::option::of(any::<bool>()),
        share,
    )
        .prop_map(|(permission, action, topic, qos, retain, share)| Rule {
            permission,
            action,
            topic,
            qos,
            retain: retain.filter(|_| action != Action::Subscribe),
            share: share.filter(|_| action != Action::Publish),
        })
}

fn has_qos(rule: &Rule, qos: QoS) -> bool {
    match &rule.qos {
        Some(QosSet::Many(levels)) => levels.contains(&(qos as u8)),
        _ => true,
    }
}

fn has_share(rule: &Rule, share: Option<&str>) -> bool {
    match &rule.share {
        None => true,
        Some(Share::Any(true)) => share.is_some(),
        Some(Share::Any(false)) => share.is_none(),
        Some(Share::Groups(groups)) => share.is_some_and(|share| groups.iter().any(|group| group == share)),
    }
}

/// The first rule that applies decides; none means no.
fn oracle(rules: &[Rule], applies: impl Fn(&Rule) -> bool) -> bool {
    rules.iter().find(|rule| applies(rule)).is_some_and(|rule| rule.permission == Permission::Allow)
}

fn grants(rules: &[Rule], client_id: &str) -> Grants {
    let statements: Vec<Statement> = rules.iter().map(|rule| Statement::compile(rule).unwrap()).collect();
    let values = Values { client_id, username: None, subject: None, claims: &ClaimValues::default() };
    Grants::from_statements(statements.iter(), &values)
}

const SHARES: [Option<&str>; 3] = [None, Some("g"), Some("h")];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn publications_are_decided_as_sets_decide_them(
        rules in proptest::collection::vec(rule(), 0..6),
        qos in select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]),
        retain in any::<bool>(),
    ) {
        let grants = grants(&rules, "c");
        let sets: Vec<HashSet<&str>> = rules.iter().map(|rule| set(&rule.topic, &TOPICS)).collect();
        for topic in TOPICS.iter() {
            let expected = rules
                .iter()
                .zip(&sets)
                .find(|(rule, set)| {
                    rule.action != Action::Subscribe
                        && has_qos(rule, qos)
                        && rule.retain.is_none_or(|only| only == retain)
                        && set.contains(topic.as_str())
                })
                .is_some_and(|(rule, _)| rule.permission == Permission::Allow);
            prop_assert_eq!(grants.may_publish(topic, qos, retain), expected, "{}", topic);
        }
    }

    #[test]
    fn subscriptions_are_decided_as_sets_decide_them(
        rules in proptest::collection::vec(rule(), 0..6),
        asked in filter(),
        qos in select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]),
        share in select(&SHARES[..]),
    ) {
        let wanted = set(&asked, &TOPICS);
        let expected = oracle(&rules, |rule| {
            let topics = set(&rule.topic, &TOPICS);
            rule.action != Action::Publish
                && has_qos(rule, qos)
                && has_share(rule, share)
                && match rule.permission {
                    Permission::Allow => wanted.is_subset(&topics),
                    Permission::Deny => !wanted.is_disjoint(&topics),
                }
        });
        prop_assert_eq!(grants(&rules, "c").may_subscribe(&asked, share, qos), expected);
    }

    /// What may be subscribed tells nothing that may not be read topic by topic.
    #[test]
    fn a_permitted_subscription_has_only_topics_that_may_be_subscribed_one_by_one(
        rules in proptest::collection::vec(rule(), 0..6),
        asked in filter(),
    ) {
        let grants = grants(&rules, "c");
        if grants.may_subscribe(&asked, None, QoS::AtLeastOnce) {
            for topic in set(&asked, &TOPICS) {
                prop_assert!(grants.may_subscribe(topic, None, QoS::AtLeastOnce), "{}", topic);
            }
        }
    }

    #[test]
    fn whatever_its_client_id_a_client_stays_below_it(client_id in "(\\PC|[/+#$a]|\0){0,4}", topic in "[a/$]{1,6}") {
        let allow = Rule {
            permission: Permission::Allow,
            action: Action::All,
            topic: "dev/${clientid}/#".to_owned(),
            qos: None,
            retain: None,
            share: None,
        };
        let grants = grants(&[allow], &client_id);
        let own = format!("dev/{client_id}");
        let topic = format!("dev/{topic}");
        let below = topic == own || topic.starts_with(&format!("{own}/"));
        let plain = !client_id.is_empty() && !client_id.contains(['/', '+', '#', '\0']);
        prop_assert_eq!(grants.may_publish(&topic, QoS::AtMostOnce, false), below && plain);
        for filter in ["#", "+/#", "dev/#", "dev/+/#", "dev/+", "+/+"] {
            prop_assert!(!grants.may_subscribe(filter, None, QoS::AtMostOnce), "{}", filter);
        }
    }
}

/// Level by level, as the specification has it.
fn is_in(topic: &str, filter: &str) -> bool {
    let (names, mut levels) = (topic.split('/').collect::<Vec<_>>(), filter.split('/').collect::<Vec<_>>());
    let open = levels.last() == Some(&"#");
    if open {
        levels.pop();
    }
    let lengths = if open { names.len() >= levels.len() } else { names.len() == levels.len() };
    lengths && levels.iter().zip(&names).all(|(level, name)| level == &"+" || level == name)
}

#[test]
fn rules_that_begin_alike_for_long_are_told_apart() {
    let topics = texts(&["sensors", "floor", "room1", "room12", "ä"], 4);
    let filters: Vec<String> = texts(&["sensors", "floor", "room1", "room12", "+", "#"], 4);
    let filters = filters.into_iter().filter(|text| Filter::parse(text).is_ok());
    let rule = |topic: String| Rule {
        permission: Permission::Allow,
        action: Action::Publish,
        topic,
        qos: None,
        retain: None,
        share: None,
    };
    for filter in filters {
        let grants = grants(&[rule(filter.clone())], "c");
        for topic in &topics {
            let allowed = grants.may_publish(topic, QoS::AtMostOnce, false);
            assert_eq!(allowed, is_in(topic, &filter), "{filter:?}: {topic:?}");
        }
    }
}
