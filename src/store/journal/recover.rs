//! Reads the journal at start.
//!
//! Two passes over the segments: the first checks every frame and makes the index, the second reads what the index says
//! is needed. What is invalid is one of two things. Behind the last place that is known to have been synced, the log
//! ends there: it was being written when the process or the machine stopped. Before it, the disk has damaged it: it is
//! set aside, and reading goes on at the next frame.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::disk::{DAMAGED, Disk, segment_name};
use super::frame::{FORMAT, Found, HEADER, Header, Seal, end_of, skip_zeroes};
use super::index::{Held, Index, Place, Session};
use super::medium::read_around;
use super::record::{EXTRA, FRAME, Record, Records, Reference, decode};
use super::report::{Damage, Torn};
use super::writer::{Old, Start};
use super::{Away, ExtraOutstanding, Outstanding, Recovered, RecoveredSession, Report};
use crate::store::{Delivery, Message, Subscription};

/// Bytes of a damaged place that are set aside.
const SAVED: usize = 1024 * 1024;
/// Damaged places that are set aside.
const PLACES: u64 = 64;
/// Bytes behind the end of a segment that are left where they are.
const CUT: u64 = 64 * 1024;
/// What is said of a place that the disk has lost.
const UNREAD: &str = "the disk cannot read it";
/// Bytes at the begin of a segment in which its first frame is.
const BEGIN: usize = 256;

/// Why the journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("its format is {found}, and this version reads up to {FORMAT}")]
    Newer { found: u32 },
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// The file `format`.
#[derive(Debug, Serialize, Deserialize)]
struct Format {
    format: u32,
    /// What checksums begin with, in hexadecimal digits; it is in each segment, too.
    #[serde(default)]
    salt: String,
}

/// What one segment says of others.
#[derive(Clone, Copy, Debug, Default)]
struct Begin {
    header: Option<Header>,
    /// The frame that it opens with: the segment before, its end, and the oldest that counts.
    opened: Option<(u32, u32, u32)>,
}

/// What the first pass knows.
struct Reading<'a, D> {
    disk: &'a mut D,
    salt: u64,
    index: Index,
    report: Report,
    old: VecDeque<Old>,
    damaged: u32,
    unreadable: BTreeSet<u32>,
    /// What could not be read of the segment that is read.
    unread: Vec<Range<usize>>,
}

/// Reads everything; answers what the broker gets, and what the writer goes on with.
pub fn recover<D: Disk>(disk: &mut D, size: u64, segment: u64) -> Result<(Recovered, Start), Unreadable> {
    let began = Instant::now();
    let (segments, foreign) = disk.list()?;
    let mut begins = BTreeMap::new();
    for (number, _) in &segments {
        begins.insert(*number, begin(disk, *number)?);
    }
    let salt = agree_on_format(disk, &begins)?;
    for (number, begin) in &mut begins {
        begin.opened = opened(disk, *number, Seal::new(salt, *number))?;
    }
    let oldest = segments.first().map_or(1, |oldest| oldest.0);
    let mut first = begins.values().filter_map(|begin| begin.opened).map(|opened| opened.2).max().unwrap_or(oldest);
    let next = segments.last().map_or(0, |last| last.0) + 1;
    loop {
        let segments = needed(disk, first)?;
        let set_aside = disk.aside()?;
        let mut reading = Reading {
            disk,
            salt,
            index: Index::new([RandomState::new(), RandomState::new()]),
            report: Report { foreign: foreign.clone(), set_aside, ..Report::default() },
            old: VecDeque::new(),
            damaged: 0,
            unreadable: BTreeSet::new(),
            unread: Vec::new(),
        };
        reading.index.first = first;
        reading.read_all(&segments, &begins)?;
        if reading.report.records == 0 && !reading.unreadable.is_empty() {
            // There is no disk any more. To begin anew is not for us to decide.
            return Err(io::Error::from(Errno::IO).into());
        }
        if reading.index.first > first {
            // The process died between saying that segments are not needed and removing them. Some may be gone, and
            // with them what says that deliveries of the others are over.
            first = reading.index.first;
            continue;
        }
        let (mut recovered, first_words) = reading.build()?;
        let Reading { index, old, damaged, unreadable, .. } = reading;
        recovered.report.milliseconds = began.elapsed().as_millis() as u64;
        recovered.report.summarise();
        save_report(disk, &recovered.report);
        let start = Start { salt, size, segment, old, next, damaged, unreadable, index, first_words };
        return Ok((recovered, start));
    }
}

