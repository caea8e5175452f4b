//! `MqttUser`: one user of a broker, for whom the users are not all written by those who write the broker.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mqtt_broker::SecretKey;
use super::status::Condition;
// `KubeSchema` brings a `Rule` of its own into scope, for the validations.
use crate::auth::rule::Rule as AclRule;

/// A user of a broker in the same namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "mqtt-operator.io",
    version = "v1alpha1",
    kind = "MqttUser",
    plural = "mqttusers",
    singular = "mqttuser",
    shortname = "mqu",
    category = "mqtt",
    namespaced,
    cel,
    status = "MqttUserStatus",
    derive = "PartialEq",
    doc = "A user of an MqttBroker in the same namespace: how it logs in, and what it may do.",
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "BROKER", type_ = "string", json_path = ".spec.brokerRef.name"),
    printcolumn(name = "USERNAME", type_ = "string", json_path = ".status.username"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    // Its Secret is `<name>-mqtt`.
    validation = Rule::new("self.metadata.name.size() <= 248")
        .message("metadata.name must have at most 248 characters"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "[has(self.passwordSecretRef), has(self.passwordHashSecretRef), has(self.generate) && self.generate]\
         .exists_one(it, it)"
    ).message("exactly one of passwordSecretRef, passwordHashSecretRef and generate: true is needed"),
    validation = Rule::new("has(self.acl) || has(self.groups)")
        .message("acl or groups is needed; an empty list means that the user may connect and nothing else"),
    validation = Rule::new("!has(self.username) || !self.username.startsWith('system:')")
        .message("names that begin with 'system:' are reserved"),
)]
pub struct MqttUserSpec {
    /// The broker.
    pub broker_ref: BrokerRef,
    /// The user name in CONNECT; absent means the name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[^\x00-\x1f\x7f]+$"))]
    pub username: Option<String>,
    /// Where the password is, in clear text, in the namespace of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretKey>,
    /// Where the hash of the password is, in the namespace of this object: argon2id, bcrypt ($2a$, $2b$, $2y$), or as
    /// Mosquitto writes it ($7$, $6$). It serves as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash_secret_ref: Option<SecretKey>,
    /// The operator makes a password and publishes it in the Secret `<name of this object>-mqtt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate: Option<bool>,
    /// Groups of the broker whose rules apply, after the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50))]
    pub groups: Option<Vec<String>>,
    /// The user's own rules; the first that matches decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub acl: Option<Vec<AclRule>>,
    /// Nobody logs in as this user while this is true, and its connections end. The name stays taken.
    #[serde(default)]
    pub disabled: bool,
}

impl MqttUser {
    /// The user name in CONNECT.
    pub fn username(&self) -> &str {
        self.spec.username.as_deref().or(self.metadata.name.as_deref()).unwrap_or_default()
    }
}

/// A broker in the namespace of this object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerRef {
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
}

/// What the operator knows about a user.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MqttUserStatus {
    /// The user name in CONNECT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The Secret with what a client needs: user name, password, host, port, URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
