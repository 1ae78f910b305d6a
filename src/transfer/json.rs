//! Reads the original's JSON: its export (an object with a list `memories`) or what its `recall -f json` prints
//! (the bare list).
//!
//! The original checked little, so some of what it stored is outside our limits. What can be repaired without
//! losing content is repaired and noted: importance is clamped to 0..1, tags and labels are cleaned. What cannot be
//! (no text, too long a text, an unusable id) is an error that names the memory.

use std::cell::RefCell;
use std::io::{Read, Seek, SeekFrom};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess};

use super::fields::{Fields, FieldsShape};
use super::ids::Ids;
use super::input::{Meter, Metered, read_error, without_bom};
use super::repair::repaired;
use super::shape::{Any, Context, Field, Problem, Problems, Scalar, Shape, syntax_problem};
use super::{Note, UnknownKeys, placed};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Remember;

/// Most bytes of JSON of one memory: its longest text with every character escaped, and room for the rest.
const MEMORY_JSON_MAX: u64 = 16 << 20;
/// Most bytes of JSON of a value beside the list of memories, which is skipped.
const SKIPPED_JSON_MAX: u64 = 64 << 20;

/// One memory of the file, ready to be stored under its own id and time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportItem {
    /// Its number in the file, counted from 1.
    pub index: u64,
    /// The memory. Its id is that of the file, if it has one there; the same text is kept as often as it stands
    /// there, since the ids are different memories to whoever wrote them.
    pub remember: Remember,
    /// What was changed to fit the limits of this store.
    pub notes: Vec<Note>,
}

/// What a file held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JsonImport {
    /// How many memories.
    pub memories: u64,
    /// How many of them were changed to fit.
    pub changed: u64,
    /// What is to be said about the file as a whole.
    pub notes: Vec<Note>,
    /// Keys of memories that nobody reads; [`super::UnknownKey::first`] is the memory's number.
    pub unknown_keys: UnknownKeys,
}

/// Reads a file twice: first all of it to check it, then once more to give each memory to `each`, in the order of
/// the file. Nothing is given unless everything is good.
///
/// # Errors
/// As [`read_json`]; an error of `each` ends the reading and is returned.
pub fn import_json<R: Read + Seek>(
    reader: &mut R,
    each: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<JsonImport> {
    let start = reader.stream_position().map_err(|error| read_error(&error))?;
    read_json(&mut *reader, &mut |_| Ok(()))?;
    reader.seek(SeekFrom::Start(start)).map_err(|error| read_error(&error))?;
    read_json(&mut *reader, each)
}

/// Reads a file once and gives each memory to `each` as soon as it is read. Memory stays bounded: the JSON of one
/// memory, at most 16 MiB, and some 24 bytes for each id.
///
/// # Errors
/// [`ErrorKind::Invalid`] for what is not JSON, has values of the wrong type, an id twice, or a time outside
/// the years -9999 to 9999; [`ErrorKind::TooLarge`] for what is above a limit; [`ErrorKind::Io`]. They name the
/// line and the number of the memory. An error of `each` ends the reading and is returned.
pub fn read_json<R: Read>(reader: R, each: &mut dyn FnMut(ImportItem) -> Result<()>) -> Result<JsonImport> {
    let walk = Walk {
        meter: Meter::new(MEMORY_JSON_MAX),
        problems: Problems::default(),
        progress: RefCell::default(),
        each: RefCell::new(each),
    };
    let mut json = serde_json::Deserializer::from_reader(Metered::new(without_bom(reader)?, &walk.meter));
    let outcome = Any(FileShape(&walk)).deserialize(&mut json).and_then(|()| {
        walk.meter.allow(SKIPPED_JSON_MAX);
        json.end()
    });
    drop(json);
    match outcome {
        Ok(()) => Ok(walk.progress.into_inner().finish()),
        Err(error) => Err(walk.failure(error)),
    }
}

/// One reading of a file.
struct Walk<'a> {
    meter: Meter,
    problems: Problems,
    progress: RefCell<Progress>,
    each: RefCell<&'a mut dyn FnMut(ImportItem) -> Result<()>>,
}

#[derive(Default)]
struct Progress {
    done: JsonImport,
    /// The number of the memory that is being read; None outside the list.
    current: Option<u64>,
    /// How many memories the file says that it has.
    announced: Option<i64>,
    ids: Ids,
}

