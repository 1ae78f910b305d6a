//! Integrity of every file of a store: what is wrong, where, and what heals it.
//!
//! [`Store::check`] reads every record of the log and every row of the view and holds one against the other;
//! [`Store::check_quickly`] reads what says most about the rest. [`check_files`] does without an open store, and
//! [`repair`] mends what was found.

mod blocks;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use serde::Serialize;

use crate::catalog::{Catalog, Opened, View, ViewDamage};
use crate::embed::minilm::MiniLm;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::ManifestV1;
use crate::format::op::{LostV1, MemoryKey, Op};
use crate::fs::{OverlayDisk, RealDisk};
use crate::log::{self, Place, Segment};
use crate::store::{Healed, Layout, Options, Progress, Store};

/// Cache of a view that is opened for a check only.
const VIEW_CACHE_BYTES: usize = 16 << 20;

/// Whether anything is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// Nothing is.
    #[default]
    Ok,
    /// Something is: see the findings.
    Damaged,
    /// Something was, and is mended: see what was healed, and whether anything is lost.
    Repaired,
}

/// Sequences whose records were acknowledged, or may have been, and are gone. Healing found it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Loss {
    /// The first of them.
    pub first_seq: u64,
    /// The last one; where nothing tells how far the log went, the last that there can have been.
    pub last_seq: u64,
    /// When that was found, in milliseconds since 1970.
    pub found_unix_ms: i64,
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
    /// What was lost in the store's life. That is no finding: nothing can be done about it any more.
    pub losses: Vec<Loss>,
    /// What was healed since the store was opened.
    pub healed: Vec<Healed>,
}

const REBUILT: &str = "`check --repair` builds the view anew from the log";
const KEPT: &str =
    "keep store/view.redb: it may hold the only copy; `check --repair` takes from it what the log lacks";
const HEALED: &str = "`check --repair` writes the segment anew from what is whole and from the view";
const REWRITTEN: &str = "the manifest is derived: it is written anew at the next open";

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// Headers, seals and their links, the segment that is open for records, the manifest.
    Quick,
    /// Every byte.
    Deep,
}

impl Store {
    /// Reads every record of the log and every row of the view, and holds one against the other.
    ///
    /// # Errors
    /// When a file cannot be read. What is read and wrong is a finding.
    pub fn check(&self, progress: &mut dyn FnMut(Progress)) -> Result<CheckReport> {
        let mut check = self.check_folder(Depth::Deep, progress)?;
        check.model();
        Ok(check.report)
    }

    /// Reads the manifest, the header and the seal of every segment and how they follow each other, and every record of
    /// the segment that is open. Takes milliseconds, whatever the size of the store; damage within a sealed segment or
    /// a row is found by [`Store::check`].
    ///
    /// # Errors
    /// As [`Store::check`].
    pub fn check_quickly(&self, progress: &mut dyn FnMut(Progress)) -> Result<CheckReport> {
        Ok(self.check_folder(Depth::Quick, progress)?.report)
    }

    /// As [`Store::check`], without the built-in model, which is no part of the store's folder and takes most of the
    /// time of a small store's check. For the doors of tests.
    pub(crate) fn check_stored(&self) -> Result<CheckReport> {
        Ok(self.check_folder(Depth::Deep, &mut |_| {})?.report)
    }

