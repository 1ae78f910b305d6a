//! Looking at the store: at its files, and by asking it. What is found is believed when a second look agrees.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Run;
use super::report::{Outcome, Status};
use crate::check::{CheckOptions, CheckReport, Finding, check_files_with};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::{Deed, Failure, Kind};
use crate::share::Store;
use crate::store::{Healed, Progress, TakenOverKind};

/// A quick run looks so long at the files of a store that another process has.
const GLANCE: Duration = Duration::from_millis(200);
/// Whoever writes has written after so long.
const MOMENT: Duration = Duration::from_millis(50);
/// The quarantine of a store, below its home.
const QUARANTINE: &str = "store/quarantine";
/// Most names in it that are remembered until the next run.
const QUARANTINED_MAX: usize = 1000;
/// So many findings of one file are told.
const FINDINGS_OF_FILE_MAX: usize = 20;

/// Which files were there before the store was opened.
pub(super) struct Before {
    segments: usize,
    view: bool,
    manifest: bool,
    index: bool,
    snapshot: bool,
    quarantined: BTreeSet<String>,
}

/// What stands beside a file in quarantine.
#[derive(Deserialize)]
struct Note {
    file: String,
    reason: String,
}

impl Before {
    pub(super) fn of(home: &Path, db_path: &Path) -> Self {
        let store = home.join("store");
        let count = |folder: &str, suffix: &str| {
            names(&store.join(folder)).iter().filter(|name| name.ends_with(suffix)).count()
        };
        Self {
            segments: count("seg", ".mseg"),
            view: is_there(&store.join("view.redb")),
            manifest: is_there(&store.join("MANIFEST")),
            index: count("index", ".mvec") > 0,
            snapshot: is_there(db_path),
            quarantined: names(&home.join(QUARANTINE)),
        }
    }
}

