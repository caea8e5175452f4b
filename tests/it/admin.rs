//! The admin port, asked over HTTP while clients are connected over MQTT.

use std::time::Duration;

use mqtt_operator::auth::admin;
use mqtt_operator::auth::key::{Algorithm, PrivateKeys, generate};
use mqtt_operator::auth::token::{Claims, issue};
use mqtt_operator::client::{self, Error, Incoming, Message};
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Broker, await_until, open, signing_key, unix_seconds, value};
use crate::up::running::{Up, Watched, mqttctl, run, succeed};

const DEADLINE: Duration = Duration::from_secs(10);
const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn at(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

/// Options of user `u<n>` whose session outlives the connection.
fn persistent(broker: &Broker, n: usize, version: Version) -> client::Options {
    client::Options { clean_start: false, session_expiry: Some(60), ..broker.options(n, version) }
}

/// Why the broker ended the connection; nothing if it only closed it.
async fn told(incoming: &mut Incoming) -> Option<ReasonCode> {
    loop {
        match tokio::time::timeout(DEADLINE, incoming.next()).await.expect("an end in time") {
            Some(Ok(_)) => {}
            Some(Err(Error::Disconnected { code, .. })) => return Some(code),
            Some(Err(_)) | None => return None,
        }
    }
}

async fn sessions(broker: &Broker, query: &str) -> Vec<Value> {
    broker.get(&format!("/api/v1/sessions{query}")).await["items"].as_array().unwrap().clone()
}

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["clientId"].as_str().unwrap()).collect()
}

