//! The query-cache file: the only code of the cache that touches the disk.
//!
//! Processes share the file without a lock. A slot is written by one `pwrite` and is believed only with a good
//! checksum, so of two writers that meet in a slot one wins or the slot is a miss. The file is never cut or divided
//! anew in place: a new one is made beside it and renamed over it, so that a process with the old one open goes on
//! with what it has. Nothing is synced: after a power cut the file is whole, damaged or missing, and all are fine.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use super::layout::{Geometry, HEADER_LEN, Key, WAYS};
use crate::fs::system::{self, FileExt, OpenOptionsExt};

/// Only the user reads or writes the file.
const MODE: u32 = 0o600;

/// An open cache file whose header is that of the geometry.
pub(super) struct VectorFile {
    file: File,
    geometry: Geometry,
    writable: bool,
}

/// What is at the path.
enum Found {
    Usable(File, bool),
    /// A regular file that cannot be used, or nothing: a new one may take its place.
    Replaceable,
    /// Something that is not ours, or that cannot be opened: it is left alone.
    Foreign,
}

impl VectorFile {
    /// Opens the file at the path or makes a new one. Nothing when neither can be done: caching on disk is then off.
    pub(super) fn open(path: &Path, geometry: Geometry) -> Option<Self> {
        let opened = match find(path, geometry) {
            Ok(Found::Usable(file, writable)) => return Some(Self { file, geometry, writable }),
            Ok(Found::Replaceable) => create(path, geometry),
            Ok(Found::Foreign) => Err(io::Error::other("the path is taken by what is no cache file")),
            Err(error) => Err(error),
        };
        match opened {
            Ok(file) => Some(Self { file, geometry, writable: true }),
            Err(error) => {
                tracing::debug!(%error, "the query cache stays in memory");
                None
            }
        }
    }

    /// The vector of this key: one `pread`.
    pub(super) fn get(&self, key: &Key) -> Option<Vec<f32>> {
        let set = self.read_set(key)?;
        let slots = set.chunks_exact(self.geometry.slot_len());
        let found = slots.filter_map(|slot| self.geometry.decode_slot(slot)).find(|slot| slot.key == key)?;
        found.vector()
    }

    /// Writes the vector of this key over the same key, else a free slot, else the oldest slot of its set.
    pub(super) fn put(&self, key: &Key, vector: &[f32]) {
        if !self.writable || vector.len() != self.geometry.dimensions() {
            return;
        }
        let slot_len = self.geometry.slot_len();
        // A set that cannot be read (the file was cut) is a set of free slots.
        let set = self.read_set(key).unwrap_or_else(|| vec![0; self.geometry.set_len()]);
        let mut newest = 0;
        let mut victim = (u64::MAX, 0);
        for (way, bytes) in set.chunks_exact(slot_len).enumerate().take(WAYS) {
            let age = match self.geometry.decode_slot(bytes) {
                Some(slot) => {
                    newest = newest.max(slot.stamp);
                    if slot.key == key { 0 } else { slot.stamp.saturating_add(2) }
                }
                None => 1,
            };
            victim = victim.min((age, way));
        }
        let slot = self.geometry.encode_slot(key, newest.saturating_add(1), vector);
        let offset = self.geometry.set_offset(key) + (victim.1 * slot_len) as u64;
        if let Err(error) = self.file.write_all_at(&slot, offset) {
            tracing::debug!(%error, "a query vector was not written to the cache file");
        }
    }

    fn read_set(&self, key: &Key) -> Option<Vec<u8>> {
        let mut set = vec![0; self.geometry.set_len()];
        self.file.read_exact_at(&mut set, self.geometry.set_offset(key)).ok()?;
        Some(set)
    }
}

fn find(path: &Path, geometry: Geometry) -> io::Result<Found> {
    let opened = open_existing(path, true).map(|file| (file, true)).or_else(|error| match error.kind() {
        // On a read-only medium, what is there still saves time.
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            open_existing(path, false).map(|file| (file, false))
        }
        _ => Err(error),
    });
    let (file, writable) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Replaceable),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Found::Foreign);
    }
    let mut header = [0; HEADER_LEN];
    let usable = metadata.len() == geometry.file_len()
        && file.read_exact_at(&mut header, 0).is_ok()
        && header == geometry.header();
    if !usable {
        return Ok(if writable { Found::Replaceable } else { Found::Foreign });
    }
    if writable && system::mode(&metadata) & 0o077 != 0 {
        system::set_mode(&file, MODE)?;
    }
    Ok(Found::Usable(file, writable))
}

fn open_existing(path: &Path, write: bool) -> io::Result<File> {
    // A link is not followed, and a FIFO or a device in the file's place cannot make the open wait.
    OpenOptions::new().read(true).write(write).custom_flags(system::NO_LINK_NO_WAIT).open(path)
}

/// Makes an empty file beside the path and renames it there. The temporary name is fixed, so that a crash leaves at
/// most one such file; when two processes meet, the one that loses caches in memory only.
fn create(path: &Path, geometry: Geometry) -> io::Result<File> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // `create_new` follows no link and opens nothing that is there.
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(MODE).open(&temporary)?;
    let filled = system::set_mode(&file, MODE)
        .and_then(|()| file.set_len(geometry.file_len()))
        .and_then(|()| file.write_all_at(&geometry.header(), 0))
        .and_then(|()| system::rename(&temporary, path));
    if let Err(error) = filled {
        // Best effort: the next process that makes a cache removes it too.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(file)
}
