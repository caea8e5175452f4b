//! An immutable snapshot of who may connect and what they may do. On a reload it is replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde_json::{Map, Value};

use super::admin::{self, Admin};
use super::explain::{Rules, Source};
use super::grants::{Grants, RuleError, Statement};
use super::identity::{
    BRIDGE_USER, Credential, Identity, Presented, Principal, Refusal, TokenCredential, Verdict, is_reserved,
};
use super::issuer::{IssuerError, Issuers, Loaded};
use super::key::{Algorithm, KeySet};
use super::layer::Layer;
use super::memory::Memory;
use super::password::{self, HashError, Nobody, PasswordCheck};
use super::revocations::{Facts, Revocations, Revoked};
use super::rule::Rule;
use super::settings::{Guard, Jwt, Settings};
use super::template::{ClaimValues, Values};
use super::token::{self, Parts, TokenError, Verified};
use super::why::Why;
use crate::mqtt::ReasonCode;

/// What a policy is made from beside its settings.
#[derive(Debug, Default)]
pub struct Sources {
    /// The keys that tokens are verified with. An empty set means that no token is accepted.
    pub jwks: KeySet,
    /// Those of other issuers, in the order of the settings; of one whose keys are not there nothing is accepted.
    pub issuers: Vec<Option<Loaded>>,
    /// Random bytes of this process, under which verified tokens are remembered; absent means that none are.
    pub memory: Option<[u8; 32]>,
    /// User names and the hashes of their passwords.
    pub hashes: Vec<(String, String)>,
    /// Tokens that are taken back.
    pub revocations: Revocations,
    /// Absent means that nobody is the bridge.
    pub bridge: Option<Bridge>,
}

/// How the bridge is known, and all that it may subscribe to.
#[derive(Clone)]
pub struct Bridge {
    pub password: Vec<u8>,
    pub topics: Vec<String>,
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge").field("topics", &self.topics).finish_non_exhaustive()
    }
}

/// Who may connect and what they may do.
#[derive(Debug)]
pub struct Policy {
    jwt: Jwt,
    keys: KeySet,
    revocations: Revocations,
    issuers: Issuers,
    verified: Option<Memory>,
    users: HashMap<String, User>,
    groups: HashMap<String, Vec<Statement>>,
    deny: Vec<Statement>,
    anonymous: Option<Vec<Statement>>,
    bridge: Option<Bridge>,
    /// Users whose hash cannot be used, and why: they have no password.
    unusable: Vec<(String, HashError)>,
    nobody: Arc<Nobody>,
    guard: Guard,
}

struct User {
    groups: Vec<String>,
    rules: Vec<Statement>,
    hash: Option<Arc<str>>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("groups", &self.groups).field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Why a policy cannot be used, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("{at}.{source}")]
    Rule { at: String, source: RuleError },
    #[error("{at}: there is no group `{group}`")]
    UnknownGroup { at: String, group: String },
    #[error("{at}.name: `{name}` is there twice")]
    Duplicate { at: String, name: String },
    #[error("{at}.name: is empty")]
    EmptyName { at: String },
    #[error("{at}.name: `{name}` begins with `system:`, which is kept for parts of the broker")]
    Reserved { at: String, name: String },
    #[error("issuers[{index}].{source}")]
    Issuer { index: usize, source: IssuerError },
    #[error("the bridge's password is empty")]
    BridgePassword,
}

/// Why a client that was accepted before would not be accepted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("the key of its token is gone")]
    Key,
    #[error("{0}")]
    Token(Revoked),
    #[error("its user is gone")]
    User,
    #[error("its user has another password")]
    Password,
    #[error("anonymous clients are not allowed any more")]
    Anonymous,
    #[error("there is no bridge any more")]
    Bridge,
}

/// Compiles a list of rules; an error names the rule, as in `deny[2].topic: …`.
pub(super) fn compile(at: &str, rules: &[Rule], layer: Layer) -> Result<Vec<Statement>, PolicyError> {
    let rule = |(index, rule)| {
        Statement::compile_in(rule, layer).map_err(|source| PolicyError::Rule { at: format!("{at}[{index}]"), source })
    };
    rules.iter().enumerate().map(rule).collect()
}

