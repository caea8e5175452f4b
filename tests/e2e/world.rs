//! The cluster, the Elasticsearch beside it, and what is asked of both.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Elasticsearch, Grant, HOST, LoadBalancer, Node, await_until, lab_script, run};

/// Where the broker's object is.
pub const NAMESPACE: &str = "home";
/// Where the operator is.
pub const OPERATORS: &str = "mqtt-operator";
/// The object of the sample.
pub const BROKER: &str = "thermometer";

/// What there is to wait for is done by programs on this machine, most of it in seconds; two cores may be busy.
pub const PATIENCE: Duration = Duration::from_mins(2);

pub struct World {
    pub node: Node,
    pub elasticsearch: Elasticsearch,
    pub http: reqwest::Client,
    _load_balancer: LoadBalancer,
    /// What volumes are made of.
    disk: tempfile::TempDir,
    started: Instant,
}

impl World {
    /// A node with the image of this build, a load balancer, and an Elasticsearch that pods reach.
    pub async fn create() -> Self {
        let started = Instant::now();
        let image = tempfile::tempdir().expect("a temporary directory");
        let archive = image.path().join("image.tar");
        let programs =
            std::path::Path::new(env!("CARGO_BIN_EXE_mqtt-operator")).parent().expect("a file has a directory");
        run(lab_script("image").arg(programs).arg(&archive).arg("localhost/mqtt-operator:test"));
        let node = Node::start(&[archive.to_str().expect("a UTF-8 path")]).unwrap_or_else(|error| panic!("{error}"));
        // The address belongs to the node's network, so the node comes first.
        let elasticsearch = Elasticsearch::start_at(IpAddr::V4(HOST), &[]).unwrap_or_else(|error| panic!("{error}"));
        let load_balancer = LoadBalancer::start(node.client().await, Grant::Ip);
        let disk = tempfile::tempdir().expect("a temporary directory");
        Self { node, elasticsearch, http: reqwest::Client::new(), _load_balancer: load_balancer, disk, started }
    }

    /// Says what comes next, and when.
    pub fn step(&self, what: &str) {
        println!("[{:4} s] {what}", self.started.elapsed().as_secs());
    }

    /// `kubectl` with these words as arguments.
    pub fn kubectl(&self, words: &str) -> String {
        run(self.node.kubectl().args(words.split_whitespace()))
    }

