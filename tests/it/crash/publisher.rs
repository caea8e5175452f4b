//! A publisher by the book: what is not acknowledged goes again, in its order, under its identifier, with DUP.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mqtt_operator::mqtt::ReasonCode;
use mqtt_operator::mqtt::packet::{Ack, Packet, PacketId, Publish, QoS, Version};
use mqtt_operator::mqtt::property::PublishProperties;
use tokio::time::{Instant, sleep_until};

use super::line::{Identity, Line, Lost, ack};
use super::stage::{Kind, Numbered, Phase, Random, Stage};

/// Publications that it has unacknowledged at a time.
const WINDOW: usize = 16;
/// The most that it publishes at once.
const BURST: u64 = 12;
/// Topics of a publisher that retains, by QoS.
pub const RETAINED_TOPICS: u32 = 4;
/// One payload in so many is long.
const LONG_ONCE_IN: u64 = 6;
const LONG: u64 = 6 * 1024;

/// How far a publication is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// PUBLISH has left.
    Sent,
    /// QoS 2: PUBREC has come.
    Recorded,
    /// QoS 2: PUBREL has left, on a connection of this number.
    Released { on: u32 },
}

#[derive(Clone, Debug)]
struct Outgoing {
    id: PacketId,
    what: Numbered,
    payload: Vec<u8>,
    state: State,
}

#[derive(Debug)]
pub struct Publisher {
    stage: Arc<Stage>,
    who: Identity,
    index: usize,
    retains: bool,
    random: Random,
    /// Whether a CONNACK has ever come: from then on the session exists.
    known: bool,
    connections: u32,
    outgoing: VecDeque<Outgoing>,
    /// PUBRELs that are due, in the order of the PUBRECs.
    due: VecDeque<(Instant, PacketId)>,
    next_id: u16,
}

/// Whether this publication of a retained topic removes the value.
pub fn removes(number: u32) -> bool {
    (number / RETAINED_TOPICS) % 7 == 6
}

/// The topic of a message.
pub fn topic(what: Numbered, retained: bool) -> String {
    let Numbered { publisher, qos, number } = what;
    if retained {
        format!("t/r/{publisher}/{qos}/{}", number % RETAINED_TOPICS)
    } else {
        format!("t/s/{publisher}/{qos}")
    }
}

/// What a payload says of its message; nothing if it was not made here.
pub fn parse(payload: &[u8]) -> Option<Numbered> {
    let text = std::str::from_utf8(payload).ok()?;
    let mut words = text.split(' ');
    let publisher = words.next()?.parse().ok()?;
    let qos = words.next()?.parse().ok()?;
    let number = words.next()?.parse().ok()?;
    let length = words.next()?.parse::<usize>().ok()?;
    let whole = words.next()?.len() == length;
    whole.then_some(Numbered { publisher, qos, number })
}

impl Publisher {
    pub fn new(stage: &Arc<Stage>, index: usize, version: Version, retains: bool, seed: u64) -> Self {
        let who = Identity { client_id: format!("publisher-{index}"), user: "u1", version, receive_maximum: None };
        Self {
            stage: stage.clone(),
            who,
            index,
            retains,
            random: Random::new(seed, 100 + index as u64),
            known: false,
            connections: 0,
            outgoing: VecDeque::new(),
            due: VecDeque::new(),
            next_id: 1,
        }
    }

    /// Publishes until the run drains and everything is acknowledged.
    pub async fn live(mut self) {
        while let Some(mut line) = Line::open(&self.stage, self.who.version).await {
            self.connections += 1;
            if self.connected(&mut line).await.is_ok() {
                return;
            }
        }
    }

    fn is_done(&self) -> bool {
        self.stage.now().phase > Phase::Busy && self.outgoing.is_empty()
    }

    async fn connected(&mut self, line: &mut Line) -> Result<(), Lost> {
        let present = line.greet(&self.who, false, None).await?;
        if self.known && !present && self.who.version != Version::V31 {
            self.stage.find(Kind::Session, format!("that of {} is gone", self.who.client_id));
            // A right client lets go of what the broker does not know any more, and publishes the rest anew.
            self.outgoing.retain(|outgoing| outgoing.state == State::Sent);
        } else if self.known {
            self.stage.counts.sessions_resumed.fetch_add(1, Ordering::Relaxed);
        } else {
            self.known = true;
            self.stage.ready.fetch_add(1, Ordering::Relaxed);
        }
        self.resume(line, present);
        line.flush().await?;
        let mut watch = self.stage.watch();
        let mut burst_at = Instant::now();
        while !self.is_done() {
            let release_at = self.due.front().map_or(burst_at, |(at, _)| *at);
            let publishes = self.stage.now().phase == Phase::Busy && self.outgoing.len() < WINDOW;
            tokio::select! {
                frame = line.next() => {
                    let frame = frame?;
                    let packet = line.decode(&frame)?;
                    self.handle(&packet)?;
                }
                () = sleep_until(release_at), if !self.due.is_empty() => self.release(line),
                () = sleep_until(burst_at), if publishes => {
                    for _ in 0..=self.random.below(BURST) {
                        self.publish(line);
                    }
                    burst_at = Instant::now() + self.random.millis(0, 30);
                }
                changed = watch.changed() => changed.map_err(|_| Lost)?,
            }
            line.flush().await?;
        }
        Ok(())
    }

