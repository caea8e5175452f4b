//! Reading the documents that the operator writes, now and whenever they change.
//!
//! Mounted Secrets change by a symlink swap, which is looked for every second; contents are compared too, for a mount of
//! another kind and for a swap that was missed. Documents that cannot be used leave the last good policy in force.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::issuers::Issuers;
use super::listener::Entrance;
use super::tls::Look;
use super::{Shared, with_causes};
use crate::auth::key::{KeyError, KeySet};
use crate::auth::revocations::{RevocationError, Revocations};
use crate::auth::settings::Settings;
use crate::auth::{Bridge, Policy, PolicyError, Sources};
use crate::config::FORMAT;
use crate::config::broker::{BridgeAccess, Broker as Config, Users};
use crate::config::digest::{self, digest};
use crate::config::files::{Etc, OWN_KEYS};
use crate::process::Shutdown;
use crate::process::admin::Readiness;

/// How often the links of mounted documents are looked at; without such links, how often contents are compared.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks after which contents are compared whatever the links say.
const COMPARE_AT: u32 = 10;
/// The link that kubelet swaps when what is mounted has changed.
const SWAPPED: &str = "..data";

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

fn parse<T: serde::de::DeserializeOwned>(path: PathBuf, bytes: &[u8]) -> Result<T, DocumentError> {
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Parse { path, source })
}

fn check_format(path: PathBuf, format: u32) -> Result<(), DocumentError> {
    if format == FORMAT { Ok(()) } else { Err(DocumentError::Format { path, format }) }
}

/// Reads `broker.json`.
pub fn read_broker(etc: &Etc) -> Result<Config, DocumentError> {
    let path = etc.broker();
    broker(etc, &std::fs::read(&path).map_err(|source| DocumentError::Read { path, source })?)
}

fn broker(etc: &Etc, bytes: &[u8]) -> Result<Config, DocumentError> {
    let config: Config = parse(etc.broker(), bytes)?;
    check_format(etc.broker(), config.format)?;
    Ok(config)
}

/// A file's content, or why there is none: this can be compared, an error cannot.
type Content = Result<Vec<u8>, io::ErrorKind>;

fn content(path: &Path) -> Content {
    std::fs::read(path).map_err(|error| error.kind())
}

/// The files of a directory by name, but for those of the kubelet's own, which begin with two points. Without the
/// directory there are none.
fn directory(path: &Path) -> Result<Vec<(String, Vec<u8>)>, io::ErrorKind> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| error.kind())?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| error.kind())?;
        // No name that is meant is anything but ASCII; another one is an error where names are read.
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") {
            files.push((name, content(&entry.path())?));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The documents that a policy is made from, as they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    broker: Content,
    jwks: Content,
    keys: Result<Vec<(String, Vec<u8>)>, io::ErrorKind>,
    users: Content,
    bridge: Content,
    revocations: Result<Vec<(String, Vec<u8>)>, io::ErrorKind>,
}

impl Files {
    pub fn read(etc: &Etc) -> Self {
        let jwks = etc.jwks();
        Self {
            broker: content(&etc.broker()),
            jwks: content(&jwks),
            // Those of other issuers are in the same directory.
            keys: jwks.parent().map_or_else(|| Ok(Vec::new()), directory),
            users: content(&etc.users()),
            bridge: content(&etc.bridge_password()),
            revocations: directory(&etc.revocations()),
        }
    }

    /// `broker.json`.
    fn config(&self, etc: &Etc) -> Result<Config, DocumentError> {
        broker(etc, needed(&self.broker, etc.broker())?)
    }

    /// The policy that these settings and these documents make.
    pub fn policy(
        &self,
        settings: &Settings,
        access: Option<&BridgeAccess>,
        etc: &Etc,
        issuers: &Issuers,
    ) -> Result<Policy, DocumentError> {
        let path = etc.jwks();
        let jwks = KeySet::parse(needed(&self.jwks, path.clone())?);
        let jwks = jwks.map_err(|source| DocumentError::Keys { path, source })?;
        let users: Users = parse(etc.users(), needed(&self.users, etc.users())?)?;
        check_format(etc.users(), users.format)?;
        let bridge = match access {
            Some(access) => {
                // A file that a person wrote ends with a line feed, which is no part of the password.
                let password = needed(&self.bridge, etc.bridge_password())?.trim_ascii_end().to_vec();
                Some(Bridge { password, topics: access.topics.clone() })
            }
            None => None,
        };
        let path = etc.revocations();
        let entries = needed(&self.revocations, path.clone())?;
        let entries = entries.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
        let revocations = Revocations::parse(entries).map_err(|source| DocumentError::Revocations { path, source })?;
        let hashes = users.users.into_iter().map(|user| (user.name, user.hash)).collect();
        let memory = Some(issuers.memory);
        let issuers = issuers.load(settings, self.keys.as_deref().unwrap_or_default());
        let policy = Policy::new(settings, Sources { jwks, issuers, memory, hashes, revocations, bridge })?;
        for (user, why) in policy.unusable_hashes() {
            tracing::error!(user, %why, "this user has no password: its hash cannot be used");
        }
        Ok(policy)
    }

