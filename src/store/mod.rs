//! The public API of the store. THIS FILE IS A STUB with the true signatures: the real one comes at the merge.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::clock::Clock;
use crate::embed::{Embedder, ModelIdentity};
use crate::error::Result;
use crate::memory::{Answer, Forgotten, List, Memory, Recall, Remember, Remembered, Update, Updated};

/// How a store is opened.
#[must_use]
pub struct Options {
    home: PathBuf,
}

impl Options {
    /// The store in this home folder, made when it is not there; the built-in model; waits 5 s for another process.
    pub fn at(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into() }
    }
    /// Whether a store is made when there is none; otherwise that is an error of kind `NotFound`.
    pub fn create(self, _create: bool) -> Self {
        self
    }
    /// How long to wait for another process to let go of the store.
    pub fn lock_wait(self, _wait: Duration) -> Self {
        self
    }
    /// The model of a new store: `builtin:minilm-l6` and so on (`embed::ModelSpec`, being written).
    pub fn model(self, _spec: &str) -> Self {
        self
    }
    /// A model of the caller's own.
    pub fn embedder(self, _embedder: Arc<dyn Embedder>) -> Self {
        self
    }
    /// Whether vectors that are due are made by a thread behind the calls (default true; the CLI says false).
    pub fn background_embedding(self, _on: bool) -> Self {
        self
    }
    /// Whether vectors of queries are kept on disk.
    pub fn query_cache(self, _on: bool) -> Self {
        self
    }
    /// Another clock.
    pub fn clock(self, _clock: Arc<dyn Clock>) -> Self {
        self
    }
}

/// How far a long work is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Progress {
    /// Steps that are done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
}

/// Figures of a store.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Memories that are there.
    pub memories: u64,
    /// Memories of each collection.
    pub collections: BTreeMap<String, u64>,
    /// Memories with a vector of the store's model.
    pub embedded: u64,
    /// Memories that wait for their vector.
    pub pending: u64,
    /// The store's model.
    pub model: Option<ModelIdentity>,
    /// Why the store's model cannot be used, when it cannot.
    pub model_problem: Option<String>,
    /// Sequence of the last record.
    pub last_seq: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes of all segments.
    pub segment_bytes: u64,
    /// Bytes of the view.
    pub view_bytes: u64,
    /// Look-ups of query vectors answered from memory, from disk, and not at all, in this process.
    pub cache: CacheStats,
}

/// Use of the query cache in this process.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct CacheStats {
    /// Whole answers served without a search.
    pub answers: u64,
    /// Query vectors found in memory.
    pub memory_hits: u64,
    /// Query vectors found on disk.
    pub disk_hits: u64,
    /// Query vectors that had to be made.
    pub misses: u64,
}

/// What became of the vectors that were due.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Embedded {
    /// Memories that got their vector.
    pub embedded: u64,
    /// Memories that still wait: their embedding failed.
    pub failed: u64,
}

/// One thing that a check found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The file, relative to the home folder.
    pub file: String,
    /// Byte offset, where there is one.
    pub offset: Option<u64>,
    /// A stable name of what is wrong.
    pub kind: String,
    /// What is wrong, for people.
    pub detail: String,
    /// What heals it.
    pub repair: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// `ok` or `damaged`.
    pub status: String,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Records of the log that were read.
    pub records: u64,
    /// Rows of the view that were read.
    pub rows: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// What an import does with an id that the store has with other content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Nothing is imported.
    #[default]
    Fail,
    /// The store's memory stays.
    Keep,
    /// The imported memory becomes its new version.
    Replace,
}

/// What became of an import.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Imported {
    /// New memories.
    pub imported: u64,
    /// Memories that were there already, word for word.
    pub unchanged: u64,
    /// Memories that got a new version.
    pub replaced: u64,
    /// Memories that stayed as they were although the file says otherwise.
    pub kept: u64,
    /// What was changed on the way in, such as a clamped importance: one line each.
    pub notes: Vec<String>,
}

/// A store. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Store;

#[allow(clippy::todo)]
impl Store {
    /// Opens it.
    pub fn open(_options: Options) -> Result<Self> {
        todo!()
    }
    /// Its home folder.
    pub fn home(&self) -> &Path {
        todo!()
    }
    /// Stores a memory; durable on return.
    pub fn remember(&self, _remember: Remember) -> Result<Remembered> {
        todo!()
    }
    /// Stores several as one atomic group; durable on return, embedded later.
    pub fn remember_many(&self, _all: Vec<Remember>) -> Result<Vec<Remembered>> {
        todo!()
    }
    /// The memory of this id.
    pub fn get(&self, _id: impl AsRef<str>) -> Result<Option<Memory>> {
        todo!()
    }
    /// Memories by time.
    pub fn list(&self, _list: &List) -> Result<Vec<Memory>> {
        todo!()
    }
    /// Changes a memory. `NotFound` when there is none.
    pub fn update(&self, _id: impl AsRef<str>, _update: Update) -> Result<Updated> {
        todo!()
    }
    /// Forgets memories; the ones that are not there are named in the answer.
    pub fn forget<I: AsRef<str>>(&self, _ids: impl IntoIterator<Item = I>) -> Result<Forgotten> {
        todo!()
    }
    /// The best memories for a question.
    pub fn recall(&self, _recall: Recall) -> Result<Answer> {
        todo!()
    }
    /// Figures.
    pub fn stats(&self) -> Result<Stats> {
        todo!()
    }
    /// Reads and checks everything.
    pub fn check(&self, _progress: &mut dyn FnMut(Progress)) -> Result<CheckReport> {
        todo!()
    }
    /// Makes the vectors that are due.
    pub fn embed_pending(&self, _progress: &mut dyn FnMut(Progress)) -> Result<Embedded> {
        todo!()
    }
    /// Moves the store to another model (None: the present one): makes all vectors anew, then switches. Resumable.
    pub fn reembed(&self, _model: Option<&str>, _progress: &mut dyn FnMut(Progress)) -> Result<Embedded> {
        todo!()
    }
    /// Imports the original's JSON export, all or nothing.
    pub fn import_json(&self, _file: &Path, _on_conflict: OnConflict, _dry_run: bool, _progress: &mut dyn FnMut(Progress)) -> Result<Imported> {
        todo!()
    }
    /// Writes what is still in memory and lets go of the store.
    pub fn close(self) -> Result<()> {
        todo!()
    }
}
