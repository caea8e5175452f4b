//! What pods deny, told to the people who look at the object: an Event a client and minute, and a bounded number of them.
//!
//! Pure: the time is an argument, and somebody else asks the pods and writes the Events. What clients call themselves is
//! shown without anything that could be taken for our own words.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::config::report::Deny;

/// Seconds between two Events about one client, and in which at most [`CLIENTS`] clients are named.
const MINUTE: u64 = 60;
const CLIENTS: usize = 10;
/// Clients of which something is remembered; beyond that they are only counted.
const REMEMBERED: usize = 1000;
/// Characters of a client id, of a topic, and of a reason.
const ID: usize = 48;
const TOPIC: usize = 96;
const WHY: usize = 200;
/// Bytes of a note before the command that it ends with; an Event has room for 1024.
const WORDS: usize = 700;

/// What is known of the denies of one object.
#[derive(Debug, Default)]
pub struct Told {
    /// The number of the last deny of each pod that was looked at, by the pod's uid.
    pods: HashMap<String, u64>,
    /// When clients were named last, in seconds.
    named: HashMap<String, u64>,
    /// Clients that something was denied to since.
    waiting: HashMap<String, Waiting>,
    /// Clients that nothing is remembered of but their number.
    others: usize,
    /// When the minute began, how many clients it has named, and whether it has spoken of the others.
    since: u64,
    clients: usize,
    summed: bool,
}

#[derive(Debug)]
struct Waiting {
    times: u64,
    last: Deny,
}

/// An Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub reason: &'static str,
    pub text: String,
}

impl Told {
    /// Where the list of a pod is to be read on; nothing if there is nothing new in it, of a pod whose newest deny has this
    /// number. Of a pod that is seen for the first time all is new.
    pub fn after(&self, uid: &str, newest: u64) -> Option<u64> {
        match self.pods.get(uid) {
            Some(seen) if *seen == newest => None,
            // A container that was restarted counts from the beginning.
            Some(seen) if *seen > newest => Some(0).filter(|_| newest > 0),
            seen => Some(seen.copied().unwrap_or(0)).filter(|_| newest > 0),
        }
    }

    /// Takes what a pod denied; `last` is how far its list was read.
    pub fn take(&mut self, uid: &str, denies: Vec<Deny>, last: u64) {
        self.pods.insert(uid.to_owned(), last);
        for deny in denies {
            let times = 1 + deny.repeats;
            if let Some(waiting) = self.waiting.get_mut(&deny.client_id) {
                waiting.times += times;
                waiting.last = deny;
            } else if self.waiting.len() < REMEMBERED {
                self.waiting.insert(deny.client_id.clone(), Waiting { times, last: deny });
            } else {
                self.others += 1;
            }
        }
    }

    /// Forgets pods that are no more.
    pub fn keep(&mut self, uids: &[&str]) {
        self.pods.retain(|uid, _| uids.contains(&uid.as_str()));
    }

    /// What is to be said at `now`, in seconds, about the broker that `mqttctl FLAGS` finds.
    pub fn say(&mut self, flags: &str, now: u64) -> Vec<Note> {
        if now.saturating_sub(self.since) >= MINUTE {
            (self.since, self.clients, self.summed) = (now, 0, false);
        }
        self.named.retain(|_, at| now.saturating_sub(*at) < MINUTE);
        let mut ready: Vec<String> =
            self.waiting.keys().filter(|client| !self.named.contains_key(*client)).cloned().collect();
        // Who was denied most is named first.
        ready.sort_by_key(|client| (std::cmp::Reverse(self.waiting[client].times), client.clone()));
        let rest = ready.split_off(ready.len().min(CLIENTS - self.clients));
        let mut notes = Vec::new();
        for client in ready {
            let Some(waiting) = self.waiting.remove(&client) else { continue };
            notes.push(note(&waiting, flags));
            self.clients += 1;
            self.named.insert(client, now);
        }
        let others = rest.len() + self.others;
        if others > 0 && !self.summed {
            self.summed = true;
            self.others = 0;
            for client in &rest {
                self.waiting.remove(client);
            }
            let clients = if others == 1 { "client was" } else { "clients were" };
            let text = format!("and {others} other {clients} denied something; `mqttctl denies {flags}` says more");
            notes.push(Note { reason: "Denied", text });
        }
        notes
    }
}

