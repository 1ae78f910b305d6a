//! Power cuts and kills at every call of the disk, with the log and the view on one simulated disk.
//!
//! A workload that follows from a seed is cut at calls all over it. Of what was not synced, chance keeps any part. Then
//! the store must open and hold exactly what was acknowledged, or that and the whole of the one operation that was on
//! its way; a second opening, and one after a cut during the first, must hold the same. `CRASH_STATES=…` makes a longer
//! run, `SEED=…` repeats one.

#![allow(clippy::print_stderr, reason = "a seed and what was explored must be seen")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::ManualClock;
use crate::error::{Durability, Error, Result};
use crate::fs::simulated::{Chance, SimulatedDisk, Trouble};
use crate::memory::{MemoryId, Remember, Update};

const HOME: &str = "/disk/home";
/// Operations of one workload.
const OPERATIONS: usize = 24;

/// What a store holds: texts by id.
type Content = BTreeMap<String, String>;

#[derive(Clone, Debug)]
enum Operation {
    Remember(Vec<(String, String)>),
    Update(String, String),
    Forget(String),
    Checkpoint,
    Reopen,
}

/// Operations, and what the store holds after each.
fn workload(chance: &mut Chance) -> Vec<(Operation, Content)> {
    let mut content = Content::new();
    let mut steps = Vec::new();
    for number in 0..OPERATIONS {
        let pick = |chance: &mut Chance, content: &Content| {
            let at = chance.below(content.len().max(1) as u64) as usize;
            content.keys().nth(at).cloned()
        };
        let text = |chance: &mut Chance, part: u64| {
            // Some of them are written without zeros before them.
            let len = if chance.below(12) == 0 { 280_000 } else { chance.below(900) as usize };
            format!("{number}-{part} {}", "word ".repeat(len / 5))
        };
        let operation = match (chance.below(10), pick(chance, &content)) {
            (6, Some(id)) => Operation::Update(id, text(chance, 0)),
            (7, Some(id)) => Operation::Forget(id),
            (8, _) => Operation::Checkpoint,
            (9, _) => Operation::Reopen,
            (kind, _) => {
                let count = if kind == 5 { 3 } else { 1 };
                Operation::Remember(
                    (0..count).map(|part| (format!("m{number}-{part}"), text(chance, part))).collect(),
                )
            }
        };
        match &operation {
            Operation::Remember(all) => content.extend(all.iter().cloned()),
            Operation::Update(id, text) => _ = content.insert(id.clone(), text.clone()),
            Operation::Forget(id) => _ = content.remove(id),
            Operation::Checkpoint | Operation::Reopen => {}
        }
        steps.push((operation, content.clone()));
    }
    steps
}

fn open(disk: &SimulatedDisk) -> Result<Store> {
    let options = Options::at(HOME)
        .model(ModelSpec::None)
        .background_embedding(false)
        .query_cache(false)
        .lock_wait(Duration::ZERO)
        .clock(Arc::new(ManualClock::at(1)))
        .disk(Arc::new(disk.clone()))
        .alone();
    Store::open(options)
}

fn id(name: &str) -> MemoryId {
    MemoryId::new(name).expect("an id")
}

/// Runs the workload up to the first error. Says how many operations were acknowledged, and the error.
fn run(disk: &SimulatedDisk, steps: &[(Operation, Content)]) -> (usize, Option<Error>) {
    let mut store = match open(disk) {
        Ok(store) => store,
        Err(error) => return (0, Some(error)),
    };
    for (done, (operation, _)) in steps.iter().enumerate() {
        let result = match operation {
            Operation::Remember(all) => {
                let all = all.iter().map(|(name, text)| Remember::new(text.as_str()).id(id(name)));
                store.remember_many(all.collect()).map(drop)
            }
            Operation::Update(name, text) => store.update(name, Update::new().text(text.as_str())).map(drop),
            Operation::Forget(name) => store.forget([name]).map(drop),
            Operation::Checkpoint => store.inner.checkpoint(),
            Operation::Reopen => {
                // What close could not do is no matter: the next open does it.
                let _ = store.close();
                match open(disk) {
                    Ok(opened) => store = opened,
                    Err(error) => return (done, Some(error)),
                }
                Ok(())
            }
        };
        if let Err(error) = result {
            return (done, Some(error));
        }
    }
    (steps.len(), None)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn content(store: &Store) -> Content {
    let all = store.list(&List::new().limit(1000)).expect("a recovered store answers");
    all.into_iter().map(|memory| (memory.id.to_string(), memory.text)).collect()
}

/// Opens what a crash left, and says what it holds.
fn recovered(disk: &SimulatedDisk, context: &str) -> Content {
    let store = open(disk).unwrap_or_else(|error| panic!("{context}: it does not open: {error:?}"));
    let found = content(&store);
    let report = store.check(&mut |_| {}).unwrap_or_else(|error| panic!("{context}: the check: {error:?}"));
    assert!(report.findings.is_empty(), "{context}: {:?}", report.findings);
    found
}

/// A workload that meets trouble at one of its calls.
struct Disturbed<'a> {
    seed: u64,
    steps: &'a [(Operation, Content)],
    call: u64,
}

