//! Purge: a memory's bytes are gone from every file of the store, not only from its answers.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::compact::Keep;
use super::history::History;
use super::replay::FormerView;
use super::{Engine, Inner, Layout, Progress, lock};
use crate::error::{Durability, Error, ErrorKind, Result};
use crate::format::op::{MemoryKey, Op, encode_beginning};
use crate::fs::{self, Access, Disk, Kind};
use crate::log;
use crate::memory::MemoryId;

/// Files are searched in parts of this length.
const SEARCH_LEN: usize = 4 << 20;

/// What a purge did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Purged {
    /// Ids of memories that were there, or had been, and are gone from every file of the store.
    pub purged: Vec<MemoryId>,
    /// Ids that no memory has or had.
    pub missing: Vec<MemoryId>,
    /// Segments that were rewritten.
    pub segments: u64,
    /// Records that were left out.
    pub records: u64,
    /// Files in quarantine in which the memories' bytes were overwritten with zeros, relative to the home folder.
    pub overwritten: Vec<String>,
    /// Files that are not the store's own and still hold a text: backups, snapshots, exports in the home folder.
    pub still_in: Vec<String>,
}

impl Engine {
    /// Forgets memories and takes their texts and vectors, of every version, out of the log, the view and all caches;
    /// that a memory of this id was forgotten stays known.
    pub(crate) fn purge<I: AsRef<str>>(
        &self,
        ids: impl IntoIterator<Item = I>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Purged> {
        let ids = ids.into_iter().map(|id| MemoryId::new(id.as_ref())).collect::<Result<BTreeSet<_>>>()?;
        self.inner.check_writable()?;
        self.forget(&ids)?;
        self.inner.purge(&ids, progress).map_err(|error| {
            if error.kind() == ErrorKind::CommitUnknown {
                return error;
            }
            let hint = error.hint_text().map_or_else(String::new, |hint| format!("{hint}; "));
            error.durable(Durability::Written).hint(format!(
                "{hint}the memories are forgotten, but some files still have their bytes: run it again"
            ))
        })
    }
}

/// What of the log is to go.
#[derive(Default)]
struct Traces {
    keys: HashSet<MemoryKey>,
    ids: BTreeSet<MemoryId>,
    /// Numbers of the segments with records of them.
    segments: Vec<u64>,
    /// The bytes of texts with their ids, and of vectors, as they stand in files.
    patterns: BTreeSet<Vec<u8>>,
    texts: BTreeSet<String>,
}

impl Inner {
    fn purge(&self, ids: &BTreeSet<MemoryId>, progress: &mut dyn FnMut(Progress)) -> Result<Purged> {
        let (mut done, traces) = self.purge_log(ids, progress)?;
        self.look_at_copies(&mut done, &traces)?;
        Ok(done)
    }

    fn purge_log(
        &self,
        ids: &BTreeSet<MemoryId>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Purged, Traces)> {
        let _no_index = self.no_index_is_made();
        let _alone = lock(&self.rewriting);
        self.with_reserve(|| self.log.roll())?;
        self.catch_up()?;
        let traces = self.traces(ids, progress)?;
        let mut done = Purged {
            missing: ids.difference(&traces.ids).cloned().collect(),
            purged: traces.ids.iter().cloned().collect(),
            ..Purged::default()
        };
        for segment in self.sealed_segments() {
            if traces.segments.contains(&segment.header.number) {
                let run = std::slice::from_ref(&segment);
                let rewritten = || self.rewrite_run(run, Keep::AllBut(&traces.keys), &|| false);
                done.records += self.with_reserve(rewritten)?;
                done.segments += 1;
            }
        }
        // The past, too: files that hold them are gone, and with them the states that only they could tell.
        History::read(self)?.remove_those(self, |path| self.holds(path, ids, &traces))?;
        // Also for an id that the log does not know any more: free pages of the view may hold what a compaction left out.
        self.drop_derived()?;
        let layout = Layout::of(&self.home);
        let disk = &*self.place.disk;
        for path in files_below(disk, &layout.quarantine)? {
            let mut touched = false;
            for pattern in &traces.patterns {
                touched |= overwrite(disk, &path, pattern)?;
            }
            if touched {
                done.overwritten.push(layout.relative(&path));
            }
        }
        Ok((done, traces))
    }

    /// Says which files still hold what was purged, once `memory.db` was written anew.
    fn look_at_copies(&self, done: &mut Purged, traces: &Traces) -> Result<()> {
        if let Some(beside) = &self.beside {
            beside.purged(self)?;
        }
        let layout = Layout::of(&self.home);
        let disk = &*self.place.disk;
        for path in copies(disk, &self.home)? {
            let mut holds = false;
            for text in &traces.texts {
                holds |= !find(disk, &path, text.as_bytes())?.is_empty();
            }
            if holds {
                done.still_in.push(layout.relative(&path));
            }
        }
        self.keep_reserve();
        Ok(())
    }

