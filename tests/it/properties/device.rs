//! A client by the book whose connections break: what it has sent and not got acknowledged it sends again.

use std::collections::{BTreeSet, VecDeque};

use mqtt_operator::mqtt::ReasonCode;
use mqtt_operator::mqtt::codec::{decode, encode, packet_length};
use mqtt_operator::mqtt::packet::{
    Ack, Connect, Packet, PacketId, Publish, QoS, Subscribe, SubscriptionOptions, Version,
};
use mqtt_operator::mqtt::property::{AckProperties, ConnectProperties, PublishProperties, SubscribeProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::support::PASSWORD;

/// The last publication of a sender, by which the receiver knows that nothing else comes.
const END: u32 = u32::MAX;

/// How a client differs from others without breaking a rule of its version.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub seed: u64,
    /// Publications that it has unacknowledged at a time.
    pub window: usize,
    /// Below 5.0: sends PUBLISH, PUBREL and PUBREC a second time now and then.
    pub repeats: bool,
    /// Acknowledges in any order.
    pub shuffles: bool,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// When there is nothing left to do.
    Never,
    /// Bytes that reach the broker.
    AfterSending(usize),
    /// Bytes of the broker that reach the client.
    AfterReading(usize),
    /// As before, but the connection stays open for the broker.
    AbandonedAfterReading(usize),
}

/// A publication by its place among those of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    pub number: u32,
    pub qos: QoS,
}

/// A publication on its way to the broker.
#[derive(Clone, Copy, Debug)]
struct Sent {
    id: PacketId,
    what: Numbered,
    /// QoS 2: PUBREC has come, PUBREL goes.
    released: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the session or the connection")]
pub struct Device {
    client_id: String,
    user: &'static str,
    version: Version,
    habits: Habits,
    random: u64,
    /// Whether a CONNACK has ever come: from then on the session exists.
    known: bool,
    connections: usize,
    topic: String,
    wants_subscription: bool,
    awaits_end: bool,
    /// Whether PINGRESP has come on the last connection: what the broker sends again has come before it.
    caught_up: bool,
    todo: VecDeque<Numbered>,
    sent: Vec<Sent>,
    next_id: u16,
    /// QoS 2 publications of the broker that it has not released yet.
    unreleased: BTreeSet<PacketId>,
    pub received: Vec<Numbered>,
    /// Acknowledgements that are due.
    due: Vec<Vec<u8>>,
    out: Vec<u8>,
}

fn acknowledgement(packet_id: PacketId) -> Ack<'static> {
    Ack { packet_id, code: ReasonCode::SUCCESS, properties: AckProperties::default() }
}

impl Device {
    pub fn new(client_id: String, user: &'static str, version: Version, habits: Habits) -> Self {
        Self {
            client_id,
            user,
            version,
            habits,
            random: habits.seed | 1,
            known: false,
            connections: 0,
            topic: String::new(),
            wants_subscription: false,
            awaits_end: false,
            caught_up: false,
            todo: VecDeque::new(),
            sent: Vec::new(),
            next_id: 1,
            unreleased: BTreeSet::new(),
            received: Vec::new(),
            due: Vec::new(),
            out: Vec::new(),
        }
    }

    pub fn subscribe(&mut self, topic: &str) {
        topic.clone_into(&mut self.topic);
        self.wants_subscription = true;
    }

    pub fn publish(&mut self, topic: &str, numbered: &[Numbered]) {
        topic.clone_into(&mut self.topic);
        self.todo.extend(numbered);
        self.todo.push_back(Numbered { number: END, qos: QoS::AtLeastOnce });
    }

    /// From now on it is done when the last publication has come.
    pub fn expect_end(&mut self) {
        self.awaits_end = true;
    }

    pub fn is_done(&self) -> bool {
        let idle = self.todo.is_empty() && self.sent.is_empty() && self.due.is_empty() && self.out.is_empty();
        idle && self.caught_up && !self.wants_subscription && !self.awaits_end && self.unreleased.is_empty()
    }

    /// Connects and goes on until the connection is lost, or until it is done.
    pub async fn connect(&mut self, socket: &mut DuplexStream, loss: Loss) {
        let (mut up, mut down) = match loss {
            Loss::Never => (usize::MAX, usize::MAX),
            Loss::AfterSending(bytes) => (bytes, usize::MAX),
            Loss::AfterReading(bytes) | Loss::AbandonedAfterReading(bytes) => (usize::MAX, bytes),
        };
        self.connections += 1;
        self.caught_up = false;
        self.due.clear();
        self.out.clear();
        self.greet();
        let (mut reader, mut writer) = tokio::io::split(socket);
        let (mut input, mut connected, mut buffer) = (Vec::new(), false, [0; 512]);
        while up > 0 && down > 0 && !(connected && self.is_done()) {
            if connected {
                self.fill();
            }
            let (writable, readable) = (self.out.len().min(up), down.min(buffer.len()));
            tokio::select! {
                written = writer.write(&self.out[..writable]), if writable > 0 => {
                    let Ok(written) = written else { return self.ended_by_the_broker() };
                    self.out.drain(..written);
                    up -= written;
                }
                read = reader.read(&mut buffer[..readable]) => {
                    let read = read.unwrap();
                    if read == 0 {
                        return self.ended_by_the_broker();
                    }
                    down -= read;
                    input.extend_from_slice(&buffer[..read]);
                    while let Some(length) = packet_length(&input, u32::MAX).unwrap().filter(|n| *n <= input.len()) {
                        let frame: Vec<u8> = input.drain(..length).collect();
                        connected |= self.handle(&decode(&frame, self.version).unwrap());
                    }
                }
            }
        }
    }

