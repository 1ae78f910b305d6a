//! What the view says at one moment: redb's tables as a transaction left them, and what was applied after it.

use std::ops::RangeInclusive;
use std::sync::Arc;

use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase};

use super::delta::Delta;
use super::guard::{Fault, drop_guarded};
use super::tables::{ID, LABEL, MEMORY, STATE, TIME, VECTOR};
use crate::format::op::MemoryKey;
use crate::format::record::Location;
use crate::format::row::{
    HEAD_KEY, Head, LOCATION_LEN, NUMBER_LEN, Row, RowHeader, TableTag, decode_location, decode_number,
    key_bytes, memory_key,
};

/// An entry of a table, or why it could not be read.
pub(super) type Entry<K, V> = Result<(K, V), Fault>;

/// The tables as a transaction left them, open for reading. Their pages are kept while it lives.
pub(super) struct Base {
    /// `None` only while it is dropped.
    open: Option<Open>,
}

struct Open {
    state: ReadOnlyTable<&'static [u8], &'static [u8]>,
    memory: ReadOnlyTable<u64, &'static [u8]>,
    ids: ReadOnlyTable<&'static [u8], &'static [u8; NUMBER_LEN]>,
    labels: ReadOnlyTable<u128, ()>,
    times: ReadOnlyTable<u128, &'static [u8; NUMBER_LEN]>,
    vectors: ReadOnlyTable<u128, &'static [u8; LOCATION_LEN]>,
    // After the tables, which are dropped first.
    _txn: ReadTransaction,
}

impl Base {
    pub(super) fn read(database: &impl ReadableDatabase) -> Result<Self, Fault> {
        let txn = database.begin_read()?;
        let open = Open {
            state: txn.open_table(STATE)?,
            memory: txn.open_table(MEMORY)?,
            ids: txn.open_table(ID)?,
            labels: txn.open_table(LABEL)?,
            times: txn.open_table(TIME)?,
            vectors: txn.open_table(VECTOR)?,
            _txn: txn,
        };
        Ok(Self { open: Some(open) })
    }

    fn open(&self) -> &Open {
        self.open.as_ref().expect("only drop takes it")
    }

    /// Entries of the table of ids.
    pub(super) fn ids(&self) -> Result<impl Iterator<Item = Entry<String, u64>> + use<>, Fault> {
        Ok(self.open().ids.range::<&[u8]>(..)?.map(|entry| {
            let (id, value) = entry?;
            let id = String::from_utf8_lossy(id.value()).into_owned();
            let key = decode_number(TableTag::Id, id.as_bytes(), value.value())
                .map_err(|damage| Fault::row(TableTag::Id, &id, damage))?;
            Ok((id, key))
        }))
    }

    /// The head that the transaction wrote.
    pub(super) fn head(&self) -> Result<Head, Fault> {
        let value = self
            .open()
            .state
            .get(HEAD_KEY)?
            .ok_or_else(|| Fault::View(redb::Error::Corrupted("the head is missing".to_owned())))?;
        Head::decode(value.value()).map_err(|damage| Fault::row(TableTag::State, "head", damage))
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        drop_guarded(self.open.take());
    }
}

/// What the view says at one moment.
pub(super) struct Snapshot {
    pub(super) base: Arc<Base>,
    pub(super) delta: Delta,
}

impl Snapshot {
    /// Sequence of the last record that this state holds; 0 when there is none.
    pub(super) fn applied_seq(&self) -> u64 {
        self.delta.head.position.tail.last_seq
    }

    /// The state that the last transaction left.
    pub(super) fn read(database: &impl ReadableDatabase) -> Result<Self, Fault> {
        let base = Base::read(database)?;
        let delta = Delta::empty(base.head()?);
        Ok(Self { base: Arc::new(base), delta })
    }

    pub(super) fn key_of(&self, id: &str) -> Result<Option<MemoryKey>, Fault> {
        if let Some(key) = self.delta.ids.get(id) {
            return Ok(key.map(|key| MemoryKey(*key)));
        }
        let Some(value) = self.base.open().ids.get(id.as_bytes())? else { return Ok(None) };
        decode_number(TableTag::Id, id.as_bytes(), value.value())
            .map(|key| Some(MemoryKey(key)))
            .map_err(|damage| Fault::row(TableTag::Id, id, damage))
    }

    pub(super) fn row(&self, key: MemoryKey) -> Result<Option<Row>, Fault> {
        self.with_row(key, |value| Row::decode(key, value))
    }

    pub(super) fn row_header(&self, key: MemoryKey) -> Result<Option<RowHeader>, Fault> {
        self.with_row(key, |value| RowHeader::decode(key, value).map(|(header, _)| header))
    }

