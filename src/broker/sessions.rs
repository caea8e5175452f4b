//! Sessions as an administrator sees them: listed, looked into, ended.
//!
//! The registry knows every session; what only a connection's task has is asked from the task, a few at a time and with
//! a deadline. No lock is held while anything is waited for or written down.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::Shared;
use super::mailbox::{Command, Mailbox};
use super::registry::{About, Entry};
use crate::auth::Principal;
use crate::config::report;
use crate::mqtt::ReasonCode;
use crate::mqtt::topic::{self, Filter};
use crate::store::{StoredSession, Subscription};

/// Sessions of a page unless fewer or more are asked for, and at most.
const USUAL: usize = 100;
pub const MOST: usize = 1000;
/// Tasks that are asked at a time, and how long they may take.
const ASKED: usize = 64;
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// How long a client that is kicked may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Which sessions are meant.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Which {
    /// The client id.
    pub client: Option<String>,
    /// How the client id begins.
    pub prefix: Option<String>,
    /// The principal, with or without `user:`.
    pub user: Option<String>,
    /// `online` or `away`.
    pub state: Option<State>,
    pub listener: Option<String>,
    /// `3.1`, `3.1.1` or `5.0`.
    pub version: Option<String>,
    /// The client's address, without its port.
    pub address: Option<std::net::IpAddr>,
    /// The client id after which the page begins.
    pub after: Option<String>,
    pub limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Online,
    Away,
}

impl Which {
    fn admits(&self, client_id: &str, entry: &Entry) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
        is(&self.client, client_id)
            && self.after.as_deref().is_none_or(|after| client_id > after)
            && self.prefix.as_ref().is_none_or(|prefix| client_id.starts_with(prefix))
            && self.state.is_none_or(|state| entry.online == (state == State::Online))
            && is(&self.listener, &entry.about.gate.name)
            && is(&self.version, entry.about.version.number())
            && self.address.is_none_or(|address| entry.about.address.ip().to_canonical() == address.to_canonical())
            && self.user.as_ref().is_none_or(|user| is_user(user, &entry.identity.principal))
    }
}

fn is_user(wanted: &str, principal: &Principal) -> bool {
    match principal {
        Principal::User(name) => wanted.strip_prefix("user:").unwrap_or(wanted) == name,
        other => other.to_string() == wanted,
    }
}

/// What is asked of a session.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Subscriptions that are wanted: so many, in the order of their filters, after this one.
    pub subscriptions: usize,
    pub after: Option<Box<str>>,
}

/// What a session says of itself.
#[derive(Debug, Default)]
pub struct Described {
    pub subscriptions: usize,
    pub in_flight: usize,
    /// Seconds that the session outlives its connection; known only to a connection.
    pub expiry: Option<u32>,
    pub filters: Vec<(Box<str>, Subscription)>,
}

impl Described {
    /// Looks into a session.
    pub fn of(session: &StoredSession, expiry: Option<u32>, ask: &Ask) -> Self {
        let after = ask.after.as_deref();
        let all = session.subscriptions.iter().filter(|(filter, _)| after.is_none_or(|after| &***filter > after));
        Self {
            subscriptions: session.subscriptions.len(),
            in_flight: session.inflight.len(),
            expiry,
            filters: all.take(ask.subscriptions).map(|(filter, it)| (filter.clone(), *it)).collect(),
        }
    }
}

/// A session as the registry knows it.
struct Seen {
    client_id: Arc<str>,
    principal: Principal,
    online: bool,
    about: About,
    mailbox: Arc<Mailbox>,
}

/// The first sessions that are meant, in the order of their client ids, and whether there are more.
fn see(shared: &Shared, which: &Which, limit: usize) -> (Vec<Seen>, bool) {
    let clients = shared.registry.lock();
    let mut first: BTreeMap<&Arc<str>, &Entry> = BTreeMap::new();
    let mut more = false;
    let mut take = |client_id, entry| {
        first.insert(client_id, entry);
        if first.len() > limit {
            first.pop_last();
            more = true;
        }
    };
    match &which.client {
        Some(client_id) => {
            let found = clients.get_key_value(client_id.as_str());
            found.filter(|(id, entry)| which.admits(id, entry)).into_iter().for_each(|(id, entry)| take(id, entry));
        }
        None => clients.iter().filter(|(id, entry)| which.admits(id, entry)).for_each(|(id, entry)| take(id, entry)),
    }
    let seen = |(client_id, entry): (&Arc<str>, &Entry)| Seen {
        client_id: client_id.clone(),
        principal: entry.identity.principal.clone(),
        online: entry.online,
        about: entry.about.clone(),
        mailbox: entry.mailbox.clone(),
    };
    (first.into_iter().map(seen).collect(), more)
}

