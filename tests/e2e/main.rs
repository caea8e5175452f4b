//! The whole thing on a real Kubernetes node, as a person would do it.

// The helpers of tests are outside `#[test]` functions, where clippy takes them for production code.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod device;
mod world;

use std::path::Path;
use std::time::{Duration, Instant};

use mqtt_operator::client::{self, Message, Options};
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};
use serde_json::{Value, json};
use tokio::time::timeout;

use device::{Answers, Device, Dialect};
use support::{await_until, project_file};
use world::{BROKER, NAMESPACE, OPERATORS, PATIENCE, World, condition, helm};

/// Within this a changed rule is in force, from the moment that somebody applies it.
const IN_FORCE: Duration = Duration::from_secs(15);
const TOPIC: &str = "sensor/kitchen/temperature";

/// One test, because it is one story: each step stands on what the one before it left.
#[tokio::test(flavor = "multi_thread")]
async fn a_thermometer_outside_the_cluster_reports_to_elasticsearch() {
    let world = World::create().await;
    install_the_operator(&world);
    let device = apply_the_sample(&world).await;
    // Old by the time that it is used.
    let expired = world.token("1s", "sensor/#");
    readings_arrive_as_documents(&world, &device).await;
    strangers_are_refused(&world, &device, expired).await;
    a_rotation_of_the_signing_key_refuses_no_device(&world, &device);
    a_revoked_token_is_refused_at_once(&world, &device).await;
    an_outage_of_elasticsearch_touches_no_device(&world, &device).await;
    a_changed_rule_is_in_force_soon(&world, &device).await;
    a_deleted_pod_heals(&world, &device).await;
    a_node_that_loses_its_power_loses_no_message(&world, &device).await;
    a_claim_that_cannot_grow_costs_nobody_a_connection(&world, &device).await;
    a_changed_object_rolls_once(&world, &device).await;
    an_operator_that_restarts_changes_nothing(&world).await;
    deleting_the_object_leaves_nothing(&world).await;
    uninstalling_keeps_the_definitions(&world);
    world.step("done");
}

fn install_the_operator(world: &World) {
    world.step("helm install");
    let chart = project_file("charts/mqtt-operator");
    let image = "image.repository=localhost/mqtt-operator,image.tag=test,image.pullPolicy=Never";
    helm(
        world,
        &format!(
            "install mqtt-operator {} -n {OPERATORS} --create-namespace --set {image} --wait --timeout 120s",
            chart.display()
        ),
    );
    // What the operator makes must be admitted under the strictest of Kubernetes' own policies.
    world.kubectl(&format!("create namespace {NAMESPACE}"));
    world.kubectl(&format!("label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=restricted"));
}

async fn apply_the_sample(world: &World) -> Device {
    world.step("apply thermometer.yaml and wait until it is ready");
    let sample =
        std::fs::read_to_string(project_file("manifests/samples/thermometer.yaml")).expect("the sample is there");
    let sample = sample.replace("http://elasticsearch:9200", world.elasticsearch.url());
    assert!(sample.contains(world.elasticsearch.url()), "the sample names the Elasticsearch that is replaced here");
    world.apply(NAMESPACE, &sample);
    let waits = world.await_reason("Ready", "StoragePending").await;
    assert!(waits.contains(&format!("state-{BROKER}-0")) && waits.contains("no class"), "{waits}");
    world.step(&waits);
    world.volume("disk-1", "1Gi");
    world.kubectl(&format!("-n {NAMESPACE} wait --for=condition=Ready mqttbroker/{BROKER} --timeout=120s"));
    let address = world.kubectl(&format!("-n {NAMESPACE} get mqb {BROKER} -o jsonpath={{.status.address}}"));
    assert!(address.starts_with("10.98.0."), "the load balancer's address, not {address:?}");
    assert_eq!(world.await_served().await, address);
    world.step(&format!("ready at {address}; wait until telemetry flows"));
    world.await_condition("TelemetryReady", "True").await;
    Device {
        address,
        client_id: "thermometer-1",
        topic: TOPIC,
        credentials: Some(("thermometer-1", world.token("1h", "sensor/#"))),
        dialect: Dialect::V5,
    }
}

