//! Writing an index block: rows first, to scratch files that a graph is built over, then the whole file.

use std::path::{Path, PathBuf};

use zerocopy::{FromBytes, IntoBytes};

use super::{block_path, remove_if_there};
use crate::error::{Error, ErrorKind, Result};
use crate::format::block::{
    BLOCK_ROWS_MAX, BlockHeader, BlockPosition, BlockShape, LEVELS_MAX, ROW_ALIGN, Section, SectionKind,
    stride,
};
use crate::format::op::{MemoryKey, ModelNumber};
use crate::fs::{Access, Disk, DiskFile, Mapped};
use crate::vector::kernels::CODE_LANE;
use crate::vector::{Graph, Rows, halve, link, quantize};

// What the file says of rows and graphs is what searches and builders take for granted.
const _: () = assert!(ROW_ALIGN == CODE_LANE && LEVELS_MAX == link::LEVELS_MAX);

/// Bytes that are written at once.
const WRITE_LEN: usize = 1 << 20;

/// What a block says of where it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) store_id: [u8; 16],
    pub(crate) generation: u64,
    pub(crate) position: BlockPosition,
    pub(crate) log_generation: u64,
    pub(crate) model: ModelNumber,
    pub(crate) model_sha256: [u8; 32],
    pub(crate) dimensions: u32,
}

/// Takes the rows of a block. Its files go when it is dropped.
pub(crate) struct RowWriter<'a> {
    scratch: Scratch<'a>,
    stride: usize,
    codes: Appender,
    halves: Appender,
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
            codes: Appender::new(disk.open(&scratch.paths[0], Access::CreateNew)?),
            halves: Appender::new(disk.open(&scratch.paths[1], Access::CreateNew)?),
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
    pub(crate) fn publish(self, origin: &Origin, graph: Option<&Graph>) -> Result<PathBuf> {
        let (disk, folder) = (self.scratch.disk, self.scratch.folder);
        let path = block_path(folder, origin.generation);
        let mut temporary = path.clone().into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        remove_if_there(disk, &temporary)?;
        let written = || -> Result<()> {
            let file = disk.open(&temporary, Access::CreateNew)?;
            self.write(origin, graph, &*file)?;
            file.sync()?; // The content is durable before the name points to it.
            disk.rename(&temporary, &path)
        };
        if let Err(error) = written() {
            // On a full disk it would keep the little space there is.
            let _ = disk.remove(&temporary);
            return Err(error);
        }
        disk.sync_folder(folder)?;
        Ok(path)
    }

    fn write(&self, origin: &Origin, graph: Option<&Graph>, file: &dyn DiskFile) -> Result<()> {
        let count = |len: usize| u32::try_from(len).expect("the rows of a block are limited");
        let uppers = graph.map_or(&[][..], |graph| &graph.levels[1..]);
        let shape = BlockShape {
            dimensions: origin.dimensions,
            rows: count(self.keys.len()),
            links: graph.map_or(0, |graph| count(graph.m)),
            entry: graph.map_or(0, |graph| graph.entry),
            uppers: uppers.iter().map(|level| count(level.rows.len())).collect(),
        };
        let content = |section: &Section| -> &[u8] {
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
        let header = BlockHeader {
            store_id: origin.store_id,
            generation: origin.generation,
            position: origin.position,
            log_generation: origin.log_generation,
            model: origin.model,
            model_sha256: origin.model_sha256,
            memories: self.memories,
            unread: self.unread,
            shape,
            sections,
        };
        file.write_at(&header.encode(), 0)
    }
}

/// Writes a file front to back, in large pieces.
struct Appender {
    file: Box<dyn DiskFile>,
    buffer: Vec<u8>,
    offset: u64,
}

impl Appender {
    fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, buffer: Vec::with_capacity(WRITE_LEN), offset: 0 }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > WRITE_LEN {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.flush()
    }
}
