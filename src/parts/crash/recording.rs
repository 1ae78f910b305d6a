//! A workload that was run once, with every call of the disk: what a cut leaves follows from that.

use std::path::Path;

use super::super::chance::Chance;
use super::super::disk::{Change, SimulatedDisk};
use super::judge::Broken;
use super::session::{ROOT, Session};
use super::workload::{Content, Operation};

/// Operations of one workload, but for the last one, which closes the store and opens it again.
const OPERATIONS: usize = 24;
/// Segments of this many bytes roll after a few records, ...
const SEGMENT_LEN_MIN: u64 = 6 << 10;
/// ... those of this many once in a workload.
const SEGMENT_LEN_MAX: u64 = 40 << 10;
/// In one of eight workloads they do not roll, and much is filled with zeros ahead.
const SEGMENT_LEN_HUGE: u64 = 4 << 20;

/// A workload that met no trouble.
pub(super) struct Recording {
    pub(super) segment_len_max: u64,
    pub(super) steps: Vec<Step>,
    /// Every call that changed something.
    pub(super) journal: Vec<Change>,
    pub(super) openings: Vec<Opening>,
}

/// An operation that was acknowledged.
pub(super) struct Step {
    pub(super) operation: Operation,
    /// What the store holds after it.
    pub(super) after: Content,
    /// Changing calls until then.
    pub(super) calls: u64,
    /// The highest sequence that was acknowledged until then.
    pub(super) seq: u64,
}

/// A place where the store is closed and about to be opened.
pub(super) struct Opening {
    /// Changing calls until then.
    pub(super) calls: u64,
    /// Reading calls until then.
    pub(super) reads: u64,
    /// Steps that are done as soon as it is open.
    pub(super) steps: usize,
}

impl Recording {
    /// Runs the workload of this seed.
    pub(super) fn make(seed: u64) -> Result<Self, Broken> {
        let mut chance = Chance::of(seed, 0);
        let segment_len_max = match chance.below(8) {
            0 => SEGMENT_LEN_HUGE,
            _ => SEGMENT_LEN_MIN + chance.below(SEGMENT_LEN_MAX - SEGMENT_LEN_MIN),
        };
        let disk = SimulatedDisk::new(Path::new(ROOT));
        disk.record();
        if is_unsteady(seed) {
            disk.make_unsteady(Chance::of(seed, 1));
        }
        let failed = |what: &str, error| format!("{what} without trouble: {error:?}");
        let mut session = Session::open(&disk, segment_len_max).map_err(|error| failed("open", error))?;
        let mut openings = vec![Opening { calls: 0, reads: 0, steps: 0 }];
        let (mut steps, mut content, mut seq) = (Vec::new(), Content::default(), 0);
        for number in 0..=OPERATIONS {
            let operation = match number {
                OPERATIONS => Operation::Reopen,
                _ => Operation::draw(number, &mut chance, &content),
            };
            let acknowledged = operation.perform(&mut session, &content);
            let acknowledged = acknowledged.map_err(|error| failed(&format!("{operation:?}"), error))?;
            operation.expect(&mut content);
            seq = seq.max(acknowledged.unwrap_or(0));
            if let Operation::Reopen = operation {
                let (calls, reads) = session.closed_at;
                openings.push(Opening { calls, reads, steps: number + 1 });
            }
            steps.push(Step { operation, after: content.clone(), calls: disk.calls(), seq });
        }
        Ok(Self { segment_len_max, steps, journal: disk.recorded(), openings })
    }

    /// How many steps were acknowledged before this call.
    pub(super) fn steps_before(&self, call: usize) -> usize {
        self.steps.partition_point(|step| step.calls <= call as u64)
    }

    /// What the store held after so many steps, and the highest sequence that was acknowledged.
    pub(super) fn after(&self, steps: usize) -> (Content, u64) {
        let last = steps.checked_sub(1).map(|last| &self.steps[last]);
        last.map_or_else(Default::default, |step| (step.after.clone(), step.seq))
    }
}

/// Whether the calls of this seed's recording are interrupted and cut short all through.
pub(super) fn is_unsteady(seed: u64) -> bool {
    seed.is_multiple_of(4)
}
