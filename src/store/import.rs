//! Vectors that come with memories from elsewhere, which this store uses where it can, and that go with them.

use serde::{Deserialize, Serialize};

use super::embedders::Embeds;
use super::models::Activate;
use super::restore::Changes;
use super::write::{OnConflict, Outcome, conflict};
use super::{Engine, Inner};
use crate::embed::Embedder;
use crate::embed::minilm::MiniLm;
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{Vectors, WINDOWS_MAX};
use crate::log;
use crate::memory::{DIMENSIONS_MAX, ModelIdentity, Remember, check_vector};

/// The vectors of a memory, window by window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
#[serde(deny_unknown_fields)]
pub struct MemoryVectors {
    /// The model that made them: all of it must be the same where they are to be used.
    pub model: ModelIdentity,
    /// One vector at length 1 for each window of the text.
    pub windows: Vec<Vec<f32>>,
}

/// A memory that comes from elsewhere, with the vectors that came with it.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    /// It has an id.
    pub(crate) remember: Remember,
    pub(crate) given: Option<Given>,
}

/// Memories from elsewhere on their way into the log, as one group of any size.
pub(crate) struct Arriving<'a, 'b, 'c> {
    store: &'a Inner,
    changes: &'a mut Changes<'b, 'c>,
    on_conflict: OnConflict,
}

/// Vectors that came with a memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Given {
    /// What the original's model made of the first 256 tokens of the text: all-MiniLM-L6-v2, as the built-in one is.
    Original(Vec<f32>),
    /// What this very model made of the windows of the text.
    Exact(Box<MemoryVectors>),
    /// One vector of the caller's own, as [`Remember::vector`] takes it.
    Own(Vec<f32>),
}

impl Arriving<'_, '_, '_> {
    /// Stores a memory whose id was not given before; says what became of it, and whether with the vectors that came with
    /// it.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] as [`OnConflict`] says, and what the disk says; then nothing of the group is stored.
    pub(crate) fn put(&mut self, incoming: &Incoming) -> Result<(Outcome, bool)> {
        let item = &incoming.remember;
        let id = item.id.as_ref().expect("imported memories have ids");
        let row = self.changes.state().row(id.as_str())?;
        let now = self.store.clock.now_ms().div_euclid(1000);
        let memory = item.to_memory(id.clone(), row.as_ref().map_or(now, |row| row.memory.timestamp));
        if let Some(row) = &row {
            match self.on_conflict {
                _ if row.memory == memory => return Ok((Outcome::Unchanged, false)),
                OnConflict::Fail => return Err(conflict(id)),
                OnConflict::Keep => return Ok((Outcome::Kept, false)),
                OnConflict::Replace => {}
            }
        }
        // A model would have to be written first, and nobody else writes meanwhile.
        let has_model = self.store.models.active().is_some();
        let vectors = if has_model { self.store.usable_vectors(incoming)? } else { None };
        let has_vectors = vectors.is_some();
        match row {
            None => self.changes.add(memory, vectors).map(|()| (Outcome::New, has_vectors)),
            Some(row) => {
                self.changes.replace(&row, memory, vectors).map(|()| (Outcome::Replaced, has_vectors))
            }
        }
    }
}

