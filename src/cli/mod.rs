//! Flags and terminal output of the four programs.

pub mod token;
