//! What `up` keeps on disk, per object: `<state>/<namespace>/<name>/{etc,lib,keys,telemetry,lock}`.
//!
//! Directories are 0700 and files 0600: private keys and passwords are among them.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::config::files::{Etc, State};

/// Where `up` keeps its state unless it is told otherwise, in the working directory.
pub const DEFAULT: &str = ".mqtt";

/// Who asks whether an `up` is alive holds the lock for some microseconds; an `up` that starts waits for longer.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The directory of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    pub namespace: String,
    pub name: String,
    path: PathBuf,
}

/// What a running `up` says of itself in its lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    pub pid: u32,
    /// Where clients of this machine, or of the network with `--bind`, connect.
    pub listeners: Vec<LiveListener>,
    /// The admin port of the broker.
    pub admin: SocketAddr,
}

/// A listener that is bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveListener {
    pub name: String,
    /// An address that a client can use, never `0.0.0.0`.
    pub host: String,
    pub port: u16,
    /// `mqtt`, `mqtts`, `ws` or `wss`.
    pub scheme: String,
    /// What follows the port in a URL; of WebSocket alone.
    pub path: String,
}

impl LiveListener {
    /// As a client is told.
    pub fn url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{}://{host}:{}{}", self.scheme, self.port, self.path)
    }
}

/// The lock of a running `up`; given back when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Home {
    pub fn new(state: &Path, namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into(), path: state.join(namespace).join(name) }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The documents that the broker and the bridge read.
    pub fn etc(&self) -> Etc {
        Etc(self.path.join("etc"))
    }

    /// What the broker keeps.
    pub fn lib(&self) -> State {
        State(self.path.join("lib"))
    }

    /// The private keys, a JWK Set.
    pub fn keys(&self) -> PathBuf {
        self.path.join("keys/keys.json")
    }

    /// Which of the keys signs.
    pub fn key_states(&self) -> PathBuf {
        self.path.join("keys/state.json")
    }

    /// The name of the Secret that the keys are of, where they are the owner's.
    pub fn key_secret(&self) -> PathBuf {
        self.path.join("keys/secret")
    }

    /// When another key was asked for, RFC 3339.
    pub fn rotate_request(&self) -> PathBuf {
        self.path.join("keys/rotate")
    }

    /// The ids of the keys to take back, one in a line.
    pub fn revoke_request(&self) -> PathBuf {
        self.path.join("keys/revoke")
    }

    /// The passwords of the users, as the Secrets of a cluster would hold them.
    pub fn passwords(&self) -> PathBuf {
        self.path.join("keys/passwords.json")
    }

    /// Where the sink `file` writes.
    pub fn telemetry(&self) -> PathBuf {
        self.path.join("telemetry")
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Makes the directories. The state keeps itself out of version control.
    pub fn create(&self, state: &Path) -> Result<(), Error> {
        for directory in [self.lib().0, self.path.join("keys"), self.telemetry()] {
            create_directory(&directory).map_err(|source| Error::Write { path: directory, source })?;
        }
        let ignore = state.join(".gitignore");
        if ignore.exists() { Ok(()) } else { write(&ignore, b"*\n") }
    }

    /// Takes the lock, or says who has it.
    pub fn lock(&self) -> Result<Lock, Error> {
        let path = self.lock_file();
        let failed = |source| Error::Write { path: path.clone(), source };
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => {
                    file.set_len(0).map_err(failed)?;
                    return Ok(Lock { file, path });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        let pid = read_live(&file).map_or_else(String::new, |live| format!(" (process {})", live.pid));
        Err(Error::Locked { path: self.path.clone(), pid })
    }

    /// The `up` that runs on this state now.
    pub fn live(&self) -> Option<Live> {
        let file = File::open(self.lock_file()).ok()?;
        // A shared lock can be had only when nobody holds the exclusive one.
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)).then(|| read_live(&file)).flatten()
    }
}

impl Lock {
    /// Says in the lock what runs.
    pub fn announce(&mut self, live: &Live) -> Result<(), Error> {
        let text = serde_json::to_vec(live).expect("plain values become JSON");
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(&text)
        };
        write().map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

fn read_live(mut file: &File) -> Option<Live> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The objects below a state directory, in the order of their names.
pub fn homes(state: &Path) -> Vec<Home> {
    let mut found = Vec::new();
    for namespace in names(state) {
        for name in names(&state.join(&namespace)) {
            found.push(Home::new(state, &namespace, &name));
        }
    }
    found.retain(|home| home.keys().exists());
    found
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<String> = directories.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file that only its owner reads, so that a reader sees the old content or the new, never half of it.
pub fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_path_buf(), source };
    if let Some(directory) = path.parent() {
        create_directory(directory).map_err(failed)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&new, path).map_err(failed)
}

/// Makes a file not be there.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Write { path: path.to_path_buf(), source: error })
        }
        _ => Ok(()),
    }
}

/// As [`write`], for a document.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(value).expect("documents become JSON");
    text.push(b'\n');
    write(path, &text)
}

/// The content of a file, if it is there.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_path_buf(), source }),
    }
}

/// As [`read`], for a document.
pub fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, Error> {
    let Some(text) = read(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|source| Error::Document { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn live() -> Live {
        let listener = LiveListener {
            name: "mqtt".into(),
            host: "127.0.0.1".into(),
            port: 1883,
            scheme: "mqtt".into(),
            path: String::new(),
        };
        Live { pid: 7, listeners: vec![listener], admin: ([127, 0, 0, 1], 9180).into() }
    }

    #[test]
    fn only_one_up_has_the_lock_and_others_learn_who() {
        let state = tempfile::tempdir().unwrap();
        let home = Home::new(state.path(), "shop", "home");
        home.create(state.path()).unwrap();
        assert_eq!(home.live(), None);
        let mut lock = home.lock().unwrap();
        lock.announce(&live()).unwrap();
        assert_eq!(home.live(), Some(live()));
        let refused = home.lock().unwrap_err().to_string();
        assert!(refused.contains("process 7"), "{refused}");
        drop(lock);
        assert_eq!(home.live(), None);
        drop(home.lock().unwrap());
    }

    #[test]
    fn files_are_for_their_owner_alone() {
        let state = tempfile::tempdir().unwrap();
        let home = Home::new(&state.path().join("new"), "shop", "home");
        home.create(&state.path().join("new")).unwrap();
        write_json(&home.keys(), &serde_json::json!({"keys": []})).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&home.keys()), 0o600);
        assert_eq!(mode(home.keys().parent().unwrap()), 0o700);
        assert_eq!(mode(&state.path().join("new")), 0o700);
        assert_eq!(homes(&state.path().join("new")), [home]);
    }
}
