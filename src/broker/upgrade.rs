//! The HTTP request that a WebSocket begins with, and the answer to it. Pure.
//!
//! A browser sends the page's origin with the request and lets the page read nothing else before the connection stands:
//! this is the one place where a broker can tell its owner's page from any other page that the owner's browser shows.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Bytes of a request.
pub const REQUEST_MAX: usize = 8 * 1024;
/// Header lines of a request.
const HEADERS_MAX: usize = 64;
/// What RFC 6455 appends to the key.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Names of the subprotocol: the specification's, and the one that clients of MQTT 3.1 use.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a listener lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doors {
    /// As `/mqtt`.
    pub path: String,
    /// Origins of pages, as `https://example.com`; `*` means all. A client that names no origin is no browser, and let in.
    pub origins: Vec<String>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Bytes of the request.
    pub used: usize,
    pub response: Vec<u8>,
    /// The token of `Authorization: Bearer`, which is verified with CONNECT.
    pub bearer: Option<Vec<u8>>,
    /// Why there is no WebSocket, if there is none.
    pub refusal: Option<Refusal>,
}

/// Why there is no WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the request is not HTTP/1.1")]
    Malformed,
    #[error("the request is longer than {REQUEST_MAX} bytes or has more than {HEADERS_MAX} headers")]
    TooLarge,
    #[error("the method is not GET")]
    Method,
    #[error("there is nothing at {path:?}; MQTT is at {expected}")]
    Path { path: String, expected: String },
    #[error("the request asks for no WebSocket of version 13")]
    NoUpgrade,
    #[error("Host or Sec-WebSocket-Key is missing or wrong")]
    Header,
    #[error("origin {0:?} is not among the listener's allowedOrigins")]
    Origin(String),
    #[error("Authorization is not one Bearer token")]
    Authorization,
    #[error("the subprotocol is not mqtt [MQTT-6.0.0-3]")]
    Subprotocol,
}

impl Refusal {
    fn status(&self) -> &'static str {
        match self {
            Self::Malformed | Self::Header | Self::Subprotocol => "400 Bad Request",
            Self::Authorization => "401 Unauthorized",
            Self::Origin(_) => "403 Forbidden",
            Self::Path { .. } => "404 Not Found",
            Self::Method => "405 Method Not Allowed",
            Self::NoUpgrade => "426 Upgrade Required",
            Self::TooLarge => "431 Request Header Fields Too Large",
        }
    }

    fn response(&self) -> Vec<u8> {
        let more = match self {
            Self::Method => "Allow: GET\r\n",
            Self::Authorization => "WWW-Authenticate: Bearer\r\n",
            Self::NoUpgrade => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            _ => "",
        };
        let body = format!("{self}\n");
        let (status, length) = (self.status(), body.len());
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\n{more}Content-Type: text/plain; charset=utf-8\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// Answers the request at the beginning of `bytes`, or nothing while its end is still to come.
pub fn answer(bytes: &[u8], doors: &Doors) -> Option<Answer> {
    let refuse = |refusal: Refusal| Answer {
        used: bytes.len(),
        response: refusal.response(),
        bearer: None,
        refusal: Some(refusal),
    };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(used)) => Some(match accept(&request, doors) {
            Ok((response, bearer)) => Answer { used, response, bearer, refusal: None },
            Err(refusal) => refuse(refusal),
        }),
        Ok(httparse::Status::Partial) if bytes.len() < REQUEST_MAX => None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => Some(refuse(Refusal::TooLarge)),
        Err(_) => Some(refuse(Refusal::Malformed)),
    }
}

fn accept(request: &httparse::Request<'_, '_>, doors: &Doors) -> Result<(Vec<u8>, Option<Vec<u8>>), Refusal> {
    if request.version != Some(1) {
        return Err(Refusal::Malformed);
    }
    if request.method != Some("GET") {
        return Err(Refusal::Method);
    }
    let path = request.path.and_then(|path| path.split('?').next()).unwrap_or_default();
    if path != doors.path {
        return Err(Refusal::Path { path: path.into(), expected: doors.path.clone() });
    }
    let has = |name: &str, token: &str| values(request, name).any(|it| it.eq_ignore_ascii_case(token));
    if !has("Upgrade", "websocket") || !has("Connection", "upgrade") || !has("Sec-WebSocket-Version", "13") {
        return Err(Refusal::NoUpgrade);
    }
    check_origin(request, doors)?;
    let bearer = bearer(request)?;
    one(request, "Host").ok_or(Refusal::Header)?;
    let key = one(request, "Sec-WebSocket-Key").ok_or(Refusal::Header)?;
    if STANDARD.decode(key).map(|key| key.len()) != Ok(16) {
        return Err(Refusal::Header);
    }
    // In the order of the list, whatever the order of the offer: `mqtt` where it is offered [MQTT-6.0.0-4].
    let offered = |wanted: &&str| values(request, "Sec-WebSocket-Protocol").any(|offered| offered == *wanted);
    let subprotocol = SUBPROTOCOLS.into_iter().find(offered);
    let subprotocol = subprotocol.ok_or(Refusal::Subprotocol)?;
    let accept = accept_key(key);
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    );
    Ok((response.into_bytes(), bearer))
}

