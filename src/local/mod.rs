//! `mqttctl up`: the same object on one machine, without Kubernetes: plan, then broker and bridge in this process.
//!
//! Promises: what the broker and the bridge read here are the documents that a pod reads, in files of the same names;
//! only addresses and the sink differ. Keys, users and passwords outlive the process, and a second `up` on the same state
//! is refused while the first runs. Prints nothing: that is `cli`'s. May name `api`, `plan`, `config`, `auth`, `broker`,
//! `bridge`, `process`.

mod address;
mod credentials;
mod error;
pub mod keys;
pub mod revocations;
mod run;
pub mod state;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::api::manifest::{self, Manifest};
use crate::config::bridge::{Elasticsearch, Sink};
use crate::plan::{self, Plan};
use crate::process::memory;

pub use error::Error;
pub use run::{Running, start};
use state::Home;

/// What `up` is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The manifest.
    pub file: PathBuf,
    /// For an object that names none; an object that names another is an error.
    pub namespace: Option<String>,
    /// The object, where the file has several.
    pub broker: Option<String>,
    /// The state directory.
    pub state: PathBuf,
    /// Where the listeners listen.
    pub bind: IpAddr,
    /// In place of files.
    pub elasticsearch: Option<String>,
}

/// An object that is ready to be started: planned, and its state on disk.
#[derive(Debug)]
struct Prepared {
    plan: Plan,
    home: Home,
    lock: state::Lock,
    credentials: credentials::Credentials,
    keys: keys::Keeping,
}

/// Reads the file and writes the state, but for the bridge's document: where the bridge connects is known when the broker
/// listens.
fn prepare(options: &Options) -> Result<Prepared, Error> {
    let mut manifest = read(&options.file)?;
    if let Some(namespace) = &options.namespace {
        settle(&mut manifest, namespace);
    }
    let mut plan = choose(&manifest, options)?;
    let home = Home::new(&options.state, &plan.namespace, &plan.name);
    home.create(&options.state)?;
    let lock = home.lock()?;
    localise(&mut plan, &home, options)?;
    let keys = keys::Keeping::of(&plan, &manifest, &home)?;
    keys.settle()?;
    let credentials = credentials::keep(&plan, &manifest, &home, &options.file)?;
    elasticsearch_secrets(&plan, &manifest, &home, options)?;
    certificates(&plan, &manifest, &home, &options.file)?;
    issuers(&plan, &manifest, &home, &options.file)?;
    state::write_json(&home.etc().broker(), &plan.broker)?;
    Ok(Prepared { plan, home, lock, credentials, keys })
}

/// Reads a manifest; the error names the file and the line.
pub fn read(file: &Path) -> Result<Manifest, Error> {
    let text = fs::read_to_string(file).map_err(|source| Error::Read { path: file.into(), source })?;
    manifest::read(&text).map_err(|source| Error::Manifest { path: file.into(), source })
}

/// Puts what names no namespace into this one, as `kubectl apply -n` does.
fn settle(manifest: &mut Manifest, namespace: &str) {
    let brokers = manifest.brokers.iter_mut().map(|object| &mut object.metadata);
    let users = manifest.users.iter_mut().map(|object| &mut object.metadata);
    for metadata in brokers.chain(users).chain(manifest.secrets.iter_mut().map(|secret| &mut secret.metadata)) {
        metadata.namespace.get_or_insert_with(|| namespace.to_owned());
    }
}

fn choose(manifest: &Manifest, options: &Options) -> Result<Plan, Error> {
    let file = || options.file.clone();
    let name = |object: &crate::api::MqttBroker| object.metadata.name.clone().unwrap_or_default();
    let wanted = |object: &&crate::api::MqttBroker| options.broker.as_ref().is_none_or(|it| *it == name(object));
    let mut found: Vec<_> = manifest.brokers.iter().filter(wanted).cloned().collect();
    let object = match found.len() {
        1 => found.remove(0),
        0 => return Err(Error::NoBroker { path: file() }),
        _ => return Err(Error::Several { path: file(), names: found.iter().map(name).collect::<Vec<_>>().join(", ") }),
    };
    if let (Some(has), Some(asked)) = (&object.metadata.namespace, &options.namespace)
        && has != asked
    {
        return Err(Error::Namespace { path: file(), has: has.clone(), asked: asked.clone() });
    }
    let mut plan = plan::plan(&object).map_err(|source| Error::Plan { path: file(), source })?;
    if let Some(first) = plan.add_users(&manifest.users).into_iter().find(|it| it.reason != "Disabled") {
        return Err(Error::User { path: file(), object: first.object, message: first.message });
    }
    if object.spec.limits.max_memory.is_none() {
        // Here is no container: other programs have their share of the machine.
        plan.broker.limits.max_memory = memory::available().map(|bytes| bytes / 2);
    }
    // Nor a load balancer: addresses are those of clients, unless the object says otherwise.
    let guard = object.spec.auth.guard.as_ref();
    if guard.and_then(|guard| guard.addresses_are_of_clients) != Some(false) {
        plan.broker.auth.guard.addresses_hidden = false;
    }
    if !is_label(&plan.namespace) {
        return Err(Error::NamespaceName { path: file(), namespace: plan.namespace });
    }
    Ok(plan)
}

