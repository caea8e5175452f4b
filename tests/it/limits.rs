//! Every limit at its value and at one past it, over real sockets, in each version to which it applies.

mod age;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use mqtt_operator::client::{self, Client, Incoming, Message, Options};
use mqtt_operator::config::broker::{Broker as Config, QueueFull, Rate};
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, ReasonCode};
use mqtt_operator::process::open_files;
use tempfile::TempDir;

use crate::mqtt::wire::*;
use crate::support::{Broker, PASSWORD, await_until, free_ports, open, wait_until, write_etc};

const V5: Version = Version::V5;
const QOS_1: u8 = 0x32;
const QOS_2: u8 = 0x34;
const RETAIN: u8 = 0x01;
const QUOTA: u8 = 0x97;

fn metrics_of(admin: u16) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", admin)).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

/// How often a limit has refused something.
fn refusals(broker: &Broker, limit: &str) -> u64 {
    let text = metrics_of(broker.admin().port());
    let name = format!("mqtt_limit_refusals_total{{limit=\"{limit}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).trim().parse().unwrap()
}

/// Waits until a limit has refused something so many times; the answer to the client may come first.
#[track_caller]
fn counted(broker: &Broker, limit: &str, wanted: u64) {
    wait_until(DEADLINE, limit, || match refusals(broker, limit) {
        n if n == wanted => Ok(()),
        n => Err(n),
    });
}

/// A CONNECT that is refused.
fn refused(broker: &Broker, connect: &Connect, code_5: u8, code_3: u8) {
    let mut wire = Wire::open(broker, connect.version);
    wire.send(&connect.bytes());
    wire.expect_connect_refused(code_5, code_3);
}

fn puback(version: Version, id: u16, code: u8) -> Vec<u8> {
    if version != V5 || code == 0 { packet![0x40; Be16(id)] } else { packet![0x40; Be16(id), code] }
}

/// Reads an acknowledgement of 5.0 and looks at its identifier and code, whatever its Reason String is.
fn expect_code(wire: &mut Wire, first: u8, id: u16, code: u8) {
    let frame = wire.expect_packet();
    assert_eq!((frame.first, &frame.body[..2]), (first, &id.to_be_bytes()[..]));
    assert_eq!(frame.body.get(2).copied().unwrap_or(0), code);
}

#[test]
fn one_connection_too_many_is_refused_and_a_free_place_is_taken() {
    each_version(|version| {
        let broker = broker_with(|config| config.limits.max_connections = 2);
        let first = Wire::connect(&broker, version, "a");
        let _second = Wire::connect(&broker, version, "b");
        refused(&broker, &Connect::new(version, "c"), QUOTA, 3);
        counted(&broker, "maxConnections", 1);
        first.disconnect();
        wait_until(DEADLINE, "a free place", || {
            let mut wire = Wire::open(&broker, version);
            wire.send(&Connect::new(version, "c").bytes());
            let frame = wire.expect_packet();
            if frame.body[1] == 0 { Ok(()) } else { Err(frame.body[1]) }
        });
    });
}

#[test]
fn one_connection_too_many_of_an_address_is_refused() {
    each_version(|version| {
        let broker = broker_with(|config| config.limits.max_connections_per_address = 2);
        let _first = Wire::connect(&broker, version, "a");
        let _second = Wire::connect(&broker, version, "b");
        refused(&broker, &Connect::new(version, "c"), QUOTA, 3);
        counted(&broker, "maxConnectionsPerAddress", 1);
    });
}

#[test]
fn connects_that_come_too_fast_are_refused() {
    let slow = Some(Rate { amount: 2, seconds: 3600 });
    each_version(|version| {
        for (name, broker) in [
            ("connectRate", broker_with(|config| config.limits.connect_rate = slow)),
            ("connectRatePerAddress", broker_with(|config| config.limits.connect_rate_per_address = slow)),
        ] {
            let _first = Wire::connect(&broker, version, "a");
            let _second = Wire::connect(&broker, version, "b");
            refused(&broker, &Connect::new(version, "c"), 0x9F, 3);
            counted(&broker, name, 1);
        }
    });
}

#[test]
fn a_client_that_does_not_finish_its_connect_is_disconnected() {
    let broker = broker_with(|config| config.limits.connect_timeout = 1);
    let connect = Connect::new(V5, "slow").bytes();
    let mut wire = Wire::open(&broker, V5);
    wire.send(&connect[..connect.len() - 1]);
    let began = Instant::now();
    wire.expect_close();
    assert!(began.elapsed().as_millis() >= 900, "{:?}", began.elapsed());
    counted(&broker, "connectTimeout", 1);
}

#[test]
fn a_connect_has_its_largest_size() {
    each_version(|version| {
        let mut connect = Connect::new(version, "c").will(0, false, "t/will", &[b'w'; 2000]);
        let size = connect.bytes().len() as u32;
        let broker = broker_with(|config| config.limits.max_connect_size = size);
        Wire::accepted(&broker, &connect).0.disconnect();
        connect.will.as_mut().unwrap().payload.push(b'w');
        let mut wire = Wire::open(&broker, version);
        wire.send(&connect.bytes());
        if version == V5 {
            wire.expect_bad_connect(0x95);
        } else {
            wire.expect_close();
        }
        counted(&broker, "maxConnectSize", 1);
    });
}

#[test]
fn a_client_identifier_has_its_longest_length() {
    each_version(|version| {
        let broker = broker_with(|config| config.limits.max_client_id_length = 30);
        Wire::connect(&broker, version, &"c".repeat(30)).disconnect();
        refused(&broker, &Connect::new(version, &"c".repeat(31)), 0x85, 2);
        counted(&broker, "maxClientIdLength", 1);
    });
}

#[test]
fn there_are_no_more_sessions_than_may_be_and_those_that_are_go_on() {
    each_version(|version| {
        let broker = broker_with(|config| config.limits.max_sessions = 2);
        Wire::accepted(&broker, &Connect::kept(version, 1)).0.disconnect();
        Wire::accepted(&broker, &Connect::kept(version, 2)).0.disconnect();
        refused(&broker, &Connect::kept(version, 3), QUOTA, 3);
        counted(&broker, "maxSessions", 1);
        Wire::accepted(&broker, &Connect::kept(version, 1)).0.disconnect();
    });
}

#[test]
fn a_packet_has_its_largest_size() {
    each_version(|version| {
        let broker = broker_with(|config| config.limits.max_packet_size = 2048);
        let mut wire = Wire::connect(&broker, version, "c");
        let empty = publish(version, QOS_1, "t/a", 1, &[0; 1000]).len() - 1000;
        wire.ask(&publish(version, QOS_1, "t/a", 1, &vec![0; 2048 - empty]), &ack_nobody(version, 1));
        // The header alone is enough to refuse it: the rest is never sent.
        wire.send(&publish(version, QOS_1, "t/a", 2, &vec![0; 2049 - empty])[..3]);
        wire.expect_refusal(0x95);
        counted(&broker, "maxPacketSize", 1);
    });
}

/// PUBACK of a publication that nobody has subscribed to.
fn ack_nobody(version: Version, id: u16) -> Vec<u8> {
    puback(version, id, 0x10)
}

#[test]
fn a_packet_has_its_most_user_properties() {
    let broker = broker_with(|config| config.limits.max_properties = 3);
    let with = |count: usize| {
        let user = bytes![0x26, "n", "v"].repeat(count);
        packet![QOS_1; "t/a", Be16(1), block(&user), b"x"]
    };
    let mut wire = Wire::connect(&broker, V5, "c");
    wire.ask(&with(3), &ack_nobody(V5, 1));
    wire.send(&with(4));
    wire.expect_refusal(QUOTA);
    let user = bytes![0x26, "n", "v"];
    let mut connect = Connect::new(V5, "d").with(&user.repeat(2)).will(0, false, "t/will", b"w");
    connect.will.as_mut().unwrap().properties = user.clone();
    Wire::accepted(&broker, &connect).0.disconnect();
    connect.will.as_mut().unwrap().properties = user.repeat(2);
    let mut wire = Wire::open(&broker, V5);
    wire.send(&connect.bytes());
    wire.expect_bad_connect(QUOTA);
    counted(&broker, "maxProperties", 2);
}

#[test]
fn a_topic_has_its_deepest_level() {
    each_version(|version| {
        let broker = broker_with(|config| {
            config.limits.topic_depth = 4;
            config.limits.deny_budget = Some(Rate { amount: 2, seconds: 3600 });
        });
        let mut wire = Wire::connect(&broker, version, "c");
        wire.ask(&subscribe(version, 1, "t/2/3/4", 0), &packet![0x90; Be16(1), no_props(version), 0]);
        let code = if version == V5 { 0x8F } else { 0x80 };
        wire.ask(&subscribe(version, 2, "t/2/3/4/5", 0), &packet![0x90; Be16(2), no_props(version), code]);
        wire.ask(&subscribe(version, 3, "t/2/3/4/#", 0), &packet![0x90; Be16(3), no_props(version), code]);
        wire.ask(&publish(version, QOS_1, "t/2/3/5", 4, b"x"), &ack_nobody(version, 4));
        wire.send(&publish(version, QOS_1, "t/2/3/4/5", 5, b"x"));
        if version == V5 {
            expect_code(&mut wire, 0x40, 5, 0x90);
        } else {
            // 3.x has no answer: the publication is acknowledged and dropped, and the next one is the last.
            wire.expect(&puback(version, 5, 0));
        }
        wire.send(&publish(version, 0x30, &"t/".repeat(30_000), 0, b"x"));
        if version == V5 {
            wire.send(&publish(version, 0x30, "t/2/3/4/5", 0, b"x"));
        }
        wire.expect_refusal(0x90);
        counted(&broker, "topicDepth", if version == V5 { 5 } else { 4 });
    });
}

#[test]
fn a_client_has_its_most_subscriptions_and_may_make_those_again() {
    each_version(|version| {
        let broker = broker_with(|config| config.limits.max_subscriptions = 2);
        let mut wire = Wire::connect(&broker, version, "c");
        let code = if version == V5 { QUOTA } else { 0x80 };
        let three = packet![0x82; Be16(1), no_props(version), "t/1", 1, "t/2", 1, "t/3", 1];
        wire.ask(&three, &packet![0x90; Be16(1), no_props(version), 1, 1, code]);
        wire.ask(&subscribe(version, 2, "t/1", 0), &packet![0x90; Be16(2), no_props(version), 0]);
        let unsubscribed = only_5(version, vec![0]);
        wire.ask(
            &packet![0xA2; Be16(3), no_props(version), "t/1"],
            &packet![0xB0; Be16(3), no_props(version), unsubscribed],
        );
        wire.ask(&subscribe(version, 4, "t/3", 1), &packet![0x90; Be16(4), no_props(version), 1]);
        counted(&broker, "maxSubscriptions", 1);
    });
}

#[test]
fn no_more_messages_are_retained_than_may_be_and_those_that_are_may_change() {
    each_version(|version| {
        let broker = broker_with(|config| config.limits.max_retained_messages = 2);
        let mut wire = Wire::connect(&broker, version, "c");
        for (id, topic) in [(1, "t/a"), (2, "t/b")] {
            wire.ask(&publish(version, QOS_1 | RETAIN, topic, id, b"x"), &ack_nobody(version, id));
        }
        let mut live = Wire::connect(&broker, version, "live");
        live.subscribe("t/c", 0);
        wire.send(&publish(version, QOS_1 | RETAIN, "t/c", 3, b"y"));
        if version == V5 {
            expect_code(&mut wire, 0x40, 3, QUOTA);
            wire.send(&publish(version, QOS_2 | RETAIN, "t/c", 3, b"y"));
            expect_code(&mut wire, 0x50, 3, QUOTA);
            live.expect_nothing();
        } else {
            wire.expect(&puback(version, 3, 0));
            live.expect(&publish(version, 0x30, "t/c", 0, b"y"));
        }
        wire.ask(&publish(version, QOS_1 | RETAIN, "t/a", 4, b"z"), &ack_nobody(version, 4));
        wire.ask(&publish(version, QOS_1 | RETAIN, "t/b", 5, b""), &ack_nobody(version, 5));
        live.disconnect();
        wire.send(&publish(version, QOS_1 | RETAIN, "t/c", 6, b"new"));
        assert_eq!(wire.expect_packet().first, 0x40);
        counted(&broker, "maxRetainedMessages", if version == V5 { 2 } else { 1 });
        let mut late = Wire::connect(&broker, version, "late");
        late.subscribe("t/c", 0);
        late.expect(&publish(version, 0x30 | RETAIN, "t/c", 0, b"new"));
    });
}

#[test]
fn retained_messages_have_their_most_bytes() {
    let broker = broker_with(|config| config.limits.max_retained_bytes = 10_000);
    let mut wire = Wire::connect(&broker, V5, "c");
    wire.ask(&publish(V5, QOS_1 | RETAIN, "t/a", 1, &[b'x'; 9_000]), &ack_nobody(V5, 1));
    wire.send(&publish(V5, QOS_1 | RETAIN, "t/b", 2, &[b'x'; 1_000]));
    expect_code(&mut wire, 0x40, 2, QUOTA);
    wire.ask(&publish(V5, QOS_1 | RETAIN, "t/a", 3, &[b'x'; 8_000]), &ack_nobody(V5, 3));
    wire.ask(&publish(V5, QOS_1 | RETAIN, "t/b", 4, &[b'x'; 1_000]), &ack_nobody(V5, 4));
    counted(&broker, "maxRetainedBytes", 1);
}

#[test]
fn a_queue_that_refuses_takes_its_most_and_the_publication_after_that_reaches_nobody() {
    each_version(|version| {
        let broker = broker_with(|config| {
            config.limits.max_queued_messages = 2;
            config.limits.queue_full = QueueFull::Refuse;
        });
        let mut away = Wire::accepted(&broker, &Connect::kept(version, 1)).0;
        away.subscribe("t/a", 1);
        away.disconnect();
        wait_until(DEADLINE, "the session to be away", || match broker.report().connections {
            0 => Ok(()),
            n => Err(n),
        });
        let mut here = Wire::connect(&broker, version, "here");
        here.subscribe("t/a", 0);
        let mut from = Wire::connect(&broker, version, "from");
        for id in [1, 2] {
            from.ask(&publish(version, QOS_1, "t/a", id, &[id as u8]), &puback(version, id, 0));
            here.expect(&publish(version, 0x30, "t/a", 0, &[id as u8]));
        }
        from.send(&publish(version, QOS_2, "t/a", 3, b"three"));
        if version == V5 {
            expect_code(&mut from, 0x50, 3, QUOTA);
        } else {
            from.expect_close();
            from = Wire::connect(&broker, version, "from");
        }
        counted(&broker, "queueFull", 1);
        here.expect_nothing();
        // QoS 0 waits in no queue, and goes on.
        from.send(&publish(version, 0x30, "t/a", 0, b"live"));
        here.expect(&publish(version, 0x30, "t/a", 0, b"live"));
        let (mut back, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
        for id in [1, 2] {
            let frame = back.expect_packet();
            assert_eq!((frame.first & 0xF6, *frame.body.last().unwrap()), (QOS_1, id));
        }
        back.expect_nothing();
    });
}

#[test]
fn a_client_that_publishes_too_fast_is_slowed_down_and_loses_nothing() {
    each_version(|version| {
        for (name, broker) in [
            ("messageRate", broker_with(|config| config.limits.message_rate = Some(Rate { amount: 10, seconds: 1 }))),
            ("byteRate", broker_with(|config| config.limits.byte_rate = Some(Rate { amount: 1000, seconds: 1 }))),
        ] {
            let mut to = Wire::connect(&broker, version, "to");
            to.subscribe("t/a", 0);
            let mut from = Wire::connect(&broker, version, "from");
            let began = Instant::now();
            let packets: Vec<u8> = (0..20).flat_map(|n| publish(version, 0x30, "t/a", 0, &[n; 92])).collect();
            from.send(&packets);
            for n in 0..20 {
                assert_eq!(*to.expect_packet().body.last().unwrap(), n);
            }
            // Ten at once, and the rest at ten a second; the last but one was waited for.
            let took = began.elapsed().as_millis();
            assert!((700..5000).contains(&took), "{name}: {took} ms");
            assert!(refusals(&broker, name) >= 5, "{name}");
            from.ask(&[0xC0, 0], &[0xD0, 0]);
        }
    });
}

#[test]
fn the_budget_of_denies_is_what_it_is_set_to() {
    each_version(|version| {
        let broker = broker_with(|config| config.limits.deny_budget = Some(Rate { amount: 5, seconds: 3600 }));
        let mut wire = Wire::connect(&broker, version, "c");
        for _ in 0..4 {
            wire.send(&publish(version, 0x30, "denied", 0, b"x"));
        }
        wire.ask(&[0xC0, 0], &[0xD0, 0]);
        wire.send(&publish(version, 0x30, "denied", 0, b"x"));
        wire.expect_refusal(0x87);
    });
}

/// A broker in a process of its own, so that its memory can be seen. What it keeps is in memory alone.
struct Process {
    child: Child,
    address: String,
    admin: u16,
    _etc: TempDir,
}

impl Process {
    async fn start(adjust: impl FnOnce(&mut Config)) -> Self {
        let [port, admin] = free_ports();
        let etc = tempfile::tempdir().unwrap();
        write_etc(etc.path(), |config| {
            config.listeners[0].port = port;
            config.admin.set_port(admin);
            config.storage = None;
            adjust(config);
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"));
        let child = command.arg("--etc").arg(etc.path()).env("RUST_LOG", "error").spawn().unwrap();
        let broker = Self { child, address: format!("127.0.0.1:{port}"), admin, _etc: etc };
        await_until(DEADLINE, "the broker", async || TcpStream::connect(&broker.address).map(drop)).await;
        broker
    }

    /// How a user's client connects, whose session outlives its connection.
    fn kept(&self, id: String) -> Options {
        let mut options = Options { clean_start: false, ..Options::new(&self.address, id) };
        (options.username, options.password) = (Some("u1".into()), Some(PASSWORD.to_vec()));
        options
    }

    /// The most memory that it has had, in bytes.
    fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn join(address: &str, id: &str) -> (Client, Incoming) {
    let mut options = Options::new(address, id);
    options.version = V5;
    let (client, incoming, _) = client::connect(&options).await.unwrap();
    (client, incoming)
}

/// Publishes numbered messages; answers the numbers that the broker has taken.
async fn publish_all(client: &Client, count: u32) -> Vec<u32> {
    let (mut under_way, mut taken) = (VecDeque::new(), Vec::new());
    for number in 0..count {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(1000, 0);
        under_way.push_back((number, client.send(&Message::new("t/a", payload, QoS::AtLeastOnce)).await.unwrap()));
        while under_way.len() >= 50 || (number + 1 == count && !under_way.is_empty()) {
            let (number, sent) = under_way.pop_front().unwrap();
            if !sent.await.unwrap().is_failure() {
                taken.push(number);
            }
        }
    }
    taken
}

/// Clients that subscribe to everything, half of them at QoS 1, and never read again.
fn slow_subscribers(address: &str, count: usize) -> Vec<TcpStream> {
    let subscribed = |n: usize| {
        let mut socket = TcpStream::connect(address).unwrap();
        let qos = (n % 2) as u8;
        let connect = Connect::new(V5, &format!("slow-{n}")).bytes();
        socket.write_all(&bytes![connect, subscribe(V5, 1, "t/#", qos)]).unwrap();
        // Until SUBACK, so that each has its place before anything is published.
        let mut seen = Vec::new();
        while !seen.ends_with(&packet![0x90; Be16(1), 0, qos]) {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        socket
    };
    (0..count).map(subscribed).collect()
}

/// They hold more than memory has room for, and nobody publishes to them any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_nobody_comes_back_for_do_not_keep_new_clients_out() {
    let broker = Process::start(|config| config.limits.max_memory = Some(48 << 20)).await;
    let options = |id: &str| Options { clean_start: true, ..broker.kept(id.into()) };
    for n in 0..60 {
        let (client, _incoming, _) = client::connect(&broker.kept(format!("forgotten-{n}"))).await.unwrap();
        let filter = format!("t/{n}");
        client
            .subscribe(&[(&filter, SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() })])
            .await
            .unwrap();
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }
    let (publisher, _incoming, _) = client::connect(&Options { version: V5, ..options("p") }).await.unwrap();
    for n in 0..60 {
        for _ in 0..16 {
            // A megabyte for each of them. Refused or not: the broker decides how much of it it keeps.
            publisher.publish(&Message::new(format!("t/{n}"), vec![0; 64 * 1024], QoS::AtLeastOnce)).await.unwrap();
        }
    }
    await_until(DEADLINE, "a new client is let in", async || client::connect(&options("new")).await.map(drop)).await;
    let text = metrics_of(broker.admin);
    let dropped = text.lines().filter(|line| line.starts_with("mqtt_messages_dropped_total"));
    let dropped: u64 = dropped.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert!(dropped > 100, "what gave way is counted: {dropped}");
}

#[tokio::test]
async fn a_session_counts_as_memory_until_it_ends() {
    const SESSIONS: usize = 500;
    let broker = Process::start(|_| {}).await;
    let held = || {
        let text = metrics_of(broker.admin);
        let held = text.lines().find_map(|line| line.strip_prefix("mqtt_memory_held_bytes "));
        held.unwrap().parse::<usize>().unwrap()
    };
    for (clean_start, at_least, at_most) in [(false, SESSIONS * 2048, usize::MAX), (true, 0, SESSIONS * 1024)] {
        for n in 0..SESSIONS {
            let options = Options { clean_start, ..broker.kept(format!("sensor-{n}")) };
            let (client, _incoming, _) = client::connect(&options).await.unwrap();
            client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        }
        await_until(DEADLINE, "the sessions on the account", async || match held() {
            held if (at_least..=at_most).contains(&held) => Ok(()),
            held => Err(held),
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_subscribers_stay_within_the_ceiling_and_cost_a_healthy_one_nothing() {
    const CEILING: u64 = 96 << 20;
    let long = Duration::from_mins(2);
    open_files::raise();
    let broker = Process::start(|config| {
        open(config);
        config.limits.max_memory = Some(CEILING);
    })
    .await;
    let address = broker.address.clone();
    let at = address.clone();
    let slow = tokio::task::spawn_blocking(move || slow_subscribers(&at, 1000)).await.unwrap();

    let (healthy, mut incoming) = join(&address, "healthy").await;
    healthy.subscribe(&[("t/#", SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() })]).await.unwrap();
    let (publisher, _incoming) = join(&address, "publisher").await;
    let receiving = async {
        let mut received = Vec::new();
        while received.last() != Some(&u32::MAX) {
            let delivery = incoming.next().await.unwrap().unwrap();
            received.push(u32::from_be_bytes(delivery.message.payload[..4].try_into().unwrap()));
        }
        received.pop();
        received
    };
    let publishing = async {
        let taken = publish_all(&publisher, 3000).await;
        let last = Message::new("t/a", u32::MAX.to_be_bytes().to_vec(), QoS::AtLeastOnce);
        // Refused while memory is exhausted, as everything at QoS 1; there is room again when the slow ones are gone.
        await_until(long, "room for the last message", async || match publisher.publish(&last).await.unwrap() {
            code if code.is_failure() => Err(code),
            _ => Ok(()),
        })
        .await;
        taken
    };
    let both = async { tokio::join!(publishing, receiving) };
    let (taken, received) = tokio::time::timeout(long, both).await.expect("the healthy one is served");
    assert!(taken.len() > 100, "only {} publications were taken", taken.len());
    assert_eq!(received, taken, "what was acknowledged arrives, in order and once");
    let most = broker.most_memory();
    assert!(most < CEILING, "{} MiB", most >> 20);
    // Who reads nothing for thirty seconds is disconnected: the broker has closed, whatever it left unread.
    let mut last = slow.into_iter().next_back().unwrap();
    last.set_read_timeout(Some(long)).unwrap();
    await_until(long, "the slow ones to be disconnected", async || {
        let text = metrics_of(broker.admin);
        let of_listener = text.lines().filter(|line| line.starts_with("mqtt_connections{"));
        let connections: u64 = of_listener.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        // One for which nothing more waits than its kernel has taken is not stuck.
        if connections < 100 { Ok(()) } else { Err(connections) }
    })
    .await;
    let _ = last.read_to_end(&mut Vec::new());
}
