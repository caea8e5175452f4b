//! From the first byte to CONNACK.
//!
//! Limits come first, then authentication, then rules: a client that is not known yet costs at most
//! `maxConnectSize` bytes and `connectTimeout`.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::aliases;
use super::backpressure::Withheld;
use super::connection::{Connection, Peer};
use super::counters::Turn;
use super::durable;
use super::events::{self, Arrival, Who};
use super::frames::Failure;
use super::limits::Limit;
use super::linger;
use super::outbox::Outbox;
use super::proxy::ProxyError;
use super::publish::Publisher;
use super::reauthenticate::Authentication;
use super::registry::{About, Claim, NoSession};
use super::timers::Timers;
use super::upgrade;
use super::will::Will;
use super::{Shared, unix_millis};
use crate::auth::explain::{self, Request, Verb};
use crate::auth::{Grants, Identity, Lost, Presented, Principal, Refusal, Verdict, Why};
use crate::config::bridge::SESSION_EXPIRY;
use crate::config::broker::Limits;
use crate::mqtt::packet::{ConnAck, Connect, Packet};
use crate::mqtt::property::ConnAckProperties;
use crate::mqtt::{ReasonCode, Version, Violation, codec, topic};
use crate::store::Origin;
use crate::store::journal::{Position, Records};
use crate::store::memory::{self, Held, Level};

/// A CONNECT of which so much is there but not all is given up when memory is exhausted.
const CONNECT_EXHAUSTED: usize = 4096;
/// No CONNACK is larger: a text of 65,535 bytes, and what else it may say.
const ROOM_FOR_CONNACK: usize = 66 * 1024;
/// Bytes that are taken behind CONNECT before the client is let in.
const EARLY: usize = 16 * 1024;
/// Bytes of a CONNECT that its version is among.
const HEAD: usize = 14;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    #[error("no CONNECT in time (connectTimeout)")]
    TooSlow,
    #[error("the connection was closed before CONNECT was complete")]
    Closed,
    #[error(transparent)]
    Io(std::io::Error),
    #[error(transparent)]
    WebSocket(Failure),
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error("listener {listener:?} has no usable certificate")]
    NoCertificate { listener: String },
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Upgrade(#[from] upgrade::Refusal),
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("{client_id:?} was refused: {} is reached", limit.name())]
    Limited { client_id: String, limit: Limit },
    #[error("{client_id:?} was refused: {}", refusal.log)]
    Refused {
        client_id: String,
        /// What it tried, see [`Presented::kind`].
        method: &'static str,
        refusal: Refusal,
    },
}

impl From<std::io::Error> for NoConnection {
    fn from(error: std::io::Error) -> Self {
        match error.get_ref().and_then(|cause| cause.downcast_ref::<Failure>()) {
            Some(failure) => Self::WebSocket(*failure),
            None => Self::Io(error),
        }
    }
}

impl NoConnection {
    /// The statement that the client broke, if it broke one.
    pub fn violation(&self) -> Option<&'static str> {
        match self {
            Self::Violation(violation) => Some(violation.id()),
            Self::WebSocket(failure) => Some(failure.id()),
            Self::Upgrade(upgrade::Refusal::Subprotocol) => Some("MQTT-6.0.0-3"),
            Self::Proxy(_) => Some("PROXY"),
            _ => None,
        }
    }

    /// The limit that the client has met.
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Self::TooSlow => Some(Limit::ConnectTimeout),
            Self::Limited { limit, .. } => Some(*limit),
            Self::Violation(Violation::PacketTooLarge { .. }) => Some(Limit::MaxConnectSize),
            Self::Violation(violation) => Limit::of(violation),
            _ => None,
        }
    }

    /// Why, as one of a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooSlow => "too slow",
            Self::Closed => "closed",
            Self::Io(_) => "connection lost",
            Self::Tls(_) => "TLS",
            Self::NoCertificate { .. } => "no certificate",
            Self::Proxy(_) => "PROXY header",
            Self::Upgrade(_) => "WebSocket request",
            Self::WebSocket(_) => "WebSocket frame",
            Self::Violation(violation) => violation.reason().text(),
            Self::Limited { limit, .. } => limit.name(),
            Self::Refused { refusal, .. } => refusal.code.text(),
        }
    }
}

