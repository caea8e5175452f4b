//! Chapter 4.7, topic names and topic filters. Which of them are malformed is said where they travel.

use super::messages::*;
use super::wire::*;
use crate::support::allow;
use mqtt_operator::auth::rule::Action;
use mqtt_operator::auth::settings::Anonymous;

/// Which of `topics` come to a subscription with `filter`.
#[track_caller]
fn matching(wire: &mut Wire, filter: &str, topics: &[&str]) -> Vec<String> {
    let version = wire.version;
    wire.subscribe(filter, 0);
    for topic in topics {
        wire.send(&publish(version, QOS_0, topic, 0, topic.as_bytes()));
    }
    let found = deliveries(wire);
    wire.ask(&packet![0xA2; Be16(2), no_props(version), filter], &unsuback(version, 2, &[0]));
    for message in &found {
        assert_eq!((message.first, message.topic.as_bytes()), (QOS_0, &message.payload[..]), "{filter}");
    }
    found.into_iter().map(|message| message.topic).collect()
}

/// 3.1.1 [MQTT-4.7.1-2, MQTT-4.7.1-3, MQTT-4.7.2-1, MQTT-3.3.2-3]; 5.0 [MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.2-1, MQTT-3.3.2-3].
#[test]
fn filters_match_level_by_level() {
    let topics = ["t", "/", "/t", "t/", "t/a", "t/a/b", "t//b", "T/a", "a", "$x", "$x/a", "t/$x", "//"];
    let cases: [(&str, &[&str]); 17] = [
        ("#", &["t", "/", "/t", "t/", "t/a", "t/a/b", "t//b", "T/a", "a", "t/$x", "//"]),
        ("+/#", &["t", "/", "/t", "t/", "t/a", "t/a/b", "t//b", "T/a", "a", "t/$x", "//"]),
        ("+", &["t", "a"]),
        ("+/+", &["/", "/t", "t/", "t/a", "T/a", "t/$x"]),
        ("/+", &["/", "/t"]),
        ("/#", &["/", "/t", "//"]),
        ("+/+/+", &["t/a/b", "t//b", "//"]),
        ("t", &["t"]),
        ("t/", &["t/"]),
        ("t/#", &["t", "t/", "t/a", "t/a/b", "t//b", "t/$x"]),
        ("t/+", &["t/", "t/a", "t/$x"]),
        ("t/+/b", &["t/a/b", "t//b"]),
        ("t/+/#", &["t/", "t/a", "t/a/b", "t//b", "t/$x"]),
        ("+/a", &["t/a", "T/a"]),
        ("t//b", &["t//b"]),
        ("$x/#", &["$x", "$x/a"]),
        ("$x/+", &["$x/a"]),
    ];
    let broker = broker_with(everything);
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "matches");
        for (filter, wanted) in cases {
            assert_eq!(matching(&mut wire, filter, &topics), wanted, "{filter}");
        }
        wire.disconnect();
    });
}

/// 3.1.1 [MQTT-4.7.3-4]; 5.0 [MQTT-4.7.3-4].
#[test]
fn topics_are_compared_byte_by_byte() {
    // Case, spaces, composed and decomposed letters, a byte order mark, a private character and a noncharacter.
    let names =
        ["t/a", "t/A", "t/a ", "t/ a", "t/\u{e9}", "t/e\u{301}", "t/\u{feff}a", "t/\u{f8ff}", "t/\u{ffff}", "t/%61"];
    let broker = broker_with(everything);
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "compares");
        for name in names {
            assert_eq!(matching(&mut wire, name, &names), [name]);
        }
        assert_eq!(matching(&mut wire, "t/+", &names), names);
        wire.disconnect();
    });
}

/// 3.1.1 [MQTT-4.7.2-1]; 5.0 [MQTT-4.7.2-1].
#[test]
fn a_wildcard_at_the_first_level_finds_no_retained_message_below_a_dollar() {
    each_version(|version| {
        let broker = broker_with(everything);
        let mut wire = Wire::connect(&broker, version, "finds");
        for topic in ["$x/a", "t/a"] {
            published(&mut wire, QOS_1 | RETAIN, topic, topic.as_bytes(), NO_SUBSCRIBERS);
        }
        for (filter, wanted) in [("#", &["t/a"][..]), ("+/a", &["t/a"]), ("+/#", &["t/a"]), ("$x/#", &["$x/a"])] {
            wire.subscribe(filter, 0);
            let found: Vec<_> = deliveries(&mut wire).into_iter().map(|message| message.topic).collect();
            assert_eq!(found, wanted, "{filter}");
        }
    });
}

/// 3.1.1 [MQTT-4.7.2-1]; 5.0 [MQTT-4.7.2-1].
#[test]
fn what_the_broker_says_of_itself_is_below_sys_alone() {
    each_version(|version| {
        let broker = broker_with(|config| {
            let acl = vec![allow(Action::All, "#"), allow(Action::Subscribe, "$SYS/#")];
            config.auth.anonymous = Some(Anonymous { acl });
        });
        let mut wire = Wire::connect(&broker, version, "sys");
        wire.subscribe("#", 0);
        wire.subscribe("+/broker/#", 0);
        expect_silence(&mut wire);
        wire.subscribe("$SYS/#", 0);
        let found = deliveries(&mut wire);
        assert!(!found.is_empty(), "nothing below $SYS");
        assert!(found.iter().all(|message| message.topic.starts_with("$SYS/broker/")), "{found:?}");
    });
}

/// 3.1.1 [MQTT-4.7.3-3]; 5.0 [MQTT-4.7.3-3].
#[test]
fn filters_of_65535_bytes_match() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "long");
        let topic = format!("t/{}/a", "x".repeat(65_531));
        let filter = format!("t/{}/+", "x".repeat(65_531));
        assert_eq!((topic.len(), filter.len()), (65_535, 65_535));
        assert_eq!(matching(&mut wire, &filter, &[&topic]), [topic]);
        wire.disconnect();
    });
}
