//! The thread that writes: it takes what has gathered, writes and syncs it, and wakes who waits for it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::writer::{Stopped, Writer, of_error};
use super::{Durability, Health, Position, Stats, SyncSeconds};
use crate::store::memory;

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// How long what is written asynchronously may wait to be synced.
const SYNC_AFTER: Duration = Duration::from_millis(500);
/// Bytes that are synced before that.
const SYNC_BYTES: usize = 8 * 1024 * 1024;
/// How long what nobody waits for may wait to be written.
const LAZY: Duration = Duration::from_millis(20);
/// Bytes that are written whether somebody waits for them or not.
const MUCH: usize = 256 * 1024;
/// How often a failure that lasts is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// How long a thread that is to end tries to write what it has.
const CLOSE: Duration = Duration::from_secs(8);
/// Bytes of the buffer for the next batch that are kept.
const KEPT: usize = 4 * 1024 * 1024;

/// What the thread shares with those who append.
#[derive(Debug)]
pub struct Shared {
    pending: Mutex<Pending>,
    /// Something is pending, a segment is made, or the journal closes.
    more: Condvar,
    /// The thread has ended.
    ended: Condvar,
    durable: AtomicU64,
    waiters: Mutex<HashMap<usize, Waiter>>,
    health: AtomicU8,
    pub messages: AtomicU64,
    /// Bytes that the journal may take.
    pub size: AtomicU64,
    stats: Mutex<Stats>,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each says something of its own, and all change under one lock")]
struct Pending {
    bytes: Vec<u8>,
    position: Position,
    records: u64,
    /// The thread waits for something to do.
    idle: bool,
    /// Somebody waits for what is pending.
    urgent: bool,
    /// Since when something is pending that nobody waits for.
    lazy: Option<Instant>,
    /// A segment was made.
    made: bool,
    closing: bool,
    ended: bool,
}

/// Who waits, for the first of these positions and then for all up to the last. One entry for each task: it is woken
/// at each commit in between.
#[derive(Debug)]
struct Waiter {
    waker: Waker,
    first: Position,
    last: Position,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(size: u64) -> Self {
        Self {
            pending: Mutex::default(),
            more: Condvar::new(),
            ended: Condvar::new(),
            durable: AtomicU64::new(0),
            waiters: Mutex::default(),
            health: AtomicU8::new(Health::Good as u8),
            messages: AtomicU64::new(0),
            size: AtomicU64::new(size),
            stats: Mutex::default(),
        }
    }

    /// Takes frames; answers the position behind them. What nobody waits for is `lazy`: it goes with the next that
    /// somebody waits for, or soon.
    pub fn append(&self, frames: &[u8], records: u64, lazy: bool) -> Position {
        let mut pending = lock(&self.pending);
        if frames.is_empty() {
            return pending.position;
        }
        pending.bytes.extend_from_slice(frames);
        pending.position += frames.len() as u64;
        pending.records += records;
        let position = pending.position;
        // Woken once: until it has taken them, it is awake.
        let wake = if lazy {
            let first = pending.lazy.is_none() && !pending.urgent;
            if first {
                pending.lazy = Some(Instant::now());
            }
            first || pending.bytes.len() > MUCH
        } else {
            pending.urgent = true;
            true
        };
        let wake = wake && std::mem::take(&mut pending.idle);
        drop(pending);
        if wake {
            self.more.notify_one();
        }
        position
    }

    pub fn durable(&self) -> Position {
        self.durable.load(Ordering::Acquire)
    }

