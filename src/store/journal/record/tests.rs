use proptest::prelude::*;

use super::decode::read_number;
use super::*;
use crate::mqtt::packet::{RetainHandling, SubscriptionOptions};
use crate::store::StoredOrigin;

/// What can be told of a record, without its borrowed parts.
fn frames(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = bytes;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        frames.push(&rest[FRAME..FRAME + length]);
        rest = &rest[FRAME + length..];
    }
    frames
}

fn only(records: &Records) -> Record<'_> {
    let frames = frames(records.bytes());
    assert_eq!(frames.len(), 1);
    decode(frames[0]).expect("what was encoded can be decoded")
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn via() -> impl Strategy<Value = Option<Arc<Via>>> {
    let share = prop::option::of("[a-z$/]{1,12}".prop_map(String::into_boxed_str));
    let via = (prop::collection::vec(1..268_435_455_u32, 0..4), share);
    prop::option::of(via.prop_map(|(identifiers, share)| Arc::new(Via { identifiers, share })))
}

fn target() -> impl Strategy<Value = Target> {
    (any::<u64>(), 0..EXTRA, qos(), any::<bool>(), via()).prop_map(|(session, seq, qos, retain, via)| Target {
        session,
        seq,
        qos,
        retain,
        via,
    })
}

/// The parts of a message: topic, properties and payload are the bytes.
#[derive(Debug, Clone)]
struct Parts {
    id: u64,
    topic: String,
    properties: Vec<u8>,
    payload: Vec<u8>,
    qos: QoS,
    retain: bool,
    expires_at: Option<u64>,
    received_at: u64,
    origin: Option<(u128, String)>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let origin = prop::option::of((any::<u128>(), "\\PC{0,20}"));
    let times = (any::<Option<u64>>(), any::<u64>());
    (any::<u64>(), "\\PC{0,40}", bytes(), bytes(), qos(), any::<bool>(), times, origin).prop_map(
        |(id, topic, properties, payload, qos, retain, (expires_at, received_at), origin)| Parts {
            id,
            topic,
            properties,
            payload,
            qos,
            retain,
            expires_at,
            received_at,
            origin,
        },
    )
}

