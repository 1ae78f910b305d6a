//! A store that is gone comes back from the newest snapshot that is whole: `memory.db`, or a verified backup.
//!
//! It is made beside the home's store, under another name, and gets its name when it is complete and durable: a crash
//! leaves either no store, or all of it. What is still there of the former one is moved away first, with a note.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::Run;
use super::report::{Outcome, Status, rfc_3339};
use super::state::DAY_MS;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::{Deed, Failure, Kind, Lost};
use crate::fs::{self, Disk, RealDisk};
use crate::home::Home;
use crate::share::Store;
use crate::snapshot::{
    Backup, BackupVerdict, RestoreFrom, RestoreOptions, Restored, Stamped, backups_in, read_as_a_whole,
    stamp_in,
};
use crate::store::Options;

/// Where a store is made that is to take the place of one that is gone.
const STAGE: &str = ".reviving";
/// Where what is left of the former one goes.
const QUARANTINE: &str = "quarantine";
/// Files in quarantine stay at least this long.
const KEPT_DAYS: i64 = 30;

/// A file that a store can come back from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) stamped: Stamped,
    /// What its manifest says, where it is a backup.
    backup: Option<Backup>,
}

impl Source {
    /// Its name within the home.
    pub(super) fn name(&self, home: &Home) -> String {
        let shown = self.path.strip_prefix(&home.path).ok().or(self.path.file_name().map(Path::new));
        shown.unwrap_or(&self.path).display().to_string()
    }

    /// Whether it is what its manifest says, read as a whole. What it holds is found out by whoever restores it.
    pub(super) fn is_what_it_was(&self) -> bool {
        let Some(backup) = &self.backup else { return true };
        match read_as_a_whole(backup) {
            Ok(read) => read.verdict == BackupVerdict::Verified,
            Err(error) => {
                tracing::warn!(%error, "this backup cannot be read");
                false
            }
        }
    }
}

/// What stands beside something in quarantine.
#[derive(Serialize)]
struct Note<'a> {
    file: &'a str,
    reason: &'a str,
    quarantined_at: String,
    keep_until: String,
}

/// The files that a store can come back from, the newest first, by what they say of themselves. A month of backups is many
/// times the store: whether one [is what it was](Source::is_what_it_was) is asked when its turn comes.
pub(super) fn sources(home: &Home) -> Vec<Source> {
    let backups = backups_in(&home.path, false).unwrap_or_else(|error| {
        tracing::warn!(%error, "the backups cannot be listed");
        Vec::new()
    });
    let verified = backups.into_iter().filter(|backup| backup.verdict == BackupVerdict::Verified);
    let files = verified.map(|backup| (backup.path.clone(), Some(backup)));
    let mut sources: Vec<Source> = std::iter::once((home.db_path.clone(), None))
        .chain(files)
        .filter_map(|(path, backup)| match stamp_in(&path) {
            Ok(stamped) => stamped.map(|stamped| Source { path, stamped, backup }),
            Err(error) => {
                tracing::warn!(%error, "this snapshot cannot be read");
                None
            }
        })
        .collect();
    // The latest says which store it was. Within one store sequences order, whatever the clock said.
    let latest = sources.iter().max_by_key(|source| source.stamped.created_ms);
    let store_id = latest.map(|latest| latest.stamped.store_id.clone());
    sources.sort_by_key(|source| {
        let Stamped { store_id: own, seq, created_ms, .. } = &source.stamped;
        let is_same = Some(own) == store_id.as_ref();
        std::cmp::Reverse((is_same, if is_same { *seq } else { 0 }, *created_ms))
    });
    sources
}

/// Makes a store from this file in a home whose store is gone. What is left of the former one goes into quarantine.
///
/// # Errors
/// Those of [`Store::restore`]; then the home is as it was.
pub fn revive(home: &Home, file: &Path) -> Result<Restored> {
    let stage = home.path.join(STAGE);
    RealDisk.remove_tree(&stage)?;
    let restored = staged(home, &stage, file);
    let moved = restored.and_then(|restored| {
        put_in_place(home, &stage)?;
        Ok(restored)
    });
    let cleared = RealDisk.remove_tree(&stage);
    let restored = moved?;
    cleared?;
    Ok(restored)
}

fn staged(home: &Home, stage: &Path, file: &Path) -> Result<Restored> {
    let options = Options::of(home)?.in_home(stage).publish(false).background_embedding(false);
    let store = Store::open(options.query_cache(false).begin_anew(true))?;
    let restored = store.restore(&RestoreFrom::File(file.to_owned()), RestoreOptions::default())?;
    store.close()?;
    Ok(restored)
}

/// Gives the staged store its name.
fn put_in_place(home: &Home, stage: &Path) -> Result<()> {
    let place = home.path.join("store");
    if RealDisk.kind(&place)?.is_some() {
        put_away(home, &place)?;
    }
    RealDisk.rename(&stage.join("store"), &place)?;
    RealDisk.sync_folder(&home.path)
}

