//! Segments and frames as bytes. Pure.
//!
//! A segment begins with a header, and goes on with frames: `length | checksum | payload`. The checksum covers the
//! journal's salt and the segment's number too, so that bytes of another place are no frame here, and neither is what a
//! client puts into a payload.

use super::record::{FRAME, Records, is_kind};

/// The format that is written. Since 2, the record of each message says when it was received.
pub const FORMAT: u32 = 2;
/// Bytes of a segment's header.
pub const HEADER: usize = 32;
const MAGIC: [u8; 8] = *b"mqttjrnl";
/// Bytes that a search for the next frame may put through the checksum, for each segment: payloads can be made so that
/// everything in them looks like a length.
const SEARCH: u64 = 4 << 30;

/// What the checksums of a segment begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal(u32);

impl Seal {
    pub fn new(salt: u64, number: u32) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&salt.to_le_bytes());
        hasher.update(&number.to_le_bytes());
        Self(hasher.finalize())
    }

    fn checksum(self, length: [u8; 4], payload: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(&length);
        hasher.update(payload);
        hasher.finalize()
    }

    /// Fills in the checksums of whole frames.
    pub fn seal(self, frames: &mut [u8]) {
        let mut at = 0;
        while let Some(end) = end_of(frames, at) {
            let (head, payload) = frames[at..end].split_at_mut(FRAME);
            let (length, checksum) = head.split_at_mut(4);
            let length = [length[0], length[1], length[2], length[3]];
            checksum.copy_from_slice(&self.checksum(length, payload).to_le_bytes());
            at = end;
        }
    }

    /// What stands at `at`.
    pub fn read(self, bytes: &[u8], at: usize) -> Found<'_> {
        let Some(head) = bytes.get(at..at + FRAME) else {
            let rest = bytes.get(at..).unwrap_or_default();
            return if rest.iter().all(|byte| *byte == 0) { Found::End } else { Found::Broken };
        };
        let length = [head[0], head[1], head[2], head[3]];
        if length == [0; 4] {
            return Found::End;
        }
        let Some(end) = end_of(bytes, at) else { return Found::Broken };
        let payload = &bytes[at + FRAME..end];
        let checksum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if !is_kind(payload[0]) || checksum != self.checksum(length, payload) {
            return Found::Broken;
        }
        Found::Frame { payload, end }
    }

    /// Where the next frame begins, at or after `from`.
    pub fn search(self, bytes: &[u8], from: usize) -> Option<usize> {
        let mut budget = SEARCH;
        let mut at = from;
        while at + FRAME < bytes.len() {
            if bytes[at..at + 4] == [0; 4] {
                // Nothing begins in zeroes; a length may have up to three before its first other byte.
                at = (skip_zeroes(bytes, at) - 3).max(at + 1);
                continue;
            }
            if let Some(end) = end_of(bytes, at)
                && is_kind(bytes[at + FRAME])
            {
                budget = budget.checked_sub((end - at) as u64)?;
                if matches!(self.read(bytes, at), Found::Frame { .. }) {
                    return Some(at);
                }
            }
            at += 1;
        }
        None
    }
}

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    Frame {
        payload: &'a [u8],
        end: usize,
    },
    /// Nothing was written here.
    End,
    Broken,
}

/// Where the frame at `at` ends, if it is within the bytes.
pub fn end_of(bytes: &[u8], at: usize) -> Option<usize> {
    let head = bytes.get(at..at.checked_add(FRAME)?)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let end = (at + FRAME).checked_add(length)?;
    (length > 0 && end <= bytes.len()).then_some(end)
}

/// Where the first byte other than zero stands, at or after `from`; the end, if there is none.
pub fn skip_zeroes(bytes: &[u8], from: usize) -> usize {
    const STEP: usize = 64;
    let mut at = from;
    while bytes.get(at..at + STEP).is_some_and(|step| step == [0; STEP]) {
        at += STEP;
    }
    bytes[at..].iter().position(|byte| *byte != 0).map_or(bytes.len(), |more| at + more)
}

/// What a segment begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub format: u32,
    pub salt: u64,
    pub number: u32,
}

impl Header {
    pub fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.format.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.salt.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.number.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` where there is none, or a damaged one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..8] != MAGIC || word(28) != crc32fast::hash(&bytes[..28]) {
            return None;
        }
        let salt = u64::from(word(12)) | u64::from(word(16)) << 32;
        Some(Self { format: word(8), salt, number: word(20) })
    }
}

/// The frame that a segment opens with, sealed.
pub fn opening(seal: Seal, previous: u32, end: u32, first: u32) -> Vec<u8> {
    let mut records = Records::new();
    records.opened(previous, end, first);
    let mut bytes = std::mem::take(records.bytes_mut());
    seal.seal(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> (Seal, Vec<u8>, Vec<usize>) {
        let seal = Seal::new(7, 3);
        let mut records = Records::new();
        let mut starts = Vec::new();
        for key in 1..5 {
            starts.push(records.bytes().len());
            records.session(key, "client", 60, 10, &[0; 300]);
        }
        let mut bytes = records.bytes().to_vec();
        seal.seal(&mut bytes);
        (seal, bytes, starts)
    }

    #[test]
    fn frames_are_read_in_their_segment_and_nowhere_else() {
        let (seal, mut bytes, starts) = frames();
        bytes.extend([0; 100]);
        let mut at = 0;
        for start in starts {
            assert_eq!(at, start);
            let Found::Frame { end, .. } = seal.read(&bytes, at) else { panic!("no frame at {at}") };
            at = end;
        }
        assert_eq!(seal.read(&bytes, at), Found::End);
        assert_eq!(Seal::new(7, 4).read(&bytes, 0), Found::Broken);
        assert_eq!(Seal::new(8, 3).read(&bytes, 0), Found::Broken);
    }

    #[test]
    fn behind_damage_the_next_frame_is_found() {
        let (seal, bytes, starts) = frames();
        for at in starts[1]..starts[2] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_ne!(seal.read(&damaged, starts[1]), seal.read(&bytes, starts[1]), "at {at}");
            assert_eq!(seal.search(&damaged, starts[1] + 1), Some(starts[2]), "at {at}");
        }
        let mut hole = bytes.clone();
        hole[starts[0]..starts[3]].fill(0);
        assert_eq!(seal.read(&hole, 0), Found::End);
        assert_eq!(seal.search(&hole, 0), Some(starts[3]));
        hole[starts[3]..].fill(0);
        assert_eq!(seal.search(&hole, 0), None);
    }

    #[test]
    fn a_header_with_any_bit_changed_is_none() {
        let header = Header { format: FORMAT, salt: u64::MAX / 3, number: 77 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        assert_eq!(Header::decode(&bytes[..31]), None);
        for bit in 0..HEADER * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&damaged), None, "bit {bit}");
        }
    }
}
