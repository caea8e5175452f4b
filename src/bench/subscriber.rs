//! A client that subscribes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::MissedTickBehavior;

use super::connection::Connection;
use super::payload::Stamp;
use super::publisher::bare;
use super::tally::{Arrival, Sequence, Tally};
use super::worker::Shared;
use super::{BenchError, Scenario, Settings};
use crate::mqtt::packet::{Packet, Publish};
use crate::mqtt::{QoS, codec};

/// Well within the keep alive.
const PING: Duration = Duration::from_secs(20);

/// A subscriber and what it has received.
#[derive(Debug)]
pub(super) struct Subscriber {
    connection: Connection,
    received: Received,
}

/// What one subscriber has received.
#[derive(Debug)]
pub(super) struct Received {
    run: u32,
    /// The publishers whose messages it expects.
    first_publisher: usize,
    topics: usize,
    /// By publisher, then by topic.
    expected: Vec<Sequence>,
    /// Sequences of other runs, where that is what it listens to.
    others: Option<HashMap<(u32, u32, u32), Sequence>>,
    /// Deliveries of the read under way, by publisher, and which publishers those are.
    batch: Vec<u64>,
    touched: Vec<usize>,
    pub(super) tally: Tally,
}

impl Received {
    fn new(index: usize, settings: &Settings, run: u32) -> Self {
        let (first_publisher, publishers) = match settings.scenario {
            Scenario::Pairs => (index, 1),
            _ => (0, settings.publishers),
        };
        Self {
            run,
            first_publisher,
            topics: settings.topics,
            expected: vec![Sequence::default(); publishers * settings.topics],
            others: (settings.scenario == Scenario::Subscribe).then(HashMap::new),
            batch: vec![0; publishers],
            touched: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Counts a message. Returns when it was meant to be sent, unless that is meaningless.
    fn count(&mut self, publish: &Publish<'_>) -> Option<u64> {
        let Some(stamp) = Stamp::read(publish.payload) else {
            self.tally.foreign += 1;
            return None;
        };
        if let Some(others) = &mut self.others {
            let key = (stamp.run, stamp.publisher, stamp.topic);
            let sequence = others.entry(key).or_insert_with(|| Sequence::starting_at(stamp.sequence));
            self.tally.count(sequence.arrive(stamp.sequence));
            return Some(stamp.nanoseconds);
        }
        let publisher = (stamp.publisher as usize).wrapping_sub(self.first_publisher);
        let known = stamp.run == self.run && publisher < self.batch.len() && (stamp.topic as usize) < self.topics;
        if !known {
            self.tally.foreign += 1;
            return None;
        }
        let arrival = self.expected[publisher * self.topics + stamp.topic as usize].arrive(stamp.sequence);
        self.tally.count(arrival);
        if arrival == Arrival::Duplicate {
            return None;
        }
        if self.batch[publisher] == 0 {
            self.touched.push(publisher);
        }
        self.batch[publisher] += 1;
        Some(stamp.nanoseconds)
    }

    /// Tells publishers and the run what the last read brought.
    fn settle(&mut self, before: Tally, shared: &Shared) {
        for publisher in self.touched.drain(..) {
            let deliveries = std::mem::take(&mut self.batch[publisher]);
            shared.flows[self.first_publisher + publisher].delivered(deliveries);
        }
        shared.counts.delivered.fetch_add(self.tally.delivered - before.delivered, Ordering::Relaxed);
        shared.counts.duplicates.fetch_add(self.tally.duplicates - before.duplicates, Ordering::Relaxed);
    }

    /// Messages that must have been sent, since later ones arrived, and did not arrive: all that can be said of the
    /// messages of another run.
    pub(super) fn missing_of_others(&self) -> u64 {
        self.others.iter().flat_map(HashMap::values).map(Sequence::missing).sum()
    }
}

impl Subscriber {
    pub(super) async fn open(index: usize, settings: &Settings, shared: &Shared) -> Result<Self, BenchError> {
        let mut connection = Connection::open(settings, &shared.client_id('s', index), settings.persistent).await?;
        connection.subscribe(&settings.filter(index), settings).await?;
        Ok(Self { connection, received: Received::new(index, settings, shared.run) })
    }

    /// Receives until it is dropped or the connection fails.
    pub(super) async fn run(
        &mut self,
        settings: &Settings,
        shared: &Shared,
        latency: &RefCell<Histogram<u64>>,
    ) -> Result<(), BenchError> {
        let mut ping = tokio::time::interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.tick().await;
        let Self { connection, received } = self;
        loop {
            let before = received.tally;
            // One look at the clock for all that a read brings.
            let mut now = None;
            tokio::select! {
                result = connection.read(|packet, out| {
                    let now = *now.get_or_insert_with(|| shared.clock.now());
                    let mut latency = latency.borrow_mut();
                    receive(packet, out, received, settings, |sent| latency.saturating_record(now.saturating_sub(sent)))
                }) => {
                    received.settle(before, shared);
                    result?;
                }
                _ = ping.tick() => connection.send(&Packet::PingReq),
            }
            connection.flush().await?;
        }
    }

    /// Ends the connection.
    pub(super) async fn close(self) -> Received {
        self.connection.close().await;
        self.received
    }
}

fn receive(
    packet: Packet<'_>,
    out: &mut Vec<u8>,
    received: &mut Received,
    settings: &Settings,
    record: impl FnOnce(u64),
) -> Result<(), BenchError> {
    match packet {
        Packet::Publish(publish) => {
            if let Some(sent) = received.count(&publish) {
                record(sent);
            }
            match (publish.qos, publish.packet_id) {
                (QoS::AtLeastOnce, Some(packet_id)) => {
                    codec::encode(&Packet::PubAck(bare(packet_id)), settings.version, out);
                }
                (QoS::ExactlyOnce, Some(packet_id)) => {
                    codec::encode(&Packet::PubRec(bare(packet_id)), settings.version, out);
                }
                _ => {}
            }
        }
        Packet::PubRel(ack) => codec::encode(&Packet::PubComp(bare(ack.packet_id)), settings.version, out),
        Packet::PingResp | Packet::SubAck(_) => {}
        other => return Err(BenchError::Unexpected(other.name())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::property::PublishProperties;

    fn message(run: u32, publisher: u32, sequence: u64) -> Vec<u8> {
        let mut payload = vec![0; 40];
        Stamp { run, publisher, topic: 0, sequence, nanoseconds: 9 }.write(&mut payload);
        payload
    }

    fn count(received: &mut Received, payload: &[u8]) -> Option<u64> {
        received.count(&Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "t",
            packet_id: None,
            properties: PublishProperties::default(),
            payload,
        })
    }

    #[test]
    fn only_messages_of_the_own_run_and_pair_count() {
        let settings = Settings { publishers: 3, subscribers: 3, ..Settings::new(Scenario::Pairs, 1) };
        let mut received = Received::new(1, &settings, 7);
        assert_eq!(count(&mut received, &message(7, 1, 0)), Some(9));
        assert_eq!(count(&mut received, &message(7, 1, 0)), None);
        for foreign in [message(8, 1, 1), message(7, 0, 1), message(7, 2, 1), vec![0; 10]] {
            assert_eq!(count(&mut received, &foreign), None);
        }
        assert_eq!(received.tally, Tally { delivered: 1, duplicates: 1, late: 0, foreign: 4 });
    }

    #[test]
    fn a_listener_counts_what_others_lost_since_it_came() {
        let mut received = Received::new(0, &Settings::new(Scenario::Subscribe, 1), 7);
        for sequence in [100, 101, 105] {
            assert_eq!(count(&mut received, &message(1, 0, sequence)), Some(9));
        }
        assert_eq!(received.missing_of_others(), 3);
    }
}
