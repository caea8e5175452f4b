//! What an engine makes of files that are not as it left them, of a disk that is full, and of company.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::engine::{Engine, Failure, Op, Target, payload};
use crate::load::id_of;

pub const SESSIONS: u32 = 10;
pub const EACH: u64 = 200;
const TRIALS: usize = 100;

/// How an opening ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Whole,
    /// Something is missing, and the engine said that something was damaged.
    LostAndSaid,
    LostInSilence,
    OtherBytes,
    Refused,
    Panicked,
}

impl End {
    fn words(self) -> &'static str {
        match self {
            Self::Whole => "all there",
            Self::LostAndSaid => "part lost, said so",
            Self::LostInSilence => "part lost, not a word",
            Self::OtherBytes => "other bytes given out",
            Self::Refused => "does not open or read",
            Self::Panicked => "panics",
        }
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let there = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &there)?
        } else {
            std::fs::copy(entry.path(), there).map(|_| ())?
        }
    }
    Ok(())
}

/// Opens, reads everything, and compares; answers also how many deliveries are missing.
fn look<E: Engine>(directory: &Path) -> (End, u64) {
    let looked = catch_unwind(AssertUnwindSafe(|| -> Result<(u64, bool, bool), Failure> {
        let engine = E::open(directory)?;
        let (mut found, mut wrong) = (0, false);
        engine.all(&mut |target, bytes| {
            found += 1;
            wrong |= target.seq == 0 || bytes != payload(id_of(target, SESSIONS));
        })?;
        Ok((found, wrong, engine.said_damaged()))
    }));
    let expected = u64::from(SESSIONS) * EACH;
    match looked {
        Err(_) => (End::Panicked, expected),
        Ok(Err(_)) => (End::Refused, expected),
        Ok(Ok((_, true, _))) => (End::OtherBytes, 0),
        Ok(Ok((found, false, _))) if found == expected => (End::Whole, 0),
        Ok(Ok((found, false, said))) => {
            (if said { End::LostAndSaid } else { End::LostInSilence }, expected.saturating_sub(found))
        }
    }
}

fn told(ends: &BTreeMap<End, (usize, u64)>) -> String {
    let total: usize = ends.values().map(|(count, _)| count).sum();
    let each = ends.iter().map(|(end, (count, most))| match end {
        End::LostAndSaid | End::LostInSilence => format!("{} {count} (at most {most} deliveries)", end.words()),
        _ => format!("{} {count}", end.words()),
    });
    format!("of {total}: {}", each.collect::<Vec<_>>().join(", "))
}

/// Copies what `filled` holds, harms the copy, and looks, for each of these harms.
fn try_each<E: Engine, H>(
    filled: &Path,
    harms: impl IntoIterator<Item = H>,
    harm: impl Fn(&Path, H) -> Result<(), Failure>,
) -> Result<String, Failure> {
    // What panics says so on its own; the table counts it.
    std::panic::set_hook(Box::new(|_| {}));
    let trial = filled.with_extension("trial");
    let mut ends: BTreeMap<End, (usize, u64)> = BTreeMap::new();
    for each in harms {
        copy(filled, &trial)?;
        harm(&trial, each)?;
        let (end, lost) = look::<E>(&trial);
        let entry = ends.entry(end).or_default();
        *entry = (entry.0 + 1, entry.1.max(lost));
        std::fs::remove_dir_all(&trial)?;
    }
    Ok(told(&ends))
}

/// Bytes that are not zero, as a file within the directory and a place in it.
fn used(filled: &Path) -> Result<Vec<(PathBuf, u64)>, Failure> {
    let mut places = Vec::new();
    for file in files(filled)? {
        let within = file.strip_prefix(filled)?.to_owned();
        let bytes = std::fs::read(&file)?;
        places.extend((0..).zip(&bytes).filter(|(_, byte)| **byte != 0).map(|(at, _)| (within.clone(), at)));
    }
    Ok(places)
}

/// One bit of one byte, all over what is used.
pub fn flipped<E: Engine>(filled: &Path) -> Result<(), Failure> {
    let places = used(filled)?;
    let step = (places.len() / TRIALS).max(1);
    let chosen = places.iter().skip(step / 2).step_by(step).take(TRIALS);
    let told = try_each::<E, _>(filled, chosen, |trial, (file, at)| {
        let file = OpenOptions::new().read(true).write(true).open(trial.join(file))?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, *at)?;
        Ok(file.write_all_at(&[byte[0] ^ 0x10], *at)?)
    })?;
    println!("flipped {told}");
    Ok(())
}

/// The file that has most in it ends earlier by up to a quarter.
pub fn truncated<E: Engine>(filled: &Path) -> Result<(), Failure> {
    let mut most: BTreeMap<PathBuf, (usize, u64)> = BTreeMap::new();
    for (file, at) in used(filled)? {
        let entry = most.entry(file).or_default();
        *entry = (entry.0 + 1, at);
    }
    let (file, (_, last)) = most.into_iter().max_by_key(|(_, (count, _))| *count).ok_or("an empty directory")?;
    let cuts = (0..25).map(|n| last - n * last / 100);
    let told = try_each::<E, _>(filled, cuts, |trial, length| {
        Ok(OpenOptions::new().write(true).open(trial.join(&file))?.set_len(length)?)
    })?;
    println!("truncated {told}");
    Ok(())
}

/// A second opening while the first lives.
pub fn second<E: Engine>(directory: &Path) -> Result<(), Failure> {
    match E::open(directory) {
        Ok(_) => println!("second opens"),
        Err(error) => println!("second refused: {error}"),
    }
    Ok(())
}

/// `directory` is on a small disk of its own, which has a file `ballast` beside it.
pub fn full_disk<E: Engine>(directory: &Path) -> Result<(), Failure> {
    let mut engine = E::open(directory)?;
    let (mut id, mut kept) = (0, 0);
    let mut commit = |engine: &mut E| -> Result<u64, Failure> {
        let first = id + 1;
        id += 100;
        let publish = |id| Op::Publish { id, payload: payload(id), targets: vec![Target { session: 0, seq: id }] };
        engine.commit(&(first..=id).map(publish).collect::<Vec<_>>())?;
        Ok(100)
    };
    let error = loop {
        match commit(&mut engine) {
            Ok(count) => kept += count,
            Err(error) => break error,
        }
    };
    print!("full \"{error}\" after {kept} messages; ");
    let again = (0..3).any(|_| commit(&mut engine).is_ok());
    print!("{}; ", if again { "small commits still succeed" } else { "further commits fail" });
    print!("{}; ", if engine.page(0, 100).is_ok_and(|page| page.len() == 100) { "reads work" } else { "reads fail" });
    std::fs::remove_file(directory.with_file_name("ballast"))?;
    let room = commit(&mut engine);
    match &room {
        Ok(_) => print!("with room again commits succeed"),
        Err(error) => print!("with room again commits fail (\"{error}\") until it is opened anew"),
    }
    drop(engine);
    let engine = E::open(directory)?;
    let mut found = 0;
    engine.all(&mut |target, bytes| found += u64::from(bytes == payload(target.seq)))?;
    println!(
        "; opened anew: {}",
        if found >= kept { "everything acknowledged is there" } else { "acknowledged messages are gone" }
    );
    Ok(())
}
