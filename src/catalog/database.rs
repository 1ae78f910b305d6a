//! The file of the view: the one place where a redb database is built.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, Durability, StorageBackend};

use super::guard::Fault;
use super::pages::{FrozenPages, Pages};
use super::tables::{ID, LABEL, MEMORY, STATE, TIME, VECTOR};
use crate::error::{Error, Result};
use crate::format::row::{HEAD_KEY, Head, Position};

/// Mode of the view's files, whatever the umask.
const FILE_MODE: u32 = 0o600;

/// What is at the view's path.
pub(super) enum Found {
    File(File),
    Nothing,
    /// Something that cannot be the view, and why.
    Unusable(String),
}

/// Opens the view's file without following a link.
pub(super) fn open_file(path: &Path) -> Result<Found> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(Error::io("looking at the view", path, error)),
    };
    if !kind.is_file() {
        return Ok(Found::Unusable("it is not a regular file".to_owned()));
    }
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| Error::io("opening the view", path, error))?;
    let metadata = file.metadata().map_err(|error| Error::io("looking at the view", path, error))?;
    if !metadata.is_file() {
        return Ok(Found::Unusable("it is not a regular file".to_owned()));
    }
    // redb takes an empty file for a new database.
    if metadata.len() == 0 {
        return Ok(Found::Unusable("the file is empty".to_owned()));
    }
    Ok(Found::File(file))
}

/// A new, empty file in the place of whatever an interrupted creation left there.
pub(super) fn create_file(path: &Path) -> Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("removing a leftover of the view", path, error));
        }
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
        .map_err(|error| Error::io("creating the view", path, error))?;
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))
        .map_err(|error| Error::io("setting the mode of the view", path, error))?;
    Ok(file)
}

/// Gives a synced file its name and makes that durable.
pub(super) fn publish(temporary: &Path, path: &Path) -> Result<()> {
    let synced = |path: &Path| File::open(path).and_then(|file| file.sync_all());
    synced(temporary).map_err(|error| Error::io("syncing the view", temporary, error))?;
    fs::rename(temporary, path).map_err(|error| Error::io("renaming the view", path, error))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    synced(folder).map_err(|error| Error::io("syncing the folder of the view", folder, error))
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

/// The storage in a file.
pub(super) fn storage(file: File) -> Result<FileBackend, Fault> {
    Ok(FileBackend::new(file)?)
}

/// The first commit: every table, and the head of a view that holds nothing yet.
pub(super) fn initialize(database: &Database, store_id: [u8; 16]) -> Result<(), Fault> {
    let head = Head { store_id, position: Position::default(), active_model: None, memories: 0 };
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
