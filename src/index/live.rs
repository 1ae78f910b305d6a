//! Vectors that no index block has yet, in memory.

use std::collections::HashMap;
use std::ops::Range;

use roaring::RoaringBitmap;

use crate::format::block::stride;
use crate::format::op::MemoryKey;
use crate::vector::{Rows, halve, quantize};

/// Removed rows are swept out when there are this many and ...
const SWEEP_MIN: u64 = 1024;
/// ... they are more than one in this many.
const SWEEP_SHARE: u64 = 4;

/// Rows as a block has them, which grow and shrink. Removed rows stay behind, marked, until enough of them are swept
/// out at once.
#[derive(Debug)]
pub(crate) struct LiveRows {
    stride: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
    halves: Vec<u16>,
    /// Whose row it is.
    owners: Vec<MemoryKey>,
    /// The rows of each memory, one behind the other.
    rows: HashMap<MemoryKey, Range<u32>>,
    removed: RoaringBitmap,
}

impl LiveRows {
    /// None, of vectors of so many dimensions.
    pub(crate) fn new(dimensions: u32) -> Self {
        Self {
            stride: stride(dimensions),
            codes: Vec::new(),
            scales: Vec::new(),
            halves: Vec::new(),
            owners: Vec::new(),
            rows: HashMap::new(),
            removed: RoaringBitmap::new(),
        }
    }

    /// How many memories have rows here.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// All rows, removed ones included.
    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows { codes: &self.codes, scales: &self.scales, halves: &self.halves, stride: self.stride }
    }

    /// Rows that count no more.
    pub(crate) fn removed(&self) -> &RoaringBitmap {
        &self.removed
    }

    /// Whose row it is.
    pub(crate) fn owner(&self, row: u32) -> MemoryKey {
        self.owners[row as usize]
    }

    /// The rows of a memory.
    pub(crate) fn rows_of(&self, key: MemoryKey) -> Range<u32> {
        self.rows.get(&key).cloned().unwrap_or(0..0)
    }

    /// How many rows there are, removed ones included.
    pub(crate) fn row_count(&self) -> usize {
        self.owners.len()
    }

    /// Adds the vectors of a memory, each with so many values, in the place of its former ones.
    pub(crate) fn insert(&mut self, key: MemoryKey, vectors: &[f32], dimensions: usize) {
        self.remove(key);
        let start = self.len_u32();
        for vector in vectors.chunks_exact(dimensions) {
            self.scales.push(quantize(vector, &mut self.codes));
            halve(vector, &mut self.halves);
            self.owners.push(key);
        }
        self.rows.insert(key, start..self.len_u32());
    }

    /// Takes the vectors of a memory out.
    pub(crate) fn remove(&mut self, key: MemoryKey) {
        let Some(rows) = self.rows.remove(&key) else { return };
        self.removed.insert_range(rows);
        if self.removed.len() >= SWEEP_MIN && self.removed.len() * SWEEP_SHARE > self.owners.len() as u64 {
            self.sweep();
        }
    }

    fn len_u32(&self) -> u32 {
        u32::try_from(self.owners.len()).expect("vectors in memory are far fewer than 2^32")
    }

    /// Drops removed rows.
    fn sweep(&mut self) {
        let mut to = 0;
        for from in 0..self.owners.len() {
            if self.removed.contains(from as u32) {
                continue;
            }
            let owner = self.owners[from];
            if from != to {
                let values = from * self.stride..(from + 1) * self.stride;
                self.codes.copy_within(values.clone(), to * self.stride);
                self.halves.copy_within(values, to * self.stride);
                self.scales[to] = self.scales[from];
                self.owners[to] = owner;
            }
            let rows = self.rows.get_mut(&owner).expect("a row's owner is known");
            if rows.start == from as u32 {
                *rows = to as u32..to as u32 + (rows.end - rows.start);
            }
            to += 1;
        }
        self.owners.truncate(to);
        self.scales.truncate(to);
        self.codes.truncate(to * self.stride);
        self.halves.truncate(to * self.stride);
        self.removed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_removals_are_swept_out_and_every_memory_keeps_its_rows() {
        let mut live = LiveRows::new(3);
        let vectors = |key: u64| vec![1.0, key as f32, 0.0, 0.5, 0.0, -(key as f32)];
        for key in 0..2000 {
            live.insert(MemoryKey(key), &vectors(key), 3);
        }
        for key in (0..2000).filter(|key| key % 4 != 1) {
            live.remove(MemoryKey(key));
        }
        live.insert(MemoryKey(5), &vectors(6), 3);
        assert!(live.owners.len() < 2500, "{} rows for {} memories", live.owners.len(), live.len());
        for key in 0..2000 {
            let rows = live.rows_of(MemoryKey(key));
            if key % 4 != 1 {
                assert!(rows.is_empty(), "{key}");
                continue;
            }
            let mut alone = LiveRows::new(3);
            alone.insert(MemoryKey(key), &vectors(if key == 5 { 6 } else { key }), 3);
            for (row, expected) in rows.zip(0..2) {
                let values = |rows: &LiveRows, row: u32| {
                    let at = row as usize * rows.stride..(row as usize + 1) * rows.stride;
                    (rows.codes[at.clone()].to_vec(), rows.halves[at].to_vec(), rows.scales[row as usize])
                };
                assert_eq!(values(&live, row), values(&alone, expected), "{key}");
                assert_eq!(live.owner(row), MemoryKey(key));
                assert!(!live.removed().contains(row));
            }
        }
    }
}
