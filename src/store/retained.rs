//! Retained messages: the last one of each topic that was published with RETAIN.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::Message;
use super::memory;
use crate::mqtt::topic;

/// Messages that are looked at in one go: publishers that retain wait meanwhile.
const SCAN: usize = 1024;
/// Milliseconds between two searches for expired messages, when there is no room.
const FORGET_EVERY: u64 = 1000;
/// What an entry costs beyond its topic and its message.
const ENTRY: usize = 48;

/// The retained messages, ordered by topic.
#[derive(Debug, Default)]
pub struct Retained {
    by_topic: BTreeMap<Box<str>, Arc<Message>>,
    bytes: u64,
    /// When expired messages were last looked for, because there was no room.
    forgotten_at: u64,
}

/// How much may be retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub messages: usize,
    pub bytes: u64,
}

/// The limit because of which a message is not retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRetained {
    Messages,
    Bytes,
}

/// How far a search for the messages of a filter has come.
#[derive(Debug, Default)]
pub struct Cursor {
    /// The last topic that was looked at.
    after: Option<Box<str>>,
    done: bool,
}

impl Cursor {
    /// Says that everything was found.
    pub fn finish(&mut self) {
        self.done = true;
    }

    /// Whether everything was found.
    pub fn is_done(&self) -> bool {
        self.done
    }
}

impl Retained {
    /// Replaces what the topic retains; an empty payload deletes it `[MQTT-3.3.1-6]`. Where there is no room, a message
    /// may still replace one that is as large.
    pub fn set(&mut self, message: &Arc<Message>, room: Room, now: u64) -> Result<(), NotRetained> {
        if message.payload().is_empty() {
            self.remove(message.topic());
            return Ok(());
        }
        if let Err(full) = self.check(message, room) {
            if now < self.forgotten_at + FORGET_EVERY {
                return Err(full);
            }
            self.forgotten_at = now;
            self.forget_expired(now);
            self.check(message, room)?;
        }
        self.restore(message);
        Ok(())
    }

    /// Takes back what was retained before the broker was started.
    pub fn restore(&mut self, message: &Arc<Message>) {
        self.remove(message.topic());
        self.bytes += message.size() as u64;
        memory::count(entry_cost(message.topic()));
        self.by_topic.insert(message.topic().into(), message.clone());
    }

    fn check(&self, message: &Message, room: Room) -> Result<(), NotRetained> {
        let replaced = self.by_topic.get(message.topic()).map(|replaced| replaced.size() as u64);
        let size = message.size() as u64;
        if replaced.is_none() && self.by_topic.len() >= room.messages {
            return Err(NotRetained::Messages);
        }
        let replaced = replaced.unwrap_or(0);
        if size > replaced && self.bytes - replaced + size > room.bytes {
            return Err(NotRetained::Bytes);
        }
        Ok(())
    }

    fn remove(&mut self, topic: &str) {
        if let Some(message) = self.by_topic.remove(topic) {
            self.bytes -= message.size() as u64;
            memory::count(-entry_cost(topic));
        }
    }

    fn forget_expired(&mut self, now: u64) {
        let expired: Vec<_> = self.by_topic.values().filter(|message| message.is_expired(now)).cloned().collect();
        for message in expired {
            self.remove(message.topic());
        }
    }

