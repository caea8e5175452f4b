//! A plain segmented log with an index in memory: what is committed is appended, what is over leaves with its segment.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::engine::{Engine, Failure, Op, PAYLOAD, Payload, Target};

const SEGMENT: u64 = 16 << 20;
/// What may lie on the disk beside what is live.
const SLACK: u64 = 64 << 20;
const HEAD: usize = 8;
/// Copied at most with one commit.
const SLICE: usize = 1 << 20;

/// A message that still has deliveries: where its frame is, and how long.
struct Kept {
    segment: u32,
    at: u64,
    length: u32,
    left: Vec<Target>,
}

#[derive(Default)]
struct Index {
    messages: HashMap<u64, Kept>,
    queues: HashMap<u32, BTreeMap<u64, u64>>,
    live: u64,
}

pub struct Log {
    directory: PathBuf,
    segments: BTreeMap<u32, File>,
    end: u64,
    ahead: Option<JoinHandle<std::io::Result<File>>>,
    index: Index,
    /// Where copying goes on in the oldest segment.
    copied: u64,
    damaged: usize,
    buffer: Vec<u8>,
    _lock: File,
}

fn path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}.log"))
}

/// A file of zeroes that is on the disk: what is written into it later changes no metadata, and a full disk is found now.
fn create(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let zeroes = vec![0; 1 << 20];
    (0..SEGMENT >> 20).try_for_each(|mib| file.write_all_at(&zeroes, mib << 20))?;
    file.sync_all()?;
    File::open(path.parent().expect("a file has a directory"))?.sync_all()?;
    Ok(file)
}

fn checksum(segment: u32, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.to_le_bytes());
    hasher.update(&frame[..4]);
    hasher.update(&frame[HEAD..]);
    hasher.finalize()
}

fn frame(segment: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    fill(out);
    let length = (out.len() - start - HEAD) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(segment, &out[start..]);
    out[start + 4..start + HEAD].copy_from_slice(&crc.to_le_bytes());
}

fn publish(segment: u32, out: &mut Vec<u8>, id: u64, payload: &[u8], targets: &[Target]) {
    frame(segment, out, |out| {
        out.push(1);
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(payload);
        for target in targets {
            out.extend_from_slice(&target.session.to_le_bytes());
            out.extend_from_slice(&target.seq.to_le_bytes());
        }
    });
}

fn target(bytes: &[u8]) -> Target {
    let (session, seq) = bytes.split_at(4);
    Target {
        session: u32::from_le_bytes(session.try_into().expect("four bytes")),
        seq: u64::from_le_bytes(seq.try_into().expect("eight bytes")),
    }
}

/// The whole frame at the start of `bytes`, if there is a good one.
fn valid(segment: u32, bytes: &[u8]) -> Option<&[u8]> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let frame = bytes.get(..HEAD + length).filter(|_| length > 0)?;
    (frame[4..HEAD] == checksum(segment, frame).to_le_bytes()).then_some(frame)
}

impl Index {
    /// What the frame at this place says. A message that is there already has been copied.
    fn apply(&mut self, segment: u32, at: u64, frame: &[u8]) {
        let (kind, body) = (frame[HEAD], &frame[HEAD + 1..]);
        if kind == 1 {
            let id = u64::from_le_bytes(body[..8].try_into().expect("eight bytes"));
            let left: Vec<Target> = body[8 + PAYLOAD..].chunks_exact(12).map(target).collect();
            for target in &left {
                self.queues.entry(target.session).or_default().insert(target.seq, id);
            }
            let kept = Kept { segment, at, length: frame.len() as u32, left };
            self.live += frame.len() as u64;
            self.live -= self.messages.insert(id, kept).map_or(0, |old| u64::from(old.length));
        } else {
            let target = target(body);
            let Some(queue) = self.queues.get_mut(&target.session) else { return };
            let Some(id) = queue.remove(&target.seq) else { return };
            if queue.is_empty() {
                self.queues.remove(&target.session);
            }
            let Some(kept) = self.messages.get_mut(&id) else { return };
            kept.left.retain(|other| *other != target);
            if kept.left.is_empty() {
                self.live -= u64::from(kept.length);
                self.messages.remove(&id);
            }
        }
    }
}

impl Log {
    /// Whether there was anything in it.
    fn read(&mut self, number: u32) -> Result<bool, Failure> {
        let bytes = std::fs::read(path(&self.directory, number))?;
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        // A segment has its whole length from the beginning.
        self.damaged += usize::from(bytes.len() as u64 != SEGMENT);
        let (mut at, mut broken) = (0, false);
        while at < used {
            if let Some(frame) = valid(number, &bytes[at..]) {
                // Something good after something bad is damage; nothing good after it is a torn end.
                self.damaged += usize::from(std::mem::take(&mut broken));
                self.index.apply(number, at as u64, frame);
                at += frame.len();
                self.end = at as u64;
            } else {
                broken = true;
                at += 1;
            }
        }
        Ok(used > 0)
    }

    fn last(&self) -> u32 {
        *self.segments.last_key_value().expect("one is always open").0
    }

    /// Goes on in a new segment.
    fn turn(&mut self) -> Result<(), Failure> {
        let number = self.segments.last_key_value().map_or(0, |(number, _)| *number) + 1;
        let file = match self.ahead.take() {
            Some(thread) => thread.join().expect("writing zeroes does not panic"),
            None => create(&path(&self.directory, number)),
        }?;
        self.segments.insert(number, file);
        self.end = 0;
        let next = path(&self.directory, number + 1);
        self.ahead = Some(std::thread::spawn(move || create(&next)));
        Ok(())
    }

