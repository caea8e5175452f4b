//! What the other side says that is not "yes": a secure Elasticsearch, something that is none, a broker that is not ours.

use axum::Router;
use axum::http::StatusCode;
use mqtt_operator::client::{Message, Options, connect};
use mqtt_operator::config::report::BridgeState;
use mqtt_operator::mqtt::QoS;
use serde_json::json;

use super::rig::{Carrier, Index, Rig, elasticsearch, write};
use crate::support::{ELASTIC_PASSWORD, Elasticsearch, Mosquitto};

#[tokio::test(flavor = "multi_thread")]
async fn credentials_and_authorities_are_reported_when_wrong_and_taken_up_when_they_change() {
    let elastic = Elasticsearch::start_secure().unwrap();
    let rig = Rig::start("secure");
    let carrier = rig.bridge(elasticsearch(elastic.url())).await;
    rig.publish(["1", "2"]).await;
    let report = carrier.reports("an unknown authority", |report| report.state == BridgeState::Unreachable).await;
    assert!(report.message.contains("certificate"), "{}", report.message);

    let authority = std::fs::read_to_string(elastic.certificate_authority()).unwrap();
    write(rig.etc.elasticsearch_ca(), &json!(authority));
    let unauthorized = |report: &mqtt_operator::config::report::Bridge| report.state == BridgeState::Unauthorized;
    let report = carrier.reports("missing credentials", unauthorized).await;
    assert!(report.message.contains("401"), "{}", report.message);

    let credentials = rig.etc.elasticsearch_credentials();
    write(credentials.join("username"), &json!("elastic"));
    write(credentials.join("password"), &json!("another"));
    carrier.reports("wrong credentials", |report| report.message.contains("elastic")).await;
    write(credentials.join("password"), &json!(ELASTIC_PASSWORD));
    carrier.reports("the documents", |report| report.indexed == 2 && report.state == BridgeState::Connected).await;
    carrier.stop().await;
}

/// An HTTP server that answers everything alike.
async fn answers(status: StatusCode, body: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(async move || (status, body));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_elasticsearch_is_reported_and_takes_no_telemetry() {
    let rig = Rig::start("impostor");
    for (status, body, words) in [
        (StatusCode::OK, "<html>please log in</html>", "did not answer as Elasticsearch does: <html>please log in"),
        (StatusCode::BAD_GATEWAY, "<html>502</html>", "answered 502: <html>502"),
        (StatusCode::FOUND, "", "answered 302"),
    ] {
        let carrier = rig.bridge(elasticsearch(&answers(status, body).await)).await;
        rig.publish(["1"]).await;
        let report = carrier.reports("the answer", |report| report.message.contains(words)).await;
        assert_eq!((report.state, report.indexed), (BridgeState::Unreachable, 0));
        carrier.stop().await;
    }
    let elastic = Elasticsearch::shared();
    let carrier = rig.bridge(elasticsearch(elastic.url())).await;
    carrier.reports("all three", |report| report.indexed == 3).await;
    carrier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let (rig, elastic) = (Rig::start("addresses"), Elasticsearch::shared());
    let mut sink = elasticsearch("http://127.0.0.1:9");
    if let mqtt_operator::config::bridge::Sink::Elasticsearch(settings) = &mut sink {
        settings.urls.push(format!("{}/", elastic.url()));
    }
    let carrier = rig.bridge(sink).await;
    rig.publish(["1"]).await;
    carrier.reports("the document", |report| report.indexed == 1).await;
    carrier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_names_no_publish_id_is_served_and_counted() {
    let (rig, elastic, mosquitto) = (Rig::start("foreign"), Elasticsearch::shared(), Mosquitto::start(&[]));
    let mut document = rig.document(elasticsearch(elastic.url()));
    document.broker = ([127, 0, 0, 1], mosquitto.port()).into();
    let carrier = Carrier::start(&rig.etc, document);
    carrier.reports("a session", |report| report.state == BridgeState::Connected).await;
    let (device, _incoming, _) =
        connect(&Options::new(format!("127.0.0.1:{}", mosquitto.port()), "kitchen")).await.unwrap();
    for n in 0..3 {
        device.publish(&Message::new("sensor/a", format!("{{\"n\":{n}}}"), QoS::AtLeastOnce)).await.unwrap();
    }
    carrier.reports("the documents", |report| report.indexed == 3).await;
    assert_eq!(carrier.counters.without_id.get(), 3);
    carrier.stop().await;
    let documents = Index(elastic.url()).documents(&rig.data_stream()).await;
    assert_eq!(documents.len(), 3);
    assert!(documents.iter().all(|document| document["mqtt"].get("client_id").is_none()));
}
