//! `MqttBroker`: what a user asks for.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::issuer::{Issuer, ServiceAccounts};
use super::limits::{Limits, Rate};
use super::pod::Pod;
use super::status::MqttBrokerStatus;
use super::storage::Storage;
// `KubeSchema` brings a `Rule` of its own into scope, for the validations.
use crate::auth::rule::Rule as AclRule;

/// A broker: where it listens, who may do what, and where its telemetry goes.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "mqtt-operator.io",
    version = "v1alpha1",
    kind = "MqttBroker",
    plural = "mqttbrokers",
    singular = "mqttbroker",
    shortname = "mqb",
    category = "all",
    category = "mqtt",
    namespaced,
    cel,
    status = "MqttBrokerStatus",
    derive = "PartialEq",
    doc = "An MQTT broker, its users and rules, and the telemetry that it delivers.",
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "ENDPOINT", type_ = "string", json_path = ".status.endpoint"),
    printcolumn(name = "REPLICAS", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    // Longest child: `<name>-revocations`, and pod names append to that within the 63 characters of a label.
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name must have at most 40 characters"),
    // The name becomes a Service's, which is a DNS label and not, as for other objects, a DNS subdomain.
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must consist of a-z, 0-9 and '-', begin with a letter and not end with '-'"),
)]
#[serde(rename_all = "camelCase")]
pub struct MqttBrokerSpec {
    /// Broker pods: 0 stops the broker, 1 runs it.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1))]
    pub replicas: i32,

    /// The image of the pods; absent means the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Where clients connect.
    #[serde(default = "default_listeners")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.all(a, self.exists_one(b, b.port == a.port))")
            .message("each listener needs a port of its own"),
    )]
    pub listeners: Vec<Listener>,

    /// How clients reach the listeners.
    #[serde(default)]
    pub service: Service,

    /// Who may connect, and what they may do.
    #[serde(default)]
    pub auth: Auth,

    /// What keeps one client from harming the others.
    #[serde(default)]
    pub limits: Limits,

    /// What is kept over a restart: how surely, and on what volume.
    #[serde(default)]
    pub storage: Storage,

    /// What is delivered to Elasticsearch; absent means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,

    /// How the pods run.
    #[serde(default)]
    pub pod: Pod,

    /// The operator changes nothing while this is true; the status stays live.
    #[serde(default)]
    pub paused: bool,
}

impl Default for MqttBrokerSpec {
    fn default() -> Self {
        Self {
            replicas: default_replicas(),
            image: None,
            listeners: default_listeners(),
            service: Service::default(),
            auth: Auth::default(),
            limits: Limits::default(),
            storage: Storage::default(),
            telemetry: None,
            pod: Pod::default(),
            paused: false,
        }
    }
}

fn default_replicas() -> i32 {
    1
}

fn default_listeners() -> Vec<Listener> {
    vec![Listener {
        name: "mqtt".into(),
        protocol: Protocol::Mqtt,
        port: 1883,
        path: None,
        tls: None,
        allowed_origins: None,
        proxy_protocol: None,
    }]
}

/// A port that clients connect to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.name != 'admin'").message("the name 'admin' is taken by the broker's own port"),
    validation = Rule::new("!(self.port in [9180, 9181, 11883])")
        .message("ports 9180, 9181 and 11883 are used inside the pod"),
    validation = Rule::new("has(self.tls) || !(self.protocol in ['mqtts', 'wss'])")
        .message("protocols mqtts and wss need tls: {secretName: …}"),
    validation = Rule::new("!has(self.tls) || self.protocol in ['mqtts', 'wss']")
        .message("tls needs protocol mqtts or wss"),
    validation = Rule::new("!has(self.path) || self.protocol in ['ws', 'wss']")
        .message("path needs protocol ws or wss"),
    validation = Rule::new("!has(self.allowedOrigins) || self.protocol in ['ws', 'wss']")
        .message("allowedOrigins needs protocol ws or wss"),
)]
pub struct Listener {
    /// Also the name of the Service's port.
    #[schemars(length(min = 1, max = 15), regex(pattern = "^[a-z][a-z0-9]*(-[a-z0-9]+)*$"))]
    pub name: String,
    /// What is spoken: MQTT over TCP (mqtt), over TLS (mqtts), over WebSocket (ws), over WebSocket over TLS (wss).
    pub protocol: Protocol,
    /// Port of the pods and of the Service.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Where WebSocket clients find MQTT; absent means /mqtt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = "^/[^?# ]*$"))]
    pub path: Option<String>,
    /// The certificate that clients see, and what is done about theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// The web pages that may connect, by their origins, as https://app.example.com; '*' means all. Absent means none:
    /// programs that are no browsers name no origin, and are not concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 256), regex(pattern = "^([*]|null|[a-z][a-z0-9+.-]*://[^/?# ]+)$"))
    )]
    pub allowed_origins: Option<Vec<String>>,
    /// Load balancers that say with the PROXY protocol, version 1 or 2, whose connection they pass on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Protocol {
    // Doc comments on variants would make the schema a `oneOf`, which a structural schema cannot hold.
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

