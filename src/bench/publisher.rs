//! A client that publishes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::time::MissedTickBehavior;

use super::connection::Connection;
use super::flow::Flow;
use super::payload::Stamp;
use super::worker::{Schedule, Shared};
use super::{BenchError, Settings, pacer};
use crate::mqtt::packet::{Ack, Packet, Publish};
use crate::mqtt::property::{AckProperties, PublishProperties};
use crate::mqtt::{PacketId, QoS, ReasonCode, codec};

/// Bytes that are gathered for one write where no window bounds the batch.
const BATCH_BYTES: usize = 32 * 1024;

/// How often a publisher looks whether its messages still arrive. What is under way at two looks without a delivery in
/// between is given up.
const STALL: Duration = Duration::from_millis(500);

/// Ticks of [`STALL`] between two pings.
const PING_TICKS: u32 = 40;

/// A publisher and what it is in the middle of.
#[derive(Debug)]
pub(super) struct Publisher {
    index: usize,
    connection: Connection,
    flow: Arc<Flow>,
    templates: Vec<Template>,
    /// Packet ids that are free, the most recently freed last.
    free: Vec<u16>,
    /// By packet id: when it was meant to be sent.
    stamps: Vec<u64>,
    sent: u64,
    window: usize,
}

/// An encoded PUBLISH whose packet id and stamp are overwritten for each message.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    packet_id_at: usize,
    payload_at: usize,
    sequence: u64,
}

/// What publishers of a thread measure.
#[derive(Debug)]
pub(super) struct Measured {
    /// From the intended time of sending to the end of the acknowledgement, nanoseconds.
    pub(super) acknowledged: Histogram<u64>,
    /// From the intended time of sending to the write, nanoseconds.
    pub(super) lateness: Histogram<u64>,
}

impl Publisher {
    pub(super) async fn open(index: usize, settings: &Settings, shared: &Shared) -> Result<Self, BenchError> {
        let connection = Connection::open(settings, &shared.client_id('p', index), false).await?;
        let window = settings.inflight.min(connection.receive_maximum);
        let templates = (0..settings.topics).map(|topic| template(settings, index, topic)).collect();
        Ok(Self {
            index,
            connection,
            flow: shared.flows[index].clone(),
            templates,
            free: if settings.qos == QoS::AtMostOnce { Vec::new() } else { (1..=window).rev().collect() },
            stamps: vec![0; usize::from(window) + 1],
            sent: 0,
            window: usize::from(window),
        })
    }

    /// Publishes until the end of the schedule and until all is acknowledged; then only keeps the connection.
    pub(super) async fn run(
        &mut self,
        settings: &Settings,
        shared: &Shared,
        schedule: Schedule,
        measured: &std::cell::RefCell<Measured>,
    ) -> Result<(), BenchError> {
        let mut tick = tokio::time::interval(STALL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut ticks, mut deliveries, mut done) = (0_u32, u64::MAX, false);
        let end = tokio::time::sleep_until(schedule.end.into());
        tokio::pin!(end);
        loop {
            let over = self.is_over(settings, schedule);
            let count = if over { 0 } else { self.allowed(settings) };
            if count > 0 {
                self.append(count, settings, shared, schedule, &mut measured.borrow_mut());
            }
            self.connection.flush().await?;
            if over && !done && self.unacknowledged(settings) == 0 {
                done = true;
                shared.counts.publishers_done.fetch_add(1, Ordering::Relaxed);
            }
            self.flow.wait_begins();
            if !over && self.allowed(settings) > 0 {
                self.flow.wait_ends();
                continue;
            }
            let Self { connection, free, stamps, .. } = self;
            tokio::select! {
                result = connection.read(|packet, out| {
                    acknowledge(packet, out, free, stamps, settings, shared, &mut measured.borrow_mut())
                }) => result?,
                () = self.flow.wake.notified() => {}
                () = &mut end, if !over && settings.rate.is_none() => {}
                _ = tick.tick() => {
                    ticks += 1;
                    if ticks.is_multiple_of(PING_TICKS) {
                        self.connection.send(&Packet::PingReq);
                    }
                    let now = self.flow.deliveries();
                    if now == deliveries {
                        self.flow.write_off();
                    }
                    deliveries = now;
                }
            }
            self.flow.wait_ends();
        }
    }

    fn is_over(&self, settings: &Settings, schedule: Schedule) -> bool {
        match settings.rate {
            Some(_) => self.flow.is_closed() && self.flow.due() == self.sent,
            None => Instant::now() >= schedule.end,
        }
    }

