//! Delivery over connections that are lost at any byte, against the promises of QoS 1 and 2.

mod device;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use mqtt_operator::mqtt::{QoS, Version};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::DuplexStream;

use crate::support::Broker;
use device::{Device, Habits, Loss, Numbered};

/// For everything that one generated history does; a healthy one takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(30);
const HISTORIES: u32 = 300;

/// What happens to one client: how it behaves, and how its connections end before the last one, which is left alone.
#[derive(Clone, Debug)]
struct Life {
    version: Version,
    habits: Habits,
    losses: Vec<Loss>,
}

fn loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        (0..400_usize).prop_map(Loss::AfterSending),
        (0..400_usize).prop_map(Loss::AfterReading),
        (0..400_usize).prop_map(Loss::AbandonedAfterReading),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    let version = prop::sample::select(vec![Version::V31, Version::V311, Version::V5]);
    let habits = (any::<u64>(), 1..9_usize, any::<bool>(), any::<bool>());
    let habits = habits.prop_map(|(seed, window, repeats, shuffles)| Habits { seed, window, repeats, shuffles });
    (version, habits, vec(loss(), 0..7)).prop_map(|(version, habits, losses)| Life { version, habits, losses })
}

/// A socket whose other end the broker serves. `capacity` bytes fit into it, so that packets are split anywhere.
fn socket(broker: &Broker, capacity: usize) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(capacity);
    broker.serve(theirs);
    ours
}

/// Lives through all losses, then to the end. Abandoned connections stay open and unread meanwhile.
async fn live(broker: &Broker, mut device: Device, losses: &[Loss], capacity: usize) -> Device {
    let mut abandoned = Vec::new();
    for loss in losses {
        let mut connection = socket(broker, capacity);
        device.connect(&mut connection, *loss).await;
        if matches!(loss, Loss::AbandonedAfterReading(_)) {
            abandoned.push(connection);
        }
        if device.is_done() {
            break;
        }
    }
    while !device.is_done() {
        let mut connection = socket(broker, capacity);
        device.connect(&mut connection, Loss::Never).await;
    }
    device
}

async fn check(broker: &Broker, number: u32, publisher: &Life, subscriber: &Life, levels: &[QoS], capacity: usize) {
    let topic = format!("t/{number}");
    let mut receiving = Device::new(format!("s{number}"), "u1", subscriber.version, subscriber.habits);
    receiving.subscribe(&topic);
    // The subscription stands before anything is published; from then on everything may break.
    receiving.connect(&mut socket(broker, capacity), Loss::Never).await;
    let numbered: Vec<Numbered> = (0..).zip(levels).map(|(number, qos)| Numbered { number, qos: *qos }).collect();
    let mut sending = Device::new(format!("p{number}"), "u2", publisher.version, publisher.habits);
    sending.publish(&topic, &numbered);
    receiving.expect_end();
    let (sent, received) = tokio::join!(
        live(broker, sending, &publisher.losses, capacity),
        live(broker, receiving, &subscriber.losses, capacity),
    );
    assert!(sent.is_done() && received.is_done());
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let expected: Vec<u32> = numbered.iter().filter(|n| n.qos == qos).map(|n| n.number).collect();
        let all: Vec<u32> = received.received.iter().filter(|n| n.qos == qos).map(|n| n.number).collect();
        let mut seen = BTreeSet::new();
        let first: Vec<u32> = all.iter().copied().filter(|number| seen.insert(*number)).collect();
        assert_eq!(first, expected, "{qos:?}: all of them, in order");
        if qos == QoS::ExactlyOnce {
            assert_eq!(all, first, "QoS 2: once");
        }
    }
}

#[test]
fn qos_1_arrives_in_order_and_qos_2_once_however_connections_break() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let broker = runtime.block_on(async { Broker::with_quick_passwords(|_| {}) });
    let case = Cell::new(0);
    let level = prop::sample::select(vec![QoS::AtLeastOnce, QoS::ExactlyOnce]);
    let lives = (life(), life(), vec(level, 1..25), prop::sample::select(vec![7_usize, 64, 4096]));
    let config = Config { cases: HISTORIES, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let result = TestRunner::new(config).run(&lives, |(publisher, subscriber, levels, capacity)| {
        // Each history has clients and a topic of its own, so that none can disturb the next.
        case.set(case.get() + 1);
        runtime.block_on(async {
            let checked = check(&broker, case.get(), &publisher, &subscriber, &levels, capacity);
            tokio::time::timeout(DEADLINE, checked).await.expect("everything has arrived in time");
        });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    runtime.block_on(broker.stop());
}
