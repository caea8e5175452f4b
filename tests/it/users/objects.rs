//! `MqttUser` objects: what the operator makes of them, and what the broker then lets in.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, ResourceExt};
use mqtt_operator::api::manifest;
use mqtt_operator::api::{MqttUser, MqttUserStatus};
use mqtt_operator::client::{self, Error};
use mqtt_operator::mqtt::ReasonCode;
use serde_json::{Value, json};

use crate::reconcile::world::{DEADLINE, RunningPod, World, in_world};
use crate::support::{ApiServer, await_until, with_temp_namespace};

const BROKER: &str = "{service: {type: ClusterIP}, auth: {groups: [{name: g, acl: [{permission: allow, action: all, \
                      topic: 't/#'}]}], users: [{name: first, generate: true, acl: []}]}}";

fn users(world: &World) -> Api<DynamicObject> {
    Api::namespaced_with(world.client.clone(), &world.namespace, &ApiResource::erase::<MqttUser>(&()))
}

/// Applies a user of broker `home` with these further fields.
async fn apply(world: &World, name: &str, spec: &str) {
    let mut spec: Value = serde_saphyr::from_str(&format!("{{{spec}}}")).unwrap();
    if spec.get("brokerRef").is_none() {
        spec["brokerRef"] = json!({"name": "home"});
    }
    let object = json!({"apiVersion": "mqtt-operator.io/v1alpha1", "kind": "MqttUser", "metadata": {"name": name}, "spec": spec});
    users(world).patch(name, &PatchParams::apply("tests").force(), &Patch::Apply(object)).await.unwrap();
}

/// Waits until the condition `Ready` says so; its message.
async fn says(world: &World, name: &str, status_and_reason: &str) -> String {
    await_until(DEADLINE, &format!("{name}: {status_and_reason}"), async || {
        let found = users(world).get(name).await.unwrap();
        let status: MqttUserStatus = serde_json::from_value(found.data["status"].clone()).unwrap_or_default();
        match status.conditions.first() {
            Some(ready) if format!("{:?} {}", ready.status, ready.reason) == status_and_reason => {
                Ok(ready.message.clone())
            }
            _ => Err(status),
        }
    })
    .await
}

/// As [`says`], while the kubelet brings what is mounted up to date.
async fn says_in_time(world: &World, pod: &RunningPod, name: &str, status_and_reason: &str) {
    await_until(DEADLINE, &format!("{name}: {status_and_reason}"), async || {
        pod.sync(world).await;
        let found = users(world).get(name).await.unwrap();
        let status: MqttUserStatus = serde_json::from_value(found.data["status"].clone()).unwrap_or_default();
        let ready = status.conditions.first().map(|ready| format!("{:?} {}", ready.status, ready.reason));
        if ready.as_deref() == Some(status_and_reason) { Ok(()) } else { Err(status) }
    })
    .await;
}

async fn log_in(pod: &RunningPod, name: &str, password: &str) -> Result<client::Client, ReasonCode> {
    let mut options = client::Options::new(pod.address(), format!("client-of-{name}"));
    options.username = Some(name.into());
    options.password = Some(password.into());
    match client::connect(&options).await {
        Ok((client, ..)) => Ok(client),
        Err(Error::Refused { code, .. }) => Err(code),
        Err(other) => panic!("{other:?}"),
    }
}

async fn running(world: &World) -> RunningPod {
    world.apply("home", BROKER).await;
    let pod = world.run_pod("home").await;
    world.says("home", "Ready", "True Serving").await;
    pod
}

async fn is_no_trouble_of_the_broker(world: &World) {
    let ready = world.status("home").await.conditions.remove(0);
    assert!(!["SecretMissing", "NameTaken", "InvalidSpec"].contains(&ready.reason.as_str()), "{ready:?}");
}

