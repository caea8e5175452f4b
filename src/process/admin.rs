//! The admin port: `/livez`, `/readyz`, `/metrics`, and what a room merges into them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::usage::Usage;
use super::{Shutdown, listen};

/// How long an answer that is under way at shutdown may take.
const GRACE: Duration = Duration::from_secs(1);
/// How long the head of a request may take, and a connection may be idle.
const HEADER: Duration = Duration::from_secs(10);
/// Connections at a time: probes, a scraper, and some people.
const CONNECTIONS: usize = 256;

/// Whether the process does its work now; `/readyz` answers 200 or 503. Clones share one value, at first "no".
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A bound admin port that is not served yet: room for metrics and readiness to be handed out first.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    readiness: Readiness,
    registry: Registry,
}

/// Binds the port; port 0 takes a free one, see [`Admin::address`].
pub fn bind(address: SocketAddr) -> io::Result<Admin> {
    let listener = listen(address)?;
    let address = listener.local_addr()?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Usage));
    Ok(Admin { listener, address, readiness: Readiness::default(), registry })
}

impl Admin {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The handle that `/readyz` reads.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Where a room registers its metrics before [`Admin::serve`]. What is computed on demand registers a collector.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Serves until `shutdown`, together with `routes` of the caller's own.
    pub async fn serve(self, routes: Router, shutdown: Shutdown) -> io::Result<()> {
        let Self { listener, readiness, registry, .. } = self;
        let app = router(readiness, Arc::new(registry)).merge(routes);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = shutdown.wait() => break,
            };
            match accepted {
                Ok((socket, _)) if connections.len() < CONNECTIONS => {
                    connections.spawn(connection(socket, app.clone(), shutdown.clone()));
                }
                // Probes come again.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of file descriptors, usually, which pass.
                    tracing::warn!(%error, "cannot accept connections at the admin port now");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // A client that holds its request open must not hold the process.
        let _ = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
        Ok(())
    }
}

/// Answers the requests of one connection.
async fn connection(socket: TcpStream, app: Router, shutdown: Shutdown) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(app));
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        // A connection that broke is its client's business.
        _ = serving.as_mut() => return,
        () = shutdown.wait() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}

/// The token of an `Authorization: Bearer` header.
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn router(readiness: Readiness, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { ready(&readiness) }))
        .route("/metrics", get(move || async move { metrics(&registry) }))
}

fn ready(readiness: &Readiness) -> (StatusCode, &'static str) {
    if readiness.is_ready() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

fn metrics(registry: &Registry) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use axum::Router;
    use axum::routing::get;
    use prometheus_client::metrics::counter::Counter;

    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::{CONNECTIONS, HEADER, Shutdown, bind};

    async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
        let response = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    #[tokio::test]
    async fn probes_metrics_and_the_rooms_own_routes_are_served_until_shutdown() {
        let mut admin = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (address, readiness, shutdown) = (admin.address(), admin.readiness(), Shutdown::new());
        let seen = Counter::<u64>::default();
        admin.registry().register("mqtt_seen", "Things seen", seen.clone());
        let routes = Router::new().route("/api/v1/report", get(|| async { "mine" }));
        let serving = tokio::spawn(admin.serve(routes, shutdown.clone()));

        assert_eq!(fetch(address, "/livez").await.0, 200);
        assert_eq!(fetch(address, "/readyz").await.0, 503);
        readiness.set(true);
        assert_eq!(fetch(address, "/readyz").await.0, 200);
        seen.inc_by(3);
        assert!(fetch(address, "/metrics").await.1.contains("mqtt_seen_total 3"));
        assert_eq!(fetch(address, "/api/v1/report").await, (200, "mine".into()));

        shutdown.trigger();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_request_that_never_ends_is_cut_off_and_others_are_answered_meanwhile() {
        let admin = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (address, shutdown) = (admin.address(), Shutdown::new());
        let serving = tokio::spawn(admin.serve(Router::new(), shutdown.clone()));
        let cut_off = [&b""[..], b"GET /livez HTT", b"GET /livez HTTP/1.1\r\nHost: x\r\n"].map(async |head| {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(head).await.unwrap();
            let mut answer = Vec::new();
            let reading = tokio::time::timeout(3 * HEADER, socket.read_to_end(&mut answer)).await;
            assert!(reading.is_ok(), "{head:?} is cut off");
            assert!(!String::from_utf8_lossy(&answer).contains("200 OK"), "{head:?}");
        });
        futures::future::join_all(cut_off).await;
        shutdown.trigger();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_flood_of_connections_is_bounded_and_ends() {
        let admin = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (address, shutdown) = (admin.address(), Shutdown::new());
        let serving = tokio::spawn(admin.serve(Router::new(), shutdown.clone()));
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut more = TcpStream::connect(address).await.unwrap();
        assert_eq!(more.read(&mut [0]).await.unwrap_or(0), 0, "one too many is closed");
        drop(idle);
        let until = tokio::time::Instant::now() + Duration::from_secs(10);
        while reqwest::get(format!("http://{address}/livez")).await.is_err() {
            assert!(tokio::time::Instant::now() < until, "there is room again");
        }
        shutdown.trigger();
        serving.await.unwrap().unwrap();
    }
}
