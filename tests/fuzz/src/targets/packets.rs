//! Legal packets out of any bytes: the structure that random bytes seldom have.

use mqtt_operator::mqtt::ReasonCode;
use mqtt_operator::mqtt::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketId, Publish, QoS, RetainHandling, SubAck, Subscribe,
    SubscriptionOptions, Unsubscribe, Version, Will,
};
use mqtt_operator::mqtt::property::{
    AckProperties, AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties, PublishProperties,
    SubscribeProperties, UnsubscribeProperties, UserProperties, WillProperties,
};

const TEXTS: [&str; 8] =
    ["", "a", "client", "Grüße", "\u{1}", "\u{FEFF}x", "\u{10FFFF}", "0123456789012345678901234567890"];
const NAMES: [&str; 8] = ["t/a", "t/b", "t/a/b", "t//", "/", "$SYS/x", "t/é", "$share/x"];
const FILTERS: [&str; 10] = ["t/a", "t/+", "t/#", "#", "+/a", "t//+", "/", "$share/g/t/a", "$share/h/t/#", "$SYS/#"];

/// Reads choices from bytes; zeros when they are used up.
#[derive(Debug)]
pub struct Source<'a>(pub &'a [u8]);

impl<'a> Source<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn bool(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// Up to 255 bytes.
    pub fn data(&mut self) -> &'a [u8] {
        let length = usize::from(self.u8()).min(self.0.len());
        let (data, rest) = self.0.split_at(length);
        self.0 = rest;
        data
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.u8()) % from.len()]
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.bool().then(|| value(self))
    }

    fn few<T>(&mut self, at_least: u8, mut value: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = at_least + self.u8() % 4;
        (0..count).map(|_| value(self)).collect()
    }

    fn text(&mut self) -> &'static str {
        self.choose(&TEXTS)
    }

    fn packet_id(&mut self) -> PacketId {
        PacketId::new(self.u16()).unwrap_or(PacketId::MIN)
    }

    fn qos(&mut self) -> QoS {
        self.choose(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
    }

    fn user(&mut self) -> UserProperties<'a> {
        self.few(0, |source| (source.text(), source.text()))
    }

    fn code(&mut self, codes: &[u8]) -> ReasonCode {
        ReasonCode(self.choose(codes))
    }
}

/// A packet that `version` has and either side may send.
pub fn packet<'a>(source: &mut Source<'a>, version: Version) -> Packet<'a> {
    let kinds = if version == Version::V5 { 15 } else { 14 };
    match source.u8() % kinds {
        0 => Packet::Connect(Box::new(connect(source, version))),
        1 => Packet::ConnAck(Box::new(connack(source))),
        2 => Packet::Publish(publish(source, version)),
        3 => Packet::PubAck(ack(source, &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])),
        4 => Packet::PubRec(ack(source, &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])),
        5 => Packet::PubRel(ack(source, &[0, 0x92])),
        6 => Packet::PubComp(ack(source, &[0, 0x92])),
        7 => Packet::Subscribe(subscribe(source)),
        8 => Packet::SubAck(suback(source, &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2])),
        9 => Packet::Unsubscribe(Unsubscribe {
            packet_id: source.packet_id(),
            properties: UnsubscribeProperties { user: source.user() },
            filters: source.few(1, |source| source.choose(&FILTERS)),
        }),
        10 => Packet::UnsubAck(suback(source, &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91])),
        11 => Packet::PingReq,
        12 => Packet::PingResp,
        13 => Packet::Disconnect(disconnect(source)),
        _ => Packet::Auth(auth(source)),
    }
}

/// A CONNECT of this version.
pub fn connect<'a>(source: &mut Source<'a>, version: Version) -> Connect<'a> {
    let will = source.maybe(|source| Will {
        topic: source.choose(&NAMES),
        payload: source.data(),
        qos: source.qos(),
        retain: source.bool(),
        properties: WillProperties {
            delay: source.maybe(Source::u32),
            publish: PublishProperties {
                topic_alias: None,
                subscription_identifiers: Vec::new(),
                ..publish_properties(source)
            },
        },
    });
    let authentication_method = source.maybe(Source::text);
    let client_id = source.text();
    let client_id = if version == Version::V31 && client_id.is_empty() { "c" } else { client_id };
    Connect {
        version,
        clean_start: source.bool() || (version != Version::V5 && client_id.is_empty()),
        keep_alive: source.u16(),
        client_id,
        username: source.maybe(Source::text),
        password: source.maybe(Source::data),
        will,
        properties: ConnectProperties {
            session_expiry: source.maybe(Source::u32),
            receive_maximum: source.maybe(|source| source.u16().max(1)),
            maximum_packet_size: source.maybe(|source| source.u32().max(1)),
            topic_alias_maximum: source.maybe(Source::u16),
            request_response_information: source.maybe(Source::bool),
            request_problem_information: source.maybe(Source::bool),
            user: source.user(),
            authentication_method,
            authentication_data: authentication_method.and_then(|_| source.maybe(Source::data)),
        },
    }
}

