//! Fetching a JWK Set over HTTP.
//!
//! A URL in an object must not make the broker a way into the cluster: the address is checked that is connected to, no
//! redirect is followed, no proxy is asked, and nothing of the answer but keys is ever told to anybody.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::{Request, StatusCode, Uri, client, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem};
use rustls::{ClientConfig, RootCertStore, crypto};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a fetch may take in all.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a JWK Set.
const BODY_MAX: usize = 256 * 1024;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0:?} is no http or https URL")]
    Url(String),
    #[error("no address for {host}")]
    Resolve { host: String, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("{host} is at {address}, which is not public; allowPrivate: true permits that")]
    Private { host: String, address: IpAddr },
    #[error("{host} is at {address}, which is public: keys from there need https")]
    Plain { host: String, address: IpAddr },
    #[error("{0} cannot be reached")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("the certificate authorities in {} cannot be read", .0.display())]
    Authorities(PathBuf, #[source] io::Error),
    #[error("the certificate authorities cannot be used")]
    Pem(#[from] pem::Error),
    #[error("there are no certificate authorities to verify {host} with")]
    NoAuthority { host: String },
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
    #[error("{host} can have no certificate")]
    Name { host: String, source: InvalidDnsNameError },
    #[error("TLS with {host}")]
    Tls { host: String, source: io::Error },
    #[error("the request failed")]
    Http(#[from] hyper::Error),
    #[error("the answer is {0}; redirects are not followed")]
    Status(StatusCode),
    #[error("the answer is longer than {BODY_MAX} bytes")]
    TooLong,
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Fetches a JWK Set. Servers are verified with these authorities, PEM, or with those that the system knows.
pub async fn fetch(url: &str, allow_private: bool, authorities: Option<Vec<u8>>) -> Result<Vec<u8>, FetchError> {
    tokio::time::timeout(TIMEOUT, get(url, allow_private, authorities)).await.map_err(|_| FetchError::Timeout)?
}

async fn get(url: &str, allow_private: bool, authorities: Option<Vec<u8>>) -> Result<Vec<u8>, FetchError> {
    let wrong = || FetchError::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let (https, usual) = match uri.scheme_str() {
        Some("https") => (true, 443),
        Some("http") if allow_private => (false, 80),
        _ => return Err(wrong()),
    };
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let addresses = resolve(&host, uri.port_u16().unwrap_or(usual), https, allow_private).await?;
    let stream = connect(&addresses).await?;
    let path = uri.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str);
    let request = Request::get(path)
        .header(header::HOST, authority.as_str())
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::USER_AGENT, concat!("mqtt-broker/", env!("CARGO_PKG_VERSION")))
        .body(String::new())
        .map_err(|_| wrong())?;
    if !https {
        return exchange(stream, request).await;
    }
    let server = ServerName::try_from(host.clone());
    let server = server.map_err(|source| FetchError::Name { host: host.clone(), source })?;
    let config = tls(&host, authorities)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(server, stream).await;
    exchange(stream.map_err(|source| FetchError::Tls { host, source })?, request).await
}

/// The addresses of a host that may be connected to.
async fn resolve(host: &str, port: u16, https: bool, allow_private: bool) -> Result<Vec<SocketAddr>, FetchError> {
    let resolved = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => tokio::net::lookup_host((host, port))
            .await
            .map_err(|source| FetchError::Resolve { host: host.to_owned(), source })?
            .collect(),
    };
    let Some(first) = resolved.first().map(SocketAddr::ip) else {
        return Err(FetchError::NoAddress { host: host.to_owned() });
    };
    let may = |address: &SocketAddr| if is_public(address.ip()) { https } else { allow_private };
    let allowed: Vec<SocketAddr> = resolved.into_iter().filter(may).collect();
    match allowed.is_empty() {
        false => Ok(allowed),
        true if is_public(first) => Err(FetchError::Plain { host: host.to_owned(), address: first }),
        true => Err(FetchError::Private { host: host.to_owned(), address: first }),
    }
}

/// Whether an address is one of the whole internet, and not of this machine, this network or this cluster.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        // This network, carriers, protocol assignments, relays, benchmarks, and what is reserved for no use yet.
        (0 | 240..=255, _, _) | (100, 64..=127, _) | (192, 0, 0) | (192, 88, 99) | (198, 18 | 19, _)
    );
    !(special
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let within = |high: u16, low: u16| is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match segments {
        // An address of the other family, translated or tunnelled.
        [0x64, 0xFF9B, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => within(high, low),
        // Documentation; protocol assignments, Teredo among them.
        [0x2001, 0x0DB8 | 0..=0x01FF, ..] => false,
        // What is assigned to be routed everywhere.
        [first, ..] => first & 0xE000 == 0x2000,
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, FetchError> {
    let mut failed = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = Some(FetchError::Connect(*address, error)),
        }
    }
    Err(failed.expect("there is at least one address"))
}

fn tls(host: &str, authorities: Option<Vec<u8>>) -> Result<ClientConfig, FetchError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.add(certificate?)?;
            }
        }
        // A certificate of the system's that cannot be read is not missed where another one fits.
        None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    if roots.is_empty() {
        return Err(FetchError::NoAuthority { host: host.to_owned() });
    }
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// One request, and its whole answer.
async fn exchange<S>(stream: S, request: Request<String>) -> Result<Vec<u8>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        match answer.status() {
            StatusCode::OK => body(answer.into_body()).await,
            status => Err(FetchError::Status(status)),
        }
    };
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    let mut open = true;
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            // What it has read is still to be taken.
            _ = &mut connection, if open => open = false,
        }
    }
}

async fn body(mut body: Incoming) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes.len() + data.len() > BODY_MAX {
            return Err(FetchError::TooLong);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "127.0.0.1 127.255.255.255 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 \
        169.254.169.254 100.64.0.1 100.127.255.255 192.0.0.1 192.0.2.1 198.18.0.1 198.19.255.255 198.51.100.1 \
        203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 \
        ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1:: 2002:0a00:1::1 fc00::1 \
        fd00:ec2::254 fe80::1 fec0::1 ff02::1 2001:db8::1 2001::1 100::1 4000::1";
    const PUBLIC: &str = "1.1.1.1 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.169.0.1 \
        169.253.0.1 223.255.255.255 2606:4700:4700::1111 2a00:1450::1 ::ffff:1.1.1.1 64:ff9b::101:101 2002:101:101::1";

    #[test]
    fn addresses_of_this_machine_and_of_this_network_are_not_public() {
        for (addresses, public) in [(LOCAL, false), (PUBLIC, true)] {
            for address in addresses.split_whitespace() {
                assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
            }
        }
    }

    #[tokio::test]
    async fn what_may_not_be_connected_to_is_refused_before_it_is() {
        let refused =
            async |url: &str, allow_private: bool| fetch(url, allow_private, None).await.unwrap_err().to_string();
        for url in
            ["ftp://example.com/", "file:///etc/passwd", "example.com", "", "https://u:p@example.com/", "https://"]
        {
            assert!(refused(url, true).await.contains("is no http or https URL"), "{url}");
        }
        assert!(refused("http://1.1.1.1/", false).await.contains("is no http or https URL"));
        assert!(refused("http://1.1.1.1/", true).await.contains("need https"));
        for url in
            ["https://127.0.0.1/", "https://[::1]:6443/", "https://169.254.169.254/", "https://[::ffff:10.0.0.1]/"]
        {
            assert!(refused(url, false).await.contains("allowPrivate: true permits that"), "{url}");
        }
        assert!(refused("https://localhost/", false).await.contains("which is not public"));
    }
}
