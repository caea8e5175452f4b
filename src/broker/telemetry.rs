//! The bridge's session, which is there before the bridge is.
//!
//! What is acknowledged before the bridge's first SUBSCRIBE is telemetry as well, so the broker does not wait for that: it
//! makes the session itself, as the bridge would, from what both read in `config::bridge`. The bridge's CONNECT resumes it
//! and its SUBSCRIBE finds what it asks for. It is a session like any other: written down, listed, and limited by what may
//! wait for the bridge.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::counters::{Gate, Loss};
use super::durable;
use super::effects::Effects;
use super::events::{self, Who};
use super::listener::Entrance;
use super::mailbox::Mailbox;
use super::reconsider::RULES;
use super::registry::{About, Entry, NOWHERE};
use super::router::Subscriber;
use super::{Shared, unix_millis};
use crate::auth::{Identity, Principal};
use crate::config::bridge::{CLIENT_ID, SESSION_EXPIRY, SUBSCRIPTION};
use crate::mqtt::topic::{self, Filter};
use crate::mqtt::{QoS, Version};
use crate::store::{Cursor, Delivery, StoredSession, Subscription};

impl Shared {
    /// Makes the bridge's session be as the configuration has it, while the bridge is away: made, with other topics, or
    /// ended. When this returns, what is published is telemetry.
    pub fn settle_bridge(self: &Arc<Self>) {
        match self.policy.load().bridge_topics() {
            Some(topics) => self.expect_bridge(topics),
            None => self.dismiss_bridge(),
        }
    }

    fn expect_bridge(self: &Arc<Self>, topics: &[String]) {
        // The name is the bridge's, as when it connects: a device that has it gives way.
        self.end_session(CLIENT_ID, |entry| entry.identity.principal != Principal::Bridge);
        let identity = Arc::new(Identity::bridge());
        let grants = self.policy.load().grants(&identity, CLIENT_ID);
        let mut effects = Effects::default();
        let mut clients = self.registry.lock();
        let mut sessions = self.store.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = clients.entry(CLIENT_ID.into()).or_insert_with(|| {
            sessions.park(CLIENT_ID, StoredSession::default());
            self.new_session_of_bridge(identity, &mut effects)
        });
        let (mailbox, never_came) = (entry.mailbox.clone(), entry.about.address == NOWHERE);
        // A bridge that is connected says itself what it subscribes to.
        let Some(stored) = sessions.get_mut(CLIENT_ID).filter(|_| !entry.online) else { return };
        if let Some(filter) = self.withdraw(&grants, stored, &mailbox, &mut effects) {
            // What waits was acknowledged as telemetry: the bridge still gets it.
            tracing::info!(%filter, "the bridge's session gives up what is no topic of telemetry any more, this one first");
        }
        // Its own grants, so that nothing is taken from it when it comes.
        entry.grants = grants;
        let mut replay = std::mem::take(&mut entry.replay);
        let looks_for_nothing = replay.is_empty();
        for text in topics {
            let Ok(filter) = Filter::parse(text) else { continue };
            let is_new = !stored.subscriptions.contains_key(&**text);
            if is_new {
                self.subscribe_bridge(text, &filter, stored, &mailbox, &mut effects);
            }
            // Until it has come once, also after a restart: what waits for it here is not written down.
            if is_new || (never_came && looks_for_nothing) {
                replay.add_unqueued(filter.filter, SUBSCRIPTION);
            }
        }
        entry.replay = replay.rest();
        drop((sessions, clients));
        self.carry_out(effects);
    }