/// The token of the request. A client that presents something else must not take itself for authenticated.
fn bearer(request: &httparse::Request<'_, '_>) -> Result<Option<Vec<u8>>, Refusal> {
    let mut lines = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("Authorization"));
    let (Some(line), another) = (lines.next(), lines.next()) else { return Ok(None) };
    let token =
        line.value.trim_ascii().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    match token.map(|(_, token)| token.trim_ascii()) {
        Some(token) if another.is_none() && !token.is_empty() => Ok(Some(token.to_vec())),
        _ => Err(Refusal::Authorization),
    }
}

/// A request with several origins, or one that is no text, comes from no page that was meant.
fn check_origin(request: &httparse::Request<'_, '_>, doors: &Doors) -> Result<(), Refusal> {
    let mut origins = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("Origin"));
    let (Some(origin), another) = (origins.next(), origins.next()) else { return Ok(()) };
    let origin = String::from_utf8_lossy(origin.value);
    let origin = origin.trim();
    let allowed = |entry: &String| entry == "*" || entry.eq_ignore_ascii_case(origin);
    if another.is_none() && doors.origins.iter().any(allowed) { Ok(()) } else { Err(Refusal::Origin(origin.into())) }
}

/// The members of a header that is a list, over all lines of that name.
fn values<'a>(request: &'a httparse::Request<'_, '_>, name: &str) -> impl Iterator<Item = &'a str> {
    let lines = request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    let texts = lines.filter_map(|header| std::str::from_utf8(header.value).ok());
    texts.flat_map(|text| text.split(',').map(str::trim))
}

/// The value of a header that must be there once.
fn one<'a>(request: &'a httparse::Request<'_, '_>, name: &str) -> Option<&'a str> {
    let mut lines = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let (line, another) = (lines.next()?, lines.next());
    std::str::from_utf8(line.value).ok().map(str::trim).filter(|value| another.is_none() && !value.is_empty())
}

