//! Sockets and bytes, as the tests of this folder need them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mqtt_operator::client::Message;
use mqtt_operator::config::broker::{Broker as Config, Listener, Protocol};
use mqtt_operator::mqtt::{QoS, Version};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Broker, Pair};

/// More than anything here may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// CONNECT of 3.1.1 with client id `w`, a clean session and no credentials.
pub const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01w";
/// CONNACK of 3.1.1: accepted.
pub const CONNACK: &[u8] = b"\x20\x02\0\0";
pub const PINGREQ: &[u8] = b"\xC0\0";
pub const PINGRESP: &[u8] = b"\xD0\0";

/// SUBSCRIBE to `t/large` at QoS 1, and its SUBACK.
pub const SUBSCRIBE: &[u8] = b"\x82\x0c\0\x01\0\x07t/large\x01";
pub const SUBACK: &[u8] = b"\x90\x03\0\x01\x01";

/// Publishes more to `t/large` than any buffer on the way holds; answers how many bytes a subscriber gets.
pub async fn flood(broker: &Broker) -> usize {
    const MESSAGES: usize = 40;
    const PAYLOAD: usize = 250 * 1024;
    let (publisher, _incoming) = broker.connect(9, Version::V311).await;
    for _ in 0..MESSAGES {
        publisher.publish(&Message::new("t/large", vec![b'L'; PAYLOAD], QoS::AtLeastOnce)).await.unwrap();
    }
    // Fixed header, topic, packet id, payload.
    MESSAGES * (4 + 9 + 2 + PAYLOAD)
}

/// Adds a listener on a free port of this address.
pub fn add<'a>(config: &'a mut Config, protocol: Protocol, address: &str) -> &'a mut Listener {
    let address: SocketAddr = (address.parse::<std::net::IpAddr>().unwrap(), 0).into();
    config.listeners.push(Listener::new(protocol.scheme(), protocol, address));
    config.listeners.last_mut().unwrap()
}

/// Reads exactly these bytes.
#[track_caller]
pub fn expect<S: AsyncRead + Unpin>(socket: &mut S, expected: &[u8]) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let mut got = vec![0; expected.len()];
        let read = tokio::time::timeout(DEADLINE, socket.read_exact(&mut got)).await;
        read.unwrap_or_else(|_| panic!("{place}: nothing came")).unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!(got, expected, "{place}");
    }
}

/// Everything until the other side closes.
pub async fn rest<S: AsyncRead + Unpin>(socket: &mut S) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut bytes)).await.expect("an end in time");
    bytes
}

/// Sends CONNECT and reads CONNACK.
pub async fn greet<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) {
    socket.write_all(CONNECT).await.unwrap();
    expect(socket, CONNACK).await;
}

/// Whether the connection answers.
pub async fn ping<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) {
    socket.write_all(PINGREQ).await.unwrap();
    expect(socket, PINGRESP).await;
}

pub async fn tcp(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// A TLS connection that trusts this authority; with a certificate of its own if one is given.
pub async fn tls(address: SocketAddr, ca: &str, own: Option<&Pair>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config)).connect(name, tcp(address).await).await
}

/// A request for a WebSocket, with further header lines.
pub fn request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// The subprotocol of MQTT.
pub const MQTT: &str = "Sec-WebSocket-Protocol: mqtt\r\n";

/// Sends a request and reads the head of the answer.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S, request: &str) -> String {
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(DEADLINE, socket.read_u8()).await.expect("an answer in time");
        head.push(byte.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A WebSocket for MQTT.
pub async fn upgraded<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S) -> S {
    let answer = ask(&mut socket, &request("/mqtt", MQTT)).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    socket
}

pub const BINARY: u8 = 0x82;
pub const TEXT: u8 = 0x81;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8A;

/// A frame as a client sends it; `first` is its first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = vec![first];
    match payload.len() {
        length @ ..=125 => frame.push(0x80 | length as u8),
        length @ ..=0xFFFF => {
            frame.push(0x80 | 0x7E);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 0x7F);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The next frame of the server: its first byte and its payload.
pub async fn next_frame<S: AsyncRead + Unpin>(socket: &mut S) -> (u8, Vec<u8>) {
    let reading = async {
        let first = socket.read_u8().await.unwrap();
        let length = match socket.read_u8().await.unwrap() {
            126 => usize::from(socket.read_u16().await.unwrap()),
            127 => socket.read_u64().await.unwrap() as usize,
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).await.unwrap();
        (first, payload)
    };
    tokio::time::timeout(DEADLINE, reading).await.expect("a frame in time")
}
