//! Why a client does not get through, as the people who look after a broker see it: denies, the audit log, metrics.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use mqtt_operator::auth::key::{Algorithm, generate};
use mqtt_operator::auth::rule::Action;
use mqtt_operator::auth::token::{Claims, issue};
use mqtt_operator::client::{self, Message, Options};
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, Version};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Broker, PASSWORD, allow, await_until, free_ports, signing_key, unix_seconds, write_etc};
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

async fn metrics(broker: &Broker) -> String {
    reqwest::get(format!("http://{}/metrics", broker.admin())).await.unwrap().text().await.unwrap()
}

fn value(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
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
    let metrics = metrics(&broker).await;
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
        let text = metrics(&broker).await;
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

/// A broker as a process that logs JSON at the most verbose level, from documents that [`write_etc`] made.
struct Logged {
    _etc: tempfile::TempDir,
    address: String,
    process: Watched,
}

impl Logged {
    fn start() -> Self {
        let etc = tempfile::tempdir().unwrap();
        let [port, admin] = free_ports();
        write_etc(etc.path(), |config| {
            config.listeners[0].port = port;
            config.admin.set_port(admin);
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"));
        command.arg("--etc").arg(etc.path()).env("LOG_FORMAT", "json").env("RUST_LOG", "trace");
        let process = Watched::spawn(command);
        process.line_with("\"listening\"");
        Self { _etc: etc, address: format!("127.0.0.1:{port}"), process }
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
