//! Reads: one state of the view, which stays the same however many reads follow each other.

use std::cell::OnceCell;
use std::ops::ControlFlow;

use redb::{Key, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition, Value};

use super::Catalog;
use super::guard::{Fault, drop_guarded};
use super::tables::{ID, LABEL, MEMORY, STATE, TIME, VECTOR};
use crate::embed::ModelIdentity;
use crate::error::Result;
use crate::format::op::{MemoryKey, ModelNumber};
use crate::format::record::Location;
use crate::format::row::{
    HEAD_KEY, Head, LOCATION_LEN, Label, NUMBER_LEN, Row, RowHeader, StateKey, TableTag,
    collection_count_key, decode_location, decode_model, decode_number, label_key, memory_key,
    vector_count_key, vector_key,
};

/// Rows and entries that are read in one go, between calls of a caller's function.
const CHUNK_LEN: usize = 256;

type Number = &'static [u8; NUMBER_LEN];

/// A state of the view. Pages that it may read are not used anew while it lives, so it should not live long.
pub(crate) struct View<'a> {
    pub(super) catalog: &'a Catalog,
    /// `None` only while it is dropped.
    tables: Option<Tables>,
}

/// A read transaction and the tables that were used of it so far.
pub(super) struct Tables {
    txn: ReadTransaction,
    state: OnceCell<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    memory: OnceCell<ReadOnlyTable<u64, &'static [u8]>>,
    ids: OnceCell<ReadOnlyTable<&'static [u8], Number>>,
    labels: OnceCell<ReadOnlyTable<u128, ()>>,
    times: OnceCell<ReadOnlyTable<u128, Number>>,
    vectors: OnceCell<ReadOnlyTable<u128, &'static [u8; LOCATION_LEN]>>,
}

impl Tables {
    pub(super) fn begin(database: &impl ReadableDatabase) -> Result<Self, Fault> {
        Ok(Self {
            txn: database.begin_read()?,
            state: OnceCell::new(),
            memory: OnceCell::new(),
            ids: OnceCell::new(),
            labels: OnceCell::new(),
            times: OnceCell::new(),
            vectors: OnceCell::new(),
        })
    }

    fn opened<'t, K: Key + 'static, V: Value + 'static>(
        &self,
        cell: &'t OnceCell<ReadOnlyTable<K, V>>,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<&'t ReadOnlyTable<K, V>, Fault> {
        if let Some(table) = cell.get() {
            return Ok(table);
        }
        let table = self.txn.open_table(definition)?;
        Ok(cell.get_or_init(|| table))
    }

    pub(super) fn state(&self) -> Result<&ReadOnlyTable<&'static [u8], &'static [u8]>, Fault> {
        self.opened(&self.state, STATE)
    }

