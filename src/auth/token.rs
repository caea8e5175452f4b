//! Tokens: signed claims about who a client is and what it may do.
//!
//! The algorithm is that of the key, never that of the token; the types of claims are strict; a claim that appears
//! twice, or an `acl` that cannot be understood, refuses the whole token.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::admin;
use super::grants::Statement;
use super::identity::{Credential, Identity, Presented, Principal, Refusal, TokenCredential, is_reserved};
use super::json;
use super::key::{KeySet, PrivateKey, PublicKey};
use super::layer::Layer;
use super::policy;
use super::revocations::Revoked;
use super::rule::{Action, Permission, Rule};
use super::settings::Jwt;
use super::why::Why;
use crate::mqtt::ReasonCode;

/// Bytes; a longer token is refused before it is looked at.
pub const MAX_TOKEN: usize = 8 * 1024;

/// Seconds by which the clock of whoever issued a token may be ahead.
pub const LEEWAY: u64 = 30;

/// The claim that carries the rules, unless the object says otherwise.
pub const DEFAULT_ACL_CLAIM: &str = "acl";

/// What a token of this broker's own issuer says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer, [`Jwt::issuer`].
    pub iss: String,
    /// The audience, [`Jwt::audience`].
    pub aud: String,
    /// Who the token is for.
    pub sub: String,
    /// Unix time in seconds at which the token was issued.
    pub iat: u64,
    /// Unix time in seconds before which the token is not valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Unix time in seconds from which on the token is not valid.
    pub exp: u64,
    /// An id by which this one token can be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The only client id that the bearer may use; absent means any, unless the broker binds it to the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// A user name that the bearer may present, beside the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Groups of the object whose rules apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The rules of this token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acl: Vec<Rule>,
    /// The claim under which the rules stand, [`Jwt::acl_claim`]; empty means `acl`.
    #[serde(skip)]
    pub acl_claim: String,
}

impl Claims {
    /// The claims as they stand in the token.
    pub fn to_object(&self) -> Map<String, Value> {
        let Ok(Value::Object(mut object)) = serde_json::to_value(self) else { return Map::new() };
        if !self.acl_claim.is_empty()
            && let Some(rules) = object.remove(DEFAULT_ACL_CLAIM)
        {
            object.insert(self.acl_claim.clone(), rules);
        }
        object
    }
}

/// Signs claims. The claims are taken as they are: what they say is checked by whoever verifies.
pub fn issue(key: &PrivateKey, claims: &Claims) -> String {
    let mut header = jsonwebtoken::Header::new(key.algorithm().library());
    header.kid = Some(key.kid().to_owned());
    jsonwebtoken::encode(&header, &claims.to_object(), key.encoding())
        .expect("the key was checked when it was made, and an object has a JSON form")
}

/// What a token must say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub audience: &'a str,
    /// Seconds between `iat` and `exp`.
    pub max_ttl: u64,
    /// The claim that carries the rules.
    pub acl_claim: &'a str,
}

impl<'a> From<&'a Jwt> for Expected<'a> {
    fn from(jwt: &'a Jwt) -> Self {
        let acl_claim = if jwt.acl_claim.is_empty() { DEFAULT_ACL_CLAIM } else { &jwt.acl_claim };
        Self { issuer: &jwt.issuer, audience: &jwt.audience, max_ttl: jwt.max_token_ttl, acl_claim }
    }
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing that the token says may be believed.
    #[error("{0}")]
    Unverified(String),
    /// As before, because the key is not there.
    #[error("{0}")]
    Key(String),
    /// As before, because the key that the token names is not among those of its issuer, which can be fetched.
    #[error("{text}")]
    UnknownKey {
        issuer: String,
        text: String,
        /// The issuer has no keys at all.
        none: bool,
    },
    #[error("the token's signature is wrong")]
    Signature,
    /// The signature is right, but the token is not one that is accepted here.
    #[error("token: {0}")]
    Claims(String),
    #[error("token expired {} ago", duration(*.0))]
    Expired(u64),
    #[error("token is not valid for another {}", duration(*.0))]
    NotYetValid(u64),
    /// It was right until it was taken back.
    #[error("{0}")]
    Revoked(Revoked),
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let text = error.to_string();
        let why = match error {
            TokenError::Unverified(_) => Why::TokenInvalid,
            TokenError::UnknownKey { none: true, .. } => Why::TokenIssuer,
            TokenError::UnknownKey { none: false, .. } | TokenError::Key(_) => Why::TokenKey,
            TokenError::Signature => Why::TokenSignature,
            TokenError::Claims(_) => Why::TokenClaims,
            TokenError::Expired(_) => Why::TokenExpired,
            TokenError::NotYetValid(_) => Why::TokenNotYetValid,
            TokenError::Revoked(_) => Why::TokenRevoked,
        };
        let refusal = match error {
            TokenError::Unverified(_) | TokenError::Key(_) | TokenError::UnknownKey { .. } | TokenError::Signature => {
                Self::bad(text)
            }
            TokenError::Claims(_) => Self { public: Some(text.clone()), ..Self::bad(text) },
            TokenError::Expired(_) | TokenError::NotYetValid(_) | TokenError::Revoked(_) => {
                Self { public: Some(text.clone()), ..Self::new(ReasonCode::NOT_AUTHORIZED, 4, text) }
            }
        };
        refusal.because(why)
    }
}

