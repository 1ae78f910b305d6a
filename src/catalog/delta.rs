//! What was applied and is not in redb's tables yet.
//!
//! One small transaction of redb copies a page in every tree that it touches, which costs more than the sync of the
//! log that it follows. So records are applied to sorted runs in memory, which readers lay over the tables, and go
//! into redb many at a time. A crash loses them as it would lose transactions that are not durable; the log has them.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

use super::guard::Fault;
use crate::format::record::Location;
use crate::format::row::Head;

/// A key with its new value, or with none when the key is gone.
pub(super) type Change<K, V> = (K, Option<V>);

/// Changes of every table that are not in it yet, and the head that goes with them.
///
/// While redb writes them, they are frozen: further changes come on top, and when redb is done, the frozen ones go.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    pub(super) head: Head,
    pub(super) state: Layer<Vec<u8>, Arc<[u8]>>,
    pub(super) memory: Layer<u64, Arc<[u8]>>,
    pub(super) ids: Layer<Arc<str>, u64>,
    pub(super) labels: Layer<u128, ()>,
    pub(super) times: Layer<u128, u64>,
    pub(super) vectors: Layer<u128, Location>,
    /// About how much memory the changes take that are not frozen.
    pub(super) bytes: usize,
}

impl Delta {
    pub(super) fn empty(head: Head) -> Self {
        Self {
            head,
            state: Layer::default(),
            memory: Layer::default(),
            ids: Layer::default(),
            labels: Layer::default(),
            times: Layer::default(),
            vectors: Layer::default(),
            bytes: 0,
        }
    }

    /// Whether the tables say all that it says.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The same with all changes frozen.
    pub(super) fn frozen(mut self) -> Self {
        let Self { head: _, state, memory, ids, labels, times, vectors, bytes } = &mut self;
        state.freeze();
        memory.freeze();
        ids.freeze();
        labels.freeze();
        times.freeze();
        vectors.freeze();
        *bytes = 0;
        self
    }

    /// The same without the frozen changes, which the tables say now.
    pub(super) fn thawed(mut self) -> Self {
        let Self { head: _, state, memory, ids, labels, times, vectors, bytes: _ } = &mut self;
        state.thaw();
        memory.thaw();
        ids.thaw();
        labels.thaw();
        times.thaw();
        vectors.thaw();
        self
    }
}

/// The changes of one table, as sorted runs: a later run overrules an earlier one.
///
/// Runs are merged as they grow, each at least twice as long as the next, so there are few of them. A clone shares
/// the runs, so a reader keeps its state of the layer for the price of some counters.
#[derive(Clone, Debug)]
pub(super) struct Layer<K, V> {
    runs: Vec<Arc<Vec<Change<K, V>>>>,
    /// How many of the runs, from the first on, are frozen.
    frozen: usize,
}

impl<K, V> Default for Layer<K, V> {
    fn default() -> Self {
        Self { runs: Vec::new(), frozen: 0 }
    }
}

impl<K, V> Layer<K, V> {
    fn freeze(&mut self) {
        self.frozen = self.runs.len();
    }

    fn thaw(&mut self) {
        self.runs.drain(..self.frozen);
        self.frozen = 0;
    }
}

impl<K: Ord + Clone, V: Clone> Layer<K, V> {
    /// What the layer says of a key: nothing, that it is gone, or its value.
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<Option<&V>>
    where
        K: Borrow<Q>,
    {
        self.runs.iter().rev().find_map(|run| {
            let at = run.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
            Some(run[at].1.as_ref())
        })
    }

    /// Adds changes in any order; of two with the same key the later one counts.
    pub(super) fn push(&mut self, mut changes: Vec<Change<K, V>>) {
        if changes.is_empty() {
            return;
        }
        changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        changes.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        let mut run = changes;
        while self.runs.len() > self.frozen
            && let Some(older) = self.runs.pop_if(|older| older.len() <= 2 * run.len())
        {
            run = overlaid(&older, run);
        }
        self.runs.push(Arc::new(run));
    }

    /// Every change, in the order of keys.
    pub(super) fn changes(&self) -> Vec<Change<K, V>> {
        let newest_first = self.runs.iter().rev();
        newest_first.fold(Vec::new(), |newer, older| overlaid(older, newer))
    }

    /// The changes from one key to another, both included, laid over what a table holds there.
    pub(super) fn over<I>(&self, table: I, first: &K, last: &K) -> Overlaid<'_, K, V, I> {
        let windows = self.runs.iter().filter_map(|run| {
            let start = run.partition_point(|(key, _)| key < first);
            let end = run.partition_point(|(key, _)| key <= last);
            (start < end).then(|| &run[start..end])
        });
        Overlaid { windows: windows.collect(), table, front: None, back: None }
    }
}

/// Two runs as one; where both have a key, the newer one counts.
fn overlaid<K: Ord + Clone, V: Clone>(older: &[Change<K, V>], newer: Vec<Change<K, V>>) -> Vec<Change<K, V>> {
    let mut merged = Vec::with_capacity(older.len() + newer.len());
    let mut older = older.iter().peekable();
    for change in newer {
        while let Some(before) = older.next_if(|(key, _)| *key < change.0) {
            merged.push(before.clone());
        }
        older.next_if(|(key, _)| *key == change.0);
        merged.push(change);
    }
    merged.extend(older.cloned());
    merged
}

