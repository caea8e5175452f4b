//! Bytes → packet.

use super::properties::{Block, decode_block};
use super::reader::Reader;
use super::{DUP, Header, MAX_USER_PROPERTIES, RETAIN, is_defined, kind, read_header};
use crate::mqtt::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, Publish, QoS, RetainHandling, SubAck, Subscribe,
    SubscriptionOptions, Unsubscribe, Version, Will,
};
use crate::mqtt::property::{AckProperties, AuthProperties, ConnectProperties, DisconnectProperties, WillProperties};
use crate::mqtt::topic::{self, Filter};
use crate::mqtt::{ReasonCode, Violation};

/// Decodes a frame that holds exactly one whole packet, as [`super::packet_length`] measured it. `version` is that of
/// the connection; CONNECT carries its own. Packets of both directions are decoded: whether one may come from this peer
/// is for the caller to say.
pub fn decode(frame: &[u8], version: Version) -> Result<Packet<'_>, Violation> {
    decode_with(frame, version, MAX_USER_PROPERTIES)
}

/// Decodes a frame that a client sent, which may hold so many User Properties.
pub fn decode_limited(frame: &[u8], version: Version, user_properties: usize) -> Result<Packet<'_>, Violation> {
    decode_with(frame, version, user_properties)
}

/// Decodes a frame that the server sent, which may have appended User Properties to those of a publisher: their number is
/// bounded by the packet's size alone.
pub fn decode_from_server(frame: &[u8], version: Version) -> Result<Packet<'_>, Violation> {
    decode_with(frame, version, usize::MAX)
}

fn decode_with(frame: &[u8], version: Version, user_properties: usize) -> Result<Packet<'_>, Violation> {
    let header = read_header(frame)?.ok_or(Violation::Truncated { field: "fixed header" })?;
    let body = &frame[header.length..];
    if body.len() < header.remaining {
        return Err(Violation::Truncated { field: "packet" });
    }
    let name = kind::NAMES[usize::from(header.kind)];
    if body.len() > header.remaining {
        return Err(Violation::TrailingBytes { packet: name, count: body.len() - header.remaining });
    }
    let mut reader = Reader::new(body, user_properties);
    let packet = decode_body(header, &mut reader, version)?;
    if !reader.is_empty() {
        return Err(Violation::TrailingBytes { packet: name, count: reader.len() });
    }
    let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
    // 3.x does not ask for the shortest form of a remaining length.
    if !header.minimal && version == Version::V5 {
        return Err(Violation::VariableByteInteger { field: "remaining length" });
    }
    if header.flags & DUP != 0 && header.kind != kind::PUBLISH && version != Version::V31 {
        return Err(Violation::ReservedFlags { packet: name, flags: header.flags });
    }
    Ok(packet)
}

fn decode_body<'a>(header: Header, reader: &mut Reader<'a>, version: Version) -> Result<Packet<'a>, Violation> {
    let kind = header.kind;
    Ok(match kind {
        kind::PUBLISH => Packet::Publish(publish(header.flags, reader, version)?),
        kind::PUBACK => Packet::PubAck(ack(kind, reader, version)?),
        kind::PUBREC => Packet::PubRec(ack(kind, reader, version)?),
        kind::PUBREL => Packet::PubRel(ack(kind, reader, version)?),
        kind::PUBCOMP => Packet::PubComp(ack(kind, reader, version)?),
        kind::CONNECT => Packet::Connect(Box::new(connect(reader)?)),
        kind::CONNACK => Packet::ConnAck(Box::new(connack(reader, version)?)),
        kind::SUBSCRIBE => Packet::Subscribe(subscribe(reader, version)?),
        kind::SUBACK => Packet::SubAck(suback(kind, reader, version)?),
        kind::UNSUBSCRIBE => Packet::Unsubscribe(unsubscribe(reader, version)?),
        kind::UNSUBACK => Packet::UnsubAck(suback(kind, reader, version)?),
        kind::PINGREQ => Packet::PingReq,
        kind::PINGRESP => Packet::PingResp,
        kind::DISCONNECT => Packet::Disconnect(disconnect(reader, version)?),
        _ if version != Version::V5 => return Err(Violation::UnexpectedPacket { packet: "AUTH" }),
        _ => Packet::Auth(auth(reader)?),
    })
}

/// The version that a CONNECT asks for, even where the rest of it is malformed: it decides how the refusal is written.
/// `None` where the frame is no CONNECT or its version is not one of ours.
pub fn connect_version(frame: &[u8]) -> Option<Version> {
    let header = read_header(frame).ok()??;
    let mut reader = Reader::new(&frame[header.length..], MAX_USER_PROPERTIES);
    if header.kind == kind::CONNECT { protocol(&mut reader).ok() } else { None }
}

