//! Property blocks. One table per packet, at the end of this file, serves both directions.

use super::encode;
use super::reader::Reader;
use crate::mqtt::Violation;
use crate::mqtt::property::{
    AckProperties, AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties, PublishProperties,
    SubscribeProperties, UnsubscribeProperties, UserProperties, WillProperties, id,
};
use crate::mqtt::topic;

/// A set of properties that travels as one block.
pub(super) trait Block<'a>: Default {
    /// The packet, for violations.
    const PACKET: &'static str;

    /// Reads the value of property `id` into its place.
    fn read_property(&mut self, id: u32, reader: &mut Reader<'a>) -> Result<(), Violation>;

    /// Appends every property that is present, without the length of the block.
    fn write_properties(&self, out: &mut Vec<u8>);
}

/// Reads a length and as many bytes of properties.
pub(super) fn decode_block<'a, B: Block<'a>>(reader: &mut Reader<'a>) -> Result<B, Violation> {
    let length = reader.variable("property length")?;
    let mut block = B::default();
    if length > 0 {
        let mut rest = Reader::new(reader.take(length as usize, "properties")?, reader.user_properties);
        while !rest.is_empty() {
            let id = rest.variable("property identifier")?;
            block.read_property(id, &mut rest)?;
        }
    }
    Ok(block)
}

/// Appends the length of the block and its properties.
pub(super) fn encode_block<'a>(block: &impl Block<'a>, out: &mut Vec<u8>) {
    let start = out.len();
    out.push(0);
    block.write_properties(out);
    encode::settle_length(out, start, 1, out.len() - start - 1);
}

/// A value of one property.
trait Value<'a>: Sized {
    fn read(id: u32, reader: &mut Reader<'a>) -> Result<Self, Violation>;
    fn write(&self, id: u32, out: &mut Vec<u8>);
}

impl Value<'_> for bool {
    fn read(id: u32, reader: &mut Reader<'_>) -> Result<Self, Violation> {
        match reader.u8(id::name(id))? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Violation::PropertyValue { property: id::name(id), value: value.into() }),
        }
    }

    fn write(&self, _: u32, out: &mut Vec<u8>) {
        out.push((*self).into());
    }
}

/// Maximum QoS is the only property of a plain byte: 0 or 1.
impl Value<'_> for u8 {
    fn read(id: u32, reader: &mut Reader<'_>) -> Result<Self, Violation> {
        match reader.u8(id::name(id))? {
            value @ (0 | 1) => Ok(value),
            value => Err(Violation::PropertyValue { property: id::name(id), value: value.into() }),
        }
    }

    fn write(&self, _: u32, out: &mut Vec<u8>) {
        out.push(*self);
    }
}

impl Value<'_> for u16 {
    fn read(id: u32, reader: &mut Reader<'_>) -> Result<Self, Violation> {
        match reader.u16(id::name(id))? {
            0 if id == id::TOPIC_ALIAS => Err(Violation::TopicAlias { alias: 0, maximum: u16::MAX }),
            0 if id == id::RECEIVE_MAXIMUM => Err(Violation::PropertyValue { property: id::name(id), value: 0 }),
            value => Ok(value),
        }
    }

    fn write(&self, _: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }
}

impl Value<'_> for u32 {
    fn read(id: u32, reader: &mut Reader<'_>) -> Result<Self, Violation> {
        let value =
            if id == id::SUBSCRIPTION_IDENTIFIER { reader.variable(id::name(id)) } else { reader.u32(id::name(id)) }?;
        if value == 0 && matches!(id, id::SUBSCRIPTION_IDENTIFIER | id::MAXIMUM_PACKET_SIZE) {
            return Err(Violation::PropertyValue { property: id::name(id), value });
        }
        Ok(value)
    }

    fn write(&self, id: u32, out: &mut Vec<u8>) {
        if id == id::SUBSCRIPTION_IDENTIFIER {
            encode::variable(*self as usize, out);
        } else {
            out.extend_from_slice(&self.to_be_bytes());
        }
    }
}

impl<'a> Value<'a> for &'a str {
    fn read(id: u32, reader: &mut Reader<'a>) -> Result<Self, Violation> {
        let text = reader.text(id::name(id))?;
        if id == id::RESPONSE_TOPIC {
            topic::check_name(text).map_err(|violation| match violation {
                Violation::WildcardInTopicName { .. } => Violation::ResponseTopic,
                other => other,
            })?;
        }
        Ok(text)
    }

    fn write(&self, _: u32, out: &mut Vec<u8>) {
        encode::text(self, out);
    }
}

impl<'a> Value<'a> for &'a [u8] {
    fn read(id: u32, reader: &mut Reader<'a>) -> Result<Self, Violation> {
        reader.data(id::name(id))
    }

    fn write(&self, _: u32, out: &mut Vec<u8>) {
        encode::data(self, out);
    }
}

/// The place of a property in its struct: optional and at most once, or a list.
trait Place<'a> {
    fn read(&mut self, id: u32, reader: &mut Reader<'a>) -> Result<(), Violation>;
    fn write(&self, id: u32, out: &mut Vec<u8>);
}

impl<'a, V: Value<'a>> Place<'a> for Option<V> {
    fn read(&mut self, id: u32, reader: &mut Reader<'a>) -> Result<(), Violation> {
        if self.is_some() {
            return Err(Violation::DuplicateProperty { property: id::name(id) });
        }
        *self = Some(V::read(id, reader)?);
        Ok(())
    }

    fn write(&self, id: u32, out: &mut Vec<u8>) {
        if let Some(value) = self {
            encode::variable(id as usize, out);
            value.write(id, out);
        }
    }
}

