//! What a new policy does to the sessions that there are.
//!
//! Every session is asked again: is its client still known, and may it still have what it has. A connection asks itself,
//! in its own task, when it sees that the policy is another; for clients that are away one pass does it, on a thread that
//! may block. A client that loses nothing notices nothing. One that loses a subscription or its will is disconnected, so
//! that it learns of it; one that is not known any more loses its session with all that waits in it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Closing, Connection, Peer};
use super::counters::Loss;
use super::effects::Effects;
use super::events::{self, Who};
use super::mailbox::Mailbox;
use super::registry::Entry;
use super::{Shared, unix_millis};
use crate::auth::{Grants, Identity, Lost, Policy, Principal};
use crate::mqtt::topic::Filter;
use crate::mqtt::{PacketId, QoS, ReasonCode};
use crate::store::{Delivery, StoredSession};

/// Connections that are woken at a time, and the pause that others get in between.
const WOKEN: usize = 256;
const PAUSE: Duration = Duration::from_millis(1);

impl Shared {
    /// Counts the policies. Whoever reads it before the policy sees in the end that the policy has changed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Puts a policy into force, for those who come and for those who are here.
    pub fn enforce(self: &Arc<Self>, policy: Policy) {
        self.policy.store(Arc::new(policy));
        self.generation.fetch_add(1, Ordering::AcqRel);
        let shared = self.clone();
        // Thousands of sessions take a while: here are no others that would wait for it.
        tokio::task::spawn_blocking(move || {
            // Who goes away between the two has asked itself, or is found among those that are away.
            for mailboxes in shared.registry.online().chunks(WOKEN) {
                for mailbox in mailboxes {
                    mailbox.wake();
                }
                std::thread::sleep(PAUSE);
            }
            for (client_id, session) in shared.registry.away() {
                shared.reconsider_away(&client_id, session);
            }
        });
    }

    /// What a client that was accepted once may do now.
    pub fn grants_now(&self, identity: &Identity, client_id: &str) -> Result<Grants, Lost> {
        let policy = self.policy.load();
        knows(&policy, identity)?;
        Ok(policy.grants(identity, client_id))
    }

    /// Asks again what the session of a client that is away may have.
    pub fn reconsider_away(self: &Arc<Self>, client_id: &Arc<str>, session: u64) {
        let is_it = |entry: &Entry| entry.mailbox.session == session && !entry.online;
        let Some((identity, before, mailbox)) = ({
            let clients = self.registry.lock();
            let found = clients.get(client_id).filter(|entry| is_it(entry));
            found.map(|entry| (entry.identity.clone(), entry.grants.clone(), entry.mailbox.clone()))
        }) else {
            return;
        };
        let grants = match self.grants_now(&identity, client_id) {
            Ok(grants) => grants,
            Err(lost) => {
                events::revoked(self, &Who::of(client_id, &identity), cause(lost), &lost.to_string());
                self.end_session(client_id, is_it);
                return;
            }
        };
        if grants == before || identity.principal == Principal::Bridge {
            return;
        }
        let (lost, held, taken) = {
            let mut clients = self.registry.lock();
            if !clients.get_mut(client_id).is_some_and(|entry| is_it(entry)) {
                // It is back, or gone: who comes back is asked again.
                return;
            }
            let mut sessions = self.store.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(stored) = sessions.get_mut(client_id) else { return };
            let mut effects = Effects::default();
            let lost = self.withdraw(&grants, stored, &mailbox, &mut effects);
            self.carry_out(effects);
            let held = held(stored);
            let sent: Vec<PacketId> = stored.inflight.iter().map(|(id, _)| id).collect();
            let taken = take_back(&grants, &held, stored, sent.into_iter());
            (lost, held, taken)
        };
        if let Some(filter) = &lost {
            let why = format!("it may no longer subscribe to {filter:?}");
            events::revoked(self, &Who::of(client_id, &identity), RULES, &why);
        }
        self.clear(&grants, &held, &mailbox, taken);
        // Last, so that a client that comes back meanwhile is asked again about everything.
        if let Some(entry) = self.registry.lock().get_mut(client_id).filter(|entry| is_it(entry)) {
            entry.grants = grants;
        }
    }

    /// Takes away the subscriptions that are not granted; answers the first of them.
    pub(super) fn withdraw(
        &self,
        grants: &Grants,
        stored: &mut StoredSession,
        mailbox: &Mailbox,
        effects: &mut Effects,
    ) -> Option<Box<str>> {
        let mut lost = None;
        stored.subscriptions.retain(|text, subscription| {
            let Ok(filter) = Filter::parse(text) else { return false };
            let granted = grants.may_subscribe(filter.filter, filter.share, subscription.options.qos);
            if !granted {
                self.router.unsubscribe(&filter, mailbox.session);
                if mailbox.durable {
                    effects.records.unsubscribed(mailbox.session, text);
                }
                lost.get_or_insert_with(|| text.clone());
            }
            granted
        });
        lost
    }

