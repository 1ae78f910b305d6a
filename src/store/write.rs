//! Remember, update, forget.

use std::sync::Arc;
use std::thread::Thread;

use super::embedders::Embeds;
use super::import::Incoming;
use super::staged::{Current, Pending};
use super::{Engine, Inner};
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{MemoryKey, Op, Vectors};
use crate::log::{Begun, Planned};
use crate::memory::{
    Duplicates, Forgotten, Memory, MemoryId, Remember, Remembered, TAGS_MAX, Update, Updated,
    check_importance, check_label, check_metadata, check_text, check_vector, clean_tags,
};

/// Above this cosine two texts of one collection count as nearly the same, as in the original.
const NEAR_DUPLICATE_COSINE: f32 = 0.95;
/// Near memories that are looked at, to find one of the same collection.
const NEAR_CANDIDATES: usize = 16;
/// Most memories of one call of [`Store::remember_many`].
const GROUP_MEMORIES_MAX: usize = 16_384;

/// A memory that is checked and ready to be planned.
struct Prepared {
    item: Remember,
    vectors: Option<Vectors>,
    /// A memory of the same collection that says nearly the same.
    near: Option<MemoryId>,
}

/// What an import does with an id that the store has with other content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum OnConflict {
    /// Nothing is imported.
    #[default]
    Fail,
    /// The store's memory stays.
    Keep,
    /// The imported memory becomes its new version.
    Replace,
}

/// What a write does with one imported memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    New,
    Unchanged,
    Replaced,
    Kept,
}

/// What is done as soon as it is durable.
#[must_use = "nobody knows yet whether it is durable"]
pub(crate) struct Promised<T> {
    inner: Arc<Inner>,
    begun: Begun<T>,
}

impl<T> Promised<T> {
    /// Returns when it is durable.
    pub(crate) fn wait(self) -> Result<T> {
        let outcome = self.inner.log.wait(self.begun)?;
        self.inner.committed();
        Ok(outcome)
    }

    /// Calls with what becomes of it, from the thread that finds out; `leader` runs [`Engine::lead_commits`].
    pub(crate) fn then(self, leader: &Thread, then: impl FnOnce(Result<T>) + Send + 'static)
    where
        T: Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        self.inner.log.then(self.begun, leader, move |outcome| {
            let is_durable = outcome.is_ok();
            then(outcome);
            if is_durable {
                inner.committed();
            }
        });
    }
}

impl Engine {
    /// Commits for those who do not wait for it, until it is to stop and its thread is woken.
    pub(crate) fn lead_commits(&self, is_stopping: impl Fn() -> bool) {
        self.inner.log.lead_for_others(is_stopping);
    }

    /// Stores a memory.
    pub(crate) fn remember(&self, remember: Remember) -> Result<Remembered> {
        self.remember_by(remember, self.inner.models.embedders())
    }

    /// As [`Engine::remember`], embedded by somebody else.
    pub(crate) fn remember_by(&self, remember: Remember, by: &dyn Embeds) -> Result<Remembered> {
        self.begin_remember(remember, by)?.wait()
    }

    /// Does all of [`Engine::remember_by`] but the waiting.
    pub(crate) fn begin_remember(&self, remember: Remember, by: &dyn Embeds) -> Result<Promised<Remembered>> {
        let item = remember.checked()?;
        // Before anything is written, and before the text meets a cache.
        item.check_secrets()?;
        let vectors = match &item.vector {
            Some(vector) => Some(self.inner.given_vectors(vector)?),
            None => self.inner.vectors_of(&item.text, by)?,
        };
        let near = match &vectors {
            Some(vectors) if item.duplicates == Duplicates::Merge && item.id.is_none() => {
                self.inner.near_duplicate(&item, vectors)?
            }
            _ => None,
        };
        let prepared = Prepared { item, vectors, near };
        let now = self.inner.clock.now_ms().div_euclid(1000);
        let begun = self.inner.begin(|pending, first_seq| {
            let mut plan = Plan::new(pending, first_seq);
            let done = self.inner.plan_remember(&mut plan, &prepared, now);
            plan.finish(done)
        })?;
        Ok(Promised { inner: Arc::clone(&self.inner), begun })
    }

