//! What the object's status says. Pure; while the world stands still, so does every byte of it.

pub mod conditions;
mod endpoints;

use jiff::Timestamp;

use super::apply::Applied;
use super::build;
use super::error::Error;
use super::keys::Advanced;
use super::observe::Observed;
use super::passwords::Missing;
use super::users::Malformed;
use crate::api::status::{JwtStatus, Key, KeyState, RevokedKey, TelemetryStatus, UserStatus};
use crate::api::{MqttBroker, MqttBrokerStatus};
use crate::auth::key;
use crate::auth::rotation::Keys;
use crate::plan::{Invalid, Plan};

pub use conditions::{find, is_true};

/// What status is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    pub object: &'a MqttBroker,
    pub plan: &'a Plan,
    pub observed: &'a Observed,
    pub applied: &'a Applied,
    /// The keys, or why they cannot be read.
    pub keys: Result<&'a Advanced, &'a str>,
    pub missing: &'a [Missing],
    /// `MqttUser`s that are this broker's, or may be, and cannot be understood.
    pub malformed: &'a [Malformed],
    pub now: Timestamp,
}

/// The status of an object that could be planned and applied.
pub fn status(facts: &Facts<'_>) -> MqttBrokerStatus {
    let Facts { object, plan, applied, .. } = facts;
    let pods = applied.stateful_set.as_ref().and_then(|set| set.status.as_ref());
    let ready_replicas = pods.and_then(|pods| pods.ready_replicas).unwrap_or(0);
    let reach = endpoints::reach(plan, &applied.services, &facts.observed.nodes, ready_replicas > 0);
    let conditions = conditions::all(facts, &reach);
    MqttBrokerStatus {
        endpoint: reach.address.as_ref().map(|address| endpoints::with_port(address, reach.port)),
        address: reach.address,
        endpoints: reach.endpoints,
        conditions,
        observed_generation: object.metadata.generation,
        replicas: pods.map_or(0, |pods| pods.replicas),
        ready_replicas,
        selector: Some(build::selector_text(&build::selector(plan))),
        version: Some(env!("CARGO_PKG_VERSION").into()),
        jwt: Some(JwtStatus {
            issuer: plan.broker.auth.jwt.issuer.clone(),
            audience: plan.broker.auth.jwt.audience.clone(),
            secret_name: plan.names.jwt.clone(),
            jwks_secret_name: plan.names.jwks.clone(),
            keys: facts.keys.map(|advanced| key_list(&advanced.keys)).unwrap_or_default(),
            revoked_keys: facts.keys.map(|advanced| revoked_list(&advanced.keys)).unwrap_or_default(),
        }),
        users: plan
            .users
            .iter()
            // The others have statuses of their own.
            .filter(|user| user.object.is_none())
            .map(|user| UserStatus { name: user.name.clone(), secret_name: user.secret_name.clone() })
            .collect(),
        telemetry: plan.bridge.as_ref().map(|bridge| TelemetryStatus { data_stream: bridge.data_stream.clone() }),
    }
}

/// The status of an object that asks for something that cannot be; what serves meanwhile is what was asked for before.
pub fn invalid(
    before: &MqttBrokerStatus,
    generation: Option<i64>,
    invalid: &Invalid,
    now: Timestamp,
) -> MqttBrokerStatus {
    not_ready(before, generation, "InvalidSpec", &invalid.to_string(), now)
}

/// The status of an object whose children could not be applied, if its author should know.
pub fn failed(
    before: &MqttBrokerStatus,
    generation: Option<i64>,
    error: &Error,
    now: Timestamp,
) -> Option<MqttBrokerStatus> {
    Some(not_ready(before, generation, error.reason()?, &error.to_string(), now))
}

fn not_ready(
    before: &MqttBrokerStatus,
    generation: Option<i64>,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> MqttBrokerStatus {
    let ready = conditions::not_ready(&before.conditions, generation, reason, message, now);
    let mut status = before.clone();
    status.conditions.retain(|condition| condition.type_ != ready.type_);
    status.conditions.insert(0, ready);
    status.observed_generation = generation;
    status.version = Some(env!("CARGO_PKG_VERSION").into());
    status
}

fn key_list(keys: &Keys) -> Vec<Key> {
    let key = |record: &key::KeyRecord| Key {
        kid: record.kid.clone(),
        state: match record.state {
            key::KeyState::Next => KeyState::Next,
            key::KeyState::Active => KeyState::Active,
            key::KeyState::Retiring => KeyState::Retiring,
        },
        algorithm: keys.algorithm(&record.kid).map(|algorithm| algorithm.name().to_owned()),
        since: time(record.since),
        not_after: Keys::gone_at(record).and_then(time),
    };
    keys.states.keys.iter().map(key).collect()
}

fn revoked_list(keys: &Keys) -> Vec<RevokedKey> {
    let revoked = keys.states.revoked.iter();
    revoked.map(|it| RevokedKey { kid: it.kid.clone(), since: time(it.since).unwrap_or_default() }).collect()
}

fn time(seconds: u64) -> Option<String> {
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok().map(|time| time.to_string())
}

#[cfg(test)]
mod tests;
