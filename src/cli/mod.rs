//! Flags and terminal output of the four programs.

pub mod bench;
pub mod token;
