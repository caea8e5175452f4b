//! `mqttctl user`: who has a password, giving somebody a new one, and bringing users along from Mosquitto.

mod import;
mod passwd;

use std::path::PathBuf;

use anyhow::Context;
use axum::http::Method;
use clap::{Args, Subcommand, ValueEnum};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde::Serialize;

use super::admin::Ports;
use super::say;
use super::session::printable;
use super::target::{Target, Where};
use crate::api::MqttUser;
use crate::config::broker::Broker;
use crate::config::report;
use crate::local::state;
use crate::plan::{self, Password, Plan};

const PASSWD_EXAMPLES: &str = "Examples:
  mqttctl user passwd dev1                 asks for the password twice
  mqttctl user passwd dev1 < password.txt  takes the first line
  openssl rand -base64 24 | mqttctl user passwd dev1

The password is never an argument: those are seen by everybody on the machine. It is written into the
Secret that the user refers to, or, with generate: true, into the one that was published.";

const IMPORT_EXAMPLES: &str = "Examples:
  mqttctl user import -b home passwords.txt | kubectl apply -f -
  mqttctl user import -b home --group devices passwords.txt > users.yaml

The file is that of mosquitto_passwd: lines NAME:HASH. Hashes serve as they are, so that no device
needs a new password.";

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Who has a password, where it comes from, and whether the broker has it
    List(List),
    /// Give a user a new password, and wait until the broker has it
    #[command(after_help = PASSWD_EXAMPLES)]
    Passwd(Passwd),
    /// Print MqttUsers and Secrets for the users of a password file of Mosquitto
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(Import),
}

#[derive(Args, Debug)]
pub struct List {
    /// What is printed: a table, or JSON
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Args, Debug)]
pub struct Passwd {
    /// The user name
    name: String,
    /// What is printed: a line, or JSON
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Args, Debug)]
pub struct Import {
    /// A password file of Mosquitto
    file: PathBuf,
    /// A group of the broker whose rules the users have; without one they may connect and nothing else
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// A user, as it is listed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    /// `spec.auth.users[1]`, or `MqttUser dev1`.
    from: String,
    /// `generated`, `Secret NAME, key KEY`, or `hash in Secret NAME, key KEY`.
    password: String,
    /// The Secret with what a client needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_name: Option<String>,
    /// Whether the broker lets the user in; absent if it cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    loaded: Option<bool>,
    /// Why not, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Does what the verb says.
pub async fn run(verb: Verb, wanted: Where) -> anyhow::Result<()> {
    match verb {
        Verb::List(flags) => list(&flags, &wanted).await,
        Verb::Passwd(flags) => passwd::run(&flags, &wanted).await,
        Verb::Import(flags) => {
            let broker = wanted.broker.as_deref().context("name the broker of the users with -b NAME")?;
            let text =
                std::fs::read_to_string(&flags.file).with_context(|| format!("read {}", flags.file.display()))?;
            let lines = import::parse(&text).with_context(|| flags.file.display().to_string())?;
            let manifests = import::manifests(&lines, broker, wanted.namespace.as_deref(), &flags.group);
            eprintln!("mqttctl: {} users", lines.len());
            say(manifests.trim_end())
        }
    }
}

async fn list(flags: &List, wanted: &Where) -> anyhow::Result<()> {
    let target = wanted.find().await?;
    let mut rows = match &target {
        Target::Local(home) => {
            let config: Option<Broker> = state::read_json(&home.etc().broker())?;
            let config = config.context("there is no broker yet; start it once with `mqttctl up`")?;
            let passwords = passwd::local_passwords(home)?;
            let row = |user: crate::auth::settings::User| Row {
                password: if passwords.contains_key(&user.name) { "known".into() } else { "hash".into() },
                name: user.name,
                from: "the file of `up`".into(),
                secret_name: None,
                loaded: None,
                problem: None,
            };
            config.auth.users.into_iter().map(row).collect()
        }
        Target::Cluster { client, namespace, .. } => {
            let (plan, not_added) = planned(client, namespace, &target).await?;
            let mut rows: Vec<Row> = plan.users.iter().map(row).collect();
            rows.extend(not_added);
            rows
        }
    };
    match reports(&target).await {
        Ok(reports) => {
            for row in rows.iter_mut().filter(|row| row.problem.is_none()) {
                row.loaded = Some(reports.iter().all(|report| report.users.contains(&row.name)));
            }
        }
        Err(error) => eprintln!("mqttctl: the broker cannot be asked: {}", super::chain(&error)),
    }
    if flags.output == Output::Json {
        return say(serde_json::to_string_pretty(&rows)?);
    }
    table(&rows)
}

fn row(user: &plan::UserPlan) -> Row {
    let password = match &user.password {
        Password::Generate => "generated".into(),
        Password::FromSecret { name, key } => format!("Secret {name}, key {key}"),
        Password::Hash { name, key } => format!("hash in Secret {name}, key {key}"),
    };
    Row {
        name: user.name.clone(),
        from: user.object.as_ref().map_or_else(|| user.field.clone(), |object| format!("MqttUser {}", object.name)),
        password,
        secret_name: Some(user.secret_name.clone()),
        loaded: None,
        problem: None,
    }
}

/// What the operator makes of the object and of its MqttUsers; and those of these who are no users, with the reason.
async fn planned(client: &Client, namespace: &str, target: &Target) -> anyhow::Result<(Plan, Vec<Row>)> {
    let Target::Cluster { object, .. } = target else { anyhow::bail!("not a cluster") };
    let mut plan = plan::plan(object).context("what the object asks for")?;
    let api: Api<MqttUser> = Api::namespaced(client.clone(), namespace);
    let users = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        // A cluster whose definitions are older has none.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("list the MqttUsers of namespace {namespace}")),
    };
    let not_added = plan.add_users(&users);
    let rows = not_added.into_iter().filter_map(|it| {
        let user = users.iter().find(|user| user.name_any() == it.object)?;
        Some(Row {
            name: user.username().to_owned(),
            from: format!("MqttUser {}", it.object),
            password: "–".into(),
            secret_name: None,
            loaded: Some(false),
            problem: Some(format!("{}: {}", it.reason, it.message)),
        })
    });
    let rows = rows.collect();
    Ok((plan, rows))
}

/// What each broker process says of itself.
async fn reports(target: &Target) -> anyhow::Result<Vec<report::Broker>> {
    let ports = Ports::of(target).await?;
    let mut reports = Vec::new();
    for port in &ports.all {
        reports.push(ports.ask(port, Method::GET, "/api/v1/report").await?.done()?);
    }
    Ok(reports)
}

fn table(rows: &[Row]) -> anyhow::Result<()> {
    let mut cells = vec![["USER", "LOADED", "FROM", "PASSWORD", "SECRET"].map(str::to_owned)];
    for row in rows {
        let loaded = match (&row.problem, row.loaded) {
            (Some(problem), _) => format!("no ({problem})"),
            (None, Some(true)) => "yes".into(),
            (None, Some(false)) => "no".into(),
            (None, None) => "?".into(),
        };
        let secret = row.secret_name.clone().unwrap_or_else(|| "–".into());
        cells.push([printable(&row.name), loaded, row.from.clone(), row.password.clone(), secret]);
    }
    let widths: [usize; 5] =
        std::array::from_fn(|at| cells.iter().map(|row| row[at].chars().count()).max().unwrap_or_default());
    for row in &cells {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        say(line.join("  ").trim_end())?;
    }
    Ok(())
}
