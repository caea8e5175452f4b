//! A file of objects, as `kubectl apply -f` takes it, read without a cluster.

use std::sync::OnceLock;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use kube::core::cel::validate_cel;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::tree::{Fault, Node};
use super::{API_VERSION, MqttBroker, MqttUser};

/// The objects of a file, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    pub brokers: Vec<MqttBroker>,
    pub users: Vec<MqttUser>,
    /// Secrets; what was in `stringData` is in `data`.
    pub secrets: Vec<Secret>,
}

impl Manifest {
    /// The value of a key of a Secret, if the file has it. Absent namespaces are `default`.
    pub fn secret_value(&self, namespace: &str, name: &str, key: &str) -> Option<&[u8]> {
        self.secrets
            .iter()
            .filter(|secret| {
                secret.metadata.name.as_deref() == Some(name)
                    && secret.metadata.namespace.as_deref().unwrap_or("default") == namespace
            })
            .find_map(|secret| secret.data.as_ref()?.get(key))
            .map(|value| value.0.as_slice())
    }
}

/// Why a file could not be read; the text names the line.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{}", flat(.0))]
    Yaml(#[source] Box<serde_saphyr::Error>),
    #[error("line {line}: {}{message}", prefix(.field))]
    Field { line: u64, field: String, message: String },
    #[error("no object in it")]
    Empty,
}

/// `spec.replicas: `, or nothing where the document as a whole is meant.
fn prefix(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field}: ") }
}

/// What the parser says, on one line.
fn flat(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    match error.location() {
        Some(location) => format!("line {}: {}", location.line(), message.replace('\n', " ")),
        None => message.replace('\n', " "),
    }
}

impl From<Fault> for ManifestError {
    fn from(Fault { line, field, message }: Fault) -> Self {
        Self::Field { line, field, message }
    }
}

/// A file may be long: a fleet's users are a document each.
fn roomy() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_documents: 200_000, max_nodes: 20_000_000, max_events: 50_000_000 },
    }
}

/// Reads a YAML stream of `MqttBroker`s, `MqttUser`s and `Secret`s.
///
/// The schema and the rules of the custom resource definition are checked as an API server checks them, so that a file
/// that is accepted here is accepted there, and the other way round. An unknown field or kind is an error.
pub fn read(text: &str) -> Result<Manifest, ManifestError> {
    let documents: Vec<Node> = serde_saphyr::from_multiple_with_options(text, roomy())
        .map_err(|error| ManifestError::Yaml(Box::new(error)))?;
    let mut manifest = Manifest::default();
    for document in documents.iter().filter(|document| !document.is_null()) {
        let kind = document.get("kind").and_then(Node::text).unwrap_or_default();
        match kind {
            "MqttBroker" => manifest.brokers.push(custom(document, broker_schema())?),
            "MqttUser" => manifest.users.push(custom(document, user_schema())?),
            "Secret" => manifest.secrets.push(secret(document)?),
            "" => return Err(fault(document, "kind", "is required")),
            other => {
                let message = format!("{other:?} is not known; known are MqttBroker, MqttUser and Secret");
                return Err(fault(document, "kind", &message));
            }
        }
    }
    if manifest == Manifest::default() { Err(ManifestError::Empty) } else { Ok(manifest) }
}

/// An object of ours, checked as an API server checks it.
fn custom<K>(document: &Node, schema: &Value) -> Result<K, ManifestError>
where
    K: CustomResourceExt + Serialize + DeserializeOwned,
{
    expect_version(document, API_VERSION)?;
    document.check(schema, "")?;
    let object: K = serde_json::from_value(document.to_json()).map_err(|e| shape(document, &e))?;
    if let Err(errors) = validate_cel(&object)
        && let Some(first) = errors.iter().next()
    {
        let field = first.field_path.trim_start_matches('.').to_owned();
        // A rule about `metadata` stands at the object itself, so its message begins with the field.
        let place = if field.is_empty() { first.message.split(' ').next().unwrap_or_default() } else { &field };
        return Err(ManifestError::Field { line: document.line_of(place), field, message: first.message.clone() });
    }
    Ok(object)
}

fn secret(document: &Node) -> Result<Secret, ManifestError> {
    expect_version(document, "v1")?;
    document.check(secret_schema(), "")?;
    let mut secret: Secret = serde_json::from_value(document.to_json()).map_err(|e| shape(document, &e))?;
    if let Some(texts) = secret.string_data.take() {
        let data = secret.data.get_or_insert_default();
        data.extend(texts.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
    }
    Ok(secret)
}

fn expect_version(document: &Node, expected: &str) -> Result<(), ManifestError> {
    match document.get("apiVersion").and_then(Node::text) {
        Some(version) if version == expected => Ok(()),
        Some(other) => Err(fault(document, "apiVersion", &format!("{other:?} is not known; expected {expected}"))),
        None => Err(fault(document, "apiVersion", "is required")),
    }
}

fn fault(document: &Node, field: &str, message: &str) -> ManifestError {
    ManifestError::Field { line: document.line_of(field), field: field.to_owned(), message: message.to_owned() }
}

/// What the schema cannot say, such as the shapes of a rule's `qos`.
fn shape(document: &Node, error: &serde_json::Error) -> ManifestError {
    ManifestError::Field { line: document.line, field: String::new(), message: error.to_string() }
}

fn broker_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| schema_of(&super::crd::mqtt_broker()))
}

fn user_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| schema_of(&super::crd::mqtt_user()))
}

