//! `maxQueuedAge`: how long a message may wait for its client.

use std::net::Ipv4Addr;

use mqtt_operator::client::{self, Options};
use mqtt_operator::config::broker::{BridgeAccess, Broker as Config};
use mqtt_operator::mqtt::packet::SubscriptionOptions;
use mqtt_operator::mqtt::{QoS, ReasonCode};

use super::metrics_of;
use crate::mqtt::messages::*;
use crate::mqtt::wire::*;
use crate::support::{Broker, open, replace, value, wait_until};

const V5: Version = Version::V5;

/// The number in a line of metrics that begins so.
fn metric(broker: &Broker, series: &str) -> u64 {
    let text = metrics_of(broker.admin().port());
    value(&text, series).unwrap_or_else(|| panic!("no {series} in\n{text}")) as u64
}

fn too_old(broker: &Broker) -> u64 {
    metric(broker, "mqtt_messages_dropped_total{cause=\"too_old\"}")
}

/// Waits until so many have been dropped and so many wait.
#[track_caller]
fn await_dropped(broker: &Broker, dropped: u64, waiting: u64) {
    wait_until(2 * DEADLINE, "what is too old to be dropped", || {
        match (too_old(broker), metric(broker, "mqtt_queued_messages")) {
            now if now == (dropped, waiting) => Ok(()),
            now => Err(now),
        }
    });
}

/// What the admin port says of a session: messages that wait, and that it has lost.
fn session(broker: &Broker, n: usize) -> (u64, u64) {
    let page = runtime().block_on(broker.get(&format!("/api/v1/sessions?client=u{n}")));
    let of = |field: &str| page["items"][0][field].as_u64().unwrap_or_else(|| panic!("no {field} in {page}"));
    (of("queued"), of("dropped"))
}

/// A session of user `u<n>` that has subscribed, and whose client is away.
fn away(broker: &Broker, version: Version, n: usize, filter: &str, qos: u8) {
    let mut wire = Wire::accepted(broker, &Connect::kept(version, n)).0;
    wire.subscribe(filter, qos);
    let before = broker.report().connections;
    wire.disconnect();
    wait_until(DEADLINE, "the session to be away", || match broker.report().connections {
        now if now < before => Ok(()),
        now => Err(now),
    });
}

/// The same for a client of each version; answers versions and numbers.
fn one_of_each_version_away(broker: &Broker) -> [(Version, usize); 3] {
    let clients = VERSIONS.map(|version| (version, version as usize + 1));
    for (version, n) in clients {
        away(broker, version, n, "t/a", 2);
    }
    clients
}

fn back(broker: &Broker, version: Version, n: usize) -> Wire {
    let (wire, connack) = Wire::accepted(broker, &Connect::kept(version, n));
    assert!(connack.session_present || version == Version::V31);
    wire
}

fn let_seconds_pass(broker: &Broker, seconds: u32) {
    (0..seconds).for_each(|_| let_a_second_pass(broker));
}

#[test]
fn what_has_waited_longer_than_it_may_is_dropped_and_counted_and_what_has_not_is_delivered() {
    let broker = broker_with(|config| config.limits.max_queued_age = Some(3));
    let clients = one_of_each_version_away(&broker);
    let mut from = Wire::connect(&broker, V5, "from");
    published(&mut from, QOS_1, "t/a", b"old", 0);
    published(&mut from, QOS_2, "t/a", b"old", 0);
    let_seconds_pass(&broker, 3);
    published(&mut from, QOS_1, "t/a", b"young", 0);
    for (version, n) in clients {
        let found = deliveries(&mut back(&broker, version, n));
        let found: Vec<_> = found.into_iter().map(|message| message.payload).collect();
        assert_eq!(found, [b"young"], "{version:?}");
        assert_eq!(session(&broker, n).1, 2, "{version:?}");
    }
    await_dropped(&broker, 6, 0);
    assert_eq!(metric(&broker, "mqtt_messages_expired_total"), 0);
}