/// Seconds in words: `12 s`, `41 min`, `3 h`, `5 d`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Whether a password is meant as a token: three parts or more, and the first one begins a JSON object. Such a password
/// is never compared with a hash.
pub fn looks_like_token(password: &[u8]) -> bool {
    let mut parts = password.split(|byte| *byte == b'.');
    let header = parts.next().unwrap_or_default();
    if header.len() < 2 || parts.nth(1).is_none() {
        return false;
    }
    // Four characters are three bytes; a shorter header is filled up, and either alphabet is taken.
    let mut start = [b'A'; 4];
    for (to, from) in start.iter_mut().zip(header) {
        *to = match from {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        };
    }
    let Ok(decoded) = STANDARD_NO_PAD.decode(start) else { return false };
    let text = decoded.trim_ascii_start();
    text.is_empty() || text.starts_with(b"{")
}

/// A token whose signature and claims are right.
#[derive(Clone, Debug)]
pub struct Verified {
    pub issuer: String,
    pub subject: String,
    /// Unix time in seconds.
    pub expires_at: u64,
    times: Times,
    pub(super) credential: Arc<TokenCredential>,
}

impl Verified {
    pub(super) fn new(issuer: &str, times: Times, credential: TokenCredential) -> Self {
        Self {
            issuer: issuer.to_owned(),
            subject: credential.subject.clone(),
            expires_at: times.expires,
            times,
            credential: Arc::new(credential),
        }
    }

    /// The client ids that the token is for; empty means any.
    pub fn client_ids(&self) -> &[String] {
        &self.credential.client_ids
    }

    /// What of a token that was right before may have changed by itself.
    pub(super) fn check_again(&self, now: u64) -> Result<(), TokenError> {
        self.times.check(now)
    }
}

/// Verifies a token of this broker's own issuer at `now`, in seconds of Unix time.
pub fn verify(token: &[u8], keys: &KeySet, expected: &Expected<'_>, now: u64) -> Result<Verified, TokenError> {
    verify_own(&Parts::of(token)?, keys, expected, now)
}

/// As [`verify`], of a token that is taken apart.
pub(super) fn verify_own(
    parts: &Parts<'_>,
    keys: &KeySet,
    expected: &Expected<'_>,
    now: u64,
) -> Result<Verified, TokenError> {
    let kid = parts.check_own_signature(keys)?;
    let claims =
        json::object(&parts.payload).map_err(|error| TokenError::Claims(format!("read the claims: {error}")))?;
    read_claims(&claims, kid, expected, now)
}

/// A token taken apart. Nothing of it may be believed before [`Self::check_signature`].
#[derive(Debug)]
pub(super) struct Parts<'a> {
    message: &'a str,
    signature: &'a str,
    pub kid: Option<String>,
    alg: String,
    pub payload: Vec<u8>,
}

