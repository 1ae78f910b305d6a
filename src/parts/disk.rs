//! A disk in memory: it loses power, fails, fills up, transfers less than was asked, and rots.
//!
//! What a file holds and which names there are is kept twice: as programs see it, and as changes on top of what is
//! durable. A power cut keeps any part of those changes, sector by sector; a kill keeps all, and they stay unsynced.
//! Everything that chance decides follows from a seed.

mod bytes;
mod image;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use self::image::{Change, Image};
use self::image::{Entry, Inode};
use super::chance::Chance;
use crate::error::{Error, Result};
use crate::fs::{Access, Disk, DiskFile, Kind, folder_above};

/// The disk is full for a file that would be longer than this: a hostile length must not take all memory.
const FILE_LEN_MAX: usize = 64 << 20;

/// A disk of some files. Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedDisk(Arc<Mutex<State>>);

/// What becomes of the calls from a certain one on. Calls that change something, or sync it, have numbers of their own,
/// and so have those that only read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The power is off: this changing call and all later ones fail.
    PowerCut,
    /// This changing call fails once with this error. A sync that fails drops what it covered.
    Once(io::ErrorKind),
    /// This changing call, if it writes, takes only a part of the bytes.
    Short,
    /// Calls that need space fail from here on.
    Full,
    /// This reading call fails once with this error.
    ReadOnce(io::ErrorKind),
}

#[derive(Debug, Default)]
struct State {
    image: Image,
    locked: BTreeSet<Inode>,
    /// Calls that change something, until now.
    calls: u64,
    /// Calls that only read, until now.
    reads: u64,
    trouble: Option<(u64, Trouble)>,
    /// All through, calls are interrupted and transfers cut short by this chance.
    unsteady: Option<Chance>,
    journal: Option<Vec<Change>>,
}

impl SimulatedDisk {
    /// An empty disk whose folder `root` is there for good.
    pub(crate) fn new(root: &Path) -> Self {
        Self::of(Image::new(root))
    }

    /// A disk on which this is.
    pub(crate) fn of(image: Image) -> Self {
        Self(Arc::new(Mutex::new(State { image, ..State::default() })))
    }

    /// What is on it now. Also what is there after all programs were killed: everything, but nothing of it is more
    /// durable than before.
    pub(crate) fn image(&self) -> Image {
        self.state().image.clone()
    }

    /// Calls that changed something or tried to, until now.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Calls that only read or tried to, until now.
    pub(crate) fn reads(&self) -> u64 {
        self.state().reads
    }

    /// What happens at the call with this number; the next one has the number of [`SimulatedDisk::calls`], or of
    /// [`SimulatedDisk::reads`] where reading is troubled.
    pub(crate) fn plan(&self, call: u64, trouble: Trouble) {
        self.state().trouble = Some((call, trouble));
    }

    /// No trouble from here on.
    pub(crate) fn mend(&self) {
        self.state().trouble = None;
    }

    /// From here on any call may be interrupted, and any transfer may be a part of what was asked.
    pub(crate) fn make_unsteady(&self, chance: Chance) {
        self.state().unsteady = Some(chance);
    }

    /// Keeps the calls that change something from here on.
    pub(crate) fn record(&self) {
        self.state().journal = Some(Vec::new());
    }

    /// The calls since [`SimulatedDisk::record`], which ends with this.
    pub(crate) fn recorded(&self) -> Vec<Change> {
        self.state().journal.take().unwrap_or_default()
    }

    /// Another disk with what is left after the power was cut.
    #[cfg(test)]
    pub(crate) fn after_power_cut(&self, chance: &mut Chance) -> Self {
        Self::of(self.state().image.after_power_cut(chance))
    }

