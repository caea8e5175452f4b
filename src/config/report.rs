//! What a pod says of itself, read from its admin port below `/api/v1`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jiff::Timestamp;
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
    /// The same users, each with a digest of the hash that is loaded.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub passwords: BTreeMap<String, String>,
    /// The users that cannot log in because their hash cannot be used, as `name: why`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unusable_hashes: Vec<String>,
    /// The hash of the documents in force; see [`super::digest`].
    pub documents: String,
    /// Why newer documents are not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Newer documents ask for something that takes a restart.
    pub restart: bool,
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
    /// Absent where nothing is kept over a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// The number of the newest deny; a reader of denies needs to ask only when it is another.
    pub last_deny: u64,
}

/// What is kept over a restart, and whether that works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Storage {
    /// Publications that would have to be kept are refused unless it is good.
    pub health: Health,
    /// What the disk said last, if it refused something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Bytes on disk, and those of them that are still needed.
    pub bytes: u64,
    pub live_bytes: u64,
}

/// How the disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    #[default]
    Good,
    /// There is no room for more.
    Full,
    /// It cannot be written; or it has a trouble that only a later version has a name for.
    #[serde(other)]
    Failing,
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

/// A part of a list. The next part begins after `next`; without it this is the last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    pub items: Vec<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A session, of a client that is connected or away. What is absent could not be asked in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    pub client_id: String,
    pub principal: String,
    pub online: bool,
    /// `3.1`, `3.1.1` or `5.0`; of the last connection, if the client is away. So is the address.
    pub version: String,
    pub address: SocketAddr,
    pub listener: String,
    /// Connected, or away, since.
    pub since: Timestamp,
    /// When the session ends, while the client is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Seconds that the session outlives its connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_expiry: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<u64>,
    /// Deliveries that wait for the client's acknowledgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Messages and bytes that wait to be delivered.
    pub queued: u64,
    pub queued_bytes: u64,
    /// Messages that a limit has cost this session.
    pub dropped: u64,
}

/// A subscription of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    pub client_id: String,
    /// As the client wrote it, `$share/…` included.
    pub filter: String,
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<u32>,
}

/// A retained message, without its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retained {
    pub topic: String,
    pub qos: u8,
    /// Bytes of the payload.
    pub bytes: u64,
    /// Who published it, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// Something that a client asked for and did not get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deny {
    /// Counts up; the place in the list.
    pub number: u64,
    pub time: Timestamp,
    pub client_id: String,
    /// Absent where the client did not show who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// What it was accepted with, or has tried: `jwt`, `password`, `bridge` or `none`.
    pub method: String,
    /// The key that its token was verified with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Where a client comes from that was not let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// `connect`, `publish`, `subscribe`, `will` or `reauthenticate`.
    pub action: String,
    /// The topic or filter, if the action has one; of a very long one the beginning.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub topic: String,
    pub why: String,
    /// Why a client was not let in, or not authenticated again, as one of the closed set of `mqtt_auth_total`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often the same was denied again in the ten seconds after, which is not listed.
    #[serde(default)]
    pub repeats: u64,
}

/// A part of the list of denies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denies {
    pub items: Vec<Deny>,
    /// Where the next part begins, if there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The number of the last deny that was looked at: who follows goes on after it.
    pub last: u64,
}

/// A key that tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    pub kid: String,
    pub algorithm: String,
}

/// A socket that is listened on, and what came through it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    pub name: String,
    pub address: SocketAddr,
    /// The bridge's own, which no client reaches.
    pub internal: bool,
    pub connections: u64,
    /// Since the start.
    pub connects: u64,
    pub refused: u64,
}

/// What a kick did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kicked {
    pub client_id: String,
    /// Whether the client was connected.
    pub was_online: bool,
    /// Whether the session was ended too.
    pub forgotten: bool,
}

/// That connections are being drained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Draining {
    /// Clients connected when it began, or now if it had begun before.
    pub connections: u64,
    /// Clients disconnected a second.
    pub rate: u32,
}

/// What a reload put into force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Loaded {
    pub keys: Vec<String>,
    pub users: Vec<String>,
}

/// Why a request to the admin port fails, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    pub error: String,
    pub hint: String,
}
