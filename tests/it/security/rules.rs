//! Rules that are got round: wildcards in names, filters wider than their rule, shared subscriptions, wills, `$` topics.

use mqtt_operator::auth::rule::Share;
use mqtt_operator::auth::settings::Anonymous;

use super::*;
use crate::support::Broker;

/// A broker where anybody may do this, after these denies.
fn anyone(deny: &[&str], acl: &[&str]) -> Broker {
    let (deny, acl) = (rules(deny), rules(acl));
    broker_with(|config| {
        config.auth.deny = deny;
        config.auth.anonymous = Some(Anonymous { acl });
    })
}

#[test]
fn class_01_a_client_id_with_wildcards_opens_nothing() {
    let broker =
        anyone(&["deny subscribe secret/${clientid}/#"], &["allow all own/${clientid}/#", "allow subscribe #"]);
    each_version(|version| {
        for id in ["+", "#", "+/+", "a/b", "a+", "#a", "/"] {
            let mut wire = Wire::connect(&broker, version, id);
            // What this id would be in the rule that forbids is anything, so all of it is forbidden.
            for filter in ["secret/+/x", "secret/victim/x", "secret/#", "#"] {
                assert!(!granted(&mut wire, filter), "{id}: {filter}");
            }
            assert!(granted(&mut wire, "open/#"), "the rule without a placeholder stands");
        }
    });
    let broker = anyone(&[], &["allow all own/${clientid}/#"]);
    for id in ["+", "#", "victim/..", "a/b", "victim+"] {
        let mut wire = Wire::connect(&broker, Version::V5, id);
        for filter in ["own/+/x", "own/#", "own/victim/x", "own/+/#"] {
            assert!(!granted(&mut wire, filter), "{id}: {filter}");
        }
        assert!(!may_publish(&mut wire, "own/victim/x"), "{id}");
    }
    // No text is a pattern: a name is only itself.
    for id in [".*", "vict?m", "[a-z]", "victi%", "*", "${clientid}", "%c"] {
        let mut wire = Wire::connect(&broker, Version::V5, id);
        assert!(!granted(&mut wire, "own/victim/x") && !may_publish(&mut wire, "own/victim/x"), "{id}");
        assert!(may_publish(&mut wire, &format!("own/{id}/x")), "{id}: its own");
    }
}

