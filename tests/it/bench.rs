//! The load generator, against a broker that is not ours.

use std::process::Command;
use std::time::{Duration, Instant};

use mqtt_operator::bench::{BenchError, Report, Scenario, Settings, run};
use mqtt_operator::mqtt::{QoS, ReasonCode, Version};

use crate::support::{Mosquitto, wait_until};

/// A short run with small patience, to be changed.
fn short(scenario: Scenario, broker: &Mosquitto) -> Settings {
    Settings {
        duration: Duration::from_millis(400),
        patience: Duration::from_secs(2),
        broker_pid: Some(broker.pid()),
        ..Settings::new(scenario, broker.port())
    }
}

fn measure(settings: &Settings) -> Report {
    run(settings, |_| {}).unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
}

/// Nothing lost, nothing twice, and as many messages as were sent.
#[track_caller]
fn assert_complete(report: &Report, receivers: u64) {
    assert!(report.published > 0, "{report}");
    assert_eq!(report.expected, report.published * receivers, "{report}");
    let faults = (report.lost, report.duplicates, report.reordered, report.foreign, report.failed_connections);
    assert_eq!((report.delivered, faults), (report.expected, (0, 0, 0, 0, 0)), "{report}");
}

#[test]
fn every_version_and_qos_is_counted_completely() {
    // Mosquitto would drop what exceeds its queue of 1000.
    let broker = Mosquitto::start(&["max_queued_messages 0", "max_inflight_messages 0"]);
    for version in [Version::V31, Version::V311, Version::V5] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let report = measure(&Settings {
                publishers: 3,
                subscribers: 3,
                version,
                qos,
                topics: 2,
                duration: Duration::from_millis(150),
                ..short(Scenario::Pairs, &broker)
            });
            assert_complete(&report, 1);
            let acknowledged = if qos == QoS::AtMostOnce { 0 } else { report.published };
            assert_eq!(report.acknowledged, acknowledged, "{version} {qos:?}\n{report}");
        }
    }
}

#[test]
fn one_message_counts_once_for_each_of_many_subscribers() {
    let broker = Mosquitto::start(&["max_queued_messages 0"]);
    let report =
        measure(&Settings { subscribers: 20, qos: QoS::AtLeastOnce, threads: 2, ..short(Scenario::FanOut, &broker) });
    assert_complete(&report, 20);
    assert!(report.broker.expect("the process is measured").cpu_seconds > 0.0, "{report}");
}

#[test]
fn a_rate_is_kept_and_shared_among_publishers() {
    let broker = Mosquitto::start(&[]);
    let rate = Some(2000.0);
    let report = measure(&Settings { publishers: 7, rate, size: 28, ..short(Scenario::FanIn, &broker) });
    assert_complete(&report, 1);
    assert_eq!(report.published, 800);
    let latency = report.latency.expect("messages arrived");
    assert!(latency.p50 > 0.0 && latency.p50 <= latency.p99 && latency.p999 <= latency.max, "{report}");
}

#[test]
fn publishers_alone_are_measured_by_their_acknowledgements() {
    let broker = Mosquitto::start(&[]);
    let report = measure(&Settings { publishers: 2, qos: QoS::AtLeastOnce, ..short(Scenario::Publish, &broker) });
    assert!(report.published > 0 && report.acknowledged == report.published, "{report}");
    assert_eq!((report.expected, report.lost), (0, 0));
    assert!(report.acknowledgement.is_some() && report.latency.is_none());
}

#[test]
fn a_listener_measures_the_messages_of_another_run() {
    let broker = Mosquitto::start(&[]);
    let listener =
        Settings { subscribers: 2, duration: Duration::from_secs(30), ..short(Scenario::Subscribe, &broker) };
    let speaker = Settings { rate: Some(500.0), duration: Duration::from_secs(1), ..short(Scenario::Publish, &broker) };
    let (started, heard) = std::sync::mpsc::channel();
    let listening = std::thread::spawn({
        let settings = Settings { duration: Duration::from_secs(3), ..listener };
        move || run(&settings, |_| started.send(()).unwrap_or_default())
    });
    // The first look comes when all have subscribed.
    heard.recv_timeout(Duration::from_secs(20)).expect("the listener runs");
    let spoken = measure(&speaker);
    let report = listening.join().unwrap().unwrap();
    assert_eq!((report.delivered, report.lost), (spoken.published * 2, 0), "{report}");
    assert!(report.latency.expect("stamps of another run are understood").max < 5e6, "{report}");
}

/// One topic of four may be written to.
fn forgetful_broker() -> Mosquitto {
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("acl");
    std::fs::write(&rules, "topic write bench/0/0\ntopic read bench/#\n").unwrap();
    let broker = Mosquitto::start(&[&format!("acl_file {}", rules.display())]);
    // It has read the file before it listened.
    drop(directory);
    broker
}

#[test]
fn what_a_broker_drops_is_reported_as_loss() {
    let broker = forgetful_broker();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let report = measure(&Settings { qos, topics: 4, rate: Some(1000.0), ..short(Scenario::Pairs, &broker) });
        assert_eq!((report.published, report.delivered, report.lost), (400, 100, 300), "{report}");
        assert_eq!(report.duplicates, 0);
    }
}

#[test]
fn a_broker_that_drops_does_not_stop_the_run() {
    let broker = forgetful_broker();
    let duration = Duration::from_secs(3);
    let report = measure(&Settings { topics: 4, inflight: 8, duration, ..short(Scenario::Pairs, &broker) });
    assert!(report.published > 16, "{report}");
    assert_eq!(report.lost, report.published - report.published.div_ceil(4), "{report}");
}

#[test]
fn a_pause_of_the_broker_is_seen_by_every_message_that_was_due_in_it() {
    let broker = Mosquitto::start(&[]);
    let pid = broker.pid().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    let pause = Duration::from_millis(400);
    let settings = Settings {
        rate: Some(1000.0),
        qos: QoS::AtLeastOnce,
        inflight: 10,
        duration: Duration::from_secs(2),
        ..short(Scenario::Pairs, &broker)
    };
    let mut paused = false;
    let report = run(&settings, |_| {
        if !paused {
            paused = true;
            signal("-STOP");
            let stopped = Instant::now();
            wait_until(Duration::from_secs(5), "end of the pause", || {
                if stopped.elapsed() >= pause { Ok(()) } else { Err(stopped.elapsed()) }
            });
            signal("-CONT");
        }
    })
    .unwrap();
    assert_complete(&report, 1);
    // 400 of 2000 messages were due during the pause, of which only ten could be sent: a generator that measured those
    // alone would see them in half a percent of its samples.
    let latency = report.latency.unwrap();
    assert!(latency.p99 > 300_000.0, "{report}");
}

#[test]
fn a_refusal_ends_the_run_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let passwords = directory.path().join("passwords");
    std::fs::write(&passwords, "").unwrap();
    let broker = Mosquitto::start(&["allow_anonymous false", &format!("password_file {}", passwords.display())]);
    let refused = run(&short(Scenario::Pairs, &broker), |_| {}).expect_err("nobody is known there");
    assert!(matches!(refused, BenchError::Refused(ReasonCode::NOT_AUTHORIZED)), "{refused:?}");
}