fn note(waiting: &Waiting, flags: &str) -> Note {
    let Waiting { times, last } = waiting;
    let mut text = format!("client \"{}\"", shown(&last.client_id, ID));
    if let Some(principal) = &last.principal {
        let _ = write!(text, " ({})", shown(principal, ID));
    }
    let reason = if last.action == "connect" { "ConnectRefused" } else { "Denied" };
    if last.topic.is_empty() {
        let _ = write!(text, " {}", shown(&last.action, ID));
    } else {
        let _ = write!(text, " {} \"{}\"", shown(&last.action, ID), shown(&last.topic, TOPIC));
    }
    let _ = write!(text, ": {}", shown(&last.why, WHY));
    if text.len() > WORDS {
        let end = (0..=WORDS).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    if *times > 1 {
        let _ = write!(text, "; {times} times or more");
    }
    let client = argument(&last.client_id).map(|client| format!(" --client {client}")).unwrap_or_default();
    let _ = write!(text, ". `mqttctl denies {flags}{client}` says more");
    Note { reason, text }
}

/// A text of a client, cut, and with everything written out that is not simply seen.
fn shown(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (at, character) in text.chars().enumerate() {
        if at == most {
            out.push('…');
            break;
        }
        // `escape_debug` knows what is not printable, such as marks that turn the direction of writing around.
        let plain = matches!(character, '\'' | '"' | '\\') || character.escape_debug().len() == 1;
        if plain && character != '`' { out.push(character) } else { out.extend(character.escape_unicode()) }
    }
    out
}

/// A client id as a shell takes it; nothing for one that is better not pasted into a shell.
fn argument(text: &str) -> Option<String> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:@%+=,".contains(character);
    let printable = |character: char| character.is_ascii_graphic() && !"'`\\".contains(character) || character == ' ';
    if text.is_empty() || text.chars().count() > ID || !text.chars().all(printable) {
        return None;
    }
    let bare = text.chars().all(plain) && !text.starts_with('-');
    Some(if bare { text.to_owned() } else { format!("'{text}'") }).filter(|_| !text.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &str = "-n shop -b home";

    fn deny(client: &str, topic: &str) -> Deny {
        Deny {
            number: 1,
            time: jiff::Timestamp::UNIX_EPOCH,
            client_id: client.into(),
            principal: Some("user:u".into()),
            method: "jwt".into(),
            key_id: None,
            address: None,
            action: "publish".into(),
            topic: topic.into(),
            why: "no rule allows it".into(),
            reason: None,
            repeats: 0,
        }
    }

    fn texts(notes: &[Note]) -> Vec<&str> {
        notes.iter().map(|note| note.text.as_str()).collect()
    }

    #[test]
    fn a_client_is_named_once_a_minute_with_how_often_it_was_denied() {
        let mut told = Told::default();
        told.take("a", vec![deny("dev1", "x"), Deny { repeats: 40, ..deny("dev1", "y") }], 2);
        assert_eq!(
            texts(&told.say(FLAGS, 1000)),
            [
                "client \"dev1\" (user:u) publish \"y\": no rule allows it; 42 times or more. `mqttctl denies -n shop -b home \
              --client dev1` says more"
            ]
        );
        told.take("a", vec![deny("dev1", "z"), deny("dev2", "z")], 4);
        assert_eq!(told.say(FLAGS, 1030).len(), 1, "only the other client");
        assert_eq!(told.say(FLAGS, 1059).len(), 0);
        assert!(told.say(FLAGS, 1060)[0].text.contains(r#"client "dev1" (user:u) publish "z": no rule allows it. `"#));
        assert_eq!(told.say(FLAGS, 1200), []);
    }

    #[test]
    fn a_flood_by_many_clients_is_ten_events_and_a_sum_a_minute() {
        let mut told = Told::default();
        told.take("a", (0..47).map(|n| deny(&format!("c{n}"), "x")).collect(), 47);
        let notes = told.say(FLAGS, 1000);
        assert_eq!(notes.len(), 11);
        assert_eq!(
            notes[10].text,
            "and 37 other clients were denied something; `mqttctl denies -n shop -b home` says more"
        );
        told.take("a", (100..5000).map(|n| deny(&format!("c{n}"), "x")).collect(), 5000);
        assert_eq!(told.say(FLAGS, 1030), []);
        assert!(told.waiting.len() <= REMEMBERED);
        let notes = told.say(FLAGS, 1061);
        assert_eq!((notes.len(), notes[10].text.starts_with("and 4890 other")), (11, true), "{notes:?}");
        assert!(told.waiting.is_empty());
    }

    #[test]
    fn a_pod_is_read_on_and_one_that_was_restarted_from_the_beginning() {
        let mut told = Told::default();
        assert_eq!((told.after("a", 0), told.after("a", 7)), (None, Some(0)));
        told.take("a", vec![], 7);
        assert_eq!((told.after("a", 7), told.after("a", 9), told.after("b", 3)), (None, Some(7), Some(0)));
        assert_eq!((told.after("a", 2), told.after("a", 0)), (Some(0), None), "the container was restarted");
        told.keep(&["b"]);
        assert_eq!(told.after("a", 7), Some(0));
    }

    #[test]
    fn what_a_client_calls_itself_cannot_pass_for_our_words_and_the_note_has_its_size() {
        let hostile = "a`\n\u{1b}[2J\u{202e}; rm -rf $HOME";
        let mut told = Told::default();
        told.take("a", vec![Deny { action: "connect".into(), topic: String::new(), ..deny(hostile, "") }], 1);
        let note = told.say(FLAGS, 1000).remove(0);
        assert_eq!(note.reason, "ConnectRefused");
        assert_eq!(
            note.text,
            "client \"a\\u{60}\\u{a}\\u{1b}[2J\\u{202e}; rm -rf $HOME\" (user:u) connect: no rule allows it. `mqttctl denies \
             -n shop -b home` says more"
        );
        let long = "\u{1}".repeat(5000);
        let deny = Deny { client_id: long.clone(), topic: long.clone(), why: "w".repeat(5000), ..deny("c", "") };
        told.take("a", vec![Deny { principal: Some("ä".repeat(500)), ..deny }], 2);
        let longest = told.say(&format!("-n {} -b {}", "n".repeat(63), "b".repeat(40)), 2000).remove(0).text;
        assert!(!longest.contains(char::is_control) && longest.len() <= 1024, "{longest}");
        assert_eq!(argument("dev 1").as_deref(), Some("'dev 1'"));
        assert_eq!((argument("it's"), argument("--all"), argument("$(x)").as_deref()), (None, None, Some("'$(x)'")));
    }
}
