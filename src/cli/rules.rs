//! The rules of a broker, from wherever they can be read: a manifest, the state of an `up`, or a cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::{Map, Value};

use super::target::{Target, Where};
use crate::api::{MqttBroker, MqttUser};
use crate::auth::key::{KeySet, KeyStates};
use crate::auth::revocations::Revocations;
use crate::auth::settings::{IssuerKeys, Settings};
use crate::auth::{Identity, Policy, Presented, Refusal, Sources, Verdict, issuer};
use crate::broker::kept_keys;
use crate::config::broker::Broker;
use crate::config::files::SERVICE_ACCOUNTS;
use crate::local::{self, state};
use crate::plan::{self, Names, NotAdded};

/// Where the rules are, if not where `mqttctl` looks.
#[derive(Args, Clone, Debug, Default)]
pub struct From {
    /// A manifest, instead of a cluster or an `up`: then tokens are believed, because there are no keys. More than once
    /// for several, such as an MqttBroker and its MqttUsers
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
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

/// Whether a token is accepted.
pub enum Told<T> {
    Accepted(T),
    Refused(Refusal),
    /// The broker fetches the keys of its issuer, and the one that it names is not known here.
    Unknown {
        /// Who it is for if its signature is right.
        bearer: T,
        /// Why it cannot be told, and the next step.
        words: String,
    },
}

impl Rules {
    /// Whether the broker accepts this, with a token of these claims, at `now`.
    pub fn judge(
        &self,
        presented: &Presented<'_>,
        claims: &Map<String, Value>,
        now: u64,
    ) -> anyhow::Result<Told<Identity>> {
        Ok(match self.policy.authenticate(presented, now) {
            Verdict::Accepted(identity) => Told::Accepted(identity),
            Verdict::Refused(refusal) => Told::Refused(refusal),
            Verdict::CheckPassword(_) => bail!("the token is taken for a password"),
            // Whatever else is wrong with it, its key does not make it right.
            Verdict::UnknownKey { issuer, .. } => match self.policy.check_unsigned(claims, presented, now) {
                Ok(bearer) => Told::Unknown { bearer, words: self.unknown(&issuer, presented.client_id) },
                Err(refusal) => Told::Refused(refusal),
            },
        })
    }

    fn unknown(&self, issuer: &str, client_id: &str) -> String {
        let keys = self.settings.issuers.iter().find(|it| it.issuer == issuer).map(|it| &it.keys);
        let from = match keys {
            Some(IssuerKeys::Url { url, .. }) => format!(" from {url}"),
            _ => String::new(),
        };
        let client = client_id.escape_debug();
        format!(
            "the broker itself fetches the keys of {issuer:?}{from}, and the token's is not known here\n  \
             next: connect with it, `mqttctl subscribe TOPIC --token-file FILE -i {client}`; if that is refused, \
             `mqttctl denies --client {client}` says why"
        )
    }
}

/// Documents by their names.
type Documents = BTreeMap<String, Vec<u8>>;

/// Finds the broker that is meant, and reads its rules.
pub async fn find(from: &From, wanted: &Where) -> anyhow::Result<Rules> {
    if from.files.is_empty() { of_target(&wanted.find().await?).await } else { of_manifests(&from.files, wanted) }
}

fn of_manifests(files: &[PathBuf], wanted: &Where) -> anyhow::Result<Rules> {
    let (mut brokers, mut users) = (Vec::new(), Vec::new());
    for file in files {
        let manifest = local::read(file)?;
        brokers.extend(manifest.brokers);
        users.extend(manifest.users);
    }
    let name = |object: &MqttBroker| object.metadata.name.clone().unwrap_or_default();
    brokers.retain(|object| wanted.broker.as_ref().is_none_or(|wanted| *wanted == name(object)));
    match brokers.as_slice() {
        [object] => rules(settings(object, &users)?, None, None, &Documents::new(), None),
        [] => bail!("there is no such MqttBroker in these files"),
        several => {
            let names: Vec<String> = several.iter().map(name).collect();
            bail!("there are several MqttBrokers in these files: {}; choose with -b", names.join(", "))
        }
    }
}

/// What an object and those of its users ask for.
fn settings(object: &MqttBroker, users: &[MqttUser]) -> anyhow::Result<Settings> {
    let mut plan = plan::plan(object).with_context(|| format!("MqttBroker {}", object.name_any()))?;
    for NotAdded { object, message, .. } in plan.add_users(users) {
        eprintln!("mqttctl: MqttUser {object} is left out: {message}");
    }
    Ok(plan.broker.auth)
}

/// Reads the rules of a broker that was found.
pub async fn of_target(target: &Target) -> anyhow::Result<Rules> {
    match target {
        Target::Local(home) => {
            let etc = home.etc();
            let config: Broker = state::read_json(&etc.broker())?.context("the configuration is missing")?;
            let keys = directory(etc.jwks().parent().unwrap_or(&etc.0))?;
            let states = state::read(&home.key_states())?;
            let cache = config.auth.issuers_cache.clone();
            let revocations = directory(&etc.revocations())?;
            rules(config.auth, Some(&keys), cache.as_deref(), &revocations, states.as_deref().map(str::as_bytes))
        }
        Target::Cluster { client, namespace, name, object } => {
            let names = Names::new(name);
            let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            // What the operator has written is what is in force; who may not read it has the object.
            let written = maps.get(&names.config).await.ok().and_then(|map| map.data?.remove("broker.json"));
            let settings = if let Some(json) = written {
                serde_json::from_str::<Broker>(&json).context("read broker.json of the operator")?.auth
            } else {
                eprintln!("mqttctl: ConfigMap {} cannot be read; the objects count", names.config);
                let users: Api<MqttUser> = Api::namespaced(client.clone(), namespace);
                let users = users.list(&ListParams::default()).await.map(|list| list.items);
                settings(object, &users.unwrap_or_default())?
            };
            let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
            let mut found = Vec::new();
            for secret in [&names.jwks, &format!("{name}-revocations"), &names.jwt] {
                let data = secrets.get_opt(secret).await.ok().flatten().and_then(|secret| secret.data);
                found.push(data.map(|data| -> Documents { data.into_iter().map(|(key, it)| (key, it.0)).collect() }));
            }
            let (private, revocations, public) = (found.pop().flatten(), found.pop().flatten(), found.pop().flatten());
            let states = private.as_ref().and_then(|data| data.get("state.json")).map(Vec::as_slice);
            // What its pods have fetched is on their disks.
            rules(settings, public.as_ref(), None, &revocations.unwrap_or_default(), states)
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

/// Puts together what the broker does. Without the documents of keys no signature can be checked. `fetched` is where the
/// broker keeps the keys that it has fetched of other issuers.
fn rules(
    settings: Settings,
    keys: Option<&Documents>,
    fetched: Option<&Path>,
    revocations: &Documents,
    states: Option<&[u8]>,
) -> anyhow::Result<Rules> {
    let own = keys.and_then(|keys| keys.get("jwks.json"));
    let jwks = own.map(|json| KeySet::parse(json).context("the public keys")).transpose()?.unwrap_or_default();
    let has_keys = own.is_some();
    let issuers = settings.issuers.iter().map(|issuer| {
        let document = match &issuer.keys {
            IssuerKeys::Url { .. } => return kept_keys(fetched?, issuer),
            IssuerKeys::Cluster => SERVICE_ACCOUNTS.to_owned(),
            IssuerKeys::Document => format!("{}.json", issuer::file_stem(&issuer.issuer)),
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
