//! The bridge as a process: its document, its admin port, and the loop.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use tokio::time::sleep;

use super::counters::Counters;
use super::deliver::chain;
use super::run::run;
use crate::auth::admin::{Door, audience};
use crate::config::FORMAT;
use crate::config::bridge::Bridge;
use crate::config::files::Etc;
use crate::config::report;
use crate::process::{Shutdown, admin};

/// Between looks at the document.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is no configuration of a bridge")]
    Parse { path: String, source: serde_json::Error },
    #[error("{path} has format {format}; this version reads {FORMAT}")]
    Format { path: String, format: u32 },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
}

/// `/api/v1/report`, for who brings a token of the broker's own keys: those of its directory, as they are now.
fn routes(etc: &Etc, config: &Bridge, counters: Arc<Counters>) -> Router {
    let (etc, issuer, audience) = (etc.clone(), config.issuer.clone(), audience(&config.namespace, &config.name));
    let report = move |headers: HeaderMap| async move {
        match admitted(&headers, &etc, issuer, audience).await {
            Ok(()) => Ok(Json(counters.report())),
            Err((status, error)) => {
                let hint = "a token of one of the broker's keys for the broker's admin port opens this one too";
                Err((status, Json(report::Problem { error, hint: hint.into() })))
            }
        }
    };
    Router::new().route("/api/v1/report", get(report))
}

async fn admitted(
    headers: &HeaderMap,
    etc: &Etc,
    issuer: String,
    audience: String,
) -> Result<(), (StatusCode, String)> {
    let refused = |error: String| (StatusCode::UNAUTHORIZED, error);
    let token = admin::bearer(headers).ok_or_else(|| refused("this needs an `Authorization: Bearer` token".into()))?;
    let unusable = |error: String| (StatusCode::SERVICE_UNAVAILABLE, format!("read the keys: {error}"));
    let jwks = tokio::fs::read(etc.jwks()).await.map_err(|error| unusable(error.to_string()))?;
    let door = Door::of(&jwks, issuer, audience).map_err(|error| unusable(error.to_string()))?;
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    door.admit(token, now).map(drop).map_err(|error| refused(error.to_string()))
}

/// Reads the bridge's document below `etc`, serves its admin port and carries telemetry until `shutdown`. A document that
/// is missing or wrong is waited for; one that changes is taken up, except for the address of the admin port.
pub async fn serve(etc: &Etc, shutdown: Shutdown) {
    let counters = Arc::new(Counters::default());
    let Some(first) = changed(etc, None, &shutdown).await else { return };
    let serving = serve_admin(etc, &first, &counters, &shutdown);
    let working = async {
        let mut next = Some(first.clone());
        while let Some(config) = next {
            let stop = Shutdown::new();
            let watching = async {
                let next = changed(etc, Some(&config), &shutdown).await;
                stop.trigger();
                next
            };
            ((), next) = tokio::join!(run(etc, config.clone(), Arc::clone(&counters), stop.clone()), watching);
        }
    };
    tokio::join!(serving, working);
}

/// Waits for a document that can be used and is not `current`; `None` at `shutdown`.
async fn changed(etc: &Etc, current: Option<&Bridge>, shutdown: &Shutdown) -> Option<Bridge> {
    let mut said = String::new();
    while !shutdown.is_triggered() {
        match read(&etc.bridge()).await {
            Ok(config) if Some(&config) != current => return Some(config),
            Ok(_) => said.clear(),
            Err(problem) => {
                let message = chain(&problem);
                if message != said {
                    tracing::error!(message, kept = current.is_some(), "no configuration");
                    said = message;
                }
            }
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            () = shutdown.wait() => {}
        }
    }
    None
}

async fn read(path: &Path) -> Result<Bridge, Problem> {
    let shown = || path.display().to_string();
    let text = tokio::fs::read(path).await.map_err(|source| Problem::Read { path: shown(), source })?;
    let config: Bridge = serde_json::from_slice(&text).map_err(|source| Problem::Parse { path: shown(), source })?;
    if config.format != FORMAT {
        return Err(Problem::Format { path: shown(), format: config.format });
    }
    Ok(config)
}

/// Telemetry goes on without an admin port; somebody who misses the metrics finds the line in the log.
async fn serve_admin(etc: &Etc, config: &Bridge, counters: &Arc<Counters>, shutdown: &Shutdown) {
    let address = config.admin;
    while !shutdown.is_triggered() {
        let served = match admin::bind(address) {
            Ok(mut admin) => {
                counters.register(admin.registry());
                // No probe of a pod asks: an outage of Elasticsearch is not the broker's.
                admin.readiness().set(true);
                admin.serve(routes(etc, config, Arc::clone(counters)), shutdown.clone()).await
            }
            Err(source) => Err(source),
        };
        let Err(source) = served else { return };
        tracing::error!(message = chain(&Problem::Listen { address, source }), "no admin port");
        tokio::select! {
            () = sleep(LOOK) => {}
            () = shutdown.wait() => {}
        }
    }
}
