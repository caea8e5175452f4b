//! What the operator may, and whom it believes.

use std::process::Command;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Secret, Service};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use mqtt_operator::api::{MqttBroker, MqttUser};
use mqtt_operator::client::{self, Message, Options};
use mqtt_operator::mqtt::QoS;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::reconcile::keys::ctl;
use crate::reconcile::world::{DEADLINE, IMAGE, Operator, World, in_world};
use crate::support::{ApiServer, await_until, project_file};
use crate::up::running::Watched;

fn manifests() -> Vec<Value> {
    let text = std::fs::read_to_string(project_file("manifests/install.yaml")).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn class_25_no_right_of_the_operator_makes_other_rights() {
    let manifests = manifests();
    let roles = manifests.iter().filter(|it| matches!(it["kind"].as_str(), Some("Role" | "ClusterRole")));
    let mut rules = 0;
    for (role, rule) in roles.flat_map(|role| role["rules"].as_array().unwrap().iter().map(move |rule| (role, rule))) {
        rules += 1;
        let (groups, resources, verbs) =
            (strings(&rule["apiGroups"]), strings(&rule["resources"]), strings(&rule["verbs"]));
        let all = [&groups[..], &resources, &verbs, &strings(&rule["nonResourceURLs"])].concat();
        assert!(!all.contains(&"*"), "{}: {rule}", role["metadata"]["name"]);
        for forbidden in [
            "escalate",
            "bind",
            "impersonate",
            "serviceaccounts/token",
            "pods/exec",
            "pods/attach",
            "pods/ephemeralcontainers",
            "certificatesigningrequests",
            "nodes/proxy",
            "secrets/*",
        ] {
            assert!(!all.contains(&forbidden), "{}: {rule}", role["metadata"]["name"]);
        }
        assert!(!groups.contains(&"rbac.authorization.k8s.io"), "{rule}");
    }
    assert!(rules > 5, "the manifests have roles");
}

/// All properties of a schema, at any depth, with the way to them.
fn properties<'a>(schema: &'a Value, at: &str, found: &mut Vec<(String, &'a Value)>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        properties(property, &at, found);
        found.push((at, property));
    }
    for part in [&schema["items"], &schema["additionalProperties"]] {
        if part.is_object() {
            properties(part, &format!("{at}[]"), found);
        }
    }
}

