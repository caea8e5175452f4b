//! Chapter 3.3.2.3, the properties of PUBLISH in 5.0. Topic aliases have a file of their own.

use std::time::Instant;

use super::messages::*;
use super::wire::*;
use crate::support::Broker;

const V5: Version = Version::V5;

/// By identifier; User Properties in the order they came in.
fn sorted(properties: &Properties) -> Vec<(u8, Vec<u8>)> {
    let mut found = properties.0.clone();
    found.sort_by_key(|(id, _)| *id);
    found
}

#[track_caller]
fn refused(broker: &Broker, properties: &[u8], reason: u8) {
    let mut wire = Wire::connect(broker, V5, "bad");
    wire.send(&publish_with(QOS_1, "t/a", 1, properties, b"x"));
    wire.expect_refusal(reason);
}

/// 5.0 [MQTT-3.3.2-4, MQTT-3.3.2-15, MQTT-3.3.2-16, MQTT-3.3.2-17, MQTT-3.3.2-18, MQTT-3.3.2-20].
#[test]
fn properties_are_passed_on_unaltered_and_in_order() {
    let user = bytes![0x26, "b", "2", 0x26, "a", "1", 0x26, "b", "2", 0x26, "", "", 0x26, "b", "1"];
    let properties = bytes![0x01, 1, 0x03, "text/plain", 0x08, "answers/ä", 0x09, Data(&[0, 0xFF, 0x80]), &user];
    let broker = broker();
    let mut to = Wire::connect(&broker, V5, "to");
    to.subscribe("t/a", 2);
    let mut from = Wire::connect(&broker, V5, "from");
    let wanted = sorted(&Properties::parse(&block(&properties)));
    for first in [QOS_0, QOS_1, QOS_2] {
        let id = first.into();
        from.send(&publish_with(first, "t/a", id, &properties, "ü".as_bytes()));
        if first != QOS_0 {
            from.expect(&ack(if first == QOS_1 { PUBACK } else { PUBREC }, id));
        }
        assert_eq!(sorted(&take_publish(&mut to).properties), wanted);
    }
    // Also out of the retained messages.
    from.send(&publish_with(QOS_0 | RETAIN, "t/b", 0, &properties, b"x"));
    from.expect_nothing();
    to.subscribe("t/b", 0);
    assert_eq!(sorted(&take_publish(&mut to).properties), wanted);
}

/// 5.0 [MQTT-3.3.2-6, MQTT-3.3.2-15, MQTT-3.3.2-16, MQTT-3.3.2-17, MQTT-3.3.2-20].
#[test]
fn properties_at_their_limits_are_passed_on() {
    let broker = broker();
    let mut wire = Wire::connect(&broker, V5, "limits");
    wire.subscribe("t/a", 0);
    let long = "x".repeat(65_535);
    for properties in [
        bytes![0x02, Be32(u32::MAX)],
        bytes![0x03, ""],
        bytes![0x09, Data(&[])],
        bytes![0x26, "", ""],
        bytes![0x03, &*long],
        bytes![0x08, &*long],
        bytes![0x09, Data(long.as_bytes())],
        bytes![0x26, &*long, &*long],
    ] {
        wire.send(&publish_with(QOS_0, "t/a", 0, &properties, b"x"));
        expect_publish_with(&mut wire, QOS_0, "t/a", &properties, b"x");
    }
}

/// 5.0 [MQTT-3.3.2-4]. A broker may look into the payload; this one leaves it to the subscriber.
#[test]
fn a_payload_is_passed_on_whatever_its_format_says() {
    let broker = broker();
    let mut wire = Wire::connect(&broker, V5, "formats");
    wire.subscribe("t/a", 0);
    for (properties, payload) in [(bytes![0x01, 1], &b"\xFF"[..]), (bytes![0x01, 0], b"\xFF"), (bytes![0x01, 1], b"")] {
        wire.send(&publish_with(QOS_0, "t/a", 0, &properties, payload));
        expect_publish_with(&mut wire, QOS_0, "t/a", &properties, payload);
    }
}

#[test]
fn properties_are_not_sent_to_subscribers_of_3_x() {
    each_of(&VERSIONS_3, |version| {
        let broker = broker();
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 1);
        let mut from = Wire::connect(&broker, V5, "from");
        let properties = bytes![0x01, 1, 0x02, Be32(100), 0x03, "text/plain", 0x26, "a", "1"];
        from.ask(&publish_with(QOS_1, "t/a", 1, &properties, b"x"), &ack(PUBACK, 1));
        expect_publish(&mut to, QOS_1, "t/a", b"x");
    });
}

/// 5.0 [MQTT-3.3.2-14].
#[test]
fn a_response_topic_with_a_wildcard_ends_the_connection() {
    let broker = broker();
    for topic in ["t/+", "#", "a/#", "a+"] {
        refused(&broker, &bytes![0x08, topic], 0x82);
    }
}

/// 5.0 [MQTT-3.3.2-13, MQTT-3.3.2-19].
#[test]
fn properties_that_are_not_text_end_the_connection() {
    let broker = broker();
    for bad in [&b"\xFF"[..], b"a\0", b"\xED\xA0\x80"] {
        refused(&broker, &bytes![0x08, Data(bad)], 0x81);
        refused(&broker, &bytes![0x03, Data(bad)], 0x81);
        refused(&broker, &bytes![0x26, Data(bad), "a"], 0x81);
        refused(&broker, &bytes![0x26, "a", Data(bad)], 0x81);
    }
}

