//! The broker and the bridge, in this process.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::state::{self, Home, Live, LiveListener, Lock};
use super::{Error, Options, Prepared, address, prepare};
use crate::auth::settings::Settings;
use crate::bridge::{self, Counters};
use crate::broker;
use crate::config::broker::{Listener, UserHash};
use crate::config::files::Etc;
use crate::config::{bridge as bridge_config, report};
use crate::process::Shutdown;

/// An object that runs.
#[derive(Debug)]
pub struct Running {
    pub home: Home,
    /// Where clients connect.
    pub listeners: Vec<LiveListener>,
    /// Who may do what.
    pub auth: Settings,
    /// Name and password of the users, in the order of the object.
    pub passwords: Vec<(String, String)>,
    pub hashes: Vec<UserHash>,
    /// With telemetry.
    pub bridge: Option<bridge_config::Bridge>,
    /// Probes, metrics and the report of the broker.
    pub admin: std::net::SocketAddr,
    broker: broker::Running,
    carrying: Option<Carrying>,
    shutdown: Shutdown,
    _lock: Lock,
}

/// The bridge's task, and what it counts.
#[derive(Debug)]
struct Carrying {
    task: JoinHandle<()>,
    counters: Arc<Counters>,
}

fn carry(etc: Etc, config: bridge_config::Bridge, shutdown: Shutdown) -> Carrying {
    let counters = Arc::new(Counters::default());
    let counting = Arc::clone(&counters);
    let task = tokio::spawn(async move { bridge::run(&etc, config, counting, shutdown).await });
    Carrying { task, counters }
}

/// Starts what the options ask for. Returns when clients can connect; what they publish from then on is
/// telemetry, whether the bridge has come or not.
pub async fn start(options: &Options, shutdown: Shutdown) -> Result<Running, Error> {
    let Prepared { mut plan, home, mut lock, credentials, keys } = prepare(options)?;
    let broker = broker::start(plan.broker.clone(), home.etc(), &home.lib(), shutdown.clone())?;
    if let (Some(bridge), Some(internal)) = (&mut plan.bridge, broker.internal) {
        bridge.broker = internal;
    }
    match &plan.bridge {
        Some(bridge) => state::write_json(&home.etc().bridge(), bridge)?,
        None => state::remove(&home.etc().bridge())?,
    }
    tokio::spawn(super::keys::keep(keys, broker.keys(), shutdown.clone()));
    let carrying = plan.bridge.clone().map(|config| carry(home.etc(), config, shutdown.clone()));
    let host = address::for_clients(options.bind);
    let listener = |((name, bound), asked): (&(String, std::net::SocketAddr), &Listener)| LiveListener {
        name: name.clone(),
        host: host.clone(),
        port: bound.port(),
        scheme: asked.protocol.scheme().into(),
        path: asked.url_path().into(),
    };
    let listeners: Vec<LiveListener> = broker.listeners.iter().zip(plan.listeners()).map(listener).collect();
    lock.announce(&Live { pid: std::process::id(), listeners: listeners.clone(), admin: broker.admin })?;
    Ok(Running {
        home,
        listeners,
        auth: plan.broker.auth,
        passwords: credentials.passwords,
        hashes: credentials.hashes,
        bridge: plan.bridge,
        admin: broker.admin,
        broker,
        carrying,
        shutdown,
        _lock: lock,
    })
}

impl Running {
    /// What the broker and the bridge say of themselves.
    pub fn reports(&self) -> (report::Broker, Option<report::Bridge>) {
        (self.broker.report(), self.carrying.as_ref().map(|carrying| carrying.counters.report()))
    }

    /// Stops everything; returns when it has stopped.
    pub async fn stop(self) {
        self.shutdown.trigger();
        if let Some(carrying) = self.carrying {
            // What it says of its end is of no consequence now.
            let _ = carrying.task.await;
        }
        self.broker.wait().await;
    }
}
