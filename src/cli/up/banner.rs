//! What `up` prints when it is up: where, and commands to paste.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::examples::{DEVICE, Example, Examples, SCREEN};
use crate::config::bridge::Sink;
use crate::local::state::{self, LiveListener};
use crate::local::{Options, Running};

/// How this program is called in a command to paste: by its name when the shell would find this very file.
pub fn program() -> String {
    let Ok(path) = std::env::current_exe() else { return "mqttctl".into() };
    let on_path = std::env::var_os("PATH").is_some_and(|all| {
        std::env::split_paths(&all).any(|directory| {
            let candidate = directory.join("mqttctl");
            candidate.canonicalize().is_ok_and(|it| path.canonicalize().is_ok_and(|path| it == path))
        })
    });
    if on_path { "mqttctl".into() } else { quote(&shortest(&path).to_string_lossy()) }
}

/// The path as seen from the working directory, when it is below that.
fn shortest(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let Ok(below) = path.strip_prefix(&here) else { return path.to_path_buf() };
    // A bare file name would be looked up on PATH.
    if below.components().count() == 1 { Path::new(".").join(below) } else { below.to_path_buf() }
}

/// A word as a POSIX shell reads it back.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The whole text.
pub fn text(running: &Running, options: &Options, examples: &Examples, program: &str, took: Duration) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut text, running, options, took);
    let _ = commands(&mut text, running, options, examples, program);
    text
}

fn head(text: &mut String, running: &Running, options: &Options, took: Duration) -> std::fmt::Result {
    let home = &running.home;
    let urls: Vec<String> = running.listeners.iter().map(LiveListener::url).collect();
    writeln!(text, "{}/{} is up after {} ms", home.namespace, home.name, took.as_millis())?;
    writeln!(text, "  endpoint   {}", urls.join("  "))?;
    writeln!(text, "  metrics    http://{}/metrics", running.admin)?;
    writeln!(text, "  state      {}", home.path().display())?;
    match &running.bridge {
        None => writeln!(text, "  telemetry  none: the object has no spec.telemetry")?,
        Some(bridge) => match &bridge.sink {
            Sink::File { directory } => {
                let file = directory.join(format!("{}.ndjson", bridge.data_stream));
                writeln!(text, "  telemetry  {} → {}", bridge.topics.join(" "), file.display())?;
                writeln!(text, "             (the object's Elasticsearch is not used; --elasticsearch URL uses one)")?;
            }
            Sink::Elasticsearch(elasticsearch) => {
                let url = elasticsearch.urls.join(" ");
                writeln!(text, "  telemetry  {} → {url}, data stream {}", bridge.topics.join(" "), bridge.data_stream)?;
                writeln!(text, "             (the object's Elasticsearch is not used, this one is)")?;
            }
        },
    }
    if options.bind.is_loopback() {
        writeln!(text, "  reach      this machine only; --bind 0.0.0.0 for devices on the network")?;
    }
    Ok(())
}

fn commands(
    text: &mut String,
    running: &Running,
    options: &Options,
    examples: &Examples,
    program: &str,
) -> std::fmt::Result {
    // What mosquitto can speak, without TLS if there is such a listener.
    let of = |scheme: &str| running.listeners.iter().find(|listener| listener.scheme == scheme);
    let Some(listener) = of("mqtt").or_else(|| of("mqtts")) else { return Ok(()) };
    let to = host_flags(listener);
    writeln!(text, "\nIn other terminals:")?;
    if let Some(listen) = &examples.subscribe {
        writeln!(text, "  mosquitto_sub {to} -t {} -v{}", quote(&listen.topic), login(SCREEN, listen))?;
    }
    if let Some(publish) = &examples.publish {
        let (topic, payload) = (quote(&publish.topic), quote(examples.payload));
        writeln!(text, "  mosquitto_pub {to} -q 1 -t {topic} -m {payload}{}", login(DEVICE, publish))?;
    }
    let state = if options.state == Path::new(state::DEFAULT) {
        String::new()
    } else {
        format!(" --state {}", quote(&options.state.to_string_lossy()))
    };
    if let Some(token) = &examples.token {
        let filter = quote(&token.filter);
        writeln!(text, "A device with a token of an hour, in place of a password:")?;
        writeln!(
            text,
            "  TOKEN=$({program} token issue{state} --sub {DEVICE} --publish {filter} --subscribe {filter})"
        )?;
        let (topic, payload) = (quote(&token.topic), quote(examples.payload));
        writeln!(text, "  mosquitto_pub {to} -q 1 -t {topic} -m {payload} -i {DEVICE} -u {DEVICE} -P \"$TOKEN\"")?;
    }
    writeln!(text)
}

fn host_flags(listener: &LiveListener) -> String {
    let port = if listener.port == 1883 { String::new() } else { format!(" -p {}", listener.port) };
    // Whoever signed the certificate is known to the reader alone.
    let authority = if listener.scheme == "mqtts" { " --cafile ca.crt" } else { "" };
    format!("-h {}{port}{authority}", quote(&listener.host))
}

fn login(client_id: &str, example: &Example) -> String {
    match &example.login {
        None => String::new(),
        Some(login) => format!(" -i {client_id} -u {} -P {}", quote(&login.name), quote(&login.password)),
    }
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for word in ["plain", "", "a b", "it's", "$HOME `id` \"x\" \\ !", "#", "*", "~", "a\nb", "sensor/#"] {
            let command = format!("printf %s {}", quote(word));
            let output = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{command}");
        }
    }
}