/// Reads CONNECT, finds out who it is, and answers.
pub async fn accept<S>(
    mut socket: S,
    shared: &Arc<Shared>,
    arrival: &Arrival,
) -> Result<Box<Connection<S>>, NoConnection>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (bytes, length) = tokio::time::timeout_at(arrival.deadline, read_connect(&mut socket, &shared.limits))
        .await
        .map_err(|_| NoConnection::TooSlow)??;
    let frame = &bytes[..length];
    let connect = match codec::decode_limited(frame, Version::V5, shared.limits.max_properties.into()) {
        Ok(Packet::Connect(connect)) => connect,
        Ok(_) => return Err(Violation::FirstPacketNotConnect { packet: "a packet" }.into()),
        Err(violation) => {
            refuse_violation(&mut socket, frame, &violation).await;
            return Err(violation.into());
        }
    };
    if let Err(limit) = within_limits(shared, &connect, arrival) {
        refuse(&mut socket, &connect, &limited(limit)).await;
        return Err(NoConnection::Limited { client_id: connect.client_id.to_owned(), limit });
    }
    let asked = Instant::now();
    // What the client sends at once behind CONNECT `[MQTT-3.1.4-5]`.
    let mut rest = bytes[length..].to_vec();
    let client_id: Arc<str> = match connect.client_id {
        "" => format!("auto-{}", ulid::Ulid::generate()).into(),
        id => id.into(),
    };
    let (identity, gone) = {
        let authenticating = pin!(authenticate(shared, &connect, &client_id, arrival));
        match select(authenticating, pin!(closed(&mut socket, &mut rest))).await {
            Either::Left((identity, _)) => (identity, false),
            // It counts as a try all the same.
            Either::Right(((), authenticating)) => (authenticating.await, true),
        }
    };
    shared.counters.observe_authentication(presented(&connect, &client_id, arrival).kind(), asked.elapsed());
    if gone && rest.is_empty() && identity.is_ok() {
        // It would take the session from a connection that the client may have made meanwhile.
        return Err(NoConnection::Closed);
    }
    let admitted = match identity {
        Ok(identity) => admit(shared, &connect, arrival, client_id, identity, asked).await,
        Err(refusal) => Err(refusal),
    };
    match admitted {
        Ok((peer, claim, will, written)) => {
            events::connected(shared, &peer, arrival, claim.stored.is_some());
            Ok(establish(socket, shared, &connect, (peer, claim, will, written), rest))
        }
        Err(refusal) => {
            refuse(&mut socket, &connect, &refusal).await;
            let method = presented(&connect, connect.client_id, arrival).kind();
            Err(NoConnection::Refused { client_id: connect.client_id.to_owned(), method, refusal })
        }
    }
}

