//! The tables of `format-spec/view.md` against the code.

use super::manifest::TailV1;
use super::op::{MemoryKey, ModelNumber};
use super::pages::{
    FILE_HEADER_LEN, GROUP_PAGES, PAGE_LEN, PAGES_VERSION, SECTOR_LEN, STATE_LEN, STATE_SECTOR_OFFSET,
    encode_file_header, encode_state, page_offset, page_sum, sums_offset,
};
use super::record::Location;
use super::row::{
    CHECKSUM_LEN, HEAD_LEN, Head, LOCATION_LEN, Label, NUMBER_LEN, Position, ROW_HEADER_LEN, ROW_VERSION,
    Row, RowHeader, StateKey, TableTag, VIEW_VERSION, collection_count_key, decode_location, decode_number,
    encode_location, encode_number, key_bytes, label_key, lost_key, model_key, time_key, vector_count_key,
    vector_key,
};
use crate::memory::{Memory, MemoryId};

const SPEC: &str = include_str!("../../format-spec/view.md");

/// The rows of the first table under a heading, without the names of its columns.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let section = SPEC.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let lines = section.expect("the heading is there").lines();
    let rows = lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The bytes of the named fields, by the offsets and lengths of the table, which must cover all bytes.
fn fields(heading: &str, bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut end = 0;
    let mut fields = Vec::new();
    for row in table(heading) {
        let start: usize = row[0].parse().expect("an offset");
        let len = row[1].parse().unwrap_or(bytes.len() - start);
        assert_eq!(start, end, "{heading}: {}", row[2]);
        end = start + len;
        if row[2] == "reserved" {
            assert!(bytes[start..end].iter().all(|byte| *byte == 0), "{heading} at {start}");
        } else {
            fields.push((row[2], bytes[start..end].to_vec()));
        }
    }
    assert_eq!(end, bytes.len(), "{heading}");
    fields
}

#[test]
fn constants_are_those_of_the_code() {
    let expected = [
        ("`PAGES_VERSION`", u64::from(PAGES_VERSION)),
        ("`VIEW_VERSION`", u64::from(VIEW_VERSION)),
        ("`ROW_VERSION`", u64::from(ROW_VERSION)),
        ("`PAGE_LEN`", PAGE_LEN),
        ("`GROUP_PAGES`", GROUP_PAGES),
        ("`FILE_HEADER_LEN`", FILE_HEADER_LEN as u64),
        ("`STATE_SECTOR_OFFSET`", STATE_SECTOR_OFFSET),
        ("`SECTOR_LEN`", SECTOR_LEN as u64),
        ("`STATE_LEN`", STATE_LEN as u64),
        ("`CHECKSUM_LEN`", CHECKSUM_LEN as u64),
        ("`ROW_HEADER_LEN`", ROW_HEADER_LEN as u64),
        ("`HEAD_LEN`", HEAD_LEN as u64),
        ("`NUMBER_LEN`", NUMBER_LEN as u64),
        ("`LOCATION_LEN`", LOCATION_LEN as u64),
    ];
    let stated: Vec<_> =
        table("Constants").iter().map(|row| (row[0], row[1].parse::<u64>().expect("a number"))).collect();
    assert_eq!(stated, expected);
}

#[test]
fn pages_are_where_the_page_says() {
    for (page, group) in [(0, 0), (1, 0), (1023, 0), (1024, 1), (5000, 4)] {
        assert_eq!(page_offset(page), (2 + page + page / 1024) * 4096);
        assert_eq!(sums_offset(group), (1 + group * 1025) * 4096);
    }
    let bytes = [7; 4096];
    let with_number = [&5_u64.to_le_bytes()[..], &bytes].concat();
    assert_eq!(page_sum(5, &bytes), crc32fast::hash(&with_number));
}

#[test]
fn header_page_and_state_sector_are_laid_out_as_in_their_tables() {
    let header = encode_file_header();
    let checksum = crc32fast::hash(&header[..28]).to_le_bytes().to_vec();
    let expected = [
        ("magic", b"MMTOVIEW".to_vec()),
        ("version", 1_u16.to_le_bytes().to_vec()),
        ("page_len", 4096_u32.to_le_bytes().to_vec()),
        ("group_pages", 1024_u32.to_le_bytes().to_vec()),
        ("checksum", checksum),
    ];
    assert_eq!(fields("Header page", &header), expected);
    let state: [u8; STATE_LEN] = std::array::from_fn(|at| at as u8);
    let expected = [("state", state.to_vec()), ("checksum", crc32fast::hash(&state).to_le_bytes().to_vec())];
    assert_eq!(fields("State sector", &encode_state(&state)), expected);
}

