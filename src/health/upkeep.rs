//! What every run does besides looking for damage: brings in what waits, publishes `memory.db`, makes a backup when one
//! is due, keeps the index in shape, rotates the logs, looks at the space.

use std::path::Path;
use std::time::Instant;

use super::Run;
use super::disk::Space;
use super::report::{GoodBackup, Outcome, Status};
use super::state::{DAY_MS, HOUR_MS, READ_AGAIN_MS, ReadBackup};
use crate::check::Finding;
use crate::error::{ErrorKind, Result};
use crate::failure::{Deed, Failure, Kind};
use crate::fs::system;
use crate::logs::{self, Limits};
use crate::share::Store;
use crate::snapshot::{Backup, BackupVerdict, PublishKind, backups_in, read_as_a_whole};
use crate::spool::Spool;
use crate::store::{Embedded, Stats};

/// Backups of more bytes are made once a day only.
const HOURLY_BYTES_MAX: u64 = 256 << 20;
/// A run that comes a little early, as cron's do, finds a backup due all the same.
const EARLY_MS: i64 = 5 * 60 * 1000;
/// A backup from so far in the future was made by a clock that was wrong, or this one is.
const AHEAD_MS: i64 = 5 * 60 * 1000;
/// Without a good backup for so long a run says so.
const OLD_BACKUP_MS: i64 = 2 * DAY_MS;
/// The index is brought up to date when so many memories, and one in so many, are outside of it.
const OUTSIDE_MIN: u64 = 10_000;
const OUTSIDE_SHARE: u64 = 10;
/// Of the ten nearest memories an index should find this share.
const RECALL_MIN: f64 = 0.9;

/// What is done now about the next backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Now,
    /// The newest one holds everything, or is young.
    Later(&'static str),
}

