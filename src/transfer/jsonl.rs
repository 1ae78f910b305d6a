//! Reads JSON Lines: one memory as an object on each line.
//!
//! Keys: `text`, and any of `id`, `timestamp` (or `time`, `created_at`), `source`, `session_id` (or `session`),
//! `importance`, `tags` (a list, or a text with commas), `collection`, `speaker`, `role`, `position` (or `pos`),
//! `metadata` (an object), `vector` (or `embedding`). Nothing is repaired: the first bad line is an error, and
//! nothing of its batch is given out.

use std::io::BufRead;

use serde::de::DeserializeSeed;

use super::fields::{Fields, FieldsShape};
use super::input::check_encoding;
use super::lines::Lines;
use super::shape::{Any, Problem, Problems, syntax_problem};
use super::{UnknownKeys, placed};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{MemoryId, Remember};

/// Most bytes of lines in one batch; a batch ends early when it has more.
const BATCH_LEN_MAX: usize = 32 << 20;

/// Reads all lines only to check them; says how many memories there are. Whoever wants all or nothing of a file
/// calls it first, then reads the file again.
///
/// # Errors
/// As [`JsonlReader::next_batch`].
pub fn check_jsonl<R: BufRead>(input: R) -> Result<u64> {
    let mut reader = JsonlReader::new(input);
    let mut count = 0;
    while reader.next_memory()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// One memory and the line it stood on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JsonlMemory {
    /// The line, counted from 1.
    pub line: u64,
    /// The memory, checked.
    pub remember: Remember,
}

/// Reads memories from JSON Lines, batch by batch. Its own memory is one line; that of a batch is bounded by
/// 32 MiB of lines besides the number of its memories.
#[derive(Debug)]
pub struct JsonlReader<R> {
    lines: Lines<R>,
    unknown: UnknownKeys,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Reading,
    /// The end of the input, or an error: nothing more comes.
    Over,
}

impl<R: BufRead> JsonlReader<R> {
    /// Reads from here. A UTF-8 byte order mark, empty lines and CR LF are accepted.
    pub fn new(input: R) -> Self {
        Self { lines: Lines::new(input), unknown: UnknownKeys::default(), state: State::Reading }
    }

    /// The next memories, at most `count_max` of them; none at the end.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] or [`ErrorKind::TooLarge`] naming the line and the field, [`ErrorKind::Io`]. No
    /// memory comes with or after an error.
    pub fn next_batch(&mut self, count_max: usize) -> Result<Vec<JsonlMemory>> {
        let mut batch = Vec::new();
        let mut len = 0;
        while batch.len() < count_max && len < BATCH_LEN_MAX {
            let Some(memory) = self.next_memory()? else { break };
            len += self.lines.len();
            batch.push(memory);
        }
        Ok(batch)
    }

    /// The next memory; none at the end.
    ///
    /// # Errors
    /// As [`JsonlReader::next_batch`].
    pub fn next_memory(&mut self) -> Result<Option<JsonlMemory>> {
        if self.state == State::Over {
            return Ok(None);
        }
        let outcome = self.read_memory();
        if !matches!(outcome, Ok(Some(_))) {
            self.state = State::Over;
        }
        outcome
    }

    /// The line that was read last, counted from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.lines.line()
    }

    /// Keys that nobody reads, so far; [`super::UnknownKey::first`] is the line.
    #[must_use]
    pub fn unknown_keys(&self) -> &UnknownKeys {
        &self.unknown
    }

    fn read_memory(&mut self) -> Result<Option<JsonlMemory>> {
        let Some(fields) = self.next_fields()? else { return Ok(None) };
        let line = self.line();
        let remember = checked(fields).map_err(|error| placed(error, &format!("line {line}")))?;
        Ok(Some(JsonlMemory { line, remember }))
    }

    /// The fields of the next memory as they stand there.
    pub(super) fn next_fields(&mut self) -> Result<Option<Fields>> {
        let Some(bytes) = self.lines.next_line()? else { return Ok(None) };
        let parsed = parse(bytes);
        let line = self.line();
        let mut fields = parsed.map_err(|error| placed(error, &format!("line {line}")))?;
        self.unknown.add(line, std::mem::take(&mut fields.unknown));
        Ok(Some(fields))
    }
}

