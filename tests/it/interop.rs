//! Other people's clients: what each of them sees of the broker, in each version that it speaks.
//!
//! A client does the whole exchange by itself, in its own language, and prints what happened; what has to have happened is
//! here, once for all of them.

mod browser;
mod mosquitto;
mod page_of_clients;

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use mqtt_operator::auth::key::{Algorithm, generate};
use mqtt_operator::auth::rule::Action;
use mqtt_operator::auth::token::{Claims, issue};
use mqtt_operator::config::broker::{Listener, Protocol};
use serde_json::{Value, json};

use crate::support::{Authority, Broker, PASSWORD, Paho, allow, go_program, node, paho, project_file, run};

/// The numbers that the client libraries take for 3.1, 3.1.1 and 5.
const VERSIONS: [u8; 3] = [3, 4, 5];

/// A token for `u1`, which [`Broker`] takes.
fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = Claims {
        iss: "mqttbroker/test/broker".into(),
        aud: "mqtt://test/broker".into(),
        sub: "u1".into(),
        iat: now,
        exp: now + 600,
        acl: vec![allow(Action::All, "t/#")],
        ..Claims::default()
    };
    issue(&generate(Algorithm::EdDsa, &[7; 48]).unwrap(), &claims)
}

/// What a client is told: `more` are the settings of its kind.
fn settings(address: &str, prefix: &str, version: u8, more: &Value) -> String {
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut settings = json!({
        "url": format!("mqtt://{address}"),
        "host": host,
        "port": port.parse::<u16>().unwrap(),
        "version": version,
        "username": "u1",
        "password": String::from_utf8_lossy(PASSWORD),
        "wrong": "incorrect horse",
        "token": token(),
        "prefix": prefix,
    });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    settings.to_string()
}

/// What every client has to see. The words for a refusal are its own.
fn expected(version: u8) -> Value {
    json!({
        "password": "connected",
        "token": "connected",
        // Published to granted: delivered with the lower.
        "qos": {
            "0 to 0": 0, "1 to 0": 0, "2 to 0": 0,
            "0 to 1": 0, "1 to 1": 1, "2 to 1": 1,
            "0 to 2": 0, "1 to 2": 1, "2 to 2": 2,
        },
        "retained": {"kept": ["kept", true], "live": ["", false], "after": "marker"},
        "will": "gone",
        // 3.1 has no word for a session that is present.
        "away": {"present": [false, version != 3], "inOrder": true},
        "large": [true, true, true],
        "ordered": {"0": 1000, "1": 1000, "2": 1000},
    })
}

/// Takes the words for refusals out of what a client saw, and compares the rest.
#[track_caller]
fn check(client: &str, version: u8, seen: &str) -> (Value, Value, Value) {
    let mut seen: Value = serde_json::from_str(seen).unwrap_or_else(|error| panic!("{client}: {error}: {seen}"));
    let facts = seen.as_object_mut().unwrap();
    let mut take = |name: &str| facts.remove(name).unwrap_or_default();
    let (wrong, denied) = (take("wrong"), take("denied"));
    let more = json!({"shared": take("shared"), "properties": take("properties")});
    assert_eq!(seen, expected(version), "{client} {version}");
    (wrong, denied, more)
}

/// Runs the exchange in all versions at once.
fn in_all_versions(exchange: impl Fn(u8) -> Command + Sync, judge: impl Fn(u8, &str) + Sync) {
    std::thread::scope(|scope| {
        for version in VERSIONS {
            let (exchange, judge) = (&exchange, &judge);
            scope.spawn(move || judge(version, &run(&mut exchange(version))));
        }
    });
}

