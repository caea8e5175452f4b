//! The documents of the broker: `broker.json`, and `users.json` with the password hashes.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use super::limits::{Limits, QueueFull, Rate};
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
