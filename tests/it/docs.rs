//! What the documents say, done as they say it.
//!
//! The `sh` blocks of a document are run in order, as one script, in a directory that has `manifests/` and nothing else.
//! A block marked `sh cluster` needs a cluster and is covered by the end-to-end test; `sh build` and `sh shown` are not
//! run. `cargo run --release --` stands for `mqttctl`. What does not end by itself (`mqttctl up`, and a subscriber without
//! a count) runs beside what follows, once it is ready, and is ended at the end.

use std::fmt::Write as _;
use std::path::Path;

use mqtt_operator::api::manifest;
use mqtt_operator::plan;

use crate::support::project_file;
use crate::up::running::{SamplePort, run, shell};

/// Functions that the scripts use, for what runs beside the rest.
const PRELUDE: &str = r#"set -eu -o pipefail
children=()
trap 'for child in "${children[@]}"; do kill -INT "$child" 2>/dev/null || true; wait "$child" 2>/dev/null || true; done' EXIT
# beside TEXT COMMAND...: starts the command, and waits until it has printed the text.
beside() {
    local ready=$1 log tries=600
    shift
    log=$(mktemp -p .)
    "$@" >"$log" 2>&1 &
    children+=($!)
    until grep -q -- "$ready" "$log"; do
        tries=$((tries - 1))
        kill -0 "${children[-1]}" 2>/dev/null && [ $tries -gt 0 ] || { cat "$log" >&2; exit 1; }
        read -r -t 0.05 <> <(:) || true
    done
}
# refused COMMAND...: succeeds when the command fails.
refused() {
    if "$@"; then echo "succeeded: $*" >&2; exit 1; fi
}
"#;

/// The script of a document; nothing when it has no block to run.
fn script(text: &str) -> Option<String> {
    let mut script = String::new();
    let mut kind = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), kind) {
            (Some(_), Some(_)) => kind = None,
            (Some(opened), None) => kind = Some(opened),
            (None, Some("sh")) => {
                let _ = writeln!(script, "{}", command(line));
            }
            (None, _) => {}
        }
    }
    (!script.is_empty()).then_some(script)
}

fn command(line: &str) -> String {
    let line = line.replace("cargo run --release --", "mqttctl");
    let ends = ["|", " -C ", " -E", " -W ", "--count"].iter().any(|mark| line.contains(mark));
    if let Some(rest) = line.strip_prefix("! ") {
        format!("refused {rest}")
    } else if line.starts_with("mqttctl up ") {
        format!("beside ' is up after ' {line}")
    } else if line.starts_with("mosquitto_sub ") && !ends {
        format!("beside Subscribed {line}")
    } else {
        line
    }
}

#[track_caller]
fn works(document: &str) {
    works_after(document, "");
}

/// Runs the document, after these commands, with everything in reach that its reader would have.
#[track_caller]
fn works_after(document: &str, first: &str) {
    let text = std::fs::read_to_string(project_file(document)).unwrap_or_else(|error| panic!("{document}: {error}"));
    let script = script(&text).unwrap_or_else(|| panic!("{document} has no block to run"));
    let script = format!("{PRELUDE}{}\n{script}", command(first));
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(project_file("manifests"), directory.path().join("manifests")).unwrap();
    let port = SamplePort::take();
    let (code, stdout, stderr) = run(shell(directory.path(), &script));
    assert_eq!(code, Some(0), "{document}\n{script}\n--- printed\n{stdout}{stderr}");
    drop(port);
}

#[test]
fn readme_works() {
    works("README.md");
}

#[test]
fn tutorial_works() {
    works("docs/tutorial.md");
}

#[test]
fn up_page_works() {
    works("docs/up.md");
}

#[test]
fn mqttctl_page_works() {
    works("docs/mqttctl.md");
}

#[test]
fn admin_page_works() {
    works("docs/admin.md");
}

#[test]
fn clients_page_works() {
    works("docs/clients.md");
}

#[test]
fn keys_page_works() {
    works("docs/keys.md");
}

#[test]
fn listeners_page_works() {
    works("docs/listeners.md");
}

#[test]
fn users_page_works() {
    works("docs/users.md");
}

#[test]
fn audit_page_works() {
    works("docs/audit.md");
}

#[test]
fn authz_page_works() {
    works("docs/authz.md");
}

/// It begins where a broker runs.
#[test]
fn access_page_works() {
    works_after("docs/access.md", "mqttctl up -f manifests/samples/thermometer.yaml");
}

/// A page whose commands nobody runs would rot: it is run by a test above, or it has nothing to run.
#[test]
fn every_page_with_commands_is_run() {
    let run = [
        "README.md",
        "docs/access.md",
        "docs/admin.md",
        "docs/audit.md",
        "docs/authz.md",
        "docs/clients.md",
        "docs/keys.md",
        "docs/listeners.md",
        "docs/tutorial.md",
        "docs/up.md",
        "docs/users.md",
        "docs/mqttctl.md",
    ];
    let pages = std::fs::read_dir(project_file("docs")).unwrap().map(|entry| entry.unwrap().path());
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(project_file);
    for page in pages.chain(top).filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let known = run.iter().any(|it| project_file(it) == page);
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(known || script(&text).is_none(), "{} has `sh` blocks that no test runs", page.display());
    }
}

/// Objects in pages, whole ones and a `spec` alone, are what an API server would take.
#[test]
fn objects_in_pages_are_valid() {
    const HEAD: &str = "apiVersion: mqtt-operator.io/v1alpha1\nkind: MqttBroker\nmetadata: {name: example}\n";
    let mut seen = 0;
    for page in [
        "README.md",
        "docs/access.md",
        "docs/authz.md",
        "docs/clients.md",
        "docs/issuers.md",
        "docs/keys.md",
        "docs/limits.md",
        "docs/listeners.md",
        "docs/storage.md",
        "docs/users.md",
    ] {
        let text = std::fs::read_to_string(project_file(page)).unwrap();
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let object = if block.starts_with("spec:") { format!("{HEAD}{block}") } else { block.to_owned() };
            let manifest = manifest::read(&object).unwrap_or_else(|error| panic!("{page}: {error}\n{object}"));
            for broker in &manifest.brokers {
                plan::plan(broker).unwrap_or_else(|error| panic!("{page}: {error}\n{object}"));
                seen += 1;
            }
        }
    }
    assert!(seen >= 3, "only {seen} objects found");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let pages = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/tutorial.md",
        "docs/up.md",
        "docs/mqttctl.md",
        "docs/clients.md",
        "docs/keys.md",
        "docs/storage.md",
    ];
    for page in pages {
        let path = project_file(page);
        let text = std::fs::read_to_string(&path).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for target in targets.filter(|target| !target.is_empty() && !target.contains("://")) {
            let linked = path.parent().unwrap_or(Path::new(".")).join(target);
            assert!(linked.exists(), "{page}: {target} is not there");
        }
    }
}

#[test]
fn script_has_only_what_is_to_be_run() {
    let text =
        "```sh\nmqttctl up -f a\n! false\n```\n```sh cluster\nkubectl\n```\n```yaml\na: b\n```\n```sh shown\nno\n```\n";
    let script = script(text).unwrap();
    assert!(script.ends_with("beside ' is up after ' mqttctl up -f a\nrefused false\n"), "{script}");
}
