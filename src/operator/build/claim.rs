//! The claim of a volume for what is kept, one for each pod.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSetPersistentVolumeClaimRetentionPolicy as Retention;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::plan::{Claim, Plan};

/// The volume of what is kept; a claim is named after it and the pod, `state-home-0`.
pub const STATE_VOLUME: &str = "state";

/// What the StatefulSet makes claims from. Absent where nothing is kept.
pub fn templates(plan: &Plan) -> Option<Vec<PersistentVolumeClaim>> {
    plan.claim.as_ref().map(|claim| vec![template(plan, claim)])
}

fn template(plan: &Plan, claim: &Claim) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(STATE_VOLUME.into()),
            labels: Some(super::labels(plan)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: claim.class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".into(), Quantity(claim.size.clone()))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// Whether claims end with the object. A broker that is only stopped, with 0 replicas, keeps them.
pub fn retention(plan: &Plan) -> Option<Retention> {
    plan.claim.as_ref().map(|claim| Retention {
        when_deleted: Some(if claim.delete { "Delete" } else { "Retain" }.into()),
        when_scaled: Some("Retain".into()),
    })
}
