//! What compaction leaves out is kept for a while, so that the store can be read as it was. Spec:
//! `format-spec/folder.md`, "HISTORY and trash".
//!
//! Segments in whose place a rewritten one came go to `trash/`. `HISTORY` says from which sequence on a rewritten segment
//! tells the whole truth, and up to which one those that it replaced do. It is a help and no more: without it the
//! present is as it was, and only the past is out of reach.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Inner;
use super::restore::out_of_reach;
use crate::error::{ErrorKind, Result};
use crate::fs::{self, Disk, Kind};
use crate::log::{self, Segment};

/// Longest file of what is known.
const LEN_MAX: usize = 16 << 20;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// The state before a restore can be had for this long.
const UNDO_MS: i64 = 30 * DAY_MS;

/// How much of the past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) days: u32,
    pub(crate) len_max: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { days: 7, len_max: 1 << 30 }
    }
}

/// What is known of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct History {
    /// States before this sequence cannot be had any more.
    #[serde(default)]
    floor_seq: u64,
    /// Rewritten segments by the names of their files: from this sequence on they say all that is to be said.
    #[serde(default)]
    complete_from: BTreeMap<String, u64>,
    /// Files in the trash by their names.
    #[serde(default)]
    replaced: BTreeMap<String, Replaced>,
    /// When the last restores were done, with the sequence that each can go back to.
    #[serde(default)]
    restores: Vec<(i64, u64)>,
}

/// A segment in the trash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Replaced {
    /// It counts for states before this sequence.
    until_seq: u64,
    at_ms: i64,
}

impl History {
    /// What is known; nothing when the file is missing or damaged.
    pub(super) fn read(store: &Inner) -> Result<Self> {
        Self::read_in(&*store.place.disk, &store.folder)
    }

    pub(super) fn read_in(disk: &dyn Disk, folder: &Path) -> Result<Self> {
        let path = folder.join("HISTORY");
        if !matches!(disk.kind(&path)?, Some(Kind::File(_))) {
            return Ok(Self::default());
        }
        let bytes = match fs::read_small(disk, &path, LEN_MAX) {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Corrupt => Vec::new(),
            Err(error) => return Err(error),
        };
        let known = decoded(&bytes);
        if known.is_none() {
            tracing::warn!("what is known of the past is damaged: the past is out of reach");
        }
        // A rewritten segment that it does not name is taken for one that says nothing of the past.
        Ok(known.unwrap_or_default())
    }

    fn save(&self, store: &Inner) -> Result<()> {
        let body = serde_json::to_vec(self).expect("a struct of numbers and texts");
        let mut bytes = format!("{:08x}\n", crc32fast::hash(&body)).into_bytes();
        bytes.extend(body);
        fs::replace(&*store.place.disk, &store.folder.join("HISTORY"), &bytes)
    }

    /// From which sequence on this segment says all that is to be said.
    fn complete_from(&self, segment: &Segment) -> u64 {
        if segment.header.rewrite.is_none() {
            return 0;
        }
        self.complete_from.get(&name_of(&segment.path)).copied().unwrap_or(u64::MAX)
    }

    /// The segments that make the state after this sequence.
    pub(super) fn segments_at(&self, store: &Inner, seq: u64) -> Result<Vec<Segment>> {
        if seq < self.floor_seq {
            return Err(out_of_reach(seq, &format!("what was before {} is gone", self.floor_seq)));
        }
        let trash = trash_of(&store.folder);
        let mut trashed = Vec::new();
        for (name, replaced) in self.replaced.iter().filter(|(_, replaced)| seq < replaced.until_seq) {
            let path = trash.join(name);
            if matches!(store.place.disk.kind(&path)?, Some(Kind::File(_))) {
                let segment = log::segment_at(&store.place, &path)?;
                if self.complete_from(&segment) <= seq {
                    trashed.push((replaced.until_seq, segment));
                }
            }
        }
        // Of two that stand for the same, the one that was replaced first knows more.
        trashed.sort_by_key(|(until_seq, segment)| (*until_seq, segment.header.number));
        let mut chosen: Vec<Segment> = Vec::new();
        let present = store.log.segments().all().into_iter();
        let present = present.filter(|segment| self.complete_from(segment) <= seq);
        for segment in trashed.into_iter().map(|(_, segment)| segment).chain(present) {
            let numbers = segment.header.numbers();
            let overlaps = |one: &Segment| {
                let other = one.header.numbers();
                numbers.start() <= other.end() && other.start() <= numbers.end()
            };
            if !chosen.iter().any(overlaps) {
                chosen.push(segment);
            }
        }
        chosen.sort_by_key(|segment| segment.header.number);
        let mut next = 1;
        for segment in &chosen {
            if *segment.header.numbers().start() != next && segment.header.base_seq <= seq {
                return Err(out_of_reach(seq, "compaction has left out what it was made of"));
            }
            next = segment.header.number + 1;
        }
        if chosen.is_empty() || chosen[0].header.base_seq > 1 {
            return Err(out_of_reach(seq, "compaction has left out what it was made of"));
        }
        Ok(chosen)
    }

    /// Segments are about to be replaced by one of this name, which leaves out what the state at `seq` does not need; of
    /// a purge `None`, which leaves nothing out that may be known.
    pub(super) fn note_rewrite(
        &mut self,
        store: &Inner,
        run: &[Segment],
        new: &str,
        seq: Option<u64>,
        now_ms: i64,
    ) -> Result<()> {
        let from =
            seq.unwrap_or_else(|| run.iter().map(|segment| self.complete_from(segment)).max().unwrap_or(0));
        self.complete_from.insert(new.to_owned(), from);
        if let Some(seq) = seq {
            let replaced = Replaced { until_seq: seq, at_ms: now_ms };
            self.replaced.extend(run.iter().map(|segment| (name_of(&segment.path), replaced)));
        }
        self.save(store)
    }

