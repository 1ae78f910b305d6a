//! Index blocks: the vectors of many memories in one file that is searched where it lies. Spec:
//! `format-spec/block.md`.
//!
//! Only the header is read here, and where each section stands. What sections hold is bytes to whoever searches them.

use std::ops::Range;

use super::Damage;
use super::op::ModelNumber;
use crate::memory::DIMENSIONS_MAX;

/// First bytes of an index block.
pub(crate) const BLOCK_MAGIC: [u8; 8] = *b"MMTOVEC1";
/// A reader refuses blocks of another one.
pub(crate) const BLOCK_MAJOR: u16 = 1;
/// What a reader may ignore counts up here.
const BLOCK_MINOR: u16 = 0;
/// Bytes before the first section.
pub(crate) const BLOCK_HEADER_LEN: usize = 4096;
/// Sections begin at multiples of this.
pub(crate) const SECTION_ALIGN: u64 = 4096;
/// Values of a row are filled up with zeros to a multiple of this.
pub(crate) const ROW_ALIGN: usize = 64;
/// Most rows of a block.
pub(crate) const BLOCK_ROWS_MAX: usize = 1 << 30;
/// Most levels of a graph, the lowest one included.
pub(crate) const LEVELS_MAX: usize = 16;
/// Most links of a node above the lowest level; there it has twice as many.
pub(crate) const LINKS_MAX: usize = 256;

const TABLE_OFFSET: usize = 256;
const SECTION_LEN: usize = 24;
const CHECKSUM_OFFSET: usize = BLOCK_HEADER_LEN - 4;
/// Sections without a graph: codes, halves, keys, scales.
const PLAIN_SECTIONS: usize = 4;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum SectionKind {
    /// Rows of `i8`: the vectors, quantized.
    Codes = 1,
    /// Rows of binary16: the vectors, to score the best ones exactly.
    Halves = 2,
    /// For each row the key of its memory, `u64`, ascending.
    Keys = 3,
    /// For each row what its codes are multiplied with, `f32`.
    Scales = 4,
    /// For each node of a level its links, `u32`.
    Links = 5,
    /// For each node of a level its row, `u32`, ascending.
    Rows = 6,
    /// For each node of a level its number in the level below, `u32`.
    Below = 7,
}

/// One section: what it holds, where, and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) kind: SectionKind,
    /// Level of the graph; 0 for sections that belong to none.
    pub(crate) level: u16,
    pub(crate) checksum: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Section {
    /// Its bytes within a file whose length the header was held against.
    pub(crate) fn range(&self) -> Range<usize> {
        let at = |offset| usize::try_from(offset).expect("a file that is in memory");
        at(self.offset)..at(self.offset + self.len)
    }
}

/// The place in the log up to which a block has everything, as the view's head has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockPosition {
    pub(crate) last_seq: u64,
    pub(crate) segment: u64,
    pub(crate) epoch: u64,
    pub(crate) last_offset: u64,
    pub(crate) last_checksum: u32,
}

/// How many there are of what, from which the places of all sections follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockShape {
    pub(crate) dimensions: u32,
    pub(crate) rows: u32,
    /// Links of a node above the lowest level; 0 when there is no graph.
    pub(crate) links: u32,
    /// The node of the highest level at which a search begins.
    pub(crate) entry: u32,
    /// Nodes of each level above the lowest, the lower first.
    pub(crate) uppers: Vec<u32>,
}

/// What a block says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) store_id: [u8; 16],
    /// Counts up with every block of the store.
    pub(crate) generation: u64,
    pub(crate) position: BlockPosition,
    /// The highest generation of a segment when it was made: later ones may lack records that it would need.
    pub(crate) log_generation: u64,
    pub(crate) model: ModelNumber,
    /// SHA-256 of the payload of the op that registered the model.
    pub(crate) model_sha256: [u8; 32],
    /// Memories in it: different keys.
    pub(crate) memories: u32,
    /// Memories whose vectors the view names and the log did not give: they are missing here.
    pub(crate) unread: u32,
    pub(crate) shape: BlockShape,
    /// In the order of the file.
    pub(crate) sections: Vec<Section>,
}

