//! The load generator behind `mqttctl bench`. May name `mqtt`, `client`, `auth`.
//!
//! Promises: every message carries its sequence number and the time it was meant to be sent, so loss, duplicates and
//! changed order are counted and percentiles are free of coordinated omission; the generator costs less than the broker
//! (plain sockets, many messages per write and read). Its own share is in the report, to be checked.
//!
//! A run: everybody connects and subscribes, then publishers send for the duration, then it waits until all has arrived
//! or nothing has for five seconds.

mod connection;
mod flow;
mod pacer;
mod payload;
mod publisher;
mod report;
mod subscriber;
mod tally;
mod usage;
mod worker;

use std::time::{Duration, Instant};

pub use payload::MINIMUM_SIZE;
pub use report::{Latency, Report, Usage};

use crate::mqtt::{QoS, ReasonCode, Version, Violation};

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Publishers only.
    Publish,
    /// Subscribers only, to messages of another run with the same prefix.
    Subscribe,
    /// Every subscriber gets the messages of all publishers: N → 1.
    FanIn,
    /// The same with the numbers the other way round: 1 → N.
    FanOut,
    /// Each publisher has a subscriber of its own.
    Pairs,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Settings {
    pub host: String,
    pub port: u16,
    pub scenario: Scenario,
    pub publishers: usize,
    /// In [`Scenario::Pairs`] as many as `publishers`.
    pub subscribers: usize,
    pub qos: QoS,
    /// Bytes of payload, at least [`MINIMUM_SIZE`].
    pub size: usize,
    /// Messages per second of all publishers together; `None` is as fast as the window allows.
    pub rate: Option<f64>,
    pub duration: Duration,
    /// Topics per publisher, used in turn.
    pub topics: usize,
    /// Messages of one publisher that are under way: unacknowledged, and without a rate also not yet delivered.
    pub inflight: u16,
    pub version: Version,
    pub username: Option<String>,
    /// A password or a token.
    pub password: Option<String>,
    /// Subscribers have sessions that outlive their connections.
    pub persistent: bool,
    /// First level or levels of every topic.
    pub prefix: String,
    /// The process whose CPU time and memory are measured.
    pub broker_pid: Option<u32>,
    pub threads: usize,
    /// How long to wait for what does not arrive.
    pub patience: Duration,
}

impl Settings {
    /// A run of one publisher and one subscriber against a broker on this machine; the rest as fields.
    pub fn new(scenario: Scenario, port: u16) -> Self {
        let (publishers, subscribers) = match scenario {
            Scenario::Publish => (1, 0),
            Scenario::Subscribe => (0, 1),
            Scenario::FanIn | Scenario::FanOut | Scenario::Pairs => (1, 1),
        };
        Self {
            host: "127.0.0.1".to_owned(),
            port,
            scenario,
            publishers,
            subscribers,
            qos: QoS::AtMostOnce,
            size: 100,
            rate: None,
            duration: Duration::from_secs(10),
            topics: 1,
            inflight: 100,
            version: Version::V311,
            username: None,
            password: None,
            persistent: false,
            prefix: "bench".to_owned(),
            broker_pid: None,
            threads: 1,
            patience: Duration::from_secs(5),
        }
    }

    fn validate(&self) -> Result<(), BenchError> {
        let wrong = |text: &str| Err(BenchError::Settings(text.to_owned()));
        if self.size < MINIMUM_SIZE {
            return Err(BenchError::Settings(format!("the payload needs {MINIMUM_SIZE} bytes for its stamp")));
        }
        if self.publishers + self.subscribers == 0 {
            return wrong("neither publishers nor subscribers");
        }
        if self.scenario == Scenario::Pairs && self.publishers != self.subscribers {
            return wrong("pairs need as many subscribers as publishers");
        }
        if self.topics == 0 || self.inflight == 0 || self.threads == 0 {
            return wrong("topics, in-flight window and threads are at least 1");
        }
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
            return wrong("the rate is above 0");
        }
        if crate::mqtt::topic::check_name(&self.prefix).is_err() {
            return wrong("the prefix is no topic name");
        }
        Ok(())
    }

    /// Subscribers that get a message of one publisher.
    fn receivers(&self) -> usize {
        match self.scenario {
            Scenario::Publish | Scenario::Subscribe => 0,
            Scenario::FanIn | Scenario::FanOut => self.subscribers,
            Scenario::Pairs => 1,
        }
    }

    fn topic(&self, publisher: usize, topic: usize) -> String {
        format!("{}/{publisher}/{topic}", self.prefix)
    }

    /// What subscriber `index` subscribes to: an exact topic where there is only one.
    fn filter(&self, index: usize) -> String {
        match self.scenario {
            Scenario::Pairs if self.topics == 1 => self.topic(index, 0),
            Scenario::Pairs => format!("{}/{index}/+", self.prefix),
            Scenario::FanIn | Scenario::FanOut if self.publishers * self.topics == 1 => self.topic(0, 0),
            _ => format!("{}/#", self.prefix),
        }
    }
}

