//! The signing keys of a broker: from the Secret, with the person's own rights, or from the state of an `up`; and
//! `mqttctl keys`, which lists, replaces and takes back.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::http::Method;
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::admin::{Answer, Ports};
use super::target::{Target, Where};
use super::{audit, say};
use crate::api::{ConditionStatus, KeyState, MqttBroker, REVOKE_KEYS, ROTATE_KEYS};
use crate::auth::key::{self, KeyStates, PrivateKey, PrivateKeys};
use crate::auth::rotation::Keys;
use crate::auth::settings::Jwt;
use crate::config::broker::Broker;
use crate::config::report;
use crate::local::{self, state};
use crate::plan::{self, Names};

/// How often it is looked whether what is waited for has come.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a change is tried when somebody else changes the object at the same time.
const TRIES: u32 = 5;

const LIST_EXAMPLES: &str = "Examples:
  mqttctl keys list
  mqttctl keys list --loaded        also which pods verify with each key; asks them
  mqttctl keys list -o json | jq -r '.[] | select(.state == \"active\") | .kid'

States: `next` is published and waits until every pod has loaded it; `active` signs; `retiring` verifies
until the last token that it signed has expired; `revoked` is accepted by nobody.";

const ROTATE_EXAMPLES: &str = "Examples:
  mqttctl keys rotate               returns at once; the key changes within seconds
  mqttctl keys rotate --wait        returns when the new key signs

No client notices: the new key is published first, signs when every pod has loaded it, and the old one
verifies until the last token that it signed has expired. In a cluster this sets the annotation
mqtt-operator.io/rotate-keys of the object to the time; it can as well stand in the manifest.";

const REVOKE_EXAMPLES: &str = "Examples:
  mqttctl keys revoke 9f3aXk        says what that would do
  mqttctl keys revoke 9f3aXk --yes  does it

For a key that somebody else may have. It is removed at once: every token that it signed is refused, and
sessions that came with one are closed. If it was the key that signs, another one signs at once; until
the pods have loaded that one (seconds), they refuse what it signs; --wait returns when they have.
Devices need new tokens. Where all
keys may be known, name all of them. KID may be the beginning of a key id.";

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// The keys, what each is for, and until when
    #[command(after_help = LIST_EXAMPLES)]
    List(List),
    /// Let another key sign, without any client noticing
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate(Rotate),
    /// Take a key back at once, and with it every token that it signed
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke(Revoke),
}

