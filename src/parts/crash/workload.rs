//! What a workload does, and what a store holds after it.
//!
//! A new operation is a variant of [`Operation`], with what it does in [`Operation::perform`] and what it means in
//! [`Operation::expect`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::chance::Chance;
use super::session::{HOME, Session, TinyModel, vector_of};
use crate::error::Result;
use crate::memory::{Memory, MemoryId, Remember, Update};
use crate::snapshot::{RestoreFrom, RestoreOptions};
use crate::store::{Arriving, Given, Incoming, OnConflict};

/// Importance that a repeated text asks for.
const IMPORTANCE_REPEATED: f64 = 0.9;

/// What a store holds: memories by id, and the model that its vectors are made with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Content {
    pub(super) memories: BTreeMap<String, Held>,
    pub(super) model: TinyModel,
    /// What can be gone back to; no part of what the store holds now.
    pub(super) aside: Aside,
}

/// States that a restore goes to.
#[derive(Clone, Debug, Default)]
pub(super) struct Aside {
    /// The newest backup, by the number in its name.
    backup: Option<(usize, Arc<Saved>)>,
    /// The state before the last restore.
    undo: Option<Arc<Saved>>,
}

impl PartialEq for Aside {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

/// What a store held at some time.
#[derive(Debug)]
struct Saved {
    memories: BTreeMap<String, Held>,
    model: TinyModel,
}

/// A memory, and its vector as soon as it has one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Held {
    pub(super) memory: Arc<Memory>,
    pub(super) vector: Option<Vec<f32>>,
}

/// One step of a workload.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    /// One new memory, or several as a group.
    Remember(Vec<Item>),
    /// The text that this memory has, once more: it gets another tag.
    Repeat(String, String),
    UpdateText(String, String),
    UpdateMetadata(String, u64),
    Forget(Vec<String>),
    /// Makes the vectors that are due.
    Embed,
    /// Makes all vectors anew with the second model.
    Reembed,
    Checkpoint,
    /// Rewrites the log without what nothing needs.
    Compact,
    /// Makes an index block.
    Index,
    /// Forgets these and rewrites the log without them.
    Purge(Vec<String>),
    /// Publishes `memory.db`.
    Snapshot,
    /// Makes a backup with this number in its name.
    Backup(usize),
    /// Goes back to exactly what the backup of this number holds.
    Restore(usize),
    /// Goes back to the state before the last restore.
    Undo,
    /// New memories from elsewhere, as one group past the queue of writers.
    Import(Vec<Item>),
    Reopen,
}

/// A new memory.
#[derive(Clone, Debug)]
pub(super) struct Item {
    memory: Memory,
    has_vector: bool,
}

impl Operation {
    /// An operation that suits what the store holds. `number` makes ids and texts that no other one has.
    pub(super) fn draw(number: usize, chance: &mut Chance, content: &Content) -> Self {
        let any = |chance: &mut Chance| {
            let ids = content.memories.keys();
            ids.clone().nth(chance.index(ids.len().max(1))).cloned()
        };
        match (chance.below(25), any(chance)) {
            (19, _) => Self::Snapshot,
            (20, _) => Self::Backup(number),
            (21 | 22, _) if content.aside.backup.is_some() => {
                Self::Restore(content.aside.backup.as_ref().expect("just seen").0)
            }
            (23, _) if content.aside.undo.is_some() => Self::Undo,
            (0, Some(id)) => Self::Repeat(id, format!("again-{number}")),
            (1 | 2, Some(id)) => Self::UpdateText(id, text(number, 0, chance)),
            (3, Some(id)) => Self::UpdateMetadata(id, number as u64),
            (4, Some(id)) => Self::Forget(vec![id]),
            (5, Some(id)) => {
                let mut ids = vec![id];
                ids.extend(any(chance).filter(|other| *other != ids[0]));
                Self::Forget(ids)
            }
            (6, _) => Self::Embed,
            (7, Some(_)) if content.model == TinyModel::First => Self::Reembed,
            (8, _) => Self::Checkpoint,
            (9, _) => Self::Reopen,
            (16, _) => Self::Compact,
            (18, _) => Self::Index,
            (24, _) => {
                let count = 1 + chance.index(6);
                Self::Import((0..count).map(|part| Item::draw(number, part, chance)).collect())
            }
            (17, Some(id)) => Self::Purge(vec![id]),
            (kind, _) => {
                let count = if kind < 13 { 1 } else { 2 + chance.index(4) };
                Self::Remember((0..count).map(|part| Item::draw(number, part, chance)).collect())
            }
        }
    }

