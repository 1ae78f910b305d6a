//! The segment that is open for records: writing batches, rolling, sealing.

use std::path::Path;
use std::sync::Arc;

use super::recover::end_of;
use super::scan::SEAL_RESERVE_LEN;
use super::{Place, SEGMENT_LEN_MAX, Segment, SegmentMap, SegmentName};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::{ManifestV1, TailV1};
use crate::format::op::{Op, OpKind, SealV1};
use crate::format::record::{Location, RecordHeader, chain, frame, record_len};
use crate::format::row::Position;
use crate::format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};
use crate::fs::{self, Access, DiskFile, Kind};

/// Zero-fill ahead of the records begins with this and doubles.
const FILL_LEN_MIN: u64 = 64 << 10;
/// Length of a segment without records.
const SEGMENT_LEN_EMPTY: u64 = SEGMENT_HEADER_LEN as u64;
/// Most bytes that are zero-filled ahead at once.
const FILL_LEN_MAX: u64 = 1 << 20;

/// A batch that does not fit into the zero-filled space and has at least this many bytes is written without filling
/// first: that one more sync weighs less than writing everything twice.
const DIRECT_LEN_MIN: u64 = 256 << 10;

/// One record to be written.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) op: Arc<Op>,
    pub(crate) payload: Vec<u8>,
    pub(crate) group_end: bool,
}

/// A batch that is not durable.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// Nothing of it was written; the segment is as it was.
    Clean(Error),
    /// The state of the file is not known; the log must not be written any more.
    Unknown(Error),
}

/// The open end of the log. One at a time writes to it.
#[derive(Debug)]
pub(crate) struct Tail {
    place: Place,
    clock: Arc<dyn Clock>,
    generation: u64,
    segments: SegmentMap,
    front: Front,
    /// A segment is sealed before it grows beyond this.
    segment_len_max: u64,
    /// Whether anything was written since the log was opened.
    dirty: bool,
    buffer: Vec<u8>,
}

/// Where the log goes on.
#[derive(Debug)]
enum Front {
    Open(Active),
    /// The disk had no space for a segment with this header: it is made before the next record.
    Wanted(SegmentHeader),
}

#[derive(Debug)]
struct Active {
    file: Box<dyn DiskFile>,
    header: SegmentHeader,
    state: TailV1,
    /// Up to here the file is zero-filled and its length is durable.
    filled: u64,
    fill_next: u64,
}

impl std::fmt::Debug for dyn Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// The state of a segment without records.
pub(crate) fn empty_state(header: &SegmentHeader) -> TailV1 {
    TailV1 {
        segment: header.number,
        len: SEGMENT_HEADER_LEN as u64,
        records: 0,
        last_seq: header.base_seq - 1,
        chain: 0,
        time_min: i64::MAX,
        time_max: i64::MIN,
    }
}

/// The state after one more record.
pub(crate) fn advance(state: &mut TailV1, header: &RecordHeader, len: u64, time: Option<i64>) {
    state.len += len;
    state.records += 1;
    state.last_seq = header.seq;
    state.chain = chain(state.chain, header.checksum);
    if let Some(time) = time {
        state.time_min = state.time_min.min(time);
        state.time_max = state.time_max.max(time);
    }
}

/// The time of the memory that an op stores.
pub(crate) fn memory_time(op: &Op) -> Option<i64> {
    match op {
        Op::Remember { memory, .. } | Op::Update { memory, .. } => Some(memory.timestamp),
        _ => None,
    }
}

/// Whether a record of this sequence may stand behind one of `last_seq`: in a rewritten segment some are left out.
pub(crate) fn follows(header: &SegmentHeader, last_seq: u64, seq: u64) -> bool {
    match header.rewrite {
        None => seq == last_seq + 1,
        Some(rewrite) => seq > last_seq && seq <= rewrite.last_seq,
    }
}

/// The state of a segment at its seal: a rewritten one ends with the last sequence that it stands for.
pub(crate) fn at_seal(header: &SegmentHeader, state: TailV1) -> TailV1 {
    TailV1 { last_seq: header.rewrite.map_or(state.last_seq, |rewrite| rewrite.last_seq), ..state }
}

/// The rolling checksum that the next segment names.
pub(crate) fn chain_behind(header: &SegmentHeader, state: &TailV1) -> u32 {
    header.rewrite.map_or(state.chain, |rewrite| rewrite.end_chain)
}