#[test]
fn class_25_no_reference_leads_out_of_the_namespace_of_its_object() {
    let mut references = 0;
    for definition in manifests().iter().filter(|it| it["kind"] == "CustomResourceDefinition") {
        for version in definition["spec"]["versions"].as_array().unwrap() {
            let mut all = Vec::new();
            properties(&version["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec", &mut all);
            for (at, property) in all.iter().filter(|(at, _)| at.ends_with("Ref")) {
                references += 1;
                assert!(property["properties"]["namespace"].is_null(), "{at} has a namespace");
            }
        }
    }
    assert!(references > 0, "the definitions have references");
}

#[tokio::test]
async fn class_25_a_pod_that_only_looks_like_the_brokers_is_not_shown_a_token() {
    in_world(async |world| {
        let _pod = world.serving("home", "{}").await;
        let real = world.api::<Pod>().get("home-0").await.unwrap();
        // It has every label, a port where reports are, and an address; and who made it is not the StatefulSet.
        let address = "127.66.66.66";
        let trap = TcpListener::bind((address, 9180)).await.expect("a free loopback address");
        let mut fake = Pod { metadata: Default::default(), spec: real.spec.clone(), status: None };
        fake.metadata.name = Some("home-1".into());
        fake.metadata.labels = real.metadata.labels.clone();
        let pods = world.api::<Pod>();
        pods.create(&PostParams::default(), &fake).await.expect("a pod that is admitted");
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
        pods.patch_status("home-1", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        // The operator goes through passes in which it asks the real one.
        for _ in 0..3 {
            let before = world.operator.passes().await;
            world.look_again("home").await;
            world.operator.pass_after(before).await;
        }
        let came = tokio::time::timeout(std::time::Duration::from_millis(200), trap.accept()).await;
        if let Ok(Ok((mut socket, _))) = came {
            let mut said = vec![0; 4096];
            let read = socket.read(&mut said).await.unwrap_or(0);
            panic!("the operator asked it: {}", String::from_utf8_lossy(&said[..read]));
        }
    })
    .await;
}

/// The values of the Secrets of this namespace that nobody but their readers may see.
async fn secrets_of(world: &World) -> Vec<String> {
    let secrets: Api<Secret> = world.api();
    let mut found = Vec::new();
    for secret in secrets.list(&ListParams::default()).await.unwrap() {
        for (name, value) in secret.data.clone().unwrap_or_default() {
            let text = String::from_utf8(value.0).unwrap();
            match name.as_str() {
                "password" => found.push(text),
                "keys.json" | "jwks.json" => {
                    let keys: Value = serde_json::from_str(&text).unwrap();
                    // The private part, or the shared secret; public keys have neither.
                    let keys = keys["keys"].as_array().unwrap().iter();
                    found.extend(keys.filter_map(|key| key["d"].as_str().or(key["k"].as_str()).map(str::to_owned)));
                }
                "users.json" => {
                    let users: Value = serde_json::from_str(&text).unwrap();
                    for user in users["users"].as_array().unwrap() {
                        let hash = user["hash"].as_str().unwrap();
                        found.extend([hash.to_owned(), hash.rsplit('$').next().unwrap().to_owned()]);
                    }
                }
                _ => {}
            }
        }
    }
    found
}

/// Everything in the namespace but its Secrets: specs, arguments, environments, annotations, statuses, Events.
async fn written(world: &World) -> Vec<String> {
    async fn all<K>(world: &World) -> Vec<String>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
    {
        let api: Api<K> = world.api();
        let list = api.list(&ListParams::default()).await.unwrap();
        list.iter().map(|object| serde_json::to_string(object).unwrap()).collect()
    }
    [
        all::<MqttBroker>(world).await,
        all::<MqttUser>(world).await,
        all::<StatefulSet>(world).await,
        all::<Pod>(world).await,
        all::<ConfigMap>(world).await,
        all::<Service>(world).await,
        all::<Event>(world).await,
    ]
    .concat()
}

/// The operator as a process of its own, which logs all that it can.
async fn process_in_place_of(world: &mut World) -> Watched {
    let idle = Operator::start(&world.client, "nowhere", IMAGE);
    std::mem::replace(&mut world.operator, idle).stop().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqtt-operator"));
    command.args(["--broker-image", IMAGE, "--admin", "127.0.0.1:0", "--watch-namespaces", &world.namespace]);
    command.env("KUBECONFIG", ApiServer::shared().kubeconfig()).env("LOG_FORMAT", "json").env("RUST_LOG", "trace");
    Watched::spawn(command)
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one cluster, each way to present a secret, and each place where it may show"
)]
async fn class_20_no_secret_is_in_events_statuses_arguments_or_the_log_of_the_operator() {
    in_world(async |mut world| {
        let operator = process_in_place_of(&mut world).await;
        world.secret("theirs", &[("password", "the-password-of-bob")]).await;
        let spec = "{auth: {users: [{name: alice, generate: true, acl: [{permission: allow, action: all, topic: 't/#'}]}, \
                    {name: bob, passwordSecretRef: {name: theirs, key: password}, acl: []}]}, \
                    telemetry: {topics: ['t/#'], elasticsearch: {urls: ['http://127.0.0.1:1']}}}";
        let pod = world.serving("home", spec).await;
        world.apply("shared", "{auth: {jwt: {algorithm: HS256, acknowledgeSharedSecret: true}}}").await;
        world.child::<Secret>("shared-jwks").await;
        let user = json!({"apiVersion": "mqtt-operator.io/v1alpha1", "kind": "MqttUser", "metadata": {"name": "carol"},
            "spec": {"brokerRef": {"name": "home"}, "generate": true, "acl": []}});
        let users: Api<MqttUser> = world.api();
        users.patch("carol", &PatchParams::apply("tests").force(), &Patch::Apply(user)).await.unwrap();
        world.child::<Secret>("carol-mqtt").await;

        // Whatever may be presented, in the wrong place too; and keys and tokens that are replaced and taken back.
        let issue = ["token", "issue", "--sub", "dev1", "--publish", "t/#"];
        let (_, token, _) = ctl(&world, &issue).await;
        let guess = "a-guess-of-somebody-0815";
        for (n, (user, password)) in
            [("alice", guess), ("alice", &token), (&token, guess), ("dev1", &token)].into_iter().enumerate()
        {
            let mut options = Options::new(pod.address(), format!("client-{n}"));
            (options.username, options.password) = (Some(user.to_owned()), Some(password.into()));
            if let Ok((client, ..)) = client::connect(&options).await {
                client.publish(&Message::new(format!("elsewhere/{token}"), "x", QoS::AtLeastOnce)).await.unwrap();
            }
        }
        let mut secrets = secrets_of(&world).await;
        let (code, said, why) = ctl(&world, &["token", "revoke", &token]).await;
        assert_eq!(code, Some(0), "{said}{why}");
        let active = world.status("home").await.jwt.unwrap().keys[0].kid.clone();
        let (code, said, why) = ctl(&world, &["keys", "revoke", &active, "--yes"]).await;
        assert_eq!(code, Some(0), "{said}{why}");
        await_until(DEADLINE, "what is denied and taken back is said", async || {
            pod.sync(&world).await;
            let look = json!({"metadata": {"annotations": {"tests/look": unix_seconds().to_string()}}});
            let objects: Api<MqttBroker> = world.api();
            objects.patch("home", &PatchParams::default(), &Patch::Merge(look)).await.unwrap();
            let events = written(&world).await.join("\n");
            let told = |event: &str, what: &str| {
                let is_told = |line: &String| line.contains(&format!("\"event\":\"{event}\"")) && line.contains(what);
                operator.lines().iter().any(is_told)
            };
            let audit = [
                told("mint", "\"what\":\"password\""),
                told("mint", "\"what\":\"admin token\""),
                told("revoke", "\"what\":\"tokens\""),
                told("revoke", &active),
            ];
            let seen = ["ConnectRefused", "KeyCompromised"].map(|reason| events.contains(reason));
            if audit == [true; 4] && seen == [true; 2] { Ok(()) } else { Err((audit, seen)) }
        })
        .await;

        secrets.extend(secrets_of(&world).await);
        secrets.extend(token.split('.').skip(1).map(str::to_owned));
        secrets.push(guess.to_owned());
        assert!(secrets.len() > 15, "{}", secrets.len());
        let said = [operator.lines(), written(&world).await].concat();
        for secret in &secrets {
            assert!(secret.len() > 10, "{secret}");
            if let Some(line) = said.iter().find(|line| line.contains(secret.as_str())) {
                panic!("{secret} is in {line}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn class_25_secrets_go_with_their_object_and_those_of_others_are_left_alone() {
    in_world(async |world| {
        world.secret("home-jwks", &[("theirs", "not the operator's")]).await;
        let user = "auth: {users: [{name: u, generate: true, acl: []}]}";
        world.apply("home", &format!("{{{user}}}")).await;
        world.says("home", "Ready", "False NameTaken").await;
        assert_eq!(world.text("home-jwks", "theirs").await, "not the operator's");
        world.apply("other", &format!("{{{user}}}")).await;
        world.child::<Secret>("other-users").await;
        world.child::<Secret>("other-jwt").await;
        let secrets: Api<Secret> = world.api();
        let all = secrets.list(&ListParams::default()).await.unwrap();
        let ours: Vec<_> = all.iter().filter(|it| it.name_any().starts_with("other-")).collect();
        assert!(ours.len() >= 3, "keys, public keys, users");
        for secret in ours {
            let owners = secret.owner_references();
            assert!(
                matches!(owners, [owner] if owner.kind == "MqttBroker" && owner.name == "other" && owner.controller == Some(true)),
                "{}: {owners:?}",
                secret.name_any()
            );
        }
    })
    .await;
}
