//! mqtt-operator: a Kubernetes operator with its own MQTT broker.
//!
//! Four thin binaries share this library. Each module below is a *room*: its `mod.rs` says what it promises and what
//! it may not know. `ARCHITECTURE.md` has the map; `tests/it/architecture.rs` checks the edges.

pub mod api;
pub mod auth;
pub mod bench;
pub mod bridge;
pub mod broker;
pub mod cli;
pub mod client;
pub mod config;
pub mod local;
pub mod mqtt;
pub mod operator;
pub mod plan;
pub mod process;
pub mod store;
