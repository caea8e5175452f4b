//! Issuers beside the broker's own, and where their keys come from.

use std::collections::BTreeSet;

use super::{Invalid, units};
use crate::api;
use crate::auth::issuer::{self, IssuerError};
use crate::auth::key::Algorithm;
use crate::auth::settings::{Issuer, IssuerKeys, Mapping};
use crate::config::files::STATE_IN_POD;

/// Seconds that a token of another issuer may live unless the object says otherwise.
const MAX_TTL: u64 = 24 * 3600;
/// The key of a Secret that a JWK Set is in unless the object says otherwise.
const JWKS: &str = "jwks.json";

/// The user's Secrets of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSecrets {
    /// How the broker's documents about this issuer are named, see [`issuer::file_stem`].
    pub stem: String,
    /// `spec.auth.jwt.issuers[0]`.
    pub field: String,
    /// The Secret with the JWK Set, and its key.
    pub jwks: Option<(String, String)>,
    /// The Secret with the authorities in `ca.crt`.
    pub ca: Option<String>,
}

impl IssuerSecrets {
    /// What is read from them: the field that names the Secret, the Secret, its key, and the name of the document that the
    /// broker finds it in.
    pub fn documents(&self) -> impl Iterator<Item = (String, &str, &str, String)> {
        let jwks = self.jwks.as_ref().map(|(name, key)| {
            (format!("{}.jwksSecretRef", self.field), name.as_str(), key.as_str(), format!("{}.json", self.stem))
        });
        let ca = self
            .ca
            .as_ref()
            .map(|name| (format!("{}.caSecretRef", self.field), name.as_str(), "ca.crt", format!("{}.crt", self.stem)));
        jwks.into_iter().chain(ca)
    }
}

/// The settings of all issuers, the ServiceAccounts of the cluster last.
pub fn issuers(jwt: &api::Jwt, own: &str, groups: &BTreeSet<&str>) -> Result<Vec<Issuer>, Invalid> {
    let mut planned: Vec<Issuer> = Vec::with_capacity(jwt.issuers.len() + 1);
    for (index, asked) in jwt.issuers.iter().enumerate() {
        let field = format!("spec.auth.jwt.issuers[{index}]");
        if asked.issuer == own || planned.iter().any(|other| other.issuer == asked.issuer) {
            return Err(Invalid::new(format!("{field}.issuer"), format!("{:?} is taken", asked.issuer)));
        }
        for (at, group) in asked.groups.iter().flatten().enumerate() {
            if !groups.contains(group.as_str()) {
                return Err(Invalid::new(format!("{field}.groups[{at}]"), format!("there is no group {group:?}")));
            }
        }
        planned.push(checked(&field, one(&field, asked)?)?);
    }
    if let Some(asked) = &jwt.service_accounts {
        let field = "spec.auth.jwt.serviceAccounts";
        let settings = Issuer {
            issuer: String::new(),
            audiences: asked.audiences.clone(),
            keys: IssuerKeys::Cluster,
            algorithms: vec![Algorithm::Rs256, Algorithm::Es256],
            acl_claim: String::new(),
            max_token_ttl: max_ttl(field, asked.max_token_ttl.as_ref())?,
            mapping: Mapping::ServiceAccount,
            groups: Vec::new(),
        };
        planned.push(checked(field, settings)?);
    }
    Ok(planned)
}

/// Checks an issuer with the code that the broker checks it with.
fn checked(field: &str, settings: Issuer) -> Result<Issuer, Invalid> {
    issuer::check(&settings).map_err(|error: IssuerError| {
        // Such an error begins with the field that it is about.
        let text = error.to_string();
        let (name, message) = text.split_once(": ").unwrap_or(("issuer", &text));
        Invalid::new(format!("{field}.{name}"), message)
    })?;
    Ok(settings)
}

