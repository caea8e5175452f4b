//! Chapter 4.9, flow control, and the packet size that a client accepts.

use super::messages::*;
use super::wire::*;

const V5: Version = Version::V5;

/// A client whose Receive Maximum is this.
fn window(name: &str, maximum: u16) -> Connect {
    Connect::new(V5, name).with(&bytes![0x21, Be16(maximum)])
}

/// 5.0 [MQTT-3.3.4-9, MQTT-4.9.0-1, MQTT-4.9.0-2].
#[test]
fn no_more_than_receive_maximum_deliveries_are_under_way() {
    for maximum in [1, 2, 5] {
        let broker = broker();
        let mut to = Wire::accepted(&broker, &window("to", maximum)).0;
        to.subscribe("t/a", 2);
        let mut from = Wire::connect(&broker, V5, "from");
        for number in 0..12_u8 {
            published(&mut from, if number % 2 == 0 { QOS_1 } else { QOS_2 }, "t/a", &[number], 0);
        }
        let mut next = 0;
        let mut under_way = vec![];
        while next < 12 {
            while under_way.len() < usize::from(maximum) && next < 12 {
                let first = if next % 2 == 0 { QOS_1 } else { QOS_2 };
                under_way.push((first, expect_publish(&mut to, first, "t/a", &[next])));
                next += 1;
            }
            expect_silence(&mut to);
            let (first, id) = under_way.remove(0);
            if first == QOS_1 {
                to.send(&ack(PUBACK, id));
            } else {
                // Not PUBREC makes room, but PUBCOMP.
                to.ask(&ack(PUBREC, id), &ack(PUBREL, id));
                expect_silence(&mut to);
                to.send(&ack(PUBCOMP, id));
            }
        }
    }
}

/// 5.0 [MQTT-3.3.4-9, MQTT-4.9.0-2].
#[test]
fn a_refusal_makes_room() {
    let broker = broker();
    let mut to = Wire::accepted(&broker, &window("to", 1)).0;
    to.subscribe("t/a", 2);
    let mut from = Wire::connect(&broker, V5, "from");
    for payload in [b"1", b"2", b"3"] {
        published(&mut from, QOS_2, "t/a", payload, 0);
    }
    for payload in [b"1", b"2", b"3"] {
        let id = expect_publish(&mut to, QOS_2, "t/a", payload);
        expect_silence(&mut to);
        to.send(&packet![PUBREC; Be16(id), 0x97]);
    }
}

/// 5.0 [MQTT-3.3.4-10, MQTT-4.9.0-3].
#[test]
fn a_full_window_delays_nothing_but_qos_1_and_2() {
    let broker = broker();
    let mut wire = Wire::accepted(&broker, &window("to", 1)).0;
    wire.subscribe("t/a", 2);
    let mut from = Wire::connect(&broker, V5, "from");
    published(&mut from, QOS_1, "t/a", b"1", 0);
    published(&mut from, QOS_1, "t/a", b"2", 0);
    let one = expect_publish(&mut wire, QOS_1, "t/a", b"1");
    // All else goes on: pings, subscriptions, its own publications, QoS 0.
    wire.expect_nothing();
    wire.ask(&subscribe(V5, 2, "t/b", 2), &suback(V5, 0x90, 2, &[2]));
    wire.ask(&publish(V5, QOS_1, "t/c", 3, b"x"), &ack_with(V5, PUBACK, 3, NO_SUBSCRIBERS));
    wire.ask(&publish(V5, QOS_2, "t/c", 4, b"x"), &ack_with(V5, PUBREC, 4, NO_SUBSCRIBERS));
    wire.ask(&ack(PUBREL, 4), &ack(PUBCOMP, 4));
    published(&mut from, QOS_0, "t/a", b"0", 0);
    expect_publish(&mut wire, QOS_0, "t/a", b"0");
    wire.ask(&packet![0xA2; Be16(5), 0, "t/b"], &unsuback(V5, 5, &[0]));
    expect_silence(&mut wire);
    wire.send(&ack(PUBACK, one));
    expect_publish(&mut wire, QOS_1, "t/a", b"2");
}

