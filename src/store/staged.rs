//! Operations that are queued for the log, or durable, but not yet in the view.
//!
//! Plans look here first and into the view second, so that an operation sees all that were planned before it.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::models::Registry;
use crate::format::op::MemoryKey;
use crate::log;
use crate::memory::{Memory, MemoryId};

/// The newest state of a memory.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub(super) key: MemoryKey,
    /// Sequence of the record that made this state.
    pub(super) seq: u64,
    pub(super) memory: Arc<Memory>,
}

/// One planned change: the state after it, `None` when the memory is forgotten.
#[derive(Debug)]
struct Change {
    seq: u64,
    state: Option<Current>,
}

/// All changes that the view does not hold yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    by_id: HashMap<MemoryId, Vec<Change>>,
    /// Memories with a text that is new here, by the hash of collection and text. Whoever looks compares both.
    by_text: HashMap<u64, Vec<MemoryId>>,
    hasher: RandomState,
    /// Every change, in order of sequence.
    order: VecDeque<(u64, MemoryId)>,
    pub(super) models: Registry,
}

impl Pending {
    /// Nothing but the models that the store has.
    pub(super) fn new(models: Registry) -> Self {
        Self { models, ..Self::default() }
    }

    /// The memory's newest state: `None` when nothing is known here, `Some(None)` when it is forgotten.
    pub(super) fn get(&self, id: &MemoryId) -> Option<Option<&Current>> {
        self.by_id.get(id).and_then(|changes| changes.last()).map(|change| change.state.as_ref())
    }

    /// A memory with exactly this text in this collection.
    pub(super) fn find_text(&self, collection: &str, text: &str) -> Option<&Current> {
        let ids = self.by_text.get(&text_hash(&self.hasher, collection, text))?;
        ids.iter().find_map(|id| {
            let current = self.get(id).flatten()?;
            (current.memory.text == text && current.memory.collection == collection).then_some(current)
        })
    }

    /// Notes a change.
    pub(super) fn stage(&mut self, seq: u64, id: MemoryId, state: Option<Current>) {
        if let Some(current) = &state {
            let text = text_hash(&self.hasher, &current.memory.collection, &current.memory.text);
            let ids = self.by_text.entry(text).or_default();
            if !ids.contains(&id) {
                ids.push(id.clone());
            }
        }
        self.by_id.entry(id.clone()).or_default().push(Change { seq, state });
        self.order.push_back((seq, id));
    }

    /// Forgets changes that the view holds.
    pub(super) fn applied(&mut self, up_to_seq: u64) {
        while self.order.front().is_some_and(|(seq, _)| *seq <= up_to_seq) {
            let (seq, id) = self.order.pop_front().expect("just seen");
            self.remove(seq, &id);
        }
    }

    fn remove(&mut self, seq: u64, id: &MemoryId) {
        let Some(changes) = self.by_id.get_mut(id) else { return };
        let Some(index) = changes.iter().position(|change| change.seq == seq) else { return };
        let change = changes.remove(index);
        let text_is_gone = |current: &Current| {
            !changes.iter().filter_map(|change| change.state.as_ref()).any(|other| {
                other.memory.text == current.memory.text
                    && other.memory.collection == current.memory.collection
            })
        };
        if let Some(current) = change.state.filter(text_is_gone) {
            let text = text_hash(&self.hasher, &current.memory.collection, &current.memory.text);
            if let Some(ids) = self.by_text.get_mut(&text) {
                ids.retain(|have| have != id);
                if ids.is_empty() {
                    self.by_text.remove(&text);
                }
            }
        }
        if changes.is_empty() {
            self.by_id.remove(id);
        }
    }
}

fn text_hash(hasher: &RandomState, collection: &str, text: &str) -> u64 {
    hasher.hash_one((collection, text))
}

impl log::Staged for Pending {
    fn abandon(&mut self, after_seq: u64) {
        while self.order.back().is_some_and(|(seq, _)| *seq > after_seq) {
            let (seq, id) = self.order.pop_back().expect("just seen");
            self.remove(seq, &id);
        }
        self.models.abandon(after_seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Staged;

    fn id(text: &str) -> MemoryId {
        MemoryId::new(text).expect("an id")
    }

    fn current(seq: u64, name: &str, text: &str) -> Option<Current> {
        Some(Current { key: MemoryKey(seq), seq, memory: Arc::new(Memory::new(id(name), text, 0)) })
    }

    #[test]
    fn the_newest_state_counts_until_the_view_has_it() {
        let mut pending = Pending::default();
        pending.stage(1, id("a"), current(1, "a", "one"));
        pending.stage(2, id("a"), current(1, "a", "two"));
        assert!(pending.find_text("knowledge", "one").is_none(), "the text has changed");
        assert!(pending.find_text("knowledge", "two").is_some());
        pending.stage(3, id("a"), None);
        assert!(matches!(pending.get(&id("a")), Some(None)));
        assert!(pending.find_text("knowledge", "two").is_none());
        pending.applied(2);
        assert!(matches!(pending.get(&id("a")), Some(None)));
        pending.applied(3);
        assert!(pending.get(&id("a")).is_none());
        assert!(pending.by_text.is_empty() && pending.by_id.is_empty() && pending.order.is_empty());
    }

    #[test]
    fn what_was_not_written_is_taken_back_and_the_former_state_stands_again() {
        let mut pending = Pending::default();
        pending.stage(1, id("a"), current(1, "a", "one"));
        pending.stage(2, id("a"), current(1, "a", "two"));
        pending.stage(3, id("b"), current(3, "b", "three"));
        pending.abandon(1);
        assert!(pending.find_text("knowledge", "one").is_some());
        assert!(pending.find_text("knowledge", "two").is_none());
        assert!(pending.get(&id("b")).is_none());
    }
}
