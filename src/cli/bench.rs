//! `mqttctl bench`: the load generator's flags and output.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::auth::inspect::inspect;
use crate::bench::{MINIMUM_SIZE, Scenario, Settings, run as run_bench};
use crate::mqtt::{QoS, Version};

const EXAMPLES: &str = "Examples:
  mqttctl bench pairs --port 1883                          one publisher, one subscriber, as fast as it goes
  mqttctl bench fan-in --clients 50 --qos 1 --rate 5000    50 publishers, one subscriber, 5,000 messages per second
  mqttctl bench fan-out --clients 100 --pid 4711 -o json   one publisher, 100 subscribers; with the broker's CPU time
  mqttctl bench subscribe --clients 10000 --duration 60    10,000 clients that only listen

Without --rate a publisher has --inflight messages under way, until all subscribers have them. With it, latency counts
from the time a message was meant to be sent. Exits with 1 when messages were lost.";

/// Loads a broker with messages and measures it.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Bench {
    scenario: Pattern,

    #[arg(long, default_value = "127.0.0.1")]
    host: String,

    #[arg(short, long, default_value_t = 1883)]
    port: u16,

    /// Clients on the many side of the scenario; both sides of `pairs`.
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    clients: usize,

    /// Publishers, where not as --clients says.
    #[arg(long, value_name = "N")]
    publishers: Option<usize>,

    /// Subscribers, where not as --clients says.
    #[arg(long, value_name = "N")]
    subscribers: Option<usize>,

    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,

    /// Bytes of payload, at least 28.
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    size: usize,

    /// Messages per second of all publishers together; without it, as fast as the window allows.
    #[arg(short, long, value_name = "PER_SECOND")]
    rate: Option<f64>,

    /// How long to publish.
    #[arg(short, long, default_value_t = 10.0, value_name = "SECONDS")]
    duration: f64,

    /// Topics per publisher, used in turn.
    #[arg(long, default_value_t = 1, value_name = "N")]
    topics: usize,

    /// Messages of one publisher that may be under way.
    #[arg(long, default_value_t = 100, value_name = "N")]
    inflight: u16,

    /// Subscribers ask for sessions that outlive their connections, as devices do; the sessions stay behind.
    #[arg(long)]
    persistent: bool,

    /// Protocol version.
    #[arg(long, default_value = "3.1.1", value_name = "VERSION")]
    version: ProtocolVersion,

    #[arg(short, long)]
    username: Option<String>,

    #[arg(short = 'P', long, allow_hyphen_values = true)]
    password: Option<String>,

    /// A JWT, sent as the password.
    #[arg(long, conflicts_with = "password", env = "MQTT_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// A file with a JWT.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["password", "token"])]
    token_file: Option<PathBuf>,

    /// What every topic begins with.
    #[arg(long, default_value = "bench", value_name = "TOPIC")]
    prefix: String,

    /// The broker's process on this machine: its CPU time and memory are measured.
    #[arg(long)]
    pid: Option<u32>,

    /// Threads of the load generator; by default one per core that it may use.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    output: Output,

    /// Print no line each second.
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Pattern {
    /// Publishers only
    Publish,
    /// Subscribers only, to what another run with the same --prefix publishes
    Subscribe,
    /// Many publishers, one subscriber
    FanIn,
    /// One publisher, many subscribers
    FanOut,
    /// A subscriber for each publisher
    Pairs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtocolVersion {
    #[value(name = "3.1")]
    V31,
    #[value(name = "3.1.1")]
    V311,
    #[value(name = "5", alias = "5.0")]
    V5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs the load generator and prints its report.
pub fn run(flags: &Bench) -> anyhow::Result<()> {
    let report = run_bench(&settings(flags)?, |progress| {
        if !flags.quiet {
            let cpu = progress.broker_cpu.map_or(String::new(), |share| format!(", broker {:.0} % CPU", share * 100.0));
            eprintln!(
                "{:>4.0} s  {} published, {} of {} delivered{cpu}",
                progress.elapsed.as_secs_f64(),
                progress.published,
                progress.delivered,
                progress.expected,
            );
        }
    })?;
    let mut out = std::io::stdout();
    match flags.output {
        Output::Text => write!(out, "{report}")?,
        Output::Json => writeln!(out, "{}", serde_json::to_string(&report)?)?,
    }
    if report.lost > 0 {
        bail!("{} of {} deliveries were lost", report.lost, report.expected);
    }
    Ok(())
}

fn settings(flags: &Bench) -> anyhow::Result<Settings> {
    let (scenario, publishers, subscribers) = match flags.scenario {
        Pattern::Publish => (Scenario::Publish, flags.clients, 0),
        Pattern::Subscribe => (Scenario::Subscribe, 0, flags.clients),
        Pattern::FanIn => (Scenario::FanIn, flags.clients, 1),
        Pattern::FanOut => (Scenario::FanOut, 1, flags.clients),
        Pattern::Pairs => (Scenario::Pairs, flags.clients, flags.clients),
    };
    if flags.size < MINIMUM_SIZE {
        bail!("--size is at least {MINIMUM_SIZE}");
    }
    let duration = Duration::try_from_secs_f64(flags.duration).context("--duration")?;
    let token = match &flags.token_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            Some(text.trim().to_owned())
        }
        None => flags.token.clone(),
    };
    let username = flags.username.clone().or_else(|| token.as_deref().and_then(subject));
    Ok(Settings {
        host: flags.host.clone(),
        publishers: flags.publishers.unwrap_or(publishers),
        subscribers: flags.subscribers.unwrap_or(subscribers),
        qos: QoS::from_bits(flags.qos).context("--qos is 0, 1 or 2")?,
        size: flags.size,
        rate: flags.rate,
        duration,
        topics: flags.topics,
        inflight: flags.inflight,
        version: match flags.version {
            ProtocolVersion::V31 => Version::V31,
            ProtocolVersion::V311 => Version::V311,
            ProtocolVersion::V5 => Version::V5,
        },
        username,
        password: token.or_else(|| flags.password.clone()),
        persistent: flags.persistent,
        prefix: flags.prefix.clone(),
        broker_pid: flags.pid,
        threads: flags.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into)),
        ..Settings::new(scenario, flags.port)
    })
}

