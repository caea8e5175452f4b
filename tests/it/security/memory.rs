//! What a stranger can make the broker keep, and packets that are none.

use std::thread;

use mqtt_operator::config::broker::{Limits, Rate};

use super::*;
use crate::support::value as figure;

#[test]
fn class_15_a_stranger_is_bounded_before_anything_is_kept() {
    let broker = broker();
    each_version(|version| {
        // Any first packet but CONNECT, whatever length it announces.
        for first in [0x00_u8, 0x20, 0x30, 0x3F, 0x62, 0x82, 0xC0, 0xE0, 0xF0] {
            let mut wire = Wire::open(&broker, version);
            wire.send(&[first, 0xFF, 0xFF, 0xFF, 0x7F]);
            wire.expect_close();
        }
        // A remaining length of five bytes.
        let mut wire = Wire::open(&broker, version);
        wire.send(&[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]);
        wire.expect_close();
        // 256 MiB, of which a little comes.
        let mut wire = Wire::open(&broker, version);
        wire.send(&bytes![0x10, [0xFF, 0xFF, 0xFF, 0x7F], protocol(version), 2, Be16(0), no_props(version)]);
        wire.expect_bad_connect(0x95);
    });
    // More properties than anybody needs: in CONNECT, and in its will.
    let pair = bytes![0x26, "k", "v"];
    let many = pair.repeat(5000);
    let mut wire = Wire::open(&broker, Version::V5);
    wire.send(&Connect::new(Version::V5, "c").with(&many).bytes());
    wire.expect_connack();
    wire.expect_close();
    let mut connect = Connect::new(Version::V5, "c").will(0, false, "t/w", b"");
    connect.will.as_mut().unwrap().properties = many;
    let mut wire = Wire::open(&broker, Version::V5);
    wire.send(&connect.bytes());
    wire.expect_connack();
    wire.expect_close();
    // A topic of 32,000 levels.
    let deep = "/".repeat(32_000);
    let mut wire = Wire::connect(&broker, Version::V5, "c");
    wire.send(&publish(Version::V5, 0x32, &deep, 1, b""));
    assert_eq!(puback(&mut wire), 0x90);
}

/// The code alone: what is said beside it is for people.
#[track_caller]
fn puback(wire: &mut Wire) -> u8 {
    let answer = wire.expect_packet();
    assert!(matches!(answer.first, 0x40 | 0x50), "an acknowledgement: {answer:?}");
    answer.body.get(2).copied().unwrap_or(0)
}

#[test]
fn class_16_what_is_begun_and_never_finished_is_bounded() {
    let broker = broker_with(|config| config.limits.receive_maximum = 10);
    // QoS 2 that is never released.
    let mut wire = Wire::connect(&broker, Version::V5, "c");
    for id in 1..=10 {
        wire.send(&publish(Version::V5, 0x34, "t/x", id, b"x"));
        assert!(puback(&mut wire) < 0x80);
    }
    wire.send(&publish(Version::V5, 0x34, "t/x", 11, b"x"));
    wire.expect_refusal(0x93);
    // Packets that break off after much was read leave no session behind.
    for broken in
        [&b"\x82\x07\x00\x01\x00\x00\x02a\xFF"[..], b"\x82\x02\x00\x01", b"\x30\x04\x00\x02+/", b"\xA2\x02\x00\x00"]
    {
        for n in 0..50 {
            let mut wire = Wire::connect(&broker, Version::V311, &format!("broken-{n}"));
            wire.send(broken);
            wire.expect_close();
        }
    }
    crate::support::wait_until(DEADLINE, "no session is left", || match broker.report().sessions {
        0 => Ok(()),
        sessions => Err(sessions),
    });
}

#[test]
fn class_17_packets_of_the_wrong_direction_or_form_end_their_own_connection_alone() {
    let broker = broker();
    let mut witness = Wire::connect(&broker, Version::V5, "witness");
    each_version(|version| {
        for packet in [
            packet![0x20; 0, 0, no_props(version)],
            packet![0x90; Be16(1), no_props(version), 0],
            packet![0xB0; Be16(1), no_props(version), 0],
            packet![0xD0],
            packet![0x00],
            publish(version, 0x30, "", 0, b"no topic"),
            publish(version, 0x36, "t/x", 1, b"QoS 3"),
            packet![0x80; Be16(1), no_props(version), "t/x", 0],
            packet![0x82; Be16(0), no_props(version), "t/x", 0],
            packet![0x82; Be16(1), no_props(version)],
            packet![0xC0; 1],
        ] {
            let mut wire = Wire::connect(&broker, version, "c");
            wire.send(&packet);
            if version == Version::V5 {
                assert_eq!(wire.expect_packet().first, 0xE0, "{}", hex(&packet));
            }
            wire.expect_close();
        }
    });
    witness.expect_nothing();
}

