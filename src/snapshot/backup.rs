//! Backups: snapshots that are kept, each with a manifest that says what it was when it was verified.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::checksum::{crc32_of, sha256_of};
use super::publish::{published_before, written};
use super::read;
use super::retention::{Made, expired};
use super::write::{Built, new_id};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{self, Disk, Kind};
use crate::store::{Engine, Inner, Progress};

/// The folder of backups in a home.
const FOLDER: &str = "backups";
/// Longest manifest.
const MANIFEST_LEN_MAX: usize = 64 << 10;
/// Seconds that are tried for a name that is free.
const NAMES_TRIED: i64 = 60;

/// What is known of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, bincode::Encode, bincode::Decode)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BackupVerdict {
    /// It is what it was when it was made and read back.
    Verified,
    /// It has no manifest: nobody of ours has verified it. Backups of the original are such.
    Unverified,
    /// It is not what its manifest says.
    Damaged,
}

impl BackupVerdict {
    /// The stable snake_case name that `--json` prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Unverified => "unverified",
            Self::Damaged => "damaged",
        }
    }
}

/// One backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub struct Backup {
    /// The file.
    pub path: PathBuf,
    /// When it was made, in milliseconds since 1970: by its manifest, else by its name; 0 where neither tells.
    pub created_ms: i64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Memories in it, where a manifest says so.
    pub memories: Option<u64>,
    /// Sequence up to which records are in it, where a manifest says so.
    pub seq: Option<u64>,
    /// What is known of it.
    pub verdict: BackupVerdict,
}

/// What stands beside a backup, as `<file>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    created_ms: i64,
    store_id: String,
    snapshot_id: String,
    seq: u64,
    rows: u64,
    content_crc: String,
    bytes: u64,
    /// Not in manifests of before.
    #[serde(default)]
    crc32: Option<u32>,
    sha256: String,
    model: Option<String>,
    dimensions: Option<u32>,
    /// Whether somebody asked for it, and not the schedule.
    #[serde(default)]
    by_hand: bool,
}

