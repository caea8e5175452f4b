//! One rule type: the schema of the custom resource, the `acl` claim of a token, and the configuration of a broker.
//!
//! ```json
//! {"permission": "allow", "action": "publish", "topic": "sensor/${clientid}/#", "qos": [0, 1], "retain": false}
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a client may, or may not, publish or subscribe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Whether the rule permits or forbids.
    pub permission: Permission,
    /// What the rule is about.
    pub action: Action,
    /// A topic filter. `${clientid}`, `${username}`, `${sub}` and `${claims.x}` stand for the client's own values; a
    /// leading `eq ` takes the rest literally, wildcards and all.
    pub topic: String,
    /// The levels of QoS the rule is about; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<QosSet>,
    /// Publications with, or without, the RETAIN flag; absent means both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// Shared subscriptions: all, none, or those of the named groups; absent means that the rule does not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

/// Whether a rule permits or forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    Allow,
    Deny,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Publish,
    Subscribe,
    All,
}

/// One level of QoS or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum QosSet {
    One(u8),
    Many(Vec<u8>),
}

/// The shared subscriptions that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Share {
    /// All of them, or none.
    Any(bool),
    /// Those of the named groups.
    Groups(Vec<String>),
}

/// A structural schema cannot say "a number or a list", so both alternatives are checked when the rule is compiled.
fn any_shape() -> schemars::Schema {
    schemars::json_schema!({"x-kubernetes-preserve-unknown-fields": true})
}

impl JsonSchema for QosSet {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "QosSet".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        any_shape()
    }
}

impl JsonSchema for Share {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        any_shape()
    }
}
