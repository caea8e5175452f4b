//! Rust source as the rules see it: tokens with their lines, without comments.

use std::fs;
use std::path::Path;

/// One file.
#[derive(Debug)]
pub struct Source {
    /// Relative to the package, with `/`.
    pub path: String,
    pub text: String,
    pub tokens: Vec<Token>,
}

/// An identifier, `::`, a punctuation character, or a string literal with its quotes.
#[derive(Clone, Debug)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into(), tokens: tokens(text) }
    }

    /// The folder below `src`, when the file is in one.
    pub fn room(&self) -> Option<&str> {
        let (room, _) = self.path.strip_prefix("src/")?.split_once('/')?;
        (room != "bin").then_some(room)
    }

    /// The tokens outside `#[cfg(test)]`; none in a file of tests.
    pub fn outside_tests(&self) -> Vec<Token> {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return Vec::new();
        }
        let mut kept = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            if starts(&self.tokens[at..], &["#", "[", "cfg", "(", "test", ")", "]"]) {
                at = end_of_item(&self.tokens, at + 7);
            } else {
                kept.push(self.tokens[at].clone());
                at += 1;
            }
        }
        kept
    }
}

/// Whether the tokens begin with these.
pub fn starts(tokens: &[Token], expected: &[&str]) -> bool {
    tokens.len() >= expected.len() && tokens.iter().zip(expected).all(|(token, text)| token.text == *text)
}

/// The index after the brace that closes the one at `open`.
pub fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => return at + 1,
            "}" => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The index after the item that begins at `at`: its `;`, or its block.
fn end_of_item(tokens: &[Token], at: usize) -> usize {
    match tokens[at..].iter().position(|token| token.text == "{" || token.text == ";") {
        Some(offset) if tokens[at + offset].text == "{" => closing(tokens, at + offset),
        Some(offset) => at + offset + 1,
        None => tokens.len(),
    }
}

/// Every `.rs` file below the folders, in order.
pub fn read_all(root: &Path, folders: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in folders {
        walk(&root.join(folder), &mut paths);
    }
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Source::new(&path.strip_prefix(root).unwrap().to_string_lossy(), &text)
    };
    paths.iter().map(read).collect()
}

fn walk(folder: &Path, paths: &mut Vec<std::path::PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            walk(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let end = at + length(&text[at..]);
        let piece = &text[at..end];
        let comment = piece.starts_with("//") || piece.starts_with("/*");
        if !comment && !piece.trim().is_empty() {
            found.push(Token { text: piece.into(), line });
        }
        line += piece.matches('\n').count();
        at = end;
    }
    found
}

/// The length of the token, comment or white space at the start of a text that is not empty.
fn length(text: &str) -> usize {
    let first = text.chars().next().expect("the text is not empty");
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    if let Some(length) = string(text) {
        return length;
    }
    if first == '\'' {
        return quote(text);
    }
    if first.is_alphanumeric() || first == '_' {
        return text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    }
    if text.starts_with("::") { 2 } else { first.len_utf8() }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    loop {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += text[at..].chars().next().map_or(0, char::len_utf8);
        }
        if depth == 0 || at >= text.len() {
            return at;
        }
    }
}

/// The length of a string literal, raw or not, with its prefix.
fn string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let rest = text.strip_prefix(prefix).map(|rest| rest.trim_start_matches('#'));
        rest.is_some_and(|rest| rest.starts_with('"'))
            && (prefix.contains('r') || !text[prefix.len()..].starts_with('#'))
    })?;
    let body = &text[prefix.len()..];
    let hashes = body.find('"')?;
    let open = prefix.len() + hashes + 1;
    if prefix.contains('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        return Some(text[open..].find(&close).map_or(text.len(), |at| open + at + close.len()));
    }
    let mut escaped = false;
    for (at, c) in text[open..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(open + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// The length of a character literal or of a lifetime.
fn quote(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(text.len(), |at| at + 4),
        Some((_, c)) if text[1 + c.len_utf8()..].starts_with('\'') => 2 + c.len_utf8(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn strings_comments_and_lifetimes_are_told_apart() {
        let text =
            "fn a<'x>(c: &'x str) /* { /* } */ */ { '{'; '\\''; b\"}\"; r#\"\"}\"#; a::b } // }\n/// crate::x\nend";
        let found: Vec<String> = tokens(text).into_iter().map(|token| token.text).collect();
        assert_eq!(found.iter().filter(|text| *text == "{" || *text == "}").count(), 2, "{found:?}");
        assert_eq!(tokens(text).last().map(|token| (token.text.clone(), token.line)), Some(("end".into(), 3)));
        assert!(!found.contains(&"crate".to_string()));
    }
}
