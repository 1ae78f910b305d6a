//! Looks at every byte of the view that counts: every row of every table, read from the disk again, and whether the
//! other tables say exactly what the memories' rows say.
//!
//! The tables are read in pieces of the file, by as many threads as somebody gives; what they hold is compared by sums
//! that do not depend on an order. Only where those differ are entries looked up one by one, to name them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::Database;

use super::Catalog;
use super::guard::{Fault, Guard, drop_guarded};
use super::pages::FrozenPages;
use super::snapshot::{Base, Snapshot};
use super::tree::{Leaf, Tree, TreeFault, Trees};
use super::{Position, database, locked};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Damage;
use crate::format::op::{MemoryKey, ModelNumber};
use crate::format::pages::PAGE_LEN;
use crate::format::row::{
    LOCATION_LEN, LabelHashes, Row, RowRef, StateKey, TableTag, collection_count_key, decode_location,
    decode_lost, decode_model, decode_number, label_key, label_keys, memory_key, time_key, vector_count_key,
};
use crate::memory::Memory;

/// Cache of the database that is opened for the check. Each page is read about once.
const CACHE_BYTES: usize = 16 << 20;
/// About how many pages of the file are a piece.
const PIECE_PAGES: u64 = 2048;

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
    /// Keeps redb from using the pages anew.
    _kept: Arc<Base>,
}

struct Opened {
    snapshot: Snapshot,
    // After the snapshot, which is dropped first.
    database: Database,
    trees: Trees,
    /// Every table but that of state, which is small and read entry by entry.
    tables: Vec<Tree>,
    /// Their leaves in the order of the file, and the pieces that these are read in.
    leaves: Vec<Leaf>,
    pieces: Vec<Range<usize>>,
}

/// What one piece holds.
#[derive(Debug, Default)]
pub(crate) struct PieceRead {
    /// How many entries there are of each table.
    entries: BTreeMap<TableTag, u64>,
    damages: Vec<ViewDamage>,
    /// Whether a page of it could not be read.
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
        let pages = self.live().pages.clone();
        let opened = guard.run(|| {
            let frozen = FrozenPages::new(pages.clone()).map_err(redb::StorageError::Io)?;
            let state = frozen.state();
            let database = database::open_beside(frozen, CACHE_BYTES)?;
            let snapshot = Snapshot::read(&database)?;
            Ok((state, snapshot, database))
        });
        drop(is_durable);
        let opened = match opened {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let what = error.message().to_owned();
                Err(ViewDamage { table: None, key: None, offset: error.offset(), what })
            }
            opened => {
                let (state, snapshot, database) = opened?;
                let leaves = || {
                    let (trees, mut tables) = Trees::open(pages, &state)?;
                    tables.retain(|tree| tree.table != TableTag::State);
                    let leaves = trees.leaves(&tables)?;
                    Ok((trees, tables, leaves))
                };
                match leaves() {
                    Ok((trees, tables, leaves)) => {
                        let pieces = pieces(&leaves);
                        Ok(Opened { snapshot, database, trees, tables, leaves, pieces })
                    }
                    Err(TreeFault::Damage(offset, damage)) => Err(damage_of_page(offset, &damage)),
                    Err(TreeFault::Io(error)) => return Err(failed(&guard, error)),
                }
            }
        };
        Ok(ViewCheck { path: guard.path().to_owned(), opened: Some(opened), _kept: kept })
    }
}

/// Parts of about the same size.
fn pieces(leaves: &[Leaf]) -> Vec<Range<usize>> {
    let (mut pieces, mut start, mut pages) = (Vec::new(), 0, 0);
    for (at, leaf) in leaves.iter().enumerate() {
        pages += leaf.pages();
        if pages >= PIECE_PAGES || at + 1 == leaves.len() {
            pieces.push(start..at + 1);
            (start, pages) = (at + 1, 0);
        }
    }
    pieces
}

fn failed(guard: &Guard, error: std::io::Error) -> Error {
    let failed = guard.run(|| Err::<(), _>(Fault::View(redb::Error::Io(error))));
    failed.expect_err("it was given an error")
}

