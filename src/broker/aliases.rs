//! Topic aliases, of both directions; they live as long as the connection `[MQTT-3.3.2-7]`.

use std::sync::Arc;

use super::publish::hash;
use crate::mqtt::Violation;
use crate::store::memory::Held;

/// The topics that a client has given aliases to.
#[derive(Debug, Default)]
pub struct Inbound(Vec<Option<Arc<str>>>, Held);

impl Inbound {
    /// The topic of a publication with `alias`: its own, which the alias stands for from now on, or the one that the
    /// alias stands for. `maximum` is what the broker has announced `[MQTT-3.3.2-8, -9]`.
    pub fn resolve(&mut self, alias: u16, topic: &str, maximum: u16) -> Result<Arc<str>, Violation> {
        if alias == 0 || alias > maximum {
            return Err(Violation::TopicAlias { alias, maximum });
        }
        let at = usize::from(alias) - 1;
        if topic.is_empty() {
            return self.0.get(at).cloned().flatten().ok_or(Violation::UnknownTopicAlias { alias });
        }
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        let known = &mut self.0[at];
        if let Some(known) = known.as_ref().filter(|known| ***known == *topic) {
            return Ok(known.clone());
        }
        let before = known.as_ref().map_or(0, |known| known.len());
        self.1.settle(self.1.bytes() - before + topic.len());
        Ok(known.insert(topic.into()).clone())
    }
}

/// The aliases that the broker gives to topics on their way to a client.
///
/// Each alias belongs to one place of a small table, and a topic to the place that its hash says. The first topic at a
/// place gets the alias, and loses it to another that comes twice in a row, so topics that come once cost nothing.
#[derive(Debug)]
pub struct Outbound(Box<[Place]>, Held);

#[derive(Clone, Debug, Default)]
struct Place {
    last: usize,
    topic: Option<Box<[u8]>>,
}

/// What stands in a PUBLISH beside, or in place of, the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    pub alias: u16,
    /// Whether the client knows it, so that the topic is left out.
    pub known: bool,
}

impl Outbound {
    /// At most `maximum` aliases; `None` where there are none to give.
    pub fn new(maximum: u16) -> Option<Self> {
        (maximum > 0).then(|| Self(vec![Place::default(); maximum.into()].into_boxed_slice(), Held::default()))
    }

    /// The alias of a topic. What it answers must be sent: the client would miss a definition.
    pub fn of(&mut self, topic: &[u8]) -> Option<Alias> {
        let hash = hash(topic);
        let at = hash % self.0.len();
        let place = &mut self.0[at];
        let alias = at as u16 + 1;
        if place.topic.as_deref() == Some(topic) {
            place.last = hash;
            return Some(Alias { alias, known: true });
        }
        let is_taken = place.topic.is_some() && place.last != hash;
        place.last = hash;
        if is_taken {
            return None;
        }
        let before = place.topic.as_ref().map_or(0, |known| known.len());
        self.1.settle(self.1.bytes() - before + topic.len());
        place.topic = Some(topic.into());
        Some(Alias { alias, known: false })
    }

    /// Takes back a definition that was not sent.
    pub fn forget(&mut self, alias: u16) {
        let taken = self.0[usize::from(alias) - 1].topic.take();
        self.1.settle(self.1.bytes() - taken.map_or(0, |topic| topic.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_stands_for_the_last_topic_that_it_was_given_to() {
        let mut aliases = Inbound::default();
        assert_eq!(aliases.resolve(2, "", 2), Err(Violation::UnknownTopicAlias { alias: 2 }));
        assert_eq!(&*aliases.resolve(2, "a", 2).unwrap(), "a");
        assert_eq!(&*aliases.resolve(2, "", 2).unwrap(), "a");
        assert_eq!(&*aliases.resolve(2, "b", 2).unwrap(), "b");
        assert_eq!(&*aliases.resolve(2, "", 2).unwrap(), "b");
        assert_eq!(aliases.resolve(1, "", 2), Err(Violation::UnknownTopicAlias { alias: 1 }));
    }

    #[test]
    fn aliases_beyond_what_was_announced_are_refused() {
        let mut aliases = Inbound::default();
        assert_eq!(aliases.resolve(0, "a", 2), Err(Violation::TopicAlias { alias: 0, maximum: 2 }));
        assert_eq!(aliases.resolve(3, "a", 2), Err(Violation::TopicAlias { alias: 3, maximum: 2 }));
        assert_eq!(aliases.resolve(1, "a", 0), Err(Violation::TopicAlias { alias: 1, maximum: 0 }));
    }

    #[test]
    fn a_topic_keeps_its_alias_until_another_comes_twice() {
        let mut aliases = Outbound::new(1).unwrap();
        let given = Alias { alias: 1, known: false };
        let known = Alias { known: true, ..given };
        assert_eq!(aliases.of(b"a"), Some(given));
        assert_eq!(aliases.of(b"a"), Some(known));
        assert_eq!(aliases.of(b"b"), None, "the first time costs nothing");
        assert_eq!(aliases.of(b"a"), Some(known));
        assert_eq!(aliases.of(b"b"), None);
        assert_eq!(aliases.of(b"b"), Some(given));
        assert_eq!(aliases.of(b"b"), Some(known));
        assert_eq!(aliases.of(b"a"), None);
    }

    /// Whatever the order of topics, a client that keeps what it is told finds the right topic.
    #[test]
    fn a_client_that_follows_the_aliases_always_finds_the_topic() {
        let mut aliases = Outbound::new(3).unwrap();
        let mut client: [Option<Vec<u8>>; 3] = Default::default();
        let mut seed = 7u32;
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let topic = format!("topic/{}", (seed >> 16) % 7).into_bytes();
            if let Some(Alias { alias, known }) = aliases.of(&topic) {
                let place = &mut client[usize::from(alias) - 1];
                if known {
                    assert_eq!(place.as_ref(), Some(&topic));
                }
                *place = Some(topic);
            }
        }
    }

    #[test]
    fn no_aliases_are_given_to_a_client_that_wants_none() {
        assert!(Outbound::new(0).is_none());
    }
}
