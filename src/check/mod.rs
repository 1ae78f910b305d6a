//! Integrity of every file of a store: what is wrong, where, and what heals it.
//!
//! [`Store::check`] reads every record of the log and every row of the view and holds one against the other.
//! [`check_files`] reads the log of a store that does not open.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::catalog::{Catalog, View};
use crate::embed::minilm::MiniLm;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::ManifestV1;
use crate::format::op::{MemoryKey, Op};
use crate::fs::RealDisk;
use crate::log::{self, Place, Segment};
use crate::store::{Layout, Progress, Store};

/// Whether anything is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// Nothing is.
    #[default]
    Ok,
    /// Something is: see the findings.
    Damaged,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The file, relative to the home folder.
    pub file: String,
    /// Byte offset in it, where there is one.
    pub offset: Option<u64>,
    /// A stable name of the rule that does not hold.
    pub kind: String,
    /// What is wrong.
    pub detail: String,
    /// What heals it.
    pub repair: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// Whether anything is wrong.
    pub status: CheckStatus,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
    /// Records of the log that were read.
    pub records: u64,
    /// Rows of the view that were read.
    pub rows: u64,
    /// Bytes of the log that were read.
    pub bytes: u64,
}

const REBUILT: &str =
    "the view is derived: move store/view.redb away, it is rebuilt from the log at the next open";
const KEPT: &str =
    "keep store/view.redb: it may hold the only copy; put back the damaged segment, or restore a backup";
const RESTORE: &str = "restore a backup, or put back the file from one";
const REWRITTEN: &str = "the manifest is derived: it is written anew at the next open";

impl Store {
    /// Reads every record of the log and every row of the view, and holds one against the other.
    ///
    /// # Errors
    /// When a file cannot be read. What is read and wrong is a finding.
    pub fn check(&self, progress: &mut dyn FnMut(Progress)) -> Result<CheckReport> {
        let mut check = self.check_folder(progress)?;
        check.model();
        Ok(check.report)
    }

    /// As [`Store::check`], without the built-in model, which is no part of the store's folder and takes most of the
    /// time of a small store's check. For the doors of tests.
    pub(crate) fn check_stored(&self) -> Result<CheckReport> {
        Ok(self.check_folder(&mut |_| {})?.report)
    }

    fn check_folder(&self, progress: &mut dyn FnMut(Progress)) -> Result<Check> {
        let (catalog, place) = self.settled()?;
        // One state of the view, and the segments that hold at least as much: others write meanwhile.
        let view = catalog.view();
        let segments = self.segments();
        let mut check = Check::new(place);
        check.manifest(&segments)?;
        check.log(&segments, view.position().tail.last_seq, progress)?;
        check.view(&catalog, &view)?;
        Ok(check)
    }
}

/// Checks the log of a store without opening it: for a store that does not open. The view is not read.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) when there is no store, and what the disk says.
pub fn check_files(home: &Path, progress: &mut dyn FnMut(Progress)) -> Result<CheckReport> {
    let place = Layout::of(home).place(Arc::new(RealDisk));
    if place.disk.kind(&place.segments)?.is_none() {
        return Err(Error::new(ErrorKind::NotFound, "there is no store here")
            .at(home)
            .hint("name its home with --home or MEMENTO_HOME"));
    }
    let listing = log::list(&place)?;
    let mut check = Check::new(place);
    for log::Unusable { path, error, .. } in &listing.unusable {
        check.found(path, error.offset(), "segment-header", error.message().to_owned(), RESTORE);
    }
    let manifest = check.manifest(&listing.segments)?;
    // What a crash left behind the last acknowledged record is no damage: the next open drops it.
    let last_seq = log::last_acknowledged(&check.place, &listing.segments, manifest.as_ref())?;
    check.log(&listing.segments, last_seq, progress)?;
    Ok(check.report)
}

struct Check {
    place: Place,
    report: CheckReport,
    /// The newest version of each memory, as the log says.
    live: HashMap<MemoryKey, u64>,
}

impl Check {
    fn new(place: Place) -> Self {
        Self { place, report: CheckReport::default(), live: HashMap::new() }
    }

    fn found(&mut self, path: &Path, offset: Option<u64>, kind: &str, detail: String, repair: &str) {
        let store = self.place.segments.parent().and_then(Path::parent);
        let file = store.and_then(|home| path.strip_prefix(home).ok()).unwrap_or(path).display().to_string();
        self.report.status = CheckStatus::Damaged;
        self.report.findings.push(Finding {
            file,
            offset,
            kind: kind.to_owned(),
            detail,
            repair: repair.to_owned(),
        });
    }

    /// The manifest, if it is whole; it names every segment.
    fn manifest(&mut self, segments: &[Segment]) -> Result<Option<ManifestV1>> {
        let path = self.place.manifest.clone();
        let manifest = log::read_manifest(&self.place)?;
        match &manifest {
            None if self.place.disk.kind(&path)?.is_some() => {
                self.found(&path, None, "manifest", "it is damaged or no file".to_owned(), REWRITTEN);
            }
            None => {}
            Some(manifest) => {
                let last = segments.last().map_or(0, |segment| segment.header.number);
                // Those before the last are found by their links.
                let missing = log::missing_numbers(segments, &manifest.segments);
                for number in missing.into_iter().filter(|number| *number > last) {
                    let detail = format!("segment {number} is missing");
                    self.found(&path, None, "segment-missing", detail, RESTORE);
                }
            }
        }
        Ok(manifest)
    }

