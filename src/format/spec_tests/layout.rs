//! Segment headers, records and manifests, byte by byte.

use std::collections::BTreeSet;

use super::structs::{ManifestMirror, Mirror, Sample};
use super::{MANIFEST, RECORD, SEGMENT, assert_fields, fixed_value, to_hex};
use crate::format::manifest::{ManifestProblem, ManifestV1, TailV1};
use crate::format::op::{MemoryKey, OP_VERSION, Op, OpKind};
use crate::format::record::{
    PAYLOAD_LEN_MAX, Parsed, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader, chain, frame, parse,
};
use crate::format::segment::{
    FORMAT_MAJOR, FORMAT_MINOR, HeaderProblem, Rewrite, SEGMENT_COPY_OFFSET, SEGMENT_FIELDS_LEN,
    SEGMENT_HEADER_LEN, SegmentHeader,
};
use crate::memory::MemoryId;

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        store_id: std::array::from_fn(|i| 0xA0 + i as u8),
        number: 0x0102_0304_0506_0708,
        epoch: 0x1112_1314_1516_1718,
        base_seq: 0x2122_2324_2526_2728,
        prev_number: 0x3132_3334_3536_3738,
        prev_last_seq: 0x4142_4344_4546_4748,
        prev_chain: 0x5152_5354,
        created_unix_ms: -2,
        has_restores: false,
        rewrite: None,
    }
}

#[test]
fn a_segment_header_is_laid_out_as_in_its_table() {
    let (header, table) = (segment_header(), SEGMENT.rows("Header"));
    let bytes = header.encode();
    let copy = &bytes[..SEGMENT_FIELDS_LEN];
    let fields = [
        ("magic", "8", b"MMTOSEG1".to_vec()),
        ("major", "2", FORMAT_MAJOR.to_le_bytes().to_vec()),
        ("minor", "2", FORMAT_MINOR.to_le_bytes().to_vec()),
        ("header_len", "4", (SEGMENT_HEADER_LEN as u32).to_le_bytes().to_vec()),
        ("store_id", "16", header.store_id.to_vec()),
        ("number", "8", header.number.to_le_bytes().to_vec()),
        ("epoch", "8", header.epoch.to_le_bytes().to_vec()),
        ("base_seq", "8", header.base_seq.to_le_bytes().to_vec()),
        ("prev_number", "8", header.prev_number.to_le_bytes().to_vec()),
        ("prev_last_seq", "8", header.prev_last_seq.to_le_bytes().to_vec()),
        ("prev_chain", "4", header.prev_chain.to_le_bytes().to_vec()),
        ("kind", "2", vec![1, 0]),
        ("codec", "2", vec![1, 0]),
        ("created_unix_ms", "8", header.created_unix_ms.to_le_bytes().to_vec()),
        ("replaces_first_seq", "8", vec![0; 8]),
        ("replaces_last_seq", "8", vec![0; 8]),
        ("generation", "8", vec![0; 8]),
        ("features", "8", vec![0; 8]),
        ("end_chain", "4", vec![0; 4]),
        ("checksum", "4", crc32fast::hash(&copy[..124]).to_le_bytes().to_vec()),
    ];
    assert_fields(&table, copy, &fields);
    assert_eq!(bytes.len(), SEGMENT_HEADER_LEN);
    assert_eq!(copy, &bytes[SEGMENT_COPY_OFFSET..SEGMENT_COPY_OFFSET + SEGMENT_FIELDS_LEN]);

    // What the page calls fixed is refused when it is otherwise, as damage or as a newer version.
    for row in table.iter().filter(|row| fixed_value(row).is_some()) {
        let mut fields = copy.to_vec();
        fields[row[0].parse::<usize>().expect("an offset")] ^= 4;
        let checksum = crc32fast::hash(&fields[..124]);
        fields[124..].copy_from_slice(&checksum.to_le_bytes());
        let mut other = [0; SEGMENT_HEADER_LEN];
        other[..SEGMENT_FIELDS_LEN].copy_from_slice(&fields);
        other[SEGMENT_COPY_OFFSET..][..SEGMENT_FIELDS_LEN].copy_from_slice(&fields);
        match (row[2], SegmentHeader::decode(&other)) {
            ("minor", Ok(read)) => assert_eq!(read, header),
            ("major" | "features", Err(HeaderProblem::Newer { .. })) => {}
            ("minor" | "major" | "features", read) => panic!("{}: {read:?}", row[2]),
            (name, read) => assert!(matches!(read, Err(HeaderProblem::Damaged(_))), "{name}: {read:?}"),
        }
    }
}