fn begin<D: Disk>(disk: &mut D, number: u32) -> io::Result<Begin> {
    let mut bytes = Vec::new();
    read_around(disk, number, 0, HEADER, &mut bytes)?;
    Ok(Begin { header: Header::decode(&bytes).filter(|header| header.number == number), opened: None })
}

fn opened<D: Disk>(disk: &mut D, number: u32, seal: Seal) -> io::Result<Option<(u32, u32, u32)>> {
    let mut bytes = Vec::new();
    read_around(disk, number, 0, BEGIN, &mut bytes)?;
    let Found::Frame { payload, .. } = seal.read(&bytes, HEADER) else { return Ok(None) };
    let Some(Record::Opened { previous, end, first }) = decode(payload) else { return Ok(None) };
    Ok(Some((previous, end, first)))
}

/// Reads or writes the file `format`; answers the salt.
fn agree_on_format<D: Disk>(disk: &mut D, begins: &BTreeMap<u32, Begin>) -> Result<u64, Unreadable> {
    let file = disk.get("format")?.and_then(|bytes| serde_json::from_slice::<Format>(&bytes).ok());
    let headers = || begins.values().filter_map(|begin| begin.header);
    let of_headers = headers().map(|header| header.format).max();
    if let Some(found) = file.as_ref().map(|file| file.format).max(of_headers) {
        upgrade(found)?;
    }
    let of_file = file.as_ref().and_then(|file| u64::from_str_radix(&file.salt, 16).ok());
    // It must fit the segments: the file's, unless none has it.
    let of_headers = headers().next_back().map(|header| header.salt);
    let fits = |salt: &u64| of_headers.is_none() || headers().any(|header| header.salt == *salt);
    let salt = of_file.filter(fits).or(of_headers);
    let salt = salt.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    // Before anything of this format is written: a broker that reads only the one before must not take it for its own.
    if of_file != Some(salt) || file.is_none_or(|file| file.format != FORMAT) {
        let format = Format { format: FORMAT, salt: format!("{salt:016x}") };
        let text = serde_json::to_vec(&format).map_err(io::Error::from)?;
        disk.put("format", &text)?;
    }
    Ok(salt)
}

/// Brings a journal of an older format to this one, a step for each format.
fn upgrade(found: u32) -> Result<(), Unreadable> {
    match found {
        // Its records tell from those of format 2 by a flag and are read as they are; compacting writes them anew.
        1 | FORMAT => Ok(()),
        _ => Err(Unreadable::Newer { found }),
    }
}

/// The segments from `first` on; the others are removed, but for those that the disk cannot read.
fn needed<D: Disk>(disk: &mut D, first: u32) -> io::Result<Vec<(u32, u64)>> {
    let (mut segments, _) = disk.list()?;
    // In their order: what says that something is over goes last.
    let mut bytes = Vec::new();
    for (number, length) in segments.iter().filter(|(number, _)| *number < first) {
        if read_around(disk, *number, 0, *length as usize, &mut bytes)?.is_empty() {
            disk.remove(*number)?;
        } else {
            disk.set_aside(*number)?;
        }
    }
    segments.retain(|(number, _)| *number >= first);
    Ok(segments)
}

fn save_report<D: Disk>(disk: &mut D, report: &Report) {
    let written =
        serde_json::to_vec_pretty(report).map_err(io::Error::from).and_then(|text| disk.put("report.json", &text));
    if let Err(error) = written {
        tracing::warn!(%error, "cannot write the report about the journal");
    }
}