    pub(super) fn memory(&self) -> Result<&ReadOnlyTable<u64, &'static [u8]>, Fault> {
        self.opened(&self.memory, MEMORY)
    }

    pub(super) fn ids(&self) -> Result<&ReadOnlyTable<&'static [u8], Number>, Fault> {
        self.opened(&self.ids, ID)
    }

    pub(super) fn labels(&self) -> Result<&ReadOnlyTable<u128, ()>, Fault> {
        self.opened(&self.labels, LABEL)
    }

    pub(super) fn times(&self) -> Result<&ReadOnlyTable<u128, Number>, Fault> {
        self.opened(&self.times, TIME)
    }

    pub(super) fn vectors(&self) -> Result<&ReadOnlyTable<u128, &'static [u8; LOCATION_LEN]>, Fault> {
        self.opened(&self.vectors, VECTOR)
    }

    pub(super) fn head(&self) -> Result<Head, Fault> {
        let value = self
            .state()?
            .get(HEAD_KEY)?
            .ok_or_else(|| Fault::View(redb::Error::Corrupted("the head is missing".to_owned())))?;
        Head::decode(value.value()).map_err(|damage| Fault::row(TableTag::State, "head", damage))
    }

    pub(super) fn key_of(&self, id: &str) -> Result<Option<MemoryKey>, Fault> {
        let Some(value) = self.ids()?.get(id.as_bytes())? else { return Ok(None) };
        decode_number(TableTag::Id, id.as_bytes(), value.value())
            .map(|key| Some(MemoryKey(key)))
            .map_err(|damage| Fault::row(TableTag::Id, id, damage))
    }

    pub(super) fn row(&self, key: MemoryKey) -> Result<Option<Row>, Fault> {
        let Some(value) = self.memory()?.get(key.0)? else { return Ok(None) };
        let row = Row::decode(key, value.value());
        row.map(Some).map_err(|damage| Fault::row(TableTag::Memory, key.0, damage))
    }

    /// The row of a memory that another table names.
    pub(super) fn row_named(&self, key: MemoryKey, table: TableTag) -> Result<Row, Fault> {
        self.row(key)?.ok_or_else(|| {
            Fault::View(redb::Error::Corrupted(format!(
                "table {} names memory {}, which has no row",
                table.name(),
                key.0
            )))
        })
    }

    fn count(&self, key: &[u8]) -> Result<u64, Fault> {
        let Some(value) = self.state()?.get(key)? else { return Ok(0) };
        decode_number(TableTag::State, key, value.value())
            .map_err(|damage| Fault::row(TableTag::State, key, damage))
    }

    fn rows(&self, from: MemoryKey, limit: usize) -> Result<Vec<Row>, Fault> {
        let mut rows = Vec::new();
        for entry in self.memory()?.range(from.0..)?.take(limit) {
            let (key, value) = entry?;
            let key = MemoryKey(key.value());
            rows.push(
                Row::decode(key, value.value())
                    .map_err(|damage| Fault::row(TableTag::Memory, key.0, damage))?,
            );
        }
        Ok(rows)
    }

    fn vector_locations(
        &self,
        model: ModelNumber,
        from: MemoryKey,
        limit: usize,
    ) -> Result<Vec<(MemoryKey, Location)>, Fault> {
        let range = vector_key(model, from)..=vector_key(model, MemoryKey(u64::MAX));
        let mut locations = Vec::new();
        for entry in self.vectors()?.range(range)?.take(limit) {
            let (key, value) = entry?;
            let key = key.value();
            let location = decode_location(key, value.value())
                .map_err(|damage| Fault::row(TableTag::Vector, memory_key(key), damage))?;
            locations.push((memory_key(key), location));
        }
        Ok(locations)
    }

    fn without_vector(
        &self,
        model: ModelNumber,
        after: MemoryKey,
        limit: usize,
    ) -> Result<Vec<(MemoryKey, u64)>, Fault> {
        let mut found = Vec::new();
        // Keys with vectors lie close together, so the memories without one are looked for in the gaps.
        let Some(mut next) = after.0.checked_add(1) else { return Ok(found) };
        let with_vector = self
            .vectors()?
            .range(vector_key(model, MemoryKey(next))..=vector_key(model, MemoryKey(u64::MAX)))?;
        for entry in with_vector {
            let key = memory_key(entry?.0.value()).0;
            if key > next {
                self.text_seqs(next, key, limit, &mut found)?;
            }
            match key.checked_add(1) {
                Some(after) if found.len() < limit => next = after,
                _ => return Ok(found),
            }
        }
        self.text_seqs(next, u64::MAX, limit, &mut found)?;
        Ok(found)
    }

    /// Adds the memories with keys from `from` to before `end`.
    fn text_seqs(
        &self,
        from: u64,
        end: u64,
        limit: usize,
        found: &mut Vec<(MemoryKey, u64)>,
    ) -> Result<(), Fault> {
        for entry in self.memory()?.range(from..end)?.take(limit - found.len()) {
            let (key, value) = entry?;
            let key = MemoryKey(key.value());
            let (header, _) = RowHeader::decode(key, value.value())
                .map_err(|damage| Fault::row(TableTag::Memory, key.0, damage))?;
            found.push((key, header.text_seq));
        }
        Ok(())
    }
}

impl<'a> View<'a> {
    pub(super) fn begin(catalog: &'a Catalog) -> Result<Self> {
        let tables = catalog.guard.run(|| Tables::begin(catalog.database()))?;
        Ok(Self { catalog, tables: Some(tables) })
    }

    /// Reads behind the guard.
    pub(super) fn read<T>(&self, calls: impl FnOnce(&Tables) -> Result<T, Fault>) -> Result<T> {
        let tables = self.tables.as_ref().expect("only drop takes them");
        self.catalog.guard.run(|| calls(tables))
    }

