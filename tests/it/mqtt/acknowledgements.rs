//! Chapters 3.4 to 3.7: PUBACK, PUBREC, PUBREL, PUBCOMP.

use super::messages::*;
use super::wire::*;

const V5: Version = Version::V5;
/// What a denied publication is told.
const DENIED: &str = r#"no rule allows it: anonymous rule 1 allows "t/#""#;

/// A subscriber to `t/a` at QoS 2, and a publisher.
fn pair(version: Version) -> (crate::support::Broker, Wire, Wire) {
    let broker = broker();
    let mut to = Wire::connect(&broker, version, "to");
    to.subscribe("t/a", 2);
    let from = Wire::connect(&broker, version, "from");
    (broker, to, from)
}

/// 5.0 [MQTT-3.4.2-1, MQTT-3.5.2-1].
#[test]
fn a_publisher_is_told_whether_its_message_went_anywhere() {
    let (_broker, _to, mut from) = pair(V5);
    // The shortest form: no reason code for a success, no properties where there are none.
    from.ask(&publish(V5, QOS_1, "t/a", 1, b"x"), &[0x40, 2, 0, 1]);
    from.ask(&publish(V5, QOS_2, "t/a", 2, b"x"), &[0x50, 2, 0, 2]);
    from.ask(&publish(V5, QOS_1, "t/b", 3, b"x"), &[0x40, 3, 0, 3, 0x10]);
    from.ask(&publish(V5, QOS_2, "t/b", 4, b"x"), &[0x50, 3, 0, 4, 0x10]);
    let denied = props![0x1F, DENIED];
    from.ask(&publish(V5, QOS_1, "elsewhere", 5, b"x"), &packet![0x40; Be16(5), 0x87, &denied]);
    from.ask(&publish(V5, QOS_2, "elsewhere", 6, b"x"), &packet![0x50; Be16(6), 0x87, &denied]);
    from.expect_nothing();
}

/// 5.0 [MQTT-3.1.2-29].
#[test]
fn reasons_are_kept_from_a_client_that_does_not_want_them() {
    let broker = broker();
    let (mut from, _) = Wire::accepted(&broker, &Connect::new(V5, "from").with(&[0x17, 0]));
    from.ask(&publish(V5, QOS_1, "elsewhere", 5, b"x"), &[0x40, 3, 0, 5, 0x87]);
    from.ask(&publish(V5, QOS_2, "elsewhere", 6, b"x"), &[0x50, 3, 0, 6, 0x87]);
}

/// 5.0 [MQTT-3.4.2-2, MQTT-3.5.2-2].
#[test]
fn a_reason_that_makes_the_packet_too_large_is_left_out() {
    let broker = broker();
    let whole = packet![0x40; Be16(1), 0x87, props![0x1F, DENIED]].len() as u32;
    for (maximum, fits) in [(whole, true), (whole - 1, false)] {
        let connect = Connect::new(V5, "small").with(&bytes![0x27, Be32(maximum)]);
        let mut from = Wire::open(&broker, V5);
        from.send(&connect.bytes());
        from.expect_connack();
        for (publication, acknowledgement) in [(QOS_1, PUBACK), (QOS_2, PUBREC)] {
            let reason = if fits { props![0x1F, DENIED] } else { vec![] };
            from.ask(&publish(V5, publication, "elsewhere", 1, b"x"), &packet![acknowledgement; Be16(1), 0x87, reason]);
        }
        from.disconnect();
    }
}

/// 3.1.1 [MQTT-3.6.1-1]; 5.0 [MQTT-3.6.1-1].
#[test]
fn a_release_with_other_flags_ends_the_connection() {
    each_version(|version| {
        for flags in (0..16).filter(|flags| *flags != 0x02) {
            // In 3.1 a release that is sent again carries DUP.
            if version == Version::V31 && flags == 0x0A {
                continue;
            }
            let (_broker, _to, mut from) = pair(version);
            from.ask(&publish(version, QOS_2, "t/a", 1, b"x"), &ack(PUBREC, 1));
            from.send(&ack(0x60 | flags, 1));
            from.expect_refusal(0x81);
        }
    });
    let (_broker, _to, mut from) = pair(Version::V31);
    from.ask(&publish(Version::V31, QOS_2, "t/a", 1, b"x"), &ack(PUBREC, 1));
    from.ask(&ack(0x6A, 1), &ack(PUBCOMP, 1));
}

/// 3.1.1 [MQTT-2.2.2-1, MQTT-2.2.2-2]; 5.0 [MQTT-2.1.3-1].
#[test]
fn an_acknowledgement_with_reserved_flags_ends_the_connection() {
    each_version(|version| {
        for kind in [PUBACK, PUBREC, PUBCOMP] {
            for flags in [1, 2, 4, 8, 15] {
                let (_broker, mut to, _from) = pair(version);
                to.send(&ack(kind | flags, 1));
                to.expect_refusal(0x81);
            }
        }
    });
}

