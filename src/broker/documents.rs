//! Reading the documents that the operator writes, now and whenever they change.
//!
//! Mounted Secrets change by a symlink swap that no single file event announces, so the contents are compared instead. A
//! document that cannot be used leaves the last good policy in force.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::listener::Entrance;
use super::tls::Look;
use super::{Shared, with_causes};
use crate::auth::key::{KeyError, KeySet};
use crate::auth::revocations::{RevocationError, Revocations};
use crate::auth::{Bridge, Policy, PolicyError, Sources};
use crate::config::FORMAT;
use crate::config::broker::{Broker as Config, Users};
use crate::config::files::Etc;
use crate::process::Shutdown;
use crate::process::admin::Readiness;

/// How often documents are compared with what is in force.
const COMPARE_EVERY: Duration = Duration::from_secs(2);

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not what it should be", path = path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{path} has format {format}; this broker reads format {FORMAT}", path = path.display())]
    Format { path: PathBuf, format: u32 },
    #[error("{path} holds no usable keys", path = path.display())]
    Keys { path: PathBuf, source: KeyError },
    #[error("{path} holds an entry that cannot be used", path = path.display())]
    Revocations { path: PathBuf, source: RevocationError },
    #[error("the rules cannot be used")]
    Policy(#[from] PolicyError),
}

fn read(path: &Path) -> Result<Vec<u8>, DocumentError> {
    std::fs::read(path).map_err(|source| DocumentError::Read { path: path.to_owned(), source })
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DocumentError> {
    serde_json::from_slice(&read(path)?).map_err(|source| DocumentError::Parse { path: path.to_owned(), source })
}

fn check_format(path: &Path, format: u32) -> Result<(), DocumentError> {
    if format == FORMAT { Ok(()) } else { Err(DocumentError::Format { path: path.to_owned(), format }) }
}

/// Reads `broker.json`.
pub fn read_broker(etc: &Etc) -> Result<Config, DocumentError> {
    let config: Config = parse(&etc.broker())?;
    check_format(&etc.broker(), config.format)?;
    Ok(config)
}

/// The files of a directory by name, but for those of the kubelet's own, which begin with two points.
fn directory(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        // No name that is meant is anything but ASCII; another one is an error where names are read.
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") {
            files.push((name, std::fs::read(entry.path())?));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn revocations(path: &Path) -> Result<Revocations, DocumentError> {
    let files = directory(path).map_err(|source| DocumentError::Read { path: path.to_owned(), source })?;
    let entries = files.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
    Revocations::parse(entries).map_err(|source| DocumentError::Revocations { path: path.to_owned(), source })
}

/// Makes the policy from the configuration and from the keys and hashes below `etc`.
pub fn policy(config: &Config, etc: &Etc) -> Result<Policy, DocumentError> {
    let jwks = KeySet::parse(&read(&etc.jwks())?).map_err(|source| DocumentError::Keys { path: etc.jwks(), source })?;
    let users: Users = parse(&etc.users())?;
    check_format(&etc.users(), users.format)?;
    let bridge = match &config.bridge {
        Some(access) => {
            // A file that a person wrote ends with a line feed, which is no part of the password.
            let password = read(&etc.bridge_password())?.trim_ascii_end().to_vec();
            Some(Bridge { password, topics: access.topics.clone() })
        }
        None => None,
    };
    let hashes = users.users.into_iter().map(|user| (user.name, user.hash)).collect();
    let revocations = revocations(&etc.revocations())?;
    let policy = Policy::new(&config.auth, Sources { jwks, hashes, bridge, revocations, ..Sources::default() })?;
    for (user, why) in policy.unusable_hashes() {
        tracing::error!(user, %why, "this user has no password: its hash cannot be used");
    }
    Ok(policy)
}

/// Reads the certificates of a listener, if they have changed.
pub fn look_at_certificates(entrance: &Entrance) {
    let Some(certificates) = &entrance.certificates else { return };
    let listener = &entrance.name;
    match certificates.look() {
        Look::Unchanged => {}
        Look::Loaded => tracing::info!(listener, "certificates loaded"),
        Look::Failed(error) if entrance.serves() => {
            let error = with_causes(&error);
            tracing::error!(listener, error, "certificates cannot be reloaded; the last good ones stay in force");
        }
        Look::Failed(error) => {
            let error = with_causes(&error);
            tracing::error!(listener, error, "no certificate: clients are turned away until there is one");
        }
    }
}

/// Where the policy comes from.
#[derive(Debug)]
pub struct Documents {
    pub config: Config,
    pub etc: Etc,
}

/// Reads keys and hashes and puts them into force; an error leaves what is in force.
pub fn reload(documents: &Documents, shared: &Shared) -> Result<(), DocumentError> {
    shared.policy.store(Arc::new(policy(&documents.config, &documents.etc)?));
    Ok(())
}

/// Puts changed keys, hashes and certificates into force until shutdown.
pub async fn watch(documents: Arc<Documents>, shared: Arc<Shared>, readiness: Readiness, shutdown: Shutdown) {
    let mut known = contents(&documents.etc);
    loop {
        tokio::select! {
            () = tokio::time::sleep(COMPARE_EVERY) => {}
            () = shutdown.wait() => return,
        }
        for entrance in &shared.entrances {
            look_at_certificates(entrance);
        }
        readiness.set(shared.serves() && !shutdown.is_triggered());
        let current = contents(&documents.etc);
        if current == known {
            continue;
        }
        known = current;
        match reload(&documents, &shared) {
            Ok(()) => tracing::info!("keys and users reloaded"),
            Err(error) => {
                let error = with_causes(&error);
                tracing::error!(error, "keys or users cannot be reloaded; the last good ones stay in force");
            }
        }
    }
}

fn contents(etc: &Etc) -> [Option<Vec<u8>>; 3] {
    [etc.jwks(), etc.users(), etc.bridge_password()].map(|path| std::fs::read(path).ok())
}