/// The user name that fits a token: below 5.0 no password travels without one.
fn subject(token: &str) -> Option<String> {
    let claims = inspect(token, "acl", 0).ok()?.claims;
    let name = claims.get("username").or_else(|| claims.get("sub"))?;
    name.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    fn parsed(line: &str) -> Settings {
        let line = Line::try_parse_from(format!("bench {line}").split(' ')).unwrap_or_else(|error| panic!("{error}"));
        settings(&line.bench).unwrap()
    }

    #[test]
    fn clients_are_the_many_side() {
        let sides = |line| {
            let settings = parsed(line);
            (settings.publishers, settings.subscribers)
        };
        assert_eq!(sides("fan-in --clients 50"), (50, 1));
        assert_eq!(sides("fan-out --clients 50"), (1, 50));
        assert_eq!(sides("pairs --clients 50"), (50, 50));
        assert_eq!(sides("publish --clients 50"), (50, 0));
        assert_eq!(sides("subscribe --clients 50"), (0, 50));
        assert_eq!(sides("fan-in --clients 50 --subscribers 2"), (50, 2));
    }

    #[test]
    fn a_token_brings_its_user_name() {
        // {"alg":"none"} and {"sub":"dev1"}; nobody verifies it here.
        let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJkZXYxIn0.";
        let settings = parsed(&format!("pairs --token {token}"));
        assert_eq!(settings.username.as_deref(), Some("dev1"));
        assert_eq!(settings.password.as_deref(), Some(token));
        assert_eq!(parsed(&format!("pairs -u other --token {token}")).username.as_deref(), Some("other"));
    }
}
