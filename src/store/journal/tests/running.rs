//! The journal as a whole, with its thread, in a directory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::*;
use crate::mqtt::QoS;
use crate::store::journal::commit::{self, Shared};
use crate::store::journal::disk::simulated::{Crash, Dice};
use crate::store::journal::{Durability, Journal, OpenError, Settings, Target, open};

fn settings(directory: &Path, durability: Durability) -> Settings {
    Settings { directory: directory.to_owned(), durability, size: 8 << 20, segment: 256 * 1024 }
}

fn append(journal: &Journal, event: &Event) -> u64 {
    let mut records = Records::new();
    event.record(&mut records);
    journal.append(&mut records)
}

/// Waits until a position is durable.
fn wait(journal: &Journal, position: u64) {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut written = std::pin::pin!(journal.written(position));
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while written.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Pending {
        assert!(
            std::time::Instant::now() < deadline,
            "position {position} never became durable: {:?}",
            journal.stats()
        );
        std::thread::park_timeout(std::time::Duration::from_secs(1));
    }
}

fn publication(journal: &Journal, seq: u64) -> Event {
    let target = Target { session: 1, seq, qos: QoS::AtLeastOnce, retain: false, via: None };
    Event::Published(model::message(journal.message_id(), "t", &seq.to_le_bytes()), None, false, vec![target])
}

#[test]
fn what_was_durable_is_there_after_the_next_opening() {
    for durability in [Durability::Fsync, Durability::Async] {
        let directory = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        let mut last_message = 0;
        let mut history = History::new(9, 3000);
        for _ in 0..3 {
            let (journal, recovered) = open(settings(directory.path(), durability)).unwrap();
            assert_eq!(Model::of(&recovered), model);
            assert!(recovered.report.torn.is_none(), "{:?}", recovered.report);
            assert!(journal.message_id() > last_message);
            let events: Vec<_> = (0..2000).map(|_| history.next()).collect();
            let mut position = 0;
            for event in &events {
                model.apply(event);
                if let Event::Published(message, ..) = event {
                    last_message = message.stored().id;
                }
                position = append(&journal, event);
            }
            assert_eq!(journal.append(&mut Records::new()), position, "nothing is where the last was");
            wait(&journal, position);
            let stats = journal.stats();
            assert_eq!((stats.last_error, journal.health()), (None, Health::Good));
            model = model.restarted();
            history.restart(&model);
            journal.close();
            drop(journal);
        }
        assert!(directory.path().join("report.json").exists());
    }
}

#[test]
fn a_second_opening_is_refused_until_the_first_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(settings(directory.path(), Durability::Fsync)).unwrap();
    let refused = open(settings(directory.path(), Durability::Fsync)).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }));
    assert!(refused.to_string().contains(&directory.path().display().to_string()), "{refused}");
    drop(journal);
    open(settings(directory.path(), Durability::Fsync)).unwrap();
}

