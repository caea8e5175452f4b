//! The condition about rules, users, keys and revocations: whether the pods have in force what was written.

use super::{Facts, Verdict, find};
use crate::api::Condition;
use crate::operator::observe::PodReport;

/// Whether every pod that serves MQTT has taken up the documents as they are. Nothing is said while nothing is written.
pub fn ready(facts: &Facts<'_>, before: &[Condition]) -> Option<Verdict> {
    let written = facts.applied.documents.as_deref()?;
    let pods: Vec<&PodReport> = facts.observed.pods.iter().filter(|pod| pod.is_ready()).collect();
    if pods.is_empty() {
        return Some(Verdict::unknown("NoPods", "no pod serves MQTT that could have taken up rules"));
    }
    let names = pods.iter().map(|pod| pod.name()).collect::<Vec<_>>().join(", ");
    let in_force = format!("{names}: {written}");
    let mut silent = Vec::new();
    let mut behind = Vec::new();
    for pod in pods {
        match &pod.broker {
            // One of a version that does not say.
            None => silent.push(pod.name()),
            Some(report) if report.documents.is_empty() => silent.push(pod.name()),
            Some(report) => {
                if let Some(problem) = &report.problem {
                    let message = format!("{}: {problem}; the last good rules stay in force", pod.name());
                    return Some(Verdict::no("Unusable", message));
                }
                if report.documents != written {
                    behind.push(pod.name());
                }
            }
        }
    }
    Some(if !behind.is_empty() {
        Verdict::no("Loading", format!("{} did not take up {written} yet", behind.join(", ")))
    } else if silent.is_empty() {
        Verdict::yes("InForce", in_force)
    } else if find(before, "AccessReady").is_some_and(|it| it.reason == "InForce" && it.message == in_force) {
        // The same pods with the same documents: not to be asked once is no news.
        Verdict::yes("InForce", in_force)
    } else {
        Verdict::unknown("NotReported", format!("{} cannot be asked", silent.join(", ")))
    })
}