    /// Stores one memory of this name.
    pub(super) fn remember(name: &str) -> Self {
        let id = MemoryId::new(name).expect("an id");
        let memory = Memory::new(id, format!("what {name} says"), 1_800_000_000);
        Self::Remember(vec![Item { memory, has_vector: true }])
    }

    /// Whether there is something to do it to.
    pub(super) fn applies(&self, content: &Content) -> bool {
        match self {
            Self::Repeat(id, _) | Self::UpdateText(id, _) | Self::UpdateMetadata(id, _) => {
                content.memories.contains_key(id)
            }
            Self::Forget(ids) | Self::Purge(ids) => ids.iter().any(|id| content.memories.contains_key(id)),
            Self::Restore(number) => content.aside.backup.as_ref().is_some_and(|(have, _)| have == number),
            Self::Undo => content.aside.undo.is_some(),
            Self::Remember(_)
            | Self::Import(_)
            | Self::Snapshot
            | Self::Backup(_)
            | Self::Embed
            | Self::Reembed
            | Self::Checkpoint
            | Self::Compact
            | Self::Index
            | Self::Reopen => true,
        }
    }

    /// What the store holds after it.
    pub(super) fn expect(&self, content: &mut Content) {
        let model = content.model;
        match self {
            Self::Remember(items) => {
                // Those of a group are embedded later.
                let is_single = items.len() == 1;
                for Item { memory, has_vector } in items {
                    let vector = (is_single || *has_vector).then(|| vector_of(&memory.text, model));
                    let held = Held { memory: Arc::new(memory.clone()), vector };
                    content.memories.insert(memory.id.to_string(), held);
                }
            }
            Self::Import(items) => {
                for Item { memory, has_vector } in items {
                    let vector = has_vector.then(|| vector_of(&memory.text, model));
                    let held = Held { memory: Arc::new(memory.clone()), vector };
                    content.memories.insert(memory.id.to_string(), held);
                }
            }
            Self::Repeat(id, tag) => content.change(id, |memory, _| {
                memory.tags.push(tag.clone());
                memory.importance = memory.importance.max(IMPORTANCE_REPEATED);
            }),
            Self::UpdateText(id, text) => content.change(id, |memory, vector| {
                memory.text.clone_from(text);
                *vector = Some(vector_of(text, model));
            }),
            Self::UpdateMetadata(id, number) => content.change(id, |memory, _| {
                memory.metadata.insert("number".to_owned(), (*number).into());
            }),
            Self::Forget(ids) | Self::Purge(ids) => {
                ids.iter().for_each(|id| _ = content.memories.remove(id));
                if matches!(self, Self::Purge(_)) {
                    // What it took out of the past is not to come back.
                    content.aside.undo = None;
                }
            }
            Self::Backup(number) => content.aside.backup = Some((*number, Arc::new(content.saved()))),
            Self::Restore(_) => {
                if let Some((_, saved)) = content.aside.backup.clone() {
                    content.go_to(&saved);
                }
            }
            Self::Undo => {
                if let Some(saved) = content.aside.undo.clone() {
                    content.go_to(&saved);
                }
            }
            Self::Embed => {
                for held in content.memories.values_mut() {
                    held.vector.get_or_insert_with(|| vector_of(&held.memory.text, model));
                }
            }
            Self::Reembed => {
                content.model = TinyModel::Second;
                for held in content.memories.values_mut() {
                    held.vector = Some(vector_of(&held.memory.text, TinyModel::Second));
                }
            }
            Self::Checkpoint | Self::Compact | Self::Index | Self::Snapshot | Self::Reopen => {}
        }
    }

