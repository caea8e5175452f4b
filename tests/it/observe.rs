//! Why a client does not get through, as the people who look after a broker see it: denies, the audit log, metrics.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use mqtt_operator::auth::key::{Algorithm, PrivateKey, PrivateKeys, generate};
use mqtt_operator::auth::rule::{Action, Permission, Rule};
use mqtt_operator::auth::settings::Group;
use mqtt_operator::auth::token::{Claims, issue};
use mqtt_operator::client::{self, Message, Options};
use mqtt_operator::config::broker::{BridgeAccess, DEFAULT_BUFFER, Listener, Protocol};
use mqtt_operator::config::files::Etc;
use mqtt_operator::mqtt::packet::{Connect, Packet, Subscribe, SubscriptionOptions};
use mqtt_operator::mqtt::property::{ConnectProperties, SubscribeProperties};
use mqtt_operator::mqtt::{PacketId, QoS, Version};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Broker, PASSWORD, Raw, allow, await_until, free_ports, plain_connect, signing_key, unix_seconds, value, write_etc,
};
use crate::up::running::{SOON, Up, Watched, run, succeed};

const DEADLINE: Duration = Duration::from_secs(10);

/// What `dev1` may do, until in ten minutes.
fn claims() -> Claims {
    Claims {
        iss: "mqttbroker/test/broker".into(),
        aud: "mqtt://test/broker".into(),
        sub: "dev1".into(),
        iat: unix_seconds(),
        exp: unix_seconds() + 600,
        acl: vec![allow(Action::All, "t/#")],
        ..Claims::default()
    }
}

fn with_password(address: &str, client_id: &str, user: &str, password: &[u8]) -> Options {
    let mut options = Options::new(address, client_id);
    options.username = Some(user.into());
    options.password = Some(password.to_vec());
    options
}

fn items(page: &Value) -> &Vec<Value> {
    page["items"].as_array().unwrap()
}

