//! What a broker does with a journal that is not as it left it, with one that is full, and with company.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mqtt_operator::client::{self, Acknowledge, Client, Incoming, Message, Options};
use mqtt_operator::config::broker::{Broker as Config, Storage};
use mqtt_operator::config::files::Etc;
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};
use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use crate::support::{PASSWORD, await_until, free_ports, write_etc};

const DEADLINE: Duration = Duration::from_secs(30);
const MESSAGES: usize = 200;

/// A directory with documents, and state beside them.
fn directory(size: u64) -> TempDir {
    let [admin] = free_ports();
    let directory = tempfile::tempdir().unwrap();
    write_etc(&directory.path().join("etc"), |config| {
        config.admin.set_port(admin);
        config.storage = Some(Storage { size, ..Storage::default() });
    });
    directory
}

async fn start(directory: &TempDir) -> Process {
    let path = directory.path();
    Process::start(&path.join("etc"), &path.join("state"), None).await.unwrap_or_else(|error| panic!("{}", error.0))
}

async fn connect(broker: &Process, id: &str) -> (Client, Incoming, bool) {
    let (client, incoming, connected) = client::connect(&Options {
        version: Version::V5,
        username: Some("u1".into()),
        password: Some(PASSWORD.to_vec()),
        clean_start: false,
        session_expiry: Some(3600),
        acknowledge: Acknowledge::Automatic,
        ..Options::new(broker.address.to_string(), id)
    })
    .await
    .unwrap();
    (client, incoming, connected.session_present)
}

/// A session that has subscribed, and gone away.
async fn leave_a_session(broker: &Process) {
    let (subscriber, _incoming, _) = connect(broker, "subscriber").await;
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    subscriber.subscribe(&[("t/#", options)]).await.unwrap();
    subscriber.disconnect(ReasonCode::SUCCESS).await.unwrap();
}

/// The payloads that come until the last one.
async fn all_until(incoming: &mut Incoming, last: &str) -> Vec<String> {
    let mut came = Vec::new();
    while came.last().is_none_or(|payload| payload != last) {
        let next = tokio::time::timeout(DEADLINE, incoming.next()).await;
        let delivery = next.unwrap_or_else(|_| panic!("{last} does not come after {came:?}")).unwrap().unwrap();
        came.push(String::from_utf8_lossy(&delivery.message.payload).into_owned());
    }
    came
}

/// The segment that has these bytes, and where.
fn find(state: &Path, text: &str) -> (PathBuf, usize) {
    let segments = std::fs::read_dir(state.join("journal")).unwrap().flatten().map(|entry| entry.path());
    for path in segments.filter(|path| path.extension().is_some_and(|it| it == "log")) {
        let bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
            return (path, at);
        }
    }
    panic!("{text} is in no segment")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_costs_one_message_and_the_report_says_which_place() {
    let directory = directory(64 << 20);
    let broker = start(&directory).await;
    leave_a_session(&broker).await;
    let (publisher, _incoming, _) = connect(&broker, "publisher").await;
    let payload = |number: usize| format!("message {number:04}");
    for number in 0..MESSAGES {
        let message = Message::new("t/a", payload(number), QoS::AtLeastOnce);
        assert_eq!(publisher.publish(&message).await.unwrap(), ReasonCode::SUCCESS);
    }
    broker.kill();

    let state = directory.path().join("state");
    let (segment, at) = find(&state, &payload(100));
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(&segment, bytes).unwrap();

    let broker = start(&directory).await;
    let (_subscriber, mut incoming, present) = connect(&broker, "subscriber").await;
    assert!(present, "the session is somewhere else than the damage");
    let came = all_until(&mut incoming, &payload(MESSAGES - 1)).await;
    let expected: Vec<String> = (0..MESSAGES).filter(|number| *number != 100).map(payload).collect();
    assert_eq!(came, expected);
    let report: Value = serde_json::from_slice(&std::fs::read(state.join("journal/report.json")).unwrap()).unwrap();
    assert_eq!(report["damagedPlaces"], 1, "{report:#}");
    let saved = std::fs::read_dir(state.join("journal/damaged")).unwrap().count();
    assert_eq!(saved, 1, "{report:#}");
    assert!(broker.said().contains("damaged"), "the log says it as well: {}", broker.said());
    let etc = Etc(directory.path().join("etc"));
    let config: Config = serde_json::from_slice(&std::fs::read(etc.broker()).unwrap()).unwrap();
    let metrics = reqwest::get(format!("http://{}/metrics", config.admin)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("\nmqtt_storage_damaged_places 1\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_broker_on_the_same_directory_does_not_start() {
    let directory = directory(64 << 20);
    let first = start(&directory).await;
    let state = directory.path().join("state");
    let second = Process::start(&directory.path().join("etc"), &state, None).await.unwrap_err();
    assert!(second.0.contains(&*state.to_string_lossy()), "{}", second.0);
    leave_a_session(&first).await;
}

/// A session that does not come takes all the room there is; when it comes, there is room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_room_is_used_up_publications_are_refused_until_there_is_room_again() {
    let directory = directory(8 << 20);
    let broker = start(&directory).await;
    leave_a_session(&broker).await;
    let (publisher, mut nothing, _) = connect(&broker, "publisher").await;
    let options = SubscriptionOptions { qos: QoS::AtMostOnce, ..SubscriptionOptions::default() };
    publisher.subscribe(&[("t/other", options)]).await.unwrap();
    let mut taken = Vec::new();
    let refused = loop {
        let payload = format!("{} {}", taken.len(), "x".repeat(32 << 10));
        let code = publisher.publish(&Message::new("t/a", payload.clone(), QoS::AtLeastOnce)).await.unwrap();
        if code.is_failure() {
            break code;
        }
        taken.push(payload);
        assert!(taken.len() < 1000, "nothing is refused");
    };
    assert_eq!(refused, ReasonCode::QUOTA_EXCEEDED);
    assert!(taken.len() > 50, "only {} were taken", taken.len());
    publisher.publish(&Message::new("t/other", "still served", QoS::AtMostOnce)).await.unwrap();
    assert_eq!(all_until(&mut nothing, "still served").await.len(), 1);

    // What was acknowledged is there, over a kill of a broker whose room is used up.
    broker.kill();
    let broker = start(&directory).await;
    let (_subscriber, mut incoming, present) = connect(&broker, "subscriber").await;
    assert!(present);
    assert_eq!(all_until(&mut incoming, taken.last().unwrap()).await, taken);
    let (publisher, _incoming, _) = connect(&broker, "publisher").await;
    await_until(DEADLINE, "room again", async || {
        match publisher.publish(&Message::new("t/a", "again", QoS::AtLeastOnce)).await.unwrap() {
            code if code.is_failure() => Err(code),
            _ => Ok(()),
        }
    })
    .await;
    assert!(all_until(&mut incoming, "again").await.len() < 3);
}
