//! `$SYS/broker/…`: what the broker says of itself over MQTT, to whom a rule allows it.
//!
//! Topics and units are those of mosquitto, so that dashboards made for it go on working. The values are retained
//! messages of a store of their own: they cost no client its quota, and no client can set them.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::effects::Effects;
use super::{Shared, metrics, unix_millis};
use crate::mqtt::QoS;
use crate::mqtt::packet::Publish;
use crate::mqtt::property::PublishProperties;
use crate::mqtt::topic;
use crate::process::Shutdown;
use crate::store::Message;

/// Between two looks at what has changed.
const INTERVAL: Duration = Duration::from_secs(10);

/// What was published last, by topic.
#[derive(Debug, Default)]
pub struct Sys(Mutex<HashMap<&'static str, Arc<Message>>>);

/// Figures at one time.
#[derive(Debug, Default)]
struct Figures {
    uptime: u64,
    connected: u64,
    sessions: u64,
    maximum: u64,
    subscriptions: u64,
    retained: u64,
    received: u64,
    sent: u64,
    dropped: u64,
    denied: u64,
    auth: Auth,
}

/// Figures of who was let in and what was denied.
#[derive(Debug, Default)]
struct Auth {
    accepted: u64,
    refused: u64,
    expired: u64,
    renewed: u64,
    publish: u64,
    subscribe: u64,
    will: u64,
}

impl Figures {
    fn texts(&self) -> [(&'static str, String); 19] {
        [
            ("$SYS/broker/version", concat!("mqtt-operator ", env!("CARGO_PKG_VERSION")).into()),
            ("$SYS/broker/uptime", format!("{} seconds", self.uptime)),
            ("$SYS/broker/clients/connected", self.connected.to_string()),
            ("$SYS/broker/clients/disconnected", self.sessions.saturating_sub(self.connected).to_string()),
            ("$SYS/broker/clients/total", self.sessions.to_string()),
            ("$SYS/broker/clients/maximum", self.maximum.to_string()),
            ("$SYS/broker/subscriptions/count", self.subscriptions.to_string()),
            ("$SYS/broker/retained messages/count", self.retained.to_string()),
            ("$SYS/broker/publish/messages/received", self.received.to_string()),
            ("$SYS/broker/publish/messages/sent", self.sent.to_string()),
            ("$SYS/broker/publish/messages/dropped", self.dropped.to_string()),
            ("$SYS/broker/publish/messages/denied", self.denied.to_string()),
            ("$SYS/broker/auth/accepted", self.auth.accepted.to_string()),
            ("$SYS/broker/auth/refused", self.auth.refused.to_string()),
            ("$SYS/broker/auth/expired", self.auth.expired.to_string()),
            ("$SYS/broker/auth/reauthenticated", self.auth.renewed.to_string()),
            ("$SYS/broker/auth/denied/publish", self.auth.publish.to_string()),
            ("$SYS/broker/auth/denied/subscribe", self.auth.subscribe.to_string()),
            ("$SYS/broker/auth/denied/will", self.auth.will.to_string()),
        ]
    }
}

impl Sys {
    /// The messages whose value is another than it was; all of them are kept.
    fn update(&self, figures: &Figures) -> Vec<Arc<Message>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Vec::new();
        for (topic, text) in figures.texts() {
            if kept.get(topic).is_none_or(|known| known.payload() != text.as_bytes()) {
                let message = message(topic, &text);
                kept.insert(topic, message.clone());
                changed.push(message);
            }
        }
        changed
    }

    /// What a new subscription gets.
    pub fn matching(&self, filter: &str) -> Vec<Arc<Message>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<_> = kept.values().filter(|m| topic::matches(filter, m.topic())).cloned().collect();
        found.sort_by(|a, b| a.topic().cmp(b.topic()));
        found
    }
}

/// Whether a filter is about what the broker tells of itself; a wildcard in the first level never is.
pub fn is_sys(filter: &str) -> bool {
    filter.starts_with("$SYS/")
}

/// QoS 0: a session that is away shall not pile up what is stale when it comes back.
fn message(topic: &str, text: &str) -> Arc<Message> {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: true,
        topic,
        packet_id: None,
        properties: PublishProperties::default(),
        payload: text.as_bytes(),
    };
    Arc::new(Message::new(&publish, topic, unix_millis(), None))
}

impl Shared {
    fn figures(&self) -> Figures {
        let c = &self.counters;
        let connected = c.connections.load(Ordering::Relaxed);
        Figures {
            uptime: self.started.elapsed().as_secs(),
            connected,
            sessions: self.registry.len() as u64,
            maximum: c.most_connections.fetch_max(connected, Ordering::Relaxed).max(connected),
            subscriptions: self.router.subscriptions(),
            retained: self.store.retained.lock().unwrap_or_else(PoisonError::into_inner).len() as u64,
            received: metrics::total(&c.received),
            sent: metrics::total(&c.sent),
            dropped: c.dropped.total(),
            denied: c.denied.total(),
            auth: Auth {
                accepted: c.authenticated.total(1, "accepted"),
                refused: c.authenticated.total(1, "refused"),
                expired: c.expired_tokens.get(),
                renewed: c.reauthenticated.of("accepted"),
                publish: c.denied.of("publish"),
                subscribe: c.denied.of("subscribe"),
                will: c.denied.of("will"),
            },
        }
    }

    /// Publishes what has changed since the last time.
    pub fn publish_sys(&self) {
        let mut effects = Effects::default();
        for message in self.sys.update(&self.figures()) {
            let routes = self.router.routes(message.topic());
            if !routes.is_empty() {
                let routed = routes.deliver(&message, 0, self.now(), &mut effects);
                effects.published(self.journal.as_ref(), &message, None, false);
                self.counters.dropped.add_routed(&routed);
            }
        }
        self.carry_out(effects);
    }
}

/// Publishes until shutdown.
pub async fn serve(shared: Arc<Shared>, shutdown: Shutdown) {
    loop {
        shared.publish_sys();
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.wait() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_changed_is_published_again() {
        let sys = Sys::default();
        let before = Figures { connected: 1, sessions: 3, ..Figures::default() };
        assert_eq!(sys.update(&before).len(), before.texts().len());
        assert!(sys.update(&before).is_empty());
        let changed = sys.update(&Figures { connected: 2, ..before });
        let topics: Vec<_> = changed.iter().map(|message| message.topic()).collect();
        assert_eq!(topics, ["$SYS/broker/clients/connected", "$SYS/broker/clients/disconnected"]);
    }

    #[test]
    fn a_filter_finds_the_values_as_they_are() {
        let sys = Sys::default();
        sys.update(&Figures { uptime: 7, ..Figures::default() });
        let found = sys.matching("$SYS/+/uptime");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].payload(), b"7 seconds");
        assert!(found[0].retain);
        assert!(sys.matching("#").is_empty() && sys.matching("+/broker/uptime").is_empty());
    }
}
