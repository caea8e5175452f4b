//! What a piece of work leaves to be done when it is over: sessions to wake, and what has to be written down.

use std::sync::Arc;
use std::task::Waker;

use super::Shared;
use super::mailbox::Mailbox;
use crate::mqtt::{PacketId, QoS};
use crate::store::journal::{Journal, Position, Records, Target};
use crate::store::{Delivery, Message};

/// Gathered while clients' packets are handled, and carried out once at the end of the turn.
#[derive(Debug, Default)]
pub struct Effects {
    /// Subscribers to wake.
    pub wakers: Vec<Waker>,
    /// What is to be written down.
    pub records: Records,
    /// The durable sessions that the message at hand was given to.
    pub targets: Vec<Target>,
    /// Messages of QoS 2, which no durable session may have before they are written down.
    pending: Vec<Arc<Message>>,
    /// Whether somebody waits for the records, or may: else they go with the next ones.
    awaited: bool,
}

impl Effects {
    /// The records, for one that somebody waits for.
    pub fn awaited(&mut self) -> &mut Records {
        self.awaited = true;
        &mut self.records
    }

    /// Whether somebody waits for what is to be written down.
    pub fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// A session is done with a delivery, or never gets it.
    pub fn done(&mut self, mailbox: &Mailbox, delivery: &Delivery) {
        if mailbox.durable && delivery.seq > 0 {
            self.records.done(mailbox.session, delivery.seq);
        }
    }

    /// A message has been given to all that get it. It is written down if some of them are durable, if it is retained,
    /// or if the identifier of its publication is to be known after a restart.
    pub fn published(
        &mut self,
        journal: Option<&Journal>,
        message: &Arc<Message>,
        inbound: Option<(u64, PacketId)>,
        retained: bool,
    ) {
        let Some(journal) = journal else { return };
        if self.targets.is_empty() && !retained {
            message.written_at(0);
            if let Some((session, id)) = inbound {
                self.awaited().inbound(session, id);
            }
            return;
        }
        message.id(|| journal.message_id());
        let deleted = retained && message.payload().is_empty();
        if deleted {
            self.records.unretained(message.topic(), message.id(|| 0));
        }
        self.records.published(message, inbound, retained && !deleted, &self.targets);
        self.targets.clear();
        if message.qos == QoS::ExactlyOnce {
            self.pending.push(message.clone());
        }
        self.awaited |= message.qos > QoS::AtMostOnce;
    }

    /// A message that was published before has been given to another session.
    pub fn given_again(&mut self, journal: Option<&Journal>, message: &Arc<Message>) {
        if let Some(journal) = journal
            && !self.targets.is_empty()
        {
            if message.journaled() {
                self.records.queued(message, &self.targets);
            } else {
                message.id(|| journal.message_id());
                self.records.published(message, None, false, &self.targets);
            }
        }
        self.targets.clear();
    }

    /// Forgets what was to be written down, after a mistake of ours in the middle of it: half a record would spoil what is
    /// behind it. Nothing of it has been acknowledged.
    pub fn abandon(&mut self) {
        self.records.clear();
        self.targets.clear();
        self.awaited = false;
        self.pending.drain(..).for_each(|message| message.written_at(0));
    }

    /// Wakes all that are to be woken.
    pub fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    /// Has everything written down; answers the position behind it, or nothing if there was nothing.
    pub fn write(&mut self, journal: Option<&Journal>) -> Option<Position> {
        let journal = journal.filter(|_| !self.records.is_empty())?;
        let append = if self.awaited { Journal::append } else { Journal::append_lazily };
        let position = append(journal, &mut self.records);
        self.awaited = false;
        self.pending.drain(..).for_each(|message| message.written_at(position));
        Some(position)
    }
}

impl Shared {
    /// Carries out what work has left for which nobody waits.
    pub fn carry_out(&self, mut effects: Effects) {
        effects.write(self.journal.as_ref());
        effects.wake();
    }
}
