//! What happens to clients, told in one place: counted, logged at a bounded rate, and, if it was a deny, kept.
//!
//! Whoever refuses, ends or denies something calls a function here instead of writing a line: a flood then costs a
//! counter and not a log. Lines of target `audit` have the fields that docs/audit.md promises.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::admission::Pass;
use super::connection::{Closing, Peer};
use super::counters::Gate;
use super::denies::{Action, Denies, Deny, Standing, shorten, shorten_reason};
use super::handshake::NoConnection;
use super::limiter::{Kind, Limiter};
use super::limits::Limit;
use super::{Shared, unix_millis};
use crate::auth::explain::{Request, Verb};
use crate::auth::{Identity, Layer, Principal, Refusal, Why};
use crate::config::PROBE;
use crate::mqtt::ReasonCode;
use crate::process::Shutdown;

/// How often the number of lines that were left out is told.
const TELL_SUPPRESSED: Duration = Duration::from_secs(10);

/// Why most is denied, in short.
const NO_RULE: &str = "no rule allows it";

/// Where a client comes from.
#[derive(Debug)]
pub struct Arrival {
    /// The client's own address, which behind a proxy is not that of the socket.
    pub address: SocketAddr,
    /// The listener that it came through.
    pub gate: Arc<Gate>,
    /// Whether the client has shown a certificate, which was verified.
    pub certificate: bool,
    /// The token of the HTTP request that a WebSocket began with.
    pub bearer: Option<Vec<u8>>,
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
        Self { address, gate, certificate: false, bearer: None, since, deadline: since + within, pass: None }
    }
}

/// What is kept of events.
#[derive(Debug)]
pub struct Events {
    limiter: Mutex<Limiter>,
    pub denies: Mutex<Denies>,
    /// Told when a deny is kept.
    pub denied: Notify,
    /// Random per process, so that nobody chooses a client id to share another's rate.
    hashes: RandomState,
}

impl Events {
    pub fn new(now: u64) -> Self {
        let (limiter, denies) = (Mutex::new(Limiter::new(now)), Mutex::default());
        Self { limiter, denies, denied: Notify::new(), hashes: RandomState::new() }
    }

    fn keep(&self, deny: Deny) {
        if self.denies.lock().unwrap_or_else(PoisonError::into_inner).push(deny) {
            self.denied.notify_waiters();
        }
    }
}

/// Who is denied something.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    pub client_id: &'a Arc<str>,
    pub principal: &'a Principal,
    /// What it was accepted with, see [`Identity::method`].
    pub method: &'static str,
    pub key_id: Option<&'a str>,
}

impl<'a> Who<'a> {
    pub fn of(client_id: &'a Arc<str>, identity: &'a Identity) -> Self {
        Self { client_id, principal: &identity.principal, method: identity.method(), key_id: identity.key_id() }
    }

    fn denied(&self, action: Action, why: impl Into<Cow<'static, str>>) -> Deny {
        Deny {
            principal: Some(self.principal.to_string().into()),
            key_id: self.key_id.map(Into::into),
            ..Deny::new(unix_millis(), self.client_id.clone(), self.method, action, why)
        }
    }
}

/// Whether a line of this kind about `subject` (a client id, an address) may be written now.
pub fn admits(shared: &Shared, kind: Kind, subject: &(impl Hash + ?Sized)) -> bool {
    line(shared, kind, subject).is_some()
}

/// The same, and how many lines about the subject were left out since its last one.
fn line(shared: &Shared, kind: Kind, subject: &(impl Hash + ?Sized)) -> Option<u64> {
    let subject = shared.events.hashes.hash_one(subject);
    shared.events.limiter.lock().unwrap_or_else(PoisonError::into_inner).admits(kind, subject, shared.now())
}

/// A field of a line that is absent when nothing was left out.
fn some(suppressed: u64) -> Option<u64> {
    (suppressed > 0).then_some(suppressed)
}

/// A client was given its CONNACK.
pub fn connected(shared: &Shared, peer: &Peer, arrival: &Arrival, session_present: bool) {
    let Peer { client_id, identity, version, .. } = peer;
    shared.counters.authentications.add(identity.method());
    shared.counters.authenticated.add([identity.method(), "accepted", "ok"]);
    shared.counters.handshakes.observe(arrival.since.elapsed().as_secs_f64());
    let principal = &identity.principal;
    if is_probe(client_id, principal) {
        tracing::debug!(%client_id, address = %arrival.address, "connected");
    } else if let Some(suppressed) = line(shared, Kind::Connected, client_id) {
        tracing::info!(
            target: "audit", event = "connect", result = "accepted", client_id = &*shorten(client_id), %principal,
            method = identity.method(), key_id = identity.key_id(), version = version.number(), session_present,
            address = %arrival.address, listener = %arrival.gate.name, suppressed = some(suppressed), "connected"
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
    } else if let Some(code) = closing.reason.filter(|code| is_of_access(*code)) {
        if code == ReasonCode::MAXIMUM_CONNECT_TIME {
            shared.counters.expired_tokens.add(1);
        }
        if let Some(suppressed) = line(shared, Kind::Disconnected, client_id) {
            tracing::warn!(
                target: "audit", event = "disconnect", client_id = &*shorten(client_id), %principal,
                method = identity.method(), key_id = identity.key_id(), reason = code.text(),
                why = &*shorten_reason(reason), suppressed = some(suppressed), "disconnected"
            );
        }
    } else if admits(shared, Kind::Disconnected, client_id) {
        tracing::info!(%client_id, %principal, %reason, "disconnected");
    }
}

/// Whether a connection ends with this because its client may not go on: its token has expired or was revoked, its rules
/// have changed, or somebody has ended it.
fn is_of_access(code: ReasonCode) -> bool {
    [
        ReasonCode::MAXIMUM_CONNECT_TIME,
        ReasonCode::NOT_AUTHORIZED,
        ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        ReasonCode::ADMINISTRATIVE_ACTION,
    ]
    .contains(&code)
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
        NoConnection::Refused { client_id, method, refusal } => {
            shared.counters.authenticated.add([method, "refused", refusal.why.name()]);
            let probe = *method == "none" && client_id.starts_with(PROBE);
            if !probe {
                return refused(shared, arrival, client_id, method, refusal);
            }
            (Kind::Refused, probe)
        }
    };
    if let NoConnection::Limited { client_id, limit } = error {
        keep_refused(shared, *address, client_id, "none", (Why::Limit, limit.name().into()));
    }
    if quiet {
        tracing::debug!(%address, listener = %gate.name, %error, "not connected");
    } else if let Some(suppressed) = line(shared, kind, &address.ip()) {
        let error = error.to_string();
        tracing::warn!(
            target: "audit", event = "connect", result = "refused", %address, listener = %gate.name,
            why = &*shorten_reason(&error), suppressed = some(suppressed), "not connected"
        );
    }
}

