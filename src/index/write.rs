//! Writing an index block: rows first, to scratch files that a graph is built over, then the whole file.

use std::path::{Path, PathBuf};

use zerocopy::{FromBytes, IntoBytes};

use super::file::{self, Appender, WRITE_LEN};
use super::{block_path, remove_if_there};
use crate::error::{Error, ErrorKind, Result};
use crate::format::block::{
    BLOCK_ROWS_MAX, BlockHeader, BlockShape, LEVELS_MAX, ROW_ALIGN, SectionKind, stride,
};
use crate::format::frame::{Origin, Section};
use crate::format::op::MemoryKey;
use crate::fs::{Access, Disk, DiskFile, Mapped};
use crate::vector::kernels::CODE_LANE;
use crate::vector::{Graph, Rows, halve, link, quantize};

// What the file says of rows and graphs is what searches and builders take for granted.
const _: () = assert!(ROW_ALIGN == CODE_LANE && LEVELS_MAX == link::LEVELS_MAX);

/// Takes the rows of a block. Its files go when it is dropped.
pub(crate) struct RowWriter<'a> {
    scratch: Scratch<'a>,
    stride: usize,
    codes: Appender<Box<dyn DiskFile>>,
    halves: Appender<Box<dyn DiskFile>>,
    keys: Vec<u64>,
    scales: Vec<f32>,
    memories: u32,
    unread: u32,
}

/// All rows of a block that is being made, ready to be linked.
pub(crate) struct WrittenRows<'a> {
    scratch: Scratch<'a>,
    stride: usize,
    codes: Mapped,
    halves: Mapped,
    keys: Vec<u64>,
    scales: Vec<f32>,
    memories: u32,
    unread: u32,
}

/// The files of an unfinished block.
struct Scratch<'a> {
    disk: &'a dyn Disk,
    folder: &'a Path,
    paths: [PathBuf; 2],
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(error) = remove_if_there(self.disk, path) {
                // The next opening of the store clears it away.
                tracing::warn!(%error, "a temporary file stays behind");
            }
        }
    }
}

impl<'a> RowWriter<'a> {
    /// # Errors
    /// What the disk says.
    pub(crate) fn new(disk: &'a dyn Disk, folder: &'a Path, dimensions: u32) -> Result<Self> {
        let scratch =
            Scratch { disk, folder, paths: ["codes.tmp", "halves.tmp"].map(|name| folder.join(name)) };
        for path in &scratch.paths {
            remove_if_there(disk, path)?;
        }
        Ok(Self {
            codes: Appender::new(disk.open(&scratch.paths[0], Access::CreateNew)?, 0),
            halves: Appender::new(disk.open(&scratch.paths[1], Access::CreateNew)?, 0),
            scratch,
            stride: stride(dimensions),
            keys: Vec::new(),
            scales: Vec::new(),
            memories: 0,
            unread: 0,
        })
    }

    /// Adds the vectors of a memory, each of length 1. Keys ascend.
    ///
    /// # Errors
    /// What the disk says; [`ErrorKind::TooLarge`] for more rows than a block may have.
    pub(crate) fn push(&mut self, key: MemoryKey, vectors: &[f32], dimensions: usize) -> Result<()> {
        let (mut codes, mut halves) = (Vec::new(), Vec::new());
        self.begin(key);
        for vector in vectors.chunks_exact(dimensions) {
            codes.clear();
            halves.clear();
            let scale = quantize(vector, &mut codes);
            halve(vector, &mut halves);
            self.push_row(key, &codes, scale, &halves)?;
        }
        Ok(())
    }

