//! A broker and clients that are not ours.

use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::lab::{cache, free_ports};
use super::wait::wait_until;

/// The mosquitto broker on loopback, ended when this value is dropped.
#[derive(Debug)]
pub struct Mosquitto {
    port: u16,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Mosquitto {
    /// Starts one that admits everybody, with further lines of `mosquitto.conf`.
    pub fn start(lines: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let [port] = free_ports();
        let mut configuration = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        for line in lines {
            let _ = writeln!(configuration, "{line}");
        }
        let path = directory.path().join("mosquitto.conf");
        std::fs::write(&path, configuration).expect("a writable directory");
        let child = Command::new(debian("mosquitto", "mosquitto"))
            .arg("-c")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto starts");
        wait_until(Duration::from_secs(10), "listening mosquitto", || TcpStream::connect(("127.0.0.1", port)));
        Self { port, child, _directory: directory }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `mosquitto_pub` or `mosquitto_sub`.
pub fn mosquitto_client(name: &str) -> Command {
    Command::new(debian(name, "mosquitto-clients"))
}

/// `mosquitto_passwd`, which makes the hashes that people bring along.
pub fn mosquitto_passwd() -> Command {
    Command::new(debian("mosquitto_passwd", "mosquitto"))
}

/// The two majors of paho-mqtt: devices in the field use both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paho {
    V1_6,
    V2,
}

/// A Python that has paho-mqtt of the given major, to be given a script.
pub fn paho(version: Paho) -> Command {
    let environment = match version {
        Paho::V1_6 => "paho1",
        Paho::V2 => "paho2",
    };
    let python = cache().join("python").join(environment).join("bin/python");
    assert!(python.exists(), "{} is missing: run tests/lab/python, or tests/run, which does it", python.display());
    Command::new(python)
}

/// Node with MQTT.js in reach of `require`, to be given a script.
pub fn node() -> Command {
    let mut node = Command::new(debian("node", "nodejs"));
    node.env("NODE_PATH", mqttjs().parent().expect("a directory"));
    node
}

/// A browser, to be given flags and a page.
pub fn chromium() -> Command {
    Command::new(debian("chromium", "chromium"))
}

/// The directory of MQTT.js; `dist/mqtt.min.js` is for browsers.
pub fn mqttjs() -> PathBuf {
    lab_client("node_modules/mqtt")
}

/// A program with Eclipse's clients for Go, of `tests/lab/modules/golang`.
pub fn go_program(name: &str) -> Command {
    Command::new(lab_client(&format!("bin/{name}")))
}

fn lab_client(path: &str) -> PathBuf {
    let path = cache().join("clients").join(path);
    assert!(path.exists(), "{} is missing: run tests/lab/clients, or tests/run, which does it", path.display());
    path
}

/// A program of a Debian package; servers are in `/usr/sbin`, which is not in everybody's `PATH`.
fn debian(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file());
    found.unwrap_or_else(|| panic!("{program} is missing: apt-get install {package}, or tests/run, which does it"))
}
