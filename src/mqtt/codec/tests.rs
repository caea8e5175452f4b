//! Exact bytes of notable cases, then properties over all packets and versions.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::mqtt::packet::*;
use crate::mqtt::property::*;
use crate::mqtt::topic::Filter;
use crate::mqtt::{ReasonCode, topic};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn encoded(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    encode(packet, version, &mut out);
    out
}

fn violation(frame: &[u8], version: Version) -> Violation {
    decode(frame, version).expect_err("the frame is illegal")
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn publish<'a>(topic: &'a str, qos: QoS, payload: &'a [u8]) -> Publish<'a> {
    let packet_id = (qos != QoS::AtMostOnce).then_some(id(0x0102));
    Publish { dup: false, qos, retain: false, topic, packet_id, properties: PublishProperties::default(), payload }
}

/// CONNECT with these flags and this payload, client id `c` included by the caller.
fn connect_frame(name: &[u8], level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    let mut body = vec![0, name.len() as u8];
    body.extend_from_slice(name);
    body.extend_from_slice(&[level, flags, 0, 60]);
    body.extend_from_slice(rest);
    let mut frame = vec![0x10, body.len() as u8];
    frame.extend(body);
    frame
}

#[test]
fn length_is_known_when_the_fixed_header_is_complete() {
    assert_eq!(packet_length(&[], 100), Ok(None));
    assert_eq!(packet_length(&[0xC0], 100), Ok(None));
    assert_eq!(packet_length(&[0xC0, 0], 100), Ok(Some(2)));
    assert_eq!(packet_length(&[0x30, 0x80], 1000), Ok(None));
    assert_eq!(packet_length(&[0x30, 0x80, 0x01], 1000), Ok(Some(131)));
    assert_eq!(packet_length(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], u32::MAX), Ok(Some(268_435_460)));
}

#[test]
fn length_counts_the_header_against_the_maximum() {
    assert_eq!(packet_length(&[0x30, 98], 100), Ok(Some(100)));
    assert_eq!(packet_length(&[0x30, 99], 100), Err(Violation::PacketTooLarge { length: 101, maximum: 100 }));
}

#[test]
fn a_fifth_length_byte_is_malformed() {
    assert_eq!(packet_length(&[0x30, 0x80, 0x80, 0x80], 100), Ok(None));
    assert_eq!(packet_length(&[0x30, 0x80, 0x80, 0x80, 0x80], 100), Err(Violation::RemainingLength));
}

#[test]
fn the_first_byte_alone_is_judged() {
    assert_eq!(packet_length(&[0x00], 100), Err(Violation::PacketType { kind: 0 }));
    assert_eq!(packet_length(&[0x36], 100), Err(Violation::Qos3));
    assert_eq!(packet_length(&[0x38], 100), Err(Violation::DupWithQos0));
    assert_eq!(packet_length(&[0x80], 100), Err(Violation::ReservedFlags { packet: "SUBSCRIBE", flags: 0 }));
    assert_eq!(packet_length(&[0x60], 100), Err(Violation::ReservedFlags { packet: "PUBREL", flags: 0 }));
    assert_eq!(packet_length(&[0x11], 100), Err(Violation::ReservedFlags { packet: "CONNECT", flags: 1 }));
}

#[test]
fn dup_on_pubrel_is_legal_in_3_1_only() {
    let frame = [0x6A, 2, 0, 1];
    assert!(decode(&frame, Version::V31).is_ok());
    assert_eq!(violation(&frame, Version::V311), Violation::ReservedFlags { packet: "PUBREL", flags: 0b1010 });
    assert_eq!(violation(&frame, Version::V5).id(), "MQTT-3.6.1-1");
}

#[test]
fn a_long_form_of_the_remaining_length_is_malformed_in_5_only() {
    let frame = [0xC0, 0x80, 0x00];
    assert_eq!(decode(&frame, Version::V311), Ok(Packet::PingReq));
    assert_eq!(violation(&frame, Version::V5).id(), "MQTT-1.5.5-1");
}

