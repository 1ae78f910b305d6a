//! Any bytes as the original's JSON.

use std::io::{Cursor, Read};

use super::Seeds;
use super::stored::{as_memory, assert_keeps};
use crate::error::ErrorKind;
use crate::transfer::{ImportItem, import_json, read_json};

/// The body of the target.
pub fn run(input: &[u8]) {
    let mut items: Vec<ImportItem> = Vec::new();
    let outcome = read_json(input, &mut |item| {
        items.push(item);
        Ok(())
    });
    let mut again = Vec::new();
    let outcome_again = import_json(&mut Cursor::new(input), &mut |item| {
        again.push(item);
        Ok(())
    });
    let outcome_slow = read_json(Slow(input), &mut |_| Ok(()));
    match outcome {
        Ok(done) => {
            assert_eq!((Some(&done), Some(&done)), (outcome_again.as_ref().ok(), outcome_slow.as_ref().ok()));
            assert_eq!((done.memories, again.len()), (items.len() as u64, items.len()));
            for (one, other) in items.iter().zip(&again) {
                assert_eq!(as_memory(&one.remember), as_memory(&other.remember));
                assert_keeps(&one.remember.clone().on_duplicate(crate::memory::Duplicates::Merge));
            }
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::TooLarge), "{error}");
            assert!(again.is_empty(), "nothing is given of a bad file");
            assert_eq!(outcome_slow.map_err(|error| error.to_string()), Err(error.to_string()));
        }
    }
}

/// A reader that gives one byte at a time.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let len = out.len().min(1);
        self.0.read(&mut out[..len])
    }
}

pub(super) fn seeds() -> Seeds {
    let seeds: [(&str, &[u8]); 4] = [
        (
            "export",
            br#"{
  "exported_at": "2026-02-17T12:30:00.123456",
  "total_memories": 2,
  "db_path": "/home/ann/.memento/memory.db",
  "memories": [
    {"id": "a1b2c3d4e5f60718", "text": "We chose Rust for the service", "timestamp": 1771329603, "source": "conversation", "session_id": "default", "importance": 0.9, "tags": ["decision", "rust"], "collection": "knowledge"},
    {"id": "b1b2c3d4e5f60718", "text": "Caf\u00e9 \ud83d\ude00", "timestamp": 1771329604.5, "importance": 1.7, "tags": [" a", "a ", ""], "source": "", "metadata": {"k": [1, {"x": null}]}}
  ]
}"#,
        ),
        ("list", b"[{\"text\": \"a\", \"score\": 0.5}, {\"text\": \"b\", \"session\": 5, \"position\": 1}]\n"),
        ("more-announced", b"\xef\xbb\xbf{\"total_memories\": 5, \"x\": [{}], \"memories\": []}"),
        ("same-id", b"[{\"id\":\"a\",\"text\":\"a\"},{\"id\":\"a\",\"text\":\"b\"}]"),
    ];
    seeds.map(|(name, bytes)| (name, bytes.to_vec())).into()
}
