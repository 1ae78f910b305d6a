//! Where the program writes: answers to standard output, everything else to standard error.
//!
//! Nothing here fails because a reader has gone: a closed standard output is [`Failure::PipeClosed`], which ends the
//! program quietly, and a closed standard error loses what nobody would have read.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use anstyle::{AnsiColor, Style};
use comfy_table::Table;
use serde::Serialize;

use super::args::Global;
use super::exit::{Failure, error_json};
use super::text;
use crate::Error;

/// Widest table when the terminal is wider, so that lines stay readable.
const WIDTH_MAX: u16 = 140;
/// Width of a table when the terminal does not say.
const WIDTH_DEFAULT: u16 = 100;

/// The two output streams and how to write to them.
#[derive(Debug)]
pub(crate) struct Output {
    /// `--json`.
    pub(crate) json: bool,
    /// `--quiet`.
    pub(crate) quiet: bool,
    /// Whether a person reads standard output.
    pub(crate) terminal: bool,
    /// Whether a person reads standard error.
    pub(crate) err_terminal: bool,
    /// Columns that a table may take.
    pub(crate) width: u16,
    color: bool,
    err_color: bool,
}

impl Output {
    /// The streams of this process.
    pub(crate) fn of_process(global: &Global) -> Self {
        use anstream::{AutoStream, ColorChoice};
        let terminal = io::stdout().is_terminal();
        Self {
            json: global.json,
            quiet: global.quiet,
            terminal,
            err_terminal: io::stderr().is_terminal(),
            width: Table::new().width().unwrap_or(WIDTH_DEFAULT).clamp(40, WIDTH_MAX),
            color: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
            err_color: AutoStream::choice(&io::stderr()) != ColorChoice::Never,
        }
    }

    /// This style where standard output has colour, else none.
    pub(crate) fn style(&self, style: Style) -> Style {
        if self.color { style } else { Style::new() }
    }

    /// The text in this style where standard output has colour.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        let style = self.style(style);
        format!("{style}{text}{style:#}")
    }

    /// Whether tables are coloured.
    pub(crate) fn color(&self) -> bool {
        self.color
    }

    /// The text as it may be shown on standard output: whole in a pipe, without terminal commands on a terminal.
    pub(crate) fn block<'a>(&self, text: &'a str) -> std::borrow::Cow<'a, str> {
        if self.terminal { text::block(text) } else { text.into() }
    }

    /// Writes an answer.
    pub(crate) fn print(&self, answer: &str) -> Result<(), Failure> {
        self.write_with(|out| out.write_all(answer.as_bytes()))
    }

    /// Writes an answer and ends the line.
    pub(crate) fn print_line(&self, answer: &str) -> Result<(), Failure> {
        self.write_with(|out| writeln!(out, "{answer}"))
    }

    /// Writes an answer as JSON: on one line for programs, indented for people.
    pub(crate) fn print_json<T: Serialize + ?Sized>(&self, answer: &T) -> Result<(), Failure> {
        if self.terminal { self.print_indented(answer) } else { self.print_line(&to_json(answer, false)) }
    }

    /// Writes one of many answers as JSON on a line of its own.
    pub(crate) fn print_json_line<T: Serialize + ?Sized>(&self, answer: &T) -> Result<(), Failure> {
        self.print_line(&to_json(answer, false))
    }

    /// Writes an answer as indented JSON.
    pub(crate) fn print_indented<T: Serialize + ?Sized>(&self, answer: &T) -> Result<(), Failure> {
        self.print_line(&to_json(answer, true))
    }

    /// Lets `write` write an answer of any length.
    pub(crate) fn write_with(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout().lock());
        write(&mut out).and_then(|()| out.flush()).map_err(stdout_failure)
    }

    /// Tells what may interest a person.
    pub(crate) fn note(&self, note: &str) {
        if !self.quiet && !self.json {
            self.tell(&text::block(note));
        }
    }

    /// Tells what a person should look at.
    pub(crate) fn warn(&self, warning: &str) {
        if !self.quiet {
            self.tell(&format!("{} {}", self.label(AnsiColor::Yellow, "warning:"), text::block(warning)));
        }
    }

    /// Tells why it could not be done, and what to do.
    pub(crate) fn error(&self, kind: &str, message: &str, hint: Option<&str>) {
        if self.json {
            self.tell(&error_json(kind, message, hint));
            return;
        }
        self.tell(&format!("{} {}", self.label(AnsiColor::Red, "error:"), text::block(message)));
        if let Some(hint) = hint {
            self.tell(&format!("{} {}", self.label(AnsiColor::Cyan, "hint:"), text::block(hint)));
        }
    }

    /// The help text of the whole program.
    pub(crate) fn help(&self, mut command: clap::Command) -> String {
        let help = command.render_help();
        if self.color { help.ansi().to_string() } else { help.to_string() }
    }

    fn label(&self, color: AnsiColor, label: &str) -> String {
        let style = if self.err_color { color.on_default().bold() } else { Style::new() };
        format!("{style}{label}{style:#}")
    }

    fn tell(&self, line: &str) {
        let _ = writeln!(io::stderr(), "{line}");
    }

    /// A pipe, for tests.
    #[cfg(test)]
    pub(crate) fn pipe() -> Self {
        Self {
            json: false,
            quiet: false,
            terminal: false,
            err_terminal: false,
            width: WIDTH_DEFAULT,
            color: false,
            err_color: false,
        }
    }

    /// A terminal without colour, for tests.
    #[cfg(test)]
    pub(crate) fn plain_terminal(width: u16) -> Self {
        Self { terminal: true, err_terminal: true, width, ..Self::pipe() }
    }
}

/// The failure of a write to standard output.
pub(crate) fn stdout_failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::PipeClosed,
        _ => Error::io("write", Path::new("standard output"), error).into(),
    }
}

fn to_json<T: Serialize + ?Sized>(answer: &T, indent: bool) -> String {
    let json = if indent { serde_json::to_string_pretty(answer) } else { serde_json::to_string(answer) };
    json.expect("answers have text keys only, so they are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
        let failure = stdout_failure(io::ErrorKind::BrokenPipe.into());
        assert!(matches!(failure, Failure::PipeClosed));
        let Failure::Error(error) = stdout_failure(io::ErrorKind::StorageFull.into()) else {
            panic!("an error")
        };
        assert_eq!(error.kind(), crate::ErrorKind::NoSpace);
        assert!(error.to_string().starts_with("standard output: "), "{error}");
    }

    #[test]
    fn terminal_commands_are_taken_out_on_a_terminal_only() {
        let text = "a\u{1b}[31mb";
        assert_eq!(Output::pipe().block(text), text);
        assert_eq!(Output::plain_terminal(80).block(text), "a\\u{1b}[31mb");
    }

    #[test]
    fn json_is_indented_by_two_blanks() {
        assert_eq!(to_json(&vec![1], true), "[\n  1\n]");
        assert_eq!(to_json(&Vec::<u8>::new(), true), "[]");
    }
}
