//! See [`mqtt_operator::cli`].

fn main() -> std::process::ExitCode {
    mqtt_operator::cli::mqttctl()
}
