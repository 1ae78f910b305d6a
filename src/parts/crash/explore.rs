//! All that can happen to one workload.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::super::chance::Chance;
use super::super::disk::{Change, Image, SimulatedDisk};
use super::faults::{Faulted, TROUBLES};
use super::judge::{Broken, Judge, abandon};
use super::recording::{Recording, is_unsteady};
use super::session::{ROOT, options};
use super::workload::Content;
use super::{Campaign, Tally};
use crate::store::Engine;

/// Power cuts at one call, each with another part of what was not synced.
const POWER_CUTS: u64 = 3;
/// Files that rot, of the store as it is at one place.
const ROTS: u64 = 24;

/// Explores the workload of one seed until the campaign is over.
pub(super) fn explore(seed: u64, campaign: &Campaign, tally: &Tally<'_>) {
    let recording = match guarded(|| Recording::make(seed)) {
        Ok(recording) => recording,
        Err(broken) => return tally.fail(format!("--seed {seed}: {broken}")),
    };
    let mut workload = Workload { seed, recording: &recording, tally, seen: HashSet::new() };
    let mut image = image_of_nothing();
    let mut starts = Vec::new();
    // Some of the calls of each workload, or all of them.
    let every = campaign.every.max(1);
    let first = Chance::of(seed, 2).below(every);
    for (call, change) in recording.journal.iter().enumerate() {
        starts
            .resize_with(recording.openings.partition_point(|opening| opening.calls <= call as u64), || {
                image.clone()
            });
        let is_wanted = match campaign.call {
            Some(only) => only == call as u64,
            None => call as u64 % every == first,
        };
        if is_wanted {
            workload.cut(call, &image, change);
            if !is_unsteady(seed) {
                workload.fail(call, &starts);
            }
            workload.rot(call, &image);
            tally.point();
        }
        if tally.is_over() {
            return;
        }
        image.apply(change);
    }
    tally.seed();
}

struct Workload<'a> {
    seed: u64,
    recording: &'a Recording,
    tally: &'a Tally<'a>,
    /// What was judged already: a disk, and how far the workload had come.
    seen: HashSet<(u64, usize)>,
}

impl Workload<'_> {
    /// Ends everything at this call, by a kill or by a power cut; then in the recovery once more.
    fn cut(&mut self, call: usize, before: &Image, change: &Change) {
        let mut chance = Chance::of(self.seed, 1000 + call as u64);
        for (name, image) in cuts(before, change, POWER_CUTS, &mut chance) {
            let Some(recovery) = self.crash(call, name, &image, &mut chance) else { continue };
            if recovery.is_empty() {
                continue;
            }
            let at = chance.index(recovery.len());
            let mut cut_again = image;
            recovery[..at].iter().for_each(|change| cut_again.apply(change));
            let mut again = cuts(&cut_again, &recovery[at], 1, &mut chance);
            let (_, image) = again.swap_remove(chance.index(again.len()));
            self.crash(call, &format!("{name}, and at call {at} of the recovery"), &image, &mut chance);
        }
    }

    fn crash(&mut self, call: usize, name: &str, image: &Image, chance: &mut Chance) -> Option<Vec<Change>> {
        let done = self.recording.steps_before(call);
        if !self.seen.insert((image.fingerprint(), done)) {
            return None;
        }
        let recovery = self.judged(call, |judge| judge.crash(image.clone(), chance));
        self.tally.states(1);
        recovery.map_err(|broken| self.broken(call, name, &broken)).ok()
    }

    /// Runs the workload on disks that fail at this call.
    fn fail(&mut self, call: usize, starts: &[Image]) {
        let mut chance = Chance::of(self.seed, 2_000_000 + call as u64);
        let Some(opening) = self.recording.openings.get(starts.len() - 1) else { return };
        let reads_end = self.recording.openings.get(starts.len()).map_or(opening.reads, |next| next.reads);
        for trouble in TROUBLES {
            let faulted = Faulted {
                recording: self.recording,
                opening,
                start: starts[starts.len() - 1].clone(),
                call,
                read: opening.reads + chance.below((reads_end - opening.reads).max(1)),
                trouble,
            };
            match guarded(|| faulted.run(&mut chance)) {
                Ok(states) => self.tally.states(states),
                Err(broken) => {
                    let step = self.recording.steps.get(self.recording.steps_before(call));
                    let operation = step.map(|step| &step.operation);
                    let name = format!("{trouble:?}, read {}, during {operation:?}", faulted.read);
                    self.broken(call, &name, &broken);
                }
            }
        }
    }

    /// Damages files of a store that was closed, or that was just recovered.
    fn rot(&mut self, call: usize, before: &Image) {
        let mut chance = Chance::of(self.seed, 3_000_000 + call as u64);
        let is_closed = self.recording.openings.iter().any(|opening| opening.calls == call as u64);
        if call == 0 || !(is_closed || chance.below(16) == 0) {
            return;
        }
        let (mut image, segment_len_max) = (before.clone(), self.recording.segment_len_max);
        let content = if is_closed {
            self.recording.after(self.recording.steps_before(call)).0
        } else {
            let disk = SimulatedDisk::of(image);
            let Ok(store) = Engine::open(options(&disk, segment_len_max)) else { return };
            let found = self.judged(call, |judge| judge.look(&store));
            image = disk.image();
            abandon(store, &disk);
            let Ok(found) = found else { return };
            found.content()
        };
        let judge = Judge { segment_len_max, possible: &[&content], acknowledged_seq: 0 };
        for number in 0..ROTS {
            let mut rotten = image.clone();
            let Some(what) = rotten.rot(&mut chance) else { return };
            let result = guarded(|| judge.rot(rotten));
            self.tally.states(1);
            if let Err(broken) = result {
                self.broken(call, &format!("rot {number}, {what}"), &broken);
            }
        }
    }

    /// Judges what may be there at this call.
    fn judged<T>(
        &self,
        call: usize,
        judge: impl FnOnce(&Judge<'_>) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        let done = self.recording.steps_before(call);
        let (before, acknowledged_seq) = self.recording.after(done);
        let after = self.recording.steps.get(done).map(|step| &step.after);
        let possible: Vec<&Content> = [&before].into_iter().chain(after).collect();
        let segment_len_max = self.recording.segment_len_max;
        guarded(|| judge(&Judge { segment_len_max, possible: &possible, acknowledged_seq }))
    }

    fn broken(&self, call: usize, what: &str, broken: &str) {
        self.tally.fail(format!("--seed {} --call {call}: {what}: {broken}", self.seed));
    }
}

/// What can be on the disk when everything ends at this call.
fn cuts(before: &Image, change: &Change, power_cuts: u64, chance: &mut Chance) -> Vec<(&'static str, Image)> {
    let mut images = vec![("kill", before.clone())];
    if let Some(part) = Image::part_of(change, chance) {
        let mut image = before.clone();
        image.apply(&part);
        images.push(("kill within the call", image));
    }
    // What was on its way when the power went may have reached the disk in part.
    let mut on_its_way = before.clone();
    if !matches!(change, Change::Sync(_) | Change::SyncFolder(_)) {
        on_its_way.apply(change);
    }
    images.extend((0..power_cuts).map(|_| ("power cut", on_its_way.after_power_cut(chance))));
    images
}

fn image_of_nothing() -> Image {
    SimulatedDisk::new(Path::new(ROOT)).image()
}

/// A panic is a failure, too.
fn guarded<T>(work: impl FnOnce() -> Result<T, Broken>) -> Result<T, Broken> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(format!("it panicked: {said}"))
    })
}
