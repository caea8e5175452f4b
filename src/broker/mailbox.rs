//! What other tasks may touch of a session: the place where its messages arrive.
//!
//! Everything is behind one short lock. A publisher pushes, and collects a waker only if the session's task had gone to
//! sleep; it wakes all of them once, after its whole batch is routed. The session's task takes what its window admits.
//!
//! Backpressure: above a soft limit a push answers [`Pressure::Hold`], and the publisher withholds its acknowledgements
//! (or pauses, at QoS 0) until a ticket is handed back, first come first served. It never waits for a session that makes
//! no progress: there the queue grows to its own limit, and QoS 0 is shed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use tokio::sync::oneshot;

use super::effects::Effects;
use super::sessions::{Ask, Described};
use crate::mqtt::{QoS, ReasonCode};
use crate::store::journal::{Position, Target};
use crate::store::memory::{self, Held, Level};
use crate::store::{Age, Delivery, Full, Inflight, Limits, Message, Old, Queue};

/// QoS 0 bytes that wait for one subscriber before publishers pause. A stalled subscriber gets no more than that.
const QOS0_SOFT: usize = 256 * 1024;
/// QoS 0 bytes before the newest are shed in any case: room for what many publishers have read before they pause.
const QOS0_HARD: usize = 8 * 1024 * 1024;
/// The same two, at each level of memory.
const QOS0: [(usize, usize); Level::ALL.len()] =
    [(QOS0_SOFT, QOS0_HARD), (64 * 1024, 1024 * 1024), (16 * 1024, 256 * 1024), (4 * 1024, 64 * 1024)];
/// Places of the buffer for QoS 0 that a mailbox keeps when it is emptied.
const KEEP_QOS0: usize = 4096;
/// QoS 1 and 2 messages and bytes that wait for one subscriber before publishers are held.
const QUEUE_SOFT_MESSAGES: usize = 4096;
const QUEUE_SOFT_BYTES: usize = 1024 * 1024;
/// A session that took nothing for so long, in milliseconds, holds nobody.
const STALLED_AFTER: u64 = 100;
/// What a session must take of its queue in that time to be waited for, in bytes; a message counts as a hundredth of it at
/// least. A client that acknowledges now and then, or reads QoS 0 alone, would else hold every publisher for ever.
const SERVED: usize = 64 * 1024;
/// Messages that are found too old at a time, so that a queue of a hundred thousand does not keep publishers waiting.
const OLD_AT_ONCE: usize = 1024;

/// Where the messages of one session arrive, connected or not.
#[derive(Debug)]
pub struct Mailbox {
    /// Unique in this process, and among all sessions that are written down.
    pub session: u64,
    /// The session is written down, with all that waits for it.
    pub durable: bool,
    inner: Mutex<Inner>,
    /// Milliseconds of the broker's clock at which the session last took something.
    progress: AtomicU64,
    /// The same clock, when it had last taken [`SERVED`] of the queue, or all of it.
    served: AtomicU64,
    /// Publishers wait for this session whatever it does: it must not drop.
    must_keep: bool,
    /// Publications that it has no room for are refused.
    may_refuse: bool,
    /// Whether there are commands; spares a lock at each turn.
    commanded: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    state: State,
    qos0: Vec<Delivery>,
    qos0_bytes: usize,
    qos0_held: Held,
    /// Messages that limits cost the session, and how many of them its task was told of.
    dropped: u64,
    told: u64,
    queue: Queue,
    /// What was taken of the queue since `served`, by the measure of [`SERVED`].
    taken: usize,
    /// The session's task, while there is one.
    task: Option<Waker>,
    /// Whether the task has nothing to do until it is woken.
    asleep: bool,
    /// Whether the in-flight window has room, so that a queued message is worth a wake.
    wants_queue: bool,
    commands: Vec<Command>,
    waiting: VecDeque<Arc<Ticket>>,
}

/// What waits for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub messages: usize,
    pub bytes: usize,
    /// Messages that a limit has cost the session.
    pub dropped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connected,
    Away,
    /// The session is over; whatever still arrives is forgotten.
    Over,
}

/// What a session's task is told by others.
#[derive(Debug)]
pub enum Command {
    /// End the connection for this reason, and with `forget` the session; `done` fires when the session is free.
    Close { reason: ReasonCode, forget: bool, done: Option<oneshot::Sender<()>> },
    /// Say what the session is like.
    Describe { ask: Box<Ask>, reply: oneshot::Sender<Described> },
}