    /// Stores several memories as one atomic group.
    pub(crate) fn remember_many(&self, all: Vec<Remember>) -> Result<Vec<Remembered>> {
        if all.len() > GROUP_MEMORIES_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{} memories at once, the most is {GROUP_MEMORIES_MAX}", all.len()),
            )
            .hint("give them in several groups"));
        }
        let prepare = |remember: Remember| {
            let item = remember.checked()?;
            item.check_secrets()?;
            let vectors =
                item.vector.as_deref().map(|vector| self.inner.given_vectors(vector)).transpose()?;
            Ok(Prepared { item, vectors, near: None })
        };
        let prepared = all.into_iter().map(prepare).collect::<Result<Vec<_>>>()?;
        let done = self.inner.commit_all(&prepared)?;
        self.inner.wake_embedder();
        Ok(done)
    }

    /// Changes a memory.
    pub(crate) fn update(&self, id: impl AsRef<str>, update: Update) -> Result<Updated> {
        self.update_by(id, update, self.inner.models.embedders())
    }

    /// As [`Engine::update`], embedded by somebody else.
    pub(crate) fn update_by(&self, id: impl AsRef<str>, update: Update, by: &dyn Embeds) -> Result<Updated> {
        let id = MemoryId::new(id.as_ref())?;
        let inner = &self.inner;
        check_update(&update)?;
        update.check_secrets()?;
        let vectors = match (&update.vector, &update.text) {
            (Some(vector), _) => Some(inner.given_vectors(vector)?),
            (None, Some(text)) => inner.vectors_of(text, by)?,
            (None, None) => None,
        };
        let updated = inner.commit(|pending, seq| {
            let current = inner.current(pending, &id)?.ok_or_else(|| not_found(&id))?;
            let memory = changed(&current.memory, &update)?;
            let text_changed = memory.text != current.memory.text;
            if memory == *current.memory && update.vector.is_none() {
                let digest = inner.digest_of(current.seq, &current.memory);
                let outcome = Updated { id: id.clone(), seq: current.seq, digest, changed: false };
                return Ok(Planned { ops: Vec::new(), after_seq: current.seq, outcome });
            }
            let memory = Arc::new(memory);
            let vectors = vectors.clone().filter(|_| text_changed || update.vector.is_some());
            let digest = inner.digest_of(seq, &memory);
            let op = Op::Update {
                key: current.key,
                previous_seq: current.seq,
                memory: Memory::clone(&memory),
                vectors,
            };
            pending.stage(seq, id.clone(), Some(Current { key: current.key, seq, memory }));
            Ok(Planned {
                ops: vec![Arc::new(op)],
                after_seq: seq,
                outcome: Updated { id: id.clone(), seq, digest, changed: true },
            })
        })?;
        if update.text.is_some() && vectors.is_none() {
            inner.wake_embedder();
        }
        Ok(updated)
    }

    /// Forgets memories.
    pub(crate) fn forget<I: AsRef<str>>(&self, ids: impl IntoIterator<Item = I>) -> Result<Forgotten> {
        let ids = ids.into_iter().map(|id| MemoryId::new(id.as_ref())).collect::<Result<Vec<_>>>()?;
        let inner = &self.inner;
        // On a full disk it is what makes room.
        inner.with_reserve(|| inner.forget(&ids))
    }

    /// Stores memories under their own ids, as one atomic group, and says what became of each and with how many
    /// vectors of those that came with them.
    pub(crate) fn import_group(
        &self,
        all: &[Incoming],
        on_conflict: OnConflict,
    ) -> Result<(Vec<Outcome>, u64)> {
        let inner = &self.inner;
        let vectors =
            all.iter().map(|incoming| inner.usable_vectors(incoming)).collect::<Result<Vec<_>>>()?;
        let outcomes = inner.commit(|pending, first_seq| {
            let mut plan = Plan::new(pending, first_seq);
            let outcomes = all
                .iter()
                .zip(&vectors)
                .map(|(incoming, vectors)| {
                    inner.plan_import(&mut plan, &incoming.remember, vectors.as_ref(), on_conflict)
                })
                .collect::<Result<Vec<_>>>();
            plan.finish(outcomes)
        })?;
        inner.wake_embedder();
        let is_stored = |outcome: &Outcome| matches!(outcome, Outcome::New | Outcome::Replaced);
        let kept =
            outcomes.iter().zip(&vectors).filter(|(outcome, made)| made.is_some() && is_stored(outcome));
        let kept = kept.count() as u64;
        Ok((outcomes, kept))
    }

    /// What an import would do, without doing it. Conflicts are outcomes here.
    pub(crate) fn preview_import(&self, item: &Remember, on_conflict: OnConflict) -> Result<Outcome> {
        let inner = &self.inner;
        let id = item.id.as_ref().expect("imported memories have ids");
        let current = inner.healing(|| inner.log.with_staged(|pending| inner.current(pending, id)))?;
        let Some(current) = current else {
            return Ok(Outcome::New);
        };
        let unchanged = *current.memory == item.to_memory(id.clone(), current.memory.timestamp);
        match on_conflict {
            _ if unchanged => Ok(Outcome::Unchanged),
            OnConflict::Fail => Err(conflict(id)),
            OnConflict::Keep => Ok(Outcome::Kept),
            OnConflict::Replace => Ok(Outcome::Replaced),
        }
    }
}