impl Engine {
    /// Makes a backup in the home's folder `backups`, `memory_YYYYMMDD_HHMMSS.db` by local time, and lets go of older
    /// ones as `retention_days` says.
    pub(crate) fn backup_with(
        &self,
        retention_days: u32,
        by_hand: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Backup> {
        let store = self.inner();
        store.check_writable()?;
        if let Err(error) = published_before(store) {
            tracing::warn!(%error, "memory.db is not up to date");
        }
        // Another one at the same time would take the same name, and clear away what this one has half written.
        let _alone = store.publishing();
        let folder = backup_folder(store)?;
        let path = free_name(store, &folder)?;
        let backup = make(store, &path, by_hand, progress)?;
        if let Err(error) = thin_out(store, &folder, retention_days) {
            // There is one more, and that is what counts.
            tracing::warn!(%error, "older backups stay");
        }
        Ok(backup)
    }

    /// Makes a backup under this name, with its manifest beside it.
    pub(crate) fn backup_to(&self, path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Backup> {
        let store = self.inner();
        let disk = store.disk();
        let _alone = store.publishing();
        let path = match disk.kind(path)? {
            Some(Kind::Folder) => free_name(store, path)?,
            Some(_) => {
                return Err(Error::new(ErrorKind::Refused, "a backup never takes the place of a file")
                    .at(path)
                    .hint("give another name, or a folder"));
            }
            None => path.to_owned(),
        };
        make(store, &path, true, progress)
    }

    /// The backups of the home, the newest first.
    pub(crate) fn backups(&self, deep: bool) -> Result<Vec<Backup>> {
        let store = self.inner();
        backups_of(&**store.disk(), store.home(), deep)
    }
}

/// The backups of a home, the newest first.
pub(super) fn backups_of(disk: &dyn Disk, home: &Path, deep: bool) -> Result<Vec<Backup>> {
    let mut backups = Vec::new();
    for folder in [home.join(FOLDER), home.to_owned()] {
        if disk.kind(&folder)? != Some(Kind::Folder) {
            continue;
        }
        for name in disk.list(&folder)? {
            let Some(named_ms) = time_of_name(&name) else { continue };
            let path = folder.join(&name);
            if let Some(Kind::File(bytes)) = disk.kind(&path)? {
                backups.push(judged(disk, path, bytes, named_ms, deep)?);
            }
        }
    }
    backups.sort_by(|one, other| (other.created_ms, &other.path).cmp(&(one.created_ms, &one.path)));
    Ok(backups)
}

/// Whether a backup has the bytes that its manifest names: by their CRC-32, or, where an older manifest names none, by their
/// SHA-256. `None` when there is no manifest any more.
pub(super) fn has_its_bytes(disk: &dyn Disk, backup: &Backup) -> Result<Option<bool>> {
    let Some(manifest) = manifest_of(disk, &backup.path)? else { return Ok(None) };
    Ok(Some(match manifest.crc32 {
        Some(crc32) => crc32_of(disk, &backup.path)? == crc32,
        None => sha256_of(disk, &backup.path)? == manifest.sha256,
    }))
}

/// The newest backup of a home that is what it was when it was made, read as a whole. Older ones are not read.
pub(super) fn latest_of(disk: &dyn Disk, home: &Path) -> Result<Option<Backup>> {
    for backup in backups_of(disk, home, false)? {
        if backup.verdict == BackupVerdict::Verified {
            let read = judged_again(disk, &backup)?;
            if read.verdict == BackupVerdict::Verified {
                return Ok(Some(read));
            }
        }
    }
    Ok(None)
}

/// The same backup, read as a whole.
pub(super) fn judged_again(disk: &dyn Disk, backup: &Backup) -> Result<Backup> {
    judged(disk, backup.path.clone(), backup.bytes, backup.created_ms, true)
}

/// Where the manifest of a backup is.
pub(super) fn manifest_path(path: &Path) -> PathBuf {
    with_suffix(path, ".json")
}

/// Moves a backup that is not what its manifest says into quarantine, with the manifest. One that is whole stays, whoever
/// says otherwise.
pub(super) fn put_away_if_damaged(store: &Inner, path: &Path) -> Result<()> {
    let disk = &**store.disk();
    let Some(Kind::File(bytes)) = disk.kind(path)? else { return Ok(()) };
    let is_damaged = match judged(disk, path.to_owned(), bytes, 0, true) {
        Ok(backup) => backup.verdict == BackupVerdict::Damaged,
        // It cannot even be read.
        Err(error) => error.kind() == ErrorKind::Io,
    };
    if !is_damaged {
        return Ok(());
    }
    let manifest = manifest_path(path);
    store.put_away(path, "this backup is not what its manifest says")?;
    if read::is_file(disk, &manifest)? {
        store.put_away(&manifest, "the manifest of a damaged backup")?;
    }
    Ok(())
}

/// Writes a damaged manifest anew, if its backup is a whole snapshot; otherwise both go into quarantine.
pub(super) fn note_anew(store: &Inner, manifest: &Path) -> Result<()> {
    let disk = &**store.disk();
    let path = manifest.with_extension("");
    store.put_away(manifest, "this manifest of a backup is damaged")?;
    match read::verify_all(disk, &path) {
        Ok(stamp) => {
            let (crc32, sha256) = (crc32_of(disk, &path)?, Some(sha256_of(disk, &path)?));
            // Who asked for it nobody knows any more: the longer time is the safer one.
            note(disk, &path, Built { stamp, crc32, sha256 }, true).map(drop)
        }
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid) => {
            store.put_away(&path, "this backup is damaged, and its manifest was").map(drop)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn judged(
    disk: &dyn Disk,
    path: PathBuf,
    bytes: u64,
    named_ms: i64,
    deep: bool,
) -> Result<Backup> {
    let unknown = Backup {
        path,
        created_ms: named_ms,
        bytes,
        memories: None,
        seq: None,
        verdict: BackupVerdict::Unverified,
    };
    let Some(manifest) = manifest_of(disk, &unknown.path)? else { return Ok(unknown) };
    let is_same = manifest.bytes == bytes && (!deep || sha256_of(disk, &unknown.path)? == manifest.sha256);
    Ok(Backup {
        created_ms: manifest.created_ms,
        memories: Some(manifest.rows),
        seq: Some(manifest.seq),
        verdict: if is_same { BackupVerdict::Verified } else { BackupVerdict::Damaged },
        ..unknown
    })
}

/// Writes and verifies a backup, and then its manifest, which makes it one.
fn make(store: &Inner, path: &Path, by_hand: bool, progress: &mut dyn FnMut(Progress)) -> Result<Backup> {
    let disk = &**store.disk();
    let beside = with_suffix(path, ".tmp");
    let built = written(store, &beside, path, &new_id()?, true, progress)?;
    let backup = note(disk, path, built, by_hand)?;
    tracing::info!(bytes = backup.bytes, memories = backup.memories, seq = backup.seq, "made a backup");
    Ok(backup)
}

/// Writes the manifest of a backup that was read back as a whole.
fn note(disk: &dyn Disk, path: &Path, built: Built, by_hand: bool) -> Result<Backup> {
    let Built { stamp, crc32, sha256 } = built;
    let Some(Kind::File(bytes)) = disk.kind(path)? else {
        return Err(Error::new(ErrorKind::Io, "the backup is gone").at(path));
    };
    let manifest = Manifest {
        format: 1,
        created_ms: stamp.created_ms,
        store_id: stamp.store_id,
        snapshot_id: stamp.snapshot_id,
        seq: stamp.seq,
        rows: stamp.rows,
        content_crc: format!("{:016x}", stamp.content_crc),
        bytes,
        crc32: Some(crc32),
        sha256: sha256.expect("it was asked for"),
        model: stamp.model.as_ref().map(|model| model.name.clone()),
        dimensions: stamp.model.as_ref().map(|model| model.dimensions),
        by_hand,
    };
    let mut text = serde_json::to_vec_pretty(&manifest).expect("a struct of numbers and texts");
    text.push(b'\n');
    fs::replace(disk, &manifest_path(path), &text)?;
    Ok(Backup {
        path: path.to_owned(),
        created_ms: manifest.created_ms,
        bytes,
        memories: Some(manifest.rows),
        seq: Some(manifest.seq),
        verdict: BackupVerdict::Verified,
    })
}

/// Removes backups of ours that retention does not keep. Others, and those without a manifest, are not ours to remove.
fn thin_out(store: &Inner, folder: &Path, days: u32) -> Result<()> {
    let disk = &**store.disk();
    let backups = backups_of(disk, store.home(), false)?;
    let ours: Vec<&Backup> = backups
        .iter()
        .filter(|backup| backup.verdict != BackupVerdict::Unverified && backup.path.parent() == Some(folder))
        .collect();
    let mut made = Vec::with_capacity(ours.len());
    for backup in &ours {
        made.push(Made {
            created_ms: backup.created_ms,
            is_good: backup.verdict == BackupVerdict::Verified,
            is_by_hand: manifest_of(disk, &backup.path)?.is_some_and(|manifest| manifest.by_hand),
        });
    }
    let offset_ms = zone_offset_ms(store.now_ms());
    for index in expired(&made, days, offset_ms) {
        let path = &ours[index].path;
        // The file first: one without a manifest would stay for good.
        disk.remove(path)?;
        disk.remove(&manifest_path(path))?;
        tracing::info!(file = ?path.file_name(), "let go of an old backup");
    }
    disk.sync_folder(folder)
}

/// The folder of backups, made if it is not there, without what a crash has left in it.
fn backup_folder(store: &Inner) -> Result<PathBuf> {
    let disk = &**store.disk();
    let folder = store.home().join(FOLDER);
    fs::create_folders(disk, &folder)?;
    disk.check_folder(&folder)?;
    for name in disk.list(&folder)? {
        let path = folder.join(&name);
        if name.ends_with(".db.tmp") && read::is_file(disk, &path)? {
            disk.remove(&path)?;
        }
    }
    Ok(folder)
}

fn free_name(store: &Inner, folder: &Path) -> Result<PathBuf> {
    let now_ms = store.now_ms();
    for second in 0..NAMES_TRIED {
        let path = folder.join(name_at(now_ms.saturating_add(1000 * second)));
        if store.disk().kind(&path)?.is_none() {
            return Ok(path);
        }
    }
    Err(Error::new(ErrorKind::Refused, "there are backups of every second of this minute").at(folder))
}

fn name_at(ms: i64) -> String {
    let time = Timestamp::from_millisecond(ms).unwrap_or_default().to_zoned(TimeZone::system());
    time.strftime("memory_%Y%m%d_%H%M%S.db").to_string()
}

fn zone_offset_ms(ms: i64) -> i64 {
    let time = Timestamp::from_millisecond(ms).unwrap_or_default().to_zoned(TimeZone::system());
    1000 * i64::from(time.offset().seconds())
}

/// When a backup of this name was made, in milliseconds; `None` when it is no name of a backup. All four names of the
/// original are known: `memory_YYYYMMDD_HHMMSS.db`, `backup_YYYYMMDD_HHMMSS.db`, `<file>.backup-YYYYMMDD-HHMMSS` and
/// `memory.db.backup`, which has no time.
fn time_of_name(name: &str) -> Option<i64> {
    if name == "memory.db.backup" {
        return Some(0);
    }
    let digits = name
        .strip_suffix(".db")
        .and_then(|name| name.strip_prefix("memory_").or(name.strip_prefix("backup_")))
        .or_else(|| name.split_once(".backup-").map(|(_, time)| time))?;
    let (date, time) = digits.split_once(['_', '-'])?;
    let is_number = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(date, 8) || !is_number(time, 6) {
        return None;
    }
    let number = |text: &str| text.parse::<i16>().ok();
    let part = |at: usize| time[at..at + 2].parse::<i8>().ok();
    let (month, day) = (date[4..6].parse().ok()?, date[6..8].parse().ok()?);
    let civil =
        jiff::civil::DateTime::new(number(&date[..4])?, month, day, part(0)?, part(2)?, part(4)?, 0).ok()?;
    civil.to_zoned(TimeZone::system()).ok().map(|zoned| zoned.timestamp().as_millisecond())
}

fn manifest_of(disk: &dyn Disk, path: &Path) -> Result<Option<Manifest>> {
    let beside = manifest_path(path);
    if !read::is_file(disk, &beside)? {
        return Ok(None);
    }
    match fs::read_small(disk, &beside, MANIFEST_LEN_MAX) {
        Ok(bytes) => Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok())),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_of_the_original_are_backups_and_nothing_else_is() {
        let ms = time_of_name("memory_20260217_123456.db").expect("a backup");
        assert_eq!(name_at(ms), "memory_20260217_123456.db");
        for name in
            ["backup_20260217_123456.db", "memory.db.backup-20260217-123456", "x.backup-20260217-123456"]
        {
            assert_eq!(time_of_name(name), Some(ms), "{name}");
        }
        assert_eq!(time_of_name("memory.db.backup"), Some(0));
        for name in [
            "memory.db",
            "memory_20260217_123456.db.tmp",
            "memory_20260217_123456.db.json",
            "memory_20261317_123456.db",
            "memory_2026021７_123456.db",
            "memory_+0260217_123456.db",
            ".backup-",
        ] {
            assert_eq!(time_of_name(name), None, "{name}");
        }
    }
}
