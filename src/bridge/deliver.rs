//! A batch into the sink, however long that takes: until every document of it is accepted or a dead letter.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::backoff::Backoff;
use super::batch::{Batch, Entry, write_action};
use super::counters::Counters;
use super::document::{Rejection, Source, TRUNCATED, write_dead_letter};
use super::elasticsearch::{Elasticsearch, Failure};
use super::file::FileSink;
use super::outcome::{Answer, Item};
use crate::client::Client;
use crate::config::bridge;
use crate::config::files::Etc;
use crate::config::report::BridgeState;

/// Requests that are under way at a time, at most.
const CONCURRENCY: usize = 4;

/// Bytes of a request, and of the smallest one that is chosen when a server is short of memory.
const LARGEST_BODY: usize = 4 * 1024 * 1024;
const SMALLEST_BODY: usize = 16 * 1024;

/// Where documents go.
#[derive(Debug)]
pub enum Sink {
    Elasticsearch(Box<Cluster>),
    File(FileSink),
}

/// An Elasticsearch, and what has been learned about it.
#[derive(Debug)]
pub struct Cluster {
    elasticsearch: Elasticsearch,
    /// The data stream of the documents.
    stream: String,
    /// Whether the templates are there, as far as we know.
    prepared: Mutex<bool>,
    /// Halved when it answers 429, one more after each success.
    concurrency: AtomicUsize,
    /// Bytes of a request: halved when it answers 413 or 429, a little more after each success.
    body_limit: AtomicUsize,
    /// What it has never taken, by 413.
    too_large: AtomicUsize,
}

impl Sink {
    /// The sink that the configuration names. Connects to nothing yet.
    pub fn new(config: &bridge::Bridge, etc: &Etc) -> Self {
        match &config.sink {
            bridge::Sink::Elasticsearch(settings) => Self::Elasticsearch(Box::new(Cluster {
                elasticsearch: Elasticsearch::new(settings, etc),
                stream: config.data_stream.clone(),
                prepared: Mutex::new(false),
                concurrency: AtomicUsize::new(2),
                body_limit: AtomicUsize::new(LARGEST_BODY),
                too_large: AtomicUsize::new(usize::MAX),
            })),
            bridge::Sink::File { directory } => Self::File(FileSink::new(directory, &config.data_stream)),
        }
    }

    /// Batches that may be under way at a time.
    pub fn concurrency(&self) -> usize {
        match self {
            Self::Elasticsearch(cluster) => cluster.concurrency.load(Ordering::Relaxed),
            Self::File(_) => 1,
        }
    }

    /// Bytes that a batch may have.
    pub fn body_limit(&self) -> usize {
        match self {
            Self::Elasticsearch(cluster) => cluster.body_limit.load(Ordering::Relaxed),
            Self::File(_) => LARGEST_BODY,
        }
    }

    /// Makes the sink ready, or says what is in the way and tries again.
    pub async fn prepare(&self, counters: &Counters) {
        match self {
            Self::Elasticsearch(cluster) => cluster.prepare(counters, true).await,
            Self::File(_) => counters.set_connected(),
        }
    }
}

/// What a delivery needs beside its batch.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    pub sink: &'a Sink,
    pub source: &'a Source,
    pub counters: &'a Counters,
    pub client: &'a Client,
}

/// Delivers a batch and acknowledges its messages.
pub async fn deliver(way: Way<'_>, batch: Batch) {
    match way.sink {
        Sink::Elasticsearch(cluster) => into_elasticsearch(way, cluster, &batch).await,
        Sink::File(file) => into_file(way, file, &batch).await,
    }
    // A message that was retained is as old as it is: nobody lags because of it.
    let newest = batch.entries.iter().rev().find(|entry| !entry.delivery.message.retain);
    if let Some(entry) = newest {
        way.counters.set_lag(entry.circumstances.published, Timestamp::now());
    }
}

async fn into_file(way: Way<'_>, file: &FileSink, batch: &Batch) {
    let mut backoff = Backoff::default();
    loop {
        let lines = batch.lines();
        observe_size(way.counters, lines.len());
        let started = Instant::now();
        match file.append(lines).await {
            Ok(()) => break,
            Err(error) => {
                let message = format!("cannot write {}: {error}", file.path().display());
                report(way.counters, BridgeState::Unreachable, &message);
                sleep(backoff.next(random(), None)).await;
            }
        }
        way.counters.request_seconds.observe(started.elapsed().as_secs_f64());
    }
    way.counters.set_connected();
    for entry in &batch.entries {
        way.counters.indexed.inc();
        acknowledge(way, entry);
    }
}

async fn into_elasticsearch(way: Way<'_>, cluster: &Cluster, batch: &Batch) {
    let all = (0..batch.entries.len()).collect();
    let stream = &way.source.data_stream.name;
    let rejected = cluster.push(way, batch, stream, all, |places| batch.bulk(places)).await;
    if let Some((_, first)) = rejected.first() {
        let (count, reason) = (rejected.len(), format!("{}: {}", first.kind, first.reason));
        tracing::warn!(count, status = first.status, reason, "documents rejected by Elasticsearch become dead letters");
        way.counters.set_rejection(reason);
        bury(way, cluster, batch, rejected).await;
    }
}

