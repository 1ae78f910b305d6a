//! What all files of `index/` have in common: a header that says what the file is, of which store and up to where, and a
//! table of sections, each with its checksum. Specs: `format-spec/block.md`, `format-spec/text-block.md`.
//!
//! Only the header is read here, and where each section stands. What sections hold is bytes to whoever searches them.

use std::ops::Range;

use super::Damage;

/// Bytes before the first section.
pub(crate) const BLOCK_HEADER_LEN: usize = 4096;
/// Sections begin at multiples of this.
pub(crate) const SECTION_ALIGN: u64 = 4096;
/// A reader refuses files of another one.
pub(crate) const BLOCK_MAJOR: u16 = 1;
/// What a reader may ignore counts up here.
const BLOCK_MINOR: u16 = 0;
/// Bytes that each kind of file uses in its own way.
pub(crate) const FIELDS_LEN: usize = 40;

const FIELDS_OFFSET: usize = 112;
/// The number of sections stands among the fields.
const SECTIONS_FIELD: Range<usize> = 28..32;
const TABLE_OFFSET: usize = 256;
const SECTION_LEN: usize = 24;
const CHECKSUM_OFFSET: usize = BLOCK_HEADER_LEN - 4;
const SECTIONS_MAX: usize = (CHECKSUM_OFFSET - TABLE_OFFSET) / SECTION_LEN;

