//! The disk gives back something else than was written.

use super::*;
use crate::store::journal::disk::simulated::{Crash, Dice};
use crate::store::journal::frame::{FORMAT, HEADER, Header, Seal, end_of};
use crate::store::journal::record::tests::published_of_format_1;
use crate::store::{Stored, StoredOrigin};

/// A small journal, closed: a session, a message for it in the middle, and others around. Each event is a record.
fn small() -> (Simulated, Vec<Event>) {
    let target = |session, seq| super::super::Target {
        session,
        seq,
        qos: crate::mqtt::QoS::ExactlyOnce,
        retain: false,
        via: None,
    };
    let events = vec![
        Event::Session(1, 60),
        Event::Session(2, 60),
        Event::Published(model::message(1, "a", b"one"), None, true, vec![target(1, 1), target(2, 1)]),
        Event::Published(model::message(2, "b", b"two"), None, false, vec![target(1, 2)]),
        Event::Received(1, 1),
        Event::Published(model::message(3, "c", b"three"), None, true, vec![target(2, 2)]),
        Event::Queued(model::message(3, "c", b"three"), vec![target(1, 3)]),
        Event::Done(2, 1),
        Event::Away(2, 5, 60, 2),
    ];
    let disk = Simulated::default();
    let mut steps = Steps::open(&disk);
    for event in &events {
        steps.append(std::slice::from_ref(event));
    }
    (disk.after(Crash::All, &mut Dice::new(1)), events)
}

const SEGMENT_FILE: &str = "0000000001.log";

/// Where records begin and end, with the event that is in each; others are the journal's own.
fn frames(bytes: &[u8]) -> Vec<(usize, usize, bool)> {
    let mut frames = Vec::new();
    let mut at = HEADER;
    while let Some(end) = end_of(bytes, at) {
        // Kinds from 14 on are the journal's own words.
        frames.push((at, end, bytes[at + 8] < 14));
        at = end;
    }
    frames
}

#[test]
fn whichever_byte_is_changed_all_other_records_come_back_and_it_is_reported() {
    let (disk, events) = small();
    let bytes = disk.file(SEGMENT_FILE);
    let frames = frames(&bytes);
    let of_events: Vec<_> = frames.iter().filter(|frame| frame.2).collect();
    assert_eq!(of_events.len(), events.len());
    let end = frames.last().unwrap().1;
    for at in 0..end {
        for bit in [0, 7] {
            let damaged = disk.after(Crash::Nothing, &mut Dice::new(1));
            damaged.change(SEGMENT_FILE, |bytes| bytes[at] ^= 1 << bit);
            let mut steps = Steps::open(&damaged);
            let mut model = Model::default();
            let lost = of_events.iter().position(|(from, to, _)| (*from..*to).contains(&at));
            for (number, event) in events.iter().enumerate() {
                if Some(number) == lost {
                    continue;
                }
                // Without its message's bytes a delivery cannot be made.
                if !(lost == Some(5) && number == 6) {
                    model.apply(event);
                }
            }
            if lost == Some(0) || lost == Some(1) {
                model.sessions.remove(&(lost.unwrap() as u64 + 1));
            }
            let report = &steps.recovered.report;
            assert_eq!(Model::of(&steps.recovered), model.restarted(), "byte {at}, bit {bit}: {report:#?}");
            let last_word = (frames.last().unwrap().0..end).contains(&at);
            if last_word {
                assert!(report.torn.is_some(), "byte {at}: {report:#?}");
            } else {
                assert_eq!(report.damaged_places, 1, "byte {at}, bit {bit}: {report:#?}");
                let saved = report.damage[0].saved.as_ref().unwrap();
                let (from, to) = (report.damage[0].offset as usize, damaged.file(saved).len());
                assert!((from..from + to).contains(&at), "{report:#?}");
            }
            // What is left goes into another segment, and the damage is gone with the old one.
            steps.append(&[Event::Away(1, 9, 60, 0)]);
            model.apply(&Event::Away(1, 9, 60, 0));
            let again = Steps::open(&damaged.after(Crash::Nothing, &mut Dice::new(1))).recovered;
            assert_eq!(Model::of(&again), model.restarted(), "byte {at}, bit {bit}");
            assert!(!again.report.is_damaged(), "byte {at}, bit {bit}: {:#?}", again.report);
        }
    }
}

