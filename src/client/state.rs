//! The protocol state of one connection, without I/O: what was sent and waits for an answer, what was received and is
//! owed one, and the bytes that are to be written.

use std::collections::{HashMap, HashSet, VecDeque};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Connected, Delivery, Error, Message};
use crate::mqtt::packet::{Ack, Disconnect, PacketId, Publish, SubAck, Subscribe, SubscriptionOptions, Unsubscribe};
use crate::mqtt::property::{AckProperties, DisconnectProperties, SubscribeProperties, UnsubscribeProperties};
use crate::mqtt::{Packet, QoS, ReasonCode, Version, codec};

/// A publication that waits for its PUBACK, PUBREC or PUBCOMP.
#[derive(Debug)]
struct Publication {
    awaited: Awaited,
    done: oneshot::Sender<ReasonCode>,
    /// Its place in the server's Receive Maximum, given back when it goes.
    _permit: Option<OwnedSemaphorePermit>,
}

/// What the server says next of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Acknowledged,
    Received,
    Completed,
}

/// A delivery that is to be acknowledged.
#[derive(Debug)]
struct Owed {
    packet_id: PacketId,
    qos: QoS,
    acknowledged: bool,
}

#[derive(Debug)]
pub(super) struct State {
    version: Version,
    maximum_packet_size: u32,
    maximum_qos: QoS,
    retain_available: bool,
    /// What is to be written.
    pub(super) output: Vec<u8>,
    /// DISCONNECT is in the output: nothing may follow it.
    pub(super) closing: bool,
    pub(super) ping_outstanding: bool,
    last_id: u16,
    publications: HashMap<PacketId, Publication>,
    requests: HashMap<PacketId, oneshot::Sender<Vec<ReasonCode>>>,
    /// QoS 2 deliveries whose PUBREL has not come.
    received: HashSet<PacketId>,
    /// In the order of the deliveries. The first one has the sequence number `settled`.
    owed: VecDeque<Owed>,
    settled: u64,
}

impl State {
    pub(super) fn new(version: Version, connected: &Connected) -> Self {
        Self {
            version,
            maximum_packet_size: connected.maximum_packet_size,
            maximum_qos: connected.maximum_qos,
            retain_available: connected.retain_available,
            output: Vec::new(),
            closing: false,
            ping_outstanding: false,
            last_id: 0,
            publications: HashMap::new(),
            requests: HashMap::new(),
            received: HashSet::new(),
            owed: VecDeque::new(),
            settled: 0,
        }
    }

