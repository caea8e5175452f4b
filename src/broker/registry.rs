//! Who is connected, who is away, and who owns a session.
//!
//! A session belongs to its principal. Its mailbox is here whether the client is connected or not; the rest of it is
//! with the connection's task, or in the store while the client is away.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::counters::{Gate, Loss};
use super::durable;
use super::effects::Effects;
use super::limits::Limit;
use super::mailbox::{Command, Mailbox};
use super::replay::Replay;
use super::will::Will;
use super::{Shared, unix_millis, will};
use crate::auth::{Grants, Identity, Principal};
use crate::config::broker::{Broker as Config, QueueFull};
use crate::mqtt::topic::Filter;
use crate::mqtt::{QoS, ReasonCode, Version};
use crate::store::memory::{self, Held, Level};
use crate::store::{Full, Limits, StoredSession};

/// How long a connection may take to give up its session.
const TAKEOVER: Duration = Duration::from_secs(5);

/// All sessions of this broker by client id.
#[derive(Debug, Default)]
pub struct Registry {
    clients: Mutex<HashMap<Arc<str>, Entry>>,
    last_session: AtomicU64,
    /// Set under the lock of `clients`, so that nobody comes in behind those who were told to go.
    closed: AtomicBool,
}

#[derive(Debug)]
pub struct Entry {
    pub mailbox: Arc<Mailbox>,
    /// Who it belongs to, by the credential that was accepted last.
    pub identity: Arc<Identity>,
    /// What its subscriptions and what waits for it was found good by, while the client is away.
    pub grants: Grants,
    pub online: bool,
    pub about: About,
    /// The will that waits for its delay, while the client is away.
    will: Option<Will>,
    /// Retained messages that its subscriptions still get, while the client is away.
    pub replay: Replay,
    /// What ends the session, or sends the will, while the client is away.
    timer: Option<AbortHandle>,
    /// What it takes of the memory that there is.
    #[expect(dead_code, reason = "counts until it is dropped")]
    held: Held,
}

/// Where a client is that has not been here: before its first connection, or to this process.
pub const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// About what a session takes, its client connected or not: 2.4 KiB were seen with a token that other clients have too, up
/// to twice as much with one of its own.
const SESSION: usize = 2560;

impl Entry {
    /// A session of which nobody knows yet when it ends.
    fn new(mailbox: Arc<Mailbox>, identity: Arc<Identity>, online: bool, about: About, will: Option<Will>) -> Self {
        let (grants, replay) = (Grants::deny_all(), Replay::default());
        let held = Held::new(SESSION);
        Self { mailbox, identity, grants, online, about, will, replay, timer: None, held }
    }

    /// How long after the client's going its will is due, if it has one.
    pub fn will_delay(&self) -> Option<Duration> {
        self.will.as_ref().map(|will| will.delay)
    }

    /// A session whose client is away: kept over a restart, or made for a client that is to come.
    pub fn restored(mailbox: Arc<Mailbox>, identity: Arc<Identity>, about: About, will: Option<Will>) -> Self {
        Self::new(mailbox, identity, false, about, will)
    }
}

/// The connection of a client, or its last one while it is away.
#[derive(Clone, Debug)]
pub struct About {
    pub version: Version,
    pub address: SocketAddr,
    pub gate: Arc<Gate>,
    /// Milliseconds since 1970 UTC at which the client connected, or went away.
    pub since: u64,
    /// When its CONNECT was complete.
    pub asked: Instant,
    /// Seconds that the session lives on, once the client is away.
    pub expiry: u32,
    /// QoS 1 and 2 deliveries that the client accepts at a time.
    pub window: u16,
}

/// A session given to a connection.
#[derive(Debug)]
pub struct Claim {
    pub mailbox: Arc<Mailbox>,
    /// What was kept of the session, if it existed.
    pub stored: Option<StoredSession>,
    /// What that was found good by.
    pub granted: Option<Grants>,
    /// Retained messages that its subscriptions still get.
    pub replay: Replay,
}

/// Why a connection gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSession {
    /// The client id belongs to another principal.
    NotTheOwner,
    /// The client has connected again since.
    Outdated,
    /// There is no room for another session.
    Limited(Limit),
    /// The broker stops.
    Closed,
}

