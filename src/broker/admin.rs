//! The admin port: what the broker tells, and what it can be told to do.
//!
//! Probes and metrics are open. Everything below `/api/v1` asks for a token that one of the broker's own keys signed for
//! this port and that lives for a minute at most. Lists are answered in pages. An error says what to do next.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router as Routes};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::counters::Gate;
use super::denies::Deny;
use super::documents::{self, Documents};
use super::events;
use super::issuers;
use super::limiter::Kind;
use super::limits::LimitMetrics;
use super::metrics;
use super::passwords::BanMetrics;
use super::sessions::{self, MOST, NotKicked, Which, WhichSubscriptions, timestamp};
use super::{Error, Shared, unix_millis, with_causes};
use crate::auth::admin::{MAX_TTL, audience};
use crate::auth::token::TokenError;
use crate::config::report::{self, Page, Problem};
use crate::mqtt::topic::{self, Filter};
use crate::process::{Readiness, Shutdown, admin};

/// Items of a page unless fewer or more are asked for.
const USUAL: usize = 100;
/// Seconds that a request for what may come is kept waiting at most.
const LONGEST_WAIT: u64 = 30;
/// Clients disconnected a second while draining, unless another rate is asked for.
const DRAIN_RATE: u32 = 100;

/// What requests work with.
#[derive(Debug)]
struct Port {
    shared: Arc<Shared>,
    documents: Arc<Documents>,
    /// What a token must be for.
    audience: String,
    readiness: Readiness,
    shutdown: Shutdown,
}

/// Binds the port and serves it until shutdown; answers where it is bound, and the handle of `/readyz`.
pub(super) fn serve(
    address: SocketAddr,
    shared: &Arc<Shared>,
    documents: Arc<Documents>,
    shutdown: &Shutdown,
    tasks: &mut JoinSet<()>,
) -> Result<(SocketAddr, Readiness), Error> {
    let mut admin = admin::bind(address).map_err(|source| Error::Admin { address, source })?;
    metrics::register(admin.registry(), shared);
    issuers::register(admin.registry(), shared);
    admin.registry().register_collector(Box::new(LimitMetrics(shared.clone())));
    admin.registry().register_collector(Box::new(BanMetrics(shared.clone())));
    // All listeners are bound: from here on the broker serves MQTT, until it is told to stop.
    admin.readiness().set(shared.serves());
    let (readiness, bound, stop) = (admin.readiness(), admin.address(), shutdown.clone());
    let port = Port {
        shared: shared.clone(),
        audience: audience(&documents.config.namespace, &documents.config.name),
        documents,
        readiness: readiness.clone(),
        shutdown: shutdown.clone(),
    };
    let routes = routes(Arc::new(port));
    let answer = (bound, readiness.clone());
    tasks.spawn(async move {
        let unready = async {
            stop.wait().await;
            readiness.set(false);
        };
        let (served, ()) = tokio::join!(admin.serve(routes, stop.clone()), unready);
        if let Err(error) = served {
            tracing::error!(%error, "the admin port failed");
        }
    });
    Ok(answer)
}

fn routes(port: Arc<Port>) -> Routes {
    let api = Routes::new()
        .route("/report", get(report))
        .route("/sessions", get(list_sessions))
        .route("/sessions/{client}/kick", post(kick))
        .route("/subscriptions", get(list_subscriptions))
        .route("/retained", get(list_retained))
        .route("/denies", get(list_denies))
        .route("/keys", get(list_keys))
        .route("/listeners", get(list_listeners))
        .route("/drain", post(drain))
        .route("/reload", post(reload))
        .fallback(async || {
            problem(StatusCode::NOT_FOUND, "there is nothing here", "see docs/admin.md for what can be asked")
        })
        .method_not_allowed_fallback(async || {
            problem(StatusCode::METHOD_NOT_ALLOWED, "this cannot be done here", "GET lists, POST changes something")
        })
        .layer(middleware::from_fn_with_state(port.clone(), authorise))
        .with_state(port.clone());
    let open = Routes::new().route("/.well-known/jwks.json", get(jwks)).with_state(port);
    Routes::new().nest("/api/v1", api).merge(open)
}

