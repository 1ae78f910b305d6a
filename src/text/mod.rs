//! Words: which memories share words with a query, and how much that says; whose turn came before and after.
//!
//! [`TextIndex`] is an inverted index with exact BM25 over a field that weighs a memory's own words and speaker three
//! times as much as those of the turns before and after it. Most of it may lie in a file, mapped by the caller; what
//! came since is in memory. It is derived from the memories and knows nothing of disks. The stemmer is `frostem`:
//! generated from the Snowball project's own definitions and following them, no `unsafe`, no dependencies (`rust-stemmers` last followed them in 2020 and panics on some Greek words, `waken_snowball` and
//! `snowball_stemmers_rs` compile in every language).

mod dates;
mod document;
mod live;
mod merge;
mod names;
mod score;
mod stop;
mod stored;
mod terms;
#[cfg(test)]
mod tests;
mod words;

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::error::Result;
use crate::format::op::MemoryKey;
use crate::memory::{Language, Memory};
pub(crate) use dates::asks_when;
pub(crate) use document::Order;
use document::{ANY_SPEAKER, Document, speaker_term};
use live::Live;
pub(crate) use merge::{Merge, MergeSink};
pub(crate) use names::{name_of, names_in, without_names};
pub(crate) use score::Scores;
pub(crate) use stored::{Columns, Stored, TermEntry};
pub(crate) use terms::each_term;

/// No document.
pub(crate) const NONE: u32 = u32::MAX;

/// Counts up when other terms come of the same texts, so that a file with former ones is made anew.
pub(crate) const ANALYSIS_VERSION: u32 = 1;
/// What terms are made with besides this program's own rules.
pub(crate) const ANALYSIS: &str =
    "frostem 2.20261016; unicode-normalization 0.1; unicode-segmentation 1.13; stop-words 0.10";

/// With this many texts in memory a file is due, ...
pub(crate) const LIVE_MAX: usize = 10_000;
/// ... and in a small store with this part of what the file has, ...
const LIVE_SHARE: usize = 32;
/// ... but not for fewer than this.
const LIVE_MIN: usize = 256;
/// ... or when more than this part of what the file has counts no more.
const GONE_SHARE: u64 = 4;

/// Removed texts are swept out of memory when there are this many and ...
const SWEEP_MIN: usize = 1024;
/// ... they are more than one in this many.
const SWEEP_SHARE: usize = 4;

/// The words of the memories' texts, and the conversations that they are turns of.
///
/// Each text has a number: those in the file come first, then those in memory. Statistics are always those of the texts
/// that are there.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextIndex {
    language: Language,
    stored: Option<Arc<dyn Stored>>,
    /// Texts in the file that count no more.
    gone: RoaringBitmap,
    live: Live,
    /// Turns in the file whose neighbours are others than the file says.
    links: HashMap<u32, [u32; 2]>,
    sums: Sums,
}

/// What averages are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) texts: u64,
    /// Terms of all texts.
    pub(crate) terms: u64,
    /// Terms of those that are turns of a conversation.
    pub(crate) turn_terms: u64,
}

impl Sums {
    fn add(&mut self, document: &Document) {
        // What a damaged file says may be anything.
        self.texts = self.texts.saturating_add(1);
        self.terms = self.terms.saturating_add(document.len.into());
        self.turn_terms = self.turn_terms.saturating_add(document.session.map_or(0, |_| document.len.into()));
    }

    fn remove(&mut self, len: u32, is_turn: bool) {
        self.texts = self.texts.saturating_sub(1);
        self.terms = self.terms.saturating_sub(len.into());
        self.turn_terms = self.turn_terms.saturating_sub(if is_turn { len.into() } else { 0 });
    }
}

/// What is known of one text without reading it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Attributes {
    pub(crate) order: Order,
    pub(crate) importance: f32,
    pub(crate) names_time: bool,
}

impl TextIndex {
    /// An index of nothing.
    pub(crate) fn new(language: Language) -> Self {
        Self { language, ..Self::default() }
    }

    /// An index of what lies in a file, with the sums that were stored with it.
    pub(crate) fn with(language: Language, stored: Arc<dyn Stored>, sums: Sums) -> Self {
        Self { language, stored: Some(stored), sums, ..Self::default() }
    }

    /// Which file it has; 0 for none.
    pub(crate) fn generation(&self) -> u64 {
        self.stored.as_ref().map_or(0, |stored| stored.generation())
    }

    /// Reads every byte of the file, unless it is told to stop.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when something is not as it was written.
    pub(crate) fn verify(&self, stop: &dyn Fn() -> bool) -> Result<()> {
        self.stored.as_ref().map_or(Ok(()), |stored| stored.verify(stop))
    }

