//! What an unfinished check has found whole, so that the next one need not read it again.
//!
//! Sealed segments never change. Each one that was read and is whole becomes a line of a file, with what of it the
//! view is held against; the line of a segment counts for as long as its header and its seal say the same. The file is
//! written as the check goes on, so whatever ends it, a signal or a power cut, leaves something to go on from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Depth;
use super::read::SegmentRead;
use crate::error::Result;
use crate::format::op::MemoryKey;
use crate::fs::{Access, Disk, DiskFile, RealDisk, read_exact_at};
use crate::log::{self, Segment};

/// How a check of every byte is done.
#[derive(Clone, Debug, Default, bincode::Encode, bincode::Decode)]
#[must_use]
pub struct CheckOptions {
    pub(super) resume: Option<PathBuf>,
    pub(super) time_limit: Option<Duration>,
    pub(super) db_path: Option<PathBuf>,
    pub(super) without_copies: bool,
}

impl CheckOptions {
    /// The same for a process with another working folder.
    pub(crate) fn with_absolute_paths(&self) -> Result<Self> {
        let absolute = |path: &Option<PathBuf>| path.as_deref().map(crate::fs::absolute).transpose();
        Ok(Self { resume: absolute(&self.resume)?, db_path: absolute(&self.db_path)?, ..self.clone() })
    }

    /// Everything is read, however long it takes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes in this file, as JSON lines, which sealed segments are whole, and leaves out those that it names already:
    /// a check that was cut short goes on where it was. Of those only header and seal are read again. A check that
    /// comes to its end removes the file.
    pub fn resume(mut self, file: impl Into<PathBuf>) -> Self {
        self.resume = Some(file.into());
        self
    }

    /// After this time nothing new is begun: the report says that it is not complete.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Where `memory.db` is published, for [`check_files_with`](super::check_files_with); by default in the home folder.
    pub fn db_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.db_path = Some(path.into());
        self
    }

    /// Whether the bytes of `memory.db` and of all backups are read, too, which are copies of what the store holds; by
    /// default they are. Otherwise only what their headers and manifests say is looked at.
    pub fn copies(mut self, on: bool) -> Self {
        self.without_copies = !on;
        self
    }

    /// What holds for a check that begins now.
    pub(super) fn limits(&self) -> Limits<'_> {
        let deadline = self.time_limit.and_then(|limit| Instant::now().checked_add(limit));
        let copies = if self.without_copies { Depth::Quick } else { Depth::Deep };
        Limits { resume: self.resume.as_deref(), deadline, copies }
    }
}

/// What holds for one check.
pub(super) struct Limits<'a> {
    /// The file with notes of what is whole.
    pub(super) resume: Option<&'a Path>,
    /// Nothing new is begun after this.
    pub(super) deadline: Option<Instant>,
    /// How much of `memory.db` and the backups is read at most.
    pub(super) copies: Depth,
}

/// A segment that was read and is whole, with what the log says of its memories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sound {
    segment: u64,
    generation: u64,
    epoch: u64,
    len: u64,
    records: u64,
    last_seq: u64,
    chain: u32,
    /// Memories whose newest version here is the record that first stored them: the first of some that follow each
    /// other, and how many they are.
    stored: Vec<(u64, u64)>,
    /// Other memories, each with the record of its newest version here.
    updated: Vec<(u64, u64)>,
    forgotten: Vec<u64>,
    /// CRC-32 of the line with a 0 here.
    checksum: u32,
}

impl Sound {
    /// `None` when the segment is not sealed, or something is wrong with it.
    fn of(segment: &Segment, read: &SegmentRead) -> Option<Self> {
        let state = &read.verified.state;
        if !read.verified.sealed || !read.verified.flaws.is_empty() {
            return None;
        }
        let mut sound = Self {
            segment: segment.header.number,
            generation: segment.header.generation(),
            epoch: segment.header.epoch,
            len: state.len,
            records: state.records,
            last_seq: state.last_seq,
            chain: state.chain,
            ..Self::default()
        };
        let newest: BTreeMap<_, _> = read.changes.iter().copied().collect();
        for (key, seq) in newest {
            match seq {
                None => sound.forgotten.push(key.0),
                Some(seq) if seq != key.0 => sound.updated.push((key.0, seq)),
                Some(_) => match sound.stored.last_mut() {
                    Some((first, count)) if *first + *count == key.0 => *count += 1,
                    _ => sound.stored.push((key.0, 1)),
                },
            }
        }
        sound.checksum = sound.computed();
        Some(sound)
    }

    fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("numbers have a JSON text");
        line.push(b'\n');
        line
    }

    fn computed(&self) -> u32 {
        crc32fast::hash(&Self { checksum: 0, ..self.clone() }.line())
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let sound: Self = serde_json::from_slice(line).ok()?;
        // Sequences are from 1 on, so none of a hostile line runs over.
        let fits = sound.stored.iter().map(|(_, count)| count).sum::<u64>() <= sound.records;
        (fits && sound.checksum == sound.computed()).then_some(sound)
    }

    fn is_of(&self, segment: &Segment, verified: &log::Verified) -> bool {
        let (header, state) = (&segment.header, &verified.state);
        let of_header = (header.number, header.generation(), header.epoch);
        of_header == (self.segment, self.generation, self.epoch)
            && (state.len, state.records, state.last_seq, state.chain)
                == (self.len, self.records, self.last_seq, self.chain)
    }

    fn changes(&self) -> Vec<(MemoryKey, Option<u64>)> {
        let stored = self.stored.iter().flat_map(|(first, count)| *first..first.saturating_add(*count));
        let stored = stored.map(|key| (MemoryKey(key), Some(key)));
        let updated = self.updated.iter().map(|(key, seq)| (MemoryKey(*key), Some(*seq)));
        let forgotten = self.forgotten.iter().map(|key| (MemoryKey(*key), None));
        stored.chain(updated).chain(forgotten).collect()
    }
}

/// The file with what was found whole.
#[derive(Debug)]
pub(super) struct Notes {
    file: Box<dyn DiskFile>,
    /// Where the next line begins.
    end: u64,
    known: Vec<Sound>,
}

impl Notes {
    /// What is there already; lines that are not whole do not count.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = RealDisk.open(path, Access::OpenOrCreate)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
        read_exact_at(&*file, &mut bytes, 0)?;
        // A line that was cut short is written over.
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let known = bytes[..end].split(|byte| *byte == b'\n').filter_map(Sound::parse).collect();
        file.set_len(end as u64)?;
        Ok(Self { file, end: end as u64, known })
    }

    /// What an earlier check read of a segment, if it still is the one that was read.
    pub(super) fn read_before(&self, segment: &Segment, verified: log::Verified) -> Option<SegmentRead> {
        if !verified.flaws.is_empty() {
            return None;
        }
        let sound = self.known.iter().find(|sound| sound.is_of(segment, &verified))?;
        Some(SegmentRead { verified, records: sound.records, changes: sound.changes() })
    }

    /// Notes a segment, if it is whole and sealed and not yet noted.
    pub(super) fn note(&mut self, segment: &Segment, read: &SegmentRead) -> Result<()> {
        let Some(sound) = Sound::of(segment, read).filter(|sound| !self.known.contains(sound)) else {
            return Ok(());
        };
        let line = sound.line();
        self.file.write_at(&line, self.end)?;
        self.end += line.len() as u64;
        Ok(())
    }

    /// All was read: the next check begins anew.
    pub(super) fn finish(self) -> Result<()> {
        RealDisk.remove(self.file.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Sound {
        let mut sound = Sound {
            segment: 3,
            epoch: u64::MAX,
            records: 9,
            last_seq: 20,
            stored: vec![(12, 3), (18, 1)],
            updated: vec![(4, 15)],
            forgotten: vec![1],
            ..Sound::default()
        };
        sound.checksum = sound.computed();
        sound
    }

    #[test]
    fn a_line_reads_back_and_a_changed_one_does_not_count() {
        let line = sound().line();
        assert_eq!(Sound::parse(&line), Some(sound()));
        let changes = sound().changes();
        assert_eq!(changes.len(), 6);
        assert_eq!(changes[3..], [(MemoryKey(18), Some(18)), (MemoryKey(4), Some(15)), (MemoryKey(1), None)]);
        for at in 0..line.len() - 1 {
            for bit in 0..7 {
                let mut changed = line.clone();
                changed[at] ^= 1 << bit;
                assert!(Sound::parse(&changed).is_none(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_short_counts_up_to_its_last_whole_line() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notes");
        let line = sound().line();
        std::fs::write(&path, [&line[..], b"nonsense\n", &line[..line.len() / 2]].concat()).expect("write");
        let notes = Notes::open(&path).expect("open");
        assert_eq!((notes.known.as_slice(), notes.end), (&[sound()][..], line.len() as u64 + 9));
        notes.finish().expect("remove");
        assert!(!path.exists());
    }
}