#[test]
fn a_missing_segment_is_reported_and_the_others_are_served() {
    let disk = Simulated::default();
    let mut steps = Steps::open_sized(&disk, 1 << 20, SEGMENT);
    let mut history = History::new(3, 100);
    for _ in 0..60 {
        let events: Vec<_> = (0..5).map(|_| history.next()).collect();
        steps.append(&events);
    }
    let segments: Vec<_> = disk.names().into_iter().filter(|name| name.starts_with("00000")).collect();
    assert!(segments.len() > 4);
    disk.delete(&segments[2]);
    let recovered = Steps::open_sized(&disk, 1 << 20, SEGMENT).recovered;
    assert_eq!(recovered.report.missing_segments, [3], "{:#?}", recovered.report);
    assert!(recovered.report.summary.iter().any(|line| line.contains("missing")));
    assert!(!recovered.sessions.is_empty());
}

#[test]
fn a_segment_of_another_journal_and_a_file_of_somebody_else_are_told_apart() {
    let (disk, events) = small();
    let mut model = Model::default();
    for event in &events {
        model.apply(event);
    }
    let (other, _) = small();
    let mut foreign = other.file(SEGMENT_FILE);
    foreign.truncate(1000);
    disk.add("0000000002.log", &foreign);
    disk.add("notes.txt", b"mine");
    let recovered = Steps::open(&disk).recovered;
    assert_eq!(Model::of(&recovered), model.restarted());
    assert_eq!(recovered.report.foreign, ["notes.txt"]);
    assert!(recovered.report.is_damaged(), "{:#?}", recovered.report);
    assert!(disk.names().contains(&"notes.txt".to_owned()), "it is left alone");
}

#[test]
fn without_the_file_format_or_with_a_damaged_one_the_segments_say_what_is_needed() {
    for bytes in [None, Some(&b"{\"format\":1}"[..]), Some(b"\0\0\0")] {
        let (disk, events) = small();
        let mut model = Model::default();
        for event in &events {
            model.apply(event);
        }
        disk.delete("format");
        if let Some(bytes) = bytes {
            disk.add("format", bytes);
        }
        assert_eq!(Model::of(&Steps::open(&disk).recovered), model.restarted());
    }
}

#[test]
fn a_hole_where_records_were_is_damage_and_one_at_the_end_is_not() {
    let (disk, _) = small();
    let frames = frames(&disk.file(SEGMENT_FILE));
    let (from, to) = (frames[5].0, frames[8].1);
    disk.change(SEGMENT_FILE, |bytes| bytes[from..to].fill(0));
    let report = Steps::open(&disk).recovered.report;
    assert_eq!((report.damaged_places, report.damaged_bytes), (1, (to - from) as u64), "{report:#?}");
    assert!(report.damage[0].what.contains("hole"));
    let (disk, _) = small();
    let from = frames[frames.len() - 2].0;
    disk.change(SEGMENT_FILE, |bytes| bytes[from..].fill(0));
    assert!(!Steps::open(&disk).recovered.report.is_damaged());
}

#[test]
fn a_newer_format_is_refused() {
    let (mut disk, _) = small();
    disk.add("format", b"{\"format\":3,\"salt\":\"00\"}");
    let refused = recover(&mut disk, SIZE, SEGMENT).unwrap_err().to_string();
    assert_eq!(refused, "its format is 3, and this version reads up to 2");
}

