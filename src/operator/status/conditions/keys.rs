//! The conditions about signing keys.

use jiff::{SignedDuration, Timestamp};

use super::{Facts, Verdict, find};
use crate::api::Condition;
use crate::auth::key::Algorithm;
use crate::auth::rotation::Waiting;
use crate::operator::keys::{COMPROMISED, awaited};
use crate::operator::observe::PodReport;

/// How long pods may take to load a key before the condition says that it does not go on.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);

/// Whether every pod that serves MQTT verifies with the keys that tokens are signed with, and with none that is revoked.
pub fn ready(facts: &Facts<'_>, before: &[Condition]) -> Verdict {
    let keys = match facts.keys {
        Ok(advanced) => &advanced.keys,
        Err(problem) => return Verdict::no("Unreadable", problem),
    };
    let ids = keys.ids_in_use();
    let pods: Vec<&PodReport> = facts.observed.pods.iter().filter(|pod| pod.is_ready()).collect();
    if pods.is_empty() {
        return Verdict::unknown("NoPods", "no pod serves MQTT that could have loaded keys");
    }
    let names = pods.iter().map(|pod| pod.name()).collect::<Vec<_>>().join(", ");
    for pod in &pods {
        let loaded = pod.broker.as_ref().map(|report| report.keys.as_slice()).unwrap_or_default();
        if let Some(revoked) = loaded.iter().find(|kid| keys.is_revoked(kid)) {
            let message = format!("{} still accepts the revoked key {revoked}; it is told not to", pod.name());
            return Verdict::no(COMPROMISED, message);
        }
    }
    let list = ids.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let loaded = format!("{names} loaded {list}");
    match facts.observed.loaded_keys() {
        Some(known) if ids.is_subset(&known) => Verdict::yes("Loaded", loaded),
        Some(_) => Verdict::no("Loading", format!("{names} did not load {list} yet")),
        // The same pods with the same keys: not to be asked once is no news.
        None if find(before, "KeysReady").is_some_and(|it| it.reason == "Loaded" && it.message == loaded) => {
            Verdict::yes("Loaded", loaded)
        }
        None => Verdict::unknown("NotReported", format!("{names} cannot be asked")),
    }
}

/// Whether the key that is wanted signs; if not, what it waits for.
pub fn current(facts: &Facts<'_>) -> Option<Verdict> {
    let advanced = facts.keys.ok()?;
    if let Some(problem) = &advanced.problem {
        return Some(Verdict::no("KeySecretUnusable", format!("{problem}; the key from before goes on signing")));
    }
    let Some(waiting) = &advanced.waiting else {
        return Some(Verdict::yes("Current", format!("{} signs", advanced.keys.active().kid)));
    };
    Some(match waiting {
        Waiting::ForBrokers { kid, since } => {
            let since = i64::try_from(*since).ok().and_then(|since| Timestamp::from_second(since).ok());
            let stuck = since.is_some_and(|since| facts.now.duration_since(since) > PATIENCE);
            let reason = if stuck { "RotationStuck" } else { "Rotating" };
            let pods = awaited(kid, facts.plan, facts.observed);
            Verdict::no(reason, format!("{kid} signs when every pod has loaded it: {pods}"))
        }
        Waiting::TooMany { until } => {
            let until = i64::try_from(*until).ok().and_then(|until| Timestamp::from_second(until).ok());
            let until = until.map_or_else(|| "one goes".to_owned(), |until| until.to_string());
            Verdict::no(
                "TooManyKeys",
                format!(
                    "no further key is made before {until}: each stays until the last token that it signed has expired; \
                     make maxTokenTtl shorter, or rotate less often"
                ),
            )
        }
        Waiting::Revoked { kid } => Verdict::no(
            COMPROMISED,
            format!(
                "spec.auth.jwt.keySecretRef: its key {kid} is revoked; put another one into the Secret. Until then the \
                 broker signs with a key that was made for it"
            ),
        ),
    })
}

/// Says that pods can sign, where they can: with HS256 who verifies can.
pub fn shared_secret(facts: &Facts<'_>) -> Option<Verdict> {
    let keys = &facts.keys.ok()?.keys;
    let shared = |kid: &&String| keys.algorithm(kid) == Some(Algorithm::Hs256);
    let all = keys.ids();
    let shared: Vec<&str> = all.iter().filter(shared).map(String::as_str).collect();
    if shared.is_empty() {
        return None;
    }
    let message = format!(
        "Secret {} has what tokens are signed with, and every pod mounts it: whoever reads it can make tokens (HS256, key \
         {}). With algorithm EdDSA it goes when the last of these tokens has expired",
        facts.plan.names.jwks,
        shared.join(", ")
    );
    Some(Verdict::yes("HS256", message))
}
