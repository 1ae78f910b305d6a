//! Records of the log become rows: the meaning of every op, in one write transaction a batch.
//!
//! Rows and ids are written in the order of the records, since later records may read them. Entries of the other
//! tables are collected and written in the order of their keys at the end, the last word on each key: for a large
//! batch that is the order in which a tree is written fastest.

use std::collections::{BTreeMap, BTreeSet};

use redb::{ReadableTable, Table, WriteTransaction};

use super::Applied;
use super::guard::Fault;
use super::tables::{ID, LABEL, MEMORY, STATE, TIME, VECTOR};
use crate::format::op::{MemoryKey, ModelNumber, Op, Vectors};
use crate::format::record::Location;
use crate::format::row::{
    HEAD_KEY, Head, LOCATION_LEN, NUMBER_LEN, Row, RowHeader, StateKey, TableTag, collection_count_key,
    decode_number, encode_location, encode_model, encode_number, key_bytes, label_keys, model_key, time_key,
    vector_count_key, vector_key,
};
use crate::memory::Memory;

/// Writes the records into the open transaction and returns the new head. Records that it holds already are left out.
pub(super) fn apply(
    txn: &WriteTransaction,
    head: Head,
    records: &[Applied<'_>],
    next: super::Position,
) -> Result<Head, Fault> {
    let mut batch = Batch::open(txn, head)?;
    for record in records {
        if record.seq > batch.head.applied_seq {
            batch.record(record)?;
            batch.head.applied_seq = record.seq;
        }
    }
    batch.head.applied_seq = batch.head.applied_seq.max(next.applied_seq);
    batch.head.segment = next.segment;
    batch.head.offset = next.offset;
    batch.finish()
}

/// The tables of one transaction and what is still to be written to them.
struct Batch<'txn> {
    head: Head,
    state: Table<'txn, &'static [u8], &'static [u8]>,
    memory: Table<'txn, u64, &'static [u8]>,
    ids: Table<'txn, &'static [u8], &'static [u8; NUMBER_LEN]>,
    labels: Table<'txn, u128, ()>,
    times: Table<'txn, u128, &'static [u8; NUMBER_LEN]>,
    vectors: Table<'txn, u128, &'static [u8; LOCATION_LEN]>,
    label_changes: Changes<()>,
    time_changes: Changes<u64>,
    vector_changes: Changes<Location>,
    count_changes: BTreeMap<Vec<u8>, i64>,
    /// Models that have vectors, once they were looked up.
    models: Option<BTreeSet<ModelNumber>>,
}

/// Entries to be written (`Some`) or taken away (`None`), in the order in which they came up.
struct Changes<V>(Vec<(u128, Option<V>)>);

impl<V> Changes<V> {
    fn put(&mut self, key: u128, value: V) {
        self.0.push((key, Some(value)));
    }

    fn remove(&mut self, key: u128) {
        self.0.push((key, None));
    }

    /// The last word on each key, by key.
    fn settled(mut self) -> impl Iterator<Item = (u128, Option<V>)> {
        self.0.sort_by_key(|(key, _)| *key);
        let mut changes = self.0.into_iter().peekable();
        std::iter::from_fn(move || {
            let mut change = changes.next()?;
            while let Some(later) = changes.next_if(|(key, _)| *key == change.0) {
                change = later;
            }
            Some(change)
        })
    }
}

impl<'txn> Batch<'txn> {
    fn open(txn: &'txn WriteTransaction, head: Head) -> Result<Self, Fault> {
        Ok(Self {
            head,
            state: txn.open_table(STATE)?,
            memory: txn.open_table(MEMORY)?,
            ids: txn.open_table(ID)?,
            labels: txn.open_table(LABEL)?,
            times: txn.open_table(TIME)?,
            vectors: txn.open_table(VECTOR)?,
            label_changes: Changes(Vec::new()),
            time_changes: Changes(Vec::new()),
            vector_changes: Changes(Vec::new()),
            count_changes: BTreeMap::new(),
            models: None,
        })
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
                if self.row_header(*key)?.is_some_and(|row| row.text_seq == *text_seq) {
                    self.put_vectors(*key, vectors.model, location);
                }
                Ok(())
            }
            Op::Model { number, identity } => {
                let value = encode_model(*number, identity);
                self.state.insert(model_key(*number).as_slice(), value.as_slice())?;
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
        let id = memory.id.as_str().as_bytes();
        let taken = self
            .ids
            .insert(id, &encode_number(TableTag::Id, id, key.0))?
            .map(|value| decode_number(TableTag::Id, id, value.value()))
            .transpose()
            .map_err(|damage| Fault::row(TableTag::Id, &memory.id, damage))?;
        if let Some(taken) = taken {
            return Err(Fault::Order(format!("record {} remembers the id of memory {taken} again", key.0)));
        }
        let header = RowHeader { seq: key.0, text_seq: key.0, location };
        self.memory.insert(key.0, header.encode_with(key, memory).as_slice())?;
        for label in label_keys(key, memory) {
            self.label_changes.put(label, ());
        }
        self.time_changes.put(time_key(memory.timestamp, key), memory.importance.to_bits());
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
        self.memory.insert(key.0, header.encode_with(key, memory).as_slice())?;

        let (former, present) = (label_keys(key, &old.memory), label_keys(key, memory));
        former
            .iter()
            .filter(|label| !present.contains(label))
            .for_each(|label| self.label_changes.remove(*label));
        present
            .iter()
            .filter(|label| !former.contains(label))
            .for_each(|label| self.label_changes.put(*label, ()));
        if old.memory.timestamp != memory.timestamp {
            self.time_changes.remove(time_key(old.memory.timestamp, key));
        }
        self.time_changes.put(time_key(memory.timestamp, key), memory.importance.to_bits());
        if old.memory.collection != memory.collection {
            self.count(collection_count_key(&old.memory.collection), -1);
            self.count(collection_count_key(&memory.collection), 1);
        }
        // The order matters: vectors of the former text go, those that came with the new one stay.
        if !same_text {
            self.drop_vectors(key)?;
        }
        if let Some(vectors) = vectors {
            self.put_vectors(key, vectors.model, location);
        }
        Ok(())
    }