/// Makes a new segment file for records, durable with its name.
///
/// # Errors
/// As [`create_durably`].
pub(crate) fn create_segment(place: &Place, header: SegmentHeader) -> Result<Segment> {
    let path = place.segments.join(SegmentName::of(&header).to_string());
    create_durably(place, &path, |file| file.write_at(&header.encode(), 0))?;
    Ok(Segment { path, header, len: SEGMENT_LEN_EMPTY })
}

/// Makes a new file in the folder of segments, durable with its name once `write` has filled it.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when a file with records has this name already, what `write` says and what the disk says. Then
/// there is no new file: one that is left behind would look like the end of the log.
pub(super) fn create_durably(
    place: &Place,
    path: &Path,
    write: impl FnOnce(&dyn DiskFile) -> Result<()>,
) -> Result<()> {
    let temporary = path.with_extension("tmp");
    match place.disk.kind(path)? {
        // Nothing, or what a failed attempt left: no record was ever written to it.
        None | Some(Kind::File(0..=SEGMENT_LEN_EMPTY)) => {}
        Some(_) => {
            return Err(Error::corrupt(path, 0, "this file has the name of the next segment")
                .hint("move it out of the folder and keep it: it may hold memories"));
        }
    }
    let written = || -> Result<()> {
        if place.disk.kind(&temporary)?.is_some() {
            place.disk.remove(&temporary)?;
        }
        let file = place.disk.open(&temporary, Access::CreateNew)?;
        write(&*file)?;
        file.sync()?; // The content is durable before the name is.
        place.disk.rename(&temporary, path)?;
        place.disk.sync_folder(&place.segments)
    };
    if let Err(error) = written() {
        withdraw(place, path)?;
        return Err(error);
    }
    Ok(())
}

/// Takes a segment back that was made in vain.
fn withdraw(place: &Place, path: &Path) -> Result<()> {
    for path in [path, &path.with_extension("tmp")] {
        if place.disk.kind(path)?.is_some() {
            place.disk.remove(path)?;
        }
    }
    Ok(())
}

/// The seal of a segment whose records end so.
pub(crate) fn seal_of(state: &TailV1) -> SealV1 {
    SealV1 {
        records: state.records,
        last_seq: state.last_seq,
        len: state.len,
        chain: state.chain,
        time_min: state.time_min,
        time_max: state.time_max,
    }
}

/// Seals a segment: cuts it after its records, adds the seal, makes both durable.
pub(crate) fn seal_segment(file: &dyn DiskFile, epoch: u64, state: &TailV1) -> Result<()> {
    let record = seal_record(epoch, state);
    file.write_at(&record, state.len)?;
    file.set_len(state.len + record.len() as u64)?;
    file.sync()?;
    file.make_read_only()
}

/// The record that ends a segment whose records end so.
pub(super) fn seal_record(epoch: u64, state: &TailV1) -> Vec<u8> {
    let (mut payload, mut record) = (Vec::new(), Vec::new());
    Op::Seal(seal_of(state)).encode_payload(&mut payload);
    let header = RecordHeader {
        kind: OpKind::Seal,
        payload_len: 0,
        seq: state.last_seq,
        epoch,
        durable_seq: state.last_seq,
        group_end: true,
        has_vectors: false,
        checksum: 0,
    };
    frame(header, &payload, &mut record);
    debug_assert!(record.len() as u64 <= SEAL_RESERVE_LEN);
    record
}

/// A random number from the operating system.
pub(crate) fn random_u64() -> Result<u64> {
    getrandom::u64()
        .map_err(|error| Error::new(ErrorKind::Io, format!("no random numbers from the system: {error}")))
}

impl Tail {
    /// The log goes on in the last of these segments, whose records end as `state` says.
    pub(crate) fn resume(
        place: Place,
        clock: Arc<dyn Clock>,
        generation: u64,
        segments: Vec<Segment>,
        state: TailV1,
    ) -> Result<Self> {
        let last = segments.last().expect("a log has a segment");
        let front = Front::Open(Active::open(&place, last, state)?);
        Ok(Self::at(place, clock, generation, segments, front))
    }

    fn at(
        place: Place,
        clock: Arc<dyn Clock>,
        generation: u64,
        segments: Vec<Segment>,
        front: Front,
    ) -> Self {
        Self {
            place,
            clock,
            generation,
            segments: SegmentMap::new(segments),
            front,
            segment_len_max: SEGMENT_LEN_MAX,
            dirty: false,
            buffer: Vec::new(),
        }
    }

