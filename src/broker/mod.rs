//! Sockets, sessions, routing and delivery.
//!
//! Promises: a slow client costs no other client its messages or its pace; what cannot be kept is counted; nothing that
//! a client sends ends more than its own connection. May name `mqtt`, `auth`, `config`, `store`, `process`; never
//! Kubernetes.

mod admin;
mod admission;
mod aliases;
mod backpressure;
mod connection;
mod counters;
mod deliver;
mod denies;
mod documents;
mod durable;
mod effects;
mod events;
pub mod frames;
mod goodbye;
mod guard;
mod handshake;
mod issuers;
mod limiter;
mod limits;
mod linger;
mod listener;
mod mailbox;
mod metrics;
mod outbox;
mod overdue;
mod passwords;
pub mod proxy;
mod publish;
mod quota;
mod rate;
mod reauthenticate;
mod reconsider;
mod registry;
mod relief;
mod replay;
mod router;
mod sessions;
mod state;
mod storage;
mod stream;
mod sys;
mod telemetry;
mod timers;
mod tls;
pub mod upgrade;
mod validity;
pub mod websocket;
mod will;

pub use issuers::kept_keys;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::auth::Policy;
use crate::config::broker::{Broker as Config, Durability, Limits};
use crate::config::files::{Etc, State};
use crate::config::report;
use crate::process::{self, Shutdown};
use crate::store::journal::{self, Health, Journal};
use crate::store::memory::{self, Level};
use crate::store::{Cursor, Message, NotRetained, Room, Store};
use admission::Admission;
use counters::{Counters, Gate};
use documents::{DocumentError, Documents, Files, Standing};
use events::{Arrival, Events};
use issuers::Issuers;
use limits::Limit;
use listener::Entrance;
use passwords::Passwords;
use registry::Registry;
use router::Router;
use sys::Sys;

/// How long connections get to end at shutdown, after the last one was told.
const DRAIN: Duration = Duration::from_secs(5);

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(
        "cannot listen on {address} for listener {name:?}; if something else listens there, stop it, or choose another port \
         in spec.listeners"
    )]
    Listen { name: String, address: SocketAddr, source: io::Error },
    #[error("cannot serve probes and metrics on {address}")]
    Admin { address: SocketAddr, source: io::Error },
    #[error(
        "cannot keep messages in {}, as durability {:?} asks for; make that directory writable, name another with \
         --state, or ask for durability memory", .path.display(), .durability.as_str()
    )]
    State { path: PathBuf, durability: Durability, source: io::Error },
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    /// The listeners for clients, in the order of the configuration.
    entrances: Vec<Arc<Entrance>>,
    limits: Limits,
    admission: Arc<Admission>,
    policy: ArcSwap<Policy>,
    /// How many policies there were; see [`Shared::generation`].
    generation: AtomicU64,
    /// What the policy was made from.
    documents: Mutex<Standing>,
    issuers: Issuers,
    router: Router,
    registry: Registry,
    store: Store,
    /// Where what must outlive the process is written down; absent where nothing is.
    journal: Option<Journal>,
    /// Bytes that may wait for the bridge.
    telemetry_buffer: AtomicU64,
    /// Milliseconds that a message may wait for a client; 0 is no limit.
    max_queued_age: AtomicU64,
    sys: Sys,
    counters: Counters,
    events: Events,
    /// The listeners, in the order of the configuration; the bridge's is the last.
    gates: Mutex<Vec<Arc<Gate>>>,
    passwords: Passwords,
    /// Set off when no more clients are to be taken.
    drain: Shutdown,
    started: Instant,
}

impl Shared {
    /// Milliseconds of a clock that only goes forward.
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Whether clients can connect somewhere: a listener that waits for its certificate keeps the others in service.
    fn serves(&self) -> bool {
        !self.drain.is_triggered() && self.entrances.iter().any(|entrance| entrance.serves())
    }

    /// Retains a message, or says the limit because of which there is no room for it.
    fn retain(&self, message: &Arc<Message>) -> Result<(), Limit> {
        if let Some(limit) = self.unwritable() {
            return Err(limit);
        }
        let Limits { max_retained_messages, max_retained_bytes, .. } = self.limits;
        let mut room = Room { messages: max_retained_messages as usize, bytes: max_retained_bytes };
        let scarce = memory::level() >= Level::Scarce;
        if scarce {
            room = Room { messages: 0, bytes: 0 };
        }
        let mut retained = self.store.retained.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = &self.journal {
            // Under the lock: what is retained after a restart is what has the greatest number.
            message.id(|| journal.message_id());
        }
        let set = retained.set(message, room, unix_millis());
        drop(retained);
        set.map_err(|full| match full {
            _ if scarce => Limit::MaxMemory,
            NotRetained::Messages => Limit::MaxRetainedMessages,
            NotRetained::Bytes => Limit::MaxRetainedBytes,
        })
    }