    /// Adds rows of a memory as another block has them.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(crate) fn copy(&mut self, key: MemoryKey, from: Rows<'_>, rows: std::ops::Range<u32>) -> Result<()> {
        self.begin(key);
        for row in rows {
            let values = row as usize * self.stride..(row as usize + 1) * self.stride;
            self.push_row(key, &from.codes[values.clone()], from.scales[row as usize], &from.halves[values])?;
        }
        Ok(())
    }

    /// How many rows there are so far.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.keys.len()).expect("the rows of a block are limited")
    }

    /// Counts a memory whose vectors the log does not give.
    pub(crate) fn skip(&mut self) {
        self.unread += 1;
    }

    fn begin(&mut self, key: MemoryKey) {
        assert!(self.keys.last().is_none_or(|last| *last < key.0), "keys ascend");
        self.memories += 1;
    }

    fn push_row(&mut self, key: MemoryKey, codes: &[i8], scale: f32, halves: &[u16]) -> Result<()> {
        if self.keys.len() >= BLOCK_ROWS_MAX {
            return Err(Error::new(ErrorKind::TooLarge, format!("more than {BLOCK_ROWS_MAX} vectors")));
        }
        self.codes.append(codes.as_bytes())?;
        self.halves.append(halves.as_bytes())?;
        self.keys.push(key.0);
        self.scales.push(scale);
        Ok(())
    }

    /// # Errors
    /// What the disk says.
    pub(crate) fn finish(self) -> Result<WrittenRows<'a>> {
        let Self { scratch, stride, codes, halves, keys, scales, memories, unread } = self;
        codes.finish()?;
        halves.finish()?;
        let [codes, halves] = [&scratch.paths[0], &scratch.paths[1]].map(|path| scratch.disk.map(path));
        Ok(WrittenRows { codes: codes?, halves: halves?, scratch, stride, keys, scales, memories, unread })
    }
}

impl WrittenRows<'_> {
    /// What a graph is built over.
    pub(crate) fn rows(&self) -> Rows<'_> {
        let whole = "every row was written whole";
        Rows {
            codes: <[i8]>::ref_from_bytes(self.codes.bytes()).expect(whole),
            scales: &self.scales,
            halves: <[u16]>::ref_from_bytes(self.halves.bytes()).expect(whole),
            stride: self.stride,
        }
    }

    /// The key of each row, ascending.
    pub(crate) fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// Writes the block and puts it in its place: when this returns it is durable, and a crash before that leaves no
    /// part of it under its name.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn publish(self, origin: &Origin, dimensions: u32, graph: Option<&Graph>) -> Result<PathBuf> {
        let path = block_path(self.scratch.folder, origin.generation);
        file::publish(self.scratch.disk, &path, |file| self.write(origin, dimensions, graph, file))?;
        Ok(path)
    }

    fn write(
        &self,
        origin: &Origin,
        dimensions: u32,
        graph: Option<&Graph>,
        file: &dyn DiskFile,
    ) -> Result<()> {
        let count = |len: usize| u32::try_from(len).expect("the rows of a block are limited");
        let uppers = graph.map_or(&[][..], |graph| &graph.levels[1..]);
        let shape = BlockShape {
            dimensions,
            rows: count(self.keys.len()),
            links: graph.map_or(0, |graph| count(graph.m)),
            entry: graph.map_or(0, |graph| graph.entry),
            uppers: uppers.iter().map(|level| count(level.rows.len())).collect(),
        };
        let content = |section: &Section<SectionKind>| -> &[u8] {
            let level = usize::from(section.level);
            let graph = || graph.expect("only a graph has such sections");
            match section.kind {
                SectionKind::Codes => self.codes.bytes(),
                SectionKind::Halves => self.halves.bytes(),
                SectionKind::Keys => self.keys.as_bytes(),
                SectionKind::Scales => self.scales.as_bytes(),
                SectionKind::Links => graph().levels[level].links.as_bytes(),
                SectionKind::Rows => graph().levels[level].rows.as_bytes(),
                SectionKind::Below => graph().levels[level].below.as_bytes(),
            }
        };
        let mut sections = shape.sections();
        for section in &mut sections {
            let bytes = content(section);
            assert_eq!(bytes.len() as u64, section.len, "{:?} of level {}", section.kind, section.level);
            section.checksum = crc32fast::hash(bytes);
            for (part, offset) in bytes.chunks(WRITE_LEN).zip((section.offset..).step_by(WRITE_LEN)) {
                file.write_at(part, offset)?;
            }
        }
        // What is between the sections, and behind the last one, reads as zeros.
        file.set_len(shape.file_len())?;
        let (memories, unread) = (self.memories, self.unread);
        let header = BlockHeader { origin: *origin, memories, unread, shape, sections };
        file.write_at(&header.encode(), 0)
    }
}
