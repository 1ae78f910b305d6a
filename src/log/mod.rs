//! Write-ahead segments: the truth of the store.
//!
//! [`Log::commit`] appends with group commit: concurrent callers share one write and one `fdatasync`. [`recover`]
//! finds where the log ends after a crash and tells a torn tail from damage. Spec: `format-spec/segment.md`,
//! `format-spec/record.md`, `format-spec/recovery.md`.

mod bulk;
mod commit;
mod recover;
mod rewrite;
mod salvage;
mod scan;
mod tail;
mod verify;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use bulk::{Bulk, Gate, begin_behind, copy_up_to, settle_parts};
pub(crate) use commit::{Begun, Committed, Log, Planned, Staged};
pub(crate) use recover::{
    Recovered, is_in_history, last_acknowledged, missing_numbers, recover, segments_gone,
};
pub(crate) use rewrite::{Span, rewrite, rewritten_name};
pub(crate) use salvage::{Hole, Salvaged, holes, salvage};
pub(crate) use scan::{ScanEnd, Scanner, read_record};
pub(crate) use tail::{advance, at_seal, empty_state, follows, memory_time};
pub(crate) use verify::{Verified, glance, verify};

use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::{MANIFEST_LEN_MAX, ManifestProblem, ManifestV1};
use crate::format::segment::{HeaderProblem, Rewrite, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::fs::{self, Access, Disk, DiskFile, Kind};

/// A segment is sealed before it grows beyond this.
pub(crate) const SEGMENT_LEN_MAX: u64 = 64 << 20;
/// Most bytes of one atomic group.
pub(crate) const GROUP_LEN_MAX: usize = 32 << 20;
/// A batch takes no further group beyond this, so that a segment never grows beyond its limit.
const BATCH_LEN_MAX: usize = GROUP_LEN_MAX;

/// Sequences and numbers of segments stay below this, so that they can be counted up without a thought.
const NUMBER_END: u64 = 1 << 62;

const SEGMENT_SUFFIX: &str = ".mseg";

/// Where the files of the log are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) disk: Arc<dyn Disk>,
    /// Folder of the segments.
    pub(crate) segments: PathBuf,
    /// The manifest.
    pub(crate) manifest: PathBuf,
}

/// One segment file whose header is whole.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) header: SegmentHeader,
    pub(crate) len: u64,
}

/// The segments that there are, shared by the one who writes and all who read.
#[derive(Clone, Debug)]
pub(crate) struct SegmentMap(Arc<RwLock<Vec<Segment>>>);

impl SegmentMap {
    /// These segments, by number.
    pub(crate) fn new(segments: Vec<Segment>) -> Self {
        Self(Arc::new(RwLock::new(segments)))
    }

    /// All segments by number, the active one last.
    pub(crate) fn all(&self) -> Vec<Segment> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The segment of this number.
    pub(crate) fn find(&self, number: u64) -> Option<Segment> {
        let segments = self.0.read().unwrap_or_else(PoisonError::into_inner);
        segments
            .binary_search_by_key(&number, |segment| segment.header.number)
            .ok()
            .map(|index| segments[index].clone())
    }

    fn push(&self, segment: Segment) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(segment);
    }

    /// The highest generation of them.
    pub(crate) fn newest_generation(&self) -> u64 {
        newest_generation(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The segment of this number has this length since it was sealed.
    fn set_len(&self, number: u64, len: u64) {
        let mut segments = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = segments.iter_mut().find(|segment| segment.header.number == number) {
            segment.len = len;
        }
    }

    /// Puts a rewritten segment in the place of those it stands for, and gives these.
    pub(crate) fn replace(&self, rewritten: Segment) -> Vec<Segment> {
        let mut segments = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let numbers = rewritten.header.numbers();
        let replaced = segments.extract_if(.., |one| numbers.contains(&one.header.number)).collect();
        let at = segments.partition_point(|one| one.header.number < rewritten.header.number);
        segments.insert(at, rewritten);
        replaced
    }
}

/// The highest generation of these; 0 when none was rewritten.
pub(crate) fn newest_generation(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| segment.header.generation()).max().unwrap_or(0)
}