    pub fn wake_at(&self, position: Position, waker: &Waker) {
        if self.durable() >= position {
            return waker.wake_by_ref();
        }
        let mut waiters = lock(&self.waiters);
        // Asked again: the thread may have published it before it looked for who waits.
        if self.durable() >= position {
            drop(waiters);
            return waker.wake_by_ref();
        }
        // Wakers of one task have the same data; those of two tasks that have it all the same get neighbouring keys.
        let mut key = waker.data() as usize;
        loop {
            match waiters.get_mut(&key) {
                Some(known) if known.waker.will_wake(waker) => {
                    known.first = known.first.min(position);
                    known.last = known.last.max(position);
                    return;
                }
                Some(_) => key = key.wrapping_add(1),
                None => break,
            }
        }
        waiters.insert(key, Waiter { waker: waker.clone(), first: position, last: position });
    }

    /// Wakes everyone whose position is durable.
    fn publish(&self, position: Position, woken: &mut Vec<Waker>) {
        self.durable.store(position, Ordering::Release);
        let mut waiters = lock(&self.waiters);
        waiters.retain(|_, waiter| {
            if waiter.first > position {
                return true;
            }
            woken.push(waiter.waker.clone());
            waiter.first = position + 1;
            waiter.last > position
        });
        drop(waiters);
        woken.drain(..).for_each(Waker::wake);
    }

    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            0 => Health::Good,
            1 => Health::Full,
            _ => Health::Failing,
        }
    }

    pub fn stats(&self) -> Stats {
        let mut stats = lock(&self.stats).clone();
        stats.pending_bytes += lock(&self.pending).bytes.len() as u64;
        stats
    }

    /// Wakes the thread, because a segment is made.
    pub fn made(&self) {
        lock(&self.pending).made = true;
        self.more.notify_one();
    }

    /// Asks the thread to end when it has written everything.
    pub fn ask_to_end(&self) {
        lock(&self.pending).closing = true;
        self.more.notify_one();
    }

    /// Waits until the thread has ended; answers whether it has.
    pub fn wait_for_end(&self, limit: Duration) -> bool {
        let waited = self.ended.wait_timeout_while(lock(&self.pending), limit, |pending| !pending.ended);
        waited.is_ok_and(|(pending, _)| pending.ended)
    }
}

/// What the thread knows besides what it writes.
struct Commit<'a, D> {
    shared: &'a Shared,
    writer: Writer<D>,
    durability: Durability,
    batch: Vec<u8>,
    /// The position behind everything that the writer has.
    taken: Position,
    /// Since when something is written and not synced.
    unsynced: Option<Instant>,
    /// Since when it is not written that everything is synced. It goes with the next batch, or alone soon: a write of its
    /// own after each sync would cost the next batch time.
    unsaid: Option<Instant>,
    /// Until when nothing is written, after a failure or for want of a segment.
    hold: Option<Instant>,
    /// When making a segment is tried again.
    again: Option<Instant>,
    /// What writing failed of, until it works again.
    failed: Option<Health>,
    logged: Option<Instant>,
    closing: Option<Instant>,
    health: Health,
    woken: Vec<Waker>,
    held: memory::Held,
    tallies: Tallies,
}

#[derive(Default)]
struct Tallies {
    commits: u64,
    syncs: u64,
    records: u64,
    sync_seconds: SyncSeconds,
    last_error: Option<String>,
}

/// Writes until the journal is closed.
pub fn run<D: Disk>(shared: &Shared, writer: Writer<D>, durability: Durability) {
    let written = std::panic::catch_unwind(AssertUnwindSafe(|| write_all(shared, writer, durability)));
    if written.is_err() {
        // A fault of ours. Nothing is acknowledged any more that is not kept.
        tracing::error!("the journal's thread has failed: nothing more is kept until the process is started again");
        shared.health.store(Health::Failing as u8, Ordering::Relaxed);
    }
    // The directory is free before anybody hears that the journal is closed.
    lock(&shared.pending).ended = true;
    shared.ended.notify_all();
}

