//! Any bytes as keys and values of the view's tables.

use super::Seeds;
use super::input::Input;
use super::stored::{identity, memory};
use crate::format::manifest::TailV1;
use crate::format::op::{MemoryKey, ModelNumber};
use crate::format::record::Location;
use crate::format::row::{
    CHECKSUM_LEN, HEAD_KEY, Head, LOCATION_LEN, LabelHashes, Position, Row, RowHeader, RowRef, StateKey,
    TableTag, collection_count_key, decode_location, decode_lost, decode_model, decode_number,
    encode_location, encode_lost, encode_model, encode_number, key_bytes, label_key, label_keys, lost_key,
    model_key, vector_count_key,
};

/// First byte: the value gets the checksum that it should have.
const MENDED: u8 = 0x80;

/// The body of the target.
pub fn run(input: &[u8]) {
    let (first, table, key, value) = parts(input);
    let mut value = value.to_vec();
    if first & MENDED != 0 && value.len() >= CHECKSUM_LEN {
        let checksum = checksum(table, key, &value[CHECKSUM_LEN..]);
        value[..CHECKSUM_LEN].copy_from_slice(&checksum.to_le_bytes());
    }
    match table {
        TableTag::State => state(key, &value),
        TableTag::Memory => memory_row(MemoryKey(Input(key).u64()), &value),
        TableTag::Vector => location(u128::from_le_bytes(Input(key).array()), &value),
        TableTag::Id | TableTag::Label | TableTag::Time => number(table, key, &value),
    }
}

/// The first byte, the table that it names, and what is left of the input as a key and a value.
fn parts(input: &[u8]) -> (u8, TableTag, &[u8], &[u8]) {
    let mut input = Input(input);
    let first = input.byte();
    let table = TableTag::ALL[usize::from(first & !MENDED) % TableTag::ALL.len()];
    let key_len = match table {
        TableTag::State | TableTag::Id => usize::from(input.byte()),
        TableTag::Memory => 8,
        TableTag::Label | TableTag::Time | TableTag::Vector => 16,
    };
    (first, table, input.bytes(key_len), input.0)
}

/// Written here once more, as the spec has it, so that the two can disagree.
fn checksum(table: TableTag, key: &[u8], body: &[u8]) -> u32 {
    let key_len = u32::try_from(key.len()).expect("at most 255");
    crc32fast::hash(&[&[table as u8], &key_len.to_le_bytes()[..], key, body].concat())
}

fn state(key: &[u8], value: &[u8]) {
    match StateKey::decode(key) {
        Err(_) => {}
        Ok(StateKey::Head) => {
            assert_eq!(key, HEAD_KEY);
            if let Ok(head) = Head::decode(value) {
                assert_eq!(Head::decode(&head.encode()), Ok(head));
            }
        }
        Ok(StateKey::CollectionCount(collection)) => {
            assert_eq!(key, collection_count_key(collection));
            number(TableTag::State, key, value);
        }
        Ok(StateKey::VectorCount(model)) => {
            assert_eq!(key, vector_count_key(model));
            number(TableTag::State, key, value);
        }
        Ok(StateKey::Lost(first_seq)) => {
            assert_eq!(key, lost_key(first_seq));
            if let Ok(lost) = decode_lost(first_seq, value) {
                assert_eq!(decode_lost(first_seq, &encode_lost(lost)), Ok(lost));
            }
        }
        Ok(StateKey::Model(model)) => {
            assert_eq!(key, model_key(model));
            if let Ok(identity) = decode_model(model, value) {
                assert_eq!(decode_model(model, &encode_model(model, &identity)), Ok(identity));
            }
        }
    }
}

fn memory_row(key: MemoryKey, value: &[u8]) {
    let Ok(row) = Row::decode(key, value) else { return };
    let header = RowHeader { seq: row.seq, text_seq: row.text_seq, location: row.location };
    let once = header.encode_with(key, &row.memory);
    let again = Row::decode(key, &once).expect("our own bytes");
    // Compared as bytes, because a number that is none does not equal itself.
    assert_eq!(header.encode_with(key, &again.memory), once);
    let labels = label_keys(key, &row.memory);
    assert!(labels.is_sorted_by(|a, b| a < b));
    let in_place = RowRef::decode(key, value).expect("as good as the row");
    assert_eq!(in_place.seq, row.seq);
    let mut hashes = LabelHashes::new();
    for _ in 0..2 {
        let again: Vec<u128> = hashes.of(&in_place.memory).iter().map(|hash| label_key(*hash, key)).collect();
        assert_eq!(again, labels);
    }
}

fn location(key: u128, value: &[u8]) {
    let Ok(value): Result<&[u8; LOCATION_LEN], _> = value.try_into() else { return };
    if let Ok(location) = decode_location(key, value) {
        assert_eq!(encode_location(key, location), *value);
    }
}

fn number(table: TableTag, key: &[u8], value: &[u8]) {
    if let Ok(number) = decode_number(table, key, value) {
        assert_eq!(encode_number(table, key, number), value);
    }
}

pub(super) fn seeds() -> Seeds {
    let location = Location { segment: 1, offset: 4096, len: 160 };
    let head = Head {
        store_id: [7; 16],
        position: Position {
            epoch: 3,
            last_offset: 4256,
            last_checksum: 5,
            tail: TailV1 { segment: 1, len: 4416, records: 2, last_seq: 2, ..TailV1::default() },
        },
        active_model: Some(ModelNumber(1)),
        live_bytes: 160,
        generation: 1,
        memories: 2,
    };
    let model = ModelNumber(1);
    let header = RowHeader { seq: 2, text_seq: 1, location };
    let key = MemoryKey(1);
    let count_key = collection_count_key("knowledge");
    let vectors_key = vector_count_key(model);
    vec![
        ("head", seed(0, HEAD_KEY, &head.encode())),
        ("collection-count", seed(0, &count_key, &encode_number(TableTag::State, &count_key, 2))),
        ("vector-count", seed(0, &vectors_key, &encode_number(TableTag::State, &vectors_key, 2))),
        ("model", seed(0, &model_key(model), &encode_model(model, &identity()))),
        ("memory", seed(1, &key.0.to_le_bytes(), &header.encode_with(key, &memory()))),
        ("id", seed(2, b"m1", &encode_number(TableTag::Id, b"m1", 1))),
        ("time", seed(4, &key_bytes(9), &encode_number(TableTag::Time, &key_bytes(9), 1))),
        ("vector", seed(5, &key_bytes(9), &encode_location(9, location))),
    ]
}

fn seed(table: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![table | MENDED];
    if matches!(TableTag::ALL[usize::from(table)], TableTag::State | TableTag::Id) {
        bytes.push(key.len().try_into().expect("a short key"));
    }
    [&bytes, key, value].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_sound_rows() {
        for (name, seed) in seeds() {
            let (_, table, key, value) = parts(&seed);
            let stored = u32::from_le_bytes(Input(value).array());
            assert_eq!(stored, checksum(table, key, &value[CHECKSUM_LEN..]), "{name}");
        }
    }
}
