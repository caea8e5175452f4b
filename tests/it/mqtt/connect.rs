//! Chapter 3.1, CONNECT: what is accepted, and what is refused in which words.

use std::time::{Duration, Instant};

use super::wire::*;
use crate::support::PASSWORD;

const V311_AND_5: [Version; 2] = [Version::V311, Version::V5];

/// Sends these bytes as the first packet.
#[track_caller]
fn opened(broker: &crate::support::Broker, version: Version, bytes: &[u8]) -> Wire {
    let mut wire = Wire::open(broker, version);
    wire.send(bytes);
    wire
}

/// A CONNECT from its flags and payload, without properties.
fn raw(version: Version, flags: u8, payload: &[u8]) -> Vec<u8> {
    packet![0x10; protocol(version), flags, [0, 0], no_props(version), payload]
}

/// 3.1.1 [MQTT-3.1.0-2]; 5.0 [MQTT-3.1.0-2].
#[test]
fn a_second_connect_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "twice");
        wire.expect_nothing();
        wire.send(&Connect::new(version, "twice").bytes());
        wire.expect_refusal(0x82);
        // In the same segment as the first.
        let connect = Connect::new(version, "twice").bytes();
        let mut wire = opened(&broker, version, &bytes![&connect, &connect]);
        assert_eq!(wire.expect_connack().code, 0);
        wire.expect_refusal(0x82);
        // In other words than the first.
        let mut wire = Wire::connect(&broker, version, "twice");
        wire.send(&Connect::kept(version, 3).bytes());
        wire.expect_refusal(0x82);
    });
}

/// Nothing is said to who does not begin with CONNECT.
/// 3.1.1 [MQTT-3.1.0-1]; 5.0 [MQTT-3.1.0-1, MQTT-3.14.0-1].
#[test]
fn the_first_packet_is_connect_or_the_connection_ends() {
    let broker = broker();
    each_version(|version| {
        let connack = if version == Version::V5 { packet![0x20; 0, 0, 0] } else { packet![0x20; 0, 0] };
        for first in [
            publish(version, 0x30, "t/a", 0, b"x"),
            subscribe(version, 1, "t/a", 0),
            packet![0xC0],
            packet![0xE0],
            packet![0xF0],
            packet![0xF0; 0x19, props![0x15, "JWT"]],
            packet![0x40; [0, 1]],
            connack,
            b"\x00\x00".to_vec(),
            b"\xFF\xFF\xFF\xFF\xFF".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00".to_vec(),
        ] {
            eprintln!("{}", hex(&first));
            opened(&broker, version, &first).expect_close();
        }
    });
}

/// 3.1.1 [MQTT-3.1.2-1]; 5.0 [MQTT-3.1.2-1].
#[test]
fn a_protocol_name_that_is_not_ours_is_not_served() {
    let broker = broker();
    for name in ["mqtt", "MQTt", "MQTTX", "MQT", "", "HTTP", "MQIsdq", "MQTT-SN"] {
        for level in [3, 4, 5] {
            let connect = packet![0x10; name, level, 2, [0, 60], [0, 1], b"c"];
            eprintln!("{name:?} level {level}");
            opened(&broker, Version::V311, &connect).expect_close();
        }
    }
}

/// Return code 1, in the words of 3.x, which every client can read.
/// 3.1.1 [MQTT-3.1.2-2]; 5.0 [MQTT-3.1.2-2].
#[test]
fn a_protocol_level_that_is_not_served_is_answered_with_return_code_1() {
    let broker = broker();
    let levels = [("MQTT", 0), ("MQTT", 3), ("MQTT", 6), ("MQTT", 0x84), ("MQTT", 0xFF), ("MQIsdp", 4), ("MQIsdp", 5)];
    for (name, level) in levels {
        eprintln!("{name} level {level}");
        let connect = packet![0x10; name, level, 2, [0, 60], "c"];
        let mut wire = opened(&broker, Version::V311, &connect);
        wire.expect(&[0x20, 2, 0, 1]);
        wire.expect_close();
    }
}

