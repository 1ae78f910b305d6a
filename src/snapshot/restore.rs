//! Restore: from a backup or another file, to a moment of the log, or back from the last restore.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::backup::{Backup, latest_of};
use super::copy::{Copied, opened};
use super::layout::hex;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::ModelIdentity;
use crate::store::{Changed, Changes, Engine, Inner, RestoreKind};

/// What to restore.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub enum RestoreFrom {
    /// A backup, a snapshot, or another file with the original's table of memories.
    File(PathBuf),
    /// The newest verified backup of the home.
    Latest,
    /// The state after the record of this sequence.
    Seq(u64),
    /// The state at this time, in milliseconds since 1970.
    At(i64),
    /// The state before the last restore.
    Undo,
}

/// How a restore is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct RestoreOptions {
    /// Go back to exactly what a file holds. Otherwise a file gives back what the store has lost or never had, and all
    /// that the log knows to be newer stays.
    pub exact: bool,
    /// Say what would change, and change nothing.
    pub dry_run: bool,
}

/// What a restore did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Restored {
    /// What it went to.
    pub kind: RestoreKind,
    /// The name of that.
    pub target: String,
    /// Whether nothing was changed because only a look was asked for.
    pub dry_run: bool,
    /// What is different now.
    pub changed: Changed,
    /// Memories of which the log has something newer than the file, and that stay.
    pub kept: u64,
    /// Sequence up to which records are in the state that was gone to, where that is known.
    pub to_seq: Option<u64>,
    /// The state before it: all records up to this sequence. `restore --undo` brings it back.
    pub from_seq: u64,
    /// Rows that could not be taken as they are, one line each.
    pub problems: Vec<String>,
}

impl Engine {
    /// Takes the store to another state.
    pub(crate) fn restore(&self, from: &RestoreFrom, options: RestoreOptions) -> Result<Restored> {
        let store = self.inner();
        if !options.dry_run {
            store.check_writable()?;
        }
        match from {
            RestoreFrom::File(path) => restore_file(store, path, options),
            RestoreFrom::Latest => restore_file(store, &latest(store)?.path, options),
            RestoreFrom::Seq(seq) => {
                restore_past(store, RestoreKind::Moment, &format!("sequence {seq}"), *seq, options)
            }
            RestoreFrom::At(ms) => {
                let seq = store.seq_at(*ms)?;
                let time = jiff::Timestamp::from_millisecond(*ms).unwrap_or_default();
                restore_past(store, RestoreKind::Moment, &time.to_string(), seq, options)
            }
            RestoreFrom::Undo => {
                let last = store.last_restore()?.ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, "nothing was restored yet, so there is nothing to undo")
                })?;
                let target = format!("the state before the restore at sequence {}", last.seq);
                restore_past(store, RestoreKind::Undo, &target, last.restore.point_seq, options)
            }
        }
    }
}

/// The newest verified backup.
fn latest(store: &Inner) -> Result<Backup> {
    latest_of(&**store.disk(), store.home())?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "there is no verified backup")
            .at(store.home())
            .hint("`memento-kv backups` lists all; name an unverified one to restore it")
    })
}

fn restore_past(
    store: &Inner,
    kind: RestoreKind,
    target: &str,
    seq: u64,
    options: RestoreOptions,
) -> Result<Restored> {
    let past = store.past(seq)?;
    let mut plan = |changes: &mut Changes<'_, '_>| {
        let then = past.state()?;
        let is_same_model = then.model() == changes.state().model();
        then.for_each(|whole| changes.put(whole.memory, whole.vectors.filter(|_| is_same_model)))?;
        changes.forget_all_others()
    };
    let (changed, from_seq) = if options.dry_run {
        (store.preview(Some(&past), &mut plan)?, store.durable_seq())
    } else {
        store.restore_as(kind, target, Some(&past), &mut plan)?
    };
    Ok(Restored {
        kind,
        target: target.to_owned(),
        dry_run: options.dry_run,
        changed,
        kept: 0,
        to_seq: Some(seq),
        from_seq,
        problems: Vec::new(),
    })
}

