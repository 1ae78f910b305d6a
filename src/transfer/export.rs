//! Writes memories as the original's export does, and as JSON Lines.
//!
//! The export is byte for byte what Python's `json.dumps(…, indent=2)` makes of the same values, so that whatever
//! was written to read the original's files reads ours: ASCII only, floats as Python writes them, no newline at
//! the end. JSON Lines is for reading back: UTF-8, one memory a line, read by [`super::JsonlReader`].

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::Path;

use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::ser::{Formatter, PrettyFormatter};

use super::lines::LINE_LEN_MAX;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Memory, MemoryId};
use crate::store::MemoryVectors;
use crate::time;

/// What an export says about itself.
#[derive(Clone, Debug)]
pub struct ExportHead<'a> {
    /// Now, in milliseconds since the Unix epoch; written as local time without a zone, as the original did.
    pub exported_at_ms: i64,
    /// How many memories follow.
    pub total_memories: u64,
    /// Where the database is.
    pub db_path: &'a Path,
}

/// Writes the original's export: `exported_at`, `total_memories`, `db_path`, and `memories` in the order in which
/// they come, which is newest first in the original. Each has `id, text, timestamp, source, session_id,
/// importance, tags, collection`, then `speaker`, `role`, `position` and `metadata` where there are any. Vectors
/// are not written.
///
/// `target` is what errors call the output.
///
/// # Errors
/// What writing returns, the first error among the memories, and [`ErrorKind::Invalid`] when their number is not
/// the announced one. What was written until then is not a valid export.
pub fn write_json(
    out: &mut dyn Write,
    target: &Path,
    head: &ExportHead<'_>,
    memories: &mut dyn Iterator<Item = Result<Memory>>,
) -> Result<()> {
    let list =
        Memories { memories: RefCell::new(memories), count: RefCell::new(0), failure: RefCell::new(None) };
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, PythonFormatter::default());
    let outcome = write_head(&mut serializer, head, &list);
    if let Some(failure) = list.failure.take() {
        return Err(failure);
    }
    outcome.map_err(|error| Error::io("writing the export", target, error.into()))?;
    let (found, announced) = (list.count.take(), head.total_memories);
    if found != announced {
        let what = format!("{announced} memories were announced and {found} came");
        return Err(Error::new(ErrorKind::Invalid, what).at(target));
    }
    out.flush().map_err(|error| Error::io("writing the export", target, error))
}

/// Writes one memory a line; says how many.
///
/// # Errors
/// What writing returns, and the first error among the memories.
pub fn write_jsonl(
    out: &mut dyn Write,
    target: &Path,
    memories: &mut dyn Iterator<Item = Result<Memory>>,
) -> Result<u64> {
    let mut count = 0;
    for memory in memories {
        let memory = memory?;
        serde_json::to_writer(&mut *out, &memory)
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(|error| Error::io("writing the export", target, error))?;
        count += 1;
    }
    out.flush().map_err(|error| Error::io("writing the export", target, error))?;
    Ok(count)
}

/// As [`write_jsonl`], with the vectors of each memory and the model that made them as `vectors`. A memory whose vectors
/// would make its line longer than [`LINE_LEN_MAX`] is written without: they can be made anew, the memory cannot.
///
/// # Errors
/// As [`write_jsonl`], and those of `vectors`.
pub fn write_jsonl_with_vectors(
    out: &mut dyn Write,
    target: &Path,
    memories: &mut dyn Iterator<Item = Result<Memory>>,
    vectors: &mut dyn FnMut(&MemoryId) -> Result<Option<MemoryVectors>>,
) -> Result<u64> {
    let failed = |error| Error::io("writing the export", target, error);
    let mut count = 0;
    let mut line = Vec::new();
    for memory in memories {
        let memory = memory?;
        let with = WithVectors { memory: &memory, vectors: vectors(&memory.id)? };
        line.clear();
        serde_json::to_writer(&mut line, &with).map_err(|error| failed(error.into()))?;
        if line.len() >= LINE_LEN_MAX {
            line.clear();
            serde_json::to_writer(&mut line, &memory).map_err(|error| failed(error.into()))?;
        }
        line.push(b'\n');
        out.write_all(&line).map_err(failed)?;
        count += 1;
    }
    out.flush().map_err(failed)?;
    Ok(count)
}

#[derive(Serialize)]
struct WithVectors<'a> {
    #[serde(flatten)]
    memory: &'a Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    vectors: Option<MemoryVectors>,
}

