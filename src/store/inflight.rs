//! Deliveries that wait for the client's acknowledgement.
//!
//! A packet identifier follows from a delivery's place in the session's queue, so that a broker which finds the queue again
//! after a crash sends with the same identifiers again `[MQTT-4.4.0-1]`, and nothing has to be written down at each
//! delivery. What does not come from the queue, retained messages for a new subscription, has identifiers of its own.

use std::collections::VecDeque;

use super::Delivery;
use super::journal::EXTRA;
use crate::mqtt::{PacketId, QoS, Violation};

/// Packet identifiers of deliveries from the queue, from 1 on; those above are for the others.
const QUEUED_IDS: u16 = 49_151;
const EXTRA_IDS: u16 = u16::MAX - QUEUED_IDS;

/// The in-flight window.
#[derive(Debug, Default)]
pub struct Inflight {
    queued: Window,
    /// Seldom anything: an idle connection has none.
    extra: Option<Box<Window>>,
    /// The place of the last delivery that left the queue, and how many came from elsewhere.
    last_queued: u64,
    extras: u64,
    /// Deliveries up to this place may have left before the broker was started.
    perhaps_sent: u64,
}

/// Deliveries by place; those between the oldest and the newest that are over leave holes.
#[derive(Debug, Default)]
struct Window {
    /// The place of the front slot; meaningless while there is none.
    first: u64,
    slots: VecDeque<Option<Sent>>,
    unacknowledged: usize,
}

/// A delivery on its way.
#[derive(Clone, Debug)]
pub struct Sent {
    pub delivery: Delivery,
    /// QoS 2: PUBREC has arrived, PUBCOMP has not.
    pub received: bool,
    /// The place of the last delivery of the queue that was sent before.
    after: u64,
}

impl Inflight {
    /// Places that may lie between the oldest unacknowledged delivery and the newest. A client that acknowledges
    /// everything but one message stops here instead of growing the window for ever.
    pub const SPAN: u64 = 8192;

