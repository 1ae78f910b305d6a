//! How much the words of a question say of each text: BM25 over a weighted field.

use std::cell::RefCell;

use super::stored::Columns;
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
    index: &'a TextIndex,
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
        let mut scores = Scores {
            index: self,
            reader: self.reader(),
            scratch,
            hits: Vec::new(),
            ceiling: 0.0,
            truncated: false,
        };
        let lens = FieldLens { columns: self.columns(), index: self };
        let average_len = self.average_len();
        let mut touched = Vec::new();
        let mut clock = Clock { read: 0, deadline };
        // Without conversations no text has anything of its neighbours', and one pass is enough.
        let has_turns = self.sums.turn_terms > 0;
        for term in &terms {
            if !has_turns {
                scores.truncated = !scores.add_plain(term, average_len, &mut clock);
                if scores.truncated {
                    break;
                }
                continue;
            }
            scores.truncated = !self.weigh(term, &mut scores.scratch.weights, &mut touched, &mut clock);
            let rarity = rarity(self.len() as f32, touched.len() as f32);
            scores.ceiling += rarity * (TERM_SATURATION + 1.0);
            scores.add(&mut touched, rarity, average_len, &lens);
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
                bump(doc, OWN_WEIGHT * count as f32);
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
                bump(base + slot, OWN_WEIGHT * *count as f32);
                bump(text.links[0], *count as f32);
                bump(text.links[1], *count as f32);
            }
        }
        true
    }

    /// Weighted terms of an average text, as if every turn had one before and one after it.
    fn average_len(&self) -> f32 {
        let sums = self.sums;
        (OWN_WEIGHT * sums.terms as f32 + 2.0 * sums.turn_terms as f32) / sums.texts.max(1) as f32
    }
}

/// How long texts are, without asking for the columns each time.
struct FieldLens<'a> {
    columns: Columns<'a>,
    index: &'a TextIndex,
}

impl FieldLens<'_> {
    /// Weighted terms of a text with those around it.
    fn of(&self, doc: u32) -> f32 {
        let stored = self.columns.len() as u32;
        let links = if doc >= stored {
            self.index.live.slots.get((doc - stored) as usize).map_or([NONE; 2], |slot| slot.links)
        } else if self.index.links.is_empty() {
            self.columns.links_of(doc)
        } else {
            self.index.links.get(&doc).copied().unwrap_or_else(|| self.columns.links_of(doc))
        };
        let around: f32 = links.into_iter().filter(|link| *link != NONE).map(|link| self.own(link)).sum();
        OWN_WEIGHT * self.own(doc) + around
    }

    fn own(&self, doc: u32) -> f32 {
        let stored = self.columns.len() as u32;
        let len = if doc >= stored {
            self.index.live.slots.get((doc - stored) as usize).map_or(0, |slot| slot.document.len)
        } else {
            self.columns.terms_of(doc)
        };
        len as f32
    }
}

impl Scores<'_> {
    /// Adds what one term says.
    ///
    /// The formula is BM25 as in Robertson and Zaragoza (2009), equation 3.15, with 1 added inside the
    /// logarithm so that a word that most texts hold still counts a little instead of against them.
    fn add(&mut self, touched: &mut Vec<u32>, rarity: f32, average_len: f32, lens: &FieldLens<'_>) {
        let Scratch { weights, scores } = &mut self.scratch;
        for doc in touched.drain(..) {
            let weight = std::mem::take(&mut weights[doc as usize]);
            let relative_len = lens.of(doc) / average_len;
            let fullness = 1.0 - LENGTH_NORMALIZATION + LENGTH_NORMALIZATION * relative_len;
            let adds = rarity * weight * (TERM_SATURATION + 1.0) / (weight + TERM_SATURATION * fullness);
            // With lengths of a damaged file it may be nothing, or no number.
            if !(adds > 0.0 && adds.is_finite()) {
                continue;
            }
            let score = &mut scores[doc as usize];
            if *score == 0.0 {
                self.hits.push(doc);
            }
            *score += adds;
        }
    }

    /// Adds what one term says where no text is a turn of a conversation; says whether time was enough.
    fn add_plain(&mut self, term: &str, average_len: f32, clock: &mut Clock) -> bool {
        let index = self.index;
        let columns = index.columns();
        let base = columns.len() as u32;
        let at = columns.find(term);
        let live = index.live.postings_of(term);
        let is_live = |slot: &u32| index.live.slots[*slot as usize].is_live;
        let stored_holders = match at {
            None => 0,
            Some(at) if index.gone.is_empty() => columns.entries[at].holders as usize,
            Some(at) => columns.each_posting(at).filter(|(doc, _)| !index.gone.contains(*doc)).count(),
        };
        let holders = stored_holders + live.iter().filter(|(slot, _)| is_live(slot)).count();
        let rarity = rarity(index.len() as f32, holders as f32);
        self.ceiling += rarity * (TERM_SATURATION + 1.0);
        let most = rarity * (TERM_SATURATION + 1.0);
        // The formula of `add`, with what does not depend on the text taken out.
        let fixed = TERM_SATURATION * (1.0 - LENGTH_NORMALIZATION);
        let for_each_term = TERM_SATURATION * LENGTH_NORMALIZATION * OWN_WEIGHT / average_len;
        let (scores, hits) = (&mut self.scratch.scores, &mut self.hits);
        let mut add = |doc: u32, count: u32, len: u32| {
            let weight = OWN_WEIGHT * count as f32;
            let adds = most * weight / (weight + fixed + for_each_term * len as f32);
            if adds > 0.0
                && adds.is_finite()
                && let Some(score) = scores.get_mut(doc as usize)
            {
                if *score == 0.0 {
                    hits.push(doc);
                }
                *score += adds;
            }
        };
        let has_gone = !index.gone.is_empty();
        for (doc, count) in at.into_iter().flat_map(|at| columns.each_posting(at)) {
            if clock.is_over() {
                return false;
            }
            if !has_gone || !index.gone.contains(doc) {
                add(doc, count, columns.terms_of(doc));
            }
        }
        for (slot, count) in live {
            if clock.is_over() {
                return false;
            }
            let text = &index.live.slots[*slot as usize];
            if text.is_live {
                add(base + slot, *count, text.document.len);
            }
        }
        true
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