/// What a session says of itself: its task, or what the store has of it. `None`: nobody answered in time.
async fn describe(shared: &Shared, seen: &Seen, ask: &Ask) -> Option<Described> {
    if seen.online {
        let (reply, answer) = oneshot::channel();
        seen.mailbox.command(Command::Describe { ask: Box::new(ask.clone()), reply });
        if let Ok(Ok(described)) = tokio::time::timeout(ANSWER_WITHIN, answer).await {
            return Some(described);
        }
        // It may have gone away just now.
    }
    let sessions = shared.store.sessions.lock().unwrap_or_else(PoisonError::into_inner);
    sessions.get(&seen.client_id).map(|session| Described::of(session, None, ask))
}

async fn describe_all(shared: &Shared, all: &[Seen], ask: &Ask) -> Vec<Option<Described>> {
    let mut answers = Vec::with_capacity(all.len());
    for some in all.chunks(ASKED) {
        answers.extend(join_all(some.iter().map(|seen| describe(shared, seen, ask))).await);
    }
    answers
}

/// A page of sessions.
pub async fn list(shared: &Shared, which: &Which) -> report::Page<report::Session> {
    let (seen, more) = see(shared, which, which.limit.unwrap_or(USUAL).clamp(1, MOST));
    let described = describe_all(shared, &seen, &Ask::default()).await;
    let next = seen.last().filter(|_| more).map(|last| last.client_id.to_string());
    let items = seen.into_iter().zip(described).map(|(seen, described)| report(seen, described.as_ref())).collect();
    report::Page { items, next }
}

fn report(seen: Seen, described: Option<&Described>) -> report::Session {
    let Seen { client_id, principal, online, about, mailbox } = seen;
    let waiting = mailbox.waiting();
    let away_for = (!online).then_some(about.expiry);
    report::Session {
        client_id: client_id.to_string(),
        principal: principal.to_string(),
        online,
        version: about.version.number().into(),
        address: about.address,
        listener: about.gate.name.to_string(),
        since: timestamp(about.since),
        expires: away_for.map(|seconds| timestamp(about.since.saturating_add(u64::from(seconds) * 1000))),
        session_expiry: described.and_then(|it| it.expiry).or(away_for),
        subscriptions: described.map(|it| it.subscriptions as u64),
        in_flight: described.map(|it| it.in_flight as u64),
        queued: waiting.messages as u64,
        queued_bytes: waiting.bytes as u64,
        dropped: waiting.dropped,
    }
}

/// A time in milliseconds since 1970 UTC.
pub fn timestamp(millis: u64) -> Timestamp {
    i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok()).unwrap_or(Timestamp::MAX)
}

/// Which subscriptions are meant.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WhichSubscriptions {
    /// Those of this client.
    pub client: Option<String>,
    /// Those that a message to this topic would go to.
    pub topic: Option<String>,
    /// The `next` of the page before.
    pub after: Option<String>,
    pub limit: Option<usize>,
}

