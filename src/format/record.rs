//! The frame of a record. Spec: `format-spec/record.md`.

use super::Damage;
use super::op::{OP_VERSION, OpKind};

/// First bytes of a record. A whole header of zeros instead is the clean end of the log in zero-filled space.
pub(crate) const RECORD_MAGIC: [u8; 4] = *b"MRC1";
/// Bytes before the payload.
pub(crate) const RECORD_HEADER_LEN: usize = 40;
/// Records begin at multiples of this; the space between is zero.
pub(crate) const RECORD_ALIGN: usize = 8;
/// Most bytes of a payload.
pub(crate) const PAYLOAD_LEN_MAX: usize = 16 << 20;

const FLAG_GROUP_END: u8 = 1;
const FLAG_VECTORS: u8 = 2;

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: OpKind,
    pub(crate) payload_len: u32,
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
    /// The highest sequence known to be durable when this record was framed: tells a torn tail from rot.
    pub(crate) durable_seq: u64,
    /// The record ends an atomic group.
    pub(crate) group_end: bool,
    /// The payload has a vector part.
    pub(crate) has_vectors: bool,
    /// CRC-32 over the header before it and the payload.
    pub(crate) checksum: u32,
}

/// Where a whole record stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Location {
    /// Number of the segment.
    pub(crate) segment: u64,
    /// Byte offset of the record's header in it.
    pub(crate) offset: u64,
    /// Bytes of the record, header and padding included.
    pub(crate) len: u32,
}

/// Bytes of a record with this payload, padding included.
pub(crate) fn record_len(payload_len: usize) -> usize {
    (RECORD_HEADER_LEN + payload_len).next_multiple_of(RECORD_ALIGN)
}

/// Appends a record to `out`, which begins at a record boundary, and returns its checksum.
pub(crate) fn frame(header: RecordHeader, payload: &[u8], out: &mut Vec<u8>) -> u32 {
    assert!(!payload.is_empty() && payload.len() <= PAYLOAD_LEN_MAX, "payloads are limited at the door");
    let start = out.len();
    out.extend_from_slice(&RECORD_MAGIC);
    out.extend_from_slice(&u32::try_from(payload.len()).expect("limited above").to_le_bytes());
    out.extend_from_slice(&header.seq.to_le_bytes());
    out.extend_from_slice(&header.epoch.to_le_bytes());
    out.extend_from_slice(&header.durable_seq.to_le_bytes());
    let flags =
        if header.group_end { FLAG_GROUP_END } else { 0 } | if header.has_vectors { FLAG_VECTORS } else { 0 };
    out.extend_from_slice(&[header.kind as u8, OP_VERSION, flags, 0]);
    let checksum = checksum(&out[start..], payload);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(payload);
    out.resize(start + record_len(payload.len()), 0);
    checksum
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

/// The next link of a segment's rolling checksum.
pub(crate) fn chain(previous: u32, record_checksum: u32) -> u32 {
    let mut link = [0; 8];
    link[..4].copy_from_slice(&previous.to_le_bytes());
    link[4..].copy_from_slice(&record_checksum.to_le_bytes());
    crc32fast::hash(&link)
}

/// What stands at a place where a record may begin.
#[derive(Debug, PartialEq)]
pub(crate) enum Parsed<'a> {
    /// A whole record of this epoch.
    Record { header: RecordHeader, payload: &'a [u8], len: usize },
    /// Zeros: nothing was written here.
    Empty,
    /// The bytes end before the record does; this many are needed to go on.
    More(usize),
    /// Something else.
    Damaged(Damage),
}

/// Reads what begins at the start of `bytes`.
pub(crate) fn parse(bytes: &[u8], epoch: u64) -> Parsed<'_> {
    let Some(head) = bytes.first_chunk::<RECORD_HEADER_LEN>() else {
        return if bytes.iter().all(|byte| *byte == 0) && !bytes.is_empty() {
            Parsed::Empty
        } else {
            Parsed::More(RECORD_HEADER_LEN)
        };
    };
    // As one comparison: behind a crash a search passes over a megabyte of zeros in steps of eight.
    if *head == [0; RECORD_HEADER_LEN] {
        return Parsed::Empty;
    }
    if head[..4] != RECORD_MAGIC {
        return Parsed::Damaged(Damage::Magic);
    }
    let payload_len = u32::from_le_bytes(head[4..8].try_into().expect("length is fixed"));
    if payload_len == 0 || payload_len as usize > PAYLOAD_LEN_MAX {
        return Parsed::Damaged(Damage::TooLong {
            found: u64::from(payload_len),
            limit: PAYLOAD_LEN_MAX as u64,
        });
    }
    // Before the payload is looked at: a text may be full of what looks like records, and each would cost a checksum.
    let found_epoch = u64::from_le_bytes(head[16..24].try_into().expect("length is fixed"));
    if found_epoch != epoch {
        return Parsed::Damaged(Damage::Field { name: "epoch", found: found_epoch });
    }
    let len = record_len(payload_len as usize);
    if bytes.len() < len {
        return Parsed::More(len);
    }
    let payload = &bytes[RECORD_HEADER_LEN..RECORD_HEADER_LEN + payload_len as usize];
    match decode_header(head, payload) {
        Ok(header) if bytes[RECORD_HEADER_LEN + payload.len()..len].iter().all(|byte| *byte == 0) => {
            Parsed::Record { header, payload, len }
        }
        Ok(_) => Parsed::Damaged(Damage::Field { name: "padding", found: 1 }),
        Err(damage) => Parsed::Damaged(damage),
    }
}

