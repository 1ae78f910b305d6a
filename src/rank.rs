//! Fusion: from what words, meaning and conversation say of each memory, to one order.
//!
//! Pure: evidence in, ranks out. In hybrid and text mode a memory's sum is made in these steps; the weights were
//! measured on LoCoMo and REALTALK (20,000 turns of conversations, 2,700 questions), where the optimum is flat:
//!
//! 1. Words: BM25 divided by the best BM25. Meaning: 0 for the farthest memory given, 1 for the nearest. Meaning has
//!    0.6 of the sum unless the question says otherwise: vectors weigh 1.5 times as much as words (weights from 1 to 2
//!    differ little; reciprocal ranks with k = 60 did 2 to 7 points of recall@10 worse than any of them). A memory without a vector has 0, so that words alone can lift it; a kind of evidence that is
//!    missing for all memories adds nothing. Their sum is divided by the best one.
//! 2. The turns before and after it in its conversation give [`NEIGHBOUR_WEIGHT`] of their sums, and the result is
//!    divided by the best one.
//! 3. What the question names adds to it: [`SPEAKER_BOOST`] and [`WHEN_BOOST`].
//! 4. Importance and age move it a little: [`IMPORTANCE_WEIGHT`] and [`RECENCY_WEIGHT`].
//!
//! The score is the sum, divided by the best one, times the [confidence](confidence) that the best one answers at all.
//! In vector mode the score is the bare cosine.

use std::cmp::Ordering;

use crate::format::op::MemoryKey;
use crate::memory::{Explain, Mode};

/// What of its sum a turn gives to the turns before and after it.
const NEIGHBOUR_WEIGHT: f32 = 0.2;
/// For what was said by somebody whom the question names, unless it names all who spoke.
const SPEAKER_BOOST: f32 = 0.2;
/// For a text that names a time, when the question asks for one ...
const WHEN_BOOST: f32 = 0.15;
/// ... and the text answers it so well already.
const WHEN_FLOOR: f32 = 0.3;
/// Between the importance of 1 and the default of 0.5, and between that and 0, lies half of this. Not measured: no data
/// has importances; small enough to decide only between memories that are about as good.
const IMPORTANCE_WEIGHT: f32 = 0.05;
/// What a memory of now has before one from long ago. Not measured either.
const RECENCY_WEIGHT: f32 = 0.05;

/// So many of the best memories say how sure the answer is.
const CONFIDENCE_TOPK: usize = 10;

/// What is known of one memory that may answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Evidence {
    pub(crate) key: MemoryKey,
    /// BM25, where it shares a word with the question.
    pub(crate) bm25: Option<f32>,
    /// Cosine to the question, where it has a vector.
    pub(crate) cosine: Option<f32>,
    /// Where in the list the turns before and after it are.
    pub(crate) around: [Option<u32>; 2],
    /// Whether the question names who said it.
    pub(crate) is_named: bool,
    /// Whether it names a time.
    pub(crate) names_time: bool,
    /// 0 to 1.
    pub(crate) importance: f32,
    /// Unix seconds.
    pub(crate) time: i64,
    /// Whether it may be returned. Others are here because their neighbours need them, or to say how far the rest is.
    pub(crate) is_in_scope: bool,
}

/// What of the question counts, beside the evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Asked {
    pub(crate) mode: Mode,
    /// Whether it asks for a time.
    pub(crate) when: bool,
    /// What meaning has of the sum against words, 0 to 1.
    pub(crate) meaning_share: f32,
    /// BM25 of a text that would hold nothing but the question's words.
    pub(crate) ceiling: f32,
    /// Unix seconds.
    pub(crate) now: i64,
    /// After so many seconds what a memory has for being new is half; `None` when age does not count.
    pub(crate) half_life: Option<f32>,
}

/// A memory and its place in the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ranked {
    pub(crate) key: MemoryKey,
    /// 0 to 1 in hybrid and text mode, the cosine in vector mode.
    pub(crate) score: f64,
    /// What the score is made of.
    pub(crate) explain: Explain,
}

