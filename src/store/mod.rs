//! Sessions, queues and retained messages in memory, and the [`journal`] that they are made from again.
//!
//! Promises: what is stored here owns its bytes, so nothing kept pins a read buffer; a queue never grows past its
//! limits in silence; what is held is on the account in [`memory`]. Data structures without I/O, but for the journal: the
//! time is an argument. May name `mqtt`.

pub mod inbound;
pub mod inflight;
pub mod journal;
pub mod memory;
pub mod message;
pub mod queue;
pub mod retained;
pub mod sessions;

pub use inbound::{Arrival, Inbound};
pub use inflight::{Inflight, Sent};
pub use journal::EXTRA;
pub use message::{Message, Origin, Stored, StoredOrigin};
pub use queue::{Age, Delivery, Full, Limits, Old, Queue, Via};
pub use retained::{Cursor, NotRetained, Retained, Room};
pub use sessions::{Sessions, StoredSession, Subscription};

use std::sync::Mutex;

/// Everything that outlives a connection.
#[derive(Debug, Default)]
pub struct Store {
    pub retained: Mutex<Retained>,
    pub sessions: Mutex<Sessions>,
}
