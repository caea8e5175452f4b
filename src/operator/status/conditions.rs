//! The conditions: each one a function of what is known.

mod access;
mod keys;

use jiff::{SignedDuration, Timestamp, Unit};
use k8s_openapi::api::apps::v1::StatefulSet;

use super::Facts;
use super::endpoints::Reach;
use crate::api::{Condition, ConditionStatus, ServiceType};
use crate::config::report::{self, BridgeState};
use crate::operator::{revocations, storage};

/// How long a load balancer may take before the message says what can be done.
const LOAD_BALANCER_PATIENCE: SignedDuration = SignedDuration::from_secs(30);

/// What a condition says, before it is known when it began to say so.
pub struct Verdict {
    status: ConditionStatus,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn new(status: ConditionStatus, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }

    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::True, reason, message)
    }

    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::False, reason, message)
    }

    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::Unknown, reason, message)
    }
}

/// The condition of this type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of this type is true.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == ConditionStatus::True)
}

/// All conditions, `Ready` first.
pub fn all(facts: &Facts<'_>, reach: &Reach) -> Vec<Condition> {
    let before = facts.object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let roll_out = roll_out(facts);
    let endpoint = endpoint(facts, reach, before);
    let keys = keys::ready(facts, before);
    let ready = ready(facts, &roll_out, &endpoint, &keys);
    let mut verdicts = vec![("Ready", ready), ("EndpointReady", endpoint), ("KeysReady", keys)];
    verdicts.extend(keys::current(facts).map(|verdict| ("KeysCurrent", verdict)));
    verdicts.extend(revocations(facts).map(|verdict| ("RevocationsUsable", verdict)));
    verdicts.extend(users(facts).map(|verdict| ("UsersUsable", verdict)));
    verdicts.extend(volumes(facts).map(|verdict| ("StorageUsable", verdict)));
    verdicts.extend(keys::shared_secret(facts).map(|verdict| ("SigningSecretShared", verdict)));
    verdicts.extend(access::ready(facts, before).map(|verdict| ("AccessReady", verdict)));
    if facts.plan.bridge.is_some() {
        verdicts.push(("TelemetryReady", telemetry(facts)));
    }
    verdicts.extend(client_addresses(facts).map(|verdict| ("ClientAddressesKnown", verdict)));
    verdicts.push(("Progressing", progressing(facts, &roll_out)));
    let generation = facts.object.metadata.generation;
    verdicts.into_iter().map(|(type_, verdict)| dated(type_, verdict, before, generation, facts.now)).collect()
}

