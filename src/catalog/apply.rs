//! Records of the log become rows: the meaning of every op.
//!
//! A batch reads what came before it through a snapshot and collects what it changes; nothing of it is seen before
//! all of it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::delta::{Change, Delta};
use super::guard::Fault;
use super::snapshot::Snapshot;
use super::{Applied, Position};
use crate::format::op::{MemoryKey, ModelNumber, Op, Vectors};
use crate::format::record::Location;
use crate::format::row::{
    Head, Row, RowHeader, StateKey, TableTag, collection_count_key, encode_model, encode_number, label_keys,
    memory_key, model_key, time_key, vector_count_key, vector_key,
};
use crate::memory::Memory;

/// About what a change takes in memory beside its row.
const CHANGE_BYTES: usize = 48;

/// The snapshot's delta with the records applied. Records that the snapshot holds already are left out.
pub(super) fn apply(snapshot: &Snapshot, records: &[Applied<'_>], next: Position) -> Result<Delta, Fault> {
    let mut batch = Batch {
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
    };
    for record in records {
        if record.seq > snapshot.applied_seq() {
            batch.record(record)?;
        }
    }
    batch.head.position = next;
    batch.finish()
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

impl Batch<'_> {
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
                if self.row_header(*key)?.is_some_and(|row| row.text_seq == *text_seq) {
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
            Op::Seal(_) => Ok(()),
        }
    }

    fn remember(
        &mut self,
        key: MemoryKey,
        location: Location,
        memory: &Memory,
        vectors: Option<&Vectors>,
    ) -> Result<(), Fault> {
        let id = memory.id.as_str();
        let taken = match self.ids.get(id) {
            Some(taken) => *taken,
            None => self.snapshot.key_of(id)?.map(|key| key.0),
        };
        if let Some(taken) = taken {
            return Err(Fault::Order(format!("record {} remembers the id of memory {taken} again", key.0)));
        }
        self.ids.insert(id.into(), Some(key.0));
        let header = RowHeader { seq: key.0, text_seq: key.0, location };
        self.memory.insert(key.0, Some(header.encode_with(key, memory).into()));
        self.labels.extend(label_keys(key, memory).into_iter().map(|label| (label, Some(()))));
        self.times.push((time_key(memory.timestamp, key), Some(memory.importance.to_bits())));
        if let Some(vectors) = vectors {
            self.put_vectors(key, vectors.model, location);
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
            return Err(Fault::Order(format!("record {seq} updates memory {}, which is not there", key.0)));
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

fn model_of(vector_key: u128) -> ModelNumber {
    ModelNumber((vector_key >> 64) as u32)
}