#[test]
fn connect_of_each_version_decodes() {
    for (name, level, version) in
        [(&b"MQIsdp"[..], 3, Version::V31), (b"MQTT", 4, Version::V311), (b"MQTT", 5, Version::V5)]
    {
        let rest: &[u8] = if version == Version::V5 { &[0, 0, 1, b'c'] } else { &[0, 1, b'c'] };
        let frame = connect_frame(name, level, 2, rest);
        assert_eq!(connect_version(&frame), Some(version));
        // The version of the connection plays no part.
        let Ok(Packet::Connect(connect)) = decode(&frame, Version::V311) else { panic!("{version}") };
        assert_eq!((connect.version, connect.client_id, connect.keep_alive), (version, "c", 60));
        assert!(connect.clean_start);
    }
}

#[test]
fn unknown_protocol_names_and_levels_are_refused() {
    let frame = connect_frame(b"MQTT", 6, 2, &[0, 1, b'c']);
    assert_eq!(violation(&frame, Version::V5), Violation::UnsupportedVersion { level: 6 });
    assert_eq!(connect_version(&frame), None);
    let frame = connect_frame(b"MQTT", 3, 2, &[0, 1, b'c']);
    assert_eq!(violation(&frame, Version::V5), Violation::UnsupportedVersion { level: 3 });
    let frame = connect_frame(b"MQTX", 4, 2, &[0, 1, b'c']);
    assert_eq!(violation(&frame, Version::V5), Violation::ProtocolName);
}

#[test]
fn connect_flags_must_agree() {
    let refused = |level, flags| violation(&connect_frame(b"MQTT", level, flags, &[0, 0, 0]), Version::V5);
    assert_eq!(refused(4, 0x01), Violation::ConnectReservedFlag);
    assert_eq!(refused(4, 0x08), Violation::WillQosWithoutWill { qos: 1 });
    assert_eq!(refused(4, 0x20), Violation::WillRetainWithoutWill);
    assert_eq!(refused(4, 0x1C), Violation::WillQos3);
    assert_eq!(refused(4, 0x40), Violation::PasswordWithoutUserName);
    let frame = connect_frame(b"MQTT", 5, 0x40, &[0, 0, 1, b'c', 0, 1, b'p']);
    let Ok(Packet::Connect(connect)) = decode(&frame, Version::V5) else { panic!("legal in 5.0") };
    assert_eq!((connect.username, connect.password), (None, Some(&b"p"[..])));
}

#[test]
fn a_missing_user_name_is_accepted_in_3_1_only() {
    let frame = connect_frame(b"MQIsdp", 3, 0x80, &[0, 1, b'c']);
    let Ok(Packet::Connect(connect)) = decode(&frame, Version::V31) else { panic!("legal in 3.1") };
    assert_eq!(connect.username, None);
    let frame = connect_frame(b"MQTT", 4, 0x80, &[0, 1, b'c']);
    assert_eq!(violation(&frame, Version::V311), Violation::Truncated { field: "user name" });
}

#[test]
fn an_empty_client_identifier_is_for_clean_sessions_of_3_1_1_and_for_5() {
    for (level, flags, legal) in [(3, 0, false), (3, 2, false), (4, 0, false), (4, 2, true), (5, 0, true), (5, 2, true)]
    {
        let (name, rest): (&[u8], &[u8]) = match level {
            3 => (b"MQIsdp", &[0, 0]),
            4 => (b"MQTT", &[0, 0]),
            _ => (b"MQTT", &[0, 0, 0]),
        };
        let frame = connect_frame(name, level, flags, rest);
        let refused = decode(&frame, Version::V5).err();
        assert_eq!(refused, (!legal).then_some(Violation::EmptyClientId), "level {level}, flags {flags}");
    }
}

#[test]
fn bytes_after_the_last_field_are_malformed() {
    let frame = connect_frame(b"MQTT", 4, 2, &[0, 1, b'c', 9]);
    assert_eq!(violation(&frame, Version::V311), Violation::TrailingBytes { packet: "CONNECT", count: 1 });
    assert_eq!(violation(&[0xC0, 1, 0], Version::V5), Violation::TrailingBytes { packet: "PINGREQ", count: 1 });
    assert_eq!(violation(&[0xC0, 0, 0xC0], Version::V5), Violation::TrailingBytes { packet: "PINGREQ", count: 1 });
    assert_eq!(violation(&[0x40, 3, 0, 1, 0], Version::V311), Violation::TrailingBytes { packet: "PUBACK", count: 1 });
}

