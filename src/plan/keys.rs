//! What an object asks of its signing keys.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Invalid, units};
use crate::api::{self, MqttBroker, REVOKE_KEYS, ROTATE_KEYS};
use crate::auth::key::Algorithm;
use crate::auth::rotation::{MOST, Source, Wanted};

/// Seconds.
const SHORTEST_INTERVAL: u64 = 60;

/// How the keys are made and replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysPlan {
    /// Of keys that are made for the object.
    pub algorithm: Algorithm,
    /// Seconds.
    pub max_token_ttl: u64,
    /// Seconds after which another key is to sign.
    pub interval: Option<u64>,
    /// When another key was asked for; Unix time in seconds.
    pub rotate: Option<u64>,
    /// The keys to take back.
    pub revoke: BTreeSet<String>,
    /// The Secret with the owner's own key.
    pub secret: Option<String>,
    /// Whether the object accepts a secret on the pods.
    pub shared_secrets: bool,
}

impl KeysPlan {
    /// What is asked of the keys, apart from who makes them.
    pub fn wanted(&self, source: Source) -> Wanted {
        Wanted {
            algorithm: self.algorithm,
            max_token_ttl: self.max_token_ttl,
            interval: self.interval,
            rotate: self.rotate,
            revoke: self.revoke.clone(),
            source,
        }
    }
}

/// Works it out.
pub(super) fn keys(object: &MqttBroker, max_token_ttl: u64) -> Result<KeysPlan, Invalid> {
    let jwt = &object.spec.auth.jwt;
    let annotation = |name: &str| object.metadata.annotations.as_ref()?.get(name).map(|text| text.trim());
    Ok(KeysPlan {
        algorithm: algorithm(jwt)?,
        max_token_ttl,
        interval: interval(jwt, max_token_ttl)?,
        rotate: annotation(ROTATE_KEYS).map(time).transpose()?,
        revoke: annotation(REVOKE_KEYS).map(key_ids).unwrap_or_default(),
        secret: jwt.key_secret_ref.as_ref().map(|reference| reference.name.clone()),
        shared_secrets: shared_secrets(jwt),
    })
}

fn shared_secrets(jwt: &api::Jwt) -> bool {
    jwt.algorithm == api::Algorithm::HS256 && jwt.acknowledge_shared_secret == Some(true)
}

fn algorithm(jwt: &api::Jwt) -> Result<Algorithm, Invalid> {
    match jwt.algorithm {
        api::Algorithm::EdDSA => Ok(Algorithm::EdDsa),
        api::Algorithm::ES256 => Ok(Algorithm::Es256),
        api::Algorithm::HS256 if shared_secrets(jwt) => Ok(Algorithm::Hs256),
        api::Algorithm::HS256 => {
            Err(Invalid::new("spec.auth.jwt.algorithm", "HS256 needs acknowledgeSharedSecret: true"))
        }
    }
}

fn interval(jwt: &api::Jwt, max_token_ttl: u64) -> Result<Option<u64>, Invalid> {
    const FIELD: &str = "spec.auth.jwt.rotation.interval";
    let Some(rotation) = &jwt.rotation else { return Ok(None) };
    if jwt.key_secret_ref.is_some() {
        let message = "with keySecretRef the keys are yours, and so is their rotation: leave rotation out";
        return Err(Invalid::new("spec.auth.jwt.rotation", message));
    }
    let interval = units::seconds_or(FIELD, Some(&rotation.interval), 0)?;
    if interval < SHORTEST_INTERVAL {
        return Err(Invalid::new(FIELD, "must be at least 1m"));
    }
    // Each key stays until the last token that it signed has expired. Half of the room is left for what is asked for.
    let most = MOST as u64 / 2;
    if max_token_ttl / interval > most {
        let (shortest, keys) = (max_token_ttl.div_ceil(most).div_ceil(3600), max_token_ttl / interval);
        let message = format!(
            "would keep {keys} keys, because each stays until the last token that it signed has expired; make it at \
             least {shortest}h, or maxTokenTtl shorter"
        );
        return Err(Invalid::new(FIELD, message));
    }
    Ok(Some(interval))
}

fn time(text: &str) -> Result<u64, Invalid> {
    let time = text.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_second()).ok());
    time.ok_or_else(|| {
        let message = format!("{text:?} is not a time such as 2026-01-31T12:00:00Z");
        Invalid::new(format!("metadata.annotations[{ROTATE_KEYS}]"), message)
    })
}

/// Key ids between spaces, commas or ends of lines.
pub fn key_ids(text: &str) -> BTreeSet<String> {
    let ids = text.split(|character: char| character.is_whitespace() || character == ',');
    ids.filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(object: &str) -> Result<KeysPlan, String> {
        let head = "apiVersion: mqtt-operator.io/v1alpha1\nkind: MqttBroker\n";
        let object: MqttBroker = serde_saphyr::from_str(&format!("{head}{object}")).unwrap();
        super::super::plan(&object).map(|plan| plan.keys).map_err(|invalid| invalid.to_string())
    }

    fn with(jwt: &str) -> Result<KeysPlan, String> {
        planned(&format!("metadata: {{name: home}}\nspec: {{auth: {{jwt: {jwt}}}}}"))
    }

    #[test]
    fn an_interval_may_not_fill_the_secrets_with_keys() {
        assert_eq!(with("{}").unwrap().interval, None);
        assert_eq!(with("{rotation: {interval: 720h}}").unwrap().interval, Some(720 * 3600));
        assert_eq!(with("{maxTokenTtl: 1h, rotation: {interval: 30m}}").unwrap().interval, Some(1800));
        let error = with("{rotation: {interval: 1h}}").unwrap_err();
        assert!(error.contains("would keep 8760 keys") && error.contains("at least 274h"), "{error}");
        assert_eq!(with("{rotation: {interval: 274h}}").unwrap().interval, Some(274 * 3600));
        assert!(with("{maxTokenTtl: 1h, rotation: {interval: 59s}}").unwrap_err().ends_with("must be at least 1m"));
        let error = with("{keySecretRef: {name: k}, rotation: {interval: 720h}}").unwrap_err();
        assert!(error.contains("leave rotation out"), "{error}");
    }

    #[test]
    fn requests_stand_in_annotations() {
        let object = "metadata: {name: home, annotations: {mqtt-operator.io/rotate-keys: '2026-01-01T00:00:00Z', \
                      mqtt-operator.io/revoke-keys: 'a,b  c'}}\nspec: {}";
        let keys = planned(object).unwrap();
        assert_eq!(keys.rotate, Some(1_767_225_600));
        assert_eq!(keys.revoke, ["a", "b", "c"].map(str::to_owned).into());
        let error = planned("metadata: {name: home, annotations: {mqtt-operator.io/rotate-keys: now}}\nspec: {}");
        assert_eq!(
            error.unwrap_err(),
            "metadata.annotations[mqtt-operator.io/rotate-keys]: \"now\" is not a time such as 2026-01-31T12:00:00Z"
        );
    }
}
