//! Chapter 2, the format of packets: fixed header, packet identifiers, properties, framing.

use std::collections::BTreeSet;

use super::wire::*;

/// A well-formed packet of a client of each type but PUBLISH, after CONNECT.
fn of_each_type(version: Version) -> Vec<Vec<u8>> {
    let mut all = vec![
        Connect::new(version, "flags").bytes(),
        packet![0x40; [0, 1]],
        packet![0x50; [0, 1]],
        packet![0x62; [0, 1]],
        packet![0x70; [0, 1]],
        packet![0x82; [0, 1], no_props(version), "t/a", 0],
        packet![0xA2; [0, 1], no_props(version), "t/a"],
        packet![0xC0],
        packet![0xE0],
    ];
    if version == Version::V5 {
        all.push(packet![0xF0]);
    }
    all
}

/// 3.1.1 [MQTT-2.2.2-1, MQTT-2.2.2-2, MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1, MQTT-3.14.1-1];
/// 5.0 [MQTT-2.1.3-1, MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1, MQTT-3.14.1-1, MQTT-3.15.1-1].
#[test]
fn reserved_flags_of_the_fixed_header_are_refused() {
    let broker = broker();
    each_version(|version| {
        for right in of_each_type(version) {
            for bit in [0x01, 0x02, 0x04, 0x08] {
                let mut wrong = right.clone();
                wrong[0] ^= bit;
                if version == Version::V31 && bit == 0x08 && matches!(right[0], 0x62 | 0x82 | 0xA2) {
                    // 3.1 has DUP there.
                    continue;
                }
                eprintln!("{:#04x} instead of {:#04x}", wrong[0], right[0]);
                let mut wire = Wire::connect(&broker, version, "flags");
                wire.send(&wrong);
                wire.expect_refusal(0x81);
                if right[0] == 0x10 {
                    let mut wire = Wire::open(&broker, version);
                    wire.send(&wrong);
                    wire.expect_close();
                }
            }
        }
    });
}

/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-4.13.1-1].
#[test]
fn packet_types_that_do_not_exist_are_refused() {
    let broker = broker();
    each_version(|version| {
        for first in [0x00, 0x0F] {
            let mut wire = Wire::connect(&broker, version, "kind");
            wire.send(&[first, 0]);
            wire.expect_refusal(0x81);
        }
        if version != Version::V5 {
            let mut wire = Wire::connect(&broker, version, "kind");
            wire.send(&[0xF0, 0]);
            wire.expect_close();
        }
    });
}

/// 3.1.1 [MQTT-2.3.1-1]; 5.0 [MQTT-2.2.1-3].
#[test]
fn packet_identifier_zero_is_refused() {
    let broker = broker();
    each_version(|version| {
        let none = || no_props(version);
        for zero in [
            packet![0x32; "t/a", [0, 0], none()],
            packet![0x34; "t/a", [0, 0], none()],
            packet![0x82; [0, 0], none(), "t/a", 0],
            packet![0xA2; [0, 0], none(), "t/a"],
            packet![0x40; [0, 0]],
            packet![0x50; [0, 0]],
            packet![0x62; [0, 0]],
            packet![0x70; [0, 0]],
        ] {
            eprintln!("{}", hex(&zero));
            let mut wire = Wire::connect(&broker, version, "zero");
            wire.send(&zero);
            wire.expect_refusal(0x81);
        }
    });
}

/// 3.1.1 [MQTT-2.3.1-5]; 5.0 [MQTT-2.2.1-2].
#[test]
fn a_delivery_at_qos_0_has_no_packet_identifier() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "qos0");
        wire.subscribe("t/a", 0);
        wire.send(&packet![0x32; "t/a", [0, 9], no_props(version), b"x"]);
        // The delivery and the PUBACK come in whichever order.
        let delivery = bytes!["t/a", no_props(version), b"x"];
        let frames = [wire.expect_packet(), wire.expect_packet()];
        assert!(frames.contains(&Frame { first: 0x30, body: delivery }), "{frames:?}");
        assert!(frames.contains(&Frame { first: 0x40, body: vec![0, 9] }), "{frames:?}");
    });
}

/// The packet identifier of a PUBLISH above QoS 0 to `t/a`.
fn delivered_id(frame: &Frame) -> u16 {
    assert!(matches!(frame.first, 0x32 | 0x34), "{frame:?}");
    u16::from_be_bytes([frame.body[5], frame.body[6]])
}

