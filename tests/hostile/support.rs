//! The program in a home, disks of a few megabytes, other users.

#![allow(clippy::print_stderr, reason = "what is left out must be seen")]

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::common;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_memento-kv");

/// What the program said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ran = Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
        // Without memory for its own stack of signals, a thread of the standard library ends before any code of ours.
        let has_no_stack = ran.code.is_none() && ran.err.contains("failed to allocate an alternative stack");
        assert!(has_no_stack || !ran.err.contains("panicked"), "{ran:?}");
        ran
    }

    /// The error that `--json` printed: its kind and its hint.
    pub(crate) fn error(&self) -> (String, String) {
        let line = self.err.lines().last().unwrap_or_default();
        let json: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let text = |key: &str| json["error"][key].as_str().unwrap_or_default().to_owned();
        (text("kind"), text("hint"))
    }
}

/// Gives a command the environment of a user with this home, and nothing else.
pub(crate) fn at_home<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let above = home.parent().expect("a home is in a folder");
    command.env_clear().env("PATH", path).env("HOME", above).env("TZ", "UTC").env("MEMENTO_HOME", home)
}

/// The program in this home.
pub(crate) fn program(home: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    at_home(&mut command, home).stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run<const N: usize>(home: &Path, args: [&str; N]) -> Ran {
    Ran::of(&program(home).args(args).output().expect("the program starts"))
}

/// Runs the program, which must end well; what it says.
pub(crate) fn good<const N: usize>(home: &Path, args: [&str; N]) -> String {
    let ran = run(home, args);
    assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    ran.out
}

/// Runs a command of the shell in this home; the program is `$P`.
pub(crate) fn shell(home: &Path, script: &str) -> Ran {
    let mut command = Command::new("sh");
    at_home(&mut command, home).env("P", PROGRAM).args(["-c", script]).stdin(Stdio::null());
    Ran::of(&command.output().expect("there is a shell"))
}

/// How many memories there are, once the check has found nothing wrong.
pub(crate) fn count(home: &Path) -> u64 {
    good(home, ["check"]);
    let stats: Value = serde_json::from_str(&good(home, ["stats", "--json"])).expect("JSON");
    stats["memories"].as_u64().expect("a number")
}

/// Lines of JSON for memories with these numbers.
pub(crate) fn jsonl(path: &Path, numbers: std::ops::Range<usize>) {
    let lines: String = numbers
        .map(|n| format!("{{\"text\":\"memory {n} {}\"}}\n", "of a long and uneventful day ".repeat(6)))
        .collect();
    std::fs::write(path, lines).expect("write");
}

/// Says why a test is left out.
pub(crate) fn skipped(test: &str, why: &str) {
    eprintln!("{test}: skipped, {why}");
}

/// Whether a command of the system can be run here and ends well.
pub(crate) fn can(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs the work on a disk of this size, in a process of its own: nobody else sees the disk, and it goes with the
/// process.
pub(crate) fn on_a_small_disk(test: &str, size: &str, work: impl FnOnce(&Path)) {
    if common::is_child(test) {
        return work(Path::new(&std::env::var_os("DISK").expect("the disk is named")));
    }
    let folder = common::folder();
    let script = "mount -t tmpfs -o \"size=$SIZE,mode=700\" tmpfs \"$DISK\" && exec \"$@\"";
    let unshare = |then: &[&std::ffi::OsStr]| {
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !is_root() {
            command.arg("--map-root-user");
        }
        command.args(["sh", "-c", script, "sh"]).args(then);
        command.env("SIZE", size).env("DISK", folder.path()).env("CHILD", test);
        command
    };
    if !can(&mut unshare(&["true".as_ref()])) {
        return skipped(test, "no disk can be mounted here");
    }
    let exe = std::env::current_exe().expect("this program");
    run_child(&mut unshare(&[exe.as_os_str()]), test);
}

/// Lets a command that ends with the name of this program run one test in it, as a child. What the child said.
pub(crate) fn run_child(command: &mut Command, test: &str) -> String {
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("CHILD", test);
    let output = command.stdin(Stdio::null()).output().expect("the child starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{test}, as a child: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// Takes all space of a disk but this much.
pub(crate) fn fill(disk: &Path, leave: u64) -> PathBuf {
    let path = disk.join("filler");
    let mut file = File::create(&path).expect("a file");
    for len in [1 << 16, 1 << 12, 1] {
        let chunk = vec![1; len];
        loop {
            match file.write_all(&chunk) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    let len = file.metadata().expect("stat").len();
    file.set_len(len.saturating_sub(leave)).expect("some space is given back");
    path
}

pub(crate) fn is_root() -> bool {
    Path::new("/proc/self").metadata().is_ok_and(|metadata| metadata.uid() == 0)
}

/// A user who is not this one and not root, when this test may take on who it likes.
pub(crate) struct Somebody;

impl Somebody {
    const ID: u32 = 60_123;

    /// Looks whether a program can be run as somebody else.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let is_there = is_root() && can(Self.command(PROGRAM.as_ref()).arg("--version"));
        if !is_there {
            skipped(test, "nothing can be run as another user here");
        }
        is_there.then_some(Self)
    }

    /// A program, run as this user.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={}", Self::ID), format!("--regid={}", Self::ID)]);
        command.arg("--clear-groups").arg("--").arg(program);
        command
    }

    /// Runs the program as this user.
    pub(crate) fn run<const N: usize>(&self, home: &Path, args: [&str; N]) -> Ran {
        let mut command = self.command(PROGRAM.as_ref());
        at_home(&mut command, home).args(args).stdin(Stdio::null());
        Ran::of(&command.output().expect("the program starts"))
    }

    /// Gives a folder to this user.
    pub(crate) fn owns(&self, folder: &Path) {
        std::os::unix::fs::chown(folder, Some(Self::ID), Some(Self::ID)).expect("chown");
    }
}
