//! The session that waits for the bridge, before the bridge has ever come.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mqtt_operator::client::{self, Client, Connected, Incoming, Message, Options};
use mqtt_operator::config::bridge::{CLIENT_ID, SESSION_EXPIRY, SUBSCRIPTION, USER};
use mqtt_operator::config::broker::{BridgeAccess, Broker as Config, DEFAULT_BUFFER, Durability};
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Broker, await_until, open, replace};

const DEADLINE: Duration = Duration::from_secs(20);
const QUEUED: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];

fn access(topics: &[&str]) -> BridgeAccess {
    BridgeAccess {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        topics: topics.iter().map(|&topic| topic.into()).collect(),
        buffer: DEFAULT_BUFFER,
    }
}

/// A broker that lets everybody publish below `t/`, and has the bridge's password.
fn broker(change: impl FnOnce(&mut Config)) -> Broker {
    Broker::with_files(
        |config| {
            open(config);
            change(config);
        },
        |etc| replace(&etc.bridge_password(), "carries"),
    )
}

/// One whose bridge may subscribe to these topics.
fn expecting(topics: &[&str]) -> Broker {
    broker(|config| config.bridge = Some(access(topics)))
}

async fn device(broker: &Broker) -> (Client, Incoming) {
    let options = Options { version: Version::V5, ..Options::new(broker.address(), "device") };
    let (client, incoming, _) = client::connect(&options).await.unwrap();
    (client, incoming)
}

/// Publishes from a client that goes again; the answers of the broker.
async fn publish(broker: &Broker, messages: &[Message]) -> Vec<ReasonCode> {
    let (device, _incoming) = device(broker).await;
    let mut codes = Vec::new();
    for message in messages {
        codes.push(device.publish(message).await.unwrap());
    }
    device.disconnect(ReasonCode::SUCCESS).await.unwrap();
    codes
}

async fn bridge(broker: &Broker) -> (Client, Incoming, Connected) {
    let options = Options {
        version: Version::V5,
        username: Some(USER.into()),
        password: Some(b"carries".to_vec()),
        clean_start: false,
        session_expiry: Some(SESSION_EXPIRY),
        receive_maximum: Some(100),
        ..Options::new(broker.internal().unwrap().to_string(), CLIENT_ID)
    };
    client::connect(&options).await.unwrap()
}

async fn subscribe(bridge: &Client, topics: &[&str]) {
    let filters: Vec<_> = topics.iter().map(|&topic| (topic, SUBSCRIPTION)).collect();
    let codes = bridge.subscribe(&filters).await.unwrap();
    assert!(codes.iter().all(|code| !code.is_failure()), "{codes:?}");
}

async fn next(incoming: &mut Incoming) -> Message {
    let delivery = tokio::time::timeout(DEADLINE, incoming.next()).await.expect("a message in time");
    delivery.expect("an open connection").unwrap().message
}

/// What the bridge is sent when it comes and subscribes, up to a message of QoS 1 that is published then.
async fn delivered(broker: &Broker, topics: &[&str], last: &str) -> Vec<Message> {
    let (bridge, mut incoming, connected) = bridge(broker).await;
    assert!(connected.session_present);
    subscribe(&bridge, topics).await;
    publish(broker, &[Message::new(last, "last", QoS::AtLeastOnce)]).await;
    let mut messages = Vec::new();
    loop {
        match next(&mut incoming).await {
            message if message.topic == last => break,
            message => messages.push(message),
        }
    }
    bridge.disconnect(ReasonCode::SUCCESS).await.unwrap();
    await_until(DEADLINE, "a bridge that is away", async || match session(broker).await {
        Some(session) if session["online"] == false => Ok(()),
        other => Err(other),
    })
    .await;
    messages
}

fn words(messages: &[Message]) -> Vec<(&str, &[u8])> {
    messages.iter().map(|message| (message.topic.as_str(), &*message.payload)).collect()
}

