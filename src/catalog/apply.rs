//! Records of the log become rows: the meaning of every op.
//!
//! A batch reads what came before it through a snapshot and collects what it changes; nothing of it is seen before
//! all of it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::delta::{Change, Delta};
use super::guard::Fault;
use super::snapshot::Snapshot;
use super::{Applied, Position};
use crate::format::op::{MemoryKey, ModelNumber, Op, Vectors};
use crate::format::record::Location;
use crate::format::row::{
    Head, Row, RowHeader, StateKey, TableTag, collection_count_key, encode_lost, encode_model, encode_number,
    label_keys, lost_key, memory_key, model_key, time_key, vector_count_key, vector_key,
};
use crate::memory::Memory;

/// About what a change takes in memory beside its row.
const CHANGE_BYTES: usize = 48;

/// A record that was rewritten: where its content stands now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) key: MemoryKey,
    pub(crate) seq: u64,
    /// The model of its vectors.
    pub(crate) model: Option<ModelNumber>,
    /// Where it stood; `None` for one that was made anew, without vectors.
    pub(crate) from: Option<Location>,
    pub(crate) to: Location,
}

impl Moved {
    /// What a record said, unless it is about no memory.
    pub(crate) fn of(seq: u64, op: &Op, from: Option<Location>, to: Location) -> Option<Self> {
        let model = op.vectors().map(|vectors| vectors.model);
        op.memory_key(seq).map(|key| Self { key, seq, model, from, to })
    }
}

/// The snapshot's delta with the records applied. Records that the snapshot holds already are left out.
pub(super) fn apply(snapshot: &Snapshot, records: &[Applied<'_>], next: Position) -> Result<Delta, Fault> {
    let mut batch = Batch::new(snapshot);
    for record in records {
        if record.seq > snapshot.applied_seq() {
            batch.record(record)?;
        }
    }
    batch.head.position = next;
    batch.finish()
}

/// Vectors that were moved: their keys in the table, with where they stand now.
pub(super) type MovedVectors = BTreeMap<u128, Location>;

/// The snapshot's delta with the places of these records. What has changed since they were rewritten stays as it is.
pub(super) fn relocate(
    snapshot: &Snapshot,
    moved: &[Moved],
    vectors: &mut MovedVectors,
) -> Result<Delta, Fault> {
    let mut batch = Batch::new(snapshot);
    for Moved { key, seq, model, from, to } in moved {
        if let Some(row) = batch.row(*key)?.filter(|row| row.seq == *seq) {
            let header = RowHeader { seq: row.seq, text_seq: row.text_seq, location: *to };
            batch.memory.insert(key.0, Some(header.encode_with(*key, &row.memory).into()));
        }
        let (Some(model), Some(from)) = (model, from) else { continue };
        let entry = vector_key(*model, *key);
        // Once only: the place that it has now may be one that another record had.
        if !vectors.contains_key(&entry) && snapshot.vector_location(entry)? == Some(*from) {
            vectors.insert(entry, *to);
            batch.put_vectors(*key, *model, *to);
        }
    }
    batch.finish()
}

/// The snapshot's delta without the vectors that stand in segments of these numbers, but for those that were moved;
/// says whose they were.
pub(super) fn drop_lost_vectors(
    snapshot: &Snapshot,
    numbers: &RangeInclusive<u64>,
    moved: &MovedVectors,
) -> Result<(Delta, Vec<(ModelNumber, MemoryKey)>), Fault> {
    let mut batch = Batch::new(snapshot);
    let mut lost = Vec::new();
    for entry in snapshot.vectors(0..=u128::MAX)? {
        let (key, location) = entry?;
        if numbers.contains(&location.segment) && !moved.contains_key(&key) {
            lost.push((model_of(key), memory_key(key)));
            batch.vectors.push((key, None));
        }
    }
    Ok((batch.finish()?, lost))
}

/// What the records of one batch change.
struct Batch<'s> {
    snapshot: &'s Snapshot,
    head: Head,
    /// Rows and ids are looked up by later records of the same batch, so they are kept by key.
    memory: BTreeMap<u64, Option<Arc<[u8]>>>,
    ids: BTreeMap<Arc<str>, Option<u64>>,
    labels: Vec<Change<u128, ()>>,
    times: Vec<Change<u128, u64>>,
    vectors: Vec<Change<u128, Location>>,
    state: BTreeMap<Vec<u8>, Arc<[u8]>>,
    counts: BTreeMap<Vec<u8>, i64>,
    /// Models that have vectors, once they were looked up.
    models: Option<BTreeSet<ModelNumber>>,
}

