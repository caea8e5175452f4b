//! MQTT 3.1 where it is not 3.1.1: `MQIsdp` and level 3. It has no numbered statements.

use super::wire::*;

const V31: Version = Version::V31;

#[test]
fn mqisdp_at_level_3_is_served() {
    let broker = broker();
    let mut wire = Wire::open(&broker, V31);
    wire.ask(b"\x10\x0F\x00\x06MQIsdp\x03\x02\x00\x3C\x00\x01c", &[0x20, 2, 0, 0]);
    wire.ask(&[0xC0, 0], &[0xD0, 0]);
    wire.disconnect();
}

#[test]
fn a_client_identifier_of_more_than_23_characters_is_accepted_and_an_empty_one_is_not() {
    let broker = broker();
    for length in [1, 23, 24, 200] {
        Wire::connect(&broker, V31, &"x".repeat(length)).disconnect();
    }
    for clean in [true, false] {
        let mut wire = Wire::open(&broker, V31);
        wire.send(&Connect { clean, ..Connect::new(V31, "") }.bytes());
        wire.expect_connect_refused(0, 2);
    }
}

/// The lowest flag of CONNECT is unused in 3.1, not reserved.
#[test]
fn the_lowest_flag_of_connect_is_ignored() {
    let broker = broker();
    let mut wire = Wire::open(&broker, V31);
    wire.ask(&packet![0x10; protocol(V31), 0x03, [0, 0], "c"], &[0x20, 2, 0, 0]);
    wire.disconnect();
}

#[test]
fn the_flag_of_a_user_name_without_the_field_is_legal() {
    let broker = broker();
    let mut wire = Wire::open(&broker, V31);
    wire.ask(&packet![0x10; protocol(V31), 0xC2, [0, 0], "c"], &[0x20, 2, 0, 0]);
    wire.disconnect();
}

/// There is no session present; the byte is reserved.
#[test]
fn a_session_is_resumed_without_a_word() {
    let broker = broker();
    let kept = Connect::kept(V31, 1);
    let (mut wire, _) = Wire::accepted(&broker, &kept);
    wire.subscribe("t/a", 1);
    wire.disconnect();
    let mut wire = Wire::open(&broker, V31);
    wire.ask(&kept.bytes(), &[0x20, 2, 0, 0]);
    let message = publish(V31, 0x30, "t/a", 0, b"x");
    wire.ask(&message, &message);
}

/// 3.1 says nothing of a failure; 0x80 of 3.1.1 is what its clients understand.
#[test]
fn a_subscription_that_is_denied_is_answered_with_0x80() {
    let broker = broker();
    let mut wire = Wire::connect(&broker, V31, "c");
    wire.ask(&packet![0x82; [0, 1], "t/a", 1, "elsewhere", 1, "t/b", 2], &[0x90, 5, 0, 1, 1, 0x80, 2]);
}

/// SUBSCRIBE, UNSUBSCRIBE and PUBREL have DUP in 3.1, for clients that repeat them.
#[test]
fn requests_that_are_repeated_with_dup_are_answered() {
    let broker = broker();
    let mut wire = Wire::connect(&broker, V31, "dup");
    wire.ask(&packet![0x8A; [0, 1], "t/a", 1], &[0x90, 3, 0, 1, 1]);
    wire.ask(&packet![0xAA; [0, 2], "t/a"], &[0xB0, 2, 0, 2]);
    wire.ask(&publish(V31, 0x34, "t/a", 3, b""), &[0x50, 2, 0, 3]);
    wire.ask(&packet![0x6A; [0, 3]], &[0x70, 2, 0, 3]);
    wire.ask(&packet![0x6A; [0, 3]], &[0x70, 2, 0, 3]);
}

/// Each way of a message, in the bytes of 3.1.
#[test]
fn messages_of_every_qos_are_delivered() {
    let broker = broker();
    let mut wire = Wire::connect(&broker, V31, "c");
    wire.subscribe("t/a", 2);
    wire.ask(b"\x30\x06\x00\x03t/ax", b"\x30\x06\x00\x03t/ax");
    let mut publisher = Wire::connect(&broker, V31, "pub");
    publisher.ask(b"\x32\x08\x00\x03t/a\x00\x01x", b"\x40\x02\x00\x01");
    let Frame { first, body } = wire.expect_packet();
    assert_eq!((first, body.len()), (0x32, 8));
    wire.send(&packet![0x40; &body[5..7]]);
    publisher.ask(b"\x34\x08\x00\x03t/a\x00\x02x", b"\x50\x02\x00\x02");
    let Frame { first, body } = wire.expect_packet();
    assert_eq!((first, body.len()), (0x34, 8));
    wire.ask(&packet![0x50; &body[5..7]], &packet![0x62; &body[5..7]]);
    wire.send(&packet![0x70; &body[5..7]]);
    publisher.ask(b"\x62\x02\x00\x02", b"\x70\x02\x00\x02");
    wire.expect_nothing();
}