/// 5.0 [MQTT-3.3.4-9, MQTT-3.8.4-4].
#[test]
fn retained_messages_keep_to_the_window() {
    let broker = broker();
    let mut from = Wire::connect(&broker, V5, "from");
    for number in 0..6_u8 {
        published(&mut from, QOS_1 | RETAIN, &format!("t/{number}"), &[number], NO_SUBSCRIBERS);
    }
    let mut to = Wire::accepted(&broker, &window("to", 2)).0;
    to.subscribe("t/+", 1);
    let mut found = vec![];
    while found.len() < 6 {
        let messages = deliveries(&mut to);
        assert_eq!(messages.len(), 2);
        for message in messages {
            assert_eq!(message.first, QOS_1 | RETAIN);
            to.send(&ack(PUBACK, message.id));
            found.extend(message.payload);
        }
    }
    found.sort_unstable();
    assert_eq!(found, [0, 1, 2, 3, 4, 5]);
}

/// 5.0 [MQTT-3.3.4-9, MQTT-4.4.0-1].
#[test]
fn what_is_sent_again_keeps_to_the_window_of_the_new_connection() {
    let broker = broker();
    let kept = |maximum| Connect::kept(V5, 1).with(&bytes![0x21, Be16(maximum)]);
    let mut to = Wire::accepted(&broker, &kept(5)).0;
    to.subscribe("t/a", 2);
    let mut from = Wire::connect(&broker, V5, "from");
    let firsts = [QOS_1, QOS_2, QOS_2, QOS_1, QOS_2];
    let mut ids = vec![];
    for (number, first) in firsts.into_iter().enumerate() {
        published(&mut from, first, "t/a", &[number as u8], 0);
        ids.push(expect_publish(&mut to, first, "t/a", &[number as u8]));
    }
    to.hang_up();
    let mut to = Wire::accepted(&broker, &kept(1)).0;
    for (number, (first, id)) in firsts.into_iter().zip(ids).enumerate() {
        assert_eq!(expect_publish(&mut to, first | DUP, "t/a", &[number as u8]), id);
        expect_silence(&mut to);
        if first == QOS_1 {
            to.send(&ack(PUBACK, id));
        } else {
            to.ask(&ack(PUBREC, id), &ack(PUBREL, id));
            expect_silence(&mut to);
            to.send(&ack(PUBCOMP, id));
        }
    }
    expect_silence(&mut to);
}

/// 5.0 [MQTT-3.3.4-10, MQTT-4.4.0-1, MQTT-4.9.0-3].
#[test]
fn a_full_window_does_not_delay_a_release_that_is_sent_again() {
    let broker = broker();
    let kept = |maximum| Connect::kept(V5, 1).with(&bytes![0x21, Be16(maximum)]);
    let mut to = Wire::accepted(&broker, &kept(9)).0;
    to.subscribe("t/a", 2);
    let mut from = Wire::connect(&broker, V5, "from");
    let firsts = [QOS_1, QOS_2, QOS_1, QOS_2];
    let ids: Vec<u16> = firsts
        .into_iter()
        .map(|first| {
            published(&mut from, first, "t/a", b"x", 0);
            expect_publish(&mut to, first, "t/a", b"x")
        })
        .collect();
    for id in [ids[1], ids[3]] {
        to.ask(&ack(PUBREC, id), &ack(PUBREL, id));
    }
    to.hang_up();
    let mut to = Wire::accepted(&broker, &kept(1)).0;
    assert_eq!(expect_publish(&mut to, QOS_1 | DUP, "t/a", b"x"), ids[0]);
    to.expect(&bytes![ack(PUBREL, ids[1]), ack(PUBREL, ids[3])]);
    expect_silence(&mut to);
    to.send(&bytes![ack(PUBCOMP, ids[1]), ack(PUBCOMP, ids[3])]);
    expect_silence(&mut to);
    to.send(&ack(PUBACK, ids[0]));
    assert_eq!(expect_publish(&mut to, QOS_1 | DUP, "t/a", b"x"), ids[2]);
    expect_silence(&mut to);
}

/// 5.0 [MQTT-3.3.4-9].
#[test]
fn what_is_acknowledged_before_it_is_sent_again_is_not_sent_again() {
    let broker = broker();
    let mut to = Wire::accepted(&broker, &Connect::kept(V5, 1)).0;
    to.subscribe("t/a", 1);
    let mut from = Wire::connect(&broker, V5, "from");
    let ids: Vec<u16> = [b"1", b"2", b"3"]
        .into_iter()
        .map(|payload| {
            published(&mut from, QOS_1, "t/a", payload, 0);
            expect_publish(&mut to, QOS_1, "t/a", payload)
        })
        .collect();
    to.hang_up();
    let mut to = Wire::open(&broker, V5);
    let connect = Connect::kept(V5, 1).with(&bytes![0x21, Be16(1)]);
    to.send(&bytes![connect.bytes(), ack(PUBACK, ids[2])]);
    assert!(to.expect_connack().session_present);
    for (id, payload) in ids.into_iter().zip([b"1", b"2"]) {
        assert_eq!(expect_publish(&mut to, QOS_1 | DUP, "t/a", payload), id);
        expect_silence(&mut to);
        to.send(&ack(PUBACK, id));
    }
    expect_silence(&mut to);
}

