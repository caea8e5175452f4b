//! The last denies, kept in memory for whoever asks why a client does not get through. Pure: the time is an argument.
//!
//! What a client repeats is kept once and counted, and one client (or, before it is known, one address) has a part of the
//! place only: so a client in a loop does not push out what the others were denied.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::auth::Why;
use crate::auth::explain::Verb;

/// Denies that are kept.
const KEPT: usize = 1000;
/// Of these, denies of one client or address.
const KEPT_OF_ONE: u32 = 100;
/// Milliseconds for which the same again is counted and not kept anew, so that a follower hears of it now and then.
const FOLD: u64 = 10_000;
/// Bytes of a client id, topic or filter that are kept: it comes from a client, which may send 64 KiB.
const TEXT: usize = 256;
/// Bytes of a reason that are kept; it may quote such a text.
const WHY: usize = 1024;

/// What was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Connect,
    Publish,
    Subscribe,
    Will,
    /// AUTH with a new token.
    Reauthenticate,
}

impl Action {
    /// As in rules, logs and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Will => "will",
            Self::Reauthenticate => "reauthenticate",
        }
    }
}

impl From<Verb> for Action {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Publish => Self::Publish,
            Verb::Subscribe => Self::Subscribe,
            Verb::Will => Self::Will,
        }
    }
}

/// What is known already of who was denied something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is worth to find out why.
    Quiet,
    /// The same was denied a moment ago, or very much else.
    Noisy,
}

/// Something that a client asked for and did not get.
#[derive(Clone, Debug)]
pub struct Deny {
    /// Counts up, so that a reader can go on where it stopped.
    pub number: u64,
    /// Milliseconds since 1970 UTC.
    pub at: u64,
    pub client_id: Arc<str>,
    /// Absent where the client did not show who it is.
    pub principal: Option<Box<str>>,
    /// What it was accepted with, or has tried: `jwt`, `password`, `bridge` or `none`.
    pub method: &'static str,
    /// The key that its token was verified with.
    pub key_id: Option<Box<str>>,
    /// Where a client comes from that was not let in.
    pub address: Option<SocketAddr>,
    pub action: Action,
    /// The topic or filter, if the action has one; cut short where it is very long.
    pub topic: Box<str>,
    pub why: Cow<'static, str>,
    /// The same as one of a closed set, where there is one.
    pub reason: Option<Why>,
    /// How often the same was denied again shortly afterwards, which is not kept.
    pub repeats: u64,
}

impl Deny {
    /// At `at`, to a client of which no more is known.
    pub fn new(
        at: u64,
        client_id: Arc<str>,
        method: &'static str,
        action: Action,
        why: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            number: 0,
            at,
            client_id,
            principal: None,
            method,
            key_id: None,
            address: None,
            action,
            topic: "".into(),
            why: why.into(),
            reason: None,
            repeats: 0,
        }
    }
}

/// The last denies, oldest first.
#[derive(Debug, Default)]
pub struct Denies {
    last: VecDeque<Deny>,
    number: u64,
    /// The last of each kind, by the hash of what makes it the same.
    same: HashMap<u64, u64>,
    /// How many of one client or address are kept.
    of_one: HashMap<u64, u32>,
    /// Random per process, so that nobody chooses what counts as the same.
    hashes: RandomState,
}

