//! What the broker asks of an engine, and nothing else.

use std::path::Path;

pub const PAYLOAD: usize = 100;

pub type Payload = [u8; PAYLOAD];
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One change. The broker's memory knows which deliveries a message still has, so no engine has to count them.
#[derive(Clone, Debug)]
pub enum Op {
    /// The message once, and its place in the queues of its sessions.
    Publish { id: u64, payload: Payload, targets: Vec<Target> },
    /// A delivery is over. `last` is the message when no other delivery of it is left.
    Done { target: Target, last: Option<u64> },
}

/// A place in a session's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub session: u32,
    pub seq: u64,
}

pub trait Engine: Send + Sized {
    fn open(directory: &Path) -> Result<Self, Failure>;

    /// All of it, on the disk when this returns.
    fn commit(&mut self, ops: &[Op]) -> Result<(), Failure>;

    /// The oldest of a session's queue, in order.
    fn page(&self, session: u32, most: usize) -> Result<Vec<(u64, Payload)>, Failure>;

    /// Every delivery with its bytes, as a broker reads them when it starts.
    fn all(&self, each: &mut dyn FnMut(Target, &[u8])) -> Result<(), Failure>;

    /// Whether the last opening said that something was damaged.
    fn said_damaged(&self) -> bool {
        false
    }
}

/// The bytes of a message can be told from its number, so that wrong ones are found.
pub fn payload(id: u64) -> Payload {
    let mut state = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
}

/// Keeps nothing: what the load itself costs.
pub struct Nothing;

impl Engine for Nothing {
    fn open(_: &Path) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn commit(&mut self, _: &[Op]) -> Result<(), Failure> {
        Ok(())
    }

    fn page(&self, _: u32, _: usize) -> Result<Vec<(u64, Payload)>, Failure> {
        Ok(Vec::new())
    }

    fn all(&self, _: &mut dyn FnMut(Target, &[u8])) -> Result<(), Failure> {
        Ok(())
    }
}
