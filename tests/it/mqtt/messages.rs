//! What the chapters about messages share.

use std::time::Instant;

use super::wire::*;
use crate::support::{Broker, allow};
use mqtt_operator::auth::rule::Action;
use mqtt_operator::auth::settings::Anonymous;
use mqtt_operator::config::broker::Broker as Config;

/// First bytes of PUBLISH.
pub const QOS_0: u8 = 0x30;
pub const QOS_1: u8 = 0x32;
pub const QOS_2: u8 = 0x34;
pub const RETAIN: u8 = 0x01;
pub const DUP: u8 = 0x08;

pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBREL: u8 = 0x62;
pub const PUBCOMP: u8 = 0x70;

/// The reason code for a message that nobody is subscribed to.
pub const NO_SUBSCRIBERS: u8 = 0x10;

/// Anonymous clients may do everything, below `$x/` too.
pub fn everything(config: &mut Config) {
    config.auth.anonymous = Some(Anonymous { acl: vec![allow(Action::All, "#"), allow(Action::All, "$x/#")] });
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP of a success.
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    packet![first; Be16(id)]
}

/// An acknowledgement with a reason code in 5.0, in the shortest form; the plain one in 3.x.
pub fn ack_with(version: Version, first: u8, id: u16, code: u8) -> Vec<u8> {
    if version == Version::V5 && code != 0 { packet![first; Be16(id), code] } else { ack(first, id) }
}

/// A PUBLISH with properties, given without their length; 5.0 only.
pub fn publish_with(first: u8, topic: &str, id: u16, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let id = if first & 0x06 == 0 { vec![] } else { bytes![Be16(id)] };
    packet![first; topic, id, block(properties), payload]
}

/// SUBACK, or UNSUBACK with `first` 0xB0, with these codes.
pub fn suback(version: Version, first: u8, id: u16, codes: &[u8]) -> Vec<u8> {
    packet![first; Be16(id), no_props(version), codes]
}

/// The next packet is this PUBLISH without properties; answers its packet identifier, 0 at QoS 0.
#[track_caller]
pub fn expect_publish(wire: &mut Wire, first: u8, topic: &str, payload: &[u8]) -> u16 {
    expect_publish_with(wire, first, topic, &[], payload)
}

/// [`expect_publish`] with properties in 5.0, given without their length.
#[track_caller]
pub fn expect_publish_with(wire: &mut Wire, first: u8, topic: &str, properties: &[u8], payload: &[u8]) -> u16 {
    let frame = wire.expect_packet();
    let at = 2 + topic.len();
    let id = match frame.body.get(at..at + 2) {
        Some(id) if first & 0x06 != 0 => u16::from_be_bytes([id[0], id[1]]),
        _ => 0,
    };
    let properties = only_5(wire.version, block(properties));
    let number = if first & 0x06 == 0 { vec![] } else { bytes![Be16(id)] };
    let wanted = bytes![topic, number, properties, payload];
    assert!(
        frame.first == first && frame.body == wanted,
        "expected {first:02X} {}\n   found {:02X} {}",
        hex(&wanted),
        frame.first,
        hex(&frame.body)
    );
    assert!(first & 0x06 == 0 || id != 0, "packet identifier 0");
    id
}

/// A PUBLISH that arrived, taken apart.
#[derive(Debug)]
pub struct Published {
    pub first: u8,
    pub topic: String,
    pub id: u16,
    pub properties: Properties,
    pub payload: Vec<u8>,
}

/// The next packet is a PUBLISH, whatever is in it.
#[track_caller]
pub fn take_publish(wire: &mut Wire) -> Published {
    let frame = wire.expect_packet();
    take_apart(wire.version, frame)
}

#[track_caller]
pub fn take_apart(version: Version, Frame { first, body }: Frame) -> Published {
    assert_eq!(first & 0xF0, 0x30, "PUBLISH, not {first:#04x} {}", hex(&body));
    let (topic, mut rest) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
    let mut id = 0;
    if first & 0x06 != 0 {
        id = u16::from_be_bytes([rest[0], rest[1]]);
        assert_ne!(id, 0, "packet identifier 0");
        rest = &rest[2..];
    }
    let mut properties = Properties::default();
    if version == Version::V5 {
        let width = rest.iter().position(|byte| byte & 0x80 == 0).expect("the length of the properties") + 1;
        let length = rest[..width].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F));
        properties = Properties::parse(&rest[..width + length]);
        rest = &rest[width + length..];
    }
    let topic = String::from_utf8(topic.to_vec()).expect("a topic in UTF-8");
    Published { first, topic, id, properties, payload: rest.to_vec() }
}

/// Publishes at QoS 1 and expects PUBACK with this code: then the message is on its way to every subscriber.
#[track_caller]
pub fn published(wire: &mut Wire, first: u8, topic: &str, payload: &[u8], code: u8) {
    let (version, id) = (wire.version, 77);
    wire.send(&publish(version, first, topic, id, payload));
    match first & 0x06 {
        0 => wire.expect_nothing(),
        2 => wire.expect(&ack_with(version, PUBACK, id, code)),
        _ => {
            wire.expect(&ack_with(version, PUBREC, id, code));
            wire.ask(&ack(PUBREL, id), &ack(PUBCOMP, id));
        }
    }
}

/// Publishes at QoS 1 to a subscription of the same client, once: PUBACK and the delivery come in either order, because
/// PUBACK waits until the message is written down.
#[track_caller]
pub fn published_to_itself(wire: &mut Wire, first: u8, topic: &str, payload: &[u8]) -> Published {
    let (version, id) = (wire.version, 77);
    wire.send(&publish(version, first, topic, id, payload));
    let (one, other) = (wire.expect_packet(), wire.expect_packet());
    let (answer, delivery) = if one.first == PUBACK { (one, other) } else { (other, one) };
    let wanted = ack_with(version, PUBACK, id, 0);
    assert_eq!((answer.first, &answer.body[..]), (PUBACK, &wanted[2..]));
    take_apart(version, delivery)
}

/// All that is on its way to this client now: what was routed before the first PINGREQ arrives before the second PINGRESP.
#[track_caller]
pub fn deliveries(wire: &mut Wire) -> Vec<Published> {
    let mut found = vec![];
    for _ in 0..2 {
        wire.send(&[0xC0, 0]);
        loop {
            let frame = wire.expect_packet();
            if frame.first == 0xD0 {
                break;
            }
            found.push(take_apart(wire.version, frame));
        }
    }
    found
}

/// Returns when a message that lives for one second, published now, is over.
#[track_caller]
pub fn let_a_second_pass(broker: &Broker) {
    let mut wire = Wire::connect(broker, Version::V5, "clock");
    wire.send(&publish_with(QOS_0 | RETAIN, "t/clock", 0, &bytes![0x02, Be32(1)], b"x"));
    let started = Instant::now();
    loop {
        wire.subscribe("t/clock", 0);
        if deliveries(&mut wire).is_empty() {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "a retained message outlives its second");
    }
}

/// Nothing is on its way to this client.
#[track_caller]
pub fn expect_silence(wire: &mut Wire) {
    let found = deliveries(wire);
    assert!(found.is_empty(), "nothing was expected: {found:#?}");
}

/// UNSUBACK; 3.x has no codes.
pub fn unsuback(version: Version, id: u16, codes: &[u8]) -> Vec<u8> {
    if version == Version::V5 { suback(version, 0xB0, id, codes) } else { packet![0xB0; Be16(id)] }
}
