//! The PROXY protocol: asked for and believed where the configuration says so, and nowhere else.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use mqtt_operator::config::broker::Protocol;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::wire::{BINARY, CONNACK, CONNECT, DEADLINE, add, expect, frame, greet, next_frame, rest, tcp, upgraded};
use crate::support::{Broker, open};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 1883\r\n";

fn v2(command: u8, transport: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, transport], &length, body].concat()
}

/// A broker that everybody may use, whose listener `mqtt` is behind a proxy of this network.
fn behind(network: &str) -> Broker {
    Broker::with(|config| {
        open(config);
        config.listeners[0].proxies = vec![network.parse().unwrap()];
        add(config, Protocol::Ws, "127.0.0.1").proxies = vec![network.parse().unwrap()];
    })
}

#[tokio::test]
async fn a_header_of_either_version_goes_before_mqtt_however_it_is_cut() {
    let broker = behind("127.0.0.0/8");
    let four = [192, 0, 2, 7, 192, 0, 2, 1, 0xC3, 0x50, 0x07, 0x5B];
    let extensions = [&four[..], &[0x04, 0x03, 0xE8], &[0; 1000]].concat();
    for header in [
        V1.to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(1, 0x11, &four),
        v2(1, 0x11, &extensions),
        v2(1, 0x21, &[1; 36]),
        v2(0, 0, &[]),
    ] {
        let mut socket = tcp(broker.listener("mqtt")).await;
        socket.write_all(&[&header, CONNECT].concat()).await.unwrap();
        expect(&mut socket, CONNACK).await;

        let mut socket = tcp(broker.listener("mqtt")).await;
        socket.set_nodelay(true).unwrap();
        for piece in [&header, CONNECT].concat().chunks(5) {
            socket.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        expect(&mut socket, CONNACK).await;
    }
    let mut socket = tcp(broker.listener("ws")).await;
    socket.write_all(V1).await.unwrap();
    let mut socket = upgraded(socket).await;
    socket.write_all(&frame(BINARY, CONNECT)).await.unwrap();
    assert_eq!(next_frame(&mut socket).await, (BINARY, CONNACK.to_vec()));
}

/// The line in which the broker says who connected; the broker is a process of its own, as its log is.
#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_the_header_is_the_clients() {
    let documents = behind("127.0.0.0/8");
    let mut broker = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"))
        .arg("--etc")
        .arg(documents.etc())
        .arg("--state")
        .arg(documents.etc().join("state"))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(broker.stderr.take().unwrap()).lines().map_while(Result::ok);
    let (told, log) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.for_each(|line| drop(told.send(line))));
    let line = |words: &[&str]| loop {
        let line = log.recv_timeout(DEADLINE).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        if words.iter().all(|word| line.contains(word)) {
            return serde_json::from_str::<Value>(&line).unwrap();
        }
    };
    let listening = line(&["listening", "\"mqtt\""]);
    let mut socket = tcp(listening["address"].as_str().unwrap().parse().unwrap()).await;
    socket.write_all(&[V1, CONNECT].concat()).await.unwrap();
    let connected = line(&["\"connected\""]);
    broker.kill().unwrap();
    broker.wait().unwrap();
    assert_eq!(connected["address"], "192.0.2.7:50000", "{connected}");
}

#[tokio::test]
async fn a_connection_from_the_network_of_proxies_needs_a_header_and_a_good_one() {
    let broker = behind("127.0.0.1/32");
    for wrong in [
        CONNECT,
        b"PROXY TCP4 192.0.2.7 192.0.2.1 50000\r\n",
        b"PROXY TCP4 192.0.2.777 192.0.2.1 1 2\r\n",
        &v2(2, 0x11, &[0; 12]),
        &v2(1, 0x11, &[0; 3]),
        &v2(1, 0x12, &[0; 12]),
        &[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat(),
    ] {
        let mut socket = tcp(broker.listener("mqtt")).await;
        socket.write_all(&[wrong, CONNECT].concat()).await.unwrap();
        assert_eq!(rest(&mut socket).await, b"", "{wrong:?}");
    }
    let mut socket = tcp(broker.listener("mqtt")).await;
    socket.write_all(&[V1, CONNECT].concat()).await.unwrap();
    expect(&mut socket, CONNACK).await;
}

#[tokio::test]
async fn from_anywhere_else_a_connection_is_served_without_a_header_and_not_with_one() {
    let broker = behind("192.0.2.0/24");
    greet(&mut tcp(broker.listener("mqtt")).await).await;
    for header in [V1.to_vec(), v2(1, 0x11, &[1; 12])] {
        let mut socket = tcp(broker.listener("mqtt")).await;
        socket.write_all(&[&header, CONNECT].concat()).await.unwrap();
        assert_eq!(rest(&mut socket).await, b"");
        let mut socket = tcp(broker.listener("ws")).await;
        socket.write_all(&header).await.unwrap();
        socket.shutdown().await.unwrap();
        assert!(!rest(&mut socket).await.starts_with(b"HTTP/1.1 101"));
    }
    let mut socket = upgraded(tcp(broker.listener("ws")).await).await;
    socket.write_all(&frame(BINARY, CONNECT)).await.unwrap();
    assert_eq!(next_frame(&mut socket).await, (BINARY, CONNACK.to_vec()));
}

#[tokio::test]
async fn a_proxy_that_never_finishes_its_header_is_gone_in_time_and_delays_nobody() {
    let broker = behind("127.0.0.0/8");
    let mut slow = Vec::new();
    for first in [&b""[..], &V1[..10], &v2(1, 0x11, &[0; 12])[..20]] {
        let mut socket = tcp(broker.listener("mqtt")).await;
        socket.write_all(first).await.unwrap();
        slow.push(socket);
    }
    let mut socket = tcp(broker.listener("mqtt")).await;
    socket.write_all(&[V1, CONNECT].concat()).await.unwrap();
    expect(&mut socket, CONNACK).await;
    for socket in &mut slow {
        assert_eq!(rest(socket).await, b"");
    }
}