fn protocol(reader: &mut Reader<'_>) -> Result<Version, Violation> {
    let name = reader.data("protocol name")?;
    let is_31 = match name {
        b"MQTT" => false,
        b"MQIsdp" => true,
        _ => return Err(Violation::ProtocolName),
    };
    match (is_31, reader.u8("protocol level")?) {
        (true, 3) => Ok(Version::V31),
        (false, 4) => Ok(Version::V311),
        (false, 5) => Ok(Version::V5),
        (_, level) => Err(Violation::UnsupportedVersion { level }),
    }
}

/// The properties where the version has them, else none.
fn properties<'a, B: Block<'a>>(reader: &mut Reader<'a>, version: Version) -> Result<B, Violation> {
    if version == Version::V5 { decode_block(reader) } else { Ok(B::default()) }
}

/// The flags byte of CONNECT.
struct ConnectFlags {
    username: bool,
    password: bool,
    will: Option<(QoS, bool)>,
    clean_start: bool,
}

fn connect_flags(flags: u8, version: Version) -> Result<ConnectFlags, Violation> {
    // 3.1 leaves the lowest bit unused.
    if flags & 1 != 0 && version != Version::V31 {
        return Err(Violation::ConnectReservedFlag);
    }
    let (will, will_qos, will_retain) = (flags & 0x04 != 0, (flags >> 3) & 3, flags & 0x20 != 0);
    if !will && will_qos != 0 {
        return Err(Violation::WillQosWithoutWill { qos: will_qos });
    }
    if !will && will_retain {
        return Err(Violation::WillRetainWithoutWill);
    }
    let (username, password) = (flags & 0x80 != 0, flags & 0x40 != 0);
    if password && !username && version != Version::V5 {
        return Err(Violation::PasswordWithoutUserName);
    }
    let qos = QoS::from_bits(will_qos).ok_or(Violation::WillQos3)?;
    Ok(ConnectFlags { username, password, will: will.then_some((qos, will_retain)), clean_start: flags & 2 != 0 })
}

fn connect<'a>(reader: &mut Reader<'a>) -> Result<Connect<'a>, Violation> {
    let version = protocol(reader)?;
    let flags = connect_flags(reader.u8("connect flags")?, version)?;
    let keep_alive = reader.u16("keep alive")?;
    let properties: ConnectProperties<'_> = properties(reader, version)?;
    if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
        return Err(Violation::AuthenticationDataWithoutMethod);
    }
    let client_id = reader.text("client identifier")?;
    // 3.1 asks for at least one character, 3.1.1 only where there is a session to come back to.
    if client_id.is_empty() && (version == Version::V31 || version == Version::V311 && !flags.clean_start) {
        return Err(Violation::EmptyClientId);
    }
    let will = flags.will.map(|(qos, retain)| will(reader, version, qos, retain)).transpose()?;
    let in_will = will.as_ref().map_or(0, |will| will.properties.publish.user.len());
    if properties.user.len() + in_will > reader.user_properties {
        return Err(Violation::TooManyUserProperties { maximum: reader.user_properties });
    }
    // 3.1 asks servers to accept the flag without the field.
    let has_username = flags.username && !(version == Version::V31 && reader.is_empty());
    let username = has_username.then(|| reader.text("user name")).transpose()?;
    let has_password = flags.password && !(version == Version::V31 && reader.is_empty());
    let password = has_password.then(|| reader.data("password")).transpose()?;
    let clean_start = flags.clean_start;
    Ok(Connect { version, clean_start, keep_alive, client_id, username, password, will, properties })
}

fn will<'a>(reader: &mut Reader<'a>, version: Version, qos: QoS, retain: bool) -> Result<Will<'a>, Violation> {
    let properties: WillProperties<'_> = properties(reader, version)?;
    let topic = reader.unchecked_null_text("will topic")?;
    topic::check_name(topic)?;
    let payload = reader.data("will payload")?;
    Ok(Will { topic, payload, qos, retain, properties })
}

fn connack<'a>(reader: &mut Reader<'a>, version: Version) -> Result<ConnAck<'a>, Violation> {
    let flags = reader.u8("connect acknowledge flags")?;
    // The byte is reserved in 3.1.
    let session_present = version != Version::V31 && flags & 1 != 0;
    if flags & !1 != 0 && version != Version::V31 {
        return Err(Violation::ConnAckFlags { flags });
    }
    let byte = reader.u8("connect return code")?;
    let undefined = Violation::UndefinedReasonCode { packet: "CONNACK", code: byte };
    let code = if version == Version::V5 {
        is_defined(kind::CONNACK, byte).then_some(ReasonCode(byte)).ok_or(undefined)?
    } else {
        ReasonCode::from_connect_return_code(byte).ok_or(undefined)?
    };
    if session_present && code != ReasonCode::SUCCESS {
        return Err(Violation::SessionPresentInRefusal);
    }
    Ok(ConnAck { session_present, code, properties: properties(reader, version)? })
}

