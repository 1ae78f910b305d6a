//! The logs of a home: `logs/health.log`, `logs/failures.log`, `logs/automemory.log`. Spec: `format-spec/logs.md`.
//!
//! A line is one `write` at the end of the file, so that processes that write at the same time never mix theirs. Lines
//! are for people: they hold times, sequences, ids and names of files, never the text of a memory. [`scrub`] takes out
//! what must not leave the machine, and [`append`] runs every line through it, so that a slip elsewhere stays harmless.
//!
//! Rotation keeps the file that is written to, so that `tail -f` goes on showing what comes.

mod folder;
mod rotate;
mod scrub;

use std::fs::File;
use std::io::Write;
use std::path::Path;

pub use rotate::{Limits, Rotated, rotate};
pub use scrub::scrub;

use self::folder::{Folder, Lock};
use crate::error::{Error, Result};
use crate::fs::system::FileExt;
use crate::time;

/// Longest line, in bytes, with its time and its line feed.
pub const LINE_LEN_MAX: usize = 4096;

/// Ends a line that was too long.
const CUT: &str = "…";

/// One of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Log {
    /// What the health runs found and did, a line for each.
    Health,
    /// What failed: when, what, and what was done about it.
    Failures,
    /// What was captured, spooled and brought in.
    AutoMemory,
}

impl Log {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Health, Self::Failures, Self::AutoMemory];

    /// The name of its file in the folder `logs` of a home.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Health => "health.log",
            Self::Failures => "failures.log",
            Self::AutoMemory => "automemory.log",
        }
    }
}

/// Writes a line into a log: the time, as RFC 3339 has it in UTC, in square brackets, and the message.
///
/// The folder and the file are made, private to the user, when they are not there; the home is not. Control characters
/// of the message are escaped and what [`scrub`] knows is taken out; a line of more than [`LINE_LEN_MAX`] bytes is cut.
/// What is written into `failures.log` and `health.log` is on stable storage on return.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is no home,
/// [`ErrorKind::Permission`](crate::ErrorKind::Permission) when the folder or the file is a link, a pipe or somebody
/// else's, and what the operating system says.
pub fn append(home: &Path, log: Log, now_ms: i64, message: &str) -> Result<()> {
    let folder = Folder::open_or_make(home)?;
    let name = log.file_name();
    let line = line(home, now_ms, message);
    let file = folder.open_or_make_file(name)?;
    let io = |error| Error::io("append to", &folder.path(name), error);
    // Others who write, or move this file's lines away, are waited for, and not for ever: a line may rather be written
    // at an unlucky moment than never.
    let locked = Lock::take(&file, &folder.path(name)).map_err(io)?;
    write_line(&file, &line).map_err(io)?;
    if log != Log::AutoMemory {
        file.sync_data().map_err(io)?;
    }
    let len = file.metadata().map_err(io)?.len();
    drop(locked);
    if len > rotate::PART_LEN_MAX {
        // Without health runs nobody else would. The line is written, so this is no reason to fail.
        if let Err(error) = rotate::rotate_one(&folder, log) {
            tracing::warn!(%error, "a long log was not rotated");
        }
    }
    Ok(())
}

/// The last whole lines of a log, of at most so many bytes together; empty when there are none.
///
/// # Errors
/// Those of [`append`], but for what is not there.
pub fn tail(home: &Path, log: Log, bytes_max: usize) -> Result<String> {
    let Some(folder) = Folder::open(home)? else { return Ok(String::new()) };
    let Some(file) = folder.open_file(log.file_name())? else { return Ok(String::new()) };
    let io = |error| Error::io("read", &folder.path(log.file_name()), error);
    let len = file.metadata().map_err(io)?.len();
    let start = len.saturating_sub(bytes_max as u64);
    // One byte more tells whether a line begins at `start`.
    let from = start.saturating_sub(1);
    let mut bytes = vec![0; usize::try_from(len - from).unwrap_or(0)];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], from + read as u64).map_err(io)? {
            0 => break, // It was rotated meanwhile.
            more => read += more,
        }
    }
    bytes.truncate(read);
    let text = String::from_utf8_lossy(&bytes);
    if start == 0 {
        return Ok(text.into_owned());
    }
    Ok(text.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_owned()))
}

