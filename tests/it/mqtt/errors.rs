//! Chapter 4.13 (4.8 in 3.1.1), errors: the connection that caused one ends, and no other notices.

use super::wire::*;

/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-4.13.1-1].
#[test]
fn packets_that_only_a_broker_sends_are_refused() {
    let broker = broker();
    each_version(|version| {
        let none = || no_props(version);
        for wrong in [
            packet![0x20; 0, 0, none()],
            packet![0x90; [0, 1], none(), 0],
            packet![0xB0; [0, 1], only_5(version, vec![0, 0])],
            packet![0xD0],
        ] {
            eprintln!("{}", hex(&wrong));
            let mut wire = Wire::connect(&broker, version, "server");
            wire.send(&wrong);
            wire.expect_refusal(0x82);
        }
    });
}

/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-4.13.1-1, MQTT-4.13.2-1].
#[test]
fn an_error_of_one_client_has_no_consequences_for_another() {
    let broker = broker();
    each_version(|version| {
        let mut good = Wire::connect(&broker, version, "good");
        good.subscribe("t/#", 1);
        let wrongs: [&[u8]; 8] = [
            &[0x00, 0x00],
            &[0xC0, 0x01, 0x00],
            &[0x82, 0x02, 0x00, 0x01],
            &[0x36, 0x05, 0x00, 0x03, b't', b'/', b'a'],
            &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            &[0x30, 0x02, 0x00, 0x09],
            &[0x20, 0x02, 0x00, 0x00],
            &[0xFF, 0xFF, 0xFF, 0xFF],
        ];
        for wrong in wrongs {
            let mut wire = Wire::connect(&broker, version, "bad");
            // What came before the error in the same segment counts.
            wire.send(&bytes![
                publish(version, 0x30, "t/before", 0, b"x"),
                wrong,
                publish(version, 0x30, "t/after", 0, b"x")
            ]);
            if version == Version::V5 {
                let Frame { first, body } = wire.expect_packet();
                assert!(first == 0xE0 && body[0] >= 0x80, "{first:#04x} {}", hex(&body));
            }
            wire.expect_close();
            good.expect(&publish(version, 0x30, "t/before", 0, b"x"));
            good.expect_nothing();
        }
    });
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn the_reason_of_a_disconnect_tells_a_malformed_packet_from_a_protocol_error() {
    let broker = broker();
    for (wrong, reason) in [
        (packet![0x36; "t/a", [0, 1], 0], 0x81),
        (packet![0xC0; 0], 0x81),
        (packet![0x82; [0, 1], 0], 0x82),
        (packet![0xA2; [0, 1], 0], 0x82),
        (packet![0x82; [0, 1], 0, "t/a", 0x40], 0x81),
        (packet![0x82; [0, 1], 0, "t/a", 0x03], 0x82),
        (packet![0x30; "", 0], 0x82),
        (packet![0x30; "t/+", 0], 0x90),
        (packet![0x30; "t/a", props![0x23, [0, 0]]], 0x94),
    ] {
        eprintln!("{}", hex(&wrong));
        let mut wire = Wire::connect(&broker, Version::V5, "why");
        wire.send(&wrong);
        let properties = wire.expect_disconnect(reason);
        assert!(properties.0.iter().all(|(id, _)| matches!(id, 0x1F | 0x26)), "{properties:?}");
        wire.expect_close();
    }
}

/// What a subscriber does not get is no error of its connection.
#[test]
fn a_request_that_is_denied_does_not_end_the_connection() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "denied");
        let denied = if version == Version::V5 { 0x87 } else { 0x80 };
        wire.send(&subscribe(version, 5, "elsewhere", 2));
        // In 5.0 there are words between them, for people.
        let suback = wire.expect_packet();
        assert_eq!((&suback.body[..2], suback.body.last()), (&[0, 5][..], Some(&denied)));
        wire.send(&publish(version, 0x32, "elsewhere", 6, b""));
        assert_eq!(wire.expect_packet().body[..2], [0, 6]);
        wire.expect_nothing();
    });
}

/// A broker that closed with bytes unread would send a reset, which may overtake its last word.
/// 5.0 [MQTT-4.13.1-1, MQTT-3.14.4-2].
#[test]
fn what_is_still_on_its_way_does_not_cost_the_client_the_reason() {
    let broker = broker_with(|config| config.limits.max_packet_size = 1000);
    let large = publish(Version::V5, 0x30, "t/a", 0, &vec![b'x'; 3_000_000]);
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "large");
        wire.send(&large);
        if version == Version::V5 {
            wire.expect_disconnect(0x95);
        }
        wire.expect_orderly_close();
        let wrong = Connect { password: Some(b"wrong".into()), ..Connect::new(version, "c").user(0) };
        let mut wire = Wire::open(&broker, version);
        wire.send(&bytes![wrong.bytes(), &large]);
        assert!(wire.expect_connack().code > 0);
        wire.expect_orderly_close();
    });
}
