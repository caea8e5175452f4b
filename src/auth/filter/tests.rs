//! Filters compared with the sets of topics that they stand for.

use std::collections::{HashMap, HashSet};

use super::*;

/// Every text of one to `depth` levels over the alphabet, but the empty one, which is neither topic nor filter.
pub fn texts(alphabet: &[&str], depth: usize) -> Vec<String> {
    let mut all: Vec<String> = alphabet.iter().map(ToString::to_string).collect();
    let mut last = all.clone();
    for _ in 1..depth {
        last = last.iter().flat_map(|head| alphabet.iter().map(move |level| format!("{head}/{level}"))).collect();
        all.extend(last.iter().cloned());
    }
    all.retain(|text| !text.is_empty());
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

/// A set of topics as one bit for each.
struct Bits(Vec<u64>);

impl Bits {
    fn of(set: &HashSet<&str>, topics: &[String]) -> Self {
        let mut bits = vec![0; topics.len().div_ceil(64)];
        for (index, _) in topics.iter().enumerate().filter(|(_, topic)| set.contains(topic.as_str())) {
            bits[index / 64] |= 1 << (index % 64);
        }
        Self(bits)
    }

    fn contains_all_of(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| b & !a == 0)
    }

    fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    fn and(&self, other: &Self) -> Vec<u64> {
        self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect()
    }
}

/// What was counted over all pairs of filters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    filters: usize,
    covered: usize,
    overlapping: usize,
    /// Pairs where the text of the one matches the other as if it were a topic, though it is not covered.
    wrongly_matched: usize,
    /// Pairs that overlap though neither text matches the other as a topic does: rule × filter in that order.
    unnoticed: usize,
}

/// Compares with sets of topics one level deeper than any filter, over an alphabet with a letter that no filter names,
/// so that a wildcard and the list of all named letters differ.
fn compare_with_sets(filter_alphabet: &[&str], topic_alphabet: &[&str], depth: usize) -> Counts {
    let topics = texts(topic_alphabet, depth + 1);
    let filters: Vec<(Filter, HashSet<&str>, Bits, String)> = texts(filter_alphabet, depth)
        .into_iter()
        .filter_map(|text| {
            let set = set(&text, &topics);
            Some((Filter::parse(&text).ok()?, set.clone(), Bits::of(&set, &topics), text))
        })
        .collect();
    let mut counts = Counts { filters: filters.len(), ..Counts::default() };
    let mut sets: HashMap<String, Vec<u64>> = HashMap::new();
    for (a, set_a, bits_a, text_a) in &filters {
        for topic in &topics {
            assert_eq!(a.matches(topic), set_a.contains(topic.as_str()), "{text_a} matches {topic}");
        }
        for (b, _, bits_b, text_b) in &filters {
            let (covers, overlaps) = (bits_a.contains_all_of(bits_b), bits_a.meets(bits_b));
            assert_eq!(a.covers(b), covers, "{text_a} covers {text_b}");
            assert_eq!(a.overlaps(b), overlaps, "{text_a} overlaps {text_b}");
            assert_eq!(a == b, covers && bits_b.contains_all_of(bits_a), "{text_a} is {text_b}");
            check_witnesses((a, text_a), (b, text_b), covers, overlaps);
            let both = a.intersection(b).map(|both| both.to_string());
            let both = both.map(|it| sets.entry(it).or_insert_with_key(|it| Bits::of(&set(it, &topics), &topics).0));
            assert_eq!(
                both.cloned(),
                overlaps.then(|| bits_a.and(bits_b)),
                "what {text_a} and {text_b} have in common"
            );
            counts.covered += usize::from(covers);
            counts.overlapping += usize::from(overlaps);
            let matched = crate::mqtt::topic::matches(text_a, text_b);
            counts.wrongly_matched += usize::from(matched && !covers);
            counts.unnoticed += usize::from(overlaps && !matched);
        }
    }
    counts
}

fn check_witnesses((a, text_a): (&Filter, &str), (b, text_b): (&Filter, &str), covers: bool, overlaps: bool) {
    let outside = a.witness_outside(b);
    assert_eq!(outside.is_none(), covers, "{text_a} and {text_b}");
    if let Some(topic) = outside.as_deref() {
        // The sets know the topics over their alphabet, which a witness's letters need not be from.
        assert!(is_in(text_b, topic) && !is_in(text_a, topic), "{topic} is to be in {text_b} and outside {text_a}");
    }
    let shared = a.witness_of_overlap(b);
    assert_eq!(shared.is_some(), overlaps, "{text_a} and {text_b}");
    if let Some(topic) = shared.as_deref() {
        assert!(is_in(text_a, topic) && is_in(text_b, topic), "{topic} is to be in {text_a} and {text_b}");
    }
}

