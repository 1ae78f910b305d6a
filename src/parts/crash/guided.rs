//! A workload that somebody else chooses, step by step: a fuzzer, for one.

use std::path::Path;

use super::super::chance::Chance;
use super::super::disk::{SimulatedDisk, Trouble};
use super::faults::TROUBLES;
use super::judge::{Broken, Judge};
use super::session::{ROOT, Session};
use super::workload::{Content, Operation};
use crate::error::Durability;

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// An operation that suits what the store holds and follows from this number.
    Operation(u16),
    /// The disk does something wrong, of this kind, after so many more calls.
    Trouble(u8, u8),
    /// The disk does nothing wrong any more.
    Mend,
    /// All programs are killed.
    Kill,
    /// The power is cut; chance keeps a part of what was not synced.
    PowerCut(u16),
    /// The store is closed, and a copy of it rots.
    Rot(u16),
}

/// Does these steps with a store whose segments have at most so many bytes. Panics when something does not hold.
pub(crate) fn run(segment_len_max: u64, steps: impl Iterator<Item = Step>) {
    let mut guided = Guided::new(segment_len_max);
    for (number, step) in steps.enumerate() {
        guided.step(number, step).unwrap_or_else(|broken| panic!("step {number}, {step:?}: {broken}"));
    }
    guided.end(None);
    guided.open().unwrap_or_else(|broken| panic!("the end: {broken}"));
}

struct Guided {
    disk: SimulatedDisk,
    segment_len_max: u64,
    session: Option<Session>,
    content: Content,
    /// What the store holds if what failed in an unknown state was written. It takes no more writes then.
    or_else: Option<Content>,
    seq: u64,
    /// The disk does something wrong, or did since the store was opened, that is a reason for operations to fail.
    may_fail: bool,
}

impl Guided {
    fn new(segment_len_max: u64) -> Self {
        Self {
            disk: SimulatedDisk::new(Path::new(ROOT)),
            segment_len_max,
            session: None,
            content: Content::default(),
            or_else: None,
            seq: 0,
            may_fail: false,
        }
    }

    fn step(&mut self, number: usize, step: Step) -> Result<(), Broken> {
        match step {
            Step::Operation(seed) => {
                let operation = Operation::draw(number, &mut Chance(seed.into()), &self.content);
                self.perform(&operation).map_err(|broken| {
                    let operation: String = format!("{operation:?}").chars().take(300).collect();
                    format!("{operation}: {broken}")
                })
            }
            Step::Trouble(kind, after) => {
                let trouble =
                    *TROUBLES.get(usize::from(kind) % (TROUBLES.len() + 1)).unwrap_or(&Trouble::PowerCut);
                let is_reading = matches!(trouble, Trouble::ReadOnce(_));
                let calls = if is_reading { self.disk.reads() } else { self.disk.calls() };
                self.disk.plan(calls + u64::from(after), trouble);
                // What is transferred in parts is whole in the end.
                self.may_fail |= trouble != Trouble::Short;
                Ok(())
            }
            Step::Mend => {
                self.disk.mend();
                Ok(())
            }
            Step::Kill => {
                self.end(None);
                Ok(())
            }
            Step::PowerCut(seed) => {
                self.end(Some(&mut Chance(seed.into())));
                Ok(())
            }
            Step::Rot(seed) => self.rot(&mut Chance(seed.into())),
        }
    }

    fn perform(&mut self, operation: &Operation) -> Result<(), Broken> {
        self.open()?;
        let session = self.session.as_mut().expect("it was just opened");
        let mut after = self.content.clone();
        operation.expect(&mut after);
        match operation.perform(session, &self.content) {
            Ok(Some(_)) if self.or_else.is_some() => {
                Err("it was acknowledged after a failed commit".to_owned())
            }
            Ok(seq) => {
                self.seq = self.seq.max(seq.unwrap_or(0));
                if let Operation::Reopen = operation {
                    return self.settle();
                }
                self.content = after;
                if self.may_fail { Ok(()) } else { self.judge(|judge, store| judge.list(store)) }
            }
            Err(error) => {
                if !self.may_fail {
                    return Err(format!("it failed: {error:?}"));
                }
                match error.durability() {
                    Durability::NotWritten => {}
                    Durability::Unknown => self.or_else = Some(after),
                    Durability::Written => self.content = after,
                }
                if session.store().is_err() {
                    self.session = None;
                }
                Ok(())
            }
        }
    }

    /// Opens the store, unless it is open. Trouble may keep it shut until the next start of everything.
    fn open(&mut self) -> Result<(), Broken> {
        if self.session.is_some() {
            return Ok(());
        }
        let opened = match Session::open(&self.disk, self.segment_len_max) {
            Err(_) if self.may_fail => {
                self.end(None);
                Session::open(&self.disk, self.segment_len_max)
            }
            opened => opened,
        };
        self.session = Some(opened.map_err(|error| format!("it does not open: {error:?}"))?);
        self.settle()
    }

    /// After the store was opened it is known again what it holds. The disk works from here on.
    fn settle(&mut self) -> Result<(), Broken> {
        self.disk.mend();
        self.may_fail = false;
        let folded = self.judge(|judge, store| judge.look(store))?;
        (self.content, self.seq) = (folded.content(), folded.last_seq);
        self.or_else = None;
        Ok(())
    }

    /// Ends all programs, and without power also what was not synced.
    fn end(&mut self, power_cut: Option<&mut Chance>) {
        let image = self.disk.image();
        // Whoever still writes has no disk.
        self.disk.plan(self.disk.calls(), Trouble::PowerCut);
        self.session = None;
        self.disk = SimulatedDisk::of(
            power_cut.map_or_else(|| image.clone(), |chance| image.after_power_cut(chance)),
        );
        self.may_fail = false;
    }

    fn rot(&mut self, chance: &mut Chance) -> Result<(), Broken> {
        self.open()?;
        // Only of a closed store it is known what each file must prove.
        if self.may_fail || self.or_else.is_some() {
            return Ok(());
        }
        self.session = None;
        let mut image = self.disk.image();
        let Some(what) = image.rot(chance) else { return Ok(()) };
        let possible = [&self.content];
        let judge = Judge { segment_len_max: self.segment_len_max, possible: &possible, acknowledged_seq: 0 };
        judge.rot(image).map_err(|broken| format!("{what}: {broken}"))
    }

    fn judge<T>(
        &self,
        judge: impl FnOnce(&Judge<'_>, &crate::store::Engine) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        let possible: Vec<_> = [&self.content].into_iter().chain(&self.or_else).collect();
        let session = self.session.as_ref().expect("it is open");
        let store = session.store().map_err(|error| format!("{error:?}"))?;
        let with =
            Judge { segment_len_max: self.segment_len_max, possible: &possible, acknowledged_seq: self.seq };
        judge(&with, store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_does_not_hold_as_the_model_does_is_noticed() {
        let mut guided = Guided::new(8 << 10);
        for number in 0..20 {
            guided.step(number, Step::Operation(number as u16)).expect("nothing is wrong");
        }
        let last = guided.content.memories.pop_last().expect("some were remembered");
        for step in [Step::Kill, Step::PowerCut(1)] {
            guided.step(20, step).expect("nothing is asked");
            assert!(guided.open().expect_err("one too many").contains(last.0.as_str()));
        }
        guided.content.memories.insert(last.0, last.1);
        guided.session = None;
        guided.open().expect("as it was");
        guided.seq += 1;
        assert!(guided.settle().expect_err("a sequence is gone").contains("the log ends at"));
    }
}