#[test]
fn a_process_that_dies_without_closing_loses_nothing_that_was_durable() {
    let directory = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let (journal, _) = open(settings(directory.path(), Durability::Fsync)).unwrap();
    append(&journal, &Event::Session(1, 60));
    let position = (1..=100).fold(0, |_, seq| append(&journal, &publication(&journal, seq)));
    wait(&journal, position);
    // What another process would find at this moment.
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().ends_with(".new") {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let (_, recovered) = open(settings(copy.path(), Durability::Fsync)).unwrap();
    assert_eq!(recovered.sessions[0].queue.iter().map(|it| it.seq).collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>());
    assert_eq!(recovered.report.torn, None);
}

#[test]
fn many_threads_append_at_once_and_each_is_woken_when_its_own_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(settings(directory.path(), Durability::Fsync)).unwrap();
    append(&journal, &Event::Session(1, 60));
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let journal = &journal;
            scope.spawn(move || {
                for at in 0..50 {
                    let position = append(journal, &publication(journal, thread * 50 + at + 1));
                    wait(journal, position);
                    assert!(journal.durable() >= position);
                }
            });
        }
    });
    journal.close();
    let stats = journal.stats();
    assert!(stats.commits <= 801, "a commit takes what has gathered: {stats:?}");
    assert_eq!(stats.records, 801);
    drop(journal);
    let (_, recovered) = open(settings(directory.path(), Durability::Fsync)).unwrap();
    assert_eq!(recovered.sessions[0].queue.len(), 800);
    assert_eq!(recovered.sessions[0].next_seq, 801);
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_waker_is_woken_once_for_a_position_and_at_once_for_one_that_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(settings(directory.path(), Durability::Fsync)).unwrap();
    let position = append(&journal, &Event::Session(1, 60));
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    for _ in 0..5 {
        journal.wake_at(position + 1000, &waker);
    }
    wait(&journal, position);
    assert_eq!(count.0.load(Ordering::SeqCst), 0, "its position is not there yet");
    let mut last = position;
    while last < position + 1000 {
        last = append(&journal, &Event::Session(1, 60));
    }
    wait(&journal, last);
    let again = append(&journal, &Event::Session(1, 60));
    wait(&journal, again);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    journal.wake_at(position, &waker);
    assert_eq!(count.0.load(Ordering::SeqCst), 2, "what is durable wakes at once");
}

#[test]
fn an_old_segment_that_was_changed_below_the_journal_goes_to_a_folder_and_the_next_start_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let first = directory.path().join("0000000001.log");
    let (journal, _) = open(settings(directory.path(), Durability::Fsync)).unwrap();
    append(&journal, &Event::Session(1, 60));
    let lost = model::message(journal.message_id(), "lost", b"to be changed");
    append(&journal, &Event::Published(lost, None, true, Vec::new()));
    let kept = model::message(journal.message_id(), "kept", b"as it was");
    let position = append(&journal, &Event::Published(kept, None, true, Vec::new()));
    wait(&journal, position);
    let bytes = std::fs::read(&first).unwrap();
    let at = bytes.windows(13).position(|window| window == b"to be changed").unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&first).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"T", at as u64).unwrap();
    for seq in 1.. {
        append(&journal, &publication(&journal, seq));
        let position = append(&journal, &Event::Done(1, seq));
        if seq % 100 == 0 {
            wait(&journal, position);
            if !first.exists() {
                break;
            }
        }
        assert!(seq < 1_000_000, "it is never copied: {:?}", journal.stats());
    }
    assert_eq!(journal.stats().damaged_places, 1);
    let aside = std::fs::read(directory.path().join("damaged/0000000001.log")).unwrap();
    assert_eq!(aside[at..at + 13], *b"To be changed");
    drop(journal);
    let (_, recovered) = open(settings(directory.path(), Durability::Fsync)).unwrap();
    assert_eq!(recovered.retained.iter().map(|message| message.topic()).collect::<Vec<_>>(), ["kept"]);
    assert_eq!(recovered.report.set_aside, [1]);
}

/// The thread with a disk that a test can break.
struct Threaded {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Threaded {
    fn start(disk: &Simulated, durability: Durability) -> Self {
        let (_, start) = recover(&mut disk.clone(), SIZE, SEGMENT).unwrap();
        let writer = Writer::new(disk.clone(), start);
        let shared = Arc::new(Shared::new(SIZE));
        let of_thread = shared.clone();
        let thread = std::thread::spawn(move || commit::run(&of_thread, writer, durability));
        Self { shared, thread: Some(thread) }
    }

    fn append(&self, event: &Event, lazily: bool) -> u64 {
        let mut records = Records::new();
        event.record(&mut records);
        self.shared.append(records.bytes(), records.count(), lazily)
    }

    #[track_caller]
    fn until(&self, what: &str, mut holds: impl FnMut(&Shared) -> bool) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
        while !holds(&self.shared) {
            assert!(std::time::Instant::now() < deadline, "{what}: {:?}", self.shared.stats());
            std::thread::yield_now();
        }
    }
}

