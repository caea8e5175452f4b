//! How pods run: only fields that cannot weaken them.
//!
//! The values are Kubernetes' own types; their schemas are written out here, without the prose, so that the API server
//! refuses an unknown field and the custom resource definition stays small.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint};
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::mqtt_broker::SecretName;

/// How the pods run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Of the broker container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources")]
    pub resources: Option<ResourceRequirements>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "tolerations")]
    pub tolerations: Vec<Toleration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "affinity")]
    pub affinity: Option<Affinity>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "topology_spread_constraints")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Further labels; those of the operator win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Further annotations; those of the operator win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<SecretName>,
}

fn resources(_: &mut SchemaGenerator) -> Schema {
    let amounts = json!({"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true}});
    schema(object(&[], [("limits", amounts.clone()), ("requests", amounts)]))
}

fn tolerations(_: &mut SchemaGenerator) -> Schema {
    schema(list(object(
        &[],
        [
            ("key", text()),
            ("operator", text()),
            ("value", text()),
            ("effect", text()),
            ("tolerationSeconds", integer()),
        ],
    )))
}

fn topology_spread_constraints(_: &mut SchemaGenerator) -> Schema {
    schema(list(object(
        &["maxSkew", "topologyKey", "whenUnsatisfiable"],
        [
            ("maxSkew", integer()),
            ("topologyKey", text()),
            ("whenUnsatisfiable", text()),
            ("labelSelector", label_selector()),
            ("minDomains", integer()),
            ("nodeAffinityPolicy", text()),
            ("nodeTaintsPolicy", text()),
            ("matchLabelKeys", list(text())),
        ],
    )))
}

fn affinity(_: &mut SchemaGenerator) -> Schema {
    let pod = between_pods();
    schema(object(&[], [("nodeAffinity", to_nodes()), ("podAffinity", pod.clone()), ("podAntiAffinity", pod)]))
}

fn to_nodes() -> Value {
    let term = object(&[], [("matchExpressions", requirements()), ("matchFields", requirements())]);
    let selector = object(&["nodeSelectorTerms"], [("nodeSelectorTerms", list(term.clone()))]);
    let preferred = object(&["weight", "preference"], [("weight", integer()), ("preference", term)]);
    object(
        &[],
        [
            ("requiredDuringSchedulingIgnoredDuringExecution", selector),
            ("preferredDuringSchedulingIgnoredDuringExecution", list(preferred)),
        ],
    )
}

fn between_pods() -> Value {
    let term = object(
        &["topologyKey"],
        [
            ("topologyKey", text()),
            ("labelSelector", label_selector()),
            ("namespaceSelector", label_selector()),
            ("namespaces", list(text())),
            ("matchLabelKeys", list(text())),
            ("mismatchLabelKeys", list(text())),
        ],
    );
    let preferred = object(&["weight", "podAffinityTerm"], [("weight", integer()), ("podAffinityTerm", term.clone())]);
    object(
        &[],
        [
            ("requiredDuringSchedulingIgnoredDuringExecution", list(term)),
            ("preferredDuringSchedulingIgnoredDuringExecution", list(preferred)),
        ],
    )
}

fn label_selector() -> Value {
    let labels = json!({"type": "object", "additionalProperties": {"type": "string"}});
    object(&[], [("matchLabels", labels), ("matchExpressions", requirements())])
}

fn requirements() -> Value {
    list(object(&["key", "operator"], [("key", text()), ("operator", text()), ("values", list(text()))]))
}

fn text() -> Value {
    json!({"type": "string"})
}

fn integer() -> Value {
    json!({"type": "integer"})
}

// By value, so that schemas nest without a reference at each step.
#[allow(clippy::needless_pass_by_value)]
fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn object<const N: usize>(required: &[&str], properties: [(&str, Value); N]) -> Value {
    let properties: serde_json::Map<String, Value> = properties.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn schema(value: Value) -> Schema {
    Schema::try_from(value).expect("an object is a schema")
}