#[test]
fn the_header_of_a_rewritten_segment_differs_as_its_table_says() {
    let rewrite = Rewrite { last_seq: 0x6162_6364_6566_6768, end_chain: 0x7172_7374, generation: 0x0900 };
    let (plain, header) = (segment_header(), SegmentHeader { rewrite: Some(rewrite), ..segment_header() });
    let (before, after) = (plain.encode(), header.encode());
    let differs: Vec<usize> = (0..124).filter(|at| before[*at] != after[*at]).collect();
    let table = SEGMENT.rows("Header");
    let names: BTreeSet<&str> = table
        .iter()
        .filter(|row| {
            let (at, len): (usize, usize) =
                (row[0].parse().expect("offset"), row[1].parse().expect("length"));
            differs.iter().any(|offset| (at..at + len).contains(offset))
        })
        .map(|row| row[2])
        .collect();
    assert_eq!(
        names,
        ["kind", "replaces_first_seq", "replaces_last_seq", "generation", "features", "end_chain"].into()
    );
    let stated = SEGMENT.rows("Rewritten segments");
    assert!(names.iter().all(|name| stated.iter().any(|row| row[0] == *name)), "{stated:?}");
    let field = |at: usize, len: usize| after[at..at + len].to_vec();
    assert_eq!((field(76, 2), field(88, 8)), (vec![2, 0], header.base_seq.to_le_bytes().to_vec()));
    assert_eq!(
        (field(96, 8), field(104, 8)),
        (rewrite.last_seq.to_le_bytes().to_vec(), 0x0900_u64.to_le_bytes().to_vec())
    );
    assert_eq!(
        (field(112, 8), field(120, 4)),
        (vec![1, 0, 0, 0, 0, 0, 0, 0], rewrite.end_chain.to_le_bytes().to_vec())
    );
    let bytes: [u8; SEGMENT_HEADER_LEN] = after.try_into().expect("a header");
    assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
}

fn record_header(kind: OpKind, group_end: bool, has_vectors: bool) -> RecordHeader {
    RecordHeader {
        kind,
        payload_len: 0,
        seq: 0x0102_0304_0506_0708,
        epoch: 0x1112_1314_1516_1718,
        durable_seq: 0x2122_2324_2526_2728,
        group_end,
        has_vectors,
        checksum: 0,
    }
}

#[test]
fn a_record_is_laid_out_as_in_its_table() {
    let (header, table) = (record_header(OpKind::Update, false, true), RECORD.rows("Header"));
    let mut bytes = Vec::new();
    let checksum = frame(header, b"thirteen byte", &mut bytes);
    let padded = bytes.len();
    bytes.truncate(RECORD_HEADER_LEN + 13);
    assert_eq!(padded, bytes.len().next_multiple_of(RECORD_ALIGN));
    let fields = [
        ("magic", "4", b"MRC1".to_vec()),
        ("payload_len", "4", vec![13, 0, 0, 0]),
        ("seq", "8", header.seq.to_le_bytes().to_vec()),
        ("epoch", "8", header.epoch.to_le_bytes().to_vec()),
        ("durable_seq", "8", header.durable_seq.to_le_bytes().to_vec()),
        ("op", "1", vec![2]),
        ("op_version", "1", vec![OP_VERSION]),
        ("flags", "1", vec![2]),
        ("reserved", "1", vec![0]),
        ("checksum", "4", checksum.to_le_bytes().to_vec()),
        ("payload", "payload_len", b"thirteen byte".to_vec()),
    ];
    assert_fields(&table, &bytes, &fields);
    assert_eq!(crc32fast::hash(&[&bytes[..36], b"thirteen byte"].concat()), checksum);
    assert_eq!(table[1][3], format!("1 to {PAYLOAD_LEN_MAX}, without the padding"));

    // With a checksum that holds, every other value of these four bytes is still damage.
    for (at, allowed) in
        [(32, &[1, 2, 3, 5, 6, 9, 10, 11, 12, 254][..]), (33, &[1]), (34, &[0, 1, 2, 3]), (35, &[0])]
    {
        for byte in 0..=u8::MAX {
            let mut other = bytes.clone();
            other[at] = byte;
            let checksum = crc32fast::hash(&[&other[..36], b"thirteen byte"].concat());
            other[36..40].copy_from_slice(&checksum.to_le_bytes());
            other.resize(padded, 0);
            let read = matches!(parse(&other, header.epoch), Parsed::Record { .. });
            assert_eq!(read, allowed.contains(&byte), "byte {at} is {byte}");
        }
    }
}

