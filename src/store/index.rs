//! The vector index of a store: where it comes from, and how its blocks are made, replaced and watched.
//!
//! A block holds the vectors up to a sequence; what the log says after it is taken from the log, so a restart loses
//! nothing and reads little. The log stays the truth: a block that is lost, damaged or of another history is made anew.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::models::Numbered;
use super::search::{LOAD_ROWS, Loading};
use super::{Inner, Layout, Progress, Store, apply, lock};
use crate::catalog::{Catalog, Position, View};
use crate::error::{Error, ErrorKind, Result};
use crate::format::block::BlockPosition;
use crate::format::manifest::TailV1;
use crate::format::op::{MemoryKey, ModelNumber, Op, OpKind, Vectors};
use crate::format::record::Location;
use crate::format::segment::SEGMENT_HEADER_LEN;
use crate::fs::DiskFile;
use crate::index::{
    Block, EXACT_ROWS_MAX, LIVE_MAX, Origin, RowWriter, VectorIndex, list_blocks, remove_if_there,
};
use crate::log::{self, Place, ScanEnd, Scanner, Segment, SegmentMap};
use crate::memory::Effort;
use crate::scope::{Deadline, Scope};
use crate::vector::{Control, Former, GraphBuilder, HnswRs, Limits, Linker, NONE};

/// After a block could not be made, the next one is tried after this long.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Whoever waits for a block looks at the clock this often.
const WAIT_INTERVAL: Duration = Duration::from_millis(20);
/// A block is verified when nothing was to do for so long: not by a program that answers one question and ends.
const VERIFY_DELAY: Duration = Duration::from_secs(20);
/// One in so many walks through a graph is done once more by a scan.
const WATCH_EVERY: u64 = 64;
/// Queries that wait for that.
const WATCH_QUEUE: usize = 8;
/// Nearest memories that are compared.
const WATCH_K: usize = 10;
/// With so many comparisons the measured recall counts, ...
const WATCH_MIN: u64 = 32;
/// ... and below this the graph is made anew.
const RECALL_MIN: f64 = 0.95;

/// The vectors of the store's model.
pub(super) struct ModelVectors {
    pub(super) model: ModelNumber,
    pub(super) index: VectorIndex,
    /// Memories whose vectors the view names but the log does not give.
    pub(super) unread: u64,
}

/// What makes the graph over the vectors of a large store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IndexBuilder {
    /// Our own, which goes on from the former graph.
    #[default]
    Linker,
    /// The `hnsw_rs` crate, which makes each graph anew and takes several times as long. A graph by the other one that
    /// turns out to find too little is made once more by this one.
    HnswRs,
}

/// When a block is made, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// If too much is in memory only.
    Perhaps,
    /// If anything is in memory only.
    Asked,
    /// In any case, and nothing is taken from the present one.
    Full,
}

/// What came of an attempt to load vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// They are there.
    Loaded,
    /// There are too many for memory: a block has to be made first, and is.
    Block,
}

/// Blocks that are being made, and what is known of the present one.
#[derive(Default)]
pub(super) struct Indexing {
    state: Mutex<State>,
    /// Whoever waits for a block is told.
    changed: Condvar,
    /// Held while a block is made. Whoever wants more locks takes this one first.
    making: Mutex<()>,
    /// Whoever makes a block is to stop.
    cancel: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Counts up when the indexing thread has done what it was asked for, or could not.
    attempts: u64,
    /// How far the block is that is being made.
    progress: Option<Progress>,
    /// Why the last attempt failed, and when.
    failed: Option<(Instant, String)>,
    /// A block was damaged, and there is no other one yet.
    damaged: bool,
    /// Whether the present graph is to be made anew.
    remake: bool,
    watch: Watch,
}

/// How many of the nearest memories walks find, measured by scans.
#[derive(Default)]
struct Watch {
    walks: u64,
    queue: Vec<Vec<f32>>,
    compared: u64,
    expected: u64,
    found: u64,
}