async fn readings_arrive_as_documents(world: &World, device: &Device) {
    world.step("publish with a token, and find the documents");
    device.report(0..5);
    Device { dialect: Dialect::V311, ..device.clone() }.report(5..10);
    let documents = world.await_documents(TOPIC, 0..10).await;
    for (reading, document) in &documents {
        let temperature = 20.0 + *reading as f64 / 10.0;
        for (field, expected) in [
            ("/payload/temperature", json!(temperature)),
            ("/payload/unit", json!("C")),
            ("/mqtt/topic", json!(TOPIC)),
            ("/mqtt/qos", json!(1)),
            ("/mqtt/retained", json!(false)),
            ("/mqtt/client_id", json!("thermometer-1")),
            ("/data_stream/type", json!("logs")),
            ("/data_stream/dataset", json!("mqtt.thermometer")),
            ("/data_stream/namespace", json!(NAMESPACE)),
            ("/orchestrator/namespace", json!(NAMESPACE)),
            ("/orchestrator/resource/name", json!(BROKER)),
        ] {
            assert_eq!(document.pointer(field), Some(&expected), "{field} of {document}");
        }
        assert!(document["@timestamp"].is_string() && document["event"]["id"].is_string(), "{document}");
    }
}

async fn strangers_are_refused(world: &World, device: &Device, expired: String) {
    world.step("clients without the right token are refused");
    let refused = |connack: u8| Answers { connack, pubacks: Vec::new() };
    let in_311 = |device: &Device| Device { dialect: Dialect::V311, ..device.clone() };

    let nobody = device.with(None);
    assert_eq!(nobody.publish(90..91), refused(0x87), "MQTT 5 without credentials");
    assert_eq!(in_311(&nobody).publish(90..91), refused(5), "MQTT 3.1.1 without credentials");

    let late = device.with(Some(("thermometer-1", expired)));
    assert_eq!(late.publish(91..92), refused(0x87), "MQTT 5 with an expired token");
    assert_eq!(in_311(&late).publish(91..92), refused(4), "MQTT 3.1.1 with an expired token");

    let (_, token) = device.credentials.clone().expect("the device has a token");
    let forged = device.with(Some(("thermometer-1", format!("{}AAAA", &token[..token.len() - 4]))));
    assert_eq!(forged.publish(92..93), refused(0x86), "MQTT 5 with a token whose signature is wrong");

    let elsewhere = device.with(Some(("thermometer-1", world.token("1h", "sensor/cellar/#"))));
    let denied = Answers { connack: 0, pubacks: vec![0x87] };
    assert_eq!(elsewhere.publish(93..94), denied, "MQTT 5 with a token for another topic");

    // One that is accepted, to see that nothing of the others came before it.
    device.report(10..11);
    world.await_documents(TOPIC, 0..11).await;
}

fn a_rotation_of_the_signing_key_refuses_no_device(world: &World, device: &Device) {
    world.step("replace the signing key under devices that read their token from a file before each connection");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (file, stop) = (directory.path().join("token"), directory.path().join("stop"));
    let mint = || {
        let unfinished = directory.path().join("new");
        std::fs::write(&unfinished, world.token("1h", "sensor/#")).expect("a writable directory");
        std::fs::rename(&unfinished, &file).expect("a writable directory");
    };
    mint();
    let before = world.active_key();
    let (v5, v311) = std::thread::scope(|scope| {
        let reporting = |dialect, client_id| {
            let device = Device { dialect, client_id, topic: "sensor/kitchen/rotating", ..device.clone() };
            let (file, stop) = (file.clone(), stop.clone());
            scope.spawn(move || device.report_until(&file, &stop))
        };
        let devices = (reporting(Dialect::V5, "thermometer-5"), reporting(Dialect::V311, "thermometer-311"));
        let minting = scope.spawn(|| {
            while !stop.exists() {
                mint();
            }
        });
        // However this ends: who waits for the others would wait for ever.
        let stopping = Stop(&stop);
        world.step(&world.ctl("keys rotate --wait --timeout 120"));
        // One round more, with the key that signs now.
        mint();
        drop(stopping);
        minting.join().expect("tokens are made all the time");
        (devices.0.join().expect("a report"), devices.1.join().expect("a report"))
    });
    let after = world.active_key();
    assert_ne!(after, before);
    for report in [v5, v311] {
        assert_eq!(report.refused, Vec::<u8>::new(), "{report:?}");
        assert!(report.kids.contains(&before) && report.kids.contains(&after), "{report:?}");
        world.step(&format!("{} connections, none refused", report.connections));
    }
    // What the key before has signed is good until it expires.
    device.report(0..0);
    world.kubectl(&format!("-n {NAMESPACE} wait --for=condition=KeysCurrent mqttbroker/{BROKER} --timeout=60s"));
}