impl Progress {
    fn finish(mut self) -> JsonImport {
        let found = self.done.memories;
        if let Some(announced) = self.announced.filter(|announced| u64::try_from(*announced) != Ok(found)) {
            let what = format!("the file announces {announced} memories and holds {found}");
            self.done.notes.push(Note { index: 0, what });
        }
        self.done
    }
}

impl Walk<'_> {
    /// Reads the memories of an open list.
    fn memories<'de, A: SeqAccess<'de>>(&self, mut list: A) -> Result<(), A::Error> {
        for index in 1_u64.. {
            self.meter.allow(MEMORY_JSON_MAX);
            self.progress.borrow_mut().current = Some(index);
            let Some((line, fields)) = list.next_element_seed(Any(MemoryShape(self)))? else { break };
            let item = self
                .finish(index, fields)
                .map_err(|error| placed(error, &format!("memory {index}, from line {line}")))
                .map_err(|error| self.problems.stop_complete(error))?;
            (self.each.borrow_mut())(item).map_err(|error| self.problems.stop_complete(error))?;
        }
        self.progress.borrow_mut().current = None;
        Ok(())
    }

    fn finish(&self, index: u64, mut fields: Fields) -> Result<ImportItem> {
        let mut progress = self.progress.borrow_mut();
        progress.done.unknown_keys.add(index, std::mem::take(&mut fields.unknown));
        let mut notes = Vec::new();
        let remember = repaired(fields, &mut |what| notes.push(Note { index, what }))?;
        if let Some(id) = &remember.id
            && let Some(other) = progress.ids.insert(id, index)
        {
            return Err(Error::new(ErrorKind::Invalid, format!("it has the same id as memory {other}"))
                .hint("give each memory an id of its own, or leave the id out"));
        }
        progress.done.memories = index;
        progress.done.changed += u64::from(!notes.is_empty());
        Ok(ImportItem { index, remember, notes })
    }

    /// The error to report for the one that stopped serde.
    fn failure(&self, error: serde_json::Error) -> Error {
        let current = self.progress.borrow().current;
        let place = match current {
            Some(index) => format!("memory {index}, line {}, column {}", error.line(), error.column()),
            None => format!("line {}, column {}", error.line(), error.column()),
        };
        match self.problems.take() {
            Some(Problem::Complete(error)) => error,
            Some(Problem::Here(error)) => placed(error, &place),
            None if self.meter.is_exhausted() => self.too_large(current),
            None if error.is_io() => read_error(&error.into()),
            None => placed(syntax_problem(&error), &place),
        }
    }

    fn too_large(&self, current: Option<u64>) -> Error {
        let what = match current {
            Some(index) => format!("memory {index} has more than {MEMORY_JSON_MAX} bytes of JSON"),
            None => format!("a value beside the memories has more than {SKIPPED_JSON_MAX} bytes of JSON"),
        };
        Error::new(ErrorKind::TooLarge, format!("line {}: {what}", self.meter.line()))
    }
}

/// The file as a whole.
struct FileShape<'a, 'b>(&'a Walk<'b>);

impl<'de> Shape<'de> for FileShape<'_, '_> {
    type Out = ();

    fn context(&self) -> Context<'_> {
        let expected = "an object with a list `memories`, or a list of memories";
        Context { problems: &self.0.problems, name: "the file", expected }
    }

    fn list<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        self.0.memories(list)
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Self(walk) = self;
        let mut found = false;
        loop {
            walk.meter.allow(MEMORY_JSON_MAX);
            let Some(name) = object.next_key::<String>()? else { break };
            match name.as_str() {
                "memories" if found => {
                    let error = Error::new(ErrorKind::Invalid, "`memories` stands twice");
                    return Err(walk.problems.stop(error));
                }
                "memories" => {
                    object.next_value_seed(Any(ListShape(walk)))?;
                    found = true;
                }
                "total_memories" => {
                    let context = Context {
                        problems: &walk.problems,
                        name: "total_memories",
                        expected: "a whole number",
                    };
                    let announced = object.next_value_seed(Any(Field { context, read: whole }))?;
                    walk.progress.borrow_mut().announced = announced;
                }
                _ => {
                    walk.meter.allow(SKIPPED_JSON_MAX);
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        if found {
            return Ok(());
        }
        Err(walk.problems.stop(
            Error::new(ErrorKind::Invalid, "the file has no list `memories`").hint(
                "this reads an export of Memento; a file with one memory a line is JSON Lines (.jsonl)",
            ),
        ))
    }
}

/// The list of the memories.
struct ListShape<'a, 'b>(&'a Walk<'b>);

impl<'de> Shape<'de> for ListShape<'_, '_> {
    type Out = ();

    fn context(&self) -> Context<'_> {
        Context { problems: &self.0.problems, name: "memories", expected: "a list" }
    }

    fn list<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        self.0.memories(list)
    }
}

