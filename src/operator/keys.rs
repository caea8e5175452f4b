//! The signing keys of an object: what is stored, taken a step further if one is due.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;

use super::build;
use super::observe::Observed;
use super::passwords::value;
use crate::auth::KeySet;
use crate::auth::key::KeyError;
use crate::auth::rotation::{Given, Keys, Source, Step, Waiting};
use crate::plan::Plan;

/// The keys as they are to be stored, and what there is to say about them.
#[derive(Debug)]
pub struct Advanced {
    pub keys: Keys,
    pub steps: Vec<Step>,
    pub waiting: Option<Waiting>,
    /// Why the Secret with the owner's own key cannot be used; what there is goes on.
    pub problem: Option<String>,
    /// When time alone makes the next step due.
    pub due: Option<u64>,
}

/// The stored keys, taken a step further if one is due; or why they cannot be read. `now` is Unix time in seconds.
///
/// The result is stored before any pod learns of it: a key that is published and not stored would be lost.
pub fn advance(
    plan: &Plan,
    observed: &Observed,
    now: u64,
    mut random: impl FnMut() -> [u8; 48],
) -> Result<Result<Advanced, String>, KeyError> {
    let (source, problem) = match &plan.keys.secret {
        None => (Source::Made, None),
        Some(name) => match given(observed, name, plan.keys.shared_secrets) {
            Ok(given) => (Source::Given(Some(given)), None),
            Err(problem) => (Source::Given(None), Some(problem)),
        },
    };
    let wanted = plan.keys.wanted(source);
    let (keys, mut steps) = match observed.secret(&plan.names.jwt) {
        Some(secret) => match stored(secret) {
            Ok(keys) => (keys, Vec::new()),
            Err(problem) => return Ok(Err(format!("Secret {} is left alone: {problem}", plan.names.jwt))),
        },
        None if plan.paused => return Ok(Err("no key is made while spec.paused is true".into())),
        None => match problem {
            Some(problem) => return Ok(Err(problem)),
            None => (Keys::first(&wanted, now, &mut random)?, Vec::new()),
        },
    };
    let keys = if plan.paused {
        keys
    } else {
        let loaded = loaded(plan, observed);
        let (keys, taken) = keys.advance(&wanted, loaded.as_ref(), now, random)?;
        steps = taken;
        keys
    };
    let (waiting, due) = (keys.waiting(&wanted, now), keys.due_at(&wanted, now));
    Ok(Ok(Advanced { keys, steps, waiting, problem, due }))
}

/// The keys of the Secret that no pod mounts.
pub fn stored(secret: &Secret) -> Result<Keys, String> {
    let document = |key: &str| value(secret, key).ok_or_else(|| format!("it has no key {key}"));
    Keys::read(&document(build::KEYS)?, &document(build::STATE)?)
}

fn given(observed: &Observed, name: &str, shared_secrets: bool) -> Result<Given, String> {
    let secret = observed.referenced.get(name);
    let read = secret
        .ok_or_else(|| {
            format!(
                "there is no Secret {name}; make one with `openssl genpkey -algorithm ed25519 -out tls.key` and \
                 `kubectl create secret generic {name} --from-file=tls.key`"
            )
        })
        .and_then(|secret| {
            Given::read(|key| value(secret, key), shared_secrets).map_err(|error| format!("Secret {name}: {error}"))
        });
    read.map_err(|problem| format!("spec.auth.jwt.keySecretRef: {problem}"))
}

/// What every broker verifies with, absent when one of them does not say.
///
/// Pods that are not ready count too: they may be about to be. A pod that is not there yet will load what is published.
fn loaded(plan: &Plan, observed: &Observed) -> Option<BTreeSet<String>> {
    let mut common = published(plan, observed)?;
    let pods: Vec<_> = observed.pods.iter().filter(|pod| !pod.is_over()).collect();
    if i32::try_from(pods.len()).is_ok_and(|pods| pods < plan.replicas) {
        return None;
    }
    for pod in pods {
        let keys = &pod.broker.as_ref()?.keys;
        common.retain(|kid| keys.contains(kid));
    }
    Some(common)
}

/// What pods find when they look.
fn published(plan: &Plan, observed: &Observed) -> Option<BTreeSet<String>> {
    let document = value(observed.secret(&plan.names.jwks)?, build::JWKS)?;
    Some(KeySet::parse(&document).ok()?.ids().into_iter().collect())
}

/// Why a key that is published does not sign yet, by the pods that are waited for.
pub fn awaited(kid: &str, plan: &Plan, observed: &Observed) -> String {
    let mut pods: Vec<String> = Vec::new();
    for pod in observed.pods.iter().filter(|pod| !pod.is_over()) {
        let name = pod.name();
        match &pod.broker {
            None if pod.pod.metadata.deletion_timestamp.is_some() => {
                pods.push(format!("{name} is being deleted and cannot be asked"));
            }
            None => pods.push(format!("{name} cannot be asked")),
            Some(report) if !report.keys.iter().any(|it| it == kid) => pods.push(format!("{name} has not loaded it")),
            Some(_) => {}
        }
    }
    let there = observed.pods.iter().filter(|pod| !pod.is_over()).count();
    if i32::try_from(there).is_ok_and(|there| there < plan.replicas) {
        pods.push(format!("{there} of {} pods are there", plan.replicas));
    }
    if pods.is_empty() { "it is about to sign".to_owned() } else { pods.join(", ") }
}

/// The event of a step: its reason, and what it says.
pub fn event(step: &Step) -> (&'static str, String) {
    match step {
        Step::Published(kid) => {
            ("KeyPublished", format!("key {kid} is published; it signs when every pod has loaded it"))
        }
        Step::Withdrawn(kid) => {
            ("KeyWithdrawn", format!("key {kid} is not wanted any more, and has not signed anything"))
        }
        Step::Promoted { kid, before } => (
            "KeyPromoted",
            format!("key {kid} signs; {before} verifies until the last token that it signed has expired"),
        ),
        Step::Gone(kid) => ("KeyRemoved", format!("key {kid} is removed: what it signed has expired")),
        Step::Revoked { kid, successor: None } => {
            (COMPROMISED, format!("key {kid} is revoked: no token that it signed is accepted any more"))
        }
        Step::Revoked { kid, successor: Some(successor) } => (
            COMPROMISED,
            format!(
                "key {kid} is revoked: no token that it signed is accepted any more; {successor} signs in its place"
            ),
        ),
    }
}

/// The reason of events and conditions about a key that was revoked.
pub const COMPROMISED: &str = "KeyCompromised";