impl<'s> Batch<'s> {
    fn new(snapshot: &'s Snapshot) -> Self {
        Self {
            snapshot,
            head: snapshot.delta.head,
            memory: BTreeMap::new(),
            ids: BTreeMap::new(),
            labels: Vec::new(),
            times: Vec::new(),
            vectors: Vec::new(),
            state: BTreeMap::new(),
            counts: BTreeMap::new(),
            models: None,
        }
    }

    fn record(&mut self, record: &Applied<'_>) -> Result<(), Fault> {
        let Applied { seq, location, op } = *record;
        match op {
            Op::Remember { memory, vectors } => {
                self.remember(MemoryKey(seq), location, memory, vectors.as_ref())
            }
            Op::Update { key, memory, vectors, .. } => {
                self.update(seq, *key, location, memory, vectors.as_ref())
            }
            Op::Forget { key, id } => match self.row(*key)? {
                Some(row) if row.memory.id != *id => {
                    Err(Fault::Order(format!("record {seq} forgets memory {} under another id", key.0)))
                }
                Some(row) => self.forget(&row),
                None => Ok(()),
            },
            Op::Vector { key, text_seq, vectors } => {
                // The second: a compaction that was cut short may have left out the version between two of the same text, and
                // then the later one looks like the former. What its own record stored is the present text for sure.
                if self.row_header(*key)?.is_some_and(|row| [row.text_seq, row.seq].contains(text_seq)) {
                    self.put_vectors(*key, vectors.model, location);
                }
                Ok(())
            }
            Op::Model { number, identity } => {
                self.state.insert(model_key(*number), encode_model(*number, identity).into());
                Ok(())
            }
            Op::UseModel { number } => {
                self.head.active_model = Some(*number);
                Ok(())
            }
            Op::Lost(lost) => {
                self.state.insert(lost_key(lost.first_seq), encode_lost(*lost).into());
                Ok(())
            }
            Op::RestorePoint(_) | Op::Restore(_) | Op::Seal(_) => Ok(()),
        }
    }

    fn remember(
        &mut self,
        key: MemoryKey,
        location: Location,
        memory: &Memory,
        vectors: Option<&Vectors>,
    ) -> Result<(), Fault> {
        let header = RowHeader { seq: key.0, text_seq: key.0, location };
        self.put_new(key, header, memory, vectors)
    }

    fn put_new(
        &mut self,
        key: MemoryKey,
        header: RowHeader,
        memory: &Memory,
        vectors: Option<&Vectors>,
    ) -> Result<(), Fault> {
        let id = memory.id.as_str();
        let taken = match self.ids.get(id) {
            Some(taken) => *taken,
            None => self.snapshot.key_of(id)?.map(|key| key.0),
        };
        if let Some(taken) = taken {
            let what = format!("record {} gives memory {} the id of memory {taken}", header.seq, key.0);
            return Err(Fault::Order(what));
        }
        self.ids.insert(id.into(), Some(key.0));
        self.memory.insert(key.0, Some(header.encode_with(key, memory).into()));
        self.labels.extend(label_keys(key, memory).into_iter().map(|label| (label, Some(()))));
        self.times.push((time_key(memory.timestamp, key), Some(memory.importance.to_bits())));
        if let Some(vectors) = vectors {
            self.put_vectors(key, vectors.model, header.location);
        }
        self.count(collection_count_key(&memory.collection), 1);
        self.head.memories += 1;
        Ok(())
    }

