//! The vector index of a store: where it comes from, and how its blocks are made, replaced and watched.
//!
//! A block holds the vectors up to a sequence; what the log says after it is taken from the log, so a restart loses
//! nothing and reads little. The log stays the truth: a block that is lost, damaged or of another history is made anew.

mod load;
mod make;
mod text;
mod watch;

use std::sync::atomic::AtomicBool;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

pub(super) use load::VectorReader;
pub(super) use watch::spawn_indexer;

use super::{Engine, Inner, Progress, lock};
use crate::error::Result;
use crate::format::op::ModelNumber;
use crate::index::{Block, VectorIndex};

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
    /// As [`Self::Block`], of texts.
    TextBlock,
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
    /// Why the last text block could not be made, and when.
    text_failed: Option<(Instant, String)>,
    /// A text block was damaged, and there is no other one yet.
    text_damaged: bool,
    /// Whether the present graph is to be made anew.
    remake: bool,
    /// It was: vectors that no builder's graph serves well must not keep a core busy for ever.
    is_remade: bool,
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
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, bincode::Encode, bincode::Decode)]
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

/// Figures of the text index.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct TextStats {
    /// Memories in the text block.
    pub texts: u64,
    /// Counts up with every block.
    pub generation: u64,
    /// Bytes of the block.
    pub bytes: u64,
    /// Memories whose words are in memory only, until the next block.
    pub live: u64,
    /// Memories of the block that count no more.
    pub gone: u64,
    /// Why the last block could not be made.
    pub problem: Option<String>,
}

impl Engine {
    /// Makes an index block and a text block of everything that none has yet, or with `full` of everything from
    /// nothing, and returns when it is in use.
    pub(crate) fn build_index(&self, full: bool, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<()> {
        let inner = &self.inner;
        inner.check_writable()?;
        let words = inner.make_text_blocks(true, &|| false, &|_, _| {});
        let Some(model) = inner.models.active() else { return words };
        let progress = Mutex::new(progress);
        let tell = |done, total| {
            if let Ok(mut progress) = progress.try_lock() {
                progress(Progress::new(done, total));
            }
        };
        let due = if full { Due::Full } else { Due::Asked };
        inner.make_blocks(&model, due, &|| false, &tell).and(words)
    }
}

impl Inner {
    /// Whether a block was damaged and there is no other one yet.
    pub(super) fn index_is_damaged(&self) -> bool {
        let state = lock(&self.indexing.state);
        state.damaged || state.text_damaged
    }

    /// Figures of the text index. Where no question has loaded it, those of the file that would be.
    pub(super) fn text_stats(&self) -> Result<TextStats> {
        let mut stats = TextStats::default();
        let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
        let loaded = search.words().map(|index| (index.generation(), index.live_count(), index.gone_count()));
        drop(search);
        if let Some((_, live, gone)) = loaded {
            (stats.live, stats.gone) = (live as u64, gone);
        }
        if loaded.is_none_or(|(generation, ..)| generation > 0)
            && let Some(block) = self.find_text_block(&*self.catalog()?)?
        {
            stats.texts = block.sums().texts;
            stats.generation = block.header().origin.generation;
            stats.bytes = block.len();
        }
        stats.problem = lock(&self.indexing.state).text_failed.as_ref().map(|(_, problem)| problem.clone());
        Ok(stats)
    }

    /// Figures of the vector index. Where no question has loaded it, those of the file that would be.
    pub(super) fn index_stats(&self) -> Result<IndexStats> {
        let mut stats = IndexStats::default();
        let mut describe = |block: &Block| {
            stats.rows = block.row_count().into();
            stats.graph = block.graph().is_some();
            stats.generation = block.header().origin.generation;
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
}

impl Watch {
    fn recall(&self) -> Option<f64> {
        (self.expected > 0).then(|| self.found as f64 / self.expected as f64)
    }
}
