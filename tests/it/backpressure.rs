//! What a slow subscriber may cost: nothing to others, nothing acknowledged, and bounded memory.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use mqtt_operator::client::{self, Client, Incoming, Message, Options};
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, Version};

use crate::support::{Broker, await_until, open};

const DEADLINE: Duration = Duration::from_mins(1);

fn at_least_once() -> SubscriptionOptions {
    SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() }
}

async fn join(broker: &Broker, id: &str) -> (Client, Incoming) {
    let (client, incoming, _) = client::connect(&Options::new(broker.address(), id)).await.unwrap();
    (client, incoming)
}

/// Publishes numbered messages, `window` of them unacknowledged at a time.
async fn publish(client: &Client, topic: &str, count: usize, window: usize) {
    let mut under_way = std::collections::VecDeque::new();
    for number in 0..count {
        let message = Message::new(topic, format!("{number:08}"), QoS::AtLeastOnce);
        under_way.push_back(client.send(&message).await.unwrap());
        if under_way.len() == window {
            let oldest = under_way.pop_front().unwrap();
            assert!(!oldest.await.unwrap().is_failure());
        }
    }
    for sent in under_way {
        assert!(!sent.await.unwrap().is_failure());
    }
}

/// Receives until each of `topics` has brought `count` messages, in order and none twice.
async fn receive_all(incoming: &mut Incoming, topics: usize, count: usize) {
    let mut next: HashMap<String, usize> = HashMap::new();
    let mut left = topics * count;
    while left > 0 {
        let delivery = incoming.next().await.unwrap().unwrap();
        let number: usize = std::str::from_utf8(&delivery.message.payload).unwrap().parse().unwrap();
        let expected = next.entry(delivery.message.topic.clone()).or_default();
        assert_eq!(number, *expected, "{} of {}", number, delivery.message.topic);
        *expected += 1;
        left -= 1;
    }
}

/// A subscriber that never reads again after its SUBACK: a plain socket, so that nothing reads for it.
async fn stalled_subscriber(broker: &Broker, filter: &str) -> tokio::net::TcpStream {
    use mqtt_operator::mqtt::codec;
    use mqtt_operator::mqtt::packet::{Connect, Packet, Subscribe};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(broker.address()).await.unwrap();
    let mut out = Vec::new();
    let connect = Connect {
        version: Version::V311,
        clean_start: true,
        keep_alive: 0,
        client_id: "stalled",
        username: None,
        password: None,
        will: None,
        properties: Default::default(),
    };
    codec::encode(&Packet::Connect(Box::new(connect)), Version::V311, &mut out);
    let packet_id = 1.try_into().unwrap();
    let filters = vec![(filter, at_least_once())];
    let subscribe = Subscribe { packet_id, properties: Default::default(), filters };
    codec::encode(&Packet::Subscribe(subscribe), Version::V311, &mut out);
    socket.write_all(&out).await.unwrap();
    let mut answer = [0; 9];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0, 0x90, 3, 0, 1, 1]);
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_subscriber_costs_healthy_ones_nothing() {
    let count = 20_000;
    let broker = Broker::with(open);
    let stalled = stalled_subscriber(&broker, "t/#").await;
    let mut healthy = Vec::new();
    for n in 0..10 {
        let (client, incoming) = join(&broker, &format!("healthy-{n}")).await;
        client.subscribe(&[("t/#", at_least_once())]).await.unwrap();
        healthy.push((client, incoming));
    }
    let (publisher, _incoming) = join(&broker, "publisher").await;
    let receiving = join_all(healthy.iter_mut().map(|(_, incoming)| receive_all(incoming, 1, count)));
    let all = async { tokio::join!(publish(&publisher, "t/a", count, 64), receiving) };
    tokio::time::timeout(DEADLINE, all).await.expect("everyone but the stalled subscriber is served");
    let report = broker.report();
    assert_eq!(report.connections, 12, "nobody was disconnected: {report:?}");
    assert_eq!(report.messages_dropped, 0, "{report:?}");
    drop(stalled);
}

/// A link that carries some 150 kB per second: it always makes some progress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_reads_a_little_at_a_time_holds_nobody() {
    use tokio::io::AsyncReadExt;
    let broker = Broker::with(open);
    let mut slow = stalled_subscriber(&broker, "t/#").await;
    let reading = tokio::spawn(async move {
        let (mut beat, mut few) = (tokio::time::interval(Duration::from_millis(50)), [0; 8192]);
        while slow.read_exact(&mut few).await.is_ok() {
            beat.tick().await;
        }
    });
    let (publisher, _incoming) = join(&broker, "publisher").await;
    let publishing = async {
        // Far more than sockets and the soft limit hold.
        for _ in 0..30_000 {
            publisher.publish(&Message::new("t/a", vec![b'x'; 1000], QoS::AtMostOnce)).await.unwrap();
        }
        publish(&publisher, "t/fence", 1, 1).await;
    };
    tokio::time::timeout(DEADLINE, publishing).await.expect("the publisher is not held");
    assert_eq!(broker.report().connections, 2, "nobody was disconnected");
    reading.abort();
}

