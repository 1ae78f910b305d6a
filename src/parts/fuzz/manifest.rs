//! Any bytes as a manifest, alone and beside the segments that it may be wrong about.

use super::Seeds;
use super::input::Input;
use super::segment::{STORE, place, put, put_file, sample, write_on};
use crate::format::manifest::{MANIFEST_HEADER_LEN, ManifestV1, TailV1};

/// First byte: length and checksum are set right.
const MENDED: u8 = 1;

/// The body of the target.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let first = input.byte();
    let applied_seq = u64::from(input.byte());
    let mut bytes = input.0.to_vec();
    if first & MENDED != 0 {
        mend(&mut bytes);
    }
    if let Ok(manifest) = ManifestV1::decode(&bytes) {
        assert_eq!(ManifestV1::decode(&manifest.encode()), Ok(manifest));
    }
    let place = place();
    put(&place, sample(1, 1, None, false).file());
    put_file(&place, &place.manifest, bytes);
    write_on(&place, applied_seq);
}

/// Gives a manifest the length and the checksum that it should have.
pub(super) fn mend(bytes: &mut [u8]) {
    if bytes.len() < MANIFEST_HEADER_LEN {
        return;
    }
    let body_len = u32::try_from(bytes.len() - MANIFEST_HEADER_LEN).unwrap_or(u32::MAX);
    bytes[12..16].copy_from_slice(&body_len.to_le_bytes());
    let checksum = crc32fast::hash(&[&bytes[..16], &bytes[MANIFEST_HEADER_LEN..]].concat());
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
}

pub(super) fn seeds() -> Seeds {
    let sample = sample(1, 1, None, false);
    let tail = TailV1 {
        segment: 1,
        len: sample.file().len() as u64,
        records: sample.last_seq,
        last_seq: sample.last_seq,
        chain: 7,
        time_min: 5,
        time_max: 9,
    };
    let open = ManifestV1 { store_id: STORE, generation: 3, segments: vec![1], clean_tail: None };
    let clean = ManifestV1 { clean_tail: Some(tail), ..open.clone() };
    let missing = ManifestV1 { segments: vec![1, 2, 3], ..open.clone() };
    [("open", open), ("clean", clean), ("missing", missing)]
        .into_iter()
        .map(|(name, manifest)| (name, [&[MENDED, 0], &manifest.encode()[..]].concat()))
        .collect()
}
