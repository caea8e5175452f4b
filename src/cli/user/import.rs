//! `mqttctl user import`: a password file of Mosquitto, as manifests.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::bail;
use serde_json::{Value, json};

use crate::auth::password::check_hash;
use crate::plan::names::legal;

/// Hashes in one Secret, which may have a mebibyte.
const PER_SECRET: usize = 2000;

/// A line of the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub name: &'a str,
    pub hash: &'a str,
}

/// Reads the lines `NAME:HASH`. All that is wrong is told at once, with the numbers of the lines and without what is in
/// them: it may be a password.
pub fn parse(text: &str) -> anyhow::Result<Vec<Line<'_>>> {
    let (mut lines, mut wrong, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, hash)) = line.split_once(':') else {
            wrong.push(format!("line {number}: not NAME:HASH"));
            continue;
        };
        if name.is_empty() || name.len() > 128 || name.starts_with("system:") || name.chars().any(char::is_control) {
            wrong.push(format!("line {number}: a user name has 1 to 128 bytes and does not begin with `system:`"));
        } else if let Err(error) = check_hash(hash) {
            let plain = if hash.starts_with('$') { "" } else { "; `mosquitto_passwd -U FILE` hashes what is in clear" };
            wrong.push(format!("line {number}: user {name:?}: {error}{plain}"));
        } else if seen.insert(name) {
            lines.push(Line { name, hash });
        } else {
            wrong.push(format!("line {number}: user {name:?} is there twice"));
        }
    }
    if !wrong.is_empty() {
        bail!("{} of the lines cannot be taken, so none was:\n{}", wrong.len(), wrong.join("\n"));
    }
    if lines.is_empty() {
        bail!("there is no user in it");
    }
    Ok(lines)
}

/// Manifests of the users and of Secrets with their hashes, as a YAML stream.
pub fn manifests(lines: &[Line<'_>], broker: &str, namespace: Option<&str>, groups: &[String]) -> String {
    let mut text = String::new();
    let metadata = |name: &str| match namespace {
        Some(namespace) => json!({"name": name, "namespace": namespace}),
        None => json!({"name": name}),
    };
    for (number, chunk) in (1..).zip(lines.chunks(PER_SECRET)) {
        let secret = if number == 1 { format!("{broker}-imported") } else { format!("{broker}-imported-{number}") };
        let hashes: serde_json::Map<String, Value> =
            chunk.iter().map(|line| (legal(line.name), Value::from(line.hash))).collect();
        document(
            &mut text,
            &json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": metadata(&secret), "stringData": hashes,
            }),
        );
        for line in chunk {
            let name = legal(line.name);
            let mut spec = json!({
                "brokerRef": {"name": broker}, "passwordHashSecretRef": {"name": secret, "key": name},
            });
            if name != line.name {
                spec["username"] = line.name.into();
            }
            let rules = if groups.is_empty() { ("acl", json!([])) } else { ("groups", json!(groups)) };
            spec[rules.0] = rules.1;
            document(
                &mut text,
                &json!({
                    "apiVersion": crate::api::API_VERSION, "kind": "MqttUser", "metadata": metadata(&name), "spec": spec,
                }),
            );
        }
    }
    text
}

fn document(text: &mut String, value: &Value) {
    let body = serde_saphyr::to_string(value).expect("JSON is YAML");
    let _ = write!(text, "---\n{}\n", body.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::manifest;

    const HASH: &str = "$7$101$aqAL0dks6Vt5uMr4$AuHVYBuQFC0iOqU8Oq0lzxmfWhxsKytWpC5CpGIOuZ8+oVdNUtPDc+nKIvxyjfEXDoAC2aXJxI/L17I3G+rArw==";

    #[test]
    fn a_file_becomes_manifests_that_are_read_again() {
        let text = format!("# devices\ndev-1:{HASH}\n\nDev_2:{HASH}\r\n");
        let lines = parse(&text).unwrap();
        let manifest = manifest::read(&manifests(&lines, "home", Some("shop"), &["devices".into()])).unwrap();
        let names: Vec<_> = manifest.users.iter().map(crate::api::MqttUser::username).collect();
        assert_eq!(names, ["dev-1", "Dev_2"]);
        for user in &manifest.users {
            assert_eq!(user.metadata.namespace.as_deref(), Some("shop"));
            assert_eq!(user.spec.groups.as_deref(), Some(&["devices".to_owned()][..]));
            let reference = user.spec.password_hash_secret_ref.as_ref().unwrap();
            let hash = manifest.secret_value("shop", &reference.name, &reference.key);
            assert_eq!(hash, Some(HASH.as_bytes()));
        }
        let alone = manifest::read(&manifests(&lines, "home", None, &[])).unwrap();
        assert_eq!(alone.users[0].spec.acl, Some(vec![]), "without a group the user may connect and nothing else");
    }

    #[test]
    fn many_users_are_spread_over_secrets() {
        let names: Vec<String> = (0..4500).map(|n| format!("dev-{n}")).collect();
        let lines: Vec<Line<'_>> = names.iter().map(|name| Line { name, hash: HASH }).collect();
        let manifest = manifest::read(&manifests(&lines, "home", None, &[])).unwrap();
        assert_eq!((manifest.users.len(), manifest.secrets.len()), (4500, 3));
        let last = manifest.users[4499].spec.password_hash_secret_ref.as_ref().unwrap();
        assert_eq!(last.name, "home-imported-3");
    }

    #[test]
    fn what_cannot_be_taken_is_told_by_its_line_and_without_the_password() {
        let text = format!("a:{HASH}\na:{HASH}\nb:geheim\nnonsense\nsystem:bridge:{HASH}\nc:$7$999999999$AAAA$AAAA\n");
        let told = parse(&text).unwrap_err().to_string();
        for expected in [
            "5 of the lines",
            "line 2: user \"a\" is there twice",
            "line 3: user \"b\": ",
            "mosquitto_passwd -U",
            "line 4: not NAME:HASH",
            "line 5: ",
            "line 6: ",
        ] {
            assert!(told.contains(expected), "{expected}: {told}");
        }
        assert!(!told.contains("geheim"), "{told}");
        assert!(parse("# nothing\n").is_err());
    }
}
