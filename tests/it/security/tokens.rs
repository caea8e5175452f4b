//! Tokens that are not what they say.

use serde_json::json;

use super::*;

/// A header with the key of [`broker_of_the_secret`], after `change`.
fn header(change: impl FnOnce(&mut Value)) -> String {
    let mut header = json!({"alg": "HS256", "typ": "JWT", "kid": secret().kid()});
    change(&mut header);
    header.to_string()
}

/// Good claims of `dev1` after `change`.
fn body(change: impl FnOnce(&mut Value)) -> String {
    let mut claims = serde_json::to_value(claims("dev1", &["allow all t/#"])).unwrap();
    change(&mut claims);
    claims.to_string()
}

/// Good claims of `dev1` where the text of one claim is replaced, as no JSON library would write it.
fn rewritten(claim: &str, text: &str) -> String {
    let mut claims = serde_json::to_value(claims("dev1", &["allow all t/#"])).unwrap();
    claims.as_object_mut().unwrap().remove(claim);
    claims.to_string().replacen('{', &format!("{{{text},"), 1)
}

#[track_caller]
fn expect_refused(broker: &Broker, token: &str, why: &str) {
    each_version(|version| {
        let mut wire = Wire::open(broker, version);
        wire.send(&bearer(version, "dev1", "dev1", token).bytes());
        let ack = wire.expect_connack();
        let code = if version == Version::V5 { 0x86..=0x87 } else { 4..=5 };
        assert!(code.contains(&ack.code), "{why}: {ack:?}");
        wire.expect_close();
    });
}

#[test]
fn class_10_a_token_with_a_wrong_signature_is_not_tried_as_anything_else() {
    // Everything else would let it in: the same text is a user's password, and clients without credentials are welcome.
    let token = token("u1", &["allow all t/#"]);
    let forged = format!("{}A", &token[..token.len() - 2]);
    let _entered = runtime().enter();
    let broker = Broker::with_files(open, |etc| {
        let hash = mqtt_operator::auth::password::hash(forged.as_bytes(), [3; 16]).unwrap();
        let users = json!({"format": 1, "users": [{"name": "u1", "hash": hash}]});
        std::fs::write(etc.users(), users.to_string()).unwrap();
    });
    each_version(|version| {
        Wire::accepted(&broker, &bearer(version, "u1", "c", &token));
        for presented in [&forged, "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            let mut wire = Wire::open(&broker, version);
            wire.send(&bearer(version, "u1", "c", presented).bytes());
            wire.expect_connect_refused(0x86, 4);
        }
        // A wrong password does not make an anonymous client either.
        let mut wire = Wire::open(&broker, version);
        wire.send(&bearer(version, "u1", "c", "wrong").bytes());
        wire.expect_connect_refused(0x86, 4);
        Wire::connect(&broker, version, "nobody");
    });
}

