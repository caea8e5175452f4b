//! `MqttUser`s: which of them are a broker's, their Secrets, and what their statuses say.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DeserializeGuard, DynamicObject, PartialObjectMeta};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};

use super::build::{self, MANAGER};
use super::error::Error;
use super::observe::{Observed, PodReport};
use super::passwords::Missing;
use super::status::conditions::{Verdict, dated, find};
use crate::api::{API_VERSION, MqttBroker, MqttUser, MqttUserStatus};
use crate::auth::password;
use crate::config::broker::Users;
use crate::plan::{NotAdded, Plan, UserPlan};
use crate::process::Shutdown;

/// How long pods are asked often whether they have loaded a user.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);
/// When a user is looked at again that could not be told that its broker is missing.
const RETRY: Duration = Duration::from_secs(10);

/// An object as it is stored.
pub type Guarded = DeserializeGuard<MqttUser>;

/// The Secrets of users who have objects of their own.
#[derive(Debug, Default)]
pub struct Secrets {
    pub owned: Vec<Secret>,
    /// Users whose Secret's name somebody else has, by the name of their object.
    pub taken: BTreeSet<String>,
}

/// The users of a broker.
#[derive(Debug, Default)]
pub struct Listed {
    pub users: Vec<MqttUser>,
    /// Those that cannot be understood, and those of which not even that can be told whose they are.
    pub malformed: Vec<Malformed>,
}

/// An object that the API server has admitted and that is no `MqttUser`.
#[derive(Debug)]
pub struct Malformed {
    pub metadata: ObjectMeta,
    pub status: MqttUserStatus,
    pub problem: String,
}

impl Malformed {
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}

/// Finds the users of a broker.
pub async fn list(client: &Client, namespace: &str, broker: &str) -> Result<Listed, Error> {
    let api: Api<Guarded> = Api::namespaced(client.clone(), namespace);
    let list = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        // The definition may be younger than this cluster's.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(source) => return Err(Error::read("MqttUser", source)),
    };
    let mut found = Listed::default();
    for item in list {
        match item.0 {
            Ok(user) if user.metadata.deletion_timestamp.is_some() => {}
            Ok(user) if user.spec.broker_ref.name == broker => found.users.push(user),
            Ok(_) => {}
            Err(invalid) if invalid.metadata.deletion_timestamp.is_some() => {}
            Err(invalid) => {
                let name = invalid.metadata.name.unwrap_or_default();
                found.malformed.extend(malformed(client, namespace, &name, broker, invalid.error).await?);
            }
        }
    }
    Ok(found)
}

/// Looks closer at an object that cannot be understood: whose it is may be told all the same.
async fn malformed(
    client: &Client,
    namespace: &str,
    name: &str,
    broker: &str,
    problem: String,
) -> Result<Option<Malformed>, Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<MqttUser>(&()));
    let Some(object) = api.get_opt(name).await.map_err(|source| Error::read("MqttUser", source))? else {
        return Ok(None);
    };
    let of = object.data.pointer("/spec/brokerRef/name").and_then(Value::as_str);
    if of.is_some_and(|of| of != broker) {
        return Ok(None);
    }
    let status = object.data.get("status").cloned().unwrap_or_default();
    let status = serde_json::from_value(status).unwrap_or_default();
    Ok(Some(Malformed { metadata: object.metadata, status, problem }))
}

/// Finds the Secrets that were published for users who have objects of their own: by their labels all at once, and those
/// that are not there by their names, so that one that somebody else has made is not overwritten.
pub async fn secrets(client: &Client, plan: &Plan) -> Result<Secrets, Error> {
    let mut secrets = Secrets::default();
    if plan.users.iter().all(|user| user.object.is_none()) {
        return Ok(secrets);
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), &plan.namespace);
    let labels = ListParams::default().labels(&build::selector_text(&build::labels(plan)));
    let listed = api.list(&labels).await.map_err(|source| Error::read("Secret", source))?.items;
    let mut listed: HashMap<String, Secret> =
        listed.into_iter().filter_map(|secret| Some((secret.metadata.name.clone()?, secret))).collect();
    for user in &plan.users {
        let Some(object) = &user.object else { continue };
        let found = match listed.remove(&user.secret_name) {
            Some(found) => Some(found),
            None => api.get_opt(&user.secret_name).await.map_err(|source| Error::read("Secret", source))?,
        };
        let Some(secret) = found else { continue };
        let mut owners = secret.metadata.owner_references.iter().flatten();
        if owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == object.uid.as_ref()) {
            secrets.owned.push(secret);
        } else {
            secrets.taken.insert(object.name.clone());
        }
    }
    Ok(secrets)
}

