//! A real Elasticsearch.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::lab::{Held, free_ports, lab_script, run};

/// The password of the user `elastic` of a secure node.
pub const ELASTIC_PASSWORD: &str = "secret of the tests";

const PASSWORD_VARIABLE: (&str, &str) = ("ELASTICSEARCH_PASSWORD", ELASTIC_PASSWORD);

/// A single node, started in about ten seconds.
#[derive(Debug)]
pub struct Elasticsearch {
    secure: bool,
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

    /// One of the caller's own on loopback, with `https` and a password: user `elastic`, [`ELASTIC_PASSWORD`].
    ///
    /// It may answer 401 to the right password for a second or two after its start.
    pub fn start_secure() -> Result<Self, String> {
        Self::launch(IpAddr::V4(Ipv4Addr::LOCALHOST), &[], true)
    }

    /// As [`Self::start`], at an address of this machine.
    pub fn start_at(address: IpAddr, settings: &[&str]) -> Result<Self, String> {
        Self::launch(address, settings, false)
    }

    fn launch(address: IpAddr, settings: &[&str], secure: bool) -> Result<Self, String> {
        // `keep`: the server runs as another user and the script removes the directory.
        let state: PathBuf = tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"))?.keep();
        let [port] = free_ports();
        let mut arguments = vec![state.display().to_string(), port.to_string(), address.to_string()];
        arguments.extend(settings.iter().map(ToString::to_string));
        let environment: &[_] = if secure { &[PASSWORD_VARIABLE] } else { &[] };
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let held = Held::start_with("elasticsearch", &words, environment)?;
        let url = held.output.last().ok_or("tests/lab/elasticsearch printed no URL")?.clone();
        Ok(Self { secure, arguments, url, _held: held })
    }

    /// `http://HOST:PORT`, or `https://HOST:PORT` of a secure one.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The certificate authority of a secure one, PEM.
    pub fn certificate_authority(&self) -> PathBuf {
        Path::new(&self.arguments[0]).join("certs/ca.crt")
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
