//! What the broker counts. Connections add up their own figures and hand them over once per turn.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::limits::Refusals;
use super::router::Routed;
use super::unix_millis;
use crate::auth::Layer;
use crate::mqtt::Version;
use crate::store::Old;

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

/// Why a message was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// QoS 0, for a subscriber that is too slow.
    Slow,
    /// The queue of a session was full.
    QueueFull,
    /// The subscriber does not accept its size.
    TooLarge,
    /// QoS 0 that there was no room for.
    Refused,
    /// It had waited for longer than messages may.
    TooOld,
    /// Queues were shortened while memory was short.
    Memory,
    /// The subscriber may not have it any more.
    Revoked,
    /// QoS 2 of a shared subscription, whose member has ended its session.
    SessionEnded,
}

impl Loss {
    pub const ALL: [Self; 8] = [
        Self::Slow,
        Self::QueueFull,
        Self::TooLarge,
        Self::Refused,
        Self::TooOld,
        Self::Memory,
        Self::Revoked,
        Self::SessionEnded,
    ];
    /// Those that happen in turns of connections.
    const OF_TURNS: [Self; 5] = [Self::Slow, Self::QueueFull, Self::TooLarge, Self::Refused, Self::TooOld];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
            Self::Refused => "refused",
            Self::TooOld => "too_old",
            Self::Memory => "memory",
            Self::Revoked => "revoked",
            Self::SessionEnded => "session_ended",
        }
    }
}

/// Lost messages, by cause.
#[derive(Debug, Default)]
pub struct Losses([Count; Loss::ALL.len()]);

impl Losses {
    pub fn add(&self, loss: Loss, n: u64) {
        self.0[loss as usize].add(n);
    }

    /// What a delivery to many lost.
    pub fn add_routed(&self, routed: &Routed) {
        self.add(Loss::Slow, routed.shed as u64);
        self.add(Loss::QueueFull, routed.dropped as u64);
    }

    pub fn get(&self, loss: Loss) -> u64 {
        self.0[loss as usize].get()
    }

    pub fn total(&self) -> u64 {
        self.0.iter().map(Count::get).sum()
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
    pub dropped: Losses,
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
    /// Publications that a rule allowed, by where it stands.
    pub allowed: [Count; Layer::ALL.len()],
    /// Other decisions, by action, result and where the rule stands.
    pub decided: Matrix<3>,
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
            dropped: Losses::default(),
            expired: Count::default(),
            packets: Count::default(),
            bytes_received: Count::default(),
            bytes_sent: Count::default(),
            holds: Count::default(),
            in_flight: AtomicU64::default(),
            handshakes: histogram(),
            password_checks: histogram(),
            denied: Tally::default(),
            allowed: Default::default(),
            decided: Matrix::default(),
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

/// The counters of one turn of one connection, and its time; a turn reads and writes a bounded number of bytes.
#[derive(Debug, Default)]
pub struct Turn {
    /// Milliseconds since 1970 UTC when they were first asked for; 0 before.
    wall: u64,
    /// Publications, by QoS.
    pub received: [u32; 3],
    pub sent: [u32; 3],
    dropped: [u32; Loss::OF_TURNS.len()],
    /// Publications that a rule allows, by where it stands.
    pub allowed: [u32; Layer::ALL.len()],
    pub expired: u32,
    pub packets: u32,
    pub bytes_received: u32,
    pub bytes_sent: u32,
    pub holds: u32,
    /// Deliveries in flight, as they were counted last.
    in_flight: u32,
}

impl Turn {
    /// Milliseconds since 1970 UTC, the same throughout the turn: publications and deliveries come by the thousand.
    pub fn wall(&mut self) -> u64 {
        if self.wall == 0 {
            self.wall = unix_millis();
        }
        self.wall
    }

    /// That a message was lost; one of the causes that turns have.
    pub fn lose(&mut self, loss: Loss) {
        self.dropped[loss as usize] += 1;
    }

    /// What a delivery to many lost.
    pub fn lose_routed(&mut self, routed: &Routed) {
        self.dropped[Loss::Slow as usize] += routed.shed as u32;
        self.dropped[Loss::QueueFull as usize] += routed.dropped as u32;
    }

    /// What had waited too long.
    pub fn lose_old(&mut self, old: Old) {
        self.dropped[Loss::TooOld as usize] += old.dropped as u32;
        self.expired += old.expired as u32;
    }
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
        for loss in Loss::OF_TURNS {
            self.dropped.add(loss, turn.dropped[loss as usize].into());
        }
        for (count, allowed) in self.allowed.iter().zip(turn.allowed) {
            count.add(allowed.into());
        }
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
