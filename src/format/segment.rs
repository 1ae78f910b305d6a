//! The header of a segment. Spec: `format-spec/segment.md`.

use std::ops::RangeInclusive;

use super::Damage;

/// First bytes of a segment.
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"MMTOSEG1";
/// A reader refuses another major version.
pub(crate) const FORMAT_MAJOR: u16 = 1;
/// A reader accepts any minor version: what must be understood has a feature bit.
pub(crate) const FORMAT_MINOR: u16 = 0;
/// Bytes before the first record.
pub(crate) const SEGMENT_HEADER_LEN: usize = 4096;
/// Offset of the header's second copy; either valid copy suffices.
pub(crate) const SEGMENT_COPY_OFFSET: usize = 2048;
/// Bytes of one copy that carry fields.
pub(crate) const SEGMENT_FIELDS_LEN: usize = 128;
/// Codec 1: bincode 2, standard configuration.
pub(crate) const CODEC_BINCODE2: u16 = 1;
/// Kind 1: written by remember, update and forget, in order of sequence.
pub(crate) const SEGMENT_KIND_LOG: u16 = 1;
/// Kind 2: written at once in the place of others, by compaction, purge or healing.
pub(crate) const SEGMENT_KIND_REWRITTEN: u16 = 2;
/// Feature bit of a segment of kind 2: whoever does not know it would take the gaps for losses.
pub(crate) const FEATURE_REWRITTEN: u64 = 1;
/// Feature bit of a segment that was written as a part of a large group, or holds a restore point or a restore: whoever
/// does not know it would take its records for damage, and parts without their names yet for losses.
pub(crate) const FEATURE_RESTORES: u64 = 2;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store_id: [u8; 16],
    pub(crate) number: u64,
    /// Random, never used again: bytes of another segment never pass for records of this one.
    pub(crate) epoch: u64,
    /// Sequence of its first record.
    pub(crate) base_seq: u64,
    /// Number of the segment before it; 0 for the first.
    pub(crate) prev_number: u64,
    pub(crate) prev_last_seq: u64,
    /// Rolling checksum of the segment before it, at its seal.
    pub(crate) prev_chain: u32,
    pub(crate) created_unix_ms: i64,
    /// Whether it was written as a part of a large group, or holds a restore point or a restore.
    pub(crate) has_restores: bool,
    /// Set in a segment that stands in the place of others.
    pub(crate) rewrite: Option<Rewrite>,
}

/// What a rewritten segment says of those in whose place it stands: all from the one behind `prev_number` up to its own
/// number, with the sequences from `base_seq` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rewrite {
    /// The last sequence of those.
    pub(crate) last_seq: u64,
    /// Rolling checksum of the last of those at its seal, which the segment behind it names.
    pub(crate) end_chain: u32,
    /// Counts up with every rewrite in the store. Of two segments that stand for one, the higher generation counts.
    pub(crate) generation: u64,
}

/// Why a header cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderProblem {
    /// Written by a newer major version, or needs a feature that is not known here.
    Newer { major: u16, features: u64 },
    /// Neither copy is whole.
    Damaged(Damage),
}

impl SegmentHeader {
    /// Numbers of the segments that it stands for.
    pub(crate) fn numbers(&self) -> RangeInclusive<u64> {
        let first = if self.rewrite.is_some() { self.prev_number + 1 } else { self.number };
        first..=self.number
    }

    /// Of two segments that stand for one number, the higher generation counts; 0 for one that was never rewritten.
    pub(crate) fn generation(&self) -> u64 {
        self.rewrite.map_or(0, |rewrite| rewrite.generation)
    }

    /// What a reader has to know to understand it.
    fn features(&self) -> u64 {
        let rewritten = if self.rewrite.is_some() { FEATURE_REWRITTEN } else { 0 };
        let restores = if self.has_restores { FEATURE_RESTORES } else { 0 };
        rewritten | restores
    }

