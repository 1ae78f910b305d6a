//! What was told about each failure, and what is still to be told: `logs/failures.state`.
//! Spec: `format-spec/failures.md`.
//!
//! The file lies beside the log and not in the store, which may be what is gone. It is changed as a whole under a lock
//! that is held for moments only; another lock, which is held while something is sent, keeps two runs from telling the
//! same thing twice.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::words::{Deed, Kind, shown_file};
use super::{Failure, Lost};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{self, Access, Disk, DiskFile, RealDisk};

const FILE_NAME: &str = "failures.state";
/// What a file that cannot be read becomes.
const DAMAGED_NAME: &str = "failures.state.damaged";
/// Locks a change of the file.
const LOCK_NAME: &str = "failures.lock";
/// Locks sending.
const SENDING_NAME: &str = "sending.lock";

const VERSION: u32 = 1;
/// Longest file, in bytes.
const LEN_MAX: usize = 1 << 20;
/// Most reports. There are fewer fingerprints than this, but for files that somebody made.
const REPORTS_MAX: usize = 200;
/// How long the lock of a change is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Between two comments, and what the limit of issues counts within.
pub(super) const DAY_MS: u64 = 24 * 3600 * 1000;
/// For how long a report that is done with is kept, so that the same failure finds its issue again.
const KEPT_MS: u64 = 90 * DAY_MS;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// A random name for this home in issues, so that it finds its own again and nobody else's.
    pub(super) reporter: String,
    /// GitHub asked not to be called before this time, in Unix milliseconds.
    #[serde(default)]
    pub(super) not_before_ms: i64,
    /// When issues were opened, within the last day.
    #[serde(default)]
    pub(super) opened_ms: Vec<i64>,
    #[serde(default)]
    pub(super) reports: Vec<Report>,
}

/// Everything about the failures of one fingerprint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) fingerprint: String,
    /// The name of a [`Kind`].
    pub(super) kind: String,
    /// How often it was found since the last healthy run.
    pub(super) streak: u64,
    /// How often it was found at all.
    pub(super) count: u64,
    pub(super) first_ms: i64,
    pub(super) last_ms: i64,
    /// When a run found nothing wrong. None: not since the last time.
    pub(super) healthy_ms: Option<i64>,
    /// Of the last time: the files, as they may be told.
    pub(super) files: Vec<String>,
    pub(super) seq: Option<u64>,
    pub(super) done: Vec<(String, u64)>,
    pub(super) lost: Option<LostState>,
    /// Whether it is to become an issue: the user had opted in when it was found.
    pub(super) is_queued: bool,
    /// The issue that it became.
    pub(super) issue: Option<Issue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LostState {
    pub(super) records: u64,
    pub(super) seqs: Option<(u64, u64)>,
    pub(super) window_ms: Option<(i64, i64)>,
}

/// An issue, as it was left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Issue {
    /// `owner/name`.
    pub(super) repo: String,
    pub(super) number: u64,
    /// Its id in GraphQL.
    pub(super) node_id: String,
    pub(super) is_open: bool,
    /// Whether it is on the project's board.
    pub(super) is_on_board: bool,
    /// When the board was last tried; 0: never.
    pub(super) board_ms: i64,
    /// When it was opened or commented on last.
    pub(super) told_ms: i64,
    /// How often the failure had been found by then.
    pub(super) told_count: u64,
    /// When a comment last said that it is over; 0: never.
    pub(super) over_ms: i64,
    /// How often the failure had been found by then.
    pub(super) over_count: u64,
}

impl Report {
    /// The kind; none when a later version wrote it.
    pub(super) fn kind(&self) -> Option<Kind> {
        Kind::named(&self.kind)
    }

    pub(super) fn lost(&self) -> Option<Lost> {
        self.lost.map(|LostState { records, seqs, window_ms }| Lost { records, seqs, window_ms })
    }

    /// What was done, in words that are ours.
    pub(super) fn deeds(&self) -> impl Iterator<Item = (Deed, u64)> {
        self.done.iter().filter_map(|(deed, count)| Some((Deed::named(deed)?, *count)))
    }
}

impl State {
    /// Takes in that these were found; failures of one fingerprint count once.
    pub(super) fn found(&mut self, failures: &[Failure], now_ms: i64, is_queued: bool) {
        let mut seen = Vec::new();
        for failure in failures {
            let fingerprint = failure.fingerprint();
            let is_new = !seen.contains(&fingerprint);
            let report = self.report(&fingerprint, failure.kind, now_ms);
            if is_new {
                report.count = report.count.saturating_add(1);
                report.streak = report.streak.saturating_add(1);
                report.files.clear();
                report.done.clear();
                report.lost = None;
                seen.push(fingerprint);
            }
            report.last_ms = now_ms;
            report.healthy_ms = None;
            report.is_queued |= is_queued;
            report.seq = failure.seq.or(report.seq);
            report.done.extend(failure.done.iter().map(|(deed, count)| (deed.name().to_owned(), *count)));
            if let Some(Lost { records, seqs, window_ms }) = failure.lost {
                report.lost = Some(LostState { records, seqs, window_ms });
            }
            for file in &failure.files {
                let shown = shown_file(file);
                if report.files.len() < 8 && !report.files.iter().any(|known| known == shown) {
                    report.files.push(shown.to_owned());
                }
            }
        }
        self.forget_old(now_ms);
    }