#[test]
fn flags_of_a_record_are_those_of_the_table() {
    let rows = RECORD.rows("Flags");
    let rows: Vec<_> = rows.iter().map(|row| (row[0], row[1])).collect();
    assert_eq!(rows, [("0", "group_end"), ("1", "vectors")]);
    for (group_end, has_vectors) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut bytes = Vec::new();
        frame(record_header(OpKind::Remember, group_end, has_vectors), b"payload", &mut bytes);
        assert_eq!(bytes[34], u8::from(group_end) | u8::from(has_vectors) << 1);
    }
}

#[test]
fn the_example_of_a_record_is_what_the_code_writes() {
    let op = Op::Forget { key: MemoryKey(5), id: MemoryId::new("m1").expect("an id") };
    let (mut payload, mut bytes) = (Vec::new(), Vec::new());
    op.encode_payload(&mut payload);
    let header = RecordHeader {
        seq: 7,
        epoch: 0x1122_3344_5566_7788,
        durable_seq: 6,
        ..record_header(OpKind::Forget, true, false)
    };
    let checksum = frame(header, &payload, &mut bytes);
    assert_eq!(to_hex(&RECORD.example("Example")), to_hex(&bytes));
    let link = chain(0x0123_4567, checksum);
    assert_eq!(link, crc32fast::hash(&[0x0123_4567_u32.to_le_bytes(), checksum.to_le_bytes()].concat()));
    let sentence = format!("at 0x01234567, it is now 0x{link:08x}.");
    let text = RECORD.text().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(&sentence), "record.md does not say: {sentence}");
}

fn manifest(n: u64) -> (ManifestV1, Vec<u8>) {
    let ManifestMirror { store_id, generation, segments, clean_tail } = ManifestMirror::sample(n);
    let body = ManifestMirror::sample(n).encode();
    let clean_tail = clean_tail.map(|tail| TailV1 {
        segment: tail.segment,
        len: tail.len,
        records: tail.records,
        last_seq: tail.last_seq,
        chain: tail.chain,
        time_min: tail.time_min,
        time_max: tail.time_max,
    });
    (ManifestV1 { store_id, generation, segments, clean_tail }, body)
}

#[test]
fn a_manifest_is_laid_out_as_in_its_table() {
    let table = MANIFEST.rows("Header");
    for n in 0..20 {
        let (manifest, body) = manifest(n);
        let bytes = manifest.encode();
        let checksum = crc32fast::hash(&[&bytes[..16], &bytes[20..]].concat());
        let fields = [
            ("magic", "8", b"MMTOMAN1".to_vec()),
            ("major", "2", FORMAT_MAJOR.to_le_bytes().to_vec()),
            ("reserved", "2", vec![0; 2]),
            ("body_len", "4", u32::try_from(body.len()).expect("short").to_le_bytes().to_vec()),
            ("checksum", "4", checksum.to_le_bytes().to_vec()),
            ("body", "body_len", body),
        ];
        assert_fields(&table, &bytes, &fields);
        assert_eq!(ManifestV1::decode(&bytes), Ok(manifest));
    }
    let (manifest, _) = manifest(1);
    let mut newer = manifest.encode();
    newer[8] = 2;
    let checksum = crc32fast::hash(&[&newer[..16], &newer[20..]].concat());
    newer[16..20].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(ManifestV1::decode(&newer), Err(ManifestProblem::Newer { major: 2 }));
}

#[test]
fn the_example_of_a_manifest_is_what_the_code_writes() {
    let tail =
        TailV1 { segment: 2, len: 8192, records: 3, last_seq: 9, chain: 77, time_min: -5, time_max: 300 };
    let manifest =
        ManifestV1 { store_id: [1; 16], generation: 4, segments: vec![1, 2], clean_tail: Some(tail) };
    assert_eq!(to_hex(&MANIFEST.example("Example")), to_hex(&manifest.encode()));
}
