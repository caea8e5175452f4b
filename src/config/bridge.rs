//! `bridge.json`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::auth::BRIDGE_USER as USER;
use crate::mqtt::QoS;
use crate::mqtt::packet::{RetainHandling, SubscriptionOptions};

/// Of the bridge's session, which the broker makes before the bridge comes to take it over: what is here and below decides
/// for both. Named as the principal, which gives the bridge the better right to it: a device that happens to have the same
/// client id cannot keep telemetry from its session.
pub const CLIENT_ID: &str = USER;
/// Seconds that the broker keeps the session, and with it what was not acknowledged: as long as the protocol can say.
pub const SESSION_EXPIRY: u32 = u32::MAX;
/// How the bridge subscribes to each of its topics.
pub const SUBSCRIPTION: SubscriptionOptions = SubscriptionOptions {
    qos: QoS::AtLeastOnce,
    no_local: false,
    retain_as_published: true,
    // Else each connection would bring every retained message once more.
    retain_handling: RetainHandling::SendIfNew,
};

/// `bridge.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bridge {
    pub format: u32,
    /// The object whose telemetry this is.
    pub namespace: String,
    pub name: String,
    /// The issuer of the tokens that open the admin port.
    #[serde(default)]
    pub issuer: String,
    /// The broker's internal listener.
    pub broker: SocketAddr,
    /// Where probes and metrics are served.
    pub admin: SocketAddr,
    /// The filters to subscribe to.
    pub topics: Vec<String>,
    /// The data stream that documents go to, `logs-mqtt.<broker>-<namespace>`.
    pub data_stream: String,
    /// The data stream for documents that the sink rejects, `logs-mqtt.deadletter-<namespace>`.
    pub dead_letters: String,
    pub sink: Sink,
}

/// Where documents go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Sink {
    Elasticsearch(Elasticsearch),
    /// `<directory>/<data stream>.ndjson`.
    File {
        directory: PathBuf,
    },
}

/// An Elasticsearch to write to. Credentials and certificate authorities are files, see [`super::files::Etc`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Elasticsearch {
    pub urls: Vec<String>,
}