    /// The log goes on behind these segments in a new one with this header, but for its epoch. On a full disk it waits for
    /// the next record, so that what is there can be read.
    pub(crate) fn begin(
        place: Place,
        clock: Arc<dyn Clock>,
        generation: u64,
        segments: Vec<Segment>,
        next: SegmentHeader,
    ) -> Result<Self> {
        let mut tail = Self::at(place, clock, generation, segments, Front::Wanted(next));
        match tail.active() {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!(%error, "no space for a new segment: reads go on, writes wait for space");
                Ok(tail)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(tail),
        }
    }

    /// Seals segments before they grow beyond this, instead of [`SEGMENT_LEN_MAX`].
    pub(crate) fn limit_segments(&mut self, len_max: u64) {
        self.segment_len_max = len_max;
    }

    /// Where the records end.
    pub(crate) fn state(&self) -> TailV1 {
        match &self.front {
            Front::Open(active) => active.state,
            Front::Wanted(header) => empty_state(header),
        }
    }

    /// All segments, the active one last; shared with readers.
    pub(crate) fn segments(&self) -> &SegmentMap {
        &self.segments
    }

    /// The segment that is open for records, made now if it is wanted.
    fn active(&mut self) -> Result<&mut Active> {
        if let Front::Wanted(header) = &self.front {
            let header = SegmentHeader { epoch: random_u64()?, ..*header };
            let segment = create_segment(&self.place, header)?;
            let active = Active::open(&self.place, &segment, empty_state(&header))?;
            self.segments.push(segment);
            self.front = Front::Open(active);
        }
        match &mut self.front {
            Front::Open(active) => Ok(active),
            Front::Wanted(_) => unreachable!("it was just made"),
        }
    }

    /// Writes the batch and waits until it is durable: one write, one sync. Gives the place of each record and the
    /// one behind it.
    pub(crate) fn write_batch(
        &mut self,
        entries: &[Entry],
        durable_seq: u64,
    ) -> Result<Vec<(Location, Position)>, WriteError> {
        if entries.is_empty() {
            return Ok(Vec::new()); // Only somebody who waits for the batch before this one.
        }
        let batch_len = entries.iter().map(|entry| record_len(entry.payload.len()) as u64).sum::<u64>();
        let state = self.active().map_err(WriteError::Clean)?.state;
        if state.records > 0 && state.len + batch_len + SEAL_RESERVE_LEN > self.segment_len_max {
            self.roll()?;
        }
        let Self { front: Front::Open(active), buffer, .. } = self else {
            unreachable!("it was made above, and a roll leaves another one")
        };
        if batch_len < DIRECT_LEN_MIN {
            active.fill(batch_len, self.segment_len_max)?;
        }
        self.dirty = true;

        let mut state = active.state;
        let mut written = Vec::with_capacity(entries.len());
        buffer.clear();
        for entry in entries {
            let mut header = RecordHeader {
                kind: entry.op.kind(),
                payload_len: u32::try_from(entry.payload.len()).expect("payloads are limited at the door"),
                seq: entry.seq,
                epoch: active.header.epoch,
                durable_seq,
                group_end: entry.group_end,
                has_vectors: entry.op.vectors().is_some(),
                checksum: 0,
            };
            header.checksum = frame(header, &entry.payload, buffer);
            let len = record_len(entry.payload.len());
            let len_stored = u32::try_from(len).expect("payloads are limited at the door");
            let location = Location { segment: state.segment, offset: state.len, len: len_stored };
            advance(&mut state, &header, len as u64, memory_time(&entry.op));
            written.push((location, Position::behind(&header, location.offset, state)));
        }
        active.write(buffer)?; // Commit point: from here the batch survives a power cut.
        active.state = state;
        if buffer.capacity() > 4 << 20 {
            *buffer = Vec::new();
        }
        Ok(written)
    }