    fn update(
        &mut self,
        seq: u64,
        key: MemoryKey,
        location: Location,
        memory: &Memory,
        vectors: Option<&Vectors>,
    ) -> Result<(), Fault> {
        let Some(old) = self.row(key)? else {
            // Its former versions were left out when a segment was rewritten.
            let header = RowHeader { seq, text_seq: seq, location };
            return self.put_new(key, header, memory, vectors);
        };
        if old.memory.id != memory.id {
            return Err(Fault::Order(format!("record {seq} updates memory {} under another id", key.0)));
        }
        let same_text = old.memory.text == memory.text;
        let header = RowHeader { seq, text_seq: if same_text { old.text_seq } else { seq }, location };
        self.memory.insert(key.0, Some(header.encode_with(key, memory).into()));

        let (former, present) = (label_keys(key, &old.memory), label_keys(key, memory));
        let gone = former.iter().filter(|label| !present.contains(label)).map(|label| (*label, None));
        let new = present.iter().filter(|label| !former.contains(label)).map(|label| (*label, Some(())));
        self.labels.extend(gone.chain(new));
        // The order matters: where the time is the same, the entry is taken away and put back.
        self.times.push((time_key(old.memory.timestamp, key), None));
        self.times.push((time_key(memory.timestamp, key), Some(memory.importance.to_bits())));
        self.count(collection_count_key(&old.memory.collection), -1);
        self.count(collection_count_key(&memory.collection), 1);
        // Here too: vectors of the former text go, those that came with the new one stay.
        if !same_text {
            self.drop_vectors(key)?;
        }
        if let Some(vectors) = vectors {
            self.put_vectors(key, vectors.model, location);
        }
        Ok(())
    }

    fn forget(&mut self, row: &Row) -> Result<(), Fault> {
        self.memory.insert(row.key.0, None);
        self.ids.insert(row.memory.id.as_str().into(), None);
        self.labels.extend(label_keys(row.key, &row.memory).into_iter().map(|label| (label, None)));
        self.times.push((time_key(row.memory.timestamp, row.key), None));
        self.drop_vectors(row.key)?;
        self.count(collection_count_key(&row.memory.collection), -1);
        self.head.memories =
            self.head.memories.checked_sub(1).ok_or_else(|| {
                Fault::Order("the view counts no memories but has one to forget".to_owned())
            })?;
        Ok(())
    }

    fn put_vectors(&mut self, key: MemoryKey, model: ModelNumber, location: Location) {
        if let Some(models) = &mut self.models {
            models.insert(model);
        }
        self.vectors.push((vector_key(model, key), Some(location)));
    }

    /// Takes the vectors of a memory away, under every model.
    fn drop_vectors(&mut self, key: MemoryKey) -> Result<(), Fault> {
        if self.models.is_none() {
            self.models = Some(self.models_with_vectors()?);
        }
        for model in self.models.iter().flatten() {
            self.vectors.push((vector_key(*model, key), None));
        }
        Ok(())
    }

    fn models_with_vectors(&self) -> Result<BTreeSet<ModelNumber>, Fault> {
        // Those of this batch are not counted yet.
        let mut models: BTreeSet<ModelNumber> = self.vectors.iter().map(|(key, _)| model_of(*key)).collect();
        for entry in self.snapshot.state_with(b'v')? {
            let (key, _) = entry?;
            match StateKey::decode(&key) {
                Ok(StateKey::VectorCount(model)) => _ = models.insert(model),
                Ok(_) => {}
                Err(damage) => return Err(Fault::row(TableTag::State, key, damage)),
            }
        }
        Ok(models)
    }

    fn count(&mut self, key: Vec<u8>, change: i64) {
        *self.counts.entry(key).or_default() += change;
    }

    fn row(&self, key: MemoryKey) -> Result<Option<Row>, Fault> {
        let Some(value) = self.memory.get(&key.0) else { return self.snapshot.row(key) };
        let row = value.as_ref().map(|value| Row::decode(key, value));
        row.transpose().map_err(|damage| Fault::row(TableTag::Memory, key.0, damage))
    }

    fn row_header(&self, key: MemoryKey) -> Result<Option<RowHeader>, Fault> {
        let Some(value) = self.memory.get(&key.0) else { return self.snapshot.row_header(key) };
        let header = value.as_ref().map(|value| RowHeader::decode(key, value).map(|(header, _)| header));
        header.transpose().map_err(|damage| Fault::row(TableTag::Memory, key.0, damage))
    }