    /// Up to where the log has been applied in this state.
    pub(crate) fn position(&self) -> Result<super::Position> {
        self.read(|tables| {
            let Head { applied_seq, segment, offset, .. } = tables.head()?;
            Ok(super::Position { applied_seq, segment, offset })
        })
    }

    /// How many memories there are in this state.
    pub(crate) fn count(&self) -> Result<u64> {
        self.read(|tables| Ok(tables.head()?.memories))
    }

    /// The model whose vectors recall uses in this state.
    pub(crate) fn active_model(&self) -> Result<Option<ModelNumber>> {
        self.read(|tables| Ok(tables.head()?.active_model))
    }

    /// The key of the memory with this id.
    pub(crate) fn key_of(&self, id: &str) -> Result<Option<MemoryKey>> {
        self.read(|tables| tables.key_of(id))
    }

    /// The row of a memory.
    pub(crate) fn row(&self, key: MemoryKey) -> Result<Option<Row>> {
        self.read(|tables| tables.row(key))
    }

    /// The row of the memory with this id.
    pub(crate) fn get(&self, id: &str) -> Result<Option<Row>> {
        self.read(|tables| {
            let Some(key) = tables.key_of(id)? else { return Ok(None) };
            let row = tables.row_named(key, TableTag::Id)?;
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
        self.read(|tables| {
            let range = label_key(hash, MemoryKey(0))..=label_key(hash, MemoryKey(u64::MAX));
            tables.labels()?.range(range)?.map(|entry| Ok(memory_key(entry?.0.value()))).collect()
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
            let rows = self.read(|tables| tables.rows(start, CHUNK_LEN))?;
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
        self.read(|tables| {
            let mut counts = Vec::new();
            for entry in tables.state()?.range(&b"c"[..]..&b"d"[..])? {
                let (key, value) = entry?;
                let key = key.value();
                let fault = |damage| Fault::row(TableTag::State, key, damage);
                if let StateKey::CollectionCount(name) = StateKey::decode(key).map_err(fault)? {
                    let count = decode_number(TableTag::State, key, value.value()).map_err(fault)?;
                    counts.push((name.to_owned(), count));
                }
            }
            Ok(counts)
        })
    }

    /// The number of memories in a collection.
    pub(crate) fn count_in(&self, collection: &str) -> Result<u64> {
        self.read(|tables| tables.count(&collection_count_key(collection)))
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
            let locations = self.read(|tables| tables.vector_locations(model, start, CHUNK_LEN))?;
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
        self.read(|tables| {
            let full = vector_key(model, key);
            let Some(value) = tables.vectors()?.get(full)? else { return Ok(None) };
            decode_location(full, value.value())
                .map(Some)
                .map_err(|damage| Fault::row(TableTag::Vector, key, damage))
        })
    }

    /// How many memories have vectors of the model.
    pub(crate) fn count_with_vectors(&self, model: ModelNumber) -> Result<u64> {
        self.read(|tables| tables.count(&vector_count_key(model)))
    }

    /// Memories without vectors of the model, after this key, in ascending order, each with the sequence of the
    /// record that stored its text.
    pub(crate) fn without_vector(
        &self,
        model: ModelNumber,
        after: MemoryKey,
        limit: usize,
    ) -> Result<Vec<(MemoryKey, u64)>> {
        self.read(|tables| tables.without_vector(model, after, limit))
    }

    /// Every model that has a number, by number.
    pub(crate) fn models(&self) -> Result<Vec<(ModelNumber, ModelIdentity)>> {
        self.read(|tables| {
            let mut models = Vec::new();
            for entry in tables.state()?.range(&b"m"[..]..&b"n"[..])? {
                let (key, value) = entry?;
                let fault = |damage| Fault::row(TableTag::State, key.value(), damage);
                if let StateKey::Model(number) = StateKey::decode(key.value()).map_err(fault)? {
                    models.push((number, decode_model(number, value.value()).map_err(fault)?));
                }
            }
            Ok(models)
        })
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        drop_guarded(self.tables.take());
    }
}

/// Where the next chunk begins, when this one was full.
fn next_start<T>(chunk: &[T], key: impl Fn(&T) -> MemoryKey) -> Option<MemoryKey> {
    chunk.last().filter(|_| chunk.len() == CHUNK_LEN)?;
    key(chunk.last()?).0.checked_add(1).map(MemoryKey)
}
