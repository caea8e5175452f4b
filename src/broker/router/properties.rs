//! The index against a list of subscriptions that is searched one by one, under any history of changes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::broker::mailbox::Admitted;
use crate::mqtt::packet::{Publish, RetainHandling};
use crate::mqtt::topic;
use crate::store::{Age, Full, Limits};

const SESSIONS: u64 = 5;
const LIMITS: Limits = Limits { messages: 1000, bytes: usize::MAX, full: Full::DropOldest };

/// One subscription in the list: a session's options and identifier for a whole filter.
type List = BTreeMap<(String, u64), (SubscriptionOptions, Option<u32>)>;

#[derive(Clone, Debug)]
enum Change {
    Subscribe(String, u64, SubscriptionOptions, Option<u32>),
    Unsubscribe(String, u64),
}

/// Few different levels, the empty one among them, so that filters meet and nest.
fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "", "$x", "é"])
}

fn topic_name() -> impl Strategy<Value = String> {
    vec(level(), 1..5).prop_map(|levels| levels.join("/")).prop_filter("a topic name", |name| !name.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let wild = prop_oneof![3 => level(), 2 => Just("+")];
    let share = prop::sample::select(vec!["", "", "$share/g/", "$share/h/"]);
    (share, vec(wild, 0..5), any::<bool>())
        .prop_map(|(share, mut levels, below)| {
            if below {
                levels.push("#");
            }
            format!("{share}{}", levels.join("/"))
        })
        .prop_filter("a topic filter", |filter| Filter::parse(filter).is_ok())
}

fn change() -> impl Strategy<Value = Change> {
    let qos = prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
    let options = (qos, any::<bool>(), any::<bool>()).prop_map(|(qos, no_local, retain_as_published)| {
        SubscriptionOptions { qos, no_local, retain_as_published, retain_handling: RetainHandling::Send }
    });
    prop_oneof![
        3 => (filter(), 0..SESSIONS, options, option::of(1..9_u32)).prop_map(|(filter, session, mut options, id)| {
            options.no_local &= !filter.starts_with("$share/");
            Change::Subscribe(filter, session, options, id)
        }),
        1 => (filter(), 0..SESSIONS).prop_map(|(filter, session)| Change::Unsubscribe(filter, session)),
    ]
}

fn parse(filter: &str) -> Filter<'_> {
    Filter::parse(filter).unwrap()
}

/// Makes the same change to the index and to the list; both say the same of what was there before.
fn make(change: Change, router: &Router, list: &mut List, mailboxes: &[Arc<Mailbox>]) {
    let before = router.generation();
    match change {
        Change::Subscribe(filter, session, options, identifier) => {
            let mailbox = mailboxes[session as usize].clone();
            let existed =
                router.subscribe(&parse(&filter), Subscriber { mailbox, options, identifier, wants_origin: false });
            assert_eq!(existed, list.insert((filter, session), (options, identifier)).is_some());
        }
        Change::Unsubscribe(filter, session) => {
            let existed = router.unsubscribe(&parse(&filter), session);
            assert_eq!(existed, list.remove(&(filter, session)).is_some());
        }
    }
    assert!(router.generation() > before, "publishers notice");
}

/// QoS, Retain As Published and identifiers of a session's merged subscriptions.
type Merged = (QoS, bool, Vec<u32>);

/// What the list says of a topic: the terms on which each session gets the messages of others and, where No Local does not
/// forbid it, its own; and the members of each group.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    direct: BTreeMap<u64, (Merged, Option<Merged>)>,
    groups: BTreeMap<String, BTreeSet<u64>>,
}

fn expected(list: &List, topic: &str) -> Expected {
    let mut expected = Expected::default();
    for ((whole, session), (options, identifier)) in list {
        let filter = parse(whole);
        if !topic::matches(filter.filter, topic) {
            continue;
        }
        if filter.share.is_some() {
            expected.groups.entry(whole.clone()).or_default().insert(*session);
            continue;
        }
        let (others, own) = expected.direct.entry(*session).or_default();
        let own = (!options.no_local).then(|| own.get_or_insert_default());
        for merged in [Some(others), own].into_iter().flatten() {
            merged.0 = merged.0.max(options.qos);
            merged.1 |= options.retain_as_published;
            merged.2.extend(identifier);
            merged.2.sort_unstable();
        }
    }
    expected
}

fn identifiers(via: Option<&Via>) -> Vec<u32> {
    let mut identifiers = via.map(|via| via.identifiers.clone()).unwrap_or_default();
    identifiers.sort_unstable();
    identifiers
}

