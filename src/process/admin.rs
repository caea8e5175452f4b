//! The admin port: `/livez`, `/readyz`, `/metrics`, and what a room merges into them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::usage::Usage;
use super::{Shutdown, listen};

/// How long an answer that is under way at shutdown may take.
const GRACE: Duration = Duration::from_secs(1);

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
        let stop = shutdown.clone();
        let serving = axum::serve(listener, app).with_graceful_shutdown(async move { stop.wait().await });
        tokio::select! {
            done = serving => done,
            // A client that holds its request open must not hold the process.
            () = async { shutdown.wait().await; tokio::time::sleep(GRACE).await } => Ok(()),
        }
    }
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

    use super::{Shutdown, bind};

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
}