/// 5.0 [MQTT-3.3.4-6].
#[test]
fn a_subscription_identifier_of_a_client_ends_the_connection() {
    let broker = broker();
    for identifier in [1, 268_435_455] {
        refused(&broker, &bytes![0x0B, Var(identifier)], 0x82);
    }
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn a_property_that_occurs_twice_ends_the_connection() {
    let broker = broker();
    for property in
        [bytes![0x01, 1], bytes![0x02, Be32(9)], bytes![0x03, "a"], bytes![0x08, "a"], bytes![0x09, Data(b"a")]]
    {
        refused(&broker, &bytes![&property, &property], 0x82);
    }
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn a_property_of_other_packets_ends_the_connection() {
    let broker = broker();
    let properties = [bytes![0x11, Be32(1)], bytes![0x21, Be16(1)], bytes![0x1F, "why"], bytes![0x28, 1], bytes![0x7F]];
    for property in properties {
        refused(&broker, &property, 0x81);
    }
    // An identifier in two bytes, which says 1 in a longer way than it has to.
    refused(&broker, &[0x81, 0x00, 1], 0x81);
    refused(&broker, &bytes![0x01, 2], 0x82);
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn properties_that_do_not_end_where_their_length_says_end_the_connection() {
    let broker = broker();
    for block in [&[2, 0x01][..], &[3, 0x02, 0, 0], &[0x80], &[0xFF, 0xFF, 0xFF, 0xFF, 0x01], &[1, 0x01, 1]] {
        let mut wire = Wire::connect(&broker, V5, "bad");
        wire.send(&packet![QOS_0; "t/a", block]);
        wire.expect_refusal(0x81);
    }
}

/// The seconds that the retained message on `topic` has left, by subscribing to it. `None`: there is none any more.
#[track_caller]
fn seconds_left(wire: &mut Wire, topic: &str) -> Option<u32> {
    wire.subscribe(topic, 0);
    deliveries(wire).first().map(|found| found.properties.number(0x02).expect("an expiry interval"))
}

/// 5.0 [MQTT-3.3.2-6].
#[test]
fn the_expiry_interval_shrinks_while_a_message_waits() {
    let broker = broker();
    let mut from = Wire::connect(&broker, V5, "from");
    // At once nothing of it is gone: what is left is rounded up.
    from.subscribe("t/now", 1);
    from.send(&publish_with(QOS_0, "t/now", 0, &bytes![0x02, Be32(100)], b"x"));
    expect_publish_with(&mut from, QOS_0, "t/now", &bytes![0x02, Be32(100)], b"x");
    let (mut away, _) = Wire::accepted(&broker, &Connect::kept(V5, 1));
    away.subscribe("t/queued", 1);
    away.disconnect();
    from.ask(&publish_with(QOS_1, "t/queued", 1, &bytes![0x02, Be32(100)], b"x"), &ack(PUBACK, 1));
    from.ask(
        &publish_with(QOS_1 | RETAIN, "t/retained", 2, &bytes![0x02, Be32(100)], b"x"),
        &ack_with(V5, PUBACK, 2, NO_SUBSCRIBERS),
    );
    let started = Instant::now();
    let left = loop {
        let left = seconds_left(&mut from, "t/retained").expect("not expired for a long time");
        if left < 100 {
            break left;
        }
        assert!(started.elapsed() < DEADLINE, "still {left} s after {:?}", started.elapsed());
    };
    let waited = started.elapsed().as_secs() as u32 + 1;
    assert!(left >= 100 - waited, "{left} s left after {waited} s");
    let (mut away, _) = Wire::accepted(&broker, &Connect::kept(V5, 1));
    let queued = take_publish(&mut away).properties.number(0x02).expect("an expiry interval");
    assert!(queued <= left && queued >= 100 - waited - 1, "{queued} s left, {left} s for a later one");
}

/// 5.0 [MQTT-3.3.2-5].
#[test]
fn a_message_whose_time_is_over_is_not_delivered() {
    let broker = broker();
    let mut from = Wire::connect(&broker, V5, "from");
    for (n, version) in [(1, Version::V5), (2, Version::V311)] {
        let (mut away, _) = Wire::accepted(&broker, &Connect::kept(version, n));
        away.subscribe("t/#", 2);
        away.disconnect();
    }
    let expiry = |seconds| bytes![0x02, Be32(seconds)];
    from.ask(&publish_with(QOS_1, "t/short", 1, &expiry(1), b"short"), &ack(PUBACK, 1));
    from.ask(&publish_with(QOS_2, "t/short", 2, &expiry(1), b"short"), &ack(PUBREC, 2));
    from.ask(&publish_with(QOS_1, "t/none", 3, &expiry(0), b"none"), &ack(PUBACK, 3));
    from.ask(&publish_with(QOS_1, "t/long", 4, &expiry(1000), b"long"), &ack(PUBACK, 4));
    let_a_second_pass(&broker);
    for (n, version) in [(1, Version::V5), (2, Version::V311)] {
        let (mut back, _) = Wire::accepted(&broker, &Connect::kept(version, n));
        let long = take_publish(&mut back);
        assert_eq!((&*long.topic, &long.payload[..]), ("t/long", &b"long"[..]));
        expect_silence(&mut back);
    }
}