fn write_head<S: Serializer>(
    serializer: S,
    head: &ExportHead<'_>,
    list: &Memories<'_>,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(4))?;
    map.serialize_entry("exported_at", &time::local_iso(head.exported_at_ms))?;
    map.serialize_entry("total_memories", &head.total_memories)?;
    map.serialize_entry("db_path", &head.db_path.to_string_lossy())?;
    map.serialize_entry("memories", list)?;
    map.end()
}

/// The memories as a list that is written while it is read. serde asks a value for its content through a shared
/// reference and knows only errors of text, hence the cells.
struct Memories<'a> {
    memories: RefCell<&'a mut dyn Iterator<Item = Result<Memory>>>,
    count: RefCell<u64>,
    failure: RefCell<Option<Error>>,
}

impl Serialize for Memories<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for memory in &mut **self.memories.borrow_mut() {
            match memory {
                Ok(memory) => list.serialize_element(&memory)?,
                Err(error) => {
                    self.failure.replace(Some(error));
                    return Err(S::Error::custom("stopped"));
                }
            }
            *self.count.borrow_mut() += 1;
        }
        list.end()
    }
}

/// Layout of Python's `json.dumps(…, indent=2)`.
struct PythonFormatter(PrettyFormatter<'static>);

impl Default for PythonFormatter {
    fn default() -> Self {
        Self(PrettyFormatter::with_indent(b"  "))
    }
}

impl Formatter for PythonFormatter {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(python_float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(|c: char| !(' '..='~').contains(&c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let mut chars = rest[at..].chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

/// The `repr` of a finite Python float: the shortest digits that give the same number, with an exponent of at least
/// two digits below 1e-4 and from 1e16 on.
fn python_float(value: f64) -> String {
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        return format!("{value:?}");
    }
    let short = format!("{value:e}");
    match short.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => short,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::tests::{FIXTURE, as_memory, memory};
    use super::super::{JsonlReader, read_json};
    use super::*;

    const TARGET: &str = "standard output";

    fn json_of(memories: &[Memory]) -> Vec<u8> {
        let mut out = Vec::new();
        let head = ExportHead {
            exported_at_ms: 0,
            total_memories: memories.len() as u64,
            db_path: Path::new("/home/user/.memento/memory.db"),
        };
        write_json(&mut out, Path::new(TARGET), &head, &mut memories.iter().cloned().map(Ok))
            .expect("memory");
        out
    }

    fn some_memory(text: &str) -> Memory {
        Memory::new(MemoryId::new("0123456789abcdef").expect("an id"), text, 5)
    }

    /// The memories of the original's export with their values as they stand there, in range or not.
    fn fixture_memories() -> Vec<Memory> {
        let file: Value = serde_json::from_slice(FIXTURE).expect("JSON");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let memory = |value: &Value| {
            let id = MemoryId::new(text(&value["id"])).expect("an id");
            let mut memory =
                Memory::new(id, text(&value["text"]), value["timestamp"].as_i64().expect("a time"));
            memory.source = text(&value["source"]);
            memory.session_id = text(&value["session_id"]);
            memory.importance = value["importance"].as_f64().expect("a number");
            memory.tags = value["tags"].as_array().expect("a list").iter().map(text).collect();
            memory.collection = text(&value["collection"]);
            memory
        };
        file["memories"].as_array().expect("a list").iter().map(memory).collect()
    }

    #[test]
    fn the_export_is_byte_for_byte_that_of_the_original() {
        let written = String::from_utf8(json_of(&fixture_memories())).expect("UTF-8");
        let expected = std::str::from_utf8(FIXTURE).expect("UTF-8");
        // Only the time of the export differs, which is the second line.
        let without_time = |text: &str| {
            text.lines().filter(|line| !line.starts_with("  \"exported_at\"")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(without_time(&written), without_time(expected));
        assert_eq!(written.lines().count(), expected.lines().count());
        assert!(written.lines().nth(1).is_some_and(|line| line.starts_with("  \"exported_at\": \"19")));
        assert_eq!(written.ends_with('\n'), expected.ends_with('\n'));
    }

    #[test]
    fn fields_of_ours_come_after_those_of_the_original_and_only_where_there_are_any() {
        let mut full = some_memory("é\u{7f}😀\u{1}\"\\/\t");
        (full.speaker, full.role, full.position) = (Some("Ann".into()), Some("user".into()), Some(3));
        full.metadata.insert("k".to_owned(), serde_json::json!([1e-7, {}, []]));
        let written = String::from_utf8(json_of(&[full])).expect("UTF-8");
        let expected = r#"      "text": "\u00e9\u007f\ud83d\ude00\u0001\"\\/\t",
      "timestamp": 5,
      "source": "conversation",
      "session_id": "default",
      "importance": 0.5,
      "tags": [],
      "collection": "knowledge",
      "speaker": "Ann",
      "role": "user",
      "position": 3,
      "metadata": {
        "k": [
          1e-07,
          {},
          []
        ]
      }
    }
  ]
}"#;
        assert!(written.ends_with(expected), "{written}");
        assert!(!String::from_utf8(json_of(&[some_memory("a")])).expect("UTF-8").contains("speaker"));
    }

    #[test]
    fn an_empty_export_is_like_that_of_the_original() {
        let written = String::from_utf8(json_of(&[])).expect("UTF-8");
        assert!(written.ends_with("\"memories\": []\n}"), "{written}");
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.6, "0.6"),
            (-0.1, "-0.1"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e-4, "0.0001"),
            (9.5e-5, "9.5e-05"),
            (1e-5, "1e-05"),
            (5e-324, "5e-324"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (-1e22, "-1e+22"),
            (123456789.125, "123456789.125"),
        ] {
            assert_eq!(python_float(value), expected);
        }
    }

    #[test]
    fn a_wrong_count_and_a_failing_source_are_errors() {
        let head = ExportHead { exported_at_ms: 0, total_memories: 2, db_path: Path::new("/x") };
        let target = Path::new(TARGET);
        let mut one = std::iter::once(Ok(some_memory("a")));
        let error = write_json(&mut Vec::new(), target, &head, &mut one).expect_err("one of two");
        assert_eq!(error.message(), "2 memories were announced and 1 came");
        let mut bad = [Ok(some_memory("a")), Err(Error::new(ErrorKind::Corrupt, "damage"))].into_iter();
        let error = write_json(&mut Vec::new(), target, &head, &mut bad).expect_err("damage");
        assert_eq!((error.kind(), error.message()), (ErrorKind::Corrupt, "damage"));
        let mut bad = std::iter::once(Err(Error::new(ErrorKind::Corrupt, "damage")));
        assert_eq!(
            write_jsonl(&mut Vec::new(), target, &mut bad).expect_err("damage").kind(),
            ErrorKind::Corrupt
        );
    }

    #[test]
    fn a_full_disk_is_reported_as_one() {
        let head = ExportHead { exported_at_ms: 0, total_memories: 1, db_path: Path::new("/x") };
        let target = Path::new("/dev/full");
        let mut full = std::fs::OpenOptions::new().write(true).open(target).expect("a full device");
        let one = || std::iter::once(Ok(some_memory("a")));
        for error in [
            write_json(&mut full, target, &head, &mut one()).expect_err("full"),
            write_jsonl(&mut full, target, &mut one()).expect_err("full"),
        ] {
            assert_eq!((error.kind(), error.path()), (ErrorKind::NoSpace, Some(target)));
        }
    }

    proptest! {
        #[test]
        fn json_lines_come_back_as_they_were(memories in prop::collection::vec(memory(), 0..6)) {
            let mut out = Vec::new();
            let count = write_jsonl(&mut out, Path::new(TARGET), &mut memories.iter().cloned().map(Ok)).expect("memory");
            prop_assert_eq!(count, memories.len() as u64);
            let mut reader = JsonlReader::new(out.as_slice());
            let back = reader.next_batch(usize::MAX).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(reader.unknown_keys().is_empty());
            let back: Vec<Memory> = back.iter().map(|memory| as_memory(&memory.remember)).collect();
            prop_assert_eq!(back, memories);
        }

        #[test]
        fn an_export_comes_back_as_it_was(mut memories in prop::collection::vec(memory(), 0..6)) {
            for (number, memory) in memories.iter_mut().enumerate() {
                memory.id = MemoryId::new(format!("{number}")).expect("an id");
            }
            let written = json_of(&memories);
            prop_assert!(written.is_ascii());
            let mut back = Vec::new();
            let import = read_json(written.as_slice(), &mut |item| {
                back.push(as_memory(&item.remember));
                Ok(())
            })
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(import.changed, 0);
            prop_assert_eq!(back, memories);
        }
    }
}
