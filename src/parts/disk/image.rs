//! What is on a disk: as programs see it, and as changes on top of what is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::super::chance::Chance;
use super::bytes::Bytes;
use crate::fs::folder_above;

/// A file, whatever its name.
pub(super) type Inode = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    File(Inode),
    Folder,
}

/// One call that changes a disk.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    MakeFile(Arc<Path>),
    MakeFolder(Arc<Path>),
    Rename(Arc<Path>, Arc<Path>),
    Remove(Arc<Path>),
    SyncFolder(Arc<Path>),
    Write(Inode, usize, Arc<[u8]>),
    SetLen(Inode, usize),
    Sync(Inode),
    MakeReadOnly(Inode),
}

/// The state of a disk. A clone shares what both hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(super) files: Vec<File>,
    pub(super) names: BTreeMap<Arc<Path>, Entry>,
    durable_names: BTreeMap<Arc<Path>, Entry>,
    /// Changes of names since their folders were synced, in order.
    renames: Vec<Rename>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct File {
    /// As programs see it.
    pub(super) bytes: Bytes,
    durable: Bytes,
    unsynced: Vec<Unsynced>,
    /// A sync failed, so programs may see bytes that are neither durable nor on their way.
    has_lost: bool,
    pub(super) is_read_only: bool,
}

#[derive(Clone, Debug)]
enum Unsynced {
    Write(usize, Arc<[u8]>),
    Len(usize),
}

/// Names that change together or not at all.
#[derive(Clone, Debug)]
struct Rename {
    names: Vec<(Arc<Path>, Option<Entry>)>,
}

impl Rename {
    fn apply(&self, names: &mut BTreeMap<Arc<Path>, Entry>) {
        for (path, entry) in &self.names {
            match entry {
                Some(entry) => _ = names.insert(Arc::clone(path), *entry),
                None => _ = names.remove(path),
            }
        }
    }

    /// Syncing any of its folders makes a change durable, as on a file system with a journal.
    fn is_in(&self, folder: &Path) -> bool {
        self.names.iter().any(|(path, _)| folder_above(path) == folder)
    }
}

impl Image {
    /// A disk with this folder, which is there for good.
    pub(super) fn new(root: &Path) -> Self {
        let names = BTreeMap::from([(Arc::from(root), Entry::Folder)]);
        Self { durable_names: names.clone(), names, ..Self::default() }
    }

