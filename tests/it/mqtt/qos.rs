//! Chapters 4.3 to 4.5: the three qualities of service, delivery retry, and receipt of messages.

use super::messages::*;
use super::wire::*;

const V5: Version = Version::V5;

/// A kept session of user `u<n>`, connected.
#[track_caller]
fn kept(broker: &crate::support::Broker, version: Version, n: usize) -> Wire {
    Wire::accepted(broker, &Connect::kept(version, n)).0
}

/// The subscriber's end of a QoS 2 delivery that has begun.
#[track_caller]
fn complete(wire: &mut Wire, id: u16) {
    wire.ask(&ack(PUBREC, id), &ack(PUBREL, id));
    wire.send(&ack(PUBCOMP, id));
}

/// 3.1.1 [MQTT-4.3.1-1]; 5.0 [MQTT-4.3.1-1].
#[test]
fn a_qos_0_delivery_is_sent_once_and_without_duplicate() {
    each_version(|version| {
        let broker = broker();
        let mut to = kept(&broker, version, 1);
        to.subscribe("t/a", 0);
        let mut from = Wire::connect(&broker, version, "from");
        published(&mut from, QOS_0, "t/a", b"x", 0);
        expect_publish(&mut to, QOS_0, "t/a", b"x");
        to.hang_up();
        let mut to = kept(&broker, version, 1);
        expect_silence(&mut to);
    });
}

/// 3.1.1 [MQTT-4.3.2-1, MQTT-3.3.1-1]; 5.0 [MQTT-4.3.2-1, MQTT-4.3.2-2, MQTT-4.3.2-3, MQTT-3.3.1-1].
#[test]
fn a_qos_1_delivery_is_unacknowledged_until_its_puback() {
    each_version(|version| {
        let broker = broker();
        let mut to = kept(&broker, version, 1);
        to.subscribe("t/a", 1);
        let mut from = Wire::connect(&broker, version, "from");
        published(&mut from, QOS_1, "t/a", b"1", 0);
        published(&mut from, QOS_1, "t/a", b"2", 0);
        let one = expect_publish(&mut to, QOS_1, "t/a", b"1");
        let two = expect_publish(&mut to, QOS_1, "t/a", b"2");
        assert_ne!(one, two);
        to.send(&ack(PUBACK, one));
        to.expect_nothing();
        for _ in 0..2 {
            to.hang_up();
            to = kept(&broker, version, 1);
            assert_eq!(expect_publish(&mut to, QOS_1 | DUP, "t/a", b"2"), two);
            expect_silence(&mut to);
        }
        to.send(&ack(PUBACK, two));
        to.expect_nothing();
        to.hang_up();
        to = kept(&broker, version, 1);
        expect_silence(&mut to);
    });
}

/// 3.1.1 [MQTT-4.3.2-2]; 5.0 [MQTT-4.3.2-4, MQTT-4.3.2-5].
#[test]
fn an_identifier_is_free_again_after_its_puback() {
    each_version(|version| {
        let broker = broker();
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 1);
        let mut from = Wire::connect(&broker, version, "from");
        for (first, payload) in [(QOS_1, b"1"), (QOS_1, b"2"), (QOS_1 | DUP, b"3")] {
            from.ask(&publish(version, first, "t/a", 7, payload), &ack(PUBACK, 7));
            expect_publish(&mut to, QOS_1, "t/a", payload);
        }
        expect_silence(&mut to);
    });
}

/// 3.1.1 [MQTT-4.3.2-1, MQTT-4.3.3-1, MQTT-2.3.1-4]; 5.0 [MQTT-4.3.2-1, MQTT-4.3.3-1, MQTT-2.2.1-4].
#[test]
fn deliveries_under_way_have_different_identifiers() {
    each_version(|version| {
        let broker = broker();
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 2);
        let mut from = Wire::connect(&broker, version, "from");
        let mut ids = std::collections::BTreeSet::new();
        for number in 0..60_u8 {
            let first = if number % 2 == 0 { QOS_1 } else { QOS_2 };
            published(&mut from, first, "t/a", &[number], 0);
            let id = expect_publish(&mut to, first, "t/a", &[number]);
            assert!(ids.insert(id), "{id} is in use");
            // Some are finished meanwhile, so that there are gaps.
            if number % 7 == 0 {
                if first == QOS_1 {
                    to.send(&ack(PUBACK, id));
                } else {
                    complete(&mut to, id);
                }
                ids.remove(&id);
            }
        }
    });
}

