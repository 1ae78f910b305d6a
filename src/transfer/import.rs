//! An export of the original into the store.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use serde::Serialize;

use super::{ImportItem, ids, read_json};
use crate::error::{Error, Result};
use crate::memory::Remember;
use crate::store::{OnConflict, Outcome, Progress, Store};

/// Memories that are stored as one atomic group.
const GROUP_MEMORIES: usize = 4096;
/// Bytes of text that are stored as one atomic group.
const GROUP_TEXT_LEN: usize = 8 << 20;

/// What became of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Imported {
    /// New memories.
    pub imported: u64,
    /// Memories that were there already, word for word.
    pub unchanged: u64,
    /// Memories that got a new version.
    pub replaced: u64,
    /// Memories that stayed as they were although the file says otherwise.
    pub kept: u64,
    /// What was changed on the way in, such as a clamped importance, and what was left out: one line each.
    pub notes: Vec<String>,
}

impl Store {
    /// Imports the original's JSON export, or a bare array of its memories. Ids, times and texts are kept. Everything
    /// is checked before anything is stored; what is stored goes in groups of up to 4,096 memories, and an import that
    /// is broken off by a crash can simply be repeated. With `dry_run` nothing is stored.
    ///
    /// # Errors
    /// Those of [`super::read_json`], [`Conflict`](crate::ErrorKind::Conflict) as `on_conflict` says, and those of
    /// [`Store::remember`].
    pub fn import_json(
        &self,
        file: &Path,
        on_conflict: OnConflict,
        dry_run: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Imported> {
        let failed = |error| Error::io("open", file, error);
        let mut reader = File::open(file).map_err(failed)?;
        let mut preview = Imported::default();
        let summary = read_json(&reader, &mut |item| {
            let (remember, notes) = named(item);
            preview.count(self.preview_import(&remember, on_conflict)?);
            preview.notes.extend(notes);
            Ok(())
        })?;
        preview.notes.extend(summary.notes.iter().map(ToString::to_string));
        preview.notes.extend(summary.unknown_keys.iter().map(|(name, key)| {
            format!(
                "key {name:?} is not known and was left out, first in memory {}, {} times",
                key.first, key.count
            )
        }));
        if dry_run {
            return Ok(preview);
        }
        reader.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut imported = Imported { notes: preview.notes, ..Imported::default() };
        let mut group = Vec::new();
        let mut text_len = 0;
        let mut done = 0;
        let mut store = |group: &mut Vec<Remember>, imported: &mut Imported| -> Result<()> {
            for outcome in self.import_group(group, on_conflict)? {
                imported.count(outcome);
            }
            done += group.len() as u64;
            group.clear();
            progress(Progress::new(done, summary.memories));
            Ok(())
        };
        read_json(&reader, &mut |item| {
            let (remember, _) = named(item);
            text_len += remember.text.len();
            group.push(remember);
            if group.len() >= GROUP_MEMORIES || text_len >= GROUP_TEXT_LEN {
                text_len = 0;
                store(&mut group, &mut imported)?;
            }
            Ok(())
        })?;
        store(&mut group, &mut imported)?;
        Ok(imported)
    }
}

impl Imported {
    fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::New => &mut self.imported,
            Outcome::Unchanged => &mut self.unchanged,
            Outcome::Replaced => &mut self.replaced,
            Outcome::Kept => &mut self.kept,
        } += 1;
    }
}

/// The memory with an id: one without gets it from what it says, so that importing it twice stores it once.
fn named(item: ImportItem) -> (Remember, Vec<String>) {
    let notes = item.notes.iter().map(ToString::to_string).collect();
    let mut remember = item.remember;
    if remember.id.is_none() {
        remember.id = Some(ids::made(&remember));
    }
    (remember, notes)
}
