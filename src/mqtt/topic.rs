//! Topic names and topic filters. Nothing here allocates.

use super::Violation;

/// Longest topic name or filter, in bytes of UTF-8 `[MQTT-4.7.3-3]`.
pub const MAX_LENGTH: usize = 65_535;

const SHARE_PREFIX: &str = "$share/";

/// Whether `name` may be the topic of a message: not empty, at most 65,535 bytes, no `+`, no `#`, no U+0000.
pub fn check_name(name: &str) -> Result<(), Violation> {
    if name.is_empty() {
        return Err(Violation::EmptyTopic);
    }
    if name.len() > MAX_LENGTH {
        return Err(Violation::TopicTooLong { length: name.len() });
    }
    // One pass without branches, which the compiler vectorises; the exact fault is looked for only when there is one.
    if !name.bytes().fold(false, |found, byte| found | forbidden_in_name(byte)) {
        return Ok(());
    }
    match name.bytes().position(|byte| byte == b'+' || byte == b'#') {
        Some(at) => Err(Violation::WildcardInTopicName { at }),
        None => Err(Violation::NullCharacter { field: "topic name" }),
    }
}

/// Whether a topic name or filter has more than `most` levels.
pub fn is_deeper(topic: &str, most: usize) -> bool {
    // A level beyond the first takes a byte, so that most topics need not be looked at.
    topic.len() >= most && topic.bytes().filter(|byte| *byte == b'/').count() >= most
}

fn forbidden_in_name(byte: u8) -> bool {
    matches!(byte, b'+' | b'#' | 0)
}

/// A topic filter as SUBSCRIBE carries it, with the share name of `$share/<name>/<filter>` taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Filter<'a> {
    /// The share name of a shared subscription.
    pub share: Option<&'a str>,
    /// The filter that topics are matched against.
    pub filter: &'a str,
}

impl<'a> Filter<'a> {
    /// Checks the rules for wildcards and share names and takes the filter apart.
    pub fn parse(text: &'a str) -> Result<Self, Violation> {
        if text.len() > MAX_LENGTH {
            return Err(Violation::TopicTooLong { length: text.len() });
        }
        if text.bytes().any(|byte| byte == 0) {
            return Err(Violation::NullCharacter { field: "topic filter" });
        }
        let Some(shared) = text.strip_prefix(SHARE_PREFIX) else {
            check_wildcards(text, 0)?;
            return Ok(Self { share: None, filter: text });
        };
        let (share, filter) = shared.split_once('/').ok_or(Violation::ShareName)?;
        if share.is_empty() {
            return Err(Violation::EmptyShareName);
        }
        if filter.is_empty() || share.contains(['+', '#']) {
            return Err(Violation::ShareName);
        }
        check_wildcards(filter, text.len() - filter.len())?;
        Ok(Self { share: Some(share), filter })
    }
}

