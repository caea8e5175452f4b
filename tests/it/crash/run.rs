//! One run: clients of every kind, and a broker that is killed again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mqtt_operator::config::broker::{Durability, Storage};
use mqtt_operator::mqtt::{QoS, Version};
use serde_json::Value;
use tokio::task::JoinSet;

use super::process::Process;
use super::publisher::Publisher;
use super::stage::{Kind, Phase, Random, Stage};
use super::subscriber::{Habits, RECEIVE_MAXIMUM, Subscriber};
use super::{retained, wills};
use crate::support::write_etc;

/// The points at which a broker of a debug build can be told to end itself, and at which of their occurrences at most: of
/// each durability, as one syncs each batch and the other twice a second.
const POINTS: [(&str, u64, u64); 4] =
    [("after-write", 60, 60), ("after-sync", 60, 2), ("compacting", 6, 6), ("new-segment", 3, 3)];
/// How long a point is waited for before the process is killed all the same.
const POINT_WITHIN: Duration = Duration::from_millis(1500);
/// So small that segments end and are copied within a run.
const STORAGE: u64 = 16 << 20;
/// Publishers that do not retain, one for each version; those that do.
const PUBLISHERS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const RETAINING: [(usize, Version); 2] = [(3, Version::V311), (4, Version::V5)];
const LOOK: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub kills: u32,
    /// What storage promises: each start takes the next of them.
    pub classes: &'static [Durability],
    /// For what must happen.
    pub patience: Duration,
}

/// What a run has shown.
#[derive(Debug)]
pub struct Outcome {
    pub plan: Plan,
    /// By point and durability; `random` is SIGKILL at a random instant.
    pub kills: BTreeMap<(&'static str, &'static str), u32>,
    pub starts: Vec<Start>,
    pub took: Duration,
    pub found: BTreeMap<Kind, u64>,
    pub words: Vec<String>,
    pub stage: Arc<Stage>,
    pub versions: Vec<Version>,
}

/// One start of the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Start {
    /// Until it listened.
    pub took: Duration,
    /// What the journal says of it: the part of that time in which it was read, and how much there was.
    pub reading: Duration,
    pub records: u64,
    pub segments: u64,
}

struct Run {
    plan: Plan,
    stage: Arc<Stage>,
    random: Random,
    /// The durability that the process has.
    class: Durability,
    /// The point at which it ends itself.
    armed: Option<&'static str>,
    directory: tempfile::TempDir,
    kills: BTreeMap<(&'static str, &'static str), u32>,
    starts: Vec<Start>,
}

fn subscribers() -> Vec<Habits> {
    let steady = |version, qos, receive_maximum| Habits { version, qos, receive_maximum, leaves: false, shares: false };
    let leaving = |version| Habits { leaves: true, ..steady(version, QoS::ExactlyOnce, None) };
    let sharing = |version| Habits { shares: true, ..steady(version, QoS::ExactlyOnce, None) };
    vec![
        steady(Version::V31, QoS::ExactlyOnce, None),
        steady(Version::V311, QoS::ExactlyOnce, None),
        steady(Version::V5, QoS::ExactlyOnce, Some(RECEIVE_MAXIMUM)),
        steady(Version::V5, QoS::AtLeastOnce, None),
        leaving(Version::V311),
        leaving(Version::V5),
        sharing(Version::V311),
        sharing(Version::V5),
    ]
}

pub async fn run(plan: Plan) -> Outcome {
    let begun = Instant::now();
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(PUBLISHERS.len(), RETAINING.len(), plan.patience);
    let random = Random::new(plan.seed, 0);
    let (class, kills, starts) = (plan.classes[0], BTreeMap::new(), Vec::new());
    let mut run = Run { plan, stage, random, class, armed: None, directory, kills, starts };
    let mut process = run.start(None).await;
    let (publishers, mut others) = run.clients(&process).await;
    for kill in 1..=plan.kills {
        process = run.once(process, kill == plan.kills).await;
    }
    run.drain(publishers, &mut process).await;
    run.stage.change(|now| now.phase = Phase::Over);
    others.abort_all();
    while others.join_next().await.is_some() {}
    run.gone(process.kill());
    run.look_for_damage();
    let (found, words) = run.stage.found();
    let versions = PUBLISHERS.into_iter().chain(RETAINING.map(|(_, version)| version)).collect();
    let Run { plan, stage, kills, starts, .. } = run;
    Outcome { plan, kills, starts, took: begun.elapsed(), found, words, stage, versions }
}

impl Run {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the clients: those that receive first, so that everybody has subscribed when the first message leaves.
    async fn clients(&self, process: &Process) -> (JoinSet<()>, JoinSet<()>) {
        let (stage, seed) = (&self.stage, self.plan.seed);
        let (mut publishers, mut others) = (JoinSet::new(), JoinSet::new());
        let habits = subscribers();
        let expected = habits.len() as u32 + 1;
        for (index, habits) in habits.into_iter().enumerate() {
            others.spawn(Subscriber::new(stage, index, habits, seed).live());
        }
        let heard = wills::Heard::default();
        others.spawn(wills::hear(stage.clone(), heard.clone()));
        self.ready(expected, process).await;
        for (index, version) in PUBLISHERS.into_iter().enumerate() {
            publishers.spawn(Publisher::new(stage, index, version, false, seed).live());
        }
        for (index, version) in RETAINING {
            publishers.spawn(Publisher::new(stage, index, version, true, seed).live());
        }
        for (index, version) in [Version::V31, Version::V311, Version::V5].into_iter().enumerate() {
            others.spawn(wills::testate(stage.clone(), index, version, heard.clone(), seed));
            others.spawn(wills::wander(stage.clone(), index, version));
        }
        self.ready(expected + (PUBLISHERS.len() + RETAINING.len()) as u32, process).await;
        (publishers, others)
    }

