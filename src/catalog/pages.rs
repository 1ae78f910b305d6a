//! redb's storage with a checksum for each page: no byte from the disk reaches redb unchecked.
//!
//! redb writes whole pages, never over a page that its last commit needs, and its header. A page's checksum is kept
//! in memory and reaches the file with the next sync, so it is on stable storage whenever redb counts on the page.
//! The header shares a sector with its checksum: both are written or neither is. After a crash a page that the last
//! commit does not need may stand beside the checksum of its former bytes; redb writes such a page before it reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{BackendError, StorageBackend};

use crate::format::Damage;
use crate::format::pages::{
    FILE_HEADER_LEN, GROUP_PAGES, PAGE_LEN, SECTOR_LEN, STATE_LEN, STATE_SECTOR_OFFSET, check_file_header,
    decode_state, encode_file_header, encode_state, file_len, page_count, page_offset, page_sum, sums_offset,
};

/// Bytes of the view's file that are not what was written.
#[derive(Debug)]
pub(super) struct PageDamage {
    /// Offset in the file.
    pub(super) offset: u64,
    pub(super) damage: Damage,
}

impl fmt::Display for PageDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page: {}", self.damage)
    }
}

impl std::error::Error for PageDamage {}

fn damaged(offset: u64, damage: Damage) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, PageDamage { offset, damage })
}

/// The error of pages whose successor has the file.
fn opened_anew() -> io::Error {
    io::Error::other("the view was opened anew")
}

/// A file of checked pages over any storage. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    file: Arc<PagesFile>,
}

#[derive(Debug)]
struct PagesFile {
    storage: Arc<dyn StorageBackend>,
    sums: OnceLock<RwLock<Sums>>,
    /// Whether the disk refused a write or a sync. What the last commit needs is on it nevertheless.
    write_failed: AtomicBool,
    /// Whether a successor has the storage. Held for reading while something is written.
    retired: RwLock<bool>,
}

#[derive(Debug)]
struct Sums {
    /// redb's header.
    state: [u8; STATE_LEN],
    /// The checksum of each page; 0 for one that was never written.
    of_pages: Vec<u32>,
    /// Groups whose checksums have changed since they were written.
    unwritten: BTreeSet<u64>,
}

impl Sums {
    /// Makes the file in an empty storage.
    fn create(storage: &dyn StorageBackend) -> io::Result<Self> {
        storage.set_len(file_len(0))?;
        storage.write(0, &encode_file_header())?;
        Ok(Self { state: [0; STATE_LEN], of_pages: Vec::new(), unwritten: BTreeSet::new() })
    }

    fn load(storage: &dyn StorageBackend, len: u64) -> io::Result<Self> {
        if len < PAGE_LEN {
            return Err(damaged(len, Damage::Short { found: len as usize, expected: PAGE_LEN as usize }));
        }
        let mut header = [0; FILE_HEADER_LEN];
        storage.read(0, &mut header)?;
        check_file_header(&header).map_err(|damage| damaged(0, damage))?;
        let mut sector = [0; SECTOR_LEN];
        storage.read(STATE_SECTOR_OFFSET, &mut sector)?;
        let state = decode_state(&sector).map_err(|damage| damaged(STATE_SECTOR_OFFSET, damage))?;
        let pages =
            page_count(len).ok_or_else(|| damaged(len, Damage::Field { name: "file length", found: len }))?;

        let mut of_pages = Vec::new();
        let mut of_group = [0; PAGE_LEN as usize];
        for group in 0..pages.div_ceil(GROUP_PAGES) {
            storage.read(sums_offset(group), &mut of_group)?;
            let (sums, _) = of_group.as_chunks::<4>();
            of_pages.extend(sums.iter().map(|sum| u32::from_le_bytes(*sum)));
        }
        of_pages.truncate(pages as usize);
        Ok(Self { state, of_pages, unwritten: BTreeSet::new() })
    }
}

impl Pages {
    /// The file in a storage; an empty storage becomes an empty file.
    pub(super) fn new(storage: impl StorageBackend) -> Self {
        Self::on(Arc::new(storage))
    }

