//! The vectors of one model as recall searches them: an index block, what changed since it was made, and the choice of
//! how to search. Spec of the file: `format-spec/block.md`.
//!
//! A block is immutable. What comes after it lives in memory and is scanned exactly; what it has and no longer counts
//! is marked. Both follow the log, and are made again from it when a store is opened.

mod block;
mod file;
mod live;
mod text;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use roaring::RoaringBitmap;

pub(crate) use block::Block;
pub(crate) use text::{TextBlock, write_text_block};
pub(crate) use write::RowWriter;

use self::live::LiveRows;
use self::text::TEXT_SUFFIX;
use crate::error::{Error, ErrorKind, Result};
use crate::format::block::stride;
use crate::format::op::MemoryKey;
use crate::fs::{Disk, Kind};
use crate::memory::{DIMENSIONS_MAX, Effort};
use crate::scope::Scope;
use crate::vector::{Accept, Found, Limits, Query, Rows, scan_all, scan_list, score_list, search_graph};

/// Ends the name of an index block's file.
const BLOCK_SUFFIX: &str = ".mvec";

/// Up to this many rows a scan answers in about the time of a walk through a graph, and exactly.
pub(crate) const EXACT_ROWS_MAX: u32 = 20_000;
/// With this many vectors in memory a block is due, ...
pub(crate) const LIVE_MAX: usize = 10_000;
/// ... and in a small store with this part of what the block has, ...
const LIVE_SHARE: usize = 10;
/// ... but not for fewer than this.
const LIVE_MIN: usize = 1000;
/// A graph is not extended but made anew when more than this part of its rows is gone.
pub(crate) const GONE_SHARE: u64 = 4;
/// A walk through a graph takes about as long as scoring so many rows one after the other.
const WALK_ROWS: f64 = 6250.0;
/// Rows whose cosines stand for those of all.
const SAMPLE_ROWS: usize = 1024;
/// Fewest rows that are scored exactly.
const RESCORED_MIN: usize = 32;

/// What is known of the vectors of one model.
#[derive(Debug)]
pub(crate) struct VectorIndex {
    dimensions: u32,
    block: Option<Arc<Block>>,
    /// Rows of the block that count no more.
    gone: RoaringBitmap,
    live: LiveRows,
    /// Whether the log since the block does not say all that has changed.
    is_outdated: bool,
}

/// The memories nearest to a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Nearest {
    /// Each with its cosine, the nearest first, of equally near ones the newest.
    pub(crate) memories: Vec<(MemoryKey, f32)>,
    /// Whether the search was given up: there may be nearer ones.
    pub(crate) truncated: bool,
    /// Whether a graph was walked: one in a hundred of the nearest may be missing.
    pub(crate) walked: bool,
}

impl VectorIndex {
    /// The vectors of a block, or none.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for dimensions that no vector has.
    pub(crate) fn new(dimensions: u32, block: Option<Arc<Block>>) -> Result<Self> {
        if dimensions == 0 || dimensions as usize > DIMENSIONS_MAX {
            return Err(invalid(format!("a vector has 1 to {DIMENSIONS_MAX} dimensions, not {dimensions}")));
        }
        Ok(Self {
            dimensions,
            block,
            gone: RoaringBitmap::new(),
            live: LiveRows::new(dimensions),
            is_outdated: false,
        })
    }

    /// Dimensions of each vector.
    pub(crate) fn dimensions(&self) -> usize {
        self.dimensions as usize
    }

    /// The block, and its rows that count no more.
    pub(crate) fn block(&self) -> Option<(&Arc<Block>, &RoaringBitmap)> {
        self.block.as_ref().map(|block| (block, &self.gone))
    }

    /// Memories whose vectors are in memory only.
    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    /// Whether nothing is in memory only.
    pub(crate) fn is_all_in_block(&self) -> bool {
        self.live.len() == 0 && self.gone.is_empty()
    }

    /// Whether a new block should be made: too much is only in memory, too much of the block is gone, or it is large
    /// enough for a graph and has none.
    pub(crate) fn is_due(&self) -> bool {
        let rows = self.block.as_ref().map_or(0, |block| block.row_count());
        let lacks_graph =
            rows > EXACT_ROWS_MAX && self.block.as_ref().is_some_and(|block| block.graph().is_none());
        lacks_graph
            || self.is_outdated
            || self.live.row_count() >= LIVE_MAX.min(LIVE_MIN.max(rows as usize / LIVE_SHARE))
            || (self.gone.len() >= LIVE_MIN as u64 && self.gone.len() * GONE_SHARE > u64::from(rows))
    }

