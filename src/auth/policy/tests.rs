use std::sync::LazyLock;

use super::*;
use crate::auth::rule::{Action, Permission};
use crate::auth::settings::{Anonymous, Group, User};
use crate::mqtt::QoS;

const NOW: u64 = 1_763_800_000;

/// Hashing costs what it costs; the tests share one.
static HASH: LazyLock<String> = LazyLock::new(|| password::hash(b"mqtt_password", [3; 16]).unwrap());

fn rule(permission: Permission, action: Action, topic: &str) -> Rule {
    Rule { permission, action, topic: topic.to_owned(), qos: None, retain: None, share: None }
}

fn allow(action: Action, topic: &str) -> Rule {
    rule(Permission::Allow, action, topic)
}

fn deny(action: Action, topic: &str) -> Rule {
    rule(Permission::Deny, action, topic)
}

fn rules(json: &str) -> Vec<Rule> {
    serde_json::from_str(json).unwrap()
}

fn user(name: &str, groups: &[&str], acl: Vec<Rule>) -> User {
    User { name: name.to_owned(), groups: groups.iter().map(ToString::to_string).collect(), acl }
}

fn policy(settings: &Settings) -> Policy {
    let hashes = settings.users.iter().map(|user| (user.name.clone(), HASH.clone())).collect();
    let bridge = Some(Bridge { password: b"bridge-password".to_vec(), topics: vec!["sensor/#".to_owned()] });
    Policy::new(settings, Sources { hashes, bridge, ..Sources::default() }).unwrap()
}

const NOTHING: Presented<'_> = Presented {
    username: None,
    password: None,
    method: None,
    data: None,
    bearer: None,
    client_id: "dev1",
    internal: false,
    certificate: false,
};

fn with_password<'a>(username: &'a str, password: &'a [u8]) -> Presented<'a> {
    Presented { username: Some(username), password: Some(password), ..NOTHING }
}

/// The outcome, password check included.
fn connect(policy: &Policy, presented: &Presented<'_>) -> Result<Identity, Refusal> {
    match policy.authenticate(presented, NOW) {
        Verdict::Accepted(identity) => Ok(identity),
        Verdict::Refused(refusal) | Verdict::UnknownKey { refusal, .. } => Err(refusal),
        Verdict::CheckPassword(check) => {
            let verified = check.verify(&[7; 32]);
            check.conclude(verified)
        }
    }
}

fn refused(policy: &Policy, presented: &Presented<'_>) -> (u8, u8) {
    let refusal = connect(policy, presented).unwrap_err();
    assert_eq!(refusal.public, None, "no signature was verified: {refusal:?}");
    (refusal.code.0, refusal.return_code)
}

/// What one user with these rules, and nobody else's, may do.
fn grants_of(acl: Vec<Rule>, client_id: &str) -> Grants {
    let policy = policy(&Settings { users: vec![user("u", &[], acl)], ..Settings::default() });
    policy.grants(
        &Identity::new(Principal::User("u".to_owned()), Credential::Password(password::digest(&HASH).into())),
        client_id,
    )
}

fn publishes(grants: &Grants, topic: &str) -> bool {
    grants.may_publish(topic, QoS::AtMostOnce, false)
}

fn subscribes(grants: &Grants, filter: &str) -> bool {
    grants.may_subscribe(filter, None, QoS::AtMostOnce)
}

#[test]
fn a_user_with_the_right_password_is_that_user() {
    let policy = policy(&Settings { users: vec![user("mqtt_user", &[], vec![])], ..Settings::default() });
    let identity = connect(&policy, &with_password("mqtt_user", b"mqtt_password")).unwrap();
    assert_eq!(identity.principal.to_string(), "user:mqtt_user");
    assert_eq!(identity.expires_at, None);
    assert!(identity.owns_client_id("mqtt_user") && !identity.owns_client_id("dev1"));
    assert_eq!(policy.user_names(), ["mqtt_user"]);
}

#[test]
fn a_wrong_password_an_unknown_user_and_a_user_without_hash_are_answered_alike() {
    let settings =
        Settings { users: vec![user("known", &[], vec![]), user("new", &[], vec![])], ..Settings::default() };
    let hashes = vec![("known".to_owned(), HASH.clone()), ("removed".to_owned(), HASH.clone())];
    let policy = Policy::new(&settings, Sources { hashes, ..Sources::default() }).unwrap();
    for name in ["known", "new", "removed", "nobody", ""] {
        let presented = with_password(name, b"wrong");
        assert!(
            matches!(policy.authenticate(&presented, NOW), Verdict::CheckPassword(_)),
            "{name}: hashed like any other"
        );
        assert_eq!(refused(&policy, &presented), (0x86, 4), "{name}");
    }
    assert_eq!(refused(&policy, &with_password("removed", b"mqtt_password")), (0x86, 4));
    assert_eq!(policy.user_names(), ["known"]);
}

