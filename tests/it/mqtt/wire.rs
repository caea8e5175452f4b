//! A socket that speaks literal bytes.
//!
//! Tests are plain functions: the broker runs on the threads of [`runtime`], the socket blocks, and a failure points at
//! the line of the test. Packets are written with [`packet!`]: a number is a byte, `&str` is text with its length,
//! `[u8; N]` and `b"…"` are bytes as they stand, [`Data`] is binary data with its length, [`Be16`], [`Be32`] and
//! [`Var`] are integers; [`props!`] is a block of properties with its length.
//!
//! ```ignore
//! let broker = broker();
//! each_version(|version| {
//!     let mut wire = Wire::connect(&broker, version, "c");
//!     wire.send(&packet![0x82; Be16(7), no_props(version), "t/a", 1]);
//!     wire.expect(&packet![0x90; Be16(7), no_props(version), 1]);
//!     wire.expect_nothing();
//!     wire.send(&[0xF0, 0]);
//!     wire.expect_refusal(0x82);
//! });
//! ```

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

use mqtt_operator::config::broker::Broker as Config;
pub use mqtt_operator::mqtt::Version;

use crate::support::{Broker, PASSWORD, open};

/// How long anything may take that must happen.
pub const DEADLINE: Duration = Duration::from_secs(10);

pub const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
/// The versions without properties.
pub const VERSIONS_3: [Version; 2] = [Version::V31, Version::V311];

/// What the brokers of these tests run on.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
    })
}

/// A broker whose users `u0` to `u9` and whose anonymous clients may do everything below `t/`.
pub fn broker() -> Broker {
    broker_with(|_| {})
}

/// [`broker`] after `change` has had its way with the configuration.
pub fn broker_with(change: impl FnOnce(&mut Config)) -> Broker {
    let _entered = runtime().enter();
    Broker::with_quick_passwords(|config| {
        open(config);
        change(config);
    })
}

/// Runs a test once for each version, and says which one failed.
pub fn each_version(test: impl FnMut(Version)) {
    each_of(&VERSIONS, test);
}

/// [`each_version`] for some of them.
pub fn each_of(versions: &[Version], mut test: impl FnMut(Version)) {
    for &version in versions {
        let running = Running(version);
        test(version);
        drop(running);
    }
}

/// Names the version when its test panics.
struct Running(Version);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the version was {:?}", self.0);
        }
    }
}

/// A piece of a packet.
pub trait Part {
    fn put(&self, out: &mut Vec<u8>);
}

impl Part for u8 {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
}

/// UTF-8 text with its length in two bytes.
impl Part for &str {
    fn put(&self, out: &mut Vec<u8>) {
        Data(self.as_bytes()).put(out);
    }
}

impl<const N: usize> Part for [u8; N] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl<const N: usize> Part for &[u8; N] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self[..]);
    }
}

impl Part for &[u8] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl Part for Vec<u8> {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl Part for &Vec<u8> {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

/// Binary data, or text that is not UTF-8: a length of two bytes and the bytes.
pub struct Data<'a>(pub &'a [u8]);

impl Part for Data<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&u16::try_from(self.0.len()).expect("at most 65,535 bytes").to_be_bytes());
        out.extend_from_slice(self.0);
    }
}

/// A two byte integer.
pub struct Be16(pub u16);

impl Part for Be16 {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }
}

/// A four byte integer.
pub struct Be32(pub u32);

impl Part for Be32 {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }
}

/// A variable byte integer of the shortest form.
pub struct Var(pub usize);

impl Part for Var {
    fn put(&self, out: &mut Vec<u8>) {
        let mut rest = self.0;
        while rest > 0x7F {
            out.push((rest % 0x80) as u8 | 0x80);
            rest /= 0x80;
        }
        out.push(rest as u8);
    }
}