    /// `kubectl apply` of a text.
    pub fn apply(&self, namespace: &str, manifest: &str) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), manifest).expect("a writable file");
        run(self.node.kubectl().args(["-n", namespace, "apply", "-f"]).arg(file.path()));
    }

    /// Makes a volume for a claim that names no class, a directory of the node that belongs to root.
    pub fn volume(&self, name: &str, size: &str) {
        let directory = self.disk.path().join(name);
        std::fs::create_dir(&directory).expect("a writable directory");
        let node = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]});
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "local": {"path": directory},
            "persistentVolumeReclaimPolicy": "Retain",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}}}});
        self.apply(NAMESPACE, &volume.to_string());
    }

    /// One object as the API server has it.
    pub fn get(&self, namespace: &str, object: &str) -> Value {
        let text = run(self.node.kubectl().args(["-n", namespace, "get", object, "-o", "json"]));
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// `mqttctl` of this build with these words, looking at the broker.
    fn mqttctl(&self, words: &str) -> Command {
        let mut command = self.node.command(env!("CARGO_BIN_EXE_mqttctl"));
        command.args(words.split_whitespace()).args(["-n", NAMESPACE, "-b", BROKER]);
        command
    }

    /// A token for the subject `listener`, who may also subscribe.
    pub fn listener_token(&self) -> String {
        self.ctl("token issue --sub listener --ttl 1h --publish sensor/# --subscribe sensor/#")
    }

    /// A token for the subject `thermometer-1`.
    pub fn token(&self, ttl: &str, topic: &str) -> String {
        let issue = format!("token issue --sub thermometer-1 --ttl {ttl} --publish {topic}");
        run(&mut self.mqttctl(&issue)).trim_end().to_owned()
    }

    /// What `mqttctl` prints.
    pub fn ctl(&self, words: &str) -> String {
        run(&mut self.mqttctl(words)).trim_end().to_owned()
    }

    /// The key that signs.
    pub fn active_key(&self) -> String {
        let keys: Vec<Value> =
            serde_json::from_str(&run(&mut self.mqttctl("keys list -o json"))).expect("mqttctl prints JSON");
        let active = keys.iter().find(|key| key["state"] == "active").expect("one key signs");
        active["kid"].as_str().expect("a key has an id").to_owned()
    }

    /// The broker's pods that are not on their way out.
    pub fn broker_pods(&self) -> Vec<Value> {
        let selector = format!("app.kubernetes.io/instance={BROKER}");
        let text = run(self.node.kubectl().args(["-n", NAMESPACE, "get", "pods", "-l", &selector, "-o", "json"]));
        let list: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        let pods = list["items"].as_array().expect("a list has items").iter();
        pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect()
    }

    /// The one broker pod, when it is ready and is not `previous`.
    pub async fn ready_pod(&self, previous: Option<&str>) -> Value {
        await_until(PATIENCE, "ready broker pod", async || {
            let pods = self.broker_pods();
            let [pod] = pods.as_slice() else { return Err(format!("{} pods", pods.len())) };
            let fresh = pod["metadata"]["uid"].as_str() != previous;
            if fresh && condition(pod, "Ready") == "True" { Ok(pod.clone()) } else { Err(pod["status"].to_string()) }
        })
        .await
    }

    /// Waits until the broker's object has this condition for its present generation.
    pub async fn await_condition(&self, kind: &str, status: &str) {
        await_until(PATIENCE, &format!("{kind}={status}"), async || {
            let object = self.get(NAMESPACE, &format!("mqttbroker/{BROKER}"));
            let current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            if current && condition(&object, kind) == status { Ok(()) } else { Err(object["status"].to_string()) }
        })
        .await;
    }

    /// Waits until this condition of the broker's object has this reason, and returns its message.
    pub async fn await_reason(&self, kind: &str, reason: &str) -> String {
        await_until(PATIENCE, &format!("{kind}: {reason}"), async || {
            let object = self.get(NAMESPACE, &format!("mqttbroker/{BROKER}"));
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.into_iter().find(|it| it["type"] == kind && it["reason"] == reason);
            found.map(|it| it["message"].as_str().unwrap_or_default().to_owned()).ok_or(object["status"].to_string())
        })
        .await
    }

    /// Waits until the broker is Ready and MQTT is served at its address, which is returned.
    ///
    /// The second comes a moment after the first: kube-proxy, too, has to hear that the pod is ready.
    pub async fn await_served(&self) -> String {
        self.await_condition("Ready", "True").await;
        await_until(PATIENCE, "MQTT at the address", async || {
            let output = self.mqttctl("endpoint -o address").output().map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let address = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
            if output.status.success() { Ok(address) } else { Err(said) }
        })
        .await
    }

    /// Waits until exactly these readings of the topic are in Elasticsearch, each once, and returns their documents.
    pub async fn await_documents(&self, topic: &str, readings: std::ops::Range<u32>) -> BTreeMap<u64, Value> {
        let wanted: Vec<u64> = readings.map(u64::from).collect();
        let documents = await_until(PATIENCE, &format!("document for each of {} readings", wanted.len()), async || {
            let documents = self.search(topic).await?;
            let mut found: Vec<u64> = documents.iter().filter_map(reading).collect();
            found.sort_unstable();
            if found == wanted { Ok(documents) } else { Err(format!("readings {found:?}")) }
        })
        .await;
        documents.into_iter().map(|document| (reading(&document).unwrap_or_default(), document)).collect()
    }

    /// The documents of a topic in the broker's data stream.
    pub async fn search(&self, topic: &str) -> Result<Vec<Value>, String> {
        let stream = format!("{}/logs-mqtt.{BROKER}-{NAMESPACE}", self.elasticsearch.url());
        let query = json!({"size": 1000, "query": {"term": {"mqtt.topic": topic}}});
        self.post(&format!("{stream}/_refresh"), &json!({})).await?;
        let answer = self.post(&format!("{stream}/_search"), &query).await?;
        let hits = answer["hits"]["hits"].as_array().ok_or_else(|| answer.to_string())?;
        Ok(hits.iter().map(|hit| hit["_source"].clone()).collect())
    }

    async fn post(&self, url: &str, body: &Value) -> Result<Value, String> {
        let answer = self.http.post(url).json(body).send().await.map_err(|error| error.to_string())?;
        answer.json().await.map_err(|error| error.to_string())
    }
}

/// The status of a condition of an object, `Unknown` where it is absent.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or("Unknown")
}

fn reading(document: &Value) -> Option<u64> {
    document["payload"]["reading"].as_u64()
}

/// A test that fails shows what the cluster has to say about it.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let show = |words: &str| {
            println!("\n--- kubectl {words}");
            let output = self.node.kubectl().args(words.split_whitespace()).output();
            println!(
                "{}",
                output.map_or_else(|error| error.to_string(), |it| String::from_utf8_lossy(&it.stdout).into())
            );
        };
        show("get all,mqttbrokers -A -o wide");
        show(&format!("-n {NAMESPACE} get mqttbrokers -o yaml"));
        show(&format!("-n {NAMESPACE} describe pods,statefulsets"));
        show(&format!("-n {OPERATORS} describe pods"));
        show("get events -A --sort-by=.lastTimestamp");
        let broker = format!("-n {NAMESPACE} logs --tail=100 -l app.kubernetes.io/instance={BROKER}");
        show(&format!("{broker} -c broker"));
        show(&format!("{broker} -c bridge"));
        show(&format!("-n {OPERATORS} logs --tail=200 --prefix -l app.kubernetes.io/name=mqtt-operator"));
    }
}

/// `helm` with these words as arguments.
pub fn helm(world: &World, words: &str) -> String {
    let mut command: Command = world.node.helm();
    run(command.args(words.split_whitespace()))
}
