//! Writes the log: the batch that was taken, segments one after the other, and copies of what old segments still hold.
//!
//! What is written and not yet synced stays in memory, so that after a failure all of it can be written again, into
//! another segment: nothing of a file is trusted that could not be synced. The index knows only what is synced.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use super::disk::{DAMAGED, Disk};
use super::frame::{FORMAT, Found, HEADER, Header, Seal, end_of, opening};
use super::index::{Index, Place};
use super::medium::read_around;
use super::record::{FRAME, Records, decode};
use super::{Health, crash};

/// Bytes that are copied between two batches.
const SLICE: usize = 1024 * 1024;
/// Bytes of an old segment that are looked at between two batches.
const LOOK: usize = 4 * 1024 * 1024;
/// Bytes of an old segment that are read at a time.
const WINDOW: usize = 1024 * 1024;
/// Bytes of the buffer that are kept.
const KEPT: usize = 4 * 1024 * 1024;
/// Bytes that may be dead whatever lives.
const SLACK: u64 = 64 * 1024 * 1024;
/// How often the length of a segment is halved, if nothing can be written and the disk has no room for a whole one.
const HALVED: u32 = 6;
/// Commits before an old segment that could not be read is tried again, at first and at most.
const REST: (u32, u32) = (64, 16 * 1024);

/// A segment that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Old {
    pub number: u32,
    /// Where its records end.
    pub end: u64,
    /// Bytes of the file.
    pub length: u64,
}

/// The segment that is written.
#[derive(Debug)]
struct Current {
    number: u32,
    seal: Seal,
    length: u64,
    at: u64,
    /// Where what is not synced begins.
    from: u64,
    /// Whether anything of it is.
    synced: bool,
}

/// The segment after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ahead {
    None,
    Making { number: u32, length: u64 },
    Ready { number: u32, length: u64 },
}

/// How far the oldest segment has been copied.
#[derive(Debug)]
struct Copying {
    old: Old,
    at: u64,
}

/// What the writer begins with.
#[derive(Debug)]
pub struct Start {
    pub salt: u64,
    /// Bytes that all segments may take.
    pub size: u64,
    /// Bytes of a segment.
    pub segment: u64,
    /// The segments that are there, oldest first, contiguous but for those that are missing.
    pub old: VecDeque<Old>,
    /// Above every segment that was ever seen.
    pub next: u32,
    /// Segments up to this one are damaged: what they hold is copied as soon as possible.
    pub damaged: u32,
    /// Segments that could not be read in part: their files are set aside when they are not needed any more.
    pub unreadable: BTreeSet<u32>,
    pub index: Index,
    /// What recovery has to say: it goes before everything else.
    pub first_words: Records,
}

/// Why nothing was written.
#[derive(Debug)]
pub enum Stopped {
    /// The next segment is not made yet.
    Waiting,
    Failed(io::Error),
}

/// Counts of what was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub bytes_written: u64,
    pub compacted_bytes: u64,
    pub removed_segments: u64,
    /// Places of old segments that could not be read, beside those that were known at the start, and their bytes.
    pub damaged_places: u64,
    pub damaged_bytes: u64,
}

/// Writes the log to a disk.
pub struct Writer<D> {
    pub disk: D,
    pub index: Index,
    pub done: Done,
    salt: u64,
    size: u64,
    segment: u64,
    old: VecDeque<Old>,
    current: Option<Current>,
    ahead: Ahead,
    next: u32,
    damaged: u32,
    /// What is not synced yet.
    out: Records,
    /// Bytes of it that are written to the current segment, where they begin at its synced end.
    written: usize,
    /// Whether something of it is waited for, or needed to go on.
    urgent: bool,
    copying: Option<Copying>,
    /// Segments that could not be read in part.
    unreadable: BTreeSet<u32>,
    /// Bytes of those that were set aside.
    aside: u64,
    /// Commits until reading an old segment is tried again, and how many it is the next time.
    rest: (u32, u32),
    window: Vec<u8>,
    /// Segments that can go with the next sync.
    removable: Vec<u32>,
    /// Why there is no next segment.
    refused: Option<io::Error>,
    /// It is the disk that has refused.
    by_disk: bool,
    /// Nothing can be written before there is one.
    starved: bool,
    /// How often its length is halved.
    halved: u32,
}

