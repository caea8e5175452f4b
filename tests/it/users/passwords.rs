//! Passwords at a broker: hashes that were brought along, storms of clients, and guesses.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use mqtt_operator::auth::settings::Guard;
use mqtt_operator::client::{self, Error, Options};
use mqtt_operator::config::FORMAT;
use mqtt_operator::config::broker::{UserHash, Users};
use mqtt_operator::config::files::Etc;
use mqtt_operator::mqtt::packet::{Connect, Packet};
use mqtt_operator::mqtt::property::ConnectProperties;
use mqtt_operator::mqtt::{ReasonCode, Version, codec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Broker, await_until, mosquitto_passwd, run, value};

const DEADLINE: Duration = Duration::from_secs(20);
const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// A figure of `/metrics`.
async fn metric(broker: &Broker, name: &str) -> f64 {
    let text = broker.metrics().await;
    value(&text, name).unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// As user `u<n>` with this password; the code and the words of a refusal.
async fn log_in(broker: &Broker, n: usize, version: Version, password: &str) -> Result<(), (ReasonCode, String)> {
    let options = Options { password: Some(password.as_bytes().to_vec()), ..broker.options(n, version) };
    match client::connect(&options).await {
        Ok((client, ..)) => {
            client.disconnect(ReasonCode::SUCCESS).await.unwrap();
            Ok(())
        }
        Err(Error::Refused { code, reason }) => Err((code, reason)),
        Err(other) => panic!("{other:?}"),
    }
}

/// A file of `mosquitto_passwd` with one user, by its kind of hash.
fn made_by_mosquitto(kind: &str, password: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("passwords");
    run(mosquitto_passwd().args(["-H", kind, "-c", "-b"]).arg(&file).args(["someone", password]));
    std::fs::read_to_string(&file).unwrap().trim_end().split_once(':').unwrap().1.to_owned()
}

/// Gives `u0`, `u1`, … these hashes.
fn write_hashes(etc: &Etc, hashes: &[String]) {
    let user = |(n, hash): (usize, &String)| UserHash { name: format!("u{n}"), hash: hash.clone(), source: None };
    let users = Users { format: FORMAT, users: hashes.iter().enumerate().map(user).collect() };
    std::fs::write(etc.users(), serde_json::to_string(&users).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_devices_of_one_user_cost_one_hash() {
    let broker = Broker::start();
    let storm = async || {
        let devices = (0..1000).map(|n| {
            let options = Options { client_id: format!("device-{n}"), ..broker.options(0, VERSIONS[n % 3]) };
            async move { client::connect(&options).await.map(|(client, incoming, _)| (client, incoming)) }
        });
        join_all(devices).await.into_iter().map(|connected| connected.unwrap().0).collect::<Vec<_>>()
    };
    let connected = storm().await;
    assert_eq!(connected.len(), 1000);
    assert!((metric(&broker, "mqtt_password_check_seconds_count").await - 1.0).abs() < f64::EPSILON);
    drop(connected);
    storm().await;
    assert!((metric(&broker, "mqtt_password_check_seconds_count").await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn users_log_in_with_the_hashes_that_they_bring_from_mosquitto_and_of_bcrypt() {
    let hashes = [
        made_by_mosquitto("sha512-pbkdf2", "geheim"),
        made_by_mosquitto("sha512", "geheim"),
        // `htpasswd -nbB`, cost 5.
        "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW".to_owned(),
    ];
    assert!(hashes[0].starts_with("$7$") && hashes[1].starts_with("$6$"), "{hashes:?}");
    let broker = Broker::with_files(|_| {}, |etc| write_hashes(etc, &hashes));
    for version in VERSIONS {
        for (n, password) in ["geheim", "geheim", "U*U"].into_iter().enumerate() {
            assert_eq!(log_in(&broker, n, version, password).await, Ok(()), "{version:?} u{n}");
        }
    }
    for (n, hash) in hashes.iter().enumerate().take(3) {
        let refused = log_in(&broker, n, Version::V5, "Geheim").await.unwrap_err();
        assert_eq!(refused, (ReasonCode::BAD_USER_NAME_OR_PASSWORD, String::new()));
        assert!(log_in(&broker, n, Version::V5, hash).await.is_err(), "a hash is no password");
    }
}

#[tokio::test]
async fn a_hash_that_cannot_be_used_shuts_out_its_user_and_nobody_else() {
    let good = made_by_mosquitto("sha512-pbkdf2", "geheim");
    let etc = |hashes: Vec<String>| move |etc: &Etc| write_hashes(etc, &hashes);
    let broker = Broker::with_files(|_| {}, etc(vec![good.clone(), good.replace("$7$101$", "$7$4000000000$")]));
    assert_eq!(log_in(&broker, 0, Version::V5, "geheim").await, Ok(()));
    assert!(log_in(&broker, 1, Version::V5, "geheim").await.is_err());
    let [unusable] = broker.report().unusable_hashes.try_into().unwrap();
    assert!(unusable.starts_with("u1: asks for 4000000000 iterations; at most"), "{unusable}");

    write_hashes(&Etc(broker.etc().to_owned()), &[good.clone(), good]);
    await_until(DEADLINE, "the good hash", async || log_in(&broker, 1, Version::V5, "geheim").await).await;
    assert_eq!(broker.report().unusable_hashes, Vec::<String>::new());
}

#[tokio::test]
async fn guesses_are_banned_in_each_version_and_counted() {
    let broker = Broker::with_quick_passwords(|config| {
        config.auth.guard = Guard { failures: 3, within: 3600, ban: 600, addresses_hidden: false };
    });
    for guess in ["one", "two", "three"] {
        let refused = log_in(&broker, 0, Version::V5, guess).await.unwrap_err();
        assert_eq!(refused, (ReasonCode::BAD_USER_NAME_OR_PASSWORD, String::new()), "{guess}");
    }
    for password in ["four", "correct horse"] {
        let (code, reason) = log_in(&broker, 0, Version::V5, password).await.unwrap_err();
        assert_eq!(code, ReasonCode::BANNED);
        assert!(reason.starts_with("too many wrong passwords, try again in "), "{reason}");
    }
    for version in [Version::V31, Version::V311] {
        let refused = log_in(&broker, 0, version, "correct horse").await.unwrap_err();
        assert_eq!(refused.0, ReasonCode::SERVER_UNAVAILABLE, "{version:?}: return code 3");
    }
    assert!((metric(&broker, "mqtt_auth_banned").await - 1.0).abs() < f64::EPSILON);
    assert!((metric(&broker, "mqtt_auth_bans_total{scope=\"user\"}").await - 1.0).abs() < f64::EPSILON);
    assert_eq!(log_in(&broker, 1, Version::V5, "correct horse").await, Ok(()), "another user from the same address");
}

/// CONNECT of `u0` over 3.1.1 from an address that a proxy tells; the return code.
async fn from(listener: SocketAddr, address: &str, password: &str) -> u8 {
    let mut bytes = format!("PROXY TCP4 {address} 192.0.2.1 50000 1883\r\n").into_bytes();
    let connect = Connect {
        version: Version::V311,
        clean_start: true,
        keep_alive: 60,
        client_id: "guest",
        username: Some("u0"),
        password: Some(password.as_bytes()),
        will: None,
        properties: ConnectProperties::default(),
    };
    codec::encode(&Packet::Connect(Box::new(connect)), Version::V311, &mut bytes);
    let mut socket = TcpStream::connect(listener).await.unwrap();
    socket.write_all(&bytes).await.unwrap();
    let mut answer = [0; 4];
    tokio::time::timeout(DEADLINE, socket.read_exact(&mut answer)).await.expect("an answer in time").unwrap();
    answer[3]
}

#[tokio::test]
async fn who_guesses_from_one_network_does_not_lock_the_user_out_elsewhere() {
    let guard = |addresses_hidden| Guard { failures: 3, within: 60, ban: 60, addresses_hidden };
    let behind = |hidden| {
        Broker::with_quick_passwords(move |config| {
            config.auth.guard = guard(hidden);
            config.listeners[0].proxies = vec!["127.0.0.0/8".parse().unwrap()];
        })
    };
    let broker = behind(false);
    let listener = broker.listener("mqtt");
    for guess in ["one", "two", "three"] {
        assert_eq!(from(listener, "192.0.2.7", guess).await, 4, "{guess}");
    }
    assert_eq!(from(listener, "192.0.2.7", "four").await, 3);
    assert_eq!(from(listener, "192.0.2.200", "correct horse").await, 3, "the same network");
    assert_eq!(from(listener, "198.51.100.7", "correct horse").await, 0, "another one");

    // Where all clients have one address nobody is banned for what others do.
    let broker = behind(true);
    for guess in 0..5 {
        assert_eq!(from(broker.listener("mqtt"), "192.0.2.7", &guess.to_string()).await, 4);
    }
    assert_eq!(from(broker.listener("mqtt"), "192.0.2.7", "correct horse").await, 0);
}
