//! The operator. `mqtt-operator crds` prints the custom resource definitions.

use clap::{Parser, Subcommand};
use mqtt_operator::process::logs;
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
    Crds {
        /// Only this one, by its plural, as mqttusers.
        plural: Option<String>,
    },
}

fn main() -> std::process::ExitCode {
    let Program { command, flags } = Program::parse();
    if let Some(Command::Crds { plural }) = command {
        print!("{}", api::crd::yaml(plural.as_deref()));
        return std::process::ExitCode::SUCCESS;
    }
    logs::init(logs::Format::detect());
    match operator::start(flags) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mqtt-operator: {:#}", anyhow::Error::from(error));
            std::process::ExitCode::FAILURE
        }
    }
}
