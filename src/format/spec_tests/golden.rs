//! Bytes that a released version wrote: they are read, and written again they are the same.

use std::path::{Path, PathBuf};

use super::ops::sample_ops;
use super::{from_hex, to_hex};
use crate::format::manifest::ManifestV1;
use crate::format::op::{Op, OpKind};
use crate::format::record::{Parsed, chain, frame, parse};
use crate::format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// What one record of the golden store says: kind, whether it ends a group, windows of its vectors.
type Told = (OpKind, bool, usize);

/// Reads a whole segment and writes it again, piece by piece.
fn read_segment(path: &Path) -> (SegmentHeader, Vec<Told>) {
    let bytes = std::fs::read(path).expect("read");
    let head = bytes.first_chunk::<SEGMENT_HEADER_LEN>().expect("a header");
    let header = SegmentHeader::decode(head).expect("a whole header");
    let mut written = header.encode();
    let (mut told, mut seq, mut link) = (Vec::new(), header.base_seq, 0);
    while written.len() < bytes.len() {
        let offset = written.len();
        let Parsed::Record { header: record, payload, .. } = parse(&bytes[offset..], header.epoch) else {
            panic!("{} has no record at offset {offset}", path.display());
        };
        let op = Op::decode_payload(record.kind, record.has_vectors, payload).expect("an op");
        let mut again = Vec::new();
        op.encode_payload(&mut again);
        assert_eq!(to_hex(&again), to_hex(payload), "{} at {offset}", path.display());
        let checksum = frame(record, &again, &mut written);
        match op {
            Op::Seal(seal) => {
                assert_eq!((record.seq, record.durable_seq), (seq - 1, seq - 1));
                assert_eq!((seal.records, seal.last_seq), (told.len() as u64, seq - 1));
                assert_eq!((seal.len, seal.chain), (offset as u64, link));
                assert_eq!((seal.time_min, seal.time_max), (0, 1_700_000_000));
            }
            _ => {
                assert!(record.durable_seq < record.seq);
                assert_eq!(record.seq, seq);
                (seq, link) = (seq + 1, chain(link, checksum));
            }
        }
        told.push((record.kind, record.group_end, op.vectors().map_or(0, |vectors| vectors.windows())));
    }
    assert!(written == bytes, "{} is not written again as it was", path.display());
    (header, told)
}

#[test]
fn every_byte_of_the_store_of_format_1_is_written_again_as_it_was() {
    use OpKind::{Forget, Model, Remember, Seal, Update, UseModel, Vector};
    let store = golden("store-v1/store");
    let bytes = std::fs::read(store.join("MANIFEST")).expect("read");
    let manifest = ManifestV1::decode(&bytes).expect("a manifest");
    assert_eq!(to_hex(&manifest.encode()), to_hex(&bytes));
    assert_eq!(manifest.segments, [1, 2]);

    let (first, told) = read_segment(&store.join("seg/0000000000000001-0000000000000001.mseg"));
    let expected = [
        (Model, false, 0),
        (UseModel, true, 0),
        (Remember, true, 2),
        (Remember, false, 0),
        (Remember, false, 0),
        (Remember, true, 0),
        (Vector, false, 2),
        (Vector, false, 4),
        (Vector, true, 2),
        (Update, true, 2),
        (Update, true, 0),
        (Forget, true, 0),
        (Remember, true, 1),
        (Seal, true, 0),
    ];
    assert_eq!(told, expected);

    let (second, told) = read_segment(&store.join("seg/0000000000000002-000000000000000e.mseg"));
    let expected = [
        (Model, true, 0),
        (Vector, false, 2),
        (Vector, false, 2),
        (Vector, false, 4),
        (Vector, true, 1),
        (UseModel, true, 0),
        (Remember, true, 1),
        (Forget, true, 0),
        (Remember, true, 1),
    ];
    assert_eq!(told, expected);
    assert_eq!((first.store_id, first.number, first.base_seq), (manifest.store_id, 1, 1));
    assert_eq!((second.store_id, second.number, second.base_seq), (manifest.store_id, 2, 14));
    assert_eq!((second.prev_number, second.prev_last_seq), (1, 13));
    let tail = manifest.clean_tail.expect("it was closed cleanly");
    assert_eq!((tail.segment, tail.records, tail.last_seq), (2, 9, 22));
}

/// One line for each sample: kind, flag `vectors`, payload.
fn sample_lines() -> String {
    let mut lines = String::new();
    for n in 0..4 {
        for (op, _) in sample_ops(n) {
            let mut payload = Vec::new();
            op.encode_payload(&mut payload);
            let vectors = u8::from(op.vectors().is_some());
            lines.push_str(&format!("{} {vectors} {}\n", op.kind() as u8, to_hex(&payload)));
        }
    }
    lines
}

#[test]
fn payloads_of_every_op_are_the_bytes_of_format_1() {
    let golden = std::fs::read_to_string(golden("payloads-v1.txt")).expect("read");
    assert_eq!(sample_lines(), golden, "ops never change: a change is a new struct under a new op version");
    for (line, (op, _)) in golden.lines().zip((0..4).flat_map(sample_ops)) {
        let cells: Vec<_> = line.split(' ').collect();
        let kind = OpKind::from_byte(cells[0].parse().expect("a byte")).expect("an op");
        assert_eq!(Op::decode_payload(kind, cells[1] == "1", &from_hex(cells[2])), Ok(op));
    }
}
