//! A broker of ours with a bridge beside it, as in a pod: documents in files, both in this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mqtt_operator::auth::admin;
use mqtt_operator::auth::key::PrivateKeys;
use mqtt_operator::auth::rule::{Action, Permission, Rule};
use mqtt_operator::auth::settings::{Anonymous, Settings};
use mqtt_operator::bridge::{self, Counters};
use mqtt_operator::broker::{self, Running};
use mqtt_operator::client::{Client, Incoming, Message, Options, connect};
use mqtt_operator::config::FORMAT;
use mqtt_operator::config::bridge::{Bridge, Elasticsearch, Sink};
use mqtt_operator::config::broker::{BridgeAccess, Broker, DEFAULT_BUFFER, Limits, Listener, Protocol, Users};
use mqtt_operator::config::files::{Etc, State};
use mqtt_operator::config::report::{self, BridgeState};
use mqtt_operator::mqtt::{QoS, Version};
use mqtt_operator::process::Shutdown;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{await_until, signing_key, unix_seconds};

pub const LONG: Duration = Duration::from_mins(1);
const ISSUER: &str = "mqttbroker/it/rig";
const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// The broker, and the files of both.
pub struct Rig {
    pub etc: Etc,
    pub running: Running,
    directory: tempfile::TempDir,
    name: &'static str,
}

impl Rig {
    /// A broker whose bridge may subscribe to `sensor/#`. `name` makes the data stream this test's own.
    pub fn start(name: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (etc, state) = (Etc(directory.path().join("etc")), State(directory.path().join("lib")));
        // No device has a token here; the admin port of the bridge wants one.
        let keys = PrivateKeys { keys: vec![signing_key()] }.public();
        write(etc.jwks(), &serde_json::from_str(&keys).unwrap());
        write(etc.users(), &serde_json::to_value(Users { format: FORMAT, users: Vec::new() }).unwrap());
        write(etc.bridge_password(), &json!("secret"));
        let running = broker::start(broker_document(name), etc.clone(), &state, Shutdown::new()).unwrap();
        Self { etc, running, directory, name }
    }

    /// The bridge's document, with the broker of this rig.
    pub fn document(&self, sink: Sink) -> Bridge {
        Bridge {
            format: FORMAT,
            namespace: "it".into(),
            issuer: ISSUER.into(),
            name: self.name.into(),
            broker: self.running.internal.unwrap(),
            admin: (LOOPBACK, 0).into(),
            topics: vec!["sensor/#".into()],
            data_stream: self.data_stream(),
            dead_letters: self.dead_letters(),
            sink,
        }
    }

    /// A token that opens the admin port of the bridge.
    pub fn admin_token(&self) -> String {
        admin::mint(&signing_key(), ISSUER, &admin::audience("it", self.name), "tests", unix_seconds())
    }

    /// Starts a bridge and waits until its subscription stands.
    pub async fn bridge(&self, sink: Sink) -> Carrier {
        let carrier = Carrier::start(&self.etc, self.document(sink));
        await_until(LONG, "subscription of the bridge", async || {
            let report = carrier.report();
            // Only the sink may be in the way.
            if report.state == BridgeState::Connecting && !report.message.is_empty() { Err(report) } else { Ok(()) }
        })
        .await;
        carrier
    }

    /// The stream that documents go to where nobody says otherwise.
    pub fn data_stream(&self) -> String {
        format!("logs-mqtt.{}-it", self.name)
    }

    /// A stream of its own for each test: they run side by side.
    pub fn dead_letters(&self) -> String {
        format!("logs-mqtt.deadletter-{}", self.name)
    }

    pub fn telemetry(&self) -> PathBuf {
        self.directory.path().join("telemetry")
    }

    pub async fn device(&self, client_id: &str) -> (Client, Incoming) {
        let address = self.running.listeners[0].1.to_string();
        let options = Options { version: Version::V5, ..Options::new(address, client_id) };
        let (client, incoming, _) = connect(&options).await.unwrap();
        (client, incoming)
    }

    /// Publishes at QoS 1, and returns when the broker has acknowledged all of it.
    pub async fn publish(&self, payloads: impl IntoIterator<Item = impl Into<bytes::Bytes>>) {
        let (device, _incoming) = self.device("kitchen").await;
        let mut sent = Vec::new();
        for payload in payloads {
            sent.push(device.send(&Message::new("sensor/kitchen", payload, QoS::AtLeastOnce)).await.unwrap());
        }
        for answer in sent {
            assert!(!answer.await.unwrap().is_failure());
        }
    }
}

