//! A client of packets, for what a well-behaved one does not do.

use std::time::Duration;

use mqtt_operator::mqtt::packet::{Connect, Packet};
use mqtt_operator::mqtt::property::ConnectProperties;
use mqtt_operator::mqtt::{Version, codec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a packet may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A CONNECT without credentials that begins anew, to be changed.
pub fn plain_connect(version: Version, client_id: &str) -> Connect<'_> {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        client_id,
        username: None,
        password: None,
        will: None,
        properties: ConnectProperties::default(),
    }
}

/// Packets as they are on the wire.
pub fn bytes_of(version: Version, packets: &[Packet<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for packet in packets {
        codec::encode(packet, version, &mut bytes);
    }
    bytes
}

/// A socket that was sent a CONNECT.
pub struct Raw {
    socket: TcpStream,
    version: Version,
    seen: Vec<u8>,
}

impl Raw {
    pub async fn connect(address: &str, connect: Connect<'_>) -> Self {
        let version = connect.version;
        let mut raw = Self { socket: TcpStream::connect(address).await.unwrap(), version, seen: Vec::new() };
        raw.send(&[Packet::Connect(Box::new(connect))]).await;
        raw
    }

    pub async fn send(&mut self, packets: &[Packet<'_>]) {
        self.socket.write_all(&bytes_of(self.version, packets)).await.unwrap();
    }

    /// What `wanted` makes of the first packet that it knows; the others are passed over.
    pub async fn next<T>(&mut self, mut wanted: impl FnMut(&Packet<'_>) -> Option<T>) -> T {
        loop {
            let length = codec::packet_length(&self.seen, u32::MAX).unwrap();
            if let Some(length) = length.filter(|length| *length <= self.seen.len()) {
                let found = wanted(&codec::decode_from_server(&self.seen[..length], self.version).unwrap());
                self.seen.drain(..length);
                match found {
                    Some(found) => return found,
                    None => continue,
                }
            }
            let reading = tokio::time::timeout(DEADLINE, self.socket.read_buf(&mut self.seen));
            assert!(reading.await.expect("a packet in time").unwrap() > 0, "the connection was closed");
        }
    }
}