#[test]
fn publish_has_the_bytes_of_the_specification() {
    let packet = Packet::Publish(publish("a/b", QoS::AtLeastOnce, b"hi"));
    assert_eq!(encoded(&packet, Version::V311), b"\x32\x09\x00\x03a/b\x01\x02hi");
    assert_eq!(encoded(&packet, Version::V5), b"\x32\x0A\x00\x03a/b\x01\x02\x00hi");
    let packet = Packet::Publish(Publish { retain: true, ..publish("a", QoS::AtMostOnce, b"") });
    assert_eq!(encoded(&packet, Version::V311), b"\x31\x03\x00\x01a");
}

#[test]
fn publish_refuses_what_is_malformed() {
    assert_eq!(violation(b"\x32\x05\x00\x01a\x00\x00", Version::V311), Violation::PacketIdZero { packet: "PUBLISH" });
    assert_eq!(violation(b"\x30\x03\x00\x01+", Version::V311), Violation::WildcardInTopicName { at: 0 });
    assert_eq!(violation(b"\x30\x03\x00\x01\x00", Version::V311).id(), "MQTT-1.5.4-2");
    assert_eq!(violation(b"\x30\x05\x00\x03\xED\xA0\x80", Version::V311), Violation::Utf8 { field: "topic name" });
    assert_eq!(violation(b"\x30\x02\x00\x00", Version::V311), Violation::EmptyTopicWithoutAlias);
    assert_eq!(violation(b"\x30\x03\x00\x00\x00", Version::V5), Violation::EmptyTopicWithoutAlias);
    assert_eq!(
        violation(b"\x30\x07\x00\x01a\x03\x23\x00\x00", Version::V5),
        Violation::TopicAlias { alias: 0, maximum: u16::MAX }
    );
    assert_eq!(violation(b"\x30\x03\x00\x05a", Version::V311), Violation::Truncated { field: "topic name" });
}

#[test]
fn an_empty_topic_needs_an_alias() {
    let Ok(Packet::Publish(publish)) = decode(b"\x30\x06\x00\x00\x03\x23\x00\x07", Version::V5) else { panic!() };
    assert_eq!((publish.topic, publish.properties.topic_alias), ("", Some(7)));
}

#[test]
fn properties_are_unique_and_at_home() {
    let frame = b"\x30\x08\x00\x01a\x04\x01\x00\x01\x00";
    assert_eq!(violation(frame, Version::V5), Violation::DuplicateProperty { property: "Payload Format Indicator" });
    let frame = b"\x30\x07\x00\x01a\x03\x21\x00\x01";
    assert_eq!(violation(frame, Version::V5), Violation::PropertyNotAllowed { packet: "PUBLISH", property: 0x21 });
    let frame = b"\x30\x06\x00\x01a\x02\x01\x02";
    assert_eq!(violation(frame, Version::V5).reason(), ReasonCode::PROTOCOL_ERROR);
    let frame = b"\x30\x06\x00\x01a\x02\x0B\x00";
    assert_eq!(
        violation(frame, Version::V5),
        Violation::PropertyValue { property: "Subscription Identifier", value: 0 }
    );
    // The block says one byte more than the packet has.
    assert_eq!(violation(b"\x30\x06\x00\x01a\x03\x01\x00", Version::V5), Violation::Truncated { field: "properties" });
    // The property says one byte more than the block has.
    assert_eq!(
        violation(b"\x30\x05\x00\x01a\x01\x01", Version::V5),
        Violation::Truncated { field: "Payload Format Indicator" }
    );
}

#[test]
fn user_properties_end_at_the_limit() {
    let user = vec![("k", "v"); MAX_USER_PROPERTIES];
    let properties = PublishProperties { user, ..PublishProperties::default() };
    let mut packet = Publish { properties, ..publish("a", QoS::AtMostOnce, b"") };
    assert!(decode(&encoded(&Packet::Publish(packet.clone()), Version::V5), Version::V5).is_ok());
    packet.properties.user.push(("k", "v"));
    let more = encoded(&Packet::Publish(packet), Version::V5);
    assert_eq!(violation(&more, Version::V5), Violation::TooManyUserProperties { maximum: MAX_USER_PROPERTIES });
    // To a server's own, those of a publisher are added.
    assert!(decode_from_server(&more, Version::V5).is_ok());
}

#[test]
fn response_topics_have_no_wildcards() {
    let frame = b"\x30\x08\x00\x01a\x04\x08\x00\x01#";
    assert_eq!(violation(frame, Version::V5), Violation::ResponseTopic);
}

