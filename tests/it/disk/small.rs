//! A small disk that belongs to a test: a tmpfs in a mount namespace of its own.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// With root's rights, and for everybody else.
const WAYS: [&[&str]; 2] = [&[], &["--user", "--map-root-user"]];

/// There as long as this is, and for nobody but those who enter.
#[derive(Debug)]
pub struct SmallDisk {
    /// Keeps the namespace; ends with its standard input, so at the latest with this process.
    holder: Child,
    in_user_namespace: bool,
    point: TempDir,
}

impl SmallDisk {
    /// Mounts one; `options` are those of tmpfs, such as `size=8m`.
    pub fn mount(options: &str) -> Self {
        let point = tempfile::tempdir().unwrap();
        let mut refused = Vec::new();
        for way in WAYS {
            match hold(way, point.path(), options) {
                Ok(holder) => return Self { holder, in_user_namespace: !way.is_empty(), point },
                Err(why) => refused.push(why),
            }
        }
        panic!(
            "this test needs a small disk in a mount namespace of its own, and the system refuses one ({}): run it as root \
             or where user namespaces are allowed, with unshare and nsenter (util-linux) and mount",
            refused.join("; ")
        )
    }

    /// A command that runs where the disk is.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.holder.id().to_string()).arg("--mount");
        if self.in_user_namespace {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Runs a command there, which must succeed.
    pub fn run(&self, program: &str, arguments: &[&str]) {
        let output = self.command(program).args(arguments).output().expect("nsenter, of util-linux");
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    }

    /// Where it is for those who have entered.
    pub fn inside(&self) -> &Path {
        self.point.path()
    }

    /// Where it is for everybody else.
    pub fn outside(&self) -> PathBuf {
        let point = self.point.path().strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(point)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn hold(way: &[&str], point: &Path, options: &str) -> Result<Child, String> {
    let script = "mount -t tmpfs -o \"$1\" tmpfs \"$0\" && echo mounted && exec cat";
    let mut command = Command::new("unshare");
    command.args(way).args(["--mount", "--", "sh", "-c", script]).arg(point).arg(options);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut holder = command.spawn().map_err(|error| format!("unshare: {error}"))?;
    let mut first = String::new();
    let _ = BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut first);
    if first == "mounted\n" {
        return Ok(holder);
    }
    let mut said = String::new();
    let _ = holder.stderr.take().expect("a pipe").read_to_string(&mut said);
    let _ = holder.wait();
    Err(said.trim().to_owned())
}
