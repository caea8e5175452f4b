use jsonwebtoken::EncodingKey;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::auth::key::{Algorithm, PrivateKeys, generate};
use crate::auth::revocations::Revocations;
use crate::auth::settings::{Anonymous, Group, Settings, User};
use crate::auth::{Grants, Lost, Policy, Sources, Verdict};
use crate::mqtt::QoS;

const NOW: u64 = 1_763_800_000;
const ALL: [Algorithm; 3] = [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Hs256];

fn key(algorithm: Algorithm) -> PrivateKey {
    generate(algorithm, &[9; 48]).unwrap()
}

fn keys() -> KeySet {
    KeySet::parse(PrivateKeys { keys: ALL.map(key).to_vec() }.public().as_bytes()).unwrap()
}

fn jwt() -> Jwt {
    Jwt {
        issuer: "mqttbroker/shop/home".to_owned(),
        audience: "mqtt://shop/home".to_owned(),
        max_token_ttl: 8760 * 3600,
        bind_client_id: false,
        acl_claim: "acl".to_owned(),
    }
}

fn claims() -> Value {
    json!({
        "iss": "mqttbroker/shop/home", "aud": "mqtt://shop/home", "sub": "dev1",
        "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "jti": "01J",
    })
}

/// The claims with one of them replaced, or removed.
fn with(claim: &str, value: Option<Value>) -> Value {
    let mut claims = claims();
    match value {
        Some(value) => claims[claim] = value,
        None => _ = claims.as_object_mut().unwrap().remove(claim),
    }
    claims
}

fn header(key: &PrivateKey) -> Value {
    json!({"alg": key.algorithm().name(), "typ": "JWT", "kid": key.kid()})
}

fn base64(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Signs any header and any payload, right or wrong.
fn sign(header: &str, payload: &str, key: &PrivateKey) -> String {
    let message = format!("{}.{}", base64(header), base64(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key.encoding(), key.algorithm().library()).unwrap();
    format!("{message}.{signature}")
}

fn token(claims: &Value) -> String {
    let key = key(Algorithm::EdDsa);
    sign(&header(&key).to_string(), &claims.to_string(), &key)
}

fn check(token: &str) -> Result<Verified, TokenError> {
    verify(token.as_bytes(), &keys(), &Expected::from(&jwt()), NOW)
}

/// The reason why a token with a right signature is refused.
fn claims_error(claims: &Value) -> String {
    match check(&token(claims)) {
        Err(TokenError::Claims(text)) => text,
        other => panic!("{claims}: {other:?}"),
    }
}

fn unverified(token: &str) -> String {
    match check(token) {
        Err(TokenError::Unverified(text) | TokenError::Key(text)) => text,
        Err(error @ TokenError::Signature) => error.to_string(),
        other => panic!("{token}: {other:?}"),
    }
}

#[test]
fn a_token_of_each_algorithm_is_accepted() {
    for algorithm in ALL {
        let key = key(algorithm);
        let claims: Claims = serde_json::from_value(claims()).unwrap();
        let verified = check(&issue(&key, &claims)).unwrap();
        assert_eq!((verified.subject.as_str(), verified.expires_at), ("dev1", NOW + 3600), "{algorithm}");
        assert_eq!(verified.credential.kid, key.kid());
    }
}

#[test]
fn the_rules_stand_under_the_claim_that_the_broker_reads_them_from() {
    let acl = vec![serde_json::from_value(json!({"permission": "allow", "action": "publish", "topic": "a"})).unwrap()];
    let claims: Claims = serde_json::from_value(claims()).unwrap();
    let token = issue(&key(Algorithm::EdDsa), &Claims { acl, acl_claim: "mqtt_acl".to_owned(), ..claims });
    let jwt = Jwt { acl_claim: "mqtt_acl".to_owned(), ..jwt() };
    let verified = verify(token.as_bytes(), &keys(), &Expected::from(&jwt), NOW).unwrap();
    assert_eq!(verified.credential.rules.len(), 1);
    assert_eq!(check(&token).unwrap().credential.rules.len(), 0);
}

#[test]
fn alg_none_is_refused_with_and_without_a_signature() {
    let eddsa = key(Algorithm::EdDsa);
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": alg, "kid": eddsa.kid()}).to_string();
        unverified(&sign(&header, &claims().to_string(), &eddsa));
        unverified(&format!("{}.{}.", base64(header), base64(claims().to_string())));
    }
}

#[test]
fn a_public_key_is_not_taken_for_the_secret_of_an_hmac() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let victim = key(algorithm);
        let jwks: Value = serde_json::from_str(&PrivateKeys { keys: vec![victim.clone()] }.public()).unwrap();
        let x = URL_SAFE_NO_PAD.decode(jwks["keys"][0]["x"].as_str().unwrap()).unwrap();
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": victim.kid()}).to_string();
        let message = format!("{}.{}", base64(header), base64(claims().to_string()));
        let forged = EncodingKey::from_secret(&x);
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &forged, jsonwebtoken::Algorithm::HS256).unwrap();
        let text = unverified(&format!("{message}.{signature}"));
        assert!(text.contains("its key"), "{text}");
    }
}

