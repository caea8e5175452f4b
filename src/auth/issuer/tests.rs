use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{self, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::auth::key::{PrivateKey, PrivateKeys, generate};
use crate::auth::rule::Rule;
use crate::auth::settings::{Group, Jwt, Settings};
use crate::auth::token::looks_like_token;
use crate::auth::{Identity, Policy, PolicyError, Presented, Principal, Sources, Verdict};
use crate::mqtt::QoS;

const NOW: u64 = 1_763_800_000;
const IDP: &str = "https://idp.example/realm";

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn own(algorithm: Algorithm, seed: u8) -> PrivateKey {
    generate(algorithm, &[seed; 48]).unwrap()
}

/// Made once: it takes a while.
fn rsa_key() -> &'static rsa::KeyPair {
    static KEY: OnceLock<rsa::KeyPair> = OnceLock::new();
    KEY.get_or_init(|| rsa::KeyPair::generate(KeySize::Rsa2048).unwrap())
}

fn rsa_jwk(kid: &str) -> Value {
    let public = rsa_key().public_key();
    let part = |part: &[u8]| base64(part);
    json!({"kty": "RSA", "kid": kid, "n": part(public.modulus().big_endian_without_leading_zero()),
           "e": part(public.exponent().big_endian_without_leading_zero())})
}

fn jwk(key: &PrivateKey) -> Value {
    let document: Value = serde_json::from_str(&PrivateKeys { keys: vec![key.clone()] }.public()).unwrap();
    document["keys"][0].clone()
}

fn set(keys: &[Value]) -> Vec<u8> {
    json!({"keys": keys}).to_string().into_bytes()
}

fn settings(algorithms: &[Algorithm]) -> settings::Issuer {
    settings::Issuer {
        issuer: IDP.into(),
        audiences: vec!["mqtt".into()],
        keys: IssuerKeys::Url { url: "https://idp.example/jwks".into(), allow_private: false, own_authorities: false },
        algorithms: algorithms.to_vec(),
        acl_claim: "acl".into(),
        max_token_ttl: 86_400,
        mapping: Mapping::default(),
        groups: vec![],
    }
}

fn own_jwt() -> Jwt {
    Jwt {
        issuer: "mqttbroker/shop/home".into(),
        audience: "mqtt://shop/home".into(),
        max_token_ttl: 3600,
        acl_claim: "acl".into(),
        bind_client_id: false,
    }
}

fn policy_with(issuers: Vec<(settings::Issuer, Option<Vec<u8>>)>, change: impl FnOnce(&mut Settings)) -> Policy {
    let keys =
        issuers.iter().map(|(issuer, document)| document.as_ref().map(|it| read_keys(issuer, it).unwrap())).collect();
    let mut all = Settings {
        jwt: own_jwt(),
        issuers: issuers.into_iter().map(|(issuer, _)| issuer).collect(),
        ..Settings::default()
    };
    change(&mut all);
    let jwks = KeySet::parse(PrivateKeys { keys: vec![own(Algorithm::EdDsa, 1)] }.public().as_bytes()).unwrap();
    Policy::new(&all, Sources { jwks, issuers: keys, memory: Some([3; 32]), ..Sources::default() }).unwrap()
}

fn policy(issuer: settings::Issuer, keys: &[Value]) -> Policy {
    policy_with(vec![(issuer, Some(set(keys)))], |_| {})
}

fn claims() -> Value {
    json!({"iss": IDP, "aud": "mqtt", "sub": "alice", "iat": NOW, "exp": NOW + 3600})
}

fn with(change: &[(&str, Value)]) -> Value {
    let mut claims = claims();
    for (name, value) in change {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(*name);
        } else {
            claims[*name] = value.clone();
        }
    }
    claims
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64(header.to_string()), base64(claims.to_string()))
}

fn sign(header: &Value, claims: &Value, key: &PrivateKey) -> String {
    let message = message(header, claims);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key.encoding(), key.algorithm().library()).unwrap();
    format!("{message}.{signature}")
}