/// The parts one after the other, without a length.
macro_rules! bytes {
    ($($part:expr),* $(,)?) => {{
        #[allow(unused_mut)]
        let mut out: Vec<u8> = Vec::new();
        $($crate::mqtt::wire::Part::put(&$part, &mut out);)*
        out
    }};
}

/// A packet: its first byte, the remaining length, the parts.
macro_rules! packet {
    ($first:expr $(; $($part:expr),* $(,)?)?) => {
        $crate::mqtt::wire::framed($first, &$crate::mqtt::wire::bytes![$($($part),*)?])
    };
}

/// A block of properties: its length and the parts.
macro_rules! props {
    ($($part:expr),* $(,)?) => {
        $crate::mqtt::wire::block(&$crate::mqtt::wire::bytes![$($part),*])
    };
}

pub(crate) use {bytes, packet, props};

pub fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    bytes![first, Var(body.len()), body]
}

pub fn block(properties: &[u8]) -> Vec<u8> {
    bytes![Var(properties.len()), properties]
}

/// `block` in 5.0; nothing in 3.x.
pub fn only_5(version: Version, block: Vec<u8>) -> Vec<u8> {
    if version == Version::V5 { block } else { Vec::new() }
}

/// The empty block of properties in 5.0; nothing in 3.x.
pub fn no_props(version: Version) -> Vec<u8> {
    only_5(version, vec![0])
}

/// A SUBSCRIBE with one filter.
pub fn subscribe(version: Version, id: u16, filter: &str, options: u8) -> Vec<u8> {
    packet![0x82; Be16(id), no_props(version), filter, options]
}

/// A PUBLISH without properties; `id` is left out at QoS 0.
pub fn publish(version: Version, first: u8, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let id = if first & 0x06 == 0 { vec![] } else { bytes![Be16(id)] };
    packet![first; topic, id, no_props(version), payload]
}

/// Protocol name and level.
pub fn protocol(version: Version) -> Vec<u8> {
    match version {
        Version::V31 => bytes!["MQIsdp", 3],
        Version::V311 => bytes!["MQTT", 4],
        Version::V5 => bytes!["MQTT", 5],
    }
}

/// A CONNECT in the making. Fields are written as they are, right or wrong.
#[derive(Clone)]
pub struct Connect {
    pub version: Version,
    pub clean: bool,
    pub keep_alive: u16,
    /// The content of the block of properties; 5.0 only.
    pub properties: Vec<u8>,
    pub client_id: String,
    pub will: Option<Will>,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
}

#[derive(Clone)]
pub struct Will {
    pub qos: u8,
    pub retain: bool,
    /// The content of the block of properties; 5.0 only.
    pub properties: Vec<u8>,
    pub topic: String,
    pub payload: Vec<u8>,
}

impl Connect {
    /// An anonymous client with a clean start and no keep alive.
    pub fn new(version: Version, client_id: &str) -> Self {
        Self {
            version,
            clean: true,
            keep_alive: 0,
            properties: vec![],
            client_id: client_id.into(),
            will: None,
            username: None,
            password: None,
        }
    }

    /// User `u<n>` with a session that is kept, without a clean start. The client id is the user's name.
    pub fn kept(version: Version, n: usize) -> Self {
        let properties = only_5(version, bytes![0x11, Be32(600)]);
        Self { clean: false, properties, ..Self::new(version, &format!("u{n}")) }.user(n)
    }

    /// As user `u<n>`.
    pub fn user(self, n: usize) -> Self {
        Self { username: Some(format!("u{n}")), password: Some(PASSWORD.into()), ..self }
    }

    /// With these properties in 5.0, after those it has.
    pub fn with(mut self, properties: &[u8]) -> Self {
        if self.version == Version::V5 {
            self.properties.extend_from_slice(properties);
        }
        self
    }

    /// With a will without properties.
    pub fn will(self, qos: u8, retain: bool, topic: &str, payload: &[u8]) -> Self {
        let will = Will { qos, retain, properties: vec![], topic: topic.into(), payload: payload.into() };
        Self { will: Some(will), ..self }
    }