/// Makes a file when it is dropped.
struct Stop<'a>(&'a Path);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0, "");
    }
}

async fn a_revoked_token_is_refused_at_once(world: &World, device: &Device) {
    world.step("revoke a token");
    let token = world.token("1h", "sensor/#");
    let other = device.with(Some(("thermometer-1", token.clone())));
    other.report(0..0);
    world.ctl(&format!("token revoke {token}"));
    let started = std::time::Instant::now();
    await_until(PATIENCE, "refusal", async || {
        let answers = other.publish(0..0);
        if answers.connack == 0 { Err("still accepted") } else { Ok(()) }
    })
    .await;
    world.step(&format!("refused after {} s", started.elapsed().as_secs()));
    device.report(0..0);
}

async fn an_outage_of_elasticsearch_touches_no_device(world: &World, device: &Device) {
    world.step("stop Elasticsearch and publish");
    let before = world.ready_pod(None).await;
    let ready_since = ready_since(world);
    world.elasticsearch.stop();
    device.report(11..16);
    world.await_condition("TelemetryReady", "False").await;
    world.await_condition("Ready", "True").await;
    device.report(16..21);
    let during = world.ready_pod(None).await;
    assert_eq!(uid(&during), uid(&before), "the pod is the same");
    assert_eq!(restarts(&during), restarts(&before), "and none of its containers was restarted");
    world.step("start Elasticsearch again, and find the documents");
    world.elasticsearch.start_again();
    world.await_documents(TOPIC, 0..21).await;
    world.step("wait until telemetry is said to flow");
    world.await_condition("TelemetryReady", "True").await;
    assert_eq!(self::ready_since(world), ready_since, "the broker was Ready all the time");
}

/// Options of a client of this test's own, with a token that may publish and subscribe.
fn listener(world: &World, device: &Device, client_id: &str) -> Options {
    Options {
        version: Version::V5,
        username: Some("listener".into()),
        password: Some(world.listener_token().into_bytes()),
        ..Options::new(format!("{}:1883", device.address), client_id)
    }
}

