//! The operator. `mqtt-operator crds` prints the custom resource definitions.

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Runs MQTT brokers from MqttBroker objects")]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the custom resource definitions as YAML.
    Crds,
}

fn main() {
    match Flags::parse().command {
        Command::Crds => print!("{}", mqtt_operator::api::crd::yaml()),
    }
}