#[tokio::test]
async fn a_user_of_its_own_object_logs_in_until_it_is_disabled_or_deleted() {
    in_world(async |world| {
        let pod = running(&world).await;
        apply(&world, "dev-1", "username: dev_1, generate: true, groups: [g]").await;
        says_in_time(&world, &pod, "dev-1", "True Loaded").await;

        let secret: Secret = world.child("dev-1-mqtt").await;
        assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/basic-auth"));
        let owner = &secret.owner_references()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("MqttUser", "dev-1", Some(true)));
        for (key, expected) in [
            ("username", "dev_1".to_owned()),
            ("type", "mqtt".into()),
            ("port", "1883".into()),
            ("host", format!("home.{}.svc", world.namespace)),
            ("uri", format!("mqtt://home.{}.svc:1883", world.namespace)),
        ] {
            assert_eq!(world.text("dev-1-mqtt", key).await, expected, "{key}");
        }
        let password = world.text("dev-1-mqtt", "password").await;
        let client = log_in(&pod, "dev_1", &password).await.unwrap();
        let message = client::Message::new("t/x", "x", mqtt_operator::mqtt::QoS::AtLeastOnce);
        assert!(!client.publish(&message).await.unwrap().is_failure(), "its group's rules are its own");
        assert!(log_in(&pod, "dev_1", "wrong").await.is_err());

        apply(&world, "dev-1", "username: dev_1, generate: true, groups: [g], disabled: true").await;
        says(&world, "dev-1", "False Disabled").await;
        let refused = async |what: &str| {
            await_until(DEADLINE, what, async || {
                pod.sync(&world).await;
                // While the rules are exchanged it may be known and not permitted.
                match log_in(&pod, "dev_1", &password).await {
                    Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD) => Ok(()),
                    other => Err(format!("{:?}", other.map(drop))),
                }
            })
            .await;
        };
        refused("disabled user").await;
        assert_eq!(world.text("dev-1-mqtt", "password").await, password, "it is kept for the day that it comes back");

        apply(&world, "dev-1", "username: dev_1, generate: true, groups: [g]").await;
        says_in_time(&world, &pod, "dev-1", "True Loaded").await;
        log_in(&pod, "dev_1", &password).await.expect("the password of before");
        users(&world).delete("dev-1", &DeleteParams::default()).await.unwrap();
        refused("user that is gone").await;
        let first = world.text("home-user-first", "password").await;
        log_in(&pod, "first", &first).await.expect("the others stay");
    })
    .await;
}

#[tokio::test]
async fn a_users_trouble_is_its_own_and_is_said_at_it() {
    in_world(async |world| {
        let pod = running(&world).await;
        apply(&world, "first", "generate: true, acl: []").await;
        assert_eq!(
            says(&world, "first", "False Conflict").await,
            "the user name \"first\" is taken by spec.auth.users[0] of MqttBroker home"
        );
        apply(&world, "lost", "brokerRef: {name: office}, generate: true, acl: []").await;
        assert!(says(&world, "lost", "False BrokerMissing").await.starts_with("there is no MqttBroker office"));
        apply(&world, "strange", "generate: true, groups: [x]").await;
        let message = says(&world, "strange", "False InvalidSpec").await;
        assert_eq!(message, "spec.groups[0]: MqttBroker home has no group \"x\"");
        apply(&world, "dev", "passwordHashSecretRef: {name: theirs, key: hash}, acl: []").await;
        let message = says(&world, "dev", "False SecretMissing").await;
        assert_eq!(message, "spec.passwordHashSecretRef: there is no Secret theirs");
        world.secret("theirs", &[("hash", "geheim")]).await;
        await_until(DEADLINE, "the hash that is none", async || {
            let message = says(&world, "dev", "False SecretMissing").await;
            if message.contains("is not the hash of a password") { Ok(()) } else { Err(message) }
        })
        .await;
        world.secret("theirs", &[("hash", "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW")]).await;
        says_in_time(&world, &pod, "dev", "True Loaded").await;
        log_in(&pod, "dev", "U*U").await.expect("the password of the hash");
        let published: Secret = world.child("dev-mqtt").await;
        assert!(!published.data.unwrap().contains_key("password"), "nobody knows it");

        // A Secret that turns bad or goes away closes nothing for who is right already.
        world.api::<Secret>().delete("theirs", &DeleteParams::default()).await.unwrap();
        says(&world, "dev", "False SecretMissing").await;
        pod.sync(&world).await;
        log_in(&pod, "dev", "U*U").await.expect("the last good one");
        is_no_trouble_of_the_broker(&world).await;
    })
    .await;
}

