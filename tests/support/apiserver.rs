//! A real etcd and kube-apiserver.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::lab::{Held, free_ports, kube_bin, project_file};
use super::wait::await_until;

/// etcd and kube-apiserver on loopback. There is no kubelet, no scheduler and no controller: what acts on objects is what
/// the test starts.
#[derive(Debug)]
pub struct ApiServer {
    kubeconfig: PathBuf,
    _held: Held,
}

impl ApiServer {
    /// The one of this test process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<ApiServer, String>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().unwrap_or_else(|error| panic!("{error}"))
    }

    /// One of the caller's own, for a test that needs the whole API to itself.
    pub fn start() -> Result<Self, String> {
        let state = tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"))?.keep();
        let ports = free_ports::<3>().map(|port| port.to_string());
        let state = state.to_str().ok_or("the temporary directory has a name that is not UTF-8")?;
        let held = Held::start("apiserver", &[state, &ports[0], &ports[1], &ports[2]])?;
        let kubeconfig = held.output.last().ok_or("tests/lab/apiserver printed no kubeconfig")?.into();
        Ok(Self { kubeconfig, _held: held })
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A configuration for an administrator, to be changed (impersonation, namespace) before it becomes a client.
    pub async fn config(&self) -> Config {
        read_config(&self.kubeconfig).await
    }

    /// A client of an administrator. Each test makes its own: a client's connections belong to the runtime of the test.
    pub async fn client(&self) -> Client {
        Client::try_from(self.config().await).expect("a client from a valid configuration")
    }

    /// `kubectl` of the same version, as an administrator.
    pub fn kubectl(&self) -> Command {
        self.command("kubectl")
    }

    /// `helm`, as an administrator.
    pub fn helm(&self) -> Command {
        self.command("helm")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(kube_bin(name));
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// A client for a server that has the project's custom resources, from `crds/`.
    pub async fn client_with_crds(&self) -> Client {
        let client = self.client().await;
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        let directory = project_file("crds");
        for entry in std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.expect("a readable directory").path();
            let text = std::fs::read_to_string(&path).expect("a readable file");
            let definition: CustomResourceDefinition =
                serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            install(&definitions, &definition).await;
        }
        client
    }
}

/// The configuration in a kubeconfig that a script of `tests/lab` wrote.
pub(super) async fn read_config(path: &Path) -> Config {
    let kubeconfig = Kubeconfig::read_from(path).expect("a kubeconfig that the script has written");
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a valid kubeconfig")
}

async fn install(definitions: &Api<CustomResourceDefinition>, definition: &CustomResourceDefinition) {
    let name = definition.metadata.name.as_deref().expect("a definition has a name");
    let parameters = PatchParams::apply("tests").force();
    definitions.patch(name, &parameters, &Patch::Apply(definition)).await.expect("a definition that is admitted");
    await_until(Duration::from_secs(20), &format!("served resource {name}"), async || {
        let conditions = definitions.get(name).await.map_err(|error| error.to_string())?.status;
        let conditions = conditions.and_then(|status| status.conditions).unwrap_or_default();
        let established = conditions.iter().any(|it| it.type_ == "Established" && it.status == "True");
        established.then_some(()).ok_or_else(|| format!("{conditions:?}"))
    })
    .await;
}

/// Runs `test` with the name of a namespace that nobody else uses.
///
/// The namespace stays when `test` panics, to be looked at; without a controller manager its content stays in any case.
pub async fn with_temp_namespace<T>(client: &Client, test: impl AsyncFnOnce(String) -> T) -> T {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let metadata = ObjectMeta { generate_name: Some("test-".to_owned()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    let created = namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace of its own");
    let name = created.metadata.name.expect("the server completes generateName");
    let result = test(name.clone()).await;
    namespaces.delete(&name, &DeleteParams::background()).await.expect("the namespace still exists");
    result
}
