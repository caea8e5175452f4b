//! The Secret with the tokens that are taken back. People write it; the operator makes it go with its object, and takes
//! out what refuses nothing any more.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Map, Value, json};

use super::build;
use super::error::Error;
use crate::api::MqttBroker;
use crate::auth::revocations::{Entry, Revocations, parse_time};
use crate::auth::rotation::Keys;
use crate::plan::Plan;

/// Brings the Secret to where it should be, if it is there. `now` is Unix time in seconds.
pub async fn keep(
    client: &Client,
    object: &MqttBroker,
    plan: &Plan,
    keys: Option<&Keys>,
    secret: Option<&Secret>,
    now: u64,
) -> Result<(), Error> {
    let Some(secret) = secret else { return Ok(()) };
    let Some(change) = change(object, plan, secret, longest(plan, keys), now) else { return Ok(()) };
    let name = secret.name_any();
    let api: Api<Secret> = Api::namespaced(client.clone(), &plan.namespace);
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(change)).await {
        Ok(_) => tracing::info!(name, "kept"),
        // Somebody writes an entry, which brings the next pass; or it is gone.
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
        Err(source) => return Err(Error::apply("Secret", &name, source)),
    }
    Ok(())
}

/// Seconds that the longest token lives that any broker of the object accepted while its keys were in use.
fn longest(plan: &Plan, keys: Option<&Keys>) -> u64 {
    let records = keys.into_iter().flat_map(|keys| &keys.states.keys);
    let foreign = plan.broker.auth.issuers.iter().map(|issuer| issuer.max_token_ttl);
    records.map(|record| record.longest).chain(foreign).chain([plan.keys.max_token_ttl]).max().unwrap_or(u64::MAX)
}

fn change(object: &MqttBroker, plan: &Plan, secret: &Secret, longest: u64, now: u64) -> Option<Value> {
    let mut metadata = Map::new();
    let owners = secret.owner_references();
    let controller = owners.iter().find(|owner| owner.controller == Some(true));
    // What is somebody else's is left alone.
    if controller.is_some_and(|owner| Some(&owner.uid) != object.metadata.uid.as_ref()) {
        return None;
    }
    if controller.is_none() {
        let owners: Vec<_> = owners.iter().cloned().chain([build::owner(object)]).collect();
        metadata.insert("ownerReferences".into(), json!(owners));
        metadata.insert("labels".into(), json!(build::labels(plan)));
    }
    let entries = secret.data.iter().flatten();
    let over = entries.filter(|(name, content)| {
        let over_at = |entry: Entry| parse_time(name, &content.0).ok().map(|time| entry.over_at(time, longest));
        Entry::parse(name).ok().and_then(over_at).is_some_and(|at| now >= at)
    });
    let over: Map<String, Value> = over.map(|(name, _)| (name.clone(), Value::Null)).collect();
    if metadata.is_empty() && over.is_empty() {
        return None;
    }
    // The version makes the API server refuse when somebody has made an entry longer meanwhile.
    metadata.insert("resourceVersion".into(), json!(secret.resource_version()));
    Some(json!({"metadata": metadata, "data": over}))
}

/// Why brokers cannot use the entries, and go on with those from before.
pub fn problem(secret: &Secret) -> Option<String> {
    let entries = secret.data.iter().flatten().map(|(name, content)| (name.as_str(), content.0.as_slice()));
    Revocations::parse(entries).err().map(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use kube::api::ObjectMeta;

    use super::*;

    fn secret(entries: &[(&str, &str)], owned: bool) -> Secret {
        let data = entries.iter().map(|(name, text)| ((*name).to_owned(), ByteString(text.as_bytes().to_vec())));
        let metadata = ObjectMeta {
            name: Some("home-revocations".into()),
            resource_version: Some("7".into()),
            owner_references: owned.then(|| vec![build::owner(&object())]),
            ..ObjectMeta::default()
        };
        Secret { metadata, data: Some(data.collect()), ..Secret::default() }
    }

    fn object() -> MqttBroker {
        let mut object = MqttBroker::new("home", serde_saphyr::from_str("{}").unwrap());
        object.metadata.uid = Some("u".into());
        object
    }

    fn changed(secret: &Secret, now: u64) -> Option<Value> {
        let plan = crate::plan::plan(&object()).unwrap();
        change(&object(), &plan, secret, 1000, now)
    }

    #[test]
    fn what_refuses_nothing_any_more_is_taken_out() {
        let secret =
            secret(&[("jti.a", "500"), ("jti.b", "5000"), ("sub.d", "500"), ("before", "10"), ("x", "1")], true);
        assert_eq!(changed(&secret, 500), None);
        let change = changed(&secret, 1100).unwrap();
        assert_eq!(change["data"], json!({"jti.a": null, "before": null}));
        assert_eq!(change["metadata"], json!({"resourceVersion": "7"}));
        assert!(problem(&secret).unwrap().contains("\"x\""));
    }

    #[test]
    fn a_secret_that_somebody_made_by_hand_goes_with_the_object() {
        let change = changed(&secret(&[("jti.b", "5000")], false), 5).unwrap();
        assert_eq!(change["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(change["metadata"]["labels"]["app.kubernetes.io/instance"], "home");
        assert_eq!(change["data"], json!({}));
        assert_eq!(changed(&secret(&[("jti.b", "5000")], true), 5), None);
        let mut theirs = secret(&[("jti.b", "5")], true);
        theirs.owner_references_mut()[0].uid = "other".into();
        assert_eq!(changed(&theirs, 5000), None, "it is left alone");
    }
}
