//! What the journal says: one record for one thing that happened. Pure.
//!
//! A [`Records`] holds records ready to be written: frames `length | checksum | payload`, of which the committer fills
//! in the checksum when it knows the segment. A payload is a kind and then fields: numbers of variable length, lowest
//! seven bits first; text and bytes with their length before them. [`decode`] takes nothing for granted.

use std::sync::Arc;

use crate::mqtt::packet::{RetainHandling, SubscriptionOptions};
use crate::mqtt::{PacketId, QoS};
use crate::store::{Message, Stored, StoredOrigin, Subscription, Via};

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
    /// A session begins or goes on; its client is connected.
    Session {
        key: u64,
        client_id: &'a str,
        expiry: u32,
        window: u16,
        about: &'a [u8],
    },
    /// The client went away at `since` (milliseconds since 1970 UTC); deliveries up to `sent` had been sent.
    Away {
        key: u64,
        since: u64,
        expiry: u32,
        sent: u64,
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
// The further flags of a message and of what holds it.
const EXPIRES: u8 = 8;
const ORIGIN: u8 = 16;
const FROM_CLIENT: u8 = 32;
const RETAINED: u8 = 64;
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

    pub fn session(&mut self, key: u64, client_id: &str, expiry: u32, window: u16, about: &[u8]) {
        self.frame(kind::SESSION, |out| {
            number(out, key);
            text(out, client_id);
            number(out, expiry.into());
            number(out, window.into());
            blob(out, about);
        });
    }

    pub fn away(&mut self, key: u64, since: u64, expiry: u32, sent: u64) {
        self.frame(kind::AWAY, |out| {
            number(out, key);
            number(out, since);
            number(out, expiry.into());
            number(out, sent);
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
        self.put_published(&message.stored(), inbound, retained, targets);
    }

    pub(super) fn put_published(
        &mut self,
        stored: &Stored<'_>,
        inbound: Option<(u64, PacketId)>,
        retained: bool,
        targets: &[Target],
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
        self.put_queued(message.stored().id, targets);
    }

    pub(super) fn put_queued(&mut self, message: u64, targets: &[Target]) {
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
        self.put_extra(key, extra, before, &message, qos, retain, via);
    }

    #[expect(clippy::too_many_arguments, reason = "what a delivery is, and where it belongs")]
    pub(super) fn put_extra(
        &mut self,
        key: u64,
        extra: u64,
        before: u64,
        message: &Reference<'_>,
        qos: QoS,
        retain: bool,
        via: Option<&Via>,
    ) {
        self.frame(kind::EXTRA, |out| {
            number(out, key);
            number(out, extra & !EXTRA);
            number(out, before);
            let bytes = if matches!(message, Reference::Bytes(_)) { WITH_BYTES } else { 0 };
            out.push(delivery_flags(qos, retain) | if via.is_some() { VIA } else { 0 } | bytes);
            if let Some(via) = via {
                put_via(out, via);
            }
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

    #[expect(dead_code, reason = "what segments begin and end with, which the committer does not write yet")]
    pub(super) fn synced(&mut self) {
        self.frame(kind::SYNCED, |_| {});
    }

    #[expect(dead_code, reason = "what segments begin and end with, which the committer does not write yet")]
    pub(super) fn opened(&mut self, previous: u32, end: u32, first: u32) {
        self.frame(kind::OPENED, |out| {
            number(out, previous.into());
            number(out, end.into());
            number(out, first.into());
        });
    }

    #[expect(dead_code, reason = "what segments begin and end with, which the committer does not write yet")]
    pub(super) fn trimmed(&mut self, first: u32) {
        self.frame(kind::TRIMMED, |out| number(out, first.into()));
    }

    #[expect(dead_code, reason = "what segments begin and end with, which the committer does not write yet")]
    /// Takes over the frames of another, which is left empty.
    pub(super) fn take_from(&mut self, other: &mut Records) {
        self.bytes.extend_from_slice(&other.bytes);
        self.count += other.count;
        self.done = None;
        other.clear();
    }

    #[expect(dead_code, reason = "what segments begin and end with, which the committer does not write yet")]
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

fn put_targets(out: &mut Vec<u8>, targets: &[Target]) {
    number(out, targets.len() as u64);
    let mut before: Option<&Arc<Via>> = None;
    for target in targets {
        number(out, target.session);
        number(out, target.seq);
        let flags = delivery_flags(target.qos, target.retain);
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
    out.push(delivery_flags(stored.qos, stored.retain) | expires | origin | flags);
    number(out, stored.id);
    if let Some(at) = stored.expires_at {
        number(out, at);
    }
    if let Some(origin) = &stored.origin {
        out.extend_from_slice(&origin.id.to_le_bytes());
        number(out, origin.received_at);
        text(out, origin.client_id);
    }
    number(out, stored.topic_length as u64);
    number(out, stored.properties_length as u64);
    number(out, stored.bytes.len() as u64);
}

/// The targets of a record, decoded one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets<'a> {
    count: usize,
    bytes: &'a [u8],
}

/// A target as it is read. What it came by is given once, and for the next as [`Way::Same`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTarget<'a> {
    pub session: u64,
    pub seq: u64,
    pub qos: QoS,
    pub retain: bool,
    pub way: Way<'a>,
}

/// How a message came to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way<'a> {
    Plain,
    Via(ViaParts<'a>),
    /// The same as the last that was given.
    Same,
}

/// A [`Via`] as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViaParts<'a> {
    count: usize,
    identifiers: &'a [u8],
    share: &'a str,
}

impl ViaParts<'_> {
    pub fn to_via(self) -> Via {
        let mut input = self.identifiers;
        let identifiers = (0..self.count).filter_map(|_| read_number(&mut input)).map(|it| it as u32).collect();
        Via { identifiers, share: (!self.share.is_empty()).then(|| self.share.into()) }
    }
}

impl<'a> Targets<'a> {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// They were checked when the record was decoded.
    pub fn iter(&self) -> impl Iterator<Item = ReadTarget<'a>> {
        let mut input = self.bytes;
        (0..self.count).map_while(move |_| read_target(&mut input))
    }

    /// The same, with their ways as the broker keeps them.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let mut last = None;
        self.iter().map(move |target| {
            let ReadTarget { session, seq, qos, retain, way } = target;
            let via = match way {
                Way::Plain => None,
                Way::Same => last.clone(),
                Way::Via(parts) => {
                    last = Some(Arc::new(parts.to_via()));
                    last.clone()
                }
            };
            Target { session, seq, qos, retain, via }
        })
    }
}

/// The sequence numbers of a [`Record::Done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seqs<'a>(&'a [u8]);

impl Seqs<'_> {
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        let mut input = self.0;
        std::iter::from_fn(move || read_number(&mut input).map(|it| it.rotate_right(1)))
    }
}

