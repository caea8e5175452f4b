//! What the operator (or `up`) writes and a pod reads, and what a pod says back.
//!
//! The type that is serialised is the type that is parsed. Every document says `format: 1`. Files are the only channel
//! into a pod. May name `mqtt` and `auth`.

pub mod bridge;
pub mod broker;
pub mod files;
pub mod limits;
pub mod report;

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;
