//! Chapter 3.2, CONNACK: what the broker promises in it, and that it keeps to it.

use super::wire::*;

/// 3.1.1 [MQTT-3.2.2-1, MQTT-3.1.4-4]; 5.0 [MQTT-3.2.2-1, MQTT-3.2.2-2].
#[test]
fn a_clean_start_finds_no_session() {
    let broker = broker();
    each_version(|version| {
        let kept = Connect::kept(version, 1);
        Wire::accepted(&broker, &kept).0.disconnect();
        let (wire, ack) = Wire::accepted(&broker, &Connect { clean: true, ..kept });
        assert!(!ack.session_present);
        wire.disconnect();
        Wire::accepted(&broker, &Connect::new(version, "u1").user(1)).0.disconnect();
    });
}

/// 3.1 has no way to say it: the byte is reserved.
/// 3.1.1 [MQTT-3.2.2-2, MQTT-3.2.2-3]; 5.0 [MQTT-3.2.2-3].
#[test]
fn session_present_says_whether_there_is_one() {
    let broker = broker();
    each_version(|version| {
        let kept = Connect::kept(version, 2);
        let (wire, ack) = Wire::accepted(&broker, &kept);
        assert!(!ack.session_present);
        wire.disconnect();
        let (wire, ack) = Wire::accepted(&broker, &kept);
        assert_eq!(ack.session_present, version != Version::V31);
        // Also when it is taken over from a connection.
        let (again, ack) = Wire::accepted(&broker, &kept);
        assert_eq!(ack.session_present, version != Version::V31);
        drop(wire);
        again.disconnect();
        // Gone after a clean session.
        Wire::accepted(&broker, &Connect::new(version, "u2").user(2)).0.disconnect();
        let (wire, ack) = Wire::accepted(&broker, &kept);
        assert!(!ack.session_present);
        wire.disconnect();
        Wire::accepted(&broker, &Connect::new(version, "u2").user(2)).0.disconnect();
    });
}

/// The exact bytes of 3.x.
/// 3.1.1 [MQTT-3.2.0-1, MQTT-3.2.2-1, MQTT-3.2.2-2].
#[test]
fn connack_of_3_x_has_two_bytes() {
    let broker = broker();
    for version in VERSIONS_3 {
        let mut wire = Wire::open(&broker, version);
        wire.ask(&Connect::kept(version, 3).bytes(), &[0x20, 2, 0, 0]);
        wire.disconnect();
        let mut wire = Wire::open(&broker, version);
        wire.ask(&Connect::kept(version, 3).bytes(), &[0x20, 2, u8::from(version == Version::V311), 0]);
        wire.disconnect();
        let mut wire = Wire::open(&broker, version);
        wire.ask(&Connect::new(version, "u3").user(3).bytes(), &[0x20, 2, 0, 0]);
        wire.disconnect();
    }
}

/// 5.0 [MQTT-3.2.2-15].
#[test]
fn the_broker_says_which_packets_are_too_large_and_refuses_those() {
    let broker = broker_with(|config| config.limits.max_packet_size = 200);
    each_version(|version| {
        let (mut wire, ack) = Wire::accepted(&broker, &Connect::new(version, "large"));
        if version == Version::V5 {
            assert_eq!(ack.properties.number(0x27), Some(200));
        }
        wire.subscribe("t/a", 0);
        let head = 3 + 5 + no_props(version).len();
        let fits = publish(version, 0x30, "t/a", 0, &vec![b'x'; 200 - head]);
        assert_eq!(fits.len(), 200);
        wire.ask(&fits, &fits);
        // Refused by its length alone: the rest is never sent.
        wire.send(&[0x30, 0xC6, 0x01]);
        wire.expect_refusal(0x95);
    });
}

/// 5.0 [MQTT-3.2.2-9, MQTT-3.2.2-12, MQTT-3.2.2-13].
#[test]
fn everything_is_offered_and_so_nothing_is_said_to_be_missing() {
    let broker = broker();
    let will = |qos, retain| Connect::new(Version::V5, "c").will(qos, retain, "t/w", b"");
    for qos in 0..=2 {
        for retain in [false, true] {
            let (wire, ack) = Wire::accepted(&broker, &will(qos, retain));
            for (property, offered) in [(0x24, 2), (0x25, 1), (0x28, 1), (0x29, 1), (0x2A, 1)] {
                assert!(
                    ack.properties.number(property).is_none_or(|value| value == offered),
                    "{property:#04x}: {ack:?}"
                );
            }
            wire.disconnect();
        }
    }
}

/// 5.0 [MQTT-3.2.2-17, MQTT-3.2.2-18].
#[test]
fn topic_aliases_are_taken_up_to_the_maximum_that_is_announced() {
    for announced in [0, 1, 3] {
        let broker = broker_with(|config| config.limits.max_topic_aliases = announced);
        let (mut wire, ack) = Wire::accepted(&broker, &Connect::new(Version::V5, "alias"));
        assert_eq!(ack.properties.number(0x22).unwrap_or(0), u32::from(announced));
        wire.subscribe("t/#", 0);
        for alias in 1..=announced {
            let topic = format!("t/{alias}");
            let by_name = packet![0x30; topic.as_str(), props![0x23, Be16(alias)], b"name"];
            wire.ask(&by_name, &publish(Version::V5, 0x30, &topic, 0, b"name"));
            let by_alias = packet![0x30; "", props![0x23, Be16(alias)], b"alias"];
            wire.ask(&by_alias, &publish(Version::V5, 0x30, &topic, 0, b"alias"));
        }
        for alias in [0, announced + 1, u16::MAX] {
            let mut wire = Wire::connect(&broker, Version::V5, "beyond");
            wire.send(&packet![0x30; "t/a", props![0x23, Be16(alias)], b"x"]);
            wire.expect_refusal(0x94);
        }
        // It stands for nothing before it was set, nor for what another connection set.
        if announced > 0 {
            let mut wire = Wire::connect(&broker, Version::V5, "unset");
            wire.send(&packet![0x30; "", props![0x23, [0, 1]], b"x"]);
            wire.expect_refusal(0x82);
        }
    }
}

