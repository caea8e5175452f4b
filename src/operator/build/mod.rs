//! Every child of an object, from scratch, with only the fields that the operator owns. Pure.

mod claim;
mod config_map;
mod secret;
mod service;
mod stateful_set;

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use crate::api::{MqttBroker, MqttUser};
use crate::auth::rotation::Keys;
use crate::config::broker::Users;
use crate::plan::{Plan, UserPlan};

pub use claim::STATE_VOLUME;
pub use config_map::BROKER;
pub use secret::{BRIDGE_PASSWORD, JWKS, KEYS, PASSWORD, STATE, USERS, user as user_secret};
pub use stateful_set::{BROKER_CONTAINER, SPEC_HASH};

/// Field manager, and value of `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "mqtt-operator";

/// What goes into the children beside the plan.
#[derive(Debug)]
pub struct Ingredients<'a> {
    /// Absent when the stored keys cannot be read: then they are left alone.
    pub keys: Option<&'a Keys>,
    /// Documents about other issuers.
    pub issuers: &'a super::issuers::Documents,
    pub hashes: &'a Users,
    pub bridge_password: &'a str,
    /// Secrets with the credentials of users, which are applied already: hashes refer to their versions.
    pub user_secrets: Vec<Secret>,
    pub image: &'a str,
}

/// The children of one object.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Those that the broker needs.
    pub secrets: Vec<Secret>,
    /// Those with credentials of users, applied already.
    pub user_secrets: Vec<Secret>,
    pub config_map: ConfigMap,
    pub services: Vec<Service>,
    pub stateful_set: StatefulSet,
}

/// Builds all children.
pub fn build(object: &MqttBroker, plan: &Plan, ingredients: Ingredients<'_>) -> Resources {
    let secrets = secret::of_broker(object, plan, &ingredients);
    let config_map = config_map::build(object, plan);
    // The bridge takes up changes of its own document by itself.
    let config_hash = hash(&plan.broker.until_restart());
    Resources {
        secrets,
        user_secrets: ingredients.user_secrets,
        services: vec![service::for_clients(object, plan), service::of_pods(object, plan)],
        stateful_set: stateful_set::build(object, plan, ingredients.image, &config_hash),
        config_map,
    }
}

/// The labels of every child.
pub fn labels(plan: &Plan) -> BTreeMap<String, String> {
    labels_of(&plan.name)
}

/// As [`labels`], for who knows only the object's name.
pub fn labels_of(name: &str) -> BTreeMap<String, String> {
    let mut labels = selector_of(name);
    labels.insert("app.kubernetes.io/managed-by".into(), MANAGER.into());
    labels
}

/// The labels that pods are found by. They can never change: a StatefulSet refuses it.
pub fn selector(plan: &Plan) -> BTreeMap<String, String> {
    selector_of(&plan.name)
}

/// As [`selector`], for who knows only the object's name.
pub fn selector_of(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".into(), "mqtt-broker".into()),
        ("app.kubernetes.io/instance".into(), name.to_owned()),
        ("app.kubernetes.io/component".into(), "broker".into()),
    ])
}

/// A label selector as text.
pub fn selector_text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn metadata(object: &MqttBroker, plan: &Plan, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(plan.namespace.clone()),
        labels: Some(labels(plan)),
        owner_references: Some(vec![owner(object)]),
        ..ObjectMeta::default()
    }
}

/// The owner of what is made for a user: the broker, or the user's own object.
fn owner_of(object: &MqttBroker, user: &UserPlan) -> OwnerReference {
    let Some(own) = &user.object else { return owner(object) };
    OwnerReference {
        api_version: MqttUser::api_version(&()).into_owned(),
        kind: MqttUser::kind(&()).into_owned(),
        name: own.name.clone(),
        uid: own.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The object, as the owner of its children.
pub fn owner(object: &MqttBroker) -> OwnerReference {
    OwnerReference {
        api_version: MqttBroker::api_version(&()).into_owned(),
        kind: MqttBroker::kind(&()).into_owned(),
        name: object.metadata.name.clone().unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        // Foreground deletion of the object waits for its children.
        block_owner_deletion: Some(true),
    }
}

/// A short hash of a value's JSON.
pub fn hash<T: serde::Serialize>(value: &T) -> String {
    use std::fmt::Write as _;
    let json = serde_json::to_vec(value).expect("Kubernetes types are JSON");
    digest(&SHA256, &json).as_ref().iter().take(8).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
