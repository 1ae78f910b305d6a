//! Fusion: from what the words and the vectors say, to one order of memories.
//!
//! Pure: scores in, ranks out. In hybrid mode the score is the weighted sum of both kinds of evidence, each
//! scaled to 0..1 over the memories given, and scaled itself so that the best memory has 1:
//!
//! - Words: BM25 divided by the best BM25. A memory that shares no word with the query has 0; it need not be
//!   given.
//! - Vectors: 0 for the farthest memory given, 1 for the nearest. A memory without a vector has 0 too, so that
//!   words alone can lift it. When all are equally near (one memory, or copies of one), all have 1.
//! - A kind of evidence that is missing for all memories adds nothing; the other one ranks alone.
//!
//! In text mode the score is that of the words alone; in vector mode it is the bare cosine. What else may
//! move a memory up belongs between `weigh`, which gives every memory its sum, and `best`, which cuts.

use std::cmp::Ordering;

use crate::format::op::MemoryKey;
use crate::memory::{Explain, Mode};

/// What vectors weigh against words, which weigh 1.
///
/// Measured on 5 conversations of LoCoMo (2,760 turns, 997 questions, authors' names left out of the query's
/// vector), recall@10 of turns: words alone 62.5 %, vectors alone 65.8 %, their sum 69.8 % at weight 1, 71.3
/// % at 1.5 and 73.4 % at 2; reciprocal ranks (k = 60) 67.8 %. With the names left in the vector 1 is better
/// than 1.5, and 2 worse than words alone: hence the middle.
const VECTOR_WEIGHT: f64 = 1.5;

/// A memory and its place in the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ranked {
    pub(crate) key: MemoryKey,
    /// 0 to 1 in hybrid and text mode, the cosine in vector mode.
    pub(crate) score: f64,
    /// What the score is made of.
    pub(crate) explain: Explain,
}

/// The best `topk` memories by the evidence that the mode asks for: best first, of equally good ones the
/// newest.
///
/// `texts` has the BM25 of every memory in scope that shares a word with the query; `cosines` the cosines of the
/// nearest memories in scope, of those in `texts`, and of enough others to say how far the farthest are. Both in
/// any order, each memory once.
pub(crate) fn rank(
    mode: Mode,
    texts: Vec<(MemoryKey, f32)>,
    cosines: Vec<(MemoryKey, f32)>,
    topk: usize,
) -> Vec<Ranked> {
    let (texts, cosines) = match mode {
        Mode::Hybrid => (texts, cosines),
        Mode::Vector => (Vec::new(), cosines),
        Mode::Text => (texts, Vec::new()),
    };
    let mut ranked = merged(texts, cosines);
    weigh(mode, &mut ranked);
    let mut best = best(ranked, topk);
    if mode != Mode::Vector {
        rescale(&mut best);
    }
    best
}

/// One entry for each memory that either side names, by key.
fn merged(mut texts: Vec<(MemoryKey, f32)>, mut cosines: Vec<(MemoryKey, f32)>) -> Vec<Ranked> {
    // Both come nearly in this order, which a stable sort makes use of.
    texts.sort_by_key(|(key, _)| *key);
    cosines.sort_by_key(|(key, _)| *key);
    let mut merged = Vec::with_capacity(texts.len().max(cosines.len()));
    let mut texts = texts.into_iter().peekable();
    let mut cosines = cosines.into_iter().peekable();
    loop {
        let key = match (texts.peek(), cosines.peek()) {
            (None, None) => return merged,
            (Some((key, _)), None) | (None, Some((key, _))) => *key,
            (Some((text, _)), Some((cosine, _))) => *text.min(cosine),
        };
        let bm25 = texts.next_if(|(next, _)| *next == key).map(|(_, score)| score);
        let cosine = cosines.next_if(|(next, _)| *next == key).map(|(_, score)| score);
        let explain = Explain { bm25, cosine, ..Explain::default() };
        merged.push(Ranked { key, score: 0.0, explain });
    }
}

