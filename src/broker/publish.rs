//! The publisher's side of a connection: authorise, route, acknowledge.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Closing, Connection};
use super::denies::Action;
use super::events;
use super::router::Routes;
use super::{Shared, aliases, unix_millis};
use crate::auth::Grants;
use crate::mqtt::packet::{Ack, Packet, Publish};
use crate::mqtt::property::AckProperties;
use crate::mqtt::{PacketId, QoS, ReasonCode, Version, Violation, codec};
use crate::store::{Arrival, Message, Origin};

/// Topics of which a publisher remembers routes and permissions; a power of two.
const TOPICS: usize = 64;
/// Denied publications that a client of 3.x may send in [`BUDGET_WINDOW`] milliseconds: the last of them closes it.
const BUDGET: u32 = 3;
const BUDGET_WINDOW: u64 = 10_000;

/// What a connection remembers as a publisher.
#[derive(Debug, Default)]
pub struct Publisher {
    aliases: aliases::Inbound,
    /// Direct-mapped by the hash of the topic; empty until the first publication.
    topics: Vec<Option<Topic>>,
    /// The last id given to a publication of this connection.
    last_id: u128,
    denied: u32,
    denied_since: u64,
}

/// A topic that was published to before.
#[derive(Debug)]
struct Topic {
    name: Box<str>,
    routes: Arc<Routes>,
    /// A bit per combination of QoS and RETAIN: asked before, and allowed.
    asked: u8,
    allowed: u8,
}

impl Publisher {
    /// Where the topic goes, and whether the client may publish there. A topic that was seen before costs a comparison.
    fn look_up(&mut self, shared: &Shared, grants: &Grants, publish: &Publish<'_>) -> (Arc<Routes>, bool) {
        if self.topics.is_empty() {
            self.topics.resize_with(TOPICS, || None);
        }
        let routes = || Arc::new(shared.router.routes(publish.topic));
        let slot = &mut self.topics[hash(publish.topic.as_bytes()) % TOPICS];
        let topic = match slot {
            Some(topic) if *topic.name == *publish.topic => {
                if topic.routes.generation != shared.router.generation() {
                    topic.routes = routes();
                }
                topic
            }
            slot => slot.insert(Topic { name: publish.topic.into(), routes: routes(), asked: 0, allowed: 0 }),
        };
        let bit = 1 << (publish.qos as u8 * 2 + u8::from(publish.retain));
        if topic.asked & bit == 0 {
            topic.asked |= bit;
            if grants.may_publish(publish.topic, publish.qos, publish.retain) {
                topic.allowed |= bit;
            }
        }
        (topic.routes.clone(), topic.allowed & bit != 0)
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
    fn spend(&mut self, now: u64) -> bool {
        if now.saturating_sub(self.denied_since) > BUDGET_WINDOW {
            self.denied_since = now;
            self.denied = 0;
        }
        self.denied += 1;
        self.denied >= BUDGET
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
        self.turn.received += 1;
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
        let (routes, allowed) = self.publisher.look_up(&self.shared, &self.peer.grants, publish);
        if !allowed {
            return self.deny(publish, now);
        }
        let mut code = ReasonCode::NO_MATCHING_SUBSCRIBERS;
        if publish.retain || !routes.is_empty() {
            let lifetime = publish.properties.message_expiry.is_some();
            let wants_origin = routes.wants_origin || publish.retain;
            let wall = if lifetime || wants_origin { unix_millis() } else { 0 };
            let origin = wants_origin.then(|| {
                let client_id = self.peer.client_id.clone();
                Box::new(Origin { id: self.publisher.next_id(wall), client_id, received_at: wall })
            });
            let message = Arc::new(Message::new(publish, publish.topic, wall, origin));
            if publish.retain {
                self.shared.retain(&message);
            }
            let outcome = routes.deliver(&message, self.mailbox.session, now, &mut self.wakers);
            self.turn.dropped += outcome.dropped as u64;
            if outcome.copies > 0 {
                code = ReasonCode::SUCCESS;
            }
            if let Some(mailbox) = outcome.hold {
                self.hold_for(mailbox, now);
            }
        }
        if let Some(id) = publish.packet_id {
            self.acknowledge_publish(publish.qos, id, code);
        }
        Ok(())
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
        let acknowledged = u32::from(qos == QoS::AtLeastOnce);
        if self.hold.is_some() {
            codec::encode(&packet, self.peer.version, &mut self.withheld.bytes);
            self.withheld.acknowledged += acknowledged;
        } else {
            self.send(&packet);
            self.session.inbound.acknowledged(acknowledged);
        }
    }

    /// QoS 1 and 2 publications that the client may have on the way; only MQTT 5.0 tells it.
    pub(super) fn receive_maximum(&self) -> u16 {
        if self.peer.version == Version::V5 { self.shared.limits.max_inflight } else { u16::MAX }
    }

    /// A publication that no rule allows. MQTT 5.0 has an answer for QoS 1 and 2; everything else is dropped and counted,
    /// and closes the connection when it goes on.
    fn deny(&mut self, publish: &Publish<'_>, now: u64) -> Result<(), Closing> {
        let principal = &self.peer.identity.principal;
        events::denied(&self.shared, &self.peer.client_id, principal, Action::Publish, publish.topic);
        let is_v5 = self.peer.version == Version::V5;
        if let (Some(packet_id), true) = (publish.packet_id, is_v5) {
            let reason_string = self.peer.reason_string("no rule allows it");
            let properties = AckProperties { reason_string, ..AckProperties::default() };
            self.answer_publish(publish.qos, &Ack { packet_id, code: ReasonCode::NOT_AUTHORIZED, properties });
            if publish.qos == QoS::ExactlyOnce {
                self.session.inbound.refuse(packet_id);
            }
            return Ok(());
        }
        if let Some(id) = publish.packet_id {
            self.acknowledge_publish(publish.qos, id, ReasonCode::SUCCESS);
        }
        if self.publisher.spend(now) {
            return Err(Closing::because(ReasonCode::NOT_AUTHORIZED, "too many publications denied"));
        }
        Ok(())
    }
}
