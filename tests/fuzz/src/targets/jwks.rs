//! Key sets, the broker's own and those of other issuers: no key without a reason, and nothing private in what is public.

use mqtt_operator::auth::KeySet;
use mqtt_operator::auth::key::{Algorithm, PrivateKeys};
use serde_json::Value;

const ALL: [Algorithm; 4] = [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256, Algorithm::Hs256];

pub fn run(input: &[u8]) {
    if let Ok(set) = KeySet::parse(input) {
        assert!(set.ids().iter().all(|id| !id.is_empty()));
        assert!(set.algorithms().iter().all(|(_, algorithm)| *algorithm != Algorithm::Rs256), "own keys sign too");
        check(&set);
    }
    if let Ok(keys) = PrivateKeys::parse(input) {
        let public = KeySet::parse(keys.public().as_bytes()).expect("what is written is read");
        assert_eq!(public.ids().len(), keys.keys.len());
    }
    assert!(KeySet::parse_foreign(input, &[]).is_err());
    let Ok(all) = KeySet::parse_foreign(input, &ALL) else {
        return assert!(
            ALL.iter().all(|one| KeySet::parse_foreign(input, &[*one]).is_err()) || names_a_kid_twice(input)
        );
    };
    check(&all);
    let mut found = 0;
    for algorithm in ALL {
        let Ok(some) = KeySet::parse_foreign(input, &[algorithm]) else { continue };
        assert!(some.algorithms().iter().all(|(_, is)| *is == algorithm));
        found += some.ids().len();
    }
    // Of more than a hundred keys the rest is passed over.
    assert!(found == all.ids().len() || all.ids().len() == 100, "{found} and {}", all.ids().len());
}

/// What is public can be read again, and has the same keys but for shared secrets.
fn check(set: &KeySet) {
    let mut ids = set.ids();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id is there twice");
    let public = set.public();
    let document: Value = serde_json::from_str(&public).expect("it is JSON");
    for key in document["keys"].as_array().expect("a list") {
        let members: Vec<&str> = key.as_object().expect("an object").keys().map(String::as_str).collect();
        assert!(members.iter().all(|it| ["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"].contains(it)), "{key}");
    }
    let asymmetric: Vec<_> = set.algorithms().into_iter().filter(|(_, alg)| *alg != Algorithm::Hs256).collect();
    match KeySet::parse_foreign(public.as_bytes(), &ALL) {
        // Of another issuer a hundred are enough.
        Ok(again) => assert_eq!(again.algorithms(), asymmetric[..asymmetric.len().min(100)]),
        Err(_) => assert!(asymmetric.is_empty(), "{public}"),
    }
}

/// Among keys of one algorithm an id may be alone that two keys of different ones share.
fn names_a_kid_twice(input: &[u8]) -> bool {
    KeySet::parse_foreign(input, &ALL).is_err_and(|error| error.to_string().contains("is there twice"))
}
