//! Chapter 3.3, PUBLISH: fixed header, topic name and actions. Properties and retained messages have files of their own.

use super::messages::*;
use super::wire::*;
use crate::support::Broker;

/// Sends these bytes as a new client, which must be told `reason` and closed.
#[track_caller]
fn refused(broker: &Broker, version: Version, bytes: &[u8], reason: u8) {
    let mut wire = Wire::connect(broker, version, "bad");
    wire.expect_nothing();
    wire.send(bytes);
    wire.expect_refusal(reason);
}

/// 3.1.1 [MQTT-3.3.1-4]; 5.0 [MQTT-3.3.1-4].
#[test]
fn quality_of_service_3_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        for flags in [0x06, 0x07, 0x0E, 0x0F] {
            refused(&broker, version, &packet![0x30 | flags; "t/a", Be16(1), no_props(version), b"x"], 0x81);
        }
    });
}

/// 3.1.1 [MQTT-3.3.1-2]; 5.0 [MQTT-3.3.1-2].
#[test]
fn a_duplicate_at_qos_0_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        refused(&broker, version, &publish(version, QOS_0 | DUP, "t/a", 0, b"x"), 0x81);
        refused(&broker, version, &publish(version, QOS_0 | DUP | RETAIN, "t/a", 0, b"x"), 0x81);
    });
}

/// 3.1.1 [MQTT-2.3.1-1]; 5.0 [MQTT-2.2.1-3].
#[test]
fn packet_identifier_0_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        refused(&broker, version, &publish(version, QOS_1, "t/a", 0, b"x"), 0x81);
        refused(&broker, version, &publish(version, QOS_2, "t/a", 0, b"x"), 0x81);
    });
}

/// 3.1.1 [MQTT-3.3.2-2, MQTT-4.7.1-1]; 5.0 [MQTT-3.3.2-2, MQTT-4.7.0-1].
#[test]
fn a_wildcard_in_a_topic_name_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        for topic in ["t/+", "t/#", "+", "#", "t/+/a", "t/a#", "t/a+b", "$SYS/#"] {
            for first in [QOS_0, QOS_1, QOS_2] {
                refused(&broker, version, &publish(version, first, topic, 1, b"x"), 0x90);
            }
        }
    });
}

/// 3.1.1 [MQTT-4.7.3-1]; 5.0 [MQTT-4.7.3-1].
#[test]
fn an_empty_topic_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        for first in [QOS_0, QOS_1, QOS_2] {
            refused(&broker, version, &publish(version, first, "", 1, b"x"), 0x82);
        }
    });
}

/// 3.1.1 [MQTT-3.3.2-1, MQTT-4.7.3-2]; 5.0 [MQTT-3.3.2-1, MQTT-4.7.3-2].
#[test]
fn a_topic_that_is_not_text_ends_the_connection() {
    let broker = broker();
    // U+0000, a lone continuation byte, an overlong slash, a surrogate, beyond the last code point, half a character.
    let topics: [&[u8]; 6] =
        [b"t/\0", b"t/\x80", b"t/\xC0\xAF", b"t/\xED\xA0\x80", b"t/\xF4\x90\x80\x80", b"t/\xE2\x82"];
    each_version(|version| {
        for topic in topics {
            refused(&broker, version, &packet![0x30; Data(topic), no_props(version), b"x"], 0x81);
        }
    });
}

/// 3.1.1 [MQTT-3.3.2-1, MQTT-4.8.0-1]; 5.0 [MQTT-3.3.2-1, MQTT-4.13.1-1].
#[test]
fn a_publish_that_ends_too_early_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        refused(&broker, version, &packet![0x30], 0x81);
        refused(&broker, version, &packet![0x30; 0], 0x81);
        refused(&broker, version, &packet![0x30; Be16(4), b"t/a"], 0x81);
        refused(&broker, version, &packet![0x32; "t/a"], 0x81);
        refused(&broker, version, &packet![0x32; "t/a", 1], 0x81);
    });
    // 5.0 ends with its properties at the earliest.
    refused(&broker, Version::V5, &packet![0x30; "t/a"], 0x81);
    refused(&broker, Version::V5, &packet![0x30; "t/a", 3, 0x01, 1], 0x81);
}

