//! How many lines the log takes. Pure: the time is an argument.
//!
//! Each kind of line has a rate of its own, so that a flood of one never hides the others, and within it each client has
//! one too, so that a single noisy client never hides the rest. What is left out is counted, and told in the end.

use std::collections::HashMap;

use super::rate::Bucket;
use crate::config::broker::Rate;

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

/// Lines at once, and so many again in that time, of each kind.
const KIND: Rate = Rate { amount: 200, seconds: 10 };
/// The same for each client within its kind.
const CLIENT: Rate = Rate { amount: 10, seconds: 10 };
/// Clients that are told apart at a time; beyond that only the rate of the kind holds.
const CLIENTS: usize = 4096;
/// Milliseconds between two looks for clients that have been silent long enough to be forgotten.
const FORGET_EVERY: u64 = 1000;

/// A client within a kind: its rate, and its lines that were left out since the last one that was written.
#[derive(Clone, Copy, Debug, Default)]
struct Client {
    bucket: Bucket,
    suppressed: u64,
}

/// Decides which lines are written.
#[derive(Debug)]
pub struct Limiter {
    kinds: [Bucket; Kind::ALL.len()],
    clients: HashMap<(u8, u64), Client>,
    suppressed: [u64; Kind::ALL.len()],
    forgot_at: u64,
}

impl Limiter {
    /// A limiter that lets a first burst through.
    pub fn new(now: u64) -> Self {
        Self { kinds: Default::default(), clients: HashMap::new(), suppressed: [0; Kind::ALL.len()], forgot_at: now }
    }

    /// Whether a line of this kind about this client (a hash of its id or address) may be written at `now`, in
    /// milliseconds; and then how many of its lines were left out since the last one, as far as that is remembered. A
    /// line that may not be written is counted.
    pub fn admits(&mut self, kind: Kind, client: u64, now: u64) -> Option<u64> {
        let at = kind as usize;
        let mut of_kind = self.kinds[at];
        let enough = of_kind.take(KIND, 1, now);
        // A line that its kind has no room for costs the client nothing, and the other way round.
        let admitted = match self.client(kind, client, now) {
            Some(client) => {
                let admitted = enough && client.bucket.take(CLIENT, 1, now);
                client.suppressed += u64::from(!admitted);
                admitted.then(|| std::mem::take(&mut client.suppressed))
            }
            None => enough.then_some(0),
        };
        if admitted.is_some() {
            self.kinds[at] = of_kind;
        } else {
            self.suppressed[at] += 1;
        }
        admitted
    }

    fn client(&mut self, kind: Kind, client: u64, now: u64) -> Option<&mut Client> {
        let key = (kind as u8, client);
        if self.clients.len() >= CLIENTS && !self.clients.contains_key(&key) {
            if now.saturating_sub(self.forgot_at) < FORGET_EVERY {
                return None;
            }
            self.forgot_at = now;
            self.clients.retain(|_, client| !client.bucket.is_full(now));
            if self.clients.len() >= CLIENTS {
                return None;
            }
        }
        Some(self.clients.entry(key).or_default())
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
        clients.filter(|client| limiter.admits(kind, *client, now).is_some()).count()
    }

    #[test]
    fn a_noisy_client_is_cut_short_and_others_are_still_told_about() {
        let mut limiter = Limiter::new(0);
        assert_eq!(admitted(&mut limiter, Kind::Denied, [1; 50].into_iter(), 0), 10);
        assert_eq!(limiter.admits(Kind::Denied, 2, 0), Some(0));
        assert_eq!(limiter.admits(Kind::Refused, 1, 0), Some(0), "another kind has a rate of its own");
        assert_eq!(limiter.take_suppressed(), [(Kind::Denied, 40)]);
        assert_eq!(limiter.take_suppressed(), []);
        assert_eq!(limiter.admits(Kind::Denied, 1, 3000), Some(40), "the next line says how many were left out");
        assert_eq!(limiter.admits(Kind::Denied, 1, 3000), Some(0));
        assert_eq!(admitted(&mut limiter, Kind::Denied, [1; 50].into_iter(), 3000), 1, "a line a second comes back");
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
        assert!(limiter.admits(Kind::Connected, 1_000_000, 60_000).is_some());
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
