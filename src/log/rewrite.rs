//! Rewriting: one new segment in the place of a run of others, for compaction, purge and healing. Spec:
//! `format-spec/segment.md`, "Rewritten segments".
//!
//! The new file comes into being whole, under a name of its own: from the moment it has that name, those it stands for
//! do not count any more, whoever puts them away, and when.

use super::tail::{advance, create_durably, empty_state, memory_time, random_u64, seal_record};
use super::{Place, SEGMENT_LEN_MAX, Segment, SegmentName};
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::TailV1;
use crate::format::op::{Op, OpKind};
use crate::format::record::{Location, RecordHeader, frame, record_len};
use crate::format::row::Position;
use crate::format::segment::{Rewrite, SegmentHeader};
use crate::fs::DiskFile;

/// Bytes that are written at once.
const WRITE_LEN: usize = 1 << 20;

/// What a rewritten segment stands for: the segments behind `prev_number` up to `number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) number: u64,
    pub(crate) prev_number: u64,
    pub(crate) prev_last_seq: u64,
    pub(crate) prev_chain: u32,
    /// The last sequence of the last of them.
    pub(crate) last_seq: u64,
    /// Its rolling checksum at the seal.
    pub(crate) end_chain: u32,
}

/// Records for a segment that is being rewritten, in ascending order of sequences.
pub(crate) struct Rewriter<'a> {
    file: &'a dyn DiskFile,
    header: SegmentHeader,
    state: TailV1,
    buffer: Vec<u8>,
    /// Bytes that are in the file.
    written: u64,
    last: Option<(u64, RecordHeader)>,
}

/// The name of the file of a rewritten segment.
pub(crate) fn rewritten_name(span: &Span, generation: u64) -> String {
    SegmentName { number: span.number, base_seq: span.prev_last_seq + 1, generation }.to_string()
}

/// Writes a segment that stands for the span and makes it durable with its name. Gives it with the place behind its
/// last record.
///
/// # Errors
/// What `fill` says and what the disk says; then there is no new file.
pub(crate) fn rewrite(
    place: &Place,
    store_id: [u8; 16],
    span: Span,
    generation: u64,
    created_unix_ms: i64,
    fill: impl FnOnce(&mut Rewriter<'_>) -> Result<()>,
) -> Result<(Segment, Position)> {
    let Span { number, prev_number, prev_last_seq, prev_chain, last_seq, end_chain } = span;
    let header = SegmentHeader {
        store_id,
        number,
        epoch: random_u64()?,
        base_seq: prev_last_seq + 1,
        prev_number,
        prev_last_seq,
        prev_chain,
        created_unix_ms,
        has_restores: false,
        rewrite: Some(Rewrite { last_seq, end_chain, generation }),
    };
    let path = place.segments.join(SegmentName::of(&header).to_string());
    let mut end = None;
    create_durably(place, &path, |file| {
        let mut rewriter = Rewriter {
            file,
            header,
            state: empty_state(&header),
            buffer: header.encode(),
            written: 0,
            last: None,
        };
        fill(&mut rewriter)?;
        end = Some(rewriter.seal()?);
        file.make_read_only()
    })?;
    let (header, position, len) = end.expect("it was written");
    Ok((Segment { path, header, len }, position))
}

impl Rewriter<'_> {
    /// Adds a record as it was read from another segment.
    pub(crate) fn push(
        &mut self,
        record: &RecordHeader,
        payload: &[u8],
        time: Option<i64>,
    ) -> Result<Location> {
        assert!(
            record.seq > self.state.last_seq && record.seq <= self.last_seq(),
            "records are given in the order of their sequences, all of them of the span"
        );
        let mut header = RecordHeader {
            epoch: self.header.epoch,
            durable_seq: self.last_seq(),
            group_end: true,
            ..*record
        };
        self.header.has_restores |= matches!(record.kind, OpKind::RestorePoint | OpKind::Restore);
        header.checksum = frame(header, payload, &mut self.buffer);
        let len = record_len(payload.len());
        let len_stored = u32::try_from(len).expect("payloads are limited at the door");
        let location = Location { segment: self.header.number, offset: self.state.len, len: len_stored };
        if location.offset + u64::from(location.len) > 2 * SEGMENT_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "a rewritten segment outgrows its limit"));
        }
        advance(&mut self.state, &header, len as u64, time);
        self.last = Some((location.offset, header));
        if self.buffer.len() >= WRITE_LEN {
            self.flush()?;
        }
        Ok(location)
    }

    /// Adds a record that says this.
    pub(crate) fn push_op(&mut self, seq: u64, op: &Op) -> Result<Location> {
        let mut payload = Vec::new();
        op.encode_payload(&mut payload);
        let record = RecordHeader {
            kind: op.kind(),
            payload_len: u32::try_from(payload.len()).expect("payloads are limited at the door"),
            seq,
            epoch: 0,
            durable_seq: 0,
            group_end: true,
            has_vectors: op.vectors().is_some(),
            checksum: 0,
        };
        self.push(&record, &payload, memory_time(op))
    }

    fn last_seq(&self) -> u64 {
        self.header.rewrite.expect("it is rewritten").last_seq
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Seals it; gives its header, where its records end and how long it is.
    fn seal(mut self) -> Result<(SegmentHeader, Position, u64)> {
        self.state.last_seq = self.last_seq();
        self.buffer.extend(seal_record(self.header.epoch, &self.state));
        self.flush()?;
        if self.header.has_restores {
            // It was written before that was known.
            self.file.write_at(&self.header.encode(), 0)?;
        }
        let (last_offset, last_checksum) =
            self.last.map_or((0, 0), |(offset, header)| (offset, header.checksum));
        let position = Position { epoch: self.header.epoch, last_offset, last_checksum, tail: self.state };
        Ok((self.header, position, self.written))
    }
}
