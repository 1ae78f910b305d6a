//! Import and export: the original's JSON export, and JSON Lines.
//!
//! Readers stream: their memory is bounded by the limits of one memory (and, where ids must not repeat, by some
//! bytes for each id), whatever the file holds. Their errors name the place and the field and never repeat what a
//! memory says. Writers stream from an iterator.
//!
//! An import must be all or nothing, so its file is read twice: once to check everything, then to store. Standard
//! input cannot be read twice; the caller first spools it into a temporary file, which costs disk instead of memory. It
//! lies in the home, as the private copy of a database does, so that a process that is killed leaves it nowhere else.

mod claude_mem;
mod export;
mod fields;
mod ids;
mod import;
mod input;
mod json;
mod jsonl;
mod lines;
mod markdown;
mod mcp;
mod mem0;
mod objects;
mod recognise;
mod repair;
mod shape;
mod sink;
pub(crate) mod sqlite;
mod values;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

pub use export::{ExportHead, write_json, write_jsonl, write_jsonl_with_vectors};
pub use import::{ImportOptions, ImportStage, Imported};
pub use json::{ImportItem, JsonImport, import_json, read_json};
pub use jsonl::{JsonlMemory, JsonlReader, check_jsonl};
pub use lines::LINE_LEN_MAX;
pub use recognise::ImportFormat;

use crate::error::Error;

/// Most different unknown keys that are remembered by name.
const UNKNOWN_NAMES_MAX: usize = 32;
/// Most notes about one file that are kept.
const NOTES_MAX: usize = 10_000;

/// What an import changed in a memory, or noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The memory's number in the file, counted from 1; 0 for the file itself.
    pub index: u64,
    /// What was changed, without the memory's text.
    pub what: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => write!(f, "{}", self.what),
            index => write!(f, "memory {index}: {}", self.what),
        }
    }
}

/// Keys of the input that nobody reads. They are skipped, and counted so that a person can see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnknownKeys {
    names: BTreeMap<String, UnknownKey>,
    more: u64,
}

/// Where an unknown key stood and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UnknownKey {
    /// The line (JSON Lines) or the number of the memory (JSON) where it was first, counted from 1.
    pub first: u64,
    /// In how many memories it was.
    pub count: u64,
}

impl UnknownKeys {
    /// Whether there was none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The keys by name, at most 32 of them, names cut to 64 characters and without control characters.
    pub fn iter(&self) -> impl Iterator<Item = (&str, UnknownKey)> {
        self.names.iter().map(|(name, key)| (name.as_str(), *key))
    }

    /// How often a key stood there that is none of the named ones.
    #[must_use]
    pub fn more(&self) -> u64 {
        self.more
    }

    fn add(&mut self, place: u64, names: Vec<String>) {
        for name in names {
            let full = self.names.len() == UNKNOWN_NAMES_MAX;
            match self.names.get_mut(&name) {
                Some(known) => known.count += 1,
                None if full => self.more += 1,
                None => {
                    self.names.insert(name, UnknownKey { first: place, count: 1 });
                }
            }
        }
    }
}

/// The same error with its place before the message.
fn placed(error: Error, place: &str) -> Error {
    let mut placed = Error::new(error.kind(), format!("{place}: {}", error.message()));
    if let Some(hint) = error.hint_text() {
        placed = placed.hint(hint.to_owned());
    }
    if std::error::Error::source(&error).is_some() { placed.with_source(error) } else { placed }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::memory::{Memory, MemoryId, Remember, clean_tags};

    /// The original's export of 194 memories.
    pub(super) const FIXTURE: &[u8] = include_bytes!("../../tests/fixtures/memories-v0.2.2.json");

    /// Stands in every text of a test about messages, which must not repeat it.
    pub(super) const SECRET: &str = "hunter2";

    /// Everything that an error says.
    pub(super) fn said(error: &Error) -> String {
        format!("{error} {} {error:?}", error.hint_text().unwrap_or_default())
    }

    pub(super) fn as_memory(remember: &Remember) -> Memory {
        assert!(remember.timestamp.is_some(), "written memories have a time");
        remember.to_memory(remember.id.clone().expect("written memories have an id"), 0)
    }

    fn label() -> impl Strategy<Value = String> {
        "[^\\p{Cc}]{1,12}".prop_filter("a label is not blank", |label| !label.trim().is_empty())
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            prop::num::f64::NORMAL.prop_map(Value::from),
            "(?s).{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("(?s).{0,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Any memory that the store can hold.
    pub(super) fn memory() -> impl Strategy<Value = Memory> {
        let text = "(?s).{1,60}".prop_filter("a text is not blank", |text: &String| !text.trim().is_empty());
        let metadata = prop::collection::btree_map("(?s).{0,8}", value(), 0..3)
            .prop_map(|map| map.into_iter().collect::<Map<String, Value>>());
        let labels = (label(), label(), label(), prop::option::of(label()), prop::option::of(label()));
        let rest = (
            -377_705_023_201_i64..=253_402_207_200,
            prop_oneof![0.0..=1.0_f64, Just(0.0), Just(1.0), Just(1e-5), Just(5e-324)],
            prop::collection::vec(label(), 0..5),
            prop::option::of(any::<i64>()),
            metadata,
        );
        (label(), text, labels, rest).prop_map(|(id, text, labels, rest)| {
            let (timestamp, importance, tags, position, metadata) = rest;
            let mut memory = Memory::new(MemoryId::new(id).expect("a label is an id"), text, timestamp);
            (memory.source, memory.session_id, memory.collection, memory.speaker, memory.role) = labels;
            memory.importance = importance;
            memory.tags = clean_tags(tags).expect("a few short tags");
            memory.position = position;
            memory.metadata = metadata;
            memory
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_of_another_form_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            start in prop::sample::select(vec![
                "", "[{\"memory\":\"a\"},", "{\"results\":[", "{\"observations\":[{\"facts\":", "{\"type\":\"entity\",\"name\":",
            ]),
        ) {
            let bytes = [start.as_bytes(), &bytes].concat();
            let _ = mem0::read(bytes.as_slice(), &mut |_| Ok(()));
            let _ = claude_mem::read(bytes.as_slice(), &mut |_| Ok(()));
            let _ = mcp::read(bytes.as_slice(), &mut |_| Ok(()));
        }
    }

    #[test]
    fn unknown_keys_are_bounded() {
        let mut unknown = UnknownKeys::default();
        for line in 1..=100 {
            unknown.add(line, vec![format!("key{}", line % 50)]);
        }
        assert_eq!(unknown.iter().count(), UNKNOWN_NAMES_MAX);
        assert_eq!(
            unknown.iter().find(|(name, _)| *name == "key1"),
            Some(("key1", UnknownKey { first: 1, count: 2 }))
        );
        assert_eq!(unknown.more(), 36);
    }
}
