//! The certificates of a listener: read from files, and again when those change.
//!
//! A pair that cannot be used leaves the last good one in force. A listener without one, because its Secret is not there
//! yet or is wrong from the start, turns clients away while the others serve, and serves as soon as it has one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{Context, SHA256};
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{NoServerSessionStorage, ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, crypto};

use super::validity;
use crate::config::broker::{ClientCertificates, Listener};
use crate::config::files::Etc;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not PEM", path = path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{path} holds no certificate", path = path.display())]
    NoCertificate { path: PathBuf },
    #[error("the certificate and the key in {path} cannot be used together", path = path.display())]
    Pair { path: PathBuf, source: rustls::Error },
    #[error("{path} holds no usable certificate authority", path = path.display())]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("clients cannot be verified with {path}", path = path.display())]
    Verifier { path: PathBuf, source: VerifierBuilderError },
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// What a listener shows its clients, and verifies theirs with.
#[derive(Debug)]
pub struct Certificates {
    clients: ClientCertificates,
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
    current: ArcSwapOption<ServerConfig>,
    seen: Mutex<Seen>,
}

/// What the files held when they were last looked at, and what was wrong with that.
#[derive(Debug, Default)]
struct Seen {
    digest: Option<Vec<u8>>,
    problem: Option<String>,
    /// Until when the certificate in force is valid.
    expires: Option<Timestamp>,
}

/// What a look at the files found.
#[derive(Debug)]
pub enum Look {
    Unchanged,
    Loaded,
    /// The last good ones stay in force, if there were any.
    Failed(TlsError),
}

impl Certificates {
    /// Those of a listener; none are loaded yet.
    pub fn of(listener: &Listener, etc: &Etc) -> Self {
        Self {
            clients: listener.client_certificates,
            certificate: etc.certificate(&listener.name),
            key: etc.private_key(&listener.name),
            client_ca: etc.client_ca(&listener.name),
            current: ArcSwapOption::empty(),
            seen: Mutex::default(),
        }
    }

    /// What handshakes are made with, if there is a certificate.
    pub fn current(&self) -> Option<Arc<ServerConfig>> {
        self.current.load_full()
    }

    /// Why the files as they are now are not in force.
    pub fn problem(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    /// Until when the certificate in force is valid.
    pub fn expires(&self) -> Option<Timestamp> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).expires
    }

    /// Looks at the files, and puts them into force if they have changed and can be used.
    pub fn look(&self) -> Look {
        let files = [&self.certificate, &self.key, &self.client_ca].map(|path| std::fs::read(path).ok());
        let digest = Some(digest(&files));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.digest == digest {
            return Look::Unchanged;
        }
        match self.load() {
            Ok((config, expires)) => {
                self.current.store(Some(Arc::new(config)));
                *seen = Seen { digest, problem: None, expires };
                Look::Loaded
            }
            Err(error) => {
                let problem = Some(super::with_causes(&error));
                *seen = Seen { digest, problem, expires: seen.expires };
                Look::Failed(error)
            }
        }
    }

    /// What handshakes are made with, and until when its certificate is valid.
    fn load(&self) -> Result<(ServerConfig, Option<Timestamp>), TlsError> {
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match self.clients {
            ClientCertificates::Ignored => builder.with_no_client_auth(),
            required => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.authorities()?), provider);
                let verifier = match required {
                    ClientCertificates::Required => verifier,
                    _ => verifier.allow_unauthenticated(),
                };
                let failed = |source| TlsError::Verifier { path: self.client_ca.clone(), source };
                builder.with_client_cert_verifier(verifier.build().map_err(failed)?)
            }
        };
        let chain = certificates(&self.certificate)?;
        let expires = chain.first().and_then(|certificate| validity::not_after(certificate));
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|source| TlsError::Pem { path: self.key.clone(), source })?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|source| TlsError::Pair { path: self.certificate.clone(), source })?;
        // Who comes back is verified again, with the authorities of that moment; and nothing is remembered of those who do
        // not.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((config, expires))
    }

    fn authorities(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.client_ca)? {
            roots.add(certificate).map_err(|source| TlsError::Authority { path: self.client_ca.clone(), source })?;
        }
        Ok(roots)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let all = all.map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
    if all.is_empty() { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(all) }
}

/// Tells contents apart without keeping a private key twice.
fn digest(files: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut digest = Context::new(&SHA256);
    for file in files {
        let length = file.as_ref().map_or(u64::MAX, |bytes| bytes.len() as u64);
        digest.update(&length.to_be_bytes());
        digest.update(file.as_deref().unwrap_or_default());
    }
    digest.finish().as_ref().to_vec()
}
