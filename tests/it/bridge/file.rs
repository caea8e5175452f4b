use std::collections::BTreeMap;

use mqtt_operator::config::bridge::Sink;
use mqtt_operator::config::report::BridgeState;
use serde_json::Value;

use super::rig::Rig;

#[tokio::test(flavor = "multi_thread")]
async fn the_file_sink_writes_each_document_on_a_line_of_its_own() {
    let rig = Rig::start("file");
    let carrier = rig.bridge(Sink::File { directory: rig.telemetry() }).await;
    rig.publish((0..2000).map(|n| format!("{{\n\"n\": {n}\n}}"))).await;
    let report = carrier.reports("acknowledged lines", |report| report.indexed == 2000 && report.in_flight == 0).await;
    assert_eq!(report.state, BridgeState::Connected);
    carrier.stop().await;
    let text = std::fs::read_to_string(rig.telemetry().join("logs-mqtt.file-it.ndjson")).unwrap();
    let numbers: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["payload"]["n"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..2000).collect::<Vec<_>>(), "in the order of publication");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_is_reported_and_telemetry_waits() {
    let rig = Rig::start("full");
    std::fs::write(rig.telemetry(), "a file where the directory should be").unwrap();
    let carrier = rig.bridge(Sink::File { directory: rig.telemetry() }).await;
    rig.publish((0..10).map(|n| format!("{{\"n\":{n}}}"))).await;
    let report = carrier.reports("a problem", |report| report.state == BridgeState::Unreachable).await;
    assert!(report.message.contains("logs-mqtt.full-it.ndjson"), "{}", report.message);
    assert_eq!(report.indexed, 0);
    std::fs::remove_file(rig.telemetry()).unwrap();
    carrier.reports("the lines", |report| report.indexed == 10 && report.state == BridgeState::Connected).await;
    carrier.stop().await;
    let text = std::fs::read_to_string(rig.telemetry().join("logs-mqtt.full-it.ndjson")).unwrap();
    assert_eq!(text.lines().count(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_killed_while_it_writes_leaves_whole_lines_and_loses_none() {
    let rig = Rig::start("torn");
    let sink = || Sink::File { directory: rig.telemetry() };
    rig.bridge(sink()).await.stop().await;
    for round in 0..5 {
        rig.publish((0..1000).map(|n| format!("{{\"n\":{}}}", round * 1000 + n))).await;
        let carrier = rig.bridge(sink()).await;
        carrier.reports("messages in flight", |report| report.received > 0).await;
        carrier.kill().await;
    }
    let carrier = rig.bridge(sink()).await;
    let path = rig.telemetry().join("logs-mqtt.torn-it.ndjson");
    let mut ids: BTreeMap<String, u64> = BTreeMap::new();
    crate::support::await_until(super::rig::LONG, "every line", async || {
        let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        ids = whole
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| (line["event"]["id"].to_string(), line["payload"]["n"].as_u64().unwrap()))
            .collect();
        if ids.len() == 5000 { Ok(()) } else { Err(ids.len().to_string()) }
    })
    .await;
    carrier.reports("an empty window", |report| report.in_flight == 0).await;
    carrier.stop().await;
    let mut numbers: Vec<_> = ids.into_values().collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..5000).collect::<Vec<_>>());
}