#[derive(Args, Debug)]
pub struct List {
    /// Ask the pods which keys they verify with
    #[arg(long)]
    loaded: bool,
    /// What is printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Args, Debug)]
pub struct Rotate {
    #[command(flatten)]
    waiting: Waiting,
    /// What is printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Args, Debug)]
pub struct Revoke {
    /// The key, or the beginning of its id; several for several
    #[arg(required = true, value_name = "KID")]
    kids: Vec<String>,
    /// Do it; without this it is only said what it would do
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// What is printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Args, Clone, Copy, Debug)]
struct Waiting {
    /// Return when it has happened, and fail if it does not
    #[arg(long)]
    wait: bool,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "wait")]
    timeout: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// A key, as it is listed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    kid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithm: Option<String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// When a retiring key goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    /// The pods that verify with it, where they were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    loaded_by: Option<Vec<String>>,
}

/// Does what the verb says.
pub async fn run(verb: Verb, wanted: Where) -> anyhow::Result<()> {
    let target = wanted.find().await?;
    match verb {
        Verb::List(flags) => list(&flags, &target).await,
        Verb::Rotate(flags) => rotate(&flags, &target).await,
        Verb::Revoke(flags) => revoke(&flags, &target).await,
    }
}

/// The keys as they are now. In a cluster this takes no right but to read the object.
async fn keys(target: &Target) -> anyhow::Result<Vec<Listed>> {
    match target {
        Target::Local(home) => {
            let keys = state::read(&home.keys())?.context("there are no keys yet; start it once with `mqttctl up`")?;
            let states = state::read(&home.key_states())?.context("the state of the keys is missing")?;
            let keys = Keys::read(keys.as_bytes(), states.as_bytes()).map_err(anyhow::Error::msg)?;
            Ok(of_files(&keys))
        }
        Target::Cluster { .. } => {
            let jwt = object(target).await?.status.and_then(|status| status.jwt).unwrap_or_default();
            let state = |state| match state {
                KeyState::Next => "next",
                KeyState::Active => "active",
                KeyState::Retiring => "retiring",
            };
            let key = |it: crate::api::status::Key| Listed {
                kid: it.kid,
                algorithm: it.algorithm,
                state: state(it.state),
                since: it.since,
                until: it.not_after,
                loaded_by: None,
            };
            let revoked = jwt.revoked_keys.into_iter().map(|it| revoked(it.kid, Some(it.since)));
            Ok(jwt.keys.into_iter().map(key).chain(revoked).collect())
        }
    }
}

fn of_files(keys: &Keys) -> Vec<Listed> {
    let time = |seconds: u64| Some(Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?.to_string());
    let key = |record: &key::KeyRecord| Listed {
        kid: record.kid.clone(),
        algorithm: keys.algorithm(&record.kid).map(|algorithm| algorithm.name().to_owned()),
        state: match record.state {
            key::KeyState::Next => "next",
            key::KeyState::Active => "active",
            key::KeyState::Retiring => "retiring",
        },
        since: time(record.since),
        until: Keys::gone_at(record).and_then(time),
        loaded_by: None,
    };
    let revoked = keys.states.revoked.iter().map(|it| revoked(it.kid.clone(), time(it.since)));
    keys.states.keys.iter().map(key).chain(revoked).collect()
}

fn revoked(kid: String, since: Option<String>) -> Listed {
    Listed { kid, algorithm: None, state: "revoked", since, until: None, loaded_by: None }
}

fn active_of(keys: &[Listed]) -> Option<&Listed> {
    keys.iter().find(|key| key.state == "active")
}

/// The object as it is now.
async fn object(target: &Target) -> anyhow::Result<MqttBroker> {
    let Target::Cluster { client, namespace, name, .. } = target else { bail!("there is no object here") };
    let objects: Api<MqttBroker> = Api::namespaced(client.clone(), namespace);
    objects.get(name).await.with_context(|| format!("read MqttBroker {namespace}/{name}"))
}

async fn list(flags: &List, target: &Target) -> anyhow::Result<()> {
    let mut keys = keys(target).await?;
    if flags.loaded {
        for (name, loaded) in loaded(target).await? {
            for key in &mut keys {
                let by = key.loaded_by.get_or_insert_default();
                if loaded.contains(&key.kid) {
                    by.push(name.clone());
                }
            }
        }
    }
    if flags.output == Output::Json {
        return say(serde_json::to_string_pretty(&keys)?);
    }
    if keys.is_empty() {
        bail!("the operator has not reported any key yet; `mqttctl endpoint` says how the broker is");
    }
    let mut rows = vec![["KID", "ALGORITHM", "STATE", "SINCE", "UNTIL"].map(str::to_owned).to_vec()];
    if flags.loaded {
        rows[0].push("LOADED BY".into());
    }
    for key in keys {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let mut row =
            vec![key.kid, or_dash(key.algorithm), key.state.to_owned(), or_dash(key.since), or_dash(key.until)];
        row.extend(key.loaded_by.map(|by| if by.is_empty() { "none".into() } else { by.join(", ") }));
        rows.push(row);
    }
    let width = |at: usize| rows.iter().map(|row| row[at].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        say(cells.join("  ").trim_end())?;
    }
    Ok(())
}

async fn rotate(flags: &Rotate, target: &Target) -> anyhow::Result<()> {
    let before = keys(target).await?;
    let before = active_of(&before).context("no key signs yet; try again when the broker is ready")?;
    let now = Timestamp::from_second(Timestamp::now().as_second())?;
    // The clock here may be behind the one that the keys are kept by; the request must not be older than the key.
    let since = before.since.as_ref().and_then(|since| since.parse::<Timestamp>().ok());
    let at = since.map_or(now, |since| now.max(since));
    match target {
        Target::Local(home) => local::keys::request_rotation(home, at)?,
        Target::Cluster { object, .. } => {
            if let Some(secret) = &object.spec.auth.jwt.key_secret_ref {
                bail!(
                    "the key is yours: put another one into Secret {}, and it signs when every pod has loaded it",
                    secret.name
                );
            }
            annotate(target, ROTATE_KEYS, |_| at.to_string()).await?;
        }
    }
    audit::rotated(target, &before.kid);
    let after = if flags.waiting.wait {
        let changed = |keys: &[Listed]| active_of(keys).is_some_and(|active| active.kid != before.kid);
        Some(wait(target, flags.waiting, changed).await?)
    } else {
        None
    };
    let active = after.as_deref().and_then(active_of).map(|key| &key.kid);
    if flags.output == Output::Json {
        return say(serde_json::to_string_pretty(&json!({"requested": at, "before": before.kid, "active": active}))?);
    }
    match active {
        Some(active) => say(format_args!("{active} signs; {} verifies what it signed", before.kid)),
        None => say(format_args!("another key will sign in place of {}{}", before.kid, when(target))),
    }
}

/// When what was asked for happens.
fn when(target: &Target) -> &'static str {
    match target {
        Target::Local(home) if home.live().is_none() => ", when `mqttctl up` runs",
        _ => "; `mqttctl keys list` says how far it is",
    }
}