/// Resolves when the client has closed the connection. What it sends before goes to `rest`, up to a limit: behind that
/// nothing is known of it.
async fn closed<S: AsyncRead + Unpin>(socket: &mut S, rest: &mut Vec<u8>) {
    while rest.len() < EARLY {
        if matches!(socket.read_buf(rest).await, Ok(0) | Err(_)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Reads until the first packet is whole; answers all that was read and the packet's length.
async fn read_connect<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    limits: &Limits,
) -> Result<(Vec<u8>, usize), NoConnection> {
    let mut bytes = Vec::with_capacity(512);
    let mut held = Held::default();
    loop {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(NoConnection::Closed);
        }
        // CONNECT or nothing: whatever else begins here is told apart from its first byte [MQTT-3.1.0-1].
        if bytes[0] != 0x10 {
            return Err(Violation::FirstPacketNotConnect { packet: "something else" }.into());
        }
        match codec::packet_length(&bytes, limits.max_connect_size) {
            Ok(Some(length)) if bytes.len() >= length => return Ok((bytes, length)),
            Ok(_) => {}
            // Its version, and so how to answer, is among the first bytes: they may still be to come.
            Err(Violation::PacketTooLarge { .. }) if bytes.len() < HEAD => {}
            Err(violation) => {
                refuse_violation(socket, &bytes, &violation).await;
                return Err(violation.into());
            }
        }
        held.settle(bytes.capacity());
        if bytes.len() > CONNECT_EXHAUSTED && memory::level() == Level::Exhausted {
            return Err(NoConnection::Limited { client_id: String::new(), limit: Limit::MaxMemory });
        }
    }
}

/// What a client is given that may connect; last the position at which its session is written down.
type Admitted = (Peer, Claim, Option<Will>, Option<Position>);

/// Decides whether the client may connect, and gives it its session.
async fn admit(
    shared: &Arc<Shared>,
    connect: &Connect<'_>,
    arrival: &Arrival,
    client_id: Arc<str>,
    identity: Identity,
    asked: Instant,
) -> Result<Admitted, Refusal> {
    let identity = Arc::new(identity);
    // While a password was checked the policy may have become another.
    let generation = shared.generation();
    let grants = shared.grants_now(&identity, &client_id).map_err(no_longer_known)?;
    let will = will(shared, connect, &identity, &grants, &client_id)?;
    let clean_start = connect.clean_start || identity.principal == Principal::Anonymous;
    let peer = Peer { generation, ..peer(shared, connect, client_id, identity, grants) };
    // What CONNACK has to say cannot be left out; a client that does not accept so much cannot be served.
    if peer.maximum_packet_size < ROOM_FOR_CONNACK
        && connack(shared, connect, &peer, false).len() > peer.maximum_packet_size
    {
        let log = "the client accepts no packet of the size of CONNACK";
        return Err(Refusal::new(ReasonCode::PACKET_TOO_LARGE, 3, log).because(Why::Limit));
    }
    let about = About {
        version: connect.version,
        address: arrival.address,
        gate: arrival.gate.clone(),
        since: unix_millis(),
        asked,
        expiry: peer.session_expiry,
        window: u16::try_from(peer.window).unwrap_or(u16::MAX),
    };
    if peer.session_expiry > 0
        && let Some(limit) = shared.unwritable().filter(|limit| *limit == Limit::StorageFailing)
    {
        events::limited(shared, limit, &peer.client_id, "session refused");
        let log = "the session cannot be written down: the disk fails";
        return Err(Refusal::new(ReasonCode::SERVER_UNAVAILABLE, 3, log).because(Why::Limit));
    }
    let claim = shared.claim(&peer.client_id, &peer.identity, clean_start, &about).await.map_err(no_session)?;
    let written = shared.journal.as_ref().filter(|_| claim.mailbox.durable).map(|journal| {
        let mut records = Records::default();
        durable::record(&mut records, &peer.client_id, claim.mailbox.session, &peer.identity, &about, will.as_ref());
        journal.append(&mut records)
    });
    Ok((peer, claim, will, written))
}

/// The limits that hold before anyone asks who the client is.
fn within_limits(shared: &Shared, connect: &Connect<'_>, arrival: &Arrival) -> Result<(), Limit> {
    let Some(pass) = &arrival.pass else { return Ok(()) };
    pass.refused().map_or(Ok(()), Err)?;
    shared.admission.connect(shared.now())?;
    if connect.client_id.len() > shared.limits.max_client_id_length.into() {
        return Err(Limit::MaxClientIdLength);
    }
    shared.room_for_session(connect.client_id)
}

fn limited(limit: Limit) -> Refusal {
    let return_code = if limit == Limit::MaxClientIdLength { 2 } else { 3 };
    let log = format!("{} is reached", limit.name());
    Refusal::new(limit.reason(), return_code, log).because(Why::Limit)
}

fn no_longer_known(lost: Lost) -> Refusal {
    let why = match lost {
        Lost::Key => Why::TokenKey,
        Lost::Token(_) => Why::TokenRevoked,
        Lost::User => Why::UnknownUser,
        Lost::Password => Why::WrongPassword,
        Lost::Anonymous | Lost::Bridge => Why::NoCredentials,
    };
    Refusal::new(ReasonCode::NOT_AUTHORIZED, 5, lost.to_string()).because(why)
}

fn no_session(reason: NoSession) -> Refusal {
    match reason {
        NoSession::Limited(limit) => limited(limit),
        NoSession::NotTheOwner => {
            let log = "the client id belongs to another principal";
            Refusal::new(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, 2, log).because(Why::ClientIdTaken)
        }
        NoSession::Outdated => {
            let log = "the client has connected again since it asked for this connection";
            Refusal::new(ReasonCode::SERVER_UNAVAILABLE, 3, log).because(Why::Busy)
        }
        NoSession::Closed => Refusal::new(ReasonCode::SERVER_UNAVAILABLE, 3, "the broker stops").because(Why::Busy),
    }
}

fn peer(shared: &Shared, connect: &Connect<'_>, client_id: Arc<str>, identity: Arc<Identity>, grants: Grants) -> Peer {
    let is_v5 = connect.version == Version::V5;
    let asked_expiry = match connect.version {
        Version::V5 => connect.properties.session_expiry.unwrap_or(0),
        _ if connect.clean_start => 0,
        _ => u32::MAX,
    };
    let longest = match identity.principal {
        Principal::Anonymous => 0,
        // What waits for it was acknowledged, and is not lost because it stays away for a week.
        Principal::Bridge => SESSION_EXPIRY,
        _ => shared.limits.session_expiry,
    };
    let session_expiry = asked_expiry.min(longest);
    let receive_maximum = connect.properties.receive_maximum.filter(|_| is_v5).unwrap_or(u16::MAX);
    // The bridge's window is its own business: it is the backpressure of telemetry.
    let most = if identity.principal == Principal::Bridge { u16::MAX } else { shared.limits.max_inflight };
    Peer {
        client_id,
        version: connect.version,
        identity,
        grants,
        generation: 0,
        problem_information: connect.properties.request_problem_information.unwrap_or(true),
        maximum_packet_size: connect.properties.maximum_packet_size.map_or(usize::MAX, |size| size as usize),
        window: receive_maximum.min(most).into(),
        may_prolong: asked_expiry > 0,
        session_expiry,
    }
}

/// What a CONNECT presents.
fn presented<'a>(connect: &Connect<'a>, client_id: &'a str, arrival: &'a Arrival) -> Presented<'a> {
    Presented {
        username: connect.username,
        password: connect.password,
        method: connect.properties.authentication_method,
        data: connect.properties.authentication_data,
        bearer: arrival.bearer.as_deref(),
        client_id,
        internal: arrival.gate.internal,
        certificate: arrival.certificate,
    }
}

