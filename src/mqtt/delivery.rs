//! PUBLISH towards subscribers, written from parts that are encoded once per publication.
//!
//! What all subscribers get alike (topic, properties, payload) is kept encoded; what differs per subscriber (packet
//! identifier, flags, subscription identifiers, remaining lifetime) is written around it without an allocation.

use super::property::PublishProperties;
use super::{PacketId, QoS, Version};

const PAYLOAD_FORMAT: u8 = 0x01;
const MESSAGE_EXPIRY: u8 = 0x02;
const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION_DATA: u8 = 0x09;
const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
const USER_PROPERTY: u8 = 0x26;

/// Encodes the properties that a server forwards unaltered `[MQTT-3.3.2-4, -15, -16, -17, -20]`, without their length.
/// Topic alias, message expiry and subscription identifiers are not among them: they belong to one hop.
pub fn encode_kept_properties(properties: &PublishProperties<'_>, out: &mut Vec<u8>) {
    if let Some(utf8) = properties.payload_format_utf8 {
        out.extend_from_slice(&[PAYLOAD_FORMAT, u8::from(utf8)]);
    }
    if let Some(text) = properties.content_type {
        out.push(CONTENT_TYPE);
        string(text.as_bytes(), out);
    }
    if let Some(topic) = properties.response_topic {
        out.push(RESPONSE_TOPIC);
        string(topic.as_bytes(), out);
    }
    if let Some(data) = properties.correlation_data {
        out.push(CORRELATION_DATA);
        string(data, out);
    }
    for (name, value) in &properties.user {
        user_property(name, value, out);
    }
}

/// A PUBLISH to one subscriber.
#[derive(Debug)]
pub struct Delivered<'a> {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// Present exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    pub topic: &'a [u8],
    /// As [`encode_kept_properties`] wrote them.
    pub properties: &'a [u8],
    /// Seconds of lifetime left `[MQTT-3.3.2-6]`.
    pub expiry: Option<u32>,
    pub identifiers: &'a [u32],
    /// User Properties after the publisher's own.
    pub appended: &'a [(&'a str, &'a str)],
    pub payload_length: usize,
}

impl Delivered<'_> {
    /// Writes everything before the payload.
    pub fn encode_head(&self, version: Version, out: &mut Vec<u8>) {
        let properties_length = if version == Version::V5 { self.properties_length() } else { 0 };
        let mut remaining = 2 + self.topic.len() + self.payload_length;
        if self.qos != QoS::AtMostOnce {
            remaining += 2;
        }
        if version == Version::V5 {
            remaining += varint_length(properties_length) + properties_length;
        }
        out.push(0x30 | u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain));
        varint(remaining, out);
        string(self.topic, out);
        if let (Some(id), true) = (self.packet_id, self.qos != QoS::AtMostOnce) {
            out.extend_from_slice(&id.get().to_be_bytes());
        }
        if version == Version::V5 {
            varint(properties_length, out);
            self.write_properties(out);
        }
    }

    /// Length of the whole packet.
    pub fn packet_length(&self, version: Version) -> usize {
        let mut remaining = 2 + self.topic.len() + self.payload_length;
        if self.qos != QoS::AtMostOnce {
            remaining += 2;
        }
        if version == Version::V5 {
            let length = self.properties_length();
            remaining += varint_length(length) + length;
        }
        1 + varint_length(remaining) + remaining
    }

    fn properties_length(&self) -> usize {
        let mut length = self.properties.len();
        if self.expiry.is_some() {
            length += 5;
        }
        length += self.identifiers.iter().map(|id| 1 + varint_length(*id as usize)).sum::<usize>();
        length + self.appended.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>()
    }

    fn write_properties(&self, out: &mut Vec<u8>) {
        if let Some(seconds) = self.expiry {
            out.push(MESSAGE_EXPIRY);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        for id in self.identifiers {
            out.push(SUBSCRIPTION_IDENTIFIER);
            varint(*id as usize, out);
        }
        out.extend_from_slice(self.properties);
        for (name, value) in self.appended {
            user_property(name, value, out);
        }
    }
}

fn user_property(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(USER_PROPERTY);
    string(name.as_bytes(), out);
    string(value.as_bytes(), out);
}

/// Two bytes of length, then the bytes. Callers hold what arrived in such a field, so the length always fits.
fn string(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn varint_length(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value > 0x7F {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
