//! The tokens that are taken back, a file each, as the Secret `<name>-revocations` of a cluster has them.

use std::fs;
use std::path::Path;

use super::Error;
use super::state::{self, Home};
use crate::auth::revocations::{Entry, parse_time};

/// What stands in the directory for a moment, under a name that no reader takes for an entry.
const UNFINISHED: &str = "..new";

/// Adds an entry; one that is there never loses what it refused before.
pub fn add(home: &Home, name: &str, time: u64) -> Result<(), Error> {
    let directory = home.etc().revocations();
    let path = directory.join(name);
    let before = state::read(&path)?.and_then(|content| parse_time(name, content.as_bytes()).ok());
    let content = format!("{}\n", before.map_or(time, |before| before.max(time)));
    state::write(&directory.join(UNFINISHED), content.as_bytes())?;
    let renamed = fs::rename(directory.join(UNFINISHED), &path);
    renamed.map_err(|source| Error::Write { path, source })
}

/// Removes the entries that refuse nothing any more at `now`, when no token is accepted that lives longer than
/// `longest` seconds. What is not understood stays.
pub fn prune(directory: &Path, longest: u64, now: u64) -> Result<(), Error> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(parsed) = Entry::parse(&name) else { continue };
        let Some(content) = state::read(&entry.path())? else { continue };
        if parse_time(&name, content.as_bytes()).is_ok_and(|time| now >= parsed.over_at(time, longest)) {
            state::remove(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_until_they_refuse_nothing() {
        let state = tempfile::tempdir().unwrap();
        let home = Home::new(state.path(), "shop", "home");
        for (name, time) in [("jti.a", 500), ("jti.b", 2000), ("sub.d", 500), ("sub.d", 400), ("before", 100)] {
            add(&home, name, time).unwrap();
        }
        let directory = home.etc().revocations();
        fs::write(directory.join("notes"), "not ours").unwrap();
        let names = || {
            let mut names: Vec<String> = fs::read_dir(&directory)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["before", "jti.a", "jti.b", "notes", "sub.d"]);
        assert_eq!(fs::read_to_string(directory.join("sub.d")).unwrap(), "500\n", "never less than before");
        prune(&directory, 1000, 1200).unwrap();
        assert_eq!(names(), ["jti.b", "notes", "sub.d"]);
        prune(&directory, 1000, 9999).unwrap();
        assert_eq!(names(), ["notes"]);
        prune(&directory.join("absent"), 1, 1).unwrap();
    }
}
