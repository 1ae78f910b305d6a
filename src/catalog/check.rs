//! Looks at every byte of the view that counts: every row of every table, read from the disk again, and whether the
//! other tables say exactly what the memories' rows say.
//!
//! The tables are read in pieces, by as many threads as somebody gives; what they hold is compared by sums that do not
//! depend on an order. Only where those differ are entries looked up one by one, to name them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::Database;

use super::Catalog;
use super::guard::{Fault, Guard, drop_guarded};
use super::pages::FrozenPages;
use super::snapshot::{Base, Snapshot};
use super::{Position, database, locked};
use crate::error::{ErrorKind, Result};
use crate::format::op::{MemoryKey, ModelNumber};
use crate::format::row::{
    LabelHashes, Row, RowRef, StateKey, TableTag, collection_count_key, decode_location, decode_lost,
    decode_model, decode_number, key_bytes, label_key, label_keys, memory_key, time_key, vector_count_key,
};
use crate::memory::Memory;

/// Cache of the database that is opened for the check. Each page is read about once.
const CACHE_BYTES: usize = 16 << 20;
/// Pieces of the table of rows, and of that of labels.
const TABLE_PIECES: u64 = 16;
/// A view of fewer memories is not worth the division.
const DIVIDED_MEMORIES_MIN: u64 = 10_000;

/// Something in the view that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ViewDamage {
    /// The table, where one can be named.
    pub(crate) table: Option<&'static str>,
    /// The entry's key as text, where one can be named.
    pub(crate) key: Option<String>,
    /// Offset in the file, where a page is damaged.
    pub(crate) offset: Option<u64>,
    /// What is wrong.
    pub(crate) what: String,
}

/// The view as it is on the disk, open for a check beside whoever reads and writes it.
pub(crate) struct ViewCheck {
    path: PathBuf,
    /// `None` only while it is dropped.
    opened: Option<Result<Opened, ViewDamage>>,
    pieces: Vec<Piece>,
    bytes: u64,
    /// Keeps redb from using the pages anew.
    _kept: Arc<Base>,
}

struct Opened {
    snapshot: Snapshot,
    // After the snapshot, which is dropped first.
    database: Database,
}

/// A part of the view that is read by itself.
#[derive(Clone, Debug)]
enum Piece {
    Ids,
    Times,
    Vectors,
    Labels(RangeInclusive<u128>),
    Rows(RangeInclusive<u64>),
}

/// What one piece holds.
#[derive(Debug, Default)]
pub(crate) struct PieceRead {
    entries: u64,
    damages: Vec<ViewDamage>,
    /// Whether it was not read to its end, because of this or another piece's damage.
    is_cut: bool,
    rows: Vec<(MemoryKey, u64)>,
    vectors: Vec<u128>,
    /// What rows say that other tables say, too.
    by_rows: Sums,
    /// What those say.
    by_tables: Sums,
    collections: BTreeMap<String, u64>,
}

/// What a check of the whole view found.
#[derive(Debug, Default)]
pub(crate) struct ViewRead {
    pub(crate) damages: Vec<ViewDamage>,
    /// Each memory with the record of its present version, in the order of keys.
    pub(crate) rows: Vec<(MemoryKey, u64)>,
    /// Entries that were read.
    pub(crate) entries: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    ids: Fingerprint,
    labels: Fingerprint,
    times: Fingerprint,
}

/// Tells sets of entries apart without keeping them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fingerprint {
    entries: u64,
    sum: u64,
}

impl Fingerprint {
    fn add(&mut self, key: u128, value: u64) {
        let mut mixed = (key as u64) ^ ((key >> 64) as u64).rotate_left(29) ^ value.rotate_left(43);
        for factor in [0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB] {
            mixed = (mixed ^ mixed >> 31).wrapping_mul(factor);
        }
        self.entries += 1;
        self.sum = self.sum.wrapping_add(mixed ^ mixed >> 32);
    }

    fn add_id(&mut self, id: &[u8], key: u64) {
        self.add(u128::from(crc32fast::hash(id)) << 64 | id.len() as u128, key);
    }

