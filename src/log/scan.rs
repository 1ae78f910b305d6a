//! Reading records from a segment, front to back.

use super::NUMBER_END;
use crate::error::{Error, Result};
use crate::format::Damage;
use crate::format::op::{Op, OpKind, SealV1};
use crate::format::record::{
    Location, PAYLOAD_LEN_MAX, Parsed, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader, parse, record_len,
};
use crate::format::segment::SEGMENT_HEADER_LEN;
use crate::fs::{self, DiskFile};

/// Space that is kept behind the records, so that sealing never needs the disk to grow a file; no seal is longer.
pub(crate) const SEAL_RESERVE_LEN: u64 = 256;

/// What is read in one go: enough for few calls, and little enough to be in the processor's cache when it is looked at.
const READ_LEN: usize = 128 << 10;
/// The last record of a segment is looked for in so many bytes.
const LAST_LEN_MAX: u64 = 64 << 10;

/// Why a scan ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ScanEnd {
    /// At the end of the file, at a record boundary.
    File,
    /// At zero-filled space.
    Empty,
    /// At something that is not a whole record.
    Damaged(Damage),
}

/// One whole record: its header, its payload, and its offset in the file.
pub(crate) type Scanned<'a> = (RecordHeader, &'a [u8], u64);

/// Reads records of one segment in order, through one buffer.
pub(crate) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    file_len: u64,
    epoch: u64,
    buffer: Vec<u8>,
    /// File offset of the buffer's first byte.
    buffer_offset: u64,
    /// File offset of the next record.
    offset: u64,
}

impl<'a> Scanner<'a> {
    /// A scanner that begins at this offset, which is a record boundary.
    pub(crate) fn new(file: &'a dyn DiskFile, epoch: u64, offset: u64) -> Result<Self> {
        Ok(Self { file, file_len: file.len()?, epoch, buffer: Vec::new(), buffer_offset: offset, offset })
    }

    /// File offset of the next record, or of what ended the scan.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on at this offset, which is a record boundary.
    pub(crate) fn skip_to(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// The next record, or why there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn next(&mut self) -> Result<Result<Scanned<'_>, ScanEnd>> {
        let mut need = RECORD_ALIGN;
        loop {
            if self.offset >= self.file_len {
                return Ok(Err(ScanEnd::File));
            }
            let at_end = self.fill(need)?;
            let start = usize::try_from(self.offset - self.buffer_offset).expect("within the buffer");
            match parse(&self.buffer[start..], self.epoch) {
                Parsed::More(more) if !at_end => need = more,
                Parsed::More(expected) => {
                    let found = self.buffer.len() - start;
                    return Ok(Err(ScanEnd::Damaged(Damage::Short { found, expected })));
                }
                Parsed::Empty => return Ok(Err(ScanEnd::Empty)),
                Parsed::Damaged(damage) => return Ok(Err(ScanEnd::Damaged(damage))),
                // Whoever reads on counts from it.
                Parsed::Record { header, .. } if header.seq >= NUMBER_END => {
                    let damage = Damage::Field { name: "sequence", found: header.seq };
                    return Ok(Err(ScanEnd::Damaged(damage)));
                }
                Parsed::Record { header, payload, len } => {
                    let offset = self.offset;
                    self.offset += len as u64;
                    // Sliced anew: a payload that came out of the loop would borrow the buffer in every turn of it.
                    let start = start + RECORD_HEADER_LEN;
                    let payload = start..start + payload.len();
                    return Ok(Ok((header, &self.buffer[payload], offset)));
                }
            }
        }
    }

    /// Looks behind damage, at every record boundary to the end of the file, for the first whole record that passes.
    pub(crate) fn find_later(
        &mut self,
        mut passes: impl FnMut(&RecordHeader) -> bool,
    ) -> Result<Option<(RecordHeader, u64)>> {
        let resume = self.offset;
        self.offset += RECORD_ALIGN as u64;
        let found = loop {
            match self.next()? {
                Ok((header, _, offset)) => {
                    if passes(&header) {
                        break Some((header, offset));
                    }
                }
                Err(ScanEnd::File) => break None,
                Err(_) => self.offset += RECORD_ALIGN as u64,
            }
        };
        self.offset = resume;
        Ok(found)
    }

