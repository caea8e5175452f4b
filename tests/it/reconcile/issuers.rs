//! Keys of other issuers on their way from Secrets and from the API server to a broker.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use mqtt_operator::auth::issuer::file_stem;
use mqtt_operator::auth::key::{Algorithm, PrivateKey, PrivateKeys, generate};
use mqtt_operator::auth::token::{Claims, issue};
use mqtt_operator::client::{self, Message, Options};
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};

use super::world::{DEADLINE, RunningPod, World, in_world};
use crate::support::{await_until, unix_seconds};

async fn connect(
    pod: &RunningPod,
    version: Version,
    username: Option<&str>,
    token: &str,
) -> Result<client::Client, String> {
    let mut options = Options::new(pod.address(), "c");
    options.version = version;
    options.username = username.map(str::to_owned);
    options.password = Some(token.as_bytes().to_vec());
    client::connect(&options).await.map(|(client, ..)| client).map_err(|error| format!("{error:?}"))
}

/// A token of a ServiceAccount, as a pod has it projected.
async fn requested(world: &World, account: &str, audience: &str) -> String {
    let accounts = world.api::<ServiceAccount>();
    let spec = TokenRequestSpec {
        audiences: Some(vec![audience.into()]),
        expiration_seconds: Some(600),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
    answer.expect("the API server signs").status.expect("an answer").token.expect("a token")
}

#[tokio::test]
async fn a_service_account_of_the_cluster_connects_with_the_token_that_its_pod_has() {
    in_world(async |world| {
        let pod = world
            .serving(
                "home",
                "auth: {jwt: {serviceAccounts: {audiences: [mqtt-home]}}, groups: [\
                 {name: serviceaccounts:NAMESPACE, acl: [{permission: allow, action: publish, \
                 topic: 'of/${claims.namespace}/${claims.serviceaccount}'}]}]}"
                    .replace("NAMESPACE", &world.namespace)
                    .as_str(),
            )
            .await;
        for name in ["app", "other"] {
            let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
            let account = ServiceAccount { metadata, ..ServiceAccount::default() };
            world.api::<ServiceAccount>().create(&PostParams::default(), &account).await.unwrap();
        }
        let namespace = world.namespace.clone();
        let token = requested(&world, "app", "mqtt-home").await;
        let subject = format!("system:serviceaccount:{namespace}:app");
        for version in [Version::V31, Version::V311, Version::V5] {
            // Versions before 5.0 know no password without a user name.
            let client = connect(&pod, version, Some(&subject), &token).await.unwrap();
            client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        }
        let client = connect(&pod, Version::V5, None, &token).await.unwrap();
        let publish = async |topic: &str| client.publish(&Message::new(topic, "x", QoS::AtLeastOnce)).await.unwrap();
        assert!(!publish(&format!("of/{namespace}/app")).await.is_failure());
        assert_eq!(publish(&format!("of/{namespace}/other")).await, ReasonCode::NOT_AUTHORIZED);

        // A token for somebody else, of this cluster or not, opens nothing.
        let elsewhere = requested(&world, "app", "https://kubernetes.default.svc.cluster.local").await;
        assert!(connect(&pod, Version::V5, None, &elsewhere).await.is_err());
        let other = requested(&world, "other", "mqtt-home").await;
        assert!(connect(&pod, Version::V5, Some(&subject), &other).await.is_err());
        assert!(connect(&pod, Version::V5, Some("system:bridge"), &token).await.is_err());
    })
    .await;
}

fn token(key: &PrivateKey) -> String {
    let claims = Claims {
        iss: "https://idp.example".into(),
        aud: "devices".into(),
        sub: "alice".into(),
        iat: unix_seconds(),
        exp: unix_seconds() + 600,
        ..Claims::default()
    };
    issue(key, &claims)
}

fn jwks(key: &PrivateKey) -> String {
    PrivateKeys { keys: vec![key.clone()] }.public()
}

#[tokio::test]
async fn keys_in_a_secret_reach_the_broker_and_follow_the_secret_and_no_pod_is_made_anew() {
    in_world(async |world| {
        let [old, new] = [1, 2].map(|seed| generate(Algorithm::EdDsa, &[seed; 48]).unwrap());
        world.secret("idp", &[("keys", &jwks(&old))]).await;
        let pod = world
            .serving(
                "home",
                "auth: {jwt: {issuers: [{issuer: 'https://idp.example', audiences: [devices], \
                 jwksSecretRef: {name: idp, key: keys}, aclClaim: ''}]}}",
            )
            .await;
        connect(&pod, Version::V5, None, &token(&old)).await.unwrap();
        assert!(connect(&pod, Version::V5, None, &token(&new)).await.is_err());
        let document = format!("{}.json", file_stem("https://idp.example"));
        assert_eq!(world.text("home-jwks", &document).await, jwks(&old));

        world.secret("idp", &[("keys", &jwks(&new))]).await;
        await_until(DEADLINE, "the new key", async || {
            pod.sync(&world).await;
            connect(&pod, Version::V5, None, &token(&new)).await.map(|_| ())
        })
        .await;
        assert!(connect(&pod, Version::V5, None, &token(&old)).await.is_err());
        world.says("home", "AccessReady", "True InForce").await;

        // What cannot be used leaves what the broker has, and the status says which Secret it is.
        world.secret("idp", &[("keys", "{}")]).await;
        let condition = world.says("home", "Ready", "False SecretMissing").await;
        assert!(condition.message.starts_with("spec.auth.jwt.issuers[0].jwksSecretRef: "), "{}", condition.message);
        assert_eq!(world.text("home-jwks", &document).await, jwks(&new));
        // A Secret that is gone takes its keys with it.
        world.api::<Secret>().delete("idp", &DeleteParams::default()).await.unwrap();
        await_until(DEADLINE, "the end of the keys", async || {
            pod.sync(&world).await;
            match connect(&pod, Version::V5, None, &token(&new)).await {
                Ok(_) => Err("still let in"),
                Err(_) => Ok(()),
            }
        })
        .await;
    })
    .await;
}
