//! Reaching the admin port of a broker: on this machine, or in its pods through a port-forward, with the person's own
//! rights. Each request brings a token that is signed here and lives for a minute.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::audit;
use super::keys::{self, Signing};
use super::now;
use super::target::Target;
use crate::auth::admin;
use crate::config::report::Problem;
use crate::operator;
use crate::plan::BROKER_ADMIN_PORT;

/// Bytes of an answer: a page of a thousand sessions is a tenth of it.
const LARGEST: usize = 16 * 1024 * 1024;
/// How long an answer may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
/// Who asks, as brokers log it.
const SUBJECT: &str = "mqttctl";

/// The admin ports of one broker, and the right to use them.
pub struct Ports {
    signing: Signing,
    audience: String,
    pub all: Vec<Port>,
}

/// One admin port.
pub enum Port {
    Local(std::net::SocketAddr),
    Pod { pods: Box<Api<Pod>>, name: String },
}

/// What an admin port answers.
pub enum Answer<T> {
    Done(T),
    /// It answers that this cannot be, with its status.
    Refused(StatusCode, Problem),
}

impl<T> Answer<T> {
    /// What was asked for; a refusal is an error that says what to do next.
    pub fn done(self) -> anyhow::Result<T> {
        match self {
            Self::Done(answer) => Ok(answer),
            Self::Refused(_, Problem { error, hint }) => bail!("{error}: {hint}"),
        }
    }
}

impl Ports {
    /// Finds the admin ports of the broker.
    pub async fn of(target: &Target) -> anyhow::Result<Self> {
        let ports = match target {
            Target::Local(home) => {
                let live = home.live().with_context(|| {
                    format!("{}/{} does not run; start it with `mqttctl up -f FILE`", home.namespace, home.name)
                })?;
                vec![Port::Local(live.admin)]
            }
            Target::Cluster { client, namespace, name, .. } => {
                let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
                let labels = ListParams::default().labels(&operator::pods_of(name));
                let found = pods.list(&labels).await.with_context(|| format!("list the pods of {namespace}/{name}"))?;
                let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
                let set = sets.get(name).await.with_context(|| format!("read StatefulSet {namespace}/{name}"))?;
                let running = operator::members(&set, found.items)
                    .into_iter()
                    .filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"));
                let names = running.filter_map(|pod| pod.metadata.name);
                names.map(|name| Port::Pod { pods: Box::new(pods.clone()), name }).collect()
            }
        };
        if ports.is_empty() {
            let (namespace, name) = (target.namespace(), target.name());
            bail!("no pod of {namespace}/{name} runs; `kubectl -n {namespace} describe mqttbroker {name}` says why");
        }
        let signing = keys::signing(target).await?;
        Ok(Self { signing, audience: admin::audience(target.namespace(), target.name()), all: ports })
    }

    /// Sends a request to one of the ports.
    pub async fn ask<T: DeserializeOwned>(&self, port: &Port, method: Method, path: &str) -> anyhow::Result<Answer<T>> {
        let what = || format!("ask {}", port.name());
        tokio::time::timeout(PATIENCE, self.send(port, method, path))
            .await
            .with_context(|| format!("{} did not answer within {} s", port.name(), PATIENCE.as_secs()))?
            .with_context(what)
    }

    async fn send<T: DeserializeOwned>(&self, port: &Port, method: Method, path: &str) -> anyhow::Result<Answer<T>> {
        let token = admin::mint(&self.signing.key, &self.signing.jwt.issuer, &self.audience, SUBJECT, now()?);
        audit::minted_admin(&self.signing.key, &self.audience, SUBJECT);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "admin")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Body::empty())?;
        let (status, body) = match port {
            Port::Local(address) => exchange(TcpStream::connect(address).await?, request).await?,
            Port::Pod { pods, name } => {
                let mut forward = pods.portforward(name, &[BROKER_ADMIN_PORT]).await.with_context(|| {
                    format!("forward a port of pod {name}; that takes the right to `create` `pods/portforward`")
                })?;
                let stream = forward.take_stream(BROKER_ADMIN_PORT).context("the port is not forwarded")?;
                exchange(stream, request).await?
            }
        };
        if status.is_success() {
            return Ok(Answer::Done(serde_json::from_slice(&body).context("read the answer")?));
        }
        match serde_json::from_slice(&body) {
            Ok(problem) => Ok(Answer::Refused(status, problem)),
            Err(_) => bail!("it answers {status}; is its version that of this mqttctl?"),
        }
    }
}

impl Port {
    /// What it is called in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Local(address) => format!("the admin port {address}"),
            Self::Pod { name, .. } => format!("pod {name}"),
        }
    }
}

/// One request and its answer, over a stream of their own.
async fn exchange<S>(stream: S, request: Request<Body>) -> anyhow::Result<(StatusCode, Vec<u8>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let speaking = tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = to_bytes(Body::new(answer.into_body()), LARGEST).await.context("read the answer")?;
    drop(sender);
    speaking.abort();
    Ok((status, body.to_vec()))
}

/// A text as a part of a path or of a query.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            // Dots too: `..` would otherwise mean the directory above.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn whatever_a_client_calls_itself_fits_into_a_path() {
        assert_eq!(encode("dev-1_a~"), "dev-1_a~");
        assert_eq!(encode("../a b?c#ä"), "%2E%2E%2Fa%20b%3Fc%23%C3%A4");
    }
}
