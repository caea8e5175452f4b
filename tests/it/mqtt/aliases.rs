//! Chapter 3.3.2.3.4, topic aliases.

use std::collections::HashMap;

use super::messages::*;
use super::wire::*;

const V5: Version = Version::V5;

/// A PUBLISH at QoS 1 with an alias; the topic may be empty.
fn aliased(topic: &str, alias: u16, payload: &[u8]) -> Vec<u8> {
    publish_with(QOS_1, topic, 7, &bytes![0x23, Be16(alias)], payload)
}

/// A subscriber to everything, a publisher, and the Topic Alias Maximum that it was told.
fn pair() -> (crate::support::Broker, Wire, Wire, u16) {
    let broker = broker();
    let mut to = Wire::connect(&broker, V5, "to");
    to.subscribe("t/#", 0);
    let (from, connack) = Wire::accepted(&broker, &Connect::new(V5, "from"));
    let maximum = connack.properties.number(0x22).expect("a Topic Alias Maximum");
    (broker, to, from, maximum as u16)
}

/// 5.0 [MQTT-3.3.2-12].
#[test]
fn every_alias_up_to_the_maximum_stands_for_its_topic() {
    let (_broker, mut to, mut from, maximum) = pair();
    assert!(maximum > 1);
    let topic = |alias| format!("t/{alias}");
    for alias in 1..=maximum {
        from.ask(&aliased(&topic(alias), alias, b"set"), &ack(PUBACK, 7));
        // The alias is of this hop: a subscriber that offers none gets the topic.
        expect_publish(&mut to, QOS_0, &topic(alias), b"set");
    }
    for alias in (1..=maximum).rev() {
        for first in [QOS_0, QOS_1, QOS_2] {
            from.send(&publish_with(first, "", alias, &bytes![0x23, Be16(alias)], b"used"));
            expect_publish(&mut to, QOS_0, &topic(alias), b"used");
            match first {
                QOS_0 => {}
                QOS_1 => from.expect(&ack(PUBACK, alias)),
                _ => from.ask(&ack(PUBREL, alias), &bytes![ack(PUBREC, alias), ack(PUBCOMP, alias)]),
            }
        }
    }
}

#[test]
fn an_alias_can_be_given_to_another_topic() {
    let (_broker, mut to, mut from, _) = pair();
    for topic in ["t/a", "t/b", "t/a", "t/c"] {
        from.ask(&aliased(topic, 1, b"set"), &ack(PUBACK, 7));
        expect_publish(&mut to, QOS_0, topic, b"set");
        // Other aliases and plain topics leave it alone.
        from.ask(&aliased("t/other", 2, b"x"), &ack(PUBACK, 7));
        expect_publish(&mut to, QOS_0, "t/other", b"x");
        from.ask(&publish(V5, QOS_1, "t/plain", 7, b"x"), &ack(PUBACK, 7));
        expect_publish(&mut to, QOS_0, "t/plain", b"x");
        from.ask(&aliased("", 1, b"used"), &ack(PUBACK, 7));
        expect_publish(&mut to, QOS_0, topic, b"used");
        // The same again.
        from.ask(&aliased(topic, 1, b"set"), &ack(PUBACK, 7));
        expect_publish(&mut to, QOS_0, topic, b"set");
    }
    // Two aliases may stand for one topic.
    from.ask(&aliased("t/c", 2, b"x"), &ack(PUBACK, 7));
    from.ask(&aliased("", 1, b"1"), &ack(PUBACK, 7));
    from.ask(&aliased("", 2, b"2"), &ack(PUBACK, 7));
    for payload in [b"x", b"1", b"2"] {
        expect_publish(&mut to, QOS_0, "t/c", payload);
    }
}

/// 5.0 [MQTT-3.3.2-8, MQTT-3.3.2-9].
#[test]
fn an_alias_out_of_range_ends_the_connection() {
    let (_broker, mut to, _from, maximum) = pair();
    for alias in [0, maximum + 1, 0xFFFF] {
        let (_broker, _to, mut from, _) = pair();
        from.send(&aliased("t/a", alias, b"x"));
        from.expect_refusal(0x94);
    }
    expect_silence(&mut to);
    let broker = broker_with(|config| config.limits.max_topic_aliases = 0);
    let (mut from, connack) = Wire::accepted(&broker, &Connect::new(V5, "from"));
    assert_eq!(connack.properties.number(0x22).unwrap_or(0), 0);
    from.send(&aliased("t/a", 1, b"x"));
    from.expect_refusal(0x94);
}

/// 5.0 [MQTT-4.13.1-1].
#[test]
fn an_alias_without_a_topic_ends_the_connection() {
    let (_broker, _to, mut from, _) = pair();
    from.ask(&aliased("t/a", 1, b"x"), &ack(PUBACK, 7));
    from.send(&aliased("", 2, b"x"));
    from.expect_refusal(0x82);
    let (_broker, _to, mut from, _) = pair();
    // A topic that is refused is no topic of an alias.
    from.send(&aliased("t/+", 1, b"x"));
    from.expect_refusal(0x90);
    let (_broker, _to, mut from, _) = pair();
    from.send(&publish_with(QOS_1, "t/a", 7, &bytes![0x23, Be16(1), 0x23, Be16(1)], b"x"));
    from.expect_refusal(0x82);
}