    /// Writes frames that fit into what is left, and syncs.
    fn write(&mut self, buffer: &[u8]) -> Result<(), Failure> {
        let number = self.last();
        let file = &self.segments[&number];
        file.write_all_at(buffer, self.end)?;
        file.sync_data()?;
        let mut at = 0;
        while let Some(frame) = valid(number, &buffer[at..]) {
            self.index.apply(number, self.end + at as u64, frame);
            at += frame.len();
        }
        self.end += buffer.len() as u64;
        Ok(())
    }

    /// Copies a slice of what is live in the oldest segment to the end, if there is too much that is not.
    fn compact(&mut self, out: &mut Vec<u8>) -> Result<Option<u32>, Failure> {
        let total = self.segments.len() as u64 * SEGMENT;
        let oldest = *self.segments.first_key_value().expect("one is always open").0;
        let (number, live) = (self.last(), self.index.live);
        if oldest == number || total <= (2 * live).max(live + SLACK) {
            return Ok(None);
        }
        let mut slice = vec![0; SLICE];
        let read = self.segments[&oldest].read_at(&mut slice, self.copied)?;
        let mut at = 0;
        while let Some(frame) = valid(oldest, &slice[at..read]) {
            let place = self.copied + at as u64;
            let id = u64::from_le_bytes(frame[HEAD + 1..HEAD + 9].try_into().expect("eight bytes"));
            let kept = self.index.messages.get(&id).filter(|_| frame[HEAD] == 1);
            if let Some(kept) = kept.filter(|kept| kept.segment == oldest && kept.at == place) {
                publish(number, out, id, &frame[HEAD + 9..HEAD + 9 + PAYLOAD], &kept.left);
            }
            at += frame.len();
        }
        if at > 0 {
            self.copied += at as u64;
            return Ok(None);
        }
        self.copied = 0;
        Ok(Some(oldest))
    }

    fn payload(&self, id: u64) -> Result<Payload, Failure> {
        let kept = self.index.messages.get(&id).ok_or("a delivery without its message")?;
        let mut payload = [0; PAYLOAD];
        self.segments[&kept.segment].read_exact_at(&mut payload, kept.at + (HEAD + 9) as u64)?;
        Ok(payload)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Nothing is written any more once the value is gone.
        if let Some(thread) = self.ahead.take() {
            let _ = thread.join();
        }
    }
}

impl Engine for Log {
    fn open(directory: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(directory)?;
        let lock = File::create(directory.join("lock"))?;
        lock.try_lock().map_err(|_| "in use by another process".to_owned())?;
        let names =
            std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>, Failure>>();
        let number = |name: &std::ffi::OsString| name.to_str()?.strip_suffix(".log")?.parse::<u32>().ok();
        let mut numbers: Vec<u32> = names?.iter().filter_map(number).collect();
        numbers.sort_unstable();
        let mut log = Self {
            directory: directory.to_owned(),
            segments: BTreeMap::new(),
            end: 0,
            ahead: None,
            index: Index::default(),
            copied: 0,
            damaged: 0,
            buffer: Vec::new(),
            _lock: lock,
        };
        for number in numbers {
            if log.read(number)? {
                log.segments.insert(number, File::open(path(directory, number))?);
            } else {
                std::fs::remove_file(path(directory, number))?;
            }
        }
        // What is behind a torn end is never written over.
        log.turn()?;
        Ok(log)
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), Failure> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let room = SEGMENT.saturating_sub(SLICE as u64 * 2);
        if self.end > room {
            self.turn()?;
        }
        let number = self.last();
        for op in ops {
            match op {
                Op::Publish { id, payload, targets } => publish(number, &mut buffer, *id, payload, targets),
                Op::Done { target, .. } => frame(number, &mut buffer, |out| {
                    out.push(2);
                    out.extend_from_slice(&target.session.to_le_bytes());
                    out.extend_from_slice(&target.seq.to_le_bytes());
                }),
            }
        }
        let freed = if buffer.len() < SLICE / 2 { self.compact(&mut buffer)? } else { None };
        self.write(&buffer)?;
        self.buffer = buffer;
        if let Some(oldest) = freed {
            self.segments.remove(&oldest);
            std::fs::remove_file(path(&self.directory, oldest))?;
        }
        Ok(())
    }

    fn page(&self, session: u32, most: usize) -> Result<Vec<(u64, Payload)>, Failure> {
        let queue = self.index.queues.get(&session).into_iter().flatten().take(most);
        queue.map(|(seq, id)| Ok((*seq, self.payload(*id)?))).collect()
    }

    fn all(&self, each: &mut dyn FnMut(Target, &[u8])) -> Result<(), Failure> {
        // Each segment once, from its beginning to its end.
        let mut segments: HashMap<u32, Vec<u8>> = HashMap::new();
        for number in self.segments.keys() {
            segments.insert(*number, std::fs::read(path(&self.directory, *number))?);
        }
        for (session, queue) in &self.index.queues {
            for (seq, id) in queue {
                let kept = self.index.messages.get(id).ok_or("a delivery without its message")?;
                let payload = kept.at as usize + HEAD + 9;
                each(Target { session: *session, seq: *seq }, &segments[&kept.segment][payload..payload + PAYLOAD]);
            }
        }
        Ok(())
    }

    fn said_damaged(&self) -> bool {
        self.damaged > 0
    }
}