/// The whole line, with its line feed.
fn line(home: &Path, now_ms: i64, message: &str) -> String {
    let mut line = format!("[{}] ", time::format_time(now_ms.div_euclid(1000)));
    let room = LINE_LEN_MAX - CUT.len() - 1;
    for char in scrub(home, message).chars() {
        let len = line.len();
        if char.is_control() || is_invisible(char) {
            line.extend(char.escape_debug());
        } else {
            line.push(char);
        }
        if line.len() > room {
            line.truncate(len);
            line.push_str(CUT);
            break;
        }
    }
    line.push('\n');
    line
}

/// Characters that would change how a terminal shows what stands around them.
fn is_invisible(char: char) -> bool {
    matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// One call that writes; a line that was cut short by a full disk ends before the next one begins.
fn write_line(mut file: &File, line: &str) -> std::io::Result<()> {
    let len = file.metadata()?.len();
    let mut last = [b'\n'];
    if len > 0 {
        file.read_at(&mut last, len - 1)?;
    }
    let torn = last != *b"\n";
    let bytes = if torn { format!("\n{line}") } else { line.to_owned() };
    loop {
        match file.write(bytes.as_bytes()) {
            Ok(written) if written == bytes.len() => return Ok(()),
            Ok(_) => return Err(std::io::ErrorKind::StorageFull.into()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    #[cfg(unix)]
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::error::ErrorKind;

    const NOW_MS: i64 = 1_771_329_600_123; // 2026-02-17T12:00:00Z

    #[test]
    fn a_line_has_its_time_and_its_message() {
        let home = tempfile::tempdir().expect("a temporary folder");
        append(home.path(), Log::Health, NOW_MS, "ok seq=7").expect("written");
        append(home.path(), Log::Health, NOW_MS + 1000, "ok seq=8").expect("written");
        let text = fs::read_to_string(home.path().join("logs/health.log")).expect("the log");
        assert_eq!(text, "[2026-02-17T12:00:00Z] ok seq=7\n[2026-02-17T12:00:01Z] ok seq=8\n");
    }

    #[cfg(unix)]
    #[test]
    fn a_log_is_private_and_a_looser_one_becomes_it() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let mode = |name: &str| home.path().join(name).metadata().expect("stat").mode() & 0o777;
        append(home.path(), Log::Failures, NOW_MS, "a").expect("written");
        assert_eq!((mode("logs"), mode("logs/failures.log")), (0o700, 0o600));
        for (name, loose) in [("logs", 0o755), ("logs/failures.log", 0o644)] {
            fs::set_permissions(home.path().join(name), PermissionsExt::from_mode(loose)).expect("chmod");
        }
        append(home.path(), Log::Failures, NOW_MS, "b").expect("written");
        assert_eq!((mode("logs"), mode("logs/failures.log")), (0o700, 0o600));
    }

    #[cfg(unix)]
    #[test]
    fn links_pipes_and_shared_files_are_refused() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let canary = home.path().join("canary");
        fs::write(&canary, "canary").expect("written");
        let logs = home.path().join("logs");
        let refused = |log: Log| {
            let error = append(home.path(), log, NOW_MS, "x").expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
        };
        std::os::unix::fs::symlink(home.path(), &logs).expect("a link");
        refused(Log::Health);
        fs::remove_file(&logs).expect("removed");
        fs::create_dir(&logs).expect("a folder");
        std::os::unix::fs::symlink(&canary, logs.join("health.log")).expect("a link");
        fs::hard_link(&canary, logs.join("failures.log")).expect("a link");
        let pipe = logs.join("automemory.log");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .expect("a pipe");
        Log::ALL.into_iter().for_each(refused);
        assert_eq!(fs::read_to_string(&canary).expect("read"), "canary");
    }

    #[test]
    fn a_home_that_is_not_there_is_not_made() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = folder.path().join("home");
        let error = append(&home, Log::Health, NOW_MS, "x").expect_err("no home");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(!home.exists());
        assert_eq!(tail(&home, Log::Health, 100).expect("nothing"), "");
    }

    #[test]
    fn a_message_is_one_line_and_has_a_bound() {
        let home = tempfile::tempdir().expect("a temporary folder");
        append(home.path(), Log::Health, NOW_MS, "a\nb\u{1b}[31m\u{202e}c").expect("written");
        append(home.path(), Log::Health, NOW_MS, &"ü\n".repeat(5000)).expect("written");
        let text = fs::read_to_string(home.path().join("logs/health.log")).expect("the log");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "[2026-02-17T12:00:00Z] a\\nb\\u{1b}[31m\\u{202e}c");
        assert!(lines.len() == 2 && lines[1].len() < LINE_LEN_MAX && lines[1].ends_with(CUT), "{text}");
    }

    #[test]
    fn a_torn_line_stays_alone() {
        let home = tempfile::tempdir().expect("a temporary folder");
        append(home.path(), Log::Health, NOW_MS, "a").expect("written");
        let path = home.path().join("logs/health.log");
        let mut file = fs::OpenOptions::new().append(true).open(&path).expect("open");
        file.write_all(b"[2026-02-17T12:0").expect("written");
        append(home.path(), Log::Health, NOW_MS, "b").expect("written");
        let text = fs::read_to_string(&path).expect("the log");
        assert_eq!(text, "[2026-02-17T12:00:00Z] a\n[2026-02-17T12:0\n[2026-02-17T12:00:00Z] b\n");
    }

    #[test]
    fn lines_of_several_writers_are_whole_and_all_there_while_somebody_rotates() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let (writers, lines) = (4, 200);
        let small = Limits { max_bytes: 1 << 20, ..Limits::default() };
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let home = home.path();
                scope.spawn(move || {
                    for at in 0..lines {
                        let filler = "x".repeat(1000);
                        append(home, Log::AutoMemory, NOW_MS, &format!("{writer}.{at} {filler}."))
                            .expect("written");
                    }
                });
            }
            for _ in 0..20 {
                rotate(home.path(), NOW_MS, small).expect("rotated");
            }
        });
        let mut seen = Vec::new();
        for entry in fs::read_dir(home.path().join("logs")).expect("a list") {
            let text = fs::read_to_string(entry.expect("an entry").path()).expect("a log");
            // A writer that waited too long for another may leave an empty line.
            for line in text.lines().filter(|line| !line.is_empty()) {
                let (_, message) = line.split_once("] ").expect("a whole line");
                assert!(message.ends_with("x."), "{line}");
                seen.push(message.split_once(' ').expect("a number").0.to_owned());
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), writers * lines);
    }

    #[test]
    fn the_tail_is_of_whole_lines() {
        let home = tempfile::tempdir().expect("a temporary folder");
        for at in 0..10 {
            append(home.path(), Log::Health, NOW_MS, &format!("line {at}")).expect("written");
        }
        let line_len = "[2026-02-17T12:00:00Z] line 0\n".len();
        let of = |bytes: usize| tail(home.path(), Log::Health, bytes).expect("a tail");
        assert_eq!(of(line_len * 2), "[2026-02-17T12:00:00Z] line 8\n[2026-02-17T12:00:00Z] line 9\n");
        assert_eq!(of(line_len * 2 + 5), of(line_len * 2));
        assert_eq!(of(line_len - 1), "");
        assert_eq!(of(100_000).lines().count(), 10);
    }
}