/// The best `topk` memories by the evidence that the mode asks for: best first, of equally good ones the newest.
pub(crate) fn rank(asked: &Asked, evidence: &[Evidence], topk: usize) -> Vec<Ranked> {
    let ranked = evidence.iter().map(|one| Ranked {
        key: one.key,
        score: 0.0,
        explain: Explain {
            bm25: one.bm25,
            coverage: one.bm25.map(|bm25| bm25 / asked.ceiling),
            cosine: one.cosine,
            ..Explain::default()
        },
    });
    let mut ranked: Vec<Ranked> = ranked.collect();
    if asked.mode == Mode::Vector {
        for one in &mut ranked {
            one.explain.vector = one.explain.cosine.unwrap_or(f32::NEG_INFINITY);
            one.score = one.explain.vector.into();
        }
        return best(evidence, ranked, topk);
    }
    weigh(asked, &mut ranked);
    smooth(evidence, &mut ranked);
    boost(asked, evidence, &mut ranked);
    let mut best = best(evidence, ranked, topk.max(CONFIDENCE_TOPK));
    scale(&mut best);
    best.truncate(topk);
    best
}

/// Says what words and meaning add.
fn weigh(asked: &Asked, ranked: &mut [Ranked]) {
    let (_, bm25_max) = range(ranked.iter().filter_map(|one| one.explain.bm25));
    let (cosine_min, cosine_max) = range(ranked.iter().filter_map(|one| one.explain.cosine));
    for Ranked { explain, .. } in ranked.iter_mut() {
        let share = if asked.mode == Mode::Text { 0.0 } else { asked.meaning_share };
        explain.text = explain.bm25.map_or(0.0, |bm25| (1.0 - share) * scaled(bm25, 0.0, bm25_max));
        explain.vector = explain.cosine.map_or(0.0, |cosine| share * scaled(cosine, cosine_min, cosine_max));
    }
    divide_by_best(ranked);
}

/// Says what the turns before and after it add.
fn smooth(evidence: &[Evidence], ranked: &mut [Ranked]) {
    let sums: Vec<f32> = ranked.iter().map(|one| one.explain.sum()).collect();
    for (one, Ranked { explain, .. }) in evidence.iter().zip(ranked.iter_mut()) {
        let around = one.around.iter().flatten();
        let sum: f32 = around.filter_map(|at| sums.get(*at as usize)).sum();
        explain.neighbours = NEIGHBOUR_WEIGHT * sum;
    }
    divide_by_best(ranked);
}

/// Says what the question's names, its asking for a time, importance and age add.
fn boost(asked: &Asked, evidence: &[Evidence], ranked: &mut [Ranked]) {
    for (one, Ranked { score, explain, .. }) in evidence.iter().zip(ranked.iter_mut()) {
        let sum = explain.sum();
        if one.is_named {
            explain.speaker = SPEAKER_BOOST;
        }
        if asked.when && one.names_time && sum > WHEN_FLOOR {
            explain.when = WHEN_BOOST;
        }
        explain.importance = IMPORTANCE_WEIGHT * (one.importance - 0.5);
        if let Some(half_life) = asked.half_life {
            let age = asked.now.saturating_sub(one.time).max(0) as f32;
            explain.recency = RECENCY_WEIGHT * (-age / half_life).exp2();
        }
        *score = explain.sum().into();
    }
}

/// How sure it is that the answer holds what was asked for, 0 to 1.
///
/// A logistic regression over the highest cosine and the highest coverage among the best ten. It was fitted to the 997
/// questions of LoCoMo's first half, each asked of its own conversation (what counts is whether a turn that holds the
/// answer is among the first five) and of the four others (which cannot know), with the same weight. Left out of the
/// fit, a conversation's own answers are told from foreign ones with an area under the curve of 0.98, by words alone of
/// 0.96, by meaning alone of 0.95.
fn confidence(best: &[Ranked]) -> f32 {
    let best = &best[..best.len().min(CONFIDENCE_TOPK)];
    let highest = |value: fn(&Explain) -> Option<f32>| {
        let values = best.iter().filter_map(|one| value(&one.explain));
        values.max_by(f32::total_cmp)
    };
    let logit = match (highest(|explain| explain.cosine), highest(|explain| explain.coverage)) {
        (Some(cosine), Some(coverage)) => -5.71 + 7.86 * cosine + 4.85 * coverage,
        (None, Some(coverage)) => -3.18 + 7.88 * coverage,
        (Some(cosine), None) => -6.04 + 12.12 * cosine,
        (None, None) => return 0.0,
    };
    1.0 / (1.0 + (-logit).exp())
}

/// Divides all parts by the largest sum.
fn divide_by_best(ranked: &mut [Ranked]) {
    let (_, best) = range(ranked.iter().map(|one| one.explain.sum()));
    if best > 0.0 {
        ranked.iter_mut().for_each(|one| one.explain.scale(1.0 / best));
    }
}

