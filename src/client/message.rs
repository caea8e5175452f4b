use bytes::Bytes;

use crate::mqtt::QoS;
use crate::mqtt::packet::{PacketId, Publish, Will};
use crate::mqtt::property::{PublishProperties, UserProperties, WillProperties};

/// A message as the application sees it, owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub properties: Properties,
}

impl Message {
    /// A message without RETAIN and without properties.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>, qos: QoS) -> Self {
        Self { topic: topic.into(), payload: payload.into(), qos, ..Self::default() }
    }

    /// The same with the RETAIN flag.
    #[must_use]
    pub fn retained(self) -> Self {
        Self { retain: true, ..self }
    }

    pub(super) fn publish(&self, packet_id: Option<PacketId>) -> Publish<'_> {
        Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            packet_id,
            properties: self.properties.borrowed(),
            payload: &self.payload,
        }
    }

    pub(super) fn will(&self, delay: Option<u32>) -> Will<'_> {
        Will {
            topic: &self.topic,
            payload: &self.payload,
            qos: self.qos,
            retain: self.retain,
            properties: WillProperties { delay, publish: self.properties.borrowed() },
        }
    }
}

/// The properties that travel from publisher to subscriber; 5.0 only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// The payload is UTF-8 text.
    pub payload_format_utf8: Option<bool>,
    /// Seconds of lifetime left.
    pub message_expiry: Option<u32>,
    pub response_topic: Option<String>,
    pub correlation_data: Option<Bytes>,
    /// Of the subscriptions that matched; on deliveries only.
    pub subscription_identifiers: Vec<u32>,
    pub content_type: Option<String>,
    /// In order; a name may appear more than once.
    pub user: Vec<(String, String)>,
}

impl Properties {
    fn borrowed(&self) -> PublishProperties<'_> {
        let user: UserProperties<'_> = self.user.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        PublishProperties {
            payload_format_utf8: self.payload_format_utf8,
            message_expiry: self.message_expiry,
            topic_alias: None,
            response_topic: self.response_topic.as_deref(),
            correlation_data: self.correlation_data.as_deref(),
            subscription_identifiers: Vec::new(),
            content_type: self.content_type.as_deref(),
            user,
        }
    }

    fn owned(borrowed: &PublishProperties<'_>) -> Self {
        Self {
            payload_format_utf8: borrowed.payload_format_utf8,
            message_expiry: borrowed.message_expiry,
            response_topic: borrowed.response_topic.map(str::to_owned),
            correlation_data: borrowed.correlation_data.map(Bytes::copy_from_slice),
            subscription_identifiers: borrowed.subscription_identifiers.clone(),
            content_type: borrowed.content_type.map(str::to_owned),
            user: borrowed.user.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        }
    }
}

/// A message that came, with what only its receiver sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub message: Message,
    /// The server may have sent it before.
    pub dup: bool,
    /// Absent with QoS 0.
    pub packet_id: Option<PacketId>,
    /// Its place among the deliveries that are to be acknowledged.
    pub(super) sequence: Option<u64>,
}

impl Delivery {
    /// Copies, so that nothing kept pins the read buffer.
    pub(super) fn copy(publish: &Publish<'_>, sequence: Option<u64>) -> Self {
        Self {
            message: Message {
                topic: publish.topic.to_owned(),
                payload: Bytes::copy_from_slice(publish.payload),
                qos: publish.qos,
                retain: publish.retain,
                properties: Properties::owned(&publish.properties),
            },
            dup: publish.dup,
            packet_id: publish.packet_id,
            sequence,
        }
    }
}

#[cfg(test)]
impl Delivery {
    /// A delivery that no server sent.
    pub(crate) fn made(message: Message, packet_id: u16) -> Self {
        Self { message, dup: false, packet_id: PacketId::new(packet_id), sequence: Some(0) }
    }
}
