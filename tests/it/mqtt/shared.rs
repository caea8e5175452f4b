//! Chapter 4.8.2, shared subscriptions. They are of 5.0; this broker has them in each version.

use super::messages::*;
use super::wire::*;

const V5: Version = Version::V5;
const GROUP: &str = "$share/g/t/a";

/// 5.0 [MQTT-4.8.2-1, MQTT-4.8.2-2].
#[test]
fn a_malformed_shared_filter_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        let filters = [
            "$share/",
            "$share//t/a",
            "$share/g",
            "$share/g/",
            "$share/g+/t/a",
            "$share/#/t/a",
            "$share/+/t/a",
            "$share/g/t/#/a",
            "$share/g/t+",
            "$share/g#/t",
        ];
        for filter in filters {
            for packet in [subscribe(version, 1, filter, 0), packet![0xA2; Be16(1), no_props(version), filter]] {
                let mut wire = Wire::connect(&broker, version, "bad");
                wire.send(&packet);
                wire.expect_refusal(0x81);
            }
        }
    });
}

/// 5.0 [MQTT-4.8.2-2].
#[test]
fn a_share_name_may_be_anything_else() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "names");
        for name in ["g", " ", "$", "$share", "ü", "a b"] {
            let filter = format!("$share/{name}/t/a");
            wire.subscribe(&filter, 0);
            published(&mut wire, QOS_1, "t/a", name.as_bytes(), 0);
            expect_publish(&mut wire, QOS_0, "t/a", name.as_bytes());
            wire.ask(&packet![0xA2; Be16(2), no_props(version), &*filter], &unsuback(version, 2, &[0]));
        }
    });
}

/// 5.0 [MQTT-4.8.2-3].
#[test]
fn each_message_comes_to_one_member_at_its_qos() {
    each_version(|version| {
        let broker = broker();
        let mut members = [("zero", 0), ("one", 1), ("two", 2)].map(|(name, qos)| {
            let mut wire = Wire::connect(&broker, version, name);
            wire.subscribe(GROUP, qos);
            (wire, qos)
        });
        let mut from = Wire::connect(&broker, version, "from");
        for number in 0..30_u8 {
            published(&mut from, QOS_2, "t/a", &[number], 0);
        }
        let mut seen = vec![];
        for (wire, qos) in &mut members {
            let found = deliveries(wire);
            assert!(!found.is_empty(), "a member without a share");
            for message in found {
                assert_eq!(message.first, QOS_0 | *qos << 1);
                seen.extend(message.payload);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..30).collect::<Vec<_>>());
    });
}

/// Groups are told apart by name and by filter; who is subscribed by itself gets a copy of its own.
#[test]
fn each_group_and_each_plain_subscription_gets_a_copy() {
    each_version(|version| {
        let broker = broker();
        let mut wires = ["$share/g/t/a", "$share/h/t/a", "$share/g/t/+", "t/a"].map(|filter| {
            let mut wire = Wire::connect(&broker, version, filter);
            wire.subscribe(filter, 1);
            wire
        });
        // Both at once: one copy by each way.
        let mut both = Wire::connect(&broker, version, "both");
        both.subscribe("$share/i/t/a", 1);
        both.subscribe("t/#", 0);
        let mut from = Wire::connect(&broker, version, "from");
        published(&mut from, QOS_1, "t/a", b"x", 0);
        for wire in &mut wires {
            expect_publish(wire, QOS_1, "t/a", b"x");
            expect_silence(wire);
        }
        let mut found: Vec<_> = deliveries(&mut both).into_iter().map(|message| message.first).collect();
        found.sort_unstable();
        assert_eq!(found, [QOS_0, QOS_1]);
    });
}

#[test]
fn a_shared_subscription_carries_its_identifier_and_options() {
    let broker = broker();
    let mut wire = Wire::connect(&broker, V5, "ids");
    // Retain As Published.
    wire.ask(&packet![0x82; Be16(1), props![0x0B, 9], GROUP, 0x09], &suback(V5, 0x90, 1, &[1]));
    let own = published_to_itself(&mut wire, QOS_1 | RETAIN, "t/a", b"x");
    assert_eq!((own.first, own.properties.0), (QOS_1 | RETAIN, vec![(0x0B, vec![9])]));
    // Replaced, not doubled.
    wire.ask(&packet![0x82; Be16(1), props![0x0B, 10], GROUP, 0x00], &suback(V5, 0x90, 1, &[0]));
    let own = published_to_itself(&mut wire, QOS_1 | RETAIN, "t/a", b"y");
    assert_eq!((own.first, own.properties.0), (QOS_0, vec![(0x0B, vec![10])]));
    expect_silence(&mut wire);
}

#[test]
fn who_unsubscribes_has_left_the_group() {
    each_version(|version| {
        let broker = broker();
        let mut stays = Wire::connect(&broker, version, "stays");
        let mut leaves = Wire::connect(&broker, version, "leaves");
        stays.subscribe(GROUP, 1);
        leaves.subscribe(GROUP, 1);
        let unsubscribe = |filter| packet![0xA2; Be16(2), no_props(version), filter];
        // Neither the filter alone nor another group's name is the subscription.
        leaves.ask(&unsubscribe("t/a"), &unsuback(version, 2, &[0x11]));
        leaves.ask(&unsubscribe("$share/h/t/a"), &unsuback(version, 2, &[0x11]));
        leaves.ask(&unsubscribe(GROUP), &unsuback(version, 2, &[0]));
        leaves.ask(&unsubscribe(GROUP), &unsuback(version, 2, &[0x11]));
        let mut from = Wire::connect(&broker, version, "from");
        for number in 0..10_u8 {
            published(&mut from, QOS_1, "t/a", &[number], 0);
            expect_publish(&mut stays, QOS_1, "t/a", &[number]);
        }
        expect_silence(&mut leaves);
        stays.ask(&unsubscribe(GROUP), &unsuback(version, 2, &[0]));
        published(&mut from, QOS_1, "t/a", b"x", NO_SUBSCRIBERS);
    });
}

