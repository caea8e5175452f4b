//! Our broker in this process, on free loopback ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use argon2::password_hash::{PasswordHasher, SaltString};
use argon2::{Argon2, Params};
use mqtt_operator::auth::key::{Algorithm, PrivateKey, PrivateKeys, generate};
use mqtt_operator::auth::rule::{Action, Permission, Rule};
use mqtt_operator::auth::settings::{Anonymous, Jwt, Settings, User};
use mqtt_operator::auth::{admin, password};
use mqtt_operator::broker::{self, Running};
use mqtt_operator::client::{self, Client, Incoming, Options};
use mqtt_operator::config::broker::{Broker as Config, Limits, Listener, Protocol, Storage, UserHash, Users};
use mqtt_operator::config::files::{Etc, State};
use mqtt_operator::config::{FORMAT, report};
use mqtt_operator::mqtt::Version;
use mqtt_operator::process::Shutdown;
use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::await_until;

/// The password of every user of [`Broker`].
pub const PASSWORD: &[u8] = b"correct horse";

/// A broker that serves until it is dropped.
pub struct Broker {
    running: Running,
    shutdown: Shutdown,
    etc: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Broker {
    /// Users `u0` to `u9` may do everything below `t/`; nobody is anonymous.
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// As [`Broker::start`], after `change` has had its way with the configuration.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::prepared(change, |_| {}, hash())
    }

    /// As [`Broker::with`], with hashes that cost next to nothing: for tests that connect hundreds of times.
    pub fn with_quick_passwords(change: impl FnOnce(&mut Config)) -> Self {
        Self::prepared(change, |_| {}, quick_hash())
    }

    /// As [`Broker::with`], after `prepare` has written what it reads beside its documents.
    pub fn with_files(change: impl FnOnce(&mut Config), prepare: impl FnOnce(&Etc)) -> Self {
        Self::prepared(change, prepare, hash())
    }

    fn prepared(change: impl FnOnce(&mut Config), prepare: impl FnOnce(&Etc), hash: &str) -> Self {
        let etc = tempfile::tempdir().unwrap();
        let mut config = config();
        change(&mut config);
        write_documents(etc.path(), &config, hash);
        prepare(&Etc(etc.path().to_owned()));
        Self::on(etc, tempfile::tempdir().unwrap())
    }

    /// Serves a client on this socket, as if a listener had accepted it.
    pub fn serve(&self, socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        tokio::spawn(self.running.serve(socket, SocketAddr::from((Ipv4Addr::LOCALHOST, 9))));
    }

    /// Where clients connect.
    pub fn address(&self) -> String {
        self.running.listeners[0].1.to_string()
    }

    /// Where a listener listens.
    pub fn listener(&self, name: &str) -> SocketAddr {
        let found = self.running.listeners.iter().find(|(listener, _)| listener == name);
        found.unwrap_or_else(|| panic!("no listener {name}")).1
    }

    /// Where the bridge connects, with telemetry.
    pub fn internal(&self) -> Option<SocketAddr> {
        self.running.internal
    }

    /// Where probes, metrics and the report are.
    pub fn admin(&self) -> SocketAddr {
        self.running.admin
    }

    pub fn report(&self) -> report::Broker {
        self.running.report()
    }

    /// The directory of its documents.
    pub fn etc(&self) -> &Path {
        self.etc.path()
    }

    /// The directory of what it keeps, with a durability other than memory.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// Changes `broker.json` as the operator does, and waits until the broker has taken it up by itself.
    pub async fn change(&self, change: impl FnOnce(&mut Config)) {
        self.edit(|etc| {
            let mut config: Config = serde_json::from_slice(&std::fs::read(etc.broker()).unwrap()).unwrap();
            change(&mut config);
            replace(&etc.broker(), &serde_json::to_string(&config).unwrap());
        })
        .await;
    }

    /// Changes documents, and waits until the broker has taken them up by itself.
    pub async fn edit(&self, edit: impl FnOnce(&Etc)) {
        let before = self.report().documents;
        edit(&Etc(self.etc().to_owned()));
        await_until(Duration::from_secs(10), "the new documents in force", async || match self.report() {
            report if report.documents == before => Err(report.problem),
            _ => Ok(()),
        })
        .await;
    }

    /// What its metrics are now.
    pub async fn metrics(&self) -> String {
        reqwest::get(format!("http://{}/metrics", self.admin())).await.unwrap().text().await.unwrap()
    }

