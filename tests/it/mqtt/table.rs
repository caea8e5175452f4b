//! `docs/conformance.md`: every normative statement and the tests that prove it, or why there is none.
//!
//! The statements are listed in `normative/*.txt`. Tests name theirs in their doc comments, in `tests/it` and in `src`;
//! `normative/exempt-*.txt` have a line for each of the others. `UPDATE_DOCS=1` writes the page, else it is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Whether a statement that nobody speaks of fails the test; else the page lists it as open.
const STRICT: bool = true;

/// Version and id, such as `("5.0", "MQTT-3.1.0-2")`.
type Key = (String, String);

/// A test and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proof {
    path: String,
    test: String,
}

/// What is known of the statements.
#[derive(Debug, Default)]
struct Table {
    /// In the order of the specification.
    statements: Vec<Key>,
    proofs: BTreeMap<Key, Vec<Proof>>,
    exempt: BTreeMap<Key, String>,
    problems: Vec<String>,
}

impl Table {
    fn statements(&mut self, version: &str, list: &str) {
        let ids = list.lines().map(str::trim).filter(|line| !line.is_empty());
        self.statements.extend(ids.map(|id| (version.to_owned(), id.to_owned())));
    }

    /// The doc comments of the tests of one source file.
    fn source(&mut self, path: &str, text: &str) {
        let mut comment: Vec<(usize, &str)> = vec![];
        let mut is_test = false;
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(doc) = line.strip_prefix("///") {
                comment.push((at + 1, doc));
            } else if line.starts_with("#[") {
                is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            } else {
                // Code may say which statement it follows; a proof is a test.
                if let Some(test) = function(line).filter(|_| is_test) {
                    self.comment(path, &comment, test);
                }
                comment.clear();
                is_test = false;
            }
        }
    }

    /// Lists of ids in brackets, each with its version or versions directly before it. In backquotes they are prose.
    fn comment(&mut self, path: &str, lines: &[(usize, &str)], test: &str) {
        let line = lines.first().map_or(0, |(line, _)| *line);
        let text: Vec<&str> = lines.iter().map(|(_, text)| text.trim()).collect();
        let text = text.join(" ");
        let mut rest = text.as_str();
        while let Some((before, (list, after))) =
            rest.split_once("[MQTT-").and_then(|(before, list)| Some((before, list.split_once(']')?)))
        {
            rest = after;
            if before.ends_with('`') {
                continue;
            }
            let versions = before.split_whitespace().rev();
            let versions: Vec<&str> = versions
                .map(|word| word.trim_end_matches(','))
                .take_while(|word| matches!(*word, "3.1.1" | "5.0" | "and"))
                .filter(|word| *word != "and")
                .collect();
            for id in list.split(',').map(|id| format!("MQTT-{}", id.trim().trim_start_matches("MQTT-"))) {
                if versions.is_empty() {
                    self.problems.push(format!("{path}:{line}: {id} without its version, 3.1.1 or 5.0, before it"));
                }
                for version in &versions {
                    self.proof((String::from(*version), id.clone()), path, line, test);
                }
            }
        }
    }

    fn proof(&mut self, key: Key, path: &str, line: usize, test: &str) {
        if !self.statements.contains(&key) {
            self.problems.push(format!("{path}:{line}: {} has no statement {}", key.0, key.1));
        }
        let proof = Proof { path: path.to_owned(), test: test.to_owned() };
        let proofs = self.proofs.entry(key).or_default();
        if !proofs.contains(&proof) {
            proofs.push(proof);
        }
    }

    /// Lines of `5.0 MQTT-x.y.z-n: why`; `#` begins a comment.
    fn exemptions(&mut self, path: &str, text: &str) {
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let place = format!("{path}:{}", at + 1);
            let parsed = line.split_once(": ").and_then(|(head, why)| Some((head.split_once(' ')?, why.trim())));
            let Some(((version, id), why)) = parsed.filter(|(_, why)| !why.is_empty()) else {
                self.problems.push(format!("{place}: not of the form `5.0 MQTT-x.y.z-n: why`"));
                continue;
            };
            let key = (version.to_owned(), id.to_owned());
            if !self.statements.contains(&key) {
                self.problems.push(format!("{place}: {version} has no statement {id}"));
            }
            if self.proofs.contains_key(&key) {
                self.problems.push(format!("{place}: {version} {id} is proved by a test: remove the line"));
            }
            if self.exempt.insert(key, why.to_owned()).is_some() {
                self.problems.push(format!("{place}: {version} {id} is there twice"));
            }
        }
    }

    fn missing(&self) -> Vec<&Key> {
        let known = |key: &Key| self.proofs.contains_key(key) || self.exempt.contains_key(key);
        self.statements.iter().filter(|key| !known(key)).collect()
    }

    fn page(&self) -> String {
        let mut page = String::from(HEAD);
        for version in ["5.0", "3.1.1"] {
            let keys: Vec<&Key> = self.statements.iter().filter(|(of, _)| of == version).collect();
            let proved = keys.iter().filter(|key| self.proofs.contains_key(**key)).count();
            let exempt = keys.iter().filter(|key| self.exempt.contains_key(**key)).count();
            let _ = write!(
                page,
                "\n## MQTT {version}\n\n{} statements: {proved} proved by tests, {exempt} not observable here.\n",
                keys.len()
            );
            let mut section = String::new();
            for key in keys {
                let of = key.1.rsplit_once('-').map_or("", |(of, _)| of).trim_start_matches("MQTT-");
                if section != of {
                    section.replace_range(.., of);
                    let _ = write!(
                        page,
                        "\n### {version}, section {section}\n\n| statement | test, or why there is none |\n|---|---|\n"
                    );
                }
                let _ = writeln!(page, "| {} | {} |", key.1, self.cell(key));
            }
        }
        page
    }

    fn cell(&self, key: &Key) -> String {
        if let Some(proofs) = self.proofs.get(key) {
            let links = proofs.iter().map(|Proof { path, test }| format!("[{}](../{path})", test.replace('_', " ")));
            return links.collect::<Vec<_>>().join("<br>");
        }
        self.exempt.get(key).map_or_else(|| "**open**".to_owned(), |why| format!("– {why}"))
    }
}

