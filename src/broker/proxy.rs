//! The PROXY protocol: the header in which a load balancer says whose connection it passes on. Versions 1 and 2. Pure.
//!
//! Whoever may send one can claim any address, so that a header is asked for, and believed, only from networks that the
//! configuration names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a header of version 1, its line end among them.
const V1_MAX: usize = 107;
const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before the addresses.
const V2_HEAD: usize = 16;
/// Bytes of a header of version 2. The format allows 64 KiB of extensions; the largest in use carry a certificate's name.
pub const MAX: usize = 4096;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client; absent when the proxy speaks for itself, as in a health check, or does not know.
    pub source: Option<SocketAddr>,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("no PROXY protocol header, though the connection comes from a network that must send one")]
    Missing,
    #[error("a PROXY protocol header of version 1 that is longer than {V1_MAX} bytes or not one line")]
    Line,
    #[error("a PROXY protocol header of version 1 with a wrong {0}")]
    Field(&'static str),
    #[error("a PROXY protocol header with version {0}")]
    Version(u8),
    #[error("a PROXY protocol header with command {0}")]
    Command(u8),
    #[error("a PROXY protocol header for transport {0:#04x}, which is not TCP")]
    Transport(u8),
    #[error("a PROXY protocol header of {0} bytes")]
    Length(usize),
}

/// Reads the header at the beginning of `bytes`; answers it with its length, or nothing while its end is still to come.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    if begins(bytes, V2_START) {
        return if bytes.len() < V2_HEAD { Ok(None) } else { version_2(bytes) };
    }
    if begins(bytes, V1_START) {
        return version_1(bytes);
    }
    Err(ProxyError::Missing)
}

/// Whether the bytes begin with `start`, as far as they go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let both = bytes.len().min(start.len());
    bytes[..both] == start[..both]
}

fn version_1(bytes: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let window = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_MAX { Ok(None) } else { Err(ProxyError::Line) };
    };
    let line = std::str::from_utf8(&bytes[V1_START.len()..end]).map_err(|_| ProxyError::Line)?;
    let source = if line == "UNKNOWN" || line.starts_with("UNKNOWN ") { None } else { Some(addresses(line)?) };
    Ok(Some((Header { source }, end + 2)))
}

/// `TCP4 192.0.2.1 192.0.2.2 56324 1883`, and nothing else.
fn addresses(line: &str) -> Result<SocketAddr, ProxyError> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = fields[..] else {
        return Err(ProxyError::Field("number of fields"));
    };
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::from).map_err(|_| ProxyError::Field("IPv4 address")),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::from).map_err(|_| ProxyError::Field("IPv6 address")),
        _ => Err(ProxyError::Field("transport")),
    };
    let (source, _) = (address(source)?, address(destination)?);
    let (port, _) = (port(source_port)?, port(destination_port)?);
    Ok(SocketAddr::new(source, port))
}

fn port(text: &str) -> Result<u16, ProxyError> {
    // The parser of numbers would take a sign as well.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(ProxyError::Field("port"))
}

fn version_2(bytes: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let (version, command, transport) = (bytes[12] >> 4, bytes[12] & 0x0F, bytes[13]);
    if version != 2 {
        return Err(ProxyError::Version(version));
    }
    if command > 1 {
        return Err(ProxyError::Command(command));
    }
    let length = V2_HEAD + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > MAX {
        return Err(ProxyError::Length(length));
    }
    let Some(body) = bytes.get(V2_HEAD..length) else { return Ok(None) };
    // A proxy that speaks for itself may fill in anything else as it likes.
    let source = if command == 0 { None } else { source(transport, body)? };
    Ok(Some((Header { source }, length)))
}

