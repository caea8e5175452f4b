//! Chapter 3.3.1.3, retained messages, and the subscription options of 5.0 that concern them.

use super::messages::*;
use super::wire::*;

const V5: Version = Version::V5;

/// SUBSCRIBE with these options, and the SUBACK.
#[track_caller]
fn subscribe_with(wire: &mut Wire, filter: &str, options: u8) {
    let granted = suback(wire.version, 0x90, 9, &[options & 3]);
    wire.ask(&subscribe(wire.version, 9, filter, options), &granted);
}

/// 3.1.1 [MQTT-3.3.1-5, MQTT-3.3.1-6, MQTT-3.3.1-7, MQTT-3.3.1-8]; 5.0 [MQTT-3.3.1-5, MQTT-3.3.1-9].
#[test]
fn a_new_subscription_gets_the_last_retained_message() {
    each_version(|version| {
        let broker = broker();
        let mut from = Wire::connect(&broker, version, "from");
        for (first, payload) in [(QOS_2, "old"), (QOS_0, "older"), (QOS_1, "last")] {
            published(&mut from, first | RETAIN, "t/a", payload.as_bytes(), NO_SUBSCRIBERS);
        }
        // A QoS 0 message replaces one of QoS 2, and is kept.
        published(&mut from, QOS_2 | RETAIN, "t/b", b"old", NO_SUBSCRIBERS);
        published(&mut from, QOS_0 | RETAIN, "t/b", b"new", NO_SUBSCRIBERS);
        from.disconnect();
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 2);
        expect_publish(&mut to, QOS_1 | RETAIN, "t/a", b"last");
        to.subscribe("t/b", 2);
        expect_publish(&mut to, QOS_0 | RETAIN, "t/b", b"new");
        expect_silence(&mut to);
    });
}

/// 3.1.1 [MQTT-3.3.1-6, MQTT-3.8.4-6]; 5.0 [MQTT-3.3.1-9, MQTT-3.8.4-8].
#[test]
fn a_wildcard_finds_all_retained_messages_at_the_lower_qos() {
    each_version(|version| {
        let broker = broker();
        let mut from = Wire::connect(&broker, version, "from");
        for topic in ["t/a", "t/a/b", "t", "t/ab", "t//"] {
            published(&mut from, QOS_2 | RETAIN, topic, topic.as_bytes(), NO_SUBSCRIBERS);
        }
        let cases: [(&str, u8, &[&str]); 5] = [
            ("t/#", QOS_0, &["t", "t//", "t/a", "t/a/b", "t/ab"]),
            ("t/+", QOS_1, &["t/a", "t/ab"]),
            ("t/a/#", QOS_2, &["t/a", "t/a/b"]),
            ("t/+/+", QOS_2, &["t//", "t/a/b"]),
            ("t/c", QOS_2, &[]),
        ];
        for (filter, first, topics) in cases {
            let mut to = Wire::connect(&broker, version, "to");
            to.subscribe(filter, (first & 6) >> 1);
            let mut found: Vec<_> = deliveries(&mut to).into_iter().map(|m| (m.topic, m.first, m.payload)).collect();
            found.sort();
            let wanted: Vec<_> =
                topics.iter().map(|topic| ((*topic).to_owned(), first | RETAIN, topic.as_bytes().to_vec())).collect();
            assert_eq!(found, wanted, "{filter}");
            to.disconnect();
        }
    });
}

/// 3.1.1 [MQTT-3.3.1-6]; 5.0 [MQTT-3.3.1-9].
#[test]
fn more_retained_messages_than_the_window_takes_all_come() {
    const COUNT: u16 = 300;
    each_version(|version| {
        let broker = broker();
        let mut from = Wire::connect(&broker, version, "from");
        for number in 0..COUNT {
            from.send(&publish(version, QOS_1 | RETAIN, &format!("t/{number}"), number + 1, &number.to_be_bytes()));
        }
        for number in 0..COUNT {
            from.expect(&ack_with(version, PUBACK, number + 1, NO_SUBSCRIBERS));
        }
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/+", 1);
        let mut found = std::collections::BTreeSet::new();
        while found.len() < COUNT.into() {
            let message = take_publish(&mut to);
            assert_eq!(message.first, QOS_1 | RETAIN);
            assert_eq!(message.topic, format!("t/{}", u16::from_be_bytes([message.payload[0], message.payload[1]])));
            to.send(&ack(PUBACK, message.id));
            assert!(found.insert(message.topic), "twice");
        }
        expect_silence(&mut to);
    });
}