    /// Why nothing can be promised to be kept at present.
    fn unwritable(&self) -> Option<Limit> {
        match self.journal.as_ref()?.health() {
            Health::Good => None,
            Health::Full => Some(Limit::Storage),
            Health::Failing => Some(Limit::StorageFailing),
        }
    }

    /// Some of the messages that a new subscription gets; see [`crate::store::Retained::matching`].
    fn retained(&self, filter: &str, cursor: &mut Cursor) -> Vec<Arc<Message>> {
        if sys::is_sys(filter) {
            cursor.finish();
            return self.sys.matching(filter);
        }
        self.store.retained.lock().unwrap_or_else(PoisonError::into_inner).matching(filter, cursor, unix_millis())
    }

    fn report(&self) -> report::Broker {
        let policy = self.policy.load();
        let Standing { digest, problem, restart } =
            self.documents.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let c = &self.counters;
        report::Broker {
            format: crate::config::FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            keys: policy.key_ids(),
            users: policy.user_names(),
            passwords: policy.password_digests(),
            unusable_hashes: policy.unusable_hashes().iter().map(|(name, why)| format!("{name}: {why}")).collect(),
            documents: digest,
            problem,
            restart,
            listeners: self.entrances.iter().map(|entrance| entrance.report()).collect(),
            connections: c.connections.load(Ordering::Relaxed),
            sessions: self.registry.len() as u64,
            messages_received: metrics::total(&c.received),
            messages_sent: metrics::total(&c.sent),
            messages_dropped: c.dropped.total(),
            messages_denied: c.denied.total(),
            storage: self.journal.as_ref().map(storage::report),
            last_deny: self.events.denies.lock().unwrap_or_else(PoisonError::into_inner).newest(),
        }
    }
}

/// An error with its causes in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The limits as this process can hold them: it may open no more files than the system allows. Sets the ceiling of memory.
fn within_the_process(mut limits: Limits) -> Limits {
    // What is open beside clients: listeners, logs, the admin port, the runtime's own.
    const RESERVED: u64 = 64;
    if let Some(files) = process::open_files::raise() {
        let most = u32::try_from(files.saturating_sub(RESERVED).max(1)).unwrap_or(u32::MAX);
        if most < limits.max_connections {
            let asked = limits.max_connections;
            tracing::warn!(
                asked,
                most,
                "maxConnections is more than this process may open files; raise its limit (ulimit -n)"
            );
            limits.max_connections = most;
        }
    }
    if let Some(ceiling) = limits.max_memory {
        memory::set_ceiling(ceiling, process::memory::resident().unwrap_or(0));
    }
    limits
}

/// Milliseconds since 1970 UTC.
fn unix_millis() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64)
}

/// A broker that serves.
#[derive(Debug)]
pub struct Running {
    /// Where each listener listens, by name, in the order of the configuration.
    pub listeners: Vec<(String, SocketAddr)>,
    /// Where the bridge connects, with telemetry.
    pub internal: Option<SocketAddr>,
    pub admin: SocketAddr,
    shared: Arc<Shared>,
    shutdown: Shutdown,
    tasks: JoinSet<()>,
}

/// Serves as the documents below `etc` say, and keeps what it has acknowledged below `state`, until `shutdown`.
pub async fn run(etc: Etc, state: State, shutdown: Shutdown) -> Result<(), Error> {
    let config = documents::read_broker(&etc)?;
    start(config, etc, &state, shutdown.clone())?.wait().await;
    Ok(())
}