    pub fn flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5);
        u8::from(self.username.is_some()) << 7
            | u8::from(self.password.is_some()) << 6
            | u8::from(self.clean) << 1
            | will
    }

    pub fn bytes(&self) -> Vec<u8> {
        let v5 = |properties: &[u8]| only_5(self.version, block(properties));
        let will = self
            .will
            .as_ref()
            .map_or(vec![], |will| bytes![v5(&will.properties), will.topic.as_str(), Data(&will.payload)]);
        let username = self.username.as_ref().map_or(vec![], |name| bytes![name.as_str()]);
        let password = self.password.as_ref().map_or(vec![], |password| bytes![Data(password)]);
        packet![0x10; protocol(self.version), self.flags(), Be16(self.keep_alive), v5(&self.properties),
            self.client_id.as_str(), will, username, password]
    }
}

/// A CONNACK, read without the project's codec.
#[derive(Debug)]
pub struct ConnAck {
    pub session_present: bool,
    pub code: u8,
    pub properties: Properties,
}

/// Properties by identifier, each with the bytes of its value; text without its length.
#[derive(Debug, Default)]
pub struct Properties(pub Vec<(u8, Vec<u8>)>);

impl Properties {
    /// Reads a block and what its length counts; fails on what the specification does not know.
    #[track_caller]
    pub fn parse(bytes: &[u8]) -> Self {
        let (length, mut rest) = take_var(bytes);
        assert_eq!(length, rest.len(), "the block ends where the packet ends: {}", hex(bytes));
        let mut found = vec![];
        while let Some((&id, after)) = rest.split_first() {
            let (value, after) = take_value(id, after);
            found.push((id, value));
            rest = after;
        }
        Self(found)
    }

    #[track_caller]
    pub fn get(&self, id: u8) -> Option<&[u8]> {
        let mut values = self.0.iter().filter(|(found, _)| *found == id).map(|(_, value)| &value[..]);
        let value = values.next();
        assert!(values.next().is_none(), "property {id:#04x} more than once: {self:?}");
        value
    }

    /// An integer of one, two or four bytes.
    #[track_caller]
    pub fn number(&self, id: u8) -> Option<u32> {
        self.get(id).map(|value| value.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    #[track_caller]
    pub fn text(&self, id: u8) -> Option<&str> {
        self.get(id).map(|value| std::str::from_utf8(value).expect("UTF-8"))
    }
}

#[track_caller]
fn take_var(bytes: &[u8]) -> (usize, &[u8]) {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return (value, &bytes[at + 1..]);
        }
    }
    panic!("no variable byte integer: {}", hex(bytes));
}

#[track_caller]
fn take_value(id: u8, rest: &[u8]) -> (Vec<u8>, &[u8]) {
    let data = |rest: &[u8]| 2 + usize::from(u16::from_be_bytes([rest[0], rest[1]]));
    let (skip, length) = match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => (0, 1),
        0x13 | 0x21 | 0x22 | 0x23 => (0, 2),
        0x02 | 0x11 | 0x18 | 0x27 => (0, 4),
        0x0B => (0, rest.len() - take_var(rest).1.len()),
        0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => (2, data(rest)),
        0x26 => {
            let name = data(rest);
            (0, name + data(&rest[name..]))
        }
        _ => panic!("no such property: {id:#04x}"),
    };
    (rest[skip..length].to_vec(), &rest[length..])
}

pub fn hex(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(200).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X} ");
        text
    });
    format!("{shown}({} bytes, {:?})", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(200)]))
}

/// A packet as it came, cut out by its remaining length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub first: u8,
    pub body: Vec<u8>,
}

/// A client that is only a socket.
pub struct Wire {
    pub version: Version,
    socket: TcpStream,
    /// What arrived and was not expected yet.
    unread: VecDeque<u8>,
}