    /// The sum of a metric's lines that contain `label`.
    pub async fn metric(&self, name: &str, label: &str) -> u64 {
        let text = self.metrics().await;
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// A token that opens its admin port.
    pub fn admin_token() -> String {
        admin::mint(&signing_key(), "mqttbroker/test/broker", "mqtt-admin://test/broker", "tests", unix_seconds())
    }

    /// Asks its admin port: status and answer.
    pub async fn ask(&self, method: Method, path: &str) -> (u16, Value) {
        let request = reqwest::Client::new().request(method, format!("http://{}{path}", self.admin()));
        let answer = request.bearer_auth(Self::admin_token()).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// As [`Broker::ask`], for what is there and is only read.
    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask(Method::GET, path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Options for user `u<n>`, whose client id is its name.
    pub fn options(&self, n: usize, version: Version) -> Options {
        let mut options = Options::new(self.address(), format!("u{n}"));
        options.version = version;
        options.username = Some(format!("u{n}"));
        options.password = Some(PASSWORD.to_vec());
        options
    }

    /// Connects user `u<n>`.
    pub async fn connect(&self, n: usize, version: Version) -> (Client, Incoming) {
        let (client, incoming, _) = client::connect(&self.options(n, version)).await.unwrap();
        (client, incoming)
    }

    /// Stops it in good order, and starts another one with the same documents and what was kept.
    pub async fn stopped_and_started(self) -> Self {
        self.stopped_and_started_with(|_| {}).await
    }

    /// As [`Broker::stopped_and_started`], with a configuration that was changed meanwhile.
    pub async fn stopped_and_started_with(self, change: impl FnOnce(&mut Config)) -> Self {
        let Self { running, shutdown, etc, state } = self;
        shutdown.trigger();
        running.wait().await;
        let mut config = read_config(etc.path());
        change(&mut config);
        replace(&Etc(etc.path().to_owned()).broker(), &serde_json::to_string(&config).unwrap());
        Self::on(etc, state)
    }

    /// Starts another one with what is on disk at this moment, as if this one had been lost now.
    pub async fn lost_and_started(self) -> Self {
        let state = tempfile::tempdir().unwrap();
        copy(self.state.path(), state.path());
        let Self { running, shutdown, etc, state: old } = self;
        shutdown.trigger();
        running.wait().await;
        drop(old);
        Self::on(etc, state)
    }

    fn on(etc: tempfile::TempDir, state: tempfile::TempDir) -> Self {
        let shutdown = Shutdown::new();
        let (read, kept) = (Etc(etc.path().to_owned()), State(state.path().to_owned()));
        let running = broker::start(read_config(etc.path()), read, &kept, shutdown.clone()).unwrap();
        Self { running, shutdown, etc, state }
    }

    /// What comes of another one in the same place.
    pub fn second_on_the_same_state(&self) -> Result<(), broker::Error> {
        let (read, kept) = (Etc(self.etc().to_owned()), State(self.state().to_owned()));
        broker::start(read_config(self.etc()), read, &kept, Shutdown::new()).map(|_| ())
    }

    /// Stops it, as SIGTERM does.
    pub async fn stop(self) {
        self.shutdown.trigger();
        self.running.wait().await;
    }
}

fn read_config(etc: &Path) -> Config {
    serde_json::from_slice(&std::fs::read(Etc(etc.to_owned()).broker()).unwrap()).unwrap()
}

fn gone(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            // The next file of the journal is empty and gets its name while this goes on.
            std::fs::copy(entry.path(), to).map(|_| ()).or_else(gone).unwrap();
        }
    }
}

/// The value of a series, such as `mqtt_panics_total` or `mqtt_denies_total{action="publish"}`, in the text of metrics.
pub fn value(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Replaces a file as a whole.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// A rule that allows.
pub fn allow(action: Action, topic: &str) -> Rule {
    Rule { permission: Permission::Allow, action, topic: topic.into(), qos: None, retain: None, share: None }
}

/// Lets clients without credentials do everything below `t/`.
pub fn open(config: &mut Config) {
    config.auth.anonymous = Some(Anonymous { acl: vec![allow(Action::All, "t/#")] });
}

fn config() -> Config {
    let users = (0..10).map(|n| User { name: format!("u{n}"), groups: vec![], acl: vec![allow(Action::All, "t/#")] });
    let jwt = Jwt {
        issuer: "mqttbroker/test/broker".into(),
        audience: "mqtt://test/broker".into(),
        max_token_ttl: 3600,
        bind_client_id: false,
        acl_claim: "acl".into(),
    };
    Config {
        format: FORMAT,
        namespace: "test".into(),
        name: "broker".into(),
        listeners: vec![Listener::new("mqtt", Protocol::Mqtt, (Ipv4Addr::LOCALHOST, 0).into())],
        admin: (Ipv4Addr::LOCALHOST, 0).into(),
        auth: Settings { jwt, users: users.collect(), ..Settings::default() },
        limits: Limits::default(),
        // As where the object says nothing: with what comes of waiting for the disk.
        storage: Some(Storage { size: 64 << 20, ..Storage::default() }),
        bridge: None,
    }
}

/// Writes below `etc` what a broker in a process of its own reads.
pub fn write_etc(etc: &Path, change: impl FnOnce(&mut Config)) {
    let mut config = config();
    change(&mut config);
    write_documents(etc, &config, quick_hash());
}

fn write_documents(etc: &Path, config: &Config, hash: &str) {
    let keys = PrivateKeys { keys: vec![signing_key()] };
    let hash = |user: &User| UserHash { name: user.name.clone(), hash: hash.into(), source: None };
    let users = Users { format: FORMAT, users: config.auth.users.iter().map(hash).collect() };
    let etc = Etc(etc.to_owned());
    for (path, text) in [
        (etc.jwks(), keys.public()),
        (etc.users(), serde_json::to_string(&users).unwrap()),
        (etc.broker(), serde_json::to_string(config).unwrap()),
    ] {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// The key that signs its tokens.
pub fn signing_key() -> PrivateKey {
    generate(Algorithm::EdDsa, &[7; 48]).unwrap()
}

/// Unix time in seconds.
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// One hash for all: it costs as much as it should.
fn hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| password::hash(PASSWORD, [1; 16]).unwrap())
}

/// The same password with 8 KiB and one pass.
fn quick_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let argon =
            Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        argon.hash_password(PASSWORD, &SaltString::encode_b64(&[1; 16]).unwrap()).unwrap().to_string()
    })
}