/// `Ready=False` for an object that did not get as far as the others.
pub fn not_ready(
    before: &[Condition],
    generation: Option<i64>,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Condition {
    let verdict = Verdict::no("", message);
    Condition { reason: reason.to_owned(), ..dated("Ready", verdict, before, generation, now) }
}

/// A verdict with the time at which the condition came to its status.
pub fn dated(
    type_: &str,
    verdict: Verdict,
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let since = find(before, type_)
        .filter(|condition| condition.status == verdict.status)
        .map_or_else(|| seconds(now).to_string(), |condition| condition.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: verdict.status,
        reason: verdict.reason.to_owned(),
        message: verdict.message,
        observed_generation: generation,
        last_transition_time: since,
    }
}

fn seconds(now: Timestamp) -> Timestamp {
    now.round(Unit::Second).unwrap_or(now)
}

/// Pods serve MQTT, what was asked for; the endpoint is known; keys are loaded.
fn ready(facts: &Facts<'_>, roll_out: &Verdict, endpoint: &Verdict, keys: &Verdict) -> Verdict {
    if let Some(missing) = facts.missing.first() {
        return Verdict::no("SecretMissing", format!("{}: {}", missing.field, missing.message));
    }
    if let (Err(problem), Some(_)) = (facts.keys, &facts.plan.keys.secret)
        && facts.observed.secret(&facts.plan.names.jwt).is_none()
    {
        return Verdict::no("SecretMissing", problem);
    }
    if facts.plan.replicas == 0 {
        return Verdict::no("Stopped", "spec.replicas is 0");
    }
    for verdict in [roll_out, endpoint, keys] {
        if verdict.status != ConditionStatus::True {
            return Verdict::new(verdict.status, verdict.reason, verdict.message.clone());
        }
    }
    certificates(facts).unwrap_or_else(|| Verdict::yes("Serving", "the broker serves MQTT"))
}

/// What is wrong with the certificates of listeners, as the pods say it.
fn certificates(facts: &Facts<'_>) -> Option<Verdict> {
    let reports = facts.observed.pods.iter().filter_map(|pod| pod.broker.as_ref());
    let mut troubled = reports.flat_map(|report| &report.listeners).filter(|listener| listener.problem.is_some());
    let first = troubled.next()?;
    let message = format!("listener {}: {}", first.name, first.problem.as_deref().unwrap_or_default());
    Some(if first.serves && troubled.all(|listener| listener.serves) {
        Verdict::yes("Serving", format!("the broker serves MQTT, with the last good certificate of {message}"))
    } else {
        Verdict::no("CertificateUnusable", message)
    })
}

/// Whether all pods are of the StatefulSet as it stands, and ready.
fn roll_out(facts: &Facts<'_>) -> Verdict {
    let wanted = facts.plan.replicas;
    let Some(set) = &facts.applied.stateful_set else { return Verdict::no("Creating", "the pods are not created yet") };
    let ready = updated_and_ready(set);
    if ready >= wanted {
        return Verdict::yes("Complete", format!("{ready} of {wanted} pods are ready"));
    }
    if let Some(pending) = storage::pending(&facts.observed.claims) {
        return Verdict::no("StoragePending", pending);
    }
    match facts.observed.pods.iter().find_map(|pod| trouble(&pod.pod)) {
        Some(trouble) => Verdict::no("PodsNotReady", format!("{ready} of {wanted} pods are ready: {trouble}")),
        None => Verdict::no("PodsNotReady", format!("{ready} of {wanted} pods are ready")),
    }
}

fn updated_and_ready(set: &StatefulSet) -> i32 {
    let Some(status) = &set.status else { return 0 };
    if status.observed_generation < set.metadata.generation {
        return 0;
    }
    let ready = status.ready_replicas.unwrap_or(0);
    if status.current_revision == status.update_revision {
        ready
    } else {
        ready.min(status.updated_replicas.unwrap_or(0))
    }
}

/// Why a container does not run, in Kubernetes' own words: `broker: ImagePullBackOff`.
fn trouble(pod: &k8s_openapi::api::core::v1::Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| *reason != "ContainerCreating")?;
        Some(format!("{}: {reason}", container.name))
    });
    waiting.or_else(|| {
        let conditions = status.conditions.iter().flatten();
        let mut unschedulable = conditions.filter(|it| it.type_ == "PodScheduled" && it.status == "False");
        unschedulable.next().map(|it| it.message.clone().unwrap_or_default())
    })
}

fn endpoint(facts: &Facts<'_>, reach: &Reach, before: &[Condition]) -> Verdict {
    if let Some(address) = &reach.address {
        return Verdict::yes("Assigned", address);
    }
    match facts.plan.service.type_ {
        ServiceType::LoadBalancer => {
            let mut message = "no load balancer has given the Service an address".to_owned();
            let waiting = find(before, "EndpointReady").filter(|it| it.reason == "LoadBalancerPending");
            let since = waiting.and_then(|condition| condition.last_transition_time.parse::<Timestamp>().ok());
            if since.is_some_and(|since| facts.now.duration_since(since) > LOAD_BALANCER_PATIENCE) {
                message.push_str("; install a load balancer, or set spec.service.type to NodePort or ClusterIP");
            }
            Verdict::no("LoadBalancerPending", message)
        }
        ServiceType::NodePort if facts.observed.nodes.is_empty() => {
            Verdict::no("NoNode", "no address of a node is known")
        }
        ServiceType::NodePort => Verdict::no("NodePortPending", "the Service has no node port yet"),
        ServiceType::ClusterIp => Verdict::no("ClusterIPPending", "the Service has no cluster IP yet"),
    }
}

/// Says what is wrong with the Secret of revocations, where something is.
fn revocations(facts: &Facts<'_>) -> Option<Verdict> {
    let problem = revocations::problem(facts.observed.revocations.as_ref()?)?;
    let secret = &facts.plan.names.revocations;
    let message = format!("Secret {secret}: {problem}; remove that key. The pods go on with the entries from before");
    Some(Verdict::no("BadEntry", message))
}