/// What a connection leaves behind.
#[derive(Debug)]
pub struct Leaving {
    pub session: StoredSession,
    /// How long the session lives on; zero ends it.
    pub expiry: Duration,
    pub will: Option<Will>,
    /// The will is not due, however long the client stays away: only when the session ends, or the broker is back.
    pub keep_will: bool,
    pub replay: Replay,
    /// What the session was found good by, and the count of policies then.
    pub grants: Grants,
    pub generation: u64,
    /// Connections that wait for the session.
    pub successors: Vec<oneshot::Sender<()>>,
}

impl Registry {
    pub fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers sessions from behind this one on.
    pub fn go_on_after(&self, session: u64) {
        self.last_session.fetch_max(session, Ordering::Relaxed);
    }

    /// The number of a new session.
    pub fn next_session(&self) -> u64 {
        self.last_session.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sessions, of connected clients and of those that are away.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// How many clients are connected, and the mailboxes of all sessions.
    pub fn mailboxes(&self) -> (usize, Vec<Arc<Mailbox>>) {
        let clients = self.lock();
        let online = clients.values().filter(|entry| entry.online).count();
        (online, clients.values().map(|entry| entry.mailbox.clone()).collect())
    }

    /// The mailboxes of connected clients.
    pub fn online(&self) -> Vec<Arc<Mailbox>> {
        self.lock().values().filter(|entry| entry.online).map(|entry| entry.mailbox.clone()).collect()
    }

    /// The clients that are away, with their sessions.
    pub fn away(&self) -> Vec<(Arc<str>, u64)> {
        let clients = self.lock();
        let away = clients.iter().filter(|(_, entry)| !entry.online);
        away.map(|(client_id, entry)| (client_id.clone(), entry.mailbox.session)).collect()
    }

    /// The connection of a client, or its last one.
    pub fn about(&self, client_id: &str) -> Option<About> {
        self.lock().get(client_id).map(|entry| entry.about.clone())
    }

    /// The client of a session has shown another credential.
    pub fn identify(&self, client_id: &str, session: u64, identity: &Arc<Identity>) {
        if let Some(entry) = self.lock().get_mut(client_id).filter(|entry| entry.mailbox.session == session) {
            entry.identity = identity.clone();
        }
    }

    /// Lets no other connection in, and answers those that there are.
    pub fn close(&self) -> Vec<Arc<Mailbox>> {
        let clients = self.lock();
        self.closed.store(true, Ordering::Relaxed);
        clients.values().filter(|entry| entry.online).map(|entry| entry.mailbox.clone()).collect()
    }
}

enum Step {
    Claimed(Claim),
    /// The connection that has this session was told to leave.
    Wait(u64, oneshot::Receiver<()>),
    /// This session is to be ended first.
    End(u64),
}

impl Shared {
    /// Gives the session of a client id to a connection: takes it over from another connection, resumes it, or begins
    /// a new one. The connection must call [`Shared::release`] in the end.
    pub async fn claim(
        self: &Arc<Self>,
        client_id: &Arc<str>,
        identity: &Arc<Identity>,
        clean_start: bool,
        about: &About,
    ) -> Result<Claim, NoSession> {
        loop {
            match self.try_claim(client_id, identity, clean_start, about)? {
                Step::Claimed(claim) => return Ok(claim),
                Step::End(session) => self.end_session(client_id, |entry| entry.mailbox.session == session),
                Step::Wait(session, done) => {
                    // A connection that never answers loses its session to the newcomer at the next turn.
                    if tokio::time::timeout(TAKEOVER, done).await.is_err() {
                        tracing::warn!(%client_id, "the old connection did not give up its session in time");
                        self.end_session(client_id, |entry| entry.mailbox.session == session);
                    }
                }
            }
        }
    }

    /// Whether a client may have a session: one that there is, or a new one.
    pub fn room_for_session(&self, client_id: &str) -> Result<(), Limit> {
        self.room_among(&self.registry.lock(), client_id)
    }