/// 3.1.1 [MQTT-3.3.4-1]; 5.0 [MQTT-3.3.4-1].
#[test]
fn each_quality_of_service_has_its_answer() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "answers");
        wire.send(&publish(version, QOS_0, "t/a", 0, b"x"));
        wire.expect_nothing();
        wire.ask(&publish(version, QOS_1, "t/a", 0x0102, b"x"), &ack_with(version, PUBACK, 0x0102, NO_SUBSCRIBERS));
        wire.ask(&publish(version, QOS_2, "t/a", 0xFFFF, b"x"), &ack_with(version, PUBREC, 0xFFFF, NO_SUBSCRIBERS));
        wire.ask(&ack(PUBREL, 0xFFFF), &ack(PUBCOMP, 0xFFFF));
        wire.subscribe("t/a", 0);
        wire.ask(&publish(version, QOS_1, "t/a", 1, b"x"), &ack(PUBACK, 1));
        expect_publish(&mut wire, QOS_0, "t/a", b"x");
        wire.ask(&publish(version, QOS_2, "t/a", 1, b"x"), &ack(PUBREC, 1));
        expect_publish(&mut wire, QOS_0, "t/a", b"x");
        wire.expect_nothing();
    });
}

/// 3.1.1 [MQTT-3.3.1-3]; 5.0 [MQTT-3.3.1-3].
#[test]
fn the_duplicate_flag_of_a_publisher_is_not_passed_on() {
    each_version(|version| {
        let broker = broker();
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 2);
        let mut from = Wire::connect(&broker, version, "from");
        from.ask(&publish(version, QOS_1 | DUP, "t/a", 1, b"1"), &ack(PUBACK, 1));
        from.ask(&publish(version, QOS_2 | DUP, "t/a", 2, b"2"), &ack(PUBREC, 2));
        expect_publish(&mut to, QOS_1, "t/a", b"1");
        expect_publish(&mut to, QOS_2, "t/a", b"2");
    });
}

/// 3.1.1 [MQTT-3.3.2-3]; 5.0 [MQTT-3.3.2-3].
#[test]
fn a_message_carries_the_topic_it_was_published_to() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "topics");
        wire.subscribe("t/#", 1);
        for topic in ["t", "t/", "t//", "t/a b", "t/ä/温", "t/$x", "t/A"] {
            published(&mut wire, QOS_1, topic, topic.as_bytes(), 0);
            let id = expect_publish(&mut wire, QOS_1, topic, topic.as_bytes());
            wire.send(&ack(PUBACK, id));
        }
        wire.expect_nothing();
    });
}

/// 3.1.1 [MQTT-4.7.3-3]; 5.0 [MQTT-4.7.3-3].
#[test]
fn a_topic_of_65535_bytes_travels() {
    let topic = format!("t/{}", "x".repeat(65_533));
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "long");
        wire.subscribe(&topic, 1);
        published(&mut wire, QOS_1, &topic, b"x", 0);
        expect_publish(&mut wire, QOS_1, &topic, b"x");
    });
}

/// Lengths around those at which the remaining length takes another byte.
#[test]
fn payloads_of_any_bytes_and_length_travel_unaltered() {
    each_version(|version| {
        let broker = broker();
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 1);
        let mut from = Wire::connect(&broker, version, "from");
        for length in [0, 1, 118, 119, 120, 121, 122, 123, 16_374, 16_376, 16_378, 16_380, 70_000, 1_000_000] {
            let payload: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            published(&mut from, QOS_1, "t/a", &payload, 0);
            let id = expect_publish(&mut to, QOS_1, "t/a", &payload);
            to.send(&ack(PUBACK, id));
        }
        to.expect_nothing();
    });
}

/// 3.1.1 [MQTT-3.3.5-2]. In 5.0 the answer says it.
#[test]
fn a_publication_that_is_not_allowed_is_acknowledged_and_not_delivered() {
    each_version(|version| {
        let broker = broker_with(everything);
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("#", 2);
        let mut from = Wire::connect(&broker, version, "from");
        // No client publishes below $SYS.
        let why = "clients never publish to $SYS/…: these topics are the broker's own";
        let said = |first, id| match version {
            Version::V5 => packet![first; Be16(id), 0x87, props![0x1F, why]],
            _ => ack(first, id),
        };
        from.ask(&publish(version, QOS_1, "$SYS/a", 1, b"x"), &said(PUBACK, 1));
        from.ask(&publish(version, QOS_2, "$SYS/a", 2, b"x"), &said(PUBREC, 2));
        to.expect_nothing();
    });
}

/// Messages go both ways between all versions; what 3.x does not have is left out.
#[test]
fn versions_talk_to_each_other() {
    each_version(|sender| {
        each_version(|receiver| {
            let broker = broker();
            let mut to = Wire::connect(&broker, receiver, "to");
            to.subscribe("t/a", 2);
            let mut from = Wire::connect(&broker, sender, "from");
            for first in [QOS_0, QOS_1, QOS_2] {
                published(&mut from, first, "t/a", b"x", 0);
                expect_publish(&mut to, first, "t/a", b"x");
            }
        });
    });
}