/// Why a run could not be made. What happens to messages during a run is in the report instead.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{0}")]
    Settings(String),
    #[error("start a runtime")]
    Runtime(#[source] std::io::Error),
    #[error("connect to {address}")]
    Connect { address: String, source: std::io::Error },
    #[error("the broker refused the connection: {0}")]
    Refused(ReasonCode),
    #[error("the broker refused the subscription to {filter}: {code}")]
    SubscriptionRefused { filter: String, code: ReasonCode },
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker disconnected: {0}")]
    Disconnected(ReasonCode),
    #[error("the broker sent an unexpected {0}")]
    Unexpected(&'static str),
    #[error("the broker broke the protocol")]
    Protocol(#[source] Violation),
    #[error("the connection failed")]
    Socket(#[source] std::io::Error),
    #[error("only {ready} of {wanted} clients were connected and subscribed in {seconds} s")]
    NotReady { ready: usize, wanted: usize, seconds: u64 },
    #[error("read {path}")]
    ReadUsage { path: String, source: std::io::Error },
    #[error("{path} has an unknown form")]
    ParseUsage { path: String },
}

/// A look at a run under way.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Since publishing began.
    pub elapsed: Duration,
    pub published: u64,
    /// Deliveries, duplicates not counted.
    pub delivered: u64,
    /// Deliveries that the published messages should bring.
    pub expected: u64,
    /// The share of one core that the broker took since the last look.
    pub broker_cpu: Option<f64>,
}

/// Makes a run; calls `progress` each second.
pub fn run(settings: &Settings, mut progress: impl FnMut(Progress)) -> Result<Report, BenchError> {
    settings.validate()?;
    let before_connect = usage::sample(settings.broker_pid)?;
    let run = worker::start(settings)?;
    run.await_ready()?;
    let before = usage::sample(settings.broker_pid)?;
    let start = run.begin();
    let watched = watch(&run, settings, start, before, &mut progress);
    let after = watched.and_then(|finished| Ok((finished, usage::sample(settings.broker_pid)?)));
    let outcome = run.stop();
    let (finished, after) = after?;
    let samples = report::Samples { before_connect, before, after };
    Ok(report::build(settings, outcome, &samples, finished.duration_since(start)))
}

const LOOK: Duration = Duration::from_millis(10);

/// Follows the run to its end; returns when the last message arrived, or was acknowledged where nobody subscribes.
fn watch(
    run: &worker::Run,
    settings: &Settings,
    start: Instant,
    mut last_usage: usage::Sample,
    progress: &mut impl FnMut(Progress),
) -> Result<Instant, BenchError> {
    let end = start + settings.duration;
    let (mut last_sum, mut last_change) = (0, start);
    let mut next_line = start + Duration::from_secs(1);
    loop {
        std::thread::sleep(LOOK);
        let now = Instant::now();
        let counts = run.counts();
        let sum = counts.published + counts.acknowledged + counts.delivered + counts.duplicates;
        if sum != last_sum {
            (last_sum, last_change) = (sum, now);
        }
        if now >= next_line {
            let current = usage::sample(settings.broker_pid)?;
            progress(Progress {
                elapsed: now - start,
                published: counts.published,
                delivered: counts.delivered,
                expected: counts.expected,
                broker_cpu: current.broker_cpu_since(&last_usage),
            });
            last_usage = current;
            next_line += Duration::from_secs(1);
        }
        if now < end {
            continue;
        }
        let all_arrived = counts.publishers_done == settings.publishers && counts.delivered >= counts.expected;
        let given_up = now.duration_since(last_change) >= settings.patience;
        let only_listening = settings.scenario == Scenario::Subscribe;
        if all_arrived || given_up || only_listening {
            return Ok(last_change.max(start + LOOK));
        }
    }
}
