//! Topic filters as sets of topics: does one contain another, do two have a topic in common.
//!
//! A subscription is permitted only by a filter that *covers* it, and forbidden by one that merely *overlaps* it.
//! Matching, the question that a topic name asks, answers neither: `+` matches the text `#`. Where the answer forbids
//! something, a *witness* shows why: a topic of one set that is not in the other, or one that is in both.

use std::ops::Deref;

/// The level that stands for [`Level::Any`] in a filter's text: no filter and no topic that a client sends contains it.
const ANY: &str = "\0";

/// One level of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level<'a> {
    /// This text.
    Literal(&'a str),
    /// `+`: any level; as the first one, any that does not begin with `$` `[MQTT-4.7.2-1]`.
    Plus,
    /// Any level, `$` included. Only a deny rule has it, where the value of a placeholder cannot be used.
    Any,
}

impl<'a> Level<'a> {
    fn of(text: &'a str) -> Self {
        match text {
            "+" => Self::Plus,
            ANY => Self::Any,
            text => Self::Literal(text),
        }
    }

    fn matches(self, text: &str, first: bool) -> bool {
        match self {
            Self::Literal(literal) => literal == text,
            Self::Plus => !(first && text.starts_with('$')),
            Self::Any => true,
        }
    }

    fn covers(self, other: Self, first: bool) -> bool {
        match (self, other) {
            (_, Self::Literal(text)) => self.matches(text, first),
            (Self::Literal(_), _) => false,
            (Self::Plus, Self::Plus) | (Self::Any, _) => true,
            (Self::Plus, Self::Any) => !first,
        }
    }

    /// What both stand for.
    fn intersection(self, other: Self, first: bool) -> Option<Self> {
        match (self, other) {
            (it, Self::Literal(text)) | (Self::Literal(text), it) => {
                it.matches(text, first).then_some(Self::Literal(text))
            }
            (Self::Any, Self::Any) => Some(Self::Any),
            _ => Some(Self::Plus),
        }
    }

    /// A text that this level stands for, and `other` does not, if there is one; else any that this one stands for.
    fn text_outside(self, other: Option<Self>, first: bool) -> &'a str {
        match (self, other) {
            (Self::Literal(text), _) => text,
            (Self::Any, Some(Self::Plus)) if first => "$a",
            (_, Some(Self::Literal("a"))) => "b",
            _ => "a",
        }
    }

    fn text(self) -> &'a str {
        match self {
            Self::Literal(text) => text,
            Self::Plus => "+",
            Self::Any => ANY,
        }
    }
}

/// A filter in canonical form: some levels, and whether any number of further ones may follow.
///
/// `a/#` is the level `a` with a tail. `#` is `+` with a tail, because every topic has a first level; so `+/#` and `#`
/// are equal, as the sets of topics that they stand for are. `/#` is `/+/#`, because the empty text is no topic.
///
/// Its text is its own, or, as `Filter<&str>`, that of a client that asks: then nothing is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Filter<T = Box<str>> {
    /// The levels, separated by `/`.
    text: T,
    /// The bytes of `text` before the first level that is not a literal.
    literal: u32,
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

impl<'a> Filter<&'a str> {
    /// Reads a topic filter without a copy of it.
    pub fn read(text: &'a str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        if text.len() > usize::from(u16::MAX) {
            return Err(FilterError::Long);
        }
        let (head, tail) = split_tail(text);
        head.into_iter().flat_map(|head| head.split('/')).try_for_each(check_level)?;
        Ok(Self::canonical(head, tail))
    }

    /// The filter of these levels, if there are any.
    fn canonical(head: Option<&'a str>, tail: bool) -> Self {
        let text = match head {
            None => "+",
            Some("") if tail => "/+",
            Some(head) => head,
        };
        let mut next = 0;
        let wild = text.split('/').find_map(|level| {
            let begins = next;
            next += level.len() + 1;
            (!matches!(Level::of(level), Level::Literal(_))).then_some(begins)
        });
        let literal = u32::try_from(wild.unwrap_or(text.len())).expect("a filter is at most a few texts of 64 KiB");
        Self { text, literal, tail }
    }

    fn to_owned(self) -> Filter {
        Filter { text: self.text.into(), literal: self.literal, tail: self.tail }
    }
}

impl Filter {
    /// Reads a topic filter.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        Filter::read(text).map(Filter::<&str>::to_owned)
    }

    /// The filter of texts that [`check_level`] accepts, `None` for any level, followed by `#` if `tail`.
    pub(super) fn new<'a>(levels: impl Iterator<Item = Option<&'a str>>, tail: bool) -> Self {
        Self::from_levels(levels.map(|level| level.map_or(Level::Any, Level::of)), tail)
    }

    fn from_levels<'a>(levels: impl Iterator<Item = Level<'a>>, tail: bool) -> Self {
        let (mut text, mut any) = (String::new(), false);
        for level in levels {
            if any {
                text.push('/');
            }
            text.push_str(level.text());
            any = true;
        }
        Filter::canonical(any.then_some(&*text), tail).to_owned()
    }
}

