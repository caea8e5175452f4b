//! The custom resources as users write and read them: spec, status, condition types, validation rules.
//!
//! Logic-free, and the only room beside `operator` and `cli` that names Kubernetes crates. May name `auth::rule` only:
//! one rule type is schema, token claim and rule. [`manifest::read`] turns the text of a file into objects.

pub mod crd;
pub mod issuer;
pub mod limits;
pub mod manifest;
pub mod mqtt_broker;
pub mod mqtt_user;
pub mod pod;
pub mod status;
pub mod storage;
mod tree;

pub use issuer::{Issuer, IssuerAlgorithm, JwksSecret, Mapping, Profile, ServiceAccounts};
pub use limits::{Limits, QueueFull, Rate};
pub use mqtt_broker::{
    Algorithm, Anonymous, Auth, ClientCa, Duration, Elasticsearch, Group, Guard, Jwt, Listener, ListenerTls,
    MqttBroker, MqttBrokerSpec, Protocol, Quantity, Rotation, SecretKey, SecretName, Service, ServiceType, Telemetry,
    TrafficPolicy, User,
};
pub use mqtt_user::{BrokerRef, MqttUser, MqttUserSpec, MqttUserStatus};
pub use pod::Pod;
pub use status::{Condition, ConditionStatus, Endpoint, KeyState, MqttBrokerStatus};
pub use storage::{Durability, OnDelete, Storage};

/// The API group.
pub const GROUP: &str = "mqtt-operator.io";
/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of an object.
pub const API_VERSION: &str = "mqtt-operator.io/v1alpha1";

/// The annotation that asks for another signing key: when it was asked for, RFC 3339. It may stand for ever.
pub const ROTATE_KEYS: &str = "mqtt-operator.io/rotate-keys";
/// The annotation with the ids of keys to take back, between spaces. It may stand for ever.
pub const REVOKE_KEYS: &str = "mqtt-operator.io/revoke-keys";
