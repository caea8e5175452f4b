//! What the broker counts. Connections add up their own figures and hand them over once per turn.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Shared;
use super::limits::Refusals;
use crate::mqtt::Version;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Numbers that only grow, by a label from a closed set. For what is rare: each addition takes a lock.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    pub fn add(&self, label: &'static str) {
        self.add_many(label, 1);
    }

    pub fn add_many(&self, label: &'static str, n: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(label).or_default() += n;
    }

    /// The labels that occurred, with their numbers.
    pub fn get(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn total(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

/// A listener, and what came through it.
#[derive(Debug)]
pub struct Gate {
    pub name: Box<str>,
    /// Where it is bound.
    pub address: SocketAddr,
    /// The bridge's.
    pub internal: bool,
    pub refused: Count,
    /// Connections since the start, by version.
    pub connects: [Count; Version::ALL.len()],
    /// Connections now, by version.
    pub connections: [AtomicU64; Version::ALL.len()],
}

impl Gate {
    pub fn new(name: &str, address: SocketAddr, internal: bool) -> Self {
        Self {
            name: name.into(),
            address,
            internal,
            refused: Count::default(),
            connects: Default::default(),
            connections: Default::default(),
        }
    }
}

/// Since the start of the broker.
#[derive(Debug, Default)]
pub struct Counters {
    pub connections: AtomicU64,
    /// The most connections that were seen at a time.
    pub most_connections: AtomicU64,
    pub connected: Count,
    /// Turns of connections that panicked.
    pub panics: Count,
    pub received: Count,
    pub sent: Count,
    pub dropped: Count,
    /// By action.
    pub denied: Tally,
    /// Connections that did not come about, by reason.
    pub refusals: Tally,
    /// Connections that ended, by reason.
    pub disconnects: Tally,
    /// Broken statements of the specification, by id.
    pub violations: Tally,
    /// Clients that were let in, by method.
    pub authentications: Tally,
    /// Requests that the admin port refused.
    pub admin_refusals: Tally,
    /// Lines that the log did not take, by kind.
    pub suppressed: Tally,
    /// What was refused because of a limit.
    pub limited: Refusals,
}

/// The counters of one turn of one connection.
#[derive(Debug, Default)]
pub struct Turn {
    pub received: u64,
    pub sent: u64,
    pub dropped: u64,
}

impl Counters {
    /// Adds what a turn counted.
    pub fn add(&self, turn: &mut Turn) {
        self.received.add(turn.received);
        self.sent.add(turn.sent);
        self.dropped.add(turn.dropped);
        *turn = Turn::default();
    }
}

/// Reads the counters when `/metrics` is asked.
#[derive(Debug)]
pub struct Metrics(pub Arc<Shared>);

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let c = &self.0.counters;
        let counters = [
            ("mqtt_connects", "Connections accepted", c.connected.get()),
            ("mqtt_panics", "Mistakes of the broker that cost a client its connection", c.panics.get()),
            ("mqtt_messages_received", "Publications received from clients", c.received.get()),
            ("mqtt_messages_sent", "Publications sent to clients", c.sent.get()),
            ("mqtt_messages_dropped", "Messages that a limit cost", c.dropped.get()),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let tallies = [
            ("mqtt_connects_refused", "Connections refused, by reason", "reason", &c.refusals),
            ("mqtt_disconnects", "Connections that ended, by reason", "reason", &c.disconnects),
            ("mqtt_protocol_violations", "Broken statements of the specification, by id", "id", &c.violations),
            ("mqtt_denies", "What no rule allowed, by action", "action", &c.denied),
            ("mqtt_authentications", "Clients let in, by method", "method", &c.authentications),
            ("mqtt_log_lines_suppressed", "Log lines left out, by kind", "kind", &c.suppressed),
            ("mqtt_admin_refused", "Requests refused at the admin port, by reason", "reason", &c.admin_refusals),
        ];
        for (name, help, label, tally) in tallies {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value, count) in tally.get() {
                ConstCounter::new(count).encode(family.encode_family(&[(label, value)])?)?;
            }
        }
        let retained = self.0.store.retained.lock().map_or(0, |retained| retained.len());
        let gauges = [
            ("mqtt_connections", "Clients connected now", c.connections.load(Ordering::Relaxed) as i64),
            ("mqtt_sessions", "Sessions, of clients connected and away", self.0.registry.len() as i64),
            ("mqtt_retained_messages", "Retained messages", retained as i64),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let help = "Whether clients can connect to a listener: with TLS that takes a certificate";
        let mut family = encoder.encode_descriptor("mqtt_listener_serves", help, None, MetricType::Gauge)?;
        for entrance in &self.0.entrances {
            let gauge = ConstGauge::new(i64::from(entrance.serves()));
            gauge.encode(family.encode_family(&[("listener", entrance.name.as_str())])?)?;
        }
        Ok(())
    }
}
