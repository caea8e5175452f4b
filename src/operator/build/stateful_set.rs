//! The StatefulSet: a container for the broker and, with telemetry, one for the bridge.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, HTTPGetAction,
    LocalObjectReference, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::claim::{self, STATE_VOLUME};
use crate::api::MqttBroker;
use crate::config::files::{Etc, STATE_IN_POD};
use crate::plan::{BRIDGE_ADMIN_PORT, BROKER_ADMIN_PORT, DEFAULT_MEMORY, Plan};

/// The name of the broker's container.
pub const BROKER_CONTAINER: &str = "broker";
/// On the pod template: but for who may do what, the broker reads its settings once, so that a change of them is a new
/// pod.
pub const CONFIG_HASH: &str = "mqtt-operator.io/config-hash";
/// On the StatefulSet: the spec that it was built from.
pub const SPEC_HASH: &str = "mqtt-operator.io/spec-hash";

/// The group of the image's user, which the files of a volume are given to.
const GROUP: i64 = 65532;
/// Seconds from SIGTERM to SIGKILL: those in which the broker says goodbye to its clients, and some to spare.
const GRACE: i64 = 30;

/// Builds it.
pub fn build(object: &MqttBroker, plan: &Plan, image: &str, config_hash: &str) -> StatefulSet {
    let mut metadata = super::metadata(object, plan, &plan.names.broker);
    metadata.annotations = Some(BTreeMap::from([(SPEC_HASH.to_owned(), super::hash(&object.spec))]));
    StatefulSet {
        metadata,
        spec: StatefulSetSpec {
            replicas: Some(plan.replicas),
            service_name: Some(plan.names.pods.clone()),
            // With `OrderedReady` a pod that never becomes ready stands in the way of the one that would.
            pod_management_policy: Some("Parallel".into()),
            selector: LabelSelector { match_labels: Some(super::selector(plan)), ..LabelSelector::default() },
            template: template(plan, image, config_hash),
            volume_claim_templates: claim::templates(plan),
            persistent_volume_claim_retention_policy: claim::retention(plan),
            ..StatefulSetSpec::default()
        },
        status: None,
    }
}

fn template(plan: &Plan, image: &str, config_hash: &str) -> PodTemplateSpec {
    let mut labels = plan.pod.labels.clone();
    labels.extend(super::labels(plan));
    let mut annotations = plan.pod.annotations.clone();
    annotations.insert(CONFIG_HASH.into(), config_hash.into());
    let mut containers = vec![broker(plan, image)];
    if plan.bridge.is_some() {
        containers.push(bridge(plan, image));
    }
    let pull_secrets = plan.pod.image_pull_secrets.iter();
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            containers,
            volumes: Some(volumes(plan)),
            // Nothing in a pod speaks to the API server.
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                seccomp_profile: Some(seccomp()),
                // A volume belongs to root when it is new. Only then is its whole tree gone through.
                fs_group: plan.claim.is_some().then_some(GROUP),
                fs_group_change_policy: plan.claim.is_some().then(|| "OnRootMismatch".into()),
                ..PodSecurityContext::default()
            }),
            node_selector: some(plan.pod.node_selector.clone()),
            tolerations: some_list(plan.pod.tolerations.clone()),
            affinity: plan.pod.affinity.clone(),
            topology_spread_constraints: some_list(plan.pod.topology_spread_constraints.clone()),
            priority_class_name: plan.pod.priority_class_name.clone(),
            image_pull_secrets: some_list(
                pull_secrets.map(|secret| LocalObjectReference { name: secret.name.clone() }).collect(),
            ),
            ..PodSpec::default()
        }),
    }
}

fn broker(plan: &Plan, image: &str) -> Container {
    let mut ports: Vec<ContainerPort> =
        plan.listeners().iter().map(|listener| container_port(&listener.name, listener.port)).collect();
    ports.push(container_port("admin", BROKER_ADMIN_PORT));
    let mut mounts = vec![mount("config"), mount("jwks"), mount("users"), mount("revocations")];
    if plan.bridge.is_some() {
        mounts.push(mount("bridge"));
    }
    for secrets in &plan.listener_secrets {
        let listener = &secrets.listener;
        mounts.push(mount_at(&format!("tls-{listener}"), &format!("tls/{listener}")));
        if secrets.client_ca.is_some() {
            mounts.push(mount_at(&format!("client-ca-{listener}"), &format!("client-ca/{listener}")));
        }
    }
    mounts.push(VolumeMount { name: STATE_VOLUME.into(), mount_path: STATE_IN_POD.into(), ..VolumeMount::default() });
    Container {
        name: BROKER_CONTAINER.into(),
        image: Some(image.into()),
        command: Some(command("mqtt-broker", &["--etc", Etc::IN_POD])),
        ports: Some(ports),
        resources: Some(plan.pod.resources.clone().unwrap_or_else(|| resources("50m", "128Mi", DEFAULT_MEMORY))),
        volume_mounts: Some(mounts),
        readiness_probe: Some(Probe {
            period_seconds: Some(2),
            failure_threshold: Some(2),
            ..probe("/readyz", BROKER_ADMIN_PORT)
        }),
        liveness_probe: Some(probe("/livez", BROKER_ADMIN_PORT)),
        security_context: Some(confined()),
        ..Container::default()
    }
}

