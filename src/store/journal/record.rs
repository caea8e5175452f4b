//! What the journal says: one record for one thing that happened. Pure.
//!
//! A [`Records`] holds records ready to be written: frames `length | checksum | payload`, of which the committer fills
//! in the checksum when it knows the segment. A payload is a kind and then fields: numbers of variable length, lowest
//! seven bits first; text and bytes with their length before them. [`decode`] takes nothing for granted.

use std::sync::Arc;

use crate::mqtt::{PacketId, QoS};
use crate::store::{Message, Stored, Subscription, Via};

/// Marks the sequence number of a delivery outside the queue.
pub const EXTRA: u64 = 1 << 63;

/// Bytes before the payload of a frame: its length and its checksum.
pub const FRAME: usize = 8;

/// A delivery of a message to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub session: u64,
    /// Its place in the session's queue: strictly increasing.
    pub seq: u64,
    pub qos: QoS,
    pub retain: bool,
    pub via: Option<Arc<Via>>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A session begins or goes on; its client is connected, unless this is a copy from when it was away.
    Session {
        key: u64,
        client_id: &'a str,
        expiry: u32,
        window: u16,
        about: &'a [u8],
        away: Option<Left>,
    },
    /// The client went away.
    Away {
        key: u64,
        left: Left,
    },
    /// The session and all that belongs to it is gone.
    Ended {
        key: u64,
    },
    Subscribed {
        key: u64,
        filter: &'a str,
        subscription: Subscription,
    },
    Unsubscribed {
        key: u64,
        filter: &'a str,
    },
    /// A message with its bytes, for all its sessions.
    Published {
        message: Stored<'a>,
        inbound: Option<(u64, PacketId)>,
        retained: bool,
        targets: Targets<'a>,
    },
    /// More deliveries of a message whose bytes are elsewhere in the journal.
    Queued {
        message: u64,
        targets: Targets<'a>,
    },
    /// The client of the session has published with QoS 2, and not released it.
    Inbound {
        key: u64,
        id: PacketId,
    },
    Released {
        key: u64,
        id: PacketId,
    },
    /// The topic retains nothing any more, unless it is a message with a greater number: what is retained is decided by
    /// numbers, because publishers may append in another order.
    Unretained {
        topic: &'a str,
        id: u64,
    },
    /// A delivery outside the queue, sent before the queue's `before`.
    Extra {
        key: u64,
        number: u64,
        before: u64,
        message: Reference<'a>,
        qos: QoS,
        retain: bool,
        via: Option<ViaParts<'a>>,
        received: bool,
    },
    /// PUBREC came for this delivery.
    Received {
        key: u64,
        seq: u64,
    },
    /// These deliveries are over.
    Done {
        key: u64,
        seqs: Seqs<'a>,
    },
    /// Everything before this record was synced when it was written.
    Synced,
    /// First in its segment: the one before is `previous`, of which the bytes up to `end` count, and the oldest that
    /// counts is `first`.
    Opened {
        previous: u32,
        end: u32,
        first: u32,
    },
    /// Segments before `first` are not needed any more.
    Trimmed {
        first: u32,
    },
}

/// How a client went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Milliseconds since 1970 UTC.
    pub since: u64,
    /// Seconds that its session outlives the connection.
    pub expiry: u32,
    /// Deliveries of the queue up to this one had been sent.
    pub sent: u64,
}

/// A message, by number or with its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference<'a> {
    Number(u64),
    Bytes(Stored<'a>),
}

mod kind {
    pub const SESSION: u8 = 1;
    pub const AWAY: u8 = 2;
    pub const ENDED: u8 = 3;
    pub const SUBSCRIBED: u8 = 4;
    pub const UNSUBSCRIBED: u8 = 5;
    pub const PUBLISHED: u8 = 6;
    pub const QUEUED: u8 = 7;
    pub const INBOUND: u8 = 8;
    pub const RELEASED: u8 = 9;
    pub const UNRETAINED: u8 = 10;
    pub const EXTRA: u8 = 11;
    pub const RECEIVED: u8 = 12;
    pub const DONE: u8 = 13;
    pub const SYNCED: u8 = 14;
    pub const OPENED: u8 = 15;
    pub const TRIMMED: u8 = 16;
    pub const LAST: u8 = TRIMMED;
}

