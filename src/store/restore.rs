//! Taking the store to another state: what differs is written to the log as one group that counts as a whole or not at
//! all, behind a restore point. Nothing is removed: the state before is a state of the log like any other.

use std::collections::{BTreeSet, HashSet};
use std::sync::PoisonError;

use serde::Serialize;

use super::history::History;
use super::past::Past;
use super::replay::{FormerView, replay};
use super::staged::Pending;
use super::state::State;
use super::{Inner, lock};
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{MemoryKey, Op, RestorePointV1, RestoreV1, Vectors};
use crate::format::row::Row;
use crate::log::{Bulk, Gate};
use crate::memory::{Memory, MemoryId};

/// Ids that an answer names, of each kind.
const IDS_NAMED_MAX: usize = 1000;
/// A view follows so many records ...
const FOLLOWED_RECORDS_MAX: u64 = 50_000;
/// ... and so many bytes in one step; for more, a new one is built beside it.
const FOLLOWED_LEN_MAX: u64 = 48 << 20;

/// What a restore goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RestoreKind {
    /// A backup or another file.
    File,
    /// A moment of the log.
    Moment,
    /// The state before another restore.
    Undo,
    /// A `memory.db` that somebody has put in place of the published one, or changed.
    ByHand,
}

/// What a restore changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Changed {
    /// Memories that come back or are new.
    pub added: u64,
    /// Memories that get another version.
    pub changed: u64,
    /// Memories that go.
    pub forgotten: u64,
    /// Memories that are the same in both states.
    pub unchanged: u64,
    /// Ids of those that are added, at most 1,000.
    pub added_ids: Vec<MemoryId>,
    /// Ids of those that get another version, at most 1,000.
    pub changed_ids: Vec<MemoryId>,
    /// Ids of those that go, at most 1,000.
    pub forgotten_ids: Vec<MemoryId>,
}

/// The changes from the present state to another one, counted or written.
pub(crate) struct Changes<'a, 'b> {
    state: &'a State<'a>,
    sink: Option<&'a mut Bulk<'b>>,
    /// Memories that the other state has, too.
    seen: HashSet<MemoryKey>,
    /// Ids that were given once already.
    new: BTreeSet<MemoryId>,
    written_len: u64,
    /// Whether the first change is enough.
    is_probe: bool,
    done: Changed,
}

/// A restore that is in the log.
pub(crate) struct LoggedRestore {
    pub(crate) seq: u64,
    pub(crate) restore: RestoreV1,
}

impl RestoreKind {
    fn number(self) -> u32 {
        match self {
            Self::File => 1,
            Self::Moment => 2,
            Self::Undo => 3,
            Self::ByHand => 4,
        }
    }

    /// The kind that a restore of the log names.
    pub(super) fn of_number(number: u32) -> Option<Self> {
        [Self::File, Self::Moment, Self::Undo, Self::ByHand].into_iter().find(|kind| kind.number() == number)
    }
}

impl Changed {
    /// How many changes there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.added + self.changed + self.forgotten
    }
}

impl<'a, 'b> Changes<'a, 'b> {
    fn new(state: &'a State<'a>, sink: Option<&'a mut Bulk<'b>>, is_probe: bool) -> Self {
        let (seen, new) = (HashSet::new(), BTreeSet::new());
        Self { state, sink, seen, new, written_len: 0, is_probe, done: Changed::default() }
    }
}