    /// Counts what became of the vectors and lays everything over the snapshot's delta.
    fn finish(mut self) -> Result<Delta, Fault> {
        let mut delta = self.snapshot.delta.clone();
        self.count_vectors()?;
        self.count_live()?;
        let mut state: Vec<Change<Vec<u8>, Arc<[u8]>>> =
            self.state.into_iter().map(|(key, value)| (key, Some(value))).collect();
        for (key, change) in self.counts.into_iter().filter(|(_, change)| *change != 0) {
            let had = self.snapshot.count(&key)?;
            let has = had
                .checked_add_signed(change)
                .ok_or_else(|| Fault::Order(format!("a count of {had} goes down by {}", -change)))?;
            let value = (has > 0).then(|| encode_number(TableTag::State, &key, has).as_slice().into());
            state.push((key, value));
        }
        let rows: usize = self.memory.values().flatten().map(|row| row.len()).sum();
        // The head is a change too.
        let changes = 1
            + state.len()
            + 2 * self.memory.len()
            + self.labels.len()
            + self.times.len()
            + self.vectors.len();
        delta.bytes += rows + changes * CHANGE_BYTES;
        delta.head = self.head;
        delta.state.push(state);
        delta.memory.push(self.memory.into_iter().collect());
        delta.ids.push(self.ids.into_iter().collect());
        delta.labels.push(self.labels);
        delta.times.push(self.times);
        delta.vectors.push(self.vectors);
        Ok(delta)
    }

    /// Counts the bytes of records that are named from here on, and those that were until now.
    fn count_live(&mut self) -> Result<(), Fault> {
        let applied_seq = self.snapshot.applied_seq();
        let changes: BTreeMap<u128, Option<Location>> = self.vectors.iter().copied().collect();
        let mut by_memory: BTreeMap<u64, Vec<(u128, Option<Location>)>> = BTreeMap::new();
        for (key, location) in changes {
            by_memory.entry(memory_key(key).0).or_default().push((key, location));
        }
        for key in self.memory.keys() {
            by_memory.entry(*key).or_default();
        }
        let mut models = None;
        for (key, changes) in by_memory {
            let key = MemoryKey(key);
            let (mut former_row, mut former) = (None, BTreeMap::new());
            // A memory of this batch was not there before.
            if key.0 <= applied_seq {
                former_row = self.snapshot.row_header(key)?.map(|row| row.location);
                if models.is_none() {
                    models = Some(self.models_with_vectors()?);
                }
                for model in models.iter().flatten() {
                    let entry = vector_key(*model, key);
                    former.extend(self.snapshot.vector_location(entry)?.map(|location| (entry, location)));
                }
            }
            let row = match self.memory.contains_key(&key.0) {
                true => self.row_header(key)?.map(|row| row.location),
                false => former_row,
            };
            let had = live_len(former_row, former.values().copied());
            for (entry, location) in changes {
                match location {
                    Some(location) => _ = former.insert(entry, location),
                    None => _ = former.remove(&entry),
                }
            }
            let has = live_len(row, former.into_values());
            self.head.live_bytes = (self.head.live_bytes + has).checked_sub(had).ok_or_else(|| {
                Fault::Order("the view counts fewer live bytes than a memory has".to_owned())
            })?;
        }
        Ok(())
    }

    /// Adds to the counts what the last word on each memory's vectors changes.
    fn count_vectors(&mut self) -> Result<(), Fault> {
        let last: BTreeMap<u128, bool> = self.vectors.iter().map(|(key, at)| (*key, at.is_some())).collect();
        for (key, has) in last {
            // A memory of this batch had none before it.
            let is_new = memory_key(key).0 > self.snapshot.applied_seq();
            let had = !is_new && self.snapshot.vector_location(key)?.is_some();
            self.count(vector_count_key(model_of(key)), i64::from(has) - i64::from(had));
        }
        Ok(())
    }
}

/// Bytes of the records that a memory's row and its vectors name, each record once.
fn live_len(row: Option<Location>, vectors: impl Iterator<Item = Location>) -> u64 {
    let mut named: Vec<Location> = row.into_iter().chain(vectors).collect();
    named.sort_unstable();
    named.dedup();
    named.iter().map(|location| u64::from(location.len)).sum()
}

fn model_of(vector_key: u128) -> ModelNumber {
    ModelNumber((vector_key >> 64) as u32)
}
