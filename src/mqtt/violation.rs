//! What a peer did that the specification forbids.

use super::ReasonCode;

/// A broken statement of the specification. Display ends with the statement's id in brackets.
///
/// Ids are those of MQTT 5.0; a statement that only 3.1.1 makes has its id of 3.1.1. Where the specification calls
/// something malformed or a protocol error without a number of its own, the id is that of the rule which covers them
/// all, `MQTT-4.13.1-1`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    // Framing.
    #[error("remaining length has more than four bytes [{}]", self.id())]
    RemainingLength,
    #[error("packet of {length} bytes, at most {maximum} are accepted [{}]", self.id())]
    PacketTooLarge { length: usize, maximum: u32 },
    #[error("packet type {kind} does not exist [{}]", self.id())]
    PacketType { kind: u8 },
    #[error("{packet} with the reserved flags {flags:#06b} [{}]", self.id())]
    ReservedFlags { packet: &'static str, flags: u8 },
    #[error("packet ends within {field} [{}]", self.id())]
    Truncated { field: &'static str },
    #[error("{packet} has {count} bytes after its end [{}]", self.id())]
    TrailingBytes { packet: &'static str, count: usize },
    #[error("{field} is not a variable byte integer of the shortest form [{}]", self.id())]
    VariableByteInteger { field: &'static str },
    #[error("{field} is not well-formed UTF-8 [{}]", self.id())]
    Utf8 { field: &'static str },
    #[error("{field} contains U+0000 [{}]", self.id())]
    NullCharacter { field: &'static str },
    #[error("{packet} with packet identifier 0 [{}]", self.id())]
    PacketIdZero { packet: &'static str },
    #[error("{packet} with the undefined reason code {code:#04x} [{}]", self.id())]
    UndefinedReasonCode { packet: &'static str, code: u8 },

    // Properties.
    #[error("property {property:#04x} is not defined for {packet} [{}]", self.id())]
    PropertyNotAllowed { packet: &'static str, property: u32 },
    #[error("property {property} occurs twice [{}]", self.id())]
    DuplicateProperty { property: &'static str },
    #[error("property {property} has the forbidden value {value} [{}]", self.id())]
    PropertyValue { property: &'static str, value: u32 },
    #[error("more than {maximum} user properties [{}]", self.id())]
    TooManyUserProperties { maximum: usize },
    #[error("authentication data without an authentication method [{}]", self.id())]
    AuthenticationDataWithoutMethod,

    // CONNECT and CONNACK.
    #[error("protocol name is neither MQTT nor MQIsdp [{}]", self.id())]
    ProtocolName,
    #[error("protocol level {level} is not supported [{}]", self.id())]
    UnsupportedVersion { level: u8 },
    #[error("reserved flag of CONNECT is set [{}]", self.id())]
    ConnectReservedFlag,
    #[error("will QoS 3 [{}]", self.id())]
    WillQos3,
    #[error("will QoS {qos} without a will [{}]", self.id())]
    WillQosWithoutWill { qos: u8 },
    #[error("will retain without a will [{}]", self.id())]
    WillRetainWithoutWill,
    #[error("password without a user name [{}]", self.id())]
    PasswordWithoutUserName,
    #[error("empty client identifier without a clean session [{}]", self.id())]
    EmptyClientId,
    #[error("reserved flags {flags:#010b} of CONNACK [{}]", self.id())]
    ConnAckFlags { flags: u8 },
    #[error("session present in a CONNACK that refuses [{}]", self.id())]
    SessionPresentInRefusal,
    #[error("{packet} before CONNECT [{}]", self.id())]
    FirstPacketNotConnect { packet: &'static str },
    #[error("second CONNECT [{}]", self.id())]
    SecondConnect,
    #[error("{packet} does not travel in this direction or version [{}]", self.id())]
    UnexpectedPacket { packet: &'static str },

    // PUBLISH and its acknowledgements.
    #[error("PUBLISH with QoS 3 [{}]", self.id())]
    Qos3,
    #[error("DUP with QoS 0 [{}]", self.id())]
    DupWithQos0,
    #[error("PUBLISH with QoS {qos}, at most {maximum} is offered [{}]", self.id())]
    QosNotSupported { qos: u8, maximum: u8 },
    #[error("PUBLISH with RETAIN, which is not offered [{}]", self.id())]
    RetainNotSupported,
    #[error("empty topic name without a topic alias [{}]", self.id())]
    EmptyTopicWithoutAlias,
    #[error("topic alias {alias}, allowed are 1 to {maximum} [{}]", self.id())]
    TopicAlias { alias: u16, maximum: u16 },
    #[error("topic alias {alias} was never set [{}]", self.id())]
    UnknownTopicAlias { alias: u16 },
    #[error("wildcard in the response topic [{}]", self.id())]
    ResponseTopic,
    #[error("subscription identifier in a PUBLISH of a client [{}]", self.id())]
    SubscriptionIdentifierFromClient,
    #[error("more than {maximum} QoS 1 and 2 messages in flight [{}]", self.id())]
    ReceiveMaximum { maximum: u16 },
    #[error("payload is not the UTF-8 text that its format says [{}]", self.id())]
    PayloadFormat,
    #[error("{packet} for packet identifier {packet_id}, which awaits none [{}]", self.id())]
    UnexpectedAcknowledgement { packet: &'static str, packet_id: u16 },

    // SUBSCRIBE and UNSUBSCRIBE.
    #[error("SUBSCRIBE without a topic filter [{}]", self.id())]
    EmptySubscribe,
    #[error("UNSUBSCRIBE without a topic filter [{}]", self.id())]
    EmptyUnsubscribe,
    #[error("subscription options {options:#010b} [{}]", self.id())]
    SubscriptionOptions { options: u8 },
    #[error("subscription with QoS 3 [{}]", self.id())]
    SubscriptionQos3,
    #[error("retain handling 3 [{}]", self.id())]
    RetainHandling,
    #[error("No Local on a shared subscription [{}]", self.id())]
    NoLocalOnShared,

    // DISCONNECT and AUTH.
    #[error("session expiry set at DISCONNECT after 0 at CONNECT [{}]", self.id())]
    SessionExpiryRaised,
    #[error("session expiry in a DISCONNECT of the server [{}]", self.id())]
    SessionExpiryFromServer,
    #[error("AUTH without the authentication method of CONNECT [{}]", self.id())]
    AuthenticationMethod,

    // Topic names and filters.
    #[error("empty topic name [{}]", self.id())]
    EmptyTopic,
    #[error("empty topic filter [{}]", self.id())]
    EmptyFilter,
    #[error("topic of {length} bytes, more than 65,535 [{}]", self.id())]
    TopicTooLong { length: usize },
    #[error("wildcard at byte {at} of a topic name [{}]", self.id())]
    WildcardInTopicName { at: usize },
    #[error("`#` at byte {at} of a topic filter is not its whole last level [{}]", self.id())]
    MultiLevelWildcard { at: usize },
    #[error("`+` at byte {at} of a topic filter is not a whole level [{}]", self.id())]
    SingleLevelWildcard { at: usize },
    #[error("shared subscription without a share name [{}]", self.id())]
    EmptyShareName,
    #[error("share name with a wildcard, or not followed by a topic filter [{}]", self.id())]
    ShareName,
}

impl Violation {
    /// The id of the normative statement, such as `MQTT-3.3.1-4`.
    pub fn id(&self) -> &'static str {
        match self {
            Self::Utf8 { .. } => "MQTT-1.5.4-1",
            Self::NullCharacter { .. } => "MQTT-1.5.4-2",
            Self::VariableByteInteger { .. } | Self::RemainingLength => "MQTT-1.5.5-1",
            Self::ReservedFlags { packet, .. } => reserved_flags_id(packet),
            Self::PacketIdZero { .. } => "MQTT-2.2.1-3",
            Self::FirstPacketNotConnect { .. } => "MQTT-3.1.0-1",
            Self::SecondConnect => "MQTT-3.1.0-2",
            Self::ProtocolName => "MQTT-3.1.2-1",
            Self::UnsupportedVersion { .. } => "MQTT-3.1.2-2",
            Self::ConnectReservedFlag => "MQTT-3.1.2-3",
            Self::WillQosWithoutWill { .. } => "MQTT-3.1.2-11",
            Self::WillQos3 => "MQTT-3.1.2-12",
            Self::WillRetainWithoutWill => "MQTT-3.1.2-13",
            // 3.1.1; 5.0 has no such rule.
            Self::PasswordWithoutUserName => "MQTT-3.1.2-22",
            Self::EmptyClientId => "MQTT-3.1.3-8",
            Self::PacketTooLarge { .. } => "MQTT-3.2.2-15",
            Self::ConnAckFlags { .. } => "MQTT-3.2.2-1",
            Self::SessionPresentInRefusal => "MQTT-3.2.2-6",
            Self::QosNotSupported { .. } => "MQTT-3.2.2-11",
            Self::RetainNotSupported => "MQTT-3.2.2-14",
            Self::DupWithQos0 => "MQTT-3.3.1-2",
            Self::Qos3 => "MQTT-3.3.1-4",
            Self::WildcardInTopicName { .. } => "MQTT-3.3.2-2",
            Self::TopicAlias { alias: 0, .. } => "MQTT-3.3.2-8",
            Self::TopicAlias { .. } => "MQTT-3.3.2-9",
            Self::ResponseTopic => "MQTT-3.3.2-14",
            Self::SubscriptionIdentifierFromClient => "MQTT-3.3.4-6",
            Self::ReceiveMaximum { .. } => "MQTT-3.3.4-7",
            Self::UndefinedReasonCode { packet, .. } => reason_code_id(packet),
            Self::EmptySubscribe => "MQTT-3.8.3-2",
            Self::NoLocalOnShared => "MQTT-3.8.3-4",
            Self::SubscriptionOptions { .. } => "MQTT-3.8.3-5",
            Self::EmptyUnsubscribe => "MQTT-3.10.3-2",
            Self::SessionExpiryFromServer => "MQTT-3.14.2-2",
            Self::MultiLevelWildcard { .. } => "MQTT-4.7.1-1",
            Self::SingleLevelWildcard { .. } => "MQTT-4.7.1-2",
            Self::EmptyTopic | Self::EmptyFilter | Self::EmptyTopicWithoutAlias => "MQTT-4.7.3-1",
            Self::TopicTooLong { .. } => "MQTT-4.7.3-3",
            Self::EmptyShareName => "MQTT-4.8.2-1",
            Self::ShareName => "MQTT-4.8.2-2",
            Self::AuthenticationMethod => "MQTT-4.12.0-5",
            Self::PacketType { .. }
            | Self::Truncated { .. }
            | Self::TrailingBytes { .. }
            | Self::PropertyNotAllowed { .. }
            | Self::DuplicateProperty { .. }
            | Self::PropertyValue { .. }
            | Self::TooManyUserProperties { .. }
            | Self::AuthenticationDataWithoutMethod
            | Self::UnexpectedPacket { .. }
            | Self::UnexpectedAcknowledgement { .. }
            | Self::UnknownTopicAlias { .. }
            | Self::PayloadFormat
            | Self::SubscriptionQos3
            | Self::RetainHandling
            | Self::SessionExpiryRaised => "MQTT-4.13.1-1",
        }
    }

    /// The code that a DISCONNECT or CONNACK of 5.0 gives for it.
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::PacketTooLarge { .. } => ReasonCode::PACKET_TOO_LARGE,
            Self::ProtocolName | Self::UnsupportedVersion { .. } => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            Self::EmptyClientId => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            Self::WildcardInTopicName { .. } | Self::EmptyTopic => ReasonCode::TOPIC_NAME_INVALID,
            Self::TopicAlias { .. } => ReasonCode::TOPIC_ALIAS_INVALID,
            Self::ReceiveMaximum { .. } => ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
            Self::PayloadFormat => ReasonCode::PAYLOAD_FORMAT_INVALID,
            Self::QosNotSupported { .. } => ReasonCode::QOS_NOT_SUPPORTED,
            Self::RetainNotSupported => ReasonCode::RETAIN_NOT_SUPPORTED,
            Self::TooManyUserProperties { .. } => ReasonCode::QUOTA_EXCEEDED,
            Self::DuplicateProperty { .. }
            | Self::PropertyValue { .. }
            | Self::AuthenticationDataWithoutMethod
            | Self::AuthenticationMethod
            | Self::FirstPacketNotConnect { .. }
            | Self::SecondConnect
            | Self::UnexpectedPacket { .. }
            | Self::SessionPresentInRefusal
            | Self::EmptyTopicWithoutAlias
            | Self::UnknownTopicAlias { .. }
            | Self::ResponseTopic
            | Self::SubscriptionIdentifierFromClient
            | Self::UnexpectedAcknowledgement { .. }
            | Self::EmptySubscribe
            | Self::EmptyUnsubscribe
            | Self::SubscriptionQos3
            | Self::RetainHandling
            | Self::NoLocalOnShared
            | Self::SessionExpiryRaised
            | Self::SessionExpiryFromServer => ReasonCode::PROTOCOL_ERROR,
            _ => ReasonCode::MALFORMED_PACKET,
        }
    }
}

fn reserved_flags_id(packet: &str) -> &'static str {
    match packet {
        "PUBREL" => "MQTT-3.6.1-1",
        "SUBSCRIBE" => "MQTT-3.8.1-1",
        "UNSUBSCRIBE" => "MQTT-3.10.1-1",
        "DISCONNECT" => "MQTT-3.14.1-1",
        "AUTH" => "MQTT-3.15.1-1",
        _ => "MQTT-2.1.3-1",
    }
}

fn reason_code_id(packet: &str) -> &'static str {
    match packet {
        "CONNACK" => "MQTT-3.2.2-8",
        "PUBACK" => "MQTT-3.4.2-1",
        "PUBREC" => "MQTT-3.5.2-1",
        "PUBREL" => "MQTT-3.6.2-1",
        "PUBCOMP" => "MQTT-3.7.2-1",
        "SUBACK" => "MQTT-3.9.3-2",
        "UNSUBACK" => "MQTT-3.11.3-2",
        "DISCONNECT" => "MQTT-3.14.2-1",
        _ => "MQTT-3.15.2-1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_ends_with_the_normative_id() {
        assert_eq!(Violation::Qos3.to_string(), "PUBLISH with QoS 3 [MQTT-3.3.1-4]");
        let flags = Violation::ReservedFlags { packet: "SUBSCRIBE", flags: 0 };
        assert_eq!(flags.to_string(), "SUBSCRIBE with the reserved flags 0b0000 [MQTT-3.8.1-1]");
    }

    #[test]
    fn reasons_tell_malformed_from_protocol_errors_and_limits() {
        assert_eq!(Violation::Qos3.reason(), ReasonCode::MALFORMED_PACKET);
        assert_eq!(Violation::SecondConnect.reason(), ReasonCode::PROTOCOL_ERROR);
        assert_eq!(Violation::PacketTooLarge { length: 9, maximum: 8 }.reason(), ReasonCode::PACKET_TOO_LARGE);
        assert_eq!(Violation::WildcardInTopicName { at: 0 }.reason(), ReasonCode::TOPIC_NAME_INVALID);
        assert_eq!(Violation::UnsupportedVersion { level: 6 }.reason(), ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
    }
}
