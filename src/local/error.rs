use std::io;
use std::path::PathBuf;

use crate::api::manifest::ManifestError;
use crate::auth::key::KeyError;
use crate::broker;
use crate::plan::Invalid;

/// Why an object does not run on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}", .path.display())]
    Manifest { path: PathBuf, source: ManifestError },
    #[error("{}: there is no such MqttBroker in it", .path.display())]
    NoBroker { path: PathBuf },
    #[error("{}: several MqttBrokers: {names}; choose one with -b", .path.display())]
    Several { path: PathBuf, names: String },
    #[error("{}: the object is in namespace {has}, not in {asked}; leave -n out", .path.display())]
    Namespace { path: PathBuf, has: String, asked: String },
    #[error("{}: metadata.namespace: {namespace:?} is no name for a namespace", .path.display())]
    NamespaceName { path: PathBuf, namespace: String },
    #[error("{}", .path.display())]
    Plan { path: PathBuf, source: Invalid },
    #[error("{}: MqttUser {object}: {message}", .path.display())]
    User { path: PathBuf, object: String, message: String },
    #[error("{}: {field}: there is no Secret {secret} with the key {key} in this file; add it", .path.display())]
    Secret { path: PathBuf, field: String, secret: String, key: String },
    #[error("{}: the key {key} of Secret {secret} is {source}", .path.display())]
    PasswordHash { path: PathBuf, secret: String, key: String, source: crate::auth::password::HashError },
    #[error("write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} cannot be understood; move it away to start afresh", .path.display())]
    Document { path: PathBuf, source: serde_json::Error },
    #[error("{}: no keys to sign with; move the directory away to start afresh", .path.display())]
    Keys { path: PathBuf, source: KeyError },
    #[error("{}: {problem}", .path.display())]
    KeyDocuments { path: PathBuf, problem: String },
    #[error("spec.auth.jwt.keySecretRef: Secret {secret}: {problem}; it must stand in the same file")]
    KeySecret { secret: String, problem: String },
    #[error(
        "the key is yours (spec.auth.jwt.keySecretRef): put another one into Secret {secret} of the manifest and start \
         `mqttctl up` again; tokens of the old one are accepted as long as it stands there, too"
    )]
    GivenKey { secret: String },
    #[error("the system gives no random bytes")]
    Random,
    #[error("an `up` runs on {} already{pid}; stop it, or choose another --state", .path.display())]
    Locked { path: PathBuf, pid: String },
    #[error("--elasticsearch {url}: expected http://HOST:PORT or https://HOST:PORT")]
    Url { url: String },
    #[error("hash the password of {user}")]
    Hash { user: String, source: crate::auth::password::PasswordError },
    #[error(transparent)]
    Broker(#[from] broker::Error),
}