/// The record in a payload; `None` where it is none, whatever its checksum says.
pub fn decode(payload: &[u8]) -> Option<Record<'_>> {
    let (kind, mut rest) = payload.split_first().map(|(kind, rest)| (*kind, rest))?;
    let input = &mut rest;
    let record = match kind {
        kind::SESSION => Record::Session {
            key: read_number(input)?,
            client_id: read_text(input)?,
            expiry: read_u32(input)?,
            window: u16::try_from(read_number(input)?).ok()?,
            about: read_blob(input)?,
        },
        kind::AWAY => Record::Away {
            key: read_number(input)?,
            since: read_number(input)?,
            expiry: read_u32(input)?,
            sent: read_number(input)?,
        },
        kind::ENDED => Record::Ended { key: read_number(input)? },
        kind::SUBSCRIBED => Record::Subscribed {
            key: read_number(input)?,
            filter: read_text(input)?,
            subscription: read_subscription(input)?,
        },
        kind::UNSUBSCRIBED => Record::Unsubscribed { key: read_number(input)?, filter: read_text(input)? },
        kind::PUBLISHED => read_published(input)?,
        kind::QUEUED => Record::Queued { message: read_number(input)?, targets: read_targets(input)? },
        kind::INBOUND => Record::Inbound { key: read_number(input)?, id: read_packet_id(input)? },
        kind::RELEASED => Record::Released { key: read_number(input)?, id: read_packet_id(input)? },
        kind::UNRETAINED => Record::Unretained { topic: read_text(input)?, id: read_number(input)? },
        kind::EXTRA => read_extra(input)?,
        kind::RECEIVED => Record::Received { key: read_number(input)?, seq: read_number(input)?.rotate_right(1) },
        kind::DONE => Record::Done { key: read_number(input)?, seqs: read_seqs(input)? },
        kind::SYNCED => Record::Synced,
        kind::OPENED => Record::Opened { previous: read_u32(input)?, end: read_u32(input)?, first: read_u32(input)? },
        kind::TRIMMED => Record::Trimmed { first: read_u32(input)? },
        _ => return None,
    };
    rest.is_empty().then_some(record)
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(taken)
}

fn read_byte(input: &mut &[u8]) -> Option<u8> {
    take(input, 1).map(|bytes| bytes[0])
}

fn read_number(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (at, byte) in input.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7F);
        if at == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * at);
        if byte & 0x80 == 0 {
            *input = &input[at + 1..];
            return Some(value);
        }
    }
    None
}

fn read_u32(input: &mut &[u8]) -> Option<u32> {
    u32::try_from(read_number(input)?).ok()
}

fn read_length(input: &mut &[u8]) -> Option<usize> {
    let length = usize::try_from(read_number(input)?).ok()?;
    // Whatever is counted takes a byte at least: a length is never more than what is there.
    (length <= input.len()).then_some(length)
}

fn read_blob<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = read_length(input)?;
    take(input, length)
}

fn read_text<'a>(input: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(read_blob(input)?).ok()
}

