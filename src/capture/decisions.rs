//! What the user decided about captured memories, and how it moves the threshold.
//!
//! One file in the home, a line for each decision; a torn line counts for nothing. Each memory that was forgotten makes
//! capture a little stricter, each that was kept a little more generous, within bounds. Nothing else is learned from it,
//! so that taking the decisions back brings everything back.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::judge::{logit, sigmoid};
use crate::error::{Error, Result};
use crate::fs::system::OpenOptionsExt;

/// The file in the home.
const FILE_NAME: &str = "capture-decisions.jsonl";
/// What one decision moves, in units of the model.
const STEP: f64 = 0.08;
/// The most that all of them move.
const SHIFT_MAX: f64 = 1.5;

/// What the user thinks of a captured memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// It was worth keeping.
    Keep,
    /// It was not.
    Forget,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Decision {
    id: String,
    verdict: Verdict,
    at: i64,
}

/// The user's decisions in a home.
#[derive(Clone, Debug)]
pub struct Decisions {
    path: PathBuf,
    all: Vec<Decision>,
}

impl Decisions {
    /// The decisions in this home; none when there is no file.
    ///
    /// # Errors
    /// What the disk says.
    pub fn of(home: &Path) -> Result<Self> {
        let path = home.join(FILE_NAME);
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let all = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Self { path, all })
    }

    /// Writes a decision down. About one memory the last one counts.
    ///
    /// # Errors
    /// What the disk says.
    pub fn record(&mut self, id: &str, verdict: Verdict, at: i64) -> Result<()> {
        let decision = Decision { id: id.to_owned(), verdict, at };
        let io = |error| Error::io("write", &self.path, error);
        let mut file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path).map_err(io)?;
        let line = serde_json::to_string(&decision).expect("strings and numbers are always JSON");
        // A line of its own, also behind a torn one.
        file.write_all(format!("\n{line}\n").as_bytes()).map_err(io)?;
        self.all.push(decision);
        Ok(())
    }

    /// Takes all decisions back; says how many there were.
    ///
    /// # Errors
    /// What the disk says.
    pub fn reset(&mut self) -> Result<usize> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &self.path, error));
            }
            _ => {}
        }
        Ok(std::mem::take(&mut self.all).len())
    }

    /// How many memories were kept and how many were forgotten.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let mut last: std::collections::BTreeMap<&str, Verdict> = std::collections::BTreeMap::new();
        for decision in &self.all {
            last.insert(&decision.id, decision.verdict);
        }
        let kept = last.values().filter(|verdict| **verdict == Verdict::Keep).count();
        (kept, last.len() - kept)
    }

    /// The threshold that they make of this one, 0 to 1.
    #[must_use]
    pub fn shifted(&self, threshold: f64) -> f64 {
        let (kept, forgotten) = self.counts();
        if kept == forgotten {
            return threshold;
        }
        let shift = (STEP * (forgotten as f64 - kept as f64)).clamp(-SHIFT_MAX, SHIFT_MAX);
        sigmoid(logit(threshold) + shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_move_the_threshold_within_bounds_and_can_be_taken_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut decisions = Decisions::of(folder.path()).expect("none yet");
        assert!((decisions.shifted(0.5) - 0.5).abs() < 1e-12);
        for id in 0..100 {
            decisions.record(&id.to_string(), Verdict::Forget, 1).expect("written");
        }
        let strict = Decisions::of(folder.path()).expect("read again");
        assert!(strict.shifted(0.5) > 0.8 && strict.shifted(0.5) < 0.83);
        decisions.record("0", Verdict::Keep, 2).expect("written");
        assert_eq!(decisions.counts(), (1, 99));
        assert_eq!(decisions.reset().expect("removed"), 101);
        assert!((Decisions::of(folder.path()).expect("none").shifted(0.5) - 0.5).abs() < 1e-12);
    }
}