    /// Takes the vectors of a memory, one after the other, in the place of its former ones.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the values do not make up whole vectors, or none.
    pub(crate) fn insert(&mut self, key: MemoryKey, values: &[f32]) -> Result<()> {
        if values.is_empty() || !values.len().is_multiple_of(self.dimensions()) {
            return Err(invalid(format!(
                "{} values do not make up vectors of {} dimensions",
                values.len(),
                self.dimensions
            )));
        }
        self.leave(key);
        self.live.insert(key, values, self.dimensions as usize);
        Ok(())
    }

    /// Takes the vectors of a memory out.
    pub(crate) fn remove(&mut self, key: MemoryKey) {
        self.leave(key);
        self.live.remove(key);
    }

    /// Keeps of the block only memories that are among these, whose keys ascend. The log since the block does not say
    /// which are gone, so that a new one is due.
    pub(crate) fn retain(&mut self, keys: impl Iterator<Item = MemoryKey>) {
        let Some(block) = &self.block else { return };
        let mut keys = keys.peekable();
        for (row, key) in (0..).zip(block.keys()) {
            while keys.next_if(|next| next.0 < *key).is_some() {}
            if keys.peek().is_none_or(|next| next.0 != *key) {
                self.gone.insert(row);
            }
        }
        self.is_outdated = true;
    }

    /// The block's rows of this memory count no more.
    fn leave(&mut self, key: MemoryKey) {
        if let Some(block) = &self.block {
            self.gone.insert_range(block.rows_of(key));
        }
    }

    /// The `k` memories in scope that are nearest to the query. A memory is as near as its nearest vector.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the query has other dimensions.
    pub(crate) fn search(
        &self,
        query: &[f32],
        scope: &Scope,
        k: usize,
        effort: Effort,
        limits: &mut Limits,
    ) -> Result<Nearest> {
        let query = self.query(query)?;
        // Rows of one memory may crowd others out, so that more rows are asked for than memories.
        let mut wanted = k;
        loop {
            let live = self.search_live(&query, scope, wanted, limits);
            let (block, walked) = match &self.block {
                Some(block) => self.search_block(block, &query, scope, wanted, effort, limits),
                None => (Found::default(), false),
            };
            let is_all = live.hits.len() < wanted && block.hits.len() < wanted;
            let truncated = live.truncated || block.truncated;
            let keys = self.block.as_ref().map_or(&[][..], |block| block.keys());
            let live = live.hits.iter().map(|hit| (self.live.owner(hit.row), hit.cosine));
            let block = block.hits.iter().map(|hit| (MemoryKey(keys[hit.row as usize]), hit.cosine));
            let mut memories: Vec<_> = live.chain(block).collect();
            best_of_each(&mut memories);
            memories.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
            if memories.len() >= k || is_all || truncated {
                memories.truncate(k);
                return Ok(Nearest { memories, truncated, walked });
            }
            wanted = wanted.saturating_mul(2);
        }
    }