fn check_name<T>(at: &str, name: &str, known: &HashMap<String, T>) -> Result<(), PolicyError> {
    let (at, name) = (at.to_owned(), name.to_owned());
    if name.is_empty() {
        Err(PolicyError::EmptyName { at })
    } else if is_reserved(&name) {
        Err(PolicyError::Reserved { at, name })
    } else if known.contains_key(&name) {
        Err(PolicyError::Duplicate { at, name })
    } else {
        Ok(())
    }
}

impl Policy {
    /// Checks everything that a policy is made from. An error means that the last good policy stays.
    pub fn new(settings: &Settings, sources: Sources) -> Result<Self, PolicyError> {
        let mut groups = HashMap::new();
        for (index, group) in settings.groups.iter().enumerate() {
            let at = format!("groups[{index}]");
            check_name(&at, &group.name, &groups)?;
            groups.insert(group.name.clone(), compile(&format!("{at}.acl"), &group.acl, Layer::Group)?);
        }
        let mut hashes: HashMap<String, Arc<str>> = HashMap::new();
        let mut unusable = Vec::new();
        for (user, hash) in sources.hashes {
            // One that cannot be used is one user's trouble, and no reason to close the broker for the others.
            match password::check_hash(&hash) {
                Ok(()) => drop(hashes.insert(user, hash.into())),
                Err(error) => unusable.push((user, error)),
            }
        }
        let mut users = HashMap::new();
        for (index, user) in settings.users.iter().enumerate() {
            let at = format!("users[{index}]");
            check_name(&at, &user.name, &users)?;
            if let Some((index, group)) = user.groups.iter().enumerate().find(|(_, group)| !groups.contains_key(*group))
            {
                return Err(PolicyError::UnknownGroup { at: format!("{at}.groups[{index}]"), group: group.clone() });
            }
            let rules = compile(&format!("{at}.acl"), &user.acl, Layer::User)?;
            let hash = hashes.remove(&user.name);
            users.insert(user.name.clone(), User { groups: user.groups.clone(), rules, hash });
        }
        if sources.bridge.as_ref().is_some_and(|bridge| bridge.password.is_empty()) {
            return Err(PolicyError::BridgePassword);
        }
        let anonymous = settings.anonymous.as_ref();
        let nobody = Nobody::like(users.values().filter_map(|user: &User| user.hash.as_deref()));
        let issuers = Issuers::new(&settings.issuers, sources.issuers, &settings.jwt.issuer)
            .map_err(|(index, source)| PolicyError::Issuer { index, source })?;
        Ok(Self {
            jwt: settings.jwt.clone(),
            keys: sources.jwks,
            issuers,
            verified: sources.memory.as_ref().map(Memory::new),
            revocations: sources.revocations,
            users,
            groups,
            deny: compile("deny", &settings.deny, Layer::Deny)?,
            anonymous: anonymous
                .map(|anonymous| compile("anonymous.acl", &anonymous.acl, Layer::Anonymous))
                .transpose()?,
            bridge: sources.bridge,
            nobody: Arc::new(nobody),
            guard: settings.guard.clone(),
            unusable,
        })
    }

    /// The key ids that tokens are verified with.
    pub fn key_ids(&self) -> Vec<String> {
        self.keys.ids()
    }

    /// The keys that tokens are verified with: ids and algorithms.
    pub fn keys(&self) -> Vec<(String, Algorithm)> {
        self.keys.algorithms()
    }

    /// The keys of other issuers: the issuer, and the key's id and algorithm.
    pub fn foreign_keys(&self) -> impl Iterator<Item = (&str, String, Algorithm)> {
        self.issuers.keys()
    }

    /// What everybody may know of the keys that this broker's own tokens are verified with, as a JWK Set.
    pub fn public_jwks(&self) -> String {
        self.keys.public()
    }

    /// The users whose password hash is loaded, sorted.
    pub fn user_names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.users.iter().filter(|(_, user)| user.hash.is_some()).map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// The users whose password hash is loaded, each with a digest of the hash, by which a new one is told from the old.
    pub fn password_digests(&self) -> BTreeMap<String, String> {
        let users = self.users.iter();
        users.filter_map(|(name, user)| Some((name.clone(), password::digest(user.hash.as_deref()?)))).collect()
    }

