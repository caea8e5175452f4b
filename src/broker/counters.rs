//! What the broker counts. Connections add up their own figures and hand them over once per turn.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::sync::Arc;

use super::Shared;

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

/// Since the start of the broker.
#[derive(Debug, Default)]
pub struct Counters {
    pub connections: AtomicU64,
    pub connected: Count,
    pub refused: Count,
    pub violations: Count,
    pub received: Count,
    pub sent: Count,
    pub dropped: Count,
    pub denied: Count,
}

/// The counters of one turn of one connection.
#[derive(Debug, Default)]
pub struct Turn {
    pub received: u64,
    pub sent: u64,
    pub dropped: u64,
    pub denied: u64,
}

impl Counters {
    /// Adds what a turn counted.
    pub fn add(&self, turn: &mut Turn) {
        self.received.add(turn.received);
        self.sent.add(turn.sent);
        self.dropped.add(turn.dropped);
        self.denied.add(turn.denied);
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
            ("mqtt_connects_refused", "Connections refused", c.refused.get()),
            ("mqtt_protocol_violations", "Connections closed because of what the client sent", c.violations.get()),
            ("mqtt_messages_received", "Publications received from clients", c.received.get()),
            ("mqtt_messages_sent", "Publications sent to clients", c.sent.get()),
            ("mqtt_messages_dropped", "Messages that a limit cost", c.dropped.get()),
            ("mqtt_messages_denied", "Publications that no rule allowed", c.denied.get()),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
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
        Ok(())
    }
}
