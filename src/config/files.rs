//! Where the documents are: below `etc` (`/etc/mqtt` in a pod), one directory per mounted ConfigMap or Secret.

use std::path::{Path, PathBuf};

/// The directory of a broker's documents.
#[derive(Clone, Debug)]
pub struct Etc(pub PathBuf);

impl Etc {
    /// The mount point in a pod.
    pub const IN_POD: &str = "/etc/mqtt";

    /// [`super::broker::Broker`].
    pub fn broker(&self) -> PathBuf {
        self.0.join("config/broker.json")
    }

    /// [`super::bridge::Bridge`].
    pub fn bridge(&self) -> PathBuf {
        self.0.join("config/bridge.json")
    }

    /// The public keys, a JWK Set.
    pub fn jwks(&self) -> PathBuf {
        self.0.join("jwks").join(OWN_KEYS)
    }

    /// A document about another issuer: its keys, or the authorities that it is verified with.
    pub fn issuer(&self, document: &str) -> PathBuf {
        self.0.join("jwks").join(document)
    }

    /// The issuer and the keys of the ServiceAccounts of the cluster.
    pub fn service_accounts(&self) -> PathBuf {
        self.issuer(SERVICE_ACCOUNTS)
    }

    /// The password hashes, [`super::broker::Users`].
    pub fn users(&self) -> PathBuf {
        self.0.join("users/users.json")
    }

    /// The tokens that are taken back, one file per entry; see [`crate::auth::revocations`]. It may be absent.
    pub fn revocations(&self) -> PathBuf {
        self.0.join("revocations")
    }

    /// The certificate chain of a listener, PEM.
    pub fn certificate(&self, listener: &str) -> PathBuf {
        self.0.join("tls").join(listener).join("tls.crt")
    }

    /// The private key of a listener, PEM.
    pub fn private_key(&self, listener: &str) -> PathBuf {
        self.0.join("tls").join(listener).join("tls.key")
    }

    /// The certificate authorities that clients of a listener are verified with, PEM.
    pub fn client_ca(&self, listener: &str) -> PathBuf {
        self.0.join("client-ca").join(listener).join("ca.crt")
    }

    /// The bridge's password, alone in the file.
    pub fn bridge_password(&self) -> PathBuf {
        self.0.join("bridge/password")
    }

    /// The credentials for Elasticsearch: files `username` and `password`, or `apiKey`.
    pub fn elasticsearch_credentials(&self) -> PathBuf {
        self.0.join("elasticsearch")
    }

    /// The certificate authorities that Elasticsearch is verified with, PEM.
    pub fn elasticsearch_ca(&self) -> PathBuf {
        self.0.join("elasticsearch-ca/ca.crt")
    }
}

/// The directory of what a broker keeps: what it has acknowledged, and the keys of other issuers that it has fetched.
#[derive(Clone, Debug)]
pub struct State(pub PathBuf);

impl State {
    /// The mount point in a pod.
    pub const IN_POD: &str = STATE_IN_POD;

    /// Sessions, queues and retained messages.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }
}

/// The document with the broker's own public keys. Beside it are those about other issuers.
pub const OWN_KEYS: &str = "jwks.json";

/// The document with the issuer and the keys of the ServiceAccounts of the cluster.
pub const SERVICE_ACCOUNTS: &str = "service-accounts.json";

/// State that survives a restart of the container.
pub const STATE_IN_POD: &str = "/var/lib/mqtt";

/// `etc` as a default for flags.
pub fn etc_in_pod() -> &'static Path {
    Path::new(Etc::IN_POD)
}

/// As [`etc_in_pod`], for what is kept.
pub fn state_in_pod() -> &'static Path {
    Path::new(State::IN_POD)
}