    /// What is done about wrong passwords.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The users that have no password because their hash cannot be used, and why not.
    pub fn unusable_hashes(&self) -> &[(String, HashError)] {
        &self.unusable
    }

    /// Who presents this at `now`, in seconds of Unix time. What is presented and wrong is refused, never downgraded.
    pub fn authenticate(&self, presented: &Presented<'_>, now: u64) -> Verdict {
        let decided =
            if presented.internal { self.authenticate_bridge(presented) } else { self.decide(presented, now) };
        decided.unwrap_or_else(Verdict::Refused)
    }

    /// Who presents this token to the admin port with this audience at `now`, in seconds of Unix time.
    pub fn authenticate_admin(&self, token: &[u8], audience: &str, now: u64) -> Result<Admin, TokenError> {
        admin::verify(token, &self.keys, &self.jwt.issuer, audience, now)
    }

    fn decide(&self, presented: &Presented<'_>, now: u64) -> Result<Verdict, Refusal> {
        let credential = presented.data.or(presented.password);
        // A ServiceAccount has such a name, and proves it with a token.
        let token = presented.method.is_some() || credential.or(presented.bearer).is_some_and(token::looks_like_token);
        if presented.username.is_some_and(is_reserved) && !token {
            let log = "user names that begin with `system:` are refused here";
            return Err(Refusal::bad(log).because(Why::ReservedName));
        }
        match (presented.bearer, credential) {
            // The same twice says nothing new.
            (Some(bearer), Some(credential)) if bearer != credential => {
                return Err(Refusal::bad("a token in the WebSocket request and another credential in CONNECT"));
            }
            (Some(bearer), _) if presented.method.is_none() && presented.data.is_none() => {
                return self.authenticate_token(bearer, presented, now);
            }
            _ => {}
        }
        match (presented.method, presented.data, presented.password) {
            (Some(method), _, _) if !is_token_method(method) => {
                let log = "the authentication method is unknown";
                Err(Refusal::new(ReasonCode::BAD_AUTHENTICATION_METHOD, 5, log).because(Why::Method))
            }
            (Some(_), Some(data), None) => self.authenticate_token(data, presented, now),
            (Some(_), None, None) => Err(Refusal::bad("an authentication method without authentication data")),
            (Some(_), _, Some(_)) => Err(Refusal::bad("a password and an authentication method at once")),
            (None, Some(_), _) => Err(Refusal::bad("authentication data without an authentication method")),
            (None, None, Some(password)) if token::looks_like_token(password) => {
                self.authenticate_token(password, presented, now)
            }
            (None, None, Some(password)) => self.authenticate_password(password, presented.username),
            // A certificate shows that a device belongs here, and not which principal it is.
            (None, None, None) if presented.certificate => Err(Refusal::bad("a certificate without credentials")),
            (None, None, None) => self.authenticate_anonymous(presented.username),
        }
    }

    fn authenticate_bridge(&self, presented: &Presented<'_>) -> Result<Verdict, Refusal> {
        let bridge = self.bridge.as_ref().ok_or_else(|| Refusal::bad("there is no bridge"))?;
        match presented {
            Presented { username: Some(BRIDGE_USER), password: Some(password), method: None, data: None, .. }
                if verify_slices_are_equal(password, &bridge.password).is_ok() =>
            {
                Ok(Verdict::Accepted(Identity::bridge()))
            }
            _ => Err(Refusal::bad("not the bridge's user name and password")),
        }
    }

    fn authenticate_anonymous(&self, username: Option<&str>) -> Result<Verdict, Refusal> {
        if username.is_some() {
            return Err(Refusal::bad("a user name without a password"));
        }
        if self.anonymous.is_none() {
            let log = "no credentials, and anonymous clients are not allowed";
            return Err(Refusal::new(ReasonCode::NOT_AUTHORIZED, 5, log).because(Why::NoCredentials));
        }
        Ok(Verdict::Accepted(Identity::new(Principal::Anonymous, Credential::Nothing)))
    }

