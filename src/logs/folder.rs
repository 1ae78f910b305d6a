//! The folder of the logs and its files: opened without following a link, private to the user.

use std::fs::{DirBuilder, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::system::{self, DirBuilderExt, Opening};

/// Name of the folder in a home.
const NAME: &str = "logs";
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// How often a lock that somebody has is tried, and how long to wait in between.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The open folder: what is done in it is done in this one, whatever becomes of its name.
pub(super) struct Folder {
    folder: system::Folder,
    path: PathBuf,
}

/// A lock on a file, let go when it is dropped.
pub(super) struct Lock<'a>(Option<(&'a File, system::Lock)>);

impl<'a> Lock<'a> {
    /// Waits a moment for the lock. Nothing is locked when somebody does not let go.
    pub(super) fn take(file: &'a File, path: &Path) -> io::Result<Self> {
        for _ in 0..LOCK_TRIES {
            match system::try_lock(file, path) {
                Ok(Some(lock)) => return Ok(Self(Some((file, lock)))),
                Ok(None) => thread::sleep(LOCK_PAUSE),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(None))
    }

    /// Whether there is a lock.
    pub(super) fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        if let Some((file, lock)) = self.0.take() {
            // Closing is not enough while a child that was just forked has the file, too.
            let _ = system::unlock(file, lock);
        }
    }
}

impl Folder {
    /// The folder of this home, if it is there.
    pub(super) fn open(home: &Path) -> Result<Option<Self>> {
        let path = home.join(NAME);
        let folder = match system::Folder::open(path.clone()) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if system::is_another_kind(&error) => {
                return Err(Error::new(ErrorKind::Permission, "this is not a folder of its own")
                    .at(&path)
                    .hint("logs are never written through a link: move it away"));
            }
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        let metadata = folder.file().metadata().map_err(|error| Error::io("stat", &path, error))?;
        if system::owner(&metadata) != system::user() {
            return Err(Error::new(ErrorKind::Permission, "this folder belongs to another user").at(&path));
        }
        let folder = Self { folder, path };
        folder.make_private(folder.folder.file(), &folder.path, FOLDER_MODE)?;
        Ok(Some(folder))
    }

    /// The folder of this home, made when it is not there.
    pub(super) fn open_or_make(home: &Path) -> Result<Self> {
        if let Some(folder) = Self::open(home)? {
            return Ok(folder);
        }
        let path = home.join(NAME);
        match DirBuilder::new().mode(FOLDER_MODE).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::new(ErrorKind::NotFound, "there is no such home").at(home));
            }
            Err(error) => return Err(Error::io("create folder", &path, error)),
        }
        let gone = || Error::new(ErrorKind::NotFound, "the folder was removed just now").at(&path);
        Self::open(home)?.ok_or_else(gone)
    }

    /// The path of a file in it, for messages.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder itself, to be locked.
    pub(super) fn file(&self) -> &File {
        self.folder.file()
    }

    /// The names in it.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        // A name that is not UTF-8 is none of ours.
        self.folder.names().map_err(|error| Error::io("list", &self.path, error))
    }

    /// A file of it to read, if it is there.
    pub(super) fn open_file(&self, name: &str) -> Result<Option<File>> {
        match self.open_with(name, Opening::Read) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file of it to read and to append to, if it is there.
    pub(super) fn open_to_append(&self, name: &str) -> Result<Option<File>> {
        match self.open_with(name, Opening::Append) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file of it to read and to append to, made when it is not there.
    pub(super) fn open_or_make_file(&self, name: &str) -> Result<File> {
        self.open_with(name, Opening::AppendOrMake)
    }

    /// A new file in it.
    pub(super) fn make_file(&self, name: &str) -> Result<File> {
        self.open_with(name, Opening::Make)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.folder.rename(from, to).map_err(|error| Error::io("rename", &self.path(from), error))
    }

    /// Removes a file; that it is not there is as good.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match self.folder.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.path(name), error))
            }
            _ => Ok(()),
        }
    }

    /// Makes names in it durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.folder.sync().map_err(|error| Error::io("sync folder", &self.path, error))
    }

    fn open_with(&self, name: &str, opening: Opening) -> Result<File> {
        let path = self.path(name);
        let refused = |what: &'static str| {
            Error::new(ErrorKind::Permission, what).at(&path).hint("move it away: a new log is begun")
        };
        let file = match self.folder.open_file(name, opening, FILE_MODE) {
            Ok(file) => file,
            Err(error) if system::is_another_kind(&error) => {
                return Err(refused("this is a link, a folder or a pipe, expected a regular file"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::new(ErrorKind::NotFound, "there is no such file").at(&path));
            }
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        let metadata = file.metadata().map_err(|error| Error::io("stat", &path, error))?;
        if !metadata.is_file() {
            return Err(refused("this is a folder, a pipe or a device, expected a regular file"));
        }
        let names = system::names_of(&file, &metadata).map_err(|error| Error::io("stat", &path, error))?;
        if names > 1 || system::owner(&metadata) != system::user() {
            return Err(refused("this file has a second name, or belongs to another user"));
        }
        self.make_private(&file, &path, FILE_MODE)?;
        Ok(file)
    }

    fn make_private(&self, file: &File, path: &Path, mode: u32) -> Result<()> {
        let metadata = file.metadata().map_err(|error| Error::io("stat", path, error))?;
        if system::mode(&metadata) & 0o777 == mode {
            return Ok(());
        }
        match system::set_mode(file, mode) {
            // On a medium that cannot be written to, it is read as it is.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            result => result.map_err(|error| Error::io("chmod", path, error)),
        }
    }
}