    fn add_all(&mut self, other: Self) {
        self.entries += other.entries;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl Sums {
    fn add_all(&mut self, other: Self) {
        self.ids.add_all(other.ids);
        self.labels.add_all(other.labels);
        self.times.add_all(other.times);
    }
}

impl Catalog {
    /// Opens the whole view for a check as it is on the disk, beside whoever reads and writes it.
    ///
    /// # Errors
    /// Those of [`Catalog::checkpoint`], which comes first, and of the operating system.
    pub(crate) fn open_check(&self) -> Result<ViewCheck> {
        let guard = Guard::new(self.guard.path());
        // The state on the disk must not change until it is open for the check and its pages are kept for it.
        let mut is_durable = locked(&self.live().writing);
        self.write_durably(&mut is_durable)?;
        let kept = Arc::clone(&self.snapshot().base);
        let mut bytes = 0;
        let opened = guard.run(|| {
            let frozen = FrozenPages::new(self.live().pages.clone()).map_err(redb::StorageError::Io)?;
            bytes = redb::StorageBackend::len(&frozen).map_err(redb::StorageError::Io)?;
            let database = database::open_beside(frozen, CACHE_BYTES)?;
            let snapshot = Snapshot::read(&database)?;
            Ok(Opened { snapshot, database })
        });
        drop(is_durable);
        let opened = match opened {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let what = error.message().to_owned();
                Err(ViewDamage { table: None, key: None, offset: error.offset(), what })
            }
            opened => Ok(opened?),
        };
        let pieces = opened.as_ref().map_or_else(|_| Vec::new(), |opened| pieces(&opened.snapshot));
        Ok(ViewCheck { path: guard.path().to_owned(), opened: Some(opened), pieces, bytes, _kept: kept })
    }
}

/// The parts of a view, those that cannot be divided first: whoever works on them in turns ends at about the same time.
fn pieces(snapshot: &Snapshot) -> Vec<Piece> {
    let head = &snapshot.delta.head;
    let count = if head.memories < DIVIDED_MEMORIES_MIN { 1 } else { TABLE_PIECES };
    let part = |at: u64, step: u64| {
        let last = if at + 1 == count { u64::MAX } else { (at + 1) * step - 1 };
        at * step..=last
    };
    let labels = (0..count).map(|at| {
        let hashes = part(at, u64::MAX / count);
        let (first, last) =
            (label_key(*hashes.start(), MemoryKey(0)), label_key(*hashes.end(), MemoryKey(u64::MAX)));
        Piece::Labels(first..=last)
    });
    let rows = (0..count).map(|at| Piece::Rows(part(at, head.position.tail.last_seq / count + 1)));
    [Piece::Ids, Piece::Times, Piece::Vectors].into_iter().chain(labels).chain(rows).collect()
}

impl Drop for ViewCheck {
    fn drop(&mut self) {
        if let Some(Ok(Opened { snapshot, database })) = self.opened.take() {
            drop(snapshot);
            drop_guarded(database);
        }
    }
}

impl ViewCheck {
    /// The view's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Up to where it holds the log; `None` when it cannot be read.
    pub(crate) fn position(&self) -> Option<Position> {
        self.opened().ok().map(|opened| opened.snapshot.delta.head.position)
    }

    /// How many pieces there are to read.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// About how many bytes there are to read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn opened(&self) -> Result<&Opened, &ViewDamage> {
        self.opened.as_ref().expect("only drop takes it").as_ref()
    }