impl Denies {
    /// Keeps a deny, or counts it if the same was denied a moment ago. Answers whether it is kept.
    pub fn push(&mut self, mut deny: Deny) -> bool {
        deny.client_id = match told(&deny.client_id, TEXT) {
            Cow::Borrowed(text) if text.len() == deny.client_id.len() => deny.client_id,
            text => text.into(),
        };
        deny.topic = told(&deny.topic, TEXT).into();
        if let Cow::Owned(why) = &deny.why {
            deny.why = Cow::Owned(told(why, WHY).into_owned());
        }
        let same = self.hash_same(&deny);
        if let Some(kept) = self.same.get(&same).and_then(|number| self.find(*number))
            && deny.at.saturating_sub(self.last[kept].at) < FOLD
        {
            self.last[kept].repeats += 1;
            return false;
        }
        let one = self.hash_one(&deny);
        if self.of_one.get(&one).is_some_and(|kept| *kept >= KEPT_OF_ONE) {
            let oldest = self.last.iter().position(|kept| self.hash_one(kept) == one);
            self.forget(oldest);
        } else if self.last.len() == KEPT {
            self.forget(Some(0));
        }
        self.number += 1;
        deny.number = self.number;
        self.same.insert(same, deny.number);
        *self.of_one.entry(one).or_default() += 1;
        self.last.push_back(deny);
        true
    }

    /// What there is of the same, and of the same client, before it is kept.
    pub fn look(&self, deny: &Deny) -> Standing {
        let again = self.same.get(&self.hash_same(deny)).and_then(|number| self.find(*number));
        let again = again.is_some_and(|kept| deny.at.saturating_sub(self.last[kept].at) < FOLD);
        let much = self.of_one.get(&self.hash_one(deny)).is_some_and(|kept| *kept >= KEPT_OF_ONE);
        if again || much { Standing::Noisy } else { Standing::Quiet }
    }

    fn forget(&mut self, at: Option<usize>) {
        let Some(deny) = at.and_then(|at| self.last.remove(at)) else { return };
        let same = self.hash_same(&deny);
        if self.same.get(&same) == Some(&deny.number) {
            self.same.remove(&same);
        }
        let one = self.hash_one(&deny);
        if let Some(kept) = self.of_one.get_mut(&one) {
            *kept -= 1;
            if *kept == 0 {
                self.of_one.remove(&one);
            }
        }
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.last.binary_search_by_key(&number, |deny| deny.number).ok()
    }

    fn hash_same(&self, deny: &Deny) -> u64 {
        let address = deny.address.map(|address| address.ip());
        // About a topic the rules say the same, in more words or fewer.
        let why = if deny.topic.is_empty() { &deny.why } else { "" };
        self.hashes.hash_one((told(&deny.client_id, TEXT), deny.action, told(&deny.topic, TEXT), why, address))
    }

    /// Whoever is not let in chooses its client id freely; its address it does not.
    fn hash_one(&self, deny: &Deny) -> u64 {
        match deny.address {
            Some(address) => self.hashes.hash_one(address.ip()),
            None => self.hashes.hash_one(told(&deny.client_id, TEXT)),
        }
    }

    /// Those after `number`, oldest first. A number that was not reached yet is of a broker before this one: to its reader
    /// everything is new.
    pub fn after(&self, number: u64) -> impl Iterator<Item = &Deny> {
        let number = if number > self.number { 0 } else { number };
        self.last.iter().filter(move |deny| deny.number > number)
    }

    /// The number of the newest; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.number
    }
}

