//! What a run found and did.

use std::fmt::Write;

use serde::Serialize;

use super::disk::Space;
use crate::check::Finding;
use crate::store::Healed;
use crate::time;

/// So many files are named in the line of a run.
const FILES_MAX: usize = 3;

/// How the home is, after a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// All is well.
    #[default]
    Ok,
    /// Nothing is remembered here yet.
    Nothing,
    /// Another run is at work in this home; this one did nothing.
    Running,
    /// Something was damaged or gone, and everything in it came back.
    Healed,
    /// A file could not be read or written, or the disk is full.
    Failed,
    /// Another process has the store and does not let this one look; the files were looked at.
    Busy,
    /// Something is damaged and was not mended.
    Damaged,
    /// Something was damaged or gone; what no file held any more is lost and named.
    Lost,
    /// What is to be done has to be decided by a person.
    Decision,
}

impl Status {
    /// The stable snake_case name that `--json` prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Nothing => "nothing",
            Self::Running => "running",
            Self::Healed => "healed",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::Damaged => "damaged",
            Self::Lost => "lost",
            Self::Decision => "decision",
        }
    }

    /// Whether nothing is wrong any more.
    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::Ok | Self::Nothing | Self::Running | Self::Healed)
    }

    /// How grave it is: the gravest of what a run meets is what it says.
    fn weight(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Nothing => 1,
            Self::Running => 2,
            Self::Healed => 3,
            Self::Failed => 4,
            Self::Busy => 5,
            Self::Damaged => 6,
            Self::Lost => 7,
            Self::Decision => 8,
        }
    }
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// There was nothing to do.
    Ok,
    /// It was done.
    Done,
    /// It would be done, but this run changes nothing.
    Would,
    /// It is turned off, or cannot be done now.
    Skipped,
    /// It found something that is wrong, or is about to be.
    Warning,
    /// It did not work.
    Failed,
}

impl Outcome {
    /// The stable snake_case name that `--json` prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Done => "done",
            Self::Would => "would",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// `check`, `mend`, `restore`, `spool`, `embed`, `snapshot`, `backup`, `backups`, `index`, `logs`, `disk`, `clock`,
    /// `metrics`, `note`.
    pub step: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// More, for a person.
    pub detail: String,
    /// Milliseconds that it took.
    pub took_ms: u64,
}

/// What is lost for good, as far as anybody can know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lost {
    /// Sequences whose records no file held any more: first and last of each run.
    pub seqs: Vec<(u64, u64)>,
    /// What was stored after this time may be lost, RFC 3339.
    pub after: Option<String>,
    /// What was stored after this time is not.
    pub until: Option<String>,
}

impl Lost {
    pub(super) fn is_nothing(&self) -> bool {
        self.seqs.is_empty() && self.until.is_none()
    }

    /// How many records; `None` when nobody can know.
    #[must_use]
    pub fn records(&self) -> Option<u64> {
        (!self.seqs.is_empty()).then(|| {
            self.seqs.iter().map(|(first, last)| last.saturating_sub(*first).saturating_add(1)).sum()
        })
    }

    /// For a person.
    pub(super) fn sentence(&self) -> String {
        let mut text = String::new();
        if let Some(records) = self.records() {
            let runs: Vec<String> =
                self.seqs.iter().map(|(first, last)| format!("{first} to {last}")).collect();
            let _ =
                write!(text, "{records} acknowledged records are in no file any more: {}", runs.join(", "));
        }
        match (&self.after, &self.until) {
            (Some(after), Some(until)) if text.is_empty() => {
                let _ = write!(
                    text,
                    "what was stored after {after} and until {until} is lost, if there was anything"
                );
            }
            (None, Some(until)) if text.is_empty() => {
                let _ = write!(text, "what was stored before {until} is lost");
            }
            (Some(after), Some(until)) => {
                let _ = write!(text, "; they were stored after {after} and until {until}");
            }
            _ => {}
        }
        text
    }
}

/// A backup, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GoodBackup {
    /// Its file name.
    pub file: String,
    /// When it was made, in Unix milliseconds.
    pub created_ms: i64,
    /// How old it is, in seconds; below 0 when the clock was set back since.
    pub age_seconds: i64,
}

/// What a run found and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// How the home is now.
    pub status: Status,
    /// When the run began, RFC 3339.
    pub time: String,
    /// Whether nothing was changed because only a look was asked for.
    pub dry_run: bool,
    /// How much was checked: `quick`, `deep` or `none`.
    pub check: &'static str,
    /// Sequence of the last record.
    pub seq: Option<u64>,
    /// Memories of the store.
    pub memories: Option<u64>,
    /// Memories that wait for their vectors.
    pub pending: Option<u64>,
    /// Of the ten nearest memories so many are found, as a share, where that was measured.
    pub recall_at_10: Option<f64>,
    /// Everything that was wrong.
    pub findings: Vec<Finding>,
    /// What the store healed by itself.
    pub healed: Vec<Healed>,
    /// What is lost for good.
    pub lost: Lost,
    /// What was done, step by step.
    pub steps: Vec<Step>,
    /// The newest backup that is good.
    pub backup: Option<GoodBackup>,
    /// Space.
    pub space: Space,
    /// What did not work, a line each.
    pub problems: Vec<String>,
    /// The kinds of the errors that were met, as [`ErrorKind::name`](crate::ErrorKind::name) says.
    pub why: Vec<&'static str>,
    /// What a person should do now.
    pub hints: Vec<String>,
    /// Milliseconds of the whole run.
    pub took_ms: u64,
}

