//! The publisher's side of a connection: authorise, route, acknowledge.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Closing, Connection, Peer};
use super::events::{self, Who};
use super::limits::Limit;
use super::quota::Pace;
use super::router::Routes;
use super::{Shared, aliases};
use crate::auth::explain::{self, Request, Verb};
use crate::auth::{Decision, Grants, Layer};
use crate::config::broker::Rate;
use crate::mqtt::packet::{Ack, Packet, Publish};
use crate::mqtt::property::AckProperties;
use crate::mqtt::{PacketId, QoS, ReasonCode, Version, Violation};
use crate::store::memory::{self, Held, Level};
use crate::store::{Arrival, Message, Origin};

/// Topics of which a publisher remembers routes and permissions; a power of two.
const TOPICS: usize = 64;
/// Bytes of a topic that is remembered: 64 of the longest would cost four megabytes.
const TOPIC_REMEMBERED: usize = 1024;

/// What a connection remembers as a publisher.
#[derive(Debug, Default)]
pub struct Publisher {
    aliases: aliases::Inbound,
    /// Direct-mapped by the hash of the topic; empty until the first publication.
    topics: Vec<Option<Topic>>,
    /// The last id given to a publication of this connection.
    last_id: u128,
    pub(super) pace: Pace,
    denied: u64,
    denied_since: u64,
}

/// A topic that was published to before.
#[derive(Debug)]
struct Topic {
    name: Box<str>,
    routes: Arc<Routes>,
    held: Held,
    /// A bit per combination of QoS and RETAIN: asked before, and allowed.
    asked: u8,
    allowed: u8,
    /// Where the rule stands that decided, for each of these combinations.
    layers: [Layer; 6],
}

impl Publisher {
    /// Where the topic goes, and whether the client may publish there. A topic that was seen before costs a comparison.
    fn look_up(&mut self, shared: &Shared, grants: &Grants, publish: &Publish<'_>) -> (Arc<Routes>, Decision) {
        let routes = || Arc::new(shared.router.routes(publish.topic));
        if publish.topic.len() > TOPIC_REMEMBERED || memory::level() > Level::Ample {
            self.topics = Vec::new();
            return (routes(), grants.decide_publish(publish.topic, publish.qos, publish.retain));
        }
        if self.topics.is_empty() {
            self.topics.resize_with(TOPICS, || None);
        }
        let slot = &mut self.topics[hash(publish.topic.as_bytes()) % TOPICS];
        let topic = match slot {
            Some(topic) if *topic.name == *publish.topic => {
                if topic.routes.generation != shared.router.generation() {
                    topic.routes = routes();
                    topic.held.settle(topic.name.len() + topic.routes.held());
                }
                topic
            }
            slot => {
                let (name, routes): (Box<str>, _) = (publish.topic.into(), routes());
                let held = Held::new(name.len() + routes.held());
                slot.insert(Topic { name, routes, held, asked: 0, allowed: 0, layers: Default::default() })
            }
        };
        let at = publish.qos as usize * 2 + usize::from(publish.retain);
        let bit = 1 << at;
        if topic.asked & bit == 0 {
            let decision = grants.decide_publish(publish.topic, publish.qos, publish.retain);
            topic.asked |= bit;
            topic.allowed |= if decision.allowed { bit } else { 0 };
            topic.layers[at] = decision.layer;
        }
        (topic.routes.clone(), Decision { allowed: topic.allowed & bit != 0, layer: topic.layers[at] })
    }

    /// The rules have changed: every topic is asked about again.
    pub(super) fn forget_permissions(&mut self) {
        self.topics.clear();
    }

    /// The next publication id: a ULID whose random part counts up, so that ids of one connection are ordered.
    fn next_id(&mut self, now: u64) -> u128 {
        const RANDOM_BITS: u32 = 80;
        if self.last_id == 0 {
            self.last_id = u128::from(ulid::Ulid::generate());
        }
        let random = self.last_id.wrapping_add(1) & ((1 << RANDOM_BITS) - 1);
        self.last_id = u128::from(now) << RANDOM_BITS | random;
        self.last_id
    }