#[test]
fn class_11_the_header_of_a_token_decides_nothing() {
    let broker = broker_of_the_secret();
    let good = body(|_| {});
    let good_token = signed(&header(|_| {}), &good);
    Wire::accepted(&broker, &bearer(Version::V311, "dev1", "dev1", &good_token));
    let unsigned = |alg: &str| {
        let text = signed(&header(|header| header["alg"] = alg.into()), &good);
        format!("{}.", text.rsplit_once('.').unwrap().0)
    };
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256"] {
        expect_refused(&broker, &unsigned(alg), alg);
    }
    for (what, header) in [
        ("another algorithm", header(|it| it["alg"] = "HS512".into())),
        ("no algorithm", header(|it| it["alg"] = Value::Null)),
        ("a list of algorithms", header(|it| it["alg"] = json!(["HS256", "none"]))),
        ("no key id", header(|it| drop(it.as_object_mut().unwrap().remove("kid")))),
        ("an unknown key id", header(|it| it["kid"] = "other".into())),
        ("a path as key id", header(|it| it["kid"] = "../../../../dev/null".into())),
        ("a query as key id", header(|it| it["kid"] = "x' UNION SELECT 'secret".into())),
        ("a key id of a wrong type", header(|it| it["kid"] = json!({"kid": 1}))),
        ("a URL of keys", header(|it| it["jku"] = "https://127.0.0.1/jwks.json".into())),
        ("a certificate's URL", header(|it| it["x5u"] = "https://127.0.0.1/x.pem".into())),
        ("its own key", header(|it| it["jwk"] = json!({"kty": "oct", "k": "AAAA"}))),
        ("something critical", header(|it| it["crit"] = json!(["exp"]))),
        ("nothing critical", header(|it| it["crit"] = json!([]))),
        ("another type", header(|it| it["typ"] = "dpop+jwt".into())),
        ("two algorithms", header(|_| {}).replacen('{', r#"{"alg":"none","#, 1)),
    ] {
        expect_refused(&broker, &signed(&header, &good), what);
    }
}

#[test]
fn class_11_a_public_key_is_no_secret() {
    // What everybody can read, in every form in which it might be taken for the secret of an HMAC.
    let broker = broker();
    let key = signing_key();
    let public: Value = serde_json::from_str(&PrivateKeys { keys: vec![key.clone()] }.public()).unwrap();
    let x = public["keys"][0]["x"].as_str().unwrap();
    let header = json!({"alg": "HS256", "typ": "JWT", "kid": key.kid()}).to_string();
    let good = body(|_| {});
    let raw = URL_SAFE_NO_PAD.decode(x).unwrap();
    for secret in [&raw[..], x.as_bytes(), public.to_string().as_bytes(), public["keys"][0].to_string().as_bytes(), b""]
    {
        expect_refused(&broker, &signed_with(secret, &header, &good), "a public key as secret");
    }
}

#[test]
fn class_11_claims_are_of_their_type_and_there_once() {
    let broker = broker_of_the_secret();
    let now = unix_seconds();
    for (what, claims) in [
        ("no expiry", body(|it| drop(it.as_object_mut().unwrap().remove("exp")))),
        ("no issuer", body(|it| drop(it.as_object_mut().unwrap().remove("iss")))),
        ("no audience", body(|it| drop(it.as_object_mut().unwrap().remove("aud")))),
        ("no subject", body(|it| drop(it.as_object_mut().unwrap().remove("sub")))),
        ("no time of issue", body(|it| drop(it.as_object_mut().unwrap().remove("iat")))),
        ("an empty subject", body(|it| it["sub"] = "".into())),
        ("a subject of the broker's own", body(|it| it["sub"] = "system:bridge".into())),
        ("expiry as text", body(|it| it["exp"] = (now + 600).to_string().into())),
        ("expiry as a fraction", rewritten("exp", &format!(r#""exp":{}.5"#, now + 600))),
        ("expiry in powers of ten", rewritten("exp", r#""exp":4e9"#)),
        ("a negative expiry", rewritten("exp", r#""exp":-1"#)),
        ("expiry past 64 bits", rewritten("exp", r#""exp":18446744073709551616"#)),
        ("expiry at the end of time", rewritten("exp", r#""exp":18446744073709551615"#)),
        ("expiry as null", body(|it| it["exp"] = Value::Null)),
        ("expiry as true", body(|it| it["exp"] = true.into())),
        ("expiry as a list", body(|it| it["exp"] = json!([now + 600]))),
        ("expired", body(|it| it["exp"] = (now - 60).into())),
        ("longer than allowed", body(|it| it["exp"] = (now + 3600 * 24 * 400).into())),
        ("not yet valid", body(|it| it["nbf"] = (now + 300).into())),
        ("not before as text", body(|it| it["nbf"] = "0".into())),
        ("issued in the future", body(|it| it["iat"] = (now + 300).into())),
        ("another issuer", body(|it| it["iss"] = "mqttbroker/test/other".into())),
        ("another audience", body(|it| it["aud"] = "mqtt://test/other".into())),
        ("an audience that begins alike", body(|it| it["aud"] = "mqtt://test/broker2".into())),
        ("expiry twice", rewritten("exp", &format!(r#""exp":{},"exp":{}"#, now - 60, now + 600))),
        ("subject twice", body(|_| {}).replacen('{', r#"{"sub":"dev1","#, 1)),
        ("rules as text", body(|it| it["acl"] = "all".into())),
        ("rules with a mistake", body(|it| it["acl"][0]["permission"] = "maybe".into())),
        ("rules with a field too many", body(|it| it["acl"][0]["unless"] = true.into())),
        ("rules twice", body(|_| {}).replacen('{', r#"{"acl":[],"#, 1)),
        ("groups as text", body(|it| it["groups"] = "admins".into())),
        ("client ids as a number", body(|it| it["client_id"] = 1.into())),
        ("no object", "[]".to_owned()),
        ("no JSON", "{".to_owned()),
        ("text after it", body(|_| {}) + "{}"),
    ] {
        expect_refused(&broker, &signed(&header(|_| {}), &claims), what);
    }
    let long = body(|it| it["padding"] = "x".repeat(9000).into());
    expect_refused(&broker, &signed(&header(|_| {}), &long), "longer than 8 KiB");
}
