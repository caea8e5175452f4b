//! Chapter 4.1, session state, and what CONNECT says about it.

use std::time::{Duration, Instant};

use super::wire::*;

/// PUBLISH above QoS 0 as it was received: first byte, packet identifier, payload.
fn delivery(version: Version, frame: &Frame) -> (u8, u16, Vec<u8>) {
    assert!(frame.first >> 4 == 3 && frame.first & 6 != 0, "{frame:?}");
    let topic = 2 + usize::from(u16::from_be_bytes([frame.body[0], frame.body[1]]));
    let payload = topic + 2 + no_props(version).len();
    let id = u16::from_be_bytes([frame.body[topic], frame.body[topic + 1]]);
    (frame.first, id, frame.body[payload..].to_vec())
}

/// 3.1.1 [MQTT-3.1.2-4, MQTT-3.1.2-5, MQTT-3.1.4-3, MQTT-4.1.0-1];
/// 5.0 [MQTT-3.1.2-5, MQTT-3.1.2-23, MQTT-3.1.4-4, MQTT-4.1.0-1].
#[test]
fn a_kept_session_has_its_subscriptions_and_what_was_missed() {
    let broker = broker();
    each_version(|version| {
        let kept = Connect::kept(version, 1);
        let (mut wire, _) = Wire::accepted(&broker, &kept);
        wire.subscribe("t/one", 1);
        wire.subscribe("t/two", 2);
        wire.disconnect();
        let mut publisher = Wire::connect(&broker, version, "pub");
        publisher.ask(&publish(version, 0x32, "t/one", 1, b"first"), &packet![0x40; [0, 1]]);
        publisher.ask(&publish(version, 0x34, "t/two", 2, b"second"), &packet![0x50; [0, 2]]);
        publisher.ask(&packet![0x62; [0, 2]], &packet![0x70; [0, 2]]);
        let (mut wire, _) = Wire::accepted(&broker, &kept);
        let (first, one, payload) = delivery(version, &wire.expect_packet());
        assert_eq!((first, &payload[..]), (0x32, &b"first"[..]));
        let (first, two, payload) = delivery(version, &wire.expect_packet());
        assert_eq!((first, &payload[..]), (0x34, &b"second"[..]));
        wire.send(&packet![0x40; Be16(one)]);
        wire.ask(&packet![0x50; Be16(two)], &packet![0x62; Be16(two)]);
        wire.send(&packet![0x70; Be16(two)]);
        // The subscriptions are there without being made again.
        publisher.ask(&publish(version, 0x32, "t/one", 3, b"third"), &packet![0x40; [0, 3]]);
        assert_eq!(delivery(version, &wire.expect_packet()).2, b"third");
        wire.disconnect();
        Wire::accepted(&broker, &Connect::new(version, "u1").user(1)).0.disconnect();
    });
}

/// 3.1.1 [MQTT-3.1.2-6]; 5.0 [MQTT-3.1.2-4].
#[test]
fn a_clean_start_forgets_subscriptions_queue_and_flows() {
    let broker = broker();
    each_version(|version| {
        let kept = Connect::kept(version, 2);
        let (mut wire, _) = Wire::accepted(&broker, &kept);
        wire.subscribe("t/a", 1);
        // A flow of QoS 2 that is half done.
        wire.send(&publish(version, 0x34, "t/none", 9, b"half"));
        assert_eq!(wire.expect_packet().first, 0x50);
        wire.disconnect();
        let mut publisher = Wire::connect(&broker, version, "pub");
        publisher.ask(&publish(version, 0x32, "t/a", 1, b"missed"), &packet![0x40; [0, 1]]);
        let (mut wire, ack) = Wire::accepted(&broker, &Connect { clean: true, ..kept.clone() });
        assert!(!ack.session_present);
        wire.expect_nothing();
        let nobody = only_5(version, vec![0x10]);
        publisher.ask(&publish(version, 0x32, "t/a", 2, b"nobody"), &packet![0x40; [0, 2], nobody]);
        wire.expect_nothing();
        if version == Version::V5 {
            wire.ask(&packet![0x62; [0, 9]], &packet![0x70; [0, 9], 0x92]);
        }
        wire.disconnect();
        Wire::accepted(&broker, &Connect::new(version, "u2").user(2)).0.disconnect();
    });
}

/// 3.1.1 [MQTT-3.1.2-6, MQTT-3.2.2-3]; 5.0 [MQTT-3.1.2-6, MQTT-4.1.0-2].
#[test]
fn a_session_that_ends_with_its_connection_leaves_nothing() {
    let broker = broker();
    each_version(|version| {
        let (mut wire, _) = Wire::accepted(&broker, &Connect::new(version, "u3").user(3));
        wire.subscribe("t/a", 1);
        wire.disconnect();
        let (mut wire, ack) = Wire::accepted(&broker, &Connect::kept(version, 3));
        assert!(!ack.session_present);
        let nobody = only_5(version, vec![0x10]);
        wire.ask(&publish(version, 0x32, "t/a", 2, b"nobody"), &packet![0x40; [0, 2], nobody]);
        wire.expect_nothing();
        wire.disconnect();
        Wire::accepted(&broker, &Connect::new(version, "u3").user(3)).0.disconnect();
    });
}