/// 5.0 [MQTT-3.3.2-7].
#[test]
fn an_alias_ends_with_its_connection() {
    let broker = broker();
    let mut from = Wire::accepted(&broker, &Connect::kept(V5, 1)).0;
    from.ask(&aliased("t/a", 1, b"x"), &ack_with(V5, PUBACK, 7, NO_SUBSCRIBERS));
    from.hang_up();
    let (mut from, connack) = Wire::accepted(&broker, &Connect::kept(V5, 1));
    assert!(connack.session_present);
    from.send(&aliased("", 1, b"x"));
    from.expect_refusal(0x82);
}

/// An alias opens no door: what it stands for is allowed or not.
#[test]
fn an_alias_for_a_forbidden_topic_is_forbidden() {
    let broker = broker();
    let mut from = Wire::accepted(&broker, &Connect::new(V5, "from").with(&[0x17, 0])).0;
    let denied = packet![PUBACK; Be16(7), 0x87];
    from.ask(&aliased("elsewhere", 1, b"x"), &denied);
    from.ask(&aliased("", 1, b"x"), &denied);
    from.ask(&aliased("t/a", 1, b"x"), &ack_with(V5, PUBACK, 7, NO_SUBSCRIBERS));
    from.ask(&aliased("", 1, b"x"), &ack_with(V5, PUBACK, 7, NO_SUBSCRIBERS));
}

#[test]
fn a_message_with_an_alias_is_retained_under_its_topic() {
    let (_broker, mut to, mut from, _) = pair();
    from.ask(&aliased("t/a", 1, b"x"), &ack(PUBACK, 7));
    expect_publish(&mut to, QOS_0, "t/a", b"x");
    from.ask(&publish_with(QOS_1 | RETAIN, "", 8, &bytes![0x23, Be16(1)], b"kept"), &ack(PUBACK, 8));
    expect_publish(&mut to, QOS_0, "t/a", b"kept");
    to.subscribe("t/a", 0);
    expect_publish(&mut to, QOS_0 | RETAIN, "t/a", b"kept");
    from.ask(&publish_with(QOS_1 | RETAIN, "", 8, &bytes![0x23, Be16(1)], b""), &ack(PUBACK, 8));
    expect_publish(&mut to, QOS_0, "t/a", b"");
    to.subscribe("t/+", 0);
    expect_silence(&mut to);
}

/// What a client understands of the aliases it is sent.
#[derive(Default)]
struct Understood {
    maximum: u16,
    topics: HashMap<u32, String>,
    /// How many came without their topic.
    short: usize,
}

impl Understood {
    #[track_caller]
    fn topic(&mut self, message: &Published) -> String {
        let Some(alias) = message.properties.number(0x23) else {
            assert!(!message.topic.is_empty(), "neither a topic nor an alias");
            return message.topic.clone();
        };
        assert!((1..=u32::from(self.maximum)).contains(&alias), "alias {alias} of {}", self.maximum);
        if message.topic.is_empty() {
            self.short += 1;
            return self.topics.get(&alias).expect("a topic for the alias").clone();
        }
        self.topics.insert(alias, message.topic.clone());
        message.topic.clone()
    }
}

/// 5.0 [MQTT-3.3.2-11].
#[test]
fn a_subscriber_is_sent_as_many_aliases_as_it_takes() {
    let broker = broker();
    let mut from = Wire::connect(&broker, V5, "from");
    for maximum in [0, 1, 3, 0xFFFF] {
        let connect = Connect::new(V5, "to").with(&bytes![0x22, Be16(maximum)]);
        let mut to = Wire::accepted(&broker, &connect).0;
        to.subscribe("t/#", 2);
        let mut understood = Understood { maximum, ..Understood::default() };
        for round in 0..60_u8 {
            // Some topics often, some seldom.
            let topic = format!("t/{}", if round % 3 == 0 { round % 7 } else { 0 });
            let first = [QOS_0, QOS_1, QOS_2][usize::from(round % 3)];
            published(&mut from, first, &topic, &[round], 0);
            let message = take_publish(&mut to);
            assert_eq!((understood.topic(&message), &message.payload[..]), (topic, &[round][..]));
            match first {
                QOS_1 => to.send(&ack(PUBACK, message.id)),
                QOS_2 => {
                    to.ask(&ack(PUBREC, message.id), &ack(PUBREL, message.id));
                    to.send(&ack(PUBCOMP, message.id));
                }
                _ => {}
            }
        }
        assert_eq!(understood.short > 0, maximum > 0, "aliases are used where they are offered");
        to.disconnect();
    }
}

/// 5.0 [MQTT-3.3.2-7].
#[test]
fn aliases_to_a_subscriber_begin_anew_with_each_connection() {
    let broker = broker();
    let mut from = Wire::connect(&broker, V5, "from");
    let connect = Connect::kept(V5, 1).with(&bytes![0x22, Be16(5)]);
    let mut to = Wire::accepted(&broker, &connect).0;
    to.subscribe("t/#", 1);
    let mut understood = Understood { maximum: 5, ..Understood::default() };
    for number in 0..6_u8 {
        published(&mut from, QOS_1, "t/a", &[number], 0);
        let message = take_publish(&mut to);
        assert_eq!(understood.topic(&message), "t/a");
    }
    assert!(understood.short > 0);
    to.hang_up();
    published(&mut from, QOS_1, "t/a", &[6], 0);
    let mut to = Wire::accepted(&broker, &connect).0;
    let mut understood = Understood { maximum: 5, ..Understood::default() };
    for number in 0..9_u8 {
        if number > 6 {
            published(&mut from, QOS_1, "t/a", &[number], 0);
        }
        let message = take_publish(&mut to);
        assert_eq!((understood.topic(&message), &message.payload[..]), ("t/a".into(), &[number][..]));
        assert_eq!(message.first, if number < 6 { QOS_1 | DUP } else { QOS_1 });
    }
}
