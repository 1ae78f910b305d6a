//! Finding the end of the log. Spec: `format-spec/recovery.md`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::scan::{ScanEnd, Scanner, read_last, read_seal};
use super::tail::{
    Tail, advance, at_seal, chain_behind, create_segment, empty_state, follows, random_u64, seal_of,
    seal_segment,
};
use super::{Listing, Place, Segment, Unusable, list, read_manifest};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::{ManifestV1, TailV1};
use crate::format::op::{Op, OpKind};
use crate::format::record::{RECORD_ALIGN, RecordHeader};
use crate::format::row::Position;
use crate::format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};
use crate::fs::{Access, DiskFile};

/// Bytes behind the last acknowledged record, left by a crash and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TornTail {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// The log after recovery.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) tail: Tail,
    pub(crate) torn: Option<TornTail>,
    /// Segment files that cannot be used, with what is wrong.
    pub(crate) unusable: Vec<Error>,
    /// Numbers of segments that the others or the manifest name, but that are not there.
    pub(crate) missing: Vec<u64>,
}

/// Opens the log of a store for writing, or begins one when there is none.
///
/// `held` is where the view has come: what is before it was durable and is not scanned, and an end before it is damage,
/// not a torn tail.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when acknowledged records of the last segment are damaged, [`ErrorKind::UnknownFormat`],
/// [`ErrorKind::ForeignStore`], and what the disk says. Nothing is changed then.
pub(crate) fn recover(
    place: &Place,
    clock: &Arc<dyn Clock>,
    store_id: [u8; 16],
    held: Position,
) -> Result<Recovered> {
    let applied_seq = held.tail.last_seq;
    let manifest = read_manifest(place)?;
    let Listing { mut segments, unusable, .. } = list(place)?;
    if let Some(foreign) = segments.iter().find(|segment| segment.header.store_id != store_id) {
        return Err(Error::new(ErrorKind::ForeignStore, "this segment belongs to another store")
            .at(&foreign.path)
            .hint("move it out of the store's folder"));
    }
    check_order(&segments)?;
    let known = manifest.as_ref().map_or(&[][..], |manifest| &manifest.segments);
    let missing = missing_numbers(&segments, known);
    check_end(place, &segments, &unusable, &missing)?;
    let durable_seq = closed_at(manifest.as_ref()).max(applied_seq);
    let generation = manifest.as_ref().map_or(0, |manifest| manifest.generation);

    let Some(last) = segments.last() else {
        if !unusable.is_empty() || !missing.is_empty() || applied_seq > 0 {
            return Err(segments_gone(place));
        }
        let first = next_header(clock, store_id, None);
        segments.push(create_segment(place, SegmentHeader { epoch: random_u64()?, ..first })?);
        let state = empty_state(&segments[0].header);
        let mut tail = Tail::resume(place.clone(), Arc::clone(clock), generation, segments, state)?;
        tail.note_recovery(Some(state))?;
        return Ok(Recovered { tail, torn: None, unusable: Vec::new(), missing });
    };

    let clean = manifest.and_then(|manifest| manifest.clean_tail).filter(|tail| {
        tail.segment == last.header.number
            && tail.len == last.len
            && tail.last_seq >= applied_seq
            && missing.is_empty()
    });
    if let Some(state) = clean
        && is_end_of(place, last, &state)?
    {
        let unusable = unusable.into_iter().map(|unusable| unusable.error).collect();
        let tail = Tail::resume(place.clone(), Arc::clone(clock), generation, segments, state)?;
        return Ok(Recovered { tail, torn: None, unusable, missing });
    }

    // Whoever made the last segment may have been killed before its name was durable, and what follows counts on it.
    place.disk.sync_folder(&place.segments)?;
    // A crash while rolling leaves the segment before the last one without its seal.
    if let [.., before, last] = &segments[..] {
        finish_roll(place, before, last, held)?;
    }
    let end = find_end(place, last, durable_seq, held)?;
    if end.state.last_seq < durable_seq {
        return Err(Error::corrupt(
            &last.path,
            end.state.len,
            format!(
                "the log ends at sequence {}, but it went up to {durable_seq}: a segment is missing or cut",
                end.state.last_seq
            ),
        ));
    }
    settle_tail(place, last, &end)?;
    let mut tail = if end.sealed_len.is_some() || end.state.records > 0 {
        // Never append to a tail that another session wrote.
        let next = next_header(clock, store_id, Some((&last.header, &end.state)));
        Tail::begin(place.clone(), Arc::clone(clock), generation, segments, next)?
    } else {
        Tail::resume(place.clone(), Arc::clone(clock), generation, segments, end.state)?
    };
    tail.note_recovery(None)?;
    if let Some(torn) = end.torn {
        tracing::warn!(
            segment = torn.segment,
            offset = torn.offset,
            dropped_bytes = torn.bytes,
            "dropped torn tail"
        );
    }
    Ok(Recovered {
        tail,
        torn: end.torn,
        unusable: unusable.into_iter().map(|unusable| unusable.error).collect(),
        missing,
    })
}