impl<D: Disk> Reading<'_, D> {
    fn read_all(&mut self, segments: &[(u32, u64)], begins: &BTreeMap<u32, Begin>) -> io::Result<()> {
        // Up to where each segment counts, as the one behind it says. Segments in between count for nothing.
        let mut ends: HashMap<u32, u64> = HashMap::new();
        for (number, begin) in begins {
            if let Some((previous, end, _)) = begin.opened {
                ends.insert(previous, end.into());
                for between in previous + 1..*number {
                    ends.insert(between, 0);
                }
            }
        }
        // Behind the last segment that was opened there may be one that was made and not used yet.
        let last = begins.iter().rfind(|(_, begin)| begin.opened.is_some()).map(|(number, _)| *number);
        let mut expected = self.index.first;
        let mut bytes = Vec::new();
        for (number, length) in segments {
            let is_passed_over = ends.get(number) == Some(&0);
            if !is_passed_over {
                self.unread = read_around(self.disk, *number, 0, *length as usize, &mut bytes)?;
                let used = !self.unread.is_empty() || skip_zeroes(&bytes, HEADER.min(bytes.len())) < bytes.len();
                if !used && begins.get(number).is_some_and(|begin| begin.header.is_some()) {
                    // Not used yet; the writer makes another. Nor was the one before it, if there is none.
                    self.disk.remove(*number)?;
                    continue;
                }
            }
            if *number > expected && expected > 0 {
                self.miss(expected..*number, &ends);
            }
            expected = number + 1;
            if is_passed_over {
                self.old.push_back(Old { number: *number, end: HEADER as u64, length: *length });
                continue;
            }
            if begins.get(number).is_none_or(|begin| begin.header.is_none()) {
                let header = 0..HEADER.min(bytes.len());
                let is_read = self.unread.first().is_none_or(|unread| unread.start > 0);
                self.damage(*number, &bytes, 0, header.end, if is_read { "the segment's header" } else { UNREAD });
            }
            let is_last = last.is_none_or(|last| *number >= last);
            let end = self.read_segment(*number, &bytes, ends.get(number).copied(), is_last);
            // What is behind the end would be read again one day. If it cannot be cut off, the next segment says so.
            let cut = self.unread.is_empty() && end + CUT < *length
                || self.report.torn.as_ref().is_some_and(|torn| torn.segment == *number);
            let length = if cut && self.disk.cut(*number, end).is_ok() { end } else { *length };
            self.old.push_back(Old { number: *number, end, length });
            self.disk.close(*number);
            self.report.segments += 1;
        }
        Ok(())
    }

    fn miss(&mut self, numbers: std::ops::Range<u32>, ends: &HashMap<u32, u64>) {
        // A segment that never held anything is not missed.
        let missed = numbers.filter(|number| ends.get(number) != Some(&0));
        self.report.missing_segments.extend(missed.take(1000));
    }

    /// Applies the records of a segment; answers where they end.
    fn read_segment(&mut self, number: u32, bytes: &[u8], end: Option<u64>, is_last: bool) -> u64 {
        let seal = Seal::new(self.salt, number);
        // Up to here everything was synced.
        let known = match end {
            Some(end) => (end as usize).min(bytes.len()),
            None if is_last => last_synced(seal, bytes),
            None => last_frame(seal, bytes),
        };
        let limit = if end.is_some() { known } else { bytes.len() };
        if let Some(missing) = end.and_then(|end| end.checked_sub(bytes.len() as u64)).filter(|missing| *missing > 0) {
            let offset = bytes.len() as u64;
            let what = "the file is shorter than it was".to_owned();
            self.report.damaged(Damage { segment: number, offset, bytes: missing, what, saved: None });
            self.damaged = number;
        }
        let mut at = HEADER;
        while at < limit {
            match seal.read(&bytes[..limit], at) {
                Found::Frame { payload, end } => {
                    self.apply(number, at, end, payload);
                    at = end;
                }
                Found::End | Found::Broken if at < known => {
                    let next = seal.search(&bytes[..known], at + 1).unwrap_or(known);
                    let what = self.what_is_known(bytes, at..next);
                    self.damage(number, bytes, at, next, what);
                    at = next;
                }
                Found::End | Found::Broken => break,
            }
        }
        if !self.unread.is_empty() {
            self.unreadable.insert(number);
        }
        if end.is_some() {
            return at as u64;
        }
        if let Some(last) = self.unread.last().filter(|unread| unread.end > at) {
            // Whether anything was synced there nobody knows.
            let last = last.end;
            self.damage(number, bytes, at, last, UNREAD);
            return at as u64;
        }
        let rest = &bytes[at.min(bytes.len())..];
        if rest.iter().any(|byte| *byte != 0) {
            let torn = rest.len() - rest.iter().rev().take_while(|byte| **byte == 0).count();
            self.report.torn = Some(Torn { segment: number, offset: at as u64, bytes: torn as u64 });
        }
        at as u64
    }

    fn apply(&mut self, segment: u32, from: usize, to: usize, payload: &[u8]) {
        let place = Place { segment, offset: from as u32, length: (to - from) as u32 };
        if let Some(record) = decode(payload) {
            self.index.apply(&record, place);
        } else {
            // Its checksum is right: another version wrote it, or this one has a fault.
            let what = format!("a record of a kind that this version does not read ({})", payload[0]);
            let (offset, bytes) = (u64::from(place.offset), u64::from(place.length));
            self.report.damaged(Damage { segment, offset, bytes, what, saved: None });
        }
        self.report.records += 1;
        self.report.bytes += (to - from) as u64;
    }

    fn what_is_known(&self, bytes: &[u8], place: Range<usize>) -> &'static str {
        if self.unread.iter().any(|unread| unread.start < place.end && unread.end > place.start) {
            return UNREAD;
        }
        let bytes = &bytes[place];
        if bytes.iter().all(|byte| *byte == 0) {
            return "a hole: zeroes where records were";
        }
        match end_of(bytes, 0) {
            Some(end) if end == bytes.len() => "one record",
            _ => "records",
        }
    }

    fn damage(&mut self, segment: u32, bytes: &[u8], from: usize, to: usize, what: &str) {
        self.damaged = self.damaged.max(segment);
        let name = format!("{DAMAGED}/{}-{from}.bin", segment_name(segment).trim_end_matches(".log"));
        let part = &bytes[from..to.min(from + SAVED)];
        // A disk that is full keeps nobody from starting.
        let saved = what != UNREAD && self.report.damaged_places < PLACES && self.disk.put(&name, part).is_ok();
        let (offset, length) = (from as u64, (to - from) as u64);
        let saved = saved.then_some(name);
        self.report.damaged(Damage { segment, offset, bytes: length, what: what.to_owned(), saved });
    }
}

