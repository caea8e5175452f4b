//! A connection that speaks packets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mqtt_operator::mqtt::ReasonCode;
use mqtt_operator::mqtt::codec::{decode_from_server, encode, packet_length};
use mqtt_operator::mqtt::packet::{Ack, Connect, Packet, PacketId, Version, Will};
use mqtt_operator::mqtt::property::{AckProperties, ConnectProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stage::{Kind, Phase, Stage};
use crate::support::PASSWORD;

/// Between two attempts to connect to a broker that is just being killed.
const PAUSE: Duration = Duration::from_millis(20);
/// For one packet to be written or answered by a broker that lives.
const ANSWER: Duration = Duration::from_secs(30);

/// The connection is no more.
#[derive(Debug)]
pub struct Lost;

impl From<io::Error> for Lost {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Who connects, and how.
#[derive(Clone, Debug)]
pub struct Identity {
    pub client_id: String,
    pub user: &'static str,
    pub version: Version,
    pub receive_maximum: Option<u16>,
}

#[derive(Debug)]
pub struct Line {
    stage: Arc<Stage>,
    pub version: Version,
    socket: TcpStream,
    input: Vec<u8>,
    out: Vec<u8>,
}

/// An acknowledgement that says nothing but success.
pub fn ack(packet_id: PacketId) -> Ack<'static> {
    Ack { packet_id, code: ReasonCode::SUCCESS, properties: AckProperties::default() }
}

impl Line {
    /// A connection to the broker, as soon as there is one; nothing when the run is over.
    pub async fn open(stage: &Arc<Stage>, version: Version) -> Option<Self> {
        let mut watch = stage.watch();
        loop {
            let now = *watch.borrow_and_update();
            if now.phase == Phase::Over {
                return None;
            }
            if let Some(address) = now.address
                && let Ok(socket) = TcpStream::connect(address).await
                && socket.set_nodelay(true).is_ok()
            {
                let stage = stage.clone();
                return Some(Self { stage, version, socket, input: Vec::new(), out: Vec::new() });
            }
            let _ = tokio::time::timeout(PAUSE, watch.changed()).await;
        }
    }

    pub fn push(&mut self, packet: &Packet<'_>) {
        encode(packet, self.version, &mut self.out);
    }

    pub async fn flush(&mut self) -> Result<(), Lost> {
        let written = tokio::time::timeout(ANSWER, self.socket.write_all(&self.out)).await;
        self.out.clear();
        let Ok(written) = written else {
            self.stage.find(Kind::Protocol, "the broker has read nothing for half a minute");
            return Err(Lost);
        };
        Ok(written?)
    }

    /// The next packet, as it stands. May be given up and called again.
    pub async fn next(&mut self) -> Result<Vec<u8>, Lost> {
        loop {
            match packet_length(&self.input, u32::MAX) {
                Ok(Some(length)) if length <= self.input.len() => return Ok(self.input.drain(..length).collect()),
                Ok(_) => {}
                Err(violation) => {
                    self.stage.find(Kind::Protocol, format!("the broker sent no packet: {violation}"));
                    return Err(Lost);
                }
            }
            if self.socket.read_buf(&mut self.input).await? == 0 {
                return Err(Lost);
            }
        }
    }

    /// A packet from its bytes.
    pub fn decode<'a>(&self, frame: &'a [u8]) -> Result<Packet<'a>, Lost> {
        decode_from_server(frame, self.version).map_err(|violation| {
            self.stage.find(Kind::Protocol, format!("a malformed packet: {violation}"));
            Lost
        })
    }

    /// CONNECT and its answer: whether the session was there.
    pub async fn greet(&mut self, who: &Identity, clean: bool, will: Option<Will<'_>>) -> Result<bool, Lost> {
        let expiry = Some(3600).filter(|_| who.version == Version::V5);
        let properties = ConnectProperties {
            session_expiry: expiry,
            receive_maximum: who.receive_maximum.filter(|_| who.version == Version::V5),
            ..ConnectProperties::default()
        };
        let connect = Connect {
            version: who.version,
            clean_start: clean,
            keep_alive: 0,
            client_id: &who.client_id,
            username: Some(who.user),
            password: Some(PASSWORD),
            will,
            properties,
        };
        self.push(&Packet::Connect(Box::new(connect)));
        self.flush().await?;
        let frame = self.answer().await?;
        match self.decode(&frame)? {
            Packet::ConnAck(answer) if answer.code == ReasonCode::SUCCESS => {
                self.stage.counts.connections.fetch_add(1, Ordering::Relaxed);
                Ok(answer.session_present)
            }
            // A CONNECT of an earlier connection may be seen after this one.
            Packet::ConnAck(answer) if answer.code == ReasonCode::SERVER_UNAVAILABLE => Err(Lost),
            other => {
                self.stage.find(Kind::Protocol, format!("{} is answered {other:?}", who.client_id));
                Err(Lost)
            }
        }
    }

    /// The next packet, which a broker that lives sends soon.
    pub async fn answer(&mut self) -> Result<Vec<u8>, Lost> {
        let Ok(answer) = tokio::time::timeout(ANSWER, self.next()).await else {
            self.stage.find(Kind::Protocol, "the broker has said nothing for half a minute");
            return Err(Lost);
        };
        answer
    }
}
