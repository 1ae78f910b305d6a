//! Decides what of a turn is worth keeping: a logistic model over the features of each sentence.

use serde::Serialize;

use super::cues::Kind;
use super::features::{FEATURES, Measured, NAMES, measure};
use super::sentences::sentences;
use super::weights::{BIAS, WEIGHTS};

/// Importance of what is just worth keeping, and how much certainty adds.
const IMPORTANCE_MIN: f64 = 0.60;
const IMPORTANCE_SPAN: f64 = 0.35;
/// What the user asked to keep, and the most that anything gets.
pub(crate) const IMPORTANCE_MAX: f64 = 0.95;
/// The score of what the user asked to keep.
const ASKED_SCORE: f64 = 0.99;
/// Words of a sentence that asks to be remembered and says something.
const ASKED_WORDS_MIN: usize = 4;
/// Most features that an explanation names.
const REASONS_MAX: usize = 8;
/// A sentence beside a chosen one that gives its reason is taken along from this part of the threshold.
const NEIGHBOUR_SHARE: f64 = 0.6;
/// Most sentences of one turn that are kept.
const SENTENCES_MAX: usize = 8;

/// A feature that took part in a decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Reason {
    /// Its name.
    pub feature: &'static str,
    /// What it was, 0 to 1.
    pub value: f32,
    /// Its weight in the model.
    pub weight: f32,
}

/// A sentence with its score.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Sentence {
    /// The sentence.
    pub text: String,
    /// How likely it is worth keeping, 0 to 1.
    pub score: f64,
    /// What kind of thing it says.
    pub kind: Option<Kind>,
    /// Whether it is kept.
    pub kept: bool,
    /// The features that decided, the heaviest first.
    pub reasons: Vec<Reason>,
}

/// A turn, judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Judged {
    pub(crate) sentences: Vec<Sentence>,
    /// The score of its best sentence.
    pub(crate) score: f64,
    /// Whether the user asked to remember it.
    pub(crate) asked: bool,
}

impl Judged {
    /// The best sentence.
    pub(crate) fn best(&self) -> Option<&Sentence> {
        self.sentences.iter().reduce(|best, one| if one.score > best.score { one } else { best })
    }
}

/// Judges what somebody said; sentences from `threshold` on are kept.
pub(crate) fn judge(text: &str, is_agent: bool, threshold: f64) -> Judged {
    let mut judged = Judged::default();
    for text in sentences(text) {
        let measured = measure(text, is_agent);
        let asked = !is_agent
            && measured.asks_to_remember()
            && words_of(text) >= ASKED_WORDS_MIN
            && measured.value("question") == 0.0;
        let score = if asked { ASKED_SCORE } else { score(&measured.values) };
        judged.asked |= asked;
        judged.score = judged.score.max(score);
        judged.sentences.push(Sentence {
            text: text.to_owned(),
            score,
            kind: measured.kind(),
            kept: score >= threshold,
            reasons: reasons(&measured),
        });
    }
    keep_reasons(&mut judged.sentences, threshold);
    judged
}

/// How much a kept turn matters.
pub(crate) fn importance(score: f64, kind: Option<Kind>, asked: bool) -> f64 {
    if asked {
        return IMPORTANCE_MAX;
    }
    let floor = kind.map_or(IMPORTANCE_MIN, Kind::importance_min);
    let importance = (IMPORTANCE_MIN + IMPORTANCE_SPAN * score).max(floor);
    (importance.min(IMPORTANCE_MAX) * 100.0).round() / 100.0
}

/// How likely a sentence with these features is worth keeping.
pub(crate) fn score(values: &[f32; FEATURES]) -> f64 {
    let z: f32 = WEIGHTS.iter().zip(values).map(|(weight, value)| weight * value).sum();
    sigmoid(f64::from(z + BIAS))
}

pub(crate) fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// The inverse of [`sigmoid`], for a share within 0.001 to 0.999.
pub(crate) fn logit(share: f64) -> f64 {
    let share = share.clamp(0.001, 0.999);
    (share / (1.0 - share)).ln()
}

