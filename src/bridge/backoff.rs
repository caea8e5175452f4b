//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(15);
/// Between attempts that only a person can make succeed.
const SLOW: Duration = Duration::from_secs(5);
/// What an answer's `Retry-After` may ask for.
const LONGEST_ASKED: Duration = Duration::from_mins(2);

/// Doubling waits with jitter, so that many bridges do not come back at the same moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: between half and the whole of the doubled time, by `random`. Not less than what
    /// the server asked for.
    pub fn next(&mut self, random: u64, retry_after: Option<Duration>) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        jitter(whole, random).max(retry_after.unwrap_or_default().min(LONGEST_ASKED))
    }

    /// The wait after a failure that lasts until somebody changes something. The first is short: a node that has just
    /// started refuses right credentials for a second or two.
    pub fn next_slow(&mut self, random: u64) -> Duration {
        let whole = if self.failures < 3 { Duration::from_secs(1) } else { SLOW };
        self.failures = self.failures.saturating_add(1);
        jitter(whole, random)
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

fn jitter(whole: Duration, random: u64) -> Duration {
    let half = whole / 2;
    half + half.mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Backoff, LONGEST, LONGEST_ASKED, SLOW};

    #[test]
    fn waits_double_up_to_the_longest_and_jitter_takes_at_most_half() {
        let (mut low, mut high) = (Backoff::default(), Backoff::default());
        for whole in [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000] {
            let whole = Duration::from_millis(whole);
            assert_eq!((low.next(0, None), high.next(u64::MAX, None)), (whole / 2, whole));
        }
        high.reset();
        assert_eq!(high.next(u64::MAX, None), Duration::from_millis(100));
        for _ in 0..100 {
            assert!(low.next(u64::MAX, None) <= LONGEST);
        }
    }

    #[test]
    fn the_servers_wish_is_heard_within_reason() {
        assert_eq!(Backoff::default().next(0, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(Backoff::default().next(0, Some(Duration::from_hours(24))), LONGEST_ASKED);
    }

    #[test]
    fn what_a_person_must_mend_is_tried_soon_at_first_and_then_slowly() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..5).map(|_| backoff.next_slow(u64::MAX)).collect();
        assert_eq!(waits[..3], [Duration::from_secs(1); 3]);
        assert_eq!(waits[3..], [SLOW; 2]);
    }
}
