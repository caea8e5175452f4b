//! Chapter 3.1, CONNECT.

use super::wire::*;

/// 3.1.1 [MQTT-3.1.0-2]; 5.0 [MQTT-3.1.0-2].
#[test]
fn a_second_connect_ends_the_connection() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "twice");
        wire.expect_nothing();
        wire.send(&Connect::new(version, "twice").bytes());
        wire.expect_refusal(0x82);
    });
}