impl Drop for Threaded {
    fn drop(&mut self) {
        self.shared.ask_to_end();
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_disk_that_fails_is_said_and_when_it_works_again_everything_is_written() {
    for (kind, health) in [
        (std::io::ErrorKind::StorageFull, Health::Full),
        (std::io::ErrorKind::ReadOnlyFilesystem, Health::Failing),
        (std::io::ErrorKind::Other, Health::Failing),
    ] {
        for durability in [Durability::Fsync, Durability::Async] {
            let disk = Simulated::default();
            let threaded = Threaded::start(&disk, durability);
            let first = threaded.append(&Event::Session(1, 60), false);
            threaded.until("the first is durable", |shared| shared.durable() >= first);
            disk.fail(Some(kind));
            let second = threaded.append(&Event::Session(2, 60), false);
            threaded.until("the failure is said", |shared| {
                shared.health() == health && shared.stats().last_error.is_some()
            });
            assert_eq!(threaded.shared.durable(), first, "nothing is durable that is not written");
            let third = threaded.append(&Event::Session(3, 60), true);
            disk.fail(None);
            threaded.until("it is good again", |shared| shared.health() == Health::Good && shared.durable() >= third);
            assert!(second < third);
            drop(threaded);
            let recovered = Steps::open(&disk).recovered;
            assert_eq!(recovered.sessions.iter().map(|session| session.key).collect::<Vec<_>>(), [1, 2, 3]);
        }
    }
}

#[test]
fn what_is_written_asynchronously_is_synced_soon_and_by_itself() {
    let disk = Simulated::default();
    let threaded = Threaded::start(&disk, Durability::Async);
    let position = threaded.append(&Event::Session(1, 60), false);
    threaded.until("it is written", |shared| shared.durable() >= position);
    threaded.until("it is synced", |shared| shared.stats().syncs > 0);
    let kept = disk.after(Crash::Nothing, &mut Dice::new(1));
    assert_eq!(Steps::open(&kept).recovered.sessions.len(), 1);
}

#[test]
fn what_nobody_waits_for_goes_with_what_somebody_waits_for_or_by_itself() {
    let disk = Simulated::default();
    let threaded = Threaded::start(&disk, Durability::Fsync);
    let lazily = threaded.append(&Event::Session(1, 60), true);
    threaded.until("it goes by itself", |shared| shared.durable() >= lazily);
    let before = threaded.shared.stats().commits;
    threaded.append(&Event::Session(2, 60), true);
    let urgent = threaded.append(&Event::Session(3, 60), false);
    threaded.until("both are durable", |shared| shared.durable() >= urgent);
    threaded.shared.ask_to_end();
    threaded.until("the thread has ended", |shared| shared.wait_for_end(std::time::Duration::ZERO));
    assert!(threaded.shared.stats().commits <= before + 2);
    assert_eq!(Steps::open(&disk).recovered.sessions.len(), 3);
}

#[test]
fn a_journal_that_is_full_goes_on_when_it_may_take_more() {
    let disk = Simulated::default();
    let threaded = Threaded::start(&disk, Durability::Fsync);
    threaded.append(&Event::Session(1, 60), false);
    for seq in 1..5000 {
        if threaded.shared.health() == Health::Full {
            break;
        }
        let target = Target { session: 1, seq, qos: QoS::AtLeastOnce, retain: false, via: None };
        let event = Event::Published(model::message(seq, "t", &[1; 200]), None, false, vec![target]);
        let position = threaded.append(&event, false);
        threaded.until("it is durable", |shared| shared.durable() >= position);
    }
    assert_eq!(threaded.shared.health(), Health::Full);
    assert!(threaded.shared.stats().total_bytes <= SIZE);
    threaded.shared.size.store(SIZE * 2, Ordering::Relaxed);
    threaded.until("it may take more", |shared| shared.health() == Health::Good);
}
