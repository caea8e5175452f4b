//! The operator. `mqtt-operator crds` prints the custom resource definitions.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mqtt_operator::process::{logs, shutdown};
use mqtt_operator::{api, operator};

/// Runs MQTT brokers from MqttBroker objects.
#[derive(Parser)]
#[command(version)]
struct Program {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: operator::Flags,
}

#[derive(Subcommand)]
enum Command {
    /// Print the custom resource definitions as YAML.
    Crds,
}

fn main() -> ExitCode {
    match program() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mqtt-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn program() -> anyhow::Result<()> {
    let Program { command, flags } = Program::parse();
    if let Some(Command::Crds) = command {
        print!("{}", api::crd::yaml());
        return Ok(());
    }
    logs::init(logs::Format::detect());
    let options = flags.options()?;
    // Two are plenty: the work is waiting for the API server.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let client = kube::Client::try_default().await.context("find the API server")?;
        Ok(operator::run(client, options, shutdown::signal()?).await?)
    })
}
