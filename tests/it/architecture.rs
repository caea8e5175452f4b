//! The house rules of ARCHITECTURE.md, checked against the sources. A failure is a line that says where and what.

mod rules;
mod source;

use std::path::Path;

use source::Source;

#[test]
fn the_sources_follow_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = source::read_all(root, &["src", "tests/it", "tests/e2e", "tests/support"]);
    assert!(sources.len() > 30, "only {} source files found below {}", sources.len(), root.display());
    let problems = rules::check(&sources);
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// The lines that the rules give for these files alone, without those about files that a small example lacks.
fn problems(files: &[(&str, &str)]) -> Vec<String> {
    let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    let mut lines = rules::check(&sources);
    lines.retain(|line| !line.contains("no such"));
    lines
}

#[track_caller]
fn refused(files: &[(&str, &str)], expected: &str) {
    let lines = problems(files);
    assert!(lines.iter().any(|line| line.contains(expected)), "no line says {expected:?}: {lines:#?}");
}

const LIB: (&str, &str) =
    ("src/lib.rs", "//! L\npub mod auth; pub mod broker; pub mod bridge; pub mod mqtt; pub mod operator;");

#[test]
fn a_clean_source_is_accepted() {
    let auth = "//! A\nuse crate::mqtt::topic;\n// crate::broker is only mentioned\nconst A: &str = \"crate::broker\";";
    let files =
        [("src/lib.rs", "//! L\npub mod auth; pub mod mqtt;"), ("src/auth/mod.rs", auth), ("src/mqtt/mod.rs", "//! M")];
    assert_eq!(problems(&files), Vec::<String>::new());
}

#[test]
fn an_edge_that_is_not_drawn_is_refused() {
    refused(
        &[LIB, ("src/auth/mod.rs", "//! A\nuse crate::broker::session;")],
        "src/auth/mod.rs:2: auth may not name broker",
    );
    refused(&[LIB, ("src/auth/mod.rs", "//! A\nuse crate::{mqtt, bridge::run};")], "auth may not name bridge");
    refused(&[LIB, ("src/auth/mod.rs", "//! A\nuse super::broker::session;")], "auth may not name broker");
    refused(&[LIB, ("src/api/mod.rs", "//! A\nuse crate::auth::token;")], "api may not name auth::token");
}

#[test]
fn kubernetes_outside_its_rooms_is_refused() {
    refused(&[LIB, ("src/broker/mod.rs", "//! B\nuse kube::Api;")], "broker may not name kube");
    refused(&[LIB, ("src/bridge/mod.rs", "//! B\nfn f(_: k8s_openapi::X) {}")], "bridge may not name k8s_openapi");
}

#[test]
fn a_clock_or_randomness_in_a_pure_room_is_refused() {
    refused(&[LIB, ("src/auth/mod.rs", "//! A\nfn f() { std::time::SystemTime::now(); }")], "SystemTime::now");
    refused(&[LIB, ("src/mqtt/mod.rs", "//! A\nfn f() { tokio::spawn(g()); }")], "tokio");
    refused(&[LIB, ("src/auth/mod.rs", "//! A\nfn f() { Instant\n::now(); }")], "src/auth/mod.rs:2");
    let tested = "//! A\n#[cfg(test)]\nmod tests { fn f() { std::time::SystemTime::now(); } }";
    assert_eq!(problems(&[("src/lib.rs", "//! L\npub mod auth;"), ("src/auth/mod.rs", tested)]), Vec::<String>::new());
}

#[test]
fn the_operator_opening_a_socket_is_refused() {
    refused(&[LIB, ("src/operator/mod.rs", "//! O\nuse tokio::net::TcpStream;")], "TcpStream");
    refused(&[LIB, ("src/operator/mod.rs", "//! O\nuse crate::client::Client;")], "operator may not name client");
}

#[test]
fn a_room_that_says_nothing_of_itself_is_refused() {
    refused(&[LIB, ("src/auth/mod.rs", "use crate::mqtt;")], "src/auth/mod.rs:1: begins without `//!`");
}

#[test]
fn an_unknown_or_vague_name_is_refused() {
    refused(&[("src/cellar/mod.rs", "//! C")], "cellar is not in the table of rooms");
    refused(&[("src/auth/utils.rs", "")], "src/auth/utils.rs: a name that says nothing");
    refused(&[("src/common/mod.rs", "//! C")], "a name that says nothing");
}

#[test]
fn an_orphan_is_refused() {
    refused(&[LIB, ("src/auth/mod.rs", "//! A\npub mod key;"), ("src/auth/lost.rs", "")], "src/auth/lost.rs: no `mod`");
    let inner =
        [LIB, ("src/auth/mod.rs", "//! A\npub mod key;"), ("src/auth/key.rs", "mod jwk;"), ("src/auth/key/jwk.rs", "")];
    assert!(problems(&inner).iter().all(|line| !line.contains("no `mod`")), "{:?}", problems(&inner));
    let path =
        [("tests/it/main.rs", "#[path = \"../support/mod.rs\"]\nmod support;"), ("tests/support/mod.rs", "//! S")];
    assert_eq!(problems(&path), Vec::<String>::new());
}

#[test]
fn length_without_a_reason_is_refused() {
    let body = "    let _ = 1;\n".repeat(61);
    let long = format!("//! A\nfn f<T>(a: [u8; 2]) -> T where T: Sized {{\n{body}}}\n");
    refused(&[LIB, ("src/auth/mod.rs", &long)], "src/auth/mod.rs:2: function f has 61 lines");
    let excused = long.replace("fn f", "#[expect(clippy::too_many_lines, reason = \"one table\")]\nfn f");
    assert!(problems(&[LIB, ("src/auth/mod.rs", &excused)]).iter().all(|line| !line.contains("function f")));
    let padded = format!("//! A\nfn f() {{\n{}}}\n", "    // why\n".repeat(61));
    assert!(problems(&[LIB, ("src/auth/mod.rs", &padded)]).iter().all(|line| !line.contains("function f")));

    let tall = format!("//! A\n{}", "use crate::mqtt;\n".repeat(700));
    refused(&[LIB, ("src/auth/mod.rs", &tall)], "src/auth/mod.rs: 701 lines");
    let excused = format!("//! A\n// Over 700 lines: one table.\n{}", "use crate::mqtt;\n".repeat(700));
    assert!(problems(&[LIB, ("src/auth/mod.rs", &excused)]).iter().all(|line| !line.contains("701 lines")));
}