/// 3.1.1 [MQTT-2.3.1-1, MQTT-2.3.1-4]; 5.0 [MQTT-2.2.1-4].
#[test]
fn the_broker_gives_deliveries_packet_identifiers_that_are_free_and_not_zero() {
    let broker = broker();
    each_version(|version| {
        let mut subscriber = Wire::connect(&broker, version, "sub");
        subscriber.subscribe("t/a", 2);
        let mut publisher = Wire::connect(&broker, version, "pub");
        let mut pending = BTreeSet::new();
        for round in 0..30_u16 {
            let first = if round % 2 == 0 { 0x32 } else { 0x34 };
            publisher.send(&publish(version, first, "t/a", round + 1, b""));
            let id = delivered_id(&subscriber.expect_packet());
            assert!(id != 0 && pending.insert(id), "{id} is in use: {pending:?}");
            // Every third is completed, so that identifiers become free in between.
            if round % 3 == 0 && first == 0x32 {
                subscriber.send(&packet![0x40; Be16(id)]);
                subscriber.expect_nothing();
                pending.remove(&id);
            }
        }
        assert!(pending.len() >= 20);
    });
}

/// 3.1.1 [MQTT-2.3.1-6, MQTT-2.3.1-7]; 5.0 [MQTT-2.2.1-5, MQTT-2.2.1-6].
#[test]
fn acknowledgements_carry_the_packet_identifier_of_their_packet() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "ids");
        for id in [1, 0x00FF, 0x0100, 0xFFFF] {
            wire.ask(&subscribe(version, id, "t/ids", 1), &packet![0x90; Be16(id), no_props(version), 1]);
            wire.ask(&packet![0xA2; Be16(id), no_props(version), "t/ids"], &unsubscribed(version, id));
            // Nobody subscribes: 5.0 says so.
            let nobody = only_5(version, vec![0x10]);
            wire.ask(&publish(version, 0x32, "t/ids", id, b""), &packet![0x40; Be16(id), &nobody]);
            wire.ask(&publish(version, 0x34, "t/ids", id, b""), &packet![0x50; Be16(id), &nobody]);
            wire.ask(&packet![0x62; Be16(id)], &packet![0x70; Be16(id)]);
        }
    });
}

fn unsubscribed(version: Version, id: u16) -> Vec<u8> {
    packet![0xB0; Be16(id), only_5(version, vec![0, 0])]
}

/// 5.0 [MQTT-2.2.1-5].
#[test]
fn the_flow_of_a_delivery_at_qos_2_keeps_its_packet_identifier() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "flow");
        wire.subscribe("t/a", 2);
        let mut publisher = Wire::connect(&broker, version, "pub");
        publisher.ask(&publish(version, 0x34, "t/a", 7, b""), &packet![0x50; [0, 7]]);
        let id = delivered_id(&wire.expect_packet());
        wire.ask(&packet![0x50; Be16(id)], &packet![0x62; Be16(id)]);
        wire.send(&packet![0x70; Be16(id)]);
        wire.expect_nothing();
    });
}

/// 5.0 [MQTT-2.2.2-1].
#[test]
fn a_packet_without_properties_says_so_with_a_length_of_zero() {
    let broker = broker();
    let mut wire = Wire::connect(&broker, Version::V5, "none");
    wire.ask(&[0x82, 9, 0, 5, 0, 0, 3, b't', b'/', b'a', 0], &[0x90, 4, 0, 5, 0, 0]);
    wire.ask(&[0x30, 7, 0, 3, b't', b'/', b'a', 0, b'x'], &[0x30, 7, 0, 3, b't', b'/', b'a', 0, b'x']);
    wire.ask(&[0xA2, 8, 0, 6, 0, 0, 3, b't', b'/', b'a'], &[0xB0, 4, 0, 6, 0, 0]);
    // Left out where it must be there.
    for cut in [packet![0x82; [0, 1]], packet![0xA2; [0, 1]], packet![0x30; "t/a"], packet![0x32; "t/a", [0, 1]]] {
        let mut wire = Wire::connect(&broker, Version::V5, "none");
        wire.send(&cut);
        wire.expect_refusal(0x81);
    }
}