#[test]
fn class_01_claims_and_user_names_with_wildcards_open_nothing() {
    let broker = broker_of_the_secret();
    let acl = rules(&["allow all s/${sub}/#", "allow all u/${username}/#", "allow all c/${claims.site}/#"]);
    for (n, (sub, site)) in [("+", "+"), ("#", "#"), ("a/b", "a/#"), ("victim+", "")].into_iter().enumerate() {
        let mut claims = serde_json::to_value(claims(sub, &[])).unwrap();
        claims["acl"] = serde_json::to_value(&acl).unwrap();
        claims["site"] = site.into();
        let header = format!(r#"{{"alg":"HS256","kid":"{}"}}"#, secret().kid());
        let token = signed(&header, &claims.to_string());
        let (mut wire, _) = Wire::accepted(&broker, &bearer(Version::V5, sub, &format!("c{n}"), &token));
        for head in ["s", "u", "c"] {
            for filter in [format!("{head}/+/x"), format!("{head}/#"), format!("{head}/victim/x")] {
                assert!(!granted(&mut wire, &filter), "{sub} {site}: {filter}");
            }
            assert!(!may_publish(&mut wire, &format!("{head}/victim/x")), "{sub} {site}");
        }
    }
}

#[test]
fn class_02_a_filter_wider_than_its_rule_is_refused() {
    let wider: &[(&str, &[&str])] = &[
        ("a", &["+", "#", "a/#", "A"]),
        ("a/+", &["a/#", "a/+/#", "+/+", "#", "+/a"]),
        ("+", &["#", "+/#", "+/+"]),
        ("+/+", &["+/#", "#", "+/+/#"]),
        ("a/+/c", &["a/#", "a/+/+", "a/+/#", "+/+/c"]),
        ("a/#", &["#", "+/#", "+", "+/a"]),
        ("a/b/#", &["a/#", "a/+", "a/+/#", "a"]),
    ];
    for (allowed, asked) in wider {
        let broker = anyone(&[], &[&format!("allow subscribe {allowed}")]);
        each_version(|version| {
            let mut wire = Wire::connect(&broker, version, "c");
            for filter in *asked {
                assert!(!granted(&mut wire, filter), "{allowed} does not cover {filter}");
            }
            assert!(granted(&mut wire, allowed), "{allowed} covers itself");
        });
    }
}

#[test]
fn class_03_a_deny_is_not_evaded_by_a_wider_filter() {
    let broker = anyone(&["deny subscribe a/secret/#", "deny subscribe +/+/pin"], &["allow all #"]);
    each_version(|version| {
        let mut wire = Wire::connect(&broker, version, "c");
        let forbidden = [
            "#",
            "+/#",
            "a/#",
            "a/+",
            "a/+/x",
            "+/secret",
            "+/secret/#",
            "a/secret/x/y",
            "b/c/pin",
            "b/c/#",
            "+/+/+",
            "b/#",
        ];
        for filter in forbidden {
            assert!(!granted(&mut wire, filter), "{filter}");
            assert!(!granted(&mut wire, &format!("$share/g/{filter}")), "$share/g/{filter}");
        }
        for filter in ["b", "b/+", "b/c/d", "+/open"] {
            assert!(granted(&mut wire, filter), "{filter}");
        }
    });
}

#[test]
fn class_04_a_shared_subscription_needs_the_right_to_its_filter_and_its_group() {
    let broker = broker_with(|config| {
        let mut acl = rules(&["allow subscribe own/#", "allow subscribe jobs/#", "allow subscribe solo/#"]);
        acl[1].share = Some(Share::Groups(vec!["workers".into()]));
        acl[2].share = Some(Share::Any(false));
        config.auth.anonymous = Some(Anonymous { acl });
    });
    for version in [Version::V311, Version::V5] {
        let mut wire = Wire::connect(&broker, version, "c");
        for filter in [
            "$share/g/secret/x",
            "$share/g/#",
            "$share/g/+/#",
            "$share/own/secret",
            "$share/thieves/jobs/#",
            "jobs/#",
            "$share/g/solo/#",
            "$share/g/$share/h/own/x",
        ] {
            assert!(!granted(&mut wire, filter), "{filter}");
        }
        for filter in ["$share/g/own/x", "$share/workers/jobs/+", "solo/#"] {
            assert!(granted(&mut wire, filter), "{filter}");
        }
    }
    let mut wire = Wire::connect(&broker, Version::V5, "p");
    assert!(!may_publish(&mut wire, "$share/g/own/x"), "nobody publishes into a group");
}

#[test]
fn class_05_a_will_needs_the_right_to_be_published() {
    let broker = anyone(&["deny publish t/forbidden/#"], &["allow all t/#"]);
    each_version(|version| {
        for topic in ["elsewhere", "t/forbidden/x"] {
            for (qos, retain) in [(0, false), (1, true), (2, false)] {
                let mut wire = Wire::open(&broker, version);
                wire.send(&Connect::new(version, "c").will(qos, retain, topic, b"boo").bytes());
                wire.expect_connect_refused(0x87, 5);
            }
        }
        let mut other = Wire::connect(&broker, version, "other");
        other.subscribe("t/#", 0);
        let (wire, _) = Wire::accepted(&broker, &Connect::new(version, "c").will(0, false, "t/gone", b"boo"));
        wire.hang_up();
        other.expect(&publish(version, 0x30, "t/gone", 0, b"boo"));
        other.disconnect();
    });
}

#[test]
fn class_14_topics_of_the_broker_itself_take_no_publication_and_no_will() {
    let topics = ["$SYS/broker/clients/total", "$SYS", "$CONTROL/dynamic-security/v1", "$share/g/t"];
    let broker = anyone(&[], &["allow all #", "allow all $SYS/#", "allow all $CONTROL/#"]);
    let mut witness = Wire::connect(&broker, Version::V5, "witness");
    witness.subscribe("$CONTROL/#", 0);
    for topic in topics {
        let mut wire = Wire::connect(&broker, Version::V5, "c");
        assert!(!may_publish(&mut wire, topic), "{topic}");
        wire.disconnect();
        each_version(|version| {
            let mut wire = Wire::open(&broker, version);
            wire.send(&Connect::new(version, "w").will(1, false, topic, b"boo").bytes());
            let refusal = wire.expect_connack();
            assert!(matches!((version, refusal.code), (Version::V5, 0x87 | 0x90) | (_, 5)), "{topic}: {refusal:?}");
            wire.expect_close();
        });
    }
    witness.expect_nothing();
    // No wildcard reaches them either.
    let broker = anyone(&[], &["allow all #"]);
    let mut wire = Wire::connect(&broker, Version::V5, "c");
    for filter in ["$SYS/#", "$SYS/broker/version", "$share/g/$SYS/#"] {
        assert!(!granted(&mut wire, filter), "{filter}");
    }
}

#[test]
fn class_13_an_absent_user_name_fills_no_placeholder() {
    let broker = anyone(&[], &["allow all home/${username}/#", "allow all sub/${sub}/#", "allow all x${username}/#"]);
    let mut wire = Wire::connect(&broker, Version::V5, "c");
    for topic in
        ["home//x", "home/x", "home/c/x", "home/null/x", "home/undefined/x", "sub//x", "x/x", "home/${username}/x"]
    {
        assert!(!may_publish(&mut wire, topic), "{topic}");
        assert!(!granted(&mut wire, topic), "{topic}");
    }
    assert!(!granted(&mut wire, "home/+/x") && !granted(&mut wire, "home/#"));
    // A user name of no characters is no user, and is not the absence of one.
    each_version(|version| {
        for password in [None, Some(b"".to_vec()), Some(b"x".to_vec())] {
            let mut wire = Wire::open(&broker, version);
            let username = Some(String::new());
            wire.send(&Connect { username, password, ..Connect::new(version, "c") }.bytes());
            wire.expect_connect_refused(0x86, 4);
        }
    });
}
