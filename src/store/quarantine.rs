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
    // Only `memory.db` can have a name that is no text: the user gives it.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
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

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::fs::RealDisk;

    #[test]
    fn a_file_whose_name_is_no_text_is_put_away_too() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let layout = Layout::of(home.path());
        std::fs::create_dir(&layout.folder).expect("a folder");
        let path = home.path().join(OsStr::from_bytes(b"mem\xff.db"));
        std::fs::write(&path, "junk").expect("written");
        let kept = quarantine(&RealDisk, &layout, &path, 7, "it is no database").expect("put away");
        assert_eq!(kept, layout.quarantine.join("mem\u{fffd}.db.7"));
        assert_eq!(std::fs::read_to_string(kept).expect("read"), "junk");
        assert!(!path.exists());
    }
}
