//! The clock of a run with a rate: says when each message is due.
//!
//! A thread of its own, because timers of the runtime round up to a millisecond. Messages are stamped with the time they
//! were meant to be sent, so what this is late by is part of the measured latency and is reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::flow::Flow;

/// The kernel wakes a sleeper up to this much late (its timer slack); the rest is waited for awake.
const SLACK: Duration = Duration::from_micros(55);

/// Makes messages due, evenly and to each flow in turn, from `start` for `duration`; then closes the flows.
pub(super) fn pace(flows: &[Arc<Flow>], rate: f64, start: Instant, duration: Duration, stop: &AtomicBool) {
    let total = (rate * duration.as_secs_f64()).floor() as u64;
    let mut made = 0;
    while made < total && !stop.load(Ordering::Relaxed) {
        wait_until(start + offset(made, rate), stop);
        let passed = start.elapsed().as_secs_f64();
        let upto = ((passed * rate).floor() as u64 + 1).min(total);
        let count = flows.len() as u64;
        for message in made..upto {
            flows[(message % count) as usize].add_due(1);
        }
        for message in made..upto.min(made + count) {
            flows[(message % count) as usize].wake.notify_one();
        }
        made = upto.max(made);
    }
    for flow in flows {
        flow.close();
    }
}

/// When message `number` is due, from the start.
pub(super) fn offset(number: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate)
}

fn wait_until(due: Instant, stop: &AtomicBool) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.load(Ordering::Relaxed) {
            return;
        }
        if left > SLACK {
            // In steps, so that a stopped run does not wait for the next message of a slow rate.
            std::thread::sleep(left.saturating_sub(SLACK).min(Duration::from_millis(100)));
        } else {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_becomes_due_once_and_in_turn() {
        let flows: Vec<_> = (0..3).map(|_| Arc::new(Flow::new(1, None))).collect();
        let start = Instant::now();
        pace(&flows, 10_000.0, start, Duration::from_millis(20), &AtomicBool::new(false));
        assert!(start.elapsed() >= offset(199, 10_000.0));
        assert_eq!(flows.iter().map(|flow| flow.due()).collect::<Vec<_>>(), [67, 67, 66]);
        assert!(flows.iter().all(|flow| flow.is_closed()));
    }
}
