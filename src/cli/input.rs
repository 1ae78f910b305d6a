//! Texts that come from the arguments or from standard input.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use super::output::Output;
use crate::{Error, ErrorKind, Result, TEXT_LEN_MAX};

/// What errors call standard input.
pub(crate) const STDIN_NAME: &str = "standard input";

/// The words joined by blanks; a single `-` is all of standard input.
///
/// One line end at the end of standard input goes, because every tool writes one that nobody meant; the rest stays
/// as it is.
///
/// # Errors
/// [`ErrorKind::TooLarge`] over [`TEXT_LEN_MAX`] bytes, [`ErrorKind::Invalid`] when standard input is not UTF-8.
pub(crate) fn text(words: &[String], out: &Output) -> Result<String> {
    if words != ["-"] {
        return Ok(words.join(" "));
    }
    read_text(stdin(out))
}

/// Standard input; a person at the terminal is told that it is read.
fn stdin(out: &Output) -> io::StdinLock<'static> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        out.note("reading from the terminal, end with Ctrl-D");
    }
    stdin.lock()
}

/// Copies all of standard input to a file, since it cannot be read twice.
pub(crate) fn spool_stdin(to: &mut File, out: &Output) -> Result<()> {
    spool(&mut stdin(out), Path::new(STDIN_NAME), to)
}

/// Copies all of an input that has no beginning to go back to.
pub(crate) fn spool(from: &mut dyn Read, name: &Path, to: &mut File) -> Result<()> {
    io::copy(from, to).map(drop).map_err(|error| Error::io("read", name, error))
}

fn read_text(reader: impl Read) -> Result<String> {
    let name = Path::new(STDIN_NAME);
    let mut bytes = Vec::new();
    // Two more bytes for the line end.
    let most = TEXT_LEN_MAX as u64 + 2;
    reader.take(most + 1).read_to_end(&mut bytes).map_err(|error| Error::io("read", name, error))?;
    if bytes.len() as u64 > most {
        return Err(Error::new(ErrorKind::TooLarge, format!("it has more than {TEXT_LEN_MAX} bytes"))
            .at(name)
            .hint("split it into several memories"));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to() as u64;
        Error::new(ErrorKind::Invalid, "this is not UTF-8 text").at(name).at_offset(at)
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_joined_by_blanks() {
        let words = ["a", "b  c", "-"].map(String::from);
        assert_eq!(text(&words, &Output::pipe()).expect("words"), "a b  c -");
    }

    #[test]
    fn one_line_end_goes_and_everything_else_stays() {
        for (input, expected) in [("a\n", "a"), ("a\r\n", "a"), (" a\n\n", " a\n"), ("a\r", "a\r"), ("", "")]
        {
            assert_eq!(read_text(input.as_bytes()).expect("text"), expected);
        }
    }

    #[test]
    fn too_much_and_bad_text_are_refused() {
        let error = read_text(io::repeat(b'x')).expect_err("endless");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        let error = read_text(&b"ab\xff"[..]).expect_err("not UTF-8");
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Invalid, Some(2)));
        let longest = "x".repeat(TEXT_LEN_MAX) + "\r\n";
        assert_eq!(read_text(longest.as_bytes()).expect("just fits").len(), TEXT_LEN_MAX);
    }
}