/// 3.1.1 [MQTT-4.3.3-1]; 5.0 [MQTT-4.3.3-2, MQTT-4.3.3-3, MQTT-4.3.3-4, MQTT-4.3.3-5, MQTT-4.3.3-6].
#[test]
fn a_qos_2_delivery_goes_through_all_its_steps() {
    each_version(|version| {
        let broker = broker();
        let mut to = kept(&broker, version, 1);
        to.subscribe("t/a", 2);
        let mut from = Wire::connect(&broker, version, "from");
        published(&mut from, QOS_2, "t/a", b"x", 0);
        let id = expect_publish(&mut to, QOS_2, "t/a", b"x");
        // Until PUBREC the PUBLISH is sent again.
        to.hang_up();
        to = kept(&broker, version, 1);
        assert_eq!(expect_publish(&mut to, QOS_2 | DUP, "t/a", b"x"), id);
        to.ask(&ack(PUBREC, id), &ack(PUBREL, id));
        // A PUBREC that is sent again is answered again.
        to.ask(&ack(PUBREC, id), &ack(PUBREL, id));
        // From then on until PUBCOMP the PUBREL is, and never the PUBLISH.
        for _ in 0..2 {
            to.hang_up();
            to = kept(&broker, version, 1);
            to.expect(&ack(PUBREL, id));
            expect_silence(&mut to);
        }
        to.send(&ack(PUBCOMP, id));
        to.expect_nothing();
        to.hang_up();
        to = kept(&broker, version, 1);
        expect_silence(&mut to);
    });
}

/// 3.1.1 [MQTT-4.3.3-2]; 5.0 [MQTT-4.3.3-8, MQTT-4.3.3-10, MQTT-4.3.3-11, MQTT-4.3.3-12].
#[test]
fn a_qos_2_publication_is_delivered_once_until_it_is_released() {
    each_version(|version| {
        let broker = broker();
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 0);
        let mut from = Wire::connect(&broker, version, "from");
        for round in [b"1", b"2"] {
            from.ask(&publish(version, QOS_2, "t/a", 7, round), &ack(PUBREC, 7));
            from.ask(&publish(version, QOS_2 | DUP, "t/a", 7, round), &ack(PUBREC, 7));
            // Whatever a PUBLISH with this identifier says now, with or without DUP, it is the same message.
            from.ask(&publish(version, QOS_2, "t/a", 7, b"other"), &ack(PUBREC, 7));
            from.ask(&ack(PUBREL, 7), &ack(PUBCOMP, 7));
            from.ask(&ack(PUBREL, 7), &ack_with(version, PUBCOMP, 7, 0x92));
            expect_publish(&mut to, QOS_0, "t/a", round);
        }
        expect_silence(&mut to);
    });
}

/// 3.1.1 [MQTT-4.3.3-2, MQTT-4.4.0-1]; 5.0 [MQTT-4.3.3-10, MQTT-4.3.3-11].
#[test]
fn a_qos_2_publication_is_delivered_once_across_connections() {
    each_version(|version| {
        let broker = broker();
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 2);
        let mut from = kept(&broker, version, 1);
        from.ask(&publish(version, QOS_2, "t/a", 7, b"x"), &ack(PUBREC, 7));
        from.hang_up();
        from = kept(&broker, version, 1);
        from.ask(&publish(version, QOS_2 | DUP, "t/a", 7, b"x"), &ack(PUBREC, 7));
        from.hang_up();
        from = kept(&broker, version, 1);
        from.ask(&ack(PUBREL, 7), &ack(PUBCOMP, 7));
        from.hang_up();
        // The PUBCOMP was lost, as far as the client knows.
        from = kept(&broker, version, 1);
        from.ask(&ack(PUBREL, 7), &ack_with(version, PUBCOMP, 7, 0x92));
        expect_publish(&mut to, QOS_2, "t/a", b"x");
        expect_silence(&mut to);
        from.disconnect();
    });
}