/// What statuses of users are made from.
#[derive(Debug)]
pub struct Facts<'a> {
    pub plan: &'a Plan,
    pub observed: &'a Observed,
    pub not_added: &'a [NotAdded],
    pub missing: &'a [Missing],
    /// What brokers are given.
    pub hashes: &'a Users,
    pub now: Timestamp,
}

/// Writes the statuses of a broker's users, where they say something new. Answers whether something is still to come that
/// only the pods can tell.
pub async fn tell(client: &Client, listed: &Listed, facts: &Facts<'_>) -> Result<bool, Error> {
    let namespace = &facts.plan.namespace;
    for Malformed { metadata, status: before, problem } in &listed.malformed {
        let verdict = Verdict::no("InvalidSpec", problem.clone());
        let status = ready(verdict, before, metadata, facts.now);
        if status != *before {
            publish(client, namespace, metadata, &status).await?;
        }
    }
    let statuses = statuses(&listed.users, facts);
    for (user, status) in statuses.iter().filter(|(user, status)| user.status.as_ref() != Some(status)) {
        publish(client, namespace, &user.metadata, status).await?;
    }
    Ok(statuses.iter().any(|(_, status)| is_loading(status, facts.now)))
}

fn statuses<'a>(users: &'a [MqttUser], facts: &Facts<'_>) -> Vec<(&'a MqttUser, MqttUserStatus)> {
    let status = |user: &'a MqttUser| {
        let name = user.metadata.name.as_deref().unwrap_or_default();
        let planned = facts.plan.users.iter().find(|it| it.object.as_ref().is_some_and(|it| it.name == name));
        let before = user.status.clone().unwrap_or_default();
        let verdict = verdict(name, planned, &before, facts);
        let status = MqttUserStatus {
            username: Some(user.username().to_owned()),
            secret_name: planned.map(|it| it.secret_name.clone()).or_else(|| before.secret_name.clone()),
            ..ready(verdict, &before, &user.metadata, facts.now)
        };
        (user, status)
    };
    users.iter().map(status).collect()
}

fn is_loading(status: &MqttUserStatus, now: Timestamp) -> bool {
    let ready = find(&status.conditions, "Ready").filter(|it| it.reason == "Loading");
    let since = ready.and_then(|it| it.last_transition_time.parse::<Timestamp>().ok());
    since.is_some_and(|since| now.duration_since(since) < PATIENCE)
}

fn ready(verdict: Verdict, before: &MqttUserStatus, metadata: &ObjectMeta, now: Timestamp) -> MqttUserStatus {
    MqttUserStatus {
        conditions: vec![dated("Ready", verdict, &before.conditions, metadata.generation, now)],
        observed_generation: metadata.generation,
        ..before.clone()
    }
}

fn verdict(name: &str, planned: Option<&UserPlan>, before: &MqttUserStatus, facts: &Facts<'_>) -> Verdict {
    if let Some(refused) = facts.not_added.iter().find(|it| it.object == name) {
        return Verdict::no(refused.reason, refused.message.clone());
    }
    let Some(planned) = planned else { return Verdict::no("InvalidSpec", "the user could not be added") };
    if let Some(missing) = facts.missing.iter().find(|it| it.object.as_deref() == Some(name)) {
        let reason = if missing.field.is_empty() { "NameTaken" } else { "SecretMissing" };
        let field = if missing.field.is_empty() { String::new() } else { format!("{}: ", missing.field) };
        return Verdict::no(reason, format!("{field}{}", missing.message));
    }
    let broker = &facts.plan.name;
    let Some(hash) = facts.hashes.users.iter().find(|it| it.name == planned.name) else {
        return Verdict::no("Loading", format!("MqttBroker {broker} does not have the user yet"));
    };
    let digest = password::digest(&hash.hash);
    let serving: Vec<&PodReport> = facts.observed.pods.iter().filter(|pod| pod.is_ready()).collect();
    if serving.is_empty() {
        return Verdict::no("BrokerNotReady", format!("no pod of MqttBroker {broker} serves MQTT"));
    }
    let loaded = format!("MqttBroker {broker} lets the user in");
    let mut unknown = false;
    for pod in serving {
        match pod.broker.as_ref().map(|report| report.passwords.get(&planned.name)) {
            None => unknown = true,
            Some(known) if known == Some(&digest) => {}
            Some(_) => return Verdict::no("Loading", format!("{} did not load the user's password yet", pod.name())),
        }
    }
    let said_so = find(&before.conditions, "Ready").is_some_and(|it| it.reason == "Loaded" && it.message == loaded);
    if unknown && !said_so {
        return Verdict::unknown("NotReported", format!("a pod of MqttBroker {broker} cannot be asked"));
    }
    Verdict::yes("Loaded", loaded)
}

