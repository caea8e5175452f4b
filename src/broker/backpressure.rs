//! What a publisher does when a subscriber is behind.
//!
//! Its acknowledgements are withheld, so that a client with a window stops by itself; one without a window, or at QoS 0,
//! is not read, unless it owes acknowledgements itself: not reading those would stall its own publishers. The hold ends
//! when the subscriber has caught up and it is this publisher's turn, or when the subscriber stops making progress.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Connection;
use super::mailbox::{Mailbox, Ticket};
use crate::store::journal::{Journal, Position};

/// Milliseconds after which a hold is looked at again, whether or not it was ended.
pub const RECHECK: u64 = 20;
/// Bytes of withheld acknowledgements above which even a client that owes some is not read.
const WITHHELD_MOST: usize = 64 * 1024;
/// Bytes of the journal that may wait for the disk before a client that adds to them is not read.
const AHEAD_MOST: u64 = 8 * 1024 * 1024;
/// How long a connection that ends waits for its last answers to be written down.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Answers that wait: for a hold to end, or for what they acknowledge to be written down. They leave in their order.
#[derive(Debug, Default)]
pub struct Withheld {
    /// Encoded.
    pub bytes: Vec<u8>,
    /// How many PUBACKs are among those behind the last mark.
    pub acknowledged: u32,
    /// The first of them is CONNACK, before which nothing may leave.
    connack: bool,
    /// Nothing at all while the connection has nothing written down.
    journal: Option<Box<Awaited>>,
}

/// What of the journal a connection waits for.
#[derive(Debug, Default)]
struct Awaited {
    marks: VecDeque<Mark>,
    /// Up to where the journal was asked to wake the task.
    asked: Position,
    /// What a delivery waits for that the mailbox did not give away yet.
    delivery: Option<Position>,
}

/// Answers that may leave when the journal is written down to a position.
#[derive(Debug)]
struct Mark {
    position: Position,
    /// Where they end.
    end: usize,
    acknowledged: u32,
}

impl Withheld {
    /// CONNACK, which is to wait.
    pub fn connack(bytes: Vec<u8>, position: Position) -> Self {
        let mark = Mark { position, end: bytes.len(), acknowledged: 0 };
        let awaited = Awaited { marks: VecDeque::from([mark]), ..Awaited::default() };
        Self { bytes, acknowledged: 0, connack: true, journal: Some(Box::new(awaited)) }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether CONNACK is still to leave.
    pub fn is_connack(&self) -> bool {
        self.connack
    }

    /// What was withheld since the last mark waits for this position.
    pub fn wait_for(&mut self, position: Position) {
        let end = self.bytes.len();
        let marks = &mut self.journal.get_or_insert_default().marks;
        if end > marks.back().map_or(0, |last| last.end) {
            marks.push_back(Mark { position, end, acknowledged: std::mem::take(&mut self.acknowledged) });
        }
    }

    /// A delivery waits for this position, or for a publisher to know it.
    pub fn delivery_at(&mut self, position: Position) {
        self.journal.get_or_insert_default().delivery = Some(position);
    }

    /// Has the journal wake the task when something may go on.
    fn ask(&mut self, journal: &Journal, waker: &Waker) {
        let Some(awaited) = &mut self.journal else { return };
        match awaited.delivery.take() {
            // The publisher is about to write it down, in its own turn.
            Some(Position::MAX) => waker.wake_by_ref(),
            Some(position) => journal.wake_at(position, waker),
            None => {}
        }
        match awaited.marks.back() {
            None => self.journal = None,
            Some(last) if last.position > awaited.asked => {
                awaited.asked = last.position;
                journal.wake_at(last.position, waker);
            }
            Some(_) => {}
        }
    }

    /// Position up to which everything is to be written down before all of it may leave.
    fn last(&self) -> Option<Position> {
        self.journal.as_ref()?.marks.back().map(|last| last.position)
    }

    /// Takes out what may leave when the journal is written down so far; answers how many PUBACKs it is.
    fn release(&mut self, durable: Position, mut out: impl FnMut(&[u8])) -> u32 {
        let (mut end, mut acknowledged) = (0, 0);
        let mut none = VecDeque::new();
        let marks = self.journal.as_mut().map_or(&mut none, |awaited| &mut awaited.marks);
        while let Some(mark) = marks.pop_front_if(|mark| mark.position <= durable) {
            end = mark.end;
            acknowledged += mark.acknowledged;
        }
        if marks.is_empty() {
            end = self.bytes.len();
            acknowledged += std::mem::take(&mut self.acknowledged);
        }
        if end > 0 {
            self.connack = false;
            out(&self.bytes[..end]);
            for mark in marks.iter_mut() {
                mark.end -= end;
            }
            if end == self.bytes.len() { self.bytes = Vec::new() } else { drop(self.bytes.drain(..end)) }
        }
        acknowledged
    }
}

/// A subscriber that a publisher waits for.
#[derive(Debug)]
pub struct Hold {
    mailbox: Arc<Mailbox>,
    /// The place in the line; taken at the end of the turn.
    ticket: Option<Arc<Ticket>>,
    pub checked: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Begins to wait for a subscriber; one at a time is enough.
    pub(super) fn hold_for(&mut self, mailbox: Arc<Mailbox>, now: u64) {
        // Whoever waits for itself would wait for ever: its own acknowledgements are what it must read.
        if self.hold.is_none() && mailbox.session != self.mailbox.session {
            self.turn.holds += 1;
            self.hold = Some(Hold { mailbox, ticket: None, checked: now });
        }
    }