fn connack<'a>(source: &mut Source<'a>) -> ConnAck<'a> {
    let code = source.code(&[0, 0x84, 0x85, 0x86, 0x87, 0x88, 0x80, 0x81, 0x95, 0x97, 0x9F]);
    ConnAck {
        session_present: source.bool() && code == ReasonCode::SUCCESS,
        code,
        properties: ConnAckProperties {
            session_expiry: source.maybe(Source::u32),
            receive_maximum: source.maybe(|source| source.u16().max(1)),
            maximum_qos: source.maybe(|source| source.u8() & 1),
            retain_available: source.maybe(Source::bool),
            maximum_packet_size: source.maybe(|source| source.u32().max(1)),
            assigned_client_id: source.maybe(Source::text),
            topic_alias_maximum: source.maybe(Source::u16),
            reason_string: source.maybe(Source::text),
            user: source.user(),
            wildcard_available: source.maybe(Source::bool),
            subscription_identifiers_available: source.maybe(Source::bool),
            shared_available: source.maybe(Source::bool),
            server_keep_alive: source.maybe(Source::u16),
            response_information: source.maybe(Source::text),
            server_reference: source.maybe(Source::text),
            authentication_method: source.maybe(Source::text),
            authentication_data: source.maybe(Source::data),
        },
    }
}

/// A PUBLISH; in 5.0 perhaps with an alias in place of its topic.
pub fn publish<'a>(source: &mut Source<'a>, version: Version) -> Publish<'a> {
    let qos = source.qos();
    let properties = publish_properties(source);
    let nameless = version == Version::V5 && properties.topic_alias.is_some() && source.bool();
    let above = qos != QoS::AtMostOnce;
    Publish {
        dup: source.bool() && above,
        qos,
        retain: source.bool(),
        topic: if nameless { "" } else { source.choose(&NAMES) },
        packet_id: above.then(|| source.packet_id()),
        properties,
        payload: source.data(),
    }
}

fn publish_properties<'a>(source: &mut Source<'a>) -> PublishProperties<'a> {
    PublishProperties {
        payload_format_utf8: source.maybe(Source::bool),
        message_expiry: source.maybe(Source::u32),
        topic_alias: source.maybe(|source| source.u16().max(1)),
        response_topic: source.maybe(|source| source.choose(&NAMES)),
        correlation_data: source.maybe(Source::data),
        subscription_identifiers: source.few(0, |source| (source.u32() & 0x0FFF_FFFF).max(1)),
        content_type: source.maybe(Source::text),
        user: source.user(),
    }
}

fn ack<'a>(source: &mut Source<'a>, codes: &[u8]) -> Ack<'a> {
    Ack { packet_id: source.packet_id(), code: source.code(codes), properties: ack_properties(source) }
}

fn ack_properties<'a>(source: &mut Source<'a>) -> AckProperties<'a> {
    AckProperties { reason_string: source.maybe(Source::text), user: source.user() }
}

fn suback<'a>(source: &mut Source<'a>, codes: &[u8]) -> SubAck<'a> {
    SubAck {
        packet_id: source.packet_id(),
        properties: ack_properties(source),
        codes: source.few(1, |source| source.code(codes)),
    }
}

fn subscribe<'a>(source: &mut Source<'a>) -> Subscribe<'a> {
    let filters = source.few(1, |source| {
        let filter = source.choose(&FILTERS);
        let options = SubscriptionOptions {
            qos: source.qos(),
            no_local: source.bool() && !filter.starts_with("$share/"),
            retain_as_published: source.bool(),
            retain_handling: source.choose(&[
                RetainHandling::Send,
                RetainHandling::SendIfNew,
                RetainHandling::DoNotSend,
            ]),
        };
        (filter, options)
    });
    let subscription_identifier = source.maybe(|source| (source.u32() & 0x0FFF_FFFF).max(1));
    let properties = SubscribeProperties { subscription_identifier, user: source.user() };
    Subscribe { packet_id: source.packet_id(), properties, filters }
}

fn disconnect<'a>(source: &mut Source<'a>) -> Disconnect<'a> {
    Disconnect {
        code: source.code(&[0, 4, 0x80, 0x81, 0x82, 0x83, 0x87, 0x8B, 0x8D, 0x8E, 0x93, 0x94, 0x95, 0x9D]),
        properties: DisconnectProperties {
            session_expiry: source.maybe(Source::u32),
            reason_string: source.maybe(Source::text),
            user: source.user(),
            server_reference: source.maybe(Source::text),
        },
    }
}

fn auth<'a>(source: &mut Source<'a>) -> Auth<'a> {
    Auth {
        code: source.code(&[0, 0x18, 0x19]),
        properties: AuthProperties {
            authentication_method: source.maybe(Source::text),
            authentication_data: source.maybe(Source::data),
            reason_string: source.maybe(Source::text),
            user: source.user(),
        },
    }
}
