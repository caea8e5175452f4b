//! The operator against a real API server.

mod authz;
mod denies;
mod issuers;
pub mod keys;
mod storage;
pub mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Secret, Service};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use mqtt_operator::api::MqttBroker;
use mqtt_operator::client::{self, Message};
use mqtt_operator::config::broker::Users;
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};
use mqtt_operator::operator::leader::{Name, Timing};
use serde_json::{Value, json};

use crate::support::{ApiServer, Authority, await_until};
use world::{DEADLINE, IMAGE, Operator, World, in_world, in_world_of};

const USER: &str =
    "auth: {users: [{name: mqtt_user, generate: true, acl: [{permission: allow, action: all, topic: 't/#'}]}]}";
const REFERRING: &str = "auth: {users: [{name: u, passwordSecretRef: {name: theirs, key: password}, acl: []}]}";
const TELEMETRY: &str = "telemetry: {topics: ['t/#'], elasticsearch: {urls: ['http://127.0.0.1:1']}}";

#[tokio::test]
async fn a_broker_serves_from_what_was_made_for_its_object() {
    in_world(async |world| {
        let pod = world.serving("home", &format!("{{{USER}, {TELEMETRY}}}")).await;
        let status = world.status("home").await;
        assert_eq!((status.address.as_deref(), status.endpoint.as_deref()), (Some("192.0.2.7"), Some("192.0.2.7")));
        assert_eq!((status.replicas, status.ready_replicas, status.observed_generation), (1, 1, Some(1)));
        let jwt = status.jwt.unwrap();
        assert_eq!((jwt.secret_name.as_str(), jwt.jwks_secret_name.as_str()), ("home-jwt", "home-jwks"));
        assert_eq!(pod.broker.report().keys, [jwt.keys[0].kid.clone()]);

        let secret = &status.users[0].secret_name;
        let mut options = client::Options::new(pod.address(), "device");
        options.username = Some("mqtt_user".into());
        options.password = Some(b"wrong".to_vec());
        client::connect(&options).await.expect_err("a wrong password is refused");
        options.password = Some(world.text(secret, "password").await.into_bytes());
        client::connect(&options).await.expect("the published password is the broker's");

        let mut bridge = client::Options::new(pod.broker.internal.unwrap().to_string(), "bridge");
        bridge.username = Some("system:bridge".into());
        bridge.password = Some(world.text("home-bridge", "password").await.into_bytes());
        client::connect(&bridge).await.expect("the bridge's password is the broker's");
    })
    .await;
}

