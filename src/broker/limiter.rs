//! How many lines the log takes. Pure: the time is an argument.
//!
//! Each kind of line has a rate of its own, so that a flood of one never hides the others, and within it each client has
//! one too, so that a single noisy client never hides the rest. What is left out is counted, and told in the end.

use std::collections::HashMap;

/// What a line is about; lines of one kind share a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Connected,
    Disconnected,
    /// There was no connection: wrong credentials, limits, a handshake that failed.
    Refused,
    /// A publication, subscription or will that no rule allows.
    Denied,
    /// What a client sent broke a rule of the protocol.
    Violation,
    /// Something was refused or dropped because of a limit.
    Limited,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Connected, Self::Disconnected, Self::Refused, Self::Denied, Self::Violation, Self::Limited];

    /// The kind in words, for the line that tells what was left out.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::Violation => "violation",
            Self::Limited => "limited",
        }
    }
}

/// Lines at once, and lines a second in the long run, of each kind.
const KIND: Rate = Rate { burst: 200, per_second: 20 };
/// The same for each client within its kind.
const CLIENT: Rate = Rate { burst: 10, per_second: 1 };
/// Clients that are told apart at a time; beyond that only the rate of the kind holds.
const CLIENTS: usize = 4096;
/// Milliseconds between two looks for clients that have been silent long enough to be forgotten.
const FORGET_EVERY: u64 = 1000;

#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u64,
    per_second: u64,
}

/// A token bucket, counted in thousandths of a line.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u64,
    at: u64,
}

impl Bucket {
    fn full(rate: Rate, now: u64) -> Self {
        Self { left: rate.burst * 1000, at: now }
    }

    fn refill(&mut self, rate: Rate, now: u64) {
        // A thousandth of a line a millisecond is a line a second.
        let gained = now.saturating_sub(self.at).saturating_mul(rate.per_second);
        self.left = self.left.saturating_add(gained).min(rate.burst * 1000);
        self.at = self.at.max(now);
    }

    fn has_one(&self) -> bool {
        self.left >= 1000
    }

    fn is_full(&self, rate: Rate) -> bool {
        self.left >= rate.burst * 1000
    }
}

/// Decides which lines are written.
#[derive(Debug)]
pub struct Limiter {
    kinds: [Bucket; Kind::ALL.len()],
    clients: HashMap<(u8, u64), Bucket>,
    suppressed: [u64; Kind::ALL.len()],
    forgot_at: u64,
}

impl Limiter {
    /// A limiter that lets a first burst through.
    pub fn new(now: u64) -> Self {
        Self {
            kinds: [Bucket::full(KIND, now); Kind::ALL.len()],
            clients: HashMap::new(),
            suppressed: [0; Kind::ALL.len()],
            forgot_at: now,
        }
    }

    /// Whether a line of this kind about this client (a hash of its id or address) may be written at `now`, in
    /// milliseconds. A line that may not is counted.
    pub fn admits(&mut self, kind: Kind, client: u64, now: u64) -> bool {
        let at = kind as usize;
        self.kinds[at].refill(KIND, now);
        let mut admitted = self.kinds[at].has_one();
        if let Some(bucket) = self.client(kind, client, now) {
            bucket.refill(CLIENT, now);
            admitted &= bucket.has_one();
            if admitted {
                bucket.left -= 1000;
            }
        }
        if admitted {
            self.kinds[at].left -= 1000;
        } else {
            self.suppressed[at] += 1;
        }
        admitted
    }

    fn client(&mut self, kind: Kind, client: u64, now: u64) -> Option<&mut Bucket> {
        let key = (kind as u8, client);
        if self.clients.len() >= CLIENTS && !self.clients.contains_key(&key) {
            if now.saturating_sub(self.forgot_at) < FORGET_EVERY {
                return None;
            }
            self.forgot_at = now;
            self.clients.retain(|_, bucket| {
                bucket.refill(CLIENT, now);
                !bucket.is_full(CLIENT)
            });
            if self.clients.len() >= CLIENTS {
                return None;
            }
        }
        Some(self.clients.entry(key).or_insert_with(|| Bucket::full(CLIENT, now)))
    }

    /// How many lines of each kind were left out since the last call; kinds without any are not among them.
    pub fn take_suppressed(&mut self) -> Vec<(Kind, u64)> {
        let counts = std::mem::take(&mut self.suppressed);
        Kind::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(limiter: &mut Limiter, kind: Kind, clients: impl Iterator<Item = u64>, now: u64) -> usize {
        clients.filter(|client| limiter.admits(kind, *client, now)).count()
    }

    #[test]
    fn a_noisy_client_is_cut_short_and_others_are_still_told_about() {
        let mut limiter = Limiter::new(0);
        assert_eq!(admitted(&mut limiter, Kind::Denied, [1; 50].into_iter(), 0), 10);
        assert!(limiter.admits(Kind::Denied, 2, 0));
        assert!(limiter.admits(Kind::Refused, 1, 0), "another kind has a rate of its own");
        assert_eq!(limiter.take_suppressed(), [(Kind::Denied, 40)]);
        assert_eq!(limiter.take_suppressed(), []);
        assert_eq!(admitted(&mut limiter, Kind::Denied, [1; 50].into_iter(), 3000), 3, "a line a second comes back");
    }

    #[test]
    fn a_flood_by_many_clients_is_bounded_too() {
        let mut limiter = Limiter::new(0);
        assert_eq!(admitted(&mut limiter, Kind::Refused, 0..100_000, 0), 200);
        assert_eq!(admitted(&mut limiter, Kind::Refused, 0..100_000, 1000), 20);
        assert_eq!(limiter.take_suppressed(), [(Kind::Refused, 199_780)]);
        assert!(limiter.clients.len() <= CLIENTS);
    }

    #[test]
    fn clients_that_fell_silent_are_forgotten() {
        let mut limiter = Limiter::new(0);
        admitted(&mut limiter, Kind::Denied, 0..CLIENTS as u64, 0);
        assert_eq!(limiter.clients.len(), CLIENTS);
        assert!(limiter.admits(Kind::Connected, 1_000_000, 60_000));
        assert!(limiter.clients.len() < 10, "{}", limiter.clients.len());
    }

    #[test]
    fn a_clock_that_stands_still_or_jumps_back_gives_nothing_away() {
        let mut limiter = Limiter::new(5000);
        assert_eq!(admitted(&mut limiter, Kind::Denied, [1; 50].into_iter(), 5000), 10);
        assert_eq!(admitted(&mut limiter, Kind::Denied, [1; 50].into_iter(), 4000), 0);
        assert_eq!(admitted(&mut limiter, Kind::Denied, [1; 50].into_iter(), 5000), 0);
    }
}