/// A text of a client as it is kept and logged: cut to so many bytes, and without what looks like a token. Some clients
/// put theirs into the user name, the client id or the topic.
fn told(text: &str, most: usize) -> Cow<'_, str> {
    /// How the JSON object `{"…` begins in base64: every header of a token.
    const TOKEN: &str = "eyJ";
    /// Tokens are longer.
    const SHORTEST: usize = 40;
    let text = cut(text, most);
    if !text.contains(TOKEN) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(TOKEN) {
        let (before, token) = rest.split_at(at);
        let part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=+".contains(&byte);
        let length = token.bytes().position(|byte| !part(byte)).unwrap_or(token.len());
        out.push_str(before);
        out.push_str(if length < SHORTEST { &token[..length] } else { "[a token]" });
        rest = &token[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The beginning of a text, of so many bytes at most.
fn cut(text: &str, most: usize) -> &str {
    match text.char_indices().find(|(at, character)| at + character.len_utf8() > most) {
        Some((at, _)) => &text[..at],
        None => text,
    }
}

/// A client id, topic or user name as it is logged.
pub fn shorten(text: &str) -> Cow<'_, str> {
    told(text, TEXT)
}

/// A reason that may quote what a client sent, as it is logged.
pub fn shorten_reason(text: &str) -> Cow<'_, str> {
    told(text, WHY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deny(client_id: &str, topic: &str, at: u64) -> Deny {
        let deny = Deny::new(at, client_id.into(), "password", Action::Publish, "no rule allows it");
        Deny { principal: Some("user:u".into()), topic: topic.into(), ..deny }
    }

    #[test]
    fn the_last_thousand_are_kept_and_reading_goes_on_where_it_stopped() {
        let mut denies = Denies::default();
        for n in 1..=1500 {
            denies.push(deny(&format!("c{n}"), &n.to_string(), 0));
        }
        let all: Vec<_> = denies.after(0).collect();
        assert_eq!((all.len(), &*all[0].topic, &*all[999].topic), (1000, "501", "1500"));
        assert_eq!(denies.after(1499).map(|deny| deny.number).collect::<Vec<_>>(), [1500]);
        assert_eq!((denies.after(1500).count(), denies.newest()), (0, 1500));
        assert_eq!(denies.after(1501).count(), 1000, "the number is of a broker before this one");
        assert!(denies.same.len() == 1000 && denies.of_one.len() == 1000);
    }

    #[test]
    fn the_same_again_is_counted_and_after_a_while_kept_anew() {
        let mut denies = Denies::default();
        assert!(denies.push(deny("c", "t", 1000)));
        for at in 1001..1050 {
            assert!(!denies.push(deny("c", "t", at)));
        }
        assert!(denies.push(deny("c", "u", 1050)), "another topic");
        assert!(denies.push(Deny { action: Action::Subscribe, ..deny("c", "t", 1050) }), "another action");
        assert!(denies.push(deny("c", "t", 11_000)));
        let seen: Vec<_> = denies.after(0).map(|deny| (&*deny.topic, deny.repeats)).collect();
        assert_eq!(seen, [("t", 49), ("u", 0), ("t", 0), ("t", 0)]);
    }

    #[test]
    fn a_client_in_a_loop_does_not_push_the_others_out() {
        let mut denies = Denies::default();
        denies.push(deny("quiet", "t", 0));
        for n in 0..5000 {
            denies.push(deny("noisy", &n.to_string(), 0));
        }
        // Who is not let in calls itself another name each time, from one address.
        for n in 0..5000 {
            let address = Some(([192, 0, 2, 1], 1000 + n).into());
            denies.push(Deny { address, action: Action::Connect, ..deny(&format!("x{n}"), "", 0) });
        }
        let of = |name: &str| denies.after(0).filter(|deny| deny.client_id.starts_with(name)).count();
        assert_eq!((of("quiet"), of("noisy"), of("x")), (1, 100, 100));
        assert_eq!(&*denies.after(0).nth(1).unwrap().topic, "4900", "the newest of it are kept");
        assert!(denies.same.len() == 201 && denies.of_one.len() == 3);
    }

    #[test]
    fn what_a_client_calls_itself_is_cut_and_never_a_token() {
        let mut denies = Denies::default();
        let token = format!("eyJhbGciOiJFZERTQSJ9.{}.c2lnbmF0dXJl", "x".repeat(600));
        denies.push(Deny {
            why: format!("there is no user {token:?}").into(),
            ..deny(&token, &format!("t/{token}/x"), 0)
        });
        let kept = denies.after(0).next().unwrap();
        assert_eq!((&*kept.client_id, &*kept.why), ("[a token]", r#"there is no user "[a token]""#));
        assert_eq!(&*kept.topic, "t/[a token]");
        assert_eq!(shorten("a/eyJ/b"), "a/eyJ/b");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shorten("a/b"), "a/b");
        assert_eq!(shorten(&"ä".repeat(200)).len(), 256);
        assert_eq!(shorten(&format!("x{}", "ä".repeat(200))).len(), 255);
    }
}
