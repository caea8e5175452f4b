//! Chapters 3.8 and 3.9, SUBSCRIBE and SUBACK. Retained messages and shared subscriptions have files of their own.

use super::messages::*;
use super::wire::*;
use crate::support::Broker;

const V5: Version = Version::V5;
const NO_LOCAL: u8 = 0x04;

#[track_caller]
fn refused(broker: &Broker, version: Version, bytes: &[u8], reason: u8) {
    let mut wire = Wire::connect(broker, version, "bad");
    wire.send(bytes);
    wire.expect_refusal(reason);
}

/// SUBSCRIBE of 5.0 with one filter and properties, given without their length.
fn subscribe_with(id: u16, properties: &[u8], filter: &str, options: u8) -> Vec<u8> {
    packet![0x82; Be16(id), block(properties), filter, options]
}

/// The Subscription Identifiers of a delivery, in order of size.
fn identifiers(message: &Published) -> Vec<u32> {
    let values = message.properties.0.iter().filter(|(id, _)| *id == 0x0B).map(|(_, value)| value);
    let mut found: Vec<u32> =
        values.map(|value| value.iter().rev().fold(0, |number, byte| number << 7 | u32::from(byte & 0x7F))).collect();
    found.sort_unstable();
    found
}

/// 3.1.1 [MQTT-3.8.1-1]; 5.0 [MQTT-3.8.1-1].
#[test]
fn a_subscribe_with_other_flags_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        for flags in (0..16).filter(|flags| *flags != 0x02) {
            // In 3.1 a SUBSCRIBE that is sent again carries DUP.
            if version != Version::V31 || flags != 0x0A {
                refused(&broker, version, &packet![0x80 | flags; Be16(1), no_props(version), "t/a", 0], 0x81);
            }
        }
    });
    let mut wire = Wire::connect(&broker, Version::V31, "again");
    wire.ask(&packet![0x8A; Be16(1), "t/a", 1], &[0x90, 3, 0, 1, 1]);
}

/// 3.1.1 [MQTT-2.3.1-1]; 5.0 [MQTT-2.2.1-3].
#[test]
fn packet_identifier_0_ends_the_connection() {
    let broker = broker();
    each_version(|version| refused(&broker, version, &subscribe(version, 0, "t/a", 0), 0x81));
}

/// 3.1.1 [MQTT-3.8.3-3]; 5.0 [MQTT-3.8.3-2].
#[test]
fn a_subscribe_without_a_filter_ends_the_connection() {
    let broker = broker();
    each_version(|version| refused(&broker, version, &packet![0x82; Be16(1), no_props(version)], 0x82));
}

/// 3.1.1 [MQTT-3.8.3-1]; 5.0 [MQTT-3.8.3-1].
#[test]
fn a_filter_that_is_not_text_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        for filter in [&b"t/\xFF"[..], b"t/\xED\xA0\x80", b"t/\xC1\x81", b"t/\0"] {
            refused(&broker, version, &packet![0x82; Be16(1), no_props(version), Data(filter), 0], 0x81);
        }
    });
}

/// 3.1.1 [MQTT-3.8.3-4]; 5.0 [MQTT-3.8.3-5].
#[test]
fn reserved_bits_of_the_options_end_the_connection() {
    let broker = broker();
    each_version(|version| {
        let reserved: &[u8] = if version == V5 { &[0x40, 0x80, 0xC0, 0x41] } else { &[0x04, 0x08, 0x10, 0x40, 0x81] };
        for options in reserved {
            refused(&broker, version, &subscribe(version, 1, "t/a", *options), 0x81);
        }
        // QoS 3, alone and after a filter that is in order.
        refused(&broker, version, &subscribe(version, 1, "t/a", 3), 0x82);
        refused(&broker, version, &packet![0x82; Be16(1), no_props(version), "t/a", 1, "t/b", 3], 0x82);
    });
    refused(&broker, V5, &subscribe(V5, 1, "t/a", 0x30), 0x82);
}

/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-4.13.1-1].
#[test]
fn a_subscribe_that_ends_too_early_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        let none = no_props(version);
        refused(&broker, version, &packet![0x82], 0x81);
        refused(&broker, version, &packet![0x82; 0], 0x81);
        refused(&broker, version, &packet![0x82; Be16(1), &none, "t/a"], 0x81);
        refused(&broker, version, &packet![0x82; Be16(1), &none, Be16(4), b"t/a"], 0x81);
        refused(&broker, version, &packet![0x82; Be16(1), &none, "t/a", 0, 0], 0x81);
    });
}