/// Writes the dead letters of what was rejected.
async fn bury(way: Way<'_>, cluster: &Cluster, batch: &Batch, rejected: Vec<(usize, Rejection)>) {
    let mut backoff = Backoff::default();
    let mut open: Vec<usize> = rejected.iter().map(|(place, _)| *place).collect();
    // A letter that is refused for its size goes again with the beginning of its payload, at last without any.
    let mut limit = usize::MAX;
    loop {
        let stream = &way.source.dead_letters.name;
        let body = |places: &[usize]| dead_letters(way, batch, &rejected, places, limit);
        let refused = cluster.push(way, batch, stream, open, body).await;
        let Some((_, first)) = refused.first() else { return };
        if limit == 0 {
            // Nothing in a dead letter is indexed in a way that could be refused: somebody has to look at the stream.
            let message = format!("{stream} refuses dead letters: {}: {}", first.kind, first.reason);
            report(way.counters, BridgeState::Rejecting, &message);
            sleep(backoff.next_slow(random())).await;
        }
        limit = if limit == usize::MAX { TRUNCATED } else { 0 };
        open = refused.into_iter().map(|(place, _)| place).collect();
    }
}

fn dead_letters(way: Way<'_>, batch: &Batch, all: &[(usize, Rejection)], places: &[usize], limit: usize) -> Bytes {
    let mut body = Vec::new();
    for (place, rejection) in all.iter().filter(|(place, _)| places.contains(place)) {
        let entry = &batch.entries[*place];
        write_action(&mut body, &entry.circumstances.id);
        write_dead_letter(&mut body, &entry.delivery, way.source, &entry.circumstances, rejection, limit);
        body.push(b'\n');
    }
    body.into()
}

/// What one round of requests left over.
#[derive(Default)]
struct Round {
    later: Vec<usize>,
    rejected: Vec<(usize, Rejection)>,
    /// The longest wait that is called for, if any.
    wait: Option<Wait>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wait {
    Retry(Option<Duration>),
    Slowly,
}

impl Cluster {
    /// Sends the documents at these places until the stream has accepted or rejected each; returns the rejected ones.
    /// An accepted one is acknowledged at once.
    async fn push(
        &self,
        way: Way<'_>,
        batch: &Batch,
        stream: &str,
        places: Vec<usize>,
        body: impl Fn(&[usize]) -> Bytes,
    ) -> Vec<(usize, Rejection)> {
        let dead = stream == way.source.dead_letters.name;
        let mut backoff = Backoff::default();
        let (mut open, mut rejected) = (places, Vec::new());
        let mut at_a_time = open.len();
        while !open.is_empty() {
            self.prepare(way.counters, false).await;
            let mut round = Round::default();
            let mut rest = open.as_slice();
            while !rest.is_empty() && !matches!(round.wait, Some(Wait::Slowly | Wait::Retry(_))) {
                let (part, behind) = rest.split_at(at_a_time.clamp(1, rest.len()));
                rest = behind;
                match self.request(way.counters, stream, body(part), part.len()).await {
                    Ok(written) => {
                        for (&place, written) in part.iter().zip(written) {
                            self.settle(way, &batch.entries[place], (place, written), dead, &mut round);
                        }
                    }
                    Err(failure) => at_a_time = self.failed(way.counters, &failure, part, at_a_time, &mut round).await,
                }
            }
            way.counters.retried.inc_by(round.later.len() as u64);
            round.later.extend_from_slice(rest);
            rejected.append(&mut round.rejected);
            open = round.later;
            if let Some(wait) = round.wait {
                sleep(match wait {
                    Wait::Retry(asked) => backoff.next(random(), asked),
                    Wait::Slowly => backoff.next_slow(random()),
                })
                .await;
            }
        }
        rejected
    }

    async fn request(
        &self,
        counters: &Counters,
        stream: &str,
        body: Bytes,
        documents: usize,
    ) -> Result<Vec<super::elasticsearch::Written>, Failure> {
        observe_size(counters, body.len());
        let size = body.len();
        let started = Instant::now();
        let result = self.elasticsearch.bulk(stream, body, documents).await;
        counters.request_seconds.observe(started.elapsed().as_secs_f64());
        match &result {
            Ok(_) => {
                counters.set_connected();
                self.speed_up();
            }
            Err(Failure::Refused { status: 413, .. }) => {
                self.too_large.fetch_min(size, Ordering::Relaxed);
                self.body_limit.fetch_min((size / 2).max(SMALLEST_BODY), Ordering::Relaxed);
            }
            Err(Failure::Refused { status: 429, .. }) => self.slow_down(),
            Err(_) => {}
        }
        result
    }

    // The requests of a bridge are all made by one task: loading and storing apart loses nothing.

    fn slow_down(&self) {
        let concurrency = self.concurrency.load(Ordering::Relaxed);
        self.concurrency.store((concurrency / 2).max(1), Ordering::Relaxed);
        let limit = self.body_limit.load(Ordering::Relaxed);
        self.body_limit.store((limit / 2).max(SMALLEST_BODY), Ordering::Relaxed);
    }