pub(crate) fn segments_gone(place: &Place) -> Error {
    Error::new(ErrorKind::Corrupt, "a store was here, but its segments are gone or unreadable")
        .at(&place.segments)
        .hint("put the segment files back, or let `memento-kv health` bring back what the backups hold")
}

/// Segments follow each other in the order of their numbers; two of one number are two histories.
fn check_order(segments: &[Segment]) -> Result<()> {
    for pair in segments.windows(2) {
        let [before, after] = [&pair[0].header, &pair[1].header];
        // What was written anew may turn out to have no records, and parts may follow a segment that has none yet: then
        // the next one begins at the same sequence.
        let follows_empty = before.base_seq == after.base_seq && after.prev_number == before.number;
        let goes_up = before.base_seq < after.base_seq || follows_empty;
        if before.number == after.number || !goes_up {
            return Err(Error::corrupt(
                &pair[1].path,
                0,
                format!(
                    "segment {} begins at sequence {}, segment {} before it at {}",
                    after.number, after.base_seq, before.number, before.base_seq
                ),
            )
            .hint("two stores may have been mixed: move the segment that is not of this one away"));
        }
    }
    Ok(())
}

/// Nothing may be missing at the end of the log: it would be taken for an end that never was.
fn check_end(place: &Place, segments: &[Segment], unusable: &[Unusable], missing: &[u64]) -> Result<()> {
    let Some(last) = segments.last() else { return Ok(()) };
    let is_behind = |number: u64| number > last.header.number;
    for Unusable { path, name, error, is_misnamed } in unusable {
        if is_behind(name.number) && !is_misnamed {
            let what = format!("the last segment cannot be read: {}", error.message());
            return Err(Error::corrupt(path, error.offset().unwrap_or(0), what)
                .hint("put the segment file back, or restore a backup"));
        }
    }
    if let Some(number) = missing.iter().copied().find(|number| is_behind(*number)) {
        let what = format!("segment {number}, the last one, is missing");
        return Err(Error::new(ErrorKind::Corrupt, what)
            .at(&place.segments)
            .hint("put the segment file back, or restore a backup"));
    }
    Ok(())
}

/// The sequence at the last clean close. It proves what was durable as long as the manifest that tells of it is there.
fn closed_at(manifest: Option<&ManifestV1>) -> u64 {
    manifest.and_then(|manifest| manifest.clean_tail).map_or(0, |tail| tail.last_seq)
}

/// Whether the log can go on behind this clean tail, as far as its own numbers and the last record tell. A manifest
/// of another copy of the store may have it wrong, and a sequence that is given twice would cost a memory. A last
/// record that is damaged tells nothing.
fn is_end_of(place: &Place, segment: &Segment, tail: &TailV1) -> Result<bool> {
    let empty = empty_state(&segment.header);
    if tail.last_seq.checked_sub(empty.last_seq) != Some(tail.records)
        || (tail.records == 0) != (tail.len == empty.len)
    {
        return Ok(false);
    }
    let file = place.disk.open(&segment.path, Access::Read)?;
    let last = read_last(&*file, segment.header.epoch)?;
    Ok(last.is_none_or(|last| last.seq == tail.last_seq && last.group_end && last.kind != OpKind::Seal))
}

