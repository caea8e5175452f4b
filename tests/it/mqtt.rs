//! Conformance on the wire: exact bytes over real sockets, a file per chapter of the specification.
//!
//! Nothing here uses the project's codec, so that a mistake in it cannot hide. The doc comment of a test names the
//! normative statements that it proves, the version before them:
//!
//! ```text
//! /// 3.1.1 [MQTT-3.1.0-2]; 5.0 [MQTT-3.1.0-2, MQTT-4.13.1-1].
//! ```
//!
//! [`table`] reads these comments and keeps `docs/conformance.md`; MQTT 3.1 has no numbered statements.

// Every test here speaks through all of `wire`.
#![allow(clippy::wildcard_imports)]

mod acknowledgements;
mod aliases;
mod authentication;
mod connack;
mod connect;
mod disconnect;
mod errors;
mod flow;
mod format;
pub mod messages;
mod ordering;
mod ping;
mod properties;
mod publish;
mod qos;
mod representation;
mod restart;
mod retained;
mod sessions;
mod shared;
mod subscribe;
mod table;
mod topics;
mod unsubscribe;
mod version31;
mod wills;
pub mod wire;
