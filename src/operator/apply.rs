//! Brings the children of an object to where they should be: server-side apply, one field manager, only owned fields.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::build::{self, MANAGER, Resources};
use super::error::Error;
use super::observe::{Observed, PodReport};
use super::storage;
use crate::config::digest::{Documents, digest};
use crate::plan::Plan;

/// On each child: what was applied last. It differs when the operator wants something else, also when it wants less.
const APPLIED: &str = "mqtt-operator.io/applied-hash";
/// On each pod: what it should have mounted. A change makes kubelet look at once and not within 90 seconds.
const NUDGE: &str = "mqtt-operator.io/nudge";

/// The children as the API server has them.
#[derive(Debug, Default)]
pub struct Applied {
    pub services: Vec<Service>,
    pub stateful_set: Option<StatefulSet>,
    /// The hash by which pods say that they have in force what was written.
    pub documents: Option<String>,
    /// Why a claim does not become as large as it should be.
    pub refused_growth: Option<String>,
}

impl Applied {
    /// The children as they were found, when nothing is to be changed.
    pub fn nothing(observed: &Observed) -> Self {
        let (services, stateful_set) = (observed.children.services.clone(), observed.stateful_set().cloned());
        Self { services, stateful_set, ..Self::default() }
    }
}

/// Applies all children, the StatefulSet last, since its pods mount the others; then removes those that are not wanted
/// any more, and tells the pods to look at what they mount.
pub async fn apply(client: &Client, plan: &Plan, resources: &Resources, observed: &Observed) -> Result<Applied, Error> {
    let children = &observed.children;
    let secrets = apply_each(client, &resources.secrets, &children.secrets).await?;
    let config_maps = std::slice::from_ref(&resources.config_map);
    apply_each(client, config_maps, &children.config_maps).await?;
    let services = apply_each(client, &resources.services, &children.services).await?;
    let refused_growth = storage::grow(client, plan, &observed.claims).await?;
    let stateful_set = apply_stateful_set(client, &resources.stateful_set, observed).await?;
    prune(client, &resources.services, &children.services).await?;
    prune(client, &[resources.secrets.as_slice(), &resources.user_secrets].concat(), &children.secrets).await?;
    let mounted = mounted(&secrets, observed.revocations.as_ref(), &resources.config_map);
    nudge(client, &mounted, &observed.pods).await?;
    let documents = documents(&secrets, &resources.config_map, observed);
    Ok(Applied { services, stateful_set, documents, refused_growth })
}

/// Applies the StatefulSet; where its claims are to be others, it makes room for another one first, which is applied when
/// this one is gone.
async fn apply_stateful_set(
    client: &Client,
    wanted: &StatefulSet,
    observed: &Observed,
) -> Result<Option<StatefulSet>, Error> {
    if let Some(found) = observed.stateful_set() {
        let is_going = found.metadata.deletion_timestamp.is_some();
        if !is_going && storage::is_to_be_replaced(found, wanted) {
            storage::remove_alone(client, found).await?;
            return Ok(Some(found.clone()));
        }
        if is_going {
            return Ok(Some(found.clone()));
        }
    }
    Ok(apply_each(client, std::slice::from_ref(wanted), &observed.children.stateful_sets).await?.pop())
}

/// Applies objects of one kind; what is already as it should be is not touched.
pub async fn apply_each<K>(client: &Client, desired: &[K], observed: &[K]) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    let mut applied = Vec::with_capacity(desired.len());
    for desired in desired {
        let name = desired.name_any();
        let found = observed.iter().find(|child| child.name_any() == name);
        let mut wanted = desired.clone();
        wanted.annotations_mut().insert(APPLIED.into(), build::hash(desired));
        if let Some(found) = found
            && is_applied(&wanted, found)
        {
            applied.push(found.clone());
            continue;
        }
        // The uid makes the API server refuse when the child was replaced meanwhile. A child that does not exist is
        // applied without force, so that one that somebody else creates at this moment is not taken over.
        wanted.meta_mut().uid = found.and_then(ResourceExt::uid);
        // Keys are made from those that were found: had another operator stored some since, they would be lost.
        if is_kept(&name, desired) {
            wanted.meta_mut().resource_version = found.and_then(ResourceExt::resource_version);
        }
        let mut parameters = PatchParams::apply(MANAGER);
        parameters.force = found.is_some();
        let api: Api<K> = Api::namespaced(client.clone(), &desired.namespace().unwrap_or_default());
        let patched = api.patch(&name, &parameters, &Patch::Apply(&wanted)).await;
        applied.push(patched.map_err(|source| Error::apply(K::kind(&()), &name, source))?);
        tracing::info!(kind = %K::kind(&()), name, "applied");
    }
    Ok(applied)
}

fn is_applied<K: Resource + Serialize>(wanted: &K, found: &K) -> bool {
    let json = |child: &K| serde_json::to_value(child).expect("Kubernetes types are JSON");
    wanted.annotations().get(APPLIED) == found.annotations().get(APPLIED) && contains(&json(found), &json(wanted))
}

/// Whether every field of `wanted` has its value in `found`; what others added does not count.
fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| match found.get(key) {
            // Amounts are normalised by the API server (`1000m` is `1`); the hash says whether ours changed.
            Some(_) if key == "resources" => true,
            Some(found) => contains(found, wanted),
            None => is_empty(wanted),
        }),
        (Value::Array(found), Value::Array(wanted)) => {
            let Some(key) = wanted.first().and_then(merge_key) else {
                return found.len() == wanted.len()
                    && found.iter().zip(wanted).all(|(found, wanted)| contains(found, wanted));
            };
            wanted
                .iter()
                .all(|wanted| found.iter().any(|found| found.get(key) == wanted.get(key) && contains(found, wanted)))
        }
        (found, wanted) => found == wanted,
    }
}

