//! Which memories a filter lets through: the tables of labels and times intersected.

use std::time::Instant;

use super::guard::Fault;
use super::snapshot::{Entry, Snapshot};
use super::view::View;
use crate::error::Result;
use crate::format::op::MemoryKey;
use crate::format::row::{Label, TableTag, label_key, memory_key, time_key};
use crate::memory::Filter;

/// Up to this many candidates, the rows are asked for what no label says; beyond it, the table of times.
const ROWS_MAX: usize = 4096;
/// Steps in a list of keys before it is entered anew further on: an entry costs as much as some steps.
const STEPS_MAX: usize = 16;
/// Keys between two looks at the clock.
const CLOCK_STEPS: usize = 4096;

impl View<'_> {
    /// The keys of the memories that the filter lets through, in ascending order; `None` when it lets all through.
    ///
    /// Labels are looked up by their hash, so whoever shows a memory from it asks [`Filter::matches`] once more.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Timeout`] after the deadline, [`crate::ErrorKind::Corrupt`] when the view is damaged.
    pub(crate) fn scope(&self, filter: &Filter, deadline: Option<Instant>) -> Result<Option<Vec<MemoryKey>>> {
        if filter.is_empty() {
            return Ok(None);
        }
        self.read(|snapshot| scope(snapshot, filter, deadline).map(Some))
    }
}

/// The keys of the memories that the filter lets through.
pub(super) fn scope(
    snapshot: &Snapshot,
    filter: &Filter,
    deadline: Option<Instant>,
) -> Result<Vec<MemoryKey>, Fault> {
    expired(deadline)?;
    let Some(labelled) = labelled(snapshot, filter, usize::MAX, deadline)? else {
        return timed(snapshot, filter, deadline);
    };
    let by_time = filter.since.is_some() || filter.before.is_some() || filter.min_importance.is_some();
    if !by_time {
        return Ok(labelled);
    }
    if labelled.len() > ROWS_MAX {
        let timed = timed(snapshot, filter, deadline)?;
        return Ok(intersected(&labelled, &timed));
    }
    let mut keys = Vec::new();
    for key in labelled {
        expired(deadline)?;
        if filter.matches(&snapshot.row_named(key, TableTag::Label)?.memory) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// The keys of memories with the filter's labels, in ascending order, up to a limit; `None` when it names no label.
pub(super) fn labelled(
    snapshot: &Snapshot,
    filter: &Filter,
    limit: usize,
    deadline: Option<Instant>,
) -> Result<Option<Vec<MemoryKey>>, Fault> {
    let all = filter.tags_all.iter().map(|tag| Label::Tag(tag));
    let one = [
        filter.collection.as_deref().map(Label::Collection),
        filter.source.as_deref().map(Label::Source),
        filter.session.as_deref().map(Label::Session),
    ];
    let any: Vec<Label<'_>> = filter.tags_any.iter().map(|tag| Label::Tag(tag)).collect();
    let mut conditions = Vec::new();
    for label in all.chain(one.into_iter().flatten()) {
        conditions.push(Condition::open(snapshot, &[label])?);
    }
    if !any.is_empty() {
        conditions.push(Condition::open(snapshot, &any)?);
    }
    if conditions.is_empty() {
        return Ok(None);
    }

    // Each condition in turn raises the candidate to the next key that it has, until all have it.
    let mut keys = Vec::new();
    let mut candidate = 0;
    let mut agreed = 0;
    let mut steps: usize = 0;
    for turn in (0..conditions.len()).cycle() {
        steps += 1;
        if steps.is_multiple_of(CLOCK_STEPS) {
            expired(deadline)?;
        }
        let Some(key) = conditions[turn].seek(candidate)? else { break };
        agreed = if key == candidate { agreed + 1 } else { 1 };
        candidate = key;
        if agreed == conditions.len() {
            keys.push(MemoryKey(candidate));
            if keys.len() == limit || candidate == u64::MAX {
                break;
            }
            candidate += 1;
            agreed = 0;
        }
    }
    Ok(Some(keys))
}

/// The keys of memories within the filter's times and importance, in ascending order.
fn timed(snapshot: &Snapshot, filter: &Filter, deadline: Option<Instant>) -> Result<Vec<MemoryKey>, Fault> {
    let mut keys = Vec::new();
    for (step, entry) in times(snapshot, filter)?.enumerate() {
        if step.is_multiple_of(CLOCK_STEPS) {
            expired(deadline)?;
        }
        let (key, importance) = entry?;
        if filter.min_importance.is_none_or(|least| importance >= least) {
            keys.push(key);
        }
    }
    keys.sort_unstable();
    Ok(keys)
}

/// Memories within the filter's times, by time, each with its importance.
pub(super) fn times<'t>(
    snapshot: &'t Snapshot,
    filter: &Filter,
) -> Result<impl DoubleEndedIterator<Item = Entry<MemoryKey, f64>> + use<'t>, Fault> {
    let since = time_key(filter.since.unwrap_or(i64::MIN), MemoryKey(0));
    let before = time_key(filter.before.unwrap_or(i64::MAX), MemoryKey(u64::MAX));
    let entries = (since <= before).then(|| snapshot.times(since..=before)).transpose()?;
    let entries = entries.into_iter().flatten();
    Ok(entries.map(|entry| entry.map(|(key, bits)| (memory_key(key), f64::from_bits(bits)))))
}

