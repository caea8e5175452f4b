//! What the fuzz targets call, and the rooms that they reach.
//!
//! The rooms are compiled from their sources rather than taken from the library: only what reads from the network is
//! then instrumented, and nothing of Kubernetes is built. The targets name the rooms as everybody else does, so that the
//! ordinary tests of the library replay the corpora through the same functions.

extern crate self as mqtt_operator;

#[path = "../../../src/auth/mod.rs"]
pub mod auth;
#[path = "../../../src/broker/mod.rs"]
pub mod broker;
#[path = "../../../src/config/mod.rs"]
pub mod config;
#[path = "../../../src/mqtt/mod.rs"]
pub mod mqtt;
#[path = "../../../src/process/mod.rs"]
pub mod process;
#[path = "../../../src/store/mod.rs"]
pub mod store;

pub mod oracle;
pub mod targets;
