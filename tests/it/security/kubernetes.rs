//! What the operator may, and whom it believes.

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::reconcile::world::in_world;
use crate::support::project_file;

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
