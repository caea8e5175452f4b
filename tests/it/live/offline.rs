//! Sessions whose client is away, when it comes back, and what was under way.

use mqtt_operator::client::Acknowledge;

use super::*;
use crate::support::replace;

const READ_ALL: &str = r#"[{"permission":"allow","action":"subscribe","topic":"t/#"}]"#;

/// What a client has missed, up to a message that was published last.
async fn missed(incoming: &mut Incoming) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        match next(incoming).await {
            message if message.payload == "last" => return all,
            message => all.push(String::from_utf8(message.payload.to_vec()).unwrap()),
        }
    }
}

#[tokio::test]
async fn only_what_may_not_be_had_any_more_is_dropped_and_it_is_counted() {
    let broker = Broker::with_quick_passwords(|_| {});
    for version in VERSIONS {
        let options = lasting(broker.options(1, version));
        leave_behind(&broker, &options, &["t/a/+", "t/b/+"]).await;
        let (publisher, _) = broker.connect(2, Version::V5).await;
        for number in 0..6 {
            let topic = ["t/a/x", "t/b/x", "t/b/y"][number % 3];
            publish(&publisher, topic, &format!("{topic} {number}")).await;
        }
        let dropped = broker.report().messages_dropped;
        let rule = || deny(Action::Subscribe, "t/b/x");
        broker.change(|config| config.auth.deny = vec![rule()]).await;
        await_until(DEADLINE, "a session with one subscription", async || {
            match session(&broker, &options.client_id).await.unwrap() {
                it if it["subscriptions"] == 1 && it["queued"] == 4 => Ok(()),
                it => Err(it),
            }
        })
        .await;
        assert_eq!(broker.report().messages_dropped, dropped + 2);
        // `t/b/+` is gone, and with it what is published there from now on.
        publish(&publisher, "t/b/y", "too late").await;
        publish(&publisher, "t/a/x", "last").await;
        let (client, mut incoming, connected) = client::connect(&options).await.unwrap();
        assert_eq!(connected.session_present, version != Version::V31);
        assert_eq!(missed(&mut incoming).await, ["t/a/x 0", "t/b/y 2", "t/a/x 3", "t/b/y 5"], "{version:?}");
        broker.change(|config| config.auth.deny = vec![]).await;
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        let (client, ..) = client::connect(&Options { clean_start: true, ..options }).await.unwrap();
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }
}

