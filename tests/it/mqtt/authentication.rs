//! Chapters 3.15 and 4.12, AUTH and enhanced authentication.

use super::wire::*;

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
