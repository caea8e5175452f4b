//! What is in the children, read as the JSON that an API server gets.

use serde_json::{Value, json};

use super::*;
use crate::auth::rotation::{Keys, Source};
use crate::config::FORMAT;
use crate::plan::plan;

const TELEMETRY: &str = "telemetry: {topics: ['sensor/#'], elasticsearch: {urls: ['http://es:9200'], \
                         credentialsSecretRef: {name: es}, caSecretRef: {name: ca}}}";

fn resources(spec: &str) -> Resources {
    let mut object = MqttBroker::new("home", serde_saphyr::from_str(spec).unwrap());
    object.metadata.namespace = Some("shop".into());
    object.metadata.uid = Some("1234".into());
    let plan = plan(&object).unwrap();
    let keys = Keys::first(&plan.keys.wanted(Source::Made), 0, || [7; 48]).unwrap();
    let hashes = Users { format: FORMAT, users: Vec::new() };
    let user_secrets = plan.users.iter().map(|user| user_secret(&object, &plan, user, Some(b"geheim"))).collect();
    let ingredients = Ingredients {
        keys: Some(&keys),
        issuers: &Default::default(),
        hashes: &hashes,
        bridge_password: "b",
        user_secrets,
        image: "example/mqtt:1",
    };
    build(&object, &plan, ingredients)
}

fn pod(spec: &str) -> Value {
    serde_json::to_value(resources(spec).stateful_set).unwrap()["spec"]["template"].clone()
}

fn texts<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|item| item[field].as_str().unwrap()).collect()
}

#[test]
fn private_keys_and_clear_passwords_are_never_mounted() {
    let pod = pod(&format!("{{auth: {{users: [{{name: a, generate: true, acl: []}}]}}, {TELEMETRY}}}")).to_string();
    assert!(pod.contains("\"home-jwks\"") && pod.contains("\"home-users\""), "{pod}");
    assert!(!pod.contains("home-jwt") && !pod.contains("home-user-a"), "{pod}");
}

#[test]
fn every_container_is_confined_as_the_restricted_standard_asks() {
    let pod = pod(&format!("{{{TELEMETRY}}}"));
    assert_eq!(texts(&pod["spec"]["containers"], "name"), ["broker", "bridge"]);
    assert_eq!(pod["spec"]["automountServiceAccountToken"], json!(false));
    for container in pod["spec"]["containers"].as_array().unwrap() {
        assert_eq!(
            container["securityContext"],
            json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
                   "readOnlyRootFilesystem": true, "seccompProfile": {"type": "RuntimeDefault"}})
        );
    }
}

#[test]
fn readiness_is_the_brokers_alone() {
    let pod = pod(&format!("{{{TELEMETRY}}}"));
    let [broker, bridge] = pod["spec"]["containers"].as_array().unwrap().as_slice() else { panic!("{pod}") };
    assert_eq!(broker["readinessProbe"]["httpGet"], json!({"path": "/readyz", "port": 9180}));
    assert_eq!(broker["livenessProbe"]["httpGet"], json!({"path": "/livez", "port": 9180}));
    assert_eq!(bridge.get("readinessProbe"), None);
    assert_eq!(bridge["livenessProbe"]["httpGet"], json!({"path": "/livez", "port": 9181}));
}

#[test]
fn containers_mount_what_they_read_and_nothing_else() {
    let pod = pod(&format!("{{{TELEMETRY}}}"));
    let [broker, bridge] = pod["spec"]["containers"].as_array().unwrap().as_slice() else { panic!("{pod}") };
    assert_eq!(
        texts(&broker["volumeMounts"], "mountPath"),
        [
            "/etc/mqtt/config",
            "/etc/mqtt/jwks",
            "/etc/mqtt/users",
            "/etc/mqtt/revocations",
            "/etc/mqtt/bridge",
            "/var/lib/mqtt"
        ]
    );
    assert_eq!(
        texts(&bridge["volumeMounts"], "mountPath"),
        [
            "/etc/mqtt/config",
            "/etc/mqtt/bridge",
            "/etc/mqtt/jwks",
            "/etc/mqtt/elasticsearch",
            "/etc/mqtt/elasticsearch-ca"
        ]
    );
    let optional = |name: &str| {
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        volumes.iter().find(|volume| volume["name"] == name).unwrap()["secret"]["optional"].clone()
    };
    assert_eq!((optional("elasticsearch"), optional("elasticsearch-ca")), (json!(true), json!(true)));
    assert_eq!((optional("jwks"), optional("revocations")), (Value::Null, json!(true)));
}

#[test]
fn certificates_are_mounted_as_directories_and_their_absence_holds_no_pod_up() {
    let pod = pod("{listeners: [{name: mqtt, protocol: mqtt, port: 1883}, {name: sec, protocol: mqtts, port: 8883,
           tls: {secretName: cert, clientCa: {secretName: ca}}}]}");
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
    let at = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path).unwrap();
    let volume = |name: &Value| {
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        volumes.iter().find(|volume| volume["name"] == *name).unwrap()["secret"].clone()
    };
    let (cert, ca) = (at("/etc/mqtt/tls/sec"), at("/etc/mqtt/client-ca/sec"));
    assert_eq!((cert.get("subPath"), ca.get("subPath")), (None, None));
    assert_eq!(volume(&cert["name"]), json!({"secretName": "cert", "optional": true}));
    assert_eq!(volume(&ca["name"]), json!({"secretName": "ca", "optional": true}));
}

