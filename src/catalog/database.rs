//! The file of the view: the one place where a redb database is built.

use std::io;
use std::path::{Path, PathBuf};

use redb::{Builder, Database, Durability, StorageBackend};

use super::guard::Fault;
use super::pages::{FrozenPages, Pages};
use super::tables::{ID, LABEL, MEMORY, STATE, TIME, VECTOR};
use crate::error::{Error, ErrorKind, Result};
use crate::format::row::{HEAD_KEY, Head, Position};
use crate::fs::{self, Access, Disk, DiskFile, Kind};

/// What is at the view's path.
pub(super) enum Found {
    File(FileStorage),
    Nothing,
    /// Something that cannot be the view, and why.
    Unusable(String),
}

/// The storage of a view in a file of the store's disk, locked against other processes while it lives.
#[derive(Debug)]
pub(super) struct FileStorage(Box<dyn DiskFile>);

impl FileStorage {
    fn locked(file: Box<dyn DiskFile>) -> Result<Self> {
        if file.try_lock()? {
            return Ok(Self(file));
        }
        Err(Error::new(ErrorKind::Busy, "another process has the view open")
            .at(file.path())
            .hint("wait for it to finish, or stop it, then try again"))
    }
}

impl StorageBackend for FileStorage {
    fn len(&self) -> io::Result<u64> {
        self.0.len().map_err(fs::as_io)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.0.read_at(out, offset).map_err(fs::as_io)?;
        if read < out.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len).map_err(fs::as_io)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync().map_err(fs::as_io)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset).map_err(fs::as_io)
    }
}

/// Opens the view's file without following a link.
pub(super) fn open_file(disk: &dyn Disk, path: &Path) -> Result<Found> {
    match disk.kind(path)? {
        None => Ok(Found::Nothing),
        // redb takes an empty file for a new database.
        Some(Kind::File(0)) => Ok(Found::Unusable("the file is empty".to_owned())),
        Some(Kind::File(_)) => Ok(Found::File(FileStorage::locked(disk.open(path, Access::Write)?)?)),
        Some(Kind::Folder | Kind::Other) => Ok(Found::Unusable("it is not a regular file".to_owned())),
    }
}

/// A new, empty file in the place of whatever an interrupted creation left there.
pub(super) fn create_file(disk: &dyn Disk, path: &Path) -> Result<FileStorage> {
    if disk.kind(path)?.is_some() {
        disk.remove(path)?;
    }
    FileStorage::locked(disk.open(path, Access::CreateNew)?)
}

/// Gives a synced file its name and makes that durable.
pub(super) fn publish(disk: &dyn Disk, temporary: &Path, path: &Path) -> Result<()> {
    disk.open(temporary, Access::Write)?.sync()?;
    disk.rename(temporary, path)?;
    disk.sync_folder(fs::folder_above(path))
}

/// The name under which a view is made.
pub(super) fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Opens the database in a storage, or makes one in an empty storage.
pub(super) fn build(storage: impl StorageBackend, cache_bytes: usize) -> Result<(Database, Pages), Fault> {
    build_on(Pages::new(storage), cache_bytes)
}

/// Opens the database in these pages.
pub(super) fn build_on(pages: Pages, cache_bytes: usize) -> Result<(Database, Pages), Fault> {
    let database = Builder::new().set_cache_size(cache_bytes).create_with_backend(pages.clone())?;
    Ok((database, pages))
}

/// Opens the database that another one has open, as it was then.
pub(super) fn open_beside(pages: FrozenPages, cache_bytes: usize) -> Result<Database, Fault> {
    Ok(Builder::new().set_cache_size(cache_bytes).create_with_backend(pages)?)
}

/// The first commit: every table, and the head of a view that holds nothing yet.
pub(super) fn initialize(database: &Database, store_id: [u8; 16]) -> Result<(), Fault> {
    let head = Head {
        store_id,
        position: Position::default(),
        active_model: None,
        memories: 0,
        live_bytes: 0,
        generation: 0,
    };
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    txn.open_table(STATE)?.insert(HEAD_KEY, head.encode().as_slice())?;
    txn.open_table(MEMORY)?;
    txn.open_table(ID)?;
    txn.open_table(LABEL)?;
    txn.open_table(TIME)?;
    txn.open_table(VECTOR)?;
    txn.commit()?;
    Ok(())
}
