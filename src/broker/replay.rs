//! Retained messages on their way to new subscriptions.
//!
//! They are looked for in portions, when the client has taken those before: a subscription to everything costs no more
//! memory than any other, and what is sent is what is retained at that time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shared;
use crate::mqtt::QoS;
use crate::mqtt::packet::SubscriptionOptions;
use crate::store::memory::Held;
use crate::store::{Cursor, Delivery, Via};

/// Subscriptions that wait for their retained messages before it matters that some may be the same.
const MANY: usize = 64;

/// What new subscriptions still get. It costs nothing while there is nothing.
#[derive(Debug, Default)]
pub struct Replay(Option<Box<Pending>>);

#[derive(Debug, Default)]
struct Pending {
    found: VecDeque<Delivery>,
    searches: VecDeque<Search>,
    /// What is on the account of memory while no connection has it there.
    parked: Held,
}

#[derive(Debug)]
struct Search {
    filter: Box<str>,
    options: SubscriptionOptions,
    via: Option<Arc<Via>>,
    /// Only what does not wait in a queue.
    unqueued: bool,
    cursor: Cursor,
}

impl Replay {
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Lets a subscription have what is retained, again if it is made again `[MQTT-3.8.4-3]`. Where very many wait, one
    /// that waits already begins anew instead of waiting twice.
    pub fn add(&mut self, filter: &str, options: SubscriptionOptions, identifier: Option<u32>) {
        let via = identifier.map(|id| Arc::new(Via { identifiers: vec![id], share: None }));
        self.look_for(Search { filter: filter.into(), options, via, unqueued: false, cursor: Cursor::default() });
    }

    /// The same for a subscription that was made while its client was away: what is retained at QoS 1 and 2 is in the
    /// session's queue already.
    pub fn add_unqueued(&mut self, filter: &str, options: SubscriptionOptions) {
        self.look_for(Search { filter: filter.into(), options, via: None, unqueued: true, cursor: Cursor::default() });
    }

    fn look_for(&mut self, search: Search) {
        let pending = self.0.get_or_insert_default();
        let mut waiting = pending.searches.iter_mut().skip(MANY);
        match waiting.find(|known| *known.filter == *search.filter) {
            Some(known) => *known = search,
            None => pending.searches.push_back(search),
        }
    }

    /// Keeps only what may be delivered, and looks only for what is meant by a filter that is kept.
    pub fn retain(&mut self, mut delivery: impl FnMut(&Delivery) -> bool, mut filter: impl FnMut(&str) -> bool) {
        if let Some(pending) = &mut self.0 {
            pending.found.retain(&mut delivery);
            pending.searches.retain(|search| filter(&search.filter));
        }
    }

    /// Looks for the next portion, unless there is one.
    pub fn search(&mut self, shared: &Shared) {
        let Some(pending) = &mut self.0 else { return };
        if pending.found.is_empty()
            && let Some(search) = pending.searches.front_mut()
        {
            let Search { filter, options, via, unqueued, cursor } = search;
            let found = shared.retained(filter, cursor).into_iter();
            let found = found.filter(|message| !*unqueued || message.qos == QoS::AtMostOnce).map(|message| {
                let qos = message.qos.min(options.qos);
                Delivery::new(message, qos, true, via.clone())
            });
            pending.found.extend(found);
            if cursor.is_done() {
                pending.searches.pop_front();
            }
        }
        if pending.found.is_empty() && pending.searches.is_empty() {
            self.0 = None;
        }
    }

    /// The next of the portion.
    pub fn front(&self) -> Option<&Delivery> {
        self.0.as_ref()?.found.front()
    }

    pub fn pop_front(&mut self) -> Option<Delivery> {
        self.0.as_mut()?.found.pop_front()
    }

    /// What is still to come for a session that outlives its connection: QoS 0 does not.
    pub fn rest(&mut self) -> Self {
        let mut rest = std::mem::take(self);
        if let Some(pending) = &mut rest.0 {
            pending.found.retain(|delivery| delivery.qos > QoS::AtMostOnce);
            pending.searches.retain(|search| search.options.qos > QoS::AtMostOnce);
            pending.found.shrink_to_fit();
            if pending.found.is_empty() && pending.searches.is_empty() {
                rest.0 = None;
            }
        }
        let held = rest.held();
        if let Some(pending) = &mut rest.0 {
            pending.parked.settle(held);
        }
        rest
    }

    /// The client is back: its connection counts what is held from now on.
    pub fn resume(&mut self) {
        if let Some(pending) = &mut self.0 {
            pending.parked.settle(0);
        }
    }

    /// Bytes that it has allocated.
    pub fn held(&self) -> usize {
        self.0.as_ref().map_or(0, |pending| {
            pending.found.capacity() * size_of::<Delivery>() + pending.searches.capacity() * size_of::<Search>()
        })
    }
}
