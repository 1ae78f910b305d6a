//! The bytes of the query-cache file. Spec: `format-spec/query-cache.md`. No I/O here.

use crate::embed::ModelIdentity;
use crate::memory::DIMENSIONS_MAX;

/// First bytes of the file.
pub(super) const MAGIC: [u8; 8] = *b"MKVQVEC\0";
/// Version of the layout. A file of another version is made anew.
pub(super) const VERSION: u32 = 1;
/// Bytes of the file's header.
pub(super) const HEADER_LEN: usize = 32;
/// Bytes of a slot before its vector.
pub(super) const SLOT_HEADER_LEN: usize = 32;
/// Slots of a set: the places where one key may be.
pub(super) const WAYS: usize = 4;
/// Most sets of a file.
pub(super) const SETS_MAX: u32 = 1024;
/// Most bytes of a file.
pub(super) const FILE_LEN_MAX: u64 = 8 << 20;

/// First 16 bytes of SHA-256 over the model's bytes, a zero byte and the query.
pub(super) type Key = [u8; 16];

/// How a file for vectors of one length is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    dimensions: u32,
    sets: u32,
}

/// What a slot holds, its checksum verified.
pub(super) struct Slot<'a> {
    pub(super) stamp: u64,
    pub(super) key: &'a [u8],
    vector: &'a [u8],
}

impl Geometry {
    /// The division of a file of at most this many bytes, if vectors of this length fit.
    pub(super) fn new(dimensions: u32, file_len_max: u64) -> Option<Self> {
        if dimensions == 0 || dimensions as usize > DIMENSIONS_MAX {
            return None;
        }
        let one_set = Self { dimensions, sets: 1 }.set_len() as u64;
        let fitting = file_len_max.checked_sub(HEADER_LEN as u64)? / one_set;
        let sets = u32::try_from(fitting).unwrap_or(SETS_MAX).min(SETS_MAX);
        (sets > 0).then_some(Self { dimensions, sets })
    }

    pub(super) fn dimensions(self) -> usize {
        self.dimensions as usize
    }

    pub(super) fn slot_len(self) -> usize {
        SLOT_HEADER_LEN + 4 * self.dimensions()
    }

    pub(super) fn set_len(self) -> usize {
        WAYS * self.slot_len()
    }

    pub(super) fn file_len(self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.sets) * self.set_len() as u64
    }

    /// Where the set of this key begins.
    pub(super) fn set_offset(self, key: &Key) -> u64 {
        let [a, b, c, d, ..] = *key;
        let set = u32::from_le_bytes([a, b, c, d]) % self.sets;
        HEADER_LEN as u64 + u64::from(set) * self.set_len() as u64
    }

    /// The only header that a file of this division can have.
    pub(super) fn header(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        // At most 32 + 4 x 4,096, so it fits.
        bytes[12..16].copy_from_slice(&(self.slot_len() as u32).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.sets.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dimensions.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The bytes of a slot. The vector has this division's length.
    pub(super) fn encode_slot(self, key: &Key, stamp: u64, vector: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.slot_len());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.dimensions.to_le_bytes());
        bytes.extend_from_slice(&stamp.to_le_bytes());
        bytes.extend_from_slice(key);
        for value in vector {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// What the bytes of one slot hold, or nothing: an empty, half-written or damaged slot is no slot.
    pub(super) fn decode_slot(self, bytes: &[u8]) -> Option<Slot<'_>> {
        if bytes.len() != self.slot_len() {
            return None;
        }
        let checksum = u32::from_le_bytes(bytes[..4].try_into().ok()?);
        let dimensions = u32::from_le_bytes(bytes[4..8].try_into().ok()?);
        if dimensions != self.dimensions || crc32fast::hash(&bytes[4..]) != checksum {
            return None;
        }
        Some(Slot {
            stamp: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
            key: &bytes[16..32],
            vector: &bytes[SLOT_HEADER_LEN..],
        })
    }
}

impl Slot<'_> {
    /// The vector, if it is one.
    pub(super) fn vector(&self) -> Option<Vec<f32>> {
        let (values, _) = self.vector.as_chunks::<4>();
        let vector: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        vector.iter().all(|x| x.is_finite()).then_some(vector)
    }
}

/// A model's identity as bytes, a zero byte behind it: the part of the hashed text that is the same for all queries.
/// Each text has its length before it, so that no two identities give the same bytes.
pub(super) fn model_bytes(model: &ModelIdentity) -> Vec<u8> {
    let ModelIdentity {
        name,
        weights_sha256,
        tokenizer_sha256,
        dimensions,
        pooling,
        normalized,
        max_tokens,
        document_form,
        query_form,
        engine,
    } = model;
    let mut bytes = Vec::with_capacity(256);
    for text in [name, weights_sha256, tokenizer_sha256, pooling, document_form, query_form, engine] {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(&dimensions.to_le_bytes());
    bytes.extend_from_slice(&max_tokens.to_le_bytes());
    bytes.push(u8::from(*normalized));
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = include_str!("../../../format-spec/query-cache.md");

    /// The rows of the spec's tables as cells.
    fn rows() -> impl Iterator<Item = Vec<&'static str>> {
        SPEC.lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
    }

    #[test]
    fn constants_are_those_of_the_spec() {
        let constants = [
            ("HEADER_LEN", HEADER_LEN as u64),
            ("SLOT_HEADER_LEN", SLOT_HEADER_LEN as u64),
            ("WAYS", WAYS as u64),
            ("SETS_MAX", u64::from(SETS_MAX)),
            ("FILE_LEN_MAX", FILE_LEN_MAX),
        ];
        for (name, value) in constants {
            let row = rows().find(|cells| cells[0] == name).expect("each constant is in the spec");
            assert_eq!(row[1], value.to_string(), "{name}");
        }
    }

    #[test]
    fn fields_lie_where_the_spec_says() {
        let geometry = Geometry::new(3, FILE_LEN_MAX).expect("3 dimensions fit");
        let header = geometry.header();
        let key: Key = std::array::from_fn(|i| i as u8);
        let slot = geometry.encode_slot(&key, 0x0102_0304_0506_0708, &[1.0, 2.0, 3.0]);
        let mut tables = rows().filter(|cells| cells[0].parse::<u32>().is_ok());
        let mut next = |name: &str| {
            let row = tables.next().expect("the spec has this field");
            assert_eq!(row[2], name);
            let offset: usize = row[0].parse().expect("an offset");
            offset..offset + row[1].parse().unwrap_or(4 * 3)
        };
        assert_eq!(header[next("magic")], MAGIC);
        assert_eq!(header[next("version")], 1_u32.to_le_bytes());
        assert_eq!(header[next("slot_len")], 44_u32.to_le_bytes());
        assert_eq!(header[next("sets")], 1024_u32.to_le_bytes());
        assert_eq!(header[next("dimensions")], 3_u32.to_le_bytes());
        assert_eq!(header[next("reserved")], [0; 4]);
        assert_eq!(header[next("checksum")], crc32fast::hash(&header[..28]).to_le_bytes());
        assert_eq!(slot[next("checksum")], crc32fast::hash(&slot[4..]).to_le_bytes());
        assert_eq!(slot[next("dimensions")], 3_u32.to_le_bytes());
        assert_eq!(slot[next("stamp")], 0x0102_0304_0506_0708_u64.to_le_bytes());
        assert_eq!(slot[next("key")], key);
        let vector = next("vector");
        assert_eq!(vector.end, slot.len());
        assert_eq!(slot[vector], [1.0_f32, 2.0, 3.0].map(f32::to_le_bytes).concat());
    }
}
