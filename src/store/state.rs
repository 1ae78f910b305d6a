//! The store's memories at one sequence, with their vectors, for those who write them elsewhere: snapshots, backups.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use serde::Serialize;

use super::index::VectorReader;
use super::{Engine, Inner, lock};
use crate::catalog::{Catalog, View};
use crate::error::{Error, Result};
use crate::format::op::{MemoryKey, ModelNumber, Op, OpKind};
use crate::format::record::Location;
use crate::format::row::Row;
use crate::format::segment::SEGMENT_HEADER_LEN;
use crate::fs::Disk;
use crate::log::{self, ScanEnd, Scanner, Segment, SegmentMap};
use crate::memory::{Memory, MemoryId, ModelIdentity};

/// Places of vectors that are looked up at once.
const LOCATIONS_AT_ONCE: usize = 1024;

/// What stands beside a store and follows it: its published snapshot. It is told when the store is opened, closed and
/// at rest; what it cannot do is a warning, never the end of the call.
pub(crate) trait Beside: Send + Sync {
    /// The store was opened for writing, and nobody else has it yet.
    fn opened(&self, store: &Inner);
    /// The store is being closed; everything is durable and in the view.
    fn closing(&self, store: &Inner);
    /// Nothing has happened for a while.
    fn idle(&self, store: &Inner);
    /// Memories were purged: nothing of them may be left in what stands beside the store.
    fn purged(&self, store: &Inner) -> Result<()>;
}

/// What a `memory.db` was that somebody had put in place of the published one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TakenOverKind {
    /// An earlier snapshot of this store, such as a backup: the store went back to it.
    Snapshot,
    /// A snapshot of this store that was changed: the changes were taken over.
    Edited,
    /// A snapshot of another store: its memories were added.
    OtherStore,
    /// A database of the original, or of somebody else: its memories were added.
    Foreign,
    /// Nothing that could be used: it was only moved away.
    Unusable,
}

/// A `memory.db` that somebody had put in place of the published one, or changed, and what came of it. `restore --undo`
/// takes it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct TakenOver {
    /// What it was.
    pub kind: TakenOverKind,
    /// What could not be taken as it was, or why nothing could.
    pub detail: String,
    /// Memories that came back or were new.
    pub added: u64,
    /// Memories that got another version.
    pub changed: u64,
    /// Memories that went.
    pub forgotten: u64,
    /// Where the file is now, relative to the home folder, if it was kept.
    pub kept_as: Option<String>,
}

/// A memory with the vectors of its present text under one model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Whole {
    pub(crate) key: MemoryKey,
    /// Sequence of the record that made its present version.
    pub(crate) seq: u64,
    pub(crate) memory: Memory,
    /// Its windows, one behind the other.
    pub(crate) vectors: Option<Vec<f32>>,
}

/// One state of the store. Segments are not rewritten while it lives, so it should not live long.
pub(crate) struct State<'a> {
    view: View<'a>,
    store: &'a Inner,
    /// The model whose vectors come along.
    model: Option<(ModelNumber, Arc<ModelIdentity>)>,
    segments: SegmentMap,
    _standing: Option<MutexGuard<'a, ()>>,
}

impl Inner {
    /// The home folder.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The disk that the store is on.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.place.disk
    }

    /// The folder of the store's own files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The store's own name.
    pub(crate) fn store_id(&self) -> [u8; 16] {
        self.store_id
    }

    /// Milliseconds since the Unix epoch, by the store's clock.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// The last sequence that is durable.
    pub(crate) fn durable_seq(&self) -> u64 {
        self.log.durable_seq()
    }

    /// Where `memory.db` is published.
    pub(crate) fn db_path(&self) -> PathBuf {
        self.db_path.clone().unwrap_or_else(|| self.home.join(crate::home::DB_NAME))
    }

    /// Moves a file of the home away, never to be lost; says where it is now.
    pub(crate) fn put_away(&self, path: &Path, reason: &str) -> Result<PathBuf> {
        let layout = super::Layout::of(&self.home);
        super::quarantine::quarantine(&*self.place.disk, &layout, path, self.now_ms(), reason)
    }

    /// The view with everything that is durable, for [`Inner::state_of`].
    pub(crate) fn up_to_date(&self) -> Result<Arc<Catalog>> {
        self.apply_committed(&mut self.applying())
    }

    /// The state that this view of the store has now.
    pub(crate) fn state_of<'a>(&'a self, catalog: &'a Catalog) -> Result<State<'a>> {
        self.state_with(catalog, Some(lock(&self.rewriting)))
    }

    /// The same for a caller who keeps the segments standing.
    pub(super) fn state_with<'a>(
        &'a self,
        catalog: &'a Catalog,
        _standing: Option<MutexGuard<'a, ()>>,
    ) -> Result<State<'a>> {
        // Before the view: a model that is switched to in between would have no vectors in it.
        let model = self.models.active();
        let segments = self.log.segments().clone();
        Ok(State { view: catalog.view(), store: self, model, segments, _standing })
    }

    /// Tells that a `memory.db` was taken over.
    pub(crate) fn note_taken_over(&self, taken: TakenOver) {
        lock(&self.taken_over).push(taken);
    }

    /// How many were taken over since the open.
    pub(crate) fn taken_over_count(&self) -> usize {
        lock(&self.taken_over).len()
    }

    /// The right to write `memory.db`.
    pub(crate) fn publishing(&self) -> MutexGuard<'_, ()> {
        lock(&self.publishing)
    }
}

