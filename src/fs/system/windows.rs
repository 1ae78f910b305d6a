//! Windows, with the safe functions of the standard library, winapi-util and fs4.
//!
//! Who may read and write a file is said by its access list there, which the folder above hands down, and the standard
//! library does not tell it: every file counts as the user's own and private. So a home belongs into the user's profile,
//! which nobody else may look into.

use std::fs::{DirBuilder, File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::windows::process::CommandExt;
use std::path::{Component, Path, PathBuf, Prefix};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{DiskSpace, Identity, Opening};

// Numbers of the Windows SDK (winnt.h, winbase.h, winerror.h).
const FILE_READ_ATTRIBUTES: u32 = 0x80;
const DELETE: u32 = 0x1_0000;
const FILE_SHARE_READ: u32 = 1;
const FILE_SHARE_WRITE: u32 = 2;
const FILE_FLAG_OPEN_REPARSE_POINT: u32 = 0x20_0000;
const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x200_0000;
const ERROR_SHARING_VIOLATION: i32 = 32;
const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;

/// Files' times count hundreds of nanoseconds since 1601; so many of them were over in 1970.
const UNIX_EPOCH_TICKS: i128 = 116_444_736_000_000_000;
/// The file that is locked in the place of its folder.
const FOLDER_LOCK: &str = ".lock";
/// How often a lock that somebody has is tried.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Flags for opening a file: never through a link.
pub(crate) const NO_LINK_NO_WAIT: u32 = FILE_FLAG_OPEN_REPARSE_POINT;
/// Flags for opening a file, through a link, too. A pipe has no name among the files.
pub(crate) const NO_WAIT: u32 = 0;

/// Whether a file that is open can be removed while its bytes are mapped: Windows refuses it.
pub(crate) const MAPS_FILES: bool = false;

/// Reading and writing at a position. Others who do the same are not disturbed, as all of them say where.
pub(crate) trait FileExt {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => (buffer, offset) = (&mut buffer[read..], offset + read as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => (bytes, offset) = (&bytes[written..], offset + written as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl FileExt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.seek_read(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.seek_write(bytes, offset)
    }
}

/// What Unix has beside the options of all systems.
pub(crate) trait OpenOptionsExt {
    /// Who may use a file that is made: whoever may use its folder.
    fn mode(&mut self, mode: u32) -> &mut Self;
    fn custom_flags(&mut self, flags: u32) -> &mut Self;
}

impl OpenOptionsExt for OpenOptions {
    fn mode(&mut self, _: u32) -> &mut Self {
        self
    }

    fn custom_flags(&mut self, flags: u32) -> &mut Self {
        std::os::windows::fs::OpenOptionsExt::custom_flags(self, flags)
    }
}

/// What Unix has beside the options of all systems.
pub(crate) trait DirBuilderExt {
    /// Who may use a folder that is made: whoever may use the one above.
    fn mode(&mut self, mode: u32) -> &mut Self;
}

impl DirBuilderExt for DirBuilder {
    fn mode(&mut self, _: u32) -> &mut Self {
        self
    }
}

/// The user that this process acts for: a stand-in.
pub(crate) fn user() -> u32 {
    0
}

/// The user that a file belongs to: a stand-in.
pub(crate) fn owner(_: &Metadata) -> u32 {
    0
}

/// Who may read and write a file: a stand-in.
pub(crate) fn mode(metadata: &Metadata) -> u32 {
    match (metadata.is_dir(), metadata.permissions().readonly()) {
        (true, _) => 0o700,
        (false, true) => 0o400,
        (false, false) => 0o600,
    }
}

/// Sets who may read and write a file: its folder has said so.
pub(crate) fn set_mode(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

/// Sets who may read and write what has this name: its folder has said so.
pub(crate) fn set_mode_of(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

/// Takes the write permission from a file.
pub(crate) fn make_read_only(file: &File) -> io::Result<()> {
    let mut permissions = file.metadata()?.permissions();
    permissions.set_readonly(true);
    file.set_permissions(permissions)
}

/// Gives the write permission back to a file.
#[cfg(test)]
pub(crate) fn make_writable(path: &Path) {
    let mut permissions = path.metadata().expect("stat").permissions();
    #[expect(
        clippy::permissions_set_readonly_false,
        reason = "an attribute of the file, and no access list"
    )]
    permissions.set_readonly(false);
    std::fs::set_permissions(path, permissions).expect("the attribute");
}

/// Whether this is a program that can be run. Of those that are looked for, `crontab` and `systemctl`, Windows has none.
pub(crate) fn is_program(_: &Metadata) -> bool {
    false
}

/// Whether this is a socket: none has a name among the files.
pub(crate) fn is_socket(_: FileType) -> bool {
    false
}

/// When a file's bytes were changed, in seconds since 1970.
pub(crate) fn modified_s(metadata: &Metadata) -> i64 {
    let ticks = i128::from(std::os::windows::fs::MetadataExt::last_write_time(metadata)) - UNIX_EPOCH_TICKS;
    i64::try_from(ticks.div_euclid(10_000_000)).unwrap_or(i64::MAX)
}

/// How many names a file has.
pub(crate) fn names_of(file: &File, _: &Metadata) -> io::Result<u64> {
    Ok(winapi_util::file::information(file)?.number_of_links())
}

/// What tells an open file from others. When anything at all of it was changed is not told: the later one of the times
/// when it was made and when it was written to stands for that.
pub(crate) fn identity_of(file: &File) -> io::Result<Identity> {
    let information = winapi_util::file::information(file)?;
    let ns = |ticks: u64| (i128::from(ticks) - UNIX_EPOCH_TICKS) * 100;
    let (made, written) = (information.creation_time(), information.last_write_time());
    let modified_ns = ns(written.unwrap_or_default());
    Ok(Identity {
        device: information.volume_serial_number(),
        inode: information.file_index(),
        len: information.file_size(),
        modified_ns,
        changed_ns: modified_ns.max(ns(made.unwrap_or_default())),
    })
}

/// What tells the file of this name, or a link if it is one, from others; with what it is.
pub(crate) fn identity_at(path: &Path) -> io::Result<(Metadata, Identity)> {
    let file = looked_at(path, FILE_FLAG_OPEN_REPARSE_POINT)?;
    Ok((file.metadata()?, identity_of(&file)?))
}

/// A file or a folder, opened for nothing but to see what it is.
fn looked_at(path: &Path, flags: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.access_mode(FILE_READ_ATTRIBUTES);
    OpenOptionsExt::custom_flags(&mut options, FILE_FLAG_BACKUP_SEMANTICS | flags);
    options.open(path)
}

/// Cuts an open file of this name. One that is open to be appended to may not be cut, so it is opened once more.
pub(crate) fn cut(_: &File, path: &Path, len: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    OpenOptionsExt::custom_flags(&mut options, FILE_FLAG_OPEN_REPARSE_POINT);
    options.write(true).open(path)?.set_len(len)
}

/// Makes names in a folder durable: there is nothing to do. Windows has no call for it; NTFS writes names to its own
/// journal, in their order, and with it when a file is synced that was made or named before.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    folder.metadata().map(drop)
}

/// Gives a file another name, in place of the file that has it, also when nobody may write to that one.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let Err(error) = std::fs::rename(from, to) else { return Ok(()) };
    let Ok(target) = to.symlink_metadata() else { return Err(error) };
    if error.kind() != io::ErrorKind::PermissionDenied
        || !target.is_file()
        || !target.permissions().readonly()
    {
        return Err(error);
    }
    let mut permissions = target.permissions();
    #[expect(
        clippy::permissions_set_readonly_false,
        reason = "an attribute of the file, and no access list"
    )]
    permissions.set_readonly(false);
    std::fs::set_permissions(to, permissions)?;
    std::fs::rename(from, to)
}

