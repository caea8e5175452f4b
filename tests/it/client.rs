//! The MQTT client against a broker that is not ours, and against bytes.

use std::time::Duration;

use mqtt_operator::client::{Acknowledge, Client, Error, Incoming, Message, Options, Properties, connect};
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::support::Mosquitto;

const DEADLINE: Duration = Duration::from_secs(10);
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn options(mosquitto: &Mosquitto, client_id: &str) -> Options {
    Options::new(format!("127.0.0.1:{}", mosquitto.port()), client_id)
}

fn at(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

async fn message(incoming: &mut Incoming) -> Message {
    let delivery = timeout(DEADLINE, incoming.next()).await.expect("a message within the deadline");
    delivery.expect("a connection that lives").expect("a delivery").message
}

async fn subscribe(client: &Client, filter: &str, qos: QoS) {
    let codes = client.subscribe(&[(filter, at(qos))]).await.unwrap();
    assert_eq!(codes, [ReasonCode(qos as u8)]);
}

#[tokio::test]
async fn every_version_delivers_every_qos_once() {
    let mosquitto = Mosquitto::start(&[]);
    for version in [Version::V31, Version::V311, Version::V5] {
        let options = Options { version, ..options(&mosquitto, &format!("c{}", version.level())) };
        let (client, mut incoming, connected) = connect(&options).await.unwrap();
        assert!(!connected.session_present);
        subscribe(&client, "a/#", QoS::ExactlyOnce).await;
        for qos in QOS {
            let sent = Message::new("a/b", format!("{qos:?}"), qos);
            assert!(!client.publish(&sent).await.unwrap().is_failure());
            assert_eq!(message(&mut incoming).await, sent, "{version:?}");
        }
        client.unsubscribe(&["a/#"]).await.unwrap();
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        assert!(incoming.next().await.is_none());
        assert!(matches!(client.publish(&Message::default()).await, Err(Error::Closed)));
    }
}

#[tokio::test]
async fn properties_travel_both_ways() {
    let mosquitto = Mosquitto::start(&[]);
    let options = Options { version: Version::V5, ..options(&mosquitto, "") };
    let (client, mut incoming, connected) = connect(&options).await.unwrap();
    assert!(connected.assigned_client_id.is_some());
    subscribe(&client, "a", QoS::AtLeastOnce).await;
    let properties = Properties {
        payload_format_utf8: Some(true),
        message_expiry: Some(3600),
        response_topic: Some("answers".into()),
        correlation_data: Some("7".into()),
        content_type: Some("text/plain".into()),
        user: vec![("k".into(), "1".into()), ("k".into(), "2".into())],
        subscription_identifiers: Vec::new(),
    };
    let sent = Message { properties, ..Message::new("a", "text", QoS::AtLeastOnce) };
    client.publish(&sent).await.unwrap();
    assert_eq!(message(&mut incoming).await, sent);
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_and_what_was_does_not() {
    let mosquitto = Mosquitto::start(&[]);
    let options = Options {
        version: Version::V5,
        clean_start: false,
        session_expiry: Some(600),
        acknowledge: Acknowledge::Manual,
        ..options(&mosquitto, "keeper")
    };
    let (client, mut incoming, _) = connect(&options).await.unwrap();
    subscribe(&client, "a", QoS::AtLeastOnce).await;
    for text in ["1", "2", "3"] {
        client.publish(&Message::new("a", text, QoS::AtLeastOnce)).await.unwrap();
    }
    let mut deliveries = Vec::new();
    for _ in 0..3 {
        deliveries.push(timeout(DEADLINE, incoming.next()).await.unwrap().unwrap().unwrap());
    }
    // The third waits for the second: only the first has left when the connection goes.
    client.acknowledge(&deliveries[0]).unwrap();
    client.acknowledge(&deliveries[2]).unwrap();
    client.disconnect(ReasonCode::SUCCESS).await.unwrap();

    let (client, mut incoming, connected) = connect(&options).await.unwrap();
    assert!(connected.session_present);
    let mut again = Vec::new();
    for _ in 0..2 {
        let delivery = timeout(DEADLINE, incoming.next()).await.unwrap().unwrap().unwrap();
        assert!(delivery.dup);
        again.push(delivery.message.payload.clone());
        client.acknowledge(&delivery).unwrap();
    }
    assert_eq!(again, ["2", "3"]);
}

#[tokio::test]
async fn many_publications_wait_for_the_servers_receive_maximum_and_all_arrive_in_order() {
    let mosquitto = Mosquitto::start(&["max_inflight_messages 3", "max_queued_messages 0"]);
    let (client, mut incoming, _) =
        connect(&Options { version: Version::V5, ..options(&mosquitto, "sub") }).await.unwrap();
    subscribe(&client, "a", QoS::ExactlyOnce).await;
    let (publisher, _incoming, connected) =
        connect(&Options { version: Version::V5, ..options(&mosquitto, "pub") }).await.unwrap();
    assert_eq!(connected.receive_maximum, 3);
    let sending = tokio::spawn(async move {
        let mut sent = Vec::new();
        for number in 0..500_u32 {
            sent.push(publisher.send(&Message::new("a", number.to_string(), QoS::ExactlyOnce)).await.unwrap());
        }
        for answer in sent {
            assert!(!answer.await.unwrap().is_failure());
        }
    });
    for number in 0..500_u32 {
        assert_eq!(message(&mut incoming).await.payload, number.to_string());
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn a_publisher_is_not_read_ahead_of_who_reads_the_deliveries() {
    let mosquitto = Mosquitto::start(&["max_queued_messages 0", "max_queued_bytes 0"]);
    let (client, mut incoming, _) = connect(&options(&mosquitto, "sub")).await.unwrap();
    subscribe(&client, "a", QoS::AtLeastOnce).await;
    let (publisher, _other, _) = connect(&options(&mosquitto, "pub")).await.unwrap();
    let count = 400_u32;
    for number in 0..count {
        let mut payload = vec![b'x'; 100_000];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        publisher.publish(&Message::new("a", payload, QoS::AtLeastOnce)).await.unwrap();
    }
    // 40 MB were published and nothing read: what the client holds is a few reads, the rest is the broker's.
    let mut held = 0;
    while let Some(delivery) = incoming.try_next() {
        assert_eq!(delivery.message.payload[..4], u32::to_be_bytes(held));
        held += 1;
    }
    assert!(held < 100, "{held} messages of 100 kB were read ahead");
    for number in held..count {
        assert_eq!(message(&mut incoming).await.payload[..4], number.to_be_bytes());
    }
}

#[tokio::test]
async fn dropping_every_handle_is_a_crash_and_sends_the_will() {
    let mosquitto = Mosquitto::start(&[]);
    let (client, mut incoming, _) = connect(&options(&mosquitto, "heir")).await.unwrap();
    subscribe(&client, "will", QoS::AtLeastOnce).await;
    let will = Some(Message::new("will", "gone", QoS::AtLeastOnce));
    let (mortal, rest, _) = connect(&Options { will: will.clone(), ..options(&mosquitto, "mortal") }).await.unwrap();
    drop((mortal, rest));
    assert_eq!(Some(message(&mut incoming).await), will);
}

#[tokio::test]
async fn the_keep_alive_holds_an_idle_connection() {
    let mosquitto = Mosquitto::start(&[]);
    let (idle, mut received, _) = connect(&Options { keep_alive: 1, ..options(&mosquitto, "idle") }).await.unwrap();
    subscribe(&idle, "a", QoS::AtMostOnce).await;
    // Mosquitto closes after one and a half times the keep alive.
    assert!(timeout(Duration::from_secs(4), received.next()).await.is_err(), "the connection ended");
    idle.publish(&Message::new("a", "still here", QoS::AtLeastOnce)).await.unwrap();
    assert_eq!(message(&mut received).await.payload, "still here");
}

/// A server that reads one CONNECT, says `bytes`, and then holds the connection or closes it.
async fn server(bytes: &'static [u8], close: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        stream.write_all(bytes).await.unwrap();
        if !close {
            while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
        }
    });
    address
}

#[tokio::test]
async fn a_refusal_carries_the_code_and_the_servers_words() {
    let address = server(b"\x20\x09\x00\x87\x06\x1f\x00\x03bad", true).await;
    let error = connect(&Options { version: Version::V5, ..Options::new(address, "c") }).await.unwrap_err();
    assert!(
        matches!(&error, Error::Refused { code: ReasonCode::NOT_AUTHORIZED, reason } if reason == "bad"),
        "{error}"
    );
    let address = server(b"\x20\x02\x00\x05", true).await;
    let error = connect(&Options::new(address, "c")).await.unwrap_err();
    assert!(matches!(error, Error::Refused { code: ReasonCode::NOT_AUTHORIZED, .. }), "{error}");
}

#[tokio::test]
async fn what_came_before_the_servers_disconnect_is_delivered_before_the_error() {
    let connack_publish_disconnect = b"\x20\x03\x00\x00\x00\x30\x05\x00\x01a\x00x\xe0\x01\x8b";
    let address = server(connack_publish_disconnect, false).await;
    let (client, mut incoming, _) =
        connect(&Options { version: Version::V5, ..Options::new(address, "c") }).await.unwrap();
    assert_eq!(message(&mut incoming).await.payload, "x");
    let error = incoming.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Disconnected { code: ReasonCode::SERVER_SHUTTING_DOWN, .. }), "{error}");
    assert!(incoming.next().await.is_none());
    // Who only sends hears the same.
    let error = client.publish(&Message::default()).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { code: ReasonCode::SERVER_SHUTTING_DOWN, .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_answers_no_ping_is_given_up() {
    let address = server(b"\x20\x02\x00\x00", false).await;
    let (_client, mut incoming, _) = connect(&Options { keep_alive: 1, ..Options::new(address, "c") }).await.unwrap();
    let end = timeout(DEADLINE, incoming.next()).await.unwrap();
    assert!(matches!(end, Some(Err(Error::KeepAlive))), "{end:?}");
}

#[tokio::test]
async fn a_packet_above_the_limit_ends_the_connection_before_it_is_read() {
    let address = server(b"\x20\x02\x00\x00\x30\xff\xff\xff\x7f", false).await;
    let options = Options { maximum_packet_size: 1024, ..Options::new(address, "c") };
    let (_client, mut incoming, _) = connect(&options).await.unwrap();
    let end = timeout(DEADLINE, incoming.next()).await.unwrap();
    assert!(matches!(end, Some(Err(Error::Violation(_)))), "{end:?}");
}