    /// Takes in that a run found nothing wrong. Says whether that changes anything.
    pub(super) fn healthy(&mut self, now_ms: i64) -> bool {
        let mut changed = false;
        for report in self.reports.iter_mut().filter(|report| report.healthy_ms.is_none()) {
            report.healthy_ms = Some(now_ms);
            report.streak = 0;
            changed = true;
        }
        changed
    }

    /// The report of this fingerprint, made when there is none.
    fn report(&mut self, fingerprint: &str, kind: Kind, now_ms: i64) -> &mut Report {
        let at = match self.reports.iter().position(|report| report.fingerprint == fingerprint) {
            Some(at) => at,
            None => {
                self.reports.push(Report {
                    fingerprint: fingerprint.to_owned(),
                    kind: kind.name().to_owned(),
                    first_ms: now_ms,
                    ..Report::default()
                });
                self.reports.len() - 1
            }
        };
        &mut self.reports[at]
    }

    fn forget_old(&mut self, now_ms: i64) {
        let is_done = |report: &Report| {
            report.healthy_ms.is_some()
                && report.issue.as_ref().map_or(!report.is_queued, |issue| !issue.is_open)
        };
        self.reports.retain(|report| !(is_done(report) && now_ms.abs_diff(report.last_ms) > KEPT_MS));
        while self.reports.len() > REPORTS_MAX {
            let oldest = self.reports.iter().enumerate().filter(|(_, report)| is_done(report));
            match oldest.min_by_key(|(_, report)| report.last_ms).map(|(at, _)| at) {
                Some(at) => drop(self.reports.remove(at)),
                // Everything is still to be told: nothing is dropped.
                None => break,
            }
        }
        self.opened_ms.retain(|opened| now_ms.abs_diff(*opened) < DAY_MS);
    }
}

/// The file and its locks.
#[derive(Clone, Debug)]
pub(super) struct Book {
    home: PathBuf,
    folder: PathBuf,
}

/// Held while something is sent.
#[derive(Debug)]
pub(super) struct Sending {
    _lock: Box<dyn DiskFile>,
}

impl Book {
    pub(super) fn of(home: &Path) -> Self {
        Self { home: home.to_owned(), folder: home.join("logs") }
    }

    /// What the file says; nothing when it is not there, or is not what we wrote.
    pub(super) fn read(&self) -> Result<State> {
        Ok(self.load()?.unwrap_or_default())
    }

    /// Changes the file under its lock. Nothing is written when nothing changes.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T> {
        if RealDisk.kind(&self.home)?.is_none() {
            return Err(Error::new(ErrorKind::NotFound, "there is no such home").at(&self.home));
        }
        fs::create_folders(&RealDisk, &self.folder)?;
        RealDisk.check_folder(&self.folder)?;
        let _lock = self.lock()?;
        let path = self.folder.join(FILE_NAME);
        let mut state = match self.load()? {
            Some(state) => state,
            None => {
                if RealDisk.kind(&path)?.is_some() {
                    // Never thrown away: somebody may want to see what was told.
                    RealDisk.rename(&path, &self.folder.join(DAMAGED_NAME))?;
                    tracing::warn!("the state of the failure reports was damaged and is kept beside it");
                }
                State::default()
            }
        };
        let before = state.clone();
        if state.reporter.is_empty() {
            state.version = VERSION;
            state.reporter = random_name()?;
        }
        let result = change(&mut state);
        if state != before {
            let bytes = serde_json::to_vec(&state).expect("a state has text keys only, so it is always JSON");
            fs::replace(&RealDisk, &path, &bytes)?;
        }
        Ok(result)
    }

    /// The right to send; none when another process is sending.
    pub(super) fn sending(&self) -> Result<Option<Sending>> {
        let file = RealDisk.open(&self.folder.join(SENDING_NAME), Access::OpenOrCreate)?;
        Ok(file.try_lock()?.then_some(Sending { _lock: file }))
    }

    /// None: there is no file, or none that this version understands.
    fn load(&self) -> Result<Option<State>> {
        let bytes = match fs::read_small(&RealDisk, &self.folder.join(FILE_NAME), LEN_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(None),
            Err(error) => return Err(error),
        };
        let state = serde_json::from_slice(&bytes).ok();
        Ok(state.filter(|state: &State| state.version == VERSION && is_random_name(&state.reporter)))
    }

    fn lock(&self) -> Result<Box<dyn DiskFile>> {
        let path = self.folder.join(LOCK_NAME);
        let file = RealDisk.open(&path, Access::OpenOrCreate)?;
        let until = Instant::now() + LOCK_WAIT;
        while !file.try_lock()? {
            if Instant::now() > until {
                return Err(
                    Error::new(ErrorKind::Busy, "another process does not let go of this lock").at(&path)
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(file)
    }
}

/// Sixteen hexadecimal digits by chance.
fn random_name() -> Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Io, format!("the system has no random numbers: {error}")))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