#[tokio::test]
async fn whoever_is_not_let_in_is_among_the_denies_and_the_figures_with_the_reason() {
    let broker = Broker::with_quick_passwords(|_| {});
    let address = broker.address();
    let expired = issue(&signing_key(), &Claims { iat: unix_seconds() - 60, exp: unix_seconds() - 5, ..claims() });
    let elsewhere = issue(&signing_key(), &Claims { aud: "mqtt://test/other".into(), ..claims() });
    let forged = issue(&generate(Algorithm::EdDsa, &[8; 48]).unwrap(), &claims());
    let bound = issue(&signing_key(), &Claims { client_id: Some("dev2".into()), ..claims() });
    let mut will = with_password(&address, "c7", "u1", PASSWORD);
    will.will = Some(Message::new("elsewhere", "x", QoS::AtMostOnce));
    let attempts = [
        (with_password(&address, "c0", "u1", b"wrong"), "password", "wrong_password", "wrong password for user \"u1\""),
        (with_password(&address, "c1", "nobody", b"x"), "password", "unknown_user", "there is no user \"nobody\""),
        (with_password(&address, "c2", "dev1", expired.as_bytes()), "jwt", "token_expired", "token expired "),
        (with_password(&address, "c3", "dev1", elsewhere.as_bytes()), "jwt", "token_claims", "`aud` is not"),
        (with_password(&address, "c4", "dev1", forged.as_bytes()), "jwt", "token_key", "is not loaded"),
        (with_password(&address, "c5", "dev1", bound.as_bytes()), "jwt", "token_binding", "for another client id"),
        (Options::new(&*address, "c6"), "none", "no_credentials", "anonymous clients are not allowed"),
        (with_password(&address, "x", "system:bridge", b"x"), "password", "reserved_name", "`system:`"),
        (will, "password", "will", "no rule allows it"),
    ];
    for (options, ..) in &attempts {
        assert!(client::connect(options).await.is_err(), "{}", options.client_id);
    }
    let denies = broker.get("/api/v1/denies").await;
    let denies = items(&denies);
    assert_eq!(denies.len(), attempts.len(), "{denies:#?}");
    let metrics = broker.metrics().await;
    for (deny, (options, method, reason, why)) in denies.iter().zip(&attempts) {
        assert_eq!((&deny["clientId"], &deny["method"]), (&json!(options.client_id), &json!(method)), "{deny}");
        assert!(deny["why"].as_str().unwrap().contains(why), "{deny}");
        if *reason == "will" {
            assert_eq!((&deny["action"], &deny["principal"]), (&json!("will"), &json!("user:u1")), "{deny}");
        } else {
            assert_eq!((&deny["action"], deny.get("principal")), (&json!("connect"), None), "{deny}");
            assert!(deny["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{deny}");
        }
        let series = format!("mqtt_auth_total{{method=\"{method}\",result=\"refused\",reason=\"{reason}\"}}");
        assert_eq!(value(&metrics, &series), Some(1.0), "{series}\n{metrics}");
    }
    assert!(value(&metrics, r#"mqtt_auth_seconds_count{method="jwt"}"#).is_some_and(|n| n >= 4.0), "{metrics}");
    let denied = broker.get("/api/v1/report").await["lastDeny"].as_u64();
    assert_eq!(denied, Some(attempts.len() as u64));
}

#[tokio::test]
async fn a_deny_says_with_which_key_and_what_is_repeated_is_counted() {
    let broker = Broker::start();
    let token = issue(&signing_key(), &claims());
    let mut options = with_password(&broker.address(), "dev1", "dev1", token.as_bytes());
    options.version = Version::V5;
    let (client, _incoming, _) = client::connect(&options).await.unwrap();
    for _ in 0..20 {
        client.publish(&Message::new("elsewhere", "x", QoS::AtLeastOnce)).await.unwrap();
    }
    client.publish(&Message::new("elsewhere/too", "x", QoS::AtLeastOnce)).await.unwrap();
    let page = broker.get("/api/v1/denies").await;
    let seen: Vec<_> = items(&page).iter().map(|it| (it["topic"].clone(), it["repeats"].clone())).collect();
    assert_eq!(seen, [(json!("elsewhere"), json!(19)), (json!("elsewhere/too"), json!(0))]);
    let first = &items(&page)[0];
    assert_eq!((&first["method"], &first["keyId"]), (&json!("jwt"), &json!(signing_key().kid())));
    assert_eq!(first["principal"], "user:dev1");
}

#[tokio::test]
async fn decisions_are_counted_with_where_the_rule_stands_and_losses_with_their_cause() {
    let acl = vec![allow(Action::All, "g/#")];
    let broker = Broker::with(|config| {
        config.auth.groups = vec![Group { name: "g".into(), acl }];
        config.auth.users[1].groups = vec!["g".into()];
        config.auth.deny = vec![Rule { permission: Permission::Deny, ..allow(Action::All, "t/secret/#") }];
    });
    let mut options = broker.options(1, Version::V5);
    options.will = Some(Message::new("t/gone", "x", QoS::AtMostOnce));
    let (client, _incoming, _) = client::connect(&options).await.unwrap();
    for topic in ["t/a", "t/a", "t/b", "g/a", "t/secret/a", "elsewhere", "$SYS/a"] {
        client.publish(&Message::new(topic, "x", QoS::AtLeastOnce)).await.unwrap();
    }
    let at = SubscriptionOptions::default();
    client.subscribe(&[("t/a", at), ("g/#", at), ("t/#", at), ("#", at)]).await.unwrap();
    let token = issue(&signing_key(), &claims());
    let (device, _incoming, _) =
        client::connect(&with_password(&broker.address(), "dev1", "dev1", token.as_bytes())).await.unwrap();
    device.publish(&Message::new("t/a", "x", QoS::AtLeastOnce)).await.unwrap();
    let expected = [
        ("publish", "allow", "user", 3.0),
        ("publish", "allow", "group", 1.0),
        ("publish", "allow", "token", 1.0),
        ("publish", "deny", "deny", 1.0),
        ("publish", "deny", "none", 2.0),
        ("subscribe", "allow", "user", 1.0),
        ("subscribe", "allow", "group", 1.0),
        ("subscribe", "deny", "deny", 2.0),
        ("will", "allow", "user", 1.0),
    ];
    await_until(DEADLINE, "the right figures", async || {
        let text = broker.metrics().await;
        let series = |action, result, source| {
            value(&text, &format!("mqtt_authz_total{{action=\"{action}\",result=\"{result}\",source=\"{source}\"}}"))
        };
        let wrong: Vec<_> = expected.iter().filter(|(a, r, s, n)| series(a, r, s) != Some(*n)).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?} {text}")) }
    })
    .await;

    // A subscriber that accepts no such size loses the message, and nothing else does.
    let (small, _incoming) = {
        let mut options = broker.options(2, Version::V5);
        options.maximum_packet_size = 64;
        let (client, incoming, _) = client::connect(&options).await.unwrap();
        (client, incoming)
    };
    small.subscribe(&[("t/large", at)]).await.unwrap();
    client.publish(&Message::new("t/large", "x".repeat(100), QoS::AtLeastOnce)).await.unwrap();
    await_until(DEADLINE, "a message that is too large", async || {
        let text = broker.metrics().await;
        let lost = |cause: &str| value(&text, &format!("mqtt_messages_dropped_total{{cause=\"{cause}\"}}"));
        let causes = ["slow", "queue_full", "refused", "too_old", "memory", "revoked", "session_ended"];
        if lost("too_large") == Some(1.0) && causes.iter().all(|cause| lost(cause) == Some(0.0)) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
}

#[tokio::test]
async fn who_follows_the_denies_is_told_of_the_next_one_and_of_no_other() {
    let broker = Broker::start();
    let (one, _incoming) = broker.connect(1, Version::V5).await;
    let (two, _incoming) = broker.connect(2, Version::V5).await;
    one.publish(&Message::new("before", "x", QoS::AtLeastOnce)).await.unwrap();
    let last = broker.get("/api/v1/denies").await["last"].as_u64().unwrap();
    let path = format!("/api/v1/denies?wait=30&after={last}&client=u2");
    let (page, ()) = tokio::join!(broker.get(&path), async {
        // Another client's first: the request goes on waiting.
        for client in [&one, &two] {
            client.publish(&Message::new("after", "x", QoS::AtLeastOnce)).await.unwrap();
        }
    });
    let of: Vec<_> = items(&page).iter().map(|it| it["clientId"].clone()).collect();
    assert_eq!((of, &page["last"]), (vec![json!("u2")], &json!(last + 2)), "{page}");

    let none = broker.get(&format!("/api/v1/denies?wait=1&after={}", last + 2)).await;
    assert_eq!((items(&none).len(), &none["last"]), (0, &json!(last + 2)), "nothing came in time");
    let restarted = broker.get("/api/v1/denies?after=1000000").await;
    assert_eq!(items(&restarted).len(), 3, "a number of a broker before this one");
    assert_eq!(items(&broker.get("/api/v1/denies?since=3600").await).len(), 3);
    let (status, answer) = broker.ask(Method::GET, "/api/v1/denies?since=yesterday").await;
    assert_eq!(status, 400, "{answer}");
}

#[tokio::test]
async fn labels_stay_few_however_many_clients_and_topics_there_are() {
    let broker = Broker::with_quick_passwords(|config| config.limits.connect_rate = None);
    let come = async |from: usize| {
        for n in from..from + 40 {
            let id = format!("client-{n}");
            let good = with_password(&broker.address(), &id, "u1", PASSWORD);
            let (client, _incoming, _) = client::connect(&good).await.unwrap();
            client.publish(&Message::new(format!("elsewhere/{n}"), "x", QoS::AtLeastOnce)).await.unwrap();
            client.publish(&Message::new(format!("t/{n}"), "x", QoS::AtLeastOnce)).await.unwrap();
            let at = SubscriptionOptions::default();
            client.subscribe(&[(&format!("elsewhere/{n}/#"), at), (&format!("t/{n}/#"), at)]).await.unwrap();
            let bad = with_password(&broker.address(), &id, &format!("user-{n}"), b"x");
            assert!(client::connect(&bad).await.is_err());
        }
        let text = broker.metrics().await;
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        // When lines are left out, which happens in time, one of the kinds of lines appears.
        let all = series.map(|(series, _)| series.to_owned()).filter(|it| !it.starts_with("mqtt_log_lines"));
        all.collect::<BTreeSet<_>>()
    };
    let (few, many) = (come(0).await, come(40).await);
    assert_eq!(few, many);
    for part in ["client-", "user-", "elsewhere", "127.0.0.1", "t/"] {
        assert!(few.iter().all(|series| !series.contains(part)), "{part}");
    }
}

#[tokio::test]
async fn sys_tells_how_many_were_let_in_and_denied_to_whom_a_rule_allows_it() {
    let broker = Broker::with(|config| config.auth.users[1].acl.push(allow(Action::Subscribe, "$SYS/broker/auth/#")));
    let (other, _incoming) = broker.connect(2, Version::V5).await;
    let codes = other.subscribe(&[("$SYS/broker/auth/#", SubscriptionOptions::default())]).await.unwrap();
    assert!(codes[0].is_failure());
    other.publish(&Message::new("elsewhere", "x", QoS::AtLeastOnce)).await.unwrap();
    assert!(client::connect(&Options::new(broker.address(), "stranger")).await.is_err());
    let (client, mut incoming) = broker.connect(1, Version::V5).await;
    client.subscribe(&[("$SYS/broker/auth/#", SubscriptionOptions::default())]).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 7 {
        let message = tokio::time::timeout(DEADLINE, incoming.next()).await.unwrap().unwrap().unwrap().message;
        let name = message.topic.strip_prefix("$SYS/broker/auth/").unwrap().to_owned();
        seen.push((name, String::from_utf8(message.payload.to_vec()).unwrap()));
    }
    let seen: Vec<_> = seen.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let expected = [
        ("accepted", "2"),
        ("denied/publish", "1"),
        ("denied/subscribe", "1"),
        ("denied/will", "0"),
        ("expired", "0"),
        ("reauthenticated", "0"),
        ("refused", "1"),
    ];
    assert_eq!(seen, expected);
}

/// What a raw client of 5.0 with these properties is answered to a CONNECT without words and a SUBSCRIBE to these filters.
async fn subscribe_raw(
    broker: &Broker,
    properties: ConnectProperties<'_>,
    filters: &[&str],
) -> (Vec<u8>, Option<String>) {
    let plain = plain_connect(Version::V5, "u1");
    let connect = Connect { username: Some("u1"), password: Some(PASSWORD), properties, ..plain };
    let mut raw = Raw::connect(&broker.address(), connect).await;
    let filters = filters.iter().map(|filter| (*filter, SubscriptionOptions::default())).collect();
    let subscribe = Subscribe { packet_id: PacketId::MIN, properties: SubscribeProperties::default(), filters };
    raw.send(&[Packet::Subscribe(subscribe)]).await;
    raw.next(|packet| match packet {
        Packet::SubAck(ack) => {
            let codes = ack.codes.iter().map(|code| code.0).collect();
            Some((codes, ack.properties.reason_string.map(str::to_owned)))
        }
        _ => None,
    })
    .await
}

/// 5.0 [MQTT-3.1.2-29, MQTT-3.9.2-1].
#[tokio::test]
async fn suback_says_why_a_filter_is_refused_to_who_wants_to_hear_it_and_has_room_for_it() {
    let broker = Broker::with_quick_passwords(|_| {});
    let filters = ["t/a", "elsewhere/+/temp", "t/b"];
    let codes = vec![0, 0x87, 0];
    let default = ConnectProperties::default;
    let (seen, why) = subscribe_raw(&broker, default(), &filters).await;
    let words = r#"no rule allows it: user rule 1 allows "t/#", "elsewhere/a/temp" is outside"#;
    assert_eq!((&seen, why.as_deref()), (&codes, Some(words)));
    let silent = ConnectProperties { request_problem_information: Some(false), ..default() };
    assert_eq!(subscribe_raw(&broker, silent, &filters).await, (codes.clone(), None));
    let exactly = 2 + 2 + 1 + 3 + words.len() as u32 + codes.len() as u32;
    for (maximum, told) in [(exactly - 1, false), (exactly, true)] {
        let small = ConnectProperties { maximum_packet_size: Some(maximum), ..default() };
        let (seen, why) = subscribe_raw(&broker, small, &filters).await;
        assert_eq!((seen, why.is_some()), (codes.clone(), told), "{maximum}");
    }
    assert_eq!(subscribe_raw(&broker, default(), &["t/a"]).await, (vec![0], None));
}

/// A broker as a process that logs JSON at the most verbose level, from documents that [`write_etc`] made.
struct Logged {
    etc: tempfile::TempDir,
    address: String,
    websocket: String,
    bridge: String,
    admin: String,
    process: Watched,
}

/// The bridge's password of [`Logged`], and the key of its users of HS256.
const BRIDGE_PASSWORD: &str = "carries-telemetry-4711";

impl Logged {
    fn start() -> Self {
        let etc = tempfile::tempdir().unwrap();
        let [port, websocket, bridge, admin] = free_ports();
        write_etc(etc.path(), |config| {
            config.listeners[0].port = port;
            config.listeners.push(Listener::new("ws", Protocol::Ws, (Ipv4Addr::LOCALHOST, websocket).into()));
            config.bridge = Some(BridgeAccess {
                listen: (Ipv4Addr::LOCALHOST, bridge).into(),
                topics: vec!["t/#".into()],
                buffer: DEFAULT_BUFFER,
            });
            config.admin.set_port(admin);
        });
        let files = Etc(etc.path().to_owned());
        std::fs::create_dir_all(files.bridge_password().parent().unwrap()).unwrap();
        std::fs::write(files.bridge_password(), BRIDGE_PASSWORD).unwrap();
        std::fs::write(files.jwks(), PrivateKeys { keys: vec![signing_key(), shared_key()] }.public()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"));
        command.arg("--etc").arg(etc.path()).arg("--state").arg(etc.path().join("state"));
        command.env("LOG_FORMAT", "json").env("RUST_LOG", "trace");
        let process = Watched::spawn(command);
        process.line_with("\"listening\"");
        let at = |port: u16| format!("127.0.0.1:{port}");
        Self { etc, address: at(port), websocket: at(websocket), bridge: at(bridge), admin: at(admin), process }
    }

    /// The line of the audit log about this client with this event, as soon as there is one.
    async fn audit(&self, event: &str, client_id: &str) -> Value {
        await_until(SOON, &format!("{event} of {client_id}"), async || {
            let lines: Vec<Value> =
                self.process.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let audit = lines.into_iter().filter(|line| line["target"] == "audit");
            let found: Vec<Value> = audit.filter(|line| line["event"] == event).collect();
            found.iter().find(|line| line["client_id"] == client_id).cloned().ok_or(found)
        })
        .await
    }
}

/// A key whose secret the broker has too.
fn shared_key() -> PrivateKey {
    generate(Algorithm::Hs256, &[6; 48]).unwrap()
}

/// A WebSocket request with a token, and a CONNECT in the first frame.
async fn connect_with_bearer(address: &str, token: &str) {
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let connect = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3C\x00\x05ws-id";
    // Masked with zeros, as if it were not.
    let mut frame = vec![0x82, 0x80 | connect.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(connect);
    socket.write_all(&frame).await.unwrap();
    let mut answer = [0; 512];
    let mut seen = Vec::new();
    while !seen.windows(2).any(|it| it == b"\x20\x02") {
        let read = tokio::time::timeout(DEADLINE, socket.read(&mut answer)).await.unwrap().unwrap();
        assert!(read > 0, "no CONNACK: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&answer[..read]);
    }
}

/// One CONNECT of 5.0 with a token in AUTH's properties.
async fn connect_with_method(address: &str, token: &str) {
    let properties = ConnectProperties {
        authentication_method: Some("JWT"),
        authentication_data: Some(token.as_bytes()),
        ..ConnectProperties::default()
    };
    let mut raw = Raw::connect(address, Connect { properties, ..plain_connect(Version::V5, "auth") }).await;
    raw.next(|packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await;
}

/// Each way in which a credential reaches the broker, with good ones and with wrong ones. Answers all secrets.
async fn present_every_credential(broker: &Logged) -> Vec<String> {
    let stranger = generate(Algorithm::EdDsa, &[8; 48]).unwrap();
    let good = issue(&signing_key(), &claims());
    let shared = issue(&shared_key(), &claims());
    let expired = issue(&signing_key(), &Claims { iat: unix_seconds() - 60, exp: unix_seconds() - 5, ..claims() });
    let forged = issue(&stranger, &claims());
    let wrong = "a-guess-of-somebody-0815";
    let tokens = [&good, &shared, &expired, &forged];
    for version in [Version::V311, Version::V5] {
        let attempt = async |mut options: Options| {
            options.version = version;
            // Whether it is let in is not the question here.
            if let Ok((client, _incoming, _)) = client::connect(&options).await {
                let password = String::from_utf8_lossy(options.password.as_ref().unwrap());
                // A token in a topic is known for what it is; a password is a word like others.
                let topic = format!("elsewhere/{}", if password.starts_with("eyJ") { &password } else { "x" });
                let _ = client.publish(&Message::new(topic, "x", QoS::AtLeastOnce)).await;
            }
        };
        attempt(with_password(&broker.address, "p0", "u1", PASSWORD)).await;
        attempt(with_password(&broker.address, "p1", "u1", wrong.as_bytes())).await;
        for (n, token) in tokens.iter().enumerate() {
            attempt(with_password(&broker.address, &format!("t{n}"), "dev1", token.as_bytes())).await;
            // Some clients put it there.
            attempt(with_password(&broker.address, token, token, b"")).await;
            attempt(with_password(&broker.address, "t", token, wrong.as_bytes())).await;
        }
        attempt(with_password(&broker.bridge, "bridge", "system:bridge", BRIDGE_PASSWORD.as_bytes())).await;
        attempt(with_password(&broker.bridge, "bridge", "system:bridge", wrong.as_bytes())).await;
    }
    for token in tokens {
        connect_with_bearer(&broker.websocket, token).await;
        connect_with_method(&broker.address, token).await;
    }
    let admin = Broker::admin_token();
    for token in [&admin, &good, &forged] {
        let request = reqwest::Client::new().get(format!("http://{}/api/v1/denies", broker.admin));
        request.bearer_auth(token).send().await.unwrap();
    }
    let users: Value = serde_json::from_slice(&std::fs::read(Etc(broker.etc.path().into()).users()).unwrap()).unwrap();
    let jwks: Value = serde_json::from_slice(&std::fs::read(Etc(broker.etc.path().into()).jwks()).unwrap()).unwrap();
    let hash = users["users"][0]["hash"].as_str().unwrap().to_owned();
    let shared = jwks["keys"].as_array().unwrap().iter().find_map(|key| key["k"].as_str()).unwrap().to_owned();
    let digest = hash.rsplit('$').next().unwrap().to_owned();
    let mut secrets = vec![hash, digest, shared, BRIDGE_PASSWORD.into(), wrong.into()];
    secrets.push(String::from_utf8(PASSWORD.to_vec()).unwrap());
    for token in tokens.into_iter().chain([&admin]) {
        // Its claims are no secret, and nobody's business either.
        secrets.extend(token.split('.').skip(1).map(str::to_owned));
    }
    secrets
}

#[tokio::test]
async fn no_secret_is_in_logs_metrics_reports_or_denies_at_the_most_verbose_level() {
    let broker = Logged::start();
    let secrets = present_every_credential(&broker).await;
    // Who says nothing at all is only worth a line of the most verbose kind.
    drop(tokio::net::TcpStream::connect(&broker.address).await.unwrap());
    broker.process.line_with("\"level\":\"DEBUG\"");
    broker.audit("connect", "p1").await;
    let client = reqwest::Client::new();
    let mut said = broker.process.lines();
    for path in ["metrics", "api/v1/report", "api/v1/denies?limit=1000", "api/v1/sessions?limit=1000", "api/v1/keys"] {
        let answer = client.get(format!("http://{}/{path}", broker.admin)).bearer_auth(Broker::admin_token());
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        said.push(answer.text().await.unwrap());
    }
    for secret in &secrets {
        assert!(secret.len() > 10);
        for line in &said {
            assert!(!line.contains(secret.as_str()), "{secret} is in {line}");
        }
    }
}

#[tokio::test]
async fn the_audit_log_has_a_line_of_stable_fields_for_each_connect_and_deny() {
    let broker = Logged::start();
    let token = issue(&signing_key(), &Claims { exp: unix_seconds() + 3, ..claims() });
    let (client, _incoming, _) =
        client::connect(&with_password(&broker.address, "dev1", "dev1", token.as_bytes())).await.unwrap();
    client.publish(&Message::new("elsewhere", "x", QoS::AtLeastOnce)).await.unwrap();
    assert!(client::connect(&with_password(&broker.address, "thief", "u1", b"wrong")).await.is_err());

    let fields = |line: &Value| line.as_object().unwrap().keys().cloned().collect::<BTreeSet<String>>();
    let always = ["timestamp", "level", "target", "message", "event", "client_id"];
    for (event, client_id, more, values) in [
        (
            "connect",
            "dev1",
            &["result", "principal", "method", "key_id", "version", "session_present", "address", "listener"][..],
            json!({"result": "accepted", "principal": "user:dev1", "method": "jwt", "key_id": signing_key().kid(),
                   "version": "3.1.1", "listener": "mqtt"}),
        ),
        (
            "deny",
            "dev1",
            &["principal", "method", "key_id", "action", "topic", "why"],
            json!({"action": "publish", "topic": "elsewhere",
                   "why": r#"no rule allows it: token rule 1 allows "t/#""#}),
        ),
        (
            "connect",
            "thief",
            &["result", "method", "address", "listener", "reason", "why"],
            json!({"result": "refused", "method": "password", "reason": "wrong_password"}),
        ),
        (
            "disconnect",
            "dev1",
            &["principal", "method", "key_id", "reason", "why"],
            json!({"reason": "maximum connect time", "method": "jwt"}),
        ),
    ] {
        let line = broker.audit(event, client_id).await;
        let expected: BTreeSet<String> = always.iter().chain(more).map(|name| (*name).to_owned()).collect();
        assert_eq!(fields(&line), expected, "{line}");
        for (name, value) in values.as_object().unwrap() {
            assert_eq!(&line[name], value, "{line}");
        }
    }
}

#[test]
fn mqttctl_lists_and_follows_denies() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::sample(directory.path(), "thermometer");
    let ctl = |arguments: &[&str]| {
        let mut command = up.mqttctl();
        command.args(arguments);
        command
    };
    let token = succeed(ctl(&["token", "issue", "--sub", "dev1", "--publish", "sensor/dev1/#"]));
    let publish = |topic: &str| {
        let line = format!(
            "mosquitto_pub -V mqttv5 -h 127.0.0.1 -p {} -i 'dev/1' -u dev1 -P {} -q 1 -t {topic} -m x",
            up.port,
            token.trim()
        );
        run(up.shell(&line));
    };
    publish("elsewhere");
    let listed = succeed(ctl(&["denies"]));
    assert!(listed.contains("DENY publish \"elsewhere\"  client=dev/1 principal=user:dev1 cred=jwt kid="), "{listed}");
    let json: Value = serde_json::from_str(&succeed(ctl(&["denies", "-o", "json", "--client", "dev/1"]))).unwrap();
    assert_eq!((json.as_array().unwrap().len(), &json[0]["topic"]), (1, &json!("elsewhere")));
    assert_eq!(succeed(ctl(&["denies", "--client", "dev2"])), "");

    let mut following = Watched::spawn(ctl(&["denies", "--follow", "--since", "1h"]));
    following.line_with("\"elsewhere\"");
    publish("anywhere");
    following.line_with("DENY publish \"anywhere\"");
    assert!(following.is_running());
    let (code, _, stderr) = run(ctl(&["denies", "--since", "yesterday"]));
    assert!(code != Some(0) && stderr.contains("90s, 15m, 12h or 30d"), "{stderr}");
    up.stop();
}