    /// Seals the active segment and goes on in a new one.
    pub(super) fn roll(&mut self) -> Result<(), WriteError> {
        let Front::Open(active) = &self.front else { return Ok(()) };
        let old = active.state;
        let header = SegmentHeader {
            number: old.segment + 1,
            epoch: random_u64().map_err(WriteError::Clean)?,
            base_seq: old.last_seq + 1,
            prev_number: old.segment,
            prev_last_seq: old.last_seq,
            prev_chain: old.chain,
            created_unix_ms: self.clock.now_ms(),
            has_restores: false,
            ..active.header
        };
        // The new segment is made first: on a full disk nothing has happened to the old one yet.
        let segment = create_segment(&self.place, header).map_err(|error| self.not_rolled(error, &header))?;
        let next = Active::open(&self.place, &segment, empty_state(&header)).map_err(|error| {
            let _ = withdraw(&self.place, &segment.path);
            self.not_rolled(error, &header)
        })?;
        seal_segment(&*active.file, active.header.epoch, &old).map_err(WriteError::Unknown)?;
        tracing::info!(segment = old.segment, records = old.records, bytes = old.len, "sealed segment");
        self.segments.set_len(old.segment, active.file.len().unwrap_or(old.len));
        self.segments.push(segment);
        self.front = Front::Open(Active { fill_next: FILL_LEN_MAX, ..next });
        if let Err(error) = self.write_manifest(None) {
            tracing::warn!(%error, "the manifest could not be written; it is only an accelerator");
        }
        Ok(())
    }

    /// Where the files of the log are.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// A segment is sealed before it grows beyond this.
    pub(super) fn segment_len_max(&self) -> u64 {
        self.segment_len_max
    }

    /// The header of the segment that follows this one with these records; it has no epoch yet.
    pub(super) fn header_behind(&self, header: &SegmentHeader, state: &TailV1) -> SegmentHeader {
        SegmentHeader {
            number: header.number + 1,
            epoch: 0,
            base_seq: state.last_seq + 1,
            prev_number: header.number,
            prev_last_seq: state.last_seq,
            prev_chain: state.chain,
            created_unix_ms: self.clock.now_ms(),
            has_restores: false,
            ..*header
        }
    }

    /// Seals the segment that is open, if there is one; gives the header of the next, which is made when it is needed.
    pub(super) fn seal_open(&mut self) -> Result<SegmentHeader, WriteError> {
        if let Front::Open(active) = &self.front {
            let (header, state) = (active.header, active.state);
            seal_segment(&*active.file, header.epoch, &state).map_err(WriteError::Unknown)?;
            self.segments.set_len(header.number, active.file.len().unwrap_or(state.len));
            self.front = Front::Wanted(self.header_behind(&header, &state));
        }
        match &self.front {
            Front::Wanted(header) => Ok(*header),
            Front::Open(_) => unreachable!("it was just sealed"),
        }
    }

    /// Goes on behind segments that others have written, with a segment of this header.
    pub(super) fn follow_parts(&mut self, segments: Vec<Segment>, next: SegmentHeader) {
        segments.into_iter().for_each(|segment| self.segments.push(segment));
        self.front = Front::Wanted(next);
        self.dirty = true;
        if let Err(error) = self.active() {
            tracing::warn!(%error, "the next segment waits for the next record");
        }
        if let Err(error) = self.write_manifest(None) {
            tracing::warn!(%error, "the manifest could not be written; it is only an accelerator");
        }
    }

    /// What a roll that failed before the seal leaves. The log goes on where it was, unless the file of the new segment
    /// is still there or may come back: records that followed in the old one would then contradict it.
    fn not_rolled(&self, error: Error, header: &SegmentHeader) -> WriteError {
        let path = self.place.segments.join(SegmentName::of(header).to_string());
        let is_gone = match self.place.disk.kind(&path) {
            // A name that was durable must not come back with a power cut.
            Ok(None) => self.place.disk.sync_folder(&self.place.segments).is_ok(),
            _ => false,
        };
        if is_gone { WriteError::Clean(error) } else { WriteError::Unknown(error) }
    }

    /// Number of the segment that is open for records.
    pub(super) fn open_segment(&self) -> Option<u64> {
        match &self.front {
            Front::Open(active) => Some(active.header.number),
            Front::Wanted(_) => None,
        }
    }

    /// The last sequence of a sealed segment, and the rolling checksum that the next one names.
    pub(super) fn end_of(&self, segment: &Segment) -> Result<(u64, u32)> {
        end_of(&self.place, segment)
    }

    /// Replaces the manifest after segments were rewritten. The next close marks the end of the log again.
    pub(super) fn note_segments(&mut self) -> Result<()> {
        self.dirty = true;
        self.write_manifest(None)
    }

