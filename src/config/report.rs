//! What a pod says of itself, read from its admin port at `/api/v1/report`.

use serde::{Deserialize, Serialize};

/// The broker's report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Broker {
    /// The document format that this broker reads.
    pub format: u32,
    pub version: String,
    /// The key ids that tokens are verified with.
    pub keys: Vec<String>,
    /// The users whose password hash is loaded.
    pub users: Vec<String>,
    /// In the order of the configuration.
    pub listeners: Vec<Listener>,
    pub connections: u64,
    pub sessions: u64,
    /// Messages received from clients, and sent to them, since the start.
    pub messages_received: u64,
    pub messages_sent: u64,
    /// Messages dropped by a limit, and what no rule allowed (publications, subscriptions, wills), since the start.
    pub messages_dropped: u64,
    pub messages_denied: u64,
}

/// A listener for clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    pub name: String,
    /// Whether clients can connect: with TLS that takes a certificate.
    pub serves: bool,
    /// Why its certificates, as they are now, are not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The bridge's report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bridge {
    pub state: BridgeState,
    /// What the sink said last, when the state is not `connected`.
    pub message: String,
    pub received: u64,
    pub indexed: u64,
    pub deduplicated: u64,
    pub retried: u64,
    pub dead_lettered: u64,
    pub in_flight: u64,
    /// Seconds between the publication and the acknowledgement of the last message.
    pub lag_seconds: f64,
}

/// How the sink is; the reasons of the condition `TelemetryReady`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BridgeState {
    #[default]
    Connecting,
    Connected,
    Unreachable,
    Unauthorized,
    Rejecting,
    Lagging,
}
