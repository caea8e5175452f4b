//! Our codec and two others on what is a legal packet. Every difference is in the table of `src/oracle.rs`.

use std::collections::BTreeSet;

use mqtt_operator_fuzz::mqtt::Version;
use mqtt_operator_fuzz::oracle::{self, DIFFERENCES, ORACLES, Verdict, compare};
use mqtt_operator_fuzz::targets::decoder::frame;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// The first byte of an input for a legal packet of a version, see `decoder::frame`.
const LEGAL: u8 = 0x80;

/// Bytes that mean something in many places of a packet.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), prop::sample::select(vec![0, 1, 2, 3, 0x7F, 0x80, 0xFF, b'#', b'+', b'$', b'/'])]
}

fn agrees(frame: &[u8], version: Version) -> Result<(), TestCaseError> {
    for oracle in ORACLES {
        compare(oracle, frame, version).map_err(TestCaseError::fail)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn legal_packets_are_legal_for_all(version in 0..3_u8, choices in vec(any::<u8>(), 0..200)) {
        let input: Vec<u8> = [LEGAL | version].into_iter().chain(choices).collect();
        let (version, frame) = frame(&input).unwrap();
        agrees(&frame, version)?;
    }

    #[test]
    fn changed_packets_differ_in_listed_ways_only(
        version in 0..3_u8, choices in vec(any::<u8>(), 0..100), changes in vec((any::<Index>(), byte()), 1..4),
        cut in prop::option::of(any::<Index>()),
    ) {
        let input: Vec<u8> = [LEGAL | version].into_iter().chain(choices).collect();
        let (version, mut frame) = frame(&input).unwrap();
        for (at, byte) in changes {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        // A body of another length behind a header that says so: the first byte goes to the front, the header is new.
        if let (Some(cut), true) = (cut, frame.len() > 2 && frame[1] < 0x80) {
            frame.truncate(2 + cut.index(frame.len() - 1));
            frame[1] = (frame.len() - 2) as u8;
        }
        agrees(&frame, version)?;
    }
}

#[test]
fn the_corpora_differ_in_listed_ways_only() {
    for target in ["decoder", "oracle"] {
        for (path, input) in mqtt_operator_fuzz::targets::corpus(target) {
            assert!(std::panic::catch_unwind(|| oracle::run(&input)).is_ok(), "{}", path.display());
        }
    }
}

/// An entry that nothing needs any more would hide a difference that comes back.
#[test]
fn every_listed_difference_exists() {
    let mut seen = BTreeSet::new();
    for target in ["decoder", "oracle"] {
        for (_, input) in mqtt_operator_fuzz::targets::corpus(target) {
            let Some((version, frame)) = frame(&input) else { continue };
            for oracle in ORACLES {
                if let Ok(Some(difference)) = compare(oracle, &frame, version) {
                    seen.insert(std::ptr::from_ref(difference));
                }
            }
        }
    }
    let unseen: Vec<_> = DIFFERENCES.iter().filter(|d| !seen.contains(&std::ptr::from_ref(*d))).collect();
    let lines: Vec<_> = unseen
        .iter()
        .map(|d| {
            let verdict = match d.verdict {
                Verdict::WeRefuse(_) => "we refuse",
                Verdict::TheyRefuse(_) => "they refuse",
                Verdict::TheyWrite(_) => "they write",
            };
            format!("{:?}, {verdict}, [{}]: {}", d.oracle, d.id, d.why)
        })
        .collect();
    assert!(lines.is_empty(), "no input of the corpora shows:\n{}", lines.join("\n"));
}