/// Where what was synced ends, as far as the segment says: behind the last word that everything before it was.
fn last_synced(seal: Seal, bytes: &[u8]) -> usize {
    let (mut at, mut last) = (HEADER, HEADER);
    loop {
        match seal.read(bytes, at) {
            Found::Frame { payload, end } => {
                if matches!(decode(payload), Some(Record::Synced | Record::Opened { .. })) {
                    last = end;
                }
                at = end;
            }
            Found::End | Found::Broken => match seal.search(bytes, at + 1) {
                Some(next) => at = next,
                None => return last,
            },
        }
    }
}

/// Where the last frame ends.
fn last_frame(seal: Seal, bytes: &[u8]) -> usize {
    let mut at = HEADER;
    loop {
        match seal.read(bytes, at) {
            Found::Frame { end, .. } => at = end,
            Found::End | Found::Broken => match seal.search(bytes, at + 1) {
                Some(next) => at = next,
                None => return at,
            },
        }
    }
}

/// What is read of a session in the second pass.
#[derive(Clone, Copy)]
enum Want {
    Message(u32),
    Session(u32),
    Subscription(u32),
}

/// The second pass.
struct Build {
    messages: Vec<Option<Arc<Message>>>,
    sessions: Vec<Option<RecoveredSession>>,
    subscriptions: Vec<BTreeMap<Box<str>, Subscription>>,
}

impl<D: Disk> Reading<'_, D> {
    /// Reads what is needed. Answers it, and what is to be said to the journal so that it knows what is lost.
    fn build(&mut self) -> io::Result<(Recovered, Records)> {
        let mut keyed: Vec<(u64, &Session)> = self.index.sessions().collect();
        keyed.sort_unstable_by_key(|(key, _)| *key);
        let mut wants: Vec<(Place, Want)> = Vec::with_capacity(self.index.slots() + keyed.len() * 2);
        wants.extend(self.index.messages().map(|(slot, place)| (place, Want::Message(slot))));
        for (at, (_, session)) in keyed.iter().enumerate() {
            wants.push((session.place, Want::Session(at as u32)));
            wants.extend(session.subscriptions().map(|place| (place, Want::Subscription(at as u32))));
        }
        wants.retain(|(place, _)| !place.is_nowhere());
        wants.sort_unstable_by_key(|(place, _)| (place.segment, place.offset));
        let mut build = Build {
            messages: vec![None; self.index.slots()],
            sessions: vec![None; keyed.len()],
            subscriptions: vec![BTreeMap::new(); keyed.len()],
        };
        let mut bytes = Vec::new();
        for wanted in wants.chunk_by(|one, other| one.0.segment == other.0.segment) {
            let (first, last) = (wanted[0].0, wanted[wanted.len() - 1].0);
            let from = u64::from(first.offset);
            let length = u64::from(last.offset) + u64::from(last.length) - from;
            read_around(self.disk, first.segment, from, length as usize, &mut bytes)?;
            for (place, want) in wanted {
                let at = (place.offset - first.offset) as usize + FRAME;
                let record = bytes.get(at..at + place.length as usize - FRAME).and_then(decode);
                if let Some(record) = record {
                    build.take(&record, *want, &keyed);
                }
            }
            self.disk.close(first.segment);
        }
        let mut words = Records::new();
        let report = &mut self.report;
        finish(&mut build, &keyed, report, &mut words);
        let retained: Vec<_> = self.index.retained().filter_map(|slot| build.messages[slot as usize].clone()).collect();
        report.retained = retained.len() as u64;
        report.messages = build.messages.iter().flatten().count() as u64;
        let sessions: Vec<_> = build.sessions.into_iter().flatten().collect();
        report.sessions = sessions.len() as u64;
        let last_session = self.index.last_session;
        Ok((Recovered { sessions, retained, last_session, report: std::mem::take(report) }, words))
    }
}