/// 3.1.1 [MQTT-4.7.1-2, MQTT-4.7.1-3, MQTT-4.7.3-1]; 5.0 [MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.3-1].
#[test]
fn a_malformed_filter_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        for filter in ["", "t/#/a", "t#", "#/t", "##", "t/##", "t+", "+t", "t/+a/b", "++", "t/a+/b"] {
            refused(&broker, version, &subscribe(version, 1, filter, 0), 0x81);
        }
    });
}

/// 3.1.1 [MQTT-3.8.4-1, MQTT-3.8.4-2, MQTT-3.8.4-5, MQTT-3.9.3-2]; 5.0 [MQTT-3.8.4-1, MQTT-3.8.4-2, MQTT-3.8.4-6, MQTT-3.8.4-7, MQTT-3.9.3-2].
#[test]
fn each_subscribe_is_answered_with_its_identifier_and_the_granted_qos() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "asks");
        for (id, qos) in [(1, 0), (0x0102, 1), (0xFFFF, 2)] {
            wire.ask(&subscribe(version, id, "t/a", qos), &suback(version, 0x90, id, &[qos]));
        }
    });
}

/// 3.1.1 [MQTT-3.8.4-4, MQTT-3.8.4-5, MQTT-3.9.3-1, MQTT-3.9.3-2]; 5.0 [MQTT-3.8.4-5, MQTT-3.8.4-6, MQTT-3.9.3-1, MQTT-3.9.3-2].
#[test]
fn many_filters_have_one_answer_in_their_order() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "asks");
        // What no rule allows is refused without harm to the rest.
        let denied = if version == V5 { 0x87 } else { 0x80 };
        let filters = bytes!["t/a", 2, "elsewhere", 1, "t/b", 0, "t/a/#", 1, "#", 0, "t/a", 0];
        wire.send(&packet![0x82; Be16(7), no_props(version), filters]);
        let answer = wire.expect_packet().body;
        assert_eq!((&answer[..2], &answer[answer.len() - 6..]), (&[0, 7][..], &[2, denied, 0, 1, denied, 0][..]));
        // The later one of the same filter holds; overlapping ones give the highest QoS.
        let mut from = Wire::connect(&broker, version, "from");
        published(&mut from, QOS_2, "t/b", b"b", 0);
        expect_publish(&mut wire, QOS_0, "t/b", b"b");
        published(&mut from, QOS_2, "t/a", b"a", 0);
        let id = expect_publish(&mut wire, QOS_1, "t/a", b"a");
        wire.send(&ack(PUBACK, id));
        expect_silence(&mut wire);
    });
}

#[test]
fn a_hundred_filters_fit_into_one_subscribe() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "asks");
        let filters: Vec<u8> = (0..100).flat_map(|n| bytes![format!("t/{n}").as_str(), (n % 3) as u8]).collect();
        let codes: Vec<u8> = (0..100).map(|n| (n % 3) as u8).collect();
        wire.ask(&packet![0x82; Be16(7), no_props(version), filters], &suback(version, 0x90, 7, &codes));
        published(&mut wire, QOS_1, "t/99", b"x", 0);
        expect_publish(&mut wire, QOS_0, "t/99", b"x");
    });
}

/// 3.1.1 [MQTT-3.8.4-3]; 5.0 [MQTT-3.8.4-3].
#[test]
fn the_same_filter_replaces_the_subscription() {
    each_version(|version| {
        let broker = broker();
        let mut from = Wire::connect(&broker, version, "from");
        let mut to = Wire::connect(&broker, version, "to");
        for (qos, first) in [(0, QOS_0), (2, QOS_2), (1, QOS_1), (0, QOS_0)] {
            to.subscribe("t/+", qos);
            published(&mut from, QOS_2, "t/a", b"x", 0);
            let id = expect_publish(&mut to, first, "t/a", b"x");
            match first {
                QOS_1 => to.send(&ack(PUBACK, id)),
                QOS_2 => {
                    to.ask(&ack(PUBREC, id), &ack(PUBREL, id));
                    to.send(&ack(PUBCOMP, id));
                }
                _ => {}
            }
            expect_silence(&mut to);
        }
        // One UNSUBSCRIBE ends it.
        to.ask(&packet![0xA2; Be16(2), no_props(version), "t/+"], &unsuback(version, 2, &[0]));
        published(&mut from, QOS_2, "t/a", b"x", NO_SUBSCRIBERS);
        expect_silence(&mut to);
    });
}

/// 3.1.1 [MQTT-3.8.4-6]; 5.0 [MQTT-3.8.4-8].
#[test]
fn a_message_comes_at_the_lower_of_both_qualities() {
    each_version(|version| {
        let broker = broker();
        let mut from = Wire::connect(&broker, version, "from");
        for granted in [QOS_0, QOS_1, QOS_2] {
            let mut to = Wire::connect(&broker, version, "to");
            to.subscribe("t/a", (granted & 6) >> 1);
            for sent in [QOS_0, QOS_1, QOS_2] {
                published(&mut from, sent, "t/a", b"x", 0);
                expect_publish(&mut to, sent.min(granted), "t/a", b"x");
            }
            expect_silence(&mut to);
        }
    });
}