/// The source in the addresses; extensions may follow them.
fn source(transport: u8, body: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let short = ProxyError::Length(V2_HEAD + body.len());
    match transport {
        // Unknown, or a socket of the proxy's own machine.
        0x00 | 0x31 => Ok(None),
        0x11 => {
            let Some((body, _)) = body.split_first_chunk::<12>() else { return Err(short) };
            let ip = Ipv4Addr::new(body[0], body[1], body[2], body[3]);
            Ok(Some((ip, u16::from_be_bytes([body[8], body[9]])).into()))
        }
        0x21 => {
            let Some((body, _)) = body.split_first_chunk::<36>() else { return Err(short) };
            let mut ip = [0; 16];
            ip.copy_from_slice(&body[..16]);
            Ok(Some((Ipv6Addr::from(ip), u16::from_be_bytes([body[32], body[33]])).into()))
        }
        other => Err(ProxyError::Transport(other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(head: [u8; 2], body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_START, &head, &length, body].concat()
    }

    fn source_of(bytes: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
        let (header, used) = parse(bytes)?.expect("a whole header");
        assert_eq!(used, bytes.len());
        Ok(header.source)
    }

    #[test]
    fn headers_name_the_client() {
        let client = |text: &str| Ok(Some(text.parse().unwrap()));
        assert_eq!(source_of(b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 1883\r\n"), client("192.0.2.1:56324"));
        assert_eq!(source_of(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"), client("[2001:db8::1]:1"));
        let four = [192, 0, 2, 1, 192, 0, 2, 9, 0xDC, 4, 7, 0x5B];
        assert_eq!(source_of(&v2([0x21, 0x11], &four)), client("192.0.2.1:56324"));
        assert_eq!(source_of(&v2([0x21, 0x11], &[&four[..], &[4, 0, 1, 0]].concat())), client("192.0.2.1:56324"));
        let mut six = [0; 36];
        (six[15], six[33]) = (1, 7);
        assert_eq!(source_of(&v2([0x21, 0x21], &six)), client("[::1]:7"));
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        for header in [
            &b"PROXY UNKNOWN\r\n"[..],
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
            &v2([0x20, 0], &[]),
            &v2([0x20, 0x11], &[]),
            &v2([0x21, 0], &[1, 2, 3]),
        ] {
            assert_eq!(source_of(header), Ok(None), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_with_its_reason() {
        for (bytes, expected) in [
            (&b"\x10\x0c"[..], ProxyError::Missing),
            (b"PROXY\t", ProxyError::Missing),
            (b"GET / HTTP/1.1", ProxyError::Missing),
            (b"PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n", ProxyError::Field("transport")),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n", ProxyError::Field("number of fields")),
            (b"PROXY TCP4 1.1.1.1  1.1.1.1 1 1\r\n", ProxyError::Field("number of fields")),
            (b"PROXY TCP4 ::1 1.1.1.1 1 1\r\n", ProxyError::Field("IPv4 address")),
            (b"PROXY TCP6 1.1.1.1 ::1 1 1\r\n", ProxyError::Field("IPv6 address")),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n", ProxyError::Field("port")),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n", ProxyError::Field("port")),
            (b"PROXY \xff\r\n", ProxyError::Line),
            (&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat(), ProxyError::Line),
            (&v2([0x11, 0x11], &[0; 12]), ProxyError::Version(1)),
            (&v2([0x22, 0x11], &[0; 12]), ProxyError::Command(2)),
            (&v2([0x21, 0x12], &[0; 12]), ProxyError::Transport(0x12)),
            (&v2([0x21, 0x11], &[0; 11]), ProxyError::Length(27)),
            (&v2([0x21, 0x21], &[0; 12]), ProxyError::Length(28)),
            (&v2([0x21, 0], &[0; 5000]), ProxyError::Length(5016)),
        ] {
            assert_eq!(parse(bytes), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn every_beginning_of_a_header_asks_for_more() {
        for header in [&b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"[..], &v2([0x21, 0x11], &[1; 20])] {
            for end in 0..header.len() {
                assert_eq!(parse(&header[..end]), Ok(None), "{:?}", &header[..end]);
            }
        }
        let longest = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; V1_MAX - 16], b"\r\n"].concat();
        assert_eq!(parse(&longest).unwrap().unwrap().1, V1_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_and_never_with_more_than_there_is(bytes in proptest::collection::vec(any::<u8>(), 0..200), start in 0..3_usize) {
            let start = [&b""[..], V1_START, V2_START][start];
            let bytes = [start, bytes.as_slice()].concat();
            if let Ok(Some((_, used))) = parse(&bytes) {
                prop_assert!(used <= bytes.len());
            }
        }
    }
}
