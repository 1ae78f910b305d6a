//! One index block, open: mapped, its header and graph verified, its sections handed out as what they hold.

use std::ops::Range;
use std::path::{Path, PathBuf};

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::file;
use crate::error::Result;
use crate::format::block::{BlockHeader, SectionKind};
use crate::format::frame::Section;
use crate::format::op::MemoryKey;
use crate::fs::{Disk, Mapped};
use crate::vector::{GraphView, LevelView, Rows};

/// An index block that can be searched. Its file is not changed by anybody while this lives, only unlinked.
#[derive(Debug)]
pub(crate) struct Block {
    path: PathBuf,
    header: BlockHeader,
    mapped: Mapped,
}

impl Block {
    /// Opens a block and verifies its header, keys, scales and graph; that reads some 140 bytes a row. Vectors are read
    /// when they are searched; [`Self::verify`] verifies them, too.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) and [`UnknownFormat`](crate::ErrorKind::UnknownFormat) for a file that is no whole block of this version, and
    /// what the disk says.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let (mapped, header) = file::map(disk, path, BlockHeader::decode)?;
        let block = Self { path: path.to_owned(), header, mapped };
        let is_vectors =
            |section: &Section<SectionKind>| matches!(section.kind, SectionKind::Codes | SectionKind::Halves);
        let small = block.header.sections.iter().filter(|section| !is_vectors(section));
        file::verify_sections(path, &block.mapped, small, &|| false)?;
        Ok(block)
    }

    /// Its file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself.
    pub(crate) fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        self.mapped.bytes().len() as u64
    }

    /// Reads every byte, unless it is told to stop.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when a section is not as it was written.
    pub(crate) fn verify(&self, stop: &dyn Fn() -> bool) -> Result<()> {
        file::verify(&self.path, &self.mapped, &self.header.sections, stop)
    }

    /// The vectors.
    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows {
            codes: self.section(SectionKind::Codes, 0),
            scales: self.section(SectionKind::Scales, 0),
            halves: self.section(SectionKind::Halves, 0),
            stride: self.header.shape.stride(),
        }
    }

    /// How many rows there are.
    pub(crate) fn row_count(&self) -> u32 {
        self.header.shape.rows
    }

    /// The key of each row, ascending.
    pub(crate) fn keys(&self) -> &[u64] {
        self.section(SectionKind::Keys, 0)
    }

    /// The rows of a memory; empty when there are none.
    pub(crate) fn rows_of(&self, key: MemoryKey) -> Range<u32> {
        rows_from(self.keys(), 0, key)
    }

    /// The rows of memories whose keys ascend, in ascending order.
    pub(crate) fn rows_of_all(&self, keys: &[MemoryKey]) -> Vec<u32> {
        let all = self.keys();
        let mut rows = Vec::with_capacity(keys.len());
        let mut from = 0;
        for key in keys {
            let found = rows_from(all, from, *key);
            from = found.end as usize;
            rows.extend(found);
        }
        rows
    }

    /// The graph, if there is one.
    pub(crate) fn graph(&self) -> Option<GraphView<'_>> {
        let shape = &self.header.shape;
        let level = |level| LevelView {
            rows: self.section(SectionKind::Rows, level),
            below: self.section(SectionKind::Below, level),
            links: self.section(SectionKind::Links, level),
        };
        shape.has_graph().then(|| GraphView {
            links: self.section(SectionKind::Links, 0),
            uppers: (1..=shape.uppers.len() as u16).map(level).collect(),
            m: shape.links as usize,
            entry: shape.entry,
        })
    }

    fn section<T: FromBytes + Immutable + KnownLayout>(&self, kind: SectionKind, level: u16) -> &[T] {
        let is_it = |section: &&Section<SectionKind>| section.kind == kind && section.level == level;
        let section =
            self.header.sections.iter().find(is_it).expect("the header has every section of its shape");
        file::values(&self.mapped, section)
    }
}

/// The rows of a key, looked for from a row on in growing steps: whoever asks for ascending keys goes on where the last
/// one was.
fn rows_from(keys: &[u64], from: usize, key: MemoryKey) -> Range<u32> {
    let rest = &keys[from..];
    let mut step = 1;
    while step < rest.len() && rest[step] < key.0 {
        step *= 2;
    }
    let (low, high) = (step / 2, rest.len().min(step + 1));
    let start = from + low + rest[low..high].partition_point(|other| *other < key.0);
    let len = keys[start..].iter().take_while(|other| **other == key.0).count();
    let row = |at: usize| u32::try_from(at).expect("the rows of a block are limited");
    row(start)..row(start + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_key_are_found_from_wherever_the_search_begins() {
        let keys = [2, 2, 5, 7, 7, 7, 9, 20, 21, 30];
        for from in 0..=keys.len() {
            for key in 0..32 {
                let expected: Vec<u32> =
                    (from..keys.len()).filter(|row| keys[*row] == key).map(|row| row as u32).collect();
                let found: Vec<u32> = rows_from(&keys, from, MemoryKey(key)).collect();
                assert_eq!(found, expected, "key {key} from {from}");
            }
        }
        assert!(rows_from(&[], 0, MemoryKey(1)).is_empty());
    }

    #[test]
    fn keys_that_do_not_ascend_are_no_panic() {
        for key in 0..10 {
            let _ = rows_from(&[9, 1, 8, 2, 7, 3], 1, MemoryKey(key));
        }
    }
}