    async fn ready(&self, clients: u32, process: &Process) {
        let deadline = Instant::now() + self.plan.patience;
        loop {
            let ready = self.stage.ready.load(Ordering::Relaxed);
            if ready >= clients {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{ready} of {clients} clients are ready; the broker: {}",
                process.said()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Starts the broker, armed with a point or not, and says so to the clients.
    async fn start(&mut self, point: Option<(&'static str, u64)>) -> Process {
        let (etc, state) = (self.path("etc"), self.path("state"));
        let durability = self.class;
        write_etc(&etc, |config| config.storage = Some(Storage { durability, size: STORAGE }));
        let crash_at = point.map(|(name, count)| format!("{name}:{count}"));
        let mut started = Process::start(&etc, &state, crash_at.as_deref()).await;
        self.armed = point.map(|(name, _)| name);
        if let (Some(name), Err(_)) = (self.armed, &started) {
            // It reached its point before it served.
            *self.kills.entry((name, self.class.as_str())).or_default() += 1;
            self.armed = None;
            started = Process::start(&etc, &state, None).await;
        }
        let process = started.unwrap_or_else(|error| panic!("the broker does not start again: {}", error.0));
        self.starts.push(Start { took: process.took, ..read_report(&state) });
        self.stage.change(|now| {
            now.address = Some(process.address);
            now.starts += 1;
        });
        process
    }

    /// The end of one process, and the start of the next; the last one is not to end by itself.
    async fn once(&mut self, mut process: Process, last: bool) -> Process {
        let wanted = self.stage.acknowledged();
        let probe = self.probe();
        let by_itself = match self.armed {
            Some(_) => process.ends_within(POINT_WITHIN).await,
            // One time in three it is killed while it still sends again what the last one left.
            None if self.random.once_in(3) => process.ends_within(self.random.millis(0, 150)).await,
            None => {
                self.settle(&wanted, false, &mut process).await;
                let _ = probe.await;
                process.ends_within(self.random.millis(0, 250)).await
            }
        };
        let point = self.armed.filter(|_| by_itself);
        if by_itself && point.is_none() {
            self.stage.find(Kind::Broker, process.ended().unwrap_or_default());
        }
        *self.kills.entry((point.unwrap_or("random"), self.class.as_str())).or_default() += 1;
        self.gone(process.kill());
        self.stage.killed();
        self.stage.change(|now| now.address = None);
        self.class = self.plan.classes[self.starts.len() % self.plan.classes.len()];
        let armed = self.class.is_durable() && self.random.once_in(2) && !last;
        let (name, of_fsync, of_async) = POINTS[self.random.below(POINTS.len() as u64) as usize];
        let count = 1 + self.random.below(if self.class == Durability::Async { of_async } else { of_fsync });
        self.start(armed.then_some((name, count))).await
    }

    fn gone(&self, panicked: Option<String>) {
        if let Some(words) = panicked {
            self.stage.find(Kind::Broker, words);
        }
    }

    /// Looks at what is retained, beside everything else.
    fn probe(&mut self) -> tokio::task::JoinHandle<()> {
        let stage = self.stage.clone();
        let version = *[Version::V31, Version::V311, Version::V5].get(self.random.below(3) as usize).expect("three");
        tokio::spawn(async move {
            let retaining = RETAINING.map(|(index, _)| index);
            let check = retained::check(&stage, &retaining, version);
            let _ = tokio::time::timeout(2 * stage.patience, check).await;
        })
    }

    /// Waits until everybody has what was acknowledged, and what was owed has come again.
    async fn settle(&self, wanted: &[[u32; 3]], all: bool, process: &mut Process) {
        let deadline = Instant::now() + self.plan.patience;
        loop {
            let missing = self.stage.missing(wanted, all);
            if missing.is_empty() || process.ended().is_some() {
                return;
            }
            if Instant::now() > deadline {
                for (kind, words) in missing {
                    self.stage.find(kind, words);
                }
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Nothing new is published; everything that is under way comes to its end, and is looked at for the last time.
    async fn drain(&mut self, mut publishers: JoinSet<()>, process: &mut Process) {
        self.stage.change(|now| now.phase = Phase::Draining);
        let all = async { while publishers.join_next().await.is_some() {} };
        if tokio::time::timeout(self.plan.patience, all).await.is_err() {
            self.stage.find(Kind::Protocol, "publications stay unacknowledged");
        }
        self.settle(&self.stage.acknowledged(), true, process).await;
        let _ = self.probe().await;
    }

    /// A process that is killed damages nothing, whatever it was doing.
    fn look_for_damage(&self) {
        let damaged = self.path("state").join("journal/damaged");
        let found: Vec<_> = std::fs::read_dir(damaged).into_iter().flatten().flatten().map(|it| it.path()).collect();
        if !found.is_empty() {
            self.stage.find(Kind::Broker, format!("damage is reported: {found:?}"));
        }
    }
}

/// What the journal says of the start that was, if it says anything.
fn read_report(state: &Path) -> Start {
    let text = std::fs::read(state.join("journal/report.json")).unwrap_or_default();
    let report: Value = serde_json::from_slice(&text).unwrap_or_default();
    let number = |field: &str| report[field].as_u64().unwrap_or(0);
    let reading = Duration::from_millis(number("milliseconds"));
    Start { took: Duration::ZERO, reading, records: number("records"), segments: number("segments") }
}