/// A table's entries with a layer's changes laid over them, in the order of keys, from either end.
pub(super) struct Overlaid<'d, K, V, I> {
    /// What is left of each run, the oldest first; none is empty.
    windows: Vec<&'d [Change<K, V>]>,
    table: I,
    /// Entries of the table that were looked at and not taken yet.
    front: Option<(K, V)>,
    back: Option<(K, V)>,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Front,
    Back,
}

impl<K, V, I> Overlaid<'_, K, V, I>
where
    K: Ord + Clone,
    V: Clone,
    I: DoubleEndedIterator<Item = Result<(K, V), Fault>>,
{
    fn take(&mut self, end: End) -> Option<Result<(K, V), Fault>> {
        loop {
            if let Err(fault) = self.look(end) {
                return Some(Err(fault));
            }
            let changed = self.changed_key(end);
            let entry = if end == End::Front { &mut self.front } else { &mut self.back };
            let Some(changed) = changed else { return entry.take().map(Ok) };
            if let Some((key, _)) = entry {
                match if end == End::Front { (*key).cmp(&changed) } else { changed.cmp(key) } {
                    Ordering::Less => return entry.take().map(Ok),
                    Ordering::Equal => *entry = None,
                    Ordering::Greater => {}
                }
            }
            if let Some(value) = self.take_change(&changed, end) {
                return Some(Ok((changed, value)));
            }
        }
    }

    /// Makes sure that the table's next entry at this end is at hand, if there is one.
    fn look(&mut self, end: End) -> Result<(), Fault> {
        let (near, far, entry) = match end {
            End::Front if self.front.is_none() => (&mut self.front, &mut self.back, self.table.next()),
            End::Back if self.back.is_none() => (&mut self.back, &mut self.front, self.table.next_back()),
            _ => return Ok(()),
        };
        // The last entry between the two ends may have been looked at from the other one.
        *near = entry.transpose()?.or_else(|| far.take());
        Ok(())
    }

    /// The first changed key at this end.
    fn changed_key(&self, end: End) -> Option<K> {
        match end {
            End::Front => self.windows.iter().filter_map(|run| run.first()).map(|(key, _)| key).min(),
            End::Back => self.windows.iter().filter_map(|run| run.last()).map(|(key, _)| key).max(),
        }
        .cloned()
    }

    /// Takes the changes of this key off this end of all runs; the newest run's value counts.
    fn take_change(&mut self, key: &K, end: End) -> Option<V> {
        let mut value = None;
        for run in &mut self.windows {
            let (change, rest) = match end {
                End::Front => run.split_first(),
                End::Back => run.split_last(),
            }
            .expect("windows are not empty");
            if change.0 == *key {
                value = change.1.clone();
                *run = rest;
            }
        }
        self.windows.retain(|run| !run.is_empty());
        value
    }
}

impl<K, V, I> Iterator for Overlaid<'_, K, V, I>
where
    K: Ord + Clone,
    V: Clone,
    I: DoubleEndedIterator<Item = Result<(K, V), Fault>>,
{
    type Item = Result<(K, V), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take(End::Front)
    }
}

impl<K, V, I> DoubleEndedIterator for Overlaid<'_, K, V, I>
where
    K: Ord + Clone,
    V: Clone,
    I: DoubleEndedIterator<Item = Result<(K, V), Fault>>,
{
    fn next_back(&mut self) -> Option<Self::Item> {
        self.take(End::Back)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn rows(table: &BTreeMap<u64, u64>) -> impl DoubleEndedIterator<Item = Result<(u64, u64), Fault>> {
        table.iter().map(|(key, value)| Ok((*key, *value))).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn layer_says_what_a_map_says_from_both_ends_at_once() {
        let table: BTreeMap<u64, u64> = (0..40).map(|n| (n * 3, n)).collect();
        let mut expected = table.clone();
        let mut layer = Layer::default();
        for round in 0_u64..60 {
            let key = round * 7 % 120;
            let gone = round % 3 == 0;
            layer.push(vec![(key, Some(999)), (key, (!gone).then_some(round))]);
            if gone {
                expected.remove(&key);
            } else {
                expected.insert(key, round);
            }
            assert_eq!(layer.get(&key), Some((!gone).then_some(&round)));

            let inside: BTreeMap<u64, u64> =
                table.range(10..=100).map(|(key, value)| (*key, *value)).collect();
            let mut entries = layer.over(rows(&inside), &10, &100);
            let (mut from_front, mut from_back) = (Vec::new(), Vec::new());
            for turn in 0.. {
                let back = turn % (2 + round) == 1;
                let entry = if back { entries.next_back() } else { entries.next() };
                let Some(entry) = entry else { break };
                let list = if back { &mut from_back } else { &mut from_front };
                list.push(entry.expect("no fault"));
            }
            from_back.reverse();
            from_front.extend(from_back);
            assert_eq!(from_front, expected.range(10..=100).map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
        }
        assert_eq!(layer.get(&121), None);
        assert!(layer.runs.len() < 7, "{} runs", layer.runs.len());
        assert_eq!(layer.changes().len(), 60);
    }

    #[test]
    fn frozen_changes_go_and_later_ones_stay() {
        let mut layer = Layer::default();
        layer.push(vec![(1, Some('a')), (2, Some('b'))]);
        layer.freeze();
        layer.push(vec![(2, Some('c')), (3, None)]);
        assert_eq!((layer.get(&1), layer.get(&2)), (Some(Some(&'a')), Some(Some(&'c'))));
        layer.thaw();
        assert_eq!(layer.changes(), [(2, Some('c')), (3, None)]);
        layer.push(vec![(2, None)]);
        assert_eq!(layer.changes(), [(2, None), (3, None)]);
    }
}