fn parse(line: &[u8]) -> Result<Fields> {
    check_encoding(line)?;
    let problems = Problems::default();
    let mut json = serde_json::Deserializer::from_slice(line);
    let outcome = Any(FieldsShape { problems: &problems })
        .deserialize(&mut json)
        .and_then(|fields| json.end().map(|()| fields));
    outcome.map_err(|error| match problems.take() {
        Some(Problem::Here(problem) | Problem::Complete(problem)) => problem,
        None => placed(syntax_problem(&error), &format!("column {}", error.column())),
    })
}

fn checked(fields: Fields) -> Result<Remember> {
    let text = fields.text.ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "there is no `text`")
            .hint("each line is an object such as {\"text\": \"…\"}")
    })?;
    let mut remember = Remember::new(text);
    remember.id = fields.id.map(MemoryId::new).transpose()?;
    remember.timestamp = fields.timestamp;
    remember.source = fields.source.unwrap_or(remember.source);
    remember.session_id = fields.session_id.unwrap_or(remember.session_id);
    remember.importance = fields.importance.unwrap_or(remember.importance);
    remember.tags = fields.tags.unwrap_or_default();
    remember.collection = fields.collection.unwrap_or(remember.collection);
    remember.speaker = fields.speaker;
    remember.role = fields.role;
    remember.position = fields.position;
    remember.metadata = fields.metadata.unwrap_or_default();
    remember.vector = fields.vector;
    remember.checked()
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read};

    use proptest::prelude::*;

    use super::super::lines::LINE_LEN_MAX;
    use super::super::tests::{SECRET, said};
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<JsonlMemory>> {
        // A small buffer, so that lines lie across its ends.
        JsonlReader::new(BufReader::with_capacity(7, bytes)).next_batch(usize::MAX)
    }

    fn message(bytes: &[u8]) -> String {
        let error = all(bytes).expect_err("this file is bad");
        assert!(!said(&error).contains(SECRET), "{error}");
        error.message().to_owned()
    }

    #[test]
    fn every_field_is_read() {
        let [memory] = all(
            br#"{"id":"m1","text":"a","timestamp":1771329603,"source":"s","session_id":"x","importance":1,
"tags":["a","b"],"collection":"c","speaker":"Ann","role":"user","position":3,"metadata":{"k":[1,null]},"vector":[1,0.5]}"#
                .iter()
                .map(|byte| if *byte == b'\n' { b' ' } else { *byte })
                .collect::<Vec<u8>>()
                .as_slice(),
        )
        .expect("good")
        .try_into()
        .expect("one memory");
        let remember = memory.remember;
        assert_eq!(remember.id.as_ref().map(MemoryId::as_str), Some("m1"));
        assert_eq!(
            (remember.timestamp, remember.importance, remember.position),
            (Some(1_771_329_603), 1.0, Some(3))
        );
        assert_eq!((remember.source.as_str(), remember.session_id.as_str()), ("s", "x"));
        assert_eq!((remember.speaker.as_deref(), remember.role.as_deref()), (Some("Ann"), Some("user")));
        assert_eq!(
            (remember.collection.as_str(), remember.tags),
            ("c", vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(remember.metadata["k"], serde_json::json!([1, null]));
        assert_eq!(remember.vector, Some(vec![1.0, 0.5]));
    }

    #[test]
    fn other_names_of_fields_are_understood() {
        let memories = all(
            b"{\"text\":\"a\",\"time\":\"2023-05-08T13:56:00Z\",\"session\":1,\"pos\":2.0,\"tags\":\"x, y,,x\"}\n\
              {\"text\":\"b\",\"created_at\":0,\"session\":\"s\",\"embedding\":[1]}",
        )
        .expect("good");
        let first = &memories[0].remember;
        assert_eq!(
            (first.timestamp, first.session_id.as_str(), first.position),
            (Some(1_683_554_160), "1", Some(2))
        );
        assert_eq!(first.tags, ["x", "y"]);
        assert_eq!(
            (memories[1].remember.timestamp, memories[1].remember.vector.as_deref()),
            (Some(0), Some(&[1.0][..]))
        );
    }

    #[test]
    fn marks_line_ends_and_empty_lines_do_not_matter() {
        let memories =
            all(b"\xef\xbb\xbf\r\n{\"text\":\"a\"}\r\n\n  \t\n{\"text\":\"b\\r\\n\"}").expect("good");
        let found: Vec<_> = memories.iter().map(|memory| (memory.line, memory.remember.text())).collect();
        assert_eq!(found, [(2, "a"), (5, "b\r\n")]);
        assert!(all(b"").expect("empty").is_empty());
        assert!(all(b"\xef\xbb\xbf").expect("a mark alone").is_empty());
    }

    #[test]
    fn bad_lines_name_their_number_and_the_field() {
        for (text, expected) in [
            ("{\"text\":\"a\"}\n\n{\"text\":\"hunter2\",\"importance\":1.5}", "line 3: importance is 1.5"),
            (
                "{\"text\":\"hunter2\",\"importance\":\"high\"}",
                "line 1: importance is a text, expected a number",
            ),
            ("{\"text\":\"hunter2\",\"timestamp\":\"5m\"}", "line 1: timestamp: this text is not a time"),
            (
                "{\"text\":\"hunter2\",\"session\":1.5}",
                "line 1: session is a number, expected a text or a whole number",
            ),
            ("{\"text\":\"hunter2\",\"source\":\"\"}", "line 1: source cannot be empty"),
            (
                "{\"text\":\"hunter2\",\"session\":\"a\",\"session_id\":\"b\"}",
                "line 1: `session_id` stands twice",
            ),
            ("{\"content\":\"hunter2\"}", "line 1: there is no `text`"),
            ("{\"text\":null}", "line 1: there is no `text`"),
            ("{\"text\":\" \"}", "line 1: the text of a memory cannot be empty"),
            ("{\"text\":\"hunter2\"", "line 1: column 17: EOF while parsing an object"),
            ("{\"text\":\"hunter2\"} {}", "line 1: column 20: trailing characters"),
            ("[\"hunter2\"]", "line 1: this is a list, expected an object"),
            ("\"hunter2\"", "line 1: this is a text, expected an object"),
            ("hunter2", "line 1: column 1: expected value"),
            ("{\"text\":\"\\ud800 hunter2\"}", "line 1: column 16: unexpected end of hex escape"),
            ("{\"text\":\"a\"}\0", "line 1: column 13: trailing characters"),
        ] {
            let found = message(text.as_bytes());
            assert!(found.starts_with(expected), "{text}: {found}");
        }
        assert!(message(b"{\"text\":\"hunter2\xff\"}").starts_with("line 1: column"));
        assert!(message(b"\xff\xfe{\0").contains("UTF-16"));
    }

    #[test]
    fn a_bad_line_ends_everything() {
        let text = b"{\"text\":\"a\"}\n{\"text\":\"b\"}\nbad\n{\"text\":\"c\"}\n";
        let mut reader = JsonlReader::new(&text[..]);
        assert_eq!(reader.next_batch(1).expect("the first").len(), 1);
        assert!(reader.next_batch(10).is_err(), "the second is in the same batch as the bad line");
        assert_eq!(reader.line(), 3);
        assert!(reader.next_batch(10).expect("over").is_empty());
    }

    #[test]
    fn a_file_can_be_checked_before_anything_is_taken_from_it() {
        assert_eq!(check_jsonl(&b"{\"text\":\"a\"}\n\n{\"text\":\"b\"}"[..]).expect("good"), 2);
        let error = check_jsonl(&b"{\"text\":\"a\"}\n{\"text\":5}"[..]).expect_err("bad");
        assert!(error.message().starts_with("line 2: text is a number"), "{error}");
    }

    #[test]
    fn batches_are_bounded_by_count_and_by_size() {
        let small = "{\"text\":\"a\"}\n".repeat(10);
        let mut reader = JsonlReader::new(small.as_bytes());
        let sizes: Vec<usize> =
            std::iter::from_fn(|| Some(reader.next_batch(4).expect("good").len())).take(4).collect();
        assert_eq!(sizes, [4, 4, 2, 0]);
        let large = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1 << 20)).repeat(40);
        let mut reader = JsonlReader::new(large.as_bytes());
        assert_eq!(reader.next_batch(usize::MAX).expect("good").len(), 32);
        assert_eq!(reader.next_batch(usize::MAX).expect("good").len(), 8);
    }

    #[test]
    fn unknown_keys_are_counted_with_their_first_line() {
        let text = b"{\"text\":\"a\"}\n{\"text\":\"b\",\"mood\":{},\"x\":1}\n{\"mood\":[],\"text\":\"c\"}\n";
        let mut reader = JsonlReader::new(&text[..]);
        let memories = reader.next_batch(10).expect("good");
        assert!(memories.iter().all(|memory| memory.remember.metadata.is_empty()));
        let unknown: Vec<_> =
            reader.unknown_keys().iter().map(|(name, key)| (name, key.first, key.count)).collect();
        assert_eq!(unknown, [("mood", 2, 2), ("x", 2, 1)]);
    }

    #[test]
    fn a_line_without_an_end_is_stopped() {
        let endless = std::io::repeat(b'x');
        let mut reader = JsonlReader::new(BufReader::new(b"{\"text\":\"a\"}\n".chain(endless)));
        assert!(reader.next_memory().expect("the first line").is_some());
        let error = reader.next_memory().expect_err("no end");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.message().starts_with("line 2 has more than 8388608 bytes"), "{error}");
        assert!(reader.lines.capacity() <= 2 * LINE_LEN_MAX);
    }

    #[test]
    fn hostile_lines_end_early() {
        let tags = format!("{{\"text\":\"a\",\"tags\":[{}\"t\"]}}", "\"t\",".repeat(1_000_000));
        assert!(message(tags.as_bytes()).contains("more than 4096"));
        let metadata = format!("{{\"text\":\"a\",\"metadata\":{{\"x\":[{}0]}}}}", "0,".repeat(1_000_000));
        assert!(message(metadata.as_bytes()).contains("65536 bytes"));
        let deep = format!("{{\"text\":\"a\",\"x\":{}", "[".repeat(1_000_000));
        assert!(message(deep.as_bytes()).contains("EOF"));
        let deep = format!("{{\"text\":\"a\",\"metadata\":{}", "{\"a\":".repeat(1_000_000));
        assert!(message(deep.as_bytes()).contains("recursion limit"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = all(&bytes);
        }

        #[test]
        fn no_change_to_a_line_makes_it_panic_or_say_too_much(
            changes in prop::collection::vec((0_usize..400, any::<u8>()), 1..4)
        ) {
            let mut bytes = b"{\"id\":\"a\",\"text\":\"hunter2\",\"time\":\"2023-05-08T13:56:00Z\",\"session\":1,\"tags\":\"hunter2\",\
                \"speaker\":\"hunter2\",\"pos\":2,\"vector\":[1,2.5],\"metadata\":{\"hunter2\":{\"hunter2\":1}}}\n".repeat(2);
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            if let Err(error) = all(&bytes) {
                prop_assert!(!said(&error).contains(SECRET), "{}", error);
            }
        }
    }
}
