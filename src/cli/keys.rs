//! The signing keys of a broker: from the Secret, with the person's own rights, or from the state of an `up`.

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;

use super::target::Target;
use crate::auth::key::{KeyStates, PrivateKey, PrivateKeys};
use crate::auth::settings::Jwt;
use crate::config::broker::Broker;
use crate::local::state;
use crate::plan::{self, Names};

/// What a token of a broker is made from.
pub struct Signing {
    pub key: PrivateKey,
    /// What the broker asks of a token.
    pub jwt: Jwt,
}

/// Reads the key that signs. Whoever may read it may make tokens: there is no other permission, and no service.
pub async fn signing(target: &Target) -> anyhow::Result<Signing> {
    match target {
        Target::Local(home) => {
            let keys = state::read(&home.keys())?.context("there are no keys yet; start it once with `mqttctl up`")?;
            let states = state::read(&home.key_states())?.context("the state of the keys is missing")?;
            let config: Broker = state::read_json(&home.etc().broker())?.context("the configuration is missing")?;
            Ok(Signing { key: active(keys.as_bytes(), states.as_bytes())?, jwt: config.auth.jwt })
        }
        Target::Cluster { client, namespace, name, object } => {
            let secret_name = Names::new(name).jwt;
            let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
            let secret = secrets.get(&secret_name).await.with_context(|| {
                format!(
                    "read Secret {namespace}/{secret_name}; who may sign tokens of {name} must be allowed to get it"
                )
            })?;
            let part = |key: &str| {
                let data = secret.data.as_ref().and_then(|data| data.get(key));
                data.map(|value| value.0.as_slice()).with_context(|| format!("Secret {secret_name} has no {key}"))
            };
            let jwt = plan::plan(object).context("what the object asks for")?.broker.auth.jwt;
            Ok(Signing { key: active(part("keys.json")?, part("state.json")?)?, jwt })
        }
    }
}

fn active(keys: &[u8], states: &[u8]) -> anyhow::Result<PrivateKey> {
    let keys = PrivateKeys::parse(keys).context("keys.json")?;
    let states: KeyStates = serde_json::from_slice(states).context("state.json")?;
    match keys.active(&states) {
        Some(key) => Ok(key.clone()),
        None => bail!("none of the keys is active"),
    }
}