/// The bridge's session, as the admin port tells of it; nothing if there is none.
async fn session(broker: &Broker) -> Option<Value> {
    let page = broker.get(&format!("/api/v1/sessions?client={CLIENT_ID}")).await;
    page["items"].as_array().unwrap().first().cloned()
}

async fn subscriptions(broker: &Broker) -> Vec<String> {
    let page = broker.get(&format!("/api/v1/subscriptions?client={CLIENT_ID}")).await;
    page["items"].as_array().unwrap().iter().map(|item| item["filter"].as_str().unwrap().to_owned()).collect()
}

/// How a broker comes to be started again before the bridge comes.
#[derive(Clone, Copy, Debug)]
enum Between {
    Nothing,
    Stopped,
    Lost,
}

async fn between(broker: Broker, what: Between) -> Broker {
    match what {
        Between::Nothing => broker,
        Between::Stopped => broker.stopped_and_started().await,
        Between::Lost => broker.lost_and_started().await,
    }
}

#[tokio::test]
async fn what_is_acknowledged_before_the_bridge_ever_came_is_delivered_to_it() {
    for (durability, what) in [
        (Durability::Fsync, Between::Nothing),
        (Durability::Memory, Between::Nothing),
        (Durability::Fsync, Between::Stopped),
        (Durability::Fsync, Between::Lost),
    ] {
        let broker = broker(|config| {
            config.bridge = Some(access(&["t/#"]));
            config.storage.as_mut().unwrap().durability = durability;
        });
        for (n, qos) in QUEUED.into_iter().enumerate() {
            let codes = publish(&broker, &[Message::new("t/a", n.to_string(), qos)]).await;
            assert_eq!(codes, [ReasonCode::SUCCESS], "somebody is there to have it");
        }
        let broker = between(broker, what).await;
        let found = session(&broker).await.expect("a session");
        let shown = ["online", "principal", "subscriptions", "queued", "sessionExpiry"].map(|key| &found[key]);
        assert_eq!(shown, [&json!(false), &json!(USER), &json!(1), &json!(2), &json!(SESSION_EXPIRY)]);
        assert_eq!(broker.metric("mqtt_sessions", "state=\"away\"").await, 1);

        let messages = delivered(&broker, &["t/#"], "t/last").await;
        assert_eq!(words(&messages), [("t/a", &b"0"[..]), ("t/a", b"1")], "{durability:?} {what:?}");
        let mut ids = Vec::new();
        for message in messages {
            assert_eq!((message.qos, message.retain), (QoS::AtLeastOnce, false));
            let user = message.properties.user;
            let names: Vec<_> = user.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["publish-id", "publish-client", "publish-time"]);
            assert_eq!(user[1].1, "device");
            assert!(user[2].1.parse::<u64>().unwrap() > 0);
            ids.push(user[0].1.clone());
        }
        ids.dedup();
        assert_eq!(ids.len(), 2);
    }
}

/// Retained before there was a bridge, and retained before it came, at QoS 0 as well: each of them once, whatever filters
/// it matches.
#[tokio::test]
async fn what_is_retained_comes_to_a_bridge_that_was_expected_once() {
    for what in [Between::Nothing, Between::Stopped] {
        let topics = ["t/a/#", "t/+/early"];
        let retained = |topic, qos| Message::new(topic, "x", qos).retained();
        let broker = broker(|_| {});
        publish(&broker, &[retained("t/a/early", QoS::AtLeastOnce), retained("t/b/early", QoS::ExactlyOnce)]).await;
        publish(&broker, &[retained("t/c/early", QoS::AtMostOnce), retained("t/else", QoS::AtLeastOnce)]).await;
        let broker = broker.stopped_and_started_with(|config| config.bridge = Some(access(&topics))).await;
        publish(&broker, &[retained("t/a/late", QoS::AtLeastOnce), retained("t/a/zero", QoS::AtMostOnce)]).await;
        let broker = between(broker, what).await;

        let messages = delivered(&broker, &topics, "t/a/last").await;
        let mut found = words(&messages);
        found.sort_unstable();
        let wanted = ["t/a/early", "t/a/late", "t/a/zero", "t/b/early", "t/c/early"];
        assert_eq!(found, wanted.map(|topic| (topic, &b"x"[..])), "{what:?}");
        assert!(messages.iter().all(|message| message.retain));
        let broker = broker.stopped_and_started().await;
        assert!(delivered(&broker, &topics, "t/a/last").await.is_empty(), "it has them");
    }
}