    fn room_among(&self, clients: &HashMap<Arc<str>, Entry>, client_id: &str) -> Result<(), Limit> {
        // Who comes back takes what waits for it, and so makes room.
        if clients.contains_key(client_id) {
            return Ok(());
        }
        if clients.len() >= self.limits.max_sessions as usize {
            return Err(Limit::MaxSessions);
        }
        if memory::level() >= Level::Scarce { Err(Limit::MaxMemory) } else { Ok(()) }
    }

    fn try_claim(
        &self,
        client_id: &Arc<str>,
        identity: &Arc<Identity>,
        clean_start: bool,
        about: &About,
    ) -> Result<Step, NoSession> {
        let mut clients = self.registry.lock();
        if self.registry.closed.load(Ordering::Relaxed) {
            return Err(NoSession::Closed);
        }
        if identity.principal != Principal::Bridge {
            self.room_among(&clients, client_id).map_err(|limit| {
                self.counters.limited.add(limit);
                NoSession::Limited(limit)
            })?;
        }
        let Some(entry) = clients.get_mut(client_id) else {
            let session = self.registry.next_session();
            // Only what may outlive its connection is written down.
            let durable = self.journal.is_some() && about.expiry > 0;
            let mailbox = Arc::new(Mailbox::new(session, self.queue_limits(&identity.principal), durable));
            mailbox.connect(self.now());
            clients.insert(client_id.clone(), Entry::new(mailbox.clone(), identity.clone(), true, about.clone(), None));
            return Ok(Step::Claimed(Claim { mailbox, stored: None, granted: None, replay: Replay::default() }));
        };
        let same = entry.identity.principal == identity.principal;
        if !same && !may_displace(identity, &entry.identity, client_id) {
            return Err(NoSession::NotTheOwner);
        }
        if same && about.asked < entry.about.asked {
            // While this one's password was checked, say: what is later is what the client wants.
            return Err(NoSession::Outdated);
        }
        if entry.online {
            let (done, wait) = oneshot::channel();
            let reason = ReasonCode::SESSION_TAKEN_OVER;
            entry.mailbox.command(Command::Close { reason, forget: false, done: Some(done) });
            return Ok(Step::Wait(entry.mailbox.session, wait));
        }
        if !same || clean_start {
            return Ok(Step::End(entry.mailbox.session));
        }
        if let Some(timer) = entry.timer.take() {
            timer.abort();
        }
        // A resumed session means that the client is back before its will was due [MQTT-3.1.3-9].
        entry.will = None;
        entry.online = true;
        entry.about = about.clone();
        entry.identity = identity.clone();
        entry.mailbox.connect(self.now());
        let granted = Some(entry.grants.clone());
        let replay = std::mem::take(&mut entry.replay);
        let stored = self.store.sessions.lock().unwrap_or_else(PoisonError::into_inner).take(client_id);
        Ok(Step::Claimed(Claim { mailbox: entry.mailbox.clone(), stored, granted, replay }))
    }

    pub fn queue_limits(&self, principal: &Principal) -> Limits {
        let bytes = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        if *principal == Principal::Bridge {
            // Telemetry has a quota of its own, in bytes; what is more lets publishers wait.
            return Limits {
                messages: usize::MAX,
                bytes: bytes(self.telemetry_buffer.load(Ordering::Relaxed)),
                full: Full::Wait,
            };
        }
        Limits {
            messages: self.limits.max_queued_messages as usize,
            bytes: bytes(self.limits.max_queued_bytes),
            full: match self.limits.queue_full {
                QueueFull::DropOldest => Full::DropOldest,
                QueueFull::Refuse => Full::Refuse,
            },
        }
    }

    /// Milliseconds that a message may wait for a client, if that is limited.
    pub fn max_queued_age(&self) -> Option<u64> {
        Some(self.max_queued_age.load(Ordering::Relaxed)).filter(|most| *most > 0)
    }