impl<'a> Parts<'a> {
    /// Takes a token apart, unless it is too long for that or its header demands what is not done here.
    pub fn of(token: &'a [u8]) -> Result<Self, TokenError> {
        let unverified = |text: &str| TokenError::Unverified(text.to_owned());
        if token.len() > MAX_TOKEN {
            return Err(unverified("the token is longer than 8 KiB"));
        }
        let token = std::str::from_utf8(token).map_err(|_| unverified("the token is not text"))?;
        let (message, signature) = token.rsplit_once('.').ok_or_else(|| unverified("the token has not three parts"))?;
        let (header, payload) = message
            .split_once('.')
            .filter(|(_, payload)| !payload.contains('.'))
            .ok_or_else(|| unverified("the token has not three parts"))?;
        let decode = |part: &str, what: &str| {
            let wrong = |_| TokenError::Unverified(format!("the token's {what} is not base64url"));
            URL_SAFE_NO_PAD.decode(part).map_err(wrong)
        };
        let header = json::object(&decode(header, "header")?)
            .map_err(|error| TokenError::Unverified(format!("read the token's header: {error}")))?;
        let (kid, alg) = read_header(&header)?;
        let payload = decode(payload, "payload")?;
        decode(signature, "signature")?;
        Ok(Self { message, signature, kid, alg, payload })
    }

    /// Checks the signature with this key, and that the token does not claim another algorithm than the key's.
    pub fn check_signature(&self, key: &PublicKey) -> Result<(), TokenError> {
        if self.alg != key.algorithm.name() {
            let text = format!("the token says {}, its key {} is {}", short(&self.alg), short(&key.kid), key.algorithm);
            return Err(TokenError::Unverified(text));
        }
        let library = key.algorithm.library();
        match jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), &key.key, library) {
            Ok(true) => Ok(()),
            Ok(false) => Err(TokenError::Signature),
            Err(error) => Err(TokenError::Unverified(format!("verify the token's signature: {error}"))),
        }
    }

    /// Checks the signature with the one of these keys that the token names; gives its id.
    pub fn check_own_signature(&self, keys: &KeySet) -> Result<String, TokenError> {
        let kid = own_kid(self.kid.as_deref())?;
        let key =
            keys.find(kid).ok_or_else(|| TokenError::Key(format!("the token's key {} is not loaded", short(kid))))?;
        self.check_signature(key)?;
        Ok(kid.to_owned())
    }
}

/// The key id of a token of this broker's own, which has one.
pub(super) fn own_kid(kid: Option<&str>) -> Result<&str, TokenError> {
    kid.ok_or_else(|| TokenError::Unverified("the token's header: `kid` is missing".to_owned()))
}

/// The key id, if there is one, and the algorithm that a header names.
pub(super) fn read_header(header: &Map<String, Value>) -> Result<(Option<String>, String), TokenError> {
    let unverified = |text: String| TokenError::Unverified(format!("the token's header: {text}"));
    for name in ["crit", "jku", "jwk", "x5u", "x5c", "zip", "b64"] {
        if header.contains_key(name) {
            return Err(unverified(format!("`{name}` is not accepted")));
        }
    }
    match header.get("typ") {
        None => {}
        Some(Value::String(typ)) if typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt") => {}
        Some(_) => return Err(unverified("`typ` is neither `JWT` nor `at+jwt`".to_owned())),
    }
    let text = |name: &str| match header.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(_) => Err(unverified(format!("`{name}` is not text"))),
        None => Ok(None),
    };
    let alg = text("alg")?.ok_or_else(|| unverified("`alg` is missing".to_owned()))?;
    Ok((text("kid")?, alg))
}

