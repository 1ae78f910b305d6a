//! A disk that is only read: what is written to it stays in memory, on top of what is there.
//!
//! So a store on a medium that cannot be written recovers and opens as any other, and its files stay as they are.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Access, Disk, DiskFile, Kind, Mapped, as_io, not_a_file};
use crate::error::{Error, Result};

const PAGE_LEN: usize = 4096;

/// A disk on top of another one, which it never changes. Syncing has nothing to do.
#[derive(Debug)]
pub(crate) struct OverlayDisk {
    base: Arc<dyn Disk>,
    /// Names that are otherwise than on the disk below.
    names: Mutex<BTreeMap<PathBuf, Option<Entry>>>,
}

#[derive(Clone, Debug)]
enum Entry {
    File(Arc<Mutex<Content>>),
    Folder,
}

/// A file of the disk below, if it is one, with pages that were written since.
#[derive(Debug)]
struct Content {
    base: Option<Box<dyn DiskFile>>,
    /// Behind this nothing of the file below counts.
    base_len: u64,
    len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE_LEN]>>,
}

#[derive(Debug)]
struct OverlayFile {
    path: PathBuf,
    content: Arc<Mutex<Content>>,
}

impl OverlayDisk {
    pub(crate) fn new(base: Arc<dyn Disk>) -> Self {
        Self { base, names: Mutex::default() }
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Option<Entry>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, path: &Path, access: Access) -> Result<Arc<Mutex<Content>>> {
        let failed = |kind: io::ErrorKind| Error::io("open", path, kind.into());
        let mut names = self.names();
        let known = names.get(path).cloned();
        let entry = match known {
            Some(entry) => entry,
            None => match self.base.kind(path)? {
                None => None,
                Some(Kind::File(_)) => {
                    let base = self.base.open(path, Access::Read)?;
                    let len = base.len()?;
                    let content = Content { base: Some(base), base_len: len, len, pages: BTreeMap::new() };
                    Some(Entry::File(Arc::new(Mutex::new(content))))
                }
                Some(kind) => return Err(not_a_file(path, kind)),
            },
        };
        match entry {
            Some(Entry::File(_)) if access == Access::CreateNew => Err(failed(io::ErrorKind::AlreadyExists)),
            Some(Entry::File(content)) => {
                names.insert(path.to_owned(), Some(Entry::File(Arc::clone(&content))));
                Ok(content)
            }
            Some(Entry::Folder) => Err(not_a_file(path, Kind::Folder)),
            None if matches!(access, Access::Read | Access::Write) => Err(failed(io::ErrorKind::NotFound)),
            None => {
                let content = Content { base: None, base_len: 0, len: 0, pages: BTreeMap::new() };
                let content = Arc::new(Mutex::new(content));
                names.insert(path.to_owned(), Some(Entry::File(Arc::clone(&content))));
                Ok(content)
            }
        }
    }
}

