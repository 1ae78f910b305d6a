//! Any bytes as the segments of a store: reading, checking, recovering and writing on.
//!
//! An input is a short form of one or two segment files. A header of 4096 bytes is mostly zeros, and a mutation
//! there is wasted; and checksums can be set right, so that a mutation gets past them. Nothing that somebody wrote
//! with good checksums may be a reason to panic, either.

use std::path::Path;
use std::sync::Arc;

use super::super::disk::SimulatedDisk;
use super::Seeds;
use super::input::Input;
use super::record::mend;
use super::stored::{append, id, ops};
use crate::clock::{Clock, ManualClock};
use crate::error::{ErrorKind, Result};
use crate::format::manifest::TailV1;
use crate::format::op::{MemoryKey, Op, OpKind, SealV1};
use crate::format::record::chain;
use crate::format::row::Position;
use crate::format::segment::{SEGMENT_COPY_OFFSET, SEGMENT_FIELDS_LEN, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::fs::{Access, Disk};
use crate::log::{
    Log, Place, Planned, Scanner, Staged, last_acknowledged, list, open_segment, read_manifest, recover,
    verify,
};

pub(super) const STORE: [u8; 16] = [9; 16];
const EPOCH: u64 = 0x0123_4567_89AB_CDEF;

/// First byte: the input is a segment file as it is.
const PLAIN: u8 = 1;
/// First byte: there are two segments.
const TWO: u8 = 2;
/// First byte: headers get the checksum that they should have.
const HEADER_MENDED: u8 = 4;
/// First byte: records get the checksum that they should have.
const RECORDS_MENDED: u8 = 8;

/// The body of the target.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let first = input.byte();
    let applied_seq = u64::from(input.byte());
    let files = if first & PLAIN != 0 {
        vec![input.0.to_vec()]
    } else if first & TWO != 0 {
        let len = usize::from(input.u16());
        vec![expand(first, input.bytes(len)), expand(first, input.0)]
    } else {
        vec![expand(first, input.0)]
    };
    let place = place();
    for file in files {
        put(&place, file);
    }
    look(&place);
    write_on(&place, applied_seq);
}

/// A segment file from its short form: the fields of the header, then the records.
fn expand(first: u8, short: &[u8]) -> Vec<u8> {
    let mut short = Input(short);
    let mut fields: [u8; SEGMENT_FIELDS_LEN] = short.array();
    if first & HEADER_MENDED != 0 {
        let checksum = crc32fast::hash(&fields[..SEGMENT_FIELDS_LEN - 4]);
        fields[SEGMENT_FIELDS_LEN - 4..].copy_from_slice(&checksum.to_le_bytes());
    }
    let mut file = vec![0; SEGMENT_HEADER_LEN];
    file[..SEGMENT_FIELDS_LEN].copy_from_slice(&fields);
    file[SEGMENT_COPY_OFFSET..][..SEGMENT_FIELDS_LEN].copy_from_slice(&fields);
    file.extend_from_slice(short.0);
    if first & RECORDS_MENDED != 0 {
        mend_records(&mut file[SEGMENT_HEADER_LEN..]);
    }
    file
}

