//! The equipment itself: what other tests take for granted.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};

use crate::support::{
    ApiServer, ELASTIC_PASSWORD, Elasticsearch, Held, Mosquitto, Paho, free_ports, mosquitto_client, paho, wait_until,
    with_temp_namespace,
};

#[tokio::test]
async fn api_server_stores_an_object_in_a_namespace_of_its_own() {
    let client = ApiServer::shared().client().await;
    with_temp_namespace(&client, async |namespace| {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
        let metadata = ObjectMeta { name: Some("one".to_owned()), ..ObjectMeta::default() };
        let object = ConfigMap { metadata, ..ConfigMap::default() };
        api.create(&PostParams::default(), &object).await.expect("an object that is admitted");
        assert_eq!(api.list(&ListParams::default()).await.expect("a list").items.len(), 1);
    })
    .await;
}

#[test]
fn what_is_held_ends_with_its_value() {
    let state = tempfile::tempdir().unwrap().keep();
    let ports = free_ports::<3>().map(|port| port.to_string());
    let held = Held::start("apiserver", &[state.to_str().unwrap(), &ports[0], &ports[1], &ports[2]]).unwrap();
    assert!(processes_that_name(&state) >= 2, "etcd and the API server run");
    drop(held);
    assert_eq!(processes_that_name(&state), 0, "nothing that has to do with it runs any more");
    assert!(!state.exists(), "the state is removed");
}

/// How many processes have the path in their arguments. Ports would not do: another test may have taken them by now.
fn processes_that_name(path: &Path) -> usize {
    let path = path.to_str().unwrap();
    let arguments = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let arguments = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&arguments).into_owned())
    });
    arguments.filter(|arguments| arguments.contains(path)).count()
}

#[tokio::test]
async fn elasticsearch_keeps_its_data_over_a_stop_and_a_start() {
    let server = Elasticsearch::start(&[]).unwrap_or_else(|error| panic!("{error}"));
    let document = format!("{}/lab/_doc/1?refresh=true", server.url());
    let client = reqwest::Client::new();
    let written = client.put(&document).json(&serde_json::json!({"value": 1})).send().await.unwrap();
    assert_eq!(written.status(), 201);
    server.stop();
    client.get(&document).send().await.expect_err("a stopped server refuses connections");
    server.start_again();
    let read: serde_json::Value = client.get(&document).send().await.unwrap().json().await.unwrap();
    assert_eq!(read["_source"]["value"], 1);
}

#[tokio::test]
async fn a_secure_elasticsearch_wants_the_password() {
    let server = Elasticsearch::start_secure().unwrap_or_else(|error| panic!("{error}"));
    let authority = reqwest::Certificate::from_pem(&std::fs::read(server.certificate_authority()).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([authority]).build().unwrap();
    let ask = async |password: &str| {
        let request = client.get(format!("{}/_cluster/health", server.url())).basic_auth("elastic", Some(password));
        request.send().await.unwrap().status()
    };
    assert_eq!(ask(ELASTIC_PASSWORD).await, 200);
    assert_eq!(ask("another").await, 401);
}

#[test]
fn mosquitto_carries_a_message_between_its_own_clients() {
    let broker = Mosquitto::start(&[]);
    let port = broker.port().to_string();
    let publish = ["-h", "127.0.0.1", "-p", &port, "-t", "lab/one", "-m", "hello", "-r"];
    assert!(mosquitto_client("mosquitto_pub").args(publish).status().unwrap().success());
    let subscribe = ["-h", "127.0.0.1", "-p", &port, "-t", "lab/#", "-v", "-C", "1", "-W", "10"];
    let heard = mosquitto_client("mosquitto_sub").args(subscribe).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&heard.stdout).trim(), "lab/one hello");
}

#[test]
fn both_majors_of_paho_are_what_they_are_called() {
    for (version, expected) in [(Paho::V1_6, "1.6."), (Paho::V2, "2.")] {
        let said = paho(version).args(["-c", "import paho.mqtt; print(paho.mqtt.__version__)"]).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.starts_with(expected), "{version:?} is {said}");
    }
}

#[test]
#[should_panic(expected = "no third look within 0ns; seen last: 2")]
fn a_condition_that_never_holds_fails_with_what_was_seen_last() {
    let mut looks = 1;
    wait_until(Duration::ZERO, "third look", || {
        looks += 1;
        if looks == 3 { Ok(()) } else { Err(looks) }
    });
}
