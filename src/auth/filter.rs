//! Topic filters as sets of topics: does one contain another, do two have a topic in common.
//!
//! A subscription is permitted only by a filter that *covers* it, and forbidden by one that merely *overlaps* it.
//! Matching, the question that a topic name asks, answers neither: `+` matches the text `#`.

/// One level of a filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// This text.
    Literal(Box<str>),
    /// `+`: any level; as the first one, any that does not begin with `$` `[MQTT-4.7.2-1]`.
    Plus,
    /// Any level, `$` included. Only a deny rule has it, where the value of a placeholder cannot be used.
    Any,
}

impl Level {
    fn matches(&self, text: &[u8], first: bool) -> bool {
        match self {
            Self::Literal(literal) => literal.as_bytes() == text,
            Self::Plus => !(first && text.first() == Some(&b'$')),
            Self::Any => true,
        }
    }

    fn covers(&self, other: &Self, first: bool) -> bool {
        match (self, other) {
            (_, Self::Literal(text)) => self.matches(text.as_bytes(), first),
            (Self::Literal(_), _) => false,
            (Self::Plus, Self::Plus) | (Self::Any, _) => true,
            (Self::Plus, Self::Any) => !first,
        }
    }

    fn overlaps(&self, other: &Self, first: bool) -> bool {
        match (self, other) {
            (_, Self::Literal(text)) => self.matches(text.as_bytes(), first),
            (Self::Literal(text), _) => other.matches(text.as_bytes(), first),
            _ => true,
        }
    }
}

/// A filter in canonical form: some levels, and whether any number of further ones may follow.
///
/// `a/#` is the level `a` with a tail. `#` is `+` with a tail, because every topic has a first level; so `+/#` and `#`
/// are equal, as the sets of topics that they stand for are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    levels: Box<[Level]>,
    tail: bool,
}

/// Why a text is not a topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("is empty")]
    Empty,
    #[error("`#` stands only alone and as the last level")]
    Hash,
    #[error("`+` stands only alone in its level")]
    Plus,
    #[error("contains the character U+0000")]
    Null,
    #[error("is longer than 65535 bytes")]
    Long,
}

impl Filter {
    /// Reads a topic filter.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        if text.len() > usize::from(u16::MAX) {
            return Err(FilterError::Long);
        }
        let (head, tail) = split_tail(text);
        let levels = head.map_or_else(|| Ok(Vec::new()), |head| head.split('/').map(level).collect())?;
        Ok(Self::new(levels, tail))
    }

    /// A filter of these levels, followed by `#` if `tail`.
    pub(super) fn new(mut levels: Vec<Level>, tail: bool) -> Self {
        if levels.is_empty() {
            levels.push(Level::Plus);
        }
        Self { levels: levels.into_boxed_slice(), tail }
    }

    /// Whether the topic name is in the set. A text with a wildcard is not a topic name, and in no set.
    pub fn matches(&self, topic: &str) -> bool {
        let mut names = topic.as_bytes().split(|byte| *byte == b'/');
        for (index, level) in self.levels.iter().enumerate() {
            match names.next() {
                Some(name) if level.matches(name, index == 0) => {}
                _ => return false,
            }
        }
        (self.tail || names.next().is_none()) && !topic.bytes().any(|byte| matches!(byte, b'+' | b'#'))
    }

    /// Whether every topic of `other` is one of `self`.
    pub fn covers(&self, other: &Self) -> bool {
        let lengths = if self.tail {
            other.levels.len() >= self.levels.len()
        } else {
            !other.tail && other.levels.len() == self.levels.len()
        };
        lengths && self.pairs(other).all(|(first, a, b)| a.covers(b, first))
    }

    /// Whether a topic exists that is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.levels.len(), other.levels.len());
        let lengths = match (self.tail, other.tail) {
            (false, false) => mine == theirs,
            (true, false) => theirs >= mine,
            (false, true) => mine >= theirs,
            (true, true) => true,
        };
        lengths && self.pairs(other).all(|(first, a, b)| a.overlaps(b, first))
    }

    fn pairs<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (bool, &'a Level, &'a Level)> {
        self.levels.iter().zip(&other.levels).enumerate().map(|(index, (a, b))| (index == 0, a, b))
    }
}

/// The text before a final level `#`, if there is any, and whether there is that level.
pub(super) fn split_tail(text: &str) -> (Option<&str>, bool) {
    match text.strip_suffix('#') {
        Some("") => (None, true),
        Some(head) => head.strip_suffix('/').map_or((Some(text), false), |head| (Some(head), true)),
        None => (Some(text), false),
    }
}

/// One level, which is neither `#` nor contains a `/`.
pub(super) fn level(text: &str) -> Result<Level, FilterError> {
    if text == "+" {
        return Ok(Level::Plus);
    }
    literal(text).map(|()| Level::Literal(text.into()))
}

