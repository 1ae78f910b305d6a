//! Any bytes as a record, and any bytes as the payload of each kind of op.

use super::Seeds;
use super::input::Input;
use super::stored::{append, ops};
use crate::format::op::{Op, OpKind};
use crate::format::record::{PAYLOAD_LEN_MAX, Parsed, frame, parse, record_len};

const EPOCH: u64 = 0x0123_4567_89AB_CDEF;
/// First byte: the rest is a record; else a payload.
const FRAMED: u8 = 1;
/// First byte: the record gets the checksum that it should have.
const MENDED: u8 = 2;
/// First byte: the payload has a vector part.
const VECTORS: u8 = 2;
/// First byte, from this bit on: the kind of a payload.
const KIND_SHIFT: u32 = 2;

pub(super) fn run(input: &[u8]) {
    let mut input = Input(input);
    let first = input.byte();
    if first & FRAMED == 0 {
        let kind = OpKind::ALL[usize::from(first >> KIND_SHIFT) % OpKind::ALL.len()];
        return payload(kind, first & VECTORS != 0, input.0);
    }
    let mut bytes = input.0.to_vec();
    if first & MENDED != 0 {
        mend(&mut bytes);
    }
    match parse(&bytes, EPOCH) {
        Parsed::Record { header, payload: found, len } => {
            let mut again = Vec::new();
            assert_eq!(frame(header, found, &mut again), header.checksum);
            assert_eq!(again, bytes[..len], "there is one way to write a record");
            payload(header.kind, header.has_vectors, found);
        }
        Parsed::More(len) => assert!(len > bytes.len() && len <= record_len(PAYLOAD_LEN_MAX)),
        Parsed::Empty | Parsed::Damaged(_) => {}
    }
}

/// Gives the record at the start of the bytes the checksum that it should have; says how long it is.
pub(super) fn mend(bytes: &mut [u8]) -> Option<usize> {
    let payload_len = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?) as usize;
    let payload_end = payload_len.checked_add(40).filter(|end| *end <= bytes.len())?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..36]);
    hasher.update(&bytes[40..payload_end]);
    bytes[36..40].copy_from_slice(&hasher.finalize().to_le_bytes());
    Some(record_len(payload_len))
}

/// What is read once is written in the one canonical way, which reads as the same.
fn payload(kind: OpKind, has_vectors: bool, payload: &[u8]) {
    let Ok(op) = Op::decode_payload(kind, has_vectors, payload) else { return };
    assert_eq!((op.kind(), op.vectors().is_some()), (kind, has_vectors));
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    op.encode_payload(&mut once);
    // Compared as bytes, because a number that is none does not equal itself.
    Op::decode_payload(kind, has_vectors, &once).expect("our own bytes").encode_payload(&mut twice);
    assert_eq!(once, twice);
}

pub(super) fn seeds() -> Seeds {
    let mut seeds: Seeds = Vec::new();
    for (name, op) in ops() {
        let place = OpKind::ALL.iter().position(|kind| *kind == op.kind()).expect("all kinds") as u8;
        let mut bytes = vec![place << KIND_SHIFT | if op.vectors().is_some() { VECTORS } else { 0 }];
        op.encode_payload(&mut bytes);
        seeds.push((name, bytes));
    }
    for (name, op) in [("framed-remember", &ops()[1].1), ("framed-forget", &ops()[3].1)] {
        let mut bytes = vec![FRAMED | MENDED];
        append(op, 7, EPOCH, &mut bytes);
        seeds.push((name, bytes));
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_sound_records_and_payloads() {
        for (name, seed) in seeds() {
            let (first, rest) = seed.split_first().expect("a first byte");
            if first & FRAMED != 0 {
                assert!(
                    matches!(parse(rest, EPOCH), Parsed::Record { len, .. } if len == rest.len()),
                    "{name}"
                );
            } else {
                let kind = OpKind::ALL[usize::from(first >> KIND_SHIFT)];
                assert!(Op::decode_payload(kind, first & VECTORS != 0, rest).is_ok(), "{name}");
            }
        }
    }

    #[test]
    fn a_mended_record_is_whole() {
        let mut bytes = Vec::new();
        append(&ops()[0].1, 7, EPOCH, &mut bytes);
        bytes[8] = 9;
        assert!(matches!(parse(&bytes, EPOCH), Parsed::Damaged(_)));
        assert_eq!(mend(&mut bytes), Some(bytes.len()));
        assert!(matches!(parse(&bytes, EPOCH), Parsed::Record { header, .. } if header.seq == 9));
    }
}
