//! Compaction and purge: segments are rewritten without what nothing needs any more, or without what must go.
//!
//! One at a time, beside whoever reads and writes. A record is needed when the view names it; see
//! `format-spec/segment.md`, "Rewritten segments". What died while a segment was being rewritten stays until the next
//! time.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::history::{self, History, Window};
use super::{Engine, Inner, Progress, lock};
use crate::catalog::{Catalog, Moved, View};
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{MemoryKey, Op, OpKind};
use crate::format::record::{Location, RecordHeader, record_len};
use crate::format::segment::SEGMENT_HEADER_LEN;
use crate::log::{self, Scanner, Segment, Span};

/// A compaction is due when what nothing needs takes more than this, ...
const DEAD_BYTES_MIN: u64 = 4 << 20;
/// ... and more than this part of what is needed.
const DEAD_SHARE: u64 = 2;
/// A store whose live records take less is compacted as a whole.
const WHOLE_BYTES_MAX: u64 = 256 << 20;
/// In a larger one a segment is rewritten when at least this part of it is dead.
const SEGMENT_DEAD_SHARE: u64 = 5;
/// Live records that are put into one segment.
const RUN_BYTES_MAX: u64 = 48 << 20;

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Compacted {
    /// Segments that were rewritten.
    pub segments: u64,
    /// Records that were left out.
    pub records: u64,
    /// Bytes of the log before.
    pub bytes_before: u64,
    /// Bytes of the log after.
    pub bytes_after: u64,
}

/// What of a segment is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep<'a> {
    /// What the view names, and tombstones of memories whose keys are below this: of the others nothing is left that a
    /// tombstone would have to keep forgotten, since every segment from there on is rewritten before or with it.
    Needed { tombstones_below: u64 },
    /// Everything but these memories; of them only that they were forgotten.
    AllBut(&'a HashSet<MemoryKey>),
}

impl Engine {
    /// Leaves out of the log what nothing needs any more.
    pub(crate) fn compact(&self, progress: &mut dyn FnMut(Progress)) -> Result<Compacted> {
        self.inner.check_writable()?;
        self.inner.compact(&|| false, progress)
    }
}

impl Inner {
    /// Compacts if enough is dead, unless it is told to stop.
    pub(super) fn compact_if_due(&self, stop: &dyn Fn() -> bool) -> Result<()> {
        let live = self.catalog()?.live_bytes();
        let segments = self.log.segments().all();
        let headers = (SEGMENT_HEADER_LEN * segments.len()) as u64;
        let dead = self.log.len().saturating_sub(live + headers);
        if self.read_only || dead < DEAD_BYTES_MIN.max(live / DEAD_SHARE) {
            return Ok(());
        }
        let compacted = self.compact(stop, &mut |_| {})?;
        tracing::info!(
            segments = compacted.segments,
            records = compacted.records,
            bytes_before = compacted.bytes_before,
            bytes_after = compacted.bytes_after,
            "compacted the log"
        );
        Ok(())
    }

