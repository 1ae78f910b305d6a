//! The operating system's disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::system::{self, DirBuilderExt, FileExt, OpenOptionsExt};
use super::{Access, Disk, DiskFile, Fingerprint, Kind, Mapped, not_a_file};
use crate::error::{Error, ErrorKind, Result};

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
const GROUP_OR_OTHER_WRITE: u32 = 0o022;

/// The operating system's disk.
#[derive(Debug, Default)]
pub(crate) struct RealDisk;

#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
    lock: Mutex<Option<system::Lock>>,
}

impl Drop for RealFile {
    fn drop(&mut self) {
        // Closing is not enough: a child process that was just forked has the file, and with it the lock, until it runs
        // a program of its own.
        if let Some(lock) = self.lock.get_mut().unwrap_or_else(PoisonError::into_inner).take()
            && let Err(error) = system::unlock(&self.file, lock)
        {
            tracing::warn!(%error, "a lock was not let go");
        }
    }
}

impl RealDisk {
    fn open_file(&self, path: &Path, access: Access) -> Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        // Opening a pipe that somebody put here must not wait for its other end.
        options.custom_flags(system::NO_LINK_NO_WAIT);
        match access {
            Access::Read => {}
            Access::Write => {
                options.write(true);
            }
            Access::CreateNew => {
                options.write(true).create_new(true);
            }
            Access::OpenOrCreate => {
                options.write(true).create(true).truncate(false);
            }
        }
        let file = match options.open(path) {
            Ok(file) => file,
            // A link answers ELOOP, a folder EISDIR: the name says more than the number.
            Err(error) => match self.kind(path) {
                Ok(Some(kind @ (Kind::Folder | Kind::Other))) => return Err(not_a_file(path, kind)),
                _ => return Err(Error::io("open", path, error)),
            },
        };
        let metadata = file.metadata().map_err(|error| Error::io("stat", path, error))?;
        match kind_of(&metadata) {
            Kind::File(_) => {}
            kind => return Err(not_a_file(path, kind)),
        }
        if matches!(access, Access::CreateNew | Access::OpenOrCreate)
            && system::mode(&metadata) & 0o777 != FILE_MODE
        {
            // The umask may have taken bits of the owner, too.
            system::set_mode(&file, FILE_MODE).map_err(|error| Error::io("chmod", path, error))?;
        }
        Ok(file)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>> {
        let file = self.open_file(path, access)?;
        Ok(Box::new(RealFile { file, path: path.to_owned(), lock: Mutex::default() }))
    }

    fn map(&self, path: &Path) -> Result<Mapped> {
        if !system::MAPS_FILES {
            return Mapped::copy(&*self.open(path, Access::Read)?);
        }
        let file = self.open_file(path, Access::Read)?;
        Mapped::map(&file).map_err(|error| Error::io("map", path, error))
    }

    fn kind(&self, path: &Path) -> Result<Option<Kind>> {
        match path.symlink_metadata() {
            Ok(metadata) => Ok(Some(kind_of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("stat", path, error)),
        }
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let in_folder = |error| Error::io("list", folder, error);
        let mut names = Vec::new();
        for entry in folder.read_dir().map_err(in_folder)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry.map_err(in_folder)?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_folder(&self, folder: &Path) -> Result<()> {
        match std::fs::DirBuilder::new().mode(FOLDER_MODE).create(folder) {
            Ok(()) => {
                system::set_mode_of(folder, FOLDER_MODE).map_err(|error| Error::io("chmod", folder, error))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(Error::io("create folder", folder, error)),
        }
    }

    fn check_folder(&self, folder: &Path) -> Result<()> {
        check_folder(folder)
    }

    fn system_path<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        Some(path)
    }

    fn fingerprint(&self, path: &Path) -> Result<Option<Fingerprint>> {
        let identity = match system::identity_at(path) {
            Ok((metadata, identity)) if metadata.is_file() => identity,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("stat", path, error)),
        };
        let system::Identity { device, inode, len, modified_ns, changed_ns } = identity;
        Ok(Some(Fingerprint { len, device, inode, modified_ns, changed_ns }))
    }

    fn remove_tree(&self, folder: &Path) -> Result<()> {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", folder, error)),
            _ => Ok(()),
        }
    }

    fn rename_once(&self, from: &Path, to: &Path) -> io::Result<()> {
        system::rename(from, to)
    }

