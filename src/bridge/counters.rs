//! What the bridge counts while it works: the metrics, and the report that is made of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::config::report::{Bridge, BridgeState};

/// Seconds behind which the bridge reports that it lags, and within which it no longer does.
const LAGGING: (f64, f64) = (60.0, 10.0);
/// How long one rejected document shows.
const REJECTING: Duration = Duration::from_mins(1);

/// Live values, shared by the loop that works and whoever looks at it.
#[derive(Debug)]
pub struct Counters {
    pub received: Counter,
    pub indexed: Counter,
    pub deduplicated: Counter,
    pub retried: Counter,
    pub dead_lettered: Counter,
    /// Messages of a broker that does not say their publish id.
    pub without_id: Counter,
    pub in_flight: Gauge,
    /// Bytes of documents and payloads held.
    pub held_bytes: Gauge,
    pub lag: Gauge<f64, AtomicU64>,
    /// Seconds of one request to the sink, and bytes of its body.
    pub request_seconds: Histogram,
    pub request_bytes: Histogram,
    lagging: AtomicBool,
    condition: Mutex<Condition>,
}

#[derive(Debug, Default)]
struct Condition {
    /// Why no messages come, when the broker is the reason.
    broker: Option<String>,
    sink: BridgeState,
    message: String,
    rejection: Option<(Instant, String)>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            received: Counter::default(),
            indexed: Counter::default(),
            deduplicated: Counter::default(),
            retried: Counter::default(),
            dead_lettered: Counter::default(),
            without_id: Counter::default(),
            in_flight: Gauge::default(),
            held_bytes: Gauge::default(),
            lag: Gauge::default(),
            request_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            request_bytes: Histogram::new(exponential_buckets(1024.0, 4.0, 8)),
            lagging: AtomicBool::new(false),
            condition: Mutex::new(Condition { broker: Some("not connected yet".to_owned()), ..Condition::default() }),
        }
    }
}

impl Counters {
    /// Registers the metrics, all named `mqtt_bridge_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("mqtt_bridge");
        for (name, help, counter) in [
            ("received", "Messages received from the broker", &self.received),
            ("indexed", "Documents that the sink took", &self.indexed),
            ("deduplicated", "Documents that were there already", &self.deduplicated),
            ("retried", "Documents that were sent again", &self.retried),
            ("dead_lettered", "Documents in the dead letters", &self.dead_lettered),
            ("without_publish_id", "Messages without the broker's publish id", &self.without_id),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register("in_flight", "Messages received and not yet acknowledged", self.in_flight.clone());
        registry.register_with_unit("held", "Documents and payloads held", Unit::Bytes, self.held_bytes.clone());
        let lag = "From publication to acknowledgement, of the last message";
        registry.register_with_unit("lag", lag, Unit::Seconds, self.lag.clone());
        let seconds = self.request_seconds.clone();
        registry.register_with_unit("request", "Duration of a request to the sink", Unit::Seconds, seconds);
        let bytes = self.request_bytes.clone();
        registry.register_with_unit("request_body", "Size of a request to the sink", Unit::Bytes, bytes);
    }

    /// The report as of now.
    pub fn report(&self) -> Bridge {
        let (state, message) = self.state();
        Bridge {
            state,
            message,
            received: self.received.get(),
            indexed: self.indexed.get(),
            deduplicated: self.deduplicated.get(),
            retried: self.retried.get(),
            dead_lettered: self.dead_lettered.get(),
            in_flight: u64::try_from(self.in_flight.get()).unwrap_or_default(),
            lag_seconds: self.lag.get(),
        }
    }

    fn state(&self) -> (BridgeState, String) {
        let condition = self.condition();
        if let Some(broker) = &condition.broker {
            return (BridgeState::Connecting, broker.clone());
        }
        if condition.sink != BridgeState::Connected {
            return (condition.sink, condition.message.clone());
        }
        match &condition.rejection {
            Some((since, reason)) if since.elapsed() < REJECTING => (BridgeState::Rejecting, reason.clone()),
            _ if self.lagging.load(Ordering::Relaxed) => {
                (BridgeState::Lagging, format!("{:.0} s behind the publishers", self.lag.get()))
            }
            _ => (BridgeState::Connected, String::new()),
        }
    }