impl Build {
    fn take(&mut self, record: &Record<'_>, want: Want, keyed: &[(u64, &Session)]) {
        match (want, record) {
            (
                Want::Message(slot),
                Record::Published { message: stored, .. } | Record::Extra { message: Reference::Bytes(stored), .. },
            ) => {
                self.messages[slot as usize] = Message::restore(*stored).map(Arc::new);
            }
            (Want::Session(at), Record::Session { key, client_id, expiry, window, about, .. }) => {
                let session = keyed[at as usize].1;
                let away = session.away.map(|left| Away { since: left.since, sent_seq: left.sent });
                self.sessions[at as usize] = Some(RecoveredSession {
                    key: *key,
                    client_id: (*client_id).into(),
                    expiry: session.away.map_or(*expiry, |left| left.expiry),
                    window: *window,
                    about: (*about).into(),
                    away,
                    subscriptions: BTreeMap::new(),
                    inbound: session.inbound().to_vec(),
                    queue: Vec::new(),
                    extras: Vec::new(),
                    next_seq: session.last_seq + 1,
                    next_extra: session.last_extra + 1,
                });
            }
            (Want::Subscription(at), Record::Subscribed { filter, subscription, .. }) => {
                self.subscriptions[at as usize].insert((*filter).into(), *subscription);
            }
            _ => {}
        }
    }

    /// Gives a session its deliveries.
    fn deliveries(&self, to: &mut RecoveredSession, of: &Session, report: &mut Report, words: &mut Records) {
        to.queue.reserve_exact(of.queue().count());
        for entry in of.queue() {
            let held = entry.held();
            let received = held.received;
            if let Some(delivery) = self.delivery(held, entry.seq) {
                to.queue.push(Outstanding { seq: entry.seq, delivery, received });
            } else {
                words.done(to.key, entry.seq);
                report.lost_deliveries += 1;
            }
        }
        for extra in of.extras() {
            let held = extra.held();
            let (number, before, received) = (extra.number, extra.before, held.received);
            if let Some(delivery) = self.delivery(held, number | EXTRA) {
                to.extras.push(ExtraOutstanding { number, before, delivery, received });
            } else {
                words.done(to.key, number | EXTRA);
                report.lost_deliveries += 1;
            }
        }
        report.deliveries += (to.queue.len() + to.extras.len()) as u64;
    }

    fn delivery(&self, held: Held, seq: u64) -> Option<Delivery> {
        let Held { slot, qos, retain, via, .. } = held;
        let message = self.messages[slot as usize].clone()?;
        Some(Delivery { message, qos, retain, via, seq })
    }
}

/// Gives the sessions their deliveries, and says what is lost.
fn finish(build: &mut Build, keyed: &[(u64, &Session)], report: &mut Report, words: &mut Records) {
    // Of two sessions of one client the later counts: the process died before it said that the other has ended.
    let mut latest: HashMap<&str, usize> = HashMap::with_capacity(keyed.len());
    let mut former = Vec::new();
    for (at, session) in build.sessions.iter().enumerate() {
        let Some(session) = session else { continue };
        former.extend(latest.insert(&session.client_id, at));
    }
    for at in &former {
        build.sessions[*at] = None;
    }
    former.sort_unstable();
    let damaged = report.damaged_places > 0 || !report.missing_segments.is_empty() || !report.set_aside.is_empty();
    for (at, (key, session)) in keyed.iter().enumerate() {
        if let Some(mut recovered) = build.sessions[at].take() {
            recovered.subscriptions = std::mem::take(&mut build.subscriptions[at]);
            build.deliveries(&mut recovered, session, report, words);
            build.sessions[at] = Some(recovered);
            continue;
        }
        words.ended(*key);
        // Others speak of it. That it has ended may have been said in a segment that is gone; where something is damaged,
        // it may be its own record.
        if damaged && former.binary_search(&at).is_err() {
            report.lost_session(*key);
            report.lost_deliveries += session.queue().count() as u64 + session.extras().len() as u64;
        }
    }
}
