//! What the journal should hold, kept in the simplest way, and histories that look like a broker's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::mqtt::packet::{RetainHandling, SubscriptionOptions};
use crate::mqtt::{PacketId, QoS};
use crate::store::journal::disk::simulated::Dice;
use crate::store::journal::{EXTRA, Records, Recovered, Target};
use crate::store::{Delivery, Message, Stored, Subscription, Via};

/// A delivery, so that it can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub payload: Vec<u8>,
    pub qos: QoS,
    pub retain: bool,
    pub via: Option<Via>,
    pub received: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelSession {
    pub client_id: String,
    pub expiry: u32,
    pub away: Option<(u64, u64)>,
    pub subscriptions: BTreeMap<String, Subscription>,
    pub inbound: BTreeSet<PacketId>,
    pub queue: BTreeMap<u64, Waiting>,
    pub extras: BTreeMap<u64, (u64, Waiting)>,
}

/// Everything that outlives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub sessions: BTreeMap<u64, ModelSession>,
    /// Payloads by topic.
    pub retained: BTreeMap<String, Vec<u8>>,
    /// Deliveries that were over, or received, before they began.
    early: BTreeMap<(u64, u64), bool>,
    /// The number of the message that decided last what a topic retains.
    decided: BTreeMap<String, u64>,
}

/// What happens: one record each.
#[derive(Clone, Debug)]
pub enum Event {
    Session(u64, u32),
    Away(u64, u64, u32, u64),
    Ended(u64),
    Subscribed(u64, String, Subscription),
    Unsubscribed(u64, String),
    Published(Arc<Message>, Option<(u64, PacketId)>, bool, Vec<Target>),
    Queued(Arc<Message>, Vec<Target>),
    Inbound(u64, PacketId),
    Released(u64, PacketId),
    Unretained(String, u64),
    Extra(u64, u64, u64, Arc<Message>),
    Received(u64, u64),
    Done(u64, u64),
}

impl Event {
    pub fn record(&self, into: &mut Records) {
        match self {
            Self::Session(key, expiry) => into.session(*key, &format!("client {key}"), *expiry, 7, b"about"),
            Self::Away(key, since, expiry, sent) => into.away(*key, *since, *expiry, *sent),
            Self::Ended(key) => into.ended(*key),
            Self::Subscribed(key, filter, subscription) => into.subscribed(*key, filter, subscription),
            Self::Unsubscribed(key, filter) => into.unsubscribed(*key, filter),
            Self::Published(message, inbound, retained, targets) => {
                into.published(message, *inbound, *retained, targets);
            }
            Self::Queued(message, targets) => into.queued(message, targets),
            Self::Inbound(key, id) => into.inbound(*key, *id),
            Self::Released(key, id) => into.released(*key, *id),
            Self::Unretained(topic, id) => into.unretained(topic, *id),
            Self::Extra(key, number, before, message) => {
                into.extra(*key, *number, *before, message, QoS::AtLeastOnce, true, None);
            }
            Self::Received(key, seq) => into.received(*key, *seq),
            Self::Done(key, seq) => into.done(*key, *seq),
        }
    }
}