fn broker_document(name: &str) -> Broker {
    let rule = Rule {
        permission: Permission::Allow,
        action: Action::All,
        topic: "#".into(),
        qos: None,
        retain: None,
        share: None,
    };
    Broker {
        format: FORMAT,
        namespace: "it".into(),
        name: name.into(),
        listeners: vec![Listener::new("mqtt", Protocol::Mqtt, (LOOPBACK, 0).into())],
        admin: (LOOPBACK, 0).into(),
        auth: Settings { anonymous: Some(Anonymous { acl: vec![rule] }), ..Settings::default() },
        // An outage shall fill the bridge and not the queue behind it, which makes publishers wait.
        limits: Limits { max_queued_bytes: 1 << 30, ..Limits::default() },
        storage: None,
        bridge: Some(BridgeAccess {
            listen: (LOOPBACK, 0).into(),
            topics: vec!["sensor/#".into()],
            buffer: DEFAULT_BUFFER,
        }),
    }
}

/// Writes a document below `etc`, making its directory.
pub fn write(path: PathBuf, document: &Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text = document.as_str().map_or_else(|| document.to_string(), str::to_owned);
    std::fs::write(path, text).unwrap();
}

pub fn elasticsearch(url: &str) -> Sink {
    Sink::Elasticsearch(Elasticsearch { urls: vec![url.to_owned()] })
}

/// A bridge at work.
pub struct Carrier {
    pub counters: Arc<Counters>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Carrier {
    pub fn start(etc: &Etc, document: Bridge) -> Self {
        let (counters, shutdown, etc) = (Arc::new(Counters::default()), Shutdown::new(), etc.clone());
        let (counting, stop) = (Arc::clone(&counters), shutdown.clone());
        let task = tokio::spawn(async move { bridge::run(&etc, document, counting, stop).await });
        Self { counters, shutdown, task }
    }

    pub fn report(&self) -> report::Bridge {
        self.counters.report()
    }

    /// Waits until the report is as wanted.
    pub async fn reports(&self, what: &str, wanted: impl Fn(&report::Bridge) -> bool) -> report::Bridge {
        await_until(LONG, what, async || {
            let report = self.report();
            if wanted(&report) { Ok(report) } else { Err(report) }
        })
        .await
    }

    /// Ends it as SIGTERM does.
    pub async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.unwrap();
    }

    /// Ends it as SIGKILL does: in the middle of whatever it does.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// What an Elasticsearch holds, seen from outside.
pub struct Index<'a>(pub &'a str);

impl Index<'_> {
    pub async fn get(&self, path: &str) -> Value {
        self.call(reqwest::Method::GET, path, Value::Null).await
    }

    pub async fn call(&self, method: reqwest::Method, path: &str, body: Value) -> Value {
        let mut request = reqwest::Client::new().request(method, format!("{}/{path}", self.0));
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert!(status.is_success(), "{path}: {answer}");
        answer
    }

    async fn has(&self, stream: &str) -> bool {
        reqwest::get(format!("{}/{stream}", self.0)).await.unwrap().status() != reqwest::StatusCode::NOT_FOUND
    }

    /// Documents that Elasticsearch has written to a stream, whether or not it has said so to anyone; none while the
    /// stream has no shard.
    pub async fn writes(&self, stream: &str) -> u64 {
        if !self.has(stream).await {
            return 0;
        }
        let stats = self.get(&format!("{stream}/_stats/indexing")).await;
        stats["_all"]["primaries"]["indexing"]["index_total"].as_u64().unwrap_or(0)
    }

    /// Every document of a stream, by its publication; none while there is no stream.
    pub async fn documents(&self, stream: &str) -> Vec<Value> {
        if !self.has(stream).await {
            return Vec::new();
        }
        self.get(&format!("{stream}/_refresh")).await;
        let query = json!({"size": 10_000, "track_total_hits": true, "sort": ["_doc"], "query": {"match_all": {}}});
        let found = self.call(reqwest::Method::POST, &format!("{stream}/_search"), query).await;
        let hits = found["hits"]["hits"].as_array().unwrap();
        assert_eq!(found["hits"]["total"]["value"], hits.len());
        for hit in hits {
            assert_eq!(hit["_id"], hit["_source"]["event"]["id"]);
        }
        hits.iter().map(|hit| hit["_source"].clone()).collect()
    }
}