    /// Counts a denied publication; answers whether the budget is spent.
    fn spend(&mut self, budget: Option<Rate>, now: u64) -> bool {
        let Some(budget) = budget else { return false };
        if now.saturating_sub(self.denied_since) > u64::from(budget.seconds) * 1000 {
            self.denied_since = now;
            self.denied = 0;
        }
        self.denied += 1;
        self.denied >= budget.amount
    }
}

/// Spreads topics over the slots; collisions cost a look-up, nothing else.
pub(super) fn hash(bytes: &[u8]) -> usize {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut chunks = bytes.chunks_exact(8);
    let mut hash = bytes.len() as u64;
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
    }
    for byte in chunks.remainder() {
        hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(FACTOR);
    }
    (hash >> 32) as usize
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn on_publish(&mut self, publish: &Publish<'_>, now: u64) -> Result<(), Closing> {
        self.turn.received[publish.qos as usize] += 1;
        let Some(alias) = publish.properties.topic_alias else { return self.take_publish(publish, now) };
        let topic = self.publisher.aliases.resolve(alias, publish.topic, self.shared.limits.max_topic_aliases)?;
        self.take_publish(&Publish { topic: &topic, ..publish.clone() }, now)
    }

    fn take_publish(&mut self, publish: &Publish<'_>, now: u64) -> Result<(), Closing> {
        if !publish.properties.subscription_identifiers.is_empty() {
            return Err(Violation::SubscriptionIdentifierFromClient.into());
        }
        if let Some(id) = publish.packet_id
            && self.session.inbound.publish(publish.qos, id, self.receive_maximum())? == Arrival::Again
        {
            self.acknowledge_publish(publish.qos, id, ReasonCode::SUCCESS);
            return Ok(());
        }
        if self.exceeds(publish, now)? {
            return Ok(());
        }
        if publish.retain && self.shared.limits.max_retained_messages == 0 {
            // CONNACK of 5.0 has said so. What 3.x asks for is not half done.
            return match self.peer.version {
                Version::V5 => Err(Violation::RetainNotSupported.into()),
                _ => self.reject(publish, ReasonCode::RETAIN_NOT_SUPPORTED, "retaining is switched off", now),
            };
        }
        let (routes, decision) = self.publisher.look_up(&self.shared, &self.peer.grants, publish);
        if !decision.allowed {
            return self.deny(publish, decision.layer, now);
        }
        self.turn.allowed[decision.layer as usize] += 1;
        if publish.retain || !routes.is_empty() {
            if !self.give(publish, &routes, now)? {
                return Ok(());
            }
        } else if let Some((session, id)) = self.durable_id(publish) {
            self.effects().awaited().inbound(session, id);
        }
        if let Some(id) = publish.packet_id {
            let nobody = routes.is_empty();
            let code = if nobody { ReasonCode::NO_MATCHING_SUBSCRIBERS } else { ReasonCode::SUCCESS };
            self.acknowledge_publish(publish.qos, id, code);
        }
        Ok(())
    }

    /// Retains the publication and gives it to all that get it, if there is room for it. `false`: it was answered.
    fn give(&mut self, publish: &Publish<'_>, routes: &Routes, now: u64) -> Result<bool, Closing> {
        let from = self.mailbox.session;
        let inbound = self.durable_id(publish);
        if publish.qos > QoS::AtMostOnce
            && (publish.retain || routes.durable || inbound.is_some())
            && let Some(limit) = self.shared.unwritable()
        {
            return self.refuse_publication(publish, limit).map(|()| false);
        }
        let wants_origin = routes.wants_origin || publish.retain;
        let wall = self.turn.wall();
        let origin = wants_origin.then(|| {
            let client_id = self.peer.client_id.clone();
            Box::new(Origin { id: self.publisher.next_id(wall), client_id })
        });
        let message = Arc::new(Message::new(publish, publish.topic, wall, origin));
        if routes.refuses(&message, from) {
            return self.refuse_publication(publish, Limit::QueueFull).map(|()| false);
        }
        let mut retained = publish.retain;
        if publish.retain
            && let Err(limit) = self.shared.retain(&message)
        {
            retained = false;
            events::limited(&self.shared, limit, &self.peer.client_id, "not retained");
            if publish.qos > QoS::AtMostOnce && self.peer.version == Version::V5 {
                self.answer_refused(publish, limit.reason(), "it cannot be retained: there is no room for it");
                return Ok(false);
            }
            // Who cannot be told otherwise gets the rest of what it asked for.
        }
        // Who has subscribed meanwhile, and looked for what is retained before this was, gets it here.
        let newer = (retained && routes.generation != self.shared.router.generation())
            .then(|| self.shared.router.routes(publish.topic));
        let effects = self.effects.get_or_insert_default();
        let outcome = newer.as_ref().unwrap_or(routes).deliver(&message, from, now, effects);
        effects.published(self.shared.journal.as_ref(), &message, inbound, retained);
        self.turn.lose_routed(&outcome);
        if let Some(mailbox) = outcome.hold {
            self.hold_for(mailbox, now);
        }
        Ok(true)
    }

    /// The session and the packet identifier of a publication that must be known again after a restart.
    fn durable_id(&self, publish: &Publish<'_>) -> Option<(u64, PacketId)> {
        let id = publish.packet_id.filter(|_| self.mailbox.durable && publish.qos == QoS::ExactlyOnce)?;
        Some((self.mailbox.session, id))
    }

    /// PUBACK or PUBREC; withheld while a subscriber is behind, in the order of the publications [MQTT-4.6.0-2].
    fn acknowledge_publish(&mut self, qos: QoS, id: PacketId, code: ReasonCode) {
        self.answer_publish(qos, &Ack { packet_id: id, code, properties: AckProperties::default() });
    }

    fn answer_publish(&mut self, qos: QoS, ack: &Ack<'_>) {
        let packet = match qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => Packet::PubAck(ack.clone()),
            QoS::ExactlyOnce => Packet::PubRec(ack.clone()),
        };
        self.answer(&packet, u32::from(qos == QoS::AtLeastOnce));
    }

    /// QoS 1 and 2 publications that the client may have on the way; only MQTT 5.0 tells it.
    pub(super) fn receive_maximum(&self) -> u16 {
        if self.peer.version == Version::V5 { self.shared.limits.receive_maximum } else { u16::MAX }
    }

    /// A publication that no rule allows.
    fn deny(&mut self, publish: &Publish<'_>, layer: Layer, now: u64) -> Result<(), Closing> {
        let Peer { client_id, identity, .. } = &self.peer;
        let Publish { topic, qos, retain, .. } = *publish;
        let request = Request { verb: Verb::Publish, topic, qos, retain };
        let reason = || explain::reason(&self.shared.policy.load(), identity, client_id, request);
        let why = events::denied(&self.shared, &Who::of(client_id, identity), &request, layer, reason);
        self.reject(publish, ReasonCode::NOT_AUTHORIZED, &why, now)
    }

    /// Does not take a publication. MQTT 5.0 has an answer for QoS 1 and 2; everything else is dropped, and closes the
    /// connection when it goes on.
    pub(super) fn reject(
        &mut self,
        publish: &Publish<'_>,
        code: ReasonCode,
        why: &str,
        now: u64,
    ) -> Result<(), Closing> {
        if publish.packet_id.is_some() && self.peer.version == Version::V5 {
            self.answer_refused(publish, code, why);
            return Ok(());
        }
        if let Some(id) = publish.packet_id {
            self.acknowledge_publish(publish.qos, id, ReasonCode::SUCCESS);
        }
        if self.publisher.spend(self.shared.limits.deny_budget, now) {
            return Err(Closing::because(code, format!("too many publications refused, the last because {why}")));
        }
        Ok(())
    }

    /// PUBACK or PUBREC of MQTT 5.0 with a failure.
    pub(super) fn answer_refused(&mut self, publish: &Publish<'_>, code: ReasonCode, why: &str) {
        let Some(packet_id) = publish.packet_id else { return };
        let properties = AckProperties { reason_string: self.peer.reason_string(why, 1), ..AckProperties::default() };
        self.answer_publish(publish.qos, &Ack { packet_id, code, properties });
        if publish.qos == QoS::ExactlyOnce {
            self.session.inbound.refuse(packet_id);
        }
    }
}