/// 3.1.1 [MQTT-3.3.1-9]; 5.0 [MQTT-3.3.1-12].
#[test]
fn whoever_is_subscribed_already_gets_it_without_the_flag() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "both");
        wire.subscribe("t/a", 1);
        let own = published_to_itself(&mut wire, QOS_1 | RETAIN, "t/a", b"x");
        assert_eq!((own.first, &*own.payload), (QOS_1, &b"x"[..]));
    });
}

/// 3.1.1 [MQTT-3.3.1-10, MQTT-3.3.1-11]; 5.0 [MQTT-3.3.1-6, MQTT-3.3.1-7].
#[test]
fn an_empty_payload_removes_what_was_retained_and_is_not_retained() {
    each_version(|version| {
        for first in [QOS_0, QOS_1, QOS_2] {
            let broker = broker();
            let mut from = Wire::connect(&broker, version, "from");
            published(&mut from, QOS_1 | RETAIN, "t/a", b"x", NO_SUBSCRIBERS);
            let mut there = Wire::connect(&broker, version, "there");
            there.subscribe("t/a", 2);
            expect_publish(&mut there, QOS_1 | RETAIN, "t/a", b"x");
            // It is a message like any other to those who are subscribed.
            published(&mut from, first | RETAIN, "t/a", b"", 0);
            expect_publish(&mut there, first, "t/a", b"");
            let mut to = Wire::connect(&broker, version, "to");
            to.subscribe("t/#", 2);
            expect_silence(&mut to);
        }
    });
}

/// 3.1.1 [MQTT-3.3.1-12]; 5.0 [MQTT-3.3.1-8].
#[test]
fn a_message_without_the_flag_neither_replaces_nor_removes() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "both");
        published(&mut wire, QOS_1, "t/b", b"not kept", NO_SUBSCRIBERS);
        published(&mut wire, QOS_1 | RETAIN, "t/a", b"kept", NO_SUBSCRIBERS);
        published(&mut wire, QOS_1, "t/a", b"other", NO_SUBSCRIBERS);
        published(&mut wire, QOS_1, "t/a", b"", NO_SUBSCRIBERS);
        wire.subscribe("t/#", 1);
        expect_publish(&mut wire, QOS_1 | RETAIN, "t/a", b"kept");
        expect_silence(&mut wire);
    });
}

/// 3.1.1 [MQTT-3.3.1-5]; 5.0 [MQTT-3.3.1-5].
#[test]
fn retained_messages_outlive_the_session_that_published_them() {
    each_version(|version| {
        let broker = broker();
        let mut from = Wire::connect(&broker, version, "from");
        published(&mut from, QOS_1 | RETAIN, "t/a", b"x", NO_SUBSCRIBERS);
        from.disconnect();
        let mut again = Wire::connect(&broker, version, "from");
        again.subscribe("t/a", 0);
        expect_publish(&mut again, QOS_0 | RETAIN, "t/a", b"x");
    });
}

/// 3.1.1 [MQTT-3.8.4-3]; 5.0 [MQTT-3.3.1-9, MQTT-3.8.4-4].
#[test]
fn subscribing_again_sends_retained_messages_again_and_loses_nothing() {
    each_version(|version| {
        let broker = broker();
        let mut from = Wire::connect(&broker, version, "from");
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 1);
        published(&mut from, QOS_1 | RETAIN, "t/a", b"kept", 0);
        expect_publish(&mut to, QOS_1, "t/a", b"kept");
        for number in 0..20_u8 {
            to.send(&subscribe(version, 5, "t/a", 1));
            published(&mut from, QOS_1, "t/a", &[number], 0);
        }
        let (mut replayed, mut live) = (0, vec![]);
        let mut acknowledged = 0;
        while replayed < 20 || live.len() < 20 || acknowledged < 20 {
            let frame = to.expect_packet();
            if frame.first == 0x90 {
                assert_eq!(frame.body, bytes![Be16(5), no_props(version), 1]);
                acknowledged += 1;
                continue;
            }
            let message = take_apart(version, frame);
            to.send(&ack(PUBACK, message.id));
            if message.first & RETAIN == 0 {
                live.push(message.payload[0]);
            } else {
                assert_eq!(message.payload, b"kept");
                replayed += 1;
            }
        }
        assert_eq!(live, (0..20).collect::<Vec<_>>());
        expect_silence(&mut to);
    });
}