    /// Whether messages come; if not, why.
    pub fn set_broker(&self, problem: Option<String>) {
        self.condition().broker = problem;
    }

    /// The sink works.
    pub fn set_connected(&self) {
        let mut condition = self.condition();
        condition.sink = BridgeState::Connected;
        condition.message.clear();
    }

    /// The sink does not work. True if that is news.
    pub fn set_sink_problem(&self, state: BridgeState, message: &str) -> bool {
        let mut condition = self.condition();
        let news = condition.sink != state || condition.message != message;
        condition.sink = state;
        message.clone_into(&mut condition.message);
        news
    }

    /// The sink rejected a document for this reason.
    pub fn set_rejection(&self, reason: String) {
        self.condition().rejection = Some((Instant::now(), reason));
    }

    /// How far behind the publishers the bridge is.
    pub fn set_lag(&self, published: Timestamp, now: Timestamp) {
        let seconds = now.duration_since(published).as_secs_f64().max(0.0);
        self.lag.set(seconds);
        if seconds > LAGGING.0 {
            self.lagging.store(true, Ordering::Relaxed);
        } else if seconds < LAGGING.1 {
            self.lagging.store(false, Ordering::Relaxed);
        }
    }

    /// Nothing has waited for as long as a bridge may be behind without being said to lag: it has caught up, also where no
    /// message comes that would show it.
    pub fn set_idle(&self, idle: Duration) {
        if idle.as_secs_f64() >= LAGGING.1 {
            self.lagging.store(false, Ordering::Relaxed);
        }
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        // Plain values: nothing in it is left half-way by a panic.
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::Counters;
    use crate::config::report::BridgeState;

    fn state_after(counters: &Counters, lag: i64) -> BridgeState {
        let now = Timestamp::from_second(10_000).unwrap();
        counters.set_lag(Timestamp::from_second(10_000 - lag).unwrap(), now);
        counters.report().state
    }

    #[test]
    fn the_first_thing_that_is_wrong_is_what_the_report_says() {
        let counters = Counters::default();
        assert_eq!(counters.report().state, BridgeState::Connecting);
        counters.set_broker(None);
        counters.set_sink_problem(BridgeState::Unreachable, "no route");
        let report = counters.report();
        assert_eq!((report.state, report.message.as_str()), (BridgeState::Unreachable, "no route"));
        counters.set_connected();
        assert_eq!(counters.report().state, BridgeState::Connected);
        counters.set_rejection("no date".into());
        assert_eq!(counters.report().state, BridgeState::Rejecting);
        counters.set_broker(Some("refused".into()));
        assert_eq!(counters.report().message, "refused");
    }

    #[test]
    fn lagging_begins_above_a_minute_and_ends_below_ten_seconds() {
        let counters = Counters::default();
        counters.set_broker(None);
        counters.set_connected();
        for (lag, state) in [
            (60, BridgeState::Connected),
            (61, BridgeState::Lagging),
            (10, BridgeState::Lagging),
            (9, BridgeState::Connected),
            (60, BridgeState::Connected),
        ] {
            assert_eq!(state_after(&counters, lag), state, "{lag} s");
        }
    }

    #[test]
    fn a_bridge_that_has_nothing_to_do_does_not_lag() {
        let counters = Counters::default();
        counters.set_broker(None);
        counters.set_connected();
        assert_eq!(state_after(&counters, 100), BridgeState::Lagging, "the last message came late");
        counters.set_idle(Duration::from_secs(9));
        assert_eq!(counters.report().state, BridgeState::Lagging, "the next one may be late too");
        counters.set_idle(Duration::from_secs(10));
        assert_eq!(counters.report().state, BridgeState::Connected);
    }
}