async fn revoke(flags: &Revoke, target: &Target) -> anyhow::Result<()> {
    let there = keys(target).await?;
    let kids = flags.kids.iter().map(|kid| chosen(kid, &there)).collect::<anyhow::Result<BTreeSet<String>>>()?;
    let signs = active_of(&there).is_some_and(|active| kids.contains(&active.kid));
    if !flags.yes {
        let list = kids.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let then = if signs { " It is the key that signs: another one signs at once." } else { "" };
        bail!(
            "this takes back {list}: every token that it signed is refused from now on, and the sessions that came with \
             one are closed.{then} To do it, add --yes"
        );
    }
    match target {
        Target::Local(home) => local::keys::request_revocation(home, &kids)?,
        Target::Cluster { .. } => {
            let all = |before: Option<&str>| {
                let mut all = plan::key_ids(before.unwrap_or_default());
                all.extend(kids.iter().cloned());
                all.into_iter().collect::<Vec<_>>().join(" ")
            };
            annotate(target, REVOKE_KEYS, all).await?;
        }
    }
    for kid in &kids {
        audit::revoked_key(target, kid);
    }
    let is_revoked = |keys: &[Listed], kid: &str| keys.iter().any(|key| key.kid == kid && key.state == "revoked");
    let after = if flags.waiting.wait {
        let gone = |keys: &[Listed]| kids.iter().all(|kid| is_revoked(keys, kid)) && active_of(keys).is_some();
        let keys = wait(target, flags.waiting, gone).await?;
        taken_up(target, flags.waiting, &keys).await?;
        Some(keys)
    } else {
        None
    };
    let active = after.as_deref().and_then(active_of).map(|key| &key.kid);
    if flags.output == Output::Json {
        return say(serde_json::to_string_pretty(&json!({"revoked": kids, "active": active}))?);
    }
    for kid in &kids {
        match active {
            Some(active) => say(format_args!("{kid} is revoked; {active} signs"))?,
            None => say(format_args!("{kid} is being revoked{}", when(target)))?,
        }
    }
    if signs {
        say("devices need new tokens: mqttctl token issue")?;
    }
    Ok(())
}

/// The key that is meant by its id or the beginning of it.
fn chosen(text: &str, keys: &[Listed]) -> anyhow::Result<String> {
    let found: Vec<&Listed> = keys.iter().filter(|key| key.kid.starts_with(text)).collect();
    match found.as_slice() {
        [key] => Ok(key.kid.clone()),
        several if several.iter().any(|key| key.kid == text) => Ok(text.to_owned()),
        [] => bail!("there is no key {text:?}; `mqttctl keys list` says which there are"),
        several => {
            bail!(
                "{text:?} could be {}; write more of it",
                several.iter().map(|it| &*it.kid).collect::<Vec<_>>().join(" or ")
            )
        }
    }
}

/// Sets an annotation of the object, to what `value` makes of what it is.
async fn annotate(target: &Target, name: &str, value: impl Fn(Option<&str>) -> String) -> anyhow::Result<()> {
    let Target::Cluster { client, namespace, name: of, .. } = target else { bail!("there is no object here") };
    let objects: Api<MqttBroker> = Api::namespaced(client.clone(), namespace);
    for _ in 0..TRIES {
        let found = object(target).await?;
        if found.spec.paused {
            bail!("spec.paused is true, so the operator changes nothing; set it to false first");
        }
        let text = value(found.annotations().get(name).map(String::as_str));
        // The version makes the API server refuse when somebody else has changed the object meanwhile.
        let patch = json!({"metadata": {"annotations": {name: text}, "resourceVersion": found.resource_version()}});
        match objects.patch(of, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                let who = format!("annotate MqttBroker {namespace}/{of}; that takes the right to `patch` it");
                return Err(anyhow::Error::new(error).context(who));
            }
        }
    }
    bail!("MqttBroker {namespace}/{of} changes all the time; try again")
}

