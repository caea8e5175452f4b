//! All four transports at once: large messages, both address families, and clients that say nothing or not enough.

use std::time::{Duration, Instant};

use mqtt_operator::client::{self, Message, Tls, Trust};
use mqtt_operator::config::broker::Protocol;
use mqtt_operator::config::files::Etc;
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::wire::{self, BINARY, CONNACK, CONNECT, DEADLINE, add, frame, greet, next_frame, rest, tcp, upgraded};
use crate::support::{Authority, Broker, open};

/// All four protocols, on loopback addresses of this family.
fn broker(authority: &Authority, address: &str) -> Broker {
    let change = |config: &mut _| {
        open(config);
        config.listeners.clear();
        for protocol in [Protocol::Mqtt, Protocol::Mqtts, Protocol::Ws, Protocol::Wss] {
            add(config, protocol, address);
        }
    };
    Broker::with_files(change, |etc: &Etc| {
        for listener in ["mqtts", "wss"] {
            authority.server().write(etc.certificate(listener).parent().unwrap());
        }
    })
}

/// Connects on every listener, from the first byte to CONNACK.
async fn connects_everywhere(broker: &Broker, authority: &Authority) {
    greet(&mut tcp(broker.listener("mqtt")).await).await;
    greet(&mut wire::tls(broker.listener("mqtts"), &authority.pem(), None).await.unwrap()).await;
    let mut socket = upgraded(tcp(broker.listener("ws")).await).await;
    socket.write_all(&frame(BINARY, CONNECT)).await.unwrap();
    assert_eq!(next_frame(&mut socket).await, (BINARY, CONNACK.to_vec()));
    let mut socket = upgraded(wire::tls(broker.listener("wss"), &authority.pem(), None).await.unwrap()).await;
    socket.write_all(&frame(BINARY, CONNECT)).await.unwrap();
    assert_eq!(next_frame(&mut socket).await, (BINARY, CONNACK.to_vec()));
}

#[tokio::test]
async fn every_transport_serves_on_both_address_families() {
    let authority = Authority::new("ours");
    for address in ["127.0.0.1", "::1", "::"] {
        let broker = broker(&authority, address);
        if address != "::" {
            connects_everywhere(&broker, &authority).await;
            continue;
        }
        let port = broker.listener("mqtt").port();
        for loopback in ["127.0.0.1", "::1"] {
            let address = (loopback.parse::<std::net::IpAddr>().unwrap(), port).into();
            greet(&mut tcp(address).await).await;
        }
    }
}

/// The client is another implementation of TLS's other side and of WebSocket than the one that serves it.
#[tokio::test(flavor = "multi_thread")]
async fn large_messages_go_both_ways_over_every_transport() {
    let authority = Authority::new("ours");
    let broker = broker(&authority, "127.0.0.1");
    let tls = Tls::new(Trust::Authorities(authority.pem().as_bytes()), None).unwrap();
    let payload: Vec<u8> = (0..900_000_u32).map(|n| (n % 251) as u8).collect();
    for (number, listener) in ["mqtt", "mqtts", "ws", "wss"].into_iter().enumerate() {
        let mut options = broker.options(number, Version::V5);
        options.address = broker.listener(listener).to_string();
        options.tls = ["mqtts", "wss"].contains(&listener).then(|| tls.clone());
        options.websocket = ["ws", "wss"].contains(&listener).then(|| "/mqtt".to_owned());
        let (client, mut incoming, _) = client::connect(&options).await.unwrap();
        let topic = format!("t/{listener}");
        let options = SubscriptionOptions { qos: QoS::ExactlyOnce, ..SubscriptionOptions::default() };
        client.subscribe(&[(&topic, options)]).await.unwrap();
        let send = async {
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce].repeat(5) {
                client.publish(&Message::new(topic.clone(), payload.clone(), qos)).await.unwrap();
            }
        };
        let receive = async {
            for _ in 0..10 {
                let delivery = tokio::time::timeout(DEADLINE, incoming.next()).await.expect("a message in time");
                assert!(delivery.unwrap().unwrap().message.payload == payload, "{listener}");
            }
        };
        tokio::join!(send, receive);
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_on_every_listener_delay_nobody_and_are_gone_in_time() {
    let authority = Authority::new("ours");
    let broker = broker(&authority, "127.0.0.1");
    let started = Instant::now();
    let mut silent: Vec<TcpStream> = Vec::new();
    for (listener, first) in [
        ("mqtt", &b""[..]),
        ("mqtt", b"\x10"),
        ("mqtts", b""),
        ("mqtts", b"\x16\x03\x01"),
        ("ws", b""),
        ("ws", b"GET /mqtt HTTP/1.1\r\n"),
        ("wss", b""),
        ("wss", b"\x16\x03\x01"),
    ] {
        for _ in 0..50 {
            let mut socket = tcp(broker.listener(listener)).await;
            socket.write_all(first).await.unwrap();
            silent.push(socket);
        }
    }
    for _ in 0..10 {
        silent.push(upgraded(tcp(broker.listener("ws")).await).await);
    }
    let asked = Instant::now();
    connects_everywhere(&broker, &authority).await;
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    for socket in &mut silent {
        assert!(!rest(socket).await.starts_with(CONNACK));
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    connects_everywhere(&broker, &authority).await;
}
