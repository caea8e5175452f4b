//! PUBLISH towards subscribers, written from parts that are encoded once per publication.
//!
//! What all subscribers get alike (topic, properties, payload) is kept encoded; what differs per subscriber (packet
//! identifier, flags, subscription identifiers, remaining lifetime) is written around it without an allocation.

use super::encode::{data, variable, variable_length};
use crate::mqtt::property::{PublishProperties, id};
use crate::mqtt::{PacketId, QoS, Version};

/// Encodes the properties that a server forwards unaltered `[MQTT-3.3.2-4, -15, -16, -17, -20]`, without their length.
/// Topic alias, message expiry and subscription identifiers are not among them: they belong to one hop.
pub fn encode_kept_properties(properties: &PublishProperties<'_>, out: &mut Vec<u8>) {
    if let Some(utf8) = properties.payload_format_utf8 {
        out.extend_from_slice(&[id::PAYLOAD_FORMAT_INDICATOR as u8, u8::from(utf8)]);
    }
    if let Some(text) = properties.content_type {
        out.push(id::CONTENT_TYPE as u8);
        data(text.as_bytes(), out);
    }
    if let Some(topic) = properties.response_topic {
        out.push(id::RESPONSE_TOPIC as u8);
        data(topic.as_bytes(), out);
    }
    if let Some(bytes) = properties.correlation_data {
        out.push(id::CORRELATION_DATA as u8);
        data(bytes, out);
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
    /// Empty where the client knows the topic by its alias.
    pub topic: &'a [u8],
    pub alias: Option<u16>,
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
            remaining += variable_length(properties_length) + properties_length;
        }
        out.push(0x30 | u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain));
        variable(remaining, out);
        data(self.topic, out);
        if let (Some(id), true) = (self.packet_id, self.qos != QoS::AtMostOnce) {
            out.extend_from_slice(&id.get().to_be_bytes());
        }
        if version == Version::V5 {
            variable(properties_length, out);
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
            remaining += variable_length(length) + length;
        }
        1 + variable_length(remaining) + remaining
    }

    fn properties_length(&self) -> usize {
        let mut length = self.properties.len();
        if self.alias.is_some() {
            length += 3;
        }
        if self.expiry.is_some() {
            length += 5;
        }
        length += self.identifiers.iter().map(|id| 1 + variable_length(*id as usize)).sum::<usize>();
        length + self.appended.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>()
    }

    fn write_properties(&self, out: &mut Vec<u8>) {
        if let Some(alias) = self.alias {
            out.push(id::TOPIC_ALIAS as u8);
            out.extend_from_slice(&alias.to_be_bytes());
        }
        if let Some(seconds) = self.expiry {
            out.push(id::MESSAGE_EXPIRY_INTERVAL as u8);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        for identifier in self.identifiers {
            out.push(id::SUBSCRIPTION_IDENTIFIER as u8);
            variable(*identifier as usize, out);
        }
        out.extend_from_slice(self.properties);
        for (name, value) in self.appended {
            user_property(name, value, out);
        }
    }
}

fn user_property(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(id::USER_PROPERTY as u8);
    data(name.as_bytes(), out);
    data(value.as_bytes(), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::Packet;
    use crate::mqtt::codec::decode;

    #[test]
    fn a_delivery_decodes_to_what_was_published_and_what_was_added() {
        let kept = PublishProperties {
            payload_format_utf8: Some(true),
            response_topic: Some("answers"),
            correlation_data: Some(&[0, 255]),
            content_type: Some("text/plain"),
            user: vec![("a", "1"), ("a", "")],
            ..PublishProperties::default()
        };
        let mut properties = Vec::new();
        encode_kept_properties(&kept, &mut properties);
        // Payloads around the lengths at which the remaining length takes another byte.
        for payload in [0, 50, 127, 16_300, 2_097_100].map(|length| vec![b'x'; length]) {
            for (version, qos) in
                [(Version::V31, QoS::AtMostOnce), (Version::V311, QoS::AtLeastOnce), (Version::V5, QoS::ExactlyOnce)]
            {
                let packet_id = PacketId::new(7).filter(|_| qos != QoS::AtMostOnce);
                let parts = Delivered {
                    dup: qos != QoS::AtMostOnce,
                    qos,
                    retain: true,
                    packet_id,
                    topic: b"a/topic",
                    alias: Some(513),
                    properties: &properties,
                    expiry: Some(60),
                    identifiers: &[1, 268_435_455],
                    appended: &[("publish-id", "01")],
                    payload_length: payload.len(),
                };
                let mut out = Vec::new();
                parts.encode_head(version, &mut out);
                out.extend_from_slice(&payload);
                assert_eq!(out.len(), parts.packet_length(version));
                let Ok(Packet::Publish(publish)) = decode(&out, version) else {
                    panic!("{version:?} {}", payload.len())
                };
                assert_eq!((publish.topic, publish.packet_id, publish.payload), ("a/topic", packet_id, &payload[..]));
                assert_eq!((publish.qos, publish.dup, publish.retain), (qos, parts.dup, true));
                let mut expected = PublishProperties::default();
                if version == Version::V5 {
                    expected = PublishProperties {
                        message_expiry: Some(60),
                        topic_alias: Some(513),
                        subscription_identifiers: vec![1, 268_435_455],
                        ..kept.clone()
                    };
                    expected.user.push(("publish-id", "01"));
                }
                assert_eq!(publish.properties, expected);
            }
        }
    }
}
