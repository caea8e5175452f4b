//! `mqttctl up`: what a person sees of `local`.

mod banner;
mod examples;
mod flow;

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::target::Where;
use crate::local::{self, Options, state};
use crate::process::shutdown;

const EXAMPLES: &str = "Examples:
  mqttctl up -f manifests/samples/thermometer.yaml
  mqttctl up -f broker.yaml --bind 0.0.0.0           for devices on the network
  mqttctl up -f broker.yaml --elasticsearch http://localhost:9200
  mqttctl up -f broker.yaml --state /var/lib/home    state elsewhere than in ./.mqtt

The ports are those of the object. Keys, users and passwords are kept in the state directory: a
second `up` has the same ones, and tokens stay valid. Ctrl-C stops.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Up {
    /// A manifest with an MqttBroker, and the Secrets that it refers to.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    /// The address to listen at; 0.0.0.0 for devices on the network.
    #[arg(long, value_name = "ADDR", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,

    /// Deliver telemetry here, not into files: http://HOST:PORT, or https://USER:PASSWORD@HOST:PORT.
    #[arg(long, value_name = "URL")]
    elasticsearch: Option<String>,
}

/// Runs until a signal comes.
pub async fn run(up: Up, wanted: Where) -> anyhow::Result<()> {
    let started = Instant::now();
    let shutdown = shutdown::signal()?;
    let options = Options {
        file: up.file,
        namespace: wanted.namespace,
        broker: wanted.broker,
        state: wanted.state.unwrap_or_else(|| state::DEFAULT.into()),
        bind: up.bind,
        elasticsearch: up.elasticsearch,
    };
    let running = local::start(&options, shutdown.clone()).await?;
    let examples = examples::choose(&running);
    let took = started.elapsed();
    write!(io::stdout(), "{}", banner::text(&running, &options, &examples, &banner::program(), took))?;
    io::stdout().flush()?;

    let failed = tokio::select! {
        failed = flow::show(&running) => failed,
        () = shutdown.wait() => Ok(()),
    };
    eprintln!("mqttctl: stopping");
    running.stop().await;
    failed
}
