//! What of the journal is still needed, and where it stands. Pure.
//!
//! Records are applied in their order, after they are synced; recovery applies them again from the start. The index
//! holds places instead of bytes: of a delivery waiting on disk it costs 24 bytes, of a message 48. It answers what a
//! segment still holds ([`Index::copy`]), so that the oldest can be copied to the end and removed.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::Arc;

use super::record::{EXTRA, Left, ReadTarget, Record, Records, Reference, Target, Targets, Way};
use crate::mqtt::PacketId;
use crate::store::Via;

mod session;

use session::Flags;
pub use session::{Extra, Held, Session, Waiting};

/// Messages without a delivery that are remembered for a while, because one session may hand a message to another.
const LINGER: usize = 16 * 1024;
/// Sessions that ended and are remembered for a while, because publishers may not have known.
const ENDED: usize = 64 * 1024;
/// Per session: what is remembered of deliveries that were over before they were said to begin.
const EARLY: usize = 64 * 1024;
/// What a delivery costs on disk that has a record apart from its message's, and an identifier of QoS 2.
const APART: u64 = 16;
const NO_SLOT: u32 = u32::MAX;

/// A frame of the journal. Segment 0 is nowhere: segments are counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub segment: u32,
    pub offset: u32,
    pub length: u32,
}

impl Place {
    pub fn is_nowhere(self) -> bool {
        self.segment == 0
    }
}

/// Hashes keys that we count ourselves, so nobody can choose them badly.
#[derive(Debug, Default)]
pub struct Counted(u64);

