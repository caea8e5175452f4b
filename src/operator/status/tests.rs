//! Worlds, and what the status says of them.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::api::ConditionStatus;
use crate::auth::rotation::{Waiting, Wanted};
use crate::config::report;
use crate::operator::observe::PodReport;
use crate::plan::plan;

const TELEMETRY: &str = "{telemetry: {topics: ['a'], elasticsearch: {urls: ['http://es:9200']}}}";

/// One object and everything around it; serving, with keys loaded, until a test changes something.
struct World {
    object: MqttBroker,
    keys: Advanced,
    observed: Observed,
    applied: Applied,
    missing: Vec<Missing>,
    malformed: Vec<Malformed>,
    now: Timestamp,
}

fn kind<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn world(spec: &str) -> World {
    let mut object = MqttBroker::new("home", serde_saphyr::from_str(spec).unwrap());
    object.metadata.namespace = Some("shop".into());
    object.metadata.generation = Some(3);
    let keys = Keys::first(&Wanted::default(), 0, || [7; 48]).unwrap();
    let keys = Advanced { keys, steps: Vec::new(), waiting: None, problem: None, due: None };
    let pod: Pod = kind(json!({"metadata": {"name": "home-0"}, "status": {
        "conditions": [{"type": "Ready", "status": "True"}]}}));
    let broker = report::Broker {
        keys: keys.keys.ids().into_iter().collect(),
        documents: "d1".into(),
        ..report::Broker::default()
    };
    let bridge = report::Bridge { state: report::BridgeState::Connected, ..report::Bridge::default() };
    let observed =
        Observed { pods: vec![PodReport { pod, broker: Some(broker), bridge: Some(bridge) }], ..Observed::default() };
    let set: StatefulSet = kind(json!({"metadata": {"name": "home", "generation": 1}, "spec": {
        "selector": {}, "template": {}}, "status": {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1}}));
    let service =
        service(&json!({"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"]}), &json!([{"ip": "192.168.1.184"}]));
    let applied = Applied {
        services: vec![service],
        stateful_set: Some(set),
        documents: Some("d1".into()),
        refused_growth: None,
    };
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    World { object, keys, observed, applied, missing: Vec::new(), malformed: Vec::new(), now }
}

