//! A private copy of a database that somebody else may be using.
//!
//! SQLite changes what it opens: it merges a write-ahead log, rolls a journal back, makes side files. The user's files
//! must stay as they are, so a database is copied with its side files into a folder that only this process knows, and
//! everything happens there. The folder goes when the copy is dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::system::{self, Identity, OpenOptionsExt};
use crate::sqlite::{JOURNAL_END_LEN, names_another_file};

/// Longest database, and longest side file, that is copied, in bytes.
pub(crate) const DATABASE_LEN_MAX: u64 = 64 << 30;

/// How often a database is copied that somebody writes to meanwhile.
const ATTEMPTS: u32 = 5;
/// How long to wait before the next attempt.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(200);
/// Name of the database in its private folder.
const COPY_NAME: &str = "copy.db";

/// Files beside a database whose content belongs to it. The shared-memory file is none: SQLite makes it anew.
const SIDE_SUFFIXES: [&str; 2] = ["-wal", "-journal"];

/// How a database is copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyOptions<'a> {
    /// Longest file that is copied, in bytes.
    pub(crate) len_max: u64,
    /// Where the private folder is made; by default where the system keeps temporary files.
    pub(crate) scratch: Option<&'a Path>,
}

impl Default for CopyOptions<'_> {
    fn default() -> Self {
        Self { len_max: DATABASE_LEN_MAX, scratch: None }
    }
}

/// A copy of a database in a folder of its own.
#[derive(Debug)]
pub(crate) struct PrivateCopy {
    /// Holds the folder, which goes with it.
    folder: tempfile::TempDir,
    /// Bytes of all its files.
    len: u64,
}

impl PrivateCopy {
    /// Copies a database as it was at one moment.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] for what is no plain file, or has a side file that is none;
    /// [`ErrorKind::TooLarge`]; [`ErrorKind::Busy`] when it changes whenever it is copied; those of the system.
    pub(crate) fn make(path: &Path, options: &CopyOptions<'_>) -> Result<Self> {
        // SQLite looks for side files beside the file that a link leads to, too.
        let real = fs::canonicalize(path).map_err(|error| Error::io("open", path, error))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".memento-copy-").suffix(".tmp");
        let made = match options.scratch {
            Some(scratch) => builder.tempdir_in(scratch),
            None => builder.tempdir(),
        };
        let scratch = || options.scratch.map_or_else(std::env::temp_dir, Path::to_owned);
        let folder = made.map_err(|error| Error::io("make a private folder in", &scratch(), error))?;
        let mut copy = Self { folder, len: 0 };
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(ATTEMPT_INTERVAL);
            }
            if copy.fill(&real, options)? {
                copy.check_journal(path)?;
                return Ok(copy);
            }
        }
        Err(Error::new(ErrorKind::Busy, "the database changes while it is read")
            .at(path)
            .hint("stop the program that writes to it, then try again"))
    }

    /// The copied database.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join(COPY_NAME)
    }

    /// Bytes of the database and its side files.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Copies all files; says whether none of them changed meanwhile.
    fn fill(&mut self, real: &Path, options: &CopyOptions<'_>) -> Result<bool> {
        self.len = 0;
        let mut before = vec![Some(self.copy_file(real, "", options.len_max)?)];
        for suffix in SIDE_SUFFIXES {
            let side = with_suffix(real, suffix);
            let kept = with_suffix(&self.path(), suffix);
            before.push(match fs::symlink_metadata(&side) {
                Ok(_) => Some(self.copy_file(&side, suffix, options.len_max)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    remove_if_there(&kept)?;
                    None
                }
                Err(error) => return Err(Error::io("read", &side, error)),
            });
        }
        let names = std::iter::once("").chain(SIDE_SUFFIXES);
        for (suffix, before) in names.zip(before) {
            let path = with_suffix(real, suffix);
            let now = match system::identity_at(&path) {
                Ok((_, identity)) => Some(identity),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(Error::io("read", &path, error)),
            };
            if now != before {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies one file and says what it was when its first byte was read.
    fn copy_file(&mut self, from: &Path, suffix: &str, len_max: u64) -> Result<Identity> {
        let source = open_plain(from)?;
        let identity = system::identity_of(&source).map_err(|error| Error::io("read", from, error))?;
        if identity.len > len_max {
            let what = format!("the file has {} bytes, the most is {len_max}", identity.len);
            return Err(Error::new(ErrorKind::TooLarge, what).at(from));
        }
        let to = with_suffix(&self.path(), suffix);
        let failed = |error| Error::io("make a private copy as", &to, error);
        let mut target = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&to)
            .map_err(failed)?;
        // No more than was seen, however fast somebody makes it grow.
        self.len += io::copy(&mut (&source).take(identity.len), &mut target).map_err(failed)?;
        Ok(identity)
    }

    /// Refuses a journal that names another file.
    fn check_journal(&self, path: &Path) -> Result<()> {
        let journal = with_suffix(&self.path(), "-journal");
        let mut file = match File::open(&journal) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", &journal, error)),
        };
        let mut end = [0; JOURNAL_END_LEN];
        let is_short = file.seek(SeekFrom::End(-(end.len() as i64))).is_err();
        if !is_short && file.read_exact(&mut end).is_ok() && names_another_file(&end) {
            return Err(Error::new(
                ErrorKind::Refused,
                "its journal names another file that SQLite would delete",
            )
            .at(path)
            .hint("take the file with the ending -journal away if you know where the database comes from"));
        }
        Ok(())
    }
}

/// Opens a plain file for reading. Neither a link nor a pipe nor a device is one.
fn open_plain(path: &Path) -> Result<File> {
    // Opening a pipe must not wait for somebody to write to it.
    let refused = || {
        Error::new(ErrorKind::Refused, "this is no plain file")
            .at(path)
            .hint("links, folders, pipes and devices are not read as databases")
    };
    let file = match OpenOptions::new().read(true).custom_flags(system::NO_LINK_NO_WAIT).open(path) {
        Ok(file) => file,
        Err(_) if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) => {
            return Err(refused());
        }
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let metadata = file.metadata().map_err(|error| Error::io("read", path, error))?;
    if metadata.is_file() { Ok(file) } else { Err(refused()) }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}
