//! What the API server says of an object before anybody else sees it, and that `mqttctl` says the same.

use std::io::Write as _;
use std::process::{Command, Stdio};

use mqtt_operator::api::manifest;

use crate::support::{ApiServer, project_file, run, with_temp_namespace};

/// Specs that are refused, and what is said: by the API server, and by the reader of manifests.
const REFUSED: &[(&str, &str, &str)] = &[
    ("replicas: 2", "spec.replicas in body should be less than or equal to 1", "spec.replicas: must be at most 1"),
    (
        "listeners: [{name: a, protocol: amqp, port: 1883}]",
        "spec.listeners[0].protocol: Unsupported value: \"amqp\": supported values: \"mqtt\", \"mqtts\", \"ws\", \"wss\"",
        "spec.listeners[0].protocol: \"amqp\" is not one of \"mqtt\", \"mqtts\", \"ws\", \"wss\"",
    ),
    (
        "listeners: [{name: a, protocol: mqtt, port: 1883}, {name: b, protocol: mqtt, port: 1883}]",
        "each listener needs a port of its own",
        "each listener needs a port of its own",
    ),
    (
        "listeners: [{name: a, protocol: mqtt, port: 9180}]",
        "ports 9180, 9181 and 11883 are used inside the pod",
        "ports 9180, 9181 and 11883 are used inside the pod",
    ),
    (
        "listeners: [{name: a, protocol: mqtts, port: 1}]",
        "protocols mqtts and wss need tls: {secretName: …}",
        "protocols mqtts and wss need tls: {secretName: …}",
    ),
    (
        "listeners: [{name: a, protocol: ws, port: 1, tls: {secretName: s}}]",
        "tls needs protocol mqtts or wss",
        "tls needs protocol mqtts or wss",
    ),
    (
        "listeners: [{name: a, protocol: mqtt, port: 1, path: /a}]",
        "path needs protocol ws or wss",
        "path needs protocol ws or wss",
    ),
    (
        "listeners: [{name: a, protocol: mqtt, port: 1, allowedOrigins: ['*']}]",
        "allowedOrigins needs protocol ws or wss",
        "allowedOrigins needs protocol ws or wss",
    ),
    (
        "listeners: [{name: a, protocol: wss, port: 1, tls: {secretName: s, requireClientCertificate: true}}]",
        "requireClientCertificate needs clientCa: {secretName: …}",
        "requireClientCertificate needs clientCa: {secretName: …}",
    ),
    ("listeners: []", "spec.listeners in body should have at least 1 items", "must have at least 1 item"),
    (
        "auth: {jwt: {keySecretRef: {name: k}, rotation: {interval: 720h}}}",
        "with keySecretRef the keys are yours, and so is their rotation: leave rotation out, and put a new key into the \
         Secret when it is time",
        "with keySecretRef the keys are yours, and so is their rotation: leave rotation out, and put a new key into the \
         Secret when it is time",
    ),
    (
        "auth: {users: [{name: a, acl: []}]}",
        "exactly one of passwordSecretRef, passwordHashSecretRef and generate: true is needed",
        "exactly one of passwordSecretRef, passwordHashSecretRef and generate: true is needed",
    ),
    (
        "auth: {users: [{name: a, acl: [], generate: true, passwordSecretRef: {name: s, key: k}}]}",
        "exactly one of passwordSecretRef, passwordHashSecretRef and generate: true is needed",
        "exactly one of passwordSecretRef, passwordHashSecretRef and generate: true is needed",
    ),
    ("auth: {users: [{name: a, generate: true}]}", "acl or groups is needed", "acl or groups is needed"),
    ("auth: {users: [{name: a, generate: true, acl: null}]}", "acl or groups is needed", "acl or groups is needed"),
    (
        "auth: {users: [{name: 'system:bridge', generate: true, acl: []}]}",
        "names that begin with 'system:' are reserved",
        "names that begin with 'system:' are reserved",
    ),
    (
        "auth: {groups: [{name: 'system:all', acl: []}]}",
        "names that begin with 'system:' are reserved",
        "names that begin with 'system:' are reserved",
    ),
    (
        "auth: {jwt: {algorithm: HS256}}",
        "set acknowledgeSharedSecret: true to accept that",
        "set acknowledgeSharedSecret: true to accept that",
    ),
    (
        "auth: {jwt: {issuers: [{issuer: i, audiences: [a]}]}}",
        "exactly one of jwksUrl and jwksSecretRef is needed",
        "exactly one of jwksUrl and jwksSecretRef is needed",
    ),
    (
        "auth: {jwt: {issuers: [{issuer: i, audiences: [a], jwksUrl: 'https://a', jwksSecretRef: {name: s}}]}}",
        "exactly one of jwksUrl and jwksSecretRef is needed",
        "exactly one of jwksUrl and jwksSecretRef is needed",
    ),
    (
        "auth: {jwt: {issuers: [{issuer: i, audiences: [a], jwksUrl: 'http://a'}]}}",
        "jwksUrl must begin with https://; http:// needs allowPrivate: true",
        "jwksUrl must begin with https://; http:// needs allowPrivate: true",
    ),
    (
        "auth: {jwt: {issuers: [{issuer: i, audiences: [a], jwksUrl: 'https://a', algorithms: [HS256]}]}}",
        "HS256 needs jwksSecretRef: a secret that is fetched is none",
        "HS256 needs jwksSecretRef: a secret that is fetched is none",
    ),
    (
        "auth: {jwt: {issuers: [{issuer: i, audiences: [a], jwksSecretRef: {name: s}, allowPrivate: true}]}}",
        "allowPrivate and caSecretRef need jwksUrl",
        "allowPrivate and caSecretRef need jwksUrl",
    ),
    (
        "auth: {jwt: {issuers: [{issuer: i, jwksSecretRef: {name: s}}]}}",
        "audiences is needed, or tokens that this issuer has made for others would be accepted",
        "audiences is needed, or tokens that this issuer has made for others would be accepted",
    ),
    (
        "auth: {jwt: {issuers: [{issuer: i, jwksSecretRef: {name: s}, mapping: {profile: authx, subject: a}}]}}",
        "a profile says which claims are meant",
        "a profile says which claims are meant",
    ),
    (
        "telemetry: {topics: [], elasticsearch: {urls: ['http://es:9200']}}",
        "spec.telemetry.topics in body should have at least 1 items",
        "spec.telemetry.topics: must have at least 1 item",
    ),
    (
        "storage: {size: 1Mi}",
        "storage.size must be at least 64Mi; with durability memory it does not matter",
        "storage.size must be at least 64Mi; with durability memory it does not matter",
    ),
    (
        "storage: {durability: sync}",
        "spec.storage.durability: Unsupported value: \"sync\"",
        "spec.storage.durability: \"sync\" is not one of \"fsync\", \"async\", \"memory\"",
    ),
    ("auth: {usres: []}", "unknown field \"spec.auth.usres\"", "spec.auth.usres: unknown field"),
    (
        "auth: {deny: [{permission: deny, action: all, topic: a, topics: b}]}",
        "unknown field \"spec.auth.deny[0].topics\"",
        "spec.auth.deny[0].topics: unknown field",
    ),
    (
        "pod: {affinity: {nodeAfinity: {}}}",
        "unknown field \"spec.pod.affinity.nodeAfinity\"",
        "spec.pod.affinity.nodeAfinity: unknown field",
    ),
];