    /// The cosines of these memories, whose keys ascend, as far as they have vectors.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub(crate) fn cosines_of(
        &self,
        query: &[f32],
        keys: &[MemoryKey],
        limits: &Limits,
    ) -> Result<(Vec<(MemoryKey, f32)>, bool)> {
        let query = self.query(query)?;
        let mut cosines = Vec::with_capacity(keys.len());
        let mut score = |rows: Rows<'_>, list: &[u32], owner: &dyn Fn(u32) -> MemoryKey| {
            let scored = score_list(rows, list, &query, limits);
            cosines.extend(scored.hits.iter().map(|hit| (owner(hit.row), hit.cosine)));
            scored.truncated
        };
        let live = self.live_rows(keys);
        let mut truncated = score(self.live.rows(), &live, &|row| self.live.owner(row));
        if let Some(block) = &self.block {
            let all = block.keys();
            truncated |=
                score(block.rows(), &self.block_rows(block, keys), &|row| MemoryKey(all[row as usize]));
        }
        best_of_each(&mut cosines);
        Ok((cosines, truncated))
    }

    /// Some memories in scope, the same ones each time, that stand for all, in ascending order.
    pub(crate) fn sample(&self, scope: &Scope) -> Vec<MemoryKey> {
        let mut sample: Vec<MemoryKey> = match scope {
            Scope::Keys(keys) => every(keys.len()).map(|at| keys[at]).collect(),
            Scope::All => {
                let keys = self.block.as_ref().map_or(&[][..], |block| block.keys());
                let in_block = every(keys.len()).filter(|row| !self.gone.contains(*row as u32));
                let live = every(self.live.row_count()).map(|row| row as u32);
                let live = live.filter(|row| !self.live.removed().contains(*row));
                let in_block = in_block.map(|row| MemoryKey(keys[row]));
                in_block.chain(live.map(|row| self.live.owner(row))).collect()
            }
        };
        sample.sort_unstable();
        sample.dedup();
        sample
    }

    fn query(&self, query: &[f32]) -> Result<Query> {
        if query.len() != self.dimensions() {
            return Err(invalid(format!(
                "the query has {} dimensions, the vectors here have {}",
                query.len(),
                self.dimensions
            )));
        }
        Ok(Query::new(query, stride(self.dimensions)))
    }

    fn search_live(&self, query: &Query, scope: &Scope, wanted: usize, limits: &mut Limits) -> Found {
        let rows = self.live.rows();
        match scope {
            Scope::All => {
                scan_all(rows, query, without(self.live.removed()), wanted, rescored(wanted), limits)
            }
            Scope::Keys(keys) => {
                scan_list(rows, &self.live_rows(keys), query, wanted, rescored(wanted), limits)
            }
        }
    }

    /// Chooses between a scan of what is in scope and a walk through the graph, and says which it was.
    ///
    /// The rule and its constants were measured: a scan of a list costs about the same for each of its rows, a walk
    /// that may return one row in `1/s` takes about `1/s` as long as one that may return all.
    fn search_block(
        &self,
        block: &Block,
        query: &Query,
        scope: &Scope,
        wanted: usize,
        effort: Effort,
        limits: &mut Limits,
    ) -> (Found, bool) {
        let rows = block.rows();
        let count = f64::from(block.row_count());
        let ef = effort.beam_width().map(|ef| ef.max(wanted));
        let graph = block.graph().zip(ef);
        match scope {
            Scope::All => {
                let accepted = u64::from(block.row_count()) - self.gone.len();
                if let Some((graph, ef)) = graph.filter(|_| accepted > u64::from(EXACT_ROWS_MAX)) {
                    let accept = without(&self.gone);
                    let found = search_graph(rows, &graph, query, accept, wanted, ef, ef, limits);
                    if !found.gave_up {
                        return (found, true);
                    }
                }
                (scan_all(rows, query, without(&self.gone), wanted, rescored(wanted), limits), false)
            }
            Scope::Keys(keys) => {
                let list = self.block_rows(block, keys);
                let share = list.len() as f64 / count;
                let is_many = list.len() > EXACT_ROWS_MAX as usize && share > (WALK_ROWS / count).sqrt();
                if let Some((graph, ef)) = graph.filter(|_| is_many) {
                    let bitmap = RoaringBitmap::from_sorted_iter(list.iter().copied()).expect("rows ascend");
                    let accept = Accept::Bitmap(&bitmap);
                    let found = search_graph(rows, &graph, query, accept, wanted, ef, ef, limits);
                    if !found.gave_up {
                        return (found, true);
                    }
                }
                (scan_list(rows, &list, query, wanted, rescored(wanted), limits), false)
            }
        }
    }

    /// The rows in memory of these memories, in ascending order.
    fn live_rows(&self, keys: &[MemoryKey]) -> Vec<u32> {
        // Most of the time everything is in the block, and each key would be looked up for nothing.
        if self.live.len() == 0 {
            return Vec::new();
        }
        let mut rows: Vec<u32> = keys.iter().flat_map(|key| self.live.rows_of(*key)).collect();
        rows.sort_unstable();
        rows
    }

    /// The block's rows of memories whose keys ascend, as far as they count.
    fn block_rows(&self, block: &Block, keys: &[MemoryKey]) -> Vec<u32> {
        let mut rows = block.rows_of_all(keys);
        if !self.gone.is_empty() {
            rows.retain(|row| !self.gone.contains(*row));
        }
        rows
    }
}

/// Rows that are scored exactly to find so many of the nearest.
fn rescored(wanted: usize) -> usize {
    wanted.saturating_mul(2).max(RESCORED_MIN)
}

fn without(rows: &RoaringBitmap) -> Accept<'_> {
    if rows.is_empty() { Accept::All } else { Accept::Except(rows) }
}