#[test]
fn what_waits_for_a_client_that_stays_away_goes_when_it_is_too_old() {
    let broker = broker_with(|config| config.limits.max_queued_age = Some(1));
    let clients = one_of_each_version_away(&broker);
    let mut from = Wire::connect(&broker, V5, "from");
    for first in [QOS_1, QOS_2, QOS_1, QOS_2] {
        published(&mut from, first, "t/a", b"x", 0);
    }
    // This one is over before it is too old, and no limit has cost it.
    from.ask(&publish_with(QOS_1, "t/a", 9, &bytes![0x02, Be32(1)], b"x"), &ack(PUBACK, 9));
    await_dropped(&broker, 12, 0);
    assert_eq!(metric(&broker, "mqtt_messages_expired_total"), 3);
    for n in 1..4 {
        assert_eq!(session(&broker, n), (0, 4));
    }
    let mut wires = clients.map(|(version, n)| back(&broker, version, n));
    wires.iter_mut().for_each(expect_silence);
    published(&mut from, QOS_2, "t/a", b"new", 0);
    for wire in &mut wires {
        expect_publish(wire, QOS_2, "t/a", b"new");
    }
}

#[test]
fn what_was_sent_and_what_is_retained_is_never_too_old() {
    let broker = broker_with(|config| config.limits.max_queued_age = Some(1));
    let mut from = Wire::connect(&broker, V5, "from");
    published(&mut from, QOS_1 | RETAIN, "t/kept", b"kept", NO_SUBSCRIBERS);
    // One at a time.
    let one = Connect::kept(V5, 1).with(&bytes![0x21, Be16(1)]);
    let mut to = Wire::accepted(&broker, &one).0;
    to.subscribe("t/a", 1);
    for payload in [&b"sent"[..], b"waits"] {
        published(&mut from, QOS_1, "t/a", payload, 0);
    }
    let id = expect_publish(&mut to, QOS_1, "t/a", b"sent");
    to.expect_nothing();
    await_dropped(&broker, 1, 0);
    to.hang_up();
    let mut to = Wire::accepted(&broker, &one).0;
    assert_eq!(expect_publish(&mut to, QOS_1 | DUP, "t/a", b"sent"), id);
    to.send(&ack(PUBACK, id));
    expect_silence(&mut to);
    to.subscribe("t/kept", 1);
    expect_publish(&mut to, QOS_1 | RETAIN, "t/kept", b"kept");
    assert_eq!(too_old(&broker), 1);
}

#[test]
fn the_age_goes_on_over_a_restart_and_what_is_dropped_does_not_come_back() {
    let broker = broker();
    for n in 1..3 {
        away(&broker, V5, n, "t/a", 1);
    }
    let mut from = Wire::connect(&broker, V5, "from");
    published(&mut from, QOS_1, "t/a", b"old", 0);
    let_seconds_pass(&broker, 3);
    let limited = |seconds| {
        move |config: &mut Config| {
            config.limits.max_queued_age = seconds;
        }
    };
    // A broker that has run for a moment only knows that the message has waited for longer.
    let broker = runtime().block_on(broker.stopped_and_started_with(limited(Some(3))));
    expect_silence(&mut back(&broker, V5, 1));
    await_dropped(&broker, 2, 0);
    let broker = runtime().block_on(broker.stopped_and_started_with(limited(None)));
    for n in 1..3 {
        expect_silence(&mut back(&broker, V5, n));
    }
}

/// Takes up another limit without a restart.
fn change(broker: &Broker, seconds: u32) {
    runtime().block_on(broker.change(|config| config.limits.max_queued_age = Some(seconds)));
    assert!(!broker.report().restart);
}

