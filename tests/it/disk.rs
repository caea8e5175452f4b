//! What a broker of its own process does when the disk below it is full, fails, or is read-only: real disks, as small as
//! the test wants them. What a disk does at a loss of power is simulated beside the journal.

mod small;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mqtt_operator::client::{self, Client, Error, Incoming, Message, Options, Sent};
use mqtt_operator::config::broker::Storage;
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};
use tempfile::TempDir;

use crate::crash::process::{NotStarted, PROGRAM, Process};
use crate::support::{PASSWORD, await_until, free_ports, value, write_etc};
use small::SmallDisk;

const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at whether the broker can keep more.
const LOOK: Duration = Duration::from_millis(100);
const MIB: usize = 1 << 20;
/// What the journal may take: more than any disk of these tests has. Its files have a MiB each.
const SIZE: u64 = 64 << 20;
/// Publications that are on their way at a time: few, as the broker is to notice in time that the next file of the journal
/// cannot be made, which is a thread's work on a machine that may be busy.
const TOGETHER: usize = 4;
/// Bytes of each of them, about.
const PAYLOAD: usize = 16 << 10;

/// A broker on a small disk, and what it has acknowledged for the sessions that are away.
struct Scene {
    disk: SmallDisk,
    etc: TempDir,
    admin: String,
    sent: usize,
    /// What was sent and is not answered yet, in its order, and who has sent it.
    waiting: VecDeque<(String, Sent)>,
    publishers: Vec<(Client, Incoming)>,
    acknowledged: Vec<String>,
    /// What was not answered when the broker was killed: it may have been kept, or not.
    unanswered: BTreeSet<String>,
}

impl Scene {
    fn on(disk: SmallDisk) -> Self {
        let etc = tempfile::tempdir().unwrap();
        let [admin] = free_ports();
        write_etc(etc.path(), |config| {
            config.admin.set_port(admin);
            config.storage = Some(Storage { size: SIZE, ..Storage::default() });
        });
        let admin = format!("http://127.0.0.1:{admin}");
        Self {
            disk,
            etc,
            admin,
            sent: 0,
            waiting: VecDeque::new(),
            publishers: Vec::new(),
            acknowledged: Vec::new(),
            unanswered: BTreeSet::new(),
        }
    }

    fn state(&self) -> PathBuf {
        self.disk.inside().join("state")
    }

    async fn start(&self) -> Result<Process, NotStarted> {
        Process::run(self.disk.command(PROGRAM), self.etc.path(), &self.state()).await
    }

    async fn started(&self) -> Process {
        self.start().await.unwrap_or_else(|error| panic!("{}", error.0))
    }

    async fn is_ready(&self) -> bool {
        reqwest::get(format!("{}/readyz", self.admin)).await.unwrap().status() == 200
    }

    async fn await_health(&self, wanted: u64) {
        await_health(&self.admin, wanted).await;
    }

    /// Sends some of what the sessions that are away get.
    async fn send_some(&mut self, publisher: &Client) {
        for _ in 0..TOGETHER {
            self.sent += 1;
            let payload = format!("{} {}", self.sent, "x".repeat(PAYLOAD));
            let sent = publisher.send(&Message::new("t/kept", payload.clone(), QoS::AtLeastOnce)).await.unwrap();
            self.waiting.push_back((payload, sent));
        }
    }

    /// Notes the answers as they come; says the codes of those that are refusals. With `until_full` it does not wait for
    /// what the broker cannot answer before there is room.
    async fn answers(&mut self, until_full: bool) -> BTreeSet<ReasonCode> {
        let began = Instant::now();
        let mut refused = BTreeSet::new();
        while let Some((payload, sent)) = self.waiting.front_mut() {
            match tokio::time::timeout(LOOK, sent).await {
                Ok(answer) => {
                    match answer.unwrap() {
                        ReasonCode::SUCCESS => self.acknowledged.push(std::mem::take(payload)),
                        code => drop(refused.insert(code)),
                    }
                    self.waiting.pop_front();
                }
                Err(_) if until_full && health(&self.admin).await > 0 => break,
                Err(_) => assert!(began.elapsed() < DEADLINE, "{} are not answered", self.waiting.len()),
            }
        }
        refused
    }

    /// Publishes some; answers whether all is acknowledged.
    async fn publish_some(&mut self, publisher: &Client) -> bool {
        self.send_some(publisher).await;
        self.answers(false).await.is_empty()
    }

