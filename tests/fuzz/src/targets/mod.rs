//! One module a target. Each `run` takes any bytes at all and panics when a promise is broken.

pub mod acl;
mod broker;
pub mod connection;
pub mod decoder;
pub mod jwks;
pub mod packets;
pub mod proxy;
pub mod rules;
pub mod splits;
pub mod token;
pub mod websocket;
mod world;

use std::path::{Path, PathBuf};

/// The inputs that are kept of a target, by file.
pub fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // This file is compiled into the fuzz package and into the tests of the library.
    let package = if here.ends_with("tests/fuzz") { here.to_owned() } else { here.join("tests/fuzz") };
    let folder = package.join("corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder is readable").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    let read = |path: PathBuf| {
        let input = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, input)
    };
    files.into_iter().map(read).collect()
}
