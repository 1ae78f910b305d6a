//! From the log to the view, when a store is opened or its view is lost: records that the view lacks, or all of them.

use super::Layout;
use super::quarantine::quarantine;
use crate::catalog::{Applied, CACHE_BYTES_DEFAULT, Catalog, Opened, Position};
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{Op, OpKind};
use crate::format::record::{Location, record_len};
use crate::fs::Kind;
use crate::log::{self, Place, ScanEnd, Scanner, Segment};

/// Records that are applied in one transaction when the view is brought up to date.
const REPLAY_BATCH: usize = 65_536;
/// Bytes of log that are applied in one transaction then.
const REPLAY_BATCH_LEN: u64 = 64 << 20;

/// The view with all records of the log, and how many of them are only in memory; `None` when it turns out to be
/// damaged.
pub(super) fn brought_up(
    view: Catalog,
    place: &Place,
    segments: &[Segment],
    last_seq: u64,
) -> Result<Option<(Catalog, u64)>> {
    // The models are needed in a moment; a store must not stay shut because their rows are damaged.
    let replayed = replay(place, segments, &view, last_seq);
    match replayed.and_then(|replayed| view.view().models().map(|_| replayed)) {
        Ok(replayed) => Ok(Some((view, replayed))),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tracing::warn!(%error, "the view cannot be brought up to date and is rebuilt from the log");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What becomes of the view in whose place a new one comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FormerView {
    /// It goes into quarantine.
    Kept,
    /// It is gone: it holds what must not be kept.
    Gone,
}

/// Builds a view from the log alone. It takes the place of what is there only when it is whole: what is there may hold
/// the only copy of a memory whose record is damaged.
pub(super) fn build_view(
    layout: &Layout,
    place: &Place,
    segments: &[Segment],
    last_seq: u64,
    now_ms: i64,
    former: FormerView,
) -> Result<Catalog> {
    let disk = &*place.disk;
    let store_id = segments.first().expect("a log has a segment").header.store_id;
    let beside = layout.folder.join("view.redb.new.tmp");
    let remove_leftover = || match disk.kind(&beside)? {
        Some(Kind::File(_) | Kind::Other) => disk.remove(&beside),
        Some(Kind::Folder) | None => Ok(()),
    };
    remove_leftover()?;
    let built = Catalog::create(disk, &beside, store_id, CACHE_BYTES_DEFAULT).and_then(|view| {
        replay(place, segments, &view, last_seq)?;
        view.set_generation(log::newest_generation(segments))?;
        view.close()
    });
    if let Err(error) = built {
        // It takes space, and whatever is wrong with it is no secret.
        let _ = remove_leftover();
        return Err(error);
    }
    if former == FormerView::Kept && disk.kind(&layout.view)?.is_some() {
        quarantine(
            disk,
            layout,
            &layout.view,
            now_ms,
            "it could not be used and was built anew from the log",
        )?;
    }
    disk.rename(&beside, &layout.view)?;
    disk.sync_folder(&layout.folder)?;
    match Catalog::open(disk, &layout.view, Some(store_id), CACHE_BYTES_DEFAULT)? {
        Opened::Ready(view) => Ok(view),
        Opened::Missing => Err(Error::corrupt(&layout.view, 0, "the view that was just built is gone")),
        Opened::Unusable(reason) => Err(Error::corrupt(&layout.view, 0, reason)),
    }
}

/// Applies to the view all records that it does not hold yet, and says how many of them are only in memory.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when such a record is damaged or its segment is missing.
pub(super) fn replay(place: &Place, segments: &[Segment], catalog: &Catalog, last_seq: u64) -> Result<u64> {
    let start = catalog.position();
    let applied_seq = start.tail.last_seq;
    if applied_seq >= last_seq {
        return Ok(0);
    }
    let first =
        segments.iter().rposition(|segment| segment.header.base_seq <= applied_seq + 1).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the segment with record {} is missing", applied_seq + 1))
                .at(&place.segments)
                .hint("put the segment file back, or restore a backup")
        })?;
    tracing::info!(from_seq = applied_seq + 1, last_seq, "applying the log to the view");
    let mut batch =
        Batch { catalog, records: Vec::new(), len: 0, applied_seq, position: start, since_checkpoint: 0 };
    for segment in &segments[first..] {
        if segment.header.base_seq > last_seq {
            break;
        }
        if segment.header.epoch != start.epoch {
            let before = batch.position.tail.last_seq;
            let tail = log::empty_state(&segment.header);
            // What the view holds may be lost from the log; what follows it must be there.
            if tail.last_seq > before.max(applied_seq) {
                return Err(missing_from(place, before.max(applied_seq) + 1));
            }
            batch.position = Position { tail, ..Position::default() };
        }
        replay_segment(place, segment, last_seq, &mut batch)?;
    }
    if batch.position.tail.last_seq < last_seq {
        return Err(missing_from(place, batch.position.tail.last_seq + 1));
    }
    batch.apply()?;
    Ok(batch.since_checkpoint)
}

