use std::process::{Child, Command, Stdio};

use mqtt_operator::config::bridge::Sink;
use mqtt_operator::config::report::{self, BridgeState};
use serde_json::Value;

use super::rig::{LONG, Rig, elasticsearch, write};
use crate::support::{await_until, free_ports};

/// The program, ended when this value is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(rig: &Rig) -> Process {
    let program = Command::new(env!("CARGO_BIN_EXE_mqtt-bridge"))
        .arg("--etc")
        .arg(&rig.etc.0)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Process(program)
}

fn configure(rig: &Rig, sink: Sink) -> u16 {
    let [port] = free_ports();
    let mut document = rig.document(sink);
    document.admin.set_port(port);
    write(rig.etc.bridge(), &serde_json::to_value(document).unwrap());
    port
}

async fn fetch(rig: &Rig, port: u16, path: &str) -> Result<String, String> {
    let request = reqwest::Client::new().get(format!("http://127.0.0.1:{port}{path}")).bearer_auth(rig.admin_token());
    let response = request.send().await.map_err(|error| error.to_string())?;
    response.error_for_status().map_err(|error| error.to_string())?.text().await.map_err(|error| error.to_string())
}

async fn reported(rig: &Rig, port: u16, what: &str, wanted: impl Fn(&report::Bridge) -> bool) -> report::Bridge {
    await_until(LONG, what, async || {
        let report: report::Bridge = serde_json::from_str(&fetch(rig, port, "/api/v1/report").await?).unwrap();
        if wanted(&report) { Ok(report) } else { Err(format!("{report:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_waits_for_its_document_and_takes_up_a_new_one() {
    let rig = Rig::start("program");
    let mut process = start(&rig);
    write(rig.etc.bridge(), &serde_json::json!("no JSON at all"));
    let port = configure(&rig, Sink::File { directory: rig.telemetry().join("one") });
    let report = reported(&rig, port, "a bridge that works", |report| report.message.is_empty()).await;
    assert_eq!(report.received, 0);
    assert_eq!(fetch(&rig, port, "/livez").await.as_deref(), Ok("ok\n"));
    assert_eq!(fetch(&rig, port, "/readyz").await.as_deref(), Ok("ok\n"));
    rig.publish(["1"]).await;
    reported(&rig, port, "the first", |report| report.indexed == 1).await;

    let mut document = rig.document(Sink::File { directory: rig.telemetry().join("two") });
    document.admin.set_port(port);
    write(rig.etc.bridge(), &serde_json::to_value(document).unwrap());
    let file = |place: &str| {
        let path = rig.telemetry().join(place).join("logs-mqtt.program-it.ndjson");
        std::fs::read_to_string(path).unwrap_or_default().lines().count()
    };
    await_until(LONG, "a document in the new place", async || {
        rig.publish(["2"]).await;
        if file("two") > 0 { Ok(()) } else { Err(file("one")) }
    })
    .await;

    let metrics = fetch(&rig, port, "/metrics").await.unwrap();
    for name in ["received_total", "indexed_total", "in_flight", "lag_seconds", "request_seconds_count"] {
        assert!(metrics.contains(&format!("mqtt_bridge_{name} ")), "{name} in {metrics}");
    }
    assert_eq!(process.0.try_wait().unwrap(), None);
    let terminated = Command::new("kill").arg(process.0.id().to_string()).status().unwrap();
    assert!(terminated.success());
    assert!(tokio::task::spawn_blocking(move || process.0.wait().unwrap()).await.unwrap().success());
}

/// In a pod the broker serves devices whether the bridge has come or not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_before_the_program_first_runs_becomes_documents() {
    let rig = Rig::start("early");
    rig.publish((0..100).map(|n| format!("{{\"n\":{n}}}"))).await;
    let port = configure(&rig, Sink::File { directory: rig.telemetry() });
    let _process = start(&rig);
    rig.publish((100..200).map(|n| format!("{{\"n\":{n}}}"))).await;
    reported(&rig, port, "all of it", |report| report.indexed == 200 && report.in_flight == 0).await;
    let text = std::fs::read_to_string(rig.telemetry().join("logs-mqtt.early-it.ndjson")).unwrap();
    let documents = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let numbers: Vec<_> = documents.map(|document| document["payload"]["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
}

/// Kilobytes of memory that a process uses.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_with_large_messages_fills_no_memory() {
    let rig = Rig::start("large");
    let port = configure(&rig, elasticsearch("http://127.0.0.1:9"));
    let process = start(&rig);
    reported(&rig, port, "a bridge that is connected", |report| report.state == BridgeState::Unreachable).await;
    // 80 MB, each message of which is held twice, as it came and as a document.
    rig.publish((0..800).map(|_| vec![b'x'; 100_000])).await;
    let report = reported(&rig, port, "some of it", |report| report.in_flight > 40).await;
    let kilobytes = resident(&process);
    assert!(kilobytes < 70_000, "{kilobytes} kB, {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_that_was_acknowledged_is_missing_after_sigkill() {
    let rig = Rig::start("sigkill");
    let directory = rig.telemetry();
    let port = configure(&rig, Sink::File { directory: directory.clone() });
    let process = start(&rig);
    reported(&rig, port, "a bridge that works", |report| report.message.is_empty()).await;
    drop(process);
    for round in 0..4_u64 {
        rig.publish((0..2000).map(|n| format!("{{\"n\":{}}}", round * 2000 + n))).await;
        let process = start(&rig);
        reported(&rig, port, "messages", |report| report.received > 0).await;
        drop(process);
    }
    let _process = start(&rig);
    let path = directory.join("logs-mqtt.sigkill-it.ndjson");
    await_until(LONG, "every reading", async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        let mut numbers: Vec<u64> = whole
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["payload"]["n"].as_u64().unwrap())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() == 8000 { Ok(()) } else { Err(numbers.len()) }
    })
    .await;
}
