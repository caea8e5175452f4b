//! Wills: what a client asked to be published when its connection is lost.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::effects::Effects;
use super::events::{self, Who};
use super::limits::Limit;
use super::{Shared, unix_millis};
use crate::auth::explain::{self, Request, Verb};
use crate::auth::{Decision, Grants, Identity};
use crate::mqtt::packet::{Publish, Will as Asked};
use crate::mqtt::property::PublishProperties;
use crate::mqtt::{QoS, Version};
use crate::store::{Message, Origin, Stored, StoredOrigin};

/// A will, and whose it is.
#[derive(Debug)]
pub struct Will {
    message: Message,
    /// Seconds that the message lives once it is published.
    expiry: Option<u32>,
    /// Between the loss of the connection and the publication.
    pub delay: Duration,
    /// With whose permissions it is published, as they are then.
    pub identity: Arc<Identity>,
}

impl Will {
    /// Copies the will out of CONNECT. `origin` tells where it will come from; when it is received is when it is sent.
    pub fn new(asked: &Asked<'_>, version: Version, identity: &Arc<Identity>, origin: Origin) -> Self {
        let expiry = asked.properties.publish.message_expiry;
        let properties = PublishProperties { message_expiry: None, ..asked.properties.publish.clone() };
        let publish = Publish {
            dup: false,
            qos: asked.qos,
            retain: asked.retain,
            topic: asked.topic,
            packet_id: None,
            properties,
            payload: asked.payload,
        };
        let message = Message::new(&publish, asked.topic, 0, Some(Box::new(origin)));
        let delay = if version == Version::V5 { asked.properties.delay.unwrap_or(0) } else { 0 };
        Self { message, expiry, delay: Duration::from_secs(delay.into()), identity: identity.clone() }
    }

    /// Its topic, if these rules do not let it be published.
    pub fn refused_by(&self, grants: &Grants) -> Option<&str> {
        let Message { qos, retain, .. } = self.message;
        let topic = self.message.topic();
        (!grants.may_publish(topic, qos, retain)).then_some(topic)
    }
}

/// A will, to be written down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredWill {
    topic: String,
    qos: u8,
    retain: bool,
    /// Base64, as the payload: the properties that every subscriber of MQTT 5.0 gets, encoded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    properties: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    payload: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiry: Option<u32>,
    delay: u64,
    id: String,
}

impl Will {
    /// In the form in which it outlives the process.
    pub fn to_stored(&self) -> StoredWill {
        let message = &self.message;
        StoredWill {
            topic: message.topic().to_owned(),
            qos: message.qos as u8,
            retain: message.retain,
            properties: STANDARD.encode(message.properties()),
            payload: STANDARD.encode(message.payload()),
            expiry: self.expiry,
            delay: self.delay.as_secs(),
            id: ulid::Ulid(message.origin.as_ref().map_or(0, |origin| origin.id)).to_string(),
        }
    }

    /// The will of a session that was kept over a restart.
    pub fn restore(stored: &StoredWill, client_id: &Arc<str>, identity: &Arc<Identity>) -> Result<Self, BadWill> {
        let id = stored.id.parse::<ulid::Ulid>().map_err(|_| BadWill)?.0;
        let qos = QoS::from_bits(stored.qos).ok_or(BadWill)?;
        let properties = STANDARD.decode(&stored.properties).map_err(|_| BadWill)?;
        let payload = STANDARD.decode(&stored.payload).map_err(|_| BadWill)?;
        let bytes = [stored.topic.as_bytes(), &properties, &payload].concat();
        let parts = Stored {
            id: 0,
            bytes: &bytes,
            topic_length: stored.topic.len(),
            properties_length: properties.len(),
            qos,
            retain: stored.retain,
            expires_at: None,
            received_at: 0,
            origin: Some(StoredOrigin { id, client_id }),
        };
        let message = Message::restore(parts).ok_or(BadWill)?;
        let (expiry, delay) = (stored.expiry, Duration::from_secs(stored.delay));
        Ok(Self { message, expiry, delay, identity: identity.clone() })
    }
}

/// A will that was written down and cannot be read.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("its will cannot be read")]
pub struct BadWill;

/// Publishes a will, if its client may publish there by the rules as they are now. Carries out `effects`, with what the will
/// adds to them.
pub fn publish(shared: &Shared, will: Will, mut effects: Effects) {
    send(shared, will, &mut effects);
    shared.carry_out(effects);
}

fn send(shared: &Shared, will: Will, effects: &mut Effects) {
    let Will { mut message, expiry, identity, .. } = will;
    let client_id = message.origin.as_ref().map_or_else(|| "".into(), |origin| origin.client_id.clone());
    let grants = shared.grants_now(&identity, &client_id);
    let decide = |grants: &Grants| grants.decide_publish(message.topic(), message.qos, message.retain);
    let decision = grants.as_ref().map_or(Decision::NO, decide);
    if decision.allowed {
        events::allowed(shared, Verb::Will, decision.layer);
    } else {
        let Message { qos, retain, .. } = message;
        let request = Request { verb: Verb::Will, topic: message.topic(), qos, retain };
        let reason = || match &grants {
            Ok(_) => explain::reason(&shared.policy.load(), &identity, &client_id, request),
            Err(lost) => lost.to_string(),
        };
        events::denied(shared, &Who::of(&client_id, &identity), &request, decision.layer, reason);
        return;
    }
    let now = unix_millis();
    message.expires_at = expiry.map(|seconds| now + u64::from(seconds) * 1000);
    message.received_at = now;
    let message = Arc::new(message);
    let limited = |limit, what| events::limited(shared, limit, &client_id, what);
    let routes = shared.router.routes(message.topic());
    if routes.refuses(&message, 0) {
        return limited(Limit::QueueFull, "will not sent");
    }
    let mut retained = false;
    if message.retain {
        match shared.retain(&message) {
            Ok(()) => retained = true,
            Err(limit) => limited(limit, "will not retained"),
        }
    }
    // Who has subscribed meanwhile, and looked for what is retained before this was, gets it here.
    let newer =
        (retained && routes.generation != shared.router.generation()).then(|| shared.router.routes(message.topic()));
    let routed = newer.as_ref().unwrap_or(&routes).deliver(&message, 0, shared.now(), effects);
    effects.published(shared.journal.as_ref(), &message, None, retained);
    shared.counters.dropped.add_routed(&routed);
}