/// No return code says it in 3.1.1, and so nothing is said.
/// 3.1.1 [MQTT-3.1.2-3, MQTT-3.2.2-6]; 5.0 [MQTT-3.1.2-3].
#[test]
fn the_reserved_flag_must_not_be_set() {
    let broker = broker();
    each_of(&V311_AND_5, |version| {
        for flags in [0x01, 0x03, 0xC3] {
            let connect = raw(version, flags, &bytes!["c", "u0", Data(PASSWORD)]);
            opened(&broker, version, &connect).expect_bad_connect(0x81);
        }
    });
}

/// 3.1.1 [MQTT-3.1.2-11, MQTT-3.1.2-13, MQTT-3.1.2-15]; 5.0 [MQTT-3.1.2-11, MQTT-3.1.2-13].
#[test]
fn flags_of_a_will_without_a_will_are_malformed() {
    let broker = broker();
    each_version(|version| {
        for flags in [0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x3A] {
            eprintln!("{flags:#04x}");
            opened(&broker, version, &raw(version, flags, &bytes!["c"])).expect_bad_connect(0x81);
        }
        // The flag is not set, and the fields are there.
        let will = bytes!["c", no_props(version), "t/w", Data(b"x")];
        opened(&broker, version, &raw(version, 0x02, &will)).expect_bad_connect(0x81);
    });
}

/// 3.1.1 [MQTT-3.1.2-14]; 5.0 [MQTT-3.1.2-12].
#[test]
fn a_will_at_qos_3_is_malformed() {
    let broker = broker();
    each_version(|version| {
        let will = bytes!["c", no_props(version), "t/w", Data(b"x")];
        opened(&broker, version, &raw(version, 0x1E, &will)).expect_bad_connect(0x81);
        opened(&broker, version, &raw(version, 0x3E, &will)).expect_bad_connect(0x81);
        opened(&broker, version, &raw(version, 0x1A, &bytes!["c"])).expect_bad_connect(0x81);
    });
}

/// 3.1.1 [MQTT-3.1.2-9]; 5.0 [MQTT-3.1.2-9].
#[test]
fn the_fields_of_a_will_must_be_there_when_its_flag_is_set() {
    let broker = broker();
    each_version(|version| {
        let none = || no_props(version);
        for payload in
            [bytes!["c"], bytes!["c", none()], bytes!["c", none(), "t/w"], bytes!["c", none(), "t/w", [0, 9], 1]]
        {
            opened(&broker, version, &raw(version, 0x06, &payload)).expect_bad_connect(0x81);
        }
    });
}

/// 3.1.1 [MQTT-3.1.2-18, MQTT-3.1.2-19, MQTT-3.1.2-20, MQTT-3.1.2-21];
/// 5.0 [MQTT-3.1.2-16, MQTT-3.1.2-17, MQTT-3.1.2-18, MQTT-3.1.2-19].
#[test]
fn user_name_and_password_are_there_exactly_when_their_flags_say_so() {
    let broker = broker();
    each_of(&V311_AND_5, |version| {
        let (name, password) = (bytes!["u0"], bytes![Data(PASSWORD)]);
        let mut right = opened(&broker, version, &raw(version, 0xC2, &bytes!["c", &name, &password]));
        assert_eq!(right.expect_connack().code, 0);
        for (flags, rest) in [
            (0x02, bytes![&name]),
            (0x02, bytes![&name, &password]),
            (0x82, bytes![]),
            (0x82, bytes![&name, &password]),
            (0xC2, bytes![&name]),
            (0xC2, bytes![]),
        ] {
            eprintln!("{flags:#04x} {}", hex(&rest));
            opened(&broker, version, &raw(version, flags, &bytes!["c", rest])).expect_bad_connect(0x81);
        }
    });
}

/// 5.0 lets a password stand alone; the broker then has no user for it.
/// 3.1.1 [MQTT-3.1.2-22].
#[test]
fn a_password_without_a_user_name_is_malformed_in_3_x_only() {
    let broker = broker();
    each_version(|version| {
        let mut wire = opened(&broker, version, &raw(version, 0x42, &bytes!["c", Data(PASSWORD)]));
        if version == Version::V5 {
            wire.expect_connect_refused(0x86, 0);
        } else {
            wire.expect_close();
        }
    });
}

