//! A disk that forgets: what was not synced is lost at a crash, whole, in part, or the earlier and not the later.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::{DAMAGED, Disk, Listed, segment_name, segment_number};
use crate::store::journal::frame::HEADER;

/// Bytes that a disk writes at once.
const SECTOR: usize = 512;

/// Numbers that look random and are the same each time.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

#[derive(Clone, Debug, Default)]
struct SimulatedFile {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What is kept.
    kept: Vec<u8>,
    /// What was written and not synced.
    written: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone, Debug, Default)]
struct State {
    files: BTreeMap<String, SimulatedFile>,
    operations: u64,
    /// The machine dies at this operation.
    dies_at: Option<u64>,
    /// Syncs, and whatever else, fail with this.
    fails: Option<io::ErrorKind>,
    /// What cannot be read, by file; and what reading fails of altogether.
    spoilt: Vec<(String, Range<usize>)>,
    reading_fails: Option<io::ErrorKind>,
    /// Bytes that all files may take.
    room: Option<u64>,
    begun: Option<io::ErrorKind>,
    began: bool,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Simulated(Arc<Mutex<State>>);

/// What of the unsynced survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing.
    Nothing,
    /// All, as when only the process dies.
    All,
    /// All up to a byte in the middle of the last write.
    Torn,
    /// Some sectors, whichever the disk wrote first.
    Sectors,
}

impl Crash {
    pub const ALL: [Self; 4] = [Self::Nothing, Self::All, Self::Torn, Self::Sectors];
}

impl Simulated {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// From its so many-th operation on, nothing happens any more.
    pub fn die_at(&self, operation: u64) {
        self.state().dies_at = Some(operation);
    }

    pub fn fail(&self, with: Option<io::ErrorKind>) {
        self.state().fails = with;
    }

    /// From now on a place of a file cannot be read.
    pub fn spoil(&self, name: &str, place: Range<usize>) {
        self.state().spoilt.push((name.to_owned(), place));
    }

    pub fn fail_reading(&self, with: Option<io::ErrorKind>) {
        self.state().reading_fails = with;
    }

    pub fn limit(&self, room: Option<u64>) {
        self.state().room = room;
    }

    pub fn used(&self) -> u64 {
        self.state().files.values().map(|file| file.seen.len() as u64).sum()
    }

    /// The bytes of a file, to be changed as damage does.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let file = state.files.get_mut(name).unwrap();
        change(&mut file.kept);
        file.seen = file.kept.clone();
    }

    pub fn delete(&self, name: &str) {
        self.state().files.remove(name);
    }

    pub fn add(&self, name: &str, bytes: &[u8]) {
        let file = SimulatedFile { seen: bytes.to_vec(), kept: bytes.to_vec(), written: Vec::new() };
        self.state().files.insert(name.to_owned(), file);
    }

    pub fn names(&self) -> Vec<String> {
        self.state().files.keys().cloned().collect()
    }

    pub fn file(&self, name: &str) -> Vec<u8> {
        self.state().files[name].seen.clone()
    }

    /// The disk as the next start finds it.
    pub fn after(&self, crash: Crash, dice: &mut Dice) -> Self {
        let mut state = self.state().clone();
        for file in state.files.values_mut() {
            let writes = std::mem::take(&mut file.written);
            match crash {
                Crash::Nothing => {}
                Crash::All => writes.iter().for_each(|(offset, bytes)| put(&mut file.kept, *offset, bytes)),
                Crash::Torn => {
                    for (at, (offset, bytes)) in writes.iter().enumerate() {
                        let torn = at + 1 == writes.len();
                        let length = if torn { dice.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
                        put(&mut file.kept, *offset, &bytes[..length]);
                    }
                }
                Crash::Sectors => keep_sectors(&mut file.kept, &writes, dice),
            }
            file.seen = file.kept.clone();
        }
        (state.dies_at, state.fails, state.operations, state.began) = (None, None, 0, false);
        Self(Arc::new(Mutex::new(state)))
    }
}

