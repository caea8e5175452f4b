//! Chapters 3.15 and 4.12, AUTH and enhanced authentication.

use mqtt_operator::auth::key::{Algorithm, generate};
use mqtt_operator::auth::rule::Action;
use mqtt_operator::auth::token::{Claims, issue};

use super::wire::*;
use crate::support::allow;

/// A token of `sub`, which may do everything below `t/`, signed with the key of the broker, for so many seconds.
fn token(sub: &str, seconds: u64) -> Vec<u8> {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let claims = Claims {
        iss: "mqttbroker/test/broker".into(),
        aud: "mqtt://test/broker".into(),
        sub: sub.into(),
        iat: now,
        exp: now + seconds,
        acl: vec![allow(Action::All, "t/#")],
        ..Claims::default()
    };
    issue(&generate(Algorithm::EdDsa, &[7; 48]).expect("a key"), &claims).into_bytes()
}

/// CONNECT with an authentication method and perhaps data.
fn with_method(client_id: &str, method: &str, data: Option<&[u8]>) -> Connect {
    let data = data.map_or(vec![], |data| bytes![0x16, Data(data)]);
    Connect::new(Version::V5, client_id).with(&bytes![0x15, method, data])
}

/// 5.0 [MQTT-4.12.0-1].
#[test]
fn an_authentication_method_that_is_not_supported_is_refused() {
    let broker = broker();
    for method in ["SCRAM-SHA-1", "GS2-KRB5", "jwt", "", "nonsense"] {
        for data in [None, Some(&b"n,,n=u0"[..])] {
            let mut wire = Wire::open(&broker, Version::V5);
            wire.send(&with_method("c", method, data).bytes());
            wire.expect_connect_refused(0x8C, 0);
        }
    }
    // Nor does a password beside it help.
    let mut wire = Wire::open(&broker, Version::V5);
    wire.send(&with_method("c", "SCRAM-SHA-1", None).user(0).bytes());
    wire.expect_connect_refused(0x8C, 0);
}

