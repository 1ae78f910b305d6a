//! Auto-memory: what of a conversation is worth keeping, its kind, its tags, its importance.
//!
//! An exchange is cleaned of what was injected into it, its secrets are masked, its sentences are judged by a small
//! logistic model over phrases and style, and those that matter are stored as one memory with the features that decided.
//! Deterministic, without a language model. The model is trained by `cargo run --example train_capture` on
//! `benches/capture_data/train.tsv`, and measured by `cargo bench --bench capture`.

mod capturer;
mod clean;
mod cues;
mod decisions;
mod exchange;
mod features;
mod judge;
mod near;
mod phrases;
mod read;
mod sentences;
mod tags;
mod weights;

pub use capturer::{CaptureOptions, Captured, CapturedAs, Capturer};
pub use cues::Kind;
pub use decisions::{Decisions, Verdict};
pub use exchange::{Exchange, Role, Trust, Turn};
pub use judge::{Reason, Sentence};
pub use read::{ConversationReader, Position};

/// From which score on a sentence is kept, unless the configuration or the user's decisions say otherwise.
pub const THRESHOLD_DEFAULT: f64 = 0.5;
/// The tag of everything that was captured.
pub const CAPTURED_TAG: &str = "captured";

/// Features of a text's sentences, for the training of the model.
#[doc(hidden)]
pub mod training {
    use super::features::{NAMES, measure};
    use super::sentences::sentences;

    /// Names of the features.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        NAMES.to_vec()
    }

    /// The features of each sentence.
    #[must_use]
    pub fn features(text: &str, is_agent: bool) -> Vec<Vec<f32>> {
        sentences(text).into_iter().map(|sentence| measure(sentence, is_agent).values.to_vec()).collect()
    }

    /// The score that the model gives a text, and the kind.
    #[must_use]
    pub fn score(text: &str, is_agent: bool) -> (f64, Option<super::Kind>) {
        let judged = super::judge::judge(text, is_agent, super::THRESHOLD_DEFAULT);
        (judged.score, judged.best().and_then(|best| best.kind))
    }

    /// The tags that a text is given, without names of its own.
    #[must_use]
    pub fn tags(text: &str) -> Vec<String> {
        super::tags::tags(text, &[], &[])
    }
}
