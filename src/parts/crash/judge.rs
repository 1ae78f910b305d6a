//! Whether what a crash, a failing disk or rot left is what it must be.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use super::super::chance::Chance;
use super::super::disk::{Change, Image, SimulatedDisk, Trouble};
use super::fold::Folded;
use super::session::{HOME, options, vector_of};
use super::workload::Content;
use crate::fs::Disk;
use crate::memory::{List, MemoryId, Recall, Remember};
use crate::store::Engine;

/// What does not hold, in words.
pub(super) type Broken = String;

/// Judges what is on a disk.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) segment_len_max: u64,
    /// What the store may hold: what was acknowledged, or that and the whole of what was on its way.
    pub(super) possible: &'a [&'a Content],
    /// The last sequence that was acknowledged.
    pub(super) acknowledged_seq: u64,
}

impl Judge<'_> {
    /// Opens the store twice and holds everything in it against what it may hold. Gives what the first opening did.
    pub(super) fn crash(&self, image: Image, chance: &mut Chance) -> Result<Vec<Change>, Broken> {
        let disk = SimulatedDisk::of(image);
        disk.record();
        let store = self.open(&disk, "it does not open")?;
        let recovery = disk.recorded();
        let opened = disk.image();
        let folded = self.look(&store)?;
        let found = folded.content();
        abandon(store, &disk);

        let is_power_cut = chance.below(2) == 0;
        let left = if is_power_cut { opened.after_power_cut(chance) } else { opened.clone() };
        // A clean close whose manifest did not become durable is no clean close any more, and of a view whose sync
        // failed any part may be lost: it is built anew.
        let keeps = |name: &str| left.difference(&opened, |path| !path.ends_with(name)).is_none();
        let (keeps_manifest, keeps_view) = (keeps("MANIFEST"), keeps("view.redb"));
        let disk = SimulatedDisk::of(left);
        let store = self.open(&disk, "it does not open a second time")?;
        let passes = |path: &Path| may_change(path) || (!keeps_view && path.ends_with("view.redb"));
        if let Some(path) = disk.image().difference(&opened, passes).filter(|_| keeps_manifest) {
            return Err(format!("a second opening changed {} (power cut {is_power_cut})", path.display()));
        }
        let second = Judge { possible: &[&found], acknowledged_seq: folded.last_seq, ..*self };
        if chance.below(16) == 0 {
            second.rebuilt(&opened)?;
        }
        // Once in a while all of it again, and that the store goes on: what comes now must not meet what was dropped.
        if folded.last_seq == 0 || chance.below(8) == 0 {
            second.look(&store)?;
            second.goes_on(store, &disk, chance)?;
        } else {
            second.list(&store)?;
            abandon(store, &disk);
        }
        Ok(recovery)
    }

    /// Opens the store without its view: the one that is built of the log must say the same.
    fn rebuilt(&self, image: &Image) -> Result<(), Broken> {
        let disk = SimulatedDisk::of(image.clone());
        tried("removing the view", disk.remove(&Path::new(HOME).join("store/view.redb")))?;
        let store = self.open(&disk, "it does not open without its view")?;
        self.look(&store)?;
        abandon(store, &disk);
        Ok(())
    }

    /// Opens a store whose files have rotted: it must say so, or hold what it should.
    pub(super) fn rot(&self, image: Image) -> Result<(), Broken> {
        let disk = SimulatedDisk::of(image);
        let Ok(store) = Engine::open(options(&disk, self.segment_len_max)) else { return Ok(()) };
        let expected = &self.possible[0].memories;
        let listed = store.list(&List::new().limit(1000));
        let mut got = BTreeMap::new();
        for id in expected.keys() {
            if let Ok(memory) = store.get(id) {
                got.insert(id.clone(), memory);
            }
        }
        let asked = expected.iter().find_map(|(id, held)| Some((id, held.vector.clone()?)));
        let answer = asked.map(|(id, vector)| (id, store.recall(Recall::by_vector(vector).topk(1000))));
        let healed = store.healed();
        let said = !healed.is_empty()
            || store.check_stored().map(|report| !report.findings.is_empty()).unwrap_or(true);
        abandon(store, &disk);
        // What is lost is named; a lost record may have been an update, or a memory's end.
        if healed.iter().any(|healed| !healed.lost.is_empty()) {
            return Ok(());
        }
        for (id, memory) in &got {
            match memory {
                Some(memory) if *memory != *expected[id].memory => {
                    return Err(format!("{id} is not what was remembered"));
                }
                None if !said => return Err(format!("{id} is missing, and nothing says so")),
                _ => {}
            }
        }
        for memory in listed.iter().flatten() {
            let is_there = expected.get(memory.id.as_str()).is_some_and(|held| *held.memory == *memory);
            if !is_there {
                return Err(format!("{} was listed, and it is not what was remembered", memory.id));
            }
        }
        if let Some((id, Ok(answer))) = answer {
            let is_found = answer.results.iter().any(|found| found.id.as_str() == id);
            if !is_found && answer.degraded.is_empty() && !said {
                return Err(format!("recall does not find {id}, and nothing says so"));
            }
        }
        if listed.is_ok_and(|listed| listed.len() != expected.len()) && !said {
            return Err("memories are missing, and nothing says so".to_owned());
        }
        Ok(())
    }

    fn open(&self, disk: &SimulatedDisk, what: &str) -> Result<Engine, Broken> {
        Engine::open(options(disk, self.segment_len_max)).map_err(|error| format!("{what}: {error:?}"))
    }

    /// Puts together what the log says.
    pub(super) fn fold(&self, store: &Engine) -> Result<Folded, Broken> {
        let (catalog, place) = tried("the view", store.settled())?;
        let segments = store.segments();
        let folded = tried("the log", Folded::read(&place, &segments, catalog.applied_seq()))?;
        if !folded.flaws.is_empty() {
            return Err(format!("the log: {:?}", folded.flaws));
        }
        if folded.last_seq < self.acknowledged_seq {
            return Err(format!(
                "the log ends at {}, acknowledged {}",
                folded.last_seq, self.acknowledged_seq
            ));
        }
        self.compare(&folded.content())?;
        Ok(folded)
    }

    /// Looks at everything that the store holds.
    pub(super) fn look(&self, store: &Engine) -> Result<Folded, Broken> {
        let folded = self.fold(store)?;
        let (catalog, place) = tried("the view", store.settled())?;
        let contradiction = folded.contradiction(&catalog, &place, &store.segments());
        if let Some(what) = tried("the view", contradiction)? {
            return Err(what);
        }
        drop(catalog);
        self.list(store)?;
        let report = tried("the check", store.check_stored())?;
        if !report.findings.is_empty() {
            return Err(format!("the check found {:?}", report.findings));
        }
        Ok(folded)
    }

    /// Asks for all memories as a user does.
    pub(super) fn list(&self, store: &Engine) -> Result<(), Broken> {
        let all = tried("a list", store.list(&List::new().limit(1000)))?;
        let is_held = |content: &&&Content| {
            content.memories.len() == all.len()
                && all.iter().all(|memory| {
                    content.memories.get(memory.id.as_str()).is_some_and(|held| *held.memory == *memory)
                })
        };
        match self.possible.iter().find(is_held) {
            Some(_) => Ok(()),
            None => Err(self.unexpected(all.iter().map(|memory| memory.id.as_str()))),
        }
    }

    /// Memories must be all as before an operation or all as after it. Vectors may be made one by one.
    fn compare(&self, found: &Content) -> Result<(), Broken> {
        let is_whole = |content: &&&Content| {
            content.memories.len() == found.memories.len()
                && content
                    .memories
                    .iter()
                    .zip(&found.memories)
                    .all(|((id, held), (other, found))| id == other && held.memory == found.memory)
        };
        if !self.possible.iter().any(|content| is_whole(&content)) {
            return Err(self.unexpected(found.memories.keys().map(String::as_str)));
        }
        if !self.possible.iter().any(|content| content.model == found.model) {
            return Err("the store has another model".to_owned());
        }
        for (id, held) in &found.memories {
            let is_known = |content: &&Content| {
                content.memories.get(id).is_some_and(|known| known.vector == held.vector)
            };
            if !self.possible.iter().any(is_known) {
                let known: Vec<_> = self.possible.iter().map(|content| content.memories.get(id)).collect();
                return Err(format!(
                    "the vector of {id} is another one: {held:?}, expected one of {known:?}"
                ));
            }
        }
        Ok(())
    }

    fn unexpected<'b>(&self, found: impl Iterator<Item = &'b str>) -> Broken {
        let expected: Vec<Vec<_>> =
            self.possible.iter().map(|content| content.memories.keys().collect()).collect();
        format!(
            "it holds {:?}, expected one of {expected:?}, or a memory is another one",
            found.collect::<Vec<_>>()
        )
    }

    /// Remembers something more, closes, and opens again.
    fn goes_on(&self, store: Engine, disk: &SimulatedDisk, chance: &mut Chance) -> Result<(), Broken> {
        let model = self.possible[0].model;
        let text = "what came after";
        let more =
            Remember::new(text).id(MemoryId::new("more").expect("an id")).vector(vector_of(text, model));
        let seq = tried("the next remember", store.remember(more))?.seq;
        // The first vector brings its model with it: two records.
        if !(self.acknowledged_seq + 1..=self.acknowledged_seq + 3).contains(&seq) {
            return Err(format!("sequence {seq} follows {}", self.acknowledged_seq));
        }
        let recall = Recall::by_vector(vector_of(text, model)).topk(100);
        let answer = tried("a recall", store.recall(recall))?;
        if !answer.results.iter().any(|result| result.id.as_str() == "more") {
            return Err("recall does not find what was just remembered".to_owned());
        }
        let is_closed = chance.below(2) == 0;
        if is_closed {
            tried("closing", store.close())?;
        } else {
            abandon(store, disk);
        }
        let image = disk.image();
        let left = if chance.below(2) == 0 { image.after_power_cut(chance) } else { image.clone() };
        let disk = SimulatedDisk::of(left);
        let store = self.open(&disk, "it does not open after it went on")?;
        if is_closed {
            tried("closing once more", store.close())?;
            // redb notes in its file that it was opened and closed.
            let passes = |path: &Path| {
                path.ends_with("view.redb") || (may_change(path) && !path.ends_with("MANIFEST"))
            };
            if let Some(path) = disk.image().difference(&image, passes) {
                return Err(format!("opening and closing changed {}", path.display()));
            }
            return Ok(());
        }
        let got = tried("a get", store.get("more"))?;
        if got.is_none_or(|memory| memory.text != text) {
            return Err("what was remembered after the recovery is gone".to_owned());
        }
        let count = tried("a list", store.list(&List::new().limit(1000)))?.len();
        abandon(store, &disk);
        if count != self.possible[0].memories.len() + 1 {
            return Err("a memory is gone after the recovery went on".to_owned());
        }
        Ok(())
    }
}

