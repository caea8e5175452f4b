//! What there is: the children of an object, the Secrets that it refers to, and what its pods say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use super::ask::Asker;
use super::build;
use super::error::Error;
use super::storage;
use super::users;
use crate::api::{MqttBroker, MqttBrokerStatus, ServiceType};
use crate::config::report;
use crate::plan::Plan;

/// An object as it is stored.
#[derive(Debug)]
pub enum Stored {
    Good(Box<MqttBroker>),
    /// Something that the API server admitted and that is no `MqttBroker`: what the schema cannot say.
    Malformed {
        metadata: Box<ObjectMeta>,
        status: Box<MqttBrokerStatus>,
        message: String,
    },
}

/// What there is for an object.
#[derive(Debug, Default)]
pub struct Observed {
    pub children: Children,
    /// The Secret with the tokens that are taken back.
    pub revocations: Option<Secret>,
    /// The Secrets that the object refers to, as far as they exist.
    pub referenced: BTreeMap<String, Secret>,
    /// The Secrets of users who have objects of their own.
    pub user_secrets: users::Secrets,
    pub pods: Vec<PodReport>,
    /// Addresses of nodes, where clients reach the broker through one.
    pub nodes: Vec<String>,
    /// The claims of the pods for volumes.
    pub claims: Vec<PersistentVolumeClaim>,
}

/// The children of an object: what has the right labels, or the right name, and belongs to it.
#[derive(Debug, Default)]
pub struct Children {
    pub stateful_sets: Vec<StatefulSet>,
    pub services: Vec<Service>,
    pub config_maps: Vec<ConfigMap>,
    pub secrets: Vec<Secret>,
    /// What has the name of a child and belongs to somebody else, as `Secret home-jwt`.
    pub foreign: Vec<String>,
}

/// A pod, and what its containers say. Absent means that they could not be asked, never "no".
#[derive(Debug)]
pub struct PodReport {
    pub pod: Pod,
    pub broker: Option<report::Broker>,
    pub bridge: Option<report::Bridge>,
}

impl PodReport {
    /// The pod's name.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether all containers of the pod have ended for good.
    pub fn is_over(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// Whether the pod serves MQTT.
    pub fn is_ready(&self) -> bool {
        let conditions = self.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }
}

impl Observed {
    /// A Secret that belongs to the object, or to one of its users.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        let mut secrets = self.children.secrets.iter().chain(&self.user_secrets.owned);
        secrets.find(|secret| secret.metadata.name.as_deref() == Some(name))
    }

    /// The StatefulSet of the object.
    pub fn stateful_set(&self) -> Option<&StatefulSet> {
        self.children.stateful_sets.first()
    }

    /// The key ids that all pods that serve MQTT have in common; absent while one of them does not say.
    pub fn loaded_keys(&self) -> Option<BTreeSet<String>> {
        let mut common: Option<BTreeSet<String>> = None;
        for pod in self.pods.iter().filter(|pod| pod.is_ready()) {
            let keys: BTreeSet<String> = pod.broker.as_ref()?.keys.iter().cloned().collect();
            common = Some(match common {
                Some(before) => before.intersection(&keys).cloned().collect(),
                None => keys,
            });
        }
        common
    }
}

/// The object as it is now; absent when it is gone. A cache would lag behind what this operator wrote itself.
pub async fn object(client: &Client, namespace: &str, name: &str) -> Result<Option<Stored>, Error> {
    let resource = ApiResource::erase::<MqttBroker>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let Some(found) = api.get_opt(name).await.map_err(|source| Error::read("MqttBroker", source))? else {
        return Ok(None);
    };
    let metadata = found.metadata.clone();
    let status = found.data.get("status").cloned().unwrap_or_default();
    Ok(Some(match found.try_parse::<MqttBroker>() {
        Ok(object) => Stored::Good(Box::new(object)),
        Err(error) => Stored::Malformed {
            metadata: Box::new(metadata),
            status: Box::new(serde_json::from_value(status).unwrap_or_default()),
            message: error.to_string(),
        },
    }))
}

/// Looks at everything that an object is made of.
pub async fn observe(
    client: &Client,
    asker: &Asker,
    object: &MqttBroker,
    plan: &Plan,
    now: Timestamp,
) -> Result<Observed, Error> {
    let namespace = plan.namespace.as_str();
    let (children, revocations, referenced, pods, user_secrets, claims) = tokio::try_join!(
        children(client, object, plan),
        revocations(client, plan),
        referenced(client, namespace, plan),
        pods(client, plan),
        users::secrets(client, plan),
        storage::claims(client, plan),
    )?;
    let keys = children.secrets.iter().find(|secret| secret.metadata.name.as_ref() == Some(&plan.names.jwt));
    let pods = children.stateful_sets.first().map_or_else(Vec::new, |set| members(set, pods));
    let pods = asker.reports(plan, keys, pods, u64::try_from(now.as_second()).unwrap_or_default()).await;
    let nodes = if plan.service.type_ == ServiceType::NodePort { nodes(client).await? } else { Vec::new() };
    Ok(Observed { children, revocations, referenced, user_secrets, pods, nodes, claims })
}

