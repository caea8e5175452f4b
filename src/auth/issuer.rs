//! Issuers beside the broker's own: which keys their tokens are verified with, and who a token says that it is for.
//!
//! The token's `iss` picks the issuer before anything is verified, and picks nothing else: keys, algorithms, audiences and
//! the length of a life are the issuer's.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};

use super::json;
use super::key::{Algorithm, KeyError, KeySet, PublicKey};
use super::settings::{self, IssuerKeys, Mapping};
use super::token::{self, Parts, TokenError, Verified};
use crate::auth::identity::TokenCredential;

/// Bytes of a key id that a fetch is worth.
const MAX_KID: usize = 256;
/// How the subjects of ServiceAccounts begin.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// How issuers may not begin, because the names of other principals do.
const TAKEN: [&str; 2] = ["user:", "system:"];

/// Why the settings of an issuer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    #[error("issuer: must not be empty, begin with user: or system:, or have `#` or control characters")]
    Name,
    #[error("issuer: {0:?} is this broker's own")]
    Own(String),
    #[error("issuer: {0:?} is there twice")]
    Twice(String),
    #[error("algorithms: must not be empty")]
    NoAlgorithm,
    #[error("algorithms: a secret that is fetched is none; HS256 takes keys from a Secret")]
    FetchedSecret,
    #[error("audiences: at least one is needed, or tokens for others would be accepted")]
    NoAudience,
}

/// The keys of an issuer as they were read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The issuer, where the document says it.
    pub issuer: Option<String>,
    pub keys: KeySet,
}