/// The schema of a definition, with `metadata` written out: there an API server knows the fields itself.
fn schema_of(definition: &CustomResourceDefinition) -> Value {
    let definition = serde_json::to_value(definition).expect("a definition is JSON");
    let mut schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    schema["properties"]["apiVersion"] = json!({"type": "string"});
    schema["properties"]["kind"] = json!({"type": "string"});
    schema["properties"]["metadata"] = metadata_schema();
    schema["required"] = json!(["metadata", "spec"]);
    schema
}

fn secret_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
        json!({"type": "object", "required": ["metadata"], "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "type": {"type": "string"},
            "immutable": {"type": "boolean"}, "metadata": metadata_schema(), "data": texts, "stringData": texts,
        }})
    })
}

fn metadata_schema() -> Value {
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 253}, "namespace": {"type": "string"},
        "labels": texts, "annotations": texts, "finalizers": {"type": "array", "items": {"type": "string"}},
        // What `kubectl get -o yaml` adds, so that its output can be read.
        "uid": {"type": "string"}, "resourceVersion": {"type": "string"}, "generation": {"type": "integer"},
        "creationTimestamp": {"type": "string"}, "managedFields": {"type": "array"},
        "ownerReferences": {"type": "array"},
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROKER: &str = "apiVersion: mqtt-operator.io/v1alpha1\nkind: MqttBroker\nmetadata:\n  name: home\n";

    fn refused(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn stream_with_a_secret_and_a_broker_is_read() {
        let text = format!(
            "# nothing\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{password: geheim}}\ndata: \
             {{raw: AQI=}}\n---\n{BROKER}spec: {{}}\n---\n"
        );
        let manifest = read(&text).unwrap();
        assert_eq!(manifest.secret_value("default", "s", "password"), Some(&b"geheim"[..]));
        assert_eq!(manifest.secret_value("default", "s", "raw"), Some(&[1, 2][..]));
        assert_eq!(manifest.secret_value("shop", "s", "raw"), None);
        assert_eq!(manifest.brokers[0].spec, crate::api::MqttBrokerSpec::default());
    }

    #[test]
    fn unknown_field_is_named_with_its_line() {
        let message = refused(&format!("{BROKER}spec:\n  auth:\n    users:\n    - name: a\n      pasword: b\n"));
        assert!(message.starts_with("line 9: spec.auth.users[0].pasword: unknown field; known are acl, "), "{message}");
        let message = refused(&format!("{BROKER}spec:\n  pod: {{affinity: {{nodeAfinity: {{}}}}}}\n"));
        assert!(message.starts_with("line 6: spec.pod.affinity.nodeAfinity: unknown field"), "{message}");
        let message = refused("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringdata: {a: b}\n");
        assert!(message.starts_with("line 4: stringdata: unknown field"), "{message}");
        let message = refused(&format!(
            "{BROKER}spec:\n  auth:\n    deny:\n    - {{permission: deny, action: all, topic: a, topics: b}}\n"
        ));
        assert!(message.starts_with("line 8: spec.auth.deny[0].topics: unknown field"), "{message}");
    }

    #[test]
    fn what_an_api_server_refuses_is_refused_with_the_line() {
        for (spec, expected) in [
            ("  replicas: 2\n", "line 6: spec.replicas: must be at most 1"),
            ("  replicas: yes\n", "line 6: spec.replicas: must be a whole number"),
            ("  listeners: []\n", "line 6: spec.listeners: must have at least 1 item"),
            (
                "  listeners:\n  - {name: a, protocol: amqp, port: 1}\n",
                "line 7: spec.listeners[0].protocol: \"amqp\" is not one of \"mqtt\", \"mqtts\", \"ws\", \"wss\"",
            ),
            ("  listeners:\n  - {name: a, protocol: mqtt}\n", "line 7: spec.listeners[0].port: is required"),
            (
                "  listeners:\n  - {name: a, protocol: mqtt, port: 1}\n  - {name: b, protocol: mqtt, port: 1}\n",
                "line 6: spec.listeners: each listener needs a port of its own",
            ),
            (
                "  auth:\n    users:\n    - {name: a, acl: []}\n",
                "line 8: spec.auth.users[0]: exactly one of passwordSecretRef, passwordHashSecretRef and generate: true is needed",
            ),
            (
                "  auth:\n    users:\n    - {name: a, acl: null, generate: true}\n",
                "line 8: spec.auth.users[0]: acl or groups is needed; an empty list means that the user may connect \
                 and nothing else",
            ),
            (
                "  auth:\n    jwt: {algorithm: HS256}\n",
                "line 7: spec.auth.jwt: HS256 puts the signing secret on the broker pods; set \
                 acknowledgeSharedSecret: true to accept that",
            ),
        ] {
            assert_eq!(refused(&format!("{BROKER}spec:\n{spec}")), expected);
        }
    }

    #[test]
    fn name_that_is_too_long_is_refused() {
        let text = format!("{BROKER}spec: {{}}\n").replace("home", &"a".repeat(41));
        assert_eq!(refused(&text), "line 4: metadata.name must have at most 40 characters");
    }

    #[test]
    fn unknown_kinds_and_broken_yaml_are_refused() {
        assert_eq!(
            refused("apiVersion: v1\nkind: Pod\n"),
            "line 2: kind: \"Pod\" is not known; known are MqttBroker, MqttUser and Secret"
        );
        assert_eq!(
            refused("apiVersion: v2\nkind: MqttBroker\n"),
            "line 1: apiVersion: \"v2\" is not known; expected mqtt-operator.io/v1alpha1"
        );
        assert!(refused("a: [1,\nb: {").starts_with("line "), "{}", refused("a: [1,\nb: {"));
        assert!(refused("a: 1\na: 2\n").starts_with("line 2"), "{}", refused("a: 1\na: 2\n"));
        assert_eq!(refused("# nothing\n"), "no object in it");
    }
}
