//! Each thing that can be taken away: who is connected is disconnected, who is away loses what waits, others notice nothing.

use mqtt_operator::auth::password;
use mqtt_operator::auth::settings::{Group, User};
use mqtt_operator::config::broker::{UserHash, Users};

use super::*;
use crate::support::{PASSWORD, allow, replace};

/// What is left of the session of a client that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// It is there, without subscriptions and without messages.
    Empty,
}

/// Connects victims in each version, lets others of them be away with a message that waits, takes something from them,
/// and looks at what becomes of all of them.
async fn take(
    broker: &Broker,
    victim: impl Fn(&str, Version) -> Options,
    change: impl AsyncFnOnce(),
    cause: &str,
    left: Left,
) {
    let mut live = Vec::new();
    for version in VERSIONS {
        leave_behind(broker, &lasting(victim("away", version)), &["t/#"]).await;
        let (client, incoming, _) = client::connect(&lasting(victim("live", version))).await.unwrap();
        subscribe(&client, &["t/#"]).await;
        live.push((version, client, incoming));
    }
    // Two users that have nothing to do with it: one of them receives what the other publishes.
    let (bystander, mut seen) = broker.connect(8, Version::V311).await;
    subscribe(&bystander, &["t/open"]).await;
    let (publisher, _others) = broker.connect(9, Version::V5).await;
    publish(&publisher, "t/open", "before").await;
    for version in VERSIONS {
        let waiting = session(broker, &victim("away", version).client_id).await.unwrap();
        assert_eq!((&waiting["subscriptions"], &waiting["queued"]), (&1.into(), &1.into()), "{waiting}");
    }

    change().await;

    for (version, _client, incoming) in &mut live {
        not_authorized(*version, incoming).await;
    }
    for version in VERSIONS {
        for role in ["away", "live"] {
            let client_id = victim(role, version).client_id;
            await_until(DEADLINE, "a session that has lost what it had", async || {
                match (left, session(broker, &client_id).await) {
                    (Left::Nothing, None) => Ok(()),
                    (Left::Empty, Some(it)) if it["subscriptions"] == 0 && it["queued"] == 0 => Ok(()),
                    (_, other) => Err(other),
                }
            })
            .await;
        }
    }
    publish(&publisher, "t/open", "after").await;
    assert_eq!(next(&mut seen).await.payload, "before");
    assert_eq!(next(&mut seen).await.payload, "after");
    let label = format!("cause=\"{cause}\"");
    assert_eq!(broker.metric("mqtt_sessions_revoked_total", &label).await, 2 * VERSIONS.len() as u64);
    assert_eq!(broker.metric("mqtt_sessions_revoked_total", "").await, 2 * VERSIONS.len() as u64, "no other cause");
}

/// User `u1`, under a client id of its own.
fn user(broker: &Broker) -> impl Fn(&str, Version) -> Options {
    |role, version| Options { client_id: format!("u1-{role}-{version:?}"), ..broker.options(1, version) }
}