fn write_all<D: Disk>(shared: &Shared, writer: Writer<D>, durability: Durability) {
    let mut commit = Commit {
        shared,
        writer,
        durability,
        batch: Vec::new(),
        taken: 0,
        unsynced: None,
        unsaid: None,
        hold: None,
        again: None,
        failed: None,
        logged: None,
        closing: None,
        health: Health::Good,
        woken: Vec::new(),
        held: memory::Held::default(),
        tallies: Tallies::default(),
    };
    commit.tend();
    while commit.gather() {
        commit.cycle();
    }
    commit.end();
}

impl<D: Disk> Commit<'_, D> {
    /// Waits for something to do and takes what is pending; `false`: there is nothing to do any more.
    fn gather(&mut self) -> bool {
        let shared = self.shared;
        let mut pending = lock(&shared.pending);
        loop {
            if pending.closing && self.closing.is_none() {
                self.closing = Some(Instant::now());
            }
            let past = |at: Option<Instant>| at.is_none_or(|at| Instant::now() >= at);
            let lazy = pending.lazy.is_some_and(|since| since.elapsed() >= LAZY) || pending.bytes.len() > MUCH;
            let gathered = !pending.bytes.is_empty() && (pending.urgent || lazy || self.closing.is_some());
            let unsaid = self.unsaid.is_some_and(|since| since.elapsed() >= LAZY);
            let waiting = gathered || unsaid || self.writer.is_urgent() || self.is_sync_due();
            if waiting && past(self.hold) || self.again.is_some() && past(self.again) || pending.made {
                break;
            }
            if self.may_end(&pending) {
                return false;
            }
            pending.idle = true;
            pending = match self.next_moment(pending.lazy) {
                None => shared.more.wait(pending).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let limit = until.saturating_duration_since(Instant::now());
                    shared.more.wait_timeout(pending, limit).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        pending.idle = false;
        (pending.urgent, pending.lazy) = (false, None);
        if std::mem::take(&mut pending.made) {
            self.hold = None;
        }
        std::mem::swap(&mut self.batch, &mut pending.bytes);
        self.taken = pending.position;
        self.tallies.records += std::mem::take(&mut pending.records);
        drop(pending);
        self.writer.take(&mut self.batch);
        self.batch.shrink_to(KEPT);
        true
    }

    fn end(&mut self) {
        let lost = self.writer.unsynced_urgent();
        if lost > 0 {
            tracing::error!(bytes = lost, "the journal is closed, and not everything could be written");
        }
        if let Err(Stopped::Failed(error)) = self.writer.write_if_room().and_then(|()| self.writer.sync()) {
            tracing::warn!(%error, "the last words of the journal are not synced");
        }
        self.tell();
    }

    fn may_end(&self, pending: &Pending) -> bool {
        let Some(since) = self.closing else { return false };
        let written = pending.bytes.is_empty() && !self.writer.is_urgent() && self.unsynced.is_none();
        written || since.elapsed() > CLOSE
    }

    fn is_sync_due(&self) -> bool {
        let long_enough = |since: Instant| since.elapsed() >= SYNC_AFTER;
        self.unsynced.is_some_and(long_enough) || self.unsynced.is_some() && self.closing.is_some()
    }

    /// Until when there is nothing to do, unless something comes.
    fn next_moment(&self, lazy: Option<Instant>) -> Option<Instant> {
        let sync = self.unsynced.map(|since| since + SYNC_AFTER);
        let end = self.closing.map(|since| since + CLOSE + RETRY);
        let [lazy, unsaid] = [lazy, self.unsaid].map(|since| since.map(|since| since + LAZY));
        [self.hold, self.again, lazy, unsaid, sync, end].into_iter().flatten().min()
    }

    /// Writes what was taken, and what follows from it.
    fn cycle(&mut self) {
        self.tend();
        match self.write_and_sync() {
            Ok(()) => self.hold = None,
            // It is gone on with when the segment is made, or when there is room for one.
            Err(Stopped::Waiting) => self.hold = Some(Instant::now() + RETRY),
            Err(Stopped::Failed(error)) => {
                self.writer.abandon();
                self.failed = Some(of_error(&error));
                self.hold = Some(Instant::now() + RETRY);
                self.say(of_error(&error), &error.to_string());
            }
        }
        self.tend();
        self.tell();
    }

    fn write_and_sync(&mut self) -> Result<(), Stopped> {
        self.unsaid = None;
        if !self.writer.is_urgent() && self.unsynced.is_none() {
            return self.writer.write_if_room();
        }
        self.writer.write()?;
        if self.durability == Durability::Async {
            self.published();
            let since = *self.unsynced.get_or_insert_with(Instant::now);
            let much = self.writer.unsynced() > SYNC_BYTES;
            if since.elapsed() < SYNC_AFTER && !much && self.closing.is_none() && !self.writer.is_copying() {
                self.writer.written();
                return Ok(());
            }
        }
        let began = Instant::now();
        self.writer.sync()?;
        self.tallies.synced(began.elapsed());
        self.unsynced = None;
        self.published();
        self.failed = None;
        self.writer.settle();
        self.unsaid = Some(Instant::now());
        Ok(())
    }

    fn published(&mut self) {
        if self.shared.durable() < self.taken {
            self.tallies.commits += 1;
            self.shared.publish(self.taken, &mut self.woken);
        }
    }

    /// Sees to it that there is a next segment, and says how the journal is.
    fn tend(&mut self) {
        let retry = self.again.is_some_and(|at| Instant::now() >= at);
        self.writer.set_size(self.shared.size.load(Ordering::Relaxed));
        let (of_segments, error) = self.writer.tend(retry);
        let health = self.failed.unwrap_or(of_segments);
        match error {
            Some(error) => self.say(health, &error.to_string()),
            None if health == Health::Full && self.health == Health::Good => {
                self.say(health, "the journal has nearly all of the room that it may take");
            }
            None => {}
        }
        self.again = match of_segments {
            Health::Good => None,
            _ if retry || self.again.is_none() => Some(Instant::now() + RETRY),
            _ => self.again,
        };
        if health == Health::Good && self.health != Health::Good {
            self.logged = None;
            tracing::info!("the journal is written again");
        }
        self.health = health;
        self.shared.health.store(health as u8, Ordering::Relaxed);
    }

    fn say(&mut self, health: Health, error: &str) {
        self.tallies.last_error = Some(error.to_owned());
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            let waiting = self.writer.unsynced();
            tracing::error!(
                error,
                ?health,
                waiting_bytes = waiting,
                "the journal cannot be written; it is tried again"
            );
        }
    }

    /// Says how things stand, for metrics and the account of memory.
    fn tell(&mut self) {
        let writer = &self.writer;
        self.held.settle(writer.index.memory() + writer.unsynced() + self.batch.capacity());
        let mut stats = lock(&self.shared.stats);
        let tallies = &self.tallies;
        stats.commits = tallies.commits;
        stats.syncs = tallies.syncs;
        stats.bytes_written = writer.done.bytes_written;
        stats.records = tallies.records;
        stats.live_bytes = writer.index.live();
        stats.total_bytes = writer.total();
        stats.segments = writer.segments();
        stats.compacted_bytes = writer.done.compacted_bytes;
        stats.damaged_places = writer.done.damaged_places;
        stats.damaged_bytes = writer.done.damaged_bytes;
        stats.pending_bytes = if self.shared.durable() < self.taken { writer.unsynced() as u64 } else { 0 };
        stats.sync_seconds = tallies.sync_seconds;
        if stats.last_error != tallies.last_error {
            stats.last_error.clone_from(&tallies.last_error);
        }
    }
}

impl Tallies {
    fn synced(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = SyncSeconds::BOUNDS.iter().position(|bound| seconds <= *bound);
        self.sync_seconds.counts[bucket.unwrap_or(SyncSeconds::BOUNDS.len())] += 1;
        self.sync_seconds.sum += seconds;
        self.syncs += 1;
    }
}
