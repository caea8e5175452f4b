//! Tokens that are taken back before they expire: one entry per file, its name says what, its content when.
//!
//! | name | content | refused |
//! |---|---|---|
//! | `jti.<id>` | when that token has expired at the latest | the token with this `jti` |
//! | `sub.<subject>` | a time | tokens of this subject that were issued then or before |
//! | `before` | a time | all tokens of this broker's own issuer that were issued then or before |
//!
//! Times are decimal seconds of Unix time. In a name, bytes other than letters, digits, `-` and `.` are `_` and two
//! lower-case hexadecimal digits. A token of another issuer is named `<issuer>#<id>` and `<issuer>#<subject>`.

use std::collections::HashMap;
use std::fmt::Write;

use super::token::LEEWAY;

/// Bytes of the longest name that a key of a Secret may have.
pub const MAX_NAME: usize = 253;

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entry {
    /// One token, by its `jti`.
    Token(String),
    /// The tokens of a subject, up to a time.
    Subject(String),
    /// All own tokens, up to a time.
    Before,
}

/// Why an entry cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    #[error("revocation {0:?}: its name is neither `jti.…` nor `sub.…` nor `before`")]
    Kind(String),
    #[error("revocation {0:?}: nothing follows the point")]
    Empty(String),
    #[error(
        "revocation {0:?}: only letters, digits, `-`, `.` and `_` with two lower-case hexadecimal digits may stand in its name"
    )]
    Escape(String),
    #[error("revocation {0:?}: its content is not a time in seconds since 1970")]
    Time(String),
    #[error(
        "revocation of {0:?}: its name would be longer than {MAX_NAME} bytes; revoke by another id, or with `before`"
    )]
    TooLong(String),
}

impl Entry {
    /// The name of the file, or of the key in the Secret, that holds the entry.
    pub fn name(&self) -> Result<String, RevocationError> {
        let (kind, text) = match self {
            Self::Token(text) => ("jti", text),
            Self::Subject(text) => ("sub", text),
            Self::Before => return Ok("before".to_owned()),
        };
        if text.is_empty() {
            return Err(RevocationError::Empty(format!("{kind}.")));
        }
        let name = format!("{kind}.{}", escape(text));
        if name.len() > MAX_NAME { Err(RevocationError::TooLong(text.clone())) } else { Ok(name) }
    }

    /// What a name says.
    pub fn parse(name: &str) -> Result<Self, RevocationError> {
        let (kind, escaped): (fn(String) -> Self, _) = match name.split_once('.') {
            None if name == "before" => return Ok(Self::Before),
            Some(("jti", escaped)) => (Self::Token, escaped),
            Some(("sub", escaped)) => (Self::Subject, escaped),
            _ => return Err(RevocationError::Kind(name.to_owned())),
        };
        if escaped.is_empty() {
            return Err(RevocationError::Empty(name.to_owned()));
        }
        unescape(escaped).map(kind).ok_or_else(|| RevocationError::Escape(name.to_owned()))
    }

    /// The second of Unix time from which on the entry refuses nothing that is not refused anyway, when `time` is its
    /// content and no token is accepted that lives longer than `max_ttl` seconds.
    pub fn over_at(&self, time: u64, max_ttl: u64) -> u64 {
        let last_expiry = match self {
            Self::Token(_) => time,
            Self::Subject(_) | Self::Before => time.saturating_add(max_ttl),
        };
        // The clock of a broker may be behind that of whoever takes the entry away.
        last_expiry.saturating_add(LEEWAY)
    }
}

/// A text as it stands in a name.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' => escaped.push(byte.into()),
            // Writing to a text cannot fail.
            _ => _ = write!(escaped, "_{byte:02x}"),
        }
    }
    escaped
}

/// The text that stands in a name; nothing if [`escape`] would not write it so.
pub fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'_' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| escape(text) == escaped)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The content of an entry.
pub fn parse_time(name: &str, content: &[u8]) -> Result<u64, RevocationError> {
    let wrong = || RevocationError::Time(name.to_owned());
    let text = std::str::from_utf8(content).map_err(|_| wrong())?;
    let digits = text.strip_suffix('\n').unwrap_or(text);
    // `parse` alone would take a sign.
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().map_err(|_| wrong()) } else { Err(wrong()) }
}

/// Which entry refuses a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    Token,
    Subject,
    Before,
}

impl std::fmt::Display for Revoked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token => "the token is revoked",
            Self::Subject => "the token is revoked: those that its subject had by then are",
            Self::Before => "the token is revoked: all that were issued by then are",
        })
    }
}

/// What of a verified token decides whether it is revoked.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Absent means this broker's own.
    pub issuer: Option<&'a str>,
    pub subject: &'a str,
    pub jti: Option<&'a str>,
    /// Unix time in seconds.
    pub issued_at: u64,
}

/// The entries in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    tokens: HashMap<String, u64>,
    subjects: HashMap<String, u64>,
    before: Option<u64>,
}

