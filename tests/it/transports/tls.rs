//! TLS: who is shown which certificate, who must show one, and what happens when they change.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use mqtt_operator::config::broker::{ClientCertificates, Protocol};
use mqtt_operator::config::files::Etc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::wire::{self, DEADLINE, add, greet, ping, rest};
use crate::support::{Authority, Broker, Pair, await_until, mosquitto_client, open, value};

/// The directory of the certificate of the listener `mqtts`.
fn directory(etc: &Etc) -> std::path::PathBuf {
    etc.certificate("mqtts").parent().unwrap().to_owned()
}

/// A broker that everybody may use, with a listener `mqtts` that shows this certificate.
fn broker(pair: &Pair) -> Broker {
    let change = |config: &mut _| {
        open(config);
        add(config, Protocol::Mqtts, "127.0.0.1");
    };
    Broker::with_files(change, |etc| pair.write(&directory(etc)))
}

/// As [`broker`]; clients are verified with `authority`, and turned away without a certificate if it is `required`.
fn verifying(pair: &Pair, authority: &Authority, required: ClientCertificates) -> Broker {
    let change = |config: &mut _| {
        open(config);
        add(config, Protocol::Mqtts, "127.0.0.1").client_certificates = required;
    };
    Broker::with_files(change, |etc| {
        pair.write(&directory(etc));
        let ca = etc.client_ca("mqtts");
        std::fs::create_dir_all(ca.parent().unwrap()).unwrap();
        std::fs::write(ca, authority.pem()).unwrap();
    })
}