impl Model {
    fn deliver(&mut self, message: &Message, target: &Target) {
        let early = self.early.remove(&(target.session, target.seq));
        let Some(session) = self.sessions.get_mut(&target.session) else { return };
        if early == Some(true) {
            return;
        }
        let waiting = Waiting {
            payload: message.payload().to_vec(),
            qos: target.qos,
            retain: target.retain,
            via: target.via.as_deref().cloned(),
            received: early.is_some(),
        };
        session.queue.insert(target.seq, waiting);
    }

    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Session(key, expiry) => {
                let session = self.sessions.entry(*key).or_default();
                (session.client_id, session.expiry, session.away) = (format!("client {key}"), *expiry, None);
            }
            Event::Ended(key) => {
                self.sessions.remove(key);
            }
            Event::Published(message, inbound, retained, targets) => {
                if let Some((key, id)) = inbound
                    && let Some(session) = self.sessions.get_mut(key)
                {
                    session.inbound.insert(*id);
                }
                let id = message.stored().id;
                if *retained && self.decided.get(message.topic()).is_none_or(|decided| id > *decided) {
                    self.decided.insert(message.topic().to_owned(), id);
                    self.retained.insert(message.topic().to_owned(), message.payload().to_vec());
                }
                for target in targets {
                    self.deliver(message, target);
                }
            }
            Event::Queued(message, targets) => {
                for target in targets {
                    self.deliver(message, target);
                }
            }
            Event::Unretained(topic, id) => {
                if self.decided.get(topic).is_none_or(|decided| id > decided) {
                    self.decided.insert(topic.clone(), *id);
                    self.retained.remove(topic);
                }
            }
            Event::Away(key, ..)
            | Event::Subscribed(key, ..)
            | Event::Unsubscribed(key, ..)
            | Event::Inbound(key, ..)
            | Event::Released(key, ..)
            | Event::Extra(key, ..)
            | Event::Received(key, ..)
            | Event::Done(key, ..) => {
                let key = *key;
                if let Some(mut session) = self.sessions.remove(&key) {
                    self.apply_to(key, &mut session, event);
                    self.sessions.insert(key, session);
                }
            }
        }
    }

    fn apply_to(&mut self, key: u64, session: &mut ModelSession, event: &Event) {
        match event {
            Event::Away(_, since, expiry, sent) => {
                (session.away, session.expiry) = (Some((*since, *sent)), *expiry);
            }
            Event::Subscribed(_, filter, subscription) => {
                session.subscriptions.insert(filter.clone(), *subscription);
            }
            Event::Unsubscribed(_, filter) => {
                session.subscriptions.remove(filter);
            }
            Event::Inbound(_, id) => {
                session.inbound.insert(*id);
            }
            Event::Released(_, id) => {
                session.inbound.remove(id);
            }
            Event::Extra(_, number, before, message) => {
                let payload = message.payload().to_vec();
                let waiting = Waiting { payload, qos: QoS::AtLeastOnce, retain: true, via: None, received: false };
                session.extras.insert(*number, (*before, waiting));
            }
            Event::Received(_, seq) if seq & EXTRA != 0 => {
                if let Some(extra) = session.extras.get_mut(&(seq & !EXTRA)) {
                    extra.1.received = true;
                }
            }
            Event::Received(_, seq) => match session.queue.get_mut(seq) {
                Some(waiting) => waiting.received = true,
                None => *self.early.entry((key, *seq)).or_default() |= false,
            },
            Event::Done(_, seq) if seq & EXTRA != 0 => {
                session.extras.remove(&(seq & !EXTRA));
            }
            Event::Done(_, seq) if session.queue.remove(seq).is_none() => {
                self.early.insert((key, *seq), true);
            }
            _ => {}
        }
    }

    /// Where two differ.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let keys: BTreeSet<_> = self.sessions.keys().chain(other.sessions.keys()).collect();
        for key in keys {
            let (Some(one), Some(two)) = (self.sessions.get(key), other.sessions.get(key)) else {
                let has = self.sessions.contains_key(key);
                lines.push(format!("session {key}: only the {} has it", if has { "first" } else { "second" }));
                continue;
            };
            let seqs: BTreeSet<_> = one.queue.keys().chain(two.queue.keys()).collect();
            let differing = |seq: &&&u64| one.queue.get(**seq) != two.queue.get(**seq);
            for seq in seqs.iter().filter(differing) {
                lines.push(format!("session {key}, {seq}: {:?} and {:?}", one.queue.get(*seq), two.queue.get(*seq)));
            }
            let rest = |it: &ModelSession| ModelSession { queue: BTreeMap::new(), ..it.clone() };
            if rest(one) != rest(two) {
                lines.push(format!("session {key}: {:?} and {:?}", rest(one), rest(two)));
            }
        }
        if self.retained != other.retained {
            lines.push(format!("retained: {:?} and {:?}", self.retained, other.retained));
        }
        lines
    }

    /// Without what only the future would need.
    pub fn restarted(&self) -> Self {
        Self { early: BTreeMap::new(), decided: BTreeMap::new(), ..self.clone() }
    }

    /// What was recovered, as a model.
    pub fn of(recovered: &Recovered) -> Self {
        let waiting = |delivery: &Delivery, received| Waiting {
            payload: delivery.message.payload().to_vec(),
            qos: delivery.qos,
            retain: delivery.retain,
            via: delivery.via.as_deref().cloned(),
            received,
        };
        let mut model = Self::default();
        for message in &recovered.retained {
            assert!(model.retained.insert(message.topic().to_owned(), message.payload().to_vec()).is_none());
        }
        for session in &recovered.sessions {
            assert!(session.queue.is_sorted_by_key(|outstanding| outstanding.seq), "in order");
            assert!(session.queue.iter().all(|outstanding| outstanding.seq < session.next_seq));
            assert!(session.extras.iter().all(|extra| extra.number < session.next_extra));
            assert_eq!((session.window, &*session.about), (7, &b"about"[..]));
            assert!(session.key <= recovered.last_session);
            let queue = session.queue.iter().map(|it| (it.seq, waiting(&it.delivery, it.received)));
            let extras = session.extras.iter().map(|it| (it.number, (it.before, waiting(&it.delivery, it.received))));
            let subscriptions = session.subscriptions.iter().map(|(filter, it)| (filter.to_string(), *it));
            let as_model = ModelSession {
                client_id: session.client_id.to_string(),
                expiry: session.expiry,
                away: session.away.map(|away| (away.since, away.sent_seq)),
                subscriptions: subscriptions.collect(),
                inbound: session.inbound.iter().copied().collect(),
                queue: queue.collect(),
                extras: extras.collect(),
            };
            model.sessions.insert(session.key, as_model);
        }
        model
    }
}