#[test]
fn subscribe_refuses_what_is_malformed() {
    assert_eq!(violation(b"\x82\x02\x00\x01", Version::V311), Violation::EmptySubscribe);
    assert_eq!(violation(b"\x82\x06\x00\x01\x00\x01a\x03", Version::V311), Violation::SubscriptionQos3);
    assert_eq!(violation(b"\x82\x06\x00\x01\x00\x01a\x04", Version::V311).id(), "MQTT-3.8.3-5");
    assert_eq!(violation(b"\x82\x07\x00\x01\x00\x00\x01a\x40", Version::V5).id(), "MQTT-3.8.3-5");
    assert_eq!(violation(b"\x82\x07\x00\x01\x00\x00\x01a\x30", Version::V5), Violation::RetainHandling);
    assert_eq!(violation(b"\x82\x06\x00\x00\x00\x01a\x00", Version::V311).id(), "MQTT-2.2.1-3");
    assert_eq!(violation(b"\x82\x0F\x00\x01\x00\x00\x09$share/g/\x00", Version::V5), Violation::ShareName);
    assert_eq!(violation(b"\x82\x10\x00\x01\x00\x00\x0A$share/g/a\x04", Version::V5), Violation::NoLocalOnShared);
    assert_eq!(violation(b"\xA2\x02\x00\x01", Version::V311), Violation::EmptyUnsubscribe);
}

#[test]
fn acknowledgements_have_their_shortest_form() {
    let mut ack = Ack { packet_id: id(7), code: ReasonCode::SUCCESS, properties: AckProperties::default() };
    assert_eq!(encoded(&Packet::PubAck(ack.clone()), Version::V5), [0x40, 2, 0, 7]);
    ack.code = ReasonCode::NOT_AUTHORIZED;
    assert_eq!(encoded(&Packet::PubAck(ack.clone()), Version::V5), [0x40, 3, 0, 7, 0x87]);
    assert_eq!(encoded(&Packet::PubAck(ack.clone()), Version::V311), [0x40, 2, 0, 7]);
    assert_eq!(encoded(&Packet::PubRel(ack.clone()), Version::V31), [0x62, 2, 0, 7]);
    ack.properties.reason_string = Some("no");
    assert_eq!(encoded(&Packet::PubRec(ack), Version::V5), *b"\x50\x09\x00\x07\x87\x05\x1F\x00\x02no");
}

#[test]
fn reason_codes_belong_to_their_packet() {
    assert!(decode(&[0x40, 3, 0, 1, 0x10], Version::V5).is_ok());
    assert_eq!(violation(&[0x40, 3, 0, 1, 0x92], Version::V5).id(), "MQTT-3.4.2-1");
    assert!(decode(&[0x62, 3, 0, 1, 0x92], Version::V5).is_ok());
    assert_eq!(violation(&[0xE0, 1, 0x86], Version::V5).id(), "MQTT-3.14.2-1");
    assert_eq!(violation(&[0x20, 2, 0, 6], Version::V311).id(), "MQTT-3.2.2-8");
}

#[test]
fn refusals_take_the_return_codes_of_3_x() {
    let refusal = |code| {
        Packet::ConnAck(Box::new(ConnAck { session_present: false, code, properties: ConnAckProperties::default() }))
    };
    assert_eq!(encoded(&refusal(ReasonCode::NOT_AUTHORIZED), Version::V311), [0x20, 2, 0, 5]);
    assert_eq!(encoded(&refusal(ReasonCode::SERVER_BUSY), Version::V31), [0x20, 2, 0, 3]);
    assert_eq!(encoded(&refusal(ReasonCode::NOT_AUTHORIZED), Version::V5), [0x20, 3, 0, 0x87, 0]);
    let suback = SubAck {
        packet_id: id(1),
        properties: AckProperties::default(),
        codes: vec![ReasonCode::GRANTED_QOS_1, ReasonCode::NOT_AUTHORIZED],
    };
    assert_eq!(encoded(&Packet::SubAck(suback.clone()), Version::V311), [0x90, 4, 0, 1, 1, 0x80]);
    assert_eq!(encoded(&Packet::UnsubAck(suback), Version::V311), [0xB0, 2, 0, 1]);
}

