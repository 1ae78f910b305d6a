//! The health run: the store watches over itself. Spec: `format-spec/health.md`.
//!
//! One run looks at the files and asks the store, mends what is damaged from whatever holds the content, brings back a
//! store that is gone, publishes `memory.db`, makes a verified backup when one is due, brings in what waits, rotates
//! the logs, and says all of that in one line of `logs/health.log`. It never destroys the only copy of anything:
//! what is damaged is moved away first, and is mended only when two looks that do not depend on each other agree.
//!
//! Two runs at once are safe: the second one does nothing.

mod alone;
mod attendant;
mod disk;
mod look;
mod mend;
mod metrics;
mod report;
mod revive;
mod state;
mod upkeep;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use attendant::Attendant;
pub use disk::Space;
pub use report::{GoodBackup, Lost, Outcome, Report, Status, Step};
pub use revive::revive;

use self::alone::{Alone, Asked};
use self::report::rfc_3339;
use self::state::State;
use crate::check::Finding;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::{self, Deed, Failure, Kind};
use crate::fs::{self, RealDisk};
use crate::home::Home;
use crate::logs::{self, Log};
use crate::share::Store;
use crate::store::{Options, Progress, trace_of_a_store};

/// A store that somebody has is waited for so long.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// An error of the disk is told of when it was met so many runs in a row.
const IO_FAILURES_TOLD: u32 = 2;

/// What a run is asked for.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Read every byte, also when the last check that did so is younger than a day.
    pub deep: bool,
    /// Say what would be done, and change nothing.
    pub dry_run: bool,
    /// Write the figures for Prometheus into this file.
    pub metrics: Option<PathBuf>,
    /// Begin a new, empty store where one was before and is gone.
    pub begin_anew: bool,
}

/// Is told which step is how far.
pub type Watcher<'a> = &'a mut dyn FnMut(&'static str, Progress);

/// One health run in this home. What it finds and what does not work is in the report.
///
/// # Errors
/// [`Config`](ErrorKind::Config) when the configuration names no model that could be used.
pub fn run(home: &Home, options: &RunOptions, now_ms: i64, watcher: Watcher<'_>) -> Result<Report> {
    let _ = Options::of(home)?;
    let mut run = Run {
        home,
        options,
        now_ms,
        began: Instant::now(),
        state: State::read(&home.path),
        report: Report {
            time: rfc_3339(now_ms),
            dry_run: options.dry_run,
            check: "none",
            ..Report::default()
        },
        failures: Vec::new(),
        troubles: Vec::new(),
        losses: Vec::new(),
        had_backup: false,
        watcher,
    };
    match Alone::ask(&home.path) {
        Ok(Asked::Running) => {
            run.report.status = Status::Running;
            run.report.took_ms = run.elapsed_ms();
            return Ok(run.report);
        }
        Ok(Asked::NoHome) => {
            run.no_home();
            run.give_figures();
        }
        Ok(Asked::Alone(alone)) => {
            run.whole();
            run.end();
            drop(alone);
            run.tell();
        }
        Err(error) => {
            run.trouble("check", &error);
            run.give_figures();
        }
    }
    run.report.took_ms = run.elapsed_ms();
    Ok(run.report)
}

/// A run that is under way.
struct Run<'a> {
    home: &'a Home,
    options: &'a RunOptions,
    now_ms: i64,
    began: Instant,
    state: State,
    report: Report,
    /// What is damaged or lost.
    failures: Vec<Failure>,
    /// Errors of the disk and the like.
    troubles: Vec<Failure>,
    /// Sequences whose records are lost, as the store says.
    losses: Vec<(u64, u64)>,
    /// Whether there was a good backup when the run began.
    had_backup: bool,
    watcher: Watcher<'a>,
}

