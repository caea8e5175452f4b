use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use mqtt_operator::client::{Message, Options, Properties, connect};
use mqtt_operator::config::report::BridgeState;
use mqtt_operator::mqtt::{QoS, Version};
use serde_json::{Value, json};

use super::rig::{Carrier, Index, LONG, Rig, elasticsearch};
use crate::support::{Elasticsearch, await_until};

/// How often each `payload.n` is among the documents.
fn numbers(documents: &[Value]) -> BTreeMap<u64, usize> {
    let mut numbers = BTreeMap::new();
    for document in documents {
        *numbers.entry(document["payload"]["n"].as_u64().unwrap()).or_default() += 1;
    }
    numbers
}

fn once_each(range: std::ops::Range<u64>) -> BTreeMap<u64, usize> {
    range.map(|number| (number, 1)).collect()
}

fn readings(range: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    range.map(|number| format!("{{\"n\":{number}}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_become_documents_that_can_be_searched_and_averaged() {
    let (rig, elastic) = (Rig::start("readings"), Elasticsearch::shared());
    let carrier = rig.bridge(elasticsearch(elastic.url())).await;
    let (device, _incoming) = rig.device("kitchen").await;
    let user = vec![("unit".to_owned(), "C".to_owned()), ("publish-id".into(), "forged".into())];
    let properties = Properties { user, content_type: Some("application/json".into()), ..Properties::default() };
    for (topic, payload) in [
        ("sensor/kitchen/t", "{\"t\": 21, \"door\": {\"open\": true}}"),
        ("sensor/kitchen/t", "{\"t\": 21.5, \"door\": \"open\"}"),
        ("sensor/kitchen/t", "{\"t\": \"broken\"}"),
        ("sensor/hall", "22.5"),
        ("sensor/hall", "ON"),
        ("sensor/hall", "\"on\""),
    ] {
        let message = Message { properties: properties.clone(), ..Message::new(topic, payload, QoS::AtLeastOnce) };
        device.publish(&message).await.unwrap();
    }
    device.publish(&Message::new("private", "x", QoS::AtLeastOnce)).await.unwrap();
    device.publish(&Message::new("sensor/raw", vec![0xFF, 0x00], QoS::AtMostOnce).retained()).await.unwrap();
    carrier.reports("seven documents", |report| report.indexed == 7 && report.in_flight == 0).await;
    carrier.stop().await;

    let index = Index(elastic.url());
    let documents = index.documents(&rig.data_stream()).await;
    let by = |field: &str, value: &Value| -> Value {
        let found = documents.iter().find(|document| document.pointer(field) == Some(value));
        found.unwrap_or_else(|| panic!("no document with {field} {value}")).clone()
    };
    let first = by("/payload/t", &json!(21));
    assert_eq!(first["mqtt"]["topic_levels"], json!(["sensor", "kitchen", "t"]));
    assert_eq!((&first["mqtt"]["client_id"], &first["mqtt"]["qos"]), (&json!("kitchen"), &json!(1)));
    // What a publisher sends under the broker's names is data, and the broker's own is not among it.
    assert_eq!(first["mqtt"]["user_properties"], json!({"unit": "C", "publish-id": "forged"}));
    assert_eq!(first["mqtt"]["content_type"], "application/json");
    assert_eq!(first["data_stream"], json!({"type": "logs", "dataset": "mqtt.readings", "namespace": "it"}));
    assert_eq!(first["orchestrator"]["namespace"], "it");
    assert_eq!(by("/payload/value", &json!(22.5))["mqtt"]["topic"], "sensor/hall");
    assert_eq!(by("/message", &json!("ON"))["mqtt"]["retained"], false);
    let raw = by("/payload_b64", &json!("/wA="));
    assert_eq!((&raw["mqtt"]["retained"], &raw["mqtt"]["qos"]), (&json!(true), &json!(0)));

    // The mapping took conflicting payloads and still averages what is a number.
    let query = json!({"size": 0, "aggs": {
        "t": {"avg": {"field": "payload.t"}},
        "value": {"max": {"field": "payload.value"}},
        "devices": {"terms": {"field": "mqtt.client_id"}},
        "texts": {"terms": {"field": "payload.value.text", "order": {"_key": "asc"}}},
        "doors": {"terms": {"field": "payload.door.open"}},
    }});
    let found = index.call(reqwest::Method::POST, &format!("{}/_search", rig.data_stream()), query).await;
    let found = &found["aggregations"];
    assert_eq!((found["t"]["value"].as_f64(), found["value"]["value"].as_f64()), (Some(21.25), Some(22.5)));
    assert_eq!(found["devices"]["buckets"], json!([{"key": "kitchen", "doc_count": 7}]));
    assert_eq!(found["doors"]["buckets"], json!([{"key": "true", "doc_count": 1}]));
    assert_eq!(found["texts"]["buckets"], json!([{"key": "22.5", "doc_count": 1}, {"key": "on", "doc_count": 1}]));
    let template = index.get("_index_template/logs-mqtt").await;
    assert_eq!(template["index_templates"][0]["index_template"]["_meta"]["managed_by"], "mqtt-operator");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_document_becomes_a_dead_letter_and_the_good_ones_are_indexed_once() {
    let (rig, elastic) = (Rig::start("poison"), Elasticsearch::shared());
    let index = Index(elastic.url());
    // Somebody's own mapping for this stream, stricter than ours.
    let strict = json!({
        "index_patterns": [rig.data_stream()], "data_stream": {}, "priority": 500,
        "template": {"mappings": {"properties": {"payload": {"properties": {"at": {"type": "date"}}}}}},
    });
    index.call(reqwest::Method::PUT, "_index_template/poison", strict).await;
    // The broker holds them all when the bridge comes, so that good and bad are in one batch.
    rig.bridge(elasticsearch("http://127.0.0.1:9")).await.stop().await;
    let payload = |n: u64| {
        let at = if n % 100 == 7 { "noon" } else { "2026-01-01" };
        format!("{{\"n\":{n},\"at\":\"{at}\"}}")
    };
    rig.publish((0..1000).map(payload)).await;
    let carrier = rig.bridge(elasticsearch(elastic.url())).await;
    let report = carrier.reports("1000 settled", |report| report.indexed + report.dead_lettered == 1000).await;
    assert_eq!((report.dead_lettered, report.in_flight, report.state), (10, 0, BridgeState::Rejecting));
    assert!(report.message.contains("noon"), "{}", report.message);
    carrier.stop().await;

    let good: BTreeMap<u64, usize> = (0..1000).filter(|n| n % 100 != 7).map(|n| (n, 1)).collect();
    assert_eq!(numbers(&index.documents(&rig.data_stream()).await), good);
    let letters = index.documents(&rig.dead_letters()).await;
    assert_eq!(letters.len(), 10);
    for letter in letters {
        assert_eq!((&letter["error"]["code"], &letter["event"]["kind"]), (&json!(400), &json!("pipeline_error")));
        assert!(letter["error"]["message"].as_str().unwrap().contains("noon"), "{letter}");
        assert_eq!(letter["labels"]["data_stream"], rig.data_stream());
        assert_eq!(letter["mqtt"]["topic"], "sensor/kitchen");
        let raw = base64::engine::general_purpose::STANDARD.decode(letter["payload_b64"].as_str().unwrap()).unwrap();
        let raw: Value = serde_json::from_slice(&raw).unwrap();
        assert_eq!((raw["n"].as_u64().unwrap() % 100, &raw["at"]), (7, &json!("noon")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_killed_again_and_again_loses_and_doubles_nothing() {
    let (rig, elastic) = (Rig::start("killed"), Elasticsearch::shared());
    let sink = || elasticsearch(elastic.url());
    rig.bridge(sink()).await.stop().await;
    let (index, mut again) = (Index(elastic.url()), 0);
    for round in 0..5 {
        rig.publish(readings(round * 1200..(round + 1) * 1200)).await;
        let begun = index.writes(&rig.data_stream()).await;
        let carrier = rig.bridge(sink()).await;
        // In the middle: Elasticsearch has begun with a batch that the bridge does not know of yet.
        await_until(LONG, "a batch under way", async || {
            let report = carrier.report();
            let begun = index.writes(&rig.data_stream()).await > begun || report.indexed + report.deduplicated > 0;
            if begun { Ok(()) } else { Err(report) }
        })
        .await;
        again += carrier.report().deduplicated;
        carrier.kill().await;
    }
    let carrier = rig.bridge(sink()).await;
    await_until(LONG, "all documents", async || {
        let found = numbers(&Index(elastic.url()).documents(&rig.data_stream()).await);
        if found.len() == 6000 { Ok(()) } else { Err(found.len()) }
    })
    .await;
    let report = carrier.reports("empty window", |report| report.in_flight == 0).await;
    carrier.stop().await;
    assert_eq!(numbers(&Index(elastic.url()).documents(&rig.data_stream()).await), once_each(0..6000));
    // Some came again, or nobody was killed in the middle.
    assert!(again + report.deduplicated > 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_elasticsearch_loses_nothing_and_holds_no_more_than_the_window() {
    let elastic = Elasticsearch::start(&[]).unwrap();
    let rig = Rig::start("outage");
    let carrier = rig.bridge(elasticsearch(elastic.url())).await;
    rig.publish(readings(0..1000)).await;
    carrier.reports("first documents", |report| report.indexed == 1000).await;
    elastic.stop();
    rig.publish(readings(1000..20_000)).await;
    let report = carrier.reports("an outage", |report| report.state == BridgeState::Unreachable).await;
    assert!(report.message.contains(elastic.url()), "{}", report.message);
    // Some batches are what it holds, the rest is the broker's.
    let report = carrier.reports("full batches", |report| report.in_flight > 5_000).await;
    assert!(report.received < 20_000, "{report:?}");
    let lagging = |report: &mqtt_operator::config::report::Bridge| report.lag_seconds > 3.0;
    carrier.reports("a lag that grows", lagging).await;
    elastic.start_again();
    let report = carrier.reports("the rest", |report| report.in_flight == 0 && report.received == 20_000).await;
    assert_eq!((report.indexed + report.deduplicated, report.dead_lettered), (20_000, 0));
    assert!(report.retried > 0);
    carrier.reports("a sink that works", |report| report.state == BridgeState::Connected).await;
    carrier.stop().await;
    let index = Index(elastic.url());
    index.get(&format!("{}/_refresh", rig.data_stream())).await;
    let count = index.get(&format!("{}/_count", rig.data_stream())).await;
    assert_eq!(count["count"], 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_elasticsearch_has_no_room_for_is_split_or_retried() {
    // Requests above 256 kB are refused with 413; more than 192 kB at a time in memory with 429.
    let elastic =
        Elasticsearch::start(&["http.max_content_length: 256kb", "indexing_pressure.memory.limit: 192kb"]).unwrap();
    let rig = Rig::start("narrow");
    rig.bridge(elasticsearch("http://127.0.0.1:9")).await.stop().await;
    let text = "x".repeat(2000);
    rig.publish((0..1000).map(|n| format!("{{\"n\":{n},\"text\":\"{text}\"}}"))).await;
    // One that no request can carry.
    rig.publish([format!("{{\"n\":1000,\"text\":\"{}\"}}", "y".repeat(300_000))]).await;
    let carrier = rig.bridge(elasticsearch(elastic.url())).await;
    let report = carrier.reports("all settled", |report| report.indexed + report.dead_lettered == 1001).await;
    assert_eq!((report.indexed, report.dead_lettered, report.in_flight), (1000, 1, 0));
    assert!(report.retried > 0, "{report:?}");
    carrier.stop().await;
    let index = Index(elastic.url());
    assert_eq!(numbers(&index.documents(&rig.data_stream()).await), once_each(0..1000));
    let letter = index.documents(&rig.dead_letters()).await.remove(0);
    assert_eq!((&letter["error"]["code"], &letter["payload_truncated"]), (&json!(413), &json!(true)));
    assert!(letter["payload_size"].as_u64().unwrap() > 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_elasticsearch_is_reported_and_telemetry_waits_in_the_broker() {
    let rig = Rig::start("waits");
    let carrier = rig.bridge(elasticsearch("http://127.0.0.1:9")).await;
    rig.publish(readings(0..10)).await;
    let waiting = |report: &mqtt_operator::config::report::Bridge| {
        report.state == BridgeState::Unreachable && report.in_flight == 10
    };
    let report = carrier.reports("an unreachable sink", waiting).await;
    assert!(report.message.contains("http://127.0.0.1:9 cannot be reached"), "{}", report.message);
    carrier.stop().await;
    let elastic = Elasticsearch::shared();
    let carrier = rig.bridge(elasticsearch(elastic.url())).await;
    carrier.reports("the documents", |report| report.indexed == 10).await;
    carrier.stop().await;
    let documents = Index(elastic.url()).documents(&rig.data_stream()).await;
    assert_eq!(numbers(&documents), once_each(0..10));
    assert!(documents.iter().all(|document| document["mqtt"]["duplicate"] == true), "each was delivered before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_the_broker_refuses_is_reported_and_the_others_go_on() {
    let (rig, elastic) = (Rig::start("refused"), Elasticsearch::shared());
    let mut document = rig.document(elasticsearch(elastic.url()));
    document.topics.push("private/#".into());
    let carrier = Carrier::start(&rig.etc, document);
    let report = carrier.reports("a refusal", |report| report.message.contains("private/#")).await;
    assert_eq!(report.state, BridgeState::Connecting);
    assert!(report.message.contains("0x87"), "{}", report.message);
    rig.publish(readings(0..5)).await;
    carrier.reports("the others", |report| report.indexed == 5).await;
    carrier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_the_bridges_client_id_keeps_no_telemetry_back() {
    let (rig, elastic) = (Rig::start("namesake"), Elasticsearch::shared());
    let address = rig.running.listeners[0].1.to_string();
    let device = Options { version: Version::V5, ..Options::new(address, "system:bridge") };
    connect(&device).await.expect_err("the session is the bridge's before it has come");
    let carrier = rig.bridge(elasticsearch(elastic.url())).await;
    connect(&device).await.expect_err("and when it is there");
    rig.publish(readings(0..5)).await;
    carrier.reports("the documents", |report| report.indexed == 5).await;
    carrier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_stream_with_a_name_of_its_own_has_the_mapping_too() {
    let (rig, elastic) = (Rig::start("own"), Elasticsearch::shared());
    let mut document = rig.document(elasticsearch(elastic.url()));
    document.data_stream = "logs-own-it".into();
    let carrier = Carrier::start(&rig.etc, document);
    carrier.reports("a sink", |report| report.state == BridgeState::Connected).await;
    rig.publish(["21", "21.5"]).await;
    carrier.reports("the documents", |report| report.indexed == 2).await;
    carrier.stop().await;
    let index = Index(elastic.url());
    assert_eq!(index.documents("logs-own-it").await.len(), 2);
    let fields = index.get("logs-own-it/_field_caps?fields=payload.value,mqtt.topic").await["fields"].clone();
    assert_eq!(fields["payload.value"]["double"]["aggregatable"], true);
    assert_eq!(fields["mqtt.topic"]["keyword"]["searchable"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_topic_and_payload_that_mqtt_allows_is_kept_somewhere() {
    let (rig, elastic) = (Rig::start("strange"), Elasticsearch::shared());
    let carrier = rig.bridge(elasticsearch(elastic.url())).await;
    let (device, _incoming) = rig.device("strange").await;
    let deep = format!("{}1{}", "{\"a\":".repeat(60), "}".repeat(60));
    let payloads = [
        "{\"\":1}",
        "{\".\":1}",
        "{\"a.\":1}",
        "{\" \":1}",
        "{\"a\":{}}",
        "{\"a\":null}",
        "{\"a\":[1,\"b\",{\"c\":[]}]}",
        "{\"value\":{\"a\":1}}",
        "{\"n\":1e999}",
        "{\"n\":123456789012345678901234567890}",
        "[[1],[2]]",
        "[]",
        "\"\"",
        "{\"_id\":1,\"_source\":2}",
        "\u{feff}{}",
        "{\"a\":\"\\u0000\"}",
        deep.as_str(),
    ];
    // As many as the broker lets pass, to which it adds its own.
    let user = vec![("k".to_owned(), "v".to_owned()); 64];
    let properties = Properties { user, ..Properties::default() };
    let message = Message { properties, ..Message::new("sensor/a", "{}", QoS::AtLeastOnce) };
    assert!(!device.publish(&message).await.unwrap().is_failure());
    let long = "l/".repeat(10_000);
    let topics = ["sensor//", "sensor/ü/\u{10FFFD}", &format!("sensor/{long}")];
    let mut sent = 1;
    for payload in payloads {
        device.publish(&Message::new("sensor/a", payload.to_owned(), QoS::AtLeastOnce)).await.unwrap();
        sent += 1;
    }
    for topic in topics {
        let user = vec![(String::new(), "x".repeat(40_000)), ("a.b".into(), String::new()), (".".into(), "c".into())];
        let properties = Properties { user, ..Properties::default() };
        let message = Message { properties, ..Message::new(topic, "{}", QoS::AtLeastOnce) };
        let code = device.publish(&message).await.unwrap();
        sent += u64::from(!code.is_failure());
    }
    let report = carrier.reports("all of it", |report| report.indexed + report.dead_lettered == sent).await;
    assert_eq!((report.received, report.in_flight), (sent, 0));
    carrier.stop().await;
    let index = Index(elastic.url());
    let documents = index.documents(&rig.data_stream()).await;
    let letters = if report.dead_lettered > 0 { index.documents(&rig.dead_letters()).await } else { Vec::new() };
    let ids: BTreeSet<_> =
        documents.iter().chain(&letters).map(|document| document["event"]["id"].to_string()).collect();
    assert_eq!(ids.len() as u64, sent);
    for letter in letters {
        eprintln!("dead letter: {}", letter["error"]);
    }
}