/// Places of a sample in a list of this length.
fn every(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(len.div_ceil(SAMPLE_ROWS).max(1))
}

/// Keeps the best score of each memory; then they are in the order of their keys.
fn best_of_each(scored: &mut Vec<(MemoryKey, f32)>) {
    scored.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    scored.dedup_by_key(|(key, _)| *key);
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

/// The file of a block.
pub(crate) fn block_path(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("{generation:010}{BLOCK_SUFFIX}"))
}

/// The file of a text block.
pub(crate) fn text_block_path(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("{generation:010}{TEXT_SUFFIX}"))
}

/// The blocks in a folder, by the generations in their names, the newest first.
///
/// # Errors
/// What the disk says.
pub(crate) fn list_blocks(disk: &dyn Disk, folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    list(disk, folder, BLOCK_SUFFIX)
}

/// As [`list_blocks`], of text blocks.
///
/// # Errors
/// What the disk says.
pub(crate) fn list_text_blocks(disk: &dyn Disk, folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    list(disk, folder, TEXT_SUFFIX)
}

fn list(disk: &dyn Disk, folder: &Path, suffix: &str) -> Result<Vec<(u64, PathBuf)>> {
    if disk.kind(folder)?.is_none() {
        return Ok(Vec::new());
    }
    let generation = |name: &String| name.strip_suffix(suffix)?.parse().ok();
    let mut blocks: Vec<(u64, PathBuf)> = disk
        .list(folder)?
        .iter()
        .filter_map(|name| generation(name).map(|generation| (generation, folder.join(name))))
        .collect();
    blocks.sort_unstable_by(|a, b| b.cmp(a));
    Ok(blocks)
}