impl Wire {
    /// A socket on which nothing was said. `version` is what it is going to speak.
    #[track_caller]
    pub fn open(broker: &Broker, version: Version) -> Self {
        let socket = TcpStream::connect(broker.address()).expect("the broker listens");
        socket.set_nodelay(true).expect("TCP");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self { version, socket, unread: VecDeque::new() }
    }

    /// An anonymous client with a clean start, accepted.
    #[track_caller]
    pub fn connect(broker: &Broker, version: Version, client_id: &str) -> Self {
        Self::accepted(broker, &Connect::new(version, client_id)).0
    }

    /// Connects and must be accepted.
    #[track_caller]
    pub fn accepted(broker: &Broker, connect: &Connect) -> (Self, ConnAck) {
        let mut wire = Self::open(broker, connect.version);
        wire.send(&connect.bytes());
        let ack = wire.expect_connack();
        assert_eq!(ack.code, 0, "refused: {ack:?}");
        (wire, ack)
    }

    /// Writes. A broker that has hung up already is found out by what is expected next.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    /// Sends a PUBLISH or SUBSCRIBE or whatever, and expects exactly this answer.
    #[track_caller]
    pub fn ask(&mut self, question: &[u8], answer: &[u8]) {
        self.send(question);
        self.expect(answer);
    }

