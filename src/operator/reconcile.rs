//! The loop, and what sets it off.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::Semaphore;

use super::apply::{self, Applied};
use super::ask::Asker;
use super::audit;
use super::build::{self, BROKER_CONTAINER, Ingredients, MANAGER, SPEC_HASH};
use super::denies::Told;
use super::error::Error;
use super::issuers::{self, Discovery};
use super::keys::{self, Advanced};
use super::metrics::Metrics;
use super::observe::{self, Observed, PodReport, Stored};
use super::passwords;
use super::random;
use super::references::References;
use super::revocations;
use super::status::{self, Facts};
use super::users::{self, Homes};
use super::warn;
use crate::api::{API_VERSION, MqttBroker, MqttBrokerStatus};
use crate::auth::BRIDGE_USER;
use crate::auth::rotation::Keys;
use crate::config::broker::Users;
use crate::plan::{self, Invalid, Plan};
use crate::process::Shutdown;

/// Objects that are looked at at the same time.
const CONCURRENCY: u16 = 16;
/// Events of children come in bursts; one look at the end of a burst is enough.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How often pods are asked while something is awaited, for how long that goes on, and how often otherwise.
const AWAITED: Duration = Duration::from_secs(2);
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);
const STEADY: Duration = Duration::from_secs(30);
/// How often an object is looked at of which nothing but its watches can bring news.
const QUIET: Duration = Duration::from_mins(5);
/// The first and the longest wait after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_mins(5);

/// How long passes that are under way at shutdown may take.
const GRACE: Duration = Duration::from_secs(2);

type Guarded = DeserializeGuard<MqttBroker>;

/// What all passes share.
pub(super) struct Context {
    client: Client,
    asker: Asker,
    discovery: Discovery,
    recorder: Recorder,
    image: String,
    references: References,
    homes: Arc<Homes>,
    failures: Mutex<HashMap<ObjectRef<Guarded>, u32>>,
    hashing: Semaphore,
    /// What was told about denies, by namespace and name.
    denies: Mutex<HashMap<(String, String), Told>>,
    metrics: Metrics,
    /// What the audit log was told.
    told: audit::Told,
}

/// One pass over one object: the whole of what the operator does.
async fn pass(context: &Context, object: &MqttBroker) -> Result<Action, Error> {
    let now = Timestamp::now();
    let mut plan = match plan::plan(object) {
        Ok(plan) => plan,
        Err(invalid) => return refuse(context, object, &invalid, now).await,
    };
    let user_objects = users::list(&context.client, &plan.namespace, &plan.name).await?;
    let not_added = plan.add_users(&user_objects.users);
    context.references.set(&plan.namespace, &plan.name, secrets_of_interest(&plan));
    let observed = Box::pin(observe::observe(&context.client, &context.asker, object, &plan, now)).await?;
    let keys = keys::advance(&plan, &observed, u64::try_from(now.as_second()).unwrap_or_default(), random::bytes)?;
    let (found, missing) = passwords::find(&plan, &observed, random::password);
    let (missing_of_users, mut missing) = users::apart(missing);
    missing.extend(passwords::missing_certificates(&plan, &observed));
    let (issuers, without_keys) = issuers::find(&context.client, &context.discovery, &plan, &observed).await;
    missing.extend(without_keys);
    let (applied, hashes) = if plan.paused {
        (Applied::nothing(&observed), passwords::published(&plan, &observed))
    } else {
        let (keys, secret) = (keys.as_ref().ok().map(|it| &it.keys), observed.revocations.as_ref());
        let second = u64::try_from(now.as_second()).unwrap_or_default();
        revocations::keep(&context.client, object, &plan, keys, secret, second).await?;
        apply(context, object, &plan, &observed, keys, found, &issuers).await?
    };
    context.metrics.keys(&plan.namespace, &plan.name, keys.as_ref().ok().map(|it| &it.keys.states));
    context.told.revocations(&plan, observed.revocations.as_ref());
    for step in keys.iter().flat_map(|it| &it.steps) {
        audit::key(&plan, step);
        let (reason, message) = keys::event(step);
        announce(context, &object.metadata, reason.to_owned(), message).await;
    }
    let facts = users::Facts {
        plan: &plan,
        observed: &observed,
        not_added: &not_added,
        missing: &missing_of_users,
        hashes: &hashes,
        now,
    };
    let are_loading = users::tell(&context.client, &user_objects, &facts).await?;
    let facts = Facts {
        object,
        plan: &plan,
        observed: &observed,
        applied: &applied,
        keys: keys.as_ref().map_err(String::as_str),
        missing: &missing,
        malformed: &user_objects.malformed,
        now,
    };
    let status = status::status(&facts);
    let next = next_look(&status, &observed, now);
    let next = if are_loading { next.min(AWAITED) } else { next };
    let next = keys.ok().and_then(|keys| until_due(&keys, now)).map_or(next, |due| due.min(next));
    publish(context, object, status).await?;
    tell_denies(context, object, &plan, &observed, now).await;
    Ok(Action::requeue(next))
}

