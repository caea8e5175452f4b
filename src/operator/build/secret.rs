//! The Secrets of a broker.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::Ingredients;
use crate::api::MqttBroker;
use crate::plan::{Plan, UserPlan};

/// In the Secret that no pod mounts: the private keys, and where each is in its life.
pub const KEYS: &str = "keys.json";
pub const STATE: &str = "state.json";
/// The public keys.
pub const JWKS: &str = "jwks.json";
/// The password hashes.
pub const USERS: &str = "users.json";
/// The bridge's password.
pub const BRIDGE_PASSWORD: &str = "password";
/// A user's password, in the Secret that it is published in.
pub const PASSWORD: &str = "password";

/// Those that the broker itself needs.
pub fn of_broker(object: &MqttBroker, plan: &Plan, ingredients: &Ingredients<'_>) -> Vec<Secret> {
    let mut secrets = Vec::new();
    if let Some(keys) = ingredients.keys {
        let state = json(&keys.states);
        secrets.push(opaque(object, plan, &plan.names.jwt, [(KEYS, keys.private.to_json()), (STATE, state)]));
        let mut public = opaque(object, plan, &plan.names.jwks, [(JWKS, keys.private.public())]);
        let others = ingredients.issuers.iter().map(|(name, document)| (name.clone(), ByteString(document.clone())));
        public.data.get_or_insert_default().extend(others);
        secrets.push(public);
    }
    secrets.push(opaque(object, plan, &plan.names.users, [(USERS, json(ingredients.hashes))]));
    if plan.bridge.is_some() {
        let password = ingredients.bridge_password.to_owned();
        secrets.push(opaque(object, plan, &plan.names.bridge, [(BRIDGE_PASSWORD, password)]));
    }
    secrets
}

/// The Secret that a user's credentials are published in, in the form that Service Binding asks for.
pub fn user(object: &MqttBroker, plan: &Plan, user: &UserPlan, password: Option<&[u8]>) -> Secret {
    let host = format!("{}.{}.svc", plan.names.broker, plan.namespace);
    let listener = &plan.listeners()[0];
    let (port, scheme, path) = (listener.port, listener.protocol.scheme(), listener.url_path());
    let text = |value: &str| ByteString(value.as_bytes().to_vec());
    let mut data = BTreeMap::from([
        ("type".to_owned(), text("mqtt")),
        ("provider".to_owned(), text(super::MANAGER)),
        ("username".to_owned(), text(&user.name)),
        ("host".to_owned(), text(&host)),
        ("port".to_owned(), text(&port.to_string())),
        ("uri".to_owned(), text(&format!("{scheme}://{host}:{port}{path}"))),
    ]);
    // Of a user who brought a hash along nobody here knows it.
    if let Some(password) = password {
        data.insert(PASSWORD.to_owned(), ByteString(password.to_vec()));
    }
    let mut metadata = super::metadata(object, plan, &user.secret_name);
    metadata.owner_references = Some(vec![super::owner_of(object, user)]);
    Secret { metadata, type_: Some("kubernetes.io/basic-auth".into()), data: Some(data), ..Secret::default() }
}

fn opaque<const N: usize>(object: &MqttBroker, plan: &Plan, name: &str, data: [(&str, String); N]) -> Secret {
    Secret {
        metadata: super::metadata(object, plan, name),
        type_: Some("Opaque".into()),
        data: Some(data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()),
        ..Secret::default()
    }
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("a document is JSON")
}
