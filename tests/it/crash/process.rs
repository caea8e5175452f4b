//! The broker as a process of its own, which can be killed at any instant.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::oneshot;

/// The broker.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_mqtt-broker");
/// Lines of its log that are kept to be shown.
const TAIL: usize = 30;
/// A debug build on a busy machine with a full journal.
const START: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct Log {
    tail: VecDeque<String>,
    panicked: bool,
}

#[derive(Debug)]
pub struct Process {
    child: Child,
    log: Arc<Mutex<Log>>,
    pub address: SocketAddr,
    /// From its start until it listened.
    pub took: Duration,
}

/// It ended before it listened, and this is what it said.
#[derive(Debug)]
pub struct NotStarted(pub String);

impl Process {
    /// Starts one. With `crash_at` it ends itself at that point, perhaps before it serves.
    pub async fn start(etc: &Path, state: &Path, crash_at: Option<&str>) -> Result<Self, NotStarted> {
        let mut command = Command::new(PROGRAM);
        if let Some(point) = crash_at {
            command.env("MQTT_CRASH_AT", point);
        }
        Self::run(command, etc, state).await
    }

    /// Starts one by a command that lacks only the directories: [`PROGRAM`], or what becomes it.
    pub async fn run(mut command: Command, etc: &Path, state: &Path) -> Result<Self, NotStarted> {
        let started = Instant::now();
        command.arg("--etc").arg(etc).arg("--state").arg(state).env("RUST_LOG", "info");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the broker's program starts");
        let log = Arc::new(Mutex::new(Log::default()));
        let (told, listening) = oneshot::channel();
        let (stderr, into) = (child.stderr.take().expect("a pipe"), log.clone());
        std::thread::spawn(move || read(stderr, &into, told));
        let Ok(Ok(address)) = tokio::time::timeout(START, listening).await else {
            let _ = child.kill();
            let ended = child.wait();
            return Err(NotStarted(format!("{ended:?}; {}", tail(&log))));
        };
        Ok(Self { child, log, address, took: started.elapsed() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().expect("a child of ours")?;
        Some(format!("{status}; {}", tail(&self.log)))
    }

    /// The end of its log.
    pub fn said(&self) -> String {
        tail(&self.log)
    }

    /// Waits until it has ended by itself, or so long.
    pub async fn ends_within(&mut self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        while self.ended().is_none() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// SIGKILL, and not before it is gone does this return; answers what it said if it panicked.
    pub fn kill(mut self) -> Option<String> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let panicked = self.log.lock().unwrap().panicked;
        panicked.then(|| tail(&self.log))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(stderr: ChildStderr, log: &Mutex<Log>, told: oneshot::Sender<SocketAddr>) {
    let mut told = Some(told);
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if told.is_some()
            && line.contains("listening")
            && let Ok(event) = serde_json::from_str::<Value>(&line)
            && event["name"] == "mqtt"
            && let Some(address) = event["address"].as_str().and_then(|address| address.parse().ok())
        {
            told.take().map(|told| told.send(address));
        }
        let mut log = log.lock().unwrap();
        log.panicked |= line.contains("panicked at");
        if log.tail.len() == TAIL {
            log.tail.pop_front();
        }
        log.tail.push_back(line);
    }
}

fn tail(log: &Mutex<Log>) -> String {
    log.lock().unwrap().tail.iter().cloned().collect::<Vec<_>>().join("\n")
}
