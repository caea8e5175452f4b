//! Who somebody seems to be by the way on which it comes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use mqtt_operator::config::broker::{Listener, Protocol};

use super::*;

/// Says this, and reads all that is answered until the broker closes or has answered a CONNECT.
fn answer(address: SocketAddr, said: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(said).unwrap();
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    answer
}

fn upgrade(headers: &str) -> Vec<u8> {
    format!(
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n{headers}\r\n"
    )
    .into_bytes()
}

fn broker_with_websocket(change: impl FnOnce(&mut Listener)) -> Broker {
    broker_with(|config| {
        let mut listener = Listener::new("ws", Protocol::Ws, (Ipv4Addr::LOCALHOST, 0).into());
        change(&mut listener);
        config.listeners.push(listener);
    })
}

#[test]
fn class_21_a_page_of_another_origin_may_not_connect() {
    let broker = broker_with_websocket(|it| it.allowed_origins = vec!["https://app.example.com".into()]);
    for (origin, status) in [
        ("https://app.example.com", "101"),
        ("https://evil.example.com", "403"),
        ("https://app.example.com.evil.example", "403"),
        ("https://evil.example/app.example.com", "403"),
        ("http://app.example.com", "403"),
        ("https://app.example.com:8443", "403"),
        ("null", "403"),
    ] {
        let answer = answer(broker.listener("ws"), &upgrade(&format!("Origin: {origin}\r\n")));
        let line = String::from_utf8_lossy(&answer);
        assert!(line.starts_with(&format!("HTTP/1.1 {status}")), "{origin}: {line}");
    }
}

#[test]
fn class_24_nobody_chooses_the_address_that_he_seems_to_come_from() {
    // 192.0.2.1 may speak for others; 127.0.0.1 may not, by no means.
    let broker = broker_with_websocket(|it| it.proxies = vec!["192.0.2.1/32".parse().unwrap()]);
    let connect = Connect::new(Version::V311, "c").bytes();
    for header in [
        &b"PROXY TCP4 203.0.113.9 192.0.2.1 50000 1883\r\n"[..],
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\xc0\0\x02\x01\xc3\x50\x07\x5b",
    ] {
        let said = [header, &connect].concat();
        assert!(!answer(broker.listener("mqtt"), &said).starts_with(&[0x20]), "a listener without proxies");
        let said = [header, &upgrade("")].concat();
        assert!(!answer(broker.listener("ws"), &said).starts_with(b"HTTP/1.1 101"), "a stranger for a proxy");
    }
    // What proxies of the web say in headers is not believed from anybody: the address that counts is the socket's.
    let headers = "X-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\nForwarded: for=203.0.113.9\r\n";
    let mut socket = TcpStream::connect(broker.listener("ws")).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(&upgrade(headers)).unwrap();
    let kept = Connect::kept(Version::V311, 1).bytes();
    let mask = [0; 4];
    socket.write_all(&bytes![0x82, 0x80 | u8::try_from(kept.len()).unwrap(), mask, kept]).unwrap();
    crate::support::wait_until(DEADLINE, "the session is there", || {
        let (_, sessions) = runtime().block_on(broker.ask(reqwest::Method::GET, "/api/v1/sessions"));
        let text = sessions.to_string();
        assert!(!text.contains("203.0.113.9"), "{text}");
        if text.contains("127.0.0.1") { Ok(()) } else { Err(text) }
    });
}
