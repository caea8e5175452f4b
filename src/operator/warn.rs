//! Events that stand for themselves. The recorder merges what has the same reason into the first of it, whatever it says:
//! right for a condition that comes again, wrong for clients that are each denied something else.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};

use super::build::MANAGER;
use super::denies::Note;

/// Writes the notes as warnings about the object. One that is lost is no reason to fail.
pub async fn warn(client: &Client, about: &ObjectReference, notes: Vec<Note>, now: Timestamp) {
    let namespace = about.namespace.clone().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    for (n, note) in notes.into_iter().enumerate() {
        let event = event(about, note, n, now);
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            tracing::warn!(namespace, name = about.name, %error, "an event could not be published");
        }
    }
}

fn event(about: &ObjectReference, note: Note, n: usize, now: Timestamp) -> Event {
    let name = about.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            namespace: about.namespace.clone(),
            name: Some(format!("{name}.{:x}.{n}", now.as_nanosecond())),
            ..ObjectMeta::default()
        },
        action: Some("Authorize".into()),
        reason: Some(note.reason.into()),
        note: Some(note.text),
        type_: Some("Warning".into()),
        event_time: Some(MicroTime(now)),
        regarding: Some(about.clone()),
        reporting_controller: Some(MANAGER.into()),
        reporting_instance: Some(std::env::var("POD_NAME").unwrap_or_else(|_| MANAGER.into())),
        ..Event::default()
    }
}
