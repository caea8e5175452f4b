//! A client's socket: handshake, many packets per read, many packets per write.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::{BenchError, Settings};
use crate::mqtt::packet::{Connect, Disconnect, Packet, Subscribe, SubscriptionOptions};
use crate::mqtt::property::{ConnectProperties, DisconnectProperties, SubscribeProperties};
use crate::mqtt::{PacketId, ReasonCode, Version, codec};

/// Seconds. A ping is due well before.
const KEEP_ALIVE: u16 = 60;

/// Seconds that a persistent session outlives its connection, where the version can say it.
const SESSION_EXPIRY: u32 = 3600;

/// Larger than what a socket usually holds, so that one read empties it.
const READ_BUFFER: usize = 256 * 1024;

thread_local! {
    /// One for all connections of a thread: what is left of a read moves to the connection.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BUFFER]);
}

/// A connected client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    version: Version,
    /// The beginning of a packet whose end has not arrived.
    partial: Vec<u8>,
    /// What [`Self::flush`] will send.
    pub(super) out: Vec<u8>,
    /// Unacknowledged messages that the broker accepts.
    pub(super) receive_maximum: u16,
}

impl Connection {
    /// Connects, for a session that outlives the connection or not, and waits for the acceptance.
    pub(super) async fn open(settings: &Settings, client_id: &str, persistent: bool) -> Result<Self, BenchError> {
        let connect_error =
            |source| BenchError::Connect { address: format!("{}:{}", settings.host, settings.port), source };
        let stream = TcpStream::connect((settings.host.as_str(), settings.port)).await.map_err(connect_error)?;
        stream.set_nodelay(true).map_err(connect_error)?;
        let version = settings.version;
        let mut connection = Self { stream, version, partial: Vec::new(), out: Vec::new(), receive_maximum: u16::MAX };
        connection.send(&Packet::Connect(Box::new(Connect {
            version,
            clean_start: !persistent,
            keep_alive: KEEP_ALIVE,
            client_id,
            username: settings.username.as_deref(),
            password: settings.password.as_deref().map(str::as_bytes),
            will: None,
            properties: ConnectProperties {
                session_expiry: (persistent && version == Version::V5).then_some(SESSION_EXPIRY),
                ..ConnectProperties::default()
            },
        })));
        connection.flush().await?;
        let (mut answer, mut maximum) = (None, None);
        while answer.is_none() {
            connection
                .read(|packet, _| match packet {
                    Packet::ConnAck(connack) => {
                        answer = Some(connack.code);
                        maximum = connack.properties.receive_maximum;
                        Ok(())
                    }
                    other => Err(BenchError::Unexpected(other.name())),
                })
                .await?;
        }
        connection.receive_maximum = maximum.unwrap_or(u16::MAX);
        match answer {
            Some(ReasonCode::SUCCESS) => Ok(connection),
            code => Err(BenchError::Refused(code.unwrap_or(ReasonCode::UNSPECIFIED_ERROR))),
        }
    }

    /// Subscribes and waits for the acceptance.
    pub(super) async fn subscribe(&mut self, filter: &str, settings: &Settings) -> Result<(), BenchError> {
        let options = SubscriptionOptions { qos: settings.qos, ..SubscriptionOptions::default() };
        self.send(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::MIN,
            properties: SubscribeProperties::default(),
            filters: vec![(filter, options)],
        }));
        self.flush().await?;
        let mut answer = None;
        while answer.is_none() {
            self.read(|packet, _| {
                // A message may come first.
                if let Packet::SubAck(suback) = packet {
                    answer = Some(suback.codes.first().copied().unwrap_or(ReasonCode::UNSPECIFIED_ERROR));
                }
                Ok(())
            })
            .await?;
        }
        match answer {
            Some(code) if code.is_failure() => Err(BenchError::SubscriptionRefused { filter: filter.to_owned(), code }),
            _ => Ok(()),
        }
    }

    /// Appends a packet to what will be sent.
    pub(super) fn send(&mut self, packet: &Packet<'_>) {
        codec::encode(packet, self.version, &mut self.out);
    }

    /// Sends what was appended.
    pub(super) async fn flush(&mut self) -> Result<(), BenchError> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await.map_err(BenchError::Socket)?;
            self.out.clear();
        }
        Ok(())
    }

    /// Says goodbye; whether it arrives matters to nobody.
    pub(super) async fn close(mut self) {
        let properties = DisconnectProperties::default();
        self.out.clear();
        self.send(&Packet::Disconnect(Disconnect { code: ReasonCode::SUCCESS, properties }));
        let _ = self.flush().await;
    }

    /// Waits for bytes and visits each packet that is whole. `visit` may append answers to what will be sent. Nothing is
    /// lost when this is dropped while it waits.
    pub(super) async fn read(
        &mut self,
        mut visit: impl FnMut(Packet<'_>, &mut Vec<u8>) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        poll_fn(|context| {
            READ.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)).map_err(BenchError::Socket)?;
                Poll::Ready(self.visit(buffer.filled(), &mut visit))
            })
        })
        .await
    }

    fn visit(
        &mut self,
        bytes: &[u8],
        visit: &mut impl FnMut(Packet<'_>, &mut Vec<u8>) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        if bytes.is_empty() {
            return Err(BenchError::Closed);
        }
        let mut visit = |packet: Packet<'_>| match packet {
            Packet::Disconnect(disconnect) => Err(BenchError::Disconnected(disconnect.code)),
            packet => visit(packet, &mut self.out),
        };
        if self.partial.is_empty() {
            let used = visit_packets(bytes, self.version, &mut visit)?;
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            self.partial.extend_from_slice(bytes);
            let used = visit_packets(&self.partial, self.version, &mut visit)?;
            self.partial.drain(..used);
        }
        Ok(())
    }
}

/// Visits the whole packets at the beginning of `bytes`; returns their length.
fn visit_packets(
    bytes: &[u8],
    version: Version,
    visit: &mut impl FnMut(Packet<'_>) -> Result<(), BenchError>,
) -> Result<usize, BenchError> {
    let mut used = 0;
    while let Some(length) = codec::packet_length(&bytes[used..], u32::MAX).map_err(BenchError::Protocol)? {
        let Some(frame) = bytes.get(used..used + length) else { break };
        visit(codec::decode(frame, version).map_err(BenchError::Protocol)?)?;
        used += length;
    }
    Ok(used)
}