impl<D: Disk> Writer<D> {
    pub fn new(disk: D, start: Start) -> Self {
        let Start { salt, size, segment, old, next, damaged, unreadable, index, first_words } = start;
        let urgent = !first_words.is_empty();
        Self {
            disk,
            index,
            done: Done::default(),
            salt,
            size,
            segment,
            old,
            current: None,
            ahead: Ahead::None,
            next,
            damaged,
            out: first_words,
            written: 0,
            urgent,
            copying: None,
            unreadable,
            aside: 0,
            rest: (0, REST.0),
            window: Vec::new(),
            removable: Vec::new(),
            refused: None,
            by_disk: false,
            starved: false,
            halved: 0,
        }
    }

    /// Takes a batch of frames.
    pub fn take(&mut self, batch: &mut Vec<u8>) {
        if !batch.is_empty() {
            self.out.bytes_mut().extend_from_slice(batch);
            batch.clear();
            self.urgent = true;
        }
    }

    /// From now on all segments may take so many bytes.
    pub fn set_size(&mut self, size: u64) {
        self.size = size;
    }

    /// Bytes that are not synced.
    pub fn unsynced(&self) -> usize {
        self.out.bytes().len()
    }

    /// Whether something waits to be written that somebody waits for.
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Bytes that somebody waits for.
    pub fn unsynced_urgent(&self) -> usize {
        if self.urgent { self.unsynced() } else { 0 }
    }

    /// Everything that was waited for is written: who asks for no more is content.
    pub fn written(&mut self) {
        self.urgent = false;
    }

    /// Writes what was taken, if it needs no other segment.
    pub fn write_if_room(&mut self) -> Result<(), Stopped> {
        let room = self.current.as_ref().map_or(0, |current| current.length - current.at);
        if !self.urgent && (self.unsynced() - self.written) as u64 <= room { self.write() } else { Ok(()) }
    }

    /// Bytes of all segments, those included that were set aside: the disk has them, too.
    pub fn total(&self) -> u64 {
        let ahead = match self.ahead {
            Ahead::None => 0,
            Ahead::Making { length, .. } | Ahead::Ready { length, .. } => length,
        };
        self.old.iter().map(|old| old.length).sum::<u64>()
            + self.current.as_ref().map_or(0, |it| it.length)
            + ahead
            + self.aside
    }

    /// How many segments there are.
    pub fn segments(&self) -> u64 {
        self.old.len() as u64 + u64::from(self.current.is_some()) + u64::from(self.ahead != Ahead::None)
    }

    /// Writes what was taken; it is not synced then.
    pub fn write(&mut self) -> Result<(), Stopped> {
        while self.written < self.out.bytes().len() {
            let room = self.current.as_ref().map_or(0, |current| current.length - current.at);
            let fits = fitting(&self.out.bytes()[self.written..], room);
            if fits == 0 {
                self.advance()?;
                continue;
            }
            let Some(current) = &mut self.current else { continue };
            let chunk = &mut self.out.bytes_mut()[self.written..self.written + fits];
            current.seal.seal(chunk);
            self.disk.write(current.number, current.at, chunk).map_err(Stopped::Failed)?;
            current.at += fits as u64;
            self.written += fits;
            self.done.bytes_written += fits as u64;
        }
        crash::point("after-write");
        Ok(())
    }

    /// Syncs what is written.
    pub fn sync(&mut self) -> Result<(), Stopped> {
        let Some(current) = &mut self.current else { return Ok(()) };
        self.disk.sync(current.number).map_err(Stopped::Failed)?;
        current.synced = true;
        crash::point("after-sync");
        Ok(())
    }

    /// Notes what is synced, removes what is not needed, and prepares what is said next: after [`Writer::sync`].
    pub fn settle(&mut self) {
        let synced = self.apply();
        if synced == 0 {
            return;
        }
        self.urgent = false;
        self.remove();
        self.out.synced();
        self.urgent |= self.index.say_owed(&mut self.out);
        self.urgent |= self.copy_slice();
    }

