//! Words: which memories share words with a query, and how much that says.
//!
//! [`TextIndex`] is an inverted index in memory with exact BM25. It is derived from the memories' texts and
//! knows nothing of disks. The stemmer is `frostem`: generated from the Snowball project's own definitions
//! and following them, no `unsafe`, no dependencies, one language compiled in (`rust-stemmers` last followed
//! them in 2020 and panics on some Greek words, `waken_snowball` and `snowball_stemmers_rs` compile in every
//! language).

mod stop;
mod terms;

use std::collections::HashMap;

use crate::error::Result;
use crate::format::op::MemoryKey;
use crate::scope::{Deadline, Scope};
pub(crate) use terms::each_term;

/// How soon repeats of a word in a text stop to count. BM25's `k1`, from Robertson and Zaragoza, "The
/// Probabilistic Relevance Framework: BM25 and Beyond" (2009), section 3.2, where 1.2 to 2 is called a good
/// range.
const TERM_SATURATION: f32 = 1.2;
/// How much longer texts are held against, 0 to 1. BM25's `b`, ibid.; 0.4 is what conversations did best
/// with.
const LENGTH_NORMALIZATION: f32 = 0.4;

/// Removed texts are swept out when there are this many and ...
const SWEEP_MIN: usize = 1024;
/// ... they are more than one in this many.
const SWEEP_SHARE: usize = 4;

/// The words of the memories' texts.
///
/// Each text has a slot, in the order of insertion. A removed text leaves its slot and its postings behind,
/// marked, until enough of them are swept out at once. Statistics are always those of the texts that are
/// there.
#[derive(Default)]
pub(crate) struct TextIndex {
    /// Each term and its place in `postings`.
    terms: HashMap<Box<str>, u32>,
    /// For each term the texts that hold it, in the order of slots.
    postings: Vec<Vec<Posting>>,
    texts: Vec<Text>,
    /// The slot of each text that is there.
    slots: HashMap<MemoryKey, u32>,
    /// Terms of all texts that are there.
    live_len: u64,
}

#[derive(Clone, Copy)]
struct Posting {
    slot: u32,
    /// How often the text holds the term.
    count: u32,
}

#[derive(Clone, Copy)]
struct Text {
    key: MemoryKey,
    /// How many terms it has.
    len: u32,
    live: bool,
}

impl TextIndex {
    /// An index of nothing.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// How many texts there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Adds the text of a memory, in the place of its former text if there is one.
    pub(crate) fn insert(&mut self, key: MemoryKey, text: &str) {
        self.remove(key);
        let slot = u32::try_from(self.texts.len()).expect("memory ends before 2^32 texts do");
        let mut found = Vec::new();
        each_term(text, |term| found.push(number(&mut self.terms, term.text)));
        let len = u32::try_from(found.len()).expect("a text is at most 1 MiB");
        found.sort_unstable();
        for run in found.chunk_by(|a, b| a == b) {
            let term = run[0] as usize;
            if term >= self.postings.len() {
                self.postings.resize_with(term + 1, Vec::new);
            }
            self.postings[term].push(Posting { slot, count: run.len() as u32 });
        }
        self.texts.push(Text { key, len, live: true });
        self.slots.insert(key, slot);
        self.live_len += u64::from(len);
    }

    /// Takes the text of a memory out; says whether there was one.
    pub(crate) fn remove(&mut self, key: MemoryKey) -> bool {
        let Some(slot) = self.slots.remove(&key) else { return false };
        let text = &mut self.texts[slot as usize];
        text.live = false;
        self.live_len -= u64::from(text.len);
        let removed = self.texts.len() - self.slots.len();
        if removed >= SWEEP_MIN && removed * SWEEP_SHARE > self.texts.len() {
            self.sweep();
        }
        true
    }