/// Says what each kind of evidence adds to the score, and adds it up.
fn weigh(mode: Mode, ranked: &mut [Ranked]) {
    let (_, bm25_max) = range(ranked.iter().filter_map(|one| one.explain.bm25));
    let (cosine_min, cosine_max) = range(ranked.iter().filter_map(|one| one.explain.cosine));
    for Ranked { score, explain, .. } in ranked {
        let text = explain.bm25.map_or(0.0, |bm25| scaled(bm25, 0.0, bm25_max));
        let vector = explain.cosine.map_or(0.0, |cosine| match mode {
            Mode::Vector => f64::from(cosine),
            Mode::Hybrid | Mode::Text => VECTOR_WEIGHT * scaled(cosine, cosine_min, cosine_max),
        });
        *score = text + vector;
        explain.text = text as f32;
        explain.vector = vector as f32;
    }
}

/// Makes the score of the first one, which is the best, 1.
fn rescale(ranked: &mut [Ranked]) {
    let unit = ranked.first().map_or(0.0, |best| best.score);
    if unit > 0.0 {
        for Ranked { score, explain, .. } in ranked {
            *score /= unit;
            explain.text = (f64::from(explain.text) / unit) as f32;
            explain.vector = (f64::from(explain.vector) / unit) as f32;
        }
    }
}

/// The smallest and the largest score.
fn range(scores: impl Iterator<Item = f32>) -> (f32, f32) {
    scores.fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), score| (min.min(score), max.max(score)))
}

/// Where a score lies between two others, 0 to 1; 1 when they are the same.
fn scaled(score: f32, min: f32, max: f32) -> f64 {
    if max > min { f64::from(score - min) / f64::from(max - min) } else { 1.0 }
}