    fn authenticate_password(&self, password: &[u8], username: Option<&str>) -> Result<Verdict, Refusal> {
        let name = username.ok_or_else(|| Refusal::bad("a password without a user name"))?;
        let user = self.users.get(name).map(|user| &user.hash);
        let (known, log) = match user {
            None => (None, format!("there is no user {name:?}")),
            Some(None) => (None, format!("user {name:?} has no password here")),
            Some(Some(hash)) => {
                let credential = Credential::Password(password::digest(hash).into());
                let identity = Identity::new(Principal::User(name.to_owned()), credential);
                (Some((Arc::clone(hash), identity)), format!("wrong password for user {name:?}"))
            }
        };
        Ok(Verdict::CheckPassword(PasswordCheck::new(name, password, known, &self.nobody, log)))
    }

    fn authenticate_token(&self, token: &[u8], presented: &Presented<'_>, now: u64) -> Result<Verdict, Refusal> {
        let verified = match self.verify_token(token, now) {
            Ok(verified) => verified,
            Err(TokenError::UnknownKey { issuer, text, none }) => {
                let refusal = TokenError::UnknownKey { issuer: issuer.clone(), text, none }.into();
                return Ok(Verdict::UnknownKey { issuer, refusal });
            }
            Err(error) => return Err(error.into()),
        };
        token::admit(&verified, presented, self.jwt.bind_client_id).map(Verdict::Accepted)
    }

    /// Verifies a token of any issuer that is known here, at `now`, in seconds of Unix time. A token that was right
    /// before under this policy costs no signature: what may have changed by itself is checked each time.
    pub fn verify_token(&self, token: &[u8], now: u64) -> Result<Verified, TokenError> {
        let verified = self.verify_signed(token, now)?;
        match self.revoked(&verified.credential) {
            Some(revoked) => Err(TokenError::Revoked(revoked)),
            None => Ok(verified),
        }
    }

    fn verify_signed(&self, token: &[u8], now: u64) -> Result<Verified, TokenError> {
        let tag = self.verified.as_ref().filter(|_| token.len() <= token::MAX_TOKEN).map(|memory| memory.tag(token));
        if let (Some(memory), Some(tag)) = (&self.verified, &tag)
            && let Some(verified) = memory.find(tag)
        {
            verified.check_again(now)?;
            return Ok(verified);
        }
        let parts = Parts::of(token)?;
        let verified = match self.issuers.verify(&parts, now) {
            Some(foreign) => foreign?,
            None => token::verify_own(&parts, &self.keys, &token::Expected::from(&self.jwt), now)?,
        };
        if let (Some(memory), Some(tag)) = (&self.verified, tag) {
            memory.put(tag, &verified, token.len());
        }
        Ok(verified)
    }

    /// Who the bearer of a token with these claims is at `now`, its signature taken on trust: for telling what it may do,
    /// never for letting it in.
    pub fn assume(
        &self,
        claims: &Map<String, Value>,
        presented: &Presented<'_>,
        now: u64,
    ) -> Result<Identity, Refusal> {
        let kid = "";
        let own = || token::read_claims(claims, kid.to_owned(), &token::Expected::from(&self.jwt), now);
        let verified = self.issuers.believe(claims, kid, now).unwrap_or_else(own)?;
        token::admit(&verified, presented, self.jwt.bind_client_id)
    }

    /// Who the bearer of a token with these claims is at `now`, if its signature is right: all is checked that
    /// [`Self::authenticate`] checks, but the key.
    pub fn check_unsigned(
        &self,
        claims: &Map<String, Value>,
        presented: &Presented<'_>,
        now: u64,
    ) -> Result<Identity, Refusal> {
        let identity = self.assume(claims, presented, now)?;
        match &identity.credential {
            Credential::Token(token) => match self.revoked(token) {
                Some(revoked) => Err(TokenError::Revoked(revoked).into()),
                None => Ok(identity),
            },
            _ => Ok(identity),
        }
    }