    /// Applies what is written and now synced to the index; answers how many bytes that is.
    fn apply(&mut self) -> usize {
        let Some(current) = &mut self.current else { return 0 };
        let out = self.out.bytes();
        let mut at = 0;
        while let Some(end) = end_of(out, at).filter(|end| *end <= self.written) {
            let offset = current.from as u32 + at as u32;
            let place = Place { segment: current.number, offset, length: (end - at) as u32 };
            if let Some(record) = decode(&out[at + FRAME..end]) {
                self.index.apply(&record, place);
            }
            at = end;
        }
        current.from = current.at;
        let synced = std::mem::take(&mut self.written);
        let out = self.out.bytes_mut();
        out.drain(..synced);
        out.shrink_to(KEPT);
        synced
    }

    fn remove(&mut self) {
        for number in std::mem::take(&mut self.removable) {
            let length = self.old.iter().find(|old| old.number == number).map_or(0, |old| old.length);
            self.old.retain(|old| old.number != number);
            // What cannot be read here and now somebody may be able to read.
            let removed = if self.unreadable.remove(&number) {
                self.aside += length;
                self.disk.set_aside(number)
            } else {
                self.disk.remove(number)
            };
            match removed {
                Ok(()) => self.done.removed_segments += 1,
                // It is not needed, and recovery passes over it.
                Err(error) => tracing::warn!(%error, segment = number, "cannot remove an old segment of the journal"),
            }
        }
    }

    /// Gives up what could not be written or synced; it is written again into the next segment.
    pub fn abandon(&mut self) {
        self.written = 0;
        self.urgent = true;
        if let Some(Current { number, length, from, synced, .. }) = self.current.take() {
            // What is behind the synced end must not be read again. That is said when the next segment opens; cutting
            // it off, which may fail, too, gives the room back.
            let end = if synced { from } else { HEADER as u64 };
            let length = if self.disk.cut(number, end).is_ok() { end } else { length };
            self.disk.close(number);
            self.old.push_back(Old { number, end, length });
        }
    }

    /// Goes on in the next segment, if it is ready. The one before is synced first: that a segment is open means that
    /// the one before it is whole.
    fn advance(&mut self) -> Result<(), Stopped> {
        let first = fitting_first(&self.out.bytes()[self.written..]);
        // A record that is larger than a segment gets one of its own size.
        let needed = HEADER as u64 + OPENING + first;
        let (number, length) = match self.ahead {
            Ahead::Ready { number, length } if length >= needed => (number, length),
            Ahead::Ready { number, .. } => {
                let _ = self.disk.remove(number);
                self.begin(number, needed);
                return Err(Stopped::Waiting);
            }
            Ahead::Making { .. } => return Err(Stopped::Waiting),
            Ahead::None => {
                self.starved = true;
                return Err(Stopped::Waiting);
            }
        };
        if self.current.is_some() {
            self.sync()?;
            self.apply();
            if let Some(full) = self.current.take() {
                self.disk.close(full.number);
                self.old.push_back(Old { number: full.number, end: full.at, length: full.length });
            }
        }
        let seal = Seal::new(self.salt, number);
        // Segments of which nothing was ever synced are passed over.
        let previous = self.old.iter().rfind(|old| old.end > HEADER as u64);
        let (previous, end) = previous.map_or((0, 0), |old| (old.number, old.end as u32));
        let first_segment = self.index.first.max(self.old.front().map_or(number, |old| old.number));
        let bytes = opening(seal, previous, end, first_segment);
        let at = HEADER as u64;
        let opened = at + bytes.len() as u64;
        self.current = Some(Current { number, seal, length, at: opened, from: opened, synced: false });
        self.ahead = Ahead::None;
        self.starved = false;
        self.disk.write(number, at, &bytes).map_err(Stopped::Failed)
    }

    fn begin(&mut self, number: u32, length: u64) {
        let header = Header { format: FORMAT, salt: self.salt, number };
        self.disk.begin(number, header.encode(), length);
        self.ahead = Ahead::Making { number, length };
        self.next = number + 1;
    }

