//! Tokens: what is accepted says strictly what it has to, and is accepted again; a signature that was touched is not.
//!
//! The first byte says what the rest is: a whole token, or, before a line feed, a header and after it claims, which are
//! signed with a key that the broker knows, so that what lies behind the signature is reached.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm as Library, EncodingKey};
use mqtt_operator::auth::issuer::read_keys;
use mqtt_operator::auth::key::Algorithm;
use mqtt_operator::auth::settings::{Issuer, IssuerKeys, Jwt, Mapping, Settings};
use mqtt_operator::auth::token::looks_like_token;
use mqtt_operator::auth::{KeySet, Policy, Presented, Principal, Sources, Verdict};
use mqtt_operator::mqtt::QoS;
use serde_json::{Map, Value};

pub const NOW: u64 = 1_763_800_000;
const SECRET: [u8; 32] = [b's'; 32];

fn jwks(kid: &str) -> Vec<u8> {
    let secret = URL_SAFE_NO_PAD.encode(SECRET);
    format!(r#"{{"issuer":"cluster","keys":[{{"kty":"oct","alg":"HS256","kid":"{kid}","k":"{secret}"}}]}}"#)
        .into_bytes()
}

fn issuer(name: &str, keys: IssuerKeys, mapping: Mapping) -> Issuer {
    Issuer {
        issuer: name.into(),
        audiences: if mapping == Mapping::Authx { vec![] } else { vec!["mqtt".into()] },
        keys,
        algorithms: vec![Algorithm::Hs256],
        acl_claim: "acl".into(),
        max_token_ttl: 86_400,
        mapping,
        groups: vec![],
    }
}

/// Knows tokens of its own (`own`), of `idp`, of devices (`authx`) and of a cluster (`cluster`), each with one key `k`.
pub fn policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let mapping = Mapping::Claims {
            subject: "sub".into(),
            username: "username".into(),
            client_id: "client_id".into(),
            groups: "/realm/roles".into(),
        };
        let issuers = vec![
            issuer("idp", IssuerKeys::Document, mapping),
            issuer("authx", IssuerKeys::Document, Mapping::Authx),
            issuer("", IssuerKeys::Cluster, Mapping::ServiceAccount),
        ];
        let keys = issuers.iter().map(|it| Some(read_keys(it, &jwks("k")).expect("a good key set"))).collect();
        let jwt = Jwt {
            issuer: "own".into(),
            audience: "mqtt".into(),
            max_token_ttl: 86_400,
            bind_client_id: false,
            acl_claim: "acl".into(),
        };
        let settings = Settings { jwt, issuers, ..Settings::default() };
        let jwks = KeySet::parse(&jwks("k")).expect("a good key set");
        let sources = Sources { jwks, issuers: keys, memory: Some([1; 32]), ..Sources::default() };
        Policy::new(&settings, sources).expect("a good policy")
    })
}

/// A token with this header and these claims, whatever they are.
pub fn sign(header: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(&SECRET);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Library::HS256).expect("a good secret");
    format!("{message}.{signature}")
}

pub fn run(input: &[u8]) {
    looks_like_token(input);
    let Some((kind, rest)) = input.split_first() else { return };
    if kind % 2 == 0 {
        // Whatever it is: nothing that is not signed gets anywhere.
        let accepted = policy().verify_token(rest, NOW);
        assert!(accepted.is_err() || rest.ends_with(signature(rest)), "accepted without its signature");
        return;
    }
    let (header, claims) = match rest.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (&br#"{"alg":"HS256","kid":"k"}"#[..], rest),
    };
    check(&sign(header, claims), claims);
}

/// The signature that the first two parts should have.
fn signature(token: &[u8]) -> &[u8] {
    let Some(at) = token.iter().rposition(|byte| *byte == b'.') else { return b"-" };
    let key = EncodingKey::from_secret(&SECRET);
    let right = jsonwebtoken::crypto::sign(&token[..at], &key, Library::HS256).expect("a good secret");
    if token[at + 1..] == *right.as_bytes() { &token[at + 1..] } else { b"-" }
}

/// What holds of each token that is accepted.
fn check(token: &str, claims: &[u8]) {
    let Ok(verified) = policy().verify_token(token.as_bytes(), NOW) else { return };
    assert!(token.len() <= 8 * 1024, "{} bytes", token.len());
    let said: Map<String, Value> = serde_json::from_slice(claims).expect("claims are an object");
    assert_eq!(said["iss"].as_str(), Some(verified.issuer.as_str()));
    assert_eq!(said["exp"].as_u64(), Some(verified.expires_at));
    assert!((NOW + 1..=NOW + 86_430).contains(&verified.expires_at), "{}", verified.expires_at);
    let again = policy().verify_token(token.as_bytes(), NOW).expect("it was right a moment ago");
    assert_eq!((again.subject, again.expires_at), (verified.subject.clone(), verified.expires_at));
    assert!(policy().verify_token(token.as_bytes(), verified.expires_at).is_err(), "it has expired then");

    let mut touched = token.to_owned().into_bytes();
    let first = token.rfind('.').expect("three parts") + 1;
    touched[first] = if touched[first] == b'A' { b'B' } else { b'A' };
    assert!(policy().verify_token(&touched, NOW).is_err(), "a touched signature");

    let client_id = said.get("client_id").and_then(Value::as_str).unwrap_or("c");
    let presented = Presented { password: Some(token.as_bytes()), client_id, ..Presented::default() };
    let Verdict::Accepted(identity) = policy().authenticate(&presented, NOW) else { return };
    match &identity.principal {
        Principal::User(name) => assert!(verified.issuer == "own" && !name.starts_with("system:")),
        Principal::Foreign { issuer, subject } => {
            assert!(*issuer != "own" && !issuer.contains('#'));
            assert!(!subject.starts_with("system:") || issuer == "cluster", "{subject}");
        }
        other => panic!("a token made {other}"),
    }
    let grants = policy().grants(&identity, client_id);
    for topic in ["$SYS/x", "$SYS/broker/uptime", "$share/g/x"] {
        assert!(!grants.may_publish(topic, QoS::AtMostOnce, false), "{topic}");
    }
}
