//! Looks at every byte of the view that counts: every row of every table, read from the disk again, and whether the
//! other tables say exactly what the memories' rows say.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Catalog;
use super::guard::{Fault, Guard};
use super::pages::FrozenPages;
use super::snapshot::{Entry, Snapshot};
use super::{database, locked};
use crate::error::{ErrorKind, Result};
use crate::format::op::{MemoryKey, ModelNumber};
use crate::format::row::{
    Row, StateKey, TableTag, collection_count_key, decode_lost, decode_model, decode_number, label_keys,
    memory_key, time_key, vector_count_key,
};
use crate::memory::Memory;

/// Entries that are read in one go.
const CHUNK_LEN: usize = 1024;
/// Cache of the database that is opened for the check. Each page is read about once.
const CACHE_BYTES: usize = 16 << 20;

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

impl Catalog {
    /// Checks the whole view as it is on the disk, beside whoever reads and writes it, and reports what is wrong.
    /// `progress` is called with the entries that were read and those there are.
    ///
    /// A damaged page ends the check: what lies behind it cannot be reached.
    ///
    /// # Errors
    /// Those of [`Catalog::checkpoint`], which comes first, and of the operating system.
    pub(crate) fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<ViewDamage>> {
        let guard = Guard::new(self.guard.path());
        let mut findings = Vec::new();
        // The state on the disk must not change until it is open for the check and its pages are kept for it.
        let mut is_durable = locked(&self.live().writing);
        self.write_durably(&mut is_durable)?;
        let kept = Arc::clone(&self.snapshot().base);
        let opened = guard.run(|| {
            let frozen = FrozenPages::new(self.live().pages.clone()).map_err(redb::StorageError::Io)?;
            let database = database::open_beside(frozen, CACHE_BYTES)?;
            let snapshot = Snapshot::read(&database)?;
            Ok((snapshot, database))
        });
        drop(is_durable);
        let result = opened.and_then(|(snapshot, database)| {
            let mut check =
                Check { guard: &guard, snapshot, findings: &mut findings, progress, done: 0, total: 0 };
            let result = check.all();
            drop(check);
            super::guard::drop_guarded(database);
            result
        });
        drop(kept);
        match result {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let what = error.message().to_owned();
                findings.push(ViewDamage { table: None, key: None, offset: error.offset(), what });
            }
            result => result?,
        }
        Ok(findings)
    }
}

struct Check<'c> {
    guard: &'c Guard,
    snapshot: Snapshot,
    findings: &'c mut Vec<ViewDamage>,
    progress: &'c mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
}

/// What the memories' rows say that other tables say too.
#[derive(Default)]
struct Expected {
    keys: Vec<u64>,
    ids: Fingerprint,
    labels: Fingerprint,
    times: Fingerprint,
    collections: BTreeMap<String, u64>,
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

    fn add_id(&mut self, id: &str, key: u64) {
        self.add(u128::from(crc32fast::hash(id.as_bytes())) << 64 | id.len() as u128, key);
    }
}

