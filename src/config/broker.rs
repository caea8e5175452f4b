//! The documents of the broker: `broker.json`, and `users.json` with the password hashes.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
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
    /// How sessions, queues and retained messages are kept; absent, they are in memory and end with the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// What the bridge may subscribe to; absent without telemetry, and then nobody is `system:bridge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeAccess>,
}

impl Broker {
    /// What is promised of an acknowledged message.
    pub fn durability(&self) -> Durability {
        self.storage.map_or(Durability::Memory, |storage| storage.durability)
    }

    /// What holds until a restart: all but who may do what, and how much may be kept and how long, which a broker takes up
    /// while it runs.
    #[must_use]
    pub fn until_restart(&self) -> Self {
        Self {
            auth: Settings::default(),
            limits: Limits { max_queued_age: None, ..self.limits.clone() },
            storage: self.storage.map(|storage| Storage { size: 0, ..storage }),
            bridge: self.bridge.as_ref().map(|bridge| BridgeAccess { buffer: 0, ..bridge.clone() }),
            ..self.clone()
        }
    }
}

/// How sessions, queues and retained messages are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Storage {
    pub durability: Durability,
    /// Bytes that may be taken of the volume.
    pub size: u64,
}

impl Default for Storage {
    fn default() -> Self {
        Self { durability: Durability::Fsync, size: DEFAULT_STORAGE }
    }
}

/// What is promised of an acknowledged message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It outlives the machine's loss of power.
    #[default]
    Fsync,
    /// It outlives the process; a loss of power may cost the last second.
    Async,
    /// It ends with the process.
    Memory,
}

impl Durability {
    /// Whether a directory is needed.
    pub fn is_durable(self) -> bool {
        self != Self::Memory
    }

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Async => "async",
            Self::Memory => "memory",
        }
    }
}

/// Bytes of storage where nothing else is asked for.
pub const DEFAULT_STORAGE: u64 = 1 << 30;
/// Bytes that may wait for the bridge where nothing else is asked for.
pub const DEFAULT_BUFFER: u64 = 1 << 30;

/// A socket that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    pub name: String,
    pub protocol: Protocol,
    pub address: IpAddr,
    pub port: u16,
    /// With TLS.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    /// With WebSocket: where MQTT is served.
    #[serde(default = "default_path")]
    pub path: String,
    /// With WebSocket: the pages that may connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_origins: Vec<String>,
    /// The networks from which connections begin with a PROXY header.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxies: Vec<IpNet>,
}

impl Listener {
    /// What follows host and port in a URL: nothing where nothing but MQTT is spoken.
    pub fn url_path(&self) -> &str {
        if self.protocol.is_websocket() { &self.path } else { "" }
    }

    /// One with the defaults of its protocol.
    pub fn new(name: impl Into<String>, protocol: Protocol, address: SocketAddr) -> Self {
        Self {
            name: name.into(),
            protocol,
            address: address.ip(),
            port: address.port(),
            client_certificates: ClientCertificates::default(),
            path: default_path(),
            allowed_origins: Vec::new(),
            proxies: Vec::new(),
        }
    }
}

/// Where browsers find MQTT unless another path is asked for: the one that clients try by themselves.
pub fn default_path() -> String {
    "/mqtt".into()
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// MQTT over TCP.
    Mqtt,
    /// MQTT over TLS.
    Mqtts,
    /// MQTT over WebSocket.
    Ws,
    /// MQTT over WebSocket over TLS.
    Wss,
}

impl Protocol {
    /// As in URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    pub fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// What is done about certificates of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientCertificates {
    /// They are not asked for.
    #[default]
    Ignored,
    /// Who presents one has it verified.
    Verified,
    /// Nobody connects without one.
    Required,
}

/// The internal listener of the bridge, and the only filters that it may subscribe to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeAccess {
    pub listen: SocketAddr,
    pub topics: Vec<String>,
    /// Bytes that may wait for the bridge; then publishers wait.
    #[serde(default = "default_buffer")]
    pub buffer: u64,
}

fn default_buffer() -> u64 {
    DEFAULT_BUFFER
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
    /// `$argon2id$…` as a PHC string, or one that was brought along: of bcrypt, or Mosquitto's.
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
    /// The key in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