/// Numbers of segments that others or the manifest name, but that are not there.
pub(crate) fn missing_numbers(segments: &[Segment], known: &[u64]) -> Vec<u64> {
    let is_there = |number: &u64| segments.iter().any(|segment| segment.header.numbers().contains(number));
    let mut named: Vec<u64> =
        segments.iter().map(|segment| segment.header.prev_number).filter(|number| *number != 0).collect();
    named.extend(known);
    named.sort_unstable();
    named.dedup();
    named.retain(|number| !is_there(number));
    named
}

/// The last sequence that counts as acknowledged, for a look without recovery.
///
/// # Errors
/// When the last segment cannot be read.
pub(crate) fn last_acknowledged(
    place: &Place,
    segments: &[Segment],
    manifest: Option<&ManifestV1>,
) -> Result<u64> {
    let durable_seq = closed_at(manifest);
    let Some(last) = segments.last() else { return Ok(durable_seq) };
    match find_end(place, last, durable_seq, Position::default()) {
        Ok(end) => Ok(end.state.last_seq.max(durable_seq)),
        // It is damaged: everything that can be read in it is looked at.
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(u64::MAX),
        Err(error) => Err(error),
    }
}

/// Whether a place that the view names lies in this log. When it does not, the view belongs to another history: to
/// another state of a store whose segments were put back, for example. What is lost or damaged does not count: it is met
/// and told by whoever needs it.
///
/// # Errors
/// When the segment cannot be read.
pub(crate) fn is_in_history(place: &Place, segments: &[Segment], held: Position) -> Result<bool> {
    let Position { epoch, last_offset, last_checksum, tail } = held;
    let goes_on_without = segments
        .iter()
        .find(|segment| segment.header.number > tail.segment)
        .is_some_and(|segment| segment.header.base_seq <= tail.last_seq);
    if goes_on_without {
        return Ok(false);
    }
    let Some(segment) = segments.iter().find(|segment| segment.header.numbers().contains(&tail.segment))
    else {
        return Ok(true);
    };
    if segment.header.epoch != epoch {
        // In place of the segment that the view knows there may stand one that was rewritten since.
        return Ok(segment.header.rewrite.is_some_and(|rewrite| rewrite.last_seq >= tail.last_seq));
    }
    if last_offset < SEGMENT_HEADER_LEN as u64 || last_offset >= segment.len {
        return Ok(true);
    }
    let file = place.disk.open(&segment.path, Access::Read)?;
    let mut scanner = Scanner::new(&*file, epoch, last_offset)?;
    Ok(scanner.next()?.map_or(true, |(header, ..)| header.checksum == last_checksum))
}

/// The header of the segment that follows this one with these records; it has no epoch yet.
fn next_header(
    clock: &Arc<dyn Clock>,
    store_id: [u8; 16],
    previous: Option<(&SegmentHeader, &TailV1)>,
) -> SegmentHeader {
    let (number, last_seq, chain) = previous
        .map_or((0, 0, 0), |(header, state)| (header.number, state.last_seq, chain_behind(header, state)));
    SegmentHeader {
        store_id,
        number: number + 1,
        epoch: 0,
        base_seq: last_seq + 1,
        prev_number: number,
        prev_last_seq: last_seq,
        prev_chain: chain,
        created_unix_ms: clock.now_ms(),
        has_restores: false,
        rewrite: None,
    }
}

struct End {
    state: TailV1,
    /// Up to this offset every byte is known to have reached the disk.
    proven_len: u64,
    /// Where the seal ends, when there is one.
    sealed_len: Option<u64>,
    torn: Option<TornTail>,
}

/// Where the scan of a segment begins: at the place that is held if that is in it, else behind its header.
fn start_in(segment: &Segment, held: Position) -> TailV1 {
    let Position { epoch, tail, .. } = held;
    let is_in = tail.segment == segment.header.number
        && epoch == segment.header.epoch
        && (SEGMENT_HEADER_LEN as u64..=segment.len).contains(&tail.len)
        && tail.len.is_multiple_of(RECORD_ALIGN as u64)
        && tail.last_seq >= segment.header.base_seq;
    if is_in { tail } else { empty_state(&segment.header) }
}