/// Waits until the keys are as they should be, and returns them.
async fn wait(target: &Target, waiting: Waiting, done: impl Fn(&[Listed]) -> bool) -> anyhow::Result<Vec<Listed>> {
    if let Target::Local(home) = target
        && home.live().is_none()
    {
        bail!(
            "{}/{} does not run, so there is nothing to wait for: it is done when `mqttctl up` starts",
            home.namespace,
            home.name
        );
    }
    let end = Instant::now() + Duration::from_secs(waiting.timeout);
    loop {
        let keys = keys(target).await?;
        if done(&keys) {
            return Ok(keys);
        }
        if Instant::now() >= end {
            bail!("it has not happened within {} s; {}", waiting.timeout, obstacle(target).await);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until every broker verifies with the key that signs, and with none that is revoked.
async fn taken_up(target: &Target, waiting: Waiting, keys: &[Listed]) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(waiting.timeout);
    loop {
        let done = match target {
            Target::Cluster { .. } => {
                let conditions = object(target).await?.status.map(|status| status.conditions).unwrap_or_default();
                let ready = conditions.into_iter().find(|condition| condition.type_ == "KeysReady");
                ready.is_some_and(|it| it.status == ConditionStatus::True || it.reason == "NoPods")
            }
            // Until it has taken up the new key, it does not answer who signs with that.
            Target::Local(_) => match loaded(target).await {
                Ok(brokers) => brokers.iter().all(|(_, loaded)| {
                    let wrong = |key: &&Listed| loaded.contains(&key.kid) != (key.state != "revoked");
                    !keys.iter().any(|key| wrong(&key))
                }),
                Err(_) => false,
            },
        };
        if done {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("not every broker has taken it up within {} s; {}", waiting.timeout, obstacle(target).await);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The brokers by name, and the keys that they verify with.
async fn loaded(target: &Target) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let ports = Ports::of(target).await?;
    let mut brokers = Vec::with_capacity(ports.all.len());
    for port in &ports.all {
        let report: Answer<report::Broker> = ports.ask(port, Method::GET, "/api/v1/report").await?;
        brokers.push((port.name(), report.done()?.keys));
    }
    Ok(brokers)
}

/// What the operator says about the keys.
async fn obstacle(target: &Target) -> String {
    let hint = "`mqttctl keys list --loaded` says how far it is".to_owned();
    let Ok(object) = object(target).await else { return hint };
    let conditions = object.status.map(|status| status.conditions).unwrap_or_default();
    let current = conditions.into_iter().find(|condition| condition.type_ == "KeysCurrent");
    current.map_or(hint, |condition| format!("KeysCurrent is {:?}: {}", condition.status, condition.message))
}

/// What a token of a broker is made from.
pub struct Signing {
    pub key: PrivateKey,
    /// What the broker asks of a token.
    pub jwt: Jwt,
}

/// Reads the key that signs. Whoever may read it may make tokens: there is no other permission, and no service.
pub async fn signing(target: &Target) -> anyhow::Result<Signing> {
    match target {
        Target::Local(home) => {
            let keys = state::read(&home.keys())?.context("there are no keys yet; start it once with `mqttctl up`")?;
            let states = state::read(&home.key_states())?.context("the state of the keys is missing")?;
            let config: Broker = state::read_json(&home.etc().broker())?.context("the configuration is missing")?;
            Ok(Signing { key: active(keys.as_bytes(), states.as_bytes())?, jwt: config.auth.jwt })
        }
        Target::Cluster { client, namespace, name, object } => {
            let secret_name = Names::new(name).jwt;
            let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
            let secret = secrets.get(&secret_name).await.with_context(|| {
                format!(
                    "read Secret {namespace}/{secret_name}; who may sign tokens of {name} must be allowed to get it"
                )
            })?;
            let part = |key: &str| {
                let data = secret.data.as_ref().and_then(|data| data.get(key));
                data.map(|value| value.0.as_slice()).with_context(|| format!("Secret {secret_name} has no {key}"))
            };
            let jwt = plan::plan(object).context("what the object asks for")?.broker.auth.jwt;
            Ok(Signing { key: active(part("keys.json")?, part("state.json")?)?, jwt })
        }
    }
}

fn active(keys: &[u8], states: &[u8]) -> anyhow::Result<PrivateKey> {
    let keys = PrivateKeys::parse(keys).context("keys.json")?;
    let states: KeyStates = serde_json::from_slice(states).context("state.json")?;
    match keys.active(&states) {
        Some(key) => Ok(key.clone()),
        None => bail!("none of the keys is active"),
    }
}
