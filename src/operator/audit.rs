//! Lines of the audit log about what the operator makes and takes back; docs/audit.md promises their fields.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::Secret;

use crate::auth::rotation::Step;
use crate::plan::Plan;

/// What was told of revocations, by namespace and name.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashMap<(String, String), BTreeMap<String, String>>>);

fn name(plan: &Plan) -> String {
    format!("{}/{}", plan.namespace, plan.name)
}

/// A step was taken with the keys of an object.
pub fn key(plan: &Plan, step: &Step) {
    let (broker, (kid, state)) = (name(plan), step.told());
    if matches!(step, Step::Revoked { .. }) {
        tracing::warn!(target: "audit", event = "revoke", what = "key", broker, key_id = kid, state, "key taken back");
    } else {
        tracing::info!(target: "audit", event = "key", what = "key", broker, key_id = kid, state, "signing keys");
    }
}

/// A password was made for a user that has none.
pub fn password(plan: &Plan, user: &str) {
    let broker = name(plan);
    tracing::info!(target: "audit", event = "mint", what = "password", broker, user, "password made");
}

/// A token for the admin ports of an object was signed, as often as that since the last line about it.
pub fn admin_token(audience: &str, subject: &str, kid: &str, suppressed: u64) {
    let suppressed = Some(suppressed).filter(|count| *count > 0);
    tracing::info!(
        target: "audit", event = "mint", what = "admin token", audience, subject, key_id = kid, suppressed,
        "token signed"
    );
}

impl Told {
    /// Tells of the entries of the Secret that were not told of: whoever has written them.
    pub fn revocations(&self, plan: &Plan, secret: Option<&Secret>) {
        let broker = name(plan);
        for (entry, time) in self.news((&plan.namespace, &plan.name), secret) {
            tracing::warn!(
                target: "audit", event = "revoke", what = "tokens", broker, entry, time, "tokens taken back"
            );
        }
    }

    fn news(&self, of: (&str, &str), secret: Option<&Secret>) -> Vec<(String, String)> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = secret.into_iter().flat_map(|secret| secret.data.iter().flatten());
        let now: BTreeMap<String, String> =
            entries.map(|(entry, time)| (entry.clone(), String::from_utf8_lossy(&time.0).trim().to_owned())).collect();
        let place = (of.0.to_owned(), of.1.to_owned());
        let before = if now.is_empty() { told.remove(&place) } else { told.insert(place, now.clone()) };
        let before = before.unwrap_or_default();
        now.into_iter().filter(|(entry, time)| before.get(entry) != Some(time)).collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn an_entry_is_told_once_and_again_when_it_says_something_else() {
        let told = Told::default();
        let secret = |entries: &[(&str, &str)]| {
            let data = entries.iter().map(|(name, time)| ((*name).to_owned(), ByteString(time.as_bytes().to_vec())));
            Secret { data: Some(data.collect()), ..Secret::default() }
        };
        let news = |entries: &[(&str, &str)]| {
            told.news(("shop", "home"), Some(&secret(entries))).into_iter().map(|(entry, _)| entry).collect::<Vec<_>>()
        };
        assert_eq!(news(&[("jti.a", "5")]), ["jti.a"]);
        assert_eq!(news(&[("jti.a", "5\n"), ("sub.b", "6")]), ["sub.b"]);
        assert_eq!(news(&[("jti.a", "7"), ("sub.b", "6")]), ["jti.a"]);
        assert!(told.news(("shop", "home"), None).is_empty());
        assert_eq!(news(&[("sub.b", "6")]), ["sub.b"], "it was gone, and is back");
    }
}
