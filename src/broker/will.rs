//! Wills: what a client asked to be published when its connection is lost.

use std::sync::Arc;
use std::time::Duration;

use super::events::{self, Who};
use super::limits::Limit;
use super::{Shared, unix_millis};
use crate::auth::explain::{self, Request, Verb};
use crate::auth::{Decision, Grants, Identity};
use crate::mqtt::Version;
use crate::mqtt::packet::{Publish, Will as Asked};
use crate::mqtt::property::PublishProperties;
use crate::store::{Message, Origin};

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
    /// Copies the will out of CONNECT. `origin` tells where it will come from; its time is set when it is sent.
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

/// Publishes a will, if its client may publish there by the rules as they are now.
pub fn publish(shared: &Shared, will: Will) {
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
    if let Some(origin) = &mut message.origin {
        origin.received_at = now;
    }
    let message = Arc::new(message);
    let limited = |limit, what| events::limited(shared, limit, &client_id, what);
    let routes = shared.router.routes(message.topic());
    if routes.refuses(&message, 0) {
        return limited(Limit::QueueFull, "will not sent");
    }
    if message.retain
        && let Err(limit) = shared.retain(&message)
    {
        limited(limit, "will not retained");
    }
    let mut wakers = Vec::new();
    let routed = routes.deliver(&message, 0, shared.now(), &mut wakers);
    shared.counters.dropped.add_routed(&routed);
    wakers.into_iter().for_each(std::task::Waker::wake);
}
