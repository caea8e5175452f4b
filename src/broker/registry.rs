//! Who is connected, who is away, and who owns a session.
//!
//! A session belongs to its principal. Its mailbox is here whether the client is connected or not; the rest of it is
//! with the connection's task, or in the store while the client is away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::mailbox::{Command, Mailbox};
use super::will::Will;
use super::{Shared, will};
use crate::auth::{Identity, Principal};
use crate::mqtt::topic::Filter;
use crate::mqtt::{QoS, ReasonCode};
use crate::store::{Limits, StoredSession};

/// How long a connection may take to give up its session.
const TAKEOVER: Duration = Duration::from_secs(5);

/// All sessions of this broker by client id.
#[derive(Debug, Default)]
pub struct Registry {
    clients: Mutex<HashMap<Arc<str>, Entry>>,
    last_session: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    mailbox: Arc<Mailbox>,
    principal: Principal,
    online: bool,
    /// The will that waits for its delay, while the client is away.
    will: Option<Will>,
    /// What ends the session, or sends the will, while the client is away.
    timer: Option<AbortHandle>,
}

/// A session given to a connection.
#[derive(Debug)]
pub struct Claim {
    pub mailbox: Arc<Mailbox>,
    /// What was kept of the session, if it existed.
    pub stored: Option<StoredSession>,
}

/// The client id belongs to another principal.
#[derive(Debug, PartialEq, Eq)]
pub struct NotTheOwner;

/// What a connection leaves behind.
#[derive(Debug)]
pub struct Leaving {
    pub session: StoredSession,
    /// How long the session lives on; zero ends it.
    pub expiry: Duration,
    pub will: Option<Will>,
    /// Connections that wait for the session.
    pub successors: Vec<oneshot::Sender<()>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions, of connected clients and of those that are away.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Tells every connection to end.
    pub fn close_all(&self, reason: ReasonCode) {
        let online: Vec<_> = self.lock().values().filter(|e| e.online).map(|e| e.mailbox.clone()).collect();
        for mailbox in online {
            mailbox.command(Command::Close { reason, done: None });
        }
    }
}

enum Step {
    Claimed(Claim),
    /// The old connection was told to leave.
    Wait(oneshot::Receiver<()>),
    /// The old session is to be ended first.
    End(Arc<str>),
}

impl Shared {
    /// Gives the session of a client id to a connection: takes it over from another connection, resumes it, or begins
    /// a new one. The connection must call [`Shared::release`] in the end.
    pub async fn claim(
        self: &Arc<Self>,
        client_id: &Arc<str>,
        identity: &Identity,
        clean_start: bool,
    ) -> Result<Claim, NotTheOwner> {
        loop {
            match self.try_claim(client_id, identity, clean_start)? {
                Step::Claimed(claim) => return Ok(claim),
                Step::End(client_id) => self.end_session(&client_id),
                Step::Wait(done) => {
                    // A connection that never answers loses its session to the newcomer at the next turn.
                    if tokio::time::timeout(TAKEOVER, done).await.is_err() {
                        tracing::warn!(%client_id, "the old connection did not give up its session in time");
                        self.end_session(client_id);
                    }
                }
            }
        }
    }

