//! Addresses of this machine, and those that a person gives.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::Error;

/// A free port on loopback, chosen when it is bound. Several `up`s run beside each other, and nobody has to know these
/// ports: the lock file does, and what `up` prints.
pub const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The host that clients are told when the listeners listen at this address.
pub fn for_clients(bind: IpAddr) -> String {
    if !bind.is_unspecified() {
        return bind.to_string();
    }
    outgoing(bind).map_or_else(|_| Ipv4Addr::LOCALHOST.to_string(), |address| address.to_string())
}

/// The address that this machine would speak from. Connecting a UDP socket chooses a route and sends nothing; the
/// destinations are reserved for documentation.
fn outgoing(bind: IpAddr) -> io::Result<IpAddr> {
    let (from, to): (SocketAddr, SocketAddr) = match bind {
        IpAddr::V4(_) => ((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into()),
        IpAddr::V6(_) => {
            ((Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into())
        }
    };
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// The URL as a configuration has it: without `user:password@`, which is a credential and lives in files.
pub fn without_user(url: &str) -> Result<String, Error> {
    let wrong = || Error::Url { url: url.to_owned() };
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host).trim_end_matches('/');
    if !["http", "https"].contains(&scheme) || host.is_empty() || host.contains(['/', '?', '#', ' ']) {
        return Err(wrong());
    }
    Ok(format!("{scheme}://{host}"))
}

/// `user` and `password` of `https://user:password@host`.
pub fn user(url: &str) -> Option<(String, String)> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.rsplit_once('@')?;
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_the_url() {
        assert_eq!(without_user("https://elastic:p@ss@es:9200/").unwrap(), "https://es:9200");
        assert_eq!(user("https://elastic:p@ss@es:9200"), Some(("elastic".into(), "p@ss".into())));
        assert_eq!(user("https://es:9200"), None);
        for wrong in ["es:9200", "ftp://es", "http://", "http://es/path", "http://e s"] {
            assert!(without_user(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn clients_are_never_told_the_unspecified_address() {
        assert_eq!(for_clients(Ipv4Addr::LOCALHOST.into()), "127.0.0.1");
        assert!(!for_clients(Ipv4Addr::UNSPECIFIED.into()).starts_with("0."));
    }
}