    fn on(storage: Arc<dyn StorageBackend>) -> Self {
        let file = PagesFile {
            storage,
            sums: OnceLock::new(),
            write_failed: AtomicBool::new(false),
            retired: RwLock::new(false),
        };
        Self { file: Arc::new(file) }
    }

    /// The same file as it is on the disk. From here on nothing is written through this value and its clones; what is
    /// read through them is what they wrote, or an error.
    pub(super) fn successor(&self) -> Self {
        *self.file.retired.write().unwrap_or_else(PoisonError::into_inner) = true;
        Self::on(Arc::clone(&self.file.storage))
    }

    /// Whether the disk refused something that was written.
    pub(super) fn write_failed(&self) -> bool {
        self.file.write_failed.load(Ordering::SeqCst)
    }

    fn is_retired(&self) -> bool {
        *self.file.retired.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what writes, and remembers whether the disk refused it.
    fn writing<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let retired = self.file.retired.read().unwrap_or_else(PoisonError::into_inner);
        if *retired {
            return Err(opened_anew());
        }
        write().inspect_err(|_| self.file.write_failed.store(true, Ordering::SeqCst))
    }

    fn storage(&self) -> &dyn StorageBackend {
        &*self.file.storage
    }

    /// The checksums, which are read when they are first used: by then redb has locked the file.
    fn sums(&self) -> io::Result<&RwLock<Sums>> {
        if let Some(sums) = self.file.sums.get() {
            return Ok(sums);
        }
        let sums = match self.storage().len()? {
            0 => Sums::create(self.storage())?,
            len => Sums::load(self.storage(), len)?,
        };
        Ok(self.file.sums.get_or_init(|| RwLock::new(sums)))
    }

    fn read_sums(&self) -> io::Result<RwLockReadGuard<'_, Sums>> {
        Ok(self.sums()?.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write_sums(&self) -> io::Result<RwLockWriteGuard<'_, Sums>> {
        Ok(self.sums()?.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads whole pages whose checksums hold.
    pub(super) fn read_pages(&self, first: u64, out: &mut [u8]) -> io::Result<()> {
        for (page, bytes) in spans(first, out.len()) {
            let out = &mut out[bytes];
            self.storage().read(page_offset(page), out)?;
            self.check(page, out)?;
        }
        Ok(())
    }

    /// Reads whole pages, some of which may never have been written. See [`Pages::check`].
    pub(super) fn read_unchecked(&self, first: u64, out: &mut [u8]) -> io::Result<()> {
        spans(first, out.len())
            .try_for_each(|(page, bytes)| self.storage().read(page_offset(page), &mut out[bytes]))
    }

    /// Whether the checksums of pages hold, that were just read.
    pub(super) fn check(&self, first: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_pages(first, bytes).map_err(|error| if self.is_retired() { opened_anew() } else { error })
    }

    fn check_pages(&self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let sums = self.read_sums()?;
        for (bytes, page) in bytes.chunks(PAGE_LEN as usize).zip(first..) {
            let stored = sums.of_pages.get(page as usize).copied().unwrap_or(0);
            let computed = page_sum(page, bytes);
            if stored != computed {
                return Err(damaged(page_offset(page), Damage::Checksum { stored, computed }));
            }
        }
        Ok(())
    }

    fn write_pages(&self, first: u64, data: &[u8]) -> io::Result<()> {
        let end = first + data.len() as u64 / PAGE_LEN;
        if end > self.read_sums()?.of_pages.len() as u64 {
            return Err(io::Error::other("redb wrote past the end of its file"));
        }
        for (page, bytes) in spans(first, data.len()) {
            let data = &data[bytes];
            self.storage().write(page_offset(page), data)?;
            let mut sums = self.write_sums()?;
            sums.unwritten.insert(page / GROUP_PAGES);
            for (sum, (bytes, page)) in
                sums.of_pages[page as usize..].iter_mut().zip(data.chunks(PAGE_LEN as usize).zip(page..))
            {
                *sum = page_sum(page, bytes);
            }
        }
        Ok(())
    }

    /// Writes the checksums that have changed.
    fn flush_sums(&self) -> io::Result<()> {
        let mut sums = self.write_sums()?;
        let Sums { of_pages, unwritten, .. } = &mut *sums;
        for group in unwritten.iter() {
            let first = (group * GROUP_PAGES) as usize;
            let of_group = of_pages.iter().skip(first).take(GROUP_PAGES as usize);
            let mut bytes: Vec<u8> = of_group.flat_map(|sum| sum.to_le_bytes()).collect();
            bytes.resize(PAGE_LEN as usize, 0);
            self.storage().write(sums_offset(*group), &bytes)?;
        }
        unwritten.clear();
        Ok(())
    }
}

/// Splits pages where a page of checksums lies between them: the first page of each part, and its bytes.
fn spans(first: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let page = first + at as u64 / PAGE_LEN;
        let in_group = (GROUP_PAGES - page % GROUP_PAGES) * PAGE_LEN;
        let span = at..len.min(at + in_group as usize);
        at = span.end;
        (!span.is_empty()).then_some((page, span))
    })
}