fn read_packet_id(input: &mut &[u8]) -> Option<PacketId> {
    let bytes = take(input, 2)?;
    PacketId::new(u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn read_subscription(input: &mut &[u8]) -> Option<Subscription> {
    let flags = read_byte(input)?;
    let retain_handling = match flags >> 2 & 3 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return None,
    };
    let options = SubscriptionOptions {
        qos: QoS::from_bits(flags & 3)?,
        no_local: flags & 16 != 0,
        retain_as_published: flags & 32 != 0,
        retain_handling,
    };
    let identifier = read_u32(input)?;
    Some(Subscription { options, identifier: (identifier != 0).then_some(identifier) })
}

fn read_via<'a>(input: &mut &'a [u8]) -> Option<ViaParts<'a>> {
    let count = read_length(input)?;
    let whole = *input;
    for _ in 0..count {
        read_u32(input)?;
    }
    let identifiers = &whole[..whole.len() - input.len()];
    Some(ViaParts { count, identifiers, share: read_text(input)? })
}

fn read_target<'a>(input: &mut &'a [u8]) -> Option<ReadTarget<'a>> {
    let (session, seq, flags) = (read_number(input)?, read_number(input)?, read_byte(input)?);
    let way = match flags & (VIA | SAME_VIA) {
        0 => Way::Plain,
        VIA => Way::Via(read_via(input)?),
        SAME_VIA => Way::Same,
        _ => return None,
    };
    // The highest bit tells deliveries of the queue from others.
    let seq = (seq & EXTRA == 0).then_some(seq)?;
    Some(ReadTarget { session, seq, qos: QoS::from_bits(flags & 3)?, retain: flags & RETAIN != 0, way })
}

fn read_targets<'a>(input: &mut &'a [u8]) -> Option<Targets<'a>> {
    let count = read_length(input)?;
    let whole = *input;
    let mut given = false;
    for _ in 0..count {
        match read_target(input)?.way {
            Way::Via(_) => given = true,
            Way::Same if !given => return None,
            Way::Same | Way::Plain => {}
        }
    }
    Some(Targets { count, bytes: &whole[..whole.len() - input.len()] })
}

fn read_seqs<'a>(input: &mut &'a [u8]) -> Option<Seqs<'a>> {
    let seqs = Seqs(input);
    while !input.is_empty() {
        read_number(input)?;
    }
    Some(seqs)
}

/// What stands before a message's bytes.
struct Head<'a> {
    flags: u8,
    stored: Stored<'a>,
    length: usize,
}

impl<'a> Head<'a> {
    /// With the bytes, which are all that is left.
    fn with_bytes(self, input: &mut &'a [u8]) -> Option<Stored<'a>> {
        let bytes = take(input, self.length)?;
        let Stored { topic_length, properties_length, .. } = self.stored;
        let fits = topic_length.checked_add(properties_length)? <= bytes.len();
        std::str::from_utf8(bytes.get(..topic_length)?).ok()?;
        fits.then_some(Stored { bytes, ..self.stored })
    }
}

fn read_head<'a>(input: &mut &'a [u8]) -> Option<Head<'a>> {
    let flags = read_byte(input)?;
    let id = read_number(input)?;
    let expires_at = if flags & EXPIRES == 0 { None } else { Some(read_number(input)?) };
    let origin = if flags & ORIGIN == 0 {
        None
    } else {
        let id = u128::from_le_bytes(take(input, 16)?.try_into().ok()?);
        Some(StoredOrigin { id, received_at: read_number(input)?, client_id: read_text(input)? })
    };
    let (topic_length, properties_length) = (read_length(input)?, read_length(input)?);
    let length = read_length(input)?;
    let (qos, retain) = (QoS::from_bits(flags & 3)?, flags & RETAIN != 0);
    let stored = Stored { id, bytes: &[], topic_length, properties_length, qos, retain, expires_at, origin };
    Some(Head { flags, stored, length })
}

fn read_published<'a>(input: &mut &'a [u8]) -> Option<Record<'a>> {
    let head = read_head(input)?;
    let inbound =
        if head.flags & FROM_CLIENT == 0 { None } else { Some((read_number(input)?, read_packet_id(input)?)) };
    let retained = head.flags & RETAINED != 0;
    let targets = read_targets(input)?;
    Some(Record::Published { message: head.with_bytes(input)?, inbound, retained, targets })
}

fn read_extra<'a>(input: &mut &'a [u8]) -> Option<Record<'a>> {
    let (key, extra, before) = (read_number(input)?, read_number(input)?, read_number(input)?);
    let flags = read_byte(input)?;
    let via = if flags & VIA == 0 { None } else { Some(read_via(input)?) };
    let message = if flags & WITH_BYTES == 0 {
        Reference::Number(read_number(input)?)
    } else {
        Reference::Bytes(read_head(input)?.with_bytes(input)?)
    };
    let (qos, retain) = (QoS::from_bits(flags & 3)?, flags & RETAIN != 0);
    (extra & EXTRA == 0).then_some(Record::Extra { key, number: extra, before, message, qos, retain, via })
}

#[cfg(test)]
mod tests;
