//! An MQTT message becomes an Elasticsearch document, in the terms of ECS 8.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use crate::client::{Delivery, Message};

const ECS_VERSION: &str = "8.17.0";
const PUBLISH_ID: &str = "publish-id";
const PUBLISH_CLIENT: &str = "publish-client";
const PUBLISH_TIME: &str = "publish-time";

/// Bytes of the raw payload that a dead letter keeps when the whole of it was refused for its size.
pub const TRUNCATED: usize = 64 * 1024;

/// Whose telemetry it is and where it goes: what all documents of a bridge have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub namespace: String,
    pub name: String,
    pub data_stream: DataStream,
    pub dead_letters: DataStream,
}

/// A data stream by its name, `<type>-<dataset>-<namespace>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataStream {
    pub name: String,
    dataset: String,
    namespace: String,
    kind: String,
}

impl DataStream {
    /// Takes the name apart. `None` without three non-empty parts; a further dash belongs to the last one.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, '-').map(str::to_owned);
        let (kind, dataset, namespace) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = ![&kind, &dataset, &namespace].iter().any(|part| part.is_empty());
        whole.then(|| Self { name: name.to_owned(), dataset, namespace, kind })
    }
}

/// What the broker says about a publication, in the last three User Properties of the delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    /// Stays the same when the message is delivered again.
    pub id: &'a str,
    /// The client that published.
    pub client: &'a str,
    /// When it was published.
    pub time: Timestamp,
    /// The publisher's own User Properties.
    pub user: &'a [(String, String)],
}

impl<'a> Publication<'a> {
    /// `None` when the broker appended nothing. What a publisher sends under the same names comes before the last three
    /// and is data.
    pub fn of(message: &'a Message) -> Option<Self> {
        let properties = message.properties.user.as_slice();
        let (user, [id, client, time]) = properties.split_last_chunk::<3>()?;
        if (id.0.as_str(), client.0.as_str(), time.0.as_str()) != (PUBLISH_ID, PUBLISH_CLIENT, PUBLISH_TIME) {
            return None;
        }
        id.1.parse::<ulid::Ulid>().ok()?;
        let time = Timestamp::from_millisecond(time.1.parse().ok()?).ok()?;
        Some(Self { id: &id.1, client: &client.1, time, user })
    }
}

/// What is known of a message apart from the message itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// `_id`: the broker's publish id, or one that the bridge made.
    pub id: String,
    /// The publication's time, or that of the arrival where the broker does not say.
    pub published: Timestamp,
    /// When the bridge received it.
    pub received: Timestamp,
}

/// Why a document is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The HTTP status.
    pub status: u16,
    /// The name that the sink gives the error, such as `document_parsing_exception`.
    pub kind: String,
    pub reason: String,
}

/// Appends the document of a delivery, one line without its end.
pub fn write(out: &mut Vec<u8>, delivery: &Delivery, source: &Source, circumstances: &Circumstances) {
    let content = content(&delivery.message);
    let document = Document {
        payload: content.payload,
        message: content.message,
        payload_b64: content.binary.map(|bytes| BASE64.encode(bytes)),
        ..Document::frame(delivery, source, &source.data_stream, circumstances, "event")
    };
    append(out, &document);
}

/// Appends the document of a delivery that the sink rejected: the raw payload in base64, and the reason. At most `limit`
/// bytes of the payload.
pub fn write_dead_letter(
    out: &mut Vec<u8>,
    delivery: &Delivery,
    source: &Source,
    circumstances: &Circumstances,
    rejection: &Rejection,
    limit: usize,
) {
    let payload = &delivery.message.payload;
    let kept = payload.len().min(limit);
    let document = Document {
        payload_b64: Some(BASE64.encode(&payload[..kept])),
        payload_truncated: (kept < payload.len()).then_some(true),
        error: Some(ErrorFields { code: rejection.status, r#type: &rejection.kind, message: &rejection.reason }),
        labels: Some(Labels { data_stream: &source.data_stream.name }),
        ..Document::frame(delivery, source, &source.dead_letters, circumstances, "pipeline_error")
    };
    append(out, &document);
}

fn append(out: &mut Vec<u8>, document: &Document<'_>) {
    serde_json::to_writer(out, document).expect("strings, numbers and maps with string keys are JSON");
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: Timestamp,
    data_stream: DataStreamFields<'a>,
    ecs: Ecs,
    event: Event<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_b64: Option<String>,
    payload_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_truncated: Option<bool>,
    mqtt: Mqtt<'a>,
    network: Network,
    observer: Observer<'a>,
    orchestrator: Orchestrator<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Labels<'a>>,
}

#[derive(Serialize)]
struct DataStreamFields<'a> {
    r#type: &'a str,
    dataset: &'a str,
    namespace: &'a str,
}

#[derive(Serialize)]
struct Ecs {
    version: &'static str,
}

#[derive(Serialize)]
struct Event<'a> {
    id: &'a str,
    created: Timestamp,
    dataset: &'a str,
    kind: &'static str,
}

