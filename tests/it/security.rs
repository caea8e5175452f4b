//! The mistakes that brokers have made, class by class: each test is named after its class, `class_<number>_<what holds>`.
//!
//! They speak bytes to a broker over real sockets, as an attacker would. [`page`] keeps the table of docs/security.md.

mod documents;
mod kubernetes;
mod live;
mod memory;
mod page;
mod rules;
mod secrets;
mod tokens;
mod transports;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mqtt_operator::auth::key::{Algorithm, PrivateKey, PrivateKeys, generate};
use mqtt_operator::auth::rule::Rule;
use mqtt_operator::auth::token::{Claims, issue};
use serde_json::Value;

use crate::mqtt::wire::*;
use crate::support::{Broker, open, signing_key, unix_seconds};

/// A rule as it is said: `allow publish t/#`.
fn rule(text: &str) -> Rule {
    let [permission, action, topic] = text.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("no rule: {text}") };
    serde_json::from_value(serde_json::json!({"permission": permission, "action": action, "topic": topic})).unwrap()
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().copied().map(rule).collect()
}

/// What a token of `sub` with these rules says; it is good for ten minutes.
fn claims(sub: &str, acl: &[&str]) -> Claims {
    let now = unix_seconds();
    Claims {
        iss: "mqttbroker/test/broker".into(),
        aud: "mqtt://test/broker".into(),
        sub: sub.into(),
        iat: now,
        exp: now + 600,
        acl: rules(acl),
        ..Claims::default()
    }
}

fn token(sub: &str, acl: &[&str]) -> String {
    issue(&signing_key(), &claims(sub, acl))
}

/// A CONNECT of `sub` with a token as its password.
fn bearer(version: Version, sub: &str, client_id: &str, token: &str) -> Connect {
    Connect { username: Some(sub.into()), password: Some(token.into()), ..Connect::new(version, client_id) }
}

/// A broker whose only key is a secret that [`signed`] has, so that a test may sign whatever text it likes.
fn broker_of_the_secret() -> Broker {
    let _entered = runtime().enter();
    let keys = PrivateKeys { keys: vec![secret()] };
    Broker::with_files(open, |etc| std::fs::write(etc.jwks(), keys.public()).unwrap())
}

fn secret() -> PrivateKey {
    generate(Algorithm::Hs256, &[9; 48]).unwrap()
}

/// A token of these two texts, signed with HMAC and the secret of [`broker_of_the_secret`].
fn signed(header: &str, claims: &str) -> String {
    let document: Value = serde_json::from_str(&secret_document()).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(document["keys"][0]["k"].as_str().unwrap()).unwrap();
    signed_with(&bytes, header, claims)
}

fn secret_document() -> String {
    PrivateKeys { keys: vec![secret()] }.to_json()
}

/// [`signed`], with any bytes as the secret.
fn signed_with(secret: &[u8], header: &str, claims: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// Whether the filter is granted; a refusal has the code of the version.
#[track_caller]
fn granted(wire: &mut Wire, filter: &str) -> bool {
    wire.send(&subscribe(wire.version, 9, filter, 1));
    let code = *wire.expect_packet().body.last().expect("a SUBACK with a code");
    let refused = if wire.version == Version::V5 { 0x87 } else { 0x80 };
    assert!(code <= 2 || code == refused, "{filter}: {code:#04x}");
    code <= 2
}

/// Whether a publication of QoS 1 is let through, by the answer in 5.0.
#[track_caller]
fn may_publish(wire: &mut Wire, topic: &str) -> bool {
    assert_eq!(wire.version, Version::V5, "older versions do not tell");
    wire.send(&publish(wire.version, 0x32, topic, 3, b"x"));
    let answer = wire.expect_packet();
    assert_eq!(answer.first, 0x40, "PUBACK");
    let code = answer.body.get(2).copied().unwrap_or(0);
    assert!(matches!(code, 0 | 0x10 | 0x87), "{topic}: {code:#04x}");
    code != 0x87
}
