//! Wills: chapters 3.1.2.5 to 3.1.2.7, 3.1.3.2 and what 3.14 says of them.

use std::time::{Duration, Instant};

use super::wire::*;
use crate::support::Broker;

fn watcher(broker: &Broker, version: Version) -> Wire {
    let mut watcher = Wire::connect(broker, version, "watcher");
    watcher.subscribe("t/w", 2);
    watcher
}

/// The will on `t/w` of a client of 5.0, with these properties.
fn will(connect: Connect, properties: Vec<u8>, payload: &[u8]) -> Connect {
    let mut connect = connect.will(0, false, "t/w", payload);
    if let Some(will) = &mut connect.will {
        will.properties = properties;
    }
    connect
}

fn message(version: Version, payload: &[u8]) -> Vec<u8> {
    publish(version, 0x30, "t/w", 0, payload)
}

/// 3.1.1 [MQTT-3.1.2-8, MQTT-3.1.2-9]; 5.0 [MQTT-3.1.2-7, MQTT-3.1.2-8, MQTT-3.1.2-9].
#[test]
fn a_will_is_sent_however_the_connection_ends_without_a_goodbye() {
    let broker = broker();
    each_version(|version| {
        let mut watcher = watcher(&broker, version);
        let connect = |id: &str, payload: &[u8]| {
            Wire::accepted(&broker, &Connect::new(version, id).will(0, false, "t/w", payload)).0
        };
        connect("lost", b"hung up").hang_up();
        watcher.expect(&message(version, b"hung up"));
        let mut wire = connect("wrong", b"malformed");
        wire.send(&[0x00, 0]);
        wire.expect_refusal(0x81);
        watcher.expect(&message(version, b"malformed"));
        let mut wire = connect("twice", b"protocol error");
        wire.send(&Connect::new(version, "twice").bytes());
        wire.expect_refusal(0x82);
        watcher.expect(&message(version, b"protocol error"));
        let mut wire = connect("taken", b"taken over");
        let other = Wire::connect(&broker, version, "taken");
        wire.expect_refusal(0x8E);
        watcher.expect(&message(version, b"taken over"));
        // Cut within a packet.
        let mut wire = connect("half", b"half a packet");
        wire.send(&[0x30, 9, 0, 3, b't']);
        wire.hang_up();
        watcher.expect(&message(version, b"half a packet"));
        other.disconnect();
        watcher.expect_nothing();
    });
}

