//! The only code that opens, syncs, renames and removes files of the store. It knows no formats.
//!
//! [`Disk`] is a seam: the store runs on [`RealDisk`], its tests also on disks that fail on purpose. Calls whose name ends
//! in `_once` are single calls of the operating system, which may be interrupted or do less than was asked; what goes on
//! until all is done stands above the seam, so that every disk has it. No file of the store is ever opened through a
//! link, and nothing but a regular file is read or written.

#[cfg(test)]
pub(crate) mod faulty;
mod map;
mod network;
mod overlay;
mod real;
pub(crate) mod system;

use std::fmt;
use std::io;
use std::path::Path;

pub(crate) use map::Mapped;
pub(crate) use network::network_file_system;
pub(crate) use overlay::OverlayDisk;
pub(crate) use real::RealDisk;

use crate::error::{Error, ErrorKind, Result};

/// A path that means the same in a process with another working folder.
pub(crate) fn absolute(path: &Path) -> Result<std::path::PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io("make absolute", path, error))
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; an existing one is an error.
    CreateNew,
    /// For reading and writing, made empty when it is not there.
    OpenOrCreate,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file of this many bytes.
    File(u64),
    /// A folder.
    Folder,
    /// A link, a pipe, a socket or a device.
    Other,
}

/// What tells a file from another one that took its place: no copy over it leaves all of these as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Fingerprint {
    pub(crate) len: u64,
    device: u64,
    inode: u64,
    /// Nanoseconds since 1970.
    modified_ns: i128,
    /// The same for the change of anything at all.
    changed_ns: i128,
}

impl Fingerprint {
    /// Whether the file was changed less than so many milliseconds ago, by the system's clock, or in the future.
    pub(crate) fn is_younger_than(&self, ms: i64) -> bool {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now_ns = now.map_or(0, |now| i128::try_from(now.as_nanos()).unwrap_or(i128::MAX));
        self.inode != 0 && now_ns - self.changed_ns < i128::from(ms) * 1_000_000
    }
}

/// Where the store's files live.
pub(crate) trait Disk: Send + Sync + fmt::Debug {
    /// Opens a regular file, mode 0600 when it is made. Never follows a link and never waits for a pipe.
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>>;
    /// What this name stands for; `None` when there is nothing.
    fn kind(&self, path: &Path) -> Result<Option<Kind>>;
    /// The names in a folder, sorted.
    fn list(&self, folder: &Path) -> Result<Vec<String>>;
    /// Makes a folder, mode 0700, unless it is there.
    fn create_folder(&self, folder: &Path) -> Result<()>;
    /// Whether a folder is safe to use: no link, of this user, written by nobody else.
    ///
    /// # Errors
    /// [`ErrorKind::Permission`] and what the operating system says.
    fn check_folder(&self, folder: &Path) -> Result<()>;
    /// The bytes of a regular file that nobody writes any more, to be read where they lie.
    fn map(&self, path: &Path) -> Result<Mapped> {
        Mapped::copy(&*self.open(path, Access::Read)?)
    }
    /// The name under which other programs, and libraries that open files themselves, find this one; `None` where they
    /// cannot.
    fn system_path<'a>(&self, _path: &'a Path) -> Option<&'a Path> {
        None
    }
    /// What tells a file from another one that took its place, or from what it was before it was written to.
    fn fingerprint(&self, path: &Path) -> Result<Option<Fingerprint>> {
        let Some(Kind::File(len)) = self.kind(path)? else { return Ok(None) };
        let file = self.open(path, Access::Read)?;
        let (mut crc, mut offset, mut part) = (crc32fast::Hasher::new(), 0, vec![0; 1 << 16]);
        while offset < len {
            let read = file.read_at(&mut part, offset)?;
            if read == 0 {
                break;
            }
            crc.update(&part[..read]);
            offset += read as u64;
        }
        Ok(Some(Fingerprint {
            len,
            device: 0,
            inode: 0,
            modified_ns: i128::from(crc.finalize()),
            changed_ns: 0,
        }))
    }
    /// Removes a folder with all that is in it; never follows a link.
    fn remove_tree(&self, folder: &Path) -> Result<()> {
        for name in self.list(folder)? {
            let path = folder.join(name);
            match self.kind(&path)? {
                Some(Kind::Folder) => self.remove_tree(&path)?,
                Some(_) => self.remove(&path)?,
                None => {}
            }
        }
        Ok(())
    }
    /// One call of [`Disk::rename`].
    fn rename_once(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// One call of [`Disk::remove`].
    fn remove_once(&self, path: &Path) -> io::Result<()>;
    /// One call of [`Disk::sync_folder`].
    fn sync_folder_once(&self, folder: &Path) -> io::Result<()>;

    /// Gives a file another name, in place of the file that has it.
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        uninterrupted(|| self.rename_once(from, to)).map_err(|error| Error::io("rename", from, error))
    }

    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<()> {
        uninterrupted(|| self.remove_once(path)).map_err(|error| Error::io("remove", path, error))
    }

    /// Makes names made, changed or removed in this folder durable.
    fn sync_folder(&self, folder: &Path) -> Result<()> {
        uninterrupted(|| self.sync_folder_once(folder))
            .map_err(|error| Error::io("sync folder", folder, error))
    }
}