    /// A restore was done: the state before it is kept for longer.
    pub(super) fn note_restore(&mut self, store: &Inner, at_ms: i64, point_seq: u64) -> Result<()> {
        self.restores.retain(|(done_ms, _)| at_ms.saturating_sub(*done_ms) < UNDO_MS);
        self.restores.push((at_ms, point_seq));
        self.save(store)
    }

    /// Removes what is older than the window or beyond its size, the oldest first.
    pub(super) fn prune(&mut self, store: &Inner, window: Window, now_ms: i64) -> Result<()> {
        let (disk, trash) = (&*store.place.disk, trash_of(&store.folder));
        let mut files = Vec::new();
        for (name, replaced) in &self.replaced {
            if let Some(Kind::File(len)) = disk.kind(&trash.join(name))? {
                files.push((*replaced, name.clone(), len));
            }
        }
        files.sort_by_key(|(replaced, ..)| replaced.until_seq);
        let mut total: u64 = files.iter().map(|(.., len)| len).sum();
        let kept_ms = i64::from(window.days) * DAY_MS;
        let is_undo = |replaced: &Replaced| {
            let recent = |(done_ms, seq): &(i64, u64)| {
                now_ms.saturating_sub(*done_ms) < UNDO_MS && *seq < replaced.until_seq
            };
            self.restores.iter().any(recent)
        };
        let mut gone = Vec::new();
        for (replaced, name, len) in files {
            let is_old = now_ms.saturating_sub(replaced.at_ms) >= kept_ms && !is_undo(&replaced);
            if is_old || total > window.len_max {
                total -= len;
                gone.push((replaced.until_seq, name));
            }
        }
        self.remove(store, &gone)
    }

    /// Removes these files from the trash; what they alone could tell is out of reach from then on.
    fn remove(&mut self, store: &Inner, gone: &[(u64, String)]) -> Result<()> {
        let Some(floor) = gone.iter().map(|(until_seq, _)| *until_seq).max() else { return Ok(()) };
        self.floor_seq = self.floor_seq.max(floor);
        for (_, name) in gone {
            self.replaced.remove(name);
        }
        let present: Vec<String> =
            store.log.segments().all().iter().map(|segment| name_of(&segment.path)).collect();
        let replaced = &self.replaced;
        self.complete_from.retain(|name, _| present.contains(name) || replaced.contains_key(name));
        // First what says that they are gone.
        self.save(store)?;
        let trash = trash_of(&store.folder);
        for (_, name) in gone {
            store.place.disk.remove(&trash.join(name))?;
        }
        store.place.disk.sync_folder(&trash)
    }

    /// Removes every file of the trash for which `holds` says so; how many that were.
    pub(super) fn remove_those(
        &mut self,
        store: &Inner,
        mut holds: impl FnMut(&Path) -> Result<bool>,
    ) -> Result<u64> {
        let trash = trash_of(&store.folder);
        let mut gone = Vec::new();
        for (name, replaced) in &self.replaced {
            let path = trash.join(name);
            if matches!(store.place.disk.kind(&path)?, Some(Kind::File(_))) && holds(&path)? {
                gone.push((replaced.until_seq, name.clone()));
            }
        }
        self.remove(store, &gone)?;
        Ok(gone.len() as u64)
    }
}

/// What the past is read from.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// `HISTORY`, if it is damaged.
    pub(crate) damaged: Option<PathBuf>,
    /// Segments in the trash.
    pub(crate) trash: Vec<PathBuf>,
}

/// What the past is read from, for a check.
///
/// # Errors
/// What the disk says.
pub(crate) fn kept(disk: &dyn Disk, folder: &Path) -> Result<Kept> {
    let path = folder.join("HISTORY");
    if !matches!(disk.kind(&path)?, Some(Kind::File(_))) {
        return Ok(Kept::default());
    }
    let bytes = match fs::read_small(disk, &path, LEN_MAX) {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(error) if error.kind() == ErrorKind::Corrupt => Vec::new(),
        Err(error) => return Err(error),
    };
    let Some(known) = decoded(&bytes) else {
        return Ok(Kept { damaged: Some(path), trash: Vec::new() });
    };
    let mut kept = Kept::default();
    for name in known.replaced.keys() {
        let path = trash_of(folder).join(name);
        // Until a rewrite is done they are where they were.
        if matches!(disk.kind(&path)?, Some(Kind::File(_))) {
            kept.trash.push(path);
        }
    }
    Ok(kept)
}

/// Moves a segment to the trash, if it is one that history counts on.
pub(super) fn trash(disk: &dyn Disk, folder: &Path, history: &History, path: &Path) -> Result<bool> {
    let name = name_of(path);
    if !history.replaced.contains_key(&name) {
        return Ok(false);
    }
    let trash = trash_of(folder);
    fs::create_folders(disk, &trash)?;
    disk.check_folder(&trash)?;
    disk.rename(path, &trash.join(name))?;
    disk.sync_folder(&trash)?;
    Ok(true)
}

fn trash_of(folder: &Path) -> PathBuf {
    folder.join("trash")
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn decoded(bytes: &[u8]) -> Option<History> {
    let at = bytes.iter().position(|byte| *byte == b'\n')?;
    let crc = u32::from_str_radix(std::str::from_utf8(&bytes[..at]).ok()?, 16).ok()?;
    let body = &bytes[at + 1..];
    if crc32fast::hash(body) != crc {
        return None;
    }
    serde_json::from_slice(body).ok()
}
