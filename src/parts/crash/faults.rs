//! Workloads on a disk that fails: what was acknowledged stays, and what failed says so.

use std::io;

use super::super::chance::Chance;
use super::super::disk::{Change, Image, SimulatedDisk, Trouble};
use super::judge::{Broken, Judge, tried};
use super::recording::{Opening, Recording};
use super::session::Session;
use super::workload::{Content, Operation};
use crate::error::{Durability, Error};

/// What a disk does wrong, once or from then on.
pub(super) const TROUBLES: [Trouble; 7] = [
    Trouble::Once(io::ErrorKind::Other),
    Trouble::Once(io::ErrorKind::StorageFull),
    Trouble::Once(io::ErrorKind::Interrupted),
    Trouble::Short,
    Trouble::Full,
    Trouble::ReadOnce(io::ErrorKind::Other),
    Trouble::ReadOnce(io::ErrorKind::Interrupted),
];

/// Operations that are done after the trouble.
const STEPS_AFTER: usize = 3;

/// A workload from one opening on, which meets trouble.
pub(super) struct Faulted<'a> {
    pub(super) recording: &'a Recording,
    pub(super) opening: &'a Opening,
    /// What was on the disk then.
    pub(super) start: Image,
    /// The changing call of the recording at which the trouble comes, ...
    pub(super) call: usize,
    /// ... or the reading call.
    pub(super) read: u64,
    pub(super) trouble: Trouble,
}

/// What the caller knows of the store.
struct Known {
    content: Content,
    /// What it holds if what failed in an unknown state was written.
    or_else: Option<Content>,
    seq: u64,
}

impl Faulted<'_> {
    /// Runs it and judges what is left, after a kill and after a power cut. Says how many states it judged.
    pub(super) fn run(&self, chance: &mut Chance) -> Result<u64, Broken> {
        let disk = SimulatedDisk::of(self.start.clone());
        let (content, seq) = self.recording.after(self.opening.steps);
        let mut known = Known { content, or_else: None, seq };
        let (call, read) = (self.call as u64 - self.opening.calls, self.read - self.opening.reads);
        let is_reading = matches!(self.trouble, Trouble::ReadOnce(_));
        disk.plan(if is_reading { read } else { call }, self.trouble);
        let is_over = || if is_reading { disk.reads() > read } else { disk.calls() > call };

        let mut session = self.open(&disk)?;
        let mut left = STEPS_AFTER;
        for step in &self.recording.steps[self.opening.steps..] {
            if is_over() {
                left -= 1;
            }
            let Some(open) = session.as_mut().filter(|_| left > 0) else { break };
            if step.operation.applies(&known.content) {
                self.step(&step.operation, open, &mut known)?;
            }
            if open.store().is_err() {
                session = self.open(&disk)?;
                if let Some(session) = &session {
                    self.settle(session, &mut known)?;
                }
            }
        }
        disk.mend();
        if let Some(session) = &mut session {
            let store = tried("the store", session.store())?;
            // The disk works again, so answers may be errors no more.
            self.judge(&known, |judge| judge.list(store))?;
            self.write_late(session, &mut known)?;
        }
        for image in [disk.image(), disk.image().after_power_cut(chance)] {
            self.judge(&known, |judge| judge.crash(image, chance))?;
        }
        Ok(2)
    }

    /// Opens the store. Trouble that comes once may keep it shut once; a full disk, for as long as it is full.
    fn open(&self, disk: &SimulatedDisk) -> Result<Option<Session>, Broken> {
        let first = match Session::open(disk, self.recording.segment_len_max) {
            Ok(session) => return Ok(Some(session)),
            Err(error) => error,
        };
        self.allow(&first)?;
        match Session::open(disk, self.recording.segment_len_max) {
            Ok(session) => Ok(Some(session)),
            Err(_) if self.trouble == Trouble::Full => Ok(None),
            Err(error) => Err(format!("it does not open after the trouble: {error:?}")),
        }
    }

    fn step(&self, operation: &Operation, session: &mut Session, known: &mut Known) -> Result<(), Broken> {
        let mut after = known.content.clone();
        operation.expect(&mut after);
        match operation.perform(session, &known.content) {
            Ok(Some(_)) if known.or_else.is_some() => {
                return Err(format!("{operation:?} was acknowledged after a failed commit"));
            }
            Ok(seq) => {
                known.seq = known.seq.max(seq.unwrap_or(0));
                match operation {
                    Operation::Reopen => self.settle(session, known)?,
                    _ => known.content = after,
                }
            }
            Err(error) => {
                self.allow(&error)?;
                match error.durability() {
                    Durability::NotWritten => {}
                    Durability::Unknown => known.or_else = Some(after),
                    Durability::Written => known.content = after,
                }
            }
        }
        Ok(())
    }

    /// Now that the disk works, a write is good, unless a former one failed in an unknown state.
    fn write_late(&self, session: &mut Session, known: &mut Known) -> Result<(), Broken> {
        let is_poisoned = known.or_else.is_some();
        let late = Operation::remember("late");
        let mut after = known.content.clone();
        late.expect(&mut after);
        match late.perform(session, &known.content) {
            Ok(seq) if !is_poisoned => {
                known.content = after;
                known.seq = known.seq.max(seq.unwrap_or(0));
                Ok(())
            }
            Ok(_) => Err("a write was acknowledged after a failed commit".to_owned()),
            Err(error) if is_poisoned && error.durability() == Durability::NotWritten => Ok(()),
            Err(error) => Err(format!("it takes no writes any more: {error:?}")),
        }
    }

    /// After the store was opened anew it is known again what it holds.
    fn settle(&self, session: &Session, known: &mut Known) -> Result<(), Broken> {
        if known.or_else.is_some() {
            let store = tried("the store", session.store())?;
            known.content = self.judge(known, |judge| judge.fold(store))?.content();
            known.or_else = None;
        }
        Ok(())
    }

    /// Signals and short transfers are no reason to fail, but where nobody can tell what an interrupted call did.
    fn allow(&self, error: &Error) -> Result<(), Broken> {
        let is_repeatable = matches!(
            self.recording.journal[self.call],
            Change::Write(..)
                | Change::SetLen(..)
                | Change::Sync(_)
                | Change::SyncFolder(_)
                | Change::Rename(..)
                | Change::Remove(_)
        );
        match self.trouble {
            Trouble::Once(io::ErrorKind::Interrupted) if is_repeatable => {}
            Trouble::Short => {}
            _ => return Ok(()),
        }
        Err(format!("it failed: {error:?}"))
    }

    fn judge<T>(
        &self,
        known: &Known,
        judge: impl FnOnce(&Judge<'_>) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        let possible: Vec<_> = [&known.content].into_iter().chain(&known.or_else).collect();
        judge(&Judge {
            segment_len_max: self.recording.segment_len_max,
            possible: &possible,
            acknowledged_seq: known.seq,
        })
    }
}
