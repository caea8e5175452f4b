//! Claims of pods: waiting, growing, and StatefulSets that are made anew under running pods.

use k8s_openapi::api::core::v1::PersistentVolumeClaim as Claim;
use k8s_openapi::api::storage::v1::StorageClass;

use super::*;

/// A storage class of this test's own.
async fn class(world: &World, grows: bool) -> String {
    let name = format!("{}-{}", world.namespace, if grows { "grows" } else { "stays" });
    let class = json!({"metadata": {"name": name}, "provisioner": "tests.example/none", "allowVolumeExpansion": grows});
    let classes: Api<StorageClass> = Api::all(world.client.clone());
    classes.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
    name
}

/// Makes the claim of the first pod, as the controller of StatefulSets does.
async fn claim(world: &World, name: &str) {
    let set: StatefulSet = world.child(name).await;
    let mut claim = set.spec.volume_claim_templates.unwrap().remove(0);
    claim.metadata.name = Some(format!("state-{name}-0"));
    claim.labels_mut().extend(set.spec.selector.match_labels.unwrap());
    claim.status = None;
    world.api::<Claim>().create(&PostParams::default(), &claim).await.unwrap();
}

/// Says that the claim has a volume of this size, as the controller of volumes does.
async fn bind(world: &World, claim: &str, size: &str) {
    let status = json!({"status": {"phase": "Bound", "capacity": {"storage": size}}});
    world.api::<Claim>().patch_status(claim, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

/// What the garbage collector does with a StatefulSet whose pods are to stay, and the controller of StatefulSets with the
/// pods when there is the next one. Returns that.
async fn replaced(world: &World, before: &StatefulSet) -> StatefulSet {
    let sets = world.api::<StatefulSet>();
    let name = before.name_any();
    await_until(DEADLINE, "removal without its pods", async || match sets.get_opt(&name).await.unwrap() {
        Some(set) if set.uid() == before.uid() => {
            let leaves = set.finalizers().iter().any(|it| it == "orphan");
            if set.metadata.deletion_timestamp.is_some() && leaves {
                Ok(())
            } else {
                Err(format!("{:?}", set.metadata))
            }
        }
        other => Err(format!("{:?}", other.map(|set| set.metadata))),
    })
    .await;
    own(world, &name, None).await;
    let done = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    sets.patch(&name, &PatchParams::default(), &done).await.unwrap();
    let after = await_until(DEADLINE, "another StatefulSet", async || match sets.get_opt(&name).await.unwrap() {
        Some(set) if set.uid() != before.uid() => Ok(set),
        other => Err(format!("{:?}", other.map(|set| set.metadata))),
    })
    .await;
    own(world, &name, after.uid()).await;
    after
}

/// Makes this StatefulSet, or none, the owner of the pods.
async fn own(world: &World, name: &str, uid: Option<String>) {
    let pods = world.api::<Pod>();
    let owners: Vec<Value> = uid
        .iter()
        .map(
            |uid| json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "uid": uid, "controller": true}),
        )
        .collect();
    for pod in pods.list(&ListParams::default()).await.unwrap().items {
        let patch = Patch::Merge(json!({"metadata": {"ownerReferences": owners}}));
        pods.patch(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap();
    }
}

fn asked(claim: &Claim) -> &str {
    &claim.spec.as_ref().unwrap().resources.as_ref().unwrap().requests.as_ref().unwrap()["storage"].0
}

fn size(set: &StatefulSet) -> &str {
    asked(&set.spec.volume_claim_templates.as_ref().unwrap()[0])
}

#[tokio::test]
async fn storage_waits_visibly_and_grows_under_running_pods() {
    let server = ApiServer::start().unwrap();
    in_world_of(&server, async |world| {
        let class = class(&world, true).await;
        let spec = |size: &str| format!("{{storage: {{size: {size}, storageClassName: {class}}}}}");
        world.apply("home", &spec("1Gi")).await;
        world.load_balancer("home", json!([{"ip": "192.0.2.7"}])).await;
        claim(&world, "home").await;
        world.look_again("home").await;
        let waits = world.says("home", "Ready", "False StoragePending").await.message;
        assert!(waits.contains("state-home-0") && waits.contains(&class) && waits.contains("describe pvc"), "{waits}");
        bind(&world, "state-home-0", "1Gi").await;
        let pod = world.run_pod("home").await;
        world.says("home", "Ready", "True Serving").await;

        let before: StatefulSet = world.child("home").await;
        let pod_before: Pod = world.child("home-0").await;
        world.apply("home", &spec("2Gi")).await;
        let after = replaced(&world, &before).await;
        assert_ne!(after.uid(), before.uid());
        assert_eq!(size(&after), "2Gi");
        assert_eq!(after.spec.template, before.spec.template, "nothing that would roll a pod");
        let claim: Claim = world.child("state-home-0").await;
        assert_eq!(asked(&claim), "2Gi");
        let pod_after: Pod = world.child("home-0").await;
        assert_eq!((pod_after.uid(), &pod_after.spec), (pod_before.uid(), &pod_before.spec));
        assert_eq!(pod_after.metadata.deletion_timestamp, None);

        world.pods_ready("home", 1).await;
        world.says("home", "Ready", "True Serving").await;
        let grows = world.says("home", "Progressing", "True StorageGrowing").await.message;
        assert!(grows.contains("state-home-0 grows to 2Gi"), "{grows}");
        bind(&world, "state-home-0", "2Gi").await;
        world.look_again("home").await;
        world.says("home", "Progressing", "False Complete").await;

        settle(&world).await;
        let written = writes(&world).await;
        world.look_again("home").await;
        settle(&world).await;
        assert_eq!(writes(&world).await, written + 1, "a write beside the test's own");
        drop(pod);
    })
    .await;
}

#[tokio::test]
async fn growth_that_the_class_does_not_allow_is_said_and_the_broker_serves_on() {
    in_world(async |world| {
        let class = class(&world, false).await;
        let spec = |size: &str| format!("{{storage: {{size: {size}, storageClassName: {class}}}}}");
        let _pod = world.serving("home", &spec("1Gi")).await;
        claim(&world, "home").await;
        bind(&world, "state-home-0", "1Gi").await;
        let before: StatefulSet = world.child("home").await;
        world.apply("home", &spec("2Gi")).await;
        replaced(&world, &before).await;
        world.pods_ready("home", 1).await;
        let refused = world.says("home", "Progressing", "False StorageNotGrowing").await.message;
        assert!(refused.contains("state-home-0 cannot grow to 2Gi") && refused.contains("storageclass"), "{refused}");
        world.says("home", "Ready", "True Serving").await;
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_begins_to_keep_messages_gets_a_claim_and_one_that_ends_to_leaves_it() {
    in_world(async |world| {
        world.apply("home", "{storage: {durability: memory}}").await;
        let first: StatefulSet = world.child("home").await;
        let volumes = |set: &StatefulSet| -> Vec<String> {
            let pod = set.spec.template.spec.as_ref().unwrap();
            pod.volumes.iter().flatten().filter(|it| it.empty_dir.is_some()).map(|it| it.name.clone()).collect()
        };
        assert_eq!((first.spec.volume_claim_templates.as_ref(), volumes(&first)), (None, vec!["state".to_owned()]));

        world.apply("home", "{storage: {durability: async, onDelete: Delete}}").await;
        let second = replaced(&world, &first).await;
        assert_eq!((size(&second), volumes(&second)), ("1Gi", vec![]));
        let retention = second.spec.persistent_volume_claim_retention_policy.as_ref().unwrap();
        assert_eq!(
            (retention.when_deleted.as_deref(), retention.when_scaled.as_deref()),
            (Some("Delete"), Some("Retain"))
        );
        claim(&world, "home").await;

        world.apply("home", "{storage: {durability: memory}}").await;
        let third = replaced(&world, &second).await;
        assert_eq!((third.spec.volume_claim_templates.as_ref(), volumes(&third)), (None, vec!["state".to_owned()]));
        let claim: Claim = world.child("state-home-0").await;
        assert_eq!(claim.metadata.deletion_timestamp, None);
    })
    .await;
}

#[tokio::test]
async fn storage_that_would_have_to_shrink_or_to_move_is_refused() {
    in_world(async |world| {
        let change = async |spec: &str| {
            let patch = json!({"apiVersion": "mqtt-operator.io/v1alpha1", "kind": "MqttBroker", "metadata": {"name": "home"},
                "spec": serde_saphyr::from_str::<Value>(spec).unwrap()});
            let api = world.api::<MqttBroker>();
            let parameters = PatchParams::apply("tests").force();
            api.patch("home", &parameters, &Patch::Apply(patch)).await.map(|_| ()).map_err(|error| error.to_string())
        };
        change("{storage: {size: 2Gi}}").await.unwrap();
        for (spec, said) in [
            ("{storage: {size: 1Gi}}", "storage.size can only grow"),
            ("{storage: {size: 2000Mi}}", "storage.size can only grow"),
            ("{}", "storage.size can only grow"),
            ("{storage: {size: 1Mi}}", "storage.size must be at least 64Mi"),
        ] {
            let refused = change(spec).await.expect_err(spec);
            assert!(refused.contains(said), "{spec}: {refused}");
        }
        change("{storage: {size: 3G, storageClassName: fast}}").await.unwrap();
        for spec in ["{storage: {size: 3G, storageClassName: slow}}", "{storage: {size: 3G}}"] {
            let refused = change(spec).await.expect_err(spec);
            assert!(refused.contains("storage.storageClassName cannot be changed"), "{spec}: {refused}");
        }
        change("{storage: {storageClassName: fast, durability: memory}}")
            .await
            .expect("nothing is kept, nothing shrinks");
    })
    .await;
}