    /// Does it, with a store that holds this. Gives the sequence that was acknowledged, where there is one.
    pub(super) fn perform(&self, session: &mut Session, content: &Content) -> Result<Option<u64>> {
        match self {
            Self::Remember(items) => {
                let mut all: Vec<_> = items.iter().map(|item| item.request(content.model)).collect();
                let store = session.store()?;
                if all.len() > 1 {
                    return Ok(store.remember_many(all)?.last().map(|done| done.seq));
                }
                let single = all.pop().expect("a group has at least one");
                Ok(Some(store.remember(single)?.seq))
            }
            Self::Repeat(id, tag) => {
                let text = content.memories[id].memory.text.as_str();
                let again = Remember::new(text).tags([tag]).importance(IMPORTANCE_REPEATED);
                Ok(Some(session.store()?.remember(again)?.seq))
            }
            Self::UpdateText(id, text) => {
                Ok(Some(session.store()?.update(id, Update::new().text(text.as_str()))?.seq))
            }
            Self::UpdateMetadata(id, number) => {
                Ok(Some(session.store()?.update(id, Update::new().meta("number", *number))?.seq))
            }
            Self::Forget(ids) => Ok(session.store()?.forget(ids)?.seq),
            Self::Embed => session.store()?.embed_pending(&mut |_| {}).map(|_| None),
            Self::Reembed => {
                session.store()?.reembed_with(&TinyModel::Second.embedder(), &mut |_| {}).map(|_| None)
            }
            // With another handle still there, that is all that closing does.
            Self::Checkpoint => session.store()?.clone().close().map(|()| None),
            Self::Compact => session.store()?.compact(&mut |_| {}).map(|_| None),
            Self::Index => session.store()?.build_index(false, &mut |_| {}).map(|()| None),
            Self::Purge(ids) => session.store()?.purge(ids, &mut |_| {}).map(|_| None),
            Self::Snapshot => session.store()?.snapshot(&mut |_| {}).map(|_| None),
            Self::Backup(number) => session.store()?.backup_to(&backup(*number), &mut |_| {}).map(|_| None),
            Self::Restore(number) => {
                let from = RestoreFrom::File(backup(*number));
                let options = RestoreOptions { exact: true, dry_run: false };
                session.store()?.restore(&from, options).map(|_| None)
            }
            Self::Undo => {
                session.store()?.restore(&RestoreFrom::Undo, RestoreOptions::default()).map(|_| None)
            }
            Self::Import(items) => {
                let store = session.store()?;
                let all: Vec<Incoming> = items.iter().map(|item| item.incoming(content.model)).collect();
                all.iter().try_for_each(|incoming| store.expect_vectors(incoming))?;
                let mut fill = |arriving: &mut Arriving<'_, '_, '_>| {
                    all.iter().try_for_each(|incoming| arriving.put(incoming).map(drop))
                };
                store.import_all("the import of a file", OnConflict::Fail, &mut fill).map(|()| None)
            }
            Self::Reopen => session.reopen().map(|()| None),
        }
    }
}

fn backup(number: usize) -> PathBuf {
    Path::new(HOME).join(format!("backup-{number}.db"))
}

impl Content {
    fn saved(&self) -> Saved {
        Saved { memories: self.memories.clone(), model: self.model }
    }

    /// What is the same stays with its vectors; what comes back has those that were kept of the same model.
    fn go_to(&mut self, saved: &Saved) {
        let before = self.saved();
        let same_model = saved.model == self.model;
        let gone_to: BTreeMap<String, Held> = saved
            .memories
            .iter()
            .map(|(id, then)| {
                let vector = match self.memories.get(id) {
                    Some(now) if now.memory.text == then.memory.text => now.vector.clone(),
                    _ => then.vector.clone().filter(|_| same_model),
                };
                (id.clone(), Held { memory: Arc::clone(&then.memory), vector })
            })
            .collect();
        let is_change = gone_to.len() != self.memories.len()
            || gone_to
                .iter()
                .any(|(id, held)| self.memories.get(id).is_none_or(|now| now.memory != held.memory));
        self.memories = gone_to;
        if is_change {
            self.aside.undo = Some(Arc::new(before));
        }
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Memory, &mut Option<Vec<f32>>)) {
        if let Some(held) = self.memories.get_mut(id) {
            change(Arc::make_mut(&mut held.memory), &mut held.vector);
        }
    }
}

impl Item {
    fn draw(number: usize, part: usize, chance: &mut Chance) -> Self {
        let id = MemoryId::new(format!("m{number}-{part}")).expect("an id");
        let mut memory = Memory::new(id, text(number, part, chance), 1_700_000_000 + number as i64);
        if chance.below(2) == 0 {
            memory.tags.push(format!("tag-{}", chance.below(3)));
        }
        if chance.below(4) == 0 {
            memory.metadata.insert("part".to_owned(), part.into());
        }
        Self { memory, has_vector: chance.below(2) == 0 }
    }

    fn request(&self, model: TinyModel) -> Remember {
        let Memory { id, text, timestamp, tags, metadata, .. } = &self.memory;
        let request = Remember::new(text.as_str()).id(id.clone()).at(*timestamp).tags(tags);
        let request = request.metadata(metadata.clone());
        if self.has_vector { request.vector(vector_of(text, model)) } else { request }
    }

    fn incoming(&self, model: TinyModel) -> Incoming {
        let mut remember = self.request(model);
        let given = remember.vector.take().map(Given::Own);
        Incoming { remember, given }
    }
}

fn text(number: usize, part: usize, chance: &mut Chance) -> String {
    let len = match chance.below(24) {
        // Too long to be written into space that is filled with zeros first.
        0 => 270_000,
        // Longer than most segments.
        1 | 2 => 20_000,
        _ => chance.index(900),
    };
    format!("{number}-{part} {}", "word ".repeat(len / 5))
}
