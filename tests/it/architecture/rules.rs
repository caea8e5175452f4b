//! The rules, as data first.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, Token, closing, starts};

/// Each room and the rooms that it may name. `auth::rule` means that part of `auth` alone.
const ROOMS: &[(&str, &[&str])] = &[
    ("mqtt", &[]),
    ("api", &["auth::rule"]),
    ("process", &[]),
    ("auth", &["mqtt"]),
    ("config", &["mqtt", "auth"]),
    ("plan", &["api", "auth", "config", "mqtt"]),
    ("store", &["mqtt"]),
    ("broker", &["mqtt", "auth", "config", "store", "process"]),
    ("client", &["mqtt"]),
    ("bridge", &["mqtt", "client", "config", "process", "auth::admin"]),
    ("operator", &["api", "plan", "config", "auth", "mqtt", "process"]),
    ("local", &["api", "plan", "config", "auth", "broker", "bridge", "process"]),
    ("bench", &["mqtt", "client", "auth"]),
    (
        "cli",
        &[
            "mqtt", "api", "process", "auth", "config", "plan", "broker", "client", "bridge", "operator", "local",
            "bench",
        ],
    ),
];

/// The rooms that may name the Kubernetes crates.
const KUBERNETES: &[&str] = &["api", "operator", "cli"];

/// Rooms and files that get the time and random bytes as arguments, and do no I/O.
const PURE: &[&str] = &[
    "src/mqtt/",
    "src/auth/",
    "src/api/",
    "src/config/",
    "src/plan/",
    "src/bridge/backoff.rs",
    "src/bridge/batch.rs",
    "src/bridge/document.rs",
    "src/bridge/outcome.rs",
    "src/bridge/template.rs",
    "src/broker/denies.rs",
    "src/broker/frames.rs",
    "src/broker/guard.rs",
    "src/broker/issuers/pace.rs",
    "src/broker/limiter.rs",
    "src/broker/proxy.rs",
    "src/broker/validity.rs",
    "src/broker/router.rs",
    "src/broker/upgrade.rs",
    "src/operator/build/",
    "src/operator/denies.rs",
    "src/operator/status/",
    "src/store/journal/frame.rs",
    "src/store/journal/index.rs",
    "src/store/journal/index/",
    "src/store/journal/record.rs",
    "src/store/journal/record/",
    "src/store/journal/report.rs",
];

/// What a pure source does not say.
const IMPURE: &[&[&str]] = &[
    &["tokio"],
    &["SystemTime", "::", "now"],
    &["Instant", "::", "now"],
    &["Timestamp", "::", "now"],
    &["Zoned", "::", "now"],
    &["UNIX_EPOCH", ".", "elapsed"],
    &["Ulid", "::", "new"],
    &["Ulid", "::", "generate"],
    &["rand", "::"],
    &["getrandom"],
    &["SystemRandom"],
    &["OsRng"],
    &["std", "::", "fs"],
    &["std", "::", "env"],
    &["std", "::", "thread"],
    &["TcpStream"],
    &["TcpListener"],
    &["UdpSocket"],
];

/// Sockets, which the operator never opens itself: it speaks to the API server and to admin ports, over HTTP.
const SOCKETS: &[&str] = &["TcpStream", "TcpSocket", "UdpSocket", "UnixStream"];

/// Names that say nothing.
const VAGUE: &[&str] = &["utils", "util", "common", "types", "helpers", "helper", "misc"];

const FUNCTION_LINES: usize = 60;
const FILE_LINES: usize = 700;
const BIN_LINES: usize = 40;

/// The lines about everything that breaks a rule.
pub fn check(sources: &[Source]) -> Vec<String> {
    let mut lines = tables(sources);
    for source in sources {
        lines.extend(names(source));
        lines.extend(edges(source));
        lines.extend(kubernetes(source));
        lines.extend(purity(source));
        lines.extend(sockets(source));
        lines.extend(long(source));
        lines.extend(functions(source));
    }
    lines.extend(orphans(sources));
    lines
}

/// The tables against what is there: a rule about a file that was moved must not stay silent.
fn tables(sources: &[Source]) -> Vec<String> {
    let there: BTreeSet<&str> = sources.iter().filter_map(Source::room).collect();
    let known: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    let mut lines: Vec<String> =
        there.difference(&known).map(|room| format!("src/{room}: {room} is not in the table of rooms")).collect();
    lines.extend(known.difference(&there).map(|room| format!("src/{room}: no such room, but the table has it")));
    for pure in PURE {
        if !sources.iter().any(|source| source.path.starts_with(pure)) {
            lines.push(format!("{pure}: no such file, but the table of pure files has it"));
        }
    }
    lines
}

