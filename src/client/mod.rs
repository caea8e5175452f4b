//! The small MQTT client that the bridge, `mqttctl`, the load generator and the tests share. May name `mqtt`.
//!
//! Speaks 3.1, 3.1.1 and 5.0. One task owns the socket; reading is cancel-safe, what is sent meanwhile leaves in one
//! write. Incoming messages go through a bounded channel: who does not read them makes TCP push back on the server.
//! There is no reconnecting in here, because what has to happen then (subscribe again? resume? give up?) is known to the
//! caller alone. State of QoS 2 lives as long as the connection: over a reconnect it is at least once.

mod connection;
mod error;
mod message;
mod state;
mod transport;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{future::Future, pin::Pin};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;

use crate::mqtt::packet::SubscriptionOptions;
use crate::mqtt::{QoS, ReasonCode, Version};

pub use error::Error;
pub use message::{Delivery, Message, Properties};
pub use transport::{Tls, TlsError, Trust};

use connection::Link;

/// How long `connect` waits for the TCP connection and the CONNACK together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest packet that MQTT can express, in bytes.
pub const LARGEST_PACKET: u32 = 268_435_460;

/// Who acknowledges deliveries of QoS 1 and 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledge {
    /// The client, once the message is in the hands of [`Incoming`].
    #[default]
    Automatic,
    /// The caller, by [`Client::acknowledge`].
    Manual,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port`.
    pub address: String,
    pub version: Version,
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    /// Clean Session in 3.x.
    pub clean_start: bool,
    /// Seconds; 0 switches it off.
    pub keep_alive: u16,
    /// Seconds; 5.0 only.
    pub session_expiry: Option<u32>,
    /// Deliveries that may wait for our acknowledgement; 5.0 only.
    pub receive_maximum: Option<u16>,
    /// Bytes of the largest packet that is accepted.
    pub maximum_packet_size: u32,
    pub will: Option<Message>,
    /// Seconds; 5.0 only.
    pub will_delay: Option<u32>,
    pub acknowledge: Acknowledge,
    /// With TLS.
    pub tls: Option<Tls>,
    /// With WebSocket: the path, as `/mqtt`.
    pub websocket: Option<String>,
}

impl Options {
    /// 3.1.1, a clean session, nobody in particular, keep alive of a minute.
    pub fn new(address: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            version: Version::V311,
            client_id: client_id.into(),
            username: None,
            password: None,
            clean_start: true,
            keep_alive: 60,
            session_expiry: None,
            receive_maximum: None,
            maximum_packet_size: LARGEST_PACKET,
            will: None,
            will_delay: None,
            acknowledge: Acknowledge::Automatic,
            tls: None,
            websocket: None,
        }
    }
}

/// What the server said in its CONNACK. In 3.x all but the first two have their default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    pub session_present: bool,
    pub code: ReasonCode,
    /// The client id in use, when the server chose it.
    pub assigned_client_id: Option<String>,
    /// Seconds; the server's wish goes before ours.
    pub server_keep_alive: Option<u16>,
    pub session_expiry: Option<u32>,
    /// QoS 1 and 2 publications that may wait for the server's acknowledgement.
    pub receive_maximum: u16,
    pub maximum_qos: QoS,
    pub retain_available: bool,
    /// Bytes of a whole packet that the server accepts.
    pub maximum_packet_size: u32,
}

/// Connects and waits for the server's CONNACK. A refusal is [`Error::Refused`].
///
/// Dropping every [`Client`] and the [`Incoming`] closes the socket without a DISCONNECT, as a crash would.
pub async fn connect(options: &Options) -> Result<(Client, Incoming, Connected), Error> {
    let opening = async {
        let stream = TcpStream::connect(&options.address)
            .await
            .map_err(|source| Error::Connect { address: options.address.clone(), source: Arc::new(source) })?;
        // Acknowledgements and publications leave in batches of our own making; Nagle would only delay them.
        stream.set_nodelay(true).map_err(Error::io)?;
        if options.tls.is_none() && options.websocket.is_none() {
            let (reader, writer) = stream.into_split();
            return connection::open(reader, writer, false, options).await;
        }
        let (tls, path) = (options.tls.as_ref(), options.websocket.as_deref());
        let (reader, writer) = tokio::io::split(transport::wrap(stream, &options.address, tls, path).await?);
        connection::open(reader, writer, true, options).await
    };
    timeout(CONNECT_TIMEOUT, opening).await.map_err(|_| Error::ConnectTimeout { address: options.address.clone() })?
}

/// Sends. Clones share one connection.
#[derive(Clone, Debug)]
pub struct Client {
    link: Arc<Link>,
    /// The connection's task sees the last of these go.
    _alive: mpsc::Sender<()>,
}

impl Client {
    /// Subscribes; one code per filter, in order, of which any may be a failure.
    pub async fn subscribe(&self, filters: &[(&str, SubscriptionOptions)]) -> Result<Vec<ReasonCode>, Error> {
        let answer = self.link.with(|state| state.subscribe(filters))?;
        answer.await.map_err(|_| self.link.reason())
    }

    /// Unsubscribes; one code per filter, in order. None in 3.x.
    pub async fn unsubscribe(&self, filters: &[&str]) -> Result<Vec<ReasonCode>, Error> {
        let answer = self.link.with(|state| state.unsubscribe(filters))?;
        answer.await.map_err(|_| self.link.reason())
    }

    /// Publishes. QoS 0 resolves when the message is in the write buffer, QoS 1 and 2 at the server's PUBACK or
    /// PUBCOMP, whose code (or that of a refusing PUBREC) is the result.
    ///
    /// A caller that also subscribes must go on reading its [`Incoming`]: the acknowledgement comes behind the
    /// deliveries in the same stream.
    pub async fn publish(&self, message: &Message) -> Result<ReasonCode, Error> {
        self.send(message).await?.await
    }

    /// Like [`Client::publish`], but resolves when the message is in the write buffer. The result resolves at the
    /// acknowledgement; many may be awaited at a time. Waits while the server's Receive Maximum is used up.
    pub async fn send(&self, message: &Message) -> Result<Sent, Error> {
        let permit = match message.qos {
            QoS::AtMostOnce => None,
            _ => Some(self.window_permit().await?),
        };
        self.link.room_to_write().await?;
        let answer = self.link.with(|state| state.publish(message, permit))?;
        Ok(Sent { answer, link: Arc::clone(&self.link) })
    }

    async fn window_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.link.window).acquire_owned().await.map_err(|_| self.link.reason())
    }

    /// Acknowledges a delivery of QoS 1 or 2 ([`Acknowledge::Manual`]). Deliveries may be acknowledged in any order: the
    /// acknowledgements leave in the order of the deliveries, as the specification wants it `[MQTT-4.6.0-2]`.
    pub fn acknowledge(&self, delivery: &Delivery) -> Result<(), Error> {
        match delivery.sequence {
            Some(sequence) => self.link.with(|state| {
                state.acknowledge(sequence);
                Ok(())
            }),
            None => Ok(()),
        }
    }

    /// Says DISCONNECT and closes. In 3.x the code does not travel.
    pub async fn disconnect(&self, code: ReasonCode) -> Result<(), Error> {
        self.link.with(|state| {
            state.disconnect(code);
            Ok(())
        })?;
        self.link.finished().await;
        Ok(())
    }
}

/// A publication on its way; resolves at its acknowledgement, at once for QoS 0.
#[derive(Debug)]
pub struct Sent {
    answer: Option<oneshot::Receiver<ReasonCode>>,
    link: Arc<Link>,
}

impl Future for Sent {
    type Output = Result<ReasonCode, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(Ok(ReasonCode::SUCCESS)) };
        Pin::new(answer).poll(context).map(|code| code.map_err(|_| self.link.reason()))
    }
}

/// Receives.
#[derive(Debug)]
pub struct Incoming {
    batches: mpsc::Receiver<Vec<Delivery>>,
    batch: std::vec::IntoIter<Delivery>,
    link: Arc<Link>,
    ended: bool,
}

impl Incoming {
    /// The next message. When the connection fails, the error comes once; after it, and after
    /// [`Client::disconnect`], `None`. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        loop {
            if let Some(delivery) = self.batch.next() {
                return Some(Ok(delivery));
            }
            if self.ended {
                return None;
            }
            if let Some(batch) = self.batches.recv().await {
                self.batch = batch.into_iter();
                continue;
            }
            self.ended = true;
            return match self.link.reason() {
                Error::Closed => None,
                error => Some(Err(error)),
            };
        }
    }

    /// The next message that is already here, without waiting.
    pub fn try_next(&mut self) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.batch.next() {
                return Some(delivery);
            }
            self.batch = self.batches.try_recv().ok()?.into_iter();
        }
    }
}
