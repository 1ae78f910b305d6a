//! Any number of records that count all together or not at all: a restore. Spec: `format-spec/segment.md`, "Parts".
//!
//! A group of a batch has to have room in memory and in a segment; this one need not. Its records are written into whole,
//! sealed segments under other names, `.part`. The last of them gets its name first, and that is the commit point: parts
//! below a segment that is there belong to the log, and whoever opens it gives them their names. Parts above every segment
//! never counted.

use std::path::{Path, PathBuf};

use super::commit::{Log, Staged};
use super::scan::{SEAL_RESERVE_LEN, ScanEnd, Scanner, read_seal};
use super::tail::{
    Tail, WriteError, advance, create_segment, empty_state, memory_time, random_u64, seal_record,
};
use super::{Place, SEGMENT_SUFFIX, Segment, SegmentName, read_header};
use crate::error::{Durability, Error, ErrorKind, Result};
use crate::format::manifest::TailV1;
use crate::format::op::{Op, OpKind};
use crate::format::record::{PAYLOAD_LEN_MAX, RecordHeader, frame, record_len};
use crate::format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};
use crate::fs::{self, Access, DiskFile};

/// How the name of a part ends.
const PART_SUFFIX: &str = ".part";
/// Bytes that are written at once.
const WRITE_LEN: usize = 1 << 20;

/// The log with nobody else writing to it: whoever wants to waits until this is dropped.
pub(crate) struct Gate<'a, S> {
    pub(super) log: &'a Log<S>,
    pub(super) next_seq: u64,
}

/// Records on their way into parts.
pub(crate) struct Bulk<'a> {
    tail: &'a mut Tail,
    next_seq: u64,
    /// What was durable before.
    durable_seq: u64,
    parts: Vec<Segment>,
    open: Option<Part>,
    /// The header of the next segment, without an epoch.
    next: SegmentHeader,
    payload: Vec<u8>,
}

struct Part {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    header: SegmentHeader,
    state: TailV1,
    buffer: Vec<u8>,
    written: u64,
}

impl<S: Staged> Gate<'_, S> {
    /// The sequence of the record that comes next.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Writes all that `fill` gives as one group; gives the last sequence. All of it is durable then, but not in the view:
    /// that is the caller's to do before the gate is dropped.
    ///
    /// # Errors
    /// What `fill` says and what the disk says; then nothing of it counts. [`ErrorKind::CommitUnknown`] when the disk
    /// failed while the group got its names.
    pub(crate) fn append(&mut self, fill: impl FnOnce(&mut Bulk<'_>) -> Result<()>) -> Result<u64> {
        let mut tail = self.log.lock_tail();
        let appended = tail.append_parts(self.next_seq, fill);
        drop(tail);
        let last_seq = appended.map_err(|error| self.failed(error))?;
        self.next_seq = last_seq + 1;
        Ok(last_seq)
    }

    fn failed(&self, error: WriteError) -> Error {
        match error {
            WriteError::Clean(error) => error,
            WriteError::Unknown(error) => {
                tracing::error!(%error, "a commit failed; the store takes no more writes until it is reopened");
                self.log.poison();
                Error::new(ErrorKind::CommitUnknown, format!("the commit failed: {error}"))
                    .durable(Durability::Unknown)
                    .hint("open the store again, and look at what it holds")
            }
        }
    }
}

impl<S> Drop for Gate<'_, S> {
    fn drop(&mut self) {
        self.log.reopen(self.next_seq);
    }
}