/// An answer that says what went wrong, and what to do.
fn problem(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Response {
    (status, Json(Problem { error: error.into(), hint: hint.into() })).into_response()
}

/// Lets a request pass that brings a token for this port.
async fn authorise(State(port): State<Arc<Port>>, request: Request, next: Next) -> Response {
    let Some(token) = admin::bearer(request.headers()) else {
        return refuse(&port, StatusCode::UNAUTHORIZED, "this needs an `Authorization: Bearer` token");
    };
    let admitted = port.shared.policy.load().authenticate_admin(token, &port.audience, unix_millis() / 1000);
    match admitted {
        Ok(admin) => {
            if request.method() != axum::http::Method::GET {
                tracing::info!(subject = admin.subject, path = request.uri().path(), "asked at the admin port");
            }
            next.run(request).await
        }
        // Its signature is right: it is somebody, but not somebody who may.
        Err(error @ TokenError::Claims(_)) => refuse(&port, StatusCode::FORBIDDEN, &error.to_string()),
        Err(error) => refuse(&port, StatusCode::UNAUTHORIZED, &error.to_string()),
    }
}

fn refuse(port: &Port, status: StatusCode, error: &str) -> Response {
    port.shared.counters.admin_refusals.add(if status == StatusCode::FORBIDDEN { "forbidden" } else { "unauthorized" });
    if events::admits(&port.shared, Kind::Refused, "admin") {
        tracing::warn!(error, "refused at the admin port");
    }
    let hint = format!(
        "`mqttctl session list` and the other commands sign what is needed; by hand: a token of one of this broker's \
         keys for `aud` {} that lives for {MAX_TTL} s at most",
        port.audience
    );
    let mut response = problem(status, error, hint);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
    response
}

/// The query of a request, or why it cannot be understood.
type Asked<T> = Result<Query<T>, QueryRejection>;

// Built once per bad request; boxing it would only move it.
#[expect(clippy::result_large_err, reason = "an answer is as large as axum makes it")]
fn understood<T>(asked: Asked<T>) -> Result<T, Response> {
    asked.map(|Query(query)| query).map_err(|rejection| {
        problem(StatusCode::BAD_REQUEST, rejection.body_text(), "see docs/admin.md for what can be asked for here")
    })
}

async fn report(State(port): State<Arc<Port>>) -> Json<report::Broker> {
    Json(port.shared.report())
}

async fn list_sessions(State(port): State<Arc<Port>>, asked: Asked<Which>) -> Result<Response, Response> {
    Ok(Json(sessions::list(&port.shared, &understood(asked)?).await).into_response())
}

async fn list_subscriptions(
    State(port): State<Arc<Port>>,
    asked: Asked<WhichSubscriptions>,
) -> Result<Response, Response> {
    let which = understood(asked)?;
    if let Some(violation) = which.topic.as_deref().and_then(|topic| topic::check_name(topic).err()) {
        return Err(problem(StatusCode::BAD_REQUEST, violation.to_string(), "`topic` is a topic name, not a filter"));
    }
    Ok(Json(sessions::subscriptions(&port.shared, &which).await).into_response())
}

/// Which retained messages are meant.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WhichRetained {
    filter: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

async fn list_retained(State(port): State<Arc<Port>>, asked: Asked<WhichRetained>) -> Result<Response, Response> {
    let which = understood(asked)?;
    if let Some(violation) = which.filter.as_deref().and_then(|filter| Filter::parse(filter).err()) {
        return Err(problem(
            StatusCode::BAD_REQUEST,
            violation.to_string(),
            "`filter` is a topic filter, as a/+ or a/#",
        ));
    }
    let limit = which.limit.unwrap_or(USUAL).clamp(1, MOST);
    // Messages are shared: under the lock only references are counted up.
    let (messages, next) = {
        let retained = port.shared.store.retained.lock().unwrap_or_else(PoisonError::into_inner);
        retained.page(which.filter.as_deref(), which.after.as_deref(), limit, unix_millis())
    };
    let next = next.map(String::from);
    let items = messages.iter().map(|message| report::Retained {
        topic: message.topic().into(),
        qos: message.qos as u8,
        bytes: message.payload().len() as u64,
        client_id: message.origin.as_ref().map(|origin| origin.client_id.to_string()),
        published: (message.received_at > 0).then(|| timestamp(message.received_at)),
        expires: message.expires_at.map(timestamp),
    });
    Ok(Json(Page { items: items.collect(), next }).into_response())
}

/// Which denies are meant.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WhichDenies {
    client: Option<String>,
    /// The number after which the page begins.
    after: Option<u64>,
    /// Only those of the last so many seconds.
    since: Option<u64>,
    limit: Option<usize>,
    /// Seconds to wait for one, if there is none.
    wait: Option<u64>,
}

async fn list_denies(State(port): State<Arc<Port>>, asked: Asked<WhichDenies>) -> Result<Response, Response> {
    let which = understood(asked)?;
    let wait = Duration::from_secs(which.wait.unwrap_or(0).min(LONGEST_WAIT));
    let until = tokio::time::Instant::now() + wait;
    loop {
        // Before the look, so that what comes in between is not missed.
        let mut denied = std::pin::pin!(port.shared.events.denied.notified());
        denied.as_mut().enable();
        let page = denies(&port.shared, &which);
        if !page.items.is_empty() {
            return Ok(Json(page).into_response());
        }
        tokio::select! {
            () = denied => {}
            () = tokio::time::sleep_until(until) => return Ok(Json(page).into_response()),
            () = port.shutdown.wait() => return Ok(Json(page).into_response()),
        }
    }
}

