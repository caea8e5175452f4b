//! Frames of the WebSocket protocol, RFC 6455, as a server reads and writes them. Pure.
//!
//! MQTT is a stream of bytes: where frames begin and end says nothing about where packets do `[MQTT-6.0.0-2]`. So frames
//! are not put together again; what they carry is passed on as it arrives, and a frame of any size costs no memory.

/// Bytes of the largest header, mask included.
const HEADER_MAX: usize = 14;
/// Bytes that a control frame carries at most.
const CONTROL_MAX: usize = 125;

/// Status: the connection has done what it was for.
pub const NORMAL: u16 = 1000;
/// Status: what was sent is no WebSocket.
const PROTOCOL: u16 = 1002;
/// Status: data of a kind that cannot be taken.
const UNSUPPORTED: u16 = 1003;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// What ends a WebSocket connection from our side; the codes are RFC 6455's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("a text frame; MQTT needs binary ones [MQTT-6.0.0-1]")]
    Text,
    #[error("a frame that is not masked")]
    NotMasked,
    #[error("a frame with reserved bits")]
    Reserved,
    #[error("a frame of the unknown kind {0:#x}")]
    Kind(u8),
    #[error("a control frame that is fragmented or longer than {CONTROL_MAX} bytes")]
    Control,
    #[error("a continuation of no message")]
    Continuation,
    #[error("a new message within another")]
    Interleaved,
    #[error("a length that is not written as it must be")]
    Length,
}

impl Failure {
    /// The statement that is broken.
    pub fn id(self) -> &'static str {
        match self {
            Self::Text => "MQTT-6.0.0-1",
            _ => "RFC 6455",
        }
    }

    /// The status code that the peer is told.
    pub fn code(self) -> u16 {
        match self {
            Self::Text => UNSUPPORTED,
            _ => PROTOCOL,
        }
    }
}

/// What a decoder met beside bytes for MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// To be answered with the bytes of [`Decoder::control`].
    Ping,
    /// The peer says goodbye, with the status code and reason in [`Decoder::control`].
    Close,
}

/// Takes frames of a client apart, however they are cut.
#[derive(Debug)]
pub struct Decoder {
    /// The beginning of a header whose end has not arrived.
    header: [u8; HEADER_MAX],
    have: u8,
    kind: u8,
    mask: [u8; 4],
    /// Bytes of the frame that are still to come.
    left: u64,
    /// How far the frame is, for the mask.
    at: usize,
    /// Within a message of several frames.
    fragmented: bool,
    control: [u8; CONTROL_MAX],
    control_length: u8,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            header: [0; HEADER_MAX],
            have: 0,
            kind: CONTINUATION,
            mask: [0; 4],
            left: 0,
            at: 0,
            fragmented: false,
            control: [0; CONTROL_MAX],
            control_length: 0,
        }
    }
}

/// How far [`Decoder::decode`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes that were taken, headers among them.
    pub used: usize,
    /// Bytes for MQTT; they are now the first of the input.
    pub payload: usize,
    /// What stopped it before the end of the input.
    pub event: Option<Event>,
}

impl Decoder {
    /// Takes bytes from the peer until all are taken or there is something to do. What they carry for MQTT is moved, in
    /// place, to the front of `bytes`. A failure concerns what follows the `payload` bytes of the answer.
    pub fn decode(&mut self, bytes: &mut [u8]) -> (Decoded, Result<(), Failure>) {
        let mut done = Decoded { used: 0, payload: 0, event: None };
        while done.used < bytes.len() || self.ends_here() {
            if let Err(failure) = self.step(bytes, &mut done) {
                return (done, Err(failure));
            }
            if done.event.is_some() {
                break;
            }
        }
        (done, Ok(()))
    }

    /// The payload of the control frame that was met last.
    pub fn control(&self) -> &[u8] {
        &self.control[..usize::from(self.control_length)]
    }

    /// The status code that answers the goodbye that was met last: its own, where that may be sent.
    pub fn goodbye(&self) -> u16 {
        match *self.control() {
            [] => NORMAL,
            [a, b, ..] => match u16::from_be_bytes([a, b]) {
                code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => code,
                _ => PROTOCOL,
            },
            [_] => PROTOCOL,
        }
    }

    /// Whether a header is complete whose frame carries nothing: it needs no further byte to be handled.
    fn ends_here(&self) -> bool {
        usize::from(self.have) == HEADER_MAX && self.left == 0
    }

