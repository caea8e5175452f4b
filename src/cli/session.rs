//! `mqttctl session`: who has a session on a broker, what is in it, and ending it.

use std::time::Duration;

use anyhow::bail;
use axum::http::{Method, StatusCode};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;

use super::admin::{Answer, Port, Ports, encode};
use super::say;
use super::target::Where;
use crate::auth::token::duration;
use crate::config::report::{Kicked, Page, Session, Subscription};

/// Sessions or subscriptions of a request.
const PAGE: usize = 500;
/// What sessions can be chosen by.
const KEYS: [&str; 7] = ["client", "prefix", "user", "state", "listener", "version", "address"];

const LIST_EXAMPLES: &str = "Examples:
  mqttctl session list
  mqttctl session list -o wide --filter state=away
  mqttctl session list --filter prefix=sensor- --filter version=3.1.1
  mqttctl session list -o json | jq '.[] | select(.dropped > 0) | .clientId'

Filters: client=ID, prefix=TEXT (of the client id), user=NAME, state=online|away, listener=NAME,
version=3.1|3.1.1|5.0, address=IP. Several must all hold.";

const KICK_EXAMPLES: &str = "Examples:
  mqttctl session kick dev1             close its connection; it may connect again, and its session stays
  mqttctl session kick dev1 --forget    end its session too: subscriptions and waiting messages are gone

A client of MQTT 5.0 is told 0x98 (administrative action). To keep a client out, take away its
token or its password; a kick alone does not.";

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Who is connected or away, and what waits for them
    #[command(after_help = LIST_EXAMPLES)]
    List(List),
    /// One session, with its subscriptions
    Show(Show),
    /// Close a client's connection
    #[command(after_help = KICK_EXAMPLES)]
    Kick(Kick),
}

#[derive(Args, Debug)]
pub struct List {
    /// What is printed: a table, a wider table, or JSON
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Only sessions of which this is true; more than once for several
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_filter)]
    filter: Vec<(String, String)>,
}

#[derive(Args, Debug)]
pub struct Show {
    /// The client id
    client: String,
    /// What is printed: text, or JSON
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Args, Debug)]
pub struct Kick {
    /// The client id
    client: String,
    /// End the session too: its subscriptions and what waits for it are gone
    #[arg(long)]
    forget: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Wide,
    Json,
}

fn parse_filter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if KEYS.contains(&key) => Ok((key.to_owned(), value.to_owned())),
        Some((key, _)) => Err(format!("{key:?} is none of {}", KEYS.join(", "))),
        None => Err(format!("write KEY=VALUE, with one of {}", KEYS.join(", "))),
    }
}

/// Does what the verb says.
pub async fn run(verb: Verb, wanted: Where) -> anyhow::Result<()> {
    let ports = Ports::of(&wanted.find().await?).await?;
    match verb {
        Verb::List(flags) => list(&flags, &ports).await,
        Verb::Show(flags) => show(&flags, &ports).await,
        Verb::Kick(flags) => kick(&flags, &ports).await,
    }
}

async fn list(flags: &List, ports: &Ports) -> anyhow::Result<()> {
    let filter: Vec<String> = flags.filter.iter().map(|(key, value)| format!("&{key}={}", encode(value))).collect();
    let filter = filter.concat();
    let mut all: Vec<Session> = Vec::new();
    for port in &ports.all {
        all.extend(pages(ports, port, &format!("/api/v1/sessions?limit={PAGE}{filter}")).await?);
    }
    all.sort_by(|a, b| a.client_id.cmp(&b.client_id));
    match flags.output {
        Output::Json => say(serde_json::to_string_pretty(&all)?),
        output => table(&all, output == Output::Wide),
    }
}

/// All pages of a list.
async fn pages<T: serde::de::DeserializeOwned>(ports: &Ports, port: &Port, path: &str) -> anyhow::Result<Vec<T>> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let page: Page<T> = ports.ask(port, Method::GET, &format!("{path}{after}")).await?.done()?;
        all.extend(page.items);
        match page.next {
            Some(next) => after = format!("&after={}", encode(&next)),
            None => return Ok(all),
        }
    }
}

