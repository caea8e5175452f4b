//! The machine dies at every operation of the disk.

use super::*;
use crate::store::journal::disk::simulated::{Crash, Dice};

/// Runs a history until the disk dies. Answers the events that were taken, and how many of them were durable.
fn run(disk: &Simulated, seed: u64, batches: usize) -> (Vec<Event>, usize) {
    let mut history = History::new(seed, 300);
    let mut steps = Steps::open(disk);
    let (mut events, mut durable) = (Vec::new(), 0);
    for _ in 0..batches {
        let count = 1 + history.dice.below(12);
        let batch: Vec<_> = (0..count).map(|_| history.next()).collect();
        steps.take(&batch);
        events.extend(batch);
        if steps.commit().is_err() {
            break;
        }
        durable = events.len();
        // Sometimes the next batch comes before what follows is done.
        let followed = if history.dice.one_in(3) { steps.follow() } else { steps.rest() };
        if followed.is_err() {
            break;
        }
    }
    (events, durable)
}

/// Says how what was recovered fits what was taken: as after a number of events that is not less than the durable ones.
fn check(recovered: &Recovered, events: &[Event], durable: usize, what: &str) {
    let found = Model::of(recovered);
    let mut model = Model::default();
    events[..durable].iter().for_each(|event| model.apply(event));
    let mut differences = found.differences(&model.restarted());
    for event in &events[durable..] {
        model.apply(event);
        let now = found.differences(&model.restarted());
        if now.len() < differences.len() {
            differences = now;
        }
    }
    assert!(differences.is_empty(), "{what}: {durable} of {} events were durable: {differences:#?}", events.len());
}

#[test]
fn after_a_crash_at_any_operation_nothing_durable_is_missing_doubled_or_reordered() {
    for seed in 0..3 {
        let whole = Simulated::default();
        run(&whole, seed, 60);
        for at in 1..=whole.operations() {
            let disk = Simulated::default();
            // The format is written when the journal is made; before that there is nothing to lose.
            disk.die_at(at.max(2));
            let (events, durable) = run(&disk, seed, 60);
            for (crash, ways) in Crash::ALL.into_iter().zip([1, 1, 3, 6]) {
                for way in 0..ways {
                    let what = format!("seed {seed}, operation {at}, {crash:?} {way}");
                    let found = disk.after(crash, &mut Dice::new(at * 31 + way));
                    let steps = Steps::open(&found);
                    check(&steps.recovered, &events, durable, &what);
                    let report = &steps.recovered.report;
                    assert!(!report.is_damaged(), "{what}: a crash is no damage: {report:#?}");
                    let first = Model::of(&steps.recovered);
                    let again = Steps::open(&found.after(Crash::Nothing, &mut Dice::new(1))).recovered;
                    assert_eq!(Model::of(&again), first, "{what}: the second start finds the same");
                }
            }
        }
    }
}

#[test]
fn after_crashes_one_after_the_other_the_history_goes_on() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed + 1000);
        let mut disk = Simulated::default();
        let mut history = History::new(seed, 300);
        let mut model = Model::default();
        for round in 0..12 {
            let mut steps = Steps::open(&disk);
            assert_eq!(Model::of(&steps.recovered), model.restarted(), "seed {seed}, round {round}");
            disk.die_at(disk.operations() + 5 + dice.below(60));
            model = model.restarted();
            history.restart(&model);
            let mut durable = model.clone();
            let mut pending = Vec::new();
            loop {
                let batch: Vec<_> = (0..=dice.below(12)).map(|_| history.next()).collect();
                steps.take(&batch);
                pending.extend(batch);
                if steps.commit().is_err() {
                    break;
                }
                pending.drain(..).for_each(|event| durable.apply(&event));
                if steps.rest().is_err() {
                    break;
                }
            }
            let crash = Crash::ALL[dice.below(4) as usize];
            disk = disk.after(crash, &mut dice);
            let found = Model::of(&Steps::open(&disk).recovered);
            // Some of what was not durable may be there: in its order.
            let mut events = pending.into_iter();
            while durable.restarted() != found {
                let Some(event) = events.next() else {
                    assert_eq!(found, durable.restarted(), "seed {seed}, round {round}, {crash:?}");
                    break;
                };
                durable.apply(&event);
            }
            model = durable;
        }
    }
}

