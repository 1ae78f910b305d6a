//! Integrity of every file of a store: what is wrong, where, and what heals it.
//!
//! [`Store::check`](crate::Store::check) reads every record of the log and every row of the view and holds one against
//! the other; [`Store::check_quickly`](crate::Store::check_quickly) reads what says most about the rest. [`check_files`]
//! does without an open store, and [`Store::repair`](crate::Store::repair) mends what was found.

mod beside;
mod blocks;
mod read;
mod resume;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use self::beside::{is_beside, mend_all};
use self::read::{AllRead, SegmentRead, Work};
pub use self::resume::CheckOptions;
use self::resume::{Limits, Notes};
use crate::catalog::{Catalog, Opened, View, ViewCheck, ViewRead};
use crate::embed::minilm::MiniLm;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::ManifestV1;
use crate::format::op::{LostV1, MemoryKey};
use crate::fs::{OverlayDisk, RealDisk};
use crate::home::DB_NAME;
use crate::log::{self, Place, Segment};
use crate::snapshot::check::{Belongings, note_sound};
use crate::store::{Engine, Healed, Layout, Options, Progress};

/// Cache of a view that is opened for a check only.
const VIEW_CACHE_BYTES: usize = 16 << 20;

/// Whether anything is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// Nothing is.
    #[default]
    Ok,
    /// Something is: see the findings.
    Damaged,
    /// Something was, and is mended: see what was healed, and whether anything is lost.
    Repaired,
    /// Nothing is wrong with what was read, but not all was: the time was up.
    Incomplete,
}

/// Sequences whose records were acknowledged, or may have been, and are gone. Healing found it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct CheckReport {
    /// Whether anything is wrong.
    pub status: CheckStatus,
    /// Whether all was read that there is to read.
    pub complete: bool,
    /// Bytes that were not read because the time was up.
    pub unread: u64,
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

impl Default for CheckReport {
    fn default() -> Self {
        Self {
            status: CheckStatus::Ok,
            complete: true,
            unread: 0,
            findings: Vec::new(),
            records: 0,
            rows: 0,
            bytes: 0,
            losses: Vec::new(),
            healed: Vec::new(),
        }
    }
}

const REBUILT: &str = "`check --repair` builds the view anew from the log";
const KEPT: &str =
    "keep store/view.redb: it may hold the only copy; `check --repair` takes from it what the log lacks";
const HEALED: &str = "`check --repair` writes the segment anew from what is whole and from the view";
const REWRITTEN: &str = "the manifest is derived: it is written anew at the next open";

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    /// Headers, seals and their links, the segment that is open for records, the manifest.
    Quick,
    /// Every byte.
    Deep,
}

impl Engine {
    /// Reads every record of the log and every row of the view, and holds one against the other.
    pub(crate) fn check(&self, progress: &mut dyn FnMut(Progress)) -> Result<CheckReport> {
        self.check_with(&CheckOptions::new(), progress)
    }