impl Run<'_> {
    /// Everything that a sound store needs from time to time.
    pub(super) fn keep_up(&mut self, store: &Store) {
        if self.report.status == Status::Damaged {
            self.report.step(
                "note",
                Outcome::Skipped,
                "nothing is published or backed up from a damaged store",
                0,
            );
            return;
        }
        if store.is_read_only() && !self.options.dry_run {
            self.report.raise(Status::Failed);
            self.report.step(
                "note",
                Outcome::Failed,
                "the medium cannot be written: the store was only read",
                0,
            );
            self.report.problems.push("the medium cannot be written".to_owned());
            self.troubles.push(Failure::new(Kind::ReadOnly, self.now_ms));
            return;
        }
        self.step("spool", |run| run.bring_in(store));
        self.step("embed", |run| run.embed(store));
        self.step("snapshot", |run| run.publish(store));
        self.taken_over(store);
        self.step("backup", |run| run.back_up(store));
        self.step("index", |run| run.index(store));
    }

    /// The figures of the store.
    pub(super) fn figures(&mut self, store: &Store) {
        match store.stats() {
            Ok(stats) => {
                self.report.seq = Some(stats.last_seq);
                self.report.memories = Some(stats.memories);
                self.report.pending = Some(stats.pending);
                self.report.recall_at_10 = stats.index.recall_at_10;
                self.state.has_index = stats.index.rows > 0 || stats.words.texts > 0;
            }
            Err(error) => self.trouble("check", &error),
        }
    }

    /// Notes what backups there are. Says whether some of them are not what they were, or gone.
    pub(super) fn look_at_backups(&mut self) -> bool {
        let backups = match backups_in(self.path(), false) {
            Ok(backups) => self.read_again(backups),
            Err(error) => {
                self.trouble("backup", &error);
                return false;
            }
        };
        let name = |backup: &Backup| file_name(&backup.path);
        let bad: Vec<&Backup> =
            backups.iter().filter(|backup| backup.verdict == BackupVerdict::Damaged).collect();
        let newly_bad: Vec<Finding> = bad
            .iter()
            .filter(|backup| !self.state.known_bad.contains(&name(backup)))
            .map(|backup| of_backup(backup, "backup", "it is not what its manifest says"))
            .collect();
        self.state.known_bad = bad.iter().map(|backup| name(backup)).collect();
        self.had_backup = backups.iter().any(|backup| backup.verdict == BackupVerdict::Verified);
        let newest = newest_good(&backups);
        let mut findings = newly_bad;
        if let Some(known) = self.state.backup.clone()
            && !backups.iter().any(|backup| name(backup) == known)
            && newest.is_none_or(|newest| name(newest) < known)
        {
            findings.push(Finding {
                file: format!("backups/{known}"),
                offset: None,
                kind: "gone".to_owned(),
                detail: "the newest backup is gone".to_owned(),
                repair: "another one is made".to_owned(),
            });
        }
        let lacks_some = !findings.is_empty();
        if lacks_some {
            self.fail(&findings, Deed::Nothing);
            let what = format!("{} damaged or gone", findings.len());
            self.report.step("backups", Outcome::Warning, what, 0);
            self.state.backup = None;
        }
        self.note_backup(&backups);
        lacks_some
    }

    /// Reads those backups as a whole that may not be any more what they were: the ones that changed on the disk, and in a
    /// run that reads every byte those that nobody has read yet, or not for a week.
    fn read_again(&mut self, mut backups: Vec<Backup>) -> Vec<Backup> {
        let deep = self.report.check == "deep";
        let known = std::mem::take(&mut self.state.read_backups);
        for backup in backups.iter_mut().filter(|backup| backup.verdict == BackupVerdict::Verified) {
            let name = file_name(&backup.path);
            let Some(mut file) = read_backup(&backup.path) else { continue };
            let is_same = known.get(&name).is_some_and(|known| ReadBackup { read_ms: 0, ..*known } == file);
            let read_ms = known.get(&name).filter(|_| is_same).map(|known| known.read_ms);
            let is_old = read_ms.is_none_or(|read_ms| self.now_ms.abs_diff(read_ms) >= READ_AGAIN_MS);
            let has_changed = known.contains_key(&name) && !is_same;
            file.read_ms = read_ms.unwrap_or(0);
            if has_changed || (deep && is_old) {
                match read_as_a_whole(backup) {
                    Ok(read) => *backup = read,
                    Err(error) => {
                        self.trouble("backup", &error);
                        // Nobody knows what it is now, and the next run tries again.
                        backup.verdict = BackupVerdict::Unverified;
                        let known = known.get(&name).copied().unwrap_or_default();
                        self.state.read_backups.insert(name, known);
                        continue;
                    }
                }
                file.read_ms = self.now_ms;
            }
            if file.read_ms > 0 && backup.verdict == BackupVerdict::Verified {
                self.state.read_backups.insert(name, file);
            }
        }
        backups
    }

    fn note_backup(&mut self, backups: &[Backup]) {
        let now_ms = self.now_ms;
        self.report.backup = newest_good(backups).map(|backup| GoodBackup {
            file: file_name(&backup.path),
            created_ms: backup.created_ms,
            // One that this run has just made is younger than the run.
            age_seconds: match now_ms.saturating_sub(backup.created_ms).div_euclid(1000) {
                -60..0 => 0,
                age => age,
            },
        });
    }

    /// Memories that wait in the spool.
    fn bring_in(&mut self, store: &Store) -> Result<(Outcome, String)> {
        let spool = Spool::of(self.path());
        if !spool.is_there() {
            return Ok((Outcome::Ok, "nothing waits".to_owned()));
        }
        if self.options.dry_run {
            return Ok((Outcome::Would, "what waits would be brought in".to_owned()));
        }
        let drained = spool.drain(store)?;
        let line = format!("drained stored={} damaged={}", drained.stored, drained.damaged);
        crate::spool::journal(self.path(), self.now_ms, &line);
        let detail =
            format!("{} memories brought in, {} damaged lines kept", drained.stored, drained.damaged);
        Ok((if drained.damaged > 0 { Outcome::Warning } else { Outcome::Done }, detail))
    }

    /// Memories that wait for their vectors.
    fn embed(&mut self, store: &Store) -> Result<(Outcome, String)> {
        let pending = store.stats()?.pending;
        if pending == 0 {
            return Ok((Outcome::Ok, "every memory has its vector".to_owned()));
        }
        if self.options.dry_run {
            return Ok((Outcome::Would, format!("{pending} vectors would be made")));
        }
        let watcher = &mut *self.watcher;
        match store.embed_pending(&mut |progress| watcher("embedding", progress)) {
            Ok(Embedded { embedded: 0, failed: 0, .. }) => {
                Ok((Outcome::Ok, "the store has no model: memories are found by words".to_owned()))
            }
            Ok(Embedded { embedded, failed: 0, .. }) => {
                Ok((Outcome::Done, format!("{embedded} vectors made")))
            }
            Ok(embedded) => Ok((Outcome::Warning, format!("{} vectors could not be made", embedded.failed))),
            // They are found by words; a model that is not there is no failure of the disk.
            Err(error) if error.kind() == ErrorKind::Model => {
                self.problem("embed", &error);
                Ok((Outcome::Warning, format!("{pending} memories wait for a model that is not there")))
            }
            Err(error) => Err(error),
        }
    }

    /// The user's copy.
    fn publish(&mut self, store: &Store) -> Result<(Outcome, String)> {
        if self.options.dry_run {
            return Ok((Outcome::Would, "memory.db would be brought up to date, if it is not".to_owned()));
        }
        if store.stats()?.last_seq == 0 && !self.state.has_snapshot {
            return Ok((Outcome::Ok, "there is nothing to publish yet".to_owned()));
        }
        let watcher = &mut *self.watcher;
        let published = store.snapshot(&mut |progress| watcher("writing memory.db", progress))?;
        self.state.has_snapshot = true;
        Ok(match published.kind {
            PublishKind::Unchanged => (Outcome::Ok, "memory.db is up to date".to_owned()),
            _ => (Outcome::Done, format!("memory.db holds {} memories now", published.memories)),
        })
    }

    fn back_up(&mut self, store: &Store) -> Result<(Outcome, String)> {
        let storage = &self.home.config.storage;
        if !storage.backup_enabled {
            return Ok((Outcome::Skipped, "storage.backup_enabled is off".to_owned()));
        }
        let retention_days = storage.backup_retention_days;
        let backups = backups_in(self.path(), false)?;
        let stats = store.stats()?;
        match self.backup_due(&backups, &stats) {
            Due::Later(why) => return Ok((Outcome::Ok, why.to_owned())),
            Due::Now if self.options.dry_run => {
                return Ok((Outcome::Would, "a backup would be made".to_owned()));
            }
            Due::Now => {}
        }
        let expected = newest_good(&backups).map_or(0, |backup| backup.bytes).max(stats.segment_bytes / 4);
        if !Space::of(self.path(), &self.home.db_path).has_room_for(expected) {
            self.report.problems.push("there is no room for another backup".to_owned());
            self.report.hints.push("free some space on this disk".to_owned());
            self.report.raise(Status::Failed);
            self.troubles.push(Failure::new(Kind::NoSpace, self.now_ms));
            return Ok((Outcome::Failed, "there is no room for another backup".to_owned()));
        }
        // With a clock that was set back, the new one would look like the oldest, and would be let go of at once.
        let is_behind = backups.iter().any(|backup| self.is_ahead(backup));
        let watcher = &mut *self.watcher;
        let mut tell = |progress| watcher("making a backup", progress);
        let made = if is_behind {
            store.backup_to(&self.home.path.join("backups"), &mut tell)?
        } else {
            store.backup_scheduled(retention_days, &mut tell)?
        };
        self.state.backup = Some(file_name(&made.path));
        if let Some(file) = read_backup(&made.path) {
            // It was read back when it was made.
            let file = ReadBackup { read_ms: self.now_ms, ..file };
            self.state.read_backups.insert(file_name(&made.path), file);
        }
        self.had_backup |= self.state.run_ms.is_some();
        let backups = backups_in(self.path(), false)?;
        self.note_backup(&backups);
        let memories = made.memories.unwrap_or(0);
        Ok((Outcome::Done, format!("{}: {memories} memories, verified", file_name(&made.path))))
    }

    fn backup_due(&self, backups: &[Backup], stats: &Stats) -> Due {
        if stats.last_seq == 0 {
            return Due::Later("there is nothing to back up yet");
        }
        let known_bad = |backup: &Backup| self.state.known_bad.contains(&file_name(&backup.path));
        let newest = backups.iter().find(|backup| {
            backup.verdict == BackupVerdict::Verified && !self.is_ahead(backup) && !known_bad(backup)
        });
        let Some(newest) = newest else { return Due::Now };
        if newest.seq == Some(stats.last_seq) {
            return Due::Later("the newest one holds everything");
        }
        let hours = i64::from(self.home.config.health.check_interval_hours).clamp(1, 24);
        let interval = if newest.bytes > HOURLY_BYTES_MAX { DAY_MS } else { hours * HOUR_MS };
        if self.now_ms.saturating_sub(newest.created_ms).saturating_add(EARLY_MS) >= interval {
            Due::Now
        } else {
            Due::Later("the newest one is young")
        }
    }

    /// Whether a backup says that it was made at a time that has not come yet.
    fn is_ahead(&self, backup: &Backup) -> bool {
        backup.created_ms.saturating_sub(self.now_ms) > AHEAD_MS
    }

    /// The index over vectors and the one over words.
    fn index(&mut self, store: &Store) -> Result<(Outcome, String)> {
        let stats = store.stats()?;
        let outside_of = |there: u64, all: u64, live: u64| live.max(all.saturating_sub(there));
        let vectors = outside_of(stats.index.rows, stats.embedded, stats.index.live);
        let texts = outside_of(stats.words.texts, stats.memories, stats.words.live);
        let is_much = |outside: u64, all: u64| outside > OUTSIDE_MIN && outside > all / OUTSIDE_SHARE;
        if is_much(vectors, stats.embedded) || is_much(texts, stats.memories) {
            if self.options.dry_run {
                return Ok((Outcome::Would, "the index would be brought up to date".to_owned()));
            }
            store.build_index(false, &mut |_| {})?;
            return Ok((Outcome::Done, format!("{} memories brought into the index", vectors.max(texts))));
        }
        match (stats.index.problem.or(stats.words.problem), stats.index.recall_at_10) {
            (Some(problem), _) => {
                Ok((Outcome::Warning, format!("the last index could not be made: {problem}")))
            }
            (None, Some(recall)) if recall < RECALL_MIN => Ok((
                Outcome::Warning,
                format!("recall@10 is {recall:.3}; `memento-kv reindex --full` may help"),
            )),
            (None, Some(recall)) => Ok((Outcome::Ok, format!("recall@10 is {recall:.3}"))),
            (None, None) => Ok((Outcome::Ok, "up to date".to_owned())),
        }
    }

    pub(super) fn rotate_logs(&mut self) {
        if self.options.dry_run || self.report.status == Status::Nothing {
            return;
        }
        let config = &self.home.config.logs;
        let limits = Limits { max_bytes: u64::from(config.max_mb) << 20, keep_days: config.keep_days };
        self.step("logs", |run| {
            let done = logs::rotate(run.path(), run.now_ms, limits)?;
            let outcome = if done.rotated + done.removed > 0 { Outcome::Done } else { Outcome::Ok };
            Ok((outcome, format!("{} rotated, {} removed", done.rotated, done.removed)))
        });
    }

    pub(super) fn look_at_space(&mut self) {
        let mut space = Space::of(self.path(), &self.home.db_path);
        self.state.note_size(self.now_ms, space.used());
        space.growth_per_day = self.state.growth();
        let (outcome, detail) = match (space.free, space.days_left()) {
            (Some(free), _) if space.is_short() => {
                (Outcome::Warning, format!("only {} MiB are free on this disk", free >> 20))
            }
            (Some(free), Some(days)) if days < 30 => {
                (Outcome::Warning, format!("{} MiB are free, full in {days} days", free >> 20))
            }
            (Some(free), _) => (Outcome::Ok, format!("{} MiB are free", free >> 20)),
            (None, _) => (Outcome::Skipped, "the system does not say what is free".to_owned()),
        };
        self.report.step("disk", outcome, detail, 0);
        self.report.space = space;
        self.look_at_the_clock();
    }

    /// A clock that was set back, and backups that are too old.
    fn look_at_the_clock(&mut self) {
        let ahead = self.state.run_ms.map_or(0, |run_ms| run_ms.saturating_sub(self.now_ms));
        if ahead > HOUR_MS {
            let detail = format!("the clock is {} hours behind the last run", ahead / HOUR_MS);
            self.report.step("clock", Outcome::Warning, detail, 0);
        }
        let is_wanted = self.home.config.storage.backup_enabled && self.report.memories.unwrap_or(0) > 0;
        let age_ms = self.report.backup.as_ref().map(|backup| self.now_ms.saturating_sub(backup.created_ms));
        let is_behind = self.report.seq.is_some_and(|seq| seq > 0)
            && age_ms.is_none_or(|age| age > OLD_BACKUP_MS)
            && self.report.steps.iter().any(|step| step.step == "backup" && step.outcome == Outcome::Failed);
        if is_wanted && is_behind && !self.options.dry_run {
            self.report.hints.push("there is no good backup of the last two days".to_owned());
        }
    }

    /// One step, with what came of it and how long it took.
    fn step(&mut self, step: &'static str, work: impl FnOnce(&mut Self) -> Result<(Outcome, String)>) {
        let started = Instant::now();
        match work(self) {
            Ok((outcome, detail)) => {
                let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.report.step(step, outcome, detail, took_ms);
            }
            Err(error) => self.trouble(step, &error),
        }
    }
}

/// What tells whether a backup is the file that it was.
fn read_backup(path: &Path) -> Option<ReadBackup> {
    let (_, file) = system::identity_at(path).ok()?;
    let changed_ns = i64::try_from(file.changed_ns).ok()?;
    Some(ReadBackup { read_ms: 0, len: file.len, inode: file.inode, changed_ns })
}

/// The newest backup that is good, by what is known without reading it.
fn newest_good(backups: &[Backup]) -> Option<&Backup> {
    backups.iter().find(|backup| backup.verdict == BackupVerdict::Verified)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn of_backup(backup: &Backup, kind: &str, detail: &str) -> Finding {
    Finding {
        file: format!("backups/{}", file_name(&backup.path)),
        offset: None,
        kind: kind.to_owned(),
        detail: detail.to_owned(),
        repair: "nothing is restored from it; a later backup takes its place".to_owned(),
    }
}
