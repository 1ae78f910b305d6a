//! Reads: one state of the view, which stays the same however many reads follow each other.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::guard::Fault;
use super::snapshot::Snapshot;
use super::{Catalog, Position};
use crate::error::Result;
use crate::format::op::{LostV1, MemoryKey, ModelNumber};
use crate::format::record::Location;
use crate::format::row::{
    Head, Label, Row, RowHeader, StateKey, TableTag, decode_lost, decode_model, decode_number, label_key,
    memory_key, vector_count_key, vector_key,
};
use crate::memory::ModelIdentity;

/// Rows and entries that are read in one go, between calls of a caller's function.
const CHUNK_LEN: usize = 256;
/// The key that no memory has a key after.
const LAST_KEY: MemoryKey = MemoryKey(u64::MAX);

/// A state of the view. Pages that it may read are not used anew while it lives, so it should not live long.
pub(crate) struct View<'a> {
    catalog: &'a Catalog,
    snapshot: Arc<Snapshot>,
}

impl<'a> View<'a> {
    pub(super) fn new(catalog: &'a Catalog, snapshot: Arc<Snapshot>) -> Self {
        Self { catalog, snapshot }
    }

    /// Reads behind the guard.
    pub(super) fn read<T>(&self, calls: impl FnOnce(&Snapshot) -> Result<T, Fault>) -> Result<T> {
        self.catalog.guard.run(|| calls(&self.snapshot))
    }

    fn head(&self) -> &Head {
        &self.snapshot.delta.head
    }

    /// Up to where the log has been applied in this state.
    pub(crate) fn position(&self) -> Position {
        self.head().position
    }

    /// How many memories there are in this state.
    pub(crate) fn count(&self) -> u64 {
        self.head().memories
    }

    /// The row of a memory.
    pub(crate) fn row(&self, key: MemoryKey) -> Result<Option<Row>> {
        self.read(|snapshot| snapshot.row(key))
    }

    /// The places of a memory's present version and text.
    pub(crate) fn row_header(&self, key: MemoryKey) -> Result<Option<RowHeader>> {
        self.read(|snapshot| snapshot.row_header(key))
    }

    /// Calls with every location that a row or vectors name; some of them twice.
    pub(crate) fn for_each_location(&self, mut visit: impl FnMut(Location) -> ControlFlow<()>) -> Result<()> {
        self.read(|snapshot| {
            for entry in snapshot.rows(0..=LAST_KEY.0)? {
                let (key, value) = entry?;
                let (header, _) = RowHeader::decode(MemoryKey(key), &value)
                    .map_err(|damage| Fault::row(TableTag::Memory, key, damage))?;
                if visit(header.location).is_break() {
                    return Ok(());
                }
            }
            for entry in snapshot.vectors(0..=u128::MAX)? {
                if visit(entry?.1).is_break() {
                    return Ok(());
                }
            }
            Ok(())
        })
    }

    /// The row of the memory with this id.
    pub(crate) fn get(&self, id: &str) -> Result<Option<Row>> {
        self.read(|snapshot| {
            let Some(key) = snapshot.key_of(id)? else { return Ok(None) };
            let row = snapshot.row_named(key, TableTag::Id)?;
            if row.memory.id.as_str() != id {
                let what = format!("table id names memory {} under an id that it has not", key.0);
                return Err(Fault::View(redb::Error::Corrupted(what)));
            }
            Ok(Some(row))
        })
    }

    /// Memories of the collection that may have exactly this text, in ascending order. Whoever asks compares.
    pub(crate) fn keys_by_text_hash(&self, collection: &str, text: &str) -> Result<Vec<MemoryKey>> {
        let hash = Label::Text { collection, text }.hash();
        self.read(|snapshot| {
            let entries = snapshot.labels(label_key(hash, MemoryKey(0))..=label_key(hash, LAST_KEY))?;
            entries.map(|entry| Ok(memory_key(entry?.0))).collect()
        })
    }

