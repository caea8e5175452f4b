//! Tokens of other issuers at a broker: its keys come over HTTPS, change, are missing, and are not what they should be.

mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use mqtt_operator::auth::issuer::file_stem;
use mqtt_operator::auth::key::{Algorithm, PrivateKey, PrivateKeys, generate};
use mqtt_operator::auth::rule::Rule;
use mqtt_operator::auth::settings::{Group, Issuer, IssuerKeys, Mapping};
use mqtt_operator::auth::token::{Claims, issue};
use mqtt_operator::broker::kept_keys;
use mqtt_operator::client::{self, Error, Message, Options};
use mqtt_operator::config::broker::{Broker as Config, Listener, Protocol};
use mqtt_operator::config::files::Etc;
use mqtt_operator::mqtt::packet::{Auth, Connect, Packet};
use mqtt_operator::mqtt::property::{AuthProperties, ConnectProperties};
use mqtt_operator::mqtt::{QoS, ReasonCode, Version, codec};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Authority, Broker, Raw, await_until, plain_connect, signing_key, unix_seconds, value};
use server::{Answer, Server};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const DEADLINE: Duration = Duration::from_secs(15);
const IDP: &str = "https://idp.example/realm";

fn key(seed: u8) -> PrivateKey {
    generate(Algorithm::Es256, &[seed; 48]).unwrap()
}

fn jwks(keys: &[&PrivateKey]) -> String {
    PrivateKeys { keys: keys.iter().map(|key| (*key).clone()).collect() }.public()
}

/// The device `alice` of the issuer, for ten minutes.
fn token(key: &PrivateKey, id: &str) -> String {
    let acl = r#"[{"permission":"allow","action":"all","topic":"of/${sub}/#"}]"#;
    issue(
        key,
        &Claims {
            iss: IDP.into(),
            aud: "devices".into(),
            sub: "alice".into(),
            iat: unix_seconds(),
            exp: unix_seconds() + 600,
            jti: Some(id.into()),
            acl: serde_json::from_str::<Vec<Rule>>(acl).unwrap(),
            ..Claims::default()
        },
    )
}

fn fetched(url: String) -> Issuer {
    Issuer {
        issuer: IDP.into(),
        audiences: vec!["devices".into()],
        keys: IssuerKeys::Url { url, allow_private: true, own_authorities: true },
        algorithms: vec![Algorithm::Es256, Algorithm::Rs256],
        acl_claim: "acl".into(),
        max_token_ttl: 3600,
        mapping: Mapping::default(),
        groups: vec![],
    }
}

/// A broker that knows the issuer, and the authority of its server.
fn broker(issuer: Issuer, authority: &Authority, change: impl FnOnce(&mut Config)) -> Broker {
    let pem = authority.pem();
    Broker::with_files(
        |config| {
            config.auth.issuers = vec![issuer];
            change(config);
        },
        |etc| std::fs::write(etc.issuer(&format!("{}.crt", file_stem(IDP))), pem).unwrap(),
    )
}

fn options(broker: &Broker, version: Version, token: &str) -> Options {
    let mut options = Options::new(broker.address(), "device-of-alice");
    options.version = version;
    options.username = Some("alice".into());
    options.password = Some(token.as_bytes().to_vec());
    options
}

async fn connect(broker: &Broker, token: &str) -> Result<(), ReasonCode> {
    match client::connect(&options(broker, Version::V5, token)).await {
        Ok((client, ..)) => {
            client.disconnect(ReasonCode::SUCCESS).await.unwrap();
            Ok(())
        }
        Err(Error::Refused { code, .. }) => Err(code),
        Err(other) => panic!("{other:?}"),
    }
}

/// How old the keys of the only issuer are, if it has any.
async fn age(broker: &Broker) -> Option<f64> {
    value(&broker.metrics().await, &format!("mqtt_jwks_age_seconds{{issuer=\"{IDP}\"}}"))
}

