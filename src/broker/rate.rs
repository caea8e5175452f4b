//! So many in so much time.

use crate::config::broker::Rate;

const NANOSECONDS: u64 = 1_000_000_000;
const PER_MILLISECOND: u64 = 1_000_000;

/// A bucket of tokens that fills at a steady pace; it costs one number. Times are milliseconds of the broker's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// The nanosecond at which it is full again.
    full_at: u64,
}

impl Bucket {
    /// Takes tokens if there are so many.
    pub fn take(&mut self, rate: Rate, tokens: u64, now: u64) -> bool {
        let full_at = self.after(rate, tokens, now);
        let enough = full_at - now * PER_MILLISECOND <= capacity(rate);
        if enough {
            self.full_at = full_at;
        }
        enough
    }

    /// Takes tokens in any case; answers after how many milliseconds the bucket is no longer overdrawn.
    pub fn draw(&mut self, rate: Rate, tokens: u64, now: u64) -> u64 {
        self.full_at = self.after(rate, tokens, now);
        (self.full_at - now * PER_MILLISECOND).saturating_sub(capacity(rate)).div_ceil(PER_MILLISECOND)
    }

    /// Puts tokens back that were taken for nothing.
    pub fn give_back(&mut self, rate: Rate, tokens: u64) {
        self.full_at = self.full_at.saturating_sub(cost(rate, tokens));
    }

    /// Tokens that are missing, begun ones as whole.
    pub fn used(self, rate: Rate, now: u64) -> u64 {
        let missing = u128::from(self.full_at.saturating_sub(now * PER_MILLISECOND));
        let used = (missing * u128::from(rate.amount)).div_ceil(u128::from(capacity(rate).max(1)));
        u64::try_from(used).unwrap_or(u64::MAX)
    }

    /// Whether nothing is missing, so that it need not be remembered.
    pub fn is_full(self, now: u64) -> bool {
        self.full_at <= now * PER_MILLISECOND
    }

    fn after(self, rate: Rate, tokens: u64, now: u64) -> u64 {
        self.full_at.max(now * PER_MILLISECOND).saturating_add(cost(rate, tokens))
    }
}

/// The time in which so many tokens come back, in nanoseconds.
fn cost(rate: Rate, tokens: u64) -> u64 {
    let cost = u128::from(tokens) * u128::from(capacity(rate)) / u128::from(rate.amount.max(1));
    u64::try_from(cost).unwrap_or(u64::MAX)
}

/// The time in which an empty bucket fills, in nanoseconds.
fn capacity(rate: Rate) -> u64 {
    u64::from(rate.seconds) * NANOSECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE_IN_TEN: Rate = Rate { amount: 3, seconds: 10 };

    #[test]
    fn the_amount_may_come_at_once_and_one_more_may_not() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert!(bucket.take(THREE_IN_TEN, 1, 0));
        }
        assert!(!bucket.take(THREE_IN_TEN, 1, 0));
        assert!(!bucket.take(THREE_IN_TEN, 1, 3_333), "a third of the time has not passed");
        assert!(bucket.take(THREE_IN_TEN, 1, 3_334));
        assert!(!bucket.take(THREE_IN_TEN, 1, 3_334));
        assert!(bucket.take(THREE_IN_TEN, 3, 20_000) && !bucket.take(THREE_IN_TEN, 1, 20_000));
    }

    #[test]
    fn who_draws_more_than_there_is_waits_for_what_is_missing() {
        let rate = Rate { amount: 1000, seconds: 1 };
        let mut bucket = Bucket::default();
        assert_eq!(bucket.draw(rate, 1000, 0), 0);
        assert_eq!(bucket.draw(rate, 1, 0), 1);
        assert_eq!(bucket.draw(rate, 99, 0), 100);
        assert_eq!(bucket.draw(rate, 1, 50), 51);
        assert_eq!(bucket.draw(rate, 0, 10_000), 0);
    }

    #[test]
    fn in_the_long_run_the_pace_is_that_of_the_rate() {
        let rate = Rate { amount: 7, seconds: 3 };
        let mut bucket = Bucket::default();
        let passed = (0..300_000).filter(|now| bucket.take(rate, 1, *now)).count();
        assert!((700..=707).contains(&passed), "{passed}");
    }

    #[test]
    fn what_is_used_is_known_and_can_be_put_back() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.used(THREE_IN_TEN, 0), 0);
        assert!(bucket.take(THREE_IN_TEN, 1, 0) && bucket.take(THREE_IN_TEN, 1, 0));
        assert_eq!((bucket.used(THREE_IN_TEN, 0), bucket.used(THREE_IN_TEN, 3_334)), (2, 1));
        bucket.give_back(THREE_IN_TEN, 1);
        assert_eq!(bucket.used(THREE_IN_TEN, 0), 1);
        bucket.give_back(THREE_IN_TEN, 100);
        assert_eq!(bucket, Bucket::default());
    }

    #[test]
    fn large_amounts_do_not_overflow() {
        let rate = Rate { amount: u64::MAX, seconds: u32::MAX };
        let mut bucket = Bucket::default();
        assert!(bucket.take(rate, u64::MAX / 2, u64::from(u32::MAX)));
        assert!(!Bucket::default().take(Rate { amount: 1, seconds: 1 }, u64::MAX, 0));
    }
}
