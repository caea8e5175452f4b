//! The decoder of each version: never a panic, and what decodes survives being encoded.

use std::sync::Arc;

use mqtt_operator::mqtt::codec::delivery::Delivered;
use mqtt_operator::mqtt::codec::{
    connect_version, decode, decode_from_server, encode, encode_publish_head, packet_length, publish_length,
};
use mqtt_operator::mqtt::packet::{Packet, Publish, QoS, Version};
use mqtt_operator::mqtt::topic::{self, Filter};
use mqtt_operator::mqtt::{ReasonCode, Violation};
use mqtt_operator::store::Message;

use super::packets::{self, Source};

pub const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// The first byte chooses the version and what the rest is: a frame, a body for a header that fits, or choices for a
/// legal packet.
pub fn run(input: &[u8]) {
    if let Some((version, frame)) = frame(input) {
        check(&frame, version);
    }
}

/// The version and the frame that an input stands for.
pub fn frame(input: &[u8]) -> Option<(Version, Vec<u8>)> {
    let (&selector, rest) = input.split_first()?;
    let version = VERSIONS[usize::from(selector & 0x3F) % 3];
    if selector & 0x80 != 0 {
        let mut frame = Vec::new();
        encode(&packets::packet(&mut Source(rest), version), version, &mut frame);
        return Some((version, frame));
    }
    if selector & 0x40 == 0 {
        return Some((version, rest.to_vec()));
    }
    // A length that is always right lets mutations reach the fields behind it.
    let (&first, body) = rest.split_first()?;
    let mut frame = vec![first];
    let mut length = body.len();
    while length > 0x7F {
        frame.push((length & 0x7F) as u8 | 0x80);
        length >>= 7;
    }
    frame.push(length as u8);
    frame.extend_from_slice(body);
    Some((version, frame))
}

fn check(frame: &[u8], version: Version) {
    check_length(frame);
    let _ = connect_version(frame);
    let decoded = decode(frame, version);
    let lenient = decode_from_server(frame, version);
    match decoded {
        Ok(packet) => {
            assert_eq!(packet_length(frame, u32::MAX), Ok(Some(frame.len())), "a packet is as long as its header says");
            assert_eq!(lenient.as_ref(), Ok(&packet), "the server's limits are wider");
            check_encoding(frame, &packet, version);
            check_content(&packet, version);
        }
        Err(violation) => {
            if !matches!(violation, Violation::TooManyUserProperties { .. }) {
                assert_eq!(lenient, Err(violation.clone()), "only the number of user properties differs");
            }
            assert!(violation.id().starts_with("MQTT-"));
            assert!(violation.to_string().ends_with(&format!("[{}]", violation.id())));
            assert!(violation.reason().is_failure(), "{violation} has the reason {}", violation.reason());
        }
    }
}

/// However much of a packet has arrived, the answer is the final one or "not yet".
fn check_length(frame: &[u8]) {
    for maximum in [u32::MAX, 64] {
        let end = packet_length(frame, maximum);
        for at in 0..frame.len().min(8) {
            match packet_length(&frame[..at], maximum) {
                Ok(None) => {}
                early => assert_eq!(early, end, "after {at} bytes"),
            }
        }
        if frame.len() >= 5 {
            assert_ne!(end, Ok(None), "five bytes hold every fixed header");
        }
    }
}

fn check_encoding(frame: &[u8], packet: &Packet<'_>, version: Version) {
    let version = if let Packet::Connect(connect) = packet { connect.version } else { version };
    let mut again = Vec::new();
    encode(packet, version, &mut again);
    assert!(again.len() <= frame.len(), "our form is the shortest");
    assert_eq!(decode_from_server(&again, version).as_ref(), Ok(packet));
    // Encoding in another version loses what that version lacks, and nothing of the framing.
    for other in VERSIONS {
        let mut out = Vec::new();
        encode(packet, other, &mut out);
        if !out.is_empty() {
            assert_eq!(packet_length(&out, u32::MAX), Ok(Some(out.len())));
        }
    }
}

fn check_content(packet: &Packet<'_>, version: Version) {
    match packet {
        Packet::Publish(publish) => check_publish(publish, version),
        Packet::Subscribe(subscribe) => {
            subscribe.filters.iter().for_each(|(filter, _)| check_filter(filter));
        }
        Packet::Unsubscribe(unsubscribe) => unsubscribe.filters.iter().for_each(|filter| check_filter(filter)),
        Packet::ConnAck(connack) => assert!(!connack.session_present || connack.code == ReasonCode::SUCCESS),
        Packet::Connect(connect) => {
            if let Some(will) = &connect.will {
                assert_eq!(topic::check_name(will.topic), Ok(()));
            }
        }
        _ => {}
    }
}

fn check_filter(text: &str) {
    let filter = Filter::parse(text).expect("a decoded filter is legal");
    for topic in [filter.filter, "a/b", "$SYS/a", "/", ""] {
        let _ = topic::matches(filter.filter, topic);
    }
}

/// What a subscriber gets is what was published: the message that the broker keeps has lost nothing.
fn check_publish(publish: &Publish<'_>, version: Version) {
    assert_eq!(publish.packet_id.is_some(), publish.qos != QoS::AtMostOnce);
    let mut head = Vec::new();
    encode_publish_head(publish, version, &mut head);
    assert_eq!(publish_length(publish, version), head.len() + publish.payload.len());
    let topic = if publish.topic.is_empty() { "alias" } else { publish.topic };
    let message = Arc::new(Message::new(publish, topic, 0, None));
    let parts = Delivered {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        packet_id: publish.packet_id,
        topic: publish.topic.as_bytes(),
        alias: publish.properties.topic_alias,
        properties: message.properties(),
        expiry: message.expiry_left(0),
        identifiers: &publish.properties.subscription_identifiers,
        appended: &[],
        payload_length: message.payload().len(),
    };
    let mut out = Vec::new();
    parts.encode_head(version, &mut out);
    out.extend_from_slice(message.payload());
    assert_eq!(out.len(), parts.packet_length(version));
    assert_eq!(decode(&out, version), Ok(Packet::Publish(publish.clone())));
    assert_eq!(message.topic(), topic);
}
