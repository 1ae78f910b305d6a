//! Any bytes as a spool: what waits there while a store cannot be written, in a file that anybody may have damaged.

use super::Seeds;
use super::input::Input;
use super::stored::{as_memory, assert_keeps};
use crate::spool::{line, read_back};

/// The body of the target. The first byte asks whether the checksums of all lines are set right.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let set_right = input.byte() & 1 == 1;
    let bytes = if set_right { with_checksums(input.0) } else { input.0.to_vec() };
    let (entries, damaged) = read_back(&bytes);
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    assert_eq!(entries.len() + damaged.len(), lines, "every line is a memory or is kept as damaged");
    assert!(damaged.iter().all(|line| !line.contains(&b'\n')));
    for (spooled_ms, remember) in entries {
        assert_keeps(&remember);
        let memory = as_memory(&remember);
        let json = serde_json::to_string(&memory).expect("a memory is JSON");
        let again = line(spooled_ms, &json);
        let (again, damaged) = read_back(again.as_bytes());
        assert!(damaged.is_empty() && again.len() == 1, "what is spooled can be read");
        assert_eq!((again[0].0, as_memory(&again[0].1)), (spooled_ms, memory));
    }
}

/// Each line with a right checksum in front of it.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut right = Vec::with_capacity(2 * bytes.len());
    for line in bytes.split(|byte| *byte == b'\n') {
        right.extend(format!("{:08x} ", crc32fast::hash(line)).into_bytes());
        right.extend(line);
        right.push(b'\n');
    }
    right
}

pub(super) fn seeds() -> Seeds {
    let json = br#"{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","text":"Ann likes tea","timestamp":1771329603,"source":"s","session_id":"x","importance":1.0,"tags":["a","b"],"collection":"c","speaker":"Ann","role":"user","position":3,"metadata":{"k":[1,null,{"d":"e"}]}}"#;
    let json = std::str::from_utf8(json).expect("a literal");
    let whole = line(1_771_329_603_123, json) + &line(-1, "{\"id\":\"a\",\"text\":\"b\",\"timestamp\":0}");
    let bare =
        "1771329603123 {\"id\":\"a\",\"text\":\"b\"}\n5 {\"text\":\"no id\"}\n5  {}\nx {\"text\":\"b\"}";
    let torn = &whole[..whole.len() - 20];
    vec![
        ("whole", [&b"\0"[..], whole.as_bytes()].concat()),
        ("checksums-set-right", [&b"\x01"[..], bare.as_bytes()].concat()),
        ("torn", [&b"\0"[..], torn.as_bytes()].concat()),
        ("no-lines", b"\0\n\n\r\n deadbeef \n00000000 ".to_vec()),
    ]
}