#[test]
fn after_a_failure_what_was_taken_is_written_elsewhere() {
    for kind in [std::io::ErrorKind::StorageFull, std::io::ErrorKind::ReadOnlyFilesystem, std::io::ErrorKind::Other] {
        for seed in 0..20 {
            let disk = Simulated::default();
            let mut history = History::new(seed, 300);
            let mut model = Model::default();
            let mut steps = Steps::open(&disk);
            for round in 0..30 {
                let batch: Vec<_> = (0..=history.dice.below(12)).map(|_| history.next()).collect();
                for event in &batch {
                    model.apply(event);
                }
                steps.take(&batch);
                if round % 3 == 2 {
                    disk.fail(Some(kind));
                    for _ in 0..2 {
                        if let Err(Stopped::Failed(_)) = steps.commit() {
                            steps.writer.abandon();
                        }
                    }
                    assert!(steps.writer.is_urgent(), "what could not be written is not forgotten");
                    disk.fail(None);
                }
                while steps.commit().is_err() {
                    assert_eq!(steps.health(), Health::Good, "it recovers by itself");
                }
                steps.rest().unwrap();
            }
            let mut dice = Dice::new(seed);
            for crash in Crash::ALL {
                let recovered = Steps::open(&disk.after(crash, &mut dice)).recovered;
                assert_eq!(Model::of(&recovered), model.restarted(), "seed {seed}, {kind:?}, {crash:?}");
                assert!(!recovered.report.is_damaged(), "{:#?}", recovered.report);
            }
        }
    }
}

#[test]
fn a_full_disk_is_noticed_before_anything_fails_and_forgotten_when_there_is_room() {
    let disk = Simulated::default();
    let mut steps = Steps::open(&disk);
    disk.limit(Some(10 * SEGMENT));
    let mut model = Model::default();
    let mut seq = 0;
    let mut publish = |steps: &mut Steps, model: &mut Model| {
        seq += 1;
        let event = published(seq);
        model.apply(&event);
        steps.append(&[event]);
        seq
    };
    model.apply(&Event::Session(1, 60));
    steps.append(&[Event::Session(1, 60)]);
    let mut last = 0;
    while steps.health() == Health::Good {
        last = publish(&mut steps, &mut model);
        assert!(last < 1000, "the disk never got full");
    }
    assert_eq!(steps.health(), Health::Full);
    // What was on its way by then is still written, and so is what makes room.
    publish(&mut steps, &mut model);
    for done in 1..=last {
        model.apply(&Event::Done(1, done));
        steps.append(&[Event::Done(1, done)]);
        if steps.health() == Health::Good {
            break;
        }
    }
    assert_eq!(steps.health(), Health::Good, "room was made by what is over");
    assert_eq!(Model::of(&Steps::open(&disk.after(Crash::Nothing, &mut Dice::new(1))).recovered), model.restarted());
}

#[test]
fn a_journal_that_holds_more_than_it_may_is_full_until_enough_is_over() {
    let disk = Simulated::default();
    let mut steps = Steps::open_sized(&disk, SIZE, SEGMENT);
    let mut model = Model::default();
    model.apply(&Event::Session(1, 60));
    steps.append(&[Event::Session(1, 60)]);
    for seq in 1..=100 {
        let event = published(seq);
        model.apply(&event);
        steps.append(&[event]);
    }
    // A start with a smaller size, again and again: each leaves a segment that is hardly used.
    let smaller = SIZE / 8;
    for done in 1..=10 {
        let mut steps = Steps::open_sized(&disk, smaller, SEGMENT / 2);
        assert_eq!(Model::of(&steps.recovered), model.restarted());
        assert_eq!(steps.health(), Health::Full);
        model.apply(&Event::Done(1, done));
        steps.append(&[Event::Done(1, done)]);
    }
    let mut steps = Steps::open_sized(&disk, smaller, SEGMENT / 2);
    for done in 11..=100 {
        model.apply(&Event::Done(1, done));
        steps.append(&[Event::Done(1, done)]);
    }
    assert_eq!(steps.health(), Health::Good);
    assert!(steps.writer.total() <= smaller, "{} bytes", steps.writer.total());
    assert_eq!(Model::of(&Steps::open(&disk).recovered), model.restarted());
}

fn published(seq: u64) -> Event {
    let target = super::super::Target { session: 1, seq, qos: crate::mqtt::QoS::AtLeastOnce, retain: false, via: None };
    Event::Published(model::message(seq, "t", &[1; 100]), None, false, vec![target])
}

#[test]
fn on_a_disk_without_room_for_a_segment_what_makes_room_gets_a_smaller_one() {
    let disk = Simulated::default();
    let mut steps = Steps::open(&disk);
    steps.append(&[Event::Session(1, 60)]);
    drop(steps);
    let disk = disk.after(Crash::All, &mut Dice::new(1));
    disk.limit(Some(disk.used() - SEGMENT + SEGMENT / 2));
    let mut steps = Steps::open(&disk);
    assert_eq!(steps.health(), Health::Full);
    steps.append(&[Event::Session(2, 60)]);
    assert_eq!(steps.health(), Health::Full, "it is not for what needs to be kept");
    disk.limit(None);
    assert_eq!((0..3).map(|_| steps.health()).last(), Some(Health::Good));
    steps.append(&[Event::Session(3, 60)]);
    drop(steps);
    assert_eq!(Steps::open(&disk).recovered.sessions.len(), 3);
}