fn decode_header(head: &[u8; RECORD_HEADER_LEN], payload: &[u8]) -> Result<RecordHeader, Damage> {
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("length is fixed"));
    let stored = u32::from_le_bytes(head[36..40].try_into().expect("length is fixed"));
    let computed = checksum(&head[..36], payload);
    if stored != computed {
        return Err(Damage::Checksum { stored, computed });
    }
    let kind = OpKind::from_byte(head[32]).ok_or(Damage::Field { name: "op", found: u64::from(head[32]) })?;
    for (name, found, expected) in
        [("op version", head[33], OP_VERSION), ("flags", head[34] & !3, 0), ("reserved", head[35], 0)]
    {
        if found != expected {
            return Err(Damage::Field { name, found: u64::from(found) });
        }
    }
    Ok(RecordHeader {
        kind,
        payload_len: u32::try_from(payload.len()).expect("limited above"),
        seq: u64_at(8),
        epoch: u64_at(16),
        durable_seq: u64_at(24),
        group_end: head[34] & FLAG_GROUP_END != 0,
        has_vectors: head[34] & FLAG_VECTORS != 0,
        checksum: stored,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(seq: u64) -> RecordHeader {
        RecordHeader {
            kind: OpKind::Forget,
            payload_len: 5,
            seq,
            epoch: 99,
            durable_seq: seq - 1,
            group_end: true,
            has_vectors: false,
            checksum: 0,
        }
    }

    fn framed() -> (Vec<u8>, RecordHeader) {
        let mut bytes = Vec::new();
        let checksum = frame(header(7), b"hello", &mut bytes);
        (bytes, RecordHeader { checksum, ..header(7) })
    }

    #[test]
    fn a_record_reads_back() {
        let (bytes, header) = framed();
        assert_eq!(bytes.len(), 48);
        assert_eq!(parse(&bytes, 99), Parsed::Record { header, payload: b"hello", len: 48 });
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (bytes, _) = framed();
        for offset in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[offset] ^= 1 << bit;
                assert!(!matches!(parse(&damaged, 99), Parsed::Record { .. }), "offset {offset} bit {bit}");
            }
        }
    }

    #[test]
    fn records_of_another_epoch_do_not_count() {
        let (bytes, _) = framed();
        assert!(matches!(parse(&bytes, 98), Parsed::Damaged(Damage::Field { name: "epoch", .. })));
    }

    #[test]
    fn zeros_are_the_end_and_cut_records_ask_for_more() {
        let (bytes, _) = framed();
        assert_eq!(parse(&[0; 100], 99), Parsed::Empty);
        for cut in 1..bytes.len() {
            assert!(matches!(parse(&bytes[..cut], 99), Parsed::More(_)), "cut at {cut}");
        }
    }

    #[test]
    fn a_hostile_length_is_refused_before_anything_is_read() {
        let (mut bytes, _) = framed();
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(parse(&bytes, 99), Parsed::Damaged(Damage::TooLong { .. })));
    }
}