impl Run<'_> {
    /// The store, when it is sound or was mended; checked as much as this run is to.
    pub(super) fn sound_store(&mut self) -> Option<Store> {
        let before = Before::of(self.path(), &self.home.db_path);
        let deep = self.options.deep || self.state.deep_is_due(self.now_ms);
        let changes_nothing = self.options.dry_run || !self.home.config.health.auto_rollback;
        let started = Instant::now();
        let files = if deep && before.segments > 0 { self.glance() } else { Vec::new() };
        let opened = self.opening().and_then(|options| Store::open(options.read_only(changes_nothing)));
        let store = match opened {
            Ok(store) => store,
            Err(error) => return self.refused(error, &before),
        };
        self.report.check = if deep { "deep" } else { "quick" };
        let healed = self.noticed(&store, &before);
        let is_owner = owner(self.path()).is_none_or(|pid| pid == std::process::id());
        // Whoever has the store reads the view, too, which nobody else can.
        let copies = deep && self.state.copies_are_due(self.now_ms);
        let asked = if deep {
            let options = CheckOptions::new().copies(copies);
            self.told(|tell| store.check_with(&options, tell))
        } else {
            store.check_quickly(&mut |_| {})
        };
        let mut found = match asked {
            Ok(report) => self.checked(report),
            Err(error) => {
                self.trouble("check", &error);
                self.closed(store);
                return None;
            }
        };
        let mut were_read = true;
        if !is_owner {
            // A sick owner cannot vouch for itself.
            match self.files((!deep).then_some(GLANCE)) {
                Ok(looked) => found.extend(looked.findings),
                Err(error) => {
                    were_read = false;
                    self.trouble("check", &error);
                }
            }
        }
        if deep {
            self.state.deep_ms = Some(self.now_ms);
            self.state.deep_ok = found.is_empty() && were_read;
            if copies {
                self.state.copies_ms = Some(self.now_ms);
            }
        }
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if found.is_empty() && !changes_nothing {
            self.look_for_losses(&store);
        }
        if found.is_empty() {
            // What the files showed before the store was opened, the opening has healed.
            let was_healed = !files.is_empty() || healed;
            self.fail(&files, Deed::Healed);
            if was_healed && changes_nothing {
                self.not_mended(took_ms);
            } else if was_healed {
                self.report.raise(Status::Healed);
                self.report.step(
                    "check",
                    Outcome::Done,
                    "the store healed itself when it was opened",
                    took_ms,
                );
            } else if were_read {
                self.report.step("check", Outcome::Ok, "nothing is wrong", took_ms);
            }
            return self.writable(store, changes_nothing);
        }
        self.closed(store);
        // The second look does not depend on anything that the first has in memory.
        let again = self.files_or_none(None);
        let is_confirmed = found.iter().any(|one| again.iter().any(|other| other.file == one.file))
            || again.iter().any(|one| one.file.starts_with("store/"));
        if !is_confirmed && !self.is_seen_again() {
            let what = "what the first look found, the second did not find";
            self.report.step("check", Outcome::Warning, what, took_ms);
            return self.opened_again();
        }
        let mut all: Vec<Finding> = Vec::new();
        for finding in [files, found, again].concat() {
            if !all.contains(&finding) {
                all.push(finding);
            }
        }
        let count = if all.len() == 1 { "1 finding".to_owned() } else { format!("{} findings", all.len()) };
        self.report.step("check", Outcome::Warning, count, took_ms);
        self.mend(&all)
    }

    /// What the names of the files, their headers and the manifest say before the store is opened, which heals much of
    /// it. Others may be writing just now: what is not so a moment later is none.
    fn glance(&mut self) -> Vec<Finding> {
        let mut found = self.files_or_none(Some(Duration::ZERO));
        if !found.is_empty() {
            std::thread::sleep(MOMENT);
            let again = self.files_or_none(Some(Duration::ZERO));
            found
                .retain(|one| again.iter().any(|other| (&other.file, &other.kind) == (&one.file, &one.kind)));
        }
        found
    }

    /// What the files say, without the store.
    fn files(&mut self, limit: Option<Duration>) -> Result<CheckReport> {
        let options = limit.map_or_else(CheckOptions::new, |limit| CheckOptions::new().time_limit(limit));
        let home = self.path().to_owned();
        let mut report = self.told(|tell| check_files_with(&home, &options, tell))?;
        report.findings = few(report.findings);
        Ok(report)
    }

    /// As [`Run::files`], where somebody else says more of a store that is not there or cannot be read.
    fn files_or_none(&mut self, limit: Option<Duration>) -> Vec<Finding> {
        self.files(limit).map_or_else(
            |error| {
                tracing::debug!(%error, "the files were not looked at");
                Vec::new()
            },
            |report| report.findings,
        )
    }

    /// Whether the store, opened anew, finds something again.
    fn is_seen_again(&mut self) -> bool {
        let opened = self.opening().and_then(|options| Store::open(options.read_only(true)));
        let Ok(store) = opened else { return true };
        let report = self.told(|tell| store.check(tell));
        self.closed(store);
        report.is_ok_and(|report| !report.findings.is_empty())
    }

    /// The findings of a check by the store; what was ever lost is noted.
    fn checked(&mut self, report: CheckReport) -> Vec<Finding> {
        self.note_losses(&report);
        few(report.findings)
    }

    /// What the store says was ever lost.
    pub(super) fn note_losses(&mut self, report: &CheckReport) {
        self.losses = report.losses.iter().map(|loss| (loss.first_seq, loss.last_seq)).collect();
    }

    /// What was given up by a run that was cut short before it looked for it in the snapshots, or by somebody else.
    fn look_for_losses(&mut self, store: &Store) {
        let new: Vec<(u64, u64)> =
            self.losses.iter().filter(|loss| !self.state.losses.contains(loss)).copied().collect();
        self.report.lost.seqs.extend(new);
        self.restore_forward(store);
    }

    /// Notes what the opening found and healed. Says whether there was anything.
    fn noticed(&mut self, store: &Store, before: &Before) -> bool {
        let healed = store.healed();
        let mut findings: Vec<Finding> = healed.iter().map(finding_of).collect();
        findings.extend(self.gone(before));
        findings.extend(self.newly_quarantined(before, &healed));
        let is_something = !findings.is_empty();
        self.fail(&findings, Deed::Healed);
        self.healed(healed);
        is_something
    }

    /// Files that should have been there before the opening, which makes them anew, and were not.
    fn gone(&self, before: &Before) -> Vec<Finding> {
        let files = [
            (before.segments > 0, before.view, "store/view.redb"),
            (before.segments > 0, before.manifest, "store/MANIFEST"),
            (self.state.has_index, before.index, "store/index"),
            (self.state.has_snapshot, before.snapshot, "memory.db"),
        ];
        let missed = files.into_iter().filter(|(was, is, _)| *was && !*is);
        missed
            .map(|(.., file)| found(file, "gone", "the file was gone".to_owned(), "it was made anew"))
            .collect()
    }

    /// What was put into quarantine by the opening, or since the last run: a store that heals itself whenever a program
    /// opens it is on a disk that somebody should look at.
    fn newly_quarantined(&self, before: &Before, healed: &[Healed]) -> Vec<Finding> {
        let folder = self.path().join(QUARANTINE);
        let was_there = |name: &str| match &self.state.quarantined {
            Some(known) => known.iter().any(|other| other == name),
            None => before.quarantined.contains(name),
        };
        let is_known = |name: &str| {
            let kept = format!("{QUARANTINE}/{}", name.trim_end_matches(".json"));
            was_there(name) || healed.iter().any(|healed| healed.quarantined.contains(&kept))
        };
        names(&folder)
            .into_iter()
            .filter(|name| name.ends_with(".json") && !is_known(name))
            .filter_map(|name| {
                let note: Note = serde_json::from_slice(&fs::read(folder.join(name)).ok()?).ok()?;
                // What is not of the store itself may be what a person has put there.
                note.file
                    .starts_with("store/")
                    .then(|| found(&note.file, "damaged", note.reason, "it is kept in store/quarantine"))
            })
            .collect()
    }

    /// What lies in quarantine now; none when that is more than a note should hold.
    pub(super) fn quarantined(&self) -> Option<Vec<String>> {
        let names = names(&self.path().join(QUARANTINE)).into_iter().filter(|name| name.ends_with(".json"));
        let names: Vec<String> = names.take(QUARANTINED_MAX + 1).collect();
        (names.len() <= QUARANTINED_MAX).then_some(names)
    }

    /// Notes what was healed, and what of it is lost.
    pub(super) fn healed(&mut self, healed: Vec<Healed>) {
        for one in healed {
            self.report.lost.seqs.extend(one.lost.iter().copied());
            self.report.healed.push(one);
        }
    }

    /// Notes what was taken over from a `memory.db` that is not the published one.
    pub(super) fn taken_over(&mut self, store: &Store) {
        for taken in store.taken_over() {
            if taken.kind == TakenOverKind::Unusable {
                let finding = found("memory.db", "damaged", taken.detail, "it was put away and written anew");
                self.fail(&[finding], Deed::Republished);
                self.report.raise(Status::Healed);
            } else if taken.added + taken.changed + taken.forgotten > 0 {
                let counts = (taken.added, taken.changed, taken.forgotten);
                let detail = format!(
                    "memory.db is not the published one and was taken over: {} added, {} changed, {} forgotten; \
                     `memento-kv restore --undo` takes it back",
                    counts.0, counts.1, counts.2
                );
                self.report.step("note", Outcome::Warning, detail, 0);
            }
        }
    }

    /// The store did not open.
    fn refused(&mut self, error: Error, before: &Before) -> Option<Store> {
        match error.kind() {
            ErrorKind::NotFound => {
                self.report.raise(Status::Nothing);
                self.report.step("check", Outcome::Ok, "nothing is remembered here yet", 0);
                None
            }
            ErrorKind::Gone => self.bring_back(),
            ErrorKind::Busy | ErrorKind::OwnerUnresponsive | ErrorKind::VersionSkew | ErrorKind::Timeout => {
                self.busy(&error);
                None
            }
            // The refusal is the one proof, the look at the files the other.
            ErrorKind::Corrupt => {
                self.report.check = "deep";
                let mut found = vec![finding_of_error(&error, self.path())];
                let again = if before.segments > 0 { self.files_or_none(None) } else { Vec::new() };
                if again.is_empty() && before.segments > 0 && !self.is_seen_again() {
                    self.report.step(
                        "check",
                        Outcome::Warning,
                        "the store did not open once, and then it did",
                        0,
                    );
                    return self.opened_again();
                }
                found.extend(again);
                found.extend(self.gone(before));
                self.report.step("check", Outcome::Warning, "the store does not open", 0);
                self.mend(&found)
            }
            _ => {
                self.trouble("check", &error);
                None
            }
        }
    }

    /// Somebody else has the store and does not let this run look: what can be said, the files say.
    fn busy(&mut self, error: &Error) {
        let deep = self.options.deep || self.state.deep_is_due(self.now_ms);
        self.report.check = if deep { "deep" } else { "quick" };
        self.report.raise(Status::Busy);
        let files = self.files((!deep).then_some(GLANCE));
        let what = match &files {
            Ok(looked) if !looked.findings.is_empty() => "its files do not look well",
            Ok(looked) if looked.complete => "its files look well",
            Ok(_) => "its files look well, as far as they were read in so short a time",
            Err(_) => "its files could not be looked at either",
        };
        self.report.step("check", Outcome::Warning, format!("{}; {what}", error.message()), 0);
        self.problem("check", error);
        self.troubles.push(Failure::new(Kind::OwnerHangs, self.now_ms).done(Deed::Served, 1));
        match files {
            // Nothing is proven, and no failure yet: the process that has the store may be writing just now.
            Ok(looked) => self.note_findings(&looked.findings),
            Err(error) => self.problem("check", &error),
        }
    }

    /// The store, open for writing.
    fn writable(&mut self, store: Store, changes_nothing: bool) -> Option<Store> {
        if !changes_nothing || self.options.dry_run || self.report.status == Status::Damaged {
            return Some(store);
        }
        self.closed(store);
        self.opened_again()
    }

    /// Opens the store for what is to be done besides.
    fn opened_again(&mut self) -> Option<Store> {
        let read_only = self.options.dry_run;
        match self.opening().and_then(|options| Store::open(options.read_only(read_only))) {
            Ok(store) => Some(store),
            Err(error) => {
                self.trouble("check", &error);
                None
            }
        }
    }

    pub(super) fn closed(&mut self, store: Store) {
        if let Err(error) = store.close() {
            self.trouble("check", &error);
        }
    }

    /// Runs something that tells how far it is.
    pub(super) fn told<T>(&mut self, work: impl FnOnce(&mut dyn FnMut(Progress)) -> Result<T>) -> Result<T> {
        let watcher = &mut *self.watcher;
        work(&mut |progress| watcher("checking", progress))
    }
}

/// The process that has the store, by the note that it left.
pub(super) fn owner(home: &Path) -> Option<u32> {
    let text = fs::read_to_string(home.join("store/LOCK")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A report must not be as long as the store: of each file the first ones.
fn few(findings: Vec<Finding>) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    for finding in findings {
        if kept.iter().filter(|other| other.file == finding.file).count() < FINDINGS_OF_FILE_MAX {
            kept.push(finding);
        }
    }
    kept
}

fn found(file: &str, kind: &str, detail: String, repair: &str) -> Finding {
    Finding { file: file.to_owned(), offset: None, kind: kind.to_owned(), detail, repair: repair.to_owned() }
}

fn finding_of(healed: &Healed) -> Finding {
    let kind = if healed.quarantined.is_empty() { "segment-missing" } else { "damaged" };
    found(&healed.file, kind, healed.detail.clone(), "it was healed")
}

fn finding_of_error(error: &Error, home: &Path) -> Finding {
    let file = error.path().and_then(|path| path.strip_prefix(home).ok()).unwrap_or(Path::new("store"));
    Finding {
        offset: error.offset(),
        ..found(&file.display().to_string(), "refused", error.message().to_owned(), "see what was done")
    }
}
