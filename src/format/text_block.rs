//! Text blocks: the words of many memories in one file that is searched where it lies. Spec:
//! `format-spec/text-block.md`.

use super::Damage;
use super::frame::{BlockProblem, FIELDS_LEN, Frame, Origin, Section, place, u32_at, u64_at};

/// First bytes of a text block.
pub(crate) const TEXT_MAGIC: [u8; 8] = *b"MMTOTXT1";
/// Most documents of a block.
pub(crate) const DOCUMENTS_MAX: usize = 1 << 30;
/// Bytes of an entry of the dictionary.
pub(crate) const TERM_ENTRY_LEN: u64 = 24;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum TextSection {
    /// For each document the key of its memory, `u64`, ascending.
    Keys = 1,
    /// For each document its time in Unix seconds, `i64`.
    Times = 2,
    /// For each document its place in its conversation, `i64`.
    Positions = 3,
    /// For each document how many terms it has, with two flags, `u32`.
    Lens = 4,
    /// For each document its importance, `f32`.
    Importances = 5,
    /// For each document the ones before and after it in its conversation, two `u32`.
    Links = 6,
    /// For each conversation its hash, `u64`, ascending.
    Sessions = 7,
    /// For each conversation, and behind the last one, where its turns begin, `u32`.
    Starts = 8,
    /// The documents of all conversations, `u32`.
    Turns = 9,
    /// For each term, and behind the last one, where it and its postings begin.
    Entries = 10,
    /// The bytes of all terms.
    Terms = 11,
    /// The postings of all terms.
    Postings = 12,
}

impl From<TextSection> for u16 {
    fn from(kind: TextSection) -> Self {
        kind as Self
    }
}

/// How many there are of what, from which the places of all sections follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextShape {
    pub(crate) documents: u32,
    /// Documents that are turns of conversations.
    pub(crate) turns: u32,
    pub(crate) sessions: u32,
    pub(crate) terms: u32,
    /// Bytes of all terms.
    pub(crate) term_len: u64,
    /// Bytes of all postings.
    pub(crate) postings_len: u64,
}

/// What a text block says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextHeader {
    /// Its maker is the analysis of texts.
    pub(crate) origin: Origin,
    pub(crate) shape: TextShape,
    /// Terms of all documents.
    pub(crate) terms_total: u64,
    /// Terms of those that are turns of conversations.
    pub(crate) turn_terms_total: u64,
    /// In the order of the file.
    pub(crate) sections: Vec<Section<TextSection>>,
}

impl TextShape {
    /// The sections in the order of the file, with their places and without their checksums.
    pub(crate) fn sections(&self) -> Vec<Section<TextSection>> {
        place(self.lens())
    }

    fn lens(&self) -> [(TextSection, u16, u64); 12] {
        use TextSection::{
            Entries, Importances, Keys, Lens, Links, Positions, Postings, Sessions, Starts, Terms, Times,
            Turns,
        };
        let [documents, turns, sessions, terms] =
            [self.documents, self.turns, self.sessions, self.terms].map(u64::from);
        [
            (Keys, 8 * documents),
            (Times, 8 * documents),
            (Positions, 8 * documents),
            (Lens, 4 * documents),
            (Importances, 4 * documents),
            (Links, 8 * documents),
            (Sessions, 8 * sessions),
            (Starts, 4 * (sessions + 1)),
            (Turns, 4 * turns),
            (Entries, TERM_ENTRY_LEN * (terms + 1)),
            (Terms, self.term_len),
            (Postings, self.postings_len),
        ]
        .map(|(kind, len)| (kind, 0, len))
    }
}

