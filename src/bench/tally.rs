//! Loss, duplicates and order of the numbered messages of one topic at one subscriber.

/// Gaps that are remembered at a time. A broker that drops most of what it gets opens many; the oldest are then final,
/// and a message that fills one of those late counts as a duplicate.
const GAPS: usize = 1024;

/// What a message is, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The next one, or one beyond a gap.
    New,
    /// It fills a gap: it came after one that was sent later.
    Late,
    Duplicate,
}

/// What has arrived of one sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Sequence {
    next: u64,
    /// Numbers that are missing, as half-open ranges in ascending order.
    gaps: Vec<(u64, u64)>,
    missing: u64,
}

impl Sequence {
    /// A sequence whose earlier numbers nobody waited for.
    pub(super) fn starting_at(number: u64) -> Self {
        Self { next: number, ..Self::default() }
    }

    pub(super) fn arrive(&mut self, number: u64) -> Arrival {
        if number >= self.next {
            if number > self.next {
                if self.gaps.len() == GAPS {
                    self.gaps.remove(0);
                }
                self.gaps.push((self.next, number));
                self.missing += number - self.next;
            }
            self.next = number + 1;
            return Arrival::New;
        }
        let Some(at) = self.gaps.iter().rposition(|(from, to)| (*from..*to).contains(&number)) else {
            return Arrival::Duplicate;
        };
        let (from, to) = self.gaps[at];
        let rest = [(from, number), (number + 1, to)].into_iter().filter(|(from, to)| from < to);
        self.gaps.splice(at..=at, rest);
        self.missing -= 1;
        Arrival::Late
    }

    /// Numbers below the highest that arrived and that did not.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }
}

/// The numbers of all subscribers of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) delivered: u64,
    pub(super) duplicates: u64,
    pub(super) late: u64,
    /// Messages that are not of this run.
    pub(super) foreign: u64,
}

impl Tally {
    pub(super) fn count(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::New => self.delivered += 1,
            Arrival::Late => {
                self.delivered += 1;
                self.late += 1;
            }
            Arrival::Duplicate => self.duplicates += 1,
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.duplicates += other.duplicates;
        self.late += other.late;
        self.foreign += other.foreign;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Arrival::{Duplicate, Late, New};
    use super::*;

    #[test]
    fn late_messages_are_told_from_duplicates() {
        let mut sequence = Sequence::default();
        let arrivals = [0, 1, 5, 3, 3, 2, 4, 5, 0].map(|number| sequence.arrive(number));
        assert_eq!(arrivals, [New, New, New, Late, Duplicate, Late, Late, Duplicate, Duplicate]);
        assert_eq!(sequence.missing(), 0);
    }

    #[test]
    fn gaps_are_what_did_not_arrive() {
        let mut sequence = Sequence::default();
        for number in [0, 10, 11, 20] {
            sequence.arrive(number);
        }
        assert_eq!(sequence.missing(), 9 + 8);
    }

    proptest! {
        #[test]
        fn each_number_is_delivered_once_whatever_the_order(numbers in prop::collection::vec(0_u64..60, 0..200)) {
            let mut sequence = Sequence::default();
            let mut tally = Tally::default();
            for number in &numbers {
                tally.count(sequence.arrive(*number));
            }
            let distinct: std::collections::BTreeSet<_> = numbers.iter().collect();
            prop_assert_eq!(tally.delivered, distinct.len() as u64);
            prop_assert_eq!(tally.duplicates, (numbers.len() - distinct.len()) as u64);
        }
    }
}