/// 3.1.1 [MQTT-3.3.5-1]; 5.0 [MQTT-3.3.4-2].
#[test]
fn overlapping_subscriptions_give_one_copy_at_the_highest_qos() {
    each_version(|version| {
        let broker = broker();
        let mut from = Wire::connect(&broker, version, "from");
        let mut to = Wire::connect(&broker, version, "to");
        for (filter, qos) in [("t/a", 1), ("t/+", 2), ("t/#", 0)] {
            to.subscribe(filter, qos);
        }
        published(&mut from, QOS_2, "t/a", b"x", 0);
        expect_publish(&mut to, QOS_2, "t/a", b"x");
        expect_silence(&mut to);
    });
}

/// 5.0 [MQTT-3.3.4-3, MQTT-3.3.4-4].
#[test]
fn a_message_carries_the_identifiers_of_all_matching_subscriptions() {
    let broker = broker();
    let mut from = Wire::connect(&broker, V5, "from");
    let mut to = Wire::connect(&broker, V5, "to");
    let asked = [("t/a", Some(1)), ("t/+", Some(127)), ("t/#", Some(268_435_455)), ("t/a/#", None), ("t/b", Some(128))];
    for (filter, identifier) in asked {
        let id = identifier.map_or(vec![], |id| bytes![0x0B, Var(id)]);
        to.ask(&subscribe_with(1, &id, filter, 0), &suback(V5, 0x90, 1, &[0]));
    }
    published(&mut from, QOS_1, "t/a", b"x", 0);
    assert_eq!(identifiers(&take_publish(&mut to)), [1, 127, 268_435_455]);
    published(&mut from, QOS_1, "t/b", b"x", 0);
    assert_eq!(identifiers(&take_publish(&mut to)), [127, 128, 268_435_455]);
    published(&mut from, QOS_1, "t/c/d", b"x", 0);
    expect_publish_with(&mut to, QOS_0, "t/c/d", &[0x0B, 0xFF, 0xFF, 0xFF, 0x7F], b"x");
    // The same identifier of two subscriptions is there twice.
    to.ask(&subscribe_with(1, &[0x0B, 1], "t/+", 0), &suback(V5, 0x90, 1, &[0]));
    published(&mut from, QOS_1, "t/a", b"x", 0);
    assert_eq!(identifiers(&take_publish(&mut to)), [1, 1, 268_435_455]);
}

/// 5.0 [MQTT-3.8.4-3].
#[test]
fn subscribing_again_replaces_the_identifier() {
    let broker = broker();
    let mut wire = Wire::connect(&broker, V5, "ids");
    for identifier in [vec![0x0B, 5], vec![0x0B, 0x80, 0x01], vec![], vec![0x0B, 7]] {
        wire.ask(&subscribe_with(1, &identifier, "t/a", 0), &suback(V5, 0x90, 1, &[0]));
        published(&mut wire, QOS_1, "t/a", b"x", 0);
        expect_publish_with(&mut wire, QOS_0, "t/a", &identifier, b"x");
    }
}