fn is_in(filter: &str, topic: &str) -> bool {
    !topic.contains(['+', '#', '\0']) && !set(filter, &[topic.to_owned()]).is_empty() && !topic.is_empty()
}

#[test]
fn what_is_told_about_105_filters_agrees_with_sets_of_topics() {
    let counts = compare_with_sets(&["a", "b", "c", "+", "#"], &["a", "b", "c", "x"], 3);
    assert_eq!(counts, Counts { filters: 105, covered: 981, overlapping: 2929, wrongly_matched: 64, unnoticed: 1884 });
}

#[test]
fn what_is_told_about_all_filters_of_four_levels_agrees_with_sets_of_topics() {
    assert_eq!(compare_with_sets(&["a", "b", "+", "#"], &["a", "b", "x"], 4).filters, 160);
}

#[test]
fn what_is_told_about_filters_with_a_dollar_agrees_with_sets_of_topics() {
    compare_with_sets(&["$s", "a", "+", "#"], &["$s", "$x", "a", "x"], 4);
}

#[test]
fn what_is_told_about_filters_with_empty_levels_agrees_with_sets_of_topics() {
    compare_with_sets(&["$s", "a", "", "+", "#"], &["$s", "$x", "a", "", "x"], 3);
    compare_with_sets(&["a", "", "+", "#"], &["a", "", "x"], 4);
}

fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap()
}

#[test]
fn plus_slash_hash_and_hash_are_the_same_filter() {
    assert_eq!(filter("+/#"), filter("#"));
    assert!(filter("+/#").covers(&filter("#")));
    assert_eq!((filter("+/#").to_string(), filter("/+/#").to_string()), ("#".to_owned(), "/#".to_owned()));
}

#[test]
fn a_witness_is_a_topic_that_a_person_would_name() {
    let outside = |rule: &str, asked: &str| filter(rule).witness_outside(&filter(asked)).unwrap();
    assert_eq!(outside("dev/dev1/#", "dev/+/temp"), "dev/a/temp");
    assert_eq!(outside("dev/a/#", "dev/+/temp"), "dev/b/temp");
    assert_eq!(outside("a/+", "a/#"), "a");
    assert_eq!(outside("a", "a/#"), "a/a");
    assert_eq!(outside("#", "$SYS/#"), "$SYS");
    let both = |rule: &str, asked: &str| filter(rule).witness_of_overlap(&filter(asked)).unwrap();
    assert_eq!(both("a/secret/#", "a/+/x"), "a/secret/x");
    assert_eq!(both("secret/#", "#"), "secret");
}

#[test]
fn the_intersection_of_filters_is_a_filter() {
    let both = |a: &str, b: &str| filter(a).intersection(&filter(b)).map(|both| both.to_string());
    assert_eq!(both("dev/dev1/#", "dev/+/temp").as_deref(), Some("dev/dev1/temp"));
    assert_eq!(both("a/+/#", "+/b/#").as_deref(), Some("a/b/#"));
    assert_eq!(both("#", "+").as_deref(), Some("+"));
    assert_eq!(both("a/+", "b/#"), None);
    assert_eq!(both("/#", "+"), None);
}

#[test]
fn a_filter_with_a_tail_matches_its_parent() {
    assert!(filter("sport/tennis/#").matches("sport/tennis"));
    assert!(!filter("sport/tennis/#").matches("sport/tennisball"));
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
        ("\0", FilterError::Null),
    ] {
        assert_eq!(Filter::parse(text), Err(error), "{text:?}");
    }
}

#[test]
fn any_level_covers_and_overlaps_a_first_level_with_a_dollar() {
    let any = Filter::new([None].into_iter(), true);
    assert!(any.covers(&filter("$SYS/#")) && any.overlaps(&filter("$SYS/x")) && any.matches("$SYS"));
    assert!(any.covers(&filter("#")) && !filter("#").covers(&any));
    assert_eq!(filter("#").witness_outside(&any).as_deref(), Some("$a"));
    assert_eq!(any.witness_of_overlap(&filter("$SYS/#")).as_deref(), Some("$SYS"));
    assert_eq!(any.to_string(), "+/#");
}
