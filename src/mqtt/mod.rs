//! The protocol, without I/O: one packet model for MQTT 3.1, 3.1.1 and 5.0, its codec, topics and filters.
//!
//! Promises: decoding never allocates more than the bytes it was given describe, never panics, and an invalid packet is
//! a [`Violation`] that names the normative statement it breaks. Knows no other room.

pub mod codec;
pub mod packet;
pub mod property;
pub mod reason;
pub mod topic;
pub mod violation;

pub use packet::{Packet, PacketId, QoS, Version};
pub use reason::ReasonCode;
pub use violation::Violation;
