//! What the operator counts.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Counters and gauges of one operator.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Family<Outcome, Counter>,
    durations: Histogram,
    status_writes: Counter,
    leader: Gauge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            durations: Histogram::new(exponential_buckets(0.005, 2.0, 12)),
            status_writes: Counter::default(),
            leader: Gauge::default(),
        };
        registry.register("mqtt_operator_reconciles", "Passes over an object, by result", metrics.reconciles.clone());
        registry.register_with_unit(
            "mqtt_operator_reconcile",
            "Duration of a pass over an object",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register("mqtt_operator_status_writes", "Writes of an object's status", metrics.status_writes.clone());
        registry.register("mqtt_operator_leader", "1 while this process is the leader", metrics.leader.clone());
        metrics
    }

    /// A pass over an object has ended.
    pub fn reconciled(&self, succeeded: bool, duration: Duration) {
        let result = if succeeded { "ok" } else { "error" };
        self.reconciles.get_or_create(&Outcome { result }).inc();
        self.durations.observe(duration.as_secs_f64());
    }

    pub fn status_written(&self) {
        self.status_writes.inc();
    }

    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }
}
