//! `mqttctl up` as a person meets it: it works at once, it keeps what it made, and it says in one line what is wrong.

pub mod running;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Elasticsearch, free_ports, wait_until};
use running::{SOON, Up, Watched, mqttctl, on_port, run, sample, succeed};

/// What is in the files of the sink, a document each.
fn documents(directory: &Path, name: &str) -> Vec<Value> {
    let path = directory.join(format!(".mqtt/default/{name}/telemetry/logs-mqtt.{name}-default.ndjson"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line is a document")).collect()
}

#[test]
fn reading_of_a_thermometer_with_a_token_becomes_a_document() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::sample(directory.path(), "thermometer");
    let token = succeed(up.shell("mqttctl token issue --sub thermometer-1 --publish 'sensor/#'"));
    let (port, token) = (up.port, token.trim());
    let reading = r#"{"celsius": 21.5}"#;
    succeed(up.shell(&format!(
        "mosquitto_pub -h 127.0.0.1 -p {port} -q 1 -i thermometer-1 -u thermometer-1 -P {token} -t sensor/kitchen -m '{reading}'"
    )));
    let document = wait_until(SOON, "document", || documents(directory.path(), "thermometer").pop().ok_or(()));
    assert_eq!(document["payload"]["celsius"], 21.5);
    assert_eq!(document["mqtt"]["topic"], "sensor/kitchen");
    assert_eq!(document["mqtt"]["client_id"], "thermometer-1");
    assert_eq!(document["data_stream"]["dataset"], "mqtt.thermometer");
    up.stop();
}

#[test]
fn printed_commands_work_as_they_are() {
    for name in ["thermometer", "tutorial"] {
        let directory = tempfile::tempdir().unwrap();
        let up = Up::sample(directory.path(), name);
        let lines = up.process.lines();
        let printed = |text: &str| lines.iter().filter(|line| line.contains(text)).cloned().collect::<Vec<_>>();
        let [subscribe] = printed("mosquitto_sub").try_into().expect("one command that listens");
        let listener = Watched::spawn(up.shell(&format!("exec {subscribe} -d")));
        listener.line_with("Subscribed");
        let publish = printed("mosquitto_pub");
        assert_eq!(publish.len(), 2, "with a password and with a token: {lines:#?}");
        succeed(up.shell(&publish[0]));
        listener.line_with("/kitchen ");
        let token = printed("TOKEN=$(").join("\n");
        succeed(up.shell(&format!("set -e; {token}\n{}", publish[1])));
        wait_until(SOON, "both messages", || {
            let seen = listener.lines().iter().filter(|line| line.contains("/kitchen ")).count();
            if seen >= 2 { Ok(()) } else { Err(listener.lines()) }
        });
        up.stop();
    }
}

#[test]
fn second_up_keeps_keys_users_and_passwords() {
    let directory = tempfile::tempdir().unwrap();
    let first = Up::sample(directory.path(), "thermometer");
    let home = directory.path().join(".mqtt/default/thermometer");
    let kept =
        ["keys/keys.json", "keys/state.json", "keys/passwords.json", "etc/jwks/jwks.json", "etc/users/users.json"];
    let contents = || kept.map(|file| std::fs::read(home.join(file)).unwrap_or_else(|error| panic!("{file}: {error}")));
    let before = contents();
    let token = succeed(first.shell("mqttctl token issue --sub dev1 --publish 'sensor/#'"));
    first.stop();

    let second = Up::sample(directory.path(), "thermometer");
    assert_eq!(contents(), before);
    let port = second.port;
    let publish = format!("mosquitto_pub -h 127.0.0.1 -p {port} -q 1 -u dev1 -P {} -t sensor/a -m 1", token.trim());
    succeed(second.shell(&publish));
    second.stop();
}

#[test]
fn second_up_at_the_same_time_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::sample(directory.path(), "tutorial");
    let mut second = up.mqttctl();
    second.args(["up", "-f", "broker.yaml"]);
    refused(run(second), &[".mqtt/default/tutorial", "already", "process"]);
    up.stop();
}

#[test]
fn endpoint_succeeds_only_while_something_serves() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::sample(directory.path(), "tutorial");
    let port = up.port;
    assert_eq!(succeed(up.shell("mqttctl endpoint")), "127.0.0.1\n");
    assert_eq!(succeed(up.shell("mqttctl endpoint tutorial -o url")), format!("mqtt://127.0.0.1:{port}\n"));
    let json: Value = serde_json::from_str(&succeed(up.shell("mqttctl endpoint -o json"))).unwrap();
    assert_eq!((&json["address"], &json["endpoints"][0]["serves"]), (&"127.0.0.1".into(), &true.into()));
    let wide = succeed(up.shell("mqttctl endpoint -o wide"));
    assert!(wide.lines().nth(1).is_some_and(|line| line.ends_with("yes")), "{wide}");
    up.stop();
    let mut endpoint = mqttctl(directory.path());
    endpoint.args(["--state", ".mqtt", "endpoint"]);
    let (code, stdout, stderr) = run(endpoint);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("does not run"), "{stderr}");
}

#[test]
fn publish_and_subscribe_sign_their_own_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::sample(directory.path(), "thermometer");
    succeed(up.shell("mqttctl publish sensor/kitchen 21.5 --qos 1 --retain"));
    let subscribe = "mqttctl subscribe 'sensor/#' --verbose --count 1 --timeout 20";
    assert_eq!(succeed(up.shell(subscribe)), "sensor/kitchen 21.5\n");
    let (code, _, stderr) = run(up.shell("mqttctl publish sensor/kitchen 21.5 --anonymous"));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("refused"), "{stderr}");
    up.stop();
}

