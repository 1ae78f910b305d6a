//! Write-ahead segments: the truth of the store.
//!
//! [`Log::commit`] appends with group commit: concurrent callers share one write and one `fdatasync`. [`recover`]
//! finds where the log ends after a crash and tells a torn tail from damage. Spec: `format-spec/segment.md`,
//! `format-spec/record.md`, `format-spec/recovery.md`.

mod commit;
mod recover;
mod scan;
mod tail;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use commit::{Committed, Log, Planned, Staged};
pub(crate) use recover::{is_in_history, last_acknowledged, missing_numbers, recover, segments_gone};
pub(crate) use scan::{ScanEnd, Scanner, read_record};
pub(crate) use tail::{advance, empty_state, memory_time};
pub(crate) use verify::{Verified, verify};

use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::{MANIFEST_LEN_MAX, ManifestProblem, ManifestV1};
use crate::format::segment::{HeaderProblem, SEGMENT_HEADER_LEN, SegmentHeader};
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
    fn new(segments: Vec<Segment>) -> Self {
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
}

/// What a look at the segment folder found.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Usable segments, by number.
    pub(crate) segments: Vec<Segment>,
    /// Files that should be segments but are not, with what is wrong.
    pub(crate) unusable: Vec<(PathBuf, Error)>,
}

/// The file name of a segment.
pub(crate) fn segment_name(number: u64, base_seq: u64) -> String {
    format!("{number:016x}-{base_seq:016x}{SEGMENT_SUFFIX}")
}

fn parse_segment_name(name: &str) -> Option<(u64, u64)> {
    let (number, base_seq) = name.strip_suffix(SEGMENT_SUFFIX)?.split_once('-')?;
    let parsed = (u64::from_str_radix(number, 16).ok()?, u64::from_str_radix(base_seq, 16).ok()?);
    (segment_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// Reads the headers of all segments.
///
/// # Errors
/// When the folder cannot be read, or a segment was written by a newer version.
pub(crate) fn list(place: &Place) -> Result<Listing> {
    let mut listing = Listing::default();
    for name in place.disk.list(&place.segments)? {
        let Some((number, base_seq)) = parse_segment_name(&name) else { continue };
        let path = place.segments.join(&name);
        match read_header(&*place.disk, &path) {
            Ok((header, len)) if header.number == number && header.base_seq == base_seq => {
                listing.segments.push(Segment { path, header, len });
            }
            Ok((header, _)) => {
                let what =
                    format!("the header says segment {}, base sequence {}", header.number, header.base_seq);
                listing.unusable.push((path.clone(), Error::corrupt(&path, 0, what)));
            }
            Err(error) if error.kind() == ErrorKind::UnknownFormat => return Err(error),
            Err(error) => listing.unusable.push((path, error)),
        }
    }
    listing.segments.sort_by_key(|segment| segment.header.number);
    Ok(listing)
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

/// Opens a segment for reading.
pub(crate) fn open_segment(place: &Place, segment: &Segment) -> Result<Box<dyn DiskFile>> {
    place.disk.open(&segment.path, Access::Read)
}

#[cfg(test)]
mod spec_tests;
#[cfg(test)]
mod tests;