    fn new_session_of_bridge(&self, identity: Arc<Identity>, effects: &mut Effects) -> Entry {
        let now = unix_millis();
        let about = About {
            version: Version::V5,
            address: NOWHERE,
            gate: Arc::new(Gate::new(&Entrance::internal().name, NOWHERE, true)),
            since: now,
            asked: Instant::now(),
            expiry: SESSION_EXPIRY,
            // It has said nothing yet of how much it accepts.
            window: 0,
        };
        let limits = self.queue_limits(&identity.principal);
        let mailbox = Arc::new(Mailbox::new(self.registry.next_session(), limits, self.journal.is_some()));
        if mailbox.durable {
            durable::record(&mut effects.records, CLIENT_ID, mailbox.session, &identity, &about, None);
            effects.records.away(mailbox.session, now, SESSION_EXPIRY, 0);
        }
        tracing::info!(client_id = CLIENT_ID, "made the session that the bridge will find");
        Entry::restored(mailbox, identity, about, None)
    }

    /// Subscribes for the bridge. What is retained goes into its queue now: at its own SUBSCRIBE the subscription is no new
    /// one any more, and what is retained later comes through the subscription.
    fn subscribe_bridge(
        &self,
        text: &str,
        filter: &Filter<'_>,
        stored: &mut StoredSession,
        mailbox: &Arc<Mailbox>,
        effects: &mut Effects,
    ) {
        let subscription = Subscription { options: SUBSCRIPTION, identifier: None };
        if filter.share.is_none() {
            self.queue_retained(filter.filter, stored, mailbox, effects);
        }
        if mailbox.durable {
            // Behind what is retained: where the record of the subscription is lost, both come again.
            effects.records.subscribed(mailbox.session, text, &subscription);
        }
        stored.subscriptions.insert(text.into(), subscription);
        let (mailbox, options, identifier) = (mailbox.clone(), SUBSCRIPTION, None);
        self.router.subscribe(filter, Subscriber { mailbox, options, identifier, wants_origin: true });
    }

    /// Queues what is retained at QoS 1 and 2, but for what another subscription of the session has brought. QoS 0 is
    /// looked for when the bridge comes.
    fn queue_retained(&self, filter: &str, stored: &StoredSession, mailbox: &Mailbox, effects: &mut Effects) {
        let brought = |name: &str| {
            let others = stored.subscriptions.keys().filter_map(|text| Filter::parse(text).ok());
            others.filter(|it| it.share.is_none()).any(|it| topic::matches(it.filter, name))
        };
        let mut cursor = Cursor::default();
        while !cursor.is_done() {
            for message in self.retained(filter, &mut cursor) {
                if message.qos == QoS::AtMostOnce || brought(message.topic()) {
                    continue;
                }
                let delivery = Delivery::new(message.clone(), message.qos.min(SUBSCRIPTION.qos), true, None);
                mailbox.push(delivery, self.now(), effects);
                effects.given_again(self.journal.as_ref(), &message);
            }
        }
    }

    /// There is no bridge any more. Nobody would ever take what waits for it, and once that is as much as may wait, all
    /// publishers of telemetry would wait with it.
    fn dismiss_bridge(self: &Arc<Self>) {
        let of_bridge: Vec<_> = {
            let clients = self.registry.lock();
            let of_bridge = clients.iter().filter(|(_, entry)| entry.identity.principal == Principal::Bridge);
            of_bridge.map(|(id, entry)| (id.clone(), entry.identity.clone(), entry.mailbox.clone())).collect()
        };
        for (client_id, identity, mailbox) in of_bridge {
            let in_flight = {
                let sessions = self.store.sessions.lock().unwrap_or_else(PoisonError::into_inner);
                sessions.get(&client_id).map_or(0, |stored| stored.inflight.len())
            };
            let undelivered = (mailbox.waiting().messages + in_flight) as u64;
            tracing::warn!(
                %client_id, undelivered,
                "there is no telemetry any more: the bridge's session ends, and what it had not delivered is dropped"
            );
            self.counters.dropped.add(Loss::Revoked, undelivered);
            events::revoked(self, &Who::of(&client_id, &identity), RULES, "there is no bridge");
            self.end_session(&client_id, |entry| entry.mailbox.session == mailbox.session);
        }
    }
}