    /// Reads the whole log for what there is of these memories.
    fn traces(&self, ids: &BTreeSet<MemoryId>, progress: &mut dyn FnMut(Progress)) -> Result<Traces> {
        let segments = self.sealed_segments();
        let (total, mut read) = (segments.iter().map(|segment| segment.len).sum(), 0);
        let mut traces = Traces::default();
        for segment in &segments {
            progress(Progress::new(read, total));
            let mut is_in = false;
            self.for_each_record(segment, |record, _, _, op| {
                match &op {
                    Op::Remember { memory, .. } | Op::Update { memory, .. } if ids.contains(&memory.id) => {
                        traces.keys.extend(op.memory_key(record.seq));
                        traces.ids.insert(memory.id.clone());
                        traces.patterns.insert(pattern_of(&memory.id, &memory.text));
                        traces.texts.insert(memory.text.clone());
                    }
                    Op::Forget { id, .. } if ids.contains(id) => {
                        traces.ids.insert(id.clone());
                        return Ok(());
                    }
                    _ => {}
                }
                if op.memory_key(record.seq).is_some_and(|key| traces.keys.contains(&key)) {
                    is_in |= !matches!(op, Op::Forget { .. });
                    if let Some(vectors) = op.vectors() {
                        traces
                            .patterns
                            .insert(vectors.values.iter().flat_map(|value| value.to_le_bytes()).collect());
                    }
                }
                Ok(())
            })?;
            if is_in {
                traces.segments.push(segment.header.number);
            }
            read += segment.len;
        }
        progress(Progress::new(total, total));
        Ok(traces)
    }

    /// Whether a segment of the past has a record of these memories.
    fn holds(&self, path: &Path, ids: &BTreeSet<MemoryId>, traces: &Traces) -> Result<bool> {
        let segment = log::segment_at(&self.place, path)?;
        let mut found = false;
        self.for_each_record(&segment, |record, _, _, op| {
            found |= match &op {
                Op::Remember { memory, .. } | Op::Update { memory, .. } => ids.contains(&memory.id),
                Op::Forget { .. } => false,
                op => op.memory_key(record.seq).is_some_and(|key| traces.keys.contains(&key)),
            };
            Ok(())
        })?;
        Ok(found)
    }

    /// Makes everything anew that is derived from the log, without a trace of what it was.
    fn drop_derived(&self) -> Result<()> {
        self.build(&mut self.applying(), 0, FormerView::Gone)?;
        self.drop_blocks()?;
        lock(&self.answers).clear();
        let cache = Layout::of(&self.home).query_cache;
        self.query_cache.clear().map_err(|error| Error::io("remove", &cache, error))
    }
}

/// Id and text as records and rows have them, one behind the other.
fn pattern_of(id: &MemoryId, text: &str) -> Vec<u8> {
    let mut pattern = Vec::new();
    encode_beginning(id, text, &mut pattern);
    pattern
}

/// Files that somebody may have copied the store's content to.
fn copies(disk: &dyn Disk, home: &Path) -> Result<Vec<PathBuf>> {
    let mut copies = files_below(disk, &home.join("backups"))?;
    for name in disk.list(home)? {
        let path = home.join(&name);
        if matches!(disk.kind(&path)?, Some(Kind::File(_))) && name != "config.yaml" {
            copies.push(path);
        }
    }
    Ok(copies)
}

fn files_below(disk: &dyn Disk, folder: &Path) -> Result<Vec<PathBuf>> {
    if disk.kind(folder)? != Some(Kind::Folder) {
        return Ok(Vec::new());
    }
    let paths = disk.list(folder)?.into_iter().map(|name| folder.join(name));
    let mut files = Vec::new();
    for path in paths {
        if matches!(disk.kind(&path)?, Some(Kind::File(_))) {
            files.push(path);
        }
    }
    Ok(files)
}

/// The offsets at which a file has these bytes.
fn find(disk: &dyn Disk, path: &Path, pattern: &[u8]) -> Result<Vec<u64>> {
    if pattern.is_empty() {
        return Ok(Vec::new());
    }
    let file = disk.open(path, Access::Read)?;
    let (len, mut start, mut found) = (file.len()?, 0, Vec::new());
    let finder = memchr::memmem::Finder::new(pattern);
    let mut part = vec![0; SEARCH_LEN + pattern.len()];
    while start < len {
        let read = file.read_at(&mut part, start)?;
        found.extend(finder.find_iter(&part[..read]).map(|at| start + at as u64));
        start += SEARCH_LEN as u64;
    }
    found.dedup();
    Ok(found)
}

/// Writes zeros over these bytes wherever a file has them; whether it had.
fn overwrite(disk: &dyn Disk, path: &Path, pattern: &[u8]) -> Result<bool> {
    let found = find(disk, path, pattern)?;
    if found.is_empty() {
        return Ok(false);
    }
    // It may be a sealed segment, which nobody may write: a copy takes its place.
    let file = disk.open(path, Access::Read)?;
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len];
    fs::read_exact_at(&*file, &mut bytes, 0)?;
    for at in found {
        let at = usize::try_from(at).expect("within the file");
        bytes[at..at + pattern.len()].fill(0);
    }
    fs::replace(disk, path, &bytes)?;
    Ok(true)
}
