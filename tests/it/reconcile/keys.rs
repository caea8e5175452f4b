//! Signing keys and revocations, with the real broker in the pod and `mqttctl` beside it.

use std::cell::Cell;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Secret};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use mqtt_operator::api::MqttBroker;
use mqtt_operator::client::{self, Message};
use mqtt_operator::mqtt::{QoS, ReasonCode};
use serde_json::{Value, json};

use super::world::{DEADLINE, RunningPod, World, in_world};
use crate::support::{ApiServer, await_until};
use crate::up::running::{mqttctl, run};

/// What kubelet does, at its pace with nudges: the pod's mounts follow what is stored.
async fn kubelet(world: &World, pod: &RunningPod) {
    let mut often = tokio::time::interval(Duration::from_millis(200));
    loop {
        often.tick().await;
        pod.sync(world).await;
    }
}

/// Runs a story with a kubelet beside it.
async fn with_kubelet<T>(world: &World, pod: &RunningPod, story: impl Future<Output = T>) -> T {
    tokio::select! {
        told = story => told,
        () = kubelet(world, pod) => unreachable!("it goes on for ever"),
    }
}

/// `mqttctl`, as the administrator of the cluster.
pub async fn ctl(world: &World, arguments: &[&str]) -> (Option<i32>, String, String) {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = mqttctl(elsewhere.path());
    command.arg("--kubeconfig").arg(ApiServer::shared().kubeconfig()).args(["-n", &world.namespace, "-b", "home"]);
    command.args(arguments);
    let (code, stdout, stderr) = tokio::task::spawn_blocking(move || run(command)).await.unwrap();
    (code, stdout.trim_end().to_owned(), stderr)
}

async fn succeeds(world: &World, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = ctl(world, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}\n{stdout}{stderr}");
    stdout
}

async fn token(world: &World, sub: &str) -> String {
    succeeds(world, &["token", "issue", "--sub", sub, "--publish", "t/#"]).await
}

fn device(pod: &RunningPod, sub: &str, token: &str) -> client::Options {
    let mut options = client::Options::new(pod.address(), sub);
    options.username = Some(sub.to_owned());
    options.password = Some(token.as_bytes().to_vec());
    options
}

/// Connects, publishes at QoS 1 and disconnects; what the broker says against it is an error.
async fn report(pod: &RunningPod, sub: &str, token: &str) -> Result<(), String> {
    let (client, _, _) = client::connect(&device(pod, sub, token)).await.map_err(|error| error.to_string())?;
    let message = Message::new(format!("t/{sub}"), "1", QoS::AtLeastOnce);
    let code = client.publish(&message).await.map_err(|error| error.to_string())?;
    let _ = client.disconnect(ReasonCode::SUCCESS).await;
    if code.0 >= 0x80 { Err(format!("{code:?}")) } else { Ok(()) }
}

async fn keys(world: &World) -> Vec<Value> {
    serde_json::from_str(&succeeds(world, &["keys", "list", "-o", "json"]).await).unwrap()
}

/// The first key in this state.
fn in_state<'a>(keys: &'a [Value], state: &str) -> &'a str {
    let found = keys.iter().find(|key| key["state"] == state);
    found.unwrap_or_else(|| panic!("no key is {state}: {keys:?}"))["kid"].as_str().unwrap()
}

async fn event(world: &World, reason: &str) -> String {
    await_until(DEADLINE, reason, async || {
        let events = world.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        let found = events.into_iter().find(|event| event.reason.as_deref() == Some(reason));
        found.and_then(|event| event.message).ok_or("no such event")
    })
    .await
}