#[test]
fn a_journal_of_format_1_is_taken_over_and_is_of_this_format_from_then_on() {
    const SALT: u64 = 9;
    let stored = |id, origin| Stored {
        id,
        bytes: b"t",
        topic_length: 1,
        properties_length: 0,
        qos: crate::mqtt::QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        received_at: 0,
        origin,
    };
    let target =
        |seq| super::super::Target { session: 1, seq, qos: crate::mqtt::QoS::AtLeastOnce, retain: false, via: None };
    let mut frames = Records::new();
    frames.session(1, "a", 60, 10, b"");
    let mut frames = frames.bytes().to_vec();
    let origin = Some(StoredOrigin { id: 7, client_id: "sensor" });
    frames.extend_from_slice(published_of_format_1(&stored(1, None), 0, &[target(1)]).bytes());
    frames.extend_from_slice(published_of_format_1(&stored(2, origin), 1234, &[target(2)]).bytes());
    Seal::new(SALT, 1).seal(&mut frames);
    let disk = Simulated::default();
    let header = Header { format: 1, salt: SALT, number: 1 }.encode();
    disk.add(SEGMENT_FILE, &[&header[..], &frames].concat());
    disk.add("format", format!("{{\"format\":1,\"salt\":\"{SALT:016x}\"}}").as_bytes());
    // And again, when a segment of this format stands behind it.
    for _ in 0..2 {
        let mut steps = Steps::open(&disk);
        let queue = &steps.recovered.sessions[0].queue;
        let found: Vec<_> = queue.iter().map(|it| (it.seq, it.delivery.message.received_at)).collect();
        assert_eq!(found, [(1, 0), (2, 1234)], "of the first nobody knows when it was received");
        assert!(!steps.recovered.report.is_damaged(), "{:#?}", steps.recovered.report);
        steps.append(&[Event::Session(2, 60)]);
        let format = String::from_utf8(disk.file("format")).unwrap();
        assert!(format.starts_with(&format!("{{\"format\":{FORMAT},")), "an older broker refuses it: {format}");
    }
    assert_eq!(Header::decode(&disk.file("0000000002.log")).unwrap().format, FORMAT);
}

/// A retained message of this number, of about a block of the disk.
fn retained(id: u64, topic: &str) -> Event {
    Event::Published(model::message(id, topic, &[id as u8; 4000]), None, true, Vec::new())
}

/// So many messages that come and go; answers the most that the journal takes meanwhile.
fn churn(steps: &mut Steps, seqs: std::ops::Range<u64>) -> u64 {
    let mut most = 0;
    for seq in seqs {
        let target =
            super::super::Target { session: 1, seq, qos: crate::mqtt::QoS::AtLeastOnce, retain: false, via: None };
        let message = model::message(1000 + seq, "t", &[1; 1000]);
        steps.append(&[Event::Published(message, None, false, vec![target]), Event::Done(1, seq)]);
        most = most.max(steps.writer.total());
    }
    most
}

fn topics(recovered: &Recovered) -> Vec<&str> {
    let mut topics: Vec<_> = recovered.retained.iter().map(|message| message.topic()).collect();
    topics.sort_unstable();
    topics
}

const LARGE: (u64, u64) = (1 << 20, 64 << 10);

/// A journal whose first segment begins with a session and five retained messages, a to e. The disk reads blocks of 4096 bytes, so
/// that one place at 10,000 costs c and d.
fn with_retained(disk: &Simulated) -> Steps {
    let mut steps = Steps::open_sized(disk, LARGE.0, LARGE.1);
    steps.append(&[Event::Session(1, 60)]);
    for (id, topic) in (1..).zip(["a", "b", "c", "d", "e"]) {
        steps.append(&[retained(id, topic)]);
    }
    steps
}