#[tokio::test]
async fn a_token_of_another_issuer_is_let_in_in_each_version_as_a_principal_of_its_own() {
    let authority = Authority::new("idp");
    let key = key(1);
    let server = Server::start(Some(&authority), Answer::keys(jwks(&[&key]))).await;
    let broker = broker(fetched(server.url("https")), &authority, |_| {});
    let token = token(&key, "1");
    for version in VERSIONS {
        let (client, mut incoming, _) = client::connect(&options(&broker, version, &token)).await.unwrap();
        let codes = client.subscribe(&[("of/alice/#", at_least_once()), ("of/#", at_least_once())]).await.unwrap();
        let granted: Vec<bool> = codes.iter().map(|code| !code.is_failure()).collect();
        assert_eq!(granted, [true, false], "{version:?}");
        client.publish(&Message::new("of/bob/t", "forged", QoS::AtMostOnce)).await.unwrap();
        client.publish(&Message::new("of/alice/t", "own", QoS::AtLeastOnce)).await.unwrap();
        let message = tokio::time::timeout(DEADLINE, incoming.next()).await.unwrap().unwrap().unwrap().message;
        assert_eq!((&*message.topic, &*message.payload), ("of/alice/t", &b"own"[..]), "{version:?}");
        let sessions = broker.get("/api/v1/sessions").await;
        assert_eq!(sessions["items"][0]["principal"], format!("{IDP}#alice"));
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }
    assert_eq!(server.requests(), 1);
    assert!(age(&broker).await.is_some());
    let keys = broker.get("/.well-known/jwks.json").await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "the broker's own alone");
}

fn at_least_once() -> mqtt_operator::mqtt::packet::SubscriptionOptions {
    mqtt_operator::mqtt::packet::SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() }
}

#[tokio::test]
async fn class_12_a_storm_of_unknown_keys_sets_off_one_fetch_and_a_changed_key_is_found_with_the_next() {
    let authority = Authority::new("idp");
    let (old, new) = (key(1), key(2));
    let server = Server::start(Some(&authority), Answer::keys(jwks(&[&old]))).await;
    let broker = broker(fetched(server.url("https")), &authority, |config| {
        config.limits.connect_rate_per_address = None;
        config.limits.connect_rate = None;
    });
    let began = Instant::now();
    assert_eq!(connect(&broker, &token(&old, "1")).await, Ok(()));
    server.answer(Answer::keys(jwks(&[&new])));
    let storm = (0..1000_u32).map(|n| {
        let mut random = [3; 48];
        random[..4].copy_from_slice(&n.to_be_bytes());
        let token = token(&generate(Algorithm::Es256, &random).unwrap(), "x");
        let broker = &broker;
        async move { connect(broker, &token).await }
    });
    let refused = futures::stream::StreamExt::collect::<Vec<_>>(futures::stream::StreamExt::buffer_unordered(
        futures::stream::iter(storm),
        100,
    ));
    for answer in refused.await {
        assert_eq!(answer, Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD));
    }
    // The first fetch was that of the start; the storm may have lasted long enough for one more each half minute.
    let most = 1 + began.elapsed().as_secs() as usize / 30;
    assert!(server.requests() <= most, "{} fetches in {:?}", server.requests(), began.elapsed());
    // The new key is found as soon as a fetch may begin again, and the old one is gone with it.
    let fresh = token(&new, "2");
    await_until(Duration::from_secs(90), "the new key", async || connect(&broker, &fresh).await).await;
    assert!(began.elapsed() >= Duration::from_secs(29), "{:?}", began.elapsed());
    assert_eq!(connect(&broker, &token(&old, "3")).await, Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD));
    let most = 1 + began.elapsed().as_secs() as usize / 30;
    assert!(server.requests() <= most, "{} fetches in {:?}", server.requests(), began.elapsed());
}

#[tokio::test]
async fn a_client_with_an_unknown_key_waits_for_the_fetch_and_nobody_else_does() {
    let authority = Authority::new("idp");
    let key = key(1);
    let server = Server::held(Some(&authority), Answer::keys(jwks(&[&key]))).await;
    let broker = broker(fetched(server.url("https")), &authority, |_| {});
    await_until(DEADLINE, "a request", async || if server.requests() == 1 { Ok(()) } else { Err(server.requests()) })
        .await;
    let alice = token(&key, "1");
    let (waiting, others) = tokio::join!(connect(&broker, &alice), async {
        // Its keys are not there yet; those who need none of them are served meanwhile.
        for version in VERSIONS {
            let (client, _incoming) = broker.connect(0, version).await;
            client.disconnect(ReasonCode::SUCCESS).await.unwrap();
        }
        let served = server.requests();
        server.release();
        served
    });
    assert_eq!((waiting, others), (Ok(()), 1));
}

