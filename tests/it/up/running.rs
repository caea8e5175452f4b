//! `mqttctl up` as a process, and the programs that people use beside it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::support::{free_ports, project_file, wait_until};

/// Starting takes some hundred milliseconds; a busy machine may need longer.
pub const SOON: Duration = Duration::from_secs(30);

/// The port that the samples use, and that a command which names none uses.
pub const SAMPLE_PORT: u16 = 1883;

/// A program whose output lines are read as they come. Ended when dropped.
#[derive(Debug)]
pub struct Watched {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Watched {
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().expect("piped"), &lines);
        collect(child.stderr.take().expect("piped"), &lines);
        Self { child, lines }
    }

    /// What it has printed, on either stream.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first line with this in it, as soon as there is one.
    #[track_caller]
    pub fn line_with(&self, text: &str) -> String {
        wait_until(SOON, text, || self.lines().into_iter().find(|line| line.contains(text)).ok_or(self.lines()))
    }

    /// The number of lines that are just this.
    pub fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| *line == text).count()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Asks it to end, as Ctrl-C does, and returns its exit code.
    pub fn interrupt(&mut self) -> Option<i32> {
        let kill = Command::new("kill").arg("-INT").arg(self.child.id().to_string()).status().expect("kill is there");
        assert!(kill.success());
        wait_until(SOON, "end of the process", || self.child.try_wait().expect("a child of ours").ok_or(())).code()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(stream: impl std::io::Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}

/// A running `mqttctl up`.
#[derive(Debug)]
pub struct Up {
    pub process: Watched,
    pub port: u16,
    directory: PathBuf,
}

impl Up {
    /// Runs the manifest in this directory, where its state is or comes to be.
    pub fn start(directory: &Path, manifest: &str, port: u16, flags: &[&str]) -> Self {
        std::fs::write(directory.join("broker.yaml"), manifest).expect("a writable directory");
        let mut command = mqttctl(directory);
        command.args(["up", "-f", "broker.yaml"]).args(flags);
        let process = Watched::spawn(command);
        process.line_with(" is up after ");
        // The last lines of the banner come in the same write; the empty one ends it.
        process.line_with("mosquitto_pub");
        Self { process, port, directory: directory.into() }
    }

    /// A sample of the project on a free port.
    pub fn sample(directory: &Path, name: &str) -> Self {
        let [port] = free_ports();
        Self::start(directory, &on_port(&sample(name), port), port, &[])
    }

    pub fn mqttctl(&self) -> Command {
        mqttctl(&self.directory)
    }

    /// A command line, read by a shell in the directory of the state.
    pub fn shell(&self, line: &str) -> Command {
        shell(&self.directory, line)
    }

    pub fn stop(mut self) {
        assert_eq!(self.process.interrupt(), Some(0), "{:#?}", self.process.lines());
    }
}

/// `mqttctl` in a directory, seeing nothing of this machine's clusters.
pub fn mqttctl(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqttctl"));
    command.current_dir(directory).env_remove("RUST_LOG").env("KUBECONFIG", directory.join("no-kubeconfig"));
    command
}

/// A shell whose programs write line by line, as they do on a terminal, with `mqttctl` among them.
pub fn shell(directory: &Path, line: &str) -> Command {
    let mut command = Command::new("stdbuf");
    let programs = Path::new(env!("CARGO_BIN_EXE_mqttctl")).parent().expect("a directory").display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    command.args(["-oL", "bash", "-c", line]).current_dir(directory).env("PATH", path).env_remove("RUST_LOG");
    command.env("KUBECONFIG", directory.join("no-kubeconfig"));
    command
}

/// Runs it to its end; both streams as text.
#[track_caller]
pub fn run(mut command: Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// [`run`] for what has to succeed: its standard output.
#[track_caller]
pub fn succeed(command: Command) -> String {
    let shown = format!("{command:?}");
    let (code, stdout, stderr) = run(command);
    assert_eq!(code, Some(0), "{shown}\n{stdout}{stderr}");
    stdout
}

/// The text of a sample.
pub fn sample(name: &str) -> String {
    let path = project_file("manifests/samples").join(format!("{name}.yaml"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The manifest with its broker on another port.
pub fn on_port(manifest: &str, port: u16) -> String {
    let listeners = format!("spec:\n  listeners: [{{name: mqtt, protocol: mqtt, port: {port}}}]\n");
    assert_eq!(manifest.matches("\nspec:\n").count(), 1, "one object with a spec");
    manifest.replacen("spec:\n", &listeners, 1)
}

/// The right to use port 1883, which one test at a time has, over all test processes of this machine.
#[derive(Debug)]
pub struct SamplePort(File);

impl SamplePort {
    #[track_caller]
    pub fn take() -> Self {
        let path = std::env::temp_dir().join("mqtt-operator-test-port-1883.lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        file.lock().expect("a lock on a file of ours");
        if let Err(error) = TcpListener::bind(("127.0.0.1", SAMPLE_PORT)) {
            panic!("port {SAMPLE_PORT} is the samples', and cannot be had: {error}; `ss -ltnp` says who has it");
        }
        Self(file)
    }
}

impl Drop for SamplePort {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}