impl Run<'_> {
    fn path(&self) -> &Path {
        &self.home.path
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How the store is opened. `memory.db` may hold what the store has lost, so nothing is published by the way.
    fn opening(&self) -> Result<Options> {
        let options = Options::of(self.home)?.background_embedding(false).query_cache(false).publish(false);
        Ok(options.create(false).lock_wait(LOCK_WAIT))
    }

    /// Everything that needs to be alone.
    fn whole(&mut self) {
        let store = if self.options.begin_anew { self.begun_anew() } else { self.sound_store() };
        let lacks_backups = self.look_at_backups();
        if let Some(store) = store {
            self.keep_up(&store);
            self.figures(&store);
            if let Err(error) = store.close() {
                self.trouble("check", &error);
            }
        }
        if lacks_backups {
            if self.has_done("backup") {
                for failure in &mut self.failures {
                    if matches!(failure.kind, Kind::BackupDamaged | Kind::BackupGone) {
                        failure.done.iter_mut().for_each(|(deed, _)| *deed = Deed::Rebuilt);
                    }
                }
            }
            self.report.raise(if self.report.backup.is_some() { Status::Healed } else { Status::Damaged });
        }
        self.rotate_logs();
        self.look_at_space();
    }

    /// There is no home: either nothing was ever here, or all of it is gone.
    fn no_home(&mut self) {
        let trace = trace_of_a_store(&RealDisk, self.path(), self.home.remembered_by().as_deref());
        if self.options.begin_anew && !self.options.dry_run {
            if let Some(store) = self.begun_anew()
                && let Err(error) = store.close()
            {
                self.trouble("check", &error);
            }
            return;
        }
        match trace {
            Ok(Some(_)) => {
                self.report.raise(Status::Decision);
                let when = self.remembered();
                self.report.problems.push(format!("the whole home is gone, with its backups{when}"));
                self.report.hints.push(
                    "put the home or a backup back: `memento-kv restore FILE`; to begin an empty store, \
                     `memento-kv health --begin-anew`"
                        .to_owned(),
                );
            }
            Ok(None) => self.report.raise(Status::Nothing),
            Err(error) => self.trouble("check", &error),
        }
    }

    fn begun_anew(&mut self) -> Option<Store> {
        if self.options.dry_run {
            self.report.step("note", Outcome::Would, "a new, empty store would be made", 0);
            return None;
        }
        match self.opening().and_then(|options| Store::open(options.create(true).begin_anew(true))) {
            Ok(store) => {
                self.report.step(
                    "note",
                    Outcome::Done,
                    "the store that is here now was opened or made anew",
                    0,
                );
                Some(store)
            }
            Err(error) => {
                self.trouble("check", &error);
                None
            }
        }
    }

    /// Whether this run has done that.
    fn has_done(&self, step: &str) -> bool {
        self.report.steps.iter().any(|done| done.step == step && done.outcome == Outcome::Done)
    }

    /// A step that did not work.
    fn trouble(&mut self, step: &'static str, error: &Error) {
        let (status, kind) = match error.kind() {
            ErrorKind::NoSpace => (Status::Failed, Kind::NoSpace),
            ErrorKind::ReadOnly => (Status::Failed, Kind::ReadOnly),
            ErrorKind::Busy | ErrorKind::OwnerUnresponsive | ErrorKind::VersionSkew | ErrorKind::Timeout => {
                (Status::Busy, Kind::OwnerHangs)
            }
            ErrorKind::Corrupt => (Status::Damaged, Kind::CheckFailed),
            ErrorKind::Permission => (Status::Decision, Kind::Permission),
            ErrorKind::UnknownFormat | ErrorKind::ForeignStore | ErrorKind::Gone => {
                (Status::Decision, Kind::CheckFailed)
            }
            _ => (Status::Failed, kind_of_trouble(step)),
        };
        self.report.raise(status);
        self.report.step(step, Outcome::Failed, error.kind().name(), 0);
        self.problem(step, error);
        let why = error.kind().name();
        if !self.report.why.contains(&why) {
            self.report.why.push(why);
        }
        let path = error.path().and_then(|path| path.strip_prefix(self.path()).ok());
        let file = path.map(|path| path.display().to_string());
        if error.kind() == ErrorKind::Corrupt {
            // It will not pass, so it is told at once.
            let kind = kind_of(file.as_deref().unwrap_or_default(), "damaged");
            let failure = Failure::new(kind, self.now_ms).done(Deed::Nothing, 0);
            self.failures.push(file.into_iter().fold(failure, Failure::file));
        } else {
            self.troubles.push(file.into_iter().fold(Failure::new(kind, self.now_ms), Failure::file));
        }
    }

    fn problem(&mut self, step: &str, error: &Error) {
        self.report.problems.push(format!("{step}: {error}"));
        if let Some(hint) = error.hint_text()
            && !self.report.hints.iter().any(|known| known == hint)
        {
            self.report.hints.push(hint.to_owned());
        }
    }

    /// Notes everything that was found to be wrong, as failures of their kinds.
    fn fail(&mut self, findings: &[Finding], done: Deed) {
        for finding in findings {
            let kind = kind_of(&finding.file, &finding.kind);
            let is_it = |failure: &Failure| {
                failure.kind == kind && failure.done.first().is_some_and(|(other, _)| *other == done)
            };
            let at = match self.failures.iter().position(is_it) {
                Some(at) => at,
                None => {
                    self.failures.push(Failure::new(kind, self.now_ms).done(done, 0));
                    self.failures.len() - 1
                }
            };
            let failure = &mut self.failures[at];
            if !failure.files.contains(&finding.file) {
                failure.files.push(finding.file.clone());
                if let Some((_, count)) = failure.done.first_mut() {
                    *count += 1;
                }
            }
        }
        self.note_findings(findings);
    }

    /// Notes what a person is shown.
    fn note_findings(&mut self, findings: &[Finding]) {
        for finding in findings {
            if !self.report.findings.contains(finding) {
                self.report.findings.push(finding.clone());
            }
        }
    }

    /// Writes down what was found: the state for the next run, the line in the log, the figures.
    fn end(&mut self) {
        let good = self.report.status.is_good();
        self.state.run_ms = Some(self.now_ms);
        if good {
            self.state.good_ms = Some(self.now_ms);
        }
        let is_trouble = !self.troubles.is_empty();
        self.state.io_failures = if is_trouble { self.state.io_failures.saturating_add(1) } else { 0 };
        if let Some(seq) = self.report.seq {
            self.state.losses = std::mem::take(&mut self.losses);
            self.state.seq = seq;
        }
        if let Some(memories) = self.report.memories {
            self.state.memories = memories;
            self.state.quarantined = self.quarantined();
        }
        for step in &self.report.steps {
            let key = format!("{}/{}", step.step, step.outcome.name());
            *self.state.operations.entry(key).or_default() += 1;
        }
        self.report.took_ms = self.elapsed_ms();
        if self.options.dry_run {
            return;
        }
        let line = self.report.line();
        if self.report.status != Status::Nothing {
            let kept = self.state.write(&self.home.path);
            if let Err(error) = kept {
                self.trouble("note", &error);
            }
            if let Err(error) = logs::append(&self.home.path, Log::Health, self.now_ms, &line) {
                self.trouble("logs", &error);
            }
            self.remember_elsewhere();
        }
        self.give_figures();
    }

    /// The figures for Prometheus. A run that could not even begin writes them, too, or the last good ones would stand.
    fn give_figures(&mut self) {
        if let Some(path) = self.options.metrics.as_ref().filter(|_| !self.options.dry_run)
            && let Err(error) = metrics::write(path, &self.report, &self.state, self.now_ms)
        {
            self.trouble("metrics", &error);
        }
    }

    /// Hands over what failed, when the store is closed and other runs may begin.
    fn tell(&mut self) {
        if self.options.dry_run || self.report.status == Status::Nothing {
            return;
        }
        let seq = self.report.seq.unwrap_or(self.state.seq);
        let mut failures = std::mem::take(&mut self.failures);
        if self.state.io_failures >= IO_FAILURES_TOLD {
            failures.append(&mut self.troubles);
        }
        let failures: Vec<Failure> = failures.into_iter().map(|failure| failure.seq(seq)).collect();
        let handled = if !failures.is_empty() {
            failure::handle(self.home, self.now_ms, &failures)
        } else if self.report.status.is_good() {
            failure::healthy(self.home, self.now_ms)
        } else {
            return;
        };
        for error in handled.problems {
            self.problem("failures", &error);
        }
    }

    /// Leaves a note in the user's state folder, so that a home that is gone as a whole is missed. Homes that do not
    /// last get none: only one that had a backup before this run.
    fn remember_elsewhere(&mut self) {
        let Some(path) = self.home.remembered_by().filter(|_| self.had_backup) else { return };
        let note = serde_json::json!({
            "format": 1,
            "seen_ms": self.now_ms,
            "seq": self.state.seq,
            "memories": self.state.memories,
            "backup": self.state.backup,
        });
        let bytes = format!("{note:#}\n").into_bytes();
        let kept = fs::create_folders(&RealDisk, fs::folder_above(&path))
            .and_then(|()| fs::replace(&RealDisk, &path, &bytes));
        if let Err(error) = kept {
            // The home has a note of its own.
            tracing::warn!(%error, "nothing outside of the home remembers the store");
        }
    }

    /// When the store was seen the last time, as far as that is known.
    fn remembered(&self) -> String {
        let note = self.home.remembered_by().and_then(|path| {
            let bytes = fs::read_small(&RealDisk, &path, 64 << 10).ok()??;
            serde_json::from_slice::<serde_json::Value>(&bytes).ok()
        });
        let Some(note) = note else { return String::new() };
        match (note["seen_ms"].as_i64(), note["memories"].as_u64()) {
            (Some(seen), Some(memories)) => {
                format!("; last seen at {} with {memories} memories", rfc_3339(seen))
            }
            _ => String::new(),
        }
    }
}

/// What an error of this step says when its own kind says nothing more.
fn kind_of_trouble(step: &str) -> Kind {
    match step {
        "backup" => Kind::BackupFailed,
        "snapshot" => Kind::PublishFailed,
        "check" => Kind::CheckFailed,
        _ => Kind::WriteFailed,
    }
}

/// What a finding about this file is.
fn kind_of(file: &str, rule: &str) -> Kind {
    let is_gone = rule == "segment-missing" || rule == "gone";
    if file.starts_with("store/seg") {
        if is_gone { Kind::SegmentGone } else { Kind::SegmentDamaged }
    } else if file.starts_with("backups/") {
        if is_gone { Kind::BackupGone } else { Kind::BackupDamaged }
    } else if file.starts_with("store/index") {
        Kind::IndexDamaged
    } else {
        match file {
            "store/view.redb" => Kind::ViewDamaged,
            "store/MANIFEST" if rule == "segment-missing" => Kind::SegmentGone,
            "store/MANIFEST" => Kind::ManifestDamaged,
            "memory.db" => Kind::SnapshotDamaged,
            _ => Kind::StoreDamaged,
        }
    }
}
