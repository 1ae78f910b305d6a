//! The text index against the textbook, in memory and from columns.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::memory::MemoryId;
use crate::parts::note;
use crate::scope::{Deadline, Scope};

/// Columns in memory.
#[derive(Debug)]
struct Buffer {
    merge: Merge,
    entries: Vec<TermEntry>,
    term_bytes: Vec<u8>,
    postings: Vec<u8>,
}

impl Stored for Buffer {
    fn columns(&self) -> Columns<'_> {
        let Self { merge, entries, term_bytes, postings } = self;
        merge.columns(entries, term_bytes, postings)
    }

    fn generation(&self) -> u64 {
        1
    }

    fn verify(&self, _: &dyn Fn() -> bool) -> Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Sink {
    entries: Vec<TermEntry>,
    term_bytes: Vec<u8>,
    postings: Vec<u8>,
}

impl MergeSink for Sink {
    type Error = Infallible;

    fn term(&mut self, entry: TermEntry, text: &[u8], postings: [&[u8]; 2]) -> Result<(), Infallible> {
        self.end(entry)?;
        self.term_bytes.extend_from_slice(text);
        postings.iter().for_each(|part| self.postings.extend_from_slice(part));
        Ok(())
    }

    fn end(&mut self, entry: TermEntry) -> Result<(), Infallible> {
        let place = (entry.text as usize, entry.postings as usize);
        assert_eq!(place, (self.term_bytes.len(), self.postings.len()));
        self.entries.push(entry);
        Ok(())
    }
}

/// The same index with everything in columns.
fn stored(index: &TextIndex) -> TextIndex {
    let merge = index.merge();
    let mut sink = Sink::default();
    let Ok(()) = merge.terms(index, &mut sink);
    let sums = merge.sums;
    let Sink { entries, term_bytes, postings } = sink;
    TextIndex::with(Language::English, Arc::new(Buffer { merge, entries, term_bytes, postings }), sums)
}

fn split(text: &str) -> Vec<(String, bool)> {
    let mut terms = Vec::new();
    each_term(Language::English, text, |term| terms.push((term.text.to_owned(), term.stop)));
    terms
}

fn words_of(memory: &Memory) -> Vec<String> {
    let speaker = memory.speaker.iter().flat_map(|speaker| split(speaker));
    speaker.chain(split(&memory.text)).map(|(term, _)| term).collect()
}

fn is_turn(memory: &Memory) -> bool {
    memory.session_id != "default"
}

/// The texts before and after each one in its conversation.
fn around(memories: &BTreeMap<u64, Memory>, key: u64) -> Vec<u64> {
    let memory = &memories[&key];
    if !is_turn(memory) {
        return Vec::new();
    }
    let order =
        |(key, memory): (&u64, &Memory)| (memory.position.unwrap_or(i64::MAX), memory.timestamp, *key);
    let mut turns: Vec<_> =
        memories.iter().filter(|(_, other)| other.session_id == memory.session_id).map(order).collect();
    turns.sort_unstable();
    let at = turns.iter().position(|(.., other)| *other == key).expect("it is there");
    [at.checked_sub(1), Some(at + 1)].into_iter().flatten().filter_map(|at| Some(turns.get(at)?.2)).collect()
}

/// BM25 over the weighted field by the book: every statistic counted anew from the texts.
fn textbook(memories: &BTreeMap<u64, Memory>, query: &str) -> BTreeMap<u64, f64> {
    let mut words: BTreeSet<(String, bool)> = split(query).into_iter().collect();
    if words.iter().any(|(_, stop)| !stop) {
        words.retain(|(_, stop)| !stop);
    }
    let own: BTreeMap<u64, Vec<String>> =
        memories.iter().map(|(key, memory)| (*key, words_of(memory))).collect();
    let fields: BTreeMap<u64, Vec<(f64, u64)>> = own
        .keys()
        .map(|key| {
            let others = around(memories, *key).into_iter().map(|key| (1.0, key));
            (*key, std::iter::once((3.0, *key)).chain(others).collect())
        })
        .collect();
    let total = memories.len() as f64;
    let lens =
        own.iter().map(|(key, terms)| terms.len() as f64 * if is_turn(&memories[key]) { 5.0 } else { 3.0 });
    let average = lens.sum::<f64>() / total;
    let weight = |key: &u64, word: &String| -> f64 {
        let count = |key: &u64| own[key].iter().filter(|term| *term == word).count() as f64;
        fields[key].iter().map(|(weight, key)| weight * count(key)).sum()
    };
    let mut scores = BTreeMap::new();
    for key in own.keys() {
        let mut score = 0.0;
        for (word, _) in &words {
            let holders = own.keys().filter(|key| weight(key, word) > 0.0).count() as f64;
            let weight = weight(key, word);
            let len: f64 = fields[key].iter().map(|(weight, key)| weight * own[key].len() as f64).sum();
            let idf = ((total - holders + 0.5) / (holders + 0.5) + 1.0).ln();
            score += idf * weight * 2.2 / (weight + 1.2 * (0.6 + 0.4 * len / average));
        }
        if score > 0.0 {
            scores.insert(*key, score);
        }
    }
    scores
}

