//! The folder of the logs and its files: opened without following a link, private to the user.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock};

use crate::error::{Error, ErrorKind, Result};

/// Name of the folder in a home.
const NAME: &str = "logs";
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// How often a lock that somebody has is tried, and how long to wait in between.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The open folder: what is done in it is done in this one, whatever becomes of its name.
pub(super) struct Folder {
    folder: File,
    path: PathBuf,
}

/// A lock on a file, let go when it is dropped.
pub(super) struct Lock<'a>(Option<&'a File>);

impl<'a> Lock<'a> {
    /// Waits a moment for the lock. Nothing is locked when somebody does not let go.
    pub(super) fn take(file: &'a File) -> io::Result<Self> {
        for _ in 0..LOCK_TRIES {
            match flock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(Some(file))),
                Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
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
        if let Some(file) = self.0 {
            // Closing is not enough while a child that was just forked has the file, too.
            let _ = flock(file, FlockOperation::Unlock);
        }
    }
}

impl Folder {
    /// The folder of this home, if it is there.
    pub(super) fn open(home: &Path) -> Result<Option<Self>> {
        let path = home.join(NAME);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(folder) => File::from(folder),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                return Err(Error::new(ErrorKind::Permission, "this is not a folder of its own")
                    .at(&path)
                    .hint("logs are never written through a link: move it away"));
            }
            Err(error) => return Err(Error::io("open", &path, error.into())),
        };
        let metadata = folder.metadata().map_err(|error| Error::io("stat", &path, error))?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::new(ErrorKind::Permission, "this folder belongs to another user").at(&path));
        }
        let folder = Self { folder, path };
        folder.make_private(&folder.folder, &folder.path, FOLDER_MODE)?;
        Ok(Some(folder))
    }

    /// The folder of this home, made when it is not there.
    pub(super) fn open_or_make(home: &Path) -> Result<Self> {
        if let Some(folder) = Self::open(home)? {
            return Ok(folder);
        }
        let path = home.join(NAME);
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(FOLDER_MODE)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(rustix::io::Errno::NOENT) => {
                return Err(Error::new(ErrorKind::NotFound, "there is no such home").at(home));
            }
            Err(error) => return Err(Error::io("create folder", &path, error.into())),
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
        &self.folder
    }

    /// The names in it.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let in_folder = |error| Error::io("list", &self.path, error);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.folder).map_err(|error| in_folder(error.into()))? {
            let entry = entry.map_err(|error| in_folder(error.into()))?;
            // A name that is not UTF-8 is none of ours.
            names.extend(entry.file_name().to_str().map(str::to_owned));
        }
        Ok(names)
    }

    /// A file of it to read, if it is there.
    pub(super) fn open_file(&self, name: &str) -> Result<Option<File>> {
        match self.open_with(name, OFlags::RDONLY) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file of it to read and to append to, if it is there.
    pub(super) fn open_to_append(&self, name: &str) -> Result<Option<File>> {
        match self.open_with(name, OFlags::RDWR | OFlags::APPEND) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file of it to read and to append to, made when it is not there.
    pub(super) fn open_or_make_file(&self, name: &str) -> Result<File> {
        self.open_with(name, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE)
    }

    /// A new file in it.
    pub(super) fn make_file(&self, name: &str) -> Result<File> {
        self.open_with(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let renamed = rustix::fs::renameat(&self.folder, from, &self.folder, to);
        renamed.map_err(|error| Error::io("rename", &self.path(from), error.into()))
    }

    /// Removes a file; that it is not there is as good.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io("remove", &self.path(name), error.into())),
        }
    }

    /// Makes names in it durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.folder.sync_all().map_err(|error| Error::io("sync folder", &self.path, error))
    }

    fn open_with(&self, name: &str, flags: OFlags) -> Result<File> {
        let path = self.path(name);
        let refused = |what: &'static str| {
            Error::new(ErrorKind::Permission, what).at(&path).hint("move it away: a new log is begun")
        };
        // O_NONBLOCK: opening a pipe must not wait for its other end.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.folder, name, flags, Mode::from_raw_mode(FILE_MODE)) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::ISDIR | rustix::io::Errno::NXIO) => {
                return Err(refused("this is a link, a folder or a pipe, expected a regular file"));
            }
            Err(rustix::io::Errno::NOENT) => {
                return Err(Error::new(ErrorKind::NotFound, "there is no such file").at(&path));
            }
            Err(error) => return Err(Error::io("open", &path, error.into())),
        };
        let metadata = file.metadata().map_err(|error| Error::io("stat", &path, error))?;
        if !metadata.is_file() {
            return Err(refused("this is a folder, a pipe or a device, expected a regular file"));
        }
        if metadata.nlink() > 1 || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(refused("this file has a second name, or belongs to another user"));
        }
        self.make_private(&file, &path, FILE_MODE)?;
        Ok(file)
    }

    fn make_private(&self, file: &File, path: &Path, mode: u32) -> Result<()> {
        let metadata = file.metadata().map_err(|error| Error::io("stat", path, error))?;
        if metadata.mode() & 0o777 == mode {
            return Ok(());
        }
        match file.set_permissions(PermissionsExt::from_mode(mode)) {
            // On a medium that cannot be written to, it is read as it is.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            result => result.map_err(|error| Error::io("chmod", path, error)),
        }
    }
}