/// A request with this `Authorization`, or none.
async fn with(broker: &Broker, method: Method, path: &str, authorization: Option<&str>) -> (u16, Value) {
    let mut request = reqwest::Client::new().request(method, format!("http://{}{path}", broker.admin()));
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// A token of the broker's own key with these audience and life.
fn token(audience: &str, issued: u64, ttl: u64) -> String {
    let claims = Claims {
        iss: "mqttbroker/test/broker".into(),
        aud: audience.into(),
        sub: "u1".into(),
        iat: issued,
        exp: issued + ttl,
        ..Claims::default()
    };
    issue(&signing_key(), &claims)
}

#[tokio::test]
async fn probes_and_metrics_are_open_and_everything_else_asks_for_a_token() {
    let broker = Broker::start();
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = reqwest::get(format!("http://{}{path}", broker.admin())).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    let get = ["report", "sessions", "subscriptions", "retained", "denies", "keys", "listeners", "nothing"];
    let post = ["sessions/u1/kick", "drain", "reload"];
    let all = get.map(|path| (Method::GET, path)).into_iter().chain(post.map(|path| (Method::POST, path)));
    for (method, path) in all {
        let (status, answer) = with(&broker, method, &format!("/api/v1/{path}"), None).await;
        assert_eq!(status, 401, "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains("Authorization"), "{path}: {answer}");
        assert!(answer["hint"].as_str().unwrap().contains("mqtt-admin://test/broker"), "{path}: {answer}");
    }
    assert_eq!(broker.get("/api/v1/report").await["keys"], json!([signing_key().kid()]));
}

#[tokio::test]
async fn a_token_that_is_not_for_the_port_is_refused_and_told_why() {
    let broker = Broker::start();
    let (now, port) = (unix_seconds(), "mqtt-admin://test/broker");
    let stranger = generate(Algorithm::EdDsa, &[8; 48]).unwrap();
    let of_stranger = admin::mint(&stranger, "mqttbroker/test/broker", port, "x", now);
    for (authorization, status, says) in [
        (format!("Bearer {}", token("mqtt://test/broker", now, 60)), 403, "`aud` is not mqtt-admin://test/broker"),
        (format!("Bearer {}", token("mqtt-admin://test/other", now, 60)), 403, "`aud`"),
        (format!("Bearer {}", token(port, now, 3600)), 403, "at most 60 s"),
        (format!("Bearer {}", token(port, now - 100, 60)), 401, "expired"),
        (format!("Bearer {}", token(port, now + 100, 60)), 401, "not valid"),
        (format!("Bearer {of_stranger}"), 401, "not loaded"),
        ("Bearer nonsense".into(), 401, "three parts"),
        ("Basic dTA6eA==".into(), 401, "Bearer"),
    ] {
        let (code, answer) = with(&broker, Method::GET, "/api/v1/sessions", Some(&authorization)).await;
        assert_eq!(code, status, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(says), "{answer}");
    }
    let (code, answer) =
        with(&broker, Method::GET, "/api/v1/keys", Some(&format!("bearer  {}", Broker::admin_token()))).await;
    assert_eq!(code, 200, "{answer}");
    let metrics = broker.metrics().await;
    assert!(metrics.contains(r#"mqtt_admin_refused_total{reason="forbidden"} 3"#), "{metrics}");
}

#[tokio::test]
async fn an_admin_token_opens_no_mqtt() {
    let broker = Broker::with(open);
    for version in VERSIONS {
        let mut options = broker.options(1, version);
        options.password = Some(Broker::admin_token().into_bytes());
        match client::connect(&options).await {
            Err(Error::Refused { code, .. }) => assert_eq!(code, ReasonCode::BAD_USER_NAME_OR_PASSWORD, "{version:?}"),
            other => panic!("{version:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn sessions_are_listed_with_what_they_hold() {
    let broker = Broker::start();
    let (online, _incoming, _) = client::connect(&persistent(&broker, 1, Version::V5)).await.unwrap();
    online.subscribe(&[("t/a", at(QoS::AtLeastOnce)), ("t/b", at(QoS::AtMostOnce))]).await.unwrap();
    let (away, _, _) = client::connect(&persistent(&broker, 2, Version::V311)).await.unwrap();
    away.subscribe(&[("t/a", at(QoS::AtLeastOnce))]).await.unwrap();
    away.disconnect(ReasonCode::SUCCESS).await.unwrap();
    await_until(DEADLINE, "a client that is away", async || {
        let found = sessions(&broker, "?state=away").await;
        if ids(&found) == ["u2"] { Ok(()) } else { Err(found) }
    })
    .await;
    let (publisher, _) = broker.connect(3, Version::V31).await;
    publisher.publish(&Message::new("t/a", "0123456789", QoS::AtLeastOnce)).await.unwrap();

    let all = await_until(DEADLINE, "an acknowledged delivery", async || {
        let all = sessions(&broker, "").await;
        if all[0]["inFlight"] == 0 { Ok(all) } else { Err(all) }
    })
    .await;
    assert_eq!(ids(&all), ["u1", "u2", "u3"]);
    let [one, two, three] = [&all[0], &all[1], &all[2]];
    assert_eq!(
        (&one["principal"], &one["version"], &one["listener"]),
        (&json!("user:u1"), &json!("5.0"), &json!("mqtt"))
    );
    assert_eq!((&one["online"], &one["subscriptions"], &one["sessionExpiry"]), (&json!(true), &json!(2), &json!(60)));
    assert!(one["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{one}");
    assert!(one["since"].as_str().unwrap().starts_with("20") && one.get("expires").is_none(), "{one}");
    assert_eq!((&two["online"], &two["subscriptions"], &two["queued"]), (&json!(false), &json!(1), &json!(1)));
    assert!(two["queuedBytes"].as_u64().unwrap() > 10 && two["expires"].is_string(), "{two}");
    assert_eq!((&two["dropped"], &three["version"], &three["subscriptions"]), (&json!(0), &json!("3.1"), &json!(0)));

    for (query, expected) in [
        ("?client=u2", &["u2"][..]),
        ("?user=u3", &["u3"]),
        ("?user=user:u3", &["u3"]),
        ("?state=online", &["u1", "u3"]),
        ("?version=3.1.1", &["u2"]),
        ("?prefix=u", &["u1", "u2", "u3"]),
        ("?prefix=v", &[]),
        ("?listener=other", &[]),
        ("?address=127.0.0.1&state=away", &["u2"]),
    ] {
        assert_eq!(ids(&sessions(&broker, query).await), expected, "{query}");
    }
    for query in ["?stat=online", "?state=asleep", "?limit=many", "?address=here"] {
        let (status, answer) = broker.ask(Method::GET, &format!("/api/v1/sessions{query}")).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer["hint"].as_str().unwrap().contains("docs/admin.md"), "{answer}");
    }
}

#[tokio::test]
async fn pages_follow_each_other_and_miss_nothing() {
    let broker = Broker::start();
    let mut clients = Vec::new();
    for n in 0..9 {
        let (client, incoming) = broker.connect(n, Version::V5).await;
        let filters: Vec<String> = (0..n).map(|level| format!("t/{level}/#")).collect();
        for filter in &filters {
            client.subscribe(&[(filter.as_str(), at(QoS::AtMostOnce))]).await.unwrap();
        }
        let retained = Message { retain: true, ..Message::new(format!("t/{n}"), "x", QoS::AtLeastOnce) };
        client.publish(&retained).await.unwrap();
        clients.push((client, incoming));
    }
    for (list, key, total) in [("sessions", "clientId", 9), ("subscriptions", "filter", 36), ("retained", "topic", 9)] {
        for limit in [1, 2, 4, 7, 100] {
            let mut seen = Vec::new();
            let mut after = None::<String>;
            loop {
                let mut url = reqwest::Url::parse(&format!("http://{}/api/v1/{list}", broker.admin())).unwrap();
                url.query_pairs_mut().append_pair("limit", &limit.to_string());
                if let Some(after) = &after {
                    url.query_pairs_mut().append_pair("after", after);
                }
                let path = format!("{}?{}", url.path(), url.query().unwrap());
                let page = broker.get(&path).await;
                let items = page["items"].as_array().unwrap();
                assert!(items.len() <= limit, "{list}: {page}");
                seen.extend(items.iter().map(|item| format!("{} {}", item["clientId"], item[key])));
                match page["next"].as_str() {
                    Some(next) => after = Some(next.into()),
                    None => break,
                }
            }
            let mut unique = seen.clone();
            unique.dedup();
            assert_eq!((seen.len(), unique.len()), (total, total), "{list} by {limit}: {seen:?}");
            assert!(list == "retained" || seen.is_sorted(), "{list} by {limit}: {seen:?}");
        }
    }
    let of =
        |page: Value| page["items"].as_array().unwrap().iter().map(|it| it["clientId"].clone()).collect::<Vec<_>>();
    let matching = of(broker.get("/api/v1/subscriptions?topic=t/6/x").await);
    assert_eq!(matching, [json!("u7"), json!("u8")]);
    assert_eq!(of(broker.get("/api/v1/subscriptions?client=u2").await).len(), 2);
    assert_eq!(broker.get("/api/v1/retained?filter=t/%2B&limit=1000").await["items"].as_array().unwrap().len(), 9);
    assert_eq!(broker.ask(Method::GET, "/api/v1/retained?filter=a/%23/b").await.0, 400);
}

#[tokio::test]
async fn a_kicked_client_is_told_and_its_session_stays() {
    let broker = Broker::start();
    for version in VERSIONS {
        let (client, mut incoming, _) = client::connect(&persistent(&broker, 1, version)).await.unwrap();
        client.subscribe(&[("t/a", at(QoS::AtLeastOnce))]).await.unwrap();
        let (status, answer) = broker.ask(Method::POST, "/api/v1/sessions/u1/kick").await;
        assert_eq!((status, answer), (200, json!({"clientId": "u1", "wasOnline": true, "forgotten": false})));
        let expected = (version == Version::V5).then_some(ReasonCode::ADMINISTRATIVE_ACTION);
        assert_eq!(told(&mut incoming).await, expected, "{version:?}");
        assert_eq!(ids(&sessions(&broker, "?state=away").await), ["u1"], "it is gone when the answer is there");

        let (status, answer) = broker.ask(Method::POST, "/api/v1/sessions/u1/kick").await;
        assert_eq!(status, 409, "{answer}");
        assert!(answer["hint"].as_str().unwrap().contains("--forget"), "{answer}");
        let (status, answer) = broker.ask(Method::POST, "/api/v1/sessions/u1/kick?forget=true").await;
        assert_eq!((status, &answer["forgotten"]), (200, &json!(true)));
        let (status, answer) = broker.ask(Method::POST, "/api/v1/sessions/u1/kick").await;
        assert_eq!(status, 404, "{answer}");
    }
}

#[tokio::test]
async fn forgetting_ends_connection_and_session_at_once() {
    let broker = Broker::with(open);
    let mut options = persistent(&broker, 1, Version::V5);
    options.client_id = "a/b c%#ä".into();
    let (client, mut incoming, _) = client::connect(&options).await.unwrap();
    client.subscribe(&[("t/a", at(QoS::AtLeastOnce))]).await.unwrap();
    let (status, answer) = broker.ask(Method::POST, "/api/v1/sessions/a%2Fb%20c%25%23%C3%A4/kick?forget=true").await;
    assert_eq!((status, &answer["clientId"]), (200, &json!("a/b c%#ä")), "{answer}");
    assert_eq!(told(&mut incoming).await, Some(ReasonCode::ADMINISTRATIVE_ACTION));
    assert_eq!(sessions(&broker, "").await.len(), 0);
    let (_, _, connected) = client::connect(&options).await.unwrap();
    assert!(!connected.session_present);
    assert_eq!(broker.ask(Method::POST, "/api/v1/sessions/%FF/kick").await.0, 400);
    assert_eq!(broker.ask(Method::GET, "/api/v1/sessions/u1/kick").await.0, 405);
    assert_eq!(broker.ask(Method::POST, "/api/v1/sessions/u1/kick?forgt=true").await.0, 400);
}

#[tokio::test]
async fn a_drained_broker_is_not_ready_takes_nobody_and_sends_everybody_away_in_order() {
    let broker = Broker::start();
    let mut clients = Vec::new();
    for n in 0..6 {
        clients.push(broker.connect(n, Version::V5).await);
    }
    assert_eq!(broker.ask(Method::POST, "/api/v1/drain?rate=0").await.0, 400);
    let began = std::time::Instant::now();
    let (status, answer) = broker.ask(Method::POST, "/api/v1/drain?rate=20").await;
    assert_eq!((status, answer), (202, json!({"connections": 6, "rate": 20})));
    assert_eq!(reqwest::get(format!("http://{}/readyz", broker.admin())).await.unwrap().status(), 503);
    assert_eq!(reqwest::get(format!("http://{}/livez", broker.admin())).await.unwrap().status(), 200);
    for (_, incoming) in &mut clients {
        assert_eq!(told(incoming).await, Some(ReasonCode::SERVER_SHUTTING_DOWN));
    }
    assert!(began.elapsed() >= Duration::from_millis(200), "two every tenth of a second: {:?}", began.elapsed());
    await_until(DEADLINE, "closed listener", async || {
        let connected = tokio::net::TcpStream::connect(broker.address()).await;
        if connected.is_err() { Ok(()) } else { Err("it still accepts") }
    })
    .await;
    assert_eq!(broker.ask(Method::POST, "/api/v1/drain").await.0, 202, "asking twice changes nothing");
}

#[tokio::test]
async fn reload_says_what_was_loaded_or_why_not() {
    let broker = Broker::start();
    let jwks = broker.etc().join("jwks/jwks.json");
    let another = generate(Algorithm::Es256, &[5; 48]).unwrap();
    let keys = PrivateKeys { keys: vec![signing_key(), another.clone()] };
    std::fs::write(&jwks, keys.public()).unwrap();
    let (status, answer) = broker.ask(Method::POST, "/api/v1/reload").await;
    assert_eq!((status, &answer["keys"]), (200, &json!([signing_key().kid(), another.kid()])));
    assert_eq!(answer["users"].as_array().unwrap().len(), 10);
    let listed = broker.get("/api/v1/keys").await;
    assert_eq!(listed["items"][1], json!({"kid": another.kid(), "algorithm": "ES256"}));

    std::fs::write(&jwks, r#"{"keys": []}"#).unwrap();
    let (status, answer) = broker.ask(Method::POST, "/api/v1/reload").await;
    assert_eq!(status, 422, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("jwks.json"), "{answer}");
    assert!(answer["hint"].as_str().unwrap().contains("last good"), "{answer}");
    assert_eq!(broker.get("/api/v1/keys").await, listed, "the last good keys stay");
}

#[tokio::test]
async fn denies_are_kept_with_who_and_what() {
    let broker = Broker::start();
    let (client, _incoming) = broker.connect(1, Version::V5).await;
    client.subscribe(&[("other/#", at(QoS::AtMostOnce))]).await.unwrap();
    client.publish(&Message::new("elsewhere", "x", QoS::AtLeastOnce)).await.unwrap();
    let mut options = broker.options(2, Version::V311);
    options.will = Some(Message::new("gone", "x", QoS::AtMostOnce));
    assert!(client::connect(&options).await.is_err());

    let denies = broker.get("/api/v1/denies").await;
    let seen: Vec<_> = denies["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|deny| {
            ["clientId", "principal", "action", "topic", "why"].map(|key| deny[key].as_str().unwrap().to_owned())
        })
        .collect();
    let why = r#"no rule allows it: user rule 1 allows "t/#""#;
    assert_eq!(
        seen,
        [
            ["u1", "user:u1", "subscribe", "other/#", &format!(r#"{why}, "other" is outside"#)],
            ["u1", "user:u1", "publish", "elsewhere", why],
            ["u2", "user:u2", "will", "gone", why],
        ]
    );
    let after = broker.get("/api/v1/denies?after=2").await;
    assert_eq!(ids(after["items"].as_array().unwrap()), ["u2"]);
    let page = broker.get("/api/v1/denies?client=u1&limit=1").await;
    assert_eq!((ids(page["items"].as_array().unwrap()), &page["next"]), (vec!["u1"], &json!("1")));
}

#[tokio::test]
async fn metrics_count_what_happened_and_name_nobody() {
    let broker = Broker::start();
    let (subscriber, mut incoming) = broker.connect(1, Version::V5).await;
    subscriber.subscribe(&[("t/secretive/#", at(QoS::ExactlyOnce))]).await.unwrap();
    let (publisher, _incoming) = broker.connect(2, Version::V311).await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publisher.publish(&Message::new("t/secretive/a", "x", qos)).await.unwrap();
        incoming.next().await.unwrap().unwrap();
    }
    publisher.publish(&Message { retain: true, ..Message::new("t/kept", "xyz", QoS::AtLeastOnce) }).await.unwrap();
    let (away, _, _) = client::connect(&persistent(&broker, 3, Version::V5)).await.unwrap();
    away.subscribe(&[("t/other", at(QoS::AtLeastOnce))]).await.unwrap();
    away.disconnect(ReasonCode::SUCCESS).await.unwrap();
    publisher.publish(&Message::new("t/other", "x", QoS::AtLeastOnce)).await.unwrap();
    assert!(client::connect(&client::Options::new(broker.address(), "stranger")).await.is_err());
    // An unknown packet type is no CONNECT.
    let mut raw = tokio::net::TcpStream::connect(broker.address()).await.unwrap();
    raw.write_all(&[0xF0, 0]).await.unwrap();
    let _ = raw.read_to_end(&mut Vec::new()).await;

    let expected = [
        (r#"mqtt_connections{listener="mqtt",version="5.0"}"#, 1.0),
        (r#"mqtt_connections{listener="mqtt",version="3.1.1"}"#, 1.0),
        (r#"mqtt_connects_total{listener="mqtt",version="5.0"}"#, 2.0),
        (r#"mqtt_connects_refused_total{reason="not authorized"}"#, 1.0),
        (r#"mqtt_disconnects_total{reason="goodbye"}"#, 1.0),
        (r#"mqtt_protocol_violations_total{id="MQTT-3.1.0-1"}"#, 1.0),
        (r#"mqtt_authentications_total{method="password"}"#, 3.0),
        (r#"mqtt_messages_received_total{qos="0"}"#, 1.0),
        (r#"mqtt_messages_received_total{qos="1"}"#, 3.0),
        (r#"mqtt_messages_received_total{qos="2"}"#, 1.0),
        (r#"mqtt_messages_sent_total{qos="2"}"#, 1.0),
        (r#"mqtt_sessions{state="online"}"#, 2.0),
        (r#"mqtt_sessions{state="away"}"#, 1.0),
        ("mqtt_queued_messages", 1.0),
        ("mqtt_in_flight", 0.0),
        ("mqtt_subscriptions", 2.0),
        ("mqtt_retained_messages", 1.0),
        ("mqtt_handshake_seconds_count", 3.0),
        ("mqtt_password_check_seconds_count", 3.0),
    ];
    let text = await_until(DEADLINE, "the right figures", async || {
        let text = broker.metrics().await;
        let wrong: Vec<_> = expected.iter().map(|(series, _)| (*series, value(&text, series))).collect();
        if expected.iter().all(|(series, n)| value(&text, series) == Some(*n)) { Ok(text) } else { Err(wrong) }
    })
    .await;
    check_form(&text);
}

/// What holds for every line of metrics, whatever happened.
fn check_form(text: &str) {
    for series in [
        "mqtt_bytes_received_total",
        "mqtt_bytes_sent_total",
        "mqtt_packets_received_total",
        "mqtt_queued_bytes",
        "mqtt_retained_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(value(text, series).is_some_and(|it| it > 0.0), "{series}: {text}");
    }
    assert!(value(text, "process_cpu_seconds_total").is_some(), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");

    let allowed = [
        "listener", "version", "reason", "id", "method", "qos", "state", "action", "kind", "limit", "le", "result",
        "source", "cause",
    ];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, number) = line.rsplit_once(' ').unwrap();
        assert!(number.parse::<f64>().is_ok(), "{line}");
        assert!(series.starts_with("mqtt_") || series.starts_with("process_"), "{line}");
        let labels = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            assert!(allowed.contains(&label.split_once('=').unwrap().0), "{line}");
        }
        for secret in ["u1", "u2", "u3", "stranger", "secretive", "kept", "127.0.0.1"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[tokio::test]
async fn log_lines_of_a_noisy_client_are_left_out_and_counted() {
    let broker = Broker::start();
    let (client, _incoming) = broker.connect(1, Version::V5).await;
    for _ in 0..50 {
        client.publish(&Message::new("elsewhere", "x", QoS::AtLeastOnce)).await.unwrap();
    }
    await_until(Duration::from_secs(30), "the number of lines that were left out", async || {
        let text = broker.metrics().await;
        let left_out = value(&text, r#"mqtt_log_lines_suppressed_total{kind="denied"}"#);
        if left_out.is_some_and(|n| (30.0..=40.0).contains(&n)) { Ok(()) } else { Err(left_out) }
    })
    .await;
    assert_eq!(value(&broker.metrics().await, r#"mqtt_denies_total{action="publish"}"#), Some(50.0));
}

#[test]
fn a_probe_leaves_no_warning_and_a_stranger_does() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::sample(directory.path(), "thermometer");
    for _ in 0..3 {
        let mut endpoint = up.mqttctl();
        endpoint.arg("endpoint");
        succeed(endpoint);
    }
    let stranger = format!("mosquitto_pub -h 127.0.0.1 -p {} -t t -m x", up.port);
    assert_ne!(run(up.shell(&stranger)).0, Some(0));
    up.process.line_with("not connected");
    let warnings = up.process.lines().iter().filter(|line| line.contains("not connected")).count();
    assert_eq!(warnings, 1, "{:#?}", up.process.lines());
    up.stop();
}

#[test]
fn mqttctl_lists_shows_and_kicks() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::sample(directory.path(), "thermometer");
    let ctl = |arguments: &[&str]| {
        let mut command = up.mqttctl();
        command.args(arguments);
        command
    };
    let token = succeed(ctl(&["token", "issue", "--sub", "dev1", "--subscribe", "sensor/#"]));
    let subscribe = format!(
        "exec mosquitto_sub -d -V mqttv5 -c -x 300 -h 127.0.0.1 -p {} -i 'dev/1' -u dev1 -P {} -t 'sensor/#' -q 1",
        up.port,
        token.trim()
    );
    let client = Watched::spawn(up.shell(&subscribe));
    client.line_with("SUBACK");

    let table = succeed(ctl(&["session", "list", "--filter", "prefix=dev/"]));
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("CLIENT"), "{table}");
    for part in ["dev/1", "user:dev1", "online", "5.0", "127.0.0.1:", "mqtt", " 1 "] {
        assert!(lines[1].contains(part), "{part}: {table}");
    }
    assert!(succeed(ctl(&["session", "list", "-o", "wide"])).contains("5 min after it"));
    let json: Value = serde_json::from_str(&succeed(ctl(&["session", "list", "-o", "json"]))).unwrap();
    assert!(ids(json.as_array().unwrap()).contains(&"dev/1"), "{json}");
    let shown = succeed(ctl(&["session", "show", "dev/1"]));
    assert!(shown.contains("QoS 1  sensor/#"), "{shown}");

    assert_eq!(succeed(ctl(&["session", "kick", "dev/1", "--forget"])), "dev/1 disconnected; its session is ended\n");
    client.line_with("152");
    for (arguments, says) in [
        (&["session", "kick", "nobody"][..], "`mqttctl session list`"),
        (&["session", "show", "nobody"], "`mqttctl session list`"),
        (&["session", "list", "--filter", "name=x"], "client, prefix, user"),
        (&["session", "list", "--filter", "state=asleep"], "docs/admin.md"),
    ] {
        let (code, stdout, stderr) = run(ctl(arguments));
        assert!(code != Some(0) && stdout.is_empty(), "{arguments:?}: {stdout}{stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
    up.stop();
    let mut stopped = mqttctl(directory.path());
    stopped.args(["--state", ".mqtt", "session", "list"]);
    let (code, _, stderr) = run(stopped);
    assert!(code == Some(1) && stderr.contains("mqttctl up -f FILE"), "{stderr}");
}
