//! Chapter 1.5, data representation: text, integers and pairs in every field that has them.

use super::wire::*;

/// A packet that carries a text.
struct Carrier {
    field: &'static str,
    bytes: Vec<u8>,
    /// CONNECT, to be sent on a fresh socket.
    connect: bool,
}

/// CONNECT with these fields, raw. `will` and `user` are their whole part of the payload.
fn connect(version: Version, flags: u8, properties: &[u8], client_id: &[u8], will: &[u8], user: &[u8]) -> Vec<u8> {
    let properties = only_5(version, block(properties));
    packet![0x10; protocol(version), flags, [0, 0], properties, Data(client_id), will, user]
}

/// `text` in every field that is text.
fn carriers(version: Version, text: &[u8]) -> Vec<Carrier> {
    let none = || no_props(version);
    let packet = |field, bytes| Carrier { field, bytes, connect: false };
    let opening = |field, bytes| Carrier { field, bytes, connect: true };
    let will = |properties: &[u8]| bytes![only_5(version, block(properties)), "t/will", Data(b"")];
    let mut all = vec![
        opening("client identifier", connect(version, 0x02, &[], text, &[], &[])),
        opening("will topic", connect(version, 0x06, &[], b"c", &bytes![none(), Data(text), Data(b"")], &[])),
        opening("user name", connect(version, 0x82, &[], b"c", &[], &bytes![Data(text)])),
        packet("topic name", packet![0x30; Data(text), none(), b"x"]),
        packet("topic filter of SUBSCRIBE", packet![0x82; [0, 1], none(), Data(text), 0]),
        packet("topic filter of UNSUBSCRIBE", packet![0xA2; [0, 1], none(), Data(text)]),
    ];
    if version != Version::V5 {
        return all;
    }
    let properties: [(&str, Vec<u8>); 3] = [
        ("name of a user property", bytes![0x26, Data(text), "v"]),
        ("value of a user property", bytes![0x26, "n", Data(text)]),
        ("reason string", bytes![0x1F, Data(text)]),
    ];
    for (field, property) in properties {
        let block = block(&property);
        if field != "reason string" {
            all.push(opening(field, connect(version, 0x02, &property, b"c", &[], &[])));
            all.push(opening(field, connect(version, 0x06, &[], b"c", &will(&property), &[])));
            all.push(packet(field, packet![0x30; "t/a", &block, b"x"]));
            all.push(packet(field, packet![0x82; [0, 1], &block, "t/a", 0]));
            all.push(packet(field, packet![0xA2; [0, 1], &block, "t/a"]));
        }
        for first in [0x40, 0x50, 0x62, 0x70] {
            all.push(packet(field, packet![first; [0, 1], 0, &block]));
        }
        all.push(packet(field, packet![0xE0; 0, &block]));
        all.push(packet(field, packet![0xF0; 0x18, &block]));
    }
    for (field, id) in [("content type", 0x03), ("response topic", 0x08)] {
        all.push(opening(field, connect(version, 0x06, &[], b"c", &will(&bytes![id, Data(text)]), &[])));
        all.push(packet(field, packet![0x30; "t/a", props![id, Data(text)], b"x"]));
    }
    all.push(opening("authentication method", connect(version, 0x02, &bytes![0x15, Data(text)], b"c", &[], &[])));
    all
}

fn refused_in_every_field(text: &[u8]) {
    let broker = broker();
    each_version(|version| {
        for Carrier { field, bytes, connect } in carriers(version, text) {
            eprintln!("{field} with {}", hex(text));
            if connect {
                let mut wire = Wire::open(&broker, version);
                wire.send(&bytes);
                wire.expect_bad_connect(0x81);
            } else {
                let mut wire = Wire::connect(&broker, version, "text");
                wire.send(&bytes);
                wire.expect_refusal(0x81);
            }
        }
    });
}

/// 3.1.1 [MQTT-1.5.3-1, MQTT-3.1.3-4, MQTT-3.1.3-10, MQTT-3.1.3-11];
/// 5.0 [MQTT-1.5.4-1, MQTT-1.5.7-1, MQTT-3.1.3-4, MQTT-3.1.3-11, MQTT-3.1.3-12].
#[test]
fn text_that_is_not_utf_8_is_refused_in_every_field() {
    refused_in_every_field(b"t/\xFF");
}

/// 3.1.1 [MQTT-1.5.3-1]; 5.0 [MQTT-1.5.4-1].
#[test]
fn surrogates_overlong_forms_and_cut_characters_are_refused() {
    let broker = broker();
    let wrong: [&[u8]; 7] = [
        b"t/\xED\xA0\x80",
        b"t/\xED\xBF\xBF",
        b"t/\xC0\xAF",
        b"t/\xE0\x80\xAF",
        b"t/\xF4\x90\x80\x80",
        b"t/\xE2\x82",
        b"t/\x80",
    ];
    each_version(|version| {
        for text in wrong {
            eprintln!("{}", hex(text));
            let mut wire = Wire::connect(&broker, version, "text");
            wire.send(&packet![0x30; Data(text), no_props(version)]);
            wire.expect_refusal(0x81);
        }
    });
}

