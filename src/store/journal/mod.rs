//! The journal: what must not be lost, on disk.
//!
//! The broker's memory is the truth while it runs; the journal is told everything that changes it, and gives the state
//! back at the next start. Promises: what lies before a durable position is kept, whenever the process or the machine
//! dies; what is damaged is set aside and reported, and the rest is served; a disk that is full or fails refuses by
//! [`Health`], keeps what was taken in memory, and goes on by itself when it can. One thread writes; who appends copies
//! bytes under a short lock and waits for nobody.

mod commit;
mod crash;
mod disk;
mod frame;
mod index;
mod medium;
pub mod record;
mod recover;
mod report;
mod writer;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::mqtt::PacketId;
use crate::store::{Delivery, Message, Subscription};
use commit::Shared;
use disk::Directory;
use recover::{Unreadable, recover};
use writer::Writer;

pub use record::{EXTRA, Record, Records, Target};
pub use report::{Damage, Report, Torn};

/// Bytes of the smallest segment.
const SMALLEST: u64 = 16 * 1024;
/// Segments that the size must have room for: a full one, the one that is written, the next, and what is copied.
const SEGMENTS: u64 = 8;
/// How long closing may take.
const CLOSE: Duration = Duration::from_secs(10);

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
    /// Bytes that it may take on disk. What makes room, when it is full, may take two segments more.
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
    #[error("cannot read the journal in {}: check the disk, and that this user may read and write there", directory.display())]
    Read { directory: PathBuf, source: io::Error },
    #[error("cannot write the journal in {}: check the disk, and that this user may write there", directory.display())]
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
    /// Places of old segments that could not be read since the start, and their bytes.
    pub damaged_places: u64,
    pub damaged_bytes: u64,
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

/// The durable log. Clones are the same journal; with the last of them it is closed.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>, Found);

/// What could not be read when the journal was opened, in numbers; the [`Report`] has the places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub damaged_places: u64,
    pub damaged_bytes: u64,
    pub missing_segments: u64,
    pub lost_deliveries: u64,
    pub lost_sessions: u64,
}

impl From<&Report> for Found {
    fn from(report: &Report) -> Self {
        Self {
            damaged_places: report.damaged_places,
            damaged_bytes: report.damaged_bytes,
            missing_segments: report.missing_segments.len() as u64,
            lost_deliveries: report.lost_deliveries,
            lost_sessions: report.lost_sessions.len() as u64,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.ask_to_end();
        self.0.wait_for_end(CLOSE);
    }
}

/// Opens the journal, and gives back what it holds.
pub fn open(settings: Settings) -> Result<(Journal, Recovered), OpenError> {
    let Settings { directory, durability, size, segment } = settings;
    std::fs::create_dir_all(&directory)
        .map_err(|source| OpenError::MakeDirectory { directory: directory.clone(), source })?;
    let shared = Arc::new(Shared::new(size));
    let of_disk = shared.clone();
    let disk = Directory::lock(&directory, Arc::new(move || of_disk.made()));
    let disk = disk.map_err(|source| OpenError::Write { directory: directory.clone(), source })?;
    let Some(mut disk) = disk else { return Err(OpenError::InUse { directory }) };
    let segment = u64::from(segment).min(size / SEGMENTS).max(SMALLEST);
    let (recovered, start) = recover(&mut disk, size, segment).map_err(|error| match error {
        Unreadable::Newer { found } => OpenError::Newer { directory: directory.clone(), found, known: frame::FORMAT },
        Unreadable::Read(source) => OpenError::Read { directory: directory.clone(), source },
    })?;
    log(&recovered.report);
    shared.messages.store(start.index.last_message, Ordering::Relaxed);
    let writer = Writer::new(disk, start);
    let of_thread = shared.clone();
    std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(move || commit::run(&of_thread, writer, durability))
        .map_err(|source| OpenError::Write { directory, source })?;
    Ok((Journal(Arc::new(Handle(shared, Found::from(&recovered.report)))), recovered))
}

fn log(report: &Report) {
    for line in &report.summary {
        if report.is_damaged() {
            tracing::warn!(milliseconds = report.milliseconds, "{line}");
        } else {
            tracing::info!(milliseconds = report.milliseconds, "{line}");
        }
    }
}

impl Journal {
    /// What could not be read when it was opened.
    pub fn found(&self) -> Found {
        self.0.1
    }

    /// A number for a message that the journal has not seen.
    pub fn message_id(&self) -> u64 {
        self.0.0.messages.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes the records; the buffer is left empty. The answer is durable when all of them are.
    pub fn append(&self, records: &mut Records) -> Position {
        self.take(records, false)
    }

    /// The same for what nobody waits for: it goes to the disk with what somebody does wait for, or 20 ms later.
    pub fn append_lazily(&self, records: &mut Records) -> Position {
        self.take(records, true)
    }

    fn take(&self, records: &mut Records, lazy: bool) -> Position {
        let position = self.0.0.append(records.bytes(), records.count(), lazy);
        records.clear();
        position
    }

    /// The position up to which everything is kept.
    pub fn durable(&self) -> Position {
        self.0.0.durable()
    }

    /// Wakes once when the position is durable; at once if it is.
    pub fn wake_at(&self, position: Position, waker: &Waker) {
        self.0.0.wake_at(position, waker);
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

    /// From now on it may take so many bytes on disk.
    pub fn set_size(&self, bytes: u64) {
        self.0.0.size.store(bytes, Ordering::Relaxed);
    }

    /// How the journal is.
    pub fn health(&self) -> Health {
        self.0.0.health()
    }

    /// Figures for metrics.
    pub fn stats(&self) -> Stats {
        self.0.0.stats()
    }

    /// Writes and syncs everything, and stops the thread; returns after ten seconds even if the disk does not let it.
    /// What is appended afterwards is not written.
    pub fn close(&self) {
        self.0.0.ask_to_end();
        self.0.0.wait_for_end(CLOSE);
    }
}

#[cfg(test)]
mod tests;