async fn authenticate(
    shared: &Arc<Shared>,
    connect: &Connect<'_>,
    client_id: &str,
    arrival: &Arrival,
) -> Result<Identity, Refusal> {
    let presented = presented(connect, client_id, arrival);
    let decide = || {
        let policy = shared.policy.load_full();
        let verdict = policy.authenticate(&presented, unix_millis() / 1000);
        (policy, verdict)
    };
    let (mut policy, mut verdict) = decide();
    if let Verdict::UnknownKey { issuer, .. } = &verdict
        && shared.issuers.learn(issuer, shared.now()).await
    {
        (policy, verdict) = decide();
    }
    match verdict {
        Verdict::Accepted(identity) => Ok(identity),
        Verdict::Refused(refusal) | Verdict::UnknownKey { refusal, .. } => Err(refusal),
        Verdict::CheckPassword(check) => {
            let address = arrival.address.ip();
            shared.passwords.check(check, address, policy.guard(), || shared.now()).await
        }
    }
}

/// Checks the will at CONNECT; it is checked again when it is sent.
fn will(
    shared: &Shared,
    connect: &Connect<'_>,
    identity: &Arc<Identity>,
    grants: &Grants,
    client_id: &Arc<str>,
) -> Result<Option<Will>, Refusal> {
    let Some(asked) = &connect.will else { return Ok(None) };
    if let Err(violation) = topic::check_name(asked.topic) {
        let log = format!("will: {violation}");
        return Err(Refusal::new(ReasonCode::TOPIC_NAME_INVALID, 5, log).because(Why::Will));
    }
    if asked.retain && shared.limits.max_retained_messages == 0 {
        let log = "the will is to be retained, which is switched off (maxRetainedMessages)";
        return Err(Refusal::new(ReasonCode::RETAIN_NOT_SUPPORTED, 5, log).because(Why::Will));
    }
    let decision = grants.decide_publish(asked.topic, asked.qos, asked.retain);
    if decision.allowed {
        events::allowed(shared, Verb::Will, decision.layer);
    } else {
        let request = Request { verb: Verb::Will, topic: asked.topic, qos: asked.qos, retain: asked.retain };
        let reason = || explain::reason(&shared.policy.load(), identity, client_id, request);
        events::denied(shared, &Who::of(client_id, identity), &request, decision.layer, reason);
        // Names of the broker's own are not acceptable from anyone.
        let code =
            if asked.topic.starts_with('$') { ReasonCode::TOPIC_NAME_INVALID } else { ReasonCode::NOT_AUTHORIZED };
        let log = format!("may not publish its will to {:?}", asked.topic);
        return Err(Refusal::new(code, 5, log).because(Why::Will));
    }
    let origin = Origin { id: ulid::Ulid::generate().0, client_id: client_id.clone() };
    Ok(Some(Will::new(asked, connect.version, identity, origin)))
}

