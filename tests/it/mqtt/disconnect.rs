//! Chapter 3.14, DISCONNECT, in both directions.

use super::wire::*;

/// 3.1.1 [MQTT-3.14.4-3, MQTT-3.1.2-10]; 5.0 [MQTT-3.14.4-3, MQTT-3.1.2-10].
#[test]
fn a_goodbye_discards_the_will() {
    let broker = broker();
    each_version(|version| {
        let mut watcher = Wire::connect(&broker, version, "watcher");
        watcher.subscribe("t/w", 0);
        let connect = Connect::new(version, "polite").will(0, false, "t/w", b"never");
        let goodbyes: &[&[u8]] =
            if version == Version::V5 { &[&[0xE0, 0], &[0xE0, 1, 0], &[0xE0, 2, 0, 0]] } else { &[&[0xE0, 0]] };
        for goodbye in goodbyes {
            let (mut wire, _) = Wire::accepted(&broker, &connect);
            wire.send(goodbye);
            wire.expect_close();
            watcher.expect_nothing();
        }
    });
}

/// 5.0 [MQTT-3.14.2-1, MQTT-3.1.2-8].
#[test]
fn a_goodbye_with_a_reason_sends_the_will() {
    let broker = broker();
    let mut watcher = Wire::connect(&broker, Version::V5, "watcher");
    watcher.subscribe("t/w", 0);
    for reason in [0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99] {
        let connect = Connect::new(Version::V5, "will").will(0, false, "t/w", &[reason]);
        let (mut wire, _) = Wire::accepted(&broker, &connect);
        wire.send(&packet![0xE0; reason]);
        wire.expect_close();
        watcher.expect(&publish(Version::V5, 0x30, "t/w", 0, &[reason]));
    }
}

/// 5.0 [MQTT-3.14.2-1].
#[test]
fn a_goodbye_with_a_reason_that_does_not_exist_is_malformed() {
    let broker = broker();
    for reason in [0x01, 0x02, 0x03, 0x05, 0x10, 0x18, 0x7F, 0x84, 0x85, 0x86, 0x91, 0x92, 0xFF] {
        let mut wire = Wire::connect(&broker, Version::V5, "reason");
        wire.send(&packet![0xE0; reason]);
        wire.expect_refusal(0x81);
    }
}

/// Nothing is read after it, and nothing sent.
/// 3.1.1 [MQTT-3.14.4-3]; 5.0 [MQTT-3.14.4-1, MQTT-3.14.4-2].
#[test]
fn after_a_goodbye_nothing_is_processed_any_more() {
    let broker = broker();
    each_version(|version| {
        let mut watcher = Wire::connect(&broker, version, "watcher");
        watcher.subscribe("t/a", 0);
        let mut wire = Wire::connect(&broker, version, "bye");
        wire.send(&bytes![[0xE0, 0], publish(version, 0x30, "t/a", 0, b"after"), [0xC0, 0]]);
        wire.expect_close();
        watcher.expect_nothing();
    });
}

/// What the broker says last is DISCONNECT, once, and the connection is closed behind it.
/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-3.14.4-1, MQTT-3.14.4-2, MQTT-4.13.2-1].
#[test]
fn the_last_word_of_the_broker_is_disconnect() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "last");
        wire.subscribe("t/a", 0);
        wire.send(&bytes![b"\xC0\x01\x00", publish(version, 0x30, "t/a", 0, b"after"), [0xC0, 0], [0xC0, 0]]);
        wire.expect_refusal(0x81);
    });
}

/// 5.0 [MQTT-3.14.2-2].
#[test]
fn disconnect_of_the_broker_has_no_session_expiry() {
    let broker = broker();
    let (mut wire, _) = Wire::accepted(&broker, &Connect::kept(Version::V5, 1));
    let (other, _) = Wire::accepted(&broker, &Connect::kept(Version::V5, 1));
    assert_eq!(wire.expect_disconnect(0x8E).get(0x11), None);
    wire.expect_close();
    other.disconnect();
}

/// 5.0 [MQTT-3.14.2-3, MQTT-3.14.2-4].
#[test]
fn disconnect_of_the_broker_is_no_larger_than_the_client_accepts() {
    let broker = broker();
    // CONNACK must fit: so much it takes, and no reason fits into what is left.
    let connect = Connect::new(Version::V5, "small").with(&bytes![0x27, Be32(40)]);
    let (mut wire, _) = Wire::accepted(&broker, &connect);
    wire.send(&[0x82, 3, 0, 1, 0]);
    let Frame { first, body } = wire.expect_packet();
    assert_eq!((first, body[0]), (0xE0, 0x82));
    assert!(body.len() + 2 <= 40, "{}", hex(&body));
    wire.expect_close();
}

/// 5.0 [MQTT-3.1.2-23, MQTT-4.1.0-2].
#[test]
fn the_session_expiry_can_be_changed_at_disconnect() {
    let broker = broker();
    let kept = Connect::kept(Version::V5, 1);
    let goodbye = |seconds: u32| packet![0xE0; 0, props![0x11, Be32(seconds)]];
    let leave = |expiry: u32, then: u32| {
        let (mut wire, _) =
            Wire::accepted(&broker, &Connect { properties: bytes![0x11, Be32(expiry)], ..kept.clone() });
        wire.send(&goodbye(then));
        wire.expect_close();
        let (wire, ack) = Wire::accepted(&broker, &kept);
        wire.disconnect();
        ack.session_present
    };
    assert!(leave(600, 1200));
    // Zero ends it with the connection.
    assert!(!leave(600, 0));
    assert!(leave(1, 600));
}

/// A session that was to end with its connection cannot be prolonged.
/// 5.0 [MQTT-4.13.1-1].
#[test]
fn a_session_expiry_of_zero_cannot_be_raised_at_disconnect() {
    let broker = broker();
    for properties in [vec![], bytes![0x11, Be32(0)]] {
        let (mut wire, _) = Wire::accepted(&broker, &Connect { properties, ..Connect::kept(Version::V5, 6) });
        wire.send(&packet![0xE0; 0, props![0x11, Be32(5)]]);
        wire.expect_refusal(0x82);
        let (wire, ack) = Wire::accepted(&broker, &Connect::kept(Version::V5, 6));
        assert!(!ack.session_present);
        wire.disconnect();
        Wire::accepted(&broker, &Connect::new(Version::V5, "u6").user(6)).0.disconnect();
    }
    // Zero again is no change.
    let (mut wire, _) = Wire::accepted(&broker, &Connect { properties: vec![], ..Connect::kept(Version::V5, 6) });
    wire.send(&packet![0xE0; 0, props![0x11, Be32(0)]]);
    wire.expect_close();
}

/// Who comes behind them is refused.
/// 5.0 [MQTT-3.14.2-2, MQTT-3.14.0-1].
#[test]
fn clients_of_5_are_told_that_the_broker_stops() {
    let broker = broker();
    let mut wires = VERSIONS.map(|version| Wire::connect(&broker, version, &format!("{version:?}")));
    let mut late = VERSIONS.map(|version| {
        let mut wire = Wire::open(&broker, version);
        // The beginning of CONNECT: the broker has taken the socket when the next one is served.
        wire.send(&[0x10]);
        Wire::connect(&broker, version, "barrier").disconnect();
        wire
    });
    let stopped = runtime().spawn(broker.stop());
    for wire in &mut wires {
        wire.expect_refusal(0x8B);
    }
    for wire in &mut late {
        wire.send(&Connect::new(wire.version, "late").bytes()[1..]);
        wire.expect_connect_refused(0x88, 3);
    }
    runtime().block_on(stopped).expect("it stops");
}