/// The order of the fields is the order in which they are read.
/// 3.1.1 [MQTT-3.1.3-1, MQTT-3.1.3-3]; 5.0 [MQTT-3.1.3-1, MQTT-3.1.3-3].
#[test]
fn the_payload_has_client_identifier_will_user_name_and_password_in_this_order() {
    let broker = broker();
    each_version(|version| {
        let mut watcher = Wire::connect(&broker, version, "watcher");
        watcher.subscribe("t/w", 0);
        let all = bytes!["u0", no_props(version), "t/w", Data(b"lost"), "u0", Data(PASSWORD)];
        let mut wire = opened(&broker, version, &raw(version, 0xC6, &all));
        assert_eq!(wire.expect_connack().code, 0);
        wire.hang_up();
        watcher.expect(&publish(version, 0x30, "t/w", 0, b"lost"));
        // Credentials first.
        let mixed = bytes!["u0", "u0", Data(PASSWORD), no_props(version), "t/w", Data(b"lost")];
        let mut wire = opened(&broker, version, &raw(version, 0xC6, &mixed));
        if version == Version::V5 {
            assert!(wire.expect_connack().code >= 0x80);
        }
        while !wire.at_end() {}
        // No client identifier at all.
        opened(&broker, version, &raw(version, 0x02, &[])).expect_bad_connect(0x81);
        opened(&broker, version, &raw(version, 0x02, &[0, 5, b'c'])).expect_bad_connect(0x81);
    });
}

/// 3.1.1 [MQTT-3.1.3-5]; 5.0 [MQTT-3.1.3-5].
#[test]
fn client_identifiers_of_1_to_23_letters_and_digits_are_accepted_and_others_too() {
    let broker = broker();
    each_version(|version| {
        for id in ["0", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"] {
            Wire::connect(&broker, version, id).disconnect();
        }
        for id in ["a b", "ä/+#$", &"x".repeat(24), &"y".repeat(200)] {
            Wire::connect(&broker, version, id).disconnect();
        }
    });
}

/// 3.1.1 [MQTT-3.1.3-6]; 5.0 [MQTT-3.1.3-6, MQTT-3.1.3-7, MQTT-3.2.2-16].
#[test]
fn an_empty_client_identifier_is_replaced_by_one_that_nobody_has() {
    let broker = broker();
    each_of(&V311_AND_5, |version| {
        let empty = Connect::new(version, "");
        let (mut one, first) = Wire::accepted(&broker, &empty);
        let (mut two, second) = Wire::accepted(&broker, &empty);
        // They are two clients.
        one.expect_nothing();
        two.expect_nothing();
        if version == Version::V5 {
            let (first, second) = (first.properties.text(0x12).unwrap(), second.properties.text(0x12).unwrap());
            assert!(!first.is_empty() && first != second, "{first} {second}");
            // It is a name like another: who takes it takes the session.
            let (mut other, ack) = Wire::accepted(&broker, &Connect::new(version, first));
            assert_eq!(ack.properties.text(0x12), None, "assigned only where none was given");
            one.expect_refusal(0x8E);
            other.expect_nothing();
        }
    });
}

/// 5.0 may have a session under an identifier that the broker chose, and can come back to it.
/// 5.0 [MQTT-3.1.3-6, MQTT-3.1.3-7].
#[test]
fn a_session_can_be_resumed_under_the_assigned_client_identifier() {
    let broker = broker();
    let kept = Connect::kept(Version::V5, 1);
    let (mut wire, ack) = Wire::accepted(&broker, &Connect { client_id: String::new(), ..kept.clone() });
    assert!(!ack.session_present);
    wire.subscribe("t/a", 0);
    let client_id = ack.properties.text(0x12).expect("an assigned identifier").to_owned();
    wire.disconnect();
    let (mut wire, ack) = Wire::accepted(&broker, &Connect { client_id, ..kept });
    assert!(ack.session_present);
    let message = publish(Version::V5, 0x30, "t/a", 0, b"again");
    wire.ask(&message, &message);
}