/// Scans a segment to its last whole group of records. Records up to `durable_seq` are known to have been durable.
fn find_end(place: &Place, segment: &Segment, durable_seq: u64, held: Position) -> Result<End> {
    let file = place.disk.open(&segment.path, Access::Read)?;
    let mut state = start_in(segment, held); // after the last record
    let mut scanner = Scanner::new(&*file, segment.header.epoch, state.len)?;
    let mut whole = state; // after the last record that ends a group
    let mut proof = Proof { durable_seq, proven_len: state.len, waiting: VecDeque::new() };
    let stop = loop {
        match scanner.next()? {
            Ok((header, payload, offset)) if header.kind == OpKind::Seal => {
                let damaged = |what: String| Error::corrupt(&segment.path, offset, what);
                state = at_seal(&segment.header, state);
                match Op::decode_payload(header.kind, header.has_vectors, payload) {
                    Ok(Op::Seal(seal)) if seal == seal_of(&state) && whole.len == state.len => {}
                    Ok(_) => return Err(damaged("the seal does not say what the records are".to_owned())),
                    Err(damage) => return Err(damaged(damage.to_string())),
                }
                if !scanner.rest_is_empty()? {
                    return Err(Error::corrupt(&segment.path, scanner.offset(), "bytes follow the seal"));
                }
                let sealed_len = Some(scanner.offset());
                return Ok(End { state, proven_len: state.len, sealed_len, torn: None });
            }
            Ok((header, payload, offset)) => {
                if !follows(&segment.header, state.last_seq, header.seq) {
                    let what = format!("sequence {} follows {}", header.seq, state.last_seq);
                    return Err(Error::corrupt(&segment.path, offset, what));
                }
                let time = Op::peek_time(header.kind, header.has_vectors, payload)
                    .map_err(|damage| Error::corrupt(&segment.path, offset, damage))?;
                let len = crate::format::record::record_len(payload.len()) as u64;
                advance(&mut state, &header, len, time);
                proof.note(&header, state.len);
                if header.group_end {
                    whole = state;
                }
            }
            Err(stop) => break stop,
        }
    };
    let expected_seq = state.last_seq + 1;
    if segment.header.rewrite.is_some() {
        return Err(Error::corrupt(&segment.path, state.len, "a rewritten segment has no seal"));
    }
    if stop != ScanEnd::File {
        // A later record that was framed when this place was already durable proves that an acknowledged record is
        // damaged. Without such a proof nothing from here on was ever acknowledged.
        let proof =
            scanner.find_later(|header| header.durable_seq >= expected_seq || header.kind == OpKind::Seal)?;
        if let Some((header, offset)) = proof {
            let what = format!(
                "record {expected_seq} is damaged, record {} at offset {offset} proves that it was durable",
                header.seq
            );
            return Err(Error::corrupt(&segment.path, state.len, what));
        }
    }
    if durable_seq > whole.last_seq {
        let what =
            format!("record {} is damaged or cut off, the log went up to {durable_seq}", whole.last_seq + 1);
        return Err(Error::corrupt(&segment.path, whole.len, what));
    }
    let torn = (whole.len < state.len || !scanner.rest_is_empty()?).then_some(TornTail {
        segment: segment.header.number,
        offset: whole.len,
        bytes: segment.len - whole.len,
    });
    Ok(End { state: whole, proven_len: proof.proven_len.min(whole.len), sealed_len: None, torn })
}

/// Follows up to which offset the records themselves prove that the disk has them.
struct Proof {
    durable_seq: u64,
    proven_len: u64,
    /// Sequence and end of records that nothing proves yet.
    waiting: VecDeque<(u64, u64)>,
}

impl Proof {
    fn note(&mut self, header: &RecordHeader, end: u64) {
        self.durable_seq = self.durable_seq.max(header.durable_seq);
        self.waiting.push_back((header.seq, end));
        while let Some((_, end)) = self.waiting.pop_front_if(|(seq, _)| *seq <= self.durable_seq) {
            self.proven_len = end;
        }
    }
}