    /// Sees to it that there is a next segment; `retry` says that it may be tried again after a failure. Answers how
    /// the journal is.
    pub fn tend(&mut self, retry: bool) -> (Health, Option<io::Error>) {
        let mut error = None;
        if let Ahead::Making { number, length } = self.ahead {
            match self.disk.begun() {
                Some(Ok(())) => {
                    self.ahead = Ahead::Ready { number, length };
                    self.halved = 0;
                    // A small one is for what makes room, and for that alone.
                    if length >= self.segment {
                        (self.refused, self.by_disk) = (None, false);
                    }
                }
                Some(Err(failed)) => {
                    self.ahead = Ahead::None;
                    self.next = number;
                    self.refused = Some(io::Error::new(failed.kind(), failed.to_string()));
                    self.by_disk = true;
                    let goes_on = self.starved && self.halved < HALVED && of_error(&failed) == Health::Full;
                    self.halved = if goes_on { self.halved + 1 } else { 0 };
                    error = Some(failed);
                }
                None => {}
            }
        }
        let may_try = retry || self.refused.is_none() || self.starved && !self.by_disk;
        if self.ahead == Ahead::None && may_try && error.is_none() {
            let needed = fitting_first(&self.out.bytes()[self.written..]) + HEADER as u64 + OPENING;
            let length = (self.segment >> if self.starved { self.halved } else { 0 }).max(needed);
            // What makes room (acknowledgements, and copies) must have some, even above the limit.
            if self.total() + length <= self.size || self.starved {
                self.begin(self.next, length);
            } else if self.refused.is_none() {
                let text = format!("the journal has all of the {} bytes that it may take", self.size);
                self.refused = Some(io::Error::new(io::ErrorKind::StorageFull, text));
            }
        }
        (self.health(), error)
    }

    fn health(&self) -> Health {
        match &self.refused {
            Some(error) => of_error(error),
            // The last segment that may be made is for what makes room: acknowledgements and copies.
            None if self.total() + self.segment > self.size => Health::Full,
            None => Health::Good,
        }
    }

    /// Whether the oldest segment is worth copying.
    fn is_worth_copying(&self) -> bool {
        let Some(oldest) = self.old.front() else { return false };
        if oldest.number <= self.damaged {
            return true;
        }
        let of_old: u64 = self.old.iter().map(|old| old.end).sum();
        let used = of_old + self.current.as_ref().map_or(0, |current| current.at);
        let live = self.index.live();
        let slack = SLACK.min(self.size / 8);
        if used > (2 * live).max(live + slack) {
            return true;
        }
        let live_of_old: u64 = self.old.iter().map(|old| self.index.live_of(old.number)).sum();
        let is_tight = self.by_disk || self.total() > self.size / 4 * 3;
        is_tight && of_old.saturating_sub(live_of_old) > self.segment + self.segment / 2
    }

    /// Whether copying the oldest segment would end: there must be room for what it still holds.
    fn has_room_for(&self, old: Old) -> bool {
        if !self.by_disk {
            return true;
        }
        let room = self.current.as_ref().map_or(0, |current| current.length - current.at)
            + match self.ahead {
                Ahead::None => 0,
                Ahead::Making { length, .. } | Ahead::Ready { length, .. } => length,
            };
        let live = self.index.live_of(old.number);
        // What comes meanwhile wants room, too; the longer it takes, the more.
        live + live.max(self.segment / 256).min(self.segment / 8).min(SLICE as u64 / 8) < room
    }

    /// Says again what a part of the oldest segment still holds; answers whether there was anything to do.
    fn copy_slice(&mut self) -> bool {
        if self.copying.is_none() {
            if self.rest.0 > 0 {
                self.rest.0 -= 1;
                return false;
            }
            let Some(old) = self.old.front().copied() else { return false };
            // A segment that is to be removed with the next sync is not copied again.
            if !self.removable.is_empty() || !self.is_worth_copying() || !self.has_room_for(old) {
                return false;
            }
            self.copying = Some(Copying { old, at: HEADER as u64 });
        }
        crash::point("compacting");
        let before = self.out.bytes().len();
        let mut looked = 0;
        while let Some(Copying { old, at }) = self.copying.take() {
            if at >= old.end {
                self.disk.close(old.number);
                self.window = Vec::new();
                self.rest = (0, REST.0);
                self.removable.push(old.number);
                self.say_what_is_unreadable(old.number);
                let next = self.old.get(1).map(|old| old.number);
                let current = self.current.as_ref().map_or(self.next, |current| current.number);
                self.out.trimmed(next.unwrap_or(current));
                break;
            }
            match self.copy_window(old, at) {
                Ok(until) => {
                    looked += (until - at) as usize;
                    self.copying = Some(Copying { old, at: until });
                }
                Err(error) => {
                    // Nothing that the disk has lost: it stays, and everything behind it, until it can be read.
                    tracing::error!(
                        %error,
                        segment = old.number,
                        "cannot read an old segment of the journal; it is tried again"
                    );
                    self.disk.close(old.number);
                    self.rest = (self.rest.1, (2 * self.rest.1).min(REST.1));
                }
            }
            if looked >= LOOK || self.out.bytes().len() - before >= SLICE {
                break;
            }
        }
        self.done.compacted_bytes += (self.out.bytes().len() - before) as u64;
        true
    }

