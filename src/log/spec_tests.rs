//! What `format-spec/segment.md` says of names, lengths and seals.

use super::scan::SEAL_RESERVE_LEN;
use super::tail::empty_state;
use super::{NUMBER_END, SEGMENT_LEN_MAX, SegmentName};
use crate::format::op::{Op, OpKind, SealV1};
use crate::format::record::{RecordHeader, frame};
use crate::format::segment::{SEGMENT_COPY_OFFSET, SEGMENT_FIELDS_LEN, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::format::spec_tests::{Page, constants};

const SEGMENT: Page = Page(include_str!("../../format-spec/segment.md"));

#[test]
fn constants_are_those_of_the_page() {
    let expected = [
        ("SEGMENT_HEADER_LEN", SEGMENT_HEADER_LEN as u64),
        ("SEGMENT_COPY_OFFSET", SEGMENT_COPY_OFFSET as u64),
        ("SEGMENT_FIELDS_LEN", SEGMENT_FIELDS_LEN as u64),
        ("SEGMENT_LEN_MAX", SEGMENT_LEN_MAX),
        ("SEAL_RESERVE_LEN", SEAL_RESERVE_LEN),
        ("NUMBER_END", NUMBER_END),
    ];
    assert_eq!(SEGMENT.constants(), constants(&expected));
}

#[test]
fn names_are_of_the_form_that_the_page_says() {
    let name = SegmentName { number: 2, base_seq: 14, generation: 0 };
    let rewritten = SegmentName { number: 7, base_seq: 14, generation: 3 };
    for name in [name, rewritten] {
        assert!(SEGMENT.text().contains(&format!("`{name}`")), "segment.md does not name {name}");
        assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
    }
    let name = name.to_string();
    for other in [
        name.to_uppercase(),
        name.replace(".mseg", ".tmp"),
        name.replacen('0', "", 1),
        format!("0{name}"),
        name.replacen('0', "+", 1),
        name.replace('-', "_"),
        name.replace(".mseg", "-0000000000000000.mseg"),
        rewritten.to_string().replace(".mseg", "-0000000000000001.mseg"),
        SegmentName { number: 0, base_seq: 14, generation: 0 }.to_string(),
        SegmentName { number: 2, base_seq: 0, generation: 0 }.to_string(),
        SegmentName { number: NUMBER_END, base_seq: 14, generation: 0 }.to_string(),
        SegmentName { number: 2, base_seq: 14, generation: NUMBER_END }.to_string(),
    ] {
        assert_eq!(SegmentName::parse(&other), None, "{other}");
    }
}

#[test]
fn no_seal_is_longer_than_the_page_says() {
    let seal = SealV1 {
        records: u64::MAX,
        last_seq: u64::MAX,
        len: u64::MAX,
        chain: u32::MAX,
        time_min: i64::MIN,
        time_max: i64::MIN,
    };
    let (mut payload, mut record) = (Vec::new(), Vec::new());
    Op::Seal(seal).encode_payload(&mut payload);
    let header = RecordHeader {
        kind: OpKind::Seal,
        payload_len: 0,
        seq: u64::MAX,
        epoch: u64::MAX,
        durable_seq: u64::MAX,
        group_end: true,
        has_vectors: false,
        checksum: 0,
    };
    frame(header, &payload, &mut record);
    assert!(record.len() as u64 <= SEAL_RESERVE_LEN, "{}", record.len());
}

#[test]
fn a_segment_without_records_has_the_values_that_the_pages_say() {
    let header = SegmentHeader {
        store_id: [1; 16],
        number: 3,
        epoch: 5,
        base_seq: 40,
        prev_number: 2,
        prev_last_seq: 39,
        prev_chain: 7,
        created_unix_ms: 0,
        has_restores: false,
        rewrite: None,
    };
    let state = empty_state(&header);
    assert_eq!((state.segment, state.len, state.records), (3, SEGMENT_HEADER_LEN as u64, 0));
    assert_eq!((state.last_seq, state.chain), (39, 0));
    assert_eq!((state.time_min, state.time_max), (i64::MAX, i64::MIN));
}
