use super::*;

const MANIFEST: &str = r#"
apiVersion: mqtt-operator.io/v1alpha1
kind: MqttBroker
metadata: {name: home, namespace: shop}
spec:
  auth:
    deny:
      - {permission: deny, action: all, topic: "secret/#"}
    groups:
      - name: sensors
        acl: [{permission: allow, action: publish, topic: "dev/${clientid}/#"}]
    users:
      - name: alice
        generate: true
        acl: [{permission: allow, action: subscribe, topic: "home/#"}]
---
apiVersion: mqtt-operator.io/v1alpha1
kind: MqttUser
metadata: {name: bob, namespace: shop}
spec:
  brokerRef: {name: home}
  generate: true
  acl: [{permission: allow, action: publish, topic: "bob/#"}]
"#;

async fn rules() -> Rules {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, MANIFEST).unwrap();
    rules::find(&From { files: vec![file.path().to_owned()] }, &Where::default()).await.unwrap()
}

async fn judged(cases: &str) -> anyhow::Result<Vec<Answer>> {
    judge(&read_cases(cases)?, &rules().await, 1_763_800_000)
}

#[tokio::test]
async fn cases_are_asked_and_what_is_not_as_expected_is_explained() {
    let answers = judged(
        "cases:
- {user: alice, action: subscribe, topic: [home/+, 'home/#', home/door], expect: allow}
- {user: alice, action: subscribe, topic: '#', expect: deny}
- {token: {sub: dev1, groups: [sensors]}, action: publish, topic: dev/dev1/t, qos: 1, expect: allow}
- {token: {sub: dev1, groups: [sensors]}, client: dev2, action: will, topic: dev/dev1/t, expect: deny}
- {user: bob, action: publish, topic: bob/a, expect: allow}
- {name: a hole, user: alice, action: subscribe, topic: secret/a, expect: allow}
",
    )
    .await
    .unwrap();
    let wrong: Vec<&Answer> = answers.iter().filter(|answer| answer.wrong.is_some()).collect();
    assert_eq!((answers.len(), wrong.len(), wrong[0].name.as_str()), (8, 1, "case 6 (a hole), subscribe \"secret/a\""));
    let begins = "expected allow\nDENY subscribe \"secret/a\"  client=alice user=alice cred=password\n  deny[0]";
    let told = wrong[0].wrong.as_ref().unwrap();
    assert!(told.starts_with(begins), "{told}");
    let xml = junit("a<b", &answers);
    assert!(xml.contains("<testsuite name=\"a&lt;b\" tests=\"8\" failures=\"1\">"), "{xml}");
    assert!(xml.contains("<testcase name=\"case 1, subscribe &quot;home/+&quot;\"/>"), "{xml}");
    assert!(xml.contains("<failure>expected allow\nDENY subscribe &quot;secret/a&quot;"), "{xml}");
}

#[tokio::test]
async fn a_case_that_cannot_be_asked_is_an_error_that_names_it() {
    for (case, error) in [
        (
            "{user: eve, action: publish, topic: a, expect: deny}",
            "case 1: there is no user \"eve\" here; there are: alice, bob",
        ),
        ("{action: publish, topic: a, expect: deny}", "case 1: exactly one of user, token and anonymous: true"),
        ("{user: alice, anonymous: true, action: publish, topic: a, expect: deny}", "case 1: exactly one of"),
        ("{token: {}, action: publish, topic: a, expect: deny}", "case 1: token: `sub` is missing"),
        ("{user: alice, action: publish, topic: a, qos: 3, expect: deny}", "case 1: 3 is not a level of QoS"),
        ("{user: alice, action: publish, topic: a}", "line 2: "),
        ("{user: alice, action: publish, topic: a, expect: deny, topics: b}", "line 2: "),
    ] {
        let found = chain(&judged(&format!("cases:\n- {case}\n")).await.err().unwrap());
        assert!(found.starts_with(error), "{found}");
    }
}

#[test]
fn a_token_is_valid_at_some_time() {
    let claims = |text: &str| serde_json::from_str(text).unwrap();
    assert_eq!(when_valid(&claims(r#"{"iat": 10, "exp": 20}"#), 15), 15);
    assert_eq!(when_valid(&claims(r#"{"iat": 10, "exp": 20}"#), 30), 19);
    assert_eq!(when_valid(&claims(r#"{"iat": 10, "nbf": 12, "exp": 20}"#), 5), 12);
    assert_eq!(client_id(&claims(r#"{"sub": "s", "client_id": ["a", "b"]}"#)), "a");
    assert_eq!(client_id(&claims(r#"{"sub": "s"}"#)), "s");
}
