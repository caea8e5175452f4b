//! The limits by name, and what is counted of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Shared;
use crate::mqtt::{ReasonCode, Violation};
use crate::store::memory;

macro_rules! limits {
    ($($limit:ident $name:literal,)*) => {
        /// A limit that a client has met. The names are those of the fields of `spec.limits`, but for
        /// storage: full, or not to be written.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit { $($limit,)* }

        impl Limit {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$limit,)*];

            /// The field of `spec.limits`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$limit => $name,)* }
            }
        }
    };
}

limits! {
    MaxConnections "maxConnections",
    MaxConnectionsPerAddress "maxConnectionsPerAddress",
    ConnectRate "connectRate",
    ConnectRatePerAddress "connectRatePerAddress",
    ConnectTimeout "connectTimeout",
    MaxConnectSize "maxConnectSize",
    MaxSessions "maxSessions",
    MaxClientIdLength "maxClientIdLength",
    MaxPacketSize "maxPacketSize",
    MaxProperties "maxProperties",
    TopicDepth "topicDepth",
    MaxTopicAliases "maxTopicAliases",
    ReceiveMaximum "receiveMaximum",
    MessageRate "messageRate",
    ByteRate "byteRate",
    MaxSubscriptions "maxSubscriptions",
    QueueFull "queueFull",
    MaxRetainedMessages "maxRetainedMessages",
    MaxRetainedBytes "maxRetainedBytes",
    MaxMemory "maxMemory",
    Storage "storage",
    StorageFailing "storageFailing",
}

impl Limit {
    /// The limit that a client has passed by breaking the specification.
    pub fn of(violation: &Violation) -> Option<Self> {
        match violation {
            Violation::PacketTooLarge { .. } => Some(Self::MaxPacketSize),
            Violation::TooManyUserProperties { .. } => Some(Self::MaxProperties),
            Violation::TopicAlias { .. } => Some(Self::MaxTopicAliases),
            Violation::ReceiveMaximum { .. } => Some(Self::ReceiveMaximum),
            _ => None,
        }
    }

    /// The code for a client that is refused because of it.
    pub fn reason(self) -> ReasonCode {
        match self {
            Self::ConnectRate | Self::ConnectRatePerAddress => ReasonCode::CONNECTION_RATE_EXCEEDED,
            Self::MaxClientIdLength => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            Self::StorageFailing => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
            Self::MaxConnectSize | Self::MaxPacketSize => ReasonCode::PACKET_TOO_LARGE,
            _ => ReasonCode::QUOTA_EXCEEDED,
        }
    }
}

/// How often each limit refused something.
#[derive(Debug)]
pub struct Refusals([AtomicU64; Limit::ALL.len()]);

impl Default for Refusals {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Refusals {
    pub fn add(&self, limit: Limit) {
        self.0[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self, limit: Limit) -> u64 {
        self.0[limit as usize].load(Ordering::Relaxed)
    }
}

/// Reads what the limits did when `/metrics` is asked.
#[derive(Debug)]
pub struct LimitMetrics(pub Arc<Shared>);

impl Collector for LimitMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "What was refused because of a limit, by its field in spec.limits";
        let mut family = encoder.encode_descriptor("mqtt_limit_refusals", help, None, MetricType::Counter)?;
        for limit in Limit::ALL {
            let counter = ConstCounter::new(self.0.counters.limited.get(*limit));
            counter.encode(family.encode_family(&[("limit", limit.name())])?)?;
        }
        let retained = self.0.store.retained.lock().map_or(0, |retained| retained.bytes());
        let most = memory::most().and_then(|most| i64::try_from(most).ok()).unwrap_or(-1);
        for (name, help, value) in [
            ("mqtt_retained_bytes", "Bytes of all retained messages", retained as i64),
            ("mqtt_memory_held_bytes", "Bytes held for clients: messages, sessions, buffers", memory::held() as i64),
            ("mqtt_memory_held_most_bytes", "Bytes that may be held for clients; -1 without a ceiling", most),
            ("mqtt_memory_level", "0 ample, 1 short, 2 scarce, 3 exhausted", memory::level() as i64),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