/// A publisher's place in the line before a full mailbox.
#[derive(Debug)]
pub struct Ticket {
    released: AtomicBool,
    waker: Waker,
}

impl Ticket {
    /// Whether it is the publisher's turn.
    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }
}

/// How good a place a mailbox is, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    Online,
    Away,
    Full,
    FullAndAway,
}

/// What a session may take of its queue.
#[derive(Clone, Copy, Debug)]
pub struct Admitted {
    /// So many deliveries.
    pub window: usize,
    /// Those before this place.
    pub end: u64,
    /// At QoS 2 of a durable session, those that are written down up to here.
    pub written: Position,
    /// Those that have not waited longer.
    pub age: Age,
}

/// What a session learns when it takes what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Messages that limits have cost the session since that was last asked.
    pub dropped: u64,
    /// Where the next delivery will be written down, if it had to stay because it is not yet.
    pub unwritten: Option<Position>,
    /// Messages that had waited too long, and whether there may be more of them.
    pub old: Old,
    pub more_old: bool,
}

/// What a push means for the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    None,
    /// The message was taken, but no more should come at this pace.
    Hold,
}

/// What became of a pushed message, and of others because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    pub pressure: Pressure,
    /// Messages that a limit cost, this one or older ones.
    pub dropped: usize,
}

