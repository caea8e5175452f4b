//! See [`mqtt_operator::broker`].

fn main() -> std::process::ExitCode {
    mqtt_operator::cli::broker()
}
