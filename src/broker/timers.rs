//! The deadlines of a connection, with one timer for all of them.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::backpressure::RECHECK;
use super::connection::{Closing, Connection};
use crate::mqtt::ReasonCode;

/// A client that takes nothing for so long, in milliseconds, while something waits for it, is disconnected.
const STUCK: u64 = 30_000;

/// Times are milliseconds of the broker's clock.
#[derive(Debug, Default)]
pub struct Timers {
    /// One and a half times the keep alive `[MQTT-3.1.2-22]`; 0 is none.
    pub keep_alive: u64,
    /// When the client was last heard.
    pub last_seen: u64,
    /// Since when the socket takes nothing, while something waits for it.
    pub blocked_since: Option<u64>,
    /// When the client's token expires.
    pub token_expires: Option<u64>,
    pub armed: Option<(u64, Pin<Box<Sleep>>)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn check_timers(&mut self, cx: &mut Context<'_>, now: u64) -> Result<(), Closing> {
        let Some((_, sleep)) = &mut self.timers.armed else { return Ok(()) };
        if sleep.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        self.timers.armed = None;
        if self.timers.token_expires.is_some_and(|at| now >= at) {
            return Err(Closing::because(ReasonCode::MAXIMUM_CONNECT_TIME, "token expired"));
        }
        // A client that is not read cannot be heard.
        if self.is_paused() || self.is_paced() {
            self.timers.last_seen = now;
        }
        if self.timers.keep_alive > 0 && now >= self.timers.last_seen + self.timers.keep_alive {
            return Err(Closing::because(ReasonCode::KEEP_ALIVE_TIMEOUT, "keep alive timeout"));
        }
        if self.timers.blocked_since.is_some_and(|since| now >= since + STUCK) {
            return Err(Closing::because(ReasonCode::QUOTA_EXCEEDED, "the client takes nothing"));
        }
        Ok(())
    }

    /// Arms the timer for the nearest deadline. Deadlines that move away leave it as it is: it then fires early, once.
    pub(super) fn arm_timers(&mut self, cx: &mut Context<'_>, now: u64) {
        let timers = &self.timers;
        let mut nearest = timers.token_expires.unwrap_or(u64::MAX);
        if timers.keep_alive > 0 {
            nearest = nearest.min(timers.last_seen + timers.keep_alive);
        }
        if let Some(since) = timers.blocked_since {
            nearest = nearest.min(since + STUCK);
        }
        if self.is_paced() {
            nearest = nearest.min(self.publisher.pace.until);
        }
        if let Some(hold) = &self.hold {
            nearest = nearest.min(hold.checked + RECHECK);
        }
        if nearest == u64::MAX || timers.armed.as_ref().is_some_and(|(at, _)| *at <= nearest) {
            return;
        }
        let deadline = Instant::now() + Duration::from_millis(nearest.saturating_sub(now).max(1));
        let mut sleep = match self.timers.armed.take() {
            Some((_, mut sleep)) => {
                sleep.as_mut().reset(deadline);
                sleep
            }
            None => Box::pin(tokio::time::sleep_until(deadline)),
        };
        // Polled once, so that it wakes this task.
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.timers.armed = Some((nearest, sleep));
    }
}
