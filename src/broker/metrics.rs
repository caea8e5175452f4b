//! What `/metrics` shows of the broker, put together when it is asked for.
//!
//! Labels are of closed sets: listeners, versions, reasons, ids of statements. None has a client id, a user or a topic.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::counters::{Count, Gate, Loss};
use super::storage::StorageMetrics;
use super::{Shared, unix_millis};
use crate::auth::Layer;
use crate::mqtt::Version;

type Encoded = Result<(), std::fmt::Error>;

/// Registers everything that the broker counts.
pub fn register(registry: &mut Registry, shared: &Arc<Shared>) {
    let c = &shared.counters;
    registry.register("mqtt_handshake_seconds", "From accepting a socket to CONNACK", c.handshakes.clone());
    registry.register(
        "mqtt_password_check_seconds",
        "Working out the hash of a password, waiting included",
        c.password_checks.clone(),
    );
    registry.register("mqtt_auth_seconds", "Finding out who a client is, by method", c.authentication.clone());
    registry.register_collector(Box::new(Metrics(shared.clone())));
    registry.register_collector(Box::new(StorageMetrics(shared.clone())));
}

/// Reads the counters when `/metrics` is asked.
#[derive(Debug)]
struct Metrics(Arc<Shared>);

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        self.counters(&mut encoder)?;
        self.tallies(&mut encoder)?;
        self.authenticated(&mut encoder)?;
        self.decided(&mut encoder)?;
        self.by_qos(&mut encoder)?;
        self.listeners(&mut encoder)?;
        self.gauges(&mut encoder)
    }
}