fn restore_file(store: &Inner, path: &Path, options: RestoreOptions) -> Result<Restored> {
    // The copy has one name: whoever publishes meanwhile, or restores, would put another file in its place.
    let _alone = store.publishing();
    let copied = opened(store, path)?;
    let target = path.file_name().unwrap_or(OsStr::new("file")).to_string_lossy().into_owned();
    take_over(store, &copied, RestoreKind::File, &target, options)
}

/// Takes over what a file holds.
pub(super) fn take_over(
    store: &Inner,
    copied: &Copied,
    kind: RestoreKind,
    target: &str,
    options: RestoreOptions,
) -> Result<Restored> {
    let file = &copied.file;
    let stamp = file.stamp.as_ref();
    if let (RestoreKind::File, false, Some(model)) =
        (kind, options.dry_run, stamp.and_then(|stamp| stamp.model.as_ref()))
    {
        // Or the vectors in it, which perhaps nobody can make again, would be of no use to a new store.
        store.adopt_model(model)?;
    }
    let own_seq = stamp.filter(|stamp| stamp.store_id == hex(&store.store_id())).map(|stamp| stamp.seq);
    // What was forgotten after the file was written stays so, unless exactly the file's state is asked for.
    let mut forgotten_since = BTreeMap::new();
    if let Some(seq) = own_seq.filter(|seq| !options.exact && *seq < store.durable_seq()) {
        forgotten_since = store.forgotten_since(seq)?;
    }
    let (mut kept, mut problems) = (0, Vec::new());
    let mut plan = |changes: &mut Changes<'_, '_>| {
        kept = 0;
        let model = changes.state().model().cloned();
        let is_same_model = match stamp {
            Some(stamp) => stamp.model == model,
            None => model.as_ref().is_some_and(is_model_of_the_original),
        };
        let summary = file.for_each(|found| {
            let id = found.memory.id.clone();
            if !options.exact {
                let present = changes.state().row(id.as_str())?;
                let is_newer = match (&present, found.seq.filter(|_| own_seq.is_some())) {
                    (Some(row), Some(seq)) => row.seq > seq,
                    _ => false,
                };
                if is_newer || (present.is_none() && forgotten_since.contains_key(id.as_str())) {
                    kept += 1;
                    return changes.leave(id.as_str());
                }
            }
            let vectors = found.vectors.filter(|_| is_same_model && (found.is_pristine || stamp.is_none()));
            changes.put(found.memory, vectors.filter(|values| are_unit(values, model.as_ref())))
        })?;
        // It is read once: when it turns out to be damaged, nothing of it is taken.
        file.expect_sound(&summary)?;
        problems = summary.problems;
        if options.exact { changes.forget_all_others() } else { Ok(()) }
    };
    let (changed, from_seq) = if options.dry_run {
        (store.preview(None, &mut plan)?, store.durable_seq())
    } else {
        store.restore_as(kind, target, None, &mut plan)?
    };
    Ok(Restored {
        kind,
        target: target.to_owned(),
        dry_run: options.dry_run,
        changed,
        kept,
        to_seq: own_seq,
        from_seq,
        problems,
    })
}

/// A restore of which nothing more is known.
pub(super) fn plain(kind: RestoreKind, target: &str, changed: Changed, from_seq: u64) -> Restored {
    let target = target.to_owned();
    Restored { kind, target, dry_run: false, changed, kept: 0, to_seq: None, from_seq, problems: Vec::new() }
}

/// Whether vectors that the original, or who knows who, has written can be those of the store's model.
pub(super) fn is_model_of(model: Option<&ModelIdentity>, vectors: Option<&[f32]>) -> bool {
    model.is_some_and(is_model_of_the_original) && vectors.is_some_and(|values| are_unit(values, model))
}

/// Whether this is the model whose vectors the original stored.
fn is_model_of_the_original(model: &ModelIdentity) -> bool {
    model.name.contains("MiniLM-L6-v2") || model.name.contains("minilm-l6")
}

/// Whether each window has length 1, as the store's vectors have.
fn are_unit(values: &[f32], model: Option<&ModelIdentity>) -> bool {
    let dimensions = model.map_or(0, |model| model.dimensions as usize);
    dimensions > 0
        && values.len().is_multiple_of(dimensions)
        && values.chunks(dimensions).all(|window| {
            let norm: f32 = window.iter().map(|value| value * value).sum();
            (norm - 1.0).abs() < 1e-3
        })
}