/// Removes a file, if there is one.
///
/// # Errors
/// What the disk says.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.kind(path)? {
        Some(Kind::File(_) | Kind::Other) => disk.remove(path),
        Some(Kind::Folder) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::{BLOCK_HEADER_LEN, BlockPosition, Origin};
    use crate::fs::{Access, DiskFile};
    use crate::parts::chance::Chance;
    use crate::parts::disk::SimulatedDisk;
    use crate::vector::{Control, GraphBuilder, Linker};

    const DIMENSIONS: usize = 20;
    const MEMORIES: u64 = 1500;

    fn vector(chance: &mut Chance) -> Vec<f32> {
        let mut vector: Vec<f32> =
            (0..DIMENSIONS).map(|_| chance.below(2001) as f32 / 1000.0 - 1.0).collect();
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|value| *value /= length);
        vector
    }

    /// Writes a block with a graph, some memories with two vectors, and gives its file with the vectors.
    fn block(
        disk: &SimulatedDisk,
        folder: &Path,
        chance: &mut Chance,
    ) -> (PathBuf, Vec<(MemoryKey, Vec<f32>)>) {
        let mut writer = RowWriter::new(disk, folder, DIMENSIONS as u32).expect("memory is there");
        let mut memories = Vec::new();
        for key in (1..=MEMORIES).map(MemoryKey) {
            let mut vectors = vector(chance);
            if key.0 % 5 == 0 {
                vectors.extend(vector(chance));
            }
            writer.push(key, &vectors, DIMENSIONS).expect("memory is there");
            memories.push((key, vectors));
        }
        let rows = writer.finish().expect("memory is there");
        let control = Control { stop: &|| false, progress: &|_, _| {}, threads: 1 };
        let graph = Linker::default().build(rows.rows(), None, &control).expect("few rows");
        let origin = Origin {
            store_id: [1; 16],
            generation: 1,
            position: BlockPosition::default(),
            log_generation: 0,
            maker: 1,
            maker_sha256: [2; 32],
        };
        (rows.publish(&origin, DIMENSIONS as u32, graph.as_ref()).expect("memory is there"), memories)
    }

    fn on_a_disk() -> (SimulatedDisk, PathBuf) {
        let root = Path::new("/disk");
        let (disk, folder) = (SimulatedDisk::new(root), root.join("index"));
        disk.create_folder(&folder).expect("memory is there");
        (disk, folder)
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn a_block_answers_as_a_naive_scan_with_and_without_what_changed_since() {
        let (disk, folder) = on_a_disk();
        let mut chance = Chance::of(5, 0);
        let (path, mut memories) = block(&disk, &folder, &mut chance);
        assert_eq!(list_blocks(&disk, &folder).expect("list"), [(1, path.clone())]);
        let opened = Arc::new(Block::open(&disk, &path).expect("whole"));
        opened.verify(&|| false).expect("whole");
        assert_eq!(opened.header().memories, MEMORIES as u32);
        let mut index = VectorIndex::new(DIMENSIONS as u32, Some(opened)).expect("dimensions in range");
        for round in 0..3 {
            if round == 1 {
                for (key, _) in memories.extract_if(.., |(key, _)| key.0 % 7 == 0) {
                    index.remove(key);
                }
            }
            if round == 2 {
                for (key, vectors) in memories.iter_mut().filter(|(key, _)| key.0 % 11 == 0) {
                    *vectors = vector(&mut chance);
                    index.insert(*key, vectors).expect("whole vectors");
                }
            }
            for _ in 0..20 {
                let query = vector(&mut chance);
                for share in [1, 3] {
                    let in_scope = |key: &MemoryKey| key.0.is_multiple_of(share);
                    let mut naive: Vec<(MemoryKey, f32)> = memories
                        .iter()
                        .filter(|(key, _)| in_scope(key))
                        .map(|(key, vectors)| {
                            let dots = vectors.chunks(DIMENSIONS).map(|one| dot(one, &query));
                            (*key, dots.fold(f32::MIN, f32::max))
                        })
                        .collect();
                    let scope = match share {
                        1 => Scope::All,
                        _ => Scope::of(naive.iter().map(|(key, _)| *key)),
                    };
                    let keys: Vec<MemoryKey> = naive.iter().map(|(key, _)| *key).collect();
                    let (cosines, _) = index.cosines_of(&query, &keys, &Limits::NONE).expect("fits");
                    for ((key, cosine), (expected_key, expected)) in cosines.iter().zip(&naive) {
                        assert_eq!(key, expected_key);
                        assert!((cosine - expected).abs() < 1e-3, "{key:?}: {cosine} is not {expected}");
                    }
                    naive.sort_by(|a, b| b.1.total_cmp(&a.1));
                    let mut limits = Limits::NONE;
                    let found =
                        index.search(&query, &scope, 10, Effort::Normal, &mut limits).expect("fits").memories;
                    assert_eq!(found.len(), 10);
                    // Cosines have some 11 bits: what is as near as the tenth may stand for it.
                    let least = naive[9].1 - 1e-3;
                    for (key, _) in found {
                        let (_, cosine) = naive.iter().find(|(other, _)| *other == key).expect("in scope");
                        assert!(*cosine >= least, "{key:?} has {cosine}, the tenth {least}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_thousand_damages_are_found_or_cost_only_the_order_of_an_answer() {
        let (disk, folder) = on_a_disk();
        let mut chance = Chance::of(6, 0);
        let (path, memories) = block(&disk, &folder, &mut chance);
        let file = disk.open(&path, Access::Read).expect("open");
        let mut whole = vec![0; usize::try_from(file.len().expect("len")).expect("small")];
        file.read_at(&mut whole, 0).expect("read");
        let (mut found, mut harmless) = (0, 0);
        for number in 0..1000 {
            let mut damaged = whole.clone();
            match number % 4 {
                0 => damaged.truncate(chance.index(whole.len())),
                1 => damaged[chance.index(BLOCK_HEADER_LEN)] ^= 1 << chance.below(8),
                2 => damaged[chance.index(whole.len())] ^= 1 << chance.below(8),
                _ => {
                    let at = chance.index(whole.len() - 600);
                    damaged[at..at + 600].fill(chance.below(256) as u8);
                }
            }
            if damaged == whole {
                continue;
            }
            disk.remove(&path).expect("remove");
            let file: Box<dyn DiskFile> = disk.open(&path, Access::CreateNew).expect("open");
            file.write_at(&damaged, 0).expect("write");
            let Ok(block) = Block::open(&disk, &path) else {
                found += 1;
                continue;
            };
            assert!(block.verify(&|| false).is_err(), "damage {number}: every byte is checked");
            harmless += 1;
            let index = VectorIndex::new(DIMENSIONS as u32, Some(Arc::new(block))).expect("dimensions");
            let nearest = index
                .search(&memories[3].1, &Scope::All, 10, Effort::Normal, &mut Limits::NONE.clone())
                .expect("fits");
            assert_eq!(nearest.memories.len(), 10);
            assert!(nearest.memories.iter().all(|(key, cosine)| key.0 <= MEMORIES && cosine.abs() <= 1.0));
        }
        assert!(found > 400 && harmless > 100, "{found} found, {harmless} in codes and halves");
    }
}
