//! What keeps one client from harming the others: the `limits` of `broker.json`.

use serde::{Deserialize, Serialize};

/// Every limit of the broker. Where one may be absent, absence means that there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Connections at a time, on all listeners together but the bridge's.
    pub max_connections: u32,
    /// Connections at a time from one IPv4 address or one IPv6 /64; 0 is no limit.
    pub max_connections_per_address: u32,
    /// CONNECTs that are let in, in all.
    pub connect_rate: Option<Rate>,
    /// Connections that one IPv4 address or one IPv6 /64 may open.
    pub connect_rate_per_address: Option<Rate>,
    /// Seconds until CONNECT must be complete.
    pub connect_timeout: u32,
    /// Bytes of a CONNECT.
    pub max_connect_size: u32,
    /// Sessions, of clients that are connected and of those that are away.
    pub max_sessions: u32,
    /// Bytes of a client identifier.
    pub max_client_id_length: u16,
    /// Seconds of the longest keep alive; 0 is no cap.
    pub max_keep_alive: u16,
    /// Seconds that a session may outlive its connection.
    pub session_expiry: u32,
    /// Bytes of a whole packet.
    pub max_packet_size: u32,
    /// User Properties of one packet.
    pub max_properties: u16,
    /// Levels of a topic name or filter.
    pub topic_depth: u16,
    /// Topic aliases of one connection, each way.
    pub max_topic_aliases: u16,
    /// QoS 1 and 2 messages under way to one client at a time.
    pub max_inflight: u16,
    /// QoS 1 and 2 publications that a client of MQTT 5.0 may have under way at a time.
    pub receive_maximum: u16,
    /// Messages that one client may publish.
    pub message_rate: Option<Rate>,
    /// Bytes of PUBLISH packets that one client may send.
    pub byte_rate: Option<Rate>,
    /// Subscriptions of one client.
    pub max_subscriptions: u32,
    /// Messages that wait for a session.
    pub max_queued_messages: u32,
    /// Bytes that wait for a session.
    pub max_queued_bytes: u64,
    /// Seconds that a message may wait for a session, since it was published; 0 is no limit as well.
    pub max_queued_age: Option<u32>,
    /// What happens when more would wait.
    pub queue_full: QueueFull,
    /// Retained messages; 0 switches retaining off.
    pub max_retained_messages: u32,
    /// Bytes of all retained messages.
    pub max_retained_bytes: u64,
    /// Bytes that the process may hold.
    pub max_memory: Option<u64>,
    /// Denied publications, of those that have no answer of their own, after which a client is disconnected; an amount of
    /// 0 disconnects at the first.
    pub deny_budget: Option<Rate>,
}

/// So many in so much time: `amount` may come at once, and again after `seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    pub amount: u64,
    pub seconds: u32,
}

/// What happens when more would wait for a session than it may keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum QueueFull {
    /// The oldest message makes room, and is counted.
    #[default]
    DropOldest,
    /// The publication is refused as a whole: nobody gets it.
    Refuse,
}

impl Limits {
    /// [`Self::max_queued_age`] in milliseconds; 0 is no limit.
    pub fn max_queued_millis(&self) -> u64 {
        u64::from(self.max_queued_age.unwrap_or(0)) * 1000
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 0,
            // After a restart all devices may come back at once, and then so many again every ten seconds.
            connect_rate: Some(Rate { amount: 10_000, seconds: 10 }),
            connect_rate_per_address: None,
            connect_timeout: 5,
            max_connect_size: 128 * 1024,
            max_sessions: 100_000,
            max_client_id_length: 256,
            max_keep_alive: 0,
            session_expiry: 7 * 24 * 3600,
            max_packet_size: 1024 * 1024,
            max_properties: 64,
            topic_depth: 32,
            max_topic_aliases: 16,
            max_inflight: 100,
            // Many clients do not count what they send: those of 3.x need not, and some of 5.0 do not.
            receive_maximum: u16::MAX,
            message_rate: None,
            byte_rate: None,
            max_subscriptions: 1000,
            max_queued_messages: 100_000,
            max_queued_bytes: 64 * 1024 * 1024,
            max_queued_age: None,
            queue_full: QueueFull::DropOldest,
            max_retained_messages: 100_000,
            max_retained_bytes: 64 * 1024 * 1024,
            max_memory: None,
            deny_budget: Some(Rate { amount: 3, seconds: 10 }),
        }
    }
}