/// Reads the document with the keys of an issuer.
pub fn read_keys(settings: &settings::Issuer, document: &[u8]) -> Result<Loaded, KeyError> {
    let keys = KeySet::parse_foreign(document, &settings.algorithms)?;
    let issuer = match settings.keys {
        IssuerKeys::Cluster => json::object(document)?.get("issuer").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    Ok(Loaded { issuer, keys })
}

/// How files about an issuer are named: what an issuer is called may be no file name.
pub fn file_stem(issuer: &str) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, issuer.as_bytes()).as_ref().iter().take(8).fold("issuer-".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An issuer with its keys.
#[derive(Debug)]
struct Issuer {
    name: Arc<str>,
    settings: settings::Issuer,
    keys: KeySet,
}

/// The issuers beside the broker's own.
#[derive(Debug, Default)]
pub(super) struct Issuers(Vec<Issuer>);

impl Issuers {
    /// Puts settings and keys together; the keys are in the order of the settings. An issuer without keys accepts nothing.
    pub fn new(
        settings: &[settings::Issuer],
        keys: Vec<Option<Loaded>>,
        own: &str,
    ) -> Result<Self, (usize, IssuerError)> {
        let mut issuers: Vec<Issuer> = Vec::new();
        let mut keys = keys.into_iter();
        for (index, settings) in settings.iter().enumerate() {
            let wrong = |error| Err((index, error));
            let Loaded { issuer, keys } =
                keys.next().flatten().unwrap_or_else(|| Loaded { issuer: None, keys: KeySet::default() });
            check(settings).map_err(|error| (index, error))?;
            let name = match (&settings.keys, issuer) {
                (IssuerKeys::Cluster, Some(name)) => name,
                // What the cluster calls itself is not known yet, and so nothing of it is accepted.
                (IssuerKeys::Cluster, None) => continue,
                _ => settings.issuer.clone(),
            };
            if name == own {
                return wrong(IssuerError::Own(name));
            }
            if issuers.iter().any(|other| *other.name == *name) {
                return wrong(IssuerError::Twice(name));
            }
            if !is_name(&name) {
                return wrong(IssuerError::Name);
            }
            issuers.push(Issuer { name: name.into(), settings: settings.clone(), keys });
        }
        Ok(Self(issuers))
    }

    fn find(&self, issuer: &str) -> Option<&Issuer> {
        self.0.iter().find(|it| *it.name == *issuer)
    }

    /// Whether the key is loaded still.
    pub fn has(&self, issuer: &str, kid: &str) -> bool {
        self.find(issuer).is_some_and(|issuer| issuer.keys.find(kid).is_some())
    }

    /// The keys of all issuers: the issuer, and the key's id and algorithm.
    pub fn keys(&self) -> impl Iterator<Item = (&str, String, Algorithm)> {
        let keys = |issuer: &Issuer| issuer.keys.algorithms();
        self.0.iter().flat_map(move |issuer| keys(issuer).into_iter().map(|(kid, alg)| (&*issuer.name, kid, alg)))
    }

    /// Reads the claims of a token of one of these issuers, its signature taken on trust; none if `iss` is none of theirs.
    pub fn believe(&self, claims: &Map<String, Value>, kid: &str, now: u64) -> Option<Result<Verified, TokenError>> {
        let issuer = self.find(claims.get("iss")?.as_str()?)?;
        Some(issuer.read(claims.clone(), kid.to_owned(), now))
    }

    /// Verifies a token of one of these issuers; none if its `iss` is none of theirs.
    pub fn verify(&self, parts: &Parts<'_>, now: u64) -> Option<Result<Verified, TokenError>> {
        // Nothing is believed of this but whose token it claims to be.
        let claims = json::object(&parts.payload).ok()?;
        let issuer = self.find(claims.get("iss")?.as_str()?)?;
        Some(issuer.verify(parts, claims, now))
    }
}

/// Checks what the settings of one issuer say by themselves.
pub fn check(settings: &settings::Issuer) -> Result<(), IssuerError> {
    let cluster = settings.keys == IssuerKeys::Cluster;
    if settings.algorithms.is_empty() {
        return Err(IssuerError::NoAlgorithm);
    }
    if matches!(settings.keys, IssuerKeys::Url { .. }) && settings.algorithms.contains(&Algorithm::Hs256) {
        return Err(IssuerError::FetchedSecret);
    }
    if settings.audiences.is_empty() && settings.mapping != Mapping::Authx {
        return Err(IssuerError::NoAudience);
    }
    if cluster || is_name(&settings.issuer) { Ok(()) } else { Err(IssuerError::Name) }
}

/// `#` stands between issuer and subject in the name of a principal: with another one before it, two would look alike.
fn is_name(issuer: &str) -> bool {
    let taken = TAKEN.iter().any(|prefix| issuer.starts_with(prefix));
    !issuer.is_empty() && !taken && !issuer.contains(|c: char| c == '#' || c.is_control())
}

impl Issuer {
    fn verify(&self, parts: &Parts<'_>, claims: Map<String, Value>, now: u64) -> Result<Verified, TokenError> {
        let key = self.key(parts, &claims)?;
        parts.check_signature(key)?;
        self.read(claims, key.kid.clone(), now)
    }

    /// The key that a token has to be signed with.
    fn key(&self, parts: &Parts<'_>, claims: &Map<String, Value>) -> Result<&PublicKey, TokenError> {
        let unverified = |text: &str| TokenError::Unverified(text.to_owned());
        let named = if self.settings.mapping == Mapping::Authx {
            // The secret of a group signs for that group: another key, named in the header, would sign for all of them.
            let group = claims.get("device_group_id").and_then(Value::as_str).filter(|group| !group.is_empty());
            let group = group.ok_or_else(|| unverified("`device_group_id`, which names the key, is missing"))?;
            if parts.kid.as_deref().is_some_and(|kid| kid != group) {
                return Err(unverified("the token's `kid` is not its `device_group_id`"));
            }
            Some(group)
        } else {
            parts.kid.as_deref()
        };
        let found = match named {
            Some(kid) => self.keys.find(kid),
            None => self.keys.only(),
        };
        if let Some(key) = found {
            return Ok(key);
        }
        let Some(kid) = named else {
            if self.keys.is_empty() {
                return Err(self.unknown_key("the issuer's keys are not loaded".to_owned()));
            }
            return Err(unverified("the token's `kid` is missing, and its issuer has several keys"));
        };
        let text = format!("the token's key {} is not among those of {:?}", token::short(kid), self.name);
        // No issuer names a key like this.
        let well_formed = kid.len() <= MAX_KID && kid.bytes().all(|byte| byte.is_ascii_graphic());
        Err(if well_formed { self.unknown_key(text) } else { TokenError::Key(text) })
    }

    fn unknown_key(&self, text: String) -> TokenError {
        match self.settings.keys {
            IssuerKeys::Url { .. } => {
                TokenError::UnknownKey { issuer: self.name.to_string(), text, none: self.keys.is_empty() }
            }
            _ => TokenError::Key(text),
        }
    }

    /// Checks everything that a token with a right signature says.
    fn read(&self, mut claims: Map<String, Value>, kid: String, now: u64) -> Result<Verified, TokenError> {
        let settings = &self.settings;
        let audiences = token::texts(&claims, "aud", true)?.unwrap_or_default();
        if !settings.audiences.is_empty() && !audiences.iter().any(|it| settings.audiences.contains(it)) {
            return Err(TokenError::Claims("`aud` is not one that is accepted of this issuer".to_owned()));
        }
        let jti = token::text(&claims, "jti")?.map(str::to_owned);
        // A token that does not say when it was issued may have been at any time: what is taken back up to a time takes it.
        let issued_at = token::seconds(&claims, "iat")?.unwrap_or_default();
        let mut bearer = match &settings.mapping {
            Mapping::Claims { subject, username, client_id, groups } => {
                mapped(&claims, subject, username, client_id, groups)?
            }
            Mapping::Authx => authx(&claims)?,
            Mapping::ServiceAccount => service_account(&mut claims)?,
        };
        bearer.groups.extend(settings.groups.iter().cloned());
        let rules = match settings.acl_claim.as_str() {
            "" => Vec::new(),
            claim => token::read_acl(claims.get(claim), claim)?,
        };
        let times = token::check_times(&claims, settings.max_token_ttl, false, now)?;
        let Bearer { subject, username, client_ids, groups } = bearer;
        let (issuer, claims) = (Some(self.name.clone()), (&claims).into());
        let credential =
            TokenCredential { issuer, kid, subject, jti, issued_at, username, client_ids, groups, rules, claims };
        Ok(Verified::new(&self.name, times, credential))
    }
}

/// Who a token is for.
struct Bearer {
    subject: String,
    username: Option<String>,
    client_ids: Vec<String>,
    groups: Vec<String>,
}

fn mapped(
    claims: &Map<String, Value>,
    subject: &str,
    username: &str,
    client_id: &str,
    groups: &str,
) -> Result<Bearer, TokenError> {
    Ok(Bearer {
        subject: token::required(token::name_of(claim(claims, subject), subject)?, subject)?.to_owned(),
        username: token::name_of(claim(claims, username), username)?.map(str::to_owned),
        client_ids: token::client_ids(claim(claims, client_id), client_id)?,
        groups: token::texts_of(claim(claims, groups), groups, true)?.unwrap_or_default(),
    })
}

/// A claim by its name, or by its JSON Pointer `[RFC 6901]`.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let Some(path) = name.strip_prefix('/') else { return claims.get(name) };
    let mut steps = path.split('/').map(|step| step.replace("~1", "/").replace("~0", "~"));
    let first = claims.get(&steps.next()?)?;
    steps.try_fold(first, |value, step| match value {
        Value::Object(object) => object.get(&step),
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Two groups may each have a device of the same id, and the secret of one must not make a device of the other: so the
/// principal has the group in its name.
fn authx(claims: &Map<String, Value>) -> Result<Bearer, TokenError> {
    let part = |name: &str| token::required(token::name(claims, name)?, name).map(str::to_owned);
    let (device, group) = (part("device_id")?, part("device_group_id")?);
    part("organizationID")?;
    let access = token::texts(claims, "access", true)?.unwrap_or_default();
    if !access.iter().any(|it| it == "DEVICE") {
        return Err(TokenError::Claims("`access` is without DEVICE".to_owned()));
    }
    Ok(Bearer {
        subject: format!("{group}/{device}"),
        username: Some(device),
        client_ids: Vec::new(),
        groups: vec![group],
    })
}

/// What Kubernetes calls a ServiceAccount; its two parts become claims, for the placeholders of rules.
fn service_account(claims: &mut Map<String, Value>) -> Result<Bearer, TokenError> {
    let subject = token::required(token::text(claims, "sub")?, "sub")?.to_owned();
    let parts = subject.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || b"-.".contains(&it))
    };
    let Some((namespace, name)) = parts.filter(|(namespace, name)| plain(namespace) && plain(name)) else {
        return Err(TokenError::Claims("`sub` is no ServiceAccount".to_owned()));
    };
    let groups = vec![
        format!("serviceaccount:{namespace}:{name}"),
        format!("serviceaccounts:{namespace}"),
        "serviceaccounts".to_owned(),
    ];
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    claims.insert("namespace".to_owned(), namespace.into());
    claims.insert("serviceaccount".to_owned(), name.into());
    Ok(Bearer { subject, username: None, client_ids: Vec::new(), groups })
}

#[cfg(test)]
mod tests;
