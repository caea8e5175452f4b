//! A publication as the broker keeps it: one allocation for its bytes, shared by all its deliveries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::memory;
use crate::mqtt::QoS;
use crate::mqtt::codec::delivery::encode_kept_properties;
use crate::mqtt::packet::Publish;

/// A publication. Topic, encoded properties and payload stand one after the other in a single allocation.
#[derive(Debug)]
pub struct Message {
    /// What the journal knows it by; 0 while it does not.
    id: AtomicU64,
    /// The position at which the journal has it, with all sessions that it was given to first.
    written: AtomicU64,
    bytes: Box<[u8]>,
    topic_length: usize,
    properties_length: usize,
    /// The QoS it was published with.
    pub qos: QoS,
    /// The RETAIN flag it was published with.
    pub retain: bool,
    /// Milliseconds since 1970 UTC at which it expires `[MQTT-3.3.2-5]`.
    pub expires_at: Option<u64>,
    /// Milliseconds since 1970 UTC at which the broker received it. 0 where that is not known: such a message is never too
    /// old.
    pub received_at: u64,
    /// Where it comes from; known for messages that go to the bridge.
    pub origin: Option<Box<Origin>>,
}

/// What identifies a publication beyond this broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// A ULID; the same at each delivery.
    pub id: u128,
    pub client_id: Arc<str>,
}

/// A publication as the journal holds it. Lengths are as they were read: nothing is known of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored<'a> {
    /// The journal's number for it; 0 for one that it does not know by a number.
    pub id: u64,
    /// Topic, properties and payload, one after the other.
    pub bytes: &'a [u8],
    pub topic_length: usize,
    pub properties_length: usize,
    pub qos: QoS,
    pub retain: bool,
    pub expires_at: Option<u64>,
    pub received_at: u64,
    pub origin: Option<StoredOrigin<'a>>,
}

/// An [`Origin`] as the journal holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredOrigin<'a> {
    pub id: u128,
    pub client_id: &'a str,
}

impl Message {
    /// Copies what `publish` borrows, received at `now`. `topic` stands in for the topic that an alias left empty.
    pub fn new(publish: &Publish<'_>, topic: &str, now: u64, origin: Option<Box<Origin>>) -> Self {
        let properties = &publish.properties;
        let mut bytes = Vec::with_capacity(topic.len() + publish.payload.len() + properties_hint(publish));
        bytes.extend_from_slice(topic.as_bytes());
        encode_kept_properties(properties, &mut bytes);
        let properties_length = bytes.len() - topic.len();
        bytes.extend_from_slice(publish.payload);
        let message = Self {
            id: AtomicU64::new(0),
            written: AtomicU64::new(u64::MAX),
            bytes: bytes.into_boxed_slice(),
            topic_length: topic.len(),
            properties_length,
            qos: publish.qos,
            retain: publish.retain,
            expires_at: properties.message_expiry.map(|seconds| now + u64::from(seconds) * 1000),
            received_at: now,
            origin,
        };
        memory::count(message.cost());
        message
    }

    /// Makes a message again from what was stored of it; `None` where its parts do not fit.
    pub fn restore(stored: Stored<'_>) -> Option<Self> {
        let topic = stored.bytes.get(..stored.topic_length)?;
        std::str::from_utf8(topic).ok()?;
        if stored.properties_length > stored.bytes.len() - stored.topic_length {
            return None;
        }
        let origin = stored.origin.map(|origin| {
            let StoredOrigin { id, client_id } = origin;
            Box::new(Origin { id, client_id: client_id.into() })
        });
        let message = Self {
            id: AtomicU64::new(stored.id),
            written: AtomicU64::new(0),
            bytes: stored.bytes.into(),
            topic_length: stored.topic_length,
            properties_length: stored.properties_length,
            qos: stored.qos,
            retain: stored.retain,
            expires_at: stored.expires_at,
            received_at: stored.received_at,
            origin,
        };
        memory::count(message.cost());
        Some(message)
    }

    /// What is to be stored of it.
    pub fn stored(&self) -> Stored<'_> {
        let origin = self.origin.as_ref().map(|origin| StoredOrigin { id: origin.id, client_id: &origin.client_id });
        Stored {
            id: self.id.load(Ordering::Relaxed),
            bytes: &self.bytes,
            topic_length: self.topic_length,
            properties_length: self.properties_length,
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at,
            received_at: self.received_at,
            origin,
        }
    }

    /// The position from which on it is written down, with the sessions that it was given to first; the greatest until
    /// that is known.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// It is written down at this position.
    pub fn written_at(&self, position: u64) {
        self.written.store(position, Ordering::Release);
    }

    /// The journal's number for it, which is `fresh` if it has none: from then on the journal is told its bytes once,
    /// and afterwards only this number. Of several threads that ask at the same time all get the same one.
    pub fn id(&self, fresh: impl FnOnce() -> u64) -> u64 {
        match self.id.load(Ordering::Relaxed) {
            0 => {
                let fresh = fresh();
                // Nothing else is published with the number, so no ordering is needed.
                self.id.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|id| id, |_| fresh)
            }
            id => id,
        }
    }

    /// Whether the journal has a number for it.
    pub fn journaled(&self) -> bool {
        self.id.load(Ordering::Relaxed) != 0
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::property::PublishProperties;

    #[test]
    fn a_message_is_made_again_from_what_was_stored_of_it() {
        let properties =
            PublishProperties { content_type: Some("text/plain"), message_expiry: Some(2), ..Default::default() };
        let publish = Publish {
            dup: false,
            qos: QoS::ExactlyOnce,
            retain: true,
            topic: "",
            packet_id: None,
            properties,
            payload: b"warm",
        };
        let origin = Origin { id: 7, client_id: "sensor".into() };
        let message = Message::new(&publish, "a/b", 1000, Some(Box::new(origin)));
        assert!(!message.journaled());
        assert_eq!((message.id(|| 5), message.id(|| 6)), (5, 5), "a number is given once");
        let again = Message::restore(message.stored()).unwrap();
        assert_eq!(again.stored(), message.stored());
        assert_eq!((again.topic(), again.payload(), again.expires_at), ("a/b", &b"warm"[..], Some(3000)));
        assert_eq!(again.received_at, 1000);
        assert!(again.journaled());
    }

    #[test]
    fn parts_that_do_not_fit_make_no_message() {
        let stored = Stored {
            id: 1,
            bytes: b"\xFFbc",
            topic_length: 1,
            properties_length: 0,
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at: None,
            received_at: 0,
            origin: None,
        };
        assert!(Message::restore(stored).is_none(), "the topic is not text");
        let text = Stored { bytes: b"abc", ..stored };
        assert!(Message::restore(Stored { topic_length: 4, ..text }).is_none());
        assert!(Message::restore(Stored { properties_length: 3, ..text }).is_none());
        assert!(Message::restore(Stored { properties_length: 2, ..text }).is_some());
    }
}