#[test]
fn session_present_excludes_refusal() {
    assert_eq!(violation(&[0x20, 2, 1, 5], Version::V311), Violation::SessionPresentInRefusal);
    assert_eq!(violation(&[0x20, 2, 2, 0], Version::V311), Violation::ConnAckFlags { flags: 2 });
}

#[test]
fn auth_exists_in_5_only() {
    assert!(decode(&[0xF0, 0], Version::V5).is_ok());
    assert_eq!(violation(&[0xF0, 0], Version::V311), Violation::UnexpectedPacket { packet: "AUTH" });
    let auth = Auth { code: ReasonCode::SUCCESS, properties: AuthProperties::default() };
    assert!(encoded(&Packet::Auth(auth), Version::V311).is_empty());
}

#[test]
fn overlong_text_is_cut_at_a_character() {
    let topic = "ü".repeat(40_000);
    let packet = Packet::Publish(publish(&topic, QoS::AtMostOnce, b"x"));
    let frame = encoded(&packet, Version::V311);
    let Ok(Packet::Publish(decoded)) = decode(&frame, Version::V311) else { panic!("framing holds") };
    assert_eq!(decoded.topic.len(), 65_534);
    assert_eq!(decoded.payload, b"x");
}

#[test]
fn head_and_payload_make_the_packet_at_every_length_boundary() {
    for size in (100..140).chain(16_360..16_400).chain(2_097_130..2_097_160) {
        let payload = vec![b'x'; size];
        let mut packet = publish("t/1", QoS::AtLeastOnce, &payload);
        packet.properties.user.push(("k", "v"));
        for version in VERSIONS {
            let mut out = vec![0xAA; 3];
            let at = encode_publish_head(&packet, version, &mut out);
            assert_eq!(out[at..at + 2], [1, 2]);
            out.extend_from_slice(&payload);
            assert_eq!(packet_length(&out[3..], u32::MAX), Ok(Some(out.len() - 3)));
            assert_eq!(publish_length(&packet, version), out.len() - 3);
            assert!(decode(&out[3..], version).is_ok());
        }
    }
}

// Properties over arbitrary packets. The model borrows, so generated text is leaked: a few kilobytes per run.

fn text(length: std::ops::Range<usize>) -> impl Strategy<Value = &'static str> {
    vec(any::<char>().prop_filter("U+0000 is illegal", |c| *c != '\0'), length)
        .prop_map(|chars| &*String::leak(chars.into_iter().collect()))
}

fn data() -> impl Strategy<Value = &'static [u8]> {
    vec(any::<u8>(), 0..200).prop_map(|bytes| &*Vec::leak(bytes))
}

fn name() -> impl Strategy<Value = &'static str> {
    text(1..12).prop_filter("a topic name", |text| topic::check_name(text).is_ok())
}

fn filter() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        name().prop_filter("a topic filter", |text| Filter::parse(text).is_ok()),
        Just("#"),
        Just("a/+/b"),
        Just("$share/g/a/#")
    ]
}

fn user() -> impl Strategy<Value = UserProperties<'static>> {
    vec((text(0..5), text(0..5)), 0..4)
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<PacketId>()
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn code(kind: u8) -> impl Strategy<Value = ReasonCode> {
    let legal: Vec<_> = (0..=255).filter(|code| is_defined(kind, *code)).map(ReasonCode).collect();
    prop::sample::select(legal)
}

prop_compose! {
    fn publish_properties()(
        payload_format_utf8 in any::<Option<bool>>(),
        message_expiry in any::<Option<u32>>(),
        topic_alias in option::of(1..=u16::MAX),
        response_topic in option::of(name()),
        correlation_data in option::of(data()),
        subscription_identifiers in vec(1..=268_435_455_u32, 0..3),
        content_type in option::of(text(0..8)),
        user in user(),
    ) -> PublishProperties<'static> {
        PublishProperties {
            payload_format_utf8, message_expiry, topic_alias, response_topic, correlation_data,
            subscription_identifiers, content_type, user,
        }
    }
}

prop_compose! {
    fn any_publish()(
        qos in qos(), dup in any::<bool>(), retain in any::<bool>(), topic in name(), id in packet_id(),
        properties in publish_properties(), payload in data(), empty in any::<bool>(),
    ) -> Publish<'static> {
        let topic = if empty && properties.topic_alias.is_some() { "" } else { topic };
        let above = qos != QoS::AtMostOnce;
        Publish { dup: dup && above, qos, retain, topic, packet_id: above.then_some(id), properties, payload }
    }
}