fn denies(shared: &Shared, which: &WhichDenies) -> report::Denies {
    let limit = which.limit.unwrap_or(USUAL).clamp(1, MOST);
    let earliest = which.since.map_or(0, |seconds| unix_millis().saturating_sub(seconds.saturating_mul(1000)));
    let (mut found, newest): (Vec<_>, u64) = {
        let denies = shared.events.denies.lock().unwrap_or_else(PoisonError::into_inner);
        let meant = |deny: &&Deny| {
            deny.at >= earliest && which.client.as_deref().is_none_or(|client| client == &*deny.client_id)
        };
        (denies.after(which.after.unwrap_or(0)).filter(meant).take(limit + 1).cloned().collect(), denies.newest())
    };
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().filter(|_| more).map_or(newest, |deny| deny.number);
    let items = found.into_iter().map(|deny| report::Deny {
        number: deny.number,
        time: timestamp(deny.at),
        client_id: deny.client_id.to_string(),
        principal: deny.principal.map(Into::into),
        method: deny.method.into(),
        key_id: deny.key_id.map(Into::into),
        address: deny.address,
        action: deny.action.name().into(),
        topic: deny.topic.into(),
        why: deny.why.into_owned(),
        reason: deny.reason.map(|reason| reason.name().into()),
        repeats: deny.repeats,
    });
    report::Denies { items: items.collect(), next: more.then(|| last.to_string()), last }
}

async fn list_keys(State(port): State<Arc<Port>>) -> Json<Page<report::Key>> {
    let keys = port.shared.policy.load().keys();
    let items = keys.into_iter().map(|(kid, algorithm)| report::Key { kid, algorithm: algorithm.name().into() });
    Json(Page { items: items.collect(), next: None })
}

/// The public keys that this broker's tokens are verified with, for whoever verifies them elsewhere: open, and without a
/// secret that is shared.
async fn jwks(State(port): State<Arc<Port>>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, "public, max-age=300")];
    (headers, port.shared.policy.load().public_jwks()).into_response()
}

async fn list_listeners(State(port): State<Arc<Port>>) -> Json<Page<report::Traffic>> {
    let gates = port.shared.gates.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let item = |gate: &Arc<Gate>| report::Traffic {
        name: gate.name.to_string(),
        address: gate.address,
        internal: gate.internal,
        connections: gate.connections.iter().map(|it| it.load(std::sync::atomic::Ordering::Relaxed)).sum(),
        connects: gate.connects.iter().map(super::counters::Count::get).sum(),
        refused: gate.refused.get(),
    };
    Json(Page { items: gates.iter().map(item).collect(), next: None })
}

/// How a client is kicked.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Kick {
    /// End the session too.
    forget: bool,
}

async fn kick(
    State(port): State<Arc<Port>>,
    client: Result<Path<String>, PathRejection>,
    asked: Asked<Kick>,
) -> Result<Response, Response> {
    let Path(client_id) = client.map_err(|rejection| {
        problem(StatusCode::BAD_REQUEST, rejection.body_text(), "write the client id percent-encoded, as UTF-8")
    })?;
    let Kick { forget } = understood(asked)?;
    match sessions::kick(&port.shared, &client_id, forget).await {
        Ok(kicked) => Ok(Json(kicked).into_response()),
        Err(NotKicked::NoSession) => Err(problem(
            StatusCode::NOT_FOUND,
            format!("no client {client_id:?} has a session here"),
            "GET /api/v1/sessions, or `mqttctl session list`, says who has",
        )),
        Err(NotKicked::Away) => Err(problem(
            StatusCode::CONFLICT,
            format!("client {client_id:?} is not connected"),
            "with ?forget=true, or `mqttctl session kick --forget`, its session is ended",
        )),
    }
}

/// How the broker is drained.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Drain {
    rate: Option<u32>,
}

/// Makes the broker unready, takes no more clients, and sends those away that are there. There is no way back but a
/// restart. The bridge stays: it has still to deliver what waits for it.
async fn drain(State(port): State<Arc<Port>>, asked: Asked<Drain>) -> Result<Response, Response> {
    let rate = understood(asked)?.rate.unwrap_or(DRAIN_RATE);
    if rate == 0 {
        return Err(problem(StatusCode::BAD_REQUEST, "rate: 0 would never end", "give clients a second, as ?rate=100"));
    }
    port.readiness.set(false);
    let shared = port.shared.clone();
    let connections = shared.counters.connections.load(std::sync::atomic::Ordering::Relaxed);
    if !shared.drain.is_triggered() {
        tracing::info!(connections, rate, "draining");
        shared.drain.trigger();
        let stop = port.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sessions::drain(&shared, rate) => {}
                () = stop.wait() => {}
            }
        });
    }
    Ok((StatusCode::ACCEPTED, Json(report::Draining { connections, rate })).into_response())
}

/// Reads keys, users and certificates now. What cannot be used changes nothing.
async fn reload(State(port): State<Arc<Port>>) -> Result<Json<report::Loaded>, Response> {
    let failed = |error| {
        let hint = "the last good documents stay in force; mend the document, then reload again";
        problem(StatusCode::UNPROCESSABLE_ENTITY, error, hint)
    };
    documents::reload(&port.documents, &port.shared).map_err(|error| failed(with_causes(&error)))?;
    for entrance in &port.shared.entrances {
        documents::look_at_certificates(entrance);
        if let Some(problem) = entrance.report().problem {
            return Err(failed(format!("listener {}: {problem}", entrance.name)));
        }
    }
    let policy = port.shared.policy.load();
    Ok(Json(report::Loaded { keys: policy.key_ids(), users: policy.user_names() }))
}