/// Makes the score of the first one, which is the best, the confidence.
fn scale(ranked: &mut [Ranked]) {
    let confidence = confidence(ranked);
    let best = ranked.first().map_or(0.0, |first| first.score);
    for Ranked { score, explain, .. } in ranked {
        // The worst may have lost what little they had to a low importance.
        let unit = if best > 0.0 { f64::from(confidence) / best } else { 0.0 };
        *score = (*score * unit).max(0.0);
        explain.scale(unit as f32);
    }
}

/// The smallest and the largest score.
fn range(scores: impl Iterator<Item = f32>) -> (f32, f32) {
    scores.fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), score| (min.min(score), max.max(score)))
}

/// Where a score lies between two others, 0 to 1; 1 when they are the same.
fn scaled(score: f32, min: f32, max: f32) -> f32 {
    if max > min { (score - min) / (max - min) } else { 1.0 }
}

/// The best of those in scope, in order.
fn best(evidence: &[Evidence], ranked: Vec<Ranked>, topk: usize) -> Vec<Ranked> {
    // Of what nothing is known, because time ran out, nothing can be said.
    let is_known = |one: &Evidence| one.bm25.is_some() || one.cosine.is_some();
    let in_scope = evidence.iter().zip(ranked).filter(|(one, _)| one.is_in_scope && is_known(one));
    let mut ranked: Vec<Ranked> = in_scope.map(|(_, ranked)| ranked).collect();
    if topk < ranked.len() {
        if topk > 0 {
            ranked.select_nth_unstable_by(topk - 1, best_first);
        }
        ranked.truncate(topk);
    }
    ranked.sort_unstable_by(best_first);
    ranked
}