/// 5.0 with a clean start may still have a session to keep afterwards.
/// 5.0 [MQTT-3.1.2-4, MQTT-3.1.2-23].
#[test]
fn a_session_begun_clean_is_kept_when_it_has_an_expiry() {
    let broker = broker();
    let kept = Connect::kept(Version::V5, 4);
    let (mut wire, _) = Wire::accepted(&broker, &Connect { clean: true, ..kept.clone() });
    wire.subscribe("t/a", 0);
    wire.hang_up();
    let (mut wire, ack) = Wire::accepted(&broker, &kept);
    assert!(ack.session_present);
    let message = publish(Version::V5, 0x30, "t/a", 0, b"x");
    wire.ask(&message, &message);
    // Not clean, and no expiry: resumed, and then gone.
    wire.disconnect();
    let (wire, ack) = Wire::accepted(&broker, &Connect { properties: vec![], ..kept.clone() });
    assert!(ack.session_present);
    wire.disconnect();
    let (wire, ack) = Wire::accepted(&broker, &kept);
    assert!(!ack.session_present);
    wire.disconnect();
}

/// 5.0 [MQTT-4.1.0-2, MQTT-3.1.2-23].
#[test]
fn a_session_lives_as_long_as_its_expiry_says_and_no_longer() {
    let broker = broker();
    let short = Connect { properties: bytes![0x11, Be32(1)], ..Connect::kept(Version::V5, 5) };
    let (mut wire, _) = Wire::accepted(&broker, &short);
    wire.subscribe("t/a", 1);
    // While it is connected it does not expire: the will of another client, in a second, tells the time.
    let mut clock = Wire::connect(&broker, Version::V5, "clock");
    clock.subscribe("t/tick", 0);
    tick(&broker, &mut clock, 2);
    wire.expect_nothing();
    wire.disconnect();
    let (wire, ack) = Wire::accepted(&broker, &short);
    assert!(ack.session_present, "there within the second");
    wire.disconnect();
    tick(&broker, &mut clock, 2);
    let (mut wire, ack) = Wire::accepted(&broker, &short);
    assert!(!ack.session_present, "gone after the second");
    wire.ask(&publish(Version::V5, 0x32, "t/a", 2, b""), &packet![0x40; [0, 2], 0x10]);
}

/// Returns when a will with this delay has come.
fn tick(broker: &crate::support::Broker, clock: &mut Wire, seconds: u32) {
    let mut connect = Connect::kept(Version::V5, 9).will(0, false, "t/tick", b"tick");
    if let Some(will) = &mut connect.will {
        will.properties = bytes![0x18, Be32(seconds)];
    }
    let start = Instant::now();
    Wire::accepted(broker, &connect).0.hang_up();
    clock.expect(&publish(Version::V5, 0x30, "t/tick", 0, b"tick"));
    assert!(start.elapsed() >= Duration::from_secs(seconds.into()));
}

/// 3.1.1 [MQTT-4.1.0-2]; 5.0 [MQTT-4.1.0-1].
#[test]
fn a_session_lasts_as_long_as_its_connection() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "lasting");
        wire.subscribe("t/a", 2);
        // Other clients come and go, with and without errors.
        for _ in 0..20 {
            Wire::connect(&broker, version, "other").disconnect();
            let mut other = Wire::connect(&broker, version, "other");
            other.send(&[0, 0]);
            other.expect_refusal(0x81);
        }
        let message = publish(version, 0x30, "t/a", 0, b"still");
        wire.ask(&message, &message);
    });
}

/// 3.1.1 [MQTT-3.1.2-7].
#[test]
fn retained_messages_outlive_the_session_that_published_them() {
    let broker = broker();
    each_version(|version| {
        let topic = format!("t/{version:?}");
        let mut publisher = Wire::connect(&broker, version, "pub");
        publisher.send(&publish(version, 0x31, &topic, 0, b"kept"));
        publisher.disconnect();
        Wire::connect(&broker, version, "pub").disconnect();
        let mut wire = Wire::connect(&broker, version, "sub");
        wire.subscribe(&topic, 0);
        wire.expect(&publish(version, 0x31, &topic, 0, b"kept"));
    });
}

/// 3.1.1 [MQTT-3.1.4-2, MQTT-3.1.3-2]; 5.0 [MQTT-3.1.4-3, MQTT-3.1.3-2].
#[test]
fn a_second_connection_of_a_client_takes_over_from_the_first() {
    let broker = broker();
    each_version(|version| {
        for connect in [Connect::new(version, "taken"), Connect::kept(version, 6)] {
            let (mut first, _) = Wire::accepted(&broker, &connect);
            first.subscribe("t/a", 0);
            let (mut second, _) = Wire::accepted(&broker, &connect);
            first.expect_refusal(0x8E);
            if connect.clean {
                second.subscribe("t/b", 0);
            }
            let topic = if connect.clean { "t/b" } else { "t/a" };
            let message = publish(version, 0x30, topic, 0, b"second");
            second.ask(&message, &message);
            second.expect_nothing();
            second.disconnect();
        }
        Wire::accepted(&broker, &Connect::new(version, "u6").user(6)).0.disconnect();
    });
}