    /// As [`Engine::check`], within a time limit or going on where another check was cut short.
    pub(crate) fn check_with(
        &self,
        options: &CheckOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CheckReport> {
        let mut check = self.check_folder(Depth::Deep, options, progress)?;
        check.model();
        Ok(check.report)
    }

    /// Reads the manifest, the header and the seal of every segment and how they follow each other, and every record of
    /// the segment that is open.
    pub(crate) fn check_quickly(&self, progress: &mut dyn FnMut(Progress)) -> Result<CheckReport> {
        Ok(self.check_folder(Depth::Quick, &CheckOptions::new(), progress)?.report)
    }

    /// As [`Store::check`], without the built-in model, which is no part of the store's folder and takes most of the
    /// time of a small store's check. For the doors of tests.
    pub(crate) fn check_stored(&self) -> Result<CheckReport> {
        Ok(self.check_folder(Depth::Deep, &CheckOptions::new(), &mut |_| {})?.report)
    }

    fn check_folder(
        &self,
        depth: Depth,
        options: &CheckOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Check> {
        let limits = options.limits();
        let standing = self.standing();
        let (catalog, place) = self.settled()?;
        let seen = if depth == Depth::Deep { Seen::of(&catalog)? } else { Seen::Nothing };
        // One state of the view, and the segments that hold at least as much: others write meanwhile.
        let position = seen.open().and_then(ViewCheck::position).unwrap_or_else(|| catalog.position());
        let segments = self.segments();
        let mut check = Check::new(place);
        check.manifest(&segments)?;
        let last_seq = position.tail.last_seq;
        check.log_and_view(&segments, last_seq, depth, seen, &limits, progress)?;
        check.losses(&catalog.view())?;
        check.blocks(&Layout::of(self.home()).index, depth)?;
        let store = self.inner();
        check.past(&**store.disk(), store.folder(), depth)?;
        drop(standing);
        // Whoever publishes has this first, and then keeps segments standing.
        let _publishing = store.publishing();
        let belongings = Belongings {
            disk: &**store.disk(),
            home: self.home(),
            folder: store.folder(),
            db_path: &store.db_path(),
        };
        let sound = check.belongings(&belongings, depth.min(limits.copies), limits.deadline)?;
        if let Some(crc32) = sound.filter(|_| !self.is_read_only())
            && let Err(error) = note_sound(store, crc32)
        {
            tracing::warn!(%error, "the next check looks through memory.db again");
        }
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
    check_files_with(home, &CheckOptions::new(), progress)
}

/// As [`check_files`], within a time limit or going on where another check was cut short.
///
/// # Errors
/// As [`check_files`], and when the file to resume from cannot be read or written.
pub fn check_files_with(
    home: &Path,
    options: &CheckOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<CheckReport> {
    let layout = Layout::of(home);
    // What opening the view changes stays in memory.
    let place = layout.place(Arc::new(OverlayDisk::new(Arc::new(RealDisk))));
    if place.disk.kind(&place.segments)?.is_none() {
        return Err(Error::new(ErrorKind::NotFound, "there is no store here")
            .at(home)
            .hint("name its home with --home or MEMENTO_HOME"));
    }
    // Parts of a restore that count but have no names yet get them here, too.
    log::settle_parts(&place)?;
    let listing = log::list(&place)?;
    let mut check = Check::new(place);
    for log::Unusable { path, error, .. } in &listing.unusable {
        check.found(path, error.offset(), "segment-header", error.message().to_owned(), HEALED);
    }
    let manifest = check.manifest(&listing.segments)?;
    // What a crash left behind the last acknowledged record is no damage: the next open drops it.
    let last_seq = log::last_acknowledged(&check.place, &listing.segments, manifest.as_ref())?;
    let disk = Arc::clone(&check.place.disk);
    let opened = Catalog::open(&*disk, layout.view(), None, VIEW_CACHE_BYTES);
    let seen = match &opened {
        Ok(Opened::Ready(catalog)) => Seen::of(catalog)?,
        Ok(Opened::Missing) => Seen::Nothing,
        Ok(Opened::Unusable(reason)) => Seen::Unusable(layout.view().to_owned(), None, reason.clone()),
        Err(error) if error.kind() == ErrorKind::Busy => Seen::Nothing,
        Err(_) => return Err(opened.expect_err("it is one")),
    };
    let limits = options.limits();
    check.log_and_view(&listing.segments, last_seq, Depth::Deep, seen, &limits, progress)?;
    if let Ok(Opened::Ready(catalog)) = &opened {
        check.losses(&catalog.view())?;
    }
    check.blocks(&layout.index, Depth::Deep)?;
    check.past(&*disk, &layout.folder, Depth::Deep)?;
    let db_path = options.db_path.clone().unwrap_or_else(|| home.join(DB_NAME));
    // They are opened for reading only, by SQLite itself.
    let belongings = Belongings { disk: &RealDisk, home, folder: &layout.folder, db_path: &db_path };
    check.belongings(&belongings, limits.copies, limits.deadline)?;
    Ok(check.report)
}

/// Checks every byte of a store and mends what is found: damaged segments are written anew from what is whole in them
/// and from the view, a damaged view is built anew from the log. What neither has is given up and named. Damaged files
/// go to `quarantine/`, damaged backups, too; a damaged `memory.db` is published anew. Gives the store with the report of
/// a second check.
///
/// # Errors
/// As [`Store::open`] and [`Store::check`].
pub(crate) fn repair(options: Options, progress: &mut dyn FnMut(Progress)) -> Result<(Engine, CheckReport)> {
    let store = Engine::open(options.clone().salvage(true))?;
    let first = store.check(progress)?;
    let mut healed = first.healed.clone();
    if first.findings.is_empty() {
        let status = if healed.is_empty() { CheckStatus::Ok } else { CheckStatus::Repaired };
        return Ok((store, CheckReport { status, ..first }));
    }
    let inside = first.findings.iter().filter(|finding| !is_beside(finding));
    let damaged: BTreeSet<_> = inside.map(|finding| store.home().join(&finding.file)).collect();
    let store = if damaged.is_empty() {
        store
    } else {
        store.close()?;
        let store = Engine::open(options.salvage(true).damaged(damaged))?;
        healed.extend(store.healed());
        store
    };
    mend_all(&store, &first.findings)?;
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

struct Check {
    place: Place,
    report: CheckReport,
}

/// The view, as far as a check sees it.
enum Seen {
    /// There is none, it is not looked at, or another process has it open.
    Nothing,
    Open(Box<ViewCheck>),
    /// It cannot be read at all: its file, where, and why.
    Unusable(PathBuf, Option<u64>, String),
}

impl Seen {
    fn of(catalog: &Catalog) -> Result<Self> {
        match catalog.open_check() {
            Ok(check) => Ok(Self::Open(Box::new(check))),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                Ok(Self::Unusable(catalog.path().to_owned(), error.offset(), error.message().to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    fn open(&self) -> Option<&ViewCheck> {
        match self {
            Self::Open(check) => Some(check),
            Self::Nothing | Self::Unusable(..) => None,
        }
    }
}

impl Check {
    fn new(place: Place) -> Self {
        Self { place, report: CheckReport::default() }
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

    /// Reads log and view side by side, and holds one against the other.
    fn log_and_view(
        &mut self,
        segments: &[Segment],
        last_seq: u64,
        depth: Depth,
        seen: Seen,
        limits: &Limits<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let (place, deadline) = (self.place.clone(), limits.deadline);
        let mut notes = limits.resume.map(Notes::open).transpose()?;
        let work = Work { place: &place, segments, last_seq, depth, view: seen.open(), deadline };
        let AllRead { segments: read, view, unread } = work.read(notes.as_mut(), progress)?;
        let is_complete = read.iter().all(Option::is_some) && unread == 0;
        let mut live = self.log(segments, read);
        match (seen, view) {
            (Seen::Open(check), Some(view)) => {
                let repair = self.repair_of_view();
                self.damages_of_view(check.path(), &view, repair);
                if is_complete {
                    // It may be behind the log: only what it holds is compared.
                    let held_seq = check.position().map_or(u64::MAX, |position| position.tail.last_seq);
                    live.retain(|(key, seq)| key.0 <= held_seq && *seq <= held_seq);
                    self.compare(check.path(), &live, &view, repair);
                }
            }
            (Seen::Unusable(path, offset, what), _) => {
                let repair = self.repair_of_view();
                self.found(&path, offset, "view", what, repair);
            }
            _ => {}
        }
        (self.report.complete, self.report.unread) = (is_complete, unread);
        if !is_complete && self.report.status == CheckStatus::Ok {
            self.report.status = CheckStatus::Incomplete;
        }
        match notes.filter(|_| is_complete) {
            Some(notes) => notes.finish(),
            None => Ok(()),
        }
    }

    /// Says what is wrong with the log; gives the newest version of each memory in it, in the order of keys.
    fn log(&mut self, segments: &[Segment], read: Vec<Option<SegmentRead>>) -> Vec<(MemoryKey, u64)> {
        let mut before: Option<log::Verified> = None;
        let mut changed = Vec::with_capacity(read.iter().flatten().map(|read| read.changes.len()).sum());
        let mut follows_unread = false;
        for (index, (segment, read)) in segments.iter().zip(read).enumerate() {
            if !follows_unread {
                self.links(segment, before.as_ref());
            }
            follows_unread = read.is_none();
            let Some(read) = read else { continue };
            let is_sealed = index + 1 < segments.len();
            let SegmentRead { verified, records, changes } = read;
            self.report.records += records;
            changed.extend(changes);
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
        newest(changed)
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

    /// What mends the view, as far as is known.
    fn repair_of_view(&self) -> &'static str {
        // A view that is built anew has only what the log gives.
        if self.report.findings.is_empty() { REBUILT } else { KEPT }
    }

    /// Says what is wrong with the view by itself.
    fn damages_of_view(&mut self, path: &Path, view: &ViewRead, repair: &str) {
        for damage in &view.damages {
            let place = match (damage.table, &damage.key) {
                (Some(table), Some(key)) => format!("table {table}, key {key}: "),
                (Some(table), None) => format!("table {table}: "),
                (None, _) => String::new(),
            };
            self.found(path, damage.offset, "view-row", format!("{place}{}", damage.what), repair);
        }
        self.report.rows = view.rows.len() as u64;
        tracing::debug!(rows = view.rows.len(), entries = view.entries, "the view was read");
    }

    /// Compares what the view holds with the newest version of each memory that the log holds.
    fn compare(&mut self, path: &Path, live: &[(MemoryKey, u64)], view: &ViewRead, repair: &str) {
        let mut live = live.iter().peekable();
        let mut missing = Vec::new();
        for (key, seq) in &view.rows {
            while let Some((before, _)) = live.next_if(|(other, _)| other < key) {
                missing.push(*before);
            }
            match live.next_if(|(other, _)| other == key) {
                Some((_, newest)) if newest == seq => {}
                Some((_, newest)) => {
                    let detail = format!("memory {} is at record {seq}, the log has record {newest}", key.0);
                    self.found(path, None, "view-stale", detail, repair);
                }
                None => {
                    let detail = format!("memory {} is in the view, but not in the log", key.0);
                    self.found(path, None, "view-stray", detail, repair);
                }
            }
        }
        missing.extend(live.map(|(key, _)| *key));
        // Those of damaged rows and pages are told of already.
        if self.report.findings.iter().all(|finding| finding.kind != "view-row") {
            for key in missing {
                let detail = format!("memory {} is in the log, but not in the view", key.0);
                self.found(path, None, "view-missing", detail, repair);
            }
        }
    }
}

/// The newest version of each memory, in the order of keys, from what segments changed in their order.
fn newest(mut changed: Vec<(MemoryKey, Option<u64>)>) -> Vec<(MemoryKey, u64)> {
    // Stable, so that the last change of a memory stays the last. Most of them are in order already.
    changed.sort_by_key(|(key, _)| *key);
    let last = changed.chunk_by(|a, b| a.0 == b.0).filter_map(|changes| changes.last());
    last.filter_map(|(key, seq)| seq.map(|seq| (*key, seq))).collect()
}

#[cfg(test)]
mod tests;
