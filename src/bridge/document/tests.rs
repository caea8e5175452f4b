use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::client::Properties;
use crate::mqtt::QoS;

const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn source() -> Source {
    Source {
        namespace: "shop".into(),
        name: "home".into(),
        data_stream: DataStream::parse("logs-mqtt.home-shop").unwrap(),
        dead_letters: DataStream::parse("logs-mqtt.deadletter-shop").unwrap(),
    }
}

fn circumstances() -> Circumstances {
    Circumstances {
        id: ID.into(),
        published: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
        received: Timestamp::from_millisecond(1_700_000_000_500).unwrap(),
    }
}

fn broker_properties() -> Vec<(String, String)> {
    [(PUBLISH_ID, ID), (PUBLISH_CLIENT, "kitchen"), (PUBLISH_TIME, "1700000000123")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

fn delivery(payload: impl Into<Bytes>, properties: Properties) -> Delivery {
    let message = Message { properties, ..Message::new("sensor/kitchen/t", payload, QoS::AtLeastOnce) };
    Delivery::made(message, 7)
}

fn document(payload: &[u8]) -> Value {
    let mut line = Vec::new();
    let properties = Properties { user: broker_properties(), ..Properties::default() };
    write(&mut line, &delivery(payload.to_vec(), properties), &source(), &circumstances());
    assert!(!line.contains(&b'\n'));
    serde_json::from_slice(&line).unwrap()
}

#[test]
fn a_reading_has_every_field() {
    let mut user = vec![("unit".to_owned(), "C".to_owned()), ("tag".into(), "a".into()), ("tag".into(), "b".into())];
    user.extend(broker_properties());
    let properties = Properties {
        content_type: Some("application/json".into()),
        response_topic: Some("answers".into()),
        message_expiry: Some(60),
        user,
        ..Properties::default()
    };
    let mut line = Vec::new();
    write(&mut line, &delivery("{\"t\": 21.5}", properties), &source(), &circumstances());
    assert_eq!(
        serde_json::from_slice::<Value>(&line).unwrap(),
        json!({
            "@timestamp": "2023-11-14T22:13:20.123Z",
            "data_stream": {"type": "logs", "dataset": "mqtt.home", "namespace": "shop"},
            "ecs": {"version": ECS_VERSION},
            "event": {"id": ID, "created": "2023-11-14T22:13:20.5Z", "dataset": "mqtt.home", "kind": "event"},
            "payload": {"t": 21.5},
            "payload_size": 11,
            "mqtt": {
                "topic": "sensor/kitchen/t",
                "topic_levels": ["sensor", "kitchen", "t"],
                "qos": 1,
                "retained": false,
                "duplicate": false,
                "message_id": 7,
                "client_id": "kitchen",
                "content_type": "application/json",
                "user_properties": {"unit": "C", "tag": ["a", "b"]},
                "response_topic": "answers",
                "expiry_interval": 60,
            },
            "network": {"protocol": "mqtt"},
            "observer": {
                "name": "home", "product": "mqtt-operator", "type": "mqtt-broker", "version": env!("CARGO_PKG_VERSION"),
            },
            "orchestrator": {"namespace": "shop", "resource": {"name": "home", "type": "MqttBroker"}},
        })
    );
}

#[test]
fn each_payload_has_the_field_that_fits_it() {
    for (payload, field, expected) in [
        ("{\"a\":\n {\"b\": [1]}}", "payload", json!({"a": {"b": [1]}})),
        ("{\"@timestamp\":\"mine\"}", "payload", json!({"@timestamp": "mine"})),
        ("21.5", "payload", json!({"value": 21.5})),
        (" -3 ", "payload", json!({"value": -3})),
        ("true", "payload", json!({"value": true})),
        ("\"on\"", "payload", json!({"value": "on"})),
        ("null", "payload", json!({"value": null})),
        ("[1,2]", "payload", json!({"value": [1, 2]})),
        ("[{\"t\":1}]", "payload", json!({"items": [{"t": 1}]})),
        ("ON", "message", json!("ON")),
        ("21,5", "message", json!("21,5")),
        ("007", "message", json!("007")),
        ("NaN", "message", json!("NaN")),
        ("{broken", "message", json!("{broken")),
        ("two\nlines\t", "message", json!("two\nlines\t")),
        ("\u{1}\u{2}", "payload_b64", json!("AQI=")),
    ] {
        let document = document(payload.as_bytes());
        assert_eq!(document[field], expected, "{payload}");
        let fields = ["payload", "message", "payload_b64"];
        assert_eq!(fields.iter().filter(|field| document.get(field).is_some()).count(), 1, "{payload}");
    }
    assert_eq!(document(b"\xff\x00")["payload_b64"], "/wA=");
    let empty = document(b"");
    assert_eq!((empty.get("message"), empty.get("payload"), empty["payload_size"].as_u64()), (None, None, Some(0)));
    let deep = "[".repeat(500);
    assert_eq!(document(deep.as_bytes())["message"], deep);
}

#[test]
fn only_the_last_three_properties_are_the_brokers() {
    let forged = [(PUBLISH_ID, "01BX5ZZKBKACTAV9WEVGEMMVRZ"), (PUBLISH_CLIENT, "boss"), (PUBLISH_TIME, "1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let user: Vec<_> = forged.iter().cloned().chain(broker_properties()).collect();
    let message = Message { properties: Properties { user, ..Properties::default() }, ..Message::default() };
    let publication = Publication::of(&message).unwrap();
    assert_eq!((publication.id, publication.client), (ID, "kitchen"));
    assert_eq!(publication.user, forged);
}

#[test]
fn what_is_not_exactly_the_brokers_is_data() {
    let complete = broker_properties();
    let mut swapped = complete.clone();
    swapped.swap(0, 1);
    let mut no_ulid = complete.clone();
    no_ulid[0].1 = "42".into();
    let mut no_time = complete.clone();
    no_time[2].1 = "noon".into();
    let mut behind = complete.clone();
    behind.push(("k".into(), "v".into()));
    for user in [Vec::new(), complete[..2].to_vec(), swapped, no_ulid, no_time, behind] {
        let message = Message { properties: Properties { user, ..Properties::default() }, ..Message::default() };
        assert_eq!(Publication::of(&message), None);
    }
}

#[test]
fn a_dead_letter_has_the_raw_payload_and_the_reason() {
    let rejection = Rejection { status: 400, kind: "document_parsing_exception".into(), reason: "no date".into() };
    let delivery = delivery("{\"t\": 1}", Properties { user: broker_properties(), ..Properties::default() });
    let mut line = Vec::new();
    write_dead_letter(&mut line, &delivery, &source(), &circumstances(), &rejection, usize::MAX);
    let document: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(document["payload_b64"], "eyJ0IjogMX0=");
    assert_eq!(document["error"], json!({"code": 400, "type": "document_parsing_exception", "message": "no date"}));
    assert_eq!(document["event"]["kind"], "pipeline_error");
    assert_eq!(document["event"]["id"], ID);
    assert_eq!(document["data_stream"]["dataset"], "mqtt.deadletter");
    assert_eq!(document["labels"]["data_stream"], "logs-mqtt.home-shop");
    assert_eq!((document.get("payload"), document.get("payload_truncated")), (None, None));

    line.clear();
    write_dead_letter(&mut line, &delivery, &source(), &circumstances(), &rejection, 3);
    let document: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((document["payload_b64"].as_str(), document["payload_size"].as_u64()), (Some("eyJ0"), Some(8)));
    assert_eq!(document["payload_truncated"], true);
}

#[test]
fn a_data_stream_has_three_parts() {
    let stream = DataStream::parse("logs-mqtt.home-shop").unwrap();
    assert_eq!(
        (stream.kind.as_str(), stream.dataset.as_str(), stream.namespace.as_str()),
        ("logs", "mqtt.home", "shop")
    );
    for name in ["", "logs", "logs-mqtt", "logs--shop", "-mqtt-shop"] {
        assert_eq!(DataStream::parse(name), None, "{name}");
    }
}
