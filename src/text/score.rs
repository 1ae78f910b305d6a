//! How much the words of a question say of each text: BM25 over a weighted field.

use std::cell::RefCell;

use super::terms::each_term;
use super::{NONE, TextIndex};
use crate::memory::Language;
use crate::scope::{Deadline, Scope};

/// How soon repeats of a word in a text stop to count. BM25's `k1`, from Robertson and Zaragoza, "The
/// Probabilistic Relevance Framework: BM25 and Beyond" (2009), section 3.2, where 1.2 to 2 is called a good
/// range.
const TERM_SATURATION: f32 = 1.2;
/// How much longer texts are held against, 0 to 1. BM25's `b`, ibid.; 0.4 is what conversations did best
/// with.
const LENGTH_NORMALIZATION: f32 = 0.4;
/// What a memory's own words and speaker weigh against those of the turns before and after it, which weigh 1. Fields
/// are weighed before repeats saturate, as in BM25F (ibid., section 3.6).
const OWN_WEIGHT: u32 = 3;
/// Postings that are read between two looks at the clock: about a millisecond. The first of them are read even when
/// time is over, so that there is an answer.
const DEADLINE_POSTINGS: usize = 1 << 16;

/// What the words of a question say of the texts.
#[derive(Debug)]
pub(crate) struct Scores<'a> {
    index: &'a TextIndex,
    scratch: Scratch,
    /// Documents that share a word with the question, or whose neighbours do.
    hits: Vec<u32>,
    /// What a text would have that holds nothing but the question's words.
    ceiling: f32,
    truncated: bool,
}

/// Room for one value for each text, all 0 between searches. It is kept by each thread, as making it anew would cost
/// more than most searches.
#[derive(Debug, Default)]
struct Scratch {
    weights: Vec<f32>,
    scores: Vec<f32>,
}

/// Looks at the time now and then.
struct Clock {
    read: usize,
    deadline: Deadline,
}

impl Clock {
    /// Counts one posting.
    fn is_over(&mut self) -> bool {
        self.read += 1;
        self.read.is_multiple_of(DEADLINE_POSTINGS) && self.deadline.is_over()
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Drop for Scores<'_> {
    fn drop(&mut self) {
        for doc in &self.hits {
            self.scratch.scores[*doc as usize] = 0.0;
        }
        let scratch = std::mem::take(&mut self.scratch);
        // A thread that is ending has no room any more.
        let _ = SCRATCH.try_with(|kept| kept.replace(scratch));
    }
}

impl TextIndex {
    /// Scores every text by the words of a question.
    ///
    /// Stop words count only when there are no other words, and a repeated word counts once. Statistics are those of
    /// all texts, so a score does not depend on what is in scope. When time is over, what was not read does not count.
    pub(crate) fn score(&self, question: &str, deadline: Deadline) -> Scores<'_> {
        let terms = query_terms(self.language, question);
        let mut scratch = SCRATCH.try_with(RefCell::take).unwrap_or_default();
        let docs = self.base() as usize + self.live.slots.len();
        if scratch.scores.len() < docs {
            scratch.weights.resize(docs, 0.0);
            scratch.scores.resize(docs, 0.0);
        }
        let mut scores = Scores { index: self, scratch, hits: Vec::new(), ceiling: 0.0, truncated: false };
        let average_len = self.average_len();
        let mut touched = Vec::new();
        let mut clock = Clock { read: 0, deadline };
        for term in &terms {
            scores.truncated = !self.weigh(term, &mut scores.scratch.weights, &mut touched, &mut clock);
            let rarity = rarity(self.len() as f32, touched.len() as f32);
            scores.ceiling += rarity * (TERM_SATURATION + 1.0);
            scores.add(&mut touched, rarity, average_len);
            if scores.truncated {
                break;
            }
        }
        scores
    }

    /// Adds up what each text holds of a term, in its own words and those around it; says whether time was enough.
    fn weigh(&self, term: &str, weights: &mut [f32], touched: &mut Vec<u32>, clock: &mut Clock) -> bool {
        let columns = self.columns();
        let base = columns.len() as u32;
        let mut bump = |doc: u32, weight: f32| {
            if doc == NONE {
                return;
            }
            let Some(sum) = weights.get_mut(doc as usize) else { return };
            if *sum == 0.0 {
                touched.push(doc);
            }
            *sum += weight;
        };
        if let Some(at) = columns.find(term) {
            let has_gone = !self.gone.is_empty();
            for (doc, count) in columns.each_posting(at) {
                if clock.is_over() {
                    return false;
                }
                if has_gone && self.gone.contains(doc) {
                    continue;
                }
                let links = if self.links.is_empty() {
                    columns.links_of(doc)
                } else {
                    self.links.get(&doc).copied().unwrap_or_else(|| columns.links_of(doc))
                };
                bump(doc, (OWN_WEIGHT * count) as f32);
                bump(links[0], count as f32);
                bump(links[1], count as f32);
            }
        }
        for (slot, count) in self.live.postings_of(term) {
            if clock.is_over() {
                return false;
            }
            let text = &self.live.slots[*slot as usize];
            if text.is_live {
                bump(base + slot, (OWN_WEIGHT * count) as f32);
                bump(text.links[0], *count as f32);
                bump(text.links[1], *count as f32);
            }
        }
        true
    }