/// The certificate that clients see, and what is done about theirs.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.requireClientCertificate) || !self.requireClientCertificate || has(self.clientCa)")
        .message("requireClientCertificate needs clientCa: {secretName: …}"),
)]
pub struct ListenerTls {
    /// A Secret in the namespace of this object with the certificate chain in the key `tls.crt` and its private key in
    /// `tls.key`, as cert-manager makes it. A renewed certificate is taken up without a restart.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// The authorities that certificates of clients are verified with; absent means that clients are not asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<ClientCa>,
    /// Whether clients without a certificate are turned away. A certificate takes the place of no password or token.
    #[serde(default, skip_serializing_if = "is_false")]
    pub require_client_certificate: bool,
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !*value
}

/// The authorities that certificates of clients are verified with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientCa {
    /// A Secret in the namespace of this object with the certificates of the authorities in the key `ca.crt`.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Load balancers that say whose connection they pass on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyProtocol {
    /// Their networks, as 10.0.0.0/8. Connections from there must begin with a PROXY header; from anywhere else none is
    /// accepted, because it could claim any address.
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 2, max = 64), regex(pattern = "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"))
    )]
    pub from: Vec<String>,
}

/// How clients reach the listeners.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.loadBalancerClass) || self.type == 'LoadBalancer'")
        .message("loadBalancerClass needs type LoadBalancer"),
    validation = Rule::new("!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'")
        .message("externalTrafficPolicy needs type LoadBalancer or NodePort"),
)]
pub struct Service {
    /// Type of the Service.
    #[serde(rename = "type", default)]
    pub type_: ServiceType,
    /// Annotations of the Service, as load balancer controllers ask for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Which load balancer controller is asked; absent means the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub load_balancer_class: Option<String>,
    /// `Local` keeps the address of the client, and answers only on nodes with a broker pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
    /// Whether the Service has one address family or two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
}

/// Type of the Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ServiceType {
    #[default]
    LoadBalancer,
    NodePort,
    #[serde(rename = "ClusterIP")]
    ClusterIp,
}

impl ServiceType {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
            Self::ClusterIp => "ClusterIP",
        }
    }
}

/// Where traffic from outside may be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TrafficPolicy {
    Cluster,
    Local,
}

/// One address family or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum IpFamilyPolicy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}

/// Who may connect, and what they may do. What no rule allows is denied.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// Tokens signed with this broker's own keys.
    #[serde(default)]
    pub jwt: Jwt,
    /// Users with a password.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub users: Vec<User>,
    /// Named lists of rules, which users and tokens refer to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub groups: Vec<Group>,
    /// Rules before all others, for everybody. A deny on `secret/#` also means that nobody may subscribe `#`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub deny: Vec<AclRule>,
    /// Denied publications after which a client is disconnected, where its version has no other answer; default `3/10s`:
    /// the third within ten seconds. 0 disconnects at the first, -1 never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny_budget: Option<Rate>,
    /// What a client without any credentials may do; absent means that it may not connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<Anonymous>,
    /// What is done about wrong passwords.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
}

/// What is done about wrong passwords.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// Wrong passwords for one user from one network (IPv4 /24, IPv6 /56) before that user is banned there; a network in
    /// which ten times as many are tried is banned as a whole. Default `10/1m`; 0 switches the guard off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Rate>,
    /// How long a ban lasts; default `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ban: Option<Duration>,
    /// Whether the broker sees the addresses of clients. Absent, that is worked out from `spec.service` and
    /// `proxyProtocol`: behind a load balancer all clients may have one address, and then nobody is banned, because the
    /// ban would hit everybody. Set it to true where the network of the cluster is known to keep addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses_are_of_clients: Option<bool>,
}