/// One memory with the line where it starts.
struct MemoryShape<'a, 'b>(&'a Walk<'b>);

impl<'de> Shape<'de> for MemoryShape<'_, '_> {
    type Out = (u64, Fields);

    fn context(&self) -> Context<'_> {
        Context {
            problems: &self.0.problems,
            name: "the item",
            expected: "an object with the fields of a memory",
        }
    }

    fn object<A: MapAccess<'de>>(self, object: A) -> Result<Self::Out, A::Error> {
        let line = self.0.meter.line();
        let fields = FieldsShape { problems: &self.0.problems }.object(object)?;
        Ok((line, fields))
    }
}

fn whole(scalar: Scalar<'_>) -> Option<Result<i64>> {
    match scalar {
        Scalar::Whole(number) => Some(Ok(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::tests::{FIXTURE, SECRET, said};
    use super::*;
    use crate::memory::{Duplicates, MemoryId, TAGS_MAX};

    fn read(bytes: &[u8]) -> Result<(Vec<ImportItem>, JsonImport)> {
        let mut items = Vec::new();
        let import = read_json(bytes, &mut |item| {
            items.push(item);
            Ok(())
        })?;
        Ok((items, import))
    }

    /// The message of the error that this text makes, which must not repeat a memory.
    fn message(bytes: &[u8]) -> String {
        let error = read(bytes).expect_err("this file is bad");
        assert!(!said(&error).contains(SECRET), "{error}");
        error.message().to_owned()
    }

    /// Gives these bytes, then the last one for ever.
    struct Endless(&'static [u8]);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0 {
                [last] => {
                    buffer.fill(*last);
                    Ok(buffer.len())
                }
                start => {
                    buffer[0] = start[0];
                    self.0 = &start[1..];
                    Ok(1)
                }
            }
        }
    }

    #[test]
    fn the_original_s_export_is_read_with_ids_and_times() {
        let (items, import) = read(FIXTURE).expect("the original's file");
        let expected: Value = serde_json::from_slice(FIXTURE).expect("JSON");
        let expected = expected["memories"].as_array().expect("a list");
        assert_eq!((import.memories, items.len(), expected.len()), (194, 194, 194));
        for (item, expected) in items.iter().zip(expected) {
            let remember = &item.remember;
            assert_eq!(remember.id.as_ref().map(MemoryId::as_str), expected["id"].as_str());
            assert_eq!(Some(remember.text.as_str()), expected["text"].as_str());
            assert_eq!(remember.timestamp, expected["timestamp"].as_i64());
            assert_eq!(Some(remember.source.as_str()), expected["source"].as_str());
            assert_eq!(Some(remember.collection.as_str()), expected["collection"].as_str());
            assert_eq!(remember.duplicates, Duplicates::Keep);
        }
        let clamped: Vec<_> =
            items.iter().flat_map(|item| &item.notes).map(|note| note.what.as_str()).collect();
        assert!(clamped.contains(&"importance 1.5 became 1"), "{clamped:?}");
        assert!(clamped.contains(&"importance -0.1 became 0"), "{clamped:?}");
        assert!(items.iter().any(|item| item.remember.tags.len() == 50));
        assert_eq!(import.changed, items.iter().filter(|item| !item.notes.is_empty()).count() as u64);
        assert_eq!(import.notes, []);
        assert!(import.unknown_keys.is_empty());
    }

    #[test]
    fn a_bare_list_is_read_and_what_is_missing_gets_its_default() {
        let (items, import) =
            read(b"\xef\xbb\xbf [ {\"text\": \"a\", \"score\": 0.5, \"mood\": {\"x\": [1]}}, {\"text\": \"b\", \"id\": null,
                \"timestamp\": null, \"source\": null, \"session_id\": null, \"importance\": null, \"tags\": null,
                \"collection\": null, \"speaker\": null, \"role\": null, \"position\": null, \"metadata\": null,
                \"vector\": null, \"mood\": 2} ] \n")
            .expect("a list");
        for item in &items {
            let remember = &item.remember;
            assert_eq!((&remember.id, remember.timestamp), (&None, None));
            assert_eq!(
                (remember.source.as_str(), remember.session_id.as_str(), remember.collection.as_str()),
                ("conversation", "default", "knowledge")
            );
            assert_eq!(remember.importance, 0.5);
            assert!(item.notes.iter().any(|note| note.what.contains("no time")));
        }
        let unknown: Vec<_> =
            import.unknown_keys.iter().map(|(name, key)| (name, key.first, key.count)).collect();
        assert_eq!(unknown, [("mood", 1, 2)]);
    }

    #[test]
    fn times_come_as_numbers_and_as_text() {
        let (items, _) = read(
            br#"[{"text":"a","timestamp":1771329603},{"text":"b","timestamp":1771329603.9},
                 {"text":"c","timestamp":"2026-02-17T12:00:03Z"},{"text":"d","timestamp":-0.5}]"#,
        )
        .expect("times");
        let times: Vec<_> = items.iter().filter_map(|item| item.remember.timestamp).collect();
        assert_eq!(times, [1_771_329_603, 1_771_329_603, 1_771_329_603, -1]);
    }

    #[test]
    fn what_the_original_let_through_is_repaired_and_noted() {
        let (items, import) = read(
            br#"[{"text":"a","timestamp":0,"importance":1e300,"tags":[" x ","x","","a\nb"],"source":"",
                  "session_id":"a\tb","collection":"  ","speaker":"","id":"0123456789abcdef"}]"#,
        )
        .expect("repairable");
        let [item] = items.as_slice() else { panic!("one memory") };
        let remember = &item.remember;
        assert_eq!(remember.importance, 1.0);
        assert_eq!(remember.tags, ["x", "a b"]);
        assert_eq!((remember.source.as_str(), remember.session_id.as_str()), ("conversation", "a b"));
        assert_eq!((remember.collection.as_str(), &remember.speaker), ("knowledge", &None));
        assert_eq!(item.notes.len(), 6, "{:?}", item.notes);
        assert!(item.notes.iter().all(|note| note.index == 1));
        assert_eq!(import.changed, 1);
    }

    #[test]
    fn wrong_values_name_the_memory_the_place_and_the_field() {
        for (text, expected) in [
            (
                r#"[{"text":"a"},{"importance":"hunter2"}]"#,
                "memory 2, line 1, column 37: importance is a text",
            ),
            (
                r#"[{"text":"hunter2","importance":true}]"#,
                "memory 1, line 1, column 36: importance is true or false",
            ),
            (r#"[{"text":["hunter2"]}]"#, "memory 1, line 1, column 11: text is a list, expected a text"),
            (
                r#"[{"text":{"hunter2":1}}]"#,
                "memory 1, line 1, column 11: text is an object, expected a text",
            ),
            (r#"[{"text":5}]"#, "memory 1, line 1, column 11: text is a number, expected a text"),
            (r#"[{"id":5,"text":"hunter2"}]"#, "memory 1, line 1, column 9: id is a number"),
            (r#"[{"tags":["hunter2",5]}]"#, "memory 1, line 1, column 22: a tag is a number"),
            (r#"[{"tags":[null]}]"#, "memory 1, line 1, column 15: a tag is null"),
            (r#"[{"tags":7}]"#, "memory 1, line 1, column 11: tags is a number, expected a list of texts"),
            (
                r#"[{"vector":[1,"hunter2"]}]"#,
                "memory 1, line 1, column 23: vector is a text, expected numbers only",
            ),
            (r#"[{"metadata":"hunter2"}]"#, "memory 1, line 1, column 22: metadata is a text"),
            (
                r#"[{"metadata":{"hunter2":1,"hunter2":2}}]"#,
                "memory 1, line 1, column 38: metadata holds a key twice",
            ),
            (
                r#"[{"position":1.5}]"#,
                "memory 1, line 1, column 17: position is a number, expected a whole number",
            ),
            (
                r#"[{"timestamp":"hunter2"}]"#,
                "memory 1, line 1, column 23: timestamp: this text is not a time",
            ),
            (
                r#"[{"timestamp":1771329603000}]"#,
                "memory 1, line 1, column 28: timestamp: 1771329603000 is not a time",
            ),
            (
                r#"[{"timestamp":1e300}]"#,
                "memory 1, line 1, column 20: timestamp is a number, expected Unix seconds",
            ),
            (r#"[{"text":"a","text":"hunter2"}]"#, "memory 1, line 1, column 20: `text` stands twice"),
            (r#"[{"time":1,"timestamp":2}]"#, "memory 1, line 1, column 23: `timestamp` stands twice"),
            (r#"[{"importance":1e999}]"#, "memory 1, line 1, column 21: number out of range"),
            ("[{\n\"importance\":\nNaN}]", "memory 1, line 3, column 1: expected value"),
            (r#"[["hunter2"]]"#, "memory 1, line 1, column 3: the item is a list"),
            (r#"["hunter2"]"#, "memory 1, line 1, column 10: the item is a text"),
            (r#"[null]"#, "memory 1, line 1, column 5: the item is null"),
            (r#"{"memories":null}"#, "line 1, column 16: memories is null, expected a list"),
            (r#"{"memories":[],"memories":[]}"#, "line 1, column 26: `memories` stands twice"),
            (r#"{"total_memories":"hunter2"}"#, "line 1, column 27: total_memories is a text"),
            (r#"{"text":"hunter2"}"#, "line 1, column 18: the file has no list `memories`"),
            (r#""hunter2""#, "line 1, column 9: the file is a text, expected an object with a list"),
            ("[]x", "line 1, column 3: trailing characters"),
            ("", "line 1, column 0: EOF while parsing a value"),
        ] {
            let found = message(text.as_bytes());
            assert!(found.starts_with(expected), "{text}: {found}");
        }
    }

    #[test]
    fn what_cannot_be_repaired_names_the_memory_and_its_line() {
        let text = format!(r#"[{{"text":"{}"}}]"#, "x".repeat((1 << 20) + 1));
        for (text, expected) in [
            ("[\n\n{}]", "memory 1, from line 3: it has no text"),
            (r#"[{"text":" \n "}]"#, "memory 1, from line 1: the text of a memory cannot be empty"),
            (r#"[{"text":"hunter2","id":""}]"#, "memory 1, from line 1: an id is"),
            (r#"[{"text":"hunter2","vector":[]}]"#, "memory 1, from line 1: a vector has"),
            (r#"[{"text":"hunter2","vector":[1e300]}]"#, "memory 1, from line 1: a vector holds"),
            (&text, "memory 1, from line 1: the text has 1048577 bytes"),
            (
                "[{\"text\":\"a\",\"id\":\"x\"},\n{\"text\":\"b\",\"id\":\"x\"}]",
                "memory 2, from line 2: it has the same id as memory 1",
            ),
        ] {
            let found = message(text.as_bytes());
            assert!(found.starts_with(expected), "{expected}: {found}");
        }
    }

    #[test]
    fn tags_that_do_not_fit_are_kept_in_the_metadata() {
        let long = "x".repeat(257);
        let tags: Vec<String> = (0..=TAGS_MAX).map(|n| n.to_string()).chain([long.clone()]).collect();
        let text = format!(r#"[{{"text":"a","tags":{tags:?}}}]"#);
        let (items, _) = read(text.as_bytes()).expect("repaired");
        assert_eq!(items[0].remember.tags, tags[..TAGS_MAX]);
        assert_eq!(items[0].remember.metadata["more_tags"], serde_json::json!(["64", long]));
        assert_eq!(items[0].notes[1].what, "2 of its tags do not fit and are in its metadata as `more_tags`");
    }

    #[test]
    fn half_characters_and_other_encodings_are_refused() {
        for (bytes, expected) in [
            (
                &br#"[{"text":"hunter2 \ud83d"}]"#[..],
                "memory 1, line 1, column 25: unexpected end of hex escape",
            ),
            (br#"[{"text":"\ude00 hunter2"}]"#, "memory 1, line 1, column 16: lone"),
            (b"[{\"text\":\"hunter2 \xff\"}]", "memory 1, line 1"),
            (b"[{\"text\":\"hunter2 \xed\xa0\x80\"}]", "memory 1, line 1"),
            (b"[{\"text\":\"a\nb\"}]", "memory 1, line 2, column 0: control character"),
            (b"\xff\xfe[\0]\0", "the file is UTF-16"),
        ] {
            let found = message(bytes);
            assert!(found.starts_with(expected), "{expected}: {found}");
        }
    }

    #[test]
    fn a_file_that_was_cut_anywhere_is_refused() {
        let text =
            br#"{"total_memories":2,"memories":[{"id":"a","text":"x \u00e9"},{"text":"y","tags":["t"]}]}"#;
        assert!(read(text).is_ok());
        for cut in 0..text.len() {
            assert!(read(&text[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn hostile_files_end_early() {
        let tags = format!(r#"[{{"text":"a","tags":[{}"t"]}}]"#, r#""t","#.repeat(1_000_000));
        assert!(message(tags.as_bytes()).contains("tags") || message(tags.as_bytes()).contains("a tag"));
        let commas = format!(r#"[{{"text":"a","tags":"{}"}}]"#, ",".repeat(1_000_000));
        assert!(message(commas.as_bytes()).contains("tags holds more than 4096 items"));
        let metadata = format!(r#"[{{"text":"a","metadata":{{"x":[{}0]}}}}]"#, "0,".repeat(1_000_000));
        assert!(message(metadata.as_bytes()).contains("metadata has more than 65536 bytes"));
        let vector = format!(r#"[{{"text":"a","vector":[{}0]}}]"#, "0,".repeat(1_000_000));
        assert!(message(vector.as_bytes()).contains("vector holds more than 4096 items"));
        let deep = format!(r#"[{{"text":"a","metadata":{{"x":{}"#, "[".repeat(100_000));
        assert!(message(deep.as_bytes()).contains("recursion limit exceeded"));
        let deep = format!(r#"[{}"#, "[".repeat(100_000));
        assert!(message(deep.as_bytes()).starts_with("memory 1"));
    }

    #[test]
    fn endless_input_is_stopped_by_the_limit_of_one_memory() {
        for start in [
            &b"[{\"text\":\"x"[..],
            b"[{\"x",
            b"{\"x",
            b"[{\"unknown\":[",
            b"[{\"text\":\"a\"} ",
            b"{\"other\":[",
        ] {
            let error = read_json(Endless(start), &mut |_| Ok(())).expect_err("there is no end");
            assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        }
    }

    #[test]
    fn a_large_value_beside_the_memories_is_skipped() {
        let text = format!(r#"{{"other":[{}0],"memories":[{{"text":"a"}}]}}"#, "0,".repeat(10_000_000));
        assert_eq!(read(text.as_bytes()).expect("skipped").1.memories, 1);
    }

    #[test]
    fn a_wrong_count_is_noted() {
        let (_, import) = read(br#"{"total_memories":3,"memories":[{"text":"a"}]}"#).expect("good");
        assert_eq!(
            import.notes,
            [Note { index: 0, what: "the file announces 3 memories and holds 1".to_owned() }]
        );
    }

    #[test]
    fn nothing_is_given_out_of_a_file_that_is_bad_somewhere() {
        let mut given = 0;
        let mut count = |_| {
            given += 1;
            Ok(())
        };
        let bad = br#"[{"text":"a"},{"text":"b"},{"text":5}]"#;
        import_json(&mut Cursor::new(bad), &mut count).expect_err("the third is bad");
        let good = br#"..[{"text":"a"},{"text":"b"}]"#;
        let mut reader = Cursor::new(good);
        reader.set_position(2);
        assert_eq!(import_json(&mut reader, &mut count).expect("good").memories, 2);
        assert_eq!(given, 2);
    }

    #[test]
    fn an_error_of_the_receiver_ends_the_reading() {
        let mut given = 0;
        let error = read_json(&br#"[{"text":"a"},{"text":"b"}]"#[..], &mut |_| {
            given += 1;
            Err(Error::new(ErrorKind::NoSpace, "full"))
        })
        .expect_err("the receiver refused");
        assert_eq!((error.kind(), error.message(), given), (ErrorKind::NoSpace, "full", 1));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_change_to_an_export_makes_it_panic_or_say_too_much(
            changes in prop::collection::vec((0_usize..400, any::<u8>()), 1..4)
        ) {
            let mut bytes = br#"{"exported_at":"2026-02-17T12:30:00","total_memories":1,"memories":[
                {"id":"e942b8e4e4a7d3ca","text":"hunter2","timestamp":1771329603,"source":"hunter2",
                "importance":0.6,"tags":["hunter2"],"metadata":{"hunter2":["hunter2",1.5]},"vector":[1,2]}]}"#.to_vec();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            if let Err(error) = read(&bytes) {
                prop_assert!(!said(&error).contains(SECRET), "{}", error);
            }
        }
    }
}
