//! What all clients of a run share: where the broker is, what has been promised so far, and what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

/// A small generator: what matters is that a seed always gives the same.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// One of several that have nothing to do with each other.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mixed = (seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// One time in so many.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Publishers publish.
    Busy,
    /// What is under way comes to its end.
    Draining,
    Over,
}

/// Where the run is.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Of the broker, while there is one.
    pub address: Option<SocketAddr>,
    pub phase: Phase,
    /// How often the broker has been started.
    pub starts: u32,
}

/// What a broker may be found to have done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An acknowledged message does not come.
    Lost,
    /// A message came twice that may not.
    Doubled,
    Reordered,
    /// A session that was there is not, or one that was ended is.
    Session,
    /// What was unacknowledged did not come again as it must: with DUP, under its identifier, before what is new.
    Redelivery,
    /// A retained value that is neither the last acknowledged one nor a later one.
    Retained,
    Will,
    /// Something else that the protocol does not allow.
    Protocol,
    /// The process ended by itself, or did not start.
    Broker,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Lost,
        Self::Doubled,
        Self::Reordered,
        Self::Session,
        Self::Redelivery,
        Self::Retained,
        Self::Will,
        Self::Protocol,
        Self::Broker,
    ];

    pub fn words(self) -> &'static str {
        match self {
            Self::Lost => "acknowledged messages lost",
            Self::Doubled => "messages doubled that may not be",
            Self::Reordered => "messages out of order",
            Self::Session => "sessions lost, or back after their end",
            Self::Redelivery => "unacknowledged deliveries that came again wrongly or not at all",
            Self::Retained => "wrong retained values",
            Self::Will => "wills that were never published",
            Self::Protocol => "other breaches of the protocol",
            Self::Broker => "ends that nobody asked for",
        }
    }
}

/// Findings, at most so many with words.
const WORDS: usize = 40;

#[derive(Debug, Default)]
struct Found {
    counts: BTreeMap<Kind, u64>,
    words: Vec<String>,
}

/// A numbered message: its publisher, its QoS when it was published, and its place among those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Numbered {
    pub publisher: usize,
    pub qos: usize,
    pub number: u32,
}

/// One publisher's messages of one QoS.
#[derive(Debug, Default)]
pub struct Stream {
    pub sent: AtomicU32,
    /// The highest number that the broker has acknowledged.
    pub acknowledged: AtomicU32,
    /// The highest number that was sent again.
    pub repeated: AtomicU32,
}

/// How far a subscriber is.
#[derive(Debug)]
pub struct Progress {
    pub name: String,
    /// By publisher and QoS: all up to this number have come.
    reached: Vec<[AtomicU32; 3]>,
    /// Deliveries that must come again.
    pub owed: AtomicU32,
    /// Whether it stays connected, as far as that is for it to say.
    pub steady: bool,
    /// Whether each message comes to it alone, not to a group of which it is a member.
    pub alone: bool,
}

impl Progress {
    pub fn reached(&self, publisher: usize, qos: usize) -> u32 {
        self.reached[publisher][qos].load(Ordering::Relaxed)
    }

    pub fn reach(&self, what: Numbered) {
        self.reached[what.publisher][what.qos].store(what.number, Ordering::Relaxed);
    }
}

/// What a group that shares a subscription has got: all up to a number, and some beyond.
#[derive(Debug, Default)]
pub struct Group(Mutex<BTreeMap<(usize, usize), Taken>>);

type Taken = (u32, BTreeSet<u32>);

impl Group {
    /// Whether nobody of the group has had it yet.
    pub fn take(&self, what: Numbered) -> bool {
        let mut streams = self.0.lock().unwrap();
        let (floor, beyond) = streams.entry((what.publisher, what.qos)).or_default();
        if what.number <= *floor || !beyond.insert(what.number) {
            return false;
        }
        while beyond.remove(&(*floor + 1)) {
            *floor += 1;
        }
        true
    }

    pub fn reached(&self, publisher: usize, qos: usize) -> u32 {
        self.0.lock().unwrap().get(&(publisher, qos)).map_or(0, |(floor, _)| *floor)
    }
}

/// Things that are counted and may happen.
#[derive(Debug, Default)]
pub struct Counts {
    pub connections: AtomicU64,
    /// Deliveries by QoS; and those of QoS 1 that came twice, which is allowed.
    pub delivered: [AtomicU64; 3],
    pub doubled: AtomicU64,
    /// Deliveries that came again with DUP because they had to.
    pub redelivered: AtomicU64,
    pub sessions_resumed: AtomicU64,
    pub retained_checked: AtomicU64,
    pub wills: AtomicU64,
    pub sessions_begun: AtomicU64,
}

