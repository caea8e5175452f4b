//! A real Elasticsearch.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::OnceLock;

use super::lab::{Held, free_ports, lab_script};

/// A single node, without security, started in about ten seconds.
#[derive(Debug)]
pub struct Elasticsearch {
    arguments: Vec<String>,
    url: String,
    _held: Held,
}

impl Elasticsearch {
    /// The one of this test process, on loopback. Tests share it: each uses data streams of its own name.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Elasticsearch, String>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[])).as_ref().unwrap_or_else(|error| panic!("{error}"))
    }

    /// One of the caller's own on loopback, with lines of `elasticsearch.yml` such as `indexing_pressure.memory.limit: 64kb`.
    pub fn start(settings: &[&str]) -> Result<Self, String> {
        Self::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST), settings)
    }

    /// As [`Self::start`], at an address of this machine.
    pub fn start_at(address: IpAddr, settings: &[&str]) -> Result<Self, String> {
        // `keep`: the server runs as another user and the script removes the directory.
        let state: PathBuf = tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"))?.keep();
        let [port] = free_ports();
        let mut arguments = vec![state.display().to_string(), port.to_string(), address.to_string()];
        arguments.extend(settings.iter().map(ToString::to_string));
        let held = Held::start("elasticsearch", &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        let url = held.output.last().ok_or("tests/lab/elasticsearch printed no URL")?.clone();
        Ok(Self { arguments, url, _held: held })
    }

    /// `http://HOST:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends the server; its data stays.
    pub fn stop(&self) {
        self.script("stop", &self.arguments[..1]);
    }

    /// Starts a stopped server again, at the same URL with the same data.
    pub fn start_again(&self) {
        self.script("start", &self.arguments);
    }

    fn script(&self, verb: &str, arguments: &[String]) {
        let output =
            lab_script("elasticsearch").arg(verb).args(arguments).output().expect("tests/lab/elasticsearch runs");
        assert!(output.status.success(), "{verb} {}: {}", self.url, String::from_utf8_lossy(&output.stderr));
    }
}
