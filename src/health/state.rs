//! What the last runs found, in `health.json` of the home. Spec: `format-spec/health.md`.
//!
//! It is a note, not truth: lost, damaged or from another time, it only makes the next run do more.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::fs::{self, RealDisk};

/// Name of the file in the home.
const NAME: &str = "health.json";
const LEN_MAX: usize = 256 << 10;
/// A deep check is due when the last one is older.
const DEEP_MS: i64 = DAY_MS;
pub(super) const HOUR_MS: i64 = 60 * 60 * 1000;
pub(super) const DAY_MS: i64 = 24 * HOUR_MS;
/// Copies that have not changed are read again after this.
pub(super) const READ_AGAIN_MS: u64 = 7 * DAY_MS as u64;
/// Sizes of so many days are kept.
const SIZES_MAX: usize = 30;
/// Names of damaged backups that are kept, so that each is told of once.
const KNOWN_BAD_MAX: usize = 100;
/// A time that is so much in the future was written by a clock that was wrong.
const AHEAD_MS: i64 = HOUR_MS;

/// What is known of former runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) format: u32,
    /// When the last run ended, in Unix milliseconds.
    pub(super) run_ms: Option<i64>,
    /// When the last run ended that found nothing wrong, or mended it.
    pub(super) good_ms: Option<i64>,
    /// When every byte was read the last time, and whether all was well then.
    pub(super) deep_ms: Option<i64>,
    pub(super) deep_ok: bool,
    /// When the bytes of `memory.db` and of all backups were read the last time.
    pub(super) copies_ms: Option<i64>,
    /// Last sequence and memories of the store then.
    pub(super) seq: u64,
    pub(super) memories: u64,
    /// Sequences whose records are lost, first and last of each run, as far as a run has dealt with them.
    pub(super) losses: Vec<(u64, u64)>,
    /// Whether the store had an index block, and a published `memory.db`.
    pub(super) has_index: bool,
    pub(super) has_snapshot: bool,
    /// File name of the newest good backup.
    pub(super) backup: Option<String>,
    /// Backups that were read as a whole, by file name.
    pub(super) read_backups: BTreeMap<String, ReadBackup>,
    /// Damaged backups that were told of.
    pub(super) known_bad: Vec<String>,
    /// Names of the notes in the store's quarantine; none when that is not known.
    pub(super) quarantined: Option<Vec<String>>,
    /// Runs in a row that met an error of the disk.
    pub(super) io_failures: u32,
    /// Bytes of the home on each of the last days, the oldest first: day since 1970, bytes.
    pub(super) sizes: Vec<(i64, u64)>,
    /// How often each step came to what: `check/ok`, `backup/done`, ...
    pub(super) operations: BTreeMap<String, u64>,
}

/// A backup that was read as a whole and was what it had been when it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ReadBackup {
    /// When, in Unix milliseconds.
    pub(super) read_ms: i64,
    /// Its length, its inode and when it was changed the last time, in nanoseconds: with another one of these it may be
    /// another file.
    pub(super) len: u64,
    pub(super) inode: u64,
    pub(super) changed_ns: i64,
}

impl State {
    /// What is known of this home; nothing, when that cannot be read.
    pub(super) fn read(home: &Path) -> Self {
        match fs::read_small(&RealDisk, &home.join(NAME), LEN_MAX) {
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Ok(None) => Self::default(),
            Err(error) => {
                tracing::warn!(%error, "what former health runs found is not known");
                Self::default()
            }
        }
    }

