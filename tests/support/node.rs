//! A real Kubernetes node.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;

use super::apiserver::read_config;
use super::lab::{Held, kube_bin, lab_script, run};

/// The address of this machine that pods reach.
pub const HOST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 99, 0, 1);

/// A cluster of one node: API server, controllers, kubelet, containerd, kube-proxy, cluster DNS.
#[derive(Debug)]
pub struct Node {
    state: PathBuf,
    kubeconfig: PathBuf,
    _held: Held,
}

impl Node {
    /// Starts it with these image archives. There can be one at a time on a machine.
    pub fn start(images: &[&str]) -> Result<Self, String> {
        let state = tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"))?.keep();
        let state = state.to_str().ok_or("the temporary directory has a name that is not UTF-8")?;
        let arguments: Vec<&str> = std::iter::once(state).chain(images.iter().copied()).collect();
        let held = Held::start("node", &arguments)?;
        let kubeconfig = held.output.last().ok_or("tests/lab/node printed no kubeconfig")?.into();
        Ok(Self { state: state.into(), kubeconfig, _held: held })
    }

    /// Kills everything in it at once, as a power failure does, and starts it again.
    pub fn restart(&self) {
        run(lab_script("node").arg("restart").arg(&self.state));
    }

    /// A client of an administrator.
    pub async fn client(&self) -> Client {
        Client::try_from(read_config(&self.kubeconfig).await).expect("a client from a valid configuration")
    }

    /// `kubectl` or `helm`, or another program that reads `KUBECONFIG`, as an administrator.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// `kubectl` of the node's version.
    pub fn kubectl(&self) -> Command {
        self.command(kube_bin("kubectl"))
    }

    /// `helm`.
    pub fn helm(&self) -> Command {
        self.command(kube_bin("helm"))
    }
}

/// What a load balancer gives a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// An address of 10.98.0.0/24, which the host reaches through the node.
    Ip,
    /// A name alone, as some clouds do.
    Hostname(&'static str),
}

/// The controller that a cloud would bring: it gives each Service of type LoadBalancer its ingress, until dropped.
#[derive(Debug)]
pub struct LoadBalancer(JoinHandle<()>);

impl LoadBalancer {
    pub fn start(client: Client, grant: Grant) -> Self {
        Self(tokio::spawn(async move {
            let mut next = 10;
            loop {
                // An API server that does not answer is asked again: the test would fail for its own reason.
                if let Ok(services) = Api::<Service>::all(client.clone()).list(&ListParams::default()).await {
                    for service in services.items.iter().filter(|service| waits(service)) {
                        give(&client, service, grant, &mut next).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }))
    }
}

impl Drop for LoadBalancer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn waits(service: &Service) -> bool {
    let wanted = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    wanted && status.is_none_or(|status| status.ingress.as_ref().is_none_or(Vec::is_empty))
}

async fn give(client: &Client, service: &Service, grant: Grant, next: &mut u8) {
    let ingress = match grant {
        Grant::Ip => LoadBalancerIngress { ip: Some(format!("10.98.0.{next}")), ..LoadBalancerIngress::default() },
        Grant::Hostname(name) => {
            LoadBalancerIngress { hostname: Some(name.to_owned()), ..LoadBalancerIngress::default() }
        }
    };
    *next += 1;
    let services: Api<Service> = Api::namespaced(client.clone(), &service.namespace().unwrap_or_default());
    let status = json!({"status": {"loadBalancer": {"ingress": [ingress]}}});
    // A Service that was deleted meanwhile is no failure.
    let _ = services.patch_status(&service.name_any(), &PatchParams::default(), &Patch::Merge(status)).await;
}
