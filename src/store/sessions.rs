//! Sessions whose client is away.

use std::collections::{BTreeMap, HashMap};

use super::inbound::Inbound;
use super::inflight::Inflight;
use crate::mqtt::packet::SubscriptionOptions;

/// What of a session survives its connection; the queue of waiting messages goes on growing beside it.
#[derive(Debug, Default)]
pub struct StoredSession {
    /// By whole filter, `$share/…` included.
    pub subscriptions: BTreeMap<Box<str>, Subscription>,
    /// Publications of the client that are not done with.
    pub inbound: Inbound,
    /// Deliveries sent and not yet acknowledged.
    pub inflight: Inflight,
}

/// A subscription as it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub options: SubscriptionOptions,
    pub identifier: Option<u32>,
}

/// The sessions whose client is away, by client id.
#[derive(Debug, Default)]
pub struct Sessions {
    away: HashMap<String, StoredSession>,
}

impl Sessions {
    /// Keeps a session until its client is back.
    pub fn park(&mut self, client_id: &str, session: StoredSession) {
        self.away.insert(client_id.to_owned(), session);
    }

    /// Hands a session back, or out for good.
    pub fn take(&mut self, client_id: &str) -> Option<StoredSession> {
        self.away.remove(client_id)
    }

    /// The session of a client that is away.
    pub fn get(&self, client_id: &str) -> Option<&StoredSession> {
        self.away.get(client_id)
    }

    /// The same, to change something of it.
    pub fn get_mut(&mut self, client_id: &str) -> Option<&mut StoredSession> {
        self.away.get_mut(client_id)
    }

    /// How many clients are away.
    pub fn len(&self) -> usize {
        self.away.len()
    }

    pub fn is_empty(&self) -> bool {
        self.away.is_empty()
    }
}