/// One section: what it holds, where, and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section<K> {
    pub(crate) kind: K,
    /// Level of a graph; 0 for sections that belong to none.
    pub(crate) level: u16,
    pub(crate) checksum: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl<K> Section<K> {
    /// Its bytes within a file whose length the header was held against.
    pub(crate) fn range(&self) -> Range<usize> {
        let at = |offset| usize::try_from(offset).expect("a file that is in memory");
        at(self.offset)..at(self.offset + self.len)
    }

    fn with_kind<L>(self, kind: L) -> Section<L> {
        let Self { kind: _, level, checksum, offset, len } = self;
        Section { kind, level, checksum, offset, len }
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

/// Where a file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) store_id: [u8; 16],
    /// Counts up with every file of its kind.
    pub(crate) generation: u64,
    pub(crate) position: BlockPosition,
    /// The highest generation of a segment when it was made: later ones may lack records that it would need.
    pub(crate) log_generation: u64,
    /// What its content was made with: the number of a model, or the version of an analysis.
    pub(crate) maker: u32,
    /// What is behind that number.
    pub(crate) maker_sha256: [u8; 32],
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame<K> {
    pub(crate) origin: Origin,
    pub(crate) fields: [u8; FIELDS_LEN],
    /// In the order of the file.
    pub(crate) sections: Vec<Section<K>>,
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

/// The places of sections of these lengths, one after the other, without checksums.
pub(crate) fn place<K>(sections: impl IntoIterator<Item = (K, u16, u64)>) -> Vec<Section<K>> {
    let mut offset = BLOCK_HEADER_LEN as u64;
    let place = |(kind, level, len): (K, u16, u64)| {
        let section = Section { kind, level, checksum: 0, offset, len };
        offset = (offset + len).next_multiple_of(SECTION_ALIGN);
        section
    };
    sections.into_iter().map(place).collect()
}

/// Bytes of a file with these sections.
pub(crate) fn file_len<K>(sections: &[Section<K>]) -> u64 {
    sections
        .last()
        .map_or(BLOCK_HEADER_LEN as u64, |last| (last.offset + last.len).next_multiple_of(SECTION_ALIGN))
}

impl<K: Copy + Into<u16>> Frame<K> {
    /// The first [`BLOCK_HEADER_LEN`] bytes of the file.
    pub(crate) fn encode(&self, magic: [u8; 8]) -> Vec<u8> {
        let Origin { store_id, generation, position, log_generation, maker, maker_sha256 } = &self.origin;
        let mut bytes = Vec::with_capacity(BLOCK_HEADER_LEN);
        bytes.extend_from_slice(&magic);
        bytes.extend_from_slice(&BLOCK_MAJOR.to_le_bytes());
        bytes.extend_from_slice(&BLOCK_MINOR.to_le_bytes());
        bytes.extend_from_slice(&(BLOCK_HEADER_LEN as u32).to_le_bytes());
        bytes.extend_from_slice(store_id);
        for field in [*generation, position.last_seq, position.segment, position.epoch, position.last_offset]
        {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&position.last_checksum.to_le_bytes());
        bytes.extend_from_slice(&maker.to_le_bytes());
        bytes.extend_from_slice(maker_sha256);
        let mut fields = self.fields;
        let sections = u32::try_from(self.sections.len()).expect("some dozens");
        fields[SECTIONS_FIELD].copy_from_slice(&sections.to_le_bytes());
        bytes.extend_from_slice(&fields);
        bytes.extend_from_slice(&file_len(&self.sections).to_le_bytes());
        bytes.extend_from_slice(&log_generation.to_le_bytes());
        bytes.resize(TABLE_OFFSET, 0);
        for section in &self.sections {
            let kind: u16 = section.kind.into();
            bytes.extend_from_slice(&kind.to_le_bytes());
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
}

impl Frame<u16> {
    /// Reads the header of a file of this kind and length. Every section that it names lies within the file, aligned,
    /// right behind the one before it.
    pub(crate) fn decode(bytes: &[u8], magic: [u8; 8], len: u64) -> Result<Self, BlockProblem> {
        let short = Damage::Short { found: bytes.len(), expected: BLOCK_HEADER_LEN };
        let head = bytes.first_chunk::<BLOCK_HEADER_LEN>().ok_or(short)?;
        if head[..8] != magic {
            return Err(Damage::Magic.into());
        }
        let (stored, computed) = (u32_at(head, CHECKSUM_OFFSET), crc32fast::hash(&head[..CHECKSUM_OFFSET]));
        if stored != computed {
            return Err(Damage::Checksum { stored, computed }.into());
        }
        let major = u16::from_le_bytes([head[8], head[9]]);
        if major != BLOCK_MAJOR {
            return Err(BlockProblem::Newer { major });
        }
        let field = |name, found| BlockProblem::Damaged(Damage::Field { name, found });
        if u32_at(head, 12) as usize != BLOCK_HEADER_LEN {
            return Err(field("header_len", u32_at(head, 12).into()));
        }
        let fields = *head[FIELDS_OFFSET..].first_chunk::<FIELDS_LEN>().expect("within the header");
        let count = u32_at(&fields, SECTIONS_FIELD.start) as usize;
        if count > SECTIONS_MAX {
            return Err(field("sections", count as u64));
        }
        let mut end = BLOCK_HEADER_LEN as u64;
        let mut sections = Vec::with_capacity(count);
        for index in 0..count {
            let entry = &head[TABLE_OFFSET + index * SECTION_LEN..][..SECTION_LEN];
            let section = Section {
                kind: u16::from_le_bytes([entry[0], entry[1]]),
                level: u16::from_le_bytes([entry[2], entry[3]]),
                checksum: u32_at(entry, 4),
                offset: u64_at(entry, 8),
                len: u64_at(entry, 16),
            };
            if section.offset != end {
                return Err(field("section_offset", section.offset));
            }
            // No sum overflows: what does not fit the file is refused first, and no file is nearly as long as a number.
            if section.len > len.min(u64::MAX / 2).saturating_sub(section.offset) {
                return Err(field("section_len", section.len));
            }
            end = (section.offset + section.len).next_multiple_of(SECTION_ALIGN);
            sections.push(section);
        }
        if u64_at(head, 152) != end || len != end {
            return Err(field("file_len", u64_at(head, 152)));
        }
        let origin = Origin {
            store_id: *head[16..].first_chunk().expect("within the header"),
            generation: u64_at(head, 32),
            position: BlockPosition {
                last_seq: u64_at(head, 40),
                segment: u64_at(head, 48),
                epoch: u64_at(head, 56),
                last_offset: u64_at(head, 64),
                last_checksum: u32_at(head, 72),
            },
            log_generation: u64_at(head, 160),
            maker: u32_at(head, 76),
            maker_sha256: *head[80..].first_chunk().expect("within the header"),
        };
        Ok(Self { origin, fields, sections })
    }

    /// The sections, if they are these, each of the length that is asked for, where one is; with their checksums.
    pub(crate) fn sections_of<K: Copy + Into<u16>>(
        &self,
        expected: impl IntoIterator<Item = (K, u16, Option<u64>)>,
    ) -> Result<Vec<Section<K>>, Damage> {
        let mut found = self.sections.iter();
        let mut sections = Vec::with_capacity(self.sections.len());
        for (kind, level, len) in expected {
            let wrong = |name, found| Damage::Field { name, found };
            let section = *found.next().ok_or(wrong("sections", self.sections.len() as u64))?;
            if section.kind != kind.into() || section.level != level {
                return Err(wrong("section_kind", section.kind.into()));
            }
            if len.is_some_and(|len| len != section.len) {
                return Err(wrong("section_len", section.len));
            }
            sections.push(section.with_kind(kind));
        }
        match found.len() {
            0 => Ok(sections),
            _ => Err(Damage::Field { name: "sections", found: self.sections.len() as u64 }),
        }
    }
}

/// A number at a place that is there.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller knows the length"))
}

/// As [`u32_at`].
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller knows the length"))
}

/// Changes a byte and sets the checksum right, for tests.
#[cfg(test)]
pub(super) fn with(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    let checksum = crc32fast::hash(&bytes[..CHECKSUM_OFFSET]);
    bytes[CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}