fn table(sessions: &[Session], wide: bool) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let mut rows =
        vec![vec!["CLIENT", "PRINCIPAL", "STATE", "MQTT", "ADDRESS", "LISTENER", "SUBS", "QUEUED", "DROPPED"]];
    if wide {
        rows[0].extend(["BYTES", "INFLIGHT", "EXPIRES"]);
    }
    let mut rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.into_iter().map(str::to_owned).collect()).collect();
    for session in sessions {
        let mut row = vec![
            printable(&session.client_id),
            printable(&session.principal),
            state(session, now),
            session.version.clone(),
            session.address.to_string(),
            session.listener.clone(),
            number(session.subscriptions),
            session.queued.to_string(),
            session.dropped.to_string(),
        ];
        if wide {
            row.extend([session.queued_bytes.to_string(), number(session.in_flight), expires(session, now)]);
        }
        rows.push(row);
    }
    let columns = rows[0].len();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        say(cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// A client chooses its id: what would move the cursor of a terminal is written out.
pub fn printable(text: &str) -> String {
    let one = |character: char| {
        if character.is_control() { character.escape_default().to_string() } else { character.to_string() }
    };
    text.chars().map(one).collect()
}

fn state(session: &Session, now: Timestamp) -> String {
    let state = if session.online { "online" } else { "away" };
    format!("{state} {}", duration(seconds(session.since, now)))
}

fn expires(session: &Session, now: Timestamp) -> String {
    match (session.expires, session.session_expiry) {
        (Some(at), _) => format!("in {}", duration(seconds(now, at))),
        (None, Some(0)) => "with the connection".into(),
        (None, Some(seconds)) => format!("{} after it", duration(seconds.into())),
        (None, None) => "?".into(),
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> u64 {
    Duration::try_from(to.duration_since(from)).unwrap_or_default().as_secs()
}

/// What could not be asked in time is unknown, not zero.
fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "?".into(), |value| value.to_string())
}

/// A session with its subscriptions.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    session: Session,
    #[serde(rename = "filters")]
    subscriptions: Vec<Subscription>,
}

async fn show(flags: &Show, ports: &Ports) -> anyhow::Result<()> {
    let client = encode(&flags.client);
    for port in &ports.all {
        let found: Vec<Session> = pages(ports, port, &format!("/api/v1/sessions?client={client}")).await?;
        let Some(session) = found.into_iter().next() else { continue };
        let path = format!("/api/v1/subscriptions?client={client}&limit={PAGE}");
        let subscriptions = pages(ports, port, &path).await?;
        let shown = Shown { session, subscriptions };
        return match flags.output {
            Output::Json => say(serde_json::to_string_pretty(&shown)?),
            Output::Table | Output::Wide => tell(&shown),
        };
    }
    bail!("no client {:?} has a session here; `mqttctl session list` says who has", flags.client)
}

fn tell(Shown { session, subscriptions }: &Shown) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let queued = format!("{} messages, {} bytes", session.queued, session.queued_bytes);
    for (name, value) in [
        ("client", printable(&session.client_id)),
        ("principal", printable(&session.principal)),
        ("state", format!("{}, since {}", state(session, now), session.since)),
        ("from", format!("{}, listener {}, MQTT {}", session.address, session.listener, session.version)),
        ("session ends", expires(session, now)),
        ("queued", queued),
        ("in flight", number(session.in_flight)),
        ("dropped", session.dropped.to_string()),
    ] {
        say(format_args!("{name:<13} {value}"))?;
    }
    say(format_args!("{:<13} {}", "subscriptions", subscriptions.len()))?;
    for it in subscriptions {
        say(format_args!("  QoS {}  {}", it.qos, printable(&it.filter)))?;
    }
    Ok(())
}

async fn kick(flags: &Kick, ports: &Ports) -> anyhow::Result<()> {
    let forget = if flags.forget { "?forget=true" } else { "" };
    let path = format!("/api/v1/sessions/{}/kick{forget}", encode(&flags.client));
    let mut last = None;
    for port in &ports.all {
        match ports.ask::<Kicked>(port, Method::POST, &path).await? {
            Answer::Done(kicked) => {
                let was = if kicked.was_online { "disconnected" } else { "was away" };
                let session = if kicked.forgotten { "its session is ended" } else { "its session stays" };
                return say(format_args!("{} {was}; {session}", printable(&kicked.client_id)));
            }
            // Another pod may have it.
            refused @ Answer::Refused(StatusCode::NOT_FOUND, _) => last = Some(refused),
            refused @ Answer::Refused(..) => return refused.done().map(|_: Kicked| ()),
        }
    }
    match last {
        Some(refused) => refused.done().map(|_| ()),
        None => bail!("no pod could be asked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_filter_names_those_that_there_are() {
        assert_eq!(parse_filter("user=a=b"), Ok(("user".into(), "a=b".into())));
        assert!(parse_filter("name=a").unwrap_err().contains("client, prefix, user"));
        assert!(parse_filter("user").unwrap_err().contains("KEY=VALUE"));
    }

    #[test]
    fn a_client_id_cannot_write_on_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nä"), "a\\u{1b}[2Jb\\nä");
    }
}
