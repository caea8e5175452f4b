//! Users: those of `spec.auth.users`, and those who have an object of their own.

use std::collections::BTreeSet;

use super::{Invalid, Names, Plan, rules};
use crate::api::{self, MqttUser};
use crate::auth::settings;

/// A user, and where the password comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPlan {
    pub name: String,
    /// The Secret that the operator publishes user name and password in.
    pub secret_name: String,
    pub password: Password,
    /// Where the user is asked for: `spec.auth.users[1]`, or `spec` of its own object.
    pub field: String,
    /// The user's own object.
    pub object: Option<UserObject>,
}

/// A `MqttUser`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserObject {
    pub name: String,
    /// Absent outside a cluster.
    pub uid: Option<String>,
}

/// Where a password comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    FromSecret {
        name: String,
        key: String,
    },
    /// Not the password, but its hash.
    Hash {
        name: String,
        key: String,
    },
    Generate,
}

impl Password {
    /// The field that names the user's Secret, the Secret, and its key.
    pub fn reference(&self) -> Option<(&'static str, &str, &str)> {
        match self {
            Self::FromSecret { name, key } => Some(("passwordSecretRef", name, key)),
            Self::Hash { name, key } => Some(("passwordHashSecretRef", name, key)),
            Self::Generate => None,
        }
    }
}

/// A `MqttUser` that the broker does not have, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAdded {
    /// The name of the object.
    pub object: String,
    /// `Conflict`, `InvalidSpec` or `Disabled`.
    pub reason: &'static str,
    pub message: String,
}

/// The users of `spec.auth.users`.
pub(super) fn of_spec(names: &Names, users: &[api::User]) -> Result<Vec<UserPlan>, Invalid> {
    let mut seen = BTreeSet::new();
    let mut planned = Vec::with_capacity(users.len());
    for (index, user) in users.iter().enumerate() {
        let field = format!("spec.auth.users[{index}]");
        if !seen.insert(&user.name) {
            return Err(Invalid::new(format!("{field}.name"), format!("{:?} is taken", user.name)));
        }
        let (clear, hash) = (user.password_secret_ref.as_ref(), user.password_hash_secret_ref.as_ref());
        planned.push(UserPlan {
            name: user.name.clone(),
            secret_name: names.user_secret(&user.name),
            password: password(&field, clear, hash, user.generate)?,
            field,
            object: None,
        });
    }
    Ok(planned)
}

fn password(
    field: &str,
    clear: Option<&api::SecretKey>,
    hash: Option<&api::SecretKey>,
    generate: Option<bool>,
) -> Result<Password, Invalid> {
    let parts = |reference: &api::SecretKey| (reference.name.clone(), reference.key.clone());
    match (clear.map(parts), hash.map(parts), generate == Some(true)) {
        (Some((name, key)), None, false) => Ok(Password::FromSecret { name, key }),
        (None, Some((name, key)), false) => Ok(Password::Hash { name, key }),
        (None, None, true) => Ok(Password::Generate),
        _ => {
            let message = "exactly one of passwordSecretRef, passwordHashSecretRef and generate: true is needed";
            Err(Invalid::new(field, message))
        }
    }
}