impl Hasher for Counted {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        let product = u128::from(self.0 ^ key) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

type ByCount<T> = HashMap<u64, T, BuildHasherDefault<Counted>>;

/// A message that something refers to, or did.
#[derive(Debug, Default)]
struct Slot {
    id: u64,
    place: Place,
    references: u32,
    lingers: bool,
}

/// What is needed of the journal.
#[derive(Debug)]
pub struct Index {
    slots: Vec<Slot>,
    free: Vec<u32>,
    messages: ByCount<u32>,
    sessions: ByCount<Session>,
    /// By the hash of the topic: the same text twice with keys that nobody knows.
    retained: HashMap<u128, u32>,
    /// Topics that retain nothing any more, remembered for a while with the number up to which that holds.
    unretained: HashMap<u128, (u64, Place)>,
    unretained_order: VecDeque<u128>,
    hashers: [RandomState; 2],
    lingering: VecDeque<u32>,
    ended: HashSet<u64, BuildHasherDefault<Counted>>,
    ended_order: VecDeque<u64>,
    /// Tombstones that stand before what they kill, and are to be written again: they must outlive it.
    owed: Vec<Owed>,
    /// Bytes that are needed, of all segments and of each.
    live: u64,
    by_segment: ByCount<u64>,
    pub last_session: u64,
    pub last_message: u64,
    /// Segments before this one are not needed.
    pub first: u32,
}

#[derive(Debug)]
enum Owed {
    Delivery { key: u64, seq: u64, over: bool },
    Unretained { topic: Box<str>, id: u64 },
}

impl Index {
    /// An empty one; what the hashers are made with is random.
    pub fn new(hashers: [RandomState; 2]) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            messages: Default::default(),
            sessions: Default::default(),
            retained: HashMap::new(),
            unretained: HashMap::new(),
            unretained_order: VecDeque::new(),
            hashers,
            lingering: VecDeque::new(),
            ended: Default::default(),
            ended_order: VecDeque::new(),
            owed: Vec::new(),
            live: 0,
            by_segment: Default::default(),
            last_session: 0,
            last_message: 0,
            first: 1,
        }
    }

    /// The sessions, those included of which only others have spoken.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = (u64, &Session)> {
        self.sessions.iter().map(|(key, session)| (*key, session))
    }

    /// Where messages stand that something refers to, by slot.
    pub fn messages(&self) -> impl Iterator<Item = (u32, Place)> {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.references > 0).map(|(at, slot)| (at as u32, slot.place))
    }

    /// One more than the highest slot.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How many messages, sessions and subscriptions stand in a segment and nowhere else.
    pub fn only_in(&self, segment: u32) -> usize {
        let messages = self.messages().filter(|(_, place)| place.segment == segment).count();
        let of_sessions = self.sessions.values().flat_map(|it| it.subscriptions().chain([it.place]));
        messages + of_sessions.filter(|place| place.segment == segment).count()
    }

    /// The slots of what topics retain.
    pub fn retained(&self) -> impl Iterator<Item = u32> {
        self.retained.values().copied()
    }

    /// Bytes of records that are needed.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Bytes that are needed of a segment.
    pub fn live_of(&self, segment: u32) -> u64 {
        self.by_segment.get(&u64::from(segment)).copied().unwrap_or(0)
    }

    /// About how much memory it takes.
    pub fn memory(&self) -> usize {
        const MAP: usize = 2;
        self.slots.capacity() * size_of::<Slot>()
            + self.messages.capacity() * (16 + MAP)
            + self.sessions.capacity() * (size_of::<Session>() + 8 + MAP)
            // Deliveries are most of what refers to messages; their queues grow by doubling.
            + self.messages.len() * (size_of::<Waiting>() * 3 / 2)
            + self.retained.capacity() * (32 + MAP)
            + (self.lingering.capacity() + self.ended_order.capacity() * 2) * 8
    }

    /// Applies what happened; its record stands at `place`.
    pub fn apply(&mut self, record: &Record<'_>, place: Place) {
        match *record {
            Record::Session { key, away, .. } => self.session(key, away, place),
            Record::Away { key, left } => {
                if let Some(session) = self.known(key) {
                    session.away = Some(left);
                }
            }
            Record::Ended { key } => self.end_session(key),
            Record::Subscribed { key, filter, .. } => self.subscribe(key, filter, place),
            Record::Unsubscribed { key, filter } => self.unsubscribe(key, filter),
            Record::Published { message, inbound, retained, ref targets } => {
                let slot = self.place_message(message.id, place);
                if let Some((key, id)) = inbound {
                    self.set_inbound(key, id);
                }
                if retained {
                    let topic = &message.bytes[..message.topic_length];
                    self.retain(topic, slot, message.id);
                }
                self.deliver(slot, targets, false);
                self.release(slot);
            }
            Record::Queued { message, ref targets } => {
                let slot = self.slot(message);
                self.deliver(slot, targets, true);
                self.release(slot);
            }
            Record::Inbound { key, id } => self.set_inbound(key, id),
            Record::Released { key, id } => {
                if let Some(session) = self.known(key)
                    && let Ok(at) = session.inbound.binary_search(&id)
                {
                    session.inbound.remove(at);
                    self.live = self.live.saturating_sub(APART);
                }
            }
            Record::Unretained { topic, id } => self.unretain(topic, id, place),
            Record::Extra { .. } => self.add_extra(record, place),
            Record::Received { key, seq } => self.receive(key, seq),
            Record::Done { key, seqs } => seqs.iter().for_each(|seq| self.done(key, seq)),
            Record::Trimmed { first } | Record::Opened { first, .. } => self.first = self.first.max(first),
            Record::Synced => {}
        }
    }

    fn hash_topic(&self, topic: &[u8]) -> u128 {
        let [one, other] = &self.hashers;
        u128::from(one.hash_one(topic)) << 64 | u128::from(other.hash_one(topic))
    }

    fn count(&mut self, place: Place, sign: i64) {
        if place.is_nowhere() {
            return;
        }
        let bytes = i64::from(place.length) * sign;
        self.live = self.live.saturating_add_signed(bytes);
        let of = self.by_segment.entry(place.segment.into()).or_default();
        *of = of.saturating_add_signed(bytes);
        if *of == 0 {
            self.by_segment.remove(&u64::from(place.segment));
        }
    }

    /// The session, unless it has ended. One that nobody has spoken of is made: its own record may come later.
    fn known(&mut self, key: u64) -> Option<&mut Session> {
        self.last_session = self.last_session.max(key);
        match self.sessions.entry(key) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(_) if self.ended.contains(&key) => None,
            Entry::Vacant(unknown) => Some(unknown.insert(Session::default())),
        }
    }

    fn session(&mut self, key: u64, away: Option<Left>, place: Place) {
        let Some(session) = self.known(key) else { return };
        session.away = away;
        let before = std::mem::replace(&mut session.place, place);
        self.count(before, -1);
        self.count(place, 1);
    }

    fn end_session(&mut self, key: u64) {
        self.last_session = self.last_session.max(key);
        if self.ended.insert(key) {
            self.ended_order.push_back(key);
        }
        if self.ended_order.len() > ENDED
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        let Some(session) = self.sessions.remove(&key) else { return };
        self.count(session.place, -1);
        self.live = self.live.saturating_sub(session.inbound.len() as u64 * APART);
        for (_, place) in session.subscriptions {
            self.count(place, -1);
        }
        for entry in session.queue {
            self.give_up(entry.slot, entry.flags);
        }
        for extra in session.rare.map(|rare| rare.extras).unwrap_or_default() {
            self.give_up(extra.entry.slot, extra.entry.flags);
        }
    }

    fn give_up(&mut self, slot: u32, flags: Flags) {
        if slot == NO_SLOT {
            return;
        }
        if flags.apart {
            self.live = self.live.saturating_sub(APART);
        }
        self.release(slot);
    }

    fn subscribe(&mut self, key: u64, filter: &str, place: Place) {
        let hash = self.hashers[0].hash_one(filter);
        let Some(session) = self.known(key) else { return };
        let before = match session.subscriptions.binary_search_by_key(&hash, |it| it.0) {
            Ok(at) => std::mem::replace(&mut session.subscriptions[at].1, place),
            Err(at) => {
                session.subscriptions.insert(at, (hash, place));
                Place::default()
            }
        };
        self.count(before, -1);
        self.count(place, 1);
    }

    fn unsubscribe(&mut self, key: u64, filter: &str) {
        let hash = self.hashers[0].hash_one(filter);
        let Some(session) = self.known(key) else { return };
        if let Ok(at) = session.subscriptions.binary_search_by_key(&hash, |it| it.0) {
            let (_, place) = session.subscriptions.remove(at);
            self.count(place, -1);
        }
    }

    fn set_inbound(&mut self, key: u64, id: PacketId) {
        if let Some(session) = self.known(key)
            && let Err(at) = session.inbound.binary_search(&id)
        {
            session.inbound.insert(at, id);
            self.live += APART;
        }
    }

    /// A slot that is held once more, by the caller, who releases it.
    fn slot(&mut self, id: u64) -> u32 {
        self.last_message = self.last_message.max(id);
        if id != 0
            && let Some(slot) = self.messages.get(&id).copied()
        {
            self.hold(slot);
            return slot;
        }
        let new = Slot { id, references: 1, ..Slot::default() };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = new;
            slot
        } else {
            self.slots.push(new);
            self.slots.len() as u32 - 1
        };
        if id != 0 {
            self.messages.insert(id, slot);
        }
        slot
    }

    /// The slot of a message whose bytes stand at `place`, held by the caller.
    fn place_message(&mut self, id: u64, place: Place) -> u32 {
        let slot = self.slot(id);
        self.move_to(slot, place);
        slot
    }

    fn move_to(&mut self, slot: u32, place: Place) {
        let before = std::mem::replace(&mut self.slots[slot as usize].place, place);
        if self.slots[slot as usize].references > 0 {
            self.count(before, -1);
            self.count(place, 1);
        }
    }

    fn hold(&mut self, slot: u32) {
        let held = &mut self.slots[slot as usize];
        held.references += 1;
        if held.references == 1 {
            let place = held.place;
            self.count(place, 1);
        }
    }

    fn release(&mut self, slot: u32) {
        let held = &mut self.slots[slot as usize];
        held.references -= 1;
        if held.references > 0 {
            return;
        }
        let (place, lingers, id) = (held.place, held.lingers, held.id);
        self.count(place, -1);
        if id == 0 {
            self.free.push(slot);
        } else if !lingers {
            self.slots[slot as usize].lingers = true;
            self.lingering.push_back(slot);
            if self.lingering.len() > LINGER {
                self.forget_one();
            }
        }
    }

    fn forget_one(&mut self) {
        let Some(slot) = self.lingering.pop_front() else { return };
        let oldest = &mut self.slots[slot as usize];
        oldest.lingers = false;
        if oldest.references == 0 {
            self.messages.remove(&oldest.id);
            self.free.push(slot);
        }
    }

    fn retain(&mut self, topic: &[u8], slot: u32, id: u64) {
        let hash = self.hash_topic(topic);
        if let Some((until, _)) = self.unretained.get(&hash).filter(|(until, _)| *until > id) {
            if let Ok(topic) = std::str::from_utf8(topic) {
                self.owed.push(Owed::Unretained { topic: topic.into(), id: *until });
            }
            return;
        }
        self.unretained.remove(&hash);
        if self.retained.get(&hash).is_some_and(|now| self.slots[*now as usize].id > id) {
            return;
        }
        self.hold(slot);
        if let Some(before) = self.retained.insert(hash, slot) {
            self.release(before);
        }
    }

    fn unretain(&mut self, topic: &str, id: u64, place: Place) {
        self.last_message = self.last_message.max(id);
        let hash = self.hash_topic(topic.as_bytes());
        if self.retained.get(&hash).is_some_and(|now| self.slots[*now as usize].id > id) {
            return;
        }
        if let Some(slot) = self.retained.remove(&hash) {
            self.release(slot);
        }
        if self.unretained.get(&hash).is_some_and(|(until, _)| *until > id) {
            return;
        }
        if self.unretained.insert(hash, (id, place)).is_none() {
            self.unretained_order.push_back(hash);
        }
        if self.unretained_order.len() > LINGER
            && let Some(oldest) = self.unretained_order.pop_front()
        {
            self.unretained.remove(&oldest);
        }
    }

    fn deliver(&mut self, slot: u32, targets: &Targets<'_>, apart: bool) {
        let mut last = None;
        for target in targets.iter() {
            let via = match target.way {
                Way::Plain => None,
                Way::Same => last.clone(),
                Way::Via(parts) => {
                    last = Some(Arc::new(parts.to_via()));
                    last.clone()
                }
            };
            self.deliver_one(slot, &target, via, apart);
        }
    }

    fn deliver_one(&mut self, slot: u32, target: &ReadTarget<'_>, via: Option<Arc<Via>>, apart: bool) {
        let ReadTarget { session: key, seq, qos, retain, mut received, .. } = *target;
        let Some(session) = self.known(key) else { return };
        session.last_seq = session.last_seq.max(seq);
        let early = session.take_early(seq);
        received |= early.is_some();
        let mut new = false;
        match session.at(seq) {
            _ if early == Some(true) => {}
            // A copy. What was received stays so.
            Ok(at) => session.queue[at].flags.received |= received,
            Err(at) => {
                new = true;
                let waiting = Waiting { seq, via, slot, flags: Flags { qos, retain, received, apart } };
                if at == session.queue.len() {
                    session.queue.push_back(waiting);
                } else {
                    session.queue.insert(at, waiting);
                }
            }
        }
        if let Some(over) = early {
            self.owed.push(Owed::Delivery { key, seq, over });
        }
        if new {
            self.hold(slot);
            self.live += if apart { APART } else { 0 };
        }
    }

    fn add_extra(&mut self, record: &Record<'_>, place: Place) {
        let Record::Extra { key, number, before, message, qos, retain, via, mut received } = *record else { return };
        let Some(session) = self.known(key) else { return };
        session.last_extra = session.last_extra.max(number);
        if let Some(at) = session.extra(number) {
            // A copy: its bytes stand here now, if they are its own.
            let extra = &mut session.rare.get_or_insert_default().extras[at];
            extra.entry.flags.received |= received;
            let slot = extra.entry.slot;
            if let Reference::Bytes(_) = message {
                self.move_to(slot, place);
            }
            return;
        }
        if let Some(over) = session.take_early(number | EXTRA) {
            received = true;
            self.owed.push(Owed::Delivery { key, seq: number | EXTRA, over });
            if over {
                return;
            }
        }
        let slot = match message {
            Reference::Number(id) => self.slot(id),
            Reference::Bytes(stored) => self.place_message(stored.id, place),
        };
        self.live += APART;
        let flags = Flags { qos, retain, received, apart: true };
        let via = via.map(|via| Arc::new(via.to_via()));
        let extra = Extra { number, before, entry: Waiting { seq: number | EXTRA, via, slot, flags } };
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let extras = &mut session.rare.get_or_insert_default().extras;
        let at = extras.partition_point(|other| other.number < number);
        extras.insert(at, extra);
    }

    fn receive(&mut self, key: u64, seq: u64) {
        let Some(session) = self.known(key) else { return };
        session.mention(seq);
        if seq & EXTRA != 0 {
            match session.extra(seq & !EXTRA) {
                Some(at) => session.rare.get_or_insert_default().extras[at].entry.flags.received = true,
                None => session.early(seq, false),
            }
            return;
        }
        match session.at(seq) {
            Ok(at) => session.queue[at].flags.received = true,
            Err(_) => session.early(seq, false),
        }
    }

    fn done(&mut self, key: u64, seq: u64) {
        let Some(session) = self.known(key) else { return };
        session.mention(seq);
        let ended = if seq & EXTRA != 0 {
            let Some(at) = session.extra(seq & !EXTRA) else { return session.early(seq, true) };
            let extra = session.rare.get_or_insert_default().extras.remove(at);
            Some((extra.entry.slot, extra.entry.flags))
        } else {
            let Ok(at) = session.at(seq) else { return session.early(seq, true) };
            session.end(at)
        };
        if let Some((slot, flags)) = ended {
            self.give_up(slot, flags);
        }
    }

    /// Says again what was said too early; answers whether there was anything.
    pub fn say_owed(&mut self, into: &mut Records) -> bool {
        let any = !self.owed.is_empty();
        for owed in self.owed.drain(..) {
            match owed {
                Owed::Delivery { key, seq, over: true } => into.done(key, seq),
                Owed::Delivery { key, seq, over: false } => into.received(key, seq),
                Owed::Unretained { topic, id } => into.unretained(&topic, id),
            }
        }
        any
    }

    /// Says again what of the record at `place` is still needed.
    pub fn copy(&self, record: &Record<'_>, place: Place, into: &mut Records) {
        match *record {
            Record::Session { key, client_id, expiry, window, about, .. } => {
                if let Some(session) = self.sessions.get(&key).filter(|session| session.place == place) {
                    into.put_session(key, client_id, expiry, window, about, session.away);
                }
            }
            Record::Subscribed { key, filter, ref subscription } => {
                let here = (self.hashers[0].hash_one(filter), place);
                if self.sessions.get(&key).is_some_and(|session| session.subscriptions.binary_search(&here).is_ok()) {
                    into.subscribed(key, filter, subscription);
                }
            }
            Record::Published { message, inbound, ref targets, .. } => {
                if let Some((key, id)) = inbound {
                    self.copy_inbound(key, id, into);
                }
                let Some(slot) = self.messages.get(&message.id).copied() else { return };
                let held = &self.slots[slot as usize];
                let needed = self.needed(slot, targets);
                if held.references > 0 && held.place == place {
                    let topic = self.hash_topic(&message.bytes[..message.topic_length]);
                    let retained = self.retained.get(&topic) == Some(&slot);
                    into.put_published(&message, None, retained, needed.iter().map(|it| (&it.0, it.1)));
                } else if !needed.is_empty() {
                    into.put_queued(message.id, needed.iter().map(|it| (&it.0, it.1)));
                }
            }
            Record::Queued { message, ref targets } => {
                let Some(slot) = self.messages.get(&message).copied() else { return };
                let needed = self.needed(slot, targets);
                if !needed.is_empty() {
                    into.put_queued(message, needed.iter().map(|it| (&it.0, it.1)));
                }
            }
            Record::Inbound { key, id } => self.copy_inbound(key, id, into),
            Record::Extra { key, number, message, .. } => {
                let Some(session) = self.sessions.get(&key) else { return };
                let Some(extra) = session.extra(number).map(|at| &session.extras()[at]) else { return };
                let own = matches!(message, Reference::Bytes(_));
                if !own || self.slots[extra.entry.slot as usize].place == place {
                    into.copy_extra(record, extra.entry.flags.received);
                }
            }
            // A publisher that was earlier may write later.
            Record::Unretained { topic, id } => {
                let remembered = self.unretained.get(&self.hash_topic(topic.as_bytes()));
                if remembered == Some(&(id, place)) {
                    into.unretained(topic, id);
                }
            }
            Record::Received { key, seq } if self.is_early(key, seq) == Some(false) => into.received(key, seq),
            Record::Done { key, seqs } => {
                seqs.iter().filter(|seq| self.is_early(key, *seq) == Some(true)).for_each(|seq| into.done(key, seq));
            }
            // Tombstones go with what they killed, which stood here or before.
            _ => {}
        }
    }

    fn copy_inbound(&self, key: u64, id: PacketId, into: &mut Records) {
        if self.sessions.get(&key).is_some_and(|session| session.inbound.binary_search(&id).is_ok()) {
            into.inbound(key, id);
        }
    }

    fn is_early(&self, key: u64, seq: u64) -> Option<bool> {
        self.sessions.get(&key)?.rare.as_ref()?.early.get(&seq).copied()
    }

    /// The targets that are not over, and whether they were received.
    fn needed(&self, slot: u32, targets: &Targets<'_>) -> Vec<(Target, bool)> {
        let entry = |target: &Target| self.sessions.get(&target.session)?.find(target.seq).filter(|it| it.slot == slot);
        targets
            .targets()
            .filter_map(|target| entry(&target).map(|it| it.flags.received).map(|it| (target, it)))
            .collect()
    }
}
