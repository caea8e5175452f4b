//! How many bytes the process holds for its clients, and how near that is to its ceiling.
//!
//! A message counts once, when it is made and when the last of its copies is gone, however many queues share it; queues,
//! buffers, sessions and subscriptions count what they allocate. Threads gather small changes and hand them over in
//! lumps, so that counting is an addition to a number of the thread's own. The account is one for the process, because
//! memory is.
//!
//! The machine gives more than is counted: pieces that were given back lie between others that are in use, and are of use
//! only for what fits them. So of the memory that there is, [`SHARE`] may be held.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

/// Bytes that a thread gathers before it hands them over: how far the account may be off, for each thread.
const LUMP: i64 = 64 * 1024;

/// The part of the memory for clients that may be held, as numerator and denominator. What the process takes of the
/// machine was seen at up to half more than what it holds, where large and small messages come and go.
const SHARE: (u64, u64) = (2, 3);

/// How scarce memory is. Each level does what the one before does, and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    #[default]
    Ample,
    /// Subscribers that are behind get less QoS 0, buffers are kept short, and long queues shrink.
    Short,
    /// New sessions, subscriptions and retained messages are refused.
    Scarce,
    /// Publications of QoS 1 and 2 are refused.
    Exhausted,
}

impl Level {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Ample, Self::Short, Self::Scarce, Self::Exhausted];
    /// Hundredths of what there is at which a level begins.
    const BEGINS: [u64; 4] = [0, 60, 75, 90];

    /// Messages and bytes to which a queue shrinks that may drop.
    pub fn queue(self) -> (usize, usize) {
        match self {
            Self::Ample => (usize::MAX, usize::MAX),
            Self::Short => (4096, 1024 * 1024),
            Self::Scarce | Self::Exhausted => (1024, 256 * 1024),
        }
    }

    /// As in metrics and logs.
    pub fn name(self) -> &'static str {
        ["ample", "short", "scarce", "exhausted"][self as usize]
    }

    fn of(held: u64, most: u64) -> Self {
        let reached = |level: &Self| held >= most / 100 * Self::BEGINS[*level as usize];
        Self::ALL.into_iter().rev().find(reached).unwrap_or_default()
    }
}

/// What is held, and what may be.
#[derive(Debug)]
struct Account {
    held: AtomicI64,
    /// Bytes that may be held.
    most: AtomicU64,
    level: AtomicU8,
}

static ACCOUNT: Account = Account::new();

impl Account {
    const fn new() -> Self {
        Self { held: AtomicI64::new(0), most: AtomicU64::new(u64::MAX), level: AtomicU8::new(0) }
    }

    fn add(&self, bytes: i64) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let level = Level::of(held.max(0) as u64, self.most.load(Ordering::Relaxed)) as u8;
        // Written only when it changes: everyone reads it.
        if level != self.level.load(Ordering::Relaxed) {
            self.level.store(level, Ordering::Relaxed);
        }
    }

    fn level(&self) -> Level {
        Level::ALL[usize::from(self.level.load(Ordering::Relaxed))]
    }
}

/// What a thread has not handed over.
struct Gathered(Cell<i64>);

impl Drop for Gathered {
    fn drop(&mut self) {
        ACCOUNT.add(self.0.get());
    }
}

thread_local! {
    static GATHERED: Gathered = const { Gathered(Cell::new(0)) };
}

/// Counts bytes that are held from now on; fewer than none are given back.
pub fn count(bytes: i64) {
    let gathered = GATHERED.try_with(|gathered| {
        let sum = gathered.0.get() + bytes;
        let whole = sum.abs() >= LUMP;
        gathered.0.set(if whole { 0 } else { sum });
        if whole { sum } else { 0 }
    });
    // A thread that is ending has nothing to gather in.
    match gathered.unwrap_or(bytes) {
        0 => {}
        sum => ACCOUNT.add(sum),
    }
}

/// Sets the ceiling: `ceiling` bytes for the process, of which it uses `already` without any client.
pub fn set_ceiling(ceiling: u64, already: u64) {
    ACCOUNT.most.store(share(ceiling, already), Ordering::Relaxed);
    ACCOUNT.add(0);
}

/// What may be held so that the process stays below its ceiling.
fn share(ceiling: u64, already: u64) -> u64 {
    ceiling.saturating_sub(already) / SHARE.1 * SHARE.0
}

/// How scarce memory is.
pub fn level() -> Level {
    ACCOUNT.level()
}

/// Bytes that are held.
pub fn held() -> u64 {
    ACCOUNT.held.load(Ordering::Relaxed).max(0) as u64
}

/// Bytes that may be held; `None` without a ceiling.
pub fn most() -> Option<u64> {
    Some(ACCOUNT.most.load(Ordering::Relaxed)).filter(|most| *most < u64::MAX)
}

/// Bytes on the account, given back when this is dropped.
#[derive(Debug, Default)]
pub struct Held(usize);

impl Held {
    pub fn new(bytes: usize) -> Self {
        let mut held = Self::default();
        held.settle(bytes);
        held
    }

    /// How many they are.
    pub fn bytes(&self) -> usize {
        self.0
    }

    /// Makes it so many bytes from now on.
    pub fn settle(&mut self, bytes: usize) {
        if bytes != self.0 {
            count(bytes as i64 - self.0 as i64);
            self.0 = bytes;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_begin_at_their_share_of_what_there_is() {
        let account = Account::new();
        assert_eq!(account.level(), Level::Ample);
        account.most.store(1000, Ordering::Relaxed);
        for (bytes, level) in [
            (599, Level::Ample),
            (1, Level::Short),
            (149, Level::Short),
            (1, Level::Scarce),
            (149, Level::Scarce),
            (1, Level::Exhausted),
            (-1, Level::Scarce),
            (-750, Level::Ample),
            (-1000, Level::Ample),
        ] {
            account.add(bytes);
            assert_eq!(account.level(), level, "at {}", account.held.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn two_thirds_of_what_the_process_leaves_may_be_held() {
        assert_eq!([share(96 << 20, 6 << 20), share(100, 100), share(1, 2)], [60 << 20, 0, 0]);
    }

    #[test]
    fn without_a_ceiling_memory_is_ample() {
        let account = Account::new();
        account.add(i64::MAX / 2);
        assert_eq!(account.level(), Level::Ample);
    }

    /// The account of the process is shared with tests that run at the same time, so this one holds far more than they.
    #[test]
    fn what_threads_hold_is_on_the_account_until_they_give_it_back() {
        const MUCH: usize = 1 << 40;
        let held = std::thread::spawn(|| {
            let mut held = Held::new(10);
            held.settle(MUCH);
            held
        });
        let held = held.join().unwrap();
        assert!(super::held() > MUCH as u64 / 2);
        drop(held);
        assert!(super::held() < MUCH as u64 / 2);
    }
}