const HEAD: &str = "# Conformance

Every normative statement of MQTT 5.0 and 3.1.1 by its number, with the tests that prove it on the wire, or (after a dash) one line why a server cannot prove it: it binds clients, or a peer cannot observe it. MQTT 3.1 has no numbered statements; the tests run for it wherever it has the feature.

This page is written by a test that reads the sources: `UPDATE_DOCS=1 cargo test --test it mqtt::table`. The same test fails when a statement is missing, when an unknown one is named, and when this page is older than the sources.
";

fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}

fn sources(root: &Path, below: &str, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(root.join(below)).expect("a directory of sources") {
        let path = entry.expect("a readable directory").path();
        let relative = path.strip_prefix(root).expect("below the root");
        if path.is_dir() {
            sources(root, &relative.to_string_lossy(), found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(relative.to_owned());
        }
    }
}

fn read(root: &Path) -> Table {
    let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut table = Table::default();
    for version in ["3.1.1", "5.0"] {
        table.statements(version, &text(&format!("tests/it/mqtt/normative/mqtt-{version}.txt")));
    }
    let mut paths = BTreeSet::new();
    sources(root, "tests/it", &mut paths);
    sources(root, "src", &mut paths);
    // The examples below are not proofs.
    for path in paths.iter().filter(|path| !path.ends_with("mqtt/table.rs")) {
        let path = path.to_string_lossy();
        table.source(&path, &text(&path));
    }
    for part in ["connections", "messages"] {
        let path = format!("tests/it/mqtt/normative/exempt-{part}.txt");
        table.exemptions(&path, &text(&path));
    }
    table
}

#[test]
fn every_normative_statement_has_its_test_or_its_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = read(root);
    assert!(table.problems.is_empty(), "\n{}\n", table.problems.join("\n"));
    let missing = table.missing();
    assert!(!STRICT || missing.is_empty(), "neither a test nor an exemption for {missing:#?}");
    let path = root.join("docs/conformance.md");
    let page = table.page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/ can be written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let stale = there.lines().zip(page.lines()).find(|(there, wanted)| there != wanted);
    assert!(
        there == page,
        "docs/conformance.md is stale: UPDATE_DOCS=1 cargo test --test it mqtt::table\nfirst difference: {stale:#?}"
    );
}

/// A table of two statements in each version and this source.
fn table_of(source: &str, exempt: &str) -> Table {
    let mut table = Table::default();
    table.statements("3.1.1", "MQTT-1.1.1-1\nMQTT-1.1.1-2\n");
    table.statements("5.0", "MQTT-1.1.1-1\nMQTT-4.2-1\n");
    table.source("tests/it/x.rs", source);
    table.exemptions("exempt.txt", exempt);
    table
}

#[test]
fn a_statement_that_is_missing_is_found() {
    let table = table_of(
        "/// Not in 3.1.1.\n/// 3.1.1 and 5.0 [MQTT-1.1.1-1].\n#[test]\nfn one_way() {}\n\n/// 5.0\n/// [MQTT-4.2-1].\n#[tokio::test]\nasync fn more() {}",
        "",
    );
    assert_eq!(table.problems, Vec::<String>::new());
    assert_eq!(table.missing(), [&("3.1.1".to_owned(), "MQTT-1.1.1-2".to_owned())]);
    assert!(table.page().contains("| MQTT-4.2-1 | [more](../tests/it/x.rs) |"), "{}", table.page());
    assert!(table.page().contains("| MQTT-1.1.1-2 | **open** |"));
}

#[test]
fn a_wrong_statement_is_found() {
    let refused = |source: &str, exempt: &str, line: &str| {
        let table = table_of(source, exempt);
        assert!(table.problems.iter().any(|problem| problem.contains(line)), "{line}: {:#?}", table.problems);
    };
    let test = |comment: &str| format!("/// {comment}\n#[test]\nfn a_test() {{}}");
    refused(&test("5.0 [MQTT-9.9.9-9]"), "", "x.rs:1: 5.0 has no statement MQTT-9.9.9-9");
    refused(&test("3.1.1 [MQTT-4.2-1]"), "", "3.1.1 has no statement MQTT-4.2-1");
    refused(&test("[MQTT-4.2-1]"), "", "MQTT-4.2-1 without its version");
    refused("", "5.0 MQTT-9.9.9-9: why", "exempt.txt:1: 5.0 has no statement");
    refused("", "5.0 MQTT-4.2-1:", "not of the form");
    refused("", "5.0 MQTT-4.2-1: a\n5.0 MQTT-4.2-1: b", "is there twice");
    refused(&test("5.0 [MQTT-4.2-1]"), "5.0 MQTT-4.2-1: why", "is proved by a test");
}

#[test]
fn a_comment_on_what_is_not_a_test_proves_nothing() {
    let table = table_of("/// 5.0 [MQTT-4.2-1]\nfn code() {}", "5.0 MQTT-1.1.1-1: it binds clients");
    assert_eq!(table.missing().len(), 3);
    assert!(table.page().contains("| MQTT-1.1.1-1 | – it binds clients |"), "{}", table.page());
}