fn service(spec: &Value, ingress: &Value) -> Service {
    kind(json!({"metadata": {"name": "home"}, "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}}))
}

impl World {
    fn status(&self) -> MqttBrokerStatus {
        let plan = plan(&self.object).unwrap();
        status(&Facts {
            object: &self.object,
            plan: &plan,
            observed: &self.observed,
            applied: &self.applied,
            keys: Ok(&self.keys),
            missing: &self.missing,
            malformed: &self.malformed,
            now: self.now,
        })
    }

    /// Stores the status, and lets time pass.
    fn later(&mut self, seconds: i64) {
        self.object.status = Some(self.status());
        self.now += jiff::SignedDuration::from_secs(seconds);
    }

    fn condition(&self, type_: &str) -> (ConditionStatus, String, String) {
        let status = self.status();
        let condition = find(&status.conditions, type_).unwrap();
        (condition.status, condition.reason.clone(), condition.message.clone())
    }

    fn says(&self, type_: &str) -> String {
        let (status, reason, message) = self.condition(type_);
        format!("{status:?} {reason}: {message}")
    }
}

fn urls(status: &MqttBrokerStatus) -> Vec<String> {
    status.endpoints.iter().map(|endpoint| format!("{:?} {}", endpoint.scope, endpoint.url)).collect()
}

#[test]
fn serving_broker_is_ready() {
    let world = world("{}");
    let status = world.status();
    assert_eq!(world.says("Ready"), "True Serving: the broker serves MQTT");
    assert_eq!(world.says("Progressing"), "False Complete: 1 of 1 pods are ready");
    assert_eq!((status.observed_generation, status.replicas, status.ready_replicas), (Some(3), 1, 1));
    assert_eq!(find(&status.conditions, "TelemetryReady"), None);
    assert!(status.endpoints.iter().all(|endpoint| endpoint.ready));
}

#[test]
fn a_claim_that_waits_is_why_a_broker_is_not_ready_and_one_that_grows_takes_no_readiness() {
    let mut world = world("{}");
    let claim = |status: Value| {
        kind(json!({"metadata": {"name": "state-home-0", "namespace": "shop"}, "status": status,
        "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}}}))
    };
    world.observed.claims = vec![claim(json!({"phase": "Bound", "capacity": {"storage": "1Gi"}}))];
    assert_eq!(world.says("Ready"), "True Serving: the broker serves MQTT");
    assert_eq!(world.says("Progressing"), "True StorageGrowing: claim state-home-0 grows to 2Gi");
    world.applied.refused_growth = Some("claim state-home-0 cannot grow".into());
    assert_eq!(world.says("Ready"), "True Serving: the broker serves MQTT");
    assert_eq!(world.says("Progressing"), "False StorageNotGrowing: claim state-home-0 cannot grow");
    world.observed.claims = vec![claim(json!({"phase": "Pending"}))];
    world.applied.stateful_set.as_mut().unwrap().status.as_mut().unwrap().ready_replicas = Some(0);
    let waits =
        "claim state-home-0 waits for a volume of 2Gi of class \"fast\"; see kubectl describe pvc state-home-0 -n shop";
    assert_eq!(world.says("Ready"), format!("False StoragePending: {waits}"));
    assert_eq!(world.says("Progressing"), format!("True RollingOut: {waits}"));
}

#[test]
fn a_volume_that_is_full_or_fails_is_said_and_the_broker_is_ready() {
    let mut world = world("{}");
    let mut storage = |health: report::Health| {
        let problem = Some("No space left on device".to_owned());
        let storage = report::Storage { health, problem, ..report::Storage::default() };
        world.observed.pods[0].broker.as_mut().unwrap().storage = Some(storage);
        assert_eq!(world.says("Ready"), "True Serving: the broker serves MQTT");
        let status = world.status();
        find(&status.conditions, "StorageUsable").map(|it| (it.status, it.reason.clone(), it.message.clone()))
    };
    assert_eq!(storage(report::Health::Good), None);
    let later = serde_json::from_str("\"of a later version\"").unwrap();
    for (health, expected, next) in
        [(report::Health::Full, "Full", "raise spec.storage.size"), (later, "Failing", "by itself")]
    {
        let (status, reason, message) = storage(health).unwrap();
        assert_eq!((status, reason.as_str()), (ConditionStatus::False, expected));
        assert!(message.contains("home-0") && message.contains("No space left") && message.contains(next), "{message}");
    }
}

#[test]
fn endpoints_have_the_scheme_and_the_path_of_their_listener() {
    let status = world(
        "{listeners: [{name: s, protocol: mqtts, port: 8883, tls: {secretName: c}}, {name: w, protocol: ws, port: 8083},
                      {name: x, protocol: wss, port: 8084, path: /a, tls: {secretName: c}}]}",
    )
    .status();
    assert_eq!(status.endpoint.as_deref(), Some("192.168.1.184:8883"));
    let external: Vec<_> = urls(&status).into_iter().filter(|url| url.starts_with("External")).collect();
    let at = "192.168.1.184";
    let expected = [format!("mqtts://{at}:8883"), format!("ws://{at}:8083/mqtt"), format!("wss://{at}:8084/a")];
    assert_eq!(external, expected.map(|url| format!("External {url}")));
}

#[test]
fn certificate_that_cannot_be_used_is_named_and_takes_readiness_only_where_none_serves() {
    let mut world = world("{}");
    let problem = Some("/etc/mqtt/tls/sec/tls.crt holds no certificate".to_owned());
    let listener = report::Listener { name: "sec".into(), serves: true, problem };
    let report = world.observed.pods[0].broker.as_mut().unwrap();
    report.listeners = vec![report::Listener { name: "mqtt".into(), serves: true, problem: None }, listener];
    assert_eq!(
        world.says("Ready"),
        "True Serving: the broker serves MQTT, with the last good certificate of listener sec: \
         /etc/mqtt/tls/sec/tls.crt holds no certificate"
    );
    world.observed.pods[0].broker.as_mut().unwrap().listeners[1].serves = false;
    assert_eq!(
        world.says("Ready"),
        "False CertificateUnusable: listener sec: /etc/mqtt/tls/sec/tls.crt holds no certificate"
    );
}

#[test]
fn load_balancer_with_an_ip_is_the_address() {
    let status = world("{}").status();
    assert_eq!(status.address.as_deref(), Some("192.168.1.184"));
    assert_eq!(status.endpoint.as_deref(), Some("192.168.1.184"));
    assert_eq!(urls(&status), ["External mqtt://192.168.1.184:1883", "Internal mqtt://home.shop.svc:1883"]);
    assert_eq!(status.endpoints[0].ip.as_deref(), Some("192.168.1.184"));
    assert_eq!(status.endpoints[0].host, None);
}

#[test]
fn load_balancer_with_only_a_host_name_is_the_address() {
    let mut world = world("{listeners: [{name: other, protocol: mqtt, port: 2883}]}");
    world.applied.services = vec![service(&json!({"clusterIP": "10.0.0.9"}), &json!([{"hostname": "lb.example.org"}]))];
    let status = world.status();
    assert_eq!(status.address.as_deref(), Some("lb.example.org"));
    assert_eq!(status.endpoint.as_deref(), Some("lb.example.org:2883"));
    assert_eq!(status.endpoints[0].host.as_deref(), Some("lb.example.org"));
    assert_eq!(status.endpoints[0].ip, None);
}

#[test]
fn pending_load_balancer_is_said_so_and_after_a_while_what_to_do() {
    let mut world = world("{}");
    world.applied.services = vec![service(&json!({"clusterIP": "10.0.0.9"}), &json!([]))];
    let pending = "False LoadBalancerPending: no load balancer has given the Service an address";
    assert_eq!(world.says("EndpointReady"), pending);
    assert_eq!(world.says("Ready"), pending);
    assert_eq!(world.status().address, None);
    assert_eq!(urls(&world.status()), ["Internal mqtt://home.shop.svc:1883"]);
    world.later(29);
    assert_eq!(world.says("EndpointReady"), pending);
    world.later(2);
    let advice = "; install a load balancer, or set spec.service.type to NodePort or ClusterIP";
    assert_eq!(world.says("EndpointReady"), format!("{pending}{advice}"));
    world.later(3600);
    assert_eq!(world.says("EndpointReady"), format!("{pending}{advice}"));
}

#[test]
fn node_port_is_reached_at_a_node() {
    let mut world = world("{service: {type: NodePort}}");
    world.applied.services = vec![service(
        &json!({"clusterIP": "10.0.0.9", "ports": [{"name": "mqtt", "port": 1883, "nodePort": 31000}]}),
        &json!([]),
    )];
    assert_eq!(world.says("EndpointReady"), "False NoNode: no address of a node is known");
    world.observed.nodes = vec!["203.0.113.1".into(), "fd00::1".into()];
    let status = world.status();
    assert_eq!(status.address.as_deref(), Some("203.0.113.1"));
    assert_eq!(status.endpoint.as_deref(), Some("203.0.113.1:31000"));
    assert_eq!(
        urls(&status),
        ["External mqtt://203.0.113.1:31000", "External mqtt://[fd00::1]:31000", "Internal mqtt://home.shop.svc:1883"]
    );
}

#[test]
fn cluster_ip_is_reached_inside_with_both_families() {
    let mut world = world("{service: {type: ClusterIP}}");
    let spec = json!({"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9", "fd00::9"]});
    world.applied.services = vec![service(&spec, &json!([]))];
    let status = world.status();
    assert_eq!(status.address.as_deref(), Some("10.0.0.9"));
    let ips: Vec<_> = status.endpoints.iter().map(|endpoint| endpoint.ip.as_deref().unwrap()).collect();
    assert_eq!(ips, ["10.0.0.9", "fd00::9"]);
    assert_eq!(world.says("Ready"), "True Serving: the broker serves MQTT");
}

#[test]
fn status_of_an_unchanged_world_is_the_same_to_the_byte() {
    let mut world = world(TELEMETRY);
    let text = |world: &World| serde_json::to_string(&world.status()).unwrap();
    let first = text(&world);
    for _ in 0..3 {
        world.later(86_400);
        assert_eq!(text(&world), first);
    }
}

#[test]
fn a_pod_of_an_old_revision_is_not_what_was_asked_for() {
    let mut world = world("{}");
    let set = world.applied.stateful_set.as_mut().unwrap();
    set.metadata.generation = Some(2);
    assert_eq!(world.says("Ready"), "False PodsNotReady: 0 of 1 pods are ready");
    assert_eq!(world.says("Progressing"), "True RollingOut: 0 of 1 pods are ready");
}

#[test]
fn why_a_pod_does_not_start_is_in_the_message() {
    let mut world = world("{}");
    let set = world.applied.stateful_set.as_mut().unwrap();
    set.status.as_mut().unwrap().ready_replicas = None;
    world.observed.pods[0].pod = kind(json!({"metadata": {"name": "home-0"}, "status": {"containerStatuses": [{
        "name": "broker", "ready": false, "restartCount": 0, "image": "", "imageID": "",
        "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}));
    assert_eq!(world.says("Ready"), "False PodsNotReady: 0 of 1 pods are ready: broker: ImagePullBackOff");
}

#[test]
fn keys_count_only_when_every_pod_says_so() {
    let mut world = world("{}");
    let kid = world.keys.keys.ids().into_iter().next().unwrap();
    world.observed.pods[0].broker.as_mut().unwrap().keys.clear();
    assert_eq!(world.says("Ready"), format!("False Loading: home-0 did not load {kid} yet"));
    world.observed.pods[0].broker = None;
    assert_eq!(world.says("Ready"), "Unknown NotReported: home-0 cannot be asked");
}

#[test]
fn a_key_that_does_not_sign_yet_says_which_pod_it_waits_for_and_takes_no_readiness() {
    let mut world = world("{}");
    let kid = world.keys.keys.active().kid.clone();
    assert_eq!(world.says("KeysCurrent"), format!("True Current: {kid} signs"));
    let since = u64::try_from(world.now.as_second()).unwrap();
    world.keys.waiting = Some(Waiting::ForBrokers { kid: "k2".into(), since });
    let waits = "k2 signs when every pod has loaded it: home-0 has not loaded it";
    assert_eq!(world.says("KeysCurrent"), format!("False Rotating: {waits}"));
    assert_eq!(world.says("Ready"), "True Serving: the broker serves MQTT");
    world.later(121);
    assert_eq!(world.says("KeysCurrent"), format!("False RotationStuck: {waits}"));
    world.observed.pods[0].broker = None;
    assert!(world.says("KeysCurrent").ends_with("home-0 cannot be asked"));
    world.observed.pods.clear();
    assert!(world.says("KeysCurrent").ends_with("0 of 1 pods are there"));
}

#[test]
fn a_pod_that_accepts_a_revoked_key_is_named() {
    let mut world = world("{}");
    let revoked = crate::auth::key::RevokedKey { kid: "k0".into(), since: 5 };
    world.keys.keys.states.revoked.push(revoked);
    assert_eq!(world.says("Ready"), "True Serving: the broker serves MQTT");
    world.observed.pods[0].broker.as_mut().unwrap().keys.push("k0".into());
    assert_eq!(world.says("Ready"), "False KeyCompromised: home-0 still accepts the revoked key k0; it is told not to");
    let status = world.status().jwt.unwrap();
    assert_eq!(status.revoked_keys[0].since, "1970-01-01T00:00:05Z");
}

#[test]
fn a_secret_on_the_pods_is_said() {
    let hs256 = world("{auth: {jwt: {algorithm: HS256, acknowledgeSharedSecret: true}}}");
    assert_eq!(find(&hs256.status().conditions, "SigningSecretShared"), None, "its key is still one of EdDSA");
    let mut hs256 = hs256;
    let wanted = Wanted { algorithm: key::Algorithm::Hs256, ..Wanted::default() };
    hs256.keys.keys = Keys::first(&wanted, 0, || [7; 48]).unwrap();
    assert!(
        hs256.says("SigningSecretShared").starts_with("True HS256: Secret home-jwks has what tokens are signed with")
    );
}

#[test]
fn a_pod_that_cannot_be_asked_once_is_no_news() {
    let mut world = world("{}");
    world.later(60);
    world.observed.pods[0].broker = None;
    assert_eq!(world.says("Ready"), "True Serving: the broker serves MQTT");
}

#[test]
fn telemetry_has_a_condition_of_its_own_and_never_touches_ready() {
    let mut world = world(TELEMETRY);
    assert_eq!(world.says("TelemetryReady"), "True Connected: logs-mqtt.home-shop");
    let bridge = world.observed.pods[0].bridge.as_mut().unwrap();
    (bridge.state, bridge.message) = (report::BridgeState::Unreachable, "connection refused".into());
    assert_eq!(world.says("TelemetryReady"), "False Unreachable: connection refused");
    world.observed.pods[0].bridge = None;
    assert_eq!(world.says("TelemetryReady"), "Unknown NotReported: the bridge of home-0 cannot be asked");
    assert_eq!(world.says("Ready"), "True Serving: the broker serves MQTT");
}

#[test]
fn stopped_and_missing_and_invalid_are_said_so() {
    assert_eq!(world("{replicas: 0}").says("Ready"), "False Stopped: spec.replicas is 0");
    let mut world = world("{}");
    world.missing = vec![Missing {
        field: "spec.auth.users[0].passwordSecretRef".into(),
        message: "there is no Secret s".into(),
        object: None,
    }];
    assert_eq!(world.says("Ready"), "False SecretMissing: spec.auth.users[0].passwordSecretRef: there is no Secret s");
    world.missing.clear();

    let before = world.status();
    let wrong = Invalid { field: "spec.auth.users[1].groups[0]".into(), message: "there is no group \"x\"".into() };
    let after = invalid(&before, Some(4), &wrong, world.now);
    let ready = find(&after.conditions, "Ready").unwrap();
    assert_eq!((ready.status, ready.reason.as_str()), (ConditionStatus::False, "InvalidSpec"));
    assert_eq!(ready.message, "spec.auth.users[1].groups[0]: there is no group \"x\"");
    assert_eq!((after.observed_generation, &after.address), (Some(4), &before.address));
    assert_eq!(invalid(&after, Some(4), &wrong, world.now + jiff::SignedDuration::from_secs(9)), after);
}

#[test]
fn rules_are_ready_when_every_pod_has_them_in_force() {
    let mut world = world("{}");
    assert_eq!(world.says("AccessReady"), "True InForce: home-0: d1");
    world.applied.documents = Some("d2".into());
    assert_eq!(world.says("AccessReady"), "False Loading: home-0 did not take up d2 yet");
    let report = world.observed.pods[0].broker.as_mut().unwrap();
    report.problem = Some("the rules cannot be used: groups[0].acl[1].topic: it is empty".into());
    assert_eq!(
        world.says("AccessReady"),
        "False Unusable: home-0: the rules cannot be used: groups[0].acl[1].topic: it is empty; the last good rules stay in \
         force"
    );
    assert_eq!(world.condition("Ready").0, ConditionStatus::True, "the broker serves all the same");
}

#[test]
fn pod_that_cannot_be_asked_once_is_no_news_about_its_rules() {
    let mut world = world("{}");
    world.later(30);
    world.observed.pods[0].broker = None;
    assert_eq!(world.says("AccessReady"), "True InForce: home-0: d1");
    world.applied.documents = Some("d2".into());
    assert_eq!(world.says("AccessReady"), "Unknown NotReported: home-0 cannot be asked");
    world.observed.pods.clear();
    assert_eq!(world.condition("AccessReady").1, "NoPods");
    world.applied.documents = None;
    assert!(find(&world.status().conditions, "AccessReady").is_none(), "nothing is written while spec.paused is true");
}