/// Gives the headers and the records of a segment file the checksums that they should have.
pub(super) fn mend_file(file: &mut [u8]) {
    for at in [0, SEGMENT_COPY_OFFSET] {
        if let Some(fields) = file.get_mut(at..at + SEGMENT_FIELDS_LEN) {
            let checksum = crc32fast::hash(&fields[..SEGMENT_FIELDS_LEN - 4]);
            fields[SEGMENT_FIELDS_LEN - 4..].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    mend_records(file.get_mut(SEGMENT_HEADER_LEN..).unwrap_or_default());
}

/// Goes on until the zeros behind the records.
fn mend_records(mut rest: &mut [u8]) {
    while !rest.starts_with(&[0; 4])
        && let Some(len) = mend(rest).filter(|len| *len <= rest.len())
    {
        rest = &mut rest[len..];
    }
}

/// An empty folder for a log, in memory.
pub(super) fn place() -> Place {
    let (root, segments) = (Path::new("/disk"), Path::new("/disk/seg"));
    let disk = SimulatedDisk::new(root);
    disk.create_folder(segments).expect("memory is there");
    Place { disk: Arc::new(disk), segments: segments.to_owned(), manifest: root.join("MANIFEST") }
}

/// Puts a segment under the name that its header asks for.
pub(super) fn put(place: &Place, file: Vec<u8>) {
    let number =
        |at: usize| file.get(at..).and_then(|rest| rest.first_chunk()).map_or(1, |b| u64::from_le_bytes(*b));
    let name = format!("{:016x}-{:016x}.mseg", number(32), number(48));
    put_file(place, &place.segments.join(name), file);
}

pub(super) fn put_file(place: &Place, path: &Path, bytes: Vec<u8>) {
    let file = place.disk.open(path, Access::OpenOrCreate).expect("memory is there");
    file.write_at(&bytes, 0).expect("an input is far below the limit of a file");
}

/// Looks without changing anything, as `check` does.
fn look(place: &Place) {
    let Ok(listing) = list(place) else { return };
    let manifest = read_manifest(place).ok().flatten();
    let _ = last_acknowledged(place, &listing.segments, manifest.as_ref());
    for segment in &listing.segments {
        verify(place, segment, u64::MAX, |_, _| {}).expect("the disk works");
    }
}

/// Opens the log twice with a write in between. What is acknowledged or was there stays.
pub(super) fn write_on(place: &Place, applied_seq: u64) {
    let before = records(place);
    let log = match open(place, applied_seq) {
        Ok(log) => log,
        Err(error) => {
            assert!(is_expected(error.kind()), "{error}");
            assert_eq!(records(place), before, "a refused recovery took something away");
            return;
        }
    };
    let recovered = records(place);
    assert!(is_subsequence(&recovered, &before), "recovery invented a record");
    let in_whole_groups: Vec<Found> = before.into_iter().filter(|found| found.group_is_whole).collect();
    assert!(is_subsequence(&in_whole_groups, &recovered), "recovery dropped a whole group");
    let forget = Op::Forget { key: MemoryKey(1), id: id("fuzz") };
    let outcome = log.commit(|_, next_seq| {
        Ok(Planned { ops: vec![Arc::new(forget)], after_seq: next_seq, outcome: next_seq })
    });
    drop(log); // A kill: nothing is closed.
    let Ok(seq) = outcome else { return };
    let mut expected = recovered;
    expected.extend(records(place).pop());
    assert_eq!(expected.last().map(|found| found.seq), Some(seq), "an acknowledged record is gone");
    drop(open(place, seq).expect("what was just written is in order"));
    assert_eq!(records(place), expected, "an acknowledged record is gone");
}

fn open(place: &Place, applied_seq: u64) -> Result<Log<Nothing>> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1));
    let tail = TailV1 { last_seq: applied_seq, ..TailV1::default() };
    Ok(Log::new(recover(place, &clock, STORE, Position { tail, ..Position::default() })?.tail, Nothing))
}

/// What recovery may answer; all else would be a defect or a problem of the disk, which has none.
fn is_expected(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Corrupt | ErrorKind::UnknownFormat | ErrorKind::ForeignStore)
}

/// A log that nobody keeps anything beside.
#[derive(Debug)]
struct Nothing;

impl Staged for Nothing {
    fn abandon(&mut self, _: u64) {}
}

/// A whole record that stands in a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Found {
    seq: u64,
    checksum: u32,
    /// The group that it belongs to has its end.
    group_is_whole: bool,
}

/// The records of all segments, each up to the first that is not whole.
fn records(place: &Place) -> Vec<Found> {
    let mut all = Vec::new();
    for segment in list(place).map_or_else(|_| Vec::new(), |listing| listing.segments) {
        let file = open_segment(place, &segment).expect("it was listed");
        let mut scanner =
            Scanner::new(&*file, segment.header.epoch, SEGMENT_HEADER_LEN as u64).expect("the disk works");
        let mut group_start = all.len();
        while let Ok((header, _, _)) = scanner.next().expect("the disk works") {
            if header.kind == OpKind::Seal {
                continue;
            }
            all.push(Found { seq: header.seq, checksum: header.checksum, group_is_whole: false });
            if header.group_end {
                all[group_start..].iter_mut().for_each(|found| found.group_is_whole = true);
                group_start = all.len();
            }
        }
    }
    all
}

fn is_subsequence(part: &[Found], whole: &[Found]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|wanted| whole.any(|found| found == wanted))
}

