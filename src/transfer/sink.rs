//! Where the readers of all forms put what they find: one memory after the other, repaired, with an id.

use super::fields::Fields;
use super::ids::{self, Ids};
use super::repair::repaired;
use super::values::shrink;
use super::{ImportItem, NOTES_MAX, Note, placed};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::MemoryId;
use crate::store::{Given, Incoming};

/// One memory of a file.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) incoming: Incoming,
    /// Where it stands in the file, for messages.
    pub(super) place: String,
    /// What was changed to fit the limits of this store.
    pub(super) notes: Vec<Note>,
}

/// What a file held.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// Memories that were given out.
    pub(super) memories: u64,
    /// What holds no memory, or one that stood there already.
    pub(super) left_out: u64,
    /// What is to be said about what was left out, and about the file as a whole.
    pub(super) notes: Vec<Note>,
}

/// What takes the memories of a file.
pub(super) type Each<'a> = dyn FnMut(Item) -> Result<()> + 'a;

/// Whether the memories of a form have times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    /// A memory without one is noted.
    Expected,
    /// Most have none, so none is noted.
    Rare,
}

pub(super) struct Sink<'a, 'b> {
    each: &'a mut Each<'b>,
    times: Times,
    ids: Ids,
    report: Report,
}

impl<'a, 'b> Sink<'a, 'b> {
    pub(super) fn new(times: Times, each: &'a mut Each<'b>) -> Self {
        Self { each, times, ids: Ids::default(), report: Report::default() }
    }

    /// Takes a memory. One without an id gets it from what it says; the same once more is left out.
    ///
    /// # Errors
    /// What cannot be repaired, or an id that stood there before, with the place before it; those of the receiver.
    pub(super) fn push(
        &mut self,
        place: &dyn Fn() -> String,
        fields: Fields,
        given: Option<Given>,
    ) -> Result<()> {
        self.take(place, fields, given, None)
    }

    /// As [`Sink::push`], under an id that was made of what the memory says and not of all of it.
    pub(super) fn push_made(
        &mut self,
        place: &dyn Fn() -> String,
        made: MemoryId,
        fields: Fields,
    ) -> Result<()> {
        self.take(place, fields, None, Some(made))
    }

    fn take(
        &mut self,
        place: &dyn Fn() -> String,
        mut fields: Fields,
        given: Option<Given>,
        made: Option<MemoryId>,
    ) -> Result<()> {
        let index = self.report.memories + self.report.left_out + 1;
        let mut notes = Vec::new();
        let too_large = fields.metadata.as_mut().map(shrink).unwrap_or_default();
        let is_quiet = fields.timestamp.is_none() && self.times == Times::Rare;
        let mut remember = repaired(fields, &mut |what| notes.push(Note { index, what }))
            .map_err(|error| placed(error, &place()))?;
        if is_quiet {
            // That it has no time, which is the first thing to be noted.
            notes.remove(0);
        }
        if too_large > 0 {
            let what = format!("{too_large} of its values are too large for metadata and were left out");
            notes.push(Note { index, what });
        }
        let own_id = remember.id.take();
        let is_own = own_id.is_some();
        let id = own_id.or(made).unwrap_or_else(|| ids::made(&remember));
        match self.ids.insert(&id, index) {
            Some(other) if is_own => {
                let error = Error::new(ErrorKind::Invalid, format!("it has the same id as memory {other}"));
                return Err(placed(
                    error.hint("give each memory an id of its own, or leave the id out"),
                    &place(),
                ));
            }
            Some(other) => {
                self.leave_out(format!("it says the same as memory {other} and was left out"));
                return Ok(());
            }
            None => remember.id = Some(id),
        }
        self.report.memories += 1;
        (self.each)(Item { incoming: Incoming { remember, given }, place: place(), notes })
    }

    /// Takes a memory of the original's export, which was repaired and whose id is its own.
    pub(super) fn push_repaired(&mut self, item: ImportItem) -> Result<()> {
        let ImportItem { index, mut remember, notes } = item;
        if remember.id.is_none() {
            let made = ids::made(&remember);
            if let Some(other) = self.ids.insert(&made, index) {
                self.leave_out(format!("it says the same as memory {other} and was left out"));
                return Ok(());
            }
            remember.id = Some(made);
        }
        let given = remember.vector.take().map(Given::Own);
        self.report.memories += 1;
        let place = format!("memory {index}");
        (self.each)(Item { incoming: Incoming { remember, given }, place, notes })
    }

    /// Counts what holds no memory, and says why.
    pub(super) fn leave_out(&mut self, what: String) {
        self.report.left_out += 1;
        let index = self.report.memories + self.report.left_out;
        if self.report.notes.len() < NOTES_MAX {
            self.report.notes.push(Note { index, what });
        }
    }

    /// Says something about the file as a whole.
    pub(super) fn note(&mut self, what: String) {
        if self.report.notes.len() < NOTES_MAX {
            self.report.notes.push(Note { index: 0, what });
        }
    }

    pub(super) fn finish(self) -> Report {
        self.report
    }
}
