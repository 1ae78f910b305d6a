//! The part of a text index that is in memory: what came since the file was made.

use std::collections::{BTreeMap, HashMap};

use super::NONE;
use super::document::{Document, Order};
use crate::format::op::MemoryKey;
use crate::memory::{Language, Memory};

/// Texts and postings in memory. Each text has a slot, in the order of insertion; a removed one leaves its slot and
/// its postings behind, marked, until enough of them are swept out at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    /// Each term and its place in `postings`.
    pub(super) terms: HashMap<Box<str>, u32>,
    /// For each term the slots that hold it, ascending, with how often.
    pub(super) postings: Vec<Vec<(u32, u32)>>,
    pub(super) slots: Vec<Slot>,
    /// The slot of each memory that is there.
    by_key: HashMap<MemoryKey, u32>,
    /// The turns of each conversation that has some here.
    sessions: HashMap<u64, BTreeMap<Order, u32>>,
}

/// One text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) document: Document,
    /// The documents before and after it in its conversation, by their numbers in the whole index.
    pub(super) links: [u32; 2],
    pub(super) is_live: bool,
}

impl Live {
    /// How many texts there are.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// How many slots are of texts that were removed.
    pub(super) fn removed(&self) -> usize {
        self.slots.len() - self.by_key.len()
    }

    pub(super) fn slot_of(&self, key: MemoryKey) -> Option<u32> {
        self.by_key.get(&key).copied()
    }

    /// The texts that are there, by slot.
    pub(super) fn present(&self) -> impl Iterator<Item = (u32, &Slot)> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.is_live)
    }

    /// Takes a text, which must not be there.
    pub(super) fn insert(&mut self, language: Language, key: MemoryKey, memory: &Memory) -> u32 {
        let slot = u32::try_from(self.slots.len()).expect("memory ends before 2^32 texts do");
        let mut found: Vec<u32> = Vec::new();
        let mut names: Vec<u32> = Vec::new();
        let terms = std::cell::RefCell::new(&mut self.terms);
        let document = Document::of(
            language,
            key.0,
            memory,
            |term| found.push(number(&mut terms.borrow_mut(), term)),
            |name| names.push(number(&mut terms.borrow_mut(), name)),
        );
        found.append(&mut names);
        found.sort_unstable();
        for run in found.chunk_by(|a, b| a == b) {
            let term = run[0] as usize;
            if term >= self.postings.len() {
                self.postings.resize_with(term + 1, Vec::new);
            }
            self.postings[term].push((slot, run.len() as u32));
        }
        self.slots.push(Slot { document, links: [NONE; 2], is_live: true });
        self.by_key.insert(key, slot);
        if let Some(session) = document.session {
            self.sessions.entry(session).or_default().insert(document.order, slot);
        }
        slot
    }

    /// Takes a text out.
    pub(super) fn remove(&mut self, key: MemoryKey) -> Option<Document> {
        let slot = &mut self.slots[self.by_key.remove(&key)? as usize];
        slot.is_live = false;
        let document = slot.document;
        if let Some(session) = document.session
            && let Some(turns) = self.sessions.get_mut(&session)
        {
            turns.remove(&document.order);
            if turns.is_empty() {
                self.sessions.remove(&session);
            }
        }
        Some(document)
    }

    /// The turns just before and just after a place in a conversation.
    pub(super) fn around(&self, session: u64, order: Order) -> [Option<(Order, u32)>; 2] {
        let Some(turns) = self.sessions.get(&session) else { return [None; 2] };
        let entry = |(order, slot): (&Order, &u32)| (*order, *slot);
        let after = (std::ops::Bound::Excluded(order), std::ops::Bound::Unbounded);
        [turns.range(..order).next_back().map(entry), turns.range(after).next().map(entry)]
    }

    /// The texts of each conversation, in the order of what was said.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (u64, impl Iterator<Item = u32>)> {
        self.sessions.iter().map(|(session, turns)| (*session, turns.values().copied()))
    }

    pub(super) fn postings_of(&self, term: &str) -> &[(u32, u32)] {
        self.terms.get(term).map_or(&[], |term| &self.postings[*term as usize])
    }

    /// Drops the slots and postings of removed texts, and says where each slot went. The terms stay, as they are likely
    /// to come back.
    pub(super) fn sweep(&mut self) -> Vec<u32> {
        let mut moved = Vec::with_capacity(self.slots.len());
        let mut next = 0;
        for slot in &self.slots {
            moved.push(if slot.is_live { next } else { NONE });
            next += u32::from(slot.is_live);
        }
        for postings in &mut self.postings {
            postings.retain_mut(|(slot, _)| {
                *slot = moved[*slot as usize];
                *slot != NONE
            });
            postings.shrink_to(postings.len() * 2);
        }
        self.slots.retain(|slot| slot.is_live);
        self.by_key.values_mut().for_each(|slot| *slot = moved[*slot as usize]);
        self.sessions
            .values_mut()
            .flat_map(BTreeMap::values_mut)
            .for_each(|slot| *slot = moved[*slot as usize]);
        moved
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