/// AUTH with a token.
fn again(token: &str) -> Packet<'_> {
    let properties = AuthProperties {
        authentication_method: Some("JWT"),
        authentication_data: Some(token.as_bytes()),
        ..AuthProperties::default()
    };
    Packet::Auth(Auth { code: ReasonCode::REAUTHENTICATE, properties })
}

/// A client that came with AUTH's method, and was let in.
async fn connected_with_method(broker: &Broker, client_id: &str, token: &str) -> Raw {
    let properties = ConnectProperties {
        authentication_method: Some("JWT"),
        authentication_data: Some(token.as_bytes()),
        ..ConnectProperties::default()
    };
    let mut raw =
        Raw::connect(&broker.address(), Connect { properties, ..plain_connect(Version::V5, client_id) }).await;
    let code = raw.next(|packet| if let Packet::ConnAck(ack) = packet { Some(ack.code) } else { None }).await;
    assert_eq!(code, ReasonCode::SUCCESS);
    raw
}

async fn disconnected(raw: &mut Raw) -> ReasonCode {
    raw.next(|packet| if let Packet::Disconnect(disconnect) = packet { Some(disconnect.code) } else { None }).await
}

#[tokio::test]
async fn auth_with_a_token_of_an_unknown_key_waits_for_the_fetch_and_the_client_is_served_meanwhile() {
    let authority = Authority::new("idp");
    let (old, new, other) = (key(1), key(2), key(3));
    let cache = tempfile::tempdir().unwrap();
    let server = Server::held(Some(&authority), Answer::keys(jwks(&[&old]))).await;
    let start = || {
        broker(fetched(server.url("https")), &authority, |config| {
            config.auth.issuers_cache = Some(cache.path().to_owned());
        })
    };
    let first = start();
    server.release_one();
    assert_eq!(connect(&first, &token(&old, "1")).await, Ok(()));
    first.stop().await;

    // It has the keys that the first one has kept, and fetches them again.
    server.answer(Answer::keys(jwks(&[&old, &new])));
    let broker = start();
    let mut client = connected_with_method(&broker, "one", &token(&old, "2")).await;
    let mut hasty = connected_with_method(&broker, "two", &token(&old, "2")).await;
    let fresh = token(&new, "3");
    client.send(&[again(&fresh), Packet::PingReq]).await;
    hasty.send(&[again(&fresh), again(&fresh)]).await;
    let served = client.next(|packet| match packet {
        Packet::PingResp => Some(true),
        Packet::Auth(_) | Packet::Disconnect(_) => Some(false),
        _ => None,
    });
    assert!(served.await, "AUTH is answered when the keys are here");
    assert_eq!(disconnected(&mut hasty).await, ReasonCode::PROTOCOL_ERROR, "one at a time");
    server.release();
    let code = client.next(|packet| match packet {
        Packet::Auth(auth) => Some(auth.code),
        Packet::Disconnect(disconnect) => Some(disconnect.code),
        _ => None,
    });
    assert_eq!(code.await, ReasonCode::SUCCESS);
    // No fetch may begin so soon after the last one: what is not known is refused at once.
    client.send(&[again(&token(&other, "4"))]).await;
    assert_eq!(disconnected(&mut client).await, ReasonCode::NOT_AUTHORIZED);
}

#[tokio::test]
async fn keys_that_were_fetched_outlive_a_restart_while_their_server_is_down() {
    let authority = Authority::new("idp");
    let key = key(1);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(Some(&authority), Answer::keys(jwks(&[&key]))).await;
    let url = server.url("https");
    let keeping = |path: &Path| {
        let path = path.to_owned();
        move |config: &mut Config| config.auth.issuers_cache = Some(path)
    };
    let first = broker(fetched(url.clone()), &authority, keeping(cache.path()));
    assert_eq!(connect(&first, &token(&key, "1")).await, Ok(()));
    first.stop().await;
    drop(server);
    // From there `mqttctl` has them, too.
    let kept = kept_keys(cache.path(), &fetched(url.clone())).expect("they are kept");
    assert!(kept.keys.ids().contains(&key.kid().to_owned()));

    let again = broker(fetched(url.clone()), &authority, keeping(cache.path()));
    assert_eq!(connect(&again, &token(&key, "2")).await, Ok(()));
    // What was kept a day ago and longer is worth nothing, nor what came from elsewhere.
    let file = cache.path().join(format!("{}.json", file_stem(IDP)));
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (name, value) in [("fetched", json!(unix_seconds() - 24 * 3600)), ("url", json!("https://other.example/"))] {
        let mut changed = kept.clone();
        changed[name] = value;
        std::fs::write(&file, changed.to_string()).unwrap();
        let late = broker(fetched(url.clone()), &authority, keeping(cache.path()));
        assert_eq!(connect(&late, &token(&key, "3")).await, Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD), "{name}");
    }
}