fn found(index: &TextIndex, query: &str, scope: &Scope) -> BTreeMap<u64, f32> {
    let scores = index.score(query, Deadline::NEVER);
    let hits = scores.best(usize::MAX, scope);
    let count = hits.len();
    let hits: BTreeMap<_, _> = hits.into_iter().map(|doc| (index.key_of(doc).0, scores.of(doc))).collect();
    assert_eq!(hits.len(), count, "a memory was found twice");
    hits
}

fn index_of(memories: &BTreeMap<u64, Memory>) -> TextIndex {
    let mut index = TextIndex::new(Language::English);
    for (key, memory) in memories {
        index.insert(MemoryKey(*key), memory);
    }
    index
}

fn texts(texts: &[&str]) -> BTreeMap<u64, Memory> {
    (1..).zip(texts.iter().map(|text| note(text))).collect()
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
        "Ann",
    ]);
    prop::collection::vec(word, 0..12).prop_map(|words| words.join(" "))
}

fn memory() -> impl Strategy<Value = Memory> {
    let session = prop::sample::select(vec!["default", "one", "two"]);
    let speaker = prop::option::of(prop::sample::select(vec!["Ann", "Bob Smith", ""]));
    (words(), session, speaker, prop::option::of(0..3i64), 0..3i64).prop_map(
        |(text, session, speaker, position, time)| {
            let mut memory = Memory::new(MemoryId::new("m").expect("an id"), text, time);
            memory.session_id = session.to_owned();
            memory.speaker = speaker.map(str::to_owned);
            memory.position = position;
            memory.role = Some("user".to_owned());
            memory
        },
    )
}

#[derive(Clone, Debug)]
enum Change {
    Insert(u64, Box<Memory>),
    Remove(u64),
    /// Everything goes into columns.
    Store,
    Sweep,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        6 => (0..20u64, memory()).prop_map(|(key, memory)| Change::Insert(key, Box::new(memory))),
        3 => (0..20u64).prop_map(Change::Remove),
        1 => Just(Change::Store),
        1 => Just(Change::Sweep),
    ];
    prop::collection::vec(change, 0..60)
}

proptest! {
    #[test]
    fn scores_and_neighbours_are_those_of_the_textbook_after_any_changes(changes in changes(), query in words()) {
        let mut index = TextIndex::new(Language::English);
        let mut memories = BTreeMap::new();
        for change in changes {
            match change {
                Change::Insert(key, memory) => {
                    index.insert(MemoryKey(key), &memory);
                    memories.insert(key, *memory);
                }
                Change::Remove(key) => {
                    prop_assert_eq!(index.remove(MemoryKey(key)), memories.remove(&key).is_some());
                }
                Change::Store => index = stored(&index),
                Change::Sweep => index.sweep(),
            }
        }
        prop_assert_eq!(index.len(), memories.len());
        for (key, memory) in &memories {
            let doc = index.reader().doc_of(MemoryKey(*key)).expect("it is there");
            let links: Vec<u64> =
                index.reader().links_of(doc).into_iter().filter(|link| *link != NONE).map(|link| index.key_of(link).0).collect();
            prop_assert_eq!(links, around(&memories, *key));
            prop_assert_eq!(index.reader().attributes(doc).order.time, memory.timestamp);
        }
        let found = found(&index, &query, &Scope::All);
        let expected = textbook(&memories, &query);
        prop_assert!(found.keys().eq(expected.keys()), "{:?} is not {:?}", found, expected);
        for (key, score) in &found {
            let expected = expected[key];
            let error = (f64::from(*score) - expected).abs();
            prop_assert!(error <= 1e-4 * expected, "{} is not {}", score, expected);
        }
        for name in ["ann", "bob smith", "bob"] {
            let said = memories.values().filter(|memory| {
                memory.speaker.as_ref().is_some_and(|speaker| speaker.to_lowercase().starts_with(name))
            });
            let said = said.count();
            prop_assert_eq!(index.said_by(Some(name)).len(), said);
            prop_assert_eq!(index.knows(name), said > 0);
        }
    }

    #[test]
    fn a_scope_leaves_out_and_changes_nothing_else(
        texts in prop::collection::btree_map(0..50u64, memory(), 0..30),
        inside in prop::collection::vec(0..60u64, 0..30),
        query in words(),
    ) {
        let index = index_of(&texts);
        let scope = Scope::of(inside.into_iter().map(MemoryKey));
        let mut expected = found(&index, &query, &Scope::All);
        expected.retain(|key, _| scope.contains(MemoryKey(*key)));
        prop_assert_eq!(found(&index, &query, &scope), expected);
    }

    #[test]
    fn the_best_are_the_best(texts in prop::collection::btree_map(0..50u64, memory(), 0..30), count in 0..10usize) {
        let index = index_of(&texts);
        let scores = index.score("rust tea log", Deadline::NEVER);
        let ranked = |docs: Vec<u32>| {
            let mut docs: Vec<_> = docs.into_iter().map(|doc| (scores.of(doc).to_bits(), index.key_of(doc))).collect();
            docs.sort_unstable_by(|a, b| b.cmp(a));
            docs
        };
        let mut all = ranked(scores.best(usize::MAX, &Scope::All));
        all.truncate(count);
        prop_assert_eq!(ranked(scores.best(count, &Scope::All)), all);
    }

    #[test]
    fn no_text_and_no_query_breaks_it(text in ".{0,40}", query in ".{0,40}") {
        let mut index = TextIndex::new(Language::English);
        index.insert(MemoryKey(1), &note(&text));
        let hits = found(&index, &query, &Scope::All);
        prop_assert!(hits.values().all(|score| score.is_finite()));
    }
}

