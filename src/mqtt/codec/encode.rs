//! Packet → bytes. Everything appends to `out`, so that many packets leave in one write.
//!
//! What the wire cannot carry is cut, so that the framing always holds: text and binary fields at 65,535 bytes.

use super::properties::{Block, encode_block};
use super::{DUP, RETAIN, kind};
use crate::mqtt::ReasonCode;
use crate::mqtt::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, Publish, QoS, SubAck, Subscribe, Unsubscribe, Version,
};
use crate::mqtt::property::{AuthProperties, PublishProperties};

/// A packet of 5.0 that may carry words for people: with them where it is then not larger than the client accepts, else
/// without; nothing if even that is too large `[MQTT-3.1.2-24, 3.2.2-19, 3.14.2-3]`.
pub fn encode_with_words<'a>(
    words: Option<&'a str>,
    maximum: usize,
    packet: impl Fn(Option<&'a str>) -> Packet<'a>,
) -> Vec<u8> {
    let encoded = |words| {
        let mut bytes = Vec::new();
        encode(&packet(words), Version::V5, &mut bytes);
        Some(bytes).filter(|bytes| bytes.len() <= maximum)
    };
    encoded(words).or_else(|| encoded(None)).unwrap_or_default()
}

/// Appends `packet`. Below 5.0 properties and reason codes are left out or mapped to what the version has; AUTH, which
/// no earlier version has, is then not written at all.
pub fn encode(packet: &Packet<'_>, version: Version, out: &mut Vec<u8>) {
    match packet {
        Packet::Connect(packet) => framed(kind::CONNECT, 0, out, |out| connect(packet, out)),
        Packet::ConnAck(packet) => framed(kind::CONNACK, 0, out, |out| connack(packet, version, out)),
        Packet::Publish(packet) => {
            encode_publish(packet, version, out);
        }
        Packet::PubAck(packet) => ack(kind::PUBACK, 0, packet, version, out),
        Packet::PubRec(packet) => ack(kind::PUBREC, 0, packet, version, out),
        Packet::PubRel(packet) => ack(kind::PUBREL, 0b0010, packet, version, out),
        Packet::PubComp(packet) => ack(kind::PUBCOMP, 0, packet, version, out),
        Packet::Subscribe(packet) => framed(kind::SUBSCRIBE, 0b0010, out, |out| subscribe(packet, version, out)),
        Packet::SubAck(packet) => framed(kind::SUBACK, 0, out, |out| suback(packet, version, out)),
        Packet::Unsubscribe(packet) => framed(kind::UNSUBSCRIBE, 0b0010, out, |out| unsubscribe(packet, version, out)),
        Packet::UnsubAck(packet) => framed(kind::UNSUBACK, 0, out, |out| unsuback(packet, version, out)),
        Packet::PingReq => out.extend_from_slice(&[kind::PINGREQ << 4, 0]),
        Packet::PingResp => out.extend_from_slice(&[kind::PINGRESP << 4, 0]),
        Packet::Disconnect(packet) => framed(kind::DISCONNECT, 0, out, |out| disconnect(packet, version, out)),
        Packet::Auth(packet) if version == Version::V5 => framed(kind::AUTH, 0, out, |out| auth(packet, out)),
        Packet::Auth(_) => {}
    }
}

/// Appends a whole PUBLISH. Returns where in `out` the two bytes of the packet identifier are, so that one encoding
/// serves many subscribers; meaningless at QoS 0. Without a `packet_id` above QoS 0 they are zero, to be patched.
pub fn encode_publish(publish: &Publish<'_>, version: Version, out: &mut Vec<u8>) -> usize {
    let at = encode_publish_head(publish, version, out);
    out.extend_from_slice(publish.payload);
    at
}

/// Appends all of a PUBLISH that precedes the payload, with the remaining length of the whole, for a payload that is
/// written by reference. Returns what [`encode_publish`] returns.
pub fn encode_publish_head(publish: &Publish<'_>, version: Version, out: &mut Vec<u8>) -> usize {
    let mut flags = (publish.qos as u8) << 1;
    if publish.dup {
        flags |= DUP;
    }
    if publish.retain {
        flags |= RETAIN;
    }
    out.push(kind::PUBLISH << 4 | flags);
    let length_at = out.len();
    // Right for all but packets whose properties carry them over a boundary; those are moved afterwards.
    let guess = variable_length(publish.topic.len() + 5 + publish.payload.len());
    out.extend_from_slice(&[0; 4][..guess]);
    text(publish.topic, out);
    let mut packet_id_at = out.len();
    if publish.qos != QoS::AtMostOnce {
        let packet_id = publish.packet_id.map_or(0, std::num::NonZeroU16::get);
        out.extend_from_slice(&packet_id.to_be_bytes());
    }
    if version == Version::V5 {
        if publish.properties == PublishProperties::default() {
            out.push(0);
        } else {
            encode_block(&publish.properties, out);
        }
    }
    let remaining = out.len() - length_at - guess + publish.payload.len();
    packet_id_at += settle_length(out, length_at, guess, remaining);
    packet_id_at -= guess;
    packet_id_at
}

/// Bytes that [`encode_publish`] would append.
pub fn publish_length(publish: &Publish<'_>, version: Version) -> usize {
    let packet_id = if publish.qos == QoS::AtMostOnce { 0 } else { 2 };
    let mut remaining = 2 + publish.topic.len() + packet_id + publish.payload.len();
    if version == Version::V5 {
        if publish.properties == PublishProperties::default() {
            remaining += 1;
        } else {
            let mut block = Vec::new();
            encode_block(&publish.properties, &mut block);
            remaining += block.len();
        }
    }
    1 + variable_length(remaining) + remaining
}