#[test]
fn anonymous_is_for_clients_that_present_nothing_at_all() {
    let anonymous = Some(Anonymous { acl: vec![allow(Action::Subscribe, "test/#")] });
    let open = policy(&Settings { anonymous, ..Settings::default() });
    let identity = connect(&open, &NOTHING).unwrap();
    assert_eq!(identity.principal.to_string(), "anonymous");
    let grants = open.grants(&identity, "x");
    assert!(subscribes(&grants, "test/#") && subscribes(&grants, "test/+/a"));
    assert!(!subscribes(&grants, "#") && !publishes(&grants, "test/terminal"));

    assert_eq!(refused(&open, &Presented { username: Some(""), ..NOTHING }), (0x86, 4));
    assert_eq!(refused(&open, &Presented { username: Some("u"), ..NOTHING }), (0x86, 4));
    assert_eq!(refused(&open, &Presented { password: Some(b""), ..NOTHING }), (0x86, 4));
    assert_eq!(refused(&open, &Presented { method: Some("JWT"), ..NOTHING }), (0x86, 4));
    assert_eq!(refused(&open, &Presented { data: Some(b"x"), ..NOTHING }), (0x86, 4));
    assert_eq!(refused(&open, &Presented { certificate: true, ..NOTHING }), (0x86, 4));
    assert_eq!(refused(&open, &with_password("u", b"wrong")), (0x86, 4));

    assert_eq!(refused(&policy(&Settings::default()), &NOTHING), (0x87, 5));
}

#[test]
fn an_unknown_authentication_method_has_its_own_code() {
    let presented = Presented { method: Some("SCRAM-SHA-256"), data: Some(b"n,,n=u"), ..NOTHING };
    assert_eq!(refused(&policy(&Settings::default()), &presented), (0x8C, 5));
}

#[test]
fn two_credentials_at_once_are_refused() {
    let policy = policy(&Settings { users: vec![user("u", &[], vec![])], ..Settings::default() });
    let presented = Presented { method: Some("JWT"), data: Some(b"a.b.c"), ..with_password("u", b"mqtt_password") };
    assert_eq!(refused(&policy, &presented), (0x86, 4));
}

#[test]
fn the_bridge_comes_only_through_its_own_listener_and_nobody_else_does() {
    let policy = policy(&Settings { users: vec![user("u", &[], vec![])], ..Settings::default() });
    let bridge = Presented { internal: true, ..with_password(BRIDGE_USER, b"bridge-password") };
    assert_eq!(connect(&policy, &bridge).unwrap().principal, Principal::Bridge);

    assert_eq!(refused(&policy, &Presented { internal: false, ..bridge }), (0x86, 4));
    assert_eq!(refused(&policy, &Presented { password: Some(b"bridge-passwore"), ..bridge }), (0x86, 4));
    assert_eq!(refused(&policy, &Presented { password: None, ..bridge }), (0x86, 4));
    assert_eq!(refused(&policy, &Presented { username: None, ..bridge }), (0x86, 4));
    assert_eq!(refused(&policy, &Presented { internal: true, ..with_password("u", b"mqtt_password") }), (0x86, 4));
    assert_eq!(refused(&policy, &Presented { internal: true, ..NOTHING }), (0x86, 4));

    let without = Policy::new(&Settings::default(), Sources::default()).unwrap();
    assert_eq!(refused(&without, &bridge), (0x86, 4));
}

#[test]
fn the_bridge_subscribes_to_exactly_its_topics_and_publishes_nothing() {
    let settings = Settings { deny: vec![deny(Action::All, "#")], ..Settings::default() };
    let policy = policy(&settings);
    let grants = policy.grants(&Identity::new(Principal::Bridge, Credential::Bridge), "bridge");
    assert!(grants.may_subscribe("sensor/#", None, QoS::AtLeastOnce));
    assert!(grants.may_subscribe("sensor/#", Some("bridge"), QoS::AtLeastOnce));
    assert!(!grants.may_subscribe("sensor/#", Some("other"), QoS::AtLeastOnce));
    assert!(!grants.may_subscribe("sensor/+", None, QoS::AtLeastOnce));
    assert!(!grants.may_subscribe("#", None, QoS::AtLeastOnce));
    assert!(!publishes(&grants, "sensor/a"));
}

