//! Chapters 3.10 and 3.11, UNSUBSCRIBE and UNSUBACK.

use super::messages::*;
use super::wire::*;
use crate::support::Broker;

const V5: Version = Version::V5;

#[track_caller]
fn refused(broker: &Broker, version: Version, bytes: &[u8], reason: u8) {
    let mut wire = Wire::connect(broker, version, "bad");
    wire.send(bytes);
    wire.expect_refusal(reason);
}

fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<u8> = filters.iter().flat_map(|filter| bytes![*filter]).collect();
    packet![0xA2; Be16(id), no_props(version), filters]
}

/// 3.1.1 [MQTT-3.10.1-1]; 5.0 [MQTT-3.10.1-1].
#[test]
fn an_unsubscribe_with_other_flags_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        for flags in (0..16).filter(|flags| *flags != 0x02) {
            // In 3.1 an UNSUBSCRIBE that is sent again carries DUP.
            if version != Version::V31 || flags != 0x0A {
                refused(&broker, version, &packet![0xA0 | flags; Be16(1), no_props(version), "t/a"], 0x81);
            }
        }
    });
    let mut wire = Wire::connect(&broker, Version::V31, "again");
    wire.ask(&packet![0xAA; Be16(1), "t/a"], &[0xB0, 2, 0, 1]);
}

/// 3.1.1 [MQTT-2.3.1-1]; 5.0 [MQTT-2.2.1-3].
#[test]
fn packet_identifier_0_ends_the_connection() {
    let broker = broker();
    each_version(|version| refused(&broker, version, &unsubscribe(version, 0, &["t/a"]), 0x81));
}

/// 3.1.1 [MQTT-3.10.3-2]; 5.0 [MQTT-3.10.3-2].
#[test]
fn an_unsubscribe_without_a_filter_ends_the_connection() {
    let broker = broker();
    each_version(|version| refused(&broker, version, &unsubscribe(version, 1, &[]), 0x82));
}

/// 3.1.1 [MQTT-3.10.3-1, MQTT-4.7.3-2]; 5.0 [MQTT-3.10.3-1, MQTT-4.7.3-2].
#[test]
fn a_filter_that_is_not_text_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        for filter in [&b"t/\xFF"[..], b"t/\xED\xBF\xBF", b"t/\0"] {
            refused(&broker, version, &packet![0xA2; Be16(1), no_props(version), Data(filter)], 0x81);
        }
    });
}

/// 3.1.1 [MQTT-4.7.1-2, MQTT-4.7.1-3, MQTT-4.7.3-1]; 5.0 [MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.3-1].
#[test]
fn a_malformed_filter_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        for filter in ["", "t/#/a", "t#", "t+", "+t/a"] {
            refused(&broker, version, &unsubscribe(version, 1, &["t/a", filter]), 0x81);
        }
    });
}

/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-4.13.1-1].
#[test]
fn an_unsubscribe_that_ends_too_early_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        refused(&broker, version, &packet![0xA2], 0x81);
        refused(&broker, version, &packet![0xA2; 0], 0x81);
        refused(&broker, version, &packet![0xA2; Be16(1), no_props(version), Be16(4), b"t/a"], 0x81);
        refused(&broker, version, &packet![0xA2; Be16(1), no_props(version), "t/a", 0], 0x81);
    });
    refused(&broker, V5, &packet![0xA2; Be16(1), props![0x0B, 1], "t/a"], 0x81);
}

