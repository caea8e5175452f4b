//! Chapters 3.12 and 3.13, PINGREQ and PINGRESP.

use super::wire::*;

/// 3.1.1 and 5.0 [MQTT-3.12.4-1].
#[test]
fn each_ping_is_answered() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "pings");
        wire.ask(&[0xC0, 0], &[0xD0, 0]);
        // Several in one segment, and one in two.
        wire.ask(&[0xC0, 0, 0xC0, 0, 0xC0, 0], &[0xD0, 0, 0xD0, 0, 0xD0, 0]);
        wire.send(&[0xC0]);
        wire.ask(&[0], &[0xD0, 0]);
        wire.disconnect();
    });
}

/// 3.1.1 [MQTT-2.2.2-1, MQTT-2.2.2-2]; 5.0 [MQTT-2.1.3-1].
#[test]
fn a_ping_with_reserved_flags_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        for flags in 1..16 {
            let mut wire = Wire::connect(&broker, version, "flags");
            wire.send(&[0xC0 | flags, 0]);
            wire.expect_refusal(0x81);
        }
    });
}

/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-4.13.1-1].
#[test]
fn a_ping_with_a_body_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "body");
        wire.send(&[0xC0, 1, 0]);
        wire.expect_refusal(0x81);
    });
}

/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-4.13.1-1].
#[test]
fn a_ping_response_of_a_client_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "response");
        wire.send(&[0xD0, 0]);
        wire.expect_refusal(0x82);
    });
}