/// What tells the items of a list apart, where others may add to it.
fn merge_key(item: &Value) -> Option<&'static str> {
    ["uid", "mountPath", "name"].into_iter().find(|key| item.get(key).is_some())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// Removes the children that are not wanted any more.
async fn prune<K>(client: &Client, wanted: &[K], observed: &[K]) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    for child in observed {
        let name = child.name_any();
        if wanted.iter().any(|wanted| wanted.name_any() == name) || is_kept(&name, child) {
            continue;
        }
        let api: Api<K> = Api::namespaced(client.clone(), &child.namespace().unwrap_or_default());
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: child.uid(), resource_version: child.resource_version() }),
            ..DeleteParams::background()
        };
        match api.delete(&name, &parameters).await {
            Ok(_) => tracing::info!(kind = %K::kind(&()), name, "removed"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => return Err(Error::apply(K::kind(&()), &name, source)),
        }
    }
    Ok(())
}

/// Keys outlive everything but the object: they are left out of what is wanted when they cannot be read. Revocations are
/// never among it: people write them.
fn is_kept<K: Resource>(name: &str, child: &K) -> bool {
    let instance = child.labels().get("app.kubernetes.io/instance");
    let kept = |part: &str| instance.is_some_and(|instance| name == format!("{instance}-{part}"));
    kept("jwt") || kept("jwks") || kept("revocations")
}

/// What pods hash of what they mount, and report.
fn documents(applied: &[Secret], config: &ConfigMap, observed: &Observed) -> Option<String> {
    let secret = |key: &str| {
        let mut all = applied.iter().chain(&observed.children.secrets).filter_map(|secret| secret.data.as_ref());
        all.find_map(|data| data.get(key)).map(|bytes| bytes.0.as_slice())
    };
    let revocations = observed.revocations.iter().filter_map(|secret| secret.data.as_ref()).flatten();
    // What is known of other issuers stands beside the broker's own keys.
    let all = applied.iter().chain(&observed.children.secrets).filter_map(|secret| secret.data.as_ref());
    let issuers = all.filter(|data| data.contains_key(build::JWKS)).take(1).flatten();
    let issuers = issuers.filter(|(name, _)| *name != build::JWKS);
    Some(digest(Documents {
        broker: config.data.as_ref()?.get(build::BROKER)?.as_bytes(),
        jwks: secret(build::JWKS)?,
        users: secret(build::USERS)?,
        revocations: revocations.map(|(name, content)| (name.as_str(), content.0.as_slice())),
        issuers: issuers.map(|(name, content)| (name.as_str(), content.0.as_slice())),
    }))
}

/// A hash over what pods mount and read again.
fn mounted(secrets: &[Secret], revocations: Option<&Secret>, config: &ConfigMap) -> String {
    let contents: Vec<_> = secrets
        .iter()
        .filter(|secret| secret.type_.as_deref() == Some("Opaque"))
        .filter(|secret| !secret.data.iter().any(|data| data.contains_key(build::KEYS)))
        .map(|secret| &secret.data)
        .collect();
    build::hash(&(contents, revocations.map(|secret| &secret.data), &config.data))
}

async fn nudge(client: &Client, hash: &str, pods: &[PodReport]) -> Result<(), Error> {
    for pod in pods {
        let annotated = pod.pod.annotations().get(NUDGE).map(String::as_str) == Some(hash);
        if annotated || pod.pod.metadata.deletion_timestamp.is_some() || !is_running(&pod.pod) {
            continue;
        }
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.pod.namespace().unwrap_or_default());
        let patch = Patch::Merge(json!({"metadata": {"annotations": {NUDGE: hash}}}));
        match api.patch_metadata(pod.name(), &PatchParams::default(), &patch).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => return Err(Error::apply("Pod", pod.name(), source)),
        }
    }
    Ok(())
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::contains;

    #[test]
    fn what_others_add_is_no_difference() {
        let wanted = json!({"spec": {"type": "LoadBalancer", "ports": [{"name": "mqtt", "port": 1883}]}});
        let found = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": [
            {"name": "extra", "port": 1}, {"name": "mqtt", "port": 1883, "nodePort": 30000}]}});
        assert!(contains(&found, &wanted));
    }

    #[test]
    fn what_others_change_or_remove_is_a_difference() {
        let wanted = json!({"ports": [{"name": "mqtt", "port": 1883}], "labels": {"a": "b"}, "drop": ["ALL"]});
        for found in [
            json!({"ports": [{"name": "mqtt", "port": 1884}], "labels": {"a": "b"}, "drop": ["ALL"]}),
            json!({"ports": [], "labels": {"a": "b"}, "drop": ["ALL"]}),
            json!({"ports": [{"name": "mqtt", "port": 1883}], "labels": {}, "drop": ["ALL"]}),
            json!({"ports": [{"name": "mqtt", "port": 1883}], "labels": {"a": "b"}, "drop": ["ALL", "KILL"]}),
        ] {
            assert!(!contains(&found, &wanted), "{found}");
        }
    }

    #[test]
    fn what_the_api_server_drops_because_it_is_empty_is_no_difference() {
        assert!(contains(&json!({}), &json!({"annotations": {}, "list": [], "none": null})));
        assert!(!contains(&json!({}), &json!({"annotations": {"a": "b"}})));
    }
}