/// 5.0 [MQTT-4.12.0-4, MQTT-4.13.2-1].
#[test]
fn authentication_data_that_does_not_convince_is_refused() {
    let broker = broker();
    for data in [None, Some(&b""[..]), Some(b"no token"), Some(b"a.b.c"), Some(&[0xFF; 300])] {
        let mut wire = Wire::open(&broker, Version::V5);
        wire.send(&with_method("c", "JWT", data).bytes());
        wire.expect_connect_refused(0x86, 0);
    }
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn authentication_data_without_a_method_is_a_protocol_error() {
    let broker = broker();
    let mut wire = Wire::open(&broker, Version::V5);
    wire.send(&Connect::new(Version::V5, "c").with(&bytes![0x16, Data(b"x")]).bytes());
    wire.expect_bad_connect(0x82);
}

/// 5.0 [MQTT-4.12.0-7].
#[test]
fn auth_from_a_client_that_named_no_method_is_a_protocol_error() {
    let broker = broker();
    for auth in [
        packet![0xF0],
        packet![0xF0; 0x00, 0],
        packet![0xF0; 0x18, 0],
        packet![0xF0; 0x19, 0],
        packet![0xF0; 0x19, props![0x15, "JWT", 0x16, Data(b"x")]],
        packet![0xF0; 0x18, props![0x15, "JWT", 0x16, Data(b"x"), 0x1F, "why", 0x26, "a", "b"]],
    ] {
        for connect in [Connect::new(Version::V5, "c"), Connect::kept(Version::V5, 1)] {
            let (mut wire, _) = Wire::accepted(&broker, &connect);
            wire.send(&auth);
            wire.expect_refusal(0x82);
        }
    }
}

/// 5.0 [MQTT-3.15.2-1].
#[test]
fn auth_with_a_reason_that_does_not_exist_is_malformed() {
    let broker = broker();
    for reason in [0x01, 0x17, 0x1A, 0x80, 0x87, 0xFF] {
        let mut wire = Wire::connect(&broker, Version::V5, "c");
        wire.send(&packet![0xF0; reason, 0]);
        wire.expect_refusal(0x81);
    }
}

/// AUTH is a packet of 5.0.
/// 3.1.1 [MQTT-4.8.0-1].
#[test]
fn auth_in_3_x_ends_the_connection() {
    let broker = broker();
    for version in VERSIONS_3 {
        for auth in [packet![0xF0], packet![0xF0; 0x18, 0]] {
            let mut wire = Wire::connect(&broker, version, "c");
            wire.send(&auth);
            wire.expect_close();
        }
    }
}

/// AUTH that asks for re-authentication.
fn again(method: &str, data: &[u8]) -> Vec<u8> {
    packet![0xF0; 0x19, props![0x15, method, 0x16, Data(data)]]
}

/// 5.0 [MQTT-4.12.0-5].
#[test]
fn connack_and_auth_name_the_method_of_connect() {
    let broker = broker();
    for method in ["JWT", "OAUTH2-JWT", "CUSTOM-JWT"] {
        let connect = with_method("dev1", method, Some(&token("dev1", 600)));
        let (mut wire, ack) = Wire::accepted(&broker, &connect);
        assert_eq!(ack.properties.text(0x15), Some(method));
        wire.ask(&again(method, &token("dev1", 900)), &packet![0xF0; 0, props![0x15, method]]);
        // And again; what was granted before still is, and other packets go on.
        wire.subscribe("t/a", 0);
        wire.ask(&again(method, &token("dev1", 900)), &packet![0xF0; 0, props![0x15, method]]);
        let message = publish(Version::V5, 0x30, "t/a", 0, b"x");
        wire.ask(&message, &message);
        wire.disconnect();
    }
}

/// The version-independent way, a token as the password, is no authentication method.
/// 5.0 [MQTT-4.12.0-6, MQTT-4.12.0-7].
#[test]
fn a_token_as_the_password_gives_no_right_to_auth() {
    let broker = broker();
    let connect = Connect { password: Some(token("dev1", 600)), ..Connect::new(Version::V5, "dev1") };
    let connect = Connect { username: Some("dev1".into()), ..connect };
    let (mut wire, ack) = Wire::accepted(&broker, &connect);
    assert_eq!(ack.properties.get(0x15), None);
    wire.send(&again("JWT", &token("dev1", 600)));
    wire.expect_refusal(0x82);
}

/// 5.0 [MQTT-4.12.1-1].
#[test]
fn another_method_than_that_of_connect_is_refused() {
    let broker = broker();
    for auth in [
        again("OAUTH2-JWT", &token("dev1", 600)),
        again("SCRAM-SHA-1", b"x"),
        packet![0xF0; 0x19, 0],
        packet![0xF0; 0x19, props![0x16, Data(&token("dev1", 600))]],
    ] {
        let (mut wire, _) = Wire::accepted(&broker, &with_method("dev1", "JWT", Some(&token("dev1", 600))));
        wire.send(&auth);
        wire.expect_refusal(0x82);
    }
}

/// Nothing is to be continued where one step is all, and success is for the broker to say.
/// 5.0 [MQTT-4.12.0-5, MQTT-3.15.2-1].
#[test]
fn auth_that_continues_nothing_is_a_protocol_error() {
    let broker = broker();
    for auth in [packet![0xF0; 0x18, props![0x15, "JWT", 0x16, Data(b"x")]], packet![0xF0; 0, props![0x15, "JWT"]]] {
        let (mut wire, _) = Wire::accepted(&broker, &with_method("dev1", "JWT", Some(&token("dev1", 600))));
        wire.send(&auth);
        wire.expect_refusal(0x82);
    }
}

/// 5.0 [MQTT-4.12.1-2].
#[test]
fn re_authentication_that_fails_ends_the_connection() {
    let broker = broker();
    let mut watcher = Wire::connect(&broker, Version::V5, "watcher");
    watcher.subscribe("t/w", 0);
    // No token, one of nobody, one of someone else.
    for data in [b"no token".to_vec(), b"a.b.c".to_vec(), token("dev2", 600)] {
        let connect = with_method("dev1", "JWT", Some(&token("dev1", 600))).will(0, false, "t/w", b"failed");
        let (mut wire, _) = Wire::accepted(&broker, &connect);
        wire.send(&bytes![again("JWT", &data), publish(Version::V5, 0x30, "t/w", 0, b"after")]);
        wire.expect_refusal(0x87);
        watcher.expect(&publish(Version::V5, 0x30, "t/w", 0, b"failed"));
        watcher.expect_nothing();
    }
}