fn names(source: &Source) -> Vec<String> {
    let mut lines = Vec::new();
    let parts = source.path.trim_end_matches(".rs").split('/');
    if source.path.starts_with("src/") && parts.into_iter().any(|part| VAGUE.contains(&part)) {
        lines.push(format!("{}: a name that says nothing; a type lives in the lowest room that needs it", source.path));
    }
    let front = source.path.split('/').count() == 3 && source.path.ends_with("/mod.rs");
    if source.room().is_some() && front && !source.text.starts_with("//!") {
        lines.push(format!("{}:1: begins without `//!`: what does the room promise?", source.path));
    }
    lines
}

fn edges(source: &Source) -> Vec<String> {
    let Some(room) = source.room() else { return Vec::new() };
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else { return Vec::new() };
    let mut lines = Vec::new();
    for (path, line) in crate_paths(source) {
        let target = path[0].as_str();
        if target == room || !ROOMS.iter().any(|(name, _)| *name == target) || allowed.contains(&target) {
            continue;
        }
        let part = path[..path.len().min(2)].join("::");
        if !allowed.contains(&part.as_str()) {
            let named =
                if allowed.iter().any(|name| name.starts_with(&format!("{target}::"))) { &part } else { target };
            lines.push(format!("{}:{line}: {room} may not name {named}", source.path));
        }
    }
    lines
}

/// The paths from the root of the library that a source names, without `crate`.
fn crate_paths(source: &Source) -> Vec<(Vec<String>, usize)> {
    let tokens = &source.tokens;
    let depth = source.path.trim_end_matches("/mod.rs").split('/').count() - 1;
    let mut paths = Vec::new();
    for at in 0..tokens.len() {
        let mut next = at;
        if tokens[at].text == "super" && (at == 0 || tokens[at - 1].text != "::") {
            let mut levels = 0;
            while starts(&tokens[next..], &["super", "::"]) {
                levels += 1;
                next += 2;
            }
            if levels < depth {
                continue;
            }
        } else if starts(&tokens[at..], &["crate", "::"]) {
            next += 2;
        } else {
            continue;
        }
        if tokens.get(next).is_some_and(|token| token.text == "{") {
            paths.extend(group(tokens, next));
        } else {
            paths.push(path_at(tokens, next));
        }
    }
    paths.retain(|(path, _)| !path.is_empty());
    paths
}

/// The paths of `{a::b, c}`, one level deep.
fn group(tokens: &[Token], open: usize) -> Vec<(Vec<String>, usize)> {
    let (mut paths, mut depth) = (Vec::new(), 0);
    for at in open..closing(tokens, open) {
        match tokens[at].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        let begins = (tokens[at].text == "{" && at == open) || tokens[at].text == ",";
        if depth == 1 && begins {
            paths.push(path_at(tokens, at + 1));
        }
    }
    paths
}

fn path_at(tokens: &[Token], at: usize) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    let mut next = at;
    while let Some(token) = tokens.get(next).filter(|token| token.text.starts_with(|c: char| c.is_alphabetic())) {
        path.push(token.text.clone());
        if tokens.get(next + 1).is_none_or(|token| token.text != "::") {
            break;
        }
        next += 2;
    }
    (path, tokens.get(at).map_or(0, |token| token.line))
}

fn kubernetes(source: &Source) -> Vec<String> {
    let Some(room) = source.room().filter(|room| !KUBERNETES.contains(room)) else { return Vec::new() };
    let named = |token: &&Token| token.text == "kube" || token.text == "k8s_openapi";
    let line = |token: &Token| format!("{}:{}: {room} may not name {}", source.path, token.line, token.text);
    source.tokens.iter().filter(named).map(line).collect()
}

fn purity(source: &Source) -> Vec<String> {
    if !PURE.iter().any(|pure| source.path.starts_with(pure)) {
        return Vec::new();
    }
    let tokens = source.outside_tests();
    let mut lines = Vec::new();
    for at in 0..tokens.len() {
        for impure in IMPURE.iter().filter(|impure| starts(&tokens[at..], impure)) {
            let what = impure.concat();
            let line = tokens[at].line;
            lines.push(format!("{}:{line}: `{what}` in a pure source; take it as an argument", source.path));
        }
    }
    lines
}