#[tokio::test]
async fn a_user_that_is_stored_and_cannot_be_understood_is_said_at_it_and_at_its_broker() {
    in_world(async |world| {
        let _pod = running(&world).await;
        let odd = "generate: true, acl: [{permission: allow, action: all, topic: a, qos: high}]";
        apply(&world, "elsewhere", &format!("brokerRef: {{name: office}}, {odd}")).await;
        apply(&world, "odd", odd).await;
        world.look_again("home").await;
        let usable = world.says("home", "UsersUsable", "False Malformed").await;
        assert!(usable.message.starts_with("MqttUser odd cannot be understood and is left out"), "{}", usable.message);
        let message = says(&world, "odd", "False InvalidSpec").await;
        assert!(usable.message.ends_with(&message), "{message}");
        is_no_trouble_of_the_broker(&world).await;
        apply(&world, "odd", "generate: true, acl: []").await;
        await_until(DEADLINE, "no word of it any more", async || {
            match world.status("home").await.conditions.into_iter().find(|it| it.type_ == "UsersUsable") {
                None => Ok(()),
                Some(condition) => Err(condition),
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_secret_that_is_somebody_elses_is_left_alone() {
    in_world(async |world| {
        let _pod = running(&world).await;
        world.secret("dev-mqtt", &[("password", "theirs")]).await;
        apply(&world, "dev", "generate: true, acl: []").await;
        let message = says(&world, "dev", "False NameTaken").await;
        assert!(message.starts_with("Secret dev-mqtt exists and does not belong to this object"), "{message}");
        assert_eq!(world.text("dev-mqtt", "password").await, "theirs");
        is_no_trouble_of_the_broker(&world).await;
    })
    .await;
}

#[tokio::test]
async fn a_user_that_moves_leaves_the_broker_that_it_was_of() {
    in_world(async |world| {
        let pod = running(&world).await;
        apply(&world, "dev", "generate: true, acl: []").await;
        says_in_time(&world, &pod, "dev", "True Loaded").await;
        let password = world.text("dev-mqtt", "password").await;
        apply(&world, "dev", "brokerRef: {name: office}, generate: true, acl: []").await;
        says(&world, "dev", "False BrokerMissing").await;
        await_until(DEADLINE, "the end of the user", async || {
            pod.sync(&world).await;
            log_in(&pod, "dev", &password).await.map_or_else(Ok, |_| Err("is let in"))
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn another_look_at_users_writes_nothing() {
    in_world(async |world| {
        let pod = running(&world).await;
        apply(&world, "dev", "generate: true, acl: []").await;
        apply(&world, "first", "generate: true, acl: []").await;
        says_in_time(&world, &pod, "dev", "True Loaded").await;
        says(&world, "first", "False Conflict").await;
        world.look_again("home").await;
        let versions = async || {
            let mut versions = Vec::new();
            for secret in ["dev-mqtt", "home-users"] {
                versions.push(world.child::<Secret>(secret).await.resource_version());
            }
            for user in ["dev", "first"] {
                versions.push(users(&world).get(user).await.unwrap().resource_version());
            }
            versions
        };
        let before = versions().await;
        world.look_again("home").await;
        assert_eq!(versions().await, before);
    })
    .await;
}

/// What is refused, and in which words, by the API server and by the reader of manifests.
#[tokio::test]
async fn what_a_user_cannot_be_is_refused_when_it_is_written() {
    let server = ApiServer::shared();
    let client = server.client_with_crds().await;
    with_temp_namespace(&client, async |namespace| {
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &namespace, &ApiResource::erase::<MqttUser>(&()));
        for (spec, message) in [
            ("brokerRef: {name: home}, acl: []", "exactly one of passwordSecretRef"),
            ("brokerRef: {name: home}, acl: [], generate: false", "exactly one of passwordSecretRef"),
            (
                "brokerRef: {name: home}, acl: [], generate: true, passwordSecretRef: {name: s, key: k}",
                "exactly one of passwordSecretRef",
            ),
            (
                "brokerRef: {name: home}, acl: [], passwordHashSecretRef: {name: s, key: k}, \
                 passwordSecretRef: {name: s, key: k}",
                "exactly one of passwordSecretRef",
            ),
            ("brokerRef: {name: home}, generate: true", "acl or groups is needed; an empty list means"),
            ("brokerRef: {name: home}, generate: true, acl: [], username: 'system:a'", "are reserved"),
        ] {
            let spec = format!("{{{spec}}}");
            let parsed: Value = serde_saphyr::from_str(&spec).unwrap();
            let object = json!({"apiVersion": "mqtt-operator.io/v1alpha1", "kind": "MqttUser", "metadata": {"name": "u"}, "spec": parsed});
            let refused = api.patch("u", &PatchParams::apply("tests"), &Patch::Apply(object)).await.unwrap_err().to_string();
            assert!(refused.contains(message), "{spec}: {refused}");
            let text = format!("apiVersion: mqtt-operator.io/v1alpha1\nkind: MqttUser\nmetadata: {{name: u}}\nspec: {spec}\n");
            let refused = manifest::read(&text).unwrap_err().to_string();
            assert!(refused.contains(message), "{spec}: {refused}");
        }
        let text = "apiVersion: mqtt-operator.io/v1alpha1\nkind: MqttUser\nmetadata: {name: u}\nspec:\n  brokerRef: \
                    {name: home}\n  generate: true\n  acl: []\n  grups: []\n";
        let refused = manifest::read(text).unwrap_err().to_string();
        assert!(refused.starts_with("line 8: spec.grups: unknown field"), "{refused}");
    })
    .await;
}

/// `mqttctl` on this server, with something on its standard input.
fn mqttctl(world: &World, arguments: &[&str], input: &str) -> (bool, String) {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqttctl"));
    command.arg("--kubeconfig").arg(ApiServer::shared().kubeconfig()).args(["-n", &world.namespace]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.success(), text.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_goes_where_the_user_has_it_from_and_reaches_the_broker() {
    in_world(async |world| {
        let pod = running(&world).await;
        world
            .secret(
                "theirs",
                &[("clear", "old"), ("hash", "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW")],
            )
            .await;
        apply(&world, "made", "generate: true, acl: []").await;
        apply(&world, "clear", "passwordSecretRef: {name: theirs, key: clear}, acl: []").await;
        apply(&world, "hashed", "passwordHashSecretRef: {name: theirs, key: hash}, acl: []").await;
        for name in ["made", "clear", "hashed"] {
            says_in_time(&world, &pod, name, "True Loaded").await;
        }
        for name in ["first", "made", "clear", "hashed"] {
            let (done, said) = mqttctl(&world, &["user", "passwd", name], "neu und gut\n");
            assert!(done && !said.contains("neu und gut"), "{name}: {said}");
            await_until(DEADLINE, &format!("the new password of {name}"), async || {
                pod.sync(&world).await;
                log_in(&pod, name, "neu und gut").await.map(drop)
            })
            .await;
        }
        assert_eq!(world.text("theirs", "clear").await, "neu und gut");
        assert!(world.text("theirs", "hash").await.starts_with("$argon2id$"));
        assert!(log_in(&pod, "clear", "old").await.is_err());
        let (done, said) = mqttctl(&world, &["user", "passwd", "clear"], "neu und gut\n");
        assert!(done && said.contains("it is that password already"), "{said}");
        let (done, said) = mqttctl(&world, &["user", "passwd", "clear"], "\n");
        assert!(!done && said.contains("an empty password is no password"), "{said}");
        let (done, said) = mqttctl(&world, &["user", "passwd", "nobody"], "x\n");
        assert!(!done && said.contains("there is no user \"nobody\""), "{said}");

        let (done, said) = mqttctl(&world, &["user", "list"], "");
        assert!(done, "{said}");
        for line in ["first", "spec.auth.users[0]", "MqttUser made", "hash in Secret theirs, key hash", "made-mqtt"] {
            assert!(said.contains(line), "{line}: {said}");
        }
    })
    .await;
}
