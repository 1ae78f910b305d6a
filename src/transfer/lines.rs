//! Lines of a file, each with a limit on its length.

use std::io::{BufRead, Read};

use serde::de::DeserializeSeed;
use serde_json::{Map, Value};

use super::input::{check_encoding, read_error, strip_bom};
use super::placed;
use super::shape::syntax_problem;
use crate::error::{Error, ErrorKind, Result};

/// Longest line, in bytes.
pub const LINE_LEN_MAX: usize = 8 << 20;

/// Gives lines without their ends. A UTF-8 byte order mark goes; empty lines are skipped.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    line: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, line: 0, buffer: Vec::new() }
    }

    /// The number of the line that was read last, counted from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Bytes of the line that was read last.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// The next line that is not empty; None at the end.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] above [`LINE_LEN_MAX`], [`ErrorKind::Io`]; they name the line.
    pub(super) fn next_line(&mut self) -> Result<Option<&[u8]>> {
        while self.read_line()? {
            let start = if self.line == 1 { self.buffer.len() - strip_bom(&self.buffer).len() } else { 0 };
            if !self.buffer[start..].trim_ascii().is_empty() {
                return Ok(Some(&self.buffer[start..]));
            }
        }
        Ok(None)
    }

    /// Reads the next line without its end into the buffer; says whether there is one.
    fn read_line(&mut self) -> Result<bool> {
        self.buffer.clear();
        self.line += 1;
        // Without a limit on what is read, a line without an end would fill the memory.
        let read = self
            .input
            .by_ref()
            .take(LINE_LEN_MAX as u64 + 1)
            .read_until(b'\n', &mut self.buffer)
            .map_err(|error| placed(read_error(&error), &format!("line {}", self.line)))?;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        }
        if self.buffer.len() > LINE_LEN_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("line {} has more than {LINE_LEN_MAX} bytes", self.line),
            )
            .hint("write one memory a line"));
        }
        Ok(read > 0)
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}

/// The next line as an object, with its number.
///
/// # Errors
/// Those of [`Lines::next_line`], and [`ErrorKind::Invalid`] for what is no object; they name the line.
pub(super) fn next_object<R: BufRead>(lines: &mut Lines<R>) -> Result<Option<(u64, Map<String, Value>)>> {
    let Some(bytes) = lines.next_line()? else { return Ok(None) };
    let parsed = check_encoding(bytes).and_then(|()| parse(bytes));
    let line = lines.line();
    parsed.map(|object| Some((line, object))).map_err(|error| placed(error, &format!("line {line}")))
}

fn parse(bytes: &[u8]) -> Result<Map<String, Value>> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = std::marker::PhantomData::<Value>.deserialize(&mut json);
    let value = value.and_then(|value| json.end().map(|()| value));
    match value {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::new(ErrorKind::Invalid, "this is no object")),
        Err(error) => Err(placed(syntax_problem(&error), &format!("column {}", error.column()))),
    }
}
