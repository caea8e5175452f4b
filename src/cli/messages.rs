//! `mqttctl publish` and `mqttctl subscribe`: a probe of what devices do.

use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::address::{self, TlsFlags};
use super::audit;
use super::endpoint;
use super::keys::{self, Signing};
use super::now;
use super::target::{Target, Where};
use crate::auth::rule::{Action, Permission, Rule};
use crate::auth::token::{self, Claims};
use crate::client::{self, Client, Error, Incoming, Message};
use crate::mqtt::packet::SubscriptionOptions;
use crate::mqtt::{QoS, ReasonCode, Version};
use crate::process::{Shutdown, shutdown};

/// Who the tokens that are signed on the spot are for.
const SUBJECT: &str = "mqttctl";
/// Seconds.
const PUBLISH_TTL: u64 = 60;
const SUBSCRIBE_TTL: u64 = 12 * 3600;

const PUBLISH_EXAMPLES: &str = "Examples:
  mqttctl publish sensor/kitchen '{\"celsius\": 21.5}'
  mqttctl publish sensor/kitchen 21.5 --qos 1 --retain -u mqtt_user -P secret
  mqttctl token issue --sub dev1 --publish 'sensor/#' > dev1.jwt
  mqttctl publish sensor/kitchen 21.5 --token-file dev1.jwt
  date | mqttctl publish clock

Without -u and without --token-file, a token for this one topic is signed with the keys of the
broker. --anonymous presents nothing.";

const SUBSCRIBE_EXAMPLES: &str = "Examples:
  mqttctl subscribe 'sensor/#' -v
  mqttctl subscribe 'sensor/#' --count 1 --timeout 10

Without -u and without --token-file, a token for these filters is signed with the keys of the
broker. --anonymous presents nothing.";

#[derive(Args, Debug)]
#[command(after_help = PUBLISH_EXAMPLES)]
pub struct Publish {
    topic: String,

    /// The payload; without it, standard input.
    message: Option<String>,

    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,

    /// Keep the message for later subscribers.
    #[arg(short, long)]
    retain: bool,

    #[command(flatten)]
    connect: Connect,
}

#[derive(Args, Debug)]
#[command(after_help = SUBSCRIBE_EXAMPLES)]
pub struct Subscribe {
    #[arg(required = true, value_name = "FILTER")]
    filters: Vec<String>,

    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,

    /// Print the topic before the payload.
    #[arg(short, long)]
    verbose: bool,

    /// Stop after so many messages.
    #[arg(short = 'C', long)]
    count: Option<u64>,

    /// Stop after so many seconds; an error if fewer messages came than --count asks for.
    #[arg(short = 'W', long, value_name = "SECONDS")]
    timeout: Option<u64>,

    #[command(flatten)]
    connect: Connect,
}

/// Whom to connect to, and as whom.
#[derive(Args, Debug)]
#[command(next_help_heading = "Connection")]
struct Connect {
    /// A broker by its address, instead of one that is looked up: HOST[:PORT], or a URL of scheme mqtt, mqtts, ws or wss.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,

    /// The listener of a broker that is looked up; otherwise the first one without TLS, or with --cafile the first with it.
    #[arg(long, value_name = "NAME", conflicts_with = "address")]
    listener: Option<String>,

    #[command(flatten)]
    tls: TlsFlags,

    #[arg(short, long, requires = "password")]
    username: Option<String>,

    #[arg(short = 'P', long, requires = "username", allow_hyphen_values = true)]
    password: Option<String>,

    /// A file with a token; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "username")]
    token_file: Option<PathBuf>,

    /// Present no credentials.
    #[arg(long, conflicts_with_all = ["username", "token_file"])]
    anonymous: bool,

    #[arg(short = 'i', long, default_value = "")]
    client_id: String,
}

