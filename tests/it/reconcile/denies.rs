//! What brokers deny, as Events of the object.

use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use mqtt_operator::api::MqttBroker;
use mqtt_operator::auth::admin;
use mqtt_operator::auth::key::PrivateKeys;
use mqtt_operator::client::{self, Message, Options};
use mqtt_operator::mqtt::{QoS, Version};
use mqtt_operator::plan;

use super::world::{DEADLINE, World, in_world};
use super::{TELEMETRY, USER};
use crate::support::{await_until, unix_seconds};

/// The Events about denies, those about one client the latest last.
async fn events(world: &World) -> Vec<Event> {
    let events: Api<Event> = world.api();
    let mut events = events.list(&ListParams::default()).await.unwrap().items;
    events.retain(|event| matches!(event.reason.as_deref(), Some("Denied" | "ConnectRefused")));
    events
}

fn text(event: &Event) -> &str {
    event.message.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn denies_become_events_of_the_object_a_client_and_a_minute() {
    in_world(async |world| {
        let pod = world.serving("home", &format!("{{{USER}}}")).await;
        let secret = world.status("home").await.users[0].secret_name.clone();
        let password = world.text(&secret, "password").await;
        let mut options = Options::new(pod.address(), "dev1");
        options.version = Version::V5;
        options.username = Some("mqtt_user".into());
        options.password = Some(b"a guess of somebody".to_vec());
        let mut hostile = options.clone();
        hostile.client_id = "x\u{202e}`reboot`".into();
        assert!(client::connect(&hostile).await.is_err());
        options.password = Some(password.clone().into_bytes());
        let (device, _incoming, _) = client::connect(&options).await.unwrap();
        for topic in ["secret/a", "secret/b", "secret/b"] {
            device.publish(&Message::new(topic, "x", QoS::AtLeastOnce)).await.unwrap();
        }

        let seen = await_until(DEADLINE, "two events", async || {
            world.look_again("home").await;
            let events = events(&world).await;
            if events.len() == 2 { Ok(events) } else { Err(events) }
        })
        .await;
        let find = |reason: &str| seen.iter().find(|event| event.reason.as_deref() == Some(reason)).unwrap();
        let (namespace, denied, refused) = (&world.namespace, find("Denied"), find("ConnectRefused"));
        let uid = world.api::<MqttBroker>().get("home").await.unwrap().uid();
        for event in [denied, refused] {
            assert_eq!(event.type_.as_deref(), Some("Warning"));
            assert_eq!((&event.involved_object.uid, event.involved_object.name.as_deref()), (&uid, Some("home")));
        }
        assert_eq!(
            text(denied),
            format!(
                "client \"dev1\" (user:mqtt_user) publish \"secret/b\": no rule allows it: user rule 1 allows \"t/#\"; 3 \
                 times or more. `mqttctl denies -n {namespace} -b home --client dev1` says more"
            )
        );
        assert_eq!(
            text(refused),
            format!(
                "client \"x\\u{{202e}}\\u{{60}}reboot\\u{{60}}\" connect: wrong password for user \"mqtt_user\". `mqttctl \
                 denies -n {namespace} -b home` says more"
            )
        );

        // The same client again within the minute: another client's event shows that the operator has looked.
        device.publish(&Message::new("secret/c", "x", QoS::AtLeastOnce)).await.unwrap();
        options.client_id = "dev2".into();
        let (other, _incoming, _) = client::connect(&options).await.unwrap();
        other.publish(&Message::new("secret/d", "x", QoS::AtLeastOnce)).await.unwrap();
        let seen = await_until(DEADLINE, "a third event", async || {
            world.look_again("home").await;
            let events = events(&world).await;
            if events.iter().any(|event| text(event).contains("secret/d")) { Ok(events) } else { Err(events) }
        })
        .await;
        assert!(seen.iter().all(|event| !text(event).contains("secret/c")), "{seen:#?}");
        for event in &seen {
            let all = format!("{event:?}");
            assert!(!all.contains(&password) && !all.contains("a guess of somebody"), "{all}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_bridge_tells_how_it_is_to_who_brings_a_token_of_the_broker_alone() {
    in_world(async |world| {
        let pod = world.serving("home", &format!("{{{TELEMETRY}}}")).await;
        // What the operator was told, it was told with a token.
        world.says("home", "TelemetryReady", "False Unreachable").await;
        let url = format!("http://{}:9181/api/v1/report", pod.broker.listeners[0].1.ip());
        let keys = PrivateKeys::parse(world.text("home-jwt", "keys.json").await.as_bytes()).unwrap();
        let namespace = &world.namespace;
        let mint = |name: &str| {
            let (issuer, audience) = (plan::issuer(namespace, "home"), admin::audience(namespace, name));
            admin::mint(&keys.keys[0], &issuer, &audience, "tests", unix_seconds())
        };
        for (token, status) in [(None, 401), (Some(mint("other")), 401), (Some(mint("home")), 200)] {
            let mut request = reqwest::Client::new().get(&url);
            if let Some(token) = &token {
                request = request.bearer_auth(token);
            }
            assert_eq!(request.send().await.unwrap().status(), status, "{token:?}");
        }
    })
    .await;
}
