//! What a publisher does when a subscriber is behind.
//!
//! Its acknowledgements are withheld, so that a client with a window stops by itself; one without a window, or at QoS 0,
//! is not read, unless it owes acknowledgements itself: not reading those would stall its own publishers. The hold ends
//! when the subscriber has caught up and it is this publisher's turn, or when the subscriber stops making progress.

use std::sync::Arc;
use std::task::Context;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Connection;
use super::mailbox::{Mailbox, Ticket};

/// Milliseconds after which a hold is looked at again, whether or not it was ended.
pub const RECHECK: u64 = 20;
/// Bytes of withheld acknowledgements above which even a client that owes some is not read.
const WITHHELD_MOST: usize = 64 * 1024;

/// Acknowledgements that wait for a hold to end.
#[derive(Debug, Default)]
pub struct Withheld {
    /// Encoded, in the order of the publications.
    pub bytes: Vec<u8>,
    /// How many PUBACKs are among them.
    pub acknowledged: u32,
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
        self.hold.is_some() && (self.session.inflight.is_empty() || self.withheld.bytes.len() > WITHHELD_MOST)
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

    /// Ends the hold and queues the acknowledgements that it withheld.
    pub(super) fn release_hold(&mut self) {
        self.hold = None;
        if !self.withheld.bytes.is_empty() {
            let withheld = std::mem::take(&mut self.withheld);
            self.outbox.write(|out| out.extend_from_slice(&withheld.bytes));
            self.session.inbound.acknowledged(withheld.acknowledged);
        }
    }
}