#[test]
fn a_member_that_is_away_gets_nothing_while_another_is_there() {
    each_version(|version| {
        let broker = broker();
        let kept = || Wire::accepted(&broker, &Connect::kept(version, 1)).0;
        let mut away = kept();
        away.subscribe(GROUP, 1);
        away.disconnect();
        let mut from = Wire::connect(&broker, version, "from");
        published(&mut from, QOS_1, "t/a", b"alone", 0);
        let mut there = Wire::connect(&broker, version, "there");
        there.subscribe(GROUP, 1);
        for number in 0..10_u8 {
            published(&mut from, QOS_1, "t/a", &[number], 0);
            expect_publish(&mut there, QOS_1, "t/a", &[number]);
        }
        // What came when nobody was there has waited for it.
        let mut back = kept();
        expect_publish(&mut back, QOS_1, "t/a", b"alone");
        expect_silence(&mut back);
    });
}

/// 5.0 [MQTT-4.8.2-5].
#[test]
fn what_a_lost_member_leaves_goes_to_another_at_qos_1_and_to_nobody_at_qos_2() {
    each_version(|version| {
        // One of each is on its way, and more wait behind.
        let broker = broker_with(|config| config.limits.max_inflight = 2);
        let mut lost = Wire::connect(&broker, version, "lost");
        lost.subscribe(GROUP, 2);
        let mut from = Wire::connect(&broker, version, "from");
        for (first, payload) in [(QOS_2, b"1"), (QOS_1, b"2"), (QOS_2, b"3"), (QOS_1, b"4"), (QOS_1, b"5")] {
            published(&mut from, first, "t/a", payload, 0);
        }
        expect_publish(&mut lost, QOS_2, "t/a", b"1");
        expect_publish(&mut lost, QOS_1, "t/a", b"2");
        let mut other = Wire::connect(&broker, version, "other");
        other.subscribe(GROUP, 2);
        expect_silence(&mut other);
        lost.hang_up();
        // It is not a delivery again to this member.
        let mut seen = vec![];
        while seen.len() < 3 || !seen.contains(&b'5') {
            let message = take_publish(&mut other);
            assert_eq!(message.first & DUP, 0);
            seen.extend(&message.payload);
            if message.first == QOS_1 {
                other.send(&ack(PUBACK, message.id));
            } else {
                // Only what the lost member was never sent may go elsewhere.
                assert_eq!((message.first, &message.payload[..]), (QOS_2, &b"3"[..]));
                other.ask(&ack(PUBREC, message.id), &ack(PUBREL, message.id));
                other.send(&ack(PUBCOMP, message.id));
            }
        }
        expect_silence(&mut other);
        seen.retain(|payload| *payload != b'3');
        assert_eq!(seen, b"245");
    });
}

/// 5.0 [MQTT-4.8.2-4].
#[test]
fn a_qos_2_delivery_is_completed_to_the_member_that_it_began_with() {
    each_version(|version| {
        let broker = broker();
        let kept = || Wire::accepted(&broker, &Connect::kept(version, 1)).0;
        let mut chosen = kept();
        chosen.subscribe(GROUP, 2);
        let mut from = Wire::connect(&broker, version, "from");
        published(&mut from, QOS_2, "t/a", b"1", 0);
        published(&mut from, QOS_2, "t/a", b"2", 0);
        let one = expect_publish(&mut chosen, QOS_2, "t/a", b"1");
        let two = expect_publish(&mut chosen, QOS_2, "t/a", b"2");
        chosen.ask(&ack(PUBREC, one), &ack(PUBREL, one));
        let mut other = Wire::connect(&broker, version, "other");
        other.subscribe(GROUP, 2);
        chosen.hang_up();
        expect_silence(&mut other);
        let mut chosen = kept();
        chosen.expect(&ack(PUBREL, one));
        assert_eq!(expect_publish(&mut chosen, QOS_2 | DUP, "t/a", b"2"), two);
        expect_silence(&mut other);
    });
}

/// 5.0 [MQTT-4.8.2-6].
#[test]
fn what_a_member_refuses_goes_to_nobody() {
    let broker = broker();
    let mut members = ["one", "two"].map(|name| {
        let mut wire = Wire::connect(&broker, V5, name);
        wire.subscribe(GROUP, 2);
        wire
    });
    let mut from = Wire::connect(&broker, V5, "from");
    for (first, refusal) in [(QOS_1, PUBACK), (QOS_2, PUBREC)] {
        for _ in 0..4 {
            published(&mut from, first, "t/a", b"x", 0);
        }
        let mut count = 0;
        for wire in &mut members {
            for message in deliveries(wire) {
                assert_eq!(message.first, first);
                wire.send(&packet![refusal; Be16(message.id), 0x83]);
                count += 1;
            }
        }
        assert_eq!(count, 4);
        members.iter_mut().for_each(expect_silence);
    }
    let [one, mut two] = members;
    one.hang_up();
    expect_silence(&mut two);
}
