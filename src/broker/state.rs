//! The directory of what is kept, looked at before anybody is served.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::Error;
use crate::config::broker::{Durability, Storage};
use crate::config::files::State;
use crate::process;
use crate::store::journal::{self, Journal, Recovered};

/// Bytes of a segment of the journal, a small share of the whole, so that old ones can go one by one.
fn segment(size: u64) -> u32 {
    const LEAST: u64 = 1024 * 1024;
    const MOST: u64 = 16 * 1024 * 1024;
    u32::try_from((size / 64).clamp(LEAST, MOST)).unwrap_or(u32::MAX)
}

/// Opens what is kept in the directory, if anything is to be kept.
pub fn open(storage: Option<Storage>, state: &State) -> Result<Option<(Journal, Recovered)>, Error> {
    let Some(Storage { durability, size }) = storage else { return Ok(None) };
    prepare(durability, state)?;
    let durability = match durability {
        Durability::Memory => return Ok(None),
        Durability::Fsync => journal::Durability::Fsync,
        Durability::Async => journal::Durability::Async,
    };
    if let Err(error) = process::file_size::refuse_by_error() {
        tracing::warn!(%error, "a limit on the size of files (ulimit -f), if there is one, ends the broker when it is reached");
    }
    let settings = journal::Settings { directory: state.0.join("journal"), durability, size, segment: segment(size) };
    Ok(Some(journal::open(settings)?))
}

/// Says why messages could not be kept in the directory, before one is acknowledged.
fn prepare(durability: Durability, state: &State) -> Result<(), Error> {
    if !durability.is_durable() {
        return Ok(());
    }
    writable(&state.0).map_err(|source| Error::State { path: state.0.clone(), durability, source })
}

/// Makes the directory, and a file in it: permissions alone do not tell whether a volume is mounted read-only.
fn writable(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let probe = directory.join(".writable");
    OpenOptions::new().write(true).create(true).truncate(true).open(&probe)?;
    fs::remove_file(&probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_written_is_said_with_the_next_step() {
        let directory = tempfile::tempdir().unwrap();
        // Root may write anywhere, but nobody makes a directory below a file.
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let state = State(file.join("state"));
        for durability in [Durability::Fsync, Durability::Async] {
            let said = prepare(durability, &state).unwrap_err().to_string();
            for part in [&*state.0.to_string_lossy(), durability.as_str(), "--state", "durability memory"] {
                assert!(said.contains(part), "{said}");
            }
        }
        prepare(Durability::Memory, &state).unwrap();
        let state = State(directory.path().join("new"));
        prepare(Durability::Fsync, &state).unwrap();
        assert_eq!(fs::read_dir(&state.0).unwrap().count(), 0);
    }
}
