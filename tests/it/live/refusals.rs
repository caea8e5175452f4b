//! What a client is told that may not do what it asks for, in each version.

use mqtt_operator::auth::rule::Share;

use super::*;
use crate::support::allow;

async fn end(incoming: &mut Incoming) -> Option<Result<client::Delivery, Error>> {
    tokio::time::timeout(DEADLINE, incoming.next()).await.expect("an end in time")
}

async fn retained(broker: &Broker) -> u64 {
    broker.get("/api/v1/retained").await["items"].as_array().unwrap().len() as u64
}

#[tokio::test]
async fn a_publication_that_may_not_be_retained_is_not_published_either() {
    let broker = Broker::with_quick_passwords(|config| {
        let plain = Rule { retain: Some(false), ..allow(Action::Publish, "t/#") };
        config.auth.users[1].acl = vec![plain, allow(Action::Subscribe, "t/#")];
    });
    for version in VERSIONS {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let (client, mut incoming) = broker.connect(1, version).await;
            subscribe(&client, &["t/a"]).await;
            let code = client.publish(&Message::new("t/a", "1", qos).retained()).await.unwrap();
            let told = if version == Version::V5 { ReasonCode::NOT_AUTHORIZED } else { ReasonCode::SUCCESS };
            assert_eq!(code, told, "{version:?} {qos:?}");
            // The connection stays, and of QoS 2 the packet identifier is free.
            for payload in ["2", "3"] {
                assert!(!client.publish(&Message::new("t/a", payload, qos)).await.unwrap().is_failure());
                assert_eq!(next(&mut incoming).await.payload, payload);
            }
            client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        }
    }
    assert_eq!(retained(&broker).await, 0);
}

#[tokio::test]
async fn where_nothing_is_retained_clients_are_told_and_nothing_is_half_done() {
    let broker = Broker::with_quick_passwords(|config| config.limits.max_retained_messages = 0);
    for version in VERSIONS {
        let (client, mut incoming, connected) = client::connect(&broker.options(1, version)).await.unwrap();
        assert_eq!(connected.retain_available, version != Version::V5);
        subscribe(&client, &["t/a"]).await;
        if version != Version::V5 {
            // Our client obeys what CONNACK says.
            let code = client.publish(&Message::new("t/a", "1", QoS::AtLeastOnce).retained()).await.unwrap();
            assert_eq!(code, ReasonCode::SUCCESS, "3.x has no other answer");
        }
        publish(&client, "t/a", "2").await;
        assert_eq!(next(&mut incoming).await.payload, "2", "{version:?}");
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        let will = Some(Message::new("t/a", "gone", QoS::AtLeastOnce).retained());
        match client::connect(&Options { will, ..broker.options(1, version) }).await {
            Err(Error::Refused { code, .. }) if version == Version::V5 => {
                assert_eq!(code, ReasonCode::RETAIN_NOT_SUPPORTED);
            }
            Err(Error::Refused { code, .. }) => assert_eq!(code, ReasonCode::NOT_AUTHORIZED, "{version:?}"),
            other => panic!("{version:?}: {other:?}"),
        }
    }
    assert_eq!(retained(&broker).await, 0);
}

#[tokio::test]
async fn denied_publications_at_qos_0_cost_the_budget_and_then_the_connection() {
    let broker = Broker::with_quick_passwords(|_| {});
    for version in VERSIONS {
        let (client, mut incoming) = broker.connect(1, version).await;
        subscribe(&client, &["t/a"]).await;
        for _ in 0..2 {
            client.publish(&Message::new("elsewhere", "x", QoS::AtMostOnce)).await.unwrap();
        }
        publish(&client, "t/a", "still here").await;
        assert_eq!(next(&mut incoming).await.payload, "still here");
        client.publish(&Message::new("elsewhere", "x", QoS::AtMostOnce)).await.unwrap();
        match (version, end(&mut incoming).await) {
            (Version::V5, Some(Err(Error::Disconnected { code, .. }))) => assert_eq!(code, ReasonCode::NOT_AUTHORIZED),
            (Version::V31 | Version::V311, Some(Err(Error::ClosedByServer)) | None) => {}
            (_, end) => panic!("{version:?}: {end:?}"),
        }
    }
}

#[tokio::test]
async fn a_member_of_a_group_needs_the_right_to_the_group_where_a_rule_names_groups() {
    let broker = Broker::with_quick_passwords(|config| {
        let member = Rule { share: Some(Share::Groups(vec!["g".into()])), ..allow(Action::Subscribe, "t/#") };
        config.auth.users[1].acl = vec![member];
    });
    for version in VERSIONS {
        let (client, _incoming) = broker.connect(1, version).await;
        let filters =
            ["$share/g/t/a", "$share/h/t/a", "t/a", "$share/g/#"].map(|filter| (filter, at(QoS::AtLeastOnce)));
        let codes = client.subscribe(&filters).await.unwrap();
        let refused = if version == Version::V5 { ReasonCode::NOT_AUTHORIZED } else { ReasonCode(0x80) };
        assert_eq!(codes, [ReasonCode(1), refused, refused, refused], "{version:?}");
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_ends_with_its_token_has_its_will_published() {
    let broker = Broker::with_quick_passwords(|_| {});
    let (observer, mut seen) = broker.connect(2, Version::V5).await;
    subscribe(&observer, &["t/will/+"]).await;
    let acl = r#"[{"permission":"allow","action":"all","topic":"t/#"}]"#;
    let mut connections = Vec::new();
    for version in VERSIONS {
        let short = Claims { exp: unix_seconds() + 3, ..claims("dev1", acl) };
        let mut options = bearer(&broker, version, &short);
        options.will = Some(Message::new(format!("t/will/{version:?}"), "expired", QoS::AtLeastOnce));
        connections.push((version, client::connect(&options).await.unwrap()));
    }
    for (version, (_client, incoming, _)) in &mut connections {
        match (*version, end(incoming).await) {
            (Version::V5, Some(Err(Error::Disconnected { code, reason }))) => {
                assert_eq!((code, &*reason), (ReasonCode::MAXIMUM_CONNECT_TIME, "token expired"));
            }
            (Version::V31 | Version::V311, Some(Err(Error::ClosedByServer)) | None) => {}
            (_, end) => panic!("{version:?}: {end:?}"),
        }
    }
    let mut wills = Vec::new();
    for _ in VERSIONS {
        wills.push(next(&mut seen).await.topic);
    }
    wills.sort();
    assert_eq!(wills, ["t/will/V31", "t/will/V311", "t/will/V5"]);
}