fn object(name: &str, spec: &str) -> String {
    format!("apiVersion: mqtt-operator.io/v1alpha1\nkind: MqttBroker\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

/// What `kubectl apply --dry-run=server` says: `Ok` if the object is admitted.
fn admission(server: &ApiServer, object: &str) -> Result<String, String> {
    let mut apply: Command = server.kubectl();
    apply.args(["apply", "--dry-run=server", "-f", "-"]);
    apply.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = apply.spawn().expect("kubectl starts");
    child.stdin.take().unwrap().write_all(object.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_field_and_by_both_sides() {
    let server = ApiServer::shared();
    server.client_with_crds().await;
    for (spec, said_there, said_here) in REFUSED {
        let object = object("home", spec);
        let there = admission(server, &object).expect_err(spec);
        assert!(there.contains(said_there), "{spec}\nsaid: {there}\nnot: {said_there}");
        let here = manifest::read(&object).expect_err(spec).to_string();
        assert!(here.contains(said_here), "{spec}\nsaid: {here}\nnot: {said_here}");
    }
}

#[tokio::test]
async fn name_that_children_cannot_have_is_refused() {
    let server = ApiServer::shared();
    server.client_with_crds().await;
    let long = "a".repeat(41);
    for (name, message) in [
        (long.as_str(), "metadata.name must have at most 40 characters"),
        ("a.b", "metadata.name must consist of a-z, 0-9 and '-'"),
        ("1a", "metadata.name must consist of a-z, 0-9 and '-'"),
    ] {
        let object = object(name, "");
        let there = admission(server, &object).expect_err(name);
        assert!(there.contains(message), "{name}: {there}");
        let here = manifest::read(&object).expect_err(name).to_string();
        assert!(here.contains(message), "{name}: {here}");
    }
    admission(server, &object(&long[..40], "")).expect("40 characters are admitted");
}

#[tokio::test]
async fn what_can_be_is_admitted_by_both_sides() {
    let server = ApiServer::shared();
    server.client_with_crds().await;
    for spec in [
        "",
        "replicas: 0",
        "auth: {jwt: {algorithm: HS256, acknowledgeSharedSecret: true, maxTokenTtl: 1h30m}}",
        "auth: {users: [{name: a b, generate: true, groups: []}], anonymous: {acl: []}}",
        "auth: {deny: [{permission: deny, action: all, topic: a, qos: 1, share: [g]}, {permission: deny, action: all, \
         topic: b, qos: [0, 2], share: true}]}",
        "limits: {maxPacketSize: 64Ki, maxQueuedBytes: 1048576, sessionExpiry: 24h}",
        "storage: {size: 2Ti, storageClassName: fast, durability: async, onDelete: Delete}",
        "storage: {size: 134217728}",
        "storage: {size: 1, durability: memory}",
        "service: {type: NodePort, externalTrafficPolicy: Local, ipFamilyPolicy: PreferDualStack}",
        "pod: {tolerations: [{key: a, operator: Exists}], resources: {limits: {memory: 1Gi, cpu: 2}}, affinity: \
         {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: \
         a, labelSelector: {matchLabels: {a: b}}}}]}}}",
    ] {
        let object = object("home", spec);
        admission(server, &object).unwrap_or_else(|said| panic!("{spec}: {said}"));
        manifest::read(&object).unwrap_or_else(|said| panic!("{spec}: {said}"));
    }
}

#[tokio::test]
async fn samples_are_admitted_and_kubectl_shows_them() {
    let server = ApiServer::shared();
    let client = server.client_with_crds().await;
    with_temp_namespace(&client, async |namespace| {
        let samples = project_file("manifests/samples");
        run(server.kubectl().args(["-n", &namespace, "apply", "-f"]).arg(&samples));
        let table = run(server.kubectl().args(["-n", &namespace, "get", "mqb"]));
        let columns: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(columns, ["NAME", "READY", "ENDPOINT", "REPLICAS", "AGE"]);
        for category in ["mqtt", "all"] {
            let list = run(server.kubectl().args(["-n", &namespace, "get", category, "-o", "name"]));
            assert!(list.contains("mqttbroker.mqtt-operator.io/thermometer"), "{category}: {list}");
        }
    })
    .await;
}