impl Drop for ViewCheck {
    fn drop(&mut self) {
        if let Some(Ok(Opened { snapshot, database, .. })) = self.opened.take() {
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
        self.opened().map_or(0, |opened| opened.pieces.len())
    }

    /// How many bytes a piece is.
    pub(crate) fn bytes(&self, piece: usize) -> u64 {
        self.opened().map_or(0, |Opened { leaves, pieces, .. }| {
            leaves[pieces[piece].clone()].iter().map(|leaf| leaf.pages()).sum::<u64>() * PAGE_LEN
        })
    }

    fn opened(&self) -> Result<&Opened, &ViewDamage> {
        self.opened.as_ref().expect("only drop takes it").as_ref()
    }

    /// Reads one of the pieces.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn read(&self, piece: usize) -> Result<PieceRead> {
        let mut read = PieceRead::default();
        let Ok(Opened { trees, leaves, pieces, .. }) = self.opened() else { return Ok(read) };
        let mut labels = LabelHashes::new();
        let mut entries = [0; TableTag::ALL.len() + 1];
        let damages = trees
            .each_of(&leaves[pieces[piece].clone()], |table, key, value| {
                entries[table as usize] += 1;
                read.entry(table, key, value, &mut labels);
            })
            .map_err(|error| failed(&Guard::new(&self.path), error))?;
        read.entries = TableTag::ALL.into_iter().map(|table| (table, entries[table as usize])).collect();
        read.is_cut = !damages.is_empty();
        read.damages.extend(damages.iter().map(|(offset, damage)| damage_of_page(*offset, damage)));
        read.rows.sort_unstable();
        read.vectors.sort_unstable();
        Ok(read)
    }

    /// Holds what the pieces hold against each other, unless some of them are missing.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn finish(&self, pieces: Vec<PieceRead>, is_whole: bool) -> Result<ViewRead> {
        let Opened { snapshot, tables, .. } = match self.opened() {
            Ok(opened) => opened,
            Err(damage) => return Ok(ViewRead { damages: vec![damage.clone()], ..ViewRead::default() }),
        };
        let mut all = PieceRead::default();
        for piece in pieces {
            all.add(piece);
        }
        // Each piece is sorted already, so there are few runs to merge.
        all.rows.sort();
        all.vectors.sort();
        if is_whole && !all.is_cut {
            for Tree { table, entries, .. } in tables {
                let found = all.entries.get(table).copied().unwrap_or(0);
                if found != *entries {
                    let what = format!("it counts {entries} entries, there are {found}");
                    all.damages.push(ViewDamage { table: Some(table.name()), key: None, offset: None, what });
                }
            }
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
        Ok(ViewRead { damages, rows, entries: entries.into_values().sum() })
    }
}

impl PieceRead {
    fn entry(&mut self, table: TableTag, key: &[u8], value: &[u8], labels: &mut LabelHashes) {
        // The lengths of keys are those of their tables.
        let u64_key = || key.first_chunk().map_or(0, |key| u64::from_le_bytes(*key));
        let u128_key = || key.first_chunk().map_or(0, |key| u128::from_le_bytes(*key));
        match table {
            TableTag::State => {}
            TableTag::Memory => match RowRef::decode(MemoryKey(u64_key()), value) {
                Ok(row) => self.row(MemoryKey(u64_key()), &row, labels),
                Err(damage) => self.damaged(table, u64_key(), damage),
            },
            TableTag::Id => match decode_number(table, key, value) {
                Ok(number) => self.by_tables.ids.add_id(key, number),
                Err(damage) => self.damaged(table, String::from_utf8_lossy(key), damage),
            },
            TableTag::Label => self.by_tables.labels.add(u128_key(), 0),
            TableTag::Time => match decode_number(table, key, value) {
                Ok(bits) => self.by_tables.times.add(u128_key(), bits),
                Err(damage) => self.damaged(table, shown(u128_key()), damage),
            },
            TableTag::Vector => {
                let location = value
                    .try_into()
                    .map_err(|_| Damage::Short { found: value.len(), expected: LOCATION_LEN })
                    .and_then(|value| decode_location(u128_key(), value));
                match location {
                    Ok(_) => self.vectors.push(u128_key()),
                    Err(damage) => self.damaged(table, shown_vector(u128_key()), damage),
                }
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
        for (table, entries) in entries {
            *self.entries.entry(table).or_default() += entries;
        }
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
                    *read.entries.entry(TableTag::State).or_default() += 1;
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

fn damage_of_page(offset: u64, damage: &Damage) -> ViewDamage {
    ViewDamage { table: None, key: None, offset: Some(offset), what: format!("page: {damage}") }
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