fn one(field: &str, asked: &api::Issuer) -> Result<Issuer, Invalid> {
    let keys = match (&asked.jwks_url, &asked.jwks_secret_ref) {
        (Some(url), None) => {
            let allow_private = asked.allow_private == Some(true);
            if !(url.starts_with("https://") || allow_private && url.starts_with("http://")) {
                let message = "must begin with https://; http:// needs allowPrivate: true";
                return Err(Invalid::new(format!("{field}.jwksUrl"), message));
            }
            IssuerKeys::Url { url: url.clone(), allow_private, own_authorities: asked.ca_secret_ref.is_some() }
        }
        (None, Some(_)) if asked.ca_secret_ref.is_some() || asked.allow_private.is_some() => {
            return Err(Invalid::new(field, "allowPrivate and caSecretRef need jwksUrl"));
        }
        (None, Some(_)) => IssuerKeys::Document,
        _ => return Err(Invalid::new(field, "exactly one of jwksUrl and jwksSecretRef is needed")),
    };
    let mapping = mapping(field, asked.mapping.as_ref())?;
    let usual = match mapping {
        Mapping::Authx => vec![Algorithm::Hs256],
        _ => vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa],
    };
    Ok(Issuer {
        issuer: asked.issuer.clone(),
        audiences: asked.audiences.clone().unwrap_or_default(),
        keys,
        algorithms: asked.algorithms.as_ref().map_or(usual, |asked| asked.iter().copied().map(algorithm).collect()),
        acl_claim: asked.acl_claim.clone().unwrap_or_else(|| "acl".into()),
        max_token_ttl: max_ttl(field, asked.max_token_ttl.as_ref())?,
        mapping,
        groups: asked.groups.clone().unwrap_or_default(),
    })
}

fn mapping(field: &str, asked: Option<&api::Mapping>) -> Result<Mapping, Invalid> {
    let asked = asked.cloned().unwrap_or_default();
    let api::Mapping { profile, subject, username, client_id, groups } = asked;
    match profile {
        Some(_) if subject.is_some() || username.is_some() || client_id.is_some() || groups.is_some() => {
            Err(Invalid::new(format!("{field}.mapping"), "a profile says which claims are meant; leave the others out"))
        }
        Some(api::Profile::Authx) => Ok(Mapping::Authx),
        None => {
            let or = |asked: Option<String>, usual: &str| asked.unwrap_or_else(|| usual.to_owned());
            Ok(Mapping::Claims {
                subject: or(subject, "sub"),
                username: or(username, "username"),
                client_id: or(client_id, "client_id"),
                groups: or(groups, "groups"),
            })
        }
    }
}

fn max_ttl(field: &str, asked: Option<&api::Duration>) -> Result<u64, Invalid> {
    let field = format!("{field}.maxTokenTtl");
    match units::seconds_or(&field, asked, MAX_TTL)? {
        0 => Err(Invalid::new(field, "must be longer than 0")),
        seconds => Ok(seconds),
    }
}

fn algorithm(asked: api::IssuerAlgorithm) -> Algorithm {
    match asked {
        api::IssuerAlgorithm::EdDSA => Algorithm::EdDsa,
        api::IssuerAlgorithm::ES256 => Algorithm::Es256,
        api::IssuerAlgorithm::RS256 => Algorithm::Rs256,
        api::IssuerAlgorithm::HS256 => Algorithm::Hs256,
    }
}

/// The Secrets of the issuers.
pub fn secrets(jwt: &api::Jwt) -> Vec<IssuerSecrets> {
    let of = |(index, asked): (usize, &api::Issuer)| IssuerSecrets {
        stem: issuer::file_stem(&asked.issuer),
        field: format!("spec.auth.jwt.issuers[{index}]"),
        jwks: asked
            .jwks_secret_ref
            .as_ref()
            .map(|secret| (secret.name.clone(), secret.key.clone().unwrap_or_else(|| JWKS.into()))),
        ca: asked.ca_secret_ref.as_ref().map(|secret| secret.name.clone()),
    };
    let all = jwt.issuers.iter().enumerate().map(of);
    all.filter(|secrets| secrets.jwks.is_some() || secrets.ca.is_some()).collect()
}