#[test]
fn names_that_begin_with_system_are_kept_for_the_broker() {
    let settings = Settings { users: vec![user("system:bridge", &[], vec![])], ..Settings::default() };
    let error = Policy::new(&settings, Sources::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "users[0].name: `system:bridge` begins with `system:`, which is kept for parts of the broker"
    );
    assert_eq!(refused(&policy(&Settings::default()), &with_password("system:x", b"x")), (0x86, 4));
}

#[test]
fn a_rule_that_cannot_be_used_is_an_error_that_names_its_place() {
    let bad = |json: &str| {
        let settings =
            Settings { users: vec![user("a", &[], vec![]), user("b", &[], rules(json))], ..Settings::default() };
        Policy::new(&settings, Sources::default()).unwrap_err().to_string()
    };
    let with = |rest: &str| format!(r#"[{{"permission":"allow","action":"publish",{rest}}}]"#);
    assert_eq!(bad(&with(r#""topic":"a/#/b""#)), "users[1].acl[0].topic: `#` stands only alone and as the last level");
    assert_eq!(bad(&with(r#""topic":"a+""#)), "users[1].acl[0].topic: `+` stands only alone in its level");
    assert_eq!(bad(&with(r#""topic":"""#)), "users[1].acl[0].topic: is empty");
    assert_eq!(bad(&with(r#""topic":"a/${clientid""#)), "users[1].acl[0].topic: `${clientid` is not closed");
    assert!(bad(&with(r#""topic":"a/${client}""#)).starts_with("users[1].acl[0].topic: `${client}` is unknown"));
    assert!(
        bad(&with(r#""topic":"$share/g/a""#)).starts_with("users[1].acl[0].topic: a rule is about the filter without")
    );
    assert!(bad(&with(r#""topic":"$dev-${clientid}/a""#)).contains("takes no placeholder"));
    assert_eq!(bad(&with(r#""topic":"a","qos":3"#)), "users[1].acl[0].qos: 3 is not a level of QoS");
    assert_eq!(bad(&with(r#""topic":"a","qos":[]"#)), "users[1].acl[0].qos: an empty list would never match");
    assert_eq!(bad(&with(r#""topic":"a","share":true"#)), "users[1].acl[0].share: says nothing about a publication");
    let in_deny = Settings { deny: vec![deny(Action::All, "a"), deny(Action::All, "a#")], ..Settings::default() };
    assert!(Policy::new(&in_deny, Sources::default()).unwrap_err().to_string().starts_with("deny[1].topic: "));
}

#[test]
fn documents_that_contradict_themselves_are_refused() {
    let fails = |settings: &Settings| Policy::new(settings, Sources::default()).unwrap_err().to_string();
    let twice = Settings { users: vec![user("a", &[], vec![]), user("a", &[], vec![])], ..Settings::default() };
    assert_eq!(fails(&twice), "users[1].name: `a` is there twice");
    let unknown = Settings { users: vec![user("a", &["g"], vec![])], ..Settings::default() };
    assert_eq!(fails(&unknown), "users[0].groups[0]: there is no group `g`");
    let nameless = Settings { groups: vec![Group { name: String::new(), acl: vec![] }], ..Settings::default() };
    assert_eq!(fails(&nameless), "groups[0].name: is empty");
    let bridge = Some(Bridge { password: vec![], topics: vec![] });
    assert!(Policy::new(&Settings::default(), Sources { bridge, ..Sources::default() }).is_err());
}

#[test]
fn a_hash_that_cannot_be_used_is_one_users_trouble() {
    let settings = Settings { users: vec![user("a", &[], vec![]), user("b", &[], vec![])], ..Settings::default() };
    let hashes = vec![("a".to_owned(), "plain text".to_owned()), ("b".to_owned(), HASH.clone())];
    let policy = Policy::new(&settings, Sources { hashes, ..Sources::default() }).unwrap();
    assert!(connect(&policy, &with_password("b", b"mqtt_password")).is_ok());
    for guess in ["plain text", "mqtt_password", ""] {
        assert_eq!(refused(&policy, &with_password("a", guess.as_bytes())), (0x86, 4), "{guess}");
    }
    let [(name, why)] = policy.unusable_hashes() else { unreachable!() };
    assert!(name == "a" && !why.to_string().contains("plain text"), "{why}");
    assert_eq!(policy.user_names(), ["b"]);
}

#[test]
fn what_no_rule_allows_is_denied() {
    let none = grants_of(vec![], "dev1");
    assert!(!publishes(&none, "a") && !subscribes(&none, "a"));
    assert!(!publishes(&Grants::deny_all(), "a") && !subscribes(&Grants::deny_all(), "a"));
    let some = grants_of(vec![allow(Action::Publish, "a/+")], "dev1");
    assert!(publishes(&some, "a/b") && !publishes(&some, "a/b/c") && !subscribes(&some, "a/b"));
}

#[test]
fn an_allow_must_cover_the_whole_subscription() {
    let grants = grants_of(vec![allow(Action::Subscribe, "a/+")], "dev1");
    assert!(subscribes(&grants, "a/b") && subscribes(&grants, "a/+"));
    for wider in ["a/#", "+/b", "#", "+/+", "a", "a/b/#"] {
        assert!(!subscribes(&grants, wider), "{wider}");
    }
}

#[test]
fn a_deny_forbids_every_subscription_that_it_has_a_topic_in_common_with() {
    let acl = vec![deny(Action::Subscribe, "a/secret/#"), allow(Action::All, "#")];
    let grants = grants_of(acl, "dev1");
    for forbidden in ["#", "+/#", "a/#", "a/+", "a/+/x", "+/secret", "a/secret", "a/secret/x/y"] {
        assert!(!subscribes(&grants, forbidden), "{forbidden}");
    }
    assert!(subscribes(&grants, "b/#") && subscribes(&grants, "+") && subscribes(&grants, "a/public"));
    assert!(publishes(&grants, "a/secret/x"), "the deny is about subscribing");
}

#[test]
fn the_deny_list_of_the_object_comes_before_everything() {
    let settings = Settings {
        users: vec![user("u", &[], vec![allow(Action::All, "#")])],
        deny: vec![deny(Action::All, "secret/#")],
        ..Settings::default()
    };
    let grants = policy(&settings).grants(
        &Identity::new(Principal::User("u".to_owned()), Credential::Password(password::digest(&HASH).into())),
        "c",
    );
    assert!(!subscribes(&grants, "#") && !publishes(&grants, "secret/a") && publishes(&grants, "a"));
}

#[test]
fn the_rules_of_a_user_come_before_those_of_the_groups_in_order() {
    let settings = Settings {
        users: vec![user("u", &["first", "second"], vec![deny(Action::Publish, "a/1")])],
        groups: vec![
            Group { name: "second".to_owned(), acl: vec![allow(Action::Publish, "a/#")] },
            Group { name: "first".to_owned(), acl: vec![deny(Action::Publish, "a/2"), allow(Action::Publish, "b/1")] },
        ],
        ..Settings::default()
    };
    let grants = policy(&settings).grants(
        &Identity::new(Principal::User("u".to_owned()), Credential::Password(password::digest(&HASH).into())),
        "c",
    );
    let may: Vec<bool> = ["a/1", "a/2", "a/3", "b/1", "b/2"].iter().map(|topic| publishes(&grants, topic)).collect();
    assert_eq!(may, [false, false, true, true, false]);
}

#[test]
fn the_limits_of_a_rule_are_part_of_what_it_is_about() {
    let acl = rules(
        r#"[{"permission":"deny","action":"publish","topic":"a","retain":true},
            {"permission":"allow","action":"all","topic":"a","qos":[0,1]},
            {"permission":"allow","action":"publish","topic":"b","qos":2,"retain":false}]"#,
    );
    let grants = grants_of(acl, "dev1");
    assert!(grants.may_publish("a", QoS::AtLeastOnce, false) && !grants.may_publish("a", QoS::AtLeastOnce, true));
    assert!(!grants.may_publish("a", QoS::ExactlyOnce, false));
    assert!(grants.may_subscribe("a", None, QoS::AtLeastOnce) && !grants.may_subscribe("a", None, QoS::ExactlyOnce));
    assert!(grants.may_publish("b", QoS::ExactlyOnce, false) && !grants.may_publish("b", QoS::ExactlyOnce, true));
    assert!(!grants.may_publish("b", QoS::AtMostOnce, false));
}

#[test]
fn share_limits_a_rule_to_shared_plain_or_named_subscriptions() {
    let may = |share: &str, asked: Option<&str>| {
        let json = format!(r#"[{{"permission":"allow","action":"subscribe","topic":"a/#"{share}}}]"#);
        grants_of(rules(&json), "dev1").may_subscribe("a/b", asked, QoS::AtMostOnce)
    };
    assert!(may("", None) && may("", Some("g")));
    assert!(!may(r#","share":true"#, None) && may(r#","share":true"#, Some("g")));
    assert!(may(r#","share":false"#, None) && !may(r#","share":false"#, Some("g")));
    assert!(
        may(r#","share":["g"]"#, Some("g")) && !may(r#","share":["g"]"#, Some("h")) && !may(r#","share":["g"]"#, None)
    );
}

#[test]
fn the_brokers_own_topics_are_closed_to_publishers_whatever_the_rules_say() {
    let acl = ["#", "$SYS/#", "$CONTROL/#", "$other/#"].map(|topic| allow(Action::All, topic)).to_vec();
    let grants = grants_of(acl, "dev1");
    for topic in ["$SYS/a", "$SYS", "$CONTROL/dynamic-security/v1", "$share/g/a"] {
        assert!(!publishes(&grants, topic), "{topic}");
    }
    assert!(publishes(&grants, "$other/a") && subscribes(&grants, "$SYS/#"));
    assert!(!subscribes(&grants, "$share/g/a"), "a raw shared filter is never matched");
}

#[test]
fn only_an_explicit_rule_opens_sys() {
    let grants = grants_of(vec![allow(Action::Subscribe, "#"), allow(Action::Subscribe, "+/#")], "dev1");
    assert!(subscribes(&grants, "#") && subscribes(&grants, "+/+"));
    assert!(!subscribes(&grants, "$SYS/#") && !subscribes(&grants, "$SYS/broker/uptime"));
}

#[test]
fn eq_takes_the_rest_literally() {
    let grants = grants_of(vec![allow(Action::All, "eq a/#"), allow(Action::All, "eq b")], "dev1");
    assert!(subscribes(&grants, "a/#") && !subscribes(&grants, "a/b") && !publishes(&grants, "a/b"));
    assert!(publishes(&grants, "b") && subscribes(&grants, "b") && !publishes(&grants, "a/#"));
    let grants = grants_of(vec![deny(Action::All, "eq #"), allow(Action::All, "#")], "dev1");
    assert!(!subscribes(&grants, "#") && !subscribes(&grants, "+/#") && subscribes(&grants, "a/#"));
}

#[test]
fn eq_takes_a_placeholder_literally_which_a_deny_cannot_mean() {
    let grants = grants_of(vec![allow(Action::Publish, "eq a/${clientid}")], "dev1");
    assert!(publishes(&grants, "a/${clientid}") && !publishes(&grants, "a/dev1"));
    let settings = Settings { deny: vec![deny(Action::All, "eq a/${clientid}")], ..Settings::default() };
    let error = Policy::new(&settings, Sources::default()).unwrap_err().to_string();
    assert!(error.starts_with("deny[0].topic: `eq ` takes the rest literally"), "{error}");
}

#[test]
fn placeholders_stand_for_a_level_or_a_part_of_one() {
    let acl = ["dev/${clientid}/#", "name/x-${username}-y", "old/%c/%u", "s/${sub}${clientid}"];
    let grants = grants_of(acl.map(|topic| allow(Action::Publish, topic)).to_vec(), "dev1");
    for topic in ["dev/dev1/a", "dev/dev1", "name/x-u-y", "old/dev1/u", "s/udev1"] {
        assert!(publishes(&grants, topic), "{topic}");
    }
    for topic in ["dev/dev2/a", "dev/${clientid}/a", "name/x--y", "old/u/dev1"] {
        assert!(!publishes(&grants, topic), "{topic}");
    }
}

#[test]
fn a_client_id_with_wildcards_gains_nothing() {
    for client_id in ["#", "+", "a/b", "", "a\0", "a\n", "\u{85}", "+/#", "dev#"] {
        let acl = vec![allow(Action::All, "dev/${clientid}/#"), allow(Action::All, "x${clientid}")];
        let grants = grants_of(acl, client_id);
        for topic in ["dev/a/b", "dev/dev1/x", "dev/a", "x", "xa"] {
            assert!(!publishes(&grants, topic), "{client_id:?} {topic}");
        }
        for filter in ["dev/+/#", "dev/#", "dev/a/b/#", "#", "x+"] {
            assert!(!subscribes(&grants, filter), "{client_id:?} {filter}");
        }
    }
}

#[test]
fn a_client_id_cannot_become_a_first_level_with_a_dollar() {
    let grants = grants_of(vec![allow(Action::All, "${clientid}/#")], "$SYS");
    assert!(!subscribes(&grants, "$SYS/#") && !publishes(&grants, "$SYS/x"));
    let grants = grants_of(vec![allow(Action::All, "a/${clientid}")], "$SYS");
    assert!(publishes(&grants, "a/$SYS"));
}

#[test]
fn an_unusable_placeholder_makes_a_deny_apply_to_every_value() {
    let acl = vec![deny(Action::All, "${clientid}/private"), allow(Action::All, "#"), allow(Action::All, "$x/#")];
    let grants = grants_of(acl.clone(), "#");
    assert!(!publishes(&grants, "dev1/private") && !publishes(&grants, "dev2/private") && publishes(&grants, "dev1/a"));
    assert!(!subscribes(&grants, "+/private") && !subscribes(&grants, "#"));
    assert!(!publishes(&grants_of(acl, "$x"), "$x/private"));
}

#[test]
fn a_placeholder_without_a_value_grants_an_anonymous_client_nothing() {
    let acl = vec![
        allow(Action::Publish, "u/${username}"),
        allow(Action::Publish, "s/${sub}/#"),
        allow(Action::Publish, "c/${claims.x}"),
    ];
    let policy = policy(&Settings { anonymous: Some(Anonymous { acl }), ..Settings::default() });
    let grants = policy.grants(&connect(&policy, &NOTHING).unwrap(), "dev1");
    for topic in ["u/", "u", "u/null", "s/", "s//a", "c/", "c"] {
        assert!(!publishes(&grants, topic), "{topic}");
    }
}

#[test]
fn a_user_who_was_removed_may_do_nothing_more() {
    let before =
        policy(&Settings { users: vec![user("u", &[], vec![allow(Action::All, "#")])], ..Settings::default() });
    let identity = connect(&before, &with_password("u", b"mqtt_password")).unwrap();
    assert!(publishes(&before.grants(&identity, "c"), "a"));
    let after = policy(&Settings::default());
    assert!(!publishes(&after.grants(&identity, "c"), "a"));
}

#[test]
fn secrets_are_not_printed() {
    let policy = policy(&Settings { users: vec![user("u", &[], vec![])], ..Settings::default() });
    let presented = with_password("u", b"hunter22");
    let check = policy.authenticate(&presented, NOW);
    let printed = format!("{policy:?} {presented:?} {check:?}");
    assert!(!printed.contains("hunter22") && !printed.contains(&format!("{:?}", b"hunter22")), "{printed}");
    assert!(
        !printed.contains("bridge-password") && !printed.contains(&format!("{:?}", b"bridge-password")),
        "{printed}"
    );
}

#[test]
fn a_client_whose_user_is_gone_or_has_another_password_is_no_longer_known() {
    let before = policy(&Settings { users: vec![user("u", &[], vec![])], ..Settings::default() });
    let identity = connect(&before, &with_password("u", b"mqtt_password")).unwrap();
    assert_eq!(before.knows(&identity), Ok(()));
    assert_eq!(policy(&Settings::default()).knows(&identity), Err(Lost::User));
    let settings = Settings { users: vec![user("u", &[], vec![])], ..Settings::default() };
    assert_eq!(Policy::new(&settings, Sources::default()).unwrap().knows(&identity), Err(Lost::User), "no hash");
    let hashes = vec![("u".to_owned(), password::hash(b"mqtt_password", [4; 16]).unwrap())];
    let after = Policy::new(&settings, Sources { hashes, ..Sources::default() }).unwrap();
    assert_eq!(after.knows(&identity), Err(Lost::Password));
}

#[test]
fn an_anonymous_client_is_known_while_anonymous_clients_are_allowed() {
    let open = Settings { anonymous: Some(Anonymous { acl: vec![] }), ..Settings::default() };
    let identity = connect(&policy(&open), &NOTHING).unwrap();
    assert_eq!(policy(&open).knows(&identity), Ok(()));
    assert_eq!(policy(&Settings::default()).knows(&identity), Err(Lost::Anonymous));
}