    /// Takes up how much may be kept and for how long, while the broker runs.
    pub fn keep_as_much_as(&self, config: &Config) {
        self.max_queued_age.store(config.limits.max_queued_millis(), Ordering::Relaxed);
        if let (Some(journal), Some(storage)) = (&self.journal, config.storage) {
            journal.set_size(storage.size);
        }
        let buffer = config.bridge.as_ref().map_or(0, |bridge| bridge.buffer);
        if self.telemetry_buffer.swap(buffer, Ordering::Relaxed) == buffer {
            return;
        }
        let limits = self.queue_limits(&Principal::Bridge);
        let clients = self.registry.lock();
        for entry in clients.values().filter(|entry| entry.identity.principal == Principal::Bridge) {
            entry.mailbox.limit(limits);
        }
    }

    /// Takes a session back from a connection that ends: keeps it until it expires, or ends it.
    pub fn release(self: &Arc<Self>, client_id: &Arc<str>, mailbox: &Arc<Mailbox>, leaving: Leaving) {
        let Leaving { session, expiry, will, keep_will, replay, grants, generation, successors } = leaving;
        // A will without a delay is due now, also where a successor goes on with the session.
        let (due, waiting) = match will {
            Some(will) if will.delay.is_zero() && !keep_will => (Some(will), None),
            will => (None, will),
        };
        let mut clients = self.registry.lock();
        let Some(entry) = clients.get_mut(client_id).filter(|e| e.mailbox.session == mailbox.session) else {
            // The session was ended meanwhile, which no will outlasts; its subscriptions are still in the index.
            drop(clients);
            self.discard(mailbox, &session);
            if let Some(will) = due.or(waiting) {
                will::publish(self, will, Effects::default());
            }
            return;
        };
        let commands = entry.mailbox.disconnect();
        if expiry.is_zero() {
            // Gone before the lock is: nobody resumes it.
            let of_bridge = clients.remove(client_id).is_some_and(|e| e.identity.principal == Principal::Bridge);
            drop(clients);
            self.discard(mailbox, &session);
            if let Some(will) = due.or(waiting) {
                will::publish(self, will, Effects::default());
            }
            if of_bridge {
                self.settle_bridge();
            }
        } else {
            self.store.sessions.lock().unwrap_or_else(PoisonError::into_inner).park(client_id, session);
            entry.online = false;
            entry.about.since = unix_millis();
            entry.about.expiry = u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX);
            entry.will = waiting;
            entry.grants = grants;
            entry.replay = replay;
            let mut effects = Effects::default();
            self.record_away(client_id, entry, &mut effects);
            let delay = entry.will_delay().filter(|_| !keep_will);
            self.watch_over(entry, client_id, delay, expiry);
            drop(clients);
            // In the same breath as the record that has it no longer: after a restart it is sent once, or again, never not.
            match due {
                Some(will) => will::publish(self, will, effects),
                None => self.carry_out(effects),
            }
            if generation != self.generation() {
                // Who went through the sessions for the new policy saw this one connected, and left it to its task.
                let (shared, client_id, session) = (self.clone(), client_id.clone(), mailbox.session);
                tokio::task::spawn_blocking(move || shared.reconsider_away(&client_id, session));
            }
        }
        let unread = commands.into_iter().filter_map(|command| match command {
            Command::Close { done, .. } => done,
            // Who asked finds the session in the store.
            Command::Describe { .. } => None,
        });
        for successor in successors.into_iter().chain(unread) {
            // A newcomer that has gone away meanwhile needs no answer.
            let _ = successor.send(());
        }
    }

    /// Writes a session down whose client is away.
    fn record_away(&self, client_id: &str, entry: &Entry, effects: &mut Effects) {
        let Entry { mailbox, identity, about, will, .. } = entry;
        if mailbox.durable {
            let sessions = self.store.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            let sent = sessions.get(client_id).map_or(0, |stored| stored.inflight.last_queued());
            durable::record(&mut effects.records, client_id, mailbox.session, identity, about, will.as_ref());
            effects.records.away(mailbox.session, about.since, about.expiry, sent);
        }
    }