/// Whether a payload may begin like this.
pub fn is_kind(byte: u8) -> bool {
    (1..=kind::LAST).contains(&byte)
}

// The flags of a delivery; the two lowest bits are its QoS.
const RETAIN: u8 = 4;
const VIA: u8 = 8;
/// It came the same way as the target before.
const SAME_VIA: u8 = 16;
/// PUBREC came: in copies.
const RECEIVED: u8 = 64;
// The further flags of a message and of what holds it.
const EXPIRES: u8 = 8;
const ORIGIN: u8 = 16;
const FROM_CLIENT: u8 = 32;
const RETAINED: u8 = 64;
/// When it was received is said. Records of format 1 do not have this flag: there only an origin says it.
const RECEIVED_AT: u8 = 128;
// Of an extra.
const WITH_BYTES: u8 = 32;

/// Records in the order in which they happened. The buffer is kept when the journal has taken them.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    /// Where the last frame begins, if it is a `Done` that may be added to, and its session.
    done: Option<(usize, u64)>,
    count: u64,
}

impl Records {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many records it holds.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The frames, without checksums.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets all of them; a large buffer is given back.
    pub fn clear(&mut self) {
        const KEPT: usize = 64 * 1024;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.done = None;
        self.count = 0;
    }

    /// A session begins or goes on, and its client is connected. Replaces the former one of the key.
    pub fn session(&mut self, key: u64, client_id: &str, expiry: u32, window: u16, about: &[u8]) {
        self.put_session(key, client_id, expiry, window, about, None);
    }

    pub(super) fn put_session(
        &mut self,
        key: u64,
        client_id: &str,
        expiry: u32,
        window: u16,
        about: &[u8],
        away: Option<Left>,
    ) {
        self.frame(kind::SESSION, |out| {
            number(out, key);
            text(out, client_id);
            number(out, expiry.into());
            number(out, window.into());
            blob(out, about);
            if let Some(left) = away {
                put_left(out, left);
            }
        });
    }

    /// The client went away at `since` (milliseconds since 1970 UTC); deliveries up to `sent` had been sent.
    pub fn away(&mut self, key: u64, since: u64, expiry: u32, sent: u64) {
        self.frame(kind::AWAY, |out| {
            number(out, key);
            put_left(out, Left { since, expiry, sent });
        });
    }

    pub fn ended(&mut self, key: u64) {
        self.frame(kind::ENDED, |out| number(out, key));
    }

    pub fn subscribed(&mut self, key: u64, filter: &str, subscription: &Subscription) {
        let options = &subscription.options;
        let flags = options.qos as u8
            | (options.retain_handling as u8) << 2
            | u8::from(options.no_local) << 4
            | u8::from(options.retain_as_published) << 5;
        self.frame(kind::SUBSCRIBED, |out| {
            number(out, key);
            text(out, filter);
            out.push(flags);
            // An identifier is never 0 `[MQTT-3.8.2.1.2]`.
            number(out, subscription.identifier.unwrap_or(0).into());
        });
    }

    pub fn unsubscribed(&mut self, key: u64, filter: &str) {
        self.frame(kind::UNSUBSCRIBED, |out| {
            number(out, key);
            text(out, filter);
        });
    }

    /// The message once, for all its sessions. It has its number ([`Message::id`]) by now.
    pub fn published(
        &mut self,
        message: &Message,
        inbound: Option<(u64, PacketId)>,
        retained: bool,
        targets: &[Target],
    ) {
        debug_assert!(message.journaled(), "a message that is published into the journal has its number");
        let targets = targets.iter().map(|target| (target, false));
        self.put_published(&message.stored(), inbound, retained, targets);
    }

