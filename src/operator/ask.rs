//! Asking pods how they are, over their admin ports.
//!
//! The ports of broker and bridge want a token that the broker's own active key has signed and that lives for a minute. One
//! is kept per object until half its life is over.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde::de::DeserializeOwned;

use super::audit;
use super::keys;
use super::observe::PodReport;
use crate::auth::admin;
use crate::config::report;
use crate::plan::{BRIDGE_ADMIN_PORT, BROKER_ADMIN_PORT, Plan};

/// How long a pod may take to say how it is.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// Seconds; older denies are not told about: they were, or nobody looked then.
const RECENT: u64 = 120;
/// Who asks, as brokers log it.
const SUBJECT: &str = "mqtt-operator";
/// Seconds after which the audit log is told again.
const TOLD_AGAIN: u64 = 3600;
/// Objects of which a token is kept; a token costs a signature, so that forgetting all of them is no loss.
const KEPT: usize = 1024;

/// What is needed to ask pods.
#[derive(Debug, Default)]
pub struct Asker {
    http: reqwest::Client,
    tokens: Mutex<HashMap<String, Minted>>,
}

#[derive(Debug)]
struct Minted {
    kid: String,
    token: String,
    /// Unix time in seconds.
    at: u64,
    /// When the audit log was told, and how many were signed since.
    told: u64,
    untold: u64,
}

impl Asker {
    /// A token for the admin ports of the object, signed by the key of this Secret that is active; none if there is no
    /// such key, and then the pods cannot be asked.
    fn token(&self, plan: &Plan, secret: &Secret, now: u64) -> Option<String> {
        let keys = keys::stored(secret).ok()?;
        let key = keys.private.active(&keys.states)?;
        let audience = admin::audience(&plan.namespace, &plan.name);
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let young = |it: &&Minted| it.kid == key.kid() && (it.at..it.at + admin::MAX_TTL / 2).contains(&now);
        if let Some(kept) = tokens.get(&audience).filter(young) {
            return Some(kept.token.clone());
        }
        let token = admin::mint(key, &plan.broker.auth.jwt.issuer, &audience, SUBJECT, now);
        // One in half a minute, day and night, is worth a line an hour.
        let before = tokens.get(&audience).filter(|it| it.kid == key.kid());
        let (told, untold) = before.map_or((0, 0), |it| (it.told, it.untold));
        let (told, untold) = if now.saturating_sub(told) < TOLD_AGAIN {
            (told, untold + 1)
        } else {
            audit::admin_token(&audience, SUBJECT, key.kid(), untold);
            (now, 0)
        };
        if tokens.len() >= KEPT {
            tokens.clear();
        }
        tokens.insert(audience, Minted { kid: key.kid().to_owned(), token: token.clone(), at: now, told, untold });
        Some(token)
    }

    /// What the pods of an object say. `keys` is the Secret of its signing keys; `now` is Unix time in seconds.
    pub async fn reports(&self, plan: &Plan, keys: Option<&Secret>, pods: Vec<Pod>, now: u64) -> Vec<PodReport> {
        let token = keys.filter(|_| !pods.is_empty()).and_then(|secret| self.token(plan, secret, now));
        join_all(pods.into_iter().map(|pod| self.report(pod, token.as_deref(), plan.bridge.is_some()))).await
    }

    async fn report(&self, pod: Pod, token: Option<&str>, telemetry: bool) -> PodReport {
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        let Some(address) = address.and_then(|text| text.parse::<IpAddr>().ok()) else {
            return PodReport { pod, broker: None, bridge: None };
        };
        let broker = async {
            // Without a token nobody would answer.
            self.ask((address, BROKER_ADMIN_PORT).into(), "report", Some(token?)).await
        };
        let bridge = async {
            if !telemetry {
                return None;
            }
            self.ask((address, BRIDGE_ADMIN_PORT).into(), "report", token).await
        };
        let (broker, bridge) = tokio::join!(broker, bridge);
        PodReport { pod, broker, bridge }
    }

    /// What a pod has denied after this number, and of the last [`RECENT`] seconds.
    pub async fn denies(&self, plan: &Plan, keys: &Secret, pod: &Pod, after: u64, now: u64) -> Option<report::Denies> {
        let token = self.token(plan, keys, now)?;
        let address: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        let path = format!("denies?after={after}&since={RECENT}&limit=1000");
        self.ask((address, BROKER_ADMIN_PORT).into(), &path, Some(&token)).await
    }

    async fn ask<T: DeserializeOwned>(&self, address: SocketAddr, path: &str, token: Option<&str>) -> Option<T> {
        let mut request = self.http.get(format!("http://{address}/api/v1/{path}")).timeout(REPORT_TIMEOUT);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = async { request.send().await?.error_for_status()?.json::<T>().await };
        answer.await.inspect_err(|error| tracing::debug!(%address, %error, "no report")).ok()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;
    use crate::api::{self, MqttBroker};
    use crate::auth::key::Algorithm;
    use crate::auth::rotation::{Keys, Wanted};
    use crate::operator::build;
    use crate::plan;

    fn plan() -> Plan {
        let object: MqttBroker = serde_json::from_value(serde_json::json!({
            "apiVersion": api::API_VERSION, "kind": "MqttBroker", "metadata": {"name": "home", "namespace": "shop"},
            "spec": {},
        }))
        .unwrap();
        plan::plan(&object).unwrap()
    }

    fn secret(keys: &Keys) -> Secret {
        let state = serde_json::to_vec(&keys.states).unwrap();
        let data = [(build::KEYS, keys.private.to_json().into_bytes()), (build::STATE, state)];
        let data = data.map(|(key, value)| (key.to_owned(), ByteString(value)));
        Secret { data: Some(data.into()), ..Secret::default() }
    }

    #[test]
    fn a_token_is_kept_for_half_its_life_and_follows_the_active_key() {
        let (asker, plan) = (Asker::default(), plan());
        let first = Keys::first(&Wanted { algorithm: Algorithm::Es256, ..Wanted::default() }, 0, || [1; 48]).unwrap();
        let token = asker.token(&plan, &secret(&first), 1000).unwrap();
        assert_eq!(asker.token(&plan, &secret(&first), 1029).unwrap(), token);
        assert_ne!(asker.token(&plan, &secret(&first), 1030).unwrap(), token);
        let other = Keys::first(&Wanted::default(), 0, || [2; 48]).unwrap();
        let of_other = asker.token(&plan, &secret(&other), 1030).unwrap();
        assert_eq!(asker.token(&plan, &secret(&other), 1031).unwrap(), of_other);
        assert_eq!(asker.token(&plan, &Secret::default(), 1031), None, "no key, no token");
    }
}