    /// Every memory in scope that shares a word with the query, with its BM25, which is above 0. In no useful
    /// order: [`crate::rank`] orders.
    ///
    /// Stop words of the query count only when it has no other words, and a repeated word counts once.
    /// Statistics are those of all texts, so a score does not depend on the scope.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Timeout`] when the deadline passes.
    pub(crate) fn search(
        &self,
        query: &str,
        scope: &Scope,
        deadline: Deadline,
    ) -> Result<Vec<(MemoryKey, f32)>> {
        let terms = self.query_terms(query);
        let mut scores = vec![0.0; self.texts.len()];
        for (done, term) in terms.iter().enumerate() {
            deadline.check(format_args!("text search: {done} of {} words", terms.len()))?;
            self.add_scores(&self.postings[*term as usize], &mut scores);
        }
        Ok(match scope {
            Scope::All => {
                let hits = self.texts.iter().zip(scores).filter(|(_, score)| *score > 0.0);
                hits.map(|(text, score)| (text.key, score)).collect()
            }
            Scope::Keys(keys) => {
                let score = |key| Some((key, scores[*self.slots.get(&key)? as usize]));
                keys.iter().filter_map(|key| score(*key)).filter(|(_, score)| *score > 0.0).collect()
            }
        })
    }

    /// The numbers of the known terms that rank, each once.
    fn query_terms(&self, query: &str) -> Vec<u32> {
        let mut content = Vec::new();
        let mut stop = Vec::new();
        let mut any_content = false;
        each_term(query, |term| {
            any_content |= !term.stop;
            if let Some(number) = self.terms.get(term.text) {
                if term.stop { stop.push(*number) } else { content.push(*number) }
            }
        });
        let mut terms = if any_content { content } else { stop };
        terms.sort_unstable();
        terms.dedup();
        terms
    }

    /// Adds what one term says, to every text that holds it.
    ///
    /// The formula is BM25 as in Robertson and Zaragoza (2009), equation 3.15, with 1 added inside the
    /// logarithm so that a word that most texts hold still counts a little instead of against them.
    fn add_scores(&self, postings: &[Posting], scores: &mut [f32]) {
        let live = |posting: &&Posting| self.texts[posting.slot as usize].live;
        let total = self.slots.len() as f64;
        let holders = match self.texts.len() - self.slots.len() {
            0 => postings.len(),
            _ => postings.iter().filter(live).count(),
        } as f64;
        let rarity = (1.0 + (total - holders + 0.5) / (holders + 0.5)).ln() as f32;
        let average_len = (self.live_len as f64 / total) as f32;
        for posting in postings.iter().filter(live) {
            let count = posting.count as f32;
            let relative_len = self.texts[posting.slot as usize].len as f32 / average_len;
            let fullness = 1.0 - LENGTH_NORMALIZATION + LENGTH_NORMALIZATION * relative_len;
            scores[posting.slot as usize] +=
                rarity * count * (TERM_SATURATION + 1.0) / (count + TERM_SATURATION * fullness);
        }
    }

    /// Drops the slots and postings of removed texts. The terms stay, as they are likely to come back.
    fn sweep(&mut self) {
        let mut moved = Vec::with_capacity(self.texts.len());
        let mut next = 0;
        for text in &self.texts {
            moved.push(text.live.then_some(next));
            next += u32::from(text.live);
        }
        for postings in &mut self.postings {
            postings.retain_mut(|posting| match moved[posting.slot as usize] {
                Some(slot) => {
                    posting.slot = slot;
                    true
                }
                None => false,
            });
            postings.shrink_to(postings.len() * 2);
        }
        self.texts.retain(|text| text.live);
        for (slot, text) in self.texts.iter().enumerate() {
            self.slots.insert(text.key, slot as u32);
        }
    }
}

