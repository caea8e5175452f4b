//! Who someone is and what they may do: keys, tokens, passwords, rules.
//!
//! Promises: what is not allowed is denied; a credential that is presented and wrong is refused, never downgraded; a
//! rule that cannot be understood is an error, never a rule that is left out. Pure: the time and random bytes are
//! arguments. May name `mqtt`.
//!
//! [`Policy`] is the snapshot that decides a CONNECT; [`Grants`] is what it says about one client, compiled once, so
//! that deciding a PUBLISH costs neither an allocation nor a look-up.

pub mod admin;
pub mod explain;
pub mod filter;
pub mod grants;
pub mod identity;
pub mod inspect;
pub mod issuer;
mod json;
pub mod key;
pub mod layer;
mod memory;
pub mod password;
pub mod policy;
pub mod revocations;
pub mod rotation;
pub mod rule;
pub mod settings;
pub mod stored;
pub mod template;
pub mod token;
pub mod unreachable;
pub mod why;

pub use grants::Grants;
pub use identity::{BRIDGE_USER, Identity, Presented, Principal, Refusal, Verdict};
pub use key::KeySet;
pub use layer::{Decision, Layer};
pub use password::PasswordCheck;
pub use policy::{Bridge, Lost, Policy, PolicyError, Sources};
pub use revocations::Revocations;
pub use stored::StoredIdentity;
pub use why::Why;