/// Builds the connection, its CONNACK already in the outbox.
fn establish<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    shared: &Arc<Shared>,
    connect: &Connect<'_>,
    (peer, claim, will, written): Admitted,
    rest: Vec<u8>,
) -> Box<Connection<S>> {
    let now = shared.now();
    let session_present = claim.stored.is_some();
    let granted = claim.granted;
    let keep_alive = capped_keep_alive(connect.keep_alive, shared.limits.max_keep_alive);
    let timers = Timers {
        keep_alive: u64::from(keep_alive) * 1500,
        last_seen: now,
        token_expires: peer.identity.expires_at.map(|at| now + (at * 1000).saturating_sub(unix_millis())),
        ..Timers::default()
    };
    let aliases = connect.properties.topic_alias_maximum.unwrap_or(0).min(shared.limits.max_topic_aliases);
    let mut connection = Box::new(Connection {
        socket,
        shared: shared.clone(),
        mailbox: claim.mailbox,
        peer,
        session: claim.stored.unwrap_or_default(),
        will,
        partial: rest,
        outbox: Outbox::default(),
        replay: claim.replay,
        authentication: connect.properties.authentication_method.map(|method| Box::new(Authentication::new(method))),
        resend: VecDeque::new(),
        aliases: aliases::Outbound::new(aliases),
        publisher: Publisher::default(),
        effects: None,
        hold: None,
        withheld: Withheld::default(),
        written_to: 0,
        timers,
        turn: Turn::default(),
        held: Held::default(),
        asleep: false,
        successors: Vec::new(),
    });
    let connack = connack(shared, connect, &connection.peer, session_present);
    match written {
        Some(position) => connection.withheld = Withheld::connack(connack, position),
        None => connection.outbox.write(|out| out.extend_from_slice(&connack)),
    }
    connection.replay.resume();
    connection.resume(granted.as_ref());
    connection
}