/// Appends a fixed header, the body that `write` appends, and the length of that body in its place.
fn framed(kind: u8, flags: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[kind << 4 | flags, 0]);
    let start = out.len();
    write(out);
    settle_length(out, start - 1, 1, out.len() - start);
}

/// Writes `length` as a variable byte integer over the `reserved` bytes at `at`, moving what follows when it needs more
/// or fewer. Returns how many bytes it took.
pub(super) fn settle_length(out: &mut Vec<u8>, at: usize, reserved: usize, length: usize) -> usize {
    debug_assert!(length <= super::MAX_REMAINING_LENGTH, "the caller bounds its packets");
    let needed = variable_length(length);
    if needed != reserved {
        out.splice(at..at + reserved, std::iter::repeat_n(0, needed));
    }
    let mut rest = length;
    for (index, byte) in out[at..at + needed].iter_mut().enumerate() {
        let more = if index + 1 < needed { 0x80 } else { 0 };
        *byte = (rest & 0x7F) as u8 | more;
        rest >>= 7;
    }
    needed
}

/// Bytes of `value` as a variable byte integer.
pub(super) fn variable_length(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

pub(super) fn variable(mut value: usize, out: &mut Vec<u8>) {
    while value > 0x7F {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn text(text: &str, out: &mut Vec<u8>) {
    data(&text.as_bytes()[..text.floor_char_boundary(usize::from(u16::MAX))], out);
}

pub(super) fn data(bytes: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&bytes[..usize::from(length)]);
}

fn properties<'a>(block: &impl Block<'a>, version: Version, out: &mut Vec<u8>) {
    if version == Version::V5 {
        encode_block(block, out);
    }
}

fn connect(packet: &Connect<'_>, out: &mut Vec<u8>) {
    let version = packet.version;
    // Below 5.0 a password cannot travel without a user name.
    let password = packet.password.filter(|_| version == Version::V5 || packet.username.is_some());
    text(version.protocol_name(), out);
    out.push(version.level());
    let mut flags = u8::from(packet.clean_start) << 1;
    if let Some(will) = &packet.will {
        flags |= 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
    }
    flags |= u8::from(packet.username.is_some()) << 7 | u8::from(password.is_some()) << 6;
    out.push(flags);
    out.extend_from_slice(&packet.keep_alive.to_be_bytes());
    properties(&packet.properties, version, out);
    text(packet.client_id, out);
    if let Some(will) = &packet.will {
        properties(&will.properties, version, out);
        text(will.topic, out);
        data(will.payload, out);
    }
    if let Some(username) = packet.username {
        text(username, out);
    }
    if let Some(password) = password {
        data(password, out);
    }
}

fn connack(packet: &ConnAck<'_>, version: Version, out: &mut Vec<u8>) {
    // 3.1 has no such flag.
    out.push((packet.session_present && version != Version::V31).into());
    out.push(if version == Version::V5 { packet.code.0 } else { packet.code.connect_return_code() });
    properties(&packet.properties, version, out);
}

fn ack(kind: u8, flags: u8, packet: &Ack<'_>, version: Version, out: &mut Vec<u8>) {
    framed(kind, flags, out, |out| {
        out.extend_from_slice(&packet.packet_id.get().to_be_bytes());
        if version == Version::V5 {
            reason_and_properties(packet.code, &packet.properties, out);
        }
    });
}

/// The shortest form: nothing for a bare success, the code alone without properties.
fn reason_and_properties<'a, B: Block<'a> + PartialEq>(code: ReasonCode, block: &B, out: &mut Vec<u8>) {
    if *block != B::default() {
        out.push(code.0);
        encode_block(block, out);
    } else if code != ReasonCode::SUCCESS {
        out.push(code.0);
    }
}

fn subscribe(packet: &Subscribe<'_>, version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(&packet.packet_id.get().to_be_bytes());
    properties(&packet.properties, version, out);
    for (filter, options) in &packet.filters {
        text(filter, out);
        let mut byte = options.qos as u8;
        if version == Version::V5 {
            byte |= u8::from(options.no_local) << 2
                | u8::from(options.retain_as_published) << 3
                | (options.retain_handling as u8) << 4;
        }
        out.push(byte);
    }
}

fn suback(packet: &SubAck<'_>, version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(&packet.packet_id.get().to_be_bytes());
    properties(&packet.properties, version, out);
    out.extend(packet.codes.iter().map(|code| if version == Version::V5 { code.0 } else { code.0.min(0x80) }));
}

fn unsubscribe(packet: &Unsubscribe<'_>, version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(&packet.packet_id.get().to_be_bytes());
    properties(&packet.properties, version, out);
    for filter in &packet.filters {
        text(filter, out);
    }
}

fn unsuback(packet: &SubAck<'_>, version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(&packet.packet_id.get().to_be_bytes());
    if version == Version::V5 {
        encode_block(&packet.properties, out);
        out.extend(packet.codes.iter().map(|code| code.0));
    }
}

fn disconnect(packet: &Disconnect<'_>, version: Version, out: &mut Vec<u8>) {
    if version == Version::V5 {
        reason_and_properties(packet.code, &packet.properties, out);
    }
}

fn auth(packet: &Auth<'_>, out: &mut Vec<u8>) {
    if packet.code != ReasonCode::SUCCESS || packet.properties != AuthProperties::default() {
        out.push(packet.code.0);
        encode_block(&packet.properties, out);
    }
}
