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

    /// Up to `limit` messages after the topic `after`, in the order of topics, and the topic after which the next page
    /// begins. So many topics are looked at for a page: with a filter it may be short and not the last.
    pub fn page(
        &self,
        filter: Option<&str>,
        after: Option<&str>,
        limit: usize,
        now: u64,
    ) -> (Vec<Arc<Message>>, Option<Box<str>>) {
        const LOOKED_AT: usize = 10_000;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let meant = |name: &str| filter.is_none_or(|filter| topic::matches(filter, name));
        let mut found = Vec::new();
        let mut last: Option<&Box<str>> = None;
        for (at, (name, message)) in self.by_topic.range::<str, _>((from, Bound::Unbounded)).enumerate() {
            if found.len() == limit || at == LOOKED_AT {
                return (found, last.cloned());
            }
            last = Some(name);
            if meant(name) && !message.is_expired(now) {
                found.push(message.clone());
            }
        }
        (found, None)
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
    fn pages_follow_each_other_in_the_order_of_topics() {
        let mut retained = Retained::default();
        for topic in ["b", "a/1", "a/2", "c"] {
            retained.set(&message(topic, "x", None));
        }
        let page = |filter, after| {
            let (found, next) = retained.page(filter, after, 2, 0);
            (found.iter().map(|message| message.topic().to_owned()).collect::<Vec<_>>(), next)
        };
        assert_eq!(page(None, None), (vec!["a/1".into(), "a/2".into()], Some("a/2".into())));
        assert_eq!(page(None, Some("a/2")), (vec!["b".into(), "c".into()], None));
        assert_eq!(page(Some("a/+"), Some("a/1")), (vec!["a/2".into()], None));
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