    fn forget(&mut self, row: &Row) -> Result<(), Fault> {
        self.memory.remove(row.key.0)?;
        self.ids.remove(row.memory.id.as_str().as_bytes())?;
        for label in label_keys(row.key, &row.memory) {
            self.label_changes.remove(label);
        }
        self.time_changes.remove(time_key(row.memory.timestamp, row.key));
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
        self.vector_changes.put(vector_key(model, key), location);
    }

    /// Takes the vectors of a memory away, under every model.
    fn drop_vectors(&mut self, key: MemoryKey) -> Result<(), Fault> {
        if self.models.is_none() {
            self.models = Some(self.models_with_vectors()?);
        }
        for model in self.models.iter().flatten() {
            self.vector_changes.remove(vector_key(*model, key));
        }
        Ok(())
    }

    fn models_with_vectors(&self) -> Result<BTreeSet<ModelNumber>, Fault> {
        // Those of this batch are not in the table yet.
        let mut models: BTreeSet<ModelNumber> =
            self.vector_changes.0.iter().map(|(key, _)| ModelNumber((key >> 64) as u32)).collect();
        for entry in self.state.range(&b"v"[..]..&b"w"[..])? {
            let (key, _) = entry?;
            match StateKey::decode(key.value()) {
                Ok(StateKey::VectorCount(model)) => _ = models.insert(model),
                Ok(_) => {}
                Err(damage) => return Err(Fault::row(TableTag::State, key.value(), damage)),
            }
        }
        Ok(models)
    }

    fn count(&mut self, key: Vec<u8>, change: i64) {
        *self.count_changes.entry(key).or_default() += change;
    }

    fn row(&self, key: MemoryKey) -> Result<Option<Row>, Fault> {
        let Some(value) = self.memory.get(key.0)? else { return Ok(None) };
        let row = Row::decode(key, value.value());
        row.map(Some).map_err(|damage| Fault::row(TableTag::Memory, key.0, damage))
    }

    fn row_header(&self, key: MemoryKey) -> Result<Option<RowHeader>, Fault> {
        let Some(value) = self.memory.get(key.0)? else { return Ok(None) };
        let row = RowHeader::decode(key, value.value()).map(|(header, _)| Some(header));
        row.map_err(|damage| Fault::row(TableTag::Memory, key.0, damage))
    }

    /// Writes what was collected, the counts and the head.
    fn finish(mut self) -> Result<Head, Fault> {
        for (key, change) in self.label_changes.settled() {
            match change {
                Some(()) => self.labels.insert(key, ())?,
                None => self.labels.remove(key)?,
            };
        }
        for (key, change) in self.time_changes.settled() {
            match change {
                Some(bits) => {
                    let value = encode_number(TableTag::Time, &key_bytes(key), bits);
                    self.times.insert(key, &value)?
                }
                None => self.times.remove(key)?,
            };
        }
        for (key, change) in self.vector_changes.settled() {
            let (had, has) = match change {
                Some(location) => {
                    (self.vectors.insert(key, &encode_location(key, location))?.is_some(), true)
                }
                None => (self.vectors.remove(key)?.is_some(), false),
            };
            let change = i64::from(has) - i64::from(had);
            *self.count_changes.entry(vector_count_key(ModelNumber((key >> 64) as u32))).or_default() +=
                change;
        }
        for (key, change) in self.count_changes.into_iter().filter(|(_, change)| *change != 0) {
            let key = key.as_slice();
            let fault = |damage| Fault::row(TableTag::State, key, damage);
            let had = match self.state.get(key)? {
                Some(value) => decode_number(TableTag::State, key, value.value()).map_err(fault)?,
                None => 0,
            };
            match had.checked_add_signed(change) {
                Some(0) => _ = self.state.remove(key)?,
                Some(has) => {
                    _ = self.state.insert(key, encode_number(TableTag::State, key, has).as_slice())?;
                }
                None => return Err(Fault::Order(format!("a count of {had} goes down by {}", -change))),
            }
        }
        self.state.insert(HEAD_KEY, self.head.encode().as_slice())?;
        Ok(self.head)
    }
}
