//! What two other codecs make of a frame, and every difference from ours with the reason for it.
//!
//! A difference that is not in [`DIFFERENCES`] panics: either our codec is wrong, or the table has to say why not.

use bytes::BytesMut;
use mqtt_operator::mqtt::Violation;
use mqtt_operator::mqtt::codec::{connect_version, decode_from_server, packet_length};
use mqtt_operator::mqtt::packet::{Packet, SubAck, Version};
use tokio_util::codec::{Decoder, Encoder};

use crate::targets::decoder::frame;

/// The codecs that ours is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oracle {
    /// The crate `rmqtt-codec`.
    Rmqtt,
    /// The crate `mqtt-proto`.
    Proto,
}

pub const ORACLES: [Oracle; 2] = [Oracle::Rmqtt, Oracle::Proto];

/// How a verdict on a frame differs.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// We refuse with such a violation what they accept.
    WeRefuse(fn(&Violation) -> bool),
    /// They refuse such a packet, which we accept.
    TheyRefuse(fn(&Packet<'_>) -> bool),
    /// Both accept it, and what they write for what they have read is something else.
    TheyWrite(fn(&Packet<'_>) -> bool),
}

/// A difference that is known and justified.
pub struct Difference {
    pub oracle: Oracle,
    pub versions: &'static [Version],
    pub verdict: Verdict,
    /// The normative statement that settles it, or the section of the specification where no statement has a number.
    pub id: &'static str,
    pub why: &'static str,
}

const ALL: &[Version] = &[Version::V31, Version::V311, Version::V5];
const V3: &[Version] = &[Version::V31, Version::V311];
const V31: &[Version] = &[Version::V31];
const V5: &[Version] = &[Version::V5];

macro_rules! differences {
    ($($oracle:ident $versions:ident $verdict:ident($($pattern:tt)+) $id:literal $why:literal;)*) => {
        &[$(Difference {
            oracle: Oracle::$oracle,
            versions: $versions,
            verdict: Verdict::$verdict(|it| matches!(it, $($pattern)+)),
            id: $id,
            why: $why,
        },)*]
    };
}

/// All of them. `WeRefuse` names a check that they lack; `TheyRefuse` and `TheyWrite` packets that they do not know.
#[rustfmt::skip]
pub static DIFFERENCES: &[Difference] = differences! {
    Rmqtt ALL WeRefuse(Violation::NullCharacter { .. }) "MQTT-1.5.4-2" "text is not searched for U+0000";
    Rmqtt ALL WeRefuse(Violation::WildcardInTopicName { .. }) "MQTT-3.3.2-2" "topic names are not checked";
    Rmqtt ALL WeRefuse(Violation::MultiLevelWildcard { .. }) "MQTT-4.7.1-1" "topic filters are not checked";
    Rmqtt ALL WeRefuse(Violation::SingleLevelWildcard { .. }) "MQTT-4.7.1-2" "topic filters are not checked";
    Rmqtt ALL WeRefuse(Violation::EmptyFilter) "MQTT-4.7.3-1" "topic filters are not checked";
    Rmqtt ALL WeRefuse(Violation::EmptyShareName) "MQTT-4.8.2-1" "topic filters are not checked";
    Rmqtt ALL WeRefuse(Violation::ShareName) "MQTT-4.8.2-2" "topic filters are not checked";
    Rmqtt ALL WeRefuse(Violation::EmptyTopic) "MQTT-4.7.3-1" "an empty will topic or response topic is a topic name too";
    Rmqtt ALL WeRefuse(Violation::TrailingBytes { .. }) "MQTT-4.13.1-1" "what follows the last field is ignored";
    Rmqtt ALL WeRefuse(Violation::SessionPresentInRefusal) "MQTT-3.2.2-6" "flag and code are read apart";
    Rmqtt ALL WeRefuse(Violation::DupWithQos0) "MQTT-3.3.1-2" "DUP is read whatever the QoS";
    Rmqtt V3 WeRefuse(Violation::SubscriptionOptions { .. }) "3.1.1: MQTT-3.8.3-4" "the reserved bits are masked";
    Rmqtt V3 WeRefuse(Violation::UndefinedReasonCode { packet: "CONNACK", .. }) "3.1.1: 3.2.2.3" "codes from 6 are reserved";
    Rmqtt V3 WeRefuse(Violation::UnsupportedVersion { level: 3 | 4 }) "3.1.1: MQTT-3.1.2-2" "MQTT goes with level 4, MQIsdp with 3";
    Rmqtt V3 WeRefuse(Violation::PasswordWithoutUserName) "3.1.1: MQTT-3.1.2-22" "the flags are read apart";
    Rmqtt V5 WeRefuse(Violation::VariableByteInteger { .. }) "MQTT-1.5.5-1" "longer forms are read";
    Rmqtt V5 WeRefuse(Violation::PropertyValue { property: "Maximum QoS", .. }) "3.2.2.3.4" "2 is said by leaving it out";
    Rmqtt V5 WeRefuse(Violation::PropertyValue { property: "Maximum Packet Size", .. }) "3.2.2.3.6" "0 is a protocol error";
    Rmqtt V5 WeRefuse(Violation::ResponseTopic) "MQTT-3.3.2-14" "topic names are not checked";
    Rmqtt V5 WeRefuse(Violation::EmptyTopicWithoutAlias) "MQTT-4.7.3-1" "an empty topic is left to the caller";
    Rmqtt V5 WeRefuse(Violation::WillQosWithoutWill { .. }) "MQTT-3.1.2-11" "the flags are read apart";
    Rmqtt V5 WeRefuse(Violation::WillRetainWithoutWill) "MQTT-3.1.2-13" "the flags are read apart";
    Rmqtt V5 WeRefuse(Violation::AuthenticationDataWithoutMethod) "3.1.2.11.10" "the properties are read apart";
    Rmqtt V5 WeRefuse(Violation::Truncated { field: "property length" }) "3.15.2.1" "AUTH leaves out code and properties together";
    Rmqtt V5 WeRefuse(Violation::UndefinedReasonCode { packet: "DISCONNECT", code: 0x8C }) "MQTT-3.14.2-1" "section 2.4 lists the code for DISCONNECT, 3.14.2.1 does not";
    Rmqtt V5 WeRefuse(Violation::NoLocalOnShared) "MQTT-3.8.3-4" "the filter is not looked at";
    Rmqtt V31 TheyRefuse(Packet::ConnAck(_)) "3.1: 3.2" "the first byte of CONNACK is unused";
    Rmqtt V31 TheyRefuse(Packet::Connect(_)) "3.1: 3.1" "a flag is unused, and user name and password may be missing in spite of theirs";
    Rmqtt V31 TheyRefuse(Packet::PubRel(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_)) "3.1: 2.1" "they may carry DUP";
    Rmqtt V31 WeRefuse(Violation::EmptyClientId) "3.1: 3.1" "an identifier has at least one character";
    Rmqtt V5 TheyRefuse(Packet::Connect(connect) if connect.client_id.is_empty() && !connect.clean_start) "MQTT-3.1.3-6" "the server assigns an identifier, clean start or not";
    Rmqtt V5 TheyRefuse(Packet::Connect(connect) if connect.will.as_ref().is_some_and(|will| will.properties.publish.message_expiry == Some(0))) "3.1.3.2.4" "a lifetime of 0 is one";
    Rmqtt V5 TheyRefuse(Packet::Publish(publish) if publish.properties.message_expiry == Some(0)) "3.3.2.3.3" "a lifetime of 0 is one";
    Rmqtt V31 TheyWrite(Packet::Connect(_)) "3.1: 3.1" "the protocol name is MQIsdp";
    Proto ALL WeRefuse(Violation::NullCharacter { .. }) "MQTT-1.5.4-2" "text other than topics is not searched for U+0000";
    Proto ALL WeRefuse(Violation::SingleLevelWildcard { .. }) "MQTT-4.7.1-2" "what follows + is overlooked in a first or last level";
    Proto ALL WeRefuse(Violation::EmptyTopic | Violation::EmptyTopicWithoutAlias) "MQTT-4.7.3-1" "topic names may be empty";
    Proto ALL WeRefuse(Violation::TrailingBytes { .. }) "MQTT-4.13.1-1" "what follows the last field is ignored";
    Proto ALL WeRefuse(Violation::SessionPresentInRefusal) "MQTT-3.2.2-6" "flag and code are read apart";
    Proto ALL WeRefuse(Violation::DupWithQos0) "MQTT-3.3.1-2" "DUP is read whatever the QoS";
    Proto ALL WeRefuse(Violation::WillRetainWithoutWill) "MQTT-3.1.2-13" "the flag is overlooked without a will";
    Proto V3 WeRefuse(Violation::EmptyClientId) "3.1.1: MQTT-3.1.3-8" "left to the caller";
    Proto V3 WeRefuse(Violation::PasswordWithoutUserName) "3.1.1: MQTT-3.1.2-22" "the flags are read apart";
    Proto V5 WeRefuse(Violation::VariableByteInteger { .. }) "MQTT-1.5.5-1" "longer forms are read";
    Proto V5 WeRefuse(Violation::TopicAlias { alias: 0, .. }) "MQTT-3.3.2-8" "0 is read";
    Proto V5 WeRefuse(Violation::PropertyValue { property: "Receive Maximum" | "Maximum Packet Size" | "Subscription Identifier", .. }) "3.1.2.11.3" "0 is read";
    Proto V5 WeRefuse(Violation::AuthenticationDataWithoutMethod) "3.1.2.11.10" "the properties are read apart";
    Proto V5 WeRefuse(Violation::NoLocalOnShared) "MQTT-3.8.3-4" "the filter is not looked at";
    Proto V31 TheyRefuse(Packet::ConnAck(_)) "3.1: 3.2" "the first byte of CONNACK is unused";
    Proto V31 TheyRefuse(Packet::Connect(_)) "3.1: 3.1" "a flag is unused, and user name and password may be missing in spite of theirs";
    Proto V31 TheyRefuse(Packet::PubRel(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_)) "3.1: 2.1" "they may carry DUP";
    Proto V5 TheyRefuse(Packet::Publish(publish) if publish.properties.subscription_identifiers.len() > 1) "MQTT-3.3.4-3" "one for each subscription that matches";
    Proto V5 TheyRefuse(Packet::Publish(publish) if publish.properties.payload_format_utf8 == Some(true)) "3.3.2.3.2" "a receiver may look whether the payload is UTF-8, and need not";
    Proto V5 TheyRefuse(Packet::Connect(connect) if connect.will.as_ref().is_some_and(|will| will.properties.publish.payload_format_utf8 == Some(true))) "3.1.3.2.3" "a receiver may look whether the payload is UTF-8, and need not";
    Proto V3 TheyWrite(Packet::SubAck(SubAck { codes, .. }) if codes.iter().any(|code| code.is_failure())) "3.1.1: MQTT-3.9.3-2" "the failure is 0x80";
};

/// Compares the verdicts on the frame that an input of the decoder's target stands for.
pub fn run(input: &[u8]) {
    let Some((version, frame)) = frame(input) else { return };
    for oracle in ORACLES {
        if let Err(difference) = compare(oracle, &frame, version) {
            panic!("{difference}\nof the frame {frame:02x?}");
        }
    }
}

/// The entry of [`DIFFERENCES`] by which an oracle differs on a frame, if it does. `Err`: there is none for it.
pub fn compare(oracle: Oracle, frame: &[u8], version: Version) -> Result<Option<&'static Difference>, String> {
    // What is no frame of its own is never given to a decoder.
    if packet_length(frame, u32::MAX).is_ok_and(|length| length != Some(frame.len())) {
        return Ok(None);
    }
    let ours = decode_from_server(frame, version);
    // CONNECT brings its own version.
    let version = connect_version(frame).unwrap_or(version);
    let theirs = match (oracle, version) {
        (Oracle::Rmqtt, Version::V5) => rmqtt_5(frame),
        (Oracle::Rmqtt, _) => rmqtt_3(frame),
        (Oracle::Proto, Version::V5) => proto_5(frame),
        (Oracle::Proto, _) => proto_3(frame),
    };
    let listed = |is_it: &dyn Fn(&Verdict) -> bool| {
        DIFFERENCES.iter().find(|d| d.oracle == oracle && d.versions.contains(&version) && is_it(&d.verdict))
    };
    let (difference, what) = match (&ours, theirs) {
        (Err(_), Err(_)) => return Ok(None),
        (Err(violation), Ok(_)) => (
            listed(&|verdict| matches!(verdict, Verdict::WeRefuse(like) if like(violation))),
            format!("{oracle:?} accepts in {version} what we refuse: {violation}"),
        ),
        (Ok(packet), Err(error)) => (
            listed(&|verdict| matches!(verdict, Verdict::TheyRefuse(like) if like(packet))),
            format!("{oracle:?} refuses in {version} with {error} what we accept: {packet:?}"),
        ),
        (Ok(packet), Ok(written)) => {
            let reread = decode_from_server(&written, version);
            if reread.clone().map(|packet| without_defaults(oracle, packet))
                == Ok(without_defaults(oracle, packet.clone()))
            {
                return Ok(None);
            }
            (
                listed(&|verdict| matches!(verdict, Verdict::TheyWrite(like) if like(packet))),
                format!("{oracle:?} reads in {version} something else:\nwe   {packet:?}\nthey {reread:?}"),
            )
        }
    };
    difference.map(Some).ok_or(what)
}

/// `rmqtt-codec` leaves out properties that say what their absence says.
fn without_defaults(oracle: Oracle, mut packet: Packet<'_>) -> Packet<'_> {
    if oracle != Oracle::Rmqtt {
        return packet;
    }
    match &mut packet {
        Packet::Connect(connect) => {
            let properties = &mut connect.properties;
            properties.session_expiry = properties.session_expiry.filter(|seconds| *seconds > 0);
            properties.topic_alias_maximum = properties.topic_alias_maximum.filter(|maximum| *maximum > 0);
            properties.request_problem_information = properties.request_problem_information.filter(|wanted| !wanted);
            properties.request_response_information = properties.request_response_information.filter(|wanted| *wanted);
        }
        Packet::ConnAck(connack) => {
            let properties = &mut connack.properties;
            properties.receive_maximum = properties.receive_maximum.filter(|maximum| *maximum < u16::MAX);
            properties.topic_alias_maximum = properties.topic_alias_maximum.filter(|maximum| *maximum > 0);
            for available in [
                &mut properties.retain_available,
                &mut properties.wildcard_available,
                &mut properties.subscription_identifiers_available,
                &mut properties.shared_available,
            ] {
                *available = available.filter(|available| !*available);
            }
        }
        Packet::Publish(publish) => {
            let utf8 = &mut publish.properties.payload_format_utf8;
            *utf8 = utf8.filter(|utf8| *utf8);
        }
        _ => {}
    }
    packet
}

/// Decodes and encodes again, as all of these do.
fn rmqtt_3(frame: &[u8]) -> Result<Vec<u8>, String> {
    let (mut codec, mut written) = (rmqtt_codec::v3::Codec::new(0), BytesMut::new());
    let packet = codec.decode(&mut BytesMut::from(frame)).map_err(|error| format!("{error:?}"))?;
    let (packet, _) = packet.ok_or("no packet")?;
    codec.encode(packet, &mut written).map_err(|error| format!("{error:?}"))?;
    Ok(written.to_vec())
}

fn rmqtt_5(frame: &[u8]) -> Result<Vec<u8>, String> {
    let new = || rmqtt_codec::v5::Codec::new(0, 0);
    let packet = new().decode(&mut BytesMut::from(frame)).map_err(|error| format!("{error:?}"))?;
    let (packet, _) = packet.ok_or("no packet")?;
    let mut written = BytesMut::new();
    // Another one: a codec that has read a CONNECT remembers what the client does not want to be told.
    new().encode(packet, &mut written).map_err(|error| format!("{error:?}"))?;
    Ok(written.to_vec())
}

fn proto_3(frame: &[u8]) -> Result<Vec<u8>, String> {
    let packet = mqtt_proto::v3::Packet::decode(frame).map_err(|error| format!("{error:?}"))?;
    let written = packet.ok_or("no packet")?.encode().map_err(|error| format!("{error:?}"))?;
    Ok(written.as_ref().to_vec())
}

fn proto_5(frame: &[u8]) -> Result<Vec<u8>, String> {
    let packet = mqtt_proto::v5::Packet::decode(frame).map_err(|error| format!("{error:?}"))?;
    let written = packet.ok_or("no packet")?.encode().map_err(|error| format!("{error:?}"))?;
    Ok(written.as_ref().to_vec())
}