/// Why a block cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BlockProblem {
    /// Written by a newer major version.
    Newer { major: u16 },
    /// Not whole.
    Damaged(Damage),
}

impl From<Damage> for BlockProblem {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

impl BlockShape {
    /// Values of a row, those included that fill it up.
    pub(crate) fn stride(&self) -> usize {
        stride(self.dimensions)
    }

    /// Whether there is a graph.
    pub(crate) fn has_graph(&self) -> bool {
        self.links > 0
    }

    /// The sections in the order of the file, with their places and without their checksums.
    pub(crate) fn sections(&self) -> Vec<Section> {
        let (rows, links) = (u64::from(self.rows), u64::from(self.links));
        let values = rows * self.stride() as u64;
        let mut lens = vec![
            (SectionKind::Codes, 0, values),
            (SectionKind::Halves, 0, 2 * values),
            (SectionKind::Keys, 0, 8 * rows),
            (SectionKind::Scales, 0, 4 * rows),
        ];
        if self.has_graph() {
            lens.push((SectionKind::Links, 0, 4 * rows * 2 * links));
            for (level, nodes) in (1..).zip(&self.uppers) {
                let nodes = u64::from(*nodes);
                lens.push((SectionKind::Rows, level, 4 * nodes));
                lens.push((SectionKind::Below, level, 4 * nodes));
                lens.push((SectionKind::Links, level, 4 * nodes * links));
            }
        }
        let mut offset = BLOCK_HEADER_LEN as u64;
        let place = |(kind, level, len)| {
            let section = Section { kind, level, checksum: 0, offset, len };
            offset = (offset + len).next_multiple_of(SECTION_ALIGN);
            section
        };
        lens.into_iter().map(place).collect()
    }

    /// Bytes of the whole file.
    pub(crate) fn file_len(&self) -> u64 {
        let last = *self.sections().last().expect("there are always some");
        (last.offset + last.len).next_multiple_of(SECTION_ALIGN)
    }