/// What a look at the segment folder found.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Usable segments, by number.
    pub(crate) segments: Vec<Segment>,
    /// Files that should be segments but are not.
    pub(crate) unusable: Vec<Unusable>,
    /// Files in whose place a rewritten segment stands: whoever made that was interrupted before it put them away.
    pub(crate) superseded: Vec<Superseded>,
}

/// A file that does not count any more.
#[derive(Debug)]
pub(crate) struct Superseded {
    pub(crate) path: PathBuf,
    /// Set when its header is whole.
    pub(crate) segment: Option<Segment>,
}

/// A file that should be a segment but is not.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub(crate) path: PathBuf,
    /// What its name says, or its header, if that is whole.
    pub(crate) name: SegmentName,
    /// What is wrong.
    pub(crate) error: Error,
    /// Its header is whole and not that of its name: it says nothing of where the log ends.
    pub(crate) is_misnamed: bool,
}

/// What the name of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentName {
    pub(crate) number: u64,
    pub(crate) base_seq: u64,
    /// 0 unless the segment was rewritten.
    pub(crate) generation: u64,
}

impl SegmentName {
    pub(crate) fn of(header: &SegmentHeader) -> Self {
        Self { number: header.number, base_seq: header.base_seq, generation: header.generation() }
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(SEGMENT_SUFFIX)?.split('-');
        let mut next = || u64::from_str_radix(parts.next()?, 16).ok();
        let (number, base_seq) = (next()?, next()?);
        let parsed = Self { number, base_seq, generation: next().unwrap_or(0) };
        // Numbers that were never given: nothing is computed from them.
        let is_given = [number, base_seq].iter().all(|number| (1..NUMBER_END).contains(number))
            && parsed.generation < NUMBER_END;
        (is_given && parsed.to_string() == name).then_some(parsed)
    }
}

/// The file name.
impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.number, self.base_seq)?;
        if self.generation > 0 {
            write!(f, "-{:016x}", self.generation)?;
        }
        f.write_str(SEGMENT_SUFFIX)
    }
}

/// Reads the headers of all segments.
///
/// # Errors
/// When the folder cannot be read, or a segment was written by a newer version.
pub(crate) fn list(place: &Place) -> Result<Listing> {
    let mut listing = Listing::default();
    for name in place.disk.list(&place.segments)? {
        let path = place.segments.join(&name);
        let Some(name) = SegmentName::parse(&name) else { continue };
        let (error, misnamed) = match read_header(&*place.disk, &path) {
            Ok((header, len)) if SegmentName::of(&header) == name => {
                listing.segments.push(Segment { path, header, len });
                continue;
            }
            Ok((header, _)) => {
                let what = format!("the header is that of {}", SegmentName::of(&header));
                (Error::corrupt(&path, 0, what), Some(SegmentName::of(&header)))
            }
            Err(error) if error.kind() == ErrorKind::UnknownFormat || !is_of_the_file(&error) => {
                return Err(error);
            }
            Err(error) => (error, None),
        };
        // Its records count where its header says.
        let (name, is_misnamed) = (misnamed.unwrap_or(name), misnamed.is_some());
        listing.unusable.push(Unusable { path, name, error, is_misnamed });
    }
    listing.segments.sort_by_key(|segment| segment.header.number);
    let rewritten: Vec<_> =
        listing.segments.iter().filter_map(|segment| rewritten(&segment.header)).collect();
    let is_superseded = |number: u64, generation: u64| {
        rewritten.iter().any(|(numbers, newer)| numbers.contains(&number) && *newer > generation)
    };
    let segments =
        listing.segments.extract_if(.., |one| is_superseded(one.header.number, one.header.generation()));
    listing
        .superseded
        .extend(segments.map(|segment| Superseded { path: segment.path.clone(), segment: Some(segment) }));
    let unusable = listing.unusable.extract_if(.., |one| is_superseded(one.name.number, one.name.generation));
    listing.superseded.extend(unusable.map(|unusable| Superseded { path: unusable.path, segment: None }));
    Ok(listing)
}

