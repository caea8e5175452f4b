//! The properties of MQTT 5.0, one struct per packet that carries them. Packets of 3.x have them all at their default.

/// User Properties, in order; a name may appear more than once.
pub type UserProperties<'a> = Vec<(&'a str, &'a str)>;

/// Properties of CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// Seconds the session outlives the connection; `u32::MAX` is for ever.
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<u16>,
    /// Bytes of a whole packet that the client accepts.
    pub maximum_packet_size: Option<u32>,
    pub topic_alias_maximum: Option<u16>,
    pub request_response_information: Option<bool>,
    pub request_problem_information: Option<bool>,
    pub user: UserProperties<'a>,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
}

/// Properties of the will in CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WillProperties<'a> {
    /// Seconds between the loss of the connection and the publication of the will.
    pub delay: Option<u32>,
    pub publish: PublishProperties<'a>,
}

/// Properties of PUBLISH, and of the message in a will.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// The payload is UTF-8 text.
    pub payload_format_utf8: Option<bool>,
    /// Seconds of lifetime left.
    pub message_expiry: Option<u32>,
    pub topic_alias: Option<u16>,
    pub response_topic: Option<&'a str>,
    pub correlation_data: Option<&'a [u8]>,
    pub subscription_identifiers: Vec<u32>,
    pub content_type: Option<&'a str>,
    pub user: UserProperties<'a>,
}

/// Properties of CONNACK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAckProperties<'a> {
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<u16>,
    /// 0 or 1; absent means 2.
    pub maximum_qos: Option<u8>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_id: Option<&'a str>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<&'a str>,
    pub user: UserProperties<'a>,
    pub wildcard_available: Option<bool>,
    pub subscription_identifiers_available: Option<bool>,
    pub shared_available: Option<bool>,
    pub server_keep_alive: Option<u16>,
    pub response_information: Option<&'a str>,
    pub server_reference: Option<&'a str>,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
}

/// Properties of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AckProperties<'a> {
    pub reason_string: Option<&'a str>,
    pub user: UserProperties<'a>,
}

/// Properties of SUBSCRIBE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeProperties<'a> {
    /// 1 to 268,435,455.
    pub subscription_identifier: Option<u32>,
    pub user: UserProperties<'a>,
}

/// Properties of UNSUBSCRIBE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsubscribeProperties<'a> {
    pub user: UserProperties<'a>,
}

/// Properties of DISCONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisconnectProperties<'a> {
    pub session_expiry: Option<u32>,
    pub reason_string: Option<&'a str>,
    pub user: UserProperties<'a>,
    pub server_reference: Option<&'a str>,
}

/// Properties of AUTH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthProperties<'a> {
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
    pub reason_string: Option<&'a str>,
    pub user: UserProperties<'a>,
}

/// Identifiers of properties on the wire.
pub mod id {
    macro_rules! identifiers {
        ($($name:ident = $value:literal, $text:literal;)*) => {
            $(#[doc = $text] pub const $name: u32 = $value;)*

            /// The name of a property, for messages.
            pub fn name(id: u32) -> &'static str {
                match id { $($value => $text,)* _ => "unknown property" }
            }
        };
    }

    identifiers! {
        PAYLOAD_FORMAT_INDICATOR = 0x01, "Payload Format Indicator";
        MESSAGE_EXPIRY_INTERVAL = 0x02, "Message Expiry Interval";
        CONTENT_TYPE = 0x03, "Content Type";
        RESPONSE_TOPIC = 0x08, "Response Topic";
        CORRELATION_DATA = 0x09, "Correlation Data";
        SUBSCRIPTION_IDENTIFIER = 0x0B, "Subscription Identifier";
        SESSION_EXPIRY_INTERVAL = 0x11, "Session Expiry Interval";
        ASSIGNED_CLIENT_IDENTIFIER = 0x12, "Assigned Client Identifier";
        SERVER_KEEP_ALIVE = 0x13, "Server Keep Alive";
        AUTHENTICATION_METHOD = 0x15, "Authentication Method";
        AUTHENTICATION_DATA = 0x16, "Authentication Data";
        REQUEST_PROBLEM_INFORMATION = 0x17, "Request Problem Information";
        WILL_DELAY_INTERVAL = 0x18, "Will Delay Interval";
        REQUEST_RESPONSE_INFORMATION = 0x19, "Request Response Information";
        RESPONSE_INFORMATION = 0x1A, "Response Information";
        SERVER_REFERENCE = 0x1C, "Server Reference";
        REASON_STRING = 0x1F, "Reason String";
        RECEIVE_MAXIMUM = 0x21, "Receive Maximum";
        TOPIC_ALIAS_MAXIMUM = 0x22, "Topic Alias Maximum";
        TOPIC_ALIAS = 0x23, "Topic Alias";
        MAXIMUM_QOS = 0x24, "Maximum QoS";
        RETAIN_AVAILABLE = 0x25, "Retain Available";
        USER_PROPERTY = 0x26, "User Property";
        MAXIMUM_PACKET_SIZE = 0x27, "Maximum Packet Size";
        WILDCARD_SUBSCRIPTION_AVAILABLE = 0x28, "Wildcard Subscription Available";
        SUBSCRIPTION_IDENTIFIER_AVAILABLE = 0x29, "Subscription Identifier Available";
        SHARED_SUBSCRIPTION_AVAILABLE = 0x2A, "Shared Subscription Available";
    }
}