#[test]
fn class_18_a_subscription_that_comes_and_goes_and_a_message_that_comes_twice_are_not_confused() {
    let broker = broker();
    thread::scope(|scope| {
        for n in 0..4 {
            let broker = &broker;
            scope.spawn(move || {
                let mut wire = Wire::connect(broker, Version::V311, &format!("s{n}"));
                for id in 1..=300 {
                    wire.send(&subscribe(Version::V311, id, "t/+", 1));
                    wire.send(&packet![0xA2; Be16(id), "t/+"]);
                }
                let mut acknowledged = 0;
                while acknowledged < 600 {
                    let packet = wire.expect_packet();
                    match packet.first {
                        0x90 | 0xB0 => acknowledged += 1,
                        0x32 => wire.send(&bytes![0x40, 2, &packet.body[5..7]]),
                        other => panic!("{other:#04x}"),
                    }
                }
                // Whatever was on its way has come or will; then nothing comes any more.
                wire.send(&[0xC0, 0]);
                while wire.expect_packet().first != 0xD0 {}
            });
        }
        let mut publisher = Wire::connect(&broker, Version::V311, "p");
        for id in 1..=500 {
            publisher.ask(&publish(Version::V311, 0x32, "t/x", id, b"x"), &packet![0x40; Be16(id)]);
        }
    });
    // QoS 2, sent again before its release and after: it is published once.
    each_version(|version| {
        let mut subscriber = Wire::connect(&broker, version, "once");
        subscriber.subscribe("t/once", 0);
        let mut wire = Wire::connect(&broker, version, "p2");
        for first in [0x34, 0x3C, 0x3C] {
            wire.ask(&publish(version, first, "t/once", 7, b"x"), &packet![0x50; Be16(7)]);
        }
        for _ in 0..2 {
            wire.send(&packet![0x62; Be16(7)]);
            assert_eq!(wire.expect_packet().first, 0x70, "PUBCOMP");
        }
        subscriber.expect(&publish(version, 0x30, "t/once", 0, b"x"));
        subscriber.expect_nothing();
    });
}

#[test]
fn class_19_limits_of_any_size_do_no_harm_to_arithmetic() {
    type Set = fn(&mut Limits, u64);
    let sets: &[(&str, Set)] = &[
        ("maxKeepAlive", |it, v| it.max_keep_alive = u16::try_from(v).unwrap_or(u16::MAX)),
        ("maxInflight", |it, v| it.max_inflight = u16::try_from(v.max(1)).unwrap_or(u16::MAX)),
        ("receiveMaximum", |it, v| it.receive_maximum = u16::try_from(v.max(1)).unwrap_or(u16::MAX)),
        ("maxQueuedMessages", |it, v| it.max_queued_messages = u32::try_from(v).unwrap_or(u32::MAX)),
        ("maxQueuedBytes", |it, v| it.max_queued_bytes = v),
        ("maxRetainedMessages", |it, v| it.max_retained_messages = u32::try_from(v).unwrap_or(u32::MAX)),
        ("maxRetainedBytes", |it, v| it.max_retained_bytes = v),
        ("maxSubscriptions", |it, v| it.max_subscriptions = u32::try_from(v).unwrap_or(u32::MAX)),
        ("maxTopicAliases", |it, v| it.max_topic_aliases = u16::try_from(v).unwrap_or(u16::MAX)),
        ("messageRate", |it, v| it.message_rate = Some(Rate { amount: v, seconds: 0 })),
        ("byteRate", |it, v| it.byte_rate = Some(Rate { amount: v, seconds: u32::MAX })),
        ("connectRate", |it, v| it.connect_rate = Some(Rate { amount: v, seconds: 0 })),
        ("denyBudget", |it, v| it.deny_budget = Some(Rate { amount: v, seconds: 0 })),
    ];
    for (name, set) in sets {
        for value in [0, 1, u64::from(u16::MAX), u64::from(u32::MAX), u64::MAX] {
            let broker = broker_with(|config| set(&mut config.limits, value));
            // The broker may refuse, slow down or drop; it answers or closes, and serves the next one.
            for n in 0..2 {
                let mut wire = Wire::open(&broker, Version::V5);
                wire.send(&Connect::new(Version::V5, &format!("c{n}")).will(0, true, "t/w", b"w").bytes());
                let Some(ack) = wire.next_packet() else { continue };
                assert_eq!(ack.first, 0x20, "{name} = {value}");
                if ack.body[1] == 0 {
                    wire.send(&subscribe(Version::V5, 1, "t/#", 1));
                    wire.send(&publish(Version::V5, 0x31, "t/x", 0, b"x"));
                    wire.send(&publish(Version::V5, 0x30, "elsewhere", 0, b"x"));
                }
                wire.hang_up();
            }
            let panics = figure(&runtime().block_on(broker.metrics()), "mqtt_panics_total");
            assert_eq!(panics, Some(0.0), "{name} = {value}");
        }
    }
}