/// A lock on a file or a folder, let go when it is dropped.
///
/// Windows' own locks keep others from reading a file. So this one is a handle that asks for the right to remove the file
/// and does not share it: a second such handle is refused, other uses are not, and the system closes it with the process.
/// A folder with such a handle could not be listed or written to by everybody any more, so a file in it is locked.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "it is open, that is all")] File);

/// Tries to take the exclusive lock on an open file or folder, which ends with the process; nothing when somebody has it.
pub(crate) fn try_lock(_: &File, path: &Path) -> io::Result<Option<Lock>> {
    let mut options = OpenOptions::new();
    options.access_mode(DELETE | FILE_READ_ATTRIBUTES).share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE);
    OpenOptionsExt::custom_flags(&mut options, FILE_FLAG_OPEN_REPARSE_POINT);
    let opened = if path.is_dir() {
        options.write(true).create(true).truncate(false).open(path.join(FOLDER_LOCK))
    } else {
        options.open(path)
    };
    match opened {
        Ok(file) => Ok(Some(Lock(file))),
        Err(error) if error.raw_os_error() == Some(ERROR_SHARING_VIOLATION) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits for the exclusive lock on an open file.
pub(crate) fn lock(file: &File, path: &Path) -> io::Result<Lock> {
    loop {
        if let Some(lock) = try_lock(file, path)? {
            return Ok(lock);
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// Lets a lock go at once.
pub(crate) fn unlock(_: &File, lock: Lock) -> io::Result<()> {
    drop(lock);
    Ok(())
}

/// Opens a folder, to be locked.
pub(crate) fn open_folder(folder: &Path) -> io::Result<File> {
    folder_only(looked_at(folder, 0)?)
}

fn folder_only(opened: File) -> io::Result<File> {
    if opened.metadata()?.is_dir() { Ok(opened) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Whether opening failed because the name stands for a link, a folder or a file where something else belongs.
pub(crate) fn is_another_kind(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
}

/// A folder that was looked at. It is open, so that nobody gives its name to another one meanwhile.
#[derive(Debug)]
pub(crate) struct Folder {
    folder: File,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder, never through a link.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let folder = folder_only(looked_at(&path, FILE_FLAG_OPEN_REPARSE_POINT)?)?;
        Ok(Self { folder, path })
    }

    /// The folder itself, to be looked at or locked.
    pub(crate) fn file(&self) -> &File {
        &self.folder
    }

    /// The names in it that are UTF-8.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.path.read_dir()? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    /// Opens a file in it, never through a link.
    pub(crate) fn open_file(&self, name: &str, opening: Opening, _: u32) -> io::Result<File> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.read(true);
        OpenOptionsExt::custom_flags(&mut options, FILE_FLAG_OPEN_REPARSE_POINT);
        match opening {
            Opening::Read => {}
            Opening::Append => {
                options.append(true);
            }
            Opening::AppendOrMake => {
                options.append(true).create(true);
            }
            Opening::Make => {
                options.write(true).create_new(true);
            }
        }
        options.open(&path).map_err(|error| {
            // For a folder Windows says that access is denied.
            let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
            if is_folder { io::ErrorKind::IsADirectory.into() } else { error }
        })
    }

    /// Gives a file in it another name.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        rename(&self.path.join(from), &self.path.join(to))
    }

    /// Removes a file in it.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    /// Makes names in it durable: see [`sync_folder`].
    pub(crate) fn sync(&self) -> io::Result<()> {
        sync_folder(&self.path)
    }
}

/// How much room there is on the disk of a folder.
pub(crate) fn disk_space(folder: &Path) -> io::Result<DiskSpace> {
    let disk = fs4::statvfs(folder)?;
    Ok(DiskSpace {
        free: disk.available_space(),
        total: disk.total_space(),
        is_read_only: false,
        has_no_room_for_files: false,
    })
}

/// The number of the file system that a folder is on: only Linux tells.
pub(crate) fn file_system(_: &Path) -> Option<u64> {
    None
}

/// Whether a path leads to another machine, also when it begins with the letter of a drive.
pub(crate) fn is_remote_path(path: &Path) -> bool {
    let real = path.canonicalize();
    let first = real.as_deref().unwrap_or(path).components().next();
    matches!(
        first,
        Some(Component::Prefix(prefix)) if matches!(prefix.kind(), Prefix::UNC(..) | Prefix::VerbatimUNC(..))
    )
}

/// What programs need of the environment, beside what is the same everywhere.
pub(crate) const VARIABLES: &[&str] = &[
    "SystemRoot",
    "SystemDrive",
    "ComSpec",
    "PATHEXT",
    "TEMP",
    "TMP",
    "USERNAME",
    "USERPROFILE",
    "APPDATA",
    "LOCALAPPDATA",
    "ProgramData",
    "ProgramFiles",
];

/// Lets a program be killed with all that it starts: [`end_group`].
pub(crate) fn in_own_group(command: &mut Command) -> &mut Command {
    command.creation_flags(CREATE_NEW_PROCESS_GROUP)
}

/// Kills a program, and what it started: Windows' own program for that does it.
pub(crate) fn end_group(child: &mut Child) {
    let mut taskkill = Command::new("taskkill");
    taskkill.args(["/T", "/F", "/PID", &child.id().to_string()]);
    taskkill.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _ = taskkill.status();
    let _ = child.kill();
}

/// The signal that ended a program: there are none.
pub(crate) fn ended_by_signal(_: ExitStatus) -> Option<i32> {
    None
}

/// How health runs are scheduled here, as neither cron nor systemd is there: with Windows' own program, by the user.
pub(crate) fn own_scheduler(program: &str, home: &str, hours: u32) -> Option<String> {
    Some(format!(
        "schtasks /Create /TN memento-kv /SC HOURLY /MO {} /TR \"\\\"{program}\\\" --home \\\"{home}\\\" health --quiet\"",
        hours.clamp(1, 23)
    ))
}
