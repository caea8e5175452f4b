//! Documents that cannot be used, before the start and while clients are connected.

use std::net::Ipv4Addr;

use mqtt_operator::broker;
use mqtt_operator::config::broker::{Listener, Protocol};
use mqtt_operator::config::files::{Etc, State};
use mqtt_operator::process::Shutdown;

use super::*;
use crate::support::{wait_until, write_etc};

/// What a broken disk, a wrong tool or a half-written file leaves behind.
const BROKEN: [&str; 6] = ["", "{", "null", "[]", "{\"format\": 2}", "\u{0}\u{0}\u{0}"];

/// Waits until the broker has looked at its documents and found them wrong.
fn await_failed_reload(broker: &Broker) {
    let answer = runtime().block_on(broker.ask(reqwest::Method::POST, "/api/v1/reload"));
    assert_ne!(answer.0, 200, "it takes them: {answer:?}");
}

#[test]
fn class_09_a_document_that_cannot_be_used_opens_nothing_and_closes_nothing() {
    let _entered = runtime().enter();
    // So many wrong passwords from one place would end in a ban.
    let broker = Broker::with_quick_passwords(|config| config.auth.guard.failures = 0);
    let etc = Etc(broker.etc().to_owned());
    let good = token("dev1", &["allow all t/#"]);
    let mut before = Wire::accepted(&broker, &Connect::new(Version::V5, "u1").user(1)).0;
    for path in [etc.users(), etc.jwks()] {
        let intact = std::fs::read(&path).unwrap();
        for broken in BROKEN {
            std::fs::write(&path, broken).unwrap();
            await_failed_reload(&broker);
            each_version(|version| {
                // Those who were right are right; nobody else has become so.
                Wire::accepted(&broker, &Connect::new(version, "u2").user(2));
                Wire::accepted(&broker, &bearer(version, "dev1", "dev1", &good));
                let mut wire = Wire::open(&broker, version);
                wire.send(&Connect::new(version, "nobody").bytes());
                wire.expect_connect_refused(0x87, 5);
                let mut wire = Wire::open(&broker, version);
                let wrong = Connect { password: Some(b"wrong".to_vec()), ..Connect::new(version, "u1").user(1) };
                wire.send(&wrong.bytes());
                wire.expect_connect_refused(0x86, 4);
            });
            assert!(!granted(&mut before, "elsewhere/#") && may_publish(&mut before, "t/x"));
        }
        std::fs::remove_file(&path).unwrap();
        await_failed_reload(&broker);
        Wire::accepted(&broker, &Connect::new(Version::V311, "u2").user(2));
        std::fs::write(&path, intact).unwrap();
        assert_eq!(runtime().block_on(broker.ask(reqwest::Method::POST, "/api/v1/reload")).0, 200);
    }
}

#[test]
fn class_09_an_empty_list_is_a_list_and_not_the_absence_of_rules() {
    let broker = broker_with(|config| {
        config.auth.users[1].acl = vec![];
        config.auth.users[1].groups = vec![];
        config.auth.anonymous = Some(mqtt_operator::auth::settings::Anonymous { acl: vec![] });
    });
    for connect in [Connect::new(Version::V5, "u1").user(1), Connect::new(Version::V5, "c")] {
        let mut wire = Wire::accepted(&broker, &connect).0;
        for topic in ["t/x", "x", "#"] {
            assert!(!granted(&mut wire, topic), "{topic}");
        }
        assert!(!may_publish(&mut wire, "t/x"));
    }
}

#[test]
fn class_09_a_broker_does_not_start_from_a_document_that_it_cannot_use() {
    let _entered = runtime().enter();
    let directory = tempfile::tempdir().unwrap();
    write_etc(directory.path(), |_| {});
    let (etc, state) = (Etc(directory.path().to_owned()), State(directory.path().join("state")));
    let config = || serde_json::from_slice(&std::fs::read(etc.broker()).unwrap()).unwrap();
    for path in [etc.users(), etc.jwks()] {
        let intact = std::fs::read(&path).unwrap();
        for broken in BROKEN {
            std::fs::write(&path, broken).unwrap();
            broker::start(config(), etc.clone(), &state, Shutdown::new()).expect_err(broken);
        }
        std::fs::remove_file(&path).unwrap();
        broker::start(config(), etc.clone(), &state, Shutdown::new()).expect_err("a missing document");
        std::fs::write(&path, intact).unwrap();
    }
    let stop = Shutdown::new();
    broker::start(config(), etc.clone(), &state, stop.clone()).expect("intact documents");
    stop.trigger();
}

#[test]
fn class_23_a_listener_without_its_certificate_serves_nobody_instead_of_everybody() {
    let _entered = runtime().enter();
    let broker = Broker::with_quick_passwords(|config| {
        open(config);
        for (name, protocol) in [("mqtts", Protocol::Mqtts), ("wss", Protocol::Wss)] {
            config.listeners.push(Listener::new(name, protocol, (Ipv4Addr::LOCALHOST, 0).into()));
        }
    });
    let etc = Etc(broker.etc().to_owned());
    let plain = || {
        use std::io::{Read, Write};
        for name in ["mqtts", "wss"] {
            for said in [Connect::new(Version::V311, "c").bytes(), b"GET /mqtt HTTP/1.1\r\n\r\n".to_vec()] {
                let mut socket = std::net::TcpStream::connect(broker.listener(name)).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                let _ = socket.write_all(&said);
                let _ = socket.shutdown(std::net::Shutdown::Write);
                let mut answer = Vec::new();
                let _ = socket.read_to_end(&mut answer);
                assert!(!answer.starts_with(&[0x20]) && !answer.starts_with(b"HTTP"), "{name}: {}", hex(&answer));
            }
        }
    };
    plain();
    for name in ["mqtts", "wss"] {
        let path = etc.certificate(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nno\n").unwrap();
        std::fs::write(etc.private_key(name), "").unwrap();
    }
    wait_until(DEADLINE, "the bad pair is seen", || {
        let problems: Vec<_> = broker.report().listeners.into_iter().filter_map(|it| it.problem).collect();
        if problems.len() == 2 && problems.iter().all(|it| it.contains("PEM")) { Ok(()) } else { Err(problems) }
    });
    plain();
    Wire::connect(&broker, Version::V311, "the plain listener has not suffered");
}
