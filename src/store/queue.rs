//! The messages that wait for a session.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Message;
use super::memory::{self, Held, Level};
use crate::mqtt::QoS;

/// One copy of a message for one session.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub message: Arc<Message>,
    /// The lower of the published and the granted QoS `[MQTT-3.8.4-8]`.
    pub qos: QoS,
    /// The RETAIN flag that the subscriber sees.
    pub retain: bool,
    /// What the usual subscription does not have.
    pub via: Option<Arc<Via>>,
    /// Its place among all that ever waited for the session at QoS 1 and 2, from 1 on; given by the queue.
    pub seq: u64,
}

impl Delivery {
    /// One that has no place yet.
    pub fn new(message: Arc<Message>, qos: QoS, retain: bool, via: Option<Arc<Via>>) -> Self {
        Self { message, qos, retain, via, seq: 0 }
    }
}

/// How a message came to a session, beyond a plain subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Via {
    /// The Subscription Identifiers of all matching subscriptions `[MQTT-3.3.4-3]`.
    pub identifiers: Vec<u32>,
    /// The whole filter of the shared subscription, `$share/<name>/<filter>`.
    pub share: Option<Box<str>>,
}

/// How much may wait, and what happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub messages: usize,
    pub bytes: usize,
    pub full: Full,
}

/// What happens to a message that would be one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The oldest make room.
    DropOldest,
    /// It is not taken: publishers ask first. What publishers at the same time bring all the same is kept.
    Refuse,
    /// It is kept, and publishers wait.
    Wait,
}

/// How long a message may wait, at a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    now: u64,
    most: u64,
}

impl Age {
    /// For ever.
    pub const ANY: Self = Self { now: 0, most: u64::MAX };

    /// `most` milliseconds since it was received, at `now` in milliseconds since 1970 UTC.
    pub fn new(now: u64, most: u64) -> Self {
        Self { now, most }
    }

    /// Whether the message has waited longer.
    pub fn is_over(&self, message: &Message) -> bool {
        message.received_at > 0 && self.now.saturating_sub(message.received_at) > self.most
    }
}

/// What was taken out of a queue because it had waited too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Old {
    /// Messages that the limit cost.
    pub dropped: usize,
    /// Messages that had expired as well: they were over without it.
    pub expired: usize,
}

impl Old {
    /// All of it.
    pub fn len(&self) -> usize {
        self.dropped + self.expired
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn add(&mut self, more: Self) {
        self.dropped += more.dropped;
        self.expired += more.expired;
    }
}

/// Messages that may go at each push while it shrinks.
const SHRINK_BY: usize = 4;

/// A bounded first-in-first-out queue.
#[derive(Debug)]
pub struct Queue {
    waiting: VecDeque<Delivery>,
    last_seq: u64,
    /// What waits up to this place may have been sent before the broker was started.
    perhaps_sent: u64,
    bytes: usize,
    limits: Limits,
    held: Held,
}

impl Queue {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self { waiting: VecDeque::new(), last_seq: 0, perhaps_sent: 0, bytes: 0, limits, held: Held::default() }
    }

    /// Has other limits from now on; what waits already stays.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Appends, and gives the delivery its place, which is answered. The oldest that have to go are told to `dropped`.
    pub fn push(&mut self, mut delivery: Delivery, mut dropped: impl FnMut(Delivery)) -> u64 {
        if self.limits.full == Full::DropOldest {
            while self.is_full_for(&delivery.message)
                && let Some(oldest) = self.pop()
            {
                dropped(oldest);
            }
            if memory::level() > Level::Ample {
                // Long queues give way before anybody is refused.
                let (messages, bytes) = memory::level().queue();
                self.shrink(messages, bytes, SHRINK_BY, dropped);
            }
        }
        self.last_seq += 1;
        delivery.seq = self.last_seq;
        self.put(delivery);
        self.last_seq
    }