    /// Subscribes, and expects to be granted `qos`.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, qos: u8) {
        let granted = packet![0x90; Be16(1), no_props(self.version), qos];
        self.ask(&subscribe(self.version, 1, filter, qos), &granted);
    }

    /// The next bytes are these.
    #[track_caller]
    pub fn expect(&mut self, wanted: &[u8]) {
        while self.unread.len() < wanted.len() {
            if let Err(end) = self.fill() {
                panic!("{end} instead of {}\n      after {}", hex(wanted), hex(self.unread.make_contiguous()));
            }
        }
        let found: Vec<u8> = self.unread.iter().take(wanted.len()).copied().collect();
        assert!(found == wanted, "expected {}\n   found {}", hex(wanted), hex(self.unread.make_contiguous()));
        self.unread.drain(..wanted.len());
    }

    /// The next packet, whatever it is.
    #[track_caller]
    pub fn expect_packet(&mut self) -> Frame {
        let next = self.next_packet();
        next.unwrap_or_else(|| panic!("closed instead of a packet, after {}", hex(self.unread.make_contiguous())))
    }

    /// The next packet, or none when the broker closes before it is whole.
    #[track_caller]
    pub fn next_packet(&mut self) -> Option<Frame> {
        loop {
            let bytes = self.unread.make_contiguous();
            if let Some(at) = bytes.iter().skip(1).position(|byte| byte & 0x80 == 0) {
                let (length, _) = take_var(&bytes[1..]);
                let whole = at + 2 + length;
                if bytes.len() >= whole {
                    let frame = Frame { first: bytes[0], body: bytes[at + 2..whole].to_vec() };
                    self.unread.drain(..whole);
                    return Some(frame);
                }
            }
            self.fill().ok()?;
        }
    }

    #[track_caller]
    pub fn expect_connack(&mut self) -> ConnAck {
        let Frame { first, body } = self.expect_packet();
        assert_eq!(first, 0x20, "CONNACK, not {first:#04x} {}", hex(&body));
        assert!(body.len() >= 2 && body[0] & 0xFE == 0, "reserved flags of CONNACK: {}", hex(&body));
        let properties = if self.version == Version::V5 {
            Properties::parse(&body[2..])
        } else {
            assert_eq!(body.len(), 2, "CONNACK of 3.x has two bytes");
            Properties::default()
        };
        ConnAck { session_present: body[0] == 1, code: body[1], properties }
    }

    /// The broker closes the connection, and has said nothing more.
    #[track_caller]
    pub fn expect_close(&mut self) {
        while self.fill().is_ok() {}
        assert!(self.unread.is_empty(), "closed, but not without {}", hex(self.unread.make_contiguous()));
    }

    /// The broker closes, and everything that was sent was taken: the end is not a reset.
    #[track_caller]
    pub fn expect_orderly_close(&mut self) {
        let end = self.socket.read(&mut [0]);
        assert!(self.unread.is_empty() && matches!(end, Ok(0)), "{end:?}, {}", hex(self.unread.make_contiguous()));
    }

    /// Reads on; whether the broker has closed by now.
    pub fn at_end(&mut self) -> bool {
        self.fill().is_err()
    }

    /// Whether the broker has closed, after a moment in which it might; what it said is forgotten.
    #[track_caller]
    pub fn has_ended(&mut self) -> bool {
        self.socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let end = self.socket.read(&mut [0; 4096]);
        self.socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        match end {
            Ok(count) => count == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// 5.0: the broker sends DISCONNECT with this reason code and closes. 3.x: it closes and says nothing.
    #[track_caller]
    pub fn expect_refusal(&mut self, reason: u8) {
        if self.version == Version::V5 {
            self.expect_disconnect(reason);
        }
        self.expect_close();
    }

    /// A DISCONNECT of 5.0 with this reason code; answers its properties.
    #[track_caller]
    pub fn expect_disconnect(&mut self, reason: u8) -> Properties {
        let Frame { first, body } = self.expect_packet();
        assert_eq!(first, 0xE0, "DISCONNECT, not {first:#04x} {}", hex(&body));
        let code = body.first().copied().unwrap_or(0);
        assert_eq!(code, reason, "DISCONNECT with {code:#04x} instead of {reason:#04x}");
        let properties = if body.len() > 1 { Properties::parse(&body[1..]) } else { Properties::default() };
        assert_eq!(properties.get(0x11), None, "a session expiry is for clients to say");
        properties
    }

    /// CONNECT is refused with this code (`code_3` in 3.x) and the connection closed; answers the CONNACK.
    #[track_caller]
    pub fn expect_connect_refused(&mut self, code_5: u8, code_3: u8) -> ConnAck {
        let ack = self.expect_connack();
        assert_eq!(ack.code, if self.version == Version::V5 { code_5 } else { code_3 }, "{ack:?}");
        assert!(!ack.session_present, "a refusal with session present");
        self.expect_close();
        ack
    }

    /// CONNECT breaks a rule. 5.0: CONNACK with this code. 3.x: not a word. Both: closed.
    #[track_caller]
    pub fn expect_bad_connect(&mut self, code: u8) {
        if self.version == Version::V5 {
            let ack = self.expect_connack();
            assert_eq!(ack.code, code, "{ack:?}");
            assert!(!ack.session_present, "a refusal with session present");
        }
        self.expect_close();
    }

    /// Nothing has arrived: the answer to a PINGREQ is the next thing that the broker says. All that it did for this
    /// client before, it did before the PINGRESP.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        self.ask(&[0xC0, 0], &[0xD0, 0]);
    }

    /// Says DISCONNECT, and waits until the broker has closed.
    #[track_caller]
    pub fn disconnect(mut self) {
        self.send(&[0xE0, 0]);
        self.expect_close();
    }

    /// Ends the sending side only.
    pub fn close_sending(&mut self) {
        self.socket.shutdown(std::net::Shutdown::Write).expect("an open socket");
    }

    /// Hangs up without DISCONNECT.
    pub fn hang_up(self) {
        drop(self);
    }

    /// Reads some more; the error says how the connection ended.
    fn fill(&mut self) -> Result<(), &'static str> {
        let mut buffer = [0; 4096];
        match self.socket.read(&mut buffer) {
            Ok(0) => Err("closed"),
            Ok(count) => {
                self.unread.extend(&buffer[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Err("closed"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing more within {DEADLINE:?}, after {}", hex(self.unread.make_contiguous()))
            }
            Err(error) => panic!("read: {error}"),
        }
    }
}
