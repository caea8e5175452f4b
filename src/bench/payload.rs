//! What every payload begins with: who sent it, its number, and when it was meant to be sent.

/// Bytes of the stamp.
pub const MINIMUM_SIZE: usize = 28;

/// The stamp of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Tells the messages of this run from those of others.
    pub(super) run: u32,
    pub(super) publisher: u32,
    /// Index among the publisher's topics.
    pub(super) topic: u32,
    /// Counts from 0 within the topic.
    pub(super) sequence: u64,
    /// Intended time of sending, nanoseconds since 1970, so that runs in two processes of one machine understand it.
    pub(super) nanoseconds: u64,
}

impl Stamp {
    /// Writes the stamp over the first bytes of `payload`, which has at least [`MINIMUM_SIZE`].
    pub(super) fn write(self, payload: &mut [u8]) {
        payload[0..4].copy_from_slice(&self.run.to_be_bytes());
        payload[4..8].copy_from_slice(&self.publisher.to_be_bytes());
        payload[8..12].copy_from_slice(&self.topic.to_be_bytes());
        payload[12..20].copy_from_slice(&self.sequence.to_be_bytes());
        payload[20..28].copy_from_slice(&self.nanoseconds.to_be_bytes());
    }

    /// The stamp of a payload; `None` when it is too short to have one.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (run, rest) = payload.split_first_chunk()?;
        let (publisher, rest) = rest.split_first_chunk()?;
        let (topic, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (nanoseconds, _) = rest.split_first_chunk()?;
        Some(Self {
            run: u32::from_be_bytes(*run),
            publisher: u32::from_be_bytes(*publisher),
            topic: u32::from_be_bytes(*topic),
            sequence: u64::from_be_bytes(*sequence),
            nanoseconds: u64::from_be_bytes(*nanoseconds),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_the_way_through_a_payload() {
        let stamp = Stamp { run: 1, publisher: 2, topic: 3, sequence: u64::MAX, nanoseconds: 5 };
        let mut payload = [0xFF; 40];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..MINIMUM_SIZE]), Some(stamp));
        assert_eq!(Stamp::read(&payload[..MINIMUM_SIZE - 1]), None);
    }
}