impl Tail {
    fn append_parts(
        &mut self,
        first_seq: u64,
        fill: impl FnOnce(&mut Bulk<'_>) -> Result<()>,
    ) -> Result<u64, WriteError> {
        let next = self.seal_open()?;
        let place = self.place().clone();
        let mut bulk = Bulk {
            tail: self,
            next_seq: first_seq,
            durable_seq: first_seq - 1,
            parts: Vec::new(),
            open: None,
            next,
            payload: Vec::new(),
        };
        let filled = fill(&mut bulk).and_then(|()| bulk.finish());
        let last_seq = bulk.next_seq - 1;
        let (parts, next) = (std::mem::take(&mut bulk.parts), bulk.next);
        let unfinished = bulk.open.take();
        let named = match filled {
            Ok(()) if parts.is_empty() => return Ok(last_seq),
            Ok(()) => name_parts(&place, &parts),
            Err(error) => {
                let paths =
                    parts.iter().map(|part| &part.path).chain(unfinished.as_ref().map(|part| &part.path));
                paths.for_each(|path| remove_if_there(&place, path));
                return Err(WriteError::Clean(error));
            }
        };
        let segments = named?;
        self.follow_parts(segments, next);
        Ok(last_seq)
    }
}

impl Bulk<'_> {
    /// Adds a record; gives its sequence.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] and what the disk says.
    pub(crate) fn push(&mut self, op: &Op) -> Result<u64> {
        self.payload.clear();
        op.encode_payload(&mut self.payload);
        if self.payload.len() > PAYLOAD_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "a memory with its vectors has no room in a record"));
        }
        let len = record_len(self.payload.len()) as u64;
        let limit = self.tail.segment_len_max();
        let is_full = |part: &Part| part.state.records > 0 && part.state.len + len + SEAL_RESERVE_LEN > limit;
        if self.open.as_ref().is_some_and(is_full) {
            self.seal()?;
        }
        if self.open.is_none() {
            self.open = Some(self.begin()?);
        }
        let part = self.open.as_mut().expect("just made");
        let mut header = RecordHeader {
            kind: op.kind(),
            payload_len: u32::try_from(self.payload.len()).expect("just compared"),
            seq: self.next_seq,
            epoch: part.header.epoch,
            durable_seq: self.durable_seq,
            // The parts are a group as a whole, so each of their records may be an end.
            group_end: true,
            has_vectors: op.vectors().is_some(),
            checksum: 0,
        };
        header.checksum = frame(header, &self.payload, &mut part.buffer);
        advance(&mut part.state, &header, len, memory_time(op));
        if part.buffer.len() >= WRITE_LEN {
            part.flush()?;
        }
        self.next_seq += 1;
        Ok(self.next_seq - 1)
    }

    fn begin(&self) -> Result<Part> {
        let header = SegmentHeader { epoch: random_u64()?, has_restores: true, ..self.next };
        let name = SegmentName::of(&header).to_string();
        let stem = name.strip_suffix(SEGMENT_SUFFIX).expect("names of segments end so");
        let place = self.tail.place();
        let path = place.segments.join(format!("{stem}{PART_SUFFIX}"));
        remove_if_there(place, &path);
        let file = place.disk.open(&path, Access::CreateNew)?;
        Ok(Part { file, path, header, state: empty_state(&header), buffer: header.encode(), written: 0 })
    }

    fn seal(&mut self) -> Result<()> {
        let Some(part) = &mut self.open else { return Ok(()) };
        part.buffer.extend(seal_record(part.header.epoch, &part.state));
        part.flush()?;
        part.file.sync()?;
        part.file.make_read_only()?;
        let part = self.open.take().expect("just seen");
        self.next = self.tail.header_behind(&part.header, &part.state);
        self.parts.push(Segment { path: part.path, header: part.header, len: part.written });
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.seal()
    }
}