    /// That may happen when an earlier connection was lost while its password was checked: its CONNECT then comes after
    /// that of this connection, and takes the session over.
    fn ended_by_the_broker(&self) {
        assert!(self.connections > 1, "the broker has ended the first connection");
    }

    fn push(&mut self, packet: &Packet<'_>) {
        encode(packet, self.version, &mut self.out);
    }

    fn greet(&mut self) {
        let properties = ConnectProperties { session_expiry: Some(3600), ..ConnectProperties::default() };
        let client_id = self.client_id.clone();
        let connect = Connect {
            version: self.version,
            clean_start: false,
            keep_alive: 0,
            client_id: &client_id,
            username: Some(self.user),
            password: Some(PASSWORD),
            will: None,
            properties,
        };
        self.push(&Packet::Connect(Box::new(connect)));
    }

    /// After CONNACK: what is unacknowledged goes again, in its order.
    fn resume(&mut self) {
        if self.wants_subscription {
            let topic = self.topic.clone();
            let options = SubscriptionOptions { qos: QoS::ExactlyOnce, ..SubscriptionOptions::default() };
            let packet_id = PacketId::MAX;
            let properties = SubscribeProperties::default();
            self.push(&Packet::Subscribe(Subscribe { packet_id, properties, filters: vec![(&topic, options)] }));
        }
        for sent in self.sent.clone() {
            self.send(sent, true);
        }
        self.push(&Packet::PingReq);
    }

    fn send(&mut self, sent: Sent, dup: bool) {
        if sent.released {
            return self.push(&Packet::PubRel(acknowledgement(sent.id)));
        }
        let (topic, payload) = (self.topic.clone(), sent.what.number.to_string());
        self.push(&Packet::Publish(Publish {
            dup,
            qos: sent.what.qos,
            retain: false,
            topic: &topic,
            packet_id: Some(sent.id),
            properties: PublishProperties::default(),
            payload: payload.as_bytes(),
        }));
    }

    /// Appends what may leave now.
    fn fill(&mut self) {
        while !self.due.is_empty() {
            let at = if self.habits.shuffles { self.roll(self.due.len()) } else { 0 };
            let packet = self.due.remove(at);
            self.out.extend_from_slice(&packet);
        }
        while self.sent.len() < self.habits.window
            && let Some(what) = self.todo.front().copied()
        {
            // The end is the end: nothing is on its way any more.
            if what.number == END && !self.sent.is_empty() {
                break;
            }
            self.todo.pop_front();
            let id = PacketId::new(self.next_id).unwrap();
            self.next_id += 1;
            let sent = Sent { id, what, released: false };
            self.sent.push(sent);
            self.send(sent, false);
            if self.repeats() {
                self.send(sent, true);
            }
        }
    }

    /// A small generator: what matters is that a seed always gives the same.
    fn roll(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    /// 5.0 forbids to send again without a new connection `[MQTT-4.4.0-1]`.
    fn repeats(&mut self) -> bool {
        self.habits.repeats && self.version != Version::V5 && self.roll(3) == 0
    }

    fn acknowledge(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        encode(packet, self.version, &mut bytes);
        self.due.push(bytes);
    }

    /// Answers whether it was the CONNACK.
    fn handle(&mut self, packet: &Packet<'_>) -> bool {
        match packet {
            // An earlier connection that was lost in its CONNECT may be seen after this one; then the broker closes this one,
            // and the device comes again.
            Packet::ConnAck(connack) if connack.code == ReasonCode::SERVER_UNAVAILABLE && self.connections > 1 => {}
            Packet::ConnAck(connack) => {
                assert_eq!(connack.code, ReasonCode::SUCCESS);
                assert!(connack.session_present || !self.known || self.version == Version::V31, "the session is gone");
                self.known = true;
                self.resume();
                return true;
            }
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubAck(ack) => self.sent.retain(|sent| sent.id != ack.packet_id),
            Packet::PubRec(ack) => {
                if let Some(sent) = self.sent.iter_mut().find(|sent| sent.id == ack.packet_id) {
                    sent.released = true;
                }
                self.push(&Packet::PubRel(acknowledgement(ack.packet_id)));
                if self.repeats() {
                    self.push(&Packet::PubRel(acknowledgement(ack.packet_id)));
                }
            }
            Packet::PubRel(ack) => {
                self.unreleased.remove(&ack.packet_id);
                self.acknowledge(&Packet::PubComp(acknowledgement(ack.packet_id)));
            }
            Packet::PubComp(ack) => self.sent.retain(|sent| sent.id != ack.packet_id),
            Packet::PingResp => self.caught_up = true,
            Packet::SubAck(suback) => {
                assert!(!suback.codes[0].is_failure());
                self.wants_subscription = false;
            }
            Packet::Disconnect(disconnect) => assert_eq!(disconnect.code, ReasonCode::SESSION_TAKEN_OVER),
            other => panic!("{other:?}"),
        }
        false
    }

    fn on_publish(&mut self, publish: &Publish<'_>) {
        let number = std::str::from_utf8(publish.payload).unwrap().parse().unwrap();
        let id = publish.packet_id.expect("QoS 1 or 2");
        let what = Numbered { number, qos: publish.qos };
        let news = match publish.qos {
            QoS::ExactlyOnce => self.unreleased.insert(id),
            _ => true,
        };
        if number == END {
            self.awaits_end = false;
        } else if news {
            self.received.push(what);
        }
        if publish.qos == QoS::ExactlyOnce {
            self.acknowledge(&Packet::PubRec(acknowledgement(id)));
            if self.repeats() {
                self.acknowledge(&Packet::PubRec(acknowledgement(id)));
            }
        } else {
            self.acknowledge(&Packet::PubAck(acknowledgement(id)));
        }
    }
}
