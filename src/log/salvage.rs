//! What is left of damaged segments, and what they stood for.

use std::path::PathBuf;

use super::recover::end_of;
use super::rewrite::Span;
use super::scan::{ScanEnd, Scanner};
use super::{Listing, Place, Segment, SegmentName, Unusable, tail};
use crate::error::{ErrorKind, Result};
use crate::format::op::{Op, OpKind};
use crate::format::record::{Location, Parsed, RECORD_ALIGN, RecordHeader, parse, record_len};
use crate::format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};
use crate::fs::{Access, DiskFile, Kind};

/// More records than one segment can have: where the end of the log is gone with its file, sequences go on so far behind
/// what is known, so that none is ever given twice.
const LOST_RECORDS_MAX: u64 = 1 << 20;

/// A run of segments that are missing or damaged.
#[derive(Clone, Debug)]
pub(crate) struct Hole {
    /// What it stood for. Where nothing follows it, the last sequence is the last that there can have been.
    pub(crate) span: Span,
    /// What there is of its files.
    pub(crate) files: Vec<Damaged>,
}

/// The file of a damaged segment.
#[derive(Clone, Debug)]
pub(crate) struct Damaged {
    pub(crate) path: PathBuf,
    pub(crate) name: SegmentName,
    /// Known when its header is whole.
    epoch: Option<u64>,
}

impl Damaged {
    fn of(segment: &Segment) -> Self {
        Self {
            path: segment.path.clone(),
            name: SegmentName::of(&segment.header),
            epoch: Some(segment.header.epoch),
        }
    }
}

/// A whole record of a damaged segment.
#[derive(Clone, Debug)]
pub(crate) struct Salvaged {
    pub(crate) header: RecordHeader,
    pub(crate) payload: Vec<u8>,
    pub(crate) op: Op,
    pub(crate) from: Location,
}

/// Finds the holes of a log: segments that are missing or unusable, and those of these paths, which are damaged.
/// `named` are numbers that somebody else names, `held_seq` is where the view has come.
///
/// # Errors
/// What the disk says.
pub(crate) fn holes(
    place: &Place,
    listing: &Listing,
    named: &[u64],
    held_seq: u64,
    damaged: &[PathBuf],
) -> Result<Vec<Hole>> {
    let mut holes = Vec::new();
    let mut open: Option<Open> = None;
    let mut before: Option<&Segment> = None;
    for segment in &listing.segments {
        let header = &segment.header;
        let follows = header.prev_number == before.map_or(0, |before| before.header.number);
        if !follows && open.is_none() {
            open = Some(Open::behind(place, before)?);
        }
        if let Some(open) = open.take() {
            let (last_seq, end_chain) = (header.prev_last_seq, header.prev_chain);
            holes.push(open.closed(listing, header.prev_number, last_seq, end_chain));
        }
        if damaged.contains(&segment.path) {
            open = Some(Open::at(segment));
        }
        before = Some(segment);
    }
    let last = before.map_or(0, |before| before.header.number);
    let unusable = listing.unusable.iter().filter(|unusable| !unusable.is_misnamed);
    let unusable = unusable.map(|unusable| unusable.name.number);
    let end = unusable.chain(named.iter().copied()).max().unwrap_or(0).max(last);
    if end > last && open.is_none() {
        open = Some(Open::behind(place, before)?);
    }
    if let Some(open) = open {
        let mut hole = open.closed(listing, end, 0, tail::random_u64()? as u32);
        hole.span.last_seq = last_seq_of(place, &hole.files, hole.span.prev_last_seq, held_seq)?;
        holes.push(hole);
    }
    // Whoever made the header may have been mistaken, or hostile: sequences only go up.
    holes.retain(|hole| hole.span.last_seq >= hole.span.prev_last_seq);
    Ok(holes)
}

/// A hole whose end is not known yet.
struct Open {
    prev_number: u64,
    prev_last_seq: u64,
    prev_chain: u32,
    files: Vec<Damaged>,
}

impl Open {
    /// It begins with this segment, whose header is whole.
    fn at(segment: &Segment) -> Self {
        let SegmentHeader { prev_number, prev_last_seq, prev_chain, .. } = segment.header;
        Self { prev_number, prev_last_seq, prev_chain, files: vec![Damaged::of(segment)] }
    }

    /// It begins behind this segment, or with it if that is damaged, too.
    fn behind(place: &Place, before: Option<&Segment>) -> Result<Self> {
        let Some(before) = before else {
            return Ok(Self { prev_number: 0, prev_last_seq: 0, prev_chain: 0, files: Vec::new() });
        };
        match end_of(place, before) {
            Ok((prev_last_seq, prev_chain)) => {
                Ok(Self { prev_number: before.header.number, prev_last_seq, prev_chain, files: Vec::new() })
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Self::at(before)),
            Err(error) => Err(error),
        }
    }