/// Whether a name can be a namespace, and so a directory.
fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// Replaces what differs between a pod and this machine: addresses, and the sink.
fn localise(plan: &mut Plan, home: &Home, options: &Options) -> Result<(), Error> {
    for listener in &mut plan.broker.listeners {
        listener.address = options.bind;
    }
    plan.broker.admin = address::ANY_PORT;
    if let Some(cache) = &mut plan.broker.auth.issuers_cache {
        *cache = home.lib().0.join("issuers");
    }
    let (Some(bridge), Some(access)) = (&mut plan.bridge, &mut plan.broker.bridge) else { return Ok(()) };
    (bridge.admin, access.listen) = (address::ANY_PORT, address::ANY_PORT);
    bridge.sink = match &options.elasticsearch {
        None => Sink::File { directory: home.telemetry() },
        Some(url) => Sink::Elasticsearch(Elasticsearch { urls: vec![address::without_user(url)?] }),
    };
    Ok(())
}

/// The credentials for `--elasticsearch`: those of the URL, else the object's, where its Secrets are in the file.
fn elasticsearch_secrets(plan: &Plan, manifest: &Manifest, home: &Home, options: &Options) -> Result<(), Error> {
    let directory = home.etc().elasticsearch_credentials();
    let from_url = options.elasticsearch.as_deref().and_then(address::user);
    for key in ["username", "password", "apiKey"] {
        let secret = plan.elasticsearch.credentials.as_deref();
        let value = match (&options.elasticsearch, &from_url, key) {
            (None, ..) => None,
            (_, Some((name, _)), "username") => Some(name.clone().into_bytes()),
            (_, Some((_, password)), "password") => Some(password.clone().into_bytes()),
            (_, Some(_), _) => None,
            (_, None, key) => secret.and_then(|it| manifest.secret_value(&plan.namespace, it, key)).map(<[u8]>::to_vec),
        };
        put(&directory.join(key), value.as_deref())?;
    }
    let authorities = plan.elasticsearch.ca.as_deref().filter(|_| options.elasticsearch.is_some());
    let authorities = authorities.and_then(|secret| manifest.secret_value(&plan.namespace, secret, "ca.crt"));
    put(&home.etc().elasticsearch_ca(), authorities)
}

/// Writes what listeners with TLS read, where a pod has it mounted.
fn certificates(plan: &Plan, manifest: &Manifest, home: &Home, file: &Path) -> Result<(), Error> {
    let etc = home.etc();
    for secrets in &plan.listener_secrets {
        for (field, secret, key) in secrets.keys() {
            let value = manifest.secret_value(&plan.namespace, secret, key);
            let missing = || Error::Secret { path: file.into(), field, secret: secret.into(), key: key.into() };
            let value = value.ok_or_else(missing)?;
            let path = match key {
                "tls.crt" => etc.certificate(&secrets.listener),
                "tls.key" => etc.private_key(&secrets.listener),
                _ => etc.client_ca(&secrets.listener),
            };
            state::write(&path, value)?;
        }
    }
    Ok(())
}

/// Writes the keys and authorities of other issuers, where a pod has them mounted.
fn issuers(plan: &Plan, manifest: &Manifest, home: &Home, file: &Path) -> Result<(), Error> {
    for secrets in &plan.issuer_secrets {
        for (field, secret, key, document) in secrets.documents() {
            let value = manifest.secret_value(&plan.namespace, secret, key);
            let missing = || Error::Secret { path: file.into(), field, secret: secret.into(), key: key.into() };
            state::write(&home.etc().issuer(&document), value.ok_or_else(missing)?)?;
        }
    }
    Ok(())
}

/// Makes the file hold the value, or not be there.
fn put(path: &Path, value: Option<&[u8]>) -> Result<(), Error> {
    match value {
        Some(value) => state::write(path, value),
        None => state::remove(path),
    }
}