/// An open file. Positions are given with every call, so it can be shared by threads.
pub(crate) trait DiskFile: Send + Sync + fmt::Debug {
    /// The name it was opened under.
    fn path(&self) -> &Path;
    /// Its length in bytes.
    fn len(&self) -> Result<u64>;
    /// One call that reads: how many bytes it gave, 0 only at the end of the file.
    fn read_once(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// One call that writes: how many bytes it took.
    fn write_once(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// One call of [`DiskFile::set_len`].
    fn set_len_once(&self, len: u64) -> io::Result<()>;
    /// One call of [`DiskFile::sync`].
    fn sync_once(&self) -> io::Result<()>;
    /// Takes the write permission from the file.
    fn make_read_only(&self) -> Result<()>;
    /// Whether nobody has write permission.
    fn is_read_only(&self) -> Result<bool>;
    /// Tries to take the operating system's exclusive lock, which ends with the process. `false`: somebody has it.
    fn try_lock(&self) -> Result<bool>;

    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            let more = uninterrupted(|| self.read_once(&mut buffer[read..], offset + read as u64))
                .map_err(|error| Error::io("read", self.path(), error))?;
            if more == 0 {
                break;
            }
            read += more;
        }
        Ok(read)
    }

    /// Writes all of the bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            let more = uninterrupted(|| self.write_once(&bytes[written..], offset + written as u64))
                .and_then(|more| if more == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(more) })
                .map_err(|error| Error::io("write", self.path(), error))?;
            written += more;
        }
        Ok(())
    }

    /// Cuts the file or extends it with zeros.
    fn set_len(&self, len: u64) -> Result<()> {
        uninterrupted(|| self.set_len_once(len)).map_err(|error| Error::io("set length", self.path(), error))
    }

    /// Waits until all that was written is on stable storage.
    fn sync(&self) -> Result<()> {
        uninterrupted(|| self.sync_once()).map_err(|error| Error::io("sync", self.path(), error))
    }
}

/// Makes a call again for as long as a signal interrupts it before it has done anything.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// An error of the disk for those who know the errors of the standard library only.
pub(crate) fn as_io(error: Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::NoSpace => io::ErrorKind::StorageFull,
        ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
        ErrorKind::Permission => io::ErrorKind::PermissionDenied,
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// Reads exactly `buffer.len()` bytes.
pub(crate) fn read_exact_at(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> Result<()> {
    let read = file.read_at(buffer, offset)?;
    if read < buffer.len() {
        return Err(Error::corrupt(
            file.path(),
            offset,
            format!("the file ends after {read} of {} bytes", buffer.len()),
        ));
    }
    Ok(())
}

/// Reads a whole file of at most `len_max` bytes; `None` when there is none.
pub(crate) fn read_small(disk: &dyn Disk, path: &Path, len_max: usize) -> Result<Option<Vec<u8>>> {
    if disk.kind(path)?.is_none() {
        return Ok(None);
    }
    let file = disk.open(path, Access::Read)?;
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if len > len_max {
        return Err(Error::corrupt(path, 0, format!("{len} bytes, expected at most {len_max}")));
    }
    let mut bytes = vec![0; len];
    read_exact_at(&*file, &mut bytes, 0)?;
    Ok(Some(bytes))
}

/// Makes a folder, and those above it that are missing, so that their names are durable.
pub(crate) fn create_folders(disk: &dyn Disk, folder: &Path) -> Result<()> {
    if disk.kind(folder)?.is_some() {
        return Ok(());
    }
    let above = folder_above(folder);
    create_folders(disk, above)?;
    disk.create_folder(folder)?;
    disk.sync_folder(above)
}

/// The folder that a name is in.
pub(crate) fn folder_above(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => path,
    }
}

/// Whether both name the same place, by whatever way; there need not be a file.
pub(crate) fn is_same_place(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| Some((folder_above(path).canonicalize().ok()?, path.file_name()?.to_owned()));
    one == other || place(one).is_some_and(|one| Some(one) == place(other))
}

/// Puts a file of these bytes in place of `path`, so that after a crash either the old or the new one is there.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().expect("a file of the store is in a folder");
    let mut name = path.file_name().expect("a file has a name").to_owned();
    name.push(".tmp");
    let temporary = folder.join(name);
    if disk.kind(&temporary)?.is_some() {
        disk.remove(&temporary)?;
    }
    let written = || -> Result<()> {
        let file = disk.open(&temporary, Access::CreateNew)?;
        file.write_at(bytes, 0)?;
        file.sync()?; // The content is durable before the name points to it.
        disk.rename(&temporary, path)
    };
    if let Err(error) = written() {
        // On a full disk it would keep the little space there is.
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    disk.sync_folder(folder)
}

/// The error for a name that does not stand for a regular file.
fn not_a_file(path: &Path, kind: Kind) -> Error {
    let what = if kind == Kind::Folder { "a folder" } else { "a link, a pipe or a device" };
    Error::new(ErrorKind::Permission, format!("this is {what}, expected a regular file"))
        .at(path)
        .hint("the store never follows links: move it away and open the store again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::disk::{SimulatedDisk, Trouble};

    #[test]
    fn a_signal_is_no_reason_for_a_name_to_stay() {
        let folder = Path::new("/folder");
        let disk = SimulatedDisk::new(folder);
        let (from, to) = (folder.join("a"), folder.join("b"));
        disk.open(&from, Access::CreateNew).expect("a file");
        let interrupted = Trouble::Once(io::ErrorKind::Interrupted);
        disk.plan(disk.calls(), interrupted);
        assert_eq!(
            disk.rename_once(&from, &to).expect_err("a signal comes").kind(),
            io::ErrorKind::Interrupted
        );
        disk.plan(disk.calls(), interrupted);
        disk.rename(&from, &to).expect("renamed");
        assert_eq!(disk.list(folder).expect("a list"), ["b"]);
        disk.plan(disk.calls(), interrupted);
        disk.remove(&to).expect("removed");
        assert!(disk.list(folder).expect("a list").is_empty());
    }
}
