//! Snapshots and backups of a home whose store is not open.

use std::path::Path;

use super::backup::{Backup, backups_of, judged_again, latest_of};
use super::read;
use crate::error::Result;
use crate::fs::RealDisk;

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamped {
    /// The store that wrote it.
    pub(crate) store_id: String,
    /// Sequence up to which records are in it.
    pub(crate) seq: u64,
    pub(crate) created_ms: i64,
}

/// The backups of a home, the newest first, whether or not its store is open, or there. With `deep` every verified one
/// is read as a whole and compared with its manifest; otherwise its size is.
///
/// # Errors
/// What the disk says.
pub fn backups_in(home: &Path, deep: bool) -> Result<Vec<Backup>> {
    backups_of(&RealDisk, home, deep)
}

/// The newest verified backup of a home, whether or not its store is open, or there: read as a whole and compared with its
/// manifest. Older ones are not read.
///
/// # Errors
/// What the disk says.
pub fn latest_backup_in(home: &Path) -> Result<Option<Backup>> {
    latest_of(&RealDisk, home)
}

/// The same backup, read as a whole and compared with its manifest.
///
/// # Errors
/// What the disk says.
pub(crate) fn read_as_a_whole(backup: &Backup) -> Result<Backup> {
    judged_again(&RealDisk, backup)
}

/// What a file says of itself, when it is a snapshot of a store of ours. Whether that is true is found out by whoever
/// reads it.
///
/// # Errors
/// As for any file that cannot be read; [`Invalid`](crate::ErrorKind::Invalid) for what is no database.
pub(crate) fn stamp_in(path: &Path) -> Result<Option<Stamped>> {
    if !read::is_file(&RealDisk, path)? {
        return Ok(None);
    }
    let stamp = read::open(&RealDisk, path)?.stamp;
    Ok(stamp.map(|stamp| Stamped { store_id: stamp.store_id, seq: stamp.seq, created_ms: stamp.created_ms }))
}