    /// Copies from a window of an old segment; answers where the next one begins.
    fn copy_window(&mut self, old: Old, from: u64) -> io::Result<u64> {
        let seal = Seal::new(self.salt, old.number);
        let rest = (old.end - from) as usize;
        let mut window = std::mem::take(&mut self.window);
        let mut copied = 0;
        let mut length = WINDOW.min(rest);
        loop {
            let unread = read_around(&mut self.disk, old.number, from, length, &mut window)?;
            copied += self.copy_frames(seal, old.number, from, &window);
            if copied > 0 {
                break;
            }
            if length == rest {
                // A file that has become shorter has nothing more.
                copied = seal.search(&window, 1).unwrap_or(rest);
                let is_lost = unread.first().is_some_and(|place| place.start < copied);
                self.pass_over(old.number, from, copied, is_lost);
                break;
            }
            // The first record may be larger than the window.
            length = rest;
        }
        self.window = window;
        Ok(from + copied as u64)
    }

    /// Goes on behind what is no record. What the start has found there was reported then.
    fn pass_over(&mut self, segment: u32, from: u64, bytes: usize, is_lost: bool) {
        let is_new = segment > self.damaged;
        if is_new {
            self.done.damaged_places += 1;
            self.done.damaged_bytes += bytes as u64;
            tracing::error!(segment, from, bytes, is_lost, "an old segment of the journal is damaged: check the disk");
        }
        if is_new || is_lost {
            self.unreadable.insert(segment);
        }
    }

    /// What the index still seeks in a segment that everything was copied from stood where it cannot be read.
    fn say_what_is_unreadable(&self, segment: u32) {
        if !self.unreadable.contains(&segment) {
            return;
        }
        let lost = self.index.only_in(segment);
        tracing::error!(
            segment,
            lost,
            "an old segment of the journal could not be read as a whole: its file goes to the folder {DAMAGED}; what is lost \
             of messages, sessions and subscriptions is in memory and served until the broker ends"
        );
    }

    /// Copies from the frames at the window's begin; answers how many bytes they are.
    fn copy_frames(&mut self, seal: Seal, number: u32, from: u64, window: &[u8]) -> usize {
        let mut at = 0;
        while let Found::Frame { payload, end } = seal.read(window, at) {
            let offset = (from + at as u64) as u32;
            let place = Place { segment: number, offset, length: (end - at) as u32 };
            if let Some(record) = decode(payload) {
                self.index.copy(&record, place, &mut self.out);
            }
            at = end;
        }
        at
    }

    /// Whether there is more to copy, so that it is worth going on although nobody waits.
    pub fn is_copying(&self) -> bool {
        self.copying.is_some() || !self.removable.is_empty()
    }
}

/// An upper bound of the bytes that a segment opens with.
const OPENING: u64 = FRAME as u64 + 1 + 3 * 5;

/// What an error says of the journal's health.
pub fn of_error(error: &io::Error) -> Health {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Health::Full,
        _ => Health::Failing,
    }
}

/// Bytes of the whole frames at the begin that fit into `room`.
fn fitting(frames: &[u8], room: u64) -> usize {
    if frames.len() as u64 <= room {
        return frames.len();
    }
    let mut fits = 0;
    while let Some(end) = end_of(frames, fits).filter(|end| *end as u64 <= room) {
        fits = end;
    }
    fits
}

/// Bytes of the first frame.
fn fitting_first(frames: &[u8]) -> u64 {
    end_of(frames, 0).unwrap_or(0) as u64
}