#[tokio::test]
async fn rotation_refuses_no_device_that_reads_its_token_before_each_connection() {
    in_world(async |world| {
        let pod = world.serving("home", "{}").await;
        let old = in_state(&keys(&world).await, "active").to_owned();
        let first = token(&world, "dev0").await;
        let (reports, done) = (Cell::new(0_u32), Cell::new(false));
        // The file that devices read their token from.
        let file = std::cell::RefCell::new(first.clone());
        let minting = async {
            while !done.get() {
                *file.borrow_mut() = token(&world, "dev1").await;
            }
        };
        let devices = async {
            while !done.get() {
                let token = file.borrow().clone();
                let sub = if token == first { "dev0" } else { "dev1" };
                report(&pod, sub, &token).await.unwrap_or_else(|error| panic!("refused: {error}\n{token}"));
                // A token of the key that retires is good until it expires.
                report(&pod, "dev0", &first).await.unwrap_or_else(|error| panic!("refused: {error}"));
                reports.set(reports.get() + 2);
            }
        };
        let rotating = async {
            let said = succeeds(&world, &["keys", "rotate", "--wait"]).await;
            assert!(said.ends_with(&format!("{old} verifies what it signed")), "{said}");
            let until = reports.get() + 20;
            await_until(DEADLINE, "reports after the rotation", async || {
                if reports.get() >= until { Ok(()) } else { Err(reports.get()) }
            })
            .await;
            done.set(true);
        };
        // Boxed: it holds all the clients.
        Box::pin(with_kubelet(&world, &pod, async { tokio::join!(minting, devices, rotating) })).await;

        let after = keys(&world).await;
        assert_eq!(in_state(&after, "retiring"), old);
        let new = in_state(&after, "active");
        assert!(new != old && after.len() == 2 && after[0]["until"].is_string(), "{after:?}");
        assert!(event(&world, "KeyPublished").await.contains(new));
        assert!(event(&world, "KeyPromoted").await.contains(new));
        world.says("home", "KeysCurrent", "True Current").await;
        // The request stands in the object, and is fulfilled.
        world.look_again("home").await;
        assert_eq!(keys(&world).await.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn key_waits_for_every_pod_and_the_object_says_for_which() {
    in_world(async |world| {
        let pod = world.serving("home", "{}").await;
        let old = in_state(&keys(&world).await, "active").to_owned();
        let (code, _, stderr) = ctl(&world, &["keys", "rotate", "--wait", "--timeout", "3"]).await;
        assert_eq!(code, Some(1));
        assert!(stderr.contains("home-0 has not loaded it"), "{stderr}");
        assert_eq!(in_state(&keys(&world).await, "active"), old);
        // One that does not answer is not one that has it.
        drop(pod);
        let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
        let pods = world.api::<k8s_openapi::api::core::v1::Pod>();
        pods.patch_status("home-0", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        await_until(DEADLINE, "condition that names the pod", async || {
            let condition = world.says("home", "KeysCurrent", "False Rotating").await;
            if condition.message.ends_with("home-0 cannot be asked") { Ok(()) } else { Err(condition.message) }
        })
        .await;
        assert_eq!(in_state(&keys(&world).await, "active"), old);
    })
    .await;
}

#[tokio::test]
async fn revoked_key_is_refused_and_never_comes_back() {
    in_world(async |world| {
        let pod = world.serving("home", "{}").await;
        let stolen = in_state(&keys(&world).await, "active").to_owned();
        let token_before = token(&world, "dev1").await;
        report(&pod, "dev1", &token_before).await.unwrap();
        let secret_before: Secret = world.child("home-jwt").await;

        let (code, _, stderr) = ctl(&world, &["keys", "revoke", &stolen]).await;
        assert_eq!(code, Some(1));
        assert!(stderr.contains("add --yes") && stderr.contains("another one signs at once"), "{stderr}");
        assert_eq!(in_state(&keys(&world).await, "active"), stolen, "nothing was done");

        let (_thief, mut incoming, _) =
            client::connect(&device(&pod, "dev9", &token(&world, "dev9").await)).await.unwrap();
        with_kubelet(&world, &pod, async {
            let said = succeeds(&world, &["keys", "revoke", &stolen[..12], "--yes", "--wait"]).await;
            assert!(said.contains(&format!("{stolen} is revoked")), "{said}");
            let closed = tokio::time::timeout(DEADLINE, incoming.next()).await.expect("the session ends");
            assert!(!matches!(closed, Some(Ok(_))), "{closed:?}");
            await_until(DEADLINE, "refusal", async || match report(&pod, "dev1", &token_before).await {
                Err(refused) => Ok(refused),
                Ok(()) => Err("still accepted"),
            })
            .await;
            world.says("home", "Ready", "True Serving").await;
            report(&pod, "dev1", &token(&world, "dev1").await).await.unwrap();
        })
        .await;
        let after = keys(&world).await;
        assert_eq!((in_state(&after, "revoked"), after.len()), (stolen.as_str(), 2));
        assert!(event(&world, "KeyCompromised").await.contains(&stolen));

        // Somebody puts the Secret back from a copy.
        let data = json!({"data": secret_before.data});
        world.api::<Secret>().patch("home-jwt", &PatchParams::default(), &Patch::Merge(data)).await.unwrap();
        await_until(DEADLINE, "keys without the revoked one", async || {
            let private = world.text("home-jwt", "keys.json").await;
            if private.contains(&stolen) { Err("it is back") } else { Ok(()) }
        })
        .await;
        assert!(!world.text("home-jwks", "jwks.json").await.contains(&stolen));
    })
    .await;
}

#[tokio::test]
async fn revoked_tokens_are_refused_and_the_entries_go_when_they_are_over() {
    in_world(async |world| {
        let pod = world.serving("home", "{}").await;
        let (one, two) = (token(&world, "dev1").await, token(&world, "dev2").await);
        with_kubelet(&world, &pod, async {
            report(&pod, "dev1", &one).await.unwrap();
            succeeds(&world, &["token", "revoke", &one]).await;
            succeeds(&world, &["token", "revoke", "--sub", "dev2"]).await;
            for (sub, token) in [("dev1", &one), ("dev2", &two)] {
                await_until(DEADLINE, "refusal", async || match report(&pod, sub, token).await {
                    Err(refused) => Ok(refused),
                    Ok(()) => Err("still accepted"),
                })
                .await;
            }
            report(&pod, "dev1", &token(&world, "dev1").await).await.expect("another token of the same device");
        })
        .await;
        let secret: Secret = world.child("home-revocations").await;
        let uid = world.api::<MqttBroker>().get("home").await.unwrap().uid();
        assert_eq!(secret.owner_references()[0].uid, uid.unwrap());
        assert_eq!(secret.data.as_ref().unwrap().len(), 2);

        // What a person wrote by hand goes with the object too, and what is over goes by itself.
        let mine = json!({"data": null, "stringData": {"jti.old": "5", "sub.dev3": "4102444800"},
            "metadata": {"ownerReferences": [], "labels": null}});
        let secrets = world.api::<Secret>();
        secrets.patch("home-revocations", &PatchParams::default(), &Patch::Merge(mine)).await.unwrap();
        await_until(DEADLINE, "pruned Secret with an owner", async || {
            let secret: Secret = world.child("home-revocations").await;
            let names: Vec<String> = secret.data.iter().flatten().map(|(name, _)| name.clone()).collect();
            if names == ["sub.dev3"] && secret.owner_references().len() == 1 { Ok(()) } else { Err(names) }
        })
        .await;
        let bad = json!({"stringData": {"jti.": "5"}});
        secrets.patch("home-revocations", &PatchParams::default(), &Patch::Merge(bad)).await.unwrap();
        world.says("home", "RevocationsUsable", "False BadEntry").await;
    })
    .await;
}

/// `openssl genpkey -algorithm ed25519`, twice.
const OWN: [&str; 2] = [
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n",
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n",
];

#[tokio::test]
async fn own_key_signs_and_outlives_the_object() {
    in_world(async |world| {
        let spec = "{auth: {jwt: {keySecretRef: {name: mine}}}}";
        world.apply("home", spec).await;
        let waits = world.says("home", "Ready", "False SecretMissing").await;
        assert!(waits.message.contains("openssl genpkey"), "{}", waits.message);
        world.secret("mine", &[("tls.key", OWN[0])]).await;
        world.child::<Secret>("home-jwks").await;
        let pod = world.serving("home", spec).await;
        let first = in_state(&keys(&world).await, "active").to_owned();
        assert_eq!(first, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "the thumbprint of the key");
        let token_before = token(&world, "dev1").await;
        let (code, _, stderr) = ctl(&world, &["keys", "rotate"]).await;
        assert!(code == Some(1) && stderr.contains("put another one into Secret mine"), "{stderr}");

        with_kubelet(&world, &pod, async {
            world.secret("mine", &[("tls.key", OWN[1])]).await;
            await_until(DEADLINE, "other key", async || {
                let keys = keys(&world).await;
                if in_state(&keys, "active") == first { Err(keys) } else { Ok(()) }
            })
            .await;
            report(&pod, "dev1", &token_before).await.unwrap();
            report(&pod, "dev1", &token(&world, "dev1").await).await.unwrap();
        })
        .await;
        let mine: Secret = world.child("mine").await;
        assert_eq!((mine.owner_references(), mine.labels().len()), (&[][..], 0), "it is only read");

        world.secret("mine", &[("tls.key", "nonsense")]).await;
        let condition = world.says("home", "KeysCurrent", "False KeySecretUnusable").await;
        assert!(condition.message.contains("the key from before goes on signing"), "{}", condition.message);
        world.api::<MqttBroker>().delete("home", &DeleteParams::background()).await.unwrap();
        world.gone::<MqttBroker>("home").await;
        world.child::<Secret>("mine").await;
    })
    .await;
}
