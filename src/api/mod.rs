//! The custom resources as users write and read them: spec, status, condition types, validation rules.
//!
//! Logic-free, and the only room beside `operator` and `cli` that names Kubernetes crates. May name `auth::rule` only:
//! one rule type is schema, token claim and rule.