    /// Publishes until the broker can keep no more, which it says with this code.
    async fn publish_until_refused(&mut self, broker: &Process, code: ReasonCode) {
        let (publisher, incoming) = plain(broker, "filler", Version::V5).await;
        let mut refused = BTreeSet::new();
        while refused.is_empty() && health(&self.admin).await == 0 {
            assert!(self.sent * PAYLOAD < SIZE as usize, "nothing is refused");
            self.send_some(&publisher).await;
            refused = self.answers(true).await;
        }
        assert!(refused.iter().all(|it| *it == code), "{refused:?}");
        self.publishers.push((publisher, incoming));
        let (other, _incoming) = plain(broker, "other", Version::V5).await;
        let answer = other.publish(&Message::new("t/kept", "refused", QoS::AtLeastOnce)).await.unwrap();
        assert_eq!(answer, code);
    }

    /// Publishes until everything of some is acknowledged again.
    async fn publish_until_taken(&mut self, publisher: &Client) {
        await_until(DEADLINE, "publications acknowledged again", async || {
            if self.publish_some(publisher).await { Ok(()) } else { Err("they are refused") }
        })
        .await;
    }

    /// Fills the disk to the last byte, kills the broker, and starts it there again.
    async fn started_again_on_a_full_disk(&mut self, broker: Process) -> Process {
        self.publish_until_refused(&broker, ReasonCode::QUOTA_EXCEEDED).await;
        let filled = std::fs::write(self.disk.outside().join("more"), vec![1; 8 * MIB]);
        assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        self.kill(broker);
        let broker = self.started().await;
        self.await_health(1).await;
        broker
    }

    fn kill(&mut self, broker: Process) {
        assert_eq!(broker.kill(), None, "it panicked");
        self.unanswered.extend(self.waiting.drain(..).map(|(payload, _)| payload));
    }

    /// The sessions that were away get what was acknowledged, in order, once, and nothing else.
    async fn everything_comes(&mut self, broker: &Process) {
        let (publisher, _incoming) = plain(broker, "last words", Version::V5).await;
        assert!(self.publish_some(&publisher).await, "what is refused now would not be looked for");
        self.what_was_acknowledged_comes(broker).await;
    }

    async fn what_was_acknowledged_comes(&self, broker: &Process) {
        for version in [Version::V311, Version::V5] {
            let (_client, mut incoming, present) = lasting(broker, &away(version), version).await.unwrap();
            assert!(present, "the session of {version} is there");
            let last = self.acknowledged.last().unwrap();
            let mut came = all_until(&mut incoming, last).await;
            came.retain(|payload| !self.unanswered.contains(payload));
            let differs = came.iter().zip(&self.acknowledged).position(|(one, other)| one != other);
            let short = |payload: &String| payload.split(' ').next().unwrap().to_owned();
            let around = differs.map(|at| (short(&came[at]), short(&self.acknowledged[at])));
            assert_eq!((came.len(), around), (self.acknowledged.len(), None), "{version}");
        }
    }
}

/// What the broker with this admin port says of its journal.
async fn health(admin: &str) -> u64 {
    let metrics = reqwest::get(format!("{admin}/metrics")).await.unwrap().text().await.unwrap();
    value(&metrics, "mqtt_storage_health").unwrap_or_else(|| panic!("no health in {metrics}")) as u64
}

async fn await_health(admin: &str, wanted: u64) {
    await_until(DEADLINE, "that health of the journal", async || match health(admin).await {
        health if health == wanted => Ok(()),
        other => Err(other),
    })
    .await;
}

fn away(version: Version) -> String {
    format!("away {version}")
}

fn options(broker: &Process, id: &str, version: Version) -> Options {
    let (username, password) = (Some("u1".into()), Some(PASSWORD.to_vec()));
    Options { version, username, password, ..Options::new(broker.address.to_string(), id) }
}

/// A client whose session ends with its connection.
async fn plain(broker: &Process, id: &str, version: Version) -> (Client, Incoming) {
    let (client, incoming, _) = client::connect(&options(broker, id, version)).await.unwrap();
    (client, incoming)
}

/// A client whose session outlives its connection.
async fn lasting(broker: &Process, id: &str, version: Version) -> Result<(Client, Incoming, bool), Error> {
    let session_expiry = Some(3600).filter(|_| version == Version::V5);
    let options = Options { clean_start: false, session_expiry, ..options(broker, id, version) };
    let (client, incoming, connected) = client::connect(&options).await?;
    Ok((client, incoming, connected.session_present))
}

async fn subscribe(client: &Client, filter: &str) {
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    assert_eq!(client.subscribe(&[(filter, options)]).await.unwrap(), [ReasonCode::GRANTED_QOS_1]);
}

