mod crashes;
mod damage;
mod model;
mod running;

use std::collections::HashSet;

use super::disk::simulated::Simulated;
use super::recover::recover;
use super::writer::{Stopped, Writer};
use super::{Health, Records, Recovered};
use model::{Event, History, Model};

const SIZE: u64 = 64 * 1024;
const SEGMENT: u64 = 2048;

/// A journal whose every step is a test's own.
struct Steps {
    writer: Writer<Simulated>,
    recovered: Recovered,
}

impl Steps {
    fn open(disk: &Simulated) -> Self {
        Self::open_sized(disk, SIZE, SEGMENT)
    }

    fn open_sized(disk: &Simulated, size: u64, segment: u64) -> Self {
        let mut disk = disk.clone();
        let (recovered, start) = recover(&mut disk, size, segment).unwrap();
        let mut steps = Self { writer: Writer::new(disk, start), recovered };
        steps.writer.tend(true);
        steps
    }

    fn health(&mut self) -> Health {
        self.writer.tend(true).0
    }

    /// Writes and syncs what was taken; what is then kept is durable.
    fn commit(&mut self) -> Result<(), Stopped> {
        let mut tries = 0;
        while let Err(stopped) = self.writer.write() {
            tries += 1;
            if tries > 100 || matches!(stopped, Stopped::Failed(_)) {
                return Err(stopped);
            }
            self.writer.tend(true);
        }
        self.writer.sync()
    }

    fn take(&mut self, events: &[Event]) {
        let mut records = Records::new();
        for event in events {
            event.record(&mut records);
        }
        self.writer.take(&mut records.bytes().to_vec());
        self.writer.tend(true);
    }

    /// What the committer does after a commit.
    fn follow(&mut self) -> Result<(), Stopped> {
        self.writer.settle();
        self.writer.tend(true);
        self.writer.write_if_room()
    }

    /// Goes on until nothing is left to do.
    fn rest(&mut self) -> Result<(), Stopped> {
        self.follow()?;
        while self.writer.is_urgent() {
            self.commit()?;
            self.follow()?;
        }
        Ok(())
    }

    fn append(&mut self, events: &[Event]) {
        self.take(events);
        self.commit().unwrap();
        self.rest().unwrap();
    }
}

#[test]
fn what_is_recovered_agrees_with_a_model_through_compaction_and_restarts() {
    for seed in 0..30 {
        let disk = Simulated::default();
        let mut history = History::new(seed, 300);
        let mut model = Model::default();
        let mut removed = 0;
        for _ in 0..8 {
            let mut steps = Steps::open(&disk);
            assert_eq!(Model::of(&steps.recovered), model.restarted(), "seed {seed}");
            assert!(!steps.recovered.report.is_damaged(), "seed {seed}: {:?}", steps.recovered.report);
            for _ in 0..40 {
                let count = 1 + history.dice.below(12);
                let events: Vec<_> = (0..count).map(|_| history.next()).collect();
                for event in &events {
                    model.apply(event);
                }
                steps.append(&events);
            }
            removed += steps.writer.done.removed_segments;
            // The broker is told by then; what comes after a restart is another history of the same sessions.
            model = model.restarted();
            history.restart(&model);
        }
        assert!(removed > 20, "seed {seed}: {removed} segments were compacted");
    }
}

#[test]
fn a_message_for_a_thousand_sessions_is_stored_once() {
    let disk = Simulated::default();
    let mut steps = Steps::open_sized(&disk, 1 << 24, 1 << 20);
    let sessions: Vec<_> = (1..=1000).map(|key| Event::Session(key, 60)).collect();
    steps.append(&sessions);
    let before = steps.writer.done.bytes_written;
    let message = model::message(1, "to/all", &[7; 10_000]);
    let target =
        |session| super::Target { session, seq: 1, qos: crate::mqtt::QoS::AtLeastOnce, retain: false, via: None };
    steps.append(&[Event::Published(message, None, false, (1..=1000).map(target).collect())]);
    let written = steps.writer.done.bytes_written - before;
    assert!(written < 10_000 + 1000 * 5, "{written} bytes");
    let recovered = Steps::open_sized(&disk, 1 << 24, 1 << 20).recovered;
    let messages: HashSet<_> =
        recovered.sessions.iter().map(|it| std::sync::Arc::as_ptr(&it.queue[0].delivery.message)).collect();
    assert_eq!((recovered.sessions.len(), messages.len()), (1000, 1), "one message in memory, too");
}

#[test]
fn compaction_keeps_the_journal_small_under_churn_beside_an_ancient_retained_message() {
    let disk = Simulated::default();
    let mut steps = Steps::open(&disk);
    let ancient = model::message(1, "ancient", b"still here");
    steps.append(&[Event::Session(1, 60), Event::Published(ancient, None, true, Vec::new())]);
    let mut most = 0;
    for id in 2..3000_u64 {
        let target =
            super::Target { session: 1, seq: id, qos: crate::mqtt::QoS::AtLeastOnce, retain: false, via: None };
        let message = model::message(id, "t", &[1; 100]);
        steps.append(&[Event::Published(message, None, false, vec![target]), Event::Done(1, id)]);
        most = most.max(steps.writer.total());
    }
    // What lives is a few hundred bytes; an eighth of the size may be dead, and two segments are made ahead.
    assert!(most <= SIZE / 8 + 5 * SEGMENT, "{most} bytes");
    assert!(steps.writer.done.compacted_bytes < steps.writer.done.bytes_written / 10);
    let recovered = Steps::open(&disk).recovered;
    assert_eq!(recovered.retained[0].payload(), b"still here");
    assert_eq!(recovered.sessions[0].next_seq, 3000);
    assert!(recovered.sessions[0].queue.is_empty());
}