    fn unacknowledged(&self, settings: &Settings) -> usize {
        if settings.qos == QoS::AtMostOnce { 0 } else { self.window - self.free.len() }
    }

    /// Messages that unacknowledged ones leave room for.
    fn acknowledgement_room(&self, settings: &Settings) -> usize {
        if settings.qos == QoS::AtMostOnce { (BATCH_BYTES / settings.size).clamp(1, 256) } else { self.free.len() }
    }

    /// How many messages to send now. Without a rate they are sent half a window at a time, so that both ends batch.
    fn allowed(&self, settings: &Settings) -> usize {
        let room = self.acknowledgement_room(settings);
        if settings.rate.is_some() {
            return room.min((self.flow.due() - self.sent) as usize);
        }
        let half = self.window.div_ceil(2);
        let room = match self.flow.room() {
            Some(deliverable) if (deliverable as usize) < half => 0,
            Some(deliverable) => room.min(deliverable as usize),
            None => room,
        };
        if settings.qos != QoS::AtMostOnce && self.free.len() < half { 0 } else { room }
    }

    fn append(
        &mut self,
        count: usize,
        settings: &Settings,
        shared: &Shared,
        schedule: Schedule,
        measured: &mut Measured,
    ) {
        let now = shared.clock.now();
        for _ in 0..count {
            let nanoseconds = settings.rate.map_or(now, |rate| {
                let number = self.sent * settings.publishers as u64 + self.index as u64;
                shared.clock.at(schedule.start) + pacer::offset(number, rate).as_nanos() as u64
            });
            measured.lateness.saturating_record(now.saturating_sub(nanoseconds));
            let topic = (self.sent % self.templates.len() as u64) as usize;
            let template = &mut self.templates[topic];
            let run = shared.run;
            let stamp = Stamp {
                run,
                publisher: self.index as u32,
                topic: topic as u32,
                sequence: template.sequence,
                nanoseconds,
            };
            stamp.write(&mut template.bytes[template.payload_at..]);
            template.sequence += 1;
            if let Some(packet_id) = self.free.pop() {
                self.stamps[usize::from(packet_id)] = nanoseconds;
                template.bytes[template.packet_id_at..template.packet_id_at + 2]
                    .copy_from_slice(&packet_id.to_be_bytes());
            }
            self.connection.out.extend_from_slice(&template.bytes);
            self.sent += 1;
        }
        self.flow.sent(count as u64);
        shared.counts.published.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Ends the connection.
    pub(super) async fn close(self) {
        self.connection.close().await;
    }
}

fn template(settings: &Settings, publisher: usize, topic: usize) -> Template {
    let topic = settings.topic(publisher, topic);
    let payload = vec![b'.'; settings.size];
    let publish = Publish {
        dup: false,
        qos: settings.qos,
        retain: false,
        topic: &topic,
        packet_id: None,
        properties: PublishProperties::default(),
        payload: &payload,
    };
    let mut bytes = Vec::new();
    let packet_id_at = codec::encode_publish(&publish, settings.version, &mut bytes);
    let payload_at = bytes.len() - settings.size;
    Template { bytes, packet_id_at, payload_at, sequence: 0 }
}

/// Takes an acknowledgement and frees its packet id.
fn acknowledge(
    packet: Packet<'_>,
    out: &mut Vec<u8>,
    free: &mut Vec<u16>,
    stamps: &[u64],
    settings: &Settings,
    shared: &Shared,
    measured: &mut Measured,
) -> Result<(), BenchError> {
    let (packet_id, code) = match packet {
        Packet::PubAck(ack) | Packet::PubComp(ack) => (ack.packet_id, ack.code),
        Packet::PubRec(ack) if ack.code.is_failure() => (ack.packet_id, ack.code),
        Packet::PubRec(ack) => {
            codec::encode(&Packet::PubRel(bare(ack.packet_id)), settings.version, out);
            return Ok(());
        }
        Packet::PingResp => return Ok(()),
        other => return Err(BenchError::Unexpected(other.name())),
    };
    let Some(stamp) = stamps.get(usize::from(packet_id.get())) else {
        return Err(BenchError::Unexpected("packet identifier"));
    };
    measured.acknowledged.saturating_record(shared.clock.now().saturating_sub(*stamp));
    free.push(packet_id.get());
    shared.counts.acknowledged.fetch_add(1, Ordering::Relaxed);
    if code.is_failure() {
        shared.counts.refused.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// An acknowledgement without properties.
pub(super) fn bare(packet_id: PacketId) -> Ack<'static> {
    Ack { packet_id, code: ReasonCode::SUCCESS, properties: AckProperties::default() }
}