    /// The whole header, both copies.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fields = [0u8; SEGMENT_FIELDS_LEN];
        let mut put = |at: usize, bytes: &[u8]| fields[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &SEGMENT_MAGIC);
        put(8, &FORMAT_MAJOR.to_le_bytes());
        put(10, &FORMAT_MINOR.to_le_bytes());
        put(12, &(SEGMENT_HEADER_LEN as u32).to_le_bytes());
        put(16, &self.store_id);
        put(32, &self.number.to_le_bytes());
        put(40, &self.epoch.to_le_bytes());
        put(48, &self.base_seq.to_le_bytes());
        put(56, &self.prev_number.to_le_bytes());
        put(64, &self.prev_last_seq.to_le_bytes());
        put(72, &self.prev_chain.to_le_bytes());
        put(76, &SEGMENT_KIND_LOG.to_le_bytes());
        put(78, &CODEC_BINCODE2.to_le_bytes());
        put(80, &self.created_unix_ms.to_le_bytes());
        put(112, &self.features().to_le_bytes());
        if let Some(Rewrite { last_seq, end_chain, generation }) = self.rewrite {
            put(76, &SEGMENT_KIND_REWRITTEN.to_le_bytes());
            put(88, &self.base_seq.to_le_bytes());
            put(96, &last_seq.to_le_bytes());
            put(104, &generation.to_le_bytes());
            put(120, &end_chain.to_le_bytes());
        }
        let checksum = crc32fast::hash(&fields[..124]);
        fields[124..].copy_from_slice(&checksum.to_le_bytes());
        let mut header = vec![0; SEGMENT_HEADER_LEN];
        header[..SEGMENT_FIELDS_LEN].copy_from_slice(&fields);
        header[SEGMENT_COPY_OFFSET..SEGMENT_COPY_OFFSET + SEGMENT_FIELDS_LEN].copy_from_slice(&fields);
        header
    }

    /// The header from its first whole copy.
    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER_LEN]) -> Result<Self, HeaderProblem> {
        let copy = |at: usize| {
            Self::decode_copy(bytes[at..at + SEGMENT_FIELDS_LEN].try_into().expect("length is fixed"))
        };
        match copy(0) {
            Err(HeaderProblem::Damaged(first)) => match copy(SEGMENT_COPY_OFFSET) {
                Err(HeaderProblem::Damaged(_)) => Err(HeaderProblem::Damaged(first)),
                other => other,
            },
            other => other,
        }
    }

    /// Whether both copies are whole, equal and surrounded by zeros: what `check` demands.
    pub(crate) fn is_pristine(bytes: &[u8; SEGMENT_HEADER_LEN]) -> bool {
        Self::decode(bytes).is_ok_and(|header| header.encode() == bytes)
    }

    fn decode_copy(fields: &[u8; SEGMENT_FIELDS_LEN]) -> Result<Self, HeaderProblem> {
        let damaged = HeaderProblem::Damaged;
        let u16_at = |at: usize| u16::from_le_bytes(fields[at..at + 2].try_into().expect("length is fixed"));
        let u32_at = |at: usize| u32::from_le_bytes(fields[at..at + 4].try_into().expect("length is fixed"));
        let u64_at = |at: usize| u64::from_le_bytes(fields[at..at + 8].try_into().expect("length is fixed"));
        if fields[..8] != SEGMENT_MAGIC {
            return Err(damaged(Damage::Magic));
        }
        let (stored, computed) = (u32_at(124), crc32fast::hash(&fields[..124]));
        if stored != computed {
            return Err(damaged(Damage::Checksum { stored, computed }));
        }
        let (major, features) = (u16_at(8), u64_at(112));
        if major != FORMAT_MAJOR || features & !(FEATURE_REWRITTEN | FEATURE_RESTORES) != 0 {
            return Err(HeaderProblem::Newer { major, features });
        }
        let is_rewritten = features & FEATURE_REWRITTEN != 0;
        let kind = if is_rewritten { SEGMENT_KIND_REWRITTEN } else { SEGMENT_KIND_LOG };
        let replaced = [88, 96, 104].map(u64_at);
        let (first, rest) = if is_rewritten {
            (u64_at(48), 0)
        } else {
            (0, replaced[1] | replaced[2] | u64::from(u32_at(120)))
        };
        for (name, found, expected) in [
            ("header length", u64::from(u32_at(12)), SEGMENT_HEADER_LEN as u64),
            ("kind", u64::from(u16_at(76)), u64::from(kind)),
            ("codec", u64::from(u16_at(78)), u64::from(CODEC_BINCODE2)),
            ("first replaced sequence", replaced[0], first),
            ("replaced range", rest, 0),
        ] {
            if found != expected {
                return Err(damaged(Damage::Field { name, found }));
            }
        }
        Ok(Self {
            store_id: fields[16..32].try_into().expect("length is fixed"),
            number: u64_at(32),
            epoch: u64_at(40),
            base_seq: u64_at(48),
            prev_number: u64_at(56),
            prev_last_seq: u64_at(64),
            prev_chain: u32_at(72),
            created_unix_ms: u64_at(80).cast_signed(),
            has_restores: features & FEATURE_RESTORES != 0,
            rewrite: is_rewritten.then(|| Rewrite {
                last_seq: u64_at(96),
                end_chain: u32_at(120),
                generation: u64_at(104),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            store_id: [7; 16],
            number: 3,
            epoch: 0xDEAD_BEEF,
            base_seq: 100,
            prev_number: 2,
            prev_last_seq: 99,
            prev_chain: 0x1234,
            created_unix_ms: 1_700_000_000_000,
            has_restores: false,
            rewrite: None,
        }
    }

    fn rewritten() -> SegmentHeader {
        let rewrite = Rewrite { last_seq: 250, end_chain: 0x5678, generation: 9 };
        SegmentHeader { number: 5, rewrite: Some(rewrite), ..header() }
    }

    fn as_array(bytes: Vec<u8>) -> [u8; SEGMENT_HEADER_LEN] {
        bytes.try_into().expect("a header")
    }

    #[test]
    fn a_header_reads_back() {
        let with_restores = |header| SegmentHeader { has_restores: true, ..header };
        for header in [header(), rewritten(), with_restores(header()), with_restores(rewritten())] {
            assert_eq!(SegmentHeader::decode(&as_array(header.encode())), Ok(header));
        }
        assert_eq!((header().numbers(), rewritten().numbers()), (3..=3, 3..=5));
    }

    #[test]
    fn one_damaged_copy_is_harmless_but_not_pristine() {
        for offset in 0..SEGMENT_HEADER_LEN {
            let mut bytes = header().encode();
            bytes[offset] ^= 0x10;
            let bytes = as_array(bytes);
            assert_eq!(SegmentHeader::decode(&bytes), Ok(header()), "offset {offset}");
            assert!(!SegmentHeader::is_pristine(&bytes), "offset {offset}");
        }
    }

    #[test]
    fn a_newer_major_version_and_unknown_features_are_told_from_damage() {
        for (at, value) in [(8, 2), (112, 4)] {
            let mut bytes = header().encode();
            bytes[at] = value;
            let checksum = crc32fast::hash(&bytes[..124]);
            bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
            assert!(matches!(SegmentHeader::decode(&as_array(bytes)), Err(HeaderProblem::Newer { .. })));
        }
    }
}
