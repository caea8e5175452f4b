//! The threads of a run, and what they share.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use tokio::sync::{Semaphore, watch};
use tokio::task::LocalSet;

use super::flow::Flow;
use super::publisher::{Measured, Publisher};
use super::subscriber::Subscriber;
use super::tally::Tally;
use super::{BenchError, Settings, pacer};

/// How long all clients together may take to connect and subscribe.
const READY: Duration = Duration::from_mins(1);

/// Between the signal and the first message, so that every thread has heard of it.
const HEAD_START: Duration = Duration::from_millis(20);

/// Clients of one thread that connect at a time: a burst of thousands overflows the broker's listen queue.
const CONNECTING: usize = 32;

/// Recorded latencies are kept with three digits up to this many nanoseconds.
const HIGHEST: u64 = 3_600_000_000_000;

/// A monotonic clock that counts from 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    base: Instant,
    base_nanoseconds: u64,
}

impl Clock {
    fn new() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { base: Instant::now(), base_nanoseconds: since_1970.as_nanos() as u64 }
    }

    pub(super) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    pub(super) fn at(&self, instant: Instant) -> u64 {
        self.base_nanoseconds + instant.saturating_duration_since(self.base).as_nanos() as u64
    }
}

/// When messages are sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) start: Instant,
    pub(super) end: Instant,
}

/// What the run is doing.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Connecting,
    Running(Schedule),
    Stopped,
}

/// Counters that every thread adds to, once per read or write.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) published: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) publishers_done: AtomicUsize,
}

/// A look at the counters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) published: u64,
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    pub(super) delivered: u64,
    pub(super) duplicates: u64,
    pub(super) expected: u64,
    pub(super) publishers_done: usize,
}

/// What all threads share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Distinguishes this run from others on the same broker.
    pub(super) run: u32,
    pub(super) clock: Clock,
    /// One per publisher.
    pub(super) flows: Vec<Arc<Flow>>,
    pub(super) counts: Counters,
    /// Connections that failed during the run, and the first reason.
    failures: Mutex<(usize, Option<String>)>,
}

impl Shared {
    pub(super) fn client_id(&self, role: char, index: usize) -> String {
        format!("bench-{:08x}-{role}{index}", self.run)
    }

    fn failed(&self, error: &BenchError) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.0 += 1;
        failures.1.get_or_insert_with(|| match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        });
    }
}

/// A run whose threads are under way.
#[derive(Debug)]
pub(super) struct Run {
    shared: Arc<Shared>,
    settings: Settings,
    phase: watch::Sender<Phase>,
    ready: mpsc::Receiver<Result<(), BenchError>>,
    threads: Vec<JoinHandle<ThreadResult>>,
    pacer: RefCell<Option<JoinHandle<()>>>,
    stop_pacer: Arc<AtomicBool>,
}

/// What a run brought.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) counts: Counts,
    pub(super) result: ThreadResult,
    pub(super) failed_connections: usize,
    pub(super) failure: Option<String>,
}

/// What one thread measured, or several together.
#[derive(Debug)]
pub(super) struct ThreadResult {
    pub(super) latency: Histogram<u64>,
    pub(super) publishers: Measured,
    pub(super) tally: Tally,
    pub(super) missing_of_others: u64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, HIGHEST, 3).expect("the bounds are in order")
}

impl ThreadResult {
    fn new() -> Self {
        let publishers = Measured { acknowledged: histogram(), lateness: histogram() };
        Self { latency: histogram(), publishers, tally: Tally::default(), missing_of_others: 0 }
    }

    fn add(&mut self, other: &Self) {
        let same = "histograms of the same bounds";
        self.latency.add(&other.latency).expect(same);
        self.publishers.acknowledged.add(&other.publishers.acknowledged).expect(same);
        self.publishers.lateness.add(&other.publishers.lateness).expect(same);
        self.tally.add(other.tally);
        self.missing_of_others += other.missing_of_others;
    }
}

/// Starts the threads, which connect and subscribe.
pub(super) fn start(settings: &Settings) -> Result<Run, BenchError> {
    let clock = Clock::new();
    let window = settings.rate.is_none().then_some(settings.inflight);
    let shared = Arc::new(Shared {
        run: (clock.base_nanoseconds / 1_000) as u32 ^ std::process::id().rotate_left(16),
        clock,
        flows: (0..settings.publishers).map(|_| Arc::new(Flow::new(settings.receivers(), window))).collect(),
        counts: Counters::default(),
        failures: Mutex::default(),
    });
    let (phase, watched) = watch::channel(Phase::Connecting);
    let (report, ready) = mpsc::channel();
    let threads = (0..settings.threads)
        .map(|thread| {
            let context = Context {
                thread,
                settings: settings.clone(),
                shared: shared.clone(),
                phase: watched.clone(),
                ready: report.clone(),
            };
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::Runtime)?;
            std::thread::Builder::new()
                .name(format!("bench-{thread}"))
                .spawn(move || LocalSet::new().block_on(&runtime, serve(Rc::new(context))))
                .map_err(BenchError::Runtime)
        })
        .collect::<Result<_, _>>()?;
    Ok(Run {
        shared,
        settings: settings.clone(),
        phase,
        ready,
        threads,
        pacer: RefCell::new(None),
        stop_pacer: Arc::default(),
    })
}

