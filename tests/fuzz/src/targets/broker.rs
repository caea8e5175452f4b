//! A broker for connections in memory. What the integration tests start has more to it, and would bring it along.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use argon2::password_hash::{PasswordHasher, SaltString};
use argon2::{Argon2, Params};
use mqtt_operator::auth::key::{Algorithm, PrivateKeys, generate};
use mqtt_operator::auth::rule::{Action, Permission, Rule};
use mqtt_operator::auth::settings::{Anonymous, Jwt, Settings, User};
use mqtt_operator::broker::{self, Running};
use mqtt_operator::config::FORMAT;
use mqtt_operator::config::broker::{Broker as Config, Limits, Listener, Protocol, UserHash, Users};
use mqtt_operator::config::files::{Etc, State};
use mqtt_operator::process::Shutdown;
use tokio::io::DuplexStream;

/// The password of users `u0` to `u3`.
pub const PASSWORD: &[u8] = b"fuzz";

/// Serves until it is dropped. Everybody may do everything below `t/`, with a name or without.
pub struct Broker {
    running: Running,
    shutdown: Shutdown,
    _documents: tempfile::TempDir,
}

impl Broker {
    pub fn start() -> Self {
        let documents = tempfile::tempdir().expect("a directory for documents");
        let config = config();
        write(documents.path(), &config);
        let shutdown = Shutdown::new();
        let (read, kept) = (Etc(documents.path().to_owned()), State(documents.path().join("state")));
        let running = broker::start(config, read, &kept, shutdown.clone()).expect("it starts");
        Self { running, shutdown, _documents: documents }
    }

    /// A client's end of a socket `capacity` bytes wide.
    pub fn connect(&self, capacity: usize) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(capacity);
        tokio::spawn(self.running.serve(theirs, SocketAddr::from((Ipv4Addr::LOCALHOST, 9))));
        ours
    }

    /// Waits until nobody but `others` is connected.
    pub async fn alone(&self, others: u64) {
        while self.running.report().connections > others {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

fn config() -> Config {
    let rule = Rule {
        permission: Permission::Allow,
        action: Action::All,
        topic: "t/#".into(),
        qos: None,
        retain: None,
        share: None,
    };
    let users = (0..4).map(|n| User { name: format!("u{n}"), groups: vec![], acl: vec![rule.clone()] }).collect();
    let jwt = Jwt {
        issuer: "mqttbroker/fuzz/broker".into(),
        audience: "mqtt://fuzz/broker".into(),
        max_token_ttl: 3600,
        bind_client_id: false,
        acl_claim: "acl".into(),
    };
    let anonymous = Some(Anonymous { acl: vec![rule] });
    Config {
        format: FORMAT,
        namespace: "fuzz".into(),
        name: "broker".into(),
        listeners: vec![Listener::new("mqtt", Protocol::Mqtt, (Ipv4Addr::LOCALHOST, 0).into())],
        admin: (Ipv4Addr::LOCALHOST, 0).into(),
        auth: Settings { jwt, users, anonymous, ..Settings::default() },
        limits: Limits::default(),
        storage: None,
        bridge: None,
    }
}

fn write(folder: &Path, config: &Config) {
    let etc = Etc(folder.to_owned());
    let key = generate(Algorithm::EdDsa, &[7; 48]).expect("48 bytes make a key");
    // The weakest there is: a check costs next to nothing.
    let params = Params::new(8, 1, 1, None).expect("the least that is legal");
    let argon = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let salt = SaltString::encode_b64(&[1; 16]).expect("16 bytes make a salt");
    let hash = argon.hash_password(PASSWORD, &salt).expect("a hash").to_string();
    let hash = |user: &User| UserHash { name: user.name.clone(), hash: hash.clone(), source: None };
    let users = Users { format: FORMAT, users: config.auth.users.iter().map(hash).collect() };
    let users = serde_json::to_string(&users).expect("plain data");
    for (path, text) in [(etc.jwks(), PrivateKeys { keys: vec![key] }.public()), (etc.users(), users)] {
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
        std::fs::write(path, text).expect("a document");
    }
}