/// Lets go of a store as a kill does, as far as the disk is concerned.
pub(super) fn abandon(store: Engine, disk: &SimulatedDisk) {
    disk.plan(disk.calls(), Trouble::PowerCut);
    drop(store);
}

pub(super) fn tried<T, E: Debug>(what: &str, result: Result<T, E>) -> Result<T, Broken> {
    result.map_err(|error| format!("{what}: {error:?}"))
}

/// Files whose bytes may change when a store is opened that needs nothing: the note of who has it, the space that is kept
/// for a full disk, the manifest, which counts how often it was written, and what was damaged anyhow, of which nothing is
/// made durable. A former index block whose name a power cut brings back is no harm: the newest one counts.
fn may_change(path: &Path) -> bool {
    let store = Path::new(HOME).join("store");
    path == store.join("RESERVE")
        || path == store.join("LOCK")
        || path == store.join("MANIFEST")
        // When something was written is a help and no more, and is synced before a pause only.
        || path == store.join("times")
        || path.starts_with(store.join("quarantine"))
        || path.starts_with(store.join("index"))
        // What a backup that was cut leaves beside its place, or a manifest whose name was not synced yet, a power cut may
        // take.
        || (!path.starts_with(&store)
            && path.extension().is_some_and(|extension| extension == "tmp" || extension == "json"))
}
