//! A disk that fails on purpose, for tests: the real one, with some calls that give an error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Access, Disk, DiskFile, Kind, RealDisk};
use crate::error::Result;

/// The calls that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    Sync,
    SyncFolder,
    Rename,
    SetLen,
}

/// Planned failures: some calls of this kind give this error.
#[derive(Debug)]
pub(crate) struct Plan {
    call: Call,
    /// Calls of this kind until now.
    calls: AtomicI64,
    first: AtomicI64,
    count: AtomicI64,
    error: io::ErrorKind,
    /// Where calls of this kind came to.
    places: Mutex<Vec<PathBuf>>,
}

impl Plan {
    /// Where calls of this kind came to, until now.
    pub(crate) fn places(&self) -> Vec<PathBuf> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hit(&self, call: Call, path: &Path) -> io::Result<()> {
        if call != self.call {
            return Ok(());
        }
        self.places.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        let past = self.calls.fetch_add(1, Ordering::SeqCst) - self.first.load(Ordering::SeqCst);
        if (0..self.count.load(Ordering::SeqCst)).contains(&past) {
            return Err(self.error.into());
        }
        Ok(())
    }

    /// Fails `count` calls, beginning with the `n`-th from now; 1 is the next.
    pub(crate) fn arm(&self, n: i64, count: i64) {
        self.first.store(self.calls.load(Ordering::SeqCst) + n - 1, Ordering::SeqCst);
        self.count.store(count, Ordering::SeqCst);
    }
}

/// The real disk with planned failures.
#[derive(Debug)]
pub(crate) struct FaultyDisk(pub(crate) Arc<Plan>);

impl FaultyDisk {
    /// A disk that works until its plan is armed.
    pub(crate) fn new(call: Call, error: io::ErrorKind) -> (Self, Arc<Plan>) {
        let plan = Arc::new(Plan {
            call,
            calls: AtomicI64::new(0),
            first: AtomicI64::new(0),
            count: AtomicI64::new(0),
            error,
            places: Mutex::default(),
        });
        (Self(Arc::clone(&plan)), plan)
    }
}

#[derive(Debug)]
struct FaultyFile(Box<dyn DiskFile>, Arc<Plan>);

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>> {
        Ok(Box::new(FaultyFile(RealDisk.open(path, access)?, Arc::clone(&self.0))))
    }

    fn kind(&self, path: &Path) -> Result<Option<Kind>> {
        RealDisk.kind(path)
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        RealDisk.list(folder)
    }

    fn create_folder(&self, folder: &Path) -> Result<()> {
        RealDisk.create_folder(folder)
    }

    fn check_folder(&self, folder: &Path) -> Result<()> {
        RealDisk.check_folder(folder)
    }

    fn rename_once(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.hit(Call::Rename, from)?;
        RealDisk.rename_once(from, to)
    }

    fn remove_once(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_once(path)
    }

    fn sync_folder_once(&self, folder: &Path) -> io::Result<()> {
        self.0.hit(Call::SyncFolder, folder)?;
        RealDisk.sync_folder_once(folder)
    }
}

impl DiskFile for FaultyFile {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn len(&self) -> Result<u64> {
        self.0.len()
    }

    fn read_once(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_once(buffer, offset)
    }

    fn write_once(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.1.hit(Call::Write, self.path())?;
        self.0.write_once(bytes, offset)
    }

    fn set_len_once(&self, len: u64) -> io::Result<()> {
        self.1.hit(Call::SetLen, self.path())?;
        self.0.set_len_once(len)
    }

    fn sync_once(&self) -> io::Result<()> {
        self.1.hit(Call::Sync, self.path())?;
        self.0.sync_once()
    }

    fn make_read_only(&self) -> Result<()> {
        self.0.make_read_only()
    }

    fn is_read_only(&self) -> Result<bool> {
        self.0.is_read_only()
    }

    fn try_lock(&self) -> Result<bool> {
        self.0.try_lock()
    }
}
