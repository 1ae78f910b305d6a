//! A disk in memory that loses power, for tests: what was not synced is lost, torn or reordered.
//!
//! What a file holds and which names there are is kept twice: as programs see it, and as changes on top of what is
//! durable. A power cut keeps any part of those changes, sector by sector; a kill keeps all, and they stay undone.
//! Everything that chance decides follows from a seed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Access, Disk, DiskFile, Kind, folder_above};
use crate::error::{Error, Result};

/// A disk of some files. Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedDisk(Arc<Mutex<State>>);

/// A file, whatever its name.
type Inode = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    File(Inode),
    Folder,
}

/// What becomes of the calls from a certain one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The power is off: this call and all later ones fail.
    PowerCut,
    /// This call fails once with this error. A sync that fails drops what it covered.
    Once(io::ErrorKind),
    /// Calls that need space fail from here on.
    Full,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<File>,
    names: BTreeMap<PathBuf, Entry>,
    durable_names: BTreeMap<PathBuf, Entry>,
    /// Changes of names since their folders were synced, in order.
    renames: Vec<Rename>,
    /// Calls that change something, until now.
    calls: u64,
    trouble: Option<(u64, Trouble)>,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// As programs see it.
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    is_locked: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

/// Names that change together or not at all.
#[derive(Clone, Debug)]
struct Rename {
    /// Syncing any of them makes the change durable, as on a file system with a journal.
    folders: Vec<PathBuf>,
    names: Vec<(PathBuf, Option<Entry>)>,
}

/// Chance that can be repeated (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

impl SimulatedDisk {
    /// An empty disk whose folder `root` is there for good.
    pub(crate) fn new(root: &Path) -> Self {
        let mut state = State::default();
        state.names.insert(root.to_owned(), Entry::Folder);
        state.durable_names = state.names.clone();
        Self(Arc::new(Mutex::new(state)))
    }

    /// Calls that changed something or tried to, until now.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// What happens at the call with this number; the next one has the number of [`SimulatedDisk::calls`].
    pub(crate) fn plan(&self, call: u64, trouble: Trouble) {
        self.state().trouble = Some((call, trouble));
    }

    /// What is on the disk after the power was cut, which is another disk: of what was not synced, chance keeps any
    /// part.
    pub(crate) fn after_power_cut(&self, chance: &mut Chance) -> Self {
        let state = self.state();
        // Most disks keep nearly all, or little; sectors are torn at 512 bytes or at 4 KiB.
        let (kept_in_8, sector) = (chance.below(9), if chance.below(2) == 0 { 512 } else { 4096 });
        let mut keeps = || chance.below(8) < kept_in_8;
        let mut names = state.durable_names.clone();
        for rename in state.renames.iter().filter(|_| keeps()) {
            apply_names(&mut names, &rename.names);
        }
        // A name that is kept while its folder is not leads nowhere.
        let there = names.clone();
        names.retain(|path, _| {
            path.ancestors().skip(1).all(|above| !is_made(&state, above) || there.contains_key(above))
        });
        let mut chance = Chance(chance.next());
        let files =
            state.files.iter().map(|file| file.after_power_cut(&mut chance, kept_in_8, sector)).collect();
        Self::of(files, names)
    }

    /// What is on the disk after all programs were killed: everything, but nothing of it is more durable than before.
    pub(crate) fn after_kill(&self) -> Self {
        let state = self.state();
        let files = state.files.iter().map(|file| File { is_locked: false, ..file.clone() }).collect();
        let killed = State {
            files,
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            renames: state.renames.clone(),
            calls: 0,
            trouble: None,
        };
        Self(Arc::new(Mutex::new(killed)))
    }

    /// No trouble from here on.
    pub(crate) fn mend(&self) {
        self.state().trouble = None;
    }