fn missing_from(place: &Place, seq: u64) -> Error {
    Error::new(ErrorKind::Corrupt, format!("record {seq} is missing from the log"))
        .at(&place.segments)
        .hint("put the missing segment file back, or restore a backup")
}

fn replay_segment(place: &Place, segment: &Segment, last_seq: u64, batch: &mut Batch<'_>) -> Result<()> {
    let file = log::open_segment(place, segment)?;
    let header = &segment.header;
    let mut scanner = Scanner::new(&*file, header.epoch, batch.position.tail.len)?;
    while batch.position.tail.last_seq < last_seq || header.rewrite.is_some() {
        let end = scanner.offset();
        match scanner.next()? {
            Ok((record, ..)) if record.kind == OpKind::Seal => {
                batch.position.tail = log::at_seal(header, batch.position.tail);
                return Ok(());
            }
            Ok((record, payload, offset)) => {
                let damaged = |what: String| Error::corrupt(&segment.path, offset, what);
                if !log::follows(header, batch.position.tail.last_seq, record.seq) {
                    let expected = batch.position.tail.last_seq + 1;
                    return Err(damaged(format!("record {expected} is missing")));
                }
                let op = Op::decode_payload(record.kind, record.has_vectors, payload)
                    .map_err(|damage| damaged(damage.to_string()))?;
                let len = u32::try_from(record_len(payload.len())).expect("payloads are limited");
                let mut tail = batch.position.tail;
                log::advance(&mut tail, &record, u64::from(len), log::memory_time(&op));
                batch.position = Position::behind(&record, offset, tail);
                if record.seq > batch.applied_seq {
                    let location = Location { segment: header.number, offset, len };
                    batch.push(record.seq, location, op, record.group_end)?;
                }
            }
            Err(ScanEnd::Damaged(damage)) => {
                let expected = batch.position.tail.last_seq + 1;
                return Err(Error::corrupt(&segment.path, end, format!("record {expected}: {damage}")));
            }
            Err(ScanEnd::File | ScanEnd::Empty) if header.rewrite.is_some() => {
                return Err(Error::corrupt(&segment.path, end, "a rewritten segment has no seal"));
            }
            Err(ScanEnd::File | ScanEnd::Empty) => return Ok(()),
        }
    }
    Ok(())
}

/// Records on their way to the view in large transactions.
struct Batch<'a> {
    catalog: &'a Catalog,
    records: Vec<(u64, Location, Op)>,
    len: u64,
    /// What the view held before.
    applied_seq: u64,
    /// Behind the last record that was read.
    position: Position,
    since_checkpoint: u64,
}

impl Batch<'_> {
    fn push(&mut self, seq: u64, location: Location, op: Op, group_end: bool) -> Result<()> {
        self.records.push((seq, location, op));
        self.len += u64::from(location.len);
        // Only whole groups, so that the view never holds a part of one.
        if group_end && (self.records.len() >= REPLAY_BATCH || self.len >= REPLAY_BATCH_LEN) {
            self.apply()?;
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<()> {
        let applied: Vec<_> = self
            .records
            .iter()
            .map(|(seq, location, op)| Applied { seq: *seq, location: *location, op })
            .collect();
        self.catalog.apply(&applied, self.position)?;
        self.since_checkpoint += self.records.len() as u64;
        self.records.clear();
        self.len = 0;
        if self.since_checkpoint >= 8 * REPLAY_BATCH as u64 && !self.catalog.holds() {
            // Pages that transactions without a sync free come back only with one.
            self.catalog.checkpoint()?;
            self.since_checkpoint = 0;
        }
        Ok(())
    }
}
