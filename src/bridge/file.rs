//! The sink for a machine without Elasticsearch: the same documents, a line each, in files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a file at which the next one is begun.
pub const ROTATE_AT: u64 = 64 * 1024 * 1024;

/// `<directory>/<data stream>.ndjson`, and behind it `<data stream>.1.ndjson` and so on, the oldest first.
#[derive(Clone, Debug)]
pub struct FileSink {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    directory: PathBuf,
    stream: String,
    rotate_at: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
}

impl FileSink {
    /// Opens nothing yet.
    pub fn new(directory: &Path, stream: &str) -> Self {
        Self::rotating_at(directory, stream, ROTATE_AT)
    }

    fn rotating_at(directory: &Path, stream: &str, rotate_at: u64) -> Self {
        let state = State { directory: directory.to_owned(), stream: stream.to_owned(), rotate_at, open: None };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The file that is written to.
    pub fn path(&self) -> PathBuf {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).path()
    }

    /// Appends whole lines. When this returns, the disk has them.
    pub async fn append(&self, lines: Vec<u8>) -> io::Result<()> {
        let state = Arc::clone(&self.state);
        let writing = tokio::task::spawn_blocking(move || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = state.append(&lines);
            if result.is_err() {
                // Whatever is in the file now, opening it again puts it right.
                state.open = None;
            }
            result
        });
        writing.await.map_err(io::Error::other)?
    }
}

impl State {
    fn path(&self) -> PathBuf {
        self.directory.join(format!("{}.ndjson", self.stream))
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let path = self.path();
        let mut open = match self.open.take() {
            Some(open) if is_at(&open.file, &path) => open,
            _ => self.open_file(&path)?,
        };
        if open.length > 0 && open.length + lines.len() as u64 > self.rotate_at {
            fs::rename(&path, self.next_name()?)?;
            open = self.open_file(&path)?;
        }
        open.file.write_all(lines)?;
        open.file.sync_data()?;
        open.length += lines.len() as u64;
        self.open = Some(open);
        Ok(())
    }

    fn open_file(&self, path: &Path) -> io::Result<Open> {
        fs::create_dir_all(&self.directory)?;
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let length = end_of_last_line(&mut file)?;
        // What is behind the last line end was never acknowledged: the broker sends it again.
        file.set_len(length)?;
        // A new name is on the disk only when its directory is.
        File::open(&self.directory)?.sync_all()?;
        Ok(Open { file, length })
    }

    fn next_name(&self) -> io::Result<PathBuf> {
        let mut last = 0;
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let number = name.strip_prefix(&format!("{}.", self.stream)).and_then(|rest| rest.strip_suffix(".ndjson"));
            last = last.max(number.and_then(|number| number.parse().ok()).unwrap_or(0));
        }
        Ok(self.directory.join(format!("{}.{}.ndjson", self.stream, last + 1_u64)))
    }
}

/// Whether this is still the file of that name, and not one that somebody moved or removed.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn end_of_last_line(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let piece = &mut block[..usize::try_from(end - start).expect("at most a block")];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(piece)?;
        if let Some(place) = piece.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + place as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::FileSink;

    #[tokio::test]
    async fn files_are_rotated_and_no_line_is_lost_or_cut() {
        let directory = tempfile::tempdir().unwrap();
        let sink = FileSink::rotating_at(&directory.path().join("new"), "s", 100);
        for number in 0..30 {
            sink.append(format!("{{\"number\":{number:02}}}\n").into_bytes()).await.unwrap();
        }
        let read = |name: &str| fs::read_to_string(directory.path().join("new").join(name)).unwrap();
        let all = ["s.1.ndjson", "s.2.ndjson", "s.3.ndjson", "s.4.ndjson", "s.ndjson"].map(read);
        assert!(all.iter().all(|text| text.len() <= 100 && text.ends_with('\n')), "{all:?}");
        let lines: Vec<_> = all.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
        assert_eq!(lines, (0..30).map(|number| format!("{{\"number\":{number:02}}}")).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_torn_line_is_cut_off_when_the_file_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.ndjson");
        let torn = "x".repeat(10_000);
        fs::write(&path, format!("{{\"whole\":1}}\n{{\"torn{torn}")).unwrap();
        FileSink::new(directory.path(), "s").append(b"{\"next\":2}\n".to_vec()).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"whole\":1}\n{\"next\":2}\n");
    }

    #[tokio::test]
    async fn a_file_that_somebody_moved_is_begun_again() {
        let directory = tempfile::tempdir().unwrap();
        let sink = FileSink::new(directory.path(), "s");
        sink.append(b"1\n".to_vec()).await.unwrap();
        fs::rename(sink.path(), directory.path().join("taken")).unwrap();
        sink.append(b"2\n".to_vec()).await.unwrap();
        assert_eq!(fs::read_to_string(sink.path()).unwrap(), "2\n");
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_is_an_error_and_later_none() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("telemetry");
        fs::write(&place, "a file where the directory should be").unwrap();
        let sink = FileSink::new(&place, "s");
        assert!(sink.append(b"1\n".to_vec()).await.is_err());
        fs::remove_file(&place).unwrap();
        sink.append(b"1\n".to_vec()).await.unwrap();
        assert_eq!(fs::read_to_string(sink.path()).unwrap(), "1\n");
    }
}