/// A history that goes on.
#[derive(Debug)]
pub struct History {
    pub dice: Dice,
    next_key: u64,
    next_message: u64,
    next_seq: BTreeMap<u64, u64>,
    /// Outstanding deliveries, and messages, that events may refer to.
    outstanding: Vec<(u64, u64)>,
    messages: Vec<Arc<Message>>,
    /// Deliveries that were ended before they began.
    late: Vec<Event>,
    largest: u64,
}

pub fn message(id: u64, topic: &str, payload: &[u8]) -> Arc<Message> {
    let bytes = [topic.as_bytes(), payload].concat();
    let stored = Stored {
        id,
        bytes: &bytes,
        topic_length: topic.len(),
        properties_length: 0,
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        received_at: id,
        origin: None,
    };
    Arc::new(Message::restore(stored).unwrap())
}

impl History {
    pub fn new(seed: u64, largest: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            next_key: 1,
            next_message: 1,
            next_seq: BTreeMap::new(),
            outstanding: Vec::new(),
            messages: Vec::new(),
            late: Vec::new(),
            largest,
        }
    }

    /// Goes on after a restart with what was found: what was to come later never comes.
    pub fn restart(&mut self, found: &Model) {
        self.late.clear();
        self.messages.clear();
        self.next_seq.retain(|key, _| found.sessions.contains_key(key));
        self.outstanding.retain(|(key, _)| found.sessions.contains_key(key));
    }

    fn key(&mut self) -> u64 {
        let keys: Vec<_> = self.next_seq.keys().copied().collect();
        keys[self.dice.below(keys.len() as u64) as usize]
    }

    fn message(&mut self) -> Arc<Message> {
        let id = self.next_message;
        self.next_message += 1;
        let topic = format!("t/{}", self.dice.below(12));
        let length = if self.dice.one_in(20) { self.largest } else { 1 + self.dice.below(60) };
        let mut payload = id.to_le_bytes().to_vec();
        payload.resize(8 + length as usize, id as u8);
        let message = message(id, &topic, &payload);
        self.messages.push(message.clone());
        if self.messages.len() > 8 {
            self.messages.remove(0);
        }
        message
    }

    fn target(&mut self) -> Target {
        let session = self.key();
        let seq = *self.next_seq.entry(session).and_modify(|next| *next += 1).or_insert(1);
        let share = self.dice.one_in(2).then(|| "$share/g/t/#".into());
        let via = self.dice.one_in(5).then(|| Arc::new(Via { identifiers: vec![1, 300], share }));
        self.outstanding.push((session, seq));
        let qos = if self.dice.one_in(2) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        Target { session, seq, qos, retain: self.dice.one_in(3), via }
    }

    fn targets(&mut self) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        for _ in 0..self.dice.below(4) {
            let target = self.target();
            // A message comes to a session once.
            if targets.iter().all(|other| other.session != target.session) {
                targets.push(target);
            } else {
                self.outstanding.pop();
            }
        }
        targets
    }

    fn subscription(&mut self) -> Subscription {
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: self.dice.one_in(2),
            retain_as_published: self.dice.one_in(2),
            retain_handling: RetainHandling::SendIfNew,
        };
        Subscription { options, identifier: self.dice.one_in(2).then_some(300) }
    }

    fn taken(&mut self) -> Option<(u64, u64)> {
        if self.outstanding.is_empty() {
            return None;
        }
        // Mostly the oldest.
        let among = if self.dice.one_in(4) { self.outstanding.len() as u64 } else { 3 };
        let at = self.dice.below(among.min(self.outstanding.len() as u64)) as usize;
        Some(self.outstanding.remove(at))
    }

    #[expect(clippy::too_many_lines, reason = "a table: what happens how often")]
    pub fn next(&mut self) -> Event {
        if self.dice.one_in(3)
            && let Some(event) = self.late.pop()
        {
            return event;
        }
        if self.next_seq.len() < 3 || self.dice.one_in(60) {
            let key = self.next_key;
            self.next_key += 1;
            self.next_seq.insert(key, 0);
            return Event::Session(key, 60);
        }
        let id = PacketId::new(1 + self.dice.below(5) as u16).unwrap();
        match self.dice.below(40) {
            0 => Event::Session(self.key(), 120),
            1 => Event::Away(self.key(), 1_700_000_000_000, 90, self.dice.below(50)),
            2 if self.dice.one_in(2) && self.next_seq.len() > 3 => {
                let key = self.key();
                self.next_seq.remove(&key);
                self.outstanding.retain(|(session, _)| *session != key);
                Event::Ended(key)
            }
            2 | 3 => {
                let filter = format!("f/{}", self.dice.below(4));
                Event::Subscribed(self.key(), filter, self.subscription())
            }
            4 => Event::Unsubscribed(self.key(), format!("f/{}", self.dice.below(4))),
            5 => Event::Inbound(self.key(), id),
            6 | 7 => Event::Released(self.key(), id),
            8 => {
                self.next_message += 1;
                Event::Unretained(format!("t/{}", self.dice.below(12)), self.next_message - 1)
            }
            27 => {
                // Two retain at once, and the later is written down first.
                let topic = format!("t/{}", self.dice.below(12));
                let (earlier, later) = (self.next_message, self.next_message + 1);
                self.next_message += 2;
                let retained =
                    |id: u64| Event::Published(message(id, &topic, &id.to_le_bytes()), None, true, Vec::new());
                self.late.push(retained(earlier));
                if self.dice.one_in(2) { retained(later) } else { Event::Unretained(topic, later) }
            }
            9 => self.extra(),
            10 => {
                // The subscriber is done before the publisher says that there is something.
                let (message, target) = (self.message(), self.target());
                self.outstanding.pop();
                // Nothing refers to it by its number until then.
                self.messages.pop();
                let (key, seq) = (target.session, target.seq);
                self.late.push(Event::Published(message, None, false, vec![target]));
                if self.dice.one_in(3) { Event::Received(key, seq) } else { Event::Done(key, seq) }
            }
            11 if !self.outstanding.is_empty() => {
                let at = self.dice.below(self.outstanding.len() as u64) as usize;
                let (key, seq) = self.outstanding[at];
                Event::Received(key, seq)
            }
            12..=25 => match self.taken() {
                Some((key, seq)) => Event::Done(key, seq),
                None => self.publish(),
            },
            26 if !self.messages.is_empty() => {
                let at = self.dice.below(self.messages.len() as u64) as usize;
                Event::Queued(self.messages[at].clone(), self.targets())
            }
            _ => self.publish(),
        }
    }

    fn extra(&mut self) -> Event {
        let key = self.key();
        let number = self.next_message;
        self.next_message += 1;
        self.outstanding.push((key, number | EXTRA));
        let with_bytes = self.dice.one_in(2) || self.messages.is_empty();
        let carried = if with_bytes { message(0, "r", &number.to_le_bytes()) } else { self.messages[0].clone() };
        Event::Extra(key, number, self.next_seq[&key] + 1, carried)
    }

    fn publish(&mut self) -> Event {
        let message = self.message();
        let inbound = self.dice.one_in(6).then(|| (self.key(), PacketId::new(3).unwrap()));
        let retained = self.dice.one_in(6);
        Event::Published(message, inbound, retained, self.targets())
    }
}