/// 5.0 [MQTT-3.3.4-7].
#[test]
fn as_many_flows_as_announced_are_taken_at_a_time() {
    let broker = broker_with(|config| config.limits.receive_maximum = 2);
    let (mut wire, ack) = Wire::accepted(&broker, &Connect::new(Version::V5, "window"));
    assert_eq!(ack.properties.number(0x21), Some(2));
    let received = |id: u16| packet![0x50; Be16(id), 0x10];
    wire.ask(&publish(Version::V5, 0x34, "t/a", 1, b""), &received(1));
    wire.ask(&publish(Version::V5, 0x34, "t/a", 2, b""), &received(2));
    // One ends, another may begin; QoS 0 does not count, and QoS 1 is over at once.
    wire.ask(&packet![0x62; [0, 1]], &packet![0x70; [0, 1]]);
    wire.send(&publish(Version::V5, 0x30, "t/a", 0, b""));
    wire.ask(&publish(Version::V5, 0x32, "t/a", 3, b""), &packet![0x40; [0, 3], 0x10]);
    wire.ask(&publish(Version::V5, 0x34, "t/a", 4, b""), &received(4));
    wire.send(&publish(Version::V5, 0x34, "t/a", 5, b""));
    wire.expect_refusal(0x93);
}

/// Clients of 3.x cannot be told, and are held to it all the same.
/// 5.0 [MQTT-3.1.2-21, MQTT-3.2.2-21, MQTT-3.2.2-22].
#[test]
fn the_keep_alive_of_the_broker_is_announced_and_holds() {
    let broker = broker_with(|config| config.limits.max_keep_alive = 1);
    let mut wires = vec![];
    each_version(|version| {
        for (asked, told) in [(0, Some(1)), (1, None), (2, Some(1)), (u16::MAX, Some(1))] {
            let connect = Connect { keep_alive: asked, ..Connect::new(version, &format!("{version:?}-{asked}")) };
            let start = std::time::Instant::now();
            let (wire, ack) = Wire::accepted(&broker, &connect);
            assert_eq!(ack.properties.number(0x13), told.filter(|_| version == Version::V5), "{asked} asked");
            wires.push((start, wire));
        }
    });
    for (start, mut wire) in wires {
        wire.expect_refusal(0x8D);
        assert!(start.elapsed() >= std::time::Duration::from_millis(1500), "{:?}", start.elapsed());
    }
}

/// 5.0 [MQTT-3.2.2-8].
#[test]
fn the_session_expiry_that_holds_is_said_when_it_is_not_the_one_asked_for() {
    let broker = broker_with(|config| config.limits.session_expiry = 3600);
    let asked = |seconds: u32| {
        let connect = Connect { properties: bytes![0x11, Be32(seconds)], ..Connect::kept(Version::V5, 4) };
        let (wire, ack) = Wire::accepted(&broker, &connect);
        wire.disconnect();
        ack.properties.number(0x11)
    };
    assert!(asked(600).is_none_or(|granted| granted == 600));
    assert!(asked(3600).is_none_or(|granted| granted == 3600));
    assert_eq!(asked(3601), Some(3600));
    assert_eq!(asked(u32::MAX), Some(3600));
    // Sessions of anonymous clients end with their connection.
    let anonymous = Connect::new(Version::V5, "anonymous").with(&bytes![0x11, Be32(600)]);
    assert_eq!(Wire::accepted(&broker, &anonymous).1.properties.number(0x11), Some(0));
}

/// A CONNACK that refuses is no larger than the client accepts.
/// 5.0 [MQTT-3.2.2-19, MQTT-3.2.2-20].
#[test]
fn a_refusal_leaves_out_its_reason_where_that_would_be_too_large() {
    let broker = broker();
    let wrong = Connect { client_id: "u1".into(), ..Connect::kept(Version::V5, 2) };
    Wire::accepted(&broker, &Connect::kept(Version::V5, 1)).0.disconnect();
    for (connect, code) in [
        (Connect { password: Some(b"wrong".into()), ..Connect::kept(Version::V5, 1) }, 0x86),
        (wrong, 0x85),
        (Connect::new(Version::V5, "c").will(0, false, "elsewhere", b""), 0x87),
    ] {
        for size in [30, 31, 40, 60] {
            let mut wire = Wire::open(&broker, Version::V5);
            wire.send(&connect.clone().with(&bytes![0x27, Be32(size)]).bytes());
            let Frame { first, body } = wire.expect_packet();
            assert_eq!((first, &body[..2]), (0x20, &[0, code][..]));
            assert!(body.len() + 2 <= size as usize, "{}", hex(&body));
            wire.expect_close();
        }
    }
}

/// 5.0 [MQTT-4.12.0-6].
#[test]
fn without_an_authentication_method_none_is_returned() {
    let broker = broker();
    let (mut wire, ack) = Wire::accepted(&broker, &Connect::kept(Version::V5, 5));
    assert_eq!((ack.properties.get(0x15), ack.properties.get(0x16)), (None, None));
    // And no AUTH.
    wire.expect_nothing();
}
