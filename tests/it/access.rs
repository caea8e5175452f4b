//! Tokens at a broker: who is let in, what the bearer may do, and for how long.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mqtt_operator::auth::key::{Algorithm, PrivateKey, PrivateKeys, generate};
use mqtt_operator::auth::rule::Rule;
use mqtt_operator::auth::settings::Group;
use mqtt_operator::auth::token::{Claims, issue};
use mqtt_operator::client::{self, Error, Message, Options};
use mqtt_operator::config::files::Etc;
use mqtt_operator::mqtt::packet::{Auth, Connect, Packet, Subscribe, SubscriptionOptions, Unsubscribe};
use mqtt_operator::mqtt::property::{AuthProperties, ConnectProperties, SubscribeProperties};
use mqtt_operator::mqtt::{PacketId, QoS, ReasonCode, Version, codec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Broker, await_until, mosquitto_client};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const DEADLINE: Duration = Duration::from_secs(15);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The key that [`Broker`] has loaded, if the algorithm is EdDSA.
fn key(algorithm: Algorithm) -> PrivateKey {
    generate(algorithm, &[7; 48]).unwrap()
}

/// What `dev1` may do, until in ten minutes.
fn claims(acl: &str) -> Claims {
    Claims {
        iss: "mqttbroker/test/broker".into(),
        aud: "mqtt://test/broker".into(),
        sub: "dev1".into(),
        iat: now(),
        exp: now() + 600,
        acl: serde_json::from_str::<Vec<Rule>>(acl).unwrap(),
        ..Claims::default()
    }
}

fn options(broker: &Broker, version: Version, token: &str) -> Options {
    let mut options = Options::new(broker.address(), "dev1");
    options.version = version;
    options.username = Some("dev1".into());
    options.password = Some(token.as_bytes().to_vec());
    options
}

/// The code of a refusal, and the words that came with it.
async fn refusal(options: &Options) -> (ReasonCode, String) {
    match client::connect(options).await {
        Err(Error::Refused { code, reason }) => (code, reason),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("{:?} was let in", options.version),
    }
}

fn at_least_once() -> SubscriptionOptions {
    SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() }
}

const ACL: &str = r#"[
    {"permission":"allow","action":"publish","topic":"sensor/${clientid}/#","qos":[0,1],"retain":false},
    {"permission":"allow","action":"subscribe","topic":"sensor/${clientid}/+"}]"#;

#[tokio::test]
async fn a_token_says_what_its_bearer_may_do_in_each_version() {
    let broker = Broker::start();
    let token = issue(&key(Algorithm::EdDsa), &claims(ACL));
    for version in VERSIONS {
        let (client, mut incoming, _) = client::connect(&options(&broker, version, &token)).await.unwrap();
        let filters = ["sensor/dev1/t", "sensor/dev1/+", "sensor/dev1/#", "sensor/+/t", "#"];
        let codes = client.subscribe(&filters.map(|filter| (filter, at_least_once()))).await.unwrap();
        let granted: Vec<bool> = codes.iter().map(|code| !code.is_failure()).collect();
        assert_eq!(granted, [true, true, false, false, false], "{version:?}");
        client.publish(&Message::new("sensor/dev2/t", "forged", QoS::AtMostOnce)).await.unwrap();
        client.publish(&Message::new("sensor/dev1/t", "own", QoS::AtLeastOnce)).await.unwrap();
        let message = tokio::time::timeout(DEADLINE, incoming.next()).await.unwrap().unwrap().unwrap().message;
        assert_eq!((&*message.topic, &*message.payload), ("sensor/dev1/t", &b"own"[..]), "{version:?}");
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }

    let (client, _incoming, _) = client::connect(&options(&broker, Version::V5, &token)).await.unwrap();
    for (message, code) in [
        (Message::new("sensor/dev1/t", "x", QoS::AtLeastOnce).retained(), ReasonCode::NOT_AUTHORIZED),
        (Message::new("sensor/dev1/t", "x", QoS::ExactlyOnce), ReasonCode::NOT_AUTHORIZED),
        (Message::new("sensor/dev2/t", "x", QoS::AtLeastOnce), ReasonCode::NOT_AUTHORIZED),
    ] {
        assert_eq!(client.publish(&message).await.unwrap(), code, "{message:?}");
    }
}

