//! Rotation: what is long or old goes into `health.log.1`, what was there into `health.log.2`, and so on, until the sum
//! of all is within its bound.
//!
//! The lines are copied into a new file, which gets its name when it is on the disk; then the log is cut to nothing. The
//! log itself stays the file that it was, or whoever watches it with `tail -f` would see nothing any more. While lines
//! move, those who append wait for the lock. A crash between the two steps leaves
//! lines twice, and the next rotation sees that.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::folder::{Folder, Lock};
use super::{LINE_LEN_MAX, Log};
use crate::error::{Error, Result};
use crate::fs::system;
use crate::time;

/// From this length on, in bytes, a log is rotated by whoever appends to it.
pub(super) const PART_LEN_MAX: u64 = 4 << 20;
/// Highest number of a rotated log.
const NUMBER_MAX: u32 = 12;
/// The log that is written to may take this share of the bound of all.
const SHARE: u64 = 8;
/// After so many days, or those of the limit when they are fewer, a log is rotated however short it is.
const DAYS_MAX: u32 = 30;
const DAY_MS: i64 = 86_400_000;
/// The copy on its way.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// How much of the logs is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of all logs together; less than [`Limits::MAX_BYTES_LEAST`] counts as that.
    pub max_bytes: u64,
    /// For how many days a rotated log is kept after its last line.
    pub keep_days: u32,
}

impl Limits {
    /// The least bound of the sum, in bytes.
    pub const MAX_BYTES_LEAST: u64 = 64 << 10;
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 16 << 20, keep_days: 90 }
    }
}

/// What a rotation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotated {
    /// Logs that were rotated.
    pub rotated: u32,
    /// Rotated logs that were removed, because of their age or the bound.
    pub removed: u32,
    /// Bytes of all logs that are there now.
    pub bytes: u64,
}

/// Rotates what is too long or too old, and removes the oldest of what was rotated until all is within the limits.
///
/// Two at once are safe: the second does nothing. No folder is made.
///
/// # Errors
/// Those of [`append`](super::append); what was done until then stays done.
pub fn rotate(home: &Path, now_ms: i64, limits: Limits) -> Result<Rotated> {
    let mut done = Rotated::default();
    let Some(folder) = Folder::open(home)? else { return Ok(done) };
    let max_bytes = limits.max_bytes.max(Limits::MAX_BYTES_LEAST);
    let lock = lock_folder(&folder)?;
    if lock.is_held() {
        let part_max = (max_bytes / SHARE).min(PART_LEN_MAX);
        let days = i64::from(limits.keep_days.min(DAYS_MAX));
        for log in Log::ALL {
            if is_due(&folder, log, part_max, now_ms - days * DAY_MS)? {
                done.rotated += u32::from(move_lines(&folder, log)?);
            }
        }
        done.removed = trim(&folder, max_bytes, now_ms - i64::from(limits.keep_days) * DAY_MS)?;
    }
    done.bytes = parts(&folder)?.iter().map(|part| part.len).sum();
    Ok(done)
}

/// Rotates this log alone.
pub(super) fn rotate_one(folder: &Folder, log: Log) -> Result<()> {
    let lock = lock_folder(folder)?;
    // Somebody may have done it while this one waited.
    if lock.is_held() && is_due(folder, log, PART_LEN_MAX, i64::MIN)? {
        move_lines(folder, log)?;
    }
    Ok(())
}

fn lock_folder(folder: &Folder) -> Result<Lock<'_>> {
    Lock::take(folder.file(), &folder.path("")).map_err(|error| Error::io("lock", &folder.path(""), error))
}

/// Whether this log is longer than it may be, or has a line from before this time.
fn is_due(folder: &Folder, log: Log, len_max: u64, before_ms: i64) -> Result<bool> {
    let name = log.file_name();
    let Some(file) = folder.open_file(name)? else { return Ok(false) };
    let io = |error| Error::io("read", &folder.path(name), error);
    let len = file.metadata().map_err(io)?.len();
    let mut head = Vec::new();
    (&file).take(LINE_LEN_MAX as u64).read_to_end(&mut head).map_err(io)?;
    let first = first_time_ms(&head);
    Ok(len > len_max || first.is_some_and(|first| first < before_ms))
}

