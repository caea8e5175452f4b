//! Carries telemetry from the broker of its pod to Elasticsearch.

use std::path::PathBuf;

use clap::Parser;
use mqtt_operator::bridge;
use mqtt_operator::config::files::{Etc, etc_in_pod};
use mqtt_operator::process::{logs, shutdown};

/// Carries telemetry from the broker of its pod to Elasticsearch.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// The directory of the configuration and the credentials.
    #[arg(long, env = "MQTT_ETC", default_value_os_t = etc_in_pod().to_owned())]
    etc: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    logs::init(logs::Format::detect());
    let shutdown = shutdown::signal()?;
    bridge::serve(&Etc(flags.etc), shutdown).await;
    Ok(())
}