    fn speed_up(&self) {
        let concurrency = self.concurrency.load(Ordering::Relaxed);
        self.concurrency.store((concurrency + 1).min(CONCURRENCY), Ordering::Relaxed);
        let limit = self.body_limit.load(Ordering::Relaxed);
        let most = LARGEST_BODY.min(self.too_large.load(Ordering::Relaxed) / 2).max(SMALLEST_BODY);
        self.body_limit.store((limit + limit / 8).min(most), Ordering::Relaxed);
    }

    /// Counts and acknowledges what was accepted, and puts the rest where it belongs.
    fn settle(
        &self,
        way: Way<'_>,
        entry: &Entry,
        (place, written): (usize, super::elasticsearch::Written),
        dead: bool,
        round: &mut Round,
    ) {
        match written.item {
            Item::Indexed | Item::Deduplicated | Item::FailureStore => {
                match written.item {
                    Item::FailureStore => &way.counters.dead_lettered,
                    _ if dead => &way.counters.dead_lettered,
                    Item::Deduplicated => &way.counters.deduplicated,
                    _ => &way.counters.indexed,
                }
                .inc();
                acknowledge(way, entry);
            }
            Item::Rejected => {
                let rejection = Rejection { status: written.status, kind: written.kind, reason: written.reason };
                round.rejected.push((place, rejection));
            }
            Item::Retry => {
                self.slow_down();
                round.later.push(place);
                round.wait = round.wait.max(Some(Wait::Retry(None)));
            }
            Item::RetrySlowly => {
                // A 403 may also be a block on writing, which other rights do not lift.
                let rights = written.status == 401 || written.kind == "security_exception";
                let state = if rights { BridgeState::Unauthorized } else { BridgeState::Rejecting };
                report(way.counters, state, &format!("{}: {}", written.kind, written.reason));
                round.later.push(place);
                round.wait = round.wait.max(Some(Wait::Slowly));
            }
        }
    }

    /// A request without an outcome for its documents. Returns how many the next one may carry.
    async fn failed(
        &self,
        counters: &Counters,
        failure: &Failure,
        part: &[usize],
        at_a_time: usize,
        round: &mut Round,
    ) -> usize {
        let answer = failure.answer();
        if answer == Answer::Split {
            if let [alone] = part {
                let status = if let Failure::Refused { status, .. } = failure { *status } else { 0 };
                let kind = if status == 413 { "request_entity_too_large" } else { "request_refused" };
                let rejection = Rejection { status, kind: kind.to_owned(), reason: failure.to_string() };
                round.rejected.push((*alone, rejection));
                return at_a_time;
            }
            round.later.extend_from_slice(part);
            return part.len() / 2;
        }
        self.problem(counters, failure).await;
        round.later.extend_from_slice(part);
        let wait = match answer {
            Answer::Retry => Wait::Retry(failure.retry_after()),
            _ => Wait::Slowly,
        };
        round.wait = round.wait.max(Some(wait));
        // Short of memory: a request that is too much for it today must not stay as large as it is for ever.
        if matches!(failure, Failure::Refused { status: 429, .. }) { (part.len() / 2).max(1) } else { at_a_time }
    }

    async fn problem(&self, counters: &Counters, failure: &Failure) {
        let state = match failure.answer() {
            Answer::Unauthorized => BridgeState::Unauthorized,
            _ => BridgeState::Unreachable,
        };
        report(counters, state, &chain(failure));
        // What comes back may be another cluster: look for the templates again.
        if !matches!(failure, Failure::Refused { status: 429, .. }) {
            *self.prepared.lock().await = false;
        }
    }

    /// Returns when the templates are there. `again`: looks even if they were.
    async fn prepare(&self, counters: &Counters, again: bool) {
        let mut backoff = Backoff::default();
        let mut look = again;
        loop {
            // One looks, the others wait for it.
            let mut prepared = self.prepared.lock().await;
            if *prepared && !look {
                return;
            }
            match self.elasticsearch.bootstrap(&self.stream).await {
                Ok(()) => {
                    *prepared = true;
                    counters.set_connected();
                    return;
                }
                Err(failure) => {
                    drop(prepared);
                    self.problem(counters, &failure).await;
                    look = true;
                    let wait = match failure.answer() {
                        Answer::Retry => backoff.next(random(), failure.retry_after()),
                        _ => backoff.next_slow(random()),
                    };
                    sleep(wait).await;
                }
            }
        }
    }
}

fn acknowledge(way: Way<'_>, entry: &Entry) {
    way.counters.in_flight.dec();
    // When the connection has ended, the message comes again, and its document is recognised.
    let _ = way.client.acknowledge(&entry.delivery);
}

/// Into the report, and into the log when it is news.
fn report(counters: &Counters, state: BridgeState, message: &str) {
    if counters.set_sink_problem(state, message) {
        tracing::warn!(?state, message, "telemetry waits");
    }
}

/// The error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}

fn observe_size(counters: &Counters, bytes: usize) {
    counters.request_bytes.observe(bytes as f64);
}

/// For jitter alone.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