/// Figures of the vector index.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct IndexStats {
    /// Vectors in the index block.
    pub rows: u64,
    /// Whether it has a graph; otherwise it is scanned.
    pub graph: bool,
    /// Counts up with every block.
    pub generation: u64,
    /// Bytes of the block.
    pub bytes: u64,
    /// Memories whose vectors are in memory only, until the next block.
    pub live: u64,
    /// Vectors of the block that count no more.
    pub gone: u64,
    /// How far the block is that is being made.
    pub making: Option<Progress>,
    /// Why the last block could not be made.
    pub problem: Option<String>,
    /// How many of the ten nearest memories walks through the graph found, of those that a scan finds; measured on one
    /// in 64 recalls of this process. `None` before the first.
    pub recall_at_10: Option<f64>,
    /// Recalls that were measured.
    pub recall_samples: u64,
}

impl Store {
    /// Makes an index block of everything that none has yet, or with `full` of everything from nothing, and returns when
    /// it is in use. Happens by itself behind the calls; after a large import this says when it is done. A crash or a
    /// stop in between costs only the work.
    ///
    /// # Errors
    /// As [`Store::remember`]; without a model there is nothing to do.
    pub fn build_index(&self, full: bool, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<()> {
        let inner = &self.inner;
        inner.check_writable()?;
        let Some(model) = inner.models.active() else { return Ok(()) };
        let progress = Mutex::new(progress);
        let tell = |done, total| {
            if let Ok(mut progress) = progress.try_lock() {
                progress(Progress::new(done, total));
            }
        };
        let due = if full { Due::Full } else { Due::Asked };
        inner.make_blocks(&model, due, &|| false, &tell)
    }
}

impl Inner {
    /// Loads the vectors of a model: those of a block with what the log says after it, or all of them.
    pub(super) fn load_vectors(
        &self,
        vectors: &mut Loading<ModelVectors>,
        model: &Numbered,
        catalog: &Catalog,
        deadline: Deadline,
    ) -> Result<Found> {
        let (number, identity) = model;
        if vectors.index.as_ref().is_some_and(|vectors| vectors.model != *number) {
            *vectors = Loading::default();
        }
        if vectors.is_complete() {
            return Ok(Found::Loaded);
        }
        if vectors.index.is_none() {
            if let Some(block) = self.find_block(model, catalog)? {
                match self.with_block(block, model, catalog) {
                    Ok(loaded) => {
                        *vectors = Loading::complete(loaded);
                        self.wake_indexer();
                        return Ok(Found::Loaded);
                    }
                    // The log is damaged where it goes on from the block. What the view names is read one by one.
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        tracing::error!(%error, "the log behind the index block cannot be read");
                    }
                    Err(error) => return Err(error),
                }
            }
            if catalog.view().count_with_vectors(*number)? > LIVE_MAX as u64 && self.can_make_blocks() {
                return Ok(Found::Block);
            }
            let index = VectorIndex::new(identity.dimensions, None)?;
            vectors.index = Some(ModelVectors { model: *number, index, unread: 0 });
        }
        vectors.load_all(catalog, self.log.segments(), &self.place, deadline)?;
        self.wake_indexer();
        Ok(Found::Loaded)
    }

    /// Whether a thread makes blocks here, and has no trouble with it.
    fn can_make_blocks(&self) -> bool {
        let has_failed = lock(&self.indexing.state).failed.is_some();
        self.follow && !self.read_only && !has_failed
    }