/// Operations of one atomic group, planned one after the other.
struct Plan<'a> {
    pending: &'a mut Pending,
    first_seq: u64,
    ops: Vec<Arc<Op>>,
    /// Sequences that the outcome relies on.
    after_seq: u64,
}

impl<'a> Plan<'a> {
    fn new(pending: &'a mut Pending, first_seq: u64) -> Self {
        Self { pending, first_seq, ops: Vec::new(), after_seq: 0 }
    }

    fn next_seq(&self) -> u64 {
        self.first_seq + self.ops.len() as u64
    }

    fn remember(&mut self, memory: Memory, vectors: Option<Vectors>) -> u64 {
        let seq = self.next_seq();
        let state = Current { key: MemoryKey(seq), seq, memory: Arc::new(memory.clone()) };
        self.pending.stage(seq, memory.id.clone(), Some(state));
        self.ops.push(Arc::new(Op::Remember { memory, vectors }));
        seq
    }

    fn update(&mut self, current: &Current, memory: Memory, vectors: Option<Vectors>) -> u64 {
        let seq = self.next_seq();
        let state = Current { key: current.key, seq, memory: Arc::new(memory.clone()) };
        self.pending.stage(seq, memory.id.clone(), Some(state));
        self.ops.push(Arc::new(Op::Update { key: current.key, previous_seq: current.seq, memory, vectors }));
        seq
    }

    /// The whole group, or nothing staged.
    fn finish<T>(self, outcome: Result<T>) -> Result<Planned<T>> {
        match outcome {
            Ok(outcome) => {
                Ok(Planned { after_seq: self.after_seq.max(self.next_seq() - 1), ops: self.ops, outcome })
            }
            Err(error) => {
                crate::log::Staged::abandon(self.pending, self.first_seq - 1);
                Err(error)
            }
        }
    }
}

impl Inner {
    fn forget(&self, ids: &[MemoryId]) -> Result<Forgotten> {
        self.commit(|pending, first_seq| {
            let mut answer = Forgotten::default();
            let mut ops = Vec::new();
            for id in ids {
                if answer.forgotten.contains(id) {
                    continue;
                }
                let Some(current) = self.current(pending, id)? else {
                    answer.missing.push(id.clone());
                    continue;
                };
                let seq = first_seq + ops.len() as u64;
                ops.push((seq, current.key, id.clone()));
                answer.seq = Some(seq);
                answer.forgotten.push(id.clone());
            }
            // Staged only when nothing can fail any more.
            let ops: Vec<_> = ops
                .into_iter()
                .map(|(seq, key, id)| {
                    pending.stage(seq, id.clone(), None);
                    Arc::new(Op::Forget { key, id })
                })
                .collect();
            // That a memory is missing is only true when whatever took it away is durable.
            Ok(Planned { after_seq: answer.seq.unwrap_or(first_seq - 1), ops, outcome: answer })
        })
    }

    fn commit_all(&self, all: &[Prepared]) -> Result<Vec<Remembered>> {
        let now = self.clock.now_ms().div_euclid(1000);
        self.commit(|pending, first_seq| {
            let mut plan = Plan::new(pending, first_seq);
            let done = all
                .iter()
                .map(|prepared| self.plan_remember(&mut plan, prepared, now))
                .collect::<Result<Vec<_>>>();
            plan.finish(done)
        })
    }

