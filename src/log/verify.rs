//! Reading a whole segment and saying everything that is wrong with it.

use super::scan::{ScanEnd, Scanner, read_seal};
use super::tail::{advance, at_seal, chain_behind, empty_state, follows, seal_of};
use super::{Place, Segment, open_segment};
use crate::error::Result;
use crate::format::manifest::TailV1;
use crate::format::op::{OpKind, OpRef, SealV1};
use crate::format::record::record_len;
use crate::format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};
use crate::fs::{DiskFile, read_exact_at};

/// One thing that is wrong with a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub(crate) offset: u64,
    /// The rule of the specification that does not hold.
    pub(crate) rule: &'static str,
    pub(crate) detail: String,
}

/// What a segment holds.
#[derive(Debug)]
pub(crate) struct Verified {
    /// Where its records end, as far as they are whole.
    pub(crate) state: TailV1,
    pub(crate) sealed: bool,
    /// Rolling checksum that the next segment names.
    pub(crate) chain: u32,
    pub(crate) flaws: Vec<Flaw>,
}

/// What the header and the seal of a segment say, without its records; `None` when there is no seal.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn glance(place: &Place, segment: &Segment) -> Result<Option<Verified>> {
    let file = open_segment(place, segment)?;
    let mut flaws = Vec::new();
    flaws.extend(header_flaw(&*file)?);
    let Some(seal) = read_seal(&*file, segment.header.epoch)? else { return Ok(None) };
    let SealV1 { records, last_seq, len, chain, time_min, time_max } = seal;
    let state = TailV1 { segment: segment.header.number, len, records, last_seq, chain, time_min, time_max };
    let chain = chain_behind(&segment.header, &state);
    Ok(Some(Verified { state, sealed: true, chain, flaws }))
}

fn header_flaw(file: &dyn DiskFile) -> Result<Option<Flaw>> {
    let mut header = [0; SEGMENT_HEADER_LEN];
    read_exact_at(file, &mut header, 0)?;
    let detail = "one of the header's two copies, or the space around them, is damaged".to_owned();
    Ok((!SegmentHeader::is_pristine(&header)).then_some(Flaw { offset: 0, rule: "segment-header", detail }))
}

/// Reads every byte of a segment, up to the record `last_seq` where somebody may still be writing behind it.
///
/// # Errors
/// When the file cannot be read. What is read and wrong is a flaw.
pub(crate) fn verify(
    place: &Place,
    segment: &Segment,
    last_seq: u64,
    mut visit: impl FnMut(u64, OpRef<'_>),
) -> Result<Verified> {
    let file = open_segment(place, segment)?;
    let mut flaws = Vec::from_iter(header_flaw(&*file)?);
    let mut flaw = |offset, rule, detail| flaws.push(Flaw { offset, rule, detail });

    let seal_at_end = read_seal(&*file, segment.header.epoch)?;
    let mut scanner = Scanner::new(&*file, segment.header.epoch, SEGMENT_HEADER_LEN as u64)?;
    let mut state = empty_state(&segment.header);
    let mut seal: Option<SealV1> = None;
    let mut holes = false;
    let is_sealed = seal_at_end.is_some() || segment.header.rewrite.is_some();
    while state.last_seq < last_seq || is_sealed {
        match scanner.next()? {
            Ok((record, payload, offset)) => {
                let op = match OpRef::decode(record.kind, record.has_vectors, payload) {
                    Ok(op) => op,
                    Err(damage) => {
                        flaw(offset, "record-payload", format!("record {}: {damage}", record.seq));
                        holes = true;
                        continue;
                    }
                };
                if let OpRef::Seal(found) = op {
                    seal = Some(found);
                    if scanner.offset() != file.len()? {
                        flaw(scanner.offset(), "seal-last", "bytes follow the seal".to_owned());
                    }
                    break;
                }
                if !follows(&segment.header, state.last_seq, record.seq) {
                    flaw(offset, "sequence", format!("record {} follows {}", record.seq, state.last_seq));
                    holes = true;
                }
                advance(&mut state, &record, record_len(payload.len()) as u64, op.memory_time());
                visit(record.seq, op);
            }
            Err(stop) => {
                let expected = state.last_seq + 1;
                let offset = scanner.offset();
                // Behind a hole the next whole record of this segment is looked for.
                let next =
                    scanner.find_later(|header| header.seq >= expected || header.kind == OpKind::Seal)?;
                let what = match &stop {
                    ScanEnd::File => "the file ends here".to_owned(),
                    ScanEnd::Empty => "zeros stand here".to_owned(),
                    ScanEnd::Damaged(damage) => damage.to_string(),
                };
                holes = true;
                match next {
                    Some((header, next)) if header.kind == OpKind::Seal => {
                        flaw(
                            offset,
                            "record",
                            format!("records from {expected} to the seal are damaged: {what}"),
                        );
                        scanner.skip_to(next);
                    }
                    Some((header, next)) => {
                        flaw(
                            offset,
                            "record",
                            format!("records {expected} to {} are damaged: {what}", header.seq - 1),
                        );
                        state.last_seq = header.seq - 1;
                        scanner.skip_to(next);
                    }
                    None => {
                        flaw(
                            offset,
                            "record",
                            format!("record {expected} and what follows is damaged: {what}"),
                        );
                        break;
                    }
                }
            }
        }
    }
    let state = at_seal(&segment.header, state);
    if let Some(seal) = &seal
        && !holes
        && *seal != seal_of(&state)
    {
        flaw(state.len, "seal", "the seal does not say what the records are".to_owned());
    }
    let sealed = seal.is_some() || seal_at_end.is_some();
    let chain = chain_behind(&segment.header, &state);
    Ok(Verified { state, sealed, chain, flaws })
}