    fn remove_once(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_folder_once(&self, folder: &Path) -> io::Result<()> {
        system::sync_folder(folder)
    }
}

impl RealFile {
    fn failed(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error + '_ {
        move |error| Error::io(operation, &self.path, error)
    }
}

impl DiskFile for RealFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(self.failed("stat"))?.len())
    }

    fn read_once(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_once(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn set_len_once(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_once(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn make_read_only(&self) -> Result<()> {
        system::make_read_only(&self.file).map_err(self.failed("chmod"))
    }

    fn is_read_only(&self) -> Result<bool> {
        Ok(self.file.metadata().map_err(self.failed("stat"))?.permissions().readonly())
    }

    fn try_lock(&self) -> Result<bool> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            *lock = system::try_lock(&self.file, &self.path).map_err(self.failed("lock"))?;
        }
        Ok(lock.is_some())
    }
}

fn kind_of(metadata: &std::fs::Metadata) -> Kind {
    if metadata.is_file() {
        Kind::File(metadata.len())
    } else if metadata.is_dir() {
        Kind::Folder
    } else {
        Kind::Other
    }
}

/// Refuses a folder that is not safe to keep memories in: not a real folder, somebody else's, or writable by others.
fn check_folder(folder: &Path) -> Result<()> {
    let unsafe_folder = |message: &'static str| Error::new(ErrorKind::Permission, message).at(folder);
    let metadata = folder.symlink_metadata().map_err(|error| Error::io("stat", folder, error))?;
    if metadata.is_symlink() {
        return Err(unsafe_folder("this is a link, expected a folder")
            .hint("name the folder itself with --home or MEMENTO_HOME"));
    }
    if !metadata.is_dir() {
        return Err(unsafe_folder("this is not a folder")
            .hint("choose another place with --home or MEMENTO_HOME, or move it away"));
    }
    if system::owner(&metadata) != system::user() {
        return Err(unsafe_folder("this folder belongs to another user")
            .hint("choose a folder of your own with --home or MEMENTO_HOME"));
    }
    if system::mode(&metadata) & GROUP_OR_OTHER_WRITE != 0 {
        return Err(
            unsafe_folder("others may write in this folder").hint("run `chmod go-w` on it, then try again")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[cfg(unix)]
    #[test]
    fn made_files_are_private_whatever_the_umask() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a");
        RealDisk.open(&path, Access::CreateNew).expect("open");
        assert_eq!(path.metadata().expect("stat").mode() & 0o777, 0o600);
        RealDisk.create_folder(&folder.path().join("b")).expect("folder");
        assert_eq!(folder.path().join("b").metadata().expect("stat").mode() & 0o777, 0o700);
    }

    #[cfg(unix)]
    #[test]
    fn links_pipes_and_folders_are_refused_without_waiting() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (target, link, pipe) =
            (folder.path().join("t"), folder.path().join("l"), folder.path().join("p"));
        std::fs::write(&target, b"canary").expect("write");
        std::os::unix::fs::symlink(&target, &link).expect("link");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .expect("pipe");
        for path in [&link, &pipe, &folder.path().to_owned()] {
            for access in [Access::Read, Access::Write, Access::OpenOrCreate] {
                let error = RealDisk.open(path, access).expect_err("refused");
                assert_eq!(error.kind(), ErrorKind::Permission, "{access:?} {error}");
            }
        }
        assert_eq!(std::fs::read(&target).expect("read"), b"canary");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_may_write_in_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        check_folder(folder.path()).expect("a private folder");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o770)).expect("chmod");
        assert_eq!(check_folder(folder.path()).expect_err("refused").kind(), ErrorKind::Permission);
    }

    #[test]
    fn a_lock_ends_with_its_file_though_a_child_has_a_copy_of_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("LOCK");
        let open = || RealDisk.open(&path, Access::OpenOrCreate).expect("open");
        drop(open());
        let file = File::options().read(true).write(true).open(&path).expect("open");
        // What a fork copies is the same open file.
        let inherited = file.try_clone().expect("a copy");
        let holder = RealFile { file, path: path.clone(), lock: Mutex::default() };
        assert!(holder.try_lock().expect("lock"));
        assert!(!open().try_lock().expect("lock"), "somebody has it");
        drop(holder);
        assert!(open().try_lock().expect("lock"));
        drop(inherited);
    }
}