/// 3.1.1 [MQTT-1.5.3-2]; 5.0 [MQTT-1.5.4-2].
#[test]
fn the_null_character_is_refused_in_every_field() {
    refused_in_every_field(b"t/\0");
}

/// 3.1.1 [MQTT-1.5.3-3]; 5.0 [MQTT-1.5.4-3].
#[test]
fn a_byte_order_mark_is_a_character_like_any_other() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "bom");
        wire.subscribe("t/a", 0);
        wire.subscribe("t/\u{FEFF}a", 0);
        let message = publish(version, 0x30, "t/\u{FEFF}a", 0, "\u{FEFF}x".as_bytes());
        assert!(message.windows(3).any(|window| window == [0xEF, 0xBB, 0xBF]));
        wire.ask(&message, &message);
        wire.expect_nothing();
        // In a client identifier too: these are two clients.
        let mut other = Wire::connect(&broker, version, "\u{FEFF}bom");
        other.expect_nothing();
        wire.expect_nothing();
    });
}

/// Characters that are merely discouraged, and those outside the first plane, pass unchanged.
/// 3.1.1 [MQTT-1.5.3-1]; 5.0 [MQTT-1.5.4-1].
#[test]
fn every_character_but_null_passes_unchanged() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "all");
        wire.subscribe("t/#", 0);
        for topic in ["t/\u{1}", "t/\u{7F}\u{9F}", "t/ ", "t/Ä/温度/😀", "t/\u{D7FF}\u{E000}", "t/\u{10FFFF}", "t//"]
        {
            let message = publish(version, 0x30, topic, 0, b"");
            wire.ask(&message, &message);
        }
    });
}

/// Text has at most 65,535 bytes, and may have as many.
/// 3.1.1 [MQTT-4.7.3-3]; 5.0 [MQTT-4.7.3-3].
#[test]
fn the_longest_text_is_taken() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "long");
        wire.subscribe("t/#", 0);
        let topic = format!("t/{}", "x".repeat(65_533));
        let message = publish(version, 0x30, &topic, 0, b"end");
        wire.ask(&message, &message);
    });
}

/// 5.0 [MQTT-1.5.5-1].
#[test]
fn a_variable_byte_integer_has_its_shortest_form() {
    let broker = broker();
    // A remaining length of 0 in two to four bytes; 3.x does not ask for the shortest form.
    for long in [&b"\xC0\x80\x00"[..], b"\xC0\x80\x80\x00", b"\xC0\x80\x80\x80\x00"] {
        each_version(|version| {
            let mut wire = Wire::connect(&broker, version, "var");
            wire.send(long);
            if version == Version::V5 {
                wire.expect_refusal(0x81);
            } else {
                wire.expect(&[0xD0, 0]);
            }
        });
    }
    let refused = [
        ("property length", packet![0x82; [0, 1], [0x80, 0x00], "t/a", 0]),
        ("property identifier", packet![0x82; [0, 1], 5, [0x8B, 0x00], 1, "t/a", 0]),
        ("subscription identifier", packet![0x82; [0, 1], 3, 0x0B, [0x81, 0x00], "t/a", 0]),
    ];
    for (field, bytes) in refused {
        eprintln!("{field}");
        let mut wire = Wire::connect(&broker, Version::V5, "var");
        wire.send(&bytes);
        wire.expect_refusal(0x81);
    }
}

/// 3.1.1 [MQTT-4.8.0-1]; 5.0 [MQTT-1.5.5-1, MQTT-4.13.1-1].
#[test]
fn a_variable_byte_integer_has_at_most_four_bytes() {
    let broker = broker();
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "var");
        wire.send(b"\xC0\x80\x80\x80\x80\x00");
        wire.expect_refusal(0x81);
        let mut wire = Wire::connect(&broker, version, "var");
        wire.send(b"\x30\xFF\xFF\xFF\xFF\x7F");
        wire.expect_refusal(0x81);
        // In the first packet nothing is owed but an end.
        let mut wire = Wire::open(&broker, version);
        wire.send(b"\x10\xFF\xFF\xFF\xFF\x7F");
        wire.expect_close();
    });
    let mut wire = Wire::connect(&broker, Version::V5, "var");
    wire.send(&packet![0x82; [0, 1], [0x80, 0x80, 0x80, 0x80, 0x01], "t/a", 0]);
    wire.expect_refusal(0x81);
}