impl Part {
    fn flush(&mut self) -> Result<()> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Gives parts their names, the last one first: from then on they count.
fn name_parts(place: &Place, parts: &[Segment]) -> Result<Vec<Segment>, WriteError> {
    let [others @ .., last] = parts else { return Ok(Vec::new()) };
    let named = |part: &Segment| place.segments.join(SegmentName::of(&part.header).to_string());
    let name = |part: &Segment| place.disk.rename(&part.path, &named(part));
    // The names of the parts themselves must be durable before the last one makes them count.
    let made_durable = place.disk.sync_folder(&place.segments);
    if let Err(error) = made_durable {
        parts.iter().for_each(|part| remove_if_there(place, &part.path));
        return Err(WriteError::Clean(error));
    }
    name(last).and_then(|()| place.disk.sync_folder(&place.segments)).map_err(WriteError::Unknown)?; // Commit point.
    others
        .iter()
        .try_for_each(name)
        .and_then(|()| place.disk.sync_folder(&place.segments))
        .map_err(WriteError::Unknown)?;
    Ok(parts.iter().map(|part| Segment { path: named(part), ..part.clone() }).collect())
}

/// Copies a segment with its records up to this sequence, without a seal where others would follow.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when a record before that is damaged, and what the disk says.
pub(crate) fn copy_up_to(place: &Place, segment: &Segment, seq: u64, to: &Path) -> Result<()> {
    let source = place.disk.open(&segment.path, Access::Read)?;
    let mut scanner = Scanner::new(&*source, segment.header.epoch, SEGMENT_HEADER_LEN as u64)?;
    let end = loop {
        let offset = scanner.offset();
        match scanner.next()? {
            Ok((record, ..)) if record.kind == OpKind::Seal => break scanner.offset(),
            Ok((record, ..)) if record.seq > seq => break offset,
            Ok(_) => {}
            Err(ScanEnd::Damaged(damage)) => return Err(Error::corrupt(&segment.path, offset, damage)),
            Err(ScanEnd::File | ScanEnd::Empty) => break offset,
        }
    };
    let target = place.disk.open(to, Access::CreateNew)?;
    let (mut offset, mut part) = (0, vec![0; WRITE_LEN]);
    while offset < end {
        let len = usize::try_from((end - offset).min(WRITE_LEN as u64)).expect("a part");
        fs::read_exact_at(&*source, &mut part[..len], offset)?;
        target.write_at(&part[..len], offset)?;
        offset += len as u64;
    }
    Ok(())
}

/// Makes an empty segment behind a rewritten one.
pub(crate) fn begin_behind(place: &Place, header: &SegmentHeader, now_ms: i64) -> Result<()> {
    let rewrite = header.rewrite.expect("only behind a rewritten one");
    let next = SegmentHeader {
        number: header.number + 1,
        epoch: random_u64()?,
        base_seq: rewrite.last_seq + 1,
        prev_number: header.number,
        prev_last_seq: rewrite.last_seq,
        prev_chain: rewrite.end_chain,
        created_unix_ms: now_ms,
        has_restores: false,
        rewrite: None,
        ..*header
    };
    create_segment(place, next).map(drop)
}

/// Gives parts their names that count but have none yet, and removes those that never counted. Before anything else is
/// looked at.
///
/// # Errors
/// What the disk says.
pub(crate) fn settle_parts(place: &Place) -> Result<()> {
    let disk = &*place.disk;
    let (mut parts, mut segments) = (Vec::new(), Vec::new());
    for name in disk.list(&place.segments)? {
        if let Some(stem) = name.strip_suffix(PART_SUFFIX) {
            parts.extend(SegmentName::parse(&format!("{stem}{SEGMENT_SUFFIX}")).map(|part| (part, name)));
        } else {
            segments.extend(SegmentName::parse(&name).map(|segment| (segment.number, name)));
        }
    }
    if parts.is_empty() {
        return Ok(());
    }
    parts.sort_unstable_by_key(|(part, _)| std::cmp::Reverse(part.number));
    for (part, name) in parts {
        let path = place.segments.join(&name);
        let next = segments.iter().find(|(number, _)| *number == part.number + 1);
        let is_taken = segments.iter().any(|(number, _)| *number == part.number);
        let counts = match next {
            Some((_, next)) if !is_taken => follows_part(place, &path, next)?,
            _ => false,
        };
        if counts {
            let named = part.to_string();
            disk.rename(&path, &place.segments.join(&named))?;
            segments.push((part.number, named));
        } else {
            disk.remove(&path)?;
        }
    }
    disk.sync_folder(&place.segments)
}

/// Whether a segment is the one that follows a part.
fn follows_part(place: &Place, part: &Path, next: &str) -> Result<bool> {
    let header = |path: &Path| match read_header(&*place.disk, path) {
        Ok((header, len)) => Ok(Some((header, len))),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error),
    };
    let (Some((own, len)), Some((next, _))) = (header(part)?, header(&place.segments.join(next))?) else {
        return Ok(false);
    };
    let segment = Segment { path: part.to_owned(), header: own, len };
    let file = place.disk.open(&segment.path, Access::Read)?;
    let end = read_seal(&*file, own.epoch)?.map(|seal| (seal.last_seq, seal.chain));
    Ok(end == Some((next.prev_last_seq, next.prev_chain)) && next.prev_number == own.number)
}

fn remove_if_there(place: &Place, path: &Path) {
    // What is left is removed by the next open.
    if place.disk.kind(path).is_ok_and(|kind| kind.is_some()) {
        let _ = place.disk.remove(path);
    }
}