    /// The entry that takes a verified token back.
    fn revoked(&self, token: &TokenCredential) -> Option<Revoked> {
        let issuer = token.issuer.as_deref();
        let (subject, jti) = (token.subject.as_str(), token.jti.as_deref());
        self.revocations.refuses(&Facts { issuer, subject, jti, issued_at: token.issued_at })
    }

    /// Whether a client that was accepted before would still be known: its key is loaded, its token is not taken back,
    /// its user is there with the password that it came with, anonymous clients are allowed. What it may do is for
    /// [`Self::grants`] to say.
    pub fn knows(&self, identity: &Identity) -> Result<(), Lost> {
        let lost = |known: bool, what| if known { Ok(()) } else { Err(what) };
        match (&identity.credential, &identity.principal) {
            (Credential::Nothing, _) => lost(self.anonymous.is_some(), Lost::Anonymous),
            (Credential::Bridge, _) => lost(self.bridge.is_some(), Lost::Bridge),
            (Credential::Token(token), _) => {
                let loaded = match &token.issuer {
                    Some(issuer) => self.issuers.has(issuer, &token.kid),
                    None => self.keys.find(&token.kid).is_some(),
                };
                lost(loaded, Lost::Key)?;
                self.revoked(token).map_or(Ok(()), |revoked| Err(Lost::Token(revoked)))
            }
            (Credential::Password(digest), Principal::User(name)) => match self.users.get(name) {
                None | Some(User { hash: None, .. }) => Err(Lost::User),
                Some(User { hash: Some(now), .. }) => lost(password::digest(now) == **digest, Lost::Password),
            },
            (Credential::Password(_), _) => Err(Lost::User),
        }
    }

    /// What the client may do under this policy.
    pub fn grants(&self, identity: &Identity, client_id: &str) -> Grants {
        if identity.credential.is_bridge() {
            return self.bridge_topics().map_or_else(Grants::deny_all, Grants::bridge);
        }
        let rules = self.rules(identity, client_id);
        rules.map_or_else(Grants::deny_all, |rules| Grants::from_statements(rules.statements(), &rules.values))
    }

    /// All that the bridge may subscribe to, if there is a bridge.
    pub fn bridge_topics(&self) -> Option<&[String]> {
        self.bridge.as_ref().map(|bridge| &*bridge.topics)
    }

    /// The rules that concern a client, in the order in which they decide; nothing for one that is not known here, and
    /// for the bridge, which has none.
    pub(super) fn rules<'a>(&'a self, identity: &'a Identity, client_id: &'a str) -> Option<Rules<'a>> {
        static NONE: LazyLock<ClaimValues> = LazyLock::new(ClaimValues::default);
        let user = match &identity.principal {
            Principal::User(name) => self.users.get_key_value(name),
            _ => None,
        };
        let mut values = Values { client_id, username: None, subject: None, claims: &NONE };
        let mut lists = vec![(Source::Deny, &*self.deny)];
        let mut groups: &[String] = &[];
        match &identity.credential {
            Credential::Bridge => return None,
            Credential::Nothing => lists.push((Source::Anonymous, self.anonymous.as_deref()?)),
            Credential::Password(_) => {
                let (name, _) = user?;
                (values.username, values.subject) = (Some(name.as_str()), Some(name.as_str()));
            }
            Credential::Token(token) => {
                values.username = token.username.as_deref().or(Some(&token.subject));
                (values.subject, values.claims) = (Some(token.subject.as_str()), &token.claims);
                lists.push((Source::Token, &*token.rules));
                groups = &token.groups;
            }
        }
        lists.extend(user.map(|(_, user)| (Source::User, &*user.rules)));
        for name in user.iter().flat_map(|(_, user)| &user.groups).chain(groups) {
            // A group that is not there has no rules; one that is named twice has decided the first time.
            let Some((name, rules)) = self.groups.get_key_value(name) else { continue };
            if !lists.iter().any(|(source, _)| *source == Source::Group(name)) {
                lists.push((Source::Group(name), &**rules));
            }
        }
        Some(Rules { values, lists })
    }
}

/// The names under which MQTT 5 clients announce a token.
fn is_token_method(method: &str) -> bool {
    matches!(method, "JWT" | "OAUTH2-JWT" | "CUSTOM-JWT")
}

#[cfg(test)]
mod tests;