fn script(name: &str) -> std::path::PathBuf {
    project_file("tests/it/interop").join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn mqttjs_in_node_gets_what_it_expects() {
    let broker = Broker::start();
    let exchange = |version| {
        let mut node = node();
        node.arg(script("node.js")).arg(settings(&broker.address(), &format!("js{version}"), version, &json!({})));
        node
    };
    in_all_versions(exchange, |version, seen| judge_mqttjs("js", version, seen));
}

/// What only MQTT.js is asked for, and its words for refusals; `prefix` is what its topics begin with.
fn judge_mqttjs(prefix: &str, version: u8, seen: &str) {
    let (wrong, denied, more) = check("MQTT.js", version, seen);
    let five = version == 5;
    let words = if five {
        json!({"code": 0x86, "message": "Connection refused: Bad User Name or Password"})
    } else {
        json!({"code": 4, "message": "Connection refused: Bad username or password"})
    };
    assert_eq!(wrong, words, "{version}");
    let words = if five {
        json!({"publish": "Publish error: Not authorized", "subscribe": "Subscribe error: Not authorized"})
    } else {
        json!({"publish": "acknowledged", "subscribe": "Subscribe error: Unspecified error"})
    };
    assert_eq!(denied, words, "{version}");
    assert_eq!(more["shared"], json!({"distinct": 100, "total": 100, "bothServed": true}), "{version}");
    let properties = json!({
        "user": {"unit": "celsius", "site": ["a", "b"]},
        "contentType": "text/plain",
        "responseTopic": format!("t/{prefix}{version}/answers"),
        "correlation": [1, 2, 3],
        "format": true,
        "expiry": true,
        "subscription": 7,
    });
    assert_eq!(more["properties"], if five { properties } else { Value::Null }, "{version}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paho_for_python_gets_what_it_expects() {
    let broker = Broker::start();
    for (major, name) in [(Paho::V1_6, "paho1"), (Paho::V2, "paho2")] {
        let exchange = |version| {
            let mut python = paho(major);
            let prefix = format!("{name}-{version}");
            python.arg(script("exchange.py")).arg(settings(&broker.address(), &prefix, version, &json!({})));
            python
        };
        in_all_versions(exchange, |version, seen| {
            let (wrong, denied, _) = check(name, version, seen);
            // paho 2 says for 3.x what MQTT 5 would say.
            let words = match (major, version) {
                (Paho::V1_6, 3 | 4) => "4: Connection Refused: bad user name or password.",
                _ => "134: Bad user name or password",
            };
            assert_eq!(wrong, words, "{name} {version}");
            assert_eq!(denied["subscribe"], if version == 5 { 0x87 } else { 0x80 }, "{name} {version}");
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paho_and_mqttjs_get_the_same_over_tls() {
    let authority = Authority::new("interop");
    let broker = Broker::with_files(
        |config| config.listeners.push(Listener::new("mqtts", Protocol::Mqtts, ([127, 0, 0, 1], 0).into())),
        |etc| authority.server().write(etc.certificate("mqtts").parent().unwrap()),
    );
    let address = broker.listener("mqtts").to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let tls = json!({"ca": file.path(), "url": format!("mqtts://{address}")});
    let command = |mut program: Command, name: &str, prefix: &str, version| {
        program.arg(script(name)).arg(settings(&address, &format!("{prefix}{version}"), version, &tls));
        program
    };
    let (python, javascript) = std::thread::scope(|scope| {
        let python = scope.spawn(|| run(&mut command(paho(Paho::V2), "exchange.py", "paho", 4)));
        (python.join(), run(&mut command(node(), "node.js", "js", 5)))
    });
    check("paho over TLS", 4, &python.unwrap());
    judge_mqttjs("js", 5, &javascript);
}

#[tokio::test(flavor = "multi_thread")]
async fn eclipse_clients_for_go_get_what_they_expect() {
    let broker = Broker::start();
    let exchange = |version| {
        let mut program = go_program("exchange");
        program.arg(settings(&broker.address(), &format!("go{version}"), version, &json!({})));
        program
    };
    in_all_versions(exchange, |version, seen| {
        let (wrong, denied, _) = check("Go", version, seen);
        if version == 5 {
            let words = wrong.as_str().unwrap();
            assert!(words.starts_with("reason code 0x86: failed to connect to server"), "{words}");
            let words = denied["subscribe"].as_str().unwrap();
            assert!(words.starts_with("failed to subscribe to topic"), "{words}");
        } else {
            assert_eq!(wrong, "bad user name or password", "{version}");
            assert_eq!(denied["subscribe"], 0x80, "{version}");
        }
    });
}