    /// Weighted terms of an average text, as if every turn had one before and one after it.
    fn average_len(&self) -> f32 {
        let sums = self.sums;
        (u64::from(OWN_WEIGHT) * sums.terms + 2 * sums.turn_terms) as f32 / sums.texts.max(1) as f32
    }

    /// Weighted terms of a text with those around it.
    fn field_len(&self, doc: u32) -> u32 {
        let len = |doc: u32| match self.slot(doc) {
            _ if doc == NONE => 0,
            Some(slot) => slot.document.len,
            None => self.columns().terms_of(doc),
        };
        let [before, after] = self.links_of(doc);
        OWN_WEIGHT.saturating_mul(len(doc)).saturating_add(len(before)).saturating_add(len(after))
    }
}

impl Scores<'_> {
    /// Adds what one term says.
    ///
    /// The formula is BM25 as in Robertson and Zaragoza (2009), equation 3.15, with 1 added inside the
    /// logarithm so that a word that most texts hold still counts a little instead of against them.
    fn add(&mut self, touched: &mut Vec<u32>, rarity: f32, average_len: f32) {
        let Scratch { weights, scores } = &mut self.scratch;
        for doc in touched.drain(..) {
            let weight = std::mem::take(&mut weights[doc as usize]);
            let relative_len = self.index.field_len(doc) as f32 / average_len;
            let fullness = 1.0 - LENGTH_NORMALIZATION + LENGTH_NORMALIZATION * relative_len;
            let score = &mut scores[doc as usize];
            if *score == 0.0 {
                self.hits.push(doc);
            }
            *score += rarity * weight * (TERM_SATURATION + 1.0) / (weight + TERM_SATURATION * fullness);
        }
    }

    /// BM25 of a text, 0 when it shares no word with the question.
    pub(crate) fn of(&self, doc: u32) -> f32 {
        self.scratch.scores.get(doc as usize).copied().unwrap_or(0.0)
    }

    /// What a text would have that held every word of the question often.
    pub(crate) fn ceiling(&self) -> f32 {
        self.ceiling
    }

    /// Whether time ran out: some words did not count.
    pub(crate) fn truncated(&self) -> bool {
        self.truncated
    }

    /// The `count` best texts in scope, in no order.
    pub(crate) fn best(&self, count: usize, scope: &Scope) -> Vec<u32> {
        let mut best: Vec<u32> = match scope {
            Scope::All => self.hits.clone(),
            Scope::Keys(keys) if keys.len() < self.hits.len() => keys
                .iter()
                .filter_map(|key| self.index.doc_of(*key))
                .filter(|doc| self.of(*doc) > 0.0)
                .collect(),
            Scope::Keys(keys) => {
                let in_scope = |doc: &u32| keys.binary_search(&self.index.key_of(*doc)).is_ok();
                self.hits.iter().copied().filter(in_scope).collect()
            }
        };
        if count < best.len() {
            // Of equally good ones the newest.
            let rank = |doc: &u32| (self.of(*doc), self.index.key_of(*doc));
            best.select_nth_unstable_by(count, |a, b| {
                let ((a_score, a_key), (b_score, b_key)) = (rank(a), rank(b));
                b_score.total_cmp(&a_score).then(b_key.cmp(&a_key))
            });
            best.truncate(count);
        }
        best
    }
}

/// How much it says that a text holds a word that so many of all texts hold.
fn rarity(texts: f32, holders: f32) -> f32 {
    (1.0 + (texts - holders + 0.5) / (holders + 0.5)).max(1.0).ln()
}

/// The terms of a question that rank, each once.
fn query_terms(language: Language, question: &str) -> Vec<String> {
    let mut content = Vec::new();
    let mut stop = Vec::new();
    each_term(language, question, |term| {
        if term.stop { &mut stop } else { &mut content }.push(term.text.to_owned())
    });
    let mut terms = if content.is_empty() { stop } else { content };
    terms.sort_unstable();
    terms.dedup();
    terms
}