#[test]
fn an_old_segment_that_cannot_be_read_in_one_place_is_set_aside_and_holds_nothing_back() {
    let disk = Simulated::default();
    let mut steps = with_retained(&disk);
    disk.spoil(SEGMENT_FILE, 10_000..10_001);
    let before = disk.file(SEGMENT_FILE);
    let most = churn(&mut steps, 1..3000);
    assert!(most <= LARGE.0 / 8 + 6 * LARGE.1, "{most} bytes");
    let done = steps.writer.done;
    assert!(done.removed_segments > 10, "{done:?}");
    assert_eq!(done.damaged_places, 1, "{done:?}");
    assert!((4000..9000).contains(&done.damaged_bytes), "{done:?}");
    let aside = format!("damaged/{SEGMENT_FILE}");
    assert!(disk.file(&aside).starts_with(&before[..20_000]), "it is as it was");
    assert!(!disk.names().contains(&SEGMENT_FILE.to_owned()));
    // What was written there is what a start cannot know, and says.
    for _ in 0..2 {
        let steps = Steps::open_sized(&disk, LARGE.0, LARGE.1);
        assert_eq!(topics(&steps.recovered), ["a", "b", "e"]);
        let report = &steps.recovered.report;
        assert_eq!((&report.set_aside[..], report.damaged_places), (&[1][..], 0), "{report:#?}");
        assert!(report.summary.iter().any(|line| line.contains("could not be read")), "{report:#?}");
        assert_eq!(steps.recovered.sessions[0].next_seq, 3000);
        // The process may die before it has moved the file.
        let bytes = disk.file(&aside);
        disk.delete(&aside);
        disk.add(SEGMENT_FILE, &bytes);
    }
}

#[test]
fn an_old_segment_that_cannot_be_opened_for_a_while_is_copied_as_a_whole_later() {
    let disk = Simulated::default();
    let mut steps = with_retained(&disk);
    disk.fail_reading(Some(std::io::ErrorKind::PermissionDenied));
    churn(&mut steps, 1..500);
    assert_eq!(steps.writer.done.removed_segments, 0, "what may be read later is not given up");
    disk.fail_reading(None);
    churn(&mut steps, 500..3000);
    let done = steps.writer.done;
    assert!(done.removed_segments > 10 && done.damaged_places == 0, "{done:?}");
    let recovered = Steps::open_sized(&disk, LARGE.0, LARGE.1).recovered;
    assert_eq!(topics(&recovered), ["a", "b", "c", "d", "e"]);
    assert!(!recovered.report.is_damaged(), "{:#?}", recovered.report);
}

#[test]
fn a_start_reads_around_what_the_disk_cannot_read_and_keeps_the_file() {
    for block in 0..5 {
        let disk = Simulated::default();
        drop(with_retained(&disk));
        let disk = disk.after(Crash::All, &mut Dice::new(1));
        let bytes = disk.file(SEGMENT_FILE);
        disk.spoil(SEGMENT_FILE, block * 4096 + 100..block * 4096 + 200);
        let mut steps = Steps::open_sized(&disk, LARGE.0, LARGE.1);
        let report = steps.recovered.report.clone();
        assert!(report.damage.iter().any(|it| it.what.contains("cannot read")), "block {block}: {report:#?}");
        let kept = topics(&steps.recovered).join("");
        assert!(kept.len() >= 2, "block {block}: {kept}");
        // The damaged segment is copied at once, and what is left of it stays for whoever can read more of it.
        churn(&mut steps, 1..10);
        assert!(disk.file(&format!("damaged/{SEGMENT_FILE}")) == bytes, "block {block}");
        let again = Steps::open_sized(&disk, LARGE.0, LARGE.1).recovered;
        assert_eq!(topics(&again).join(""), kept, "block {block}");
        assert_eq!(again.report.set_aside, [1]);
    }
}

#[test]
fn where_nothing_at_all_can_be_read_no_journal_begins_anew() {
    let (mut disk, _) = small();
    disk.spoil(SEGMENT_FILE, 0..usize::MAX);
    let bytes = disk.file(SEGMENT_FILE);
    recover(&mut disk, SIZE, SEGMENT).map(drop).unwrap_err();
    assert!(disk.file(SEGMENT_FILE) == bytes);
    assert!(!disk.names().iter().any(|name| name.starts_with("damaged")), "{:?}", disk.names());
}
