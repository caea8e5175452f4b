//! Flags and terminal output of the four programs.
//!
//! The only room that prints. A program parses its flags, starts its logs, calls its room, and turns an error into one
//! line on stderr: what was being done, why it failed, and what to do next. May name every room; of `operator` only what
//! its `mod.rs` offers.

mod address;
mod admin;
mod audit;
mod authz;
mod bench;
mod denies;
mod endpoint;
mod keys;
mod lint;
mod messages;
mod mqttctl;
mod programs;
mod revoke;
mod rules;
mod session;
mod target;
mod token;
mod up;
mod user;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;

pub use mqttctl::main as mqttctl;
pub use programs::broker;

/// What a failure is worth to the shell.
fn exit(program: &str, result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads has left, as `head` does; there is nobody to tell.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes in one line. A cause that its parent already told is not told again.
fn chain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            let _ = write!(line, ": {text}");
        }
    }
    line.replace('\n', " ")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

/// Prints a line; `println!` would panic when nobody reads any more.
fn say(line: impl std::fmt::Display) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Unix time in seconds.
fn now() -> anyhow::Result<u64> {
    Ok(SystemTime::UNIX_EPOCH.elapsed().context("the clock is before 1970")?.as_secs())
}

/// Runs a program's work on a runtime of its own.
fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[test]
    fn a_chain_is_one_line_that_says_nothing_twice() {
        let error = anyhow::anyhow!("permission denied").context("read a.yaml: permission denied").context("up");
        assert_eq!(chain(&error), "up: read a.yaml: permission denied");
    }
}