    fn with_row<T>(
        &self,
        key: MemoryKey,
        decode: impl FnOnce(&[u8]) -> Result<T, crate::format::Damage>,
    ) -> Result<Option<T>, Fault> {
        let decoded = match self.delta.memory.get(&key.0) {
            Some(value) => value.map(|value| decode(value)),
            None => self.base.open().memory.get(key.0)?.map(|value| decode(value.value())),
        };
        decoded.transpose().map_err(|damage| Fault::row(TableTag::Memory, key.0, damage))
    }

    /// The row of a memory that another table names.
    pub(super) fn row_named(&self, key: MemoryKey, table: TableTag) -> Result<Row, Fault> {
        self.row(key)?.ok_or_else(|| {
            let what = format!("table {} names memory {}, which has no row", table.name(), key.0);
            Fault::View(redb::Error::Corrupted(what))
        })
    }

    /// Rows as they are stored, by key.
    pub(super) fn rows(
        &self,
        keys: RangeInclusive<u64>,
    ) -> Result<impl DoubleEndedIterator<Item = Entry<u64, Arc<[u8]>>> + '_, Fault> {
        let table = self.base.open().memory.range(keys.clone())?.map(|entry| {
            let (key, value) = entry?;
            Ok((key.value(), value.value().into()))
        });
        Ok(self.delta.memory.over(table, keys.start(), keys.end()))
    }

    /// Entries of the table of labels.
    pub(super) fn labels(
        &self,
        keys: RangeInclusive<u128>,
    ) -> Result<impl DoubleEndedIterator<Item = Entry<u128, ()>> + use<'_>, Fault> {
        let table = self.base.open().labels.range(keys.clone())?.map(|entry| Ok((entry?.0.value(), ())));
        Ok(self.delta.labels.over(table, keys.start(), keys.end()))
    }

    /// Entries of the table of times, each with the bits of the importance.
    pub(super) fn times(
        &self,
        keys: RangeInclusive<u128>,
    ) -> Result<impl DoubleEndedIterator<Item = Entry<u128, u64>> + '_, Fault> {
        let table = self.base.open().times.range(keys.clone())?.map(|entry| {
            let (key, value) = entry?;
            let key = key.value();
            let bits = decode_number(TableTag::Time, &key_bytes(key), value.value())
                .map_err(|damage| Fault::row(TableTag::Time, memory_key(key), damage))?;
            Ok((key, bits))
        });
        Ok(self.delta.times.over(table, keys.start(), keys.end()))
    }

    /// Entries of the table of vectors.
    pub(super) fn vectors(
        &self,
        keys: RangeInclusive<u128>,
    ) -> Result<impl DoubleEndedIterator<Item = Entry<u128, Location>> + '_, Fault> {
        let table = self.base.open().vectors.range(keys.clone())?.map(|entry| {
            let (key, value) = entry?;
            let key = key.value();
            let location = decode_location(key, value.value())
                .map_err(|damage| Fault::row(TableTag::Vector, memory_key(key), damage))?;
            Ok((key, location))
        });
        Ok(self.delta.vectors.over(table, keys.start(), keys.end()))
    }

    /// Where the vectors under a key of the table of vectors are.
    pub(super) fn vector_location(&self, key: u128) -> Result<Option<Location>, Fault> {
        if let Some(location) = self.delta.vectors.get(&key) {
            return Ok(location.copied());
        }
        let Some(value) = self.base.open().vectors.get(key)? else { return Ok(None) };
        decode_location(key, value.value())
            .map(Some)
            .map_err(|damage| Fault::row(TableTag::Vector, memory_key(key), damage))
    }

    /// Entries of the table of state whose key begins with this letter, as they are stored.
    pub(super) fn state_with(
        &self,
        letter: u8,
    ) -> Result<impl DoubleEndedIterator<Item = Entry<Vec<u8>, Arc<[u8]>>> + '_, Fault> {
        let (first, end) = ([letter], [letter + 1]);
        let table = self.base.open().state.range(first.as_slice()..end.as_slice())?.map(|entry| {
            let (key, value) = entry?;
            Ok((key.value().to_vec(), value.value().into()))
        });
        // No key is just the next letter, so it does for the end of the range.
        Ok(self.delta.state.over(table, &first.to_vec(), &end.to_vec()))
    }

    /// A count of the table of state; 0 where there is none.
    pub(super) fn count(&self, key: &[u8]) -> Result<u64, Fault> {
        let count = match self.delta.state.get(key) {
            Some(value) => value.map(|value| decode_number(TableTag::State, key, value)),
            None => {
                let value = self.base.open().state.get(key)?;
                value.map(|value| decode_number(TableTag::State, key, value.value()))
            }
        };
        count.unwrap_or(Ok(0)).map_err(|damage| Fault::row(TableTag::State, key, damage))
    }
}