impl<'a> Place<'a> for UserProperties<'a> {
    fn read(&mut self, _: u32, reader: &mut Reader<'a>) -> Result<(), Violation> {
        if self.len() == reader.user_properties {
            return Err(Violation::TooManyUserProperties { maximum: reader.user_properties });
        }
        self.push((reader.text("User Property name")?, reader.text("User Property value")?));
        Ok(())
    }

    fn write(&self, id: u32, out: &mut Vec<u8>) {
        for (name, value) in self {
            encode::variable(id as usize, out);
            encode::text(name, out);
            encode::text(value, out);
        }
    }
}

/// The Subscription Identifiers of a PUBLISH.
impl Place<'_> for Vec<u32> {
    fn read(&mut self, id: u32, reader: &mut Reader<'_>) -> Result<(), Violation> {
        self.push(u32::read(id, reader)?);
        Ok(())
    }

    fn write(&self, id: u32, out: &mut Vec<u8>) {
        for value in self {
            encode::variable(id as usize, out);
            value.write(id, out);
        }
    }
}

macro_rules! block {
    ($packet:literal, $type:ident { $($id:ident: $($field:ident).+,)* }) => {
        impl<'a> Block<'a> for $type<'a> {
            const PACKET: &'static str = $packet;

            fn read_property(&mut self, id: u32, reader: &mut Reader<'a>) -> Result<(), Violation> {
                match id {
                    $(id::$id => self.$($field).+.read(id, reader),)*
                    property => Err(Violation::PropertyNotAllowed { packet: Self::PACKET, property }),
                }
            }

            fn write_properties(&self, out: &mut Vec<u8>) {
                $(self.$($field).+.write(id::$id, out);)*
            }
        }
    };
}

block! { "CONNECT", ConnectProperties {
    SESSION_EXPIRY_INTERVAL: session_expiry,
    RECEIVE_MAXIMUM: receive_maximum,
    MAXIMUM_PACKET_SIZE: maximum_packet_size,
    TOPIC_ALIAS_MAXIMUM: topic_alias_maximum,
    REQUEST_RESPONSE_INFORMATION: request_response_information,
    REQUEST_PROBLEM_INFORMATION: request_problem_information,
    USER_PROPERTY: user,
    AUTHENTICATION_METHOD: authentication_method,
    AUTHENTICATION_DATA: authentication_data,
}}

block! { "the will", WillProperties {
    WILL_DELAY_INTERVAL: delay,
    PAYLOAD_FORMAT_INDICATOR: publish.payload_format_utf8,
    MESSAGE_EXPIRY_INTERVAL: publish.message_expiry,
    CONTENT_TYPE: publish.content_type,
    RESPONSE_TOPIC: publish.response_topic,
    CORRELATION_DATA: publish.correlation_data,
    USER_PROPERTY: publish.user,
}}

block! { "PUBLISH", PublishProperties {
    PAYLOAD_FORMAT_INDICATOR: payload_format_utf8,
    MESSAGE_EXPIRY_INTERVAL: message_expiry,
    TOPIC_ALIAS: topic_alias,
    RESPONSE_TOPIC: response_topic,
    CORRELATION_DATA: correlation_data,
    SUBSCRIPTION_IDENTIFIER: subscription_identifiers,
    CONTENT_TYPE: content_type,
    USER_PROPERTY: user,
}}

block! { "CONNACK", ConnAckProperties {
    SESSION_EXPIRY_INTERVAL: session_expiry,
    RECEIVE_MAXIMUM: receive_maximum,
    MAXIMUM_QOS: maximum_qos,
    RETAIN_AVAILABLE: retain_available,
    MAXIMUM_PACKET_SIZE: maximum_packet_size,
    ASSIGNED_CLIENT_IDENTIFIER: assigned_client_id,
    TOPIC_ALIAS_MAXIMUM: topic_alias_maximum,
    REASON_STRING: reason_string,
    USER_PROPERTY: user,
    WILDCARD_SUBSCRIPTION_AVAILABLE: wildcard_available,
    SUBSCRIPTION_IDENTIFIER_AVAILABLE: subscription_identifiers_available,
    SHARED_SUBSCRIPTION_AVAILABLE: shared_available,
    SERVER_KEEP_ALIVE: server_keep_alive,
    RESPONSE_INFORMATION: response_information,
    SERVER_REFERENCE: server_reference,
    AUTHENTICATION_METHOD: authentication_method,
    AUTHENTICATION_DATA: authentication_data,
}}

block! { "an acknowledgement", AckProperties {
    REASON_STRING: reason_string,
    USER_PROPERTY: user,
}}

block! { "SUBSCRIBE", SubscribeProperties {
    SUBSCRIPTION_IDENTIFIER: subscription_identifier,
    USER_PROPERTY: user,
}}

block! { "UNSUBSCRIBE", UnsubscribeProperties {
    USER_PROPERTY: user,
}}

block! { "DISCONNECT", DisconnectProperties {
    SESSION_EXPIRY_INTERVAL: session_expiry,
    REASON_STRING: reason_string,
    USER_PROPERTY: user,
    SERVER_REFERENCE: server_reference,
}}

block! { "AUTH", AuthProperties {
    AUTHENTICATION_METHOD: authentication_method,
    AUTHENTICATION_DATA: authentication_data,
    REASON_STRING: reason_string,
    USER_PROPERTY: user,
}}