/// Proves that the request was understood as one for a WebSocket; SHA-1 keeps no secret here.
fn accept_key(key: &str) -> String {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(KEY_SUFFIX);
    STANDARD.encode(digest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors(origins: &[&str]) -> Doors {
        Doors { path: "/mqtt".into(), origins: origins.iter().map(ToString::to_string).collect() }
    }

    /// The request of RFC 6455's example, for MQTT, with further lines.
    fn request(more: &str) -> String {
        format!(
            "GET /mqtt HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
        )
    }

    fn refusal(request: &str, doors: &Doors) -> Option<(Refusal, String)> {
        let answer = answer(request.as_bytes(), doors).expect("a whole request");
        let status = String::from_utf8(answer.response).unwrap()[9..12].to_owned();
        answer.refusal.map(|refusal| (refusal, status))
    }

    #[test]
    fn request_for_mqtt_is_accepted_with_the_key_of_the_standard() {
        let request = request("Sec-WebSocket-Protocol: chat, mqttv3.1, mqtt\r\n");
        let answer = answer(format!("{request}frame").as_bytes(), &doors(&[])).unwrap();
        assert_eq!((answer.used, answer.refusal), (request.len(), None));
        let response = String::from_utf8(answer.response).unwrap();
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        assert!(response.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{response}");
        assert!(response.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{response}");
    }

    #[test]
    fn a_token_comes_with_the_request_and_nothing_else_does() {
        let with = |lines: &str| request(&format!("Sec-WebSocket-Protocol: mqtt\r\n{lines}"));
        let bearer = |lines: &str| answer(with(lines).as_bytes(), &doors(&[])).unwrap().bearer;
        assert_eq!(bearer(""), None);
        for line in ["Authorization: Bearer a.b.c\r\n", "authorization:BEARER   a.b.c \r\n"] {
            assert_eq!(bearer(line).as_deref(), Some(&b"a.b.c"[..]), "{line}");
        }
        for lines in [
            "Authorization: Basic dTpw\r\n",
            "Authorization: Bearer\r\n",
            "Authorization: Bearer \r\n",
            "Authorization: a.b.c\r\n",
            "Authorization:\r\n",
            "Authorization: Bearer a.b.c\r\nAuthorization: Bearer a.b.c\r\n",
            "Authorization: Bearer a.b.c\r\nAuthorization: Basic dTpw\r\n",
        ] {
            assert_eq!(refusal(&with(lines), &doors(&[])), Some((Refusal::Authorization, "401".into())), "{lines}");
        }
        let page = "Origin: https://evil.org\r\nAuthorization: Bearer a.b.c\r\n";
        assert_eq!(
            refusal(&with(page), &doors(&[])).map(|(_, status)| status),
            Some("403".into()),
            "the origin counts"
        );
    }

    #[test]
    fn every_beginning_asks_for_more_up_to_the_limit() {
        let request = request("Sec-WebSocket-Protocol: mqtt\r\n");
        for end in 0..request.len() {
            assert_eq!(answer(&request.as_bytes()[..end], &doors(&[])), None, "{end}");
        }
        let long = format!("GET /mqtt HTTP/1.1\r\nA: {}", "a".repeat(REQUEST_MAX));
        assert_eq!(answer(&long.as_bytes()[..REQUEST_MAX - 1], &doors(&[])), None);
        assert_eq!(refusal(&long[..REQUEST_MAX], &doors(&[])), Some((Refusal::TooLarge, "431".into())));
    }

    #[test]
    fn what_is_not_a_request_for_mqtt_is_told_what_is_wrong() {
        let mqtt = "Sec-WebSocket-Protocol: mqtt\r\n";
        let good = request(mqtt);
        let status = |request: &str| refusal(request, &doors(&[])).map(|(_, status)| status).unwrap_or_default();
        assert_eq!(status(&good), "");
        assert_eq!(status(&good.replace("/mqtt", "/mqtt?x=y")), "");
        assert_eq!(status(&good.replace("/mqtt", "/")), "404");
        assert_eq!(status(&good.replace("/mqtt", "/mqtt/")), "404");
        assert_eq!(status(&good.replace("GET", "POST")), "405");
        assert_eq!(status(&good.replace("HTTP/1.1", "HTTP/1.0")), "400");
        assert_eq!(status(&good.replace("Upgrade: websocket\r\n", "")), "426");
        assert_eq!(status(&good.replace(": 13", ": 8")), "426");
        assert_eq!(status(&good.replace("dGhl", "")), "400");
        assert_eq!(status(&good.replace("Host: server.example.com\r\n", "")), "400");
        assert_eq!(status(&request("")), "400");
        assert_eq!(status(&request("Sec-WebSocket-Protocol: chat, MQTTX\r\n")), "400");
        assert_eq!(status("\x10\x0c\0\x04MQTT\r\n\r\n"), "400");
        assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "400");
        assert_eq!(status("PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\nGET"), "400");
        assert_eq!(status(&request(&"A: b\r\n".repeat(70))), "431");
    }

    #[test]
    fn pages_are_let_in_only_from_origins_that_are_listed() {
        let with = |origin: &str| request(&format!("Sec-WebSocket-Protocol: mqtt\r\n{origin}"));
        let status = |origin: &str, origins: &[&str]| refusal(&with(origin), &doors(origins)).map(|(_, status)| status);
        let forbidden = Some("403".to_owned());
        let page = "Origin: https://app.example.com\r\n";
        assert_eq!(status("", &[]), None, "no browser");
        assert_eq!(status(page, &[]), forbidden);
        assert_eq!(status("Origin: http://server.example.com\r\n", &[]), forbidden, "not even from its own name");
        assert_eq!(status(page, &["https://app.example.com"]), None);
        assert_eq!(status(page, &["HTTPS://APP.example.com"]), None);
        assert_eq!(status(page, &["http://app.example.com"]), forbidden);
        assert_eq!(status(page, &["https://app.example.com:8443"]), forbidden);
        assert_eq!(status("Origin: https://app.example.com.evil.org\r\n", &["https://app.example.com"]), forbidden);
        assert_eq!(status("Origin: null\r\n", &["https://app.example.com"]), forbidden);
        assert_eq!(status("Origin: null\r\n", &["null"]), None);
        assert_eq!(status(page, &["*"]), None);
        let two = format!("{page}Origin: https://evil.org\r\n");
        assert_eq!(status(&two, &["https://app.example.com"]), forbidden);
    }
}
