//! The last denies, kept in memory for whoever asks why a client does not get through.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::auth::explain::Verb;

/// Denies that are kept.
const KEPT: usize = 1000;
/// Bytes of a topic or filter that are kept: it comes from a client, which may send 64 KiB.
const TOPIC: usize = 256;

/// Something that a client asked for and did not get.
#[derive(Clone, Debug)]
pub struct Deny {
    /// Counts up, so that a reader can go on where it stopped.
    pub number: u64,
    /// Milliseconds since 1970 UTC.
    pub at: u64,
    pub client_id: Arc<str>,
    pub principal: Box<str>,
    pub action: Verb,
    /// The topic or filter, cut short where it is very long.
    pub topic: Box<str>,
    pub why: Cow<'static, str>,
}

/// The last denies, oldest first.
#[derive(Debug, Default)]
pub struct Denies {
    last: VecDeque<Deny>,
    number: u64,
}

impl Denies {
    /// Keeps a deny, and forgets the oldest if there are too many.
    pub fn push(&mut self, mut deny: Deny) {
        self.number += 1;
        deny.number = self.number;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(deny);
    }

    /// Those after `number`, oldest first.
    pub fn after(&self, number: u64) -> impl Iterator<Item = &Deny> {
        self.last.iter().filter(move |deny| deny.number > number)
    }
}

/// A text of a client, cut to what is kept of it.
pub fn shorten(text: &str) -> &str {
    match text.char_indices().find(|(at, character)| at + character.len_utf8() > TOPIC) {
        Some((at, _)) => &text[..at],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deny(topic: &str) -> Deny {
        Deny {
            number: 0,
            at: 0,
            client_id: "c".into(),
            principal: "user:u".into(),
            action: Verb::Publish,
            topic: topic.into(),
            why: "no rule allows it".into(),
        }
    }

    #[test]
    fn the_last_thousand_are_kept_and_reading_goes_on_where_it_stopped() {
        let mut denies = Denies::default();
        for n in 1..=1500 {
            denies.push(deny(&n.to_string()));
        }
        let all: Vec<_> = denies.after(0).collect();
        assert_eq!((all.len(), &*all[0].topic, &*all[999].topic), (1000, "501", "1500"));
        assert_eq!(denies.after(1499).map(|deny| deny.number).collect::<Vec<_>>(), [1500]);
    }

    #[test]
    fn long_topics_are_cut_between_characters() {
        assert_eq!(shorten("a/b"), "a/b");
        assert_eq!(shorten(&"ä".repeat(200)).len(), 256);
        assert_eq!(shorten(&format!("x{}", "ä".repeat(200))).len(), 255);
    }
}
