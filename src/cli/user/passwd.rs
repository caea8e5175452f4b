//! `mqttctl user passwd`.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::{Output, Passwd, planned, reports};
use crate::auth::password;
use crate::cli::target::{Target, Where};
use crate::cli::{audit, say};
use crate::config::FORMAT;
use crate::config::broker::{Broker, UserHash, Users};
use crate::config::report;
use crate::local::state::{self, Home};
use crate::plan::{Password, UserPlan};

/// How long the broker may take to have the password: in a cluster the kubelet brings it.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(500);
/// Longer ones are no passwords, and no CONNECT of the usual size has them.
const LONGEST: usize = 1024;

/// Gives the user the password that is typed, or on standard input.
pub async fn run(flags: &Passwd, wanted: &Where) -> anyhow::Result<()> {
    let target = wanted.find().await?;
    let name = flags.name.as_str();
    // Who is not there is not worth a password typed twice.
    let place = find(&target, name).await?;
    let password = read()?;
    let before = reports(&target).await.ok();
    let changed = match (&target, &place) {
        (Target::Local(home), _) => write_local(home, name, &password)?,
        (Target::Cluster { client, namespace, .. }, Some(user)) => write(client, namespace, user, &password).await?,
        (Target::Cluster { .. }, None) => bail!("there is no user {name:?}"),
    };
    if !changed {
        return tell(flags, "unchanged", "it is that password already");
    }
    audit::password_set(&target, name);
    let Some(before) = before else {
        return tell(flags, "written", "the broker cannot be asked whether it has it; it takes it up by itself");
    };
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        let now = reports(&target).await.unwrap_or_default();
        if !now.is_empty() && now.iter().all(|report| has_another(&before, report, name)) {
            let took = since.elapsed().as_secs();
            return tell(
                flags,
                "loaded",
                &format!("the broker has it, after {took} s; older connections of the user end"),
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!(
        "the password is written, and the broker does not have it after {} s; `mqttctl user list` says when it has",
        PATIENCE.as_secs()
    )
}

/// Whether this broker has another password for the user than any had before.
fn has_another(before: &[report::Broker], now: &report::Broker, name: &str) -> bool {
    let Some(digest) = now.passwords.get(name) else { return false };
    before.iter().all(|report| report.passwords.get(name) != Some(digest))
}

fn tell(flags: &Passwd, result: &str, words: &str) -> anyhow::Result<()> {
    if flags.output == Output::Json {
        return say(json!({"user": flags.name, "result": result}));
    }
    say(format_args!("{}: {words}", flags.name))
}

/// The user in a cluster; an error if there is no such user.
async fn find(target: &Target, name: &str) -> anyhow::Result<Option<UserPlan>> {
    match target {
        Target::Local(home) => {
            let config: Option<Broker> = state::read_json(&home.etc().broker())?;
            let users = config.context("there is no broker yet; start it once with `mqttctl up`")?.auth.users;
            if !users.iter().any(|user| user.name == name) {
                bail!("there is no user {name:?}; `mqttctl user list` says who there is");
            }
            Ok(None)
        }
        Target::Cluster { client, namespace, .. } => {
            let (plan, _) = planned(client, namespace, target).await?;
            let user = plan.users.into_iter().find(|user| user.name == name);
            Ok(Some(user.with_context(|| format!("there is no user {name:?}; `mqttctl user list` says who there is"))?))
        }
    }
}

/// The first line of standard input; typed twice where that is a terminal.
fn read() -> anyhow::Result<String> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let _echo = Echo::off()?;
        let first = prompt("New password: ")?;
        if prompt("Again: ")? != first {
            bail!("the two differ; nothing was changed");
        }
        first
    } else {
        line()?
    };
    if password.is_empty() {
        bail!("an empty password is no password; nothing was changed");
    }
    if password.len() > LONGEST {
        bail!("a password has at most {LONGEST} bytes; nothing was changed");
    }
    if password::is_a_token(password.as_bytes()) {
        bail!("it looks like a token, and would be taken for one; nothing was changed");
    }
    Ok(password)
}