#[tokio::test]
async fn topics_that_change_over_a_restart_are_those_of_the_session_and_what_waits_is_delivered() {
    for came in [false, true] {
        let broker = expecting(&["t/a/#", "t/b/#"]);
        if came {
            delivered(&broker, &["t/a/#", "t/b/#"], "t/a/last").await;
        }
        let message = |topic| Message::new(topic, "x", QoS::AtLeastOnce);
        let early = [message("t/a/1").retained(), message("t/b/1").retained(), message("t/c/1").retained()];
        let codes = publish(&broker, &early).await;
        assert_eq!(codes, [ReasonCode::SUCCESS, ReasonCode::SUCCESS, ReasonCode::NO_MATCHING_SUBSCRIBERS]);

        let broker = broker.stopped_and_started_with(|config| config.bridge = Some(access(&["t/b/#", "t/c/#"]))).await;
        assert_eq!(subscriptions(&broker).await, ["t/b/#", "t/c/#"], "came: {came}");
        let codes = publish(&broker, &[message("t/a/2"), message("t/b/2"), message("t/c/2")]).await;
        assert_eq!(codes, [ReasonCode::NO_MATCHING_SUBSCRIBERS, ReasonCode::SUCCESS, ReasonCode::SUCCESS]);
        let messages = delivered(&broker, &["t/b/#", "t/c/#"], "t/c/last").await;
        let topics: Vec<_> = messages.iter().map(|message| message.topic.as_str()).collect();
        assert_eq!(topics, ["t/a/1", "t/b/1", "t/c/1", "t/b/2", "t/c/2"], "came: {came}");
        assert_eq!(broker.metric("mqtt_messages_dropped_total", "").await, 0);
    }
}

/// Nobody would take what waits for it, and publishers would wait with it.
#[tokio::test]
async fn the_session_of_a_bridge_that_there_is_no_more_ends_with_a_restart_and_its_messages_count_as_lost() {
    for came in [false, true] {
        let broker = expecting(&["t/#"]);
        if came {
            delivered(&broker, &["t/#"], "t/last").await;
        }
        let messages: Vec<_> = (0..3).map(|n| Message::new("t/a", n.to_string(), QoS::AtLeastOnce)).collect();
        publish(&broker, &messages).await;
        let broker = broker.stopped_and_started_with(|config| config.bridge = None).await;
        // At once: nobody waits for what happens in the background.
        assert_eq!((broker.report().sessions, session(&broker).await), (0, None));
        assert_eq!(broker.metric("mqtt_messages_dropped_total", "cause=\"revoked\"").await, 3);
        assert_eq!(broker.metric("mqtt_subscriptions", "").await, 0);
        assert_eq!(publish(&broker, &messages[..1]).await, [ReasonCode::NO_MATCHING_SUBSCRIBERS]);

        let broker = broker.stopped_and_started_with(|config| config.bridge = Some(access(&["t/#"]))).await;
        assert_eq!(broker.metric("mqtt_messages_dropped_total", "").await, 0, "it is gone for good");
        assert!(delivered(&broker, &["t/#"], "t/last").await.is_empty());
    }
}

#[tokio::test]
async fn a_broker_without_telemetry_makes_no_session() {
    let broker = broker(|_| {});
    assert_eq!((broker.report().sessions, session(&broker).await), (0, None));
}

