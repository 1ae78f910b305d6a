//! The failure handler: writes down what failed and what was done about it, and tells those who want to know.
//!
//! A health run hands over its [`Failure`]s. Each becomes a line of `logs/failures.log`; then the command of
//! `health.on_failure` runs, and where the user opted in, an issue on GitHub is opened, commented on, or closed again
//! when a later run is healthy. What cannot be sent waits in a file beside the log. Spec: `format-spec/failures.md`.
//!
//! A failure consists of numbers, words of a fixed vocabulary and names of files that the program itself gave. So
//! neither the text of a memory nor a path of the user can get into a log, an alert or an issue.

mod alert;
#[cfg(feature = "github")]
mod github;
mod line;
// Without GitHub there is nobody who takes the steps that the next four know.
#[cfg_attr(not(feature = "github"), allow(dead_code))]
mod options;
#[cfg_attr(not(feature = "github"), allow(dead_code))]
mod report;
#[cfg_attr(not(feature = "github"), allow(dead_code))]
mod send;
#[cfg(feature = "github")]
mod sender;
#[cfg_attr(not(feature = "github"), allow(dead_code))]
mod state;
mod words;

use sha2::{Digest, Sha256};

pub use line::Logged;
pub use options::{Options, TOKEN_VARIABLE, Token};
pub use report::Draft;
pub use words::{Class, Deed, FileKind, Kind, shown_file};

use self::state::Book;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::logs::{self, Log};

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
    /// Whether the command of `health.on_failure` ran and ended well.
    pub alerted: bool,
    /// What was done on GitHub, in order.
    pub sent: Vec<Sent>,
    /// How many reports wait for a later run.
    pub queued: usize,
    /// What did not work. Nothing is lost by it that could still be written down.
    pub problems: Vec<Error>,
}

/// Something that was done on GitHub.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// What.
    pub what: SentWhat,
    /// The number of the issue.
    pub issue: u64,
    /// Its repository, as `owner/name`.
    pub repo: String,
}

/// What was done with an issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SentWhat {
    /// It was opened, or found to be there.
    Opened,
    /// It was opened again.
    Reopened,
    /// It has one more comment.
    Commented,
    /// It was closed.
    Closed,
    /// It is on the project's board.
    OnBoard,
}

impl SentWhat {
    /// The stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Reopened => "reopened",
            Self::Commented => "commented",
            Self::Closed => "closed",
            Self::OnBoard => "on_board",
        }
    }
}

/// Handles what failed, which is everything that is worth telling: an error of the disk that may pass is handed over when
/// it comes again. Writes it into `failures.log`, runs the alert, and tells GitHub where the user opted in. Never fails itself, and never waits longer than a command and GitHub are given, which is two minutes at most.
///
/// Not to be called while a lock of the store is held: a command of the user's runs in it.
pub fn handle(home: &Home, now_ms: i64, failures: &[Failure]) -> Handled {
    handle_with(home, now_ms, failures, &Options::of_process())
}

/// As [`handle`], with a token and time limits of the caller's.
pub fn handle_with(home: &Home, now_ms: i64, failures: &[Failure], options: &Options) -> Handled {
    let mut handled = Handled::default();
    if failures.is_empty() {
        return handled;
    }
    for failure in failures {
        match log(home, now_ms, &line::of_failure(failure)) {
            Ok(()) => handled.logged += 1,
            Err(error) => handled.problems.push(error),
        }
    }
    let book = Book::of(&home.path);
    let is_queued = home.config.github.enabled;
    let state = book.change(|state| {
        state.found(failures, now_ms, is_queued);
        state.clone()
    });
    alert(home, now_ms, failures, state.as_ref().ok(), options, &mut handled);
    match state {
        Ok(_) => send::send(home, &book, now_ms, options, &mut handled),
        // What was told before cannot be written down, so an issue would be opened at every run.
        Err(error) => handled.problems.push(error),
    }
    handled
}

/// Tells that a run found nothing wrong: what is still to be sent is sent, and open issues are closed.
pub fn healthy(home: &Home, now_ms: i64) -> Handled {
    healthy_with(home, now_ms, &Options::of_process())
}

/// As [`healthy`], with a token and time limits of the caller's.
pub fn healthy_with(home: &Home, now_ms: i64, options: &Options) -> Handled {
    let mut handled = Handled::default();
    let book = Book::of(&home.path);
    // The usual run has nothing to tell, and writes nothing.
    match book.read() {
        Ok(state) if state.reports.is_empty() => return handled,
        Ok(_) => {}
        Err(error) => {
            handled.problems.push(error);
            return handled;
        }
    }
    if let Err(error) = book.change(|state| state.healthy(now_ms)) {
        handled.problems.push(error);
        return handled;
    }
    send::send(home, &book, now_ms, options, &mut handled);
    handled
}

/// Sends to GitHub what waits to be sent.
pub fn send(home: &Home, now_ms: i64, options: &Options) -> Handled {
    let mut handled = Handled::default();
    send::send(home, &Book::of(&home.path), now_ms, options, &mut handled);
    handled
}

/// The issues of what is not over or waits to be sent, as they would be sent now. Nothing is sent.
///
/// # Errors
/// What the operating system says about the file that remembers them.
pub fn drafts(home: &Home) -> Result<Vec<Draft>> {
    Ok(send::drafts(home, &Book::of(&home.path).read()?))
}

/// The failures at the end of `failures.log`, the latest first, at most so many.
///
/// # Errors
/// Those of [`logs::tail`].
pub fn list(home: &Home, count_max: usize) -> Result<Vec<Logged>> {
    let text = logs::tail(&home.path, Log::Failures, LIST_LEN_MAX)?;
    Ok(text.lines().rev().filter_map(Logged::parse).take(count_max).collect())
}

/// How much of the log's end is listed, in bytes.
const LIST_LEN_MAX: usize = 4 << 20;

/// Runs the command that the user wants to be told by.
fn alert(
    home: &Home,
    now_ms: i64,
    failures: &[Failure],
    state: Option<&state::State>,
    options: &Options,
    handled: &mut Handled,
) {
    let command = &home.config.health.on_failure;
    if command.is_empty() {
        return;
    }
    let count = |fingerprint: &str| {
        let report = state?.reports.iter().find(|report| report.fingerprint == fingerprint)?;
        Some(report.count)
    };
    let report = serde_json::to_vec(&report::alert(failures, now_ms, count))
        .expect("an alert has text keys only, so it is always JSON");
    match alert::run(command, &home.path, &report, options.alert_timeout) {
        Ok(()) => handled.alerted = true,
        Err(error) => handled.problems.push(error),
    }
}

fn log(home: &Home, now_ms: i64, line: &str) -> Result<()> {
    logs::append(&home.path, Log::Failures, now_ms, line)
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
