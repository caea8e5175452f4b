//! Who someone is and what they may do: keys, tokens, passwords, rules.
//!
//! Pure: the time and random bytes are arguments. May name `mqtt`.

pub mod rule;
pub mod settings;
