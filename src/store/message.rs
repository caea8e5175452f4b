//! A publication as the broker keeps it: one allocation for its bytes, shared by all its deliveries.

use std::sync::Arc;

use super::memory;
use crate::mqtt::QoS;
use crate::mqtt::codec::delivery::encode_kept_properties;
use crate::mqtt::packet::Publish;

/// A publication. Topic, encoded properties and payload stand one after the other in a single allocation.
#[derive(Debug)]
pub struct Message {
    bytes: Box<[u8]>,
    topic_length: usize,
    properties_length: usize,
    /// The QoS it was published with.
    pub qos: QoS,
    /// The RETAIN flag it was published with.
    pub retain: bool,
    /// Milliseconds since 1970 UTC at which it expires `[MQTT-3.3.2-5]`.
    pub expires_at: Option<u64>,
    /// Where it comes from; known for messages that go to the bridge.
    pub origin: Option<Box<Origin>>,
}

/// What identifies a publication beyond this broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// A ULID; the same at each delivery.
    pub id: u128,
    pub client_id: Arc<str>,
    /// Milliseconds since 1970 UTC at which the broker received it.
    pub received_at: u64,
}

impl Message {
    /// Copies what `publish` borrows. `topic` stands in for the topic that an alias left empty.
    pub fn new(publish: &Publish<'_>, topic: &str, now: u64, origin: Option<Box<Origin>>) -> Self {
        let properties = &publish.properties;
        let mut bytes = Vec::with_capacity(topic.len() + publish.payload.len() + properties_hint(publish));
        bytes.extend_from_slice(topic.as_bytes());
        encode_kept_properties(properties, &mut bytes);
        let properties_length = bytes.len() - topic.len();
        bytes.extend_from_slice(publish.payload);
        let message = Self {
            bytes: bytes.into_boxed_slice(),
            topic_length: topic.len(),
            properties_length,
            qos: publish.qos,
            retain: publish.retain,
            expires_at: properties.message_expiry.map(|seconds| now + u64::from(seconds) * 1000),
            origin,
        };
        memory::count(message.cost());
        message
    }

    /// The topic name.
    pub fn topic(&self) -> &str {
        // The bytes come from a `str` and are never changed; checking them again is cheap beside a system call.
        std::str::from_utf8(&self.bytes[..self.topic_length]).unwrap_or_default()
    }

    /// The topic name as bytes.
    pub fn topic_bytes(&self) -> &[u8] {
        &self.bytes[..self.topic_length]
    }

    /// The properties that every subscriber of MQTT 5.0 gets, encoded, without their length.
    pub fn properties(&self) -> &[u8] {
        &self.bytes[self.topic_length..self.topic_length + self.properties_length]
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.topic_length + self.properties_length..]
    }

    /// What the message counts against a byte limit.
    pub fn size(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }

    /// What the allocator spends on it; the same from its making to its end.
    fn cost(&self) -> i64 {
        // With the counters of its `Arc`, and the allocator's own words for two or three pieces.
        const OVERHEAD: usize = 64;
        let origin = if self.origin.is_some() { size_of::<Origin>() } else { 0 };
        (self.size() + origin + OVERHEAD) as i64
    }

    /// Whether its lifetime is over.
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Seconds of lifetime left, rounded up, where it has one.
    pub fn expiry_left(&self, now: u64) -> Option<u32> {
        self.expires_at.map(|at| u32::try_from(at.saturating_sub(now).div_ceil(1000)).unwrap_or(u32::MAX))
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        memory::count(-self.cost());
    }
}

/// A guess that spares a reallocation; exact for the usual publication, which has no properties.
fn properties_hint(publish: &Publish<'_>) -> usize {
    let p = &publish.properties;
    let user: usize = p.user.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
    user + p.content_type.map_or(0, |t| t.len() + 3)
        + p.response_topic.map_or(0, |t| t.len() + 3)
        + p.correlation_data.map_or(0, |d| d.len() + 3)
}
