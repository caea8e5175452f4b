//! Frames cut and joined in every way, beside another implementation.

use proptest::prelude::*;

use super::*;

/// A frame as a client sends it.
fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    header(first & 0x0F, payload.len(), &mut out);
    out[0] = first;
    out[1] |= 0x80;
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// Payload, control frames, and how it ends.
type Said = (Vec<u8>, Vec<(Event, Vec<u8>)>, Result<(), Failure>);

/// What the bytes say when they arrive in pieces of this size.
fn decode(bytes: &[u8], step: usize) -> Said {
    let (mut decoder, mut payload, mut events) = (Decoder::default(), Vec::new(), Vec::new());
    for piece in bytes.chunks(step) {
        let mut piece = piece.to_vec();
        let mut from = 0;
        while from < piece.len() {
            let (decoded, result) = decoder.decode(&mut piece[from..]);
            payload.extend_from_slice(&piece[from..from + decoded.payload]);
            from += decoded.used;
            if let Some(event) = decoded.event {
                events.push((event, decoder.control().to_vec()));
            }
            if result.is_err() || decoded.event == Some(Event::Close) {
                return (payload, events, result);
            }
        }
    }
    (payload, events, Ok(()))
}

#[test]
fn every_cut_gives_the_same_bytes() {
    let large = vec![7; 70_000];
    let bytes = [
        frame(0x82, [1, 2, 3, 4], b"one"),
        frame(0x02, [5, 6, 7, 8], b"two "),
        frame(0x89, [9; 4], b"ping"),
        frame(0x00, [0xFF; 4], &[b'x'; 200]),
        frame(0x80, [3; 4], b""),
        frame(0x8A, [3; 4], b"pong"),
        frame(0x82, [1; 4], b""),
        frame(0x89, [2; 4], b""),
        frame(0x82, [4; 4], &large),
        frame(0x88, [1; 4], &[3, 232]),
    ]
    .concat();
    let expected = [&b"one"[..], b"two ", &[b'x'; 200], &large].concat();
    for step in [1, 2, 3, 5, 64, 1000, 200_000] {
        let (payload, events, end) = decode(&bytes, step);
        assert!(payload == expected, "step {step}");
        let ping = |bytes: &[u8]| (Event::Ping, bytes.to_vec());
        assert_eq!(events, [ping(b"ping"), ping(b""), (Event::Close, vec![3, 232])], "step {step}");
        assert_eq!(end, Ok(()));
    }
}

#[test]
fn what_the_standard_forbids_fails_with_its_reason() {
    let mask = [1, 2, 3, 4];
    let long_form = [&[0x82, 0xFE, 0, 5][..], &mask, b"hello"].concat();
    let longer_form = [&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 1, 0][..], &mask].concat();
    let huge = [&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &mask].concat();
    for (bytes, expected) in [
        (frame(0x81, mask, b"text"), Failure::Text),
        (frame(0x01, mask, b"text"), Failure::Text),
        (vec![0x82, 5, b'h'], Failure::NotMasked),
        (frame(0xC2, mask, b""), Failure::Reserved),
        (frame(0x83, mask, b""), Failure::Kind(3)),
        (frame(0x8B, mask, b""), Failure::Kind(11)),
        (frame(0x09, mask, b""), Failure::Control),
        (frame(0x89, mask, &[0; 126]), Failure::Control),
        (frame(0x80, mask, b""), Failure::Continuation),
        ([frame(0x02, mask, b"a"), frame(0x82, mask, b"b")].concat(), Failure::Interleaved),
        (long_form, Failure::Length),
        (longer_form, Failure::Length),
        (huge, Failure::Length),
    ] {
        for step in [1, 1000] {
            assert_eq!(decode(&bytes, step).2, Err(expected), "{bytes:?}");
        }
    }
    assert_eq!((Failure::Text.code(), Failure::NotMasked.code()), (1003, 1002));
}

#[test]
fn bytes_before_a_failure_are_kept() {
    let bytes = [frame(0x82, [1; 4], b"good"), frame(0x81, [1; 4], b"bad")].concat();
    assert_eq!(decode(&bytes, 1000).0, b"good");
}

proptest! {
    #[test]
    fn random_bytes_give_the_same_however_they_are_cut(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        good in proptest::collection::vec((any::<[u8; 4]>(), proptest::collection::vec(any::<u8>(), 0..300)), 0..4),
        step in 1..50_usize,
    ) {
        let frames: Vec<u8> = good.iter().flat_map(|(mask, payload)| frame(0x82, *mask, payload)).collect();
        let all = [frames, bytes].concat();
        prop_assert_eq!(decode(&all, step), decode(&all, all.len().max(1)));
    }
}