fn message_of(parts: &Parts) -> Message {
    let bytes = [parts.topic.as_bytes(), &parts.properties, &parts.payload].concat();
    let origin = parts.origin.as_ref().map(|(id, client_id)| StoredOrigin { id: *id, client_id });
    let stored = Stored {
        id: parts.id,
        bytes: &bytes,
        topic_length: parts.topic.len(),
        properties_length: parts.properties.len(),
        qos: parts.qos,
        retain: parts.retain,
        expires_at: parts.expires_at,
        received_at: parts.received_at,
        origin,
    };
    Message::restore(stored).expect("the parts fit")
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

fn subscription() -> impl Strategy<Value = Subscription> {
    let handling =
        prop_oneof![Just(RetainHandling::Send), Just(RetainHandling::SendIfNew), Just(RetainHandling::DoNotSend)];
    (qos(), any::<bool>(), any::<bool>(), handling, prop::option::of(1..268_435_455_u32)).prop_map(
        |(qos, no_local, retain_as_published, retain_handling, identifier)| Subscription {
            options: SubscriptionOptions { qos, no_local, retain_as_published, retain_handling },
            identifier,
        },
    )
}

proptest! {
    #[test]
    fn records_of_sessions_are_read_as_they_were_written(
        key: u64, expiry: u32, window: u16, number: u64, client_id in "\\PC{0,40}", about: Vec<u8>,
        subscription in subscription(), id in packet_id(),
    ) {
        let mut records = Records::new();
        records.session(key, &client_id, expiry, window, &about);
        prop_assert_eq!(only(&records), Record::Session { key, client_id: &client_id, expiry, window, about: &about, away: None });
        let left = Left { since: number, expiry, sent: number / 2 };
        records.clear();
        records.put_session(key, &client_id, expiry, window, &about, Some(left));
        prop_assert_eq!(
            only(&records),
            Record::Session { key, client_id: &client_id, expiry, window, about: &about, away: Some(left) }
        );
        records.clear();
        records.away(key, number, expiry, number / 2);
        prop_assert_eq!(only(&records), Record::Away { key, left });
        records.clear();
        records.ended(key);
        prop_assert_eq!(only(&records), Record::Ended { key });
        records.clear();
        records.subscribed(key, &client_id, &subscription);
        prop_assert_eq!(only(&records), Record::Subscribed { key, filter: &client_id, subscription });
        records.clear();
        records.unsubscribed(key, &client_id);
        prop_assert_eq!(only(&records), Record::Unsubscribed { key, filter: &client_id });
        records.clear();
        records.inbound(key, id);
        prop_assert_eq!(only(&records), Record::Inbound { key, id });
        records.clear();
        records.released(key, id);
        prop_assert_eq!(only(&records), Record::Released { key, id });
        records.clear();
        records.unretained(&client_id, 300);
        prop_assert_eq!(only(&records), Record::Unretained { topic: &client_id, id: 300 });
        records.clear();
        records.received(key, number);
        prop_assert_eq!(only(&records), Record::Received { key, seq: number });
    }

    #[test]
    fn records_of_messages_are_read_as_they_were_written(
        parts in parts(), inbound in prop::option::of((any::<u64>(), packet_id())), retained: bool,
        targets in prop::collection::vec(target(), 0..8), number in 0..EXTRA, via in via(),
    ) {
        let written = message_of(&Parts { id: parts.id.max(1), ..parts.clone() });
        let mut records = Records::new();
        records.published(&written, inbound, retained, &targets);
        let Record::Published { message, inbound: from, retained: kept, targets: read } = only(&records) else {
            panic!("another kind");
        };
        prop_assert_eq!(message, written.stored());
        prop_assert_eq!((from, kept), (inbound, retained));
        prop_assert_eq!(read.targets().collect::<Vec<_>>(), targets.clone());
        records.clear();
        records.queued(&written, &targets);
        let Record::Queued { message, targets: read } = only(&records) else { panic!("another kind") };
        prop_assert_eq!(message, parts.id.max(1));
        prop_assert_eq!(read.targets().collect::<Vec<_>>(), targets);
        records.clear();
        let written = message_of(&parts);
        records.extra(1, number | EXTRA, 7, &written, QoS::AtLeastOnce, retained, via.as_deref());
        let record = only(&records);
        let mut copied = Records::new();
        copied.copy_extra(&record, true);
        let Record::Extra { received: true, .. } = only(&copied) else { panic!("another delivery") };
        let Record::Extra { key, number: at, before, message, qos, retain, via: read, received: false } = record else {
            panic!("another kind");
        };
        prop_assert_eq!((key, at, before, qos, retain), (1, number, 7, QoS::AtLeastOnce, retained));
        prop_assert_eq!(read.map(ViaParts::to_via), via.as_deref().cloned());
        let expected = if parts.id == 0 { Reference::Bytes(written.stored()) } else { Reference::Number(parts.id) };
        prop_assert_eq!(message, expected);
    }

    #[test]
    fn dones_of_a_session_in_a_row_share_a_record(dones in prop::collection::vec((1..4_u64, any::<u64>()), 0..40)) {
        let mut records = Records::new();
        for (key, seq) in &dones {
            records.done(*key, *seq);
        }
        let mut read = Vec::new();
        for frame in frames(records.bytes()) {
            let Some(Record::Done { key, seqs }) = decode(frame) else { panic!("another kind") };
            read.extend(seqs.iter().map(|seq| (key, seq)));
        }
        prop_assert_eq!(&read, &dones);
        let runs = dones.chunk_by(|one, other| one.0 == other.0).count();
        prop_assert_eq!(frames(records.bytes()).len(), runs);
        prop_assert_eq!(records.count(), runs as u64);
    }

    #[test]
    fn whatever_the_bytes_are_decoding_ends_in_a_record_or_in_none(kind in 0..20_u8, mut bytes: Vec<u8>) {
        bytes.insert(0, kind);
        if let Some(Record::Published { targets, .. } | Record::Queued { targets, .. }) = decode(&bytes) {
            prop_assert_eq!(targets.targets().count(), targets.len());
        }
    }

    #[test]
    fn a_record_that_was_cut_or_changed_is_decoded_without_harm(
        parts in parts(), targets in prop::collection::vec(target(), 0..4), cut: prop::sample::Index,
        at: prop::sample::Index, bit in 0..8_u8,
    ) {
        let mut records = Records::new();
        records.published(&message_of(&parts), None, true, &targets);
        let whole = records.bytes()[FRAME..].to_vec();
        prop_assert!(decode(&whole[..cut.index(whole.len())]).is_none(), "a part of a record is none");
        let mut changed = whole.clone();
        changed[at.index(whole.len())] ^= 1 << bit;
        if let Some(Record::Published { message, targets, .. }) = decode(&changed) {
            prop_assert!(Message::restore(message).is_some());
            prop_assert_eq!(targets.targets().count(), targets.len());
        }
    }
}

#[test]
fn a_way_that_refers_to_none_is_no_record() {
    let via = Some(Arc::new(Via { identifiers: vec![1], share: None }));
    let target = |seq| Target { session: 1, seq, qos: QoS::AtLeastOnce, retain: false, via: via.clone() };
    let mut records = Records::new();
    let targets = [target(1), target(2)];
    records.put_queued(9, targets.iter().map(|target| (target, false)));
    let mut payload = records.bytes()[FRAME..].to_vec();
    assert!(decode(&payload).is_some());
    // Kind, message, count, then session, seq, flags and the way of the first.
    payload.drain(3..9);
    payload[2] = 1;
    assert_eq!(payload, [kind::QUEUED, 9, 1, 1, 2, QoS::AtLeastOnce as u8 | SAME_VIA]);
    assert!(decode(&payload).is_none());
}

#[test]
fn a_number_of_more_than_64_bits_is_none() {
    let mut longest = Vec::new();
    number(&mut longest, u64::MAX);
    assert_eq!(longest.len(), 10);
    assert_eq!(read_number(&mut &longest[..]), Some(u64::MAX));
    longest[9] = 2;
    assert_eq!(read_number(&mut &longest[..]), None);
    assert_eq!(read_number(&mut &[0x80; 11][..]), None);
}

/// A message's record as format 1 had it: of messages with an origin, the origin says when they were received.
pub fn published_of_format_1(stored: &Stored<'_>, received_at: u64, targets: &[Target]) -> Records {
    let mut records = Records::new();
    records.frame(kind::PUBLISHED, |out| {
        let expires = if stored.expires_at.is_some() { EXPIRES } else { 0 };
        let origin = if stored.origin.is_some() { ORIGIN } else { 0 };
        out.push(delivery_flags(stored.qos, stored.retain) | expires | origin);
        number(out, stored.id);
        stored.expires_at.iter().for_each(|at| number(out, *at));
        if let Some(origin) = &stored.origin {
            out.extend_from_slice(&origin.id.to_le_bytes());
            number(out, received_at);
            text(out, origin.client_id);
        }
        number(out, stored.topic_length as u64);
        number(out, stored.properties_length as u64);
        number(out, stored.bytes.len() as u64);
        put_targets(out, targets.iter().map(|target| (target, false)));
        out.extend_from_slice(stored.bytes);
    });
    records
}

proptest! {
    #[test]
    fn records_of_format_1_are_read_with_the_time_that_their_origin_says(
        parts in parts(), targets in prop::collection::vec(target(), 0..4),
    ) {
        let message = message_of(&parts);
        let old = published_of_format_1(&message.stored(), parts.received_at, &targets);
        let Record::Published { message: read, targets: to, .. } = only(&old) else { panic!("another kind") };
        let received_at = if parts.origin.is_some() { parts.received_at } else { 0 };
        prop_assert_eq!(read, Stored { received_at, ..message.stored() });
        prop_assert_eq!(to.targets().collect::<Vec<_>>(), targets);
        // As compacting writes it.
        let mut anew = Records::new();
        anew.put_published(&read, None, false, [].into_iter());
        let Record::Published { message: again, .. } = only(&anew) else { panic!("another kind") };
        prop_assert_eq!(again, read);
    }
}