/// 3.1.1 [MQTT-3.1.3-8, MQTT-3.2.2-5].
#[test]
fn an_empty_client_identifier_with_a_session_to_keep_is_rejected_in_3_x() {
    let broker = broker();
    for version in VERSIONS_3 {
        let connect = Connect { clean: false, ..Connect::new(version, "") };
        opened(&broker, version, &connect.bytes()).expect_connect_refused(0, 2);
        let connect = Connect { client_id: String::new(), ..Connect::kept(version, 1) };
        opened(&broker, version, &connect.bytes()).expect_connect_refused(0, 2);
    }
}

/// Between two users the one that the client identifier names wins.
/// 3.1.1 [MQTT-3.1.3-9, MQTT-3.1.3-2]; 5.0 [MQTT-3.1.3-8, MQTT-3.1.3-2].
#[test]
fn the_client_identifier_of_another_user_is_rejected() {
    let broker = broker();
    each_version(|version| {
        let (mut owner, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
        let thief = Connect { client_id: "u1".into(), ..Connect::kept(version, 2) };
        opened(&broker, version, &thief.bytes()).expect_connect_refused(0x85, 2);
        let anonymous = Connect::new(version, "u1");
        opened(&broker, version, &anonymous.bytes()).expect_connect_refused(0x85, 2);
        owner.expect_nothing();
        owner.disconnect();
        opened(&broker, version, &thief.bytes()).expect_connect_refused(0x85, 2);
    });
}

/// 3.1.1 [MQTT-3.1.4-1, MQTT-4.8.0-1]; 5.0 [MQTT-3.1.4-1, MQTT-4.13.1-1].
#[test]
fn a_connect_that_is_cut_anywhere_is_refused() {
    let broker = broker();
    each_version(|version| {
        let connect = Connect::kept(version, 1).will(1, true, "t/w", b"gone");
        let whole = connect.bytes();
        let body = &whole[2..];
        assert_eq!(usize::from(whole[1]), body.len());
        let level_at = protocol(version).len();
        for cut in 0..body.len() {
            let mut wire = opened(&broker, version, &framed(0x10, &body[..cut]));
            if cut < level_at {
                // Not even its version is known.
                wire.expect_close();
            } else if version == Version::V31 && cut == body.len() - 2 - PASSWORD.len() {
                // The flag without the field is legal in 3.1; without its password nobody is u1.
                wire.expect_connect_refused(0, 4);
            } else if version == Version::V31 && cut == body.len() - 6 - PASSWORD.len() {
                // Neither: an anonymous client.
                assert_eq!(wire.expect_connack().code, 0);
                wire.disconnect();
            } else {
                wire.expect_bad_connect(0x81);
            }
        }
        let mut wire = opened(&broker, version, &framed(0x10, &bytes![body, 0]));
        wire.expect_bad_connect(0x81);
    });
}

/// 3.1.1 [MQTT-3.1.4-5]; 5.0 [MQTT-3.1.4-6].
#[test]
fn nothing_after_a_connect_that_is_refused_is_processed() {
    let broker = broker();
    each_version(|version| {
        let mut watcher = Wire::connect(&broker, version, "watcher");
        watcher.subscribe("t/#", 0);
        let message = publish(version, 0x31, "t/a", 0, b"smuggled");
        let wrong = Connect { password: Some(b"wrong".into()), ..Connect::new(version, "c").user(0) };
        let mut wire = opened(&broker, version, &bytes![wrong.bytes(), &message, [0xC0, 0]]);
        wire.expect_connect_refused(0x86, 4);
        let malformed = raw(version, 0x1E, &bytes!["c", no_props(version), "t/w", [0, 0]]);
        let mut wire = opened(&broker, version, &bytes![malformed, &message, [0xC0, 0]]);
        wire.expect_bad_connect(0x81);
        watcher.expect_nothing();
        // Nor was it retained.
        watcher.subscribe("t/a", 0);
        watcher.expect_nothing();
    });
}

/// 3.1.1 [MQTT-3.1.4-4, MQTT-3.2.0-1]; 5.0 [MQTT-3.1.4-5, MQTT-3.2.0-1, MQTT-3.2.0-2].
#[test]
fn packets_right_behind_connect_are_answered_after_connack() {
    let broker = broker();
    each_version(|version| {
        let message = publish(version, 0x32, "t/none", 7, b"x");
        let all = bytes![Connect::new(version, "eager").bytes(), subscribe(version, 3, "t/a", 1), message, [0xC0, 0]];
        let mut wire = opened(&broker, version, &all);
        assert_eq!(wire.expect_connack().code, 0);
        wire.expect(&packet![0x90; [0, 3], no_props(version), 1]);
        wire.expect(&packet![0x40; [0, 7], only_5(version, vec![0x10])]);
        wire.expect(&[0xD0, 0]);
        wire.expect_nothing();
    });
}

/// 3.1.1 [MQTT-3.2.2-4, MQTT-3.2.2-5]; 5.0 [MQTT-3.1.4-2, MQTT-3.2.2-6, MQTT-3.2.2-7, MQTT-3.2.2-8, MQTT-4.13.2-1].
#[test]
fn wrong_credentials_are_refused_with_their_code_and_the_connection_closed() {
    let broker = broker();
    each_version(|version| {
        let (owner, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
        owner.disconnect();
        let right = Connect::kept(version, 1);
        for wrong in [
            Connect { password: Some(b"wrong".into()), ..right.clone() },
            Connect { password: Some(vec![]), ..right.clone() },
            // Binary data is not text: it is wrong, and not malformed.
            Connect { password: Some(vec![0, 0xFF, 0xC0]), ..right.clone() },
            Connect { password: Some(vec![b'x'; 65_535]), ..right.clone() },
            Connect { username: Some("nobody".into()), ..right.clone() },
            Connect { username: Some(String::new()), ..right.clone() },
            Connect { password: None, ..right.clone() },
        ] {
            // The session of the right one is there, and does not show.
            opened(&broker, version, &wrong.bytes()).expect_connect_refused(0x86, 4);
        }
    });
}

/// 3.1.1 [MQTT-3.2.2-4, MQTT-3.2.2-5]; 5.0 [MQTT-3.1.4-2, MQTT-3.2.2-7].
#[test]
fn a_will_that_its_client_may_not_publish_is_refused() {
    let broker = broker();
    each_version(|version| {
        for (topic, code) in [("elsewhere", 0x87), ("$SYS/broker/x", 0x90)] {
            let connect = Connect::new(version, "c").will(0, false, topic, b"x");
            opened(&broker, version, &connect.bytes()).expect_connect_refused(code, 5);
        }
    });
}

/// 3.1.1 [MQTT-3.1.4-1]; 5.0 [MQTT-3.1.4-1].
#[test]
fn a_will_topic_that_is_no_topic_name_is_refused() {
    let broker = broker();
    each_version(|version| {
        for topic in ["t/+", "t/#", "#", "+", ""] {
            let connect = Connect::new(version, "c").will(0, false, topic, b"x");
            opened(&broker, version, &connect.bytes()).expect_bad_connect(0x90);
        }
    });
}

/// 3.1.1 [MQTT-3.1.2-24]; 5.0 [MQTT-3.1.2-22, MQTT-3.2.2-22].
#[test]
fn a_client_is_disconnected_after_one_and_a_half_times_its_keep_alive() {
    let broker = broker();
    let start = Instant::now();
    // All at once, so that the waiting is done once.
    let connect = |version, keep_alive, name: &str| {
        let id = format!("{name}-{version:?}");
        Wire::accepted(&broker, &Connect { keep_alive, ..Connect::new(version, &id) }).0
    };
    let mut watcher = Wire::connect(&broker, Version::V5, "watcher");
    watcher.subscribe("t/w", 0);
    let wills = VERSIONS.map(|version| {
        let connect = Connect { keep_alive: 1, ..Connect::new(version, &format!("will-{version:?}")) };
        Wire::accepted(&broker, &connect.will(0, false, "t/w", b"late")).0
    });
    let silent = VERSIONS.map(|version| connect(version, 1, "silent"));
    let patient = VERSIONS.map(|version| connect(version, 2, "patient"));
    let pinging = VERSIONS.map(|version| connect(version, 2, "pinging"));
    let endless = VERSIONS.map(|version| connect(version, 0, "endless"));
    for mut wire in silent {
        wire.expect_refusal(0x8D);
        assert!(start.elapsed() >= Duration::from_millis(1500), "{:?}", start.elapsed());
    }
    // Its will is sent, as if the network had failed.
    for mut wire in wills {
        wire.expect_refusal(0x8D);
        watcher.expect(&publish(Version::V5, 0x30, "t/w", 0, b"late"));
    }
    // A packet begins the interval anew.
    let mut pinging = pinging.map(|mut wire| {
        wire.expect_nothing();
        wire
    });
    for mut wire in patient {
        wire.expect_refusal(0x8D);
        assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
    }
    pinging.iter_mut().for_each(Wire::expect_nothing);
    for mut wire in endless {
        wire.expect_nothing();
    }
}

/// Bytes in front of the end of a packet are no packet, and deliveries are none of the client's.
/// 3.1.1 [MQTT-3.1.2-24]; 5.0 [MQTT-3.1.2-22].
#[test]
fn neither_dripping_bytes_nor_deliveries_keep_a_client_alive() {
    let broker = broker();
    let connect = |version, name: &str| {
        let id = format!("{name}-{version:?}");
        Wire::accepted(&broker, &Connect { keep_alive: 1, ..Connect::new(version, &id) }).0
    };
    let start = Instant::now();
    let mut dripping = VERSIONS.map(|version| connect(version, "dripping"));
    let mut hearing = VERSIONS.map(|version| connect(version, "hearing"));
    for (hears, drips) in hearing.iter_mut().zip(&mut dripping) {
        hears.subscribe("t/a", 0);
        drips.send(&[0x30, 0xFF, 0x01]);
    }
    let mut publisher = Wire::connect(&broker, Version::V311, "pub");
    while !dripping.iter_mut().all(Wire::has_ended) || !hearing.iter_mut().all(Wire::has_ended) {
        for wire in &mut dripping {
            wire.send(&[0]);
        }
        publisher.send(&publish(Version::V311, 0x30, "t/a", 0, b"x"));
        assert!(start.elapsed() < DEADLINE, "still alive");
    }
    assert!(start.elapsed() >= Duration::from_millis(1500), "{:?}", start.elapsed());
}

/// Whether that is the user's fault or not.
/// 3.1.1 [MQTT-3.2.2-4]; 5.0 [MQTT-3.1.4-2].
#[test]
fn nobody_is_anonymous_where_that_is_not_allowed() {
    let broker = broker_with(|config| config.auth.anonymous = None);
    each_version(|version| {
        opened(&broker, version, &Connect::new(version, "c").bytes()).expect_connect_refused(0x87, 5);
    });
}

/// 5.0 [MQTT-3.1.4-5].
#[test]
fn every_property_of_connect_is_taken_from_its_smallest_to_its_largest_value() {
    let broker = broker();
    let smallest = bytes![0x11, Be32(0), 0x21, Be16(1), 0x27, Be32(100), 0x22, Be16(0), 0x19, 0, 0x17, 0];
    let largest = bytes![
        0x17,
        1,
        0x19,
        1,
        0x22,
        Be16(u16::MAX),
        0x27,
        Be32(u32::MAX),
        0x21,
        Be16(u16::MAX),
        0x11,
        Be32(u32::MAX)
    ];
    // User properties repeat, and may be empty.
    let user = bytes![0x26, "a", "1", 0x26, "a", "1", 0x26, "", "", 0x26, "a", "2"];
    for properties in [smallest, largest, user] {
        let (mut wire, _) = Wire::accepted(&broker, &Connect::new(Version::V5, "c").with(&properties));
        wire.expect_nothing();
        wire.disconnect();
    }
}

/// As from `printf … | nc`: what it sent is served, and answered.
/// 3.1.1 [MQTT-3.1.4-4]; 5.0 [MQTT-3.1.4-5].
#[test]
fn a_client_that_has_said_all_it_has_to_say_still_gets_its_answers() {
    let broker = broker();
    each_version(|version| {
        let mut watcher = Wire::connect(&broker, version, "watcher");
        watcher.subscribe("t/a", 0);
        let message = publish(version, 0x32, "t/a", 7, b"brief");
        let mut wire = opened(&broker, version, &bytes![Connect::new(version, "brief").bytes(), message, [0xC0, 0]]);
        wire.close_sending();
        assert_eq!(wire.expect_connack().code, 0);
        wire.expect(&packet![0x40; [0, 7]]);
        wire.expect(&[0xD0, 0]);
        wire.expect_close();
        watcher.expect(&publish(version, 0x30, "t/a", 0, b"brief"));
    });
}

/// 5.0 [MQTT-3.1.2-28].
#[test]
fn response_information_is_not_sent_to_who_does_not_ask() {
    let broker = broker();
    for asked in [vec![], vec![0x19, 0]] {
        let (_wire, ack) = Wire::accepted(&broker, &Connect::new(Version::V5, "c").with(&asked));
        assert_eq!(ack.properties.get(0x1A), None);
    }
    // Who asks may be told nothing.
    Wire::accepted(&broker, &Connect::new(Version::V5, "c").with(&[0x19, 1])).0.disconnect();
}

/// 5.0 [MQTT-3.1.2-29].
#[test]
fn reason_strings_are_kept_from_who_does_not_want_them() {
    let broker = broker();
    let (mut wire, _) = Wire::accepted(&broker, &Connect::new(Version::V5, "c").with(&[0x17, 0]));
    // Denied: no rule is about this topic.
    wire.ask(&publish(Version::V5, 0x32, "elsewhere", 1, b""), &packet![0x40; [0, 1], 0x87]);
    wire.ask(&publish(Version::V5, 0x34, "elsewhere", 2, b""), &packet![0x50; [0, 2], 0x87]);
    wire.ask(&subscribe(Version::V5, 3, "elsewhere", 0), &packet![0x90; [0, 3], 0, 0x87]);
    wire.ask(&packet![0xA2; [0, 4], 0, "elsewhere"], &packet![0xB0; [0, 4], 0, 0x11]);
    // Without the wish it may be there, and then it is well-formed.
    let mut wire = Wire::connect(&broker, Version::V5, "c");
    wire.send(&publish(Version::V5, 0x32, "elsewhere", 1, b""));
    let Frame { first, body } = wire.expect_packet();
    assert_eq!((first, &body[..3]), (0x40, &[0, 1, 0x87][..]));
    if body.len() > 3 {
        assert!(Properties::parse(&body[3..]).text(0x1F).is_some_and(|reason| !reason.is_empty()));
    }
}

/// 5.0 [MQTT-3.1.2-24, MQTT-3.1.2-25].
#[test]
fn nothing_larger_than_the_client_accepts_is_sent() {
    let broker = broker();
    let small = Connect::new(Version::V5, "small").with(&bytes![0x27, Be32(100)]);
    let (mut wire, _) = Wire::accepted(&broker, &small);
    wire.subscribe("t/#", 2);
    let mut publisher = Wire::connect(&broker, Version::V5, "pub");
    for (first, id) in [(0x30, 0), (0x32, 1), (0x34, 2)] {
        // One byte too large, then just right: 2 of fixed header, 2 + 3 of topic, 1 of properties, 2 of identifier.
        let fits = 100 - 2 - 5 - 1 - if first == 0x30 { 0 } else { 2 };
        for (size, arrives) in [(fits + 1, false), (fits, true), (5000, false)] {
            let payload = vec![b'x'; size];
            publisher.send(&publish(Version::V5, first, "t/a", id, &payload));
            if first != 0x30 {
                assert_eq!(publisher.expect_packet().body[..2], [0, id as u8]);
            }
            if first == 0x34 {
                publisher.ask(&packet![0x62; Be16(id)], &packet![0x70; Be16(id)]);
            }
            publisher.expect_nothing();
            if arrives {
                let frame = wire.expect_packet();
                assert_eq!((frame.first, frame.body.len()), (first, 98));
                assert_eq!(frame.body[frame.body.len() - size..], payload);
            }
        }
    }
    wire.expect_nothing();
    // Nor an acknowledgement.
    let filters = (0..120).fold(vec![], |filters, n| bytes![filters, format!("t/{n}").as_str(), 0]);
    wire.send(&packet![0x82; [0, 9], 0, filters]);
    wire.expect_nothing();
}

/// A CONNACK that says all that must be said does not fit: the client is told, if that fits, and not served.
/// 5.0 [MQTT-3.1.2-24].
#[test]
fn a_connack_that_is_too_large_for_the_client_is_not_sent() {
    let broker = broker();
    for size in [1, 2, 4] {
        let connect = Connect::new(Version::V5, "").with(&bytes![0x27, Be32(size)]);
        opened(&broker, Version::V5, &connect.bytes()).expect_close();
    }
    let connect = Connect::new(Version::V5, "").with(&bytes![0x27, Be32(5)]);
    let mut wire = opened(&broker, Version::V5, &connect.bytes());
    wire.expect(&[0x20, 3, 0, 0x95, 0]);
    wire.expect_close();
}

/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-3.1.4-1].
#[test]
fn a_connect_beyond_128_kib_is_refused_before_it_is_read() {
    let broker = broker();
    each_version(|version| {
        let mut wire = opened(&broker, version, &bytes![0x10, Var(200 * 1024), protocol(version)]);
        wire.expect_close();
    });
}

/// The alias and the topic of a PUBLISH of 5.0 at QoS 0; the payload says which topic is meant.
fn alias_of(frame: &Frame) -> (Option<u16>, String, String) {
    assert_eq!(frame.first, 0x30, "{frame:?}");
    let length = usize::from(u16::from_be_bytes([frame.body[0], frame.body[1]]));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let rest = &frame.body[2 + length..];
    let end = 1 + usize::from(rest[0]);
    let alias = Properties::parse(&rest[..end]).number(0x23).map(|alias| alias as u16);
    (alias, text(&frame.body[2..2 + length]), text(&rest[end..]))
}

/// 5.0 [MQTT-3.1.2-26, MQTT-3.1.2-27].
#[test]
fn the_broker_uses_as_many_aliases_as_the_client_takes() {
    let broker = broker();
    let mut publisher = Wire::connect(&broker, Version::V5, "pub");
    for maximum in [None, Some(0), Some(1), Some(2), Some(10), Some(u16::MAX)] {
        let property = maximum.map_or(vec![], |maximum| bytes![0x22, Be16(maximum)]);
        let (mut wire, _) = Wire::accepted(&broker, &Connect::new(Version::V5, "sub").with(&property));
        wire.subscribe("t/#", 0);
        let mut known = std::collections::HashMap::new();
        let mut used = 0;
        for round in 0..40 {
            let topic = format!("t/{}", [0, 0, 1, 2, 0, 1, 1, 0][round % 8]);
            publisher.send(&publish(Version::V5, 0x30, &topic, 0, topic.as_bytes()));
            let (alias, name, meant) = alias_of(&wire.expect_packet());
            assert_eq!(meant, topic);
            let Some(alias) = alias else {
                assert_eq!(name, topic, "no alias, and so the topic");
                continue;
            };
            used += 1;
            assert!(alias > 0 && alias <= maximum.unwrap_or(0), "{alias} of {maximum:?}");
            if name.is_empty() {
                assert_eq!(known.get(&alias), Some(&topic), "what the alias stands for");
            } else {
                assert_eq!(name, topic);
                known.insert(alias, name);
            }
        }
        assert_eq!(used > 0, maximum.unwrap_or(0) > 0, "{maximum:?}: {used} used");
        wire.disconnect();
    }
}
