//! Deliveries that wait for the client's acknowledgement.

use std::collections::VecDeque;

use super::Delivery;
use crate::mqtt::{PacketId, QoS};

/// Packet identifiers that may lie between the oldest unacknowledged delivery and the newest. A client that
/// acknowledges everything but one message stops here instead of growing the window for ever.
const SPAN: usize = 8192;

/// The in-flight window. Packet identifiers are given in sequence, so the place of one is its distance from the oldest.
#[derive(Debug)]
pub struct Inflight {
    /// Packet identifier of the front slot; meaningless while `slots` is empty.
    first: u16,
    next: u16,
    slots: VecDeque<Option<Sent>>,
    unacknowledged: usize,
}

/// A delivery on its way.
#[derive(Clone, Debug)]
pub struct Sent {
    pub delivery: Delivery,
    /// QoS 2: PUBREC has arrived, PUBCOMP has not.
    pub received: bool,
}

impl Default for Inflight {
    fn default() -> Self {
        Self { first: 1, next: 1, slots: VecDeque::new(), unacknowledged: 0 }
    }
}

impl Inflight {
    /// Deliveries that wait.
    pub fn len(&self) -> usize {
        self.unacknowledged
    }

    pub fn is_empty(&self) -> bool {
        self.unacknowledged == 0
    }

    /// How many more deliveries a window of `maximum` admits.
    pub fn room(&self, maximum: usize) -> usize {
        maximum.saturating_sub(self.unacknowledged).min(SPAN.saturating_sub(self.slots.len()))
    }

    /// Takes the next packet identifier for a delivery. The caller asked [`Inflight::room`] first.
    pub fn begin(&mut self, delivery: Delivery) -> PacketId {
        let id = PacketId::new(self.next).unwrap_or(PacketId::MIN);
        if self.slots.is_empty() {
            self.first = id.get();
        }
        self.next = successor(id.get());
        self.slots.push_back(Some(Sent { delivery, received: false }));
        self.unacknowledged += 1;
        id
    }

    /// PUBACK, PUBCOMP, or a PUBREC that reports a failure: the delivery is over. `None`: there was none.
    pub fn finish(&mut self, id: PacketId) -> Option<Delivery> {
        let at = self.place(id)?;
        let sent = self.slots[at].take()?;
        self.unacknowledged -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first = successor(self.first);
        }
        if self.slots.is_empty() && self.slots.capacity() > 256 {
            self.slots = VecDeque::new();
        }
        Some(sent.delivery)
    }

    /// PUBREC: the client has the message. `false`: there was no such delivery at QoS 2.
    pub fn received(&mut self, id: PacketId) -> bool {
        match self.get_mut(id) {
            Some(sent) if sent.delivery.qos == QoS::ExactlyOnce => {
                sent.received = true;
                true
            }
            _ => false,
        }
    }

    /// The delivery with this packet identifier.
    pub fn get(&self, id: PacketId) -> Option<&Sent> {
        self.slots.get(self.place(id)?)?.as_ref()
    }

    fn get_mut(&mut self, id: PacketId) -> Option<&mut Sent> {
        let at = self.place(id)?;
        self.slots.get_mut(at)?.as_mut()
    }

    /// All deliveries in the order in which they were first sent `[MQTT-4.6.0-1]`.
    pub fn iter(&self) -> impl Iterator<Item = (PacketId, &Sent)> {
        let mut id = self.first;
        self.slots.iter().filter_map(move |slot| {
            let this = PacketId::new(id)?;
            id = successor(id);
            slot.as_ref().map(|sent| (this, sent))
        })
    }

    fn place(&self, id: PacketId) -> Option<usize> {
        // Identifiers run from 1 to 65,535, so distances are counted modulo 65,535.
        let distance = (u32::from(id.get()) + 65_535 - u32::from(self.first)) % 65_535;
        let at = distance as usize;
        (at < self.slots.len()).then_some(at)
    }
}

fn successor(id: u16) -> u16 {
    if id == u16::MAX { 1 } else { id + 1 }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mqtt::packet::Publish;
    use crate::store::Message;

    pub(super) fn delivery(payload: &str, qos: QoS) -> Delivery {
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic: "t",
            packet_id: None,
            properties: Default::default(),
            payload: payload.as_bytes(),
        };
        Delivery { message: Arc::new(Message::new(&publish, "t", 0, None)), qos, retain: false, via: None }
    }

    #[test]
    fn acknowledgements_in_any_order_free_the_window() {
        let mut inflight = Inflight::default();
        let ids: Vec<_> = (0..5).map(|i| inflight.begin(delivery(&i.to_string(), QoS::AtLeastOnce))).collect();
        assert_eq!(inflight.room(5), 0);
        for at in [3, 0, 4, 1, 2] {
            assert_eq!(inflight.finish(ids[at]).unwrap().message.payload(), at.to_string().as_bytes());
            assert!(inflight.finish(ids[at]).is_none(), "a second acknowledgement finds nothing");
        }
        assert_eq!((inflight.len(), inflight.room(5)), (0, 5));
    }

    #[test]
    fn packet_identifiers_wrap_from_65535_to_1_and_stay_unique() {
        let mut inflight = Inflight { next: 65_534, ..Inflight::default() };
        let ids: Vec<u16> = (0..4).map(|_| inflight.begin(delivery("x", QoS::AtLeastOnce)).get()).collect();
        assert_eq!(ids, [65_534, 65_535, 1, 2]);
        for id in [1, 65_534, 2, 65_535] {
            assert!(inflight.finish(PacketId::new(id).unwrap()).is_some(), "{id}");
        }
        assert!(inflight.is_empty());
    }

    #[test]
    fn a_client_that_never_acknowledges_the_oldest_cannot_grow_the_window() {
        let mut inflight = Inflight::default();
        inflight.begin(delivery("stuck", QoS::AtLeastOnce));
        for _ in 0..SPAN * 2 {
            if inflight.room(10) == 0 {
                break;
            }
            let id = inflight.begin(delivery("x", QoS::AtLeastOnce));
            inflight.finish(id);
        }
        assert_eq!(inflight.room(10), 0);
        assert!(inflight.slots.len() <= SPAN);
    }

    #[test]
    fn pubrec_is_for_qos_2_only() {
        let mut inflight = Inflight::default();
        let one = inflight.begin(delivery("1", QoS::AtLeastOnce));
        let two = inflight.begin(delivery("2", QoS::ExactlyOnce));
        assert!(!inflight.received(one));
        assert!(inflight.received(two));
        assert!(inflight.get(two).unwrap().received);
        assert_eq!(inflight.iter().map(|(id, _)| id.get()).collect::<Vec<_>>(), [1, 2]);
    }
}