impl Inner {
    /// Calls with every record of these sequences that the log still has.
    pub(crate) fn for_each_op(
        &self,
        first_seq: u64,
        last_seq: u64,
        mut visit: impl FnMut(u64, Op) -> Result<()>,
    ) -> Result<()> {
        let segments = self.log.segments().all();
        let first = segments.iter().rposition(|segment| segment.header.base_seq <= first_seq).unwrap_or(0);
        for segment in segments[first..].iter().take_while(|segment| segment.header.base_seq <= last_seq) {
            self.for_each_op_of(segment, first_seq, last_seq, &mut visit)?;
        }
        Ok(())
    }

    /// Calls with every record of these sequences that a segment has.
    pub(super) fn for_each_op_of(
        &self,
        segment: &Segment,
        first_seq: u64,
        last_seq: u64,
        mut visit: impl FnMut(u64, Op) -> Result<()>,
    ) -> Result<()> {
        let file = log::open_segment(&self.place, segment)?;
        let mut scanner = Scanner::new(&*file, segment.header.epoch, SEGMENT_HEADER_LEN as u64)?;
        loop {
            let offset = scanner.offset();
            match scanner.next()? {
                Ok((record, ..)) if record.kind == OpKind::Seal || record.seq > last_seq => return Ok(()),
                Ok((record, ..)) if record.seq < first_seq => {}
                Ok((record, payload, _)) => {
                    let op = Op::decode_payload(record.kind, record.has_vectors, payload)
                        .map_err(|damage| Error::corrupt(&segment.path, offset, damage))?;
                    visit(record.seq, op)?;
                }
                Err(ScanEnd::Damaged(damage)) => return Err(Error::corrupt(&segment.path, offset, damage)),
                Err(ScanEnd::File | ScanEnd::Empty) => return Ok(()),
            }
        }
    }
}

impl Inner {
    /// Ids of memories that were forgotten after this sequence, as far as the log knows, each with the sequence of the
    /// last record that says so.
    pub(crate) fn forgotten_since(&self, seq: u64) -> Result<BTreeMap<String, u64>> {
        let _standing = lock(&self.rewriting);
        let last_seq = self.up_to_date()?.applied_seq();
        let mut ids = BTreeMap::new();
        self.for_each_op(seq + 1, last_seq, |seq, op| {
            if let Op::Forget { id, .. } = op {
                ids.insert(id.to_string(), seq);
            }
            Ok(())
        })?;
        Ok(ids)
    }
}

impl Engine {
    /// Files that somebody had put in place of the published `memory.db`, or changed, and that were taken over since
    /// this store was opened, the opening included.
    #[must_use]
    pub(crate) fn taken_over(&self) -> Vec<TakenOver> {
        lock(&self.inner.taken_over).clone()
    }

    /// The store's inside, for the rooms below.
    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }
}

impl<'a> State<'a> {
    /// A state that is not the present one. Whoever has it keeps its segments standing.
    pub(super) fn of_past(
        view: View<'a>,
        store: &'a Inner,
        model: Option<(ModelNumber, Arc<ModelIdentity>)>,
        segments: SegmentMap,
    ) -> Self {
        Self { view, store, model, segments, _standing: None }
    }
}