/// The best of them, in order.
fn best(mut ranked: Vec<Ranked>, topk: usize) -> Vec<Ranked> {
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

    fn keyed(scores: &[(u64, f32)]) -> Vec<(MemoryKey, f32)> {
        scores.iter().map(|(key, score)| (MemoryKey(*key), *score)).collect()
    }

    fn ranked(mode: Mode, texts: &[(u64, f32)], cosines: &[(u64, f32)], topk: usize) -> Vec<Ranked> {
        rank(mode, keyed(texts), keyed(cosines), topk)
    }

    fn order(ranked: &[Ranked]) -> Vec<u64> {
        ranked.iter().map(|one| one.key.0).collect()
    }

    fn scores(ranked: &[Ranked]) -> Vec<f64> {
        ranked.iter().map(|one| (one.score * 1e4).round() / 1e4).collect()
    }

    #[test]
    fn words_and_meaning_are_scaled_weighted_and_added() {
        let found = ranked(Mode::Hybrid, &[(1, 4.0), (2, 2.0)], &[(2, 0.8), (1, 0.4), (3, 0.2)], 10);
        // Sums: 2 has 0.5 + 1.5, 1 has 1.0 + 0.5, 3 has nothing.
        assert_eq!(order(&found), [2, 1, 3]);
        assert_eq!(scores(&found), [1.0, 0.75, 0.0]);
        assert_eq!(found[0].explain.bm25, Some(2.0));
        assert_eq!(found[0].explain.cosine, Some(0.8));
        assert_eq!((found[0].explain.text, found[0].explain.vector), (0.25, 0.75));
        assert_eq!(found[2].explain.bm25, None);
    }

    #[test]
    fn a_memory_without_a_vector_is_ranked_by_its_words() {
        let found = ranked(Mode::Hybrid, &[(9, 4.0)], &[(1, 0.9), (2, 0.5), (3, 0.1)], 10);
        assert_eq!(order(&found), [1, 9, 2, 3]);
        assert_eq!(found[1].explain.cosine, None);
        assert_eq!(found[1].explain.vector, 0.0);
    }

    #[test]
    fn without_any_vectors_the_words_rank_alone() {
        let texts = [(1, 1.0), (2, 4.0)];
        let found = ranked(Mode::Hybrid, &texts, &[], 10);
        assert_eq!((order(&found), scores(&found)), (vec![2, 1], vec![1.0, 0.25]));
        assert_eq!(found, ranked(Mode::Text, &texts, &[], 10));
    }

    #[test]
    fn without_any_word_in_common_the_vectors_rank_alone() {
        let found = ranked(Mode::Hybrid, &[], &[(1, -0.5), (2, 0.5), (3, 0.0)], 10);
        assert_eq!((order(&found), scores(&found)), (vec![2, 3, 1], vec![1.0, 0.5, 0.0]));
    }

    #[test]
    fn a_memory_that_is_alone_has_score_1() {
        for (texts, cosines) in [(&[(1, 0.3)][..], &[][..]), (&[], &[(1, -0.2)]), (&[(1, 0.3)], &[(1, 0.0)])]
        {
            assert_eq!(scores(&ranked(Mode::Hybrid, texts, cosines, 10)), [1.0]);
        }
    }

    #[test]
    fn equally_good_memories_come_newest_first_whatever_the_cut() {
        for (texts, cosines) in
            [(vec![(1, 2.0), (3, 2.0), (2, 2.0)], vec![]), (vec![], vec![(3, 0.1), (1, 0.1), (2, 0.1)])]
        {
            for topk in 0..4 {
                let found = ranked(Mode::Hybrid, &texts, &cosines, topk);
                assert_eq!(order(&found), [3, 2, 1][..topk]);
                assert!(found.iter().all(|one| one.score == 1.0));
            }
        }
    }

    #[test]
    fn vector_mode_is_the_cosine_and_leaves_words_out() {
        let found = ranked(Mode::Vector, &[(1, 9.0), (7, 9.0)], &[(1, -0.5), (2, 0.25)], 10);
        assert_eq!((order(&found), scores(&found)), (vec![2, 1], vec![0.25, -0.5]));
        assert_eq!(
            (found[0].explain.vector, found[0].explain.text, found[0].explain.bm25),
            (0.25, 0.0, None)
        );
    }

    #[test]
    fn text_mode_leaves_vectors_out() {
        let found = ranked(Mode::Text, &[(1, 9.0)], &[(2, 0.9)], 10);
        assert_eq!((order(&found), scores(&found)), (vec![1], vec![1.0]));
        assert_eq!(found[0].explain.cosine, None);
    }

    #[test]
    fn nothing_gives_nothing() {
        for mode in [Mode::Hybrid, Mode::Text, Mode::Vector] {
            assert_eq!(ranked(mode, &[], &[], 10), []);
        }
    }

    fn evidence(score: std::ops::Range<f32>) -> impl Strategy<Value = Vec<(u64, f32)>> {
        prop::collection::btree_map(0..40u64, score, 0..30)
            .prop_map(|scores| scores.into_iter().collect::<Vec<_>>())
            .prop_shuffle()
    }

    proptest! {
        #[test]
        fn ranks_are_ordered_bounded_and_the_first_of_all_ranks(
            texts in evidence(0.1..20.0),
            cosines in evidence(-1.0..1.0),
            topk in 0..50usize,
        ) {
            for mode in [Mode::Hybrid, Mode::Text, Mode::Vector] {
                let all = ranked(mode, &texts, &cosines, usize::MAX);
                let strictly = all.is_sorted_by(|a, b| best_first(a, b).is_lt());
                prop_assert!(strictly, "a repeat or a wrong order: {:?}", all);
                let (text, vector) = (mode != Mode::Vector, mode != Mode::Text);
                let evidence = texts.iter().filter(|_| text).chain(cosines.iter().filter(|_| vector));
                let expected: BTreeSet<u64> = evidence.map(|(key, _)| *key).collect();
                prop_assert_eq!(order(&all).into_iter().collect::<BTreeSet<_>>(), expected);
                for one in &all {
                    let parts = f64::from(one.explain.text) + f64::from(one.explain.vector);
                    prop_assert!((one.score - parts).abs() < 1e-6, "{:?}", one);
                    prop_assert!(mode == Mode::Vector || (0.0..=1.0).contains(&one.score), "{:?}", one);
                }
                prop_assert_eq!(&ranked(mode, &texts, &cosines, topk)[..], &all[..topk.min(all.len())]);
            }
        }

        #[test]
        fn the_order_in_which_evidence_comes_does_not_matter(
            texts in evidence(0.1..20.0),
            cosines in evidence(-1.0..1.0),
        ) {
            let found = ranked(Mode::Hybrid, &texts, &cosines, usize::MAX);
            let sorted = |scores: &[(u64, f32)]| {
                let mut scores = scores.to_vec();
                scores.sort_by_key(|(key, _)| std::cmp::Reverse(*key));
                scores
            };
            prop_assert_eq!(found, ranked(Mode::Hybrid, &sorted(&texts), &sorted(&cosines), usize::MAX));
        }
    }
}
