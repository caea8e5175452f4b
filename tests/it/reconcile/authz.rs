//! `mqttctl authz` and `token verify` beside a cluster: the rules and keys that are in force there.

use super::keys::ctl;
use super::world::in_world;

const SPEC: &str = "{auth: {
  deny: [{permission: deny, action: all, topic: 'secret/#'}],
  users: [{name: alice, generate: true, groups: [sensors], acl: []}],
  groups: [{name: sensors, acl: [
    {permission: allow, action: publish, topic: 'dev/${clientid}/#'},
    {permission: allow, action: subscribe, topic: 'dev/${clientid}/#'}]}]}}";

#[tokio::test]
async fn decisions_of_a_broker_in_a_cluster_are_explained_from_what_is_in_force_there() {
    in_world(async |world| {
        let _pod = world.serving("home", SPEC).await;
        let explained = async |arguments: &[&str], code: i32| {
            let (found, stdout, stderr) = ctl(&world, arguments).await;
            assert_eq!(found, Some(code), "{arguments:?}\n{stdout}{stderr}");
            format!("{stdout}\n{stderr}")
        };
        let said = explained(&["authz", "explain", "--user", "alice", "subscribe", "dev/+/temp"], 1).await;
        let witness = r#"group sensors rule 2  allow subscribe "dev/alice/#"  (from dev/${clientid}/#)   does not cover the filter: "dev/a/temp" is outside"#;
        assert!(said.contains(witness) && said.contains("or subscribe to dev/alice/temp"), "{said}");
        explained(&["authz", "explain", "--user", "alice", "--client", "a1", "publish", "dev/a1", "--qos", "2"], 0).await;
        let said = explained(&["authz", "explain", "--user", "bob", "publish", "a"], 2).await;
        assert!(said.contains(r#"there is no user "bob" here; there are: alice"#), "{said}");

        let token = explained(&["token", "issue", "--sub", "dev1", "--group", "sensors"], 0).await;
        let token = token.lines().next().unwrap().to_owned();
        let said = explained(&["authz", "explain", "--token", &token, "will", "dev/dev1/gone"], 0).await;
        assert!(said.contains("ALLOW will \"dev/dev1/gone\"  client=dev1 user=dev1 cred=jwt kid="), "{said}");
        let said = explained(&["token", "verify", &token], 0).await;
        assert!(said.starts_with("accepted  user:dev1 as client \"dev1\"\n"), "{said}");
        let said = explained(&["token", "inspect", &token], 0).await;
        assert!(said.contains(", active for ") && said.contains("group sensors rule 1  allow publish"), "{said}");

        let cut = token.rsplit_once('.').unwrap().0;
        let forged = format!("{cut}.{}", "A".repeat(86));
        let said = explained(&["token", "verify", &forged], 1).await;
        assert!(said.starts_with("refused   the token's signature is wrong\nsent      CONNACK 0x86 (v5) | 4"), "{said}");
        let said = explained(&["authz", "explain", "--token", &forged, "publish", "dev/dev1"], 1).await;
        assert!(said.starts_with("DENY connect  client=dev1: the token's signature is wrong\n"), "{said}");

        explained(&["token", "revoke", "--sub", "dev1"], 0).await;
        let said = explained(&["token", "verify", &token], 1).await;
        assert!(said.starts_with("refused   the token is revoked") && said.contains("CONNACK 0x87 (v5)"), "{said}");
    })
    .await;
}