impl Mailbox {
    /// A mailbox without a connection.
    pub fn new(session: u64, limits: Limits, durable: bool) -> Self {
        let inner = Inner {
            state: State::Away,
            qos0: Vec::new(),
            qos0_bytes: 0,
            qos0_held: Held::default(),
            dropped: 0,
            told: 0,
            queue: Queue::new(limits),
            taken: 0,
            task: None,
            asleep: false,
            wants_queue: false,
            commands: Vec::new(),
            waiting: VecDeque::new(),
        };
        Self {
            session,
            durable,
            inner: Mutex::new(inner),
            progress: AtomicU64::new(0),
            served: AtomicU64::new(0),
            must_keep: limits.full == Full::Wait,
            may_refuse: limits.full == Full::Refuse,
            commanded: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock is held would be in this file, between plain moves of data that stay consistent.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes a message in. Whom to wake and what to write down is left in `effects`, for the end of the caller's turn.
    pub fn push(&self, delivery: Delivery, now: u64, effects: &mut Effects) -> Pushed {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let nothing = Pushed { pressure: Pressure::None, dropped: 0 };
        if inner.state == State::Over {
            return nothing;
        }
        let mut dropped = 0;
        let wake = if delivery.qos == QoS::AtMostOnce {
            if inner.state != State::Connected {
                return nothing;
            }
            if inner.asleep {
                self.begin_progress(now);
            }
            let size = delivery.message.size();
            let waiting = inner.qos0_bytes + size;
            let (soft, hard) = QOS0[memory::level() as usize];
            if waiting > hard || (waiting > soft && !self.is_progressing(now)) {
                inner.dropped += 1;
                return Pushed { pressure: self.pressure(inner, now), dropped: 1 };
            }
            inner.qos0_bytes += size;
            inner.qos0.push(delivery);
            inner.settle();
            true
        } else {
            if inner.wants_queue && inner.asleep {
                self.served.store(now, Ordering::Relaxed);
            }
            let mut target = self.durable.then(|| Target {
                session: self.session,
                seq: 0,
                qos: delivery.qos,
                retain: delivery.retain,
                via: delivery.via.clone(),
            });
            let seq = inner.queue.push(delivery, |oldest| {
                dropped += 1;
                effects.done(self, &oldest);
            });
            if let Some(target) = &mut target {
                target.seq = seq;
            }
            effects.targets.extend(target);
            inner.dropped += dropped as u64;
            inner.wants_queue
        };
        if wake && inner.asleep {
            inner.asleep = false;
            self.begin_progress(now);
            effects.wakers.extend(inner.task.clone());
        }
        Pushed { pressure: self.pressure(inner, now), dropped }
    }

    fn pressure(&self, inner: &Inner, now: u64) -> Pressure {
        let high = inner.qos0_bytes > QOS0[memory::level() as usize].0
            || inner.queue.len() > QUEUE_SOFT_MESSAGES
            || inner.queue.bytes() > QUEUE_SOFT_BYTES;
        if !high {
            return Pressure::None;
        }
        if self.must_keep && inner.queue.is_full() {
            return Pressure::Hold;
        }
        let takes = self.is_served(now) || (inner.qos0_bytes > QOS0_SOFT && self.is_progressing(now));
        if inner.state == State::Connected && takes { Pressure::Hold } else { Pressure::None }
    }

    fn is_served(&self, now: u64) -> bool {
        now.saturating_sub(self.served.load(Ordering::Relaxed)) < STALLED_AFTER
    }

    fn is_progressing(&self, now: u64) -> bool {
        now.saturating_sub(self.progress.load(Ordering::Relaxed)) < STALLED_AFTER
    }

    /// Until now there was nothing to take: the time in which the session must make progress begins here.
    fn begin_progress(&self, now: u64) {
        self.progress.store(now, Ordering::Relaxed);
    }

    /// Lines up behind this session. `None`: there is nothing to wait for any more.
    pub fn line_up(&self, now: u64, waker: &Waker) -> Option<Arc<Ticket>> {
        let mut inner = self.lock();
        if self.pressure(&inner, now) == Pressure::None {
            return None;
        }
        let ticket = Arc::new(Ticket { released: AtomicBool::new(false), waker: waker.clone() });
        inner.waiting.push_back(ticket.clone());
        Some(ticket)
    }

    /// Whether a publisher that holds a ticket has to go on waiting.
    pub fn still_holds(&self, now: u64) -> bool {
        self.pressure(&self.lock(), now) == Pressure::Hold
    }

    /// Takes what may be sent: all of QoS 0, and of the queue what `admitted` allows; what is too old for it is dropped.
    /// `qos0` must be empty: it becomes the mailbox's next buffer. From now on a push wakes the task.
    pub fn take(
        &self,
        admitted: &Admitted,
        qos0: &mut Vec<Delivery>,
        queued: &mut Vec<Delivery>,
        now: u64,
        effects: &mut Effects,
    ) -> Taken {
        let mut inner = self.lock();
        let inner = &mut *inner;
        std::mem::swap(&mut inner.qos0, qos0);
        if inner.qos0.capacity() > KEEP_QOS0 {
            inner.qos0 = Vec::new();
        }
        inner.settle();
        inner.qos0_bytes = 0;
        let mut taken = self.take_queued(inner, admitted, queued, effects);
        let window = admitted.window;
        if !(qos0.is_empty() && queued.is_empty()) {
            self.progress.store(now, Ordering::Relaxed);
        }
        inner.taken += queued.iter().map(|delivery| delivery.message.size().max(SERVED / 100)).sum::<usize>();
        if inner.taken >= SERVED || inner.queue.is_empty() {
            inner.taken = 0;
            self.served.store(now, Ordering::Relaxed);
        }
        inner.wants_queue = window > queued.len();
        inner.asleep = true;
        inner.release_waiting();
        taken.dropped = inner.newly_dropped();
        taken
    }

    /// The part of the queue.
    fn take_queued(
        &self,
        inner: &mut Inner,
        admitted: &Admitted,
        queued: &mut Vec<Delivery>,
        effects: &mut Effects,
    ) -> Taken {
        let Admitted { window, mut end, written, age } = *admitted;
        let mut taken = Taken::default();
        while queued.len() < window {
            if age != Age::ANY {
                let old = self.drop_old_of(inner, age, OLD_AT_ONCE - taken.old.len(), effects);
                taken.old.add(old);
                if taken.old.len() == OLD_AT_ONCE {
                    taken.more_old = true;
                    break;
                }
            }
            let Some(next) = inner.queue.front().filter(|next| next.seq < end) else { break };
            if self.durable && next.qos == QoS::ExactlyOnce && next.message.written() > written {
                taken.unwritten = Some(next.message.written());
                break;
            }
            end = end.min(next.seq + Inflight::SPAN);
            queued.extend(inner.queue.pop());
        }
        taken
    }

    fn drop_old_of(&self, inner: &mut Inner, age: Age, most: usize, effects: &mut Effects) -> Old {
        let old = inner.queue.drop_old(age, most, |oldest| effects.done(self, &oldest));
        inner.dropped += old.dropped as u64;
        old
    }

    /// Drops what waits and is too old. Answers whether there may be more of it: so much is dropped at a time.
    pub fn drop_old(&self, age: Age, effects: &mut Effects) -> (Old, bool) {
        let mut inner = self.lock();
        let old = self.drop_old_of(&mut inner, age, OLD_AT_ONCE, effects);
        if !old.is_empty() {
            inner.release_waiting();
        }
        (old, old.len() == OLD_AT_ONCE)
    }

    /// How many messages limits have cost the session since that was last asked.
    pub fn newly_dropped(&self) -> u64 {
        self.lock().newly_dropped()
    }

    /// Whether a push has woken the task since it last took something.
    pub fn was_woken(&self) -> bool {
        !self.lock().asleep
    }

    /// The client has taken or acknowledged something.
    pub fn made_progress(&self, now: u64) {
        self.progress.store(now, Ordering::Relaxed);
    }

    /// Puts into the queue what waited there before the broker was started, and lets it go on after `last`. What waits up to
    /// `perhaps_sent` may have been sent before.
    pub fn restore(&self, deliveries: impl Iterator<Item = Delivery>, last: u64, perhaps_sent: u64) {
        let mut inner = self.lock();
        deliveries.for_each(|delivery| inner.queue.restore(delivery));
        inner.queue.go_on_after(last, perhaps_sent);
    }

    /// Takes out all that is meant of what waits. At QoS 0 it is forgotten, and counted where nobody is told of it.
    pub fn extract(&self, mut meant: impl FnMut(&Delivery) -> bool) -> Vec<Delivery> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.qos0.retain(|delivery| !meant(delivery));
        inner.qos0_bytes = inner.qos0.iter().map(|delivery| delivery.message.size()).sum();
        let taken = inner.queue.extract(meant);
        inner.release_waiting();
        taken
    }

    /// Lets more wait, or less: what waits already stays.
    pub fn limit(&self, limits: Limits) {
        let mut inner = self.lock();
        inner.queue.limit(limits);
        if !inner.queue.is_full() {
            inner.release_all();
        }
    }

    /// Wakes the session's task, if there is one.
    pub fn wake(&self) {
        let task = self.lock().task.clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Drops what waits beyond these messages or bytes, oldest first, if that is how its queue gives way. The bounds are
    /// halved so many times while the client is away: one that is connected takes what waits, or is disconnected soon.
    pub fn shorten(&self, messages: usize, bytes: usize, halvings: u32, effects: &mut Effects) -> usize {
        let mut inner = self.lock();
        let halvings = if inner.state == State::Connected { 0 } else { halvings };
        let mut dropped = 0;
        inner.queue.shorten(messages >> halvings, bytes >> halvings, |oldest| {
            dropped += 1;
            effects.done(self, &oldest);
        });
        inner.dropped += dropped as u64;
        dropped
    }

    /// A task serves the session from now on.
    pub fn attach(&self, task: &Waker) {
        self.lock().task = Some(task.clone());
    }

    /// A client is connected from now on.
    pub fn connect(&self, now: u64) {
        let mut inner = self.lock();
        inner.state = State::Connected;
        self.progress.store(now, Ordering::Relaxed);
        self.served.store(now, Ordering::Relaxed);
    }

    /// The connection is gone: QoS 0 is forgotten, the queue goes on. Returns commands that nobody has read.
    pub fn disconnect(&self) -> Vec<Command> {
        let mut inner = self.lock();
        inner.state = State::Away;
        inner.qos0 = Vec::new();
        inner.settle();
        inner.qos0_bytes = 0;
        inner.task = None;
        inner.asleep = false;
        inner.wants_queue = false;
        inner.release_all();
        std::mem::take(&mut inner.commands)
    }

    /// The session is over. Returns what waited in its queue.
    pub fn close(&self) -> Vec<Delivery> {
        let mut inner = self.lock();
        inner.state = State::Over;
        inner.qos0 = Vec::new();
        inner.settle();
        inner.release_all();
        std::iter::from_fn(|| inner.queue.pop()).collect()
    }

    /// What waits for the session now.
    pub fn waiting(&self) -> Waiting {
        let inner = self.lock();
        Waiting {
            messages: inner.qos0.len() + inner.queue.len(),
            bytes: inner.qos0_bytes + inner.queue.bytes(),
            dropped: inner.dropped,
        }
    }

    /// How good a place this is for a message that any of several sessions may have.
    pub fn standing(&self, message: &Message) -> Standing {
        let inner = self.lock();
        match (inner.state == State::Connected, message.qos > QoS::AtMostOnce && inner.queue.is_full_for(message)) {
            (true, false) => Standing::Online,
            (false, false) => Standing::Away,
            (true, true) => Standing::Full,
            (false, true) => Standing::FullAndAway,
        }
    }

    /// Whether a message must be refused as a whole because of this session.
    pub fn refuses(&self, message: &Message) -> bool {
        if !self.may_refuse {
            return false;
        }
        let inner = self.lock();
        inner.state != State::Over && inner.queue.is_full_for(message)
    }

    /// Tells the session's task something.
    pub fn command(&self, command: Command) {
        let task = {
            let mut inner = self.lock();
            inner.commands.push(command);
            self.commanded.store(true, Ordering::Release);
            inner.task.clone()
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    /// What the session's task was told.
    pub fn commands(&self) -> Vec<Command> {
        if !self.commanded.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut self.lock().commands)
    }
}

impl Inner {
    fn newly_dropped(&mut self) -> u64 {
        let told = std::mem::replace(&mut self.told, self.dropped);
        self.dropped - told
    }

    fn settle(&mut self) {
        self.qos0_held.settle(self.qos0.capacity() * size_of::<Delivery>());
    }

    /// Lets as many publishers go on as there is room for: each may bring a batch of its own.
    fn release_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let free = QUEUE_SOFT_MESSAGES.saturating_sub(self.queue.len());
        if self.qos0_bytes > QOS0_SOFT / 2
            || free < QUEUE_SOFT_MESSAGES / 2
            || self.queue.bytes() > QUEUE_SOFT_BYTES / 2
        {
            return;
        }
        if self.queue.is_empty() {
            return self.release_all();
        }
        for _ in 0..(free / 128).max(1) {
            let Some(ticket) = self.waiting.pop_front() else { return };
            ticket.release();
        }
    }

    fn release_all(&mut self) {
        for ticket in self.waiting.drain(..) {
            ticket.release();
        }
    }
}

impl Ticket {
    fn release(&self) {
        self.released.store(true, Ordering::Release);
        self.waker.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::packet::Publish;

    fn delivery(received_at: u64) -> Delivery {
        let (qos, properties) = (QoS::AtLeastOnce, Default::default());
        let publish = Publish { dup: false, qos, retain: false, topic: "t", packet_id: None, properties, payload: b"" };
        Delivery::new(Arc::new(Message::new(&publish, "t", received_at, None)), qos, false, None)
    }

    #[test]
    fn what_is_too_old_is_not_taken_but_dropped_a_part_at_a_time_and_counted() {
        let limits = Limits { messages: usize::MAX, bytes: usize::MAX, full: Full::DropOldest };
        let mailbox = Mailbox::new(1, limits, true);
        let mut effects = Effects::default();
        for received_at in std::iter::repeat_n(1000, OLD_AT_ONCE + 10).chain([2000, 2001]) {
            mailbox.push(delivery(received_at), 0, &mut effects);
        }
        let admitted = Admitted { window: 9, end: u64::MAX, written: u64::MAX, age: Age::new(2500, 500) };
        let take = |effects: &mut Effects| {
            let mut queued = Vec::new();
            let taken = mailbox.take(&admitted, &mut Vec::new(), &mut queued, 0, effects);
            (taken, queued.iter().map(|delivery| delivery.seq).collect::<Vec<_>>())
        };
        let of = |dropped, more_old| Taken {
            dropped: dropped as u64,
            unwritten: None,
            old: Old { dropped, expired: 0 },
            more_old,
        };
        let last = OLD_AT_ONCE as u64 + 10;
        let mut effects = Effects::default();
        assert_eq!(take(&mut effects), (of(OLD_AT_ONCE, true), vec![]));
        assert_eq!(take(&mut effects), (of(10, false), vec![last + 1, last + 2]));
        let mut expected = Effects::default();
        (1..=last).for_each(|seq| expected.records.done(1, seq));
        assert_eq!(effects.records.bytes(), expected.records.bytes(), "the journal forgets them");
        assert_eq!((mailbox.waiting().messages, mailbox.waiting().dropped), (0, last));
    }

    #[test]
    fn a_look_at_a_queue_drops_no_more_than_a_part_and_says_that_there_is_more() {
        let limits = Limits { messages: usize::MAX, bytes: usize::MAX, full: Full::Refuse };
        let mailbox = Mailbox::new(1, limits, false);
        for _ in 0..=OLD_AT_ONCE {
            mailbox.push(delivery(1), 0, &mut Effects::default());
        }
        let look = || {
            let (old, more) = mailbox.drop_old(Age::new(1000, 1), &mut Effects::default());
            (old.dropped, more)
        };
        assert_eq!([look(), look(), look()], [(OLD_AT_ONCE, true), (1, false), (0, false)]);
    }
}
