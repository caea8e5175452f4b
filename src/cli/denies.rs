//! `mqttctl denies`: what clients asked for and did not get, and why.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use axum::http::Method;
use clap::{Args, ValueEnum};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::admin::{Port, Ports, encode};
use super::session::printable;
use super::target::{Target, Where};
use super::token::{parse_ttl, quote};
use super::{chain, say};
use crate::auth::Why;
use crate::config::report::{self, Deny};

/// Denies of a request.
const PAGE: usize = 500;
/// Seconds that a broker waits for a deny before it answers that there is none.
const WAIT: u64 = 10;
/// Between attempts to reach a broker that is away for a moment.
const AGAIN: Duration = Duration::from_secs(2);

pub const EXAMPLES: &str = "Examples:
  mqttctl denies                          the last ones, oldest first
  mqttctl denies -f                       and those that come, until ctrl-c
  mqttctl denies --client dev1 --since 10m
  mqttctl denies -o json | jq -r '.[] | select(.action == \"connect\") | .address'

Each pod keeps its last 1000. What a client repeats within ten seconds is one line that says how
often.";

/// What no rule allowed, and whoever was not let in
#[derive(Args, Debug)]
pub struct Denies {
    /// Go on with those that come
    #[arg(short, long)]
    follow: bool,
    /// Only those of this client id
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Only those of so long ago at most: 90s, 10m, 12h
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    since: Option<u64>,
    /// What is printed: text, or JSON (with --follow an object a line)
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Prints them.
pub async fn run(flags: Denies, wanted: Where) -> anyhow::Result<()> {
    let target = wanted.find().await?;
    let ports = Ports::of(&target).await?;
    let mut all: Vec<Deny> = Vec::new();
    let mut seen = HashMap::new();
    for port in &ports.all {
        let (denies, last) = listed(&flags, &ports, port).await?;
        all.extend(denies);
        seen.insert(port.name(), last);
    }
    all.sort_by_key(|deny| deny.time);
    match (flags.output, flags.follow) {
        (Output::Json, false) => return say(serde_json::to_string_pretty(&all)?),
        _ => all.iter().try_for_each(|deny| print(&flags, deny))?,
    }
    if flags.output == Output::Text {
        for step in next_steps(&all) {
            eprintln!("next: {step}");
        }
    }
    if flags.follow { follow(&flags, &target, ports, seen).await } else { Ok(()) }
}

fn print(flags: &Denies, deny: &Deny) -> anyhow::Result<()> {
    match flags.output {
        Output::Text => say(line(deny)),
        Output::Json => say(serde_json::to_string(deny)?),
    }
}

/// What to do about denies: once for each kind, with the latest of them.
fn next_steps(denies: &[Deny]) -> Vec<String> {
    let mut kinds = BTreeMap::new();
    for deny in denies {
        let step = next_step(deny);
        kinds.insert((&deny.action, &deny.reason), step);
    }
    kinds.into_values().flatten().collect()
}

fn next_step(deny: &Deny) -> Option<String> {
    if let Some(reason) = deny.reason.as_deref().and_then(Why::of) {
        return Some(format!("{}: {}", printable(&deny.why), reason.next_step()));
    }
    let user = deny.principal.as_deref().and_then(|principal| principal.strip_prefix("user:"));
    let who = match (&*deny.method, user) {
        ("password", Some(user)) => format!("--user {}", quote(user)),
        ("jwt", _) => "--token @FILE".to_owned(),
        ("none", _) => "--anonymous".to_owned(),
        _ => return None,
    };
    let (client, topic) = (quote(&deny.client_id), quote(&deny.topic));
    let asks = ["publish", "subscribe", "will"].contains(&&*deny.action);
    asks.then(|| {
        format!("mqttctl authz explain {who} --client {client} {} {topic}   says which rule it takes", deny.action)
    })
}

/// What a broker keeps, and the number of the last.
async fn listed(flags: &Denies, ports: &Ports, port: &Port) -> anyhow::Result<(Vec<Deny>, u64)> {
    let since = flags.since.map(|seconds| format!("&since={seconds}")).unwrap_or_default();
    let mut all = Vec::new();
    let mut after = 0;
    loop {
        let page = page(flags, ports, port, &format!("?limit={PAGE}&after={after}{since}")).await?;
        all.extend(page.items);
        if page.next.is_none() {
            return Ok((all, page.last));
        }
        after = page.last;
    }
}

async fn page(flags: &Denies, ports: &Ports, port: &Port, query: &str) -> anyhow::Result<report::Denies> {
    let client = flags.client.as_deref().map(|client| format!("&client={}", encode(client))).unwrap_or_default();
    ports.ask(port, Method::GET, &format!("/api/v1/denies{query}{client}")).await?.done()
}

/// Goes on until nobody reads any more. A pod that is away is looked for again: its successor has its name, or another.
async fn follow(
    flags: &Denies,
    target: &Target,
    mut ports: Ports,
    mut seen: HashMap<String, u64>,
) -> anyhow::Result<()> {
    loop {
        let error = follow_these(flags, &ports, &mut seen).await;
        if super::is_broken_pipe(&error) {
            return Err(error);
        }
        eprintln!("mqttctl: {}; trying again", chain(&error));
        loop {
            tokio::time::sleep(AGAIN).await;
            if let Ok(found) = Ports::of(target).await {
                ports = found;
                break;
            }
        }
    }
}

/// Prints what comes from these, until one cannot be asked.
async fn follow_these(flags: &Denies, ports: &Ports, seen: &mut HashMap<String, u64>) -> anyhow::Error {
    let next = async |at: usize, after: u64| {
        let query = format!("?limit={PAGE}&wait={WAIT}&after={after}");
        (at, page(flags, ports, &ports.all[at], &query).await)
    };
    let mut asked: FuturesUnordered<_> =
        ports.all.iter().enumerate().map(|(at, port)| next(at, seen.get(&port.name()).copied().unwrap_or(0))).collect();
    while let Some((at, answer)) = asked.next().await {
        let printed = answer.and_then(|page| {
            page.items.iter().try_for_each(|deny| print(flags, deny))?;
            Ok(page.last)
        });
        match printed {
            Ok(last) => {
                seen.insert(ports.all[at].name(), last);
                asked.push(next(at, last));
            }
            Err(error) => return error,
        }
    }
    anyhow::anyhow!("no pod of the broker runs")
}

/// A deny as a line.
fn line(deny: &Deny) -> String {
    let mut line = format!("{:.0}  DENY {}", deny.time, deny.action);
    let mut add = |text: &str| {
        line.push(' ');
        line.push_str(text);
    };
    if !deny.topic.is_empty() {
        add(&format!("{:?}", deny.topic));
    }
    add(&format!(" client={}", printable(&deny.client_id)));
    if let Some(principal) = &deny.principal {
        add(&format!("principal={}", printable(principal)));
    }
    add(&format!("cred={}", deny.method));
    if let Some(key) = &deny.key_id {
        add(&format!("kid={}", printable(key)));
    }
    if let Some(address) = &deny.address {
        add(&format!("from={address}"));
    }
    add(&format!(" {}", printable(&deny.why)));
    if deny.repeats > 0 {
        add(&format!(" (and {} times more)", deny.repeats));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deny() -> Deny {
        Deny {
            number: 1,
            time: "2026-11-22T22:40:01.25Z".parse().unwrap(),
            client_id: "dev\u{1b}1".into(),
            principal: Some("user:dev1".into()),
            method: "jwt".into(),
            key_id: Some("9f3a".into()),
            address: None,
            action: "subscribe".into(),
            topic: "dev/+/te\"mp".into(),
            why: "no rule allows it".into(),
            reason: None,
            repeats: 3,
        }
    }

    #[test]
    fn the_next_step_is_said_once_for_each_kind_and_can_be_pasted() {
        let refused = Deny {
            action: "connect".into(),
            reason: Some("token_revoked".into()),
            why: "the token is revoked".into(),
            ..deny()
        };
        let other = Deny { topic: "it's".into(), client_id: "dev2".into(), ..deny() };
        let steps = next_steps(&[deny(), refused.clone(), refused, other]);
        assert_eq!(
            steps,
            [
                "the token is revoked: give the client a new token: those that are issued from now on are accepted",
                "mqttctl authz explain --token @FILE --client dev2 subscribe 'it'\\''s'   says which rule it takes",
            ]
        );
    }

    #[test]
    fn a_line_says_who_and_what_and_why_and_cannot_write_on_the_terminal() {
        assert_eq!(
            line(&deny()),
            "2026-11-22T22:40:01Z  DENY subscribe \"dev/+/te\\\"mp\"  client=dev\\u{1b}1 principal=user:dev1 cred=jwt \
             kid=9f3a  no rule allows it  (and 3 times more)"
        );
        let refused = Deny {
            principal: None,
            key_id: None,
            method: "password".into(),
            address: Some(([192, 0, 2, 7], 4711).into()),
            action: "connect".into(),
            topic: String::new(),
            why: "wrong password".into(),
            repeats: 0,
            ..deny()
        };
        assert_eq!(
            line(&refused),
            "2026-11-22T22:40:01Z  DENY connect  client=dev\\u{1b}1 cred=password from=192.0.2.7:4711  wrong password"
        );
    }
}