/// Each property of 5.0 with a legal value.
fn each_property() -> Vec<(u8, Vec<u8>)> {
    let number = |id, bytes: &[u8]| (id, bytes![id, bytes]);
    let mut all = vec![];
    for id in [0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A] {
        all.push(number(id, &[1]));
    }
    for id in [0x13, 0x21, 0x22, 0x23] {
        all.push(number(id, &[0, 1]));
    }
    for id in [0x02, 0x11, 0x18, 0x27] {
        all.push(number(id, &[0, 0, 1, 0]));
    }
    for id in [0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F] {
        all.push((id, bytes![id, "t/v"]));
    }
    all.push((0x0B, vec![0x0B, 1]));
    all.push((0x26, bytes![0x26, "n", "v"]));
    all
}

/// A packet of 5.0 around a block of properties, with the identifiers that it may carry.
struct Holder {
    name: &'static str,
    allowed: &'static [u8],
    packet: fn(Vec<u8>) -> Vec<u8>,
    connect: bool,
}

const HOLDERS: [Holder; 11] = [
    Holder {
        name: "CONNECT",
        allowed: &[0x11, 0x21, 0x27, 0x22, 0x19, 0x17, 0x26, 0x15, 0x16],
        packet: |block| packet![0x10; "MQTT", 5, 2, [0, 0], block, "c"],
        connect: true,
    },
    Holder {
        name: "the will",
        allowed: &[0x18, 0x01, 0x02, 0x03, 0x08, 0x09, 0x26],
        packet: |block| packet![0x10; "MQTT", 5, 6, [0, 0], 0, "c", block, "t/w", [0, 0]],
        connect: true,
    },
    Holder {
        name: "PUBLISH",
        // 0x0B comes from servers only, and 0x23 is a matter of the alias maximum.
        allowed: &[0x01, 0x02, 0x23, 0x08, 0x09, 0x0B, 0x03, 0x26],
        packet: |block| packet![0x30; "t/a", block],
        connect: false,
    },
    Holder { name: "PUBACK", allowed: &[0x1F, 0x26], packet: |b| packet![0x40; [0, 1], 0, b], connect: false },
    Holder { name: "PUBREC", allowed: &[0x1F, 0x26], packet: |b| packet![0x50; [0, 1], 0, b], connect: false },
    Holder { name: "PUBREL", allowed: &[0x1F, 0x26], packet: |b| packet![0x62; [0, 1], 0, b], connect: false },
    Holder { name: "PUBCOMP", allowed: &[0x1F, 0x26], packet: |b| packet![0x70; [0, 1], 0, b], connect: false },
    Holder {
        name: "SUBSCRIBE",
        allowed: &[0x0B, 0x26],
        packet: |b| packet![0x82; [0, 1], b, "t/a", 0],
        connect: false,
    },
    Holder { name: "UNSUBSCRIBE", allowed: &[0x26], packet: |b| packet![0xA2; [0, 1], b, "t/a"], connect: false },
    Holder { name: "DISCONNECT", allowed: &[0x11, 0x1F, 0x26, 0x1C], packet: |b| packet![0xE0; 0, b], connect: false },
    Holder {
        name: "AUTH",
        allowed: &[0x15, 0x16, 0x1F, 0x26],
        packet: |block| packet![0xF0; 0x18, block],
        connect: false,
    },
];

