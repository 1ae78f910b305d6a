//! How much the words of a question say of each text: BM25 over a weighted field.

use std::cell::RefCell;

use super::terms::each_term;
use super::{NONE, Reader, TextIndex};
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
const OWN_WEIGHT: f32 = 3.0;
/// Postings that are read between two looks at the clock: about a millisecond. The first of them are read even when
/// time is over, so that there is an answer.
const DEADLINE_POSTINGS: usize = 1 << 16;

/// What the words of a question say of the texts.
pub(crate) struct Scores<'a> {
    reader: Reader<'a>,
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
        let mut scores =
            Scores { reader: self.reader(), scratch, hits: Vec::new(), ceiling: 0.0, truncated: false };
        let average_len = self.average_len();
        let mut clock = Clock { read: 0, deadline };
        // Without conversations no text has anything of its neighbours', and one pass is enough.
        let has_turns = self.sums.turn_terms > 0;
        let mut touched = Vec::new();
        for term in &terms {
            let was_enough = if has_turns {
                let was_enough = scores.weigh(term, &mut touched, &mut clock);
                scores.add(&mut touched, average_len);
                was_enough
            } else {
                scores.add_plain(term, average_len, &mut clock)
            };
            if !was_enough {
                scores.truncated = true;
                break;
            }
        }
        scores
    }

    /// Weighted terms of an average text, as if every turn had one before and one after it.
    fn average_len(&self) -> f32 {
        let sums = self.sums;
        (OWN_WEIGHT * sums.terms as f32 + 2.0 * sums.turn_terms as f32) / sums.texts.max(1) as f32
    }
}

impl Scores<'_> {
    /// Adds up what each text holds of a term, in its own words and those around it; says whether time was enough.
    fn weigh(&mut self, term: &str, touched: &mut Vec<u32>, clock: &mut Clock) -> bool {
        let reader = self.reader;
        let weights = &mut self.scratch.weights;
        let mut bump = |doc: u32, weight: f32| {
            // What is no document is beyond them all.
            let Some(sum) = weights.get_mut(doc as usize) else { return };
            if *sum == 0.0 {
                touched.push(doc);
            }
            *sum += weight;
        };
        for (doc, count) in reader.holders(term) {
            if clock.is_over() {
                return false;
            }
            let [before, after] = reader.links_of(doc);
            bump(doc, OWN_WEIGHT * count as f32);
            bump(before, count as f32);
            bump(after, count as f32);
        }
        true
    }

    /// Adds what one term says, of which [`Self::weigh`] has found out what each text holds.
    ///
    /// The formula is BM25 as in Robertson and Zaragoza (2009), equation 3.15, with 1 added inside the
    /// logarithm so that a word that most texts hold still counts a little instead of against them.
    fn add(&mut self, touched: &mut Vec<u32>, average_len: f32) {
        let most = self.most(touched.len());
        for doc in touched.drain(..) {
            let weight = std::mem::take(&mut self.scratch.weights[doc as usize]);
            let [before, after] = self
                .reader
                .links_of(doc)
                .map(|link| if link == NONE { 0 } else { self.reader.terms_of(link) });
            let len = OWN_WEIGHT * self.reader.terms_of(doc) as f32 + before as f32 + after as f32;
            self.add_one(doc, most * saturated(weight, len / average_len));
        }
    }

    /// As [`Self::weigh`] and [`Self::add`], where no text is a turn of a conversation.
    fn add_plain(&mut self, term: &str, average_len: f32, clock: &mut Clock) -> bool {
        let reader = self.reader;
        let most = self.most(reader.holder_count(term));
        for (doc, count) in reader.holders(term) {
            if clock.is_over() {
                return false;
            }
            let len = OWN_WEIGHT * reader.terms_of(doc) as f32;
            self.add_one(doc, most * saturated(OWN_WEIGHT * count as f32, len / average_len));
        }
        true
    }

    /// The most that a term can say of a text, when so many hold it.
    fn most(&mut self, holders: usize) -> f32 {
        let most = rarity(self.reader.index.len() as f32, holders as f32) * (TERM_SATURATION + 1.0);
        self.ceiling += most;
        most
    }

    fn add_one(&mut self, doc: u32, adds: f32) {
        // With lengths of a damaged file it may be nothing, or no number.
        if adds > 0.0
            && adds.is_finite()
            && let Some(score) = self.scratch.scores.get_mut(doc as usize)
        {
            if *score == 0.0 {
                self.hits.push(doc);
            }
            *score += adds;
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

    /// The `count` best texts in scope, in no order; of equally good ones those that were stored last.
    pub(crate) fn best(&self, count: usize, scope: &Scope) -> Vec<u32> {
        let mut best = Best { count, kept: Vec::new(), least: f32::NEG_INFINITY };
        match scope {
            Scope::All => self.hits.iter().for_each(|doc| best.take(*doc, self.of(*doc))),
            Scope::Keys(keys) if keys.len() < self.hits.len() => {
                let docs = keys.iter().filter_map(|key| self.reader.doc_of(*key));
                docs.filter(|doc| self.of(*doc) > 0.0).for_each(|doc| best.take(doc, self.of(doc)));
            }
            Scope::Keys(_) => {
                let in_scope = self.hits.iter().filter(|doc| scope.contains(self.reader.key_of(**doc)));
                in_scope.for_each(|doc| best.take(*doc, self.of(*doc)));
            }
        }
        best.cut();
        best.kept.into_iter().map(|(_, doc)| doc).collect()
    }
}

/// The best of many, of which most are turned away by one comparison.
struct Best {
    count: usize,
    /// At most twice as many as are wanted.
    kept: Vec<(f32, u32)>,
    /// What scores no better than this is not among the best.
    least: f32,
}

impl Best {
    fn take(&mut self, doc: u32, score: f32) {
        if score < self.least {
            return;
        }
        self.kept.push((score, doc));
        if self.kept.len() >= self.count.saturating_mul(2).max(64) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.kept.len() <= self.count {
            return;
        }
        let better = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1));
        self.kept.select_nth_unstable_by(self.count, better);
        self.least = self.kept[self.count].0;
        self.kept.truncate(self.count);
    }
}

/// How near a text comes to the most that a term can say of it, 0 to 1, with this weight of the term in a field that has
/// so many times the usual length.
fn saturated(weight: f32, relative_len: f32) -> f32 {
    let fullness = 1.0 - LENGTH_NORMALIZATION + LENGTH_NORMALIZATION * relative_len;
    weight / (weight + TERM_SATURATION * fullness)
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
