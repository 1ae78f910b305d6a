//! When records were written, as far as it is noted. Spec: `format-spec/folder.md`, "times".
//!
//! Records carry no time of writing. So a file beside the log says now and then how far the log had come. No write waits for
//! its entries: they are made durable before a pause, when the view is. One that a power cut takes before makes the
//! answer coarser, not wrong.

use std::path::{Path, PathBuf};

use super::restore::out_of_reach_at;
use super::{Inner, lock};
use crate::error::Result;
use crate::fs::{Access, Disk, Kind};

/// Bytes of an entry: sequence, milliseconds since 1970, CRC-32 of both, zeros.
const ENTRY_LEN: usize = 24;
/// Commits that follow each other within this time share an entry, that of the last one.
const INTERVAL_MS: i64 = 100;
/// When the file has more bytes than this, entries before the newest half are left out.
const LEN_MAX: u64 = 24 << 20;

/// The last entry, and what is still to be noted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    seq: u64,
    ms: i64,
    /// Length of the file, once it is known.
    len: Option<u64>,
    /// The last commit that has no entry yet.
    waiting: Option<(u64, i64)>,
    durable: Durable,
}

/// What of the file survives a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Durable {
    #[default]
    All,
    /// Its name, but not its last entries.
    Name,
    Nothing,
}

impl Times {
    /// Nothing is to be noted up to this sequence.
    pub(super) fn after(seq: u64) -> Self {
        Self { seq, ..Self::default() }
    }
}

impl Inner {
    /// Notes how far the log has come; not each of many commits that follow each other.
    pub(super) fn note_time(&self) {
        let mut times = lock(&self.times);
        let (seq, ms) = (self.log.durable_seq(), self.clock.now_ms());
        if seq <= times.seq {
            return;
        }
        let is_soon = times.len.is_some() && ms >= times.ms && ms - times.ms < INTERVAL_MS;
        if !is_soon {
            self.append_time(&mut times);
        }
        times.waiting = Some((seq, ms));
        if !is_soon {
            self.append_time(&mut times);
        }
    }

    /// Notes the last commit, before a pause, and makes all entries durable.
    pub(super) fn settle_times(&self) {
        let mut times = lock(&self.times);
        self.append_time(&mut times);
        if times.durable == Durable::All {
            return;
        }
        let (disk, path) = (&*self.place.disk, path_of(&self.folder));
        let synced = disk.open(&path, Access::Write).and_then(|file| file.sync());
        let named = match times.durable {
            Durable::Nothing => synced.and_then(|()| disk.sync_folder(&self.folder)),
            Durable::Name | Durable::All => synced,
        };
        match named {
            Ok(()) => times.durable = Durable::All,
            Err(error) => tracing::debug!(%error, "times of writes may be gone after a power cut"),
        }
    }

    fn append_time(&self, times: &mut Times) {
        let Some((seq, ms)) = times.waiting.take() else { return };
        let (disk, path) = (&*self.place.disk, path_of(&self.folder));
        let is_new = times.len.is_none() && !matches!(disk.kind(&path), Ok(Some(_)));
        match append(disk, &path, times.len, seq, ms) {
            Ok(len) => {
                let durable = match times.durable {
                    Durable::All if !is_new => Durable::Name,
                    Durable::All => Durable::Nothing,
                    former => former,
                };
                *times = Times { seq, ms, len: Some(len), waiting: None, durable };
            }
            Err(error) => tracing::debug!(%error, "the time of a write is not noted"),
        }
    }

    /// The last sequence that was durable at this time.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when nothing is known of so early a time, and what the disk says.
    pub(crate) fn seq_at(&self, ms: i64) -> Result<u64> {
        if ms >= self.clock.now_ms() {
            return Ok(self.log.durable_seq());
        }
        let entries = read(&*self.place.disk, &path_of(&self.folder))?;
        let known = entries.iter().filter(|(_, at)| *at <= ms).map(|(seq, _)| *seq).max();
        match known {
            Some(seq) => Ok(seq.min(self.log.durable_seq())),
            None if self.log.durable_seq() == 0 => Ok(0),
            None => Err(out_of_reach_at("it is not known what was written by then")),
        }
    }
}

fn append(disk: &dyn Disk, path: &Path, len: Option<u64>, seq: u64, ms: i64) -> Result<u64> {
    let file = disk.open(path, Access::OpenOrCreate)?;
    let end = match len {
        Some(len) => len,
        None => {
            let len = file.len()?;
            len - len % ENTRY_LEN as u64
        }
    };
    if end >= LEN_MAX {
        let entries = read(disk, path)?;
        let newer: Vec<u8> =
            entries[entries.len() / 2..].iter().flat_map(|(seq, ms)| entry(*seq, *ms)).collect();
        drop(file);
        crate::fs::replace(disk, path, &newer)?;
        return append(disk, path, Some(newer.len() as u64), seq, ms);
    }
    file.write_at(&entry(seq, ms), end)?;
    Ok(end + ENTRY_LEN as u64)
}

fn entry(seq: u64, ms: i64) -> [u8; ENTRY_LEN] {
    let mut bytes = [0; ENTRY_LEN];
    bytes[..8].copy_from_slice(&seq.to_le_bytes());
    bytes[8..16].copy_from_slice(&ms.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..16]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// All entries that are whole.
fn read(disk: &dyn Disk, path: &Path) -> Result<Vec<(u64, i64)>> {
    let Some(Kind::File(len)) = disk.kind(path)? else { return Ok(Vec::new()) };
    let file = disk.open(path, Access::Read)?;
    let mut bytes = vec![0; usize::try_from(len.min(2 * LEN_MAX)).expect("limited")];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    let (entries, _) = bytes.as_chunks::<ENTRY_LEN>();
    Ok(entries
        .iter()
        .filter(|bytes| bytes[16..20] == crc32fast::hash(&bytes[..16]).to_le_bytes())
        .map(|bytes| {
            let part = |at: usize| *bytes[at..].first_chunk::<8>().expect("within the entry");
            (u64::from_le_bytes(part(0)), i64::from_le_bytes(part(8)))
        })
        .collect())
}

fn path_of(folder: &Path) -> PathBuf {
    folder.join("times")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::embed::ModelSpec;
    use crate::memory::Remember;
    use crate::parts::chance::Chance;
    use crate::parts::disk::SimulatedDisk;
    use crate::store::{Engine, Options};

    #[test]
    fn what_was_noted_before_a_pause_survives_a_power_cut() {
        let disk = SimulatedDisk::new(Path::new("/disk"));
        let options = Options::bare("/disk/home").model(ModelSpec::None).background_embedding(false);
        let store = Engine::open(options.disk(Arc::new(disk.clone())).alone()).expect("open");
        store.remember(Remember::new("one")).expect("remember");
        let path = path_of(&store.inner().folder);
        let noted = |disk: &SimulatedDisk| read(disk, &path).expect("read").iter().map(|(seq, _)| *seq).max();
        let cut = |seed| disk.after_power_cut(&mut Chance(seed));
        assert!((0..20).any(|seed| noted(&cut(seed)).is_none()), "no write waits for it");
        store.inner().settle_times();
        assert!((0..20).all(|seed| noted(&cut(seed)) == Some(1)));
        store.remember(Remember::new("two")).expect("remember");
        store.inner().settle_times();
        assert!((0..20).all(|seed| noted(&cut(seed)) == Some(2)));
    }
}