/// CVE-2021-34434.
#[tokio::test]
async fn a_session_that_is_resumed_with_a_lesser_token_has_what_that_token_grants() {
    let broker = Broker::with_quick_passwords(|_| {});
    for version in VERSIONS {
        let before = lasting(bearer(&broker, version, &claims("dev1", READ_ALL)));
        leave_behind(&broker, &before, &["t/a", "t/#"]).await;
        let (publisher, _) = broker.connect(2, Version::V5).await;
        publish(&publisher, "t/secret", "queued").await;
        publish(&publisher, "t/a", "open").await;
        let less = claims("dev1", r#"[{"permission":"allow","action":"subscribe","topic":"t/a"}]"#);
        let (client, mut incoming, connected) =
            client::connect(&lasting(bearer(&broker, version, &less))).await.unwrap();
        assert_eq!(connected.session_present, version != Version::V31);
        publish(&publisher, "t/secret", "live").await;
        publish(&publisher, "t/a", "last").await;
        assert_eq!(missed(&mut incoming).await, ["open"], "{version:?}");
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_that_was_not_acknowledged_is_not_sent_again_where_it_is_denied_now() {
    let broker = Broker::with_quick_passwords(|_| {});
    for version in VERSIONS {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let options = Options { acknowledge: Acknowledge::Manual, ..lasting(broker.options(1, version)) };
            let (client, mut incoming, _) = client::connect(&options).await.unwrap();
            client.subscribe(&[("t/a", at(qos)), ("t/b", at(qos))]).await.unwrap();
            let (publisher, _) = broker.connect(2, Version::V5).await;
            for topic in ["t/a", "t/b"] {
                publisher.publish(&Message::new(topic, topic, qos)).await.unwrap();
                assert_eq!(next(&mut incoming).await.topic, topic);
            }
            client.disconnect(ReasonCode::SUCCESS).await.unwrap();
            away(&broker, &options.client_id).await;
            broker.change(|config| config.auth.deny = vec![deny(Action::Subscribe, "t/b")]).await;
            await_until(DEADLINE, "one message in flight", async || {
                match session(&broker, &options.client_id).await.unwrap() {
                    it if it["inFlight"] == 1 => Ok(()),
                    it => Err(it),
                }
            })
            .await;
            let (client, mut incoming, _) = client::connect(&options).await.unwrap();
            assert_eq!(next(&mut incoming).await.payload, "t/a", "again");
            publish(&publisher, "t/a", "new").await;
            assert_eq!(next(&mut incoming).await.payload, "new", "{version:?} {qos:?}");
            broker.change(|config| config.auth.deny = vec![]).await;
            client.disconnect(ReasonCode::SUCCESS).await.unwrap();
            let (client, ..) = client::connect(&Options { clean_start: true, ..options }).await.unwrap();
            client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        }
    }
}

/// The denies of wills, by client.
async fn denied_wills(broker: &Broker) -> Vec<String> {
    let page = broker.get("/api/v1/denies?limit=1000").await;
    let items = page["items"].as_array().unwrap().iter().filter(|item| item["action"] == "will");
    items.map(|item| item["clientId"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_delayed_will_is_sent_by_the_rules_of_its_time() {
    let broker = Broker::with_quick_passwords(|_| {});
    let (observer, mut seen) = broker.connect(2, Version::V5).await;
    subscribe(&observer, &["t/will/#"]).await;
    for n in [3, 4] {
        let mut options = lasting(broker.options(n, Version::V5));
        options.will = Some(Message::new(format!("t/will/u{n}"), "gone", QoS::AtLeastOnce));
        options.will_delay = Some(3);
        let connection = client::connect(&options).await.unwrap();
        drop(connection);
        away(&broker, &options.client_id).await;
    }
    broker.change(|config| config.auth.deny.push(deny(Action::Publish, "t/will/u3"))).await;
    assert_eq!(next(&mut seen).await.topic, "t/will/u4");
    await_until(DEADLINE, "a denied will", async || match denied_wills(&broker).await {
        all if all == ["u3"] => Ok(()),
        all => Err(all),
    })
    .await;
    assert!(seen.try_next().is_none());
}

#[tokio::test]
async fn a_client_that_may_no_longer_have_its_will_is_disconnected_and_the_will_is_not_sent() {
    let broker = Broker::with_quick_passwords(|_| {});
    let (observer, mut seen) = broker.connect(2, Version::V5).await;
    subscribe(&observer, &["t/will/#", "t/mark"]).await;
    let mut connections = Vec::new();
    for version in VERSIONS {
        let mut options = broker.options(3, version);
        options.client_id = format!("{version:?}");
        options.will = Some(Message::new("t/will/x", "gone", QoS::AtLeastOnce));
        connections.push((version, client::connect(&options).await.unwrap()));
    }
    broker.change(|config| config.auth.deny.push(deny(Action::Publish, "t/will/x"))).await;
    for (version, (_client, incoming, _)) in &mut connections {
        not_authorized(*version, incoming).await;
    }
    await_until(DEADLINE, "three denied wills", async || match denied_wills(&broker).await {
        all if all.len() == 3 => Ok(()),
        all => Err(all),
    })
    .await;
    publish(&observer, "t/mark", "mark").await;
    assert_eq!(next(&mut seen).await.topic, "t/mark");
}

#[tokio::test]
async fn a_client_that_loses_a_subscription_has_its_will_sent_if_that_is_allowed() {
    let broker = Broker::with_quick_passwords(|_| {});
    let (observer, mut seen) = broker.connect(2, Version::V5).await;
    subscribe(&observer, &["t/will/#"]).await;
    let mut options = broker.options(3, Version::V311);
    options.will = Some(Message::new("t/will/x", "gone", QoS::AtLeastOnce));
    let (client, mut incoming, _) = client::connect(&options).await.unwrap();
    subscribe(&client, &["t/a"]).await;
    broker.change(|config| config.auth.deny.push(deny(Action::Subscribe, "t/a"))).await;
    not_authorized(Version::V311, &mut incoming).await;
    assert_eq!(next(&mut seen).await.topic, "t/will/x");
}

#[tokio::test]
async fn a_session_outlives_its_token_and_a_key_that_goes_after_it_takes_nothing() {
    let broker = Broker::with_quick_passwords(|_| {});
    broker.edit(|etc| replace(&etc.jwks(), &jwks(vec![signing_key(), other_key()]))).await;
    let short = Claims { exp: unix_seconds() + 3, ..claims("dev1", READ_ALL) };
    let outlived = lasting(bearer_by(&other_key(), &broker, Version::V5, &short));
    let (client, mut incoming, _) = client::connect(&outlived).await.unwrap();
    subscribe(&client, &["t/#"]).await;
    let end = tokio::time::timeout(DEADLINE, incoming.next()).await.unwrap();
    let Some(Err(Error::Disconnected { code, reason })) = end else { panic!("{end:?}") };
    assert_eq!((code, &*reason), (ReasonCode::MAXIMUM_CONNECT_TIME, "token expired"));
    assert_eq!(broker.metric("mqtt_token_expiry_disconnects_total", "").await, 1);
    let long = lasting(bearer_by(&other_key(), &broker, Version::V5, &claims("dev2", READ_ALL)));
    leave_behind(&broker, &long, &["t/#"]).await;

    broker.edit(|etc| replace(&etc.jwks(), &jwks(vec![signing_key()]))).await;
    await_until(DEADLINE, "the end of the session whose token had not expired", async || {
        session(&broker, &long.client_id).await.map_or(Ok(()), Err)
    })
    .await;
    let (publisher, _) = broker.connect(2, Version::V5).await;
    publish(&publisher, "t/x", "waits").await;
    let again = issue(&signing_key(), &claims("dev1", READ_ALL)).into_bytes();
    let (_client, mut incoming, connected) =
        client::connect(&Options { password: Some(again), ..outlived }).await.unwrap();
    assert!(connected.session_present);
    assert_eq!(next(&mut incoming).await.payload, "waits");
}