#[tokio::test]
async fn groups_of_the_object_give_a_small_token_its_rules() {
    let acl = serde_json::from_str(r#"[{"permission":"allow","action":"publish","topic":"g/${sub}"}]"#).unwrap();
    let broker = Broker::with(|config| config.auth.groups = vec![Group { name: "raspberry".into(), acl }]);
    let token = issue(&key(Algorithm::EdDsa), &Claims { groups: vec!["raspberry".into()], ..claims("[]") });
    let (client, _incoming, _) = client::connect(&options(&broker, Version::V5, &token)).await.unwrap();
    let publish = async |topic: &str| client.publish(&Message::new(topic, "x", QoS::AtLeastOnce)).await.unwrap();
    assert!(!publish("g/dev1").await.is_failure());
    assert_eq!(publish("g/dev2").await, ReasonCode::NOT_AUTHORIZED);
}

#[tokio::test]
async fn tokens_that_are_not_good_are_refused_with_the_code_of_the_version() {
    let broker = Broker::start();
    let bad = ReasonCode::BAD_USER_NAME_OR_PASSWORD;
    let good = claims("[]");
    let own = key(Algorithm::EdDsa);
    let expired = issue(&own, &Claims { iat: now() - 100, exp: now() - 12, ..good.clone() });
    let elsewhere = issue(&own, &Claims { aud: "mqtt://test/other".into(), ..good.clone() });
    let stranger = issue(&generate(Algorithm::EdDsa, &[8; 48]).unwrap(), &good);
    let another = issue(&own, &Claims { client_id: Some("dev2".into()), ..good.clone() });
    for version in VERSIONS {
        let is_v5 = version == Version::V5;
        let (code, reason) = refusal(&options(&broker, version, &expired)).await;
        assert_eq!(code, if is_v5 { ReasonCode::NOT_AUTHORIZED } else { bad });
        assert_eq!(reason.starts_with("token expired "), is_v5, "{reason}");

        assert_eq!(refusal(&options(&broker, version, &elsewhere)).await.0, bad);
        assert_eq!(refusal(&options(&broker, version, &another)).await.0, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        assert_eq!(refusal(&options(&broker, version, &stranger)).await, (bad, String::new()));

        let signed = issue(&own, &good);
        let unsigned = format!("{}.", signed.rsplit_once('.').unwrap().0);
        assert_eq!(refusal(&options(&broker, version, &unsigned)).await, (bad, String::new()));

        let mut as_another_user = options(&broker, version, &issue(&own, &good));
        as_another_user.username = Some("u1".into());
        assert_eq!(refusal(&as_another_user).await.0, bad);
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let broker = Broker::start();
    let ends = VERSIONS.map(async |version| {
        let token = issue(&key(Algorithm::EdDsa), &Claims { exp: now() + 4, ..claims("[]") });
        let mut options = options(&broker, version, &token);
        options.client_id = format!("{version:?}");
        let (_client, mut incoming, _) = client::connect(&options).await.unwrap();
        let end = tokio::time::timeout(DEADLINE, incoming.next()).await.expect("an end in time");
        match (version, end) {
            (Version::V5, Some(Err(Error::Disconnected { code, .. }))) => {
                assert_eq!(code, ReasonCode::MAXIMUM_CONNECT_TIME);
            }
            (Version::V31 | Version::V311, Some(Err(Error::ClosedByServer)) | None) => {}
            (_, end) => panic!("{version:?}: {end:?}"),
        }
        refusal(&options).await;
    });
    futures::future::join_all(ends).await;
}

#[tokio::test]
async fn keys_are_exchanged_without_a_restart() {
    let broker = Broker::start();
    let old = issue(&key(Algorithm::EdDsa), &claims("[]"));
    assert!(client::connect(&options(&broker, Version::V311, &old)).await.is_ok());

    let keys = PrivateKeys { keys: vec![key(Algorithm::Es256), key(Algorithm::Hs256)] };
    let jwks = Etc(broker.etc().to_owned()).jwks();
    std::fs::write(&jwks, keys.public()).unwrap();
    let wanted: Vec<String> = keys.keys.iter().map(|key| key.kid().to_owned()).collect();
    await_until(DEADLINE, "the new keys in the report", async || match broker.report().keys {
        keys if keys == wanted => Ok(()),
        keys => Err(keys),
    })
    .await;
    for key in &keys.keys {
        let token = issue(key, &claims("[]"));
        assert!(client::connect(&options(&broker, Version::V5, &token)).await.is_ok(), "{}", key.algorithm());
    }
    refusal(&options(&broker, Version::V5, &old)).await;
}

/// A client that is not ours needs nothing but the protocol. 3.1.1 [MQTT-7.0.0-2].
#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_pub_is_let_in_with_a_token_and_not_without() {
    let broker = Broker::start();
    let (host, port) =
        broker.address().rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    let token = issue(&key(Algorithm::EdDsa), &claims(ACL));
    let publish = |version: &str, password: &str| {
        let mut command = mosquitto_client("mosquitto_pub");
        command.args([
            "-h",
            &host,
            "-p",
            &port,
            "-V",
            version,
            "-i",
            "dev1",
            "-q",
            "1",
            "-t",
            "sensor/dev1/t",
            "-m",
            "21",
        ]);
        if !password.is_empty() {
            command.args(["-u", "dev1", "-P", password]);
        }
        command.output().unwrap()
    };
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        assert!(publish(version, &token).status.success(), "{version}");
        assert!(!publish(version, &token[..token.len() - 4]).status.success(), "{version}");
        assert!(!publish(version, "").status.success(), "{version}");
    }
}

/// Bytes of MQTT 5.0 to and from a broker, for what the client does not do.
struct Raw(tokio::net::TcpStream);

impl Raw {
    async fn connect(broker: &Broker, method: Option<&str>, token: &str) -> Self {
        let mut raw = Self(tokio::net::TcpStream::connect(broker.address()).await.unwrap());
        let data = method.map(|_| token.as_bytes());
        let properties = ConnectProperties {
            authentication_method: method,
            authentication_data: data,
            ..ConnectProperties::default()
        };
        raw.send(&Packet::Connect(Box::new(Connect {
            version: Version::V5,
            clean_start: true,
            keep_alive: 60,
            client_id: "dev1",
            username: None,
            password: method.is_none().then_some(token.as_bytes()),
            will: None,
            properties,
        })))
        .await;
        assert_eq!(raw.receive().await[..4][3], 0, "connected");
        raw
    }

    async fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(packet, Version::V5, &mut bytes);
        self.0.write_all(&bytes).await.unwrap();
    }

    async fn authenticate(&mut self, method: &str, token: &str) -> Vec<u8> {
        let properties = AuthProperties {
            authentication_method: Some(method),
            authentication_data: Some(token.as_bytes()),
            ..AuthProperties::default()
        };
        self.send(&Packet::Auth(Auth { code: ReasonCode::REAUTHENTICATE, properties })).await;
        self.receive().await
    }

    /// The bytes of the next packet.
    async fn receive(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let reading = async {
            loop {
                bytes.push(self.0.read_u8().await.expect("a packet before the end"));
                if codec::packet_length(&bytes, u32::MAX).unwrap() == Some(bytes.len()) {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading).await.expect("a packet in time");
        bytes
    }
}

#[tokio::test]
async fn a_new_token_extends_a_connection_and_brings_its_own_rules() {
    let broker = Broker::start();
    let key = key(Algorithm::EdDsa);
    let short = Claims { exp: now() + 3, ..claims(ACL) };
    let mut raw = Raw::connect(&broker, Some("JWT"), &issue(&key, &short)).await;
    let filters = vec![("sensor/dev1/+", at_least_once())];
    let packet_id = PacketId::MIN;
    raw.send(&Packet::Subscribe(Subscribe { packet_id, properties: SubscribeProperties::default(), filters })).await;
    assert_eq!(raw.receive().await.last(), Some(&1), "granted");

    let publish_only = r#"[{"permission":"allow","action":"publish","topic":"other/#"}]"#;
    let answer = raw.authenticate("JWT", &issue(&key, &claims(publish_only))).await;
    let Ok(Packet::Auth(auth)) = codec::decode_from_server(&answer, Version::V5) else { panic!("{answer:?}") };
    assert_eq!((auth.code, auth.properties.authentication_method), (ReasonCode::SUCCESS, Some("JWT")));

    // The subscription went with the rule that allowed it; the new rule holds; and the first token's time means nothing.
    raw.send(&Packet::Unsubscribe(Unsubscribe {
        packet_id,
        properties: Default::default(),
        filters: vec!["sensor/dev1/+"],
    }))
    .await;
    assert_eq!(raw.receive().await.last(), Some(&ReasonCode::NO_SUBSCRIPTION_EXISTED.0));
    let expired = now() + 4;
    await_until(DEADLINE, "the end of the first token", async || if now() < expired { Err(now()) } else { Ok(()) })
        .await;
    raw.send(&Packet::PingReq).await;
    assert_eq!(raw.receive().await, [0xD0, 0]);
}

#[tokio::test]
async fn re_authentication_changes_neither_who_it_is_nor_how() {
    let broker = Broker::start();
    let key = key(Algorithm::EdDsa);
    let token = issue(&key, &claims(ACL));
    let other = issue(&key, &Claims { sub: "dev2".into(), ..claims(ACL) });
    let stale = issue(&key, &Claims { iat: now() - 100, exp: now() - 50, ..claims(ACL) });
    for (connect, again, with, code) in [
        (Some("JWT"), "JWT", &*other, ReasonCode::NOT_AUTHORIZED),
        (Some("JWT"), "OAUTH2-JWT", &*token, ReasonCode::PROTOCOL_ERROR),
        (Some("JWT"), "JWT", &*stale, ReasonCode::NOT_AUTHORIZED),
        // DISCONNECT has no code for bad credentials.
        (Some("JWT"), "JWT", "no.such.token", ReasonCode::NOT_AUTHORIZED),
        (None, "JWT", &*token, ReasonCode::PROTOCOL_ERROR),
    ] {
        let mut raw = Raw::connect(&broker, connect, &token).await;
        let answer = raw.authenticate(again, with).await;
        assert_eq!((answer[0], answer[2]), (0xE0, code.0), "{connect:?} {again} {with}: {answer:?}");
    }
}