#[test]
fn after_a_crash_the_age_goes_on_for_all_but_qos_2_that_the_client_may_have() {
    let broker = broker();
    // Both are connected when the broker is lost, and take one message at a time.
    let clients = [(1, QOS_1), (2, QOS_2)];
    let one = |n| Connect::kept(V5, n).with(&bytes![0x21, Be16(1)]);
    let mut wires = clients.map(|(n, first)| {
        let mut wire = Wire::accepted(&broker, &one(n)).0;
        wire.subscribe(&format!("t/{n}"), first >> 1 & 3);
        wire
    });
    let mut from = Wire::connect(&broker, V5, "from");
    away(&broker, V5, 3, "t/1", 1);
    for ((n, first), wire) in clients.into_iter().zip(&mut wires) {
        let topic = format!("t/{n}");
        published(&mut from, first, &topic, b"sent", 0);
        expect_publish(wire, first, &topic, b"sent");
        published(&mut from, first, &topic, b"waits", 0);
    }
    let_seconds_pass(&broker, 4);
    let broker = runtime().block_on(broker.lost_and_started());
    change(&broker, 4);
    let [mut at_1, mut at_2] = clients.map(|(n, _)| Wire::accepted(&broker, &one(n)).0);
    let id = expect_publish(&mut at_1, QOS_1 | DUP, "t/1", b"sent");
    at_1.send(&ack(PUBACK, id));
    expect_silence(&mut at_1);
    for payload in [&b"sent"[..], b"waits"] {
        let id = expect_publish(&mut at_2, QOS_2 | DUP, "t/2", payload);
        at_2.ask(&ack(PUBREC, id), &ack(PUBREL, id));
        at_2.send(&ack(PUBCOMP, id));
    }
    expect_silence(&mut at_2);
    // One that waited behind what was sent, and both that waited for the client that was away.
    expect_silence(&mut back(&broker, V5, 3));
    await_dropped(&broker, 3, 0);
}

#[test]
fn how_long_messages_may_wait_is_taken_up_without_a_restart() {
    let broker = broker();
    away(&broker, V5, 1, "t/a", 1);
    let mut from = Wire::connect(&broker, V5, "from");
    published(&mut from, QOS_1, "t/a", b"1", 0);
    let_seconds_pass(&broker, 2);
    assert_eq!(session(&broker, 1), (1, 0), "without a limit it waits");
    change(&broker, 1);
    await_dropped(&broker, 1, 0);
    runtime().block_on(broker.change(|config| config.limits.max_queued_age = None));
    published(&mut from, QOS_1, "t/a", b"2", 0);
    let_seconds_pass(&broker, 2);
    expect_publish(&mut back(&broker, V5, 1), QOS_1, "t/a", b"2");
}

#[test]
fn the_queue_of_the_bridge_does_not_age() {
    let bridge = BridgeAccess { listen: (Ipv4Addr::LOCALHOST, 0).into(), topics: vec!["t/#".into()], buffer: 2 << 20 };
    let _entered = runtime().enter();
    let broker = Broker::with_files(
        |config| {
            open(config);
            config.bridge = Some(bridge);
            config.limits.max_queued_age = Some(1);
        },
        |etc| replace(&etc.bridge_password(), "carries"),
    );
    let options = Options {
        version: V5,
        username: Some("system:bridge".into()),
        password: Some(b"carries".to_vec()),
        clean_start: false,
        session_expiry: Some(3600),
        ..Options::new(broker.internal().unwrap().to_string(), "system:bridge")
    };
    let at = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    runtime().block_on(async {
        let (client, _incoming, _) = client::connect(&options).await.unwrap();
        client.subscribe(&[("t/#", at)]).await.unwrap();
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    });
    away(&broker, V5, 1, "t/a", 1);
    published(&mut Wire::connect(&broker, V5, "from"), QOS_1, "t/a", b"telemetry", 0);
    // The other's message has gone; the bridge's, which is as old, waits.
    await_dropped(&broker, 1, 1);
    runtime().block_on(async {
        let (_client, mut incoming, _) = client::connect(&options).await.unwrap();
        let delivery = tokio::time::timeout(DEADLINE, incoming.next()).await.expect("a message in time");
        assert_eq!(&*delivery.unwrap().unwrap().message.payload, b"telemetry");
    });
    assert_eq!(too_old(&broker), 1);
}