    /// Reads one of the pieces. A damaged page ends it: what lies behind it cannot be reached.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn read(&self, piece: usize) -> Result<PieceRead> {
        let Ok(Opened { snapshot, .. }) = self.opened() else { return Ok(PieceRead::default()) };
        let mut read = PieceRead::default();
        let result = Guard::new(&self.path).run(|| match read.all(&snapshot.base, &self.pieces[piece]) {
            // Damage that another piece has met and tells of: redb reads nothing after it.
            Err(Fault::View(redb::Error::PreviousIo)) => Ok(false),
            result => result.map(|()| true),
        });
        match result {
            Ok(is_whole) => read.is_cut = !is_whole,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let what = error.message().to_owned();
                read.is_cut = true;
                read.damages.push(ViewDamage { table: None, key: None, offset: error.offset(), what });
            }
            Err(error) => return Err(error),
        }
        Ok(read)
    }

    /// Holds what the pieces hold against each other. They are given in their order, each once.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn finish(&self, pieces: Vec<PieceRead>) -> Result<ViewRead> {
        let snapshot = match self.opened() {
            Ok(opened) => &opened.snapshot,
            Err(damage) => return Ok(ViewRead { damages: vec![damage.clone()], ..ViewRead::default() }),
        };
        let mut all = PieceRead::default();
        for piece in pieces {
            all.add(piece);
        }
        if all.is_cut && all.damages.is_empty() {
            let what = "it cannot be read to its end".to_owned();
            all.damages.push(ViewDamage { table: None, key: None, offset: None, what });
        }
        if !all.is_cut {
            let guard = Guard::new(&self.path);
            let compared = Check { guard: &guard, snapshot, read: &mut all }.compare_all();
            match compared {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let what = error.message().to_owned();
                    all.damages.push(ViewDamage { table: None, key: None, offset: error.offset(), what });
                }
                compared => compared?,
            }
        }
        let PieceRead { entries, damages, rows, .. } = all;
        Ok(ViewRead { damages, rows, entries })
    }
}

impl PieceRead {
    /// Reads every entry of a piece.
    fn all(&mut self, base: &Base, piece: &Piece) -> Result<(), Fault> {
        match piece {
            Piece::Ids => base.each_id(|id, value| {
                self.entries += 1;
                match decode_number(TableTag::Id, id, value) {
                    Ok(key) => self.by_tables.ids.add_id(id, key),
                    Err(damage) => self.damaged(TableTag::Id, String::from_utf8_lossy(id), damage),
                }
            }),
            Piece::Times => base.each_time(|key, value| {
                self.entries += 1;
                match decode_number(TableTag::Time, &key_bytes(key), value) {
                    Ok(bits) => self.by_tables.times.add(key, bits),
                    Err(damage) => self.damaged(TableTag::Time, shown(key), damage),
                }
            }),
            Piece::Vectors => base.each_vector(|key, value| {
                self.entries += 1;
                match decode_location(key, value) {
                    Ok(_) => self.vectors.push(key),
                    Err(damage) => self.damaged(TableTag::Vector, shown_vector(key), damage),
                }
            }),
            Piece::Labels(keys) => base.each_label(keys.clone(), |key| {
                self.entries += 1;
                self.by_tables.labels.add(key, 0);
            }),
            Piece::Rows(keys) => {
                let mut labels = LabelHashes::new();
                base.each_row(keys.clone(), |key, value| {
                    self.entries += 1;
                    match RowRef::decode(MemoryKey(key), value) {
                        Ok(row) => self.row(MemoryKey(key), &row, &mut labels),
                        Err(damage) => self.damaged(TableTag::Memory, key, damage),
                    }
                })
            }
        }
    }

    fn row(&mut self, key: MemoryKey, row: &RowRef<'_>, labels: &mut LabelHashes) {
        let memory = &row.memory;
        self.rows.push((key, row.seq));
        self.by_rows.ids.add_id(memory.id.as_bytes(), key.0);
        labels.of(memory).iter().for_each(|hash| self.by_rows.labels.add(label_key(*hash, key), 0));
        self.by_rows.times.add(time_key(memory.timestamp, key), memory.importance.to_bits());
        match self.collections.get_mut(memory.collection) {
            Some(count) => *count += 1,
            None => _ = self.collections.insert(memory.collection.to_owned(), 1),
        }
    }

    fn damaged(&mut self, table: TableTag, key: impl ToString, what: impl ToString) {
        self.damages.push(damage_of(table, key, what));
    }

    fn add(&mut self, other: Self) {
        let Self { entries, damages, is_cut, rows, vectors, by_rows, by_tables, collections } = other;
        self.entries += entries;
        self.damages.extend(damages);
        self.is_cut |= is_cut;
        self.rows.extend(rows);
        self.vectors.extend(vectors);
        self.by_rows.add_all(by_rows);
        self.by_tables.add_all(by_tables);
        for (collection, count) in collections {
            *self.collections.entry(collection).or_default() += count;
        }
    }
}