    /// How many texts there are.
    pub(crate) fn len(&self) -> usize {
        self.columns().len() - self.gone.len() as usize + self.live.len()
    }

    /// How many texts are in memory only.
    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    /// Texts in the file that count no more.
    pub(crate) fn gone_count(&self) -> u64 {
        self.gone.len()
    }

    /// Whether a new file should be made: too much is in memory only, or too much of the file is gone.
    pub(crate) fn is_due(&self) -> bool {
        let stored = self.columns().len();
        self.live.slots.len() >= LIVE_MAX.min(LIVE_MIN.max(stored / LIVE_SHARE))
            || (self.gone.len() >= LIVE_MIN as u64 && self.gone.len() * GONE_SHARE > stored as u64)
    }

    /// Whether nothing is in memory only.
    pub(crate) fn is_all_stored(&self) -> bool {
        self.live.len() == 0 && self.gone.is_empty()
    }

    /// Adds the words of a memory, in the place of its former ones if there are some.
    pub(crate) fn insert(&mut self, key: MemoryKey, memory: &Memory) {
        self.remove(key);
        let doc = self.base() + self.live.insert(self.language, key, memory);
        let document = self.live.slots[(doc - self.base()) as usize].document;
        self.sums.add(&document);
        if let Some(session) = document.session {
            let [before, after] = self.around(session, document.order);
            self.link(before, doc);
            self.link(doc, after);
        }
    }

    /// Takes the words of a memory out; says whether there were some.
    pub(crate) fn remove(&mut self, key: MemoryKey) -> bool {
        let base = self.base();
        let in_file = self.columns().doc_of(key).filter(|doc| !self.gone.contains(*doc));
        let Some(doc) = self.live.slot_of(key).map(|slot| base + slot).or(in_file) else { return false };
        let [before, after] = self.reader().links_of(doc);
        if doc >= base {
            let document = self.live.remove(key).expect("it has a slot");
            self.sums.remove(document.len, document.session.is_some());
        } else {
            self.gone.insert(doc);
            self.links.remove(&doc);
            let columns = self.columns();
            let (len, is_turn) = (columns.terms_of(doc), columns.is_turn(doc));
            self.sums.remove(len, is_turn);
        }
        self.link(before, after);
        if self.live.removed() >= SWEEP_MIN && self.live.removed() * SWEEP_SHARE > self.live.slots.len() {
            self.sweep();
        }
        true
    }

    /// For looking at many texts: it asks the file for its columns once.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { index: self, columns: self.columns() }
    }

    /// The memory of a document.
    pub(crate) fn key_of(&self, doc: u32) -> MemoryKey {
        self.reader().key_of(doc)
    }

    /// Whether anybody of this name, as [`name_of`] gives it, has said something.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.reader().holders(&speaker_term(name)).next().is_some()
    }

    /// What somebody of this name has said; with `None`, what anybody has.
    pub(crate) fn said_by(&self, name: Option<&str>) -> Vec<u32> {
        let term = name.map_or_else(|| ANY_SPEAKER.to_owned(), speaker_term);
        self.reader().holders(&term).map(|(doc, _)| doc).collect()
    }

    /// Everything that the index has, for a file that takes its place.
    pub(crate) fn merge(&self) -> Merge {
        Merge::of(self)
    }

    fn columns(&self) -> Columns<'_> {
        self.stored.as_ref().map_or_else(Columns::default, |stored| stored.columns())
    }

    /// The number of the first text in memory.
    fn base(&self) -> u32 {
        self.columns().len() as u32
    }

    /// The turns just before and just after a place in a conversation.
    fn around(&self, session: u64, order: Order) -> [u32; 2] {
        let columns = self.columns();
        let turns = columns.turns_of(session);
        let start = turns.partition_point(|doc| columns.order_of(*doc) < order);
        let is_there = |doc: &&u32| (**doc as usize) < columns.len() && !self.gone.contains(**doc);
        let stored = [turns[..start].iter().rev().find(is_there), turns[start..].iter().find(is_there)];
        let live = self.live.around(session, order);
        let base = self.base();
        let chosen = |side: usize| {
            let live = live[side].map(|(order, slot)| (order, base + slot));
            let stored = stored[side].map(|doc| (columns.order_of(*doc), *doc));
            let both = live.into_iter().chain(stored);
            if side == 0 { both.max() } else { both.min() }.map_or(NONE, |(_, doc)| doc)
        };
        [chosen(0), chosen(1)]
    }

    /// Makes two turns neighbours; either may be none.
    fn link(&mut self, before: u32, after: u32) {
        if before != NONE {
            self.links_mut(before)[1] = after;
        }
        if after != NONE {
            self.links_mut(after)[0] = before;
        }
    }

    fn links_mut(&mut self, doc: u32) -> &mut [u32; 2] {
        let base = self.base();
        if doc >= base {
            return &mut self.live.slots[(doc - base) as usize].links;
        }
        let stored = self.columns().links_of(doc);
        self.links.entry(doc).or_insert(stored)
    }

    /// Drops what is left of removed texts in memory.
    fn sweep(&mut self) {
        let base = self.base();
        let moved = self.live.sweep();
        let new = |link: &mut u32| {
            if *link != NONE && *link >= base {
                *link = base + moved[(*link - base) as usize];
            }
        };
        self.live.slots.iter_mut().flat_map(|slot| &mut slot.links).for_each(new);
        self.links.values_mut().flatten().for_each(new);
    }
}