fn sign_rsa(header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let mut signature = vec![0; rsa_key().public_modulus_len()];
    let random = SystemRandom::new();
    rsa_key().sign(&signature::RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", base64(signature))
}

fn rs256(kid: &str) -> Value {
    json!({"alg": "RS256", "typ": "JWT", "kid": kid})
}

/// Signs with a shared secret of 32 bytes or more.
fn sign_secret(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = message(header, claims);
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn connect(policy: &Policy, token: &str, username: Option<&str>, client_id: &str) -> Result<Identity, String> {
    let presented = Presented { username, password: Some(token.as_bytes()), client_id, ..Presented::default() };
    match policy.authenticate(&presented, NOW) {
        Verdict::Accepted(identity) => Ok(identity),
        Verdict::Refused(refusal) => Err(refusal.log),
        Verdict::UnknownKey { issuer, refusal } => Err(format!("fetch {issuer}: {}", refusal.log)),
        Verdict::CheckPassword(_) => panic!("a token fell back to the password check"),
    }
}

#[track_caller]
fn refused(policy: &Policy, token: &str, why: &str) {
    let text = connect(policy, token, None, "c").expect_err("it is refused");
    assert!(text.contains(why), "{text}");
}

#[test]
fn a_token_of_each_algorithm_is_accepted_as_a_foreign_principal() {
    let ed = own(Algorithm::EdDsa, 5);
    let es = own(Algorithm::Es256, 5);
    let all = [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256];
    let policy = policy(settings(&all), &[jwk(&ed), jwk(&es), rsa_jwk("r")]);
    let tokens = [
        sign_rsa(&rs256("r"), &claims()),
        sign(&json!({"alg": "EdDSA", "kid": ed.kid()}), &claims(), &ed),
        sign(&json!({"alg": "ES256", "kid": es.kid()}), &claims(), &es),
    ];
    for token in &tokens {
        let identity = connect(&policy, token, Some("alice"), "c").unwrap();
        assert_eq!(identity.principal, Principal::Foreign { issuer: IDP.into(), subject: "alice".into() });
        assert_eq!(identity.principal.to_string(), format!("{IDP}#alice"));
        assert_eq!(identity.expires_at, Some(NOW + 3600));
        assert!(policy.knows(&identity).is_ok());
    }
    assert_eq!(policy.foreign_keys().count(), 3);
}

#[test]
fn a_foreign_subject_is_not_the_user_of_that_name() {
    let mine = own(Algorithm::EdDsa, 1);
    let policy = policy(settings(&[Algorithm::Rs256]), &[rsa_jwk("r")]);
    let own_claims = json!({"iss": "mqttbroker/shop/home", "aud": "mqtt://shop/home", "sub": "alice",
                            "iat": NOW, "exp": NOW + 60});
    let own = sign(&json!({"alg": "EdDSA", "kid": mine.kid()}), &own_claims, &mine);
    let own = connect(&policy, &own, None, "c").unwrap();
    let foreign = connect(&policy, &sign_rsa(&rs256("r"), &claims()), None, "c").unwrap();
    assert_ne!(own.principal, foreign.principal);
}

#[test]
fn the_issuer_of_a_token_picks_the_keys_and_no_others_count() {
    let (own_key, theirs, other) = (own(Algorithm::EdDsa, 1), own(Algorithm::EdDsa, 2), own(Algorithm::EdDsa, 3));
    let second = settings::Issuer { issuer: "https://other.example".into(), ..settings(&[Algorithm::EdDsa]) };
    let policy = policy_with(
        vec![(settings(&[Algorithm::EdDsa]), Some(set(&[jwk(&theirs)]))), (second, Some(set(&[jwk(&other)])))],
        |_| {},
    );
    let header = |key: &PrivateKey| json!({"alg": "EdDSA", "kid": key.kid()});
    assert!(connect(&policy, &sign(&header(&theirs), &claims(), &theirs), None, "c").is_ok());
    // Keys of another issuer, and the broker's own, sign nothing for this one; and this one's nothing for the broker.
    for key in [&own_key, &other] {
        refused(&policy, &sign(&header(key), &claims(), key), "is not among those of");
        refused(&policy, &sign(&header(&theirs), &claims(), key), "signature is wrong");
    }
    let mine = with(&[("iss", json!("mqttbroker/shop/home")), ("aud", json!("mqtt://shop/home"))]);
    refused(&policy, &sign(&header(&theirs), &mine, &theirs), "is not loaded");
    for iss in ["https://idp.example/realm/", "HTTPS://idp.example/realm", "https://idp.example", "", "evil"] {
        let token = sign(&header(&theirs), &with(&[("iss", json!(iss))]), &theirs);
        refused(&policy, &token, "is not loaded");
    }
    refused(&policy, &sign(&header(&theirs), &with(&[("iss", json!([IDP]))]), &theirs), "is not loaded");
}

#[test]
fn the_public_key_of_an_issuer_is_not_the_secret_of_an_hmac() {
    let all = [Algorithm::Rs256, Algorithm::Hs256];
    let issuer = settings::Issuer { keys: IssuerKeys::Document, ..settings(&all) };
    let policy = policy(issuer, &[rsa_jwk("r")]);
    let n = URL_SAFE_NO_PAD.decode(rsa_jwk("r")["n"].as_str().unwrap()).unwrap();
    let jwk = rsa_jwk("r").to_string();
    for secret in [n.as_slice(), jwk.as_bytes()] {
        for kid in [json!({"alg": "HS256", "kid": "r"}), json!({"alg": "HS256"})] {
            refused(&policy, &sign_secret(&kid, &claims(), secret), "its key \"r\" is RS256");
        }
    }
    for alg in ["none", "PS256", "RS384", "rs256", "HS256"] {
        refused(&policy, &sign_rsa(&json!({"alg": alg, "kid": "r"}), &claims()), "its key \"r\" is RS256");
    }
    refused(&policy, &format!("{}.", message(&json!({"alg": "none", "kid": "r"}), &claims())), "its key");
}

#[test]
fn headers_that_bring_a_key_or_demands_are_refused_of_other_issuers_too() {
    let policy = policy(settings(&[Algorithm::Rs256]), &[rsa_jwk("r")]);
    for (name, value) in [
        ("jku", json!("https://evil.example/jwks")),
        ("x5u", json!("https://evil.example/cert")),
        ("jwk", rsa_jwk("r")),
        ("x5c", json!(["AAAA"])),
        ("crit", json!(["exp"])),
        ("typ", json!("dpop+jwt")),
    ] {
        let mut header = rs256("r");
        header[name] = value;
        refused(&policy, &sign_rsa(&header, &claims()), "the token's header");
    }
}

#[test]
fn a_key_counts_only_if_its_kind_is_among_the_algorithms_of_its_issuer() {
    let es = own(Algorithm::Es256, 5);
    let read = |algorithms: &[Algorithm], keys: &[Value]| KeySet::parse_foreign(&set(keys), algorithms);
    let change = |name: &str, value: Value| {
        let mut jwk = rsa_jwk("r");
        jwk[name] = value;
        jwk
    };
    let both = [rsa_jwk("r"), jwk(&es)];
    assert_eq!(read(&[Algorithm::Es256], &both).unwrap().ids(), [es.kid()]);
    assert_eq!(
        read(&[Algorithm::Es256], &both).unwrap().skipped(),
        ["keys[0]: is for RS256, which is not among the issuer's algorithms"]
    );
    for (entry, why) in [
        (change("alg", json!("RS512")), "`alg` is not RS256"),
        (change("alg", json!("HS256")), "`alg` is not RS256"),
        (change("alg", json!(1)), "`alg` is not text"),
        (change("use", json!("enc")), "is not for signatures"),
        (change("key_ops", json!(["encrypt"])), "`key_ops` is without verify"),
        (change("key_ops", json!("verify")), "`key_ops` is without verify"),
        (change("d", json!("AAAA")), "is a private key"),
        (change("e", json!("AQ")), "`e` is not an odd number"),
        (change("e", json!("AQAC")), "`e` is not an odd number"),
        (change("e", json!("____________")), "`e` is not an odd number"),
        (change("n", json!(base64([0xFF; 128]))), "has 1024 bits"),
        (change("n", json!(base64([[0; 200].as_slice(), &[0xFF; 128]].concat()))), "has 1024 bits"),
        (change("n", json!(base64([0xFF; 1025]))), "has 8200 bits"),
        (change("n", json!("")), "`n` is missing"),
        (change("n", json!("A=")), "`n` is not base64url"),
        (change("kid", json!(7)), "`kid` is not text"),
        (json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}), "is of a kind that is not known here"),
        (json!({"kty": "oct", "k": "c2hvcnQ", "kid": "s"}), "is for HS256, which is not among"),
        (json!(7), "not an object"),
    ] {
        let error = read(&[Algorithm::Rs256, Algorithm::EdDsa], std::slice::from_ref(&entry)).unwrap_err().to_string();
        assert!(error.contains(why), "{entry}: {error}");
    }
    assert!(read(&[Algorithm::Rs256], &[change("key_ops", json!(["verify"])), change("kid", json!("s"))]).is_ok());
    let twice = read(&[Algorithm::Rs256], &[rsa_jwk("r"), rsa_jwk("r")]).unwrap_err().to_string();
    assert_eq!(twice, r#"keys[1]: the kid "r" is there twice"#);
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[],"keys":[]}"#] {
        assert!(KeySet::parse_foreign(text.as_bytes(), &[Algorithm::Rs256]).is_err(), "{text:?}");
    }
}