async fn a_changed_rule_is_in_force_soon(world: &World, device: &Device) {
    world.step("forbid a topic to a client that is connected, and publish to it all the time");
    let (client, _incoming, _) = client::connect(&listener(world, device, "publisher")).await.expect("a good token");
    let message = Message::new("sensor/attic/temperature", "1", QoS::AtLeastOnce);
    client.publish(&message).await.expect("it is allowed");
    let pod = world.ready_pod(None).await;
    let mut object = world.get(NAMESPACE, &format!("mqttbroker/{BROKER}"));
    object["metadata"] = json!({"name": BROKER});
    object["spec"]["auth"]["deny"] = json!([{"permission": "deny", "action": "publish", "topic": "sensor/attic/#"}]);
    let started = Instant::now();
    world.apply(NAMESPACE, &object.to_string());
    await_until(IN_FORCE, "0x87", async || match client.publish(&message).await {
        Ok(ReasonCode::NOT_AUTHORIZED) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    world.step(&format!("denied {:.1} s after kubectl apply began", started.elapsed().as_secs_f32()));
    let now = world.ready_pod(None).await;
    assert_eq!((uid(&now), restarts(&now)), (uid(&pod), restarts(&pod)), "nothing was restarted for it");
}

async fn a_claim_that_cannot_grow_costs_nobody_a_connection(world: &World, device: &Device) {
    world.step("ask for a larger volume where there is none");
    let set = |world: &World| world.get(NAMESPACE, &format!("statefulset/{BROKER}"));
    let (before, pod) = (set(world), world.ready_pod(None).await);
    let (client, _incoming, _) = client::connect(&listener(world, device, "witness")).await.expect("a good token");
    let patch = r#"{"spec":{"storage":{"size":"2Gi"}}}"#;
    world.kubectl(&format!("-n {NAMESPACE} patch mqb {BROKER} --type=merge -p {patch}"));
    world.step(&world.await_reason("Progressing", "StorageNotGrowing").await);
    world.await_condition("Ready", "True").await;
    let after = set(world);
    assert_ne!(uid(&after), uid(&before), "the StatefulSet is another one");
    assert_eq!(after["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"], "2Gi");
    let now = world.ready_pod(None).await;
    assert_eq!((uid(&now), restarts(&now)), (uid(&pod), restarts(&pod)), "the pod is the same");
    assert_eq!(now["metadata"]["ownerReferences"][0]["uid"], after["metadata"]["uid"], "and belongs to it");
    client.publish(&Message::new("sensor/witness", "1", QoS::AtLeastOnce)).await.expect("the connection stands");
}

async fn a_deleted_pod_heals(world: &World, device: &Device) {
    world.step("publish to a client that is away, and delete the broker pod");
    let away = Options { clean_start: false, session_expiry: Some(3600), ..listener(world, device, "away") };
    keep_messages_for(&away, &listener(world, device, "publisher")).await;
    let before = world.ready_pod(None).await;
    world.kubectl(&format!("-n {NAMESPACE} delete pod {BROKER}-0 --wait=false"));
    world.ready_pod(Some(uid(&before))).await;
    world.await_served().await;
    the_messages_are_kept_for(&away).await;
    readings_flow_again(world, device, "sensor/kitchen/healed").await;
}

async fn a_node_that_loses_its_power_loses_no_message(world: &World, device: &Device) {
    world.step("publish to a client that is away, kill everything on the node, and start it again");
    let away = Options { clean_start: false, session_expiry: Some(3600), ..listener(world, device, "unplugged") };
    keep_messages_for(&away, &listener(world, device, "publisher")).await;
    let before = world.ready_pod(None).await;
    world.node.restart();
    world.step("wait until the broker runs again");
    // Until the kubelet has looked, the API server has everything as it was before.
    await_until(PATIENCE, "broker that was started again", async || {
        let pod = world.ready_pod(None).await;
        if restarts(&pod) > restarts(&before) { Ok(()) } else { Err(pod["status"].to_string()) }
    })
    .await;
    world.await_served().await;
    the_messages_are_kept_for(&away).await;
    readings_flow_again(world, device, "sensor/kitchen/unplugged").await;
}

/// Makes a session for a client that goes away, and publishes to it what is acknowledged.
async fn keep_messages_for(away: &Options, publisher: &Options) {
    let (client, _incoming, _) = client::connect(away).await.expect("a good token");
    let at_least_once = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    let granted = client.subscribe(&[("sensor/kept", at_least_once)]).await.expect("a connection");
    assert_eq!(granted, [ReasonCode(1)]);
    client.disconnect(ReasonCode::SUCCESS).await.expect("a connection");
    let (publisher, _incoming, _) = client::connect(publisher).await.expect("a good token");
    for n in 0..20 {
        let message = Message::new("sensor/kept", n.to_string(), QoS::AtLeastOnce);
        assert_eq!(publisher.publish(&message).await.expect("a connection"), ReasonCode::SUCCESS);
    }
}

async fn the_messages_are_kept_for(away: &Options) {
    let (_client, mut incoming, connected) = client::connect(away).await.expect("a good token");
    assert!(connected.session_present, "the session is still there");
    for n in 0..20 {
        let delivery = timeout(PATIENCE, incoming.next()).await.expect("a message in time");
        let delivery = delivery.expect("a message").expect("a connection");
        assert_eq!(delivery.message.payload, n.to_string(), "in the order of their acknowledgement");
    }
}

/// What is published before the bridge is back waits for it.
async fn readings_flow_again(world: &World, device: &Device, topic: &'static str) {
    Device { topic, ..device.clone() }.report(0..3);
    world.await_documents(topic, 0..3).await;
}

async fn a_changed_object_rolls_once(world: &World, device: &Device) {
    world.step("change the object");
    let before = world.ready_pod(None).await;
    let revisions = revisions(world);
    let patch = r#"{"spec":{"pod":{"labels":{"room":"kitchen"}}}}"#;
    world.kubectl(&format!("-n {NAMESPACE} patch mqb {BROKER} --type=merge -p {patch}"));
    let after = world.ready_pod(Some(uid(&before))).await;
    assert_eq!(after["metadata"]["labels"]["room"], "kitchen");
    world.await_served().await;
    readings_flow_again(world, device, "sensor/kitchen/rolled").await;
    assert_eq!(self::revisions(world), revisions + 1, "one change is one revision");
    let now = world.ready_pod(None).await;
    assert_eq!((uid(&now), restarts(&now)), (uid(&after), 0), "and one new pod");
}

async fn an_operator_that_restarts_changes_nothing(world: &World) {
    world.step("restart the operator");
    let before = children(world);
    let pod = world.ready_pod(None).await;
    world.kubectl(&format!("-n {OPERATORS} delete pods -l app.kubernetes.io/name=mqtt-operator --wait=true"));
    world.kubectl(&format!("-n {OPERATORS} rollout status deployment/mqtt-operator --timeout=120s"));
    // Only an operator that works takes the lead, and only the one that leads notices that a child is gone.
    let config = format!("{BROKER}-config");
    let content = world.get(NAMESPACE, &format!("configmap/{config}"))["data"].clone();
    world.kubectl(&format!("-n {NAMESPACE} delete configmap {config}"));
    await_until(PATIENCE, "configuration made again", async || {
        let found = children(world).into_iter().find(|(name, _)| name.ends_with(&config));
        found.ok_or("absent")
    })
    .await;
    assert_eq!(world.get(NAMESPACE, &format!("configmap/{config}"))["data"], content);
    world.await_condition("Ready", "True").await;
    let (before, after) = (beside(before, &config), beside(children(world), &config));
    assert_eq!(after, before, "the names and versions of all else");
    let now = world.ready_pod(None).await;
    assert_eq!((uid(&now), restarts(&now)), (uid(&pod), restarts(&pod)), "the broker pod went on");
}

async fn deleting_the_object_leaves_nothing(world: &World) {
    world.step("delete the object, and its claim with it");
    let patch = r#"{"spec":{"storage":{"onDelete":"Delete"}}}"#;
    world.kubectl(&format!("-n {NAMESPACE} patch mqb {BROKER} --type=merge -p {patch}"));
    await_until(PATIENCE, "a claim that belongs to the StatefulSet", async || {
        let claim = world.get(NAMESPACE, &format!("persistentvolumeclaim/state-{BROKER}-0"));
        if claim["metadata"]["ownerReferences"].is_array() { Ok(()) } else { Err(claim["metadata"].to_string()) }
    })
    .await;
    world.kubectl(&format!("-n {NAMESPACE} delete mqb {BROKER} --timeout=60s"));
    await_until(PATIENCE, "empty namespace", async || {
        let left: Vec<String> = children(world).into_iter().map(|(name, _)| name).collect();
        if left.is_empty() && world.broker_pods().is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

fn uninstalling_keeps_the_definitions(world: &World) {
    world.step("helm uninstall");
    helm(world, &format!("uninstall mqtt-operator -n {OPERATORS} --wait --timeout 120s"));
    world.kubectl("get crd mqttbrokers.mqtt-operator.io");
    let cluster = world.kubectl("get clusterroles,clusterrolebindings -l app.kubernetes.io/name=mqtt-operator -o name");
    assert_eq!(cluster, "", "no right is left");
}

/// All children but one.
fn beside(mut children: Vec<(String, String)>, name: &str) -> Vec<(String, String)> {
    children.retain(|child| !child.0.ends_with(name));
    children
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().expect("an object has a uid")
}

/// Since when the broker's object is what its condition Ready says.
fn ready_since(world: &World) -> Value {
    let object = world.get(NAMESPACE, &format!("mqttbroker/{BROKER}"));
    let conditions = object["status"]["conditions"].as_array().expect("the object has conditions");
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready").expect("Ready is one of them");
    assert_eq!(ready["status"], "True", "{ready}");
    ready["lastTransitionTime"].clone()
}

/// Restarts of all containers of a pod.
fn restarts(pod: &Value) -> u64 {
    assert_eq!(condition(pod, "Ready"), "True");
    let containers = pod["status"]["containerStatuses"].as_array().expect("a ready pod has containers");
    containers.iter().filter_map(|container| container["restartCount"].as_u64()).sum()
}

/// How many revisions the StatefulSet has had.
fn revisions(world: &World) -> usize {
    world.kubectl(&format!("-n {NAMESPACE} get controllerrevisions -o name")).lines().count()
}

/// Names and versions of everything in the namespace that is not in every namespace.
fn children(world: &World) -> Vec<(String, String)> {
    let columns = "custom-columns=K:.kind,N:.metadata.name,V:.metadata.resourceVersion";
    let kinds = "statefulsets,services,configmaps,secrets,persistentvolumeclaims,poddisruptionbudgets,networkpolicies";
    let listed = world.kubectl(&format!("-n {NAMESPACE} get {kinds} --no-headers -o {columns}"));
    let rows = listed.lines().filter(|row| !row.contains("kube-root-ca.crt"));
    rows.filter_map(|row| row.rsplit_once(' ')).map(|(name, version)| (name.trim().into(), version.into())).collect()
}