/// A session of each version subscribes and goes away.
async fn leave_sessions(broker: &Process) {
    for version in [Version::V311, Version::V5] {
        let (client, _incoming, _) = lasting(broker, &away(version), version).await.unwrap();
        subscribe(&client, "t/kept").await;
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }
}

/// The payloads that come until the last one.
async fn all_until(incoming: &mut Incoming, last: &str) -> Vec<String> {
    let mut came = Vec::new();
    while came.last().is_none_or(|payload| payload != last) {
        let next = tokio::time::timeout(DEADLINE, incoming.next()).await;
        let delivery = next.unwrap_or_else(|_| panic!("only {} come", came.len())).unwrap().unwrap();
        came.push(String::from_utf8_lossy(&delivery.message.payload).into_owned());
    }
    came
}

/// What needs no disk goes on: QoS 0, and QoS 1 for those who are there and whose sessions end with their connections.
async fn what_needs_no_keeping_is_served(broker: &Process, publisher: &Client) {
    let (listener, mut heard) = plain(broker, "listener", Version::V311).await;
    subscribe(&listener, "t/live").await;
    for (text, qos) in [("at most once", QoS::AtMostOnce), ("at least once", QoS::AtLeastOnce)] {
        let code = publisher.publish(&Message::new("t/live", text, qos)).await.unwrap();
        assert_eq!(code, ReasonCode::SUCCESS);
        assert_eq!(all_until(&mut heard, text).await, [text]);
    }
    let nobody = publisher.publish(&Message::new("t/nobody", "", QoS::AtLeastOnce)).await.unwrap();
    assert_eq!(nobody, ReasonCode::NO_MATCHING_SUBSCRIBERS);
}

/// MQTT 3.1.1 has no word for it.
async fn of_version_3_the_publisher_is_closed(broker: &Process) {
    let (publisher, _incoming) = plain(broker, "of version 3", Version::V311).await;
    let answer = publisher.publish(&Message::new("t/kept", "refused", QoS::AtLeastOnce)).await;
    assert!(matches!(answer, Err(Error::ClosedByServer | Error::Io { .. })), "{answer:?}");
}

