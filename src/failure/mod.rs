//! The failure handler: writes down what failed and what was done about it, and tells those who want to know.
//!
//! A health run hands over its [`Failure`]s. Each becomes a line of `logs/failures.log`; then the command of
//! `health.on_failure` runs, and where the user opted in, an issue on GitHub is opened, commented on, or closed again
//! when a later run is healthy. What cannot be sent waits in a file beside the log. Spec: `format-spec/failures.md`.
//!
//! A failure consists of numbers, words of a fixed vocabulary and names of files that the program itself gave. So
//! neither the text of a memory nor a path of the user can get into a log, an alert or an issue.

mod line;
mod words;

use sha2::{Digest, Sha256};

pub use line::Logged;
pub use words::{Class, Deed, FileKind, Kind, shown_file};

use crate::error::{Error, Result};
use crate::home::Home;

/// Something that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// What failed; its [`Kind::class`] says how grave it is.
    pub kind: Kind,
    /// When it was found, in Unix milliseconds.
    pub when_ms: i64,
    /// The files that it is about, relative to the home, with `/`.
    pub files: Vec<String>,
    /// The last sequence of the store that is known to be sound.
    pub seq: Option<u64>,
    /// What was done about it, and to how many files or records.
    pub done: Vec<(Deed, u64)>,
    /// What is lost for good.
    pub lost: Option<Lost>,
}

/// What is lost for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// How many records. 0: nobody can know.
    pub records: u64,
    /// The first and the last sequence of the range that they were in.
    pub seqs: Option<(u64, u64)>,
    /// The time that they are from, in Unix milliseconds: after the first, up to the second.
    pub window_ms: Option<(i64, i64)>,
}

impl Failure {
    /// A failure that nothing was done about yet.
    #[must_use]
    pub fn new(kind: Kind, when_ms: i64) -> Self {
        Self { kind, when_ms, files: Vec::new(), seq: None, done: Vec::new(), lost: None }
    }

    /// Adds a file, by its name relative to the home.
    #[must_use]
    pub fn file(mut self, file: impl Into<String>) -> Self {
        self.files.push(file.into());
        self
    }

    /// Sets the last sequence that is known to be sound.
    #[must_use]
    pub fn seq(mut self, seq: u64) -> Self {
        self.seq = Some(seq);
        self
    }

    /// Adds what was done, and to how many files or records.
    #[must_use]
    pub fn done(mut self, deed: Deed, count: u64) -> Self {
        self.done.push((deed, count));
        self
    }

    /// Says what is lost for good.
    #[must_use]
    pub fn lost(mut self, lost: Lost) -> Self {
        self.lost = Some(lost);
        self
    }

    /// How grave it is.
    #[must_use]
    pub fn class(&self) -> Class {
        self.kind.class()
    }

    /// What makes two failures the same one: their class, their kind and the kinds of their files. Never a content, a
    /// name or a time.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut kinds: Vec<&str> = self.files.iter().map(|file| FileKind::of(file).name()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let said = format!("{} {} {}", self.class().name(), self.kind.name(), kinds.join(","));
        Sha256::digest(said).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What became of failures that were handed over.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Handled {
    /// How many lines `failures.log` got.
    pub logged: usize,
    /// What did not work. Nothing is lost by it that could still be written down.
    pub problems: Vec<Error>,
}

/// Handles what failed: never fails itself, and never waits longer than the alert and GitHub are given.
///
/// Not to be called while a lock of the store is held: a command of the user's runs in it.
pub fn handle(home: &Home, now_ms: i64, failures: &[Failure]) -> Handled {
    let mut handled = Handled::default();
    for failure in failures {
        match log(home, now_ms, &line::of_failure(failure)) {
            Ok(()) => handled.logged += 1,
            Err(error) => handled.problems.push(error),
        }
    }
    handled
}

/// Tells that a later run found nothing wrong: what is still to be sent is sent, and open issues are closed.
pub fn healthy(_home: &Home, _now_ms: i64) -> Handled {
    Handled::default()
}

fn log(home: &Home, now_ms: i64, line: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = home.path.join("logs/failures.log");
    let line = format!("[{}] {line}\n", line::rfc_3339(now_ms));
    let mut options = std::fs::OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(|error| Error::io("append to", &path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_kinds_and_not_of_names_and_times() {
        let first = Failure::new(Kind::SegmentDamaged, 1).file("store/seg/0000000001.mseg").seq(5);
        let again = Failure::new(Kind::SegmentDamaged, 2)
            .file("store/seg/0000000002.mseg")
            .file("store/seg/0000000003.mseg");
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(
            first.fingerprint(),
            "5861182eb3ad",
            "stable between versions: it finds the open issue again"
        );
        let other = Failure::new(Kind::SegmentDamaged, 1).file("store/view.redb");
        assert_ne!(first.fingerprint(), other.fingerprint());
        assert_ne!(
            first.fingerprint(),
            Failure::new(Kind::SegmentGone, 1).file("store/seg/1.mseg").fingerprint()
        );
    }
}
