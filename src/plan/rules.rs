//! Rules, filters and names, checked with the code that the broker reads them with.

use super::Invalid;
use crate::auth::filter::Filter;
use crate::auth::grants::Statement;
use crate::auth::rule::Rule;
use crate::mqtt::topic;

/// Checks a list of rules; `field` is the list's.
pub fn check(field: &str, rules: &[Rule]) -> Result<(), Invalid> {
    for (index, rule) in rules.iter().enumerate() {
        Statement::compile(rule).map_err(|error| {
            // Such an error begins with the field that it is about.
            let text = error.to_string();
            let (name, message) = text.split_once(": ").unwrap_or(("topic", &text));
            Invalid::new(format!("{field}[{index}].{name}"), message)
        })?;
    }
    Ok(())
}

/// Checks a topic filter that a program of ours subscribes to.
pub fn check_filter(field: &str, filter: &str) -> Result<(), Invalid> {
    Filter::parse(filter).map_err(|error| Invalid::new(field, error.to_string()))?;
    let parsed = topic::Filter::parse(filter).map_err(|error| Invalid::new(field, error.to_string()))?;
    if parsed.share.is_some() {
        return Err(Invalid::new(field, "must be the filter alone, without $share"));
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
