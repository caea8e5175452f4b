//! The journal: what must not be lost, on disk.
//!
//! The broker's memory is the truth while it runs; the journal is told everything that changes it, and gives the state
//! back at the next start. Promises: what lies before a durable position is kept, whenever the process or the machine
//! dies; what is damaged is set aside and reported, and the rest is served; a disk that is full or fails refuses by
//! [`Health`], keeps what was taken in memory, and goes on by itself when it can. One thread writes; who appends copies
//! bytes under a short lock and waits for nobody.

pub mod record;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::future::poll_fn;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mqtt::PacketId;
use crate::store::{Delivery, Message, Subscription};
pub use record::{EXTRA, Record, Records, Target};

/// A place in what was appended. It grows; everything up to a durable position is kept.
pub type Position = u64;

/// When a position is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the disk says that it has it.
    #[default]
    Fsync,
    /// When it is written: it survives the process, and within a second the machine.
    Async,
}

/// Where the journal is, and what it may take.
#[derive(Clone, Debug)]
pub struct Settings {
    pub directory: PathBuf,
    pub durability: Durability,
    /// Bytes on disk.
    pub size: u64,
    /// Bytes of a segment.
    pub segment: u32,
}

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot make the journal's directory {}", directory.display())]
    MakeDirectory { directory: PathBuf, source: io::Error },
    #[error("{} is in use by another process: stop it, or give this one a directory of its own", directory.display())]
    InUse { directory: PathBuf },
    #[error("cannot read the journal in {}", directory.display())]
    Read { directory: PathBuf, source: io::Error },
    #[error("cannot write the journal in {}", directory.display())]
    Write { directory: PathBuf, source: io::Error },
    #[error(
        "the journal in {} has format {found}, and this version reads up to {known}: use the version that wrote it, or a later one",
        directory.display()
    )]
    Newer { directory: PathBuf, found: u32, known: u32 },
}

/// How the journal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    #[default]
    Good,
    /// There is no room for more. What was taken is kept.
    Full,
    /// The disk refuses to write. What was taken is kept in memory, and tried again.
    Failing,
}

/// What the journal has done, and what it holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Batches that became durable.
    pub commits: u64,
    pub syncs: u64,
    pub bytes_written: u64,
    pub records: u64,
    /// Bytes that are still needed.
    pub live_bytes: u64,
    /// Bytes of all segments.
    pub total_bytes: u64,
    pub segments: u64,
    /// Bytes that were copied so that old segments could be removed.
    pub compacted_bytes: u64,
    /// Bytes that wait to be written.
    pub pending_bytes: u64,
    /// How many syncs took up to so many seconds, and all of them.
    pub sync_seconds: SyncSeconds,
    pub last_error: Option<String>,
}

/// How long syncs took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SyncSeconds {
    /// Per bucket of [`SyncSeconds::BOUNDS`], and last those that took longer.
    pub counts: [u64; 11],
    pub sum: f64,
}

impl SyncSeconds {
    /// Upper bounds of the buckets.
    pub const BOUNDS: [f64; 10] = [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0];
}

/// What was found at start.
#[derive(Debug, Default)]
pub struct Recovered {
    pub sessions: Vec<RecoveredSession>,
    pub retained: Vec<Arc<Message>>,
    /// The highest key of a session that the journal mentions.
    pub last_session: u64,
    pub report: Report,
}

/// A session as the journal knew it.
#[derive(Clone, Debug)]
pub struct RecoveredSession {
    pub key: u64,
    pub client_id: Box<str>,
    pub expiry: u32,
    pub window: u16,
    pub about: Box<[u8]>,
    /// `None`: its client was connected.
    pub away: Option<Away>,
    pub subscriptions: BTreeMap<Box<str>, Subscription>,
    pub inbound: Vec<PacketId>,
    pub queue: Vec<Outstanding>,
    pub extras: Vec<ExtraOutstanding>,
    /// Above every sequence number of the session that the journal mentions.
    pub next_seq: u64,
    pub next_extra: u64,
}

/// Since when a client is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    /// Milliseconds since 1970 UTC.
    pub since: u64,
    /// Deliveries up to this one had been sent.
    pub sent_seq: u64,
}

/// A delivery of the queue that is not over.
#[derive(Clone, Debug)]
pub struct Outstanding {
    pub seq: u64,
    pub delivery: Delivery,
    /// PUBREC came.
    pub received: bool,
}

/// A delivery outside the queue that is not over.
#[derive(Clone, Debug)]
pub struct ExtraOutstanding {
    pub number: u64,
    /// It goes before this one of the queue.
    pub before: u64,
    pub delivery: Delivery,
    pub received: bool,
}

/// What recovery found, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub segments: u64,
    pub bytes: u64,
    pub records: u64,
}