/// Where fetched keys outlive a restart of the container, if any are fetched.
pub fn cache(issuers: &[Issuer]) -> Option<std::path::PathBuf> {
    let fetched = issuers.iter().any(|issuer| matches!(issuer.keys, IssuerKeys::Url { .. }));
    fetched.then(|| std::path::Path::new(STATE_IN_POD).join("issuers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(jwt: &str) -> Result<Vec<Issuer>, Invalid> {
        issuers(&serde_saphyr::from_str(jwt).unwrap(), "mqttbroker/shop/home", &BTreeSet::from(["g"]))
    }

    #[test]
    fn what_is_left_out_is_safe() {
        let planned =
            plan("{issuers: [{issuer: i, audiences: [a], jwksUrl: 'https://a'}], serviceAccounts: {audiences: [b]}}");
        let [url, cluster] = planned.unwrap().try_into().unwrap();
        assert_eq!(url.keys, IssuerKeys::Url { url: "https://a".into(), allow_private: false, own_authorities: false });
        assert_eq!(url.algorithms, [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa]);
        assert_eq!((url.max_token_ttl, url.acl_claim.as_str(), url.mapping), (MAX_TTL, "acl", Mapping::default()));
        assert_eq!((cluster.keys, cluster.mapping), (IssuerKeys::Cluster, Mapping::ServiceAccount));
        assert_eq!(cluster.acl_claim, "", "the cluster says who somebody is, and not what it may do");
    }

    #[test]
    fn a_profile_brings_its_algorithm_and_needs_no_audience() {
        let planned =
            plan("{issuers: [{issuer: authx, jwksSecretRef: {name: s}, mapping: {profile: authx}}]}").unwrap();
        assert_eq!((planned[0].algorithms.as_slice(), &planned[0].mapping), (&[Algorithm::Hs256][..], &Mapping::Authx));
        let jwt = "{issuers: [{issuer: a, jwksSecretRef: {name: s, key: k}}, {issuer: b, jwksUrl: 'https://a', \
                   caSecretRef: {name: c}}, {issuer: d, jwksUrl: 'https://a'}]}";
        let found = secrets(&serde_saphyr::from_str(jwt).unwrap());
        let documents: Vec<_> = found.iter().flat_map(IssuerSecrets::documents).collect();
        let stem = issuer::file_stem;
        assert_eq!(
            documents,
            [
                ("spec.auth.jwt.issuers[0].jwksSecretRef".into(), "s", "k", format!("{}.json", stem("a"))),
                ("spec.auth.jwt.issuers[1].caSecretRef".into(), "c", "ca.crt", format!("{}.crt", stem("b"))),
            ]
        );
    }

    #[test]
    fn what_would_open_too_much_is_refused_by_its_field() {
        let with = |rest: &str| {
            let jwt = format!("{{issuers: [{{issuer: i, audiences: [a], jwksUrl: 'https://a'}}, {{{rest}}}]}}");
            plan(&jwt).unwrap_err().to_string()
        };
        for (rest, said) in [
            ("issuer: i, audiences: [a], jwksUrl: 'https://a'", "spec.auth.jwt.issuers[1].issuer: \"i\" is taken"),
            ("issuer: mqttbroker/shop/home, audiences: [a], jwksUrl: 'https://a'", "[1].issuer: "),
            (
                "issuer: 'user:x', audiences: [a], jwksUrl: 'https://a'",
                "[1].issuer: must not be empty, begin with user:",
            ),
            ("issuer: 'a#b', audiences: [a], jwksUrl: 'https://a'", "[1].issuer: must not be empty"),
            ("issuer: x, jwksUrl: 'https://a'", "[1].audiences: at least one is needed"),
            ("issuer: x, audiences: [a], jwksUrl: 'http://a'", "[1].jwksUrl: must begin with https://"),
            ("issuer: x, audiences: [a]", "[1]: exactly one of jwksUrl and jwksSecretRef"),
            (
                "issuer: x, audiences: [a], jwksUrl: 'https://a', algorithms: [HS256]",
                "[1].algorithms: a secret that is",
            ),
            ("issuer: x, audiences: [a], jwksUrl: 'https://a', groups: [h]", "[1].groups[0]: there is no group \"h\""),
            (
                "issuer: x, audiences: [a], jwksUrl: 'https://a', maxTokenTtl: 0s",
                "[1].maxTokenTtl: must be longer than 0",
            ),
            (
                "issuer: x, audiences: [a], jwksSecretRef: {name: s}, allowPrivate: true",
                "[1]: allowPrivate and caSecretRef",
            ),
            (
                "issuer: x, jwksSecretRef: {name: s}, mapping: {profile: authx, groups: g}",
                "[1].mapping: a profile says",
            ),
        ] {
            let text = with(rest);
            assert!(text.contains(said), "{rest}: {text}");
        }
    }
}