/// A sound segment in its short form: all kinds of records, sealed or with zeros behind them.
pub(super) fn sample(number: u64, base_seq: u64, previous: Option<&Sample>, sealed: bool) -> Sample {
    let header = SegmentHeader {
        store_id: STORE,
        number,
        epoch: EPOCH + number,
        base_seq,
        prev_number: if previous.is_some() { number - 1 } else { 0 },
        prev_last_seq: previous.map_or(0, |previous| previous.last_seq),
        prev_chain: previous.map_or(0, |previous| previous.chain),
        created_unix_ms: 1_771_329_603_000,
        has_restores: false,
        rewrite: None,
    };
    let mut sample = Sample {
        short: header.encode()[..SEGMENT_FIELDS_LEN].to_vec(),
        last_seq: base_seq - 1,
        chain: 0,
        records: 0,
    };
    for (_, op) in ops() {
        if !matches!(op, Op::Seal(_)) {
            let record = append(&op, sample.last_seq + 1, header.epoch, &mut sample.short);
            sample.last_seq += 1;
            sample.records += 1;
            sample.chain = chain(sample.chain, record.checksum);
        }
    }
    if sealed {
        let seal = SealV1 {
            records: sample.records,
            last_seq: sample.last_seq,
            len: (SEGMENT_HEADER_LEN + sample.short.len() - SEGMENT_FIELDS_LEN) as u64,
            chain: sample.chain,
            time_min: 1_771_329_603,
            time_max: 1_771_329_603,
        };
        append(&Op::Seal(seal), sample.last_seq, header.epoch, &mut sample.short);
    }
    sample
}

/// A segment in its short form.
pub(super) struct Sample {
    pub(super) short: Vec<u8>,
    pub(super) last_seq: u64,
    chain: u32,
    records: u64,
}

impl Sample {
    /// The whole file.
    pub(super) fn file(&self) -> Vec<u8> {
        expand(0, &self.short)
    }
}

pub(super) fn seeds() -> Seeds {
    let (open, sealed) = (sample(1, 1, None, false), sample(1, 1, None, true));
    let after_open = sample(2, open.last_seq + 1, Some(&open), false);
    let one =
        |first: u8, sample: &Sample, zeros: usize| [&[first, 0], &sample.short[..], &vec![0; zeros]].concat();
    let two = |first: &Sample, second: &Sample| {
        let len = u16::try_from(first.short.len()).expect("a short sample").to_le_bytes();
        [&[TWO | HEADER_MENDED | RECORDS_MENDED, 0], &len[..], &first.short, &second.short].concat()
    };
    let mended = HEADER_MENDED | RECORDS_MENDED;
    let torn = [&one(mended, &open, 0)[..], b"MRC1 and then a torn tail"].concat();
    vec![
        ("open", one(0, &open, 64)),
        ("open-mended", one(mended, &open, 64)),
        ("sealed", one(mended, &sealed, 0)),
        ("torn", torn),
        ("rolling", two(&open, &after_open)),
        ("rolled", two(&sealed, &after_open)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_sound_segments_with_all_kinds_of_records() {
        for sealed in [false, true] {
            let first = sample(1, 1, None, sealed);
            let second = sample(2, first.last_seq + 1, Some(&first), false);
            let place = place();
            put(&place, first.file());
            put(&place, second.file());
            drop(open(&place, second.last_seq).expect("a sound log"));
            assert_eq!(records(&place).len() as u64, second.last_seq);
            for segment in list(&place).expect("list").segments {
                let verified = verify(&place, &segment, u64::MAX, |_, _| {}).expect("read");
                assert!(verified.sealed || segment.header.number == 3);
                assert_eq!(verified.flaws.len(), usize::from(!verified.sealed), "{:?}", verified.flaws);
            }
        }
    }

    #[test]
    fn a_changed_byte_of_a_record_counts_only_when_its_checksum_is_set_right() {
        let mut short = sample(1, 1, None, false).short;
        // The last byte that is no padding: padding is checked, but no checksum mends it.
        let last = short.iter().rposition(|byte| *byte != 0).expect("records");
        short[last] ^= 2;
        let first_damaged = |first: u8| {
            let place = place();
            put(&place, expand(first, &short));
            records(&place).len()
        };
        assert_eq!(first_damaged(RECORDS_MENDED), first_damaged(0) + 1);
    }
}