impl Run {
    /// Waits until every client is connected and subscribed.
    pub(super) fn await_ready(&self) -> Result<(), BenchError> {
        let wanted = self.settings.publishers + self.settings.subscribers;
        let deadline = Instant::now() + READY;
        for ready in 0..wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.ready.recv_timeout(left) {
                Ok(client) => client?,
                Err(_) => return Err(BenchError::NotReady { ready, wanted, seconds: READY.as_secs() }),
            }
        }
        Ok(())
    }

    /// Begins to publish.
    pub(super) fn begin(&self) -> Instant {
        let start = Instant::now() + HEAD_START;
        let schedule = Schedule { start, end: start + self.settings.duration };
        if let (Some(rate), true) = (self.settings.rate, self.settings.publishers > 0) {
            let (shared, duration) = (self.shared.clone(), self.settings.duration);
            let stop = self.stop_pacer.clone();
            let pace = move || pacer::pace(&shared.flows, rate, start, duration, &stop);
            *self.pacer.borrow_mut() = Some(std::thread::spawn(pace));
        }
        self.phase.send_replace(Phase::Running(schedule));
        start
    }

    pub(super) fn counts(&self) -> Counts {
        let counts = &self.shared.counts;
        let published = counts.published.load(Ordering::Relaxed);
        Counts {
            published,
            acknowledged: counts.acknowledged.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
            delivered: counts.delivered.load(Ordering::Relaxed),
            duplicates: counts.duplicates.load(Ordering::Relaxed),
            expected: published * self.settings.receivers() as u64,
            publishers_done: counts.publishers_done.load(Ordering::Relaxed),
        }
    }

    /// Ends every client and collects what was measured.
    pub(super) fn stop(mut self) -> Outcome {
        self.halt();
        let mut result = ThreadResult::new();
        for thread in std::mem::take(&mut self.threads) {
            match thread.join() {
                Ok(measured) => result.add(&measured),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let counts = self.counts();
        let failures = self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
        Outcome { counts, result, failed_connections: failures.0, failure: failures.1.clone() }
    }

    fn halt(&self) {
        self.stop_pacer.store(true, Ordering::Relaxed);
        self.phase.send_replace(Phase::Stopped);
        if let Some(pacer) = self.pacer.borrow_mut().take() {
            let _ = pacer.join();
        }
    }
}

/// A run that failed before its end leaves no thread behind.
impl Drop for Run {
    fn drop(&mut self) {
        self.halt();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What one thread knows.
struct Context {
    thread: usize,
    settings: Settings,
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
    ready: mpsc::Sender<Result<(), BenchError>>,
}

impl Context {
    /// The clients of this thread: a publisher and the subscriber of the same number share one.
    fn share(&self, clients: usize) -> impl Iterator<Item = usize> + use<> {
        (self.thread..clients).step_by(self.settings.threads)
    }

    async fn schedule(&self) -> Option<Schedule> {
        let mut phase = self.phase.clone();
        let decided = phase.wait_for(|phase| !matches!(phase, Phase::Connecting)).await.ok()?;
        if let Phase::Running(schedule) = *decided { Some(schedule) } else { None }
    }

    async fn stopped(&self) {
        let mut phase = self.phase.clone();
        let _ = phase.wait_for(|phase| matches!(phase, Phase::Stopped)).await;
    }

    /// Reports a client as ready, or why it is not.
    fn report<T>(&self, opened: Result<T, BenchError>) -> Option<T> {
        let (client, report) = match opened {
            Ok(client) => (Some(client), Ok(())),
            Err(error) => (None, Err(error)),
        };
        // The run has failed already when nobody listens.
        let _ = self.ready.send(report);
        client
    }
}

/// The work of one thread: all its clients, until the run stops.
async fn serve(context: Rc<Context>) -> ThreadResult {
    let measured = Rc::new(RefCell::new(Measured { acknowledged: histogram(), lateness: histogram() }));
    let latency = Rc::new(RefCell::new(histogram()));
    let result = Rc::new(RefCell::new(ThreadResult::new()));
    let connecting = Rc::new(Semaphore::new(CONNECTING));
    let mut clients = Vec::new();
    for index in context.share(context.settings.subscribers) {
        let (context, latency) = (context.clone(), latency.clone());
        let (result, connecting) = (result.clone(), connecting.clone());
        clients.push(tokio::task::spawn_local(async move {
            let permit = connecting.acquire().await;
            let opened = Subscriber::open(index, &context.settings, &context.shared).await;
            drop(permit);
            let Some(mut subscriber) = context.report(opened) else { return };
            tokio::select! {
                Err(error) = subscriber.run(&context.settings, &context.shared, &latency) => context.shared.failed(&error),
                () = context.stopped() => {}
            }
            let received = subscriber.close().await;
            let mut result = result.borrow_mut();
            result.tally.add(received.tally);
            result.missing_of_others += received.missing_of_others();
        }));
    }
    for index in context.share(context.settings.publishers) {
        let (context, measured, connecting) = (context.clone(), measured.clone(), connecting.clone());
        clients.push(tokio::task::spawn_local(async move {
            let permit = connecting.acquire().await;
            let opened = Publisher::open(index, &context.settings, &context.shared).await;
            drop(permit);
            let Some(mut publisher) = context.report(opened) else { return };
            let Some(schedule) = context.schedule().await else { return };
            tokio::select! {
                Err(error) = publisher.run(&context.settings, &context.shared, schedule, &measured) => {
                    context.shared.failed(&error);
                }
                () = context.stopped() => {}
            }
            publisher.close().await;
        }));
    }
    for client in clients {
        if let Err(error) = client.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    let mut result = result.replace(ThreadResult::new());
    result.latency = latency.replace(histogram());
    result.publishers = measured.replace(Measured { acknowledged: histogram(), lateness: histogram() });
    result
}
