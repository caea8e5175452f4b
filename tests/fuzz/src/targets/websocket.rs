//! The WebSocket layer: its HTTP request, and its frames under any splits.

use mqtt_operator::broker::frames::{Decoder, Event, Failure};
use mqtt_operator::broker::upgrade::{Doors, REQUEST_MAX, answer};

use super::packets::Source;

/// The first byte chooses: a request, the bytes of frames, or choices for legal frames.
pub fn run(input: &[u8]) {
    let Some((&selector, rest)) = input.split_first() else { return };
    match selector % 3 {
        0 => request(rest),
        1 => {
            read(rest, &mut Source(rest));
        }
        _ => legal(&mut Source(rest)),
    }
}

fn request(bytes: &[u8]) {
    let doors = Doors { path: "/mqtt".into(), origins: vec!["https://a.example".into()] };
    let bytes = &bytes[..bytes.len().min(REQUEST_MAX)];
    let whole = answer(bytes, &doors);
    if let Some(answer) = &whole {
        assert!(answer.used <= bytes.len());
        assert!(answer.response.starts_with(b"HTTP/1.1 ") && answer.response.windows(4).any(|end| end == b"\r\n\r\n"));
        let welcome = answer.response.starts_with(b"HTTP/1.1 101 ");
        assert_eq!(welcome, answer.refusal.is_none());
        // What the client sent never breaks the answer into two.
        let head = answer.response.split(|byte| *byte == b'\n').take_while(|line| *line != b"\r");
        assert!(head.clone().count() < 10 && head.clone().all(|line| line.ends_with(b"\r")));
    }
    // An answer is given once, when the request is whole or can be none; not before and not otherwise.
    for at in 0..bytes.len() {
        match (answer(&bytes[..at], &doors), &whole) {
            (None, Some(answer)) if answer.refusal.is_none() => assert!(at < answer.used),
            (Some(early), Some(answer)) => assert_eq!(early.refusal.is_none(), answer.refusal.is_none()),
            (Some(_), None) => panic!("answered after {at} bytes, and not after all"),
            (None, _) => {}
        }
    }
}

/// What a reader of frames has seen.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    payload: Vec<u8>,
    /// Pings and goodbyes with what they carried.
    events: Vec<(Event, Vec<u8>)>,
    failure: Option<Failure>,
}

/// Reads the bytes in pieces that `splits` chooses; nothing is read after a goodbye or a failure.
fn pieces(bytes: &[u8], mut splits: impl FnMut() -> usize) -> Seen {
    let (mut seen, mut decoder, mut rest) = (Seen::default(), Decoder::default(), bytes);
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(splits().clamp(1, rest.len()));
        rest = later;
        let mut piece = piece.to_vec();
        let mut from = 0;
        while from < piece.len() {
            let (decoded, result) = decoder.decode(&mut piece[from..]);
            assert!(decoded.payload <= decoded.used && from + decoded.used <= piece.len());
            assert!(decoded.used > 0 || result.is_err(), "it gets on");
            seen.payload.extend_from_slice(&piece[from..from + decoded.payload]);
            from += decoded.used;
            if let Err(failure) = result {
                seen.failure = Some(failure);
                return seen;
            }
            if let Some(event) = decoded.event {
                assert!(decoder.control().len() <= 125);
                seen.events.push((event, decoder.control().to_vec()));
                if event == Event::Close {
                    let code = decoder.goodbye();
                    assert!((1000..5000).contains(&code), "{code}");
                    return seen;
                }
            }
        }
    }
    seen
}

fn read(bytes: &[u8], choices: &mut Source<'_>) -> Seen {
    let whole = pieces(bytes, || usize::MAX);
    assert_eq!(pieces(bytes, || 1), whole);
    assert_eq!(pieces(bytes, || usize::from(choices.u8() % 16)), whole);
    whole
}

/// Frames as a client may send them carry what was put into them, pings among them or not.
fn legal(source: &mut Source<'_>) {
    let (mut bytes, mut expected, mut open) = (Vec::new(), Seen::default(), false);
    while !source.is_empty() {
        let choice = source.u8();
        let payload = source.data();
        match choice % 8 {
            0 => {
                let payload = &payload[..payload.len().min(125)];
                frame(0x89, payload, source, &mut bytes);
                expected.events.push((Event::Ping, payload.to_vec()));
            }
            1 => frame(0x8A, &payload[..payload.len().min(125)], source, &mut bytes),
            more => {
                // Of many sizes: each byte of the choice counts for up to 300 bytes.
                let payload = payload.repeat(1 + usize::from(choice >> 5));
                let last = more % 2 == 0;
                let kind = if open { 0 } else { 2 };
                frame(kind | u8::from(last) << 7, &payload, source, &mut bytes);
                open = !last;
                expected.payload.extend(payload);
            }
        }
    }
    assert_eq!(read(&bytes, source), expected);
}

fn frame(first: u8, payload: &[u8], source: &mut Source<'_>, out: &mut Vec<u8>) {
    out.push(first);
    match payload.len() {
        length @ ..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            out.push(0x80 | 0x7E);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 0x7F);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = [source.u8(), source.u8(), source.u8(), source.u8()];
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