/// What is skipped because its time is over makes room for what is behind it.
#[test]
fn expired_messages_do_not_hold_up_the_window() {
    let broker = broker();
    let one = Connect::kept(V5, 1).with(&bytes![0x21, Be16(1)]);
    let mut to = Wire::accepted(&broker, &one).0;
    to.subscribe("t/a", 2);
    to.disconnect();
    let mut from = Wire::connect(&broker, V5, "from");
    for id in 1..50 {
        from.ask(&publish_with(QOS_1, "t/a", id, &bytes![0x02, Be32(0)], b"over"), &ack(PUBACK, id));
    }
    published(&mut from, QOS_1, "t/a", b"good", 0);
    let mut to = Wire::accepted(&broker, &one).0;
    expect_publish(&mut to, QOS_1, "t/a", b"good");
}

/// 5.0 [MQTT-3.3.4-7].
#[test]
fn a_client_may_have_as_many_publications_under_way_as_connack_says_and_no_more() {
    let broker = broker_with(|config| config.limits.receive_maximum = 3);
    let (mut from, connack) = Wire::accepted(&broker, &Connect::new(V5, "from"));
    assert_eq!(connack.properties.number(0x21), Some(3));
    // QoS 1 is acknowledged at once, and so is a release: neither counts for long.
    for id in 1..20 {
        from.ask(&publish(V5, QOS_1, "t/a", id, b"x"), &ack_with(V5, PUBACK, id, NO_SUBSCRIBERS));
        from.ask(&publish(V5, QOS_2, "t/a", id, b"x"), &ack_with(V5, PUBREC, id, NO_SUBSCRIBERS));
        from.ask(&ack(PUBREL, id), &ack(PUBCOMP, id));
    }
    for id in 1..=3 {
        from.ask(&publish(V5, QOS_2, "t/a", id, b"x"), &ack_with(V5, PUBREC, id, NO_SUBSCRIBERS));
    }
    // The same publications again are no more than there are; QoS 0 does not count.
    for id in 1..=3 {
        from.ask(&publish(V5, QOS_2 | DUP, "t/a", id, b"x"), &ack(PUBREC, id));
        from.send(&publish(V5, QOS_0, "t/a", 0, b"x"));
    }
    from.ask(&ack(PUBREL, 2), &ack(PUBCOMP, 2));
    from.ask(&publish(V5, QOS_2, "t/a", 4, b"x"), &ack_with(V5, PUBREC, 4, NO_SUBSCRIBERS));
    from.send(&publish(V5, QOS_2, "t/a", 5, b"x"));
    from.expect_refusal(0x93);
    // One of QoS 1 is one too many as well.
    let mut from = Wire::connect(&broker, V5, "from");
    for id in 1..=3 {
        from.ask(&publish(V5, QOS_2, "t/a", id, b"x"), &ack_with(V5, PUBREC, id, NO_SUBSCRIBERS));
    }
    from.send(&publish(V5, QOS_1, "t/a", 5, b"x"));
    from.expect_refusal(0x93);
}

/// 5.0 [MQTT-3.3.4-7].
#[test]
fn refused_publications_do_not_count_against_the_client() {
    let broker = broker_with(|config| config.limits.receive_maximum = 1);
    let (mut from, _) = Wire::accepted(&broker, &Connect::new(V5, "from").with(&[0x17, 0]));
    for id in 1..10 {
        from.ask(&publish(V5, QOS_2, "elsewhere", id, b"x"), &packet![PUBREC; Be16(id), 0x87]);
        from.ask(&publish(V5, QOS_1, "elsewhere", id, b"x"), &packet![PUBACK; Be16(id), 0x87]);
    }
    from.ask(&publish(V5, QOS_2, "t/a", 1, b"x"), &ack_with(V5, PUBREC, 1, NO_SUBSCRIBERS));
    from.ask(&ack(PUBREL, 1), &ack(PUBCOMP, 1));
}