    /// The hash by which the operator knows them. What is missing counts as empty: then there is no policy of them.
    pub fn digest(&self) -> String {
        let bytes = |content: &'_ Content| content.clone().unwrap_or_default();
        let (broker, jwks, users) = (bytes(&self.broker), bytes(&self.jwks), bytes(&self.users));
        let revocations = self.revocations.iter().flatten().map(|(name, content)| (name.as_str(), content.as_slice()));
        let issuers = self.keys.iter().flatten().filter(|(name, _)| name != OWN_KEYS);
        let issuers = issuers.map(|(name, content)| (name.as_str(), content.as_slice()));
        digest(digest::Documents { broker: &broker, jwks: &jwks, users: &users, revocations, issuers })
    }
}

fn needed<T>(content: &Result<T, io::ErrorKind>, path: PathBuf) -> Result<&T, DocumentError> {
    content.as_ref().map_err(|kind| DocumentError::Read { path, source: (*kind).into() })
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
    /// What the broker was started with; see [`Config::until_restart`] for what stays so.
    pub config: Config,
    pub etc: Etc,
    /// Held from reading to enforcing: what was read first may not be in force last.
    turn: Mutex<()>,
}

impl Documents {
    pub fn new(config: Config, etc: Etc) -> Self {
        Self { config, etc, turn: Mutex::default() }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of the documents that were read last.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The hash of those in force.
    pub digest: String,
    /// Why newer ones are not.
    pub problem: Option<String>,
    /// They ask for something that takes a restart.
    pub restart: bool,
}

/// Reads all documents and puts them into force; an error leaves what is in force.
pub fn reload(documents: &Documents, shared: &Arc<Shared>) -> Result<(), DocumentError> {
    let _turn = documents.turn();
    put_into_force(&Files::read(&documents.etc), documents, shared)
}

fn put_into_force(files: &Files, documents: &Documents, shared: &Arc<Shared>) -> Result<(), DocumentError> {
    let Documents { config: running, etc, .. } = documents;
    let made = files.config(etc).and_then(|config| {
        let policy = files.policy(&config.auth, running.bridge.as_ref(), etc, &shared.issuers)?;
        let restart = config.until_restart() != running.until_restart();
        Ok((policy, config, restart))
    });
    let standing = || shared.documents.lock().unwrap_or_else(PoisonError::into_inner);
    match made {
        Ok((policy, config, restart)) => {
            // First: who reads the hash may rely on it.
            shared.enforce(policy);
            shared.keep_as_much_as(&config);
            let now = Standing { digest: files.digest(), problem: None, restart };
            let before = std::mem::replace(&mut *standing(), now);
            if restart && !before.restart {
                tracing::warn!(
                    "broker.json has changed in more than who may do what: that takes a restart of the broker"
                );
            }
            shared.counters.reloads.add(1);
            Ok(())
        }
        Err(error) => {
            shared.counters.reload_failures.add(1);
            standing().problem = Some(with_causes(&error));
            Err(error)
        }
    }
}

/// Sees when documents change.
struct Watch {
    etc: Etc,
    links: Vec<Option<PathBuf>>,
    files: Files,
    looks: u32,
}

impl Watch {
    fn new(etc: &Etc, files: Files) -> Self {
        // Without links, so that the first look compares: the files may have changed since they were read.
        Self { etc: etc.clone(), links: Vec::new(), files, looks: 0 }
    }

    /// The documents, if they are others than at the last look.
    fn look(&mut self) -> Option<&Files> {
        let links = links(&self.etc);
        self.looks += 1;
        let mounted = links.iter().any(Option::is_some);
        if mounted && links == self.links && !self.looks.is_multiple_of(COMPARE_AT) {
            return None;
        }
        self.links = links;
        let files = Files::read(&self.etc);
        if files == self.files {
            return None;
        }
        self.files = files;
        Some(&self.files)
    }
}

/// Where the links of the mounted directories lead.
fn links(etc: &Etc) -> Vec<Option<PathBuf>> {
    let files = [etc.broker(), etc.jwks(), etc.users(), etc.bridge_password()];
    let directories = files.iter().filter_map(|file| file.parent().map(Path::to_owned)).chain([etc.revocations()]);
    directories.map(|directory| std::fs::read_link(directory.join(SWAPPED)).ok()).collect()
}

/// Puts changed documents and certificates into force until shutdown. `known` is what the policy in force was made from.
pub async fn watch(
    documents: Arc<Documents>,
    known: Files,
    shared: Arc<Shared>,
    readiness: Readiness,
    shutdown: Shutdown,
) {
    let mut watch = Watch::new(&documents.etc, known);
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.wait() => return,
        }
        for entrance in &shared.entrances {
            look_at_certificates(entrance);
        }
        readiness.set(shared.serves() && !shutdown.is_triggered());
        // Thousands of users take a while to read and to check.
        let (shared, documents) = (shared.clone(), documents.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let _turn = documents.turn();
            match watch.look().map(|files| put_into_force(files, &documents, &shared)) {
                None => {}
                Some(Ok(())) => tracing::info!("keys, users and rules reloaded"),
                Some(Err(error)) => {
                    let error = with_causes(&error);
                    tracing::error!(error, "keys, users or rules cannot be reloaded; the last good ones stay in force");
                }
            }
            watch
        });
        watch = match looked.await {
            Ok(watch) => watch,
            // The runtime stops.
            Err(_) => return,
        };
    }
}