/// Each sector is as it was after some of the writes into it, whatever the others are.
fn keep_sectors(kept: &mut Vec<u8>, writes: &[(usize, Vec<u8>)], dice: &mut Dice) {
    let end = writes.iter().map(|(offset, bytes)| offset + bytes.len()).max().unwrap_or(0);
    for sector in 0..end.div_ceil(SECTOR) {
        let (from, to) = (sector * SECTOR, (sector + 1) * SECTOR);
        let touch = |(offset, bytes): &&(usize, Vec<u8>)| *offset < to && offset + bytes.len() > from;
        let touching: Vec<_> = writes.iter().filter(touch).collect();
        let count = dice.below(touching.len() as u64 + 1) as usize;
        for (offset, bytes) in &touching[..count] {
            let (first, last) = (from.max(*offset), to.min(offset + bytes.len()));
            put(kept, first, &bytes[first - offset..last - offset]);
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    if bytes.len() < offset + new.len() {
        bytes.resize(offset + new.len(), 0);
    }
    bytes[offset..offset + new.len()].copy_from_slice(new);
}

impl State {
    /// Counts an operation that changes something.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.dies_at.is_some_and(|at| self.operations > at) {
            return Err(io::Error::other("the machine is dead"));
        }
        self.fails.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn file(&mut self, number: u32) -> io::Result<&mut SimulatedFile> {
        self.files.get_mut(&segment_name(number)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Simulated {
    fn list(&mut self) -> io::Result<Listed> {
        let state = self.state();
        let segment = |(name, file): (&String, &SimulatedFile)| Some((segment_number(name)?, file.seen.len() as u64));
        let segments = state.files.iter().filter_map(segment).collect();
        let known = |name: &&String| segment_number(name).is_some() || name.starts_with(DAMAGED);
        let others =
            state.files.keys().filter(|name| !known(name) && !["format", "report.json"].contains(&name.as_str()));
        Ok((segments, others.cloned().collect()))
    }

    fn read(&mut self, number: u32, from: u64, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        into.clear();
        let mut state = self.state();
        if let Some(kind) = state.reading_fails {
            return Err(kind.into());
        }
        let length_of_file = state.file(number)?.seen.len();
        let from = (from as usize).min(length_of_file);
        let until = (from + length).min(length_of_file);
        let name = segment_name(number);
        if state.spoilt.iter().any(|(of, place)| *of == name && place.start < until && place.end > from) {
            return Err(rustix::io::Errno::IO.into());
        }
        into.extend_from_slice(&state.file(number)?.seen[from..until]);
        Ok(())
    }

    fn write(&mut self, number: u32, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let done = state.operate();
        let dying = state.dies_at.is_some_and(|at| state.operations == at + 1);
        let file = state.file(number)?;
        if done.is_ok() || dying {
            // A machine that dies in a write may have begun it.
            file.written.push((at as usize, bytes.to_vec()));
        }
        done?;
        put(&mut file.seen, at as usize, bytes);
        Ok(())
    }

    fn sync(&mut self, number: u32) -> io::Result<()> {
        let mut state = self.state();
        let done = state.operate();
        let alive = state.dies_at.is_none_or(|at| state.operations <= at);
        let file = state.file(number)?;
        if done.is_err() {
            if alive {
                // What could not be written is not tried again by the system: half of it is lost for good.
                let half = file.written.len() / 2;
                file.written.truncate(half);
            }
            return done;
        }
        for (offset, bytes) in std::mem::take(&mut file.written) {
            put(&mut file.kept, offset, &bytes);
        }
        Ok(())
    }

    fn begin(&mut self, number: u32, header: [u8; HEADER], length: u64) {
        let used = self.used();
        let mut state = self.state();
        state.began = true;
        state.begun = None;
        if let Err(error) = state.operate() {
            state.begun = Some(error.kind());
        } else if state.room.is_some_and(|room| used + length > room) {
            state.begun = Some(io::ErrorKind::StorageFull);
        } else {
            let mut bytes = vec![0; length as usize];
            bytes[..HEADER].copy_from_slice(&header);
            let file = SimulatedFile { seen: bytes.clone(), kept: bytes, written: Vec::new() };
            state.files.insert(segment_name(number), file);
        }
    }

    fn begun(&mut self) -> Option<io::Result<()>> {
        let mut state = self.state();
        let failed = state.begun.take();
        std::mem::take(&mut state.began).then(|| failed.map_or(Ok(()), |kind| Err(kind.into())))
    }

    fn close(&mut self, _: u32) {}

    fn remove(&mut self, number: u32) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.files.remove(&segment_name(number));
        Ok(())
    }

    fn set_aside(&mut self, number: u32) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let name = segment_name(number);
        let file = state.files.remove(&name).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(format!("{DAMAGED}/{name}"), file);
        Ok(())
    }

    fn aside(&mut self) -> io::Result<Vec<u32>> {
        let number = |name: &String| segment_number(name.strip_prefix(DAMAGED)?.strip_prefix('/')?);
        Ok(self.state().files.keys().filter_map(number).collect())
    }

    fn cut(&mut self, number: u32, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let file = state.file(number)?;
        file.seen.truncate(length as usize);
        file.kept.truncate(length as usize);
        file.written.retain(|(offset, bytes)| offset + bytes.len() <= length as usize);
        Ok(())
    }

    fn get(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state().files.get(name).map(|file| file.seen.clone()))
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.state().operate()?;
        self.add(name, bytes);
        Ok(())
    }
}
