//! The disk, as far as the journal needs one.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use super::crash;
use super::frame::HEADER;

#[cfg(test)]
pub mod simulated;

/// Where what is damaged is set aside.
pub const DAMAGED: &str = "damaged";
const FORMAT: &str = "format";
const LOCK: &str = "lock";
const REPORT: &str = "report.json";
/// The name of a file that is being made.
const NEW: &str = "new";
/// Zeroes that are written at a time: a disk that is busy with them lets others through in between.
const STEP: usize = 1024 * 1024;

/// What is there: segments with their lengths, and names.
pub type Listed = (Vec<(u32, u64)>, Vec<String>);

/// What the journal does with its directory. Segments are files of fixed length that begin as zeroes, so that writing
/// into them changes nothing that the file system has to note.
pub trait Disk: Send {
    /// The segments that are there, in order, with their lengths; and the names of what is not the journal's.
    fn list(&mut self) -> io::Result<Listed>;
    /// What a segment holds from `from` on, up to `length` bytes.
    fn read(&mut self, number: u32, from: u64, length: usize, into: &mut Vec<u8>) -> io::Result<()>;
    fn write(&mut self, number: u32, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns when what was written to a segment is kept.
    fn sync(&mut self, number: u32) -> io::Result<()>;
    /// Begins to make a segment: `length` bytes, of which the first are `header` and the others zeroes; all synced.
    fn begin(&mut self, number: u32, header: [u8; HEADER], length: u64);
    /// Whether that is done; `None`: not yet.
    fn begun(&mut self) -> Option<io::Result<()>>;
    /// Forgets a segment's file handle, if it has one.
    fn close(&mut self, number: u32);
    fn remove(&mut self, number: u32) -> io::Result<()>;
    /// Puts a segment that is not the journal's any more beside it, as it is.
    fn set_aside(&mut self, number: u32) -> io::Result<()>;
    /// The segments that were.
    fn aside(&mut self) -> io::Result<Vec<u32>>;
    /// Shortens a segment.
    fn cut(&mut self, number: u32, length: u64) -> io::Result<()>;
    /// A small file; `None` if it is not there.
    fn get(&mut self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Replaces a small file as a whole; synced.
    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
}

/// A directory.
pub struct Directory {
    path: PathBuf,
    files: HashMap<u32, File>,
    making: Option<Receiver<io::Result<File>>>,
    making_number: u32,
    /// Called when a segment is made.
    made: Arc<dyn Fn() + Send + Sync>,
    /// Locked as long as this is used.
    _lock: File,
}

/// The name of a segment's file.
pub fn segment_name(number: u32) -> String {
    format!("{number:010}.log")
}

fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".log").filter(|digits| digits.len() == 10)?.parse().ok()?;
    (number > 0 && segment_name(number) == name).then_some(number)
}

impl Directory {
    /// Takes the directory for this process; `None`: another one has it.
    pub fn lock(path: &Path, made: Arc<dyn Fn() + Send + Sync>) -> io::Result<Option<Self>> {
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(Some(Self {
            path: path.to_owned(),
            files: HashMap::new(),
            making: None,
            making_number: 0,
            made,
            _lock: lock,
        }))
    }

    fn file(&mut self, number: u32) -> io::Result<&mut File> {
        if !self.files.contains_key(&number) {
            let file = OpenOptions::new().read(true).write(true).open(self.path.join(segment_name(number)))?;
            self.files.insert(number, file);
        }
        self.files.get_mut(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // The next owner of the directory is not to find a segment that appears by itself.
        if let Some(making) = self.making.take() {
            let _ = making.recv();
        }
    }
}

impl Disk for Directory {
    fn list(&mut self) -> io::Result<Listed> {
        let (mut segments, mut foreign) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let metadata = entry.metadata()?;
            if let Some(number) = segment_number(&name).filter(|_| metadata.is_file()) {
                segments.push((number, metadata.len()));
            } else if name.ends_with(&format!(".{NEW}")) {
                // The process died while it made this one.
                std::fs::remove_file(entry.path())?;
            } else if ![LOCK, FORMAT, DAMAGED, REPORT].contains(&name.as_str()) {
                foreign.push(name);
            }
        }
        segments.sort_unstable();
        foreign.sort_unstable();
        Ok((segments, foreign))
    }