/// 3.1.1 [MQTT-3.1.2-6]; 5.0 [MQTT-3.1.2-4].
#[test]
fn a_clean_start_forgets_what_was_under_way() {
    each_version(|version| {
        let broker = broker();
        let mut to = kept(&broker, version, 1);
        to.subscribe("t/a", 2);
        let mut from = kept(&broker, version, 2);
        from.ask(&publish(version, QOS_2, "t/a", 7, b"x"), &ack(PUBREC, 7));
        expect_publish(&mut to, QOS_2, "t/a", b"x");
        let clean = |n| Connect { clean: true, ..Connect::kept(version, n) };
        to.hang_up();
        let mut to = Wire::accepted(&broker, &clean(1)).0;
        expect_silence(&mut to);
        to.subscribe("t/a", 2);
        // Identifier 7 is free again: this is another message.
        from.hang_up();
        let mut from = Wire::accepted(&broker, &clean(2)).0;
        from.ask(&publish(version, QOS_2, "t/a", 7, b"new"), &ack(PUBREC, 7));
        expect_publish(&mut to, QOS_2, "t/a", b"new");
    });
}

/// 5.0 [MQTT-4.3.3-9].
#[test]
fn an_identifier_is_free_again_after_a_pubrec_that_refuses() {
    let broker = broker();
    let mut to = Wire::connect(&broker, V5, "to");
    to.subscribe("t/a", 2);
    let (mut from, _) = Wire::accepted(&broker, &Connect::new(V5, "from").with(&[0x17, 0]));
    for first in [QOS_2, QOS_2 | DUP] {
        from.ask(&publish(V5, QOS_2, "elsewhere", 7, b"x"), &packet![PUBREC; Be16(7), 0x87]);
        from.ask(&ack(PUBREL, 7), &packet![PUBCOMP; Be16(7), 0x92]);
        from.ask(&publish(V5, QOS_2, "elsewhere", 7, b"x"), &packet![PUBREC; Be16(7), 0x87]);
        from.ask(&publish(V5, first, "t/a", 7, b"new"), &ack(PUBREC, 7));
        from.ask(&ack(PUBREL, 7), &ack(PUBCOMP, 7));
        expect_publish(&mut to, QOS_2, "t/a", b"new");
    }
    expect_silence(&mut to);
}

/// 5.0 [MQTT-4.3.3-7, MQTT-4.3.3-13].
#[test]
fn an_exchange_that_has_begun_does_not_expire() {
    let broker = broker();
    let expiring = bytes![0x02, Be32(1)];
    let mut to = kept(&broker, V5, 1);
    to.subscribe("t/a", 2);
    let mut from = Wire::connect(&broker, V5, "from");
    from.ask(&publish_with(QOS_2, "t/a", 7, &expiring, b"x"), &ack(PUBREC, 7));
    let id = expect_publish_with(&mut to, QOS_2, "t/a", &expiring, b"x");
    let_a_second_pass(&broker);
    // The publisher's side.
    from.ask(&publish_with(QOS_2 | DUP, "t/a", 7, &expiring, b"x"), &ack(PUBREC, 7));
    from.ask(&ack(PUBREL, 7), &ack(PUBCOMP, 7));
    // The subscriber's side, over a reconnection too.
    to.hang_up();
    let mut to = kept(&broker, V5, 1);
    let again = take_publish(&mut to);
    assert_eq!((again.first, again.id, &again.payload[..]), (QOS_2 | DUP, id, &b"x"[..]));
    complete(&mut to, id);
    expect_silence(&mut to);
}

