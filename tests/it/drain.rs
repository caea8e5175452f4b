//! What becomes of clients, and of what was acknowledged, when a broker is told to stop.

use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use mqtt_operator::client::{self, Error, Message, Options};
use mqtt_operator::config::broker::Storage;
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{PASSWORD, await_until, free_ports, write_etc};

const DEADLINE: Duration = Duration::from_secs(30);
/// More than are sent away at a time.
const CLIENTS: usize = 35;

/// The program, in a process of its own, that keeps what it acknowledges.
struct Process(Child);

impl Process {
    async fn start(etc: &Path, state: &Path, address: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"));
        command.arg("--etc").arg(etc).arg("--state").arg(state).env("RUST_LOG", "warn");
        let process = Self(command.spawn().unwrap());
        await_until(DEADLINE, "the broker", async || TcpStream::connect(address).await.map(drop)).await;
        process
    }

    async fn terminate(mut self) -> ExitStatus {
        assert!(Command::new("kill").arg(self.0.id().to_string()).status().unwrap().success());
        await_until(DEADLINE, "its end", async || self.0.try_wait().unwrap().ok_or("it runs")).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn options(address: &str, id: impl Into<String>, version: Version) -> Options {
    let (username, password) = (Some("u1".into()), Some(PASSWORD.to_vec()));
    Options { version, username, password, ..Options::new(address, id) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_told_to_stop_says_so_to_every_client_and_keeps_what_it_has_acknowledged() {
    let [port, admin] = free_ports();
    let (etc, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_etc(etc.path(), |config| {
        config.listeners[0].port = port;
        config.admin.set_port(admin);
        config.storage = Some(Storage::default());
    });
    let address = format!("127.0.0.1:{port}");
    let broker = Process::start(etc.path(), state.path(), &address).await;

    let away = Options { clean_start: false, session_expiry: Some(3600), ..options(&address, "away", Version::V5) };
    let (client, _incoming, _) = client::connect(&away).await.unwrap();
    let at_least_once = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    client.subscribe(&[("t/kept", at_least_once)]).await.unwrap();
    client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let version = if n % 7 == 0 { Version::V311 } else { Version::V5 };
        let (client, incoming, _) = client::connect(&options(&address, format!("c{n}"), version)).await.unwrap();
        clients.push((version, client, incoming));
    }
    for n in 0..20 {
        let message = Message::new("t/kept", n.to_string(), QoS::AtLeastOnce);
        clients[n % CLIENTS].1.publish(&message).await.unwrap();
    }

    let ends = broker.terminate();
    let told = async {
        for (version, _client, mut incoming) in clients {
            let end = timeout(DEADLINE, incoming.next()).await.unwrap();
            match (version, end) {
                (Version::V5, Some(Err(Error::Disconnected { code, .. }))) => {
                    assert_eq!(code, ReasonCode::SERVER_SHUTTING_DOWN);
                }
                (Version::V5, other) => panic!("{other:?}"),
                (_, end) => assert!(!matches!(end, Some(Ok(_))), "{end:?}"),
            }
        }
    };
    let (status, ()) = tokio::join!(ends, told);
    assert!(status.success(), "{status}");

    let _broker = Process::start(etc.path(), state.path(), &address).await;
    let (_client, mut incoming, connack) = client::connect(&away).await.unwrap();
    assert!(connack.session_present);
    for n in 0..20 {
        let delivery = timeout(DEADLINE, incoming.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(delivery.message.payload, n.to_string().into_bytes());
    }
}