/// The first page of an access to whole pages.
fn first_page(offset: u64, len: usize) -> io::Result<u64> {
    if !offset.is_multiple_of(PAGE_LEN) || !(len as u64).is_multiple_of(PAGE_LEN) {
        return Err(io::Error::other("redb used a part of a page"));
    }
    Ok(offset / PAGE_LEN)
}

impl StorageBackend for Pages {
    fn len(&self) -> io::Result<u64> {
        Ok(self.read_sums()?.of_pages.len() as u64 * PAGE_LEN)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset == 0 && out.len() <= STATE_LEN {
            out.copy_from_slice(&self.read_sums()?.state[..out.len()]);
            return Ok(());
        }
        self.read_pages(first_page(offset, out.len())?, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let pages = first_page(len, 0)?;
        self.writing(|| {
            let mut sums = self.write_sums()?;
            self.storage().set_len(file_len(pages))?;
            let former = sums.of_pages.len() as u64;
            sums.of_pages.resize(pages as usize, 0);
            // Checksums of pages that are cut off must not come back with later pages of the same number.
            sums.unwritten.retain(|group| group * GROUP_PAGES < pages);
            if pages < former && !pages.is_multiple_of(GROUP_PAGES) {
                sums.unwritten.insert(pages / GROUP_PAGES);
            }
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writing(|| {
            self.flush_sums()?;
            self.storage().sync_data()
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset == 0 {
            let state = data.try_into().map_err(|_| io::Error::other("redb wrote another header"))?;
            self.writing(|| self.storage().write(STATE_SECTOR_OFFSET, &encode_state(&state)))?;
            self.write_sums()?.state = state;
            return Ok(());
        }
        let first = first_page(offset, data.len())?;
        self.writing(|| self.write_pages(first, data))
    }

    fn close(&self) -> io::Result<()> {
        // The successor's locks are on the same file.
        if self.is_retired() { Ok(()) } else { self.storage().close() }
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage().try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage().try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage().lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage().lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        if self.is_retired() { Ok(()) } else { self.storage().unlock_range(start, end) }
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage().query_lock_range(start, end)
    }
}

/// The file as it is now, to be read beside its owner: what is written to it stays in memory.
///
/// Good for as long as its owner holds a read transaction of the same state, which keeps redb from using the pages
/// anew, and opened while the owner does not write.
#[derive(Debug)]
pub(super) struct FrozenPages {
    pages: Pages,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    state: [u8; STATE_LEN],
    len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl FrozenPages {
    pub(super) fn new(pages: Pages) -> io::Result<Self> {
        let (state, len) = (pages.read_sums()?.state, StorageBackend::len(&pages)?);
        let written = Mutex::new(Written { state, len, pages: BTreeMap::new() });
        Ok(Self { pages, written })
    }

    /// redb's header as it was.
    pub(super) fn state(&self) -> [u8; STATE_LEN] {
        self.written().state
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for FrozenPages {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset == 0 && out.len() <= STATE_LEN {
            out.copy_from_slice(&written.state[..out.len()]);
            return Ok(());
        }
        let first = first_page(offset, out.len())?;
        let end = first + out.len() as u64 / PAGE_LEN;
        if written.pages.range(first..end).next().is_none() {
            // Many threads read at the same time, and what they read is hardly ever written.
            drop(written);
            return self.pages.read_pages(first, out);
        }
        for (page, out) in (first..).zip(out.chunks_mut(PAGE_LEN as usize)) {
            match written.pages.get(&page) {
                Some(bytes) => out.copy_from_slice(bytes),
                None => self.pages.read_pages(page, out)?,
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.written().len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        if offset == 0 {
            written.state = data.try_into().map_err(|_| io::Error::other("redb wrote another header"))?;
            return Ok(());
        }
        let first = first_page(offset, data.len())?;
        for (page, bytes) in (first..).zip(data.chunks(PAGE_LEN as usize)) {
            written.pages.insert(page, bytes.to_vec());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    const PAGE: usize = PAGE_LEN as usize;

    /// A storage that outlives the file on it.
    #[derive(Clone, Debug)]
    struct Disk(Arc<InMemoryBackend>);

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
    }

    fn disk() -> Disk {
        Disk(Arc::new(InMemoryBackend::new()))
    }

    #[test]
    fn pages_across_groups_come_back_after_a_reopen() {
        let disk = disk();
        let pages = Pages::new(disk.clone());
        pages.set_len(2050 * PAGE_LEN).expect("room");
        let data: Vec<u8> = (0..1030 * PAGE).map(|n| (n / 7) as u8).collect();
        pages.write(1000 * PAGE_LEN, &data).expect("a write");
        pages.write(0, &[7; STATE_LEN]).expect("a header");
        pages.sync_data().expect("a sync");
        let reopened = Pages::new(disk);
        assert_eq!(reopened.len().expect("a length"), 2050 * PAGE_LEN);
        let mut out = vec![0; data.len()];
        reopened.read(1000 * PAGE_LEN, &mut out).expect("a read");
        assert_eq!(out, data);
        let mut state = [0; STATE_LEN];
        reopened.read(0, &mut state).expect("a header");
        assert_eq!(state, [7; STATE_LEN]);
    }

    #[test]
    fn a_page_that_was_never_written_or_was_cut_off_is_not_read() {
        let disk = disk();
        let pages = Pages::new(disk.clone());
        pages.set_len(30 * PAGE_LEN).expect("room");
        let mut out = vec![0; PAGE];
        pages.read(5 * PAGE_LEN, &mut out).expect_err("it was never written");
        pages.write(20 * PAGE_LEN, &[1; PAGE]).expect("a write");
        pages.write(0, &[7; STATE_LEN]).expect("a header");
        pages.sync_data().expect("a sync");
        pages.set_len(10 * PAGE_LEN).expect("less room");
        pages.set_len(30 * PAGE_LEN).expect("room");
        pages.sync_data().expect("a sync");
        pages.read(20 * PAGE_LEN, &mut out).expect_err("it was cut off");
        Pages::new(disk).read(20 * PAGE_LEN, &mut out).expect_err("it was cut off");
    }

    #[test]
    fn a_page_in_the_place_of_another_is_damage_at_its_offset() {
        let disk = disk();
        let pages = Pages::new(disk.clone());
        pages.set_len(10 * PAGE_LEN).expect("room");
        pages.write(3 * PAGE_LEN, &[3; 2 * PAGE]).expect("a write");
        disk.write(page_offset(4), &[4; PAGE]).expect("a write");
        let mut out = vec![0; 2 * PAGE];
        let error = pages.read(3 * PAGE_LEN, &mut out).expect_err("it is damaged");
        let found = error.get_ref().and_then(|error| error.downcast_ref::<PageDamage>()).expect("damage");
        assert_eq!(found.offset, page_offset(4));
    }

    #[test]
    fn what_is_written_to_frozen_pages_stays_in_memory() {
        let pages = Pages::new(disk());
        pages.set_len(10 * PAGE_LEN).expect("room");
        pages.write(3 * PAGE_LEN, &[3; 2 * PAGE]).expect("a write");
        let frozen = FrozenPages::new(pages.clone()).expect("frozen pages");
        frozen.write(4 * PAGE_LEN, &[9; PAGE]).expect("a write");
        let mut out = vec![0; 2 * PAGE];
        frozen.read(3 * PAGE_LEN, &mut out).expect("a read");
        assert_eq!((out[0], out[PAGE]), (3, 9));
        pages.read(3 * PAGE_LEN, &mut out).expect("a read");
        assert_eq!((out[0], out[PAGE]), (3, 3));
    }
}