impl Revocations {
    /// Reads entries, given as names and contents. One that cannot be understood is an error: it may be the one that
    /// matters.
    pub fn parse<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, RevocationError> {
        let mut all = Self::default();
        for (name, content) in entries {
            let (entry, time) = (Entry::parse(name)?, parse_time(name, content)?);
            match entry {
                Entry::Token(jti) => _ = all.tokens.insert(jti, time),
                Entry::Subject(subject) => _ = all.subjects.insert(subject, time),
                Entry::Before => all.before = Some(time),
            }
        }
        Ok(all)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tokens.len() + self.subjects.len() + usize::from(self.before.is_some())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a token is refused, and by which entry.
    pub fn refuses(&self, token: &Facts<'_>) -> Option<Revoked> {
        if self.is_empty() {
            return None;
        }
        let qualified = |name: &str| match token.issuer {
            None => name.to_owned(),
            Some(issuer) => format!("{issuer}#{name}"),
        };
        if token.jti.is_some_and(|jti| self.tokens.contains_key(&qualified(jti))) {
            Some(Revoked::Token)
        } else if self.subjects.get(&qualified(token.subject)).is_some_and(|until| token.issued_at <= *until) {
            Some(Revoked::Subject)
        } else if token.issuer.is_none() && self.before.is_some_and(|until| token.issued_at <= until) {
            Some(Revoked::Before)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: Facts<'_> = Facts { issuer: None, subject: "dev1", jti: Some("01J"), issued_at: 100 };

    fn parse(entries: &[(&str, &str)]) -> Result<Revocations, RevocationError> {
        Revocations::parse(entries.iter().map(|(name, content)| (*name, content.as_bytes())))
    }

    fn refuses(entries: &[(&str, &str)], token: &Facts<'_>) -> Option<Revoked> {
        parse(entries).unwrap().refuses(token)
    }

    #[test]
    fn a_token_is_refused_by_its_id_whatever_the_time() {
        assert_eq!(refuses(&[("jti.01J", "0")], &OWN), Some(Revoked::Token));
        assert_eq!(refuses(&[("jti.01K", "999")], &OWN), None);
        assert_eq!(refuses(&[("jti.01J", "0")], &Facts { jti: None, ..OWN }), None);
    }

    #[test]
    fn a_subject_loses_the_tokens_that_it_had_by_then_and_may_have_new_ones() {
        assert_eq!(refuses(&[("sub.dev1", "100\n")], &OWN), Some(Revoked::Subject));
        assert_eq!(refuses(&[("sub.dev1", "99")], &OWN), None, "issued later");
        assert_eq!(refuses(&[("sub.dev2", "100")], &OWN), None, "somebody else's");
    }

    #[test]
    fn all_own_tokens_up_to_a_time_can_be_refused() {
        assert_eq!(refuses(&[("before", "100")], &OWN), Some(Revoked::Before));
        assert_eq!(refuses(&[("before", "99")], &OWN), None);
        assert_eq!(refuses(&[("before", "100")], &Facts { issuer: Some("https://idp"), ..OWN }), None);
    }

    #[test]
    fn a_token_of_another_issuer_is_named_with_its_issuer() {
        let foreign = Facts { issuer: Some("https://idp"), ..OWN };
        let by = |entry: Entry| refuses(&[(&entry.name().unwrap(), "100")], &foreign);
        assert_eq!(by(Entry::Token("01J".into())), None, "an id is unique for its issuer alone");
        assert_eq!(by(Entry::Subject("dev1".into())), None);
        assert_eq!(by(Entry::Token("https://idp#01J".into())), Some(Revoked::Token));
        assert_eq!(by(Entry::Subject("https://idp#dev1".into())), Some(Revoked::Subject));
    }

    #[test]
    fn what_cannot_be_understood_is_an_error_that_names_the_entry() {
        for name in ["jti", "jti.", "sub.", "sub.a b", "sub._4", "sub._4G", "sub._4A", "sub._41", "kid.x", "Before", ""]
        {
            let error = parse(&[("before", "1"), (name, "1")]).unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
        for content in ["", "\n", "x", "-1", "+1", "1.5", " 1", "1\n\n", "1\r\n", "18446744073709551616"] {
            let error = parse(&[("before", content)]).unwrap_err();
            assert_eq!(error, RevocationError::Time("before".into()), "{content:?}");
        }
    }

    #[test]
    fn a_name_that_no_secret_could_have_is_refused_with_a_way_out() {
        let long = Entry::Subject("_".repeat(100)).name().unwrap_err();
        assert!(long.to_string().contains("`before`"), "{long}");
        assert!(Entry::Token(String::new()).name().is_err());
    }

    #[test]
    fn an_entry_is_over_when_every_token_that_it_refuses_has_expired() {
        assert_eq!(Entry::Token("x".into()).over_at(1000, 600), 1000 + LEEWAY);
        assert_eq!(Entry::Subject("x".into()).over_at(1000, 600), 1600 + LEEWAY);
        assert_eq!(Entry::Before.over_at(u64::MAX, 600), u64::MAX);
    }

    proptest! {
        #[test]
        fn a_text_comes_back_from_its_name(text in "\\PC{1,60}") {
            let entry = Entry::Subject(text.clone());
            if let Ok(name) = entry.name() {
                prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)));
                prop_assert_eq!(Entry::parse(&name), Ok(entry));
            }
            prop_assert_eq!(unescape(&escape(&text)), Some(text));
        }

        #[test]
        fn one_text_has_one_name(name in "[A-Za-z0-9_.-]{1,30}") {
            if let Some(text) = unescape(&name) {
                prop_assert_eq!(escape(&text), name);
            }
        }
    }
}