    fn check_folder(&self, depth: Depth, progress: &mut dyn FnMut(Progress)) -> Result<Check> {
        let _standing = self.standing();
        let (catalog, place) = self.settled()?;
        // One state of the view, and the segments that hold at least as much: others write meanwhile.
        let view = catalog.view();
        let segments = self.segments();
        let mut check = Check::new(place);
        check.manifest(&segments)?;
        let last_seq = view.position().tail.last_seq;
        match depth {
            Depth::Quick => check.log(&segments, last_seq, depth, progress)?,
            Depth::Deep => {
                // The view is read beside the log.
                let (logged, seen) = std::thread::scope(|scope| {
                    let look = || ViewRead::of(&catalog, &view);
                    match std::thread::Builder::new().spawn_scoped(scope, look) {
                        Ok(thread) => {
                            let logged = check.log(&segments, last_seq, depth, progress);
                            let seen = thread.join();
                            (logged, seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                        }
                        Err(_) => (check.log(&segments, last_seq, depth, progress), look()),
                    }
                });
                logged?;
                check.view(catalog.path(), seen?);
            }
        }
        check.blocks(&Layout::of(self.home()).index, depth)?;
        check.losses(&view)?;
        check.report.healed = self.healed();
        Ok(check)
    }
}

/// Checks every file of a store without opening it: for a store that does not open, or that another process has open.
/// Nothing is written, and no lock is waited for; a view that is in use is left out.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) when there is no store, and what the disk says.
pub fn check_files(home: &Path, progress: &mut dyn FnMut(Progress)) -> Result<CheckReport> {
    let layout = Layout::of(home);
    // What opening the view changes stays in memory.
    let place = layout.place(Arc::new(OverlayDisk::new(Arc::new(RealDisk))));
    if place.disk.kind(&place.segments)?.is_none() {
        return Err(Error::new(ErrorKind::NotFound, "there is no store here")
            .at(home)
            .hint("name its home with --home or MEMENTO_HOME"));
    }
    let listing = log::list(&place)?;
    let mut check = Check::new(place);
    for log::Unusable { path, error, .. } in &listing.unusable {
        check.found(path, error.offset(), "segment-header", error.message().to_owned(), HEALED);
    }
    let manifest = check.manifest(&listing.segments)?;
    // What a crash left behind the last acknowledged record is no damage: the next open drops it.
    let last_seq = log::last_acknowledged(&check.place, &listing.segments, manifest.as_ref())?;
    check.log(&listing.segments, last_seq, Depth::Deep, progress)?;
    check.view_file(&layout)?;
    check.blocks(&layout.index, Depth::Deep)?;
    Ok(check.report)
}

/// Checks every byte of a store and mends what is found: damaged segments are written anew from what is whole in them
/// and from the view, a damaged view is built anew from the log. What neither has is given up and named. Damaged files
/// go to `quarantine/`. Gives the store with the report of a second check.
///
/// # Errors
/// As [`Store::open`] and [`Store::check`].
pub fn repair(options: Options, progress: &mut dyn FnMut(Progress)) -> Result<(Store, CheckReport)> {
    let store = Store::open(options.clone().salvage(true))?;
    let first = store.check(progress)?;
    let mut healed = first.healed.clone();
    if first.findings.is_empty() {
        let status = if healed.is_empty() { CheckStatus::Ok } else { CheckStatus::Repaired };
        return Ok((store, CheckReport { status, ..first }));
    }
    let damaged: BTreeSet<_> =
        first.findings.iter().map(|finding| store.home().join(&finding.file)).collect();
    store.close()?;
    let store = Store::open(options.salvage(true).damaged(damaged))?;
    healed.extend(store.healed());
    let second = store.check(progress)?;
    let is_mended = second.findings.is_empty();
    let report = CheckReport {
        status: if is_mended { CheckStatus::Repaired } else { CheckStatus::Damaged },
        // What was found first says what was wrong; what is still wrong counts more.
        findings: if is_mended { first.findings } else { second.findings },
        healed,
        ..second
    };
    Ok((store, report))
}

/// What a segment holds.
struct Read {
    verified: log::Verified,
    records: u64,
    /// Memories that it changes, in order: the record that made the newest version, or `None` when it is forgotten.
    changes: Vec<(MemoryKey, Option<u64>)>,
}

/// Reads segments on all cores, and gives them in order.
fn read_segments(
    place: &Place,
    segments: &[Segment],
    last_seq: u64,
    depth: Depth,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Read>> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let work = |sender: mpsc::Sender<(usize, Result<Read>)>| {
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(segment) = segments.get(index)
        {
            let is_sealed = index + 1 < segments.len();
            let read = read_segment(place, segment, last_seq, depth == Depth::Quick && is_sealed);
            // Nobody listens any more only after a panic, which is told by whoever paniced.
            let _ = sender.send((index, read));
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(segments.len());
    let total = segments.iter().map(|segment| segment.len).sum();
    let mut all: Vec<(usize, Result<Read>)> = Vec::new();
    std::thread::scope(|scope| {
        let spawn = |_: &usize| {
            let sender = sender.clone();
            std::thread::Builder::new().spawn_scoped(scope, || work(sender)).is_ok()
        };
        if (0..cores).filter(spawn).count() == 0 {
            // A system that is short of threads gives at least this one.
            work(sender.clone());
        }
        drop(sender);
        let mut done = 0;
        for (index, read) in receiver {
            done += segments[index].len;
            all.push((index, read));
            progress(Progress::new(done, total));
        }
    });
    all.sort_unstable_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, read)| read).collect()
}

fn read_segment(place: &Place, segment: &Segment, last_seq: u64, glance: bool) -> Result<Read> {
    if glance && let Some(verified) = log::glance(place, segment)? {
        return Ok(Read { verified, records: 0, changes: Vec::new() });
    }
    let (mut records, mut changes) = (0, Vec::new());
    let verified = log::verify(place, segment, last_seq, |seq, op| {
        records += 1;
        match op {
            Op::Remember { .. } => changes.push((MemoryKey(seq), Some(seq))),
            Op::Update { key, .. } => changes.push((key, Some(seq))),
            Op::Forget { key, .. } => changes.push((key, None)),
            Op::Vector { .. } | Op::Model { .. } | Op::UseModel { .. } | Op::Lost(_) | Op::Seal(_) => {}
        }
    })?;
    Ok(Read { verified, records, changes })
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
                    self.found(&path, None, "segment-missing", detail, HEALED);
                }
            }
        }
        Ok(manifest)
    }

    fn log(
        &mut self,
        segments: &[Segment],
        last_seq: u64,
        depth: Depth,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let mut before: Option<log::Verified> = None;
        let mut read = read_segments(&self.place, segments, last_seq, depth, progress)?.into_iter();
        for (index, segment) in segments.iter().enumerate() {
            self.links(segment, before.as_ref());
            let is_sealed = index + 1 < segments.len();
            let Read { verified, records, changes } = read.next().expect("each was read");
            self.report.records += records;
            for (key, seq) in changes {
                match seq {
                    Some(seq) => _ = self.live.insert(key, seq),
                    None => _ = self.live.remove(&key),
                }
            }
            for flaw in &verified.flaws {
                self.found(&segment.path, Some(flaw.offset), flaw.rule, flaw.detail.clone(), HEALED);
            }
            if is_sealed && !verified.sealed {
                self.found(
                    &segment.path,
                    None,
                    "seal",
                    "the segment is not sealed, but others follow it".to_owned(),
                    HEALED,
                );
            }
            self.report.bytes += verified.state.len;
            before = Some(verified);
        }
        Ok(())
    }

    /// Whether a segment follows the one before it.
    fn links(&mut self, segment: &Segment, before: Option<&log::Verified>) {
        let header = &segment.header;
        match before {
            None if header.prev_number != 0 => {
                let detail = format!("segment {} is missing", header.prev_number);
                self.found(&segment.path, None, "segment-missing", detail, HEALED);
            }
            Some(before) if before.state.segment != header.prev_number => {
                let detail =
                    format!("segments {} to {} are missing", before.state.segment + 1, header.number - 1);
                self.found(&segment.path, None, "segment-missing", detail, HEALED);
            }
            Some(before)
                if before.flaws.is_empty()
                    && (before.state.last_seq, before.chain) != (header.prev_last_seq, header.prev_chain) =>
            {
                let detail = "the segment before it is not the one that this one was made after".to_owned();
                self.found(&segment.path, Some(64), "segment-chain", detail, HEALED);
            }
            _ => {}
        }
    }

    /// The view's file, beside whoever may have it open.
    fn view_file(&mut self, layout: &Layout) -> Result<()> {
        let disk = Arc::clone(&self.place.disk);
        match Catalog::open(&*disk, layout.view(), None, VIEW_CACHE_BYTES) {
            Ok(Opened::Ready(catalog)) => {
                let view = catalog.view();
                // It may be behind the log: only what it holds is compared.
                let held_seq = view.position().tail.last_seq;
                self.live.retain(|key, seq| key.0 <= held_seq && *seq <= held_seq);
                self.losses(&view)?;
                self.view(layout.view(), ViewRead::of(&catalog, &view)?);
                Ok(())
            }
            Ok(Opened::Missing) => Ok(()),
            Ok(Opened::Unusable(reason)) => {
                self.found(layout.view(), None, "view", reason, REBUILT);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Busy => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn losses(&mut self, view: &View<'_>) -> Result<()> {
        let losses = match view.losses() {
            Err(error) if error.kind() == ErrorKind::Corrupt => Vec::new(),
            losses => losses?,
        };
        self.report.losses = losses
            .into_iter()
            .map(|LostV1 { first_seq, last_seq, found_unix_ms }| Loss { first_seq, last_seq, found_unix_ms })
            .collect();
        Ok(())
    }

    /// Whether the built-in model is what was built in: a program file can be damaged, too.
    fn model(&mut self) {
        if let Err(error) = MiniLm::builtin().and_then(MiniLm::verify) {
            let detail = format!("the built-in model: {}", error.message());
            self.found(Path::new("memento-kv"), error.offset(), "model", detail, "install the program again");
        }
    }

    /// Compares what the view holds with the log.
    fn view(&mut self, path: &Path, view: ViewRead) {
        // A view that is built anew has only what the log gives.
        let repair = if self.report.findings.is_empty() { REBUILT } else { KEPT };
        for damage in view.damages {
            let place = match (damage.table, &damage.key) {
                (Some(table), Some(key)) => format!("table {table}, key {key}: "),
                (Some(table), None) => format!("table {table}: "),
                (None, _) => String::new(),
            };
            self.found(path, damage.offset, "view-row", format!("{place}{}", damage.what), repair);
        }
        if let Some((offset, what)) = view.unreadable {
            self.found(path, offset, "view", what, repair);
            return;
        }
        self.report.rows = view.rows.len() as u64;
        for (key, seq) in &view.rows {
            match self.live.remove(key) {
                Some(newest) if newest == *seq => {}
                Some(newest) => {
                    let detail = format!("memory {} is at record {seq}, the log has record {newest}", key.0);
                    self.found(path, None, "view-stale", detail, repair);
                }
                None => {
                    let detail = format!("memory {} is in the view, but not in the log", key.0);
                    self.found(path, None, "view-stray", detail, repair);
                }
            }
        }
        if self.report.findings.iter().all(|finding| finding.kind != "view-row") {
            let mut missing: Vec<_> = self.live.keys().copied().collect();
            missing.sort_unstable();
            for key in missing {
                let detail = format!("memory {} is in the log, but not in the view", key.0);
                self.found(path, None, "view-missing", detail, repair);
            }
        }
    }
}

/// What the view holds.
#[derive(Default)]
struct ViewRead {
    damages: Vec<ViewDamage>,
    /// Where and why it cannot be read at all.
    unreadable: Option<(Option<u64>, String)>,
    /// Each memory with the record of its present version.
    rows: Vec<(MemoryKey, u64)>,
}

impl ViewRead {
    fn of(catalog: &Catalog, view: &View<'_>) -> Result<Self> {
        let mut read = Self::default();
        match catalog.check(&mut |_, _| {}) {
            Ok(damages) => read.damages = damages,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                read.unreadable = Some((error.offset(), error.message().to_owned()));
                return Ok(read);
            }
            Err(error) => return Err(error),
        }
        match view.for_each_version(|key, seq| read.rows.push((key, seq))) {
            Err(error) if error.kind() != ErrorKind::Corrupt => Err(error),
            // A damaged row is found already.
            _ => Ok(read),
        }
    }
}
