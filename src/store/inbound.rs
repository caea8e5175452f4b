//! What a client has published and is not done with.

use std::collections::HashSet;

use crate::mqtt::{PacketId, QoS, Violation};

/// The receiver's side of QoS 1 and 2. The identifiers outlive the connection, so that QoS 2 stays exactly once across
/// reconnects; the count of the Receive Maximum begins anew with each connection `[MQTT-4.9.0-1]`.
#[derive(Debug, Default)]
pub struct Inbound {
    /// QoS 2 publications that were taken and not yet released by PUBREL.
    unreleased: HashSet<PacketId>,
    /// Publications of this connection whose PUBACK or PUBCOMP, or failing PUBREC, has not been sent.
    unacknowledged: u32,
}

/// What a publication is to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    New,
    /// QoS 2, and taken before: it is acknowledged again, and not delivered again `[MQTT-4.3.3-10]`.
    Again,
}

impl Inbound {
    /// What a client had not released when the broker ended.
    pub fn restore(unreleased: impl IntoIterator<Item = PacketId>) -> Self {
        Self { unreleased: unreleased.into_iter().collect(), unacknowledged: 0 }
    }

    /// Another connection continues the session.
    pub fn reconnect(&mut self) {
        self.unacknowledged = 0;
    }

    /// PUBLISH. A client that has `maximum` on the way and sends one more has broken `[MQTT-3.3.4-7]`.
    pub fn publish(&mut self, qos: QoS, id: PacketId, maximum: u16) -> Result<Arrival, Violation> {
        if qos == QoS::ExactlyOnce && self.unreleased.contains(&id) {
            return Ok(Arrival::Again);
        }
        if self.unacknowledged >= u32::from(maximum) {
            return Err(Violation::ReceiveMaximum { maximum });
        }
        self.unacknowledged += 1;
        if qos == QoS::ExactlyOnce {
            self.unreleased.insert(id);
        }
        Ok(Arrival::New)
    }

    /// The PUBACKs of so many publications have been sent.
    pub fn acknowledged(&mut self, count: u32) {
        self.unacknowledged = self.unacknowledged.saturating_sub(count);
    }

    /// A PUBREC that reports a failure has been sent: the identifier is free again `[MQTT-4.3.3-9]`.
    pub fn refuse(&mut self, id: PacketId) {
        self.unreleased.remove(&id);
        self.acknowledged(1);
    }

    /// PUBREL, which PUBCOMP answers. `false`: nothing was to be released.
    pub fn release(&mut self, id: PacketId) -> bool {
        let known = self.unreleased.remove(&id);
        if known {
            self.acknowledged(1);
        }
        known
    }

    /// QoS 2 publications that wait for their PUBREL.
    pub fn unreleased(&self) -> usize {
        self.unreleased.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    #[test]
    fn qos_2_is_new_once_until_it_is_released() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(7), 10), Ok(Arrival::New));
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(7), 10), Ok(Arrival::Again));
        inbound.reconnect();
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(7), 10), Ok(Arrival::Again), "over a reconnect too");
        assert!(inbound.release(id(7)));
        assert!(!inbound.release(id(7)), "a second PUBREL finds nothing");
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(7), 10), Ok(Arrival::New), "the identifier may be used again");
    }

    #[test]
    fn the_receive_maximum_counts_qos_1_until_puback_and_qos_2_until_pubcomp() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.publish(QoS::AtLeastOnce, id(1), 2), Ok(Arrival::New));
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(2), 2), Ok(Arrival::New));
        let exceeded = Err(Violation::ReceiveMaximum { maximum: 2 });
        assert_eq!(inbound.publish(QoS::AtLeastOnce, id(3), 2), exceeded);
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(2), 2), Ok(Arrival::Again), "what was taken counts once");
        inbound.acknowledged(1);
        assert_eq!(inbound.publish(QoS::AtLeastOnce, id(3), 2), Ok(Arrival::New));
        assert!(inbound.release(id(2)));
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(4), 2), Ok(Arrival::New));
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(5), 2), exceeded);
    }

    #[test]
    fn a_refused_publication_is_free_at_once() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(1), 1), Ok(Arrival::New));
        inbound.refuse(id(1));
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(1), 1), Ok(Arrival::New));
    }

    #[test]
    fn the_count_begins_anew_with_a_connection() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.publish(QoS::ExactlyOnce, id(1), 1), Ok(Arrival::New));
        inbound.reconnect();
        assert_eq!(inbound.publish(QoS::AtLeastOnce, id(2), 1), Ok(Arrival::New));
        assert_eq!(inbound.unreleased(), 1);
    }
}