#[tokio::test]
async fn elasticsearch_that_cannot_be_reached_is_telemetrys_trouble_alone() {
    in_world(async |world| {
        let _pod = world.serving("home", &format!("{{{TELEMETRY}}}")).await;
        world.says("home", "TelemetryReady", "False Unreachable").await;
        world.says("home", "Ready", "True Serving").await;
        world.apply("home", "{}").await;
        await_until(DEADLINE, "end of TelemetryReady", async || {
            let conditions = world.status("home").await.conditions;
            if conditions.iter().any(|it| it.type_ == "TelemetryReady") { Err(conditions) } else { Ok(()) }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn every_child_belongs_to_its_object() {
    in_world(async |world| {
        world.apply("home", &format!("{{{USER}, {TELEMETRY}}}")).await;
        let set: StatefulSet = world.child("home").await;
        let uid = world.api::<MqttBroker>().get("home").await.unwrap().uid().unwrap();
        let mut children = vec![set.metadata];
        for name in ["home", "home-pods"] {
            children.push(world.child::<Service>(name).await.metadata);
        }
        children.push(world.child::<ConfigMap>("home-config").await.metadata);
        for name in ["home-jwt", "home-jwks", "home-users", "home-bridge", "home-user-mqtt-user-9b8453"] {
            children.push(world.child::<Secret>(name).await.metadata);
        }
        assert_eq!(children.len(), 9);
        for child in children {
            let owners = child.owner_references.unwrap_or_default();
            assert_eq!(owners.len(), 1, "{:?}", child.name);
            assert_eq!((owners[0].uid.as_str(), owners[0].controller), (uid.as_str(), Some(true)), "{:?}", child.name);
            assert_eq!(child.labels.unwrap()["app.kubernetes.io/managed-by"], "mqtt-operator");
        }
        let object = world.api::<MqttBroker>().get("home").await.unwrap();
        assert_eq!(object.finalizers(), &[] as &[String], "nothing outside the cluster is to be undone");
    })
    .await;
}

#[tokio::test]
async fn second_reconcile_writes_nothing() {
    let server = ApiServer::start().unwrap();
    in_world_of(&server, async |world| {
        world.secret("theirs", &[("password", "geheim")]).await;
        let spec = format!(
            "{{auth: {{users: [{{name: a, generate: true, acl: []}}, {{name: b, passwordSecretRef: {{name: theirs, key: \
             password}}, acl: []}}]}}, {TELEMETRY}, pod: {{resources: {{requests: {{cpu: '1000m'}}}}}}}}"
        );
        let _pod = world.serving("home", &spec).await;
        settle(&world).await;
        let (written, before) = (writes(&world).await, versions(&world).await);
        assert!(written > 10, "writes are counted at all");
        for round in 1..=3 {
            // That takes a write of the test's own.
            world.look_again("home").await;
            settle(&world).await;
            assert_eq!(writes(&world).await, written + round, "a write beside the test's own");
        }
        let mut after = versions(&world).await;
        after.insert("MqttBroker/home".into(), before["MqttBroker/home"].clone());
        assert_eq!(after, before);
    })
    .await;
}

/// Waits until the operator has nothing more to do: two looks at its writes, with a pass between them, are the same.
async fn settle(world: &World) {
    await_until(DEADLINE, "calm", async || {
        let before = writes(world).await;
        let passes = world.operator.passes().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let calm = writes(world).await == before && world.operator.passes().await <= passes + 1.0;
        if calm { Ok(()) } else { Err(before) }
    })
    .await;
}

/// The requests that wrote something of concern, by the API server's own count.
async fn writes(world: &World) -> u64 {
    let request = axum::http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = world.client.request_text(request).await.unwrap();
    let ours = [
        "mqttbrokers",
        "statefulsets",
        "services",
        "secrets",
        "configmaps",
        "pods",
        "persistentvolumeclaims",
        "events",
    ];
    let writing = ["APPLY", "PATCH", "POST", "PUT", "DELETE"];
    let lines = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
    let counted = lines.filter(|line| {
        ours.iter().any(|resource| line.contains(&format!("resource=\"{resource}\"")))
            && writing.iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    });
    counted.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// The resource versions of everything in the namespace.
async fn versions(world: &World) -> BTreeMap<String, String> {
    async fn of<K>(world: &World, found: &mut BTreeMap<String, String>)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        for item in world.api::<K>().list(&ListParams::default()).await.unwrap().items {
            found.insert(format!("{}/{}", K::kind(&()), item.name_any()), item.resource_version().unwrap());
        }
    }
    let mut found = BTreeMap::new();
    of::<MqttBroker>(world, &mut found).await;
    of::<StatefulSet>(world, &mut found).await;
    of::<Service>(world, &mut found).await;
    of::<ConfigMap>(world, &mut found).await;
    of::<Secret>(world, &mut found).await;
    of::<Pod>(world, &mut found).await;
    found
}

#[tokio::test]
async fn missing_secret_is_named_and_heals_when_it_appears() {
    in_world(async |world| {
        world.apply("home", &format!("{{{REFERRING}, service: {{type: ClusterIP}}}}")).await;
        let ready = world.says("home", "Ready", "False SecretMissing").await;
        assert_eq!(ready.message, "spec.auth.users[0].passwordSecretRef: there is no Secret theirs");
        world.secret("theirs", &[("pasword", "geheim")]).await;
        let what = "spec.auth.users[0].passwordSecretRef: Secret theirs has no key password";
        await_until(DEADLINE, what, async || {
            let ready = world.status("home").await.conditions.remove(0);
            if ready.message == what { Ok(()) } else { Err(ready) }
        })
        .await;
        let pod = world.run_pod("home").await;
        assert_eq!(pod.broker.report().users, Vec::<String>::new());
        world.secret("theirs", &[("password", "geheim")]).await;
        world.says("home", "Ready", "True Serving").await;
        pod.sync(&world).await;
        await_until(DEADLINE, "loaded user", async || match pod.broker.report().users.as_slice() {
            [user] if user == "u" => Ok(()),
            other => Err(other.to_vec()),
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn missing_certificate_is_named_holds_no_pod_up_and_heals_when_it_appears() {
    const SPEC: &str = "{service: {type: ClusterIP}, listeners: [{name: mqtt, protocol: mqtt, port: 1883}, \
                        {name: mqtts, protocol: mqtts, port: 8883, tls: {secretName: certificate}}]}";
    in_world(async |world| {
        world.apply("home", SPEC).await;
        let pod = world.run_pod("home").await;
        let ready = world.says("home", "Ready", "False SecretMissing").await;
        assert_eq!(ready.message, "spec.listeners[1].tls.secretName: there is no Secret certificate");
        let serving = |name: &str| pod.broker.report().listeners.into_iter().find(|it| it.name == name).unwrap().serves;
        assert_eq!((serving("mqtt"), serving("mqtts")), (true, false));
        let pair = Authority::new("ours").server();
        world.secret("certificate", &[("tls.crt", &pair.certificate), ("tls.key", &pair.key)]).await;
        pod.sync(&world).await;
        world.says("home", "Ready", "True Serving").await;
        assert!(serving("mqtts"));
    })
    .await;
}

#[tokio::test]
async fn changed_password_changes_its_own_hash_without_a_roll_out() {
    in_world(async |world| {
        world.secret("theirs", &[("password", "one")]).await;
        let spec = "{auth: {users: [{name: a, generate: true, acl: []}, {name: u, passwordSecretRef: {name: theirs, \
                    key: password}, acl: []}]}}";
        let pod = world.serving("home", spec).await;
        let hashes = async || -> Users { serde_json::from_str(&world.text("home-users", "users.json").await).unwrap() };
        let nudge = async || {
            let pod = world.api::<Pod>().get("home-0").await.unwrap();
            pod.annotations().get("mqtt-operator.io/nudge").cloned()
        };
        let template = async || world.child::<StatefulSet>("home").await.spec.template;
        let (before, nudged, unrolled) = (hashes().await, nudge().await, template().await);
        world.secret("theirs", &[("password", "two")]).await;
        let after = await_until(DEADLINE, "changed hash", async || {
            let now = hashes().await;
            if now.users[1] == before.users[1] { Err(now) } else { Ok(now) }
        })
        .await;
        assert_eq!(after.users[0], before.users[0]);
        await_until(DEADLINE, "nudged pod", async || match nudge().await {
            now if now == nudged => Err(now),
            now => Ok(now),
        })
        .await;
        assert_eq!(template().await, unrolled);

        pod.sync(&world).await;
        let mut options = client::Options::new(pod.address(), "device");
        options.username = Some("u".into());
        options.password = Some(b"two".to_vec());
        await_until(DEADLINE, "accepted new password", async || client::connect(&options).await.map(|_| ())).await;
    })
    .await;
}

#[tokio::test]
async fn changed_rules_are_taken_up_by_a_running_pod_and_roll_nothing() {
    in_world(async |world| {
        let spec = |topic: &str| {
            format!("{{auth: {{anonymous: {{acl: [{{permission: allow, action: all, topic: {topic}}}]}}}}}}")
        };
        let pod = world.serving("home", &spec("one/#")).await;
        world.says("home", "AccessReady", "True InForce").await;
        let nudge = async || {
            let pod = world.api::<Pod>().get("home-0").await.unwrap();
            pod.annotations().get("mqtt-operator.io/nudge").cloned()
        };
        let template = async || world.child::<StatefulSet>("home").await.spec.template;
        let (nudged, unrolled) = (nudge().await, template().await);
        let publish = async |topic: &str| {
            let mut options = client::Options::new(pod.address(), "device");
            options.version = Version::V5;
            let (client, _incoming, _) = client::connect(&options).await.unwrap();
            client.publish(&Message::new(topic, "x", QoS::AtLeastOnce)).await.unwrap()
        };
        assert!(!publish("one/x").await.is_failure());

        world.apply("home", &spec("two/#")).await;
        world.says("home", "AccessReady", "False Loading").await;
        await_until(DEADLINE, "nudged pod", async || match nudge().await {
            now if now == nudged => Err(now),
            now => Ok(now),
        })
        .await;
        pod.sync(&world).await;
        world.says("home", "AccessReady", "True InForce").await;
        assert!(!publish("two/x").await.is_failure());
        assert_eq!(publish("one/x").await, ReasonCode::NOT_AUTHORIZED);
        assert_eq!(template().await, unrolled);
        assert_eq!(world.api::<Pod>().get("home-0").await.unwrap().metadata.deletion_timestamp, None);
    })
    .await;
}

#[tokio::test]
async fn what_the_spec_no_longer_asks_for_is_removed() {
    in_world(async |world| {
        world.apply("home", &format!("{{{USER}, {TELEMETRY}, pod: {{labels: {{team: a}}}}}}")).await;
        world.child::<StatefulSet>("home").await;
        world.apply("home", "{pod: {}}").await;
        world.gone::<Secret>("home-bridge").await;
        world.gone::<Secret>("home-user-mqtt-user-9b8453").await;
        let set: StatefulSet = world.child("home").await;
        let pod = set.spec.template;
        assert_eq!(pod.spec.unwrap().containers.len(), 1);
        assert_eq!(pod.metadata.unwrap().labels.unwrap().get("team"), None);
        let config: ConfigMap = world.child("home-config").await;
        assert_eq!(config.data.unwrap().keys().collect::<Vec<_>>(), ["broker.json"]);
        world.child::<Secret>("home-jwt").await;
    })
    .await;
}

#[tokio::test]
async fn foreign_secret_is_never_overwritten() {
    in_world(async |world| {
        world.secret("home-jwt", &[("mine", "1")]).await;
        let before = world.child::<Secret>("home-jwt").await;
        world.apply("home", "{}").await;
        let ready = world.says("home", "Ready", "False NameTaken").await;
        assert_eq!(ready.message, "Secret home-jwt exists and does not belong to this object; it is left alone");
        assert_eq!(world.child::<Secret>("home-jwt").await, before);
        assert!(
            world.api::<StatefulSet>().get_opt("home").await.unwrap().is_none(),
            "nothing runs with half its parts"
        );
        world.api::<Secret>().delete("home-jwt", &DeleteParams::default()).await.unwrap();
        world.child::<StatefulSet>("home").await;
        world.text("home-jwt", "keys.json").await;
    })
    .await;
}

#[tokio::test]
async fn keys_and_passwords_survive_a_new_operator() {
    in_world(async |world| {
        world.apply("home", &format!("{{{USER}, {TELEMETRY}}}")).await;
        world.says("home", "Progressing", "True RollingOut").await;
        let secrets = [
            ("home-jwt", "keys.json"),
            ("home-jwks", "jwks.json"),
            ("home-users", "users.json"),
            ("home-bridge", "password"),
            ("home-user-mqtt-user-9b8453", "password"),
        ];
        let mut before = Vec::new();
        for (secret, key) in secrets {
            before.push(world.text(secret, key).await);
        }
        let World { client, namespace, operator } = world;
        operator.stop().await;
        let operator = Operator::start(&client, &namespace, "example/mqtt-operator:2");
        let world = World { client, namespace, operator };
        world.operator.pass_after(0.0).await;
        for ((secret, key), before) in secrets.iter().zip(&before) {
            assert_eq!(&world.text(secret, key).await, before, "{secret}");
        }
        let image = async || {
            let set: StatefulSet = world.child("home").await;
            set.spec.template.spec.unwrap().containers[0].image.clone().unwrap()
        };
        assert_eq!(image().await, IMAGE, "a new operator alone does not restart brokers");
        world.apply("home", "{limits: {maxInflight: 7}}").await;
        await_until(DEADLINE, "new image", async || match image().await.as_str() {
            "example/mqtt-operator:2" => Ok(()),
            other => Err(other.to_owned()),
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn what_others_break_is_mended_and_what_others_add_is_left() {
    in_world(async |world| {
        world.apply("home", "{service: {annotations: {lb: a}}}").await;
        world.says("home", "Progressing", "True RollingOut").await;
        let services = world.api::<Service>();
        let added = json!({"metadata": {"annotations": {"controller": "was here"}}});
        services.patch("home", &PatchParams::default(), &Patch::Merge(added)).await.unwrap();
        let broken = json!([{"op": "replace", "path": "/spec/ports/0/targetPort", "value": "other"}]);
        let broken = Patch::<Service>::Json(serde_json::from_value(broken).unwrap());
        services.patch("home", &PatchParams::default(), &broken).await.unwrap();
        world.api::<ConfigMap>().delete("home-config", &DeleteParams::default()).await.unwrap();
        await_until(DEADLINE, "mended port", async || {
            let port = services.get("home").await.unwrap().spec.unwrap().ports.unwrap().remove(0).target_port;
            if serde_json::to_value(&port).unwrap() == json!("mqtt") { Ok(()) } else { Err(port) }
        })
        .await;
        world.child::<ConfigMap>("home-config").await;
        let annotations = services.get("home").await.unwrap().metadata.annotations.unwrap();
        assert_eq!((annotations["controller"].as_str(), annotations["lb"].as_str()), ("was here", "a"));
    })
    .await;
}

#[tokio::test]
async fn invalid_spec_is_a_condition_and_no_storm() {
    in_world(async |world| {
        world.apply("home", "{auth: {users: [{name: a, generate: true, groups: [x]}]}}").await;
        let ready = world.says("home", "Ready", "False InvalidSpec").await;
        assert_eq!(ready.message, "spec.auth.users[0].groups[0]: there is no group \"x\"");
        assert_eq!(ready.observed_generation, Some(1));
        let events: Api<Event> = world.api();
        let event = await_until(DEADLINE, "event", async || {
            let events = events.list(&ListParams::default()).await.unwrap().items;
            events.into_iter().find(|event| event.reason.as_deref() == Some("InvalidSpec")).ok_or("none")
        })
        .await;
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        let passes = world.operator.passes().await;
        // Another object is looked at again and again meanwhile.
        world.apply("other", "{}").await;
        world.says("other", "Progressing", "True RollingOut").await;
        world
            .apply("home", "{auth: {groups: [{name: x, acl: []}], users: [{name: a, generate: true, groups: [x]}]}}")
            .await;
        world.child::<StatefulSet>("home").await;
        let passes = world.operator.passes().await - passes;
        assert!(passes < 40.0, "{passes} passes");
    })
    .await;
}

#[tokio::test]
async fn malformed_object_is_its_own_trouble() {
    in_world(async |world| {
        let qos = "{auth: {deny: [{permission: deny, action: all, topic: a, qos: high}]}}";
        world.apply("odd", qos).await;
        let ready = world.says("odd", "Ready", "False InvalidSpec").await;
        assert!(ready.message.starts_with("spec: "), "{}", ready.message);
        world.apply("home", "{}").await;
        world.child::<StatefulSet>("home").await;
        world.apply("odd", "{}").await;
        world.child::<StatefulSet>("odd").await;
    })
    .await;
}

#[tokio::test]
async fn what_the_api_server_refuses_is_in_the_status() {
    in_world(async |world| {
        world.apply("home", "{pod: {nodeSelector: {'not a label': x}}}").await;
        let ready = world.says("home", "Ready", "False ApplyFailed").await;
        assert!(ready.message.starts_with("apply StatefulSet home: "), "{}", ready.message);
        assert!(ready.message.contains("not a label"), "{}", ready.message);
        world.apply("home", "{pod: {}}").await;
        world.child::<StatefulSet>("home").await;
    })
    .await;
}

#[tokio::test]
async fn paused_object_is_watched_and_not_touched() {
    in_world(async |world| {
        let _pod = world.serving("home", "{}").await;
        let config = world.child::<ConfigMap>("home-config").await;
        world.apply("home", "{paused: true, limits: {maxInflight: 7}}").await;
        world.says("home", "Progressing", "False Paused").await;
        assert_eq!(world.child::<ConfigMap>("home-config").await, config);
        world.pods_ready("home", 0).await;
        world.says("home", "Ready", "False PodsNotReady").await;
        world.apply("home", "{limits: {maxInflight: 7}}").await;
        await_until(DEADLINE, "changed configuration", async || {
            let now = world.child::<ConfigMap>("home-config").await;
            if now.data == config.data { Err("the old one") } else { Ok(()) }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn changed_configuration_rolls_once() {
    in_world(async |world| {
        world.apply("home", "{}").await;
        world.says("home", "Progressing", "True RollingOut").await;
        let generation = async || world.child::<StatefulSet>("home").await.metadata.generation.unwrap();
        let first = generation().await;
        world.apply("home", "{limits: {maxInflight: 7}}").await;
        await_until(DEADLINE, "roll-out", async || match generation().await {
            now if now > first => Ok(()),
            now => Err(now),
        })
        .await;
        world.look_again("home").await;
        settle(&world).await;
        assert_eq!(generation().await, first + 1);
    })
    .await;
}

#[tokio::test]
async fn load_balancer_is_pending_then_an_ip_then_only_a_name() {
    in_world(async |world| {
        world.apply("home", "{}").await;
        let pending = world.says("home", "EndpointReady", "False LoadBalancerPending").await;
        assert_eq!(pending.message, "no load balancer has given the Service an address");
        let internal = world.status("home").await;
        assert_eq!((internal.address, internal.endpoints.len()), (None, 1));
        assert_eq!(internal.endpoints[0].url, format!("mqtt://home.{}.svc:1883", world.namespace));

        world.load_balancer("home", json!([{"ip": "192.0.2.9"}])).await;
        world.says("home", "EndpointReady", "True Assigned").await;
        let status = world.status("home").await;
        assert_eq!(status.address.as_deref(), Some("192.0.2.9"));
        assert_eq!(status.endpoints[0].url, "mqtt://192.0.2.9:1883");

        world.load_balancer("home", json!([{"hostname": "lb.example.org"}])).await;
        await_until(DEADLINE, "host name", async || {
            let address = world.status("home").await.address;
            if address.as_deref() == Some("lb.example.org") { Ok(()) } else { Err(address) }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn cluster_ip_and_node_port_are_endpoints_too() {
    in_world(async |world| {
        world.apply("inside", "{service: {type: ClusterIP}, listeners: [{name: a, protocol: mqtt, port: 2883}]}").await;
        world.says("inside", "EndpointReady", "True Assigned").await;
        let ip = world.child::<Service>("inside").await.spec.unwrap().cluster_ip.unwrap();
        let status = world.status("inside").await;
        assert_eq!((status.address, status.endpoint), (Some(ip.clone()), Some(format!("{ip}:2883"))));

        let nodes: Api<Node> = Api::all(world.client.clone());
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": format!("node-{}", world.namespace)}})).unwrap();
        let node = nodes.create(&PostParams::default(), &node).await.unwrap();
        let addresses = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
        nodes.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Merge(addresses)).await.unwrap();
        world.apply("outside", "{service: {type: NodePort}}").await;
        world.says("outside", "EndpointReady", "True Assigned").await;
        let port = world.child::<Service>("outside").await.spec.unwrap().ports.unwrap()[0].node_port.unwrap();
        let status = world.status("outside").await;
        assert_eq!(status.address.as_deref(), Some("192.0.2.1"));
        assert_eq!(status.endpoint, Some(format!("192.0.2.1:{port}")));
        nodes.delete(&node.name_any(), &DeleteParams::default()).await.unwrap();

        // The type changes in place, with what belonged to the old one.
        world.apply("outside", "{service: {type: ClusterIP}}").await;
        await_until(DEADLINE, "cluster IP", async || {
            let service = world.child::<Service>("outside").await.spec.unwrap();
            if service.type_.as_deref() == Some("ClusterIP") { Ok(()) } else { Err(service) }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn new_algorithm_signs_only_when_the_brokers_know_its_key() {
    in_world(async |world| {
        let pod = world.serving("home", "{}").await;
        let old = world.status("home").await.jwt.unwrap().keys.remove(0).kid;
        world.apply("home", "{auth: {jwt: {algorithm: ES256}}}").await;
        let keys = async || -> Value { serde_json::to_value(world.status("home").await.jwt.unwrap().keys).unwrap() };
        let next = await_until(DEADLINE, "next key", async || {
            let keys = keys().await;
            if keys[1]["state"] == "next" { Ok(keys[1]["kid"].clone()) } else { Err(keys) }
        })
        .await;
        let active = keys().await[0].clone();
        assert_eq!(
            (&active["kid"], &active["state"], &active["algorithm"]),
            (&json!(old), &json!("active"), &json!("EdDSA"))
        );
        let waits = world.says("home", "KeysCurrent", "False Rotating").await;
        assert!(waits.message.ends_with("home-0 has not loaded it"), "{}", waits.message);
        world.says("home", "Ready", "True Serving").await;
        pod.sync(&world).await;
        await_until(DEADLINE, "active key", async || {
            let keys = keys().await;
            let done = keys[1]["kid"] == next && keys[1]["state"] == "active" && keys[0]["state"] == "retiring";
            if done { Ok(()) } else { Err(keys) }
        })
        .await;
        assert!(keys().await[0]["notAfter"].is_string());
        world.says("home", "KeysReady", "True Loaded").await;
        world.says("home", "KeysCurrent", "True Current").await;
    })
    .await;
}

#[tokio::test]
async fn gone_object_leaves_the_operator_in_peace() {
    in_world(async |world| {
        world.apply("home", "{}").await;
        world.says("home", "Progressing", "True RollingOut").await;
        world.api::<MqttBroker>().delete("home", &DeleteParams::background()).await.unwrap();
        world.gone::<MqttBroker>("home").await;
        world.apply("other", "{}").await;
        world.child::<StatefulSet>("other").await;
    })
    .await;
}

#[tokio::test]
async fn of_two_operators_one_leads_and_the_other_follows_at_once() {
    in_world(async |world| {
        let World { client, namespace, operator } = world;
        operator.stop().await;
        let timing = Timing {
            duration: Duration::from_secs(3),
            deadline: Duration::from_secs(2),
            request: Duration::from_secs(1),
            retry: Duration::from_millis(200),
        };
        let start = |identity: &str| {
            let name =
                Name { namespace: namespace.clone(), name: "mqtt-operator".into(), identity: identity.into(), timing };
            Operator::with_lease(&client, &namespace, IMAGE, Some(name))
        };
        let leads = async |operator: &Operator| {
            await_until(DEADLINE, "leader", async || match operator.metric("mqtt_operator_leader").await {
                1.0 => Ok(()),
                other => Err(other),
            })
            .await;
        };
        let first = start("first");
        leads(&first).await;
        let second = start("second");
        let world = World { client: client.clone(), namespace: namespace.clone(), operator: second };
        world.apply("home", "{}").await;
        world.child::<StatefulSet>("home").await;
        let passes = world.operator.passes().await;
        assert!(passes < 1.0, "a follower does nothing");

        first.stop().await;
        leads(&world.operator).await;
        world.operator.pass_after(0.0).await;
        let third = start("third");
        // Killed: the lease is not given back, and has to expire.
        let World { operator: second, .. } = world;
        let started = std::time::Instant::now();
        second.kill();
        leads(&third).await;
        assert!(started.elapsed() >= Duration::from_secs(2), "a lease was taken that had not expired");
        third.stop().await;
    })
    .await;
}
