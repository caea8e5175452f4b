//! `mqttctl endpoint`: where clients connect, and whether something serves MQTT there now.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::target::{Target, Where};
use super::{address, say};
use crate::api;
use crate::client::{self, Tls, Trust};

/// Probes so far.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "Examples:
  mosquitto_pub -h \"$(mqttctl endpoint)\" -t sensor/kitchen -m 21.5 -u mqtt_user -P secret
  mqttctl endpoint home -n shop -o url
  mqttctl endpoint -o wide

The exit code is 0 only when a broker answers there now.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Endpoint {
    /// The object; not needed where there is only one.
    name: Option<String>,

    /// What is printed: the bare host, the first URL, everything as JSON, or a table.
    #[arg(short, long, value_enum, default_value_t = Output::Address)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Address,
    Url,
    Json,
    Wide,
}

/// What is known of a broker's endpoint.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    namespace: String,
    name: String,
    /// The bare host.
    pub address: String,
    pub endpoints: Vec<One>,
}

/// One way to reach a listener.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct One {
    pub name: String,
    pub url: String,
    pub host: String,
    pub port: u16,
    scope: &'static str,
    /// Whether something answered an MQTT CONNECT there just now.
    serves: bool,
}

/// Prints the endpoint; an error unless something serves MQTT there.
pub async fn run(endpoint: Endpoint, mut wanted: Where) -> anyhow::Result<()> {
    wanted.broker = endpoint.name.or(wanted.broker);
    let target = wanted.find().await?;
    let mut known = of(&target)?;
    for one in &mut known.endpoints {
        one.serves = serves(&one.url).await;
    }
    print(&known, endpoint.output)?;
    if known.endpoints.iter().any(|one| one.serves) {
        return Ok(());
    }
    let tried: Vec<&str> = known.endpoints.iter().map(|one| one.url.as_str()).collect();
    bail!("nothing serves MQTT at {} now", tried.join(", "))
}

/// What the lock of an `up`, or the status of an object, says.
pub fn of(target: &Target) -> anyhow::Result<Known> {
    let (address, endpoints) = match target {
        Target::Local(home) => {
            let live = home.live().with_context(|| {
                format!("{}/{} does not run; start it with `mqttctl up -f FILE`", home.namespace, home.name)
            })?;
            let endpoints: Vec<One> = live
                .listeners
                .into_iter()
                .map(|it| One::new(it.url(), it.name, it.host, it.port, "external"))
                .collect();
            (endpoints.first().map(|one| one.host.clone()).unwrap_or_default(), endpoints)
        }
        Target::Cluster { object, namespace, name, .. } => of_object(object, namespace, name)?,
    };
    Ok(Known { namespace: target.namespace().into(), name: target.name().into(), address, endpoints })
}

fn of_object(object: &api::MqttBroker, namespace: &str, name: &str) -> anyhow::Result<(String, Vec<One>)> {
    let status = object.status.clone().unwrap_or_default();
    let Some(address) = status.address.filter(|address| !address.is_empty()) else {
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let why = ready.map_or_else(|| "the operator has not looked at it yet".into(), |it| it.message.clone());
        bail!("{namespace}/{name} has no address yet: {why}");
    };
    let endpoints = status.endpoints.into_iter().map(|it| {
        let host = it.host.or(it.ip).unwrap_or_default();
        let scope = match it.scope {
            api::status::Scope::External => "external",
            api::status::Scope::Internal => "internal",
        };
        One::new(it.url, it.name, host, it.port, scope)
    });
    let mut endpoints: Vec<One> = endpoints.collect();
    // Stable: external ones first, otherwise in the order of the status.
    endpoints.sort_by_key(|one| one.scope != "external");
    Ok((address, endpoints))
}

impl One {
    fn new(url: String, name: String, host: String, port: u16, scope: &'static str) -> Self {
        Self { name, url, host, port, scope, serves: false }
    }
}

/// Whether a CONNECT is answered. That a stranger is refused is an answer too, and so is that it needs a certificate.
async fn serves(url: &str) -> bool {
    // A name of its own for each: probes do not displace each other where anonymous clients are allowed.
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let client_id = format!("{}{}-{number}", crate::config::PROBE, std::process::id());
    // Nothing is said that the wrong server must not hear.
    let tls = || Ok(Tls::new(Trust::Anybody, None)?);
    let Ok(options) = address::parse(url).and_then(|address| address.options(&client_id, tls)) else { return false };
    let answer = tokio::time::timeout(PATIENCE, client::connect(&options)).await;
    match answer {
        Ok(Ok((client, ..))) => {
            // A goodbye that fails changes nothing: it did answer.
            let _ = client.disconnect(crate::mqtt::ReasonCode::SUCCESS).await;
            true
        }
        Ok(Err(client::Error::Refused { .. })) => true,
        Ok(Err(error)) => wants_certificate(&error),
        Err(_) => false,
    }
}

/// Whether the server ended the handshake because the client has no certificate.
fn wants_certificate(error: &client::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let tls = error.downcast_ref::<rustls::Error>().or_else(|| {
            let io = error.downcast_ref::<std::io::Error>()?;
            io.get_ref()?.downcast_ref::<rustls::Error>()
        });
        let alert = rustls::AlertDescription::CertificateRequired;
        if tls.is_some_and(|tls| *tls == rustls::Error::AlertReceived(alert)) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn print(known: &Known, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Address => say(&known.address),
        Output::Url => match known.endpoints.first() {
            Some(one) => say(&one.url),
            None => bail!("{}/{} has no endpoints", known.namespace, known.name),
        },
        Output::Json => say(serde_json::to_string_pretty(known)?),
        Output::Wide => {
            let width = known.endpoints.iter().map(|one| one.url.len()).max().unwrap_or(0).max(3);
            say(format_args!("{:<16} {:<width$} {:<9} SERVES", "LISTENER", "URL", "SCOPE"))?;
            for one in &known.endpoints {
                let serves = if one.serves { "yes" } else { "no" };
                say(format_args!("{:<16} {:<width$} {:<9} {serves}", one.name, one.url, one.scope))?;
            }
            Ok(())
        }
    }
}
