//! Documents that change: taken up without a restart, or, if they cannot be used, not at all.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mqtt_operator::config::broker::BridgeAccess;

use super::*;
use crate::support::{allow, replace};

#[tokio::test]
async fn rules_are_taken_up_without_a_restart() {
    let broker = Broker::with_quick_passwords(|_| {});
    let (client, mut incoming) = broker.connect(0, Version::V5).await;
    let refused = client.subscribe(&[("new/#", at(QoS::AtLeastOnce))]).await.unwrap();
    assert_eq!(refused, [ReasonCode::NOT_AUTHORIZED]);
    let publish_refused = client.publish(&Message::new("new/x", "1", QoS::AtLeastOnce)).await.unwrap();
    assert_eq!(publish_refused, ReasonCode::NOT_AUTHORIZED);
    broker.change(|config| config.auth.users[0].acl.push(allow(Action::All, "new/#"))).await;
    subscribe(&client, &["new/#"]).await;
    publish(&client, "new/x", "2").await;
    assert_eq!(next(&mut incoming).await.payload, "2");
    assert!(!broker.report().restart);
}

/// A broker with a bridge, for which so many bytes may wait, and how that connects.
fn with_bridge(buffer: u64) -> (Broker, Options) {
    let bridge = BridgeAccess { listen: (Ipv4Addr::LOCALHOST, 0).into(), topics: vec!["t/#".into()], buffer };
    let broker =
        Broker::with_files(|config| config.bridge = Some(bridge), |etc| replace(&etc.bridge_password(), "carries"));
    let options = Options {
        version: Version::V5,
        username: Some("system:bridge".into()),
        password: Some(b"carries".to_vec()),
        clean_start: false,
        session_expiry: Some(3600),
        ..Options::new(broker.internal().unwrap().to_string(), "system:bridge")
    };
    (broker, options)
}

#[tokio::test]
async fn the_bridge_is_told_where_a_retained_message_comes_from() {
    let (broker, options) = with_bridge(2 << 20);
    let (publisher, _incoming) = broker.connect(0, Version::V5).await;
    publisher.publish(&Message::new("t/a", "x", QoS::AtLeastOnce).retained()).await.unwrap();
    let (client, mut incoming, _) = client::connect(&options).await.unwrap();
    subscribe(&client, &["t/#"]).await;
    let message = next(&mut incoming).await;
    let names: Vec<_> = message.properties.user.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((message.retain, names), (true, vec!["publish-id", "publish-client", "publish-time"]));
}

#[tokio::test]
async fn more_may_wait_for_the_bridge_without_a_restart() {
    const MESSAGE: usize = 512 * 1024;
    const MESSAGES: usize = 12;
    let (broker, options) = with_bridge(2 << 20);
    let (client, _incoming, _) = client::connect(&options).await.unwrap();
    subscribe(&client, &["t/#"]).await;
    client.disconnect(ReasonCode::SUCCESS).await.unwrap();

    let (publisher, _incoming) = broker.connect(0, Version::V5).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counting = taken.clone();
    let publishing = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            publish(&publisher, "t/a", &"x".repeat(MESSAGE)).await;
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    let so_many = async |wanted: usize| {
        await_until(DEADLINE, "publications", async || match taken.load(Ordering::Relaxed) {
            count if count < wanted => Err(count),
            _ => Ok(()),
        })
        .await;
    };
    // The fourth fills the queue, and waits.
    so_many(3).await;
    for _ in 0..20 {
        broker.get("/api/v1/report").await;
    }
    assert!(taken.load(Ordering::Relaxed) <= 4, "the publisher waits for the bridge");
    broker.change(|config| config.bridge.as_mut().unwrap().buffer = 64 << 20).await;
    assert!(!broker.report().restart);
    so_many(MESSAGES).await;
    publishing.await.unwrap();
}

#[tokio::test]
async fn a_topic_that_was_published_to_before_is_denied_under_new_rules() {
    let broker = Broker::with_quick_passwords(|_| {});
    let (client, _incoming) = broker.connect(0, Version::V5).await;
    publish(&client, "t/a", "1").await;
    broker.change(|config| config.auth.deny.push(deny(Action::Publish, "t/a"))).await;
    await_until(DEADLINE, "a refusal", async || {
        match client.publish(&Message::new("t/a", "2", QoS::AtLeastOnce)).await.unwrap() {
            ReasonCode::NOT_AUTHORIZED => Ok(()),
            code => Err(code),
        }
    })
    .await;
    publish(&client, "t/b", "3").await;
}