fn best_first(a: &Ranked, b: &Ranked) -> Ordering {
    b.score.total_cmp(&a.score).then(b.key.cmp(&a.key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn one(key: u64, bm25: Option<f32>, cosine: Option<f32>) -> Evidence {
        Evidence {
            key: MemoryKey(key),
            bm25,
            cosine,
            around: [None; 2],
            is_named: false,
            names_time: false,
            importance: 0.5,
            time: 0,
            is_in_scope: true,
        }
    }

    fn asked(mode: Mode) -> Asked {
        Asked { mode, meaning_share: 0.6, ceiling: 8.0, ..Asked::default() }
    }

    fn order(ranked: &[Ranked]) -> Vec<u64> {
        ranked.iter().map(|one| one.key.0).collect()
    }

    /// Scores, divided by the best one.
    fn shares(ranked: &[Ranked]) -> Vec<f64> {
        ranked.iter().map(|one| (one.score / ranked[0].score * 1e4).round() / 1e4).collect()
    }

    #[test]
    fn words_and_meaning_are_scaled_weighted_and_added() {
        let evidence = [one(1, Some(4.0), Some(0.4)), one(2, Some(2.0), Some(0.8)), one(3, None, Some(0.2))];
        let found = rank(&asked(Mode::Hybrid), &evidence, 10);
        // Sums: 2 has 0.5 + 1.5, 1 has 1.0 + 0.5, 3 has nothing.
        assert_eq!(order(&found), [2, 1, 3]);
        assert_eq!(shares(&found), [1.0, 0.75, 0.0]);
        let explain = found[0].explain;
        assert_eq!((explain.bm25, explain.coverage, explain.cosine), (Some(2.0), Some(0.25), Some(0.8)));
        assert!((explain.text * 3.0 - explain.vector).abs() < 1e-6, "{explain:?}");
        assert_eq!(found[2].explain.bm25, None);
    }

    #[test]
    fn a_turn_between_two_good_ones_is_lifted() {
        let mut evidence = [
            one(1, Some(4.0), None),
            one(2, Some(1.0), None),
            one(3, Some(4.0), None),
            one(4, Some(1.2), None),
        ];
        evidence[1].around = [Some(0), Some(2)];
        let found = rank(&asked(Mode::Text), &evidence, 10);
        assert_eq!(order(&found), [3, 1, 2, 4]);
        assert!(found[2].explain.neighbours > 0.0);
        assert_eq!(found[3].explain.neighbours, 0.0);
    }

    #[test]
    fn what_the_question_names_lifts() {
        let mut evidence = [one(1, Some(4.0), None), one(2, Some(3.9), None), one(3, Some(1.0), None)];
        evidence[1].is_named = true;
        assert_eq!(order(&rank(&asked(Mode::Text), &evidence, 10)), [2, 1, 3]);
        evidence[1].is_named = false;
        evidence[1].names_time = true;
        evidence[2].names_time = true;
        assert_eq!(order(&rank(&asked(Mode::Text), &evidence, 10)), [1, 2, 3]);
        let when = Asked { when: true, ..asked(Mode::Text) };
        let found = rank(&when, &evidence, 10);
        assert_eq!(order(&found), [2, 1, 3]);
        assert_eq!(found[2].explain.when, 0.0, "it answers too badly for its time to count");
    }

    #[test]
    fn importance_and_age_decide_between_equals_only() {
        let mut evidence = [one(1, Some(4.0), None), one(2, Some(4.0), None), one(3, Some(3.7), None)];
        evidence[0].importance = 0.9;
        evidence[2].importance = 1.0;
        assert_eq!(order(&rank(&asked(Mode::Text), &evidence, 10)), [1, 2, 3]);
        evidence.iter_mut().for_each(|one| one.importance = 0.5);
        evidence[0].time = 1_000_000;
        let aged = Asked { now: 1_000_000, half_life: Some(1000.0), ..asked(Mode::Text) };
        let found = rank(&aged, &evidence, 10);
        assert_eq!(order(&found), [1, 2, 3]);
        assert_eq!(found[1].explain.recency, 0.0);
        assert_eq!(
            order(&rank(&asked(Mode::Text), &evidence, 10)),
            [2, 1, 3],
            "without a half-life age is nothing"
        );
    }

    #[test]
    fn memories_out_of_scope_help_others_and_are_not_returned() {
        let mut evidence = [one(1, Some(4.0), None), one(2, Some(1.0), None)];
        evidence[0].is_in_scope = false;
        evidence[1].around = [Some(0), None];
        let found = rank(&asked(Mode::Text), &evidence, 10);
        assert_eq!(order(&found), [2]);
        assert!(found[0].explain.neighbours > found[0].explain.text / 2.0);
    }

    #[test]
    fn the_best_score_says_how_sure_the_answer_is() {
        let score = |cosine, coverage: f32| {
            rank(&asked(Mode::Hybrid), &[one(1, Some(8.0 * coverage), Some(cosine))], 5)[0].score
        };
        assert!(score(0.9, 0.9) > 0.98);
        assert!(score(0.1, 0.1) < 0.02);
        assert!(score(0.5, 0.5) > score(0.5, 0.3) && score(0.5, 0.5) > score(0.3, 0.5));
    }

    #[test]
    fn in_vector_mode_the_score_is_the_cosine() {
        let found = rank(&asked(Mode::Vector), &[one(1, None, Some(-0.5)), one(2, None, Some(0.25))], 10);
        assert_eq!(order(&found), [2, 1]);
        assert_eq!(found[1].score, -0.5);
    }

    #[test]
    fn nothing_to_rank_ranks_nothing() {
        for mode in [Mode::Hybrid, Mode::Text, Mode::Vector] {
            assert!(rank(&asked(mode), &[], 5).is_empty());
            assert!(rank(&asked(mode), &[one(1, None, Some(0.5))], 0).is_empty());
        }
        assert!(rank(&asked(Mode::Hybrid), &[one(1, None, None)], 5).is_empty());
    }

    fn evidence() -> impl Strategy<Value = Evidence> {
        let score = || prop::option::of(0.01f32..5.0);
        (0..1000u64, score(), score(), any::<[bool; 2]>(), 0.0f32..=1.0, prop::option::of(0..20u32)).prop_map(
            |(key, bm25, cosine, [is_named, names_time], importance, before)| Evidence {
                around: [before, None],
                is_named,
                names_time,
                importance,
                ..one(key, bm25, cosine.map(|cosine| cosine / 5.0))
            },
        )
    }

    proptest! {
        #[test]
        fn scores_are_0_to_1_fall_and_are_the_sum_of_their_parts(
            evidence in prop::collection::vec(evidence(), 0..30),
            topk in 0..40usize,
            when in any::<bool>(),
        ) {
            let asked = Asked { when, half_life: Some(5.0), ..asked(Mode::Hybrid) };
            let found = rank(&asked, &evidence, topk);
            let known = evidence.iter().filter(|one| one.bm25.is_some() || one.cosine.is_some());
            let known: BTreeSet<u64> = known.map(|one| one.key.0).collect();
            prop_assert!(found.is_sorted_by(|a, b| a.score >= b.score));
            for one in &found {
                prop_assert!((0.0..=1.0).contains(&one.score), "{}", one.score);
                let sum = f64::from(one.explain.sum());
                prop_assert!((sum.max(0.0) - one.score).abs() < 1e-4, "{} is not {}", sum, one.score);
            }
            let all: BTreeSet<u64> = rank(&asked, &evidence, 40).iter().map(|one| one.key.0).collect();
            prop_assert_eq!(all, known);
        }
    }
}