    /// Whether the client is not read for now.
    pub(super) fn is_paused(&self) -> bool {
        let too_much = self.withheld.bytes.len() > WITHHELD_MOST;
        too_much || self.is_ahead_of_disk() || (self.hold.is_some() && self.session.inflight.is_empty())
    }

    /// Whether so much waits to be written down that no more is taken from this client for now.
    fn is_ahead_of_disk(&self) -> bool {
        let Some(journal) = &self.shared.journal else { return false };
        self.written_to.saturating_sub(journal.durable()) > AHEAD_MOST
    }

    pub(super) fn check_hold(&mut self, now: u64) {
        let Some(hold) = &mut self.hold else { return };
        let over = hold.ticket.as_ref().is_some_and(|ticket| ticket.is_released())
            || (now >= hold.checked + RECHECK && !hold.mailbox.still_holds(now));
        if now >= hold.checked + RECHECK {
            hold.checked = now;
        }
        if over {
            self.release_hold();
        }
    }

    /// Takes a place in the line, at the end of the turn in which the hold began.
    pub(super) fn line_up(&mut self, cx: &mut Context<'_>, now: u64) {
        let Some(hold) = &mut self.hold else { return };
        if hold.ticket.is_none() {
            hold.ticket = hold.mailbox.line_up(now, cx.waker());
            if hold.ticket.is_none() {
                self.release_hold();
                cx.waker().wake_by_ref();
            }
        }
    }

    /// Ends the hold and queues the answers that it withheld.
    pub(super) fn release_hold(&mut self) {
        self.hold = None;
        self.release_withheld();
    }

    /// Queues the answers that nothing withholds any more.
    pub(super) fn release_withheld(&mut self) {
        if self.hold.is_none() && !self.withheld.is_empty() {
            let durable = self.shared.journal.as_ref().map_or(Position::MAX, Journal::durable);
            let outbox = &mut self.outbox;
            let released = self.withheld.release(durable, |bytes| outbox.write(|out| out.extend_from_slice(bytes)));
            self.session.inbound.acknowledged(released);
        }
    }

    /// Has written down what is to be, wakes whom the turn has given something, and sees to it that the task runs again
    /// when its answers may go.
    pub(super) fn commit(&mut self, cx: &mut Context<'_>) {
        self.write_down();
        if let Some(journal) = &self.shared.journal {
            self.withheld.ask(journal, cx.waker());
            if self.is_ahead_of_disk() {
                journal.wake_at(self.written_to, cx.waker());
            }
        }
    }

    /// Has written down what is to be, and wakes whom the turn has given something.
    pub(super) fn write_down(&mut self) {
        let Some(effects) = &mut self.effects else { return };
        if let Some(position) = effects.write(self.shared.journal.as_ref()) {
            self.written_to = position;
            self.withheld.wait_for(position);
        }
        effects.wake();
    }

    /// At the end of a connection: gives the last answers a moment to be written down.
    pub(super) async fn release_written(&mut self) {
        self.hold = None;
        if let (Some(journal), Some(position)) = (&self.shared.journal, self.withheld.last()) {
            // Without an answer the client sends again; it must not keep the connection for that.
            let _ = tokio::time::timeout(LAST_ANSWERS, journal.written(position)).await;
        }
        self.release_withheld();
    }
}
