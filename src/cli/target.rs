//! Where `mqttctl` looks: at a state directory of `up`, or at a cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::api::MqttBroker;
use crate::local::state::{self, Home};

/// The flags that say where to look.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Where to look")]
pub struct Where {
    /// The namespace of the object.
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// The object; not needed where there is only one.
    #[arg(short, long, global = true, value_name = "NAME")]
    pub broker: Option<String>,

    /// A state directory of `mqttctl up`.
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// A context of the kubeconfig.
    #[arg(long, global = true, value_name = "CONTEXT")]
    pub context: Option<String>,

    /// A kubeconfig; otherwise as kubectl finds it.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// One broker, found.
#[derive(Clone)]
pub enum Target {
    /// On this machine, running or not.
    Local(Home),
    Cluster {
        client: kube::Client,
        namespace: String,
        name: String,
        object: Box<MqttBroker>,
    },
}

impl Target {
    pub fn namespace(&self) -> &str {
        match self {
            Self::Local(home) => &home.namespace,
            Self::Cluster { namespace, .. } => namespace,
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Local(home) => &home.name,
            Self::Cluster { name, .. } => name,
        }
    }
}

impl Where {
    /// Whether a place is named, or the state of an `up` is at hand: where nothing is, nothing is looked for.
    pub fn names_something(&self) -> bool {
        let named = [&self.namespace, &self.broker, &self.context].into_iter().any(Option::is_some);
        named
            || self.state.is_some()
            || self.kubeconfig.is_some()
            || !state::homes(Path::new(state::DEFAULT)).is_empty()
    }

    /// Finds the one broker that is meant, and says on stderr where it was looked for.
    ///
    /// `--state` comes first; then a flag that names a cluster; then `./.mqtt`, when an `up` runs there; then the
    /// kubeconfig.
    pub async fn find(&self) -> anyhow::Result<Target> {
        if let Some(directory) = &self.state {
            return self.local(directory);
        }
        let default = Path::new(state::DEFAULT);
        let names_cluster = self.context.is_some() || self.kubeconfig.is_some() || self.namespace.is_some();
        if !names_cluster && state::homes(default).iter().any(|home| home.live().is_some()) {
            return self.local(default);
        }
        self.cluster().await
    }

    fn local(&self, directory: &Path) -> anyhow::Result<Target> {
        let mut homes = state::homes(directory);
        let all: Vec<String> = homes.iter().map(|home| format!("{}/{}", home.namespace, home.name)).collect();
        homes.retain(|home| self.namespace.as_ref().is_none_or(|namespace| *namespace == home.namespace));
        homes.retain(|home| self.broker.as_ref().is_none_or(|name| *name == home.name));
        if homes.len() > 1 {
            // What runs is what is meant, unless that is ambiguous too.
            let live: Vec<Home> = homes.iter().filter(|home| home.live().is_some()).cloned().collect();
            if live.len() == 1 {
                homes = live;
            }
        }
        match homes.as_slice() {
            [home] => {
                eprintln!("mqttctl: {}/{} in {}", home.namespace, home.name, directory.display());
                Ok(Target::Local(home.clone()))
            }
            [] if all.is_empty() => {
                bail!("{} holds no broker; start one with `mqttctl up -f FILE`", directory.display())
            }
            [] => bail!("no such broker in {}; there are: {}", directory.display(), all.join(", ")),
            _ => bail!("several brokers in {}: {}; choose with -b (and -n)", directory.display(), all.join(", ")),
        }
    }

    async fn cluster(&self) -> anyhow::Result<Target> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let kubeconfig = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let kubeconfig = kubeconfig.with_context(|| match &self.kubeconfig {
            Some(path) => format!("read the kubeconfig {}", path.display()),
            None => "no `mqttctl up` runs on ./.mqtt, and there is no kubeconfig; \
                     start one with `mqttctl up -f FILE`, or give --state or --kubeconfig"
                .to_owned(),
        })?;
        let context = self.context.clone().or_else(|| kubeconfig.current_context.clone()).unwrap_or_default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.context("use the kubeconfig")?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = kube::Client::try_from(config).context("use the kubeconfig")?;
        let object = self.object(&client, &namespace).await?;
        let name = object.metadata.name.clone().unwrap_or_default();
        eprintln!("mqttctl: {namespace}/{name} in the cluster of context {context}");
        Ok(Target::Cluster { client, namespace, name, object: Box::new(object) })
    }

    async fn object(&self, client: &kube::Client, namespace: &str) -> anyhow::Result<MqttBroker> {
        let objects: Api<MqttBroker> = Api::namespaced(client.clone(), namespace);
        if let Some(name) = &self.broker {
            let found = objects.get_opt(name).await.with_context(|| format!("read MqttBroker {namespace}/{name}"))?;
            return found.with_context(|| format!("there is no MqttBroker {name} in namespace {namespace}"));
        }
        let list = objects.list(&ListParams::default()).await;
        let mut found = list.with_context(|| format!("list the MqttBrokers of namespace {namespace}"))?.items;
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => bail!("there is no MqttBroker in namespace {namespace}; choose another with -n"),
            _ => {
                let names: Vec<&str> = found.iter().filter_map(|object| object.metadata.name.as_deref()).collect();
                bail!("several MqttBrokers in namespace {namespace}: {}; choose with -b", names.join(", "))
            }
        }
    }
}