#[test]
fn the_algorithm_of_a_token_must_be_that_of_its_key() {
    for signer in ALL {
        for named in ALL.into_iter().filter(|named| *named != signer) {
            let header = json!({"alg": signer.name(), "kid": key(named).kid()}).to_string();
            unverified(&sign(&header, &claims().to_string(), &key(signer)));
            let header = json!({"alg": named.name(), "kid": key(named).kid()}).to_string();
            unverified(&sign(&header, &claims().to_string(), &key(signer)));
        }
    }
}

#[test]
fn a_token_must_name_a_loaded_key() {
    let eddsa = key(Algorithm::EdDsa);
    for (kid, reason) in [
        (json!(null), "`kid` is not text"),
        (json!(""), "`kid` is not text"),
        (json!(["a"]), "`kid` is not text"),
        (json!("../../etc/passwd"), "is not loaded"),
        (json!("unknown' OR 1=1\n"), "is not loaded"),
    ] {
        let header = json!({"alg": "EdDSA", "kid": kid}).to_string();
        let text = unverified(&sign(&header, &claims().to_string(), &eddsa));
        assert!(text.contains(reason) && !text.contains('\n'), "{text}");
    }
    let text = unverified(&sign(r#"{"alg":"EdDSA"}"#, &claims().to_string(), &eddsa));
    assert!(text.ends_with("`kid` is missing"), "{text}");
    let stranger = generate(Algorithm::EdDsa, &[1; 48]).unwrap();
    assert!(
        unverified(&sign(&header(&stranger).to_string(), &claims().to_string(), &stranger)).contains("is not loaded")
    );
    let disguised = json!({"alg": "EdDSA", "kid": eddsa.kid()}).to_string();
    assert_eq!(unverified(&sign(&disguised, &claims().to_string(), &stranger)), "the token's signature is wrong");
}

#[test]
fn headers_that_bring_their_own_key_or_demands_are_refused() {
    let eddsa = key(Algorithm::EdDsa);
    for (name, value) in [
        ("jku", json!("https://evil.example/jwks.json")),
        ("x5u", json!("https://evil.example/cert")),
        ("jwk", json!({"kty": "oct", "k": "AAAA"})),
        ("x5c", json!([])),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
    ] {
        let mut header = header(&eddsa);
        header[name] = value;
        let text = unverified(&sign(&header.to_string(), &claims().to_string(), &eddsa));
        assert!(text.ends_with(&format!("`{name}` is not accepted")), "{text}");
    }
}

#[test]
fn typ_is_absent_or_says_that_it_is_a_token() {
    let eddsa = key(Algorithm::EdDsa);
    let with_typ = |typ: Option<Value>| {
        let mut header = json!({"alg": "EdDSA", "kid": eddsa.kid()});
        if let Some(typ) = typ {
            header["typ"] = typ;
        }
        check(&sign(&header.to_string(), &claims().to_string(), &eddsa)).is_ok()
    };
    assert!(with_typ(None) && with_typ(Some(json!("JWT"))) && with_typ(Some(json!("jwt"))));
    assert!(with_typ(Some(json!("at+jwt"))));
    assert!(!with_typ(Some(json!("dpop+jwt"))) && !with_typ(Some(json!(""))) && !with_typ(Some(json!(null))));
}

#[test]
fn missing_claims_are_refused() {
    for claim in ["iss", "sub", "exp", "iat"] {
        assert_eq!(claims_error(&with(claim, None)), format!("`{claim}` is missing"));
    }
    assert_eq!(claims_error(&with("aud", None)), "`aud` is not this broker");
    assert!(check(&token(&with("nbf", None))).is_ok() && check(&token(&with("jti", None))).is_ok());
}

#[test]
fn claims_of_the_wrong_type_are_refused() {
    let wrong = [json!(null), json!(true), json!(1.5), json!({}), json!([1]), json!([null])];
    for claim in ["iss", "aud", "sub", "iat", "nbf", "exp", "jti", "client_id", "username", "groups", "acl"] {
        for value in &wrong {
            if (claim, value) == ("acl", &json!({})) {
                continue;
            }
            claims_error(&with(claim, Some(value.clone())));
        }
    }
    for (claim, value) in [
        ("sub", json!(1)),
        ("sub", json!("")),
        ("sub", json!("a\u{0}")),
        ("sub", json!("a\nb")),
        ("username", json!("")),
        ("client_id", json!([])),
        ("client_id", json!("")),
        ("client_id", json!(["a", ""])),
        ("groups", json!("raspberry")),
        ("exp", json!(format!("{}", NOW + 60))),
        ("acl", json!("publish")),
    ] {
        claims_error(&with(claim, Some(value)));
    }
}

#[test]
fn times_that_are_no_whole_seconds_of_unix_time_are_refused() {
    let payload = claims().to_string();
    let exp = (NOW + 3600).to_string();
    for number in [
        "-1",
        "1763803600.0",
        "1763803600.5",
        "1e10",
        "1e400",
        "18446744073709551616",
        "-0.0",
        "NaN",
        "Infinity",
        "0x10",
        "01",
    ] {
        let eddsa = key(Algorithm::EdDsa);
        let payload = payload.replace(&exp, number);
        assert!(
            matches!(check(&sign(&header(&eddsa).to_string(), &payload, &eddsa)), Err(TokenError::Claims(_))),
            "{number}"
        );
    }
}

#[test]
fn a_token_that_lives_too_long_is_refused() {
    let max = jwt().max_token_ttl;
    assert!(check(&token(&with("exp", Some(json!(NOW + max))))).is_ok());
    assert_eq!(claims_error(&with("exp", Some(json!(NOW + max + 1)))), "lives for 365 d; at most 365 d is accepted");
    for exp in [u64::MAX, u64::MAX - 1, u64::from(u32::MAX) * 1000] {
        claims_error(&with("exp", Some(json!(exp))));
    }
    assert_eq!(claims_error(&with("iat", Some(json!(NOW + 3601)))), "`exp` is before `iat`");
    claims_error(&with("iat", Some(json!(0))));
}

#[test]
fn an_expired_token_is_told_so_because_its_signature_is_right() {
    let mut claims = with("exp", Some(json!(NOW - 12)));
    claims["iat"] = json!(NOW - 600);
    let error = check(&token(&claims)).unwrap_err();
    assert_eq!(error, TokenError::Expired(12));
    let refusal = Refusal::from(error);
    assert_eq!((refusal.code.0, refusal.return_code), (0x87, 4));
    assert_eq!(refusal.public.as_deref(), Some("token expired 12 s ago"));
    claims["exp"] = json!(NOW);
    assert_eq!(check(&token(&claims)).unwrap_err(), TokenError::Expired(0), "not valid at its very end");
}

#[test]
fn a_clock_that_is_up_to_30_seconds_ahead_does_no_harm() {
    for claim in ["nbf", "iat"] {
        assert!(check(&token(&with(claim, Some(json!(NOW + 30))))).is_ok(), "{claim}");
        let error = check(&token(&with(claim, Some(json!(NOW + 31))))).unwrap_err();
        assert_eq!(error, TokenError::NotYetValid(31), "{claim}");
        let refusal = Refusal::from(error);
        assert_eq!((refusal.code.0, refusal.return_code), (0x87, 4));
        assert_eq!(refusal.public.as_deref(), Some("token is not valid for another 31 s"));
    }
    assert_eq!(
        check(&token(&with("nbf", Some(json!(u64::MAX))))).unwrap_err(),
        TokenError::NotYetValid(u64::MAX - NOW)
    );
}

#[test]
fn a_claim_that_appears_twice_is_refused() {
    let eddsa = key(Algorithm::EdDsa);
    let twice = claims().to_string().replacen('{', r#"{"sub":"admin","#, 1);
    assert!(matches!(check(&sign(&header(&eddsa).to_string(), &twice, &eddsa)), Err(TokenError::Claims(_))));
    let nested = with("acl", Some(json!([]))).to_string().replace(
        "[]",
        r#"[{"permission":"deny","permission":"allow","action":"all","topic":"\#"}]"#.replace('\\', "").as_str(),
    );
    assert!(matches!(check(&sign(&header(&eddsa).to_string(), &nested, &eddsa)), Err(TokenError::Claims(_))));
    let header = header(&eddsa).to_string().replacen('{', r#"{"alg":"none","#, 1);
    unverified(&sign(&header, &claims().to_string(), &eddsa));
}

#[test]
fn a_token_longer_than_8_kib_is_refused_before_it_is_read() {
    let long = |length: usize| token(&with("pad", Some(json!("x".repeat(length)))));
    let fits = long(5_000);
    assert!(fits.len() < MAX_TOKEN && check(&fits).is_ok());
    assert_eq!(unverified(&long(8_000)), "the token is longer than 8 KiB");
}

#[test]
fn a_token_for_another_broker_is_refused() {
    assert_eq!(claims_error(&with("iss", Some(json!("mqttbroker/shop/other")))), "`iss` is not this broker's");
    for aud in [json!("mqtt://shop/other"), json!([]), json!(""), json!("mqtt-admin://shop/home"), json!(["a", "b"])] {
        assert_eq!(claims_error(&with("aud", Some(aud))), "`aud` is not this broker");
    }
    assert!(check(&token(&with("aud", Some(json!(["x", "mqtt://shop/home"]))))).is_ok());
}

#[test]
fn a_subject_of_the_system_is_refused() {
    assert_eq!(claims_error(&with("sub", Some(json!("system:bridge")))), "`sub` begins with `system:`");
    assert_eq!(claims_error(&with("username", Some(json!("system:x")))), "`username` begins with `system:`");
}

#[test]
fn texts_that_are_no_token_are_refused() {
    let good = token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    for text in [
        String::new(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}..{}", parts[0], parts[2]),
        format!("{}.{}.{}.{}", parts[0], parts[1], parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], base64("{}"), parts[2]),
    ] {
        unverified(&text);
    }
    assert!(matches!(verify(b"\xFF.\xFF.\xFF", &keys(), &Expected::from(&jwt()), NOW), Err(TokenError::Unverified(_))));
}

/// A policy with one user, whose password would be right.
fn policy(settings: Settings) -> Policy {
    let hash = crate::auth::password::hash(b"right", [5; 16]).unwrap();
    let settings = Settings { jwt: Jwt { bind_client_id: settings.jwt.bind_client_id, ..jwt() }, ..settings };
    let hashes = settings.users.iter().map(|user| (user.name.clone(), hash.clone())).collect();
    Policy::new(&settings, Sources { jwks: keys(), hashes, ..Sources::default() }).unwrap()
}

fn connect(policy: &Policy, username: Option<&str>, password: &[u8], client_id: &str) -> Result<Identity, (u8, u8)> {
    let presented = Presented { username, password: Some(password), client_id, ..Presented::default() };
    outcome(policy.authenticate(&presented, NOW))
}

fn outcome(verdict: Verdict) -> Result<Identity, (u8, u8)> {
    match verdict {
        Verdict::Accepted(identity) => Ok(identity),
        Verdict::Refused(refusal) => Err((refusal.code.0, refusal.return_code)),
        Verdict::CheckPassword(check) => panic!("a token fell back to the password check: {check:?}"),
        Verdict::UnknownKey { issuer, .. } => panic!("nobody asks {issuer} for its keys here"),
    }
}

#[test]
fn a_token_is_read_from_the_password_and_from_the_authentication_data() {
    let policy = policy(Settings::default());
    let token = token(&claims());
    let identity = connect(&policy, Some("dev1"), token.as_bytes(), "any").unwrap();
    assert_eq!((identity.principal.to_string().as_str(), identity.expires_at), ("user:dev1", Some(NOW + 3600)));
    assert!(identity.owns_client_id("dev1") && !identity.owns_client_id("any"));
    assert!(connect(&policy, None, token.as_bytes(), "any").is_ok());
    for method in ["JWT", "OAUTH2-JWT", "CUSTOM-JWT"] {
        let presented =
            Presented { method: Some(method), data: Some(token.as_bytes()), client_id: "any", ..Presented::default() };
        assert!(outcome(policy.authenticate(&presented, NOW)).is_ok(), "{method}");
    }
}

#[test]
fn a_password_that_looks_like_a_token_never_falls_back_to_the_password_check() {
    let settings = Settings {
        users: vec![User { name: "dev1".to_owned(), groups: vec![], acl: vec![] }],
        anonymous: Some(Anonymous { acl: vec![] }),
        ..Settings::default()
    };
    let policy = policy(settings);
    let good = token(&claims());
    let broken = format!("{}A", &good[..good.len() - 1]);
    for password in
        [broken.as_str(), "eyJhbGciOiJub25lIn0.e30.", "e30.e30.e30", "IHsgfQ.x.y.z.w", "eyJ.....", "ICAg.a.b"]
    {
        assert_eq!(connect(&policy, Some("dev1"), password.as_bytes(), "c").unwrap_err(), (0x86, 4), "{password}");
    }
    for password in ["a.b.c", "mqtt_password", "", "...", "eyJh", "eyJh.x", "abcd.efgh.ijkl", "1.2.3.4"] {
        assert!(!looks_like_token(password.as_bytes()), "{password}");
    }
}

#[test]
fn a_user_name_must_be_one_of_the_tokens() {
    let policy = policy(Settings::default());
    let token = token(&with("username", Some(json!("alias"))));
    for username in [None, Some("dev1"), Some("alias")] {
        assert!(connect(&policy, username, token.as_bytes(), "c").is_ok(), "{username:?}");
    }
    for username in ["other", "", "DEV1"] {
        assert_eq!(connect(&policy, Some(username), token.as_bytes(), "c").unwrap_err(), (0x86, 4), "{username:?}");
    }
}

#[test]
fn a_token_for_one_client_id_is_refused_for_another() {
    let open = policy(Settings::default());
    let one = token(&with("client_id", Some(json!("dev1"))));
    let two = token(&with("client_id", Some(json!(["a", "b"]))));
    assert!(connect(&open, None, one.as_bytes(), "dev1").is_ok());
    assert!(connect(&open, None, two.as_bytes(), "b").unwrap().owns_client_id("a"));
    for (token, client_id) in [(&one, "dev2"), (&one, ""), (&two, "dev1"), (&two, "a,b")] {
        assert_eq!(connect(&open, None, token.as_bytes(), client_id).unwrap_err(), (0x85, 2), "{client_id:?}");
    }

    let bound = policy(Settings { jwt: Jwt { bind_client_id: true, ..jwt() }, ..Settings::default() });
    let free = token(&claims());
    assert!(connect(&bound, None, free.as_bytes(), "dev1").is_ok());
    assert_eq!(connect(&bound, None, free.as_bytes(), "dev2").unwrap_err(), (0x85, 2));
    assert!(connect(&bound, None, two.as_bytes(), "a").is_ok());
}

/// What the bearer of a token with this `acl` and these groups may do.
fn grants(policy: &Policy, acl: Value, groups: Value, client_id: &str) -> Grants {
    let mut claims = claims();
    claims["acl"] = acl;
    claims["groups"] = groups;
    claims["site"] = json!("north");
    claims["unit"] = json!(7);
    claims["evil"] = json!("a/#");
    claims["list"] = json!(["x"]);
    let identity = connect(policy, None, token(&claims).as_bytes(), client_id).unwrap();
    policy.grants(&identity, client_id)
}

fn publishes(grants: &Grants, topic: &str) -> bool {
    grants.may_publish(topic, QoS::AtMostOnce, false)
}

#[test]
fn the_rules_of_a_token_are_a_list_of_rules_or_three_lists_of_filters() {
    let policy = policy(Settings::default());
    let new = json!([
        {"permission": "deny", "action": "publish", "topic": "sensor/dev1/secret"},
        {"permission": "allow", "action": "publish", "topic": "sensor/${clientid}/#", "qos": [0, 1], "retain": false},
    ]);
    let new = grants(&policy, new, json!([]), "dev1");
    assert!(publishes(&new, "sensor/dev1/t") && !publishes(&new, "sensor/dev1/secret"));
    assert!(!new.may_publish("sensor/dev1/t", QoS::ExactlyOnce, false));
    assert!(!new.may_publish("sensor/dev1/t", QoS::AtMostOnce, true));

    let old = grants(&policy, json!({"pub": ["p/%c"], "sub": ["s/#"], "all": ["eq b"]}), json!([]), "dev1");
    assert!(publishes(&old, "p/dev1") && !publishes(&old, "s/x") && publishes(&old, "b"));
    assert!(old.may_subscribe("s/+", None, QoS::ExactlyOnce) && !old.may_subscribe("p/dev1", None, QoS::AtMostOnce));
    let none = grants(&policy, json!({}), json!([]), "dev1");
    assert!(!publishes(&none, "a"));
}

#[test]
fn a_token_with_a_rule_that_is_not_understood_is_refused_whole() {
    for (acl, reason) in [
        (json!([{"permission": "allow", "action": "publish"}]), "acl[0]: missing field `topic`"),
        (
            json!([{"permission": "allow", "action": "publish", "topic": "a", "clientid": "x"}]),
            "acl[0]: unknown field `clientid`",
        ),
        (json!([{"permission": "Allow", "action": "publish", "topic": "a"}]), "acl[0]: unknown variant `Allow`"),
        (
            json!([{"permission": "allow", "action": "publish", "topic": "a", "qos": 3}]),
            "acl[0].qos: 3 is not a level of QoS",
        ),
        (json!([{"permission": "allow", "action": "publish", "topic": "a/#/b"}]), "acl[0].topic: `#` stands only"),
        (
            json!([{"permission": "allow", "action": "publish", "topic": "${nope}"}]),
            "acl[0].topic: `${nope}` is unknown",
        ),
        (json!(["a"]), "acl[0]: "),
        (json!({"publish": ["a"]}), "`acl` has an unknown list"),
        (json!({"pub": "a"}), "`pub` is not a list of texts"),
        (json!({"pub": ["a+"]}), "acl[0].topic: `+` stands only"),
    ] {
        let text = claims_error(&with("acl", Some(acl)));
        assert!(text.starts_with(reason), "{text}");
    }
}

#[test]
fn claims_fill_placeholders_only_with_usable_values() {
    let policy = policy(Settings::default());
    let topics = [
        "1/${claims.site}/#",
        "2/${claims.unit}",
        "3/${claims.evil}",
        "4/${claims.list}",
        "5/${claims.none}",
        "6/${sub}-${username}",
    ];
    let grants = grants(&policy, json!({"pub": topics}), json!([]), "dev1");
    for topic in ["1/north/x", "2/7", "6/dev1-dev1"] {
        assert!(publishes(&grants, topic), "{topic}");
    }
    for topic in ["1/south", "3/a/b", "3/a", "4/x", "4/", "5/", "5"] {
        assert!(!publishes(&grants, topic), "{topic}");
    }
}

#[test]
fn rules_decide_in_the_order_deny_list_token_user_group() {
    let rule = |permission, topic: &str| Rule {
        permission,
        action: Action::Publish,
        topic: topic.to_owned(),
        qos: None,
        retain: None,
        share: None,
    };
    let (allow, deny) = (Permission::Allow, Permission::Deny);
    let group = |name: &str, acl| Group { name: name.to_owned(), acl };
    let policy = policy(Settings {
        deny: vec![rule(deny, "1/#")],
        users: vec![User {
            name: "dev1".to_owned(),
            groups: vec!["of-user".to_owned()],
            acl: vec![rule(allow, "2/#"), rule(deny, "4/x"), rule(allow, "3/#")],
        }],
        groups: vec![
            group("of-user", vec![rule(allow, "4/#")]),
            group("of-token", vec![rule(allow, "5/#"), rule(allow, "1/#"), rule(allow, "2/#")]),
            group("of-nobody", vec![rule(allow, "6/#")]),
        ],
        ..Settings::default()
    });
    let acl = json!([
        {"permission": "allow", "action": "publish", "topic": "1/#"},
        {"permission": "deny", "action": "publish", "topic": "2/x"},
    ]);
    let grants = grants(&policy, acl, json!(["of-token", "unknown"]), "c");
    let expected = [
        ("1/x", false),
        ("2/x", false),
        ("2/y", true),
        ("3/x", true),
        ("4/x", false),
        ("4/y", true),
        ("5/x", true),
        ("6/x", false),
    ];
    for (topic, may) in expected {
        assert_eq!(publishes(&grants, topic), may, "{topic}");
    }
}

#[test]
fn a_client_whose_key_was_removed_is_no_longer_known() {
    let before = policy(Settings::default());
    let identity = connect(&before, None, token(&claims()).as_bytes(), "c").unwrap();
    assert_eq!(identity.key_id(), Some(key(Algorithm::EdDsa).kid()));
    assert!(before.knows(&identity).is_ok());
    let after = Policy::new(&Settings { jwt: jwt(), ..Settings::default() }, Sources::default()).unwrap();
    assert_eq!(after.knows(&identity), Err(Lost::Key));
}

/// A policy that knows the keys, and takes these back.
fn revoking(entries: &[(&str, &str)]) -> Policy {
    let entries = entries.iter().map(|(name, time)| (*name, time.as_bytes()));
    let sources = Sources { jwks: keys(), revocations: Revocations::parse(entries).unwrap(), ..Sources::default() };
    Policy::new(&Settings { jwt: jwt(), ..Settings::default() }, sources).unwrap()
}

#[test]
fn a_token_that_is_taken_back_is_refused_and_its_bearer_no_longer_known() {
    let good = token(&claims());
    let identity = connect(&revoking(&[]), None, good.as_bytes(), "c").unwrap();
    let now = NOW.to_string();
    for entry in [("jti.01J", "0"), ("sub.dev1", now.as_str()), ("before", now.as_str())] {
        let policy = revoking(&[entry]);
        assert_eq!(connect(&policy, None, good.as_bytes(), "c").unwrap_err(), (0x87, 4), "{entry:?}");
        assert!(matches!(policy.knows(&identity), Err(Lost::Token(_))), "{entry:?}");
    }
    let earlier = (NOW - 1).to_string();
    for entry in [("jti.01K", "0"), ("sub.dev1", earlier.as_str()), ("before", earlier.as_str())] {
        let policy = revoking(&[entry]);
        assert!(connect(&policy, None, good.as_bytes(), "c").is_ok(), "{entry:?}");
        assert_eq!(policy.knows(&identity), Ok(()), "{entry:?}");
    }
}

#[test]
fn whoever_brings_a_revoked_token_learns_that_it_is_revoked_and_a_stranger_does_not() {
    let refusal = Refusal::from(TokenError::Revoked(Revoked::Token));
    assert_eq!(refusal.public.as_deref(), Some("the token is revoked"));
    let stranger = generate(Algorithm::EdDsa, &[1; 48]).unwrap();
    let forged = sign(&header(&stranger).to_string(), &claims().to_string(), &stranger);
    assert_eq!(connect(&revoking(&[("jti.01J", "0")]), None, forged.as_bytes(), "c").unwrap_err(), (0x86, 4));
}

#[test]
fn without_a_key_set_no_token_is_accepted() {
    let policy = Policy::new(&Settings { jwt: jwt(), ..Settings::default() }, Sources::default()).unwrap();
    assert_eq!(connect(&policy, None, token(&claims()).as_bytes(), "c").unwrap_err(), (0x86, 4));
}

#[test]
fn reasons_are_public_only_once_a_signature_is_right() {
    let public = |token: &str| Refusal::from(check(token).unwrap_err()).public;
    assert!(public(&token(&with("iss", None))).is_some());
    let stranger = generate(Algorithm::EdDsa, &[1; 48]).unwrap();
    assert_eq!(public(&sign(&header(&stranger).to_string(), &claims().to_string(), &stranger)), None);
    let good = token(&claims());
    assert_eq!(public(&good[..good.len() - 2]), None);
}

#[test]
fn durations_are_told_in_the_unit_that_fits() {
    let told = [0, 12, 119, 120, 7_199, 7_200, 172_799, 172_800, 31_536_000].map(duration);
    assert_eq!(told, ["0 s", "12 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d", "365 d"]);
}

proptest! {
    #[test]
    fn no_random_bytes_are_a_token(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(verify(&bytes, &keys(), &Expected::from(&jwt()), NOW).is_err());
        looks_like_token(&bytes);
    }

    #[test]
    fn a_token_with_any_one_byte_changed_is_refused(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let good = token(&claims()).into_bytes();
        let mut changed = good.clone();
        let at = at.index(good.len());
        changed[at] = byte;
        prop_assert_eq!(verify(&changed, &keys(), &Expected::from(&jwt()), NOW).is_ok(), changed == good);
    }

    #[test]
    fn any_json_in_any_claim_is_read_or_refused_without_panic(
        claim in "iss|aud|sub|iat|nbf|exp|jti|client_id|username|groups|acl",
        value in "(\\{\"(pub|sub|all|topic)\":)?(\\[)?(\"[a-z/+#$%{}.]{0,9}\"|-?[0-9]{1,22}(\\.[0-9])?|null|true)(\\])?(\\})?",
    ) {
        let eddsa = key(Algorithm::EdDsa);
        let payload = with(&claim, Some(json!("@"))).to_string().replace("\"@\"", &value);
        if let Ok(verified) = check(&sign(&header(&eddsa).to_string(), &payload, &eddsa)) {
            prop_assert!(verified.expires_at > NOW && !verified.subject.is_empty());
        }
    }
}