#[tokio::test]
async fn class_12_what_is_no_answer_with_keys_opens_nothing() {
    let (authority, stranger) = (Authority::new("idp"), Authority::new("stranger"));
    let key = key(1);
    let good = || Answer::keys(jwks(&[&key]));
    let redirect = |to: &str| Answer { status: "302 Found", headers: format!("Location: {to}\r\n"), body: vec![] };
    let elsewhere = Server::start(Some(&authority), good()).await;
    let padded = format!("{}{}", jwks(&[&key]), " ".repeat(256 * 1024));
    let private = PrivateKeys { keys: vec![key.clone()] }.to_json();
    for (what, answer) in [
        ("a redirect", redirect(&elsewhere.url("https"))),
        ("an error with keys", Answer { status: "500 Internal Server Error", ..good() }),
        ("too much", Answer::keys(padded)),
        ("private keys", Answer::keys(private)),
        ("no keys", Answer::keys(r#"{"keys":[]}"#)),
        ("no key set", Answer::keys("<html>")),
        ("keys twice", Answer::keys(format!(r#"{{"keys":[],{}"#, &jwks(&[&key])[1..]))),
    ] {
        let server = Server::start(Some(&authority), answer).await;
        let broker = broker(fetched(server.url("https")), &authority, |_| {});
        assert_eq!(connect(&broker, &token(&key, "1")).await, Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD), "{what}");
        assert_eq!((server.requests(), age(&broker).await), (1, None), "{what}");
    }
    assert_eq!(elsewhere.requests(), 0);
    let server = Server::start(Some(&stranger), good()).await;
    let untrusted = broker(fetched(server.url("https")), &authority, |_| {});
    assert_eq!(connect(&untrusted, &token(&key, "1")).await, Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD));
    assert_eq!((server.accepted(), server.requests()), (1, 0), "the certificate is of a stranger");
    // Authorities that the object names and that are not there are not replaced by those of the system.
    let unknown = Server::start(Some(&authority), good()).await;
    let without = Broker::with(|config| config.auth.issuers = vec![fetched(unknown.url("https"))]);
    assert_eq!(connect(&without, &token(&key, "1")).await, Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD));
    assert_eq!(unknown.accepted(), 0);
}

#[tokio::test]
async fn class_12_an_address_that_is_not_public_is_not_connected_to_unless_that_is_allowed() {
    let authority = Authority::new("idp");
    let key = key(1);
    let server = Server::start(Some(&authority), Answer::keys(jwks(&[&key]))).await;
    let port = server.address.port();
    for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1"] {
        let url = format!("https://{host}:{port}/keys?of=all");
        let keys = IssuerKeys::Url { url, allow_private: false, own_authorities: true };
        let broker = broker(Issuer { keys, ..fetched(String::new()) }, &authority, |_| {});
        assert_eq!(connect(&broker, &token(&key, "1")).await, Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD), "{host}");
    }
    assert_eq!(server.accepted(), 0);
    // Without TLS only where it was asked for.
    let plain = Server::start(None, Answer::keys(jwks(&[&key]))).await;
    let keys = IssuerKeys::Url { url: plain.url("http"), allow_private: false, own_authorities: true };
    let refused = broker(Issuer { keys, ..fetched(String::new()) }, &authority, |_| {});
    assert_eq!(connect(&refused, &token(&key, "1")).await, Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD));
    assert_eq!(plain.accepted(), 0);
    let allowed = broker(fetched(plain.url("http")), &authority, |_| {});
    assert_eq!(connect(&allowed, &token(&key, "1")).await, Ok(()));
}

