//! Clients that lose nothing notice nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use mqtt_operator::config::broker::Broker as Config;
use mqtt_operator::config::files::Etc;
use reqwest::Method;

use super::*;
use crate::support::{allow, replace};

const RELOADS: usize = 50;

/// Changes something else for all, of which nothing has an effect on what they do, and has it put into force.
async fn change_elsewhere(broker: &Broker, reload: usize) {
    let path = Etc(broker.etc().to_owned()).broker();
    let mut config: Config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config.auth.deny = vec![deny(Action::All, &format!("elsewhere/{reload}/#"))];
    for user in &mut config.auth.users {
        user.acl.push(allow(Action::All, &format!("more/{reload}")));
    }
    replace(&path, &serde_json::to_string(&config).unwrap());
    let (status, answer) = broker.ask(Method::POST, "/api/v1/reload").await;
    assert_eq!(status, 200, "{answer}");
}

/// What was published before the last message, but for what others said of themselves.
async fn until_the_last(incoming: &mut Incoming) -> Vec<String> {
    let mut got = Vec::new();
    loop {
        match next(incoming).await.payload {
            payload if payload == "last" => return got,
            payload if payload == "alive" => {}
            payload => got.push(String::from_utf8(payload.to_vec()).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_nothing_loses_no_message_while_the_policy_changes_again_and_again() {
    let broker = Broker::with_quick_passwords(|_| {});
    let mut readers = Vec::new();
    for version in VERSIONS {
        let options = Options { client_id: format!("reader-{version:?}"), ..broker.options(1, version) };
        let (client, incoming, _) = client::connect(&options).await.unwrap();
        subscribe(&client, &["t/+"]).await;
        readers.push((version, client, incoming));
    }
    let waiting = lasting(broker.options(3, Version::V5));
    leave_behind(&broker, &waiting, &["t/+"]).await;
    let stop = AtomicBool::new(false);
    let mut options = broker.options(2, Version::V5);
    options.will = Some(Message::new("t/will", "gone", QoS::AtLeastOnce));
    let (publisher, _seen, _) = client::connect(&options).await.unwrap();

    let publishing = async {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) || number < RELOADS {
            publish(&publisher, ["t/a", "t/b"][number % 2], &number.to_string()).await;
            number += 1;
        }
        publish(&publisher, "t/a", "last").await;
        number
    };
    let reloading = async {
        for reload in 0..RELOADS {
            change_elsewhere(&broker, reload).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let reading = async {
        let mut all = Vec::new();
        for (version, client, incoming) in &mut readers {
            all.push((*version, until_the_last(incoming).await));
            assert!(client.publish(&Message::new("t/c", "alive", QoS::AtLeastOnce)).await.is_ok());
        }
        all
    };
    let (published, (), read) = tokio::join!(publishing, reloading, reading);
    let expected: Vec<String> = (0..published).map(|number| number.to_string()).collect();
    for (version, got) in read {
        assert_eq!(got, expected, "{version:?}");
    }
    let (_client, mut incoming, connected) = client::connect(&waiting).await.unwrap();
    assert!(connected.session_present);
    assert_eq!(until_the_last(&mut incoming).await, expected, "what waited");
    assert_eq!(broker.metric("mqtt_sessions_revoked_total", "").await, 0);
    assert!(broker.metric("mqtt_policy_reloads_total", "").await >= RELOADS as u64);
}