impl Changes<'_, '_> {
    /// The present state.
    pub(crate) fn state(&self) -> &State<'_> {
        self.state
    }

    /// The other state has this memory; `vectors` are of the store's model.
    pub(crate) fn put(&mut self, memory: Memory, vectors: Option<Vec<f32>>) -> Result<()> {
        if self.new.contains(&memory.id) {
            return Ok(());
        }
        let vectors = vectors.and_then(|values| self.state.as_vectors(values));
        let id = memory.id.clone();
        match self.state.row(id.as_str())? {
            None => {
                self.new.insert(id);
                self.add(memory, vectors)
            }
            Some(row) if !self.seen.insert(row.key) => Ok(()),
            Some(row) if row.memory == memory => {
                self.done.unchanged += 1;
                Ok(())
            }
            Some(row) => {
                let vectors = vectors.filter(|_| row.memory.text != memory.text);
                self.replace(&row, memory, vectors)
            }
        }
    }

    /// A memory whose id nobody has, nor gave before.
    pub(super) fn add(&mut self, memory: Memory, vectors: Option<Vectors>) -> Result<()> {
        self.done.added += 1;
        named(&mut self.done.added_ids, memory.id.clone());
        self.write(&Op::Remember { memory, vectors })
    }

    /// Another version of a memory.
    pub(super) fn replace(&mut self, row: &Row, memory: Memory, vectors: Option<Vectors>) -> Result<()> {
        self.done.changed += 1;
        named(&mut self.done.changed_ids, memory.id.clone());
        self.write(&Op::Update { key: row.key, previous_seq: row.seq, memory, vectors })
    }

    /// The other state has this memory as the present one has it.
    pub(crate) fn leave(&mut self, id: &str) -> Result<()> {
        if let Some(row) = self.state.row(id)?
            && self.seen.insert(row.key)
        {
            self.done.unchanged += 1;
        }
        Ok(())
    }

    /// The other state does not have this memory.
    pub(crate) fn forget(&mut self, id: &str) -> Result<()> {
        match self.state.row(id)? {
            Some(row) if self.seen.insert(row.key) => self.forget_row(row.key, row.memory.id),
            _ => Ok(()),
        }
    }

    /// The other state has nothing but what was put or left.
    pub(crate) fn forget_all_others(&mut self) -> Result<()> {
        let mut others = Vec::new();
        let state = self.state;
        let seen = std::mem::take(&mut self.seen);
        state.for_each_id(|key, id| {
            if !seen.contains(&key) {
                others.push((key, id));
            }
        })?;
        self.seen = seen;
        others.into_iter().try_for_each(|(key, id)| self.forget_row(key, id))
    }

    fn forget_row(&mut self, key: MemoryKey, id: MemoryId) -> Result<()> {
        self.done.forgotten += 1;
        named(&mut self.done.forgotten_ids, id.clone());
        self.write(&Op::Forget { key, id })
    }

    fn write(&mut self, op: &Op) -> Result<()> {
        if self.is_probe {
            // Whoever probes sees that there is a change, and asks for no more.
            return Err(Error::new(ErrorKind::Refused, "there is a change"));
        }
        if let Some(sink) = &mut self.sink {
            sink.push(op)?;
            self.written_len += op.vectors().map_or(0, |vectors| 4 * vectors.values.len() as u64);
        }
        Ok(())
    }
}

fn named(ids: &mut Vec<MemoryId>, id: MemoryId) {
    if ids.len() < IDS_NAMED_MAX {
        ids.push(id);
    }
}

impl Inner {
    /// What `plan` would change. Whoever reads a state of the past in it gives that, too.
    pub(crate) fn preview(
        &self,
        past: Option<&Past<'_>>,
        plan: &mut dyn FnMut(&mut Changes<'_, '_>) -> Result<()>,
    ) -> Result<Changed> {
        let catalog = self.up_to_date()?;
        let state = self.present(&catalog, past)?;
        planned(&state, None, plan).map(|(changed, _)| changed)
    }

    /// Takes the store to the state that `plan` gives, as one group, behind a restore point of this name. Nobody else
    /// writes meanwhile. Gives what changed and the sequence up to which the state before goes; nothing is logged when
    /// nothing changes.
    ///
    /// # Errors
    /// What `plan` says and those of a write; then the store is as it was.
    pub(crate) fn restore_as(
        &self,
        kind: RestoreKind,
        target: &str,
        past: Option<&Past<'_>>,
        plan: &mut dyn FnMut(&mut Changes<'_, '_>) -> Result<()>,
    ) -> Result<(Changed, u64)> {
        self.check_writable()?;
        let mut gate = self.log.close_gate()?;
        let point_seq = gate.next_seq() - 1;
        let catalog = self.up_to_date()?;
        let state = self.present(&catalog, past)?;
        // Nothing is written when nothing changes.
        if let Some(unchanged) = probed(&state, plan)? {
            return Ok((unchanged, point_seq));
        }
        let made_unix_ms = self.now_ms();
        let restore = RestoreV1 { point_seq, kind: kind.number(), target: target.to_owned(), made_unix_ms };
        drop(state);
        drop(catalog);
        let changed = self.write_group(&mut gate, target, Some(restore), past, plan)?;
        drop(gate);
        tracing::warn!(
            added = changed.added,
            changed = changed.changed,
            forgotten = changed.forgotten,
            "the store was restored"
        );
        self.note_time();
        let noted =
            History::read(self).and_then(|mut known| known.note_restore(self, made_unix_ms, point_seq));
        if let Err(error) = noted {
            tracing::warn!(%error, "the state before this restore is not kept for longer than others");
        }
        self.wake_embedder();
        Ok((changed, point_seq))
    }

