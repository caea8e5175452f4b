//! Deliveries that wait for the client's acknowledgement.

use std::collections::VecDeque;

use super::Delivery;
use crate::mqtt::{PacketId, QoS, Violation};

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

    /// PUBACK: a QoS 1 delivery is over. `None`: there was none.
    pub fn acknowledge(&mut self, id: PacketId) -> Result<Option<Delivery>, Violation> {
        self.expect("PUBACK", id, |sent| sent.delivery.qos == QoS::AtLeastOnce)?;
        Ok(self.finish(id))
    }

    /// PUBREC: the client has a QoS 2 message. `false`: there was no such delivery.
    pub fn receive(&mut self, id: PacketId) -> Result<bool, Violation> {
        self.expect("PUBREC", id, |sent| sent.delivery.qos == QoS::ExactlyOnce)?;
        let sent = self.get_mut(id);
        Ok(sent.map(|sent| sent.received = true).is_some())
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
    fn each_acknowledgement_fits_its_qos_and_its_place() {
        let mut inflight = Inflight::default();
        let one = inflight.begin(delivery("1", QoS::AtLeastOnce));
        let two = inflight.begin(delivery("2", QoS::ExactlyOnce));
        for wrong in [
            inflight.receive(one).err(),
            inflight.refuse(one).err(),
            inflight.acknowledge(two).err(),
            inflight.complete(one).err(),
            inflight.complete(two).err(),
        ] {
            assert!(matches!(wrong, Some(Violation::UnexpectedAcknowledgement { .. })), "{wrong:?}");
        }
        assert_eq!(inflight.receive(two), Ok(true));
        assert_eq!(inflight.receive(two), Ok(true), "a PUBREC may come again");
        assert_eq!(inflight.iter().map(|(id, _)| id.get()).collect::<Vec<_>>(), [1, 2]);
        assert!(inflight.complete(two).unwrap().is_some());
        assert!(inflight.acknowledge(one).unwrap().is_some());
        assert!(inflight.is_empty());
    }

    #[test]
    fn an_acknowledgement_of_nothing_is_ignored() {
        let mut inflight = Inflight::default();
        let id = PacketId::new(9).unwrap();
        assert!(inflight.acknowledge(id).unwrap().is_none());
        assert_eq!(inflight.receive(id), Ok(false));
        assert!(inflight.complete(id).unwrap().is_none());
    }
}