    /// Replaces the manifest after a recovery. A full disk keeps no store shut for it: it is only an accelerator.
    pub(super) fn note_recovery(&mut self, clean_tail: Option<TailV1>) -> Result<()> {
        match self.write_manifest(clean_tail) {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!(%error, "the manifest could not be written");
                Ok(())
            }
            written => written,
        }
    }

    /// Replaces the manifest.
    fn write_manifest(&mut self, clean_tail: Option<TailV1>) -> Result<()> {
        self.generation += 1;
        let manifest = ManifestV1 {
            store_id: match &self.front {
                Front::Open(Active { header, .. }) | Front::Wanted(header) => header.store_id,
            },
            generation: self.generation,
            segments: self.segments.all().iter().map(|segment| segment.header.number).collect(),
            clean_tail,
        };
        fs::replace(&*self.place.disk, &self.place.manifest, &manifest.encode())
    }

    /// Gives unused space back and leaves a mark, so that the next open need not scan.
    pub(crate) fn close(&mut self) -> Result<()> {
        let Front::Open(active) = &mut self.front else { return Ok(()) };
        if !self.dirty {
            return Ok(());
        }
        active.file.set_len(active.state.len)?;
        active.file.sync()?;
        active.filled = active.state.len;
        let state = active.state;
        self.write_manifest(Some(state))?;
        self.dirty = false;
        Ok(())
    }
}

impl Active {
    /// Opens a segment whose records end so, for more of them.
    fn open(place: &Place, segment: &Segment, state: TailV1) -> Result<Self> {
        let file = place.disk.open(&segment.path, Access::Write)?;
        Ok(Self { file, header: segment.header, state, filled: state.len, fill_next: FILL_LEN_MIN })
    }

    /// Zero-fills ahead, so that a batch of this length overwrites space whose length is durable: on ext4 that is
    /// several times cheaper than growing the file with every sync, and a full disk is met before a record is at stake.
    fn fill(&mut self, batch_len: u64, segment_len_max: u64) -> Result<(), WriteError> {
        let need = self.state.len + batch_len + SEAL_RESERVE_LEN;
        if need <= self.filled {
            return Ok(());
        }
        // Nothing is written where the segment does not come to.
        let target = (self.filled + self.fill_next).min(segment_len_max).max(need);
        match self.zero_fill_to(target) {
            // A nearly full disk may still hold what is needed now.
            Err(WriteError::Clean(_)) if target > need => self.zero_fill_to(need)?,
            filled => filled?,
        }
        self.fill_next = (self.fill_next * 2).min(FILL_LEN_MAX);
        Ok(())
    }

    /// Writes records behind the others, with zeros as reserve where they outgrow the filled space, and syncs.
    fn write(&mut self, records: &mut Vec<u8>) -> Result<(), WriteError> {
        let end = self.state.len + records.len() as u64 + SEAL_RESERVE_LEN;
        if end > self.filled {
            records.resize(records.len() + SEAL_RESERVE_LEN as usize, 0);
            let inside = usize::try_from(self.filled - self.state.len).expect("the filled space is limited");
            let beyond = records.split_off(inside);
            // What the file has no space for yet comes first: on a full disk nothing of it is left.
            self.file.write_at(&beyond, self.filled).map_err(|error| self.taken_back(error))?;
            self.filled = end;
        }
        self.file.write_at(records, self.state.len).map_err(WriteError::Unknown)?;
        self.file.sync().map_err(WriteError::Unknown)
    }

    /// Gives back space that was taken behind the filled space and could not be used.
    fn taken_back(&self, error: Error) -> WriteError {
        match self.file.set_len(self.filled) {
            Ok(()) if error.kind() == ErrorKind::NoSpace => WriteError::Clean(error),
            _ => WriteError::Unknown(error),
        }
    }

    fn zero_fill_to(&mut self, target: u64) -> Result<(), WriteError> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let write = || -> Result<()> {
            let mut offset = self.filled;
            while offset < target {
                let len = (target - offset).min(ZEROS.len() as u64);
                self.file.write_at(&ZEROS[..usize::try_from(len).expect("a chunk")], offset)?;
                offset += len;
            }
            self.file.sync()
        };
        match write() {
            Ok(()) => {
                self.filled = target;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                // Gives back what was taken; if even that fails, the zeros do no harm.
                if let Err(error) = self.file.set_len(self.filled) {
                    tracing::warn!(%error, "unused space could not be given back");
                }
                Err(WriteError::Clean(error))
            }
            Err(error) => Err(WriteError::Unknown(error)),
        }
    }
}