fn refused(broker: &crate::support::Broker, holder: &Holder, block: Vec<u8>, code: u8) {
    let bytes = (holder.packet)(block);
    eprintln!("{} {}", holder.name, hex(&bytes));
    if holder.connect {
        let mut wire = Wire::open(broker, Version::V5);
        wire.send(&bytes);
        wire.expect_bad_connect(code);
    } else {
        let mut wire = Wire::connect(broker, Version::V5, "holder");
        wire.send(&bytes);
        wire.expect_refusal(code);
    }
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn a_property_in_a_packet_that_may_not_carry_it_is_malformed() {
    let broker = broker();
    for holder in &HOLDERS {
        for (id, property) in each_property() {
            if !holder.allowed.contains(&id) {
                refused(&broker, holder, block(&property), 0x81);
            }
        }
    }
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn a_property_that_does_not_exist_is_malformed() {
    let broker = broker();
    for holder in &HOLDERS {
        for unknown in [&[0x00, 0][..], &[0x04, 0], &[0x7F, 0], &[0xFF, 0x01, 0]] {
            refused(&broker, holder, block(unknown), 0x81);
        }
    }
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn a_property_that_occurs_twice_is_a_protocol_error() {
    let broker = broker();
    for holder in &HOLDERS {
        for (id, property) in each_property() {
            // User properties may be many; what a server alone may say, and authentication, have tests of their own.
            let elsewhere = id == 0x26 || (holder.name == "PUBLISH" && matches!(id, 0x0B | 0x23));
            if holder.allowed.contains(&id) && !elsewhere {
                refused(&broker, holder, block(&bytes![&property, &property]), 0x82);
            }
        }
    }
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn a_property_whose_value_is_forbidden_is_refused() {
    let broker = broker();
    let [connect, will, publish, .., subscribe, _, _, _] = &HOLDERS;
    for (holder, property) in [
        (connect, &[0x21, 0, 0][..]),
        (connect, &[0x27, 0, 0, 0, 0]),
        (connect, &[0x17, 2]),
        (connect, &[0x19, 2]),
        (connect, &[0x19, 0xFF]),
        (will, &[0x01, 2]),
        (publish, &[0x01, 2]),
        (subscribe, &[0x0B, 0]),
    ] {
        refused(&broker, holder, block(property), 0x82);
    }
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn a_property_length_that_does_not_fit_is_malformed() {
    let broker = broker();
    for holder in &HOLDERS {
        // Longer than the packet; ends within a value; ends within an identifier.
        refused(&broker, holder, vec![0x7F], 0x81);
        refused(&broker, holder, vec![0xFF, 0xFF, 0x7F], 0x81);
        refused(&broker, holder, bytes![4, 0x26, "n", "v"], 0x81);
        refused(&broker, holder, bytes![1, 0x26], 0x81);
    }
    // Shorter than its properties: what follows is not what should follow.
    for holder in HOLDERS.iter().filter(|holder| !matches!(holder.name, "PUBLISH" | "SUBSCRIBE" | "UNSUBSCRIBE")) {
        refused(&broker, holder, bytes![0, 0x26, "n", "v"], 0x81);
    }
}

/// A packet is never taken for one before all of it is there, nor longer than it says.
/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-4.13.1-1].
#[test]
fn bytes_missing_or_left_over_within_a_packet_are_malformed() {
    let broker = broker();
    each_version(|version| {
        let mut whole = of_each_type(version);
        whole.remove(0);
        whole.push(publish(version, 0x32, "t/a", 1, b""));
        for packet in whole {
            let body = &packet[2..];
            // PUBLISH: what is left over is payload.
            if packet[0] >> 4 != 3 {
                let longer = framed(packet[0], &bytes![body, 0xFF]);
                eprintln!("{}", hex(&longer));
                let mut wire = Wire::connect(&broker, version, "left");
                wire.send(&longer);
                wire.expect_refusal(0x81);
            }
            for cut in 0..body.len() {
                // 5.0 lets acknowledgements and DISCONNECT end early, and so they are whole packets too.
                let shorter = framed(packet[0], &body[..cut]);
                eprintln!("{}", hex(&shorter));
                let mut wire = Wire::connect(&broker, version, "cut");
                wire.send(&shorter);
                let Frame { first, body } =
                    if version == Version::V5 { wire.expect_packet() } else { Frame { first: 0xE0, body: vec![0x81] } };
                assert!(first == 0xE0 && matches!(body[0], 0x81 | 0x82), "{first:#04x} {}", hex(&body));
                wire.expect_close();
            }
        }
    });
}

/// 3.1.1 [MQTT-7.1.1-1]; 5.0 [MQTT-4.2-1].
#[test]
fn packets_may_come_byte_by_byte_and_many_at_once() {
    let broker = broker();
    each_version(|version| {
        let subscribe = subscribe(version, 1, "t/a", 0);
        let message = publish(version, 0x30, "t/a", 0, &[b'x'; 300]);
        let all = bytes![Connect::new(version, "bytes").bytes(), &subscribe, &message, [0xC0, 0], &message, [0xC0, 0]];
        let granted = packet![0x90; [0, 1], no_props(version), 0];
        let expect_all = |wire: &mut Wire| {
            assert_eq!(wire.expect_connack().code, 0);
            wire.expect(&granted);
            // Deliveries to oneself and answers are each in their order.
            let frames: Vec<Frame> = (0..4).map(|_| wire.expect_packet()).collect();
            assert_eq!(frames.iter().filter(|frame| frame.first == 0xD0).count(), 2, "{frames:?}");
            assert_eq!(frames.iter().filter(|frame| frame.first == 0x30).count(), 2, "{frames:?}");
        };
        let mut wire = Wire::open(&broker, version);
        for byte in &all {
            wire.send(&[*byte]);
        }
        expect_all(&mut wire);
        let mut wire = Wire::open(&broker, version);
        wire.send(&all);
        expect_all(&mut wire);
    });
}