    fn try_claim(&self, client_id: &Arc<str>, identity: &Identity, clean_start: bool) -> Result<Step, NotTheOwner> {
        let mut clients = self.registry.lock();
        let Some(entry) = clients.get_mut(client_id) else {
            let session = self.registry.last_session.fetch_add(1, Ordering::Relaxed) + 1;
            let mailbox = Arc::new(Mailbox::new(session, self.queue_limits(&identity.principal)));
            mailbox.connect(self.now());
            let principal = identity.principal.clone();
            let entry = Entry { mailbox: mailbox.clone(), principal, online: true, will: None, timer: None };
            clients.insert(client_id.clone(), entry);
            return Ok(Step::Claimed(Claim { mailbox, stored: None }));
        };
        let same = entry.principal == identity.principal;
        if !same && !may_displace(identity, &entry.principal, client_id) {
            return Err(NotTheOwner);
        }
        if entry.online {
            let (done, wait) = oneshot::channel();
            let reason = ReasonCode::SESSION_TAKEN_OVER;
            entry.mailbox.command(Command::Close { reason, done: Some(done) });
            return Ok(Step::Wait(wait));
        }
        if !same || clean_start {
            return Ok(Step::End(client_id.clone()));
        }
        if let Some(timer) = entry.timer.take() {
            timer.abort();
        }
        // A resumed session means that the client is back before its will was due [MQTT-3.1.3-9].
        entry.will = None;
        entry.online = true;
        entry.mailbox.connect(self.now());
        let mut sessions = self.store.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Step::Claimed(Claim { mailbox: entry.mailbox.clone(), stored: sessions.take(client_id) }))
    }

    fn queue_limits(&self, principal: &Principal) -> Limits {
        Limits {
            messages: self.limits.max_queued_messages as usize,
            bytes: usize::try_from(self.limits.max_queued_bytes).unwrap_or(usize::MAX),
            drop_oldest: *principal != Principal::Bridge,
        }
    }

    /// Takes a session back from a connection that ends: keeps it until it expires, or ends it.
    pub fn release(self: &Arc<Self>, client_id: &Arc<str>, mailbox: &Arc<Mailbox>, leaving: Leaving) {
        let Leaving { session, expiry, will, successors } = leaving;
        let commands = {
            let mut clients = self.registry.lock();
            let Some(entry) = clients.get_mut(client_id).filter(|e| e.mailbox.session == mailbox.session) else {
                // The session was ended meanwhile; its subscriptions are still in the index.
                drop(clients);
                self.discard(mailbox, &session);
                return;
            };
            let commands = entry.mailbox.disconnect();
            self.store.sessions.lock().unwrap_or_else(PoisonError::into_inner).park(client_id, session);
            entry.online = false;
            entry.will = will;
            if !expiry.is_zero() {
                let delay = entry.will.as_ref().map(|will| will.delay.min(expiry));
                let task = tokio::spawn(away(self.clone(), client_id.clone(), mailbox.session, delay, expiry));
                entry.timer = Some(task.abort_handle());
            }
            commands
        };
        if expiry.is_zero() {
            self.end_session(client_id);
        }
        let unread = commands.into_iter().filter_map(|Command::Close { done, .. }| done);
        for successor in successors.into_iter().chain(unread) {
            // A newcomer that has gone away meanwhile needs no answer.
            let _ = successor.send(());
        }
    }

    /// Ends a session for good: subscriptions and queue go, a waiting will is sent.
    fn end_session(self: &Arc<Self>, client_id: &Arc<str>) {
        let Some(entry) = self.registry.lock().remove(client_id) else { return };
        if let Some(timer) = entry.timer {
            timer.abort();
        }
        let stored = self.store.sessions.lock().unwrap_or_else(PoisonError::into_inner).take(client_id);
        if entry.online {
            // Its task still has the session and discards it when it notices.
            let reason = ReasonCode::SESSION_TAKEN_OVER;
            entry.mailbox.command(Command::Close { reason, done: None });
        }
        if let Some(stored) = stored {
            self.discard(&entry.mailbox, &stored);
        }
        if let Some(will) = entry.will {
            will::publish(self, will);
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
        let mut wakers = Vec::new();
        for delivery in inflight.into_iter().chain(mailbox.close()) {
            let via = delivery.via.clone();
            if let Some(share) = via.as_ref().and_then(|via| via.share.as_deref())
                && delivery.qos == QoS::AtLeastOnce
            {
                self.router.redeliver(share, delivery, self.now(), &mut wakers);
            }
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
    }
}

/// Between two authenticated principals the one that the client id names wins; an anonymous client always gives way.
fn may_displace(newcomer: &Identity, owner: &Principal, client_id: &str) -> bool {
    match (&newcomer.principal, owner) {
        (Principal::Anonymous, _) => false,
        (_, Principal::Anonymous) => true,
        _ => newcomer.owns_client_id(client_id),
    }
}

/// Watches over a session whose client is away: sends the will when its delay is over, ends the session when it expires.
async fn away(shared: Arc<Shared>, client_id: Arc<str>, session: u64, delay: Option<Duration>, expiry: Duration) {
    let mut left = expiry;
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
        left -= delay;
        let will = {
            let mut clients = shared.registry.lock();
            clients
                .get_mut(&client_id)
                .filter(|e| e.mailbox.session == session && !e.online)
                .and_then(|e| e.will.take())
        };
        if let Some(will) = will {
            will::publish(&shared, will);
        }
    }
    tokio::time::sleep(left).await;
    let expired = {
        let mut clients = shared.registry.lock();
        let entry = clients.get_mut(&client_id).filter(|e| e.mailbox.session == session && !e.online);
        // Ending the session aborts its timer, which is this task.
        entry.map(|entry| entry.timer = None).is_some()
    };
    if expired {
        shared.end_session(&client_id);
    }
}