#[tokio::test]
async fn a_document_that_cannot_be_used_leaves_the_last_good_one_in_force_and_is_reported() {
    let broker = Broker::with_quick_passwords(|_| {});
    let (client, mut incoming) = broker.connect(0, Version::V311).await;
    subscribe(&client, &["t/a"]).await;
    let good = broker.report().documents;
    let etc = mqtt_operator::config::files::Etc(broker.etc().to_owned());
    let text = std::fs::read_to_string(etc.broker()).unwrap();
    let unknown_group = text.replacen("\"groups\":[]", "\"groups\":[\"nobody\"]", 1);
    let empty = String::new();
    for (path, before, bad, names) in [
        (etc.broker(), text.as_str(), empty.as_str(), "broker.json"),
        (etc.broker(), &text, &text[..text.len() - 9], "broker.json"),
        (etc.broker(), &text, &unknown_group, "there is no group `nobody`"),
        (etc.users(), &std::fs::read_to_string(etc.users()).unwrap(), "", "users.json"),
        (etc.jwks(), &std::fs::read_to_string(etc.jwks()).unwrap(), "", "jwks.json"),
    ] {
        let failures = broker.metric("mqtt_policy_reload_failures_total", "").await;
        replace(&path, bad);
        await_until(DEADLINE, "a problem in the report", async || match broker.report().problem {
            Some(problem) if problem.contains(names) => Ok(()),
            other => Err(other),
        })
        .await;
        assert_eq!(broker.metric("mqtt_policy_reload_failures_total", "").await, failures + 1);
        assert_eq!(broker.report().documents, good, "{names}");
        publish(&client, "t/a", names).await;
        assert_eq!(next(&mut incoming).await.payload, names);
        replace(&path, before);
        await_until(DEADLINE, "no problem in the report", async || match broker.report().problem {
            None => Ok(()),
            other => Err(other),
        })
        .await;
    }
    std::fs::create_dir_all(etc.revocations()).unwrap();
    std::fs::write(etc.revocations().join("sub.u1"), "yesterday").unwrap();
    await_until(DEADLINE, "the name of the bad entry", async || match broker.report().problem {
        Some(problem) if problem.contains("sub.u1") => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(broker.report().documents, good);
}

#[tokio::test]
async fn a_change_outside_of_auth_is_reported_as_one_that_takes_a_restart_and_rules_of_the_same_document_hold() {
    let broker = Broker::with_quick_passwords(|_| {});
    broker
        .change(|config| {
            config.limits.max_inflight = 7;
            config.auth.users[0].acl.push(allow(Action::All, "new/#"));
        })
        .await;
    assert!(broker.report().restart);
    let (client, _incoming) = broker.connect(0, Version::V5).await;
    publish(&client, "new/x", "x").await;
    broker.change(|config| config.limits.max_inflight = 100).await;
    assert!(!broker.report().restart, "it is as it was started again");
}

/// In a pod what is mounted changes by the swap of a link.
#[cfg(unix)]
#[tokio::test]
async fn a_swapped_link_is_seen() {
    use std::os::unix::fs::symlink;
    let broker = Broker::with_files(
        |_| {},
        |etc| {
            let directory = etc.broker().parent().unwrap().to_owned();
            std::fs::create_dir(directory.join("..1")).unwrap();
            std::fs::rename(etc.broker(), directory.join("..1/broker.json")).unwrap();
            symlink("..1", directory.join("..data")).unwrap();
            symlink("..data/broker.json", etc.broker()).unwrap();
        },
    );
    broker
        .edit(|etc| {
            let directory = etc.broker().parent().unwrap().to_owned();
            let text = std::fs::read_to_string(etc.broker()).unwrap().replacen("\"t/#\"", "\"new/#\"", 1);
            std::fs::create_dir(directory.join("..2")).unwrap();
            std::fs::write(directory.join("..2/broker.json"), text).unwrap();
            symlink("..2", directory.join("..new")).unwrap();
            std::fs::rename(directory.join("..new"), directory.join("..data")).unwrap();
        })
        .await;
    let (client, _incoming) = broker.connect(0, Version::V5).await;
    publish(&client, "new/x", "x").await;
}