impl Plan {
    /// Adds the users who have objects of their own and name this broker; answers those who cannot be added.
    ///
    /// Of two who claim one name the older has it: somebody who makes an object later does not take a user away.
    pub fn add_users<'a>(&mut self, users: impl IntoIterator<Item = &'a MqttUser>) -> Vec<NotAdded> {
        let ours = |user: &&MqttUser| {
            let namespace = user.metadata.namespace.as_deref().unwrap_or("default");
            user.spec.broker_ref.name == self.name && namespace == self.namespace
        };
        let mut users: Vec<&MqttUser> = users.into_iter().filter(ours).collect();
        users.sort_by(|one, other| {
            let key = |user: &MqttUser| user.metadata.creation_timestamp.as_ref().map(|time| time.0);
            key(one).cmp(&key(other)).then_with(|| one.metadata.name.cmp(&other.metadata.name))
        });
        let mut taken: std::collections::BTreeMap<String, String> = self
            .users
            .iter()
            .map(|user| (user.name.clone(), format!("{} of MqttBroker {}", user.field, self.name)))
            .collect();
        let mut not_added = Vec::new();
        for user in users {
            let object = user.metadata.name.clone().unwrap_or_default();
            let name = user.username().to_owned();
            let mut refuse = |reason, message| not_added.push(NotAdded { object: object.clone(), reason, message });
            if let Some(other) = taken.get(&name) {
                refuse("Conflict", format!("the user name {name:?} is taken by {other}"));
                continue;
            }
            taken.insert(name, format!("MqttUser {object}"));
            match self.planned(user, &object) {
                Err(invalid) => refuse("InvalidSpec", invalid.to_string()),
                // It keeps its name meanwhile.
                Ok(_) if user.spec.disabled => refuse("Disabled", "spec.disabled is true".into()),
                Ok((planned, settings)) => {
                    self.users.push(planned);
                    self.broker.auth.users.push(settings);
                }
            }
        }
        not_added
    }

    fn planned(&self, user: &MqttUser, object: &str) -> Result<(UserPlan, settings::User), Invalid> {
        let spec = &user.spec;
        let name = user.username().to_owned();
        rules::check_name("spec.username", &name)?;
        if spec.acl.is_none() && spec.groups.is_none() {
            return Err(Invalid::new("spec", "acl or groups is needed"));
        }
        rules::check("spec.acl", spec.acl.as_deref().unwrap_or_default())?;
        for (at, group) in spec.groups.iter().flatten().enumerate() {
            if !self.broker.auth.groups.iter().any(|known| known.name == *group) {
                let message = format!("MqttBroker {} has no group {group:?}", self.name);
                return Err(Invalid::new(format!("spec.groups[{at}]"), message));
            }
        }
        let (clear, hash) = (spec.password_secret_ref.as_ref(), spec.password_hash_secret_ref.as_ref());
        let planned = UserPlan {
            name: name.clone(),
            secret_name: format!("{object}-mqtt"),
            password: password("spec", clear, hash, spec.generate)?,
            field: "spec".into(),
            object: Some(UserObject { name: object.to_owned(), uid: user.metadata.uid.clone() }),
        };
        let groups = spec.groups.clone().unwrap_or_default();
        Ok((planned, settings::User { name, groups, acl: spec.acl.clone().unwrap_or_default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MqttBroker;

    fn plan() -> Plan {
        let spec = "auth: {groups: [{name: g, acl: []}], users: [{name: first, generate: true, acl: []}]}";
        let mut object = MqttBroker::new("home", serde_saphyr::from_str(spec).unwrap());
        object.metadata.namespace = Some("shop".into());
        super::super::plan(&object).unwrap()
    }

    fn user(name: &str, made: &str, spec: &str) -> MqttUser {
        let mut user = MqttUser::new(name, serde_saphyr::from_str(spec).unwrap());
        user.metadata.namespace = Some("shop".into());
        user.metadata.uid = Some(format!("uid-{name}"));
        user.metadata.creation_timestamp = serde_json::from_value(made.into()).unwrap();
        user
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-02T00:00:00Z";

    #[test]
    fn a_user_of_its_own_object_is_a_user_like_any_other() {
        let mut plan = plan();
        let spec = "{brokerRef: {name: home}, username: dev_1, passwordSecretRef: {name: s, key: k}, groups: [g]}";
        assert_eq!(plan.add_users(&[user("dev-1", EARLY, spec)]), []);
        let added = &plan.users[1];
        assert_eq!((added.name.as_str(), added.secret_name.as_str()), ("dev_1", "dev-1-mqtt"));
        assert_eq!(added.object, Some(UserObject { name: "dev-1".into(), uid: Some("uid-dev-1".into()) }));
        assert_eq!(plan.broker.auth.users[1].groups, ["g"]);
        assert!(plan.referenced_secrets().contains("s"));
    }

    #[test]
    fn users_of_other_brokers_and_namespaces_are_not_this_ones() {
        let mut plan = plan();
        let spec = "{brokerRef: {name: home}, generate: true, acl: []}";
        let mut elsewhere = user("a", EARLY, spec);
        elsewhere.metadata.namespace = Some("other".into());
        let other = user("b", EARLY, &spec.replace("home", "office"));
        assert_eq!(plan.add_users(&[elsewhere, other]), []);
        assert_eq!(plan.users.len(), 1);
    }

    #[test]
    fn of_two_with_one_name_the_older_has_it_and_the_brokers_own_before_all() {
        let mut plan = plan();
        let spec = |name: &str| format!("{{brokerRef: {{name: home}}, username: {name}, generate: true, acl: []}}");
        let users = [user("b", LATE, &spec("dev")), user("c", EARLY, &spec("dev")), user("a", EARLY, &spec("first"))];
        let refused = plan.add_users(&users);
        let refused: Vec<_> = refused.iter().map(|it| (it.object.as_str(), it.reason, it.message.as_str())).collect();
        assert_eq!(
            refused,
            [
                ("a", "Conflict", "the user name \"first\" is taken by spec.auth.users[0] of MqttBroker home"),
                ("b", "Conflict", "the user name \"dev\" is taken by MqttUser c"),
            ]
        );
    }

    #[test]
    fn who_is_disabled_or_asks_for_what_cannot_be_is_not_added_and_keeps_the_name() {
        for (spec, reason, message) in [
            ("disabled: true, username: dev, generate: true, acl: []", "Disabled", "spec.disabled is true"),
            (
                "username: dev, generate: true, groups: [x]",
                "InvalidSpec",
                "spec.groups[0]: MqttBroker home has no group \"x\"",
            ),
            (
                "username: dev, generate: true, acl: [{permission: allow, action: all, topic: 'a/#/b'}]",
                "InvalidSpec",
                "spec.acl[0].topic: ",
            ),
            ("username: 'system:bridge', generate: true, acl: []", "InvalidSpec", "spec.username: names that begin"),
            ("username: dev, acl: []", "InvalidSpec", "spec: exactly one of passwordSecretRef"),
        ] {
            let mut plan = plan();
            let first = user("a", EARLY, &format!("{{brokerRef: {{name: home}}, {spec}}}"));
            let name = first.username().to_owned();
            let second =
                user("b", LATE, &format!("{{brokerRef: {{name: home}}, username: '{name}', generate: true, acl: []}}"));
            let refused = plan.add_users(&[second, first]);
            assert_eq!((refused[0].object.as_str(), refused[0].reason), ("a", reason), "{spec}");
            assert!(refused[0].message.starts_with(message), "{}", refused[0].message);
            assert_eq!((refused[1].object.as_str(), refused[1].reason), ("b", "Conflict"));
            assert_eq!(plan.users.len(), 1);
        }
    }
}
