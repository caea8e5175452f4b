//! What an `MqttBroker` asks for, worked out once and purely: spec → validated settings → `config` values.
//!
//! Used by the operator and by `up`. The addresses are those inside a pod; `up` replaces them, and the sink, and nothing
//! else. May name `api`, `auth`, `config`, `mqtt`.

mod guard;
mod issuers;
mod keys;
mod limits;
pub mod names;
mod rules;
mod storage;
mod units;
mod users;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::api::{self, MqttBroker, MqttBrokerSpec};
use crate::auth::settings;
use crate::config::{FORMAT, bridge, broker};

pub use issuers::IssuerSecrets;
pub use keys::{KeysPlan, key_ids};
pub use limits::DEFAULT_MEMORY;
pub use names::Names;
pub use storage::Claim;
pub use units::amount;
pub use users::{NotAdded, Password, UserObject, UserPlan};

/// Where the broker's probes, metrics and report are served in a pod.
pub const BROKER_ADMIN_PORT: u16 = 9180;
/// Where the bridge's are.
pub const BRIDGE_ADMIN_PORT: u16 = 9181;
/// Where the broker listens for the bridge, on loopback.
pub const BRIDGE_LISTENER_PORT: u16 = 11_883;

/// Everything that an object asks for, validated and with defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub namespace: String,
    pub name: String,
    /// The names of everything that is made for the object.
    pub names: Names,
    pub replicas: i32,
    /// The image that the object asks for, in place of the operator's own.
    pub image: Option<String>,
    pub service: api::Service,
    /// `broker.json`. Its listeners have the ports of the Service.
    pub broker: broker::Broker,
    /// `bridge.json`, with telemetry.
    pub bridge: Option<bridge::Bridge>,
    /// The user's Secrets for Elasticsearch.
    pub elasticsearch: ElasticsearchSecrets,
    /// The user's Secrets for listeners with TLS.
    pub listener_secrets: Vec<ListenerSecrets>,
    /// The user's Secrets of other issuers.
    pub issuer_secrets: Vec<IssuerSecrets>,
    /// Those of the object in its order, then those who have objects of their own.
    pub users: Vec<UserPlan>,
    /// How this broker's own tokens are signed.
    pub keys: KeysPlan,
    /// The volume that the pods ask for; absent where nothing is kept.
    pub claim: Option<Claim>,
    pub pod: api::Pod,
    pub paused: bool,
}

impl Plan {
    /// The listeners of the object.
    pub fn listeners(&self) -> &[broker::Listener] {
        &self.broker.listeners
    }

    /// The names of the Secrets that the object refers to and that the operator does not make.
    pub fn referenced_secrets(&self) -> BTreeSet<&str> {
        let passwords = self.users.iter().filter_map(|user| user.password.reference().map(|(_, name, _)| name));
        let elasticsearch = [&self.elasticsearch.credentials, &self.elasticsearch.ca];
        let listeners = self.listener_secrets.iter();
        let listeners = listeners.flat_map(|it| std::iter::once(&it.certificate).chain(&it.client_ca));
        let elasticsearch = elasticsearch.into_iter().filter_map(Option::as_deref);
        let issuers = self.issuer_secrets.iter();
        let issuers = issuers.flat_map(|it| it.jwks.iter().map(|(name, _)| name).chain(&it.ca)).map(String::as_str);
        let keys = self.keys.secret.as_deref();
        passwords.chain(issuers).chain(elasticsearch).chain(listeners.map(String::as_str)).chain(keys).collect()
    }
}

/// The names of the user's Secrets for Elasticsearch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ElasticsearchSecrets {
    /// Keys `username` and `password`, or `apiKey`.
    pub credentials: Option<String>,
    /// Key `ca.crt`.
    pub ca: Option<String>,
}

/// The names of the user's Secrets for a listener with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSecrets {
    pub listener: String,
    /// `spec.listeners[1].tls`.
    pub field: String,
    /// Keys `tls.crt` and `tls.key`.
    pub certificate: String,
    /// Key `ca.crt`.
    pub client_ca: Option<String>,
}