impl State<'_> {
    /// The model whose vectors come along, with its number in this store.
    pub(super) fn numbered_model(&self) -> Option<(ModelNumber, &ModelIdentity)> {
        self.model.as_ref().map(|(number, identity)| (*number, &**identity))
    }

    /// The row of the memory with this id.
    pub(crate) fn row(&self, id: &str) -> Result<Option<Row>> {
        self.view.get(id)
    }

    /// Calls with every memory, without its vectors.
    pub(super) fn for_each_memory(&self, mut visit: impl FnMut(Memory) -> Result<()>) -> Result<()> {
        self.for_each_row(|row| visit(row.memory))
    }

    /// Calls with every row, until one call fails.
    fn for_each_row(&self, mut visit: impl FnMut(Row) -> Result<()>) -> Result<()> {
        let mut failed = None;
        self.view.for_each_row(MemoryKey(0), |row| match visit(row) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Calls with the id of every memory.
    pub(crate) fn for_each_id(&self, mut visit: impl FnMut(MemoryKey, MemoryId)) -> Result<()> {
        self.view.for_each_row(MemoryKey(0), |row| {
            visit(row.key, row.memory.id);
            ControlFlow::Continue(())
        })
    }

    /// Up to which sequence records are in it.
    pub(crate) fn seq(&self) -> u64 {
        self.view.position().tail.last_seq
    }

    /// How many memories there are.
    pub(crate) fn count(&self) -> u64 {
        self.view.count()
    }

    /// The model whose vectors come along.
    pub(crate) fn model(&self) -> Option<&ModelIdentity> {
        self.model.as_ref().map(|(_, identity)| &**identity)
    }

    /// Ids of memories that records behind this sequence are about, up to this state; `None` when these are more records
    /// than so many. Memories whose records a compaction has left out are missing.
    pub(crate) fn changed_since(&self, seq: u64, records_max: u64) -> Result<Option<Vec<String>>> {
        let last_seq = self.seq();
        if seq > last_seq || last_seq - seq > records_max {
            return Ok(None);
        }
        let (mut ids, mut keys) = (BTreeSet::new(), Vec::new());
        self.store.for_each_op(seq + 1, last_seq, |seq, op| {
            match &op {
                Op::Remember { memory, .. } | Op::Update { memory, .. } => {
                    _ = ids.insert(memory.id.to_string())
                }
                Op::Forget { id, .. } => _ = ids.insert(id.to_string()),
                op => keys.extend(op.memory_key(seq)),
            }
            Ok(())
        })?;
        for key in keys {
            if let Some(row) = self.view.row(key)? {
                ids.insert(row.memory.id.to_string());
            }
        }
        Ok(Some(ids.into_iter().collect()))
    }

    fn reader(&self) -> Option<(ModelNumber, VectorReader<'_>)> {
        let (number, identity) = self.model.as_ref()?;
        Some((*number, VectorReader::new(&self.segments, &self.store.place, *number, identity.dimensions)))
    }

    /// The memory of this id.
    pub(crate) fn get(&self, id: &str) -> Result<Option<Whole>> {
        let Some(row) = self.view.get(id)? else { return Ok(None) };
        let mut vectors = None;
        if let Some((number, mut reader)) = self.reader()
            && let Some(location) = self.view.vector_location(row.key, number)?
        {
            vectors = Some(reader.read(location)?.values);
        }
        Ok(Some(Whole { key: row.key, seq: row.seq, memory: row.memory, vectors }))
    }

    /// Calls with every memory, in the order in which they came.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Whole) -> Result<()>) -> Result<()> {
        let mut reader = self.reader();
        let mut located = Located::default();
        self.for_each_row(|row| {
            let mut vectors = None;
            if let Some((number, reader)) = &mut reader
                && let Some(location) = located.of(&self.view, *number, row.key)?
            {
                vectors = Some(reader.read(location)?.values);
            }
            visit(Whole { key: row.key, seq: row.seq, memory: row.memory, vectors })
        })
    }
}

/// Places of vectors, read some at a time: they are asked for in ascending order of keys.
#[derive(Default)]
struct Located {
    ahead: std::collections::VecDeque<(MemoryKey, Location)>,
    /// From where on there may be more.
    next: Option<MemoryKey>,
    is_started: bool,
}

impl Located {
    fn of(&mut self, view: &View<'_>, model: ModelNumber, key: MemoryKey) -> Result<Option<Location>> {
        if !self.is_started {
            (self.is_started, self.next) = (true, Some(key));
        }
        loop {
            while self.ahead.front().is_some_and(|(first, _)| *first < key) {
                self.ahead.pop_front();
            }
            if let Some((first, location)) = self.ahead.front() {
                return Ok((*first == key).then_some(*location));
            }
            let Some(from) = self.next.take() else { return Ok(None) };
            view.for_each_vector(model, from.max(key), |key, location| {
                self.ahead.push_back((key, location));
                if self.ahead.len() < LOCATIONS_AT_ONCE {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            if self.ahead.len() >= LOCATIONS_AT_ONCE {
                self.next = self.ahead.back().map(|(key, _)| MemoryKey(key.0 + 1));
            }
        }
    }
}