/// A text of unknown origin, quoted and cut for a log.
pub(super) fn short(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

/// Checks everything that a token says, at `now`.
pub(super) fn read_claims(
    claims: &Map<String, Value>,
    kid: String,
    expected: &Expected<'_>,
    now: u64,
) -> Result<Verified, TokenError> {
    let issuer = required(text(claims, "iss")?, "iss")?.to_owned();
    if issuer != expected.issuer {
        return Err(TokenError::Claims("`iss` is not this broker's".to_owned()));
    }
    let audiences = texts(claims, "aud", true)?.unwrap_or_default();
    if !audiences.iter().any(|it| it == expected.audience) {
        return Err(TokenError::Claims("`aud` is not this broker".to_owned()));
    }
    if audiences.iter().any(|it| admin::is_audience(it)) {
        return Err(TokenError::Claims("`aud` names an admin port too; such a token is good for neither".to_owned()));
    }
    let subject = required(name(claims, "sub")?, "sub")?.to_owned();
    let username = name(claims, "username")?.map(str::to_owned);
    let client_ids = client_ids(claims.get("client_id"), "client_id")?;
    let groups = texts(claims, "groups", false)?.unwrap_or_default();
    let jti = text(claims, "jti")?.map(str::to_owned);
    let rules = read_acl(claims.get(expected.acl_claim), expected.acl_claim)?;
    let times = check_times(claims, expected.max_ttl, true, now)?;
    let issued_at = seconds(claims, "iat")?.unwrap_or_default();
    let claims = claims.into();
    let credential =
        TokenCredential { issuer: None, kid, subject, jti, issued_at, username, client_ids, groups, rules, claims };
    Ok(Verified::new(&issuer, times, credential))
}

/// The client ids that a token is for; empty means any.
pub(super) fn client_ids(value: Option<&Value>, claim: &str) -> Result<Vec<String>, TokenError> {
    match texts_of(value, claim, true)? {
        None => Ok(Vec::new()),
        Some(ids) if ids.is_empty() || ids.iter().any(String::is_empty) => {
            Err(TokenError::Claims(format!("`{claim}` is empty")))
        }
        Some(ids) => Ok(ids),
    }
}

/// When a token is valid, in seconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// From its issue or from its `nbf` on, whichever is later.
    pub starts: u64,
    pub expires: u64,
}

impl Times {
    fn check(self, now: u64) -> Result<(), TokenError> {
        if now >= self.expires {
            return Err(TokenError::Expired(now - self.expires));
        }
        if self.starts > now.saturating_add(LEEWAY) {
            return Err(TokenError::NotYetValid(self.starts - now));
        }
        Ok(())
    }
}

/// Checks `iat`, `nbf` and `exp`. Where `iat` need not be there and is not, what is left of the life counts as all of it.
pub(super) fn check_times(
    claims: &Map<String, Value>,
    max_ttl: u64,
    needs_iat: bool,
    now: u64,
) -> Result<Times, TokenError> {
    let expires = required(seconds(claims, "exp")?, "exp")?;
    let issued = seconds(claims, "iat")?;
    if needs_iat {
        required(issued, "iat")?;
    }
    let not_before = seconds(claims, "nbf")?.unwrap_or(0);
    let times = Times { starts: issued.unwrap_or(0).max(not_before), expires };
    let ttl = match issued {
        Some(issued) => {
            expires.checked_sub(issued).ok_or_else(|| TokenError::Claims("`exp` is before `iat`".to_owned()))?
        }
        None => expires.saturating_sub(now),
    };
    if ttl > max_ttl {
        let text = format!("lives for {}; at most {} is accepted", duration(ttl), duration(max_ttl));
        return Err(TokenError::Claims(text));
    }
    times.check(now)?;
    Ok(times)
}

pub(super) fn required<T>(value: Option<T>, claim: &str) -> Result<T, TokenError> {
    value.ok_or_else(|| TokenError::Claims(format!("`{claim}` is missing")))
}

pub(super) fn text<'a>(claims: &'a Map<String, Value>, claim: &str) -> Result<Option<&'a str>, TokenError> {
    text_of(claims.get(claim), claim)
}

fn text_of<'a>(value: Option<&'a Value>, claim: &str) -> Result<Option<&'a str>, TokenError> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::Claims(format!("`{claim}` is not text"))),
    }
}

/// A name that a principal may have.
pub(super) fn name<'a>(claims: &'a Map<String, Value>, claim: &str) -> Result<Option<&'a str>, TokenError> {
    name_of(claims.get(claim), claim)
}

/// As [`name`], of a value that was found.
pub(super) fn name_of<'a>(value: Option<&'a Value>, claim: &str) -> Result<Option<&'a str>, TokenError> {
    let Some(name) = text_of(value, claim)? else { return Ok(None) };
    if name.is_empty() || name.contains(char::is_control) {
        return Err(TokenError::Claims(format!("`{claim}` is empty or has control characters")));
    }
    if is_reserved(name) {
        return Err(TokenError::Claims(format!("`{claim}` begins with `system:`")));
    }
    Ok(Some(name))
}