    /// What is unacknowledged goes again, in its order.
    fn resume(&mut self, line: &mut Line, dup: bool) {
        self.due.clear();
        let again: Vec<PacketId> = self.outgoing.iter().map(|outgoing| outgoing.id).collect();
        for id in again {
            let at = self.outgoing.iter().position(|outgoing| outgoing.id == id).expect("it was there a moment ago");
            if self.outgoing[at].state == State::Sent {
                let what = self.outgoing[at].what;
                self.stage.stream(what).repeated.fetch_max(what.number, Ordering::Relaxed);
                send(line, &self.outgoing[at], dup, self.retains);
            } else {
                // As before: at once, or a little later.
                self.due.push_back((Instant::now(), id));
            }
        }
    }

    fn publish(&mut self, line: &mut Line) {
        let qos = if self.retains { 1 + self.random.below(2) } else { self.random.below(3) } as usize;
        if qos > 0 && self.outgoing.len() >= WINDOW {
            return;
        }
        let stream = &self.stage.streams[self.index][qos];
        let number = stream.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let what = Numbered { publisher: self.index, qos, number };
        let id = PacketId::new(self.next_id).expect("identifiers begin at 1");
        let length = if self.random.once_in(LONG_ONCE_IN) { self.random.below(LONG) } else { self.random.below(64) };
        let payload = if self.retains && removes(number) {
            Vec::new()
        } else {
            format!("{} {qos} {number} {length} {}", self.index, "x".repeat(length as usize)).into_bytes()
        };
        let outgoing = Outgoing { id, what, payload, state: State::Sent };
        send(line, &outgoing, false, self.retains);
        if qos > 0 {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            self.outgoing.push_back(outgoing);
        }
    }

    /// The PUBRELs whose time has come.
    fn release(&mut self, line: &mut Line) {
        while let Some((_, id)) = self.due.pop_front_if(|(at, _)| *at <= Instant::now()) {
            line.push(&Packet::PubRel(ack(id)));
            if let Some(outgoing) = self.outgoing.iter_mut().find(|outgoing| outgoing.id == id)
                && outgoing.state == State::Recorded
            {
                outgoing.state = State::Released { on: self.connections };
            }
        }
    }

    fn acknowledged(&self, what: Numbered) {
        self.stage.stream(what).acknowledged.fetch_max(what.number, Ordering::Relaxed);
    }

    fn handle(&mut self, packet: &Packet<'_>) -> Result<(), Lost> {
        let (Packet::PubAck(answer) | Packet::PubRec(answer) | Packet::PubComp(answer)) = packet else {
            self.stage.find(Kind::Protocol, format!("{} gets {packet:?}", self.who.client_id));
            return Err(Lost);
        };
        let Some(at) = self.outgoing.iter().position(|outgoing| outgoing.id == answer.packet_id) else {
            self.stage.find(Kind::Protocol, format!("{} gets {packet:?} for nothing", self.who.client_id));
            return Err(Lost);
        };
        let Outgoing { what, state, .. } = self.outgoing[at];
        let fits = match (packet, state) {
            (Packet::PubAck(_), State::Sent) => what.qos == 1 && !answer.code.is_failure(),
            (Packet::PubRec(_), State::Sent) => what.qos == 2 && !answer.code.is_failure(),
            (Packet::PubComp(_), State::Released { on }) => self.completes(answer, on),
            _ => false,
        };
        if !fits {
            self.stage.find(Kind::Protocol, format!("{} gets {packet:?} for {what:?}, {state:?}", self.who.client_id));
            return Err(Lost);
        }
        if let Packet::PubRec(_) = packet {
            self.acknowledged(what);
            self.outgoing[at].state = State::Recorded;
            // Now and then a kill falls between PUBREC and PUBREL.
            let wait = if self.random.once_in(4) { self.random.millis(1, 60) } else { std::time::Duration::ZERO };
            self.due.push_back((Instant::now() + wait, answer.packet_id));
        } else {
            if what.qos == 1 {
                self.acknowledged(what);
            }
            self.outgoing.remove(at);
        }
        Ok(())
    }

    /// An identifier may be unknown to the broker only where an earlier PUBREL may have come through.
    fn completes(&self, answer: &Ack<'_>, released_on: u32) -> bool {
        match answer.code {
            ReasonCode::SUCCESS => true,
            ReasonCode::PACKET_IDENTIFIER_NOT_FOUND => released_on < self.connections,
            _ => false,
        }
    }
}

fn send(line: &mut Line, outgoing: &Outgoing, dup: bool, retain: bool) {
    let qos = QoS::from_bits(outgoing.what.qos as u8).expect("0, 1 or 2");
    let topic = topic(outgoing.what, retain);
    line.push(&Packet::Publish(Publish {
        dup,
        qos,
        retain,
        topic: &topic,
        packet_id: Some(outgoing.id).filter(|_| outgoing.what.qos > 0),
        properties: PublishProperties::default(),
        payload: &outgoing.payload,
    }));
}
