//! What the operator counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::auth::key::{KeyState, KeyStates};

/// Counters and gauges of one operator.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Family<Outcome, Counter>,
    durations: Histogram,
    status_writes: Counter,
    leader: Gauge,
    keys: Family<Key, Gauge>,
    /// What is said of the keys of each object, to be able to take it back.
    said: Arc<Mutex<Said>>,
}

/// Keys by the namespace and the name of their object.
type Said = HashMap<(String, String), Vec<Key>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Key {
    namespace: String,
    name: String,
    kid: String,
    state: &'static str,
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
            keys: Family::default(),
            said: Arc::default(),
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
        registry.register("mqtt_key_state", "1 for the state that a signing key is in", metrics.keys.clone());
        metrics
    }

    /// The keys of an object, or that there are none any more.
    pub fn keys(&self, namespace: &str, name: &str, states: Option<&KeyStates>) {
        let key = |kid: &str, state| Key { namespace: namespace.into(), name: name.into(), kid: kid.into(), state };
        let state = |state| match state {
            KeyState::Next => "next",
            KeyState::Active => "active",
            KeyState::Retiring => "retiring",
        };
        let keys = states.into_iter().flat_map(|states| &states.keys);
        let keys: Vec<Key> = keys.map(|record| key(&record.kid, state(record.state))).collect();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let of = (namespace.to_owned(), name.to_owned());
        for over in said.remove(&of).into_iter().flatten().filter(|before| !keys.contains(before)) {
            self.keys.remove(&over);
        }
        for key in &keys {
            self.keys.get_or_create(key).set(1);
        }
        if !keys.is_empty() {
            said.insert(of, keys);
        }
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

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::auth::rotation::{Keys, Wanted};

    #[test]
    fn a_key_is_in_one_state_and_goes_with_its_object() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let lines = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text.lines().filter(|line| line.starts_with("mqtt_key_state{")).map(str::to_owned).collect::<Vec<_>>()
        };
        let mut keys = Keys::first(&Wanted::default(), 0, || [7; 48]).unwrap();
        metrics.keys("shop", "home", Some(&keys.states));
        keys.states.keys[0].state = KeyState::Retiring;
        metrics.keys("shop", "home", Some(&keys.states));
        let [line] = lines().try_into().unwrap();
        assert!(line.contains("state=\"retiring\"") && line.contains("namespace=\"shop\""), "{line}");
        metrics.keys("shop", "home", None);
        assert_eq!(lines(), [""; 0]);
    }
}