/// Brings the children to where they should be. Users' Secrets come first, because hashes say which version of a Secret
/// they are of.
async fn apply(
    context: &Context,
    object: &MqttBroker,
    plan: &Plan,
    observed: &Observed,
    keys: Option<&Keys>,
    found: Vec<passwords::UserPassword<'_>>,
    issuers: &issuers::Documents,
) -> Result<(Applied, Users), Error> {
    if let Some(taken) = observed.children.foreign.first() {
        return Err(Error::NameTaken(taken.clone()));
    }
    // Where a password is missing, what was published before stays as it is.
    let known = found.iter().filter(|it| !matches!(it.known, passwords::Known::Nothing));
    let secrets: Vec<Secret> = known.map(|it| build::user_secret(object, plan, it.user, it.known.password())).collect();
    let there = [observed.children.secrets.as_slice(), &observed.user_secrets.owned].concat();
    let mut published = apply::apply_each(&context.client, &secrets, &there).await?;
    let unknown = found.iter().filter(|it| matches!(it.known, passwords::Known::Nothing));
    published.extend(unknown.filter_map(|it| observed.secret(&it.user.secret_name)).cloned());
    let hashes = passwords::hash(found, observed, &published, plan, &context.hashing, random::bytes::<16>).await?;
    let ingredients = Ingredients {
        keys,
        issuers,
        hashes: &hashes,
        bridge_password: &bridge_password(plan, observed),
        user_secrets: published,
        image: &image(context, object, plan, observed),
    };
    let resources = build::build(object, plan, ingredients);
    Ok((apply::apply(&context.client, plan, &resources, observed).await?, hashes))
}

/// Tells in Events what the pods have denied since the last pass.
async fn tell_denies(context: &Context, object: &MqttBroker, plan: &Plan, observed: &Observed, time: Timestamp) {
    let now = u64::try_from(time.as_second()).unwrap_or_default();
    let Some(keys) = observed.secret(&plan.names.jwt) else { return };
    let place = (plan.namespace.clone(), plan.name.clone());
    // No two passes over one object run at the same time.
    let mut told = context.denies().remove(&place).unwrap_or_default();
    let uid = |pod: &PodReport| pod.pod.metadata.uid.clone().unwrap_or_default();
    let uids: Vec<String> = observed.pods.iter().map(uid).collect();
    told.keep(&uids.iter().map(String::as_str).collect::<Vec<_>>());
    for (pod, uid) in observed.pods.iter().zip(&uids) {
        let newest = pod.broker.as_ref().map_or(0, |report| report.last_deny);
        let Some(after) = told.after(uid, newest) else { continue };
        if let Some(denies) = context.asker.denies(plan, keys, &pod.pod, after, now).await {
            told.take(uid, denies.items, denies.last);
        }
    }
    let notes = told.say(&format!("-n {} -b {}", plan.namespace, plan.name), now);
    warn::warn(&context.client, &reference(&object.metadata), notes, time).await;
    context.denies().insert(place, told);
}

fn bridge_password(plan: &Plan, observed: &Observed) -> String {
    let stored =
        observed.secret(&plan.names.bridge).and_then(|secret| passwords::value(secret, build::BRIDGE_PASSWORD));
    let stored = stored.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|text| !text.is_empty());
    stored.unwrap_or_else(|| {
        if plan.bridge.is_some() {
            audit::password(plan, BRIDGE_USER);
        }
        random::password()
    })
}

/// The image that the object asks for, else the one in use as long as the spec stays as it is: a new operator alone does
/// not restart brokers.
fn image(context: &Context, object: &MqttBroker, plan: &Plan, observed: &Observed) -> String {
    let in_use = || {
        let set = observed.stateful_set()?;
        let built_from = set.annotations().get(SPEC_HASH)?;
        let pod = set.spec.template.spec.as_ref()?;
        let broker = pod.containers.iter().find(|container| container.name == BROKER_CONTAINER)?;
        if *built_from == build::hash(&object.spec) { broker.image.clone() } else { None }
    };
    plan.image.clone().or_else(in_use).unwrap_or_else(|| context.image.clone())
}

/// The Secrets whose change concerns the object: those that it refers to, and those that are made for it.
fn secrets_of_interest(plan: &Plan) -> BTreeSet<String> {
    let names = &plan.names;
    let ours =
        [&names.jwt, &names.jwks, &names.users, &names.bridge, &names.revocations].into_iter().map(String::as_str);
    let users = plan.users.iter().map(|user| user.secret_name.as_str());
    plan.referenced_secrets().into_iter().chain(ours).chain(users).map(str::to_owned).collect()
}

