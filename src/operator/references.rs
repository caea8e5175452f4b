//! Which objects look at which Secrets, so that a change of one wakes the others.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

/// An index from Secrets to the objects of the same namespace that depend on them.
#[derive(Debug, Default)]
pub struct References(Mutex<HashMap<String, Namespace>>);

#[derive(Debug, Default)]
struct Namespace {
    /// Secret → objects.
    users: HashMap<String, BTreeSet<String>>,
    /// Object → Secrets, to be able to forget.
    uses: HashMap<String, BTreeSet<String>>,
}

impl References {
    /// Replaces what the object looks at. Called before the Secrets are read: a change after that is not missed.
    pub fn set(&self, namespace: &str, object: &str, secrets: BTreeSet<String>) {
        let mut index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let namespace = index.entry(namespace.to_owned()).or_default();
        if namespace.uses.get(object) == Some(&secrets) {
            return;
        }
        namespace.forget(object);
        for secret in &secrets {
            namespace.users.entry(secret.clone()).or_default().insert(object.to_owned());
        }
        namespace.uses.insert(object.to_owned(), secrets);
    }

    /// The object is gone.
    pub fn forget(&self, namespace: &str, object: &str) {
        let mut index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = index.get_mut(namespace) {
            entry.forget(object);
            if entry.uses.is_empty() {
                index.remove(namespace);
            }
        }
    }

    /// The objects that look at a Secret.
    pub fn of(&self, namespace: &str, secret: &str) -> Vec<String> {
        let index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let users = index.get(namespace).and_then(|namespace| namespace.users.get(secret));
        users.into_iter().flatten().cloned().collect()
    }
}

impl Namespace {
    fn forget(&mut self, object: &str) {
        for secret in self.uses.remove(object).unwrap_or_default() {
            if let Some(users) = self.users.get_mut(&secret) {
                users.remove(object);
                if users.is_empty() {
                    self.users.remove(&secret);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn objects_are_found_by_the_secrets_that_they_look_at_now() {
        let references = References::default();
        references.set("shop", "a", set(&["x", "y"]));
        references.set("shop", "b", set(&["y"]));
        references.set("other", "a", set(&["y"]));
        assert_eq!(references.of("shop", "y"), ["a", "b"]);
        references.set("shop", "a", set(&["x"]));
        assert_eq!(references.of("shop", "y"), ["b"]);
        references.forget("shop", "b");
        assert_eq!(references.of("shop", "y"), Vec::<String>::new());
        assert_eq!(references.of("shop", "x"), ["a"]);
    }
}