    fn check(&self) -> Result<(), Damage> {
        let field = |name, found| Err(Damage::Field { name, found });
        if self.dimensions == 0 || self.dimensions as usize > DIMENSIONS_MAX {
            return field("dimensions", self.dimensions.into());
        }
        if self.rows as usize > BLOCK_ROWS_MAX {
            return field("rows", self.rows.into());
        }
        if self.links as usize > LINKS_MAX {
            return field("links", self.links.into());
        }
        if self.uppers.len() >= LEVELS_MAX || (!self.has_graph() && !self.uppers.is_empty()) {
            return field("levels", self.uppers.len() as u64);
        }
        let mut nodes = self.rows;
        for upper in &self.uppers {
            if *upper == 0 || *upper > nodes {
                return field("nodes", (*upper).into());
            }
            nodes = *upper;
        }
        if (self.has_graph() && self.entry >= nodes) || (!self.has_graph() && self.entry != 0) {
            return field("entry", self.entry.into());
        }
        Ok(())
    }
}

/// Values of a row with this many dimensions, those included that fill it up.
pub(crate) fn stride(dimensions: u32) -> usize {
    (dimensions as usize).next_multiple_of(ROW_ALIGN)
}

impl BlockHeader {
    /// The first [`BLOCK_HEADER_LEN`] bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BLOCK_HEADER_LEN);
        let BlockShape { dimensions, rows, links, entry, uppers } = &self.shape;
        let levels = if self.shape.has_graph() { uppers.len() as u32 + 1 } else { 0 };
        bytes.extend_from_slice(&BLOCK_MAGIC);
        bytes.extend_from_slice(&BLOCK_MAJOR.to_le_bytes());
        bytes.extend_from_slice(&BLOCK_MINOR.to_le_bytes());
        bytes.extend_from_slice(&(BLOCK_HEADER_LEN as u32).to_le_bytes());
        bytes.extend_from_slice(&self.store_id);
        let position = self.position;
        for field in
            [self.generation, position.last_seq, position.segment, position.epoch, position.last_offset]
        {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&position.last_checksum.to_le_bytes());
        bytes.extend_from_slice(&self.model.0.to_le_bytes());
        bytes.extend_from_slice(&self.model_sha256);
        let stride = self.shape.stride() as u32;
        let sections = u32::try_from(self.sections.len()).expect("some dozens");
        let counts =
            [*dimensions, stride, *rows, self.memories, *links, levels, *entry, sections, self.unread, 0];
        for field in counts {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&self.shape.file_len().to_le_bytes());
        bytes.extend_from_slice(&self.log_generation.to_le_bytes());
        bytes.resize(TABLE_OFFSET, 0);
        for section in &self.sections {
            bytes.extend_from_slice(&(section.kind as u16).to_le_bytes());
            bytes.extend_from_slice(&section.level.to_le_bytes());
            bytes.extend_from_slice(&section.checksum.to_le_bytes());
            bytes.extend_from_slice(&section.offset.to_le_bytes());
            bytes.extend_from_slice(&section.len.to_le_bytes());
        }
        bytes.resize(CHECKSUM_OFFSET, 0);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header of a file of this length. Every section that it names lies within the file, aligned, and has
    /// the length that the counts ask for.
    pub(crate) fn decode(bytes: &[u8], file_len: u64) -> Result<Self, BlockProblem> {
        let short = Damage::Short { found: bytes.len(), expected: BLOCK_HEADER_LEN };
        let head = bytes.first_chunk::<BLOCK_HEADER_LEN>().ok_or(short)?;
        if head[..8] != BLOCK_MAGIC {
            return Err(Damage::Magic.into());
        }
        let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(*head[at..].first_chunk().expect("within the header"));
        let u64_at = |at: usize| u64::from_le_bytes(*head[at..].first_chunk().expect("within the header"));
        let (stored, computed) = (u32_at(CHECKSUM_OFFSET), crc32fast::hash(&head[..CHECKSUM_OFFSET]));
        if stored != computed {
            return Err(Damage::Checksum { stored, computed }.into());
        }
        if u16_at(8) != BLOCK_MAJOR {
            return Err(BlockProblem::Newer { major: u16_at(8) });
        }
        let field = |name, found| Err(BlockProblem::Damaged(Damage::Field { name, found }));
        if u32_at(12) as usize != BLOCK_HEADER_LEN {
            return field("header_len", u32_at(12).into());
        }
        let (links, levels, found) = (u32_at(128), u32_at(132) as usize, u32_at(140) as usize);
        if levels > LEVELS_MAX || (links > 0) != (levels > 0) {
            return field("levels", levels as u64);
        }
        let expected = PLAIN_SECTIONS + if levels > 0 { 1 + 3 * (levels - 1) } else { 0 };
        if found != expected {
            return field("sections", found as u64);
        }
        let entry_at = |index: usize| TABLE_OFFSET + index * SECTION_LEN;
        // Each upper level has three sections, of which the first has one number for each node.
        let uppers = (1..levels).map(|level| {
            let len = u64_at(entry_at(PLAIN_SECTIONS + 1 + 3 * (level - 1)) + 16);
            u32::try_from(len / 4).unwrap_or(u32::MAX)
        });
        let shape = BlockShape {
            dimensions: u32_at(112),
            rows: u32_at(120),
            links,
            entry: u32_at(136),
            uppers: uppers.collect(),
        };
        shape.check()?;
        if u32_at(116) as usize != shape.stride() {
            return field("stride", u32_at(116).into());
        }
        if u32_at(124) > shape.rows {
            return field("memories", u32_at(124).into());
        }
        if u64_at(152) != shape.file_len() || file_len != shape.file_len() {
            return field("file_len", u64_at(152));
        }
        let mut sections = shape.sections();
        for (index, section) in sections.iter_mut().enumerate() {
            let at = entry_at(index);
            if u16_at(at) != section.kind as u16 || u16_at(at + 2) != section.level {
                return field("section_kind", u16_at(at).into());
            }
            if u64_at(at + 8) != section.offset || u64_at(at + 16) != section.len {
                return field("section_offset", u64_at(at + 8));
            }
            section.checksum = u32_at(at + 4);
        }
        Ok(Self {
            store_id: *head[16..].first_chunk().expect("within the header"),
            generation: u64_at(32),
            position: BlockPosition {
                last_seq: u64_at(40),
                segment: u64_at(48),
                epoch: u64_at(56),
                last_offset: u64_at(64),
                last_checksum: u32_at(72),
            },
            log_generation: u64_at(160),
            model: ModelNumber(u32_at(76)),
            model_sha256: *head[80..].first_chunk().expect("within the header"),
            memories: u32_at(124),
            unread: u32_at(144),
            shape,
            sections,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn header(links: u32, uppers: &[u32]) -> BlockHeader {
        let shape = BlockShape { dimensions: 100, rows: 1000, links, entry: 0, uppers: uppers.to_vec() };
        let mut sections = shape.sections();
        for (index, section) in sections.iter_mut().enumerate() {
            section.checksum = 0x0101_0101 * index as u32;
        }
        let position =
            BlockPosition { last_seq: 7, segment: 8, epoch: 9, last_offset: 4096, last_checksum: 10 };
        BlockHeader {
            store_id: [3; 16],
            generation: 4,
            position,
            log_generation: 6,
            model: ModelNumber(2),
            model_sha256: [5; 32],
            memories: 900,
            unread: 1,
            shape,
            sections,
        }
    }

    /// The bytes with this one changed and the checksum set right.
    fn with(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
        bytes[at] = value;
        let checksum = crc32fast::hash(&bytes[..CHECKSUM_OFFSET]);
        bytes[CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_byte_is_noticed() {
        for header in [header(0, &[]), header(16, &[]), header(16, &[60, 4])] {
            let (bytes, len) = (header.encode(), header.shape.file_len());
            assert_eq!(BlockHeader::decode(&bytes, len), Ok(header.clone()));
            for offset in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[offset] ^= 0x40;
                assert!(BlockHeader::decode(&damaged, len).is_err(), "offset {offset}");
            }
            for other in [0, len - 1, len + 1, u64::MAX] {
                assert!(BlockHeader::decode(&bytes, other).is_err(), "length {other}");
            }
            assert!(BlockHeader::decode(&bytes[..BLOCK_HEADER_LEN - 1], len).is_err());
        }
    }

    #[test]
    fn sections_never_overlap_and_fill_the_file_whatever_a_header_with_a_right_checksum_says() {
        let header = header(16, &[60, 4]);
        let (bytes, len) = (header.encode(), header.shape.file_len());
        let mut accepted = 0;
        for at in 8..CHECKSUM_OFFSET {
            for value in [0, 1, 0x7F, 0xFF] {
                let Ok(read) = BlockHeader::decode(&with(bytes.clone(), at, value), len) else { continue };
                accepted += 1;
                let mut end = BLOCK_HEADER_LEN as u64;
                for section in &read.sections {
                    assert!(section.offset >= end && section.offset.is_multiple_of(SECTION_ALIGN));
                    end = section.offset + section.len;
                }
                assert!(end <= len);
            }
        }
        assert!(accepted > 100, "identities, sequences, checksums and reserved bytes may be anything");
    }

    #[test]
    fn another_major_version_is_told_from_damage() {
        let header = header(0, &[]);
        let bytes = with(header.encode(), 8, 2);
        assert_eq!(
            BlockHeader::decode(&bytes, header.shape.file_len()),
            Err(BlockProblem::Newer { major: 2 })
        );
    }
}
