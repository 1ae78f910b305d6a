//! Loading: a block with what the log says after it, or all vectors from the log.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::make::{model_sha256, position_of};
use super::{Found, ModelVectors};
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::{BlockPosition, Origin};
use crate::format::op::{MemoryKey, ModelNumber, Op, OpKind, Vectors};
use crate::format::record::Location;
use crate::format::segment::SEGMENT_HEADER_LEN;
use crate::fs::DiskFile;
use crate::index::{Block, LIVE_MAX, VectorIndex, list_blocks, remove_if_there};
use crate::log::{self, Place, ScanEnd, Scanner, Segment, SegmentMap};
use crate::scope::Deadline;
use crate::store::models::Numbered;
use crate::store::search::{LOAD_ROWS, Loading};
use crate::store::{Inner, Progress, lock};

/// Whoever waits for a block looks at the clock this often.
const WAIT_INTERVAL: Duration = Duration::from_millis(20);

impl Inner {
    /// Loads the vectors of a model: those of a block with what the log says after it, or all of them.
    pub(in crate::store) fn load_vectors(
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
            if catalog.view().count_with_vectors(*number)? > LIVE_MAX as u64 && self.can_make_blocks(*number)
            {
                return Ok(Found::Block);
            }
            let index = VectorIndex::new(identity.dimensions, None)?;
            vectors.index = Some(ModelVectors { model: *number, index, unread: 0 });
        }
        vectors.load_all(catalog, self.log.segments(), &self.place, deadline)?;
        self.wake_indexer();
        Ok(Found::Loaded)
    }

    /// Whether a thread makes blocks of this model here, and has no trouble with it.
    fn can_make_blocks(&self, number: ModelNumber) -> bool {
        let has_failed = lock(&self.indexing.state).failed.is_some();
        // Whoever asks under a model that was given up meanwhile would wait for ever.
        let is_active = self.models.active().is_some_and(|(active, _)| active == number);
        self.follow && !self.read_only && is_active && !has_failed
    }

    /// Waits until the indexing thread has tried to make the block that is to be loaded.
    pub(in crate::store) fn wait_for_block(&self, block: Found, deadline: Deadline) -> Result<()> {
        let before = lock(&self.indexing.state).attempts;
        self.wake_indexer_for(Some(block));
        let mut state = lock(&self.indexing.state);
        while state.attempts == before {
            let Progress { done, total } = state.progress.unwrap_or(Progress::new(0, 0));
            deadline.check(format_args!("the index is being made: {done} of {total}"))?;
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

    /// Searches the newest block, if no vectors of this model are loaded yet: what is made next builds on it.
    pub(super) fn load_block(&self, model: &Numbered) -> Result<()> {
        let mut applying = self.applying();
        let catalog = self.apply_committed(&mut applying)?;
        let mut search = self.search.write().unwrap_or_else(PoisonError::into_inner);
        if search.vectors.of(model.0).is_none()
            && let Some(block) = self.find_block(model, &catalog)?
        {
            search.vectors = Loading::complete(self.with_block(block, model, &catalog)?);
        }
        Ok(())
    }

    /// The newest block of this model that can be used. Damaged ones are removed: they are made anew.
    pub(super) fn find_block(&self, model: &Numbered, catalog: &Catalog) -> Result<Option<Arc<Block>>> {
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
    pub(super) fn is_ours(
        &self,
        block: &Block,
        (number, identity): &Numbered,
        catalog: &Catalog,
    ) -> Result<bool> {
        let header = block.header();
        let op = Op::Model { number: *number, identity: (**identity).clone() };
        let is_of_model = header.origin.maker == number.0
            && header.origin.maker_sha256 == model_sha256(&op)
            && header.shape.dimensions == identity.dimensions;
        Ok(is_of_model && self.is_of_history(&header.origin, catalog)?)
    }

    /// Whether a file of the index was made of what this store's log said.
    pub(super) fn is_of_history(&self, origin: &Origin, catalog: &Catalog) -> Result<bool> {
        if origin.store_id != self.store_id || origin.position.last_seq > catalog.applied_seq() {
            return Ok(false);
        }
        log::is_in_history(&self.place, &self.log.segments().all(), position_of(origin.position))
    }

    pub(super) fn discard_block(&self, path: &Path, error: &Error) -> Result<()> {
        tracing::error!(%error, "an index block is damaged and is made anew");
        lock(&self.indexing.state).damaged = true;
        if self.read_only { Ok(()) } else { remove_if_there(&*self.place.disk, path) }
    }

    /// A block with what the log says after it.
    pub(super) fn with_block(
        &self,
        block: Arc<Block>,
        model: &Numbered,
        catalog: &Catalog,
    ) -> Result<ModelVectors> {
        let (number, identity) = model;
        let (from, unread) = (block.header().origin.position, block.header().unread);
        let index = VectorIndex::new(identity.dimensions, Some(block))?;
        let mut vectors = ModelVectors { model: *number, index, unread: unread.into() };
        let view = catalog.view();
        let segments = self.log.segments();
        let changed = changed_since(&self.place, &segments.all(), from, view.position().tail.last_seq)?;
        if vectors
            .index
            .block()
            .is_some_and(|(block, _)| block.header().origin.log_generation < segments.newest_generation())
        {
            let mut keys = Vec::new();
            view.for_each_vector(*number, MemoryKey(0), |key, _| {
                keys.push(key);
                ControlFlow::Continue(())
            })?;
            vectors.index.retain(keys.into_iter());
        }
        let mut reader = VectorReader::new(segments, &self.place, *number, identity.dimensions);
        for key in changed {
            vectors.index.remove(key);
            if let Some(location) = view.vector_location(key, *number)? {
                vectors.take(key, reader.read(location))?;
            }
        }
        Ok(vectors)
    }
}

impl ModelVectors {
    /// Takes what was read of a memory's vectors.
    fn take(&mut self, key: MemoryKey, read: Result<Vectors>) -> Result<()> {
        match read {
            Ok(vectors) => self.index.insert(key, &vectors.values),
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
    pub(super) fn load_all(
        &mut self,
        catalog: &Catalog,
        segments: &SegmentMap,
        place: &Place,
        deadline: Deadline,
    ) -> Result<()> {
        let vectors = self.index.as_mut().expect("the caller has made it");
        let view = catalog.view();
        let total = view.count_with_vectors(vectors.model)?;
        let dimensions = u32::try_from(vectors.index.dimensions()).expect("dimensions are limited");
        let mut reader = VectorReader::new(segments, place, vectors.model, dimensions);
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

/// The memories that records behind this place are about, up to a sequence.
///
/// What compaction has left out is of memories that are gone, or have a later record.
pub(super) fn changed_since(
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

/// Reads vectors of one model from records of the log, one open file at a time.
pub(in crate::store) struct VectorReader<'a> {
    segments: &'a SegmentMap,
    place: &'a Place,
    model: ModelNumber,
    dimensions: u32,
    open: Option<(u64, u64, Box<dyn DiskFile>)>,
}

impl<'a> VectorReader<'a> {
    pub(in crate::store) fn new(
        segments: &'a SegmentMap,
        place: &'a Place,
        model: ModelNumber,
        dimensions: u32,
    ) -> Self {
        Self { segments, place, model, dimensions, open: None }
    }

    /// # Errors
    /// [`ErrorKind::Corrupt`] when no whole record with vectors of the model is there, and what the disk says.
    pub(in crate::store) fn read(&mut self, location: Location) -> Result<Vectors> {
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
        let fits = |vectors: &&Vectors| vectors.model == self.model && vectors.dimensions == self.dimensions;
        let vectors = op.vectors().filter(fits).cloned();
        let what = "the record has no vectors of the model";
        vectors.ok_or_else(|| Error::corrupt(file.path(), location.offset, what))
    }
}