fn prompt(text: &str) -> anyhow::Result<String> {
    eprint!("{text}");
    let line = line();
    eprintln!();
    line
}

fn line() -> anyhow::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("read the password from standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The terminal shows nothing of what is typed, until this is dropped.
struct Echo;

impl Echo {
    fn off() -> anyhow::Result<Self> {
        if stty("-echo") {
            Ok(Self)
        } else {
            bail!("the terminal cannot hide what is typed; give the password on standard input")
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        stty("echo");
    }
}

fn stty(setting: &str) -> bool {
    let mut stty = Command::new("stty");
    let stty = stty.arg(setting).stdin(Stdio::inherit()).stdout(Stdio::null()).stderr(Stdio::null());
    stty.status().is_ok_and(|status| status.success())
}

/// Writes the password, or its hash, into the Secret that it belongs in. Whether that changed anything.
async fn write(client: &Client, namespace: &str, user: &UserPlan, password: &str) -> anyhow::Result<bool> {
    let (name, key) = match &user.password {
        Password::Generate => (user.secret_name.as_str(), "password"),
        Password::FromSecret { name, key } | Password::Hash { name, key } => (name.as_str(), key.as_str()),
    };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = secrets.get_opt(name).await.with_context(|| format!("read Secret {namespace}/{name}"))?;
    let old = found.as_ref().and_then(|secret| Some(secret.data.as_ref()?.get(key)?.0.clone())).unwrap_or_default();
    let is_hash = matches!(user.password, Password::Hash { .. });
    let old_hash = std::str::from_utf8(old.trim_ascii_end()).unwrap_or_default();
    if old == password.as_bytes() || (is_hash && password::verify(password.as_bytes(), old_hash)) {
        return Ok(false);
    }
    let value = if is_hash { password::hash(password.as_bytes(), salt()?)? } else { password.to_owned() };
    let data = BTreeMap::from([(key.to_owned(), ByteString(value.into_bytes()))]);
    let written = match &found {
        Some(found) => {
            // The version says that nobody has changed it meanwhile.
            let version = &found.metadata.resource_version;
            let patch = json!({"metadata": {"resourceVersion": version}, "data": data});
            secrets.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
        }
        None if matches!(user.password, Password::Generate) => {
            bail!("the operator has not made Secret {namespace}/{name} yet; try again in a moment")
        }
        None => {
            let metadata = kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
            secrets.create(&PostParams::default(), &Secret { metadata, data: Some(data), ..Secret::default() }).await
        }
    };
    written.with_context(|| format!("write Secret {namespace}/{name}"))?;
    Ok(true)
}

/// The passwords that an `up` knows, by name.
pub fn local_passwords(home: &Home) -> anyhow::Result<BTreeMap<String, String>> {
    Ok(state::read_json(&home.passwords())?.unwrap_or_default())
}

/// Writes the password and its hash where an `up` keeps them. Whether that changed anything.
fn write_local(home: &Home, name: &str, password: &str) -> anyhow::Result<bool> {
    let users: Option<Users> = state::read_json(&home.etc().users())?;
    let mut users = users.unwrap_or(Users { format: FORMAT, users: Vec::new() });
    let old = users.users.iter().find(|user| user.name == name);
    if old.is_some_and(|user| password::verify(password.as_bytes(), &user.hash)) {
        return Ok(false);
    }
    let mut known = local_passwords(home)?;
    known.insert(name.to_owned(), password.to_owned());
    let hash = password::hash(password.as_bytes(), salt()?)?;
    users.users.retain(|user| user.name != name);
    users.users.push(UserHash { name: name.to_owned(), hash, source: None });
    // Before the hashes, as `up` does: a hash without its password would be of no use at the next start.
    state::write_json(&home.passwords(), &known)?;
    state::write_json(&home.etc().users(), &users)?;
    eprintln!(
        "mqttctl: where the file that `up` was started with has this user's password, it is taken again at its next start"
    );
    Ok(true)
}

fn salt() -> anyhow::Result<[u8; 16]> {
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(salt)
}
