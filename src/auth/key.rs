//! Keys: the public set that a broker verifies with, and the private one that it never sees.

use aws_lc_rs::digest;
use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::json::object;

/// How tokens are signed. A key has exactly one; what a token says of itself must agree with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519: nobody who verifies can sign.
    #[default]
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// ECDSA on P-256 with SHA-256, for clients without Ed25519: nobody who verifies can sign.
    #[serde(rename = "ES256")]
    Es256,
    /// HMAC with SHA-256: whoever verifies can sign, so a broker that is broken into can make tokens.
    #[serde(rename = "HS256")]
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, as other issuers sign. It is only verified: this broker has no such key of its own.
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    /// The name in the header of a token.
    pub fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
        }
    }

    /// The algorithm of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::EdDsa, Self::Es256, Self::Hs256, Self::Rs256].into_iter().find(|algorithm| algorithm.name() == name)
    }

    pub(super) fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("read the key set: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the key set has no `keys`")]
    NoList,
    #[error("there is no usable key in the key set")]
    NoKey,
    #[error("there is no usable key in the key set: {0}")]
    NoneUsable(String),
    #[error("keys[{index}]: {problem}")]
    Key { index: usize, problem: String },
    #[error("make a key: {0}")]
    Generate(String),
    #[error("PEM block {index}: {problem}")]
    Pem { index: usize, problem: String },
    #[error("there is no PEM block with a private key")]
    NoPem,
}

/// The keys that tokens are verified with. The empty set accepts no token.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<PublicKey>,
    skipped: Vec<String>,
}

/// One key to verify with.
#[derive(Clone, Debug)]
pub(super) struct PublicKey {
    /// Empty if the key of another issuer has none.
    pub kid: String,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
    /// What everybody may know of it; a shared secret has no such part.
    public: Option<Value>,
}

/// Bits of the modulus of an RSA key: fewer are broken, more cost more than they are worth.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Keys of one set; more are nobody's signing keys.
const MAX_KEYS: usize = 100;

impl KeySet {
    /// Reads a JWK Set. A document without a usable key is an error: it is never taken for "no restriction". Keys of a
    /// kind that is not known here are passed over, see [`Self::skipped`].
    pub fn parse(jwks_json: &[u8]) -> Result<Self, KeyError> {
        let document = object(jwks_json)?;
        let Some(Value::Array(entries)) = document.get("keys") else { return Err(KeyError::NoList) };
        let mut set = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            let problem = |problem: String| KeyError::Key { index, problem };
            let Value::Object(jwk) = entry else { return Err(problem("not an object".to_owned())) };
            match public_key(jwk).map_err(problem)? {
                Some(key) if set.find(&key.kid).is_some() => {
                    return Err(problem(format!("the kid {:?} is there twice", key.kid)));
                }
                Some(key) => set.keys.push(key),
                None => set.skipped.push(format!("keys[{index}]")),
            }
        }
        if set.keys.is_empty() { Err(KeyError::NoKey) } else { Ok(set) }
    }

    /// Reads the JWK Set of another issuer, of which only keys of these algorithms count. The algorithm of a key follows
    /// from its kind; an `alg` beside that may only agree. A key that cannot be used is passed over, with the reason in
    /// [`Self::skipped`]: a key that is left out opens nothing.
    pub fn parse_foreign(jwks_json: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let document = object(jwks_json)?;
        let Some(Value::Array(entries)) = document.get("keys") else { return Err(KeyError::NoList) };
        let mut set = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            let jwk = entry.as_object().ok_or_else(|| "not an object".to_owned());
            match jwk.and_then(|jwk| foreign_key(jwk, algorithms)) {
                // Which of two was meant, only their owner knows.
                Ok(key) if set.keys.iter().any(|other| other.kid == key.kid) => {
                    return Err(KeyError::Key { index, problem: format!("the kid {:?} is there twice", key.kid) });
                }
                Ok(_) if set.keys.len() == MAX_KEYS => {
                    set.skipped.push(format!("keys[{index}]: there are more than {MAX_KEYS} keys"));
                }
                Ok(key) => set.keys.push(key),
                Err(problem) => set.skipped.push(format!("keys[{index}]: {problem}")),
            }
        }
        if set.keys.is_empty() { Err(KeyError::NoneUsable(set.skipped.join("; "))) } else { Ok(set) }
    }

    /// What everybody may know of the keys, as a JWK Set: a shared secret is not in it.
    pub fn public(&self) -> String {
        json!({"keys": self.keys.iter().filter_map(|key| key.public.as_ref()).collect::<Vec<_>>()}).to_string()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key ids.
    pub fn ids(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.kid.clone()).collect()
    }

    /// The key ids with how each signs.
    pub fn algorithms(&self) -> Vec<(String, Algorithm)> {
        self.keys.iter().map(|key| (key.kid.clone(), key.algorithm)).collect()
    }

    /// The entries that were passed over because their kind is not known here, such as `keys[1]`.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    pub(super) fn find(&self, kid: &str) -> Option<&PublicKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// The key, if there is only one: then a token need not say which it was signed with.
    pub(super) fn only(&self) -> Option<&PublicKey> {
        if let [key] = self.keys.as_slice() { Some(key) } else { None }
    }
}

