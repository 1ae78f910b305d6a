//! Tests of the view, and the model that they compare it with.

mod files;
mod full;
mod model;
mod ops;
mod power;
mod reads;
mod speed;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::*;
use crate::format::manifest::TailV1;
use crate::format::op::Vectors;
use crate::format::row::Label;
use crate::fs::RealDisk;
use crate::memory::{Memory, MemoryId, ModelIdentity};

const STORE: [u8; 16] = *b"store of a test!";
const CACHE: usize = 1 << 20;

/// A log of operations, held in memory.
#[derive(Default)]
struct Script {
    ops: Vec<Op>,
}

impl Script {
    /// Adds an operation and returns its sequence.
    fn push(&mut self, op: Op) -> u64 {
        self.ops.push(op);
        self.ops.len() as u64
    }

    fn remember(&mut self, memory: Memory) -> MemoryKey {
        MemoryKey(self.push(Op::Remember { memory, vectors: None }))
    }

    fn records(&self) -> Vec<Applied<'_>> {
        let numbered = self.ops.iter().zip(1..);
        numbered.map(|(op, seq)| Applied { seq, location: location_of(seq), op }).collect()
    }

    /// Applies all records after the catalog's position, in transactions of this many.
    fn apply_to(&self, catalog: &Catalog, batch_len: usize) {
        let records = self.records();
        let from = usize::try_from(catalog.applied_seq()).expect("a short script");
        for batch in records[from..].chunks(batch_len) {
            catalog.apply(batch, position_after(batch[batch.len() - 1].seq)).expect("a script is in order");
        }
    }
}

impl Catalog {
    /// Does something while a checkpoint waits for the disk.
    pub(crate) fn while_written<T>(&self, work: impl FnOnce() -> T) -> T {
        let _writing = locked(&self.live().writing);
        work()
    }
}

/// Moves what was applied into redb's tables without a sync, as happens when there is much of it.
fn write_undurably(catalog: &Catalog) -> Result<()> {
    let mut is_durable = locked(&catalog.live().writing);
    *is_durable = false;
    catalog.write(Durability::None)
}

fn location_of(seq: u64) -> Location {
    Location { segment: 1 + seq / 100, offset: 4096 + seq % 100 * 512, len: 300 + seq as u32 % 7 }
}

fn position_after(seq: u64) -> Position {
    let Location { segment, offset, .. } = location_of(seq + 1);
    Position {
        epoch: 7,
        last_offset: 0,
        last_checksum: 0,
        tail: TailV1 { segment, len: offset, last_seq: seq, ..TailV1::default() },
    }
}

fn memory(id: &str, text: &str, timestamp: i64) -> Memory {
    Memory::new(MemoryId::new(id).expect("a good id"), text, timestamp)
}

fn vectors(model: u32) -> Vectors {
    Vectors { model: ModelNumber(model), dimensions: 2, values: vec![0.6, 0.8] }
}

fn identity(name: &str) -> ModelIdentity {
    ModelIdentity {
        name: name.to_owned(),
        weights_sha256: "aa".repeat(32),
        tokenizer_sha256: "bb".repeat(32),
        dimensions: 2,
        pooling: "mean".to_owned(),
        normalized: true,
        max_tokens: 256,
        document_form: "text/1".to_owned(),
        query_form: "query/1".to_owned(),
        engine: "test/1".to_owned(),
    }
}

/// An empty view in a folder that goes away with the first value.
fn empty() -> (tempfile::TempDir, PathBuf, Catalog) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("view.redb");
    let catalog = Catalog::create(&RealDisk, &path, STORE, CACHE).expect("a new view");
    (folder, path, catalog)
}

fn reopened(path: &Path) -> Catalog {
    match Catalog::open(&RealDisk, path, Some(STORE), CACHE).expect("the operating system lets it be opened")
    {
        Opened::Ready(catalog) => catalog,
        other => panic!("the view is not ready: {other:?}"),
    }
}

/// A check of the whole view.
fn checked(catalog: &Catalog) -> ViewRead {
    let check = catalog.open_check().expect("it can be opened beside the view");
    let pieces = (0..check.pieces()).map(|piece| check.read(piece).expect("a piece"));
    check.finish(pieces.collect(), true).expect("a comparison")
}

/// Every entry of every table, key and value as they are stored.
fn dump(catalog: &Catalog) -> BTreeMap<(&'static str, Vec<u8>), Vec<u8>> {
    let mut entries = BTreeMap::new();
    let view = catalog.view();
    view.read(|snapshot| {
        for letter in [b'c', b'm', b'v'] {
            for entry in snapshot.state_with(letter)? {
                let (key, value) = entry?;
                entries.insert(("state", key), value.to_vec());
            }
        }
        for entry in snapshot.rows(0..=u64::MAX)? {
            let (key, value) = entry?;
            let id = Row::decode(MemoryKey(key), &value).expect("an undamaged row").memory.id;
            let named = snapshot.key_of(id.as_str())?.expect("a key");
            entries.insert(("memory", key.to_be_bytes().to_vec()), value.to_vec());
            entries.insert(("id", id.as_str().as_bytes().to_vec()), named.0.to_be_bytes().to_vec());
        }
        for entry in snapshot.labels(0..=u128::MAX)? {
            entries.insert(("label", entry?.0.to_be_bytes().to_vec()), Vec::new());
        }
        for entry in snapshot.times(0..=u128::MAX)? {
            let (key, value) = entry?;
            entries.insert(("time", key.to_be_bytes().to_vec()), value.to_be_bytes().to_vec());
        }
        for entry in snapshot.vectors(0..=u128::MAX)? {
            let (key, value) = entry?;
            entries.insert(("vector", key.to_be_bytes().to_vec()), format!("{value:?}").into_bytes());
        }
        Ok(())
    })
    .expect("an undamaged view");
    entries
}