prop_compose! {
    fn will()(
        topic in name(), payload in data(), qos in qos(), retain in any::<bool>(), delay in any::<Option<u32>>(),
        publish in publish_properties(),
    ) -> Will<'static> {
        let publish = PublishProperties { topic_alias: None, subscription_identifiers: Vec::new(), ..publish };
        Will { topic, payload, qos, retain, properties: WillProperties { delay, publish } }
    }
}

prop_compose! {
    fn authentication()(method in option::of(text(0..8)), data in option::of(data()))
        -> (Option<&'static str>, Option<&'static [u8]>) {
        (method, data.filter(|_| method.is_some()))
    }
}

prop_compose! {
    fn connect()(
        version in prop::sample::select(VERSIONS.to_vec()), clean_start in any::<bool>(), keep_alive in any::<u16>(),
        client_id in text(0..24), username in option::of(text(0..9)), password in option::of(data()),
        will in option::of(will()), numbers in (any::<Option<u32>>(), option::of(1..=u16::MAX), option::of(1..=u32::MAX)),
        more in (any::<Option<u16>>(), any::<Option<bool>>(), any::<Option<bool>>()),
        user in user(), (authentication_method, authentication_data) in authentication(),
    ) -> Connect<'static> {
        let properties = ConnectProperties {
            session_expiry: numbers.0, receive_maximum: numbers.1, maximum_packet_size: numbers.2,
            topic_alias_maximum: more.0, request_response_information: more.1, request_problem_information: more.2,
            user, authentication_method, authentication_data,
        };
        let client_id = if version == Version::V31 && client_id.is_empty() { "c" } else { client_id };
        let clean_start = clean_start || version == Version::V311 && client_id.is_empty();
        Connect { version, clean_start, keep_alive, client_id, username, password, will, properties }
    }
}

prop_compose! {
    fn connack()(
        code in code(kind::CONNACK), present in any::<bool>(), user in user(),
        (authentication_method, authentication_data) in authentication(),
        numbers in (any::<Option<u32>>(), option::of(1..=u16::MAX), option::of(0..=1_u8), option::of(1..=u32::MAX)),
        flags in (any::<Option<bool>>(), any::<Option<bool>>(), any::<Option<bool>>(), any::<Option<bool>>()),
        words in (option::of(text(0..9)), option::of(text(0..9)), option::of(text(0..9)), option::of(text(0..9))),
        more in (any::<Option<u16>>(), any::<Option<u16>>()),
    ) -> ConnAck<'static> {
        let properties = ConnAckProperties {
            session_expiry: numbers.0, receive_maximum: numbers.1, maximum_qos: numbers.2,
            maximum_packet_size: numbers.3, retain_available: flags.0, wildcard_available: flags.1,
            subscription_identifiers_available: flags.2, shared_available: flags.3, assigned_client_id: words.0,
            reason_string: words.1, response_information: words.2, server_reference: words.3,
            topic_alias_maximum: more.0, server_keep_alive: more.1, user, authentication_method, authentication_data,
        };
        ConnAck { session_present: present && code == ReasonCode::SUCCESS, code, properties }
    }
}

fn ack_properties() -> impl Strategy<Value = AckProperties<'static>> {
    (option::of(text(0..9)), user()).prop_map(|(reason_string, user)| AckProperties { reason_string, user })
}

fn ack(kind: u8) -> impl Strategy<Value = Ack<'static>> {
    (packet_id(), code(kind), ack_properties()).prop_map(|(packet_id, code, properties)| Ack {
        packet_id,
        code,
        properties,
    })
}

fn suback(kind: u8) -> impl Strategy<Value = SubAck<'static>> {
    (packet_id(), ack_properties(), vec(code(kind), 0..9)).prop_map(|(packet_id, properties, codes)| SubAck {
        packet_id,
        properties,
        codes,
    })
}

prop_compose! {
    fn options()(qos in qos(), no_local in any::<bool>(), retain_as_published in any::<bool>(), handling in 0..3)
        -> SubscriptionOptions {
        let retain_handling = match handling {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            _ => RetainHandling::DoNotSend,
        };
        SubscriptionOptions { qos, no_local, retain_as_published, retain_handling }
    }
}