fn publish<'a>(flags: u8, reader: &mut Reader<'a>, version: Version) -> Result<Publish<'a>, Violation> {
    let qos = QoS::from_bits((flags >> 1) & 3).ok_or(Violation::Qos3)?;
    let topic = reader.unchecked_null_text("topic name")?;
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(reader.packet_id("PUBLISH")?) };
    let publish = Publish {
        dup: flags & DUP != 0,
        qos,
        retain: flags & RETAIN != 0,
        topic,
        packet_id,
        properties: properties(reader, version)?,
        payload: reader.take_rest(),
    };
    if !topic.is_empty() {
        topic::check_name(topic)?;
    } else if publish.properties.topic_alias.is_none() {
        return Err(Violation::EmptyTopicWithoutAlias);
    }
    Ok(publish)
}

/// A reason code of 5.0 that `kind` may carry.
fn reason_code(kind: u8, reader: &mut Reader<'_>) -> Result<ReasonCode, Violation> {
    let code = reader.u8("reason code")?;
    if is_defined(kind, code) {
        Ok(ReasonCode(code))
    } else {
        Err(Violation::UndefinedReasonCode { packet: kind::NAMES[usize::from(kind)], code })
    }
}

/// The block of properties, which a packet that ends here leaves out.
fn optional_block<'a, B: Block<'a>>(reader: &mut Reader<'a>) -> Result<B, Violation> {
    if reader.is_empty() { Ok(B::default()) } else { decode_block(reader) }
}

fn ack<'a>(kind: u8, reader: &mut Reader<'a>, version: Version) -> Result<Ack<'a>, Violation> {
    let packet_id = reader.packet_id(kind::NAMES[usize::from(kind)])?;
    if version != Version::V5 || reader.is_empty() {
        return Ok(Ack { packet_id, code: ReasonCode::SUCCESS, properties: AckProperties::default() });
    }
    Ok(Ack { packet_id, code: reason_code(kind, reader)?, properties: optional_block(reader)? })
}

fn subscribe<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Subscribe<'a>, Violation> {
    let packet_id = reader.packet_id("SUBSCRIBE")?;
    let properties = properties(reader, version)?;
    if reader.is_empty() {
        return Err(Violation::EmptySubscribe);
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = reader.unchecked_null_text("topic filter")?;
        let shared = Filter::parse(filter)?.share.is_some();
        let options = subscription_options(reader.u8("subscription options")?, version)?;
        if shared && options.no_local {
            return Err(Violation::NoLocalOnShared);
        }
        filters.push((filter, options));
    }
    Ok(Subscribe { packet_id, properties, filters })
}

fn subscription_options(options: u8, version: Version) -> Result<SubscriptionOptions, Violation> {
    let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
    if options & reserved != 0 {
        return Err(Violation::SubscriptionOptions { options });
    }
    Ok(SubscriptionOptions {
        qos: QoS::from_bits(options & 3).ok_or(Violation::SubscriptionQos3)?,
        no_local: options & 0x04 != 0,
        retain_as_published: options & 0x08 != 0,
        retain_handling: match options >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(Violation::RetainHandling),
        },
    })
}

fn suback<'a>(kind: u8, reader: &mut Reader<'a>, version: Version) -> Result<SubAck<'a>, Violation> {
    let packet_id = reader.packet_id(kind::NAMES[usize::from(kind)])?;
    let properties = properties(reader, version)?;
    let mut codes = Vec::new();
    if kind == kind::SUBACK || version == Version::V5 {
        codes.reserve_exact(reader.len());
        while !reader.is_empty() {
            let code = reason_code(kind, reader)?;
            // 3.1.1 knows one failure only.
            if version != Version::V5 && code.0 > 0x80 {
                return Err(Violation::UndefinedReasonCode { packet: "SUBACK", code: code.0 });
            }
            codes.push(code);
        }
    }
    Ok(SubAck { packet_id, properties, codes })
}

fn unsubscribe<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Unsubscribe<'a>, Violation> {
    let packet_id = reader.packet_id("UNSUBSCRIBE")?;
    let properties = properties(reader, version)?;
    if reader.is_empty() {
        return Err(Violation::EmptyUnsubscribe);
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = reader.unchecked_null_text("topic filter")?;
        Filter::parse(filter)?;
        filters.push(filter);
    }
    Ok(Unsubscribe { packet_id, properties, filters })
}

fn disconnect<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Disconnect<'a>, Violation> {
    if version != Version::V5 || reader.is_empty() {
        return Ok(Disconnect { code: ReasonCode::SUCCESS, properties: DisconnectProperties::default() });
    }
    Ok(Disconnect { code: reason_code(kind::DISCONNECT, reader)?, properties: optional_block(reader)? })
}

fn auth<'a>(reader: &mut Reader<'a>) -> Result<Auth<'a>, Violation> {
    // Reason code and properties are left out together.
    if reader.is_empty() {
        return Ok(Auth { code: ReasonCode::SUCCESS, properties: AuthProperties::default() });
    }
    Ok(Auth { code: reason_code(kind::AUTH, reader)?, properties: decode_block(reader)? })
}
