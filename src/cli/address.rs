//! Addresses of brokers as people write them, and what TLS needs beside.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use crate::client::{Options, Tls, Trust};

/// Where a broker is, and what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `host:port`.
    socket: String,
    tls: bool,
    /// Of a WebSocket.
    path: Option<String>,
}

/// Reads `HOST[:PORT]`, or a URL of scheme `mqtt`, `mqtts`, `ws` or `wss`.
pub fn parse(text: &str) -> anyhow::Result<Address> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("mqtt", text));
    let (tls, websocket, port) = match scheme {
        "mqtt" | "tcp" => (false, false, 1883),
        "mqtts" | "ssl" => (true, false, 8883),
        "ws" => (false, true, 80),
        "wss" => (true, true, 443),
        _ => bail!("{text}: expected HOST[:PORT], or a URL of scheme mqtt, mqtts, ws or wss"),
    };
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    if host.is_empty() || host.contains(['@', ' ', '?', '#']) || (!websocket && path != "/") {
        bail!("{text}: expected {scheme}://HOST[:PORT]{}", if websocket { "/PATH" } else { "" });
    }
    // Colons of an IPv6 address count only outside its brackets.
    let after_brackets = host.rsplit(']').next().unwrap_or(host);
    let socket = if after_brackets.contains(':') { host.to_owned() } else { format!("{host}:{port}") };
    Ok(Address { socket, tls, path: websocket.then(|| path.to_owned()) })
}

impl Address {
    /// How to connect there; `tls` is asked for where it is spoken.
    pub fn options(&self, client_id: &str, tls: impl FnOnce() -> anyhow::Result<Tls>) -> anyhow::Result<Options> {
        let mut options = Options::new(self.socket.clone(), client_id);
        options.tls = if self.tls { Some(tls()?) } else { None };
        options.websocket.clone_from(&self.path);
        Ok(options)
    }
}

/// What TLS needs.
#[derive(Args, Debug)]
pub struct TlsFlags {
    /// Certificate authorities, PEM, that the broker's certificate is verified with; otherwise those of the system.
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,

    /// A certificate to present, PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl TlsFlags {
    /// Whether any is given.
    pub fn is_given(&self) -> bool {
        self.cafile.is_some() || self.cert.is_some()
    }

    /// TLS as they say.
    pub fn tls(&self) -> anyhow::Result<Tls> {
        let own = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        let own = own.as_ref().map(|(cert, key)| (cert.as_slice(), key.as_slice()));
        match &self.cafile {
            None => {
                Tls::new(Trust::System, own).context("TLS with the authorities of the system; --cafile names others")
            }
            Some(path) => {
                Tls::new(Trust::Authorities(&read(path)?), own).with_context(|| format!("TLS with {}", path.display()))
            }
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_scheme_a_port_and_a_path_or_get_them() {
        let socket = |text: &str| parse(text).unwrap().socket;
        assert_eq!(socket("broker"), "broker:1883");
        assert_eq!(socket("broker:1884"), "broker:1884");
        assert_eq!(socket("[::1]"), "[::1]:1883");
        assert_eq!(socket("[::1]:7"), "[::1]:7");
        assert_eq!(socket("mqtts://broker"), "broker:8883");
        assert_eq!(socket("mqtt://broker/"), "broker:1883");
        let address = |socket: &str, tls, path: &str| Address { socket: socket.into(), tls, path: Some(path.into()) };
        assert_eq!(parse("wss://broker/mqtt").unwrap(), address("broker:443", true, "/mqtt"));
        assert_eq!(parse("ws://[::1]:8083/a/b").unwrap(), address("[::1]:8083", false, "/a/b"));
        assert_eq!(parse("ws://broker").unwrap().path.as_deref(), Some("/"));
        for wrong in ["http://broker", "mqtt://", "mqtt://broker/path", "mqtt://user@broker", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