async fn publish(
    client: &Client,
    namespace: &str,
    metadata: &ObjectMeta,
    status: &MqttUserStatus,
) -> Result<(), Error> {
    let api: Api<Guarded> = Api::namespaced(client.clone(), namespace);
    let name = metadata.name.as_deref().unwrap_or_default();
    let patch = Patch::Apply(json!({
        "apiVersion": API_VERSION, "kind": MqttUser::kind(&()),
        "metadata": {"name": name, "namespace": namespace, "uid": metadata.uid}, "status": status,
    }));
    match api.patch_status(name, &PatchParams::apply(MANAGER).force(), &patch).await {
        Ok(_) => Ok(()),
        // Gone meanwhile, or another one by now.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(source) => Err(Error::apply("MqttUser", name, source)),
    }
}

/// Tells users so whose broker is not there, until shutdown: of a broker that is not there nobody makes a pass.
pub async fn watch_orphans(
    client: Client,
    users: Api<Guarded>,
    brokers: Api<PartialObjectMeta<MqttBroker>>,
    homes: Arc<Homes>,
    shutdown: Shutdown,
) {
    let concerned = homes.clone();
    let run = Controller::new(users, watcher::Config::default())
        .watches(brokers, watcher::Config::default(), move |broker| {
            let namespace = broker.namespace().unwrap_or_default();
            let users = concerned.of(&namespace, &broker.name_any());
            users.into_iter().map(move |name| ObjectRef::new(&name).within(&namespace)).collect::<Vec<_>>()
        })
        .graceful_shutdown_on(async move { shutdown.wait().await })
        .run(
            async |user: Arc<Guarded>, client: Arc<Client>| {
                if let Ok(user) = &user.0 {
                    tell_orphan(&client, user).await?;
                }
                Ok(Action::await_change())
            },
            |_, error: &Error, _| {
                tracing::warn!(%error, "a MqttUser will be looked at again");
                Action::requeue(RETRY)
            },
            Arc::new(client),
        );
    run.for_each(|_| async {}).await;
}

async fn tell_orphan(client: &Client, user: &MqttUser) -> Result<(), Error> {
    let namespace = user.metadata.namespace.as_deref().unwrap_or_default();
    let broker = &user.spec.broker_ref.name;
    let api: Api<MqttBroker> = Api::namespaced(client.clone(), namespace);
    match api.get_metadata_opt(broker).await {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => {}
        // A name that cannot be one is missing like any other.
        Err(kube::Error::Api(status)) if status.code == 400 || status.code == 422 => {}
        Err(source) => return Err(Error::read("MqttBroker", source)),
    }
    let before = user.status.clone().unwrap_or_default();
    let verdict = Verdict::no("BrokerMissing", format!("there is no MqttBroker {broker} in namespace {namespace}"));
    let status = ready(verdict, &before, &user.metadata, Timestamp::now());
    let status = MqttUserStatus { username: Some(user.username().to_owned()), ..status };
    if user.status.as_ref() == Some(&status) {
        return Ok(());
    }
    publish(client, namespace, &user.metadata, &status).await
}

/// Which broker each user named last, so that one that moves is taken from the broker that it leaves, too.
#[derive(Debug, Default)]
pub struct Homes(Mutex<HashMap<(String, String), String>>);

impl Homes {
    /// The brokers that a changed user concerns.
    pub fn concerned(&self, user: &Guarded) -> BTreeSet<String> {
        let metadata = user.meta();
        let key = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
        let now = user.0.as_ref().ok().map(|user| user.spec.broker_ref.name.clone());
        let mut homes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &now {
            Some(now) => homes.insert(key, now.clone()),
            None => homes.remove(&key),
        };
        now.into_iter().chain(before).collect()
    }

    /// The users who name a broker.
    fn of(&self, namespace: &str, broker: &str) -> Vec<String> {
        let homes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = homes.iter().filter(|((place, _), home)| place == namespace && *home == broker);
        ours.map(|((_, user), _)| user.clone()).collect()
    }
}

/// What is missing of users with objects of their own, and what is missing of the broker itself.
pub fn apart(missing: Vec<Missing>) -> (Vec<Missing>, Vec<Missing>) {
    missing.into_iter().partition(|it| it.object.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_moves_concerns_the_broker_that_it_leaves_too() {
        let homes = Homes::default();
        let user = |broker: &str| -> Guarded {
            serde_json::from_value(json!({
                "apiVersion": API_VERSION, "kind": "MqttUser", "metadata": {"name": "u", "namespace": "shop"},
                "spec": {"brokerRef": {"name": broker}, "generate": true, "acl": []},
            }))
            .unwrap()
        };
        let of = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(homes.concerned(&user("a")), of(&["a"]));
        assert_eq!(homes.concerned(&user("b")), of(&["a", "b"]));
        assert_eq!(homes.concerned(&user("b")), of(&["b"]));
        assert_eq!((homes.of("shop", "a").len(), homes.of("shop", "b")), (0, vec!["u".to_owned()]));
    }
}