/// The keep alive in seconds; 0 is none, asked for or as a cap.
fn capped_keep_alive(asked: u16, cap: u16) -> u16 {
    match (asked, cap) {
        (asked, 0) => asked,
        (0, cap) => cap,
        (asked, cap) => asked.min(cap),
    }
}

/// The CONNACK of a client that is accepted.
fn connack(shared: &Shared, connect: &Connect<'_>, peer: &Peer, session_present: bool) -> Vec<u8> {
    let limits = &shared.limits;
    let keep_alive = capped_keep_alive(connect.keep_alive, limits.max_keep_alive);
    let asked_expiry = connect.properties.session_expiry.unwrap_or(0);
    let properties = ConnAckProperties {
        session_expiry: (asked_expiry != peer.session_expiry).then_some(peer.session_expiry),
        retain_available: (limits.max_retained_messages == 0).then_some(false),
        receive_maximum: Some(limits.receive_maximum).filter(|maximum| *maximum < u16::MAX),
        maximum_packet_size: Some(limits.max_packet_size),
        topic_alias_maximum: Some(limits.max_topic_aliases).filter(|maximum| *maximum > 0),
        server_keep_alive: (keep_alive != connect.keep_alive).then_some(keep_alive),
        assigned_client_id: connect.client_id.is_empty().then_some(&*peer.client_id),
        authentication_method: connect.properties.authentication_method,
        ..ConnAckProperties::default()
    };
    let ack = ConnAck { session_present, code: ReasonCode::SUCCESS, properties };
    let mut bytes = Vec::new();
    codec::encode(&Packet::ConnAck(Box::new(ack)), peer.version, &mut bytes);
    bytes
}

/// Says no, in words only if the client accepts a packet of that size [MQTT-3.2.2-19].
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S, connect: &Connect<'_>, refusal: &Refusal) {
    let bytes = if connect.version == Version::V5 {
        let accepted = connect.properties.maximum_packet_size.map_or(usize::MAX, |size| size as usize);
        codec::encode_with_words(refusal.public.as_deref(), accepted, |reason_string| {
            let properties = ConnAckProperties { reason_string, ..ConnAckProperties::default() };
            Packet::ConnAck(Box::new(ConnAck { session_present: false, code: refusal.code, properties }))
        })
    } else {
        // CONNACK of 3.x: no flags, the return code.
        vec![0x20, 2, 0, refusal.return_code]
    };
    say_and_close(socket, &bytes).await;
}

/// A CONNECT that can be understood that far is answered `[MQTT-3.1.4-1, 3.1.2-2]`.
async fn refuse_violation<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S, frame: &[u8], violation: &Violation) {
    let mut out = Vec::new();
    match (violation, codec::connect_version(frame)) {
        (Violation::UnsupportedVersion { .. }, _) => out.extend_from_slice(&[0x20, 2, 0, 1]),
        (Violation::EmptyClientId, _) => out.extend_from_slice(&[0x20, 2, 0, 2]),
        (_, Some(Version::V5)) => {
            let why = violation.to_string();
            let properties = ConnAckProperties { reason_string: Some(&why), ..ConnAckProperties::default() };
            let ack = ConnAck { session_present: false, code: violation.reason(), properties };
            codec::encode(&Packet::ConnAck(Box::new(ack)), Version::V5, &mut out);
        }
        _ => {}
    }
    say_and_close(socket, &out).await;
}

/// A peer that does not listen to its refusal is no reason to wait.
async fn say_and_close<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S, bytes: &[u8]) {
    if matches!(tokio::time::timeout(Duration::from_secs(1), socket.write_all(bytes)).await, Ok(Ok(()))) {
        linger::close(socket).await;
    }
}