/// A will without a delay is due when its connection closes, also where another connection goes on with the session.
/// 3.1.1 [MQTT-3.1.2-8]; 5.0 [MQTT-3.1.2-8].
#[test]
fn a_will_without_delay_is_sent_when_its_session_is_taken_over() {
    let broker = broker();
    each_version(|version| {
        let mut watcher = watcher(&broker, version);
        for round in 0..20_u8 {
            let connect = Connect::kept(version, 1).will(0, false, "t/w", &[round]);
            let (mut first, _) = Wire::accepted(&broker, &connect);
            let (second, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
            first.expect_refusal(0x8E);
            watcher.expect(&message(version, &[round]));
            second.disconnect();
        }
        Wire::accepted(&broker, &Connect::new(version, "u1").user(1)).0.disconnect();
    });
}

/// 3.1.1 [MQTT-3.1.2-12].
#[test]
fn without_a_will_none_is_sent() {
    let broker = broker();
    each_version(|version| {
        let mut watcher = watcher(&broker, version);
        // The will of an earlier connection is not this one's.
        Wire::accepted(&broker, &Connect::kept(version, 2).will(0, false, "t/w", b"old")).0.disconnect();
        let (wire, _) = Wire::accepted(&broker, &Connect::kept(version, 2));
        wire.hang_up();
        Wire::accepted(&broker, &Connect::new(version, "u2").user(2)).0.disconnect();
        watcher.expect_nothing();
    });
}

/// 3.1.1 [MQTT-3.1.2-10]; 5.0 [MQTT-3.1.2-10].
#[test]
fn a_will_is_sent_once() {
    let broker = broker();
    each_version(|version| {
        let mut watcher = watcher(&broker, version);
        Wire::accepted(&broker, &Connect::kept(version, 3).will(0, false, "t/w", b"once")).0.hang_up();
        watcher.expect(&message(version, b"once"));
        Wire::accepted(&broker, &Connect::kept(version, 3)).0.hang_up();
        Wire::accepted(&broker, &Connect::new(version, "u3").user(3)).0.disconnect();
        watcher.expect_nothing();
    });
}

/// 3.1.1 [MQTT-3.1.2-9, MQTT-3.1.2-16, MQTT-3.1.2-17]; 5.0 [MQTT-3.1.2-9, MQTT-3.1.2-14, MQTT-3.1.2-15].
#[test]
fn a_will_has_the_qos_and_the_retain_flag_that_it_was_given() {
    let broker = broker();
    each_version(|version| {
        for qos in 0..=2_u8 {
            for retain in [false, true] {
                let topic = format!("t/{version:?}/{qos}/{retain}");
                let mut watcher = Wire::connect(&broker, version, "watcher");
                watcher.subscribe(&topic, 2);
                Wire::accepted(&broker, &Connect::new(version, "will").will(qos, retain, &topic, b"x")).0.hang_up();
                let frame = watcher.expect_packet();
                assert_eq!(frame.first, 0x30 | qos << 1, "{qos} {retain}: live, without RETAIN");
                watcher.disconnect();
                // Whoever comes later gets it only when it was retained.
                let mut late = Wire::connect(&broker, version, "late");
                late.subscribe(&topic, 2);
                if retain {
                    assert_eq!(late.expect_packet().first, 0x31 | qos << 1, "{qos} {retain}: retained");
                }
                late.expect_nothing();
            }
        }
    });
}

/// Empty, and as long as a field may be.
/// 3.1.1 [MQTT-3.1.2-9]; 5.0 [MQTT-3.1.2-9].
#[test]
fn a_will_may_be_empty_or_65_535_bytes_long() {
    let broker = broker();
    each_version(|version| {
        let mut watcher = watcher(&broker, version);
        for payload in [vec![], vec![0xFF; 65_535]] {
            Wire::accepted(&broker, &Connect::new(version, "will").will(0, false, "t/w", &payload)).0.hang_up();
            watcher.expect(&message(version, &payload));
        }
    });
}

/// 5.0 [MQTT-3.1.3-10, MQTT-3.1.2-9].
#[test]
fn a_will_keeps_its_properties_and_the_order_of_user_properties() {
    let broker = broker();
    let mut watcher = watcher(&broker, Version::V5);
    let user = bytes![0x26, "b", "1", 0x26, "a", "2", 0x26, "b", "0", 0x26, "", ""];
    let properties =
        bytes![0x01, 1, 0x02, Be32(500), 0x03, "text/plain", 0x08, "t/answer", 0x09, Data(b"\0\xFF"), &user];
    Wire::accepted(&broker, &will(Connect::new(Version::V5, "will"), properties, b"text")).0.hang_up();
    let Frame { first, body } = watcher.expect_packet();
    assert_eq!((first, &body[..5]), (0x30, &bytes!["t/w"][..]));
    let length = usize::from(body[5]);
    let found = Properties::parse(&body[5..6 + length]);
    assert_eq!(body[6 + length..], *b"text");
    assert_eq!(found.number(0x01), Some(1));
    assert!(matches!(found.number(0x02), Some(499 | 500)), "{found:?}");
    assert_eq!(found.text(0x03), Some("text/plain"));
    assert_eq!(found.text(0x08), Some("t/answer"));
    assert_eq!(found.get(0x09), Some(&[0, 0xFF][..]));
    let of_user: Vec<u8> =
        found.0.iter().filter(|(id, _)| *id == 0x26).flat_map(|(id, value)| bytes![*id, value]).collect();
    assert_eq!(of_user, user);
    assert_eq!(found.get(0x18), None, "the delay is not for subscribers");
}

/// 5.0 [MQTT-3.1.3-9, MQTT-3.1.2-8].
#[test]
fn a_delayed_will_is_not_sent_when_the_client_is_back_in_time() {
    let broker = broker();
    let mut watcher = watcher(&broker, Version::V5);
    let delay = || bytes![0x18, Be32(1)];
    let start = Instant::now();
    let (mut back, _) = Wire::accepted(&broker, &will(Connect::kept(Version::V5, 4), delay(), b"never"));
    // Hung up, resumed, taken over and resumed.
    let mut away = Wire::accepted(&broker, &will(Connect::kept(Version::V5, 4), delay(), b"never")).0;
    back.expect_refusal(0x8E);
    away.send(&[0, 0]);
    away.expect_refusal(0x81);
    let (back, _) = Wire::accepted(&broker, &Connect::kept(Version::V5, 4));
    // This one stays away; when its will has come, the other's would have come.
    Wire::accepted(&broker, &will(Connect::kept(Version::V5, 5), delay(), b"late")).0.hang_up();
    watcher.expect(&message(Version::V5, b"late"));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    watcher.expect_nothing();
    back.disconnect();
    watcher.expect_nothing();
}

/// 5.0 [MQTT-3.1.2-8].
#[test]
fn a_delayed_will_is_sent_when_its_session_ends() {
    let broker = broker();
    let mut watcher = watcher(&broker, Version::V5);
    let long = |connect, payload: &[u8]| will(connect, bytes![0x18, Be32(3000)], payload);
    let start = Instant::now();
    // The session ends with its connection.
    let at_once = Connect { properties: vec![], ..Connect::kept(Version::V5, 6) };
    Wire::accepted(&broker, &long(at_once, b"no session")).0.hang_up();
    watcher.expect(&message(Version::V5, b"no session"));
    // A clean start ends it, from afar and by a takeover.
    let kept = Connect::kept(Version::V5, 6);
    let clean = Connect { clean: true, ..kept.clone() };
    Wire::accepted(&broker, &long(kept.clone(), b"clean")).0.hang_up();
    Wire::accepted(&broker, &clean).0.disconnect();
    watcher.expect(&message(Version::V5, b"clean"));
    let (mut first, _) = Wire::accepted(&broker, &long(kept, b"taken"));
    Wire::accepted(&broker, &clean).0.disconnect();
    first.expect_refusal(0x8E);
    watcher.expect(&message(Version::V5, b"taken"));
    assert!(start.elapsed() < Duration::from_secs(5));
    // It expires before the will is due.
    let short = Connect { properties: bytes![0x11, Be32(1)], ..Connect::kept(Version::V5, 7) };
    let start = Instant::now();
    Wire::accepted(&broker, &long(short, b"expired")).0.hang_up();
    watcher.expect(&message(Version::V5, b"expired"));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

/// 5.0 [MQTT-3.1.2-10, MQTT-3.14.4-3].
#[test]
fn a_goodbye_discards_a_delayed_will_too() {
    let broker = broker();
    let mut watcher = watcher(&broker, Version::V5);
    Wire::accepted(&broker, &will(Connect::kept(Version::V5, 8), bytes![0x18, Be32(1)], b"never")).0.disconnect();
    Wire::accepted(&broker, &will(Connect::kept(Version::V5, 9), bytes![0x18, Be32(1)], b"late")).0.hang_up();
    watcher.expect(&message(Version::V5, b"late"));
    watcher.expect_nothing();
}
