//! Everything below the end-to-end test: real sockets, real clients, real servers.

// The helpers of tests are outside `#[test]` functions, where clippy takes them for production code.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod admin;
mod admission;
mod architecture;
mod backpressure;
mod bench;
mod bridge;
mod client;
mod crash;
mod disk;
mod docs;
mod drain;
mod fuzz;
mod interop;
mod isolation;
mod issuers;
mod lab;
mod limits;
mod live;
mod manifests;
mod model;
mod mqtt;
mod mqttctl;
mod observe;
mod properties;
mod reconcile;
mod security;
mod sessions;
mod transports;
mod tutorial;
mod up;
mod users;
