//! Tokens that open a broker's admin port, and nothing else.
//!
//! They are signed by the broker's own keys, like the tokens of devices, and differ by their audience alone: so each side
//! looks at the audience first, and a token that names both is good for neither.

use super::json;
use super::key::{KeyError, KeySet, PrivateKey};
use super::token::{self, Claims, Parts, TokenError, issue};

/// Seconds that such a token may live.
pub const MAX_TTL: u64 = 60;

/// How the audience of an admin port begins.
const SCHEME: &str = "mqtt-admin://";

/// The audience of the admin port of this broker.
pub fn audience(namespace: &str, name: &str) -> String {
    format!("{SCHEME}{namespace}/{name}")
}

/// Whether this is the audience of an admin port, of whichever broker.
pub(super) fn is_audience(text: &str) -> bool {
    text.starts_with(SCHEME)
}

/// Signs a token for the admin port of a broker whose own tokens are of `issuer`. `subject` says who asks, for the log;
/// `now` is Unix time in seconds.
pub fn mint(key: &PrivateKey, issuer: &str, audience: &str, subject: &str, now: u64) -> String {
    let claims = Claims {
        iss: issuer.to_owned(),
        aud: audience.to_owned(),
        sub: subject.to_owned(),
        iat: now,
        exp: now.saturating_add(MAX_TTL),
        ..Claims::default()
    };
    issue(key, &claims)
}

/// Who may use the admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Who asks, as it says itself.
    pub subject: String,
}

/// An admin port of a part of the broker that has no policy.
#[derive(Debug)]
pub struct Door {
    keys: KeySet,
    issuer: String,
    audience: String,
}

impl Door {
    /// With these keys, for tokens of the broker's own issuer; for the audience see [`audience`].
    pub fn of(jwks: &[u8], issuer: String, audience: String) -> Result<Self, KeyError> {
        Ok(Self { keys: KeySet::parse(jwks)?, issuer, audience })
    }

    /// Who presents this token at `now`, in seconds of Unix time.
    pub fn admit(&self, token: &[u8], now: u64) -> Result<Admin, TokenError> {
        verify(token, &self.keys, &self.issuer, &self.audience, now)
    }
}