#[test]
fn a_token_without_a_key_id_is_accepted_only_where_there_is_one_key() {
    let mut nameless = rsa_jwk("r");
    nameless.as_object_mut().unwrap().remove("kid");
    let token = sign_rsa(&json!({"alg": "RS256"}), &claims());
    for key in [nameless.clone(), rsa_jwk("r")] {
        assert!(connect(&policy(settings(&[Algorithm::Rs256]), &[key]), &token, None, "c").is_ok());
    }
    let all = [Algorithm::Rs256, Algorithm::Es256];
    let two = policy(settings(&all), &[nameless, jwk(&own(Algorithm::Es256, 5))]);
    refused(&two, &token, "`kid` is missing, and its issuer has several keys");
    refused(&two, &sign_rsa(&json!({"alg": "RS256", "kid": ""}), &claims()), "`kid` is not text");
}

#[test]
fn an_unknown_key_is_worth_a_fetch_only_if_it_can_be_one() {
    let fetched = policy(settings(&[Algorithm::Rs256]), &[rsa_jwk("r")]);
    refused(&fetched, &sign_rsa(&rs256("new"), &claims()), "fetch https://idp.example/realm");
    for kid in ["a b", "../../etc/passwd\n", "é", "x".repeat(300).as_str()] {
        let text = connect(&fetched, &sign_rsa(&rs256(kid), &claims()), None, "c").unwrap_err();
        assert!(text.starts_with("the token's key"), "{text}");
    }
    let unfetched = policy_with(vec![(settings(&[Algorithm::Rs256]), None)], |_| {});
    refused(&unfetched, &sign_rsa(&rs256("r"), &claims()), "fetch ");
    refused(&unfetched, &sign_rsa(&json!({"alg": "RS256"}), &claims()), "fetch ");
    let issuer = settings::Issuer { keys: IssuerKeys::Document, ..settings(&[Algorithm::Rs256]) };
    let text = connect(&policy(issuer, &[rsa_jwk("r")]), &sign_rsa(&rs256("new"), &claims()), None, "c").unwrap_err();
    assert!(text.starts_with("the token's key"), "{text}");
}