/// The checksum of a value, worked out as the page says.
fn checksum(table: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let parts = [&[table][..], &(key.len() as u32).to_le_bytes(), key, &value[4..]];
    crc32fast::hash(&parts.concat()).to_le_bytes().to_vec()
}

const LOCATION: Location = Location { segment: 0x0102_0304_0506, offset: 0x1112_1314_1516, len: 0x2122_2324 };

#[test]
fn values_are_laid_out_as_in_their_tables() {
    let memory = Memory::new(MemoryId::new("one").expect("a good id"), "a text", 5);
    let header = RowHeader { seq: 0x3132, text_seq: 0x4142, location: LOCATION };
    let row = header.encode_with(MemoryKey(9), &memory);
    let found = fields("Row", &row);
    let numbers =
        [("seq", 0x3132), ("text_seq", 0x4142), ("segment", LOCATION.segment), ("offset", LOCATION.offset)];
    assert_eq!(found[0], ("checksum", checksum(2, &9_u64.to_le_bytes(), &row)));
    assert_eq!(found[1], ("version", vec![1]));
    assert_eq!(found[2..6], numbers.map(|(name, number): (_, u64)| (name, number.to_le_bytes().to_vec())));
    assert_eq!(found[6], ("len", LOCATION.len.to_le_bytes().to_vec()));
    assert_eq!((found[7].0, found.len()), ("memory", 8));
    let decoded = Row::decode(MemoryKey(9), &row).expect("a good row");
    assert_eq!((decoded.memory, decoded.seq, decoded.text_seq), (memory, 0x3132, 0x4142));

    let number = encode_number(TableTag::Id, b"one", 77);
    let expected = [("checksum", checksum(3, b"one", &number)), ("number", 77_u64.to_le_bytes().to_vec())];
    assert_eq!(fields("Number", &number), expected);

    let key = vector_key(ModelNumber(2), MemoryKey(9));
    let location = encode_location(key, LOCATION);
    let expected = [
        ("checksum", checksum(6, &key.to_le_bytes(), &location)),
        ("segment", LOCATION.segment.to_le_bytes().to_vec()),
        ("offset", LOCATION.offset.to_le_bytes().to_vec()),
        ("len", LOCATION.len.to_le_bytes().to_vec()),
    ];
    assert_eq!(fields("Location", &location), expected);

    let head = Head {
        store_id: [8; 16],
        position: Position {
            epoch: 15,
            last_offset: 20,
            last_checksum: 21,
            tail: TailV1 {
                segment: 11,
                len: 12,
                records: 16,
                last_seq: 10,
                chain: 17,
                time_min: -18,
                time_max: 19,
            },
        },
        active_model: Some(ModelNumber(13)),
        live_bytes: 22,
        generation: 23,
        memories: 14,
    };
    let bytes = head.encode();
    let expected = [
        ("checksum", checksum(1, b"h", &bytes)),
        ("version", 3_u16.to_le_bytes().to_vec()),
        ("store_id", vec![8; 16]),
        ("applied_seq", 10_u64.to_le_bytes().to_vec()),
        ("segment", 11_u64.to_le_bytes().to_vec()),
        ("offset", 12_u64.to_le_bytes().to_vec()),
        ("active_model", 13_u32.to_le_bytes().to_vec()),
        ("chain", 17_u32.to_le_bytes().to_vec()),
        ("memories", 14_u64.to_le_bytes().to_vec()),
        ("epoch", 15_u64.to_le_bytes().to_vec()),
        ("records", 16_u64.to_le_bytes().to_vec()),
        ("time_min", (-18_i64).to_le_bytes().to_vec()),
        ("time_max", 19_i64.to_le_bytes().to_vec()),
        ("last_offset", 20_u64.to_le_bytes().to_vec()),
        ("last_checksum", 21_u32.to_le_bytes().to_vec()),
        ("live_bytes", 22_u64.to_le_bytes().to_vec()),
        ("generation", 23_u64.to_le_bytes().to_vec()),
    ];
    assert_eq!(fields("Head", &bytes), expected);
    assert_eq!(Head::decode(&bytes), Ok(head));
}