/// It reads, so that QoS 0 reaches it, and acknowledges nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_takes_only_qos_0_holds_nobody() {
    let broker = Broker::with(open);
    let mut silent = stalled_subscriber(&broker, "t/#").await;
    let reading = tokio::spawn(async move { tokio::io::copy(&mut silent, &mut tokio::io::sink()).await });
    let (trickle, _incoming) = join(&broker, "trickle").await;
    let trickling = tokio::spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_millis(10));
        while trickle.publish(&Message::new("t/trickle", "x", QoS::AtMostOnce)).await.is_ok() {
            beat.tick().await;
        }
    });
    let (publisher, _incoming) = join(&broker, "publisher").await;
    // More than the soft limit of a queue.
    let publishing = publish(&publisher, "t/a", 10_000, 64);
    tokio::time::timeout(DEADLINE, publishing).await.expect("the publisher is not held");
    assert_eq!(broker.report().connections, 3, "nobody was disconnected");
    trickling.abort();
    reading.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_publish_to_each_other_do_not_block_each_other() {
    let count = 20_000;
    let broker = Broker::with(open);
    let (left, mut to_left) = join(&broker, "left").await;
    let (right, mut to_right) = join(&broker, "right").await;
    left.subscribe(&[("t/left", at_least_once())]).await.unwrap();
    right.subscribe(&[("t/right", at_least_once())]).await.unwrap();
    let all = async {
        tokio::join!(
            publish(&left, "t/right", count, 1000),
            publish(&right, "t/left", count, 1000),
            receive_all(&mut to_left, 1, count),
            receive_all(&mut to_right, 1, count),
        )
    };
    tokio::time::timeout(DEADLINE, all).await.expect("both get through");
    assert_eq!(broker.report().messages_dropped, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_publishers_and_a_hundred_subscribers_lose_nothing() {
    let (clients, count) = (100, 20);
    let broker = Broker::with(open);
    let mut subscribers = Vec::new();
    for n in 0..clients {
        let (client, incoming) = join(&broker, &format!("subscriber-{n}")).await;
        client.subscribe(&[("t/#", at_least_once())]).await.unwrap();
        subscribers.push((client, incoming));
    }
    let publishers = join_all((0..clients).map(async |n| join(&broker, &format!("publisher-{n}")).await)).await;
    let publishing = join_all(publishers.iter().enumerate().map(async |(n, (publisher, _))| {
        publish(publisher, &format!("t/{n}"), count, 16).await;
    }));
    let receiving = join_all(subscribers.iter_mut().map(|(_, incoming)| receive_all(incoming, clients, count)));
    let all = async { tokio::join!(publishing, receiving) };
    tokio::time::timeout(DEADLINE, all).await.expect("all messages arrive everywhere");
    let report = broker.report();
    assert_eq!(report.connections, 2 * clients as u64, "{report:?}");
    assert_eq!(report.messages_dropped, 0, "{report:?}");
    // What a connection has sent is counted at the end of its turn, when the client may have it already.
    await_until(DEADLINE, "all that was sent in the report", async || match broker.report().messages_sent {
        sent if sent == (clients * clients * count) as u64 => Ok(()),
        sent => Err(sent),
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_of_a_client_that_is_away_drops_the_oldest_and_counts_them() {
    let broker = Broker::with(|config| config.limits.max_queued_messages = 10);
    let mut options = broker.options(1, Version::V311);
    options.clean_start = false;
    let (client, _incoming, _) = client::connect(&options).await.unwrap();
    client.subscribe(&[("t/a", at_least_once())]).await.unwrap();
    client.disconnect(mqtt_operator::mqtt::ReasonCode::SUCCESS).await.unwrap();
    await_until(DEADLINE, "the session to be away", async || match broker.report().connections {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
    let (publisher, _incoming) = broker.connect(2, Version::V311).await;
    publish(&publisher, "t/a", 15, 1).await;
    await_until(DEADLINE, "five dropped messages", async || match broker.report().messages_dropped {
        5 => Ok(()),
        n => Err(n),
    })
    .await;
    let (_client, mut incoming, connected) = client::connect(&options).await.unwrap();
    assert!(connected.session_present);
    for number in 5..15 {
        let delivery = incoming.next().await.unwrap().unwrap();
        assert_eq!(delivery.message.payload, format!("{number:08}"));
    }
}