pub(super) fn expired(deadline: Option<Instant>) -> Result<(), Fault> {
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) { Err(Fault::Timeout) } else { Ok(()) }
}

/// The keys in both lists; both are in ascending order.
fn intersected(a: &[MemoryKey], b: &[MemoryKey]) -> Vec<MemoryKey> {
    let mut b = b.iter().peekable();
    let mut keys = Vec::new();
    for key in a {
        while b.next_if(|other| *other < key).is_some() {}
        if b.next_if_eq(&key).is_some() {
            keys.push(*key);
        }
    }
    keys
}

/// Memories with at least one of some labels.
struct Condition<'t> {
    postings: Vec<Posting<'t>>,
}

impl<'t> Condition<'t> {
    fn open(snapshot: &'t Snapshot, labels: &[Label<'_>]) -> Result<Self, Fault> {
        let mut hashes: Vec<u64> = labels.iter().map(|label| label.hash()).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let postings = hashes.into_iter().map(|hash| Posting::open(snapshot, hash));
        Ok(Self { postings: postings.collect::<Result<_, _>>()? })
    }

    /// The first key that is not below this one.
    fn seek(&mut self, from: u64) -> Result<Option<u64>, Fault> {
        let mut first = None;
        for posting in &mut self.postings {
            let key = posting.seek(from)?;
            first = first.into_iter().chain(key).min();
        }
        Ok(first)
    }
}

/// Memories with one label, in ascending order.
struct Posting<'t> {
    snapshot: &'t Snapshot,
    hash: u64,
    rest: Box<dyn Iterator<Item = Entry<u128, ()>> + 't>,
    /// The key that was read last; `None` at the end.
    current: Option<u64>,
}

impl<'t> Posting<'t> {
    fn open(snapshot: &'t Snapshot, hash: u64) -> Result<Self, Fault> {
        let mut posting = Self { snapshot, hash, rest: Box::new(std::iter::empty()), current: None };
        posting.enter(0)?;
        Ok(posting)
    }

    fn enter(&mut self, from: u64) -> Result<(), Fault> {
        let keys = label_key(self.hash, MemoryKey(from))..=label_key(self.hash, MemoryKey(u64::MAX));
        self.rest = Box::new(self.snapshot.labels(keys)?);
        self.step()
    }

    fn step(&mut self) -> Result<(), Fault> {
        self.current = self.rest.next().transpose()?.map(|(key, ())| memory_key(key).0);
        Ok(())
    }

    /// The first key that is not below this one.
    fn seek(&mut self, from: u64) -> Result<Option<u64>, Fault> {
        for _ in 0..STEPS_MAX {
            match self.current {
                Some(key) if key < from => self.step()?,
                reached => return Ok(reached),
            }
        }
        if self.current.is_some_and(|key| key < from) {
            self.enter(from)?;
        }
        Ok(self.current)
    }
}
