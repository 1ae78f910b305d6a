//! A disk in memory, so that no target waits for a real one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::fs::{Access, Disk, DiskFile, Kind};

/// The disk is full for a file that would be longer than this.
const FILE_LEN_MAX: u64 = 8 << 20;

type Bytes = Arc<Mutex<Vec<u8>>>;

/// Files by path. Folders are there as long as they hold a file. A clone is the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryDisk(Arc<Mutex<BTreeMap<PathBuf, Bytes>>>);

impl MemoryDisk {
    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>> {
        let mut files = self.files();
        let failed = |kind: io::ErrorKind| Error::io("open", path, kind.into());
        let bytes = match (files.get(path), access) {
            (Some(_), Access::CreateNew) => return Err(failed(io::ErrorKind::AlreadyExists)),
            (Some(bytes), _) => Arc::clone(bytes),
            (None, Access::Read | Access::Write) => return Err(failed(io::ErrorKind::NotFound)),
            (None, Access::CreateNew | Access::OpenOrCreate) => {
                Arc::clone(files.entry(path.to_owned()).or_default())
            }
        };
        Ok(Box::new(MemoryFile { path: path.to_owned(), bytes }))
    }

    fn kind(&self, path: &Path) -> Result<Option<Kind>> {
        let files = self.files();
        if let Some(bytes) = files.get(path) {
            return Ok(Some(Kind::File(locked(bytes).len() as u64)));
        }
        Ok(files.keys().any(|file| file.parent() == Some(path)).then_some(Kind::Folder))
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let in_folder = |file: &PathBuf| Some(file.strip_prefix(folder).ok()?.to_str()?.to_owned());
        Ok(self.files().keys().filter_map(in_folder).collect())
    }

    fn create_folder(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn check_folder(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut files = self.files();
        let bytes = files.remove(from).ok_or_else(|| missing("rename", from))?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.files().remove(path).map(drop).ok_or_else(|| missing("remove", path))
    }

    fn sync_folder(&self, _: &Path) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryFile {
    path: PathBuf,
    bytes: Bytes,
}

impl MemoryFile {
    fn grow(&self, bytes: &mut Vec<u8>, len: u64) -> Result<()> {
        if len > FILE_LEN_MAX {
            return Err(Error::io("write", &self.path, io::ErrorKind::StorageFull.into()));
        }
        bytes.resize(bytes.len().max(index(len)), 0);
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        Ok(locked(&self.bytes).len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let bytes = locked(&self.bytes);
        let rest = bytes.get(index(offset)..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, new: &[u8], offset: u64) -> Result<()> {
        let mut bytes = locked(&self.bytes);
        self.grow(&mut bytes, offset.saturating_add(new.len() as u64))?;
        bytes[index(offset)..][..new.len()].copy_from_slice(new);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut bytes = locked(&self.bytes);
        self.grow(&mut bytes, len)?;
        bytes.truncate(index(len));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn make_read_only(&self) -> Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> Result<bool> {
        Ok(true)
    }
}

fn missing(operation: &'static str, path: &Path) -> Error {
    Error::io(operation, path, io::ErrorKind::NotFound.into())
}

fn locked(bytes: &Bytes) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
