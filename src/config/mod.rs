//! What the operator (or `up`) writes and a pod reads, and what a pod says back.
//!
//! The type that is serialised is the type that is parsed. Every document says `format: 1`. Files are the only channel
//! into a pod. May name `mqtt` and `auth`.

pub mod bridge;
pub mod broker;
pub mod digest;
pub mod files;
pub mod limits;
pub mod report;

/// How the client id of a probe begins, which presents nothing and asks only whether a broker answers. It is counted like
/// everybody, and leaves no line in the log.
pub const PROBE: &str = "mqttctl-probe-";

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;
