//! What happens to clients, connected and away, when rules, users, keys or revocations change under them.

mod causes;
mod documents;
mod offline;
mod order;
mod refusals;
mod traffic;

use std::time::Duration;

use mqtt_operator::auth::key::{Algorithm, PrivateKey, PrivateKeys, generate};
use mqtt_operator::auth::rule::{Action, Permission, Rule};
use mqtt_operator::auth::token::{Claims, issue};
use mqtt_operator::client::{self, Client, Error, Incoming, Message, Options};
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};
use serde_json::Value;

use crate::support::{Broker, await_until, signing_key, unix_seconds};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const DEADLINE: Duration = Duration::from_secs(10);

fn at(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

fn deny(action: Action, topic: &str) -> Rule {
    Rule { permission: Permission::Deny, action, topic: topic.into(), qos: None, retain: None, share: None }
}

/// For `sub`, for ten minutes.
fn claims(sub: &str, acl: &str) -> Claims {
    Claims {
        iss: "mqttbroker/test/broker".into(),
        aud: "mqtt://test/broker".into(),
        sub: sub.into(),
        iat: unix_seconds(),
        exp: unix_seconds() + 600,
        acl: serde_json::from_str(acl).unwrap(),
        ..Claims::default()
    }
}

/// To connect with a token.
fn bearer(broker: &Broker, version: Version, claims: &Claims) -> Options {
    bearer_by(&signing_key(), broker, version, claims)
}

/// A key that a broker loads only if it is told to.
fn other_key() -> PrivateKey {
    generate(Algorithm::EdDsa, &[8; 48]).unwrap()
}

/// What a broker loads to know these keys.
fn jwks(keys: Vec<PrivateKey>) -> String {
    PrivateKeys { keys }.public()
}

fn bearer_by(key: &PrivateKey, broker: &Broker, version: Version, claims: &Claims) -> Options {
    let mut options = Options::new(broker.address(), format!("{}-{version:?}", claims.sub));
    options.version = version;
    options.username = Some(claims.sub.clone());
    options.password = Some(issue(key, claims).into_bytes());
    options
}

/// The same for a session that outlives the connection.
fn lasting(options: Options) -> Options {
    Options { clean_start: false, session_expiry: Some(600), ..options }
}

/// Connects, subscribes at QoS 1, and goes away.
async fn leave_behind(broker: &Broker, options: &Options, filters: &[&str]) {
    let (client, _incoming, _) = client::connect(options).await.unwrap();
    subscribe(&client, filters).await;
    client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    away(broker, &options.client_id).await;
}

async fn subscribe(client: &Client, filters: &[&str]) {
    let filters: Vec<_> = filters.iter().map(|filter| (*filter, at(QoS::AtLeastOnce))).collect();
    let codes = client.subscribe(&filters).await.unwrap();
    assert!(codes.iter().all(|code| !code.is_failure()), "{codes:?}");
}

/// A session, as the admin port tells of it; nothing if there is none.
async fn session(broker: &Broker, client_id: &str) -> Option<Value> {
    let page = broker.get(&format!("/api/v1/sessions?client={client_id}")).await;
    page["items"].as_array().unwrap().first().cloned()
}

/// Waits until a client is away.
async fn away(broker: &Broker, client_id: &str) {
    await_until(DEADLINE, "a client that is away", async || match session(broker, client_id).await {
        Some(session) if session["online"] == false => Ok(()),
        other => Err(other),
    })
    .await;
}

async fn next(incoming: &mut Incoming) -> Message {
    let delivery = tokio::time::timeout(DEADLINE, incoming.next()).await.expect("a message in time");
    delivery.expect("an open connection").unwrap().message
}

async fn publish(client: &Client, topic: &str, payload: &str) {
    let code = client.publish(&Message::new(topic, payload.to_owned(), QoS::AtLeastOnce)).await.unwrap();
    assert!(!code.is_failure(), "{topic}: {code:?}");
}

/// Waits for the end of a connection, which must be the one that the version has for a client that may no longer.
async fn not_authorized(version: Version, incoming: &mut Incoming) {
    let end = async {
        loop {
            match incoming.next().await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    };
    match (version, tokio::time::timeout(DEADLINE, end).await.expect("an end in time")) {
        (Version::V5, Some(Err(Error::Disconnected { code, reason }))) => {
            assert_eq!(code, ReasonCode::NOT_AUTHORIZED);
            assert!(!reason.is_empty(), "it is told why");
        }
        (Version::V31 | Version::V311, Some(Err(Error::ClosedByServer)) | None) => {}
        (_, end) => panic!("{version:?}: {end:?}"),
    }
}
