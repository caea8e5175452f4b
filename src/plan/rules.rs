//! Rules, filters and names, checked with the code that the broker reads them with.

use super::Invalid;
use crate::auth::rule::{QosSet, Rule};

/// Checks a list of rules; `field` is the list's.
pub fn check(field: &str, rules: &[Rule]) -> Result<(), Invalid> {
    for (index, rule) in rules.iter().enumerate() {
        let levels = match &rule.qos {
            None => &[][..],
            Some(QosSet::One(level)) => std::slice::from_ref(level),
            Some(QosSet::Many(levels)) => levels,
        };
        if levels.iter().any(|level| *level > 2) {
            return Err(Invalid::new(format!("{field}[{index}].qos"), "must be 0, 1 or 2"));
        }
        if rule.topic.is_empty() {
            return Err(Invalid::new(format!("{field}[{index}].topic"), "must not be empty"));
        }
    }
    Ok(())
}

/// Checks a topic filter.
pub fn check_filter(field: &str, filter: &str) -> Result<(), Invalid> {
    if filter.is_empty() {
        return Err(Invalid::new(field, "must not be empty"));
    }
    Ok(())
}

/// Checks the name of a user or group: what begins with `system:` is the broker's own.
pub fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    if name.is_empty() {
        return Err(Invalid::new(field, "must not be empty"));
    }
    if name.starts_with("system:") {
        return Err(Invalid::new(field, "names that begin with 'system:' are reserved"));
    }
    Ok(())
}