/// Without a readiness probe: an Elasticsearch that cannot be reached must not take the broker out of service.
fn bridge(plan: &Plan, image: &str) -> Container {
    let mut mounts = vec![mount("config"), mount("bridge"), mount("jwks")];
    if plan.elasticsearch.credentials.is_some() {
        mounts.push(mount("elasticsearch"));
    }
    if plan.elasticsearch.ca.is_some() {
        mounts.push(mount("elasticsearch-ca"));
    }
    Container {
        name: "bridge".into(),
        image: Some(image.into()),
        command: Some(command("mqtt-bridge", &["--etc", Etc::IN_POD])),
        ports: Some(vec![container_port("bridge-admin", BRIDGE_ADMIN_PORT)]),
        resources: Some(resources("10m", "32Mi", "256Mi")),
        volume_mounts: Some(mounts),
        liveness_probe: Some(probe("/livez", BRIDGE_ADMIN_PORT)),
        security_context: Some(confined()),
        ..Container::default()
    }
}

fn volumes(plan: &Plan) -> Vec<Volume> {
    let mut volumes = vec![
        Volume {
            name: "config".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: plan.names.config.clone(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        secret("jwks", &plan.names.jwks),
        secret("users", &plan.names.users),
        // Nobody has taken a token back yet.
        optional_secret("revocations", &plan.names.revocations),
    ];
    if plan.bridge.is_some() {
        volumes.push(secret("bridge", &plan.names.bridge));
    }
    let theirs = [("elasticsearch", &plan.elasticsearch.credentials), ("elasticsearch-ca", &plan.elasticsearch.ca)];
    // A Secret of the user's that is missing is telemetry's trouble and not MQTT's, or that of one listener and not of all.
    let theirs = theirs.into_iter().filter_map(|(name, source)| Some(optional_secret(name, source.as_ref()?)));
    volumes.extend(theirs);
    for secrets in &plan.listener_secrets {
        volumes.push(optional_secret(&format!("tls-{}", secrets.listener), &secrets.certificate));
        let authority = secrets.client_ca.as_ref();
        volumes.extend(authority.map(|it| optional_secret(&format!("client-ca-{}", secrets.listener), it)));
    }
    // With a claim the StatefulSet puts it there.
    if plan.claim.is_none() {
        volumes.push(Volume {
            name: STATE_VOLUME.into(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        });
    }
    volumes
}

fn secret(volume: &str, name: &str) -> Volume {
    Volume {
        name: volume.into(),
        secret: Some(SecretVolumeSource { secret_name: Some(name.into()), ..SecretVolumeSource::default() }),
        ..Volume::default()
    }
}

fn optional_secret(volume: &str, name: &str) -> Volume {
    let mut volume = secret(volume, name);
    volume.secret.get_or_insert_default().optional = Some(true);
    volume
}

fn mount(volume: &str) -> VolumeMount {
    mount_at(volume, volume)
}

/// A whole directory, never a single file of it: only directories follow their source.
fn mount_at(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: volume.into(),
        mount_path: format!("{}/{path}", Etc::IN_POD),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

fn command(program: &str, flags: &[&str]) -> Vec<String> {
    std::iter::once(format!("/usr/local/bin/{program}")).chain(flags.iter().map(ToString::to_string)).collect()
}

fn container_port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: port.into(),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, port: u16) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(port.into()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// What the restricted Pod Security Standard asks of a container, and a root file system that cannot be written.
fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
        seccomp_profile: Some(seccomp()),
        ..SecurityContext::default()
    }
}

fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }
}

fn resources(cpu: &str, memory: &str, most_memory: &str) -> ResourceRequirements {
    let quantity = |text: &str| Quantity(text.into());
    ResourceRequirements {
        requests: Some(BTreeMap::from([("cpu".into(), quantity(cpu)), ("memory".into(), quantity(memory))])),
        limits: Some(BTreeMap::from([("memory".into(), quantity(most_memory))])),
        ..ResourceRequirements::default()
    }
}

fn some(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    if map.is_empty() { None } else { Some(map) }
}

fn some_list<T>(list: Vec<T>) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list) }
}
