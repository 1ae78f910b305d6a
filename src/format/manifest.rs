//! The manifest: which segments there are, and where a clean close left the log. Spec: `format-spec/manifest.md`.
//!
//! It speeds up and cross-checks; everything in it can be found again in the segments.

use serde::{Deserialize, Serialize};

use super::segment::FORMAT_MAJOR;
use super::{Damage, codec};

/// First bytes of the manifest.
pub(crate) const MANIFEST_MAGIC: [u8; 8] = *b"MMTOMAN1";
/// Bytes before the encoded body.
pub(crate) const MANIFEST_HEADER_LEN: usize = 20;
/// Most bytes of a manifest.
pub(crate) const MANIFEST_LEN_MAX: usize = 16 << 20;

/// A segment up to a place between two of its records, such as where the log ended when the store was closed cleanly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TailV1 {
    /// The segment that is open for records.
    pub(crate) segment: u64,
    /// Its length: where the next record begins.
    pub(crate) len: u64,
    /// Records in it.
    pub(crate) records: u64,
    /// Sequence of the last record.
    pub(crate) last_seq: u64,
    /// Rolling checksum of its records.
    pub(crate) chain: u32,
    /// Smallest timestamp of a memory in it; `i64::MAX` when there is none.
    pub(crate) time_min: i64,
    /// Largest timestamp of a memory in it; `i64::MIN` when there is none.
    pub(crate) time_max: i64,
}

/// The whole manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestV1 {
    pub(crate) store_id: [u8; 16],
    /// Counts up with every manifest that is written.
    pub(crate) generation: u64,
    /// Numbers of all segments, ascending.
    pub(crate) segments: Vec<u64>,
    /// Set by a clean close; absent since the first roll or recovery after it.
    pub(crate) clean_tail: Option<TailV1>,
}

/// Why a manifest cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ManifestProblem {
    /// Written by a newer major version.
    Newer { major: u16 },
    /// Not whole.
    Damaged(Damage),
}

impl ManifestV1 {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; MANIFEST_HEADER_LEN];
        codec::encode_into(self, &mut bytes);
        let body_len =
            u32::try_from(bytes.len() - MANIFEST_HEADER_LEN).expect("segments are far fewer than 2^29");
        bytes[..8].copy_from_slice(&MANIFEST_MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT_MAJOR.to_le_bytes());
        bytes[12..16].copy_from_slice(&body_len.to_le_bytes());
        let checksum = checksum(&bytes);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ManifestProblem> {
        let damaged = ManifestProblem::Damaged;
        let short = Damage::Short { found: bytes.len(), expected: MANIFEST_HEADER_LEN };
        let head = bytes.first_chunk::<MANIFEST_HEADER_LEN>().ok_or(damaged(short))?;
        if head[..8] != MANIFEST_MAGIC {
            return Err(damaged(Damage::Magic));
        }
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("length is fixed"));
        let (stored, computed) = (u32_at(16), checksum(bytes));
        if stored != computed {
            return Err(damaged(Damage::Checksum { stored, computed }));
        }
        let major = u16::from_le_bytes([head[8], head[9]]);
        if major != FORMAT_MAJOR {
            return Err(ManifestProblem::Newer { major });
        }
        let expected = MANIFEST_HEADER_LEN + u32_at(12) as usize;
        if bytes.len() != expected {
            return Err(damaged(Damage::Short { found: bytes.len(), expected }));
        }
        codec::decode(&bytes[MANIFEST_HEADER_LEN..]).map_err(damaged)
    }
}

/// Over everything but the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..16]);
    hasher.update(&bytes[MANIFEST_HEADER_LEN..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> ManifestV1 {
        let tail = TailV1 {
            segment: 2,
            len: 8192,
            records: 3,
            last_seq: 9,
            chain: 77,
            time_min: -5,
            time_max: i64::MAX,
        };
        ManifestV1 { store_id: [1; 16], generation: 4, segments: vec![1, 2], clean_tail: Some(tail) }
    }

    #[test]
    fn a_manifest_reads_back_and_every_flipped_byte_is_noticed() {
        let bytes = manifest().encode();
        assert_eq!(ManifestV1::decode(&bytes), Ok(manifest()));
        for offset in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[offset] ^= 0x40;
            assert!(ManifestV1::decode(&damaged).is_err(), "offset {offset}");
            assert!(ManifestV1::decode(&bytes[..offset]).is_err(), "cut at {offset}");
        }
    }
}
