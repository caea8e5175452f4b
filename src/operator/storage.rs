//! Volumes of pods: claims that grow, and StatefulSets whose claim templates, which nobody can change, are to be others.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim as Claim;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::build::{self, STATE_VOLUME};
use super::error::Error;
use crate::plan::{Plan, amount};

/// The claims of the pods of this broker, in the order of their names.
pub async fn claims(client: &Client, plan: &Plan) -> Result<Vec<Claim>, Error> {
    if plan.claim.is_none() {
        return Ok(Vec::new());
    }
    let api: Api<Claim> = Api::namespaced(client.clone(), &plan.namespace);
    let labels = ListParams::default().labels(&build::selector_text(&build::selector(plan)));
    let mut claims = api.list(&labels).await.map_err(|source| Error::read("PersistentVolumeClaim", source))?.items;
    let ours = format!("{STATE_VOLUME}-{}-", plan.names.broker);
    claims.retain(|claim| claim.name_any().strip_prefix(&ours).is_some_and(|number| number.parse::<u32>().is_ok()));
    claims.sort_by_key(ResourceExt::name_any);
    Ok(claims)
}

/// Asks for more where a claim has less than is wanted. Returns what the API server has against it, if it has: the broker
/// serves on with what there is.
pub async fn grow(client: &Client, plan: &Plan, claims: &[Claim]) -> Result<Option<String>, Error> {
    let Some(wanted) = &plan.claim else { return Ok(None) };
    let mut refused = None;
    for claim in claims.iter().filter(|claim| is_bound(claim) && asks_for(claim) < Some(wanted.bytes)) {
        let name = claim.name_any();
        let api: Api<Claim> = Api::namespaced(client.clone(), &plan.namespace);
        let patch = json!({
            "metadata": {"uid": claim.uid()}, "spec": {"resources": {"requests": {"storage": wanted.size}}}
        });
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => tracing::info!(namespace = plan.namespace, name, size = wanted.size, "the claim grows"),
            // Forbidden: the class does not allow it. Invalid: a quota, or a plugin.
            Err(kube::Error::Api(status)) if [403, 422].contains(&status.code) => {
                refused.get_or_insert(format!("claim {name} cannot grow to {}: {}", wanted.size, status.message));
            }
            Err(source) => return Err(Error::apply("PersistentVolumeClaim", &name, source)),
        }
    }
    Ok(refused)
}

/// Whether a StatefulSet has to be made anew: everything else of it can be changed, what its claims are made from cannot.
pub fn is_to_be_replaced(found: &StatefulSet, wanted: &StatefulSet) -> bool {
    let templates = |set: &StatefulSet| {
        let templates = set.spec.volume_claim_templates.as_deref().unwrap_or_default();
        templates
            .iter()
            .map(|claim| (claim.name_any(), class(claim).map(str::to_owned), asks_for(claim)))
            .collect::<Vec<_>>()
    };
    templates(found) != templates(wanted)
}

/// Removes a StatefulSet and leaves its pods: they serve on until the next one takes them up.
pub async fn remove_alone(client: &Client, set: &StatefulSet) -> Result<(), Error> {
    let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        preconditions: Some(Preconditions { uid: set.uid(), resource_version: set.resource_version() }),
        ..DeleteParams::default()
    };
    match api.delete(&name, &parameters).await {
        Ok(_) => tracing::info!(namespace, name, "the StatefulSet is made anew, for another claim; its pods stay"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(source) => return Err(Error::apply("StatefulSet", &name, source)),
    }
    Ok(())
}

/// What keeps the pods from their volumes, where something does.
pub fn pending(claims: &[Claim]) -> Option<String> {
    let claim = claims.iter().find(|claim| !is_bound(claim) && claim.metadata.deletion_timestamp.is_none())?;
    let (name, namespace) = (claim.name_any(), claim.namespace().unwrap_or_default());
    let look = format!("see kubectl describe pvc {name} -n {namespace}");
    if phase(claim) == Some("Lost") {
        return Some(format!(
            "claim {name} has lost its volume; restore it, or delete the claim to begin with an empty one"
        ));
    }
    let size = claim_size(claim);
    match class(claim) {
        Some(class) => Some(format!("claim {name} waits for a volume of {size} of class {class:?}; {look}")),
        // The default class is written into a claim when there is one.
        None => Some(format!(
            "claim {name} waits for a volume of {size}, and has no class: the cluster has no default one; set \
             spec.storage.storageClassName in a new MqttBroker, make a class the default, or a volume by hand"
        )),
    }
}

