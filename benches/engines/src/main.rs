//! Engines for the durable store, on its workload.
//!
//! `engines report --directory DIR` runs everything, each part in a process of its own and the engines in turn, and
//! prints Markdown; `--write PAGE` puts it between the marks of a page. Needs Linux; `strace` for the number of syncs,
//! and root for the small disk.

mod damage;
mod engine;
mod load;
mod on_fjall;
mod on_log;
mod on_redb;
mod process;
mod report;

use std::path::Path;
use std::process::ExitCode;

use engine::{Engine, Failure, Nothing};
use on_fjall::Fjall;
use on_log::Log;
use on_redb::Redb;

/// A backlog, and what a killed process leaves.
const SESSIONS: u32 = 1000;
const EACH: u64 = 1000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["report", ..] => report::run(&words[1..]),
        [verb, "nothing", directory, ref rest @ ..] => run::<Nothing>(verb, Path::new(directory), rest),
        [verb, "fjall", directory, ref rest @ ..] => run::<Fjall>(verb, Path::new(directory), rest),
        [verb, "redb", directory, ref rest @ ..] => run::<Redb>(verb, Path::new(directory), rest),
        [verb, "log", directory, ref rest @ ..] => run::<Log>(verb, Path::new(directory), rest),
        _ => Err(report::USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// One part of the report, on one engine.
fn run<E: Engine>(verb: &str, directory: &Path, rest: &[&str]) -> Result<(), Failure> {
    let number = |at: usize| rest.get(at).ok_or("a number is missing")?.parse::<u64>().map_err(Failure::from);
    match verb {
        "churn" => load::churn::<E>(directory, number(0)? as u32, number(1)?),
        "backlog" => load::backlog::<E>(directory, SESSIONS, EACH),
        "fill" => hold::<E>(directory, SESSIONS, EACH),
        "reopen" => load::reopen::<E>(directory, SESSIONS, u64::from(SESSIONS) * EACH),
        "fill-few" => hold::<E>(directory, damage::SESSIONS, damage::EACH),
        "flipped" => damage::flipped::<E>(directory),
        "truncated" => damage::truncated::<E>(directory),
        "second" => damage::second::<E>(directory),
        "full" => damage::full_disk::<E>(directory),
        _ => Err(report::USAGE.into()),
    }
}

/// Fills, says so, and stays until it is killed.
fn hold<E: Engine>(directory: &Path, sessions: u32, each: u64) -> Result<(), Failure> {
    let mut engine = E::open(directory)?;
    load::fill(&mut engine, sessions, each)?;
    println!("filled");
    std::io::stdin().read_line(&mut String::new())?;
    drop(engine);
    Ok(())
}
