//! Accepting connections, and what comes before MQTT on them.
//!
//! An accept loop accepts and does nothing else: what a client has to say first (a PROXY header, a TLS handshake, an HTTP
//! request, CONNECT) is waited for in a task of its own, for `connectTimeout` in all.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipnet::IpNet;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout_at;
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::counters::Gate;
use super::events::{self, Arrival};
use super::handshake::{self, NoConnection};
use super::limits::Limit;
use super::proxy::{self, ProxyError};
use super::stream::Stream;
use super::tls::Certificates;
use super::upgrade::{self, Doors};
use super::websocket::WebSocket;
use crate::config::broker::Listener;
use crate::config::files::Etc;
use crate::config::report;
use crate::process::Shutdown;

/// How long a client that was refused has to take its answer.
const LINGER: Duration = Duration::from_millis(500);

/// Bytes that the kernel takes for a client beyond those that are on their way to it.
const NOT_SENT: u32 = 128 * 1024;
/// Bytes that TLS costs a connection.
const TLS: usize = 40 * 1024;

/// The way in through one listener.
#[derive(Debug)]
pub struct Entrance {
    pub name: String,
    /// With TLS.
    pub certificates: Option<Certificates>,
    /// With WebSocket.
    doors: Option<Doors>,
    /// Networks whose connections begin with a PROXY header.
    proxies: Vec<IpNet>,
}

impl Entrance {
    /// That of a listener; certificates are not loaded yet.
    pub fn of(listener: &Listener, etc: &Etc) -> Self {
        let protocol = listener.protocol;
        Self {
            name: listener.name.clone(),
            certificates: protocol.is_tls().then(|| Certificates::of(listener, etc)),
            doors: protocol
                .is_websocket()
                .then(|| Doors { path: listener.path.clone(), origins: listener.allowed_origins.clone() }),
            proxies: listener.proxies.clone(),
        }
    }

    /// The bridge's own.
    pub fn internal() -> Self {
        Self { name: "bridge".into(), certificates: None, doors: None, proxies: Vec::new() }
    }

    /// Whether clients can be served: with TLS that takes a certificate.
    pub fn serves(&self) -> bool {
        self.certificates.as_ref().is_none_or(|certificates| certificates.current().is_some())
    }

    /// How it is.
    pub fn report(&self) -> report::Listener {
        let problem = self.certificates.as_ref().and_then(Certificates::problem);
        report::Listener { name: self.name.clone(), serves: self.serves(), problem }
    }

    /// Seconds until its certificate expires, at this time in milliseconds since 1970 UTC.
    pub fn certificate_expires_in(&self, now: u64) -> Option<i64> {
        let expires = self.certificates.as_ref()?.expires()?;
        Some(expires.as_second() - i64::try_from(now / 1000).ok()?)
    }

    fn is_behind(&self, proxy: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(&proxy))
    }
}

/// Accepts until shutdown, or, from clients, until the broker is drained.
pub async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    entrance: Arc<Entrance>,
    shutdown: Shutdown,
) {
    let within = Duration::from_secs(shared.limits.connect_timeout.into());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => return,
            () = shared.drain.wait(), if !gate.internal => return,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, usually: those who are connected are served on.
                tracing::warn!(%error, "cannot accept connections now");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let mut arrival = Arrival::now(address, gate.clone(), within);
        if !gate.internal {
            match shared.admission.enter() {
                Ok(pass) => arrival.pass = Some(pass),
                Err(limit) => {
                    events::turned_away(&shared, &arrival, limit);
                    continue;
                }
            }
        }
        // Writes are gathered here; waiting in the kernel for more would only add latency.
        let _ = socket.set_nodelay(true);
        // And what a client does not take stays here, where it is counted, instead of in the kernel.
        let _ = SockRef::from(&socket).set_tcp_notsent_lowat(NOT_SENT);
        let (shared, entrance) = (shared.clone(), entrance.clone());
        tokio::spawn(async move {
            // Boxed and gone when it is done: a task that lives for months is then not as large as its handshakes.
            if let Some((socket, arrival)) = Box::pin(enter(socket, arrival, &entrance, &shared)).await {
                connection(socket, arrival, &shared).await;
            }
        });
    }
}

/// Serves one client until its connection ends.
pub async fn connection<S>(socket: S, arrival: Arrival, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match Box::pin(handshake::accept(socket, shared, &arrival)).await {
        Ok(connection) => {
            shared.counters.connected.add(1);
            shared.counters.connections.fetch_add(1, Ordering::Relaxed);
            let Arrival { gate, .. } = arrival;
            let version = connection.peer.version as usize;
            gate.connects[version].add(1);
            gate.connections[version].fetch_add(1, Ordering::Relaxed);
            connection.run().await;
            gate.connections[version].fetch_sub(1, Ordering::Relaxed);
            shared.counters.connections.fetch_sub(1, Ordering::Relaxed);
        }
        Err(error) => events::not_connected(shared, &arrival, &error),
    }
}