impl Report {
    /// What is lost, for a person; `None` when nothing is.
    #[must_use]
    pub fn lost_sentence(&self) -> Option<String> {
        (!self.lost.is_nothing()).then(|| self.lost.sentence())
    }

    /// Makes the status worse, never better.
    pub(super) fn raise(&mut self, status: Status) {
        if status.weight() > self.status.weight() {
            self.status = status;
        }
    }

    pub(super) fn step(
        &mut self,
        step: &'static str,
        outcome: Outcome,
        detail: impl Into<String>,
        took_ms: u64,
    ) {
        self.steps.push(Step { step, outcome, detail: detail.into(), took_ms });
    }

    /// The line of this run in `health.log`, without its time.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = match self.status {
            Status::Ok | Status::Nothing => "health check passed:".to_owned(),
            Status::Healed => "health check passed after healing:".to_owned(),
            Status::Running => "health check left to another run:".to_owned(),
            Status::Failed => "health check failed:".to_owned(),
            Status::Busy => "health check found the store busy:".to_owned(),
            Status::Damaged => "CRITICAL health check found damage:".to_owned(),
            Status::Lost => "CRITICAL health check found a loss:".to_owned(),
            Status::Decision => "CRITICAL health check needs a decision:".to_owned(),
        };
        let mut word = |name: &str, value: String| _ = write!(line, " {name}={value}");
        word("status", self.status.name().to_owned());
        word("check", self.check.to_owned());
        if let Some(seq) = self.seq {
            word("seq", seq.to_string());
        }
        if let Some(memories) = self.memories {
            word("memories", memories.to_string());
        }
        if !self.findings.is_empty() {
            word("findings", self.findings.len().to_string());
            let mut files: Vec<&str> = Vec::new();
            for finding in &self.findings {
                if files.len() < FILES_MAX && !files.contains(&finding.file.as_str()) {
                    files.push(&finding.file);
                }
            }
            word("files", files.join(","));
        }
        if !self.lost.is_nothing() {
            word("lost", self.lost.records().map_or("unknown".to_owned(), |records| records.to_string()));
        }
        for step in &self.steps {
            if !matches!(step.outcome, Outcome::Ok | Outcome::Skipped) && step.step != "check" {
                word(step.step, step.outcome.name().to_owned());
            }
        }
        if !self.why.is_empty() {
            word("why", self.why.join(","));
        }
        if let Some(backup) = &self.backup {
            word("backup_age", format!("{}s", backup.age_seconds));
        }
        if let Some(free) = self.space.free {
            word("free_mb", (free >> 20).to_string());
        }
        word("took_ms", self.took_ms.to_string());
        if !self.lost.is_nothing() {
            let _ = write!(line, "; {}", self.lost.sentence());
        }
        line
    }
}

pub(super) fn rfc_3339(ms: i64) -> String {
    time::format_time(ms.div_euclid(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_found_and_done() {
        let mut report = Report { check: "deep", seq: Some(12), memories: Some(3), ..Report::default() };
        report.step("check", Outcome::Ok, "", 1);
        report.step("backup", Outcome::Done, "made", 2);
        assert_eq!(
            report.line(),
            "health check passed: status=ok check=deep seq=12 memories=3 backup=done took_ms=0"
        );
        report.raise(Status::Lost);
        report.raise(Status::Healed);
        report.lost.seqs = vec![(4, 5), (9, 9)];
        assert_eq!(
            report.line(),
            "CRITICAL health check found a loss: status=lost check=deep seq=12 memories=3 lost=3 backup=done \
             took_ms=0; 3 acknowledged records are in no file any more: 4 to 5, 9 to 9"
        );
    }

    #[test]
    fn a_line_names_each_file_once_and_says_of_what_kind_the_errors_were() {
        let found = |file: &str| Finding {
            file: file.to_owned(),
            offset: None,
            kind: "record".to_owned(),
            detail: String::new(),
            repair: String::new(),
        };
        let mut report = Report { check: "quick", ..Report::default() };
        report.findings = ["a", "b", "a", "c", "d"].map(found).into();
        report.why = vec!["permission", "io"];
        assert_eq!(
            report.line(),
            "health check passed: status=ok check=quick findings=5 files=a,b,c why=permission,io took_ms=0"
        );
    }

    #[test]
    fn a_window_of_loss_is_a_sentence() {
        let (after, until) = (Some("a".to_owned()), Some("b".to_owned()));
        let lost = Lost { seqs: Vec::new(), after, until };
        assert_eq!(lost.sentence(), "what was stored after a and until b is lost, if there was anything");
        assert!(Lost::default().is_nothing() && !lost.is_nothing());
    }
}
