//! The crash campaign: workloads on a simulated disk, cut at every call, failing at every call, rotting.
//!
//! A workload follows from a seed. It is run once without trouble, with every call of the disk recorded. Then:
//!
//! - it ends at each call, by a kill or by a power cut, of which chance keeps any part of what was not synced; then the
//!   recovery from that is cut, too;
//! - it is run again with the disk failing at each call: an error, no space once or for good, a signal, a short
//!   transfer, a read that fails. A sync that fails drops what it covered;
//! - files of the store that was closed or recovered rot: a bit, a sector, a page.
//!
//! Each time the store must open and hold exactly what was acknowledged, byte for byte, or that and the whole of the one
//! operation that was on its way; its sequences have no gap, its view says what the log says, a check finds nothing, a
//! second opening changes no byte of it, and it goes on. After rot an error or a finding must say so, or it is harmless.

mod explore;
mod faults;
mod fold;
mod guided;
mod judge;
mod recording;
mod session;
mod workload;

pub(super) use self::guided::{Step, run as run_steps};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much is explored.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The first seed; each further workload has the next one.
    pub seed: u64,
    /// Only this call of the first seed.
    pub call: Option<u64>,
    /// One of so many calls of each workload; 1 is all of them.
    pub every: u64,
    /// It ends after so many states, ...
    pub states: u64,
    /// ... or after this time.
    pub time: Option<Duration>,
    /// Workloads at the same time.
    pub jobs: usize,
}

/// What was explored.
#[derive(Clone, Debug, Default)]
pub struct Explored {
    /// Disks from which a store was opened and judged.
    pub states: u64,
    /// Calls at which something happened.
    pub points: u64,
    /// Workloads that were seen to their end.
    pub seeds: u64,
    /// What does not hold, each with how to repeat it.
    pub failures: Vec<String>,
}

/// What all jobs count together.
struct Tally<'a> {
    campaign: &'a Campaign,
    started: Instant,
    explored: Mutex<Explored>,
    is_over: AtomicBool,
    progress: &'a (dyn Fn(&Explored) + Sync),
}

impl Campaign {
    /// Explores until the campaign is over, and tells `progress` after each step.
    #[must_use]
    pub fn run(&self, progress: &(dyn Fn(&Explored) + Sync)) -> Explored {
        let tally = Tally {
            campaign: self,
            started: Instant::now(),
            explored: Mutex::default(),
            is_over: AtomicBool::new(false),
            progress,
        };
        let next = AtomicU64::new(self.seed);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while !tally.is_over() {
                        let seed = next.fetch_add(1, Ordering::SeqCst);
                        if self.call.is_some() && seed > self.seed {
                            break;
                        }
                        explore::explore(seed, self, &tally);
                    }
                });
            }
        });
        tally.explored.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally<'_> {
    fn states(&self, states: u64) {
        let mut explored = self.explored.lock().unwrap_or_else(PoisonError::into_inner);
        explored.states += states;
        let is_late = self.campaign.time.is_some_and(|time| self.started.elapsed() >= time);
        if explored.states >= self.campaign.states || is_late {
            self.is_over.store(true, Ordering::SeqCst);
        }
        (self.progress)(&explored);
    }

    fn point(&self) {
        self.explored.lock().unwrap_or_else(PoisonError::into_inner).points += 1;
    }

    fn seed(&self) {
        self.explored.lock().unwrap_or_else(PoisonError::into_inner).seeds += 1;
    }

    fn fail(&self, what: String) {
        let mut explored = self.explored.lock().unwrap_or_else(PoisonError::into_inner);
        explored.failures.push(what);
        // A few say enough.
        if explored.failures.len() >= 20 {
            self.is_over.store(true, Ordering::SeqCst);
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acknowledged_is_lost_by_cuts_failing_calls_and_rot() {
        let campaign = Campaign { seed: 1, call: None, every: 40, states: 1000, time: None, jobs: 1 };
        let explored = campaign.run(&|_| {});
        assert!(explored.failures.is_empty(), "{}", explored.failures.join("\n"));
        assert!(explored.seeds > 1, "{explored:?}");
    }
}