    pub(super) fn put_published<'t>(
        &mut self,
        stored: &Stored<'_>,
        inbound: Option<(u64, PacketId)>,
        retained: bool,
        targets: impl ExactSizeIterator<Item = (&'t Target, bool)>,
    ) {
        let flags = if inbound.is_some() { FROM_CLIENT } else { 0 } | if retained { RETAINED } else { 0 };
        self.frame(kind::PUBLISHED, |out| {
            message_head(out, stored, flags);
            if let Some((key, id)) = inbound {
                number(out, key);
                out.extend_from_slice(&id.get().to_le_bytes());
            }
            put_targets(out, targets);
            out.extend_from_slice(stored.bytes);
        });
    }

    /// More deliveries of a message that is in the journal. Where one session hands a message on to another, this comes
    /// before the `done` of the first: a message without any delivery is forgotten.
    pub fn queued(&mut self, message: &Message, targets: &[Target]) {
        self.put_queued(message.stored().id, targets.iter().map(|target| (target, false)));
    }

    pub(super) fn put_queued<'t>(&mut self, message: u64, targets: impl ExactSizeIterator<Item = (&'t Target, bool)>) {
        self.frame(kind::QUEUED, |out| {
            number(out, message);
            put_targets(out, targets);
        });
    }

    pub fn inbound(&mut self, key: u64, id: PacketId) {
        self.frame(kind::INBOUND, |out| {
            number(out, key);
            out.extend_from_slice(&id.get().to_le_bytes());
        });
    }

    pub fn released(&mut self, key: u64, id: PacketId) {
        self.frame(kind::RELEASED, |out| {
            number(out, key);
            out.extend_from_slice(&id.get().to_le_bytes());
        });
    }

    pub fn unretained(&mut self, topic: &str, id: u64) {
        self.frame(kind::UNRETAINED, |out| {
            text(out, topic);
            number(out, id);
        });
    }

    /// A delivery outside the queue, sent before the queue's `before`: of a message that the journal knows, by its
    /// number, of another with its bytes.
    #[expect(clippy::too_many_arguments, reason = "what a delivery is, and where it belongs")]
    pub fn extra(
        &mut self,
        key: u64,
        extra: u64,
        before: u64,
        message: &Message,
        qos: QoS,
        retain: bool,
        via: Option<&Via>,
    ) {
        let stored = message.stored();
        let message = if stored.id == 0 { Reference::Bytes(stored) } else { Reference::Number(stored.id) };
        let flags = delivery_flags(qos, retain) | if via.is_some() { VIA } else { 0 };
        self.put_extra(key, extra, before, &message, flags, |out| via.into_iter().for_each(|via| put_via(out, via)));
    }

    /// The same delivery again, as it is now.
    pub(super) fn copy_extra(&mut self, record: &Record<'_>, received_now: bool) {
        let Record::Extra { key, number, before, message, qos, retain, via, .. } = record else { return };
        let flags = delivery_flags(*qos, *retain)
            | if via.is_some() { VIA } else { 0 }
            | if received_now { RECEIVED } else { 0 };
        let put = |out: &mut Vec<u8>| via.iter().for_each(|via| put_via(out, &via.to_via()));
        self.put_extra(*key, *number, *before, message, flags, put);
    }

    fn put_extra(
        &mut self,
        key: u64,
        extra: u64,
        before: u64,
        message: &Reference<'_>,
        flags: u8,
        put_via: impl FnOnce(&mut Vec<u8>),
    ) {
        self.frame(kind::EXTRA, |out| {
            number(out, key);
            number(out, extra & !EXTRA);
            number(out, before);
            out.push(flags | if matches!(message, Reference::Bytes(_)) { WITH_BYTES } else { 0 });
            put_via(out);
            match message {
                Reference::Number(id) => number(out, *id),
                Reference::Bytes(stored) => {
                    message_head(out, stored, 0);
                    out.extend_from_slice(stored.bytes);
                }
            }
        });
    }

    pub fn received(&mut self, key: u64, seq: u64) {
        self.frame(kind::RECEIVED, |out| {
            number(out, key);
            number(out, seq.rotate_left(1));
        });
    }

    /// A delivery is over. Several of a session in a row share a record.
    pub fn done(&mut self, key: u64, seq: u64) {
        if let Some((start, last)) = self.done
            && last == key
        {
            number(&mut self.bytes, seq.rotate_left(1));
            let length = (self.bytes.len() - start - FRAME) as u32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
            return;
        }
        let start = self.bytes.len();
        self.frame(kind::DONE, |out| {
            number(out, key);
            number(out, seq.rotate_left(1));
        });
        self.done = Some((start, key));
    }

    pub(super) fn synced(&mut self) {
        self.frame(kind::SYNCED, |_| {});
    }

    pub(super) fn opened(&mut self, previous: u32, end: u32, first: u32) {
        self.frame(kind::OPENED, |out| {
            number(out, previous.into());
            number(out, end.into());
            number(out, first.into());
        });
    }

    pub(super) fn trimmed(&mut self, first: u32) {
        self.frame(kind::TRIMMED, |out| number(out, first.into()));
    }

    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        self.done = None;
        &mut self.bytes
    }

    fn frame(&mut self, kind: u8, put: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; FRAME]);
        self.bytes.push(kind);
        put(&mut self.bytes);
        // A record holds one packet of MQTT at most, and so is far below 4 GiB.
        let length = (self.bytes.len() - start - FRAME) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.done = None;
        self.count += 1;
    }
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn blob(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn text(out: &mut Vec<u8>, text: &str) {
    blob(out, text.as_bytes());
}

fn put_left(out: &mut Vec<u8>, left: Left) {
    number(out, left.since);
    number(out, left.expiry.into());
    number(out, left.sent);
}

fn delivery_flags(qos: QoS, retain: bool) -> u8 {
    qos as u8 | if retain { RETAIN } else { 0 }
}

fn put_via(out: &mut Vec<u8>, via: &Via) {
    number(out, via.identifiers.len() as u64);
    for identifier in &via.identifiers {
        number(out, (*identifier).into());
    }
    // An empty text is no share: the name of a shared subscription begins with `$share/`.
    text(out, via.share.as_deref().unwrap_or(""));
}

fn put_targets<'t>(out: &mut Vec<u8>, targets: impl ExactSizeIterator<Item = (&'t Target, bool)>) {
    number(out, targets.len() as u64);
    let mut before: Option<&Arc<Via>> = None;
    for (target, received) in targets {
        number(out, target.session);
        number(out, target.seq);
        let flags = delivery_flags(target.qos, target.retain) | if received { RECEIVED } else { 0 };
        match &target.via {
            None => out.push(flags),
            Some(via) if before.is_some_and(|before| before == via) => out.push(flags | SAME_VIA),
            Some(via) => {
                out.push(flags | VIA);
                put_via(out, via);
                before = Some(via);
            }
        }
    }
}

fn message_head(out: &mut Vec<u8>, stored: &Stored<'_>, flags: u8) {
    let expires = if stored.expires_at.is_some() { EXPIRES } else { 0 };
    let origin = if stored.origin.is_some() { ORIGIN } else { 0 };
    out.push(delivery_flags(stored.qos, stored.retain) | expires | origin | RECEIVED_AT | flags);
    number(out, stored.id);
    if let Some(at) = stored.expires_at {
        number(out, at);
    }
    number(out, stored.received_at);
    if let Some(origin) = &stored.origin {
        out.extend_from_slice(&origin.id.to_le_bytes());
        text(out, origin.client_id);
    }
    number(out, stored.topic_length as u64);
    number(out, stored.properties_length as u64);
    number(out, stored.bytes.len() as u64);
}

mod decode;
pub use decode::{ReadTarget, Seqs, Targets, ViaParts, Way, decode};

#[cfg(test)]
pub mod tests;
