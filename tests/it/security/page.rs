//! The table of docs/security.md: each class, what may not happen, and the tests that show it.
//!
//! `UPDATE_DOCS=1` writes it, else it is compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::support::project_file;

const BEGIN: &str = "<!-- classes -->";
const END: &str = "<!-- end of classes -->";

/// What may not happen, in the order of the classes.
const CLASSES: [&str; 25] = [
    "a client id, user name or claim with wildcards widens a rule",
    "a filter wider than the rule that allows it is granted",
    "a deny is evaded by a filter that is wider than it",
    "a shared subscription gets what a plain one would not, or takes messages from others",
    "a will is published where its client may not publish",
    "a right that was taken away lives on in a subscription, a queue, a session, or as retained message",
    "a token's expiry is not noticed on a connection that is idle, only receives, or is resumed",
    "a client id is enough to take a session over",
    "a rules, key or password file that cannot be used opens the broker, or closes it for those already right",
    "a credential that cannot be checked is accepted, or tried as another kind",
    "a token decides how it is verified, or claims of a wrong form pass",
    "unknown keys make the broker fetch, fetch from inside, or fetch without verifying the server",
    "a missing user name fills a placeholder",
    "a publication to a topic of the broker itself is taken, or ends the broker",
    "a stranger makes the broker keep memory before it is known",
    "what is begun and never finished is kept for ever",
    "a packet of the wrong direction or form harms anybody else",
    "packets that come at the same time are confused",
    "a limit of an odd size breaks arithmetic",
    "a secret is in a log, a metric, a report, an event or a readable file",
    "a web page of another origin connects, or a certificate that is required is not asked for over WebSocket",
    "the answer tells whether a user exists",
    "a TLS listener with a mistake serves without TLS",
    "a client chooses the address that it seems to come from",
    "the operator may more than it needs, or reads and leaves behind what belongs to others",
];

/// The tests of all classes by number, from the sources of all tests here.
fn tests() -> BTreeMap<usize, Vec<(String, String)>> {
    let root = project_file("tests/it");
    let (mut found, mut paths) = (BTreeMap::<usize, Vec<_>>::new(), vec![root.clone()]);
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let file = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        for line in text.lines() {
            let Some(test) = line.split("fn class_").nth(1).and_then(|rest| rest.split('(').next()) else { continue };
            let Some(number) = test.get(..2).and_then(|digits| digits.parse().ok()) else { continue };
            found.entry(number).or_default().push((file.clone(), format!("class_{test}")));
        }
    }
    for tests in found.values_mut() {
        tests.sort();
    }
    found
}

fn table() -> String {
    let tests = tests();
    let mut text = String::from("| class | what may not happen | tests |\n|---|---|---|\n");
    for (index, what) in CLASSES.iter().enumerate() {
        let number = index + 1;
        let own = tests.get(&number).unwrap_or_else(|| panic!("no test is named after class {number}: {what}"));
        let links: Vec<_> = own.iter().map(|(file, test)| format!("[`{test}`](../tests/it/{file})")).collect();
        let _ = writeln!(text, "| {number} | {what} | {} |", links.join("<br>"));
    }
    text
}

#[test]
fn every_class_has_its_tests_and_the_page_lists_them() {
    let path = project_file("docs/security.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the page has a place for the table");
    let (_, tail) = rest.split_once(END).expect("the place for the table ends");
    let wanted = format!("{head}{BEGIN}\n{}{END}{tail}", table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, wanted).unwrap();
    } else {
        assert!(
            page == wanted,
            "docs/security.md is not up to date: UPDATE_DOCS=1 cargo test --test it security::page"
        );
    }
}
