//! Any bytes as JSON Lines.

use std::io::BufReader;

use super::Seeds;
use super::stored::{as_memory, assert_keeps};
use crate::error::{ErrorKind, Result};
use crate::transfer::{JsonlMemory, JsonlReader, check_jsonl};

/// The body of the target.
pub fn run(input: &[u8]) {
    let whole = read(JsonlReader::new(input));
    // Lines that lie across the ends of a buffer are the same lines.
    let pieces = read(JsonlReader::new(BufReader::with_capacity(7, input)));
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert_eq!(whole.len(), pieces.len());
            assert_eq!(check_jsonl(input).ok(), Some(whole.len() as u64));
            for (one, other) in whole.iter().zip(pieces) {
                assert_eq!((one.line, &as_memory(&one.remember)), (other.line, &as_memory(&other.remember)));
                assert_keeps(&one.remember);
            }
        }
        (Err(one), Err(other)) => {
            assert_eq!(one.to_string(), other.to_string());
            assert!(check_jsonl(input).is_err());
            assert!(matches!(one.kind(), ErrorKind::Invalid | ErrorKind::TooLarge), "{one}");
        }
        _ => panic!("how a file is cut into reads must not matter"),
    }
}

fn read<R: std::io::BufRead>(mut reader: JsonlReader<R>) -> Result<Vec<JsonlMemory>> {
    let mut all = Vec::new();
    loop {
        let batch = reader.next_batch(3)?;
        if batch.is_empty() {
            let unknown = reader.unknown_keys();
            assert!(unknown.iter().all(|(name, _)| !name.contains(char::is_control)));
            return Ok(all);
        }
        all.extend(batch);
    }
}

pub(super) fn seeds() -> Seeds {
    let seeds: [(&str, &[u8]); 4] = [
        (
            "all-fields",
            br#"{"id":"m1","text":"Ann likes tea","timestamp":1771329603,"source":"s","session_id":"x","importance":1,"tags":["a","b"],"collection":"c","speaker":"Ann","role":"user","position":3,"metadata":{"k":[1,null,{"d":"\u00e9"}]},"vector":[1,0.5,-2e3]}
"#,
        ),
        (
            "other-names",
            b"\xef\xbb\xbf\r\n{\"text\":\"a\",\"time\":\"2023-05-08T13:56:00Z\",\"session\":1,\"pos\":2.0,\"tags\":\"x, y,,x\"}\r\n\n{\"text\":\"b\",\"created_at\":0,\"session\":\"s\",\"embedding\":[1],\"mood\":{\"x\":[1]}}",
        ),
        ("time-with-zone", b"{\"text\":\"a\",\"time\":\"2026-02-17T07:00:00-05:00[America/New_York]\"}\n"),
        ("bad-line", b"{\"text\":\"a\"}\n{\"text\":\"b\",\"importance\":1.5}\n{\"text\":\"\\ud83d\\ude00\"}\n"),
    ];
    seeds.map(|(name, bytes)| (name, bytes.to_vec())).into()
}
