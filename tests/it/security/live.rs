//! Permissions that end while a client is connected, or away.

use mqtt_operator::auth::settings::Anonymous;
use mqtt_operator::config::broker::Broker as Config;
use mqtt_operator::config::files::Etc;

use super::*;
use crate::support::wait_until;

/// Changes the broker's configuration, and has it read.
fn change(broker: &Broker, change: impl FnOnce(&mut Config)) {
    let path = Etc(broker.etc().to_owned()).broker();
    let mut config: Config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
    let answer = runtime().block_on(broker.ask(reqwest::Method::POST, "/api/v1/reload"));
    assert_eq!(answer.0, 200, "{answer:?}");
}

#[test]
fn class_05_a_will_is_checked_again_when_it_is_sent() {
    each_version(|version| {
        let broker = broker();
        let mut witness = Wire::connect(&broker, Version::V5, "witness");
        witness.subscribe("t/#", 0);
        // Away with its will delayed, or connected: either way the rule comes between CONNECT and the will.
        let mut connect = Connect::kept(version, 1).will(0, false, "t/secret/will", b"boo");
        if version == Version::V5 {
            connect.will.as_mut().unwrap().properties = bytes![0x18, Be32(2)];
        }
        let (wire, _) = Wire::accepted(&broker, &connect);
        if version == Version::V5 {
            wire.hang_up();
            change(&broker, |config| config.auth.deny = rules(&["deny publish t/secret/#"]));
        } else {
            change(&broker, |config| config.auth.deny = rules(&["deny publish t/secret/#"]));
            drop(wire);
        }
        wait_until(DEADLINE, "the will is denied", || {
            let (_, answer) = runtime().block_on(broker.ask(reqwest::Method::GET, "/api/v1/denies"));
            if answer.to_string().contains("t/secret/will") { Ok(()) } else { Err(answer) }
        });
        witness.expect_nothing();
    });
}

#[test]
fn class_06_a_right_that_is_taken_away_survives_nowhere() {
    each_version(|version| {
        let broker = broker();
        // Connected; away with a subscription and a message that waits; away with a message in flight.
        let mut live = Wire::accepted(&broker, &Connect::kept(version, 1)).0;
        live.subscribe("t/secret/+", 1);
        let mut unaffected = Wire::accepted(&broker, &Connect::kept(version, 2)).0;
        unaffected.subscribe("t/open/+", 1);
        let mut away = Wire::accepted(&broker, &Connect::kept(version, 3)).0;
        away.subscribe("t/+/x", 1);
        away.disconnect();
        let mut publisher = Wire::connect(&broker, version, "p");
        publisher.ask(&publish(version, 0x33, "t/secret/x", 1, b"1"), &packet![0x40; Be16(1)]);
        live.expect(&publish(version, 0x32, "t/secret/x", 1, b"1"));
        live.send(&packet![0x40; Be16(1)]);

        change(&broker, |config| config.auth.deny = rules(&["deny all t/secret/#"]));
        live.expect_refusal(0x87);
        unaffected.expect_nothing();
        // Neither the subscription, nor the queue, nor what is retained.
        for n in [1, 3] {
            let (mut back, _) = Wire::accepted(&broker, &Connect::kept(version, n));
            back.expect_nothing();
            assert!(!granted(&mut back, "t/secret/x"), "u{n}");
            publisher.ask(&publish(version, 0x32, "t/open/y", 2, b"2"), &packet![0x40; Be16(2)]);
            back.expect_nothing();
            back.disconnect();
        }
        for _ in 0..2 {
            assert_eq!(unaffected.expect_packet().first & 0xF0, 0x30);
        }
    });
}

#[test]
fn class_06_a_user_that_is_gone_is_gone_at_once() {
    each_version(|version| {
        let broker = broker();
        let mut live = Wire::accepted(&broker, &Connect::kept(version, 1)).0;
        live.subscribe("t/#", 1);
        change(&broker, |config| config.auth.users.retain(|user| user.name != "u1"));
        live.expect_refusal(0x87);
        let mut again = Wire::open(&broker, version);
        again.send(&Connect::kept(version, 1).bytes());
        again.expect_connect_refused(0x86, 4);
    });
}

#[test]
fn class_07_a_token_ends_an_idle_a_receiving_and_a_publishing_connection() {
    each_version(|version| {
        let broker = broker();
        let ends = unix_seconds() + 2;
        let short = issue(&signing_key(), &Claims { exp: ends, ..claims("dev1", &["allow all t/#"]) });
        let connect = |name: &str| Wire::accepted(&broker, &bearer(version, "dev1", name, &short)).0;
        let (mut idle, mut receiving, mut publishing) = (connect("idle"), connect("receiving"), connect("publishing"));
        receiving.subscribe("t/news", 0);
        let mut publisher = Wire::connect(&broker, version, "p");
        while unix_seconds() < ends {
            publisher.send(&publish(version, 0x30, "t/news", 0, b"x"));
            publishing.send(&publish(version, 0x30, "t/own", 0, b"x"));
            publisher.expect_nothing();
        }
        idle.expect_refusal(0xA0);
        while receiving.next_packet().is_some_and(|packet| packet.first != 0xE0) {}
        while publishing.next_packet().is_some_and(|packet| packet.first != 0xE0) {}
        // Nor is it good for coming back, session or no session.
        let mut back = Wire::open(&broker, version);
        back.send(&bearer(version, "dev1", "idle", &short).bytes());
        back.expect_connect_refused(0x87, 4);
    });
}

#[test]
fn class_08_a_client_id_is_no_credential() {
    each_version(|version| {
        let broker = broker_with(|config| {
            config.auth.anonymous = Some(Anonymous { acl: rules(&["allow all t/#"]) });
        });
        let mut owner = Wire::accepted(&broker, &Connect::kept(version, 1)).0;
        owner.subscribe("t/private", 1);
        for thief in [
            Connect::new(version, "u1").user(2),
            Connect { clean: false, ..Connect::new(version, "u1").user(2) },
            Connect::new(version, "u1"),
            bearer(version, "dev1", "u1", &token("dev1", &["allow all t/#"])),
        ] {
            let mut wire = Wire::open(&broker, version);
            wire.send(&thief.bytes());
            wire.expect_connect_refused(0x85, 2);
        }
        owner.expect_nothing();
        // Nor while its owner is away.
        owner.disconnect();
        let mut wire = Wire::open(&broker, version);
        wire.send(&Connect { clean: false, ..Connect::new(version, "u1").user(2) }.bytes());
        wire.expect_connect_refused(0x85, 2);
        let (_, back) = Wire::accepted(&broker, &Connect::kept(version, 1));
        assert!(version == Version::V31 || back.session_present, "the owner's session is untouched");
    });
    // An anonymous squatter gives way to whose the name is.
    let broker = broker();
    let mut squatter = Wire::connect(&broker, Version::V5, "u1");
    Wire::accepted(&broker, &Connect::new(Version::V5, "u1").user(1));
    squatter.expect_disconnect(0x8E);
}