    /// Refuses what would change a store that is open for reading only.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the store is open for reading only")
                .at(&self.home)
                .hint("leave out --read-only; a medium that cannot be written: mount it for writing, or copy the home to another place and name that with --home"));
        }
        Ok(())
    }

    /// Plans operations and returns when they are durable. When the plan meets a damaged view, the view is rebuilt and
    /// the plan is made once more.
    pub(super) fn commit<T>(
        &self,
        mut plan: impl FnMut(&mut Pending, u64) -> Result<Planned<T>>,
    ) -> Result<T> {
        let outcome = self.log.wait(self.begin(&mut plan)?)?;
        self.committed();
        Ok(outcome)
    }

    /// Plans operations and queues them, as [`Inner::commit`] does.
    fn begin<T>(&self, mut plan: impl FnMut(&mut Pending, u64) -> Result<Planned<T>>) -> Result<Begun<T>> {
        self.check_writable()?;
        self.healing(|| self.log.begin(&mut plan))
    }

    fn plan_remember(&self, plan: &mut Plan<'_>, prepared: &Prepared, now: i64) -> Result<Remembered> {
        let Prepared { item, vectors, near } = prepared;
        if item.is_again
            && let Some(id) = &item.proposed
            && let Some(current) = self.current(plan.pending, id)?
        {
            // The same call, once more: its answer was lost on the way.
            plan.after_seq = plan.after_seq.max(current.seq);
            let digest = self.digest_of(current.seq, &current.memory);
            return Ok(Remembered { id: id.clone(), seq: current.seq, digest, duplicate_of: None });
        }
        if let Some(id) = &item.id
            && let Some(current) = self.current(plan.pending, id)?
        {
            // Whoever repeats a call without a time of its own means the time of the first call.
            if *current.memory != item.to_memory(id.clone(), current.memory.timestamp) {
                return Err(conflict(id));
            }
            plan.after_seq = plan.after_seq.max(current.seq);
            let digest = self.digest_of(current.seq, &current.memory);
            return Ok(Remembered {
                id: id.clone(),
                seq: current.seq,
                digest,
                duplicate_of: Some(id.clone()),
            });
        }
        if item.duplicates == Duplicates::Merge
            && item.id.is_none()
            && let Some(current) = self.same_text(plan.pending, &item.collection, &item.text)?
        {
            let id = current.memory.id.clone();
            let merged = merge(Memory::clone(&current.memory), &item.tags, item.importance);
            let (seq, digest) = if merged == *current.memory {
                plan.after_seq = plan.after_seq.max(current.seq);
                (current.seq, self.digest_of(current.seq, &merged))
            } else {
                let digest = self.digest_of(plan.next_seq(), &merged);
                (plan.update(&current, merged, None), digest)
            };
            return Ok(Remembered { duplicate_of: Some(id.clone()), id, seq, digest });
        }
        let id = match item.id.as_ref().or(item.proposed.as_ref()) {
            Some(id) => id.clone(),
            None => self.new_id()?,
        };
        let mut memory = item.to_memory(id.clone(), now);
        let mut duplicate_of = None;
        if let Some(near) = near
            && let Some(other) =
                self.current(plan.pending, near)?.filter(|other| other.memory.collection == memory.collection)
        {
            // The text is not the same to the letter, and a letter can be all the difference: it is stored on its own.
            memory = merge(memory, &other.memory.tags, other.memory.importance);
            duplicate_of = Some(near.clone());
        }
        let digest = self.digest_of(plan.next_seq(), &memory);
        let seq = plan.remember(memory, vectors.clone());
        Ok(Remembered { id, seq, digest, duplicate_of })
    }

    fn plan_import(
        &self,
        plan: &mut Plan<'_>,
        item: &Remember,
        vectors: Option<&Vectors>,
        on_conflict: OnConflict,
    ) -> Result<Outcome> {
        let id = item.id.as_ref().expect("imported memories have ids");
        let now = self.clock.now_ms().div_euclid(1000);
        let Some(current) = self.current(plan.pending, id)? else {
            plan.remember(item.to_memory(id.clone(), now), vectors.cloned());
            return Ok(Outcome::New);
        };
        let memory = item.to_memory(id.clone(), current.memory.timestamp);
        if memory == *current.memory {
            plan.after_seq = plan.after_seq.max(current.seq);
            return Ok(Outcome::Unchanged);
        }
        match on_conflict {
            OnConflict::Fail => Err(conflict(id)),
            OnConflict::Keep => Ok(Outcome::Kept),
            OnConflict::Replace => {
                plan.update(&current, memory, vectors.cloned());
                Ok(Outcome::Replaced)
            }
        }
    }

    /// The memory's newest state, planned ones included.
    fn current(&self, pending: &Pending, id: &MemoryId) -> Result<Option<Current>> {
        match pending.get(id) {
            Some(state) => Ok(state.cloned()),
            None => {
                let row = self.catalog()?.get(id.as_str())?;
                Ok(row.map(|row| Current { key: row.key, seq: row.seq, memory: Arc::new(row.memory) }))
            }
        }
    }

    /// A memory with exactly this text in this collection, planned ones included.
    pub(super) fn same_text(
        &self,
        pending: &Pending,
        collection: &str,
        text: &str,
    ) -> Result<Option<Current>> {
        if let Some(current) = pending.find_text(collection, text) {
            return Ok(Some(current.clone()));
        }
        let catalog: Arc<Catalog> = self.catalog()?;
        let view = catalog.view();
        for key in view.keys_by_text_hash(collection, text)? {
            let Some(row) = view.row(key)? else { continue };
            // What is planned for it counts, not what the view still shows.
            if row.memory.text == text
                && row.memory.collection == collection
                && pending.get(&row.memory.id).is_none()
            {
                return Ok(Some(Current { key: row.key, seq: row.seq, memory: Arc::new(row.memory) }));
            }
        }
        Ok(None)
    }

    /// A memory of the same collection that says nearly the same.
    fn near_duplicate(&self, item: &Remember, vectors: &Vectors) -> Result<Option<MemoryId>> {
        let query = &vectors.values[..vectors.dimensions as usize];
        let model = self.models.active().filter(|(number, _)| *number == vectors.model);
        let Some(model) = model else { return Ok(None) };
        for (key, cosine) in self.nearest(&model, query, NEAR_CANDIDATES)? {
            if cosine <= NEAR_DUPLICATE_COSINE {
                break;
            }
            if let Some(row) = self.read(|catalog| catalog.row(key))?
                && row.memory.collection == item.collection
            {
                return Ok(Some(row.memory.id));
            }
        }
        Ok(None)
    }

    /// A new id.
    pub(super) fn new_id(&self) -> Result<MemoryId> {
        self.ids.next(self.clock.now_ms())
    }
}