/// `dev1`, with a token of its own for each connection.
fn device(broker: &Broker) -> impl Fn(&str, Version) -> Options {
    |role, version| {
        let claims = claims("dev1", r#"[{"permission":"allow","action":"subscribe","topic":"t/#"}]"#);
        let jti = Some(format!("id {role} {version:?}"));
        let options = bearer(broker, version, &Claims { jti, ..claims });
        Options { client_id: format!("dev1-{role}-{version:?}"), ..options }
    }
}

#[tokio::test]
async fn a_new_deny() {
    let broker = Broker::with_quick_passwords(|_| {});
    let change = async || {
        let rule = |topic| deny(Action::Subscribe, topic);
        // The first for everybody: `t/#` has topics in common with it, `t/open` has none. The second takes what waits,
        // which would else stay: they might subscribe to just that topic.
        broker
            .change(|config| {
                config.auth.users[1].acl.insert(0, rule("t/open"));
                config.auth.deny.push(rule("t/secret/#"));
            })
            .await;
    };
    take(&broker, user(&broker), change, "rules", Left::Empty).await;
}

#[tokio::test]
async fn a_group_that_grants_less() {
    let readers = |topic: &str| Group { name: "readers".into(), acl: vec![allow(Action::Subscribe, topic)] };
    let broker = Broker::with_quick_passwords(|config| {
        config.auth.groups = vec![readers("t/#")];
        config.auth.users[1] = User { name: "u1".into(), groups: vec!["readers".into()], acl: vec![] };
    });
    let change = async || broker.change(|config| config.auth.groups = vec![readers("other/#")]).await;
    take(&broker, user(&broker), change, "rules", Left::Empty).await;
}

#[tokio::test]
async fn a_user_that_is_removed() {
    let broker = Broker::with_quick_passwords(|_| {});
    let change = async || broker.change(|config| drop(config.auth.users.remove(1))).await;
    take(&broker, user(&broker), change, "user", Left::Nothing).await;
}

#[tokio::test]
async fn a_user_that_has_another_password() {
    let broker = Broker::with_quick_passwords(|_| {});
    let change = async || {
        let hash = password::hash(b"another password", [9; 16]).unwrap();
        broker
            .edit(|etc| {
                let mut users: Users = serde_json::from_slice(&std::fs::read(etc.users()).unwrap()).unwrap();
                users.users[1] = UserHash { name: "u1".into(), hash: hash.clone(), source: None };
                replace(&etc.users(), &serde_json::to_string(&users).unwrap());
            })
            .await;
    };
    take(&broker, user(&broker), change, "user", Left::Nothing).await;
    let mut options = user(&broker)("live", Version::V5);
    assert!(matches!(client::connect(&options).await, Err(Error::Refused { .. })), "{PASSWORD:?} is the old one");
    options.password = Some(b"another password".to_vec());
    let (.., connected) = client::connect(&lasting(options)).await.unwrap();
    assert!(!connected.session_present, "what waited was for whoever knew the old password");
}

#[tokio::test]
async fn a_key_that_is_removed() {
    let broker = Broker::with_quick_passwords(|_| {});
    broker.edit(|etc| replace(&etc.jwks(), &jwks(vec![signing_key(), other_key()]))).await;
    let victim = |role: &str, version: Version| {
        let claims = claims("dev1", r#"[{"permission":"allow","action":"subscribe","topic":"t/#"}]"#);
        let options = bearer_by(&other_key(), &broker, version, &claims);
        Options { client_id: format!("dev1-{role}-{version:?}"), ..options }
    };
    let change = async || broker.edit(|etc| replace(&etc.jwks(), &jwks(vec![signing_key()]))).await;
    take(&broker, victim, change, "key", Left::Nothing).await;
}

/// Writes revocations, under their names.
async fn revoke(broker: &Broker, entries: &[(String, u64)]) {
    broker
        .edit(|etc| {
            std::fs::create_dir_all(etc.revocations()).unwrap();
            for (name, time) in entries {
                std::fs::write(etc.revocations().join(name), format!("{time}\n")).unwrap();
            }
        })
        .await;
}

#[tokio::test]
async fn tokens_that_are_revoked_by_their_ids() {
    let broker = Broker::with_quick_passwords(|_| {});
    let name = |role: &str, version: Version| format!("jti.id_20{role}_20{version:?}");
    let all = VERSIONS.map(|version| [name("away", version), name("live", version)]);
    let all: Vec<_> = all.into_iter().flatten().map(|name| (name, unix_seconds() + 600)).collect();
    take(&broker, device(&broker), async || revoke(&broker, &all).await, "token", Left::Nothing).await;
    let error = client::connect(&device(&broker)("live", Version::V5)).await.unwrap_err();
    let Error::Refused { code, reason } = error else { panic!("{error:?}") };
    assert_eq!((code, &*reason), (ReasonCode::NOT_AUTHORIZED, "the token is revoked"));
}

#[tokio::test]
async fn tokens_that_are_revoked_by_their_subject() {
    let broker = Broker::with_quick_passwords(|_| {});
    let change = async || revoke(&broker, &[("sub.dev1".into(), unix_seconds())]).await;
    take(&broker, device(&broker), change, "token", Left::Nothing).await;
    // A token that was issued later is good; the broker takes one from a clock that is a little ahead.
    let later = Claims { iat: unix_seconds() + 2, ..claims("dev1", "[]") };
    assert!(client::connect(&bearer(&broker, Version::V5, &later)).await.is_ok());
}

#[tokio::test]
async fn all_tokens_up_to_now() {
    let broker = Broker::with_quick_passwords(|_| {});
    let change = async || revoke(&broker, &[("before".into(), unix_seconds())]).await;
    take(&broker, device(&broker), change, "token", Left::Nothing).await;
}