/// The time of the first line that has one.
fn first_time_ms(head: &[u8]) -> Option<i64> {
    String::from_utf8_lossy(head).lines().find_map(|line| {
        let (time, _) = line.strip_prefix('[')?.split_once(']')?;
        time::parse_absolute(time).ok()?.checked_mul(1000)
    })
}

/// Moves the lines of a log into number 1. Says whether there were any.
fn move_lines(folder: &Folder, log: Log) -> Result<bool> {
    let name = log.file_name();
    let Some(file) = folder.open_to_append(name)? else { return Ok(false) };
    let io = |error| Error::io("rotate", &folder.path(name), error);
    let lock = Lock::take(&file, &folder.path(name)).map_err(io)?;
    if !lock.is_held() || file.metadata().map_err(io)?.len() == 0 {
        return Ok(false);
    }
    let temporary = format!("{name}{TEMPORARY_SUFFIX}");
    folder.remove(&temporary)?;
    if !is_copied(folder, &file, &number(name, 1)).map_err(io)? {
        let copied = copy(folder, &file, &temporary).map_err(io).and_then(|()| shift(folder, name));
        let named = copied.and_then(|()| folder.rename(&temporary, &number(name, 1)));
        if let Err(error) = named {
            // On a full disk it would keep the little space there is.
            let _ = folder.remove(&temporary);
            return Err(error);
        }
        // The copy has its name for good before the lines go.
        folder.sync()?;
    }
    cut(folder, &file, name).map_err(io)?;
    Ok(true)
}

/// Whether a former rotation was cut short: the log begins with all of number 1.
fn is_copied(folder: &Folder, mut file: &File, first: &str) -> std::io::Result<bool> {
    let Ok(Some(mut copy)) = folder.open_file(first) else { return Ok(false) };
    let len = copy.metadata()?.len();
    if len == 0 || len > file.metadata()?.len() {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(0))?;
    let (mut ours, mut theirs) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut left = len;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(ours.len());
        file.read_exact(&mut ours[..part])?;
        copy.read_exact(&mut theirs[..part])?;
        if ours[..part] != theirs[..part] {
            return Ok(false);
        }
        left -= part as u64;
    }
    Ok(true)
}

fn copy(folder: &Folder, mut file: &File, temporary: &str) -> std::io::Result<()> {
    let mut copy = folder.make_file(temporary).map_err(std::io::Error::other)?;
    file.seek(SeekFrom::Start(0))?;
    std::io::copy(&mut file, &mut copy)?;
    copy.sync_all()
}

/// Cuts the log to nothing, after what came behind the copy is in the copy, too: somebody may have appended without
/// waiting, or after a rotation that was cut short.
fn cut(folder: &Folder, mut file: &File, name: &str) -> std::io::Result<()> {
    let copy = folder.open_to_append(&number(name, 1)).map_err(std::io::Error::other)?;
    let mut copy = copy.ok_or(std::io::ErrorKind::NotFound)?;
    loop {
        let copied = copy.metadata()?.len();
        if copied >= file.metadata()?.len() {
            break;
        }
        file.seek(SeekFrom::Start(copied))?;
        std::io::copy(&mut file, &mut copy)?;
        copy.sync_all()?;
    }
    system::cut(file, &folder.path(name), 0)
}

/// Moves every number one up, until there is a gap; the highest goes.
fn shift(folder: &Folder, name: &str) -> Result<()> {
    let names = folder.names()?;
    let is_there = |at: u32| names.contains(&number(name, at));
    let gap = (1..=NUMBER_MAX).find(|at| !is_there(*at)).unwrap_or(NUMBER_MAX);
    for at in (1..gap).rev() {
        folder.rename(&number(name, at), &number(name, at + 1))?;
    }
    Ok(())
}

