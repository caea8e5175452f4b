use super::*;

const ALL: [Algorithm; 3] = [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Hs256];

fn key(algorithm: Algorithm) -> PrivateKey {
    generate(algorithm, &[7; 48]).unwrap()
}

fn set(entry: &str) -> Result<KeySet, KeyError> {
    KeySet::parse(format!(r#"{{"keys":[{entry}]}}"#).as_bytes())
}

#[test]
fn private_keys_come_back_from_their_document_as_they_were() {
    let keys = PrivateKeys { keys: ALL.map(key).to_vec() };
    let read = PrivateKeys::parse(keys.to_json().as_bytes()).unwrap();
    assert_eq!(read.to_json(), keys.to_json());
    assert_eq!(KeySet::parse(keys.public().as_bytes()).unwrap().ids(), [0, 1, 2].map(|at| keys.keys[at].kid.clone()));
}

#[test]
fn the_public_document_has_no_private_part_unless_the_key_has_no_other() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let keys = PrivateKeys { keys: vec![key(algorithm)] };
        assert!(!keys.public().contains(r#""d""#) && keys.to_json().contains(r#""d""#), "{algorithm}");
    }
    assert!(PrivateKeys { keys: vec![key(Algorithm::Hs256)] }.public().contains(r#""k""#));
}

#[test]
fn a_private_key_in_the_public_document_is_an_error() {
    let keys = PrivateKeys { keys: vec![key(Algorithm::EdDsa)] };
    let error = KeySet::parse(keys.to_json().as_bytes()).unwrap_err().to_string();
    assert_eq!(error, "keys[0]: is a private key; a broker must not be able to sign");
}

/// The example of RFC 8037, appendix A.
#[test]
fn an_ed25519_key_has_the_public_part_and_thumbprint_of_the_standard() {
    let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
    let mut random = [0; 48];
    random[..32].copy_from_slice(&seed);
    let key = generate(Algorithm::EdDsa, &random).unwrap();
    assert_eq!(key.public["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

/// The example of RFC 7515, appendix A.3.
#[test]
fn a_p256_key_has_the_public_part_of_the_standard() {
    let scalar = URL_SAFE_NO_PAD.decode("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI").unwrap();
    let key = PrivateKey::new(Algorithm::Es256, scalar, "k".to_owned()).unwrap();
    assert_eq!(key.public["x"], "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU");
    assert_eq!(key.public["y"], "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
}

#[test]
fn bytes_that_are_no_scalar_of_the_curve_are_refused() {
    for random in [[0; 48], [0xFF; 48]] {
        assert!(matches!(generate(Algorithm::Es256, &random), Err(KeyError::Generate(_))));
    }
}

#[test]
fn the_id_of_a_shared_secret_tells_nothing_of_the_secret() {
    let mut other = [7; 48];
    other[0] = 8;
    assert_eq!(generate(Algorithm::Hs256, &other).unwrap().kid(), key(Algorithm::Hs256).kid());
    assert_ne!(generate(Algorithm::EdDsa, &other).unwrap().kid(), key(Algorithm::EdDsa).kid());
}

#[test]
fn an_empty_or_broken_document_is_an_error_and_never_no_restriction() {
    for text in ["", " ", "{}", "[]", "null", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[1]}"#, r#"{"keys":[{}]}"#]
    {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text:?}");
        assert!(PrivateKeys::parse(text.as_bytes()).is_err(), "{text:?}");
    }
    assert!(KeySet::default().ids().is_empty());
}

#[test]
fn keys_that_cannot_be_used_are_refused_by_name() {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    for (entry, problem) in [
        (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#), "`kid` is missing"),
        (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":""}}"#), "`kid` is missing"),
        (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":1}}"#), "`kid` is not text"),
        (r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA","kid":"a"}"#.to_owned(), "`x` has not 32 bytes"),
        (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}=","kid":"a"}}"#), "`x` is not base64url"),
        (
            format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"a","alg":"HS256"}}"#),
            "`alg` HS256 is not that of the key's kind",
        ),
        (r#"{"kty":"oct","alg":"HS256","k":"c2hvcnQ","kid":"a"}"#.to_owned(), "`k` is shorter than 32 bytes"),
    ] {
        assert_eq!(set(&entry).unwrap_err().to_string(), format!("keys[0]: {problem}"));
    }
    let good = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"a"}}"#);
    assert_eq!(set(&good).unwrap().ids(), ["a"]);
    assert_eq!(set(&format!("{good},{good}")).unwrap_err().to_string(), r#"keys[1]: the kid "a" is there twice"#);
}

#[test]
fn keys_of_another_kind_or_purpose_are_passed_over_and_named() {
    let good = PrivateKeys { keys: vec![key(Algorithm::EdDsa)] }.public();
    let rsa = r#"{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"r","alg":"RS256"}"#;
    let encryption = r#"{"kty":"EC","crv":"P-256","use":"enc","kid":"e"}"#;
    let secret_without_algorithm = r#"{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","kid":"o"}"#;
    let text = good.replace("[{", &format!("[{rsa},{encryption},{secret_without_algorithm},{{"));
    let set = KeySet::parse(text.as_bytes()).unwrap();
    assert_eq!(set.skipped(), ["keys[0]", "keys[1]", "keys[2]"]);
    assert_eq!(set.ids(), [key(Algorithm::EdDsa).kid()]);
}

#[test]
fn a_private_key_whose_parts_do_not_belong_together_is_refused() {
    let text = PrivateKeys { keys: vec![key(Algorithm::EdDsa)] }.to_json();
    let x = key(Algorithm::EdDsa).public["x"].as_str().unwrap().to_owned();
    let swapped = text.replace(&x, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    let error = PrivateKeys::parse(swapped.as_bytes()).unwrap_err().to_string();
    assert_eq!(error, "keys[0]: `x` does not belong to the private part");
}

#[test]
fn only_the_active_key_signs() {
    let keys = PrivateKeys { keys: vec![key(Algorithm::EdDsa), key(Algorithm::Es256)] };
    let mut states = KeyStates::first(&keys.keys[1], 5);
    assert_eq!(keys.active(&states).unwrap().kid(), keys.keys[1].kid());
    let text = serde_json::to_string(&states).unwrap();
    assert_eq!(serde_json::from_str::<KeyStates>(&text).unwrap(), states);
    assert!(text.contains(r#""state":"active""#), "{text}");
    states.keys[0].state = KeyState::Retiring;
    assert!(keys.active(&states).is_none());
}

#[test]
fn secrets_of_keys_are_not_printed() {
    for algorithm in ALL {
        let keys = PrivateKeys { keys: vec![key(algorithm)] };
        let public = KeySet::parse(keys.public().as_bytes()).unwrap();
        let printed = format!("{keys:?} {public:?}");
        assert!(!printed.contains(&URL_SAFE_NO_PAD.encode([7; 32])) && !printed.contains("7, 7, 7"), "{printed}");
    }
}
