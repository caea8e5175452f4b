//! What a CONNECT with a token costs to decide: `authenticate` and the rules that follow from it, on one thread.
//!
//! `cargo bench --bench auth` prints microseconds for each algorithm, for a token that is new and for one that was
//! verified before under the same policy. Signing is not measured. Arguments are ignored.

// A benchmark that cannot go on has nothing better to do than to say so.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mqtt_operator::auth::issuer::read_keys;
use mqtt_operator::auth::key::{Algorithm, PrivateKey, PrivateKeys, generate};
use mqtt_operator::auth::settings::{Issuer, IssuerKeys, Jwt, Mapping, Settings};
use mqtt_operator::auth::token::{Claims, issue};
use mqtt_operator::auth::{KeySet, Policy, Presented, Sources, Verdict};
use serde_json::json;

const NOW: u64 = 1_763_800_000;
/// Tokens of each kind, all different: a thousand devices that come back.
const TOKENS: usize = 1_000;
/// Rounds, of which the fastest counts: what else the machine does only ever adds.
const ROUNDS: usize = 7;
const ACL: &str = r#"[
    {"permission":"allow","action":"publish","topic":"sensor/${clientid}/#","qos":[0,1],"retain":false},
    {"permission":"allow","action":"subscribe","topic":"cmd/${clientid}/#"}]"#;

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn claims(n: usize) -> Claims {
    Claims {
        iss: "mqttbroker/shop/home".into(),
        aud: "mqtt://shop/home".into(),
        sub: format!("device-{n}"),
        iat: NOW,
        exp: NOW + 3600,
        jti: Some(format!("token-{n}")),
        acl: serde_json::from_str(ACL).unwrap(),
        ..Claims::default()
    }
}

fn sign_rsa(key: &KeyPair, n: usize) -> String {
    let claims = Claims { iss: "https://idp.example".into(), ..claims(n) };
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": "rsa"}).to_string();
    let payload = serde_json::to_string(&claims.to_object()).unwrap();
    let message = format!("{}.{}", base64(header), base64(payload));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", base64(signature))
}

/// Knows the keys, and an issuer with the RSA key; remembers verified tokens or does not.
fn policy(keys: &[PrivateKey], rsa: &KeyPair, remembers: bool) -> Policy {
    let public = rsa.public_key();
    let (n, e) = (public.modulus(), public.exponent());
    let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
    let jwks = json!({"keys": [{"kty": "RSA", "kid": "rsa", "n": base64(n), "e": base64(e)}]}).to_string();
    let issuer = Issuer {
        issuer: "https://idp.example".into(),
        audiences: vec!["mqtt://shop/home".into()],
        keys: IssuerKeys::Document,
        algorithms: vec![Algorithm::Rs256],
        acl_claim: "acl".into(),
        max_token_ttl: 86_400,
        mapping: Mapping::default(),
        groups: vec![],
    };
    let issuers = vec![Some(read_keys(&issuer, jwks.as_bytes()).unwrap())];
    let jwt = Jwt {
        issuer: "mqttbroker/shop/home".into(),
        audience: "mqtt://shop/home".into(),
        max_token_ttl: 86_400,
        bind_client_id: false,
        acl_claim: "acl".into(),
    };
    let settings = Settings { jwt, issuers: vec![issuer], ..Settings::default() };
    let jwks = KeySet::parse(PrivateKeys { keys: keys.to_vec() }.public().as_bytes()).unwrap();
    let memory = remembers.then_some([7; 32]);
    Policy::new(&settings, Sources { jwks, issuers, memory, ..Sources::default() }).unwrap()
}

/// The time of one round over all tokens.
fn round(policy: &Policy, tokens: &[String]) -> Duration {
    let began = Instant::now();
    for token in tokens {
        let presented = Presented { password: Some(token.as_bytes()), client_id: "c", ..Presented::default() };
        match policy.authenticate(&presented, NOW + 1) {
            Verdict::Accepted(identity) => _ = black_box(policy.grants(&identity, "c")),
            other => panic!("{other:?}"),
        }
    }
    began.elapsed()
}

fn main() {
    let keys = [Algorithm::EdDsa, Algorithm::Es256].map(|algorithm| generate(algorithm, &[5; 48]).unwrap());
    let rsa = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let of = |sign: &dyn Fn(usize) -> String| (0..TOKENS).map(sign).collect::<Vec<_>>();
    let tokens = [
        ("EdDSA", of(&|n| issue(&keys[0], &claims(n)))),
        ("ES256", of(&|n| issue(&keys[1], &claims(n)))),
        ("RS256", of(&|n| sign_rsa(&rsa, n))),
    ];
    println!("µs for each CONNECT, {TOKENS} tokens, best of {ROUNDS} rounds");
    println!("{:<8}{:>10}{:>10}", "", "fresh", "cached");
    for (name, tokens) in &tokens {
        let (fresh, cached) = (policy(&keys, &rsa, false), policy(&keys, &rsa, true));
        round(&cached, tokens);
        let best = |policy: &Policy| {
            let rounds = (0..ROUNDS).map(|_| round(policy, tokens));
            rounds.min().unwrap_or_default().as_secs_f64() * 1e6 / TOKENS as f64
        };
        println!("{name:<8}{:>10.1}{:>10.1}", best(&fresh), best(&cached));
    }
}