fn sockets(source: &Source) -> Vec<String> {
    if source.room() != Some("operator") {
        return Vec::new();
    }
    let opens = |token: &&Token| SOCKETS.contains(&token.text.as_str());
    let line = |token: &Token| format!("{}:{}: the operator opens no socket: {}", source.path, token.line, token.text);
    source.tokens.iter().filter(opens).map(line).collect()
}

fn long(source: &Source) -> Option<String> {
    let lines = source.text.lines().count();
    if source.path.starts_with("src/bin/") && lines > BIN_LINES {
        return Some(format!("{}: {lines} lines; a program is thin, at most {BIN_LINES}", source.path));
    }
    let excused = source.text.lines().take(20).any(|line| line.starts_with("//") && line.contains("Over 700 lines:"));
    (lines > FILE_LINES && !excused)
        .then(|| format!("{}: {lines} lines; split it, or say why at the top: `// Over 700 lines: …`", source.path))
}

fn functions(source: &Source) -> Vec<String> {
    let tokens = &source.tokens;
    let mut lines = Vec::new();
    for at in 0..tokens.len().saturating_sub(1) {
        if tokens[at].text != "fn" || tokens[at + 1].text == "(" {
            continue;
        }
        let Some(open) = body(tokens, at) else { continue };
        let end = closing(tokens, open) - 1;
        let (first, last) = (tokens[open].line, tokens[end].line);
        let code: BTreeSet<usize> = tokens[open..end].iter().map(|token| token.line).collect();
        let count = code.iter().filter(|line| **line > first && **line < last).count();
        if count > FUNCTION_LINES && !excused(tokens, at) {
            let (name, line) = (&tokens[at + 1].text, tokens[at].line);
            lines.push(format!(
                "{}:{line}: function {name} has {count} lines; split it, or say why: \
                 #[expect(clippy::too_many_lines, reason = \"…\")]",
                source.path
            ));
        }
    }
    lines
}

/// The brace that opens the body of the function at `at`, if it has one.
fn body(tokens: &[Token], at: usize) -> Option<usize> {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            ";" if depth == 0 => return None,
            "{" if depth == 0 => return Some(index),
            _ => {}
        }
    }
    None
}

/// Whether an attribute before the function at `at` allows its length and says why.
fn excused(tokens: &[Token], at: usize) -> bool {
    let before = tokens[..at].iter().rev().take_while(|token| !["}", "{", ";"].contains(&token.text.as_str()));
    let words: Vec<&str> = before.map(|token| token.text.as_str()).collect();
    words.contains(&"too_many_lines") && words.contains(&"reason")
}

fn orphans(sources: &[Source]) -> Vec<String> {
    let by_path: BTreeMap<&str, &Source> = sources.iter().map(|source| (source.path.as_str(), source)).collect();
    let root = |path: &str| path == "src/lib.rs" || path.starts_with("src/bin/") || path.ends_with("/main.rs");
    let mut waiting: Vec<&str> = by_path.keys().copied().filter(|path| root(path)).collect();
    let mut reached = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        if reached.insert(path) {
            waiting.extend(
                modules(by_path[path])
                    .iter()
                    .filter_map(|file| by_path.get_key_value(file.as_str()))
                    .map(|(path, _)| *path),
            );
        }
    }
    let lost = by_path.keys().filter(|path| !reached.contains(*path));
    lost.map(|path| format!("{path}: no `mod` leads to this file")).collect()
}

/// The files that the `mod x;` of a source may mean.
fn modules(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let root = ["mod.rs", "lib.rs", "main.rs"].contains(&file) || folder == "src/bin";
    let below = if root { folder.to_string() } else { format!("{folder}/{}", file.trim_end_matches(".rs")) };
    let mut files = Vec::new();
    for (at, window) in source.tokens.windows(3).enumerate() {
        if window[0].text != "mod" || window[2].text != ";" {
            continue;
        }
        let name = &window[1].text;
        files.extend([format!("{below}/{name}.rs"), format!("{below}/{name}/mod.rs")]);
        if let Some(path) = path_attribute(&source.tokens[..at]) {
            files.push(resolve(folder, path));
        }
    }
    files
}

/// The value of a `#[path = "…"]` among the attributes just before.
fn path_attribute(before: &[Token]) -> Option<&str> {
    let end = before.iter().rposition(|token| [";", "}", "{"].contains(&token.text.as_str())).map_or(0, |at| at + 1);
    let at = (end..before.len()).find(|at| starts(&before[*at..], &["path", "="]))?;
    Some(before.get(at + 2)?.text.trim_matches('"'))
}

fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}
