//! Being a process: logs, signals, probes, metrics.
//!
//! What `mqtt-broker`, `mqtt-bridge`, `mqtt-operator` and `mqttctl up` share. Knows nothing of MQTT or Kubernetes: a room
//! brings its own metrics and routes. Names no other room.

pub mod admin;
pub mod file_size;
pub mod listen;
pub mod logs;
pub mod memory;
pub mod open_files;
pub mod shutdown;
mod usage;

pub use admin::{Admin, Readiness};
pub use listen::listen;
pub use shutdown::Shutdown;
