//! The later CONNECT of a client is the one that counts, however long the earlier one takes.

use std::sync::OnceLock;

use argon2::password_hash::{PasswordHasher, SaltString};
use argon2::{Argon2, Params};
use mqtt_operator::config::broker::{UserHash, Users};
use mqtt_operator::mqtt::packet::{Connect, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::support::{PASSWORD, bytes_of, plain_connect, replace};

fn slow_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let params = Params::new(64 * 1024, 16, 1, None).unwrap();
        let argon = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        argon.hash_password(PASSWORD, &SaltString::encode_b64(&[2; 16]).unwrap()).unwrap().to_string()
    })
}

/// A broker that takes a second or so to check the password of `u1`.
async fn slow_broker() -> Broker {
    let broker = Broker::with_quick_passwords(|_| {});
    let hash = slow_hash().to_owned();
    broker
        .edit(|etc| {
            let mut users: Users = serde_json::from_slice(&std::fs::read(etc.users()).unwrap()).unwrap();
            users.users[1] = UserHash { name: "u1".into(), hash, source: None };
            replace(&etc.users(), &serde_json::to_string(&users).unwrap());
        })
        .await;
    broker
}

/// A CONNECT of `u1` that the broker has read, and whose password it checks.
async fn connecting(broker: &Broker, version: Version) -> DuplexStream {
    let (mut ours, theirs) = tokio::io::duplex(1);
    broker.serve(theirs);
    let connect = Connect { username: Some("u1"), password: Some(PASSWORD), ..plain_connect(version, "u1") };
    // The second byte behind it goes only when the first has been read.
    let bytes = bytes_of(version, &[Packet::Connect(Box::new(connect)), Packet::PingReq]);
    ours.write_all(&bytes).await.unwrap();
    ours
}

/// `u1` with a token, which takes no time.
fn newer(broker: &Broker, version: Version) -> Options {
    let acl = r#"[{"permission":"allow","action":"all","topic":"t/#"}]"#;
    Options { client_id: "u1".into(), ..bearer(broker, version, &claims("u1", acl)) }
}

async fn refused(version: Version, socket: &mut DuplexStream) {
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, socket.read_to_end(&mut answer)).await.expect("an end in time").unwrap();
    let code = if version == Version::V5 { ReasonCode::SERVER_UNAVAILABLE.0 } else { 3 };
    assert_eq!((answer[0], answer[3]), (0x20, code), "{version:?}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_whose_password_is_still_checked_takes_nothing_from_a_newer_connection() {
    for version in VERSIONS {
        let broker = slow_broker().await;
        let mut older = connecting(&broker, version).await;
        let (client, mut incoming, _) = client::connect(&newer(&broker, version)).await.unwrap();
        subscribe(&client, &["t/a"]).await;
        refused(version, &mut older).await;
        publish(&client, "t/a", "here").await;
        assert_eq!(next(&mut incoming).await.payload, "here");
        client.disconnect(ReasonCode::SUCCESS).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_from_a_session_that_a_newer_connection_has_left() {
    let broker = slow_broker().await;
    let mut older = connecting(&broker, Version::V311).await;
    let newer = lasting(newer(&broker, Version::V311));
    leave_behind(&broker, &newer, &["t/a"]).await;
    refused(Version::V311, &mut older).await;
    let (.., connected) = client::connect(&newer).await.unwrap();
    assert!(connected.session_present, "the older one wanted a clean session");
}