    fn read(&mut self, number: u32, from: u64, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        into.clear();
        let file = self.file(number)?;
        file.seek(SeekFrom::Start(from))?;
        file.take(length as u64).read_to_end(into)?;
        Ok(())
    }

    fn write(&mut self, number: u32, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(number)?.write_all_at(bytes, at)
    }

    fn sync(&mut self, number: u32) -> io::Result<()> {
        self.file(number)?.sync_data()
    }

    fn begin(&mut self, number: u32, header: [u8; HEADER], length: u64) {
        let (sender, receiver) = channel();
        let (path, made) = (self.path.clone(), self.made.clone());
        // A thread of its own: who commits meanwhile is not to wait for megabytes of zeroes.
        let thread = std::thread::Builder::new().name("journal-segment".to_owned());
        let fallback = sender.clone();
        let spawned = thread.spawn(move || {
            // Whoever began it may be gone, and then it is not needed.
            let _ = sender.send(make(&path, number, header, length));
            made();
        });
        if let Err(error) = spawned {
            let _ = fallback.send(Err(error));
        }
        (self.making, self.making_number) = (Some(receiver), number);
    }

    fn begun(&mut self) -> Option<io::Result<()>> {
        let made = match self.making.as_ref()?.try_recv() {
            Ok(made) => made,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(io::Error::other("the thread that made a segment is gone")),
        };
        self.making = None;
        Some(made.map(|file| {
            self.files.insert(self.making_number, file);
        }))
    }

    fn close(&mut self, number: u32) {
        self.files.remove(&number);
    }

    fn remove(&mut self, number: u32) -> io::Result<()> {
        self.files.remove(&number);
        match std::fs::remove_file(self.path.join(segment_name(number))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync_directory(),
        }
    }

    fn set_aside(&mut self, number: u32) -> io::Result<()> {
        self.files.remove(&number);
        let (name, damaged) = (segment_name(number), self.path.join(DAMAGED));
        std::fs::create_dir_all(&damaged)?;
        std::fs::rename(self.path.join(&name), damaged.join(&name))?;
        File::open(&damaged)?.sync_all()?;
        self.sync_directory()
    }

    fn aside(&mut self) -> io::Result<Vec<u32>> {
        let entries = match std::fs::read_dir(self.path.join(DAMAGED)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            numbers.extend(entry?.file_name().to_str().and_then(segment_number));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn cut(&mut self, number: u32, length: u64) -> io::Result<()> {
        let file = self.file(number)?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn get(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path.join(name);
        if let Some(parent) = path.parent().filter(|parent| *parent != self.path) {
            std::fs::create_dir_all(parent)?;
        }
        let new = self.path.join(format!("{}.{NEW}", name.replace('/', "-")));
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        self.sync_directory()
    }
}

/// Makes a segment under another name first, so that half of one is never found.
fn make(directory: &Path, number: u32, header: [u8; HEADER], length: u64) -> io::Result<File> {
    let name = segment_name(number);
    let new = directory.join(format!("{name}.{NEW}"));
    let made = fill(&new, header, length).and_then(|file| {
        crash::point("new-segment");
        std::fs::rename(&new, directory.join(&name))?;
        File::open(directory)?.sync_all()?;
        Ok(file)
    });
    if made.is_err() {
        // The room that it took may be needed; whether this works, too, changes nothing.
        let _ = std::fs::remove_file(&new);
    }
    made
}

fn fill(path: &Path, header: [u8; HEADER], length: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all(&header)?;
    let zeroes = vec![0; STEP];
    let mut left = length.saturating_sub(HEADER as u64);
    while left > 0 {
        let step = left.min(STEP as u64);
        file.write_all(&zeroes[..step as usize])?;
        file.sync_data()?;
        left -= step;
    }
    file.sync_all()?;
    Ok(file)
}