/// The durable log. Clones are the same journal.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
    more: Condvar,
    durable: AtomicU64,
    waiters: Mutex<Vec<(Position, Waker)>>,
    health: AtomicU8,
    messages: AtomicU64,
    stats: Mutex<Stats>,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    position: Position,
    records: u64,
    closing: bool,
    closed: bool,
}

/// Opens the journal, and gives back what it holds.
pub fn open(settings: Settings) -> Result<(Journal, Recovered), OpenError> {
    let Settings { directory, .. } = settings;
    std::fs::create_dir_all(&directory)
        .map_err(|source| OpenError::MakeDirectory { directory: directory.clone(), source })?;
    let path = directory.join("0000000001.log");
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.map_err(|source| OpenError::Write { directory: directory.clone(), source })?;
    let shared = Arc::new(Shared {
        pending: Mutex::default(),
        more: Condvar::new(),
        durable: AtomicU64::new(0),
        waiters: Mutex::default(),
        health: AtomicU8::new(Health::Good as u8),
        messages: AtomicU64::new(0),
        stats: Mutex::default(),
    });
    let of_thread = shared.clone();
    std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(move || commit(&of_thread, file))
        .map_err(|source| OpenError::Write { directory, source })?;
    Ok((Journal(shared), Recovered::default()))
}

impl Journal {
    /// A number for a message that the journal has not seen.
    pub fn message_id(&self) -> u64 {
        self.0.messages.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes the records; the buffer is left empty. The answer is durable when all of them are.
    pub fn append(&self, records: &mut Records) -> Position {
        let mut pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if records.is_empty() {
            return pending.position;
        }
        let idle = pending.bytes.is_empty();
        pending.bytes.extend_from_slice(records.bytes());
        pending.position += records.bytes().len() as u64;
        pending.records += records.count();
        let position = pending.position;
        drop(pending);
        if idle {
            self.0.more.notify_all();
        }
        records.clear();
        position
    }

    /// The same for what nobody waits for.
    pub fn append_lazily(&self, records: &mut Records) -> Position {
        self.append(records)
    }

    /// The position up to which everything is kept.
    pub fn durable(&self) -> Position {
        self.0.durable.load(Ordering::Acquire)
    }

    /// Wakes once when the position is durable; at once if it is.
    pub fn wake_at(&self, position: Position, waker: &Waker) {
        let mut waiters = self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if self.durable() >= position {
            drop(waiters);
            waker.wake_by_ref();
        } else if !waiters.iter().any(|(at, known)| *at == position && known.will_wake(waker)) {
            waiters.push((position, waker.clone()));
        }
    }

    /// Returns when the position is durable.
    pub async fn written(&self, position: Position) {
        poll_fn(|context| {
            if self.durable() >= position {
                return Poll::Ready(());
            }
            self.wake_at(position, context.waker());
            Poll::Pending
        })
        .await;
    }

    /// How the journal is.
    pub fn health(&self) -> Health {
        match self.0.health.load(Ordering::Relaxed) {
            0 => Health::Good,
            1 => Health::Full,
            _ => Health::Failing,
        }
    }

    /// Figures for metrics.
    pub fn stats(&self) -> Stats {
        self.0.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes and syncs everything and stops the thread; gives up after ten seconds.
    pub fn close(&self) {
        let mut pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.closing = true;
        self.0.more.notify_all();
        let _ = self.0.more.wait_timeout_while(pending, Duration::from_secs(10), |pending| !pending.closed);
    }
}

fn commit(shared: &Shared, mut file: File) {
    let mut batch = Vec::new();
    loop {
        let pending = shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = shared.more.wait_while(pending, |pending| pending.bytes.is_empty() && !pending.closing);
        let mut pending = waited.unwrap_or_else(PoisonError::into_inner);
        if pending.bytes.is_empty() {
            pending.closed = true;
            shared.more.notify_all();
            return;
        }
        std::mem::swap(&mut batch, &mut pending.bytes);
        let (position, records) = (pending.position, std::mem::take(&mut pending.records));
        drop(pending);
        let result = file.write_all(&batch).and_then(|()| file.sync_data());
        {
            let mut stats = shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
            stats.commits += 1;
            stats.records += records;
            stats.bytes_written += batch.len() as u64;
            stats.last_error = result.as_ref().err().map(ToString::to_string);
        }
        batch.clear();
        shared.health.store(if result.is_ok() { Health::Good } else { Health::Failing } as u8, Ordering::Relaxed);
        if result.is_ok() {
            shared.durable.store(position, Ordering::Release);
            let mut waiters = shared.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            let due: Vec<_> = waiters.extract_if(.., |(at, _)| *at <= position).collect();
            drop(waiters);
            due.into_iter().for_each(|(_, waker)| waker.wake());
        }
    }
}