/// 5.0 [MQTT-4.9.0-1].
#[test]
fn the_quota_begins_anew_with_each_connection() {
    let broker = broker_with(|config| config.limits.receive_maximum = 2);
    for round in 0..3 {
        let mut from = Wire::accepted(&broker, &Connect::kept(V5, 1)).0;
        for id in [2 * round + 1, 2 * round + 2] {
            from.ask(&publish(V5, QOS_2, "t/a", id, b"x"), &ack_with(V5, PUBREC, id, NO_SUBSCRIBERS));
        }
        from.hang_up();
    }
    let mut from = Wire::accepted(&broker, &Connect::kept(V5, 1)).0;
    for id in 1..=6 {
        from.ask(&ack(PUBREL, id), &ack(PUBCOMP, id));
    }
}

/// 3.x has no Receive Maximum: what a client has under way is bounded by its identifiers.
#[test]
fn publications_of_3_x_are_not_counted() {
    each_of(&VERSIONS_3, |version| {
        let broker = broker_with(|config| config.limits.receive_maximum = 2);
        let mut from = Wire::connect(&broker, version, "from");
        for id in 1..=300 {
            from.ask(&publish(version, QOS_2, "t/a", id, b"x"), &ack(PUBREC, id));
        }
        for id in 1..=300 {
            from.ask(&ack(PUBREL, id), &ack(PUBCOMP, id));
        }
    });
}

/// 5.0 [MQTT-3.1.2-24, MQTT-3.1.2-25].
#[test]
fn a_message_too_large_for_a_subscriber_is_skipped_for_it_alone() {
    let broker = broker();
    for first in [QOS_0, QOS_1, QOS_2] {
        let exact = publish(V5, first, "t/a", 1, &[b'x'; 100]);
        let small = Connect::new(V5, "small").with(&bytes![0x27, Be32(exact.len() as u32), 0x21, Be16(1)]);
        let mut small = Wire::accepted(&broker, &small).0;
        small.subscribe("t/a", 2);
        let mut large = Wire::connect(&broker, V5, "large");
        large.subscribe("t/a", 2);
        let mut from = Wire::connect(&broker, V5, "from");
        for length in [101, 100, 300, 99] {
            published(&mut from, first, "t/a", &vec![b'x'; length], 0);
            expect_publish(&mut large, first, "t/a", &vec![b'x'; length]);
        }
        // It fits exactly, and what is skipped does not stay in the window of one.
        for length in [100, 99] {
            let id = expect_publish(&mut small, first, "t/a", &vec![b'x'; length]);
            match first {
                QOS_1 => small.send(&ack(PUBACK, id)),
                QOS_2 => {
                    small.ask(&ack(PUBREC, id), &ack(PUBREL, id));
                    small.send(&ack(PUBCOMP, id));
                }
                _ => {}
            }
        }
        expect_silence(&mut small);
        // A retained message as well, and another one comes.
        for (topic, length) in [("t/r/1", 400), ("t/r/2", 10)] {
            published(&mut from, QOS_0 | RETAIN, topic, &vec![b'x'; length], 0x10);
        }
        small.subscribe("t/r/+", 0);
        expect_publish(&mut small, QOS_0 | RETAIN, "t/r/2", &[b'x'; 10]);
        expect_silence(&mut small);
        small.disconnect();
    }
}

/// 5.0 [MQTT-3.1.2-24, MQTT-3.1.2-25].
#[test]
fn a_message_that_the_next_connection_does_not_accept_is_skipped() {
    let broker = broker();
    let mut to = Wire::accepted(&broker, &Connect::kept(V5, 1)).0;
    to.subscribe("t/a", 1);
    let mut from = Wire::connect(&broker, V5, "from");
    published(&mut from, QOS_1, "t/a", &[b'x'; 300], 0);
    expect_publish(&mut to, QOS_1, "t/a", &[b'x'; 300]);
    to.hang_up();
    published(&mut from, QOS_1, "t/a", &[b'y'; 300], 0);
    published(&mut from, QOS_1, "t/a", b"small", 0);
    let mut to = Wire::accepted(&broker, &Connect::kept(V5, 1).with(&bytes![0x27, Be32(100)])).0;
    expect_publish(&mut to, QOS_1, "t/a", b"small");
    expect_silence(&mut to);
}