    /// Deliveries that wait.
    pub fn len(&self) -> usize {
        self.queued.unacknowledged + self.extra.as_ref().map_or(0, |extra| extra.unacknowledged)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many more deliveries a window of `maximum` admits.
    pub fn room(&self, maximum: usize) -> usize {
        maximum.saturating_sub(self.len())
    }

    /// The first place of the queue that must wait until an older delivery is over.
    pub fn end(&self) -> u64 {
        self.queued.end()
    }

    /// Whether one more that does not come from the queue would be too far from the oldest.
    pub fn admits_extra(&self) -> bool {
        self.extra.as_ref().is_none_or(|extra| self.extras < extra.end())
    }

    /// The place of the last delivery that left the queue.
    pub fn last_queued(&self) -> u64 {
        self.last_queued
    }

    /// Takes a delivery that left the queue; its place is before [`Self::end`].
    pub fn begin(&mut self, delivery: Delivery) -> PacketId {
        let seq = delivery.seq;
        self.last_queued = self.last_queued.max(seq);
        self.queued.put(seq, Sent { delivery, received: false, after: 0 });
        queued_id(seq)
    }

    /// Takes a delivery that was never in the queue, and gives it its place. The caller asked [`Self::admits_extra`].
    pub fn begin_extra(&mut self, mut delivery: Delivery) -> (PacketId, u64) {
        let number = self.extras;
        self.extras += 1;
        delivery.seq = number | EXTRA;
        self.extra.get_or_insert_default().put(number, Sent { delivery, received: false, after: self.last_queued });
        (extra_id(number), number | EXTRA)
    }

    /// What waits up to this place may have been sent before the broker was started. How much of it was cannot be told from
    /// the client's window: what the client had acknowledged may not have been written down yet.
    pub fn was_perhaps_sent(&mut self, place: u64) {
        self.perhaps_sent = place;
    }

    /// Whether a delivery of the queue may be one that the client has seen.
    pub fn is_perhaps_sent(&self, seq: u64) -> bool {
        seq <= self.perhaps_sent
    }

    /// Takes back a delivery of the queue that may have been sent before the broker was started.
    pub fn restore(&mut self, delivery: Delivery, received: bool) {
        let id = self.begin(delivery);
        self.set_received(id, received);
    }

    /// Takes back one that was never in the queue, and was sent before the place `before` of it.
    pub fn restore_extra(&mut self, number: u64, before: u64, mut delivery: Delivery, received: bool) {
        delivery.seq = number | EXTRA;
        self.extras = self.extras.max(number + 1);
        self.extra.get_or_insert_default().put(number, Sent { delivery, received, after: before.saturating_sub(1) });
    }

    /// Numbers what is never in the queue from here on.
    pub fn go_on_with_extra(&mut self, number: u64) {
        self.extras = self.extras.max(number);
    }

    /// PUBACK: a QoS 1 delivery is over. `None`: there was none.
    pub fn acknowledge(&mut self, id: PacketId) -> Result<Option<Delivery>, Violation> {
        self.expect("PUBACK", id, |sent| sent.delivery.qos == QoS::AtLeastOnce)?;
        Ok(self.finish(id))
    }

    /// PUBREC: the client has a QoS 2 message; answers its place. `None`: there was no such delivery.
    pub fn receive(&mut self, id: PacketId) -> Result<Option<u64>, Violation> {
        self.expect("PUBREC", id, |sent| sent.delivery.qos == QoS::ExactlyOnce)?;
        Ok(self.set_received(id, true))
    }

    fn set_received(&mut self, id: PacketId, received: bool) -> Option<u64> {
        let window = self.window_mut(id)?;
        let place = window.place(id)?;
        let sent = window.slots.get_mut(place)?.as_mut()?;
        sent.received = received;
        Some(sent.delivery.seq)
    }

    /// PUBREC with a failure: the client does not want the message, and the delivery is over `[MQTT-4.8.2-6]`.
    pub fn refuse(&mut self, id: PacketId) -> Result<Option<Delivery>, Violation> {
        self.expect("PUBREC", id, |sent| sent.delivery.qos == QoS::ExactlyOnce)?;
        Ok(self.finish(id))
    }

    /// PUBCOMP: a QoS 2 delivery is over. `None`: there was none.
    pub fn complete(&mut self, id: PacketId) -> Result<Option<Delivery>, Violation> {
        self.expect("PUBCOMP", id, |sent| sent.received)?;
        Ok(self.finish(id))
    }

    /// An acknowledgement of what is not on its way is late, and ignored; one of the wrong kind is an error.
    fn expect(
        &self,
        packet: &'static str,
        id: PacketId,
        is_right: impl FnOnce(&Sent) -> bool,
    ) -> Result<(), Violation> {
        if self.get(id).is_none_or(is_right) {
            return Ok(());
        }
        Err(Violation::UnexpectedAcknowledgement { packet, packet_id: id.get() })
    }

    /// The delivery is over, whatever the client did. `None`: there was none.
    pub fn finish(&mut self, id: PacketId) -> Option<Delivery> {
        let window = self.window_mut(id)?;
        let over = window.take(window.place(id)?);
        if self.extra.as_ref().is_some_and(|extra| extra.slots.is_empty()) {
            self.extra = None;
        }
        over
    }

    /// The delivery with this packet identifier.
    pub fn get(&self, id: PacketId) -> Option<&Sent> {
        let window = if id.get() <= QUEUED_IDS { &self.queued } else { self.extra.as_deref()? };
        window.slots.get(window.place(id)?)?.as_ref()
    }

    fn window_mut(&mut self, id: PacketId) -> Option<&mut Window> {
        if id.get() <= QUEUED_IDS { Some(&mut self.queued) } else { self.extra.as_deref_mut() }
    }

    /// All deliveries in the order in which they were first sent `[MQTT-4.6.0-1]`.
    pub fn iter(&self) -> impl Iterator<Item = (PacketId, &Sent)> {
        let mut queued = self.queued.iter().peekable();
        let mut extra = self.extra.iter().flat_map(|extra| extra.iter()).peekable();
        std::iter::from_fn(move || {
            let is_extra = match (queued.peek(), extra.peek()) {
                (Some((seq, _)), Some((_, sent))) => sent.after < *seq,
                (queued, _) => queued.is_none(),
            };
            if is_extra {
                extra.next().map(|(number, sent)| (extra_id(number), sent))
            } else {
                queued.next().map(|(seq, sent)| (queued_id(seq), sent))
            }
        })
    }
}

impl Window {
    fn end(&self) -> u64 {
        if self.slots.is_empty() { u64::MAX } else { self.first + Inflight::SPAN }
    }