/// `base` is where `filter` begins in the text of the peer, so that positions are those of that text.
fn check_wildcards(filter: &str, base: usize) -> Result<(), Violation> {
    if filter.is_empty() {
        return Err(Violation::EmptyFilter);
    }
    let bytes = filter.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let begins_level = at == 0 || bytes[at - 1] == b'/';
        match (byte, bytes.get(at + 1)) {
            (b'#', next) if !begins_level || next.is_some() => {
                return Err(Violation::MultiLevelWildcard { at: base + at });
            }
            (b'+', next) if !begins_level || next.is_some_and(|next| *next != b'/') => {
                return Err(Violation::SingleLevelWildcard { at: base + at });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a message on `topic` belongs to a subscription with `filter` (without its share prefix). Wildcards at the
/// first level never match a topic that begins with `$` `[MQTT-4.7.2-1]`.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_refuse_wildcards_null_and_emptiness() {
        assert_eq!(check_name("a/b//c"), Ok(()));
        assert_eq!(check_name("/"), Ok(()));
        assert_eq!(check_name("Grüße/温度"), Ok(()));
        assert_eq!(check_name(""), Err(Violation::EmptyTopic));
        assert_eq!(check_name("a/+"), Err(Violation::WildcardInTopicName { at: 2 }));
        assert_eq!(check_name("a#"), Err(Violation::WildcardInTopicName { at: 1 }));
        assert_eq!(check_name("a\0"), Err(Violation::NullCharacter { field: "topic name" }));
    }

    #[test]
    fn levels_are_counted_as_separators_cut_them() {
        for (topic, levels) in [("a", 1), ("/", 2), ("a/b", 2), ("//", 3), ("a/b/c/", 4)] {
            assert!(!is_deeper(topic, levels), "{topic}");
            assert!(is_deeper(topic, levels - 1), "{topic}");
        }
    }

    #[test]
    fn names_end_at_65535_bytes() {
        assert_eq!(check_name(&"x".repeat(65_535)), Ok(()));
        assert_eq!(check_name(&"x".repeat(65_536)), Err(Violation::TopicTooLong { length: 65_536 }));
    }

    #[test]
    fn wildcards_must_be_whole_levels() {
        for legal in ["#", "+", "a/#", "+/a/#", "/+", "+/+", "a//b", "/", "$SYS/#", "a/+/"] {
            assert_eq!(Filter::parse(legal), Ok(Filter { share: None, filter: legal }), "{legal}");
        }
        assert_eq!(Filter::parse("a/#/b"), Err(Violation::MultiLevelWildcard { at: 2 }));
        assert_eq!(Filter::parse("a#"), Err(Violation::MultiLevelWildcard { at: 1 }));
        assert_eq!(Filter::parse("##"), Err(Violation::MultiLevelWildcard { at: 0 }));
        assert_eq!(Filter::parse("a+"), Err(Violation::SingleLevelWildcard { at: 1 }));
        assert_eq!(Filter::parse("+a/b"), Err(Violation::SingleLevelWildcard { at: 0 }));
        assert_eq!(Filter::parse("++"), Err(Violation::SingleLevelWildcard { at: 0 }));
        assert_eq!(Filter::parse(""), Err(Violation::EmptyFilter));
        assert_eq!(Filter::parse("a\0"), Err(Violation::NullCharacter { field: "topic filter" }));
    }

    #[test]
    fn shared_filters_are_taken_apart() {
        assert_eq!(Filter::parse("$share/g/a/+"), Ok(Filter { share: Some("g"), filter: "a/+" }));
        assert_eq!(Filter::parse("$share/g//"), Ok(Filter { share: Some("g"), filter: "/" }));
        assert_eq!(Filter::parse("$shared/g/a"), Ok(Filter { share: None, filter: "$shared/g/a" }));
        assert_eq!(Filter::parse("$share//a"), Err(Violation::EmptyShareName));
        assert_eq!(Filter::parse("$share/g"), Err(Violation::ShareName));
        assert_eq!(Filter::parse("$share/g/"), Err(Violation::ShareName));
        assert_eq!(Filter::parse("$share/g+/a"), Err(Violation::ShareName));
        assert_eq!(Filter::parse("$share/#/a"), Err(Violation::ShareName));
        assert_eq!(Filter::parse("$share/g/a#"), Err(Violation::MultiLevelWildcard { at: 10 }));
    }

    #[test]
    fn filters_match_by_level() {
        for (filter, topic) in [
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("#", "a/b"),
            ("#", "/"),
            ("+", "a"),
            ("+/+", "/a"),
            ("/+", "/a"),
            ("a/+/c", "a//c"),
            ("$SYS/#", "$SYS/broker"),
            ("$SYS/+", "$SYS/x"),
            ("+/#", "a"),
            ("a/+", "a/"),
        ] {
            assert!(matches(filter, topic), "{filter} should match {topic}");
        }
        for (filter, topic) in
            [("a/+", "a"), ("+", "/a"), ("+", "a/"), ("a", "A"), ("a/b", "a/b/c"), ("a/b/c", "a/b"), ("a/+/#", "a")]
        {
            assert!(!matches(filter, topic), "{filter} should not match {topic}");
        }
    }

    #[test]
    fn wildcards_at_the_first_level_never_match_dollar_topics() {
        assert!(!matches("#", "$SYS/broker"));
        assert!(!matches("+/broker", "$SYS/broker"));
        assert!(!matches("+", "$SYS"));
        assert!(matches("a/+", "a/$SYS"));
    }

    /// The definition, by recursion on levels: independent of the loop above.
    fn matches_by_definition(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => matches_by_definition(filter, topic),
            ([wanted, filter @ ..], [level, topic @ ..]) => wanted == level && matches_by_definition(filter, topic),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(filter in "[$ab+#/]{1,8}", topic in "[$ab/]{1,8}") {
            prop_assume!(Filter::parse(&filter).is_ok());
            let filter_levels: Vec<_> = filter.split('/').collect();
            let topic_levels: Vec<_> = topic.split('/').collect();
            let hidden = topic_levels[0].starts_with('$') && matches!(filter_levels[0], "+" | "#");
            let defined = !hidden && matches_by_definition(&filter_levels, &topic_levels);
            prop_assert_eq!(matches(&filter, &topic), defined);
        }

        #[test]
        fn a_legal_filter_has_whole_wildcard_levels(filter in "[ab+#/]{1,8}") {
            let levels: Vec<_> = filter.split('/').collect();
            let whole = levels.iter().enumerate().all(|(at, level)| {
                (*level == "#" && at == levels.len() - 1) || *level == "+" || !level.contains(['+', '#'])
            });
            prop_assert_eq!(Filter::parse(&filter).is_ok(), whole);
        }
    }
}