/// The last sequence of a segment that others follow, and the rolling checksum that the next one names. It is sealed if
/// a crash left it without its seal.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when it is damaged where that can be seen without reading all of it, and what the disk says.
pub(super) fn end_of(place: &Place, segment: &Segment) -> Result<(u64, u32)> {
    if let Some(rewrite) = segment.header.rewrite {
        return Ok((rewrite.last_seq, rewrite.end_chain));
    }
    if let Some(seal) = read_seal(&*place.disk.open(&segment.path, Access::Read)?, segment.header.epoch)? {
        return Ok((seal.last_seq, seal.chain));
    }
    let end = find_end(place, segment, 0, Position::default())?;
    settle_tail(place, segment, &end)?;
    Ok((end.state.last_seq, end.state.chain))
}

/// Makes what the scan has seen durable, and nothing else: the page cache may hold what the disk never got.
fn settle_tail(place: &Place, segment: &Segment, end: &End) -> Result<()> {
    let state = &end.state;
    if end.sealed_len == Some(segment.len) {
        return settle_seal(place, segment, state.len);
    }
    let file = place.disk.open(&segment.path, Access::Write)?;
    if let Some(sealed_len) = end.sealed_len {
        // The crash came after the seal was written and before the file was cut behind it.
        write_again(&*file, end.proven_len, sealed_len)?;
        file.set_len(sealed_len)?;
        file.sync()?;
        return file.make_read_only();
    }
    if end.torn.is_some() {
        // Gone for good before the seal is written: a crash in between must not leave a seal with bytes behind it. Zeros
        // take no space, while a seal behind a file that was cut would: on a full disk the store opens all the same.
        zero(&*file, state.len, segment.len)?;
    }
    write_again(&*file, end.proven_len, state.len)?;
    if state.records > 0 {
        seal_segment(&*file, segment.header.epoch, state)
    } else {
        file.set_len(state.len)?;
        file.sync()
    }
}

fn zero(file: &dyn DiskFile, from: u64, to: u64) -> Result<()> {
    let chunk = vec![0; 1 << 20];
    let mut offset = from;
    while offset < to {
        let len = usize::try_from((to - offset).min(chunk.len() as u64)).expect("a chunk");
        file.write_at(&chunk[..len], offset)?;
        offset += len as u64;
    }
    file.sync()
}

/// Makes a seal durable with which the file ends. After a sync that failed it may stand in the page cache only, and
/// nobody looks at it again once other segments follow.
fn settle_seal(place: &Place, segment: &Segment, seal_offset: u64) -> Result<()> {
    // The mode changes after the sync.
    if place.disk.open(&segment.path, Access::Read)?.is_read_only()? {
        return Ok(());
    }
    let file = place.disk.open(&segment.path, Access::Write)?;
    write_again(&*file, seal_offset, segment.len)?;
    file.set_len(segment.len)?;
    file.sync()?;
    file.make_read_only()
}

fn write_again(file: &dyn DiskFile, from: u64, to: u64) -> Result<()> {
    let mut chunk = vec![0; 1 << 20];
    let mut offset = from;
    while offset < to {
        let len = usize::try_from((to - offset).min(chunk.len() as u64)).expect("a chunk");
        crate::fs::read_exact_at(file, &mut chunk[..len], offset)?;
        file.write_at(&chunk[..len], offset)?;
        offset += len as u64;
    }
    file.sync()
}

/// Seals the segment before the last one, if a crash came between making the last one and that.
fn finish_roll(place: &Place, before: &Segment, last: &Segment, held: Position) -> Result<()> {
    if last.header.prev_number != before.header.number {
        return Ok(());
    }
    let seal = read_seal(&*place.disk.open(&before.path, Access::Read)?, before.header.epoch)?;
    if let Some(seal) = seal {
        return settle_seal(place, before, seal.len);
    }
    let end = find_end(place, before, last.header.prev_last_seq, held)?;
    let chain = chain_behind(&before.header, &end.state);
    if chain != last.header.prev_chain || end.state.last_seq != last.header.prev_last_seq {
        return Err(Error::corrupt(
            &before.path,
            end.state.len,
            "the segment ends otherwise than its successor says",
        ));
    }
    settle_tail(place, before, &end)
}
