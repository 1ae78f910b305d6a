//! Files that are damaged or were replaced: moved away, never deleted.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Layout;
use crate::error::Result;
use crate::fs::{self, Disk};

/// Files stay at least this long.
const KEPT_DAYS: i64 = 30;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What stands beside a file in quarantine, as `<file>.json`.
#[derive(Serialize)]
struct Note<'a> {
    /// The file's former name, relative to the home folder.
    file: String,
    /// Why it is here.
    reason: &'a str,
    quarantined_at: String,
    /// It must not be deleted before.
    keep_until: String,
}

/// Moves a file out of the way; nothing is ever deleted that might be the only copy. Says where it is now.
pub(super) fn quarantine(
    disk: &dyn Disk,
    layout: &Layout,
    path: &Path,
    now_ms: i64,
    reason: &str,
) -> Result<PathBuf> {
    disk.create_folder(&layout.quarantine)?;
    disk.check_folder(&layout.quarantine)?;
    let name = path.file_name().and_then(|name| name.to_str()).expect("a file of ours has a plain name");
    let target = (0..)
        .map(|n| layout.quarantine.join(format!("{name}.{}", now_ms + n)))
        .find_map(|target| match disk.kind(&target) {
            Ok(None) => Some(Ok(target)),
            Ok(Some(_)) => None,
            Err(error) => Some(Err(error)),
        })
        .expect("names do not run out")?;
    let note = Note {
        file: layout.relative(path),
        reason,
        quarantined_at: rfc3339(now_ms),
        keep_until: rfc3339(now_ms + KEPT_DAYS * DAY_MS),
    };
    disk.rename(path, &target)?;
    disk.sync_folder(&layout.quarantine)?;
    disk.sync_folder(fs::folder_above(path))?;
    disk.sync_folder(&layout.folder)?;
    let mut beside = target.clone().into_os_string();
    beside.push(".json");
    let mut text = serde_json::to_vec_pretty(&note).expect("a struct of texts");
    text.push(b'\n');
    if let Err(error) = fs::replace(disk, Path::new(&beside), &text) {
        // The file is safe; only the note is missing.
        tracing::warn!(%error, "a file in quarantine has no note");
    }
    Ok(target)
}

/// The time in RFC 3339, in UTC.
fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}