/// 5.0 [MQTT-3.3.4-3].
#[test]
fn identifiers_are_part_of_the_session() {
    let broker = broker();
    let mut from = Wire::connect(&broker, V5, "from");
    let (mut to, _) = Wire::accepted(&broker, &Connect::kept(V5, 1));
    to.ask(&subscribe_with(1, &[0x0B, 5], "t/a", 1), &suback(V5, 0x90, 1, &[1]));
    to.disconnect();
    published(&mut from, QOS_1, "t/a", b"away", 0);
    let (mut to, _) = Wire::accepted(&broker, &Connect::kept(V5, 1));
    expect_publish_with(&mut to, QOS_1, "t/a", &[0x0B, 5], b"away");
    published(&mut from, QOS_1, "t/a", b"back", 0);
    expect_publish_with(&mut to, QOS_1, "t/a", &[0x0B, 5], b"back");
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn a_wrong_subscription_identifier_ends_the_connection() {
    let broker = broker();
    refused(&broker, V5, &subscribe_with(1, &[0x0B, 0], "t/a", 0), 0x82);
    refused(&broker, V5, &subscribe_with(1, &[0x0B, 1, 0x0B, 2], "t/a", 0), 0x82);
    refused(&broker, V5, &subscribe_with(1, &[0x0B, 0x80, 0x80, 0x80, 0x80, 0x01], "t/a", 0), 0x81);
    refused(&broker, V5, &subscribe_with(1, &[0x0B, 0x81, 0x00], "t/a", 0), 0x81);
    refused(&broker, V5, &subscribe_with(1, &bytes![0x1F, "why"], "t/a", 0), 0x81);
    refused(&broker, V5, &subscribe_with(1, &bytes![0x23, Be16(1)], "t/a", 0), 0x81);
}

#[test]
fn a_subscribe_may_carry_user_properties() {
    let broker = broker();
    let mut wire = Wire::connect(&broker, V5, "user");
    let user = bytes![0x26, "a", "1", 0x0B, 9, 0x26, "a", "2"];
    wire.ask(&subscribe_with(1, &user, "t/a", 0), &suback(V5, 0x90, 1, &[0]));
    published(&mut wire, QOS_1, "t/a", b"x", 0);
    expect_publish_with(&mut wire, QOS_0, "t/a", &[0x0B, 9], b"x");
}

/// 5.0 [MQTT-3.8.3-3].
#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    let broker = broker();
    let mut own = Wire::connect(&broker, V5, "own");
    let mut other = Wire::connect(&broker, V5, "other");
    for wire in [&mut own, &mut other] {
        wire.ask(&subscribe(V5, 1, "t/a", 2 | NO_LOCAL), &suback(V5, 0x90, 1, &[2]));
    }
    for first in [QOS_0, QOS_1, QOS_2] {
        published(&mut own, first, "t/a", b"own", 0);
        expect_publish(&mut other, first, "t/a", b"own");
    }
    expect_silence(&mut own);
    published(&mut other, QOS_1, "t/a", b"other", 0);
    expect_publish(&mut own, QOS_1, "t/a", b"other");
    expect_silence(&mut other);
}

/// 5.0 [MQTT-3.8.3-3].
#[test]
fn no_local_of_one_subscription_says_nothing_about_another() {
    let broker = broker();
    let mut own = Wire::connect(&broker, V5, "own");
    own.ask(&subscribe_with(1, &[0x0B, 1], "t/#", 2 | NO_LOCAL), &suback(V5, 0x90, 1, &[2]));
    own.ask(&subscribe_with(1, &[0x0B, 2], "t/+", 0), &suback(V5, 0x90, 1, &[0]));
    // By the second subscription alone: its QoS, and its identifier.
    published(&mut own, QOS_1, "t/a", b"own", 0);
    expect_publish_with(&mut own, QOS_0, "t/a", &[0x0B, 2], b"own");
    let mut other = Wire::connect(&broker, V5, "other");
    published(&mut other, QOS_1, "t/a", b"other", 0);
    let message = take_publish(&mut own);
    assert_eq!((message.first, identifiers(&message)), (QOS_1, vec![1, 2]));
    own.send(&ack(PUBACK, message.id));
    expect_silence(&mut own);
}

/// 5.0 [MQTT-3.8.3-3].
#[test]
fn no_local_holds_after_a_reconnect_and_can_be_taken_back() {
    let broker = broker();
    let (mut own, _) = Wire::accepted(&broker, &Connect::kept(V5, 1));
    own.ask(&subscribe(V5, 1, "t/a", NO_LOCAL), &suback(V5, 0x90, 1, &[0]));
    own.disconnect();
    let (mut own, _) = Wire::accepted(&broker, &Connect::kept(V5, 1));
    published(&mut own, QOS_1, "t/a", b"x", 0);
    expect_silence(&mut own);
    own.subscribe("t/a", 0);
    published(&mut own, QOS_1, "t/a", b"y", 0);
    expect_publish(&mut own, QOS_0, "t/a", b"y");
}

/// 5.0 [MQTT-3.8.3-4].
#[test]
fn no_local_on_a_shared_subscription_ends_the_connection() {
    let broker = broker();
    refused(&broker, V5, &subscribe(V5, 1, "$share/g/t/a", NO_LOCAL), 0x82);
    refused(&broker, V5, &packet![0x82; Be16(1), 0, "t/b", NO_LOCAL, "$share/g/t/a", 1 | NO_LOCAL], 0x82);
}

/// A message is on its way from the SUBACK on.
#[test]
fn a_subscription_holds_as_soon_as_it_is_answered() {
    each_version(|version| {
        let broker = broker();
        let mut from = Wire::connect(&broker, version, "from");
        for round in 0..20 {
            let topic = format!("t/{round}");
            published(&mut from, QOS_1, &topic, b"before", NO_SUBSCRIBERS);
            let mut to = Wire::connect(&broker, version, "to");
            to.subscribe(&topic, 1);
            published(&mut from, QOS_1, &topic, b"after", 0);
            expect_publish(&mut to, QOS_1, &topic, b"after");
            to.disconnect();
        }
    });
}
