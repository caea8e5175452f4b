//! Runs the parts, and puts them into a page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::engine::Failure;

pub const USAGE: &str = "usage: engines report --directory DIR [--rounds N] [--seconds N] [--note TEXT] [--write PAGE]";

const ENGINES: [&str; 3] = ["fjall", "redb", "log"];
const MARKS: [&str; 2] = ["<!-- engines -->", "<!-- end of engines -->"];
/// MiB of the small disk, and of what is taken away from it later.
const SMALL: u64 = 160;
const BALLAST: u64 = 48;

/// What the parts have printed: a line of the report by engine, with one value a round.
type Figures = BTreeMap<(&'static str, String), Vec<String>>;

struct Options {
    directory: PathBuf,
    rounds: usize,
    seconds: String,
    note: String,
    page: Option<PathBuf>,
}

fn options(words: &[&str]) -> Result<Options, Failure> {
    let mut options =
        Options { directory: PathBuf::new(), rounds: 3, seconds: "10".into(), note: String::new(), page: None };
    for pair in words.chunks(2) {
        match *pair {
            ["--directory", directory] => options.directory = directory.into(),
            ["--rounds", rounds] => options.rounds = rounds.parse()?,
            ["--seconds", seconds] => options.seconds = seconds.into(),
            ["--note", note] => options.note = note.into(),
            ["--write", page] => options.page = Some(page.into()),
            _ => return Err(USAGE.into()),
        }
    }
    if options.directory.as_os_str().is_empty() { Err(USAGE.into()) } else { Ok(options) }
}

/// Runs a part in a process of its own; what it printed is on our side, what it says on stderr is the reader's.
fn part(command: &mut Command) -> Result<Vec<(String, String)>, Failure> {
    let output = command.stderr(Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{command:?}: {}: {said}", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter_map(|line| line.split_once(' ')).map(|(name, value)| (name.into(), value.into())).collect())
}

fn ours(words: &[&str], directory: &Path) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(&words[..2]).arg(directory).args(&words[2..]);
    Ok(command)
}

fn note(figures: &mut Figures, engine: &'static str, prefix: &str, values: Vec<(String, String)>) {
    for (name, value) in values {
        figures.entry((engine, format!("{prefix}{name}"))).or_default().push(value);
    }
}

/// An empty directory below the one that was given.
fn fresh(options: &Options) -> Result<PathBuf, Failure> {
    let directory = options.directory.join("run");
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// A process that has filled a store, in the middle of its life.
fn filled(verb: &str, engine: &str, directory: &Path) -> Result<std::process::Child, Failure> {
    let mut child = ours(&[verb, engine], directory)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("a pipe")?).read_line(&mut line)?;
    if line.trim() == "filled" { Ok(child) } else { Err(format!("{verb} {engine} said {line:?}").into()) }
}

fn killed(mut child: std::process::Child) -> Result<(), Failure> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

pub fn run(words: &[&str]) -> Result<(), Failure> {
    let options = options(words)?;
    std::fs::create_dir_all(&options.directory)?;
    let mut figures = Figures::new();
    for round in 0..options.rounds {
        for engine in ENGINES.into_iter().chain(["nothing"]) {
            eprintln!("round {} of {}: {engine}", round + 1, options.rounds);
            note(
                &mut figures,
                engine,
                "1 ",
                part(&mut ours(&["churn", engine, "1", &options.seconds], &fresh(&options)?)?)?,
            );
            note(
                &mut figures,
                engine,
                "10 ",
                part(&mut ours(&["churn", engine, "10", &options.seconds], &fresh(&options)?)?)?,
            );
            if engine == "nothing" {
                continue;
            }
            note(&mut figures, engine, "backlog ", part(&mut ours(&["backlog", engine], &fresh(&options)?)?)?);
            let directory = fresh(&options)?;
            killed(filled("fill", engine, &directory)?)?;
            note(&mut figures, engine, "reopen ", part(&mut ours(&["reopen", engine], &directory)?)?);
        }
        note(&mut figures, "nothing", "disk ", vec![("sync".into(), format!("{:.0}", disk_sync(&options)?))]);
    }
    for engine in ENGINES {
        eprintln!("damage: {engine}");
        note(&mut figures, engine, "", syncs(&options, engine)?);
        let directory = fresh(&options)?;
        let child = filled("fill-few", engine, &directory)?;
        note(&mut figures, engine, "", part(&mut ours(&["second", engine], &directory)?)?);
        killed(child)?;
        for verb in ["flipped", "truncated"] {
            note(&mut figures, engine, "", part(&mut ours(&[verb, engine], &directory)?)?);
        }
        note(&mut figures, engine, "", full(&options, engine)?);
    }
    std::fs::remove_dir_all(options.directory.join("run"))?;
    let text = markdown(&figures, &options)?.replace(&*options.directory.join("run").to_string_lossy(), "DIR");
    match &options.page {
        Some(page) => write_into(page, &text)?,
        None => print!("{text}"),
    }
    Ok(())
}

/// Microseconds of an fdatasync after 4 KiB were written over zeroes: the median of some hundred.
fn disk_sync(options: &Options) -> Result<f64, Failure> {
    let file = std::fs::File::create(fresh(options)?.join("probe"))?;
    file.write_all_at(&vec![0; 4 << 20], 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    for n in 0..400_u64 {
        file.write_all_at(&[n as u8; 4096], n * 4096)?;
        let started = Instant::now();
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Syncs of a commit, as strace counts them.
fn syncs(options: &Options, engine: &str) -> Result<Vec<(String, String)>, Failure> {
    let counted = options.directory.join("strace");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-c", "-e", "trace=fsync,fdatasync,msync,sync_file_range", "-o"]).arg(&counted);
    traced.arg(std::env::current_exe()?).args(["churn", engine]).arg(fresh(options)?).args(["1", "3"]);
    let values = part(&mut traced)?;
    let commits = values.iter().find(|(name, _)| name == "commit_count").ok_or("no commits")?.1.parse::<f64>()?;
    let text = std::fs::read_to_string(&counted)?;
    std::fs::remove_file(counted)?;
    let calls: f64 = text
        .lines()
        .filter(|line| line.ends_with("sync") || line.ends_with("sync_file_range"))
        .filter_map(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok())
        .sum();
    Ok(vec![("syncs".into(), format!("{:.2}", calls / commits))])
}

/// Until a disk of its own is full, and after.
fn full(options: &Options, engine: &str) -> Result<Vec<(String, String)>, Failure> {
    let disk = fresh(options)?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={SMALL}m"), "tmpfs"])
        .arg(&disk)
        .stderr(Stdio::null())
        .status()?;
    if !mounted.success() {
        return Ok(vec![("full".into(), "not tried: mounting a small disk takes root".into())]);
    }
    std::fs::write(disk.join("ballast"), vec![0; (BALLAST << 20) as usize])?;
    let looked = part(&mut ours(&["full", engine], &disk.join("store"))?);
    Command::new("umount").arg(&disk).status()?;
    // A process that ends badly is an answer, too.
    Ok(looked.unwrap_or_else(|error| vec![("full".into(), format!("the process fails: {}", last_line(&error)))]))
}

fn last_line(error: &Failure) -> String {
    error.to_string().lines().last().unwrap_or_default().to_owned()
}

/// The median, with lowest and highest where there is more than one value.
fn median(values: &[String]) -> String {
    let mut numbers: Vec<f64> = values.iter().filter_map(|value| value.parse().ok()).collect();
    if numbers.is_empty() {
        return values.first().cloned().unwrap_or_else(|| "–".into());
    }
    numbers.sort_by(f64::total_cmp);
    let show = |number: f64| match number {
        large if large >= 1000.0 => thousands(large),
        large if large >= 100.0 => format!("{large:.0}"),
        small if small >= 0.1 || small == 0.0 => format!("{small:.2}"),
        small => format!("{small:.4}"),
    };
    let (low, middle, high) = (numbers[0], numbers[numbers.len() / 2], numbers[numbers.len() - 1]);
    if numbers.len() == 1 { show(low) } else { format!("{} ({}–{})", show(middle), show(low), show(high)) }
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

const LINES: [(&str, &str); 22] = [
    ("1 rate", "one session: messages/s"),
    ("1 cpu", "– CPU µs a message, the load's own included"),
    ("1 bytes", "– bytes written per byte of payload"),
    ("1 commits", "– commits a message"),
    ("1 slowest", "– slowest commit, ms"),
    ("1 disk", "– MiB on the disk at the end"),
    ("10 rate", "ten sessions: messages/s"),
    ("10 cpu", "– CPU µs a message"),
    ("10 bytes", "– bytes written per byte of payload"),
    ("10 commits", "– commits a message"),
    ("10 slowest", "– slowest commit, ms"),
    ("10 disk", "– MiB on the disk at the end"),
    ("syncs", "syncs a commit (strace)"),
    ("backlog fill", "backlog of 1,000 × 1,000: filled, messages/s"),
    ("backlog drain", "– drained, messages/s"),
    ("backlog drain_cpu", "– CPU µs a drained message"),
    ("backlog drain_bytes", "– bytes written per drained byte"),
    ("backlog peak", "– peak memory, MiB"),
    ("backlog full", "– MiB on the disk when it is full"),
    ("backlog left", "– MiB on the disk when it is drained"),
    ("reopen opened", "after SIGKILL with 1,000,000: open, ms"),
    ("reopen read", "– open and everything read, ms"),
];

const BEHAVIOUR: [(&str, &str); 4] = [
    ("flipped", "one flipped bit"),
    ("truncated", "a file that ends early"),
    ("full", "a full disk"),
    ("second", "a second opener"),
];

fn markdown(figures: &Figures, options: &Options) -> Result<String, Failure> {
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output()?.stdout;
    let date = Command::new("date").args(["-u", "+%F"]).output()?.stdout;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let lock = include_str!("../Cargo.lock");
    let version = |name: &str| {
        let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{name}\""));
        lines.nth(1).and_then(|line| line.split('"').nth(1)).unwrap_or("?").to_owned()
    };
    let mut text = format!(
        "{}, commit {}; Linux {}, {} CPUs; fdatasync of 4 KiB over zeroes: {} µs. {} rounds of {} s; median \
         (lowest–highest). {}\n\n",
        String::from_utf8_lossy(&date).trim(),
        String::from_utf8_lossy(&commit).trim(),
        kernel.trim(),
        std::thread::available_parallelism()?,
        median(&figures[&("nothing", "disk sync".to_owned())]),
        options.rounds,
        options.seconds,
        options.note,
    );
    let heads = [format!("fjall {}", version("fjall")), format!("redb {}", version("redb")), "plain log".into()];
    let _ = writeln!(text, "| | {} | {} | {} | nothing kept |\n|---|---|---|---|---|", heads[0], heads[1], heads[2]);
    let empty = Vec::new();
    let cell = |engine: &'static str, name: &str| median(figures.get(&(engine, name.to_owned())).unwrap_or(&empty));
    for (name, words) in LINES {
        let cells = ENGINES.map(|engine| cell(engine, name));
        let _ = writeln!(text, "| {words} | {} | {} |", cells.join(" | "), cell("nothing", name));
    }
    let _ = writeln!(text, "\n| | {} | {} | {} |\n|---|---|---|---|", heads[0], heads[1], heads[2]);
    for (name, words) in BEHAVIOUR {
        let _ = writeln!(text, "| {words} | {} |", ENGINES.map(|engine| cell(engine, name)).join(" | "));
    }
    Ok(text)
}

fn write_into(page: &Path, text: &str) -> Result<(), Failure> {
    let old = std::fs::read_to_string(page)?;
    let (head, rest) = old.split_once(MARKS[0]).ok_or("the page has no marks")?;
    let (_, tail) = rest.split_once(MARKS[1]).ok_or("the page has no end mark")?;
    Ok(std::fs::write(page, format!("{head}{}\n\n{text}\n{}{tail}", MARKS[0], MARKS[1]))?)
}