/// 3.1.1 [MQTT-3.10.4-4, MQTT-3.10.4-5, MQTT-3.10.4-6]; 5.0 [MQTT-3.10.4-4, MQTT-3.10.4-5, MQTT-3.10.4-6, MQTT-3.11.3-1, MQTT-3.11.3-2].
#[test]
fn each_unsubscribe_has_one_answer_with_a_code_for_each_filter() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "asks");
        wire.ask(&unsubscribe(version, 0x0102, &["t/a"]), &unsuback(version, 0x0102, &[0x11]));
        wire.subscribe("t/a", 0);
        wire.subscribe("t/#", 0);
        let filters = ["t/b", "t/a", "t/a", "elsewhere", "t/#"];
        wire.ask(&unsubscribe(version, 0xFFFF, &filters), &unsuback(version, 0xFFFF, &[0x11, 0, 0x11, 0x11, 0]));
        published(&mut wire, QOS_1, "t/a", b"x", NO_SUBSCRIBERS);
        expect_silence(&mut wire);
    });
    let broker = broker();
    let mut wire = Wire::connect(&broker, V5, "user");
    wire.ask(&packet![0xA2; Be16(1), props![0x26, "a", "1", 0x26, "a", "1"], "t/a"], &unsuback(V5, 1, &[0x11]));
}

/// 3.1.1 [MQTT-3.10.4-1]; 5.0 [MQTT-3.10.4-1].
#[test]
fn filters_are_compared_character_by_character() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "compares");
        wire.subscribe("t/+/a", 1);
        let others = ["t/x/a", "t/+/A", "t/+/a/", "t/+", "t/#", "#", "t/+/+", "$share/g/t/+/a", "/t/+/a"];
        wire.ask(&unsubscribe(version, 1, &others), &unsuback(version, 1, &[0x11; 9]));
        published(&mut wire, QOS_1, "t/x/a", b"x", 0);
        expect_publish(&mut wire, QOS_1, "t/x/a", b"x");
        wire.ask(&unsubscribe(version, 2, &["t/+/a"]), &unsuback(version, 2, &[0]));
        published(&mut wire, QOS_1, "t/x/a", b"x", NO_SUBSCRIBERS);
    });
}

/// 3.1.1 [MQTT-3.10.4-2]; 5.0 [MQTT-3.10.4-2].
#[test]
fn nothing_new_comes_after_the_answer() {
    each_version(|version| {
        let broker = broker();
        let mut from = Wire::connect(&broker, version, "from");
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 1);
        to.subscribe("t/b", 1);
        to.ask(&unsubscribe(version, 2, &["t/a"]), &unsuback(version, 2, &[0]));
        for first in [QOS_0, QOS_1, QOS_2] {
            published(&mut from, first, "t/a", b"x", NO_SUBSCRIBERS);
        }
        expect_silence(&mut to);
        // The other subscription is untouched.
        published(&mut from, QOS_1, "t/b", b"x", 0);
        expect_publish(&mut to, QOS_1, "t/b", b"x");
    });
}

/// 3.1.1 [MQTT-3.10.4-3]; 5.0 [MQTT-3.10.4-3].
#[test]
fn deliveries_that_have_begun_are_completed() {
    each_version(|version| {
        let broker = broker();
        let mut from = Wire::connect(&broker, version, "from");
        let (mut to, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
        to.subscribe("t/a", 2);
        for (first, payload) in [(QOS_1, b"1"), (QOS_2, b"2"), (QOS_2, b"3")] {
            published(&mut from, first, "t/a", payload, 0);
        }
        let one = expect_publish(&mut to, QOS_1, "t/a", b"1");
        let two = expect_publish(&mut to, QOS_2, "t/a", b"2");
        let three = expect_publish(&mut to, QOS_2, "t/a", b"3");
        to.ask(&ack(PUBREC, two), &ack(PUBREL, two));
        to.ask(&unsubscribe(version, 2, &["t/a"]), &unsuback(version, 2, &[0]));
        to.hang_up();
        let (mut to, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
        assert_eq!(expect_publish(&mut to, QOS_1 | DUP, "t/a", b"1"), one);
        to.expect(&ack(PUBREL, two));
        assert_eq!(expect_publish(&mut to, QOS_2 | DUP, "t/a", b"3"), three);
        to.send(&ack(PUBACK, one));
        to.send(&ack(PUBCOMP, two));
        to.ask(&ack(PUBREC, three), &ack(PUBREL, three));
        to.send(&ack(PUBCOMP, three));
        expect_silence(&mut to);
        to.disconnect();
        let (mut to, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
        expect_silence(&mut to);
    });
}
