//! Index blocks: the vectors of many memories in one file that is searched where it lies. Spec:
//! `format-spec/block.md`.

use super::Damage;
pub(crate) use super::frame::{BLOCK_HEADER_LEN, BlockPosition, BlockProblem};
use super::frame::{FIELDS_LEN, Frame, Origin, Section, file_len, place, u32_at};
use crate::memory::DIMENSIONS_MAX;

/// First bytes of an index block.
pub(crate) const BLOCK_MAGIC: [u8; 8] = *b"MMTOVEC1";
/// Values of a row are filled up with zeros to a multiple of this.
pub(crate) const ROW_ALIGN: usize = 64;
/// Most rows of a block.
pub(crate) const BLOCK_ROWS_MAX: usize = 1 << 30;
/// Most levels of a graph, the lowest one included.
pub(crate) const LEVELS_MAX: usize = 16;
/// Most links of a node above the lowest level; there it has twice as many.
pub(crate) const LINKS_MAX: usize = 256;

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

impl From<SectionKind> for u16 {
    fn from(kind: SectionKind) -> Self {
        kind as Self
    }
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
    /// Its maker is the model: the number, and the SHA-256 of the payload of the op that registered it.
    pub(crate) origin: Origin,
    /// Memories in it: different keys.
    pub(crate) memories: u32,
    /// Memories whose vectors the view names and the log did not give: they are missing here.
    pub(crate) unread: u32,
    pub(crate) shape: BlockShape,
    /// In the order of the file.
    pub(crate) sections: Vec<Section<SectionKind>>,
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
    pub(crate) fn sections(&self) -> Vec<Section<SectionKind>> {
        place(self.lens())
    }

    fn lens(&self) -> Vec<(SectionKind, u16, u64)> {
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
        lens
    }

    /// Bytes of the whole file.
    pub(crate) fn file_len(&self) -> u64 {
        file_len(&self.sections())
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
        let BlockShape { dimensions, rows, links, entry, uppers } = &self.shape;
        let levels = if self.shape.has_graph() { uppers.len() as u32 + 1 } else { 0 };
        let stride = self.shape.stride() as u32;
        // The frame itself puts the number of sections in the place of the eighth.
        let counts = [*dimensions, stride, *rows, self.memories, *links, levels, *entry, 0, self.unread, 0];
        let mut fields = [0; FIELDS_LEN];
        for (field, count) in fields.chunks_exact_mut(4).zip(counts) {
            field.copy_from_slice(&count.to_le_bytes());
        }
        Frame { origin: self.origin, fields, sections: self.sections.clone() }.encode(BLOCK_MAGIC)
    }

    /// Reads the header of a file of this length. Every section that it names lies within the file, aligned, and has
    /// the length that the counts ask for.
    pub(crate) fn decode(bytes: &[u8], file_len: u64) -> Result<Self, BlockProblem> {
        let frame = Frame::decode(bytes, BLOCK_MAGIC, file_len)?;
        let count = |at: usize| u32_at(&frame.fields, 4 * at);
        let (links, levels) = (count(4), count(5) as usize);
        let field = |name, found| Err(BlockProblem::Damaged(Damage::Field { name, found }));
        if levels > LEVELS_MAX || (links > 0) != (levels > 0) {
            return field("levels", levels as u64);
        }
        let expected = PLAIN_SECTIONS + if levels > 0 { 1 + 3 * (levels - 1) } else { 0 };
        if frame.sections.len() != expected {
            return field("sections", frame.sections.len() as u64);
        }
        // Each upper level has three sections, of which the first has one number for each node.
        let uppers = (1..levels).map(|level| {
            let len = frame.sections[PLAIN_SECTIONS + 1 + 3 * (level - 1)].len;
            u32::try_from(len / 4).unwrap_or(u32::MAX)
        });
        let shape = BlockShape {
            dimensions: count(0),
            rows: count(2),
            links,
            entry: count(6),
            uppers: uppers.collect(),
        };
        shape.check()?;
        if count(1) as usize != shape.stride() {
            return field("stride", count(1).into());
        }
        if count(3) > shape.rows {
            return field("memories", count(3).into());
        }
        let lens = shape.lens().into_iter().map(|(kind, level, len)| (kind, level, Some(len)));
        let sections = frame.sections_of(lens)?;
        Ok(Self { origin: frame.origin, memories: count(3), unread: count(8), shape, sections })
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{SECTION_ALIGN, with};
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
            origin: Origin {
                store_id: [3; 16],
                generation: 4,
                position,
                log_generation: 6,
                maker: 2,
                maker_sha256: [5; 32],
            },
            memories: 900,
            unread: 1,
            shape,
            sections,
        }
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
        for at in 8..BLOCK_HEADER_LEN - 4 {
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
