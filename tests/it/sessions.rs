//! Sessions, wills, retained and shared messages, seen through a client, in each version to which they apply.

use std::time::Duration;

use mqtt_operator::auth::rule::{Action, Permission, Rule};
use mqtt_operator::auth::settings::Anonymous;
use mqtt_operator::client::{self, Error, Incoming, Message, Options};
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Broker, allow, await_until, open};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const DEADLINE: Duration = Duration::from_secs(10);

fn at(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

async fn next(incoming: &mut Incoming) -> Message {
    let delivery = tokio::time::timeout(DEADLINE, incoming.next()).await.expect("a message in time");
    delivery.expect("an open connection").unwrap().message
}

async fn connections(broker: &Broker, wanted: u64) {
    await_until(DEADLINE, "the right number of connections", async || match broker.report().connections {
        n if n == wanted => Ok(()),
        n => Err(n),
    })
    .await;
}

#[tokio::test]
async fn a_message_arrives_at_the_lower_of_both_levels_of_qos() {
    let broker = Broker::start();
    for version in VERSIONS {
        for published in LEVELS {
            for granted in LEVELS {
                let (client, mut incoming) = broker.connect(0, version).await;
                let codes = client.subscribe(&[("t/+", at(granted))]).await.unwrap();
                assert_eq!(codes, [ReasonCode(granted as u8)]);
                client.publish(&Message::new("t/a", "x", published)).await.unwrap();
                let message = next(&mut incoming).await;
                assert_eq!(message.qos, published.min(granted), "{version:?} {published:?} {granted:?}");
                assert_eq!((&*message.topic, &*message.payload, message.retain), ("t/a", &b"x"[..], false));
                client.disconnect(ReasonCode::SUCCESS).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_persistent_session_gets_what_it_missed_in_order() {
    let broker = Broker::start();
    for version in VERSIONS {
        let mut options = broker.options(1, version);
        options.clean_start = false;
        options.session_expiry = Some(60);
        let (client, _incoming, _) = client::connect(&options).await.unwrap();
        client.subscribe(&[("t/a", at(QoS::ExactlyOnce))]).await.unwrap();
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        connections(&broker, 0).await;

        let (publisher, _) = broker.connect(2, version).await;
        for number in 0..50 {
            let qos = LEVELS[1 + number % 2];
            publisher.publish(&Message::new("t/a", number.to_string(), qos)).await.unwrap();
        }
        let (client, mut incoming, connected) = client::connect(&options).await.unwrap();
        // 3.1 has no way to say it.
        assert_eq!(connected.session_present, version != Version::V31, "{version:?}");
        for number in 0..50 {
            assert_eq!(next(&mut incoming).await.payload, number.to_string(), "{version:?}");
        }
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        publisher.disconnect(ReasonCode::SUCCESS).await.unwrap();
        connections(&broker, 0).await;

        options.clean_start = true;
        let (client, _incoming, connected) = client::connect(&options).await.unwrap();
        assert!(!connected.session_present, "a clean start forgets the session");
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        connections(&broker, 0).await;
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_with_dup() {
    let broker = Broker::start();
    for version in VERSIONS {
        let mut options = broker.options(1, version);
        options.clean_start = false;
        options.session_expiry = Some(60);
        options.acknowledge = client::Acknowledge::Manual;
        let (client, mut incoming, _) = client::connect(&options).await.unwrap();
        client.subscribe(&[("t/a", at(QoS::AtLeastOnce))]).await.unwrap();
        let (publisher, _incoming) = broker.connect(2, version).await;
        publisher.publish(&Message::new("t/a", "once more", QoS::AtLeastOnce)).await.unwrap();
        let first = incoming.next().await.unwrap().unwrap();
        assert!(!first.dup);
        drop((client, incoming));
        connections(&broker, 1).await;
        let (client, mut incoming, _) = client::connect(&options).await.unwrap();
        let again = incoming.next().await.unwrap().unwrap();
        assert!(again.dup, "{version:?}");
        assert_eq!(again.message.payload, "once more");
        client.acknowledge(&again).unwrap();
        client.unsubscribe(&["t/a"]).await.unwrap();
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        publisher.disconnect(ReasonCode::SUCCESS).await.unwrap();
        connections(&broker, 0).await;
    }
}

#[tokio::test]
async fn a_second_connection_takes_the_session_over() {
    let broker = Broker::start();
    for version in VERSIONS {
        let (_first, mut incoming) = broker.connect(3, version).await;
        let (second, _incoming) = broker.connect(3, version).await;
        let end = tokio::time::timeout(DEADLINE, incoming.next()).await.unwrap();
        if version == Version::V5 {
            let text = format!("{end:?}");
            assert!(text.contains("0x8E"), "{text}");
        } else {
            assert!(!matches!(end, Some(Ok(_))), "{end:?}");
        }
        assert!(!second.publish(&Message::new("t/a", "x", QoS::AtLeastOnce)).await.unwrap().is_failure());
        second.disconnect(ReasonCode::SUCCESS).await.unwrap();
        connections(&broker, 0).await;
    }
}

#[tokio::test]
async fn a_will_is_sent_when_the_connection_is_lost_and_not_after_a_goodbye() {
    let broker = Broker::start();
    for version in VERSIONS {
        let (watcher, mut incoming) = broker.connect(1, version).await;
        watcher.subscribe(&[("t/will/#", at(QoS::AtLeastOnce))]).await.unwrap();
        let mut options = broker.options(2, version);
        options.will = Some(Message::new("t/will/polite", "never", QoS::AtLeastOnce));
        let (polite, _incoming, _) = client::connect(&options).await.unwrap();
        polite.disconnect(ReasonCode::SUCCESS).await.unwrap();
        connections(&broker, 1).await;
        options.will = Some(Message::new("t/will/lost", "gone", QoS::AtLeastOnce));
        let lost = client::connect(&options).await.unwrap();
        drop(lost);
        let will = next(&mut incoming).await;
        assert_eq!((&*will.topic, &*will.payload), ("t/will/lost", &b"gone"[..]), "{version:?}");
        watcher.disconnect(ReasonCode::SUCCESS).await.unwrap();
        connections(&broker, 0).await;
    }
}

#[tokio::test]
async fn a_delayed_will_is_not_sent_to_a_client_that_is_back_in_time() {
    let broker = Broker::start();
    let (watcher, mut incoming) = broker.connect(1, Version::V5).await;
    watcher.subscribe(&[("t/#", at(QoS::AtLeastOnce))]).await.unwrap();
    let mut options = broker.options(2, Version::V5);
    options.clean_start = false;
    options.session_expiry = Some(60);
    options.will = Some(Message::new("t/will", "late", QoS::AtLeastOnce));
    options.will_delay = Some(1);
    drop(client::connect(&options).await.unwrap());
    connections(&broker, 1).await;
    options.will = None;
    let back = client::connect(&options).await.unwrap();
    assert!(back.2.session_present);
    drop(back);
    connections(&broker, 1).await;
    options.will = Some(Message::new("t/will", "due", QoS::AtLeastOnce));
    drop(client::connect(&options).await.unwrap());
    assert_eq!(next(&mut incoming).await.payload, "due", "the first will was dropped, the second came after its delay");
}

#[tokio::test]
async fn retained_messages_are_set_replaced_sent_to_new_subscriptions_and_deleted() {
    let broker = Broker::start();
    for version in VERSIONS {
        let (client, mut incoming) = broker.connect(1, version).await;
        for (topic, payload) in [("t/r/a", "old"), ("t/r/a", "new"), ("t/r/b", "b"), ("t/r/c", "c"), ("t/r/c", "")] {
            client.publish(&Message::new(topic, payload, QoS::AtLeastOnce).retained()).await.unwrap();
        }
        client.subscribe(&[("t/r/#", at(QoS::ExactlyOnce))]).await.unwrap();
        let (first, second) = (next(&mut incoming).await, next(&mut incoming).await);
        assert_eq!(
            (&*first.topic, &*first.payload, first.retain, first.qos),
            ("t/r/a", &b"new"[..], true, QoS::AtLeastOnce)
        );
        assert_eq!((&*second.topic, second.retain), ("t/r/b", true));
        // To those who were subscribed already, a retained publication is an ordinary one.
        client.publish(&Message::new("t/r/a", "", QoS::AtLeastOnce).retained()).await.unwrap();
        client.publish(&Message::new("t/r/b", "", QoS::AtLeastOnce).retained()).await.unwrap();
        assert!(!next(&mut incoming).await.retain);
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }
}

#[tokio::test]
async fn a_shared_subscription_gives_each_message_to_one_member() {
    let broker = Broker::start();
    let (one, mut to_one) = broker.connect(1, Version::V311).await;
    let (two, mut to_two) = broker.connect(2, Version::V5).await;
    for client in [&one, &two] {
        client.subscribe(&[("$share/g/t/+", at(QoS::AtLeastOnce))]).await.unwrap();
    }
    let (publisher, _incoming) = broker.connect(3, Version::V5).await;
    for number in 0..100 {
        publisher.publish(&Message::new("t/a", number.to_string(), QoS::AtLeastOnce)).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut shares = [0; 2];
    while seen.len() < 100 {
        let (member, message) = tokio::select! {
            message = next(&mut to_one) => (0, message),
            message = next(&mut to_two) => (1, message),
        };
        shares[member] += 1;
        seen.push(std::str::from_utf8(&message.payload).unwrap().parse::<usize>().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>(), "each message once");
    assert_eq!(shares, [50, 50], "in turn");
}

#[tokio::test]
async fn properties_of_mqtt_5_travel_unaltered_and_3_x_gets_the_payload() {
    let broker = Broker::start();
    let (five, mut to_five) = broker.connect(1, Version::V5).await;
    let (three, mut to_three) = broker.connect(2, Version::V31).await;
    for client in [&five, &three] {
        client.subscribe(&[("t/#", at(QoS::AtLeastOnce))]).await.unwrap();
    }
    let mut message = Message::new("t/a", "x", QoS::AtLeastOnce);
    message.properties.content_type = Some("text/plain".into());
    message.properties.response_topic = Some("t/answers".into());
    message.properties.correlation_data = Some(vec![0, 1, 255].into());
    message.properties.payload_format_utf8 = Some(true);
    message.properties.user = vec![("a".into(), "1".into()), ("a".into(), "2".into()), ("b".into(), String::new())];
    message.properties.message_expiry = Some(100);
    five.publish(&message).await.unwrap();
    let received = next(&mut to_five).await;
    assert_eq!(received.properties, message.properties);
    assert_eq!(next(&mut to_three).await.payload, "x");
}

#[tokio::test]
async fn wrong_credentials_are_refused_with_the_code_of_the_version() {
    let broker = Broker::start();
    for version in VERSIONS {
        for (username, password) in [("u1", "wrong"), ("nobody", "wrong"), ("u1", "")] {
            let mut options = broker.options(1, version);
            options.username = Some(username.into());
            options.password = Some(password.into());
            match client::connect(&options).await {
                Err(Error::Refused { code, .. }) => assert_eq!(code, ReasonCode::BAD_USER_NAME_OR_PASSWORD),
                other => panic!("{version:?} {username}: {other:?}"),
            }
        }
        let mut options = Options::new(broker.address(), "nobody");
        options.version = version;
        assert!(
            matches!(client::connect(&options).await, Err(Error::Refused { .. })),
            "nothing is anonymous by default"
        );
    }
}

#[tokio::test]
async fn rules_decide_publications_subscriptions_and_wills() {
    let broker = Broker::with(|config| {
        let deny = Rule { permission: Permission::Deny, ..allow(Action::All, "t/secret/#") };
        config.auth.deny = vec![deny];
        config.auth.anonymous = Some(Anonymous { acl: vec![allow(Action::Subscribe, "t/#")] });
    });
    let (client, mut incoming) = broker.connect(1, Version::V5).await;
    let codes = client
        .subscribe(&[("t/a", at(QoS::AtLeastOnce)), ("t/#", at(QoS::AtLeastOnce)), ("other", at(QoS::AtLeastOnce))])
        .await
        .unwrap();
    let denied = ReasonCode::NOT_AUTHORIZED;
    assert_eq!(codes, [ReasonCode::GRANTED_QOS_1, denied, denied], "a deny on t/secret/# forbids t/#");
    for (topic, code) in [("t/a", ReasonCode::SUCCESS), ("t/secret/x", denied), ("$SYS/x", denied), ("x", denied)] {
        assert_eq!(client.publish(&Message::new(topic, "x", QoS::AtLeastOnce)).await.unwrap(), code, "{topic}");
        let sent = client.publish(&Message::new(topic, "x", QoS::ExactlyOnce)).await.unwrap();
        assert_eq!(sent.is_failure(), code.is_failure(), "{topic}");
    }
    assert_eq!(next(&mut incoming).await.topic, "t/a");
    for version in VERSIONS {
        let mut options = broker.options(2, version);
        options.will = Some(Message::new("t/secret/will", "x", QoS::AtMostOnce));
        match client::connect(&options).await {
            Err(Error::Refused { code, .. }) => assert_eq!(code, ReasonCode::NOT_AUTHORIZED, "{version:?}"),
            other => panic!("{version:?}: {other:?}"),
        }
    }
    assert_eq!(broker.report().messages_denied, 11, "6 publications, 2 subscriptions, 3 wills");
}

#[tokio::test]
async fn a_3_x_client_that_goes_on_publishing_what_is_denied_is_closed() {
    let broker = Broker::start();
    for version in [Version::V31, Version::V311] {
        let (client, mut incoming) = broker.connect(1, version).await;
        for _ in 0..2 {
            client.publish(&Message::new("elsewhere", "x", QoS::AtLeastOnce)).await.unwrap();
        }
        // Whether the last acknowledgement still arrives is a matter of timing; that the connection ends is not.
        let _ = client.publish(&Message::new("elsewhere", "x", QoS::AtLeastOnce)).await;
        let end = tokio::time::timeout(DEADLINE, incoming.next()).await.expect("the third closes");
        assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    }
}

#[tokio::test]
async fn random_bytes_close_their_own_connection_and_nobody_elses() {
    let broker = Broker::with(open);
    let (client, mut incoming) = broker.connect(1, Version::V5).await;
    client.subscribe(&[("t/a", at(QoS::AtLeastOnce))]).await.unwrap();
    let mut seed = 42_u32;
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..200)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        let mut socket = tokio::net::TcpStream::connect(broker.address()).await.unwrap();
        // The broker may have closed before all was written.
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut answer)).await.expect("closed");
    }
    client.publish(&Message::new("t/a", "still here", QoS::AtLeastOnce)).await.unwrap();
    assert_eq!(next(&mut incoming).await.payload, "still here");
    assert_eq!(broker.report().connections, 1);
}

#[tokio::test]
async fn shutdown_tells_mqtt_5_clients_and_ends_in_time() {
    let broker = Broker::with(open);
    let (_client, mut incoming) = broker.connect(1, Version::V5).await;
    broker.stop().await;
    let end = format!("{:?}", incoming.next().await);
    assert!(end.contains("0x8B"), "{end}");
}

/// What the last connection accepted says nothing of this one. 5.0 [MQTT-3.3.4-9].
#[tokio::test]
async fn a_resumed_session_sends_again_only_what_the_new_connection_accepts() {
    let broker = Broker::start();
    let mut options = broker.options(1, Version::V5);
    options.clean_start = false;
    options.session_expiry = Some(60);
    options.acknowledge = client::Acknowledge::Manual;
    let (client, mut incoming, _) = client::connect(&options).await.unwrap();
    client.subscribe(&[("t/a", at(QoS::AtLeastOnce))]).await.unwrap();
    let (publisher, _incoming) = broker.connect(2, Version::V5).await;
    for n in 0..5 {
        publisher.publish(&Message::new("t/a", n.to_string(), QoS::AtLeastOnce)).await.unwrap();
        next(&mut incoming).await;
    }
    drop((client, incoming));
    connections(&broker, 1).await;

    options.receive_maximum = Some(2);
    let (client, mut incoming, _) = client::connect(&options).await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..5 {
        if n >= 2 {
            // The answer to a SUBSCRIBE comes after everything that was sent before it.
            client.subscribe(&[("t/barrier", at(QoS::AtMostOnce))]).await.unwrap();
            assert!(incoming.try_next().is_none(), "message {n} came before an acknowledgement");
            client.acknowledge(&waiting.remove(0)).unwrap();
        }
        let again = tokio::time::timeout(DEADLINE, incoming.next()).await.expect("in time").unwrap().unwrap();
        assert_eq!((again.dup, &*again.message.payload), (true, n.to_string().as_bytes()));
        waiting.push(again);
    }
}

#[tokio::test]
async fn the_broker_tells_about_itself_to_whom_a_rule_allows_it() {
    let broker = Broker::with(|config| {
        let rules =
            [allow(Action::Subscribe, "$SYS/#"), allow(Action::Subscribe, "#"), allow(Action::Publish, "$SYS/#")];
        config.auth.users[0].acl.extend(rules);
    });
    for version in VERSIONS {
        let (client, mut incoming) = broker.connect(0, version).await;
        client.subscribe(&[("#", at(QoS::AtLeastOnce))]).await.unwrap();
        assert!(incoming.try_next().is_none(), "`#` has nothing to do with `$SYS`");
        client.subscribe(&[("$SYS/broker/clients/connected", at(QoS::AtLeastOnce))]).await.unwrap();
        let message = next(&mut incoming).await;
        assert_eq!(
            (&*message.topic, &*message.payload, message.retain),
            ("$SYS/broker/clients/connected", &b"1"[..], true)
        );
        let (second, _incoming) = broker.connect(1, version).await;
        client.subscribe(&[("$SYS/+/version", at(QoS::AtLeastOnce))]).await.unwrap();
        let mut both = [next(&mut incoming).await, next(&mut incoming).await].map(|m| (m.topic.clone(), m.payload));
        both.sort();
        assert_eq!((&*both[0].0, &*both[0].1), ("$SYS/broker/clients/connected", &b"2"[..]), "a change is published");
        assert!(both[1].1.starts_with(b"mqtt-operator "), "{both:?}");

        let denied = second.subscribe(&[("$SYS/#", at(QoS::AtMostOnce))]).await.unwrap();
        assert!(denied[0].is_failure() || version == Version::V31, "{denied:?}");
        client.publish(&Message::new("$SYS/broker/version", "mine", QoS::AtMostOnce)).await.unwrap();
        client.subscribe(&[("$SYS/broker/version", at(QoS::AtMostOnce))]).await.unwrap();
        assert!(next(&mut incoming).await.payload.starts_with(b"mqtt-operator "), "no rule lets a client set it");
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        second.disconnect(ReasonCode::SUCCESS).await.unwrap();
        connections(&broker, 0).await;
    }
}