    fn compact(&self, stop: &dyn Fn() -> bool, progress: &mut dyn FnMut(Progress)) -> Result<Compacted> {
        let _alone = lock(&self.rewriting);
        let bytes_before = self.log.len();
        let mut done = Compacted { bytes_before, bytes_after: bytes_before, ..Compacted::default() };
        self.with_reserve(|| self.log.roll())?;
        let catalog = self.apply_committed(&mut self.applying())?;
        let segments = self.sealed_segments();
        let live = live_by_segment(&catalog)?;
        let live_in = |segment: &Segment| live.get(&segment.header.number).copied().unwrap_or(0);
        let is_whole = catalog.live_bytes() < WHOLE_BYTES_MAX;
        let is_chosen = |segment: &&Segment| {
            let len = segment.len.saturating_sub(SEGMENT_HEADER_LEN as u64);
            is_whole || len.saturating_sub(live_in(segment)) > len / SEGMENT_DEAD_SHARE
        };
        let chosen: Vec<Segment> = segments.iter().filter(is_chosen).cloned().collect();
        let numbers: BTreeSet<u64> = chosen.iter().flat_map(|segment| segment.header.numbers()).collect();
        let runs = runs_of(&chosen, live_in);
        let (total, mut read) = (chosen.iter().map(|segment| segment.len).sum(), 0);
        let mut full = false;
        for run in &runs {
            progress(Progress::new(read, total));
            let tombstones_below = first_rewritten(&segments, &numbers, run);
            match self.rewrite_run(run, Keep::Needed { tombstones_below }, stop) {
                Ok(left_out) => {
                    done.segments += run.len() as u64;
                    done.records += left_out;
                }
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    full = true;
                    break;
                }
                Err(error) => return Err(error),
            }
            read += run.iter().map(|segment| segment.len).sum::<u64>();
        }
        if full {
            self.compact_on_a_full_disk(&mut done, live_in, stop)?;
        }
        progress(Progress::new(total, total));
        self.keep_reserve();
        done.bytes_after = self.log.len();
        Ok(done)
    }

    /// One segment after the other, those first of which least is left, each with the space that the last one gave back.
    fn compact_on_a_full_disk(
        &self,
        done: &mut Compacted,
        live_in: impl Fn(&Segment) -> u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        self.release_reserve();
        // Space is what counts now, not the past.
        self.is_full.store(true, Ordering::SeqCst);
        let done = self.rewrite_the_emptiest(done, live_in, stop);
        self.is_full.store(false, Ordering::SeqCst);
        done
    }

    fn rewrite_the_emptiest(
        &self,
        done: &mut Compacted,
        live_in: impl Fn(&Segment) -> u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        History::read(self)?.prune(self, Window { len_max: 0, ..self.window }, self.clock.now_ms())?;
        let segments = self.sealed_segments();
        let mut by_live: Vec<&Segment> =
            segments.iter().filter(|segment| live_in(segment) < segment.len / 2).collect();
        by_live.sort_unstable_by_key(|segment| live_in(segment));
        for segment in by_live {
            // A tombstone may be what keeps a memory in another segment forgotten.
            let keep = Keep::Needed { tombstones_below: u64::MAX };
            done.records += self.rewrite_run(std::slice::from_ref(segment), keep, stop)?;
            done.segments += 1;
        }
        Ok(())
    }

    /// All segments but the one that is open for records.
    pub(super) fn sealed_segments(&self) -> Vec<Segment> {
        let open = self.log.open_segment();
        let mut segments = self.log.segments().all();
        // Where the next segment waits for space, the last one is where the log ends: it must say so record by record.
        let last = segments.last().map(|segment| segment.header.number);
        segments.retain(|segment| Some(segment.header.number) != open.or(last));
        segments
    }

    /// Puts one new segment in the place of these, which follow each other, and says how many records were left out.
    /// The caller has the lock for rewriting.
    pub(super) fn rewrite_run(
        &self,
        run: &[Segment],
        keep: Keep<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<u64> {
        // The view on the disk must not need what is left out: tombstones, above all. What it holds of the open segment is
        // not touched, and from the rewrite on it is too old to be used.
        self.checkpoint()?;
        let (first, last) = (run.first().expect("a segment"), run.last().expect("a segment"));
        let last_seq = self.log.last_seq_of(last)?;
        let span = Span {
            number: last.header.number,
            prev_number: first.header.numbers().start() - 1,
            prev_last_seq: first.header.prev_last_seq,
            prev_chain: first.header.prev_chain,
            last_seq: last_seq.0,
            end_chain: last_seq.1,
        };
        let store_id = first.header.store_id;
        let generation = 1 + self.log.segments().newest_generation();
        let catalog = self.catalog()?;
        let view = catalog.view();
        let (mut moved, mut left_out) = (Vec::new(), 0);
        let now_ms = self.clock.now_ms();
        let mut history = History::read(self)?;
        let new = log::rewritten_name(&span, generation);
        let keeps_history = matches!(keep, Keep::Needed { .. }) && !self.is_full.load(Ordering::SeqCst);
        let counts_from = match keep {
            Keep::Needed { .. } => Some(view.position().tail.last_seq),
            Keep::AllBut(_) => None,
        };
        // Before the file is there: whoever opens the store after a crash must know what it says of the past.
        if let Err(error) = history.note_rewrite(self, run, &new, counts_from, now_ms) {
            tracing::warn!(%error, "the past before this compaction is out of reach");
        }
        let (rewritten, position) =
            log::rewrite(&self.place, store_id, span, generation, now_ms, |rewriter| {
                for segment in run {
                    self.for_each_record(segment, |record, payload, location, op| {
                        if stop() {
                            return Err(Error::new(ErrorKind::Refused, "the store is being closed"));
                        }
                        if !is_kept(&view, keep, record.seq, location, &op)? {
                            left_out += 1;
                            return Ok(());
                        }
                        let to = rewriter.push(record, payload, log::memory_time(&op))?;
                        moved.extend(Moved::of(record.seq, &op, Some(location), to));
                        Ok(())
                    })?;
                }
                Ok(())
            })?;
        drop(view);

        // From here on the new segment counts. Nobody may read where records were, or apply others, until the view knows
        // where they are.
        let replaced = {
            let mut applying = self.applying();
            let catalog = self.apply_committed(&mut applying)?;
            let numbers = rewritten.header.numbers();
            let relocated = catalog.relocate(&numbers, &moved, false, position, generation);
            let replaced = self.log.segments().replace(rewritten);
            if let Err(error) = relocated {
                tracing::error!(%error, "the view cannot follow and is built anew");
                self.rebuild(&mut applying, 0)?;
            }
            replaced
        };
        if let Err(error) = self.log.note_segments() {
            tracing::warn!(%error, "the manifest could not be written; it is only an accelerator");
        }
        for segment in replaced {
            if !keeps_history || !history::trash(&*self.place.disk, &self.folder, &history, &segment.path)? {
                self.place.disk.remove(&segment.path)?;
            }
        }
        self.place.disk.sync_folder(&self.place.segments)?;
        let window = if keeps_history { self.window } else { Window { len_max: 0, ..self.window } };
        if matches!(keep, Keep::Needed { .. })
            && let Err(error) = history.prune(self, window, now_ms)
        {
            tracing::warn!(%error, "the trash is not cleared");
        }
        // Now there is room for it. Without it the next open builds the view anew; the log is whole either way.
        if let Err(error) = self.checkpoint() {
            tracing::warn!(%error, "the view is not on stable storage yet");
        }
        Ok(left_out)
    }

    /// Calls with every record of a sealed segment.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when one is damaged, and what `visit` says.
    pub(super) fn for_each_record(
        &self,
        segment: &Segment,
        mut visit: impl FnMut(&RecordHeader, &[u8], Location, Op) -> Result<()>,
    ) -> Result<()> {
        let file = log::open_segment(&self.place, segment)?;
        let mut scanner = Scanner::new(&*file, segment.header.epoch, SEGMENT_HEADER_LEN as u64)?;
        loop {
            let end = scanner.offset();
            match scanner.next()? {
                Ok((record, ..)) if record.kind == OpKind::Seal => return Ok(()),
                Ok((record, payload, offset)) => {
                    let op = Op::decode_payload(record.kind, record.has_vectors, payload)
                        .map_err(|damage| Error::corrupt(&segment.path, offset, damage))?;
                    let len = u32::try_from(record_len(payload.len())).expect("payloads are limited");
                    let location = Location { segment: segment.header.number, offset, len };
                    visit(&record, payload, location, op)?;
                }
                Err(_) => {
                    return Err(Error::corrupt(&segment.path, end, "a sealed segment ends without its seal"));
                }
            }
        }
    }
}

