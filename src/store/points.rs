//! Restore points: the states that somebody may want back, as the log names them.

use serde::Serialize;

use super::restore::LoggedRestore;
use super::{Engine, Inner, RestoreKind, lock};
use crate::error::{Error, Result};
use crate::format::op::{Op, OpKind};
use crate::format::segment::SEGMENT_HEADER_LEN;
use crate::log::{self, ScanEnd, Scanner, Segment};

/// A state that has a name, since something large came behind it: a restore, an import, or a `memory.db` that somebody had
/// put in place of the published one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct RestorePoint {
    /// What people call it.
    pub name: String,
    /// It is the state of all records up to this sequence; [`RestoreFrom::Seq`](crate::RestoreFrom::Seq) goes back to it.
    pub seq: u64,
    /// When what came behind it was done, in milliseconds since 1970.
    pub at_ms: i64,
    /// How the store was taken to another state then; `None` when memories were imported.
    pub kind: Option<RestoreKind>,
}

impl Engine {
    /// The restore points that can be gone back to.
    pub(crate) fn restore_points(&self) -> Result<Vec<RestorePoint>> {
        let store = self.inner();
        let _standing = lock(&store.rewriting);
        let mut points: Vec<RestorePoint> = Vec::new();
        for segment in store.segments_with_restores()? {
            store.for_each_restore_op(&segment, |seq, op| match op {
                Op::RestorePoint(point) => points.push(RestorePoint {
                    name: point.name,
                    seq: seq - 1,
                    at_ms: point.made_unix_ms,
                    kind: None,
                }),
                Op::Restore(restore) => {
                    // It follows its point, unless damage has taken that.
                    if let Some(point) = points.last_mut().filter(|point| point.seq == restore.point_seq) {
                        point.kind = RestoreKind::of_number(restore.kind);
                    }
                }
                _ => {}
            })?;
        }
        points.reverse();
        Ok(points)
    }
}

impl Inner {
    /// The last restore of the log; `None` when there was none.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) when a segment is damaged.
    pub(crate) fn last_restore(&self) -> Result<Option<LoggedRestore>> {
        let _standing = lock(&self.rewriting);
        for segment in self.segments_with_restores()?.into_iter().rev() {
            let mut found = None;
            self.for_each_restore_op(&segment, |seq, op| {
                if let Op::Restore(restore) = op {
                    found = Some(LoggedRestore { seq, restore });
                }
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Segments whose header says that such records may be in them.
    fn segments_with_restores(&self) -> Result<Vec<Segment>> {
        self.up_to_date()?;
        let segments = self.log.segments().all();
        Ok(segments.into_iter().filter(|segment| segment.header.has_restores).collect())
    }

    /// Calls with every restore point and restore of a segment.
    fn for_each_restore_op(&self, segment: &Segment, mut visit: impl FnMut(u64, Op)) -> Result<()> {
        let file = log::open_segment(&self.place, segment)?;
        let mut scanner = Scanner::new(&*file, segment.header.epoch, SEGMENT_HEADER_LEN as u64)?;
        loop {
            let offset = scanner.offset();
            let damaged = |damage| Error::corrupt(&segment.path, offset, damage);
            match scanner.next()? {
                Ok((record, payload, _)) if matches!(record.kind, OpKind::RestorePoint | OpKind::Restore) => {
                    let op = Op::decode_payload(record.kind, record.has_vectors, payload).map_err(damaged)?;
                    visit(record.seq, op);
                }
                // In a part they come first; one that was rewritten may stand for many.
                Ok((record, ..)) if record.kind == OpKind::Seal || segment.header.rewrite.is_none() => {
                    return Ok(());
                }
                Ok(_) => {}
                Err(ScanEnd::Damaged(damage)) => return Err(damaged(damage)),
                Err(ScanEnd::File | ScanEnd::Empty) => return Ok(()),
            }
        }
    }
}
