//! Healing: segments that are missing or damaged are written anew from what else holds their content. Spec:
//! `format-spec/recovery.md`, "Healing".
//!
//! What is whole in the damaged file is taken over as it is; what is not comes from the view, which holds every memory
//! up to the record it has come to, but no vectors and nothing that is superseded. What neither has is lost, and the new
//! segment says so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;

use super::Layout;
use super::quarantine::quarantine;
use crate::catalog::{Catalog, Moved};
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{LostV1, MemoryKey, ModelNumber, Op};
use crate::format::segment::SEGMENT_HEADER_LEN;
use crate::log::{self, Hole, Listing, Place, Salvaged, ScanEnd, Scanner};
use crate::memory::MemoryId;

/// What was healed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Healed {
    /// The file, relative to the home folder.
    pub file: String,
    /// What was wrong, and what was done.
    pub detail: String,
    /// Where damaged files are now, relative to the home folder.
    pub quarantined: Vec<String>,
    /// Records that were made anew from the view.
    pub recovered: u64,
    /// Sequences that were acknowledged, or may have been, and whose records are gone: first and last of each run.
    pub lost: Vec<(u64, u64)>,
    /// Ids of memories whose vectors are gone. They are embedded again, unless their vectors came from the caller.
    pub vectors_lost: Vec<String>,
}

impl Healed {
    /// A file that was put away because it is another segment than its name says.
    pub(super) fn misnamed(layout: &Layout, path: &Path, kept: &Path) -> Self {
        Self {
            file: layout.relative(path),
            detail: "the file was another segment than its name says, and is put away".to_owned(),
            quarantined: vec![layout.relative(kept)],
            recovered: 0,
            lost: Vec::new(),
            vectors_lost: Vec::new(),
        }
    }
}

/// What is needed to heal a log.
pub(super) struct Healer<'a> {
    pub(super) layout: &'a Layout,
    pub(super) place: &'a Place,
    pub(super) store_id: [u8; 16],
    /// A view that can be used. Without one, forgotten memories may come back, so only somebody who asks for it heals
    /// without.
    pub(super) view: Option<&'a Catalog>,
    pub(super) now_ms: i64,
}

/// What the segments outside of a hole say.
#[derive(Default)]
struct Outside {
    /// Memories that nothing outside forgets, with the last record of each.
    alive: HashMap<MemoryKey, (MemoryId, u64)>,
    models: BTreeSet<ModelNumber>,
    /// The last word on which model is used.
    active: Option<(u64, ModelNumber)>,
}

impl Outside {
    fn note(&mut self, seq: u64, op: Op) {
        match op {
            Op::Remember { memory, .. } => _ = self.alive.insert(MemoryKey(seq), (memory.id, seq)),
            Op::Update { key, memory, .. } => _ = self.alive.insert(key, (memory.id, seq)),
            Op::Forget { key, .. } => _ = self.alive.remove(&key),
            Op::Model { number, .. } => _ = self.models.insert(number),
            Op::UseModel { number } if self.active.is_none_or(|(last, _)| last < seq) => {
                self.active = Some((seq, number));
            }
            _ => {}
        }
    }
}