#[test]
fn template_changes_with_the_settings_of_the_broker_and_with_nothing_else() {
    assert_eq!(pod("{}"), pod("{service: {annotations: {a: b}}}"));
    let elsewhere = TELEMETRY.replace("http://es:9200", "http://other:9200");
    assert_eq!(pod(&format!("{{{TELEMETRY}}}")), pod(&format!("{{{elsewhere}}}")), "the bridge reads it by itself");
    let users =
        "{auth: {users: [{name: a, generate: true, acl: []}], deny: [{permission: deny, action: all, topic: x}]}}";
    assert_eq!(pod("{}"), pod(users), "the broker takes up who may do what by itself");
    assert_ne!(pod("{}"), pod("{limits: {maxInflight: 7}}"));
    assert_ne!(pod("{}"), pod(&format!("{{{TELEMETRY}}}")));
}

#[test]
fn what_is_kept_has_a_claim_that_the_brokers_user_may_write_and_memory_has_none() {
    let set = |spec: &str| serde_json::to_value(resources(spec).stateful_set).unwrap()["spec"].clone();
    let kept = set("{storage: {size: 5Gi, storageClassName: fast}}");
    let claim = &kept["volumeClaimTemplates"][0];
    assert_eq!((&claim["metadata"]["name"], &claim["spec"]["storageClassName"]), (&json!("state"), &json!("fast")));
    assert_eq!(claim["spec"]["resources"]["requests"], json!({"storage": "5Gi"}));
    assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    let retention = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    assert_eq!(kept["persistentVolumeClaimRetentionPolicy"], retention);
    let pod = &kept["template"]["spec"];
    assert!(!texts(&pod["volumes"], "name").contains(&"state"), "{pod}");
    assert_eq!(pod["securityContext"]["fsGroup"], json!(65532));
    assert_eq!(pod["securityContext"].get("runAsUser"), None);

    let memory = set("{storage: {durability: memory}}");
    assert_eq!((memory.get("volumeClaimTemplates"), memory.get("persistentVolumeClaimRetentionPolicy")), (None, None));
    assert!(texts(&memory["template"]["spec"]["volumes"], "name").contains(&"state"), "{memory}");
    assert_eq!(memory["template"]["spec"]["securityContext"].get("fsGroup"), None);
}

#[test]
fn a_claim_that_grows_rolls_no_pod() {
    assert_eq!(pod("{storage: {size: 1Gi}}"), pod("{storage: {size: 2Gi}}"));
    let with = |size: &str| pod(&format!("{{storage: {{size: {size}}}, {TELEMETRY}}}"));
    assert_eq!(with("1Gi"), with("2Gi"), "more may wait for the bridge, too");
    assert_ne!(pod("{storage: {durability: fsync}}"), pod("{storage: {durability: async}}"));
}

#[test]
fn labels_of_the_user_do_not_hide_the_pods_from_their_services() {
    let pod = pod("{pod: {labels: {app.kubernetes.io/instance: other, team: a}, annotations: {a: b}}}");
    assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/instance"], json!("home"));
    assert_eq!(pod["metadata"]["labels"]["team"], json!("a"));
    assert_eq!(pod["metadata"]["annotations"]["a"], json!("b"));
}

#[test]
fn services_have_a_port_per_listener_and_the_headless_one_shows_every_pod() {
    let built =
        resources("{listeners: [{name: one, protocol: mqtt, port: 1883}, {name: two, protocol: mqtt, port: 2883}]}");
    let services = serde_json::to_value(&built.services).unwrap();
    assert_eq!(texts(&services[0]["spec"]["ports"], "name"), ["one", "two"]);
    assert_eq!(texts(&services[1]["spec"]["ports"], "name"), ["one", "two", "admin"]);
    assert_eq!(services[1]["spec"]["clusterIP"], json!("None"));
    assert_eq!(services[1]["spec"]["publishNotReadyAddresses"], json!(true));
    assert_eq!(services[0]["metadata"]["ownerReferences"][0]["uid"], json!("1234"));
}

#[test]
fn secret_of_a_user_is_what_service_binding_asks_for() {
    let built = resources("{auth: {users: [{name: mqtt_user, generate: true, acl: []}]}}");
    let secret = &built.user_secrets[0];
    let text = |key: &str| String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap();
    assert_eq!(secret.metadata.name.as_deref(), Some("home-user-mqtt-user-9b8453"));
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/basic-auth"));
    assert_eq!((text("username"), text("password")), ("mqtt_user".into(), "geheim".into()));
    assert_eq!((text("host"), text("port")), ("home.shop.svc".into(), "1883".into()));
    assert_eq!((text("type"), text("uri")), ("mqtt".into(), "mqtt://home.shop.svc:1883".into()));
}