    /// Calls with every row from this key on, in ascending order of keys.
    pub(crate) fn for_each_row(
        &self,
        from: MemoryKey,
        mut visit: impl FnMut(Row) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut from = Some(from);
        while let Some(start) = from {
            let rows = self.read(|snapshot| rows(snapshot, start))?;
            from = next_start(&rows, |row| row.key);
            for row in rows {
                if visit(row).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The number of memories in each collection, by name.
    pub(crate) fn collections(&self) -> Result<Vec<(String, u64)>> {
        self.read(|snapshot| {
            let mut counts = Vec::new();
            for entry in snapshot.state_with(b'c')? {
                let (key, value) = entry?;
                let fault = |damage| Fault::row(TableTag::State, &key, damage);
                if let StateKey::CollectionCount(name) = StateKey::decode(&key).map_err(fault)? {
                    let count = decode_number(TableTag::State, &key, &value).map_err(fault)?;
                    counts.push((name.to_owned(), count));
                }
            }
            Ok(counts)
        })
    }

    /// Calls with the location of the record that holds the vectors of each memory under the model, in ascending
    /// order of keys, from this key on.
    pub(crate) fn for_each_vector(
        &self,
        model: ModelNumber,
        from: MemoryKey,
        mut visit: impl FnMut(MemoryKey, Location) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut from = Some(from);
        while let Some(start) = from {
            let locations = self.read(|snapshot| vector_locations(snapshot, model, start))?;
            from = next_start(&locations, |(key, _)| *key);
            for (key, location) in locations {
                if visit(key, location).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Where the vectors of a memory under a model are.
    pub(crate) fn vector_location(&self, key: MemoryKey, model: ModelNumber) -> Result<Option<Location>> {
        self.read(|snapshot| snapshot.vector_location(vector_key(model, key)))
    }

    /// How many memories have vectors of the model.
    pub(crate) fn count_with_vectors(&self, model: ModelNumber) -> Result<u64> {
        self.read(|snapshot| snapshot.count(&vector_count_key(model)))
    }

    /// Memories without vectors of the model, after this key, in ascending order, each with the sequence of the
    /// record that stored its text.
    pub(crate) fn without_vector(
        &self,
        model: ModelNumber,
        after: MemoryKey,
        limit: usize,
    ) -> Result<Vec<(MemoryKey, u64)>> {
        self.read(|snapshot| without_vector(snapshot, model, after, limit))
    }

    /// Sequences whose records are lost, in ascending order.
    pub(crate) fn losses(&self) -> Result<Vec<LostV1>> {
        self.read(|snapshot| {
            let mut losses = Vec::new();
            for entry in snapshot.state_with(b'l')? {
                let (key, value) = entry?;
                let fault = |damage| Fault::row(TableTag::State, &key, damage);
                if let StateKey::Lost(first_seq) = StateKey::decode(&key).map_err(fault)? {
                    losses.push(decode_lost(first_seq, &value).map_err(fault)?);
                }
            }
            Ok(losses)
        })
    }

    /// Every model that has a number, by number.
    pub(crate) fn models(&self) -> Result<Vec<(ModelNumber, ModelIdentity)>> {
        self.read(|snapshot| {
            let mut models = Vec::new();
            for entry in snapshot.state_with(b'm')? {
                let (key, value) = entry?;
                let fault = |damage| Fault::row(TableTag::State, &key, damage);
                if let StateKey::Model(number) = StateKey::decode(&key).map_err(fault)? {
                    models.push((number, decode_model(number, &value).map_err(fault)?));
                }
            }
            Ok(models)
        })
    }
}

/// The next rows from a key on.
fn rows(snapshot: &Snapshot, from: MemoryKey) -> Result<Vec<Row>, Fault> {
    let mut rows = Vec::new();
    for entry in snapshot.rows(from.0..=LAST_KEY.0)?.take(CHUNK_LEN) {
        let (key, value) = entry?;
        let row = Row::decode(MemoryKey(key), &value);
        rows.push(row.map_err(|damage| Fault::row(TableTag::Memory, key, damage))?);
    }
    Ok(rows)
}

/// The next locations of vectors from a key on.
fn vector_locations(
    snapshot: &Snapshot,
    model: ModelNumber,
    from: MemoryKey,
) -> Result<Vec<(MemoryKey, Location)>, Fault> {
    let entries = snapshot.vectors(vector_key(model, from)..=vector_key(model, LAST_KEY))?;
    let located =
        entries.take(CHUNK_LEN).map(|entry| entry.map(|(key, location)| (memory_key(key), location)));
    located.collect()
}

fn without_vector(
    snapshot: &Snapshot,
    model: ModelNumber,
    after: MemoryKey,
    limit: usize,
) -> Result<Vec<(MemoryKey, u64)>, Fault> {
    let mut found = Vec::new();
    // Keys with vectors lie close together, so the memories without one are looked for in the gaps.
    let Some(mut next) = after.0.checked_add(1) else { return Ok(found) };
    for entry in snapshot.vectors(vector_key(model, MemoryKey(next))..=vector_key(model, LAST_KEY))? {
        let key = memory_key(entry?.0).0;
        if key > next {
            text_seqs(snapshot, next..=key - 1, limit, &mut found)?;
        }
        match key.checked_add(1) {
            Some(after) if found.len() < limit => next = after,
            _ => return Ok(found),
        }
    }
    text_seqs(snapshot, next..=LAST_KEY.0, limit, &mut found)?;
    Ok(found)
}

/// Adds the memories with these keys, as long as there are fewer than the limit.
fn text_seqs(
    snapshot: &Snapshot,
    keys: std::ops::RangeInclusive<u64>,
    limit: usize,
    found: &mut Vec<(MemoryKey, u64)>,
) -> Result<(), Fault> {
    for entry in snapshot.rows(keys)?.take(limit - found.len()) {
        let (key, value) = entry?;
        let (header, _) = RowHeader::decode(MemoryKey(key), &value)
            .map_err(|damage| Fault::row(TableTag::Memory, key, damage))?;
        found.push((MemoryKey(key), header.text_seq));
    }
    Ok(())
}

/// Where the next chunk begins, when this one was full.
fn next_start<T>(chunk: &[T], key: impl Fn(&T) -> MemoryKey) -> Option<MemoryKey> {
    chunk.last().filter(|_| chunk.len() == CHUNK_LEN)?;
    key(chunk.last()?).0.checked_add(1).map(MemoryKey)
}