    fn step(&mut self, bytes: &mut [u8], done: &mut Decoded) -> Result<(), Failure> {
        if usize::from(self.have) < HEADER_MAX {
            return self.take_header(bytes, done);
        }
        let rest = bytes.len() - done.used;
        let n = usize::try_from(self.left).unwrap_or(rest).min(rest);
        let from = done.used..done.used + n;
        for (offset, byte) in bytes[from.clone()].iter_mut().enumerate() {
            *byte ^= self.mask[(self.at + offset) % 4];
        }
        if self.is_control() {
            let filled = usize::from(self.control_length);
            self.control[filled..filled + n].copy_from_slice(&bytes[from]);
            self.control_length += n as u8;
        } else {
            bytes.copy_within(from, done.payload);
            done.payload += n;
        }
        done.used += n;
        self.left -= n as u64;
        self.at = (self.at + n) % 4;
        if self.left == 0 {
            self.have = 0;
            done.event = match self.kind {
                PING => Some(Event::Ping),
                CLOSE => Some(Event::Close),
                _ => None,
            };
        }
        Ok(())
    }

    fn is_control(&self) -> bool {
        self.kind & 0x8 != 0
    }

    /// Takes one byte of a header; `have` is [`HEADER_MAX`] when it is complete, however long it was.
    fn take_header(&mut self, bytes: &[u8], done: &mut Decoded) -> Result<(), Failure> {
        self.header[usize::from(self.have)] = bytes[done.used];
        done.used += 1;
        self.have += 1;
        match self.have {
            1 => self.check_kind(),
            2 => self.check_length(),
            have if usize::from(have) == self.header_length() => self.begin(),
            _ => Ok(()),
        }
    }

    fn header_length(&self) -> usize {
        match self.header[1] & 0x7F {
            126 => 8,
            127 => HEADER_MAX,
            _ => 6,
        }
    }

    fn check_kind(&mut self) -> Result<(), Failure> {
        let (first, last) = (self.header[0], self.header[0] & 0x80 != 0);
        self.kind = first & 0x0F;
        if first & 0x70 != 0 {
            return Err(Failure::Reserved);
        }
        match self.kind {
            TEXT => Err(Failure::Text),
            CONTINUATION if !self.fragmented => Err(Failure::Continuation),
            BINARY if self.fragmented => Err(Failure::Interleaved),
            CONTINUATION | BINARY => {
                self.fragmented = !last;
                Ok(())
            }
            CLOSE | PING | PONG if last => Ok(()),
            CLOSE | PING | PONG => Err(Failure::Control),
            unknown => Err(Failure::Kind(unknown)),
        }
    }

    fn check_length(&mut self) -> Result<(), Failure> {
        let (masked, length) = (self.header[1] & 0x80 != 0, usize::from(self.header[1] & 0x7F));
        if !masked {
            return Err(Failure::NotMasked);
        }
        if self.is_control() && length > CONTROL_MAX { Err(Failure::Control) } else { Ok(()) }
    }

    /// The header is complete.
    fn begin(&mut self) -> Result<(), Failure> {
        let end = self.header_length();
        let written = &self.header[2..end - 4];
        let extended = written.iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
        // As few bytes as possible, and the highest bit is none of the length's.
        let shortest = match written.len() {
            0 => true,
            2 => extended > 125,
            _ => extended > 0xFFFF && i64::try_from(extended).is_ok(),
        };
        if !shortest {
            return Err(Failure::Length);
        }
        self.left = if written.is_empty() { (self.header[1] & 0x7F).into() } else { extended };
        self.mask.copy_from_slice(&self.header[end - 4..end]);
        self.have = HEADER_MAX as u8;
        self.at = 0;
        if self.is_control() {
            self.control_length = 0;
        }
        Ok(())
    }
}

/// Appends the header of a whole binary frame of this length.
pub fn binary(length: usize, out: &mut Vec<u8>) {
    header(BINARY, length, out);
}

/// Appends the answer to a ping.
pub fn pong(payload: &[u8], out: &mut Vec<u8>) {
    header(PONG, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a goodbye.
pub fn close(code: u16, out: &mut Vec<u8>) {
    header(CLOSE, 2, out);
    out.extend_from_slice(&code.to_be_bytes());
}

fn header(kind: u8, length: usize, out: &mut Vec<u8>) {
    out.push(0x80 | kind);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=125), _) => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