#[derive(Debug)]
pub struct Stage {
    now: watch::Sender<Now>,
    /// How long what must happen may take.
    pub patience: Duration,
    /// By publisher; those that do not retain come first, and are `plain` many.
    pub streams: Vec<[Stream; 3]>,
    pub plain: usize,
    pub subscribers: Mutex<Vec<Arc<Progress>>>,
    pub group: Group,
    pub counts: Counts,
    /// Clients that are ready for the broker to be killed.
    pub ready: AtomicU32,
    /// What was acknowledged when the broker was killed the last time.
    kept: Mutex<Vec<[u32; 3]>>,
    found: Mutex<Found>,
}

impl Stage {
    pub fn new(plain: usize, retaining: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            now: watch::Sender::new(Now { address: None, phase: Phase::Busy, starts: 0 }),
            patience,
            streams: (0..plain + retaining).map(|_| Default::default()).collect(),
            plain,
            subscribers: Mutex::default(),
            group: Group::default(),
            counts: Counts::default(),
            ready: AtomicU32::new(0),
            kept: Mutex::default(),
            found: Mutex::default(),
        })
    }

    pub fn now(&self) -> Now {
        *self.now.borrow()
    }

    pub fn watch(&self) -> watch::Receiver<Now> {
        self.now.subscribe()
    }

    pub fn change(&self, change: impl FnOnce(&mut Now)) {
        self.now.send_modify(change);
    }

    pub fn stream(&self, what: Numbered) -> &Stream {
        &self.streams[what.publisher][what.qos]
    }

    pub fn join(&self, name: &str, steady: bool, alone: bool) -> Arc<Progress> {
        let reached = self.streams.iter().map(|_| Default::default()).collect();
        let owed = AtomicU32::new(0);
        let progress = Arc::new(Progress { name: name.to_owned(), reached, owed, steady, alone });
        self.subscribers.lock().unwrap().push(progress.clone());
        progress
    }

    pub fn find(&self, kind: Kind, words: impl Into<String>) {
        let mut found = self.found.lock().unwrap();
        *found.counts.entry(kind).or_default() += 1;
        if found.words.len() < WORDS {
            let line = format!("{kind:?} (start {}): {}", self.now().starts, words.into());
            eprintln!("{line}");
            found.words.push(line);
        }
    }

    pub fn found(&self) -> (BTreeMap<Kind, u64>, Vec<String>) {
        let found: MutexGuard<'_, Found> = self.found.lock().unwrap();
        (found.counts.clone(), found.words.clone())
    }

    /// What has been acknowledged until now, by publisher and QoS.
    pub fn acknowledged(&self) -> Vec<[u32; 3]> {
        let of = |stream: &Stream| stream.acknowledged.load(Ordering::Relaxed);
        self.streams.iter().map(|levels| [of(&levels[0]), of(&levels[1]), of(&levels[2])]).collect()
    }

    /// The broker is being killed: only what it has acknowledged until now has to be there again.
    pub fn killed(&self) {
        *self.kept.lock().unwrap() = self.acknowledged();
    }

    /// Whether the broker had to have a message when it was started the last time.
    pub fn had_to_be_kept(&self, what: Numbered) -> bool {
        let kept = self.kept.lock().unwrap();
        kept.get(what.publisher).is_none_or(|levels| what.number <= levels[what.qos])
    }

    /// What somebody still lacks of that; absent ones count only if `all` do.
    pub fn missing(&self, acknowledged: &[[u32; 3]], all: bool) -> Vec<(Kind, String)> {
        let mut missing = Vec::new();
        let subscribers = self.subscribers.lock().unwrap();
        for (publisher, levels) in acknowledged.iter().enumerate().take(self.plain) {
            for (qos, wanted) in levels.iter().enumerate().skip(1) {
                for progress in subscribers.iter().filter(|it| it.alone && (all || it.steady)) {
                    let reached = progress.reached(publisher, qos);
                    if reached < *wanted {
                        let of = format!("of publisher {publisher}, QoS {qos}, {} has {reached}", progress.name);
                        missing.push((Kind::Lost, format!("{of}, {wanted} was acknowledged")));
                    }
                }
                let reached = self.group.reached(publisher, qos);
                if reached < *wanted {
                    let of = format!("of publisher {publisher}, QoS {qos}, the group has all up to {reached}");
                    missing.push((Kind::Lost, format!("{of}, {wanted} was acknowledged")));
                }
            }
        }
        for progress in subscribers.iter().filter(|it| all || it.steady) {
            let owed = progress.owed.load(Ordering::Relaxed);
            if owed > 0 {
                missing.push((Kind::Redelivery, format!("{owed} deliveries have not come again to {}", progress.name)));
            }
        }
        missing
    }
}
