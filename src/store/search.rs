//! The search indexes: loaded when they are first needed, from there on they follow the log.

use std::sync::{PoisonError, RwLockReadGuard};

use super::Inner;
use super::apply::is_healed_by_rebuild;
use super::index::{Found, ModelVectors};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::format::op::{MemoryKey, ModelNumber, Op, Vectors};
use crate::log::Committed;
use crate::memory::Memory;
use crate::scope::Deadline;
use crate::store::models::Numbered;
use crate::text::TextIndex;

/// Rows that are loaded between two looks at the clock.
pub(super) const LOAD_ROWS: usize = 1024;

/// What recall searches.
#[derive(Default)]
pub(super) struct Search {
    pub(super) text: Loading<TextIndex>,
    pub(super) vectors: Loading<ModelVectors>,
}

/// An index that is loaded from the view in order of keys.
pub(super) struct Loading<T> {
    pub(super) index: Option<T>,
    /// Memories from this key on are not loaded yet; `None` when all are.
    pub(super) next: Option<MemoryKey>,
}

impl<T> Default for Loading<T> {
    fn default() -> Self {
        Self { index: None, next: None }
    }
}

impl<T> Loading<T> {
    /// An index with everything that the view has.
    pub(super) fn complete(index: T) -> Self {
        Self { index: Some(index), next: None }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.index.is_some() && self.next.is_none()
    }

    /// The index, if it has this memory's place already: later places are loaded from the view in their turn.
    fn at(&mut self, key: MemoryKey) -> Option<&mut T> {
        let next = self.next;
        self.index.as_mut().filter(|_| next.is_none_or(|next| key < next))
    }
}

impl Loading<ModelVectors> {
    /// The vectors of this model, when all are loaded.
    pub(super) fn of(&self, model: ModelNumber) -> Option<&ModelVectors> {
        self.index.as_ref().filter(|vectors| self.next.is_none() && vectors.model == model)
    }
}

impl Search {
    /// The words, when all are loaded.
    pub(super) fn words(&self) -> Option<&TextIndex> {
        self.text.index.as_ref().filter(|_| self.text.is_complete())
    }

    /// Forgets everything; it is loaded again when it is needed.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Follows records that the view has just taken.
    pub(super) fn apply(&mut self, records: &[Committed], catalog: &Catalog) -> Result<()> {
        if self.text.index.is_none() && self.vectors.index.is_none() {
            return Ok(());
        }
        for record in records {
            match &*record.op {
                Op::Remember { memory, vectors } => {
                    let key = MemoryKey(record.seq);
                    self.put_text(key, memory);
                    self.put_vectors(key, vectors.as_ref())?;
                }
                Op::Update { key, memory, vectors, .. } => {
                    self.put_text(*key, memory);
                    if vectors.is_some() {
                        self.put_vectors(*key, vectors.as_ref())?;
                    } else if let Some(vectors) = self.vectors.at(*key) {
                        // The view knows whether the former vectors still stand for the text.
                        if catalog.view().vector_location(*key, vectors.model)?.is_none() {
                            vectors.index.remove(*key);
                        }
                    }
                }
                Op::Forget { key, .. } => {
                    if let Some(index) = self.text.at(*key) {
                        index.remove(*key);
                    }
                    if let Some(vectors) = self.vectors.at(*key) {
                        vectors.index.remove(*key);
                    }
                }
                Op::Vector { key, vectors, .. } => {
                    // The view took it only if the text is still the one that was embedded.
                    if self.vectors.at(*key).is_some()
                        && catalog.view().vector_location(*key, vectors.model)? == Some(record.location)
                    {
                        self.put_vectors(*key, Some(vectors))?;
                    }
                }
                Op::UseModel { .. } => self.vectors = Loading::default(),
                Op::RestorePoint(_) | Op::Restore(_) | Op::Model { .. } | Op::Lost(_) | Op::Seal(_) => {}
            }
        }
        Ok(())
    }

    fn put_text(&mut self, key: MemoryKey, memory: &Memory) {
        if let Some(index) = self.text.at(key) {
            index.insert(key, memory);
        }
    }

    fn put_vectors(&mut self, key: MemoryKey, vectors: Option<&Vectors>) -> Result<()> {
        match (self.vectors.at(key), vectors) {
            (Some(ours), Some(vectors)) if vectors.model == ours.model => {
                ours.index.insert(key, &vectors.values)
            }
            _ => Ok(()),
        }
    }
}

impl Inner {
    /// The search indexes, with what is asked for loaded as far as the log is durable.
    pub(super) fn loaded(
        &self,
        text: bool,
        model: Option<&Numbered>,
        deadline: Deadline,
    ) -> Result<RwLockReadGuard<'_, Search>> {
        let is_loaded = |search: &Search| {
            (!text || search.text.is_complete())
                && model.is_none_or(|(model, _)| search.vectors.of(*model).is_some())
        };
        self.catch_up()?;
        let mut healed = false;
        loop {
            let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
            if is_loaded(&search) {
                return Ok(search);
            }
            drop(search);
            // Nothing is applied while an index is loaded, so that it misses nothing.
            let mut applying = self.applying();
            let catalog = self.apply_committed(&mut applying)?;
            match self.load_search(text, model, &catalog, deadline) {
                Err(error) if !healed && is_healed_by_rebuild(&error, &catalog) => {
                    tracing::error!(%error, "the view is damaged");
                    self.rebuild(&mut applying, 0)?;
                    healed = true;
                }
                Ok(Found::Loaded) => {}
                Ok(block @ (Found::Block | Found::TextBlock)) => {
                    drop(applying);
                    self.wait_for_block(block, deadline)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn load_search(
        &self,
        text: bool,
        model: Option<&Numbered>,
        catalog: &Catalog,
        deadline: Deadline,
    ) -> Result<Found> {
        let mut search = self.search.write().unwrap_or_else(PoisonError::into_inner);
        if text && self.load_words(&mut search.text, catalog, deadline)? == Found::TextBlock {
            return Ok(Found::TextBlock);
        }
        match model {
            Some(model) => self.load_vectors(&mut search.vectors, model, catalog, deadline),
            None => Ok(Found::Loaded),
        }
    }
}