    /// Waits until the indexing thread has tried to make the block that is to be loaded.
    pub(super) fn wait_for_block(&self, deadline: Deadline) -> Result<()> {
        let before = lock(&self.indexing.state).attempts;
        self.wake_indexer_for(true);
        let mut state = lock(&self.indexing.state);
        while state.attempts == before {
            let Progress { done, total } = state.progress.unwrap_or(Progress::new(0, 0));
            deadline.check(format_args!("the vector index is being made: {done} of {total}"))?;
            if self.is_stopping() {
                return Err(Error::new(ErrorKind::Timeout, "the store is being closed"));
            }
            state = self
                .indexing
                .changed
                .wait_timeout(state, WAIT_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }

    /// The newest block of this model that can be used. Damaged ones are removed: they are made anew.
    fn find_block(&self, model: &Numbered, catalog: &Catalog) -> Result<Option<Arc<Block>>> {
        let disk = &*self.place.disk;
        for (_, path) in list_blocks(disk, &self.index_folder())? {
            match Block::open(disk, &path) {
                Ok(block) if self.is_ours(&block, model, catalog)? => return Ok(Some(Arc::new(block))),
                Ok(_) => tracing::debug!("an index block belongs to another model, store or history"),
                Err(error) if error.kind() == ErrorKind::Corrupt => self.discard_block(&path, &error)?,
                Err(error) => tracing::warn!(%error, "an index block cannot be used"),
            }
        }
        Ok(None)
    }

    /// Whether a block holds what this store's log said, for this model.
    fn is_ours(&self, block: &Block, (number, identity): &Numbered, catalog: &Catalog) -> Result<bool> {
        let header = block.header();
        let op = Op::Model { number: *number, identity: (**identity).clone() };
        if header.store_id != self.store_id
            || header.model != *number
            || header.model_sha256 != model_sha256(&op)
            || header.shape.dimensions != identity.dimensions
            || header.position.last_seq > catalog.applied_seq()
        {
            return Ok(false);
        }
        log::is_in_history(&self.place, &self.log.segments().all(), position_of(header.position))
    }

    fn discard_block(&self, path: &Path, error: &Error) -> Result<()> {
        tracing::error!(%error, "an index block is damaged and is made anew");
        lock(&self.indexing.state).damaged = true;
        if self.read_only { Ok(()) } else { remove_if_there(&*self.place.disk, path) }
    }

    /// A block with what the log says after it.
    fn with_block(&self, block: Arc<Block>, model: &Numbered, catalog: &Catalog) -> Result<ModelVectors> {
        let (number, identity) = model;
        let (from, unread) = (block.header().position, block.header().unread);
        let index = VectorIndex::new(identity.dimensions, Some(block))?;
        let mut vectors = ModelVectors { model: *number, index, unread: unread.into() };
        let view = catalog.view();
        let segments = self.log.segments();
        let changed = changed_since(&self.place, &segments.all(), from, view.position().tail.last_seq)?;
        if vectors
            .index
            .block()
            .is_some_and(|(block, _)| block.header().log_generation < segments.newest_generation())
        {
            let mut keys = Vec::new();
            view.for_each_vector(*number, MemoryKey(0), |key, _| {
                keys.push(key);
                ControlFlow::Continue(())
            })?;
            vectors.index.retain(keys.into_iter());
        }
        let mut reader = VectorReader { segments, place: &self.place, open: None };
        for key in changed {
            vectors.index.remove(key);
            if let Some(location) = view.vector_location(key, *number)? {
                vectors.take(key, reader.read(location))?;
            }
        }
        Ok(vectors)
    }

    fn index_folder(&self) -> PathBuf {
        Layout::of(&self.home).index
    }

    /// As long as this is held, no block is made; one that is being made is given up.
    pub(super) fn no_index_is_made(&self) -> MutexGuard<'_, ()> {
        self.indexing.cancel.store(true, Ordering::SeqCst);
        let making = lock(&self.indexing.making);
        self.indexing.cancel.store(false, Ordering::SeqCst);
        making
    }

    /// Removes all blocks: they hold what must not be kept. The caller sees to it that none is made.
    pub(super) fn drop_blocks(&self) -> Result<()> {
        let folder = self.index_folder();
        self.remove_blocks_but(None)?;
        if self.place.disk.kind(&folder)?.is_some() { self.place.disk.sync_folder(&folder) } else { Ok(()) }
    }

    fn remove_blocks_but(&self, kept: Option<&Path>) -> Result<()> {
        let disk = &*self.place.disk;
        for (_, path) in list_blocks(disk, &self.index_folder())? {
            if kept != Some(path.as_path()) {
                remove_if_there(disk, &path)?;
            }
        }
        Ok(())
    }

    /// Makes a block if one is due or asked for, and a graph over it when it is large enough for one.
    fn make_blocks(
        &self,
        model: &Numbered,
        due: Due,
        stop: &(dyn Fn() -> bool + Sync),
        tell: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<()> {
        let _making = lock(&self.indexing.making);
        let made = self.make_due_blocks(model, due, stop, tell);
        let mut state = lock(&self.indexing.state);
        state.progress = None;
        state.failed = match &made {
            Ok(()) => None,
            Err(error) => Some((Instant::now(), error.message().to_owned())),
        };
        made
    }

    fn make_due_blocks(
        &self,
        model: &Numbered,
        mut due: Due,
        stop: &(dyn Fn() -> bool + Sync),
        tell: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<()> {
        let stop = || stop() || self.indexing.cancel.load(Ordering::SeqCst);
        if due != Due::Perhaps {
            self.load_block(model)?;
        }
        // First what can be scanned, which takes seconds, then the graph, which may take minutes.
        for _ in 0..2 {
            let is_due = {
                let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
                let loaded = search.vectors.index.as_ref();
                match loaded.filter(|loaded| search.vectors.is_complete() && loaded.model == model.0) {
                    Some(loaded) => {
                        loaded.index.is_due() || (due == Due::Asked && !loaded.index.is_all_in_block())
                    }
                    None => due == Due::Asked,
                }
            };
            let (damaged, remake) = {
                let state = lock(&self.indexing.state);
                (state.damaged, state.remake)
            };
            if stop() || !(due == Due::Full || damaged || remake || is_due) {
                return Ok(());
            }
            let progress = |done, total| {
                lock(&self.indexing.state).progress = Some(Progress::new(done, total));
                tell(done, total);
            };
            progress(0, 0);
            self.make_block(model, due == Due::Full, remake, &stop, &progress)?;
            due = Due::Perhaps;
        }
        Ok(())
    }

    /// Searches the newest block, if no vectors of this model are loaded yet: what is made next builds on it.
    fn load_block(&self, model: &Numbered) -> Result<()> {
        let mut applying = self.applying();
        let catalog = self.apply_committed(&mut applying)?;
        let mut search = self.search.write().unwrap_or_else(PoisonError::into_inner);
        let is_loaded = search.vectors.is_complete()
            && search.vectors.index.as_ref().is_some_and(|vectors| vectors.model == model.0);
        if !is_loaded && let Some(block) = self.find_block(model, &catalog)? {
            search.vectors = Loading::complete(self.with_block(block, model, &catalog)?);
        }
        Ok(())
    }

    /// Makes one block of what the view names, and searches it from there on.
    fn make_block(
        &self,
        model: &Numbered,
        full: bool,
        remake: bool,
        stop: &(dyn Fn() -> bool + Sync),
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<()> {
        let (number, identity) = model;
        let disk = &*self.place.disk;
        let folder = self.index_folder();
        crate::fs::create_folders(disk, &folder)?;
        disk.check_folder(&folder)?;
        // As long as records are read where the view says, none is moved.
        let standing = lock(&self.rewriting);
        let mut applying = self.applying();
        let catalog = self.apply_committed(&mut applying)?;
        let view = catalog.view();
        let former = if full { None } else { self.present_block(*number) };
        drop(applying);

        let mut writer = RowWriter::new(disk, &folder, identity.dimensions)?;
        let Some(kept) = self.write_rows(&mut writer, &view, model, former.as_ref(), stop, progress)? else {
            return Ok(());
        };
        let position = block_position(view.position());
        let log_generation = self.log.segments().newest_generation();
        drop((view, standing));
        let rows = writer.finish()?;

        let count = u32::try_from(rows.keys().len()).expect("the rows of a block are limited");
        // What was never searched before is first put where it can be scanned.
        let wants_graph = count > EXACT_ROWS_MAX && former.is_some();
        let graph = if wants_graph {
            let gone = kept.iter().filter(|row| **row == NONE).count();
            let is_worth_extending = !remake && gone * 4 <= kept.len();
            let block = former.as_ref().map(|(block, _)| block);
            let extended = block
                .filter(|_| is_worth_extending)
                .and_then(|block| block.graph())
                .map(|graph| Former { graph, rows: &kept });
            let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() - 1).max(1));
            let control = Control { stop, progress, threads };
            // A graph that finds too little is made once more in another way.
            let builder: &dyn GraphBuilder = match (self.index_builder, remake) {
                (IndexBuilder::Linker, false) | (IndexBuilder::HnswRs, true) => &Linker::default(),
                (IndexBuilder::HnswRs, false) | (IndexBuilder::Linker, true) => &HnswRs::default(),
            };
            tracing::info!(rows = count, builder = builder.name(), "making a graph");
            match builder.build(rows.rows(), extended, &control)? {
                Some(graph) => Some(graph),
                None => return Ok(()),
            }
        } else {
            None
        };
        let newest = list_blocks(disk, &folder)?.first().map_or(0, |(generation, _)| *generation);
        let op = Op::Model { number: *number, identity: (**identity).clone() };
        let origin = Origin {
            store_id: self.store_id,
            generation: newest + 1,
            position,
            log_generation,
            model: *number,
            model_sha256: model_sha256(&op),
            dimensions: identity.dimensions,
        };
        let path = rows.publish(&origin, graph.as_ref())?;
        drop(former);
        let block = Arc::new(Block::open(disk, &path)?);
        self.switch_to(block, model)?;
        self.remove_blocks_but(Some(&path))?;
        tracing::info!(
            rows = count,
            graph = wants_graph,
            generation = origin.generation,
            "made an index block"
        );
        Ok(())
    }

    /// The block that is searched now, with its rows that count no more.
    fn present_block(&self, number: ModelNumber) -> Option<(Arc<Block>, roaring::RoaringBitmap)> {
        let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
        let vectors = search.vectors.index.as_ref().filter(|vectors| vectors.model == number)?;
        let (block, gone) = vectors.index.block()?;
        search.vectors.is_complete().then(|| (Arc::clone(block), gone.clone()))
    }

    /// Writes the vectors that the view names, in order of keys, and says which row each row of the former block has
    /// become; `None` when it was told to stop.
    fn write_rows(
        &self,
        writer: &mut RowWriter<'_>,
        view: &View<'_>,
        (number, identity): &Numbered,
        former: Option<&(Arc<Block>, roaring::RoaringBitmap)>,
        stop: &(dyn Fn() -> bool + Sync),
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Option<Vec<u32>>> {
        let total = view.count_with_vectors(*number)?;
        let mut kept = vec![NONE; former.map_or(0, |(block, _)| block.row_count() as usize)];
        let mut reader = VectorReader { segments: self.log.segments(), place: &self.place, open: None };
        let (mut done, mut result) = (0, Ok(true));
        view.for_each_vector(*number, MemoryKey(0), |key, location| {
            if done % LOAD_ROWS as u64 == 0 {
                progress(done, total);
                if stop() {
                    result = Ok(false);
                    return ControlFlow::Break(());
                }
            }
            done += 1;
            let written = (|| {
                if let Some((block, gone)) = former {
                    let rows = block.rows_of(key);
                    if !rows.is_empty() && rows.clone().all(|row| !gone.contains(row)) {
                        for (row, new) in rows.clone().zip(writer.len()..) {
                            kept[row as usize] = new;
                        }
                        return writer.copy(key, block.rows(), rows);
                    }
                }
                match reader.read(location) {
                    Ok(vectors) if vectors.model == *number && vectors.dimensions == identity.dimensions => {
                        writer.push(key, &vectors.values, vectors.dimensions as usize)
                    }
                    Ok(_) => {
                        writer.skip();
                        Ok(())
                    }
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        tracing::error!(%error, key = key.0, "a vector cannot be read");
                        writer.skip();
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            })();
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    result = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        progress(done, total);
        Ok(result?.then_some(kept))
    }

    /// Searches this block from here on.
    fn switch_to(&self, block: Arc<Block>, model: &Numbered) -> Result<()> {
        let mut applying = self.applying();
        let catalog = self.apply_committed(&mut applying)?;
        let mut search = self.search.write().unwrap_or_else(PoisonError::into_inner);
        search.vectors = Loading::complete(self.with_block(block, model, &catalog)?);
        drop((search, applying));
        let mut state = lock(&self.indexing.state);
        state.damaged = false;
        state.remake = false;
        state.watch = Watch::default();
        state.attempts += 1;
        drop(state);
        self.indexing.changed.notify_all();
        Ok(())
    }

    /// Tells the indexing thread that a block may be due.
    pub(super) fn wake_indexer(&self) {
        self.wake_indexer_for(false);
    }

    fn wake_indexer_for(&self, asked: bool) {
        let mut state = lock(&self.background.state);
        let was_told = state.index && (state.index_asked || !asked);
        state.index = true;
        state.index_asked |= asked;
        drop(state);
        if !was_told {
            self.background.wake.notify_all();
        }
    }

    fn index_until_stopped(&self) {
        let mut asked = false;
        let mut verified = 0;
        while !self.is_stopping() {
            let is_resting = lock(&self.indexing.state)
                .failed
                .as_ref()
                .is_some_and(|(when, _)| when.elapsed() < RETRY_INTERVAL);
            if !is_resting && let Some(model) = self.models.active() {
                let due = if asked { Due::Asked } else { Due::Perhaps };
                let stop =
                    || self.is_stopping() || self.models.active().is_none_or(|(number, _)| number != model.0);
                if let Err(error) = self.make_blocks(&model, due, &stop, &|_, _| {}) {
                    tracing::error!(%error, "the vector index could not be made");
                }
                self.measure_recall();
            }
            if asked {
                lock(&self.indexing.state).attempts += 1;
                self.indexing.changed.notify_all();
            }
            let mut state = lock(&self.background.state);
            let mut is_verified = false;
            while !state.index && !self.is_stopping() {
                if is_verified {
                    state = self.background.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let waited = self.background.wake.wait_timeout(state, VERIFY_DELAY);
                let (next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = next;
                if timeout.timed_out() && !state.index {
                    drop(state);
                    self.verify_block(&mut verified);
                    is_verified = true;
                    state = lock(&self.background.state);
                }
            }
            state.index = false;
            asked = std::mem::take(&mut state.index_asked);
        }
    }

    /// Reads every byte of the block that is searched, once for each block. A damaged one is given up.
    fn verify_block(&self, verified: &mut u64) {
        let Some((number, _)) = self.models.active() else { return };
        let Some((block, _)) = self.present_block(number) else { return };
        let generation = block.header().generation;
        if *verified == generation {
            return;
        }
        match block.verify(&|| self.is_stopping()) {
            Ok(()) => *verified = generation,
            Err(error) => {
                let mut search = self.search.write().unwrap_or_else(PoisonError::into_inner);
                search.vectors = Loading::default();
                drop(search);
                if let Err(error) = self.discard_block(block.path(), &error) {
                    tracing::error!(%error, "a damaged index block stays where it is");
                }
            }
        }
    }

    /// Notes a walk through the graph; some are compared with a scan, behind the calls.
    pub(super) fn watch_walk(&self, query: &[f32]) {
        let mut state = lock(&self.indexing.state);
        state.watch.walks += 1;
        if state.watch.walks % WATCH_EVERY != 1 || state.watch.queue.len() >= WATCH_QUEUE {
            return;
        }
        state.watch.queue.push(query.to_vec());
        drop(state);
        self.wake_indexer();
    }

    fn measure_recall(&self) {
        loop {
            let Some(query) = lock(&self.indexing.state).watch.queue.pop() else { return };
            let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
            let Some(vectors) = &search.vectors.index else { return };
            let nearest = |effort| {
                vectors.index.search(&query, &Scope::All, WATCH_K, effort, &mut Limits::NONE.clone())
            };
            let (Ok(exact), Ok(walked)) = (nearest(Effort::Exact), nearest(Effort::Normal)) else { return };
            drop(search);
            // By their cosines: of equally near memories it does not matter which are found.
            let Some((_, least)) = exact.memories.last().copied() else { return };
            let found = walked.memories.iter().filter(|(_, cosine)| *cosine >= least).count();
            let mut state = lock(&self.indexing.state);
            let watch = &mut state.watch;
            watch.compared += 1;
            watch.expected += exact.memories.len() as u64;
            watch.found += found.min(exact.memories.len()) as u64;
            if watch.compared >= WATCH_MIN && watch.recall().is_some_and(|recall| recall < RECALL_MIN) {
                tracing::warn!(recall = watch.recall(), "the graph finds too little and is made anew");
                state.remake = true;
                state.watch = Watch::default();
            }
        }
    }

    /// Whether a block was damaged and there is no other one yet.
    pub(super) fn index_is_damaged(&self) -> bool {
        lock(&self.indexing.state).damaged
    }

    /// Figures of the vector index. Where no question has loaded it, those of the file that would be.
    pub(super) fn index_stats(&self) -> Result<IndexStats> {
        let mut stats = IndexStats::default();
        let mut describe = |block: &Block| {
            stats.rows = block.row_count().into();
            stats.graph = block.graph().is_some();
            stats.generation = block.header().generation;
            stats.bytes = block.len();
        };
        let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(vectors) = &search.vectors.index {
            if let Some((block, gone)) = vectors.index.block() {
                describe(block);
                stats.gone = gone.len();
            }
            stats.live = vectors.index.live_count() as u64;
        } else if let Some(model) = self.models.active()
            && let Some(block) = self.find_block(&model, &*self.catalog()?)?
        {
            describe(&block);
        }
        drop(search);
        let state = lock(&self.indexing.state);
        stats.making = state.progress;
        stats.problem = state.failed.as_ref().map(|(_, problem)| problem.clone());
        stats.recall_at_10 = state.watch.recall();
        stats.recall_samples = state.watch.compared;
        Ok(stats)
    }

    /// Before the store is closed: what the next process would have to read one by one goes into a block, if that is
    /// quickly done.
    pub(super) fn index_at_close(&self) -> Result<()> {
        let Some(model) = self.models.active().filter(|_| !self.read_only && self.follow) else {
            return Ok(());
        };
        let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
        let is_quick = search.vectors.is_complete()
            && search.vectors.index.as_ref().is_some_and(|vectors| {
                let rows = vectors.index.block().map_or(0, |(block, _)| block.row_count());
                rows as usize + vectors.index.live_count() <= EXACT_ROWS_MAX as usize
            });
        drop(search);
        if is_quick { self.make_blocks(&model, Due::Perhaps, &|| false, &|_, _| {}) } else { Ok(()) }
    }
}

impl Watch {
    fn recall(&self) -> Option<f64> {
        (self.expected > 0).then(|| self.found as f64 / self.expected as f64)
    }
}

impl ModelVectors {
    /// Takes what was read of a memory's vectors.
    fn take(&mut self, key: MemoryKey, read: Result<Vectors>) -> Result<()> {
        match read {
            Ok(vectors)
                if vectors.model == self.model && vectors.dimensions as usize == self.index.dimensions() =>
            {
                self.index.insert(key, &vectors.values)
            }
            Ok(_) => {
                self.unread += 1;
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, key = key.0, "a vector cannot be read");
                self.unread += 1;
                Ok(())
            }
        }
    }
}

impl Loading<ModelVectors> {
    /// Goes on loading all vectors into memory; when the time is over, the next call goes on from there.
    fn load_all(
        &mut self,
        catalog: &Catalog,
        segments: &SegmentMap,
        place: &Place,
        deadline: Deadline,
    ) -> Result<()> {
        let vectors = self.index.as_mut().expect("the caller has made it");
        let view = catalog.view();
        let total = view.count_with_vectors(vectors.model)?;
        let mut reader = VectorReader { segments, place, open: None };
        let mut from = self.next.unwrap_or(MemoryKey(0));
        loop {
            self.next = Some(from);
            let loaded = vectors.index.live_count();
            deadline.check(format_args!("loading the vectors of {loaded} of {total} memories"))?;
            let mut located = Vec::with_capacity(LOAD_ROWS);
            view.for_each_vector(vectors.model, from, |key, location| {
                located.push((key, location));
                if located.len() < LOAD_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            for (key, location) in &located {
                vectors.take(*key, reader.read(*location))?;
            }
            match located.last() {
                Some((key, _)) if located.len() == LOAD_ROWS => from = MemoryKey(key.0 + 1),
                _ => break,
            }
        }
        self.next = None;
        Ok(())
    }
}

/// Starts the thread that makes index blocks behind the calls.
pub(super) fn spawn_indexer(inner: &Arc<Inner>) -> Result<()> {
    apply::spawn(inner, "memento-index", Inner::index_until_stopped)
}

/// The memories that records behind this place are about, up to a sequence.
///
/// What compaction has left out is of memories that are gone, or have a later record.
fn changed_since(
    place: &Place,
    segments: &[Segment],
    from: BlockPosition,
    last_seq: u64,
) -> Result<BTreeSet<MemoryKey>> {
    let mut changed = BTreeSet::new();
    let Some(first) = segments.iter().rposition(|segment| segment.header.base_seq <= from.last_seq + 1)
    else {
        let what = format!("the segment with record {} is missing", from.last_seq + 1);
        return Err(Error::new(ErrorKind::Corrupt, what).at(&place.segments));
    };
    for segment in &segments[first..] {
        if from.last_seq >= last_seq || segment.header.base_seq > last_seq {
            break;
        }
        let file = log::open_segment(place, segment)?;
        // The record before the place is read once more: it is where the next one begins.
        let is_known = segment.header.epoch == from.epoch && from.last_offset < segment.len;
        let start = if is_known {
            from.last_offset.max(SEGMENT_HEADER_LEN as u64)
        } else {
            SEGMENT_HEADER_LEN as u64
        };
        let mut scanner = Scanner::new(&*file, segment.header.epoch, start)?;
        loop {
            let offset = scanner.offset();
            match scanner.next()? {
                Ok((record, ..)) if record.kind == OpKind::Seal || record.seq > last_seq => break,
                Ok((record, ..)) if record.seq <= from.last_seq => {}
                Ok((record, payload, _)) => {
                    let op = Op::decode_payload(record.kind, record.has_vectors, payload)
                        .map_err(|damage| Error::corrupt(&segment.path, offset, damage))?;
                    changed.extend(op.memory_key(record.seq));
                }
                Err(ScanEnd::Damaged(damage)) => return Err(Error::corrupt(&segment.path, offset, damage)),
                Err(ScanEnd::File | ScanEnd::Empty) => break,
            }
        }
    }
    Ok(changed)
}

fn model_sha256(op: &Op) -> [u8; 32] {
    let mut payload = Vec::new();
    op.encode_payload(&mut payload);
    Sha256::digest(&payload).into()
}

fn block_position(position: Position) -> BlockPosition {
    BlockPosition {
        last_seq: position.tail.last_seq,
        segment: position.tail.segment,
        epoch: position.epoch,
        last_offset: position.last_offset,
        last_checksum: position.last_checksum,
    }
}

fn position_of(position: BlockPosition) -> Position {
    let BlockPosition { last_seq, segment, epoch, last_offset, last_checksum } = position;
    let tail = TailV1 { segment, last_seq, ..TailV1::default() };
    Position { epoch, last_offset, last_checksum, tail }
}

/// Reads vectors from records of the log, one open file at a time.
struct VectorReader<'a> {
    segments: &'a SegmentMap,
    place: &'a log::Place,
    open: Option<(u64, u64, Box<dyn DiskFile>)>,
}

impl VectorReader<'_> {
    fn read(&mut self, location: Location) -> Result<Vectors> {
        if self.open.as_ref().is_none_or(|(number, ..)| *number != location.segment) {
            let segment = self.segments.find(location.segment).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, format!("segment {} is missing", location.segment))
                    .at(&self.place.segments)
            })?;
            self.open =
                Some((location.segment, segment.header.epoch, log::open_segment(self.place, &segment)?));
        }
        let (_, epoch, file) = self.open.as_ref().expect("just opened");
        let (_, op) = log::read_record(&**file, *epoch, location)?;
        let vectors = op.vectors().cloned();
        vectors.ok_or_else(|| Error::corrupt(file.path(), location.offset, "the record has no vectors"))
    }
}