    /// Lets a session whose client is away send its will when that is due, and end when it has expired.
    pub fn watch_over(
        self: &Arc<Self>,
        entry: &mut Entry,
        client_id: &Arc<str>,
        delay: Option<Duration>,
        expiry: Duration,
    ) {
        let delay = delay.map(|delay| delay.min(expiry));
        if let Some(former) = entry.timer.take() {
            former.abort();
        }
        let task = tokio::spawn(away(self.clone(), client_id.clone(), entry.mailbox.session, delay, expiry));
        entry.timer = Some(task.abort_handle());
    }

    /// Ends a session for good, if it is the `wanted` one: subscriptions and queue go, a waiting will is sent.
    pub fn end_session(self: &Arc<Self>, client_id: &str, wanted: impl FnOnce(&Entry) -> bool) {
        let (entry, stored) = {
            let mut clients = self.registry.lock();
            if !clients.get(client_id).is_some_and(wanted) {
                return;
            }
            // Both under the lock: a newcomer's session has the same client id.
            let stored = self.store.sessions.lock().unwrap_or_else(PoisonError::into_inner).take(client_id);
            (clients.remove(client_id), stored)
        };
        let Some(entry) = entry else { return };
        if let Some(timer) = entry.timer {
            timer.abort();
        }
        if entry.online {
            // Its task still has the session and discards it when it notices.
            let reason = ReasonCode::SESSION_TAKEN_OVER;
            entry.mailbox.command(Command::Close { reason, forget: false, done: None });
        }
        if let Some(stored) = stored {
            self.discard(&entry.mailbox, &stored);
        }
        if let Some(will) = entry.will {
            will::publish(self, will, Effects::default());
        }
    }

    /// Takes a session out of the index. What a shared subscription had given it at QoS 1 goes to another member.
    fn discard(&self, mailbox: &Mailbox, session: &StoredSession) {
        for filter in session.subscriptions.keys() {
            if let Ok(filter) = Filter::parse(filter) {
                self.router.unsubscribe(&filter, mailbox.session);
            }
        }
        let inflight: Vec<_> = session.inflight.iter().map(|(_, sent)| sent.delivery.clone()).collect();
        let mut effects = Effects::default();
        for delivery in inflight.into_iter().chain(mailbox.close()) {
            let via = delivery.via.clone();
            let Some(share) = via.as_ref().and_then(|via| via.share.as_deref()) else { continue };
            if delivery.qos == QoS::AtLeastOnce {
                self.router.redeliver(share, &delivery.message, self.now(), &mut effects);
                effects.given_again(self.journal.as_ref(), &delivery.message);
            } else {
                // At QoS 2 the member may have it: another would be a second delivery [MQTT-4.8.2-5].
                self.counters.dropped.add(Loss::SessionEnded, 1);
            }
        }
        if mailbox.durable {
            // Behind what others took over: a message that nobody has is forgotten.
            effects.records.ended(mailbox.session);
        }
        self.carry_out(effects);
    }
}

/// Between two authenticated principals the one that the client id names wins; an anonymous client always gives way.
fn may_displace(newcomer: &Identity, owner: &Identity, client_id: &str) -> bool {
    match (&newcomer.principal, &owner.principal) {
        (Principal::Anonymous, _) => false,
        (_, Principal::Anonymous) => true,
        // Where both have the name, the one that is there stays: they would else take the session from each other for ever.
        _ => newcomer.owns_client_id(client_id) && !owner.owns_client_id(client_id),
    }
}

/// Watches over a session whose client is away: sends the will when its delay is over, ends the session when it expires.
async fn away(shared: Arc<Shared>, client_id: Arc<str>, session: u64, delay: Option<Duration>, expiry: Duration) {
    let mut left = expiry;
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
        left -= delay;
        let mut effects = Effects::default();
        let will = {
            let mut clients = shared.registry.lock();
            let entry = clients.get_mut(&client_id).filter(|e| e.mailbox.session == session && !e.online);
            entry.and_then(|entry| {
                let will = entry.will.take();
                shared.record_away(&client_id, entry, &mut effects);
                will
            })
        };
        if let Some(will) = will {
            will::publish(&shared, will, effects);
        }
    }
    tokio::time::sleep(left).await;
    // This aborts the session's timer, which is this task: nothing is awaited any more.
    shared.end_session(&client_id, |entry| entry.mailbox.session == session && !entry.online);
}
