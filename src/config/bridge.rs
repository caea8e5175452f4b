//! `bridge.json`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
