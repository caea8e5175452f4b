//! What the broker counts. Connections add up their own figures and hand them over once per turn.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::limits::Refusals;
use crate::mqtt::Version;

/// Upper bounds of the buckets of times, in seconds.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

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

    /// The number of one label.
    pub fn of(&self, label: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(label).copied().unwrap_or(0)
    }
}

/// The same by several labels, each from a closed set.
#[derive(Debug)]
pub struct Matrix<const N: usize>(Mutex<BTreeMap<[&'static str; N], u64>>);

impl<const N: usize> Default for Matrix<N> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<const N: usize> Matrix<N> {
    pub fn add(&self, labels: [&'static str; N]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(labels).or_default() += 1;
    }

    /// The labels that occurred, with their numbers.
    pub fn get(&self) -> BTreeMap<[&'static str; N], u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sum of those whose label at this place is this.
    pub fn total(&self, at: usize, label: &str) -> u64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().filter(|(labels, _)| labels[at] == label).map(|(_, count)| count).sum()
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

/// Histograms by one label.
type Times = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

/// Since the start of the broker.
#[derive(Debug)]
pub struct Counters {
    pub connections: AtomicU64,
    /// The most connections that were seen at a time.
    pub most_connections: AtomicU64,
    pub connected: Count,
    /// Turns of connections that panicked.
    pub panics: Count,
    /// Policies put into force since the start, and those that could not be.
    pub reloads: Count,
    pub reload_failures: Count,
    /// Sessions that lost something because of a new policy, by cause.
    pub revoked: Tally,
    /// Publications, by QoS.
    pub received: [Count; 3],
    pub sent: [Count; 3],
    pub dropped: Count,
    pub expired: Count,
    pub packets: Count,
    pub bytes_received: Count,
    pub bytes_sent: Count,
    /// Publishers that began to wait for a subscriber.
    pub holds: Count,
    /// Deliveries to connected clients that wait for an acknowledgement now.
    pub in_flight: AtomicU64,
    /// Seconds from accepting a socket to CONNACK, and of password checks.
    pub handshakes: Histogram,
    pub password_checks: Histogram,
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
    /// CONNECTs by method, result and reason.
    pub authenticated: Matrix<3>,
    /// Seconds that it took to find out who a client is, by method.
    pub authentication: Times,
    /// AUTHs with a new token, by result.
    pub reauthenticated: Tally,
    /// Connections that ended with their token.
    pub expired_tokens: Count,
    /// Requests that the admin port refused.
    pub admin_refusals: Tally,
    /// Lines that the log did not take, by kind.
    pub suppressed: Tally,
    /// What was refused because of a limit.
    pub limited: Refusals,
}

impl Default for Counters {
    fn default() -> Self {
        let histogram = || Histogram::new(SECONDS);
        Self {
            connections: AtomicU64::default(),
            most_connections: AtomicU64::default(),
            connected: Count::default(),
            panics: Count::default(),
            reloads: Count::default(),
            reload_failures: Count::default(),
            revoked: Tally::default(),
            received: Default::default(),
            sent: Default::default(),
            dropped: Count::default(),
            expired: Count::default(),
            packets: Count::default(),
            bytes_received: Count::default(),
            bytes_sent: Count::default(),
            holds: Count::default(),
            in_flight: AtomicU64::default(),
            handshakes: histogram(),
            password_checks: histogram(),
            denied: Tally::default(),
            refusals: Tally::default(),
            disconnects: Tally::default(),
            violations: Tally::default(),
            authentications: Tally::default(),
            authenticated: Matrix::default(),
            authentication: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            reauthenticated: Tally::default(),
            expired_tokens: Count::default(),
            admin_refusals: Tally::default(),
            suppressed: Tally::default(),
            limited: Refusals::default(),
        }
    }
}

/// The counters of one turn of one connection; a turn reads and writes a bounded number of bytes.
#[derive(Debug, Default)]
pub struct Turn {
    /// Publications, by QoS.
    pub received: [u32; 3],
    pub sent: [u32; 3],
    pub dropped: u64,
    pub expired: u32,
    pub packets: u32,
    pub bytes_received: u32,
    pub bytes_sent: u32,
    pub holds: u32,
    /// Deliveries in flight, as they were counted last.
    in_flight: u32,
}

impl Counters {
    /// That it took so long to find out who a client is.
    pub fn observe_authentication(&self, method: &'static str, took: Duration) {
        self.authentication.get_or_create(&[("method", method)]).observe(took.as_secs_f64());
    }

    /// Adds what a turn counted. `in_flight`: deliveries that wait for the client's acknowledgement now.
    pub fn add(&self, turn: &mut Turn, in_flight: usize) {
        for qos in 0..3 {
            self.received[qos].add(turn.received[qos].into());
            self.sent[qos].add(turn.sent[qos].into());
        }
        self.dropped.add(turn.dropped);
        self.expired.add(turn.expired.into());
        self.packets.add(turn.packets.into());
        self.bytes_received.add(turn.bytes_received.into());
        self.bytes_sent.add(turn.bytes_sent.into());
        self.holds.add(turn.holds.into());
        let in_flight = in_flight as u32;
        if in_flight != turn.in_flight {
            // Modulo 2^64, so that less is a subtraction.
            let change = u64::from(in_flight).wrapping_sub(turn.in_flight.into());
            self.in_flight.fetch_add(change, Ordering::Relaxed);
        }
        *turn = Turn { in_flight, ..Turn::default() };
    }
}