    /// Keeps it.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn write(&mut self, home: &Path) -> Result<()> {
        self.format = 1;
        self.known_bad.truncate(KNOWN_BAD_MAX);
        let mut bytes = serde_json::to_vec_pretty(self).expect("a struct of numbers and texts");
        bytes.push(b'\n');
        fs::replace(&RealDisk, &home.join(NAME), &bytes)
    }

    /// Whether every byte should be read now. A clock that was set back is no reason to wait for a year, and what was
    /// found by reading all may be seen by nothing less: until that finds nothing, no run may say that all is well.
    pub(super) fn deep_is_due(&self, now_ms: i64) -> bool {
        let is_due =
            |deep: i64| now_ms.saturating_sub(deep) >= DEEP_MS || deep.saturating_sub(now_ms) > AHEAD_MS;
        !self.deep_ok || self.deep_ms.is_none_or(is_due)
    }

    /// Whether a run that reads every byte should read those of `memory.db` and of all backups, too, whether they have
    /// changed or not: what has changed is looked at anyway.
    pub(super) fn copies_are_due(&self, now_ms: i64) -> bool {
        !self.deep_ok || self.copies_ms.is_none_or(|copies| now_ms.abs_diff(copies) >= READ_AGAIN_MS)
    }

    /// Notes how many bytes the home has today.
    pub(super) fn note_size(&mut self, now_ms: i64, bytes: u64) {
        let day = now_ms.div_euclid(DAY_MS);
        // What a clock wrote that ran ahead would stay for good.
        self.sizes.retain(|(other, _)| *other < day);
        self.sizes.push((day, bytes));
        let surplus = self.sizes.len().saturating_sub(SIZES_MAX);
        self.sizes.drain(..surplus);
    }

    /// By how many bytes the home grows on a day, over the days that are known.
    pub(super) fn growth(&self) -> Option<i64> {
        let ((first_day, first), (last_day, last)) = (*self.sizes.first()?, *self.sizes.last()?);
        let days = last_day.saturating_sub(first_day);
        let grown = i64::try_from(last).ok()?.saturating_sub(i64::try_from(first).ok()?);
        (days > 0).then(|| grown / days)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reads_back_and_a_damaged_one_is_none() {
        let home = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(State::read(home.path()), State::default());
        let mut state = State { run_ms: Some(5), seq: 7, ..State::default() };
        state.operations.insert("check/ok".to_owned(), 3);
        state.write(home.path()).expect("written");
        assert_eq!(State::read(home.path()), state);
        std::fs::write(home.path().join(NAME), b"{\"seq\": \"many\"").expect("written");
        assert_eq!(State::read(home.path()), State::default());
    }

    #[test]
    fn a_deep_check_is_due_after_a_day_and_when_the_clock_was_set_back() {
        let state = State { deep_ms: Some(10 * DAY_MS), deep_ok: true, ..State::default() };
        assert!(State::default().deep_is_due(0));
        let damaged = State { deep_ok: false, ..state.clone() };
        assert!(damaged.deep_is_due(10 * DAY_MS + 1), "less than that may not see what it found");
        let hostile = |deep_ms| State { deep_ms: Some(deep_ms), ..state.clone() };
        assert!(hostile(i64::MIN).deep_is_due(0) && hostile(i64::MAX).deep_is_due(-1));
        assert!(!state.deep_is_due(10 * DAY_MS + DEEP_MS - 1));
        assert!(state.deep_is_due(10 * DAY_MS + DEEP_MS));
        assert!(!state.deep_is_due(10 * DAY_MS - 60_000), "clocks are corrected a little every day");
        assert!(state.deep_is_due(9 * DAY_MS));
        let read = State { copies_ms: Some(10 * DAY_MS), ..state.clone() };
        assert!(state.copies_are_due(0) && !read.copies_are_due(16 * DAY_MS));
        assert!(read.copies_are_due(17 * DAY_MS) && read.copies_are_due(3 * DAY_MS));
        assert!(State { deep_ok: false, ..read }.copies_are_due(10 * DAY_MS));
    }

    #[test]
    fn growth_is_by_the_day() {
        let mut state = State::default();
        state.note_size(100 * DAY_MS, 1000);
        assert_eq!(state.growth(), None);
        state.note_size(100 * DAY_MS + HOUR_MS, 1100);
        state.note_size(102 * DAY_MS, 1300);
        assert_eq!((state.growth(), state.sizes.len()), (Some(100), 2));
        state.note_size(90 * DAY_MS, 5);
        assert_eq!(state.sizes, [(90, 5)], "the clock was set back");
        let hostile = State { sizes: vec![(i64::MIN, u64::MAX), (i64::MAX, 0)], ..State::default() };
        assert_eq!(hostile.growth(), None);
        (0..100).for_each(|day| state.note_size(day * DAY_MS, 1));
        assert_eq!(state.sizes.len(), SIZES_MAX);
    }
}
