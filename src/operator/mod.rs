//! observe → plan → build → apply → status. Never opens an MQTT connection.
//!
//! Promises: a second pass over an unchanged world writes nothing; what somebody else owns is never overwritten; an
//! object that asks for what cannot be gets a condition that names the field, and is left alone until it changes.
//! [`reconcile`] has the whole loop on one screen. May name `api`, `plan`, `config`, `auth`, `mqtt`, `process`.

mod apply;
mod ask;
mod audit;
mod build;
mod denies;
mod error;
mod flags;
mod issuers;
mod keys;
pub mod leader;
mod metrics;
mod observe;
mod passwords;
mod random;
mod reconcile;
mod references;
mod revocations;
mod status;
mod storage;
mod users;
mod warn;

use std::net::SocketAddr;
use std::sync::Arc;

use kube::Client;

use crate::process::{Shutdown, admin, shutdown};

pub use flags::{FlagError, Flags};
use leader::Election;
use metrics::Metrics;
pub use observe::members;
use reconcile::Context;

/// The label selector of the pods of a broker.
pub fn pods_of(name: &str) -> String {
    build::selector_text(&build::selector_of(name))
}

/// The labels of what belongs to the object of this name.
pub fn labels_of(name: &str) -> std::collections::BTreeMap<String, String> {
    build::labels_of(name)
}

/// How the operator runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The image of broker pods whose object names none.
    pub image: String,
    /// The namespaces to look after; empty means all.
    pub namespaces: Vec<String>,
    /// Where probes and metrics are served.
    pub admin: SocketAddr,
    /// The lease that one of several operators holds; absent means that this is the only one.
    pub lease: Option<leader::Name>,
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Flags(#[from] FlagError),
    #[error("start threads and listen for signals")]
    Runtime(#[source] std::io::Error),
    #[error("find the API server")]
    Configuration(#[source] Box<kube::Error>),
    #[error("serve probes and metrics at {address}")]
    Admin {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Leader(#[from] leader::LeaderError),
}

/// Runs as the flags say, against the API server of the pod or of the kubeconfig, until a signal.
pub fn start(flags: Flags) -> Result<(), RunError> {
    let options = flags.options()?;
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    // Two workers are plenty: the work is waiting for the API server. Passwords are hashed on one further thread, because
    // an allocator may keep the 19 MiB of a hash for each thread that made one.
    let runtime = threads.worker_threads(2).max_blocking_threads(1).enable_all().build();
    runtime.map_err(RunError::Runtime)?.block_on(async {
        let shutdown = shutdown::signal().map_err(RunError::Runtime)?;
        let client = Client::try_default().await.map_err(|source| RunError::Configuration(Box::new(source)))?;
        run(client, options, shutdown).await
    })
}

/// Runs until `shutdown`, or until another operator became the leader.
pub async fn run(client: Client, options: Options, shutdown: Shutdown) -> Result<(), RunError> {
    let failed = |source| RunError::Admin { address: options.admin, source };
    let mut admin = admin::bind(options.admin).map_err(failed)?;
    let metrics = Metrics::register(admin.registry());
    let readiness = admin.readiness();
    let serving = tokio::spawn(admin.serve(axum::Router::new(), shutdown.clone()));
    readiness.set(true);

    let context = Arc::new(Context::new(client.clone(), options.image.clone(), metrics.clone()));
    let control = reconcile::run(context, &options.namespaces, shutdown.clone());
    match options.lease {
        None => {
            metrics.leads(true);
            control.await;
        }
        Some(name) => {
            let mut election = Election::new(client, name);
            tokio::select! {
                acquired = election.acquire() => acquired?,
                () = shutdown.wait() => return Ok(()),
            }
            metrics.leads(true);
            tokio::select! {
                () = control => {}
                lost = election.hold() => return Err(lost.into()),
            }
            metrics.leads(false);
            election.release().await;
        }
    }
    // It ends with `shutdown`, and what it says then is of no use to anybody.
    let _ = serving.await;
    Ok(())
}