/// Moves what is left of a store into the home's quarantine.
fn put_away(home: &Home, place: &Path) -> Result<()> {
    let now_ms = SystemClock.now_ms();
    let quarantine = home.path.join(QUARANTINE);
    fs::create_folders(&RealDisk, &quarantine)?;
    let target = quarantine.join(format!("store.{now_ms}"));
    let (file, reason) = ("store", "it could not be opened, and was made anew from a snapshot");
    let (quarantined_at, keep_until) = (rfc_3339(now_ms), rfc_3339(now_ms + KEPT_DAYS * DAY_MS));
    let note = Note { file, reason, quarantined_at, keep_until };
    let mut text = serde_json::to_vec_pretty(&note).expect("a struct of texts");
    text.push(b'\n');
    fs::replace(&RealDisk, &quarantine.join(format!("store.{now_ms}.json")), &text)?;
    RealDisk.rename(place, &target)?;
    RealDisk.sync_folder(&quarantine)?;
    RealDisk.sync_folder(&home.path)
}

impl Run<'_> {
    /// Brings a store back that is gone.
    pub(super) fn bring_back(&mut self) -> Option<Store> {
        let started = Instant::now();
        let sources = sources(self.home);
        let mut sound = sources.iter().filter(|source| source.is_what_it_was());
        let failure = Failure::new(Kind::StoreGone, self.now_ms).file("store");
        if self.options.dry_run || !self.home.config.health.auto_rollback {
            self.failures.push(failure.done(Deed::Nothing, 0));
            let Some(source) = sound.next() else {
                self.no_source();
                return None;
            };
            let what = format!("the store would be made anew from {}", source.name(self.home));
            self.report.raise(if self.options.dry_run { Status::Damaged } else { Status::Decision });
            self.report.step("restore", Outcome::Would, what, 0);
            self.report.hints.push("`memento-kv restore --latest` brings the newest backup back".to_owned());
            return None;
        }
        for source in sound {
            match revive(self.home, &source.path) {
                Ok(restored) => {
                    self.brought_back(source, &restored, failure, started);
                    return self.revived();
                }
                Err(error) if is_of_the_file(&error) => self.problem("restore", &error),
                Err(error) => {
                    self.failures.push(failure.done(Deed::Nothing, 0));
                    self.report.raise(Status::Damaged);
                    self.trouble("restore", &error);
                    return None;
                }
            }
        }
        self.failures.push(failure.done(Deed::Nothing, 0));
        self.no_source();
        None
    }

    fn brought_back(&mut self, source: &Source, restored: &Restored, failure: Failure, started: Instant) {
        let created_ms = source.stamped.created_ms;
        let detail = format!(
            "the store is made anew from {}: {} memories, as of {}",
            source.name(self.home),
            restored.changed.added,
            rfc_3339(created_ms)
        );
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.report.step("restore", Outcome::Done, detail, took_ms);
        // What former runs know of the store may say that nothing came after the snapshot.
        let held = source.stamped.seq;
        let seqs = if self.state.seq > held { vec![(held + 1, self.state.seq)] } else { Vec::new() };
        self.report.lost.seqs.clone_from(&seqs);
        self.report.lost.after = Some(rfc_3339(created_ms));
        self.report.lost.until = Some(rfc_3339(self.now_ms));
        // Whether there was anything in the window nobody can know, unless a former run has seen it.
        self.report.raise(if seqs.is_empty() { Status::Healed } else { Status::Lost });
        let lost = Lost {
            records: self.report.lost.records().unwrap_or(0),
            seqs: seqs.first().copied(),
            window_ms: Some((created_ms, self.now_ms)),
        };
        let restored = failure.done(Deed::Restored, restored.changed.added).lost(lost);
        self.failures.push(restored);
        // Sequences begin anew.
        (self.state.seq, self.state.has_index) = (0, false);
        self.losses.clear();
    }

    fn revived(&mut self) -> Option<Store> {
        self.report.check = "quick";
        match self.opening().and_then(Store::open) {
            Ok(store) => Some(store),
            Err(error) => {
                self.trouble("check", &error);
                None
            }
        }
    }

    /// There is nothing that a store could come back from.
    fn no_source(&mut self) {
        self.report.raise(Status::Decision);
        let what = match backups_in(&self.home.path, true) {
            Ok(backups) if backups.is_empty() => "there are no backups".to_owned(),
            Ok(backups) => {
                let named = backups.iter().map(|backup| {
                    let name = backup.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    format!("{name} ({})", backup.verdict.name())
                });
                named.collect::<Vec<_>>().join(", ")
            }
            Err(error) => {
                self.problem("restore", &error);
                "the backups cannot be looked at".to_owned()
            }
        };
        self.failures
            .push(Failure::new(Kind::BackupsGone, self.now_ms).file("backups").done(Deed::Nothing, 0));
        self.report.step("restore", Outcome::Failed, format!("no verified backup: {what}"), 0);
        self.report
            .problems
            .push(format!("the store is gone and nothing verified can bring it back: {what}"));
        self.report.hints.push(
            "put the folder `store` or a backup back; `memento-kv restore FILE` takes an unverified one, \
             `memento-kv health --begin-anew` begins an empty store"
                .to_owned(),
        );
    }
}

/// Whether another file may do better.
fn is_of_the_file(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Corrupt
            | ErrorKind::Invalid
            | ErrorKind::NotFound
            | ErrorKind::TooLarge
            | ErrorKind::UnknownFormat
    )
}