    /// Drops what waits for a session and what it may not have: `taken` is what was taken out elsewhere. What a shared
    /// subscription had given it at QoS 1 goes to another member.
    fn clear(&self, grants: &Grants, held: &[Box<str>], mailbox: &Mailbox, taken: Vec<Delivery>) {
        let mut effects = Effects::default();
        let removed = mailbox.extract(|delivery| !may_have(grants, held, delivery));
        for delivery in taken.into_iter().chain(removed) {
            let via = delivery.via.clone();
            match via.as_ref().and_then(|via| via.share.as_deref()) {
                Some(share) if delivery.qos == QoS::AtLeastOnce => {
                    self.router.redeliver(share, &delivery.message, self.now(), &mut effects);
                    effects.given_again(self.journal.as_ref(), &delivery.message);
                }
                _ => self.counters.dropped.add(Loss::Revoked, 1),
            }
            effects.done(mailbox, &delivery);
        }
        self.carry_out(effects);
    }
}

/// Whether a client, connected or away, may still be who it was, under this policy.
fn knows(policy: &Policy, identity: &Identity) -> Result<(), Lost> {
    match policy.knows(identity) {
        // A key that goes when its last token has expired takes nothing from sessions that outlive their tokens.
        Err(Lost::Key) if identity.expires_at.is_some_and(|at| at <= unix_millis() / 1000) => Ok(()),
        known => known,
    }
}

/// The label of what rules took.
pub(super) const RULES: &str = "rules";

/// Why a client is no longer known, as a label.
fn cause(lost: Lost) -> &'static str {
    match lost {
        Lost::Key => "key",
        Lost::Token(_) => "token",
        Lost::User | Lost::Password => "user",
        Lost::Anonymous | Lost::Bridge => RULES,
    }
}

/// The filters of a session, whole.
fn held(session: &StoredSession) -> Vec<Box<str>> {
    session.subscriptions.keys().cloned().collect()
}

/// Whether a session may have what waits for it: it might subscribe to just that topic, or still has the subscription
/// that brought it.
fn may_have(grants: &Grants, held: &[Box<str>], delivery: &Delivery) -> bool {
    let topic = delivery.message.topic();
    let whole = delivery.via.as_ref().and_then(|via| via.share.as_deref());
    let share = whole.and_then(|whole| Filter::parse(whole).ok()).and_then(|filter| filter.share);
    grants.may_subscribe(topic, share, delivery.qos)
        || held.iter().any(|text| match whole {
            Some(whole) => **text == *whole,
            None => Filter::parse(text)
                .is_ok_and(|filter| filter.share.is_none() && crate::mqtt::topic::matches(filter.filter, topic)),
        })
}

/// Takes out what was sent and is to be sent again, of these packet identifiers, and what the session may not have. Of a
/// QoS 2 message that the client has, nothing but its release is still to be sent.
fn take_back(
    grants: &Grants,
    held: &[Box<str>],
    session: &mut StoredSession,
    again: impl Iterator<Item = PacketId>,
) -> Vec<Delivery> {
    let inflight = &mut session.inflight;
    again
        .filter_map(|id| {
            let sent = inflight.get(id)?;
            if sent.received || may_have(grants, held, &sent.delivery) { None } else { inflight.finish(id) }
        })
        .collect()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Asks again who the client is and what it may do, if the policy is another than before.
    pub(super) fn reconsider(&mut self) -> Result<(), Closing> {
        let generation = self.shared.generation();
        if generation == self.peer.generation { Ok(()) } else { self.ask_again(generation) }
    }

    fn ask_again(&mut self, generation: u64) -> Result<(), Closing> {
        self.peer.generation = generation;
        let Peer { client_id, identity, .. } = &self.peer;
        let grants = match self.shared.grants_now(identity, client_id) {
            Ok(grants) => grants,
            Err(lost) => {
                let why = lost.to_string();
                events::revoked(&self.shared, &Who::of(client_id, identity), cause(lost), &why);
                // Nothing of the session is anybody's any more.
                self.peer.session_expiry = 0;
                return Err(Closing::because(ReasonCode::NOT_AUTHORIZED, why));
            }
        };
        if grants == self.peer.grants || identity.principal == Principal::Bridge {
            return Ok(());
        }
        let lost = self.take_grants(grants);
        let will = self.will.as_ref().and_then(|will| will.refused_by(&self.peer.grants));
        let why = match (lost, will) {
            (Some(filter), _) => format!("it may no longer subscribe to {filter:?}"),
            (None, Some(topic)) => format!("it may no longer publish its will to {topic:?}"),
            (None, None) => return Ok(()),
        };
        events::revoked(&self.shared, &Who::of(&self.peer.client_id, &self.peer.identity), RULES, &why);
        Err(Closing::because(ReasonCode::NOT_AUTHORIZED, why))
    }

    /// Puts rules into force for this client, and takes away what they do not grant; answers the first subscription that
    /// was taken.
    pub(super) fn take_grants(&mut self, grants: Grants) -> Option<Box<str>> {
        self.peer.grants = grants;
        self.publisher.forget_permissions();
        let mut effects = self.effects.take().unwrap_or_default();
        let lost = self.shared.withdraw(&self.peer.grants, &mut self.session, &self.mailbox, &mut effects);
        self.effects = Some(effects);
        let (held, grants) = (held(&self.session), &self.peer.grants);
        self.replay
            .retain(|delivery| may_have(grants, &held, delivery), |filter| held.iter().any(|it| **it == *filter));
        // What was sent in this connection was sent when it was granted; what was sent in an earlier one and is still to
        // be sent again was not.
        let taken = take_back(grants, &held, &mut self.session, self.resend.iter().copied());
        self.shared.clear(&self.peer.grants, &held, &self.mailbox, taken);
        lost
    }
}
