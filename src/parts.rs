//! Doors to single parts of the library, for `benches/` and `fuzz/` only: no part of the public API, and free to
//! change.

pub(crate) mod chance;
pub mod crash;
pub(crate) mod disk;
pub mod fuzz;
pub mod index;

use std::path::Path;
use std::sync::Arc;

use crate::embed::cache::QueryCache;
use crate::embed::{self, Embedder};
use crate::error::Result;
use crate::format::op::MemoryKey;
use crate::index::VectorIndex;
use crate::memory::{Effort, Memory, MemoryId};
use crate::scope::{Deadline, Scope};
use crate::text::TextIndex;
use crate::vector::{Kernel, Lane, Limits, lanes};

/// Keys with scores.
pub type Scores = Vec<(u64, f32)>;

/// The words of numbered texts.
#[derive(Default)]
pub struct Words(TextIndex);

impl Words {
    /// Adds a text.
    pub fn insert(&mut self, key: u64, text: &str) {
        self.0.insert(MemoryKey(key), &note(text));
    }

    /// BM25 of the `k` best texts that share a word with the query, in no order.
    #[must_use]
    pub fn search(&self, query: &str, k: usize) -> Scores {
        let scores = self.0.score(query, Deadline::NEVER);
        let best = scores.best(k, &Scope::All);
        best.into_iter().map(|doc| (self.0.key_of(doc).0, scores.of(doc))).collect()
    }
}

/// A memory of which only the text matters.
pub(crate) fn note(text: &str) -> Memory {
    Memory::new(MemoryId::new("note").expect("an id"), text, 0)
}

/// Numbered vectors in memory, as a store has those that no index block has yet.
pub struct Vectors(VectorIndex);

impl Vectors {
    /// A set for vectors of this many dimensions.
    ///
    /// # Errors
    /// For dimensions out of range.
    pub fn new(dimensions: u32) -> Result<Self> {
        VectorIndex::new(dimensions, None).map(Self)
    }

    /// Adds the vectors of one number.
    ///
    /// # Errors
    /// For values of other dimensions.
    pub fn insert(&mut self, key: u64, values: &[f32]) -> Result<()> {
        self.0.insert(MemoryKey(key), values)
    }

    /// The nearest `k`.
    ///
    /// # Errors
    /// For a query of other dimensions.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Scores> {
        let mut limits = Limits::NONE;
        let nearest = self.0.search(query, &Scope::All, k, Effort::Normal, &mut limits)?;
        Ok(numbered(nearest.memories))
    }
}

/// The vectors of queries under the built-in model, as a store caches them.
pub struct QueryVectors {
    cache: QueryCache,
    embedder: &'static dyn Embedder,
}

impl QueryVectors {
    /// A cache in memory, and in a file when there is a path.
    ///
    /// # Errors
    /// When the built-in model is damaged.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        Ok(Self { cache: QueryCache::open(path, 1024), embedder: embed::builtin()? })
    }

    /// The vector of a query, from the cache or made and cached.
    ///
    /// # Errors
    /// When the model fails.
    pub fn get(&self, query: &str) -> Result<Arc<[f32]>> {
        let identity = self.embedder.identity();
        if let Some(vector) = self.cache.get(identity, query) {
            return Ok(vector);
        }
        let vector: Arc<[f32]> = self.embedder.embed_query(query)?.into();
        self.cache.put(identity, query, &vector);
        Ok(vector)
    }
}

/// The instruction sets that this processor has a kernel for, the fastest first.
#[must_use]
pub fn kernel_names() -> Vec<&'static str> {
    Kernel::available().into_iter().map(Kernel::name).collect()
}

/// Rows for one kernel to be measured on.
pub struct Rows {
    query: Vec<Lane>,
    rows: Vec<Lane>,
    dots: Vec<f32>,
}

impl Rows {
    /// Rows of as many dimensions as the query has.
    #[must_use]
    pub fn new(query: &[f32], rows: &[f32]) -> Self {
        Self {
            query: lanes(query).collect(),
            rows: rows.chunks(query.len()).flat_map(lanes).collect(),
            dots: vec![0.0; rows.len() / query.len()],
        }
    }

    /// The dot products of the query with all rows, by the kernel at this place of [`kernel_names`].
    pub fn dots(&mut self, kernel: usize) -> &[f32] {
        Kernel::available()[kernel].dots(&self.query, &self.rows, &mut self.dots);
        &self.dots
    }
}

fn numbered(scores: Vec<(MemoryKey, f32)>) -> Scores {
    scores.into_iter().map(|(key, score)| (key.0, score)).collect()
}