    fn log(&mut self, segments: &[Segment], last_seq: u64, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        let total = segments.iter().map(|segment| segment.len).sum();
        let mut before: Option<log::Verified> = None;
        for (index, segment) in segments.iter().enumerate() {
            progress(Progress::new(self.report.bytes, total));
            self.links(segment, before.as_ref());
            let (live, records) = (&mut self.live, &mut self.report.records);
            let verified = log::verify(&self.place, segment, last_seq, |seq, op| {
                *records += 1;
                match op {
                    Op::Remember { .. } => _ = live.insert(MemoryKey(seq), seq),
                    Op::Update { key, .. } => _ = live.insert(key, seq),
                    Op::Forget { key, .. } => _ = live.remove(&key),
                    Op::Vector { .. }
                    | Op::Model { .. }
                    | Op::UseModel { .. }
                    | Op::Lost(_)
                    | Op::Seal(_) => {}
                }
            })?;
            for flaw in &verified.flaws {
                self.found(&segment.path, Some(flaw.offset), flaw.rule, flaw.detail.clone(), RESTORE);
            }
            if index + 1 < segments.len() && !verified.sealed {
                self.found(
                    &segment.path,
                    None,
                    "seal",
                    "the segment is not sealed, but others follow it".to_owned(),
                    RESTORE,
                );
            }
            self.report.bytes += verified.state.len;
            before = Some(verified);
        }
        progress(Progress::new(total, total));
        Ok(())
    }

    /// Whether a segment follows the one before it.
    fn links(&mut self, segment: &Segment, before: Option<&log::Verified>) {
        let header = &segment.header;
        match before {
            None if header.prev_number != 0 => {
                let detail = format!("segment {} is missing", header.prev_number);
                self.found(&segment.path, None, "segment-missing", detail, RESTORE);
            }
            Some(before) if before.state.segment != header.prev_number => {
                let detail =
                    format!("segments {} to {} are missing", before.state.segment + 1, header.number - 1);
                self.found(&segment.path, None, "segment-missing", detail, RESTORE);
            }
            Some(before)
                if before.flaws.is_empty()
                    && (before.state.last_seq, before.chain) != (header.prev_last_seq, header.prev_chain) =>
            {
                let detail = "the segment before it is not the one that this one was made after".to_owned();
                self.found(&segment.path, Some(64), "segment-chain", detail, RESTORE);
            }
            _ => {}
        }
    }

    /// Whether the built-in model is what was built in: a program file can be damaged, too.
    fn model(&mut self) {
        if let Err(error) = MiniLm::builtin().and_then(MiniLm::verify) {
            let detail = format!("the built-in model: {}", error.message());
            self.found(Path::new("memento-kv"), error.offset(), "model", detail, "install the program again");
        }
    }

    fn view(&mut self, catalog: &Catalog, view: &View<'_>) -> Result<()> {
        let path = catalog.path().to_owned();
        // A view that is built anew has only what the log gives.
        let repair = if self.report.findings.is_empty() { REBUILT } else { KEPT };
        let damages = match catalog.check(&mut |_, _| {}) {
            Ok(damages) => damages,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.found(&path, error.offset(), "view", error.message().to_owned(), repair);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for damage in damages {
            let place = match (damage.table, &damage.key) {
                (Some(table), Some(key)) => format!("table {table}, key {key}: "),
                (Some(table), None) => format!("table {table}: "),
                (None, _) => String::new(),
            };
            self.found(&path, damage.offset, "view-row", format!("{place}{}", damage.what), repair);
        }
        let mut rows = Vec::new();
        match view.for_each_row(MemoryKey(0), |row| {
            rows.push((row.key, row.seq));
            ControlFlow::Continue(())
        }) {
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            // A damaged row is found already.
            _ => {}
        }
        self.report.rows = rows.len() as u64;
        for (key, seq) in &rows {
            match self.live.remove(key) {
                Some(newest) if newest == *seq => {}
                Some(newest) => {
                    let detail = format!("memory {} is at record {seq}, the log has record {newest}", key.0);
                    self.found(&path, None, "view-stale", detail, repair);
                }
                None => {
                    let detail = format!("memory {} is in the view, but not in the log", key.0);
                    self.found(&path, None, "view-stray", detail, repair);
                }
            }
        }
        if self.report.findings.iter().all(|finding| finding.kind != "view-row") {
            let mut missing: Vec<_> = self.live.keys().copied().collect();
            missing.sort_unstable();
            for key in missing {
                self.found(
                    &path,
                    None,
                    "view-missing",
                    format!("memory {} is in the log, but not in the view", key.0),
                    repair,
                );
            }
        }
        Ok(())
    }
}