/// Takes room from the disk.
fn ballast(disk: &SmallDisk) -> PathBuf {
    let path = disk.outside().join("ballast");
    std::fs::write(&path, vec![1; 3 * MIB]).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_what_must_be_kept_is_refused_and_with_room_again_it_goes_on_by_itself() {
    let mut scene = Scene::on(SmallDisk::mount("size=10m"));
    let ballast = ballast(&scene.disk);
    let mut broker = scene.started().await;
    leave_sessions(&broker).await;
    let (publisher, _incoming) = plain(&broker, "publisher", Version::V5).await;
    scene.publish_until_refused(&broker, ReasonCode::QUOTA_EXCEEDED).await;
    assert!(scene.acknowledged.len() * PAYLOAD > 3 * MIB, "only {} were taken", scene.acknowledged.len());
    assert_eq!(health(&scene.admin).await, 1);
    assert!(scene.is_ready().await, "MQTT is served");

    let retained = publisher.publish(&Message::new("t/r", "refused", QoS::AtLeastOnce).retained()).await.unwrap();
    assert_eq!(retained, ReasonCode::QUOTA_EXCEEDED);
    of_version_3_the_publisher_is_closed(&broker).await;
    what_needs_no_keeping_is_served(&broker, &publisher).await;
    for version in [Version::V311, Version::V5] {
        let id = format!("new {version}");
        let (late, _incoming, present) = lasting(&broker, &id, version).await.unwrap();
        subscribe(&late, "t/late").await;
        assert!(!present);
        late.disconnect(ReasonCode::SUCCESS).await.unwrap();
        assert!(lasting(&broker, &id, version).await.unwrap().2, "the session of {version} is there");
    }

    std::fs::remove_file(ballast).unwrap();
    scene.publish_until_taken(&publisher).await;
    scene.await_health(0).await;
    for _ in 0..16 {
        assert!(scene.publish_some(&publisher).await);
    }
    scene.everything_comes(&broker).await;
    assert_eq!(broker.ended(), None, "it is the same process");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_on_a_full_disk_starts_there_and_has_what_it_acknowledged() {
    let mut scene = Scene::on(SmallDisk::mount("size=8m"));
    let ballast = ballast(&scene.disk);
    let broker = scene.started().await;
    leave_sessions(&broker).await;
    let broker = scene.started_again_on_a_full_disk(broker).await;
    let (publisher, _incoming) = plain(&broker, "publisher", Version::V5).await;
    what_needs_no_keeping_is_served(&broker, &publisher).await;
    std::fs::remove_file(ballast).unwrap();
    scene.await_health(0).await;
    scene.everything_comes(&broker).await;
}

/// Of the disk there is less left than a file of the journal takes: what a session needs to come back finds its room, and
/// what it has taken leaves room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_come_back_to_a_broker_that_has_started_on_a_full_disk_and_so_make_room() {
    let mut scene = Scene::on(SmallDisk::mount("size=8m"));
    let broker = scene.started().await;
    leave_sessions(&broker).await;
    let broker = scene.started_again_on_a_full_disk(broker).await;
    scene.what_was_acknowledged_comes(&broker).await;
    scene.await_health(0).await;
    let (publisher, _incoming) = plain(&broker, "publisher", Version::V5).await;
    assert!(scene.publish_some(&publisher).await);
}

/// The limit on the size of files ends a write halfway, in a file that was whole before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_write_has_done_by_half_is_written_again_elsewhere() {
    let mut scene = Scene::on(SmallDisk::mount("size=64m"));
    let broker = scene.started().await;
    leave_sessions(&broker).await;
    let (publisher, _incoming) = plain(&broker, "publisher", Version::V5).await;
    assert!(scene.publish_some(&publisher).await);
    let process = broker.id().to_string();
    scene.disk.run("prlimit", &["--pid", &process, &format!("--fsize={}:", MIB / 2)]);
    scene.publish_until_refused(&broker, ReasonCode::QUOTA_EXCEEDED).await;
    assert!(broker.said().contains("File too large"), "{}", broker.said());
    let (publisher, _incoming) = plain(&broker, "after that", Version::V5).await;
    what_needs_no_keeping_is_served(&broker, &publisher).await;
    scene.disk.run("prlimit", &["--pid", &process, "--fsize=unlimited:"]);
    scene.publish_until_taken(&publisher).await;
    scene.await_health(0).await;
    assert!(scene.publish_some(&publisher).await);
    scene.kill(broker);
    let broker = scene.started().await;
    scene.everything_comes(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_that_becomes_read_only_lasting_sessions_are_refused_until_it_can_be_written_again() {
    let mut scene = Scene::on(SmallDisk::mount("size=64m"));
    let mut broker = scene.started().await;
    leave_sessions(&broker).await;
    let (publisher, _incoming) = plain(&broker, "publisher", Version::V5).await;
    assert!(scene.publish_some(&publisher).await);
    // What is open stays writable; nothing else is. The system lets nobody take that away from who has a file open.
    let journal = scene.state().join("journal");
    let journal = journal.to_str().unwrap();
    scene.disk.run("mount", &["--bind", journal, journal]);
    scene.disk.run("mount", &["-o", "remount,bind,ro", journal]);
    scene.publish_until_refused(&broker, ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR).await;
    scene.await_health(2).await;
    assert!(scene.is_ready().await, "MQTT is served");
    of_version_3_the_publisher_is_closed(&broker).await;
    what_needs_no_keeping_is_served(&broker, &publisher).await;
    for version in [Version::V311, Version::V5] {
        let refused = lasting(&broker, "new", version).await.map(drop);
        let Err(Error::Refused { code, .. }) = refused else { panic!("{version}: {refused:?}") };
        assert_eq!(code, ReasonCode::SERVER_UNAVAILABLE, "{version}");
    }

    scene.disk.run("umount", &[journal]);
    scene.publish_until_taken(&publisher).await;
    scene.await_health(0).await;
    let (new, _incoming, _) = lasting(&broker, "new", Version::V5).await.unwrap();
    subscribe(&new, "t/new").await;
    for _ in 0..16 {
        assert!(scene.publish_some(&publisher).await);
    }
    scene.everything_comes(&broker).await;
    assert_eq!(broker.ended(), None, "it is the same process");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_read_only_disk_no_broker_starts_and_the_next_step_is_said() {
    let scene = Scene::on(SmallDisk::mount("size=16m"));
    scene.started().await.kill();
    let journal = scene.state().join("journal");
    for (directory, next) in [(journal, "this user may write there"), (scene.disk.inside().to_owned(), "--state")] {
        let directory: &Path = &directory;
        let text = directory.to_str().unwrap();
        scene.disk.run("mount", &["--bind", text, text]);
        scene.disk.run("mount", &["-o", "remount,bind,ro", text]);
        let said = scene.start().await.unwrap_err().0;
        for part in [text, next, "Read-only file system"] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        scene.disk.run("umount", &[text]);
    }
    scene.started().await;
}