    /// Another disk with what is left after all programs were killed.
    #[cfg(test)]
    pub(crate) fn after_kill(&self) -> Self {
        Self::of(self.image())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes a call that changes something, unless it meets trouble.
    fn call(&mut self, takes_space: bool, change: Change) -> io::Result<()> {
        let number = self.calls;
        self.calls += 1;
        if let Err(kind) = self.trouble_at(number, takes_space) {
            match change {
                // What was on its way when the power went may have reached the disk in part.
                Change::Write(..) | Change::SetLen(..) | Change::MakeReadOnly(_)
                    if self.trouble == Some((number, Trouble::PowerCut)) =>
                {
                    self.image.apply(&change);
                }
                Change::Sync(inode) if kind != io::ErrorKind::Interrupted && !self.has_no_power(number) => {
                    self.image.drop_unsynced(inode, &mut Chance(number));
                }
                _ => {}
            }
            return Err(kind.into());
        }
        self.image.apply(&change);
        if let Some(journal) = &mut self.journal {
            journal.push(change);
        }
        Ok(())
    }

    fn trouble_at(&mut self, number: u64, takes_space: bool) -> Result<(), io::ErrorKind> {
        match self.trouble {
            Some((from, Trouble::PowerCut)) if number >= from => Err(io::ErrorKind::Other),
            Some((at, Trouble::Once(kind))) if number == at => Err(kind),
            Some((from, Trouble::Full)) if number >= from && takes_space => Err(io::ErrorKind::StorageFull),
            _ => Ok(()),
        }
    }

    fn has_no_power(&self, number: u64) -> bool {
        matches!(self.trouble, Some((from, Trouble::PowerCut)) if number >= from)
    }

    /// Counts a call that only reads.
    fn read(&mut self) -> io::Result<()> {
        let number = self.reads;
        self.reads += 1;
        match self.trouble {
            Some((from, Trouble::PowerCut)) if self.calls > from => Err(io::ErrorKind::Other.into()),
            Some((at, Trouble::ReadOnce(kind))) if number == at => Err(kind.into()),
            _ => Ok(()),
        }
    }

    /// Whether a signal comes before a call that is made again then.
    fn signal(&mut self) -> io::Result<()> {
        let comes = self.unsteady.as_mut().is_some_and(|chance| chance.times_in_64(8));
        if comes { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    /// How much of a transfer of this many bytes is done at once.
    fn transferred(&mut self, len: usize, is_planned_short: bool) -> usize {
        if len < 2 {
            return len;
        }
        match &mut self.unsteady {
            Some(chance) => {
                if chance.times_in_64(16) {
                    1 + chance.index(len - 1)
                } else {
                    len
                }
            }
            None if is_planned_short => len / 2,
            None => len,
        }
    }

    fn inode(&self, path: &Path) -> io::Result<Inode> {
        match self.image.names.get(path) {
            Some(Entry::File(inode)) => Ok(*inode),
            Some(Entry::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open(&mut self, path: &Path, access: Access) -> io::Result<Inode> {
        self.read()?;
        match (self.inode(path), access) {
            (Ok(_), Access::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(inode), Access::Write | Access::OpenOrCreate) if self.image.files[inode].is_read_only => {
                Err(io::ErrorKind::PermissionDenied.into())
            }
            (Err(error), Access::CreateNew | Access::OpenOrCreate)
                if error.kind() == io::ErrorKind::NotFound =>
            {
                if self.image.names.get(folder_above(path)) != Some(&Entry::Folder) {
                    return Err(error);
                }
                self.call(true, Change::MakeFile(path.into()))?;
                Ok(self.image.files.len() - 1)
            }
            (found, _) => found,
        }
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>> {
        let inode = self.state().open(path, access).map_err(|error| Error::io("open", path, error))?;
        let (disk, path, has_lock) = (self.clone(), path.to_owned(), Mutex::new(false));
        Ok(Box::new(SimulatedFile { disk, path, inode, has_lock }))
    }

    fn kind(&self, path: &Path) -> Result<Option<Kind>> {
        let mut state = self.state();
        state.read().map_err(|error| Error::io("stat", path, error))?;
        Ok(state.image.names.get(path).map(|entry| match entry {
            Entry::File(inode) => Kind::File(state.image.files[*inode].bytes.len() as u64),
            Entry::Folder => Kind::Folder,
        }))
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let mut state = self.state();
        state.read().map_err(|error| Error::io("list", folder, error))?;
        let in_folder = |path: &Arc<Path>| {
            (path.parent() == Some(folder)).then(|| path.file_name()?.to_str().map(str::to_owned)).flatten()
        };
        Ok(state.image.names.keys().filter_map(in_folder).collect())
    }

    fn create_folder(&self, folder: &Path) -> Result<()> {
        let mut state = self.state();
        if state.image.names.contains_key(folder) {
            return Ok(());
        }
        state
            .call(true, Change::MakeFolder(folder.into()))
            .map_err(|error| Error::io("create folder", folder, error))
    }

    fn check_folder(&self, folder: &Path) -> Result<()> {
        match self.state().image.names.get(folder) {
            Some(Entry::Folder) => Ok(()),
            _ => Err(Error::io("stat", folder, io::ErrorKind::NotADirectory.into())),
        }
    }

    fn rename_once(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.signal()?;
        state.inode(from)?;
        state.call(false, Change::Rename(from.into(), to.into()))
    }

    fn remove_once(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.signal()?;
        state.inode(path)?;
        state.call(false, Change::Remove(path.into()))
    }

    fn sync_folder_once(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.signal()?;
        state.call(false, Change::SyncFolder(folder.into()))
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    path: PathBuf,
    inode: Inode,
    has_lock: Mutex<bool>,
}

impl DiskFile for SimulatedFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        let mut state = self.disk.state();
        state.read().map_err(|error| Error::io("stat", &self.path, error))?;
        Ok(state.image.files[self.inode].bytes.len() as u64)
    }

    fn read_once(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.signal()?;
        state.read()?;
        let len = state.transferred(buffer.len(), false);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(state.image.files[self.inode].bytes.read(offset, &mut buffer[..len]))
    }

    fn write_once(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.signal()?;
        let is_planned_short = state.trouble == Some((state.calls, Trouble::Short));
        let len = state.transferred(bytes.len(), is_planned_short);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if offset.saturating_add(len) > FILE_LEN_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.call(true, Change::Write(self.inode, offset, bytes[..len].into()))?;
        Ok(len)
    }

    fn set_len_once(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.signal()?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > FILE_LEN_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let grows = state.image.files[self.inode].bytes.len() < len;
        state.call(grows, Change::SetLen(self.inode, len))
    }

    fn sync_once(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.signal()?;
        state.call(false, Change::Sync(self.inode))
    }

    fn make_read_only(&self) -> Result<()> {
        self.disk
            .state()
            .call(false, Change::MakeReadOnly(self.inode))
            .map_err(|error| Error::io("chmod", &self.path, error))
    }

    fn is_read_only(&self) -> Result<bool> {
        let mut state = self.disk.state();
        state.read().map_err(|error| Error::io("stat", &self.path, error))?;
        Ok(state.image.files[self.inode].is_read_only)
    }

    fn try_lock(&self) -> Result<bool> {
        let is_free = self.disk.state().locked.insert(self.inode);
        if is_free {
            *self.has_lock.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
        Ok(is_free)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        if *self.has_lock.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.disk.state().locked.remove(&self.inode);
        }
    }
}