#[test]
fn tables_and_labels_are_numbered_as_on_the_page() {
    let tags =
        [TableTag::State, TableTag::Memory, TableTag::Id, TableTag::Label, TableTag::Time, TableTag::Vector];
    let stated: Vec<_> = table("Tables").iter().map(|row| (row[0], row[1])).collect();
    let expected = tags.map(|tag| ((tag as u8).to_string(), format!("`{}`", tag.name())));
    assert_eq!(stated, expected.each_ref().map(|(number, name)| (number.as_str(), name.as_str())));

    let labels = [
        (1_u8, Label::Text { collection: "c", text: "t" }, vec!["c", "t"]),
        (2, Label::Collection("c"), vec!["c"]),
        (3, Label::Source("s"), vec!["s"]),
        (4, Label::Session("s"), vec!["s"]),
        (5, Label::Tag("t"), vec!["t"]),
    ];
    for (kind, label, texts) in labels {
        let mut bytes = vec![kind];
        for text in texts {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        let digest = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
        assert_eq!(label.hash().to_be_bytes(), digest[..8], "{label:?}");
    }
}

#[test]
fn keys_are_in_the_order_of_what_they_stand_for() {
    let key = MemoryKey(9);
    let times = [i64::MIN, -1, 0, 1, i64::MAX];
    assert!(times.is_sorted_by_key(|time| time_key(*time, key)));
    assert!(time_key(-1, MemoryKey(u64::MAX)) < time_key(0, MemoryKey(0)));
    assert_eq!(label_key(0x0102_0304_0506_0708, key), 0x0102_0304_0506_0708 << 64 | 9);
    assert_eq!(vector_key(ModelNumber(2), key), 2 << 64 | 9);
    let state = [
        (b"h".to_vec(), StateKey::Head),
        (collection_count_key("people"), StateKey::CollectionCount("people")),
        (lost_key(7), StateKey::Lost(7)),
        (model_key(ModelNumber(0x0102_0304)), StateKey::Model(ModelNumber(0x0102_0304))),
        (vector_count_key(ModelNumber(0x0102_0304)), StateKey::VectorCount(ModelNumber(0x0102_0304))),
    ];
    for ((key, expected), row) in state.iter().zip(table("State")) {
        assert_eq!(StateKey::decode(key).as_ref(), Ok(expected));
        assert!(row[0].starts_with(&format!("`{}`", char::from(key[0]))), "{row:?}");
    }
    assert_eq!(state[2].0, *b"l\0\0\0\0\0\0\0\x07");
    assert_eq!(state[3].0, *b"m\x01\x02\x03\x04");
    for bad in [&b""[..], b"hh", b"x", b"m\x01", b"l\x01", b"v\x01\x02\x03\x04\x05", b"c\xFF"] {
        assert!(StateKey::decode(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_value_under_another_key_or_with_a_flipped_bit_is_damage() {
    let memory = Memory::new(MemoryId::new("one").expect("a good id"), "a text", 5);
    let header = RowHeader { seq: 1, text_seq: 1, location: LOCATION };
    let row = header.encode_with(MemoryKey(9), &memory);
    assert!(Row::decode(MemoryKey(8), &row).is_err());
    let number = encode_number(TableTag::Id, b"one", 77);
    assert_eq!(decode_number(TableTag::Id, b"one", &number), Ok(77));
    assert!(decode_number(TableTag::State, b"one", &number).is_err());
    assert!(decode_number(TableTag::Id, b"two", &number).is_err());
    let key = time_key(5, MemoryKey(9));
    let location = encode_location(key, LOCATION);
    assert_eq!(decode_location(key, &location), Ok(LOCATION));
    assert!(decode_location(key + 1, &location).is_err());
    assert_eq!(key_bytes(key), key.to_le_bytes());
    for bit in 0..row.len() * 8 {
        let mut bad = row.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Row::decode(MemoryKey(9), &bad).is_err(), "bit {bit}");
    }
    for cut in 0..row.len() {
        assert!(Row::decode(MemoryKey(9), &row[..cut]).is_err(), "cut {cut}");
    }
}