prop_compose! {
    fn subscribe()(
        packet_id in packet_id(), subscription_identifier in option::of(1..=268_435_455_u32), user in user(),
        mut filters in vec((filter(), options()), 1..5),
    ) -> Subscribe<'static> {
        for (filter, options) in &mut filters {
            options.no_local &= !filter.starts_with("$share/");
        }
        Subscribe { packet_id, properties: SubscribeProperties { subscription_identifier, user }, filters }
    }
}

prop_compose! {
    fn disconnect()(
        code in code(kind::DISCONNECT), session_expiry in any::<Option<u32>>(), reason_string in option::of(text(0..9)),
        user in user(), server_reference in option::of(text(0..9)),
    ) -> Disconnect<'static> {
        let properties = DisconnectProperties { session_expiry, reason_string, user, server_reference };
        Disconnect { code, properties }
    }
}

prop_compose! {
    fn auth()(
        code in code(kind::AUTH), authentication_method in option::of(text(0..9)),
        authentication_data in option::of(data()), reason_string in option::of(text(0..9)), user in user(),
    ) -> Auth<'static> {
        let properties = AuthProperties { authentication_method, authentication_data, reason_string, user };
        Auth { code, properties }
    }
}

fn packet() -> impl Strategy<Value = Packet<'static>> {
    prop_oneof![
        connect().prop_map(|packet| Packet::Connect(Box::new(packet))),
        connack().prop_map(|packet| Packet::ConnAck(Box::new(packet))),
        any_publish().prop_map(Packet::Publish),
        ack(kind::PUBACK).prop_map(Packet::PubAck),
        ack(kind::PUBREC).prop_map(Packet::PubRec),
        ack(kind::PUBREL).prop_map(Packet::PubRel),
        ack(kind::PUBCOMP).prop_map(Packet::PubComp),
        subscribe().prop_map(Packet::Subscribe),
        suback(kind::SUBACK).prop_map(Packet::SubAck),
        (packet_id(), user(), vec(filter(), 1..4)).prop_map(|(packet_id, user, filters)| {
            Packet::Unsubscribe(Unsubscribe { packet_id, properties: UnsubscribeProperties { user }, filters })
        }),
        suback(kind::UNSUBACK).prop_map(Packet::UnsubAck),
        Just(Packet::PingReq),
        Just(Packet::PingResp),
        disconnect().prop_map(Packet::Disconnect),
        auth().prop_map(Packet::Auth),
    ]
}

