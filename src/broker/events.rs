//! What happens to clients, told in one place: counted, logged at a bounded rate, and, if it was a deny, kept.
//!
//! Whoever refuses, ends or denies something calls a function here instead of writing a line: a flood then costs a
//! counter and not a log.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::admission::Pass;
use super::connection::{Closing, Peer};
use super::counters::Gate;
use super::denies::{Denies, Deny, shorten};
use super::handshake::NoConnection;
use super::limiter::{Kind, Limiter};
use super::limits::Limit;
use super::{Shared, unix_millis};
use crate::auth::Principal;
use crate::auth::explain::Request;
use crate::config::PROBE;
use crate::process::Shutdown;

/// How often the number of lines that were left out is told.
const TELL_SUPPRESSED: Duration = Duration::from_secs(10);

/// Where a client comes from.
#[derive(Debug)]
pub struct Arrival {
    /// The client's own address, which behind a proxy is not that of the socket.
    pub address: SocketAddr,
    /// The listener that it came through.
    pub gate: Arc<Gate>,
    /// Whether the client has shown a certificate, which was verified.
    pub certificate: bool,
    /// When it came.
    pub since: Instant,
    /// When its CONNECT must be complete.
    pub deadline: Instant,
    /// Its place among the connections; the bridge needs none.
    pub pass: Option<Pass>,
}

impl Arrival {
    /// A client that comes in now.
    pub fn now(address: SocketAddr, gate: Arc<Gate>, within: Duration) -> Self {
        // A socket for both address families says `::ffff:192.0.2.1` for 192.0.2.1.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let since = Instant::now();
        Self { address, gate, certificate: false, since, deadline: since + within, pass: None }
    }
}

/// What is kept of events.
#[derive(Debug)]
pub struct Events {
    limiter: Mutex<Limiter>,
    pub denies: Mutex<Denies>,
    /// Random per process, so that nobody chooses a client id to share another's rate.
    hashes: RandomState,
}

impl Events {
    pub fn new(now: u64) -> Self {
        Self { limiter: Mutex::new(Limiter::new(now)), denies: Mutex::default(), hashes: RandomState::new() }
    }
}

/// Whether a line of this kind about `subject` (a client id, an address) may be written now.
pub fn admits(shared: &Shared, kind: Kind, subject: &(impl Hash + ?Sized)) -> bool {
    let subject = shared.events.hashes.hash_one(subject);
    shared.events.limiter.lock().unwrap_or_else(PoisonError::into_inner).admits(kind, subject, shared.now())
}

/// A client was given its CONNACK.
pub fn connected(shared: &Shared, peer: &Peer, arrival: &Arrival, session_present: bool) {
    let Peer { client_id, identity, version, .. } = peer;
    shared.counters.authentications.add(identity.method());
    shared.counters.handshakes.observe(arrival.since.elapsed().as_secs_f64());
    let principal = &identity.principal;
    if is_probe(client_id, principal) {
        tracing::debug!(%client_id, address = %arrival.address, "connected");
    } else if admits(shared, Kind::Connected, client_id) {
        tracing::info!(
            %client_id, %principal, method = identity.method(), ?version, session_present, address = %arrival.address,
            listener = %arrival.gate.name, "connected"
        );
    }
}

/// A connection has ended.
pub fn disconnected(shared: &Shared, peer: &Peer, closing: &Closing) {
    let Peer { client_id, identity, .. } = peer;
    let (principal, reason) = (&identity.principal, &closing.log);
    shared.counters.disconnects.add(closing.label());
    if let Some(limit) = closing.limit {
        shared.counters.limited.add(limit);
    }
    if let Some(id) = closing.violation {
        shared.counters.violations.add(id);
        if admits(shared, Kind::Violation, client_id) {
            tracing::warn!(%client_id, %principal, %reason, "disconnected");
        }
    } else if is_probe(client_id, principal) {
        tracing::debug!(%client_id, %reason, "disconnected");
    } else if admits(shared, Kind::Disconnected, client_id) {
        tracing::info!(%client_id, %principal, %reason, "disconnected");
    }
}

/// `mqttctl endpoint` and its like ask only whether somebody answers.
fn is_probe(client_id: &str, principal: &Principal) -> bool {
    *principal == Principal::Anonymous && client_id.starts_with(PROBE)
}