/// 3.1.1 [MQTT-4.4.0-1]; 5.0 [MQTT-4.4.0-1].
#[test]
fn what_is_unacknowledged_is_sent_again_at_a_reconnect_and_never_else() {
    each_version(|version| {
        let broker = broker();
        let mut to = kept(&broker, version, 1);
        to.subscribe("t/+", 2);
        let mut from = Wire::connect(&broker, version, "from");
        published(&mut from, QOS_1, "t/a", b"1", 0);
        published(&mut from, QOS_2, "t/b", b"2", 0);
        published(&mut from, QOS_2, "t/c", b"3", 0);
        let one = expect_publish(&mut to, QOS_1, "t/a", b"1");
        let two = expect_publish(&mut to, QOS_2, "t/b", b"2");
        let three = expect_publish(&mut to, QOS_2, "t/c", b"3");
        to.ask(&ack(PUBREC, two), &ack(PUBREL, two));
        // Not while the connection lasts, however much else is going on.
        for _ in 0..5 {
            published(&mut from, QOS_0, "t/d", b"x", 0);
            expect_publish(&mut to, QOS_0, "t/d", b"x");
            to.subscribe("t/e", 0);
        }
        expect_silence(&mut to);
        to.hang_up();
        let (mut to, connack) = Wire::accepted(&broker, &Connect::kept(version, 1));
        assert_eq!(connack.session_present, version != Version::V31);
        assert_eq!(expect_publish(&mut to, QOS_1 | DUP, "t/a", b"1"), one);
        to.expect(&ack(PUBREL, two));
        assert_eq!(expect_publish(&mut to, QOS_2 | DUP, "t/c", b"3"), three);
        expect_silence(&mut to);
    });
}

/// The client has died, and says so by coming back: its old connection is still there.
#[test]
fn what_is_unacknowledged_is_sent_again_after_a_takeover() {
    each_version(|version| {
        let broker = broker();
        let mut old = kept(&broker, version, 1);
        old.subscribe("t/a", 1);
        let mut from = Wire::connect(&broker, version, "from");
        published(&mut from, QOS_1, "t/a", b"x", 0);
        let id = expect_publish(&mut old, QOS_1, "t/a", b"x");
        let mut new = kept(&broker, version, 1);
        assert_eq!(expect_publish(&mut new, QOS_1 | DUP, "t/a", b"x"), id);
        old.expect_refusal(0x8E);
        new.send(&ack(PUBACK, id));
        expect_silence(&mut new);
    });
}

/// 3.1.1 [MQTT-4.5.0-1]; 5.0 [MQTT-4.5.0-1].
#[test]
fn messages_wait_for_sessions_whose_client_is_away() {
    each_version(|version| {
        let broker = broker();
        for n in [1, 2] {
            let mut to = kept(&broker, version, n);
            to.subscribe("t/a", n as u8);
            to.disconnect();
        }
        let mut from = Wire::connect(&broker, version, "from");
        for (first, payload) in [(QOS_1, b"1"), (QOS_2, b"2"), (QOS_1, b"3")] {
            published(&mut from, first, "t/a", payload, 0);
        }
        from.disconnect();
        let mut to = kept(&broker, version, 1);
        for payload in [b"1", b"2", b"3"] {
            expect_publish(&mut to, QOS_1, "t/a", payload);
        }
        expect_silence(&mut to);
        let mut to = kept(&broker, version, 2);
        for (first, payload) in [(QOS_1, b"1"), (QOS_2, b"2"), (QOS_1, b"3")] {
            expect_publish(&mut to, first, "t/a", payload);
        }
        expect_silence(&mut to);
    });
}

/// An acknowledgement of the wrong kind would lose the message.
/// 5.0 [MQTT-4.13.1-1]; 3.1.1 [MQTT-4.8.0-1].
#[test]
fn an_acknowledgement_of_the_wrong_kind_loses_nothing() {
    each_version(|version| {
        for (first, wrong) in [(QOS_1, PUBREC), (QOS_1, PUBCOMP), (QOS_2, PUBACK), (QOS_2, PUBCOMP)] {
            let broker = broker();
            let mut to = kept(&broker, version, 1);
            to.subscribe("t/a", 2);
            let mut from = Wire::connect(&broker, version, "from");
            published(&mut from, first, "t/a", b"x", 0);
            let id = expect_publish(&mut to, first, "t/a", b"x");
            to.send(&ack(wrong, id));
            to.expect_refusal(0x82);
            let mut to = kept(&broker, version, 1);
            assert_eq!(expect_publish(&mut to, first | DUP, "t/a", b"x"), id);
        }
    });
}
