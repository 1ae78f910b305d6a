//! How the program ends: which error has which exit code, and how it is told.

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind as Usage;
use serde::Serialize;

use super::output::Output;
use crate::{Error, ErrorKind};

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be done.
    Error(Error),
    /// It was done and answered; what was asked about is damaged.
    Damaged,
    /// It was done and answered; how it went is told by this exit code.
    Ended(u8),
    /// Nobody reads the answer any more, such as `head` after its last line.
    PipeClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// The same failure of an answer, with what is safe although the answer could not be written.
    pub(crate) fn although(self, safe: &str) -> Self {
        match self {
            Self::Error(error) => {
                let hint =
                    error.hint_text().map_or_else(|| safe.to_owned(), |hint| format!("{hint}; {safe}"));
                Self::Error(error.hint(hint))
            }
            failure => failure,
        }
    }
}

/// Exit code of wrong usage.
const USAGE: u8 = 2;

/// The exit code of an error, as the top-level help documents it.
pub(crate) fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound => 1,
        ErrorKind::Invalid | ErrorKind::TooLarge | ErrorKind::Conflict => USAGE,
        ErrorKind::Permission
        | ErrorKind::Corrupt
        | ErrorKind::UnknownFormat
        | ErrorKind::ForeignStore
        | ErrorKind::Gone
        | ErrorKind::Model => 3,
        ErrorKind::Busy | ErrorKind::OwnerUnresponsive | ErrorKind::VersionSkew | ErrorKind::Timeout => 4,
        ErrorKind::Io
        | ErrorKind::NoSpace
        | ErrorKind::CommitUnknown
        | ErrorKind::Poisoned
        | ErrorKind::ForkedHandle => 5,
        ErrorKind::Config => 6,
        ErrorKind::Refused | ErrorKind::ReadOnly => 7,
    }
}

/// Tells on standard error why a command failed, and returns its exit code.
pub(crate) fn report(failure: &Failure, out: &Output) -> ExitCode {
    match failure {
        Failure::Error(error) => {
            let message = error.to_string();
            out.error(error.kind().name(), &message, error.hint_text());
            ExitCode::from(code(error.kind()))
        }
        Failure::Damaged => ExitCode::from(1),
        Failure::Ended(code) => ExitCode::from(*code),
        Failure::PipeClosed => ExitCode::SUCCESS,
    }
}

/// Tells what clap has to say: a help text, the version, or a usage error.
pub(crate) fn usage(error: &clap::Error, json: bool) -> ExitCode {
    let answer = matches!(error.kind(), Usage::DisplayHelp | Usage::DisplayVersion);
    if json && !answer {
        let _ = writeln!(std::io::stderr(), "{}", usage_json(error));
    } else {
        // It goes to standard output or standard error as clap knows. Nothing can be done when that is closed.
        let _ = error.print();
    }
    if answer { ExitCode::SUCCESS } else { ExitCode::from(USAGE) }
}

fn usage_json(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    // Clap's text is `error: message`, then tips and the usage, each after an empty line.
    let mut parts = rendered.trim().splitn(2, "\n\n");
    let message = parts.next().unwrap_or_default().trim_start_matches("error: ");
    let hint = parts.next().map(str::trim).filter(|hint| !hint.is_empty());
    error_json("usage", message, hint)
}

/// The JSON form of an error, on one line.
pub(crate) fn error_json(kind: &str, message: &str, hint: Option<&str>) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        kind: &'a str,
        message: &'a str,
        hint: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Envelope<'a> {
        error: Body<'a>,
    }
    serde_json::to_string(&Envelope { error: Body { kind, message, hint } })
        .expect("three strings are always JSON")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::Cli;
    use super::*;

    #[test]
    fn every_kind_has_its_documented_code() {
        for (kind, expected) in [
            (ErrorKind::NotFound, 1),
            (ErrorKind::Invalid, 2),
            (ErrorKind::TooLarge, 2),
            (ErrorKind::Conflict, 2),
            (ErrorKind::Permission, 3),
            (ErrorKind::Corrupt, 3),
            (ErrorKind::UnknownFormat, 3),
            (ErrorKind::ForeignStore, 3),
            (ErrorKind::Gone, 3),
            (ErrorKind::Model, 3),
            (ErrorKind::Busy, 4),
            (ErrorKind::Timeout, 4),
            (ErrorKind::Io, 5),
            (ErrorKind::NoSpace, 5),
            (ErrorKind::CommitUnknown, 5),
            (ErrorKind::Poisoned, 5),
            (ErrorKind::Config, 6),
            (ErrorKind::Refused, 7),
            (ErrorKind::ReadOnly, 7),
        ] {
            assert_eq!(code(kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn errors_have_the_documented_json() {
        assert_eq!(
            error_json("invalid", "a \"bad\" one", Some("try")),
            r#"{"error":{"kind":"invalid","message":"a \"bad\" one","hint":"try"}}"#
        );
        assert_eq!(error_json("io", "gone", None), r#"{"error":{"kind":"io","message":"gone","hint":null}}"#);
    }

    #[test]
    fn usage_errors_have_json_with_the_tip_as_hint() {
        let error =
            Cli::try_parse_from(["memento-kv", "remember", "--json", "--shrug"]).expect_err("unknown");
        let json: serde_json::Value = serde_json::from_str(&usage_json(&error)).expect("JSON");
        assert_eq!(json["error"]["kind"], "usage");
        assert_eq!(json["error"]["message"], "unexpected argument '--shrug' found");
        assert!(json["error"]["hint"].as_str().is_some_and(|hint| hint.contains("-- --shrug")), "{json}");
    }
}