/// Everything before the first byte of MQTT.
async fn enter(
    socket: TcpStream,
    mut arrival: Arrival,
    entrance: &Entrance,
    shared: &Shared,
) -> Option<(Stream, Arrival)> {
    let opening = timeout_at(arrival.deadline, open(socket, &mut arrival, entrance, shared)).await;
    match opening.unwrap_or(Err(NoConnection::TooSlow)) {
        Ok(stream) => Some((stream, arrival)),
        Err(error) => {
            events::not_connected(shared, &arrival, &error);
            None
        }
    }
}

async fn open(
    mut socket: TcpStream,
    arrival: &mut Arrival,
    entrance: &Entrance,
    shared: &Shared,
) -> Result<Stream, NoConnection> {
    if entrance.is_behind(arrival.address.ip())
        && let Some(client) = proxy_header(&mut socket).await?
    {
        arrival.address = SocketAddr::new(client.ip().to_canonical(), client.port());
    }
    if let Some(pass) = &mut arrival.pass {
        pass.identify(arrival.address.ip(), shared.now());
        if pass.is_hopeless() {
            return Err(NoConnection::Limited { client_id: String::new(), limit: Limit::MaxConnections });
        }
        if entrance.certificates.is_some() {
            pass.held.settle(TLS);
        }
    }
    let stream = match &entrance.certificates {
        None => Stream::Tcp(socket),
        Some(certificates) => {
            let Some(config) = certificates.current() else {
                return Err(NoConnection::NoCertificate { listener: entrance.name.clone() });
            };
            let stream = TlsAcceptor::from(config).accept(socket).await.map_err(tls_failure)?;
            arrival.certificate = stream.get_ref().1.peer_certificates().is_some();
            Stream::Tls(Box::new(stream))
        }
    };
    match &entrance.doors {
        None => Ok(stream),
        Some(doors) => {
            let (socket, bearer) = request(stream, doors).await?;
            arrival.bearer = bearer;
            Ok(Stream::WebSocket(Box::new(socket)))
        }
    }
}

/// A client that goes away during its handshake is as common as one that never says a word.
fn tls_failure(error: std::io::Error) -> NoConnection {
    let cause = error.get_ref();
    if cause.is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) {
        NoConnection::Tls(error)
    } else {
        NoConnection::Io(error)
    }
}

/// Reads the header, and not a byte more. Answers whose connection it is, if the header says so.
async fn proxy_header(socket: &mut TcpStream) -> Result<Option<SocketAddr>, NoConnection> {
    let mut bytes = vec![0; 512];
    let mut have = 0;
    loop {
        let peeked = socket.peek(&mut bytes[have..]).await?;
        if peeked == 0 {
            return Err(NoConnection::Closed);
        }
        let parsed = proxy::parse(&bytes[..have + peeked])?;
        // While the end is not in sight, all of it is the header's.
        let taken = parsed.map_or(have + peeked, |(_, length)| length);
        socket.read_exact(&mut bytes[have..taken]).await?;
        have = taken;
        if let Some((header, _)) = parsed {
            return Ok(header.source);
        }
        if have == bytes.len() {
            if have >= proxy::MAX {
                return Err(ProxyError::Length(have).into());
            }
            bytes.resize(proxy::MAX, 0);
        }
    }
}

/// Answers the HTTP request that a WebSocket begins with; gives the token in it, too.
async fn request(mut stream: Stream, doors: &Doors) -> Result<(WebSocket<Stream>, Option<Vec<u8>>), NoConnection> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let room = upgrade::REQUEST_MAX - bytes.len();
        if (&mut stream).take(room as u64).read_buf(&mut bytes).await? == 0 {
            return Err(NoConnection::Closed);
        }
        let Some(answer) = upgrade::answer(&bytes, doors) else { continue };
        stream.write_all(&answer.response).await?;
        stream.flush().await?;
        if let Some(refusal) = answer.refusal {
            stream.shutdown().await?;
            linger(&mut stream).await;
            return Err(refusal.into());
        }
        return Ok((WebSocket::after(stream, bytes.split_off(answer.used)), answer.bearer));
    }
}

/// Reads on for a moment: closing with bytes unread would reset the connection, and the client might never see the answer.
async fn linger(stream: &mut Stream) {
    let mut rest = tokio::io::sink();
    let reading = tokio::io::copy(stream, &mut rest);
    // A client that goes on is cut off: it had its answer.
    let _ = tokio::time::timeout(LINGER, reading).await;
}