/// Checks a text that stands for itself in a level.
pub(super) fn literal(text: &str) -> Result<(), FilterError> {
    match text.chars().find(|character| matches!(character, '#' | '+' | '\0')) {
        Some('#') => Err(FilterError::Hash),
        Some('+') => Err(FilterError::Plus),
        Some(_) => Err(FilterError::Null),
        None => Ok(()),
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, level) in self.levels.iter().enumerate() {
            let separator = if index == 0 { "" } else { "/" };
            match level {
                Level::Literal(text) => write!(f, "{separator}{text}")?,
                Level::Plus | Level::Any => write!(f, "{separator}+")?,
            }
        }
        if self.tail { f.write_str("/#") } else { Ok(()) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Every text of one to `depth` levels over the alphabet.
    pub fn texts(alphabet: &[&str], depth: usize) -> Vec<String> {
        let mut all: Vec<String> = alphabet.iter().map(ToString::to_string).collect();
        let mut last = all.clone();
        for _ in 1..depth {
            last = last.iter().flat_map(|head| alphabet.iter().map(move |level| format!("{head}/{level}"))).collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    /// The definition of the specification, on texts, written apart from the code under test.
    fn specification_matches(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => specification_matches(filter, topic),
            ([a, filter @ ..], [b, topic @ ..]) if a == b => specification_matches(filter, topic),
            _ => false,
        }
    }

    /// The topics that a filter stands for.
    pub fn set<'a>(filter: &str, topics: &'a [String]) -> HashSet<&'a str> {
        let levels: Vec<&str> = filter.split('/').collect();
        let wild = matches!(levels[0], "+" | "#");
        topics
            .iter()
            .map(String::as_str)
            .filter(|topic| !(wild && topic.starts_with('$')))
            .filter(|topic| specification_matches(&levels, &topic.split('/').collect::<Vec<_>>()))
            .collect()
    }

    /// Compares with sets of topics one level deeper than any filter, over an alphabet with a letter (`x`) that no
    /// filter names, so that a wildcard and the list of all named letters differ.
    fn compare_with_sets(filter_alphabet: &[&str], topic_alphabet: &[&str]) -> (usize, usize, usize) {
        let topics = texts(topic_alphabet, 4);
        let filters: Vec<(Filter, HashSet<&str>, String)> = texts(filter_alphabet, 3)
            .into_iter()
            .filter_map(|text| Some((Filter::parse(&text).ok()?, set(&text, &topics), text)))
            .collect();
        let (mut covered, mut overlapping) = (0, 0);
        for (a, topics_a, text_a) in &filters {
            for topic in &topics {
                assert_eq!(a.matches(topic), topics_a.contains(topic.as_str()), "{text_a} matches {topic}");
            }
            for (b, topics_b, text_b) in &filters {
                assert_eq!(a.covers(b), topics_b.is_subset(topics_a), "{text_a} covers {text_b}");
                assert_eq!(a.overlaps(b), !topics_b.is_disjoint(topics_a), "{text_a} overlaps {text_b}");
                covered += usize::from(a.covers(b));
                overlapping += usize::from(a.overlaps(b));
            }
        }
        (filters.len(), covered, overlapping)
    }

    #[test]
    fn covers_and_overlaps_agree_with_sets_of_topics() {
        let (filters, covered, overlapping) = compare_with_sets(&["a", "b", "c", "+", "#"], &["a", "b", "c", "x"]);
        assert_eq!((filters, covered, overlapping), (105, 981, 2929));
    }

    #[test]
    fn covers_and_overlaps_agree_with_sets_of_topics_that_begin_with_a_dollar() {
        compare_with_sets(&["$s", "a", "", "+", "#"], &["$s", "$x", "a", "", "x"]);
    }

    fn filter(text: &str) -> Filter {
        Filter::parse(text).unwrap()
    }

    #[test]
    fn plus_slash_hash_and_hash_are_the_same_filter() {
        assert_eq!(filter("+/#"), filter("#"));
        assert!(filter("+/#").covers(&filter("#")));
    }

    #[test]
    fn a_filter_with_a_tail_matches_its_parent() {
        assert!(filter("sport/tennis/#").matches("sport/tennis"));
        assert!(!filter("sport/tennis/+").matches("sport/tennis"));
        assert!(filter("sport/tennis/+").matches("sport/tennis/"));
    }

    #[test]
    fn a_wildcard_never_stands_for_a_first_level_with_a_dollar() {
        for wild in ["#", "+/#", "+/broker/#", "+/broker/uptime"] {
            assert!(!filter(wild).matches("$SYS/broker/uptime"), "{wild}");
            assert!(!filter(wild).covers(&filter("$SYS/broker/uptime")), "{wild}");
            assert!(!filter(wild).overlaps(&filter("$SYS/broker/uptime")), "{wild}");
        }
        assert!(filter("$SYS/#").covers(&filter("$SYS/+/uptime")));
        assert!(filter("a/+").matches("a/$b"));
    }

    #[test]
    fn a_text_with_a_wildcard_is_no_topic_name() {
        for topic in ["a/+", "a/#", "a/b+", "#"] {
            assert!(!filter("#").matches(topic), "{topic}");
            assert!(!filter("a/+").matches(topic), "{topic}");
        }
    }

    #[test]
    fn malformed_filters_are_refused() {
        for (text, error) in [
            ("", FilterError::Empty),
            ("a#", FilterError::Hash),
            ("a/#/b", FilterError::Hash),
            ("#/", FilterError::Hash),
            ("##", FilterError::Hash),
            ("a/b#", FilterError::Hash),
            ("a+/b", FilterError::Plus),
            ("++", FilterError::Plus),
            ("a\0b", FilterError::Null),
        ] {
            assert_eq!(Filter::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn any_level_covers_and_overlaps_a_first_level_with_a_dollar() {
        let any = Filter::new(vec![Level::Any], true);
        assert!(any.covers(&filter("$SYS/#")) && any.overlaps(&filter("$SYS/x")) && any.matches("$SYS"));
        assert!(any.covers(&filter("#")) && !filter("#").covers(&any));
    }
}