/// A member that is text; absent is `None`.
fn member<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{name}` is not text")),
    }
}

fn required<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    member(jwk, name)?.filter(|text| !text.is_empty()).ok_or_else(|| format!("`{name}` is missing"))
}

/// The bytes of a base64url member of exactly this many bytes.
fn bytes32(jwk: &Map<String, Value>, name: &str) -> Result<[u8; 32], String> {
    let text = required(jwk, name)?;
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("`{name}` is not base64url"))?;
    bytes.try_into().map_err(|_| format!("`{name}` has not 32 bytes"))
}

/// The algorithm of a key from its kind; `None` if it is of a kind that is not known here.
fn kind(jwk: &Map<String, Value>) -> Result<Option<Algorithm>, String> {
    let algorithm = match (required(jwk, "kty")?, member(jwk, "crv")?) {
        ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
        ("EC", Some("P-256")) => Algorithm::Es256,
        ("oct", None) => Algorithm::Hs256,
        _ => return Ok(None),
    };
    match member(jwk, "alg")? {
        Some(alg) if alg == algorithm.name() => Ok(Some(algorithm)),
        // A secret without an algorithm could be meant for anything.
        None if algorithm != Algorithm::Hs256 => Ok(Some(algorithm)),
        Some(alg) if Algorithm::from_name(alg).is_some() => Err(format!("`alg` {alg} is not that of the key's kind")),
        _ => Ok(None),
    }
}

fn public_key(jwk: &Map<String, Value>) -> Result<Option<PublicKey>, String> {
    let Some(algorithm) = kind(jwk)? else { return Ok(None) };
    if member(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Ok(None);
    }
    if jwk.contains_key("d") {
        return Err("is a private key; a broker must not be able to sign".to_owned());
    }
    let kid = required(jwk, "kid")?.to_owned();
    verifying_key(jwk, algorithm, kid).map(Some)
}

/// The key of this algorithm that the members describe.
fn verifying_key(jwk: &Map<String, Value>, algorithm: Algorithm, kid: String) -> Result<PublicKey, String> {
    let (key, members): (_, &[&str]) = match algorithm {
        Algorithm::EdDsa => (DecodingKey::from_ed_der(&bytes32(jwk, "x")?), &["crv", "x"]),
        Algorithm::Es256 => {
            let point = [&[4], bytes32(jwk, "x")?.as_slice(), bytes32(jwk, "y")?.as_slice()].concat();
            (DecodingKey::from_ec_der(&point), &["crv", "x", "y"])
        }
        Algorithm::Rs256 => (rsa(jwk)?, &["n", "e"]),
        Algorithm::Hs256 => (DecodingKey::from_secret(&secret(jwk)?), &[]),
    };
    let public = (algorithm != Algorithm::Hs256).then(|| {
        // Only members that are known to be public: what else an entry says is nobody's business.
        let mut public = json!({"kid": kid, "alg": algorithm.name(), "use": "sig"});
        for name in ["kty"].iter().chain(members) {
            public[*name] = jwk.get(*name).cloned().unwrap_or_default();
        }
        public
    });
    Ok(PublicKey { kid, algorithm, key, public })
}

/// A key of another issuer, or why it is passed over.
fn foreign_key(jwk: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<PublicKey, String> {
    let algorithm = match (required(jwk, "kty")?, member(jwk, "crv")?) {
        ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
        ("EC", Some("P-256")) => Algorithm::Es256,
        ("RSA", _) => Algorithm::Rs256,
        ("oct", _) => Algorithm::Hs256,
        _ => return Err("is of a kind that is not known here".to_owned()),
    };
    if !algorithms.contains(&algorithm) {
        return Err(format!("is for {algorithm}, which is not among the issuer's algorithms"));
    }
    if member(jwk, "alg")?.is_some_and(|alg| alg != algorithm.name()) {
        return Err(format!("`alg` is not {algorithm}"));
    }
    if member(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err("is not for signatures".to_owned());
    }
    match jwk.get("key_ops") {
        None => {}
        Some(Value::Array(operations)) if operations.iter().any(|it| it == "verify") => {}
        Some(_) => return Err("`key_ops` is without verify".to_owned()),
    }
    if jwk.contains_key("d") {
        return Err("is a private key: whoever reads the set can sign".to_owned());
    }
    verifying_key(jwk, algorithm, member(jwk, "kid")?.unwrap_or_default().to_owned())
}

/// An RSA key `[RFC 7518, 6.3.1]`.
fn rsa(jwk: &Map<String, Value>) -> Result<DecodingKey, String> {
    let number = |name: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(required(jwk, name)?).map_err(|_| format!("`{name}` is not base64url"))?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok::<_, String>(bytes[zeros..].to_vec())
    };
    let bits = |number: &[u8]| number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize);
    let (modulus, exponent) = (number("n")?, number("e")?);
    if !RSA_BITS.contains(&bits(&modulus)) {
        return Err(format!(
            "has {} bits; from {} to {} are accepted",
            bits(&modulus),
            RSA_BITS.start(),
            RSA_BITS.end()
        ));
    }
    // With an even exponent or 1 there is nothing to be verified.
    let odd = exponent.last().is_some_and(|last| last % 2 == 1);
    if !odd || !(2..=33).contains(&bits(&exponent)) {
        return Err("`e` is not an odd number from 3 to 33 bits".to_owned());
    }
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

/// The bytes of a shared secret, which may not be shorter than the hash `[RFC 7518, 3.2]`.
fn secret(jwk: &Map<String, Value>) -> Result<Vec<u8>, String> {
    let secret = URL_SAFE_NO_PAD.decode(required(jwk, "k")?).map_err(|_| "`k` is not base64url".to_owned())?;
    if secret.len() < 32 { Err("`k` is shorter than 32 bytes".to_owned()) } else { Ok(secret) }
}

/// A key to sign with.
#[derive(Clone)]
pub struct PrivateKey {
    kid: String,
    algorithm: Algorithm,
    /// Public members, and the one that is not.
    public: Map<String, Value>,
    secret: Vec<u8>,
    encoding: EncodingKey,
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateKey").field("kid", &self.kid).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// Makes a key from random bytes: 32 for the key itself, and 16 that only a shared secret uses, for its key id (the
/// others have the thumbprint of RFC 7638). Fails, for ES256 and about once in 2^32, if the bytes are no scalar of the
/// curve: then others do.
pub fn generate(algorithm: Algorithm, random: &[u8; 48]) -> Result<PrivateKey, KeyError> {
    let (secret, id) = random.split_at(32);
    let mut key = PrivateKey::new(algorithm, secret.to_vec(), String::new()).map_err(KeyError::Generate)?;
    key.kid = match algorithm {
        Algorithm::Hs256 => URL_SAFE_NO_PAD.encode(id),
        _ => thumbprint(&key.public),
    };
    Ok(key)
}

/// The thumbprint of a public key, whose required members stand in `public` and nothing else does `[RFC 7638, 3]`.
fn thumbprint(public: &Map<String, Value>) -> String {
    let members: std::collections::BTreeMap<_, _> = public.iter().collect();
    let text = json!(members).to_string();
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

impl PrivateKey {
    fn new(algorithm: Algorithm, secret: Vec<u8>, kid: String) -> Result<Self, String> {
        let base64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (public, encoding) = match algorithm {
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::from_seed_unchecked(&secret).map_err(|error| error.to_string())?;
                let pkcs8 = pair.to_pkcs8v1().map_err(|_| "encode the key".to_owned())?;
                let public = json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key().as_ref())});
                (public, EncodingKey::from_ed_der(pkcs8.as_ref()))
            }
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &p256_der(&secret))
                    .map_err(|error| error.to_string())?;
                let pkcs8 = pair.to_pkcs8v1().map_err(|_| "encode the key".to_owned())?;
                // An uncompressed point: 4, x, y.
                let (x, y) = pair.public_key().as_ref().split_at_checked(33).ok_or("the point is cut off")?;
                let public = json!({"kty": "EC", "crv": "P-256", "x": base64(&x[1..]), "y": base64(y)});
                (public, EncodingKey::from_ec_der(pkcs8.as_ref()))
            }
            Algorithm::Hs256 => (json!({"kty": "oct"}), EncodingKey::from_secret(&secret)),
            Algorithm::Rs256 => return Err("RS256 is only verified; sign with EdDSA or ES256".to_owned()),
        };
        let Value::Object(public) = public else { return Err("not an object".to_owned()) };
        Ok(Self { kid, algorithm, public, secret, encoding })
    }

    /// The key id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// How the key signs.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn encoding(&self) -> &EncodingKey {
        &self.encoding
    }

    fn jwk(&self, private: bool) -> Value {
        let mut jwk = self.public.clone();
        jwk.insert("kid".to_owned(), self.kid.clone().into());
        jwk.insert("alg".to_owned(), self.algorithm.name().into());
        jwk.insert("use".to_owned(), "sig".into());
        let secret = URL_SAFE_NO_PAD.encode(&self.secret);
        match self.algorithm {
            Algorithm::Hs256 => jwk.insert("k".to_owned(), secret.into()),
            _ if private => jwk.insert("d".to_owned(), secret.into()),
            _ => None,
        };
        Value::Object(jwk)
    }

    fn parse(jwk: &Map<String, Value>) -> Result<Self, String> {
        let algorithm = kind(jwk)?.ok_or("is of an unknown kind")?;
        let bytes = match algorithm {
            Algorithm::Hs256 => secret(jwk)?,
            _ => bytes32(jwk, "d")?.to_vec(),
        };
        let key = Self::new(algorithm, bytes, required(jwk, "kid")?.to_owned())?;
        match key.public.iter().find(|(name, value)| jwk.get(*name) != Some(*value)) {
            Some((name, _)) => Err(format!("`{name}` does not belong to the private part")),
            None => Ok(key),
        }
    }
}

/// A P-256 scalar as an ECPrivateKey without its optional public key `[RFC 5915, 3]`.
fn p256_der(scalar: &[u8]) -> Vec<u8> {
    const HEAD: [u8; 7] = [0x30, 0x31, 0x02, 0x01, 0x01, 0x04, 0x20];
    const CURVE: [u8; 12] = [0xA0, 0x0A, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
    [HEAD.as_slice(), scalar, &CURVE].concat()
}

/// Reads the private keys of a PEM text: Ed25519 or P-256, in PKCS #8 (`PRIVATE KEY`), or P-256 as `EC PRIVATE KEY`. Other
/// blocks, such as certificates or parameters, are passed over.
pub fn from_pem(text: &str) -> Result<Vec<PrivateKey>, KeyError> {
    let mut keys = Vec::new();
    for (index, block) in text.split("-----BEGIN ").skip(1).enumerate() {
        let wrong = |problem: &str| KeyError::Pem { index, problem: problem.to_owned() };
        let (label, rest) = block.split_once("-----").ok_or_else(|| wrong("it has no end of its first line"))?;
        if !label.ends_with("PRIVATE KEY") {
            continue;
        }
        if label.starts_with("ENCRYPTED") || rest.contains("ENCRYPTED") {
            return Err(wrong("it is encrypted; take the password away with `openssl pkey`"));
        }
        let body = rest.split("-----END").next().unwrap_or_default();
        let base64: String = body.chars().filter(|character| !character.is_ascii_whitespace()).collect();
        let der = STANDARD.decode(base64).map_err(|_| wrong("it is not base64"))?;
        let (algorithm, secret) = private_part(&der).ok_or_else(|| {
            wrong("it is neither Ed25519 nor P-256; make one with `openssl genpkey -algorithm ed25519`")
        })?;
        let mut key = PrivateKey::new(algorithm, secret, String::new()).map_err(|problem| wrong(&problem))?;
        key.kid = thumbprint(&key.public);
        keys.push(key);
    }
    if keys.is_empty() { Err(KeyError::NoPem) } else { Ok(keys) }
}

/// The 32 bytes that are a private key, from its DER form.
fn private_part(der: &[u8]) -> Option<(Algorithm, Vec<u8>)> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Some((Algorithm::EdDsa, pair.seed().ok()?.as_be_bytes().ok()?.as_ref().to_vec()));
    }
    let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok()?;
    Some((Algorithm::Es256, pair.private_key().as_be_bytes().ok()?.as_ref().to_vec()))
}

/// The private keys of a broker: the document `keys.json`, which no pod mounts.
#[derive(Clone, Debug, Default)]
pub struct PrivateKeys {
    pub keys: Vec<PrivateKey>,
}

impl PrivateKeys {
    /// Reads a JWK Set of private keys. Unlike [`KeySet::parse`], a key that is not understood is an error: it would be
    /// lost when the document is written again.
    pub fn parse(json: &[u8]) -> Result<Self, KeyError> {
        let document = object(json)?;
        let Some(Value::Array(entries)) = document.get("keys") else { return Err(KeyError::NoList) };
        let key = |(index, entry): (usize, &Value)| {
            let jwk = entry.as_object().ok_or_else(|| "not an object".to_owned());
            jwk.and_then(PrivateKey::parse).map_err(|problem| KeyError::Key { index, problem })
        };
        let keys: Vec<_> = entries.iter().enumerate().map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(KeyError::NoKey) } else { Ok(Self { keys }) }
    }

    /// The document with the private parts. The same keys give the same bytes.
    pub fn to_json(&self) -> String {
        json!({"keys": self.keys.iter().map(|key| key.jwk(true)).collect::<Vec<_>>()}).to_string()
    }

    /// The JWK Set that brokers verify with, `jwks.json`. Of an HS256 key it has the secret, because there is no other
    /// part. The same keys give the same bytes.
    pub fn public(&self) -> String {
        json!({"keys": self.keys.iter().map(|key| key.jwk(false)).collect::<Vec<_>>()}).to_string()
    }

    /// The key that signs.
    pub fn active(&self, states: &KeyStates) -> Option<&PrivateKey> {
        let record = states.keys.iter().find(|record| record.state == KeyState::Active)?;
        self.keys.iter().find(|key| key.kid == record.kid)
    }
}

/// Where each private key is in its life: the document `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyStates {
    pub format: u32,
    pub keys: Vec<KeyRecord>,
    /// The last request for another key that was fulfilled, by its time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rotated: u64,
    /// Keys that were taken back. They stay here, so that nothing brings one back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<RevokedKey>,
}

/// A key that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevokedKey {
    pub kid: String,
    /// Unix time in seconds.
    pub since: u64,
}

/// Where one private key is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRecord {
    pub kid: String,
    pub state: KeyState,
    /// Unix time in seconds at which the key came into this state.
    pub since: u64,
    /// Seconds that the longest token lives that brokers accepted at any time since the key began to sign.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub longest: u64,
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The life of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Published, and not yet used: not every broker has loaded it.
    Next,
    /// Signs.
    Active,
    /// Only verifies, until the last token that it can have signed has expired.
    Retiring,
}

impl KeyStates {
    /// The states when there is one key, which signs.
    pub fn first(key: &PrivateKey, now: u64) -> Self {
        let record = KeyRecord { kid: key.kid.clone(), state: KeyState::Active, since: now, longest: 0 };
        Self { format: 1, keys: vec![record], rotated: 0, revoked: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