/// What is asked of a token.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "self.algorithm != 'HS256' || (has(self.acknowledgeSharedSecret) && self.acknowledgeSharedSecret)"
    ).message("HS256 puts the signing secret on the broker pods; set acknowledgeSharedSecret: true to accept that"),
    validation = Rule::new("!has(self.keySecretRef) || !has(self.rotation)")
        .message("with keySecretRef the keys are yours, and so is their rotation: leave rotation out, and put a new key into the Secret when it is time"),
)]
pub struct Jwt {
    /// How tokens are signed. With `HS256` the broker pods hold the secret that tokens are signed with.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Says that it is understood what `HS256` means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledge_shared_secret: Option<bool>,
    /// A token that lives longer is refused; default `8760h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_token_ttl: Option<Duration>,
    /// A token without a `client_id` claim may connect only with its subject as client id.
    #[serde(default)]
    pub bind_client_id: bool,
    /// The claim that carries the rules; default `acl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub acl_claim: Option<String>,
    /// Issuers beside this broker whose tokens are accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["issuer".into()]))]
    pub issuers: Vec<Issuer>,
    /// Tokens of the ServiceAccounts of this cluster are accepted, for these audiences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<ServiceAccounts>,
    /// When the key that signs is replaced; absent means only when it is asked for, with `mqttctl keys rotate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// A Secret with your own key, in place of those that the operator makes: PEM in `tls.key`, or a JWK Set in
    /// `keys.json`. The operator only reads it, and it stays when this object is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret_ref: Option<SecretName>,
}

/// When the key that signs is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// How long a key signs, as `720h`; at least a minute.
    pub interval: Duration,
}

/// How tokens are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Algorithm {
    #[default]
    EdDSA,
    ES256,
    HS256,
}

/// A user with a password.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "[has(self.passwordSecretRef), has(self.passwordHashSecretRef), has(self.generate) && self.generate]\
         .exists_one(it, it)"
    ).message("exactly one of passwordSecretRef, passwordHashSecretRef and generate: true is needed"),
    validation = Rule::new("has(self.acl) || has(self.groups)")
        .message("acl or groups is needed; an empty list means that the user may connect and nothing else"),
    validation = Rule::new("!self.name.startsWith('system:')").message("names that begin with 'system:' are reserved"),
)]
pub struct User {
    /// The user name in CONNECT.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[^\x00-\x1f\x7f]+$"))]
    pub name: String,
    /// Where the password is, in clear text, in the namespace of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretKey>,
    /// Where the hash of the password is, in the namespace of this object: argon2id, bcrypt ($2a$, $2b$, $2y$), or as
    /// Mosquitto writes it ($7$, $6$). It serves as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash_secret_ref: Option<SecretKey>,
    /// The operator makes a password and publishes it in a Secret, see `status.users`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate: Option<bool>,
    /// The groups whose rules apply, after the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50))]
    pub groups: Option<Vec<String>>,
    /// The user's own rules; the first that matches decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub acl: Option<Vec<AclRule>>,
}

/// A named list of rules.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.name.startsWith('system:')").message("names that begin with 'system:' are reserved"),
)]
pub struct Group {
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[^\x00-\x1f\x7f]+$"))]
    pub name: String,
    #[schemars(length(max = 200))]
    pub acl: Vec<AclRule>,
}

/// What a client without credentials may do.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Anonymous {
    #[schemars(length(max = 200))]
    pub acl: Vec<AclRule>,
}

/// What is delivered to Elasticsearch.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Telemetry {
    /// Topic filters; what matches one of them is delivered.
    #[schemars(length(min = 1, max = 64))]
    pub topics: Vec<String>,
    /// Bytes that may wait for Elasticsearch, in the broker's storage; then publishers wait. Default `1Gi`, or half of
    /// `storage.size` where that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer: Option<Quantity>,
    pub elasticsearch: Elasticsearch,
}

/// An Elasticsearch to write to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Elasticsearch {
    /// Nodes of one cluster, `http://` or `https://`.
    #[schemars(length(min = 1, max = 16), inner(regex(pattern = "^https?://[^/?#@]+/?$"), length(max = 512)))]
    pub urls: Vec<String>,
    /// The data stream; default `logs-mqtt.<name>-<namespace>`, with `-` in the two parts replaced by `_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200), regex(pattern = "^logs-[a-z0-9_.]+-[a-z0-9_.]+$"))]
    pub data_stream: Option<String>,
    /// A Secret with the keys `username` and `password`, or `apiKey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretName>,
    /// A Secret with the certificate authorities in the key `ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretName>,
}

/// A Secret in the namespace of this object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// One key of a Secret in the namespace of this object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A duration as `8760h`, `90m` or `1h30m`; the text of the user is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub String);

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "maxLength": 32, "pattern": "^([0-9]+[hms])+$"})
    }
}

/// An amount of bytes as `64Mi`, `1G` or a number; the text of the user is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    Number(u64),
    Text(String),
}

impl JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": "^[0-9]+(k|M|G|T|Ki|Mi|Gi|Ti)?$"
        })
    }
}
