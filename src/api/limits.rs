//! `spec.limits`: what keeps one client from harming the others.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mqtt_broker::{Duration, Quantity};

/// What keeps one client from harming the others. A field that is absent has its default.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Connections at a time, on all listeners together; default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections: Option<u32>,
    /// Connections at a time from one address (IPv6: one /64); default 0, no limit, because behind many load balancers
    /// all clients have the address of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub max_connections_per_address: Option<u32>,
    /// CONNECTs that are let in, in all; default `10000/10s`. 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_rate: Option<Rate>,
    /// Connections that one address (IPv6: one /64) may open; default 0, no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_rate_per_address: Option<Rate>,
    /// How long a client may take from opening the connection until its CONNECT is complete; default `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Duration>,
    /// Bytes of a CONNECT, before it is known who sends it; default `128Ki`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connect_size: Option<Quantity>,
    /// Sessions, of clients that are connected and of those that are away; default 100000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_sessions: Option<u32>,
    /// Bytes of a client identifier; default 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 23, max = 65535))]
    pub max_client_id_length: Option<u16>,
    /// The longest keep alive; a client that asks for more, or for none, gets this one. Default 0, no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_keep_alive: Option<Duration>,
    /// How long a session may outlive its connection; default `168h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_expiry: Option<Duration>,
    /// Bytes of a whole packet; default `1Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_packet_size: Option<Quantity>,
    /// User Properties of one packet; default 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub max_properties: Option<u16>,
    /// Levels of a topic name or filter; default 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub topic_depth: Option<u16>,
    /// Topic aliases of one connection, each way; default 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub max_topic_aliases: Option<u16>,
    /// QoS 1 and 2 messages under way to one client at a time; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub max_inflight: Option<u16>,
    /// QoS 1 and 2 publications that a client of MQTT 5.0 may have under way at a time; default 65535, as in 3.x.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub receive_maximum: Option<u16>,
    /// Messages that one client may publish; a faster one is slowed down. Default 0, no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_rate: Option<Rate>,
    /// Bytes that one client may publish, as `1Mi/s`; a faster one is slowed down. Default 0, no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub byte_rate: Option<Rate>,
    /// Subscriptions of one client; default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_subscriptions: Option<u32>,
    /// Messages that wait for a session; default 100000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_queued_messages: Option<u32>,
    /// Bytes that wait for a session; default `64Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queued_bytes: Option<Quantity>,
    /// How long a message may wait for a session, since it was published; what has waited longer is dropped. Default `0s`,
    /// no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queued_age: Option<Duration>,
    /// What happens when more would wait for a session: `dropOldest` (default), or `refuse` to take the publication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_full: Option<QueueFull>,
    /// Retained messages; default 100000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_retained_messages: Option<u32>,
    /// Bytes of all retained messages; default `64Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retained_bytes: Option<Quantity>,
    /// Bytes that the broker may hold in messages, sessions and buffers; default three quarters of the memory limit of
    /// its container, and with `mqttctl up` half of the machine's memory. 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<Quantity>,
}

/// What happens when more would wait for a session than it may keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum QueueFull {
    #[default]
    DropOldest,
    Refuse,
}

/// So many in so much time, as `100/s`, `3/10s` or `1Mi/s`: the first number may come at once, and again after that time.
/// 0 and -1 are numbers with a meaning of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Rate {
    Number(i64),
    Text(String),
}

impl JsonSchema for Rate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "pattern": "^[1-9][0-9]*(k|M|G|Ki|Mi|Gi)?/[0-9]*[hms]$"
        })
    }
}