/// Binds all listeners and serves, on the runtime of the caller. Keys, password hashes and revocations are read below
/// `etc` now, and again whenever they change; so is then the `auth` of `broker.json`. Without durability nothing is
/// written below `state`.
pub fn start(config: Config, etc: Etc, state: &State, shutdown: Shutdown) -> Result<Running, Error> {
    let issuers = Issuers::new();
    let files = Files::read(&etc);
    let policy = files.policy(&config.auth, config.bridge.as_ref(), &etc, &issuers)?;
    let entrances: Vec<_> = config.listeners.iter().map(|it| Arc::new(Entrance::of(it, &etc))).collect();
    for entrance in &entrances {
        documents::look_at_certificates(entrance);
    }
    let limits = within_the_process(config.limits.clone());
    let (journal, recovered) = state::open(config.storage, state)?.unzip();
    let counters = Counters::default();
    let passwords = Passwords::new(counters.password_checks.clone());
    let shared = Arc::new(Shared {
        entrances,
        admission: Admission::new(&limits),
        limits,
        policy: ArcSwap::from_pointee(policy),
        generation: AtomicU64::new(0),
        documents: Mutex::new(Standing { digest: files.digest(), ..Standing::default() }),
        issuers,
        router: Router::default(),
        registry: Registry::default(),
        store: Store::default(),
        journal,
        max_queued_age: AtomicU64::new(config.limits.max_queued_millis()),
        telemetry_buffer: AtomicU64::new(config.bridge.as_ref().map_or(0, |bridge| bridge.buffer)),
        sys: Sys::default(),
        counters,
        events: Events::new(0),
        gates: Mutex::default(),
        passwords,
        drain: Shutdown::new(),
        started: Instant::now(),
    });
    let restored = recovered.map(|recovered| shared.restore(recovered)).is_some();
    // Before anybody can publish, and before what was kept is looked at in the background.
    shared.settle_bridge();
    if restored {
        shared.reconsider_restored();
    }
    let mut tasks = JoinSet::new();
    let mut listeners = Vec::new();
    for (wanted, entrance) in config.listeners.iter().zip(&shared.entrances) {
        let address = SocketAddr::new(wanted.address, wanted.port);
        listeners
            .push((wanted.name.clone(), listen(address, entrance.clone(), &shared, false, &shutdown, &mut tasks)?));
    }
    let mut internal = None;
    if let Some(bridge) = &config.bridge {
        let entrance = Arc::new(Entrance::internal());
        internal = Some(listen(bridge.listen, entrance, &shared, true, &shutdown, &mut tasks)?);
    }
    let admin = config.admin;
    let documents = Arc::new(Documents::new(config, etc));
    let (admin, readiness) = admin::serve(admin, &shared, documents.clone(), &shutdown, &mut tasks)?;
    tasks.spawn(events::tell_suppressed(shared.clone(), shutdown.clone()));
    tasks.spawn(relief::serve(shared.clone(), shutdown.clone()));
    tasks.spawn(overdue::serve(shared.clone(), shutdown.clone()));
    tasks.spawn(sys::serve(shared.clone(), shutdown.clone()));
    tasks.spawn(issuers::serve(documents.clone(), shared.clone(), shutdown.clone()));
    tasks.spawn(documents::watch(documents, files, shared.clone(), readiness, shutdown.clone()));
    Ok(Running { listeners, internal, admin, shared, shutdown, tasks })
}

fn listen(
    address: SocketAddr,
    entrance: Arc<Entrance>,
    shared: &Arc<Shared>,
    internal: bool,
    shutdown: &Shutdown,
    tasks: &mut JoinSet<()>,
) -> Result<SocketAddr, Error> {
    let failed = |source| Error::Listen { name: entrance.name.clone(), address, source };
    let listener = process::listen(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!(name = entrance.name, address = %bound, "listening");
    let gate = Arc::new(Gate::new(&entrance.name, bound, internal));
    shared.gates.lock().unwrap_or_else(PoisonError::into_inner).push(gate.clone());
    tasks.spawn(listener::serve(listener, shared.clone(), gate, entrance, shutdown.clone()));
    Ok(bound)
}

impl Running {
    /// What the broker says of itself.
    pub fn report(&self) -> report::Broker {
        self.shared.report()
    }

    /// Says which keys tokens are verified with now.
    pub fn keys(&self) -> impl Fn() -> Vec<String> + Send + Sync + use<> {
        let shared = self.shared.clone();
        move || shared.report().keys
    }

    /// Serves a client on any socket, as if a listener had accepted it from `peer`. Ends with the connection.
    pub fn serve<S>(&self, socket: S, peer: SocketAddr) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let shared = self.shared.clone();
        let within = Duration::from_secs(shared.limits.connect_timeout.into());
        let mut arrival = Arrival::now(peer, Arc::new(Gate::new("socket", peer, false)), within);
        async move {
            match shared.admission.enter() {
                Ok(mut pass) => {
                    pass.identify(peer.ip(), shared.now());
                    arrival.pass = Some(pass);
                    listener::connection(socket, arrival, &shared).await;
                }
                Err(limit) => events::turned_away(&shared, &arrival, limit),
            }
        }
    }

    /// Returns when the broker has stopped after its shutdown was triggered.
    pub async fn wait(mut self) {
        self.shutdown.wait().await;
        let online = self.shared.registry.close();
        tracing::info!(connections = online.len(), "no more clients are let in; those that are there are sent away");
        goodbye::tell(&online).await;
        let gone = async {
            while self.shared.counters.connections.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            while self.tasks.join_next().await.is_some() {}
        };
        if tokio::time::timeout(DRAIN, gone).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        if let Some(journal) = self.shared.journal.clone() {
            // It ends by itself in good time; a panic of its thread is told by the thread.
            let _ = tokio::task::spawn_blocking(move || journal.close()).await;
        }
    }
}