/// A device of a system that signs with a secret per group, whose library sends no key id.
fn device(secret: &[u8], group: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = json!({
        "iss": "authx", "iat": unix_seconds(), "exp": unix_seconds() + 600, "organizationID": "org",
        "device_group_id": group, "device_id": "d1", "access": ["DEVICE"],
    });
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(json!({"alg": "HS256", "typ": "JWT"})), encode(claims));
    let tag =
        aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[tokio::test]
async fn devices_with_a_secret_per_group_connect_unchanged_and_follow_their_document() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let secret = [b's'; 36];
    let document = |secrets: &[(&str, &[u8])]| {
        let key = |(kid, k): &(&str, &[u8])| json!({"kty": "oct", "kid": kid, "k": URL_SAFE_NO_PAD.encode(k)});
        json!({"keys": secrets.iter().map(key).collect::<Vec<_>>()}).to_string()
    };
    let issuer = Issuer {
        issuer: "authx".into(),
        audiences: vec![],
        keys: IssuerKeys::Document,
        algorithms: vec![Algorithm::Hs256],
        mapping: Mapping::Authx,
        ..fetched(String::new())
    };
    let acl = r#"[{"permission":"allow","action":"publish","topic":"${claims.organizationID}/${claims.device_id}/#"}]"#;
    let path = |etc: &Etc| etc.issuer(&format!("{}.json", file_stem("authx")));
    let broker = Broker::with_files(
        |config| {
            config.auth.issuers = vec![issuer];
            config.auth.groups = vec![Group { name: "pumps".into(), acl: serde_json::from_str(acl).unwrap() }];
        },
        |etc| std::fs::write(path(etc), document(&[("pumps", &secret)])).unwrap(),
    );
    let options = |version: Version, token: &str| {
        let mut options = options(&broker, version, token);
        options.username = Some("d1".into());
        options
    };
    for version in VERSIONS {
        let (client, _incoming, _) = client::connect(&options(version, &device(&secret, "pumps"))).await.unwrap();
        assert_eq!(broker.get("/api/v1/sessions").await["items"][0]["principal"], "authx#pumps/d1");
        if version == Version::V5 {
            let publish =
                async |topic: &str| client.publish(&Message::new(topic, "x", QoS::AtLeastOnce)).await.unwrap();
            assert!(!publish("org/d1/t").await.is_failure());
            assert_eq!(publish("org/d2/t").await, ReasonCode::NOT_AUTHORIZED);
        }
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }
    assert!(client::connect(&options(Version::V311, &device(&[b't'; 36], "pumps"))).await.is_err());
    // A document that cannot be used leaves the last good one in force; one that can is taken up.
    let etc = Etc(broker.etc().to_owned());
    std::fs::write(path(&etc), "{").unwrap();
    let other = [b'o'; 36];
    assert_eq!(broker.ask(Method::POST, "/api/v1/reload").await.0, 200);
    assert!(client::connect(&options(Version::V5, &device(&secret, "pumps"))).await.is_ok());
    // The hash that the broker reports says when it is in force.
    broker.edit(|etc| std::fs::write(path(etc), document(&[("valves", &other)])).unwrap()).await;
    assert!(client::connect(&options(Version::V5, &device(&other, "valves"))).await.is_ok());
    assert!(client::connect(&options(Version::V5, &device(&secret, "pumps"))).await.is_err());
}

/// What CONNECT over a WebSocket whose request has these lines is answered: the reason code, or the HTTP status.
async fn over_websocket(broker: &Broker, lines: &str, connect: &Connect<'_>) -> Result<ReasonCode, String> {
    let mut socket = TcpStream::connect(broker.listener("ws")).await.unwrap();
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: mqtt\r\n{lines}\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(head[9..12].to_owned());
    }
    let mut packet = Vec::new();
    codec::encode(&Packet::Connect(Box::new(connect.clone())), connect.version, &mut packet);
    // A frame with an empty mask.
    let frame = match u16::try_from(packet.len()).unwrap() {
        short @ ..126 => [&[0x82, 0x80 | short as u8], &[0; 4][..], &packet].concat(),
        long => [&[0x82, 0xFE], &long.to_be_bytes()[..], &[0; 4], &packet].concat(),
    };
    socket.write_all(&frame).await.unwrap();
    let mut answer = [0; 6];
    tokio::time::timeout(DEADLINE, socket.read_exact(&mut answer)).await.unwrap().unwrap();
    // The frame's two bytes, then CONNACK: kind, length, flags, code.
    assert_eq!((answer[0], answer[1] < 126, answer[2]), (0x82, true, 0x20), "{answer:?}");
    Ok(ReasonCode(answer[5]))
}