/// The number of a term, a new one if it was not known.
fn number(terms: &mut HashMap<Box<str>, u32>, term: &str) -> u32 {
    if let Some(number) = terms.get(term) {
        return *number;
    }
    let number = u32::try_from(terms.len()).expect("memory ends before 2^32 terms do");
    terms.insert(term.into(), number);
    number
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    /// BM25 by the book: every statistic counted anew from the texts.
    fn textbook(texts: &BTreeMap<MemoryKey, String>, query: &str) -> BTreeMap<MemoryKey, f64> {
        let split = |text: &str| {
            let mut terms = Vec::new();
            each_term(text, |term| terms.push((term.text.to_owned(), term.stop)));
            terms
        };
        let mut words: BTreeSet<(String, bool)> = split(query).into_iter().collect();
        if words.iter().any(|(_, stop)| !stop) {
            words.retain(|(_, stop)| !stop);
        }
        let texts: BTreeMap<_, Vec<String>> = texts
            .iter()
            .map(|(key, text)| (*key, split(text).into_iter().map(|(term, _)| term).collect()))
            .collect();
        let total = texts.len() as f64;
        let average = texts.values().map(Vec::len).sum::<usize>() as f64 / total;
        let mut scores = BTreeMap::new();
        for (key, terms) in &texts {
            let mut score = 0.0;
            for (word, _) in &words {
                let holders = texts.values().filter(|terms| terms.contains(word)).count() as f64;
                let count = terms.iter().filter(|term| *term == word).count() as f64;
                let idf = ((total - holders + 0.5) / (holders + 0.5) + 1.0).ln();
                score += idf * count * 2.2 / (count + 1.2 * (0.6 + 0.4 * terms.len() as f64 / average));
            }
            if score > 0.0 {
                scores.insert(*key, score);
            }
        }
        scores
    }

    fn found(index: &TextIndex, query: &str, scope: &Scope) -> BTreeMap<MemoryKey, f32> {
        let hits = index.search(query, scope, Deadline::NEVER).expect("no deadline");
        let count = hits.len();
        let hits: BTreeMap<_, _> = hits.into_iter().collect();
        assert_eq!(hits.len(), count, "a memory was found twice");
        hits
    }

    fn index_of(texts: &BTreeMap<MemoryKey, String>) -> TextIndex {
        let mut index = TextIndex::new();
        for (key, text) in texts {
            index.insert(*key, text);
        }
        index
    }

    fn words() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "rust",
            "log",
            "sync",
            "the",
            "of",
            "tea",
            "open_store",
            "漢字",
            "rusty",
        ]);
        prop::collection::vec(word, 0..12).prop_map(|words| words.join(" "))
    }

    #[derive(Clone, Debug)]
    enum Change {
        Insert(MemoryKey, String),
        Remove(MemoryKey),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let key = (0..20u64).prop_map(MemoryKey);
        let change = prop_oneof![
            2 => (key.clone(), words()).prop_map(|(key, text)| Change::Insert(key, text)),
            1 => key.prop_map(Change::Remove),
        ];
        prop::collection::vec(change, 0..60)
    }

    proptest! {
        #[test]
        fn scores_are_those_of_the_textbook_after_any_changes(
            changes in changes(),
            query in words(),
            sweep in any::<bool>(),
        ) {
            let mut index = TextIndex::new();
            let mut texts = BTreeMap::new();
            for change in changes {
                match change {
                    Change::Insert(key, text) => {
                        index.insert(key, &text);
                        texts.insert(key, text);
                    }
                    Change::Remove(key) => {
                        prop_assert_eq!(index.remove(key), texts.remove(&key).is_some());
                    }
                }
            }
            if sweep {
                index.sweep();
            }
            prop_assert_eq!(index.len(), texts.len());
            let found = found(&index, &query, &Scope::All);
            let expected = textbook(&texts, &query);
            prop_assert!(found.keys().eq(expected.keys()), "{:?} is not {:?}", found, expected);
            for (key, score) in &found {
                let expected = expected[key];
                let error = (f64::from(*score) - expected).abs();
                prop_assert!(error <= 1e-5 * expected, "{} is not {}", score, expected);
            }
        }

        #[test]
        fn a_scope_leaves_out_and_changes_nothing_else(
            texts in prop::collection::btree_map((0..50u64).prop_map(MemoryKey), words(), 0..30),
            inside in prop::collection::vec((0..60u64).prop_map(MemoryKey), 0..30),
            query in words(),
        ) {
            let index = index_of(&texts);
            let scope = Scope::of(inside);
            let mut expected = found(&index, &query, &Scope::All);
            expected.retain(|key, _| scope.contains(*key));
            prop_assert_eq!(found(&index, &query, &scope), expected);
        }

        #[test]
        fn no_text_and_no_query_breaks_it(text in ".{0,40}", query in ".{0,40}") {
            let mut index = TextIndex::new();
            index.insert(MemoryKey(1), &text);
            let hits = found(&index, &query, &Scope::All);
            prop_assert!(hits.values().all(|score| score.is_finite()));
        }
    }

    #[test]
    fn many_removals_are_swept_out_and_change_no_score() {
        let text =
            |at: u64| format!("memory {at} about {} and tea", ["rust", "logs", "syncs"][(at % 3) as usize]);
        let mut index = TextIndex::new();
        for at in 0..4000 {
            index.insert(MemoryKey(at), &text(at));
        }
        for at in (0..4000).filter(|at| at % 4 != 1) {
            assert!(index.remove(MemoryKey(at)));
        }
        assert!(index.texts.len() < 2500, "{} slots for {} texts", index.texts.len(), index.len());
        let left =
            index_of(&(0..4000).filter(|at| at % 4 == 1).map(|at| (MemoryKey(at), text(at))).collect());
        for query in ["rust", "tea", "memory 17", "log"] {
            assert_eq!(found(&index, query, &Scope::All), found(&left, query, &Scope::All));
        }
    }

    #[test]
    fn rare_words_count_more_than_common_ones() {
        let texts = ["tea and rust", "tea and logs", "tea and syncs", "coffee"];
        let index = index_of(&(1..).map(MemoryKey).zip(texts.map(str::to_owned)).collect());
        let hits = found(&index, "rust tea", &Scope::All);
        assert_eq!(hits.len(), 3);
        assert!(hits[&MemoryKey(1)] > 2.0 * hits[&MemoryKey(2)]);
    }

    #[test]
    fn a_query_of_stop_words_only_still_finds() {
        let texts = ["to be or not to be", "rust"];
        let index = index_of(&(1..).map(MemoryKey).zip(texts.map(str::to_owned)).collect());
        assert!(found(&index, "To be, or what?", &Scope::All).keys().eq(&[MemoryKey(1)]));
        assert!(found(&index, "to be rust", &Scope::All).keys().eq(&[MemoryKey(2)]));
        assert!(found(&index, "to be unknown", &Scope::All).is_empty(), "stop words rank beside a word");
    }

    #[test]
    fn inflected_words_and_parts_of_identifiers_are_found() {
        let texts = ["We are painting open_store with MemoryKey", "数据库 rebuilt", "nothing"];
        let index = index_of(&(1..).map(MemoryKey).zip(texts.map(str::to_owned)).collect());
        for (query, key) in [("painted", 1), ("store", 1), ("open_store", 1), ("memory key", 1), ("数据", 2)]
        {
            assert!(found(&index, query, &Scope::All).keys().eq(&[MemoryKey(key)]), "{query}");
        }
    }

    #[test]
    fn strange_queries_find_nothing_and_do_not_break() {
        let index = index_of(&[(MemoryKey(1), "plain words".to_owned())].into());
        for query in ["", "\"", "' OR 1=1 --", "NOT (plainly*", "\0\0\0", "{}[]^~:\\", "-plain"] {
            let expected = usize::from(query.contains("plain"));
            assert_eq!(found(&index, query, &Scope::All).len(), expected, "{query:?}");
        }
        assert_eq!(found(&index, &"plain ".repeat(200_000)[..1 << 20], &Scope::All).len(), 1);
    }

    #[test]
    fn nothing_is_found_in_an_empty_index() {
        assert!(found(&TextIndex::new(), "anything", &Scope::All).is_empty());
        assert!(!TextIndex::new().remove(MemoryKey(1)));
    }

    #[test]
    fn a_search_out_of_time_says_so() {
        let index = index_of(&[(MemoryKey(1), "plain words".to_owned())].into());
        let deadline = Deadline::after(Some(Duration::ZERO));
        let error = index.search("plain words", &Scope::All, deadline).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.message().ends_with("text search: 0 of 2 words"), "{error}");
    }
}
