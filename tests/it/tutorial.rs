//! The tutorial, with the programs and libraries that people have.

use serde_json::{Value, json};

use crate::support::{Paho, paho};
use crate::up::running::{SAMPLE_PORT, SamplePort, Up, Watched, run, sample, succeed};

const SUBSCRIBE: &str = "mosquitto_sub -h $ENDPOINT -t test/# -v -d";
const PUBLISH: &str =
    r#"mosquitto_pub -h $ENDPOINT -m "test message" -t test/terminal -u mqtt_user -P mqtt_password -d"#;

/// The tutorial's broker on the port that commands use which name none.
fn with_tutorial(test: impl FnOnce(&Up)) {
    let port = SamplePort::take();
    let directory = tempfile::tempdir().unwrap();
    let up = Up::start(directory.path(), &sample("tutorial"), SAMPLE_PORT, &[]);
    test(&up);
    up.stop();
    drop(port);
}

#[test]
fn two_commands_work_as_they_are_written() {
    with_tutorial(|up| {
        for version in ["", " -V mqttv31", " -V mqttv311", " -V mqttv5"] {
            let endpoint = "ENDPOINT=$(mqttctl endpoint)";
            let listener = Watched::spawn(up.shell(&format!("{endpoint}; exec {SUBSCRIBE}{version}")));
            listener.line_with("Subscribed");
            let published = succeed(up.shell(&format!("{endpoint}; {PUBLISH}{version}")));
            assert!(published.contains("received CONNACK (0)"), "{version}: {published}");
            listener.line_with("test/terminal test message");
            assert_eq!(listener.count("test/terminal test message"), 1, "{version}");
        }
    });
}

#[test]
fn paho_of_both_majors_works_in_all_versions() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::sample(directory.path(), "tutorial");
    let exchange = |version: Paho, protocol: &str, password: &str| -> Value {
        let mut python = paho(version);
        python.args([
            "-c",
            include_str!("tutorial/exchange.py"),
            "127.0.0.1",
            &up.port.to_string(),
            protocol,
            password,
        ]);
        serde_json::from_str(&succeed(python)).expect("the script prints JSON")
    };
    for version in [Paho::V1_6, Paho::V2] {
        for (protocol, refusal) in [("3.1", 4), ("3.1.1", 4), ("5", 0x86)] {
            let received: Vec<Value> =
                (0..3).map(|qos| json!([format!("test/terminal/{qos}"), "test message", qos])).collect();
            assert_eq!(
                exchange(version, protocol, "mqtt_password"),
                json!({"listener": 0, "speaker": 0, "received": received}),
                "{version:?} {protocol}"
            );
            // paho 2 gives its own number for a refusal in 3.x: that of MQTT 5.
            let refusal = if version == Paho::V2 { 0x86 } else { refusal };
            assert_eq!(
                exchange(version, protocol, "wrong"),
                json!({"listener": 0, "speaker": refusal, "received": []}),
                "{version:?} {protocol}"
            );
        }
    }
    up.stop();
}

#[test]
fn refusals_have_the_right_codes() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::sample(directory.path(), "tutorial");
    let broker = format!("-h 127.0.0.1 -p {}", up.port);
    // mosquitto_pub exits with the code of the CONNACK.
    for (version, credentials, code) in [
        ("mqttv31", "-u mqtt_user -P wrong", 4),
        ("mqttv311", "-u mqtt_user -P wrong", 4),
        ("mqttv5", "-u mqtt_user -P wrong", 0x86),
        ("mqttv311", "-u nobody -P mqtt_password", 4),
        ("mqttv5", "-u nobody -P mqtt_password", 0x86),
        ("mqttv5", "-u mqtt_user", 0x86),
    ] {
        let command = format!("mosquitto_pub {broker} -V {version} {credentials} -t test/a -m 1");
        let (found, _, stderr) = run(up.shell(&command));
        assert_eq!(found, Some(code), "{command}\n{stderr}");
    }
    let user = "-u mqtt_user -P mqtt_password";
    for (command, says) in [
        (format!("mosquitto_pub {broker} -V mqttv5 {user} -q 1 -t other/a -m 1"), "Not authorized"),
        (format!("mosquitto_pub {broker} -V mqttv5 -q 1 -t test/a -m 1"), "Not authorized"),
        (format!("mosquitto_sub {broker} -V mqttv5 {user} -t '#' -W 20"), "denied"),
        (format!("mosquitto_sub {broker} -V mqttv311 -t 'other/#' -W 20"), "denied"),
    ] {
        let (_, _, stderr) = run(up.shell(&command));
        assert!(stderr.contains(says), "{command}\n{stderr}");
    }
    up.stop();
}