    /// Puts back what waited before the broker was started, at its place.
    pub fn restore(&mut self, delivery: Delivery) {
        self.last_seq = self.last_seq.max(delivery.seq);
        self.put(delivery);
    }

    /// Goes on after this place. What waits up to `perhaps_sent` may have been sent before.
    pub fn go_on_after(&mut self, seq: u64, perhaps_sent: u64) {
        self.last_seq = self.last_seq.max(seq);
        self.perhaps_sent = perhaps_sent;
    }

    fn put(&mut self, delivery: Delivery) {
        self.bytes += delivery.message.size();
        self.waiting.push_back(delivery);
        self.settle();
    }

    /// Drops all that is more than these messages or bytes, oldest first, if the queue may drop.
    pub fn shorten(&mut self, messages: usize, bytes: usize, dropped: impl FnMut(Delivery)) {
        if self.limits.full == Full::DropOldest {
            self.shrink(messages, bytes, usize::MAX, dropped);
        }
    }

    fn shrink(&mut self, messages: usize, bytes: usize, mut most: usize, mut dropped: impl FnMut(Delivery)) {
        while most > 0
            && (self.waiting.len() > messages || self.bytes > bytes)
            && let Some(oldest) = self.pop()
        {
            dropped(oldest);
            most -= 1;
        }
        if self.waiting.capacity() > 1024 && self.waiting.len() < self.waiting.capacity() / 4 {
            self.waiting.shrink_to(self.waiting.len() * 2);
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.held.settle(self.waiting.capacity() * size_of::<Delivery>());
    }

    /// The place of the oldest.
    pub fn first_seq(&self) -> Option<u64> {
        self.waiting.front().map(|delivery| delivery.seq)
    }

    /// The oldest.
    pub fn front(&self) -> Option<&Delivery> {
        self.waiting.front()
    }

    /// The oldest, taken out.
    pub fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.waiting.pop_front()?;
        self.bytes -= delivery.message.size();
        if self.waiting.is_empty() && self.waiting.capacity() > 1024 {
            // A burst must not pin its memory for the rest of the session.
            self.waiting = VecDeque::new();
            self.settle();
        }
        Some(delivery)
    }

    /// Takes out the oldest that have waited too long, up to the first that has not, and at most `most`; each is told to
    /// `gone`.
    pub fn drop_old(&mut self, age: Age, most: usize, mut gone: impl FnMut(Delivery)) -> Old {
        let mut old = Old::default();
        while old.len() < most
            && let Some(oldest) = self.waiting.front()
            && age.is_over(&oldest.message)
            && self.may_drop(oldest)
            && let Some(oldest) = self.pop()
        {
            if oldest.message.is_expired(age.now) {
                old.expired += 1;
            } else {
                old.dropped += 1;
            }
            gone(oldest);
        }
        old
    }

    /// A client that has said PUBREC for a message keeps its packet identifier until it gets PUBREL: what it may have is sent
    /// again, or it would take another message with that identifier for the same one.
    fn may_drop(&self, delivery: &Delivery) -> bool {
        let is_doubtful = delivery.qos == QoS::ExactlyOnce && delivery.seq <= self.perhaps_sent;
        self.limits.full != Full::Wait && !is_doubtful
    }

    /// Takes out all those that are meant, in their order.
    pub fn extract(&mut self, mut meant: impl FnMut(&Delivery) -> bool) -> Vec<Delivery> {
        let mut taken = Vec::new();
        // Nothing is moved while nothing is meant, which is the usual case.
        self.waiting.retain(|delivery| {
            let stays = !meant(delivery);
            if !stays {
                taken.push(delivery.clone());
            }
            stays
        });
        self.bytes -= taken.iter().map(|delivery| delivery.message.size()).sum::<usize>();
        taken
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes that wait, each message counted in full although it may be shared.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a limit is reached.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= self.limits.messages || self.bytes >= self.limits.bytes
    }