#[derive(Serialize)]
struct Mqtt<'a> {
    topic: &'a str,
    topic_levels: Vec<&'a str>,
    qos: u8,
    retained: bool,
    duplicate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "UserProperties::is_empty")]
    user_properties: UserProperties<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry_interval: Option<u32>,
}

#[derive(Serialize)]
struct Network {
    protocol: &'static str,
}

#[derive(Serialize)]
struct Observer<'a> {
    name: &'a str,
    product: &'static str,
    r#type: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Orchestrator<'a> {
    namespace: &'a str,
    resource: Resource<'a>,
}

#[derive(Serialize)]
struct Resource<'a> {
    name: &'a str,
    r#type: &'static str,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    code: u16,
    r#type: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Labels<'a> {
    data_stream: &'a str,
}

/// An object; the values of a name that occurs more than once are an array.
struct UserProperties<'a>(&'a [(String, String)]);

impl UserProperties<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for UserProperties<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (place, (name, value)) in self.0.iter().enumerate() {
            let earlier = self.0[..place].iter().any(|other| other.0 == *name);
            let values: Vec<&str> =
                self.0[place..].iter().filter(|other| other.0 == *name).map(|other| other.1.as_str()).collect();
            match values.as_slice() {
                _ if earlier => {}
                [_] => map.serialize_entry(name, value)?,
                several => map.serialize_entry(name, several)?,
            }
        }
        map.end()
    }
}

impl<'a> Document<'a> {
    /// All but the payload.
    fn frame(
        delivery: &'a Delivery,
        source: &'a Source,
        stream: &'a DataStream,
        circumstances: &'a Circumstances,
        kind: &'static str,
    ) -> Self {
        let message = &delivery.message;
        let publication = Publication::of(message);
        let properties = &message.properties;
        Self {
            timestamp: circumstances.published,
            data_stream: DataStreamFields {
                r#type: &stream.kind,
                dataset: &stream.dataset,
                namespace: &stream.namespace,
            },
            ecs: Ecs { version: ECS_VERSION },
            event: Event { id: &circumstances.id, created: circumstances.received, dataset: &stream.dataset, kind },
            message: None,
            payload: None,
            payload_b64: None,
            payload_size: message.payload.len(),
            payload_truncated: None,
            mqtt: Mqtt {
                topic: &message.topic,
                topic_levels: message.topic.split('/').collect(),
                qos: message.qos as u8,
                retained: message.retain,
                duplicate: delivery.dup,
                message_id: delivery.packet_id.map(std::num::NonZeroU16::get),
                client_id: publication.as_ref().map(|publication| publication.client),
                content_type: properties.content_type.as_deref(),
                user_properties: UserProperties(publication.map_or(&properties.user, |publication| publication.user)),
                response_topic: properties.response_topic.as_deref(),
                expiry_interval: properties.message_expiry,
            },
            network: Network { protocol: "mqtt" },
            observer: Observer {
                name: &source.name,
                product: "mqtt-operator",
                r#type: "mqtt-broker",
                version: env!("CARGO_PKG_VERSION"),
            },
            orchestrator: Orchestrator {
                namespace: &source.namespace,
                resource: Resource { name: &source.name, r#type: "MqttBroker" },
            },
            error: None,
            labels: None,
        }
    }
}

/// The payload, in the one of three fields that fits it.
#[derive(Default)]
struct Content<'a> {
    payload: Option<Value>,
    message: Option<&'a str>,
    binary: Option<&'a [u8]>,
}

/// JSON, else text, else binary. An empty payload has no field.
fn content(message: &Message) -> Content<'_> {
    let bytes = message.payload.as_ref();
    if bytes.is_empty() {
        return Content::default();
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return Content { binary: Some(bytes), ..Content::default() } };
    if let Some(payload) = json(text) {
        return Content { payload: Some(payload), ..Content::default() };
    }
    // Much that is binary happens to be UTF-8 as well; control characters tell it from text.
    let declared = message.properties.payload_format_utf8 == Some(true);
    if declared || !text.chars().any(|character| character.is_control() && !character.is_whitespace()) {
        return Content { message: Some(text), ..Content::default() };
    }
    Content { binary: Some(bytes), ..Content::default() }
}

/// An object as it is; a number, boolean, text or list of such as `value`; a list with anything deeper as `items`.
///
/// Never into the root of the document, where it would collide with the document's own fields.
fn json(text: &str) -> Option<Value> {
    let first = text.trim_ascii_start().bytes().next()?;
    if !matches!(first, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') {
        return None;
    }
    let value: Value = serde_json::from_str(text).ok()?;
    let name = match &value {
        Value::Object(_) => return Some(value),
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => "items",
        _ => "value",
    };
    Some(Value::Object(std::iter::once((name.to_owned(), value)).collect()))
}

#[cfg(test)]
mod tests;