/// Which claim has not yet what it asks for.
pub fn growing(claims: &[Claim]) -> Option<String> {
    let grows = |claim: &&Claim| is_bound(claim) && capacity(claim).is_some_and(|has| Some(has) < asks_for(claim));
    let claim = claims.iter().find(grows)?;
    let conditions = claim.status.as_ref().and_then(|status| status.conditions.as_ref());
    let says = conditions.into_iter().flatten().rev().find_map(|it| it.message.clone().filter(|text| !text.is_empty()));
    let says = says.map(|text| format!(": {text}")).unwrap_or_default();
    Some(format!("claim {} grows to {}{says}", claim.name_any(), claim_size(claim)))
}

fn is_bound(claim: &Claim) -> bool {
    phase(claim) == Some("Bound")
}

fn phase(claim: &Claim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

fn class(claim: &Claim) -> Option<&str> {
    claim.spec.as_ref()?.storage_class_name.as_deref()
}

fn claim_size(claim: &Claim) -> &str {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    requests.and_then(|requests| requests.get("storage")).map_or("", |size| size.0.as_str())
}

fn asks_for(claim: &Claim) -> Option<u64> {
    amount(claim_size(claim))
}

fn capacity(claim: &Claim) -> Option<u64> {
    amount(&claim.status.as_ref()?.capacity.as_ref()?.get("storage")?.0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: &Value, status: &Value) -> Claim {
        let object = json!({"metadata": {"name": "state-home-0", "namespace": "shop"}, "spec": spec, "status": status});
        serde_json::from_value(object).unwrap()
    }

    fn of(size: &str, class: Option<&str>) -> Value {
        json!({"storageClassName": class, "resources": {"requests": {"storage": size}}})
    }

    fn set(templates: &[Value]) -> StatefulSet {
        let templates: Vec<Value> =
            templates.iter().map(|spec| json!({"metadata": {"name": "state"}, "spec": spec})).collect();
        serde_json::from_value(json!({"spec": {"selector": {}, "serviceName": "", "template": {},
            "volumeClaimTemplates": templates}}))
        .unwrap()
    }

    #[test]
    fn a_set_is_made_anew_for_another_claim_and_for_nothing_else() {
        let one = set(&[of("1Gi", None)]);
        assert!(!is_to_be_replaced(&one, &set(&[of("1024Mi", None)])), "the API server normalises amounts");
        for other in [set(&[]), set(&[of("2Gi", None)]), set(&[of("1Gi", Some("fast"))])] {
            assert!(is_to_be_replaced(&one, &other), "{other:?}");
            assert!(is_to_be_replaced(&other, &one), "{other:?}");
        }
    }

    #[test]
    fn a_claim_that_waits_is_named_with_its_class_and_the_next_step() {
        let waits = |class| pending(&[claim(&of("1Gi", class), &json!({"phase": "Pending"}))]).unwrap();
        assert_eq!(
            waits(Some("fast")),
            "claim state-home-0 waits for a volume of 1Gi of class \"fast\"; see kubectl describe pvc state-home-0 -n shop"
        );
        assert!(waits(None).contains("no default one; set spec.storage.storageClassName"), "{}", waits(None));
        let lost = pending(&[claim(&of("1Gi", None), &json!({"phase": "Lost"}))]).unwrap();
        assert!(lost.contains("has lost its volume; restore it"), "{lost}");
        assert_eq!(pending(&[claim(&of("1Gi", None), &json!({"phase": "Bound"}))]), None);
    }

    #[test]
    fn a_claim_grows_until_it_has_what_it_asks_for() {
        let state = |capacity: &str| {
            let resizing = json!([{"type": "Resizing", "status": "True", "message": "waiting for the node"}]);
            let status = json!({"phase": "Bound", "capacity": {"storage": capacity}, "conditions": resizing});
            growing(&[claim(&of("2Gi", None), &status)])
        };
        assert_eq!(state("1Gi").as_deref(), Some("claim state-home-0 grows to 2Gi: waiting for the node"));
        assert_eq!((state("2Gi"), state("3Gi")), (None, None));
    }
}