    fn put(&mut self, number: u64, sent: Sent) {
        if self.slots.is_empty() {
            self.first = number;
        }
        // What was dropped from the queue before it was sent has no slot yet.
        let at = number.saturating_sub(self.first) as usize;
        while self.slots.len() < at {
            self.slots.push_back(None);
        }
        self.slots.push_back(Some(sent));
        self.unacknowledged += 1;
    }

    fn take(&mut self, at: usize) -> Option<Delivery> {
        let sent = self.slots.get_mut(at)?.take()?;
        self.unacknowledged -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        if self.slots.is_empty() && self.slots.capacity() > 256 {
            self.slots = VecDeque::new();
        }
        Some(sent.delivery)
    }

    fn iter(&self) -> impl Iterator<Item = (u64, &Sent)> {
        (self.first..).zip(&self.slots).filter_map(|(number, slot)| slot.as_ref().map(|sent| (number, sent)))
    }

    /// Where the delivery with a packet identifier would be; the window is shorter than there are identifiers.
    fn place(&self, id: PacketId) -> Option<usize> {
        let (ids, index, first) = if id.get() <= QUEUED_IDS {
            (u64::from(QUEUED_IDS), u64::from(id.get() - 1), self.first.wrapping_sub(1))
        } else {
            (u64::from(EXTRA_IDS), u64::from(id.get() - QUEUED_IDS - 1), self.first)
        };
        let at = (index + ids - first % ids) % ids;
        usize::try_from(at).ok().filter(|at| *at < self.slots.len())
    }
}

/// The packet identifier of a place in the queue; the first place is 1.
fn queued_id(seq: u64) -> PacketId {
    let id = 1 + (seq.saturating_sub(1) % u64::from(QUEUED_IDS)) as u16;
    PacketId::new(id).unwrap_or(PacketId::MIN)
}

/// That of what does not come from the queue; the first has number 0.
fn extra_id(number: u64) -> PacketId {
    let id = QUEUED_IDS + 1 + (number % u64::from(EXTRA_IDS)) as u16;
    PacketId::new(id).unwrap_or(PacketId::MAX)
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mqtt::packet::Publish;
    use crate::store::Message;

    pub(super) fn delivery(seq: u64, qos: QoS) -> Delivery {
        let payload = seq.to_string();
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic: "t",
            packet_id: None,
            properties: Default::default(),
            payload: payload.as_bytes(),
        };
        let message = Arc::new(Message::new(&publish, "t", 0, None));
        Delivery { seq, ..Delivery::new(message, qos, false, None) }
    }

    #[test]
    fn acknowledgements_in_any_order_free_the_window() {
        let mut inflight = Inflight::default();
        let ids: Vec<_> = (1..6).map(|seq| inflight.begin(delivery(seq, QoS::AtLeastOnce))).collect();
        assert_eq!(inflight.room(5), 0);
        for at in [3, 0, 4, 1, 2] {
            assert_eq!(inflight.finish(ids[at]).unwrap().seq, at as u64 + 1);
            assert!(inflight.finish(ids[at]).is_none(), "a second acknowledgement finds nothing");
        }
        assert_eq!((inflight.len(), inflight.room(5)), (0, 5));
    }

    #[test]
    fn what_was_perhaps_sent_before_a_start_ends_at_a_place() {
        let mut inflight = Inflight::default();
        assert!(!inflight.is_perhaps_sent(1));
        inflight.was_perhaps_sent(7);
        assert!(inflight.is_perhaps_sent(7) && !inflight.is_perhaps_sent(8) && !inflight.is_perhaps_sent(EXTRA));
    }