fn is_random_name(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const NOW_MS: i64 = 1_771_329_600_000;

    fn damaged() -> Failure {
        Failure::new(Kind::SegmentDamaged, NOW_MS).file("store/seg/0000000001.mseg").done(Deed::Healed, 1)
    }

    fn home() -> (tempfile::TempDir, Book) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let book = Book::of(folder.path());
        (folder, book)
    }

    #[test]
    fn failures_of_one_fingerprint_count_once_a_run() {
        let mut state = State::default();
        let other = Failure::new(Kind::SegmentDamaged, NOW_MS).file("store/seg/0000000002.mseg");
        state.found(&[damaged(), other], NOW_MS, false);
        state.found(&[damaged()], NOW_MS + 1, false);
        assert_eq!(state.reports.len(), 1);
        assert_eq!((state.reports[0].count, state.reports[0].streak), (2, 2));
        assert_eq!(state.reports[0].files, ["store/seg/0000000001.mseg"]);
        assert_eq!((state.reports[0].first_ms, state.reports[0].last_ms), (NOW_MS, NOW_MS + 1));
    }

    #[test]
    fn a_healthy_run_ends_a_row_of_failures() {
        let mut state = State::default();
        state.found(&[damaged()], NOW_MS, true);
        assert!(state.healthy(NOW_MS + 1));
        assert_eq!((state.reports[0].streak, state.reports[0].healthy_ms), (0, Some(NOW_MS + 1)));
        assert!(!state.healthy(NOW_MS + 2), "nothing more changes");
        state.found(&[damaged()], NOW_MS + 3, true);
        assert_eq!(
            (state.reports[0].streak, state.reports[0].count, state.reports[0].healthy_ms),
            (1, 2, None)
        );
    }

    #[test]
    fn what_is_done_with_is_forgotten_after_a_while_and_what_is_not_never() {
        let mut state = State::default();
        let later = NOW_MS + i64::try_from(KEPT_MS).expect("a short time") + 1;
        state.found(&[damaged()], NOW_MS, true);
        state.healthy(NOW_MS);
        state.found(&[], later, true);
        assert_eq!(state.reports.len(), 1, "it was never sent");
        state.reports[0].is_queued = false;
        state.found(&[], later, true);
        assert_eq!(state.reports.len(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_private_and_comes_back_as_it_was() {
        let (folder, book) = home();
        book.change(|state| state.found(&[damaged()], NOW_MS, true)).expect("written");
        let path = folder.path().join("logs/failures.state");
        assert_eq!(path.metadata().expect("there").mode() & 0o777, 0o600);
        let state = book.read().expect("read");
        assert_eq!((state.reports.len(), state.reporter.len()), (1, 16));
        let inode = path.metadata().expect("there").ino();
        book.change(|_| ()).expect("nothing");
        assert_eq!(path.metadata().expect("there").ino(), inode, "nothing changed, nothing is written");
    }

    #[test]
    fn a_damaged_file_is_kept_and_a_new_one_begun() {
        let (folder, book) = home();
        std::fs::create_dir(folder.path().join("logs")).expect("a folder");
        let path = folder.path().join("logs/failures.state");
        for bad in [
            "{",
            "[]",
            "{\"version\":2,\"reporter\":\"0123456789abcdef\"}",
            "{\"version\":1,\"reporter\":\"x\"}",
        ] {
            std::fs::write(&path, bad).expect("written");
            assert_eq!(book.read().expect("read"), State::default(), "{bad}");
            book.change(|state| state.found(&[damaged()], NOW_MS, true)).expect("written");
            assert_eq!(book.read().expect("read").reports.len(), 1, "{bad}");
            let kept =
                std::fs::read_to_string(folder.path().join("logs/failures.state.damaged")).expect("kept");
            assert_eq!(kept, bad);
        }
    }

    #[test]
    fn two_processes_do_not_send_at_the_same_time() {
        let (_folder, book) = home();
        book.change(|_| ()).expect("the folder is there");
        let first = book.sending().expect("a lock");
        assert!(first.is_some());
        assert!(book.sending().expect("a lock").is_none());
        drop(first);
        assert!(book.sending().expect("a lock").is_some());
    }

    #[test]
    fn changes_of_many_threads_are_all_there() {
        let (_folder, book) = home();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        book.change(|state| state.found(&[damaged()], NOW_MS, true)).expect("changed");
                    }
                });
            }
        });
        assert_eq!(book.read().expect("read").reports[0].count, 100);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_place_of_the_file_is_not_followed() {
        let (folder, book) = home();
        let canary = folder.path().join("canary");
        std::fs::write(&canary, "canary").expect("written");
        std::fs::create_dir(folder.path().join("logs")).expect("a folder");
        std::os::unix::fs::symlink(&canary, folder.path().join("logs/failures.state")).expect("a link");
        book.change(|state| state.found(&[damaged()], NOW_MS, true)).expect_err("refused");
        assert_eq!(std::fs::read_to_string(&canary).expect("read"), "canary");
    }
}