#[test]
fn claims_of_other_issuers_are_as_strict() {
    let policy = policy(settings(&[Algorithm::Rs256]), &[rsa_jwk("r")]);
    for (claim, value, why) in [
        ("aud", json!("other"), "`aud` is not one"),
        ("aud", json!(["a", "b"]), "`aud` is not one"),
        ("aud", json!(null), "`aud` is not one"),
        ("aud", json!(7), "`aud` is not a list of texts"),
        ("sub", json!(null), "`sub` is missing"),
        ("sub", json!(7), "`sub` is not text"),
        ("sub", json!("system:bridge"), "begins with `system:`"),
        ("sub", json!("system:serviceaccount:shop:app"), "begins with `system:`"),
        ("username", json!("system:x"), "begins with `system:`"),
        ("exp", json!(null), "`exp` is missing"),
        ("exp", json!(1.5), "`exp` is not"),
        ("exp", json!(-1), "`exp` is not"),
        ("exp", json!(u64::MAX), "at most 24 h is accepted"),
        ("iat", json!("1"), "`iat` is not"),
        ("iat", json!(NOW + 31), "is not valid for another 31 s"),
        ("nbf", json!(NOW + 31), "is not valid for another 31 s"),
        ("exp", json!(NOW), "expired 0 s ago"),
        ("client_id", json!([]), "`client_id` is empty"),
        ("groups", json!([1]), "`groups` is not a list of texts"),
        ("acl", json!("x"), "`acl` is neither"),
        ("jti", json!(1), "`jti` is not text"),
    ] {
        refused(&policy, &sign_rsa(&rs256("r"), &with(&[(claim, value)])), why);
    }
    assert!(connect(&policy, &sign_rsa(&rs256("r"), &with(&[("aud", json!(["x", "mqtt"]))])), None, "c").is_ok());
    let twice = claims().to_string().replacen('{', r#"{"sub":"root","#, 1);
    let message = format!("{}.{}", base64(rs256("r").to_string()), base64(twice));
    refused(&policy, &format!("{message}.AAAA"), "is not loaded");
}

#[test]
fn without_iat_what_is_left_of_a_life_counts() {
    let policy = policy(settings(&[Algorithm::Rs256]), &[rsa_jwk("r")]);
    let token = |exp: u64| sign_rsa(&rs256("r"), &with(&[("iat", json!(null)), ("exp", json!(exp))]));
    assert!(connect(&policy, &token(NOW + 86_400), None, "c").is_ok());
    refused(&policy, &token(NOW + 86_401), "lives for 24 h; at most 24 h is accepted");
    refused(&policy, &token(NOW - 5), "expired 5 s ago");
}

#[test]
fn a_mapping_says_which_claims_are_meant() {
    let mapping = Mapping::Claims {
        subject: "/device/id".into(),
        username: "preferred_username".into(),
        client_id: "azp".into(),
        groups: "/realm_access/roles".into(),
    };
    let group = |name: &str, topic: &str| Group {
        name: name.into(),
        acl: vec![
            serde_json::from_value::<Rule>(json!({"permission": "allow", "action": "publish", "topic": topic}))
                .unwrap(),
        ],
    };
    let issuer = settings::Issuer {
        mapping,
        acl_claim: String::new(),
        groups: vec!["everyone".into()],
        ..settings(&[Algorithm::Rs256])
    };
    let policy = policy_with(vec![(issuer, Some(set(&[rsa_jwk("r")])))], |settings| {
        settings.groups = vec![group("sensor", "s/${sub}/${username}"), group("everyone", "all"), group("root", "#")];
    });
    let claims = with(&[
        ("device", json!({"id": "d7"})),
        ("preferred_username", json!("bob")),
        ("azp", json!("client-7")),
        ("realm_access", json!({"roles": ["sensor", "unknown"]})),
        ("groups", json!(["root"])),
        ("acl", json!([{"permission": "allow", "action": "all", "topic": "#"}])),
        ("client_id", json!("ignored")),
    ]);
    let token = sign_rsa(&rs256("r"), &claims);
    let identity = connect(&policy, &token, Some("bob"), "client-7").unwrap();
    assert_eq!(identity.principal.to_string(), format!("{IDP}#d7"));
    let grants = policy.grants(&identity, "client-7");
    let may = |topic: &str| grants.may_publish(topic, QoS::AtMostOnce, false);
    assert!(may("s/d7/bob") && may("all") && !may("x"));
    assert!(connect(&policy, &token, Some("d7"), "client-7").is_ok());
    for (username, client_id) in [(Some("alice"), "client-7"), (None, "ignored")] {
        assert!(connect(&policy, &token, username, client_id).is_err());
    }
    refused(&policy, &sign_rsa(&rs256("r"), &with(&[("device", json!({"id": 7}))])), "`/device/id` is not text");
    refused(&policy, &sign_rsa(&rs256("r"), &with(&[("device", json!([]))])), "`/device/id` is missing");
}

const GROUP_A: [u8; 36] = [b'a'; 36];
const GROUP_B: [u8; 36] = [b'b'; 36];

fn authx_policy() -> Policy {
    let issuer = settings::Issuer {
        issuer: "authx".into(),
        audiences: vec![],
        keys: IssuerKeys::Document,
        mapping: Mapping::Authx,
        max_token_ttl: 8760 * 3600,
        ..settings(&[Algorithm::Hs256])
    };
    let key = |kid: &str, secret: &[u8]| json!({"kty": "oct", "kid": kid, "k": base64(secret)});
    let group = Group {
        name: "group-a".into(),
        acl: vec![
            serde_json::from_value(
                json!({"permission": "allow", "action": "publish", "topic": "${claims.organizationID}/${username}/#"}),
            )
            .unwrap(),
        ],
    };
    let document = set(&[key("group-a", &GROUP_A), key("group-b", &GROUP_B)]);
    policy_with(vec![(issuer, Some(document))], |settings| settings.groups = vec![group])
}

fn device(group: &str, change: &[(&str, Value)]) -> Value {
    let mut claims = json!({
        "iss": "authx", "exp": NOW + 172_800, "iat": NOW, "organizationID": "org", "device_group_id": group,
        "device_id": "dev", "access": ["DEVICE"],
    });
    for (name, value) in change {
        claims[*name] = value.clone();
    }
    claims
}

#[test]
fn a_device_of_the_original_system_is_let_in_with_its_group() {
    let policy = authx_policy();
    for header in [json!({"alg": "HS256", "typ": "JWT"}), json!({"alg": "HS256", "kid": "group-a"})] {
        let token = sign_secret(&header, &device("group-a", &[]), &GROUP_A);
        assert!(looks_like_token(token.as_bytes()));
        let identity = connect(&policy, &token, Some("dev"), "anything").unwrap();
        assert_eq!(identity.principal.to_string(), "authx#group-a/dev");
        assert!(identity.owns_client_id("dev"));
        let grants = policy.grants(&identity, "anything");
        assert!(grants.may_publish("org/dev/t", QoS::AtMostOnce, false));
        assert!(!grants.may_publish("org/other/t", QoS::AtMostOnce, false));
    }
}

#[test]
fn the_secret_of_a_group_makes_devices_of_that_group_alone() {
    let (policy, header) = (authx_policy(), json!({"alg": "HS256", "typ": "JWT"}));
    let b = connect(&policy, &sign_secret(&header, &device("group-b", &[]), &GROUP_B), None, "c").unwrap();
    let a = connect(&policy, &sign_secret(&header, &device("group-a", &[]), &GROUP_A), None, "c").unwrap();
    assert_ne!(a.principal, b.principal, "the same device id in two groups");
    refused(&policy, &sign_secret(&header, &device("group-b", &[]), &GROUP_A), "signature is wrong");
    let named = json!({"alg": "HS256", "kid": "group-a"});
    refused(&policy, &sign_secret(&named, &device("group-b", &[]), &GROUP_A), "`kid` is not its `device_group_id`");
    refused(&policy, &sign_secret(&header, &device("group-c", &[]), &GROUP_A), "is not among those of");
    for (claim, value, why) in [
        ("device_group_id", json!(null), "which names the key, is missing"),
        ("device_group_id", json!(""), "which names the key, is missing"),
        ("device_group_id", json!(["group-a"]), "which names the key, is missing"),
        ("device_id", json!(null), "`device_id` is not text"),
        ("device_id", json!(""), "`device_id` is empty"),
        ("device_id", json!("system:x"), "`device_id` begins with `system:`"),
        ("organizationID", json!(7), "`organizationID` is not text"),
        ("access", json!(["ORG"]), "`access` is without DEVICE"),
        ("access", json!([]), "`access` is without DEVICE"),
        ("access", json!({"DEVICE": true}), "`access` is not a list of texts"),
        ("exp", json!(NOW - 1), "`exp` is before `iat`"),
    ] {
        refused(&policy, &sign_secret(&header, &device("group-a", &[(claim, value)]), &GROUP_A), why);
    }
}

fn cluster() -> settings::Issuer {
    settings::Issuer {
        issuer: String::new(),
        keys: IssuerKeys::Cluster,
        acl_claim: String::new(),
        mapping: Mapping::ServiceAccount,
        ..settings(&[Algorithm::Rs256])
    }
}

fn cluster_document() -> Vec<u8> {
    json!({"issuer": "https://kubernetes.default.svc", "keys": [rsa_jwk("r")]}).to_string().into_bytes()
}

#[test]
fn a_service_account_is_a_principal_of_its_cluster_and_of_nobody_else() {
    const SUBJECT: &str = "system:serviceaccount:shop:app";
    let group = |name: &str, topic: &str| Group {
        name: name.into(),
        acl: vec![serde_json::from_value(json!({"permission": "allow", "action": "publish", "topic": topic})).unwrap()],
    };
    let policy = policy_with(vec![(cluster(), Some(cluster_document()))], |settings| {
        settings.groups = vec![
            group("serviceaccount:shop:app", "one/${claims.namespace}/${claims.serviceaccount}"),
            group("serviceaccounts:shop", "shop"),
            group("serviceaccounts:other", "other"),
            group("serviceaccounts", "every"),
        ];
    });
    let token = |sub: &str| {
        let claims = with(&[("iss", json!("https://kubernetes.default.svc")), ("sub", json!(sub))]);
        sign_rsa(&rs256("r"), &claims)
    };
    for username in [None, Some(SUBJECT)] {
        let identity = connect(&policy, &token(SUBJECT), username, "c").unwrap();
        assert_eq!(identity.principal.to_string(), format!("https://kubernetes.default.svc#{SUBJECT}"));
        let grants = policy.grants(&identity, "c");
        let may = |topic: &str| grants.may_publish(topic, QoS::AtMostOnce, false);
        assert!(may("one/shop/app") && may("shop") && may("every") && !may("other"));
    }
    for username in ["system:serviceaccount:shop:other", "system:bridge", "app"] {
        assert!(connect(&policy, &token(SUBJECT), Some(username), "c").is_err(), "{username}");
    }
    for sub in [
        "system:bridge",
        "system:serviceaccount:shop",
        "system:serviceaccount::app",
        "system:serviceaccount:a:b:c",
        "system:serviceaccount:shop:",
        "system:serviceaccount:sh/op:app",
        "system:anonymous",
        "alice",
    ] {
        refused(&policy, &token(sub), "`sub` is no ServiceAccount");
    }
    let presented = Presented { username: Some(SUBJECT), password: Some(b"password"), ..Presented::default() };
    assert!(matches!(policy.authenticate(&presented, NOW), Verdict::Refused(_)));
    // Until the cluster has said what it is called, nothing of it is accepted.
    let unread = policy_with(vec![(cluster(), None)], |_| {});
    refused(&unread, &token(SUBJECT), "is not loaded");
}

#[test]
fn settings_that_would_open_too_much_are_refused() {
    let error = |issuers: Vec<settings::Issuer>| {
        let settings = Settings { jwt: own_jwt(), issuers, ..Settings::default() };
        Policy::new(&settings, Sources::default()).unwrap_err()
    };
    let good = || settings(&[Algorithm::Rs256]);
    for (issuer, why) in [
        (settings::Issuer { issuer: String::new(), ..good() }, "issuers[0].issuer: must not be empty"),
        (settings::Issuer { issuer: "a#b".into(), ..good() }, "issuers[0].issuer: must not"),
        (settings::Issuer { issuer: "user:a".into(), ..good() }, "issuers[0].issuer: must not"),
        (settings::Issuer { issuer: "system:a".into(), ..good() }, "issuers[0].issuer: must not"),
        (settings::Issuer { issuer: "mqttbroker/shop/home".into(), ..good() }, "is this broker's own"),
        (settings::Issuer { audiences: vec![], ..good() }, "issuers[0].audiences: at least one"),
        (settings::Issuer { algorithms: vec![], ..good() }, "issuers[0].algorithms: must not be empty"),
        (settings::Issuer { algorithms: vec![Algorithm::Hs256], ..good() }, "HS256 takes keys from a Secret"),
    ] {
        let text = error(vec![issuer]).to_string();
        assert!(text.contains(why), "{text}");
    }
    let twice = error(vec![good(), good()]);
    assert!(matches!(twice, PolicyError::Issuer { index: 1, source: IssuerError::Twice(_) }), "{twice}");
}

#[test]
fn the_bearer_of_a_key_that_is_gone_is_no_longer_known() {
    let before = policy(settings(&[Algorithm::Rs256]), &[rsa_jwk("r")]);
    let identity = connect(&before, &sign_rsa(&rs256("r"), &claims()), None, "c").unwrap();
    assert!(policy(settings(&[Algorithm::Rs256]), &[rsa_jwk("s")]).knows(&identity).is_err());
    assert!(policy_with(vec![], |_| {}).knows(&identity).is_err());
}

#[test]
fn a_remembered_token_is_checked_for_what_time_changes_and_for_who_presents_it() {
    let policy = policy(settings(&[Algorithm::Rs256]), &[rsa_jwk("r")]);
    let token = sign_rsa(&rs256("r"), &with(&[("client_id", json!("c"))]));
    let at = |now: u64| policy.verify_token(token.as_bytes(), now).map(|verified| verified.subject);
    for _ in 0..3 {
        assert_eq!(at(NOW).unwrap(), "alice");
    }
    assert_eq!(at(NOW + 3600), Err(TokenError::Expired(0)));
    assert_eq!(at(NOW - 31), Err(TokenError::NotYetValid(31)));
    assert!(connect(&policy, &token, None, "c").is_ok());
    assert!(connect(&policy, &token, None, "d").is_err());
    assert!(connect(&policy, &token, Some("mallory"), "c").is_err());
    let mut forged = token.clone();
    forged.pop();
    assert!(connect(&policy, &forged, None, "c").is_err());
}

#[test]
fn a_token_of_the_web_socket_request_counts_only_alone() {
    let policy = policy(settings(&[Algorithm::Rs256]), &[rsa_jwk("r")]);
    let good = sign_rsa(&rs256("r"), &claims());
    let other = sign_rsa(&rs256("r"), &with(&[("jti", json!("2"))]));
    let base = Presented { client_id: "c", bearer: Some(good.as_bytes()), ..Presented::default() };
    let accepted = |presented: &Presented<'_>| matches!(policy.authenticate(presented, NOW), Verdict::Accepted(_));
    let (good, other) = (good.as_bytes(), other.as_bytes());
    assert!(accepted(&base));
    assert!(accepted(&Presented { username: Some("alice"), ..base }));
    assert!(accepted(&Presented { password: Some(good), ..base }));
    assert!(accepted(&Presented { method: Some("JWT"), data: Some(good), ..base }));
    for presented in [
        Presented { username: Some("bob"), ..base },
        Presented { password: Some(other), ..base },
        Presented { password: Some(b"password"), username: Some("alice"), ..base },
        Presented { password: Some(b""), username: Some("alice"), ..base },
        Presented { method: Some("JWT"), data: Some(other), ..base },
        Presented { method: Some("JWT"), ..base },
        Presented { method: Some("SCRAM-SHA-1"), ..base },
        Presented { data: Some(good), ..base },
        Presented { bearer: Some(b"x"), ..base },
        Presented { bearer: Some(b""), ..base },
    ] {
        assert!(!accepted(&presented), "{presented:?}");
    }
}

#[test]
fn a_refusal_says_of_which_kind_it_is() {
    use crate::auth::why::Why;
    let why = |policy: &Policy, token: &str| {
        let presented = Presented { password: Some(token.as_bytes()), client_id: "c", ..Presented::default() };
        match policy.authenticate(&presented, NOW) {
            Verdict::Refused(refusal) | Verdict::UnknownKey { refusal, .. } => refusal.why,
            other => panic!("{other:?}"),
        }
    };
    let policy = policy(settings(&[Algorithm::Rs256]), &[rsa_jwk("r")]);
    let good = sign_rsa(&rs256("r"), &claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let forged = format!("{message}.{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
    assert_eq!(why(&policy, &forged), Why::TokenSignature);
    assert_eq!(why(&policy, &sign_rsa(&rs256("new"), &claims())), Why::TokenKey);
    assert_eq!(why(&policy, &sign_rsa(&rs256("a b"), &claims())), Why::TokenKey);
    assert_eq!(why(&policy, &sign_rsa(&rs256("r"), &with(&[("iss", json!("nobody"))]))), Why::TokenKey);
    assert_eq!(why(&policy, "eyJhIjoxfQ.e30.AA"), Why::TokenInvalid);
    let unfetched = policy_with(vec![(settings(&[Algorithm::Rs256]), None)], |_| {});
    assert_eq!(why(&unfetched, &good), Why::TokenIssuer);
}