/// When to look again if nothing happens before.
fn next_look(status: &MqttBrokerStatus, observed: &Observed, now: Timestamp) -> Duration {
    let awaited = ["Ready", "KeysReady", "KeysCurrent", "AccessReady", "TelemetryReady"].iter().any(|type_| {
        let condition = status::find(&status.conditions, type_);
        let open = condition.filter(|_| !status::is_true(&status.conditions, type_));
        let since = open.and_then(|condition| condition.last_transition_time.parse::<Timestamp>().ok());
        since.is_some_and(|since| now.duration_since(since) < PATIENCE)
    });
    if awaited && !observed.pods.is_empty() {
        return AWAITED;
    }
    // Pods have denies to tell.
    let quiet = observed.pods.is_empty() && status::is_true(&status.conditions, "Ready");
    (if quiet { QUIET } else { STEADY }).mul_f64(random::jitter())
}

/// How long it is until time alone makes a step of the keys due, and a second more.
fn until_due(keys: &Advanced, now: Timestamp) -> Option<Duration> {
    let due = i64::try_from(keys.due?).ok()?;
    Some(Duration::from_secs(u64::try_from(due - now.as_second()).unwrap_or_default() + 1))
}

/// An object that asks for what cannot be: its status says so, and nothing happens until it changes.
async fn refuse(context: &Context, object: &MqttBroker, invalid: &Invalid, now: Timestamp) -> Result<Action, Error> {
    let before = object.status.clone().unwrap_or_default();
    let status = status::invalid(&before, object.metadata.generation, invalid, now);
    publish(context, object, status).await?;
    Ok(Action::await_change())
}

async fn publish(context: &Context, object: &MqttBroker, status: MqttBrokerStatus) -> Result<(), Error> {
    write_status(context, &object.metadata, object.status.as_ref(), &status).await
}

/// Writes the status if it says something new, with an event when that is about `Ready`.
async fn write_status(
    context: &Context,
    metadata: &ObjectMeta,
    before: Option<&MqttBrokerStatus>,
    after: &MqttBrokerStatus,
) -> Result<(), Error> {
    if before == Some(after) {
        return Ok(());
    }
    let (namespace, name) = place(metadata);
    let api: Api<Guarded> = Api::namespaced(context.client.clone(), namespace);
    let kind = MqttBroker::kind(&());
    let patch = Patch::Apply(json!({
        "apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "status": after,
    }));
    match api.patch_status(name, &PatchParams::apply(MANAGER).force(), &patch).await {
        Ok(_) => context.metrics.status_written(),
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(source) => return Err(Error::apply(kind, name, source)),
    }
    let ready = |status: &MqttBrokerStatus| {
        status::find(&status.conditions, "Ready").map(|it| (it.status, it.reason.clone(), it.message.clone()))
    };
    let (was, is) = (before.and_then(ready), ready(after));
    if let Some((_, reason, message)) = is
        && was.as_ref().map(|(_, reason, _)| reason) != Some(&reason)
    {
        announce(context, metadata, reason, message).await;
    }
    Ok(())
}

/// Tells the people who look at the object. An event that is lost is no reason to fail.
async fn announce(context: &Context, metadata: &ObjectMeta, reason: String, message: String) {
    let trouble = [
        "InvalidSpec",
        "SecretMissing",
        "CertificateUnusable",
        "NameTaken",
        "ApplyFailed",
        "Unreadable",
        keys::COMPROMISED,
    ];
    let event = Event {
        type_: if trouble.contains(&reason.as_str()) { EventType::Warning } else { EventType::Normal },
        reason,
        note: Some(message),
        action: "Reconcile".into(),
        secondary: None,
    };
    let (namespace, name) = place(metadata);
    if let Err(error) = context.recorder.publish(&event, &reference(metadata)).await {
        tracing::warn!(namespace, name, %error, "an event could not be published");
    }
}

fn reference(metadata: &ObjectMeta) -> ObjectReference {
    let (namespace, name) = place(metadata);
    let reference = ObjectRef::<MqttBroker>::new(name).within(namespace).into();
    ObjectReference { uid: metadata.uid.clone(), ..reference }
}