    /// Whether this message would be one too many.
    pub fn is_full_for(&self, message: &Message) -> bool {
        self.waiting.len() >= self.limits.messages || self.bytes + message.size() > self.limits.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::packet::Publish;
    use crate::mqtt::property::PublishProperties;

    fn delivery(payload: &str) -> Delivery {
        of(payload, QoS::AtLeastOnce, 0, None)
    }

    /// One that was received at this time, and lives so many seconds.
    fn of(payload: &str, qos: QoS, received_at: u64, message_expiry: Option<u32>) -> Delivery {
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic: "t",
            packet_id: None,
            properties: PublishProperties { message_expiry, ..Default::default() },
            payload: payload.as_bytes(),
        };
        Delivery::new(Arc::new(Message::new(&publish, "t", received_at, None)), qos, false, None)
    }

    /// Pushes, and answers how many had to go.
    fn push(queue: &mut Queue, payload: &str) -> usize {
        let mut dropped = 0;
        queue.push(delivery(payload), |_| dropped += 1);
        dropped
    }

    fn shorten(queue: &mut Queue, messages: usize, bytes: usize) -> usize {
        let mut dropped = 0;
        queue.shorten(messages, bytes, |_| dropped += 1);
        dropped
    }

    #[test]
    fn a_full_queue_drops_the_oldest_and_says_so() {
        let mut queue = Queue::new(Limits { messages: 2, bytes: usize::MAX, full: Full::DropOldest });
        assert_eq!(push(&mut queue, "1"), 0);
        assert_eq!(push(&mut queue, "2"), 0);
        assert_eq!(push(&mut queue, "3"), 1);
        assert_eq!(queue.pop().unwrap().message.payload(), b"2");
        assert_eq!(queue.pop().unwrap().message.payload(), b"3");
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn what_is_taken_out_of_the_middle_is_no_longer_counted() {
        let mut queue = Queue::new(Limits { messages: 10, bytes: usize::MAX, full: Full::DropOldest });
        for payload in ["1", "22", "3", "22"] {
            push(&mut queue, payload);
        }
        let taken = queue.extract(|delivery| delivery.message.payload() == b"22");
        assert_eq!((taken.len(), queue.len()), (2, 2));
        assert_eq!(queue.pop().unwrap().message.payload(), b"1");
        assert_eq!(queue.pop().unwrap().message.payload(), b"3");
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_queue_that_must_not_drop_grows_past_its_limit_and_reports_full() {
        let mut queue = Queue::new(Limits { messages: 1, bytes: usize::MAX, full: Full::Wait });
        assert_eq!(push(&mut queue, "1") + push(&mut queue, "2"), 0);
        assert_eq!(queue.len(), 2);
        assert!(queue.is_full());
    }

    #[test]
    fn a_long_queue_gives_way_a_few_messages_at_a_time_and_keeps_the_newest() {
        let mut queue = Queue::new(Limits { messages: usize::MAX, bytes: usize::MAX, full: Full::DropOldest });
        (0..100).for_each(|number| {
            push(&mut queue, &number.to_string());
        });
        let mut shrink = || {
            let mut dropped = Vec::new();
            queue.shrink(90, usize::MAX, 4, |delivery| dropped.push(delivery.seq));
            dropped
        };
        assert_eq!([shrink(), shrink(), shrink(), shrink()], [vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9, 10], vec![]]);
        assert_eq!(queue.pop().unwrap().message.payload(), b"10");
        let size = queue.pop().unwrap().message.size();
        shorten(&mut queue, usize::MAX, 3 * size);
        assert_eq!(queue.len(), 3);
        assert_eq!(shorten(&mut queue, 3, 3 * size), 0);
        let mut kept = Queue::new(Limits { messages: 1, bytes: 1, full: Full::Wait });
        (0..3).for_each(|_| assert_eq!(push(&mut kept, "x"), 0));
        assert_eq!(shorten(&mut kept, 0, 0), 0, "what must not drop does not");
    }

    const ROOMY: Limits = Limits { messages: usize::MAX, bytes: usize::MAX, full: Full::Refuse };

    /// A queue with messages of these times, and which of them go; then what is left.
    fn drop_old(limits: Limits, waiting: Vec<Delivery>, age: Age, most: usize) -> (Old, Vec<u64>, usize) {
        let mut queue = Queue::new(limits);
        for delivery in waiting {
            queue.push(delivery, |_| {});
        }
        let mut gone = Vec::new();
        let old = queue.drop_old(age, most, |delivery| gone.push(delivery.seq));
        assert_eq!(queue.bytes(), queue.waiting.iter().map(|delivery| delivery.message.size()).sum::<usize>());
        (old, gone, queue.len())
    }

    #[test]
    fn what_has_waited_longer_than_it_may_goes_and_what_has_waited_just_so_long_stays() {
        let waiting = || [1000, 1001, 1002, 900].map(|at| of("x", QoS::AtLeastOnce, at, None)).to_vec();
        let dropped = |dropped| Old { dropped, expired: 0 };
        // The last is as old as any, but behind one that is not: it goes when that one has gone.
        assert_eq!(drop_old(ROOMY, waiting(), Age::new(3001, 2000), 9), (dropped(1), vec![1], 3));
        assert_eq!(drop_old(ROOMY, waiting(), Age::new(3003, 2000), 9), (dropped(4), vec![1, 2, 3, 4], 0));
        assert_eq!(drop_old(ROOMY, waiting(), Age::new(3003, 2000), 2), (dropped(2), vec![1, 2], 2), "a part");
        assert_eq!(drop_old(ROOMY, waiting(), Age::ANY, 9), (dropped(0), vec![], 4));
        assert_eq!(drop_old(ROOMY, waiting(), Age::new(10, 1), 9), (dropped(0), vec![], 4), "the clock was set back");
    }

    #[test]
    fn a_message_of_which_nobody_knows_when_it_was_received_is_never_too_old() {
        let waiting = vec![of("x", QoS::AtLeastOnce, 0, None)];
        assert_eq!(drop_old(ROOMY, waiting, Age::new(u64::MAX, 1), 9), (Old::default(), vec![], 1));
    }

    #[test]
    fn what_has_expired_as_well_is_told_from_what_the_limit_cost() {
        let waiting = vec![of("x", QoS::AtLeastOnce, 1000, Some(1)), of("x", QoS::AtLeastOnce, 1000, Some(9))];
        let old = Old { dropped: 1, expired: 1 };
        assert_eq!(drop_old(ROOMY, waiting, Age::new(5000, 2000), 9), (old, vec![1, 2], 0));
    }

    #[test]
    fn nothing_is_too_old_for_a_queue_that_must_not_drop() {
        let waiting = vec![of("x", QoS::AtLeastOnce, 1, None)];
        let limits = Limits { full: Full::Wait, ..ROOMY };
        assert_eq!(drop_old(limits, waiting, Age::new(u64::MAX, 1), 9), (Old::default(), vec![], 1));
    }

    #[test]
    fn what_the_client_may_hold_an_identifier_of_is_not_too_old() {
        for (qos, left) in [(QoS::AtLeastOnce, 0), (QoS::ExactlyOnce, 1)] {
            let mut queue = Queue::new(ROOMY);
            (1..=2).for_each(|seq| queue.restore(Delivery { seq, ..of("x", qos, 1, None) }));
            queue.go_on_after(2, 1);
            queue.drop_old(Age::new(1000, 1), 9, |_| {});
            assert_eq!(queue.len(), 2 * left, "{qos:?}: and what is behind it waits");
            queue.pop();
            queue.drop_old(Age::new(1000, 1), 9, |_| {});
            assert_eq!(queue.len(), 0);
        }
    }

    #[test]
    fn a_message_larger_than_the_byte_limit_is_kept_alone() {
        let mut queue = Queue::new(Limits { messages: 10, bytes: 8, full: Full::DropOldest });
        push(&mut queue, "small");
        assert_eq!(push(&mut queue, "much larger than eight bytes"), 1);
        assert_eq!(queue.len(), 1);
    }
}