/// Looks at texts one by one.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    index: &'a TextIndex,
    columns: Columns<'a>,
}

impl<'a> Reader<'a> {
    /// The texts that are there and hold a term, those of the file first, each with how often it does.
    fn holders(&self, term: &str) -> impl Iterator<Item = (u32, u32)> + use<'a> {
        let Self { index, columns } = *self;
        let postings = columns.find(term).map(|at| columns.each_posting(at));
        let is_there = move |(doc, _): &(u32, u32)| index.gone.is_empty() || !index.gone.contains(*doc);
        let stored = postings.into_iter().flatten().filter(is_there);
        let base = columns.len() as u32;
        let live = index.live.postings_of(term).iter();
        let live = live.filter(|(slot, _)| index.live.slots[*slot as usize].is_live);
        stored.chain(live.map(move |(slot, count)| (base + slot, *count)))
    }

    /// How many texts hold a term.
    fn holder_count(&self, term: &str) -> usize {
        let Self { index, columns } = self;
        match columns.find(term) {
            // The file says it, so that its postings are not read for it.
            Some(at) if index.gone.is_empty() => {
                let live = index.live.postings_of(term).iter();
                let live = live.filter(|(slot, _)| index.live.slots[*slot as usize].is_live);
                columns.entries[at].holders as usize + live.count()
            }
            _ => self.holders(term).count(),
        }
    }

    /// How many terms a text has.
    fn terms_of(&self, doc: u32) -> u32 {
        self.slot(doc).map_or_else(|| self.columns.terms_of(doc), |slot| slot.document.len)
    }

    /// The document of a memory.
    pub(crate) fn doc_of(&self, key: MemoryKey) -> Option<u32> {
        match self.index.live.slot_of(key) {
            Some(slot) => Some(self.columns.len() as u32 + slot),
            None => self.columns.doc_of(key).filter(|doc| !self.index.gone.contains(*doc)),
        }
    }

    /// The memory of a document.
    pub(crate) fn key_of(&self, doc: u32) -> MemoryKey {
        MemoryKey(self.attributes(doc).order.key)
    }

    /// What is known of a text.
    pub(crate) fn attributes(&self, doc: u32) -> Attributes {
        match self.slot(doc) {
            Some(slot) => {
                let Document { order, importance, names_time, .. } = slot.document;
                Attributes { order, importance, names_time }
            }
            None => {
                let columns = &self.columns;
                Attributes {
                    order: columns.order_of(doc),
                    importance: columns.importances.get(doc as usize).copied().unwrap_or(0.5),
                    names_time: columns.names_time(doc),
                }
            }
        }
    }

    /// The documents just before and just after one in its conversation; [`NONE`] where there is none.
    pub(crate) fn links_of(&self, doc: u32) -> [u32; 2] {
        match self.slot(doc) {
            Some(slot) => slot.links,
            None if self.index.links.is_empty() => self.columns.links_of(doc),
            None => self.index.links.get(&doc).copied().unwrap_or_else(|| self.columns.links_of(doc)),
        }
    }

    /// Up to `count` turns before (side 0) or after (side 1) a memory in its conversation, the nearest first.
    pub(crate) fn turns_beside(&self, key: MemoryKey, side: usize, count: usize) -> Vec<MemoryKey> {
        let next = |doc: &u32| Some(self.links_of(*doc)[side]).filter(|link| *link != NONE);
        // A damaged file may have a circle, so that the count alone ends it.
        std::iter::successors(self.doc_of(key), next)
            .skip(1)
            .take(count)
            .map(|doc| self.key_of(doc))
            .collect()
    }

    fn slot(&self, doc: u32) -> Option<&'a live::Slot> {
        self.index.live.slots.get(doc.checked_sub(self.columns.len() as u32)? as usize)
    }
}