/// A handshake did not become a connection.
pub fn not_connected(shared: &Shared, arrival: &Arrival, error: &NoConnection) {
    let Arrival { address, gate, .. } = arrival;
    gate.refused.add(1);
    shared.counters.refusals.add(error.label());
    if let Some(limit) = error.limit() {
        shared.counters.limited.add(limit);
    }
    if let Some(id) = error.violation() {
        shared.counters.violations.add(id);
    }
    let (kind, quiet) = match error {
        // Probes and scanners: every load balancer opens and closes connections all day.
        NoConnection::Closed | NoConnection::Io(_) => (Kind::Refused, true),
        NoConnection::Violation(_) | NoConnection::Proxy(_) | NoConnection::WebSocket(_) => (Kind::Violation, false),
        NoConnection::TooSlow
        | NoConnection::NoCertificate { .. }
        | NoConnection::Upgrade(_)
        | NoConnection::Limited { .. }
        | NoConnection::Tls(_) => (Kind::Refused, false),
        NoConnection::Refused { client_id, presented, .. } => {
            (Kind::Refused, !presented && client_id.starts_with(PROBE))
        }
    };
    if quiet {
        tracing::debug!(%address, listener = %gate.name, %error, "not connected");
    } else if admits(shared, kind, &address.ip()) {
        tracing::warn!(%address, listener = %gate.name, %error, "not connected");
    }
}

/// A connection was refused before anything was read from it.
pub fn turned_away(shared: &Shared, arrival: &Arrival, limit: Limit) {
    let reason = limit.name();
    shared.counters.limited.add(limit);
    let Arrival { address, gate, .. } = arrival;
    gate.refused.add(1);
    shared.counters.refusals.add(reason);
    if admits(shared, Kind::Refused, &address.ip()) {
        tracing::warn!(%address, listener = %gate.name, reason, "refused");
    }
}

/// The rules refuse what a client asks for. `reason` says why at length; it costs more than the decision, and so it is
/// asked only as often as lines are written. Gives what may be told to the client.
pub fn denied(
    shared: &Shared,
    client_id: &Arc<str>,
    principal: &Principal,
    request: &Request<'_>,
    reason: impl FnOnce() -> String,
) -> Cow<'static, str> {
    let action = request.verb;
    shared.counters.denied.add(action.name());
    let topic = shorten(request.topic);
    let admitted = admits(shared, Kind::Denied, client_id);
    let why: Cow<'static, str> = if admitted { reason().into() } else { "no rule allows it".into() };
    let deny = Deny {
        number: 0,
        at: unix_millis(),
        client_id: client_id.clone(),
        principal: principal.to_string().into(),
        action,
        topic: topic.into(),
        why: why.clone(),
    };
    shared.events.denies.lock().unwrap_or_else(PoisonError::into_inner).push(deny);
    if admitted {
        tracing::warn!(%client_id, %principal, action = action.name(), topic, %why, "denied");
    }
    why
}

/// A client has reached a limit and goes on without what it asked for: `what` says what became of that.
pub fn limited(shared: &Shared, limit: Limit, client_id: &str, what: &'static str) {
    shared.counters.limited.add(limit);
    if admits(shared, Kind::Limited, client_id) {
        tracing::warn!(client_id, limit = limit.name(), what, "limit reached");
    }
}

/// Messages that waited for a session were dropped because of its limits, or because memory is scarce. They are counted
/// where that happens.
pub fn dropped(shared: &Shared, client_id: &str, messages: u64) {
    if messages > 0 && admits(shared, Kind::Limited, client_id) {
        tracing::warn!(client_id, messages, "messages were dropped, which the client was too slow for");
    }
}

/// Tells, until shutdown, how many lines were left out.
pub async fn tell_suppressed(shared: Arc<Shared>, shutdown: Shutdown) {
    loop {
        let stop = tokio::select! {
            () = tokio::time::sleep(TELL_SUPPRESSED) => false,
            () = shutdown.wait() => true,
        };
        let suppressed = shared.events.limiter.lock().unwrap_or_else(PoisonError::into_inner).take_suppressed();
        for (kind, suppressed) in suppressed {
            shared.counters.suppressed.add_many(kind.name(), suppressed);
            tracing::warn!(kind = kind.name(), suppressed, "log lines were left out");
        }
        if stop {
            return;
        }
    }
}