    fn closed(self, listing: &Listing, number: u64, last_seq: u64, end_chain: u32) -> Hole {
        let Self { prev_number, prev_last_seq, prev_chain, mut files } = self;
        let is_in = |unusable: &&Unusable| (prev_number + 1..=number).contains(&unusable.name.number);
        files.extend(listing.unusable.iter().filter(is_in).map(|unusable| Damaged {
            path: unusable.path.clone(),
            name: unusable.name,
            epoch: None,
        }));
        files.sort_by_key(|file| (file.name.base_seq, file.name.generation));
        let span = Span { number, prev_number, prev_last_seq, prev_chain, last_seq, end_chain };
        Hole { span, files }
    }
}

/// The last sequence that there can have been in these files, at the end of the log.
fn last_seq_of(place: &Place, files: &[Damaged], prev_last_seq: u64, held_seq: u64) -> Result<u64> {
    let mut last_seq = held_seq.max(prev_last_seq);
    let mut found = false;
    for file in files {
        salvage(place, file, |record| {
            found = true;
            last_seq = last_seq.max(record.header.seq).max(record.header.durable_seq);
        })?;
    }
    // With a file and records in it, the log's usual rules tell where it ends.
    Ok(if found { last_seq } else { last_seq + LOST_RECORDS_MAX })
}

/// Calls with every whole record of a damaged segment, in ascending order of sequences, but for those of a group at its
/// end that was never finished.
///
/// # Errors
/// When the file is there and cannot be read.
pub(crate) fn salvage(place: &Place, damaged: &Damaged, mut visit: impl FnMut(Salvaged)) -> Result<()> {
    if !matches!(place.disk.kind(&damaged.path)?, Some(Kind::File(_))) {
        return Ok(());
    }
    let file = match place.disk.open(&damaged.path, Access::Read) {
        Ok(file) => file,
        // A file that this user cannot read is as good as gone.
        Err(error) if error.kind() == ErrorKind::Permission => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(epoch) = damaged.epoch.map_or_else(|| find_epoch(&*file), |epoch| Ok(Some(epoch)))? else {
        return Ok(());
    };
    let settled = settled_len(&*file, epoch)?;
    let mut scanner = Scanner::new(&*file, epoch, SEGMENT_HEADER_LEN as u64)?;
    let mut last_seq = damaged.name.base_seq - 1;
    loop {
        match scanner.next()? {
            Ok((header, ..)) if header.kind == OpKind::Seal => return Ok(()),
            Ok((header, payload, offset)) => {
                let op = Op::decode_payload(header.kind, header.has_vectors, payload);
                if offset < settled
                    && header.seq > last_seq
                    && let Ok(op) = op
                {
                    last_seq = header.seq;
                    let len = u32::try_from(record_len(payload.len())).expect("payloads are limited");
                    let from = Location { segment: damaged.name.number, offset, len };
                    visit(Salvaged { header, payload: payload.to_vec(), op, from });
                }
            }
            Err(ScanEnd::File) => return Ok(()),
            Err(_) => match scanner.find_later(|header| header.seq > last_seq)? {
                Some((_, offset)) => scanner.skip_to(offset),
                None => return Ok(()),
            },
        }
    }
}

/// Up to where whole records belong to finished groups, or to groups that were durable.
fn settled_len(file: &dyn DiskFile, epoch: u64) -> Result<u64> {
    let mut scanner = Scanner::new(file, epoch, SEGMENT_HEADER_LEN as u64)?;
    let (mut settled, mut durable_seq) = (0, 0);
    let mut waiting: Vec<(u64, u64)> = Vec::new();
    loop {
        match scanner.next()? {
            Ok((header, payload, offset)) => {
                let end = offset + record_len(payload.len()) as u64;
                durable_seq = durable_seq.max(header.durable_seq);
                waiting.push((header.seq, end));
                if header.group_end {
                    settled = end;
                    waiting.clear();
                }
            }
            Err(ScanEnd::File) => break,
            Err(_) => match scanner.find_later(|_| true)? {
                Some((_, offset)) => scanner.skip_to(offset),
                None => break,
            },
        }
    }
    let durable = waiting.iter().filter(|(seq, _)| *seq <= durable_seq).map(|(_, end)| *end).max();
    Ok(durable.unwrap_or(0).max(settled))
}

/// The epoch of the first whole record, where the header does not tell.
fn find_epoch(file: &dyn DiskFile) -> Result<Option<u64>> {
    const LOOK_LEN: usize = 17 << 20;
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(SEGMENT_HEADER_LEN + LOOK_LEN);
    let mut bytes = vec![0; len.saturating_sub(SEGMENT_HEADER_LEN)];
    let read = file.read_at(&mut bytes, SEGMENT_HEADER_LEN as u64)?;
    let bytes = &bytes[..read];
    let epoch_at = |start: usize| {
        let field = bytes.get(start + 16..start + 24)?;
        let epoch = u64::from_le_bytes(field.try_into().expect("eight bytes"));
        matches!(parse(&bytes[start..], epoch), Parsed::Record { .. }).then_some(epoch)
    };
    Ok((0..bytes.len()).step_by(RECORD_ALIGN).find_map(epoch_at))
}
