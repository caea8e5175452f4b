//! Retained messages: the last one of each topic that was published with RETAIN.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::Message;
use crate::mqtt::topic;

/// The retained messages, ordered by topic.
#[derive(Debug, Default)]
pub struct Retained {
    by_topic: BTreeMap<Box<str>, Arc<Message>>,
}

impl Retained {
    /// Replaces what the topic retains; an empty payload deletes it `[MQTT-3.3.1-6]`.
    pub fn set(&mut self, message: &Arc<Message>) {
        if message.payload().is_empty() {
            self.by_topic.remove(message.topic());
        } else {
            self.by_topic.insert(message.topic().into(), message.clone());
        }
    }

    /// What a new subscription to `filter` gets. Expired messages are forgotten on the way.
    pub fn matching(&mut self, filter: &str, now: u64) -> Vec<Arc<Message>> {
        let Some(wildcard) = filter.find(['+', '#']) else {
            let found = self.by_topic.get(filter).filter(|message| !message.is_expired(now));
            return found.cloned().into_iter().collect();
        };
        // `a/#` matches `a` too, so the scan begins at the literal levels without their last separator.
        let prefix = filter[..wildcard].trim_end_matches('/');
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let mut found = Vec::new();
        let mut expired = Vec::new();
        for (name, message) in self.by_topic.range::<str, _>(from).take_while(|(name, _)| name.starts_with(prefix)) {
            if message.is_expired(now) {
                expired.push(name.clone());
            } else if topic::matches(filter, name) {
                found.push(message.clone());
            }
        }
        for name in expired {
            self.by_topic.remove(&name);
        }
        found
    }

    pub fn len(&self) -> usize {
        self.by_topic.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_topic.is_empty()
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::QoS;
    use crate::mqtt::packet::Publish;
    use crate::mqtt::property::PublishProperties;

    pub(super) fn message(topic: &str, payload: &str, expiry: Option<u32>) -> Arc<Message> {
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: true,
            topic,
            packet_id: None,
            properties: PublishProperties { message_expiry: expiry, ..PublishProperties::default() },
            payload: payload.as_bytes(),
        };
        Arc::new(Message::new(&publish, topic, 0, None))
    }

    fn topics(found: &[Arc<Message>]) -> Vec<&str> {
        found.iter().map(|m| m.topic()).collect()
    }

    #[test]
    fn a_wildcard_finds_the_parent_and_not_its_neighbours() {
        let mut retained = Retained::default();
        for topic in ["a", "a/b", "a/b/c", "ab", "a-b", "b"] {
            retained.set(&message(topic, "x", None));
        }
        assert_eq!(topics(&retained.matching("a/#", 0)), ["a", "a/b", "a/b/c"]);
        assert_eq!(topics(&retained.matching("a/+", 0)), ["a/b"]);
        assert_eq!(topics(&retained.matching("a/b", 0)), ["a/b"]);
        assert_eq!(retained.matching("#", 0).len(), 6);
    }

    #[test]
    fn an_empty_payload_deletes() {
        let mut retained = Retained::default();
        retained.set(&message("a", "x", None));
        retained.set(&message("a", "", None));
        assert!(retained.is_empty());
    }

    #[test]
    fn an_expired_message_is_not_sent() {
        let mut retained = Retained::default();
        retained.set(&message("a", "x", Some(1)));
        assert_eq!(retained.matching("+", 999).len(), 1);
        assert!(retained.matching("+", 1000).is_empty());
        assert!(retained.is_empty());
    }
}