/// The memory with these tags, too, as far as there is room, and with the higher importance.
fn merge(mut memory: Memory, tags: &[String], importance: f64) -> Memory {
    for tag in tags {
        if memory.tags.len() < TAGS_MAX && !memory.tags.contains(tag) {
            memory.tags.push(tag.clone());
        }
    }
    memory.importance = memory.importance.max(importance);
    memory
}

fn check_update(update: &Update) -> Result<()> {
    update.text.as_deref().map_or(Ok(()), check_text)?;
    update.importance.map_or(Ok(()), check_importance)?;
    update.timestamp.map_or(Ok(0), crate::time::checked)?;
    update.vector.as_deref().map_or(Ok(()), check_vector)?;
    for (name, value) in
        [("collection", &update.collection), ("source", &update.source), ("session", &update.session_id)]
    {
        value.as_deref().map_or(Ok(()), |value| check_label(name, value))?;
    }
    Ok(())
}

/// The memory after the update.
pub(super) fn changed(memory: &Memory, update: &Update) -> Result<Memory> {
    let mut memory = memory.clone();
    let set = |field: &mut String, value: &Option<String>| {
        if let Some(value) = value {
            field.clone_from(value);
        }
    };
    set(&mut memory.text, &update.text);
    set(&mut memory.source, &update.source);
    set(&mut memory.session_id, &update.session_id);
    set(&mut memory.collection, &update.collection);
    memory.timestamp = update.timestamp.unwrap_or(memory.timestamp);
    memory.importance = update.importance.unwrap_or(memory.importance);
    let mut tags = update.tags.clone().unwrap_or(memory.tags);
    tags.extend(update.add_tags.iter().cloned());
    let removed: Vec<_> = update.remove_tags.iter().map(|tag| tag.trim()).collect();
    tags.retain(|tag| !removed.contains(&tag.trim()));
    memory.tags = clean_tags(tags)?;
    for (key, value) in &update.metadata {
        if value.is_null() {
            memory.metadata.remove(key);
        } else {
            memory.metadata.insert(key.clone(), value.clone());
        }
    }
    check_metadata(&memory.metadata)?;
    Ok(memory)
}

fn not_found(id: &MemoryId) -> Error {
    Error::new(ErrorKind::NotFound, format!("no memory has the id {id}")).hint("`memento-kv list` shows ids")
}

pub(super) fn conflict(id: &MemoryId) -> Error {
    Error::new(ErrorKind::Conflict, format!("the id {id} belongs to a memory with other content"))
        .hint("change that memory with `update`, or store this one under another id")
}
