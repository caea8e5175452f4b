//! Retained messages against a plain map that is searched topic by topic.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::tests::message;
use super::*;
use crate::mqtt::topic::Filter;

/// Levels that sort around the separator (`-` before it, `0` after it), empty and `$` ones among them.
const LEVELS: [&str; 7] = ["a", "b", "", "$x", "a-", "a0", "é"];

fn topic_name() -> impl Strategy<Value = String> {
    let levels = vec(prop::sample::select(LEVELS.to_vec()), 1..5);
    levels.prop_map(|levels| levels.join("/")).prop_filter("a topic name", |name| !name.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let wild = prop_oneof![3 => prop::sample::select(LEVELS.to_vec()), 2 => Just("+")];
    (vec(wild, 0..5), any::<bool>())
        .prop_map(|(mut levels, below)| {
            if below {
                levels.push("#");
            }
            levels.join("/")
        })
        .prop_filter("a topic filter", |filter| Filter::parse(filter).is_ok())
}

const ROOM: Room = Room { messages: usize::MAX, bytes: u64::MAX };

proptest! {
    #[test]
    fn what_a_subscription_gets_agrees_with_a_map(
        publications in vec((topic_name(), "[xy]{0,1}", option::of(0..4_u32)), 0..30),
        questions in vec((filter(), 0..4000_u64), 1..8),
    ) {
        let (mut retained, mut map) = (Retained::default(), BTreeMap::new());
        for (topic, payload, expiry) in &publications {
            retained.set(&message(topic, payload, *expiry), ROOM, 0).unwrap();
            if payload.is_empty() {
                map.remove(topic);
            } else {
                map.insert(topic, (payload, expiry.map_or(u64::MAX, |seconds| u64::from(seconds) * 1000)));
            }
        }
        prop_assert_eq!(retained.len(), map.len());
        // Time goes forward: what has expired for one question has expired for the next.
        let mut now = 0;
        for (filter, later) in questions {
            now += later;
            let (mut cursor, mut found) = (Cursor::default(), Vec::new());
            while !cursor.is_done() {
                found.extend(retained.matching(&filter, &mut cursor, now));
            }
            found.sort_by(|a, b| a.topic().cmp(b.topic()));
            let found: Vec<_> = found.iter().map(|m| (m.topic(), m.payload())).collect();
            let expected: Vec<_> = map
                .iter()
                .filter(|(topic, (_, expires))| topic::matches(&filter, topic) && now < *expires)
                .map(|(topic, (payload, _))| (topic.as_str(), payload.as_bytes()))
                .collect();
            prop_assert_eq!(found, expected, "{} at {}", filter, now);
        }
    }
}