#[tokio::test]
async fn a_token_in_the_web_socket_request_counts_where_connect_presents_nothing() {
    let broker = Broker::with(|config| {
        config.listeners.push(Listener {
            allowed_origins: vec!["https://app.example.com".into()],
            ..Listener::new("ws", Protocol::Ws, ([127, 0, 0, 1], 0).into())
        });
    });
    let own = |sub: &str| {
        let claims = Claims {
            iss: "mqttbroker/test/broker".into(),
            aud: "mqtt://test/broker".into(),
            sub: sub.into(),
            iat: unix_seconds(),
            exp: unix_seconds() + 60,
            ..Claims::default()
        };
        issue(&signing_key(), &claims)
    };
    let (token, other) = (own("dev1"), own("dev2"));
    let header = format!("Authorization: Bearer {token}\r\n");
    let plain = |version: Version| plain_connect(version, "dev1");
    let bad =
        |version: Version| if version == Version::V5 { ReasonCode::BAD_USER_NAME_OR_PASSWORD } else { ReasonCode(4) };
    for version in VERSIONS {
        let connect = plain(version);
        assert_eq!(over_websocket(&broker, &header, &connect).await, Ok(ReasonCode::SUCCESS), "{version:?}");
        let page = format!("{header}Origin: https://app.example.com\r\n");
        assert_eq!(over_websocket(&broker, &page, &connect).await, Ok(ReasonCode::SUCCESS), "{version:?}");
        let evil = format!("{header}Origin: https://evil.example\r\n");
        assert_eq!(over_websocket(&broker, &evil, &connect).await, Err("403".into()), "{version:?}");
        let same = Connect { username: Some("dev1"), password: Some(token.as_bytes()), ..plain(version) };
        assert_eq!(over_websocket(&broker, &header, &same).await, Ok(ReasonCode::SUCCESS), "{version:?}");
        let differs = Connect { password: Some(other.as_bytes()), ..same.clone() };
        assert_eq!(over_websocket(&broker, &header, &differs).await, Ok(bad(version)), "{version:?}");
        // A user with the right password, and a token beside it.
        let user = Connect { username: Some("u0"), password: Some(crate::support::PASSWORD), ..plain(version) };
        assert_eq!(over_websocket(&broker, &header, &user).await, Ok(bad(version)), "{version:?}");
        assert_eq!(over_websocket(&broker, "", &user).await, Ok(ReasonCode::SUCCESS), "{version:?}");
        let wrong = "Authorization: Bearer eyJhbGciOiJub25lIn0.e30.\r\n";
        assert_eq!(over_websocket(&broker, wrong, &connect).await, Ok(bad(version)), "{version:?}");
        assert_eq!(over_websocket(&broker, "Authorization: Basic dTA6eA==\r\n", &connect).await, Err("401".into()));
    }
}

#[tokio::test]
async fn the_public_keys_are_open_and_a_shared_secret_is_not_among_them() {
    let own = [generate(Algorithm::EdDsa, &[7; 48]).unwrap(), generate(Algorithm::Hs256, &[9; 48]).unwrap()];
    let document = PrivateKeys { keys: own.to_vec() }.public();
    let broker = Broker::with_files(|_| {}, |etc| std::fs::write(etc.jwks(), &document).unwrap());
    let answer = reqwest::get(format!("http://{}/.well-known/jwks.json", broker.admin())).await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "public, max-age=300");
    assert_eq!(answer.headers()["content-type"], "application/jwk-set+json");
    let text = answer.text().await.unwrap();
    let keys: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "{text}");
    assert_eq!(keys["keys"][0]["kid"], own[0].kid());
    assert!(!text.contains(own[1].kid()) && !text.contains("\"k\"") && !text.contains("\"d\""), "{text}");
}