/// The comparison of what was read.
struct Check<'c> {
    guard: &'c Guard,
    snapshot: &'c Snapshot,
    read: &'c mut PieceRead,
}

impl Check<'_> {
    fn compare_all(&mut self) -> Result<()> {
        let (expected, found) = (self.read.by_rows, self.read.by_tables);
        if found.ids != expected.ids {
            self.compare_ids()?;
        }
        if found.labels != expected.labels {
            self.compare_labels()?;
        }
        if found.times != expected.times {
            self.compare_times()?;
        }
        let with_vectors = self.vectors();
        self.state(&with_vectors)
    }

    /// Compares the locations of vectors with the rows; returns how many there are of each model.
    fn vectors(&mut self) -> BTreeMap<ModelNumber, u64> {
        let PieceRead { vectors, rows, damages, .. } = &mut *self.read;
        let mut counts: BTreeMap<ModelNumber, u64> = BTreeMap::new();
        // Both are sorted, the vectors of each model by themselves.
        for of_model in vectors.chunk_by(|a, b| a >> 64 == b >> 64) {
            let mut rows = rows.iter().map(|(key, _)| *key).peekable();
            for entry in of_model {
                let key = memory_key(*entry);
                while rows.next_if(|row| *row < key).is_some() {}
                if rows.peek() != Some(&key) {
                    let what = "stray: the memory has no row";
                    damages.push(damage_of(TableTag::Vector, shown_vector(*entry), what));
                }
            }
            counts.insert(ModelNumber((of_model[0] >> 64) as u32), of_model.len() as u64);
        }
        counts
    }

    /// Compares the counts with what was counted, and reads the models.
    fn state(&mut self, with_vectors: &BTreeMap<ModelNumber, u64>) -> Result<()> {
        let Self { guard, snapshot, read } = self;
        let (head, rows) = (snapshot.delta.head, read.rows.len() as u64);
        if head.memories != rows {
            let what = format!("the head counts {} memories, there are {rows}", head.memories);
            read.damaged(TableTag::State, "head", what);
        }
        let collections = read.collections.iter();
        let mut counts: BTreeMap<Vec<u8>, u64> =
            collections.map(|(name, count)| (collection_count_key(name), *count)).collect();
        counts.extend(with_vectors.iter().map(|(model, count)| (vector_count_key(*model), *count)));
        let mut stored = Vec::new();
        guard.run(|| {
            for letter in [b'c', b'l', b'm', b'v'] {
                for entry in snapshot.state_with(letter)? {
                    let (key, value) = entry?;
                    read.entries += 1;
                    let decoded = match StateKey::decode(&key) {
                        Ok(StateKey::Model(number)) => decode_model(number, &value).map(|_| None),
                        Ok(StateKey::Lost(first_seq)) => decode_lost(first_seq, &value).map(|_| None),
                        Ok(_) => decode_number(TableTag::State, &key, &value).map(Some),
                        Err(damage) => Err(damage),
                    };
                    match decoded {
                        Ok(None) => {}
                        Ok(Some(count)) => stored.push((key, count)),
                        Err(damage) => read.damaged(TableTag::State, key.escape_ascii(), damage),
                    }
                }
            }
            Ok(())
        })?;
        for (key, count) in stored {
            let counted = counts.remove(&key).unwrap_or(0);
            if counted != count {
                let what = format!("the count is {count}, there are {counted}");
                read.damaged(TableTag::State, key.escape_ascii(), what);
            }
        }
        for (key, counted) in counts {
            let what = format!("the count is missing, there are {counted}");
            read.damaged(TableTag::State, key.escape_ascii(), what);
        }
        Ok(())
    }

    /// Finds the entries by which the table of ids differs from the rows.
    fn compare_ids(&mut self) -> Result<()> {
        self.compare(TableTag::Id, |snapshot, key, memory| {
            let named = snapshot.key_of(memory.id.as_str())?;
            Ok((named != Some(key)).then(|| memory.id.to_string()).into_iter().collect())
        })?;
        self.stray(
            TableTag::Id,
            |snapshot| snapshot.base.ids(),
            |snapshot, (id, key)| {
                let row = snapshot.row(MemoryKey(*key))?;
                Ok(row.is_none_or(|row| row.memory.id.as_str() != id).then(|| id.to_string()))
            },
        )
    }

    fn compare_labels(&mut self) -> Result<()> {
        self.compare(TableTag::Label, |snapshot, key, memory| {
            let mut missing = Vec::new();
            for label in label_keys(key, memory) {
                if snapshot.labels(label..=label)?.next().is_none() {
                    missing.push(shown(label));
                }
            }
            Ok(missing)
        })?;
        self.stray(
            TableTag::Label,
            |snapshot| snapshot.labels(0..=u128::MAX),
            |snapshot, (label, ())| {
                let key = memory_key(*label);
                let row = snapshot.row(key)?;
                Ok(row.is_none_or(|row| !label_keys(key, &row.memory).contains(label)).then(|| shown(*label)))
            },
        )
    }

    fn compare_times(&mut self) -> Result<()> {
        self.compare(TableTag::Time, |snapshot, key, memory| {
            let entry = time_key(memory.timestamp, key);
            let stored = snapshot.times(entry..=entry)?.next().transpose()?;
            let same = stored.is_some_and(|(_, bits)| bits == memory.importance.to_bits());
            Ok((!same).then(|| shown(entry)).into_iter().collect())
        })?;
        self.stray(
            TableTag::Time,
            |snapshot| snapshot.times(0..=u128::MAX),
            |snapshot, (entry, _)| {
                let key = memory_key(*entry);
                let row = snapshot.row(key)?;
                Ok(row.is_none_or(|row| time_key(row.memory.timestamp, key) != *entry).then(|| shown(*entry)))
            },
        )
    }

    /// Reports the entries that rows should have and have not.
    fn compare(
        &mut self,
        table: TableTag,
        missing: impl Fn(&Snapshot, MemoryKey, &Memory) -> Result<Vec<String>, Fault>,
    ) -> Result<()> {
        let Self { guard, snapshot, read: PieceRead { damages: findings, .. } } = self;
        guard.run(|| {
            for entry in snapshot.rows(0..=u64::MAX)? {
                let (key, value) = entry?;
                // Damaged rows are reported already.
                let Ok(row) = Row::decode(MemoryKey(key), &value) else { continue };
                match missing(snapshot, row.key, &row.memory) {
                    Ok(keys) => {
                        let what = format!("missing or wrong: memory {key} should have it");
                        findings.extend(keys.into_iter().map(|key| damage_of(table, key, what.as_str())));
                    }
                    Err(Fault::Row { .. }) => {}
                    Err(fault) => return Err(fault),
                }
            }
            Ok(())
        })
    }

    /// Reports the entries that no row has.
    fn stray<'s, E: 's, I: Iterator<Item = Result<E, Fault>>>(
        &'s mut self,
        table: TableTag,
        entries: impl FnOnce(&'s Snapshot) -> Result<I, Fault>,
        stray: impl Fn(&Snapshot, &E) -> Result<Option<String>, Fault>,
    ) -> Result<()> {
        let Self { guard, snapshot, read: PieceRead { damages: findings, .. } } = self;
        guard.run(|| {
            for entry in entries(snapshot)? {
                match entry.and_then(|entry| stray(snapshot, &entry)) {
                    Ok(key) => findings
                        .extend(key.map(|key| damage_of(table, key, "stray: no memory should have it"))),
                    Err(Fault::Row { .. }) => {}
                    Err(fault) => return Err(fault),
                }
            }
            Ok(())
        })
    }
}

/// A key of the table of vectors as it is shown.
fn shown_vector(key: u128) -> String {
    format!("model {}, memory {}", key >> 64, memory_key(key).0)
}

/// A 16-byte key as it is shown: its two numbers.
fn shown(key: u128) -> String {
    format!("{:016x}/{}", key >> 64, memory_key(key).0)
}

fn damage_of(table: TableTag, key: impl ToString, what: impl ToString) -> ViewDamage {
    ViewDamage { table: Some(table.name()), key: Some(key.to_string()), offset: None, what: what.to_string() }
}