    fn of(files: Vec<File>, names: BTreeMap<PathBuf, Entry>) -> Self {
        let durable_names = names.clone();
        Self(Arc::new(Mutex::new(State { files, names, durable_names, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this folder was made on this disk, and not there from the start.
fn is_made(state: &State, folder: &Path) -> bool {
    state
        .renames
        .iter()
        .any(|rename| rename.names.iter().any(|(path, entry)| path == folder && entry.is_some()))
}

fn apply_names(names: &mut BTreeMap<PathBuf, Entry>, changes: &[(PathBuf, Option<Entry>)]) {
    for (path, entry) in changes {
        match entry {
            Some(entry) => _ = names.insert(path.clone(), *entry),
            None => _ = names.remove(path),
        }
    }
}

impl File {
    fn after_power_cut(&self, chance: &mut Chance, kept_in_8: u64, sector: usize) -> Self {
        let mut bytes = self.durable.clone();
        for change in &self.unsynced {
            match change {
                Change::Len(len) => {
                    if chance.below(8) < kept_in_8 {
                        bytes.resize(*len, 0);
                    }
                }
                Change::Write(offset, new) => {
                    let mut at = 0;
                    while at < new.len() {
                        let end = ((offset + at) / sector * sector + sector - offset).min(new.len());
                        if chance.below(8) < kept_in_8 {
                            put(&mut bytes, offset + at, &new[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        Self { durable: bytes.clone(), bytes, ..Self::default() }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    let end = offset + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(new);
}

impl State {
    /// Counts a call and gives the error that is planned for it.
    fn call(&mut self, operation: &'static str, path: &Path, takes_space: bool) -> Result<()> {
        let number = self.calls;
        self.calls += 1;
        let kind = match self.trouble {
            Some((from, Trouble::PowerCut)) if number >= from => io::ErrorKind::Other,
            Some((at, Trouble::Once(kind))) if number == at => kind,
            Some((from, Trouble::Full)) if number >= from && takes_space => io::ErrorKind::StorageFull,
            _ => return Ok(()),
        };
        Err(Error::io(operation, path, kind.into()))
    }

    /// Reading fails only without power.
    fn read(&self, operation: &'static str, path: &Path) -> Result<()> {
        match self.trouble {
            Some((from, Trouble::PowerCut)) if self.calls > from => {
                Err(Error::io(operation, path, io::ErrorKind::Other.into()))
            }
            _ => Ok(()),
        }
    }

    fn file(&self, operation: &'static str, path: &Path) -> Result<Inode> {
        match self.names.get(path) {
            Some(Entry::File(inode)) => Ok(*inode),
            Some(Entry::Folder) => Err(Error::io(operation, path, io::ErrorKind::IsADirectory.into())),
            None => Err(Error::io(operation, path, io::ErrorKind::NotFound.into())),
        }
    }

    fn rename(&mut self, names: Vec<(PathBuf, Option<Entry>)>) {
        apply_names(&mut self.names, &names);
        let folders = names.iter().map(|(path, _)| folder_above(path).to_owned()).collect();
        self.renames.push(Rename { folders, names });
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.read("open", path)?;
        let inode = match (state.file("open", path), access) {
            (Ok(_), Access::CreateNew) => {
                return Err(Error::io("create", path, io::ErrorKind::AlreadyExists.into()));
            }
            (Err(_), Access::CreateNew | Access::OpenOrCreate) if !state.names.contains_key(path) => {
                if state.names.get(folder_above(path)) != Some(&Entry::Folder) {
                    return Err(Error::io("create", path, io::ErrorKind::NotFound.into()));
                }
                state.call("create", path, true)?;
                state.files.push(File::default());
                let inode = state.files.len() - 1;
                state.rename(vec![(path.to_owned(), Some(Entry::File(inode)))]);
                inode
            }
            (found, _) => found?,
        };
        Ok(Box::new(SimulatedFile {
            disk: self.clone(),
            path: path.to_owned(),
            inode,
            has_lock: Mutex::new(false),
        }))
    }

    fn kind(&self, path: &Path) -> Result<Option<Kind>> {
        let state = self.state();
        state.read("look at", path)?;
        Ok(state.names.get(path).map(|entry| match entry {
            Entry::File(inode) => Kind::File(state.files[*inode].bytes.len() as u64),
            Entry::Folder => Kind::Folder,
        }))
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let state = self.state();
        state.read("list", folder)?;
        let in_folder = |path: &PathBuf| {
            (path.parent() == Some(folder)).then(|| path.file_name()?.to_str().map(str::to_owned)).flatten()
        };
        Ok(state.names.keys().filter_map(in_folder).collect())
    }

    fn create_folder(&self, folder: &Path) -> Result<()> {
        let mut state = self.state();
        if state.names.contains_key(folder) {
            return Ok(());
        }
        state.call("create folder", folder, true)?;
        state.rename(vec![(folder.to_owned(), Some(Entry::Folder))]);
        Ok(())
    }

    fn check_folder(&self, folder: &Path) -> Result<()> {
        match self.state().names.get(folder) {
            Some(Entry::Folder) => Ok(()),
            _ => Err(Error::io("look at", folder, io::ErrorKind::NotADirectory.into())),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = self.state();
        state.call("rename", from, false)?;
        let inode = state.file("rename", from)?;
        let names = vec![(from.to_owned(), None), (to.to_owned(), Some(Entry::File(inode)))];
        state.rename(names);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut state = self.state();
        state.call("remove", path, false)?;
        state.file("remove", path)?;
        state.rename(vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> Result<()> {
        let mut state = self.state();
        state.call("sync folder", folder, false)?;
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut state.renames)
            .into_iter()
            .partition(|rename| rename.folders.iter().any(|one| one == folder));
        for rename in &now {
            apply_names(&mut state.durable_names, &rename.names);
        }
        state.renames = later;
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    path: PathBuf,
    inode: Inode,
    has_lock: Mutex<bool>,
}

impl SimulatedFile {
    fn change(
        &self,
        operation: &'static str,
        takes_space: bool,
        change: impl FnOnce(&mut File),
    ) -> Result<()> {
        let mut state = self.disk.state();
        let number = state.calls;
        let called = state.call(operation, &self.path, takes_space);
        // What was on its way when the power went may have reached the disk in part.
        if called.is_ok() || state.trouble == Some((number, Trouble::PowerCut)) {
            change(&mut state.files[self.inode]);
        }
        called
    }
}

impl DiskFile for SimulatedFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        let state = self.disk.state();
        state.read("look at", &self.path)?;
        Ok(state.files[self.inode].bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let state = self.disk.state();
        state.read("read", &self.path)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = state.files[self.inode].bytes.get(offset..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let offset = usize::try_from(offset).expect("tests write little");
        self.change("write", true, |file| {
            put(&mut file.bytes, offset, bytes);
            file.unsynced.push(Change::Write(offset, bytes.to_vec()));
        })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let len = usize::try_from(len).expect("tests write little");
        let grows = self.len()? < len as u64;
        self.change("set the length of", grows, |file| {
            file.bytes.resize(len, 0);
            file.unsynced.push(Change::Len(len));
        })
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.disk.state();
        let synced = state.call("sync", &self.path, false);
        let has_power = !matches!(state.trouble, Some((from, Trouble::PowerCut)) if state.calls > from);
        let file = &mut state.files[self.inode];
        if synced.is_ok() {
            file.durable.clone_from(&file.bytes);
        }
        if has_power {
            // Also after a failure: the system takes its pages for clean, and a later sync does not write them.
            file.unsynced.clear();
        }
        synced
    }

    fn make_read_only(&self) -> Result<()> {
        self.change("change the mode of", false, |_| {})
    }

    fn try_lock(&self) -> Result<bool> {
        let mut state = self.disk.state();
        let file = &mut state.files[self.inode];
        if file.is_locked {
            return Ok(false);
        }
        file.is_locked = true;
        *self.has_lock.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(true)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        if *self.has_lock.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.disk.state().files[self.inode].is_locked = false;
        }
    }
}
