//! What is written, as it is acknowledged: for those who follow a store, and for those who must know whether a call of
//! theirs was done.
//!
//! Whoever follows the end of the log is answered from memory; whoever begins further back, from the segments.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::write::changed;
use super::{Engine, Inner, lock};
use crate::error::Result;
use crate::format::op::Op;
use crate::log::Committed;
use crate::memory::{Memory, MemoryId, Update, Updated};

/// Records that are kept in memory.
const RECORDS_MAX: usize = 4096;
/// Bytes of their texts that are kept in memory.
const LEN_MAX: usize = 8 << 20;
/// After nobody has asked for so long, nothing is kept.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// What became of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeKind {
    /// It is new.
    Remembered,
    /// It has another version.
    Updated,
    /// It is gone.
    Forgotten,
}

/// One change of the store, durable when it is told.
#[derive(Clone, Debug, PartialEq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Change {
    /// Sequence of the record.
    pub seq: u64,
    /// What it did.
    pub kind: ChangeKind,
    /// Whose memory.
    pub id: MemoryId,
    /// The memory as it is since; `None` when it is gone.
    pub memory: Option<Memory>,
}

/// The records that came last, while somebody follows them.
#[derive(Debug, Default)]
pub(super) struct Feed {
    recent: Mutex<Recent>,
    written: Condvar,
}

#[derive(Debug, Default)]
struct Recent {
    /// One behind the other, without a gap.
    records: VecDeque<(u64, Arc<Op>)>,
    len: usize,
    /// The record behind which they begin; `None` when nobody follows.
    after_seq: Option<u64>,
    asked: Option<Instant>,
    /// How many wait just now.
    waiting: usize,
}

impl Feed {
    /// Takes records that were just applied.
    pub(super) fn take(&self, records: &[Committed]) {
        let mut recent = lock(&self.recent);
        if recent.after_seq.is_none() {
            return;
        }
        if recent.asked.is_none_or(|asked| asked.elapsed() > IDLE_MAX) {
            *recent = Recent { waiting: recent.waiting, ..Recent::default() };
            return;
        }
        for record in records {
            recent.push(record.seq, &record.op);
        }
    }

    /// Something was made durable.
    pub(super) fn wake(&self) {
        if lock(&self.recent).waiting > 0 {
            self.written.notify_all();
        }
    }
}

impl Recent {
    /// The last sequence that they reach to.
    fn last_seq(&self) -> Option<u64> {
        self.records.back().map(|(seq, _)| *seq).or(self.after_seq)
    }

    fn push(&mut self, seq: u64, op: &Arc<Op>) {
        if self.last_seq().is_some_and(|last| last + 1 != seq) {
            // Something came past the queue: it is read from the log, and they begin anew behind this record.
            self.records.clear();
            (self.len, self.after_seq) = (0, Some(seq));
            return;
        }
        self.records.push_back((seq, Arc::clone(op)));
        self.len += len_of(op);
        while self.records.len() > RECORDS_MAX || self.len > LEN_MAX {
            let Some((seq, op)) = self.records.pop_front() else { break };
            self.len -= len_of(&op);
            self.after_seq = Some(seq);
        }
    }
}

fn len_of(op: &Op) -> usize {
    match op {
        Op::Remember { memory, .. } | Op::Update { memory, .. } => memory.text.len() + 512,
        _ => 64,
    }
}

/// What a record says of a memory, if it says something that people see.
fn change(seq: u64, op: &Op) -> Option<Change> {
    let (kind, id, memory) = match op {
        Op::Remember { memory, .. } => (ChangeKind::Remembered, &memory.id, Some(memory)),
        Op::Update { memory, .. } => (ChangeKind::Updated, &memory.id, Some(memory)),
        Op::Forget { id, .. } => (ChangeKind::Forgotten, id, None),
        _ => return None,
    };
    Some(Change { seq, kind, id: id.clone(), memory: memory.cloned() })
}

impl Engine {
    /// What was changed after this sequence, in the order of the log, at most so many changes; waits that long for the
    /// first one. Former versions that a compaction has left out are not told.
    pub(crate) fn changes(&self, after_seq: u64, limit: usize, wait: Duration) -> Result<Vec<Change>> {
        let inner = &self.inner;
        let deadline = Instant::now() + wait;
        let mut after_seq = after_seq;
        loop {
            inner.await_record(after_seq, deadline);
            // The records that are durable are in the feed when they are applied.
            let last_seq = inner.up_to_date()?.applied_seq();
            let mut found = Vec::new();
            match inner.recent(after_seq, limit, &mut found) {
                true => {}
                false => inner.logged(after_seq, last_seq, limit, &mut found)?,
            }
            if !found.is_empty() || Instant::now() >= deadline {
                return Ok(found);
            }
            // All of it was about nothing that people see.
            after_seq = after_seq.max(last_seq);
        }
    }

    /// The last sequence that is durable.
    pub(crate) fn durable_seq(&self) -> u64 {
        self.inner.durable_seq()
    }

    /// The answer to an update, if a record after this sequence did what it asks for. Whoever asks began its call after
    /// that sequence, so another call that did the very same is as good.
    pub(crate) fn updated_since(&self, after_seq: u64, id: &str, update: &Update) -> Result<Option<Updated>> {
        let inner = &self.inner;
        let last_seq = inner.up_to_date()?.applied_seq();
        let mut done = None;
        inner.for_each_op(after_seq + 1, last_seq, |seq, op| {
            let Op::Update { memory, vectors, .. } = op else { return Ok(()) };
            let is_it = memory.id.as_str() == id
                && (update.vector.is_none() || vectors.is_some())
                && changed(&memory, update)? == memory;
            if is_it {
                let digest = inner.digest_of(seq, &memory);
                done = Some(Updated { id: memory.id, seq, digest, changed: true });
            }
            Ok(())
        })?;
        Ok(done)
    }