#[test]
fn many_removals_are_swept_out_and_change_no_score() {
    let text =
        |at: u64| format!("memory {at} about {} and tea", ["rust", "logs", "syncs"][(at % 3) as usize]);
    let mut index = TextIndex::new(Language::English);
    for at in 0..4000 {
        index.insert(MemoryKey(at), &note(&text(at)));
    }
    for at in (0..4000).filter(|at| at % 4 != 1) {
        assert!(index.remove(MemoryKey(at)));
    }
    assert!(index.live.slots.len() < 2500, "{} slots for {} texts", index.live.slots.len(), index.len());
    let left = index_of(&(0..4000).filter(|at| at % 4 == 1).map(|at| (at, note(&text(at)))).collect());
    for query in ["rust", "tea", "memory 17", "log"] {
        assert_eq!(found(&index, query, &Scope::All), found(&left, query, &Scope::All));
    }
}

#[test]
fn rare_words_count_more_than_common_ones() {
    let index = index_of(&texts(&["tea and rust", "tea and logs", "tea and syncs", "coffee"]));
    let hits = found(&index, "rust tea", &Scope::All);
    assert_eq!(hits.len(), 3);
    assert!(hits[&1] > 2.0 * hits[&2]);
}

#[test]
fn a_query_of_stop_words_only_still_finds() {
    let index = index_of(&texts(&["to be or not to be", "a store"]));
    assert_eq!(found(&index, "to be", &Scope::All).into_keys().collect::<Vec<_>>(), [1]);
    assert_eq!(found(&index, "to store", &Scope::All).into_keys().collect::<Vec<_>>(), [2]);
}

#[test]
fn a_search_whose_time_is_over_answers_with_what_it_read() {
    let index = index_of(&texts(&["tea"; 3]));
    let over = Deadline::after(Some(Duration::ZERO));
    let scores = index.score("tea", over);
    assert!(!scores.truncated(), "few postings are read in any case");
    drop(scores);
    let mut many = TextIndex::new(Language::English);
    for key in 0..70_000 {
        many.insert(MemoryKey(key), &note("tea"));
    }
    let scores = many.score("tea", over);
    assert!(scores.truncated());
    assert!(!scores.best(10, &Scope::All).is_empty());
}

#[test]
fn a_conversation_of_many_turns_is_one_chain() {
    let mut index = TextIndex::new(Language::English);
    let turn = |at: u64| {
        let mut memory = note(&format!("turn {at}"));
        memory.session_id = "long".to_owned();
        memory.speaker = Some("Ann".to_owned());
        memory.timestamp = at as i64;
        memory
    };
    // Half of them go into columns, and come between those that follow.
    for at in (0..100_000).step_by(2) {
        index.insert(MemoryKey(at), &turn(at));
    }
    let mut index = stored(&index);
    for at in (1..100_000).step_by(2) {
        index.insert(MemoryKey(at), &turn(at));
    }
    let mut doc = index.reader().doc_of(MemoryKey(0)).expect("it is there");
    for at in 0..100_000 {
        assert_eq!(index.key_of(doc), MemoryKey(at));
        doc = index.reader().links_of(doc)[1];
    }
    assert_eq!(doc, NONE);
}