    #[test]
    fn packet_identifiers_begin_anew_before_those_of_what_is_not_queued() {
        let mut inflight = Inflight::default();
        let first = u64::from(QUEUED_IDS) - 1;
        let ids: Vec<u16> =
            (first..first + 4).map(|seq| inflight.begin(delivery(seq, QoS::AtLeastOnce)).get()).collect();
        assert_eq!(ids, [49_150, 49_151, 1, 2]);
        inflight.extras = u64::from(EXTRA_IDS) - 1;
        let extra: Vec<u16> = (0..2).map(|_| inflight.begin_extra(delivery(0, QoS::AtLeastOnce)).0.get()).collect();
        assert_eq!(extra, [65_535, 49_152]);
        for id in [1, 49_150, 65_535, 2, 49_151, 49_152] {
            assert!(inflight.finish(PacketId::new(id).unwrap()).is_some(), "{id}");
        }
        assert!(inflight.is_empty());
    }

    #[test]
    fn what_is_not_queued_is_sent_again_at_its_time() {
        let mut inflight = Inflight::default();
        inflight.begin_extra(delivery(0, QoS::ExactlyOnce));
        inflight.begin(delivery(5, QoS::AtLeastOnce));
        inflight.begin(delivery(9, QoS::AtLeastOnce));
        inflight.begin_extra(delivery(0, QoS::AtLeastOnce));
        inflight.begin(delivery(10, QoS::AtLeastOnce));
        let order: Vec<_> = inflight.iter().map(|(id, sent)| (id.get(), sent.delivery.seq)).collect();
        assert_eq!(order, [(49_152, EXTRA), (5, 5), (9, 9), (49_153, EXTRA | 1), (10, 10)]);
    }

    #[test]
    fn a_client_that_never_acknowledges_the_oldest_cannot_grow_the_window() {
        let mut inflight = Inflight::default();
        inflight.begin(delivery(1, QoS::AtLeastOnce));
        let mut seq = 2;
        while seq < inflight.end() {
            let id = inflight.begin(delivery(seq, QoS::AtLeastOnce));
            inflight.finish(id);
            seq += 1;
        }
        assert_eq!(seq, 1 + Inflight::SPAN);
        inflight.finish(PacketId::MIN);
        assert_eq!(inflight.end(), u64::MAX, "nothing waits, so that nothing is too far away");
    }

    #[test]
    fn each_acknowledgement_fits_its_qos_and_its_place() {
        let mut inflight = Inflight::default();
        let one = inflight.begin(delivery(1, QoS::AtLeastOnce));
        let two = inflight.begin(delivery(2, QoS::ExactlyOnce));
        for wrong in [
            inflight.receive(one).err(),
            inflight.refuse(one).err(),
            inflight.acknowledge(two).err(),
            inflight.complete(one).err(),
            inflight.complete(two).err(),
        ] {
            assert!(matches!(wrong, Some(Violation::UnexpectedAcknowledgement { .. })), "{wrong:?}");
        }
        assert_eq!(inflight.receive(two), Ok(Some(2)));
        assert_eq!(inflight.receive(two), Ok(Some(2)), "a PUBREC may come again");
        assert_eq!(inflight.iter().map(|(id, _)| id.get()).collect::<Vec<_>>(), [1, 2]);
        assert!(inflight.complete(two).unwrap().is_some());
        assert!(inflight.acknowledge(one).unwrap().is_some());
        assert!(inflight.is_empty());
    }

    #[test]
    fn an_acknowledgement_of_nothing_is_ignored() {
        let mut inflight = Inflight::default();
        for id in [9, 60_000].map(|id| PacketId::new(id).unwrap()) {
            assert!(inflight.acknowledge(id).unwrap().is_none());
            assert_eq!(inflight.receive(id), Ok(None));
            assert!(inflight.complete(id).unwrap().is_none());
        }
    }
}
