//! A namespace with an operator, and what stands in for the parts of a cluster that are not there: controllers of
//! StatefulSets, load balancers and kubelet. The broker in the pods is the real one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Client, Resource};
use mqtt_operator::api::{Condition, MqttBroker, MqttBrokerStatus};
use mqtt_operator::bridge;
use mqtt_operator::broker::{self, Running};
use mqtt_operator::config;
use mqtt_operator::config::files::{Etc, State};
use mqtt_operator::operator::{self, Options};
use mqtt_operator::process::Shutdown;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{ApiServer, await_until, free_ports, with_temp_namespace};

pub const DEADLINE: Duration = Duration::from_secs(30);
pub const IMAGE: &str = "example/mqtt-operator:1";

/// Runs a test in a namespace of its own, with an operator that looks after it.
pub async fn in_world(test: impl AsyncFnOnce(World)) {
    in_world_of(ApiServer::shared(), test).await;
}

/// As [`in_world`], on a server of the caller's own.
pub async fn in_world_of(server: &ApiServer, test: impl AsyncFnOnce(World)) {
    let client = server.client_with_crds().await;
    with_temp_namespace(&client, async |namespace| {
        // Pods are admitted as in a namespace that asks for the restricted standard.
        let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.patch(&namespace, &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
        let operator = Operator::start(&client, &namespace, IMAGE);
        // Boxed, as a whole broker is started in there.
        Box::pin(test(World { client: client.clone(), namespace, operator })).await;
    })
    .await;
}

/// A namespace and its operator.
pub struct World {
    pub client: Client,
    pub namespace: String,
    pub operator: Operator,
}

/// An operator in this process, for one namespace.
pub struct Operator {
    pub admin: u16,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), operator::RunError>>,
}

impl Operator {
    pub fn start(client: &Client, namespace: &str, image: &str) -> Self {
        Self::with_lease(client, namespace, image, None)
    }

    pub fn with_lease(client: &Client, namespace: &str, image: &str, lease: Option<operator::leader::Name>) -> Self {
        let [admin] = free_ports();
        let options = Options {
            image: image.into(),
            namespaces: vec![namespace.into()],
            admin: (Ipv4Addr::LOCALHOST, admin).into(),
            lease,
        };
        let shutdown = Shutdown::new();
        let running = tokio::spawn(operator::run(client.clone(), options, shutdown.clone()));
        Self { admin, shutdown, running }
    }

    /// Stops as SIGTERM does.
    pub async fn stop(self) {
        self.shutdown.trigger();
        self.running.await.unwrap().unwrap();
    }

    /// Stops as SIGKILL does.
    pub fn kill(self) {
        self.running.abort();
    }

    /// The value of one metric, summed over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = async { reqwest::get(format!("http://127.0.0.1:{}/metrics", self.admin)).await?.text().await };
        let text = text.await.unwrap_or_default();
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// How often the operator has looked at its objects.
    pub async fn passes(&self) -> f64 {
        self.metric("mqtt_operator_reconciles_total").await
    }

    /// Waits until it has looked more often than that. The count is taken before what makes it look: afterwards it may
    /// have looked already, and nothing would make it look again.
    pub async fn pass_after(&self, before: f64) {
        await_until(DEADLINE, "further pass", async || {
            let now = self.passes().await;
            if now > before { Ok(()) } else { Err(now) }
        })
        .await;
    }
}

