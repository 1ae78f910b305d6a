//! The codec's examples, and what it refuses.

use super::{CODEC, from_hex, plain, to_hex};
use crate::format::{Damage, codec};

/// The bytes of a value as a table writes it.
fn encode_written(kind: &str, value: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let number = || value.parse::<i64>().expect("a number");
    match kind {
        "u64" => codec::encode_into(&value.parse::<u64>().expect("a number"), &mut bytes),
        "i64" => codec::encode_into(&number(), &mut bytes),
        "f64" => codec::encode_into(&value.parse::<f64>().expect("a number"), &mut bytes),
        "bool" => codec::encode_into(&(value == "true"), &mut bytes),
        "string" => codec::encode_into(&value, &mut bytes),
        "option<i64>" => {
            let some = value.strip_prefix("some ").map(|value| value.parse::<i64>().expect("a number"));
            codec::encode_into(&some, &mut bytes);
        }
        "list<string>" => codec::encode_into(&value.split(", ").collect::<Vec<_>>(), &mut bytes),
        _ => panic!("no such type: {kind}"),
    }
    bytes
}

#[test]
fn values_are_encoded_as_in_the_examples() {
    let rows = CODEC.rows("Examples");
    assert!(rows.len() > 15);
    for row in rows {
        assert_eq!(to_hex(&encode_written(plain(row[0]), row[1])), plain(row[2]), "{row:?}");
    }
    let types: Vec<_> = CODEC.rows("Types").iter().map(|row| row[0]).collect();
    let expected = [
        "`u32`, `u64`",
        "`i64`",
        "`f64`",
        "`bool`",
        "`string`",
        "`bytes<n>`",
        "`option<t>`",
        "`list<t>`",
        "struct",
    ];
    assert_eq!(types, expected);
}

#[test]
fn integers_are_as_long_as_in_the_table() {
    let mut first = 0_u64;
    let rows = CODEC.rows("Variable-length integers");
    for row in &rows {
        let last = match row[0].split_once(" to ") {
            Some((from, to)) => {
                assert_eq!(from, first.to_string());
                to.parse().expect("a number")
            }
            None => u64::MAX,
        };
        let (head, len) = match row[1].split_once(", then ") {
            Some((head, rest)) => {
                let len: usize =
                    rest.strip_suffix(" bytes").expect("so many bytes").parse().expect("a number");
                (vec![head.parse::<u8>().expect("a byte")], len)
            }
            None => (Vec::new(), 1),
        };
        for value in [first, last] {
            let mut bytes = Vec::new();
            codec::encode_into(&value, &mut bytes);
            assert_eq!(bytes, [&head[..], &value.to_le_bytes()[..len]].concat(), "{value}");
        }
        first = last.wrapping_add(1);
    }
    assert_eq!((rows.len(), first), (4, 0), "the table ends with the largest integer");
}

#[test]
fn a_reader_refuses_what_the_page_says_and_takes_longer_forms() {
    fn refused<T: serde::de::DeserializeOwned + std::fmt::Debug>(hex: &str) {
        let read = codec::decode::<T>(&from_hex(hex));
        assert!(matches!(read, Err(Damage::Codec(_))), "{hex}: {read:?}");
    }
    refused::<u64>("");
    refused::<u64>("fb00");
    refused::<u64>("0000");
    refused::<u64>("fe00000000000000000000000000000000");
    refused::<u64>("ff");
    refused::<u32>("fd0100000000000000");
    refused::<bool>("02");
    refused::<Option<u64>>("0200");
    refused::<String>("02ff41");
    refused::<String>("fd0000000000000010");
    refused::<Vec<u64>>("fcffffff7f");
    assert_eq!(codec::decode::<u64>(&from_hex("fb0100")), Ok(1));
    assert_eq!(codec::decode::<u32>(&from_hex("fc01000000")), Ok(1));
}