    /// Ids that were forgotten after this sequence, with the sequence.
    pub(crate) fn forgotten_since(&self, after_seq: u64) -> Result<std::collections::BTreeMap<String, u64>> {
        self.inner.forgotten_since(after_seq)
    }

    /// The sequence of a restore after this sequence.
    pub(crate) fn restored_since(&self, after_seq: u64) -> Result<Option<u64>> {
        Ok(self.inner.last_restore()?.map(|restore| restore.seq).filter(|seq| *seq > after_seq))
    }
}

impl Inner {
    /// Waits until a record after this sequence is durable, or the time is over.
    fn await_record(&self, after_seq: u64, deadline: Instant) {
        let mut recent = lock(&self.feed.recent);
        recent.asked = Some(Instant::now());
        recent.waiting += 1;
        while self.log.durable_seq() <= after_seq && !self.is_stopping() {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                break;
            };
            recent = self
                .feed
                .written
                .wait_timeout(recent, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
        recent.waiting -= 1;
    }

    /// The changes after this sequence that are in memory; whether all are.
    fn recent(&self, after_seq: u64, limit: usize, found: &mut Vec<Change>) -> bool {
        let mut recent = lock(&self.feed.recent);
        recent.asked = Some(Instant::now());
        match recent.after_seq {
            Some(first) if first <= after_seq => {
                let skipped = recent.records.partition_point(|(seq, _)| *seq <= after_seq);
                found.extend(
                    recent.records.range(skipped..).filter_map(|(seq, op)| change(*seq, op)).take(limit),
                );
                true
            }
            _ => false,
        }
    }

    /// The changes after this sequence that are in the log; from here on the newer ones are kept in memory.
    fn logged(&self, after_seq: u64, last_seq: u64, limit: usize, found: &mut Vec<Change>) -> Result<()> {
        {
            let mut recent = lock(&self.feed.recent);
            if recent.after_seq.is_none() {
                recent.after_seq = Some(last_seq);
            }
        }
        let _standing = lock(&self.rewriting);
        self.for_each_op(after_seq + 1, last_seq, |seq, op| {
            if found.len() < limit {
                found.extend(change(seq, &op));
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Remember;
    use crate::store::Options;

    fn engine(home: &std::path::Path) -> Engine {
        Engine::open(Options::bare(home).background_embedding(false)).expect("an engine")
    }

    fn seqs(changes: &[Change]) -> Vec<(u64, ChangeKind)> {
        changes.iter().map(|change| (change.seq, change.kind)).collect()
    }

    #[test]
    fn changes_come_in_order_from_the_log_and_from_memory_alike() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let engine = engine(home.path());
        let first = engine.remember(Remember::new("the first one")).expect("stored");
        let from_log = engine.changes(0, 10, Duration::ZERO).expect("changes");
        assert_eq!(seqs(&from_log), [(first.seq, ChangeKind::Remembered)]);
        let updated = engine.update(&first.id, Update::new().text("a new text")).expect("changed");
        let gone = engine.forget([&first.id]).expect("forgotten");
        let expected =
            [(updated.seq, ChangeKind::Updated), (gone.seq.expect("a record"), ChangeKind::Forgotten)];
        let from_memory = engine.changes(first.seq, 10, Duration::ZERO).expect("changes");
        assert_eq!(seqs(&from_memory), expected);
        assert!(lock(&engine.inner.feed.recent).records.len() >= 2, "they were in memory");
        assert_eq!(from_memory[0].memory.as_ref().map(|memory| memory.text.as_str()), Some("a new text"));
        lock(&engine.inner.feed.recent).after_seq = None;
        let again = engine.changes(first.seq, 10, Duration::ZERO).expect("changes");
        assert_eq!(again, from_memory);
        assert_eq!(engine.changes(first.seq, 1, Duration::ZERO).expect("changes").len(), 1);
    }

    #[test]
    fn whoever_waits_is_woken_by_the_next_memory() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let engine = engine(home.path());
        let before = engine.durable_seq();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| engine.changes(before, 10, Duration::from_secs(600)));
            while lock(&engine.inner.feed.recent).waiting == 0 {
                std::thread::yield_now();
            }
            engine.remember(Remember::new("what it waits for")).expect("stored");
            let changes = waiting.join().expect("no panic").expect("changes");
            assert_eq!(changes.len(), 1);
        });
    }

    #[test]
    fn an_update_that_was_done_is_known_by_what_it_did() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let engine = engine(home.path());
        let memory = engine.remember(Remember::new("a text")).expect("stored");
        let before = engine.durable_seq();
        let update = Update::new().importance(0.9).add_tags(["seen"]);
        assert_eq!(engine.updated_since(before, memory.id.as_str(), &update).expect("a look"), None);
        let updated = engine.update(&memory.id, update.clone()).expect("changed");
        assert_eq!(engine.updated_since(before, memory.id.as_str(), &update).expect("a look"), Some(updated));
        let other = Update::new().importance(0.1);
        assert_eq!(engine.updated_since(before, memory.id.as_str(), &other).expect("a look"), None);
    }
}