/// A client may not connect, for a reason that has to do with who it is.
fn refused(shared: &Shared, arrival: &Arrival, client_id: &str, method: &'static str, refusal: &Refusal) {
    let Arrival { address, gate, .. } = arrival;
    // Its will was denied, and that is kept already.
    if refusal.why != Why::Will {
        keep_refused(shared, *address, client_id, method, (refusal.why, refusal.log.clone().into()));
    }
    if let Some(suppressed) = line(shared, Kind::Refused, &address.ip()) {
        tracing::warn!(
            target: "audit", event = "connect", result = "refused", client_id = &*shorten(client_id), method,
            %address, listener = %gate.name, reason = refusal.why.name(), why = &*shorten_reason(&refusal.log),
            suppressed = some(suppressed), "not connected"
        );
    }
}

fn keep_refused(
    shared: &Shared,
    address: SocketAddr,
    client_id: &str,
    method: &'static str,
    (reason, why): (Why, Cow<'static, str>),
) {
    let deny = Deny::new(unix_millis(), client_id.into(), method, Action::Connect, why);
    shared.events.keep(Deny { address: Some(address), reason: Some(reason), ..deny });
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

/// A rule allows a subscription or a will; publications are counted by turns.
pub fn allowed(shared: &Shared, verb: Verb, layer: Layer) {
    shared.counters.decided.add([verb.name(), "allow", layer.name()]);
}

/// The rules refuse what a client asks for; `layer` is where the rule stands that did. `reason` says why at length; it costs more than the decision, and so a client
/// in a loop is not told each time. Gives what may be told to the client.
pub fn denied(
    shared: &Shared,
    who: &Who<'_>,
    request: &Request<'_>,
    layer: Layer,
    reason: impl FnOnce() -> String,
) -> Cow<'static, str> {
    let Who { client_id, principal, method, key_id } = *who;
    let action = Action::from(request.verb);
    shared.counters.denied.add(action.name());
    shared.counters.decided.add([action.name(), "deny", layer.name()]);
    let mut deny = Deny { topic: request.topic.into(), ..who.denied(action, NO_RULE) };
    let standing = shared.events.denies.lock().unwrap_or_else(PoisonError::into_inner).look(&deny);
    let suppressed = line(shared, Kind::Denied, client_id);
    if standing == Standing::Quiet || suppressed.is_some() {
        deny.why = reason().into();
    }
    if let Some(suppressed) = suppressed {
        tracing::warn!(
            target: "audit", event = "deny", client_id = &*shorten(client_id), %principal, method, key_id,
            action = action.name(), topic = &*shorten(request.topic), why = &*shorten_reason(&deny.why),
            suppressed = some(suppressed), "denied"
        );
    }
    let why = deny.why.clone();
    shared.events.keep(deny);
    why
}

/// A client has sent AUTH with a new token: it is accepted, or its connection ends.
pub fn reauthenticated(shared: &Shared, who: &Who<'_>, outcome: Result<(), (Why, &str)>) {
    let Who { client_id, principal, method, key_id } = *who;
    let result = if outcome.is_ok() { "accepted" } else { "refused" };
    shared.counters.reauthenticated.add(result);
    if let Err((reason, why)) = outcome {
        shared.events.keep(Deny { reason: Some(reason), ..who.denied(Action::Reauthenticate, why.to_owned()) });
    }
    if let Some(suppressed) = line(shared, Kind::Connected, client_id) {
        let (reason, why) = outcome.err().map(|(reason, why)| (reason.name(), shorten_reason(why))).unzip();
        tracing::info!(
            target: "audit", event = "reauthenticate", result, client_id = &*shorten(client_id), %principal, method,
            key_id, reason, why = why.as_deref(), suppressed = some(suppressed), "authenticated again"
        );
    }
}

/// A new policy takes something from a session, connected or away, or all of it.
pub fn revoked(shared: &Shared, who: &Who<'_>, cause: &'static str, why: &str) {
    shared.counters.revoked.add(cause);
    let Who { client_id, principal, method, key_id } = *who;
    if let Some(suppressed) = line(shared, Kind::Disconnected, client_id) {
        tracing::warn!(
            target: "audit", event = "revoke", client_id = &*shorten(client_id), %principal, method, key_id,
            reason = cause, why = &*shorten_reason(why), suppressed = some(suppressed), "revoked"
        );
    }
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
        tracing::warn!(
            client_id,
            messages,
            "messages that waited for the client were dropped: they were too many, or too old"
        );
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
