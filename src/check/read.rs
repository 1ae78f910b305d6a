//! Reading segments and view for a check, on all cores.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use super::Depth;
use super::resume::Notes;
use crate::catalog::{PieceRead, ViewCheck, ViewRead};
use crate::error::Result;
use crate::format::op::{MemoryKey, OpRef};
use crate::log::{self, Place, Segment};
use crate::store::Progress;

/// What a segment holds.
pub(super) struct SegmentRead {
    pub(super) verified: log::Verified,
    pub(super) records: u64,
    /// Memories that it changes, in order: the record that made the newest version, or `None` when it is forgotten.
    pub(super) changes: Vec<(MemoryKey, Option<u64>)>,
}

/// What there is to read.
pub(super) struct Work<'a> {
    pub(super) place: &'a Place,
    pub(super) segments: &'a [Segment],
    /// The last record that is looked at.
    pub(super) last_seq: u64,
    pub(super) depth: Depth,
    pub(super) view: Option<&'a ViewCheck>,
    /// When nothing new is begun any more.
    pub(super) deadline: Option<Instant>,
}

/// What was read.
pub(super) struct AllRead {
    /// The segments in their order; `None` for one that was not read.
    pub(super) segments: Vec<Option<SegmentRead>>,
    pub(super) view: Option<ViewRead>,
    /// Bytes that were not read for want of time.
    pub(super) unread: u64,
}

/// One part of it: a segment, then pieces of the view.
enum Done {
    Segment(SegmentRead),
    Piece(PieceRead),
}

impl Work<'_> {
    /// Reads all of it, as far as it is not in the notes and there is time.
    ///
    /// # Errors
    /// When a file cannot be read, or the notes cannot be written. What is read and wrong is in the result.
    pub(super) fn read(
        &self,
        mut notes: Option<&mut Notes>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<AllRead> {
        let parts = self.segments.len() + self.view.map_or(0, ViewCheck::pieces);
        let total = (0..parts).map(|part| self.bytes(part)).sum();
        let mut all: Vec<(usize, Result<Done>)> = Vec::with_capacity(parts);
        if let Some(notes) = notes.as_deref() {
            for (part, segment) in self.segments.iter().enumerate() {
                let read =
                    log::glance(self.place, segment)?.and_then(|found| notes.read_before(segment, found));
                all.extend(read.map(|read| (part, Ok(Done::Segment(read)))));
            }
        }
        let known: BTreeSet<usize> = all.iter().map(|(part, _)| *part).collect();
        let left: Vec<usize> = (0..parts).filter(|part| !known.contains(part)).collect();
        // Whoever is done takes the next one, so that all end at about the same time.
        let next = AtomicUsize::new(0);
        let (sender, receiver) = mpsc::channel();
        let work = |sender: mpsc::Sender<(usize, Result<Done>)>| {
            while let Some(part) = left.get(next.fetch_add(1, Ordering::Relaxed)).copied()
                && self.deadline.is_none_or(|deadline| Instant::now() < deadline)
            {
                // Nobody listens any more only after a panic, which is told by whoever paniced.
                let _ = sender.send((part, self.part(part)));
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(left.len());
        let mut done = known.iter().map(|part| self.bytes(*part)).sum();
        let mut noted = Ok(());
        std::thread::scope(|scope| {
            let spawn = |_: &usize| {
                let sender = sender.clone();
                std::thread::Builder::new().spawn_scoped(scope, || work(sender)).is_ok()
            };
            if (0..cores).filter(spawn).count() == 0 {
                // A system that is short of threads gives at least this one.
                work(sender.clone());
            }
            drop(sender);
            for (part, read) in receiver {
                done += self.bytes(part);
                if let (Some(notes), Ok(Done::Segment(read))) = (notes.as_deref_mut(), &read)
                    && noted.is_ok()
                {
                    noted = notes.note(&self.segments[part], read);
                }
                all.push((part, read));
                progress(Progress::new(done, total));
            }
        });
        noted?;
        all.sort_unstable_by_key(|(part, _)| *part);
        let is_whole = all.len() == parts;
        let mut segments: Vec<Option<SegmentRead>> = self.segments.iter().map(|_| None).collect();
        let mut pieces = Vec::new();
        for (part, read) in all {
            match read? {
                Done::Segment(read) => segments[part] = Some(read),
                Done::Piece(read) => pieces.push(read),
            }
        }
        let view = self.view.map(|view| view.finish(pieces, is_whole)).transpose()?;
        Ok(AllRead { segments, view, unread: total - done })
    }

    /// About how many bytes a part is.
    fn bytes(&self, part: usize) -> u64 {
        match (self.segments.get(part), self.view) {
            (Some(segment), _) => segment.len,
            (None, Some(view)) => view.bytes(part - self.segments.len()),
            (None, None) => 0,
        }
    }

    fn part(&self, part: usize) -> Result<Done> {
        match (self.segments.get(part), self.view) {
            (None, Some(view)) => view.read(part - self.segments.len()).map(Done::Piece),
            (segment, _) => {
                let segment = segment.expect("without a view there are segments only");
                let is_sealed = part + 1 < self.segments.len();
                self.segment(segment, self.depth == Depth::Quick && is_sealed).map(Done::Segment)
            }
        }
    }

    fn segment(&self, segment: &Segment, glance: bool) -> Result<SegmentRead> {
        if glance && let Some(verified) = log::glance(self.place, segment)? {
            return Ok(SegmentRead { verified, records: 0, changes: Vec::new() });
        }
        let (mut records, mut changes) = (0, Vec::new());
        let verified = log::verify(self.place, segment, self.last_seq, |seq, op| {
            records += 1;
            match op {
                OpRef::Remember { .. } => changes.push((MemoryKey(seq), Some(seq))),
                OpRef::Update { key, .. } => changes.push((key, Some(seq))),
                OpRef::Forget { key, .. } => changes.push((key, None)),
                OpRef::Vector { .. }
                | OpRef::Model { .. }
                | OpRef::UseModel { .. }
                | OpRef::RestorePoint(_)
                | OpRef::Restore(_)
                | OpRef::Lost(_)
                | OpRef::Seal(_) => {}
            }
        })?;
        Ok(SegmentRead { verified, records, changes })
    }
}
