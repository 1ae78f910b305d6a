//! Readers of text files: without a byte order mark, and with a limit on what may be read for one memory.

use std::cell::Cell;
use std::io::{self, Cursor, Read};

use crate::error::{Error, ErrorKind, Result};

/// How much is read at once.
const READ_LEN: usize = 64 << 10;
const UTF8_BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The reader behind a UTF-8 byte order mark, if there is one.
pub(super) fn without_bom<R: Read>(mut reader: R) -> Result<io::Chain<Cursor<Vec<u8>>, R>> {
    let mut start = Vec::with_capacity(UTF8_BOM.len());
    reader
        .by_ref()
        .take(UTF8_BOM.len() as u64)
        .read_to_end(&mut start)
        .map_err(|error| read_error(&error))?;
    check_encoding(&start)?;
    if start == UTF8_BOM {
        start.clear();
    }
    Ok(Cursor::new(start).chain(reader))
}

/// The bytes behind a UTF-8 byte order mark, if there is one.
pub(super) fn strip_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&UTF8_BOM).unwrap_or(bytes)
}

/// Windows programs like to write UTF-16; its mark is recognised, so that the error can say what to do.
pub(super) fn check_encoding(start: &[u8]) -> Result<()> {
    if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
        return Err(Error::new(ErrorKind::Invalid, "the file is UTF-16 text")
            .hint("convert it to UTF-8, then try again"));
    }
    Ok(())
}

/// A failure to read the input, whose path only the caller knows.
pub(super) fn read_error(error: &io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("reading the input: {error}"))
}

/// What is known about a metered reader while somebody else owns it.
#[derive(Debug)]
pub(super) struct Meter {
    left: Cell<u64>,
    line: Cell<u64>,
    exhausted: Cell<bool>,
}

impl Meter {
    pub(super) fn new(limit: u64) -> Self {
        Self { left: Cell::new(limit), line: Cell::new(1), exhausted: Cell::new(false) }
    }

    /// Lets so many bytes through from here.
    pub(super) fn allow(&self, bytes: u64) {
        self.left.set(bytes);
    }

    /// The line of the next byte, counted from 1.
    pub(super) fn line(&self) -> u64 {
        self.line.get()
    }

    /// Whether reading ended because the limit was reached.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted.get()
    }
}

/// A reader that stops with an error when its meter is empty. Without it, one endless string would be collected
/// in memory before anybody could look at its length.
///
/// It has its own buffer, because its user takes one byte at a time.
pub(super) struct Metered<'a, R> {
    inner: R,
    meter: &'a Meter,
    buffer: Vec<u8>,
    /// How much of the buffer was given out.
    used: usize,
}

impl<'a, R: Read> Metered<'a, R> {
    pub(super) fn new(inner: R, meter: &'a Meter) -> Self {
        Self { inner, meter, buffer: Vec::with_capacity(READ_LEN), used: 0 }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.used = 0;
        self.inner.by_ref().take(READ_LEN as u64).read_to_end(&mut self.buffer)?;
        Ok(())
    }
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.buffer.len() {
            self.fill()?;
        }
        let left = self.meter.left.get();
        if left == 0 && !out.is_empty() && !self.buffer.is_empty() {
            self.meter.exhausted.set(true);
            return Err(io::Error::other("the limit of one memory is reached"));
        }
        let ready = &self.buffer[self.used..];
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(out.len()).min(ready.len());
        let mut newlines = 0;
        for (to, from) in out.iter_mut().zip(&ready[..len]) {
            *to = *from;
            newlines += u64::from(*from == b'\n');
        }
        self.used += len;
        self.meter.left.set(left - len as u64);
        self.meter.line.set(self.meter.line.get() + newlines);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        without_bom(bytes).expect("a mark that is understood").read_to_end(&mut all).expect("memory");
        all
    }

    #[test]
    fn only_a_byte_order_mark_is_taken_away() {
        assert_eq!(read_all(b"\xef\xbb\xbf[]"), b"[]");
        assert_eq!(read_all(b"\xef\xbb\xbf\xef\xbb\xbf[]"), b"\xef\xbb\xbf[]");
        for kept in [&b""[..], b"[", b"[]", b"[1]", b"\xef\xbb", b"[1,2]\n"] {
            assert_eq!(read_all(kept), kept);
        }
    }

    #[test]
    fn utf_16_is_named() {
        for start in [&b"\xff\xfe[\0"[..], b"\xfe\xff\0[", b"\xff\xfe"] {
            assert!(without_bom(start).err().is_some_and(|error| error.message().contains("UTF-16")));
        }
    }

    #[test]
    fn the_meter_stops_the_reader_and_counts_lines() {
        let meter = Meter::new(4);
        let mut reader = Metered::new(&b"a\nb\nc\n"[..], &meter);
        let mut all = Vec::new();
        assert!(reader.read_to_end(&mut all).is_err());
        assert_eq!((all.as_slice(), meter.line(), meter.is_exhausted()), (&b"a\nb\n"[..], 3, true));
        meter.allow(10);
        assert!(reader.read_to_end(&mut all).is_ok());
        assert_eq!(meter.line(), 4);
    }
}