#[tokio::test]
async fn publishers_wait_for_a_bridge_that_has_never_come_when_its_buffer_is_full() {
    const MESSAGE: usize = 512 * 1024;
    const MESSAGES: usize = 12;
    let broker = broker(|config| config.bridge = Some(BridgeAccess { buffer: 2 << 20, ..access(&["t/#"]) }));
    let (publisher, _incoming) = device(&broker).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counting = taken.clone();
    let publishing = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            let message = Message::new("t/a", "x".repeat(MESSAGE), QoS::AtLeastOnce);
            assert_eq!(publisher.publish(&message).await.unwrap(), ReasonCode::SUCCESS);
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    // The fourth fills the queue, and waits.
    await_until(DEADLINE, "publications", async || match taken.load(Ordering::Relaxed) {
        count if count < 3 => Err(count),
        _ => Ok(()),
    })
    .await;
    for _ in 0..20 {
        broker.get("/api/v1/report").await;
    }
    assert!(taken.load(Ordering::Relaxed) <= 4, "the publisher waits for the bridge");
    let (_bridge, mut incoming, _) = bridge(&broker).await;
    for _ in 0..MESSAGES {
        assert_eq!(next(&mut incoming).await.payload.len(), MESSAGE);
    }
    publishing.await.unwrap();
}

/// Who ends the session wants rid of what waits, not of telemetry.
#[tokio::test]
async fn a_session_of_the_bridge_that_is_ended_is_there_again() {
    let broker = expecting(&["t/#"]);
    let message = Message::new("t/a", "x", QoS::AtLeastOnce);
    publish(&broker, std::slice::from_ref(&message)).await;
    let forget = format!("/api/v1/sessions/{CLIENT_ID}/kick?forget=true");
    assert_eq!(broker.ask(Method::POST, &forget).await.0, 200);
    assert_eq!(session(&broker).await.expect("a session")["queued"], 0);
    assert_eq!(publish(&broker, std::slice::from_ref(&message)).await, [ReasonCode::SUCCESS]);

    let (bridge, mut incoming, _) = bridge(&broker).await;
    subscribe(&bridge, &["t/#"]).await;
    next(&mut incoming).await;
    assert_eq!(broker.ask(Method::POST, &forget).await.0, 200);
    assert_eq!(session(&broker).await.expect("a session")["online"], false);
    assert_eq!(publish(&broker, std::slice::from_ref(&message)).await, [ReasonCode::SUCCESS]);
    let broker = broker.lost_and_started().await;
    assert_eq!(delivered(&broker, &["t/#"], "t/last").await.len(), 1);
}

/// It is made where no other session may begin, and of whom has its client id.
#[tokio::test]
async fn neither_a_limit_nor_a_device_of_its_name_keeps_the_bridge_from_its_session() {
    let broker = broker(|config| config.limits.max_sessions = 2);
    for (n, client_id) in [(0, CLIENT_ID), (1, "u1")] {
        let options = Options {
            client_id: client_id.into(),
            clean_start: false,
            session_expiry: Some(600),
            ..broker.options(n, Version::V5)
        };
        let (client, _incoming, _) = client::connect(&options).await.unwrap();
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }
    let broker = broker
        .stopped_and_started_with(|config| {
            config.limits.max_sessions = 1;
            config.bridge = Some(access(&["t/#"]));
        })
        .await;
    assert_eq!(broker.report().sessions, 2);
    assert_eq!(session(&broker).await.expect("a session")["principal"], USER);
    // It comes when it likes to, and stays away for as long.
    let (_bridge, _incoming, connected) = bridge(&broker).await;
    assert_eq!((connected.session_present, connected.session_expiry), (true, None), "as long as it has asked for");

    let refused = Options { client_id: CLIENT_ID.into(), ..broker.options(0, Version::V5) };
    client::connect(&refused).await.expect_err("the name is the bridge's");
}