/// A page of subscriptions, in the order of client ids and filters. It may be shorter than asked for, and even empty,
/// and not be the last: so many sessions were looked into.
pub async fn subscriptions(shared: &Shared, which: &WhichSubscriptions) -> report::Page<report::Subscription> {
    let limit = which.limit.unwrap_or(USUAL).clamp(1, MOST);
    let (client, filter) = which.after.as_deref().map_or((None, None), |after| match after.split_once('\0') {
        Some((client, filter)) => (Some(client), Some(filter)),
        None => (Some(after), None),
    });
    let sessions = Which { client: which.client.clone(), ..Which::default() };
    let mut all = Vec::new();
    // The page goes on within a session's filters, so the session itself is looked into once more.
    if let (Some(client), Some(_)) = (client, filter) {
        all = see(shared, &Which { client: Some(client.to_owned()), ..Which::default() }, 1).0;
    }
    let (rest, mut more) = see(shared, &Which { after: client.map(str::to_owned), ..sessions }, MOST);
    all.extend(rest);
    let first = Ask { subscriptions: limit + 1, after: filter.map(Into::into) };
    let others = Ask { subscriptions: limit + 1, after: None };
    let mut page = report::Page { items: Vec::new(), next: None };
    let mut last = None;
    for (at, some) in all.chunks(ASKED).enumerate() {
        let asks = some
            .iter()
            .enumerate()
            .map(|(n, seen)| describe(shared, seen, if at + n == 0 && filter.is_some() { &first } else { &others }));
        for (seen, described) in some.iter().zip(join_all(asks).await) {
            for (filter, subscription) in described.unwrap_or_default().filters {
                if page.items.len() == limit {
                    page.next = last;
                    return page;
                }
                last = Some(format!("{}\0{filter}", seen.client_id));
                if which.topic.as_ref().is_none_or(|topic| matches(&filter, topic)) {
                    page.items.push(tell(&seen.client_id, &filter, subscription));
                }
            }
            last = Some(seen.client_id.to_string());
        }
        more |= page.items.len() == limit && (at + 1) * ASKED < all.len();
        if page.items.len() == limit {
            break;
        }
    }
    page.next = last.filter(|_| more);
    page
}

fn matches(filter: &str, topic: &str) -> bool {
    Filter::parse(filter).is_ok_and(|filter| topic::matches(filter.filter, topic))
}

fn tell(client_id: &str, filter: &str, subscription: Subscription) -> report::Subscription {
    report::Subscription {
        client_id: client_id.into(),
        filter: filter.into(),
        qos: subscription.options.qos as u8,
        no_local: subscription.options.no_local,
        retain_as_published: subscription.options.retain_as_published,
        identifier: subscription.identifier,
    }
}

/// Why a client cannot be kicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKicked {
    NoSession,
    /// It is not connected, and its session is not to be ended.
    Away,
}

/// Ends a client's connection with 0x98, and with `forget` its session too. Answers when the client is gone.
pub async fn kick(shared: &Arc<Shared>, client_id: &str, forget: bool) -> Result<report::Kicked, NotKicked> {
    let which = Which { client: Some(client_id.to_owned()), ..Which::default() };
    let seen = see(shared, &which, 1).0.pop().ok_or(NotKicked::NoSession)?;
    if seen.online {
        let (done, gone) = oneshot::channel();
        let reason = ReasonCode::ADMINISTRATIVE_ACTION;
        seen.mailbox.command(Command::Close { reason, forget, done: Some(done) });
        // A task that does not answer will obey when it runs again; there is nothing more to do from here.
        let _ = tokio::time::timeout(GONE_WITHIN, gone).await;
    } else if forget {
        let session = seen.mailbox.session;
        shared.end_session(&seen.client_id, |entry| entry.mailbox.session == session && !entry.online);
        if seen.principal == Principal::Bridge {
            // What waited is forgotten; what comes is telemetry all the same.
            shared.settle_bridge();
        }
    } else {
        return Err(NotKicked::Away);
    }
    tracing::info!(client_id, forget, "kicked");
    Ok(report::Kicked { client_id: client_id.into(), was_online: seen.online, forgotten: forget })
}

/// Tells all clients but the bridge to leave, `rate` of them a second. Never ends: connections may be under way.
pub async fn drain(shared: &Shared, rate: u32) -> ! {
    const TICKS: u32 = 10;
    let per_tick = rate.div_ceil(TICKS).max(1) as usize;
    let mut told = std::collections::HashSet::new();
    loop {
        let online: Vec<Arc<Mailbox>> = {
            let clients = shared.registry.lock();
            let online = clients.values().filter(|entry| entry.online && entry.identity.principal != Principal::Bridge);
            online.map(|entry| entry.mailbox.clone()).filter(|mailbox| !told.contains(&mailbox.session)).collect()
        };
        for some in online.chunks(per_tick) {
            for mailbox in some {
                told.insert(mailbox.session);
                let reason = ReasonCode::SERVER_SHUTTING_DOWN;
                mailbox.command(Command::Close { reason, forget: false, done: None });
            }
            tokio::time::sleep(Duration::from_secs(1) / TICKS).await;
        }
        if online.is_empty() {
            // Handshakes that were under way may still become connections; listeners accept no more.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
