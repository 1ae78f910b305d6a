//! Figures of a store.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Engine, IndexStats, Inner, RestoreKind, RestorePoint, TextStats};
use crate::embed::ModelIdentity;
use crate::error::Result;
use crate::fs::Kind;

/// Figures of a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Stats {
    /// Memories that are there.
    pub memories: u64,
    /// Memories of each collection.
    pub collections: BTreeMap<String, u64>,
    /// Memories with vectors of the store's model.
    pub embedded: u64,
    /// Memories that wait for their vectors.
    pub pending: u64,
    /// The store's model; `None` before the first vector.
    pub model: Option<ModelIdentity>,
    /// Why the store's model cannot be used, when it cannot.
    pub model_problem: Option<String>,
    /// Sequence of the last record.
    pub last_seq: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes of all segments.
    pub segment_bytes: u64,
    /// Bytes of an unfinished, never acknowledged write of a crashed process that this open dropped.
    pub torn_bytes: u64,
    /// Bytes of the view.
    pub view_bytes: u64,
    /// The vector index.
    pub index: IndexStats,
    /// The text index.
    pub words: TextStats,
    /// States before a `memory.db` was taken over that somebody had put in place of the published one, or changed; the
    /// newest first.
    pub taken_over: Vec<RestorePoint>,
    /// Use of the caches in this process.
    pub cache: CacheStats,
}

/// Use of the caches in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct CacheStats {
    /// Whole answers that were served without a search.
    pub answers: u64,
    /// Query vectors that were found in memory.
    pub memory_hits: u64,
    /// Query vectors that were found on disk.
    pub disk_hits: u64,
    /// Query vectors that had to be made.
    pub misses: u64,
}

impl Engine {
    /// Figures of the store and of this process's use of it.
    pub(crate) fn stats(&self) -> Result<Stats> {
        let inner = &self.inner;
        let model = inner.models.active();
        let mut stats = inner.read(|catalog| {
            let view = catalog.view();
            let memories = view.count();
            let embedded = model.as_ref().map_or(Ok(0), |(number, _)| view.count_with_vectors(*number))?;
            Ok(Stats {
                memories,
                collections: view.collections()?.into_iter().collect(),
                embedded,
                pending: memories.saturating_sub(embedded),
                ..Stats::default()
            })
        })?;
        stats.model = model.map(|(_, identity)| ModelIdentity::clone(&identity));
        stats.model_problem = inner.own_embedder().err().map(|error| error.to_string());
        stats.last_seq = inner.log.durable_seq();
        for segment in inner.log.segments().all() {
            stats.segments += 1;
            stats.segment_bytes += inner.file_len(&segment.path)?;
        }
        stats.torn_bytes = inner.torn_bytes;
        stats.view_bytes = inner.file_len(&inner.folder.join("view.redb"))?;
        stats.index = inner.index_stats()?;
        stats.words = inner.text_stats()?;
        stats.taken_over = self.restore_points()?;
        stats.taken_over.retain(|point| point.kind == Some(RestoreKind::ByHand));
        let cache = inner.query_cache.stats();
        stats.cache = CacheStats {
            answers: inner.answer_hits(),
            memory_hits: cache.memory_hits,
            disk_hits: cache.disk_hits,
            misses: cache.misses,
        };
        Ok(stats)
    }
}

impl Inner {
    fn file_len(&self, path: &std::path::Path) -> Result<u64> {
        Ok(match self.place.disk.kind(path)? {
            Some(Kind::File(len)) => len,
            _ => 0,
        })
    }
}