    /// Whether nothing but zeros follows.
    pub(crate) fn rest_is_empty(&mut self) -> Result<bool> {
        let mut offset = self.offset;
        let mut chunk = vec![0; READ_LEN];
        while offset < self.file_len {
            let read = self.file.read_at(&mut chunk, offset)?;
            if read == 0 {
                break;
            }
            if chunk[..read].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            offset += read as u64;
        }
        Ok(true)
    }

    /// Sees to it that `need` bytes from the offset on are in the buffer; whether the file ends in it.
    fn fill(&mut self, need: usize) -> Result<bool> {
        let buffer_end = self.buffer_offset + self.buffer.len() as u64;
        let missing = self.offset < self.buffer_offset || self.offset + need as u64 > buffer_end;
        if missing
            && (buffer_end < self.file_len || self.offset < self.buffer_offset || self.buffer.is_empty())
        {
            let left = usize::try_from(self.file_len - self.offset).unwrap_or(usize::MAX);
            self.buffer.resize(need.max(READ_LEN).min(left), 0);
            self.buffer_offset = self.offset;
            let read = self.file.read_at(&mut self.buffer, self.offset)?;
            self.buffer.truncate(read);
        }
        let buffer_end = self.buffer_offset + self.buffer.len() as u64;
        Ok(buffer_end >= self.file_len || self.offset + need as u64 > buffer_end)
    }
}

/// The seal at the end of a sealed segment; `None` when the segment is not sealed.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn read_seal(file: &dyn DiskFile, epoch: u64) -> Result<Option<SealV1>> {
    let (from, bytes) = read_end(file, SEAL_RESERVE_LEN)?;
    for start in (0..bytes.len()).step_by(RECORD_ALIGN) {
        let Parsed::Record { header, payload, len } = parse(&bytes[start..], epoch) else { continue };
        if header.kind == OpKind::Seal && start + len == bytes.len() {
            let seal = match Op::decode_payload(header.kind, header.has_vectors, payload) {
                Ok(Op::Seal(seal)) if seal.len == from + start as u64 => seal,
                _ => continue,
            };
            return Ok(Some(seal));
        }
    }
    Ok(None)
}

/// The record that ends where the segment does; `None` when none does, or only one of more than 64 KiB.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn read_last(file: &dyn DiskFile, epoch: u64) -> Result<Option<RecordHeader>> {
    let (_, bytes) = read_end(file, LAST_LEN_MAX)?;
    let ending = |start: usize| match parse(&bytes[start..], epoch) {
        Parsed::Record { header, len, .. } if start + len == bytes.len() => Some(header),
        _ => None,
    };
    Ok((0..bytes.len()).step_by(RECORD_ALIGN).rev().find_map(ending))
}

/// At most so many bytes of the end of a segment, from a place on where a record may begin, and that place.
fn read_end(file: &dyn DiskFile, len_max: u64) -> Result<(u64, Vec<u8>)> {
    let file_len = file.len()?;
    let from = file_len
        .saturating_sub(len_max)
        .max(SEGMENT_HEADER_LEN as u64)
        .next_multiple_of(RECORD_ALIGN as u64)
        .min(file_len);
    let mut bytes = vec![0; usize::try_from(file_len - from).expect("a few bytes")];
    fs::read_exact_at(file, &mut bytes, from)?;
    Ok((from, bytes))
}

/// Reads one record and checks it.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] when there is no whole record of this epoch at this place.
pub(crate) fn read_record(file: &dyn DiskFile, epoch: u64, location: Location) -> Result<(RecordHeader, Op)> {
    let damaged = |what: Damage| Error::corrupt(file.path(), location.offset, format!("record: {what}"));
    let (len, len_max) = (location.len as usize, record_len(PAYLOAD_LEN_MAX));
    if len > len_max {
        return Err(damaged(Damage::TooLong { found: len as u64, limit: len_max as u64 }));
    }
    let mut bytes = vec![0; len];
    fs::read_exact_at(file, &mut bytes, location.offset)?;
    match parse(&bytes, epoch) {
        Parsed::Record { header, payload, .. } => {
            let op = Op::decode_payload(header.kind, header.has_vectors, payload).map_err(damaged)?;
            Ok((header, op))
        }
        Parsed::Empty => Err(damaged(Damage::Magic)),
        Parsed::More(expected) => Err(damaged(Damage::Short { found: bytes.len(), expected })),
        Parsed::Damaged(damage) => Err(damaged(damage)),
    }
}