impl Metrics {
    fn counters(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let c = &self.0.counters;
        for (name, help, count) in [
            ("mqtt_panics", "Mistakes of the broker that cost a client its connection", &c.panics),
            ("mqtt_packets_received", "Packets received from connected clients", &c.packets),
            ("mqtt_bytes_received", "Bytes received from connected clients", &c.bytes_received),
            ("mqtt_bytes_sent", "Bytes sent to connected clients", &c.bytes_sent),
            ("mqtt_messages_expired", "Messages that were not sent because their lifetime was over", &c.expired),
            ("mqtt_policy_reloads", "Changed keys, users, rules or revocations put into force", &c.reloads),
            ("mqtt_policy_reload_failures", "Changed documents that cannot be used", &c.reload_failures),
            ("mqtt_holds", "Times that a publisher had to wait for a subscriber", &c.holds),
            ("mqtt_token_expiry_disconnects", "Connections that ended with their token", &c.expired_tokens),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count.get()).encode(metric)?;
        }
        Ok(())
    }

    fn tallies(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let c = &self.0.counters;
        for (name, help, label, tally) in [
            ("mqtt_connects_refused", "Connections refused, by reason", "reason", &c.refusals),
            ("mqtt_disconnects", "Connections that ended, by reason", "reason", &c.disconnects),
            ("mqtt_protocol_violations", "Broken statements of the specification, by id", "id", &c.violations),
            ("mqtt_denies", "What no rule allowed, by action", "action", &c.denied),
            ("mqtt_authentications", "Clients let in, by method", "method", &c.authentications),
            ("mqtt_reauth", "New tokens of connected clients, by result", "result", &c.reauthenticated),
            ("mqtt_log_lines_suppressed", "Log lines left out, by kind", "kind", &c.suppressed),
            ("mqtt_sessions_revoked", "Sessions that a new policy took something from, by cause", "cause", &c.revoked),
            ("mqtt_admin_refused", "Requests refused at the admin port, by reason", "reason", &c.admin_refusals),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value, count) in tally.get() {
                ConstCounter::new(count).encode(family.encode_family(&[(label, value)])?)?;
            }
        }
        Ok(())
    }

    fn authenticated(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "CONNECTs that were looked at, by method, result and reason";
        let mut family = encoder.encode_descriptor("mqtt_auth", help, None, MetricType::Counter)?;
        for ([method, result, reason], count) in self.0.counters.authenticated.get() {
            let labels = [("method", method), ("result", result), ("reason", reason)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn decided(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let c = &self.0.counters;
        let help = "What clients asked for, by action, result and where the rule stands that decided";
        let mut family = encoder.encode_descriptor("mqtt_authz", help, None, MetricType::Counter)?;
        let published = Layer::ALL.iter().zip(&c.allowed).map(|(it, n)| (["publish", "allow", it.name()], n.get()));
        for ([action, result, source], count) in published.chain(c.decided.get()) {
            let labels = [("action", action), ("result", result), ("source", source)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "Messages that were lost, by cause";
        let mut family = encoder.encode_descriptor("mqtt_messages_dropped", help, None, MetricType::Counter)?;
        for loss in Loss::ALL {
            ConstCounter::new(c.dropped.get(loss)).encode(family.encode_family(&[("cause", loss.name())])?)?;
        }
        Ok(())
    }

    fn by_qos(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let c = &self.0.counters;
        for (name, help, counts) in [
            ("mqtt_messages_received", "Publications received from clients, by QoS", &c.received),
            ("mqtt_messages_sent", "Publications sent to clients, by QoS", &c.sent),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (qos, count) in ["0", "1", "2"].into_iter().zip(counts) {
                ConstCounter::new(count.get()).encode(family.encode_family(&[("qos", qos)])?)?;
            }
        }
        Ok(())
    }

    fn listeners(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let gates = self.0.gates.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let labels = |gate: &Gate, version: Version| {
            [("listener", gate.name.to_string()), ("version", version.number().to_owned())]
        };
        let connects = |gate: &Gate, at: usize| gate.connects[at].get();
        let help = "Connections since the start, by listener and version";
        let mut family = encoder.encode_descriptor("mqtt_connects", help, None, MetricType::Counter)?;
        for gate in &gates {
            for version in Version::ALL {
                let count = ConstCounter::new(connects(gate, version as usize));
                count.encode(family.encode_family(&labels(gate, version))?)?;
            }
        }
        let help = "Connections now, by listener and version";
        let mut family = encoder.encode_descriptor("mqtt_connections", help, None, MetricType::Gauge)?;
        for gate in &gates {
            for version in Version::ALL {
                let now = gate.connections[version as usize].load(Ordering::Relaxed);
                ConstGauge::new(now as i64).encode(family.encode_family(&labels(gate, version))?)?;
            }
        }
        let help = "Whether clients can connect to a listener: with TLS that takes a certificate";
        let mut family = encoder.encode_descriptor("mqtt_listener_serves", help, None, MetricType::Gauge)?;
        for entrance in &self.0.entrances {
            let gauge = ConstGauge::new(i64::from(entrance.serves()));
            gauge.encode(family.encode_family(&[("listener", entrance.name.as_str())])?)?;
        }
        let help = "Until the certificate of a listener expires; negative when it has";
        let name = "mqtt_listener_certificate_expiry_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for entrance in &self.0.entrances {
            if let Some(left) = entrance.certificate_expires_in(unix_millis()) {
                let gauge = ConstGauge::new(left);
                gauge.encode(family.encode_family(&[("listener", entrance.name.as_str())])?)?;
            }
        }
        Ok(())
    }

    fn gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let shared = &self.0;
        let (online, mailboxes) = shared.registry.mailboxes();
        let mut family =
            encoder.encode_descriptor("mqtt_sessions", "Sessions, online and away", None, MetricType::Gauge)?;
        for (state, number) in [("online", online), ("away", mailboxes.len() - online)] {
            ConstGauge::new(number as i64).encode(family.encode_family(&[("state", state)])?)?;
        }
        // Each lock for a moment only, and none of them while anything is written.
        let waiting = mailboxes.iter().map(|mailbox| mailbox.waiting());
        let (messages, bytes) = waiting.fold((0, 0), |(m, b), it| (m + it.messages, b + it.bytes));
        let retained = shared.store.retained.lock().unwrap_or_else(PoisonError::into_inner).len();
        for (name, help, value) in [
            ("mqtt_queued_messages", "Messages that wait for all sessions", messages as u64),
            ("mqtt_queued_bytes", "Bytes that wait for all sessions, shared ones counted for each", bytes as u64),
            (
                "mqtt_in_flight",
                "Deliveries to connected clients that wait for an acknowledgement",
                shared.counters.in_flight.load(Ordering::Relaxed),
            ),
            ("mqtt_subscriptions", "Subscriptions of all sessions", shared.router.subscriptions()),
            ("mqtt_retained_messages", "Retained messages", retained as u64),
        ] {
            ConstGauge::new(value as i64).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

/// The sum over all levels of QoS.
pub fn total(counts: &[Count; 3]) -> u64 {
    counts.iter().map(Count::get).sum()
}