    pub(super) fn publish(
        &mut self,
        message: &Message,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Option<oneshot::Receiver<ReasonCode>>, Error> {
        if message.qos > self.maximum_qos {
            return Err(Error::NotOffered("this QoS"));
        }
        if message.retain && !self.retain_available {
            return Err(Error::NotOffered("retained messages"));
        }
        let awaited = match message.qos {
            QoS::AtMostOnce => return self.write(&Packet::Publish(message.publish(None))).map(|()| None),
            QoS::AtLeastOnce => Awaited::Acknowledged,
            QoS::ExactlyOnce => Awaited::Received,
        };
        let id = self.free_id()?;
        self.write(&Packet::Publish(message.publish(Some(id))))?;
        let (done, answer) = oneshot::channel();
        self.publications.insert(id, Publication { awaited, done, _permit: permit });
        Ok(Some(answer))
    }

    pub(super) fn subscribe(
        &mut self,
        filters: &[(&str, SubscriptionOptions)],
    ) -> Result<oneshot::Receiver<Vec<ReasonCode>>, Error> {
        let packet_id = self.free_id()?;
        let filters = filters.to_vec();
        self.write(&Packet::Subscribe(Subscribe { packet_id, properties: SubscribeProperties::default(), filters }))?;
        Ok(self.expect(packet_id))
    }

    pub(super) fn unsubscribe(&mut self, filters: &[&str]) -> Result<oneshot::Receiver<Vec<ReasonCode>>, Error> {
        let packet_id = self.free_id()?;
        let properties = UnsubscribeProperties::default();
        self.write(&Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters: filters.to_vec() }))?;
        Ok(self.expect(packet_id))
    }

    fn expect(&mut self, packet_id: PacketId) -> oneshot::Receiver<Vec<ReasonCode>> {
        let (done, answer) = oneshot::channel();
        self.requests.insert(packet_id, done);
        answer
    }

    pub(super) fn disconnect(&mut self, code: ReasonCode) {
        let packet = Packet::Disconnect(Disconnect { code, properties: DisconnectProperties::default() });
        codec::encode(&packet, self.version, &mut self.output);
        self.closing = true;
    }

    pub(super) fn ping(&mut self) {
        codec::encode(&Packet::PingReq, self.version, &mut self.output);
        self.ping_outstanding = true;
    }

    /// Acknowledges the delivery with this sequence number, and with it every later one that was only waiting for it.
    pub(super) fn acknowledge(&mut self, sequence: u64) {
        let place = sequence.checked_sub(self.settled).and_then(|offset| usize::try_from(offset).ok());
        let Some(owed) = place.and_then(|place| self.owed.get_mut(place)) else { return };
        owed.acknowledged = true;
        while let Some(&Owed { packet_id, qos, acknowledged: true }) = self.owed.front() {
            self.owed.pop_front();
            self.settled += 1;
            let code = ReasonCode::SUCCESS;
            match qos {
                QoS::ExactlyOnce => self.answer(Packet::PubRec, packet_id, code),
                _ => self.answer(Packet::PubAck, packet_id, code),
            }
        }
    }

    /// Takes in one packet of the server. A PUBLISH becomes a delivery.
    pub(super) fn receive(&mut self, packet: &Packet<'_>) -> Result<Option<Delivery>, Error> {
        match packet {
            Packet::Publish(publish) => return Ok(self.deliver(publish)),
            Packet::PubAck(ack) => self.complete(ack, Awaited::Acknowledged),
            Packet::PubRec(ack) => self.received_by_server(ack),
            Packet::PubComp(ack) => self.complete(ack, Awaited::Completed),
            Packet::PubRel(ack) => {
                let known = self.received.remove(&ack.packet_id);
                let code = if known { ReasonCode::SUCCESS } else { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND };
                self.answer(Packet::PubComp, ack.packet_id, code);
            }
            Packet::SubAck(SubAck { packet_id, codes, .. }) | Packet::UnsubAck(SubAck { packet_id, codes, .. }) => {
                if let Some(done) = self.requests.remove(packet_id) {
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(codes.clone());
                }
            }
            Packet::PingResp => self.ping_outstanding = false,
            Packet::Disconnect(disconnect) => {
                let reason = disconnect.properties.reason_string.unwrap_or_default().to_owned();
                return Err(Error::Disconnected { code: disconnect.code, reason });
            }
            Packet::ConnAck(_) => return Err(Error::Unexpected("CONNACK")),
            Packet::Auth(_) => return Err(Error::Unexpected("AUTH")),
            Packet::Connect(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::PingReq => {
                return Err(Error::Unexpected("packet that only a client sends"));
            }
        }
        Ok(None)
    }

    fn deliver(&mut self, publish: &Publish<'_>) -> Option<Delivery> {
        let Some(packet_id) = publish.packet_id else { return Some(Delivery::copy(publish, None)) };
        if publish.qos == QoS::ExactlyOnce && !self.received.insert(packet_id) {
            // The same message again `[MQTT-4.3.3-10]`: the application has it already.
            self.answer(Packet::PubRec, packet_id, ReasonCode::SUCCESS);
            return None;
        }
        let sequence = self.settled + self.owed.len() as u64;
        self.owed.push_back(Owed { packet_id, qos: publish.qos, acknowledged: false });
        Some(Delivery::copy(publish, Some(sequence)))
    }

    fn received_by_server(&mut self, ack: &Ack<'_>) {
        match self.publications.get_mut(&ack.packet_id) {
            Some(publication) if publication.awaited == Awaited::Received && !ack.code.is_failure() => {
                publication.awaited = Awaited::Completed;
                self.answer(Packet::PubRel, ack.packet_id, ReasonCode::SUCCESS);
            }
            Some(_) => self.complete(ack, Awaited::Received),
            None => self.answer(Packet::PubRel, ack.packet_id, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND),
        }
    }

    fn complete(&mut self, ack: &Ack<'_>, awaited: Awaited) {
        // An acknowledgement of something unknown belongs to a connection before this one.
        if self.publications.get(&ack.packet_id).is_some_and(|publication| publication.awaited == awaited)
            && let Some(publication) = self.publications.remove(&ack.packet_id)
        {
            let _ = publication.done.send(ack.code);
        }
    }

    fn answer(&mut self, kind: fn(Ack<'static>) -> Packet<'static>, packet_id: PacketId, code: ReasonCode) {
        let packet = kind(Ack { packet_id, code, properties: AckProperties::default() });
        codec::encode(&packet, self.version, &mut self.output);
    }

    fn write(&mut self, packet: &Packet<'_>) -> Result<(), Error> {
        let start = self.output.len();
        codec::encode(packet, self.version, &mut self.output);
        let size = self.output.len() - start;
        if size > self.maximum_packet_size as usize {
            self.output.truncate(start);
            return Err(Error::TooLarge { size, limit: self.maximum_packet_size });
        }
        Ok(())
    }

    fn free_id(&mut self) -> Result<PacketId, Error> {
        for _ in 0..u16::MAX {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && !self.publications.contains_key(&id)
                && !self.requests.contains_key(&id)
            {
                return Ok(id);
            }
        }
        Err(Error::PacketIdsExhausted)
    }

    /// Lets everyone who waits for an answer know that none will come.
    pub(super) fn give_up(&mut self) {
        self.publications.clear();
        self.requests.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTED: Connected = Connected {
        session_present: false,
        code: ReasonCode::SUCCESS,
        assigned_client_id: None,
        server_keep_alive: None,
        session_expiry: None,
        receive_maximum: 10,
        maximum_qos: QoS::AtLeastOnce,
        retain_available: false,
        maximum_packet_size: 50,
    };

    fn state() -> State {
        State::new(Version::V5, &CONNECTED)
    }

    fn publish(id: u16, qos: QoS) -> Packet<'static> {
        Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic: "t",
            packet_id: PacketId::new(id),
            properties: crate::mqtt::property::PublishProperties::default(),
            payload: b"",
        })
    }

    /// The acknowledgements in the output: first byte and packet id.
    fn answers(state: &mut State) -> Vec<(u8, u8)> {
        let output = std::mem::take(&mut state.output);
        let mut rest = output.as_slice();
        let mut answers = Vec::new();
        while let [kind, length, _, id, ..] = *rest {
            answers.push((kind, id));
            rest = &rest[2 + usize::from(length)..];
        }
        answers
    }

    #[test]
    fn acknowledgements_leave_in_the_order_of_the_deliveries() {
        let mut state = state();
        let mut sequences = Vec::new();
        for (id, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce), (3, QoS::AtLeastOnce)] {
            let delivery = state.receive(&publish(id, qos)).unwrap().unwrap();
            sequences.push(delivery.sequence.unwrap());
        }
        state.acknowledge(sequences[2]);
        state.acknowledge(sequences[1]);
        assert_eq!(answers(&mut state), []);
        state.acknowledge(sequences[0]);
        assert_eq!(answers(&mut state), [(0x40, 1), (0x50, 2), (0x40, 3)]);
        state.acknowledge(sequences[1]);
        assert_eq!(answers(&mut state), [], "what was acknowledged is not acknowledged again");
    }

    #[test]
    fn a_qos_2_message_that_comes_again_before_its_release_is_not_delivered_again() {
        let mut state = state();
        let delivery = state.receive(&publish(9, QoS::ExactlyOnce)).unwrap().unwrap();
        state.acknowledge(delivery.sequence.unwrap());
        assert_eq!(state.receive(&publish(9, QoS::ExactlyOnce)).unwrap(), None);
        let release = Ack { packet_id: PacketId::MIN, code: ReasonCode::SUCCESS, properties: AckProperties::default() };
        let release = |id| Packet::PubRel(Ack { packet_id: PacketId::new(id).unwrap(), ..release.clone() });
        state.receive(&release(9)).unwrap();
        assert_eq!(answers(&mut state), [(0x50, 9), (0x50, 9), (0x70, 9)]);
        assert!(state.receive(&publish(9, QoS::ExactlyOnce)).unwrap().is_some());
    }

    #[test]
    fn what_the_server_does_not_offer_is_not_sent() {
        let mut state = state();
        for (message, expected) in [
            (Message::new("t", "", QoS::ExactlyOnce), "the server does not offer this QoS"),
            (Message::new("t", "", QoS::AtMostOnce).retained(), "the server does not offer retained messages"),
            (Message::new("t", vec![0; 60], QoS::AtMostOnce), "a packet of 66 bytes exceeds the server's limit of 50"),
        ] {
            assert_eq!(state.publish(&message, None).unwrap_err().to_string(), expected);
        }
        assert!(state.output.is_empty());
    }
}