/// What a token that is signed on the spot permits.
enum Need<'a> {
    Publish(&'a str),
    Subscribe(&'a [String]),
}

pub async fn publish(publish: Publish, wanted: Where) -> anyhow::Result<()> {
    let payload = match publish.message {
        Some(message) => message.into_bytes(),
        None => standard_input()?,
    };
    let (client, mut incoming) = publish.connect.open(&wanted, &Need::Publish(&publish.topic)).await?;
    let mut message = Message::new(publish.topic, payload, level(publish.qos));
    message.retain = publish.retain;
    // Reading goes on meanwhile: it is how a DISCONNECT that answers the publication is heard.
    let code = tokio::select! {
        code = client.publish(&message) => code?,
        Some(Err(error)) = incoming.next() => return Err(error.into()),
    };
    client.disconnect(ReasonCode::SUCCESS).await?;
    if code.is_failure() {
        bail!("the broker refused the message: {code}{}", publish.connect.why());
    }
    Ok(())
}

pub async fn subscribe(subscribe: Subscribe, wanted: Where) -> anyhow::Result<()> {
    let shutdown = shutdown::signal()?;
    let (client, incoming) = subscribe.connect.open(&wanted, &Need::Subscribe(&subscribe.filters)).await?;
    let options = SubscriptionOptions { qos: level(subscribe.qos), ..SubscriptionOptions::default() };
    let filters: Vec<(&str, SubscriptionOptions)> =
        subscribe.filters.iter().map(|filter| (filter.as_str(), options)).collect();
    let codes = client.subscribe(&filters).await?;
    let refused: Vec<String> = subscribe
        .filters
        .iter()
        .zip(&codes)
        .filter(|(_, code)| code.is_failure())
        .map(|(filter, code)| format!("{filter}: {code}"))
        .collect();
    if !refused.is_empty() {
        bail!("the broker refused the subscription: {}{}", refused.join(", "), subscribe.connect.why());
    }
    let seen = receive(incoming, &subscribe, &shutdown).await?;
    client.disconnect(ReasonCode::SUCCESS).await?;
    match subscribe.count {
        Some(count) if seen < count && !shutdown.is_triggered() => bail!("{seen} of {count} messages came in time"),
        _ => Ok(()),
    }
}

/// Prints what comes until there is enough, or time is up; how many came.
async fn receive(mut incoming: Incoming, wanted: &Subscribe, shutdown: &Shutdown) -> anyhow::Result<u64> {
    let limit = async {
        match wanted.timeout {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(limit);
    let mut seen = 0;
    while wanted.count.is_none_or(|count| seen < count) {
        let delivery = tokio::select! {
            delivery = incoming.next() => delivery,
            () = &mut limit => return Ok(seen),
            () = shutdown.wait() => return Ok(seen),
        };
        let Some(delivery) = delivery.transpose()? else { bail!("the broker closed the connection") };
        let mut out = io::stdout().lock();
        if wanted.verbose {
            write!(out, "{} ", delivery.message.topic)?;
        }
        out.write_all(&delivery.message.payload)?;
        out.write_all(b"\n")?;
        out.flush()?;
        seen += 1;
    }
    Ok(seen)
}

impl Connect {
    /// Where the reason of a refusal can be found, if the broker is one that can be asked.
    fn why(&self) -> &'static str {
        if self.address.is_none() { "; `mqttctl denies --since 1m` says why, and what to do" } else { "" }
    }

    async fn open(&self, wanted: &Where, need: &Need<'_>) -> anyhow::Result<(Client, Incoming)> {
        let target = if self.address.is_some() { None } else { Some(wanted.find().await?) };
        let address = match (&self.address, &target) {
            (Some(address), _) => address::parse(address)?,
            (None, Some(target)) => address::parse(&self.choose(&endpoint::of(target)?)?.url)?,
            (None, None) => bail!("no broker"),
        };
        let mut options = address.options(&self.client_id, || self.tls.tls())?;
        options.version = Version::V5;
        options.username.clone_from(&self.username);
        options.password = self.password(target.as_ref(), need).await?;
        let connected = client::connect(&options).await.map_err(|error| match error {
            Error::Refused { .. } => anyhow::anyhow!("{error}{}", self.why()),
            other => other.into(),
        });
        let (client, incoming, _) = connected?;
        Ok((client, incoming))
    }

    /// The endpoint that is meant.
    fn choose<'a>(&self, known: &'a endpoint::Known) -> anyhow::Result<&'a endpoint::One> {
        let all = || known.endpoints.iter();
        if let Some(wanted) = &self.listener {
            let names = || all().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
            return all()
                .find(|one| one.name == *wanted)
                .with_context(|| format!("no such listener; there are: {}", names()));
        }
        let secure = |one: &&endpoint::One| one.url.starts_with("mqtts:") || one.url.starts_with("wss:");
        let preferred = all().find(|one| secure(one) == self.tls.is_given());
        preferred.or(known.endpoints.first()).context("the broker has no endpoint")
    }

    /// The password, or the token that takes its place.
    async fn password(&self, target: Option<&Target>, need: &Need<'_>) -> anyhow::Result<Option<Vec<u8>>> {
        if let Some(password) = &self.password {
            return Ok(Some(password.clone().into_bytes()));
        }
        if let Some(path) = &self.token_file {
            let token = if path.as_os_str() == "-" {
                standard_input().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())?
            } else {
                std::fs::read_to_string(path).with_context(|| format!("read the token {}", path.display()))?
            };
            return Ok(Some(token.trim().into()));
        }
        match target {
            Some(target) if !self.anonymous => sign(target, need).await.map(|token| Some(token.into_bytes())),
            _ => Ok(None),
        }
    }
}

/// A token for just this, in the person's own name, with the keys that the person may read.
async fn sign(target: &Target, need: &Need<'_>) -> anyhow::Result<String> {
    let Signing { key, jwt } = keys::signing(target).await?;
    let (action, topics, ttl): (_, Vec<&str>, _) = match need {
        Need::Publish(topic) => (Action::Publish, vec![topic], PUBLISH_TTL),
        Need::Subscribe(filters) => (Action::Subscribe, filters.iter().map(|it| unshared(it)).collect(), SUBSCRIBE_TTL),
    };
    // `eq `: what the person wrote is meant, and not what a placeholder in it would stand for.
    let rule = |topic: &str| Rule {
        permission: Permission::Allow,
        action,
        topic: format!("eq {topic}"),
        qos: None,
        retain: None,
        share: None,
    };
    let now = now()?;
    let claims = Claims {
        iss: jwt.issuer,
        aud: jwt.audience,
        sub: SUBJECT.to_owned(),
        iat: now,
        exp: now + ttl.min(jwt.max_token_ttl),
        acl: topics.into_iter().map(rule).collect(),
        acl_claim: jwt.acl_claim,
        ..Claims::default()
    };
    audit::minted(&key, &claims);
    Ok(token::issue(&key, &claims))
}

/// The filter of `$share/group/filter`: rules are about that.
fn unshared(filter: &str) -> &str {
    filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')).map_or(filter, |(_, filter)| filter)
}

fn standard_input() -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes).context("read standard input")?;
    Ok(bytes)
}

fn level(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