impl World {
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn objects(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::erase::<MqttBroker>(&()))
    }

    /// Applies an object with this spec, as `kubectl apply --server-side` does.
    pub async fn apply(&self, name: &str, spec: &str) {
        let spec: Value = serde_saphyr::from_str(spec).unwrap();
        let object = json!({
            "apiVersion": "mqtt-operator.io/v1alpha1", "kind": "MqttBroker", "metadata": {"name": name}, "spec": spec
        });
        self.objects().patch(name, &PatchParams::apply("tests").force(), &Patch::Apply(object)).await.unwrap();
    }

    /// Makes or replaces a Secret of the user's.
    pub async fn secret(&self, name: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<&str, &str> = data.iter().copied().collect();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        let parameters = PatchParams::apply("tests").force();
        self.api::<Secret>().patch(name, &parameters, &Patch::Apply(secret)).await.unwrap();
    }

    /// Makes the operator look at the object once more, and waits until it has.
    pub async fn look_again(&self, name: &str) {
        let before = self.operator.passes().await;
        let annotation = json!({"metadata": {"annotations": {"passes": before.to_string()}}});
        self.objects().patch(name, &PatchParams::default(), &Patch::Merge(annotation)).await.unwrap();
        self.operator.pass_after(before).await;
    }

    pub async fn status(&self, name: &str) -> MqttBrokerStatus {
        // The rest of an object may be malformed.
        let found = self.objects().get(name).await.unwrap();
        serde_json::from_value(found.data["status"].clone()).unwrap_or_default()
    }

    /// Waits until the condition says `True Serving` or the like, and returns it.
    pub async fn says(&self, name: &str, type_: &str, status_and_reason: &str) -> Condition {
        await_until(DEADLINE, &format!("{type_} {status_and_reason}"), async || {
            let status = self.status(name).await;
            let condition = status.conditions.into_iter().find(|condition| condition.type_ == type_);
            match condition {
                Some(condition) if format!("{:?} {}", condition.status, condition.reason) == status_and_reason => {
                    Ok(condition)
                }
                other => Err(other),
            }
        })
        .await
    }

    /// Waits until there is such a child.
    pub async fn child<K>(&self, name: &str) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        await_until(DEADLINE, name, async || self.api::<K>().get(name).await.map_err(|error| error.to_string())).await
    }

    /// Waits until there is no such child any more.
    pub async fn gone<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        await_until(DEADLINE, &format!("end of {name}"), async || match self.api::<K>().get_opt(name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// The text in a Secret.
    pub async fn text(&self, secret: &str, key: &str) -> String {
        let secret: Secret = self.child(secret).await;
        String::from_utf8(secret.data.unwrap()[key].0.clone()).unwrap()
    }

    /// What the load balancer's controller does.
    pub async fn load_balancer(&self, name: &str, ingress: Value) {
        self.child::<Service>(name).await;
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        self.api::<Service>().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// What the StatefulSet controller says when `ready` of its pods, all of the current template, are ready.
    pub async fn pods_ready(&self, name: &str, ready: i32) {
        let set: StatefulSet = self.child(name).await;
        let status = json!({"status": {
            "observedGeneration": set.metadata.generation, "replicas": ready, "readyReplicas": ready,
            "updatedReplicas": ready, "currentRevision": "r", "updateRevision": "r"}});
        self.api::<StatefulSet>().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// Starts the pod of the StatefulSet, and says that it is ready.
    pub async fn run_pod(&self, name: &str) -> RunningPod {
        // Boxed, as a whole broker is started in there.
        let pod = Box::pin(RunningPod::start(self, name)).await;
        self.pods_ready(name, 1).await;
        pod
    }

    /// An object whose broker serves behind a load balancer.
    pub async fn serving(&self, name: &str, spec: &str) -> RunningPod {
        self.apply(name, spec).await;
        self.load_balancer(name, json!([{"ip": "192.0.2.7"}])).await;
        let pod = self.run_pod(name).await;
        self.says(name, "Ready", "True Serving").await;
        pod
    }
}

/// A pod as the API server has it, with the real broker in it: its documents are those that the pod mounts.
pub struct RunningPod {
    pub broker: Running,
    pod: Pod,
    etc: tempfile::TempDir,
    shutdown: Shutdown,
}

impl RunningPod {
    async fn start(world: &World, name: &str) -> Self {
        let set: StatefulSet = world.child(name).await;
        let mut template = set.spec.template;
        let claims = set.spec.volume_claim_templates.unwrap_or_default();
        let volumes = claims.iter().map(|claim| {
            json!({"name": claim.metadata.name, "persistentVolumeClaim": {
            "claimName": format!("{}-{name}-0", claim.metadata.name.as_deref().unwrap())}})
        });
        let volumes = volumes.map(|volume| serde_json::from_value(volume).unwrap());
        template.spec.as_mut().unwrap().volumes.get_or_insert_default().extend(volumes);
        let mut metadata = template.metadata.unwrap_or_default();
        metadata.name = Some(format!("{name}-0"));
        metadata.owner_references = Some(vec![OwnerReference {
            api_version: "apps/v1".into(),
            kind: "StatefulSet".into(),
            name: name.to_owned(),
            uid: set.metadata.uid.expect("what the API server has has one"),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]);
        let pod = Pod { metadata, spec: template.spec, status: None };
        let pods = world.api::<Pod>();
        let pod = pods.create(&PostParams::default(), &pod).await.expect("a pod that is admitted");
        let etc = tempfile::tempdir().unwrap();
        mount(world, &pod, etc.path()).await;

        let ip = address();
        let shutdown = Shutdown::new();
        let document = std::fs::read(Etc(etc.path().into()).broker()).expect("broker.json is mounted");
        let mut config: config::broker::Broker = serde_json::from_slice(&document).unwrap();
        config.admin.set_ip(ip);
        // The account of memory is the process's, and this one has the tests' other brokers in it.
        config.limits.max_memory = None;
        for listener in &mut config.listeners {
            (listener.address, listener.port) = (ip, 0);
        }
        if let Some(bridge) = &mut config.bridge {
            bridge.listen = (ip, 0).into();
        }
        let broker =
            broker::start(config, Etc(etc.path().into()), &State(etc.path().join("state")), shutdown.clone()).unwrap();
        if let Some(internal) = broker.internal {
            run_bridge(Etc(etc.path().into()), internal, ip, shutdown.clone());
        }
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [
            {"type": "Ready", "status": "True"}]}});
        let name = pod.metadata.name.clone().unwrap();
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        Self { broker, pod, etc, shutdown }
    }

    /// Where clients connect.
    pub fn address(&self) -> String {
        self.broker.listeners[0].1.to_string()
    }

    /// What kubelet does when the pod's annotations change: looks at what is mounted.
    pub async fn sync(&self, world: &World) {
        mount(world, &self.pod, self.etc.path()).await;
    }
}

/// The container beside the broker, with the addresses of this pod.
fn run_bridge(etc: Etc, broker: SocketAddr, ip: IpAddr, shutdown: Shutdown) {
    let document = std::fs::read(etc.bridge()).expect("bridge.json is mounted");
    let mut config: config::bridge::Bridge = serde_json::from_slice(&document).unwrap();
    config.broker = broker;
    config.admin.set_ip(ip);
    std::fs::write(etc.bridge(), serde_json::to_vec(&config).unwrap()).unwrap();
    tokio::spawn(async move { bridge::serve(&etc, shutdown).await });
}

impl Drop for RunningPod {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

/// Writes what the containers of a pod mount below `/etc/mqtt`, as kubelet does.
async fn mount(world: &World, pod: &Pod, etc: &Path) {
    let spec = pod.spec.as_ref().unwrap();
    let mounts: Vec<_> = spec.containers.iter().flat_map(|it| it.volume_mounts.iter().flatten()).collect();
    for volume in spec.volumes.iter().flatten() {
        let mounted = mounts.iter().find(|mount| mount.name == volume.name).expect("a volume that is mounted");
        let Ok(path) = Path::new(&mounted.mount_path).strip_prefix(Etc::IN_POD) else { continue };
        let directory = etc.join(path);
        std::fs::create_dir_all(&directory).unwrap();
        let files: Vec<(String, Vec<u8>)> = if let Some(source) = &volume.config_map {
            let found: ConfigMap = world.api().get(&source.name).await.unwrap();
            found.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes())).collect()
        } else if let Some(source) = &volume.secret {
            let found: Option<Secret> = world.api().get_opt(source.secret_name.as_ref().unwrap()).await.unwrap();
            assert!(found.is_some() || source.optional == Some(true), "{source:?} is missing: the pod would not start");
            let data = found.and_then(|secret| secret.data).unwrap_or_default();
            data.into_iter().map(|(key, bytes)| (key, bytes.0)).collect()
        } else {
            continue;
        };
        for entry in std::fs::read_dir(&directory).unwrap().map(Result::unwrap).filter(|it| it.path().is_file()) {
            if !files.iter().any(|(key, _)| entry.file_name().to_str() == Some(key)) {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        for (key, bytes) in files {
            std::fs::write(directory.join(key), bytes).unwrap();
        }
    }
}

/// An address on loopback that no other pod of this machine has: the ports of the admin endpoints are fixed.
fn address() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 16 + (std::process::id() % 200) as u8, high, low))
}
