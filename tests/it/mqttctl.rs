//! `mqttctl` against a real API server, with the rights of whoever calls it.

use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use mqtt_operator::api::{MqttBroker, manifest};
use serde_json::json;

use crate::support::{ApiServer, free_ports, with_temp_namespace};
use crate::up::running::{Up, mqttctl, on_port, run, sample, succeed};

/// The tutorial's broker, which an `up` runs, as an operator would have left it in the namespace: object, status, keys.
async fn publish(client: &kube::Client, namespace: &str, directory: &Path) -> Up {
    let [port] = free_ports();
    let text = on_port(&sample("tutorial"), port);
    let up = Up::start(directory, &text, port, &["-n", namespace]);
    let manifest = manifest::read(&text).expect("a sample is valid");

    let objects: Api<MqttBroker> = Api::namespaced(client.clone(), namespace);
    objects.create(&PostParams::default(), &manifest.brokers[0]).await.expect("an object that is admitted");
    let status = json!({"status": {"replicas": 1, "readyReplicas": 1, "address": "127.0.0.1", "endpoints": [
        {"name": "mqtt", "scheme": "mqtt", "url": "mqtt://home.svc:1883", "host": "home.svc", "port": 1883,
         "scope": "internal", "ready": true},
        {"name": "mqtt", "scheme": "mqtt", "url": format!("mqtt://127.0.0.1:{port}"), "ip": "127.0.0.1", "port": port,
         "scope": "external", "ready": true},
    ]}});
    objects.patch_status("tutorial", &PatchParams::default(), &Patch::Merge(status)).await.expect("a status");

    let keys = directory.join(".mqtt").join(namespace).join("tutorial/keys");
    let data = ["keys.json", "state.json"]
        .map(|key| (key.to_owned(), ByteString(std::fs::read(keys.join(key)).expect("`up` has written its keys"))));
    let metadata = ObjectMeta { name: Some("tutorial-jwt".into()), ..ObjectMeta::default() };
    let secret = Secret { metadata, data: Some(data.into()), ..Secret::default() };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    secrets.create(&PostParams::default(), &secret).await.expect("a Secret");
    up
}

/// A kubeconfig like the administrator's, for somebody without any rights.
fn without_rights(directory: &Path) -> PathBuf {
    let mut kubeconfig = kube::config::Kubeconfig::read_from(ApiServer::shared().kubeconfig()).expect("a kubeconfig");
    for user in &mut kubeconfig.auth_infos {
        user.auth_info.as_mut().expect("a user").impersonate = Some("somebody".into());
    }
    let path = directory.join("somebody.kubeconfig");
    std::fs::write(&path, serde_json::to_string(&kubeconfig).expect("JSON is YAML")).expect("a writable directory");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_is_read_with_the_callers_rights() {
    let client = ApiServer::shared().client_with_crds().await;
    with_temp_namespace(&client, async |namespace| {
        let directory = tempfile::tempdir().unwrap();
        let up = publish(&client, &namespace, directory.path()).await;
        // Another directory: there is no `.mqtt` in it that could be meant.
        let elsewhere = tempfile::tempdir().unwrap();
        let ctl = |kubeconfig: &Path, arguments: &[&str]| -> Command {
            let mut command = mqttctl(elsewhere.path());
            command.arg("--kubeconfig").arg(kubeconfig).args(["-n", &namespace]).args(arguments);
            command
        };
        let admin = ApiServer::shared().kubeconfig();

        let (code, stdout, stderr) = run(ctl(admin, &["endpoint"]));
        assert_eq!((code, stdout.as_str()), (Some(0), "127.0.0.1\n"), "{stderr}");
        assert!(stderr.contains(&format!("{namespace}/tutorial in the cluster")), "{stderr}");
        let url = format!("mqtt://127.0.0.1:{}\n", up.port);
        assert_eq!(succeed(ctl(admin, &["endpoint", "tutorial", "-o", "url"])), url);

        let issue = ["token", "issue", "--sub", "dev1", "--publish", "sensor/#"];
        let token = succeed(ctl(admin, &issue));
        let (port, token) = (up.port, token.trim());
        let publish = "mosquitto_pub -V mqttv5 -q 1 -t sensor/a -m 1 -u dev1 -h 127.0.0.1";
        let (code, _, stderr) = run(up.shell(&format!("{publish} -p {port} -P {token}")));
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        succeed(ctl(admin, &["publish", "sensor/a", "1", "--qos", "1"]));

        let somebody = without_rights(elsewhere.path());
        let (code, stdout, stderr) = run(ctl(&somebody, &["-b", "tutorial", "token", "issue", "--sub", "dev1"]));
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert!(stderr.contains("tutorial") && stderr.contains("forbidden"), "{stderr}");

        let (code, _, stderr) = run(ctl(admin, &["endpoint", "absent"]));
        assert_eq!(code, Some(1));
        assert!(stderr.contains("there is no MqttBroker absent"), "{stderr}");
        up.stop();
        let (code, stdout, stderr) = run(ctl(admin, &["endpoint"]));
        assert_eq!((code, stdout.as_str()), (Some(1), "127.0.0.1\n"));
        assert!(stderr.contains("nothing serves MQTT"), "{stderr}");
    })
    .await;
}

#[test]
fn without_up_and_without_a_cluster_the_next_step_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut endpoint = mqttctl(directory.path());
    endpoint.arg("endpoint");
    let (code, stdout, stderr) = run(endpoint);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("mqttctl up -f FILE") && stderr.contains("kubeconfig"), "{stderr}");
}

#[test]
fn lint_says_what_an_api_server_would() {
    let directory = tempfile::tempdir().unwrap();
    let lint = |text: &str| {
        std::fs::write(directory.path().join("broker.yaml"), text).unwrap();
        let mut command = mqttctl(directory.path());
        command.args(["lint", "broker.yaml"]);
        run(command)
    };
    let good = sample("tutorial");
    assert_eq!(lint(&good).0, Some(0));
    for (from, to, says) in [
        ("acl:", "acls:", "acls"),
        ("passwordSecretRef:", "generate: true\n        passwordSecretRef:", "exactly one of"),
        ("name: mqtt_user", "name: \"system:me\"", "reserved"),
        ("topic: \"test/#\"", "topic: \"test/#/x\"", "topic"),
    ] {
        let (code, stdout, stderr) = lint(&good.replacen(from, to, 1));
        assert_eq!(code, Some(1), "{to}: {stdout}");
        assert!(stderr.contains(says), "{to}: {stderr}");
    }
    let (code, stdout, _) = lint(good.split_once("---\n").expect("two documents").1);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("tutorial-password"), "{stdout}");
}