impl Healer<'_> {
    /// Writes a segment in the place of each hole, puts damaged files into quarantine and tells the view where
    /// everything is now.
    ///
    /// # Errors
    /// What the disk says. What was not healed is as it was.
    pub(super) fn heal(&self, listing: &Listing, holes: &[Hole]) -> Result<Vec<Healed>> {
        let mut generation = log::newest_generation(&listing.segments);
        for unusable in &listing.unusable {
            generation = generation.max(unusable.name.generation);
        }
        let (mut healed, mut now): (_, Option<Listing>) = (Vec::new(), None);
        for (index, hole) in holes.iter().enumerate() {
            let is_last = index + 1 == holes.len();
            generation += 1;
            // What one hole brings back may have been forgotten in the next.
            let listing = now.as_ref().unwrap_or(listing);
            healed.push(self.heal_hole(listing, hole, generation, is_last)?);
            now = Some(log::list(self.place)?);
        }
        Ok(healed)
    }

    fn heal_hole(&self, listing: &Listing, hole: &Hole, generation: u64, is_last: bool) -> Result<Healed> {
        let span = hole.span;
        let base_seq = span.prev_last_seq + 1;
        let mut salvaged: BTreeMap<u64, Salvaged> = BTreeMap::new();
        for file in &hole.files {
            log::salvage(self.place, file, |record| {
                if (base_seq..=span.last_seq).contains(&record.header.seq) {
                    salvaged.insert(record.header.seq, record);
                }
            })?;
        }
        let mut made = match self.view {
            Some(view) => {
                made_from(view, &self.outside(listing, hole, &salvaged)?, hole, is_last, &salvaged)?
            }
            None => BTreeMap::new(),
        };
        let recovered = made.len() as u64;
        // What the view holds and nothing names any more was superseded: that is no loss.
        let held_seq = self.view.map_or(0, Catalog::applied_seq);
        let kept: Vec<u64> = salvaged.keys().chain(made.keys()).copied().collect();
        let lost = gaps(kept, base_seq.max(held_seq + 1), span.last_seq);
        for (first, last) in &lost {
            let lost = LostV1 { first_seq: *first, last_seq: *last, found_unix_ms: self.now_ms };
            made.insert(*first, Op::Lost(lost));
        }

        let mut moved = Vec::new();
        let (rewritten, position) =
            log::rewrite(self.place, self.store_id, span, generation, self.now_ms, |rewriter| {
                let mut seqs: Vec<u64> = salvaged.keys().chain(made.keys()).copied().collect();
                seqs.sort_unstable();
                for seq in seqs {
                    let (op, from, to) = match salvaged.get(&seq) {
                        Some(Salvaged { header, payload, op, from }) => {
                            (op, Some(*from), rewriter.push(header, payload, log::memory_time(op))?)
                        }
                        None => (&made[&seq], None, rewriter.push_op(seq, &made[&seq])?),
                    };
                    moved.extend(Moved::of(seq, op, from, to));
                }
                Ok(())
            })?;
        // From here on the new segment counts, whatever becomes of the old ones.
        let mut quarantined = Vec::new();
        let reason = format!("damaged; {} stands in its place", self.layout.relative(&rewritten.path));
        for file in hole.files.iter().filter(|file| file.path != rewritten.path) {
            if self.place.disk.kind(&file.path)?.is_some() {
                let to = quarantine(&*self.place.disk, self.layout, &file.path, self.now_ms, &reason)?;
                quarantined.push(self.layout.relative(&to));
            }
        }
        let mut vectors_lost = Vec::new();
        if let Some(view) = self.view {
            let numbers = rewritten.header.numbers();
            for (_, key) in view.relocate(&numbers, &moved, true, position, generation)? {
                vectors_lost.extend(view.row(key)?.map(|row| row.memory.id.to_string()));
            }
        }
        vectors_lost.sort_unstable();
        vectors_lost.dedup();
        let detail = detail_of(hole, salvaged.len() as u64, recovered, &lost, vectors_lost.len());
        tracing::warn!(segment = span.number, recovered, lost = lost.len(), "healed a segment");
        Ok(Healed {
            file: self.layout.relative(&rewritten.path),
            detail,
            quarantined,
            recovered,
            lost,
            vectors_lost,
        })
    }

    /// Reads all other segments, as far as they are whole, and what was salvaged.
    fn outside(&self, listing: &Listing, hole: &Hole, salvaged: &BTreeMap<u64, Salvaged>) -> Result<Outside> {
        let mut outside = Outside::default();
        let mut salvaged = salvaged.iter().peekable();
        for segment in &listing.segments {
            if hole.files.iter().any(|file| file.path == segment.path) {
                continue;
            }
            while let Some((seq, record)) = salvaged.next_if(|(seq, _)| **seq < segment.header.base_seq) {
                outside.note(*seq, record.op.clone());
            }
            let file = log::open_segment(self.place, segment)?;
            let mut scanner = Scanner::new(&*file, segment.header.epoch, SEGMENT_HEADER_LEN as u64)?;
            loop {
                match scanner.next()? {
                    Ok((record, payload, _)) => {
                        if let Ok(op) = Op::decode_payload(record.kind, record.has_vectors, payload) {
                            outside.note(record.seq, op);
                        }
                    }
                    Err(ScanEnd::File | ScanEnd::Empty) => break,
                    Err(ScanEnd::Damaged(_)) => match scanner.find_later(|_| true)? {
                        Some((_, offset)) => scanner.skip_to(offset),
                        None => break,
                    },
                }
            }
        }
        salvaged.for_each(|(seq, record)| outside.note(*seq, record.op.clone()));
        Ok(outside)
    }
}