    /// Does what the call does.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::MakeFile(path) => {
                self.files.push(File::default());
                self.rename(vec![(Arc::clone(path), Some(Entry::File(self.files.len() - 1)))]);
            }
            Change::MakeFolder(path) => self.rename(vec![(Arc::clone(path), Some(Entry::Folder))]),
            Change::Rename(from, to) => {
                let entry = self.names.get(from).copied();
                self.rename(vec![(Arc::clone(from), None), (Arc::clone(to), entry)]);
            }
            Change::Remove(path) => self.rename(vec![(Arc::clone(path), None)]),
            Change::SyncFolder(folder) => {
                let (now, later): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.renames).into_iter().partition(|rename| rename.is_in(folder));
                now.iter().for_each(|rename| rename.apply(&mut self.durable_names));
                self.renames = later;
            }
            Change::Write(inode, offset, new) => {
                let file = &mut self.files[*inode];
                file.bytes.write(*offset, new);
                file.unsynced.push(Unsynced::Write(*offset, Arc::clone(new)));
            }
            Change::SetLen(inode, len) => {
                let file = &mut self.files[*inode];
                file.bytes.set_len(*len);
                file.unsynced.push(Unsynced::Len(*len));
            }
            Change::Sync(inode) => {
                let file = &mut self.files[*inode];
                file.durable = file.synced();
                file.unsynced.clear();
            }
            Change::MakeReadOnly(inode) => self.files[*inode].is_read_only = true,
        }
    }

    fn rename(&mut self, names: Vec<(Arc<Path>, Option<Entry>)>) {
        let rename = Rename { names };
        rename.apply(&mut self.names);
        self.renames.push(rename);
    }

    /// A sync that failed: the system takes its pages for clean, and a later sync does not write them. Any part of them
    /// may have come to the disk.
    pub(super) fn drop_unsynced(&mut self, inode: Inode, chance: &mut Chance) {
        let file = &mut self.files[inode];
        let luck = Luck::draw(chance);
        file.durable = file.survivor(chance, &luck);
        file.unsynced.clear();
        file.has_lost = true;
    }

    /// What is there after the power was cut: of what was not synced, chance keeps any part.
    pub(crate) fn after_power_cut(&self, chance: &mut Chance) -> Self {
        let luck = Luck::draw(chance);
        let mut names = self.durable_names.clone();
        for rename in &self.renames {
            if luck.keeps(chance) {
                rename.apply(&mut names);
            }
        }
        // A name that is kept while its folder is not leads nowhere.
        let there = names.clone();
        names.retain(|path, _| {
            path.ancestors().skip(1).all(|above| !self.names.contains_key(above) || there.contains_key(above))
        });
        let files = self.files.iter().map(|file| {
            let bytes = file.survivor(chance, &luck);
            File { durable: bytes.clone(), bytes, is_read_only: file.is_read_only, ..File::default() }
        });
        Self { files: files.collect(), durable_names: names.clone(), names, renames: Vec::new() }
    }

    /// Damages one file that a name stands for: flips a bit, or makes a sector or a page zeros. Says what it did;
    /// nothing when there is no byte to damage.
    pub(crate) fn rot(&mut self, chance: &mut Chance) -> Option<String> {
        let there = self.names.iter().filter_map(|(path, entry)| match entry {
            Entry::File(inode) if self.files[*inode].bytes.len() > 0 => Some((Arc::clone(path), *inode)),
            _ => None,
        });
        let there: Vec<_> = there.collect();
        let (path, inode) = there.get(chance.index(there.len().max(1)))?;
        let bytes = &mut self.files[*inode].bytes;
        let mut offset = chance.index(bytes.len());
        // Much is zeros that nobody reads: look for something else a few times.
        for _ in 0..chance.below(8) {
            let mut byte = [0];
            bytes.read(offset, &mut byte);
            if byte != [0] {
                break;
            }
            offset = chance.index(bytes.len());
        }
        let what = match chance.below(4) {
            0 | 1 => {
                let bit = chance.below(8);
                bytes.fill(offset, 1, |byte| byte[0] ^= 1 << bit);
                format!("bit {bit} of byte {offset}")
            }
            kind => {
                let block = if kind == 2 { 512 } else { 4096 };
                let start = offset / block * block;
                let len = block.min(bytes.len() - start);
                bytes.fill(start, len, |block| block.fill(0));
                format!("{len} bytes at {start}")
            }
        };
        let file = &mut self.files[*inode];
        file.durable = file.bytes.clone();
        file.unsynced.clear();
        Some(format!("{what} of {}", path.display()))
    }

    /// The name of the first file or folder that is not the same here and there, but for those that `passes` names.
    pub(crate) fn difference(&self, other: &Self, passes: impl Fn(&Path) -> bool) -> Option<Arc<Path>> {
        let names: BTreeSet<_> = self.names.keys().chain(other.names.keys()).collect();
        let content = |image: &'_ Self, path: &Path| match image.names.get(path) {
            Some(Entry::File(inode)) => Some(Some(image.files[*inode].bytes.clone())),
            Some(Entry::Folder) => Some(None),
            None => None,
        };
        let differs = |path: &&Arc<Path>| !passes(path) && content(self, path) != content(other, path);
        names.into_iter().find(differs).map(Arc::clone)
    }

    /// A number that a disk with other names or files hardly has.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut sum = Chance(self.names.len() as u64);
        for (path, entry) in &self.names {
            let content = match entry {
                Entry::File(inode) => self.files[*inode].bytes.fingerprint(),
                Entry::Folder => 0,
            };
            for byte in path.as_os_str().as_encoded_bytes() {
                sum.0 = sum.0.rotate_left(7) ^ u64::from(*byte);
            }
            sum = Chance(sum.next() ^ content);
        }
        sum.0
    }

    /// Whether a kill in the middle of this call may leave a part of it: where the system writes more than one page.
    pub(crate) fn part_of(change: &Change, chance: &mut Chance) -> Option<Change> {
        match change {
            Change::Write(inode, offset, new) if new.len() > 4096 => {
                let pages = 1 + chance.index(new.len() / 4096);
                let len = (pages * 4096 - offset % 4096).min(new.len() - 1);
                Some(Change::Write(*inode, *offset, new[..len].into()))
            }
            _ => None,
        }
    }
}

/// How much of what was not synced is on the disk after a power cut.
struct Luck {
    kept_in_8: u64,
    /// What a disk writes whole or not at all.
    sector: usize,
}

impl Luck {
    /// Most disks keep nearly all, or little; sectors are torn at 512 bytes or at 4 KiB.
    fn draw(chance: &mut Chance) -> Self {
        Self { kept_in_8: chance.below(9), sector: if chance.below(2) == 0 { 512 } else { 4096 } }
    }

    fn keeps(&self, chance: &mut Chance) -> bool {
        chance.below(8) < self.kept_in_8
    }
}

impl File {
    /// What is durable after a sync that is good. It does not bring back what one before it lost.
    fn synced(&self) -> Bytes {
        if self.has_lost {
            self.survivor(&mut Chance(0), &Luck { kept_in_8: 8, sector: 1 << 30 })
        } else {
            self.bytes.clone()
        }
    }

    /// What is durable when chance keeps any part of what is on its way.
    fn survivor(&self, chance: &mut Chance, luck: &Luck) -> Bytes {
        let mut bytes = self.durable.clone();
        for change in &self.unsynced {
            match change {
                Unsynced::Len(len) => {
                    if luck.keeps(chance) {
                        bytes.set_len(*len);
                    }
                }
                Unsynced::Write(offset, new) => {
                    let mut at = 0;
                    while at < new.len() {
                        let end =
                            ((offset + at) / luck.sector * luck.sector + luck.sector - offset).min(new.len());
                        if luck.keeps(chance) {
                            bytes.write(offset + at, &new[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        bytes
    }
}
