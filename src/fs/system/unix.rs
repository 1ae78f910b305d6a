//! Unix, with the safe wrappers of the standard library and of rustix.

use std::fs::{File, FileType, Metadata, Permissions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

pub(crate) use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::{DiskSpace, Identity, Opening};

/// Flags for opening a file: never through a link, without waiting for a pipe's other end, and a terminal does not become
/// that of this process.
pub(crate) const NO_LINK_NO_WAIT: i32 =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).bits().cast_signed();
/// Flags for opening a file, through a link, too, without waiting for a pipe's other end.
pub(crate) const NO_WAIT: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// Whether a file that is open can be removed while its bytes are mapped.
pub(crate) const MAPS_FILES: bool = true;

/// The user that this process acts for.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The user that a file belongs to.
pub(crate) fn owner(metadata: &Metadata) -> u32 {
    metadata.uid()
}

/// Who may read and write a file.
pub(crate) fn mode(metadata: &Metadata) -> u32 {
    metadata.mode()
}

/// Sets who may read and write a file.
pub(crate) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode))
}

/// Sets who may read and write what has this name.
pub(crate) fn set_mode_of(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Takes the write permission from a file; its user may still read it.
pub(crate) fn make_read_only(file: &File) -> io::Result<()> {
    set_mode(file, 0o400)
}

/// Gives the write permission back to a file.
#[cfg(test)]
pub(crate) fn make_writable(path: &Path) {
    set_mode_of(path, 0o600).expect("chmod");
}

/// Whether this is a program that can be run.
pub(crate) fn is_program(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

/// Whether this is a socket.
pub(crate) fn is_socket(kind: FileType) -> bool {
    kind.is_socket()
}

/// When a file's bytes were changed, in seconds since 1970.
pub(crate) fn modified_s(metadata: &Metadata) -> i64 {
    metadata.mtime()
}

/// How many names a file has.
pub(crate) fn names_of(_: &File, metadata: &Metadata) -> io::Result<u64> {
    Ok(metadata.nlink())
}

/// What tells an open file from others.
pub(crate) fn identity_of(file: &File) -> io::Result<Identity> {
    file.metadata().map(|metadata| identity(&metadata))
}

/// What tells the file of this name, or a link if it is one, from others; with what it is.
pub(crate) fn identity_at(path: &Path) -> io::Result<(Metadata, Identity)> {
    let metadata = path.symlink_metadata()?;
    let identity = identity(&metadata);
    Ok((metadata, identity))
}

fn identity(metadata: &Metadata) -> Identity {
    let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        len: metadata.len(),
        modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// Cuts an open file of this name.
pub(crate) fn cut(file: &File, _: &Path, len: u64) -> io::Result<()> {
    file.set_len(len)
}

/// Makes names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Gives a file another name, in place of the file that has it.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

/// The lock on a file or a folder; [`unlock`] lets it go, and so does the last handle of the file when it is closed.
#[derive(Debug)]
pub(crate) struct Lock(());

/// Tries to take the exclusive lock on an open file or folder, which ends with the process; nothing when somebody has it.
pub(crate) fn try_lock(file: &File, _: &Path) -> io::Result<Option<Lock>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock(()))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Waits for the exclusive lock on an open file.
pub(crate) fn lock(file: &File, _: &Path) -> io::Result<Lock> {
    flock(file, FlockOperation::LockExclusive)?;
    Ok(Lock(()))
}

/// Lets a lock go at once. Closing is not enough: a child that was just forked has the file, and with it the lock, until
/// it runs a program of its own.
pub(crate) fn unlock(file: &File, _: Lock) -> io::Result<()> {
    file.unlock()
}

/// Opens a folder, to be locked.
pub(crate) fn open_folder(folder: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(folder, flags, Mode::empty())?))
}

/// Whether opening failed because the name stands for a link, a folder, a pipe or a file where something else belongs.
pub(crate) fn is_another_kind(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO))
}

/// An open folder: what is done in it is done in this one, whatever becomes of its name.
#[derive(Debug)]
pub(crate) struct Folder(File);

impl Folder {
    /// Opens a folder, never through a link.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(File::from(rustix::fs::open(path, flags, Mode::empty())?)))
    }

    /// The folder itself, to be looked at or locked.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// The names in it that are UTF-8.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            names.extend(entry?.file_name().to_str().map(str::to_owned));
        }
        Ok(names)
    }

    /// Opens a file in it, never through a link and without waiting for a pipe.
    pub(crate) fn open_file(&self, name: &str, opening: Opening, mode: u32) -> io::Result<File> {
        let flags = match opening {
            Opening::Read => OFlags::RDONLY,
            Opening::Append => OFlags::RDWR | OFlags::APPEND,
            Opening::AppendOrMake => OFlags::RDWR | OFlags::APPEND | OFlags::CREATE,
            Opening::Make => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(mode))?))
    }

    /// Gives a file in it another name.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes a file in it.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Makes names in it durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// How much room there is on the disk of a folder.
pub(crate) fn disk_space(folder: &Path) -> io::Result<DiskSpace> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(DiskSpace {
        free: disk.f_bavail.saturating_mul(disk.f_frsize),
        total: disk.f_blocks.saturating_mul(disk.f_frsize),
        is_read_only: disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        has_no_room_for_files: disk.f_files > 0 && disk.f_favail == 0,
    })
}

/// The number of the file system that a folder is on, as linux/magic.h has it, where the system tells. Some systems widen
/// it with its sign.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn file_system(folder: &Path) -> Option<u64> {
    rustix::fs::statfs(folder).ok().map(|found| found.f_type as u64)
}

/// The number of the file system that a folder is on: only Linux tells.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn file_system(_: &Path) -> Option<u64> {
    None
}

/// Whether the path itself says that it is on another machine.
pub(crate) fn is_remote_path(_: &Path) -> bool {
    false
}

/// What programs of the desktop and mailers need of the environment, beside what is the same everywhere.
pub(crate) const VARIABLES: &[&str] = &[];

/// Lets a program be killed with all that it starts: [`end_group`].
pub(crate) fn in_own_group(command: &mut Command) -> &mut Command {
    std::os::unix::process::CommandExt::process_group(command, 0)
}

/// Kills a program that was started with [`in_own_group`], and what it started.
pub(crate) fn end_group(child: &mut Child) {
    // The group has its own number: nobody else is in it.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.kill();
}

/// The signal that ended a program.
pub(crate) fn ended_by_signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

/// How health runs are scheduled here where there is neither cron nor systemd: nothing on a system that may have them.
pub(crate) fn own_scheduler(_program: &str, _home: &str, _hours: u32) -> Option<String> {
    None
}