/// The end of one connection never reaches into the next, however close they are.
/// 3.1.1 [MQTT-3.1.4-2, MQTT-4.1.0-2]; 5.0 [MQTT-3.1.4-3, MQTT-4.1.0-1].
#[test]
fn a_client_that_hangs_up_and_comes_back_at_once_stays_connected() {
    let broker = broker();
    each_version(|version| {
        for connect in [Connect::new(version, "back"), Connect::kept(version, 7)] {
            for round in 0..200 {
                let (mut wire, _) = Wire::accepted(&broker, &connect);
                wire.subscribe("t/a", 0);
                let message = publish(version, 0x30, "t/a", 0, &[round]);
                wire.ask(&message, &message);
                wire.expect_nothing();
                if round % 3 == 0 {
                    // With the goodbye and the next CONNECT on their way at the same time.
                    wire.send(&[0xE0, 0]);
                }
                wire.hang_up();
            }
        }
        Wire::accepted(&broker, &Connect::new(version, "u7").user(7)).0.disconnect();
    });
}

/// A hundred connections of one client, one after the other, without waiting for the end of the last.
/// 3.1.1 [MQTT-3.1.4-2]; 5.0 [MQTT-3.1.4-3].
#[test]
fn a_storm_of_takeovers_leaves_one_connection() {
    let broker = broker();
    each_version(|version| {
        let connect = Connect::kept(version, 7);
        let mut wires: Vec<Wire> = (0..100)
            .map(|_| {
                let mut wire = Wire::open(&broker, version);
                wire.send(&connect.bytes());
                wire
            })
            .collect();
        let mut alive = 0;
        for wire in &mut wires {
            // Accepted, and perhaps told at once that another has come; or told so already, if a later one was faster.
            let outdated = if version == Version::V5 { 0x88 } else { 3 };
            let code = wire.expect_connack().code;
            assert!(code == 0 || code == outdated, "{code}");
        }
        for wire in &mut wires {
            wire.send(&[0xC0, 0]);
            alive += usize::from(wire.next_packet().is_some_and(|frame| frame.first == 0xD0));
        }
        assert_eq!(alive, 1);
        drop(wires);
        Wire::accepted(&broker, &Connect::new(version, "u7").user(7)).0.disconnect();
    });
}

/// 3.1.1 [MQTT-2.3.1-3, MQTT-2.3.1-4, MQTT-3.1.2-4]; 5.0 [MQTT-3.1.2-5, MQTT-4.1.0-1].
#[test]
fn what_was_not_acknowledged_comes_again_with_its_packet_identifier() {
    let broker = broker();
    each_version(|version| {
        let kept = Connect::kept(version, 8);
        let (mut wire, _) = Wire::accepted(&broker, &kept);
        wire.subscribe("t/a", 2);
        let mut publisher = Wire::connect(&broker, version, "pub");
        publisher.ask(&publish(version, 0x32, "t/a", 1, b"one"), &packet![0x40; [0, 1]]);
        publisher.ask(&publish(version, 0x34, "t/a", 2, b"two"), &packet![0x50; [0, 2]]);
        publisher.ask(&publish(version, 0x34, "t/a", 3, b"three"), &packet![0x50; [0, 3]]);
        let sent = [(); 3].map(|()| delivery(version, &wire.expect_packet()));
        // The last of them was received, and waits for its release.
        wire.ask(&packet![0x50; Be16(sent[2].1)], &packet![0x62; Be16(sent[2].1)]);
        wire.hang_up();
        let (mut wire, _) = Wire::accepted(&broker, &kept);
        for (first, id, payload) in &sent[..2] {
            assert_eq!(delivery(version, &wire.expect_packet()), (first | 0x08, *id, payload.clone()));
        }
        wire.expect(&packet![0x62; Be16(sent[2].1)]);
        wire.disconnect();
        Wire::accepted(&broker, &Connect::new(version, "u8").user(8)).0.disconnect();
    });
}

/// A session belongs to its client, not to the version it spoke when it began.
/// 3.1.1 [MQTT-3.1.2-4]; 5.0 [MQTT-3.1.2-5].
#[test]
fn a_session_can_be_resumed_in_another_version() {
    let broker = broker();
    for (from, to) in [(Version::V311, Version::V5), (Version::V5, Version::V311), (Version::V31, Version::V5)] {
        let (mut wire, _) = Wire::accepted(&broker, &Connect::kept(from, 0));
        wire.subscribe("t/a", 1);
        wire.disconnect();
        let mut publisher = Wire::connect(&broker, from, "pub");
        publisher.ask(&publish(from, 0x32, "t/a", 1, b"x"), &packet![0x40; [0, 1]]);
        let (mut wire, ack) = Wire::accepted(&broker, &Connect::kept(to, 0));
        assert!(ack.session_present);
        assert_eq!(delivery(to, &wire.expect_packet()).2, b"x");
        wire.disconnect();
        Wire::accepted(&broker, &Connect::new(to, "u0").user(0)).0.disconnect();
    }
}