    /// Some of what a new subscription to `filter` gets; the rest, if there is more, when it is asked with the same cursor
    /// again. Expired messages are forgotten on the way.
    pub fn matching(&mut self, filter: &str, cursor: &mut Cursor, now: u64) -> Vec<Arc<Message>> {
        let Some(wildcard) = filter.find(['+', '#']) else {
            cursor.done = true;
            let found = self.by_topic.get(filter).filter(|message| !message.is_expired(now));
            return found.cloned().into_iter().collect();
        };
        // `a/#` matches `a` too, so the scan begins at the literal levels without their last separator.
        let prefix = filter[..wildcard].trim_end_matches('/');
        let after = cursor.after.take();
        let from = after.as_deref().map_or(Bound::Included(prefix), Bound::Excluded);
        let (mut found, mut expired) = (Vec::new(), Vec::new());
        let (mut scanned, mut last) = (0, None);
        let in_order = self.by_topic.range::<str, _>((from, Bound::Unbounded));
        for (name, message) in in_order.take_while(|(name, _)| name.starts_with(prefix)).take(SCAN) {
            scanned += 1;
            last = Some(name);
            if message.is_expired(now) {
                expired.push(name.clone());
            } else if topic::matches(filter, name) {
                found.push(message.clone());
            }
        }
        cursor.after = last.filter(|_| scanned == SCAN).cloned();
        cursor.done = cursor.after.is_none();
        for name in expired {
            self.remove(&name);
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

    /// Bytes of all messages.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.by_topic.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_topic.is_empty()
    }
}

/// What an entry costs beside its message.
fn entry_cost(topic: &str) -> i64 {
    (topic.len() + ENTRY) as i64
}

impl Drop for Retained {
    fn drop(&mut self) {
        self.by_topic.keys().for_each(|topic| memory::count(-entry_cost(topic)));
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

    const ROOM: Room = Room { messages: 10, bytes: 100_000 };

    fn all(retained: &mut Retained, filter: &str, now: u64) -> Vec<Arc<Message>> {
        let (mut cursor, mut found) = (Cursor::default(), Vec::new());
        while !cursor.is_done() {
            found.extend(retained.matching(filter, &mut cursor, now));
        }
        found
    }

    #[test]
    fn a_wildcard_finds_the_parent_and_not_its_neighbours() {
        let mut retained = Retained::default();
        for topic in ["a", "a/b", "a/b/c", "ab", "a-b", "b"] {
            retained.set(&message(topic, "x", None), ROOM, 0).unwrap();
        }
        assert_eq!(topics(&all(&mut retained, "a/#", 0)), ["a", "a/b", "a/b/c"]);
        assert_eq!(topics(&all(&mut retained, "a/+", 0)), ["a/b"]);
        assert_eq!(topics(&all(&mut retained, "a/b", 0)), ["a/b"]);
        assert_eq!(all(&mut retained, "#", 0).len(), 6);
    }

    #[test]
    fn a_long_search_goes_on_where_it_stopped() {
        let mut retained = Retained::default();
        let room = Room { messages: usize::MAX, bytes: u64::MAX };
        let names: Vec<_> = (0..3 * SCAN).map(|n| format!("a/{n:05}")).collect();
        for name in &names {
            retained.set(&message(name, "x", None), room, 0).unwrap();
        }
        let mut cursor = Cursor::default();
        assert_eq!(retained.matching("a/#", &mut cursor, 0).len(), SCAN);
        assert!(!cursor.is_done());
        assert_eq!(topics(&all(&mut retained, "a/#", 0)), names);
    }

    #[test]
    fn pages_follow_each_other_in_the_order_of_topics() {
        let mut retained = Retained::default();
        for topic in ["b", "a/1", "a/2", "c"] {
            retained.set(&message(topic, "x", None), ROOM, 0).unwrap();
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
        retained.set(&message("a", "x", None), ROOM, 0).unwrap();
        retained.set(&message("a", "", None), ROOM, 0).unwrap();
        assert!(retained.is_empty());
        assert_eq!(retained.bytes(), 0);
    }

    #[test]
    fn an_expired_message_is_not_sent() {
        let mut retained = Retained::default();
        retained.set(&message("a", "x", Some(1)), ROOM, 0).unwrap();
        assert_eq!(all(&mut retained, "+", 999).len(), 1);
        assert!(all(&mut retained, "+", 1000).is_empty());
        assert!(retained.is_empty());
    }

    #[test]
    fn without_room_a_message_is_replaced_or_deleted_but_none_is_added() {
        let mut retained = Retained::default();
        let room = Room { messages: 2, ..ROOM };
        for topic in ["a", "b"] {
            retained.set(&message(topic, "x", None), room, 0).unwrap();
        }
        assert_eq!(retained.set(&message("c", "x", None), room, 0), Err(NotRetained::Messages));
        assert_eq!(retained.set(&message("c", "", None), room, 0), Ok(()));
        assert_eq!(retained.set(&message("a", "y", None), room, 0), Ok(()));
        assert_eq!(retained.set(&message("a", "", None), room, 0), Ok(()));
        assert_eq!(retained.set(&message("c", "x", None), room, 0), Ok(()));
        assert_eq!(topics(&all(&mut retained, "#", 0)), ["b", "c"]);
    }

    #[test]
    fn bytes_end_at_the_limit_and_a_replacement_of_the_same_size_is_always_possible() {
        let mut retained = Retained::default();
        let one = message("a", "0123456789", None);
        let room = Room { bytes: 2 * one.size() as u64, ..ROOM };
        retained.set(&one, room, 0).unwrap();
        retained.set(&message("b", "0123456789", None), room, 0).unwrap();
        assert_eq!(retained.bytes(), room.bytes);
        assert_eq!(retained.set(&message("c", "", None), room, 0), Ok(()));
        assert_eq!(retained.set(&message("c", "0", None), room, 0), Err(NotRetained::Bytes));
        assert_eq!(retained.set(&message("a", "abcdefghij", None), room, 0), Ok(()));
        assert_eq!(retained.set(&message("a", "abcdefghijk", None), room, 0), Err(NotRetained::Bytes));
        let less = Room { bytes: 1, ..room };
        assert_eq!(retained.set(&message("a", "abcdefghij", None), less, 0), Ok(()), "the limit may have been lowered");
    }

    #[test]
    fn expired_messages_make_room() {
        let mut retained = Retained::default();
        let room = Room { messages: 1, ..ROOM };
        retained.set(&message("a", "x", Some(1)), room, 0).unwrap();
        assert_eq!(retained.set(&message("b", "x", None), room, 999), Err(NotRetained::Messages));
        assert_eq!(retained.set(&message("b", "x", None), room, 2000), Ok(()));
    }
}
