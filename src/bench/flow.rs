//! What a publisher and its subscribers know of each other: how much is under way.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};

use tokio::sync::Notify;

/// The messages of one publisher. Subscribers on other threads count into it.
#[derive(Debug)]
pub(super) struct Flow {
    /// Deliveries of each message.
    receivers: u64,
    /// Messages that may be under way; `None` does not wait for deliveries.
    window: Option<u64>,
    sent: AtomicU64,
    /// Deliveries.
    delivered: AtomicU64,
    /// Deliveries that were given up, so that a broker which drops messages does not stop the run.
    written_off: AtomicU64,
    /// Messages whose time has come, where there is a rate.
    due: AtomicU64,
    /// No more will become due.
    closed: AtomicBool,
    waiting: AtomicBool,
    pub(super) wake: Notify,
}

impl Flow {
    pub(super) fn new(receivers: usize, window: Option<u16>) -> Self {
        Self {
            receivers: receivers as u64,
            window: window.filter(|_| receivers > 0).map(u64::from),
            sent: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            written_off: AtomicU64::new(0),
            due: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// How many more messages may be under way; `None` where deliveries set no limit.
    pub(super) fn room(&self) -> Option<u64> {
        self.window.map(|window| window.saturating_sub(self.outstanding().div_ceil(self.receivers)))
    }

    /// Deliveries that are under way.
    fn outstanding(&self) -> u64 {
        (self.sent.load(SeqCst) * self.receivers)
            .saturating_sub(self.delivered.load(SeqCst) + self.written_off.load(SeqCst))
    }

    pub(super) fn sent(&self, messages: u64) {
        self.sent.fetch_add(messages, SeqCst);
    }

    /// Counts deliveries, and wakes the publisher when half of its window is free: waking it for each message would cost
    /// both it and the broker a system call per message.
    pub(super) fn delivered(&self, deliveries: u64) {
        self.delivered.fetch_add(deliveries, SeqCst);
        if self.waiting.load(SeqCst) && self.has_half_a_window() {
            self.wake.notify_one();
        }
    }

    fn has_half_a_window(&self) -> bool {
        match (self.room(), self.window) {
            (Some(room), Some(window)) => room >= window.div_ceil(2),
            _ => true,
        }
    }

    /// From here on deliveries wake the publisher; it looks once more for room before it waits.
    pub(super) fn wait_begins(&self) {
        self.waiting.store(true, SeqCst);
    }

    pub(super) fn wait_ends(&self) {
        self.waiting.store(false, SeqCst);
    }

    /// Gives up what is under way.
    pub(super) fn write_off(&self) {
        self.written_off.fetch_add(self.outstanding(), SeqCst);
    }

    /// Deliveries so far, to see whether there is progress.
    pub(super) fn deliveries(&self) -> u64 {
        self.delivered.load(SeqCst)
    }

    pub(super) fn add_due(&self, messages: u64) {
        self.due.fetch_add(messages, SeqCst);
    }

    pub(super) fn due(&self) -> u64 {
        self.due.load(SeqCst)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
        self.wake.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_counts_messages_until_all_have_them() {
        let flow = Flow::new(10, Some(4));
        assert_eq!(flow.room(), Some(4));
        flow.sent(4);
        assert_eq!(flow.room(), Some(0));
        assert!(!flow.has_half_a_window());
        flow.delivered(19);
        assert_eq!(flow.room(), Some(1));
        assert!(!flow.has_half_a_window());
        flow.delivered(1);
        assert_eq!(flow.room(), Some(2));
        assert!(flow.has_half_a_window());
    }

    #[test]
    fn what_is_written_off_frees_the_window_once() {
        let flow = Flow::new(1, Some(2));
        flow.sent(2);
        flow.write_off();
        assert_eq!(flow.room(), Some(2));
        flow.sent(2);
        flow.delivered(1);
        assert_eq!(flow.room(), Some(1));
    }
}