/// The certificate that the listener shows now, to a client that trusts `authority`.
async fn shown(address: SocketAddr, authority: &Authority) -> Result<Vec<u8>, String> {
    let socket = wire::tls(address, &authority.pem(), None).await.map_err(|error| error.to_string())?;
    Ok(socket.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

fn der(pair: &Pair) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap().to_vec()
}

/// Whether CONNECT is answered over a TLS connection with this certificate. In TLS 1.3 a client learns what the server
/// thinks of its certificate only after its own handshake.
async fn connects(broker: &Broker, ca: &str, own: Option<&Pair>) -> bool {
    let Ok(mut socket) = wire::tls(broker.listener("mqtts"), ca, own).await else { return false };
    let mut answer = [0; 4];
    socket.write_all(wire::CONNECT).await.is_ok()
        && tokio::time::timeout(DEADLINE, socket.read_exact(&mut answer)).await.expect("an answer in time").is_ok()
        && answer == wire::CONNACK
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_speaks_over_tls_1_2_and_1_3() {
    let (authority, files) = (Authority::new("ours"), tempfile::tempdir().unwrap());
    let broker = verifying(&authority.server(), &authority, ClientCertificates::Required);
    std::fs::write(files.path().join("ca.crt"), authority.pem()).unwrap();
    authority.client("sensor").write(files.path());
    let port = broker.listener("mqtts").port().to_string();
    for version in ["tlsv1.2", "tlsv1.3"] {
        let with = |mut command: Command| {
            command.current_dir(files.path()).args(["-h", "127.0.0.1", "-p", &port, "--tls-version", version]);
            command.args(["--cafile", "ca.crt", "--cert", "tls.crt", "--key", "tls.key", "-q", "1", "-t", "t/tls"]);
            // A certificate takes the place of no password.
            command.args(["-u", "u1", "-P", "correct horse"]);
            command
        };
        let publish = || with(mosquitto_client("mosquitto_pub")).args(["-r", "-m", version]).status().unwrap();
        assert!(publish().success(), "{version}");
        let mut subscribe = with(mosquitto_client("mosquitto_sub"));
        let got = subscribe.args(["-C", "1", "-W", "20"]).stderr(Stdio::inherit()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&got.stdout).trim(), version);
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_clients_and_those_who_are_connected_stay() {
    let authority = Authority::new("ours");
    let (first, second) = (authority.server(), authority.server());
    let broker = broker(&first);
    let (address, etc) = (broker.listener("mqtts"), Etc(broker.etc().to_owned()));
    let mut connected = wire::tls(address, &authority.pem(), None).await.unwrap();
    greet(&mut connected).await;
    assert_eq!(shown(address, &authority).await.unwrap(), der(&first));

    second.write(&directory(&etc));
    await_until(DEADLINE, "the new certificate", async || match shown(address, &authority).await? {
        shown if shown == der(&second) => Ok(()),
        _ => Err("still the old one".to_owned()),
    })
    .await;
    ping(&mut connected).await;
}

#[tokio::test]
async fn a_pair_that_cannot_be_used_leaves_the_last_good_one_in_force_and_is_reported() {
    let authority = Authority::new("ours");
    let good = authority.server();
    let broker = broker(&good);
    let (address, etc) = (broker.listener("mqtts"), Etc(broker.etc().to_owned()));
    let problem = || broker.report().listeners.into_iter().find(|it| it.name == "mqtts").unwrap().problem;
    assert_eq!(problem(), None);
    let other = Pair { key: authority.server().key, ..authority.server() };
    let broken = Pair { certificate: "-----BEGIN CERTIFICATE-----\nno\n".into(), ..good.clone() };
    let empty = Pair { certificate: String::new(), ..good.clone() };
    for (bad, expected) in [(other, "cannot be used together"), (broken, "is not PEM"), (empty, "no certificate")] {
        bad.write(&directory(&etc));
        await_until(DEADLINE, "the problem in the report", async || match problem() {
            Some(problem) if problem.contains(expected) => Ok(()),
            other => Err(other),
        })
        .await;
        assert_eq!(shown(address, &authority).await.unwrap(), der(&good), "{expected}");
    }
    good.write(&directory(&etc));
    await_until(DEADLINE, "no problem", async || problem().map_or(Ok(()), Err)).await;
}

#[tokio::test]
async fn a_listener_without_a_certificate_turns_its_clients_away_until_it_has_one_while_others_serve() {
    let authority = Authority::new("ours");
    let broker = Broker::with(|config| {
        open(config);
        add(config, Protocol::Mqtts, "127.0.0.1");
    });
    let (address, etc) = (broker.listener("mqtts"), Etc(broker.etc().to_owned()));
    assert!(shown(address, &authority).await.is_err());
    greet(&mut wire::tcp(broker.listener("mqtt")).await).await;
    let serves = async || value(&broker.metrics().await, "mqtt_listener_serves{listener=\"mqtts\"}");
    assert_eq!(serves().await, Some(0.0));
    assert_eq!(reqwest::get(format!("http://{}/readyz", broker.admin())).await.unwrap().status(), 200);
    let left = async || value(&broker.metrics().await, "mqtt_listener_certificate_expiry_seconds{listener=\"mqtts\"}");
    assert_eq!(left().await, None);

    authority.server().write(&directory(&etc));
    await_until(DEADLINE, "a certificate", async || shown(address, &authority).await).await;
    let left = left().await;
    assert!(left.is_some_and(|seconds| seconds > 3600.0), "{left:?}");
    assert_eq!(serves().await, Some(1.0));
}

#[tokio::test]
async fn a_broker_that_waits_for_its_only_certificate_is_not_ready() {
    let authority = Authority::new("ours");
    let broker = Broker::with(|config| {
        config.listeners.clear();
        add(config, Protocol::Mqtts, "127.0.0.1");
    });
    let ready = async || reqwest::get(format!("http://{}/readyz", broker.admin())).await.unwrap().status().as_u16();
    assert_eq!(ready().await, 503);
    authority.server().write(&directory(&Etc(broker.etc().to_owned())));
    await_until(DEADLINE, "readiness", async || match ready().await {
        200 => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test]
async fn certificates_of_clients_are_verified_when_shown_and_missed_when_required() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("stranger"));
    let (own, foreign) = (authority.client("sensor"), stranger.client("sensor"));
    for (mode, without) in [(ClientCertificates::Verified, true), (ClientCertificates::Required, false)] {
        let broker = verifying(&authority.server(), &authority, mode);
        assert_eq!(connects(&broker, &authority.pem(), None).await, without, "{mode:?} without");
        assert!(!connects(&broker, &authority.pem(), Some(&foreign)).await, "{mode:?} of a stranger");
        assert!(!connects(&broker, &stranger.pem(), None).await, "the client does not trust the server");
        // Shown, verified, and still no principal: it does not make its bearer anonymous either.
        assert!(!connects(&broker, &authority.pem(), Some(&own)).await, "{mode:?} without credentials");
        let mut socket = wire::tls(broker.listener("mqtts"), &authority.pem(), Some(&own)).await.unwrap();
        let connect = b"\x10\x20\0\x04MQTT\x04\xC2\0\x3c\0\x01w\0\x02u1\0\x0dcorrect horse";
        socket.write_all(connect).await.unwrap();
        wire::expect(&mut socket, wire::CONNACK).await;
    }
}

#[tokio::test]
async fn what_is_no_tls_and_what_is_no_trusted_server_ends_the_connection_alone() {
    let authority = Authority::new("ours");
    let broker = broker(&authority.server());
    for bytes in [wire::CONNECT, b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 0xFF, 0xFF], &[0; 100]] {
        let mut socket = wire::tcp(broker.listener("mqtts")).await;
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        assert!(!rest(&mut socket).await.starts_with(wire::CONNACK));
    }
    assert!(connects(&broker, &authority.pem(), None).await);
}

/// What TLS holds back when a socket is full leaves without anything further to push it.
#[tokio::test]
async fn large_messages_arrive_whole_at_a_slow_reader() {
    let authority = Authority::new("ours");
    let broker = broker(&authority.server());
    let mut socket = wire::tls(broker.listener("mqtts"), &authority.pem(), None).await.unwrap();
    greet(&mut socket).await;
    socket.write_all(wire::SUBSCRIBE).await.unwrap();
    wire::expect(&mut socket, wire::SUBACK).await;
    let expected = wire::flood(&broker).await;
    let mut got = vec![0; expected];
    tokio::time::timeout(DEADLINE, socket.read_exact(&mut got)).await.expect("all of it in time").unwrap();
    ping(&mut socket).await;
}