/// What `packet` means in a version that lacks properties and most reason codes.
fn as_sent(packet: Packet<'static>, version: Version) -> Option<Packet<'static>> {
    if let Packet::Connect(mut connect) = packet {
        if connect.version != Version::V5 {
            connect.properties = ConnectProperties::default();
            connect.password = connect.password.filter(|_| connect.username.is_some());
            connect.will = connect.will.map(|will| Will { properties: WillProperties::default(), ..will });
        }
        return Some(Packet::Connect(connect));
    }
    if version == Version::V5 {
        return Some(packet);
    }
    let bare_ack = |ack: Ack<'static>| Ack {
        packet_id: ack.packet_id,
        code: ReasonCode::SUCCESS,
        properties: AckProperties::default(),
    };
    Some(match packet {
        Packet::ConnAck(connack) => Packet::ConnAck(Box::new(ConnAck {
            session_present: connack.session_present && version != Version::V31,
            code: ReasonCode::from_connect_return_code(connack.code.connect_return_code())?,
            properties: ConnAckProperties::default(),
        })),
        Packet::Publish(publish) if publish.topic.is_empty() => return None,
        Packet::Publish(publish) => Packet::Publish(Publish { properties: PublishProperties::default(), ..publish }),
        Packet::PubAck(ack) => Packet::PubAck(bare_ack(ack)),
        Packet::PubRec(ack) => Packet::PubRec(bare_ack(ack)),
        Packet::PubRel(ack) => Packet::PubRel(bare_ack(ack)),
        Packet::PubComp(ack) => Packet::PubComp(bare_ack(ack)),
        Packet::Subscribe(mut subscribe) => {
            subscribe.properties = SubscribeProperties::default();
            for (_, options) in &mut subscribe.filters {
                *options = SubscriptionOptions { qos: options.qos, ..SubscriptionOptions::default() };
            }
            Packet::Subscribe(subscribe)
        }
        Packet::SubAck(suback) => Packet::SubAck(SubAck {
            packet_id: suback.packet_id,
            properties: AckProperties::default(),
            codes: suback.codes.iter().map(|code| ReasonCode(code.0.min(0x80))).collect(),
        }),
        Packet::Unsubscribe(unsubscribe) => {
            Packet::Unsubscribe(Unsubscribe { properties: UnsubscribeProperties::default(), ..unsubscribe })
        }
        Packet::UnsubAck(suback) => Packet::UnsubAck(SubAck {
            packet_id: suback.packet_id,
            properties: AckProperties::default(),
            codes: Vec::new(),
        }),
        Packet::Disconnect(_) => {
            Packet::Disconnect(Disconnect { code: ReasonCode::SUCCESS, properties: DisconnectProperties::default() })
        }
        Packet::Auth(_) => return None,
        other => other,
    })
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(packet in packet(), version in prop::sample::select(VERSIONS.to_vec())) {
        if let Some(expected) = as_sent(packet.clone(), version) {
            let frame = encoded(&packet, version);
            prop_assert_eq!(packet_length(&frame, u32::MAX), Ok(Some(frame.len())));
            prop_assert_eq!(decode(&frame, version), Ok(expected));
            if let Packet::Publish(publish) = &packet {
                prop_assert_eq!(publish_length(publish, version), frame.len());
            }
        }
    }

    #[test]
    fn no_prefix_of_a_packet_is_a_packet(packet in packet(), cut in any::<prop::sample::Index>()) {
        let frame = encoded(&packet, Version::V5);
        let prefix = &frame[..cut.index(frame.len())];
        prop_assert!(decode(prefix, Version::V5).is_err());
        let length = packet_length(prefix, u32::MAX);
        prop_assert!(length == Ok(None) || length == Ok(Some(frame.len())));
    }

    /// The body is cut and the header agrees with it: only the fields within can tell.
    #[test]
    fn a_shortened_body_never_yields_the_same_packet(packet in packet(), cut in any::<prop::sample::Index>()) {
        let frame = encoded(&packet, Version::V5);
        let header = read_header(&frame).unwrap().unwrap();
        prop_assume!(header.remaining > 0);
        let mut shortened = vec![frame[0]];
        let kept = cut.index(header.remaining);
        encode::variable(kept, &mut shortened);
        shortened.extend_from_slice(&frame[header.length..header.length + kept]);
        prop_assert_ne!(decode(&shortened, Version::V5), Ok(packet));
    }

    #[test]
    fn a_stream_splits_into_its_packets(packets in vec(packet(), 1..6), chunk in 1_usize..50) {
        let mut stream = Vec::new();
        for packet in &packets {
            encode(packet, Version::V5, &mut stream);
        }
        let (mut buffer, mut decoded) = (Vec::new(), 0);
        for bytes in stream.chunks(chunk) {
            buffer.extend_from_slice(bytes);
            while let Some(length) = packet_length(&buffer, u32::MAX).unwrap().filter(|length| *length <= buffer.len()) {
                let frame: Vec<_> = buffer.drain(..length).collect();
                let packet = decode(&frame, Version::V5).unwrap();
                prop_assert_eq!(Some(packet), as_sent(packets[decoded].clone(), Version::V5));
                decoded += 1;
            }
        }
        prop_assert_eq!((decoded, buffer.len()), (packets.len(), 0));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = packet_length(&bytes, 1000);
        let _ = connect_version(&bytes);
        for version in VERSIONS {
            let _ = decode(&bytes, version);
        }
    }

    /// Arbitrary bodies behind a header that fits them, and changed bytes in legal packets, reach deeper.
    #[test]
    fn whatever_decodes_survives_being_encoded(
        first in any::<u8>(), body in vec(any::<u8>(), 0..60), packet in packet(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut framed = vec![first];
        encode::variable(body.len(), &mut framed);
        framed.extend(body);
        let mut changed = encoded(&packet, Version::V5);
        for (at, byte) in changes {
            let at = at.index(changed.len());
            changed[at] = byte;
        }
        for frame in [framed, changed] {
            for version in VERSIONS {
                let Ok(packet) = decode(&frame, version) else { continue };
                let again = encoded(&packet, version);
                prop_assert_eq!(decode(&again, version), Ok(packet));
            }
        }
    }
}