async fn revocations(client: &Client, plan: &Plan) -> Result<Option<Secret>, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &plan.namespace);
    api.get_opt(&plan.names.revocations).await.map_err(|source| Error::read("Secret", source))
}

async fn children(client: &Client, object: &MqttBroker, plan: &Plan) -> Result<Children, Error> {
    let names = &plan.names;
    let mut secrets = vec![names.jwt.clone(), names.jwks.clone(), names.users.clone()];
    if plan.bridge.is_some() {
        secrets.push(names.bridge.clone());
    }
    let users = plan.users.iter().filter(|user| user.object.is_none());
    secrets.extend(users.map(|user| user.secret_name.clone()));
    let services = [names.broker.clone(), names.pods.clone()];
    let (stateful_sets, services, config_maps, secrets) = tokio::try_join!(
        owned::<StatefulSet>(client, object, plan, std::slice::from_ref(&names.broker)),
        owned::<Service>(client, object, plan, &services),
        owned::<ConfigMap>(client, object, plan, std::slice::from_ref(&names.config)),
        owned::<Secret>(client, object, plan, &secrets),
    )?;
    let foreign = [stateful_sets.1, services.1, config_maps.1, secrets.1].concat();
    Ok(Children {
        stateful_sets: stateful_sets.0,
        services: services.0,
        config_maps: config_maps.0,
        secrets: secrets.0,
        foreign,
    })
}

/// The children of one kind, and the names of `expected` that somebody else has.
///
/// A child is found by its labels, so that one that is not expected any more is found too; and by its name, so that one
/// that lost its labels is not made anew, and one that never was a child is not overwritten.
async fn owned<K>(
    client: &Client,
    object: &MqttBroker,
    plan: &Plan,
    expected: &[String],
) -> Result<(Vec<K>, Vec<String>), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let kind = K::kind(&());
    let api: Api<K> = Api::namespaced(client.clone(), &plan.namespace);
    let labels = ListParams::default().labels(&build::selector_text(&build::labels(plan)));
    let listed = api.list(&labels).await.map_err(|source| Error::read(&kind, source))?;
    let mut children: Vec<K> = listed.items.into_iter().filter(|child| belongs(child.meta(), object)).collect();
    let known: BTreeSet<String> = children.iter().filter_map(|child| child.meta().name.clone()).collect();
    let mut foreign = Vec::new();
    for name in expected.iter().filter(|name| !known.contains(*name)) {
        match api.get_opt(name).await.map_err(|source| Error::read(&kind, source))? {
            Some(child) if belongs(child.meta(), object) => children.push(child),
            Some(_) => foreign.push(format!("{kind} {name}")),
            None => {}
        }
    }
    Ok((children, foreign))
}

/// Whether the object controls this.
fn belongs(metadata: &ObjectMeta, object: &MqttBroker) -> bool {
    metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == object.metadata.uid.as_ref())
}

async fn referenced(client: &Client, namespace: &str, plan: &Plan) -> Result<BTreeMap<String, Secret>, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut found = BTreeMap::new();
    for name in plan.referenced_secrets() {
        match api.get_opt(name).await {
            Ok(Some(secret)) => {
                found.insert(name.to_owned(), secret);
            }
            Ok(None) => {}
            // A name that cannot be one is missing like any other.
            Err(kube::Error::Api(status)) if status.code == 400 || status.code == 422 => {}
            Err(source) => return Err(Error::read("Secret", source)),
        }
    }
    Ok(found)
}

async fn pods(client: &Client, plan: &Plan) -> Result<Vec<Pod>, Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &plan.namespace);
    let labels = ListParams::default().labels(&build::selector_text(&build::selector(plan)));
    Ok(api.list(&labels).await.map_err(|source| Error::read("Pod", source))?.items)
}

/// The pods that the StatefulSet has made. Whoever may create pods may give them the same labels; such a one is not asked,
/// and so never sees a token for the admin port.
pub fn members(set: &StatefulSet, pods: Vec<Pod>) -> Vec<Pod> {
    let ordinal = |pod: &Pod| {
        let name = pod.metadata.name.as_deref()?.strip_prefix(set.metadata.name.as_deref()?)?;
        name.strip_prefix('-')?.parse::<u32>().ok()
    };
    let made = |pod: &Pod| {
        let mut owners = pod.metadata.owner_references.iter().flatten();
        owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == set.metadata.uid.as_ref())
    };
    pods.into_iter().filter(|pod| made(pod) && ordinal(pod).is_some()).collect()
}

/// An address of each node that takes pods, those from outside first; ordered by the names of the nodes.
async fn nodes(client: &Client) -> Result<Vec<String>, Error> {
    let api: Api<Node> = Api::all(client.clone());
    let mut nodes = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        // Narrow grants may leave nodes out; then their addresses are not known.
        Err(kube::Error::Api(status)) if status.code == 403 => Vec::new(),
        Err(source) => return Err(Error::read("Node", source)),
    };
    nodes.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(nodes.iter().filter_map(node_address).collect())
}

fn node_address(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    ["ExternalIP", "InternalIP"]
        .into_iter()
        .find_map(|kind| addresses.iter().find(|address| address.type_ == kind))
        .map(|address| address.address.clone())
}
