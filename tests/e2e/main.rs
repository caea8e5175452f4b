//! The whole thing on a real Kubernetes node.

// The helpers of tests are outside `#[test]` functions, where clippy takes them for production code.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;
