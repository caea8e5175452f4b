//! Chapter 4.6, message ordering.

use std::collections::VecDeque;

use super::messages::*;
use super::wire::*;

/// 3.1.1 [MQTT-4.6.0-2, MQTT-4.6.0-3].
#[test]
fn publications_are_acknowledged_in_their_order() {
    each_version(|version| {
        let broker = broker();
        let mut wire = Wire::connect(&broker, version, "asks");
        wire.subscribe("t/a", 0);
        let order = [(QOS_1, 9), (QOS_2, 3), (QOS_1, 7), (QOS_2, 1), (QOS_2, 0xFFFF), (QOS_1, 2), (QOS_1, 8)];
        // To where nobody listens, so that nothing comes between.
        let questions: Vec<u8> = order.iter().flat_map(|(qos, id)| publish(version, *qos, "t/b", *id, b"x")).collect();
        let answer = |(qos, id)| ack_with(version, if qos == QOS_1 { PUBACK } else { PUBREC }, id, NO_SUBSCRIBERS);
        wire.ask(&questions, &order.into_iter().flat_map(answer).collect::<Vec<_>>());
        let releases: Vec<u8> = [0xFFFF, 3, 1].into_iter().flat_map(|id| ack(PUBREL, id)).collect();
        let answers: Vec<u8> = [0xFFFF, 3, 1].into_iter().flat_map(|id| ack(PUBCOMP, id)).collect();
        wire.ask(&releases, &answers);
    });
}

/// 3.1.1 [MQTT-4.6.0-4].
#[test]
fn deliveries_are_released_in_the_order_of_their_pubrec() {
    each_version(|version| {
        let broker = broker();
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 2);
        let mut from = Wire::connect(&broker, version, "from");
        let mut ids = vec![];
        for number in 0..5_u8 {
            published(&mut from, QOS_2, "t/a", &[number], 0);
            ids.push(expect_publish(&mut to, QOS_2, "t/a", &[number]));
        }
        // The client may have an order of its own.
        ids.swap(0, 3);
        let received: Vec<u8> = ids.iter().flat_map(|id| ack(PUBREC, *id)).collect();
        let released: Vec<u8> = ids.iter().flat_map(|id| ack(PUBREL, *id)).collect();
        to.ask(&received, &released);
        ids.reverse();
        to.send(&ids.iter().flat_map(|id| ack(PUBCOMP, *id)).collect::<Vec<_>>());
        expect_silence(&mut to);
    });
}

/// 3.1.1 [MQTT-4.6.0-1, MQTT-4.4.0-1]; 5.0 [MQTT-4.4.0-1].
#[test]
fn what_is_sent_again_comes_in_the_order_of_the_first_time() {
    each_version(|version| {
        let broker = broker();
        let mut to = Wire::accepted(&broker, &Connect::kept(version, 1)).0;
        to.subscribe("t/a", 2);
        let mut from = Wire::connect(&broker, version, "from");
        let mut under_way = VecDeque::new();
        for number in 0..12_u8 {
            let first = if number % 3 == 0 { QOS_1 } else { QOS_2 };
            published(&mut from, first, "t/a", &[number], 0);
            under_way.push_back((first, number, expect_publish(&mut to, first, "t/a", &[number])));
        }
        // Acknowledged out of order, from both ends and the middle.
        for at in [11, 6, 3, 0] {
            let (first, _, id) = under_way.remove(at).unwrap();
            if first == QOS_1 {
                to.send(&ack(PUBACK, id));
            } else {
                to.ask(&ack(PUBREC, id), &ack(PUBREL, id));
                to.send(&ack(PUBCOMP, id));
            }
        }
        let released = under_way.iter().rposition(|(first, ..)| *first == QOS_2).unwrap();
        to.ask(&ack(PUBREC, under_way[released].2), &ack(PUBREL, under_way[released].2));
        to.hang_up();
        // What comes meanwhile comes after.
        published(&mut from, QOS_1, "t/a", b"new", 0);
        let mut to = Wire::accepted(&broker, &Connect::kept(version, 1)).0;
        for (at, (first, number, id)) in under_way.into_iter().enumerate() {
            if at == released {
                to.expect(&ack(PUBREL, id));
            } else {
                assert_eq!(expect_publish(&mut to, first | DUP, "t/a", &[number]), id);
            }
        }
        expect_publish(&mut to, QOS_1, "t/a", b"new");
        expect_silence(&mut to);
    });
}

/// 3.1.1 [MQTT-4.6.0-5, MQTT-4.6.0-6]; 5.0 [MQTT-4.6.0-5, MQTT-4.6.0-6].
#[test]
fn messages_of_a_topic_and_qos_arrive_in_the_order_of_their_publisher() {
    const EACH: u8 = 150;
    each_version(|version| {
        let broker = broker();
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 2);
        let mut publishers = ["one", "two"].map(|name| Wire::connect(&broker, version, name));
        for chunk in 0..EACH / 10 {
            for (who, from) in publishers.iter_mut().enumerate() {
                let mut questions = vec![];
                for number in chunk * 10..chunk * 10 + 10 {
                    let first = [QOS_0, QOS_1, QOS_2][usize::from(number % 3)];
                    questions.extend(publish(version, first, "t/a", u16::from(number) + 1, &[who as u8, number]));
                }
                from.send(&questions);
            }
        }
        // The window of the subscriber is smaller than what is on its way.
        let mut last = [[None; 3]; 2];
        for _ in 0..u16::from(EACH) * 2 {
            let message = loop {
                let frame = to.expect_packet();
                match frame.first {
                    PUBREL => to.send(&packet![PUBCOMP; frame.body]),
                    _ => break take_apart(version, frame),
                }
            };
            let qos = usize::from(message.first >> 1 & 3);
            match qos {
                0 => {}
                1 => to.send(&ack(PUBACK, message.id)),
                _ => to.send(&ack(PUBREC, message.id)),
            }
            let [who, number] = message.payload[..] else { panic!("{message:?}") };
            let before = last[usize::from(who)][qos].replace(number);
            assert!(before.is_none_or(|before| before + 3 == number), "{number} after {before:?} at QoS {qos}");
            assert_eq!(usize::from(number % 3), qos);
        }
    });
}

/// PUBACK in any order is legal, and the window moves on.
#[test]
fn acknowledgements_may_come_in_any_order() {
    each_version(|version| {
        let broker = broker_with(|config| config.limits.max_inflight = 4);
        let mut to = Wire::connect(&broker, version, "to");
        to.subscribe("t/a", 1);
        let mut from = Wire::connect(&broker, version, "from");
        for number in 0..16_u8 {
            published(&mut from, QOS_1, "t/a", &[number], 0);
        }
        let mut next = 0;
        let mut under_way = vec![];
        while next < 16 {
            while under_way.len() < 4 && next < 16 {
                under_way.push(expect_publish(&mut to, QOS_1, "t/a", &[next]));
                next += 1;
            }
            expect_silence(&mut to);
            // The newest, and the oldest.
            to.send(&ack(PUBACK, under_way.pop().unwrap()));
            to.send(&ack(PUBACK, under_way.remove(0)));
        }
    });
}
