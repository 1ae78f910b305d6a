//! A private copy of a file that somebody else may write to, or has made: it is looked at, never the file itself.

use std::path::{Path, PathBuf};

use super::publish::siblings;
use super::read::{self, File};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Access, Disk, Kind};
use crate::sqlite::{JOURNAL_END_LEN, MAGIC, names_another_file};
use crate::store::Inner;

/// Bytes that are copied at once.
const COPY_LEN: usize = 1 << 20;
/// Bytes of SQLite's header.
const HEADER_LEN: usize = 100;
/// The longest file that is looked at.
const FILE_LEN_MAX: u64 = 64 << 30;

/// A copy in the store's folder, removed when it is dropped.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) file: File,
    _copy: Removed,
}

/// What a look at a file found.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) copied: Copied,
    /// Whether it is a snapshot of ours, and its rows are what it says.
    pub(super) is_whole: bool,
}

/// Files that go when this is dropped.
#[derive(Debug)]
struct Removed {
    disk: std::sync::Arc<dyn Disk>,
    paths: Vec<PathBuf>,
}

impl Drop for Removed {
    fn drop(&mut self) {
        for path in &self.paths {
            if matches!(self.disk.kind(path), Ok(Some(Kind::File(_)))) {
                // What is left is removed by the next open.
                let _ = self.disk.remove(path);
            }
        }
    }
}

/// Looks at a file. It is looked at without what stands beside it, since a journal or log of another database would be
/// played over it; only where it says nothing sensible alone, or more with it, what stands beside it counts.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::Permission`] for a link or what is no file, [`ErrorKind::Invalid`] and
/// [`ErrorKind::Corrupt`] when it cannot be used.
pub(super) fn look_at(store: &Inner, path: &Path) -> Result<Look> {
    let disk = store.disk();
    expect_there(&**disk, path)?;
    let alone = look(store, path, false);
    if alone.as_ref().is_ok_and(|look| look.is_whole) {
        return alone;
    }
    let mut has_siblings = false;
    for sibling in siblings(path) {
        has_siblings |= read::is_file(&**disk, &sibling)?;
    }
    if !has_siblings || disk.system_path(path).is_none() {
        return alone;
    }
    match (alone, look(store, path, true)) {
        (Ok(alone), Ok(with)) => {
            let rows =
                |look: &Look| look.copied.file.for_each(|_| Ok(())).map(|summary| summary.rows).unwrap_or(0);
            Ok(if with.is_whole || rows(&with) > rows(&alone) { with } else { alone })
        }
        (Err(_), Ok(with)) => Ok(with),
        (alone, Err(_)) => alone,
    }
}

/// A copy of a file for whoever reads all of it and asks then whether that [was sound](File::expect_sound); where something
/// stands beside it, it is looked at first.
///
/// # Errors
/// As [`look_at`].
pub(super) fn opened(store: &Inner, path: &Path) -> Result<Copied> {
    let disk = store.disk();
    for sibling in siblings(path) {
        if disk.kind(&sibling)?.is_some() {
            return look_at(store, path).map(|look| look.copied);
        }
    }
    expect_there(&**disk, path)?;
    copied(store, path, false)
}

fn expect_there(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.kind(path)? {
        Some(Kind::Folder) => {
            Err(Error::new(ErrorKind::Invalid, "this is a folder, expected a file").at(path))
        }
        Some(_) => Ok(()),
        None => Err(Error::new(ErrorKind::NotFound, "there is no such file").at(path)),
    }
}

fn look(store: &Inner, path: &Path, with_siblings: bool) -> Result<Look> {
    let copied = copied(store, path, with_siblings)?;
    let file = &copied.file;
    let is_whole = match &file.stamp {
        Some(_) => match file.verify() {
            Ok(_) => true,
            // Somebody has changed its rows, or chance has: SQLite counts who writes.
            Err(error) if error.kind() == ErrorKind::Conflict && !file.is_unwritten() => false,
            Err(error) if error.kind() == ErrorKind::Conflict => {
                return Err(at(Error::new(ErrorKind::Corrupt, error.message().to_owned()), path));
            }
            Err(error) => return Err(at(error, path)),
        },
        None => {
            file.for_each(|_| Ok(())).map_err(|error| at(error, path))?;
            false
        }
    };
    Ok(Look { copied, is_whole })
}

