//! The PROXY header: the answer is the same however much of it has arrived, and says no more than the header does.

use mqtt_operator::broker::proxy::{MAX, parse};

pub fn run(input: &[u8]) {
    let whole = parse(input);
    if let Ok(Some((header, length))) = &whole {
        assert!(*length <= input.len() && *length <= MAX, "{length} bytes");
        // The header alone says the same as with what follows it.
        assert_eq!(parse(&input[..*length]), whole);
        if let (Some(source), b'P') = (header.source, input[0]) {
            let line = std::str::from_utf8(&input[..*length]).expect("version 1 is text");
            let address = line.split(' ').nth(2).expect("a source address");
            assert_eq!(address.parse(), Ok(source.ip()));
        }
    }
    for at in 0..input.len() {
        let early = parse(&input[..at]);
        match (&early, &whole) {
            (Ok(None), Ok(Some((_, length)))) => assert!(at < *length, "{at} bytes are enough"),
            (Ok(None), _) => {}
            _ => assert_eq!(early, whole, "after {at} bytes"),
        }
    }
}