/// Which `MqttUser`s are left out, because they are stored and yet are none.
fn users(facts: &Facts<'_>) -> Option<Verdict> {
    let first = facts.malformed.first()?;
    let more = match facts.malformed.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let message = format!(
        "MqttUser {}{more} cannot be understood and is left out, so that its client cannot log in; correct or delete it: \
         {}",
        first.name(),
        first.problem
    );
    Some(Verdict::no("Malformed", message))
}

/// Says which pod cannot keep what it is given, where one cannot. MQTT is served all the same, and refuses only what it
/// would have to keep.
fn volumes(facts: &Facts<'_>) -> Option<Verdict> {
    let pods = facts.observed.pods.iter();
    let mut troubled = pods.filter_map(|pod| {
        let storage = pod.broker.as_ref()?.storage.as_ref()?;
        (storage.health != report::Health::Good).then_some((pod.name(), storage))
    });
    let (pod, storage) = troubled.next()?;
    let problem = storage.problem.as_deref().map(|problem| format!(" ({problem})")).unwrap_or_default();
    let refused = "publications that must be kept are refused, and nothing that was acknowledged is lost";
    Some(if storage.health == report::Health::Full {
        let next = "raise spec.storage.size, or let those clients come that messages wait for";
        Verdict::no("Full", format!("the volume of {pod} has no room for more{problem}: {refused}; {next}"))
    } else {
        let next = "the broker tries again and goes on by itself when the volume can be written";
        Verdict::no("Failing", format!("the volume of {pod} cannot be written{problem}: {refused}; {next}"))
    })
}

/// Where wrong passwords cannot be told apart by where they come from, what that means and what can be done.
fn client_addresses(facts: &Facts<'_>) -> Option<Verdict> {
    let guard = &facts.plan.broker.auth.guard;
    if facts.plan.users.is_empty() || guard.is_off() || !guard.addresses_hidden {
        return None;
    }
    let message = "clients may all have the address of a node, so wrong passwords are delayed and nobody is banned for \
                   them; set spec.service.externalTrafficPolicy to Local, or proxyProtocol on each listener where the \
                   load balancer speaks it, or spec.auth.guard.addressesAreOfClients to true if your network keeps \
                   addresses";
    Some(Verdict::no("BehindLoadBalancer", message))
}

/// How the sink is, by the worst of the bridges.
fn telemetry(facts: &Facts<'_>) -> Verdict {
    let running: Vec<_> =
        facts.observed.pods.iter().filter(|pod| pod.pod.metadata.deletion_timestamp.is_none()).collect();
    if running.is_empty() {
        return Verdict::unknown("NoPods", "no bridge is running");
    }
    let mut worst = Verdict::yes("Connected", "");
    for pod in running {
        let Some(report) = &pod.bridge else {
            return Verdict::unknown("NotReported", format!("the bridge of {} cannot be asked", pod.name()));
        };
        let verdict = bridge(report);
        if verdict.status != ConditionStatus::True {
            worst = verdict;
        }
    }
    if worst.status == ConditionStatus::True {
        worst.message = facts.plan.bridge.as_ref().map(|bridge| bridge.data_stream.clone()).unwrap_or_default();
    }
    worst
}

fn bridge(report: &report::Bridge) -> Verdict {
    let reason = match report.state {
        BridgeState::Connected => return Verdict::yes("Connected", ""),
        BridgeState::Connecting => return Verdict::unknown("Connecting", &report.message),
        BridgeState::Unreachable => "Unreachable",
        BridgeState::Unauthorized => "Unauthorized",
        BridgeState::Rejecting => "Rejecting",
        BridgeState::Lagging => "Lagging",
    };
    Verdict::no(reason, &report.message)
}

fn progressing(facts: &Facts<'_>, roll_out: &Verdict) -> Verdict {
    if facts.plan.paused {
        return Verdict::no("Paused", "spec.paused is true");
    }
    if roll_out.status == ConditionStatus::True {
        if let Some(refused) = &facts.applied.refused_growth {
            return Verdict::no("StorageNotGrowing", refused);
        }
        if let Some(growing) = storage::growing(&facts.observed.claims) {
            return Verdict::yes("StorageGrowing", growing);
        }
        Verdict::no(roll_out.reason, roll_out.message.clone())
    } else {
        Verdict::yes("RollingOut", roll_out.message.clone())
    }
}