fn reasons(measured: &Measured) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = (0..FEATURES)
        .filter(|at| measured.values[*at] != 0.0)
        .map(|at| Reason { feature: NAMES[at], value: measured.values[at], weight: WEIGHTS[at] })
        .collect();
    let size = |reason: &Reason| (reason.value * reason.weight).abs();
    reasons.sort_by(|a, b| size(b).total_cmp(&size(a)).then(a.feature.cmp(b.feature)));
    reasons.truncate(REASONS_MAX);
    reasons
}

/// Takes along what stands beside a kept sentence and nearly is kept itself; of too many the best stay.
fn keep_reasons(sentences: &mut [Sentence], threshold: f64) {
    let kept: Vec<bool> = sentences.iter().map(|sentence| sentence.kept).collect();
    for at in 0..sentences.len() {
        let beside = (at > 0 && kept[at - 1]) || kept.get(at + 1).copied().unwrap_or(false);
        sentences[at].kept |= beside && sentences[at].score >= threshold * NEIGHBOUR_SHARE;
    }
    let mut scores: Vec<f64> = sentences.iter().filter(|one| one.kept).map(|one| one.score).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    if let Some(least) = scores.get(SENTENCES_MAX - 1).copied() {
        let mut left = SENTENCES_MAX;
        for sentence in sentences {
            sentence.kept &= sentence.score >= least && left > 0;
            left -= usize::from(sentence.kept);
        }
    }
}

fn words_of(text: &str) -> usize {
    text.split_whitespace().count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::THRESHOLD_DEFAULT;

    fn kept(text: &str) -> Vec<String> {
        let judged = judge(text, false, THRESHOLD_DEFAULT);
        judged.sentences.into_iter().filter(|one| one.kept).map(|one| one.text).collect()
    }

    #[test]
    fn what_decides_is_kept_and_what_surrounds_it_is_not() {
        let text = "Hi there! We decided to use redb for the catalog because it needs no C toolchain. Can you update the README?";
        assert_eq!(kept(text), ["We decided to use redb for the catalog because it needs no C toolchain."]);
        assert!(kept("Please improve the process function and print the address.").is_empty());
        assert!(kept("").is_empty());
    }

    #[test]
    fn what_the_user_asks_to_remember_is_kept_with_the_highest_importance() {
        let judged = judge("Remember that the spare key is under the blue pot.", false, 0.9);
        assert!(judged.asked && judged.sentences[0].kept);
        assert!((importance(judged.score, judged.sentences[0].kind, true) - 0.95).abs() < 1e-9);
        assert!(!judge("Do you remember that film?", false, 0.9).asked);
    }

    #[test]
    fn importance_stays_within_its_range() {
        for score in [0.0, 0.3, 0.5, 0.99, 1.0] {
            for kind in Kind::ALL.map(Some).into_iter().chain([None]) {
                let found = importance(score, kind, false);
                assert!((0.6..=0.95).contains(&found), "{found}");
            }
        }
        assert!(importance(0.5, Some(Kind::Decision), false) >= 0.8);
    }

    #[test]
    fn a_decision_is_explained_by_features_and_weights() {
        let judged = judge("Approved RFC-001 for Rust architecture", false, THRESHOLD_DEFAULT);
        let best = judged.best().expect("a sentence");
        assert!(best.kept, "{best:?}");
        assert!(
            best.reasons.iter().any(|reason| reason.feature == "decision" && reason.weight > 0.0),
            "{best:?}"
        );
        let other = judge("Approved RFC-001 for Rust architecture", false, THRESHOLD_DEFAULT);
        assert_eq!(judged, other);
    }

    #[test]
    fn of_very_many_sentences_the_best_are_kept() {
        let text = "We decided to use redb for the catalog. ".repeat(500);
        assert_eq!(kept(&text).len(), SENTENCES_MAX);
    }
}