/// A log, or a part of one that was rotated.
struct Part {
    log: Log,
    /// 0: it is the log that is written to.
    number: u32,
    name: String,
    len: u64,
    modified_ms: i64,
}

/// All parts of all logs.
fn parts(folder: &Folder) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for name in folder.names()? {
        let Some((log, number)) = recognise(&name) else { continue };
        // What is no regular file is none of ours, and counts for nothing.
        let Ok(Some(file)) = folder.open_file(&name) else { continue };
        let metadata = file.metadata().map_err(|error| Error::io("stat", &folder.path(&name), error))?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified_ms = modified.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        parts.push(Part { log, number, name, len: metadata.len(), modified_ms });
    }
    Ok(parts)
}

fn recognise(name: &str) -> Option<(Log, u32)> {
    Log::ALL.into_iter().find_map(|log| match name.strip_prefix(log.file_name())? {
        "" => Some((log, 0)),
        rest => {
            let digits = rest.strip_prefix('.')?;
            let plain = !digits.is_empty() && digits.len() <= 3 && digits.bytes().all(|c| c.is_ascii_digit());
            Some((log, digits.parse().ok().filter(|number| plain && *number > 0)?))
        }
    })
}

/// Removes what is older than this time, then the oldest of the log that takes most, until all are within the bound.
fn trim(folder: &Folder, max_bytes: u64, before_ms: i64) -> Result<u32> {
    let mut kept = parts(folder)?;
    let mut goes: Vec<Part> =
        kept.extract_if(.., |part| part.number > 0 && part.modified_ms < before_ms).collect();
    while kept.iter().map(|part| part.len).sum::<u64>() > max_bytes {
        let bytes_of =
            |log: Log| kept.iter().filter(|part| part.log == log).map(|part| part.len).sum::<u64>();
        let rotated = kept.iter().enumerate().filter(|(_, part)| part.number > 0);
        let Some((at, _)) = rotated.max_by_key(|(_, part)| (bytes_of(part.log), part.log as u8, part.number))
        else {
            break;
        };
        goes.push(kept.swap_remove(at));
    }
    for part in &goes {
        folder.remove(&part.name)?;
    }
    Ok(u32::try_from(goes.len()).unwrap_or(u32::MAX))
}