/// Verifies a token for the admin port at `now`, in seconds of Unix time.
pub(super) fn verify(token: &[u8], keys: &KeySet, issuer: &str, audience: &str, now: u64) -> Result<Admin, TokenError> {
    let parts = Parts::of(token)?;
    parts.check_own_signature(keys)?;
    let claims =
        json::object(&parts.payload).map_err(|error| TokenError::Claims(format!("read the claims: {error}")))?;
    if token::required(token::text(&claims, "iss")?, "iss")? != issuer {
        return Err(TokenError::Claims("`iss` is not this broker's".to_owned()));
    }
    let audiences = token::required(token::texts(&claims, "aud", true)?, "aud")?;
    if audiences != [audience] {
        return Err(TokenError::Claims(format!("`aud` is not {audience} alone")));
    }
    let subject = token::required(token::name(&claims, "sub")?, "sub")?.to_owned();
    token::check_times(&claims, MAX_TTL, true, now)?;
    Ok(Admin { subject })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::key::{Algorithm, PrivateKeys, generate};
    use crate::auth::settings::{Anonymous, Jwt, Settings};
    use crate::auth::{Policy, Presented, Sources, Verdict};
    use crate::mqtt::ReasonCode;

    const NOW: u64 = 1_763_800_000;
    const ALL: [Algorithm; 3] = [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Hs256];

    fn key(algorithm: Algorithm) -> PrivateKey {
        generate(algorithm, &[9; 48]).unwrap()
    }

    fn policy() -> Policy {
        let jwt = Jwt {
            issuer: "mqttbroker/shop/home".into(),
            audience: "mqtt://shop/home".into(),
            max_token_ttl: 3600,
            bind_client_id: false,
            acl_claim: "acl".into(),
        };
        let settings = Settings { jwt, anonymous: Some(Anonymous { acl: vec![] }), ..Settings::default() };
        let jwks = KeySet::parse(PrivateKeys { keys: ALL.map(key).to_vec() }.public().as_bytes()).unwrap();
        Policy::new(&settings, Sources { jwks, ..Sources::default() }).unwrap()
    }

    fn admit(token: &str, now: u64) -> Result<Admin, TokenError> {
        policy().authenticate_admin(token.as_bytes(), "mqtt-admin://shop/home", now)
    }

    fn minted(algorithm: Algorithm) -> String {
        mint(&key(algorithm), "mqttbroker/shop/home", &audience("shop", "home"), "operator", NOW)
    }

    /// A token with some claims changed.
    fn token(change: &[(&str, Value)]) -> String {
        let mut claims = json!({
            "iss": "mqttbroker/shop/home", "aud": "mqtt-admin://shop/home", "sub": "x", "iat": NOW, "exp": NOW + 60,
        });
        for (claim, value) in change {
            claims[*claim] = value.clone();
        }
        let key = key(Algorithm::EdDsa);
        let mut header = jsonwebtoken::Header::new(key.algorithm().library());
        header.kid = Some(key.kid().to_owned());
        jsonwebtoken::encode(&header, &claims, key.encoding()).unwrap()
    }

    fn connect(token: &str) -> Verdict {
        let presented =
            Presented { username: None, password: Some(token.as_bytes()), client_id: "x", ..Presented::default() };
        policy().authenticate(&presented, NOW)
    }

    #[test]
    fn a_minted_token_of_each_algorithm_opens_the_port_for_a_minute() {
        for algorithm in ALL {
            let token = minted(algorithm);
            assert_eq!(admit(&token, NOW + 59).unwrap().subject, "operator");
            assert_eq!(admit(&token, NOW + 60), Err(TokenError::Expired(0)), "{algorithm}");
        }
    }

    #[test]
    fn a_device_token_opens_no_admin_port() {
        let device = [
            token(&[("aud", json!("mqtt://shop/home"))]),
            token(&[("aud", json!(["mqtt://shop/home", "mqtt-admin://shop/home"]))]),
            token(&[("aud", json!([]))]),
            token(&[("aud", Value::Null)]),
            token(&[("aud", json!("mqtt-admin://shop/other"))]),
        ];
        for token in device {
            assert!(matches!(admit(&token, NOW), Err(TokenError::Claims(_))), "{token}");
        }
        assert!(matches!(connect(&token(&[("aud", json!("mqtt://shop/home"))])), Verdict::Accepted(_)));
    }

    #[test]
    fn an_admin_token_opens_no_mqtt() {
        let both = token(&[("aud", json!(["mqtt://shop/home", "mqtt-admin://shop/home"]))]);
        for token in [minted(Algorithm::EdDsa), minted(Algorithm::Hs256), both] {
            match connect(&token) {
                Verdict::Refused(refusal) => assert_eq!(refusal.code, ReasonCode::BAD_USER_NAME_OR_PASSWORD),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_token_that_lives_longer_than_a_minute_or_is_of_another_issuer_is_refused() {
        for change in [
            ("exp", json!(NOW + 61)),
            ("iss", json!("mqttbroker/shop/other")),
            ("iat", Value::Null),
            ("exp", json!("soon")),
            ("sub", json!("")),
            ("sub", json!("system:bridge")),
        ] {
            assert!(
                matches!(admit(&token(std::slice::from_ref(&change)), NOW), Err(TokenError::Claims(_))),
                "{change:?}"
            );
        }
        assert!(admit(&token(&[]), NOW).is_ok());
        assert!(matches!(admit(&token(&[]), NOW - 31), Err(TokenError::NotYetValid(31))));
    }

    #[test]
    fn a_key_that_is_not_loaded_opens_nothing() {
        let stranger = generate(Algorithm::EdDsa, &[1; 48]).unwrap();
        let token = mint(&stranger, "mqttbroker/shop/home", "mqtt-admin://shop/home", "x", NOW);
        assert!(matches!(admit(&token, NOW), Err(TokenError::Key(_))));
        assert!(matches!(admit("", NOW), Err(TokenError::Unverified(_))));
    }
}