fn place(metadata: &ObjectMeta) -> (&str, &str) {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// A pass over the object of this name as it is stored now, whatever it is.
async fn look(context: &Context, namespace: &str, name: &str) -> Result<Action, Error> {
    match observe::object(&context.client, namespace, name).await? {
        None => {
            context.references.forget(namespace, name);
            context.metrics.keys(namespace, name, None);
            context.denies().remove(&(namespace.to_owned(), name.to_owned()));
            Ok(Action::await_change())
        }
        Some(Stored::Malformed { metadata, status: before, message }) => {
            let invalid = Invalid { field: "spec".into(), message };
            let after = status::invalid(&before, metadata.generation, &invalid, Timestamp::now());
            write_status(context, &metadata, Some(&before), &after).await?;
            Ok(Action::await_change())
        }
        // Its children have it as their owner; nothing else is to be undone.
        Some(Stored::Good(object)) if object.metadata.deletion_timestamp.is_some() => Ok(Action::await_change()),
        Some(Stored::Good(object)) => {
            let result = Box::pin(pass(context, &object)).await;
            if let Err(error) = &result {
                let before = object.status.clone().unwrap_or_default();
                let status = status::failed(&before, object.metadata.generation, error, Timestamp::now());
                if let Some(status) = status {
                    publish(context, &object, status).await?;
                }
            }
            result
        }
    }
}

async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = look(&context, &object.namespace().unwrap_or_default(), &object.name_any()).await;
    context.metrics.reconciled(result.is_ok(), started.elapsed());
    if result.is_ok() {
        context.failures().remove(&ObjectRef::from_obj(object.as_ref()));
    }
    result
}

/// Waits twice as long after each failure of the same object, with jitter.
// The signature is the controller's.
#[allow(clippy::needless_pass_by_value)]
fn after_failure(object: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    let mut failures = context.failures();
    let count = failures.entry(ObjectRef::from_obj(object.as_ref())).or_default();
    let wait = FIRST_RETRY.saturating_mul(1 << (*count).min(12)).min(LAST_RETRY).mul_f64(random::jitter());
    *count = count.saturating_add(1);
    tracing::warn!(namespace = object.namespace(), name = object.name_any(), %error, ?wait, "will be tried again");
    Action::requeue(wait)
}

impl Context {
    pub(super) fn new(client: Client, image: String, metrics: Metrics) -> Self {
        let instance = std::env::var("POD_NAME").ok();
        let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.into(), instance });
        Self {
            client,
            asker: Asker::default(),
            discovery: Discovery::default(),
            recorder,
            image,
            references: References::default(),
            homes: Arc::default(),
            failures: Mutex::default(),
            hashing: Semaphore::new(1),
            denies: Mutex::default(),
            metrics,
            told: audit::Told::default(),
        }
    }

    fn denies(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Told>> {
        self.denies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectRef<Guarded>, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after all objects of these namespaces, or of all, until `shutdown`.
pub(super) async fn run(context: Arc<Context>, namespaces: &[String], shutdown: Shutdown) {
    let scopes: Vec<Option<&str>> =
        if namespaces.is_empty() { vec![None] } else { namespaces.iter().map(|name| Some(name.as_str())).collect() };
    let controls = scopes.into_iter().map(|scope| control(context.clone(), scope, shutdown.clone()));
    tokio::select! {
        _ = futures::future::join_all(controls) => {}
        // A controller whose first list was cut off by the shutdown would wait for it for ever.
        () = async { shutdown.wait().await; tokio::time::sleep(GRACE).await } => {}
    }
}

async fn control(context: Arc<Context>, namespace: Option<&str>, shutdown: Shutdown) {
    let client = context.client.clone();
    let everything = watcher::Config::default();
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"));
    let orphans = users::watch_orphans(
        client.clone(),
        scope(&client, namespace),
        scope(&client, namespace),
        context.homes.clone(),
        shutdown.clone(),
    );
    let (references, homes) = (context.clone(), context.homes.clone());
    // Only metadata of children and Secrets is watched: the operator keeps no copy of anybody's Secrets.
    let objects = Controller::new(scope::<Guarded>(&client, namespace), everything.clone())
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .owns(scope::<PartialObjectMeta<StatefulSet>>(&client, namespace), ours.clone())
        .owns(scope::<PartialObjectMeta<Service>>(&client, namespace), ours.clone())
        .owns(scope::<PartialObjectMeta<ConfigMap>>(&client, namespace), ours)
        .watches(scope::<users::Guarded>(&client, namespace), everything.clone(), move |user| {
            let namespace = user.namespace().unwrap_or_default();
            let brokers = homes.concerned(&user);
            brokers.into_iter().map(move |name| ObjectRef::new(&name).within(&namespace)).collect::<Vec<_>>()
        })
        .watches(scope::<PartialObjectMeta<Secret>>(&client, namespace), everything, move |secret| {
            let namespace = secret.namespace().unwrap_or_default();
            let objects = references.references.of(&namespace, &secret.name_any());
            objects.into_iter().map(move |name| ObjectRef::new(&name).within(&namespace)).collect::<Vec<_>>()
        })
        .graceful_shutdown_on(async move { shutdown.wait().await })
        .run(reconcile, after_failure, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "controller");
            }
        });
    tokio::join!(objects, orphans);
}

fn scope<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