/// The records that the view can give for a hole: memories whose present version or text was stored there, tombstones of
/// those that were forgotten there, and what was said there of models.
fn made_from(
    view: &Catalog,
    outside: &Outside,
    hole: &Hole,
    is_last: bool,
    salvaged: &BTreeMap<u64, Salvaged>,
) -> Result<BTreeMap<u64, Op>> {
    let held_seq = view.applied_seq();
    let first_seq = hole.span.prev_last_seq + 1;
    let span = first_seq..=hole.span.last_seq.min(held_seq);
    let state = view.view();
    let mut made = BTreeMap::new();
    let mut rows = BTreeSet::new();
    state.for_each_row(MemoryKey(0), |row| {
        for seq in [row.text_seq, row.seq] {
            if span.contains(&seq) && !salvaged.contains_key(&seq) {
                let (key, memory) = (row.key, row.memory.clone());
                let op = if key.0 == seq {
                    Op::Remember { memory, vectors: None }
                } else {
                    Op::Update { key, previous_seq: key.0, memory, vectors: None }
                };
                made.insert(seq, op);
            }
        }
        rows.insert(row.key);
        ControlFlow::Continue(())
    })?;

    let mut free: BTreeSet<u64> =
        span.clone().filter(|seq| !salvaged.contains_key(seq) && !made.contains_key(seq)).collect();
    // What the log does not forget and the view does not hold was forgotten in the hole, behind its last record. Those
    // with the latest records choose first: where the lost tombstones had room, these have.
    let mut forgotten: Vec<_> = outside
        .alive
        .iter()
        .filter(|(key, (_, last_seq))| *last_seq <= *span.end() && !rows.contains(key))
        .collect();
    forgotten.sort_unstable_by_key(|(_, (_, last_seq))| std::cmp::Reverse(*last_seq));
    for (key, (id, last_seq)) in forgotten {
        match free.last() {
            Some(seq) if seq > last_seq => {
                made.insert(*seq, Op::Forget { key: *key, id: id.clone() });
                free.pop_last();
            }
            _ if is_last => {
                let what = format!("memory {} was forgotten, and the log has no place left to say so", key.0);
                return Err(Error::new(ErrorKind::Corrupt, what).at(view.path()));
            }
            // It was forgotten in a later hole.
            _ => {}
        }
    }
    if let Some(active) = view.active_model()
        && outside.active.is_none_or(|(seq, number)| number != active && seq < first_seq.max(*span.end()))
        && let Some(seq) = free.pop_last()
    {
        made.insert(seq, Op::UseModel { number: active });
    }
    let mut free = free.into_iter();
    for (number, identity) in state.models()? {
        if !outside.models.contains(&number)
            && let Some(seq) = free.next()
        {
            made.insert(seq, Op::Model { number, identity });
        }
    }
    Ok(made)
}

/// The runs of sequences from `first` to `last` that are not among these.
fn gaps(mut kept: Vec<u64>, first: u64, last: u64) -> Vec<(u64, u64)> {
    kept.sort_unstable();
    let (mut gaps, mut next) = (Vec::new(), first);
    for seq in kept.into_iter().filter(|seq| (first..=last).contains(seq)) {
        if seq > next {
            gaps.push((next, seq - 1));
        }
        next = next.max(seq + 1);
    }
    if next <= last {
        gaps.push((next, last));
    }
    gaps
}

fn detail_of(hole: &Hole, salvaged: u64, recovered: u64, lost: &[(u64, u64)], vectors: usize) -> String {
    let what = if hole.files.is_empty() { "missing" } else { "damaged" };
    let mut detail = format!(
        "segment {} was {what} and is written anew: {salvaged} records were whole, {recovered} came from the view",
        hole.span.number
    );
    if vectors > 0 {
        detail.push_str(&format!(", the vectors of {vectors} memories are to be made again"));
    }
    for (first, last) in lost {
        detail.push_str(&format!("; what was stored as records {first} to {last}, if anything, is lost"));
    }
    detail
}

/// What cannot be healed without somebody who decides.
pub(super) fn needs_a_decision(error: Error) -> Error {
    error.hint("`memento-kv check` says what is wrong; `memento-kv check --repair` saves what can be saved and names what is lost; or put the file back, or restore a backup")
}
