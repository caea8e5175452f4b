//! The workload, as the broker would bring it. Each function prints `name value` lines.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::engine::{Engine, Failure, Op, PAYLOAD, Target, payload};
use crate::process::{cpu_seconds, disk_bytes, peak_mib, written_bytes};

const WRITERS: u32 = 64;
const IN_FLIGHT: usize = 16;
/// Deliveries that a drain reads at a time, as a client with a window does.
const PAGE: usize = 100;
const BATCH: usize = 1024;

#[derive(Default)]
struct Pending {
    ops: Vec<Op>,
    next: u64,
    durable: u64,
    over: bool,
}

/// 64 writers with 16 messages in flight, each message for `fan_out` sessions. One thread commits what has gathered; with
/// the next commit go the ends of the deliveries of the last one.
pub fn churn<E: Engine>(directory: &Path, fan_out: u32, seconds: u64) -> Result<(), Failure> {
    let mut engine = E::open(directory)?;
    let shared = Arc::new((Mutex::new(Pending::default()), Condvar::new(), Condvar::new()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let shared = shared.clone();
            std::thread::spawn(move || write(writer, fan_out, &shared))
        })
        .collect();
    let (started, cpu, bytes) = (Instant::now(), cpu_seconds(), written_bytes());
    let (mut commits, mut slowest, mut ends) = (0_u64, Duration::ZERO, Vec::new());
    let (lock, filled, done) = &*shared;
    while started.elapsed() < Duration::from_secs(seconds) {
        let (mut batch, upto) = {
            let mut pending = lock.lock().expect("no writer panics");
            while pending.ops.is_empty() {
                pending = filled.wait(pending).expect("no writer panics");
            }
            (std::mem::take(&mut pending.ops), pending.next)
        };
        let next_ends: Vec<Op> = batch.iter().flat_map(ends_of).collect();
        batch.append(&mut ends);
        let begun = Instant::now();
        engine.commit(&batch)?;
        slowest = slowest.max(begun.elapsed());
        commits += 1;
        ends = next_ends;
        lock.lock().expect("no writer panics").durable = upto;
        done.notify_all();
    }
    let (elapsed, cpu, bytes) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu, written_bytes() - bytes);
    lock.lock().expect("no writer panics").over = true;
    done.notify_all();
    for writer in writers {
        writer.join().expect("no writer panics");
    }
    let messages = lock.lock().expect("no writer panics").durable as f64;
    println!("rate {:.0}", messages / elapsed);
    println!("cpu {:.2}", cpu * 1e6 / messages);
    println!("bytes {:.2}", bytes as f64 / messages / PAYLOAD as f64);
    println!("commits {:.5}", commits as f64 / messages);
    println!("commit_count {commits}");
    println!("slowest {:.1}", slowest.as_secs_f64() * 1e3);
    println!("disk {:.1}", disk_bytes(directory) as f64 / f64::from(1 << 20));
    Ok(())
}

fn write(writer: u32, fan_out: u32, shared: &(Mutex<Pending>, Condvar, Condvar)) {
    let (lock, filled, done) = shared;
    let (mut mine, mut seq) = (VecDeque::with_capacity(IN_FLIGHT), 0);
    let mut pending = lock.lock().expect("the committer does not panic");
    while !pending.over {
        let begun = mine.len();
        while mine.len() < IN_FLIGHT {
            pending.next += 1;
            seq += 1;
            let id = pending.next;
            let targets = (0..fan_out).map(|n| Target { session: writer * fan_out + n, seq }).collect();
            pending.ops.push(Op::Publish { id, payload: payload(id), targets });
            mine.push_back(id);
        }
        if begun < IN_FLIGHT {
            filled.notify_one();
        }
        while !pending.over && mine.front().is_some_and(|id| *id > pending.durable) {
            pending = done.wait(pending).expect("the committer does not panic");
        }
        while mine.front().is_some_and(|id| *id <= pending.durable) {
            mine.pop_front();
        }
    }
}

fn ends_of(op: &Op) -> Vec<Op> {
    let Op::Publish { id, targets, .. } = op else { return Vec::new() };
    let last = targets.len() - 1;
    let ends = targets.iter().enumerate();
    ends.map(|(n, target)| Op::Done { target: *target, last: (n == last).then_some(*id) }).collect()
}

/// Queues `each` messages for every one of `sessions`, in turn, and prints how fast that went.
pub fn fill<E: Engine>(engine: &mut E, sessions: u32, each: u64) -> Result<f64, Failure> {
    let started = Instant::now();
    let (mut batch, mut id) = (Vec::with_capacity(BATCH), 0);
    for seq in 1..=each {
        for session in 0..sessions {
            id += 1;
            batch.push(Op::Publish { id, payload: payload(id), targets: vec![Target { session, seq }] });
            if batch.len() == BATCH {
                engine.commit(&batch)?;
                batch.clear();
            }
        }
    }
    engine.commit(&batch)?;
    Ok(id as f64 / started.elapsed().as_secs_f64())
}

/// The message of a place in a queue that [`fill`] made.
pub fn id_of(target: Target, sessions: u32) -> u64 {
    (target.seq - 1) * u64::from(sessions) + u64::from(target.session) + 1
}

/// A backlog, and its drain: every session reads a page, and the page is over with the next commit.
pub fn backlog<E: Engine>(directory: &Path, sessions: u32, each: u64) -> Result<(), Failure> {
    let mut engine = E::open(directory)?;
    println!("fill {:.0}", fill(&mut engine, sessions, each)?);
    println!("full {:.1}", disk_bytes(directory) as f64 / f64::from(1 << 20));
    let (started, cpu, bytes) = (Instant::now(), cpu_seconds(), written_bytes());
    let (mut drained, mut batch) = (0_u64, Vec::new());
    while drained < u64::from(sessions) * each {
        for session in 0..sessions {
            for (seq, bytes) in engine.page(session, PAGE)? {
                let target = Target { session, seq };
                let id = id_of(target, sessions);
                assert_eq!(bytes, payload(id), "the bytes of another message");
                batch.push(Op::Done { target, last: Some(id) });
            }
            drained += batch.len() as u64;
            engine.commit(&batch)?;
            batch.clear();
        }
    }
    let total = drained as f64;
    println!("drain {:.0}", total / started.elapsed().as_secs_f64());
    println!("drain_cpu {:.2}", (cpu_seconds() - cpu) * 1e6 / total);
    println!("drain_bytes {:.2}", (written_bytes() - bytes) as f64 / total / PAYLOAD as f64);
    println!("peak {}", peak_mib());
    println!("left {:.1}", disk_bytes(directory) as f64 / f64::from(1 << 20));
    Ok(())
}

/// Opens what a killed process has left, and reads everything, as a broker does when it starts.
pub fn reopen<E: Engine>(directory: &Path, sessions: u32, expected: u64) -> Result<(), Failure> {
    let started = Instant::now();
    let engine = E::open(directory)?;
    let opened = started.elapsed();
    let (mut found, mut wrong) = (0, 0);
    engine.all(&mut |target, bytes| {
        found += 1;
        wrong += u64::from(bytes != payload(id_of(target, sessions)));
    })?;
    println!("opened {:.0}", opened.as_secs_f64() * 1e3);
    println!("read {:.0}", started.elapsed().as_secs_f64() * 1e3);
    println!("peak {}", peak_mib());
    if (found, wrong) != (expected, 0) {
        return Err(format!("{found} of {expected} deliveries are there, {wrong} with other bytes").into());
    }
    Ok(())
}