impl Check<'_> {
    fn all(&mut self) -> Result<()> {
        self.total = self.guard.run(|| self.snapshot.base.entries())?;
        let expected = self.rows()?;
        let mut ids = Fingerprint::default();
        let mut labels = Fingerprint::default();
        let mut times = Fingerprint::default();
        self.scan(|snapshot| snapshot.base.ids(), |_, (id, key)| ids.add_id(&id, key))?;
        self.scan(|snapshot| snapshot.labels(0..=u128::MAX), |_, (key, ())| labels.add(key, 0))?;
        self.scan(|snapshot| snapshot.times(0..=u128::MAX), |_, (key, bits)| times.add(key, bits))?;
        if ids != expected.ids {
            self.compare_ids()?;
        }
        if labels != expected.labels {
            self.compare_labels()?;
        }
        if times != expected.times {
            self.compare_times()?;
        }
        let with_vectors = self.vectors(&expected.keys)?;
        self.state(&expected, &with_vectors)
    }

    /// Reads every row.
    fn rows(&mut self) -> Result<Expected> {
        let mut expected = Expected::default();
        self.scan(
            |snapshot| snapshot.rows(0..=u64::MAX),
            |findings, (key, value)| match Row::decode(MemoryKey(key), &value) {
                Ok(Row { key, memory, .. }) => {
                    expected.keys.push(key.0);
                    expected.ids.add_id(memory.id.as_str(), key.0);
                    label_keys(key, &memory).into_iter().for_each(|label| expected.labels.add(label, 0));
                    expected.times.add(time_key(memory.timestamp, key), memory.importance.to_bits());
                    *expected.collections.entry(memory.collection).or_default() += 1;
                }
                Err(damage) => findings.push(damage_of(TableTag::Memory, key, damage)),
            },
        )?;
        Ok(expected)
    }

    /// Reads every location of vectors; returns how many there are of each model.
    fn vectors(&mut self, keys: &[u64]) -> Result<BTreeMap<ModelNumber, u64>> {
        let mut counts: BTreeMap<ModelNumber, u64> = BTreeMap::new();
        self.scan(
            |snapshot| snapshot.vectors(0..=u128::MAX),
            |findings, (entry, _)| {
                let (model, key) = (ModelNumber((entry >> 64) as u32), memory_key(entry));
                *counts.entry(model).or_default() += 1;
                if keys.binary_search(&key.0).is_err() {
                    let key = format!("model {}, memory {}", model.0, key.0);
                    findings.push(damage_of(TableTag::Vector, key, "stray: the memory has no row"));
                }
            },
        )?;
        Ok(counts)
    }

    /// Compares the counts with what was counted, and reads the models.
    fn state(&mut self, expected: &Expected, with_vectors: &BTreeMap<ModelNumber, u64>) -> Result<()> {
        let head = self.snapshot.delta.head;
        if head.memories != expected.keys.len() as u64 {
            let what =
                format!("the head counts {} memories, there are {}", head.memories, expected.keys.len());
            self.findings.push(damage_of(TableTag::State, "head", what));
        }
        let collections = expected.collections.iter();
        let mut counts: BTreeMap<Vec<u8>, u64> =
            collections.map(|(name, count)| (collection_count_key(name), *count)).collect();
        counts.extend(with_vectors.iter().map(|(model, count)| (vector_count_key(*model), *count)));
        let mut stored = Vec::new();
        for letter in [b'c', b'l', b'm', b'v'] {
            self.scan(
                |snapshot| snapshot.state_with(letter),
                |findings, (key, value)| {
                    let shown = key.escape_ascii().to_string();
                    let decoded = match StateKey::decode(&key) {
                        Ok(StateKey::Model(number)) => decode_model(number, &value).map(|_| None),
                        Ok(StateKey::Lost(first_seq)) => decode_lost(first_seq, &value).map(|_| None),
                        Ok(_) => decode_number(TableTag::State, &key, &value).map(Some),
                        Err(damage) => Err(damage),
                    };
                    match decoded {
                        Ok(None) => {}
                        Ok(Some(count)) => stored.push((key, count)),
                        Err(damage) => findings.push(damage_of(TableTag::State, shown, damage)),
                    }
                },
            )?;
        }
        for (key, count) in stored {
            let counted = counts.remove(&key).unwrap_or(0);
            if counted != count {
                let what = format!("the count is {count}, there are {counted}");
                self.findings.push(damage_of(TableTag::State, key.escape_ascii(), what));
            }
        }
        for (key, counted) in counts {
            let what = format!("the count is missing, there are {counted}");
            self.findings.push(damage_of(TableTag::State, key.escape_ascii(), what));
        }
        Ok(())
    }

    /// Calls with every entry, and reports those that cannot be read.
    fn scan<'s, K, V, I: Iterator<Item = Entry<K, V>>>(
        &'s mut self,
        entries: impl FnOnce(&'s Snapshot) -> Result<I, Fault>,
        mut each: impl FnMut(&mut Vec<ViewDamage>, (K, V)),
    ) -> Result<()> {
        let Self { guard, snapshot, findings, progress, done, total } = self;
        let mut entries = guard.run(|| entries(snapshot))?;
        let mut has_more = true;
        while has_more {
            let mut chunk = Vec::with_capacity(CHUNK_LEN);
            guard.run(|| {
                while chunk.len() < CHUNK_LEN {
                    match entries.next() {
                        None => {
                            has_more = false;
                            break;
                        }
                        Some(Ok(entry)) => chunk.push(Ok(entry)),
                        Some(Err(Fault::Row { table, key, damage })) => {
                            chunk.push(Err(damage_of(table, key, damage)));
                        }
                        Some(Err(fault)) => return Err(fault),
                    }
                }
                Ok(())
            })?;
            *done += chunk.len() as u64;
            for entry in chunk {
                match entry {
                    Ok(entry) => each(findings, entry),
                    Err(damage) => findings.push(damage),
                }
            }
            progress(*done, (*total).max(*done));
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
        let Self { guard, snapshot, findings, .. } = self;
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
        let Self { guard, snapshot, findings, .. } = self;
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

/// A 16-byte key as it is shown: its two numbers.
fn shown(key: u128) -> String {
    format!("{:016x}/{}", key >> 64, memory_key(key).0)
}

fn damage_of(table: TableTag, key: impl ToString, what: impl ToString) -> ViewDamage {
    ViewDamage { table: Some(table.name()), key: Some(key.to_string()), offset: None, what: what.to_string() }
}