fn found(routes: &Routes) -> Expected {
    let mut found = Expected::default();
    for route in &routes.direct {
        let session = route.mailbox.session;
        let merged = |terms: &Terms| (terms.qos, terms.retain_as_published, identifiers(terms.via.as_deref()));
        let merged = (merged(&route.terms), route.terms(session).map(merged));
        assert_eq!(found.direct.insert(session, merged), None, "one copy for a session");
    }
    for group in &routes.groups {
        let members: Vec<u64> = group.members().iter().map(|(member, _)| member.mailbox.session).collect();
        let unique: BTreeSet<u64> = members.iter().copied().collect();
        assert_eq!(unique.len(), members.len(), "a session is a member once");
        assert!(found.groups.insert(group.name.to_string(), unique).is_none(), "one turn for a group");
    }
    found
}

/// Each session gets its one copy, and each group exactly one of its members another.
fn check_delivery(routes: &Routes, expected: &Expected, topic: &str, from: u64, mailboxes: &[Arc<Mailbox>]) {
    let properties = Default::default();
    let qos = QoS::ExactlyOnce;
    let publish = Publish { dup: false, qos, retain: true, topic, packet_id: None, properties, payload: b"x" };
    let message = Arc::new(Message::new(&publish, topic, 0, None));
    let routed = routes.deliver(&message, from, 0, &mut Effects::default());
    let terms = |session: u64| match expected.direct.get(&session)? {
        (_, own) if session == from => own.as_ref(),
        (others, _) => Some(others),
    };
    assert_eq!(routed.dropped, 0);
    let mut served = BTreeSet::new();
    for mailbox in mailboxes {
        let (mut qos0, mut queued) = (Vec::new(), Vec::new());
        let admitted = Admitted { window: usize::MAX, end: u64::MAX, written: u64::MAX, age: Age::ANY };
        mailbox.take(&admitted, &mut qos0, &mut queued, 0, &mut Effects::default());
        let mut direct = 0;
        for delivery in qos0.into_iter().chain(queued) {
            if let Some(share) = delivery.via.as_ref().and_then(|via| via.share.clone()) {
                assert!(expected.groups[&*share].contains(&mailbox.session), "not a member of {share}");
                assert!(served.insert(share), "a group was served twice");
                continue;
            }
            direct += 1;
            let told = (delivery.qos, delivery.retain, identifiers(delivery.via.as_deref()));
            assert_eq!(Some(&told), terms(mailbox.session));
        }
        assert_eq!(direct, usize::from(terms(mailbox.session).is_some()), "session {}", mailbox.session);
    }
    assert_eq!(served.len(), expected.groups.len());
}

proptest! {
    #[test]
    fn the_index_agrees_with_a_list_after_any_changes(
        changes in vec(change(), 1..40), topics in vec(topic_name(), 1..8), from in 0..SESSIONS,
    ) {
        let router = Router::default();
        let mut list = List::new();
        let mailboxes: Vec<_> = (0..SESSIONS).map(|session| Arc::new(Mailbox::new(session, LIMITS, false))).collect();
        for mailbox in &mailboxes {
            mailbox.connect(0);
        }
        for change in changes {
            make(change, &router, &mut list, &mailboxes);
        }
        for topic in &topics {
            let routes = router.routes(topic);
            let expected = expected(&list, topic);
            prop_assert_eq!(&found(&routes), &expected, "{}", topic);
            check_delivery(&routes, &expected, topic, from, &mailboxes);
        }
        for (filter, session) in list.keys() {
            prop_assert!(router.unsubscribe(&parse(filter), *session));
        }
        prop_assert!(router.root.read().unwrap().is_empty(), "the trie shrinks back to nothing");
    }
}

/// The deepest filter that a packet can carry, on the stack that a connection's task has.
#[test]
fn the_deepest_filter_does_not_exhaust_the_stack() {
    let deep = || {
        let topic = "/".repeat(topic::MAX_LENGTH);
        let router = Router::default();
        let mailbox = Arc::new(Mailbox::new(1, LIMITS, false));
        let options = SubscriptionOptions::default();
        router.subscribe(&parse(&topic), Subscriber { mailbox, options, identifier: None, wants_origin: false });
        assert_eq!(router.routes(&topic).direct.len(), 1);
        assert!(router.unsubscribe(&parse(&topic), 1));
    };
    std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(deep).unwrap().join().unwrap();
}
