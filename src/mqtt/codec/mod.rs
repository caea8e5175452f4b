//! Bytes → packet and packet → bytes.
//!
//! A connection cuts packets out of its stream with [`packet_length`], which looks at the fixed header only, so that an
//! oversize packet is refused before anything is allocated for it; [`decode`] then takes exactly one whole packet.

mod decode;
pub mod delivery;
mod encode;
mod properties;
mod reader;
#[cfg(test)]
mod tests;

pub use decode::{connect_version, decode, decode_from_server, decode_limited};
pub use encode::{encode, encode_publish, encode_publish_head, encode_with_words, publish_length};

use super::Violation;

/// User Properties that one block of properties of a client may hold. The specification sets no limit; an unbounded list would let
/// a small packet cost many times its size in memory.
pub const MAX_USER_PROPERTIES: usize = 64;

/// The largest remaining length that four bytes can say.
pub const MAX_REMAINING_LENGTH: usize = 268_435_455;

/// Types of control packets: the upper four bits of the first byte.
mod kind {
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
    pub const AUTH: u8 = 15;

    /// By type; the specification's names.
    pub const NAMES: [&str; 16] = [
        "reserved",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
}

const DUP: u8 = 0b1000;
const RETAIN: u8 = 0b0001;

/// The fixed header of a packet.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: u8,
    flags: u8,
    /// Bytes of the fixed header itself.
    length: usize,
    /// Bytes after it.
    remaining: usize,
    /// Whether the remaining length is written in as few bytes as possible.
    minimal: bool,
}

/// Bytes of the first packet in `buffer`, its fixed header included; `None` until the fixed header is complete. A packet
/// of more than `maximum` bytes, a header that no version allows and a reserved packet type are violations.
pub fn packet_length(buffer: &[u8], maximum: u32) -> Result<Option<usize>, Violation> {
    let Some(header) = read_header(buffer)? else {
        return Ok(None);
    };
    let length = header.length + header.remaining;
    if length > maximum as usize {
        return Err(Violation::PacketTooLarge { length, maximum });
    }
    Ok(Some(length))
}

fn read_header(buffer: &[u8]) -> Result<Option<Header>, Violation> {
    let Some((&first, rest)) = buffer.split_first() else {
        return Ok(None);
    };
    let (kind, flags) = (first >> 4, first & 0x0F);
    check_flags(kind, flags)?;
    let mut remaining = 0;
    for (at, &byte) in rest.iter().take(4).enumerate() {
        remaining |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            let minimal = byte != 0 || at == 0;
            return Ok(Some(Header { kind, flags, length: at + 2, remaining, minimal }));
        }
    }
    if rest.len() < 4 { Ok(None) } else { Err(Violation::RemainingLength) }
}

/// What every version asks of the first byte. DUP on SUBSCRIBE, UNSUBSCRIBE and PUBREL is legal in 3.1 only, which
/// [`decode`] sees to.
fn check_flags(kind: u8, flags: u8) -> Result<(), Violation> {
    let legal = match kind {
        0 => return Err(Violation::PacketType { kind }),
        kind::PUBLISH => {
            if flags & 0b0110 == 0b0110 {
                return Err(Violation::Qos3);
            }
            if flags & 0b0110 == 0 && flags & DUP != 0 {
                return Err(Violation::DupWithQos0);
            }
            true
        }
        kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE => flags & !DUP == 0b0010,
        _ => flags == 0,
    };
    if legal { Ok(()) } else { Err(Violation::ReservedFlags { packet: kind::NAMES[usize::from(kind)], flags }) }
}

/// The reason codes that a 5.0 packet of this type may carry, whoever sends it.
fn is_defined(kind: u8, code: u8) -> bool {
    match kind {
        kind::CONNACK => matches!(code, 0 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F),
        kind::PUBACK | kind::PUBREC => matches!(code, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99),
        kind::PUBREL | kind::PUBCOMP => matches!(code, 0 | 0x92),
        kind::SUBACK => {
            matches!(code, 0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
        }
        kind::UNSUBACK => matches!(code, 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
        kind::DISCONNECT => {
            matches!(code, 0 | 4 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2)
        }
        kind::AUTH => matches!(code, 0 | 0x18 | 0x19),
        _ => false,
    }
}
