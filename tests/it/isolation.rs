//! A mistake in the broker, made by a socket that panics where a socket must not: it costs one client its connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use mqtt_operator::client::{self, Message};
use mqtt_operator::mqtt::codec::encode;
use mqtt_operator::mqtt::packet::{Connect, Packet, SubscriptionOptions, Will};
use mqtt_operator::mqtt::property::{ConnectProperties, WillProperties};
use mqtt_operator::mqtt::{QoS, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use crate::support::{Broker, PASSWORD, await_until, value};

const DEADLINE: Duration = Duration::from_secs(10);

/// Reads CONNECT, and panics once when the connection's task reads on behind CONNACK.
struct Faulty {
    socket: DuplexStream,
    /// Writes and reads since CONNACK was written, which is the first of them.
    uses: usize,
}

impl AsyncRead for Faulty {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.uses += usize::from(self.uses > 0);
        assert!(self.uses != 2, "this panic is part of the test");
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.uses += 1;
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A CONNECT of user `u1` with a will.
fn greeting() -> Vec<u8> {
    let qos = QoS::AtLeastOnce;
    let will = Will { topic: "t/will", payload: b"lost", qos, retain: false, properties: WillProperties::default() };
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 0,
        client_id: "u1",
        username: Some("u1"),
        password: Some(PASSWORD),
        will: Some(will),
        properties: ConnectProperties { session_expiry: Some(60), ..ConnectProperties::default() },
    };
    let mut out = Vec::new();
    encode(&Packet::Connect(Box::new(connect)), Version::V5, &mut out);
    out
}

#[tokio::test]
async fn a_panic_in_one_connection_ends_that_one_and_no_other() {
    let broker = Broker::with_quick_passwords(|_| {});
    let (healthy, mut incoming) = broker.connect(0, Version::V5).await;
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    healthy.subscribe(&[("t/#", options)]).await.unwrap();

    let (mut ours, theirs) = tokio::io::duplex(4096);
    broker.serve(Faulty { socket: theirs, uses: 0 });
    ours.write_all(&greeting()).await.unwrap();
    assert_eq!(ours.read_u8().await.unwrap(), 0x20, "CONNACK");
    ours.write_all(&[0xC0, 0]).await.unwrap();

    // The client is lost as any other is: its will is sent, its session waits for it.
    let will = tokio::time::timeout(DEADLINE, incoming.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((&*will.message.topic, &*will.message.payload), ("t/will", &b"lost"[..]));
    await_until(DEADLINE, "one connection", async || match broker.report().connections {
        1 => Ok(()),
        n => Err(n),
    })
    .await;
    let mut again = broker.options(1, Version::V5);
    again.clean_start = false;
    let (_client, _incoming, connected) = client::connect(&again).await.unwrap();
    assert!(connected.session_present);

    healthy.publish(&Message::new("t/a", "still here", QoS::AtLeastOnce)).await.unwrap();
    let message = tokio::time::timeout(DEADLINE, incoming.next()).await.unwrap().unwrap().unwrap().message;
    assert_eq!(message.payload, "still here");
    assert_eq!(value(&broker.metrics().await, "mqtt_panics_total"), Some(1.0));
}
