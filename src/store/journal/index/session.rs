//! A session, as far as the journal needs to know it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{EARLY, Left, NO_SLOT, Place};
use crate::mqtt::{PacketId, QoS};
use crate::store::Via;
use crate::store::journal::record::EXTRA;

/// A delivery of a queue.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub seq: u64,
    pub(super) via: Option<Arc<Via>>,
    /// [`NO_SLOT`]: it is over.
    pub(super) slot: u32,
    pub(super) flags: Flags,
}

/// What a delivery is besides its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) received: bool,
    /// It has a record apart from its message's.
    pub(super) apart: bool,
}

/// A delivery as the journal knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub slot: u32,
    pub qos: QoS,
    pub retain: bool,
    pub received: bool,
    pub via: Option<Arc<Via>>,
}

impl Waiting {
    pub fn held(&self) -> Held {
        let Flags { qos, retain, received, .. } = self.flags;
        Held { slot: self.slot, qos, retain, received, via: self.via.clone() }
    }
}

/// A delivery outside the queue.
#[derive(Clone, Debug)]
pub struct Extra {
    pub number: u64,
    pub before: u64,
    pub(super) entry: Waiting,
}

impl Extra {
    pub fn held(&self) -> Held {
        self.entry.held()
    }
}

/// What few sessions have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    pub(super) extras: Vec<Extra>,
    /// Deliveries that were over (`true`) or received before they were said to begin: publishers say it at the end of
    /// their turn.
    pub(super) early: BTreeMap<u64, bool>,
}

/// A session.
#[derive(Debug, Default)]
pub struct Session {
    /// Nowhere: only others have spoken of it.
    pub place: Place,
    pub away: Option<Left>,
    /// By the hash of the filter.
    pub(super) subscriptions: Vec<(u64, Place)>,
    /// Sorted.
    pub(super) inbound: Vec<PacketId>,
    /// Sorted by sequence number.
    pub(super) queue: VecDeque<Waiting>,
    pub(super) over: u32,
    pub last_seq: u64,
    pub last_extra: u64,
    pub(super) rare: Option<Box<Rare>>,
}

impl Session {
    pub fn subscriptions(&self) -> impl Iterator<Item = Place> {
        self.subscriptions.iter().map(|(_, place)| *place)
    }

    pub fn inbound(&self) -> &[PacketId] {
        &self.inbound
    }

    /// The deliveries of the queue that are not over, in their order.
    pub fn queue(&self) -> impl Iterator<Item = &Waiting> {
        self.queue.iter().filter(|entry| entry.slot != NO_SLOT)
    }

    pub fn extras(&self) -> &[Extra] {
        self.rare.as_ref().map_or(&[], |rare| &rare.extras)
    }

    pub(super) fn at(&self, seq: u64) -> Result<usize, usize> {
        // Acknowledgements come mostly in order, so the first is usually meant.
        if self.queue.front().is_some_and(|front| front.seq == seq) {
            return Ok(0);
        }
        if self.queue.back().is_none_or(|back| back.seq < seq) {
            return Err(self.queue.len());
        }
        self.queue.binary_search_by_key(&seq, |entry| entry.seq)
    }

    pub(super) fn find(&self, seq: u64) -> Option<&Waiting> {
        self.at(seq).ok().map(|at| &self.queue[at]).filter(|entry| entry.slot != NO_SLOT)
    }

    pub(super) fn extra(&self, number: u64) -> Option<usize> {
        self.extras().binary_search_by_key(&number, |extra| extra.number).ok()
    }

    pub(super) fn early(&mut self, seq: u64, over: bool) {
        let early = &mut self.rare.get_or_insert_default().early;
        *early.entry(seq).or_default() |= over;
        if early.len() > EARLY {
            early.pop_first();
        }
    }

    pub(super) fn take_early(&mut self, seq: u64) -> Option<bool> {
        self.rare.as_mut()?.early.remove(&seq)
    }

    /// Ends a delivery; answers what it was.
    pub(super) fn end(&mut self, at: usize) -> Option<(u32, Flags)> {
        let entry = &mut self.queue[at];
        let ended = (entry.slot != NO_SLOT).then_some((entry.slot, entry.flags))?;
        (entry.slot, entry.via) = (NO_SLOT, None);
        self.over += 1;
        while self.queue.front().is_some_and(|front| front.slot == NO_SLOT) {
            self.queue.pop_front();
            self.over -= 1;
        }
        if self.over > 32 && self.over as usize > self.queue.len() / 2 {
            self.queue.retain(|entry| entry.slot != NO_SLOT);
            self.over = 0;
        }
        if self.queue.capacity() > 64 && self.queue.len() < self.queue.capacity() / 4 {
            self.queue.shrink_to(self.queue.len() * 2);
        }
        Some(ended)
    }
}

impl Session {
    pub(super) fn mention(&mut self, seq: u64) {
        if seq & EXTRA == 0 {
            self.last_seq = self.last_seq.max(seq);
        } else {
            self.last_extra = self.last_extra.max(seq & !EXTRA);
        }
    }
}