/// Whether a record stays.
fn is_kept(view: &View<'_>, keep: Keep<'_>, seq: u64, location: Location, op: &Op) -> Result<bool> {
    let Some(key) = op.memory_key(seq) else { return Ok(true) };
    let is_tombstone = matches!(op, Op::Forget { .. });
    let tombstones_below = match keep {
        Keep::AllBut(purged) => return Ok(is_tombstone || !purged.contains(&key)),
        Keep::Needed { tombstones_below } => tombstones_below,
    };
    if is_tombstone {
        return Ok(key.0 < tombstones_below);
    }
    if let Some(vectors) = op.vectors()
        && view.vector_location(key, vectors.model)? == Some(location)
    {
        return Ok(true);
    }
    let is_version = matches!(op, Op::Remember { .. } | Op::Update { .. });
    Ok(is_version && view.row_header(key)?.is_some_and(|row| row.seq == seq || row.text_seq == seq))
}

/// The first sequence from which on every segment up to this run is rewritten. Records of a memory stand between its
/// first one, whose sequence is its key, and its tombstone.
fn first_rewritten(all: &[Segment], numbers: &BTreeSet<u64>, run: &[Segment]) -> u64 {
    let first = run.first().expect("a segment").header;
    let before = all.iter().rev().filter(|segment| segment.header.number < first.number);
    before
        .take_while(|segment| numbers.contains(&segment.header.number))
        .last()
        .map_or(first.base_seq, |segment| segment.header.base_seq)
}

/// Bytes of the records that the view names, by the number of their segment.
fn live_by_segment(catalog: &Catalog) -> Result<BTreeMap<u64, u64>> {
    let view = catalog.view();
    let mut named: Vec<Location> = Vec::new();
    view.for_each_location(|location| {
        named.push(location);
        ControlFlow::Continue(())
    })?;
    named.sort_unstable();
    named.dedup();
    let mut live = BTreeMap::new();
    for location in named {
        *live.entry(location.segment).or_default() += u64::from(location.len);
    }
    Ok(live)
}

/// Divides segments into runs that follow each other and have room in one segment.
fn runs_of(chosen: &[Segment], live_in: impl Fn(&Segment) -> u64) -> Vec<Vec<Segment>> {
    let mut runs: Vec<Vec<Segment>> = Vec::new();
    let mut len = 0;
    for segment in chosen {
        let follows = runs
            .last()
            .and_then(|run| run.last())
            .is_some_and(|last| last.header.number + 1 == *segment.header.numbers().start());
        // Tombstones and the like are not counted as live; there is room for as many of them again.
        let live = live_in(segment).max(segment.len.min(RUN_BYTES_MAX) / 16);
        match runs.last_mut() {
            Some(run) if follows && len + live <= RUN_BYTES_MAX => {
                run.push(segment.clone());
                len += live;
            }
            _ => {
                runs.push(vec![segment.clone()]);
                len = live;
            }
        }
    }
    runs
}
