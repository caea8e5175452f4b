use std::sync::Arc;

use tokio_tungstenite::tungstenite;

use crate::mqtt::ReasonCode;
use crate::mqtt::violation::Violation;

/// Why the connection could not be made, or ended. Cloneable, because everyone who waits for the connection hears it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to {address}")]
    Connect { address: String, source: Arc<std::io::Error> },
    #[error("no TLS with {address}")]
    Tls { address: String, source: Arc<std::io::Error> },
    #[error("no WebSocket at {address}")]
    WebSocket { address: String, source: Arc<tungstenite::Error> },
    #[error("{address} did not answer within 10 s")]
    ConnectTimeout { address: String },
    /// CONNACK with a failure. `reason` is the server's Reason String, empty without one.
    #[error("the server refused the connection: {code}{}", in_words(.reason))]
    Refused { code: ReasonCode, reason: String },
    /// The server said DISCONNECT.
    #[error("the server disconnected: {code}{}", in_words(.reason))]
    Disconnected { code: ReasonCode, reason: String },
    #[error("the server closed the connection")]
    ClosedByServer,
    #[error("the connection broke")]
    Io { source: Arc<std::io::Error> },
    #[error("the server did not answer a PINGREQ in time")]
    KeepAlive,
    #[error("the server sent what MQTT does not allow: {0}")]
    Violation(Violation),
    #[error("the server sent an unexpected {0}")]
    Unexpected(&'static str),
    #[error("a packet of {size} bytes exceeds the server's limit of {limit}")]
    TooLarge { size: usize, limit: u32 },
    #[error("the server does not offer {0}")]
    NotOffered(&'static str),
    #[error("all packet identifiers are in use")]
    PacketIdsExhausted,
    /// After [`super::Client::disconnect`].
    #[error("the connection is closed")]
    Closed,
}

impl Error {
    pub(super) fn io(source: std::io::Error) -> Self {
        Self::Io { source: Arc::new(source) }
    }
}

fn in_words(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}