impl Disk for OverlayDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>> {
        Ok(Box::new(OverlayFile { path: path.to_owned(), content: self.file(path, access)? }))
    }

    fn map(&self, path: &Path) -> Result<Mapped> {
        if self.names().contains_key(path) {
            return Mapped::copy(&*self.open(path, Access::Read)?);
        }
        self.base.map(path)
    }

    fn kind(&self, path: &Path) -> Result<Option<Kind>> {
        match self.names().get(path) {
            Some(Some(Entry::File(content))) => Ok(Some(Kind::File(locked(content).len))),
            Some(Some(Entry::Folder)) => Ok(Some(Kind::Folder)),
            Some(None) => Ok(None),
            None => self.base.kind(path),
        }
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let names = self.names();
        let is_made = matches!(names.get(folder), Some(Some(Entry::Folder)));
        let mut list = if is_made { Vec::new() } else { self.base.list(folder)? };
        for (path, entry) in names.iter().filter(|(path, _)| path.parent() == Some(folder)) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            list.retain(|other| other != name);
            if entry.is_some() {
                list.push(name.to_owned());
            }
        }
        list.sort_unstable();
        Ok(list)
    }

    fn create_folder(&self, folder: &Path) -> Result<()> {
        if self.kind(folder)?.is_none() {
            self.names().insert(folder.to_owned(), Some(Entry::Folder));
        }
        Ok(())
    }

    fn check_folder(&self, folder: &Path) -> Result<()> {
        if self.names().contains_key(folder) { Ok(()) } else { self.base.check_folder(folder) }
    }

    fn rename_once(&self, from: &Path, to: &Path) -> io::Result<()> {
        let content = self.file(from, Access::Write).map_err(as_io)?;
        let mut names = self.names();
        names.insert(to.to_owned(), Some(Entry::File(content)));
        names.insert(from.to_owned(), None);
        Ok(())
    }

    fn remove_once(&self, path: &Path) -> io::Result<()> {
        self.file(path, Access::Write).map_err(as_io)?;
        self.names().insert(path.to_owned(), None);
        Ok(())
    }

    fn sync_folder_once(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl Content {
    /// Bytes of one page from an offset on, and how many of them the file has.
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let within = (offset % PAGE_LEN as u64) as usize;
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buffer.len().min(PAGE_LEN - within).min(left);
        let buffer = &mut buffer[..len];
        if let Some(page) = self.pages.get(&(offset / PAGE_LEN as u64)) {
            buffer.copy_from_slice(&page[within..within + len]);
            return Ok(len);
        }
        buffer.fill(0);
        let of_base = usize::try_from(self.base_len.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        if let Some(base) = self.base.as_ref().filter(|_| of_base > 0) {
            base.read_at(&mut buffer[..of_base], offset)?;
        }
        Ok(len)
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<usize> {
        let (number, within) = (offset / PAGE_LEN as u64, (offset % PAGE_LEN as u64) as usize);
        let len = bytes.len().min(PAGE_LEN - within);
        if !self.pages.contains_key(&number) {
            let mut page = Box::new([0; PAGE_LEN]);
            self.read(&mut page[..], number * PAGE_LEN as u64)?;
            self.pages.insert(number, page);
        }
        let page = self.pages.get_mut(&number).expect("just made");
        page[within..within + len].copy_from_slice(&bytes[..len]);
        self.len = self.len.max(offset + len as u64);
        Ok(len)
    }

    fn set_len(&mut self, len: u64) -> Result<()> {
        if len < self.len {
            self.base_len = self.base_len.min(len);
            self.pages.split_off(&len.div_ceil(PAGE_LEN as u64));
            let within = (len % PAGE_LEN as u64) as usize;
            if let Some(page) = self.pages.get_mut(&(len / PAGE_LEN as u64)) {
                page[within..].fill(0);
            }
        }
        self.len = len;
        Ok(())
    }
}

impl DiskFile for OverlayFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        Ok(locked(&self.content).len)
    }

    fn read_once(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        locked(&self.content).read(buffer, offset).map_err(super::as_io)
    }

    fn write_once(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        locked(&self.content).write(bytes, offset).map_err(super::as_io)
    }

    fn set_len_once(&self, len: u64) -> io::Result<()> {
        locked(&self.content).set_len(len).map_err(super::as_io)
    }

    fn sync_once(&self) -> io::Result<()> {
        Ok(())
    }

    fn make_read_only(&self) -> Result<()> {
        Ok(())
    }

    fn is_read_only(&self) -> Result<bool> {
        locked(&self.content).base.as_ref().map_or(Ok(false), |base| base.is_read_only())
    }

    fn try_lock(&self) -> Result<bool> {
        // The lock of the file below also keeps those away who would change it.
        locked(&self.content).base.as_ref().map_or(Ok(true), |base| base.try_lock())
    }
}

fn locked(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::RealDisk;
    use super::*;

    fn read(disk: &dyn Disk, path: &Path) -> Vec<u8> {
        super::super::read_small(disk, path, 1 << 20).expect("read").expect("there")
    }

    #[test]
    fn what_is_written_is_read_and_the_disk_below_stays_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let (kept, new, made) =
            (folder.path().join("kept"), folder.path().join("new"), folder.path().join("made"));
        let whole: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        std::fs::write(&kept, &whole).expect("write");
        let disk = OverlayDisk::new(Arc::new(RealDisk));
        let file = disk.open(&kept, Access::Write).expect("open");
        file.write_at(&[0xFF; 5000], 4000).expect("write");
        let mut expected = whole.clone();
        expected[4000..9000].fill(0xFF);
        assert_eq!(read(&disk, &kept), expected);
        // Cut and made longer again: what was behind the cut is gone.
        file.set_len(6000).expect("cut");
        file.set_len(12_000).expect("longer");
        expected.truncate(6000);
        expected.resize(12_000, 0);
        assert_eq!(read(&disk, &kept), expected);
        disk.rename(&kept, &new).expect("rename");
        disk.create_folder(&made).expect("folder");
        disk.open(&made.join("inside"), Access::CreateNew).expect("new").write_at(b"x", 0).expect("write");
        assert_eq!(disk.list(folder.path()).expect("list"), ["made", "new"]);
        assert_eq!(disk.list(&made).expect("list"), ["inside"]);
        assert!(disk.open(&kept, Access::Read).is_err());
        assert!(disk.open(&new, Access::CreateNew).is_err());
        disk.remove(&new).expect("remove");
        assert_eq!(disk.kind(&new).expect("kind"), None);
        assert_eq!(std::fs::read(&kept).expect("read"), whole);
        assert_eq!(folder.path().read_dir().expect("list").count(), 1);
    }
}