/// 5.0 [MQTT-3.3.1-9, MQTT-3.3.1-10, MQTT-3.3.1-11].
#[test]
fn retain_handling_says_when_retained_messages_are_sent() {
    let (always, if_new, never) = (0x01, 0x11, 0x21);
    let broker = broker();
    let mut from = Wire::connect(&broker, V5, "from");
    published(&mut from, QOS_1 | RETAIN, "t/a", b"x", NO_SUBSCRIBERS);
    let sent = |order: &[u8]| -> Vec<usize> {
        let mut to = Wire::connect(&broker, V5, "to");
        let counts = order.iter().map(|options| {
            subscribe_with(&mut to, "t/a", *options);
            let found = deliveries(&mut to);
            for message in &found {
                assert_eq!((message.first, &*message.payload), (QOS_1 | RETAIN, &b"x"[..]));
                to.send(&ack(PUBACK, message.id));
            }
            found.len()
        });
        let counts = counts.collect();
        to.disconnect();
        counts
    };
    assert_eq!(sent(&[always, always, always]), [1, 1, 1]);
    assert_eq!(sent(&[if_new, if_new, always, if_new]), [1, 0, 1, 0]);
    assert_eq!(sent(&[never, never, if_new, always]), [0, 0, 0, 1]);
    // A subscription that was given up is new again.
    let mut to = Wire::connect(&broker, V5, "to");
    for _ in 0..2 {
        subscribe_with(&mut to, "t/a", if_new);
        expect_publish(&mut to, QOS_1 | RETAIN, "t/a", b"x");
        to.ask(&packet![0xA2; Be16(3), 0, "t/a"], &suback(V5, 0xB0, 3, &[0]));
    }
}

/// 5.0 [MQTT-3.3.1-10].
#[test]
fn a_subscription_of_a_resumed_session_is_not_new() {
    let broker = broker();
    let mut from = Wire::connect(&broker, V5, "from");
    published(&mut from, QOS_0 | RETAIN, "t/a", b"x", NO_SUBSCRIBERS);
    let (mut first, _) = Wire::accepted(&broker, &Connect::kept(V5, 1));
    subscribe_with(&mut first, "t/a", 0x10);
    expect_publish(&mut first, QOS_0 | RETAIN, "t/a", b"x");
    first.disconnect();
    let (mut second, connack) = Wire::accepted(&broker, &Connect::kept(V5, 1));
    assert!(connack.session_present);
    subscribe_with(&mut second, "t/a", 0x10);
    expect_silence(&mut second);
    subscribe_with(&mut second, "t/a", 0x00);
    expect_publish(&mut second, QOS_0 | RETAIN, "t/a", b"x");
}

/// 5.0 [MQTT-3.3.1-12, MQTT-3.3.1-13].
#[test]
fn retain_as_published_keeps_the_flag() {
    let broker = broker();
    let mut kept = Wire::connect(&broker, V5, "kept");
    let mut cleared = Wire::connect(&broker, V5, "cleared");
    subscribe_with(&mut kept, "t/#", 0x09);
    subscribe_with(&mut cleared, "t/#", 0x01);
    let mut from = Wire::connect(&broker, V5, "from");
    for (retain, payload) in [(RETAIN, &b"x"[..]), (0, b"y"), (RETAIN, b""), (RETAIN, b"z")] {
        for first in [QOS_0, QOS_1] {
            published(&mut from, first | retain, "t/a", payload, 0);
            expect_publish(&mut kept, first | retain, "t/a", payload);
            expect_publish(&mut cleared, first, "t/a", payload);
        }
    }
    // What a subscription finds has the flag either way.
    for options in [0x00, 0x08] {
        subscribe_with(&mut cleared, "t/a", options);
        expect_publish(&mut cleared, QOS_0 | RETAIN, "t/a", b"z");
    }
}

/// Retained messages are found by subscriptions that are not shared.
#[test]
fn a_shared_subscription_gets_no_retained_messages() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "shares");
        published(&mut wire, QOS_1 | RETAIN, "t/a", b"x", NO_SUBSCRIBERS);
        wire.subscribe("$share/g/t/a", 1);
        expect_silence(&mut wire);
    });
}

/// 5.0 [MQTT-3.3.4-5].
#[test]
fn each_overlapping_subscription_finds_retained_messages_with_its_own_identifier() {
    let broker = broker();
    let mut wire = Wire::connect(&broker, V5, "ids");
    published(&mut wire, QOS_1 | RETAIN, "t/a", b"x", NO_SUBSCRIBERS);
    for (filter, identifier) in [("t/a", 1), ("t/+", 200), ("t/#", 268_435_455)] {
        let id = bytes![0x0B, Var(identifier)];
        wire.ask(&packet![0x82; Be16(1), block(&id), filter, 1], &suback(V5, 0x90, 1, &[1]));
        expect_publish_with(&mut wire, QOS_1 | RETAIN, "t/a", &id, b"x");
    }
    expect_silence(&mut wire);
}
