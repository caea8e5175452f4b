//! What a connection does when its client reaches a limit.

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Closing, Connection, OUTBOX_HIGH};
use super::counters::Loss;
use super::events;
use super::limits::Limit;
use super::rate::Bucket;
use crate::config::broker::Limits;
use crate::mqtt::packet::Publish;
use crate::mqtt::topic::{self, Filter};
use crate::mqtt::{QoS, ReasonCode, Version};
use crate::store::memory::{self, Level};

/// What a connection costs with its task, beyond its buffers and its session.
const CONNECTION: usize = 2048;
/// Bytes that may wait for the socket of one client when memory is short.
const OUTBOX_SHORT: usize = 16 * 1024;
/// QoS 1 and 2 deliveries that are taken at once then.
const WINDOW_SHORT: usize = 8;
/// A packet of which so much is there but not all is given up when memory is exhausted.
const PARTIAL_EXHAUSTED: usize = 64 * 1024;

/// How fast a client publishes, and until when it is not read because of that.
#[derive(Debug, Default)]
pub struct Pace {
    messages: Bucket,
    bytes: Bucket,
    /// Milliseconds of the broker's clock; 0 while the client is read.
    pub until: u64,
}

impl Pace {
    /// Counts a publication of so many bytes; answers the limit that it has passed.
    fn count(&mut self, limits: &Limits, bytes: usize, now: u64) -> Option<Limit> {
        let messages = limits.message_rate.map_or(0, |rate| self.messages.draw(rate, 1, now));
        let bytes = limits.byte_rate.map_or(0, |rate| self.bytes.draw(rate, bytes as u64, now));
        if messages.max(bytes) == 0 {
            return None;
        }
        self.until = now + messages.max(bytes);
        Some(if messages >= bytes { Limit::MessageRate } else { Limit::ByteRate })
    }
}

/// Bytes that may wait for the socket before no more deliveries are taken.
pub fn outbox_high() -> usize {
    if memory::level() == Level::Ample { OUTBOX_HIGH } else { OUTBOX_SHORT }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Counts a PUBLISH packet. A client that is too fast is not read until it has waited for what it was too early.
    pub(super) fn count_publication(&mut self, bytes: usize, now: u64) {
        if let Some(limit) = self.publisher.pace.count(&self.shared.limits, bytes, now) {
            events::limited(&self.shared, limit, &self.peer.client_id, "slowed down");
        }
    }

    /// Whether the client published too fast and has to wait.
    pub(super) fn is_paced(&self) -> bool {
        self.publisher.pace.until > 0
    }

    /// Goes on with what was read before, when the wait is over.
    pub(super) fn end_pace(&mut self, now: u64) -> Result<(), Closing> {
        if !self.is_paced() || now < self.publisher.pace.until {
            return Ok(());
        }
        self.publisher.pace.until = 0;
        self.received(&[], now)
    }

    /// Looks whether a publication is within the limits, before it is looked up. `true`: it was answered.
    pub(super) fn exceeds(&mut self, publish: &Publish<'_>, now: u64) -> Result<bool, Closing> {
        let depth = self.shared.limits.topic_depth.into();
        if topic::is_deeper(publish.topic, depth) {
            events::limited(&self.shared, Limit::TopicDepth, &self.peer.client_id, "publication refused");
            return self
                .reject(publish, ReasonCode::TOPIC_NAME_INVALID, "the topic has too many levels", now)
                .map(|()| true);
        }
        if memory::level() == Level::Exhausted {
            return self.refuse_publication(publish, Limit::MaxMemory).map(|()| true);
        }
        Ok(false)
    }

    /// Refuses a publication because there is no room for it. QoS 0 is dropped; 3.x has no answer and is disconnected, so
    /// that the client keeps the message and sends it again.
    pub(super) fn refuse_publication(&mut self, publish: &Publish<'_>, limit: Limit) -> Result<(), Closing> {
        if publish.qos == QoS::AtMostOnce {
            self.turn.lose(Loss::Refused);
            self.shared.counters.limited.add(limit);
            return Ok(());
        }
        if self.peer.version == Version::V5 {
            events::limited(&self.shared, limit, &self.peer.client_id, "publication refused");
            self.answer_refused(publish, limit.reason(), "there is no room for it");
            return Ok(());
        }
        if let Some(id) = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce) {
            self.session.inbound.refuse(id);
        }
        Err(Closing::limited(limit, "there is no room for a publication"))
    }

    /// The code for a subscription that is one too many, or whose filter is too deep.
    pub(super) fn refuse_subscription(&self, text: &str, filter: &Filter<'_>) -> Option<ReasonCode> {
        let limits = &self.shared.limits;
        let (limit, code) = if topic::is_deeper(filter.filter, limits.topic_depth.into()) {
            (Limit::TopicDepth, ReasonCode::TOPIC_FILTER_INVALID)
        } else if self.session.subscriptions.contains_key(text) {
            return None;
        } else if self.session.subscriptions.len() >= limits.max_subscriptions as usize {
            (Limit::MaxSubscriptions, ReasonCode::QUOTA_EXCEEDED)
        } else if memory::level() >= Level::Scarce {
            (Limit::MaxMemory, ReasonCode::QUOTA_EXCEEDED)
        } else {
            return None;
        };
        events::limited(&self.shared, limit, &self.peer.client_id, "subscription refused");
        Some(code)
    }

    /// QoS 1 and 2 deliveries that may be taken at once.
    pub(super) fn window_now(&self) -> usize {
        let room = self.session.inflight.room(self.peer.window);
        if memory::level() == Level::Ample { room } else { room.min(WINDOW_SHORT) }
    }

    /// Brings the account of memory up to date, at the end of a turn.
    pub(super) fn settle(&mut self) -> Result<(), Closing> {
        let buffers =
            self.partial.capacity() + self.withheld.bytes.capacity() + self.outbox.held() + self.replay.held();
        self.held.settle(CONNECTION + buffers + self.session.inbound.unreleased() * 8);
        if self.partial.len() > PARTIAL_EXHAUSTED && memory::level() == Level::Exhausted && !self.is_paced() {
            return Err(Closing::limited(Limit::MaxMemory, "there is no memory for a packet of that size"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::broker::Rate;

    #[test]
    fn a_client_within_its_rates_is_never_slowed_down() {
        let limits = Limits { message_rate: Some(Rate { amount: 10, seconds: 1 }), ..Limits::default() };
        let mut pace = Pace::default();
        for now in (0..10_000).step_by(100) {
            assert_eq!(pace.count(&limits, 1000, now), None);
        }
        let mut pace = Pace::default();
        assert_eq!((0..10).find_map(|_| pace.count(&limits, 1, 0)), None);
        assert_eq!(pace.count(&limits, 1, 0), Some(Limit::MessageRate), "one past the limit");
        assert_eq!(pace.until, 100);
    }

    #[test]
    fn the_stricter_of_both_rates_decides() {
        let limits = Limits {
            message_rate: Some(Rate { amount: 100, seconds: 1 }),
            byte_rate: Some(Rate { amount: 1000, seconds: 1 }),
            ..Limits::default()
        };
        let mut pace = Pace::default();
        assert_eq!(pace.count(&limits, 1000, 0), None);
        assert_eq!(pace.count(&limits, 500, 0), Some(Limit::ByteRate));
        assert_eq!(pace.until, 500);
    }
}