impl<T: Deref<Target = str>> Filter<T> {
    fn levels(&self) -> impl Iterator<Item = Level<'_>> {
        self.text.split('/').map(Level::of)
    }

    fn depth(&self) -> usize {
        self.levels().count()
    }

    /// The text that every topic of the filter begins with.
    pub(super) fn beginning(&self) -> &str {
        &self.text[..self.literal as usize]
    }

    /// Whether the topic name is in the set. A text with a wildcard is not a topic name, and in no set.
    pub fn matches(&self, topic: &str) -> bool {
        let Some(rest) = topic.strip_prefix(self.beginning()) else { return false };
        let matches = match self.text.get(self.literal as usize..) {
            // Literals alone: the topic ends here, or a level does.
            None | Some("") => rest.is_empty() || (self.tail && rest.starts_with('/')),
            Some(wanted) => self.matches_levels(wanted, rest),
        };
        matches && !topic.bytes().any(|byte| matches!(byte, b'+' | b'#'))
    }

    fn matches_levels(&self, wanted: &str, rest: &str) -> bool {
        let mut first = self.literal == 0;
        let mut names = rest.split('/');
        for level in wanted.split('/') {
            match names.next() {
                Some(name) if Level::of(level).matches(name, first) => first = false,
                _ => return false,
            }
        }
        self.tail || names.next().is_none()
    }

    /// Whether every topic of `other` is one of `self`.
    pub fn covers<U: Deref<Target = str>>(&self, other: &Filter<U>) -> bool {
        self.has_lengths_of(other) && self.pairs(other).all(|(first, a, b)| a.covers(b, first))
    }

    fn has_lengths_of<U: Deref<Target = str>>(&self, other: &Filter<U>) -> bool {
        let (mine, theirs) = (self.depth(), other.depth());
        if self.tail { theirs >= mine } else { !other.tail && theirs == mine }
    }

    /// Whether a topic exists that is in both.
    pub fn overlaps<U: Deref<Target = str>>(&self, other: &Filter<U>) -> bool {
        let (mine, theirs) = (self.depth(), other.depth());
        let lengths = match (self.tail, other.tail) {
            (false, false) => mine == theirs,
            (true, false) => theirs >= mine,
            (false, true) => mine >= theirs,
            (true, true) => true,
        };
        lengths && self.pairs(other).all(|(first, a, b)| a.intersection(b, first).is_some())
    }

    /// Whether both are the same.
    pub fn is<U: Deref<Target = str>>(&self, other: &Filter<U>) -> bool {
        *self.text == *other.text && self.tail == other.tail
    }

    fn pairs<'a, U: Deref<Target = str>>(
        &'a self,
        other: &'a Filter<U>,
    ) -> impl Iterator<Item = (bool, Level<'a>, Level<'a>)> {
        self.levels().zip(other.levels()).enumerate().map(|(index, (a, b))| (index == 0, a, b))
    }
}

impl Filter {
    /// The topics that are in both, as a filter; nothing if there are none.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if !self.overlaps(other) {
            return None;
        }
        // Where one is longer, the other has a tail, which stands for whatever the rest of the longer one does.
        let (long, short) = if self.depth() >= other.depth() { (self, other) } else { (other, self) };
        let both = long.pairs(short).filter_map(|(first, a, b)| a.intersection(b, first));
        Some(Self::from_levels(both.chain(long.levels().skip(short.depth())), self.tail && other.tail))
    }

    /// A topic of `other` that is not one of `self`; nothing if `self` covers `other`.
    pub fn witness_outside(&self, other: &Self) -> Option<String> {
        if self.covers(other) {
            return None;
        }
        let mut mine = self.levels();
        let mut topic = String::new();
        for (index, level) in other.levels().enumerate() {
            topic.push_str(if index == 0 { "" } else { "/" });
            topic.push_str(level.text_outside(mine.next(), index == 0));
        }
        // As long as the filter without a tail, the topic might be in it; one level longer it is not.
        if other.tail && !self.tail && self.depth() == other.depth() {
            topic.push_str("/a");
        }
        Some(topic)
    }

    /// A topic that is in both; nothing if they do not overlap.
    pub fn witness_of_overlap(&self, other: &Self) -> Option<String> {
        let both = self.intersection(other)?;
        let levels: Vec<&str> = both.levels().map(|level| level.text_outside(None, false)).collect();
        Some(levels.join("/"))
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

/// Checks one level, which contains no `/`: `+`, or a text that stands for itself.
pub(super) fn check_level(text: &str) -> Result<(), FilterError> {
    if text == "+" { Ok(()) } else { check_literal(text) }
}

/// Checks a text that stands for itself in a level.
pub(super) fn check_literal(text: &str) -> Result<(), FilterError> {
    match text.chars().find(|character| matches!(character, '#' | '+' | '\0')) {
        Some('#') => Err(FilterError::Hash),
        Some('+') => Err(FilterError::Plus),
        Some(_) => Err(FilterError::Null),
        None => Ok(()),
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&*self.text, self.tail) {
            ("+", true) => return f.write_str("#"),
            ("/+", true) => return f.write_str("/#"),
            _ => {}
        }
        for (index, level) in self.text.split('/').enumerate() {
            f.write_str(if index == 0 { "" } else { "/" })?;
            f.write_str(if level == ANY { "+" } else { level })?;
        }
        if self.tail { f.write_str("/#") } else { Ok(()) }
    }
}

#[cfg(test)]
pub(super) mod tests;