    /// Stores what `plan` adds and replaces as one group of any size, behind a restore point of this name. Nobody else
    /// writes meanwhile.
    ///
    /// # Errors
    /// As [`Inner::restore_as`].
    pub(super) fn import_as(
        &self,
        target: &str,
        plan: &mut dyn FnMut(&mut Changes<'_, '_>) -> Result<()>,
    ) -> Result<()> {
        self.check_writable()?;
        let mut gate = self.log.close_gate()?;
        let changed = self.write_group(&mut gate, target, None, None, plan)?;
        drop(gate);
        tracing::info!(added = changed.added, changed = changed.changed, "a file was imported as one group");
        self.note_time();
        self.wake_embedder();
        Ok(())
    }

    /// Writes what `plan` changes as one group behind a restore point. The view has it when this returns, before anybody
    /// writes on; readers see the state before or the one after.
    fn write_group(
        &self,
        gate: &mut Gate<'_, Pending>,
        target: &str,
        restore: Option<RestoreV1>,
        past: Option<&Past<'_>>,
        plan: &mut dyn FnMut(&mut Changes<'_, '_>) -> Result<()>,
    ) -> Result<Changed> {
        let made_unix_ms = self.now_ms();
        let is_asked_for =
            restore.as_ref().is_some_and(|restore| restore.kind != RestoreKind::ByHand.number());
        let what = if is_asked_for { "the restore of " } else { "" };
        let name = format!("before {what}{target}");
        let point = Op::RestorePoint(RestorePointV1 { name, made_unix_ms });
        let catalog = self.up_to_date()?;
        let state = self.present(&catalog, past)?;
        let mut outcome = None;
        let last_seq = gate.append(|bulk| {
            bulk.push(&point)?;
            restore.map_or(Ok(0), |restore| bulk.push(&Op::Restore(restore)))?;
            outcome = Some(planned(&state, Some(bulk), plan)?);
            Ok(())
        })?;
        drop(state);
        drop(catalog);
        let (changed, written_len) = outcome.expect("it was filled");
        if let Err(error) = self.follow(last_seq, written_len) {
            tracing::error!(%error, "the view does not follow this group yet");
        }
        Ok(changed)
    }

    /// The present state. A state of the past keeps the segments standing already.
    fn present<'a>(&'a self, catalog: &'a Catalog, past: Option<&Past<'_>>) -> Result<State<'a>> {
        self.state_with(catalog, past.is_none().then(|| lock(&self.rewriting)))
    }

    /// Brings the view up to records that came past the queue.
    fn follow(&self, last_seq: u64, len: u64) -> Result<()> {
        let mut applying = self.applying();
        let catalog = self.apply_committed(&mut applying)?;
        let records = last_seq - catalog.applied_seq();
        if records <= FOLLOWED_RECORDS_MAX && len <= FOLLOWED_LEN_MAX {
            replay(&self.place, &self.log.segments().all(), &catalog, last_seq)?;
            self.search.write().unwrap_or_else(PoisonError::into_inner).clear();
        } else {
            // One that is built beside the present one takes its place in one step, however much there is.
            drop(catalog);
            self.build(&mut applying, last_seq, FormerView::Gone)?;
        }
        self.log.with_staged(|pending| pending.applied(last_seq));
        lock(&self.answers).clear();
        Ok(())
    }
}

pub(super) fn planned(
    state: &State<'_>,
    sink: Option<&mut Bulk<'_>>,
    plan: &mut dyn FnMut(&mut Changes<'_, '_>) -> Result<()>,
) -> Result<(Changed, u64)> {
    let mut changes = Changes::new(state, sink, false);
    plan(&mut changes)?;
    Ok((changes.done, changes.written_len))
}

/// What a plan leaves as it is, when it changes nothing; `None` as soon as it changes something.
fn probed(
    state: &State<'_>,
    plan: &mut dyn FnMut(&mut Changes<'_, '_>) -> Result<()>,
) -> Result<Option<Changed>> {
    let mut changes = Changes::new(state, None, true);
    match plan(&mut changes) {
        _ if changes.done.count() > 0 => Ok(None),
        planned => planned.map(|()| Some(changes.done)),
    }
}

/// The error of a moment that the log does not reach.
pub(super) fn out_of_reach(seq: u64, why: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the state at sequence {seq} cannot be had: {why}"))
        .hint("`memento-kv backups` lists the backups; `restore FILE --exact` goes back to one of them")
}

/// The same of a time.
pub(super) fn out_of_reach_at(why: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the state at this time cannot be had: {why}"))
        .hint("`memento-kv backups` lists the backups; `restore FILE --exact` goes back to one of them")
}

impl State<'_> {
    /// Vectors of the store's model from their values, if they can be such.
    fn as_vectors(&self, values: Vec<f32>) -> Option<Vectors> {
        let (model, identity) = self.numbered_model()?;
        let dimensions = identity.dimensions;
        let fits = !values.is_empty() && values.len().is_multiple_of(dimensions as usize);
        fits.then_some(Vectors { model, dimensions, values })
    }
}
