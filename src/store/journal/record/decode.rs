//! From bytes to records.

use std::sync::Arc;

use super::{
    EXPIRES, EXTRA, FROM_CLIENT, Left, ORIGIN, RECEIVED, RECEIVED_AT, RETAIN, RETAINED, Record, Reference, SAME_VIA,
    Target, VIA, WITH_BYTES, kind,
};
use crate::mqtt::packet::{RetainHandling, SubscriptionOptions};
use crate::mqtt::{PacketId, QoS};
use crate::store::{Stored, StoredOrigin, Subscription, Via};

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
    pub received: bool,
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
            let ReadTarget { session, seq, qos, retain, way, .. } = target;
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
            away: if input.is_empty() { None } else { Some(read_left(input)?) },
        },
        kind::AWAY => Record::Away { key: read_number(input)?, left: read_left(input)? },
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

pub(super) fn read_number(input: &mut &[u8]) -> Option<u64> {
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

fn read_left(input: &mut &[u8]) -> Option<Left> {
    Some(Left { since: read_number(input)?, expiry: read_u32(input)?, sent: read_number(input)? })
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
    let (qos, retain, received) = (QoS::from_bits(flags & 3)?, flags & RETAIN != 0, flags & RECEIVED != 0);
    Some(ReadTarget { session, seq, qos, retain, received, way })
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
    let of_format_1 = flags & RECEIVED_AT == 0;
    // Of a message without an origin, format 1 does not say it.
    let mut received_at = if of_format_1 { 0 } else { read_number(input)? };
    let origin = if flags & ORIGIN == 0 {
        None
    } else {
        let id = u128::from_le_bytes(take(input, 16)?.try_into().ok()?);
        if of_format_1 {
            received_at = read_number(input)?;
        }
        Some(StoredOrigin { id, client_id: read_text(input)? })
    };
    let (topic_length, properties_length) = (read_length(input)?, read_length(input)?);
    let length = read_length(input)?;
    let (qos, retain) = (QoS::from_bits(flags & 3)?, flags & RETAIN != 0);
    let stored =
        Stored { id, bytes: &[], topic_length, properties_length, qos, retain, expires_at, received_at, origin };
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
    let (qos, retain, received) = (QoS::from_bits(flags & 3)?, flags & RETAIN != 0, flags & RECEIVED != 0);
    (extra & EXTRA == 0).then_some(Record::Extra { key, number: extra, before, message, qos, retain, via, received })
}
