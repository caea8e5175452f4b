//! When the keys of an issuer are fetched, and how long they hold. Pure: the time is an argument.

/// Milliseconds between the beginnings of two fetches, however many tokens name keys that are not known.
const APART: u64 = 30_000;
/// Milliseconds after which keys are fetched again, and after which a fetch that failed is tried again.
const REFRESH: u64 = 3_600_000;
const RETRY: u64 = 60_000;
/// Seconds that keys hold which cannot be fetched again.
const STALE: u64 = 24 * 3600;

/// The fetches of one issuer's keys. Milliseconds are of a clock that only goes forward, seconds are Unix time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When the last fetch began.
    tried: Option<u64>,
    /// When the next is due by itself.
    next: u64,
    /// When the keys were confirmed last.
    good: Option<u64>,
}

impl Pace {
    /// Keys that an earlier process had confirmed at `good` seconds, if it had any.
    pub fn resumed(good: Option<u64>) -> Self {
        Self { good, ..Self::default() }
    }

    /// Whether a fetch may begin.
    pub fn may_try(&self, millis: u64) -> bool {
        self.tried.is_none_or(|tried| millis.saturating_sub(tried) >= APART)
    }

    /// Whether a fetch is due by itself.
    pub fn is_due(&self, millis: u64) -> bool {
        millis >= self.next && self.may_try(millis)
    }

    /// A fetch begins.
    pub fn begin(&mut self, millis: u64) {
        self.tried = Some(millis);
    }

    /// It brought keys. `jitter` is from 0 to 1: many brokers do not ask together.
    pub fn succeed(&mut self, millis: u64, seconds: u64, jitter: f64) {
        self.good = Some(seconds);
        self.next = later(millis, REFRESH, jitter);
    }

    /// It brought nothing.
    pub fn fail(&mut self, millis: u64, jitter: f64) {
        self.next = later(millis, RETRY, jitter);
    }

    /// Seconds since the keys were confirmed; absent without keys.
    pub fn age(&self, seconds: u64) -> Option<u64> {
        self.good.map(|good| seconds.saturating_sub(good))
    }

    /// Whether there are keys that hold.
    pub fn holds(&self, seconds: u64) -> bool {
        self.age(seconds).is_some_and(|age| age < STALE)
    }
}

/// From nine to ten tenths of the time from now.
fn later(millis: u64, after: u64, jitter: f64) -> u64 {
    millis + after - (after as f64 / 10.0 * jitter.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_763_800_000;
    const HOUR: u64 = 3600;

    #[test]
    fn the_first_fetch_is_due_at_once_and_the_next_in_an_hour() {
        let mut pace = Pace::default();
        assert!(pace.is_due(5) && !pace.holds(NOW));
        pace.begin(5);
        pace.succeed(1_000, NOW, 0.0);
        assert!(!pace.is_due(3_600_999) && pace.is_due(3_601_000));
        pace.succeed(1_000, NOW, 1.0);
        assert!(!pace.is_due(3_240_999) && pace.is_due(3_241_000), "with jitter a little earlier");
    }

    #[test]
    fn however_often_it_is_wanted_a_fetch_begins_at_most_every_thirty_seconds() {
        let mut pace = Pace::default();
        let began: Vec<u64> = (0..100_000)
            .step_by(10)
            .filter(|now| {
                let may = pace.may_try(*now);
                if may {
                    pace.begin(*now);
                    pace.fail(*now, 0.0);
                }
                may
            })
            .collect();
        assert_eq!(began, [0, 30_000, 60_000, 90_000]);
    }

    #[test]
    fn keys_that_cannot_be_fetched_again_hold_for_a_day() {
        let mut pace = Pace::default();
        pace.begin(0);
        pace.succeed(0, NOW, 0.0);
        for hour in 1..24 {
            pace.begin(hour * 3_600_000);
            pace.fail(hour * 3_600_000, 0.5);
            assert!(pace.holds(NOW + hour * HOUR));
            assert!(!pace.is_due(hour * 3_600_000 + 30_000) && pace.is_due(hour * 3_600_000 + 60_000));
        }
        assert!(pace.holds(NOW + 24 * HOUR - 1) && !pace.holds(NOW + 24 * HOUR));
        pace.succeed(90_000_000, NOW + 25 * HOUR, 0.0);
        assert!(pace.holds(NOW + 25 * HOUR));
    }

    #[test]
    fn keys_of_an_earlier_process_hold_as_long_as_they_would_have() {
        let pace = Pace::resumed(Some(NOW));
        assert!(pace.holds(NOW + 23 * HOUR) && !pace.holds(NOW + 24 * HOUR) && pace.is_due(0));
        assert_eq!((pace.age(NOW + 7), pace.age(NOW - 7), Pace::default().age(NOW)), (Some(7), Some(0), None));
    }
}