/// A list of texts, or, where `single` allows it, one text.
pub(super) fn texts(claims: &Map<String, Value>, claim: &str, single: bool) -> Result<Option<Vec<String>>, TokenError> {
    texts_of(claims.get(claim), claim, single)
}

/// As [`texts`], of a value that was found.
pub(super) fn texts_of(value: Option<&Value>, claim: &str, single: bool) -> Result<Option<Vec<String>>, TokenError> {
    let wrong = || TokenError::Claims(format!("`{claim}` is not a list of texts"));
    match value {
        None => Ok(None),
        Some(Value::String(text)) if single => Ok(Some(vec![text.clone()])),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect::<Result<_, _>>()
            .map(Some),
        Some(_) => Err(wrong()),
    }
}

/// Unix time in seconds; a fraction, a negative number or one beyond 64 bits is refused.
pub(super) fn seconds(claims: &Map<String, Value>, claim: &str) -> Result<Option<u64>, TokenError> {
    match claims.get(claim) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(TokenError::Claims(format!("`{claim}` is not a number of seconds"))),
        },
    }
}

pub(super) fn read_acl(acl: Option<&Value>, claim: &str) -> Result<Vec<Statement>, TokenError> {
    policy::compile(claim, &acl_rules(acl, claim)?, Layer::Token).map_err(|error| TokenError::Claims(error.to_string()))
}

/// The rules of a token: a list of rules, or the three lists of filters `{"pub", "sub", "all"}`.
pub(super) fn acl_rules(acl: Option<&Value>, claim: &str) -> Result<Vec<Rule>, TokenError> {
    match acl {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            let rule = |(index, item): (usize, &Value)| {
                serde_json::from_value::<Rule>(item.clone())
                    .map_err(|error| TokenError::Claims(format!("{claim}[{index}]: {error}")))
            };
            items.iter().enumerate().map(rule).collect()
        }
        Some(Value::Object(lists)) => {
            let mut rules = Vec::new();
            for list in lists.keys() {
                let action = match list.as_str() {
                    "pub" => Action::Publish,
                    "sub" => Action::Subscribe,
                    "all" => Action::All,
                    _ => return Err(TokenError::Claims(format!("`{claim}` has an unknown list {}", short(list)))),
                };
                for topic in texts(lists, list, false)?.unwrap_or_default() {
                    let permission = Permission::Allow;
                    rules.push(Rule { permission, action, topic, qos: None, retain: None, share: None });
                }
            }
            Ok(rules)
        }
        Some(_) => Err(TokenError::Claims(format!("`{claim}` is neither a list of rules nor an object of lists"))),
    }
}

/// Whether the bearer of a verified token may connect with this user name and client id.
pub(super) fn admit(verified: &Verified, presented: &Presented<'_>, bind_client_id: bool) -> Result<Identity, Refusal> {
    let token = &verified.credential;
    let refuse = |text: String| Refusal {
        public: Some(text.clone()),
        ..Refusal::bad(format!("{text} (sub {:?})", verified.subject)).because(Why::TokenBinding)
    };
    let names = [Some(token.subject.as_str()), token.username.as_deref()];
    if presented.username.is_some() && !names.contains(&presented.username) {
        return Err(refuse("the user name is not that of the token".to_owned()));
    }
    let allowed = match token.client_ids.as_slice() {
        [] if !bind_client_id => true,
        // Of another issuer the subject may be no name that a device goes by.
        [] if token.issuer.is_some() => names.contains(&Some(presented.client_id)),
        [] => presented.client_id == token.subject,
        ids => ids.iter().any(|id| id == presented.client_id),
    };
    if !allowed {
        let refusal = refuse("the token is for another client id".to_owned());
        return Err(Refusal { code: ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, return_code: 2, ..refusal });
    }
    let subject = verified.subject.clone();
    let principal = match &token.issuer {
        Some(issuer) => Principal::Foreign { issuer: issuer.to_string(), subject },
        None => Principal::User(subject),
    };
    let credential = Credential::Token(token.clone());
    Ok(Identity { principal, expires_at: Some(verified.expires_at), credential })
}

#[cfg(test)]
mod tests;