impl ListenerSecrets {
    /// What is read from them: the field that names the Secret, the Secret, and its key.
    pub fn keys(&self) -> impl Iterator<Item = (String, &str, &'static str)> {
        let certificate = ["tls.crt", "tls.key"];
        let certificate = certificate.map(|key| (format!("{}.secretName", self.field), self.certificate.as_str(), key));
        let authority = self.client_ca.as_deref();
        let authority = authority.map(|secret| (format!("{}.clientCa.secretName", self.field), secret, "ca.crt"));
        certificate.into_iter().chain(authority)
    }
}

/// A field of the object that asks for something that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    /// `spec.auth.users[1].groups[0]`.
    pub field: String,
    pub message: String,
}

impl Invalid {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Works out what an object asks for.
///
/// What the schema and the rules of the custom resource definition refuse is refused here again where it would mislead:
/// an object can be older than a rule.
pub fn plan(object: &MqttBroker) -> Result<Plan, Invalid> {
    let name = object.metadata.name.clone().ok_or_else(|| Invalid::new("metadata.name", "is required"))?;
    if name.len() > 40 {
        return Err(Invalid::new("metadata.name", "must have at most 40 characters"));
    }
    let namespace = object.metadata.namespace.clone().unwrap_or_else(|| "default".into());
    let spec = &object.spec;
    if !(0..=1).contains(&spec.replicas) {
        return Err(Invalid::new("spec.replicas", "must be 0 or 1"));
    }
    let names = Names::new(&name);
    let claim = storage::claim(&spec.storage)?;
    let buffer = storage::buffer(spec, claim.as_ref())?;
    let bridge = spec.telemetry.as_ref().map(|telemetry| bridge(&namespace, &name, telemetry)).transpose()?;
    let broker = broker::Broker {
        format: FORMAT,
        namespace: namespace.clone(),
        name: name.clone(),
        listeners: listeners(&spec.listeners)?,
        admin: everywhere(BROKER_ADMIN_PORT),
        auth: settings(&namespace, &name, spec)?,
        limits: limits::limits(spec)?,
        storage: Some(storage::of_broker(&spec.storage, claim.as_ref())),
        bridge: bridge.as_ref().map(|bridge| broker::BridgeAccess {
            listen: bridge.broker,
            topics: bridge.topics.clone(),
            buffer,
        }),
    };
    Ok(Plan {
        users: users::of_spec(&names, &spec.auth.users)?,
        elasticsearch: elasticsearch_secrets(spec),
        listener_secrets: listener_secrets(&spec.listeners),
        issuer_secrets: issuers::secrets(&spec.auth.jwt),
        replicas: spec.replicas,
        image: spec.image.clone(),
        service: spec.service.clone(),
        keys: keys::keys(object, broker.auth.jwt.max_token_ttl)?,
        claim,
        pod: spec.pod.clone(),
        paused: spec.paused,
        namespace,
        name,
        names,
        broker,
        bridge,
    })
}

/// The `iss` of a broker's own tokens.
pub fn issuer(namespace: &str, name: &str) -> String {
    format!("mqttbroker/{namespace}/{name}")
}

/// The `aud` of a broker's own tokens.
pub fn audience(namespace: &str, name: &str) -> String {
    format!("mqtt://{namespace}/{name}")
}

/// On both address families: a cluster may have either, or both.
fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

fn listeners(listeners: &[api::Listener]) -> Result<Vec<broker::Listener>, Invalid> {
    if listeners.is_empty() {
        return Err(Invalid::new("spec.listeners", "must have at least 1 item"));
    }
    let (mut names, mut ports) = (BTreeSet::new(), BTreeSet::new());
    let mut planned = Vec::with_capacity(listeners.len());
    for (index, listener) in listeners.iter().enumerate() {
        let field = |name: &str| format!("spec.listeners[{index}].{name}");
        if listener.name == "admin" || !names.insert(&listener.name) {
            return Err(Invalid::new(field("name"), format!("{:?} is taken", listener.name)));
        }
        let reserved = [BROKER_ADMIN_PORT, BRIDGE_ADMIN_PORT, BRIDGE_LISTENER_PORT].contains(&listener.port);
        if listener.port == 0 || reserved || !ports.insert(listener.port) {
            return Err(Invalid::new(field("port"), format!("{} is taken", listener.port)));
        }
        planned.push(planned_listener(listener, &field)?);
    }
    Ok(planned)
}

fn planned_listener(listener: &api::Listener, field: &impl Fn(&str) -> String) -> Result<broker::Listener, Invalid> {
    let protocol = match listener.protocol {
        api::Protocol::Mqtt => broker::Protocol::Mqtt,
        api::Protocol::Mqtts => broker::Protocol::Mqtts,
        api::Protocol::Ws => broker::Protocol::Ws,
        api::Protocol::Wss => broker::Protocol::Wss,
    };
    let web = listener.path.is_some() || listener.allowed_origins.is_some();
    if protocol.is_tls() != listener.tls.is_some() {
        return Err(Invalid::new(field("tls"), "is needed for protocols mqtts and wss, and for no other"));
    }
    if web && !protocol.is_websocket() {
        return Err(Invalid::new(field("protocol"), "path and allowedOrigins need protocol ws or wss"));
    }
    let from = listener.proxy_protocol.as_ref().map(|proxy| proxy.from.as_slice()).unwrap_or_default();
    let mut proxies = Vec::with_capacity(from.len());
    for (index, text) in from.iter().enumerate() {
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let wrong = || Invalid::new(field(&format!("proxyProtocol.from[{index}]")), format!("{text:?} is no network"));
        proxies.push(network.ok_or_else(wrong)?.trunc());
    }
    Ok(broker::Listener {
        client_certificates: client_certificates(listener.tls.as_ref(), field)?,
        path: listener.path.clone().unwrap_or_else(broker::default_path),
        allowed_origins: listener.allowed_origins.clone().unwrap_or_default(),
        proxies,
        ..broker::Listener::new(&listener.name, protocol, everywhere(listener.port))
    })
}

fn client_certificates(
    tls: Option<&api::ListenerTls>,
    field: &impl Fn(&str) -> String,
) -> Result<broker::ClientCertificates, Invalid> {
    match tls.map(|tls| (tls.client_ca.is_some(), tls.require_client_certificate)) {
        None | Some((false, false)) => Ok(broker::ClientCertificates::Ignored),
        Some((true, false)) => Ok(broker::ClientCertificates::Verified),
        Some((true, true)) => Ok(broker::ClientCertificates::Required),
        Some((false, true)) => Err(Invalid::new(field("tls.requireClientCertificate"), "needs tls.clientCa")),
    }
}

/// The Secrets of the listeners with TLS.
fn listener_secrets(listeners: &[api::Listener]) -> Vec<ListenerSecrets> {
    let with_tls = listeners.iter().enumerate().filter_map(|(index, it)| Some((index, it, it.tls.as_ref()?)));
    with_tls
        .map(|(index, listener, tls)| ListenerSecrets {
            listener: listener.name.clone(),
            field: format!("spec.listeners[{index}].tls"),
            certificate: tls.secret_name.clone(),
            client_ca: tls.client_ca.as_ref().map(|authority| authority.secret_name.clone()),
        })
        .collect()
}

fn settings(namespace: &str, name: &str, spec: &MqttBrokerSpec) -> Result<settings::Settings, Invalid> {
    let auth = &spec.auth;
    let groups: BTreeSet<&str> = auth.groups.iter().map(|group| group.name.as_str()).collect();
    rules::check("spec.auth.deny", &auth.deny)?;
    for (index, group) in auth.groups.iter().enumerate() {
        let field = format!("spec.auth.groups[{index}]");
        rules::check_name(&format!("{field}.name"), &group.name)?;
        rules::check(&format!("{field}.acl"), &group.acl)?;
    }
    for (index, user) in auth.users.iter().enumerate() {
        let field = format!("spec.auth.users[{index}]");
        rules::check_name(&format!("{field}.name"), &user.name)?;
        if user.acl.is_none() && user.groups.is_none() {
            return Err(Invalid::new(field, "acl or groups is needed"));
        }
        rules::check(&format!("{field}.acl"), user.acl.as_deref().unwrap_or_default())?;
        for (at, group) in user.groups.iter().flatten().enumerate() {
            if !groups.contains(group.as_str()) {
                return Err(Invalid::new(format!("{field}.groups[{at}]"), format!("there is no group {group:?}")));
            }
        }
    }
    if let Some(anonymous) = &auth.anonymous {
        rules::check("spec.auth.anonymous.acl", &anonymous.acl)?;
    }
    let issuers = issuers::issuers(&auth.jwt, &issuer(namespace, name), &groups)?;
    Ok(settings::Settings {
        jwt: jwt(namespace, name, &auth.jwt)?,
        issuers_cache: issuers::cache(&issuers),
        issuers,
        users: auth
            .users
            .iter()
            .map(|user| settings::User {
                name: user.name.clone(),
                groups: user.groups.clone().unwrap_or_default(),
                acl: user.acl.clone().unwrap_or_default(),
            })
            .collect(),
        groups: auth
            .groups
            .iter()
            .map(|group| settings::Group { name: group.name.clone(), acl: group.acl.clone() })
            .collect(),
        deny: auth.deny.clone(),
        anonymous: auth.anonymous.as_ref().map(|anonymous| settings::Anonymous { acl: anonymous.acl.clone() }),
        guard: guard::guard(spec)?,
    })
}

fn jwt(namespace: &str, name: &str, jwt: &api::Jwt) -> Result<settings::Jwt, Invalid> {
    let max_token_ttl = units::seconds_or("spec.auth.jwt.maxTokenTtl", jwt.max_token_ttl.as_ref(), 8760 * 3600)?;
    if max_token_ttl == 0 {
        return Err(Invalid::new("spec.auth.jwt.maxTokenTtl", "must be longer than 0"));
    }
    Ok(settings::Jwt {
        issuer: issuer(namespace, name),
        audience: audience(namespace, name),
        max_token_ttl,
        bind_client_id: jwt.bind_client_id,
        acl_claim: jwt.acl_claim.clone().unwrap_or_else(|| "acl".into()),
    })
}

fn bridge(namespace: &str, name: &str, telemetry: &api::Telemetry) -> Result<bridge::Bridge, Invalid> {
    if telemetry.topics.is_empty() {
        return Err(Invalid::new("spec.telemetry.topics", "must have at least 1 item"));
    }
    for (index, topic) in telemetry.topics.iter().enumerate() {
        rules::check_filter(&format!("spec.telemetry.topics[{index}]"), topic)?;
    }
    for (index, url) in telemetry.elasticsearch.urls.iter().enumerate() {
        if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
            let field = format!("spec.telemetry.elasticsearch.urls[{index}]");
            return Err(Invalid::new(field, "must begin with http:// or https://"));
        }
    }
    let asked = telemetry.elasticsearch.data_stream.clone();
    let data_stream = asked.unwrap_or_else(|| names::data_stream(namespace, name));
    let dead_letters = names::dead_letters(namespace);
    if data_stream == dead_letters {
        let message = format!("must not be {dead_letters}, where documents go that Elasticsearch rejects");
        return Err(Invalid::new("spec.telemetry.elasticsearch.dataStream", message));
    }
    Ok(bridge::Bridge {
        format: FORMAT,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        issuer: issuer(namespace, name),
        broker: SocketAddr::from((Ipv4Addr::LOCALHOST, BRIDGE_LISTENER_PORT)),
        admin: everywhere(BRIDGE_ADMIN_PORT),
        topics: telemetry.topics.clone(),
        data_stream,
        dead_letters,
        sink: bridge::Sink::Elasticsearch(bridge::Elasticsearch { urls: telemetry.elasticsearch.urls.clone() }),
    })
}

fn elasticsearch_secrets(spec: &MqttBrokerSpec) -> ElasticsearchSecrets {
    let name = |reference: &Option<api::SecretName>| reference.as_ref().map(|reference| reference.name.clone());
    spec.telemetry
        .as_ref()
        .map(|telemetry| ElasticsearchSecrets {
            credentials: name(&telemetry.elasticsearch.credentials_secret_ref),
            ca: name(&telemetry.elasticsearch.ca_secret_ref),
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
