//! The flags of the program that serves MQTT.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use super::{block_on, exit};
use crate::broker as room;
use crate::config::files::{Etc, State, etc_in_pod, state_in_pod};
use crate::process::{logs, shutdown};

/// The MQTT server of one MqttBroker.
///
/// Reads the documents that the operator (or `mqttctl up`) wrote below --etc; keys and users again when they change.
#[derive(Debug, Parser)]
#[command(name = "mqtt-broker", version)]
struct Broker {
    /// The directory of the documents.
    #[arg(long, value_name = "DIR", env = "MQTT_ETC", default_value_os_t = etc_in_pod().to_owned())]
    etc: PathBuf,
    /// The directory of what it keeps: messages that it has acknowledged, sessions, fetched keys of other issuers.
    #[arg(long, value_name = "DIR", env = "MQTT_STATE", default_value_os_t = state_in_pod().to_owned())]
    state: PathBuf,
}

/// `mqtt-broker`.
pub fn broker() -> ExitCode {
    let flags = Broker::parse();
    logs::init(logs::Format::detect());
    let serve = async { Ok(room::run(Etc(flags.etc), State(flags.state), shutdown::signal()?).await?) };
    exit("mqtt-broker", block_on(serve))
}