/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-4.13.1-1].
#[test]
fn a_malformed_acknowledgement_ends_the_connection() {
    each_version(|version| {
        for kind in [PUBACK, PUBREC, PUBREL, PUBCOMP] {
            let mut bad = vec![packet![kind], packet![kind; 0], packet![kind; Be16(0)]];
            if version == V5 {
                // A reason code of another packet, properties without an end, a property of another packet, one twice.
                bad.push(packet![kind; Be16(1), 0x01]);
                bad.push(packet![kind; Be16(1), 0x00, 5, 0x1F]);
                bad.push(packet![kind; Be16(1), 0x00, props![0x01, 1]]);
                bad.push(packet![kind; Be16(1), 0x00, 0, 0]);
            } else {
                bad.push(packet![kind; Be16(1), 0]);
            }
            for bytes in bad {
                let (_broker, mut to, _from) = pair(version);
                to.send(&bytes);
                to.expect_refusal(0x81);
            }
        }
    });
    for kind in [PUBACK, PUBREC, PUBREL, PUBCOMP] {
        let (_broker, mut to, _from) = pair(V5);
        to.send(&packet![kind; Be16(1), 0x00, props![0x1F, "a", 0x1F, "b"]]);
        to.expect_refusal(0x82);
    }
}

/// 5.0 [MQTT-3.6.2-1, MQTT-3.7.2-1].
#[test]
fn an_identifier_that_nobody_knows_is_answered_with_that() {
    let (_broker, mut to, _from) = pair(V5);
    to.ask(&ack(PUBREC, 77), &[0x62, 3, 0, 77, 0x92]);
    to.ask(&ack(PUBREL, 77), &[0x70, 3, 0, 77, 0x92]);
    // Nothing has to be said to these.
    to.send(&ack(PUBACK, 77));
    to.send(&ack(PUBCOMP, 77));
    to.expect_nothing();
}

#[test]
fn an_identifier_that_nobody_knows_is_answered_in_3_x_too() {
    each_of(&VERSIONS_3, |version| {
        let (_broker, mut to, _from) = pair(version);
        to.ask(&ack(PUBREC, 77), &ack(PUBREL, 77));
        to.ask(&ack(PUBREL, 77), &ack(PUBCOMP, 77));
        to.send(&ack(PUBACK, 77));
        to.send(&ack(PUBCOMP, 77));
        to.expect_nothing();
    });
}

/// Every legal form: a code without properties, an empty block, a Reason String and User Properties.
#[test]
fn acknowledgements_of_clients_may_say_more() {
    let (_broker, mut to, mut from) = pair(V5);
    let more = props![0x1F, "why", 0x26, "a", "1", 0x26, "a", "2"];
    for tail in [vec![], vec![0x00], vec![0x10], bytes![0x00, 0], bytes![0x10, &more]] {
        published(&mut from, QOS_1, "t/a", b"1", 0);
        let id = expect_publish(&mut to, QOS_1, "t/a", b"1");
        to.send(&packet![PUBACK; Be16(id), &tail]);
        published(&mut from, QOS_2, "t/a", b"2", 0);
        let id = expect_publish(&mut to, QOS_2, "t/a", b"2");
        to.ask(&packet![PUBREC; Be16(id), &tail], &ack(PUBREL, id));
        to.send(&packet![PUBCOMP; Be16(id), if tail.len() > 1 { bytes![0x00, &more] } else { vec![] }]);
        to.expect_nothing();
    }
    from.ask(&publish(V5, QOS_2, "t/a", 9, b"3"), &ack(PUBREC, 9));
    from.ask(&packet![PUBREL; Be16(9), 0x00, &more], &ack(PUBCOMP, 9));
    from.ask(&publish(V5, QOS_2, "t/a", 9, b"3"), &ack(PUBREC, 9));
    from.ask(&packet![PUBREL; Be16(9), 0x92], &ack(PUBCOMP, 9));
}

/// 5.0 [MQTT-4.3.3-4, MQTT-4.4.0-2].
#[test]
fn a_refusal_ends_the_exchange_and_is_not_answered() {
    let broker = broker();
    let mut from = Wire::connect(&broker, V5, "from");
    for code in [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99] {
        // One message at a time: the next one comes only when the exchange is over.
        let one = Connect::kept(V5, 1).with(&bytes![0x21, Be16(1)]);
        let (mut to, _) = Wire::accepted(&broker, &one);
        to.subscribe("t/a", 2);
        for payload in [b"1", b"2"] {
            published(&mut from, QOS_1, "t/a", payload, 0);
            published(&mut from, QOS_2, "t/a", payload, 0);
        }
        for payload in [b"1", b"2"] {
            let id = expect_publish(&mut to, QOS_1, "t/a", payload);
            to.send(&packet![PUBACK; Be16(id), code]);
            let id = expect_publish(&mut to, QOS_2, "t/a", payload);
            to.send(&packet![PUBREC; Be16(id), code]);
        }
        expect_silence(&mut to);
        to.disconnect();
        // And nothing of it is sent again.
        let (mut to, connack) = Wire::accepted(&broker, &one);
        assert!(connack.session_present);
        expect_silence(&mut to);
        to.disconnect();
    }
}