/// Whether an error tells of the file, and not of a system that is short of something.
fn is_of_the_file(error: &Error) -> bool {
    /// A sector that cannot be read.
    const EIO: i32 = 5;
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    error.kind() != ErrorKind::Io || source.is_some_and(|source| source.raw_os_error() == Some(EIO))
}

/// What a rewritten segment stands for, and its generation.
fn rewritten(header: &SegmentHeader) -> Option<(RangeInclusive<u64>, u64)> {
    header.rewrite.map(|rewrite| (header.numbers(), rewrite.generation))
}

fn read_header(disk: &dyn Disk, path: &Path) -> Result<(SegmentHeader, u64)> {
    let file = disk.open(path, Access::Read)?;
    let mut bytes = [0; SEGMENT_HEADER_LEN];
    fs::read_exact_at(&*file, &mut bytes, 0)?;
    let header = SegmentHeader::decode(&bytes).map_err(|problem| match problem {
        HeaderProblem::Damaged(damage) => Error::corrupt(path, 0, format!("segment header: {damage}")),
        HeaderProblem::Newer { major, features } => {
            newer_format(path, &format!("segment format {major}, features {features:#x}"))
        }
    })?;
    check_header(&header).map_err(|what| Error::corrupt(path, 0, format!("segment header: {what}")))?;
    Ok((header, file.len()?))
}

/// Numbers that were never written, although the checksum holds: nothing is computed from them.
fn check_header(header: &SegmentHeader) -> Result<(), String> {
    let SegmentHeader { number, base_seq, prev_number, prev_last_seq, .. } = *header;
    if !(1..NUMBER_END).contains(&number) || !(1..NUMBER_END).contains(&base_seq) {
        return Err(format!("segment {number} begins at sequence {base_seq}"));
    }
    if prev_number >= number || prev_last_seq != base_seq - 1 {
        return Err(format!(
            "segment {number} at sequence {base_seq} follows segment {prev_number}, which ends at {prev_last_seq}"
        ));
    }
    if let Some(Rewrite { last_seq, generation, .. }) = header.rewrite
        && (!(prev_last_seq..NUMBER_END).contains(&last_seq) || !(1..NUMBER_END).contains(&generation))
    {
        return Err(format!(
            "rewritten segment {number} of generation {generation} has sequences {base_seq} to {last_seq}"
        ));
    }
    Ok(())
}

fn newer_format(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::UnknownFormat, format!("written by a newer version ({what})"))
        .at(path)
        .hint("use the version of memento-kv that wrote this store, or a newer one")
}

/// The manifest, if there is a whole one.
///
/// # Errors
/// When it was written by a newer version or cannot be read. A damaged one is `None`: it is only an accelerator.
pub(crate) fn read_manifest(place: &Place) -> Result<Option<ManifestV1>> {
    match place.disk.kind(&place.manifest)? {
        Some(Kind::File(len)) if len <= MANIFEST_LEN_MAX as u64 => {}
        None => return Ok(None),
        Some(kind) => {
            tracing::warn!(?kind, "the manifest is not a usable file and is ignored");
            return Ok(None);
        }
    }
    let Some(bytes) = fs::read_small(&*place.disk, &place.manifest, MANIFEST_LEN_MAX)? else {
        return Ok(None);
    };
    match ManifestV1::decode(&bytes) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(ManifestProblem::Newer { major }) => {
            Err(newer_format(&place.manifest, &format!("manifest format {major}")))
        }
        Err(ManifestProblem::Damaged(damage)) => {
            tracing::warn!(%damage, "the manifest is damaged and is ignored");
            Ok(None)
        }
    }
}

/// The segment in this file, wherever it is.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when its header is damaged, and what the disk says.
pub(crate) fn segment_at(place: &Place, path: &Path) -> Result<Segment> {
    let (header, len) = read_header(&*place.disk, path)?;
    Ok(Segment { path: path.to_owned(), header, len })
}

/// Opens a segment for reading.
pub(crate) fn open_segment(place: &Place, segment: &Segment) -> Result<Box<dyn DiskFile>> {
    place.disk.open(&segment.path, Access::Read)
}

#[cfg(test)]
mod spec_tests;
#[cfg(test)]
mod tests;