fn number(name: &str, number: u32) -> String {
    format!("{name}.{number}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    #[cfg(unix)]
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::logs::append;

    const SMALL: Limits = Limits { max_bytes: Limits::MAX_BYTES_LEAST, keep_days: 90 };

    fn fill(home: &Path, log: Log, lines: usize) {
        for at in 0..lines {
            append(home, log, SystemClock.now_ms(), &format!("{at} {}", "x".repeat(1000))).expect("written");
        }
    }

    fn names(home: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(home.join("logs")).expect("a list");
        let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
        // Where a folder cannot be locked itself.
        names.filter(|name| name != ".lock").collect()
    }

    fn sum(home: &Path) -> u64 {
        names(home).iter().map(|name| home.join("logs").join(name).metadata().expect("stat").len()).sum()
    }

    #[cfg(unix)]
    #[test]
    fn a_long_log_moves_on_and_stays_the_file_that_it_was() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let path = home.path().join("logs/health.log");
        fill(home.path(), Log::Health, 9);
        let (inode, text) = (path.metadata().expect("stat").ino(), fs::read(&path).expect("read"));
        let done = rotate(home.path(), SystemClock.now_ms(), SMALL).expect("rotated");
        assert_eq!((done.rotated, done.removed, done.bytes), (1, 0, text.len() as u64));
        assert_eq!(fs::read(home.path().join("logs/health.log.1")).expect("read"), text);
        let metadata = path.metadata().expect("stat");
        assert_eq!((metadata.ino(), metadata.len()), (inode, 0), "whoever watches it goes on watching it");
        // A short one stays.
        fill(home.path(), Log::Health, 1);
        assert_eq!(rotate(home.path(), SystemClock.now_ms(), SMALL).expect("rotated").rotated, 0);
    }

    #[test]
    fn the_sum_of_all_is_bounded_and_the_loudest_pays() {
        let home = tempfile::tempdir().expect("a temporary folder");
        fill(home.path(), Log::Failures, 9);
        rotate(home.path(), SystemClock.now_ms(), SMALL).expect("rotated");
        for round in 0..12 {
            // Lines that are the same would look like a rotation that was cut short.
            let now_ms = SystemClock.now_ms() + round * 1000;
            append(home.path(), Log::AutoMemory, now_ms, "a new round").expect("written");
            fill(home.path(), Log::AutoMemory, 9);
            let done = rotate(home.path(), SystemClock.now_ms(), SMALL).expect("rotated");
            assert!(done.bytes <= SMALL.max_bytes && done.bytes == sum(home.path()), "{done:?}");
        }
        assert!(names(home.path()).contains("failures.log.1"), "{:?}", names(home.path()));
        assert!(names(home.path()).len() > 5, "{:?}", names(home.path()));
    }

    #[test]
    fn what_is_old_goes_and_a_clock_that_was_set_back_removes_nothing() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let now = SystemClock.now_ms();
        fill(home.path(), Log::Health, 2);
        assert_eq!(rotate(home.path(), now + 20 * DAY_MS, Limits::default()).expect("rotated").rotated, 0);
        assert_eq!(rotate(home.path(), now + 31 * DAY_MS, Limits::default()).expect("rotated").rotated, 1);
        assert_eq!(rotate(home.path(), now - 365 * DAY_MS, Limits::default()).expect("rotated").removed, 0);
        assert_eq!(rotate(home.path(), now + 91 * DAY_MS, Limits::default()).expect("rotated").removed, 1);
        assert_eq!(names(home.path()), BTreeSet::from(["health.log".to_owned()]));
    }

    #[test]
    fn a_rotation_that_was_cut_short_is_ended_and_keeps_no_line_twice() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let path = home.path().join("logs/health.log");
        fill(home.path(), Log::Health, 9);
        // Killed after the copy had its name; then somebody wrote a line.
        fs::copy(&path, home.path().join("logs/health.log.1")).expect("a copy");
        fill(home.path(), Log::Health, 1);
        let text = fs::read(&path).expect("read");
        // Killed while copying.
        fs::write(home.path().join("logs/health.log.tmp"), "half").expect("written");
        assert_eq!(rotate(home.path(), SystemClock.now_ms(), SMALL).expect("rotated").rotated, 1);
        assert_eq!(fs::read(home.path().join("logs/health.log.1")).expect("read"), text);
        assert_eq!(path.metadata().expect("stat").len(), 0);
        assert!(!names(home.path()).contains("health.log.2"));
    }

    #[test]
    fn whoever_appends_without_health_runs_has_a_bound_too() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let logs = home.path().join("logs");
        fs::create_dir(&logs).expect("a folder");
        for at in 0..=NUMBER_MAX {
            fs::write(logs.join("automemory.log"), vec![b'a' + at as u8; PART_LEN_MAX as usize])
                .expect("written");
            append(home.path(), Log::AutoMemory, SystemClock.now_ms(), "one more").expect("written");
            assert_eq!(logs.join("automemory.log").metadata().expect("stat").len(), 0, "{at}");
        }
        assert_eq!(names(home.path()).len(), NUMBER_MAX as usize + 1);
    }

    #[test]
    fn names_of_others_are_left_alone() {
        for name in
            ["health.log.bak", "health.log.", "health.log.0", "health.log.1000", "health.log.1.gz", "x.log.1"]
        {
            assert!(recognise(name).is_none(), "{name}");
        }
        assert_eq!(recognise("health.log.12"), Some((Log::Health, 12)));
    }
}
