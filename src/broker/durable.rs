//! Sessions on their way into the journal, and back from it when the broker is started.
//!
//! The journal keeps what it understands: subscriptions, deliveries, identifiers. Who a session belongs to and what its
//! will is goes along as a document of the broker's own.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::counters::Gate;
use super::effects::Effects;
use super::mailbox::Mailbox;
use super::registry::{About, Entry, NOWHERE};
use super::router::Subscriber;
use super::will::{BadWill, StoredWill, Will};
use super::{Shared, unix_millis};
use crate::auth::{Identity, Principal, StoredIdentity};
use crate::config::bridge::SESSION_EXPIRY;
use crate::mqtt::Version;
use crate::mqtt::topic::Filter;
use crate::store::journal::{Away, ExtraOutstanding, Outstanding, Records, Recovered, RecoveredSession};
use crate::store::{Delivery, Inbound, Inflight, StoredSession};

/// What the broker wants to know again of a session that the journal has kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    identity: StoredIdentity,
    version: String,
    address: SocketAddr,
    listener: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    will: Option<StoredWill>,
}

/// Why a session cannot be taken over from the journal.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("its document cannot be read: {0}")]
    Document(#[from] serde_json::Error),
    #[error("a rule of its token cannot be read: {0}")]
    Rule(#[from] crate::auth::grants::RuleError),
    #[error(transparent)]
    Will(#[from] BadWill),
}

/// Writes a session down, as its connection is or was.
pub fn record(
    records: &mut Records,
    client_id: &str,
    session: u64,
    identity: &Identity,
    about: &About,
    will: Option<&Will>,
) {
    let document = Document {
        identity: identity.into(),
        version: about.version.number().into(),
        address: about.address,
        listener: about.gate.name.to_string(),
        will: will.map(Will::to_stored),
    };
    // Plain data under string keys: there is nothing that JSON cannot say.
    let document = serde_json::to_vec(&document).unwrap_or_default();
    records.session(session, client_id, about.expiry, about.window, &document);
}

/// What a restart has brought back, for the log.
#[derive(Debug, Default)]
struct Restored {
    sessions: usize,
    subscriptions: usize,
    queued: usize,
    /// The listeners through which the clients had come: many sessions share each.
    gates: Vec<Arc<Gate>>,
}

impl Restored {
    fn gate(&mut self, listener: &str) -> Arc<Gate> {
        if let Some(gate) = self.gates.iter().find(|gate| *gate.name == *listener) {
            return gate.clone();
        }
        let gate = Arc::new(Gate::new(listener, NOWHERE, false));
        self.gates.push(gate.clone());
        gate
    }
}

impl Shared {
    /// Takes over what the journal has kept, before anybody connects.
    pub fn restore(self: &Arc<Self>, recovered: Recovered) {
        let (mut restored, mut lost, retained) = (Restored::default(), 0, recovered.retained.len());
        self.registry.go_on_after(recovered.last_session);
        {
            let mut retained = self.store.retained.lock().unwrap_or_else(PoisonError::into_inner);
            recovered.retained.iter().for_each(|message| retained.restore(message));
        }
        let mut effects = Effects::default();
        for session in recovered.sessions {
            let (key, client_id) = (session.key, session.client_id.clone());
            match self.restore_session(session, &mut restored) {
                Ok(()) => {}
                Err(unusable) => {
                    tracing::error!(%client_id, %unusable, "a session that was written down is lost");
                    lost += 1;
                    effects.records.ended(key);
                }
            }
        }
        self.carry_out(effects);
        let Restored { sessions, subscriptions, queued, .. } = restored;
        tracing::info!(sessions, subscriptions, queued, retained, lost, "took over what was kept");
    }

    /// Asks everything again: the rules may have become others while nothing ran. Beside the first clients: of a hundred
    /// thousand sessions that takes a second.
    pub fn reconsider_restored(self: &Arc<Self>) {
        let shared = self.clone();
        tokio::task::spawn_blocking(move || {
            for (client_id, session) in shared.registry.away() {
                shared.watch_over_restored(&client_id, session);
                shared.reconsider_away(&client_id, session);
            }
        });
    }

    /// Lets a session send its will and end when that is due, unless its client is back.
    fn watch_over_restored(self: &Arc<Self>, client_id: &Arc<str>, session: u64) {
        let mut clients = self.registry.lock();
        let Some(entry) = clients.get_mut(client_id).filter(|it| it.mailbox.session == session && !it.online) else {
            return;
        };
        let away = Duration::from_millis(unix_millis().saturating_sub(entry.about.since));
        let left = Duration::from_secs(entry.about.expiry.into()).saturating_sub(away);
        let delay = entry.will_delay().map(|delay| delay.saturating_sub(away));
        self.watch_over(entry, client_id, delay, left);
    }

    fn restore_session(self: &Arc<Self>, session: RecoveredSession, restored: &mut Restored) -> Result<(), Unusable> {
        let document: Document = serde_json::from_slice(&session.about)?;
        let identity = Arc::new(Identity::try_from(document.identity)?);
        let client_id: Arc<str> = session.client_id.into();
        let now = unix_millis();
        // A client that was connected when the broker ended went away now.
        let since = session.away.map_or(now, |away| away.since);
        let about = About {
            version: Version::ALL.into_iter().find(|it| it.number() == document.version).unwrap_or(Version::V311),
            address: document.address,
            gate: restored.gate(&document.listener),
            since,
            asked: Instant::now(),
            // However long the bridge is away: what waits for it was acknowledged.
            expiry: if identity.principal == Principal::Bridge { SESSION_EXPIRY } else { session.expiry },
            window: session.window,
        };
        let mailbox = Arc::new(Mailbox::new(session.key, self.queue_limits(&identity.principal), true));
        let wants_origin = identity.principal == Principal::Bridge;
        for (text, subscription) in &session.subscriptions {
            let Ok(filter) = Filter::parse(text) else { continue };
            let options = subscription.options;
            let identifier = subscription.identifier;
            let subscriber = Subscriber { mailbox: mailbox.clone(), options, identifier, wants_origin };
            self.router.subscribe(&filter, subscriber);
        }
        restored.sessions += 1;
        restored.subscriptions += session.subscriptions.len();
        restored.queued += session.queue.len();
        let (mut inflight, waiting) = deliveries(session.away.as_ref(), session.window, session.queue, session.extras);
        let last = session.next_seq.saturating_sub(1);
        let perhaps_sent = if session.away.is_none() { last } else { 0 };
        inflight.was_perhaps_sent(perhaps_sent);
        inflight.go_on_with_extra(session.next_extra);
        mailbox.restore(waiting.into_iter(), last, perhaps_sent);
        let stored = StoredSession {
            subscriptions: session.subscriptions,
            inbound: Inbound::restore(session.inbound),
            inflight,
        };
        let will = document.will.map(|will| Will::restore(&will, &client_id, &identity)).transpose()?;
        let entry = Entry::restored(mailbox, identity, about, will);
        self.store.sessions.lock().unwrap_or_else(PoisonError::into_inner).park(&client_id, stored);
        let (session, over) =
            (entry.mailbox.session, u64::from(entry.about.expiry) * 1000 <= now.saturating_sub(since));
        self.registry.lock().insert(client_id.clone(), entry);
        if over {
            // Before anybody takes it for one that is there.
            self.watch_over_restored(&client_id, session);
        }
        Ok(())
    }
}

/// What is sent again, and what waits behind it. Of what a client was being sent when the broker ended nobody knows how far
/// it came: as many as the client accepts at a time are taken to be on their way, and all up to the last that it is known to
/// have. What the client had acknowledged and was not written down yet is among the first of them, so that more may have
/// been sent than that; [`Inflight::was_perhaps_sent`] sees to those.
fn deliveries(
    away: Option<&Away>,
    window: u16,
    queue: Vec<Outstanding>,
    extras: Vec<ExtraOutstanding>,
) -> (Inflight, Vec<Delivery>) {
    let (mut inflight, mut waiting) = (Inflight::default(), Vec::new());
    let mut extras = extras.into_iter().peekable();
    // Nothing that a client has said PUBREC for may be published to it again.
    let had = queue.iter().rposition(|outstanding| outstanding.received).map_or(0, |last| last + 1);
    for (at, outstanding) in queue.into_iter().enumerate() {
        let Outstanding { seq, mut delivery, received } = outstanding;
        delivery.seq = seq;
        while let Some(extra) = extras.next_if(|extra| extra.before <= seq) {
            inflight.restore_extra(extra.number, extra.before, extra.delivery, extra.received);
        }
        let may_be_sent = away.map_or(at < usize::from(window), |away| seq <= away.sent_seq) || at < had;
        if may_be_sent && waiting.is_empty() && seq < inflight.end() {
            inflight.restore(delivery, received);
        } else {
            waiting.push(delivery);
        }
    }
    extras.for_each(|extra| inflight.restore_extra(extra.number, extra.before, extra.delivery, extra.received));
    (inflight, waiting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::packet::{Publish, QoS};
    use crate::store::Message;

    fn outstanding(seq: u64, received: bool) -> Outstanding {
        let qos = QoS::ExactlyOnce;
        let properties = Default::default();
        let publish = Publish { dup: false, qos, retain: false, topic: "t", packet_id: None, properties, payload: b"" };
        let message = Arc::new(Message::new(&publish, "t", 0, None));
        Outstanding { seq, delivery: Delivery::new(message, qos, false, None), received }
    }

    /// Of eight, the client had four at a time; that it was done with the first two had not been written down.
    #[test]
    fn what_the_client_is_known_to_have_is_never_published_again() {
        let queue = (1..9).map(|seq| outstanding(seq, seq == 6)).collect();
        let (inflight, waiting) = deliveries(None, 4, queue, Vec::new());
        let again: Vec<_> = inflight.iter().map(|(id, sent)| (id.get(), sent.received)).collect();
        assert_eq!(again, [(1, false), (2, false), (3, false), (4, false), (5, false), (6, true)]);
        assert_eq!(waiting.iter().map(|delivery| delivery.seq).collect::<Vec<_>>(), [7, 8]);
    }

    #[test]
    fn of_a_client_that_went_away_it_is_known_what_was_sent() {
        let away = Away { since: 0, sent_seq: 2 };
        let (inflight, waiting) =
            deliveries(Some(&away), 4, (1..5).map(|seq| outstanding(seq, false)).collect(), Vec::new());
        assert_eq!((inflight.len(), waiting.len()), (2, 2));
    }
}
