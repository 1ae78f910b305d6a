//! What remembers that a store was here, outside of the store's folder: without it, a store that is gone would look like
//! one that never was, and a new one would take its place without a word. Spec: `format-spec/folder.md`, "store.id".

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Options;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{self, Disk, Kind};

/// Name of the marker in the home.
const NAME: &str = "store.id";
/// The folder of backups in the home, and how the names of their manifests end.
const BACKUPS: &str = "backups";
const MANIFEST_SUFFIX: &str = ".db.json";
const LEN_MAX: usize = 4096;

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    format: u32,
    store_id: String,
}

/// What says that a store was in this home, if anything does.
///
/// # Errors
/// What the disk says.
pub(crate) fn trace_of_a_store(
    disk: &dyn Disk,
    home: &Path,
    elsewhere: Option<&Path>,
) -> Result<Option<PathBuf>> {
    let marker = home.join(NAME);
    for path in std::iter::once(marker.as_path()).chain(elsewhere) {
        if matches!(disk.kind(path)?, Some(Kind::File(_))) {
            return Ok(Some(path.to_owned()));
        }
    }
    let backups = home.join(BACKUPS);
    if disk.kind(&backups)? != Some(Kind::Folder) {
        return Ok(None);
    }
    let names = disk.list(&backups)?;
    Ok(names.iter().find(|name| name.ends_with(MANIFEST_SUFFIX)).map(|name| backups.join(name)))
}

/// Refuses to make a new store where one was before.
///
/// # Errors
/// [`ErrorKind::Gone`], unless the caller wants to begin anew; what the disk says.
pub(super) fn refuse_where_one_was(options: &Options) -> Result<()> {
    if options.begin_anew {
        return Ok(());
    }
    match trace_of_a_store(&*options.disk, &options.home, options.remembered_by.as_deref())? {
        None => Ok(()),
        Some(trace) => {
            tracing::error!(?trace, "a store was here and is gone");
            let hint = "`memento-kv health` brings back what its backups hold; to begin an empty one, \
                        `memento-kv health --begin-anew`";
            Err(Error::new(ErrorKind::Gone, "a store was here and is gone").at(&options.home).hint(hint))
        }
    }
}

/// Leaves the marker, when it is not there. The store is durable by now: a marker never stands for one that never was.
pub(super) fn keep(disk: &dyn Disk, home: &Path, store_id: [u8; 16]) {
    let store_id = store_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (path, marker) = (home.join(NAME), Marker { format: 1, store_id });
    let is_there = fs::read_small(disk, &path, LEN_MAX).is_ok_and(|bytes| {
        bytes.is_some_and(|bytes| serde_json::from_slice(&bytes).is_ok_and(|known: Marker| known == marker))
    });
    let mut bytes = serde_json::to_vec(&marker).expect("a number and a text");
    bytes.push(b'\n');
    if !is_there && let Err(error) = fs::replace(disk, &path, &bytes) {
        tracing::warn!(%error, "nothing outside of the store remembers it");
    }
}
