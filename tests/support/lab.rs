//! The scripts of `tests/lab`, as things that live as long as a value.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The directory of built and downloaded parts.
pub fn cache() -> PathBuf {
    std::env::var_os("MQTT_OPERATOR_CACHE").map_or_else(|| PathBuf::from("/var/cache/mqtt-operator"), PathBuf::from)
}

/// A program of Kubernetes, such as `kubectl` or `helm`.
pub fn kube_bin(name: &str) -> PathBuf {
    let path = cache().join("kubernetes/bin").join(name);
    assert!(path.exists(), "{} is missing: run tests/lab/build, or tests/run, which does it", path.display());
    path
}

/// A file of the project, by its path from the root.
pub fn project_file(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A script of `tests/lab`, to be given arguments.
pub fn lab_script(name: &str) -> Command {
    Command::new(project_file("tests/lab").join(name))
}

/// Runs a command to its end and returns what it printed; fails the test with what it said when it does not succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (said, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{command:?}: {}\n{said}{printed}", output.status);
    printed.into_owned()
}

/// `N` ports of loopback that nobody listens on. They are held together before any is given back, so they differ.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port"));
    held.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}

/// Something that a script of `tests/lab` started, and removes when this value is dropped or this process ends.
#[derive(Debug)]
pub struct Held {
    child: Child,
    /// What the script printed until it was ready.
    pub output: Vec<String>,
}

impl Held {
    /// Runs `tests/lab/held SCRIPT ARGUMENTS...` and returns when it is ready; an error is one line.
    pub fn start(script: &str, arguments: &[&str]) -> Result<Self, String> {
        Self::start_with(script, arguments, &[])
    }

    /// [`Self::start`] with further variables of the environment.
    pub fn start_with(script: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self, String> {
        let mut child = lab_script("held")
            .arg(script)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("tests/lab/held: {error}"))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut output = Vec::new();
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line == "ready" {
                return Ok(Self { child, output });
            }
            output.push(line);
        }
        let mut said = String::new();
        let _ = child.stderr.take().expect("stderr is piped").read_to_string(&mut said);
        let _ = child.wait();
        Err(said.trim_end().to_owned())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The script waits for the end of this pipe, then removes what it started.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
