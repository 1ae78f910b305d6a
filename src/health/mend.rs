//! Mending a damaged store: from what else in it holds the content, then forward from the newest snapshot that is whole.
//! Nothing is removed: what is replaced goes into quarantine, with a note.

use std::path::Path;
use std::time::Instant;

use super::Run;
use super::report::{Outcome, Status, rfc_3339};
use super::revive::{Source, sources};
use crate::check::{CheckStatus, Finding};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::{Deed, Failure, Kind, Lost};
use crate::share::Store;
use crate::snapshot::{RestoreFrom, RestoreOptions};

/// Where nothing tells how far the log went, healing gives up at least so many sequences.
const OPEN_RANGE_MIN: u64 = (1 << 20) - 1;

/// Reads what is sound of a store that was not mended.
const READS_WHAT_IS_SOUND: &str =
    "`memento-kv --read-only export` reads what is sound; `memento-kv check --repair` mends";

impl Run<'_> {
    /// Mends what was found twice, unless this run is to change nothing. Gives the store when it is sound again.
    pub(super) fn mend(&mut self, findings: &[Finding]) -> Option<Store> {
        if self.options.dry_run || !self.home.config.health.auto_rollback {
            self.fail(findings, Deed::Served);
            self.not_mended(0);
            return None;
        }
        let started = Instant::now();
        // `repair` opens the store, and looks once more while nobody else can write.
        let repaired = self.opening().and_then(|options| {
            let watcher = &mut *self.watcher;
            Store::repair(options, &mut |progress| watcher("mending", progress))
        });
        let took_ms = |started: Instant| u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (store, report) = match repaired {
            Ok(repaired) => repaired,
            Err(error) if error.kind() == ErrorKind::Corrupt => return self.replace(findings, &error),
            Err(error) => {
                self.fail(findings, Deed::Nothing);
                self.report.raise(Status::Damaged);
                self.trouble("mend", &error);
                return None;
            }
        };
        self.note_losses(&report);
        // What a repair names it has mended, unless it says that it has not.
        let is_damaged = report.status == CheckStatus::Damaged;
        let is_left =
            |finding: &Finding| is_damaged && report.findings.iter().any(|left| left.file == finding.file);
        let (left, mended): (Vec<Finding>, Vec<Finding>) = findings.iter().cloned().partition(is_left);
        self.fail(&mended, Deed::Healed);
        if is_damaged {
            self.fail(&left, Deed::Nothing);
            self.fail(&report.findings, Deed::Nothing);
            self.report.raise(Status::Damaged);
            self.report.step("mend", Outcome::Failed, "some of it is still damaged", took_ms(started));
            self.report.hints.push(READS_WHAT_IS_SOUND.to_owned());
            self.healed(report.healed);
            self.restore_forward(&store);
            return Some(store);
        }
        let files = report.healed.len();
        self.healed(report.healed);
        self.report.raise(Status::Healed);
        self.report.step("mend", Outcome::Done, format!("{files} segments written anew"), took_ms(started));
        self.restore_forward(&store);
        Some(store)
    }

    /// Says that damage stays as it is.
    pub(super) fn not_mended(&mut self, took_ms: u64) {
        self.report.raise(Status::Damaged);
        if self.options.dry_run {
            self.report.step("mend", Outcome::Would, "what is damaged would be mended", took_ms);
        } else {
            let what = "health.auto_rollback is off: nothing was changed";
            self.report.step("mend", Outcome::Skipped, what, took_ms);
            self.report.hints.push(READS_WHAT_IS_SOUND.to_owned());
        }
    }

    /// Brings back what the store has lost from the newest snapshot that is whole; what the log knows to be newer stays.
    pub(super) fn restore_forward(&mut self, store: &Store) {
        if self.report.lost.seqs.is_empty() {
            return;
        }
        let started = Instant::now();
        let given_up = std::mem::take(&mut self.report.lost.seqs);
        let (mut lost, is_open) = self.known(given_up);
        let mut until = None;
        for source in sources(self.home).into_iter().filter(Source::is_what_it_was) {
            let Source { path, stamped, .. } = &source;
            match store.restore(&RestoreFrom::File(path.clone()), RestoreOptions::default()) {
                Ok(restored) => {
                    // Only of its own store does a snapshot say which records are in it.
                    let held = restored.to_seq.unwrap_or(0);
                    lost = lost
                        .into_iter()
                        .filter(|(_, last)| *last > held)
                        .map(|(first, last)| (first.max(held + 1), last))
                        .collect();
                    until = Some(stamped.created_ms);
                    let mut changed = restored.changed.count();
                    match self.forget_what_came_back(store, path, held) {
                        Ok(forgotten) => changed += forgotten,
                        Err(error) => self.problem("restore", &error),
                    }
                    let detail = format!(
                        "{changed} memories were brought back to what {} of {} says",
                        source.name(self.home),
                        rfc_3339(stamped.created_ms)
                    );
                    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.report.step("restore", Outcome::Done, detail, took_ms);
                    break;
                }
                Err(error) => self.problem("restore", &error),
            }
        }
        self.report.raise(Status::Healed);
        self.lost(lost, is_open, until);
    }

    /// Where a lost record forgot a memory, healing has brought it back. A snapshot that is younger than its last version,
    /// and does not have it, says so.
    fn forget_what_came_back(&self, store: &Store, path: &Path, held: u64) -> Result<u64> {
        let (from, look) =
            (RestoreFrom::File(path.to_owned()), RestoreOptions { exact: true, dry_run: true });
        let mut forgotten = 0;
        // An answer names a limited number of ids.
        loop {
            let mut ids = Vec::new();
            for id in store.restore(&from, look)?.changed.forgotten_ids {
                if store.prove_id(&id)?.seq.is_some_and(|seq| seq <= held) {
                    ids.push(id);
                }
            }
            if ids.is_empty() {
                return Ok(forgotten);
            }
            store.forget(&ids)?;
            forgotten += ids.len() as u64;
        }
    }

    /// Of ranges of lost records, in order, what can be known: where the log ended nothing may tell any more but what a
    /// former run has seen. Says whether there was such a range.
    fn known(&self, mut lost: Vec<(u64, u64)>) -> (Vec<(u64, u64)>, bool) {
        lost.sort_unstable();
        lost.dedup();
        let is_open = |(first, last): &(u64, u64)| last - first >= OPEN_RANGE_MIN;
        let open = lost.iter().any(is_open);
        for range in lost.iter_mut().filter(|range| is_open(range)) {
            range.1 = range.1.min(self.state.seq);
        }
        lost.retain(|(first, last)| first <= last);
        (lost, open)
    }

    /// What no file held any more is named.
    fn lost(&mut self, seqs: Vec<(u64, u64)>, is_open: bool, after_ms: Option<i64>) {
        if seqs.is_empty() && !is_open {
            return;
        }
        // Everything that the last run has seen is there.
        let seen_ms = self.state.run_ms.filter(|_| seqs.is_empty());
        let after_ms = after_ms.max(seen_ms);
        self.report.lost.seqs.clone_from(&seqs);
        self.report.lost.after = after_ms.map(rfc_3339);
        self.report.lost.until = Some(rfc_3339(self.now_ms));
        if seqs.is_empty() && after_ms.is_some() {
            // Whether there was anything in the window nobody can know.
            return;
        }
        self.report.raise(Status::Lost);
        let range = seqs.first().zip(seqs.last()).map(|(first, last)| (first.0, last.1));
        let lost = Lost {
            records: self.report.lost.records().unwrap_or(0),
            seqs: range,
            window_ms: after_ms.map(|after| (after, self.now_ms)),
        };
        // Without a snapshot nothing came back.
        let (deed, count) = if self.has_done("restore") { (Deed::Restored, 1) } else { (Deed::Nothing, 0) };
        self.failures.push(Failure::new(Kind::RecordsLost, self.now_ms).done(deed, count).lost(lost));
    }

    /// The store cannot be opened whatever is given up: one is made from the newest snapshot in its place.
    fn replace(&mut self, findings: &[Finding], error: &Error) -> Option<Store> {
        self.problem("mend", error);
        let store = self.bring_back();
        // Without a snapshot to make it from, it lies where it lay.
        self.fail(findings, if self.has_done("restore") { Deed::Quarantined } else { Deed::Nothing });
        store
    }
}