#[test]
fn random_bytes_close_only_their_own_connection() {
    let directory = tempfile::tempdir().unwrap();
    let mut up = Up::sample(directory.path(), "tutorial");
    let port = up.port;
    let listener = Watched::spawn(up.shell(&format!("exec mosquitto_sub -h 127.0.0.1 -p {port} -t 'test/#' -d")));
    listener.line_with("Subscribed");
    // A generator with a fixed seed: what fails once fails again.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..64)
            .flat_map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 16).to_le_bytes()
            })
            .collect();
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        // It may be closed before all has been sent.
        let _ = socket.write_all(&bytes);
        let mut answer = Vec::new();
        match socket.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("still open after {bytes:02x?}: {error}"),
        }
    }
    assert!(up.process.is_running());
    let user = "-u mqtt_user -P mqtt_password";
    succeed(up.shell(&format!("mosquitto_pub -h 127.0.0.1 -p {port} -q 1 -t test/after -m served {user}")));
    listener.line_with("served");
    assert_eq!(listener.lines().iter().filter(|line| line.contains("sending CONNECT")).count(), 1);
    up.stop();
}

#[test]
fn unreachable_elasticsearch_holds_up_nothing_but_documents() {
    let elasticsearch = Elasticsearch::start(&[]).unwrap();
    elasticsearch.stop();
    let directory = tempfile::tempdir().unwrap();
    let [port] = free_ports();
    let manifest = on_port(&sample("thermometer"), port);
    let up = Up::start(directory.path(), &manifest, port, &["--elasticsearch", elasticsearch.url()]);
    for reading in 0..20 {
        succeed(up.shell(&format!("mqttctl publish sensor/kitchen '{{\"celsius\": {reading}}}' --qos 1")));
    }
    up.process.line_with("telemetry waits: Unreachable");
    elasticsearch.start_again();
    let count = format!("{}/logs-mqtt.thermometer-default/_count", elasticsearch.url());
    let refresh = format!("{}/logs-mqtt.thermometer-default/_refresh", elasticsearch.url());
    wait_until(Duration::from_mins(2), "20 documents", || {
        let _ = run(up.shell(&format!("curl -s -X POST {refresh}")));
        let (_, found, _) = run(up.shell(&format!("curl -s {count}")));
        let found: Value = serde_json::from_str(&found).map_err(|error| error.to_string())?;
        if found["count"] == 20 { Ok(()) } else { Err(found.to_string()) }
    });
    up.stop();
}

/// Who takes telemetry out of the object gives up what it has not delivered: not without a word.
#[test]
fn telemetry_that_is_taken_out_of_the_object_is_told_with_what_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let [port, nobody] = free_ports();
    let manifest = on_port(&sample("thermometer"), port);
    let up = Up::start(directory.path(), &manifest, port, &["--elasticsearch", &format!("http://127.0.0.1:{nobody}")]);
    for reading in 0..3 {
        succeed(up.shell(&format!("mqttctl publish sensor/kitchen {reading} --qos 1")));
    }
    up.stop();
    let without = manifest.split("  telemetry:").next().unwrap();
    let up = Up::start(directory.path(), without, port, &[]);
    let line = up.process.line_with("there is no telemetry any more");
    assert!(line.contains("undelivered=3"), "{line}");
    assert!(!succeed(up.shell("mqttctl session list")).contains("system:bridge"));
    up.stop();
}

/// The exit code is 1, standard output is empty, and standard error is one line with all of these.
#[track_caller]
fn refused((code, stdout, stderr): (Option<i32>, String, String), texts: &[&str]) {
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for text in texts {
        assert!(stderr.contains(text), "no {text:?} in: {stderr}");
    }
}

#[track_caller]
fn manifest_is_refused(manifest: &str, texts: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("broker.yaml"), manifest).unwrap();
    let mut up = mqttctl(directory.path());
    up.args(["up", "-f", "broker.yaml"]);
    refused(run(up), texts);
}

#[test]
fn file_that_cannot_be_read_is_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let mut up = mqttctl(directory.path());
    up.args(["up", "-f", "absent.yaml"]);
    refused(run(up), &["absent.yaml", "No such file"]);
}

#[test]
fn unknown_field_is_named_with_its_line() {
    let manifest = sample("tutorial").replace("spec:\n", "spec:\n  colour: blue\n");
    let line = manifest.lines().position(|line| line.contains("colour")).unwrap() + 1;
    manifest_is_refused(&manifest, &["broker.yaml", &format!("line {line}"), "colour"]);
}

#[test]
fn unknown_protocol_and_equal_ports_are_named() {
    let two = |second: &str| {
        sample("tutorial").replace(
            "spec:\n",
            &format!("spec:\n  listeners:\n  - {{name: a, protocol: mqtt, port: 1883}}\n  - {second}\n"),
        )
    };
    manifest_is_refused(&two("{name: b, protocol: quic, port: 1884}"), &["protocol", "quic"]);
    manifest_is_refused(&two("{name: b, protocol: mqtt, port: 1883}"), &["listeners", "port"]);
}

#[test]
fn secret_that_is_not_in_the_file_is_named() {
    let manifest = sample("tutorial").replace("name: tutorial-password, key", "name: elsewhere, key");
    manifest_is_refused(&manifest, &["spec.auth.users[0].passwordSecretRef", "Secret elsewhere", "password"]);
}

#[test]
fn port_that_is_taken_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    manifest_is_refused(&on_port(&sample("tutorial"), port), &[&format!("127.0.0.1:{port}"), "in use"]);
}