impl Disturbed<'_> {
    /// A fresh disk on which the workload came as far as it could, how many operations were acknowledged, and the
    /// error that ended it.
    fn run(&self, trouble: Trouble) -> (SimulatedDisk, usize, Option<Error>) {
        let disk = SimulatedDisk::new(Path::new("/disk"));
        disk.plan(self.call, trouble);
        let (done, error) = run(&disk, self.steps);
        (disk, done, error)
    }

    /// What the store held before the operation that failed, and what it would hold after it.
    fn around(&self, done: usize) -> [Content; 2] {
        let before = done.checked_sub(1).map_or_else(Content::new, |last| self.steps[last].1.clone());
        let after = self.steps.get(done).map_or_else(|| before.clone(), |(_, content)| content.clone());
        [before, after]
    }
}

/// Disturbs one workload after the other until so many states were seen, or as many as `CRASH_STATES` says. `judge` says
/// how many states it saw.
fn explore(states_wanted: u64, judge: impl Fn(&Disturbed<'_>, &mut Chance) -> u64) {
    let states_wanted = number("CRASH_STATES").unwrap_or(states_wanted);
    let first_seed = number("SEED").unwrap_or(1);
    let mut states = 0;
    for seed in first_seed.. {
        let mut chance = Chance(seed);
        let steps = workload(&mut chance);
        let whole = SimulatedDisk::new(Path::new("/disk"));
        assert_eq!(run(&whole, &steps).0, steps.len(), "seed {seed}: undisturbed");
        // A part of the calls of each workload, so that many workloads are seen in a short run.
        let stride = (whole.calls() / 40).max(1);
        let first = chance.below(stride);
        for call in (first..whole.calls()).step_by(usize::try_from(stride).expect("a small number")) {
            states += judge(&Disturbed { seed, steps: &steps, call }, &mut chance);
            if states >= states_wanted {
                eprintln!("{states} states, seeds {first_seed} to {seed}, no failure");
                return;
            }
        }
    }
}

#[test]
fn a_cut_at_any_call_loses_nothing_that_was_acknowledged() {
    explore(400, |disturbed, chance| {
        let (disk, done, _) = disturbed.run(Trouble::PowerCut);
        let around = disturbed.around(done);
        for is_power_cut in [true, true, false] {
            let Disturbed { seed, call, .. } = disturbed;
            let context =
                format!("seed {seed}, cut at {call}, {done} acknowledged, power cut {is_power_cut}");
            let left = if is_power_cut { disk.after_power_cut(chance) } else { disk.after_kill() };
            // Cut once more while it recovers, then whole, then opened again without a close.
            let again = left.after_kill();
            again.plan(chance.below(20), Trouble::PowerCut);
            drop(open(&again));
            for disk in [again.after_power_cut(chance), left] {
                let found = recovered(&disk, &context);
                assert!(around.contains(&found), "{context}: {:?}", found.keys());
                let second = recovered(&disk.after_power_cut(chance), &context);
                assert!(second == found, "{context}: a second opening holds something else");
            }
        }
        12
    });
}

#[test]
fn a_disk_that_fails_at_any_call_loses_nothing_that_was_acknowledged() {
    explore(300, |disturbed, chance| {
        let once = [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull].map(Trouble::Once);
        for trouble in once.into_iter().chain([Trouble::Full]) {
            let (disk, done, error) = disturbed.run(trouble);
            let around = disturbed.around(done);
            let Disturbed { seed, call, .. } = disturbed;
            let context = format!("seed {seed}, {trouble:?} at {call}, {done} acknowledged");
            disk.mend();
            let found = recovered(&disk.after_kill(), &context);
            assert!(around.contains(&found), "{context}: {:?}", found.keys());
            if let Some(error) = error.filter(|error| error.durability() == Durability::NotWritten) {
                assert!(found == around[0], "{context}: it said that nothing was written: {error:?}");
            }
            // What a failed sync has dropped must not count before it is written again.
            let left = disk.after_kill();
            let found = recovered(&left, &context);
            let second = recovered(&left.after_power_cut(chance), &context);
            assert!(second == found, "{context}: what was shown after the failure is gone");
        }
        9
    });
}
