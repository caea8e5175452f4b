//! The rules of a broker, from wherever they can be read: a manifest, the state of an `up`, or a cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::Api;

use super::target::{Target, Where};
use crate::auth::key::{KeySet, KeyStates};
use crate::auth::revocations::Revocations;
use crate::auth::settings::{IssuerKeys, Settings};
use crate::auth::{Policy, Sources, issuer};
use crate::config::broker::Broker;
use crate::config::files::SERVICE_ACCOUNTS;
use crate::local::{self, state};
use crate::plan::{self, Names};

/// Where the rules are, if not where `mqttctl` looks.
#[derive(Args, Clone, Debug, Default)]
pub struct From {
    /// A manifest, instead of a cluster or an `up`: then tokens are believed, because there are no keys
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// The rules of one broker.
pub struct Rules {
    pub settings: Settings,
    pub policy: Policy,
    /// Whether the public keys could be read, so that signatures can be checked.
    pub has_keys: bool,
    /// The states of the keys, if they could be read: that takes the right to sign.
    pub states: Option<KeyStates>,
}

/// Documents by their names.
type Documents = BTreeMap<String, Vec<u8>>;

/// Finds the broker that is meant, and reads its rules.
pub async fn find(from: &From, wanted: &Where) -> anyhow::Result<Rules> {
    match &from.file {
        Some(file) => of_manifest(file, wanted),
        None => of_target(&wanted.find().await?).await,
    }
}

fn of_manifest(file: &Path, wanted: &Where) -> anyhow::Result<Rules> {
    let manifest = local::read(file)?;
    let name = |index: usize| manifest.brokers[index].metadata.name.as_deref().unwrap_or_default();
    let mut meant: Vec<usize> = (0..manifest.brokers.len()).collect();
    meant.retain(|index| wanted.broker.as_deref().is_none_or(|wanted| wanted == name(*index)));
    let object = match meant.as_slice() {
        [index] => &manifest.brokers[*index],
        [] => bail!("{}: no such MqttBroker in it", file.display()),
        _ => {
            let names: Vec<&str> = meant.iter().map(|index| name(*index)).collect();
            bail!("{}: several MqttBrokers in it: {}; choose with -b", file.display(), names.join(", "))
        }
    };
    let plan = plan::plan(object).with_context(|| format!("{}", file.display()))?;
    rules(plan.broker.auth, None, &Documents::new(), None)
}

/// Reads the rules of a broker that was found.
pub async fn of_target(target: &Target) -> anyhow::Result<Rules> {
    match target {
        Target::Local(home) => {
            let etc = home.etc();
            let config: Broker = state::read_json(&etc.broker())?.context("the configuration is missing")?;
            let keys = directory(etc.jwks().parent().unwrap_or(&etc.0))?;
            let states = state::read(&home.key_states())?;
            rules(config.auth, Some(&keys), &directory(&etc.revocations())?, states.as_deref().map(str::as_bytes))
        }
        Target::Cluster { client, namespace, name, object } => {
            let names = Names::new(name);
            let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            // What the operator has written is what is in force; who may not read it has the object.
            let written = maps.get(&names.config).await.ok().and_then(|map| map.data?.remove("broker.json"));
            let settings = if let Some(json) = written {
                serde_json::from_str::<Broker>(&json).context("read broker.json of the operator")?.auth
            } else {
                eprintln!("mqttctl: ConfigMap {} cannot be read; the object alone counts", names.config);
                plan::plan(object).context("what the object asks for")?.broker.auth
            };
            let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
            let mut found = Vec::new();
            for secret in [&names.jwks, &format!("{name}-revocations"), &names.jwt] {
                let data = secrets.get_opt(secret).await.ok().flatten().and_then(|secret| secret.data);
                found.push(data.map(|data| -> Documents { data.into_iter().map(|(key, it)| (key, it.0)).collect() }));
            }
            let (private, revocations, public) = (found.pop().flatten(), found.pop().flatten(), found.pop().flatten());
            let states = private.as_ref().and_then(|data| data.get("state.json")).map(Vec::as_slice);
            rules(settings, public.as_ref(), &revocations.unwrap_or_default(), states)
        }
    }
}

/// The files of a directory, which may be absent.
fn directory(path: &Path) -> anyhow::Result<Documents> {
    let mut documents = Documents::new();
    let Ok(entries) = std::fs::read_dir(path) else { return Ok(documents) };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", path.display()))?;
        let content = std::fs::read(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
        documents.insert(entry.file_name().to_string_lossy().into_owned(), content);
    }
    Ok(documents)
}

/// Puts together what the broker does. Without the documents of keys no signature can be checked.
fn rules(
    settings: Settings,
    keys: Option<&Documents>,
    revocations: &Documents,
    states: Option<&[u8]>,
) -> anyhow::Result<Rules> {
    let own = keys.and_then(|keys| keys.get("jwks.json"));
    let jwks = own.map(|json| KeySet::parse(json).context("the public keys")).transpose()?.unwrap_or_default();
    let has_keys = own.is_some();
    let issuers = settings.issuers.iter().map(|issuer| {
        let document = match &issuer.keys {
            IssuerKeys::Cluster => SERVICE_ACCOUNTS.to_owned(),
            _ => format!("{}.json", issuer::file_stem(&issuer.issuer)),
        };
        issuer::read_keys(issuer, keys?.get(&document)?).ok()
    });
    let issuers = issuers.collect();
    let entries = revocations.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
    let revocations = Revocations::parse(entries).context("the revocations")?;
    let sources = Sources { jwks, issuers, revocations, ..Sources::default() };
    let policy = Policy::new(&settings, sources).context("the rules")?;
    let states = states.map(|json| serde_json::from_slice(json).context("the states of the keys")).transpose()?;
    Ok(Rules { settings, policy, has_keys, states })
}