fn copied(store: &Inner, path: &Path, with_siblings: bool) -> Result<Copied> {
    let disk = store.disk();
    let name = if with_siblings { "look-2.db.tmp" } else { "look.db.tmp" };
    let copy = store.folder().join(name);
    let mut paths = vec![copy.clone()];
    paths.extend(siblings(&copy));
    for path in &paths {
        if disk.kind(path)?.is_some() {
            disk.remove(path)?;
        }
    }
    let removed = Removed { disk: disk.clone(), paths };
    let len = expect_database(&**disk, path)?;
    // What stands beside it may be about pages behind those.
    copy_file(&**disk, path, &copy, if with_siblings { u64::MAX } else { len })?;
    if with_siblings {
        let [wal, _, journal] = siblings(path);
        let [wal_copy, _, journal_copy] = siblings(&copy);
        for (from, to) in [(&wal, &wal_copy), (&journal, &journal_copy)] {
            if read::is_file(&**disk, from)? {
                copy_file(&**disk, from, to, u64::MAX)?;
            }
        }
        check_journal(&**disk, &journal_copy).map_err(|error| at(error, path))?;
    } else {
        rollback_mode(&**disk, &copy)?;
    }
    let file =
        if with_siblings { read::open_with_journal(&**disk, &copy) } else { read::open(&**disk, &copy) };
    Ok(Copied { file: file.map_err(|error| at(error, path))?, _copy: removed })
}

/// A database in WAL mode cannot be read without its log unless its header says otherwise: the copy is told so.
fn rollback_mode(disk: &dyn Disk, copy: &Path) -> Result<()> {
    let file = disk.open(copy, Access::Write)?;
    let mut versions = [0; 2];
    if file.read_at(&mut versions, 18)? == 2 && versions == [2, 2] {
        file.write_at(&[1, 1], 18)?;
    }
    Ok(())
}

/// Refuses a journal that names a file which SQLite would delete.
fn check_journal(disk: &dyn Disk, journal: &Path) -> Result<()> {
    let Some(Kind::File(len)) = disk.kind(journal)? else { return Ok(()) };
    let mut end = [0; JOURNAL_END_LEN];
    let at = len.saturating_sub(end.len() as u64);
    let read = disk.open(journal, Access::Read)?.read_at(&mut end, at)?;
    if names_another_file(&end[..read]) {
        return Err(Error::new(
            ErrorKind::Invalid,
            "its journal names another file that SQLite would delete",
        ));
    }
    Ok(())
}

/// How many bytes of a file are its database, by its header. What is no database is not copied: it may be as large as the
/// disk. Without a byte it may be one that is still in its write-ahead log.
fn expect_database(disk: &dyn Disk, path: &Path) -> Result<u64> {
    let file = disk.open(path, Access::Read)?;
    let mut header = [0; HEADER_LEN];
    let read = file.read_at(&mut header, 0)?;
    if read > 0 && !header[..read].starts_with(MAGIC) {
        return Err(Error::new(ErrorKind::Corrupt, "this is no SQLite database").at(path));
    }
    let field = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let page_len = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 1 << 16,
        len => u64::from(len),
    };
    let (pages, changes, changes_then) = (field(28), field(24), field(92));
    // As SQLite sees it: a program that did not know of the number of pages has left another count of changes.
    let is_known = read == HEADER_LEN && pages > 0 && changes == changes_then;
    Ok(if is_known { page_len * u64::from(pages) } else { u64::MAX })
}

/// Copies so many bytes of a file, or all that it has.
fn copy_file(disk: &dyn Disk, from: &Path, to: &Path, len: u64) -> Result<()> {
    let source = disk.open(from, Access::Read)?;
    let len = source.len()?.min(len);
    if len > FILE_LEN_MAX {
        return Err(
            Error::new(ErrorKind::TooLarge, "the file is too large for a database of memories").at(from)
        );
    }
    let target = disk.open(to, Access::CreateNew)?;
    let (mut offset, mut part) = (0, vec![0; COPY_LEN]);
    while offset < len {
        let room = usize::try_from(len - offset).unwrap_or(COPY_LEN).min(COPY_LEN);
        let read = source.read_at(&mut part[..room], offset)?;
        if read == 0 {
            break;
        }
        target.write_at(&part[..read], offset)?;
        offset += read as u64;
    }
    Ok(())
}

/// The same error about the file that was copied.
fn at(error: Error, path: &Path) -> Error {
    Error::new(error.kind(), error.message().to_owned()).at(path)
}