impl TextHeader {
    /// The first bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let TextShape { documents, turns, sessions, terms, .. } = self.shape;
        let mut fields = [0; FIELDS_LEN];
        for (field, count) in fields.chunks_exact_mut(4).zip([documents, turns, sessions, terms]) {
            field.copy_from_slice(&count.to_le_bytes());
        }
        fields[16..24].copy_from_slice(&self.terms_total.to_le_bytes());
        fields[32..40].copy_from_slice(&self.turn_terms_total.to_le_bytes());
        Frame { origin: self.origin, fields, sections: self.sections.clone() }.encode(TEXT_MAGIC)
    }

    /// Reads the header of a file of this length. Every section that it names lies within the file, aligned, and has
    /// the length that the counts ask for.
    pub(crate) fn decode(bytes: &[u8], file_len: u64) -> Result<Self, BlockProblem> {
        let frame = Frame::decode(bytes, TEXT_MAGIC, file_len)?;
        let fields = &frame.fields;
        let [documents, turns, sessions, terms] = [0, 4, 8, 12].map(|at| u32_at(fields, at));
        let field = |name, found: u32| BlockProblem::Damaged(Damage::Field { name, found: found.into() });
        if documents as usize > DOCUMENTS_MAX {
            return Err(field("documents", documents));
        }
        if turns > documents {
            return Err(field("turns", turns));
        }
        if sessions > turns {
            return Err(field("sessions", sessions));
        }
        let mut shape = TextShape { documents, turns, sessions, terms, term_len: 0, postings_len: 0 };
        let is_free = |kind| matches!(kind, TextSection::Terms | TextSection::Postings);
        let lens = shape.lens().map(|(kind, level, len)| (kind, level, (!is_free(kind)).then_some(len)));
        let sections = frame.sections_of(lens)?;
        shape.term_len = sections[TextSection::Terms as usize - 1].len;
        shape.postings_len = sections[TextSection::Postings as usize - 1].len;
        if shape.term_len > u32::MAX.into() {
            return Err(BlockProblem::Damaged(Damage::Field { name: "terms", found: shape.term_len }));
        }
        Ok(Self {
            origin: frame.origin,
            shape,
            terms_total: u64_at(fields, 16),
            turn_terms_total: u64_at(fields, 32),
            sections,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{BLOCK_HEADER_LEN, BlockPosition, file_len, with};
    use super::*;

    fn header() -> TextHeader {
        let shape = TextShape {
            documents: 1000,
            turns: 600,
            sessions: 20,
            terms: 5000,
            term_len: 40_001,
            postings_len: 9,
        };
        let mut sections = shape.sections();
        for (index, section) in sections.iter_mut().enumerate() {
            section.checksum = 0x0101_0101 * index as u32;
        }
        let origin = Origin {
            store_id: [3; 16],
            generation: 4,
            position: BlockPosition {
                last_seq: 7,
                segment: 8,
                epoch: 9,
                last_offset: 4096,
                last_checksum: 10,
            },
            log_generation: 6,
            maker: 2,
            maker_sha256: [5; 32],
        };
        TextHeader { origin, shape, terms_total: u64::MAX, turn_terms_total: 1 << 40, sections }
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_byte_is_noticed() {
        let header = header();
        let (bytes, len) = (header.encode(), file_len(&header.sections));
        assert_eq!(TextHeader::decode(&bytes, len), Ok(header));
        for offset in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[offset] ^= 0x40;
            assert!(TextHeader::decode(&damaged, len).is_err(), "offset {offset}");
        }
        for other in [0, len - 1, len + 1, u64::MAX] {
            assert!(TextHeader::decode(&bytes, other).is_err(), "length {other}");
        }
    }

    #[test]
    fn sections_fill_the_file_whatever_a_header_with_a_right_checksum_says() {
        let header = header();
        let (bytes, len) = (header.encode(), file_len(&header.sections));
        let mut accepted = 0;
        for at in 8..BLOCK_HEADER_LEN - 4 {
            for value in [0, 1, 0x7F, 0xFF] {
                let Ok(read) = TextHeader::decode(&with(bytes.clone(), at, value), len) else { continue };
                accepted += 1;
                let end = read.sections.iter().fold(BLOCK_HEADER_LEN as u64, |end, section| {
                    assert!(section.offset >= end);
                    section.offset + section.len
                });
                assert!(end <= len);
            }
        }
        assert!(accepted > 100, "identities, sequences, checksums and reserved bytes may be anything");
    }
}
