//! The data representations of the specification (section 1.5), read from a packet that is already whole.

use crate::mqtt::{PacketId, Violation};

/// What is left of a packet, or of a part of it. Every method names the field it reads, for the violation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// User Properties that one block of properties may hold.
    pub(super) user_properties: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], user_properties: usize) -> Self {
        Self { rest: bytes, user_properties }
    }

    pub(super) fn is_empty(self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn len(self) -> usize {
        self.rest.len()
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], Violation> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Violation::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    /// All that is left.
    pub(super) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, Violation> {
        let (&byte, rest) = self.rest.split_first().ok_or(Violation::Truncated { field })?;
        self.rest = rest;
        Ok(byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, Violation> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Violation::Truncated { field })?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, Violation> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Violation::Truncated { field })?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A variable byte integer, which must have its shortest form `[MQTT-1.5.5-1]`.
    pub(super) fn variable(&mut self, field: &'static str) -> Result<u32, Violation> {
        let mut value = 0;
        for at in 0..4 {
            let byte = self.u8(field)?;
            value |= u32::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                let minimal = byte != 0 || at == 0;
                return if minimal { Ok(value) } else { Err(Violation::VariableByteInteger { field }) };
            }
        }
        Err(Violation::VariableByteInteger { field })
    }

    /// Binary data: a length of two bytes, then the bytes.
    pub(super) fn data(&mut self, field: &'static str) -> Result<&'a [u8], Violation> {
        let length = self.u16(field)?;
        self.take(usize::from(length), field)
    }

    /// A UTF-8 encoded string without U+0000.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, Violation> {
        let text = self.unchecked_null_text(field)?;
        if text.as_bytes().contains(&0) {
            return Err(Violation::NullCharacter { field });
        }
        Ok(text)
    }

    /// A UTF-8 encoded string of a field whose own check refuses U+0000, such as a topic name.
    pub(super) fn unchecked_null_text(&mut self, field: &'static str) -> Result<&'a str, Violation> {
        std::str::from_utf8(self.data(field)?).map_err(|_| Violation::Utf8 { field })
    }

    pub(super) fn packet_id(&mut self, packet: &'static str) -> Result<PacketId, Violation> {
        PacketId::new(self.u16("packet identifier")?).ok_or(Violation::PacketIdZero { packet })
    }
}
