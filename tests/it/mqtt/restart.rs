//! What a broker that is started again knows of sessions, messages and identifiers: after it was stopped, and after it
//! was not asked.

use super::messages::*;
use super::wire::*;
use crate::support::Broker;

const V5: Version = Version::V5;

/// How a broker comes to be started again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// It was stopped in good order.
    Stopped,
    /// It was there one moment and not the next: what it is started with is what was on disk then.
    Lost,
}

/// Runs a test for both ends.
fn each_end(mut test: impl FnMut(End)) {
    for end in [End::Stopped, End::Lost] {
        eprintln!("the broker was {end:?}");
        test(end);
    }
}

fn again(broker: Broker, end: End) -> Broker {
    runtime().block_on(async {
        match end {
            End::Stopped => broker.stopped_and_started().await,
            End::Lost => broker.lost_and_started().await,
        }
    })
}

/// The session of user `u<n>`, which a broker that was started again must know.
#[track_caller]
fn back(broker: &Broker, version: Version, n: usize) -> Wire {
    let (wire, connack) = Wire::accepted(broker, &Connect::kept(version, n));
    assert!(connack.session_present || version == Version::V31, "the session is there");
    wire
}

#[test]
fn messages_for_a_client_that_is_away_are_there_again_in_their_order() {
    each_end(|end| {
        each_version(|version| {
            let broker = broker();
            let (mut to, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
            to.subscribe("t/+", 2);
            to.disconnect();
            let mut from = Wire::connect(&broker, version, "from");
            for number in 0..20_u8 {
                published(&mut from, if number % 2 == 0 { QOS_1 } else { QOS_2 }, "t/a", &[number], 0);
            }
            let broker = again(broker, end);
            let mut to = back(&broker, version, 1);
            let found: Vec<_> = (0..20).map(|_| take_publish(&mut to)).collect();
            for (number, message) in found.iter().enumerate() {
                let first = if number % 2 == 0 { QOS_1 } else { QOS_2 };
                assert_eq!(message.first & !DUP, first);
                assert_eq!(message.payload, [number as u8]);
                // Of a broker that was lost nobody knows whether it had sent them.
                assert!(end == End::Lost || message.first & DUP == 0, "what was never sent is not sent again");
                if first == QOS_1 {
                    to.send(&ack(PUBACK, message.id));
                } else {
                    to.ask(&ack(PUBREC, message.id), &ack(PUBREL, message.id));
                    to.send(&ack(PUBCOMP, message.id));
                }
            }
            expect_silence(&mut to);
            // And not a third time.
            to.disconnect();
            let broker = again(broker, End::Stopped);
            expect_silence(&mut back(&broker, version, 1));
        });
    });
}

/// 3.1.1 [MQTT-4.4.0-1]; 5.0 [MQTT-4.4.0-1].
#[test]
fn what_was_on_its_way_comes_again_with_dup_and_its_identifier() {
    each_end(|end| {
        each_version(|version| {
            let broker = broker();
            let (mut to, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
            to.subscribe("t/a", 2);
            let mut from = Wire::connect(&broker, version, "from");
            for (first, payload) in [(QOS_1, b"a"), (QOS_1, b"b"), (QOS_2, b"c"), (QOS_2, b"d"), (QOS_1, b"e")] {
                published(&mut from, first, "t/a", payload, 0);
            }
            let ids: Vec<u16> = (0..5).map(|_| take_publish(&mut to).id).collect();
            // One is over, of one only the release is missing.
            to.send(&ack(PUBACK, ids[1]));
            to.ask(&ack(PUBREC, ids[2]), &ack(PUBREL, ids[2]));
            // Whoever is asked something durable afterwards has written that down too.
            to.subscribe("t/b", 0);
            let broker = again(broker, end);
            let mut to = back(&broker, version, 1);
            assert_eq!(expect_publish(&mut to, QOS_1 | DUP, "t/a", b"a"), ids[0]);
            to.expect(&ack(PUBREL, ids[2]));
            assert_eq!(expect_publish(&mut to, QOS_2 | DUP, "t/a", b"d"), ids[3]);
            assert_eq!(expect_publish(&mut to, QOS_1 | DUP, "t/a", b"e"), ids[4]);
            to.send(&ack(PUBCOMP, ids[2]));
            // What comes later has other identifiers.
            let mut from = Wire::connect(&broker, version, "from");
            published(&mut from, QOS_2, "t/a", b"f", 0);
            let id = expect_publish(&mut to, QOS_2, "t/a", b"f");
            assert!(!ids.contains(&id), "{id} of {ids:?}");
        });
    });
}

/// 3.1.1 [MQTT-4.3.3-2]; 5.0 [MQTT-4.3.3-10].
#[test]
fn a_publication_of_qos_2_that_was_received_is_not_delivered_again() {
    each_end(|end| {
        each_version(|version| {
            let broker = broker();
            let (mut to, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
            to.subscribe("t/a", 1);
            to.disconnect();
            let (mut from, _) = Wire::accepted(&broker, &Connect::kept(version, 2));
            from.ask(&publish(version, QOS_2, "t/a", 7, b"x"), &ack_with(version, PUBREC, 7, 0));
            from.ask(&publish(version, QOS_2, "t/nobody", 8, b"x"), &ack_with(version, PUBREC, 8, NO_SUBSCRIBERS));
            from.ask(&publish(version, QOS_2, "t/a", 9, b"y"), &ack_with(version, PUBREC, 9, 0));
            from.ask(&ack(PUBREL, 9), &ack(PUBCOMP, 9));
            let broker = again(broker, end);
            let mut from = back(&broker, version, 2);
            let mut listens = Wire::connect(&broker, version, "listens");
            listens.subscribe("t/nobody", 2);
            from.ask(&publish(version, QOS_2 | DUP, "t/a", 7, b"x"), &ack(PUBREC, 7));
            from.ask(&publish(version, QOS_2 | DUP, "t/nobody", 8, b"x"), &ack(PUBREC, 8));
            for id in [7, 8] {
                from.ask(&ack(PUBREL, id), &ack(PUBCOMP, id));
            }
            // An identifier that was released is free: this is another publication.
            from.ask(&publish(version, QOS_2, "t/a", 9, b"z"), &ack_with(version, PUBREC, 9, 0));
            expect_silence(&mut listens);
            let mut to = back(&broker, version, 1);
            let found: Vec<_> = deliveries(&mut to).into_iter().map(|message| message.payload).collect();
            assert_eq!(found, [b"x", b"y", b"z"]);
        });
    });
}

#[test]
fn what_is_retained_is_retained_and_what_was_deleted_is_not() {
    each_end(|end| {
        each_version(|version| {
            let broker = broker();
            let mut from = Wire::connect(&broker, version, "from");
            for (topic, payload) in [("t/a", "1"), ("t/b", "1"), ("t/a", "2"), ("t/b", ""), ("t/c", "3")] {
                published(&mut from, QOS_1 | RETAIN, topic, payload.as_bytes(), NO_SUBSCRIBERS);
            }
            let broker = again(broker, end);
            let mut to = Wire::connect(&broker, version, "to");
            to.subscribe("t/+", 1);
            let found: Vec<_> = deliveries(&mut to).into_iter().map(|it| (it.first, it.topic, it.payload)).collect();
            let wanted =
                [(QOS_1 | RETAIN, "t/a".to_owned(), b"2".to_vec()), (QOS_1 | RETAIN, "t/c".to_owned(), b"3".to_vec())];
            assert_eq!(found, wanted);
        });
    });
}

/// What does not come from the queue has identifiers of its own, which are remembered as well.
#[test]
fn retained_messages_on_their_way_to_a_subscription_come_again() {
    each_end(|end| {
        each_version(|version| {
            let broker = broker();
            let mut from = Wire::connect(&broker, version, "from");
            published(&mut from, QOS_2 | RETAIN, "t/a", b"a", NO_SUBSCRIBERS);
            published(&mut from, QOS_1 | RETAIN, "t/b", b"b", NO_SUBSCRIBERS);
            let (mut to, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
            to.subscribe("t/+", 2);
            let a = expect_publish(&mut to, QOS_2 | RETAIN, "t/a", b"a");
            let b = expect_publish(&mut to, QOS_1 | RETAIN, "t/b", b"b");
            published(&mut from, QOS_1, "t/c", b"c", 0);
            let c = expect_publish(&mut to, QOS_1, "t/c", b"c");
            let broker = again(broker, end);
            let mut to = back(&broker, version, 1);
            assert_eq!(expect_publish(&mut to, QOS_2 | RETAIN | DUP, "t/a", b"a"), a);
            assert_eq!(expect_publish(&mut to, QOS_1 | RETAIN | DUP, "t/b", b"b"), b);
            assert_eq!(expect_publish(&mut to, QOS_1 | DUP, "t/c", b"c"), c);
        });
    });
}

#[test]
fn subscriptions_are_as_they_were_granted_and_those_given_up_are_gone() {
    each_end(|end| {
        let broker = broker();
        let (mut to, _) = Wire::accepted(&broker, &Connect::kept(V5, 1));
        // Retain As Published, with an identifier.
        to.ask(&packet![0x82; Be16(1), props![0x0B, 9], "t/a", 0x0A], &suback(V5, 0x90, 1, &[2]));
        // No Local.
        to.ask(&packet![0x82; Be16(1), props![], "t/own", 0x06], &suback(V5, 0x90, 1, &[2]));
        to.subscribe("t/gone", 1);
        to.ask(&packet![0xA2; Be16(2), 0, "t/gone"], &suback(V5, 0xB0, 2, &[0]));
        to.subscribe("$share/g/t/shared", 1);
        let broker = again(broker, end);
        let mut to = back(&broker, V5, 1);
        let mut from = Wire::connect(&broker, V5, "from");
        published(&mut from, QOS_1, "t/gone", b"x", NO_SUBSCRIBERS);
        published(&mut from, QOS_1 | RETAIN, "t/a", b"x", 0);
        expect_publish_with(&mut to, QOS_1 | RETAIN, "t/a", &[0x0B, 9], b"x");
        to.send(&publish(V5, QOS_0, "t/own", 0, b"x"));
        published(&mut from, QOS_1, "t/shared", b"x", 0);
        expect_publish(&mut to, QOS_1, "t/shared", b"x");
        expect_silence(&mut to);
    });
}

#[test]
fn the_will_of_a_client_whose_broker_ended_is_sent_by_the_next_one_and_once() {
    each_end(|end| {
        each_version(|version| {
            let broker = broker();
            let (mut to, _) = Wire::accepted(&broker, &Connect::kept(version, 1));
            to.subscribe("t/will", 1);
            to.disconnect();
            let (_has, _) = Wire::accepted(&broker, &Connect::kept(version, 2).will(1, false, "t/will", b"gone"));
            if end == End::Stopped {
                // Nothing answers DISCONNECT: of a broker that is lost then, nobody knows whether it had taken it.
                let (left, _) = Wire::accepted(&broker, &Connect::kept(version, 3).will(1, false, "t/will", b"left"));
                left.disconnect();
            }
            let broker = again(broker, end);
            let mut to = back(&broker, version, 1);
            let message = take_publish(&mut to);
            assert_eq!((message.first & !DUP, &*message.payload), (QOS_1, &b"gone"[..]));
            to.send(&ack(PUBACK, message.id));
            // Whoever is asked something durable afterwards has written down PUBACK too, for which nobody waits.
            to.subscribe("t/other", 0);
            expect_silence(&mut to);
            let broker = again(broker, end);
            expect_silence(&mut back(&broker, version, 1));
        });
    });
}

#[test]
fn a_session_that_is_over_stays_over() {
    each_end(|end| {
        let broker = broker();
        // Ended by its client, begun anew, and never meant to last.
        let (mut ended, _) = Wire::accepted(&broker, &Connect::kept(V5, 1));
        ended.subscribe("t/a", 1);
        ended.send(&packet![0xE0; 0, props![0x11, Be32(0)]]);
        ended.expect_close();
        let (mut anew, _) = Wire::accepted(&broker, &Connect::kept(V5, 2));
        anew.subscribe("t/a", 1);
        anew.disconnect();
        let (_anew, _) = Wire::accepted(&broker, &Connect { clean: true, ..Connect::kept(V5, 2) });
        let (mut short, _) = Wire::accepted(&broker, &Connect::new(V5, "u3").user(3));
        short.subscribe("t/a", 1);
        let broker = again(broker, end);
        let mut from = Wire::connect(&broker, V5, "from");
        published(&mut from, QOS_1, "t/a", b"x", NO_SUBSCRIBERS);
        for (n, is_there) in [(1, false), (2, true), (3, false)] {
            let (_, connack) = Wire::accepted(&broker, &Connect::kept(V5, n));
            assert_eq!(connack.session_present, is_there, "u{n}");
        }
    });
}

#[test]
fn a_session_whose_owner_is_no_longer_known_does_not_come_back() {
    let broker = broker();
    let (mut to, _) = Wire::accepted(&broker, &Connect::kept(V5, 1));
    to.subscribe("t/a", 1);
    runtime().block_on(broker.change(|config| config.auth.users.retain(|user| user.name != "u2")));
    to.disconnect();
    let (mut to, _) = Wire::accepted(&broker, &Connect::kept(V5, 3));
    to.subscribe("t/a", 1);
    to.disconnect();
    let broker = runtime().block_on(broker.stopped_and_started_with(|config| {
        config.auth.users.retain(|user| user.name != "u1");
    }));
    // In the background, and soon.
    runtime().block_on(crate::support::await_until(DEADLINE, "one session", async || match broker.report().sessions {
        1 => Ok(()),
        sessions => Err(sessions),
    }));
    back(&broker, V5, 3);
}

#[test]
fn a_broker_that_is_lost_again_and_again_misses_nothing() {
    let mut broker = broker();
    let (mut to, _) = Wire::accepted(&broker, &Connect::kept(V5, 1));
    to.subscribe("t/a", 1);
    for _ in 0..4 {
        broker = again(broker, End::Lost);
        let report = std::fs::read_to_string(broker.state().join("journal/report.json")).expect("a report");
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        for what in ["missingSegments", "damage", "lostSessions"] {
            assert_eq!(report[what], serde_json::json!([]), "{report}");
        }
    }
    back(&broker, V5, 1);
}

#[test]
fn a_second_broker_does_not_take_what_another_one_keeps() {
    let broker = broker();
    let refused = runtime().block_on(async { broker.second_on_the_same_state() });
    let said = refused.expect_err("two brokers on one directory").to_string();
    assert!(said.contains("in use by another process"), "{said}");
    Wire::connect(&broker, V5, "still served");
}