impl Engine {
    /// Stores all that `fill` gives as one group of any size, behind a restore point `before <target>`. Nobody else writes
    /// meanwhile. Vectors that came along are used when [`Store::expect_vectors`] was told of the first of them.
    ///
    /// # Errors
    /// What `fill` says and those of a write; then nothing of it is stored.
    pub(crate) fn import_all(
        &self,
        target: &str,
        on_conflict: OnConflict,
        fill: &mut dyn FnMut(&mut Arriving<'_, '_, '_>) -> Result<()>,
    ) -> Result<()> {
        let store = &*self.inner;
        store.import_as(target, &mut |changes| fill(&mut Arriving { store, changes, on_conflict }))
    }

    /// A store without a model gets the one whose vectors come with this memory.
    pub(crate) fn expect_vectors(&self, incoming: &Incoming) -> Result<()> {
        if incoming.given.is_some() && self.inner.models.active().is_none() {
            self.inner.usable_vectors(incoming)?;
        }
        Ok(())
    }

    /// The vectors that recall uses for a memory; None when it has none yet, or there is no such memory.
    pub(crate) fn vectors(&self, id: impl AsRef<str>) -> Result<Option<MemoryVectors>> {
        let inner = &self.inner;
        let Some((number, identity)) = inner.models.active() else { return Ok(None) };
        inner.read(|catalog| {
            let Some(row) = catalog.get(id.as_ref())? else { return Ok(None) };
            let Some(location) = catalog.view().vector_location(row.key, number)? else { return Ok(None) };
            let segment = inner.log.segments().find(location.segment).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, format!("segment {} is missing", location.segment))
            })?;
            let file = log::open_segment(&inner.place, &segment)?;
            let (_, op) = log::read_record(&*file, segment.header.epoch, location)?;
            let Some(vectors) = op.vectors().filter(|vectors| vectors.model == number) else {
                return Ok(None);
            };
            let windows = vectors.values.chunks(identity.dimensions as usize).map(<[f32]>::to_vec).collect();
            Ok(Some(MemoryVectors { model: ModelIdentity::clone(&identity), windows }))
        })
    }

    /// Whether a memory of this collection says exactly this.
    pub(crate) fn has_text(&self, collection: &str, text: &str) -> Result<bool> {
        let inner = &self.inner;
        inner.healing(|| {
            inner.log.with_staged(|pending| Ok(inner.same_text(pending, collection, text)?.is_some()))
        })
    }
}

impl Inner {
    /// The vectors of an incoming memory as this store keeps them; None when they are of another model, or do not say
    /// all of the text, and are to be made anew.
    pub(super) fn usable_vectors(&self, incoming: &Incoming) -> Result<Option<Vectors>> {
        let usable = match &incoming.given {
            None => Ok(None),
            Some(Given::Own(vector)) => self.given_vectors(vector).map(Some),
            Some(Given::Original(vector)) => self.original_vectors(&incoming.remember.text, vector),
            Some(Given::Exact(vectors)) => self.exact_vectors(&vectors.model, &vectors.windows),
        };
        match usable {
            // A wrong number of dimensions, or a model that is not there: what came is of no use, the memory is.
            Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Model) => Ok(None),
            usable => usable,
        }
    }

    /// The original reads no more than the first window of a text; the built-in model reads all of it.
    fn original_vectors(&self, text: &str, vector: &[f32]) -> Result<Option<Vectors>> {
        let builtin = MiniLm::builtin()?;
        let is_ours = self.present_model()?.is_some_and(|identity| identity == *builtin.identity());
        if !is_ours || !builtin.is_one_window(text) {
            return Ok(None);
        }
        self.given_vectors(vector).map(Some)
    }

    fn exact_vectors(&self, model: &ModelIdentity, windows: &[Vec<f32>]) -> Result<Option<Vectors>> {
        let dimensions = model.dimensions as usize;
        let fits = (1..=WINDOWS_MAX).contains(&windows.len())
            && (1..=DIMENSIONS_MAX).contains(&dimensions)
            && windows.iter().all(|window| window.len() == dimensions && check_vector(window).is_ok());
        if !fits || self.present_model()?.is_none_or(|identity| identity != *model) {
            return Ok(None);
        }
        let number = match self.models.active() {
            // Nothing is written for it: a group may be on its way, and nobody else writes meanwhile.
            Some((number, _)) => number,
            None => self.register(model, Activate::IfFirst)?,
        };
        Ok(Some(Vectors { model: number, dimensions: model.dimensions, values: windows.concat() }))
    }

    /// The store's model, or the one that it would get.
    fn present_model(&self) -> Result<Option<ModelIdentity>> {
        if let Some((_, identity)) = self.models.active() {
            return Ok(Some(ModelIdentity::clone(&identity)));
        }
        Ok(self.models.embedders().embedder_of(None)?.map(|embedder| embedder.identity().clone()))
    }
}
