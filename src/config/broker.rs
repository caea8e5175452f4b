//! The documents of the broker: `broker.json`, and `users.json` with the password hashes.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::auth::settings::Settings;

/// `broker.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Broker {
    pub format: u32,
    /// The object that this broker serves.
    pub namespace: String,
    pub name: String,
    pub listeners: Vec<Listener>,
    /// Where probes, metrics and the report are served.
    pub admin: SocketAddr,
    pub auth: Settings,
    #[serde(default)]
    pub limits: Limits,
    /// What the bridge may subscribe to; absent without telemetry, and then nobody is `system:bridge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeAccess>,
}

/// A socket that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    pub name: String,
    pub protocol: Protocol,
    pub address: IpAddr,
    pub port: u16,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// MQTT over TCP.
    Mqtt,
}

/// The internal listener of the bridge, and the only filters that it may subscribe to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeAccess {
    pub listen: SocketAddr,
    pub topics: Vec<String>,
}

/// What keeps one client from harming the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Connections at a time.
    pub max_connections: u32,
    /// Bytes of a whole packet.
    pub max_packet_size: u32,
    /// QoS 1 and 2 deliveries to a client that wait for its acknowledgement.
    pub max_inflight: u16,
    /// Messages that wait for a session.
    pub max_queued_messages: u32,
    /// Bytes that wait for a session.
    pub max_queued_bytes: u64,
    /// Seconds that a session may outlive its connection.
    pub session_expiry: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_packet_size: 1024 * 1024,
            max_inflight: 100,
            max_queued_messages: 100_000,
            max_queued_bytes: 64 * 1024 * 1024,
            session_expiry: 7 * 24 * 3600,
        }
    }
}

/// `users.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Users {
    pub format: u32,
    pub users: Vec<UserHash>,
}

/// The hash of one password, and what it was made from, so that nothing is hashed twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserHash {
    pub name: String,
    /// A PHC string, `$argon2id$…`.
    pub hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<HashSource>,
}

/// The Secret that a hash was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HashSource {
    pub uid: String,
    pub resource_version: String,
}
